"""The other supports of an evaluation: their records, and checksums of all that its folder has predictions with."""

from collections.abc import Mapping, Sequence

from experiments.schema import JSON
from experiments.setup.recorded_contents import keep_earlier
from flamingo.data.records.record import Record
from flamingo.evaluation.protocol import RecordTask, other_supports
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
    keep_earlier(run, contents, "other_supports", "task.other_supports.{name} has other data", "another name, ")
