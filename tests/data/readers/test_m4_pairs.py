"""M4's tar files of captioned images."""

import pytest

from flamingo.data.transforms.pictures import frame_bytes
from flamingo.utils.errors import UserError
from tests.data.readers.page_files import entries_of, picture, read_pages, web_dataset


def pair(**changes):
    """The members of a pair as ``create_webdataset_tar.py`` writes them; None: without this one."""
    members = {"image.jpeg": picture(1), "text.txt": b"A cat .\n\n A dog .\n"} | changes
    return {"0_0b5e-4c": {suffix: content for suffix, content in members.items() if content is not None}}


def test_each_line_of_the_text_is_a_caption(tmp_path):
    file = web_dataset(tmp_path / "0.tar", pair(**{"question.txt": b"What?"}) | {"README": {"md": b""}})
    (record,) = read_pages("m4_pairs", file)
    assert (record.id, record.captions, record.split) == ("0_0b5e-4c", ("A cat .", "A dog ."), None)
    assert frame_bytes(record.image.frames[0]) == picture(1)


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("incomplete pair", {"image.jpeg": None}),
        ("incomplete pair", {"text.txt": None}),
        ("two members of one kind", {"image.png": picture(2)}),
        ("a text is not UTF-8", {"text.txt": b"\xff"}),
        ("there is no caption", {"text.txt": b" \n"}),
        ("text too large", {"text.txt": bytes(2 << 20)}),
        ("pair.json is not JSON", {"pair.json": b"{"}),
        ("wrong field id", {"pair.json": b'{"id": 3}'}),
    ],
)
def test_a_broken_pair_is_left_out_alone(kind, changes, tmp_path):
    file = web_dataset(tmp_path / "0.tar", pair(**changes))
    with pytest.raises(UserError, match=rf"^{kind}(: |$)"):
        read_pages("m4_pairs", file)


def test_a_shard_that_is_cut_off_keeps_its_complete_pairs(tmp_path):
    file = web_dataset(tmp_path / "0.tar", pair())
    file.write_bytes(file.read_bytes()[:3000])
    entries = entries_of("m4_pairs", file)
    assert entries[0][0] == "0_0b5e-4c" and entries[1].startswith("damaged shard: ")
