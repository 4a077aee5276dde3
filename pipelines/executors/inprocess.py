"""`serial` and `threads`: Dask's own schedulers in this process."""

from __future__ import annotations

import signal
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar

import dask
import dask.local
import dask.threaded
from dask._task_spec import DataNode
from dask.callbacks import Callback
from dask.system import CPU_COUNT
from dask.threaded import ContextAwareThreadPoolExecutor

from pipelines.code import Code
from pipelines.events import HEARD
from pipelines.executors.base import Clock, Limit, Overdue, Progress, memory_in_use
from pipelines.graph import Graph, Key, Table


class Serial:
    """One task after another; Polars uses all cores within each."""

    kind: ClassVar[str] = "serial"
    slots = 1
    shares_memory = True
    shares_disk = True
    restarts = True
    dashboard: str | None = None

    def __init__(self) -> None:
        self.heard = deque[dict[str, Any]]()

    def __enter__(self) -> Serial:
        # Polars' handler lets the wait for a lock go on: Ctrl-C would be heard when the next task ends
        signal.siginterrupt(signal.SIGINT, True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    @property
    def described(self) -> str:
        return "serial"

    def reaches(self, folder: Path) -> None:
        return None

    def sees(self, path: str) -> bool:
        return True

    def ship(self, codes: Iterable[Code]) -> None:
        return None  # what made the plan has it

    def finished(self) -> None:
        return None

    def events(self) -> list[dict[str, Any]]:
        return [self.heard.popleft() for _ in range(len(self.heard))]

    def memory(self) -> tuple[int, int | None] | None:
        return memory_in_use(below=False), None

    def get(self, graph: Graph, keys: list[Key], **options: Any) -> list[Any]:
        return list(dask.local.get_sync(graph, keys, **options))

    def compute(self, graph: Graph, keys: list[Key], progress: Progress) -> list[Any]:
        clock, mine = Clock(progress), HEARD.set(self.heard)
        try:
            with _users() as users, _limited(progress):
                return self.get(graph, keys, callbacks=[*users, (None, None, clock.pretask, clock.posttask, None)])
        finally:
            HEARD.reset(mine)

    def persist(self, table: Table, progress: Progress) -> Mapping[Key, Any]:
        # what dask.persist does, with this executor's callbacks
        frames = self.compute(dict(table.graph), table.keys, progress)
        return {key: DataNode(key, frame) for key, frame in zip(table.keys, frames, strict=True)}


_at_work = list[set[Any]]()
_lock = threading.Lock()


@contextmanager
def _users() -> Iterator[set[Any]]:
    """The callbacks that the user made Dask's own. While runs are at work Dask has none: those would hear of the other runs too,
    and be lost where tasks compute with Dask in several threads, each of which takes them away for its time."""
    with _lock:
        users = _at_work[0] if _at_work else Callback.active
        _at_work.append(users)
        Callback.active = set()
    try:
        yield users
    finally:
        with _lock:
            _at_work.pop()
            if not _at_work:
                Callback.active = users


@contextmanager
def _limited(progress: Progress) -> Iterator[None]:
    """Interrupts what the main thread waits for when a step is overdue, as Ctrl-C does (which is ignored by what a shell started
    in the background). In other threads nothing can."""
    if not progress.limits or threading.current_thread() is not threading.main_thread():
        yield
        return
    passed, done = list[Limit](), threading.Event()

    def watch() -> None:
        while not done.wait(0.1):
            if limit := progress.overdue:
                passed.append(limit)
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)
                return

    before = signal.signal(signal.SIGUSR1, signal.default_int_handler)
    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    except KeyboardInterrupt:
        if passed:
            raise Overdue(passed[0]) from None
        raise
    finally:
        done.set()
        watcher.join()
        signal.signal(signal.SIGUSR1, before)


class Threads(Serial):
    """A pool of threads: Polars releases the GIL."""

    kind: ClassVar[str] = "threads"

    def __init__(self, threads: int | None) -> None:
        super().__init__()
        self.slots = threads or CPU_COUNT
        self.pool = ContextAwareThreadPoolExecutor(self.slots, thread_name_prefix="pipelines")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.pool.shutdown(cancel_futures=True, wait=not isinstance(error, Overdue))

    @property
    def described(self) -> str:
        return f"threads ({self.slots})"

    def get(self, graph: Graph, keys: list[Key], **options: Any) -> list[Any]:
        return list(dask.threaded.get(graph, keys, pool=self.pool, **options))
