"""A config -> the model, its features, the task, the parts of a training. Data sets: see build_data.py."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from transformers import AutoConfig

from experiments.schema import ALL_TASKS, CHECKPOINT, ModelConfig
from experiments.setup.build_data import TrainingRecords
from experiments.setup.build_from_checkpoint import begin_with_checkpoint
from flamingo import Document, FlamingoForConditionalGeneration, FlamingoProcessor
from flamingo.data.document import Image
from flamingo.evaluation.protocol import Task
from flamingo.evaluation.tasks import TaskConfig
from flamingo.inference import FeaturesConfig
from flamingo.inference.features import FeatureStore
from flamingo.inference.image_size import checked_image_size
from flamingo.model import BACKBONES
from flamingo.model.adapters import add_adapter
from flamingo.model.language import make_text_model
from flamingo.synthetic import backbones
from flamingo.utils.checks import within
from flamingo.utils.devices import main_process_first, processes
from flamingo.utils.hub import from_pretrained
from flamingo.utils.kinds import class_of
from flamingo.utils.memory import out_of_memory


def backbone_names(config: ModelConfig) -> dict[str, str]:
    """Returns the folder or the hub name of the backbones ``vision`` and ``language``, unless a checkpoint has them."""
    keys = {"vision": config.vision, "language": config.language}
    names = {key: name for key, name in keys.items() if name != CHECKPOINT}
    embedded = {"vision": backbones.VISION, "language": backbones.LANGUAGE}
    return {key: str(embedded[key]) if name == "embedded" else name for key, name in names.items()}


def build_model(config: ModelConfig, dtype: str = "auto") -> tuple[FlamingoForConditionalGeneration, FlamingoProcessor]:
    """Returns the model of a config, untrained between its backbones or that of a checkpoint, and its processor.

    The model is on the device of this process. Its random weights are drawn on the CPU.

    Args:
        config: The model.
        dtype: Of the backbones; auto: as they were saved.

    Raises:
        UserError: For backbones that are not there, and for parts that cannot train.
    """
    names = backbone_names(config)
    for key, name in names.items():
        from_pretrained(AutoConfig, name, f"model.{key}")
    if config.init_from is not None:
        model, processor = begin_with_checkpoint(config, names, dtype)
    else:
        model, processor = _untrained(config, names, dtype)
    if config.adapter is not None and model.config.adapter is None:
        with within("model"):
            add_adapter(model, config.adapter)
        model.begin_checks(True)
    height, width = checked_image_size(model, processor, config.image_size)
    processor.tokens_per_image = model.tokens_per_image(height, width)
    if config.from_scratch:
        fresh = make_text_model(model.language_model.config)
        model.language_model.load_state_dict(fresh.state_dict())
        model.new_tokens.start_from_mean(fresh.get_input_embeddings(), fresh.get_output_embeddings())
    model.train_parts(config.trainable)
    for part in BACKBONES:
        if part in config.trainable:  # updates of a small learning rate are lost in 16 bits
            getattr(model, part).float()
    return model, processor


def _untrained(
    config: ModelConfig, names: dict[str, str], dtype: str
) -> tuple[FlamingoForConditionalGeneration, FlamingoProcessor]:
    processor = FlamingoProcessor.from_vision_text_pretrained(
        names["vision"],
        names["language"],
        config.image_size,
        aspect=config.aspect,
        caption_template=config.caption_template,
    )
    model = FlamingoForConditionalGeneration.from_vision_text_pretrained(
        names["vision"],
        names["language"],
        dtype=dtype,
        new_token_ids=processor.new_token_ids,
        image_token_id=processor.image_token_id,
        vision_features=config.vision_features,
        connector=config.connector,
        fusion=config.fusion,
        check=False,
    )
    model.place(processes().device)
    model.begin_checks(True)
    return model, processor


def load_model(checkpoint: Path, dtype: str) -> tuple[FlamingoForConditionalGeneration, FlamingoProcessor]:
    """Returns the model of a checkpoint, on the device of this process in evaluation mode, and its processor.

    Args:
        checkpoint: The folder.
        dtype: Of the backbones; auto: that in which the model was trained.
    """
    model = FlamingoForConditionalGeneration.from_pretrained(checkpoint, dtype=dtype, check=False)
    model.place(processes().device)
    model.begin_checks(True)
    return model.eval(), FlamingoProcessor.from_pretrained(checkpoint)


def build_features(
    config: FeaturesConfig, model: FlamingoForConditionalGeneration, processor: FlamingoProcessor
) -> FeatureStore | None:
    """Returns the features of a config's folder; None where it names none.

    Raises:
        UserError: For a folder of other features.
    """
    if config.folder is None:
        return None
    with main_process_first():
        return FeatureStore(Path(config.folder), model, processor, config.batch_size)


def add_features(features: FeatureStore, images: Iterable[Image]) -> None:
    """Compute missing features in the main process; the other processes find them in the folder.

    Raises:
        UserError: For a broken picture, and where the device runs out of memory.
    """
    with main_process_first(), out_of_memory("features.batch_size"):
        features.add(images)


def build_task(config: TaskConfig, open_images: bool) -> Task:
    """Returns the task of a config.

    Args:
        config: The config of any kind of task.
        open_images: Whether image files are opened, so that broken ones are found now.

    Raises:
        UserError: For data that cannot be read.
    """
    return class_of(ALL_TASKS, config.kind).from_config(config, open_images)


@dataclass
class TrainingParts:
    """The parts of a training, checked. What remains is features and the loop."""

    model: FlamingoForConditionalGeneration
    processor: FlamingoProcessor
    #: Where documents are made of records.
    records: TrainingRecords | None
    #: Documents whose last answers are logged while training.
    samples: list[Document]
