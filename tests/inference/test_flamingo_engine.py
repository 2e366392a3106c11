"""The engine's outputs equal those of the model alone, in any batch and after any other prompts."""

import pytest
import torch
from PIL import Image as PILImage
from transformers import GenerationConfig

from flamingo import Document, Image, Text
from flamingo.evaluation.prompts import build_prompt
from flamingo.inference import flamingo_engine
from flamingo.inference.flamingo_engine import FlamingoEngine
from flamingo.model.sampling import Sampling
from flamingo.utils.errors import UserError
from tests.evaluation.fake import example, model_and_processor
from tests.helpers.devices import moved
from tests.helpers.model_calls import noted_images
from tests.tiny import POISONED, PREFIX

NEW = 5


@pytest.fixture(scope="module")
def parts(backbones):
    return model_and_processor(backbones)


@pytest.fixture(scope="module", params=[{}, PREFIX], ids=["cross_attention", "prefix"])
def each_fusion(backbones, request):
    return model_and_processor(backbones, **request.param)


@pytest.fixture(scope="module")
def prompts():
    """Of different lengths, with 3, 1, 2, 1 and 4 images; the second shows no image with its demonstrations."""
    shown = [example("support", i, references=1) for i in range(4)]
    counts = [(2, True), (3, False), (1, True), (0, True), (3, True)]
    return [build_prompt(example("query", i), shown[i % 2 :][:n], images) for i, (n, images) in enumerate(counts)]


def alone(parts, prompt, **kwargs):
    """By the model's own interface, from pixels, one prompt at a time."""
    model, processor = parts
    inputs = moved(processor.batch([prompt], prompt=True))
    ids = model.generate(
        **inputs, max_new_tokens=NEW, do_sample=False, eos_token_id=processor.end_of_chunk_token_id, **kwargs
    )
    text = processor.tokenizer.decode(ids[0, inputs["input_ids"].shape[1] :])
    return text.split("<|endofchunk|>")[0].replace("<s>", "").replace("</s>", "").replace("<image>", "").lstrip()


@pytest.mark.parametrize("beams", [pytest.param(1, marks=pytest.mark.full), 3])
def test_outputs_do_not_depend_on_batch_or_cache_and_keep_order(each_fusion, prompts, beams):
    parts = each_fusion
    expected = [alone(parts, prompt, num_beams=beams, length_penalty=0.0) for prompt in prompts]
    assert len(set(expected)) > 3
    for batch_size in (1, 4):
        engine = FlamingoEngine(*parts, batch_size)
        assert engine.generate(prompts, NEW, beams) == expected
        assert engine.generate(prompts[::-1], NEW, beams) == expected[::-1]  # now all from the cache


def test_sampled_outputs_depend_on_seed_and_id_alone(each_fusion, prompts):
    sampling = Sampling(temperature=1.5, top_p=0.95, seed=1)
    expected = []
    for prompt in prompts:
        expected += FlamingoEngine(*each_fusion, 1).generate([prompt], NEW, sampling=sampling)
    assert len(set(expected)) > 3
    engine = FlamingoEngine(*each_fusion, 4)
    assert engine.generate(prompts, NEW, sampling=sampling) == expected
    assert engine.generate(prompts[::-1], NEW, sampling=sampling) == expected[::-1]
    assert engine.generate(prompts, NEW, sampling=Sampling(1.5, 0.95, seed=2)) != expected
    assert engine.generate(prompts, NEW) != expected
    renamed = [Document(prompt.parts, id=f"other {prompt.id}") for prompt in prompts]
    assert engine.generate(renamed, NEW, sampling=sampling) != expected


def test_a_temperature_near_zero_takes_the_likeliest_tokens(parts, prompts):
    engine = FlamingoEngine(*parts, 4)
    assert engine.generate(prompts, NEW, sampling=Sampling(1e-6)) == engine.generate(prompts, NEW)
    with pytest.raises(UserError, match="num_beams is 2"):
        engine.generate(prompts, NEW, 2, sampling=Sampling())


