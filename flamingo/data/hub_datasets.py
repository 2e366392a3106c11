"""Data sets of the Hugging Face hub, ``hf://datasets/OWNER/NAME`` -> their files in the local cache."""

import re
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError, RepositoryNotFoundError

from flamingo.utils.errors import UserError

_PREFIX = "hf://datasets/"
_ADDRESS = re.compile(r"hf://datasets/([\w.-]+/[\w.-]+)(?:@([\w./-]+?))?(?:/(.*))?")
_FORM = f"{_PREFIX}OWNER/NAME, optionally followed by @REVISION and /FOLDER"


def is_hub_dataset(root: str) -> bool:
    """Returns whether a path is the address of a data set on the hub."""
    return root.startswith("hf:")


def downloaded(root: str) -> str:
    """Returns the folder, file or pattern in the local cache where the files of a hub data set lie.

    Files in the cache are not downloaded again. Without a connection only the cache is read.

    Args:
        root: ``hf://datasets/OWNER/NAME``. ``@REVISION`` may follow, and ``/FOLDER``, ``/FILE`` or ``/PATTERN``: then
            only these files are downloaded.

    Raises:
        UserError: If the address has another form, or the data set is not in the cache and cannot be downloaded.
    """
    address = _ADDRESS.fullmatch(root.rstrip("/"))
    if address is None:
        raise UserError(f"{root} is not the address of a data set on the hub: use {_FORM}")
    name, revision, path = address.groups()
    patterns = [path, f"{path}/*"] if path else None
    try:
        folder = snapshot_download(name, repo_type="dataset", revision=revision, allow_patterns=patterns)
    except RepositoryNotFoundError as error:
        raise UserError(
            f"{root}: the hub has no data set {name}, or it is private or gated: log in with `hf auth login`"
        ) from error
    except LocalEntryNotFoundError as error:
        raise UserError(
            f"{root} is not in the local cache, and the hub cannot be reached: download it with a connection by "
            f"`hf download --repo-type dataset {name}`, or give a local folder"
        ) from error
    except (OSError, ValueError, HFValidationError) as error:
        first_line = str(error).strip().partition("\n")[0]
        raise UserError(f"{root} cannot be downloaded: {first_line}") from error
    return str(Path(folder) / path) if path else folder
