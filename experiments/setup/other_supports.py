"""The other supports of an evaluation: their records, and checksums of all that its folder has predictions with."""

from collections.abc import Mapping, Sequence

from experiments.schema import JSON
from flamingo.data.record import Record
from flamingo.evaluation.protocol import RecordTask, other_supports
from flamingo.utils.errors import UserError
from flamingo.utils.reading import read_config
from flamingo.utils.run_folder import Run


def other_support_records(task: RecordTask) -> Mapping[str, Sequence[Record]]:
    """Returns the records of each data set, besides the task's own support, that demonstrations are from."""
    records = {}
    for name, support in other_supports(task).items():
        assert isinstance(support, RecordTask)
        records[name] = support.support_records
    return records


def keep_other_supports(run: Run, contents: JSON) -> None:
    """Adds the checksums of other supports in earlier evaluations of the run's folder, whose predictions stay there.

    Args:
        run: The run.
        contents: The checksums of this evaluation, under ``other_supports`` by name. They are changed.

    Raises:
        UserError: If a support has the name of an earlier one, and other data.
    """
    if run.is_new:
        return
    recorded = read_config(run.output / run.files.config_file).get("contents") or {}
    earlier = recorded.get("other_supports", {})
    now = contents.get("other_supports", {})
    for name, checksums in earlier.items():
        if now.get(name, checksums) != checksums:
            raise UserError(
                f"task.other_supports.{name} has other data than in the earlier evaluations in {run.output}: choose "
                "another name, another output=..., or overwrite it with overwrite=true"
            )
    if earlier or now:
        contents["other_supports"] = earlier | now
