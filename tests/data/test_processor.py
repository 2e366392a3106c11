"""Documents become tokens, image indexes and labels, and wrong documents are refused."""

import json
import random
import shutil

import pytest
import torch
from PIL import Image as PILImage
from tokenizers import processors
from transformers import AutoProcessor, AutoTokenizer
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from flamingo import Document, FlamingoForConditionalGeneration, FlamingoProcessor, Image, Text
from flamingo.data.document import Affixes, EndOfChunk, SameChunk, TokenWindow
from flamingo.utils.errors import UserError
from tests import tiny


@pytest.fixture(scope="module")
def processor(backbones):
    return FlamingoProcessor.from_vision_text_pretrained(backbones / "clip_vision_model", backbones / "gpt2")


@pytest.fixture
def pictures():
    return [Image(PILImage.new("RGB", (20 + 9 * i, 30), (80 * i, 40, 200 - 50 * i))) for i in range(3)]


def rows(processor, example):
    """(token, image it sees, whether it is trained on) for every token."""
    tokens = processor.tokenizer.convert_ids_to_tokens(example.input_ids.tolist())
    trained = [None] * len(tokens) if example.labels is None else (example.labels != -100).tolist()
    for token, label in zip(example.input_ids, [] if example.labels is None else example.labels):
        assert label in (-100, token)
    return list(zip(tokens, example.image_index.tolist(), trained))


def spelled(processor, example, what):
    """The text of the tokens for which ``what(image, trained)`` holds."""
    chosen = [i for i, (_, image, trained) in enumerate(rows(processor, example)) if what(image, trained)]
    return processor.tokenizer.decode(example.input_ids[chosen])


@pytest.mark.parametrize("family", ["gpt2", "opt", "mpt", "llama"])
def test_a_model_limits_documents_where_its_tokenizer_does_not(family, backbones, tmp_path):
    """The last position is used: OPT numbers them from 2. The limit is saved with the tokenizer."""
    shutil.copytree(backbones / family, tmp_path / family)
    settings = json.loads((tmp_path / family / "tokenizer_config.json").read_text())
    del settings["model_max_length"]
    (tmp_path / family / "tokenizer_config.json").write_text(json.dumps(settings))
    if family == "llama":  # with rotary positions it is the length that the model was trained with
        config = json.loads((tmp_path / family / "config.json").read_text())
        (tmp_path / family / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 128}))
    processor = FlamingoProcessor.from_vision_text_pretrained(backbones / "clip_vision_model", tmp_path / family)
    processor.save_pretrained(tmp_path / "saved")
    model = FlamingoForConditionalGeneration.from_vision_text_pretrained(
        str(backbones / "clip_vision_model"),
        str(tmp_path / family),
        new_token_ids=processor.new_token_ids,
        **tiny.PARTS,
    ).eval()
    for one in (processor, FlamingoProcessor.from_pretrained(tmp_path / "saved")):
        assert one.tokenizer.model_max_length == 128
        batch = one.batch([Document([Text(" dog" * 125)])])
        assert batch["input_ids"].shape == (1, 128)
        assert model(**batch, pixel_values=None).logits.isfinite().all()
        with pytest.raises(UserError, match="128"):
            one.encode(Document([Text(" dog" * 126)]))
    shorter = FlamingoProcessor.from_vision_text_pretrained(backbones / "clip_vision_model", backbones / family)
    shorter.tokenizer.model_max_length = 50
    shorter.limit_length(model.config.text_config)
    assert shorter.tokenizer.model_max_length == 50


def test_a_pair_is_written_as_in_the_paper(processor, pictures):
    example = processor.encode(Document([pictures[0], Text("a dog")]))
    assert processor.tokenizer.decode(example.input_ids) == "<s><image>a dog<|endofchunk|></s>"
    index, trained = [r[1] for r in rows(processor, example)], [r[2] for r in rows(processor, example)]
    assert index == [-1] + [0] * (len(index) - 1)  # the marker sees its image already
    assert trained == [False, False] + [True] * (len(index) - 2)  # not BOS, not the marker; the end of chunk, and EOS
    assert example.pixel_values.shape == (1, 1, 3, tiny.IMAGE_SIZE, tiny.IMAGE_SIZE)


