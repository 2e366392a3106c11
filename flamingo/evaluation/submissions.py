"""Files of results in the format that a data set's authors score: ``submission-TASK.json``."""

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from flamingo.evaluation.protocol import SubmissionTask, Task
from flamingo.evaluation.settings import Setting
from flamingo.results import Row
from flamingo.utils.io import write_text
from flamingo.utils.names import file_name

log = logging.getLogger(__name__)


def save_submission(output: Path, task: Task, rows: Mapping[Setting, Sequence[Row]]) -> None:
    """Writes the outputs of the plain setting with the most shots, the first of equals, with the first order.

    Nothing is written for a task or data without a format of submissions, or without a plain setting.

    Args:
        output: The folder of the result files.
        task: The task.
        rows: The predictions of each setting.
    """
    plain = [setting for setting in rows if setting.control is None]
    if not isinstance(task, SubmissionTask) or not plain:
        return
    setting = max(plain, key=lambda one: one.shots)
    outputs = {row["query"]: row["output"] for row in rows[setting] if row["order"] == 0}
    submission = task.submission(outputs)
    if not submission:
        return
    file = output / f"submission-{file_name(task.name.replace('/', '-'))}.json"
    write_text(file, json.dumps(submission, ensure_ascii=False) + "\n")
    log.info("%s has the outputs of %s", file, setting)
