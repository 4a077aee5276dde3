"""What every executor does and declares."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Protocol

from msgspec import Struct

from pipelines.code import Code
from pipelines.errors import Issue, MachineError
from pipelines.graph import Graph, Key, Table


@dataclass
class Timing:
    """Of the tasks of one name: how many are done, when the first began and the last ended, seconds of work in all."""

    done: int = 0
    start: float = float("inf")
    stop: float = 0.0
    busy: float = 0.0
    running: bool = False


class Limit(Struct, frozen=True):
    """How long the tasks of one name may take together."""

    step: str
    seconds: float
    count: int
    """Tasks."""


@dataclass
class Progress:
    """Told by an executor, task name by task name; whoever shows it sets `changed`."""

    timings: dict[str, Timing] = field(default_factory=dict)
    changed: Callable[[], None] = lambda: None
    limits: Mapping[str, Limit] = field(default_factory=dict)
    parts: Mapping[str, str] = field(default_factory=dict)
    """Task name: that of the tasks which it is a part of, whose time begins with it."""

    def begun(self, name: str, start: float) -> None:
        timing = self.timings.setdefault(self.parts.get(name, name), Timing())
        timing.start = min(timing.start, start)

    @property
    def overdue(self) -> Limit | None:
        """A limit that is passed."""
        for name, limit in self.limits.items():
            timing = self.timings.get(name)
            if timing and timing.done < limit.count and time.time() - timing.start > limit.seconds:
                return limit
        return None

    def task(self, name: str, start: float, stop: float) -> None:
        timing = self.timings.setdefault(self.parts.get(name, name), Timing())
        timing.busy += stop - start
        if name not in self.parts:
            timing.done += 1
            timing.start, timing.stop = min(timing.start, start), max(timing.stop, stop)
        self.changed()

    def groups(self, found: Mapping[str, Timing]) -> None:
        """What a scheduler says of all tasks by now."""
        timings = {name: replace(timing) for name, timing in found.items() if name not in self.parts}
        for name, whole in self.parts.items():
            if (timing := found.get(name)) is not None:
                into = timings.setdefault(whole, Timing())
                into.start, into.busy = min(into.start, timing.start), into.busy + timing.busy
                into.running |= timing.running
        for name, timing in timings.items():
            if (known := self.timings.get(name)) is not None:
                timing.start = min(timing.start, known.start)  # the scheduler knows it when the first task is done
            if timing.running:
                timing.start = min(timing.start, time.time())
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
    restarts: bool
    """Whether opening it again starts another scheduler."""
    dashboard: str | None
    """The dashboard's link, when it answers."""

    @property
    def described(self) -> str:
        """For the log: kind, workers, threads."""

    def reaches(self, folder: Path) -> None:
        """Raises MachineError where tasks would not see this folder of this machine."""

    def sees(self, path: str) -> bool:
        """Whether what tasks write to this path stands there for this process too."""

    def ship(self, codes: Iterable[Code]) -> None:
        """Makes the user's code loadable wherever tasks run."""

    def finished(self) -> None:
        """The work is done: saves what was watched."""

    def events(self) -> list[dict[str, Any]]:
        """What tasks told (`pipelines.events`) and what happened to workers since it was asked last."""

    def memory(self) -> tuple[int, int | None] | None:
        """Bytes that all processes of the run have now, and that workers spilled; None where that is not known."""

    def compute(self, graph: Graph, keys: list[Key], progress: Progress) -> list[Any]:
        """The results of these tasks, in order."""

    def persist(self, table: Table, progress: Progress) -> Mapping[Key, Any]:
        """The table's partitions, kept where they were computed, as nodes of a graph; dropping them frees them."""


class Overdue(MachineError):
    """A step took longer than it may."""

    def __init__(self, limit: Limit) -> None:
        said = f"the step {limit.step!r} took longer than its timeout of {limit.seconds:g} s"
        super().__init__(Issue(said, "raise `timeout`, or see what its tasks wait for"))


class Lost(MachineError):
    """The scheduler is gone, and with it all that was at work."""


class OutOfMemory(MachineError):
    """Workers died because they needed more memory than they may have."""


def memory_in_use(*, below: bool) -> int:
    """Bytes of this process, and of all below it: to find those takes some milliseconds."""
    import psutil

    mine = psutil.Process()
    total = int(mine.memory_info().rss)
    for child in mine.children(recursive=True) if below else ():
        with suppress(psutil.Error):
            total += int(child.memory_info().rss)
    return total


class Clock:
    """Dask's callbacks for schedulers in this process, as progress."""

    def __init__(self, progress: Progress) -> None:
        self.progress, self.started = progress, dict[Any, float]()

    def pretask(self, key: Any, dsk: Any, state: Any) -> None:
        self.started[key] = now = time.time()
        if isinstance(key, tuple):
            self.progress.begun(key[0], now)

    def posttask(self, key: Any, result: Any, dsk: Any, state: Any, worker: Any) -> None:
        if isinstance(key, tuple):
            self.progress.task(key[0], self.started.pop(key, time.time()), time.time())
