"""Compiled layers: gradients as without, few graphs, the same names, and checkpoints and hooks outside the graphs."""

import pytest
import torch
from torch._dynamo.utils import counters

from flamingo.data.collate import EncodedExample
from flamingo.data.packing import pack
from flamingo.model.compilation import compile_layers, is_compiled
from flamingo.utils.errors import UserError
from tests import tiny
from tests.helpers.graphs import KINDS, counted_graphs
from tests.helpers.model_calls import GREEDY, loss_and_gradients

pytestmark = pytest.mark.full


@pytest.fixture
def backend(monkeypatch):
    counters.clear()
    with counted_graphs(monkeypatch) as graphs:
        yield graphs


def batches():
    """Batches of different sizes: of one image, padded, and without images."""
    made = []
    for documents, images in [(1, 1), (2, 3), (3, 3), (1, 2), (4, 0)]:
        inputs = tiny.inputs(documents)
        inputs["image_index"] = inputs["image_index"].clamp(max=images - 1)
        inputs["pixel_values"] = inputs["pixel_values"][:, :images]
        if documents == 3:
            inputs["attention_mask"][0, -4:] = 0
        made.append({**inputs, "labels": inputs["input_ids"]})
    return made


def packed():
    made = []
    for documents in (2, 3):
        inputs = tiny.inputs(documents)
        examples = []
        for row in range(documents):
            ids, pixels = inputs["input_ids"][row].cpu(), inputs["pixel_values"][row].cpu()
            index = inputs["image_index"][row].cpu()
            examples.append(EncodedExample(ids, index, ids.clone(), pixels.unsqueeze(1)))
        made.append(tiny.devices.moved(pack([[example] for example in examples], 30, 0)))
    return made


@pytest.mark.parametrize("family", ["gpt2", "gemma3_text"])
def test_gradients_are_those_without_compilation(backbones, backend, family):
    """Gemma's layers are of two kinds, and cannot take packed rows."""
    model = tiny.flamingo(backbones, language=family).train()
    names = list(model.state_dict())
    given = batches()[1:3] if family == "gemma3_text" else batches() + packed()
    expected = [loss_and_gradients(model, batch) for batch in given]
    compile_layers(model, backend)
    for batch, (loss, gradients) in zip(given, expected, strict=True):
        compiled_loss, compiled_gradients = loss_and_gradients(model, batch)
        torch.testing.assert_close(compiled_loss, loss)
        for name, gradient in gradients.items():
            torch.testing.assert_close(compiled_gradients[name], gradient, msg=name)
    assert not counters["graph_break"]
    made = len(backend.made)
    assert made <= 24
    assert set(backend.made) == set(KINDS)
    for batch in given:
        loss_and_gradients(model, batch)
    assert len(backend.made) == made
    assert list(model.state_dict()) == names


def test_layers_of_a_class_share_their_graphs(backbones, backend):
    model = tiny.flamingo(backbones).train()
    compile_layers(model, backend)
    loss_and_gradients(model, batches()[1])
    # The first layer of the connector gets the latents as a view, which all images share.
    assert sorted(backend.made) == sorted([*KINDS, "connector layer"])
    assert backend.runs_by_kind() == [4, 2, 2, 3]


def test_checkpointed_layers_run_their_graphs_twice(backbones, backend):
    model = tiny.flamingo(backbones).train()
    loss, gradients = loss_and_gradients(model, batches()[1])
    compile_layers(model, backend)
    model.gradient_checkpointing_enable()
    compiled_loss, compiled_gradients = loss_and_gradients(model, batches()[1])
    torch.testing.assert_close(compiled_loss, loss)
    for name, gradient in gradients.items():
        torch.testing.assert_close(compiled_gradients[name], gradient, msg=name)
    assert backend.runs_by_kind() == [8, 4, 4, 3]
    assert not counters["graph_break"]


def test_generation_uses_no_graph_of_the_language_model(backbones, backend):
    model = tiny.flamingo(backbones)
    expected = model.generate(**tiny.inputs(), **GREEDY)
    compile_layers(model, backend)
    assert torch.equal(model.generate(**tiny.inputs(), **GREEDY), expected)
    assert set(backend.made) == {"encoder layer"}


def test_layers_that_train_later_get_their_gradients(backbones, backend):
    parts = ["language_model", "fusion"]
    model = tiny.flamingo(backbones).train()
    model.train_parts(parts)
    _, expected = loss_and_gradients(model, batches()[1])
    model.train_parts(["fusion"])
    compile_layers(model, backend)
    loss_and_gradients(model, batches()[1])
    model.train_parts(parts)
    _, gradients = loss_and_gradients(model, batches()[1])
    assert gradients.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(gradients[name], gradient, msg=name)


def test_bfloat16_autocast_is_a_part_of_the_graphs(backbones, backend):
    model = tiny.flamingo(backbones).train()
    with torch.autocast(model.device.type, torch.bfloat16):
        loss, _ = loss_and_gradients(model, batches()[1])
        compile_layers(model, backend)
        compiled_loss, _ = loss_and_gradients(model, batches()[1])
    assert torch.equal(compiled_loss, loss)


def test_a_machine_without_a_compiler_is_named(backbones, monkeypatch):
    monkeypatch.setattr(torch._inductor.config.cpp, "cxx", ("no-such-compiler",))
    model = tiny.flamingo(backbones)
    with pytest.raises(UserError, match=r"training\.compile"):
        compile_layers(model)
    assert not is_compiled(model)


def test_a_model_without_repeated_layers_is_refused():
    with pytest.raises(UserError, match=r"training\.compile"):
        compile_layers(torch.nn.Linear(2, 2), "eager")
