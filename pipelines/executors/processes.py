"""`processes`: a LocalCluster of one process for each core, without a dashboard. (`dask.multiprocessing` pulls every partition
through this process: 39.9 s and 6 GB where threads took 3.2 s.)
"""

from __future__ import annotations

from typing import ClassVar

from pipelines.executors.local import Local


class Processes(Local):
    kind: ClassVar[str] = "processes"

    def __init__(self, *, workers: int | None, threads: int | None, memory_limit: str | None) -> None:
        super().__init__(
            workers=workers, threads=threads, memory_limit=memory_limit, processes=True, dashboard_port=None
        )

    @property
    def described(self) -> str:
        return f"{self.workers} processes, {self.threads} thread{'s' * (self.threads > 1)} each"
