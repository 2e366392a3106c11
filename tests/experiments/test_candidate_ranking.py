"""The other ways of the benchmark of ranking give the log-likelihoods of our engine."""

import sys

import pytest

from experiments.benchmark import candidate_ranking
from experiments.benchmark.candidate_ranking import Passes
from experiments.benchmark.class_names import class_names
from flamingo.inference.candidates import CandidateTries
from flamingo.inference.captioner import caption_prompt
from flamingo.inference.flamingo_engine import FlamingoEngine
from tests.evaluation.fake import example, model_and_processor


def test_names_are_different_and_the_same_in_each_call():
    names = class_names(1000)
    assert len(set(names)) == 1000 and class_names(1000) == names
    assert class_names(10) == names[:10]
    words = [len(name.split()) for name in names]
    assert {1, 2, 3} == set(words)


def test_all_ways_give_the_same_log_likelihoods(backbones):
    model, processor = model_and_processor(backbones)
    engine = FlamingoEngine(model, processor, batch_size=1)
    shown = [(example("support", number).image, "a dog") for number in range(2)]
    prompt = caption_prompt(example("query", 0).image, shown, processor.template)
    names = [" a dog", " red", " a dog runs on the grass", " a cat"]
    [scores] = engine.score([prompt], [names], prior=False)
    trie = CandidateTries(processor, end=False).of(prompt, names)
    tokens = [[trie.tokens[node] for node in trie.path(end)] for end in trie.ends]
    passes = Passes(model, processor, engine, prompt)
    expected = pytest.approx(scores.sums, abs=1e-4)
    assert passes.whole(tokens) == expected
    assert passes.cached(tokens, rows=1) == expected
    assert passes.cached(tokens, rows=3) == expected


@pytest.mark.full
def test_the_command_prints_all_ratios(backbones, tmp_path, monkeypatch, capsys):
    arguments = ["--names", "6", "--timed_names", "2", "--rounds", "1", "--shots", "1", "--every", "4"]
    language = ["--language", str(backbones / "gpt2"), "--output", str(tmp_path), "--threads", "1"]
    monkeypatch.setattr(sys, "argv", ["candidate_ranking", *language, *arguments])
    candidate_ranking.main()
    printed = capsys.readouterr().out
    for way in ("whole passes, 1 name", "cached passes, 1 name", "cached passes, 64 names"):
        assert f"{way}:" in printed
    assert (tmp_path / "candidate_ranking.json").exists()
