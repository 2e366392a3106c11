"""The trainings that every engine is compared on: a tiny model in float64, and the batches of all processes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image as PILImage
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from flamingo import Document, FlamingoForConditionalGeneration, FlamingoProcessor, Image, Text
from flamingo.data.collate import Batch, label_places
from flamingo.data.encode import EncodedDocuments, make_batch
from flamingo.data.loader import process_loader
from flamingo.model import TRAINED_PARTS
from flamingo.model.adapter_config import AdapterConfig
from flamingo.model.adapters import is_of_adapter
from flamingo.model.vision import encode_patches
from flamingo.training.losses import SelfCriticalConfig
from flamingo.training.losses.self_critical import SelfCritical
from flamingo.training.step import DataSet
from flamingo.utils.devices import processes
from tests import tiny
from tests.training.losses.test_self_critical import batch as captions_and_references
from tests.training.losses.test_self_critical import length
from tests.training.runs import batch

#: Batches of an update, which the processes deal among each other.
BATCHES_PER_UPDATE = 4
#: Updates with batches of their own; then they begin again.
UPDATES = 5
#: Documents of an update, if a loader cuts each batch to the processes.
DOCUMENTS_PER_UPDATE = 8


@dataclass
class Training:
    """A model, and the function that makes the data sets of a process."""

    model: nn.Module
    data_sets: Callable[[], list[DataSet]]
    #: Whether a process takes whole batches of an update, several if it has few companions, or a part of each batch.
    deals_batches: bool = True
    config: dict[str, Any] = field(default_factory=dict)

    def accumulate(self) -> int:
        """Returns the batches of this process in an update."""
        return BATCHES_PER_UPDATE // processes().num_processes if self.deals_batches else 1


class Dealt:
    """The batches of this process among those of all."""

    def __init__(self, batches: Sequence[Batch]) -> None:
        self.batches, self.position = batches, 0

    def __iter__(self):
        state = processes()
        while True:
            number = self.position + state.process_index
            self.position += state.num_processes
            yield self.batches[number % len(self.batches)]


def in_float64(model: nn.Module) -> nn.Module:
    return model.double().train()


def dealt(model: nn.Module, *sets: DataSet, **config: Any) -> Training:
    """Returns a training on data sets whose batches are :class:`Dealt`."""

    def data_sets() -> list[DataSet]:
        return [replace(one, batches=Dealt(one.batches.batches)) for one in sets]

    return Training(model, data_sets, config=config)


def documents(images: Callable[[int], int] = lambda number: 1, markers: int = 0) -> list[Batch]:
    """Returns batches of one to three documents; ``images``: number of a batch -> images of each document."""
    made = []
    for number in range(BATCHES_PER_UPDATE * UPDATES):
        numbers = [10 * number + document for document in range(1 + number % 3)]
        made.append(batch(numbers, images(number), markers if images(number) else 0))
    return made


def pairs(**arguments: Any) -> DataSet:
    return DataSet("pairs", Dealt(documents(**arguments)), weight=0.7)


def texts() -> DataSet:
    return DataSet("texts", Dealt(documents(lambda number: 0)), weight=0.2)


def untied(backbones: Path) -> Training:
    return dealt(in_float64(tiny.flamingo(backbones, "llama", gates=0.3)), pairs())


def tied(backbones: Path) -> Training:
    return dealt(in_float64(tiny.flamingo(backbones, "gpt2", gates=0.3)), pairs())


def odd_model(backbones: Path, **parts: Any) -> nn.Module:
    """Returns a model with tied embeddings and a vocabulary that neither two nor four processes divide."""
    settings = tiny.LANGUAGE_MODELS["qwen2"]
    config = AutoConfig.for_model("qwen2", vocab_size=tiny.VOCABULARY + 3, bos_token_id=0, eos_token_id=1, **settings)
    torch.manual_seed(0)
    language_model = AutoModelForCausalLM.from_config(config)
    for parameter in language_model.parameters():
        if parameter.ndim > 1:
            parameter.data.normal_(std=0.2)
    folder = backbones / "odd vocabulary"
    language_model.save_pretrained(folder)
    model = FlamingoForConditionalGeneration.from_vision_text_pretrained(
        str(backbones / "clip_vision_model"),
        str(folder),
        new_token_ids=[tiny.VOCABULARY + 3, tiny.VOCABULARY + 4],
        check=False,
        **tiny.PARTS,
        **parts,
    )
    tiny.open_gates(model, 0.3)
    return model


def odd_vocabulary(backbones: Path) -> Training:
    """With labels among the new tokens, so that their rows have gradients from both of their uses."""
    sets = pairs()
    for one in sets.batches.batches:
        ids = one.tensors["input_ids"]
        ids[:, 2], ids[:, 3] = tiny.VOCABULARY + 3, tiny.VOCABULARY + 4
        one.tensors["labels"][:, 2:4] = ids[:, 2:4]
    return dealt(in_float64(odd_model(backbones)), sets)


def trained_backbones(backbones: Path) -> Training:
    model = odd_model(backbones)
    model.train_parts(["vision_model", "language_model", "connector", "fusion", "new_tokens"])
    return dealt(in_float64(model), pairs())


def no_images(backbones: Path) -> Training:
    """The processes of odd numbers never have an image, and one data set has none at all."""
    model = tiny.flamingo(backbones, "llama", gates=0.3)
    return dealt(in_float64(model), pairs(images=lambda number: 1 - number % 2), texts())


def round_robin(backbones: Path) -> Training:
    """Every other update has no image in any process."""
    model = tiny.flamingo(backbones, "llama", gates=0.3)
    return dealt(in_float64(model), pairs(), texts(), mixing="round_robin")


def checkpointing(backbones: Path) -> Training:
    model = in_float64(tiny.flamingo(backbones, "llama", gates=0.3))
    return dealt(model, pairs(images=lambda number: 1 - number % 2), checkpointing=True)


def prefix(backbones: Path) -> Training:
    model = in_float64(tiny.flamingo(backbones, "llama", **tiny.PREFIX))
    images = partial(documents, lambda number: 1 - number % 2, tiny.TOKENS_PER_IMAGE)
    return dealt(model, DataSet("pairs", Dealt(images())))


def lora(backbones: Path) -> Training:
    """With an adapter as after some training: at the start one of its two matrices is zero."""
    adapter = AdapterConfig("lora", "language_model", {"r": 2, "target_modules": ["q_proj", "v_proj"]})
    model = tiny.flamingo(backbones, "llama", gates=0.3, adapter=adapter)
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        if is_of_adapter(name):
            parameter.data += 0.2 * torch.randn(parameter.shape, generator=generator).to(parameter)
    return dealt(in_float64(model), pairs(images=lambda number: 1 - number % 2))


def frozen_in_bf16(backbones: Path) -> Training:
    """Trained parts are in float64: in float32 another order of sums would soon change what bf16 rounds."""
    model = tiny.flamingo(backbones, "llama", gates=0.3, dtype=torch.bfloat16).train()
    for part in TRAINED_PARTS:
        getattr(model, part).double()
    return dealt(model, pairs(images=lambda number: 1 - number % 2))


def in_bf16(backbones: Path) -> Training:
    """As large models train: frozen weights in bf16, trained ones in float32, products in bf16."""
    model = tiny.flamingo(backbones, "llama", gates=0.3, dtype=torch.bfloat16).train()
    return dealt(model, pairs(images=lambda number: 1 - number % 2), precision="bf16")


def features(backbones: Path) -> Training:
    """Stored features of the encoder, which some processes never have."""
    model = in_float64(tiny.flamingo(backbones, "llama", gates=0.3))
    sets = pairs(images=lambda number: 1 - number % 2)
    with torch.no_grad():
        for one in sets.batches.batches:
            pixels = one.tensors.pop("pixel_values", None)
            if pixels is not None:
                encoded = encode_patches(
                    model.vision_model, pixels.double().flatten(0, 2), model.config.vision_features
                )
                one.tensors["image_features"] = encoded.unflatten(0, pixels.shape[:3])
    return dealt(model, sets)


def processor_of(backbones: Path, model: Any) -> FlamingoProcessor:
    processor = FlamingoProcessor.from_vision_text_pretrained(backbones / "clip_vision_model", backbones / "gpt2")
    processor.tokens_per_image = model.tokens_per_image(tiny.IMAGE_SIZE, tiny.IMAGE_SIZE)
    return processor


class Pages:
    """Documents of one to three images among texts."""

    def __getitem__(self, position: int) -> Document:
        parts = [Text("two dogs on the mat")]
        for number in range(1 + position % 3):
            colour = (40 * number, 10 * position % 256, 200)
            parts += [Image(PILImage.new("RGB", (20, 16), colour)), Text("a dog runs" + " on the grass" * number)]
        return Document(parts, id=str(position))


def pages(backbones: Path, pack_to: int = 0, p_next: float = 0.0) -> Training:
    """Batches as a loader cuts them to the processes: other padding, and other packed rows."""
    model = in_float64(tiny.flamingo(backbones, "gpt2", gates=0.3))
    processor = processor_of(backbones, model)
    collate = partial(
        make_batch,
        pad_token_id=processor.tokenizer.pad_token_id,
        pack_to=pack_to,
        known_ids=model.new_tokens.known_ids,
    )
    items = EncodedDocuments(Pages(), processor, p_next=p_next)

    def data_sets() -> list[DataSet]:
        loader = process_loader(items, collate, DOCUMENTS_PER_UPDATE // processes().num_processes)
        return [DataSet("pages", loader, prepare=processor.normalized, shared=True)]

    return Training(model, data_sets, deals_batches=False)


def chunked_loss(backbones: Path) -> Training:
    """The output head trains, and is gathered where the loss of all its logits is computed in chunks."""
    training = odd_vocabulary(backbones)
    training.model.train_parts(["language_model", "connector", "fusion", "new_tokens"])
    training.model._has_large_logits = lambda input_ids: True
    [sets] = training.data_sets()
    for one in sets.batches.batches:
        one.tensors["label_places"] = label_places(one.tensors["labels"])
    return training


def self_critical(backbones: Path) -> Training:
    """Each batch has prompts of other lengths, so that the processes decode different numbers of steps."""
    model = in_float64(tiny.flamingo(backbones, "gpt2", gates=0.3))
    processor = processor_of(backbones, model)
    config = SelfCriticalConfig(num_captions=2, max_new_tokens=3)
    loss = SelfCritical(config, processor, lambda _: length)
    shown = [["red"], ["blue", "green"], ["red", "green", "blue"], ["green"], ["blue"]]
    batches = [captions_and_references(processor, [colours]) for colours in shown]
    return dealt(model, DataSet("captions", Dealt(batches), prepare=processor.normalized, loss=loss))


CASES: dict[str, Callable[[Path], Training]] = {
    "untied": untied,
    "tied": tied,
    "odd_vocabulary": odd_vocabulary,
    "trained_backbones": trained_backbones,
    "no_images": no_images,
    "round_robin": round_robin,
    "checkpointing": checkpointing,
    "prefix": prefix,
    "lora": lora,
    "packed": partial(pages, pack_to=60),
    "p_next": partial(pages, p_next=0.5),
    "chunked_loss": chunked_loss,
    "self_critical": self_critical,
    "frozen_in_bf16": frozen_in_bf16,
    "features": features,
}
