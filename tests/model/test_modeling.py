"""Visible images, trained parameters and errors, with open gates, several images and every family."""

import pytest
import torch
from torch.nn import functional as F

from flamingo import FlamingoConfig, FlamingoForConditionalGeneration
from flamingo.model.chunked_loss import next_token_loss
from flamingo.utils.errors import UserError
from tests import tiny
from tests.helpers import devices
from tests.helpers.devices import moved
from tests.helpers.model_calls import gradients, with_image


def test_a_later_image_never_changes_an_earlier_logit(model):
    inputs = tiny.inputs()
    logits = model(**inputs).logits
    for image in range(3):
        first = int((inputs["image_index"][0] == image).nonzero()[0])
        changed = model(**with_image(inputs, image)).logits
        assert torch.equal(changed[:, :first], logits[:, :first])
        assert (changed[:, first:] - logits[:, first:]).abs().amax(dim=-1).min() > 1e-4


def test_only_the_image_of_its_index_matters_to_a_token(model):
    """Every index on image 1, so that no other image can come in through self-attention either."""
    inputs = tiny.inputs()
    inputs["image_index"] = inputs["image_index"].clamp(max=0) + 1
    inputs["image_index"][:, :2] = -1
    logits = model(**inputs).logits
    for other in (0, 2):
        assert torch.equal(model(**with_image(inputs, other)).logits, logits)
    changed = model(**with_image(inputs, 1)).logits
    assert torch.equal(changed[:, :2], logits[:, :2])
    assert (changed[:, 2:] - logits[:, 2:]).abs().max() > 1e-3


def test_a_token_sees_all_previous_images_and_no_later_one(backbones, family):
    model = tiny.flamingo(backbones, language=family, fusion={"attend": "previous"})
    inputs = tiny.inputs()
    inputs["image_index"] = torch.full_like(inputs["image_index"], 1)
    logits = model(**inputs).logits
    assert torch.equal(model(**with_image(inputs, 2)).logits, logits)
    for seen in (0, 1):
        assert (model(**with_image(inputs, seen)).logits - logits).abs().amax(dim=-1).min() > 1e-4


def test_without_any_image_the_gated_feedforward_still_applies(model):
    inputs = tiny.inputs()
    blind = {**inputs, "image_index": torch.full_like(inputs["image_index"], -1)}
    no_images = model(inputs["input_ids"], inputs["attention_mask"]).logits
    assert torch.equal(model(**blind).logits, no_images)
    for block in model.fusion.blocks.values():
        block.attention_gate.data.zero_()
    assert torch.equal(model(inputs["input_ids"], inputs["attention_mask"]).logits, no_images)
    for block in model.fusion.blocks.values():
        block.feedforward_gate.data.zero_()
    assert (model(inputs["input_ids"], inputs["attention_mask"]).logits - no_images).abs().max() > 1e-2


def test_padding_on_the_left_or_right_is_harmless(model):
    inputs = tiny.inputs(documents=1)
    logits = model(**inputs).logits
    for left, right in [(4, 0), (0, 4), (2, 3)]:
        padded = {
            "input_ids": F.pad(inputs["input_ids"], (left, right), value=7),
            "attention_mask": F.pad(inputs["attention_mask"], (left, right)),
            "image_index": F.pad(inputs["image_index"], (left, right), value=-1),
            "pixel_values": F.pad(inputs["pixel_values"], (0, 0) * 3 + (0, 2)),  # two places without an image
        }
        real = slice(left, left + logits.shape[1])
        torch.testing.assert_close(model(**padded).logits[:, real], logits, atol=2e-5, rtol=1e-4)


def test_a_batch_gives_what_its_documents_give_alone(model):
    inputs = tiny.inputs(documents=3)
    together = model(**inputs).logits
    for i in range(3):
        alone = model(**{key: value[i : i + 1] for key, value in inputs.items()}).logits
        torch.testing.assert_close(alone[0], together[i], atol=2e-5, rtol=1e-4)


def test_pixels_visual_tokens_and_cache_give_equal_logits(model):
    inputs = tiny.inputs()
    pixels = inputs.pop("pixel_values")
    expected = model(**inputs, pixel_values=pixels).logits
    tokens = model.encode_images(pixels)
    assert tokens.shape == (2, 3, 5, 24)
    assert torch.equal(model(**inputs, visual_tokens=tokens).logits, expected)
    assert torch.equal(model(**inputs, visual_state=model.visual_state(tokens)).logits, expected)
    assert torch.equal(model(**inputs, pixel_values=pixels.unsqueeze(2)).logits, expected)


