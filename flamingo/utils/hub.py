"""Loads models and processors of transformers by folder or hub name, without running code of the checkpoint."""

import struct
from copy import deepcopy
from functools import lru_cache
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError

from flamingo.utils.errors import UserError

#: Loaders of the metadata of a GGUF file. Reading it takes seconds, and a command needs it several times.
_LOADERS_OF_METADATA = ("AutoConfig", "AutoTokenizer")


def from_pretrained(loader: Any, name_or_path: str | Path, part: str, *args: Any, **kwargs: Any) -> Any:
    """Returns ``loader.from_pretrained(name_or_path, *args, **kwargs)``, by default without the checkpoint's own code.

    Args:
        loader: A class of transformers, such as ``AutoConfig``.
        name_or_path: A folder, a name on the hub, or a file ``FOLDER/NAME.gguf``.
        part: What is loaded, for the error, such as "language model".
        *args: Further arguments of ``from_pretrained``.
        **kwargs: Further keyword arguments. Only ``trust_remote_code=True`` lets the checkpoint's code run.

    Raises:
        UserError: If nothing of this kind can be loaded from there.
    """
    kwargs.setdefault("trust_remote_code", False)
    location = name_or_path
    is_gguf = str(name_or_path).endswith(".gguf")
    if is_gguf:
        location = Path(name_or_path).parent
        kwargs["gguf_file"] = Path(name_or_path).name
    try:
        if is_gguf and loader.__name__ in _LOADERS_OF_METADATA and Path(name_or_path).is_file():
            changed = Path(name_or_path).stat().st_mtime_ns
            return deepcopy(_metadata(loader, str(location), changed, tuple(sorted(kwargs.items()))))
        return loader.from_pretrained(location, *args, **kwargs)
    except UserError:
        raise
    except (ImportError, KeyError, OSError, SafetensorError, StrictDataclassError, ValueError, struct.error) as error:
        raise UserError(f"{part} {name_or_path}: {_reason(error, location, is_gguf)}") from error


@lru_cache(maxsize=8)
def _metadata(loader: Any, location: str, changed: int, kwargs: tuple[tuple[str, Any], ...]) -> Any:
    """Returns the config or the tokenizer of a GGUF file, whose time of change is a part of the key."""
    return loader.from_pretrained(location, **dict(kwargs))


def _reason(error: Exception, location: str | Path, is_gguf: bool) -> str:
    if is_gguf and isinstance(error, ImportError):
        return "GGUF files need the package gguf: pip install 'flamingo[gguf]'"
    if "trust_remote_code" in str(error):
        return "it has code of its own, which is not run: only models that are part of transformers are loaded"
    if isinstance(error, OSError) and not Path(location).exists():
        return "there is no such folder, and no model of this name on the hub"
    first_sentence = " ".join(str(error).split()).split(". ")[0]
    return first_sentence or type(error).__name__
