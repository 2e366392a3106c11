"""Inspected weights reproduce the model's outputs, and inspection leaves nothing behind."""

import pytest
import torch
from einops import einsum, rearrange
from transformers.modeling_outputs import CausalLMOutputWithPast

from flamingo.model.inspection import Inspection, inspect, receptive_fields, rollout, without_layers
from tests import tiny


@pytest.fixture
def batch():
    """Three images each; the second document is shorter, and no token of it sees the last image: both are padding."""
    batch = tiny.inputs(2)
    batch["image_index"][1, 9:] = -1
    batch["attention_mask"][1, 9:] = 0
    batch["labels"] = batch["input_ids"].clone()
    return batch


def caught_inputs(model, modules, call):
    """What each of the modules was given during a call, which no fused attention hides: it comes after it."""
    given = []
    hooks = [module.register_forward_pre_hook(lambda _, args: given.append(args[0])) for module in modules]
    call()
    for hook in hooks:
        hook.remove()
    return given


def test_the_outputs_are_those_of_the_model_by_itself(model, batch):
    with torch.no_grad():
        alone, inspection = model(**batch), inspect(model, **batch)
    assert torch.equal(alone.logits, inspection.outputs.logits)
    assert torch.equal(alone.loss, inspection.outputs.loss)


@pytest.mark.parametrize("attend", ["last", "previous"])
def test_weights_sum_to_one_over_visible_images_and_else_to_zero(backbones, batch, attend):
    model = tiny.flamingo(backbones, fusion={"attend": attend})
    cross_attention = inspect(model, **batch).image_attention
    assert list(cross_attention) == [1, 3]
    for weights in cross_attention.values():
        assert weights.shape == (2, 2, 14, 3, 5)
        per_image = weights.sum(-1)
        torch.testing.assert_close(per_image.sum(-1), (batch["image_index"] >= 0).float()[:, None].expand(2, 2, 14))
        for b, t in ((0, 0), (0, 4), (0, 7), (0, 13), (1, 8), (1, 9)):
            index = int(batch["image_index"][b, t])
            seen = {*range(index + 1)} if attend == "previous" else {index} - {-1}
            assert {int(m) for m in per_image[b, 0, t].nonzero()} == seen
    first, second = cross_attention.values()
    assert (first - second).abs().max() > 0.01
    assert (first[:, 0] - first[:, 1]).abs().max() > 0.01, "heads differ"


@pytest.mark.parametrize("config", [{}, {"attend": "previous"}, {"qk_norm": True, "norm": "rms"}], ids=str)
@pytest.mark.parametrize("rows", [1, 2])
def test_cross_attention_times_values_is_what_the_blocks_found(backbones, batch, config, rows):
    """Also for several rows of text that share the images of a document."""
    model = tiny.flamingo(backbones, fusion=config)
    del batch["labels"]
    for name in ("input_ids", "attention_mask", "image_index"):
        batch[name] = batch[name].repeat_interleave(rows, dim=0)
    batch["input_ids"][-1] = batch["input_ids"][-1].flip(0)
    batch["image_index"][-1, 2:5] = 1
    inspection = inspect(model, **batch)
    blocks = list(model.fusion.blocks.values())
    found = caught_inputs(model, [block.attention.to_out for block in blocks], lambda: model(**batch))
    sees = batch["image_index"] >= 0
    for block, weights, attended in zip(blocks, inspection.image_attention.values(), found):
        _, values = block.keys_values(inspection.visual_tokens)
        again = einsum(weights, values.repeat_interleave(rows, 0), "b k t m r, b m k r e -> b t k e").flatten(2)
        torch.testing.assert_close(again[sees], attended[sees])


