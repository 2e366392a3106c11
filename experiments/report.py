"""Makes the page of a run, or a comparison of many runs.

python -m experiments.report run=outputs/demo                   few_shot.png and report.html of one run, in its folder
python -m experiments.report runs='outputs/ablations/*'         comparison.md, .csv, .html, .png and
                                                                .differences.json of many runs in their parent folder:
                                                                means over seeds, paired differences to the baseline;
                                                                comparison.settings.html: all settings of all models
python -m experiments.report runs=[outputs/demo,outputs/mine]   the same, of these runs or folders of evaluations
"""

from dataclasses import dataclass
from pathlib import Path

from experiments.cli.command import command
from experiments.schema import Entry
from experiments.setup.run_lists import run_folders
from flamingo.utils.checks import folder
from flamingo.utils.errors import UserError


@dataclass
class ReportConfig:
    """One run, or many."""

    #: The folder of one run, which gets its page.
    run: str | None = None
    #: The title of the run's page; null: the folder's name.
    title: str | None = None
    #: Several runs to compare: a pattern in quotes, or a list of folders and patterns.
    runs: Entry = None
    #: The variant to compare the others with; null: "baseline", or the first one.
    baseline: str | None = None
    #: The files of the comparison, without suffix; null: "comparison" next to the runs.
    output: str | None = None


def check_config(config: ReportConfig) -> None:
    """Checks that the config names either one run with scores, or many runs.

    Raises:
        UserError: If it names both or neither, and for a run without scores.
    """
    if (config.run is None) == (config.runs is None):
        raise UserError("the config needs either run=FOLDER, or runs='FOLDER/*' or runs=[FOLDER,FOLDER] for several")
    if config.run is None:
        run_folders(config.runs)
        return
    folder("run", config.run)
    if not (Path(config.run) / "scores.json").exists():
        raise UserError(f"run={config.run} has no scores.json: evaluate it first with experiments.evaluate run=FOLDER")


main = command("report", ReportConfig, "experiments.runs.run_report:run_job", check_config)

if __name__ == "__main__":
    main()
