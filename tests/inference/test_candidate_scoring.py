"""Scores of candidates equal those of each candidate alone, and take as few tokens as their trie allows."""

from dataclasses import replace

import pytest
import torch

from flamingo import Document, Text
from flamingo.evaluation.prompts import build_prompt
from flamingo.inference import candidate_scoring, flamingo_engine
from flamingo.inference.candidates import CandidateTries
from flamingo.inference.flamingo_engine import FlamingoEngine
from flamingo.utils.errors import UserError
from tests.evaluation.fake import example, model_and_processor
from tests.helpers.devices import moved
from tests.helpers.model_calls import noted_images
from tests.tiny import LANGUAGE_MODELS, PREFIX

#: Three are equal, and two begin others.
CANDIDATES = [" a dog", " a dog runs", " red", " two dogs and a ball", " a dog", "!", " a", " the grass", " a dog"]
FUSIONS = {"cross_attention": {}, "prefix": PREFIX, "previous": {"fusion": {"attend": "previous"}}}


@pytest.fixture(scope="module")
def parts(backbones):
    return model_and_processor(backbones)


@pytest.fixture(scope="module")
def prompts():
    """Of different lengths, with 3, 1, 2 and 1 images; the second shows no image with its demonstrations."""
    shown = [example("support", i, references=1) for i in range(4)]
    counts = [(2, True), (3, False), (1, True), (0, True)]
    return [build_prompt(example("query", i), shown[i % 2 :][:n], images) for i, (n, images) in enumerate(counts)]


@torch.no_grad()
def alone(parts, prompt, candidates, end, unseen=0):
    """Returns the log-likelihood of each candidate in an ordinary forward pass from pixels, with images unseen."""
    model, processor = parts
    sums = []
    start = processor.batch([prompt], prompt=True)["input_ids"].shape[1]
    for candidate in candidates:
        document = Document([*prompt.parts, Text(candidate)])
        batch = processor.batch([document], prompt=True)
        if end:
            batch["input_ids"] = torch.cat([batch["input_ids"], torch.tensor([[processor.end_of_chunk_token_id]])], 1)
            batch["image_index"] = torch.cat([batch["image_index"], batch["image_index"][:, -1:]], 1)
            batch["attention_mask"] = torch.ones_like(batch["input_ids"])
        if unseen:
            first = batch["image_index"].max() - unseen + 1
            others = -1 if model.fusion.sees_by_index else first - 1
            batch["image_index"][batch["image_index"] >= first] = others
        log_probs = model(**moved(batch)).logits.log_softmax(dim=-1)[0].cpu()
        ids = batch["input_ids"][0]
        sums.append(sum(float(log_probs[place - 1, ids[place]]) for place in range(start, len(ids))))
    return sums


def beginnings(processor, prompt):
    """The different beginnings of candidates, as tokens, without whole candidates that begin no other."""
    trie = CandidateTries(processor, end=False).of(prompt, CANDIDATES)
    candidates = [tuple(trie.tokens[node] for node in trie.path(end)) for end in trie.ends]
    return {candidate[:length] for candidate in candidates for length in range(1, len(candidate))}


def tokens_run(model):
    """The shape of the ids of each pass through the language model; and the handle that ends the counting."""
    shapes = []
    handle = model.get_input_embeddings().register_forward_hook(lambda m, args, out: shapes.append(args[0].shape))
    return shapes, handle


def check_scores(parts, prompts, candidates, monkeypatch):
    expected = [alone(parts, *one, end=True) for one in zip(prompts, candidates, strict=True)]
    priors = [alone(parts, *one, end=True, unseen=1) for one in zip(prompts, candidates, strict=True)]
    for sums, prior_sums in zip(expected, priors, strict=True):
        assert max(abs(a - b) for a, b in zip(sums, prior_sums, strict=True)) > 1e-3
    # Also in many passes of one node, before which the cache drops nodes.
    for batch_size, pass_tokens in ((1, 512), (3, 3)):
        monkeypatch.setattr(candidate_scoring, "_PASS_TOKENS", pass_tokens)
        results = FlamingoEngine(*parts, batch_size).score(prompts, candidates, end=True)
        for result, sums, prior_sums in zip(results, expected, priors, strict=True):
            assert result.sums == pytest.approx(sums, abs=1e-4)
            assert result.prior_sums == pytest.approx(prior_sums, abs=1e-4)
            rounded = [-round(value, 3) for value in sums]
            assert result.ranking() == sorted(range(len(sums)), key=rounded.__getitem__)
    return results


@pytest.mark.parametrize(("family", "fusion"), [("gpt2", "cross_attention"), ("gpt2", "prefix"), ("mpt", "prefix")])
def test_scores_equal_those_of_each_candidate_alone(backbones, prompts, monkeypatch, family, fusion):
    """On GPT-2 the cache branches, on MPT it does not."""
    parts = model_and_processor(backbones, family, **FUSIONS[fusion])
    check_scores(parts, prompts[2:], [CANDIDATES[6:], CANDIDATES[1:5]], monkeypatch)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_the_prior_hides_all_images_of_the_query(backbones, fusion):
    parts = model_and_processor(backbones, **FUSIONS[fusion])
    first, second, shown = example("query", 0), example("query", 5), example("support", 1)
    pair = replace(first, later_images=(second.image,))
    for demonstrations in ([], [replace(shown, later_images=(first.image,))]):
        prompt = build_prompt(pair, demonstrations)
        [result] = FlamingoEngine(*parts, 2).score([prompt], [CANDIDATES[:2]])
        one, two = [alone(parts, prompt, CANDIDATES[:2], end=False, unseen=number) for number in (1, 2)]
        assert result.prior_sums == pytest.approx(two, abs=1e-4)
        assert max(abs(a - b) for a, b in zip(one, two, strict=True)) > 1e-3


