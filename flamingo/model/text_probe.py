"""Probe of a language model: random tokens check the properties that a composition needs."""

import logging
from contextlib import ExitStack
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import GenerationConfig, LogitsProcessor

from flamingo.model.layers import repeated_layers
from flamingo.model.vision import image_size, num_patches
from flamingo.utils.errors import UserError

log = logging.getLogger(__name__)

#: The number of tokens of the longest prompt.
_TOKENS = 16
#: The number of tokens that are appended to the cache.
_NEW_TOKENS = 2
_BEAMS = 2
#: The number of images per prompt, and the largest number of visual tokens of an image.
_IMAGES = 2
_VISUAL_TOKENS = 3
#: Subtracted from the log-probabilities of beams that must end.
_UNLIKELY = 1e4
#: The largest difference of two equal logits, as a share of the largest logit.
_FP32_TOLERANCE, _ROUNDED_TOLERANCE = 1e-4, 2e-2
#: In 16 bits or quantised, a larger difference between two batch shapes is only a warning up to this multiple of the
#: rounding noise. SmolLM2 in bfloat16 amplifies the noise to 0.24 of the largest logit.
_NOISE_MULTIPLE = 4.0
#: The relative size of a rounding to 8 bits.
_QUANTISED_UNIT = 2.0**-7


def check_language_model(model: Any, generator: torch.Generator) -> None:
    """Checks the properties that a composition needs of its language model.

    Args:
        model: A :class:`flamingo.FlamingoForConditionalGeneration` in evaluation mode. The caller restores the state
            that the forward passes change.
        generator: Draws token ids and features.

    Raises:
        UserError: If the language model lacks a property.
        OutOfMemoryError: If the device is out of memory.
    """
    probe = _Probe(model, generator)
    try:
        with model.fusion.opened():
            probe.logits_depend_on_earlier_tokens_alone()
        probe.without_images_the_logits_are_the_bare_ones()
        with model.fusion.opened():
            probe.cached_generation_equals_uncached(num_beams=1)
            probe.cached_generation_equals_uncached(num_beams=_BEAMS)
    except torch.OutOfMemoryError:
        raise
    except _ERRORS_OF_MODELS as error:
        if isinstance(error, UserError):
            raise
        log.info("the language model failed in the probe", exc_info=True)
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        if probe.needs_token_ids():
            raise UserError(f"{probe.name} runs from token ids, but not from their embeddings: {reason}") from error
        raise UserError(f"{probe.name} fails in a forward pass: {reason}") from error


#: The exceptions of transformers' models for inputs that they do not accept.
_ERRORS_OF_MODELS = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)


