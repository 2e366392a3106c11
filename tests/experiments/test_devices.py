"""Commands on a device: models move to it, and a lack of its memory is one sentence."""

import multiprocessing

import pytest
import torch

from experiments import train
from experiments.runs import (
    run_evaluation,
    run_language_pretraining,
    run_training,
    run_vision_pretraining,
    run_word_attention,
)
from experiments.setup.build import build_model, load_model
from flamingo.inference.features import FeatureStore
from flamingo.inference.flamingo_engine import FlamingoEngine
from flamingo.utils.devices import META
from flamingo.utils.errors import UserError
from tests.helpers.configs import composed
from tests.helpers.small_runs import ONE_SETTING, SMALL_DEMO, call_command, photograph_training


def exhausted(*args, **kwargs):
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")


def test_a_training_names_the_batch_sizes_of_its_documents(tmp_path, monkeypatch):
    monkeypatch.setattr("flamingo.training.loop.accumulate_gradients", exhausted)
    with pytest.raises(UserError, match=r"data\.documents\.captions\.batch_size") as caught:
        run_training.run_training(composed("train", *SMALL_DEMO, f"output={tmp_path}"), tmp_path)
    assert isinstance(caught.value.__cause__, torch.OutOfMemoryError)
    assert "data.documents.captions.batch_size" in (tmp_path / "failure.txt").read_text()


def test_a_pass_of_features_names_its_batch_size(shards, backbones, tmp_path, monkeypatch):
    monkeypatch.setattr(FeatureStore, "_encode", exhausted)
    with pytest.raises(UserError, match=r"features\.batch_size"):
        run_training.run_training(photograph_training(shards, backbones, tmp_path), tmp_path)


@pytest.mark.full
def test_an_evaluation_names_its_batch_size(demo, tmp_path, monkeypatch):
    monkeypatch.setattr(FlamingoEngine, "_continue", exhausted)
    with pytest.raises(UserError, match=r"lower batch_size$"):
        run_evaluation.run_evaluation(composed("evaluate", f"run={demo}", f"output={tmp_path}", *ONE_SETTING))


PRETRAININGS = {"pretrain_language": run_language_pretraining, "pretrain_vision": run_vision_pretraining}


@pytest.mark.full
@pytest.mark.parametrize("name", PRETRAININGS)
def test_a_pretraining_names_its_batch_size(tmp_path, monkeypatch, name):
    command = PRETRAININGS[name]
    monkeypatch.setattr(command, "train", exhausted)
    small = ["documents=20"] if name == "pretrain_language" else []
    config = composed(name, *small, "training.steps=2", "optimizer.warmup_steps=1", f"output={tmp_path}")
    with pytest.raises(UserError, match=r"lower batch_size$"):
        command.pretrain(config, tmp_path)


def test_the_command_ends_with_the_sentence_and_status_2(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr("flamingo.training.loop.accumulate_gradients", exhausted)
    arguments = (train.main, *SMALL_DEMO, f"output={tmp_path}")
    process = multiprocessing.get_context("fork").Process(target=call_command, args=arguments)
    process.start()
    process.join()
    assert process.exitcode == 2
    said = capfd.readouterr().err
    assert "error: the device has too little memory: lower data.documents.captions.batch_size" in said
    assert "Traceback" not in said


COMMANDS = PRETRAININGS | {
    "train": run_training,
    "evaluate": run_evaluation,
    "word_attention": run_word_attention,
}


@pytest.mark.parametrize(
    "name", ["train", "word_attention", *PRETRAININGS, pytest.param("evaluate", marks=pytest.mark.full)]
)
def test_each_command_takes_the_device_that_its_config_names(demo, tmp_path, monkeypatch, name):
    command = COMMANDS[name]

    class TakenError(Exception):
        pass

    def use_device(name):
        assert name == "cuda:5"
        raise TakenError

    monkeypatch.setattr(command, "use_device", use_device)
    output = tmp_path / "run"
    needed = {"evaluate": [f"run={demo}"], "word_attention": [f"run={demo}"]}.get(name, [f"output={output}"])
    config = composed(name, *needed, "device=cuda:5")
    with pytest.raises(TakenError):
        if name == "train":
            run_training.run_training(config, output)
        elif name == "evaluate":
            run_evaluation.run_evaluation(config)
        elif name == "word_attention":
            run_word_attention.run_word_attention(config)
        else:
            command.pretrain(config, output)
    assert not output.exists()


def test_evaluations_take_the_device_of_their_training():
    entry = {"kind": "synthetic_captions"}
    assert run_evaluation.compose_evaluation(entry, "somewhere", "cuda:1").device == "cuda:1"
    assert run_evaluation.compose_evaluation(entry | {"device": "cpu"}, "somewhere", "cuda:1").device == "cpu"


@pytest.fixture
def moves(monkeypatch):
    """The devices that models are placed on."""
    from flamingo import FlamingoForConditionalGeneration

    placed = []
    monkeypatch.setattr(FlamingoForConditionalGeneration, "place", lambda self, device: placed.append(device))
    monkeypatch.setattr("experiments.setup.build.processes", lambda: type("State", (), {"device": META}))
    return placed


def test_models_move_when_they_are_built_and_loaded(demo, moves):
    """Before the composition is checked, and before any other work."""
    build_model(composed("train", *SMALL_DEMO).model)
    load_model(demo / "checkpoint", "auto")
    assert moves == [META, META]


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_the_dtype_is_that_of_the_frozen_parts_alone(demo, dtype):
    for model, _ in (build_model(composed("train", *SMALL_DEMO).model, dtype), load_model(demo / "checkpoint", dtype)):
        expected = getattr(torch, dtype)
        assert {p.dtype for part in (model.vision_model, model.language_model) for p in part.parameters()} == {expected}
        assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}


def test_an_evaluation_loads_the_dtype_of_the_training(tmp_path):
    run_training.run_training(composed("train", *SMALL_DEMO, f"output={tmp_path}", "dtype=bfloat16"), tmp_path)
    for dtype, expected in {"auto": torch.bfloat16, "float32": torch.float32}.items():
        model, _ = load_model(tmp_path / "checkpoint", dtype)
        assert model.language_model.dtype == model.vision_model.dtype == expected
