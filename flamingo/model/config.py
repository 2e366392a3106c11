"""What a Flamingo is made of: two frozen backbones, and the parts that are trained between them."""

from copy import copy, deepcopy
from dataclasses import asdict, dataclass, field, fields
from typing import Any, ClassVar, Literal, get_args

from transformers import AutoConfig, PreTrainedConfig
from transformers.activations import ACT2FN

from flamingo.utils.checks import below_one, flag, one_of, positive, whole, within
from flamingo.utils.errors import UserError

ClassToken = Literal["drop", "keep", "none"]
Gate = Literal["scalar", "vector", "none"]
Attend = Literal["last", "previous"]
Norm = Literal["layer", "rms"]
Resampling = Literal["perceiver", "transformer", "mlp", "none"]


@dataclass
class VisionFeaturesConfig:
    """Which of the frozen encoder's features the resampler reads. Nothing here is inferred from the encoder.

    The defaults are those of Flamingo checkpoints on CLIP: patch tokens of the last block, before
    the encoder's final norm, without the class token.
    """

    #: 0 is the input of the first block, i the output of block i, -1 the last block's output. For encoders without
    #: one list of blocks (convolutional) -1 is ``last_hidden_state``, or a backbone's last feature map, and i counts
    #: the ``hidden_states``.
    hidden_state: int = -1
    #: Whether tokens that are no patches (class token, registers) are dropped or kept; "none"
    #: states that the encoder has no such tokens (SigLIP, convolutional encoders).
    class_token: ClassToken = "drop"
    #: Whether the encoder's final norm is applied to the chosen hidden state.
    final_norm: bool = False
    #: How many of the tokens that are no patches follow the patches (100 in YOLOS); the others precede them.
    trailing_tokens: int = 0

    def __post_init__(self) -> None:
        if type(self.hidden_state) is not int:
            raise UserError(f"hidden_state must be a whole number, got {self.hidden_state!r}")
        one_of("class_token", self.class_token, get_args(ClassToken))
        flag("final_norm", self.final_norm)
        whole("trailing_tokens", self.trailing_tokens, least=0)
        if self.class_token == "none" and self.trailing_tokens:
            raise UserError(f"trailing_tokens is {self.trailing_tokens}, so class_token must be drop or keep, not none")


@dataclass
class ResamplerConfig:
    """Perceiver Resampler (Flamingo, section 2.1 and appendix A.1.1), or what its ablations put in its place."""

    depth: int = 6
    latents: int = 64
    heads: int = 8
    head_width: int = 64
    feedforward_multiple: int = 4
    #: A name of ``transformers.activations.ACT2FN``; "relu2" is the squared ReLU of the paper.
    activation: str = "relu2"
    #: Learned frame embeddings (frames seen in training); 0 for none, which limits inputs to one frame.
    frames: int = 0
    #: A norm on queries and keys, per head (OBELICS, section 4), and which: that of IDEFICS is "layer".
    qk_norm: bool = False
    qk_norm_kind: Norm = "rms"
    #: In training, of the features and of what attention and feed-forward add: for small data, where captions of
    #: images seen before are soon known by heart. The papers have none.
    dropout: float = 0.0
    #: All but the Perceiver keep a visual token for every patch: layers of a transformer over the patches of an image,
    #: of a feed-forward on each, or no layer at all.
    kind: Resampling = "perceiver"

    def __post_init__(self) -> None:
        for name in ("depth", "latents", "heads", "head_width", "feedforward_multiple"):
            whole(name, getattr(self, name), least=1)
        whole("frames", self.frames, least=0)
        flag("qk_norm", self.qk_norm)
        below_one("dropout", self.dropout)
        one_of("kind", self.kind, get_args(Resampling))
        if self.kind != "perceiver" and self.frames:
            raise UserError(f"frames is {self.frames}, but a resampler of kind {self.kind} has no frame embeddings")
        one_of("activation", self.activation, ACT2FN)
        one_of("qk_norm_kind", self.qk_norm_kind, get_args(Norm))


@dataclass
class GatedConfig:
    """GATED XATTN-DENSE blocks (Flamingo, section 2.2): before layer i where i % every == offset."""

    every: int = 1
    offset: int = 0
    heads: int = 8
    head_width: int = 64
    #: 0: cross-attention alone ("vanilla" in the paper's ablations).
    feedforward_multiple: int = 4
    #: Width of the feed-forward where it is no multiple of the language model's; null: the multiple.
    feedforward_width: int | None = None
    activation: str = "relu2"
    #: Whether the activation gates a second projection (GLU; with "silu" it is the SwiGLU of LLaMA and IDEFICS).
    glu: bool = False
    #: The norm before attention and feed-forward.
    norm: Norm = "layer"
    #: Added to the mean square in every RMSNorm; null: the precision of the numbers.
    rms_eps: float | None = None
    #: tanh gate: one number per block and sub-layer, one per channel, or none.
    gate: Gate = "scalar"
    #: RMSNorm on queries and keys, per head (OBELICS, section 4).
    qk_norm: bool = False
    #: A text token attends to the image its ``image_index`` names, or to that one and all before it.
    attend: Attend = "last"
    #: In training, of what attention and feed-forward add.
    dropout: float = 0.0

    def __post_init__(self) -> None:
        for name in ("every", "heads", "head_width"):
            whole(name, getattr(self, name), least=1)
        whole("offset", self.offset, least=0, most=self.every - 1)
        whole("feedforward_multiple", self.feedforward_multiple, least=0)
        if self.feedforward_width is not None:
            whole("feedforward_width", self.feedforward_width, least=1)
        if self.rms_eps is not None:
            positive("rms_eps", self.rms_eps)
        for name in ("glu", "qk_norm"):
            flag(name, getattr(self, name))
        below_one("dropout", self.dropout)
        one_of("activation", self.activation, ACT2FN)
        one_of("norm", self.norm, get_args(Norm))
        one_of("gate", self.gate, get_args(Gate))
        one_of("attend", self.attend, get_args(Attend))


