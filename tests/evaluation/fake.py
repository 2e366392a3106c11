"""A small task with drawn images."""

from pathlib import Path
from typing import Any

import torch
from PIL import Image as PILImage

from flamingo import FlamingoProcessor, Image
from flamingo.evaluation.protocol import Example
from flamingo.evaluation.settings import Setting
from flamingo.inference.candidate_scores import CandidateScores
from tests import tiny

THINGS = ("dog", "cat", "ball", "mat", "red ball", "grass", "two dogs", "colour")


def example(kind: str, number: int, references: int = 2) -> Example:
    picture = PILImage.new("RGB", (20 + 3 * number, 24), (31 * number % 256, 90 * len(kind) % 256, 255 - 17 * number))
    texts = (f"a {THINGS[number % len(THINGS)]} of {kind} {number}", f"the {THINGS[number % len(THINGS)]}")
    return Example(f"{kind}/{number}", Image(picture), texts[:references])


class FakeTask:
    """Six queries, each with the same support of twelve, in one group or in several."""

    name = "fake/captions"
    max_new_tokens = 4
    text_only = True
    measures_copying = True

    def __init__(self, groups: int = 1, corpus_metrics: tuple[str, ...] = ("CIDEr", "BLEU-1"), queries: int = 6):
        self.corpus_metrics = corpus_metrics
        self.language = "en"
        self._queries = [example("query", i) for i in range(queries)]
        support = [example("support", i) for i in range(12)]
        self._support = [support[i::groups] for i in range(groups)]

    @classmethod
    def from_config(cls, config, open_images=True):
        return cls(queries=config.num_queries)

    def queries(self):
        return self._queries

    def support(self, query):
        return self._support

    def score(self, query, prompt_examples, output):
        scores = {"length": float(len(output)), "shown": float(len(prompt_examples))}
        if output.isascii():  # a metric that does not apply everywhere
            scores["vowels"] = float(sum(map(output.count, "aeiou")))
        return scores


class OtherSupportsFakeTask(FakeTask):
    """Demonstrations can also come from "far", where there are three."""

    def __init__(self) -> None:
        super().__init__()
        far = FakeTask()
        far.name = f"{self.name} with support far"
        far._support = [[example("far", i) for i in range(3)]]
        self.other_supports = {"far": far}


class TextEngine:
    """Answers "x" without a model, finds earlier candidates likelier, and measures no attention."""

    def generate(self, prompts, *args, **kwargs):
        return ["x"] * len(prompts)

    def score(self, prompts, candidates, *args, **kwargs):
        scores = []
        for texts in candidates:
            sums = tuple(-float(number) for number in range(len(texts)))
            scores.append(CandidateScores(tuple(texts), (1,) * len(texts), sums, (0.0,) * len(texts)))
        return scores


#: One of each kind.
SETTINGS = [
    Setting(0, None),
    Setting(0, "text_only"),
    Setting(3, "random"),
    Setting(3, "random", num_beams=2),
    Setting(3, "random", control="blind"),
    Setting(3, "random", control="shuffled_images"),
    Setting(3, "random", control="shuffled_captions"),
    Setting(3, "random", control="copied_caption"),
]


def model_and_processor(backbones: Path, language: str = "gpt2", **config: Any):
    """Returns a model of these parts on a family of language models, and its processor."""
    torch.manual_seed(0)
    # All families have the same tokenizer, but AutoTokenizer adds tokens to that of Qwen2.
    processor = FlamingoProcessor.from_vision_text_pretrained(backbones / "clip_vision_model", backbones / "gpt2")
    model = tiny.flamingo(backbones, language=language, **config)
    processor.tokens_per_image = model.tokens_per_image(tiny.IMAGE_SIZE, tiny.IMAGE_SIZE)
    return model, processor
