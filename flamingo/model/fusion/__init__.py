"""Fusion: visual tokens -> language model. Configs, and the dict of kinds."""

from dataclasses import dataclass

from flamingo.utils.checks import below_one, flag, one_of, positive, whole
from flamingo.utils.errors import UserError
from flamingo.utils.kinds import Kinds

GATES = ("scalar", "vector", "none")
NORMS = ("layer", "rms")
ATTENDS = ("last", "previous")


@dataclass
class FusionConfig:
    """Base of the configs of :data:`FUSIONS`."""

    #: The kind of fusion.
    kind: str

    def __post_init__(self) -> None:
        one_of("kind", self.kind, FUSIONS)
        config_class, _ = FUSIONS[self.kind]
        if type(self) is not config_class:
            raise UserError(f"kind is {self.kind}, which has other keys than {type(self).__name__}")


@dataclass
class CrossAttentionConfig(FusionConfig):
    """GATED XATTN-DENSE blocks (Flamingo, section 2.2): before layer i where i % every == offset."""

    kind: str = "cross_attention"
    #: A gated block precedes each layer i of the language model where i % every == offset.
    every: int = 1
    #: The first layer of the language model that a gated block precedes, from 0.
    offset: int = 0
    #: Attention heads of a block.
    num_heads: int = 8
    #: The width of a head.
    head_dim: int = 64
    #: The width of the feed-forward as a multiple of its input's; 0: no feed-forward. The paper calls a block without
    #: it "vanilla".
    mlp_ratio: int = 4
    #: The width of the feed-forward; null: its input's times mlp_ratio.
    mlp_width: int | None = None
    #: The activation: relu2 is the squared ReLU of the paper. A name of ``transformers.activations.ACT2FN``.
    activation: str = "relu2"
    #: Whether the activation gates a second projection (GLU). With "silu" it is the SwiGLU of LLaMA and IDEFICS.
    glu: bool = False
    #: The norm before attention and feed-forward.
    norm: str = "layer"
    #: Added to the mean square in every RMSNorm; null: the dtype's machine epsilon.
    rms_norm_eps: float | None = None
    #: The tanh gate: scalar (one per sub-layer), vector (one per channel) or none.
    gate: str = "scalar"
    #: Whether RMSNorm normalises queries and keys per head (OBELICS, section 4).
    qk_norm: bool = False
    #: The images that a text token attends to: last or previous. The last one is that of its ``image_index``;
    #: previous adds all images before it.
    attend: str = "last"
    #: Dropout of the outputs of attention and feed-forward.
    dropout: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        whole("every", self.every, least=1)
        whole("offset", self.offset, least=0, most=self.every - 1)
        whole("num_heads", self.num_heads, least=1)
        whole("head_dim", self.head_dim, least=1)
        whole("mlp_ratio", self.mlp_ratio, least=0)
        if self.mlp_width is not None:
            whole("mlp_width", self.mlp_width, least=1)
        if self.rms_norm_eps is not None:
            positive("rms_norm_eps", self.rms_norm_eps)
        flag("glu", self.glu)
        flag("qk_norm", self.qk_norm)
        below_one("dropout", self.dropout)
        one_of("norm", self.norm, NORMS)
        one_of("gate", self.gate, GATES)
        one_of("attend", self.attend, ATTENDS)

    def layer_indices(self, layers: int) -> list[int]:
        """Returns the indices of the language model's layers that a gated block precedes.

        Raises:
            UserError: If there is none.
        """
        indices = list(range(self.offset, layers, self.every))
        if not indices:
            raise UserError(
                f"fusion.every={self.every} with fusion.offset={self.offset} chooses none of the language model's "
                f"{layers} layers"
            )
        return indices


@dataclass
class PrefixConfig(FusionConfig):
    """Visual tokens in the language model's input, in place of image markers (Frozen, LLaVA, BLIP-2)."""

    kind: str = "prefix"


#: ``kind -> (config dataclass, "module:Class")``.
FUSIONS: Kinds = {
    "cross_attention": (CrossAttentionConfig, "flamingo.model.fusion.cross_attention:CrossAttentionFusion"),
    "prefix": (PrefixConfig, "flamingo.model.fusion.prefix:PrefixFusion"),
}
