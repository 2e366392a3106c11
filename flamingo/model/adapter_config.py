"""Config: the adapter in the layers of a frozen backbone, by peft."""

from dataclasses import dataclass, field
from typing import Any

from flamingo.model import BACKBONES
from flamingo.utils.checks import one_of
from flamingo.utils.errors import UserError


@dataclass
class AdapterConfig:
    """A method of peft that wraps layers of a frozen backbone. The wrapped layers' own weights stay frozen."""

    #: The method by its name in peft: lora, ia3, loha, lokr, oft, vera, ...
    kind: str
    #: The backbone whose layers are wrapped: language_model or vision_model.
    part: str = "language_model"
    #: Fields of the method's config in peft, such as r and target_modules.
    settings: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.kind, str) or not self.kind:
            raise UserError(f"kind must be the name of a method of peft, got {self.kind!r}")
        one_of("part", self.part, BACKBONES)