def test_each_text_sees_its_own_image_and_leading_text_none(processor, pictures):
    example = processor.encode(Document([Text("one"), pictures[0], Text("two"), pictures[1], Text("red")]))
    assert spelled(processor, example, lambda image, _: image == -1) == "<s>one<|endofchunk|>"
    assert spelled(processor, example, lambda image, _: image == 0) == "<image>two<|endofchunk|>"
    assert spelled(processor, example, lambda image, _: image == 1) == "<image>red<|endofchunk|></s>"


def test_next_image_moves_the_marker_and_the_last_text_sees_none(processor, pictures):
    document = Document([Text("one"), pictures[0], Text("two"), pictures[1], Text("red")])
    example = processor.encode(document, next_image=True)
    assert spelled(processor, example, lambda image, _: image == 0) == "<image>one<|endofchunk|>"
    assert spelled(processor, example, lambda image, _: image == 1) == "<image>two<|endofchunk|>"
    assert spelled(processor, example, lambda image, _: image == -1) == "<s>red<|endofchunk|></s>"
    assert torch.equal(example.pixel_values, processor.encode(document).pixel_values)


def test_texts_that_are_not_trained_on_have_no_labels(processor, pictures):
    """Demonstrations and a question, of which only the answer counts."""
    document = Document(
        [pictures[0], Text("a dog", train=False), pictures[1], Text("Question: what? Answer:", False), Text(" red")]
    )
    example = processor.encode(document)
    assert spelled(processor, example, lambda _, trained: trained) == " red<|endofchunk|></s>"
    unanswered = Document([pictures[0], Text("a dog"), pictures[1], Text("two", train=False)])
    example = processor.encode(unanswered)
    assert spelled(processor, example, lambda _, trained: trained) == "a dog<|endofchunk|>"  # and no EOS


@pytest.mark.parametrize("bos", [True, False])
def test_last_text_holds_the_tokens_of_a_last_text_that_trains(processor, pictures, monkeypatch, bos):
    monkeypatch.setattr(processor, "bos", bos)

    def last_text(*parts, **settings):
        example = processor.encode(Document(parts), **settings)
        tokens = example.last_text
        return None if tokens is None else processor.tokenizer.decode(example.input_ids[tokens.start : tokens.stop])

    asked = (pictures[0], Text("a dog"), pictures[1], Text("Output:", train=False))
    assert last_text(*asked, Text(" two dogs")) == " two dogs"
    assert last_text(pictures[0], Text("two"), Text(" dogs")) == " dogs"
    assert last_text(Text("a dog")) == "a dog"
    assert last_text(*asked) is None
    assert last_text(Text("a dog"), pictures[0]) is None
    assert last_text(pictures[0], Text("a dog"), next_image=True) == "a dog"
    assert last_text(Text("a dog"), pictures[0], next_image=True) == "a dog"


def test_a_document_of_text_alone_has_no_image_and_no_pixels(processor):
    example = processor.encode(Document([Text("a dog"), EndOfChunk(), Text("two dogs")]))
    assert processor.tokenizer.decode(example.input_ids) == "<s>a dog<|endofchunk|>two dogs<|endofchunk|></s>"
    assert example.image_index.tolist() == [-1] * len(example.input_ids)
    assert example.pixel_values is None


