"""The configs of the commands as Hydra checks them, and the wrapper that runs a command with its config."""

import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, is_dataclass
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

import hydra
import yaml
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from flamingo import synthetic
from flamingo.data.builders import BUILDERS, DocumentsConfig
from flamingo.data.transforms import ASPECTS
from flamingo.evaluation.tasks import TASKS
from flamingo.inference import DTYPES
from flamingo.model import BACKBONES, TRAINED_PARTS
from flamingo.model.connectors import CONNECTORS, ConnectorConfig
from flamingo.model.fusion import CrossAttentionConfig
from flamingo.model.vision_features import VisionFeaturesConfig
from flamingo.training.losses import LOSSES, LossConfig
from flamingo.training.optim import OPTIMIZERS
from flamingo.utils.checks import one_of, whole, within
from flamingo.utils.errors import Stopped, UserError
from flamingo.utils.io import USER_ERRNOS, sentence_of
from flamingo.utils.kinds import Kinds, load_kind
from flamingo.utils.names import file_name

Result = TypeVar("Result")

CONF = Path(__file__).parents[1] / "conf"
_EXCLUDE_KEYS = "hydra.job.config.override_dirname.exclude_keys"


#: The library's kinds and the synthetic benchmark's.
ALL_BUILDERS = BUILDERS | synthetic.BUILDERS
ALL_TASKS = TASKS | synthetic.TASKS

#: JSON values by name.
JSON = dict[str, Any]
#: What OmegaConf has no type for: an entry of a mapping or list of kinds. :func:`load_documents` makes it a dataclass.
Entry = Any


@dataclass
class WandbConfig:
    """offline needs no account and writes into the run's folder; `wandb sync` uploads it later."""

    mode: str = "offline"
    project: str = "flamingo"
    group: str | None = None

    def __post_init__(self) -> None:
        one_of("mode", self.mode, ("online", "offline", "shared", "disabled"))


@dataclass
class ModelConfig:
    """The frozen backbones, and the parts that are trained between them."""

    #: Folders or hub names; "embedded" are the two that come with the package.
    vision: str = "embedded"
    language: str = "embedded"
    #: The dtype of the frozen backbones: float32, bfloat16, float16, or auto, as they were saved.
    dtype: str = "auto"
    #: Images that are not square: padded, cropped, or as_is, which leaves them to the encoder's image processor.
    aspect: str = "as_is"
    #: The side of images in pixels, if it is not the encoder's own. Convolutional encoders take any.
    image_size: int | None = None
    #: The parts that train: these, vision_model, language_model. A checkpoint has to hold a backbone that trains.
    trainable: list[str] = field(default_factory=lambda: ["connector", "gated_layers", "new_tokens"])
    #: A checkpoint between the same backbones, whose trained parts this run begins with; null: random ones.
    init_from: str | None = None
    #: Whether the language model begins with random weights instead of its own.
    from_scratch: bool = False
    vision_features: VisionFeaturesConfig = field(default_factory=VisionFeaturesConfig)
    #: Set by the group model/connector.
    connector: ConnectorConfig = MISSING
    fusion: CrossAttentionConfig = field(default_factory=CrossAttentionConfig)

    def __post_init__(self) -> None:
        one_of("dtype", self.dtype, ("auto",) + DTYPES)
        one_of("aspect", self.aspect, ASPECTS)
        if self.image_size is not None:
            whole("image_size", self.image_size, least=1)
        for part in self.trainable:
            one_of("trainable", part, BACKBONES + TRAINED_PARTS)


@dataclass
class DataSetConfig:
    """An entry of ``data.documents``: documents, and the loss that they are trained with."""

    documents: DocumentsConfig
    loss: LossConfig

    @property
    def of_records(self) -> bool:
        """Whether the documents are made of the records of ``data.root``."""
        return self.documents.kind in BUILDERS


def load_documents(entry: Mapping[str, Entry], key: str) -> DataSetConfig:
    """Returns an entry of ``data.documents``, whose ``loss`` is next_token by default.

    Raises:
        UserError: With the key, for a value that is unknown, missing or out of range.
    """
    values = dict(entry)
    loss = load_kind(LOSSES, values.pop("loss", {"kind": "next_token"}), f"{key}.loss")
    documents = load_kind(ALL_BUILDERS, values, key)
    with within(key):
        loss.check_documents(documents)
    return DataSetConfig(documents, loss)


