"""The command trains in shards as in one process: from the config's models to the checkpoint."""

import pytest
import torch
from safetensors.torch import load_file

from experiments.runs.run_training import run_training
from tests.helpers.configs import composed
from tests.helpers.forked import values_of_processes
from tests.helpers.histories import reproducible_history
from tests.helpers.small_runs import SMALL_DEMO

pytestmark = pytest.mark.full

STEPS = 4


def run(output, batch_size, *overrides):
    """Trains with samples and held-out documents, and leaves a checkpoint with its backbones."""
    small = (*SMALL_DEMO, f"training.steps={STEPS}", "training.validate_every=2", "training.sample_every=2")
    batches = f"data.documents.captions.batch_size={batch_size}"
    run_training(composed("train", *small, batches, f"output={output}", *overrides), output)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The folder of a run in one process."""
    output = tmp_path_factory.mktemp("alone") / "run"
    values_of_processes(1, run, output, 4)
    return output


@pytest.mark.parametrize("overrides", [("parallel=fsdp2",), ("parallel=hsdp", "parallel.shard_size=1")], ids=" ".join)
def test_two_processes_leave_the_files_of_one(alone, tmp_path, overrides):
    """In float32: the order of sums differs, and AdamW steps on the noise of gradients that are zero."""
    output = tmp_path / "run"
    values_of_processes(2, run, output, 2, *overrides)
    records, expected = reproducible_history(output), reproducible_history(alone)
    assert len(records) == STEPS
    for record, other in zip(records, expected, strict=True):
        assert record.keys() == other.keys()
        numbers = [key for key in record if key != "gates"]
        assert [record[key] for key in numbers] == pytest.approx([other[key] for key in numbers], rel=1e-3)
        assert record["gates"] == pytest.approx(other["gates"], rel=1e-3)
    names = sorted(path.name for path in (alone / "checkpoint").iterdir())
    assert sorted(path.name for path in (output / "checkpoint").iterdir()) == names
    weights, others = (load_file(folder / "checkpoint" / "model.safetensors") for folder in (output, alone))
    assert weights.keys() == others.keys()
    whole = torch.stack([weight.double().norm() for weight in others.values()]).norm()
    errors = torch.stack([(weights[name] - other).double().norm() for name, other in others.items()])
    assert errors.norm() < 1e-3 * whole
    assert all(weights[name].dtype == other.dtype for name, other in others.items())
