"""Chooses values for keys that a training's config leaves open, from the data, the backbones and the device."""

import logging
import math
import statistics
from collections.abc import Iterable, Set
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from accelerate.utils import gather_object
from transformers import AutoConfig, AutoTokenizer, PreTrainedConfig

from experiments.schema import DataSetConfig, ModelConfig
from experiments.setup.build import backbone_names
from experiments.setup.init_from_parts import checkpoint_folder
from experiments.train import TrainConfig
from flamingo.data.caption_template import CaptionTemplate
from flamingo.data.records.record import LazySequence
from flamingo.data.source_keys import DATA_KEYS
from flamingo.data.sources import list_split
from flamingo.data.splits import ROLES, TRAIN, VALIDATION, of_split, with_splits
from flamingo.training.optim import default_warmup
from flamingo.utils.devices import device_title, free_memory, multiplies_bfloat16, processes
from flamingo.utils.hub import from_pretrained
from flamingo.utils.problems import Problems
from flamingo.utils.reading import read_config
from flamingo.utils.run_folder import Run

log = logging.getLogger(__name__)

#: The number of images of an interleaved document, if there are enough and their captions fit.
_IMAGES = 9
#: The number of images of a batch: with one in each document, and with several.
_PAIRS, _INTERLEAVED = 16, 36
#: The largest number of captions of an image in one document.
_CAPTIONS_PER_IMAGE = 5
#: The approximate number of gated blocks.
_BLOCKS = 8
#: How often each image is the last one of a document, and the limits of the steps that follow from it.
_PASSES, _FEWEST_STEPS, _MOST_STEPS = 10, 200, 10_000
#: The fewest records of the loss, unless there are fewer steps, and the most steps between two records.
_FEWEST_RECORDS, _MOST_BETWEEN_RECORDS = 20, 10
#: Tokens of an image in addition to its text: the marker and the end of the chunk.
_MARKERS = 2
#: The number of images whose captions are measured.
_MEASURED = 500
#: Bytes of activations: for each token, channel and layer, and for each token and entry of the vocabulary.
_LAYER_BYTES, _LOGIT_BYTES = 34, 10
#: The share of the free memory that activations may take.
_MEMORY_SHARE = 1 / 3


class Choices:
    """A copy of a config in which open keys get values."""

    def __init__(self, config: TrainConfig) -> None:
        self.config = deepcopy(config)
        self._reasons: dict[str, str] = {}

    def choose(self, key: str, value: Any, reason: str) -> None:
        """Sets a key to a value if the key is open and has no value yet."""
        if key in self.config.left_open and key not in self._reasons:
            *path, name = key.split(".")
            setattr(_section(self.config, path), name, value)
            self._reasons[key] = f"{key}={'null' if value is None else value} ({reason})"

    def write_log(self) -> None:
        """Logs each choice with its reason."""
        if self._reasons:
            log.info("values chosen for open keys, each of which the command line can set:")
        for reason in self._reasons.values():
            log.info("  %s", reason)


def _section(config: TrainConfig, path: list[str]) -> Any:
    section: Any = config
    for step in path:
        section = section[step] if isinstance(section, dict) else getattr(section, step)
    return section.documents if isinstance(section, DataSetConfig) else section


