"""Part: a training step of OpenFlamingo's code, and of ours with heads of the same sizes."""

import statistics
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import CLIPVisionModel, OPTForCausalLM

from experiments.benchmark.flops import training_step
from experiments.benchmark.shapes import Shape
from experiments.benchmark.worker import Machine, train
from experiments.gpu_check.big_model import (
    FLAMINGO_3B,
    TINY,
    BatchSize,
    build_model,
    build_processor,
    make_training_batch,
)
from experiments.gpu_check.check_parts import JSON, Save, Settings, SkippedError
from experiments.gpu_check.check_report import table
from experiments.gpu_check.marks import forget_peak_memory, peak_memory
from experiments.gpu_check.measured_training import fitting_rows
from experiments.gpu_check.training_step import FULL, SMALL
from flamingo import FlamingoProcessor
from flamingo.training.optim import AdamWConfig
from flamingo.training.optim.groups import make_optimizer
from flamingo.utils.devices import use_device

#: A model -> the mean loss of a batch.
Loss = Callable[[dict[str, Tensor]], Tensor]
#: Returns a model with random weights, its optimizer, and its loss.
Build = Callable[[Shape, FlamingoProcessor, torch.device], tuple[nn.Module, Any, Loss]]


def measure(settings: Settings, save: Save) -> None:
    """Measures both in turn, with the same loop and the same batch.

    The sizes of the heads are those of OpenFlamingo's code for all models.

    Raises:
        SkippedError: If the package open_flamingo is not installed.
    """
    for package in ("open_flamingo", "einops_exts"):
        if find_spec(package) is None:
            raise SkippedError(f"the package {package} is not installed")
    shape = TINY if settings.small else FLAMINGO_3B
    shape = replace(shape, num_heads=8, head_dim=64, resampler_depth=6, num_latents=64)
    measured: dict[str, JSON] = {}
    for name, build in (("ours", _ours), ("OpenFlamingo", _open_flamingo)):
        measured[name] = _measure(build, shape, settings)
        save(measured, _text(measured))


def _measure(build: Build, shape: Shape, settings: Settings) -> JSON:
    """Returns the speed and the memory of an implementation in the largest batch that fits."""
    update = SMALL if settings.small else FULL
    device = use_device(settings.device)
    machine = Machine(torch.get_num_threads(), device.type, "bf16")
    processor = build_processor(shape)
    values: JSON = {}

    def run(rows: int, _: int) -> None:
        model, optimizer, loss = build(shape, processor, device)
        size = BatchSize(rows, update.size.tokens, update.size.images)
        batch = make_training_batch(shape, processor, size)
        tensors = {name: tensor.to(device) for name, tensor in batch.tensors.items()}
        tensors = processor.normalized(tensors)
        forget_peak_memory(device)
        seconds_of_steps = train(model, lambda: loss(tensors), optimizer, update.warm_up + update.timed, machine)
        seconds = statistics.median(seconds_of_steps[update.warm_up :])
        tflop = sum(training_step(shape, rows, size.tokens, size.images).values()) / 1e12
        values["rows"] = rows
        values["seconds"] = seconds
        values["tokens_per_second"] = rows * size.tokens / seconds
        values["tflops"] = tflop / seconds
        values["peak_memory_gb"] = peak_memory(device)

    fitting_rows(update.size.rows, run)
    return values


def _ours(shape: Shape, processor: FlamingoProcessor, device: torch.device) -> tuple[nn.Module, Any, Loss]:
    model = build_model(shape, processor, device, torch.bfloat16)
    model.train()
    return model, make_optimizer(model, AdamWConfig(lr=1e-6)), lambda tensors: model(**tensors).loss


def _open_flamingo(shape: Shape, processor: FlamingoProcessor, device: torch.device) -> tuple[nn.Module, Any, Loss]:
    """Returns OpenFlamingo on this transformers version, with the optimizer and loss of its script for amp_bf16.

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

    def loss(tensors: dict[str, Tensor]) -> Tensor:
        ids = tensors["input_ids"]  # without padding
        outputs = model(tensors["pixel_values"], ids, torch.ones_like(ids), tensors["labels"])
        return outputs[0]

    return model, optimizer, loss


def _text(measured: dict[str, JSON]) -> str:
    rows = []
    for name, values in measured.items():
        memory = values["peak_memory_gb"]
        rows.append(
            (
                name,
                values["rows"],
                f"{values['seconds']:.4f}",
                f"{values['tokens_per_second']:.0f}",
                f"{values['tflops']:.4g}",
                "-" if memory is None else f"{memory:.1f}",
            )
        )
    text = (
        "8 heads of 64 in blocks and resampler, bf16 autocast, the same batch without padding on the device, a plain "
        "loop of forward, backward, clipping and AdamW. Our frozen weights are in bf16. OpenFlamingo's are in fp32, as "
        "in its script with amp_bf16; that script does more in each step: labels made by loops in Python, and two "
        "passes for two data sets.\n\n"
    )
    text += table(("", "rows", "s", "text tokens/s", "TFLOP/s", "peak memory, GB"), rows)
    if len(measured) == 2:
        ours, theirs = measured["ours"], measured["OpenFlamingo"]
        text += f"\nOurs trains {ours['tokens_per_second'] / theirs['tokens_per_second']:.2f} times the tokens/s.\n"
    return text
