"""Part: a training step of OpenFlamingo's code and of ours, on pages and pairs of real lengths."""

import statistics
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import CLIPVisionModel, OPTForCausalLM

from experiments.benchmark.shapes import Shape
from experiments.gpu_check.big_model import FLAMINGO_3B, TINY, build_model, build_processor
from experiments.gpu_check.check_parts import JSON, Save, Settings, SkippedError
from experiments.gpu_check.check_report import goal, table
from experiments.gpu_check.marks import forget_peak_memory, peak_memory, synchronize
from experiments.gpu_check.measured_training import fitting_rows
from experiments.gpu_check.real_lengths import Documents, MixedUpdate, make_documents, on_device, packed, padded
from flamingo import FlamingoProcessor
from flamingo.model.compilation import compile_layers
from flamingo.model.packed_attention import prepared_masks
from flamingo.training.optim import AdamWConfig
from flamingo.training.optim.groups import make_optimizer
from flamingo.utils.devices import use_device

#: Returns the loss of a batch.
Loss = Callable[[], Tensor]

#: Twice as many pairs as pages, as in OpenFlamingo's command. The first steps do not count.
FULL, SMALL = MixedUpdate(pages=32, pairs=64), MixedUpdate(pages=2, pairs=4)
_WARM_UP, _TIMED = 3, 6
#: Our tokens a second as a multiple of OpenFlamingo's.
_GOAL = 2.0


@dataclass(frozen=True)
class Trained:
    """A model in training, its optimizer, the losses of the two batches of an update, and a context of all steps."""

    model: nn.Module
    optimizer: Any
    losses: Sequence[Loss]
    context: AbstractContextManager[None]


#: Returns an implementation with random weights.
Build = Callable[[Shape, FlamingoProcessor, torch.device, Documents], Trained]


def measure(settings: Settings, save: Save) -> None:
    """Measures all in turn, with the same loop and the same documents.

    The sizes of the heads are those of OpenFlamingo's code for all models.

    Raises:
        SkippedError: If the package open_flamingo is not installed.
    """
    for package in ("open_flamingo", "einops_exts"):
        if find_spec(package) is None:
            raise SkippedError(f"the package {package} is not installed: see docs/gpu.md")
    shape = TINY if settings.small else FLAMINGO_3B
    shape = replace(shape, num_heads=8, head_dim=64, resampler_depth=6, num_latents=64)
    measured: dict[str, JSON] = {}
    builds: dict[str, Build] = {"ours": partial(_ours, compiled=False), "OpenFlamingo": _open_flamingo}
    if not settings.small:
        builds["ours, compiled"] = partial(_ours, compiled=True)
    for name, build in builds.items():
        measured[name] = _measure(build, shape, settings)
        save(measured, _text(measured))