def with_choices(config: TrainConfig, run: Run, problems: Problems) -> TrainConfig:
    """Returns a config with values for its open keys, and logs them.

    Args:
        config: The config.
        run: The folder of the run. An existing run continues with its recorded values.
        problems: Collects what cannot be read. Stand-ins then remain, and the training must not begin.
    """
    if not config.left_open:
        return config
    choices = Choices(config)
    if run.is_owned and not config.overwrite:
        _choose_recorded(choices, run)
    _choose_precision(choices)
    language: PreTrainedConfig | None = None
    tokenizer = None
    with problems.collected():
        name = _language(config.model)
        language = from_pretrained(AutoConfig, name, "model.language").get_text_config(decoder=True)
        _choose_blocks(choices, language.num_hidden_layers)
        tokenizer = from_pretrained(AutoTokenizer, name, "model.language")
    if config.data.root is not None:
        with problems.collected():
            _choose_by_data(choices, language, tokenizer)
    steps = choices.config.training.steps
    choices.choose("optimizer.warmup_steps", default_warmup(steps), f"at most a tenth of {steps} steps")
    log_every = min(_MOST_BETWEEN_RECORDS, max(1, steps // _FEWEST_RECORDS))
    choices.choose("training.log_every", log_every, f"{steps // log_every} records of the loss")
    if not problems.sentences:  # else some are stand-ins
        choices.write_log()
    return choices.config


def _language(config: ModelConfig) -> str:
    """Returns the folder or hub name of the language model, or the folder of the checkpoint that has it."""
    names = backbone_names(config)
    if "language" in names:
        return names["language"]
    assert config.init_from is not None
    return str(checkpoint_folder(config.init_from))


def _choose_recorded(choices: Choices, run: Run) -> None:
    """Chooses the recorded values of the existing run, so that another device changes nothing."""
    file = run.output / run.files.config_file
    recorded = read_config(file)
    for key in choices.config.left_open:
        value: Any = recorded
        for step in key.split("."):
            value = value.get(step, {})
        if value != {}:
            choices.choose(key, value, f"as {file} has it")


def _choose_precision(choices: Choices) -> None:
    device = processes().device
    title = device_title(device)
    if multiplies_bfloat16(device):
        choices.choose("dtype", "bfloat16", f"{title} multiplies bfloat16 faster")
        choices.choose("training.precision", "bf16", f"{title} multiplies bfloat16 faster")
    else:
        choices.choose("dtype", "float32", f"{title} has no fast bfloat16")
        choices.choose("training.precision", "fp32", f"{title} has no fast bfloat16")


def _choose_blocks(choices: Choices, num_layers: int) -> None:
    every = max(1, num_layers // _BLOCKS)
    num_blocks = math.ceil(num_layers / every)
    choices.choose("model.fusion.every", every, f"{num_blocks} gated blocks for {num_layers} layers")


@dataclass(frozen=True)
class _Captions:
    """Numbers that describe the captions of a split."""

    #: The number of images of the split.
    num_images: int
    #: The median number of captions of an image.
    per_image: int
    #: Tokens of an image with its longest caption, at the 95th percentile of the images.
    tokens: int


def _choose_by_data(choices: Choices, language: PreTrainedConfig | None, tokenizer: Any) -> None:
    data = choices.config.data
    assert data.root is not None
    source = list_split(data.root, data, None, DATA_KEYS, data.of_questions)
    _choose_made_splits(choices, {record.split for record in source})
    listed = with_splits(source, data.splits, DATA_KEYS)
    splits = [record.split for record in listed]
    train = _split_of_role(splits, TRAIN)
    names = ", ".join(sorted({name for name in splits if name is not None})) or "none"
    choices.choose("data.split", train, f"splits: {names}")
    choices.choose("data.sample_split", _split_of_role(splits, VALIDATION), f"splits: {names}")
    records = listed if data.split is None else of_split(listed, data.split, DATA_KEYS)
    captions = _measured(records, tokenizer, CaptionTemplate(choices.config.model.caption_template))
    for name in data.of_records():
        _choose_documents(choices, name, captions, language, tokenizer)
    batch_size = next(iter(data.of_records().values())).batch_size
    _choose_steps(choices, captions.num_images, batch_size * processes().num_processes)


def _choose_made_splits(choices: Choices, names: Set[str | None]) -> None:
    """Chooses to make splits where the data name a single one, since nothing would be held out otherwise."""
    named = ", ".join(sorted(name for name in names if name is not None)) or "none"
    is_alone = len(names) == 1 and None not in names and "data.split" in choices.config.left_open
    if is_alone:
        choices.choose("data.splits.make", True, f"the only split of the data is {named}")
    else:
        choices.choose("data.splits.make", None, f"splits of the data: {named}")


def _split_of_role(splits: Iterable[str | None], role: str) -> str | None:
    """Returns the first split whose name has a role."""
    names = {split for split in splits if split is not None}
    return next((name for name in sorted(names) if ROLES.get(name.lower()) == role), None)


def _measured(records: LazySequence, tokenizer: Any, template: CaptionTemplate) -> _Captions:
    """Returns numbers that describe captions, from evenly spaced images."""
    spacing = max(1, len(records) // _MEASURED)
    measured = [records[index].captions for index in range(0, len(records), spacing)]
    per_image = int(statistics.median_low([len(captions) for captions in measured]))
    if tokenizer is None:
        return _Captions(len(records), per_image, 1)
    lengths = []
    for captions in measured:
        texts = [template.filled(caption) for caption in captions]
        ids = tokenizer(texts, add_special_tokens=False)["input_ids"]
        lengths.append(max(map(len, ids)) + _MARKERS)
    lengths.sort()
    return _Captions(len(records), per_image, lengths[(len(lengths) - 1) * 19 // 20])


def _choose_documents(
    choices: Choices, name: str, captions: _Captions, language: PreTrainedConfig | None, tokenizer: Any
) -> None:
    key = f"data.documents.{name}"
    documents = choices.config.data.of_records()[name]
    room = _room(language, tokenizer) // captions.tokens
    images = max(1, min(_IMAGES, captions.num_images, room))
    why = f"{captions.num_images} images; {captions.tokens} tokens each, of which {room} fit"
    choices.choose(f"{key}.max_images", max(images, documents.min_images), why)
    choices.choose(f"{key}.min_images", documents.max_images, "as max_images: no padding")
    why = f"captions of an image: {captions.per_image}"
    choices.choose(f"{key}.captions_per_image", min(_CAPTIONS_PER_IMAGE, captions.per_image), why)
    usual = _PAIRS if documents.max_images == 1 else max(1, _INTERLEAVED // documents.max_images)
    tokens = documents.max_images * documents.group_size * captions.tokens
    fits = _documents_in_memory(language, tokens)
    choices.choose(f"{key}.batch_size", min(usual, fits), f"{tokens} tokens a document; memory for {fits}")


def _room(language: PreTrainedConfig | None, tokenizer: Any) -> int:
    """Returns the tokens of a document: the smaller of the tokenizer's limit and the language model's positions."""
    limits = [getattr(language, "max_position_embeddings", None), getattr(tokenizer, "model_max_length", None)]
    return min([limit for limit in limits if limit], default=1024) - 4


def _documents_in_memory(language: PreTrainedConfig | None, tokens: int) -> int:
    """Returns how many documents of a length fit into a third of the free memory, at least 1."""
    if language is None:
        return 1
    layers = _LAYER_BYTES * language.hidden_size * language.num_hidden_layers
    logits = _LOGIT_BYTES * language.vocab_size
    # All processes choose the same number.
    budget = _MEMORY_SHARE * min(gather_object([free_memory(processes().device)]))
    return max(1, int(budget / (tokens * (layers + logits))))


def _choose_steps(choices: Choices, num_images: int, batch_size: int) -> None:
    """Chooses the number of steps by the batch size of all processes together."""
    wanted = math.ceil(_PASSES * num_images / batch_size)
    steps = min(max(wanted, _FEWEST_STEPS), _MOST_STEPS)
    passes = steps * batch_size / num_images
    why = f"{num_images} images, {batch_size} a step: {passes:.0f} passes; dry_run=true estimates the time"
    choices.choose("training.steps", steps, why)