_PARTS = {"vision_features": VisionFeaturesConfig, "resampler": ResamplerConfig, "gated": GatedConfig}


class FlamingoConfig(PreTrainedConfig):
    """Configuration of :class:`flamingo.FlamingoForConditionalGeneration`.

    Every part may be given as a dictionary of its fields. Raises UserError, naming the key, for
    unknown keys and values out of range.
    """

    model_type = "flamingo"
    # 5.17 calls the same thing `sub_configs`; newer versions derive that from these defaults.
    sub_configs: ClassVar[dict[str, Any]] = {"vision_config": AutoConfig, "text_config": AutoConfig}

    # Typed loosely because a dictionary, as in a saved config.json, becomes the object named at its right.
    vision_config: Any = None  # PreTrainedConfig
    text_config: Any = None  # PreTrainedConfig
    vision_features: Any = None  # VisionFeaturesConfig
    resampler: Any = None  # ResamplerConfig
    gated: Any = None  # GatedConfig
    #: Ids whose embedding rows are trained: the image marker and the end of chunk. They may lie
    #: beyond the language model's vocabulary or within its padding rows.
    new_token_ids: list[int] = field(default_factory=list)
    #: Width v of the chosen vision features; measured when the backbones are put together.
    vision_width: int | None = None
    #: Where frozen backbones that a checkpoint leaves out come from, or None where it holds them.
    backbones: dict | None = None
    backbones_included: bool = True
    #: What the composition was checked with (:func:`flamingo.model.composition.check_record`), or None.
    passed_check: dict | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        for key in ("vision_config", "text_config"):
            value = getattr(self, key)
            if isinstance(value, dict):
                if "model_type" not in value:
                    raise UserError(f"{key} has no model_type, which says whose configuration it is")
                value = AutoConfig.for_model(**value)
            # A copy: transformers resets the attention implementation of what it is given here, and a
            # live model whose configuration that is would lose its causal mask.
            setattr(self, key, deepcopy(value))
        for key, part in _PARTS.items():
            setattr(self, key, _as_part(key, part, getattr(self, key)))
        if not isinstance(self.new_token_ids, list | tuple) or not all(type(i) is int for i in self.new_token_ids):
            raise UserError(f"new_token_ids must be a list of whole numbers, got {self.new_token_ids!r}")
        self.new_token_ids = list(self.new_token_ids)
        if len(set(self.new_token_ids)) != len(self.new_token_ids) or min(self.new_token_ids, default=0) < 0:
            raise UserError(f"new_token_ids must be distinct and not negative, got {self.new_token_ids}")
        super().__post_init__(**kwargs)

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        model_type = config_dict.get("model_type", cls.model_type)
        if model_type != cls.model_type:
            raise UserError(f"this is the configuration of a {model_type}, not of a {cls.model_type}")
        return super().from_dict(config_dict, **kwargs)

    def to_dict(self) -> dict[str, Any]:
        parts = {key: asdict(getattr(self, key)) for key in _PARTS}
        return super().to_dict() | parts

    @classmethod
    def check_keys(cls, keys: Any) -> None:
        """Raise UserError for a key that is no field, which transformers' own constructor would keep silently."""
        known = [f.name for f in fields(cls) if f.name in FlamingoConfig.__annotations__]
        for key in keys:
            one_of("a key of FlamingoConfig", key, known)

    @property
    def vocab_size(self) -> int:
        """The language model's vocabulary, and the new tokens where they lie beyond it."""
        return max(self.text_config.vocab_size, *(i + 1 for i in self.new_token_ids), 0)

    def get_text_config(self, decoder: bool | None = None, encoder: bool | None = None) -> PreTrainedConfig:
        """The language model's configuration with the vocabulary that is generated from."""
        if self.text_config is None:
            return self
        text_config = copy(self.text_config)
        text_config.vocab_size = self.vocab_size
        return text_config

    @property
    def gated_layer_indices(self) -> list[int]:
        """Indices of the language model's layers that a gated block precedes."""
        layers = self.text_config.num_hidden_layers
        indices = [i for i in range(layers) if i % self.gated.every == self.gated.offset]
        if not indices:
            raise UserError(
                f"gated.every={self.gated.every} with gated.offset={self.gated.offset} chooses none of the "
                f"language model's {layers} layers"
            )
        return indices


def _as_part(key: str, part: type, value: Any) -> Any:
    if isinstance(value, part):
        return value
    value = value or {}
    for name in value:
        one_of(f"a key of {key}", name, [f.name for f in fields(part)])
    with within(key):
        return part(**value)