@pytest.mark.full
@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("family", LANGUAGE_MODELS)
def test_scores_of_all_families_equal_those_alone(backbones, prompts, monkeypatch, family, fusion):
    parts = model_and_processor(backbones, family, **FUSIONS[fusion])
    candidates = [CANDIDATES, CANDIDATES[2:], CANDIDATES, CANDIDATES[:1]]
    results = check_scores(parts, prompts, candidates, monkeypatch)
    assert results[0].sums[0] == results[0].sums[4] != results[0].sums[1]
    assert results[0].num_tokens[0] < results[0].num_tokens[1]


def test_each_node_with_a_child_runs_once(parts, monkeypatch):
    model, processor = parts
    prompt = build_prompt(example("query", 0), [example("support", 1)])
    length = len(processor.encode(prompt, prompt=True).input_ids)
    inner = len(beginnings(processor, prompt))
    for pass_tokens in (512, 3):
        monkeypatch.setattr(candidate_scoring, "_PASS_TOKENS", pass_tokens)
        shapes, handle = tokens_run(model)
        with handle:
            FlamingoEngine(model, processor, 1).score([prompt], [CANDIDATES], prior=False)
        assert sum(shape.numel() for shape in shapes) == length + inner
        assert max(shape[1] for shape in shapes[1:]) <= pass_tokens


def test_logits_are_computed_where_a_candidate_is_scored(parts, prompts):
    model, processor = parts
    positions = []
    handle = model.get_output_embeddings().register_forward_hook(lambda m, args, out: positions.append(out.shape[1]))
    with handle:
        FlamingoEngine(model, processor, 1).score(prompts[:1], [CANDIDATES], prior=False)
    # The prompt has the logits of one place, since transformers keeps at least one.
    assert positions == [1, 1 + len(beginnings(processor, prompts[0]))]


def test_equal_priors_and_common_beginnings_run_once(parts):
    model, processor = parts
    shown = [example("support", i, references=1) for i in range(3)]
    for demonstrations in ([], shown):
        prompts = [build_prompt(example("query", i), demonstrations) for i in range(4)]
        shapes, handle = tokens_run(model)
        with handle:
            results = FlamingoEngine(model, processor, 8).score(prompts, [CANDIDATES] * 4)
        assert shapes[-1][0] == 5  # four queries, and the prior of all
        assert len({result.prior_sums for result in results}) == 1
        assert len({result.sums for result in results}) == 4
        length = len(processor.encode(prompts[0], prompt=True).input_ids)
        beginning = shapes[0][1]
        assert beginning + shapes[-2][1] + 1 == length
        assert beginning > 0.7 * length or (not demonstrations and beginning == 1)


@pytest.mark.full
@pytest.mark.parametrize("fusion", FUSIONS)
def test_a_cache_that_cannot_be_repeated_is_left_out(backbones, prompts, fusion, monkeypatch):
    parts = model_and_processor(backbones, "mpt", **FUSIONS[fusion])
    monkeypatch.setattr(candidate_scoring, "has_plain_cache", lambda language_model: False)
    monkeypatch.setattr(parts[0], "prefill", None)
    results = FlamingoEngine(*parts, 3).score(prompts, [CANDIDATES] * 4, prior=False)
    for prompt, result in zip(prompts, results, strict=True):
        assert result.prior_sums is None
        assert result.sums == pytest.approx(alone(parts, prompt, CANDIDATES, end=False), abs=1e-4)


def test_a_blind_model_scores_its_prior(parts, prompts):
    engine = FlamingoEngine(*parts, 2)
    [blind] = engine.score([prompts[3]], [CANDIDATES], blind=True)
    [seeing] = engine.score([prompts[3]], [CANDIDATES])
    assert blind.sums == blind.prior_sums == pytest.approx(seeing.prior_sums, abs=1e-5)
    assert blind.kl == 0 < seeing.kl


def test_images_are_encoded_once_and_products_are_as_in_generate(parts, prompts, monkeypatch):
    model, processor = parts
    encoded, dtypes = noted_images(model, monkeypatch), []
    monkeypatch.setattr(
        flamingo_engine, "products_in", lambda dtype, device: torch.autocast(device.type, torch.bfloat16)
    )
    block = next(iter(model.fusion.blocks.values()))
    handle = block.attention.to_q.register_forward_hook(lambda m, args, out: dtypes.append(out.dtype))
    engine = FlamingoEngine(model, processor, 2)
    with handle:
        engine.score(prompts[2:], [CANDIDATES[:2]] * 2)
    assert sum(encoded) == 3 and set(dtypes) == {torch.bfloat16}
    engine.generate(prompts[2:], 2)
    assert sum(encoded) == 3


def test_progress_counts_each_prompt_once(parts, prompts):
    done = []
    FlamingoEngine(*parts, 2).score(prompts[1:], [CANDIDATES[:2]] * 3, on_progress=done.append)
    assert sum(done) == 3 and len(done) == 3


def test_a_candidate_needs_room_after_its_prompt(parts):
    prompt = Document([example("query", 0).image, Text("a" * 110)], id="q1")
    engine = FlamingoEngine(*parts, 2)
    assert len(engine.score([prompt], [["!"]])) == 1
    with pytest.raises(UserError, match="q1"):
        engine.score([prompt], [[" red" * 20]])
