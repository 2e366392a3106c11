"""This project, as a worker of the benchmark."""

from pathlib import Path
from typing import Any

import torch

from experiments.benchmark.materials import picture
from experiments.benchmark.worker import Machine, run, seconds_per_token, train
from flamingo.data.document import Document, Image, Text
from flamingo.data.processor import FlamingoProcessor
from flamingo.inference.flamingo_engine import FlamingoEngine
from flamingo.model.beam_search import decode
from flamingo.model.modeling import FlamingoForConditionalGeneration
from flamingo.training.optim import AdamWConfig
from flamingo.training.optim.groups import make_optimizer
from flamingo.utils.processes import keep_memory


class Ours:
    """What the benchmark asks of each implementation, and what only one needs to do for all of them."""

    def __init__(self, folder: Path, machine: Machine) -> None:
        self.folder, self.machine = folder, machine
        self.model = FlamingoForConditionalGeneration.from_pretrained(folder / "flamingo").eval().to(machine.device)
        self.processor = FlamingoProcessor.from_pretrained(folder / "flamingo")
        self.optimizer: Any = None

    def _document(self, prompt: dict[str, Any]) -> Document:
        parts: list[Image | Text] = []
        for number, text in prompt["demonstrations"]:
            parts += [Image(picture(self.folder, number)), Text(text)]
        return Document([*parts, Image(picture(self.folder, prompt["query"])), Text("w4 w5")])

    def few_shot(self, prompts: list[dict[str, Any]], batch: int, beams: int, new: int) -> list[str]:
        """Texts, from files of pictures, as the command for evaluation does it; nothing is known from the last time."""
        keep_memory()
        self.model.to(self.machine.dtype)
        return FlamingoEngine(self.model, self.processor, batch).generate(
            [self._document(p) for p in prompts], new, beams
        )

    def tensors(self, prompt: dict[str, Any], path: str) -> None:
        """The prompt as a peer takes it, preprocessed."""
        torch.save(dict(self.processor.batch([self._document(prompt)], prompt=True)), path)

    def text(self, ids: list[int]) -> str:
        """Of a peer's continuation what :meth:`few_shot` would return."""
        return decode(self.processor.tokenizer, ids, self.processor.end_of_chunk_token_id)

    @torch.no_grad()
    def score(self, path: str, text: str) -> float:
        """Log-probability of a continuation: two that differ by less than rounding are both right."""
        inputs = self.machine.load(path)
        ids = self.processor.tokenizer(text, return_tensors="pt", add_special_tokens=False).input_ids
        ids = ids.to(self.machine.device)
        length = inputs["input_ids"].shape[1]
        index = torch.cat([inputs["image_index"], inputs["image_index"][:, -1:].expand(-1, ids.shape[1])], dim=1)
        ids = torch.cat([inputs["input_ids"], ids], dim=1)
        logits = self.model(ids, image_index=index, pixel_values=inputs["pixel_values"]).logits
        said = logits[:, length - 1 : -1].log_softmax(-1).gather(-1, ids[:, length:, None])
        return float(said.sum())

    def image_token(self) -> int:
        return self.processor.new_token_ids[1]

    def decode(self, path: str, tokens: int) -> float:
        """Seconds a token after the prompt of a batch, greedily."""
        inputs = self.machine.load(path)
        self.model.to(self.machine.dtype)
        kept = {name: inputs[name][:1] for name in ("input_ids", "attention_mask", "image_index", "pixel_values")}
        return seconds_per_token(self.model.eval(), kept, tokens)

    def train_step(self, path: str, steps: int, features: bool = False) -> list[float]:
        """Seconds of each step, from pixels or from the frozen encoder's features."""
        inputs = self.machine.load(path)
        inputs.pop("pixel_values" if features else "image_features")
        self.model.train()
        for frozen in (self.model.vision_model, self.model.language_model):
            frozen.to(self.machine.dtype)
        self.optimizer = self.optimizer or make_optimizer(self.model, AdamWConfig(lr=1e-6))
        return train(self.model, lambda: self.model(**inputs).loss, self.optimizer, steps, self.machine)


if __name__ == "__main__":
    run(Ours, "few_shot", "tensors", "text", "score", "image_token", "decode", "train_step")
