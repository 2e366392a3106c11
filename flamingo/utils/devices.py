"""The device of a command's models: the one place that names devices."""

import os
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import torch
from accelerate import PartialState
from accelerate.utils import DistributedType
from jaxtyping import Shaped
from torch import Tensor, distributed, nn

from flamingo.utils.device_names import check_device
from flamingo.utils.errors import UserError
from flamingo.utils.torchrun import started_by_torchrun

#: The device of tensors without memory. ``with META:`` builds a model for its structure alone.
META = torch.device("meta")
#: The device of tensors in the memory of this process.
HOST = torch.device("cpu")


def use_device(name: str | None, key: str = "device") -> torch.device:
    """Returns the device of this process, and makes it accelerate's. A command calls it once, before it loads a model.

    In a distributed run each process gets the CUDA device of its local rank, or the CPU.

    Args:
        name: cpu, mps, cuda or cuda:NUMBER; None: CUDA, else MPS, else the CPU.
        key: The key of the config, for errors.

    Raises:
        UserError: If the machine does not have the device.
    """
    check_device(key, name)
    device = _default_device() if name is None else torch.device(name)
    _check_present(device, f"{key}={'null' if name is None else name}")
    state = PartialState(cpu=device.type == "cpu")
    if state.distributed_type == DistributedType.NO:
        state.device = torch.device("cuda", device.index or 0) if device.type == "cuda" else device
    elif state.device.type != device.type:
        raise UserError(f"{key}={name}, but the processes of this run were started on {state.device}")
    if state.device.type == "cuda":
        torch.cuda.set_device(state.device)
    return state.device


def processes() -> PartialState:
    """Returns the state of this run's processes. Its ``device`` is the default one, unless a command chose another."""
    # Without cpu=True accelerate treats each process without a GPU as the main one: all would write the same files.
    return PartialState(cpu=_default_device().type == "cpu")


def wait_for_processes() -> None:
    """Waits until all processes of this run have called this function."""
    state = processes()
    if state.distributed_type == DistributedType.MULTI_CPU:
        # accelerate passes the GPU with the process's number to the barrier, and the machine may have fewer GPUs.
        distributed.barrier()
    else:
        state.wait_for_everyone()


def _default_device() -> torch.device:
    if torch.cuda.is_available():
        return torch.device("cuda")
    # Processes on MPS cannot exchange gradients.
    if torch.backends.mps.is_available() and not _is_launched():
        return torch.device("mps")
    return torch.device("cpu")


def _is_launched() -> bool:
    """Returns whether torchrun, accelerate or submitit has started this process, perhaps with others."""
    return "LOCAL_RANK" in os.environ


def _check_present(device: torch.device, setting: str) -> None:
    if device.type == "mps":
        if _is_launched():
            raise UserError(f"{setting} is for a single process, without torchrun")
        if not torch.backends.mps.is_available():
            raise UserError(f"{setting}, but this machine has no MPS device")
    if device.type == "cuda":
        number = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if number <= (device.index or 0):
            raise UserError(f"{setting}, but this machine has {number} CUDA devices")
        if _is_launched() and device.index is not None:
            raise UserError(f"{setting} names one device, but torchrun gives each process its own: use device=cuda")
        if _processes_that_see_the_same_gpus() > number:
            raise UserError(f"{setting}, but this machine has {number} CUDA devices for more processes: use device=cpu")


def _processes_that_see_the_same_gpus() -> int:
    # SLURM's option --gpus-per-task shows each task its own GPUs.
    if "SLURM_GPUS_PER_TASK" in os.environ and not started_by_torchrun():
        return 1
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def device_title(device: torch.device) -> str:
    """Returns the display name of a device, such as ``NVIDIA H100 80GB HBM3``."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return "CPU" if device.type == "cpu" else device.type.upper()


def multiplies_bfloat16(device: torch.device) -> bool:
    """Returns whether the device has instructions that multiply bfloat16, so that bfloat16 is faster than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return False


def free_memory(device: torch.device) -> int:
    """Returns the free memory of the device in bytes."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return psutil.virtual_memory().available


def peak_memory(device: torch.device, mapped: int = 0) -> int:
    """Returns the peak memory of this process in bytes: reserved by torch on a GPU, resident on the host.

    Args:
        device: The device.
        mapped: Bytes of files that this process will map later; added on the host.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit + mapped


def to_device(tensor: Shaped[Tensor, "..."], device: torch.device) -> Shaped[Tensor, "..."]:
    """Returns the tensor on a device. The copy to a CUDA device is asynchronous, from pinned memory."""
    if not pins_memory(device) or tensor.device.type != "cpu":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def pins_memory(device: torch.device) -> bool:
    """Returns whether copies from pinned memory to the device are asynchronous."""
    return device.type == "cuda"


def is_cuda(device: torch.device) -> bool:
    """Returns whether the device has CUDA's kernels, streams and graphs."""
    return device.type == "cuda"


def products_in(dtype: torch.dtype, device: torch.device) -> torch.autocast:
    """Returns a context in which a GPU multiplies fp32 weights in a 16-bit ``dtype``, as autocast does in training.

    On a CPU the context does nothing: a CPU multiplies fp32 as fast as 16-bit numbers or faster, a GPU several times
    slower.
    """
    enabled = device.type != "cpu" and dtype in (torch.bfloat16, torch.float16)
    return torch.autocast(device.type, dtype, enabled=enabled)


def random_devices(module: nn.Module) -> list[int]:
    """Returns the indices of a module's CUDA devices, whose random states ``torch.random.fork_rng`` must restore."""
    return sorted({tensor.device.index for tensor in module.parameters() if tensor.is_cuda})


@contextmanager
def exact_float32() -> Iterator[None]:
    """Makes CUDA devices multiply float32 exactly in the block, without TensorFloat-32."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


class DeviceTimer:
    """Sums the time that a device takes for some work. The host does not wait for a CUDA device."""

    def __init__(self, device: torch.device) -> None:
        """Starts at 0.

        Args:
            device: A CUDA device is timed by events, any other by the host's clock.
        """
        self._uses_events = device.type == "cuda"
        self._events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []
        self._host_seconds = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        """Times the work within it."""
        if self._uses_events:
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record()
            yield
            end.record()
            self._events.append((start, end))
        else:
            start_seconds = time.perf_counter()
            yield
            self._host_seconds += time.perf_counter() - start_seconds

    def seconds(self) -> float:
        """Returns the seconds of all work so far. The device must have finished it."""
        milliseconds = sum(start.elapsed_time(end) for start, end in self._events)
        return self._host_seconds + milliseconds / 1000
