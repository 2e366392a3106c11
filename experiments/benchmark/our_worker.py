"""Our implementation as a worker of the benchmark."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from experiments.benchmark.materials import Prompt, image_path
from experiments.benchmark.worker import Machine, run, seconds_per_token, train
from flamingo import FlamingoForConditionalGeneration, FlamingoProcessor
from flamingo.data.document import Document, Image, Text
from flamingo.inference.flamingo_engine import FlamingoEngine
from flamingo.model.beam_search import decode
from flamingo.training.optim import AdamWConfig
from flamingo.training.optim.groups import make_optimizer
from flamingo.utils.memory import keep_memory


class Ours:
    """Our implementation. It also answers the requests that prepare and score the outputs of peers."""

    def __init__(self, folder: Path, machine: Machine) -> None:
        self.folder = folder
        self.machine = machine
        self.model = FlamingoForConditionalGeneration.from_pretrained(folder / "flamingo")
        self.model.eval().to(machine.device)
        self.processor = FlamingoProcessor.from_pretrained(folder / "flamingo")
        self.optimizer: Any = None

    def _document(self, prompt: Prompt) -> Document:
        parts: list[Image | Text] = []
        for number, text in prompt.demonstrations:
            parts.append(Image(image_path(self.folder, number)))
            parts.append(Text(text))
        parts.append(Image(image_path(self.folder, prompt.query)))
        parts.append(Text("w4 w5"))
        return Document(parts)

    def few_shot(
        self,
        prompts: list[dict[str, Any]],
        batch: int,
        beams: int,
        new: int,
    ) -> list[str]:
        """Returns the outputs of all prompts, from image files, with a new engine."""
        keep_memory()
        self.model.to(self.machine.dtype)
        documents = [self._document(Prompt(**prompt)) for prompt in prompts]
        engine = FlamingoEngine(self.model, self.processor, batch)
        return engine.generate(documents, max_new_tokens=new, num_beams=beams)

    def tensors(self, prompt: dict[str, Any], path: str) -> None:
        """Saves the preprocessed prompt for a peer."""
        document = self._document(Prompt(**prompt))
        batch = self.processor.batch([document], prompt=True)
        torch.save(dict(batch), path)

    def text(self, ids: list[int]) -> str:
        """Returns the text of a peer's output, in the form of :meth:`few_shot`."""
        end = self.processor.end_of_chunk_token_id
        return decode(self.processor.tokenizer, ids, end)

    @torch.no_grad()
    def score(self, path: str, text: str) -> float:
        """Returns the log-probability of an output."""
        inputs = self.machine.load(path)
        encoding = self.processor.tokenizer(text, return_tensors="pt", add_special_tokens=False)
        ids = encoding.input_ids.to(self.machine.device)
        length = inputs["input_ids"].shape[1]
        last_image = inputs["image_index"][:, -1:].expand(-1, ids.shape[1])
        image_index = torch.cat([inputs["image_index"], last_image], dim=1)
        input_ids = torch.cat([inputs["input_ids"], ids], dim=1)
        outputs = self.model(
            input_ids=input_ids,
            image_index=image_index,
            pixel_values=inputs["pixel_values"],
        )
        log_probs = outputs.logits[:, length - 1 : -1].log_softmax(dim=-1)
        log_probs_of_tokens = log_probs.gather(-1, ids[:, :, None])
        return float(log_probs_of_tokens.sum())

    def image_token(self) -> int:
        """Returns the id of the image marker."""
        return self.processor.new_token_ids[1]

    def decode(self, path: str, tokens: int) -> float:
        """Returns seconds per token of greedy decoding after the first prompt of a batch."""
        batch = self.machine.load(path)
        self.model.to(self.machine.dtype)
        names = ("input_ids", "attention_mask", "image_index", "pixel_values")
        inputs = {name: batch[name][:1] for name in names}
        return seconds_per_token(self.model.eval(), inputs, tokens)

    def train_step(self, path: str, steps: int, features: bool = False) -> list[float]:
        """Returns seconds of each step, from pixels or from features of the frozen encoder."""
        inputs = self.machine.load(path)
        inputs.pop("pixel_values" if features else "image_features")
        self.model.train()
        self.model.vision_model.to(self.machine.dtype)
        self.model.language_model.to(self.machine.dtype)
        if self.optimizer is None:
            self.optimizer = make_optimizer(self.model, AdamWConfig(lr=1e-6))

        def loss() -> Tensor:
            return self.model(**inputs).loss

        return train(self.model, loss, self.optimizer, steps, self.machine)


if __name__ == "__main__":
    run(
        Ours,
        "few_shot",
        "tensors",
        "text",
        "score",
        "image_token",
        "decode",
        "train_step",
    )
