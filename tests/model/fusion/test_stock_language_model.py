"""The language model stays a stock Hugging Face model."""

import copy

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM

from flamingo.model.fusion import cross_attention, gated_block
from flamingo.model.fusion.base import VisualContext
from flamingo.model.layers import repeated_layers
from flamingo.utils.errors import UserError
from tests import tiny
from tests.helpers import devices


@pytest.mark.parametrize("gate", ["scalar", "vector"])
def test_gates_at_zero_give_the_logits_of_the_language_model(backbones, family, gate):
    model = tiny.flamingo(backbones, language=family, gates=0.0, fusion={"gate": gate, "every": 1, "offset": 0})
    bare = AutoModelForCausalLM.from_pretrained(backbones / family).eval().to(devices.DEVICE)
    inputs = tiny.inputs()
    inputs["input_ids"] %= tiny.VOCABULARY  # the bare model knows no new tokens
    expected = bare(inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits
    logits = model(**inputs).logits
    assert torch.equal(logits[..., : tiny.VOCABULARY], expected)
    tiny.open_gates(model, 0.7)
    assert not torch.allclose(model(**inputs).logits[..., : tiny.VOCABULARY], expected, atol=1e-2)


def test_gates_at_zero_and_padding_give_the_bare_models_logits(backbones, family):
    model = tiny.flamingo(backbones, language=family, gates=0.0)
    bare = AutoModelForCausalLM.from_pretrained(backbones / family).eval().to(devices.DEVICE)
    inputs = tiny.inputs()
    inputs["input_ids"] %= tiny.VOCABULARY
    inputs["attention_mask"][0, :3] = 0
    inputs["attention_mask"][1, -4:] = 0
    arguments = {k: inputs[k] for k in ("input_ids", "attention_mask")}
    if family != "mpt":  # ALiBi: no positions
        arguments["position_ids"] = (inputs["attention_mask"].cumsum(-1) - 1).clamp(min=0)
    real = inputs["attention_mask"].bool()
    assert torch.equal(model(**inputs).logits[real][:, : tiny.VOCABULARY], bare(**arguments).logits[real])


def test_called_by_itself_the_language_model_is_the_bare_one(backbones, model, family):
    bare = AutoModelForCausalLM.from_pretrained(backbones / family).eval().to(devices.DEVICE)
    ids = tiny.inputs()["input_ids"] % tiny.VOCABULARY
    model(**tiny.inputs())
    assert torch.equal(model.language_model(ids).logits, bare(ids).logits)
    assert list(model.language_model.state_dict()) == list(bare.state_dict())


def test_blocks_stand_before_every_nth_layer_from_the_offset(backbones):
    for every, offset, expected in [(1, 0, [0, 1, 2, 3]), (2, 1, [1, 3]), (3, 0, [0, 3]), (4, 2, [2])]:
        model = tiny.flamingo(backbones, fusion={"every": every, "offset": offset})
        assert [int(index) for index in model.fusion.blocks] == expected
        # A block's place shows in the layers' outputs: the first that it changes is that of its layer.
        outputs: list[list[torch.Tensor]] = [[] for _ in range(4)]
        for layer, mine in zip(repeated_layers(model.language_model), outputs):
            layer.register_forward_hook(lambda module, args, output, mine=mine: mine.append(output))
        inputs = tiny.inputs()
        inputs["input_ids"] %= tiny.VOCABULARY
        model.language_model(inputs["input_ids"])
        model(**inputs)
        changed = [i for i, (bare, spliced) in enumerate(outputs) if not torch.equal(bare[0], spliced[0])]
        assert changed == list(range(expected[0], 4))


def test_a_deep_copy_is_a_model_of_its_own(gpt2):
    inputs = tiny.inputs()
    before = gpt2(**inputs).logits
    twin = copy.deepcopy(gpt2)
    assert torch.equal(twin(**inputs).logits, before)
    tiny.open_gates(twin, 0.1)
    assert not torch.equal(twin(**inputs).logits, before)
    assert torch.equal(gpt2(**inputs).logits, before)


def test_a_block_that_was_replaced_is_the_one_that_acts(gpt2):
    """Wrapped by a compiler or a sharding library, say."""

    class Twice(nn.Module):
        def __init__(self, block):
            super().__init__()
            self.block = block
            self.keys_values = block.keys_values

        def forward(self, hidden, *rest):
            return self.block(self.block(hidden, *rest), *rest)

    before = gpt2(**tiny.inputs()).logits
    gpt2.fusion.blocks["3"] = Twice(gpt2.fusion.blocks["3"])
    assert (gpt2(**tiny.inputs()).logits - before).abs().max() > 1e-2


def test_nothing_stays_visible_after_an_error(gpt2):
    state = gpt2.visual_state(torch.randn(1, 1, 5, 24))
    context = VisualContext(state, torch.zeros(1, 3, dtype=torch.long))
    with pytest.raises(RuntimeError, match="stop"), gpt2.fusion.attached(context), gpt2.new_token_logits.attached():
        raise RuntimeError("stop")
    bare = gpt2.language_model(torch.tensor([[5, 6, 7]])).logits
    assert bare.shape[-1] == tiny.VOCABULARY


def test_a_language_model_without_one_list_of_layers_is_refused(gpt2):
    gpt2.language_model.twin = nn.ModuleList(nn.Identity() for _ in range(4))
    with pytest.raises(UserError, match=r"ModuleList.*num_hidden_layers=4.*transformer.h.*twin"):
        repeated_layers(gpt2.language_model)
    gpt2.language_model.config.num_hidden_layers = 9
    with pytest.raises(UserError, match="found none"):
        repeated_layers(gpt2.language_model)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("skipped", r"GPT2LMHeadModel did not call layer 1 as the module"),
        ("replaced", r"GPT2LMHeadModel did not call layer 1, 3 as the module"),
        ("head", r"GPT2LMHeadModel did not call the output head as the module"),
    ],
)
def test_a_forward_pass_without_one_of_the_blocks_is_refused(gpt2, change, message):
    layers = repeated_layers(gpt2.language_model)
    if change == "skipped":
        gpt2.language_model.transformer.h = nn.ModuleList([layers[0], layers[2], layers[3]])
    elif change == "replaced":
        other = type(gpt2.language_model)(gpt2.language_model.config).to(gpt2.device)
        gpt2.language_model.transformer.h = other.transformer.h
    else:
        gpt2.language_model.set_output_embeddings(nn.Linear(32, tiny.VOCABULARY, bias=False).to(gpt2.device))
    with pytest.raises(ValueError, match=message):
        gpt2(**tiny.inputs())


def test_checkpointed_layers_count_as_called(gpt2):
    """In the backward pass they are run again, outside of any forward pass."""
    gpt2.train()
    gpt2.gradient_checkpointing_enable()
    gpt2(**tiny.inputs(), labels=tiny.inputs()["input_ids"]).loss.backward()


def test_tokens_are_grouped_by_image_once_for_all_blocks(gpt2, monkeypatch):
    """Also for the backward pass, which computes the attention in groups again."""
    grouped = []
    group_tokens = cross_attention.group_tokens
    for module in (cross_attention, gated_block):
        monkeypatch.setattr(module, "group_tokens", lambda *args: grouped.append(args) or group_tokens(*args))
    inputs = tiny.inputs()
    gpt2(**inputs, labels=inputs["input_ids"]).loss.backward()
    assert len(grouped) == 1 and len(gpt2.fusion.blocks) > 1