def test_recorded_attention_times_values_is_the_layers_output(gpt2, batch):
    """Images that no token sees are not resampled, and have zeros in their places."""
    inspection = inspect(gpt2, **batch)
    layers = list(gpt2.connector.layers)
    values = [layer.attention.to_v for layer in layers]
    contexts = caught_inputs(gpt2, values, lambda: gpt2(**batch))
    found = caught_inputs(gpt2, [layer.attention.to_out for layer in layers], lambda: gpt2(**batch))
    seen = torch.tensor([[True, True, True], [True, True, False]])
    assert len(inspection.connector_attention) == 2
    for to_v, context, weights, attended in zip(values, contexts, inspection.connector_attention, found):
        assert weights.shape == (2, 3, 2, 5, 16 + 5)
        assert not weights[~seen].any() and not inspection.visual_tokens[~seen].any()
        torch.testing.assert_close(weights[seen].sum(-1), torch.ones(5, 2, 5))
        of_heads = rearrange(to_v(context), "images s (k e) -> images k s e", k=2)
        torch.testing.assert_close(rearrange(weights[seen] @ of_heads, "i k r e -> i r (k e)"), attended)
    torch.testing.assert_close(
        inspection.visual_tokens[0], gpt2.encode_images(batch["pixel_values"])[0], rtol=1e-4, atol=1e-5
    )


def test_gates_are_the_values_that_multiply(backbones, batch):
    model = tiny.flamingo(backbones, gates=0.7)
    model.fusion.blocks["3"].attention_gate.data.fill_(-0.2)
    gates = {name: gate.item() for name, gate in inspect(model, **batch).gates.items()}
    half = 0.6043678  # tanh(0.7)
    assert gates == pytest.approx(
        {"1.attention": half, "1.feedforward": half, "3.attention": -0.1973753, "3.feedforward": half}
    )
    assert inspect(tiny.flamingo(backbones, fusion={"gate": "none"}), **batch).gates == {}


def test_a_text_without_images_sees_nothing(gpt2, batch):
    ids = batch["input_ids"]
    inspection = inspect(gpt2, input_ids=ids)
    assert inspection.image_attention[1].shape == (2, 2, 14, 0, 1)
    assert inspection.visual_tokens is None and inspection.connector_attention is None


def test_nothing_is_left_on_the_model(gpt2, batch):
    """Whether the call went well or not."""
    inspect(gpt2, **batch)
    with pytest.raises(ValueError, match="image_index names image 7"):
        inspect(gpt2, **batch | {"image_index": batch["image_index"] + 5})
    watched = [gpt2.connector, *gpt2.connector.modules(), *gpt2.fusion.blocks.modules()]
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in watched)


# -------------------------------------------------------------------------- over the patches


def test_rollout_counts_latents_that_others_attend_to():
    """By hand, two latents over three patches: half of a latent is what it was, half what it attends to."""
    first = torch.tensor([[0.5, 0.1, 0.0, 0.3, 0.1], [0.0, 0.0, 1.0, 0.0, 0.0]])
    second = torch.tensor([[0.0, 0.0, 0.0, 0.0, 1.0], [0.2, 0.2, 0.2, 0.4, 0.0]])
    layers = [layer.expand(1, 1, 4, 2, 5) for layer in (first, second)]
    torch.testing.assert_close(rollout(layers[:1])[0, 0], torch.tensor([[0.25, 0.05, 0.0], [0.0, 0.0, 0.5]]))
    expected = [[0.125, 0.025, 0.25], [0.1 + 0.05, 0.1 + 0.01, 0.1 + 0.25]]
    torch.testing.assert_close(rollout(layers)[0, 0], torch.tensor(expected))


def test_latents_that_are_patches_begin_as_their_own():
    weights = torch.tensor([[0.2, 0.8], [1.0, 0.0]]).expand(1, 1, 1, 2, 2)
    torch.testing.assert_close(rollout([weights])[0, 0], torch.tensor([[0.6, 0.4], [0.5, 0.5]]))


