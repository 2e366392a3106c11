"""Generation with the cache equals generation without it: greedy, beams, samples, ragged batches."""

import pytest
import torch
from transformers import DynamicCache, GenerationConfig, set_seed
from transformers.generation.streamers import BaseStreamer

from flamingo.model.fusion import gated_block, grouped
from tests import tiny
from tests.helpers.model_calls import BEAMS, FULL_ATTENTION, GREEDY, alone


def ragged():
    """Three documents with 3, 1 and 0 images, padded on the left."""
    batch = tiny.inputs(documents=3)
    batch["image_index"][1] = torch.tensor([-1] * 8 + [0] * 6)
    batch["image_index"][2] = -1
    batch["attention_mask"][1, :5] = 0
    batch["attention_mask"][2, :3] = 0
    batch["pixel_values"][1, 1:] = 0
    batch["pixel_values"][2] = 0
    return batch


@pytest.mark.parametrize("settings", [GREEDY, BEAMS], ids=["greedy", "beams"])
def test_cached_generation_equals_uncached(model, settings):
    batch = ragged()
    cached = model.generate(**batch, **settings)
    assert torch.equal(cached, model.generate(**batch, **settings, use_cache=False))
    assert cached.shape == (3 * settings.get("num_return_sequences", 1), 14 + 8)
    blind = model.generate(**{**batch, "image_index": torch.full_like(batch["image_index"], -1)}, **settings)
    assert not torch.equal(cached, blind)


@pytest.mark.parametrize("settings", [GREEDY, BEAMS], ids=["greedy", "beams"])
def test_a_ragged_batch_gives_what_its_documents_give_alone(model, settings):
    batch = ragged()
    together = model.generate(**batch, **settings).unflatten(0, (3, -1))
    for row in range(3):
        single = alone(batch, row)
        expected = model.generate(**single, **settings)[:, single["input_ids"].shape[1] :]
        assert torch.equal(together[row, :, 14:], expected)


def test_beams_are_those_of_a_batch_expanded_by_hand(model):
    """The best beam's score, computed by an ordinary forward pass over its text."""
    batch = tiny.inputs()
    out = model.generate(**batch, **BEAMS, return_dict_in_generate=True, output_scores=True, length_penalty=1.0)
    rows = torch.arange(2).repeat_interleave(2)
    new = out.sequences.shape[1] - 14
    index = torch.cat([batch["image_index"][rows], batch["image_index"][rows][:, -1:].expand(-1, new)], dim=1)
    logits = model(
        out.sequences, torch.ones_like(out.sequences), index, pixel_values=batch["pixel_values"][rows]
    ).logits
    log_probabilities = logits[:, 13:-1].log_softmax(-1).gather(-1, out.sequences[:, 14:, None]).sum((1, 2))
    torch.testing.assert_close(out.sequences_scores, log_probabilities / new, atol=1e-4, rtol=1e-4)
    transitions = model.compute_transition_scores(out.sequences, out.scores, out.beam_indices)
    torch.testing.assert_close(transitions.sum(1) / new, out.sequences_scores, atol=1e-4, rtol=1e-4)


def test_the_continuation_sees_what_its_prompts_last_token_sees(gpt2):
    """Not the last image there is: text that ends a document may see none, or an earlier image."""
    batch = tiny.inputs(documents=3)
    batch["image_index"][0, -2:] = -1
    batch["image_index"][1, -2:] = 0
    assert torch.equal(gpt2.generate(**batch, **GREEDY), gpt2.generate(**batch, **GREEDY, use_cache=False))
    other = {**batch, "image_index": batch["image_index"].clone()}
    other["image_index"][1, -2:] = 2
    steps = [
        gpt2.generate(**b, **GREEDY, output_logits=True, return_dict_in_generate=True).logits[0] for b in (batch, other)
    ]
    assert (steps[0][1] - steps[1][1]).abs().max() > 1e-3


def test_settings_may_come_as_an_object_or_from_the_model(gpt2):
    batch = ragged()
    expected = gpt2.generate(**batch, **BEAMS)
    assert torch.equal(gpt2.generate(**batch, generation_config=GenerationConfig(**BEAMS)), expected)
    gpt2.generation_config = GenerationConfig(**BEAMS)
    assert torch.equal(gpt2.generate(**batch), expected)


