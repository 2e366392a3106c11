"""Measures what must not get slower: time per decoded token against the number of images in the prompt.

python -m experiments.benchmark          about two minutes on 2 cores
"""

import argparse
import statistics
import time
from itertools import pairwise

import torch
from transformers import CLIPVisionConfig, GPT2Config, StoppingCriteriaList

from flamingo import FlamingoConfig, FlamingoForConditionalGeneration


def decode(model: FlamingoForConditionalGeneration, images: int, text: int, tokens: int) -> float:
    """Median milliseconds per decoded token after a prompt of ``images`` images and ``text`` tokens."""
    moments: list[float] = []

    def record(input_ids: torch.Tensor, scores: torch.Tensor, **kwargs: object) -> torch.Tensor:
        """A stopping criterion that never stops, but notes when each token came."""
        moments.append(time.perf_counter())
        return torch.zeros(len(input_ids), dtype=torch.bool)

    model.generate(
        torch.randint(50_000, (1, text)),
        image_index=torch.arange(text).unsqueeze(0) * images // text,
        visual_tokens=torch.randn(1, images, *model.resampler.latents.shape),
        stopping_criteria=StoppingCriteriaList([record]),
        max_new_tokens=tokens + 1,
        do_sample=False,
        pad_token_id=0,
        eos_token_id=None,
    )
    return 1000 * statistics.median(after - before for before, after in pairwise(moments))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=[1, 8, 32], help="numbers of images in the prompt")
    parser.add_argument("--text", type=int, default=512, help="tokens in the prompt, the same for all")
    parser.add_argument("--tokens", type=int, default=32, help="tokens decoded in each measurement")
    parser.add_argument("--rounds", type=int, default=7, help="measurements of each, taken in turn")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    config = FlamingoConfig(vision_config=CLIPVisionConfig(), text_config=GPT2Config(), new_token_ids=[50257, 50258])
    model = FlamingoForConditionalGeneration(config).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("_gate"):
            parameter.data.fill_(0.5)
    measured: dict[int, list[float]] = {images: [] for images in arguments.images}
    for _ in range(arguments.rounds):
        for images, times in measured.items():
            times.append(decode(model, images, arguments.text, arguments.tokens))
    print(f"GPT-2 (12 layers, 12 gated blocks, 64 visual tokens), prompt of {arguments.text} tokens, fp32, CPU")
    print(f"{'images':>8}  {'ms per decoded token: median (min to max)':<44}")
    for images, times in measured.items():
        print(f"{images:>8}  {statistics.median(times):8.1f}  ({min(times):.1f} to {max(times):.1f})")


if __name__ == "__main__":
    main()
