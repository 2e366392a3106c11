"""Makes a page of a run's results, few_shot.png and report.html: python -m experiments.report run=outputs/demo"""

import logging
from dataclasses import dataclass
from pathlib import Path

import hydra
from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig

from experiments.configs import plain
from experiments.runs import user_errors
from flamingo.report.page import write_report

log = logging.getLogger(__name__)


@dataclass
class ReportConfig:
    """Which run, and what the page is called (by default, what the folder is)."""

    run: str = MISSING
    title: str | None = None


ConfigStore.instance().store("report_schema", ReportConfig)


@hydra.main(version_base="1.3", config_path="../conf", config_name="report")
def main(config: DictConfig) -> None:
    with user_errors():
        chosen = plain(config)
        for path in write_report(Path(chosen["run"]), chosen["title"]):
            log.info("%s", path)


if __name__ == "__main__":
    main()
