"""A training step reads nothing back from the device between two lines of the history, and validation reads once."""

from functools import partial
from itertools import islice

import pytest
import torch
from PIL import Image as PILImage

from flamingo import Document, Image, Text
from flamingo.data.encode import EncodedDocuments, make_batch
from flamingo.data.loader import Loader
from flamingo.model import PACKED_ATTENTION
from flamingo.model.packed_attention import packed_mask, prepared_masks
from flamingo.training import DEFAULT_PARALLEL, ParallelConfig, TrainingConfig, loop
from flamingo.training.guard import Guard
from flamingo.training.optim import AdamWConfig, MuonConfig
from flamingo.training.parallel import Parallel
from flamingo.training.step import DataSet
from flamingo.training.validation import HeldOut, held_out_losses
from tests.evaluation.fake import model_and_processor
from tests.helpers.forked import values_of_processes
from tests.helpers.host_reads import HostReads
from tests.helpers.model_calls import FULL_ATTENTION
from tests.tiny import PREFIX

TENSOR = torch.arange(3)


@pytest.mark.parametrize(
    "wait",
    [
        lambda: TENSOR[1].item(),
        lambda: float(TENSOR[1]),
        lambda: bool((TENSOR > 1).any()),
        lambda: TENSOR.tolist(),
        lambda: TENSOR.numpy(force=True),
        lambda: TENSOR.cpu(),
        lambda: TENSOR[TENSOR > 1],
        lambda: TENSOR.clone().index_put_((TENSOR > 1,), torch.zeros((), dtype=torch.long)),
        lambda: TENSOR.nonzero(),
        lambda: TENSOR.masked_select(TENSOR > 1),
        lambda: torch.equal(TENSOR, TENSOR + 1),
        lambda: TENSOR.unique(),
        lambda: TENSOR.repeat_interleave(TENSOR),
        lambda: torch.tensor([1, 2], device="cpu"),
    ],
)
def test_whatever_waits_is_found(monkeypatch, wait):
    with HostReads(monkeypatch) as reads:
        wait()
    assert sum(reads.found["others"].values()) >= 1


@pytest.mark.parametrize(
    "go_on",
    [
        lambda: TENSOR[torch.tensor([0, 2])],
        lambda: TENSOR.repeat_interleave(TENSOR, output_size=3),
        lambda: TENSOR.repeat_interleave(2),
        lambda: torch.where(TENSOR > 1, TENSOR, 0).sort(),
    ],
)
def test_what_does_not_wait_is_not_found(monkeypatch, go_on):
    with HostReads(monkeypatch) as reads:
        go_on()
    assert not any(reads.found.values())


class Captions:
    """Documents with ``least`` to ``most`` captioned images."""

    def __init__(self, least, most):
        self.least, self.most = least, most

    def __getitem__(self, position):
        number_of_images = self.least + position % (self.most - self.least + 1)
        parts = []
        for number in range(number_of_images):
            colour = (40 * number, 10 * position % 256, 200)
            parts += [Image(PILImage.new("RGB", (20, 16), colour)), Text("a dog runs" + " on the grass" * number)]
        return Document(parts or [Text("two dogs on the mat")])


class Features:
    """Features of any images."""

    def stacked(self, images):
        return torch.randn(len(images), 1, 16, 24, generator=torch.Generator().manual_seed(0))


def data_set(model, processor, name, least, most, features=None, pack_to=0):
    collate = partial(
        make_batch,
        pad_token_id=processor.tokenizer.pad_token_id,
        pack_to=pack_to,
        known_ids=model.new_tokens.known_ids,
    )
    loader = Loader(EncodedDocuments(Captions(least, most), processor, features), collate, batch_size=3)
    return DataSet(name, loader, prepare=processor.normalized)


#: The data sets of each case: the arguments of :func:`data_set` after the model and the processor.
PIXELS = {"name": "pixels", "least": 1, "most": 3}
ONE_EACH = {"name": "one image each", "least": 1, "most": 1}
FEATURES = {"name": "features", "least": 1, "most": 3, "features": Features()}
PACKED = {"name": "packed", "least": 1, "most": 3, "pack_to": 60}
TEXTS = {"name": "texts", "least": 0, "most": 0}


