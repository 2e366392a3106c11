"""A config -> the model, its features, the task and the parts of a training. build_data.py builds data sets."""

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
from flamingo.model import BACKBONES, Fields
from flamingo.model.adapters import add_adapter
from flamingo.model.language import make_text_model
from flamingo.model.sharded_loading import defer_weights
from flamingo.synthetic import backbones
from flamingo.utils.checks import within
from flamingo.utils.devices import processes
from flamingo.utils.hub import from_pretrained
from flamingo.utils.kinds import class_of
from flamingo.utils.memory import out_of_memory
from flamingo.utils.sharing import main_process_first


def backbone_names(config: ModelConfig) -> dict[str, str]:
    """Returns the folder or hub name of the backbones ``vision`` and ``language``, except those of a checkpoint."""
    keys = {"vision": config.vision, "language": config.language}
    names = {key: name for key, name in keys.items() if name != CHECKPOINT}
    embedded = {"vision": backbones.VISION, "language": backbones.LANGUAGE}
    return {key: str(embedded[key]) if name == "embedded" else name for key, name in names.items()}


def build_model(
    config: ModelConfig, dtype: str = "auto", shards: bool = False
) -> tuple[FlamingoForConditionalGeneration, FlamingoProcessor]:
    """Returns the model of a config and its processor. The model is untrained, or that of ``model.init_from``.

    The model is on the device of this process. Its random weights are drawn on the CPU.

    Args:
        config: The model.
        dtype: The dtype of the backbones; auto: as they were saved.
        shards: Whether processes will share the weights of the language model. They then stay on meta until
            :func:`flamingo.training.parallel.distribute`, unless they start at random.

    Raises:
        UserError: For missing backbones, and for parts that cannot train.
    """
    names = backbone_names(config)
    for key, name in names.items():
        from_pretrained(AutoConfig, name, f"model.{key}")
    text_kwargs = {"load": defer_weights} if shards and not config.from_scratch else {}
    if config.init_from is not None:
        model, processor = begin_with_checkpoint(config, names, dtype, text_kwargs)
    else:
        model, processor = _untrained(config, names, dtype, text_kwargs)
    if config.adapter is not None and model.config.adapter is None:
        with within("model"):
            add_adapter(model, config.adapter)
        model.begin_checks(True)
    height, width = checked_image_size(model, processor, config.image_size)
    processor.tokens_per_image = model.tokens_per_image(height, width)
    if config.from_scratch:
        fresh = make_text_model(model.language_model.config)
        model.language_model.load_state_dict(fresh.state_dict())
        embedding, head = fresh.get_input_embeddings(), fresh.get_output_embeddings()
        model.new_tokens.start_from(embedding.weight.mean(dim=0), head.weight.mean(dim=0))
    model.train_parts(config.trainable)
    for part in BACKBONES:
        if part in config.trainable:  # 16 bits round small updates to nothing
            getattr(model, part).float()
    return model, processor


def _untrained(
    config: ModelConfig, names: dict[str, str], dtype: str, text_kwargs: Fields
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
        text_kwargs=text_kwargs,
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
    """Returns the model of a checkpoint in evaluation mode, on the device of this process, and its processor.

    Args:
        checkpoint: The folder of the checkpoint.
        dtype: The dtype of the backbones; auto: as in training.
    """
    model = FlamingoForConditionalGeneration.from_pretrained(checkpoint, dtype=dtype, check=False)
    model.place(processes().device)
    model.begin_checks(True)
    return model.eval(), FlamingoProcessor.from_pretrained(checkpoint)


def build_features(
    config: FeaturesConfig, model: FlamingoForConditionalGeneration, processor: FlamingoProcessor
) -> FeatureStore | None:
    """Returns the features in the folder of a config; None without a folder.

    Raises:
        UserError: For a folder with features of another encoder.
    """
    if config.folder is None:
        return None
    with main_process_first():
        return FeatureStore(Path(config.folder), model, processor, config.batch_size)


def add_features(features: FeatureStore, images: Iterable[Image]) -> None:
    """Computes missing features. The processes of the run share the images.

    Raises:
        UserError: For a broken image, and where the device runs out of memory.
    """
    with out_of_memory("features.batch_size"):
        features.add(images)


def build_task(config: TaskConfig, open_images: bool) -> Task:
    """Returns the task of a config.

    Args:
        config: The config of any kind of task.
        open_images: Whether image files are opened now, which finds broken ones.

    Raises:
        UserError: For data that cannot be read.
    """
    return class_of(ALL_TASKS, config.kind).from_config(config, open_images)


@dataclass
class TrainingParts:
    """The checked parts of a training, before features are computed."""

    model: FlamingoForConditionalGeneration
    processor: FlamingoProcessor
    #: None if no documents are made of records.
    records: TrainingRecords | None
    #: Documents whose last answers are logged during training.
    samples: list[Document]
