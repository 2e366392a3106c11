"""Connectors: patch features -> visual tokens. Configs, and the dict of kinds."""

from dataclasses import dataclass

from flamingo.utils.checks import below_one, flag, one_of, whole
from flamingo.utils.errors import UserError
from flamingo.utils.kinds import Kinds

QK_NORMS = ("rms", "layer")


@dataclass
class ConnectorConfig:
    """Base of the configs of :data:`CONNECTORS`."""

    #: The kind of connector.
    kind: str

    def __post_init__(self) -> None:
        one_of("kind", self.kind, CONNECTORS)
        config_class, _ = CONNECTORS[self.kind]
        if type(self) is not config_class:
            raise UserError(f"kind is {self.kind}, which has other keys than {type(self).__name__}")


@dataclass
class PerceiverConfig(ConnectorConfig):
    """Perceiver Resampler (Flamingo, section 2.1 and appendix A.1.1): a fixed number of visual tokens per image."""

    kind: str = "perceiver"
    #: Layers.
    depth: int = 6
    #: Visual tokens of an image.
    num_latents: int = 64
    #: Attention heads of a layer.
    num_heads: int = 8
    #: The width of a head.
    head_dim: int = 64
    #: The width of the feed-forward as a multiple of its input's.
    mlp_ratio: int = 4
    #: The activation: relu2 is the squared ReLU of the paper. A name in ``transformers.activations.ACT2FN``.
    activation: str = "relu2"
    #: The number of learned embeddings of video frames; 0: none, and images have one frame.
    num_frames: int = 0
    #: Whether queries and keys are normalised per head (OBELICS, section 4).
    qk_norm: bool = False
    #: The norm of queries and keys; IDEFICS has layer.
    qk_norm_kind: str = "rms"
    #: Dropout of the features and of the outputs of attention and feed-forward. The papers have none.
    dropout: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        whole("depth", self.depth, least=1)
        whole("num_latents", self.num_latents, least=1)
        whole("num_heads", self.num_heads, least=1)
        whole("head_dim", self.head_dim, least=1)
        whole("mlp_ratio", self.mlp_ratio, least=1)
        whole("num_frames", self.num_frames, least=0)
        flag("qk_norm", self.qk_norm)
        one_of("qk_norm_kind", self.qk_norm_kind, QK_NORMS)
        below_one("dropout", self.dropout)


@dataclass
class TransformerConfig(ConnectorConfig):
    """Self-attention over the patches of an image: one visual token per patch."""

    kind: str = "transformer"
    #: Layers.
    depth: int = 6
    #: Attention heads of a layer.
    num_heads: int = 8
    #: The width of a head.
    head_dim: int = 64
    #: The width of the feed-forward as a multiple of its input's.
    mlp_ratio: int = 4
    #: The activation: relu2 is the squared ReLU of the paper.
    activation: str = "relu2"
    #: Whether queries and keys are normalised per head.
    qk_norm: bool = False
    #: The norm of queries and keys.
    qk_norm_kind: str = "rms"
    #: Dropout of the features and of the outputs of attention and feed-forward.
    dropout: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        whole("depth", self.depth, least=1)
        whole("num_heads", self.num_heads, least=1)
        whole("head_dim", self.head_dim, least=1)
        whole("mlp_ratio", self.mlp_ratio, least=1)
        flag("qk_norm", self.qk_norm)
        one_of("qk_norm_kind", self.qk_norm_kind, QK_NORMS)
        below_one("dropout", self.dropout)


@dataclass
class MLPConfig(ConnectorConfig):
    """Residual feed-forwards on each patch: one visual token per patch."""

    kind: str = "mlp"
    #: Layers.
    depth: int = 6
    #: The width of the feed-forward as a multiple of its input's.
    mlp_ratio: int = 4
    #: The activation: relu2 is the squared ReLU of the paper.
    activation: str = "relu2"
    #: Dropout of the features and of the outputs of the feed-forward.
    dropout: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        whole("depth", self.depth, least=1)
        whole("mlp_ratio", self.mlp_ratio, least=1)
        below_one("dropout", self.dropout)


@dataclass
class IdentityConfig(ConnectorConfig):
    """A norm and no layers: the patches are the visual tokens."""

    kind: str = "identity"


@dataclass
class LinearConfig(ConnectorConfig):
    """A linear map of each patch to the width of the language model (Frozen, LLaVA): one visual token per patch."""

    kind: str = "linear"


@dataclass
class MLPProjectorConfig(ConnectorConfig):
    """Linear map, GELU, linear map of each patch (LLaVA-1.5, section 3.2), to the width of the language model."""

    kind: str = "mlp_projector"
    #: The side of the squares over which patches are averaged first; 1: no average.
    pool: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        whole("pool", self.pool, least=1)


@dataclass
class QFormerConfig(ConnectorConfig):
    """Q-Former (BLIP-2, section 3.1): learned queries attend to one another and, in some layers, to the patches."""

    kind: str = "qformer"
    #: Layers.
    depth: int = 12
    #: Visual tokens of an image.
    num_query_tokens: int = 32
    #: The width of the layers and of the visual tokens.
    width: int = 768
    #: Attention heads of a layer.
    num_heads: int = 12
    #: The width of the feed-forward as a multiple of its input's.
    mlp_ratio: int = 4
    #: The activation.
    activation: str = "gelu"
    #: The first layer of each group of this many layers attends to the patches.
    cross_attention_every: int = 2
    #: Dropout of the queries and of the outputs of attention and feed-forward.
    dropout: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        for key in ("depth", "num_query_tokens", "width", "num_heads", "mlp_ratio", "cross_attention_every"):
            whole(key, getattr(self, key), least=1)
        if self.width % self.num_heads != 0:
            raise UserError(f"width must be a multiple of num_heads, {self.num_heads}, got {self.width}")
        below_one("dropout", self.dropout)


#: ``kind -> (config dataclass, "module:Class")``.
CONNECTORS: Kinds = {
    "perceiver": (PerceiverConfig, "flamingo.model.connectors.perceiver:PerceiverResampler"),
    "transformer": (TransformerConfig, "flamingo.model.connectors.transformer:TransformerConnector"),
    "mlp": (MLPConfig, "flamingo.model.connectors.mlp:MLPConnector"),
    "identity": (IdentityConfig, "flamingo.model.connectors.identity:IdentityConnector"),
    "linear": (LinearConfig, "flamingo.model.connectors.linear:LinearConnector"),
    "mlp_projector": (MLPProjectorConfig, "flamingo.model.connectors.mlp_projector:MLPProjector"),
    "qformer": (QFormerConfig, "flamingo.model.connectors.qformer:QFormer"),
}