def test_places_for_no_image_at_all_are_no_images(gpt2):
    inputs = tiny.inputs()
    inputs["image_index"].fill_(-1)
    none = gpt2(**{**inputs, "pixel_values": torch.zeros(2, 0, 3, 16, 16).to(gpt2.device)}).logits
    assert torch.equal(none, gpt2(inputs["input_ids"], inputs["attention_mask"]).logits)


def test_videos_need_frame_embeddings_and_their_frames_count(backbones, device):
    inputs = tiny.inputs()
    pixels = torch.randn(2, 3, 4, 3, 16, 16).to(device)
    with pytest.raises(UserError, match=r"4 frames.*connector\.num_frames"):
        tiny.flamingo(backbones)(**{**inputs, "pixel_values": pixels})
    model = tiny.flamingo(backbones, connector={"num_frames": 2})  # fewer than given: interpolated
    model.connector.frame_embeddings.data.normal_()
    logits = model(**{**inputs, "pixel_values": pixels}).logits
    backwards = model(**{**inputs, "pixel_values": pixels.flip(2)}).logits
    assert (logits - backwards).abs().max() > 1e-3


def test_cached_logits_equal_uncached_ones_step_by_step(model):
    inputs = tiny.inputs()
    expected = model(**inputs).logits
    cache = model.visual_state(model.encode_images(inputs["pixel_values"]))
    past, steps = None, []
    for stretch in (slice(0, 4), slice(4, 9), *(slice(i, i + 1) for i in range(9, 14))):
        outputs = model(
            inputs["input_ids"][:, stretch],
            inputs["attention_mask"][:, : stretch.stop],
            inputs["image_index"][:, stretch],
            visual_state=cache,
            past_key_values=past,
            use_cache=True,
        )
        past = outputs.past_key_values
        steps.append(outputs.logits)
    torch.testing.assert_close(torch.cat(steps, dim=1), expected, atol=2e-5, rtol=1e-4)


def test_outputs_of_the_language_model_are_passed_on(gpt2):
    outputs = gpt2(**tiny.inputs(), output_hidden_states=True, logits_to_keep=2)
    assert outputs.logits.shape == (2, 2, tiny.VOCABULARY + 2)
    torch.testing.assert_close(outputs.logits, gpt2(**tiny.inputs()).logits[:, -2:])
    assert len(outputs.hidden_states) == 5
    assert torch.equal(gpt2(**tiny.inputs(), return_dict=False)[0], gpt2(**tiny.inputs()).logits)


def test_loss_is_the_mean_over_the_labelled_tokens():
    logits = torch.randn(2, 4, 7)
    labels = torch.tensor([[3, 1, -100, 2], [5, -100, -100, 6]])
    counted = [(0, 1, 1), (0, 3, 2), (1, 3, 6)]  # document, position, label; position 0 has nothing before it
    expected = -sum(logits[b, t - 1].log_softmax(-1)[y] for b, t, y in counted) / 3
    torch.testing.assert_close(next_token_loss(logits, labels), expected)
    assert next_token_loss(logits, torch.full((2, 4), -100)) == 0
    halves = [next_token_loss(logits[i : i + 1], labels[i : i + 1], count=3) for i in range(2)]
    torch.testing.assert_close(sum(halves), expected)


def test_frozen_weights_stay_and_all_named_parameters_train(model):
    inputs = tiny.inputs()
    names = model.trainable_parameter_names()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2, weight_decay=0.1)
    for _ in range(2):
        model(**inputs, labels=inputs["input_ids"]).loss.backward()
        assert all(p.grad is None for p in [*model.vision_model.parameters(), *model.language_model.parameters()])
        missing = [name for name, p in model.named_parameters() if p.requires_grad and not p.grad.abs().sum() > 0]
        assert not missing
        optimizer.step()
        optimizer.zero_grad()
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == set(names)
    assert {name.split(".")[0] for name in names} == {"connector", "fusion", "new_tokens"}


def test_training_mode_gives_the_evaluation_modes_logits(model):
    """Frozen models have no dropout; batch norms of the encoder do not move."""
    inputs = tiny.inputs()
    logits = model.eval()(**inputs).logits
    assert torch.equal(model.train()(**inputs).logits, logits)


