"""Pages become the token ids and pictures of OpenFlamingo's own ``preprocess_interleaved``."""

import base64
import copy
import io
import json
import sys
import tarfile
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from PIL import Image as PILImage
from tokenizers import processors

from flamingo import FlamingoProcessor
from flamingo.data.builders import SAMPLE_BUILDERS
from flamingo.data.builders.web_document import WebDocument
from flamingo.data.drops import Dropped
from flamingo.data.streams import SHARD_FORMATS
from flamingo.utils.kinds import import_name, load_kind

PRESETS = Path(__file__).parents[2] / "conf" / "web_document"
#: A similarity above the preset's threshold of 0.24.
SIMILAR = 0.3


@pytest.fixture
def preprocess(monkeypatch):
    """The original. Its mirroring is left out, and it keeps pages with one image."""
    transforms = SimpleNamespace(RandomHorizontalFlip=lambda p: lambda images: images)
    stand_ins = {
        "open_clip": ModuleType("open_clip"),
        "webdataset": ModuleType("webdataset"),
        "torchvision": SimpleNamespace(transforms=transforms),
        "data_utils": ModuleType("data_utils"),
    }
    for name, module in stand_ins.items():
        monkeypatch.setitem(sys.modules, name, module)
    data = pytest.importorskip("open_flamingo.train.data")
    monkeypatch.setattr(data.random, "random", lambda: 0.9)
    monkeypatch.setattr(data, "torchvision", stand_ins["torchvision"])
    return data.preprocess_interleaved


@pytest.fixture(scope="module", params=["without BOS", "with BOS"])
def processor(backbones, request):
    has_bos = request.param == "with BOS"
    processor = FlamingoProcessor.from_vision_text_pretrained(
        backbones / "clip_vision_model", backbones / "opt", bos=has_bos
    )
    tokenizer = processor.tokenizer
    if has_bos:
        bos = (tokenizer.bos_token, tokenizer.bos_token_id)
        tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos[0]} $A", special_tokens=[bos]
        )
    tokenizer.model_max_length = 256
    return processor


def config(**changes):
    values = yaml.safe_load((PRESETS / "mmc4_openflamingo.yaml").read_text())
    return replace(load_kind(SAMPLE_BUILDERS, values, "documents"), **changes)


def picture(colour, num_bytes=12_000):
    """A picture of one gray, in a file of this size."""
    file = io.BytesIO()
    PILImage.new("RGB", (20, 20), (colour,) * 3).save(file, "PNG")
    content = file.getvalue()
    return base64.b64encode(content + bytes(num_bytes - len(content))).decode()


def page(sentences, images):
    """A document of MMC4. ``images`` are (number of the sentence, similarity, size of the file or None: missing)."""
    infos = []
    matrix = np.zeros((len(images), len(sentences)))
    for number, (sentence, similarity, num_bytes) in enumerate(images):
        info = {"image_name": f"{number}.png", "raw_url": "", "matched_text_index": sentence, "matched_sim": similarity}
        if num_bytes is not None:
            info["image_base64"] = picture(10 * number + 10, num_bytes)
        infos.append(info)
        matrix[number, sentence] = similarity
    return {"url": "", "text_list": sentences, "image_info": infos, "similarity_matrix": matrix.tolist()}


def similar_images(*sentences):
    return [(sentence, SIMILAR, 12_000) for sentence in sentences]


def sequence(example, *colours):
    """A ChatGPT sequence."""
    images = {}
    for number, colour in enumerate(colours, start=1):
        images[f"_!_IMAGE{number}_!_"] = {"base64_image": picture(colour, 500)}
    return {"is_gpt": True, "example": example, "image_map": images}


SENTENCES = ["a dog runs", "two men sit", "a red bus", "green grass", "the sea", "a cat"]
LONG = [f"{number} is a long sentence of a long page" for number in range(20)]
#: Pages, and the order in which our document has the original's pictures.
PAGES = {
    "in text order": (page(SENTENCES, similar_images(0, 2, 5)), [0, 1, 2]),
    "out of text order": (page(SENTENCES, similar_images(4, 1, 2)), [1, 2, 0]),
    "of 10,999 and 11,000 bytes": (page(SENTENCES, [(1, 0.3, 10_999), (2, 0.3, 11_000), (3, 0.3, 11_000)]), [0, 1]),
    "at the threshold and below": (page(SENTENCES, [(1, 0.24, 12_000), (2, 0.23, 12_000), (4, 0.3, 12_000)]), [0, 1]),
    "more than six": (page(SENTENCES, similar_images(0, 1, 2, 3, 4, 4, 5, 5)), [0, 1, 2, 3, 4, 5]),
    "more than six, out of order": (page(SENTENCES, similar_images(5, 4, 3, 2, 1, 0, 0)), [5, 4, 3, 2, 1, 0]),
    "one image": (page(SENTENCES, similar_images(2)), [0]),
    "a missing one": (page(SENTENCES, [(0, 0.3, None), (2, 0.3, 12_000), (3, 0.3, 12_000)]), [0, 1]),
    "truncated": (page(LONG, similar_images(2, 4, 6, 18)), [0, 1, 2]),
    "of the same sentence": (page(SENTENCES, similar_images(3, 3)), [0, 1]),
    "blanks and empty sentences": (page(["", "a ", " b", " ", "c  d", ""], similar_images(1, 2, 4)), [0, 1, 2]),
    "ChatGPT": (sequence("Look: _!_IMAGE1_!_ a dog. And _!_IMAGE2_!_ a cat.", 50, 90), [0, 1]),
    "ChatGPT with one image": (sequence("_!_IMAGE1_!_ A dog runs. ", 50), [0]),
}


