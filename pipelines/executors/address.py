"""`address`: a cluster that runs already. Nothing of it is started or ended here."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import ClassVar

from distributed import Client
from distributed.versions import VersionMismatchWarning

from pipelines.dashboard import answering
from pipelines.errors import Issue, MachineError
from pipelines.executors.cluster import Cluster, compare, knock
from pipelines.graph import register_serializers

_SECONDS = 10


class Address(Cluster):
    kind: ClassVar[str] = "address"
    restarts = False

    def __init__(self, address: str) -> None:
        super().__init__()
        self.address = address

    @property
    def described(self) -> str:
        workers = self.there()
        return f"the cluster at {self.address} ({len(workers)} worker{'s' * (len(workers) != 1)}, {self.slots} threads)"

    def __enter__(self) -> Address:
        try:
            with warnings.catch_warnings():  # of other versions: `compare` says it, and ends the run
                warnings.simplefilter("ignore", VersionMismatchWarning)
                knock(self.address, _SECONDS)
                client = Client(self.address, timeout=f"{_SECONDS}s", set_as_default=False)
            self.client = self.stack.enter_context(client)
        except (OSError, TimeoutError, ValueError) as error:
            remedy = "start one there (dask scheduler), or name another address: the dashboard has a port of its own"
            raise MachineError(Issue(f"no scheduler answers at {self.address}: {error}", remedy)) from None
        try:
            with self._guarded():
                compare(self.client, f"the cluster at {self.address}", f"start some: dask worker {self.address}")
                self.slots = sum(worker["nthreads"] for worker in self.there().values())
                register_serializers()
                self.listen()
                self.dashboard = answering(self.client.dashboard_link)
        except BaseException:
            self.stack.close()
            raise
        return self

    def reaches(self, folder: Path) -> None:
        """Raises MachineError when a worker does not see this folder: its files would be written elsewhere."""

        def sees(path: str) -> bool:
            import os

            return os.path.isdir(path)

        with self._guarded():
            found = self.client.run(sees, str(folder))
        for worker, there in found.items():
            if not there:
                remedy = "keep the project in a folder that all workers share, under one path"
                raise MachineError(Issue(f"the worker {worker} does not see {folder}", remedy))
