r"""Measures the likelihoods of class names after a few-shot prompt: as a trie, and one name at a time.

python -m experiments.benchmark.candidate_ranking --language FOLDER                       1,000 names, 4 shots
python -m experiments.benchmark.candidate_ranking --language FOLDER --names 20 --timed_names 3 --rounds 1    a test

FOLDER has a language model and its tokenizer, such as SmolLM2-135M. Every way gets the visual tokens, and computes
logits only where a name is scored. Ours also tokenizes the names. OUTPUT/candidate_ranking.json has the results.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image as PILImage
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import CLIPVisionConfig, CLIPVisionModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from experiments.benchmark.class_names import class_names
from experiments.benchmark.ratios import Ratio, make_ratio
from flamingo import FlamingoForConditionalGeneration, FlamingoProcessor
from flamingo.data.document import Document, Image
from flamingo.inference.candidates import CandidateTries
from flamingo.inference.captioner import caption_prompt
from flamingo.inference.flamingo_engine import FlamingoEngine
from flamingo.interop import openflamingo
from flamingo.model.cache import PromptCache
from flamingo.model.masks import positions
from flamingo.utils.io import write_text

#: The number of padded names that run at once in the fastest of the other ways.
_ROWS = 64
#: The largest difference of two log-likelihoods that rounding explains, in nats.
_TOLERANCE = 1e-2

#: The tokens of names -> their log-likelihoods.
Way = Callable[[Sequence[list[int]]], list[float]]


def main() -> None:
    """Measures all ways in turn, and prints the ratios of their times."""
    arguments = _arguments()
    torch.set_num_threads(arguments.threads)
    model, processor = _model(arguments.language, arguments.every)
    names = class_names(arguments.names)
    prompt = _prompt(processor, names, arguments.shots)
    candidates = [f" {name}" for name in names]
    engine = FlamingoEngine(model, processor, batch_size=1)
    engine.visual_tokens.get([chunk.image for chunk in prompt.chunks() if chunk.image is not None])
    trie = CandidateTries(processor, end=False).of(prompt, candidates)
    tokens = []
    for end in trie.ends:
        tokens.append([trie.tokens[node] for node in trie.path(end)])
    passes = Passes(model, processor, engine, prompt)
    mean_length = sum(map(len, tokens)) / len(tokens)
    print(f"{len(names)} names of {mean_length:.1f} tokens on average, of which {len(trie.inner) - 1} run in the trie")
    print(f"a prompt of {passes.inputs['input_ids'].shape[1]} tokens")
    ways: dict[str, tuple[Way, int]] = {
        "whole passes, 1 name": (passes.whole, arguments.timed_names),
        "cached passes, 1 name": (partial(passes.cached, rows=1), arguments.timed_names),
        f"cached passes, {_ROWS} names": (partial(passes.cached, rows=_ROWS), len(names)),
    }
    rows = _measure(engine, prompt, candidates, tokens, ways, arguments.rounds)
    for row in rows:
        low, high = row.spread
        print(
            f"{row.peer}: {row.theirs:.3g} s a name, ours {row.ours:.3g} s: {row.ratio:.1f} ({low:.1f} to {high:.1f})"
        )
    values = [asdict(row) for row in rows]
    write_text(arguments.output / "candidate_ranking.json", json.dumps(values, indent=1) + "\n")


class Passes:
    """The other ways: each name in a pass with the whole prompt, or after the prompt's cache."""

    def __init__(
        self,
        model: FlamingoForConditionalGeneration,
        processor: FlamingoProcessor,
        engine: FlamingoEngine,
        prompt: Document,
    ) -> None:
        self.model = model
        example = processor.encode(prompt, prompt=True, pixels=False)
        images = [chunk.image for chunk in prompt.chunks() if chunk.image is not None]
        self.inputs = {
            "input_ids": example.input_ids.unsqueeze(0),
            "image_index": example.image_index.unsqueeze(0),
            "visual_tokens": engine.visual_tokens.get(images).unsqueeze(0),
        }

    @torch.no_grad()
    def whole(self, names: Sequence[list[int]]) -> list[float]:
        """Returns the log-likelihood of each name by a pass over the prompt and the name."""
        sums = []
        for name in names:
            fed = torch.tensor([name[:-1]], dtype=torch.long)
            ids = torch.cat([self.inputs["input_ids"], fed], dim=1)
            index = self.inputs["image_index"]
            index = torch.cat([index, index[:, -1:].expand_as(fed)], dim=1)
            logits = self.model(
                ids,
                image_index=index,
                visual_tokens=self.inputs["visual_tokens"],
                logits_to_keep=len(name),
                use_cache=False,
            ).logits
            sums += _sums(logits, [name])
        return sums

    @torch.no_grad()
    def cached(self, names: Sequence[list[int]], rows: int) -> list[float]:
        """Returns the log-likelihood of each name by passes over padded names, after one pass over the prompt."""
        ids, index = self.inputs["input_ids"], self.inputs["image_index"]
        context = self.model.visual_context(ids, index, {"visual_tokens": self.inputs["visual_tokens"]})
        mask = torch.ones_like(ids)
        cache = self.model.prefill(ids[:, :-1], mask[:, :-1], index[:, :-1], context.state)
        assert isinstance(cache, PromptCache)
        last = self.model.fusion.after_prompt(context)
        sums = []
        for start in range(0, len(names), rows):
            batch = names[start : start + rows]
            fed = [torch.cat([ids[0, -1:], torch.tensor(name[:-1], dtype=torch.long)]) for name in batch]
            fed_ids = pad_sequence(fed, batch_first=True)
            fed_mask = pad_sequence([torch.ones_like(one) for one in fed], batch_first=True)
            whole_mask = torch.cat([mask[:, :-1].expand(len(batch), -1), fed_mask], dim=1)
            logits = self.model(
                fed_ids,
                whole_mask,
                last.image_index[:, -1:].expand_as(fed_ids),
                visual_state=last.state,
                position_ids=positions(whole_mask)[:, -fed_ids.shape[1] :],
                past_key_values=cache.expand(len(batch)),
                use_cache=True,
            ).logits
            sums += _sums(logits, batch)
        return sums


