r"""Measures the kernels of self-attention in packed rows, as training.packed_attention names them, on one layer.

python -m experiments.benchmark.attention_kernels                  on CUDA: all kernels, forward and backward, in bf16
python -m experiments.benchmark.attention_kernels --device cpu     dense and flex attention, tiny and forward only

Prints milliseconds of a layer, and of the mask, which a batch needs once. The outputs of a kernel are compared with
those of the dense mask. OUTPUT/attention_kernels.json has the results. Flex attention is compiled on CUDA only.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from flamingo.data.packing import segment_bounds
from flamingo.model import PACKED_ATTENTION
from flamingo.model.packed_attention import attention, packed_mask
from flamingo.utils.devices import device_title
from flamingo.utils.io import write_text


@dataclass(frozen=True)
class Rows:
    """Packed rows: their number, their tokens, and the shortest and the longest document."""

    name: str
    rows: int
    tokens: int
    shortest: int
    longest: int


#: Updates of 16,384 tokens: captioned images, and pages.
FULL = (
    Rows("pairs", 64, 256, 16, 48),
    Rows("pairs, long rows", 8, 2048, 16, 48),
    Rows("pages", 16, 1024, 100, 500),
    Rows("pages, long rows", 8, 2048, 100, 500),
)
SMALL = (Rows("pairs", 2, 64, 8, 24),)


@dataclass(frozen=True)
class Timing:
    """The times of a kernel in milliseconds, and its largest difference from the dense mask."""

    rows: str
    kernel: str
    mask: float
    forward: float
    #: Forward and backward; None where it was not run.
    both: float | None
    difference: float


@dataclass(frozen=True)
class Layer:
    """The queries, keys and values of a layer."""

    queries: Float[Tensor, "b k t e"]
    keys: Float[Tensor, "b k t e"]
    values: Float[Tensor, "b k t e"]

    def attend(self, mask: Any) -> Float[Tensor, "b t k e"]:
        """Returns the outputs under a mask of :func:`flamingo.model.packed_attention.packed_mask`."""
        return attention(nn.Identity(), self.queries, self.keys, self.values, mask)[0]


def main() -> None:
    """Measures all kernels that the device has, and prints their times."""
    arguments = _arguments()
    device = torch.device(arguments.device)
    is_cuda = device.type == "cuda"
    dtype = torch.bfloat16 if is_cuda else torch.float32
    timings = []
    print(f"{device_title(device)}, {dtype}, {arguments.heads} heads of {arguments.head_dim}")
    for rows in FULL if is_cuda else SMALL:
        segment_ids = draw_documents(rows).to(device)
        shape = (rows.rows, arguments.heads, rows.tokens, arguments.head_dim)
        parts = [torch.randn(shape, device=device, dtype=dtype, requires_grad=is_cuda) for _ in range(3)]
        for kernel in PACKED_ATTENTION if is_cuda else ("dense", "flex"):
            timing = measure(rows.name, kernel, Layer(*parts), segment_ids, arguments.rounds)
            timings.append(timing)
            both = "" if timing.both is None else f", with backward {timing.both:.3f} ms"
            print(
                f"{timing.rows}, {timing.kernel}: mask {timing.mask:.3f} ms, forward {timing.forward:.3f} ms{both}, "
                f"difference {timing.difference:.1e}"
            )
    text = json.dumps([asdict(timing) for timing in timings], indent=1)
    write_text(arguments.output / "attention_kernels.json", text + "\n")


def draw_documents(rows: Rows) -> Int[Tensor, "b t"]:
    """Returns the document of each token in rows of random documents, and -1 for the rest of a row."""
    generator = torch.Generator().manual_seed(0)
    segment_ids = torch.full((rows.rows, rows.tokens), -1, dtype=torch.int32)
    for row in segment_ids:
        start, number = 0, 0
        while True:
            length = int(torch.randint(rows.shortest, rows.longest + 1, (), generator=generator))
            if start + length > rows.tokens:
                break
            row[start : start + length] = number
            start += length
            number += 1
    return segment_ids


def measure(name: str, kernel: str, layer: Layer, segment_ids: Int[Tensor, "b t"], rounds: int) -> Timing:
    """Returns the times of a kernel.

    Args:
        name: The name of the rows.
        kernel: One of :data:`flamingo.model.PACKED_ATTENTION`.
        layer: The layer. With gradients the backward pass is measured, too.
        segment_ids: The document of each token.
        rounds: The number of measurements, of which the median counts.
    """
    bounds = segment_bounds(segment_ids)

    def make_mask() -> Any:
        return packed_mask(kernel, segment_ids, bounds, None)

    mask = make_mask()
    has_gradients = layer.queries.requires_grad
    with torch.no_grad():
        expected = layer.attend(packed_mask("dense", segment_ids, bounds, None))
        difference = (layer.attend(mask) - expected).abs().max().item()
        forward = _milliseconds(lambda: layer.attend(mask), segment_ids.device, rounds)
    both = None
    if has_gradients:
        gradient = torch.randn_like(expected)
        both = _milliseconds(lambda: layer.attend(mask).backward(gradient), segment_ids.device, rounds)
    return Timing(name, kernel, _milliseconds(make_mask, segment_ids.device, rounds), forward, both, difference)


def _milliseconds(run: Callable[[], object], device: torch.device, rounds: int) -> float:
    """Returns the median time of ``run`` after two calls that compile and warm up."""
    times = []
    for number in range(rounds + 2):
        _wait(device)
        start = time.perf_counter()
        run()
        _wait(device)
        if number >= 2:
            times.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--heads", type=int, default=32, help="attention heads, as OPT-1.3B has them")
    parser.add_argument("--head_dim", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--output", type=Path, default=Path("outputs/benchmark"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
