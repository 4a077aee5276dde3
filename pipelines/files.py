"""Files that have their final name when they are whole."""

from __future__ import annotations

import io
import os
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO, Any

import polars as pl
import xxhash

_unfinished = set[str]()


@contextmanager
def under_way(path: str) -> Iterator[IO[bytes]]:
    """A file to write, and its folder. An error removes it; raises OSError in the system's words, also for what Polars writes."""
    _unfinished.add(path)
    try:
        with _opened(path) as file:
            yield file
    except BaseException as error:
        with suppress(OSError):
            os.unlink(path)
        if isinstance(error, pl.exceptions.ComputeError | OSError) and (said := _system(error)):
            raise said from None
        raise
    finally:
        _unfinished.discard(path)


@contextmanager
def written(final: str) -> Iterator[IO[bytes]]:
    """A file to write, which gets its name after that."""
    with under_way(temporary(final)) as file:
        yield file
        file.close()  # a disk may say only now that it is full
        placed(file.name, final)


def abandon() -> None:
    """Removes what threads are still writing, before the process ends without them."""
    for path in tuple(_unfinished):
        with suppress(OSError):
            os.unlink(path)


def _opened(path: str) -> IO[bytes]:
    try:
        return open(path, "wb")
    except FileNotFoundError:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        return open(path, "wb")


def _system(error: BaseException) -> OSError | None:
    """The system's error that Polars only quotes."""
    found = re.search(r"\(os error (\d+)\)", str(error))
    if found is None or (isinstance(error, OSError) and error.errno):
        return None
    return OSError(int(found[1]), os.strerror(int(found[1])))


def temporary(path: str) -> str:
    """A name beside the final one that nobody else has."""
    return f"{path}.{uuid.uuid4().hex[:8]}.tmp"


def placed(path: str, final: str) -> None:
    """Gives a whole file its final name. A folder that somebody put there is moved aside."""
    try:
        os.replace(path, final)
    except IsADirectoryError:
        os.rename(final, temporary(final))
        os.replace(path, final)


class Hashed(io.RawIOBase):
    """Passes on what is written, and knows its size and checksum: of what was meant, whatever becomes of it on the way."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.size, self._hash = file, 0, xxhash.xxh3_128()
        self.failed: BaseException | None = None
        """What writing raised: Polars gives only its text."""

    def writable(self) -> bool:
        return True

    def write(self, content: Any) -> int:
        try:
            self._hash.update(content)
            self.size += self.file.write(content)
        except BaseException as error:
            self.failed = error
            raise
        return len(content)

    @property
    def checksum(self) -> str:
        return self._hash.hexdigest()
