"""What every executor with a Dask scheduler does: ship code, compute, persist, watch, explain a dead worker."""

from __future__ import annotations

import logging
import os
import re
import socket
import sys
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from distributed import Client, KilledWorker
from distributed.client import ClosedClientError, FutureCancelledError, FuturesCancelledError
from distributed.comm.addressing import parse_address, parse_host_port
from distributed.comm.core import CommClosedError
from distributed.diagnostics.plugin import WorkerPlugin
from msgspec import Struct

from pipelines.code import Code, provide
from pipelines.errors import Issue, MachineError, PipelineError, keep_secret, kept_secrets
from pipelines.events import TOPIC
from pipelines.executors.base import Lost, OutOfMemory, Overdue, Progress, Timing
from pipelines.graph import Graph, Key, Table, register_serializers
from pipelines.versions import PACKAGES, telling, versions

_POLL_SECONDS = 0.1
_GONE = (CommClosedError, FutureCancelledError, FuturesCancelledError, TimeoutError, ClosedClientError)
_DEATHS = 3
"""So often workers may die for want of memory with tasks of one stage."""
_SECONDS = 10
_GREETING = 1 << 16
"""Bytes; it has versions and names of compressions."""


class File(Struct, frozen=True):
    """A file that travels: to the same path, with the same time of its last change, for a plan knows it by these."""

    path: Path
    mtime_ns: int
    content: bytes

    @classmethod
    def of(cls, path: Path) -> File:
        return cls(path, path.stat().st_mtime_ns, path.read_bytes())

    def place(self) -> None:
        if self.path.exists() and self.path.stat().st_mtime_ns == self.mtime_ns:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}.tmp")
        temporary.write_bytes(self.content)
        os.utime(temporary, ns=(self.mtime_ns, self.mtime_ns))
        os.replace(temporary, self.path)


class Project(WorkerPlugin):
    """What every worker, also one that starts late, needs before its first task: the serializers, the user's code and files that
    travel, what to hide."""

    def __init__(self, codes: Iterable[Code], files: Iterable[File] = ()) -> None:
        self.codes, self.files = tuple(codes), tuple(files)
        self.secrets = kept_secrets()

    def setup(self, worker: Any) -> None:
        register_serializers()
        for file in self.files:
            file.place()
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

    def sees(self, path: str) -> bool:
        return True

    def finished(self) -> None:
        return None

    def there(self) -> dict[str, Any]:
        """The workers that are connected; none where the scheduler is gone."""
        return dict(self.client.scheduler_info(n_workers=-1).get("workers", {}))

    def listen(self) -> None:
        """To what tasks tell, and to what the scheduler says of workers. For a client that is connected."""

        def workers(event: tuple[float, Any]) -> None:
            told = event[1]
            if isinstance(told, dict) and told.get("action") == "remove-worker" and not told.get("expected"):
                self.died(str(told["worker"]), [str(key) for key in told.get("processing-tasks", ())])

        logging.getLogger("distributed.client").setLevel(logging.CRITICAL)  # of a lost scheduler we say it ourselves
        self.client.subscribe_topic(TOPIC, lambda event: self.heard.append(event[1]))
        self.client.subscribe_topic("all", workers)
        self.stack.callback(self._unlisten)

    def _unlisten(self) -> None:
        with suppress(*_GONE):
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
        with self._guarded():
            self.client.register_plugin(plugin, name=f"pipelines-{id(plugin):x}")
        self.stack.callback(self._unship, f"pipelines-{id(plugin):x}")

    def _unship(self, name: str) -> None:
        with suppress(*_GONE):  # nobody is there any more: then there is nothing to tidy
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
            progress.groups(timings)
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

    def killed(self, stage: str) -> MachineError:
        """Workers died, nobody knows of what."""
        said = f"worker processes died again and again while they ran {stage}"
        return MachineError(Issue(said, "look at the system's log: it may be the out-of-memory killer (then see executor.memory_limit), or code that crashes"))  # fmt: skip

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
            raise self.out_of_memory() if self.deaths else self.killed(_stage(str(error.task))) from None
        except PipelineError:
            raise
        except Exception as error:
            if not isinstance(error, _GONE) and self.client.status == "running":
                raise
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


def knock(address: str, seconds: float) -> None:
    """Raises OSError when what answers at an address is no Dask scheduler.

    Dask's connect waits without end for the first word of one that keeps silent (a proxy whose other side is not there yet),
    and takes what an HTTP server says for a size of memory. A scheduler speaks first: the length of its greeting.
    """
    scheme, location = parse_address(address)
    if scheme != "tcp":
        return
    with socket.create_connection(parse_host_port(location, 8786), seconds) as found:
        try:
            said = found.recv(8, socket.MSG_WAITALL)
        except TimeoutError:
            said = b""
    if len(said) < 8 or not 0 < int.from_bytes(said, sys.byteorder) < _GREETING:
        raise OSError("what answers there is no Dask scheduler")


def compare(client: Client, cluster: str, remedy: str = "") -> None:
    """Raises MachineError when scheduler or workers have other versions than this process, or there are no workers."""
    told = telling()
    try:
        client.wait_for_workers(1, timeout=_SECONDS)
    except TimeoutError:
        raise MachineError(Issue(f"{cluster} has no workers", remedy)) from None
    there = {"the scheduler": client.run_on_scheduler(told, PACKAGES)}
    there |= {f"the worker {name}": found for name, found in client.run(told, PACKAGES).items()}
    here = versions()
    wrong = dict[tuple[str, str | None], list[str]]()
    for where, found in there.items():
        for package in here:
            if found[package] != here[package]:
                wrong.setdefault((package, found[package]), []).append(where)
    issues = list[Issue]()
    for (package, found), places in wrong.items():
        where = places[0] if len(places) == 1 else f"{places[0]} and {len(places) - 1} more"
        wanted = here[package]
        remedy = f"install {package} {wanted} there, or the same as there here"
        if package == "pipelines" and found and wanted and found.split()[0] == wanted.split()[0]:
            remedy = "the same version with other sources: install the same there"
        elif package == "pipelines" and found is None:
            remedy = "install the same sources there"
        issues.append(Issue(f"{where} has {package} {found or 'not at all'}, this process {wanted}", remedy))
    if issues:
        raise MachineError(*issues)
