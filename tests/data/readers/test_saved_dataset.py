"""Data sets saved by ``datasets``: Arrow streams, state.json and dataset_dict.json."""

import multiprocessing

import pytest
from torch.utils.data import DataLoader

from flamingo.data.data_checksums import data_checksums
from flamingo.data.sources import open_source
from flamingo.utils.errors import UserError
from tests.data.readers.test_parquet_shards import STRUCT, collated, picture, value_of
from tests.data.shelf import write

pa = pytest.importorskip("pyarrow")


def saved(folder, images, batches=2, files=1, state_split=None, **columns):
    """As ``Dataset.save_to_disk`` of datasets 3 writes it: the rows shared among files, each a stream of batches."""
    folder.mkdir(parents=True, exist_ok=True)
    content = [{"bytes": None if value is None else picture(value), "path": "same.png"} for value in images]
    table = pa.table({"image": pa.array(content, STRUCT), **columns})
    names = [f"data-{number:05}-of-{files:05}.arrow" for number in range(files)]
    size = -(-len(images) // files)
    for number, name in enumerate(names):
        part = table.slice(number * size, size)
        with pa.OSFile(str(folder / name), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(part, max_chunksize=batches)
    state = {"_data_files": [{"filename": name} for name in names], "_fingerprint": "0", "_split": state_split}
    write(folder / "state.json", state)
    write(folder / "dataset_info.json", {"features": {"image": {"_type": "Image"}}, "splits": {"train": {}}})
    return folder


def test_images_keep_their_captions_across_batches_and_files(tmp_path):
    saved(tmp_path / "set", range(7), files=2, captions=[[f"{i} one", f"{i} two"] for i in range(7)])
    source = open_source(str(tmp_path / "set"))
    assert [value_of(record) for record in source] == list(range(7))
    assert [value_of(record) for record in reversed(source)] == list(range(7))[::-1]
    assert source[5].captions == ("5 one", "5 two")
    assert [record.id for record in source][3:5] == ["data-00000-of-00002/3", "data-00001-of-00002/0"]
    assert source[0].split is None
    assert len({str(record.image.frames[0]) for record in source}) == 7
    assert data_checksums(source)["files"]


def test_each_folder_of_a_dictionary_is_a_split(tmp_path):
    saved(tmp_path / "train", [0, 1], state_split="train", text=["x", "y"])
    saved(tmp_path / "held_out", [2], state_split="train", text=["z"])
    write(tmp_path / "dataset_dict.json", {"splits": ["train", "held_out"]})
    source = open_source(str(tmp_path))
    found = {record.captions[0]: (record.split, value_of(record)) for record in source}
    assert found == {"x": ("train", 0), "y": ("train", 1), "z": ("held_out", 2)}


def test_a_data_set_alone_has_its_states_split_or_its_column(tmp_path):
    saved(tmp_path / "a", [0], state_split="validation", text=["x"])
    assert [record.split for record in open_source(str(tmp_path / "a"))] == ["validation"]
    saved(tmp_path / "b", [0, 1], state_split="train", text=["x", "y"], split=["test", None])
    assert [record.split for record in open_source(str(tmp_path / "b"))] == ["test", "train"]


def test_unusable_rows_are_left_out_and_missing_bytes_named(tmp_path):
    source = open_source(str(saved(tmp_path / "set", [0, 1, None], text=["x", " ", "z"])))
    assert source.skipped == {"data-00000-of-00001/1": "a caption is empty: ' '"}
    with pytest.raises(UserError, match=r"data-00000-of-00001\.arrow, row 2"):
        value_of(source[1])


def test_forked_workers_read_the_same_file(tmp_path):
    source = open_source(str(saved(tmp_path / "set", range(30), text=[str(i) for i in range(30)])))
    value_of(source[0])
    context = multiprocessing.get_context("fork")
    loader = DataLoader(source, 5, shuffle=True, num_workers=2, collate_fn=collated, multiprocessing_context=context)
    read = [pair for batch in loader for pair in batch]
    assert sorted(value for _, value in read) == list(range(30))
    assert all(text == str(value) for text, value in read)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("data-00000-of-00001.arrow", "no stream"),
        ("state.json", {"_data_files": [3]}),
        ("state.json", {"_data_files": [{"filename": "gone.arrow"}]}),
        ("dataset_dict.json", {"splits": [3]}),
    ],
)
def test_what_is_broken_is_an_error_that_names_the_file(name, content, tmp_path):
    saved(tmp_path / "set", [0], text=["x"])
    write(tmp_path / "set" / name, content)
    with pytest.raises(UserError, match="gone.arrow" if "gone" in str(content) else name):
        open_source(str(tmp_path / "set"))


def test_other_files_of_the_name_are_no_data_sets(tmp_path):
    write(tmp_path / "state.json", {"step": 3})
    with pytest.raises(UserError, match="no data that can be read"):
        open_source(str(tmp_path))