@pytest.mark.parametrize(
    ("parts", "sets", "config", "optimizer"),
    [
        ({}, [PIXELS], {}, AdamWConfig()),
        (PREFIX, [PIXELS, PACKED, TEXTS], {}, AdamWConfig()),
        ({}, [ONE_EACH], {}, AdamWConfig()),
        ({}, [FEATURES], {"precision": "bf16"}, AdamWConfig()),
        ({}, [PACKED], {}, MuonConfig()),
        ({}, [TEXTS], {}, AdamWConfig()),
        ({}, [PIXELS, TEXTS, PACKED], {"accumulate": 2}, AdamWConfig()),
        ({}, [FEATURES, TEXTS], {"mixing": "round_robin", "precision": "bf16"}, MuonConfig()),
    ],
    ids=["pixels", "prefix", "one image each", "features", "packed", "texts", "accumulated", "round robin"],
)
def test_ten_steps_wait_for_nothing(backbones, tmp_path, monkeypatch, parts, sets, config, optimizer):
    """Counted from the transfer of the batches to the end of the optimizer's step, and until the next batches."""
    number, found = reads_of_steps(backbones, tmp_path, monkeypatch, parts, sets, config, optimizer)
    assert number == 10
    assert not any(found.values()), found


@pytest.mark.full
@pytest.mark.parametrize("kind", ["ddp", "fsdp2"])
@pytest.mark.parametrize("optimizer", [AdamWConfig(), MuonConfig()], ids=lambda config: config.kind)
def test_processes_wait_for_hosts_only(backbones, tmp_path, monkeypatch, kind, optimizer):
    """Each step asks whether a signal has reached any host. Sums of numbers that hosts know wait for no device."""
    arguments = backbones, tmp_path, monkeypatch, {}, [PIXELS, TEXTS, PACKED], {"accumulate": 2}, optimizer
    for number, found in values_of_processes(2, reads_of_steps, *arguments, ParallelConfig(kind)):
        assert number == 10
        assert {place.split(":")[0] for place in found["ours"]} == {"host_sums.py"}
        assert not found["transformers"] and not found["others"]


def reads_of_steps(backbones, output, monkeypatch, parts, sets, config, optimizer, parallel=DEFAULT_PARALLEL):
    """The number of updates of ten steps, and what they read on the host."""
    model, processor = model_and_processor(backbones, **parts)
    made = [data_set(model, processor, **arguments) for arguments in sets]
    with HostReads(monkeypatch) as reads:
        reads.counts = False
        steps = []
        next_update, read = loop.next_update, Guard.read

        def counting_from_here(*args):
            reads.counts = False
            update = next_update(*args)
            steps.append(update)
            reads.counts = True
            return update

        def counting_to_here(guard):
            reads.counts = False
            return read(guard)

        monkeypatch.setattr(loop, "next_update", counting_from_here)
        monkeypatch.setattr(Guard, "read", counting_to_here)
        with prepared_masks(model, "dense"):
            training = TrainingConfig(steps=10, log_every=10, **config)
            loop.train(model, made, optimizer, training, output, parallel=parallel)
    return len(steps), reads.found


@pytest.mark.full
@pytest.mark.parametrize("family", sorted(FULL_ATTENTION))
@pytest.mark.parametrize("arguments", [PIXELS, PACKED, ONE_EACH, TEXTS], ids=lambda arguments: arguments["name"])
def test_no_language_model_waits(backbones, monkeypatch, family, arguments):
    model, processor = model_and_processor(backbones, family)
    source = data_set(model, processor, **arguments)
    tensors = source.prepare(next(iter(source.batches)).tensors)
    with HostReads(monkeypatch) as reads, prepared_masks(model, "dense"):
        model(**tensors).loss.backward()
    assert not any(reads.found.values()), reads.found


@pytest.mark.parametrize("kind", PACKED_ATTENTION)
def test_masks_of_packed_rows_are_made_on_the_device(monkeypatch, kind):
    segment_ids = torch.tensor([[0, 0, 1, -1], [0, 1, 1, 1]])
    hidden = None if kind == "varlen" else torch.tensor([[False, True, False, False], [False] * 4])
    bounds = torch.tensor([0, 2, 3, 4, 5, 8])
    with HostReads(monkeypatch) as reads:
        packed_mask(kind, segment_ids, bounds, hidden)
    assert not any(reads.found.values()), reads.found


@pytest.mark.parametrize(
    ("parts", "held_out"),
    [({}, [PIXELS, PACKED, TEXTS]), ({}, [FEATURES, ONE_EACH]), (PREFIX, [PIXELS, PACKED])],
    ids=["pixels", "features", "prefix"],
)
def test_validation_reads_once_for_each_data_set(backbones, monkeypatch, parts, held_out):
    model, processor = model_and_processor(backbones, **parts)
    made = []
    for arguments in held_out:
        source = data_set(model, processor, **arguments)
        made.append(HeldOut(source.name, list(islice(source.batches, 2)), processor.normalized))
    with HostReads(monkeypatch) as reads, prepared_masks(model, "dense"):
        losses = held_out_losses(Parallel(model), made, "fp32")
    assert all(losses[f"held_out_loss/{data.name}"] > 0 for data in made)
    assert {place.split(":")[0] for place in reads.found["ours"]} == {"validation.py"}
    assert sum(reads.found["ours"].values()) == len(made)
    assert not reads.found["transformers"] and not reads.found["others"]
