"""The model of an evaluation: whole in each process, its layers shared by processes, or spread over devices."""

import logging
from pathlib import Path
from typing import Any

from experiments.evaluate import EvaluateConfig
from experiments.setup.build import load_model
from flamingo import FlamingoForConditionalGeneration, FlamingoProcessor
from flamingo.inference.lockstep import Lockstep
from flamingo.model.config import FlamingoConfig
from flamingo.model.sharded_layers import shard_layers, shard_mesh
from flamingo.model.sharded_loading import defer_weights, load_deferred
from flamingo.utils.devices import processes
from flamingo.utils.errors import UserError

log = logging.getLogger(__name__)


def evaluated_model(
    config: EvaluateConfig, checkpoint: Path
) -> tuple[FlamingoForConditionalGeneration, FlamingoProcessor, Lockstep | None]:
    """Returns the model of a checkpoint in evaluation mode, its processor, and the lockstep of shared layers.

    Raises:
        UserError: If ``shard_size`` or ``device_map`` does not fit the processes or the checkpoint.
    """
    if config.device_map is not None:
        model = _spread(checkpoint, config.dtype, config.device_map)
        return model, FlamingoProcessor.from_pretrained(checkpoint), None
    if config.shard_size is None:
        model, processor = load_model(checkpoint, config.dtype)
        return model, processor, None
    model = _sharded(checkpoint, config.dtype, config.shard_size)
    return model, FlamingoProcessor.from_pretrained(checkpoint), Lockstep(model, config.shard_size)


def _spread(checkpoint: Path, dtype: str, device_map: str) -> FlamingoForConditionalGeneration:
    """Returns a model whose language model transformers spreads over the devices of this process.

    Raises:
        UserError: With several processes, and for a checkpoint that contains its backbones.
    """
    if processes().num_processes > 1:
        raise UserError(f"device_map={device_map} is for one process, and this run has {processes().num_processes}")
    if FlamingoConfig.from_pretrained(checkpoint).backbones_included:
        raise UserError(f"device_map={device_map}: {checkpoint} contains its backbones, and has to leave them out")
    model = FlamingoForConditionalGeneration.from_pretrained(
        checkpoint, dtype=dtype, check=False, text_kwargs={"device_map": device_map}
    )
    model.place(processes().device)
    model.begin_checks(True)
    return model.eval()


def _sharded(checkpoint: Path, dtype: str, shard_size: int) -> FlamingoForConditionalGeneration:
    """Returns a model of whose layers this process reads only its own shards, if the checkpoint names its backbones."""
    mesh = shard_mesh(shard_size)
    arguments: dict[str, Any] = {}
    if FlamingoConfig.from_pretrained(checkpoint).backbones_included:
        log.warning("%s contains its backbones, so every process loads it whole before it is sharded", checkpoint)
    else:
        arguments["text_kwargs"] = {"load": defer_weights}
    model = FlamingoForConditionalGeneration.from_pretrained(checkpoint, dtype=dtype, check=False, **arguments)
    model.begin_checks(True)  # before the layers are sharded
    shard_layers(model.language_model, mesh)
    model.place(processes().device)
    load_deferred(model.language_model, processes().device)
    return model.eval()
