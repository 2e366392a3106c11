"""Records and samples of a training -> the log of TensorBoard."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import yaml
from torch.utils.tensorboard import SummaryWriter

from experiments.schema import JSON, as_recorded
from experiments.trackers.sample import Sample
from experiments.train import TrainConfig


class TensorBoardRun:
    """A log in ``OUTPUT/tensorboard``, which ``tensorboard --logdir`` shows."""

    def __init__(self, config: TrainConfig, output: Path) -> None:
        """Starts it.

        Args:
            config: The training, which is shown as text.
            output: The run's folder.
        """
        self._writer = SummaryWriter(str(output / "tensorboard"))
        values = yaml.safe_dump(as_recorded(config), sort_keys=False)
        self._writer.add_text("config", f"```\n{values}\n```")

    def log(self, values: JSON, step: int) -> None:
        """Logs scalars of a step."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def log_samples(self, samples: Sequence[Sample], step: int) -> None:
        """Logs a table of sample answers, and their pictures."""
        rows = ["| document | prompt | output | reference |", "|---|---|---|---|"]
        for sample in samples:
            cells = (sample.document, sample.prompt, sample.output, sample.reference)
            rows.append("| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |")
            picture = np.asarray(sample.picture.convert("RGB"))
            self._writer.add_image(f"samples/{sample.document}", picture, step, dataformats="HWC")
        self._writer.add_text("samples", "\n".join(rows), step)
        self._writer.flush()

    def finish(self, failed: bool, has_failed: bool) -> None:
        """Closes the log."""
        self._writer.close()
