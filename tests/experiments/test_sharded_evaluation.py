"""The command on processes that share the layers of the language model writes the files of one process."""

import pytest

from experiments.runs.run_evaluation import run_evaluation
from flamingo.model.adapter_config import AdapterConfig
from flamingo.model.adapters import is_of_adapter
from flamingo.model.sharded_layers import shard_mesh
from flamingo.utils.errors import UserError
from tests.evaluation.fake import model_and_processor
from tests.helpers.configs import composed
from tests.helpers.forked import values_of_processes


@pytest.fixture(scope="module")
def checkpoint(backbones, tmp_path_factory):
    """Returns a function that saves a checkpoint, with or without its backbones."""

    def save(include_backbones, **config):
        folder = tmp_path_factory.mktemp("model") / "checkpoint"
        model, processor = model_and_processor(backbones, "qwen2", gates=0.3, **config)
        for name, parameter in model.named_parameters():
            if is_of_adapter(name):
                parameter.data.normal_(std=0.3)
        model.save_pretrained(folder, include_backbones=include_backbones)
        processor.save_pretrained(folder)
        return folder

    return save


@pytest.mark.full
@pytest.mark.parametrize(
    ("task", "include_backbones", "config"),
    [
        ("synthetic_captions", False, {}),
        ("synthetic_shapes", True, {}),
        ("synthetic_captions", False, {"adapter": AdapterConfig("lora", settings={"target_modules": ["q_proj"]})}),
    ],
    ids=["named_backbones", "own_backbones", "adapter"],
)
def test_shared_layers_change_no_file(checkpoint, tmp_path, task, include_backbones, config):
    given = [f"checkpoint={checkpoint(include_backbones, **config)}", f"task={task}", "task.num_queries=5"]
    given += ["shots=[0,1]", "batch_size=2"]
    given += ["controls=[blind]", "max_new_tokens=4", "attention_queries=2", "features.folder=null", "pictures=1"]
    run_evaluation(composed("evaluate", *given, f"output={tmp_path / 'one'}"))
    on_two = composed("evaluate", *given, f"output={tmp_path / 'two'}", "shard_size=2")
    values_of_processes(2, run_evaluation, on_two)
    for name in ("predictions.jsonl", "scores.json", "in_context.json"):
        assert (tmp_path / "two" / name).read_bytes() == (tmp_path / "one" / name).read_bytes()


@pytest.mark.full
def test_a_device_map_changes_no_file(checkpoint, tmp_path):
    given = [f"checkpoint={checkpoint(False)}", "task=synthetic_shapes", "task.num_queries=3", "shots=[0]"]
    given += ["controls=[]", "text_only=false", "features.folder=null", "device=cpu"]
    for name, keys in (("one", []), ("mapped", ["device_map=auto"])):
        run_evaluation(composed("evaluate", *given, *keys, f"output={tmp_path / name}"))
    assert (tmp_path / "mapped/predictions.jsonl").read_bytes() == (tmp_path / "one/predictions.jsonl").read_bytes()
    with pytest.raises(UserError, match="device_map"):
        composed("evaluate", *given, "output=b", "shard_size=2", "device_map=auto")


def test_a_wrong_number_of_sharing_processes_is_named():
    with pytest.raises(UserError, match="shard_size is 2"):
        shard_mesh(2)
    given = ("checkpoint=a", "output=b", "task=synthetic_captions")
    with pytest.raises(UserError, match="shard_size"):
        composed("evaluate", *given, "shard_size=1")
