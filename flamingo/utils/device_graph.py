"""Work on a device as a graph of its kernels, which the host starts by one call."""

import logging
from collections.abc import Callable

import torch
from jaxtyping import Shaped
from torch import Tensor

from flamingo.utils.devices import is_cuda

log = logging.getLogger(__name__)
#: Passes before a capture, in which kernels are chosen and workspaces allocated.
_WARM_UP = 2
#: Kernels of 16 bits may add in another order.
_TOLERANCE = 1e-2


class DeviceGraph:
    """A function of tensors that stay in place, captured as a CUDA graph.

    On other devices, and where the function cannot be captured, it is called each time.
    """

    def __init__(self, function: Callable[[], Shaped[Tensor, "..."]], device: torch.device) -> None:
        """Takes a function whose calls with the same inputs change nothing.

        Args:
            function: Reads and writes tensors of the same addresses in each call, and reads nothing on the host.
            device: The device of the tensors.
        """
        self._function = function
        self._captures = is_cuda(device)
        self._graph: torch.cuda.CUDAGraph | None = None
        self._output: Tensor | None = None

    def __call__(self) -> Shaped[Tensor, "..."]:
        """Returns the result for the present values of the tensors. The first call captures the graph."""
        if self._graph is None and self._captures:
            return self._capture()
        if self._graph is None:
            return self._function()
        self._graph.replay()
        assert self._output is not None
        return self._output.clone()

    def _capture(self) -> Tensor:
        """Returns the result of a plain call, after a graph was captured that gives the same."""
        expected = self._function().clone()
        self._captures = False
        try:
            graph, output = _captured(self._function)
        except RuntimeError as error:
            log.warning("decoding without a graph of kernels, which is slower: %s", str(error).splitlines()[0])
            return expected
        graph.replay()
        if torch.allclose(output.float(), expected.float(), rtol=_TOLERANCE, atol=_TOLERANCE):
            self._graph, self._output = graph, output
        else:
            log.warning("decoding without a graph of kernels, which is slower: the graph gives other values")
        return expected


def _captured(function: Callable[[], Tensor]) -> tuple[torch.cuda.CUDAGraph, Tensor]:
    """Returns the graph of a function, and the tensor that it writes.

    Other threads, which copy batches to the device, may go on.
    """
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(_WARM_UP):
            function()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        output = function()
    return graph, output