def _sums(logits: Tensor, names: Sequence[list[int]]) -> list[float]:
    log_probs = logits.float().log_softmax(dim=-1)
    sums = []
    for row, name in enumerate(names):
        sums.append(float(log_probs[row, range(len(name)), name].sum()))
    return sums


def _measure(
    engine: FlamingoEngine,
    prompt: Document,
    candidates: list[str],
    tokens: list[list[int]],
    ways: dict[str, tuple[Way, int]],
    rounds: int,
) -> list[Ratio]:
    """Returns the ratio of each way's seconds a name to ours.

    Args:
        engine: Our engine.
        prompt: The prompt.
        candidates: The names as texts after the prompt.
        tokens: Their tokens.
        ways: The other ways by their titles, and the number of names that each scores in a round.
        rounds: The number of rounds, in which all ways run in turn.

    Raises:
        AssertionError: If a log-likelihood differs from ours.
    """
    ours: list[float] = []
    theirs: dict[str, list[float]] = {title: [] for title in ways}
    engine.score([prompt], [candidates[:2]], prior=False)
    for _ in range(rounds):
        start = time.perf_counter()
        [scores] = engine.score([prompt], [candidates], prior=False)
        ours.append((time.perf_counter() - start) / len(candidates))
        for title, (way, number) in ways.items():
            way(tokens[:2])
            start = time.perf_counter()
            sums = way(tokens[:number])
            theirs[title].append((time.perf_counter() - start) / len(sums))
            difference = float(np.abs(np.subtract(sums, scores.sums[: len(sums)])).max())
            print(f"{title}: log-likelihoods differ from ours by at most {difference:.1e}", flush=True)
            assert difference < _TOLERANCE
    return [make_ratio("candidate_ranking", "s a name", title, ours, theirs[title], "s") for title in ways]


def _model(language: Path, every: int) -> tuple[FlamingoForConditionalGeneration, FlamingoProcessor]:
    """Returns a model with random gated blocks of OpenFlamingo's sizes, and an encoder that does not matter."""
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        CLIPVisionModel(CLIPVisionConfig(num_hidden_layers=1)).save_pretrained(folder)
        CLIPImageProcessorPil().save_pretrained(folder)
        processor = FlamingoProcessor.from_vision_text_pretrained(folder, language)
        model: Any = FlamingoForConditionalGeneration.from_vision_text_pretrained(
            folder,
            language,
            new_token_ids=processor.new_token_ids,
            connector=openflamingo.PERCEIVER,
            fusion=openflamingo.CROSS_ATTENTION | {"every": every, "offset": every - 1},
            check=False,
            dtype=torch.float32,
        )
    for name, parameter in model.named_parameters():
        if name.endswith("_gate"):
            parameter.data.fill_(0.1)
    return model.eval(), processor


def _prompt(processor: FlamingoProcessor, names: list[str], shots: int) -> Document:
    pictures = []
    for number in range(shots + 1):
        noise = np.random.default_rng(number).integers(0, 256, (12, 16, 3), dtype=np.uint8)
        pictures.append(Image(PILImage.fromarray(noise).resize((500, 375))))
    demonstrations = list(zip(pictures, names, strict=False))[:shots]
    return caption_prompt(pictures[-1], demonstrations, processor.template)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--language", type=Path, required=True, help="the folder of the language model")
    parser.add_argument("--names", type=int, default=1000, help="the candidates, 1,000 at most")
    parser.add_argument("--timed_names", type=int, default=100, help="those that run one at a time in a round")
    parser.add_argument("--shots", type=int, default=4, help="the demonstrations of the prompt")
    parser.add_argument("--every", type=int, default=1, help="a gated block precedes every EVERY-th layer")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each way, in turn")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--output", type=Path, default=Path("outputs/benchmark"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
