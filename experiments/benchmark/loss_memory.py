r"""Measures memory and time of the output head and the loss: from whole logits, and in chunks of labels.

python -m experiments.benchmark.loss_memory                                   4,096 labels, 50,272 tokens, width 768
python -m experiments.benchmark.loss_memory --labels 16384 --device cuda --dtype bfloat16

Each way runs in a process of its own: forward and backward pass, with a frozen head and two new tokens. Printed is the
peak memory above the process's memory before them.
"""

import argparse
import time
from multiprocessing import get_context

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from flamingo.model.chunked_loss import next_token_loss, sum_of_losses
from flamingo.model.language import NewTokenEmbeddings
from flamingo.model.logit_function import LogitFunction
from flamingo.utils.devices import device_title, peak_memory

#: The ways to compute the loss.
WAYS = ("whole logits", "chunks")


def main() -> None:
    """Measures both ways, and prints a line for each."""
    arguments = _arguments()
    print(f"{device_title(torch.device(arguments.device))}, {arguments.dtype}, {arguments.labels} labels")
    for way in WAYS:
        process = get_context("spawn").Process(target=measure, args=(way, arguments))
        process.start()
        process.join()


def measure(way: str, arguments: argparse.Namespace) -> None:
    """Prints the memory and the time of a way, its loss, and the norm of the gradient of the hidden states."""
    torch.manual_seed(0)
    device, dtype = torch.device(arguments.device), getattr(torch, arguments.dtype)
    vocabulary, width = arguments.vocabulary, arguments.width
    head = nn.Linear(width, vocabulary, bias=False).requires_grad_(False).to(device, dtype)
    new_tokens = NewTokenEmbeddings([vocabulary, vocabulary + 1], vocabulary, width, width, tied=True).to(device)
    nn.init.normal_(new_tokens.input_rows, std=0.02)
    hidden = torch.randn(1, arguments.labels + 1, width).to(device, dtype).requires_grad_()
    labels = torch.randint(vocabulary, (1, arguments.labels + 1)).to(device)
    before, start = peak_memory(device), time.perf_counter()
    loss = loss_by(way, head, new_tokens, hidden, labels)
    loss.backward()
    norm = float(hidden.grad.norm())  # type: ignore[union-attr]  # waits for the device
    seconds, gigabytes = time.perf_counter() - start, (peak_memory(device) - before) / 1e9
    print(f"{way}: {gigabytes:.2f} GB, {seconds:.2f} s, loss {loss.item():.5f}, gradient {norm:.4e}")


def loss_by(
    way: str,
    head: nn.Linear,
    new_tokens: NewTokenEmbeddings,
    hidden: Float[Tensor, "1 t d"],
    labels: Int[Tensor, "1 t"],
) -> Float[Tensor, ""]:
    """Returns the mean loss of all labels but the first one."""
    if way == "whole logits":
        return next_token_loss(new_tokens.extend_logits(head(hidden), hidden), labels)
    total = sum_of_losses(head, new_tokens, hidden[0, :-1], labels[0, 1:], LogitFunction())
    return total / (labels.shape[1] - 1)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--labels", type=int, default=4096)
    parser.add_argument("--vocabulary", type=int, default=50272)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    return parser.parse_args()


if __name__ == "__main__":
    main()
