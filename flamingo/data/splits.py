"""Splits of a source: their roles, and random splits for a source that names none."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from flamingo.data.records.record import LazySequence, Record, Subset
from flamingo.data.source_keys import SourceKeys
from flamingo.utils.checks import below_one, seed
from flamingo.utils.errors import UserError

TRAIN, VALIDATION, TEST = "train", "validation", "test"
#: Name of a split in data sets, in lower case -> its role.
ROLES = {
    "train": TRAIN,
    "training": TRAIN,
    "validation": VALIDATION,
    "valid": VALIDATION,
    "val": VALIDATION,
    "dev": VALIDATION,
    "test": TEST,
    "testing": TEST,
}
#: The fewest images of a random held-out split: CIDEr cannot weight words by rarity on one image.
_FEWEST = 2


@dataclass
class SplitsConfig:
    """Random splits: train, validation and test."""

    #: Whether splits are made; true: also if the source has splits; null: only if not.
    make: bool | None = None
    #: The fraction of images in the split validation, with at least 2 images; 0: no split.
    validation: float = 0.1
    #: The fraction of images in the split test, with at least 2 images; 0: no split.
    test: float = 0.1
    #: The seed of the draw. The split of an image depends on the ids of all images, not on their order.
    seed: int = 0

    def __post_init__(self) -> None:
        below_one("validation", self.validation)
        below_one("test", self.test)
        if self.validation + self.test >= 1:
            raise UserError(f"validation={self.validation} and test={self.test} leave no image for train")
        seed("seed", self.seed)


class MadeSplits(LazySequence):
    """The records of a source, each in a random split."""

    def __init__(self, source: LazySequence, config: SplitsConfig, keys: SourceKeys | None = None) -> None:
        """Draws the splits.

        Args:
            source: The records; their own splits are dropped.
            config: The fractions and the seed.
            keys: The keys that errors name.

        Raises:
            UserError: If no image would be left for the split train.
        """
        self.source, self.skipped = source, source.skipped
        number = len(source)
        num_validation = _num_images(config.validation, number)
        num_test = _num_images(config.test, number)
        if num_validation + num_test >= number:
            key = (keys or SourceKeys()).named("splits")
            raise UserError(
                f"{key}: {number} images are too few for the splits train, validation ({num_validation}) and test "
                f"({num_test}): set {key}.validation=0 or {key}.test=0"
            )
        order = np.array(_drawn_order(source, config.seed), dtype=np.int64)
        self._names = np.full(number, TRAIN, dtype=f"<U{len(VALIDATION)}")
        self._names[order[:num_test]] = TEST
        self._names[order[num_test : num_test + num_validation]] = VALIDATION

    def __len__(self) -> int:
        return len(self.source)

    def item(self, index: int) -> Record:
        """Returns the record at ``index``, which lies in [0, len)."""
        return replace(self.source[index], split=str(self._names[index]))


def with_splits(source: LazySequence, config: SplitsConfig, keys: SourceKeys | None = None) -> LazySequence:
    """Returns the source, with random splits if the config asks for them or the source names none."""
    make = config.make
    if make is None:
        make = all(record.split is None for record in source)
    return MadeSplits(source, config, keys) if make else source


def of_split(source: LazySequence, split: str, keys: SourceKeys | None = None) -> LazySequence:
    """Returns the records of a split, or of several splits, in the order of the source.

    Args:
        source: The records.
        split: The name of the split, or names with ``+`` between them, such as ``train+restval``.
        keys: The keys that errors name.

    Raises:
        UserError: If one of the splits has no record; the error has the key, and lists the known splits.
    """
    splits = [record.split for record in source]
    known = {name for name in splits if name is not None}
    wanted = {split} if split in known else split_names(split)
    missing = sorted(wanted - known)
    if missing:
        keys = keys or SourceKeys()
        raise UserError(
            f"{keys.split}={split}: there is no split {missing[0]!r}; there are: {', '.join(sorted(known)) or 'none'}; "
            f"{keys.named('splits.make')}=true makes train, validation and test of all"
        )
    return Subset(source, [index for index, name in enumerate(splits) if name in wanted])


def split_names(split: str) -> set[str]:
    """Returns the names of the splits in a text such as ``train+restval``."""
    return set(split.split("+"))


def share_a_split(first: str | None, second: str | None) -> bool:
    """Returns whether two values of a key share a split; None stands for all splits."""
    if first is None or second is None:
        return True
    return not split_names(first).isdisjoint(split_names(second))


def _num_images(fraction: float, number: int) -> int:
    """Returns the number of images of a held-out split."""
    if fraction == 0:
        return 0
    return max(_FEWEST, round(fraction * number))


def _drawn_order(source: LazySequence, seed: int) -> Sequence[int]:
    """Returns the indices of the records in an order that depends only on their ids and the seed."""
    keys = []
    for index, record in enumerate(source):
        text = f"split {seed} {record.split} {record.id}"
        keys.append((hashlib.sha256(text.encode()).digest(), index))
    return [index for _, index in sorted(keys)]