def test_outputs_have_at_least_as_many_tokens_as_asked(parts, prompts, monkeypatch):
    model, processor = parts
    end = processor.end_of_chunk_token_id

    def likes_the_end(module, args, output):
        output.logits[..., end] = 1e4

    ids = []
    search = flamingo_engine.search
    monkeypatch.setattr(flamingo_engine, "search", lambda *a, **k: ids.append(search(*a, **k)) or ids[-1])
    engine = FlamingoEngine(model, processor, len(prompts))
    with model.register_forward_hook(likes_the_end):
        assert engine.generate(prompts, NEW) == [""] * len(prompts)
        for sampling in (None, Sampling()):
            assert all(engine.generate(prompts, NEW, min_new_tokens=3, sampling=sampling))
            assert ids[-1].shape[1] == 4 and (ids[-1] == end).sum(dim=1).eq(1).all() and (ids[-1][:, 3] == end).all()


def test_all_of_a_models_computation_may_be_in_16_bits(parts, prompts, monkeypatch):
    """As on a GPU with frozen weights of 16 bits: the connector, prefixes that are shared, prompts, and new tokens."""
    model, processor = parts

    def in_16_bits(dtype, device):
        return torch.autocast(device.type, torch.bfloat16)

    monkeypatch.setattr(flamingo_engine, "products_in", in_16_bits)
    dtypes = []

    def note(module, args, output):
        dtypes.append(output.dtype)

    connector, block = model.connector.layers[0], next(iter(model.fusion.blocks.values()))
    with connector.attention.to_q.register_forward_hook(note), block.attention.to_q.register_forward_hook(note):
        FlamingoEngine(model, processor, 2).generate([prompts[0], prompts[0]], NEW)
    assert set(dtypes) == {torch.bfloat16} and len(dtypes) > NEW


def test_each_picture_is_encoded_once_even_where_it_is_made_anew(parts, prompts, tmp_path, monkeypatch):
    model, processor = parts
    encoded = noted_images(model, monkeypatch)
    engine = FlamingoEngine(model, processor, 2)
    engine.generate(prompts, NEW)
    assert sum(encoded) == 8  # 5 queries and 3 demonstrations, in 11 places
    PILImage.new("RGB", (9, 9), "red").save(tmp_path / "red.png")
    for path in (str(tmp_path / "red.png"), tmp_path / "red.png"):
        engine.generate([Document([Image(path), Text("Output:")])], NEW)
    assert sum(encoded) == 9
    engine.generate([build_prompt(example("query", 3), [])], NEW)  # another picture object that shows the same
    assert sum(encoded) == 9
    engine.generate([build_prompt(example("query", 9), [])], NEW)
    assert sum(encoded) == 10
    for _ in range(2):
        engine.generate([Document([Image(tmp_path / "red.png").crop(1), Text("Output:")])], NEW)
    assert sum(encoded) == 11


def all_previous(backbones):
    """A model whose tokens attend to all images before them."""
    return model_and_processor(backbones, fusion={"attend": "previous"})


@pytest.mark.parametrize("attend", ["last", "previous"])
def test_a_limit_of_visual_token_memory_changes_no_output(parts, backbones, prompts, attend, monkeypatch):
    model, processor = parts if attend == "last" else all_previous(backbones)
    expected = FlamingoEngine(model, processor, 2).generate(prompts, NEW, 3)
    one = 5 * 24 * 4  # 5 visual tokens of 24 float32 numbers
    encoded = noted_images(model, monkeypatch)
    for cache_bytes, kept, times in ((0, 0, 10), (3 * one - 1, 2, 10), (8 * one, 8, 8)):
        encoded.clear()
        engine = FlamingoEngine(model, processor, 2, cache_bytes=cache_bytes)
        assert engine.generate(prompts, NEW, 3) == expected
        assert len(engine.visual_tokens.tokens) == kept
        # The memory of the others is free: no kept one is a part of a larger tensor.
        assert sum(tokens.untyped_storage().nbytes() for tokens in engine.visual_tokens.tokens.values()) == kept * one
        # Within a batch each of its pictures is encoded once, whatever the bound.
        assert sum(encoded) == times