def test_the_frozen_encoders_batch_norms_do_not_move(backbones):
    model = tiny.flamingo(backbones, vision="mobilenet_v2").train()
    inputs = {**tiny.inputs(), "pixel_values": torch.randn(2, 3, 3, 64, 64).to(model.device)}
    before = {name: buffer.clone() for name, buffer in model.vision_model.named_buffers()}
    logits = model(**inputs).logits
    assert all(torch.equal(buffer, before[name]) for name, buffer in model.vision_model.named_buffers())
    torch.testing.assert_close(model.eval()(**inputs).logits, logits)


def test_gradients_are_the_same_with_activation_checkpointing(model):
    inputs = tiny.inputs()
    model.train()
    expected = gradients(model, inputs)
    recomputed = []
    block = next(iter(model.fusion.blocks.values()))
    block.feedforward.register_forward_hook(lambda *_: recomputed.append(1))
    model.gradient_checkpointing_enable()
    actual = gradients(model, inputs)
    assert len(recomputed) == 2  # forward and once more in backward: the gated blocks are covered, and not twice
    for name, gradient in expected.items():
        torch.testing.assert_close(actual[name], gradient, atol=1e-6, rtol=1e-5, msg=name)


def test_checkpointed_forward_passes_keep_their_own_images(gpt2):
    """Two forward passes before one backward: each recomputes with the images it had."""
    one, two = tiny.inputs(), with_image(tiny.inputs(), 1)
    gpt2.train()
    sums = [sum(pair) for pair in zip(gradients(gpt2, one).values(), gradients(gpt2, two).values())]
    gpt2.gradient_checkpointing_enable()
    gpt2.zero_grad()
    losses = [gpt2(**inputs, labels=inputs["input_ids"], use_cache=False).loss for inputs in (one, two)]
    (losses[0] + losses[1]).backward()
    for expected, parameter in zip(sums, (p for p in gpt2.parameters() if p.requires_grad)):
        torch.testing.assert_close(parameter.grad, expected, atol=1e-6, rtol=1e-5)


def test_a_vocabulary_that_is_frozen_is_not_resized(gpt2):
    with pytest.raises(ValueError, match=r"config\.new_token_ids"):
        gpt2.resize_token_embeddings(400)


def test_reentrant_checkpointing_is_refused(gpt2):
    with pytest.raises(ValueError, match="use_reentrant=True"):
        gpt2.gradient_checkpointing_enable({"use_reentrant": True})


def test_parameters_are_counted_by_part_and_shown(gpt2):
    counts = gpt2.parameter_counts()
    assert list(counts) == ["vision_model", "language_model", "connector", "fusion", "new_tokens"]
    assert sum(counts.values()) == gpt2.num_parameters()
    assert counts["new_tokens"] == 2 * 32  # tied: one row each
    assert f"connector: {counts['connector']:,} parameters" in repr(gpt2)
    assert f"language_model: {counts['language_model']:,} parameters (frozen)" in repr(gpt2)


def test_a_model_can_be_made_from_configurations_alone(gpt2):
    config = FlamingoConfig.from_dict(gpt2.config.to_dict())
    config.text_config.attn_pdrop = config.text_config.resid_pdrop = 0.3
    model = FlamingoForConditionalGeneration(config).eval()
    model.place(gpt2.device)
    logits = model(**tiny.inputs()).logits
    assert torch.equal(model.train()(**tiny.inputs()).logits, logits)  # without dropout, as when loaded
    assert logits.shape == (2, 14, tiny.VOCABULARY + 2)
    others = torch.randn(2, 3, 3, 16, 16).to(gpt2.device)
    assert torch.equal(logits, model(**{**tiny.inputs(), "pixel_values": others}).logits)


def test_bfloat16_autocast_reaches_the_new_parts(gpt2):
    expected = gpt2(**tiny.inputs()).logits
    cache = gpt2.visual_state(gpt2.encode_images(tiny.inputs()["pixel_values"]))
    inputs = {key: value for key, value in tiny.inputs().items() if key != "pixel_values"}
    with torch.autocast(gpt2.device.type, torch.bfloat16):
        inside = gpt2(**tiny.inputs()).logits
        cached = gpt2(**inputs, visual_state=cache).logits  # keys and values from outside, in float32
    for logits in (inside, cached):
        assert not torch.equal(logits.float(), expected)
        assert F.cosine_similarity(logits.float().flatten(), expected.flatten(), dim=0) > 0.99


