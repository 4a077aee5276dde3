"""What a disk does to a file on its way: nothing half-written, or other than it was meant, is ever trusted."""

from __future__ import annotations

import errno
import io
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from pipelines import MachineError, files
from pipelines.checkpoint import Damaged, Name, Store

TABLE = pl.DataFrame({"a": range(300_000), "t": ["x", None, "long enough for a buffer"] * 100_000})
NAME = Name("0123456789abcdef", "k")


def put(store: Store) -> Any:
    return store.put(NAME, TABLE, {"pipeline": "p", "step": "s", "layout": (0, 1)})


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store"))


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Callable[[type[io.FileIO]], None]:
    def set_up(kind: type[io.FileIO]) -> None:
        def opened(path: str) -> io.FileIO:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            return kind(path, "wb")

        monkeypatch.setattr(files, "_opened", opened)

    return set_up


def left(store: Store) -> list[Path]:
    return [path for path in Path(store.url).rglob("*") if path.is_file()]


class Late(io.FileIO):
    """As a network's disk whose quota is known when the file is closed."""

    def close(self) -> None:
        if not self.closed:
            super().close()
            raise OSError(errno.EDQUOT, "Disk quota exceeded")


def test_a_disk_that_says_late_that_it_is_full(store: Store, disk: Callable[[type[io.FileIO]], None]) -> None:
    disk(Late)
    for write in (lambda: store.write("steps/x.json", b"{}"), lambda: put(store)):
        with pytest.raises(MachineError, match="Disk quota exceeded"):
            write()
        assert not left(store)


class Flipping(io.FileIO):
    def write(self, content: Any) -> int:
        damaged = bytearray(content)
        damaged[len(damaged) // 2] ^= 1
        return super().write(damaged)


def test_a_bit_that_flips_on_the_way_is_seen(store: Store, disk: Callable[[type[io.FileIO]], None]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Store, "write", lambda *_: None)  # the manifest
        disk(Flipping)
        manifest = put(store)
    with pytest.raises(Damaged, match="is not what was written"):
        store.get(NAME, manifest)


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE])
def test_what_may_pass_is_tried_again(
    store: Store, disk: Callable[[type[io.FileIO]], None], monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    waits = list[int]()
    monkeypatch.setattr("pipelines.events.back_off", waits.append)
    failures = [OSError(number, "no"), OSError(number, "no")]

    class Failing(io.FileIO):
        def write(self, content: Any) -> int:
            if failures:
                raise failures.pop()
            return super().write(content)

    disk(Failing)
    manifest = put(store)
    assert store.get(NAME, manifest).equals(TABLE)
    assert len(left(store)) == 2
    assert waits
    waits.clear()
    failures.extend(OSError(errno.ENOSPC, "No space left on device") for _ in range(9))
    with pytest.raises(MachineError, match=r"No space left on device(.|\n)*make room"):
        put(store)
    assert not waits
    assert len(left(store)) == 2


def test_ctrl_c_amid_a_write(store: Store, disk: Callable[[type[io.FileIO]], None]) -> None:
    class Interrupted(io.FileIO):
        def write(self, content: Any) -> int:
            raise KeyboardInterrupt

    disk(Interrupted)
    with pytest.raises(KeyboardInterrupt):
        put(store)
    assert not left(store)


def test_what_a_thread_still_writes_is_removed_at_the_end(tmp_path: Path) -> None:
    writing, ended = threading.Event(), threading.Event()

    def work() -> None:
        with files.under_way(str(tmp_path / "d/x.tmp")) as file:
            file.write(b"half")
            writing.set()
            ended.wait(60)

    thread = threading.Thread(target=work)
    thread.start()
    assert writing.wait(60)
    assert (tmp_path / "d/x.tmp").exists()
    files.abandon()
    assert not (tmp_path / "d/x.tmp").exists()
    ended.set()
    thread.join()
