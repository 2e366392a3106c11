"""Config: which features of the frozen vision encoder the connector reads."""

from dataclasses import dataclass

from flamingo.utils.checks import flag, one_of, whole
from flamingo.utils.errors import UserError

CLASS_TOKENS = ("drop", "keep", "none", "auto")


@dataclass
class VisionFeaturesConfig:
    """Which features of the frozen encoder the connector reads. Only ``class_token="auto"`` depends on the encoder.

    The defaults are those of Flamingo checkpoints on CLIP: patch tokens of the last block, before
    the encoder's final norm, without the class token.
    """

    #: 0: the input of the first block; i: the output of block i; -1: of the last block. For encoders without one
    #: list of blocks (convolutional) -1 is ``last_hidden_state``, or a backbone's last feature map, and i counts the
    #: ``hidden_states``.
    hidden_state: int = -1
    #: The class token and registers: drop, keep, none (there are none) or auto (measured). SigLIP and
    #: convolutional encoders have no such tokens. auto becomes drop or none when the model is composed.
    class_token: str = "drop"
    #: Whether the encoder's final norm is applied to the hidden state.
    final_norm: bool = False
    #: The number of tokens after the patches (100 in YOLOS). All other tokens precede the patches.
    trailing_tokens: int = 0

    def __post_init__(self) -> None:
        if type(self.hidden_state) is not int:
            raise UserError(f"hidden_state must be a whole number, got {self.hidden_state!r}")
        one_of("class_token", self.class_token, CLASS_TOKENS)
        flag("final_norm", self.final_norm)
        whole("trailing_tokens", self.trailing_tokens, least=0)
        if self.class_token == "none" and self.trailing_tokens:
            raise UserError(f"trailing_tokens is {self.trailing_tokens}, so class_token must be drop or keep, not none")
