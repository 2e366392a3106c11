"""Pretrains a tokenizer and a causal language model, and saves and scores both."""

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path

import torch
from tqdm import tqdm
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from experiments.cli.command import Job
from experiments.pretrain_language import PretrainLanguageConfig
from flamingo.data.loader import process_loader
from flamingo.data.order import Shuffled
from flamingo.data.pretraining.texts import TextDocuments, TextItem, read_texts
from flamingo.data.pretraining.token_blocks import TokenBlocks, collate_blocks, encode_texts
from flamingo.data.pretraining.tokenizer import train_tokenizer
from flamingo.data.records.record import by_reason
from flamingo.model import Fields
from flamingo.model.architecture import build_architecture, check_architecture
from flamingo.report.model_card import BACKBONE_FILES, CardTexts, save_backbone
from flamingo.synthetic.documents import SyntheticTexts
from flamingo.synthetic.language_scores import in_context_scores
from flamingo.training.callbacks import Callbacks
from flamingo.training.loop import train
from flamingo.training.step import DataSet
from flamingo.utils.checksums import digest_of
from flamingo.utils.devices import use_device
from flamingo.utils.io import write_text
from flamingo.utils.memory import out_of_memory
from flamingo.utils.run_folder import Run, failure_recorded, run_folder

log = logging.getLogger(__name__)

#: The tokenizer is trained on the first texts. More texts hardly change it and take longer.
_TOKENIZER_TEXTS = 50_000


def pretrain(config: PretrainLanguageConfig, output: Path) -> None:
    """Writes the model and its tokenizer to ``output / "model"``, and its scores to ``scores.json``."""
    use_device(config.device)
    with run_folder(output, asdict(config), BACKBONE_FILES) as run, failure_recorded(run):
        shape: Fields = {"vocab_size": config.vocab_size, "max_position_embeddings": config.seq_len}
        check_architecture(AutoModelForCausalLM, shape | config.model)
        if config.texts is None:
            texts: Sequence[str] | TextDocuments = _synthetic_texts(config)
            run.begin({})
        else:
            items, skipped = _read_all(config.texts)
            texts = TextDocuments(items, config.epochs, config.training.seed)
            run.begin({"texts": digest_of(map(json.dumps, items))})
            write_text(output / "skipped.json", json.dumps(skipped, indent=1) + "\n")
        _train(config, texts, run)


def _synthetic_texts(config: PretrainLanguageConfig) -> list[str]:
    assert config.documents is not None
    documents = SyntheticTexts(config.training.seed)
    return [documents[i] for i in tqdm(range(config.documents), desc="documents", unit="document")]


def _read_all(names: Sequence[str]) -> tuple[list[TextItem], dict[str, str]]:
    """Returns the items of all files and sources, and reasons for items that are left out."""
    items: list[TextItem] = []
    skipped: dict[str, str] = {}
    for name in names:
        items_of_file, skipped_of_file = read_texts(name)
        items += items_of_file
        for location, reason in skipped_of_file.items():
            skipped[f"{name}: {location}"] = reason
    if skipped:
        log.warning("left out %d texts: %s", len(skipped), by_reason(skipped))
    return items, skipped


def _train(config: PretrainLanguageConfig, texts: Sequence[str] | TextDocuments, run: Run) -> None:
    tokenizer = train_tokenizer(islice(texts, _TOKENIZER_TEXTS), config.vocab_size, config.seq_len)
    blocks = TokenBlocks(encode_texts(texts, tokenizer), tokenizer.eos_token_id, config.seq_len)
    log.info("%d documents, %d tokens of %d kinds", len(texts), len(blocks.tokens), len(tokenizer))
    torch.manual_seed(config.training.seed)
    model = build_architecture(AutoModelForCausalLM, _model_fields(config, tokenizer))
    log.info("%s, %.2f million parameters", type(model).__name__, model.num_parameters() / 1e6)
    batches = Shuffled(blocks, config.training.seed)
    data = DataSet("text", process_loader(batches, collate_blocks, config.batch_size))
    with out_of_memory("batch_size"):
        train(model, [data], config.optimizer, config.training, run.output, Callbacks(on_save=run.keep))
    scores = in_context_scores(model, tokenizer, config.scored_documents) if config.texts is None else None
    text_names = ", ".join(config.texts) if config.texts else "the synthetic benchmark"
    card = CardTexts(
        title=f"Language model, {type(model).__name__}, pretrained on text of {text_names}",
        command="pretrain_language",
        unit="token",
        scores="on text documents of held-out dialects and names",
    )
    save_backbone(run.output, asdict(config), model, tokenizer, card, scores)


def _model_fields(config: PretrainLanguageConfig, tokenizer: PreTrainedTokenizerFast) -> Fields:
    fields: Fields = {
        "vocab_size": len(tokenizer),
        "max_position_embeddings": config.seq_len,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": None,
    }
    return fields | config.model


def run_job(job: Job[PretrainLanguageConfig]) -> None:
    """Runs the command."""
    pretrain(job.load(), job.output)