@pytest.mark.parametrize("kind", ["perceiver", *tiny.PATCH_CONNECTORS])
def test_words_look_at_patches_through_the_latents(backbones, batch, kind):
    model = tiny.flamingo(backbones, connector=tiny.PATCH_CONNECTORS.get(kind, {}))
    inspection = inspect(model, **batch)
    latents = inspection.latents_over_patches
    assert latents.shape == (2, 3, 5 if kind == "perceiver" else 16, 16)
    if kind in ("mlp", "identity", "linear", "mlp_projector"):
        torch.testing.assert_close(latents[1, 2], torch.eye(16))
    words = inspection.words_over_patches(3)
    assert words.shape == (2, 2, 14, 3, 16)
    cross = inspection.image_attention[3]
    torch.testing.assert_close(words[0, 1, 7, 1], cross[0, 1, 7, 1] @ latents[0, 1])
    assert not words[0, 1, 7, [0, 2]].any() and not words[0, 1, 0].any()
    mass = words.sum((-2, -1))[batch["image_index"][:, None].expand(2, 2, 14) >= 0]
    assert (mass < 0.99).all() if kind == "perceiver" else torch.allclose(mass, torch.ones(()))


def test_a_qformer_has_weights_over_latents_and_patches_by_turns(backbones, batch):
    model = tiny.flamingo(backbones, connector=tiny.POOLING_CONNECTORS["qformer"])
    inspection = inspect(model, **batch)
    over_patches = [bool(weights[..., :16].any()) for weights in inspection.connector_attention]
    over_latents = [bool(weights[..., 16:].any()) for weights in inspection.connector_attention]
    # Layers 0 and 2 of 3 attend to the patches, after their self-attention.
    assert over_patches == [False, True, False, False, True]
    assert over_latents == [True, False, True, True, False]
    sums = inspection.connector_attention[1][0, 0].sum(-1)
    torch.testing.assert_close(sums, torch.ones_like(sums))
    first = inspection.connector_attention[1][0, 0].mean(dim=0)[:, :16] / 2  # the latents begin without patches
    mixed = inspection.connector_attention[2][0, 0].mean(dim=0)[:, 16:]
    mixed_again = inspection.connector_attention[3][0, 0].mean(dim=0)[:, 16:]
    share = (first + mixed @ first) / 2
    share = (share + mixed_again @ share) / 2
    share = (share + inspection.connector_attention[4][0, 0].mean(dim=0)[:, :16]) / 2
    torch.testing.assert_close(inspection.latents_over_patches[0, 0], share)


def test_what_has_no_patches_says_so(gpt2, batch):
    tokens = gpt2.encode_images(batch.pop("pixel_values"))
    inspection = inspect(gpt2, visual_tokens=tokens, **batch)
    assert torch.equal(inspection.visual_tokens, tokens)
    with pytest.raises(ValueError, match="pixel_values or image_features"):
        inspection.words_over_patches(1)


def test_rows_that_share_a_documents_images_are_refused(gpt2):
    batch = tiny.inputs(2)
    batch["pixel_values"] = batch["pixel_values"][:1]
    with pytest.raises(ValueError, match=r"2 rows.*1 documents"):
        inspect(gpt2, **batch).words_over_patches(1)


def test_a_receptive_field_has_the_pixels_a_patch_depends_on(backbones):
    """Before its first layer a ViT's patch knows its own 4 by 4 pixels alone, and knows all of them."""
    model = tiny.flamingo(backbones, vision_features={"hidden_state": 0, "class_token": "drop"})
    pictures = tiny.inputs()["pixel_values"].flatten(0, 1)
    fields = receptive_fields(model, pictures)
    assert fields.shape == (16, 16, 16)
    torch.testing.assert_close(fields.sum((1, 2)), torch.ones(16))
    cells = rearrange(fields, "(gh gw) (i h) (j w) -> gh gw i j h w", gh=4, i=4, j=4)
    for i in range(4):
        for j in range(4):
            assert (cells[i, j, i, j] > 0).all() and cells[i, j, i, j].sum().item() == pytest.approx(1.0)
    later = receptive_fields(tiny.flamingo(backbones), pictures)
    assert (later > 0).all()


