"""Properties that a visual prefix shares with cross-attention: several images, padding, caches, beams, packing."""

import pytest
import torch
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, DynamicCache, set_seed

from flamingo.data.collate import EncodedExample, collate
from flamingo.data.packing import pack
from flamingo.model.composition import check_composition
from tests import tiny
from tests.helpers.devices import DEVICE, moved
from tests.helpers.model_calls import (
    BEAMS,
    FULL_ATTENTION,
    GREEDY,
    alone,
    gradients,
    loss_and_gradients,
    with_image,
)

MARKER = tiny.NEW_TOKEN_IDS[1]
#: The default suite runs two families, one of them with a sliding window.
_DEFAULT = ("llama", "gemma3_text")
FAMILIES = [
    family if family in _DEFAULT else pytest.param(family, marks=pytest.mark.full) for family in tiny.LANGUAGE_MODELS
]


@pytest.fixture(params=FAMILIES)
def family(request):
    return request.param


@pytest.fixture
def model(backbones, family):
    return tiny.flamingo(backbones, language=family, **tiny.PREFIX)


@pytest.fixture
def llama(backbones):
    return tiny.flamingo(backbones, language="llama", **tiny.PREFIX)


def ragged():
    """Three documents with 3, 1 and 0 images, padded on the left."""
    batch = tiny.prefix_inputs(documents=3)
    t = batch["input_ids"].shape[1]
    batch["input_ids"][1, 2:6] = 7
    batch["input_ids"][1, 9:13] = 8
    batch["image_index"][1] = torch.tensor([-1] * 15 + [0] * (t - 15))
    batch["input_ids"][2][batch["input_ids"][2] == MARKER] = 9
    batch["image_index"][2] = -1
    batch["attention_mask"][1, :5] = 0
    batch["attention_mask"][2, :3] = 0
    return batch


def test_the_ragged_batch_has_whole_images():
    batch = ragged()
    assert (batch["input_ids"] == MARKER).sum(dim=1).tolist() == [12, 4, 0]
    assert (batch["image_index"][batch["input_ids"] == MARKER]).tolist() == [0] * 4 + [1] * 4 + [2] * 4 + [0] * 4


# ----------------------------------------------------------------------------------- what a text sees


