"""Downloads files from URLs: through fsspec, or over HTTP. A store that fails or stalls is tried again."""

import http.client
import logging
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from queue import Empty, Full, Queue
from threading import Thread
from typing import Any, TypeVar

from flamingo.utils.errors import UserError
from flamingo.utils.io import atomic_file

log = logging.getLogger(__name__)

#: The bytes that are read at once.
CHUNK = 1 << 20
#: The longest pause between two attempts, in seconds.
_LONGEST_PAUSE = 60.0
#: The answers of an HTTP server for a file that does not exist, or that nobody may read.
_ABSENT = (403, 404, 410)
#: The packages of file systems, by their protocol.
_PACKAGES = {"s3": "s3fs", "gs": "gcsfs", "gcs": "gcsfs"}

_Result = TypeVar("_Result")
#: The numbers of failed attempts of this process.
_failures = count(1)


class StoreError(Exception):
    """A store has failed. Another attempt may succeed."""


class AbsentError(Exception):
    """A store has no such file."""


@dataclass(frozen=True)
class Download:
    """How files are downloaded."""

    #: The seconds in which a mebibyte must arrive.
    timeout: float = 60.0
    #: The number of attempts. The pause after the first is a second, and doubles with each.
    attempts: int = 5

    def to_file(self, url: str, file: Path) -> None:
        """Writes the content of a URL into a file, which is then complete or absent.

        Raises:
            UserError: If no attempt succeeds, or the file cannot be written.
        """

        def attempt() -> None:
            with atomic_file(file, "wb") as stream:
                for chunk in _chunks(url, self.timeout):
                    stream.write(chunk)

        try:
            self.tried(url, attempt)
        except AbsentError as error:
            raise UserError(f"there is no file {url}: {error}") from error

    def content(self, url: str) -> bytes | None:
        """Returns the content of a URL; None if there is no such file.

        Raises:
            UserError: If no attempt succeeds.
        """
        try:
            return self.tried(url, lambda: b"".join(_chunks(url, self.timeout)))
        except AbsentError:
            return None

    def tried(self, url: str, attempt: Callable[[], _Result]) -> _Result:
        """Returns what the first successful attempt returns. Failures are logged.

        Args:
            url: The URL, for messages.
            attempt: Reads it; raises :class:`StoreError` if another attempt may succeed.

        Raises:
            UserError: If no attempt succeeds.
        """
        number = 1
        while True:
            try:
                return attempt()
            except StoreError as error:
                failure = f"{url}: attempt {number} of {self.attempts} has failed: {error}"
                log.warning("%s (failure %d of this process)", failure, next(_failures))
                if number == self.attempts:
                    raise UserError(failure) from error
            time.sleep(min(2.0 ** (number - 1), _LONGEST_PAUSE))
            number += 1


def is_url(root: str) -> bool:
    """Returns whether a root is a URL, such as ``s3://BUCKET/FOLDER``."""
    return "://" in root


def is_http(url: str) -> bool:
    """Returns whether a URL is read over HTTP, which cannot list files."""
    return url.startswith(("http://", "https://"))


def file_system(url: str) -> tuple[Any, str]:
    """Returns the file system of a URL, of fsspec, and the path in it.

    Raises:
        UserError: If the protocol is not known, or its package is not installed.
    """
    from fsspec.core import url_to_fs  # it takes 0.1 s

    try:
        return url_to_fs(url)
    except ImportError as error:
        package = _PACKAGES.get(url.partition("://")[0])
        fix = "pip install 'flamingo[remote]'" if package else str(error)
        raise UserError(f"{url} needs the package {package or 'of its file system'}: {fix}") from error
    except ValueError as error:
        raise UserError(f"{url} has an unknown protocol: {error}") from error


def _chunks(url: str, timeout: float) -> Iterator[bytes]:
    """Yields the content of a URL. A thread reads it, so that a store that never answers can be given up.

    Raises:
        AbsentError: If there is no such file.
        StoreError: If the store fails, or a chunk does not arrive in time.
        UserError: If the protocol cannot be read.
    """
    results: Queue[bytes | Exception] = Queue(maxsize=2)
    Thread(target=_read_into, args=(results, url, timeout), daemon=True).start()
    while True:
        try:
            result = results.get(timeout=timeout)
        except Empty:
            raise StoreError(f"it is slower than {CHUNK >> 20} MiB in {timeout} seconds") from None
        if isinstance(result, Exception):
            raise result
        if not result:
            return
        yield result


def _read_into(results: "Queue[bytes | Exception]", url: str, timeout: float) -> None:
    """Puts the chunks of a URL, and b"" at the end, or else the error."""
    try:
        with store_errors():
            stream_chunks = _http_chunks(url, timeout) if is_http(url) else _fsspec_chunks(url)
            for chunk in stream_chunks:
                results.put(chunk, timeout=10 * timeout)
        results.put(b"", timeout=10 * timeout)
    except Full:
        return  # nobody waits any more
    except Exception as error:
        results.put(error)


@contextmanager
def store_errors() -> Iterator[None]:
    """Turns errors of file systems, which raise exceptions of many types, into :class:`StoreError`.

    Raises:
        AbsentError: If a file does not exist.
        StoreError: For any other error of a file system.
    """
    try:
        yield
    except FileNotFoundError as error:
        raise AbsentError(str(error) or "it does not exist") from error
    except urllib.error.HTTPError as error:
        kind = AbsentError if error.code in _ABSENT else StoreError
        raise kind(f"the server answers {error.code} {error.reason}") from error
    except Exception as error:
        if isinstance(error, UserError | AbsentError | StoreError | Full):
            raise
        raise StoreError(f"{type(error).__name__}: {error}") from error


def _fsspec_chunks(url: str) -> Iterator[bytes]:
    system, path = file_system(url)
    with system.open(path, "rb") as stream:
        while chunk := stream.read(CHUNK):
            yield chunk


def _http_chunks(url: str, timeout: float) -> Iterator[bytes]:
    with urllib.request.urlopen(url, timeout=timeout) as answer:
        expected = answer.length
        received = 0
        while chunk := answer.read(CHUNK):
            received += len(chunk)
            yield chunk
    # http.client ends without an error where the connection does.
    if expected is not None and received < expected:
        raise http.client.IncompleteRead(b"", expected - received)
