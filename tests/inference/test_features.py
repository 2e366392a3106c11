"""Stored features equal computed ones, belong to one encoder, and find similar images."""

import json
import multiprocessing
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as PILImage

from flamingo import Document, FlamingoProcessor, Image, Text
from flamingo.data.collate import collate
from flamingo.data.transforms.pictures import open_image
from flamingo.inference import features
from flamingo.inference.features import ContentKeys, FeatureStore
from flamingo.utils.errors import UserError
from flamingo.utils.lock import LOCK
from tests import tiny
from tests.evaluation.fake import model_and_processor
from tests.helpers.devices import moved, skip_unless_forked_processes_compute
from tests.helpers.disk import full_disk
from tests.helpers.forked import values_of_processes


def picture(seed, size=(20, 24)):
    rng = np.random.default_rng(seed)
    return PILImage.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


@pytest.fixture
def parts(backbones):
    vision, text = backbones / "clip_vision_model", backbones / "gpt2"
    return tiny.flamingo(backbones), FlamingoProcessor.from_vision_text_pretrained(vision, text)


@pytest.fixture
def paths(tmp_path):
    found = []
    for seed in range(5):
        found.append(tmp_path / "pictures" / f"{seed}.png")
        found[-1].parent.mkdir(exist_ok=True)
        picture(seed).save(found[-1])
    return found


@pytest.mark.parametrize("parts_of_fusion", [{}, tiny.PREFIX], ids=["cross_attention", "prefix"])
def test_losses_and_captions_are_those_of_the_pixels(backbones, paths, tmp_path, parts_of_fusion):
    model, processor = model_and_processor(backbones, **parts_of_fusion)
    images = [Image(path) for path in paths]
    store = FeatureStore(tmp_path / "features", model, processor)
    store.add(images)
    texts = ("a dog", "two cats", "a mat", "the red ball", "grass")
    both = zip(images, texts, strict=True)
    document = Document([part for image, text in both for part in (image, Text(text))])
    example = processor.encode(document, pixels=False)
    kept = moved(collate([replace(example, image_features=store.stacked(images))], 0, "right"))
    fresh = moved(collate([processor.encode(document)], 0, "right"))
    assert "pixel_values" not in kept
    torch.testing.assert_close(model(**kept).loss, model(**fresh).loss, rtol=1e-6, atol=0)
    other = {**kept, "image_features": kept["image_features"].flip(1)}
    assert (model(**other).loss - model(**fresh).loss).abs() > 1e-4
    ids = [
        model.generate(**{k: v for k, v in batch.items() if k != "labels"}, max_new_tokens=5, do_sample=False)
        for batch in (kept, fresh)
    ]
    assert torch.equal(*ids)


def test_a_picture_is_computed_once_whatever_it_is_called(parts, paths, tmp_path):
    store = FeatureStore(tmp_path / "features", *parts)
    assert store.add([Image(path) for path in paths]) == 5
    copy = tmp_path / "copy.png"
    copy.write_bytes(paths[0].read_bytes())
    assert store.add([Image(copy), Image(paths[1])]) == 0
    assert torch.equal(store[Image(copy)], store[Image(paths[0])])
    again = FeatureStore(tmp_path / "features", *parts)
    assert torch.equal(again.stacked([Image(p) for p in paths]), store.stacked([Image(p) for p in paths]))
    assert again.stacked([Image(paths[3])]).shape == (1, 1, 16, 24)  # m f p v


def test_what_another_process_has_added_is_found(parts, paths, tmp_path):
    images = [Image(path) for path in paths]
    mine, other = (FeatureStore(tmp_path / "features", *parts) for _ in range(2))
    other.add(images)
    assert images[0] not in mine
    assert mine.add(images) == 0
    assert torch.equal(mine.stacked(images), other.stacked(images))


