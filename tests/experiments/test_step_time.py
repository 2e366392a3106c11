"""The model on paper of a training step, by hand."""

from dataclasses import replace

import pytest

from experiments.benchmark.flops import training_step
from experiments.benchmark.scaling_model import Cluster, Device, Layout, Update, step_memory, step_time, weights
from experiments.benchmark.step_time import layouts
from experiments.gpu_check.big_model import TINY, build_model, build_processor
from flamingo.utils.devices import META

NODE = Cluster(gpus_per_node=4, node_bandwidth=100.0, network_bandwidth=10.0, node_latency=1.0, network_latency=5.0)
UPDATE = Update(rows=2, tokens=8, images=1)
#: A device on which the network alone takes time.
FAST = Device(1e30, 1e30, 1e30, overlaps=False)


def test_a_ring_within_a_node_by_hand():
    # 3 hops of 1 s, and 3/4 of 400 bytes at 100 bytes a second.
    assert NODE.all_gather(400.0, ranks=4) == pytest.approx(3 + 3)
    assert NODE.reduce_scatter(400.0, ranks=4) == pytest.approx(6)


def test_a_ring_between_nodes_uses_the_network_cards_of_a_node():
    # 8 processes on 2 nodes: 6 hops of 1 s, 1 of 5 s; 7/8 of 800 bytes at 4 * 10 bytes a second.
    assert NODE.all_gather(800.0, ranks=8) == pytest.approx(6 + 5 + 700 / 40)


def test_an_all_reduce_by_hand():
    # Trees: 2 * log2(8) hops of 5 s; 2 * 7/8 of 800 bytes at 40 bytes a second.
    assert NODE.all_reduce(800.0, ranks=8) == pytest.approx(30 + 1400 / 40)
    # One process of each of 2 nodes: 2 hops; 2 * 1/2 of 800 bytes at 10 bytes a second.
    assert NODE.all_reduce_of_nodes(800.0, nodes=2) == pytest.approx(10 + 80)


def test_weights_are_those_of_a_built_model():
    model = build_model(TINY, build_processor(TINY), META, dtype=None)
    counted = weights(TINY)
    blocks = sum(parameter.numel() for parameter in model.fusion.parameters() if parameter.ndim == 2)
    assert (counted.block + 2 * counted.projection) * counted.num_blocks == blocks
    connector = sum(parameter.numel() for name, parameter in model.connector.named_parameters() if "layers" in name)
    assert counted.connector == pytest.approx(connector, rel=0.02)
    language_model = model.language_model
    embedding = language_model.get_input_embeddings().weight.numel()
    layers = [parameter for name, parameter in language_model.named_parameters() if ".layers." in name]
    matrices = sum(parameter.numel() for parameter in layers if parameter.ndim == 2)
    assert (counted.embedding, counted.layer * counted.num_layers) == (embedding, matrices)


def test_ddp_reduces_the_trained_weights_once_an_update():
    network = replace(NODE, node_latency=0.0)
    once = step_time(TINY, UPDATE, Layout("ddp", 4), FAST, network)
    assert once.communication == pytest.approx(2 * 0.75 * weights(TINY).trained * 4 / 100)
    accumulated = step_time(TINY, replace(UPDATE, accumulate=3), Layout("ddp", 4), FAST, network)
    assert accumulated.communication == pytest.approx(once.communication)


def test_fsdp_gathers_all_weights_in_both_passes_of_each_batch():
    network = replace(NODE, node_latency=0.0)
    time = step_time(TINY, replace(UPDATE, accumulate=3), Layout("fsdp2", 4, shards=4), FAST, network)
    groups = weights(TINY)
    twice = 2 * (groups.layer * groups.num_layers + groups.trained)
    once = 2 * groups.embedding
    assert time.communication == pytest.approx(0.75 * (3 * (2 * twice + once) + 4 * groups.trained) / 100)


def test_hsdp_reduces_the_shards_between_the_nodes():
    network = replace(NODE, node_latency=0.0, network_latency=0.0)
    in_node = step_time(TINY, UPDATE, Layout("fsdp2", 4, shards=4), FAST, network).communication
    time = step_time(TINY, UPDATE, Layout("hsdp", 8, shards=4), FAST, network)
    assert time.communication - in_node == pytest.approx(4 * weights(TINY).trained / 4 / 10)


def test_a_pass_hides_shorter_communication():
    flops = sum(training_step(TINY, UPDATE.rows, UPDATE.tokens, UPDATE.images).values())
    slow = Device(flops / 1e6, 1e30, 1e30)
    time = step_time(TINY, UPDATE, Layout("fsdp2", 4, shards=4), slow, NODE)
    assert time.compute == pytest.approx(1e6)
    # The first gather and the last reduction only.
    groups = weights(TINY)
    first = NODE.all_gather(groups.embedding * 2, 4)
    assert time.waiting == pytest.approx(first + NODE.reduce_scatter(groups.block * 4, 4))


def test_a_step_takes_as_long_as_its_images():
    slow_host = Device(1e30, 1e30, images_per_second=0.5)
    assert step_time(TINY, UPDATE, Layout("single", 1), slow_host, NODE).seconds == pytest.approx(2 / 0.5)


def test_shards_divide_frozen_weights_and_optimizer_state():
    groups = weights(TINY)
    nothing = Update(rows=0, tokens=0, images=0)
    alone = step_memory(TINY, nothing, Layout("single", 1))
    assert alone == 2 * (groups.frozen_language + groups.vision) + 18 * groups.trained
    of_two = step_memory(TINY, nothing, Layout("fsdp2", 2, shards=2))
    of_four = step_memory(TINY, nothing, Layout("fsdp2", 4, shards=4))
    assert of_two - of_four == (2 * groups.frozen_language + 16 * groups.trained) / 4


def test_one_node_has_no_hsdp():
    assert [layout.kind for layout in layouts(8, gpus_per_node=8)] == ["ddp", "fsdp2"]
    assert layouts(32, gpus_per_node=8)[-1] == Layout("hsdp", 32, shards=8)
