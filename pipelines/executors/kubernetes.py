"""`kubernetes`: a cluster of pods.

From here, the driver is this process: a DaskCluster is made for this run, reached through the API server, and deleted at the end;
should this process die, the operator deletes it when it has been idle for long. In there, the driver is the pod of a DaskJob, beside
a scheduler that is there already (`pipelines k8s submit`). What else a run does is the same.
"""

from __future__ import annotations

import logging
import os
import sys
import time
import warnings
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Any, ClassVar
from urllib.parse import urlsplit

import dask
from distributed import Client, KilledWorker
from distributed.versions import VersionMismatchWarning

from pipelines.code import Code
from pipelines.dashboard import answering
from pipelines.errors import Issue, MachineError, PipelineError
from pipelines.executors.base import OutOfMemory, Progress
from pipelines.executors.cluster import Cluster, File, Project, compare, knock
from pipelines.graph import register_serializers
from pipelines.k8s.api import Kube, Object
from pipelines.k8s.manifests import Setting, cluster, new_name
from pipelines.k8s.reach import covered, travelling
from pipelines.k8s.watch import State, Watch, remove
from pipelines.spec import Spec

_LOOK_SECONDS = 2.0
_SCHEDULER_SECONDS = 30
_TOLD_SECONDS = 5
"""After which a pod has said how it ended."""