def test_processes_share_the_pictures_and_write_the_files_of_one(parts, paths, tmp_path, monkeypatch):
    images = [Image(path) for path in paths]
    encode = FeatureStore._encode

    def add(folder, numbers):
        batches = []
        monkeypatch.setattr(FeatureStore, "_encode", lambda self, of: batches.append(len(of)) or encode(self, of))
        store = FeatureStore(folder, *parts, batch_size=2)
        added = [store.add(images[:number]) for number in numbers]
        return batches, added, store.stacked(images).sum().item()

    first, second = values_of_processes(2, add, tmp_path / "two", [3, 5, 5])
    assert (first[0], second[0]) == ([2, 2], [1])
    one = add(tmp_path / "one", [3, 5, 5])
    assert first[1:] == second[1:] == one[1:] and one[1] == [3, 2, 0]
    for file in (tmp_path / "one").iterdir():
        assert (tmp_path / "two" / file.name).read_bytes() == file.read_bytes()


def test_a_video_has_the_features_of_its_frames(parts, paths, tmp_path):
    store = FeatureStore(tmp_path / "features", *parts)
    video = Image(*paths[:3])
    store.add([video])
    assert torch.equal(store[video][2], store[Image(paths[2])][0])
    assert video in store
    assert Image(paths[0], paths[4]) not in store


def test_every_view_of_a_picture_has_features_of_its_own(parts, paths, tmp_path):
    model, processor = parts
    image = Image(paths[0])
    views = [image.crop(number) for number in range(3)]
    store = FeatureStore(tmp_path / "features", model, processor)
    assert store.add(views) == 3
    for i, j in ((0, 1), (0, 2), (1, 2)):
        assert (store[views[i]] - store[views[j]]).abs().max() > 1e-2
    shown = Image(open_image(views[2].frames[0]))
    store.add([shown])
    torch.testing.assert_close(store[views[2]], store[shown])


def test_a_changed_picture_is_not_taken_for_what_it_was(parts, paths, tmp_path):
    store = FeatureStore(tmp_path / "features", *parts)
    store.add([Image(paths[0])])
    picture(77).save(paths[0])
    with pytest.raises(UserError, match=r"0\.png"):
        store[Image(paths[0])]


def test_opened_pictures_are_known_by_their_pixels():
    key = ContentKeys().of
    assert key(picture(1)) == key(picture(1)) != key(picture(2))
    flat = PILImage.new("RGB", (6, 4)), PILImage.new("RGB", (4, 6))
    assert key(flat[0]) != key(flat[1])


def test_a_file_is_read_once_until_it_changes(parts, paths, tmp_path, monkeypatch):
    """A step of a training looks up the features of many pictures, and of their crops."""
    read = []
    frame_bytes = features.frame_bytes
    monkeypatch.setattr(features, "frame_bytes", lambda frame: read.append(Path(frame).name) or frame_bytes(frame))
    store = FeatureStore(tmp_path / "features", *parts)
    images = [Image(path).crop(number) for path in paths[:2] for number in (0, 1)]
    store.add(images)
    assert read == ["0.png", "1.png"]
    for _ in range(2):
        store.stacked(images), store.pooled(images)
        assert images[0] in store and Image(str(paths[0])) in store
    assert read == ["0.png", "1.png"]
    earlier = paths[0].stat()
    # Bytes behind the end of a PNG are not read as pixels, but the file is another one.
    paths[0].write_bytes(paths[0].read_bytes()[:-1] + b"x")
    os.utime(paths[0], ns=(earlier.st_atime_ns, earlier.st_mtime_ns + 1))
    assert paths[0].stat().st_size == earlier.st_size
    assert Image(paths[0]) not in store
    assert read == ["0.png", "1.png", "0.png"]
    paths[0].unlink()
    with pytest.raises(UserError, match=r"0\.png cannot be read"):
        store[Image(paths[0])]


def test_features_have_the_dtype_of_the_encoder(parts, paths, tmp_path, backbones):
    images = [Image(path) for path in paths]
    exact = FeatureStore(tmp_path / "exact", *parts)
    half = FeatureStore(tmp_path / "half", tiny.flamingo(backbones, dtype=torch.bfloat16), parts[1])
    exact.add(images), half.add(images)
    assert half.stacked(images).dtype == torch.bfloat16
    difference = (half.stacked(images).float() - exact.stacked(images)).abs().max()
    assert 0 < difference < 2e-2 * exact.stacked(images).abs().max()
    sizes = [(tmp_path / name / "patches.bin").stat().st_size for name in ("exact", "half")]
    assert sizes == [5 * 16 * 24 * 4, 5 * 16 * 24 * 2]


