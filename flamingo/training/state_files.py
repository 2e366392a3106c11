"""The folder of a state: its tensors by torch.distributed.checkpoint, its other files, and the marker that ends it."""

import io
import json
import pickle
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from jaxtyping import Shaped
from torch import Tensor, distributed
from torch.distributed import ProcessGroup
from torch.distributed import checkpoint as dcp
from torch.distributed.checkpoint import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystem
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata

from flamingo.utils.checksums import checksum
from flamingo.utils.devices import HOST, META
from flamingo.utils.errors import UserError
from flamingo.utils.io import atomic_file, file_errors, write_text
from flamingo.utils.reading import json_object

T = TypeVar("T")

#: The marker: the checksum of each other file of a state. It is written when all of them are on disk.
COMPLETE = "complete.json"

#: The name of a state's folder, before the number of its step.
_STEP = "step-"
#: What the list of a state's tensors is made of, besides dtypes.
_CLASSES_OF_METADATA = {
    "torch.distributed.checkpoint.metadata": (
        "Metadata",
        "MetadataIndex",
        "TensorStorageMetadata",
        "TensorProperties",
        "ChunkStorageMetadata",
        "StorageMeta",
        "_MEM_FORMAT_ENCODING",
    ),
    "torch.distributed.checkpoint.filesystem": ("_StorageInfo",),
    "torch.serialization": ("_get_layout",),
    "torch": ("Size",),
    "pathlib": ("PosixPath", "WindowsPath"),
}

# torch's functions warn about a single process, which needs no process group.
warnings.filterwarnings("ignore", message="torch.distributed is disabled")


def all_states(folder: Path) -> list[Path]:
    """Returns the folders of states, oldest first. Copies under other names are no states."""
    return sorted(path for path in folder.glob(f"{_STEP}*") if path.name.removeprefix(_STEP).isdigit())


def complete_states(folder: Path) -> list[Path]:
    """Returns the folders of complete states, oldest first."""
    return [path for path in all_states(folder) if (path / COMPLETE).exists()]


def state_folder(folder: Path, step: int) -> Path:
    """Returns the folder of the state after a step."""
    return folder / f"{_STEP}{step:08d}"


def step_of(state: Path) -> int:
    """Returns the step of the folder of a state."""
    return int(state.name.removeprefix(_STEP))


def remove_state(folder: Path) -> None:
    """Removes a state. It is incomplete before its first file is gone."""
    (folder / COMPLETE).unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def together(work: Callable[[], T], group: ProcessGroup | None) -> list[T]:
    """Returns the results that ``work`` has in all processes.

    Args:
        work: Is called in each process.
        group: The processes; None: this process alone.

    Raises:
        Exception: If ``work`` raises in any process. All processes raise the error of the first one.
    """
    if group is None:
        return [work()]
    outcome: tuple[T | None, Exception | None]
    try:
        outcome = work(), None
    except Exception as error:
        outcome = None, error
    outcomes: list[Any] = [None] * group.size()
    distributed.all_gather_object(outcomes, outcome, group=group)
    for _, failure in outcomes:
        if failure is not None:
            raise failure
    return [result for result, _ in outcomes]


# ------------------------------------------------------------------------------- the marker


def checksums_of(folder: Path, patterns: tuple[str, ...]) -> dict[str, str]:
    """Returns the checksums of the files that match the patterns."""
    return {path.name: checksum(path) for pattern in patterns for path in folder.glob(pattern)}


def mark_complete(folder: Path, checksums: Mapping[str, str]) -> None:
    """Writes the marker. All files must be on disk."""
    write_text(folder / COMPLETE, json.dumps(dict(sorted(checksums.items())), indent=1) + "\n")


def check_files(folder: Path, process: int, num_processes: int) -> None:
    """Checks this process's share of a state's files.

    Raises:
        UserError: If one is damaged or missing; the error names it.
    """
    remedy = f"remove {folder}, and training continues from the state before it, or from the beginning"
    marker = folder / COMPLETE
    try:
        written = json_object(marker.read_bytes(), str(marker))
        share = sorted(written)[process::num_processes]
        damaged = [name for name in share if checksum(folder / name) != written[name]]
    except (OSError, UserError) as error:
        raise UserError(f"{folder} is damaged ({error}): {remedy}") from error
    if damaged:
        raise UserError(f"{folder / damaged[0]} is damaged (its checksum is not that of {COMPLETE}): {remedy}")


