"""A candidate's tokens are those of prompt and candidate together, after the prompt's."""

import pytest

from flamingo import Document, FlamingoProcessor, Image, Text
from flamingo.data.document import EndOfChunk
from flamingo.evaluation.prompts import build_prompt
from flamingo.inference.candidates import CandidateTries
from flamingo.utils.errors import UserError
from tests.evaluation.fake import example

CANDIDATES = [" a dog", " a dog runs", "", "!", " a dog"]


@pytest.fixture(scope="module")
def processor(backbones):
    return FlamingoProcessor.from_vision_text_pretrained(backbones / "clip_vision_model", backbones / "gpt2")


def picture():
    return example("query", 0).image


def ids(processor, prompt):
    return processor.encode(prompt, prompt=True, pixels=False).input_ids.tolist()


def tokens(trie):
    return [[trie.tokens[node] for node in trie.path(end)] for end in trie.ends]


@pytest.mark.parametrize("per_image", [0, 4])
@pytest.mark.parametrize(
    "parts",
    [
        build_prompt(example("query", 0), [example("support", 1)]).parts,
        [Text("a cat"), EndOfChunk(), Text("two do")],
        [picture(), Text("two "), Text("do"), picture()],
    ],
    ids=["image and text", "no image", "image"],
)
def test_tokens_are_those_after_the_whole_prompt(processor, monkeypatch, parts, per_image):
    monkeypatch.setattr(processor, "tokens_per_image", per_image)
    prompt = Document(parts)
    expected = []
    for candidate in CANDIDATES:
        whole = ids(processor, Document([*parts, Text(candidate)]))
        expected.append([*whole[len(ids(processor, prompt)) :], processor.end_of_chunk_token_id])
    assert tokens(CandidateTries(processor, end=True).of(prompt, CANDIDATES)) == expected
    some = [0, 1, 3]
    without_end = CandidateTries(processor, end=False).of(prompt, [CANDIDATES[number] for number in some])
    assert tokens(without_end) == [expected[number][:-1] for number in some]


def test_prompts_with_the_same_end_share_a_trie(processor):
    tries = CandidateTries(processor, end=False)
    first = tries.of(build_prompt(example("query", 0), [example("support", 1)]), [" red", " a"])
    assert tries.of(build_prompt(example("query", 2), []), [" red", " a"]) is first
    assert tries.of(build_prompt(example("query", 2), []), [" a", " red"]) is not first
    assert tries.of(Document([picture(), Text("Answer:")]), [" red", " a"]) is not first


def test_a_candidate_that_merges_with_the_prompt_is_named(processor):
    with pytest.raises(UserError, match=r"'g runs'.*'q1'"):
        CandidateTries(processor, end=False).of(Document([picture(), Text("a do")], id="q1"), [" red", "g runs"])


def test_a_candidate_without_a_token_is_named(processor):
    prompt = Document([picture(), Text("Output:")], id="q1")
    with pytest.raises(UserError, match=r"''.*'q1'"):
        CandidateTries(processor, end=False).of(prompt, [""])
    with pytest.raises(UserError, match="q1 with candidate  a<image>"):
        CandidateTries(processor, end=True).of(prompt, [" a<image>"])


def test_a_prompt_of_an_image_alone_has_candidates(processor):
    trie = CandidateTries(processor, end=False).of(Document([Image(picture().frames[0])]), ["a dog", "a"])
    assert tokens(trie)[0][: len(tokens(trie)[1])] == tokens(trie)[1]
