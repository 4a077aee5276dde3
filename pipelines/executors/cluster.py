"""What every executor with a Dask scheduler does: ship code, compute, persist, watch, explain a dead worker."""

from __future__ import annotations

import time
import urllib.request
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

from distributed import Client, KilledWorker
from distributed.diagnostics.plugin import WorkerPlugin

from pipelines.code import Code, provide
from pipelines.errors import Issue, MachineError, keep_secret, kept_secrets
from pipelines.executors.base import Progress, Timing
from pipelines.graph import Graph, Key, Table, register_serializers

_POLL_SECONDS = 0.1


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
    slots = 1
    dashboard: str | None = None
    client: Client

    def __init__(self) -> None:
        self.stack = ExitStack()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stack.close()

    def reaches(self, folder: Path) -> None:
        return None

    def finished(self) -> None:
        return None

    def ship(self, codes: Iterable[Code]) -> None:
        plugin = Project(codes)
        self.client.register_plugin(plugin, name=f"pipelines-{id(plugin):x}")
        self.stack.callback(self._unship, f"pipelines-{id(plugin):x}")

    def _unship(self, name: str) -> None:
        if self.client.status == "running":
            self.client.unregister_worker_plugin(name)

    def compute(self, graph: Graph, keys: list[Key], progress: Progress) -> list[Any]:
        futures = self.client.get(graph, keys, sync=False, optimize_graph=False)
        self._wait(futures, {key[0] for key in graph}, progress)
        return list(self._guarded(lambda: self.client.gather(futures)))

    def persist(self, table: Table, progress: Progress) -> Mapping[Key, Any]:
        kept = self.client.persist(table, optimize_graph=False)
        self._wait(list(kept.graph.values()), {key[0] for key in table.graph}, progress)
        return dict(kept.graph)

    def _wait(self, futures: list[Any], names: set[str], progress: Progress) -> None:
        while True:
            waiting = [future for future in futures if not future.done()]
            for name, timing in self.client.run_on_scheduler(_timings, names=names).items():
                progress.group(name, timing)
            for future in futures:
                if future.status == "error":
                    self._guarded(future.result)
            if not waiting:
                return
            self._pause(waiting)

    def _pause(self, waiting: list[Any]) -> None:
        end = time.monotonic() + _POLL_SECONDS
        while time.monotonic() < end and not all(future.done() for future in waiting):
            time.sleep(0.005)

    def _guarded(self, call: Any) -> Any:
        try:
            return call()
        except KilledWorker as error:
            where = str(error.task).split("-")[0]
            raise MachineError(
                Issue(f"a worker process died again and again while it ran {where}", "it may need more memory: raise executor.memory_limit, or cut the input into more partitions")
            ) from None  # fmt: skip


def _timings(dask_scheduler: Any, names: set[str]) -> dict[str, Timing]:
    """Runs on the scheduler: what its task groups say."""
    found = dict[str, Timing]()
    for name in names:
        if group := dask_scheduler.task_groups.get(name):
            states = group.states
            open_states = sum(states.get(s, 0) for s in ("waiting", "processing", "queued", "no-worker", "erred"))
            # "released" is also a task that has not begun: only while nothing is known of it
            done = max(0, len(group) - open_states) if group.start else 0
            found[name] = Timing(done, group.start or float("inf"), group.stop, sum(group.all_durations.values()))
    return found


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