def test_features_of_another_encoder_are_refused(parts, paths, tmp_path, backbones):
    model, processor = parts
    FeatureStore(tmp_path / "features", model, processor).add([Image(paths[0])])
    with pytest.raises(UserError, match=r"dtype.*'float32'.*'bfloat16'"):
        FeatureStore(tmp_path / "features", tiny.flamingo(backbones, dtype=torch.bfloat16), processor)
    model.config.vision_features.final_norm = True
    with pytest.raises(UserError, match="its vision_features was"):
        FeatureStore(tmp_path / "features", model, processor)
    model.config.vision_features.final_norm = False
    processor.aspect = "pad"
    with pytest.raises(UserError, match=r"'as_is'.*'pad'"):
        FeatureStore(tmp_path / "features", model, processor)
    processor.aspect = "as_is"
    next(model.vision_model.parameters()).data.add_(1.0)
    with pytest.raises(UserError, match="weights"):
        FeatureStore(tmp_path / "features", model, processor)


def test_an_empty_folder_goes_to_the_next_encoder_and_is_logged(parts, paths, tmp_path, backbones, caplog):
    model, processor = parts
    first = FeatureStore(tmp_path / "features", model, processor)
    (tmp_path / "features" / "patches.bin").write_bytes(b"a row without a line")
    with caplog.at_level("INFO"):
        half = FeatureStore(tmp_path / "features", tiny.flamingo(backbones, dtype=torch.bfloat16), processor)
    assert str(tmp_path / "features") in caplog.text
    half.add([Image(paths[0])])
    assert half[Image(paths[0])].dtype == torch.bfloat16
    assert (tmp_path / "features" / "patches.bin").stat().st_size == 16 * 24 * 2
    with pytest.raises(UserError, match="dtype"):  # the first, which has added nothing, has lost it
        first.add([Image(paths[1])])


def test_a_folder_of_something_else_is_left_alone(parts, tmp_path):
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(UserError, match="no features"):
        FeatureStore(tmp_path, *parts)


def test_an_interrupted_pass_goes_on_where_it_was(parts, paths, tmp_path):
    folder = tmp_path / "features"
    FeatureStore(folder, *parts).add([Image(path) for path in paths[:3]])
    with (folder / "patches.bin").open("ab") as file:  # written, but for its key
        file.write(b"x" * 700)
    with (folder / "keys.txt").open("a") as file:
        file.write("0123")
    store = FeatureStore(folder, *parts)
    assert store.add([Image(path) for path in paths]) == 2
    fresh = FeatureStore(tmp_path / "fresh", *parts)
    images = [Image(path) for path in paths]
    fresh.add(images)
    torch.testing.assert_close(store.stacked(images), fresh.stacked(images))
    torch.testing.assert_close(store.pooled(images), fresh.pooled(images))


def test_a_damaged_folder_is_refused(parts, paths, tmp_path):
    FeatureStore(tmp_path / "features", *parts).add([Image(path) for path in paths])
    with (tmp_path / "features" / "patches.bin").open("r+b") as file:
        file.truncate(100)
    with pytest.raises(UserError, match=r"patches\.bin.*100"):
        FeatureStore(tmp_path / "features", *parts)


@pytest.mark.parametrize("name", ["encoder.json", "shape.json", "keys.txt"])
def test_a_damaged_small_file_is_named_with_what_to_do(parts, paths, tmp_path, name):
    folder = tmp_path / "features"
    FeatureStore(folder, *parts).add([Image(path) for path in paths])
    (folder / name).write_bytes((folder / name).read_bytes()[:4] + b"\n")
    with pytest.raises(UserError, match=rf"{name}.*remove {folder}"):
        FeatureStore(folder, *parts)


