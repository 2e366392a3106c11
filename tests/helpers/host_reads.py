"""Finds operations that make the host wait for a device. It works on a CPU, too, where nothing waits."""

import sys
from collections import Counter
from pathlib import Path

import torch
import transformers
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import flamingo

#: Operations whose result, or whose shape, the host has to know.
WAITING = {
    "_local_scalar_dense",
    "_unique",
    "_unique2",
    "bincount",
    "equal",
    "is_nonzero",
    "masked_select",
    "nonzero",
    "unique_consecutive",
    "unique_dim",
}
#: Methods that read a tensor on the host without an operation that is dispatched.
READING = ("__array__", "cpu", "item", "numpy", "tolist")

PACKAGES = {"ours": Path(flamingo.__file__).parent, "transformers": Path(transformers.__file__).parent}


class HostReads(TorchDispatchMode):
    """Within it, :attr:`found` counts what waits, while :attr:`counts` is true.

    ``found["ours"]`` has the place of each in this package, ``found["transformers"]`` in transformers: of the innermost
    frame that is in one of them; ``found["others"]`` the rest.
    """

    def __init__(self, monkeypatch):
        super().__init__()
        self.counts = True
        self.found = {"ours": Counter(), "transformers": Counter(), "others": Counter()}
        for name in READING:
            monkeypatch.setattr(Tensor, name, self._noting(name, getattr(Tensor, name)))
        # A tensor that is made of numbers on a device is a copy for which the host waits.
        for name in ("tensor", "as_tensor"):
            monkeypatch.setattr(torch, name, self._noting_device(name, getattr(torch, name)))

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        if name in WAITING or _by_mask(name, args) or _without_size(func, kwargs):
            self._note(name)
        return func(*args, **kwargs)

    def _noting(self, name, method):
        def noted(tensor, *args, **kwargs):
            self._note(name)
            return method(tensor, *args, **kwargs)

        return noted

    def _noting_device(self, name, function):
        def noted(*args, **kwargs):
            if kwargs.get("device") is not None:
                self._note(name)
            return function(*args, **kwargs)

        return noted

    def _note(self, name):
        if not self.counts:
            return
        frame = sys._getframe(1)
        while frame is not None:
            file = Path(frame.f_code.co_filename)
            for owner, folder in PACKAGES.items():
                if file.is_relative_to(folder):
                    self.found[owner][f"{file.name}:{frame.f_lineno} {name}"] += 1
                    return
            frame = frame.f_back
        self.found["others"][name] += 1


def _by_mask(name, args):
    if name not in ("index", "index_put", "index_put_", "_index_put_impl_"):
        return False
    return any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1])


def _without_size(func, kwargs):
    takes_size = func in (torch.ops.aten.repeat_interleave.Tensor, torch.ops.aten.repeat_interleave.self_Tensor)
    return takes_size and kwargs.get("output_size") is None
