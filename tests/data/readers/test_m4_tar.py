"""M4's tar files of pages: complete pages in the order of their parts, and a reason for every other one."""

import io
import tarfile

import pytest

from flamingo.utils.errors import UserError
from tests.data.readers.page_files import contents, entries_of, picture, read_pages, write_m4

BREAK = "END_OF_DOCUMENT_TOKEN_TO_BE_REPLACED"


def rewritten(file, change):
    """The shard with other members; ``change`` gets a member's name and content, and returns its new one or None."""
    with tarfile.open(file) as archive:
        members = [(m.name, archive.extractfile(m).read()) for m in archive if m.isreg()]
    with tarfile.open(file, "w") as archive:
        for name, content in members:
            new = change(name, content)
            if new is not None:
                info = tarfile.TarInfo(name)
                info.size = len(new)
                archive.addfile(info, io.BytesIO(new))
    return file


def test_parts_follow_their_numbers_not_their_names(tmp_path):
    texts = [f"text {number}" for number in range(11)]
    file = write_m4(tmp_path / "shard_0.tar", [[*texts, picture(3)], ["ä", None, picture(4), "b\n\nc "]])
    pages = read_pages("m4", file)
    assert [contents(page) for page in pages] == [
        ("0_0b5e-4c", None, [*texts, ("0_0b5e-4c.11.image.jpeg", picture(3))], [], None),
        ("1_0b5e-4c", None, ["ä", ("1_0b5e-4c.2.image.jpeg", picture(4)), "b\n\nc "], [], None),
    ]
    assert pages[0].parts[-1].num_bytes == len(picture(3))


def test_sections_end_where_the_text_says_so(tmp_path):
    file = write_m4(tmp_path / "shard_0.tar", [[f"one\n\n{BREAK}\n\ntwo", picture(1), BREAK, "three"]])
    image = ("0_0b5e-4c.1.image.jpeg", picture(1))
    assert contents(read_pages("m4", file)[0])[2] == ["one", None, "two", image, None, "three"]


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("incomplete page", lambda name, content: None if name.endswith("metadata.txt") else content),
        ("incomplete page", lambda name, content: None if name.endswith("1.image.jpeg") else content),
        ("a text is not UTF-8", lambda name, content: b"\xff" if name.endswith("0.text.txt") else content),
        ("incomplete page", lambda name, content: b"other.0.text.txt" if name.endswith("metadata.txt") else content),
    ],
)
def test_an_incomplete_page_is_left_out(kind, change, tmp_path):
    file = rewritten(write_m4(tmp_path / "shard_0.tar", [["a", picture(1)]]), change)
    with pytest.raises(UserError, match=f"^{kind}: "):
        read_pages("m4", file)


def test_members_of_other_kinds_are_ignored(tmp_path):
    file = write_m4(tmp_path / "shard_0.tar", [["a", picture(1)]])
    with tarfile.open(file, "a") as archive:
        for name in ("README.md", "0_0b5e-4c.2.video.mp4", "0_0b5e-4c.image.jpeg"):
            archive.addfile(tarfile.TarInfo(name))
    assert len(entries_of("m4", file)) == 1
    assert len(read_pages("m4", file)[0].parts) == 2


def test_two_members_of_one_name_are_an_error(tmp_path):
    file = write_m4(tmp_path / "shard_0.tar", [["a", picture(1)]])
    with tarfile.open(file, "a") as archive:
        archive.addfile(tarfile.TarInfo("0_0b5e-4c.0.text.txt"))
    with pytest.raises(UserError, match=r"^two members of one name: "):
        read_pages("m4", file)


def test_a_shard_that_is_cut_off_keeps_its_complete_pages(tmp_path):
    file = write_m4(tmp_path / "shard_0.tar", [["a", picture(1)], ["b", picture(2)]])
    file.write_bytes(file.read_bytes()[:8000])
    entries = entries_of("m4", file)
    assert entries[0][0] == "0_0b5e-4c" and entries[-1].startswith("damaged shard: ")