def test_no_end_of_chunk_stands_between_joined_images(processor, pictures):
    first, second = pictures[:2]
    parts = [first, SameChunk(), second, Text("a dog"), second, SameChunk(), first, Text("two")]
    example = processor.encode(Document(parts, affixes=Affixes(before_image="red ", separator="ball ")), prompt=True)
    text = "<s>red <image><image>a dog<|endofchunk|>ball red <image><image>two"
    assert processor.tokenizer.decode(example.input_ids) == text
    assert spelled(processor, example, lambda image, _: image == 0) == "<image>"
    assert spelled(processor, example, lambda image, _: image == 3) == "<image>two"
    assert len(example.pixel_values) == 4


def test_a_prompt_stays_open_and_has_no_labels(processor, pictures):
    document = Document([pictures[0], Text("a dog"), pictures[1], Text("Output:")])
    example = processor.encode(document, prompt=True)
    assert processor.tokenizer.decode(example.input_ids) == "<s><image>a dog<|endofchunk|><image>Output:"
    assert example.labels is None
    assert processor.tokenizer.decode(processor.encode(Document([pictures[0]]), prompt=True).input_ids) == "<s><image>"


def test_the_space_before_a_caption_is_put_once(processor, pictures):
    document = Document([Text("one"), pictures[0], Text(" two"), Text("red"), pictures[1], Text("a")])
    example = processor.encode(document, leading_space=True)
    text = processor.tokenizer.decode(example.input_ids)
    assert text == "<s> one<|endofchunk|><image> twored<|endofchunk|><image> a<|endofchunk|></s>"


def test_the_text_is_tokenized_as_a_whole(processor):
    """Parts do not cut words: the tokens are those that the language model was trained on."""
    whole, parts = (processor.encode(Document(texts)) for texts in ([Text("grass")], [Text("gra", False), Text("ss")]))
    assert torch.equal(whole.input_ids, parts.input_ids)
    # A token that holds the end of an untrained text and the start of a trained one is trained on.
    assert spelled(processor, parts, lambda _, trained: trained).endswith("ss<|endofchunk|></s>")


def test_bytes_of_one_character_stay_together(processor, pictures):
    example = processor.encode(Document([pictures[0], Text("ü", False), pictures[1], Text("日本")]))
    assert spelled(processor, example, lambda image, _: image == 1) == "<image>日本<|endofchunk|></s>"
    assert spelled(processor, example, lambda _, trained: trained) == "日本<|endofchunk|></s>"


def test_offsets_that_leave_out_spaces_move_no_token(processor, pictures):
    """Some tokenizers report a token of spaces as nothing at the place behind it: before the next image's marker."""
    trimming = tiny.tokenizer()
    trimming.backend_tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    trimming = FlamingoProcessor(processor.image_processor, trimming)
    document = Document([Text("one "), pictures[0], Text("a dog "), pictures[1], Text("Output:", False), Text("  ")])
    for arguments in ({}, {"next_image": True}, {"prompt": True}):
        expected, actual = processor.encode(document, **arguments), trimming.encode(document, **arguments)
        assert torch.equal(actual.input_ids, expected.input_ids)
        assert torch.equal(actual.image_index, expected.image_index)
        assert arguments.get("prompt") or torch.equal(actual.labels, expected.labels)


def test_coins_are_drawn_per_document_with_their_probabilities(processor, pictures):
    document = Document([Text("one"), pictures[0], Text("two")])

    def share(**chances):
        batch = processor.batch([document] * 200, rng=random.Random(0), **chances)
        return (batch["input_ids"][:, 1] == processor.image_token_id).float().mean()

    assert share(p_next=0.5) == pytest.approx(0.5, abs=0.1)
    assert share(p_next=1.0) == 1
    assert share(p_next=0.0) == 0
    one, two = (processor.batch([document] * 20, rng=random.Random(5), p_space=0.5) for _ in range(2))
    assert torch.equal(one["input_ids"], two["input_ids"])
    assert len({tuple(row.tolist()) for row in one["input_ids"]}) == 2
    with pytest.raises(ValueError, match=r"p_space=0.5"):
        processor.batch([document], p_space=0.5)
    with pytest.raises(ValueError, match=r"p_next.*\[0, 1\].*2"):
        processor.batch([document], p_next=2)