def _measure(build: Build, shape: Shape, settings: Settings) -> JSON:
    """Returns the speed and the memory of an implementation in the largest update that fits."""
    update = SMALL if settings.small else FULL
    device = use_device(settings.device)
    processor = build_processor(shape)
    values: JSON = {}

    def run(pages: int, parts: int) -> None:
        documents = make_documents(replace(update, pages=pages, pairs=update.pairs // parts), shape, processor)
        trained = build(shape, processor, device, documents)
        forget_peak_memory(device)
        with trained.context:
            seconds_of_steps = [_step(trained, device) for _ in range(_WARM_UP + _TIMED)]
        seconds = statistics.median(seconds_of_steps[_WARM_UP:])
        values["pages"], values["pairs"] = len(documents.pages), len(documents.pairs)
        values["seconds"] = seconds
        values["tokens_per_second"] = documents.tokens / seconds
        values["images_per_second"] = documents.images / seconds
        values["peak_memory_gb"] = peak_memory(device)

    fitting_rows(update.pages, run)
    return values


def _step(trained: Trained, device: torch.device) -> float:
    """Returns the seconds of a step: both batches, clipping, AdamW."""
    synchronize(device)
    begin = time.perf_counter()
    for loss in trained.losses:
        with torch.autocast(device.type, torch.bfloat16):
            value = loss()
        value.backward()
    parameters = [parameter for parameter in trained.model.parameters() if parameter.grad is not None]
    nn.utils.clip_grad_norm_(parameters, 1.0)
    trained.optimizer.step()
    trained.optimizer.zero_grad()
    synchronize(device)
    return time.perf_counter() - begin


def _ours(
    shape: Shape, processor: FlamingoProcessor, device: torch.device, documents: Documents, compiled: bool
) -> Trained:
    model = build_model(shape, processor, device, torch.bfloat16)
    model.train()
    if compiled:
        compile_layers(model)
    batches = [batch.tensors for batch in packed(documents, shape, processor)]
    losses = []
    for tensors in on_device(batches, device, processor.normalized):
        losses.append(partial(_our_loss, model, tensors))
    kernel = "varlen" if device.type == "cuda" else "dense"
    return Trained(model, make_optimizer(model, AdamWConfig(lr=1e-6)), losses, prepared_masks(model, kernel))


def _our_loss(model: Any, tensors: dict[str, Tensor]) -> Tensor:
    return model(**tensors).loss


def _open_flamingo(shape: Shape, processor: FlamingoProcessor, device: torch.device, documents: Documents) -> Trained:
    """Returns OpenFlamingo on this transformers version, with the optimizer and losses of its script for amp_bf16.

    CLIP comes from transformers. A stand-in replaces open_clip.
    """
    sys.modules.setdefault("open_clip", ModuleType("open_clip"))
    from open_flamingo.src.flamingo import Flamingo
    from open_flamingo.src.flamingo_lm import FlamingoLMMixin
    from open_flamingo.src.utils import extend_instance

    from experiments.benchmark.open_flamingo_worker import PatchTokens

    with torch.device(device):
        vision = CLIPVisionModel._from_config(shape.vision_config())
        language = OPTForCausalLM._from_config(shape.language_config())
        extend_instance(language, FlamingoLMMixin)
        language.set_decoder_layers_attr_name("model.decoder.layers")
        end, image = processor.new_token_ids
        model = Flamingo(
            SimpleNamespace(visual=PatchTokens(vision)),
            language,
            end,
            image,
            vis_dim=shape.vision_width,
            cross_attn_every_n_layers=shape.every,
        )
    model.requires_grad_(False)
    model.perceiver.requires_grad_(True)
    language.gated_cross_attn_layers.requires_grad_(True)
    language.get_input_embeddings().requires_grad_(True)
    model.train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-6, weight_decay=0.1)

    losses = []
    for tensors in on_device(padded(documents, processor.tokenizer.pad_token_id), device, processor.normalized):
        losses.append(partial(_their_loss, model, tensors))
    return Trained(model, optimizer, losses, nullcontext())


def _their_loss(model: Any, tensors: dict[str, Tensor]) -> Tensor:
    outputs = model(tensors["pixel_values"], tensors["input_ids"], tensors["attention_mask"], tensors["labels"])
    return outputs[0]


def _text(measured: dict[str, JSON]) -> str:
    rows = []
    for name, values in measured.items():
        memory = values["peak_memory_gb"]
        rows.append(
            (
                name,
                f"{values['pages']} + {values['pairs']}",
                f"{values['seconds']:.4f}",
                f"{values['tokens_per_second']:.0f}",
                f"{values['images_per_second']:.1f}",
                "-" if memory is None else f"{memory:.1f}",
            )
        )
    text = (
        "8 heads of 64 in blocks and resampler, bf16 autocast, batches on the device, a plain loop of two forward and "
        "backward passes, clipping and AdamW. Lengths are those of experiments/gpu_check/real_lengths.py. "
        "OpenFlamingo pads pages to 256 tokens and 6 images and pairs to 32 tokens, as its loaders do; its frozen "
        "weights are in fp32, as in its script with amp_bf16, and the labels that its script makes by loops in Python "
        "are not timed. Ours packs rows of 256 tokens; its frozen weights are in bf16. Tokens and images count "
        "without padding.\n\n"
    )
    text += table(("", "pages + pairs", "s", "tokens/s", "images/s", "peak memory, GB"), rows)
    theirs = measured.get("OpenFlamingo")
    if theirs is not None:
        for name, values in measured.items():
            if values is not theirs:
                ratio = values["tokens_per_second"] / theirs["tokens_per_second"]
                text += goal(f"{name}: tokens/s as a multiple of OpenFlamingo's", ratio, _GOAL)
    return text
