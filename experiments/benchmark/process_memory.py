"""Measures the memory of processes that share a language model: while they load it, and in a training step.

python -m experiments.benchmark.process_memory                          354M parameters on 1, 2 and 4 processes
python -m experiments.benchmark.process_memory --width 256 --layers 4 --processes 2
python -m experiments.benchmark.process_memory --whole                  each process loads it whole, and then shares it

Everything runs on the CPU, in float32. A peak is one of anonymous memory above that after the imports. gloo's
reduce-scatter copies and reduces the whole gradients, so the peak of the step says nothing of NCCL's.
"""

import argparse
import json
import os
import socket
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.multiprocessing.spawn import spawn

from experiments.benchmark.anonymous_memory import AnonymousMemory
from experiments.benchmark.materials import Sizes, make_batch, save_language, save_vision
from flamingo import FlamingoForConditionalGeneration, FlamingoProcessor
from flamingo.model.layers import repeated_layers
from flamingo.model.sharded_loading import defer_weights
from flamingo.training import ParallelConfig
from flamingo.training.optim import AdamWConfig
from flamingo.training.optim.groups import make_optimizer
from flamingo.training.parallel import Parallel, distribute
from flamingo.utils.devices import use_device

#: The peak of loading is at most the shard, one layer and this.
ALLOWED = 500_000_000
_MB = 1e6
#: The columns of the table, by the measures of a process.
_COLUMNS = {
    "shard": "its shard",
    "loading": "peak of loading",
    "bound": "bound",
    "parameters": "parameters",
    "gradients": "gradients",
    "optimizer": "optimizer state",
    "step": "peak of a step",
}


def main() -> None:
    """Prints a table with the largest value of all processes, in MB."""
    arguments = _arguments()
    sizes = Sizes(
        width=arguments.width,
        layers=arguments.layers,
        heads=arguments.width // 64,
        vision_width=64,
        vision_layers=1,
        image_size=32,
        patch=8,
        every=max(1, arguments.layers // 3),
        train_batch=1,
        train_images=2,
        train_tokens=64,
    )
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        torch.manual_seed(0)
        save_language(folder / "language", sizes.shape())
        save_vision(folder / "vision", sizes.shape())
        print(_row(["processes", *_COLUMNS.values()]))
        print(_row(["---"] * (1 + len(_COLUMNS))))
        for number in arguments.processes:
            measures = measured(folder, sizes, number, arguments.whole)
            values = [f"{max(one[key] for one in measures) / _MB:,.0f}" for key in _COLUMNS]
            print(_row([str(number), *values]), flush=True)


def measured(folder: Path, sizes: Sizes, number: int, whole: bool) -> list[dict[str, int]]:
    """Returns the bytes of each process.

    Args:
        folder: The folder with the backbones.
        sizes: Their sizes, and those of the batch.
        number: The number of processes.
        whole: Whether each process loads the whole language model, before the processes share it.
    """
    # glibc then returns freed memory at once, as the allocator of a GPU would.
    os.environ["MALLOC_MMAP_THRESHOLD_"] = "65536"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    spawn(_run_process, (number, port, folder, sizes, whole), number)
    return [json.loads(_result(folder, rank).read_text()) for rank in range(number)]


def _run_process(rank: int, number: int, port: int, folder: Path, sizes: Sizes, whole: bool) -> None:
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(number),
        "LOCAL_WORLD_SIZE": str(number),
    }
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    use_device("cpu")
    measures = measure_process(folder, sizes, whole or number == 1)
    _result(folder, rank).write_text(json.dumps(measures))
    if number > 1:
        torch.distributed.destroy_process_group()


def measure_process(folder: Path, sizes: Sizes, whole: bool) -> dict[str, int]:
    """Returns the bytes of this process, which loads the model with the others and runs a training step."""
    memory = AnonymousMemory()
    with memory.measured():
        model, image_token = _build(folder, sizes, whole)
        layer = repeated_layers(model.language_model)[0]
        layer_bytes = sum(parameter.numel() * parameter.itemsize for parameter in layer.parameters())
        parallel = distribute(model, ParallelConfig("fsdp2"))
    loading = memory.peak
    shard = _local_bytes(model.language_model.parameters())
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = make_optimizer(model, AdamWConfig())
    with memory.measured():
        _step(parallel, make_batch(sizes, sizes.train_images, sizes.train_tokens, image_token))
        gradients = _local_bytes(parameter.grad for parameter in trained if parameter.grad is not None)
        parallel.clip(trained, 1.0)
        optimizer.step()
    states = [value for state in optimizer.state.values() for value in state.values() if isinstance(value, Tensor)]
    return {
        "shard": shard,
        "loading": loading,
        "bound": shard + layer_bytes + ALLOWED,
        "parameters": _local_bytes(model.parameters()),
        "gradients": gradients,
        "optimizer": _local_bytes(states),
        "step": memory.peak,
    }


def _build(folder: Path, sizes: Sizes, whole: bool) -> tuple[FlamingoForConditionalGeneration, int]:
    """Returns a model with open gates, and the id of its image token."""
    processor = FlamingoProcessor.from_vision_text_pretrained(folder / "vision", folder / "language")
    model = FlamingoForConditionalGeneration.from_vision_text_pretrained(
        folder / "vision",
        folder / "language",
        text_kwargs={} if whole else {"load": defer_weights},
        new_token_ids=processor.new_token_ids,
        connector={"depth": 1, "num_latents": 8},
        fusion={"every": sizes.every, "offset": sizes.every - 1},
        check=False,
    )
    for name, parameter in model.named_parameters():
        if name.endswith("_gate"):
            nn.init.constant_(parameter, 0.5)
    return model, processor.image_token_id


def _step(parallel: Parallel, batch: dict[str, Tensor]) -> None:
    batch.pop("image_features")
    with parallel.synchronised(is_last=True):
        parallel.joined(parallel.model(**batch).loss).backward()


def _local_bytes(tensors: Iterable[Tensor]) -> int:
    """Returns the bytes that this process has of tensors, some of which are sharded."""
    total = 0
    for tensor in tensors:
        local = tensor.to_local() if hasattr(tensor, "to_local") else tensor
        total += local.numel() * local.itemsize
    return total


def _result(folder: Path, rank: int) -> Path:
    return folder / f"process-{rank}.json"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=1024, help="the width of the language model")
    parser.add_argument("--layers", type=int, default=24, help="its number of layers")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4], help="the numbers of processes")
    parser.add_argument("--whole", action="store_true", help="each process loads the whole language model")
    return parser.parse_args()


if __name__ == "__main__":
    main()