def test_batches_are_padded_on_the_side_asked_for(processor, pictures):
    documents = [Document([pictures[0], Text("a dog runs")]), Document([Text("a")])]
    for prompt, side, expected in [(True, None, "left"), (False, None, "right"), (True, "right", "right")]:
        mask = processor.batch(documents, prompt=prompt, padding_side=side)["attention_mask"]
        assert (mask[1, 0] == 0, mask[1, -1] == 0) == (expected == "left", expected == "right")
    assert processor(text=["a dog runs on the grass", "a"], padding_side="right")["attention_mask"][1, -1] == 0


def test_the_limit_of_tokens_can_be_lowered(processor, pictures):
    document = Document([pictures[0], Text("a dog runs on the grass")], id="d2")
    length = len(processor.encode(document).input_ids)
    assert len(processor.encode(document, max_length=length).input_ids) == length
    for encode in (processor.encode, lambda d, max_length: processor.batch([d], max_length=max_length)):
        with pytest.raises(UserError, match=f"document 'd2' has {length} tokens, more than the {length - 1} that fit"):
            encode(document, max_length=length - 1)


def test_videos_keep_their_frames(processor):
    frames = [PILImage.new("RGB", (8, 8), (60 * i, 0, 0)) for i in range(3)]
    example = processor.encode(Document([Image(*frames), Text("a"), Image(*frames[::-1]), Text("b")]))
    assert example.pixel_values.shape == (2, 3, 3, 16, 16)
    assert torch.equal(example.pixel_values[0], example.pixel_values[1].flip(0))


def test_the_usual_call_makes_the_same_prompt(processor, pictures):
    document = Document([pictures[0], Text("a dog"), pictures[1], Text("Output:")])
    expected = processor.batch([document, Document([Text("two")])], prompt=True)
    batch = processor(
        images=[[pictures[0].frames[0], pictures[1]], []],
        text=["<image>a dog<|endofchunk|><image>Output:", "two"],
    )
    assert batch.keys() == expected.keys()
    for key in expected:
        assert torch.equal(batch[key], expected[key]), key
    assert batch["attention_mask"][1, 0] == 0  # on the left
    single = processor(images=pictures[0].frames[0], text="<image>Output:")
    assert single["pixel_values"].shape == (1, 1, 1, 3, 16, 16)


def test_it_is_saved_and_found_by_the_autoclass(processor, pictures, tmp_path, gpt2):
    altered = FlamingoProcessor(
        processor.image_processor,
        AutoTokenizer.from_pretrained(gpt2.config.backbones["language_model"]["name"]),
        bos=False,
        eos=False,
    )
    altered.save_pretrained(tmp_path)
    gpt2.config.save_pretrained(tmp_path)
    for loaded in (AutoProcessor.from_pretrained(tmp_path), FlamingoProcessor.from_pretrained(tmp_path)):
        assert isinstance(loaded, FlamingoProcessor)
        assert loaded.new_token_ids == processor.new_token_ids == tiny.NEW_TOKEN_IDS
        example = loaded.encode(Document([pictures[2], Text("a dog")]))
        assert loaded.tokenizer.decode(example.input_ids) == "<image>a dog<|endofchunk|>"
        expected = altered.encode(Document([pictures[2], Text("a dog")]))
        assert torch.equal(example.pixel_values, expected.pixel_values)


def test_it_feeds_the_model(processor, pictures, gpt2):
    documents = [Document([Text("one"), pictures[0], Text("a dog"), pictures[1], Text("red")]), Document([Text("a")])]
    batch = processor.batch(documents)
    loss = gpt2(**batch).loss
    assert torch.isfinite(loss)
    prompt = processor.batch([Document([pictures[0], Text("Output:")])], prompt=True)
    out = gpt2.generate(**prompt, max_new_tokens=4, eos_token_id=processor.end_of_chunk_token_id, pad_token_id=0)
    assert out.shape[1] <= prompt["input_ids"].shape[1] + 4