def test_the_pictures_that_were_used_last_stay_in_memory(parts, monkeypatch):
    model, processor = parts
    encoded = noted_images(model, monkeypatch)
    engine = FlamingoEngine(model, processor, 1, cache_bytes=2 * 5 * 24 * 4)
    pictures = [example("query", i).image for i in range(3)]
    for i in (0, 1, 0, 2, 0):
        engine.visual_tokens.get([pictures[i]])
    assert sum(encoded) == 3
    engine.visual_tokens.get([pictures[1]])
    assert sum(encoded) == 4


def test_visual_tokens_are_those_of_the_model(parts):
    model, processor = parts
    images = [example("query", i).image for i in (1, 0, 2, 1)]
    tokens = FlamingoEngine(model, processor, 1).visual_tokens.get(images)
    pixels = processor.pixel_values(images).to(model.device)
    expected = model.encode_images(pixels.unsqueeze(0))[0]
    torch.testing.assert_close(tokens, expected, rtol=1e-4, atol=1e-5)
    assert FlamingoEngine(model, processor, 1).visual_tokens.get([]).shape == (0, 1, 24)


def alike(count, **kwargs):
    """Queries with the same three demonstrations."""
    shown = [example("support", i, references=1) for i in range(3)]
    return [build_prompt(example("query", i), shown, **kwargs) for i in range(count)]


def tokens_run(model):
    """The number of tokens of each pass through the language model; and the handle that ends the counting."""
    counts = []
    handle = model.get_input_embeddings().register_forward_hook(lambda m, args, output: counts.append(args[0].numel()))
    return counts, handle


def test_a_shared_beginning_ends_where_an_image_ends(backbones):
    """All prompts begin with the same image, and two have nothing else."""
    model, processor = model_and_processor(backbones, **PREFIX)
    shown = example("query", 0).image
    prompts = [Document([shown]), Document([shown, Text("Output:")]), Document([shown])]
    expected = [alone((model, processor), prompt) for prompt in prompts]
    assert FlamingoEngine(model, processor, 3).generate(prompts, NEW) == expected
    assert expected[0] != expected[1]
    blind = FlamingoEngine(model, processor, 3).generate([*prompts, *alike(2)], NEW, blind=True)
    assert blind == FlamingoEngine(model, processor, 1).generate([*prompts, *alike(2)], NEW, blind=True)
    assert blind[3] == blind[4] != FlamingoEngine(model, processor, 3).generate(alike(2), NEW)[0]


@pytest.mark.parametrize("beams", [pytest.param(1, marks=pytest.mark.full), 3])
def test_what_all_prompts_begin_with_runs_once(each_fusion, beams):
    parts = each_fusion
    model, processor = parts
    prompts = alike(5)
    prompts[3] = Document([*prompts[3].parts, Text(" a")])  # one that is longer than the others
    expected = [alone(parts, prompt, num_beams=beams, length_penalty=0.0) for prompt in prompts]
    assert len(set(expected)) > 1
    counts, handle = tokens_run(model)
    with handle:
        assert FlamingoEngine(model, processor, 2).generate(prompts, NEW, beams) == expected
    lengths = [len(processor.encode(prompt, prompt=True).input_ids) for prompt in prompts]
    assert counts[0] > 0.7 * min(lengths)
    assert max(counts[1:]) < 0.5 * counts[0]
    # Another image in an early place: then nothing is shared but what stands before it.
    others = [build_prompt(example("query", i), [example("support", i, references=1)]) for i in range(3)]
    assert FlamingoEngine(model, processor, 2).generate(others, NEW, beams) == [
        alone(parts, prompt, num_beams=beams, length_penalty=0.0) for prompt in others
    ]


def test_keys_and_values_of_an_image_are_computed_once_a_batch(parts, prompts):
    model, processor = parts
    computed = []
    handle = next(iter(model.fusion.blocks.values())).attention.to_k.register_forward_hook(
        lambda m, args, output: computed.append(args[0].shape[:2])
    )
    with handle:
        FlamingoEngine(model, processor, len(prompts)).generate(prompts, NEW)
    assert [b * m for b, m in computed if m] == [8]  # 5 queries and 3 demonstrations, in 11 places


def test_a_model_that_sees_all_images_gets_them_in_order(backbones, prompts):
    model, processor = all_previous(backbones)
    some = [*prompts, *alike(2)]
    expected = [alone((model, processor), prompt, num_beams=3, length_penalty=0.0) for prompt in some]
    assert len(set(expected)) > 3
    assert FlamingoEngine(model, processor, 3).generate(some, NEW, 3) == expected


