"""What every executor with a Dask scheduler does: ship code, compute, persist, watch, explain a dead worker."""

from __future__ import annotations

import re
import time
import urllib.request
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from distributed import Client, KilledWorker
from distributed.client import ClosedClientError, FutureCancelledError, FuturesCancelledError
from distributed.comm.core import CommClosedError
from distributed.diagnostics.plugin import WorkerPlugin

from pipelines.code import Code, provide
from pipelines.errors import Issue, MachineError, keep_secret, kept_secrets
from pipelines.events import TOPIC
from pipelines.executors.base import Lost, OutOfMemory, Overdue, Progress, Timing
from pipelines.graph import Graph, Key, Table, register_serializers

_POLL_SECONDS = 0.1
_DEATHS = 3
"""So often workers may die for want of memory with tasks of one stage."""


class Project(WorkerPlugin):
    """What every worker, also one that starts late, needs before its first task: the serializers, the user's code, what to hide."""

    def __init__(self, codes: Iterable[Code]) -> None:
        self.codes = tuple(codes)
        self.secrets = kept_secrets()

    def setup(self, worker: Any) -> None:
        register_serializers()
        for code in self.codes:
            provide(code)
        for secret in self.secrets:
            keep_secret(secret)


class Cluster:
    """An executor whose `client` is connected when it is open."""

    shares_memory = False
    shares_disk = False
    restarts = True
    slots = 1
    dashboard: str | None = None
    client: Client

    def __init__(self) -> None:
        self.stack = ExitStack()
        self.heard = deque[dict[str, Any]]()
        self.deaths = Counter[str]()
        """Stage: how often workers died for want of memory while they had its tasks."""
        self.over_limit = set[str]()
        """Workers that were ended because they had too much memory."""
        self.measured: tuple[int, int] | None = None
        """Bytes that workers have, and have spilled."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stack.close()

    def reaches(self, folder: Path) -> None:
        return None

    def finished(self) -> None:
        return None

    def listen(self) -> None:
        """To what tasks tell, and to what the scheduler says of workers. For a client that is connected."""

        def workers(event: tuple[float, Any]) -> None:
            told = event[1]
            if isinstance(told, dict) and told.get("action") == "remove-worker" and not told.get("expected"):
                self.died(str(told["worker"]), [str(key) for key in told.get("processing-tasks", ())])

        self.client.subscribe_topic(TOPIC, lambda event: self.heard.append(event[1]))
        self.client.subscribe_topic("all", workers)
        self.stack.callback(self._unlisten)

    def _unlisten(self) -> None:
        if self.client.status == "running":  # else the scheduler writes to who is gone, and says so
            for topic in (TOPIC, "all"):
                self.client.unsubscribe_topic(topic)

    def died(self, worker: str, tasks: list[str]) -> None:
        """A worker is gone that had these tasks."""
        stages = sorted({_stage(task) for task in tasks})
        for_memory = worker in self.over_limit
        why = "it needed more memory than it may have" if for_memory else "its process ended"
        if for_memory:
            self.deaths.update(stages)
        self.heard.append({"what": "loss", "worker": worker, "why": why, "stages": stages, "tasks": len(tasks)})

    def events(self) -> list[dict[str, Any]]:
        return [self.heard.popleft() for _ in range(len(self.heard))]

    def memory(self) -> tuple[int, int | None] | None:
        return self.measured

    def ship(self, codes: Iterable[Code]) -> None:
        plugin = Project(codes)
        self.client.register_plugin(plugin, name=f"pipelines-{id(plugin):x}")
        self.stack.callback(self._unship, f"pipelines-{id(plugin):x}")

    def _unship(self, name: str) -> None:
        if self.client.status == "running":
            self.client.unregister_worker_plugin(name)

    def compute(self, graph: Graph, keys: list[Key], progress: Progress) -> list[Any]:
        with self._guarded():
            futures = self.client.get(graph, keys, sync=False, optimize_graph=False)
            self._wait(futures, {key[0] for key in graph}, progress)
            return list(self.client.gather(futures))

    def persist(self, table: Table, progress: Progress) -> Mapping[Key, Any]:
        with self._guarded():
            kept = self.client.persist(table, optimize_graph=False)
            self._wait(list(kept.graph.values()), {key[0] for key in table.graph}, progress)
            return dict(kept.graph)

    def _wait(self, futures: list[Any], names: set[str], progress: Progress) -> None:
        while True:
            waiting = [future for future in futures if not future.done()]
            if self.client.status != "running":
                raise CommClosedError
            timings, *self.measured = self.client.run_on_scheduler(_timings, names=names)
            for name, timing in timings.items():
                known = progress.timings.get(name, timing)
                timing.start = min(timing.start, known.start)  # the scheduler knows it when the first task is done
                if timing.running:
                    timing.start = min(timing.start, time.time())
                progress.group(name, timing)
            for future in futures:
                if future.status == "error":
                    future.result()
                elif future.status in ("lost", "cancelled"):
                    raise CommClosedError
            if not waiting:
                return
            if limit := progress.overdue:
                raise Overdue(limit)
            if self.deaths and max(self.deaths.values()) >= _DEATHS:
                raise self.out_of_memory()
            self._pause(waiting)

    def _pause(self, waiting: list[Any]) -> None:
        end = time.monotonic() + _POLL_SECONDS
        while time.monotonic() < end and not all(future.done() for future in waiting):
            time.sleep(0.005)

    def out_of_memory(self) -> OutOfMemory:
        stage = self.deaths.most_common(1)[0][0]
        said = f"workers ran out of memory in {stage}: it needs more than the {self.memory_text}"
        return OutOfMemory(Issue(said, "raise executor.memory_limit, take fewer threads for each worker, or cut the input into more partitions"))  # fmt: skip

    @property
    def memory_text(self) -> str:
        """What a worker may have, in words."""
        return "memory of a worker"

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        """What Dask raises, in words."""
        try:
            yield
        except KilledWorker as error:
            if self.deaths:
                raise self.out_of_memory() from None
            said = f"worker processes died again and again while they ran {_stage(str(error.task))}"
            raise MachineError(Issue(said, "look at the system's log: it may be the out-of-memory killer (then see executor.memory_limit), or code that crashes")) from None  # fmt: skip
        except (CommClosedError, FutureCancelledError, FuturesCancelledError, TimeoutError, ClosedClientError):
            raise Lost(Issue("the scheduler is gone", "the same command goes on from what is in the store")) from None


def _stage(task: str) -> str:
    """The stage that a task's key (as text) is of."""
    found = re.match(r"\('(?:(?:split|share|pick|sketch|cuts|combine|broadcast)\+|show-)?(.+?)-[0-9a-f]{16}", task)
    return found[1] if found else task


def _timings(dask_scheduler: Any, names: set[str]) -> tuple[dict[str, Timing], int, int]:
    """Runs on the scheduler: what its task groups say; and the workers' memory, and what of it they spilled."""
    found = dict[str, Timing]()
    for name in names:
        if group := dask_scheduler.task_groups.get(name):
            states = group.states
            open_states = sum(states.get(s, 0) for s in ("waiting", "processing", "queued", "no-worker", "erred"))
            # "released" is also a task that has not begun: only while nothing is known of it
            done = max(0, len(group) - open_states) if group.start else 0
            busy, running = sum(group.all_durations.values()), bool(states.get("processing", 0))
            found[name] = Timing(done, group.start or float("inf"), group.stop, busy, running)
    workers = dask_scheduler.workers.values()
    memory = sum(int(worker.metrics.get("memory", 0)) for worker in workers)
    return found, memory, sum(int(worker.metrics.get("spilled_bytes", {}).get("disk", 0)) for worker in workers)


def answering(link: str) -> str | None:
    """The link, if the dashboard's page is there with content."""
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(link, timeout=2) as answer:
                if b"bokeh" in answer.read().lower():
                    return link
        except OSError:
            time.sleep(0.05)
    return None
