"""`serial` and `threads`: Dask's own schedulers in this process."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar

import dask
import dask.local
import dask.threaded
from dask._task_spec import DataNode
from dask.callbacks import Callback
from dask.system import CPU_COUNT

from pipelines.code import Code
from pipelines.executors.base import Clock, Progress
from pipelines.graph import Graph, Key, Table


class Serial:
    """One task after another; Polars uses all cores within each."""

    kind: ClassVar[str] = "serial"
    slots = 1
    shares_memory = True
    shares_disk = True
    dashboard: str | None = None

    def __enter__(self) -> Serial:
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

    def ship(self, codes: Iterable[Code]) -> None:
        return None  # what made the plan has it

    def finished(self) -> None:
        return None

    def get(self, graph: Graph, keys: list[Key]) -> list[Any]:
        return list(dask.local.get_sync(graph, keys))

    def compute(self, graph: Graph, keys: list[Key], progress: Progress) -> list[Any]:
        clock = Clock(progress)
        with Callback(pretask=clock.pretask, posttask=clock.posttask):
            return self.get(graph, keys)

    def persist(self, table: Table, progress: Progress) -> Mapping[Key, Any]:
        # what dask.persist does, with this executor's callbacks
        frames = self.compute(dict(table.graph), table.keys, progress)
        return {key: DataNode(key, frame) for key, frame in zip(table.keys, frames, strict=True)}


class Threads(Serial):
    """A pool of threads: Polars releases the GIL."""

    kind: ClassVar[str] = "threads"

    def __init__(self, threads: int | None) -> None:
        self.slots = threads or CPU_COUNT
        self.pool = ThreadPoolExecutor(self.slots, thread_name_prefix="pipelines")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.pool.shutdown(cancel_futures=True)

    @property
    def described(self) -> str:
        return f"threads ({self.slots})"

    def get(self, graph: Graph, keys: list[Key]) -> list[Any]:
        return list(dask.threaded.get(graph, keys, pool=self.pool))
