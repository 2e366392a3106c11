"""Every number of every command's config has its range, and a value outside of it is named before any work."""

import argparse
import copy
import math
from dataclasses import fields, is_dataclass
from typing import get_args, get_origin, get_type_hints

import pytest

import experiments.benchmark.__main__ as benchmark
from experiments.data import load_data
from experiments.evaluate import run_evaluation
from experiments.pretrain_language import PretrainLanguageConfig
from experiments.pretrain_vision import PretrainVisionConfig
from experiments.train import run_training
from experiments.word_attention import WordAttentionConfig
from flamingo.synthetic import SyntheticDocumentsConfig
from flamingo.utils.errors import UserError
from tests.experiments.test_configs import COMMANDS, SCHEMAS, check_command, composed, make

#: The fields that may be -1.
MAY_BE_NEGATIVE = {
    "model.vision_features.hidden_state",  # the last one
    "vision_features.hidden_state",
    "variant.paper",  # any score of a paper
}


def numbers(cls, prefix=""):
    """The full key of each field of numbers, and its type: of a dictionary of dataclasses the fields of its values."""
    hints = get_type_hints(cls)
    for f in fields(cls):
        hint, key = f.metadata.get("dataclass", hints[f.name]), f"{prefix}{f.name}"
        if "kinds" in f.metadata:
            hint, _ = f.metadata["kinds"]["perceiver"]
        inner = [one for one in get_args(hint) if is_dataclass(one)]
        if key == "data.documents":
            yield from numbers(SyntheticDocumentsConfig, "data.documents.*.")
        elif is_dataclass(hint):
            yield from numbers(hint, f"{key}.")
        elif inner:
            yield from numbers(inner[0], f"{key}.*.")
        elif {int, float} & {hint, *get_args(hint)}:
            yield key, hint


FIELDS = [(command, key, hint) for command, cls in SCHEMAS.items() for key, hint in numbers(cls)]


def put(config, key, value):
    """The config with another value, and the key without a star."""
    config = copy.deepcopy(config)
    *parents, name = key.split(".")
    place, known = config, []
    for parent in parents:
        known.append(next(iter(place)) if parent == "*" else parent)
        place = place[known[-1]]
    assert name in place
    place[name] = value
    return config, ".".join([*known, name])


@pytest.fixture(scope="module")
def configs():
    made = {command: composed(command) for command in SCHEMAS}
    del made["search"]["search"]
    return made


def test_no_command_and_no_kind_of_field_is_left_out():
    assert SCHEMAS.keys() == COMMANDS.keys()
    keys = {key for _, key, _ in FIELDS}
    for expected in ("data.documents.*.p_next", "model.fusion.mlp_width", "optimizer.betas"):
        assert expected in keys
    assert {"shots", "limit", "training.sample_every", "objective.shots", "model.image_size"} <= keys
    assert len(FIELDS) > 90 and keys >= MAY_BE_NEGATIVE


@pytest.mark.parametrize(("command", "key", "hint"), FIELDS, ids=[f"{command}-{key}" for command, key, _ in FIELDS])
def test_a_number_out_of_range_is_named(configs, command, key, hint):
    check_command(command, configs[command])
    several = get_origin(hint) in (list, tuple)
    of_floats = float in {hint, *get_args(hint)}
    negative = [] if key in MAY_BE_NEGATIVE else [-1.0 if of_floats else -1]
    # That true is no float, the checks of types that tests run with say first.
    wrong = [*negative, *([math.nan, math.inf, -math.inf] if of_floats else [True])]
    for value in wrong:
        other = [value] * max(1, len(get_args(hint))) if several else value
        config, name = put(configs[command], key, other)
        with pytest.raises(UserError) as caught:
            check_command(command, config)
            load_data(config["data"])
        assert str(caught.value).startswith(f"{name} "), str(caught.value)
        assert str(value) in str(caught.value)


@pytest.mark.parametrize(
    ("command", "run", "key", "value"),
    [
        ("train", lambda config, output: run_training(config, output), "data.documents.*.text_prefix_prob", math.nan),
        ("evaluate", lambda config, output: run_evaluation({**config, "output": str(output)}), "shots", [-1]),
        ("word_attention", lambda config, _: WordAttentionConfig(**config), "batch_size", 0),
        ("pretrain_vision", lambda config, _: make(PretrainVisionConfig, config), "optimizer.lr", -1.0),
        ("pretrain_language", lambda config, _: make(PretrainLanguageConfig, config), "seq_len", 0),
    ],
)
def test_commands_check_numbers_before_anything_is_written(configs, tmp_path, command, run, key, value):
    config, name = put(configs[command], key, value)
    with pytest.raises(UserError, match=name.replace(".", r"\.")):
        run(config, tmp_path / "output")
    assert not [path for path in tmp_path.rglob("*") if path.name not in ("output", "failure.txt")]


def test_arguments_of_the_benchmark_out_of_range_are_named(monkeypatch, capsys):
    options = {}

    def record(self, *names, **settings):
        if settings.get("type") not in (None, benchmark.Path):
            options[names[0]] = settings
        return add(self, *names, **settings)

    add = argparse.ArgumentParser.add_argument
    monkeypatch.setattr(argparse.ArgumentParser, "add_argument", record)
    monkeypatch.setattr("sys.argv", ["benchmark"])
    benchmark._arguments()
    assert {"--rounds", "--threads", "--peak_tflops", "--shots", "--every"} <= options.keys() and len(options) > 20
    for name in options:
        for value in ("-1", "0", "nan", "inf"):
            monkeypatch.setattr("sys.argv", ["benchmark", f"{name}={value}"])
            with pytest.raises(SystemExit) as caught:
                benchmark._arguments()
            assert caught.value.code == 2 and f"argument {name}: must be" in capsys.readouterr().err
