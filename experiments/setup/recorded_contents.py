"""Checksums in a folder's record of earlier evaluations, whose predictions stay in the folder."""

from experiments.schema import JSON
from flamingo.utils.errors import UserError
from flamingo.utils.reading import read_config
from flamingo.utils.run_folder import Run


def keep_earlier(run: Run, contents: JSON, section: str, describe: str, other: str) -> None:
    """Adds the checksums of a section that earlier evaluations in the run's folder have recorded.

    Args:
        run: The run.
        contents: The checksums of this evaluation, with those of the section by name. They are changed.
        section: The key of the section.
        describe: The name of an entry in errors, with ``{name}``.
        other: What to choose in place of an entry that differs.

    Raises:
        UserError: If an entry has the name of an earlier one, and other checksums.
    """
    if run.is_new:
        return
    recorded = read_config(run.output / run.files.config_file).get("contents") or {}
    earlier = recorded.get(section, {})
    now = contents.get(section, {})
    for name, checksums in earlier.items():
        if now.get(name, checksums) != checksums:
            raise UserError(
                f"{describe.format(name=name)} than in the earlier evaluations in {run.output}: choose {other}"
                "another output=..., or overwrite it with overwrite=true"
            )
    if earlier or now:
        contents[section] = earlier | now
