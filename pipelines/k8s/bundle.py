"""What of a project a submitted run needs, as one archive: config, overlays, modules, small input files; by content, with their times."""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct
from msgspec.structs import asdict

from pipelines.code import collect
from pipelines.errors import ConfigError, Issue
from pipelines.k8s.reach import travelling
from pipelines.spec import Spec
from pipelines.types import size_text

MOST = 1_000_000
"""Bytes: a ConfigMap holds 1 MiB."""
_ORDER = "run.json"


class Order(Struct, frozen=True):
    """What the job's pod is told to do."""

    root: str
    args: tuple[str, ...]
    """Of `pipelines run`, in the project's folder."""
    files: Mapping[str, int]
    """Path relative to the project: the time of its last change, in ns; a plan knows a file by it."""
    covered: tuple[str, ...]
    """Paths that lead to volumes: what is written there stays there."""
    versions: Mapping[str, Any]
    """Of the packages where it was submitted."""


def packed(spec: Spec, overlays: Sequence[Path], params: Sequence[str], versions: Mapping[str, Any]) -> bytes:
    """The archive. Raises ConfigError when something cannot travel, or all together is too large."""
    contents, times = dict[str, bytes](), dict[str, int]()

    def add(path: Path, name: str, content: bytes | None = None) -> str:
        contents[name] = path.read_bytes() if content is None else content
        times[name] = path.stat().st_mtime_ns if path.exists() else 0
        return name

    def inside(path: Path) -> str:
        return path.resolve().relative_to(spec.root).as_posix()

    args = [add(spec.path, inside(spec.path))]
    for i, overlay in enumerate(overlays):
        here = overlay.resolve()
        name = inside(here) if here.is_relative_to(spec.root) else f"runs/.overlays/{i}/{here.name}"
        args += ["--overlay", add(overlay, name)]
    for given in params:
        args += ["-p", given]
    for path in travelling(spec):
        add(path, inside(path))
    for step in spec.steps:
        if function := getattr(step.step, "function", None):
            for module in collect(function.partition(":")[0], spec.folders).modules:
                add(Path(module.path), inside(Path(module.path)), module.source)
    order = Order(str(spec.root), tuple(args), times, tuple(spec.executor.kubernetes.volumes), versions)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:xz") as archive:
        for name, content in {_ORDER: json.dumps(asdict(order)).encode(), **contents}.items():
            entry = tarfile.TarInfo(f"project/{name}" if name != _ORDER else name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    made = buffer.getvalue()
    if len(made) > MOST:
        largest = max(contents, key=lambda name: len(contents[name]))
        what = f"what travels with the run has {size_text(len(made))} packed, more than a ConfigMap holds; the largest is {largest} ({size_text(len(contents[largest]))})"  # fmt: skip
        remedy = "mount the data (executor.kubernetes.volumes), or put the project into an image of its own: docs/kubernetes.md"
        raise ConfigError(Issue(what, remedy))
    return made


def listed(archive: bytes) -> list[str]:
    with tarfile.open(fileobj=io.BytesIO(archive)) as opened:
        return [entry.name.removeprefix("project/") for entry in opened if entry.name != _ORDER]


def unpacked(archive: bytes) -> Order:
    """Lays the project out under its own path, and gives the order."""
    with tarfile.open(fileobj=io.BytesIO(archive)) as opened:
        told = opened.extractfile(_ORDER)
        assert told is not None
        read = json.load(told)
        order = Order(**{**read, "args": tuple(read["args"]), "covered": tuple(read["covered"])})
        root = Path(order.root)
        (root / "runs").mkdir(parents=True, exist_ok=True)  # which marks it as a project's folder
        for entry in opened:
            source = opened.extractfile(entry)
            if entry.name == _ORDER or source is None:
                continue
            name = entry.name.removeprefix("project/")
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(source.read())
            os.utime(path, ns=(order.files[name], order.files[name]))
    return order