def test_without_images_the_logits_are_the_language_models(backbones, model, family):
    bare = AutoModelForCausalLM.from_pretrained(backbones / family).eval().to(DEVICE)
    inputs = tiny.inputs()
    inputs["input_ids"] %= tiny.VOCABULARY
    expected = bare(inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits
    assert torch.equal(model(**inputs).logits[..., : tiny.VOCABULARY], expected)


def test_an_image_changes_all_logits_from_its_place_on(model):
    inputs = tiny.prefix_inputs()
    logits = model(**inputs).logits
    for image in range(3):
        first = int((inputs["image_index"][0] == image).nonzero()[0])
        changed = model(**with_image(inputs, image)).logits
        assert torch.equal(changed[:, :first], logits[:, :first])
        assert (changed[:, first] - logits[:, first]).abs().amax(dim=-1).min() > 1e-4
        assert (changed[:, first + 4 :] - logits[:, first + 4 :]).abs().max() > 1e-3


@torch.no_grad()
def test_visual_tokens_stand_at_the_markers(model):
    """The same as embeddings that are put together by hand."""
    inputs = tiny.prefix_inputs(documents=1)
    visual = model.fusion.projection(model.encode_images(inputs["pixel_values"]))[0]
    embeddings = model.new_tokens.embed(inputs["input_ids"], model.get_input_embeddings())[0].clone()
    embeddings[inputs["input_ids"][0] == MARKER] = visual.flatten(0, 1)
    expected = model.language_model(inputs_embeds=embeddings[None], attention_mask=inputs["attention_mask"]).logits
    torch.testing.assert_close(model(**inputs).logits[..., : tiny.VOCABULARY], expected, atol=2e-5, rtol=1e-4)


@torch.no_grad()
def test_unseen_images_keep_their_positions_and_are_masked(model):
    """Blind: the same as a mask without the markers, at the positions of a text with them."""
    inputs = tiny.prefix_inputs()
    blind = {**inputs, "image_index": torch.full_like(inputs["image_index"], -1)}
    logits = model(**blind).logits
    is_text = inputs["input_ids"] != MARKER
    assert torch.equal(model(**with_image(blind, 1)).logits, logits)
    del blind["pixel_values"]
    assert torch.equal(model(**blind).logits, logits)
    assert (model(**inputs).logits - logits)[is_text][8:].abs().max() > 1e-3
    arguments = {"attention_mask": is_text.long()}
    if "position_ids" in model._language_model_arguments:
        arguments["position_ids"] = torch.arange(is_text.shape[1], device=DEVICE).expand_as(inputs["input_ids"])
    embeddings = model.new_tokens.embed(inputs["input_ids"], model.get_input_embeddings())
    expected = model.language_model(inputs_embeds=embeddings, **arguments).logits
    torch.testing.assert_close(logits[is_text][:, : tiny.VOCABULARY], expected[is_text], atol=2e-5, rtol=1e-4)


@torch.no_grad()
def test_one_image_may_be_hidden_beside_others(llama):
    inputs = tiny.prefix_inputs()
    first = inputs["image_index"] == 0
    inputs["image_index"] = inputs["image_index"].masked_fill(first, -1)
    logits = llama(**inputs).logits
    is_text = inputs["input_ids"] != MARKER
    assert torch.equal(llama(**with_image(inputs, 0)).logits[is_text], logits[is_text])
    assert (llama(**with_image(inputs, 1)).logits - logits)[is_text].abs().max() > 1e-3


@torch.no_grad()
@pytest.mark.parametrize("attention", [None, "eager"], ids=["own", "eager"])
def test_a_hidden_image_at_the_beginning_gives_nothing_away(model, attention):
    """Each token needs one to attend to, as eager attention else looks at all: the first marker stays visible."""
    if attention is not None:
        model.language_model.set_attn_implementation(attention)
    inputs = {key: value[:, 2:] if key != "pixel_values" else value for key, value in tiny.prefix_inputs().items()}
    assert (inputs["input_ids"][:, :4] == MARKER).all()
    blind = {**inputs, "image_index": torch.full_like(inputs["image_index"], -1)}
    logits = model(**blind).logits
    assert torch.equal(model(**with_image(blind, 0)).logits, logits)
    other = blind["input_ids"].clone()
    other[:, 4:9] = 11
    assert torch.equal(model(**{**blind, "input_ids": other}).logits[:, :4], logits[:, :4])
    later = model(**{**blind, "input_ids": other}).logits[:, 4:]
    assert (later - logits[:, 4:]).abs().max() > 1e-3


def test_padding_on_the_left_or_right_is_harmless(model):
    inputs = tiny.prefix_inputs(documents=1)
    logits = model(**inputs).logits
    for left, right in [(4, 0), (0, 4), (2, 3)]:
        padded = {
            "input_ids": F.pad(inputs["input_ids"], (left, right), value=7),
            "attention_mask": F.pad(inputs["attention_mask"], (left, right)),
            "image_index": F.pad(inputs["image_index"], (left, right), value=-1),
            "pixel_values": F.pad(inputs["pixel_values"], (0, 0) * 3 + (0, 2)),
        }
        real = slice(left, left + logits.shape[1])
        torch.testing.assert_close(model(**padded).logits[:, real], logits, atol=2e-5, rtol=1e-4)


def test_a_batch_gives_what_its_documents_give_alone(model):
    inputs = tiny.prefix_inputs(documents=3)
    together = model(**inputs).logits
    for i in range(3):
        single = model(**{key: value[i : i + 1] for key, value in inputs.items()}).logits
        torch.testing.assert_close(single[0], together[i], atol=2e-5, rtol=1e-4)


def test_pixels_visual_tokens_and_embeddings_give_equal_logits(model):
    inputs = tiny.prefix_inputs()
    pixels = inputs.pop("pixel_values")
    expected = model(**inputs, pixel_values=pixels).logits
    tokens = model.encode_images(pixels)
    assert tokens.shape == (2, 3, 4, model.config.text_config.hidden_size)
    assert torch.equal(model(**inputs, visual_tokens=tokens).logits, expected)
    assert torch.equal(model(**inputs, visual_state=model.visual_state(tokens)).logits, expected)


def test_images_that_no_token_sees_are_not_encoded(llama):
    inputs = ragged()
    inputs["image_index"][1][inputs["image_index"][1] == 0] = 1  # the second image, not the first
    resampled = []
    llama.connector.register_forward_pre_hook(lambda module, args: resampled.append(args[0].shape[:2]))
    logits = llama(**inputs).logits
    assert resampled == [(1, 4)]
    inputs["pixel_values"][1, [0, 2]] = 0
    inputs["pixel_values"][2] = 0
    torch.testing.assert_close(llama(**inputs).logits, logits)


@pytest.mark.parametrize("change", ["fewer", "more", "apart", "other image"])
def test_positions_that_differ_from_visual_tokens_are_refused(llama, change):
    inputs = tiny.prefix_inputs()
    if change == "fewer":
        inputs["input_ids"][0, 5] = 7
    elif change == "more":
        inputs["input_ids"][0, 6] = MARKER
    elif change == "apart":
        inputs["input_ids"][0, 3], inputs["input_ids"][0, 6] = 7, MARKER
    else:
        inputs["image_index"][0, 5] = 1
    with pytest.raises(ValueError, match=r"4 visual tokens.*301"):
        llama(**inputs)


# --------------------------------------------------------------------------------------- training


def test_the_linear_map_trains_but_not_the_marker_embedding(backbones, family):
    """Where the connector's width is the language model's there is no map."""
    settings = tiny.PREFIX | {"connector": {"kind": "perceiver", "num_latents": 4, "depth": 1}}
    model = tiny.flamingo(backbones, language=family, **settings)
    inputs = tiny.prefix_inputs()
    labels = inputs["input_ids"].masked_fill(inputs["input_ids"] == MARKER, -100)
    model(**inputs, labels=labels).loss.backward()
    trained = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert trained == set(model.trainable_parameter_names())
    assert {"fusion.projection.weight", "fusion.projection.bias"} <= trained
    assert model.fusion.projection.weight.grad.abs().sum() > 0
    if model.new_tokens.output_rows is not None:
        rows = model.new_tokens.input_rows.grad
        assert not rows[1].any() and rows[0].any()


def test_gradients_are_the_same_with_activation_checkpointing(model):
    inputs = tiny.prefix_inputs()
    model.train()
    expected = gradients(model, inputs)
    model.gradient_checkpointing_enable()
    actual = gradients(model, inputs)
    for name, gradient in expected.items():
        torch.testing.assert_close(actual[name], gradient, atol=1e-6, rtol=1e-5, msg=name)


def examples(blind=False):
    torch.manual_seed(0)
    made = []
    for length, images in ((5, 2), (4, 1), (6, 3), (5, 0)):
        ids, index = [], []
        for number in range(max(images, 1)):
            if images:
                ids += [MARKER] * 4
                index += [number] * 4
            ids += torch.randint(3, 290, (length,)).tolist()
            index += [number if images else -1] * length
        ids = torch.tensor(ids)
        index = torch.full_like(ids, -1) if blind else torch.tensor(index)
        pixels = torch.randn(images, 1, 3, tiny.IMAGE_SIZE, tiny.IMAGE_SIZE) if images else None
        made.append(EncodedExample(ids, index, ids.masked_fill(ids == MARKER, -100), pixels))
    return made


@pytest.mark.parametrize("blind", [False, True])
def test_packed_documents_are_to_the_model_what_they_are_apart(model, family, blind):
    if family not in FULL_ATTENTION:
        pytest.skip("packing needs attention to all tokens")
    apart, expected = loss_and_gradients(model, moved(collate(examples(blind), 0, "right")))
    packed = moved(pack([[example] for example in examples(blind)], 34, 0))
    assert len(packed["input_ids"]) == 2
    together, gradients = loss_and_gradients(model, packed)
    torch.testing.assert_close(together, apart)
    assert gradients.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(gradients[name], expected[name], rtol=1e-3, atol=1e-5, msg=name)


def test_the_model_saves_and_loads(llama, tmp_path):
    inputs = tiny.prefix_inputs()
    expected = llama(**inputs).logits
    for include_backbones in (True, False):
        llama.save_pretrained(tmp_path, include_backbones=include_backbones)
        loaded = type(llama).from_pretrained(tmp_path)
        loaded.place(DEVICE)
        assert loaded.config.fusion == llama.config.fusion and loaded.config.image_token_id == MARKER
        assert torch.equal(loaded(**inputs).logits, expected)


# ------------------------------------------------------------------------------------- generation


@torch.no_grad()
def test_cached_logits_equal_uncached_ones_step_by_step(model):
    """Also where a step ends within an image, given the visual token of each position."""
    inputs = tiny.prefix_inputs()
    expected = model(**inputs).logits
    state = model.visual_state(model.encode_images(inputs["pixel_values"]))
    index = model.fusion.visual_index(inputs["input_ids"], inputs["image_index"], state, check=True)
    past, steps = None, []
    length = inputs["input_ids"].shape[1]
    for stretch in (slice(0, 4), slice(4, 11), *(slice(i, i + 1) for i in range(11, length))):
        outputs = model(
            inputs["input_ids"][:, stretch],
            inputs["attention_mask"][:, : stretch.stop],
            inputs["image_index"][:, stretch],
            visual_state=state,
            visual_index=index[:, stretch],
            past_key_values=past,
            use_cache=True,
        )
        past = outputs.past_key_values
        steps.append(outputs.logits)
    torch.testing.assert_close(torch.cat(steps, dim=1), expected, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("settings", [GREEDY, BEAMS], ids=["greedy", "beams"])
def test_cached_generation_equals_uncached(model, family, settings):
    batch = ragged()
    cached = model.generate(**batch, **settings)
    assert torch.equal(cached, model.generate(**batch, **settings, use_cache=False))
    blind = {**batch, "image_index": torch.full_like(batch["image_index"], -1)}
    unseen = model.generate(**blind, **settings)
    assert family == "mpt" or not torch.equal(cached, unseen)  # the tiny MPT repeats one token whatever it sees
    assert torch.equal(unseen, model.generate(**blind, **settings, use_cache=False))


@pytest.mark.parametrize("settings", [GREEDY, BEAMS], ids=["greedy", "beams"])
def test_a_ragged_batch_gives_what_its_documents_give_alone(model, settings):
    batch = ragged()
    t = batch["input_ids"].shape[1]
    together = model.generate(**batch, **settings).unflatten(0, (3, -1))
    for row in range(3):
        single = alone(batch, row)
        expected = model.generate(**single, **settings)[:, single["input_ids"].shape[1] :]
        assert torch.equal(together[row, :, t:], expected)


@pytest.mark.parametrize("blind", [False, True])
@pytest.mark.parametrize("settings", [GREEDY, BEAMS], ids=["greedy", "beams"])
def test_a_prompt_may_end_with_an_image(model, settings, blind):
    """Its last visual token is the first token of decoding."""
    batch = {key: value[:, :13] if key != "pixel_values" else value for key, value in tiny.prefix_inputs().items()}
    assert (batch["input_ids"][:, -4:] == MARKER).all()
    if blind:
        batch["image_index"] = torch.full_like(batch["image_index"], -1)
    cached = model.generate(**batch, **settings)
    assert torch.equal(cached, model.generate(**batch, **settings, use_cache=False))


def test_samples_are_the_same_with_and_without_cache(llama):
    batch, settings = ragged(), {**GREEDY, "do_sample": True, "num_return_sequences": 4}
    set_seed(3)
    cached = llama.generate(**batch, **settings)
    set_seed(3)
    assert torch.equal(cached, llama.generate(**batch, **settings, use_cache=False))
    assert len({tuple(row.tolist()) for row in cached[:4]}) > 1


def test_other_ways_to_cache_give_the_same_text(llama):
    batch = ragged()
    for blind in (False, True):
        if blind:
            batch["image_index"] = torch.full_like(batch["image_index"], -1)
        expected = llama.generate(**batch, **GREEDY)
        own = DynamicCache(config=llama.language_model.config)
        assert torch.equal(llama.generate(**batch, **GREEDY, past_key_values=own), expected)
        assert torch.equal(llama.generate(**batch, **GREEDY, cache_implementation="static"), expected)
        beams = llama.generate(**batch, **BEAMS)
        assert torch.equal(llama.generate(**batch, **BEAMS, cache_implementation="static"), beams)


@pytest.mark.parametrize("blind", [False, True])
@pytest.mark.parametrize("settings", [GREEDY, BEAMS], ids=["greedy", "beams"])
def test_a_shared_prefix_may_run_before_its_prompts_and_once(llama, settings, blind):
    """Two images with text for all, then one more for each; padding on the left of what is their own."""
    batch = tiny.prefix_inputs(documents=3)
    start = 15  # behind the text of the second image
    batch["input_ids"][:, :start] = batch["input_ids"][0, :start]
    assert (batch["input_ids"][:, start : start + 4] == MARKER).all()
    own = torch.full((3, 2), 7, device=DEVICE)
    batch["image_index"][:, start:] = torch.tensor([2, 3, 4], device=DEVICE).unsqueeze(1)
    batch["input_ids"] = torch.cat([batch["input_ids"][:, :start], own, batch["input_ids"][:, start:]], 1)
    batch["image_index"] = torch.cat(
        [batch["image_index"][:, :start], torch.ones_like(own), batch["image_index"][:, start:]], 1
    )
    batch["attention_mask"] = torch.ones_like(batch["input_ids"])
    batch["attention_mask"][2, start : start + 2] = 0
    if blind:
        batch["image_index"] = torch.full_like(batch["image_index"], -1)
    pixels = torch.cat(
        [batch.pop("pixel_values")[:1, :2], torch.randn(1, 3, 3, tiny.IMAGE_SIZE, tiny.IMAGE_SIZE, device=DEVICE)], 1
    )
    state = llama.visual_state(llama.encode_images(pixels))
    expected = llama.generate(**batch, **settings, visual_state=state, use_cache=False)
    first = {key: batch[key][:1, :start] for key in ("input_ids", "attention_mask", "image_index")}
    prefix = llama.prefill(**first, visual_state=state)
    # As the engine gives them: the cache of the prefix knows what it saw.
    batch["image_index"][:, :start] = -1
    for _ in range(2):  # it is not used up
        generated = llama.generate(**batch, **settings, visual_state=state, past_key_values=prefix)
        assert torch.equal(generated, expected)


def test_a_second_turn_continues_behind_the_cache_of_the_first(llama):
    """With the whole text given, and with its new part alone, which begins with an image."""
    batch = tiny.prefix_inputs()
    state = llama.visual_state(llama.encode_images(batch.pop("pixel_values")))
    expected = llama.generate(**batch, visual_state=state, **GREEDY)
    start = 15
    assert (batch["input_ids"][:, start : start + 4] == MARKER).all()
    for new in (slice(None), slice(start, None)):
        first = {key: value[:, :start] for key, value in batch.items()}
        past = llama(**first, visual_state=state, use_cache=True).past_key_values
        rest = {**batch, "input_ids": batch["input_ids"][:, new], "image_index": batch["image_index"][:, new]}
        out = llama.generate(**rest, visual_state=state, past_key_values=past, **GREEDY)
        assert torch.equal(out[:, -8:], expected[:, -8:])


def test_a_generated_image_marker_is_text(llama):
    batch = tiny.prefix_inputs()
    expected = llama.generate(**batch, **GREEDY)

    def force_marker(input_ids, scores):
        scores[0] = float("-inf")
        scores[0, MARKER] = 0.0
        return scores

    for use_cache in (True, False):
        forced = llama.generate(**batch, **GREEDY, logits_processor=[force_marker], use_cache=use_cache)
        assert (forced[0, -8:] == MARKER).all()
        assert torch.equal(forced[1], expected[1])


def test_images_and_prompts_run_once_for_all_beams(llama):
    encoded, tokens = [], []
    llama.vision_model.register_forward_hook(lambda m, args, output: encoded.append(len(args[0])))
    layer = llama.language_model.model.layers[0].input_layernorm
    layer.register_forward_hook(lambda m, args, output: tokens.append(output.shape[0] * output.shape[1]))
    batch = tiny.prefix_inputs()
    llama.generate(**batch, **{**BEAMS, "num_beams": 5})
    assert encoded == [2 * 3]
    assert tokens[0] == 2 * (batch["input_ids"].shape[1] - 1)
    assert set(tokens[1:]) == {2 * 5}


# ------------------------------------------------------------------------------------------ probe


@pytest.mark.parametrize("connector", ["mlp_projector", "perceiver"])
def test_the_composition_passes_its_check(backbones, family, connector):
    settings = tiny.PREFIX if connector == "mlp_projector" else tiny.PREFIX | {"connector": tiny.PARTS["connector"]}
    check_composition(tiny.flamingo(backbones, language=family, **settings))


def test_the_composition_check_has_visual_tokens_in_its_prompts(llama, monkeypatch):
    lengths, embed = [], llama.fusion.embed

    def recorded(embeddings, context):
        lengths.append(((context.visual_index >= 0) & (context.image_index >= 0)).sum(dim=1).max())
        return embed(embeddings, context)

    monkeypatch.setattr(llama.fusion, "embed", recorded)
    check_composition(llama)
    assert max(lengths) == 2 * 3  # two images, of which the first three visual tokens


@pytest.mark.parametrize(
    "connector",
    [tiny.PARTS["connector"], *tiny.PATCH_CONNECTORS.values(), *tiny.POOLING_CONNECTORS.values()],
    ids=str,
)
def test_every_connector_makes_a_prefix_of_its_number_of_tokens(backbones, connector):
    model = tiny.flamingo(backbones, **tiny.PREFIX | {"connector": connector})
    tokens = model.tokens_per_image(tiny.IMAGE_SIZE, tiny.IMAGE_SIZE)
    inputs = tiny.prefix_inputs(tokens_per_image=tokens)
    assert tokens == model.encode_images(inputs["pixel_values"]).shape[2]
    logits = model(**inputs).logits
    assert (model(**with_image(inputs, 1)).logits - logits).abs().max() > 1e-3
    with pytest.raises(ValueError, match=rf"{tokens} visual tokens"):
        model(**tiny.prefix_inputs(tokens_per_image=tokens + 1))
