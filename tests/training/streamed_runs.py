"""A training on streamed shards in one of several processes."""

import os
from pathlib import Path

import torch
from accelerate import PartialState

from flamingo import FlamingoProcessor
from flamingo.data.collate import Batch
from flamingo.data.streams.group_loader import group_loader
from flamingo.data.streams.row_groups import RowGroup, join_rows
from flamingo.training import TrainingConfig
from flamingo.training.loop import train
from flamingo.training.optim import AdamWConfig
from flamingo.training.step import DataSet
from tests.data.streams.shards import groups, rows_of, source
from tests.training.runs import make_model, trained

#: The groups of a batch.
BATCH_SIZE = 6


def one_of_some(rank: int, num_ranks: int, port: int, folders: tuple[Path, Path, Path], steps: int) -> None:
    """A process of some, which leaves the rows of its batches and its weights. ``folders``: backbones, data, output."""
    backbones, data, output = folders
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(num_ranks)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    state = PartialState(cpu=True)
    assert state.num_processes == num_ranks
    drawn: list[list[str]] = []

    def noted(row_groups: list[RowGroup]) -> Batch:
        batch = join_rows(row_groups)
        drawn.append(rows_of(batch))
        return batch

    processor = FlamingoProcessor.from_vision_text_pretrained(backbones / "clip_vision_model", backbones / "gpt2")
    sources = {name: source(data / name, processor, group_size=4) for name in "ab"}
    loader = group_loader(groups(processor, pack_to=48, weights={"b": 0.5}, **sources), noted, BATCH_SIZE)
    data_set = DataSet("streamed", loader, prepare=processor.normalized, shared=True)
    config = TrainingConfig(steps=steps, log_every=1, save_every=steps)
    model = make_model(backbones)
    train(model, [data_set], AdamWConfig(lr=1e-3), config, output)
    name = f"steps-{steps}-rank-{rank}.pt"
    torch.save({"drawn": drawn, "weights": trained(model)}, output / name)
    state.destroy_process_group()