@pytest.mark.full
def test_what_a_convolution_pads_on_both_sides_moves_its_patches(backbones):
    """A ResNet's cell i is centred on pixel 8 i of 8 a cell, not on 8 i + 4."""
    model = tiny.flamingo(backbones, vision="resnet", vision_features={"class_token": "none"})
    fields = receptive_fields(model, torch.randn(8, 3, 128, 128))
    assert len(fields) == 16**2
    rows = (fields[8 * 16 + 8].sum(1) * (torch.arange(128) + 0.5)).sum()
    assert rows.item() == pytest.approx(64.5, abs=1.5)


# ------------------------------------------------------------------------------ without layers


def test_without_a_layer_is_as_if_its_gates_were_closed(gpt2, batch):
    with torch.no_grad():
        whole = gpt2(**batch).logits
        with without_layers(gpt2, [1]):
            without = gpt2(**batch).logits
        assert torch.equal(gpt2(**batch).logits, whole)
        tiny.open_gates(gpt2.fusion.blocks["1"], 0.0)
        closed = gpt2(**batch).logits
    assert torch.equal(without, closed) and (without - whole).abs().max() > 0.01


def test_a_layer_without_a_block_is_refused_by_number(gpt2):
    with pytest.raises(ValueError, match=r"layer 0.*1.*3"), without_layers(gpt2, [0]):
        pass


def test_a_mixing_connector_without_attention_has_no_patch_map():
    tokens = torch.zeros(1, 1, 3, 8)
    inspection = Inspection(CausalLMOutputWithPast(), tokens, (), 5, {}, {})
    with pytest.raises(ValueError, match=r"3 visual tokens of 5 patches"):
        _ = inspection.latents_over_patches
    same = Inspection(CausalLMOutputWithPast(), torch.zeros(1, 1, 5, 8), (), 5, {}, {})
    assert torch.equal(same.latents_over_patches[0, 0], torch.eye(5))


# --------------------------------------------------------------------------------- visual prefix


@pytest.mark.parametrize("family", ["gpt2", "llama", "mosaic_gpt"])
def test_attention_to_a_visual_prefix_is_the_language_models_own(backbones, family):
    model = tiny.flamingo(backbones, language=family, **tiny.PREFIX)
    heads = model.config.text_config.num_attention_heads
    batch = tiny.prefix_inputs()
    batch["image_index"][1] = batch["image_index"][1].masked_fill(batch["image_index"][1] == 0, -1)
    with torch.no_grad():
        alone, inspection = model(**batch), inspect(model, **batch)
    assert torch.equal(alone.logits, inspection.outputs.logits)
    assert torch.equal(model(**batch).logits, alone.logits)
    assert inspection.gates == {} and list(inspection.image_attention) == [0, 1, 2, 3]
    model.language_model.set_attn_implementation("eager")
    attentions = model(**batch, output_attentions=True).attentions
    is_marker = batch["input_ids"][0] == tiny.NEW_TOKEN_IDS[1]
    for layer, weights in inspection.image_attention.items():
        assert weights.shape == (2, heads, 26 - 3, 3, 4)
        torch.testing.assert_close(weights[0].flatten(-2), attentions[layer][0][..., is_marker])
        assert not weights[1, ..., 0, :].any(), "a hidden image gets no attention"
        assert (weights[0].sum((-1, -2)) < 1).all() and weights[0, :, -1].sum((-1, -2)).min() > 0
    words = inspection.words_over_patches(2)
    assert words.shape == (2, heads, 23, 3, 16)
    torch.testing.assert_close(words.sum(-1), inspection.image_attention[2].sum(-1))
    # The first visual token is the mean of the upper left square of four patches.
    share = inspection.image_attention[2][..., 0] / 4
    for patch in (0, 1, 4, 5):
        torch.testing.assert_close(words[..., patch], share)


def test_a_visual_prefix_has_no_gated_blocks_to_leave_out(backbones):
    model = tiny.flamingo(backbones, **tiny.PREFIX)
    with pytest.raises(ValueError, match=r"layer 0.*none"), without_layers(model, [0]):
        pass
