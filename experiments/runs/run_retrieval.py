"""Runs image-text retrieval: the similarities of each method, and their recall."""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float

from experiments.cli.command import Job
from experiments.retrieve import CAPTIONS, DUAL_ENCODER, LIKELIHOOD, METHODS, RERANKED, RetrieveConfig, check_config
from experiments.runs.run_captioning import checkpoint_of
from experiments.schema import JSON, as_recorded
from experiments.setup.build import load_model
from experiments.setup.retrieval_data import RetrievalData, read_data
from flamingo.data.caption_template import CaptionTemplate
from flamingo.data.data_checksums import data_checksums
from flamingo.data.document import Document
from flamingo.evaluation.caption_likelihoods import CaptionLikelihoods
from flamingo.evaluation.caption_search import caption_similarities, check_scikit_learn
from flamingo.evaluation.recall import RecallRow, recall_rows, shortlist
from flamingo.inference.caption_files import append_captions, read_captions, write_rows
from flamingo.inference.captioner import caption_prompt
from flamingo.inference.dual_encoder import DualEncoder
from flamingo.inference.flamingo_engine import FlamingoEngine
from flamingo.report.score_text import interval_text, score_text
from flamingo.utils.devices import processes, use_device
from flamingo.utils.io import write_text
from flamingo.utils.memory import keep_memory, out_of_memory
from flamingo.utils.progress import progress_bar
from flamingo.utils.run_folder import RunFiles, model_contents, run_folder
from flamingo.utils.sharing import batched, in_rounds, on_main_process, shared_each

log = logging.getLogger(__name__)

_RESULTS = ("retrieval.json", "captions.jsonl", "likelihoods.npy")
_FILES = RunFiles(
    results=_RESULTS,
    saved=_RESULTS,
    # Nothing of the encoder is kept.
    may_change=("methods", "encoder", "contents.encoder", "rerank", "batch_size"),
    config_file="retrieve.yaml",
)

#: Similarities of images and texts: those that rank texts for an image, and those that rank images for a text.
BothWays = tuple[Float[np.ndarray, "images texts"], Float[np.ndarray, "images texts"]]


def run_retrieval(config: RetrieveConfig) -> Path:
    """Compares images and captions by each method.

    Returns:
        The path of ``retrieval.json``.

    Raises:
        UserError: For everything that a user can fix.
    """
    check_config(config)
    if CAPTIONS in config.methods or RERANKED in config.methods:
        check_scikit_learn()
    use_device(config.device)
    output = Path(config.output)
    file = output / "retrieval.json"
    with run_folder(output, as_recorded(config), _FILES) as run:
        data = read_data(config)
        contents: JSON = {}
        if config.pairs is not None:  # synthetic scenes are always the same
            contents["pairs"] = data_checksums(data.records)
            contents["demonstrations"] = data_checksums(data.demonstrations)
        if config.checkpoint is not None:
            contents["checkpoint"] = model_contents(checkpoint_of(config.checkpoint))
        if config.encoder is not None:
            contents["encoder"] = model_contents(config.encoder)
        run.begin(contents)
        comparison = Comparison(config, data, output, run.keep)
        rows: list[RecallRow] = []
        for method in sorted(set(config.methods), key=METHODS.index):
            with out_of_memory("batch_size"):
                image_to_text, text_to_image = comparison.similarities(method)
            rows += recall_rows(method, image_to_text, text_to_image, data.gallery)
        on_main_process(lambda: write_text(file, json.dumps(rows, indent=1) + "\n"))
        run.keep()
    if processes().is_main_process:
        log.info("%s\n%s", file, _table(rows))
    return file


