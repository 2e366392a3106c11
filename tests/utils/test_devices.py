"""The device of a command: named or the best one, one for each process, and the same for accelerate."""

import socket

import pytest
import torch
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState
from torch import nn

from flamingo.utils.devices import (
    META,
    _check_present,
    check_device,
    device_title,
    exact_float32,
    processes,
    products_in,
    random_devices,
    to_device,
    use_device,
    wait_for_processes,
)
from flamingo.utils.errors import UserError
from flamingo.utils.sharing import main_process_first


@pytest.fixture(autouse=True)
def fresh_states(monkeypatch):
    """Each test chooses a device as the first of its process; the states of the other tests come back."""
    partial, whole = dict(PartialState._shared_state), dict(AcceleratorState._shared_state)
    AcceleratorState._reset_state(reset_partial_state=True)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    PartialState._shared_state.update(partial)
    AcceleratorState._shared_state.update(whole)


def machine(monkeypatch, cuda=0, mps=False):
    """A machine with this number of CUDA devices, and perhaps with MPS."""
    chosen = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: chosen.append(str(device)))
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    monkeypatch.setattr("accelerate.state.check_cuda_p2p_ib_support", lambda: True)
    return chosen


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.mark.parametrize(
    ("cuda", "mps", "name", "device"),
    [
        (0, False, None, "cpu"),
        (0, True, None, "mps"),
        (2, True, None, "cuda:0"),
        (2, True, "cuda", "cuda:0"),
        (2, False, "cuda:1", "cuda:1"),
        (2, True, "mps", "mps"),
        (2, True, "cpu", "cpu"),
    ],
)
def test_accelerate_and_the_project_share_the_named_device(monkeypatch, cuda, mps, name, device):
    chosen = machine(monkeypatch, cuda, mps)
    assert use_device(name) == processes().device == Accelerator().device == torch.device(device)
    assert chosen == [device] * device.startswith("cuda")


def test_a_later_command_may_name_another_device(monkeypatch):
    machine(monkeypatch, cuda=2)
    for name in ("cpu", "cuda:1", "cpu", "cuda"):
        use_device(name)
        assert Accelerator().device == torch.device("cuda:0" if name == "cuda" else name)


@pytest.mark.parametrize(
    ("cuda", "mps", "name", "problem"),
    [
        (0, True, "cuda", "0 CUDA"),
        (2, False, "cuda:2", "2 CUDA"),
        (2, False, "mps", "MPS"),
        (2, False, "gpu", "cuda:NUMBER"),
        (2, False, "cuda:", "cuda:NUMBER"),
    ],
)
def test_a_device_that_is_not_there_is_named_with_its_key(monkeypatch, cuda, mps, name, problem):
    machine(monkeypatch, cuda, mps)
    with pytest.raises(UserError, match=f"^device.*{name}.*{problem}|^device .*{problem}.*{name}"):
        use_device(name)
    assert PartialState._shared_state == {}


def test_a_config_may_name_a_device_that_another_machine_has():
    for name in (None, "cpu", "mps", "cuda", "cuda:7"):
        check_device("device", name)
    for name in ("cuda:x", "xpu", "", "cuda:1 "):
        with pytest.raises(UserError, match=r"^device must"):
            check_device("device", name)


@pytest.mark.parametrize("name", ["cuda:0", "mps"])
def test_one_device_cannot_be_named_for_several_processes(monkeypatch, name):
    machine(monkeypatch, cuda=2, mps=True)
    monkeypatch.setenv("LOCAL_RANK", "1")
    with pytest.raises(UserError, match=f"device={name}.*torchrun"):
        use_device(name)


def test_more_processes_than_cuda_devices_are_refused(monkeypatch):
    """accelerate would give two processes the same device."""
    machine(monkeypatch, cuda=2)
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    with pytest.raises(UserError, match="2 CUDA"):
        use_device(None)


def test_slurm_may_show_each_of_its_tasks_one_device(monkeypatch):
    machine(monkeypatch, cuda=1)
    for name, value in (("LOCAL_RANK", "1"), ("LOCAL_WORLD_SIZE", "4"), ("SLURM_GPUS_PER_TASK", "1")):
        monkeypatch.setenv(name, value)
    _check_present(torch.device("cuda"), "device=null")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")  # the processes of a task of torchrun share its devices
    with pytest.raises(UserError, match="1 CUDA"):
        _check_present(torch.device("cuda"), "device=null")


def test_several_processes_without_cuda_run_on_the_cpu(monkeypatch):
    """Also where there is MPS, whose processes cannot exchange gradients."""
    machine(monkeypatch, mps=True)
    for name, value in {"LOCAL_RANK": "0", "RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(free_port()))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    try:
        assert use_device(None).type == "cpu"
        assert str(processes().distributed_type) == "DistributedType.MULTI_CPU"
    finally:
        torch.distributed.destroy_process_group()


def test_cpu_processes_wait_for_each_other_beside_fewer_gpus(monkeypatch):
    """The GPU of the process's number, which accelerate names when it waits, is not there."""
    for name, value in {"LOCAL_RANK": "9", "RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "10"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(free_port()))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(torch._C, "_get_accelerator", lambda: torch.device("cuda"))
    try:
        assert use_device("cpu").type == "cpu"
        wait_for_processes()
        with main_process_first():
            assert processes().is_main_process
    finally:
        torch.distributed.destroy_process_group()


def test_only_a_cuda_device_gets_tensors_from_pinned_memory(monkeypatch):
    calls = []

    def pin(tensor):
        calls.append("pin")
        return tensor

    def to(tensor, *args, **kwargs):
        calls.append((*args, *kwargs.items()))
        return tensor

    monkeypatch.setattr(torch.Tensor, "pin_memory", pin)
    monkeypatch.setattr(torch.Tensor, "to", to)
    for device in (torch.device("cpu"), META, torch.device("cuda", 1)):
        to_device(torch.zeros(2), device)
    assert calls == [
        (torch.device("cpu"),),
        (META,),
        "pin",
        (torch.device("cuda", 1), ("non_blocking", True)),
    ]


def test_float32_is_exact_inside_the_block_alone():
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = True, False
    try:
        with pytest.raises(ZeroDivisionError), exact_float32():
            assert not torch.backends.cuda.matmul.allow_tf32 and not torch.backends.cudnn.allow_tf32
            raise ZeroDivisionError
        assert torch.backends.cuda.matmul.allow_tf32 and not torch.backends.cudnn.allow_tf32
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def test_devices_have_names_for_people(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"GPU number {device.index}")
    assert [device_title(torch.device(name)) for name in ("cpu", "mps", "cuda:3")] == ["CPU", "MPS", "GPU number 3"]
    assert random_devices(nn.Linear(2, 2)) == []


@pytest.mark.parametrize(
    ("device", "dtype", "enabled"),
    [("cuda:1", "bfloat16", True), ("mps", "float16", True), ("cuda", "float32", False), ("cpu", "bfloat16", False)],
)
def test_fp32_weights_are_multiplied_in_16_bits_on_a_gpu_alone(monkeypatch, device, dtype, enabled):
    class Noted(torch.autocast):
        def __init__(self, *args, **kwargs):
            self.arguments = args, kwargs

    monkeypatch.setattr(torch, "autocast", Noted)
    dtype = getattr(torch, dtype)
    device = torch.device(device)
    assert products_in(dtype, device).arguments == ((device.type, dtype), {"enabled": enabled})
