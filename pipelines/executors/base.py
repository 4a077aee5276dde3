"""What every executor does and declares."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol

from pipelines.code import Code
from pipelines.graph import Graph, Key, Table


@dataclass
class Timing:
    """Of the tasks of one name: how many are done, when the first began and the last ended, seconds of work in all."""

    done: int = 0
    start: float = float("inf")
    stop: float = 0.0
    busy: float = 0.0


@dataclass
class Progress:
    """Told by an executor, task name by task name; whoever shows it sets `changed`."""

    timings: dict[str, Timing] = field(default_factory=dict)
    changed: Callable[[], None] = lambda: None

    def task(self, name: str, start: float, stop: float) -> None:
        timing = self.timings.setdefault(name, Timing())
        timing.done += 1
        timing.start, timing.stop = min(timing.start, start), max(timing.stop, stop)
        timing.busy += stop - start
        self.changed()

    def group(self, name: str, timing: Timing) -> None:
        self.timings[name] = timing
        self.changed()


class Executor(AbstractContextManager["Executor"], Protocol):
    """Opened as a context manager; whatever it opens is closed at the end, on errors and Ctrl-C too."""

    kind: ClassVar[str]
    slots: int
    """Tasks at once."""
    shares_memory: bool
    """Whether all tasks run in one process."""
    shares_disk: bool
    """Whether all tasks see this machine's files."""
    dashboard: str | None
    """The dashboard's link, when it answers."""

    @property
    def described(self) -> str:
        """For the log: kind, workers, threads."""

    def reaches(self, folder: Path) -> None:
        """Raises MachineError where tasks would not see this folder of this machine."""

    def ship(self, codes: Iterable[Code]) -> None:
        """Makes the user's code loadable wherever tasks run."""

    def finished(self) -> None:
        """The work is done: saves what was watched."""

    def compute(self, graph: Graph, keys: list[Key], progress: Progress) -> list[Any]:
        """The results of these tasks, in order."""

    def persist(self, table: Table, progress: Progress) -> Mapping[Key, Any]:
        """The table's partitions, kept where they were computed, as nodes of a graph; dropping them frees them."""


class Clock:
    """Dask's callbacks for schedulers in this process, as progress."""

    def __init__(self, progress: Progress) -> None:
        self.progress, self.started = progress, dict[Any, float]()

    def pretask(self, key: Any, dsk: Any, state: Any) -> None:
        self.started[key] = time.time()

    def posttask(self, key: Any, result: Any, dsk: Any, state: Any, worker: Any) -> None:
        if isinstance(key, tuple):
            self.progress.task(key[0], self.started.pop(key, time.time()), time.time())