@dataclass
class DataConfig:
    """Captioned images, where there are any, and the documents that are made of them or of the synthetic benchmark."""

    #: A folder, a file, or a pattern of shards in quotes.
    root: str | None = None
    #: The folder of the images, where the captions' file lies elsewhere.
    images: str | None = None
    #: The format of the captions; null: recognised by the files.
    format: str | None = None
    #: Null: all splits.
    split: str | None = None
    #: The split of the documents whose last answers are logged while training.
    sample_split: str | None = None
    #: By name a :class:`DataSetConfig`; in YAML and on the command line the keys of its documents, and ``loss``.
    documents: dict[str, Entry] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, entry in self.documents.items():
            if not isinstance(entry, DataSetConfig):
                self.documents[name] = load_documents(entry, f"documents.{name}")

    def of_records(self) -> dict[str, DocumentsConfig]:
        """Returns the documents that are made of records."""
        return {name: entry.documents for name, entry in self.documents.items() if entry.of_records}


def check_documents(config: DataConfig, features_folder: str | None) -> None:
    """Raise UserError, naming the key, for documents that cannot be made, before any data is read."""
    if not config.documents:
        raise UserError("the config has no documents to train on: choose data=...")
    of_records = config.of_records()
    if not of_records:
        values = {f"data.{key}": getattr(config, key) for key in ("root", "images", "format", "split", "sample_split")}
        values["features.folder"] = features_folder
        for key, value in values.items():
            if value is not None:
                kinds = ", ".join(BUILDERS)
                raise UserError(f"{key}={value} is for documents of these kinds, and data.documents has none: {kinds}")
        return
    if config.root is None:
        raise UserError("captioned images are needed: say data.root=FOLDER, FILE or 'SHARDS-*.tar'")
    for name, documents in of_records.items():
        if documents.num_neighbours > 0 and features_folder is None:
            raise UserError(
                f"data.documents.{name} shows similar images, which are found by their features: say "
                "features.folder=FOLDER"
            )


def _store_kinds(kinds: Kinds, group: str, package: str) -> None:
    """Let the options of a group name the config dataclass of a kind in their defaults, as ``KIND_schema``."""
    for kind, (config_class, _) in kinds.items():
        ConfigStore.instance().store(f"{kind}_schema", config_class, group=group, package=package)


_store_kinds(CONNECTORS, "model/connector", "model.connector")
_store_kinds(OPTIMIZERS, "optimizer", "optimizer")
_store_kinds(ALL_TASKS, "task", "task")


def as_recorded(config: Any) -> JSON:
    """Returns a config as its ``config.yaml`` records it: mappings, with the keys that the command line has."""
    values = asdict(config)
    for name, entry in values.get("data", {}).get("documents", {}).items():
        values["data"]["documents"][name] = entry["documents"] | {"loss": entry["loss"]}
    return values


def load(config: DictConfig) -> Any:
    """Returns the dataclass that a composed config was typed by, with everything resolved.

    Raises:
        UserError: For mandatory values that are missing, and for a value that a dataclass refuses, by its full key.
    """
    # Top-level keys first: other values may refer to them and cannot be resolved before.
    missing = [str(key) for key in config if OmegaConf.is_missing(config, str(key))] or OmegaConf.missing_keys(config)
    if missing:
        raise UserError(f"the config needs a value for {', '.join(sorted(missing))}")
    _check_sections(config)
    return OmegaConf.to_object(config)


def _check_sections(config: DictConfig) -> None:
    """Make the dataclass of each section: an error of one names the keys that lead to it."""
    for key, value in config.items():
        if isinstance(value, DictConfig) and is_dataclass(OmegaConf.get_type(value)):
            with within(str(key)):
                _check_sections(value)
                OmegaConf.to_object(value)


