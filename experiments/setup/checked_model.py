"""A training's model and processor, and all problems of both backbones; a processor even if a backbone is broken."""

import torch
from transformers import AutoConfig, AutoTokenizer

from experiments.schema import ModelConfig
from experiments.setup.build import backbone_names, build_model
from experiments.setup.init_from_parts import checkpoint_folder
from experiments.train import TrainConfig
from flamingo import FlamingoForConditionalGeneration, FlamingoProcessor
from flamingo.data.caption_template import CaptionTemplate
from flamingo.data.transforms.image_processors import load_image_processor
from flamingo.model import BACKBONES
from flamingo.model.checkpoints import LOADERS, check_unchanged
from flamingo.model.sharded_loading import defer_weights
from flamingo.synthetic import backbones
from flamingo.training.optim.groups import make_optimizer
from flamingo.utils.devices import processes
from flamingo.utils.errors import UserError
from flamingo.utils.hub import from_pretrained
from flamingo.utils.problems import Problems


def checked_model(
    config: TrainConfig, problems: Problems
) -> tuple[FlamingoForConditionalGeneration | None, FlamingoProcessor | None]:
    """Returns the model and its processor.

    Args:
        config: The training.
        problems: Gets what is wrong with backbones and model.

    Returns:
        None in the place of the model where there is a problem. The processor then only counts tokens. Its images may
        take fewer positions than the model's: what is too long for it is too long. None without a tokenizer.
    """
    before = len(problems.sentences)
    _check_backbones(config.model, problems)
    if len(problems.sentences) == before:
        torch.manual_seed(config.training.seed)
        own_problems = Problems()
        with own_problems.collected():
            model, processor = build_model(config.model, config.dtype, _shards(config))
            make_optimizer(model, config.optimizer)  # refuses a model without trained parameters
            check_saving(model, config.include_backbones)
            return model, processor
        _check_weights(config, problems)
        if len(problems.sentences) == before:
            problems.sentences += own_problems.sentences
    return None, _counting_processor(config.model)


def _shards(config: TrainConfig) -> bool:
    """Returns whether processes will share the model. A dry run is of one process."""
    return config.parallel.shards and processes().num_processes > 1 and not config.dry_run


def _check_backbones(config: ModelConfig, problems: Problems) -> None:
    """Reads the configs, tokenizer and image processor of both backbones, before the weights of either."""
    names = backbone_names(config)
    if "vision" in names:
        with problems.collected():
            from_pretrained(AutoConfig, names["vision"], "model.vision")
            with problems.collected("model.vision"):
                load_image_processor(names["vision"], config.image_size)
    if "language" in names:
        with problems.collected():
            from_pretrained(AutoConfig, names["language"], "model.language")
            from_pretrained(AutoTokenizer, names["language"], "model.language")


def _check_weights(config: TrainConfig, problems: Problems) -> None:
    """Loads each backbone alone, where they do not make a model together."""
    for key, name in backbone_names(config.model).items():
        deferring = {"load": defer_weights} if key == "language" and _shards(config) else {}
        with problems.collected(f"model.{key}"):
            LOADERS[f"{key}_model"](name, dtype=config.dtype, **deferring)


def _counting_processor(config: ModelConfig) -> FlamingoProcessor | None:
    """Returns a processor with the tokenizer of the config; None where there is none."""
    try:
        if config.init_from is None:
            # Any image processor will do.
            return FlamingoProcessor.from_vision_text_pretrained(
                backbones.VISION, backbone_names(config)["language"], caption_template=config.caption_template
            )
        folder = checkpoint_folder(config.init_from)
        processor = from_pretrained(FlamingoProcessor, folder, "model.init_from")
        processor.template = CaptionTemplate(config.caption_template)
        return processor
    except UserError:
        return None


def check_saving(model: FlamingoForConditionalGeneration, include_backbones: bool) -> None:
    """Checks that the checkpoint can be saved after the training, which changes no frozen backbone.

    Raises:
        UserError: If it cannot.
    """
    frozen = {part: getattr(model, part) for part in BACKBONES}
    try:
        if not include_backbones:
            check_unchanged(model.config, frozen)
    except UserError as error:
        raise UserError(f"include_backbones must be true: {error}") from error