def test_a_tokenizer_without_padding_token_gets_one(backbones):
    processor = FlamingoProcessor.from_vision_text_pretrained(backbones / "vit", backbones / "gpt2")
    assert processor.tokenizer.pad_token == "</s>"
    assert len(processor.tokenizer) == tiny.VOCABULARY + 2


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([Text("an <image> here")], r"'d1'.*<image>"),
        ([Text("<|endofchunk|>")], r"'d1'.*<\|endofchunk\|>"),
        ([Text("struck </s> out")], r"'d1'.*</s>"),
        ([Text("a dog " * 100)], r"'d1'.*128"),
        ([Image("nowhere.jpg")], r"nowhere\.jpg"),
        ([Image("a.png"), Image("a.png", "a.png")], r"'d1'.*\[1, 2\]"),
    ],
    ids=str,
)
def test_documents_that_cannot_be_processed_are_named(processor, parts, message):
    with pytest.raises(UserError, match=message):
        processor.encode(Document(parts, id="d1"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"text": "<image><image>", "images": []}, r"text 0.*2 <image>.*0"),
        ({"text": ["a", "<image>"], "images": [[]]}, r"2 texts.*2 lists"),
        ({"text": "a dog " * 100}, r"text 0.*128"),
        ({"text": "a", "padding": "max_length"}, "padding='max_length'"),
        ({"text": "a", "return_tensors": "np"}, r"return_tensors.*'pt'.*'np'"),
        ({"text": "a", "padding_side": "middle"}, r"padding_side.*'middle'"),
        ({"images": []}, "a text is needed"),
    ],
    ids=str,
)
def test_prompts_that_do_not_fit_are_refused(processor, arguments, message):
    with pytest.raises(ValueError, match=message):
        processor(**arguments)


def test_pictures_are_made_square_as_asked_and_as_saved(processor, tmp_path):
    """The image processor squeezes pictures that are not square; a red stripe in blue shows the effect."""
    picture = PILImage.new("RGB", (60, 20), "blue")
    picture.paste((255, 0, 0), (0, 0, 10, 20))
    document = Document([Image(picture)])
    seen = {}
    for aspect in ("as_is", "pad", "crop"):
        tokenizer = AutoTokenizer.from_pretrained(processor.tokenizer.name_or_path)
        FlamingoProcessor(processor.image_processor, tokenizer, aspect=aspect).save_pretrained(tmp_path / aspect)
        loaded = FlamingoProcessor.from_pretrained(tmp_path / aspect)
        assert loaded.aspect == aspect
        seen[aspect] = loaded.encode(document, prompt=True).pixel_values[0, 0]
    red, blue = seen["as_is"][0], seen["as_is"][2]
    assert red[8, 0] > red[8, 8] and blue[8, 0] < blue[8, 8]
    assert torch.equal(red[0], red[8])
    assert torch.equal(seen["as_is"], processor.encode(document, prompt=True).pixel_values[0, 0])  # the default
    assert seen["pad"][0, 8, 0] > seen["pad"][0, 0, 0] > seen["pad"][0, 8, 8]  # red, the mean, blue
    assert (seen["crop"] == seen["crop"][:, :1, :1]).all()  # the stripe is cut off
    with pytest.raises(UserError, match=r"as_is.*'square'"):
        FlamingoProcessor(processor.image_processor, processor.tokenizer, aspect="square")


def test_a_prompt_without_pixels_opens_no_image(processor, pictures):
    document = Document([pictures[0], Text("a dog"), pictures[1], Text("Output:")])
    whole, bare = (processor.encode(document, prompt=True, pixels=pixels) for pixels in (True, False))
    assert bare.pixel_values is None
    assert torch.equal(bare.input_ids, whole.input_ids) and torch.equal(bare.image_index, whole.image_index)
    assert torch.equal(processor.pixel_values(pictures[:2]), whole.pixel_values)
    processor.encode(Document([Image("not-there.jpg")]), prompt=True, pixels=False)
    with pytest.raises(UserError, match=r"not-there\.jpg"):
        processor.pixel_values([Image("not-there.jpg")])


