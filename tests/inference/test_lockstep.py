"""Processes that share the layers of a language model run batches of their own, with the results of one process."""

import pytest
from torch.distributed.tensor import DTensor

from flamingo import Document, Image, Text
from flamingo.evaluation.prompts import build_prompt
from flamingo.inference.flamingo_engine import FlamingoEngine
from flamingo.inference.lockstep import Lockstep
from flamingo.model.sampling import Sampling
from flamingo.model.sharded_layers import shard_layers, shard_mesh
from flamingo.utils.devices import processes
from flamingo.utils.errors import FailedElsewhereError, UserError
from tests import tiny
from tests.evaluation.fake import example, model_and_processor
from tests.helpers.forked import run_processes, values_of_processes

CANDIDATES = [" a cat", " a dog of the grass", " red", " two dogs and a ball"]
FUSIONS = {"cross_attention": {"gates": 0.3}, "prefix": tiny.PREFIX, "previous": {"fusion": {"attend": "previous"}}}


def sharded(parts, size, batch_size=2):
    """Returns an engine whose processes share the layers of the model."""
    model, processor = parts
    whole_size = sum(parameter.numel() for parameter in model.language_model.parameters())
    shard_layers(model.language_model, shard_mesh(size))
    held = [p.to_local() if isinstance(p, DTensor) else p for p in model.language_model.parameters()]
    assert sum(parameter.numel() for parameter in held) < 0.85 * whole_size  # the embeddings are whole
    return FlamingoEngine(model, processor, batch_size, is_shared=True, lockstep=Lockstep(model, size))


def prompts(number):
    """Returns prompts of different lengths."""
    made = []
    for query in range(number):
        demonstrations = [example("support", place) for place in range(query % 3)]
        made.append(build_prompt(example("query", query), demonstrations))
    return made


def results(engine, number):
    """Returns all that an engine does with so many prompts."""
    texts = engine.generate(prompts(number), 8)
    beams = engine.generate(prompts(number), 6, num_beams=3)
    blind = engine.generate(prompts(number), 4, blind=True)
    sampled = engine.generate(prompts(number), 6, sampling=Sampling(1.5, 0.9, 3))
    candidates = [CANDIDATES[: 2 + query % 3] for query in range(number)]
    scores = engine.score(prompts(number), candidates, end=True)
    alike = [build_prompt(example("query", query), [example("support", 1)]) for query in range(3)]
    shared_prefix = engine.generate(alike, 4), engine.score(alike, [CANDIDATES] * 3)
    return texts, beams, blind, sampled, scores, shared_prefix, engine.attention(prompts(number))


@pytest.mark.full
@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("language", ["gpt2", "qwen2"])
def test_results_are_those_of_one_process(backbones, language, fusion):
    parts = model_and_processor(backbones, language, **FUSIONS[fusion])

    def run():
        engine = sharded(parts, 2)
        return [results(engine, number) for number in (5, 1)]

    first, second = values_of_processes(2, run)
    engine = FlamingoEngine(*parts, 2)
    assert first == second == [results(engine, number) for number in (5, 1)]


def ending_early(backbones):
    """Returns parts whose continuations end after 3 or 9 tokens: the end is likelier than a frequent token."""
    model, processor = model_and_processor(backbones, gates=0.3)
    model.new_tokens.scored_rows.data[0] = 1.03 * model.get_output_embeddings().weight.data[112]
    return model, processor


def test_processes_take_different_numbers_of_steps(backbones):
    parts = ending_early(backbones)

    def run():
        engine = sharded(parts, 2, batch_size=1)
        own_steps = []
        engine.model.register_forward_pre_hook(lambda *_: own_steps.append(1))
        texts = engine.generate(prompts(2), 10)
        return texts, engine.score(prompts(1), [CANDIDATES]), len(own_steps)

    first, second = values_of_processes(2, run)
    engine = FlamingoEngine(*parts, 1)
    assert first[:2] == second[:2] == (engine.generate(prompts(2), 10), engine.score(prompts(1), [CANDIDATES]))
    assert abs(first[2] - second[2]) > 4


@pytest.mark.full
def test_two_copies_are_each_shared_by_two_processes(backbones):
    parts = ending_early(backbones)
    expected = results(FlamingoEngine(*parts, 2), 5)
    assert values_of_processes(4, lambda: results(sharded(parts, 2), 5)) == [expected] * 4
    with pytest.raises(AssertionError, match="shard_size is 2"):
        values_of_processes(3, shard_mesh, 2)


@pytest.mark.full
def test_a_broken_image_ends_both_processes_in_step(backbones, tmp_path):
    parts = ending_early(backbones)
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    asked = prompts(6)
    asked[1] = Document([Image(broken), Text("Output:")])  # the shortest one: it is in the last batch

    def run():
        engine = sharded(parts, 2)
        try:
            engine.generate(asked, 10)
        except (UserError, FailedElsewhereError) as error:
            return type(error).__name__, engine.generate(prompts(3), 10)  # still in step

    first, second = values_of_processes(2, run)
    assert {first[0], second[0]} == {"UserError", "FailedElsewhereError"}
    assert first[1] == second[1] == FlamingoEngine(*parts, 2).generate(prompts(3), 10)


@pytest.mark.full
def test_a_failure_within_a_forward_pass_ends_both_processes(backbones):
    parts = ending_early(backbones)

    def run():
        engine = sharded(parts, 2)
        layer = parts[0].language_model.transformer.h[2]
        if processes().process_index == 1:
            layer.register_forward_pre_hook(lambda *_: 1 / 0)
        engine.generate(prompts(3), 10)

    first, second = run_processes(2, run)
    assert "ZeroDivisionError" in second.error and first.exitcode != 0
