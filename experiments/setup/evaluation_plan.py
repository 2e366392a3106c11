"""The plan of an evaluation: its task and settings, checked before the checkpoint is loaded."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace

from experiments.evaluate import EvaluateConfig, folders
from experiments.setup.build import build_task
from experiments.setup.rices import check_rices
from flamingo import FlamingoProcessor
from flamingo.data.caption_template import CaptionTemplate
from flamingo.data.document import Affixes
from flamingo.evaluation.preflight import check_protocols, check_settings
from flamingo.evaluation.protocol import NearestTask, Task
from flamingo.evaluation.settings import DEFAULT_SHOTS, Setting, left_out_controls, make_settings
from flamingo.utils.errors import UserError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """An evaluation whose config was checked as far as possible without the checkpoint."""

    config: EvaluateConfig
    task: Task
    #: The numbers of shots: those of the config, or the default ones that fit.
    shots: tuple[int, ...]

    @property
    def settings(self) -> list[Setting]:
        """All settings."""
        return make_settings(replace(self.config, shots=list(self.shots)), self.task)

    @property
    def left_out_controls(self) -> list[str]:
        """The controls that need more demonstrations than the largest of the shots."""
        return left_out_controls(self.config, self.shots)

    @property
    def max_new_tokens(self) -> int:
        """The largest number of tokens of an output."""
        return self.config.max_new_tokens or self.task.max_new_tokens

    def template(self, processor: FlamingoProcessor) -> CaptionTemplate:
        """Returns the template of captions: that of the config, or else of the checkpoint. Affixes are the config's."""
        text = processor.template.text if self.config.template is None else self.config.template
        config = self.config
        affixes = Affixes(config.prefix, config.before_image, config.separator, config.end_of_chunk, config.bos)
        return CaptionTemplate(text, affixes)

    def fitted(self, check: Callable[["Plan"], object]) -> "Plan":
        """Returns the plan with the default numbers of shots that pass a check.

        Raises:
            UserError: If the config has its own numbers and they fail the check, or if 0 shots fail it.
        """
        plan, reason = self, None
        while True:
            try:
                check(plan)
            except UserError as error:
                if self.config.shots is not None or max(plan.shots) == 0:
                    raise
                reason = reason or error
                plan = replace(plan, shots=plan.shots[:-1])
            else:
                break
        if reason is not None:
            log.info("shots=%s: larger numbers do not fit: %s", list(plan.shots), reason)
        return plan


def plan(config: EvaluateConfig, open_images: bool = False) -> Plan:
    """Returns the plan of an evaluation, whose data are read and checked.

    Args:
        config: The evaluation.
        open_images: Whether all images are opened now. Images without kept features always are.

    Raises:
        UserError: For everything that would fail later and can be known now.
    """
    folders(config)
    task = build_task(config.task, open_images or config.features.folder is None)
    shots = DEFAULT_SHOTS if config.shots is None else tuple(config.shots)
    planned = Plan(config, task, shots)
    check_protocols(task, planned.settings)  # fewer shots would not help
    planned = planned.fitted(_check_settings)
    _check_features(planned)
    check_rices(config, task, planned.settings)
    log.info("task %s: %d queries", task.name, len(task.queries()[: config.limit]))
    return planned


def _check_features(planned: Plan) -> None:
    """Checks that there are features where images are compared.

    Raises:
        UserError: Without a folder of features.
    """
    if planned.config.features.folder is not None:
        return
    for setting in planned.settings:
        if setting.is_retrieved:
            raise UserError(
                f"demonstrations={setting.demonstrations} compares images by features: set features.folder=FOLDER"
            )
        if setting.change.protocol is NearestTask:
            raise UserError(
                f"{setting.control} compares images by features: set features.folder=FOLDER, or remove it from controls"
            )


def _check_settings(planned: Plan) -> None:
    """Checks the settings against the task.

    Raises:
        UserError: For settings that the task does not have.
    """
    check_settings(planned.task, planned.settings, planned.config.limit)
