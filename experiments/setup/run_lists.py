"""Several runs, as a command line names them: a pattern, or a list of folders and patterns -> their folders."""

import glob
import os
import re
from collections.abc import Sequence
from pathlib import Path

from experiments.schema import Entry
from flamingo.report.variants import runs_below
from flamingo.utils.errors import UserError


def patterns_of(runs: Entry) -> list[str]:
    """Returns the value of the key ``runs`` as a list.

    Raises:
        UserError: For a value that is neither a text nor a list of texts.
    """
    patterns = list(runs) if isinstance(runs, Sequence) and not isinstance(runs, str) else [runs]
    if not patterns or not all(isinstance(pattern, str) and pattern for pattern in patterns):
        raise UserError(f"runs must be a pattern in quotes, or a list of folders and patterns, got {runs!r}")
    return patterns


def run_folders(runs: Entry) -> list[Path]:
    """Returns the folders of runs, each once: for a folder without a run, those of the runs in it at any depth.

    Raises:
        UserError: For a pattern that no folder has.
    """
    folders: dict[Path, None] = {}
    for pattern in patterns_of(runs):
        # Unlike Path.glob it takes absolute patterns, and skips hidden folders such as a launcher's.
        matches = [Path(path) for path in sorted(glob.glob(pattern)) if Path(path).is_dir()]  # noqa: PTH207
        if not matches:
            raise UserError(f"runs={pattern} is not there: no folder has that name")
        for match in matches:
            folders.update(dict.fromkeys(runs_below(match)))
    return list(folders)


def common_folder(runs: Entry) -> Path:
    """Returns the folder that all runs lie in."""
    parents = [_last_folder(pattern) for pattern in patterns_of(runs)]
    if len(set(parents)) == 1:
        return parents[0]
    return Path(os.path.commonpath([parent.absolute() for parent in parents]))


def _last_folder(pattern: str) -> Path:
    """Returns the last folder of a pattern before the first wildcard."""
    before_wildcard = re.split(r"[*?\[]", pattern.rstrip("/"))[0]
    return Path(before_wildcard + "x").parent
