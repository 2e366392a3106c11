"""Stand-ins for keys that a config leaves open, ``${chosen:}``: they pass the checks before values are chosen."""

import re
from collections.abc import Iterator
from copy import deepcopy
from typing import Any

from omegaconf import DictConfig, OmegaConf

from flamingo.training.optim import default_warmup
from flamingo.utils.errors import UserError

#: The value of a key that is left open.
OPEN = "${chosen:}"
#: A valid value for each key that may be left open; * is the name of a data set. See experiments/setup/choices.py.
_STAND_INS: dict[str, Any] = {
    "dtype": "auto",
    "data.split": None,
    "data.sample_split": None,
    "data.splits.make": None,
    "data.documents.*.min_images": 1,
    "data.documents.*.max_images": 1,
    "data.documents.*.batch_size": 1,
    "data.documents.*.captions_per_image": 1,
    "model.fusion.every": 1,
    "training.log_every": 1,
    "training.precision": "fp32",
    "training.steps": 1_000_000,  # more than any warm-up
}
_WARMUP = "optimizer.warmup_steps"


def with_stand_ins(config: DictConfig) -> DictConfig:
    """Returns a composed config in which keys that are left open have valid values, and ``left_open`` lists them.

    A config without a key ``left_open`` may leave open the warm-up alone, which then has its final value.

    Raises:
        UserError: For a key that must not be left open.
    """
    keys = list(_open_keys(OmegaConf.to_container(config, resolve=False), ""))
    if not keys:
        return config
    config = deepcopy(config)
    for key in keys:
        OmegaConf.update(config, key, _stand_in(key, config))
    if "left_open" in config:
        config.left_open = keys
    return config


def _open_keys(values: Any, key: str) -> Iterator[str]:
    if values == OPEN:
        yield key
    elif isinstance(values, dict):
        for name, value in values.items():
            yield from _open_keys(value, f"{key}.{name}" if key else str(name))


def _stand_in(key: str, config: DictConfig) -> Any:
    if key == _WARMUP:
        return default_warmup(config.training.steps)
    for pattern, stand_in in _STAND_INS.items():
        if re.fullmatch(re.escape(pattern).replace(r"\*", "[^.]+"), key):
            return stand_in
    raise UserError(f"{key} cannot be left open ({OPEN}): give it a value")


def _resolved(_node_: Any, _root_: DictConfig) -> Any:
    """Returns the stand-in of an open key that another key refers to."""
    return _stand_in(_node_._get_full_key(None), _root_)


OmegaConf.register_new_resolver("chosen", _resolved, replace=True)
