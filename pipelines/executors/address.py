"""`address`: a cluster that runs already. Nothing of it is started or ended here."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

from distributed import Client
from distributed.versions import VersionMismatchWarning

from pipelines.errors import Issue, MachineError
from pipelines.executors.cluster import Cluster, answering
from pipelines.graph import register_serializers

_SAME = ("pipelines", "dask", "distributed", "polars", "pyarrow", "cloudpickle", "msgpack")
_SECONDS = 10


class Address(Cluster):
    kind: ClassVar[str] = "address"
    restarts = False

    def __init__(self, address: str) -> None:
        super().__init__()
        self.address = address

    @property
    def described(self) -> str:
        workers = self.client.scheduler_info(n_workers=-1)["workers"]
        return f"the cluster at {self.address} ({len(workers)} worker{'s' * (len(workers) != 1)}, {self.slots} threads)"

    def __enter__(self) -> Address:
        try:
            with warnings.catch_warnings():  # of other versions: `_compare` says it, and ends the run
                warnings.simplefilter("ignore", VersionMismatchWarning)
                client = Client(self.address, timeout=f"{_SECONDS}s", set_as_default=False)
            self.client = self.stack.enter_context(client)
        except (OSError, TimeoutError, ValueError) as error:
            problem = Issue(
                f"no scheduler answers at {self.address}: {error}",
                "start one there (dask scheduler), or name another address",
            )
            raise MachineError(problem) from None
        try:
            self._compare()
            workers = self.client.scheduler_info(n_workers=-1)["workers"]
            self.slots = sum(worker["nthreads"] for worker in workers.values())
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

        for worker, there in self.client.run(sees, str(folder)).items():
            if not there:
                remedy = "keep the project in a folder that all workers share, under one path"
                raise MachineError(Issue(f"the worker {worker} does not see {folder}", remedy))

    def _compare(self) -> None:
        """Raises MachineError when scheduler or workers have other versions than this process."""
        versions = _by_value()
        try:
            self.client.wait_for_workers(1, timeout=_SECONDS)
        except TimeoutError:
            raise MachineError(
                Issue(f"the cluster at {self.address} has no workers", f"start some: dask worker {self.address}")
            ) from None
        there = {"the scheduler": self.client.run_on_scheduler(versions, _SAME)}
        there |= {f"the worker {name}": found for name, found in self.client.run(versions, _SAME).items()}
        here = versions(_SAME)
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


def _by_value() -> Callable[[tuple[str, ...]], dict[str, str | None]]:
    """What tells the versions, as a function that travels by value: where it is called, this package may be missing."""

    def versions(packages: tuple[str, ...]) -> dict[str, str | None]:
        import hashlib
        import importlib.metadata
        import importlib.util
        import pathlib
        import platform

        found: dict[str, str | None] = {"Python": ".".join(platform.python_version_tuple()[:2])}
        for package in packages:
            try:
                found[package] = importlib.metadata.version(package)
            except importlib.metadata.PackageNotFoundError:
                found[package] = None
        spec = importlib.util.find_spec("pipelines")
        if spec is not None and spec.submodule_search_locations:
            content = hashlib.sha256()
            folder = pathlib.Path(next(iter(spec.submodule_search_locations)))
            for path in sorted(folder.rglob("*.py")):
                content.update(path.relative_to(folder).as_posix().encode() + path.read_bytes())
            found["pipelines"] = f"{found['pipelines'] or ''} ({content.hexdigest()[:8]})".strip()
        return found

    return versions