def command(config_name: str) -> Callable[[Callable[[DictConfig], Result]], Callable[[], None]]:
    """Decorator: a function of a config as the command whose config is ``conf/CONFIG_NAME.yaml``.

    A user's error ends the command with one sentence and exit status 2: a :class:`UserError`, one of Hydra's about
    keys, groups, types and syntax, and a system error that the user can mend, such as a full disk. Every other
    exception keeps its trace.
    """

    def decorate(function: Callable[[DictConfig], Result]) -> Callable[[], None]:
        @wraps(function)
        def job(config: DictConfig) -> Result:
            logging.raiseExceptions = False  # a log file on a full disk would print a trace for each line
            with user_errors(), termination():
                return function(config)

        application = hydra.main(version_base="1.3", config_path=str(CONF), config_name=config_name)(job)

        @wraps(function)
        def main() -> None:
            os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises what it would else print, shortened
            logging.raiseExceptions = False  # a log file on a full disk prints no traces: the run's own write fails
            sys.argv += folder_arguments(sys.argv[1:], CONF)
            with user_errors(), termination():
                application()

        return main

    return decorate


@contextmanager
def user_errors() -> Iterator[None]:
    """Print a user's error as one sentence and exit with status 2; after Ctrl-C exit with 130, after SIGTERM with 143.

    Within a job of a sweep the error is printed and raised again: Hydra runs the other jobs before it fails.
    """
    try:
        yield
    except Exception as error:
        if (sentence := _sentence(error)) is None:
            raise
        print(f"error: {sentence}", file=sys.stderr)
        if HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN:
            raise
        sys.exit(2)
    except KeyboardInterrupt as interrupt:
        print(str(interrupt) or "Stopped: start the same command again to continue.", file=sys.stderr)
        sys.exit(128 + getattr(interrupt, "signal", signal.SIGINT))


@contextmanager
def termination() -> Iterator[None]:
    """SIGTERM raises :class:`Stopped` inside the block, as Ctrl-C does KeyboardInterrupt. A second one ends at once."""

    def stop(number: int, _: Any) -> None:
        signal.signal(number, signal.SIG_DFL)
        raise Stopped("", number)

    main_thread = threading.current_thread() is threading.main_thread()
    if not main_thread or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _sentence(error: Exception) -> str | None:
    """What a user's error says; None for any other."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, OSError) and error.errno in USER_ERRNOS:
        return sentence_of(error)
    if not isinstance(error, HydraException | OmegaConfBaseException):
        return None
    cause = f" {error.__cause__}" if isinstance(error.__cause__, OmegaConfBaseException) else ""
    return " ".join(f"{error}{cause}".split())


def sweep_run_name(overrides: str) -> str:
    """Return the name of a run's folder below that of its sweep; none where it has no overrides of its own."""
    return file_name(overrides) if overrides else ""


OmegaConf.register_new_resolver("run_folder", sweep_run_name, replace=True)


def folder_arguments(arguments: Sequence[str], conf: Path) -> list[str]:
    """Return arguments to add to a command's own, which say what the names of a sweep's folders leave out.

    They leave out what ``conf/run.yaml`` lists, unless it is swept, and every path that is not swept: data may be
    moved, and a sweep that was stopped continues.
    """
    overrides = [override for argument in arguments for override in _parsed(argument)]
    swept = {override.key_or_group for override in overrides if override.is_sweep_override()}
    if _EXCLUDE_KEYS in {override.key_or_group for override in overrides}:
        return []
    run = yaml.safe_load((conf / "run.yaml").read_text(encoding="utf-8"))
    listed = run["hydra"]["job"]["config"]["override_dirname"]["exclude_keys"]
    paths = [override.key_or_group for override in overrides if _names_path(override)]
    left_out = [key for key in dict.fromkeys(listed + paths) if key not in swept or key == "output"]
    return [f"{_EXCLUDE_KEYS}=[{','.join(left_out)}]"] if left_out != listed else []


def _parsed(argument: str) -> list[Override]:
    """The argument as an override; nothing for an option, and for what Hydra is going to refuse."""
    if argument.startswith("-") or "=" not in argument:
        return []
    try:
        return [OverridesParser.create().parse_override(argument)]
    except HydraException:
        return []


def _names_path(override: Override) -> bool:
    if override.is_sweep_override() or override.key_or_group.startswith("hydra"):
        return False
    return "/" in override.get_value_element_as_str()