def write_tar(path, documents):
    """Writes documents as OpenFlamingo's converter does: members ``<hex>.json``."""
    with tarfile.open(path, "w") as tar:
        for number, document in enumerate(documents):
            content = json.dumps(document).encode()
            member = tarfile.TarInfo(f"{number:032x}.json")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def read_tar(path):
    layout = SHARD_FORMATS["openflamingo_tar"]
    entries = import_name(layout.entries)(path)
    return [import_name(layout.sample)(path, entry, None) for entry in entries]


def theirs(preprocess, processor, document):
    """The original's token ids without padding, and the grays of its pictures."""
    tokenizer = copy.deepcopy(processor.tokenizer)
    tokenizer.pad_token = "<pad>" if "<pad>" in tokenizer.get_vocab() else tokenizer.pad_token
    tokens = ["<|endofchunk|>", "<image>"]
    tokenizer.__dict__["additional_special_tokens"] = tokens
    tokenizer.__dict__["additional_special_tokens_ids"] = tokenizer.convert_tokens_to_ids(tokens)
    images, (ids, mask) = preprocess(
        [json.dumps(document)],
        tokenizer,
        lambda picture: torch.full((3, 224, 224), picture.getpixel((0, 0))[0]),
        sim_threshold=0.24,
        min_num_images=1,
        max_num_images=6,
    )
    grays = images[:, 0, 0, 0].tolist()
    return ids[mask.bool()].tolist(), [int(gray) for gray in grays if gray]


def ours(builder, processor, page, position=0):
    document = builder.document(page, position)
    if isinstance(document, Dropped):
        return document
    example = processor.encode(document, as_bytes=True)
    return example.input_ids.tolist(), example.pixel_values[:, 0, 0, 0, 0].tolist()


@pytest.fixture
def pages(tmp_path):
    write_tar(tmp_path / "000000000.tar", [document for document, _ in PAGES.values()])
    return dict(zip(PAGES, read_tar(tmp_path / "000000000.tar")))


def test_ids_and_pictures_are_those_of_the_original(preprocess, processor, pages):
    builder = WebDocument(config(single_image_prob=1.0), processor, seed=0)
    for name, (document, order) in PAGES.items():
        ids, grays = theirs(preprocess, processor, document)
        our_ids, our_grays = ours(builder, processor, pages[name])
        assert our_ids == ids, name
        # The original also returns pictures beyond the window.
        assert our_grays == [grays[number] for number in order], name


def test_each_text_sees_its_picture_unlike_in_the_original(preprocess, processor, pages):
    """The original has its pictures in the order of the images' list."""
    document, _ = PAGES["out of text order"]
    _, grays = theirs(preprocess, processor, document)
    assert grays == [10, 20, 30]  # though the second image belongs to the first text with an image
    example = processor.encode(
        WebDocument(config(), processor, 0).document(pages["out of text order"], 0), as_bytes=True
    )
    seen = {}
    for token, image in zip(example.input_ids, example.image_index):
        seen.setdefault(image.item(), []).append(token)
    texts = {number: processor.tokenizer.decode(tokens) for number, tokens in seen.items()}
    pictures = example.pixel_values[:, 0, 0, 0, 0].tolist()
    for number, (gray, sentence) in enumerate([(20, 1), (30, 2), (10, 4)]):
        assert pictures[number] == gray and SENTENCES[sentence] in texts[number]


@pytest.mark.parametrize(
    "document",
    [
        page(SENTENCES, []),
        page(SENTENCES, [(1, 0.3, 10_999), (2, 0.23, 11_000), (3, 0.3, None)]),
        page(LONG, similar_images(18)),
        page([*LONG[:5], "x" * 400, "y"], similar_images(6)),
    ],
    ids=["no image", "no usable image", "an image behind the window", "a long sentence"],
)
def test_pages_without_images_are_left_out_as_in_the_original(document, preprocess, processor, tmp_path):
    write_tar(tmp_path / "0.tar", [document])
    [whole] = read_tar(tmp_path / "0.tar")
    assert isinstance(WebDocument(config(), processor, 0).document(whole, 0), Dropped)
    with pytest.raises(ValueError, match="images in sample"):
        theirs(preprocess, processor, document)


def test_a_long_chatgpt_sequence_keeps_six_images(preprocess, processor, tmp_path):
    """The original cuts its text before the sixth image and ends the last chunk twice."""
    texts = [f"_!_IMAGE{number}_!_ dog {number} " for number in range(1, 9)]
    document = sequence("".join(texts), *range(10, 90, 10))
    write_tar(tmp_path / "0.tar", [document])
    [whole] = read_tar(tmp_path / "0.tar")
    ids, grays = ours(WebDocument(config(), processor, 0), processor, whole)
    assert grays == [10, 20, 30, 40, 50, 60]
    their_ids, _ = theirs(preprocess, processor, document)
    end = processor.end_of_chunk_token_id
    cut = [place for place, token in enumerate(their_ids) if token == end][-2]
    assert their_ids[cut : cut + 2] == [end, end] and ids[: cut + 1] == their_ids[: cut + 1]
    assert ids.count(processor.image_token_id) == their_ids.count(processor.image_token_id) + 1
