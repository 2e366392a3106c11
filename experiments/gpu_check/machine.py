"""Part: the machine, and the speed of its matrix products and copies."""

import platform
import subprocess
import sys

import torch
import transformers
from torch import Tensor

from experiments.gpu_check.check_parts import JSON, Save, Settings
from experiments.gpu_check.check_report import table
from experiments.gpu_check.marks import Marks
from flamingo.utils.devices import use_device

_WARM_UP, _TIMED = 3, 10


def measure(settings: Settings, save: Save) -> None:
    """Records names and versions, then the rates of products and copies, with which to compare the MFU."""
    device = use_device(settings.device)
    facts: JSON = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "device": device.type,
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        facts["name"] = properties.name
        facts["memory_gb"] = properties.total_memory / 1e9
        facts["cuda"] = torch.version.cuda
        facts["driver"] = _driver()
    save(facts, _text(facts))
    side = 64 if settings.small else 8192
    facts[f"product of {side}^3 in bf16, TFLOP/s"] = _product_rate(side, side, side, device)
    if not settings.small:
        # The products of a step with 16,384 tokens: a projection, and both of a feed-forward.
        for columns, inner in ((2048, 2048), (8192, 2048), (2048, 8192)):
            rate = _product_rate(16384, columns, inner, device)
            facts[f"product [16384 {inner}] [{inner} {columns}] in bf16, TFLOP/s"] = rate
    facts["copy, TB/s (read and written)"] = _copy_rate(2**16 if settings.small else 2**31, device)
    save(facts, _text(facts))


def _text(facts: JSON) -> str:
    rows = []
    for name, value in facts.items():
        rows.append((name, f"{value:.4g}" if isinstance(value, float) else value))
    return table(("", "value"), rows)


def _driver() -> str:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError) as error:
        print(error, file=sys.stderr)
        return "unknown"


def _product_rate(rows: int, columns: int, inner: int, device: torch.device) -> float:
    """Returns the TFLOP/s of a product [rows inner] [inner columns] in bf16, of random numbers."""
    left = torch.randn(rows, inner, device=device, dtype=torch.bfloat16)
    right = torch.randn(inner, columns, device=device, dtype=torch.bfloat16)
    product = torch.empty(rows, columns, device=device, dtype=torch.bfloat16)
    marks = Marks(device)
    for turn in range(_WARM_UP + _TIMED):
        if turn == _WARM_UP:
            marks.add("products")
        torch.mm(left, right, out=product)
    marks.add("end")
    [(_, seconds)] = marks.seconds()
    return 2 * rows * columns * inner * _TIMED / seconds / 1e12


def _copy_rate(size: int, device: torch.device) -> float:
    """Returns the TB/s of a copy of ``size`` bytes within the device's memory, counting bytes read and written."""
    source = torch.empty(size, dtype=torch.uint8, device=device)
    target: Tensor = torch.empty_like(source)
    marks = Marks(device)
    for turn in range(_WARM_UP + _TIMED):
        if turn == _WARM_UP:
            marks.add("copies")
        target.copy_(source)
    marks.add("end")
    [(_, seconds)] = marks.seconds()
    return 2 * size * _TIMED / seconds / 1e12