def test_a_blind_model_says_the_same_to_every_picture(each_fusion):
    parts = each_fusion
    text = Text("Output:")
    prompts = [Document([example("query", i).image, text]) for i in range(6)]
    engine = FlamingoEngine(*parts, 3)
    assert len(set(engine.generate(prompts, NEW))) > 1
    assert len(set(engine.generate(prompts, NEW, blind=True))) == 1
    blinded = moved(parts[1].batch(prompts[:1], prompt=True))
    blinded["image_index"].fill_(-1)
    ids = parts[0].generate(**blinded, max_new_tokens=NEW, do_sample=False, eos_token_id=parts[1].end_of_chunk_token_id)
    said = parts[1].tokenizer.decode(ids[0, blinded["input_ids"].shape[1] :], skip_special_tokens=True)
    assert engine.generate(prompts[:1], NEW, blind=True) == [said.split("<|endofchunk|>")[0].lstrip()]


def test_an_output_ends_with_its_chunk_and_begins_without_blanks(parts, monkeypatch):
    model, processor = parts
    said = processor.tokenizer("  a dog <|endofchunk|>a cat", add_special_tokens=False).input_ids
    monkeypatch.setattr(
        model, "generate", lambda input_ids, **_: torch.cat([input_ids, torch.tensor([said] * len(input_ids))], 1)
    )
    assert FlamingoEngine(model, processor, 2).generate([build_prompt(example("query", 0), [])], NEW) == ["a dog "]


def poisoned(shipped):
    [name, *_] = shipped
    return pytest.param(shipped, id=name, marks=[] if name in ("repetition_penalty", "do_sample") else pytest.mark.full)


@pytest.mark.parametrize("shipped", [poisoned(shipped) for shipped in POISONED])
def test_outputs_ignore_the_checkpoints_generation_config(parts, prompts, shipped, monkeypatch):
    model, processor = parts
    expected = {}
    for beams in (1, 3):
        monkeypatch.setattr(model, "generation_config", GenerationConfig())
        expected[beams] = FlamingoEngine(model, processor, 4).generate(prompts, NEW, beams)
        config = GenerationConfig(**shipped)
        monkeypatch.setattr(model, "generation_config", config)
        assert FlamingoEngine(model, processor, 4).generate(prompts, NEW, beams) == expected[beams]
        assert model.generation_config is config and shipped.items() <= config.to_dict().items()
    assert expected[1] != expected[3]


def test_generate_honours_the_checkpoints_generation_config(parts, prompts, monkeypatch):
    model, processor = parts
    plain = alone(parts, prompts[0])
    inputs = moved(processor.batch(prompts[:1], prompt=True))
    first = model.generate(**inputs, max_new_tokens=1, do_sample=False)[0, -1].item()
    monkeypatch.setattr(model, "generation_config", GenerationConfig(suppress_tokens=[first]))
    assert model.generate(**inputs, max_new_tokens=1, do_sample=False)[0, -1].item() != first
    assert alone(parts, prompts[0]) != plain


def test_progress_counts_every_prompt(parts, prompts):
    done = []
    FlamingoEngine(*parts, 2).generate(prompts, NEW, on_progress=done.append)
    assert done == [2, 2, 1]


def test_what_cannot_be_decoded_is_refused(parts):
    model, processor = parts
    with pytest.raises(UserError, match=r"^batch_size .*0"):
        FlamingoEngine(model, processor, 0)
    prompt = Document([example("query", 0).image, Text("Output:")], id="query/0")
    with pytest.raises(UserError, match=r"'query/0'.*2"):
        FlamingoEngine(model, processor, 1).generate([prompt], max_new_tokens=126)
    with pytest.raises(UserError, match=r"gone\.jpg"):
        FlamingoEngine(model, processor, 1).generate([Document([Image("gone.jpg"), Text("Output:")])], NEW)
    model.train()
    try:
        with pytest.raises(ValueError, match="training mode"):
            FlamingoEngine(model, processor, 1)
    finally:
        model.eval()
