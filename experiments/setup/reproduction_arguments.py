"""The arguments of experiments.reproduce that follow from the others: protocol, folder, and data of a dry run."""

from collections.abc import Mapping
from typing import Any

from flamingo.evaluation.published import protocol_of
from flamingo.utils.errors import UserError

#: Option of the group task -> the arguments that name the files of a dry run, below the folder of the data.
DRY_RUN_DATA: dict[str, dict[str, str]] = {
    "coco": {"task.query": "dataset_coco.json", "task.metrics": "[CIDEr]"},
    "vqav2": {
        "task.query": "v2_OpenEnded_mscoco_val2014_questions.json",
        "task.support": "v2_OpenEnded_mscoco_train2014_questions.json",
    },
}
_FILES = ("task.query", "task.support")


def reproduction_arguments(given: Mapping[str, Any]) -> list[str]:
    """Returns the arguments to add to those of a command line.

    Args:
        given: The values of its arguments by key.

    Raises:
        UserError: For a model without published figures, and for a dry run of a task whose data are not drawn.
    """
    model = given.get("published")
    if not isinstance(model, str):
        return []
    folder = f"outputs/reproduce/{model.rpartition('/')[2]}"
    is_dry = given.get("dry_run") is True
    output = given.get("output") or (f"{folder}-dry_run" if is_dry else folder)
    values = {"protocol": protocol_of(model), "controls": "[]", "output": output}
    if is_dry:
        values["checkpoint"] = f"{output}/checkpoint"
        for key, value in _drawn_data(given).items():
            values[key] = f"{output}/data/{value}" if key in _FILES else value
    return [f"{key}={value}" for key, value in values.items() if key not in given]


def _drawn_data(given: Mapping[str, Any]) -> dict[str, str]:
    """Returns the arguments of the task's drawn data; none without a task, and for data that the user names.

    Raises:
        UserError: If there are neither.
    """
    task = given.get("task")
    if task is None or task in DRY_RUN_DATA or "task.query" in given:
        return DRY_RUN_DATA.get(str(task), {})
    raise UserError(f"dry_run=true draws data of task={' and task='.join(DRY_RUN_DATA)}: task={task} needs task.query")
