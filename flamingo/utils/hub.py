"""Loads what transformers saved, by folder or name: never runs a checkpoint's own code, and says what is wrong."""

import struct
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError

from flamingo.utils.errors import UserError


def from_pretrained(loader: Any, name_or_path: str | Path, part: str, *args: Any, **kwargs: Any) -> Any:
    """``loader.from_pretrained(name_or_path, *args, **kwargs)``, by default without the checkpoint's own code.

    Args:
        loader: A class of transformers, such as ``AutoConfig``.
        name_or_path: A folder, a name on the hub, or a file ``FOLDER/NAME.gguf``.
        part: What is loaded, for the error: "language model", say.
        *args: Further arguments of ``from_pretrained``.
        **kwargs: And those by name. Only ``trust_remote_code=True`` lets its code run.

    Raises:
        UserError: If nothing of this kind can be loaded from there.
    """
    kwargs.setdefault("trust_remote_code", False)
    place, gguf = name_or_path, {}
    if str(name_or_path).endswith(".gguf"):
        place, gguf = Path(name_or_path).parent, {"gguf_file": Path(name_or_path).name}
    try:
        return loader.from_pretrained(place, *args, **gguf, **kwargs)
    except (ImportError, KeyError, OSError, SafetensorError, StrictDataclassError, ValueError, struct.error) as error:
        if isinstance(error, UserError):
            raise
        if gguf and isinstance(error, ImportError):
            reason = "GGUF files need the package gguf: pip install 'flamingo[gguf]'"
        elif "trust_remote_code" in str(error):
            reason = "it has code of its own, which is not run: only models that are part of transformers are loaded"
        elif isinstance(error, OSError) and not Path(place).exists():
            reason = "there is no such folder, nor a model of this name on the hub"
        else:
            reason = " ".join(str(error).split()).split(". ")[0] or type(error).__name__
        raise UserError(f"{part} {name_or_path}: {reason}") from error