# ------------------------------------------------------------------------------- tensors


def write_tensors(folder: Path, tensors: Mapping[str, Shaped[Tensor, "..."]], group: ProcessGroup | None) -> None:
    """Writes tensors by name. Every process of the group calls this.

    Args:
        folder: The folder of the state.
        tensors: Tensors on the CPU. Of a ``DTensor`` each process writes its part. Another tensor is one process's.
        group: The processes, which exchange what each writes; None: this process alone.

    Raises:
        UserError: If a process cannot write its file; all processes raise it.
    """
    # Atomic files are synced. With a copy ahead torch would open a context on the first GPU in every process.
    writer = FileSystemWriter(folder, sync_files=False, per_thread_copy_ahead=0)
    writer.fs = _AtomicFiles()
    with _errors_of_torch(folder):
        dcp.save(dict(tensors), storage_writer=writer, process_group=group, no_dist=group is None)


def load_tensors(folder: Path, into: Mapping[str, Shaped[Tensor, "..."]], group: ProcessGroup | None) -> None:
    """Loads tensors by name in place. Every process of the group calls this; a ``DTensor`` gets its part."""
    with _errors_of_torch(folder):
        dcp.load(dict(into), storage_reader=_Reader(folder), process_group=group, no_dist=group is None)


def saved_tensors(folder: Path) -> dict[str, Shaped[Tensor, "..."]]:
    """Returns the tensors of a state by name, without their values: on the device meta.

    Raises:
        UserError: If the list of them is no list of tensors.
    """
    metadata = _Reader(folder).read_metadata()
    tensors = {}
    for name, saved in metadata.state_dict_metadata.items():
        assert isinstance(saved, TensorStorageMetadata), name
        tensors[name] = torch.empty(saved.size, dtype=saved.properties.dtype, device=META)
    return tensors


def read_tensors(folder: Path, prefix: str = "") -> dict[str, Shaped[Tensor, "..."]]:
    """Returns the whole tensors of a state on the CPU, whatever layout has written them.

    Args:
        folder: The folder of the state, such as ``state/step-00000100``.
        prefix: Chooses the tensors whose names begin with it, such as ``parameters.``, and is removed from the names.
    """
    chosen = {name: tensor for name, tensor in saved_tensors(folder).items() if name.startswith(prefix)}
    tensors = {name: torch.empty_like(tensor, device=HOST) for name, tensor in chosen.items()}
    load_tensors(folder, tensors, None)
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}


class _Reader(FileSystemReader):
    """Reads the list of a state's tensors, a pickle, without running code that it may name."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        file = Path(self.path) / ".metadata"
        with file.open("rb") as stream:
            try:
                return _MetadataUnpickler(stream).load()
            except pickle.UnpicklingError as error:
                raise UserError(f"{file} is not of a state: {error}") from error


class _MetadataUnpickler(pickle.Unpickler):  # noqa: S301 it refuses other classes
    def find_class(self, module: str, name: str) -> Any:
        is_dtype = module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
        if not is_dtype and name not in _CLASSES_OF_METADATA.get(module, ()):
            raise pickle.UnpicklingError(f"it contains {module}.{name}")
        return super().find_class(module, name)


class _AtomicFiles(FileSystem):
    """Writes the files of torch's checkpoints as all files of this project are written."""

    @contextmanager
    def create_stream(self, path: Any, mode: str) -> Iterator[io.IOBase]:
        if mode == "rb":
            with super().create_stream(path, mode) as stream:
                yield stream
        else:
            with atomic_file(Path(path), mode) as stream:
                yield _Positioned(stream)


class _Positioned(io.RawIOBase):
    """A stream that knows its position. :func:`atomic_file` closes the stream below it."""

    def __init__(self, stream: Any) -> None:
        self._stream, self._position = stream, 0

    def writable(self) -> bool:
        return True

    def write(self, content: Any) -> int:
        written = self._stream.write(content)
        self._position += written
        return written

    def tell(self) -> int:
        return self._position


@contextmanager
def _errors_of_torch(folder: Path) -> Iterator[None]:
    """Raises the error of the first process that failed, in place of torch's summary of all processes."""
    try:
        yield
    except CheckpointException as summary:
        failure, _ = next(iter(summary.failures.values()))
        with file_errors(folder):
            raise failure from summary
