r"""Measures kernels of one layer: self-attention of packed rows, and attention from text tokens to one image each.

python -m experiments.benchmark.attention_kernels                  on CUDA: all kernels, forward and backward, in bf16
python -m experiments.benchmark.attention_kernels --device cpu     what a CPU has, tiny and forward only

The kernels of packed rows are those of training.packed_attention. Prints milliseconds of a layer, and of what a batch
needs once: masks and groups. The outputs of a kernel are compared with those of the first one.
OUTPUT/attention_kernels.json has the results. Flex attention is compiled on CUDA only.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from experiments.benchmark.image_attention import ImageLayer, ways
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
class Images:
    """Rows of tokens that see one image after the other, and the shape of the keys."""

    name: str
    rows: int
    tokens: int
    images: int
    heads: int
    head_dim: int
    visual_tokens: int


#: Gated blocks of the 3B shape.
FULL_IMAGES = (
    Images("3 images", 64, 256, 3, 16, 128, 64),
    Images("8 images", 8, 256, 8, 16, 128, 64),
    Images("64 images of packed pairs", 8, 2048, 64, 16, 128, 64),
)
SMALL_IMAGES = (Images("3 images", 2, 48, 3, 2, 16, 8),)


@dataclass(frozen=True)
class Timing:
    """The times of a kernel in milliseconds, and its largest difference from the first one."""

    rows: str
    kernel: str
    #: Of the mask or the groups, which a batch needs once.
    once: float
    forward: float
    #: Forward and backward; None where it was not run.
    both: float | None
    difference: float

    def line(self) -> str:
        """Returns the printed line."""
        both = "" if self.both is None else f", with backward {self.both:.3f} ms"
        return (
            f"{self.rows}, {self.kernel}: once {self.once:.3f} ms, forward {self.forward:.3f} ms{both}, "
            f"difference {self.difference:.1e}"
        )


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
    print(f"{device_title(device)}; packed rows have {arguments.heads} heads of {arguments.head_dim}")
    timings = []
    for timing in measure_all(device, arguments.heads, arguments.head_dim, arguments.rounds):
        timings.append(timing)
        print(timing.line())
    text = json.dumps([asdict(timing) for timing in timings], indent=1)
    write_text(arguments.output / "attention_kernels.json", text + "\n")


def measure_all(device: torch.device, heads: int, head_dim: int, rounds: int) -> Iterator[Timing]:
    """Yields the times of all kernels: on CUDA in bfloat16, on another device of tiny rows in float32.

    Args:
        device: The device.
        heads: The attention heads of packed rows.
        head_dim: The width of a head.
        rounds: The number of measurements, of which the median counts.
    """
    is_cuda = device.type == "cuda"
    dtype = torch.bfloat16 if is_cuda else torch.float32
    for rows in FULL if is_cuda else SMALL:
        segment_ids = draw_documents(rows).to(device)
        shape = (rows.rows, heads, rows.tokens, head_dim)
        parts = [torch.randn(shape, device=device, dtype=dtype, requires_grad=is_cuda) for _ in range(3)]
        for kernel in PACKED_ATTENTION if is_cuda else ("dense", "flex"):
            yield measure(rows.name, kernel, Layer(*parts), segment_ids, rounds)
    for images in FULL_IMAGES if is_cuda else SMALL_IMAGES:
        yield from measure_images(images, device, dtype, rounds)


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


def measure_images(images: Images, device: torch.device, dtype: torch.dtype, rounds: int) -> Iterator[Timing]:
    """Yields the times of all ways of attention from tokens to their image."""
    has_gradients = device.type == "cuda"
    queries = torch.randn(images.rows, 1, images.tokens, images.heads, images.head_dim, device=device, dtype=dtype)
    shape = (images.rows, images.images, images.heads, images.visual_tokens, images.head_dim)
    keys, values = torch.randn(2, *shape, device=device, dtype=dtype)
    index = torch.arange(images.tokens, device=device) * images.images // images.tokens
    for tensor in (queries, keys, values):
        tensor.requires_grad_(has_gradients)
    layer = ImageLayer(queries, keys, values, index.expand(images.rows, 1, -1))
    expected: Tensor | None = None
    for name, way in ways(device).items():
        attend = way(layer)
        with torch.no_grad():
            outputs = attend()
            expected = outputs if expected is None else expected
            difference = (outputs - expected).abs().max().item()
            forward = _milliseconds(attend, device, rounds)
        both = None
        if has_gradients:
            gradient = torch.randn_like(outputs)
            both = _milliseconds(partial(_forward_backward, attend, gradient), device, rounds)
        once = _milliseconds(partial(way, layer), device, rounds)
        yield Timing(images.name, name, once, forward, both, difference)


def _forward_backward(attend: Callable[[], Tensor], gradient: Tensor) -> None:
    attend().backward(gradient)


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
