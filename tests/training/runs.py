"""Runs for processes of their own: a tiny model on two small data sets."""

import os
import random
import signal
import socket
from functools import partial
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState
from torch import Tensor

from flamingo.data.batch_sizes import BatchSizes
from flamingo.data.collate import Batch, EncodedExample, collate, count_label_tokens
from flamingo.data.loader import Loader, process_loader
from flamingo.data.order import Mixture, Shuffled
from flamingo.training import TrainingConfig
from flamingo.training.callbacks import Callbacks
from flamingo.training.loop import train
from flamingo.training.losses.next_token import next_token
from flamingo.training.monitoring import Monitoring
from flamingo.training.optim import AdamWConfig, OptimizerConfig
from flamingo.training.step import DataSet
from flamingo.training.validation import HeldOut
from flamingo.utils.errors import UserError
from tests import tiny
from tests.helpers import devices
from tests.helpers.histories import reproducible_history

#: For each of two data sets: its name, the number of images of its documents, and its weight.
DATA = {"pairs": (1, 0.5), "texts": (0, 0.2)}
OPTIMIZER = AdamWConfig(lr=1e-3, gate_lr=1e-2, warmup_steps=2, schedule="cosine")


def example(number: int, images: int, markers: int = 0) -> EncodedExample:
    """Of 5 to 8 tokens, a function of its number, after the markers of its image; the first two are not trained on."""
    generator = torch.Generator().manual_seed(number)
    ids = torch.randint(2, tiny.VOCABULARY, (5 + number % 4,), generator=generator)
    labels = ids.clone()
    labels[:2] = -100
    if images:
        ids = torch.cat([ids.new_full((markers,), tiny.NEW_TOKEN_IDS[1]), ids])
        labels = torch.cat([labels.new_full((markers,), -100), labels])
    pixels = torch.randn(images, 1, 3, tiny.IMAGE_SIZE, tiny.IMAGE_SIZE, generator=generator) if images else None
    return EncodedExample(ids, torch.full_like(ids, images - 1), labels, pixels)


def batch(numbers: list[int], images: int = 1, markers: int = 0) -> Batch:
    examples = [example(number, images, markers) for number in numbers]
    tensors = collate(examples, 0, "right")
    ids = [f"document {number}" for number in numbers]
    tokens = int(tensors["attention_mask"].sum())
    sizes = BatchSizes(tokens=tokens, images=images * len(numbers), encoded_images=images * len(numbers))
    return Batch(tensors, ids, count_label_tokens(tensors["labels"]), sizes=sizes)


