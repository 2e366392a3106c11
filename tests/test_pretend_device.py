"""``--device pretend``: models, training and decoding run on a device whose tensors never meet those of the CPU."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
#: A forward and a backward pass; few-shot decoding from pictures; an update of two data sets; features of pictures.
RUN_THERE = (
    "tests/model/test_parts.py::test_test_models_and_inputs_are_on_the_chosen_device",
    "tests/inference/test_flamingo_engine.py::test_a_blind_model_says_the_same_to_every_picture",
    "tests/training/test_step.py::test_data_sets_add_up_by_weight_with_their_own_means",
    "tests/inference/test_features.py::test_pooled_features_are_means",
)
MIXES = """
import torch
from tests.helpers import pretend_device
device = pretend_device.start()
there = torch.ones(2, 3).to(device)
assert (there * 2).sum().item() == 12 and there.cpu().tolist() == [[1.0] * 3] * 2
for mixed in (lambda: there + torch.ones(2, 3), lambda: torch.nn.Linear(3, 1)(there), lambda: there.numpy()):
    try:
        mixed()
    except (RuntimeError, TypeError):
        continue
    raise SystemExit("it was not refused")
"""


def run(*arguments):
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("FLAMINGO_", "PYTEST_"))}
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True)


def test_tensors_of_both_devices_in_one_operation_are_refused():
    result = run("-c", MIXES)
    assert result.returncode == 0, result.stderr


@pytest.mark.full
def test_models_train_decode_and_encode_on_the_pretended_device():
    result = run("-m", "pytest", "-q", "-p", "no:cacheprovider", "--device", "pretend", *RUN_THERE)
    assert result.returncode == 0, result.stdout