@pytest.mark.parametrize("settings", [GREEDY, BEAMS], ids=["greedy", "beams"])
def test_stopping_strings_end_the_text(gpt2, settings):
    tokenizer, batch = tiny.tokenizer(), alone(ragged(), 0)
    expected = gpt2.generate(**batch, **settings)
    stop = tokenizer.decode(expected[0, 16])
    out = gpt2.generate(**batch, **settings, tokenizer=tokenizer, stop_strings=[stop])
    assert stop in tokenizer.decode(out[0, 14:])
    assert out.shape[1] <= expected.shape[1]


def test_samples_are_the_same_with_and_without_cache(gpt2):
    batch, settings = ragged(), {**GREEDY, "do_sample": True, "num_return_sequences": 4}
    set_seed(3)
    cached = gpt2.generate(**batch, **settings)
    set_seed(3)
    assert torch.equal(cached, gpt2.generate(**batch, **settings, use_cache=False))
    assert len({tuple(row.tolist()) for row in cached[:4]}) > 1


@pytest.mark.parametrize("settings", [GREEDY, BEAMS], ids=["greedy", "beams"])
def test_decoding_keeps_attending_to_all_previous_images(backbones, settings):
    model = tiny.flamingo(backbones, fusion={"attend": "previous"})
    batch = ragged()
    expected = model.generate(**batch, **settings, use_cache=False)
    assert torch.equal(model.generate(**batch, **settings), expected)


def test_other_ways_to_cache_give_the_same_text(gpt2):
    batch = ragged()
    expected = gpt2.generate(**batch, **GREEDY)
    own = DynamicCache(config=gpt2.language_model.config)
    assert torch.equal(gpt2.generate(**batch, **GREEDY, past_key_values=own), expected)
    assert torch.equal(gpt2.generate(**batch, **GREEDY, cache_implementation="static"), expected)
    assert torch.equal(gpt2.generate(**batch, **BEAMS, cache_implementation="static"), gpt2.generate(**batch, **BEAMS))


def test_assisted_and_chunked_decoding_give_the_same_text(gpt2):
    """Several tokens in one step, and steps that are taken back."""
    batch = alone(ragged(), 0)
    batch["input_ids"] %= 8  # repetitions, for the look-up to find
    expected = gpt2.generate(**batch, **GREEDY)
    for settings in (
        {"prompt_lookup_num_tokens": 3},
        {"prefill_chunk_size": 5, "past_key_values": DynamicCache(config=gpt2.language_model.config)},
        {"prefill_chunk_size": 4},
    ):
        assert torch.equal(gpt2.generate(**batch, **GREEDY, **settings), expected), settings


def test_a_second_turn_continues_behind_the_cache_of_the_first(gpt2):
    """With the whole text given, and with its new part alone."""
    batch = tiny.inputs()
    cache = gpt2.visual_state(gpt2.encode_images(batch.pop("pixel_values")))
    expected = gpt2.generate(**batch, visual_state=cache, **GREEDY)
    for new in (slice(None), slice(9, None)):
        first = {key: value[:, :9] for key, value in batch.items()}
        past = gpt2(**first, visual_state=cache, use_cache=True).past_key_values
        rest = {**batch, "input_ids": batch["input_ids"][:, new], "image_index": batch["image_index"][:, new]}
        out = gpt2.generate(**rest, visual_state=cache, past_key_values=past, **GREEDY)
        assert torch.equal(out[:, -8:], expected[:, -8:])


@pytest.mark.parametrize("settings", [GREEDY, BEAMS], ids=["greedy", "beams"])
def test_rows_may_share_the_images_of_one_document(gpt2, settings):
    batch = tiny.inputs(documents=3)
    cache = gpt2.visual_state(gpt2.encode_images(batch.pop("pixel_values")[:1]))
    batch["image_index"][1, -2:] = 0
    copies = [(keys.expand(3, -1, -1, -1, -1), values.expand(3, -1, -1, -1, -1)) for keys, values in cache]
    shared = gpt2.generate(**batch, visual_state=cache, **settings)
    assert torch.equal(shared, gpt2.generate(**batch, visual_state=copies, **settings))


