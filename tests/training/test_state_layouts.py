"""A state and a checkpoint are the same from every layout of the processes, and are loaded into every other one."""

import pytest
import torch
from safetensors.torch import load_file

from flamingo import FlamingoForConditionalGeneration
from flamingo.model.adapter_config import AdapterConfig
from flamingo.training import ParallelConfig
from flamingo.training.export import checkpoint_state
from flamingo.training.losses.next_token import next_token
from flamingo.training.optim import AdamWConfig, MuonConfig
from flamingo.training.optim.groups import make_optimizer
from flamingo.training.optim.schedule import make_schedule
from flamingo.training.parallel import distribute
from flamingo.training.state import Progress, StateFolder
from flamingo.training.state_files import read_tensors
from flamingo.training.state_tensors import model_tensors, optimizer_tensors
from flamingo.utils.devices import processes
from flamingo.utils.errors import UserError
from flamingo.utils.shards import whole
from tests import tiny
from tests.helpers.forked import values_of_processes
from tests.helpers.states import state_folder
from tests.training.runs import batch, make_model

ADAMW, MUON = AdamWConfig(lr=1e-2), MuonConfig(lr=1e-2)
PARALLEL = {
    "single": ParallelConfig("single"),
    "ddp": ParallelConfig("ddp"),
    "fsdp2": ParallelConfig("fsdp2"),
    "hsdp": ParallelConfig("hsdp", shard_size=2),
}


class Layout:
    """A model of several processes with its optimizer and states."""

    def __init__(self, kind, backbones, output, config):
        self.model = make_model(backbones)
        self.parallel = distribute(self.model, PARALLEL[kind])
        self.optimizer = make_optimizer(self.model, config)
        schedule = make_schedule(self.optimizer, config, 10)
        self.states = StateFolder(output / "state", {}, self.model, self.optimizer, schedule, [])

    def step(self):
        documents = batch([3, 4]).to(processes().device)
        with self.parallel.synchronised(is_last=True):
            self.parallel.joined(next_token(self.parallel.model, documents, documents.label_tokens)).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def tensors(self):
        tensors = model_tensors(self.model) | optimizer_tensors(self.model, self.optimizer)
        return {name: whole(tensor).clone() for name, tensor in tensors.items()}


def save(kind, backbones, output, config=ADAMW):
    """Two steps and a state; returns what it has to contain."""
    layout = Layout(kind, backbones, output, config)
    layout.step()
    layout.step()
    with layout.states as states:
        states.save(Progress(step=2))
    return layout.tensors()


def restore(kind, backbones, output, config=ADAMW):
    layout = Layout(kind, backbones, output, config)
    assert layout.states.restore().step == 2
    restored = layout.tensors()
    layout.step()  # the optimizer can use what it has
    return restored


def in_layout(kind, size, function, *arguments):
    """What the function returns in the first of so many processes."""
    if size == 1:
        return function(kind, *arguments)
    first, *others = values_of_processes(size, function, kind, *arguments)
    for other in others:
        assert_equal(other, first)
    return first


def assert_equal(actual, expected):
    assert actual.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(actual[name].cpu(), tensor.cpu()), name


@pytest.mark.parametrize(
    ("before", "after", "config"),
    [
        (("fsdp2", 2), ("single", 1), ADAMW),
        pytest.param(("fsdp2", 2), ("fsdp2", 4), ADAMW, marks=pytest.mark.full),
        pytest.param(("fsdp2", 2), ("fsdp2", 4), MUON, marks=pytest.mark.full),
        pytest.param(("fsdp2", 4), ("ddp", 2), MUON, marks=pytest.mark.full),
        pytest.param(("fsdp2", 3), ("hsdp", 4), ADAMW, marks=pytest.mark.full),
        pytest.param(("hsdp", 4), ("fsdp2", 2), ADAMW, marks=pytest.mark.full),
        pytest.param(("ddp", 2), ("fsdp2", 2), ADAMW, marks=pytest.mark.full),
        pytest.param(("single", 1), ("hsdp", 4), MUON, marks=pytest.mark.full),
    ],
)
def test_a_state_is_loaded_into_another_layout(backbones, tmp_path, before, after, config):
    saved = in_layout(*before, save, backbones, tmp_path, config)
    assert_equal(read_tensors(state_folder(tmp_path, 2)), saved)
    restored = in_layout(*after, restore, backbones, tmp_path, config)
    assert_equal(restored, saved)
    assert any(not torch.equal(tensor, whole(start)) for tensor, start in started(backbones, saved))


def started(backbones, saved):
    """Each parameter of the state with its value in a new model."""
    start = model_tensors(make_model(backbones))
    return [(tensor, start[name]) for name, tensor in saved.items() if name in start]


@pytest.mark.full
def test_each_process_writes_a_share_of_a_replicated_state(backbones, tmp_path):
    values_of_processes(2, save, "ddp", backbones, tmp_path)
    sizes = [(state_folder(tmp_path, 2) / f"__{rank}_0.distcp").stat().st_size for rank in (0, 1)]
    assert min(sizes) > 0.4 * sum(sizes)


def model_with_vera(backbones):
    """VeRA's layers share random projections, which are buffers."""
    torch.manual_seed(0)
    adapter = AdapterConfig("vera", "language_model", {"r": 2, "target_modules": ["q_proj", "v_proj"]})
    return tiny.flamingo(backbones, "llama", gates=0.3, adapter=adapter)


def export(kind, make, backbones, output, include_backbones):
    """A checkpoint of an untrained model with opened gates; returns all its weights."""
    model = make(backbones)
    distribute(model, PARALLEL[kind])
    state = checkpoint_state(model, include_backbones)
    if processes().is_main_process:
        model.save_pretrained(output / kind, include_backbones=include_backbones, state_dict=state)
    return {name: whole(value) for name, value in model.state_dict().items()}


@pytest.mark.full
@pytest.mark.parametrize("make", [make_model, model_with_vera])
@pytest.mark.parametrize("include_backbones", [False, True])
@pytest.mark.parametrize(("kind", "size"), [("fsdp2", 2), ("hsdp", 4), ("ddp", 2)])
def test_a_checkpoint_of_any_layout_is_that_of_one_process(backbones, tmp_path, kind, size, include_backbones, make):
    """The embeddings of the language model are tied, so that the file has them once."""
    in_layout("single", 1, export, make, backbones, tmp_path, include_backbones)
    weights = in_layout(kind, size, export, make, backbones, tmp_path, include_backbones)
    files = {path.name for path in (tmp_path / "single").iterdir()}
    assert {path.name for path in (tmp_path / kind).iterdir()} == files
    for name in sorted(files):
        if name.endswith(".safetensors"):
            alone, together = (load_file(tmp_path / folder / name) for folder in ("single", kind))
            assert_equal(together, alone)
    loaded = FlamingoForConditionalGeneration.from_pretrained(tmp_path / kind)
    assert_equal(dict(loaded.state_dict()), weights)


@pytest.mark.full
def test_changed_sharded_backbones_cannot_be_left_out(backbones, tmp_path):
    def changed():
        model = make_model(backbones)
        next(model.language_model.parameters()).data[0] += 1.0
        distribute(model, PARALLEL["fsdp2"])
        with pytest.raises(UserError, match="language_model has other weights"):
            checkpoint_state(model, include_backbones=False)
        return set(checkpoint_state(model, include_backbones=True)) == set(model.state_dict())

    assert values_of_processes(2, changed) == [True, False]
