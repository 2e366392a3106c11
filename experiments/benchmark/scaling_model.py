"""A model on paper of a training step: seconds of compute, communication and data, and memory of a process.

Compute is the arithmetic of the step over the rate that the device reaches. Communication is that of ring collectives
(all-gather, reduce-scatter) and trees (all-reduce), whose hops have a latency each. A GPU communicates while it
computes, so a pass takes the longer of the two times. Sources: the arithmetic of experiments/benchmark/flops.py;
docs/scaling.md for the assumptions.
"""

import math
from dataclasses import dataclass
from typing import Protocol

from experiments.benchmark.flops import training_step
from experiments.benchmark.shapes import MLP_RATIO, Shape

#: Bytes of a number.
BF16, FP32 = 2, 4
#: Bytes that AdamW reads and writes for a parameter: weight, gradient and both moments, in fp32.
_OPTIMIZER_TRAFFIC = 28
#: Bytes of the gradients that DDP reduces together.
_DDP_BUCKET = 25 * 2**20
#: Bytes kept for the backward pass: of a token and a unit of width in a frozen layer and in a gated block; of an image.
_KEPT_BY_LAYER, _KEPT_BY_BLOCK, _KEPT_BY_IMAGE = 20, 28, 35e6


class Network(Protocol):
    """The seconds of collectives, given the bytes of the whole tensor and the number of processes."""

    def all_gather(self, size: float, ranks: int) -> float:
        """Returns the seconds in which each process gets the parts of all."""
        ...

    def reduce_scatter(self, size: float, ranks: int) -> float:
        """Returns the seconds in which each process gets its part of the sum."""
        ...

    def all_reduce(self, size: float, ranks: int) -> float:
        """Returns the seconds in which each process gets the whole sum."""
        ...

    def all_reduce_of_nodes(self, size: float, nodes: int) -> float:
        """Returns the seconds of an all-reduce with one process of each node."""
        ...


@dataclass(frozen=True)
class Cluster:
    """Nodes of GPUs, with the rates that transfers reach."""

    gpus_per_node: int = 8
    #: Bytes a second from one GPU to the others of its node, and from a GPU to another node.
    node_bandwidth: float = 360e9
    network_bandwidth: float = 40e9
    #: Seconds of a hop within a node and between nodes.
    node_latency: float = 3e-6
    network_latency: float = 10e-6

    def all_gather(self, size: float, ranks: int) -> float:
        """Returns the seconds of a ring: each process sends its part, and those that it receives."""
        return self._hops(ranks) + size * (ranks - 1) / ranks / self._ring_bandwidth(ranks)

    def reduce_scatter(self, size: float, ranks: int) -> float:
        """Returns the seconds of a ring."""
        return self.all_gather(size, ranks)

    def all_reduce(self, size: float, ranks: int) -> float:
        """Returns the seconds of two trees: the sums go up, the result goes down."""
        latency = self.node_latency if ranks <= self.gpus_per_node else self.network_latency
        hops = 2 * math.ceil(math.log2(ranks)) * latency
        return hops + 2 * size * (ranks - 1) / ranks / self._ring_bandwidth(ranks)

    def all_reduce_of_nodes(self, size: float, nodes: int) -> float:
        """Returns the seconds of an all-reduce with one GPU of each node, through the network card of each."""
        hops = 2 * math.ceil(math.log2(nodes)) * self.network_latency
        return hops + 2 * size * (nodes - 1) / nodes / self.network_bandwidth

    def _nodes(self, ranks: int) -> int:
        return math.ceil(ranks / self.gpus_per_node)

    def _hops(self, ranks: int) -> float:
        nodes = self._nodes(ranks)
        return (ranks - nodes) * self.node_latency + (nodes - 1) * self.network_latency

    def _ring_bandwidth(self, ranks: int) -> float:
        """Returns the rate of a ring. Between nodes it uses the network cards of all GPUs of a node."""
        if self._nodes(ranks) == 1:
            return self.node_bandwidth
        return min(self.node_bandwidth, self.gpus_per_node * self.network_bandwidth)


@dataclass(frozen=True)
class Device:
    """A device and its host."""

    #: Operations a second that a step reaches without communication.
    flops_per_second: float
    #: Bytes a second that are read and written.
    memory_bandwidth: float
    #: Images a second that the host decodes for this device.
    images_per_second: float
    #: Seconds in which the host starts the kernels of a batch. A small batch takes no less.
    launch_seconds: float = 0.0
    #: Whether the device computes while it communicates.
    overlaps: bool = True


@dataclass(frozen=True)
class Layout:
    """How the processes share the weights: ``parallel.kind``, and the processes that share one copy."""

    kind: str
    ranks: int
    shards: int = 1
    #: Bytes of a weight that is gathered.
    gathered: int = BF16


@dataclass(frozen=True)
class Update:
    """The batches of one process in an update."""

    rows: int
    tokens: int
    images: int
    accumulate: int = 1


@dataclass(frozen=True)
class StepTime:
    """The seconds of a step."""

    compute: float
    #: All communication, and the part that the step waits for.
    communication: float
    waiting: float
    optimizer: float
    #: What the host needs for the images.
    data: float

    @property
    def seconds(self) -> float:
        """Those of the whole step. Images are decoded during the step before."""
        return max(self.compute + self.waiting + self.optimizer, self.data)


