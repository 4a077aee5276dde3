"""`local`: a Dask LocalCluster on all cores, with its dashboard.

One process with N threads, which starts in half a second and loses nothing as Polars releases the GIL; N processes of one thread
where steps run Python code, or as the config asks.
"""

from __future__ import annotations

import logging
import signal
import socket
import time
import urllib.request
from collections.abc import Mapping
from contextlib import ExitStack
from multiprocessing import resource_tracker
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar

import dask
from dask.system import CPU_COUNT

from pipelines.errors import Issue, MachineError
from pipelines.executors.base import Progress, Timing
from pipelines.graph import Graph, Key, Table, register_serializers

_POLL_SECONDS = 0.1


class Local:
    kind: ClassVar[str] = "local"

    def __init__(
        self,
        *,
        workers: int | None,
        threads: int | None,
        memory_limit: str | None,
        dashboard_port: int,
        python: bool,
        report: Path | None,
    ) -> None:
        processes = workers is not None or memory_limit is not None or python
        self.workers = workers or (CPU_COUNT if python else 1)
        self.threads = threads or max(1, CPU_COUNT // self.workers)
        self.slots = self.workers * self.threads
        self.processes, self.memory_limit, self.port, self.report = processes, memory_limit, dashboard_port, report
        self.shares_memory = not processes
        self.dashboard: str | None = None
        self.stack = ExitStack()

    @property
    def described(self) -> str:
        if not self.processes:
            return f"local cluster (one process, {self.threads} threads)"
        return f"local cluster ({self.workers} processes, {self.threads} thread{'s' * (self.threads > 1)} each)"

    def __enter__(self) -> Local:
        from distributed import Client, LocalCluster

        # a worker's pool of Polars threads must be as large as its number of tasks at once: smaller, they wait for one another
        settings: dict[str, Any] = {
            "distributed.worker.preload": ["pipelines.graph"],
            "distributed.nanny.pre-spawn-environ.POLARS_MAX_THREADS": self.threads,
            "distributed.scheduler.allowed-failures": 10,
            "distributed.admin.log-format": "%(message)s",
        }
        self.stack.enter_context(dask.config.set(settings))
        for name in ("distributed", "bokeh", "tornado", "asyncio"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
        # Ctrl-C goes to every process of the terminal: blocked in the cluster's thread, it is blocked in the workers started
        # from there, and this process ends them in order
        resource_tracker.ensure_running()  # started later, it would unblock
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            cluster = self.stack.enter_context(
                LocalCluster(
                    n_workers=self.workers,
                    threads_per_worker=self.threads,
                    processes=self.processes,
                    memory_limit=self.memory_limit or ("auto" if self.processes else 0),
                    dashboard_address=f"127.0.0.1:{_free(self.port)}",
                    host="127.0.0.1" if self.processes else None,
                    silence_logs=logging.CRITICAL,
                )
            )
            self.client = self.stack.enter_context(Client(cluster))
            register_serializers()
            self.dashboard = _answering(f"http://127.0.0.1:{cluster.scheduler_info['services']['dashboard']}/status")
            if self.report is not None:
                from distributed import performance_report

                self.stack.enter_context(performance_report(filename=str(self.report)))
        except RuntimeError as error:  # a worker that does not start
            self.stack.close()
            raise MachineError(
                Issue(f"the local cluster did not start: {error}", "see whether memory and processes are left")
            ) from None
        except BaseException:
            self.stack.close()
            raise
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stack.close()

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
        from distributed import KilledWorker

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


def _free(port: int) -> int:
    """The port, or 0 (any) when it is taken: Dask would warn and do the same."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return 0
    return port


def _answering(link: str) -> str | None:
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