class _Probe:
    """Random prompts, and the properties that are checked with them."""

    def __init__(self, model: Any, generator: torch.Generator) -> None:
        language_model = model.language_model
        self.model, self.language_model = model, language_model
        self.name = type(language_model).__name__
        self.device = model.get_input_embeddings().weight.device
        self.text = _random_ids(model, generator, 2 * _TOKENS).view(2, _TOKENS).to(self.device)
        encoder = model.vision_model
        patches = num_patches(encoder, model.config.vision_features, *image_size(encoder.config))
        features = torch.randn(1, _IMAGES, 1, patches, model.config.vision_width, generator=generator)
        self.visual_tokens = model.resample(features.to(self.device))[:, :, :_VISUAL_TOKENS]
        self.ids = self._with_markers(self.text)
        self.tolerance, self.rounding_unit = _precision(language_model)
        self.rounds = self.tolerance != _FP32_TOLERANCE

    def needs_token_ids(self) -> bool:
        """Returns whether the bare language model runs from token ids, but not from their embeddings."""
        embeddings = self.model.get_input_embeddings()(self.text)
        return self._runs(input_ids=self.text) and not self._runs(inputs_embeds=embeddings)

    def _runs(self, **inputs: Tensor) -> bool:
        try:
            self.language_model(**inputs)
        except _ERRORS_OF_MODELS:
            return False
        return True

    def without_images_the_logits_are_the_bare_ones(self) -> None:
        ids = self.text[:1]
        mask = torch.ones_like(ids)
        bare = self.language_model(input_ids=ids, attention_mask=mask).logits
        with self.model.fusion.switched_off():
            logits = self._logits(ids, mask)
        is_own = torch.ones(bare.shape[-1], dtype=torch.bool, device=bare.device)
        new_ids = self.model.new_tokens.token_ids.to(bare.device)
        is_own[new_ids[new_ids < len(is_own)]] = False
        own_logits, own_bare = logits[..., : len(is_own)][..., is_own], bare[..., is_own]
        if not torch.equal(own_logits, own_bare):
            difference = _difference(own_logits, own_bare)
            raise UserError(
                f"{self.name} gives other logits from embeddings and positions than from token ids: without images "
                f"they differ by {difference:.1e} of the largest logit"
            )

    def logits_depend_on_earlier_tokens_alone(self) -> None:
        """Checks that a later token changes no earlier logit, and padding on the left changes no logit.

        Raises:
            UserError: If it does.
        """
        middle, padding = _TOKENS // 2, _TOKENS // 4
        changed = torch.cat([self.ids[:1, :middle], self.ids[1:, middle:]], dim=1)
        ragged, ragged_mask = self._ragged(_TOKENS)
        ids = torch.cat([ragged, changed])
        mask = torch.cat([ragged_mask, torch.ones_like(changed)])
        logits = self._logits(ids, mask)
        if logits.isnan().any() or logits.isposinf().any():
            raise UserError(f"{self.name} gives logits that are not finite")
        whole, padded, other = logits
        self._compare(
            other[:middle],
            whole[:middle],
            "its later tokens change the logits of earlier ones, so it is not a causal decoder",
            same_shape=True,
        )
        reason = "padding on the left of a prompt changes its logits"
        if "position_ids" not in self.model._language_model_arguments:
            reason = f"{reason}, and it takes no position_ids"
        self._compare(padded[padding:], whole[:-padding], reason)

    def cached_generation_equals_uncached(self, num_beams: int) -> None:
        ids, mask = self._ragged(_TOKENS - _NEW_TOKENS)
        length = ids.shape[1]
        config = GenerationConfig(
            do_sample=False,
            num_beams=num_beams,
            num_return_sequences=num_beams,
            max_new_tokens=_NEW_TOKENS + 1,  # the last token is not run
            pad_token_id=0,
            use_cache=True,
            return_dict_in_generate=True,
            output_logits=True,
        )
        move = _MoveToLastBeam(length + 1, num_beams)
        shipped = self.model.generation_config
        self.model.generation_config = GenerationConfig()  # generate takes unset values from the model's
        try:
            out = self.model.generate(
                input_ids=ids,
                attention_mask=mask,
                image_index=self._image_index(mask),
                visual_tokens=self.visual_tokens.expand(len(ids), -1, -1, -1),
                generation_config=config,
                logits_processor=[move],
            )
        finally:
            self.model.generation_config = shipped
        cached_steps = []
        for step in range(_NEW_TOKENS + 1):
            step_logits = out.logits[step]
            cached_steps.append(step_logits if num_beams == 1 else step_logits[out.beam_indices[:, step]])
        cached = torch.stack(cached_steps, dim=1)
        sequences = out.sequences[:, :-1]  # the last token predicts nothing
        rows = torch.arange(len(ids), device=ids.device).repeat_interleave(num_beams)
        uncached = self._logits(sequences, F.pad(mask[rows], (0, sequences.shape[1] - length), value=1))
        method = "beam search" if num_beams > 1 else "greedy decoding"
        self._compare(cached, uncached[:, length - 1 :], f"{method} with its cache gives other logits than without")

    def _logits(self, ids: Int[Tensor, "b t"], mask: Int[Tensor, "b t"]) -> Float[Tensor, "b t vocabulary"]:
        return self.model(
            ids,
            mask,
            self._image_index(mask),
            visual_tokens=self.visual_tokens.expand(len(ids), -1, -1, -1),
            use_cache=False,
        ).logits

    def _with_markers(self, ids: Int[Tensor, "b t"]) -> Int[Tensor, "b t"]:
        """Returns the texts with the positions that visual tokens need, if any, at the beginning of each image."""
        positions = self.model.fusion.tokens_per_image(self.visual_tokens.shape[2])
        ids = ids.clone()
        for image in range(_IMAGES):
            start = 1 + 3 * image
            if positions > 0:
                ids[:, start : start + positions] = self.model.config.image_token_id
        return ids

    def _image_index(self, mask: Int[Tensor, "b t"]) -> Int[Tensor, "b t"]:
        """Returns each token's image: none for the first token, image 0 for the next three, image 1 for all others."""
        positions = mask.cumsum(dim=-1) - 1
        return ((positions - 1).div(3, rounding_mode="floor")).clamp(-1, _IMAGES - 1)

    def _ragged(self, length: int) -> tuple[Int[Tensor, "2 t"], Int[Tensor, "2 t"]]:
        """Returns the first prompt, and its beginning after left padding, with their attention mask."""
        padding = _TOKENS // 4
        ids = self.ids[:1, :length]
        padded = torch.cat([self.ids[1:, :padding], ids[:, : length - padding]], dim=1)
        mask = torch.ones(2, length, dtype=torch.long, device=ids.device)
        mask[1, :padding] = 0
        return torch.cat([ids, padded]), mask

    def _compare(self, logits: Tensor, expected: Tensor, problem: str, same_shape: bool = False) -> None:
        """Checks that logits differ by at most the tolerance. A difference that rounding explains is logged.

        Args:
            logits: The computed logits.
            expected: The expected logits.
            problem: The meaning of a difference, for the message.
            same_shape: Whether both are rows of one batch, which are rounded alike.

        Raises:
            UserError: If rounding does not explain the difference.
        """
        difference = _difference(logits, expected)
        if difference <= self.tolerance:
            return
        sentence = f"{self.name}: {problem} (by {difference:.1e} of the largest logit, {self.tolerance:.0e} allowed)"
        if self.rounds and _has_router(self.language_model):
            log.warning("%s; its router may send rounded tokens to other experts", sentence)
            return
        noise = self._rounding_noise() if self.rounds and not same_shape else 0.0
        if difference > _NOISE_MULTIPLE * noise:
            raise UserError(sentence)
        # A user can neither fix this nor needs to know it.
        log.debug("%s; rounding alone changes its logits by %.1e in this precision", sentence, noise)

    def _rounding_noise(self) -> float:
        """Returns the change of the logits if layers' inputs are rounded otherwise, relative to the largest logit."""
        ids, mask = self._ragged(_TOKENS)
        generator = torch.Generator().manual_seed(0)

        def round_otherwise(layer: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
            hidden = args[0] if args else kwargs["hidden_states"]
            signs = torch.randint(0, 2, hidden.shape, generator=generator).to(hidden) * 2 - 1
            rounded = hidden * (1 + self.rounding_unit * signs)
            if args:
                return (rounded, *args[1:]), kwargs
            return args, kwargs | {"hidden_states": rounded}

        expected = self._logits(ids, mask)
        with ExitStack() as hooks:
            for layer in repeated_layers(self.language_model):
                hooks.enter_context(layer.register_forward_pre_hook(round_otherwise, with_kwargs=True))
            return _difference(self._logits(ids, mask), expected)


class _MoveToLastBeam(LogitsProcessor):
    """Makes all beams continue from the last one at one step, so that the cache is reordered."""

    def __init__(self, length: int, num_beams: int) -> None:
        self.length, self.num_beams = length, num_beams

    def __call__(self, input_ids: Int[Tensor, "bn t"], scores: Float[Tensor, "bn vocabulary"]) -> Tensor:
        if input_ids.shape[1] != self.length or self.num_beams == 1:
            return scores
        beam = torch.arange(len(scores), device=scores.device) % self.num_beams
        return torch.where((beam == self.num_beams - 1).unsqueeze(-1), scores, scores - _UNLIKELY)


def _difference(logits: Tensor, expected: Tensor) -> float:
    """Returns the largest difference relative to the largest logit; infinite if only one of the two is finite."""
    finite = expected.isfinite()  # ids between the vocabulary and the new tokens have -inf
    if not torch.equal(finite, logits.isfinite()):
        return float("inf")
    logits, expected = logits[finite].double(), expected[finite].double()
    return float((logits - expected).abs().max() / expected.abs().max().clamp(min=1e-30))


def _precision(language_model: Any) -> tuple[float, float]:
    """Returns the tolerance in the precision of this model, and the relative size of a rounding in it."""
    if getattr(language_model, "hf_quantizer", None) is not None:
        return _ROUNDED_TOLERANCE, _QUANTISED_UNIT
    tolerance = _FP32_TOLERANCE if language_model.dtype in (torch.float32, torch.float64) else _ROUNDED_TOLERANCE
    return tolerance, torch.finfo(language_model.dtype).eps


def _has_router(language_model: nn.Module) -> bool:
    settings = vars(language_model.config).items()
    return any("experts" in key and isinstance(value, int) and value > 1 for key, value in settings)


def _random_ids(model: Any, generator: torch.Generator, count: int) -> Int[Tensor, " count"]:
    """Returns ids of the bare vocabulary without new and special tokens, which a model may treat differently."""
    config = model.language_model.config
    special = set(model.new_tokens.token_ids.tolist())
    for key, value in vars(config).items():
        if not key.endswith("_token_id") or value is None:
            continue
        if isinstance(value, int):
            special.add(value)
        else:
            special.update(value)
    vocabulary = min(model.get_input_embeddings().weight.shape[0], config.vocab_size)
    ordinary = torch.tensor([id_ for id_ in range(vocabulary) if id_ not in special])
    return ordinary[torch.randint(len(ordinary), (count,), generator=generator)]
