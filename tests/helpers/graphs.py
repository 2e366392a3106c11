"""Compilation without a compiler: graphs run as they are, and are counted."""

from contextlib import contextmanager

import torch
from jaxtyping import config as jaxtyping_config
from torch._dynamo import config as dynamo

from flamingo.model import compilation

#: A part of a parameter's name -> the kind of module that has it.
WORDS = {"attention_gate": "block", "norm_features": "connector layer", "layer_norm1": "encoder layer"}
KINDS = ["layer", "block", "connector layer", "encoder layer"]


class Graphs:
    """A backend of ``torch.compile``. It notes the kind of module of each graph that is made, and of each run."""

    def __init__(self):
        self.made, self.runs = [], []

    def __call__(self, graph, inputs):
        names = " ".join(node.name for node in graph.graph.nodes)
        kind = next((kind for word, kind in WORDS.items() if word in names), "layer")
        self.made.append(kind)

        def run(*args):
            self.runs.append(kind)
            return graph(*args)

        return run

    def runs_by_kind(self):
        return [self.runs.count(kind) for kind in KINDS]


def _unchecked(function):
    """Returns the function inside the wrapper that checks its types."""
    while "jaxtyping" in function.__code__.co_filename:
        function = function.__wrapped__
    return function


@contextmanager
def counted_graphs(monkeypatch):
    """Makes one recompilation too many an error, instead of a layer that runs uncompiled.

    The tests' checks of types, which a user does not have, are off. Their wrapper would be one function of all modules.
    """
    compiled_function = compilation._forward_inside_checkpoint
    monkeypatch.setattr(jaxtyping_config, "jaxtyping_disable", True)
    monkeypatch.setattr(
        compilation, "_forward_inside_checkpoint", lambda plain_class: _unchecked(compiled_function(plain_class))
    )
    with dynamo.patch(fail_on_recompile_limit_hit=True):
        yield Graphs()
    torch.compiler.reset()