def test_image_markers_and_end_of_chunk_tokens_can_be_others(processor, pictures, backbones):
    """As in IDEFICS: the token around an image stands once between two, and the first still sees the image before."""
    other = FlamingoProcessor(
        processor.image_processor,
        AutoTokenizer.from_pretrained(backbones / "gpt2"),
        new_tokens=["<around>", "<image>"],
        end_of_chunk="!",
        image_marker="<around><image><around>",
    )
    around, image, end = 300, 301, other.tokenizer("!")["input_ids"][0]
    assert (other.new_token_ids, other.end_of_chunk_token_id) == ([around, image], end)
    prompt = other(images=[[pictures[0], pictures[1]]], text=["a<image><image>b"])
    a, b = (other.tokenizer(letter)["input_ids"][0] for letter in "ab")
    assert prompt["input_ids"].tolist() == [[0, a, around, image, around, image, around, b]]
    assert prompt["image_index"].tolist() == [[-1, -1, -1, 0, 0, 1, 1, 1]]
    document = other.encode(Document([pictures[0], Text("a"), pictures[1], Text("b")]))
    marker = [around, image, around]
    assert document.input_ids.tolist() == [0, *marker, a, end, *marker, b, end, 1]
    assert document.image_index.tolist() == [-1, -1, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1]
    with pytest.raises(ValueError, match=r"image_marker.*<image>.*'<picture>'"):
        FlamingoProcessor(other.image_processor, other.tokenizer, image_marker="<picture>")


def test_a_marker_may_be_plain_text(processor, pictures, backbones, tmp_path):
    """As in flamingo-mini, where the tokens of the word itself see the image."""
    plain = FlamingoProcessor(
        processor.image_processor,
        AutoTokenizer.from_pretrained(backbones / "gpt2"),
        new_tokens=["<EOC>"],
        end_of_chunk="<EOC>",
    )
    plain.save_pretrained(tmp_path)
    for loaded in (plain, FlamingoProcessor.from_pretrained(tmp_path)):
        assert loaded.new_token_ids == [300]
        example = loaded.encode(Document([pictures[0], Text("a")]))
        ids = loaded.tokenizer("<image>a<EOC></s>")["input_ids"]
        assert len(ids) > 5 and 301 not in ids
        assert example.input_ids.tolist() == [0, *ids]
        assert example.image_index.tolist() == [-1, *[0] * len(ids)]


def test_pictures_of_another_size_are_shown_the_same(backbones, tmp_path):
    make = FlamingoProcessor.from_vision_text_pretrained
    cropped = CLIPImageProcessorPil(size={"shortest_edge": 40}, crop_size={"height": 32, "width": 32})
    squeezed = CLIPImageProcessorPil(size={"height": 32, "width": 32}, do_center_crop=False)
    # A white bar at each side of 100 columns: cutting away a tenth on each side leaves none of it.
    picture = PILImage.new("RGB", (100, 100), "white")
    picture.paste((0, 0, 0), (8, 0, 92, 100))
    for image_processor, brightest in ((cropped, False), (squeezed, True)):
        image_processor.save_pretrained(tmp_path)
        for side in (None, 64):
            pixels = make(tmp_path, backbones / "gpt2", side).pixel_values([Image(picture)])
            assert pixels.shape[-2:] == (side or 32, side or 32)
            assert (pixels[..., 0].max() > 1) == brightest


# ------------------------------------------------------------------- positions for visual tokens


@pytest.fixture(scope="module")
def prefixed(backbones):
    """A processor whose images take three positions each."""
    return FlamingoProcessor.from_vision_text_pretrained(
        backbones / "clip_vision_model", backbones / "gpt2", tokens_per_image=3
    )