def test_a_prompt_of_one_token_is_enough(model):
    image = torch.randn(1, 1, 3, 16, 16)
    prompt = {"input_ids": torch.tensor([[301]]), "image_index": torch.tensor([[0]]), "pixel_values": image}
    out = model.generate(**prompt, **BEAMS)
    assert torch.equal(out, model.generate(**prompt, **BEAMS, use_cache=False))


def test_text_alone_can_be_continued(model):
    batch = {key: value for key, value in tiny.inputs().items() if key in ("input_ids", "attention_mask")}
    assert torch.equal(model.generate(**batch, **GREEDY), model.generate(**batch, **GREEDY, use_cache=False))


def test_new_tokens_can_be_generated_and_end_the_text(gpt2):
    """Ids beyond the language model's own vocabulary, by all strategies; here the end of chunk always wins."""
    end = tiny.NEW_TOKEN_IDS[0]

    def prefer_end(head, args, logits):
        logits[..., end] += 100
        return logits

    gpt2.get_output_embeddings().register_forward_hook(prefer_end)  # runs after the one that appends
    for settings in (GREEDY, BEAMS):
        out = gpt2.generate(**tiny.inputs(), **{**settings, "eos_token_id": end})
        assert (out[:, 14] == end).any()
    assert out.shape[1] < 14 + 8


def test_a_generated_image_marker_takes_nothing_from_other_rows(gpt2):
    """OpenFlamingo loses the images of all rows then."""
    batch = tiny.inputs()
    expected = gpt2.generate(**batch, **GREEDY)

    def force_marker(input_ids, scores):
        scores[0] = float("-inf")
        scores[0, tiny.NEW_TOKEN_IDS[1]] = 0.0
        return scores

    forced = gpt2.generate(**batch, **GREEDY, logits_processor=[force_marker])
    assert (forced[0, 14:] == tiny.NEW_TOKEN_IDS[1]).all()
    assert torch.equal(forced[1], expected[1])


def count_rows(module, counts):
    module.register_forward_hook(lambda m, args, output: counts.append(output.shape[0] * output.shape[1]))


def test_beams_and_samples_share_their_prompts_cache(model, family):
    """Sliding windows and ALiBi count places in the cache, and keep a copy of the prompt for each beam."""
    rows, states = [], {"return_dict_in_generate": True, "output_hidden_states": True}
    model.fusion.blocks["1"].norm.register_forward_hook(lambda m, args, output: rows.append(tuple(output.shape[:2])))
    out = model.generate(**tiny.inputs(), **BEAMS, **states, use_cache=True)  # MPT's own setting is False
    assert model.shares_prefixes == (family in FULL_ATTENTION)
    assert rows[1] == ((2, 3) if family in FULL_ATTENTION else (6, 1))
    assert {tuple(state.shape[:2]) for step in out.hidden_states for state in step} == {(6, 1)}
    keys = out.past_key_values.layers[0].keys
    assert (len(keys), keys.shape[2]) == ((2, 13 + 3 * 8) if family in FULL_ATTENTION else (6, min(21, keys.shape[2])))


@pytest.mark.parametrize("settings", [GREEDY, BEAMS], ids=["greedy", "beams"])
def test_a_shared_prefix_may_run_before_its_prompts_and_once(backbones, settings):
    """Two images with text for all, then one more for each; padding on the left of what is their own."""
    model = tiny.flamingo(backbones, language="opt")
    assert model.shares_prefixes  # OPT has full attention
    batch = tiny.inputs(documents=3)
    batch["input_ids"][:, :9] = batch["input_ids"][0, :9]
    batch["image_index"][:, 9:] = torch.tensor([2, 3, 4]).unsqueeze(1)
    batch["image_index"][1, 12:] = 1
    batch["attention_mask"][2, 9:11] = 0
    pixels = torch.cat([batch.pop("pixel_values")[:1, :2], torch.randn(1, 3, 3, tiny.IMAGE_SIZE, tiny.IMAGE_SIZE)], 1)
    cache = model.visual_state(model.encode_images(pixels))
    expected = model.generate(**batch, **settings, visual_state=cache, use_cache=False)
    assert len({tuple(row.tolist()) for row in expected[:, 14:]}) > 2
    first = {key: batch[key][:1, :9] for key in ("input_ids", "attention_mask", "image_index")}
    prefix = model.prefill(**first, visual_state=cache)
    tokens = []
    count_rows(model.language_model.model.decoder.layers[0].self_attn_layer_norm, tokens)
    for _ in range(2):  # it is not used up
        tokens.clear()
        assert torch.equal(model.generate(**batch, **settings, visual_state=cache, past_key_values=prefix), expected)
        assert tokens[0] == 3 * 4  # their own, but for the last