def test_new_parts_are_float32_beside_a_bfloat16_language_model(backbones):
    model = tiny.flamingo(backbones, dtype=torch.bfloat16)
    assert {p.dtype for p in model.language_model.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    twin = tiny.flamingo(backbones)
    twin.load_state_dict(model.state_dict())
    expected, logits = twin(**tiny.inputs()).logits, model(**tiny.inputs()).logits
    assert logits.dtype == torch.bfloat16
    assert next_token_loss(logits, tiny.inputs()["input_ids"]).dtype == torch.float32
    assert F.cosine_similarity(logits.float().flatten(), expected.flatten(), dim=0) > 0.99


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_index": None}, "image_index"),
        ({"image_index": torch.full((2, 14), 3)}, r"image 3.*3"),
        ({"visual_tokens": torch.zeros(2, 3, 5, 24)}, "give images once"),
        ({"pixel_values": None, "visual_tokens": torch.zeros(2, 3, 5, 23)}, r"23.*24"),
        ({"pixel_values": torch.zeros(3, 3, 3, 16, 16)}, r"2 rows.*3 documents"),
        ({"pixel_vales": torch.zeros(2, 3, 3, 16, 16)}, "pixel_vales"),
        ({"input_ids": torch.full((2, 14), 302)}, r"token id 302.*300.*new_token_ids"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(gpt2, change, message):
    with pytest.raises(ValueError, match=message):
        gpt2(**moved({**tiny.inputs(), **change}))


@pytest.mark.parametrize("attend", ["last", "previous"])
@pytest.mark.parametrize("given", ["pixel_values", "image_features"])
def test_images_that_no_token_sees_are_not_encoded(backbones, attend, given):
    """Padding in a batch of unequal documents; where all previous images are seen, also those that no index names."""
    model = tiny.flamingo(backbones, fusion={"attend": attend})
    inputs = tiny.inputs(documents=3)
    inputs["image_index"][1] = torch.tensor([-1] * 5 + [0] * 9)
    inputs["image_index"][2] = torch.tensor([-1] * 5 + [1] * 9)  # the second, not the first
    if given == "image_features":
        inputs.pop("pixel_values")
        inputs["image_features"] = torch.randn(3, 3, 1, 16, 24).to(model.device)
    tokens = {"pixel_values": model.encode_images, "image_features": model.resample}[given](inputs[given])
    rest = {key: value for key, value in inputs.items() if key != given}
    expected = model(**rest, visual_tokens=tokens).logits
    resampled = []
    model.connector.register_forward_pre_hook(lambda module, args: resampled.append(args[0].shape[:2]))
    torch.testing.assert_close(model(**inputs).logits, expected, atol=1e-5, rtol=1e-4)
    assert resampled == [(1, 3 + 1 + (1 if attend == "last" else 2))]
    inputs["image_index"].fill_(-1)
    model(**inputs)
    assert len(resampled) == 1


@pytest.mark.parametrize("connector", [*tiny.PATCH_CONNECTORS.values(), *tiny.POOLING_CONNECTORS.values()], ids=str)
def test_connectors_of_all_kinds_compose_save_and_load(backbones, tmp_path, connector):
    model = tiny.flamingo(backbones, connector=connector)
    inputs = tiny.inputs()
    logits = model(**inputs).logits
    blind = model(**inputs | {"image_index": torch.full_like(inputs["image_index"], -1)}).logits
    assert (logits - blind)[:, 2:].abs().max() > 1e-3
    unseen = inputs | {"image_index": inputs["image_index"].clamp(max=0)}
    # With fewer images to encode.
    devices.assert_same(model(**unseen).logits[:, :6], logits[:, :6])
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path).to(devices.DEVICE)
    assert torch.equal(loaded(**inputs).logits, logits)


@pytest.mark.parametrize("parts", [["connector"], ["fusion", "language_model"], ["vision_model"]])
def test_the_chosen_parts_get_gradients_and_no_others(backbones, parts):
    model = tiny.flamingo(backbones)
    model.train_parts(parts)
    inputs = tiny.inputs()
    model(**inputs, labels=inputs["input_ids"]).loss.backward()
    moved = {name.split(".")[0] for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert moved == set(parts)
    with pytest.raises(ValueError, match=r"vision_model.*lm"):
        model.train_parts(["lm"])