@pytest.mark.parametrize("name", ["patches.bin", "pooled.bin"])
def test_a_damaged_row_is_refused_when_it_is_read(parts, paths, tmp_path, name):
    folder, images = tmp_path / "features", [Image(path) for path in paths]
    FeatureStore(folder, *parts).add(images)
    content = bytearray((folder / name).read_bytes())
    content[3 * len(content) // 5 + 1] ^= 1  # in the fourth row of five
    (folder / name).write_bytes(content)
    store = FeatureStore(folder, *parts)
    read = store.stacked if name == "patches.bin" else store.pooled
    for _ in range(2):  # what was verified once is read again
        read([images[0], images[4]])
    with pytest.raises(UserError, match=rf"{name}.*row 3.*remove {folder}"):
        read([images[3]])


def fill(folder, parts, paths, start):
    torch.set_num_threads(1)
    start.wait()
    FeatureStore(folder, *parts, batch_size=1).add([Image(path) for path in paths])
    os._exit(0)


def test_two_processes_in_one_folder_leave_right_features(parts, tmp_path):
    """In opposite orders, a picture at a time."""
    skip_unless_forked_processes_compute()
    paths = [tmp_path / f"{seed}.png" for seed in range(30)]
    for seed, path in enumerate(paths):
        picture(seed).save(path)
    processes = multiprocessing.get_context("fork")
    start = processes.Barrier(2)
    arguments = [(tmp_path / "features", parts, order, start) for order in (paths, paths[::-1])]
    started = [processes.Process(target=fill, args=own) for own in arguments]
    for process in started:
        process.start()
    for process in started:
        process.join()
    assert [process.exitcode for process in started] == [0, 0]
    images, fresh = [Image(path) for path in paths], FeatureStore(tmp_path / "fresh", *parts, batch_size=1)
    fresh.add(images)
    store = FeatureStore(tmp_path / "features", *parts)
    assert torch.equal(store.stacked(images), fresh.stacked(images))
    assert torch.equal(store.pooled(images), fresh.pooled(images))
    assert len((tmp_path / "features" / "keys.txt").read_text().splitlines()) == 30
    assert not (tmp_path / "features" / LOCK).exists()


def test_rows_that_another_process_is_writing_are_not_cut_off(parts, paths, tmp_path):
    folder = tmp_path / "features"
    FeatureStore(folder, *parts).add([Image(path) for path in paths])
    with (folder / "patches.bin").open("ab") as file:
        file.write(b"x" * 700)
    size = (folder / "patches.bin").stat().st_size
    assert FeatureStore(folder, *parts).add([Image(paths[0])]) == 0
    assert (folder / "patches.bin").stat().st_size == size


def test_a_full_disk_loses_no_row_that_was_written(parts, paths, tmp_path, monkeypatch):
    images, folder = [Image(path) for path in paths], tmp_path / "features"
    FeatureStore(folder, *parts).add(images[:2])
    for call in (1, 2, 3):
        monkeypatch.setattr("flamingo.utils.io.write", full_disk(call))
        with pytest.raises(UserError, match=rf"^{folder}/\w+\.\w+: No space"):
            FeatureStore(folder, *parts).add(images)
        monkeypatch.undo()
        assert images[1] in FeatureStore(folder, *parts)
    store, fresh = FeatureStore(folder, *parts), FeatureStore(tmp_path / "fresh", *parts)
    assert store.add(images) == 3
    fresh.add(images)
    torch.testing.assert_close(store.stacked(images), fresh.stacked(images))


def test_a_broken_picture_is_named(parts, paths, tmp_path):
    paths[2].write_bytes(paths[2].read_bytes()[:60])
    with pytest.raises(UserError, match=r"2\.png"):
        FeatureStore(tmp_path / "features", *parts).add([Image(path) for path in paths])


def test_pooled_features_are_means(parts, paths, tmp_path):
    store = FeatureStore(tmp_path / "features", *parts)
    image = Image(*paths[:2])
    store.add([image])
    torch.testing.assert_close(store.pooled([image])[0].cpu(), store[image].mean(dim=(0, 1)))


def test_the_folder_says_whose_features_it_holds(parts, tmp_path):
    FeatureStore(tmp_path / "features", *parts)
    identity = json.loads((tmp_path / "features" / "encoder.json").read_text())
    assert identity["dtype"] == "float32"
    assert identity["preparation"]["size"]
