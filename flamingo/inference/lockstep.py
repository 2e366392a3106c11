"""Lets processes that share the layers of a language model run batches of their own.

Each forward pass gathers the layers, and all processes take part in that. Their batches differ: in number, in tokens,
and in the step at which their continuations end. Before each forward pass the processes agree whether one of them still
has work. Those without work run a forward pass of one token, whose result nobody reads.
"""

from typing import Any

import torch
from torch import distributed

from flamingo.model.modeling import FlamingoForConditionalGeneration


class Lockstep:
    """Makes all processes call the forward pass of a model equally often."""

    def __init__(self, model: FlamingoForConditionalGeneration, shard_size: int) -> None:
        """Takes a model whose layers are shared. All processes call this together.

        Args:
            model: The model, which gets hooks.
            shard_size: The number of processes that share the layers.
        """
        self._model = model
        # The processes agree on their hosts, so that no host waits for a GPU.
        self._group, _ = distributed.new_subgroups(shard_size, backend="gloo")
        self._is_within = False
        device = model.get_input_embeddings().weight.device
        self._token = torch.zeros(1, 1, dtype=torch.long, device=device)
        with torch.no_grad():
            self._no_images = model.visual_state(model.no_visual_tokens(1))
        model.register_forward_pre_hook(self._begin)
        model.register_forward_hook(self._end)

    def _begin(self, *_: Any) -> None:
        """Begins a forward pass of this process, together with one of each other process."""
        self._anyone_works(True)
        self._is_within = True

    def _end(self, *_: Any) -> None:
        self._is_within = False

    @torch.no_grad()
    def leave(self) -> None:
        """Takes part in the forward passes of the other processes until none has work left.

        A process that failed within a forward pass cannot take part: the others end with it.
        """
        while not self._is_within and self._anyone_works(False):
            self._model.forward(
                input_ids=self._token,
                attention_mask=torch.ones_like(self._token),
                image_index=self._token - 1,
                visual_state=self._no_images,
                use_cache=False,
            )

    def _anyone_works(self, works: bool) -> bool:
        """Returns whether a process works. All processes call this together."""
        working = torch.tensor(int(works))
        distributed.all_reduce(working, distributed.ReduceOp.MAX, self._group)
        return bool(working)
