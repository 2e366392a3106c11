"""Texts and captions -> documents of text, in their orders."""

import gzip
import json
import os

import pytest

from flamingo.data.pretraining.texts import TextDocuments, read_texts, similar_images
from flamingo.utils.checksums import digest_of
from flamingo.utils.errors import UserError


@pytest.mark.parametrize("compressed", [False, True])
def test_a_text_is_one_document_and_captions_those_of_an_image(compressed, tmp_path):
    def written(name, text):
        file = tmp_path / (f"{name}.gz" if compressed else name)
        file.write_bytes(gzip.compress(text.encode()) if compressed else text.encode())
        return str(file)

    assert read_texts(written("a.txt", "\ufeffone\u2028still\n\r\ntwo\r\n")) == (["one\u2028still", "two"], {})
    rows = '{"text": "one\\n two"}\n{"captions": [" a", "b"], "image": "no.png"}\n{"caption": "c\\nd", "id": 7}\n'
    assert read_texts(written("b.jsonl", rows)) == (["one\n two", ("a", "b"), ("c d",)], {})


def test_readers_of_captioned_images_give_texts_without_images(tmp_path):
    """File names are not learnt, nor the numbers of captions."""
    coco = {"images": [{"id": 1, "file_name": "x.png"}], "annotations": [{"image_id": 1, "caption": "a dog ."}]}
    karpathy = {"images": [{"filename": "x.png", "split": "val", "sentences": [{"raw": "a dog ."}]}]}
    files = {
        "captions.json": json.dumps(coco),
        "dataset.json": json.dumps(karpathy),
        "captions.txt": "image,caption\nx.jpg,a dog .\n",
        "Flickr8k.token.txt": "x.jpg#0\ta dog .\n",
        "kaggle.txt": "image_name,comment_number,comment\nx.jpg,0, a dog .\n",
        "results.csv": "image_name| comment_number| comment\nx.jpg| 0| a dog .\n",
    }
    for name, content in files.items():
        (tmp_path / name).write_text(content)
        assert read_texts(str(tmp_path / name)) == ([("a dog .",)], {}), name


@pytest.mark.parametrize("text", ["<|endoftext|>", "a dog <|endoftext|> a cat", "", " \n", "\ud83d"])
def test_unusable_texts_are_left_out_counted_and_named(text, tmp_path):
    file = tmp_path / "a.jsonl"
    rows = [{"text": "one"}, {"text": text}, {"captions": ["a", text]}, {"captions": ["a", "b"]}]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    texts, skipped = read_texts(str(file))
    assert texts == ["one", ("a", "b")]
    assert list(skipped) == [f"{file}, line 2", f"{file}, line 3"]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows[1:3]))
    with pytest.raises(UserError, match=r"a\.jsonl"):
        read_texts(str(file))


def test_each_epoch_reads_captions_in_a_new_order_as_in_prompts():
    texts = ["a text", *(tuple(f"{name}{i}" for i in range(3)) for name in "abcd")]
    documents = TextDocuments(texts, epochs=60, seed=0)
    made = list(documents)
    assert made == list(documents) == list(TextDocuments(texts, epochs=60, seed=0))
    assert made != list(TextDocuments(texts, epochs=60, seed=1))
    assert len(documents) == len(made) == 300
    assert [made[5 * i : 5 * i + 5].count("a text") for i in range(60)] == [1] * 60
    described = [document.removesuffix("\n").split("\n") for document in made if document != "a text"]
    lines = {line for document in described for line in document}
    assert lines == {f"Output: {name}{i}" for name in "abcd" for i in range(3)}
    of_one = [document for document in described if len({line[8] for line in document}) == 1]
    assert 0.25 < len(of_one) / len(described) < 0.5  # a third, and a few by chance
    assert len({tuple(document) for document in of_one if document[0][8] == "a" and len(set(document)) == 3}) == 6
    of_all_once = [document for document in described if len(document) == 4]
    assert 0.25 < len(of_all_once) / len(described) < 0.45
    assert all(len({line[8] for line in document}) == 4 for document in of_all_once)
    assert list(TextDocuments(["one", ("a",), "two"], epochs=1, seed=0)).count("Output: a\n") == 1


def test_the_order_of_texts_does_not_change_between_versions():
    texts = ["a text", *(tuple(f"{name}{i}" for i in range(3)) for name in "abcdefgh"), "another"]
    assert digest_of(TextDocuments(texts, epochs=3, seed=0)) == "bcfbec96529c62bd"


def test_a_document_of_similar_images_ends_with_its_first_image():
    """Texts stand between captions, so that a place among all texts is none among those of images."""
    kinds = [(f"{name}{i} {verb}",) for i in range(12) for name, verb in (("dog", "barks"), ("fish", "swims"))]
    made = TextDocuments(["a text", *kinds, "another"], epochs=30, seed=0, num_similar=11)
    of_similar = [document.split("\n")[:-1] for document in made if document.count("\n") == 9]
    assert 180 < len(of_similar) < 300  # of 720
    assert all(len(set(document)) == 9 for document in of_similar)
    assert all(len({line.split()[-1] for line in document}) == 1 for document in of_similar)
    assert {document[-1] for document in of_similar} == {f"Output: {kind}" for (kind,) in kinds}


def test_rare_words_of_captions_weigh_more_in_similarity():
    described = [["the dog", "a red dog"], ["the cat"], ["the dogs", "a dog"], ["the red cat"], ["a red house"]]
    near = similar_images(described, number=4)
    assert near[0].tolist()[0] == 2 and near[1].tolist()[0] == 3 and near[4].tolist()[:2] == [0, 3]
    assert all(place not in row for place, row in enumerate(near.tolist()))


def test_of_too_many_images_those_that_stand_near_are_compared():
    described = [[f"{word} picture {i}"] for i in range(3) for word in ("dog", "cat", "dog", "cat", "tree")]
    near = similar_images(described, number=1, max_compared=6)[:, 0].tolist()  # in three parts of five
    for first in (0, 5, 10):
        assert near[first : first + 4] == [first + 2, first + 3, first, first + 1]
        assert first <= near[first + 4] < first + 4


def test_wrong_files_are_named_with_their_line(tmp_path):
    for name in ("none.txt", "none.jsonl", "none.json", "none-*.tar"):
        with pytest.raises(UserError, match=name.replace("*", r"\*")):
            read_texts(str(tmp_path / name))
    wrong = tmp_path / "wrong.jsonl"
    values = ('"captions": "a dog"', '"captions": ["a", 5]', '"text": ["a"]', '"text": null', '"url": "a"')
    for line in (*(f"{{{value}}}" for value in values), "a dog", '"a dog"', "[" * 100_000):
        wrong.write_text('{"text": "one"}\n' + line)
        with pytest.raises(UserError, match=r"wrong\.jsonl, line 2"):
            read_texts(str(wrong))
    for content in (gzip.compress(b"a dog\n" * 100)[:-12], b"no gzip", gzip.compress("Hündchen".encode("latin-1"))):
        (tmp_path / "wrong.txt.gz").write_bytes(content)
        with pytest.raises(UserError, match=r"wrong\.txt\.gz"):
            read_texts(str(tmp_path / "wrong.txt.gz"))
    os.mkfifo(tmp_path / "pipe.txt")
    with pytest.raises(UserError, match=r"pipe\.txt"):
        read_texts(str(tmp_path / "pipe.txt"))
