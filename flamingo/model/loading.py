"""Loads frozen weights, and refuses those that do not fit: transformers would begin missing ones at random."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from flamingo.utils.errors import UserError
from flamingo.utils.hub import from_pretrained

#: Keys that an error names of each kind.
_NAMED = 5


def load_weights(
    loader: Any,
    name_or_path: str | Path,
    part: str,
    may_be_unexpected: Callable[[PreTrainedModel, str], bool] = lambda model, key: False,
    **kwargs: Any,
) -> Any:
    """A model whose weights all come from the checkpoint, poolers aside, which nothing here reads.

    Args:
        loader: The class of transformers that loads it.
        name_or_path: A folder, a name on the hub, or a GGUF file.
        part: What is loaded, for the error.
        may_be_unexpected: Whether a key of the checkpoint, of which the model has no parameter, does no harm.
        **kwargs: Further arguments of ``from_pretrained``.

    Raises:
        UserError: With the names of keys that are missing, unexpected, or of another shape.
    """
    model, report = from_pretrained(
        loader, name_or_path, part, output_loading_info=True, ignore_mismatched_sizes=True, **kwargs
    )
    problems = {
        "missing": [key for key in report["missing_keys"] if "pooler" not in key],
        "unexpected": [
            key for key in report["unexpected_keys"] if "pooler" not in key and not may_be_unexpected(model, key)
        ],
        "of another shape": [key for key, *_ in report["mismatched_keys"]],
    }
    if found := [f"{len(keys)} {kind} ({_named(keys)})" for kind, keys in problems.items() if keys]:
        raise UserError(
            f"{part} {name_or_path}: its weights are not those of a {type(model).__name__}; keys: {', '.join(found)}"
        )
    return model


def _named(keys: Iterable[str]) -> str:
    ordered = sorted(keys)
    return ", ".join(ordered[:_NAMED]) + (", ..." if len(ordered) > _NAMED else "")