class Kubernetes(Cluster):
    kind: ClassVar[str] = "kubernetes"

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.spec, self.options = spec, spec.executor.kubernetes
        self.files = travelling(spec)
        self.watch: Watch | None = None
        self.looked = 0.0
        self.gone = deque[tuple[str, list[str], float]]()
        """Workers, what they were at, and when they went: it is not known yet why."""

    @property
    def described(self) -> str:
        workers = len(self.there())
        return f"Kubernetes, {self.place} ({workers} worker{'s' * (workers != 1)}, {self.slots} threads)"

    def sees(self, path: str) -> bool:
        return covered(path, self.spec)

    def __enter__(self) -> Kubernetes:
        for name in ("distributed", "bokeh", "tornado", "asyncio"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
        self.stack.enter_context(dask.config.set({"distributed.comm.timeouts.connect": f"{_SCHEDULER_SECONDS}s"}))
        try:
            if address := os.environ.get("DASK_SCHEDULER_ADDRESS"):
                self.in_there(address)
            else:
                self.from_here()
            register_serializers()
            self.listen()
            workers = self.there()
            self.slots = sum(worker["nthreads"] for worker in workers.values())
        except BaseException:
            self.__exit__(*sys.exc_info())
            raise
        return self

    def in_there(self, address: str) -> None:
        self.place = address.removeprefix("tcp://").split("-scheduler")[0]
        deadline = time.monotonic() + self.options.start_timeout
        self.connect(address, self.options.start_timeout)
        while not self.there():
            if time.monotonic() > deadline:
                remedy = "is there room for one? `pipelines k8s status` shows the pods"
                raise MachineError(Issue(f"no worker came up within {self.options.start_timeout} s", remedy))
            time.sleep(0.2)
        self.dashboard = answering(self.client.dashboard_link)

    def from_here(self) -> None:
        kube = self.stack.enter_context(Kube(self.options.context, self.options.namespace))
        self.place = self.options.attach or new_name(self.spec.name)
        if self.options.attach:
            if kube.get("DaskCluster", self.place) is None:
                raise MachineError(Issue(f"there is no DaskCluster {self.place} in {kube.namespace}", "kubectl get daskclusters"))  # fmt: skip
        else:
            self.stack.callback(remove, kube, self.place)
            kube.create(cluster(Setting(self.place, self.spec.executor, self.spec.root)))
        self.watch = Watch(kube, self.place, start_timeout=self.options.start_timeout)
        pod = self.watch.scheduler()
        self.connect(f"tcp://127.0.0.1:{self.stack.enter_context(kube.forwarded(pod, 8786))}", _SCHEDULER_SECONDS)
        self.watch.until(self.has_workers, "no worker connected")
        compare(self.client, f"the cluster {self.place}")
        port = self.stack.enter_context(_forwarded(kube, pod, self.spec.executor.dashboard_port))
        self.dashboard = answering(f"http://127.0.0.1:{port}/status")

    def connect(self, address: str, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while True:
            try:
                with warnings.catch_warnings():  # of other versions: `compare` says it
                    warnings.simplefilter("ignore", VersionMismatchWarning)
                    knock(address, 5)
                    client = Client(address, timeout="5s", set_as_default=False)
            except OSError as error:
                if time.monotonic() > deadline:
                    remedy = "kubectl logs of its pod says why"
                    raise MachineError(Issue(f"no scheduler answers at {address}: {error}", remedy)) from None
                time.sleep(0.5)
            else:
                self.client = self.stack.enter_context(client)
                return

    def has_workers(self, state: State) -> bool:
        return bool(self.there())

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.stack.close()
        except MachineError as left:
            if not isinstance(error, PipelineError):
                raise
            error.notes += tuple(issue.message for issue in left.issues)

    def ship(self, codes: Iterable[Code]) -> None:
        plugin = Project(codes, [File.of(path) for path in self.files])
        with self._guarded():
            self.client.register_plugin(plugin, name=f"pipelines-{id(plugin):x}")
        self.stack.callback(self._unship, f"pipelines-{id(plugin):x}")

    @property
    def memory_text(self) -> str:
        return f"{self.spec.executor.memory_limit or '2GiB'} of a worker's pod"

    def killed(self, stage: str) -> MachineError:
        if self.watch is not None:
            return super().killed(stage)
        said = f"workers died again and again in {stage}: it needs more than the {self.memory_text}, or it crashes"
        return OutOfMemory(Issue(said, "raise executor.memory_limit if the pods were OOMKilled, else see what its code does"))  # fmt: skip

    def died(self, worker: str, tasks: list[str]) -> None:
        """Told by the client's loop, in which one cannot ask why."""
        self.gone.append((worker, tasks, time.monotonic()))

    def _explain(self, *, wait: bool = False) -> None:
        """Why workers are gone. Of those whose pods have not said it yet: later, or `wait`."""
        while self.gone:
            worker, tasks, since = self.gone[0]
            starved = self._starved(worker)
            if not starved and self.watch is not None and time.monotonic() - since < _TOLD_SECONDS:
                if not wait:
                    return
                time.sleep(0.5)
                continue
            if starved:
                self.over_limit.add(worker)
            self.gone.popleft()
            super().died(worker, tasks)

    def _starved(self, worker: str) -> bool:
        """Whether it went for want of memory. In there nobody may ask for pods, but a worker pauses when most of its memory is taken."""
        told = (event for _, event in self.client.get_events(worker) if isinstance(event, dict))
        states = [event["status"] for event in told if event.get("action") == "worker-status-change"]
        if states[-1:] == ["paused"]:
            return True
        return self.watch is not None and self.watch.state().starved_at(urlsplit(worker).hostname or "")

    def _wait(self, futures: list[Any], names: set[str], progress: Progress) -> None:
        super()._wait(futures, names, progress)
        self._explain(wait=True)

    def _pause(self, waiting: list[Any]) -> None:
        super()._pause(waiting)
        if time.monotonic() - self.looked > _LOOK_SECONDS:
            self._explain()
            if self.watch is not None:
                self.watch.check()
            self.looked = time.monotonic()

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        """What the pods say goes beside what Dask says."""
        try:
            with super()._guarded():
                try:
                    yield
                except KilledWorker:
                    self._explain(wait=True)
                    raise
        except MachineError as error:
            if self.watch is not None and not error.notes:
                with suppress(MachineError):
                    state = self.watch.state()
                    error.issues += tuple(filter(None, [state.fatal()]))
                    error.notes = state.told()
            raise


def _forwarded(kube: Kube, pod: Object, port: int) -> Any:
    import socket

    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return kube.forwarded(pod, 8787)
    return kube.forwarded(pod, 8787, port or None)