def with_noise(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Adds noise from all three global generators, as augmentation in the training process draws it."""
    if "pixel_values" in tensors:
        tensors["pixel_values"] = tensors["pixel_values"] + torch.randn(()) + random.random() + np.random.rand()
    return tensors


def data_sets(num_workers: int = 0) -> list[DataSet]:
    made = []
    for name, (images, weight) in DATA.items():
        sources = {"a": Shuffled(range(20), seed=images), "b": Shuffled(range(100, 107), seed=images)}
        mixture = Mixture(sources, {"a": 2.0, "b": 1.0}, seed=images)
        loader = Loader(mixture, partial(batch, images=images), batch_size=2, num_workers=num_workers)
        made.append(DataSet(name, loader, weight, prepare=with_noise))
    return made


class Listed:
    """Batches one after the other, round and round, with a position."""

    def __init__(self, *batches: Batch) -> None:
        self.batches, self.position = batches, 0

    def __iter__(self):
        while True:
            self.position += 1
            yield self.batches[(self.position - 1) % len(self.batches)]


def make_model(backbones: Path, fusion: str = "cross_attention"):
    torch.manual_seed(0)
    if fusion == "prefix":
        return tiny.flamingo(backbones, **tiny.PREFIX)
    return tiny.flamingo(backbones, gates=0.3)


#: All records of a run that two runs share.
history = reproducible_history


def trained(model) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


def mixed_run(backbones: Path, output: Path, kill_at: int | None = None, num_workers: int = 0) -> None:
    """Eight steps with a state every three and a validation every two; its weights go to ``output / final.pt``."""
    torch.set_num_threads(1)
    devices.start()

    def kill(record: dict) -> None:
        if record["step"] == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    model = make_model(backbones)
    random.seed(os.getpid())  # whatever a process brings along
    np.random.seed(os.getpid() % 1000)
    config = TrainingConfig(steps=8, log_every=1, save_every=3, sample_every=4, validate_every=2)
    train(
        model,
        data_sets(num_workers),
        OPTIMIZER,
        config,
        output,
        Callbacks(on_log=kill, on_sample=lambda step: (torch.rand(9), random.random())),
        monitoring=Monitoring([HeldOut("pairs", [batch([100, 101]), batch([102])], with_noise)]),
    )
    torch.save(trained(model), output / "final.pt")


def one_of_two(
    rank: int,
    port: int,
    backbones: Path,
    output: Path,
    fusion: str = "cross_attention",
    break_rank: int | None = None,
) -> None:
    """A process of two, each with one of two unequal batches per data set; rank 1 has no image at all.

    ``break_rank`` gets a connector whose output is not finite.
    """
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    state = PartialState(cpu=True)
    assert state.num_processes == 2
    model = make_model(backbones, fusion)
    sets = [DataSet(name, Listed(share[rank]), weight) for name, share, weight in two_shares(fusion)]
    config = TrainingConfig(steps=2, log_every=1)
    if rank == break_rank:
        model.connector.register_forward_hook(lambda *args: args[-1] * float("nan"))
    try:
        train(model, sets, AdamWConfig(lr=1e-3), config, output)
        torch.save(trained(model), output / f"final-{rank}.pt")
    except UserError as error:
        (output / f"error-{rank}.txt").write_text(str(error))
    state.destroy_process_group()


def one_with_both(backbones: Path, output: Path, fusion: str = "cross_attention") -> None:
    """A single process with what :func:`one_of_two` has in two, on the CPU as these."""
    torch.set_num_threads(1)
    model = make_model(backbones, fusion)
    sets = [DataSet(name, Listed(*share), weight) for name, share, weight in two_shares(fusion)]
    config = TrainingConfig(steps=2, accumulate=2, log_every=1)
    train(model, sets, AdamWConfig(lr=1e-3), config, output)
    torch.save(trained(model), output / "final.pt")


def one_of_two_spoiled(rank: int, port: int, backbones: Path, output: Path, optimizer: OptimizerConfig) -> None:
    """A process of two. In rank 1 the loss of step 3 is infinite, with a gradient that is finite in both."""
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    state = PartialState(cpu=True)
    model = make_model(backbones)
    steps = []

    def spoiled(model: torch.nn.Module, batch: Batch, count: int) -> Tensor:
        steps.append(len(steps) + 1)
        loss = next_token(model, batch, count)
        return loss + float("inf") if rank == 1 and steps[-1] == 3 else loss

    documents = Listed(*(batch([10 * rank + number]) for number in range(1, 6)))
    config = TrainingConfig(steps=8, log_every=5, save_every=2)
    try:
        train(model, [DataSet("pairs", documents, loss=spoiled)], optimizer, config, output)
    except UserError as error:
        (output / f"error-{rank}.txt").write_text(str(error))
    torch.save({"steps": steps, "weights": trained(model)}, output / f"final-{rank}.pt")
    state.destroy_process_group()


def one_of_several(rank: int, num_ranks: int, port: int, backbones: Path, output: Path) -> None:
    """A process of several with a global batch of eight documents, which leaves its documents' ids and the weights."""
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(num_ranks)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    state = PartialState(cpu=True)
    assert state.num_processes == num_ranks
    drawn: list[list[str]] = []

    def noted(numbers: list[int]) -> Batch:
        made = batch(numbers)
        drawn.append(made.ids)
        return made

    model = make_model(backbones)
    loader = process_loader(Shuffled(range(30), seed=0), noted, batch_size=8 // num_ranks)
    config = TrainingConfig(steps=5, log_every=1)
    train(model, [DataSet("pairs", loader)], AdamWConfig(lr=1e-3), config, output)
    torch.save({"drawn": drawn, "weights": trained(model)}, output / f"final-{rank}.pt")
    state.destroy_process_group()


def two_shares(fusion: str = "cross_attention") -> list[tuple[str, list[Batch], float]]:
    markers = tiny.TOKENS_PER_IMAGE if fusion == "prefix" else 0
    return [
        ("pairs", [batch([3, 7, 11], images=1, markers=markers), batch([4], images=0)], 0.5),
        ("texts", [batch([1, 2], images=0), batch([5], images=0)], 0.2),
    ]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
