"""OpenFlamingo 2.0.1 on transformers 4.33.3 as a worker of the benchmark, in the peers' environment.

CLIP of transformers replaces open_clip, with the same weights. It returns the features that OpenFlamingo was trained
with, in the same number of operations. open_clip returns other features since version 2.23.
"""

import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModel, OPTConfig, OPTForCausalLM, StoppingCriteriaList

from experiments.benchmark.worker import Clock, Machine, run, train

sys.modules["open_clip"] = ModuleType("open_clip")  # open_flamingo imports these, and nothing here uses them
from open_flamingo.src.factory import _infer_decoder_layers_attr_name
from open_flamingo.src.flamingo import Flamingo
from open_flamingo.src.flamingo_lm import FlamingoLMMixin
from open_flamingo.src.utils import extend_instance


class PatchTokens(nn.Module):
    """CLIP's patch tokens before the final norm, without the class token."""

    def __init__(self, clip: nn.Module) -> None:
        super().__init__()
        self.clip = clip

    def forward(self, pixels: Tensor) -> tuple[None, Tensor]:
        """Returns None and the patch tokens [images patches width], as open_clip does."""
        return None, self.clip(pixels).last_hidden_state[:, 1:]


def _config(folder: Path, kind: type) -> Any:
    saved = json.loads((folder / "config.json").read_text())
    for newer in ("dtype", "transformers_version", "model_type", "architectures"):
        saved.pop(newer, None)
    return kind(**saved)


def _load(model: nn.Module, folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    result = model.load_state_dict(weights, strict=False)
    assert not result.unexpected_keys, result


class OpenFlamingo:
    """OpenFlamingo with the weights that :mod:`experiments.benchmark.materials` exports."""

    def __init__(self, folder: Path, machine: Machine) -> None:
        self.machine = machine
        language = OPTForCausalLM(_config(folder / "language", OPTConfig))
        _load(language, folder / "language")
        vision = CLIPVisionModel(_config(folder / "vision", CLIPVisionConfig))
        _load_vision(vision, folder / "vision")
        trained = torch.load(folder / "openflamingo.pt")
        gated_layers = [_layer_of(key) for key in trained if key.endswith("attn_gate")]
        every = min(gated_layers) + 1
        rows = len(trained["lang_encoder.model.decoder.embed_tokens.weight"])
        extend_instance(language, FlamingoLMMixin)
        language.set_decoder_layers_attr_name(_infer_decoder_layers_attr_name(language))
        language.resize_token_embeddings(rows)
        self.model = Flamingo(
            SimpleNamespace(visual=PatchTokens(vision)),
            language,
            rows - 2,
            rows - 1,
            vis_dim=vision.config.hidden_size,
            cross_attn_every_n_layers=every,
        )
        result = self.model.load_state_dict(trained, strict=False)
        assert not result.unexpected_keys, result
        self.model.requires_grad_(False)
        self.model.perceiver.requires_grad_(True)
        language.gated_cross_attn_layers.requires_grad_(True)
        language.get_input_embeddings().requires_grad_(True)
        self.model.eval().to(machine.device)
        self.optimizer: Any = None

    def _generate(self, inputs: dict[str, Tensor], **settings: Any) -> Tensor:
        self.model.to(self.machine.dtype)
        self.model.eval()
        pixels = inputs["pixel_values"].to(self.machine.dtype)
        if pixels.ndim == 5:  # no axis of frames
            pixels = pixels.unsqueeze(2)
        with torch.no_grad():
            return self.model.generate(
                pixels,
                inputs["input_ids"],
                inputs["attention_mask"],
                do_sample=False,
                pad_token_id=1,
                **settings,
            )

    def few_shot(self, path: str, beams: int, new: int) -> list[int]:
        """Returns the token ids that follow a prompt."""
        inputs = self.machine.load(path)
        ids = self._generate(inputs, num_beams=beams, max_new_tokens=new, length_penalty=0.0)
        prompt_length = inputs["input_ids"].shape[1]
        return ids[0, prompt_length:].tolist()

    def decode(self, path: str, tokens: int) -> float:
        """Returns seconds per token of greedy decoding after the first prompt of a batch."""
        batch = self.machine.load(path)
        inputs = {name: tensor[:1] for name, tensor in batch.items()}
        clock = Clock(one_answer=True)
        self._generate(
            inputs,
            max_new_tokens=tokens,
            eos_token_id=-1,
            stopping_criteria=StoppingCriteriaList([clock]),
        )
        return clock.seconds_per_token()

    def train_step(self, path: str, steps: int) -> list[float]:
        """Returns the seconds of each step."""
        inputs = self.machine.load(path)
        self.model.train()
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        if self.optimizer is None:
            self.optimizer = torch.optim.AdamW(trained, lr=1e-6, weight_decay=0.1)

        def loss() -> Tensor:
            outputs = self.model(
                inputs["pixel_values"].unsqueeze(2),
                inputs["input_ids"],
                inputs["attention_mask"],
                inputs["labels"],
            )
            return outputs[0]

        return train(self.model, loss, self.optimizer, steps, self.machine)


def _layer_of(key: str) -> int:
    """Returns the number of the decoder layer before which a gated layer stands."""
    prefix = key.split(".gated_cross_attn_layer")[0]
    return int(prefix.rpartition(".")[2])


def _load_vision(model: nn.Module, folder: Path) -> None:
    """Loads weights of newer transformers, whose keys have no prefix for the only part."""
    weights = load_file(folder / "model.safetensors")
    if not next(iter(weights)).startswith("vision_model."):
        weights = {f"vision_model.{key}": tensor for key, tensor in weights.items()}
    result = model.load_state_dict(weights, strict=False)
    missing = [key for key in result.missing_keys if not key.endswith("position_ids")]
    assert not result.unexpected_keys and not missing, result


if __name__ == "__main__":
    run(OpenFlamingo, "few_shot", "decode", "train_step")
