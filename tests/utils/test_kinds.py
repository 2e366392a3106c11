"""A kind names its config dataclass and its class, and unknown kinds are refused by name."""

from dataclasses import dataclass

import pytest

from flamingo.utils.checks import whole
from flamingo.utils.errors import UserError
from flamingo.utils.kinds import class_of, load_kind


@dataclass
class RingConfig:
    size: int
    kind: str = "ring"

    def __post_init__(self):
        whole("size", self.size, least=1)


KINDS = {"ring": (RingConfig, "collections:OrderedDict")}


def test_a_kind_becomes_its_dataclass_and_its_class():
    assert load_kind(KINDS, {"kind": "ring", "size": 2}, "shape") == RingConfig(2)
    assert class_of(KINDS, "ring").__name__ == "OrderedDict"


@pytest.mark.parametrize(
    ("values", "names"),
    [
        ({"kind": "disc", "size": 2}, r"shape\.kind.*ring.*'disc'"),
        ({"size": 2}, r"shape\.kind"),
        ({"kind": "ring", "size": 2, "sizes": 3}, r"shape\.sizes.*size, kind"),
        ({"kind": "ring", "size": 0}, r"shape\.size.*0"),
        ({"kind": "ring"}, r"shape\.size"),
    ],
)
def test_unknown_kinds_and_wrong_or_missing_keys_are_named(values, names):
    with pytest.raises(UserError, match=names):
        load_kind(KINDS, values, "shape")
