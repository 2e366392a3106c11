"""Copies of batches: none on a CPU, and in the order of two streams on a CUDA device."""

from contextlib import contextmanager
from dataclasses import dataclass

import torch

from flamingo.data.collate import Batch
from flamingo.training import copying
from tests.training.runs import batch


def test_on_a_cpu_a_batch_stays_as_it_is():
    made = batch([3, 7])
    copied = copying.copied_ahead(made, torch.device("cpu"))
    assert copied.ids == made.ids and copied.label_tokens == made.label_tokens
    assert all(copied.tensors[name].data_ptr() == tensor.data_ptr() for name, tensor in made.tensors.items())


@dataclass
class FakeStream:
    name: str
    calls: list

    def wait_stream(self, other):
        self.calls.append(f"{self.name} wait for {other.name}")


def test_kernels_wait_for_the_copy_and_keep_its_memory(monkeypatch):
    calls, current = [], ["kernels"]

    @contextmanager
    def on(stream):
        current.append(stream.name)
        yield
        current.pop()

    def to(batch, device):
        calls.append(f"copy among {current[-1]}")
        return batch

    monkeypatch.setattr(copying, "_copy_stream", lambda _: FakeStream("copies", calls))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: FakeStream("kernels", calls))
    monkeypatch.setattr(torch.cuda, "stream", on)
    monkeypatch.setattr(Batch, "to", to)
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda _, stream: calls.append(f"kept for {stream.name}"))
    made = batch([3, 7])
    copying.copied_ahead(made, torch.device("cuda"))
    assert calls == ["copy among copies", "kernels wait for copies", *["kept for kernels"] * len(made.tensors)]
