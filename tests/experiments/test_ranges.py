"""Every number of every config has a range, and a value outside is an error before any work."""

import argparse
import math
from dataclasses import fields, is_dataclass
from typing import get_args, get_origin, get_type_hints

import pytest
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

import experiments.benchmark.__main__ as benchmark
from experiments.cli.command import COMMANDS
from experiments.cli.hydra_config import load
from flamingo.evaluation.tasks import VqaConfig
from flamingo.model.connectors import PerceiverConfig
from flamingo.model.fusion import CrossAttentionConfig
from flamingo.synthetic import SyntheticDocumentsConfig, SyntheticTaskConfig
from flamingo.training.optim import AdamWConfig
from flamingo.utils.errors import UserError
from tests.helpers.configs import CONFIGS, compose_config

#: The fields that may be -1.
MAY_BE_NEGATIVE = {
    "model.vision_features.hidden_state",  # the last one
    "vision_features.hidden_state",
    "variant.paper",  # any score of a paper
    "length_penalty",  # favours short outputs
}


def without_none(hint):
    """The type of an optional list; other types stay."""
    types = [one for one in get_args(hint) if one is not type(None)]
    return types[0] if len(types) == 1 and get_origin(types[0]) is list else hint


def numbers(cls, kinds, prefix=""):
    """The full key of each field of numbers, and its type: of a dictionary of dataclasses the fields of its values."""
    hints = get_type_hints(cls)
    for field in fields(cls):
        key = f"{prefix}{field.name}"
        hint = without_none(kinds.get(key, hints[field.name]))
        if key == "data.documents":
            yield from numbers(SyntheticDocumentsConfig, kinds, "data.documents.captions.")
        elif is_dataclass(hint):
            yield from numbers(hint, kinds, f"{key}.")
        elif {int, float} & {hint, *get_args(hint)} or (get_origin(hint) is list and get_args(hint)[0] is int):
            yield key, hint


#: Fields that a group sets, with the dataclass of its default.
KINDS = {
    "model.connector": PerceiverConfig,
    "model.fusion": CrossAttentionConfig,
    "optimizer": AdamWConfig,
    "task": SyntheticTaskConfig,
}
#: Commands that need no documents: those that they may have are a training's.
WITHOUT_DOCUMENTS = ("inspect_data", "contamination")
#: A reproduction asks about images.
REPRODUCED = KINDS | {"task": VqaConfig}
FIELDS = []
for command, cls in CONFIGS.items():
    for key, hint in numbers(cls, REPRODUCED if command == "reproduce" else KINDS):
        if command not in WITHOUT_DOCUMENTS or not key.startswith("data.documents."):
            FIELDS.append((command, key, hint))


def load_with(command, key, value):
    """Make the dataclass of a config in which a key has another value."""
    config = compose_config(command)
    OmegaConf.update(config, key, value)
    load(config)


def test_no_command_and_no_kind_of_field_is_left_out():
    assert CONFIGS.keys() == COMMANDS.keys()
    keys = {key for _, key, _ in FIELDS}
    for expected in ("data.documents.captions.p_next", "model.fusion.mlp_width", "optimizer.betas"):
        assert expected in keys
    assert {"shots", "limit", "training.sample_every", "objective.shots", "model.image_size"} <= keys
    assert len(FIELDS) > 90 and keys >= MAY_BE_NEGATIVE


#: A search has all keys of a training, and a reproduction those of an evaluation, which run in `make test`.
FULL = ("search", "reproduce")
CASES = [
    pytest.param(command, key, hint, id=f"{command}-{key}", marks=pytest.mark.full if command in FULL else [])
    for command, key, hint in FIELDS
]


@pytest.mark.parametrize(("command", "key", "hint"), CASES)
def test_a_number_out_of_range_is_named(command, key, hint):
    several = get_origin(hint) in (list, tuple)
    of_floats = float in {hint, *get_args(hint)}
    negative = [] if key in MAY_BE_NEGATIVE else [-1.0 if of_floats else -1]
    wrong = [*negative, *([math.nan, math.inf, -math.inf] if of_floats else [True])]
    for value in wrong:
        other = [value] * max(1, len(get_args(hint))) if several else value
        # OmegaConf refuses the types, the dataclasses the ranges.
        with pytest.raises((UserError, OmegaConfBaseException)) as caught:
            load_with(command, key, other)
        assert key in str(caught.value) and str(value) in str(caught.value), str(caught.value)


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