def test_images_and_prompts_run_once_for_all_beams(gpt2):
    encoded, tokens, keys = [], [], []
    gpt2.vision_model.register_forward_hook(lambda m, args, output: encoded.append(len(args[0])))
    count_rows(gpt2.language_model.transformer.h[0].ln_1, tokens)
    count_rows(gpt2.fusion.blocks["1"].attention.to_k, keys)
    gpt2.generate(**tiny.inputs(), **{**BEAMS, "num_beams": 5})
    assert encoded == [2 * 3]
    assert keys == [2 * 3]  # documents x images; never again
    assert tokens[0] == 2 * 13  # all but the last token, for each document
    assert set(tokens[1:]) == {2 * 5}  # then one token for each beam


def test_while_decoding_a_token_sees_one_images_visual_tokens(gpt2, monkeypatch):
    """The work per token does not grow with the number of images before it."""
    met, attend = [], grouped.attend

    def counted(q, k, *rest):
        met.append((k.shape[-2], q.shape[-2]))
        return attend(q, k, *rest)

    for module in (grouped, gated_block):
        monkeypatch.setattr(module, "attend", counted)
    batch = tiny.inputs()
    gpt2.generate(**batch, **BEAMS)
    assert {context for context, _ in met} == {5}  # visual tokens of an image
    assert set(met[2:]) == {(5, 3)}  # after the prompt (two blocks): met by the 3 beams together
    # A caller's own loop over forward gets the same.
    cache = gpt2.visual_state(torch.randn(2, 3, 5, 24))
    met.clear()
    gpt2(torch.tensor([[4], [5]]), image_index=torch.tensor([[2], [-1]]), visual_state=cache)
    assert {context for context, _ in met} == {5}


def test_arguments_that_do_not_fit_are_refused(gpt2):
    batch = tiny.inputs()
    with pytest.raises(ValueError, match=r"image_index.*\[2, 13\].*input_ids.*\[2, 14\]"):
        gpt2.generate(**{**batch, "image_index": batch["image_index"][:, 1:]}, **GREEDY)
    with pytest.raises(ValueError, match="pad prompts on the left"):
        gpt2.generate(**{**batch, "attention_mask": batch["attention_mask"].flip(1).tril(12)}, **GREEDY)
    with pytest.raises(ValueError, match="generate needs input_ids"):
        gpt2.generate(image_index=batch["image_index"], pixel_values=batch["pixel_values"])
    with pytest.raises(ValueError, match="max_new_tokns"):
        gpt2.generate(**batch, max_new_tokns=3)
    with pytest.raises(ValueError, match="assistant_model"):
        gpt2.generate(**batch, **GREEDY, assistant_model=gpt2.language_model)
    gpt2.gradient_checkpointing_enable()
    gpt2.train()
    with pytest.raises(ValueError, match=r"model\.eval\(\)"):
        gpt2.generate(**batch, **GREEDY)
    gpt2.eval()
    gpt2.generate(**batch, **GREEDY)


def test_text_streams_while_it_is_made(gpt2):
    class Heard(BaseStreamer):
        def __init__(self):
            self.pieces, self.ended = [], False

        def put(self, value):
            self.pieces.append(value)

        def end(self):
            self.ended = True

    heard, batch = Heard(), {key: value[:1] for key, value in tiny.inputs().items()}
    ids = gpt2.generate(**batch, **GREEDY, streamer=heard)
    assert heard.ended and len(heard.pieces) == 1 + 8
    # transformers hands a streamer tokens on the CPU.
    assert torch.cat([piece.flatten() for piece in heard.pieces]).tolist() == ids[0].tolist()
