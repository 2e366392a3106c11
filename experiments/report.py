"""Makes pages of results.

python -m experiments.report run=outputs/demo                   few_shot.png and report.html of one run, in its folder
python -m experiments.report runs='outputs/ablations/*'         comparison.md, .csv, .html and .png of many runs in
                                                                their parent folder: means over seeds, differences
"""

from dataclasses import dataclass

from experiments.command import command
from flamingo.utils.errors import UserError


@dataclass
class ReportConfig:
    """One run, or many."""

    run: str | None = None
    #: Of the run's page; null: the folder's name.
    title: str | None = None
    #: A pattern of folders, in quotes.
    runs: str | None = None
    #: The variant that the others are compared with; null: the variant "baseline", or the first one.
    baseline: str | None = None
    #: The comparison's files, without suffix; null: "comparison" in the folder that the pattern begins with.
    output: str | None = None


def check_config(config: ReportConfig) -> None:
    """Raise UserError unless the config has either ``run`` or ``runs``."""
    if (config.run is None) == (config.runs is None):
        raise UserError("the config needs either run=FOLDER, or runs='FOLDER/*' for many")


main = command("report", ReportConfig, "experiments.run_report:run_job", check_config)

if __name__ == "__main__":
    main()