class Comparison:
    """Compares images and captions. Generated captions and log-likelihoods are kept in the folder."""

    def __init__(
        self, config: RetrieveConfig, data: RetrievalData, output: Path, on_save: Callable[[], object]
    ) -> None:
        self.config, self.data, self.output, self.on_save = config, data, output, on_save
        if config.checkpoint is not None:
            model, processor = load_model(Path(checkpoint_of(config.checkpoint)), config.dtype)
            self.engine = FlamingoEngine(model, processor, config.batch_size)
            self.template = processor.template if config.template is None else CaptionTemplate(config.template)

    def similarities(self, method: str) -> BothWays:
        """Returns the similarities by one of :data:`experiments.retrieve.METHODS`."""
        if method == DUAL_ENCODER:
            cosines = self._by_dual_encoder()
            return cosines, cosines
        if method == CAPTIONS:
            cosines = self._by_captions()
            return cosines, cosines
        if method == LIKELIHOOD:
            gallery = self.data.gallery
            likelihoods = self._likelihoods().score(np.ones_like(gallery.right), self.on_save)
            return likelihoods, likelihoods
        assert method == RERANKED, method
        cosines = self._by_captions()
        for_images = shortlist(cosines, self.config.rerank)
        for_texts = shortlist(cosines.T, self.config.rerank).T
        likelihoods = self._likelihoods().score(for_images | for_texts, self.on_save)
        return np.where(for_images, likelihoods, -np.inf), np.where(for_texts, likelihoods, -np.inf)

    def _by_dual_encoder(self) -> Float[np.ndarray, "images texts"]:
        assert self.config.encoder is not None
        encoder = DualEncoder(self.config.encoder)
        images = [record.image for record in self.data.records]
        image_vectors = torch.cat(shared_each(encoder.image_vectors, batched(images, encoder.batch_size)))
        text_vectors = encoder.text_vectors(self.data.gallery.texts)
        return (image_vectors @ text_vectors.T).numpy()

    def _by_captions(self) -> Float[np.ndarray, "images texts"]:
        training: list[str] = []
        for record in self.data.training:
            training += record.captions
        return caption_similarities(self._captions(), self.data.gallery.texts, training, self.config.language)

    def _captions(self) -> list[str]:
        """Returns the generated caption of each image. Captions that the folder does not have are generated."""
        file = self.output / "captions.jsonl"

        def begin() -> dict[str, str]:
            captions = read_captions(file)
            write_rows(file, captions)  # without a last row that a kill has cut off
            return captions

        def captions_of(batch: Sequence[Document]) -> dict[str, str]:
            captions = self.engine.generate(batch, self.config.max_new_tokens, self.config.num_beams)
            return {prompt.id: caption for prompt, caption in zip(batch, captions, strict=True)}

        def save(captions: Mapping[str, str]) -> None:
            append_captions(file, captions)
            self.on_save()

        done = on_main_process(begin)
        prompts = [prompt for prompt in self._prompts() if prompt.id not in done]
        batches = batched(prompts, self.config.batch_size)
        with progress_bar(len(prompts), " images", visible=processes().is_main_process) as bar:
            for of_round in in_rounds(captions_of, batches):
                for batch, captions in of_round:
                    on_main_process(partial(save, captions))
                    done |= captions
                    bar.update(len(batch))
        return [done[record.id] for record in self.data.records]

    def _likelihoods(self) -> CaptionLikelihoods:
        answers = [self.template.answer(text) for text in self.data.gallery.texts]
        return CaptionLikelihoods(
            self.output / "likelihoods.npy", self.engine, self._prompts(), answers, self.config.batch_size
        )

    def _prompts(self) -> list[Document]:
        """Returns the prompt of each image. All have the same demonstrations."""
        demonstrations = [(record.image, record.captions[0]) for record in self.data.demonstrations]
        prompts = []
        for record in self.data.records:
            prompts.append(caption_prompt(record.image, demonstrations, self.template, record.id))
        return prompts


def _table(rows: list[RecallRow]) -> str:
    lines = []
    for row in rows:
        interval = interval_text(row["ci95"])
        name = f"{row['method']}, {row['direction']}, recall@{row['k']}"
        lines.append(f"{name:44} {score_text(row['recall'])}  {interval}")
    return "\n".join(lines)


def run_job(job: Job[RetrieveConfig]) -> None:
    """Runs the command."""
    keep_memory()
    run_retrieval(job.load())
