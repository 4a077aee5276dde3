"""`local`: a Dask LocalCluster on all cores, with its dashboard.

One process with N threads, which starts in half a second and loses nothing as Polars releases the GIL; N processes of one thread
where steps run Python code, or as the config asks.
"""

from __future__ import annotations

import logging
import re
import signal
import socket
import sys
from contextlib import ExitStack
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any, ClassVar

import dask
from dask.system import CPU_COUNT
from dask.utils import parse_bytes
from distributed import Client, LocalCluster, performance_report

from pipelines.dashboard import answering
from pipelines.errors import ConfigError, Issue, MachineError
from pipelines.executors.base import memory_in_use
from pipelines.executors.cluster import Cluster
from pipelines.graph import register_serializers

_LEAST = 256 << 20
_GUARD = "put what starts the run under `if __name__ == '__main__':`; each process that starts runs the script's other lines too"
"""A worker process takes 150 MB before its first task: with less than that it would be ended and started for ever."""


class Local(Cluster):
    kind: ClassVar[str] = "local"
    shares_disk = True

    def __init__(
        self,
        *,
        workers: int | None,
        threads: int | None,
        memory_limit: str | None,
        processes: bool,
        dashboard_port: int | None,
        report: Path | None = None,
    ) -> None:
        """processes: one for each worker. dashboard_port: None for no dashboard. report: where to save Dask's performance report."""
        super().__init__()
        if processes and memory_limit and parse_bytes(memory_limit) < _LEAST:
            raise ConfigError(
                Issue(f"no worker process starts in {memory_limit}", "executor.memory_limit is 256MiB at least")
            )
        self.watching = ExitStack()
        self.workers = workers or (CPU_COUNT if processes else 1)
        self.threads = threads or max(1, CPU_COUNT // self.workers)
        self.slots = self.workers * self.threads
        self.processes, self.memory_limit, self.port, self.report = processes, memory_limit, dashboard_port, report
        self.shares_memory = not processes

    @property
    def described(self) -> str:
        if not self.processes:
            return f"local cluster (one process, {self.threads} threads)"
        return f"local cluster ({self.workers} processes, {self.threads} thread{'s' * (self.threads > 1)} each)"

    def __enter__(self) -> Local:
        # a worker's pool of Polars threads must be as large as its number of tasks at once: smaller, they wait for one another
        settings: dict[str, Any] = {
            "distributed.nanny.pre-spawn-environ.POLARS_MAX_THREADS": self.threads,
            "distributed.scheduler.allowed-failures": 10,
            "distributed.admin.log-format": "%(message)s",
        }
        self.stack.enter_context(dask.config.set(settings))
        for name in ("distributed", "bokeh", "tornado", "asyncio"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
        # what it says of a worker that it ends for its memory is nowhere else
        memory = logging.getLogger("distributed.nanny.memory")
        memory.setLevel(logging.WARNING)
        memory.addHandler(handler := _OverLimit(self.over_limit))
        self.stack.callback(memory.removeHandler, handler)
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
                    # None would still open a port, 8787, to the whole network
                    dashboard_address=f"127.0.0.1:{_free(self.port or 0)}",
                    scheduler_kwargs={"dashboard": self.port is not None},
                    host="127.0.0.1" if self.processes else None,
                    silence_logs=logging.CRITICAL,
                )
            )
            self.client = self.stack.enter_context(Client(cluster))
            register_serializers()
            self.listen()
            if self.port is not None:
                port = cluster.scheduler_info["services"]["dashboard"]
                self.dashboard = answering(f"http://127.0.0.1:{port}/status")
            if self.report is not None:
                self.watching = self.stack.enter_context(ExitStack())
                self.watching.enter_context(performance_report(filename=str(self.report)))
        except RuntimeError as error:  # a worker that does not start
            self.stack.close()
            remedy = _GUARD if _unguarded() else "see whether memory and processes are left"
            raise MachineError(Issue(f"the local cluster did not start: {error}", remedy)) from None
        except BaseException:
            self.stack.close()
            raise
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        return self

    def finished(self) -> None:
        self.watching.close()

    @property
    def memory_text(self) -> str:
        return f"{self.memory_limit} of a worker" if self.memory_limit else "share of the memory that each worker has"

    def memory(self) -> tuple[int, int | None] | None:
        return memory_in_use(below=self.processes), self.measured[1] if self.measured else None


class _OverLimit(logging.Handler):
    """Notes the workers that a nanny ends."""

    def __init__(self, workers: set[str]) -> None:
        super().__init__(logging.WARNING)
        self.workers = workers

    def emit(self, record: logging.LogRecord) -> None:
        if found := re.match(r"Worker (\S+) \(pid=\d+\) exceeded", record.getMessage()):
            self.workers.add(found[1])


def _free(port: int) -> int:
    """The port, or 0 (any) when it is taken: Dask would warn and do the same."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return 0
    return port


def _unguarded() -> bool:
    """Is this a script that starts processes whenever a process loads it?"""
    files = (getattr(sys.modules.get(name), "__file__", None) for name in ("__main__", "__mp_main__"))
    return any(file and "__main__" not in Path(file).read_text(errors="replace") for file in files)
