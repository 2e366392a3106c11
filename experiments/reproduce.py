"""Reproduces the published figures of a checkpoint: published, ours, difference, tolerance.

python -m experiments.reproduce published=openflamingo/OpenFlamingo-3B-vitl-mpt1b checkpoint=FOLDER \
    task=vqav2 task.query=FILE task.support=FILE
python -m experiments.reproduce published=openflamingo/OpenFlamingo-3B-vitl-mpt1b task=vqav2 dry_run=true

The checkpoint is a published one that experiments.convert has converted. The protocol is that of its authors.
"""

from dataclasses import dataclass

from experiments.cli.command import command
from experiments.evaluate import EvaluateConfig, check_config
from flamingo.evaluation.published import protocol_of


@dataclass(kw_only=True)
class ReproduceConfig(EvaluateConfig):
    """An evaluation of a checkpoint that has published figures."""

    #: The checkpoint's name on the hub, as in flamingo/evaluation/published.yaml.
    published: str
    #: Whether a tiny random checkpoint of its layout is evaluated on drawn data.
    dry_run: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        protocol_of(self.published)


def check(config: ReproduceConfig) -> None:
    """Checks that the checkpoint exists, unless a dry run makes it.

    Raises:
        UserError: If it does not.
    """
    if not config.dry_run:
        check_config(config)


main = command("reproduce", ReproduceConfig, "experiments.runs.run_reproduction:run_job", check)

if __name__ == "__main__":
    main()