@dataclass(frozen=True)
class Weights:
    """The numbers of weights that FSDP gathers together."""

    layer: int
    num_layers: int
    embedding: int
    #: Without the projections to keys and values, each of which is a group.
    block: int
    projection: int
    num_blocks: int
    connector: int
    vision: int

    @property
    def trained(self) -> int:
        """All trained ones."""
        return sum(self.trained_groups())

    @property
    def frozen_language(self) -> int:
        """Those of the language model."""
        return self.layer * self.num_layers + self.embedding

    def trained_groups(self) -> list[int]:
        """Returns the trained weights of each group."""
        return [self.block, self.projection, self.projection] * self.num_blocks + [self.connector]

    def gathered_twice(self) -> list[int]:
        """Returns the weights of the groups that both passes gather: all but the embedding, which stays gathered."""
        return [self.layer] * self.num_layers + self.trained_groups()


def weights(shape: Shape) -> Weights:
    """Returns the numbers of weights of a shape, without biases and norms."""
    mlp = 2 * MLP_RATIO
    return Weights(
        layer=(4 + mlp) * shape.width**2,
        num_layers=shape.layers,
        embedding=shape.vocab_size * shape.width,
        block=2 * shape.width * shape.inner + mlp * shape.width**2,
        projection=shape.vision_width * shape.inner,
        num_blocks=shape.layers // shape.every,
        connector=shape.resampler_depth * (4 * shape.vision_width * shape.inner + mlp * shape.vision_width**2),
        vision=shape.vision_layers * (4 + mlp) * shape.vision_width**2,
    )


@dataclass(frozen=True)
class _Pass:
    """The seconds of a forward or backward pass."""

    compute: float
    #: Communication during which nothing can be computed.
    exposed: float
    #: Communication during which the device may compute.
    overlapped: float


def step_time(shape: Shape, update: Update, layout: Layout, device: Device, network: Network) -> StepTime:
    """Returns the seconds of a training step.

    Args:
        shape: The model.
        update: The batches of one process.
        layout: How the processes share the weights.
        device: The device of each process.
        network: The collectives.
    """
    flops = training_step(shape, update.rows, update.tokens, update.images)
    backward_of_trained = 2 / 3 * (flops["connector, x 3"] + flops["gated blocks, x 3"])
    backward_of_frozen = flops["language model's weights, x 2"] / 2 + flops["language model's attention, x 3"] * 2 / 3
    share_of_backward = (backward_of_trained + backward_of_frozen) / sum(flops.values())
    seconds = max(sum(flops.values()) / device.flops_per_second, device.launch_seconds)
    backward = share_of_backward * seconds
    forward = seconds - backward
    gathers, reductions, first, last = _collectives(weights(shape), layout, network)
    # Gradients are reduced once an update.
    passes = [_Pass(forward, first, gathers), _Pass(backward, 0.0, gathers)] * (update.accumulate - 1)
    passes += [_Pass(forward, first, gathers), _Pass(backward, last, gathers + reductions - last)]
    communication = sum(one.exposed + one.overlapped for one in passes)
    waiting = communication
    if device.overlaps:
        waiting = sum(one.exposed + max(0.0, one.overlapped - one.compute) for one in passes)
    trained = weights(shape).trained / layout.shards
    return StepTime(
        compute=update.accumulate * seconds,
        communication=communication,
        waiting=waiting,
        optimizer=trained * _OPTIMIZER_TRAFFIC / device.memory_bandwidth,
        data=update.accumulate * update.rows * update.images / device.images_per_second,
    )


def _collectives(groups: Weights, layout: Layout, network: Network) -> tuple[float, float, float, float]:
    """Returns the seconds of the gathers of both passes, of all reductions, the first gather and the last reduction.

    The first gather is that of the embedding. Nothing is computed during it and the last reduction.
    """
    if layout.ranks == 1:
        return 0.0, 0.0, 0.0, 0.0
    if layout.kind == "ddp":
        size = groups.trained * FP32
        last = network.all_reduce(min(size, _DDP_BUCKET), layout.ranks)
        return 0.0, network.all_reduce(size, layout.ranks), 0.0, last
    gathers = sum(network.all_gather(number * layout.gathered, layout.shards) for number in groups.gathered_twice())
    reductions = sum(_reduction(number * FP32, layout, network) for number in groups.trained_groups())
    first = network.all_gather(groups.embedding * layout.gathered, layout.shards)
    last = _reduction(groups.block * FP32, layout, network)
    return gathers, reductions, first, last


def _reduction(size: float, layout: Layout, network: Network) -> float:
    """Returns the seconds in which the gradients of a group are summed over all processes."""
    seconds = network.reduce_scatter(size, layout.shards)
    copies = layout.ranks // layout.shards
    if copies > 1:
        seconds += network.all_reduce_of_nodes(size / layout.shards, copies)
    return seconds


def step_memory(shape: Shape, update: Update, layout: Layout) -> float:
    """Returns the bytes of a process in a training step, without those of a whole batch's logits.

    Frozen weights are bf16. A trained one has an fp32 weight and gradient, and two moments. With shards, two groups
    are gathered at a time in bf16; without, trained weights have a bf16 copy. No activation is recomputed.

    Args:
        shape: The model.
        update: The batches of the process.
        layout: How the processes share the weights.
    """
    groups = weights(shape)
    frozen = groups.frozen_language * BF16 / layout.shards + groups.vision * BF16
    trained = groups.trained * 4 * FP32 / layout.shards
    if layout.shards == 1:
        copies = groups.trained * BF16
    else:
        copies = (groups.embedding + 2 * (groups.layer + groups.block)) * BF16 + groups.block * FP32
    kept_by_token = shape.width * (_KEPT_BY_LAYER * groups.num_layers + _KEPT_BY_BLOCK * groups.num_blocks)
    activations = update.rows * (update.tokens * kept_by_token + update.images * _KEPT_BY_IMAGE)
    return frozen + trained + copies + activations
