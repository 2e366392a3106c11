"""The default task of an evaluation: what its run was trained on."""

import re
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from experiments.setup.run_checkpoint import check_checkpoint, check_run
from experiments.setup.run_lists import run_folders
from flamingo import synthetic
from flamingo.data.builders import BUILDERS
from flamingo.evaluation.tasks import CaptioningConfig
from flamingo.utils.errors import UserError
from flamingo.utils.reading import read_config

#: Keys of a training's data with another name or no meaning in a task.
_OF_TRAINING = ("root", "split", "sample_split", "documents")


def default_task(given: Mapping[str, Any]) -> list[str]:
    """Returns the arguments of ``experiments.evaluate`` that choose the default task.

    There are none if a task is given, or if there is no run.

    After a training on captioned images the task is captions of ``data.sample_split``, with demonstrations of
    ``data.split``. After one on questions the task is their answers. After one on the synthetic benchmark the task is
    the first kind of its documents.

    Args:
        given: The values of the arguments by key.

    Raises:
        UserError: Where there is neither a config of a run nor a checkpoint.
    """
    if "task" in given:
        return []
    if given.get("runs"):
        return _common_task(given)
    config = _config_of_run(given)
    if config is None:
        _check_given(given)
        return []
    if "data" not in config:
        return []
    data = config["data"]
    kinds = [documents["kind"] for documents in data["documents"].values()]
    for documents in data["documents"].values():
        if documents["kind"] in BUILDERS:
            return _of_records(data, documents, given)
    return [f"task={kind}" for kind in kinds if kind in synthetic.TASKS][:1]


def _common_task(given: Mapping[str, Any]) -> list[str]:
    """Returns the arguments that choose the task of several runs.

    Raises:
        UserError: Where they are not the same for all runs.
    """
    runs_of: dict[tuple[str, ...], Path] = {}
    for folder in run_folders(given["runs"]):
        if (folder / "config.yaml").is_file():
            arguments = default_task({**given, "runs": None, "run": str(folder)})
            runs_of.setdefault(tuple(arguments), folder)
    if len(runs_of) > 1:
        first, second, *_ = runs_of.values()
        raise UserError(f"task needs a value: {first} and {second} were trained on different data")
    return list(*runs_of)


def _check_given(given: Mapping[str, Any]) -> None:
    """Checks that the given checkpoint or run exists, which a missing task would otherwise hide.

    Raises:
        UserError: If it does not exist.
    """
    if given.get("checkpoint"):
        check_checkpoint(Path(str(given["checkpoint"])))
    elif given.get("run"):
        check_run(str(given["run"]))


def _config_of_run(given: Mapping[str, Any]) -> dict[str, Any] | None:
    """Returns the config of the run, or of the run of the checkpoint; None without one."""
    folders = []
    if given.get("run"):
        folders.append(Path(str(given["run"])))
    elif given.get("checkpoint"):
        folders.append(Path(str(given["checkpoint"])).parent)
    for folder in folders:
        if (folder / "config.yaml").is_file():
            return read_config(folder / "config.yaml")
    return None


def _of_records(data: Mapping[str, Any], documents: Mapping[str, Any], given: Mapping[str, Any]) -> list[str]:
    """Returns the arguments of a task of captions, or of questions if the documents are made of questions.

    Arguments that are given stay. A source that is given has its own splits.
    """
    values: dict[str, Any] = {"name": _name(data["root"])}
    task = "captions"
    if documents["kind"] == "questions":
        task = "vqa"
        values["question_template"] = documents["question_template"]
    if "task.query" not in given:
        values["query"] = data["root"]
        values["query_split"] = data["sample_split"] or data["split"]
    if "task.support" not in given:
        values["support"] = data["root"]
        values["support_split"] = data["split"]
    if "task.query" not in given and "task.support" not in given:
        known = {field.name for field in fields(CaptioningConfig)}
        for key in data.keys() & known - set(_OF_TRAINING):
            values[key] = data[key]
    arguments = [f"task={task}"]
    for key, value in values.items():
        if f"task.{key}" not in given:
            arguments.append(f"task.{key}={_literal(value)}")
    return arguments


def _name(root: str) -> str:
    """Returns the last name of a folder, a file or a data set, before any wildcard and suffix."""
    before_wildcard = re.split(r"[*?\[]", root)[0]
    path = Path(before_wildcard)
    if before_wildcard != root and not before_wildcard.endswith("/"):
        path = path.parent
    return re.sub(r"\W+", "_", path.resolve().stem) or "captions"


def _literal(value: Any) -> str:
    """Returns a value as Hydra's command line writes it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        escaped = value.replace("\\'", "\\\\'").replace("'", "\\'")
        return f"'{escaped}'"
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{_literal(one)}" for key, one in value.items()) + "}"
    return str(value)