def test_an_image_takes_its_number_of_positions(processor, prefixed, pictures):
    document = Document([pictures[0], Text("a dog"), pictures[1], Text("Output:", train=False), Text(" a cat")])
    expected = []
    for token, image, trained in rows(processor, processor.encode(document)):
        expected += [(token, image, trained)] * (3 if token == "<image>" else 1)
    assert rows(prefixed, prefixed.encode(document)) == expected
    assert [row for row in expected if row[0] == "<image>"] == [("<image>", 0, False)] * 3 + [("<image>", 1, False)] * 3
    last_text = prefixed.encode(document).last_text
    learnt = prefixed.encode(document).input_ids[last_text.start : last_text.stop]
    assert prefixed.tokenizer.decode(learnt) == " a cat"
    text = processor(images=[pictures[0].frames[0]], text="<image>a")["input_ids"]
    assert prefixed(images=[pictures[0].frames[0]], text="<image>a")["input_ids"].shape[1] == text.shape[1] + 2


def test_lengths_and_limits_count_all_positions(processor, prefixed, pictures):
    document = Document([pictures[0], Text("a dog"), pictures[1], Text("a cat")])
    length = len(processor.encode(document).input_ids) + 4
    assert len(prefixed.encode(document, max_length=length).input_ids) == length
    with pytest.raises(UserError, match=str(length - 1)):
        prefixed.encode(document, max_length=length - 1)
    assert prefixed.chunk_length("a dog") == processor.chunk_length("a dog") + 2
    assert prefixed.room == processor.room


def test_the_number_of_positions_is_saved(prefixed, tmp_path):
    prefixed.save_pretrained(tmp_path)
    assert FlamingoProcessor.from_pretrained(tmp_path).tokens_per_image == 3


def test_a_marker_as_plain_text_takes_no_visual_tokens(processor):
    tokenizer = tiny.tokenizer()
    with pytest.raises(UserError, match=r"tokens_per_image is 3.*<image>"):
        FlamingoProcessor(processor.image_processor, tokenizer, new_tokens=["<|endofchunk|>"], tokens_per_image=3)
    with pytest.raises(UserError, match=r"tokens_per_image .*-1"):
        FlamingoProcessor(processor.image_processor, tokenizer, tokens_per_image=-1)


def test_a_window_keeps_its_tokens_and_opens_its_images(processor, pictures, tmp_path):
    """The first image lies before the window, the third behind it: their files do not exist."""
    missing = Image(tmp_path / "missing.png")
    parts = [missing, Text("a"), pictures[1], Text("b"), missing, Text("c")]
    ids = processor.tokens(Document(parts)).ids
    example = processor.encode(Document(parts, window=TokenWindow(start=2, length=6)))
    assert example.input_ids.tolist() == ids[:1] + ids[2:7]
    tokens = [("<|endofchunk|>", -1, True), ("<image>", 0, False), ("b", 0, True), ("<|endofchunk|>", 0, True)]
    assert rows(processor, example)[2:6] == tokens
    assert rows(processor, example)[1] == ("a", -1, True) and len(example.pixel_values) == 1
    assert example.last_text is None


def test_a_drafted_processor_reduces_large_jpegs_and_is_a_copy(processor, tmp_path):
    noise = random.Random(0).randbytes(400 * 300 * 3)
    PILImage.frombytes("RGB", (400, 300), noise).save(tmp_path / "1.jpg")
    images = [Image(tmp_path / "1.jpg")]
    whole = processor.pixel_values(images, as_bytes=True)
    assert not processor.drafted().pixel_values(images, as_bytes=True).equal(whole)
    assert processor.pixel_values(images, as_bytes=True).equal(whole)
    processor.drafted().save_pretrained(tmp_path)
    assert FlamingoProcessor.from_pretrained(tmp_path).pixel_values(images, as_bytes=True).equal(whole)
