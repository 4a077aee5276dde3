"""What a process runs: versions of the packages whose data travels, and a hash of this one's sources."""

from __future__ import annotations

import functools
import importlib.metadata
from collections.abc import Callable

PACKAGES = ("pipelines", "dask", "distributed", "polars", "pyarrow", "cloudpickle", "msgpack")


@functools.cache
def version(package: str) -> str:
    """Of one package, here; `unknown` where it was not installed as one."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def versions() -> dict[str, str | None]:
    """Of this process."""
    return telling()(PACKAGES)


def telling() -> Callable[[tuple[str, ...]], dict[str, str | None]]:
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
