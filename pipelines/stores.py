"""Looking after a store: what is in it, whether it is whole, and what nobody needs any more."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import psutil

from pipelines.checkpoint import ALIVE_SECONDS, Damaged, Manifest, Name, Store, each
from pipelines.types import size_text

_DEAD_SECONDS = 10 * ALIVE_SECONDS
_KNOWN = ("uses", "steps")


@dataclass
class Contents:
    """All files of a store, by what they are."""

    partitions: dict[Name, Manifest] = field(default_factory=dict)
    doubtful: dict[Name, str] = field(default_factory=dict)
    """Partition: why it is not to be trusted."""
    loose: set[str] = field(default_factory=set)
    """Files of partitions that have no manifest, and temporary ones: writers are at work, or were killed."""
    foreign: list[str] = field(default_factory=list)
    used: dict[str, float] = field(default_factory=dict)
    """Path of a partition: seconds since 1970 of its last use."""
    held: set[str] = field(default_factory=set)
    """Paths of partitions that a run at work uses."""
    uses: dict[str, float] = field(default_factory=dict)
    """Path of a note of use: when it ended."""
    changed: dict[str, float] = field(default_factory=dict)
    """File: its last change, where that is known."""


def contents(store: Store) -> Contents:
    """Looks at every manifest, and at the size of every file."""
    found, files = Contents(), store.walk()
    found.changed = {path: changed for path, (_, changed) in files.items()}
    names = list[Name]()
    for path in files:
        folder, _, file = path.rpartition("/")
        if path.startswith("uses/") and file.endswith(".json"):
            _use(store, path, found)
        elif folder in _KNOWN and file.endswith(".json"):
            continue
        elif file.endswith(".tmp"):
            found.loose.add(path)
        elif len(folder) == 16 and file.endswith(".json"):
            names.append(Name(folder, file.removesuffix(".json")))
        elif len(folder) == 16 and file.endswith(".parquet"):
            found.loose.add(path)  # until a manifest names it
        else:
            found.foreign.append(path)
    for name, manifest in zip(names, each(store.look, names, store), strict=True):
        if isinstance(manifest, Manifest):
            found.partitions[name] = manifest
            found.loose.discard(name.file(manifest))
        elif manifest is not None:
            found.doubtful[name] = manifest
    return found


def _use(store: Store, path: str, found: Contents) -> None:
    found.uses[path] = found.changed.get(path, 0.0)  # what cannot be read was never finished
    with suppress(ValueError, KeyError, TypeError, OverflowError, RecursionError):
        use = json.loads(store.read(path) or b"")
        at_work = use["ended"] is None and time.time() - use["alive"] < _DEAD_SECONDS
        if use["host"] == platform.node() and not psutil.pid_exists(use["process"]):
            at_work = False  # it was killed
        last = float(use["ended"] or use["alive"])
        if at_work:
            del found.uses[path]
        else:
            found.uses[path] = last
        for partition in use["partitions"]:
            found.used[partition] = max(last, found.used.get(partition, 0.0))
            if at_work:
                found.held.add(partition)


def verify(store: Store, found: Contents) -> None:
    """Reads every partition; those that are not what was written become doubtful."""

    def read(one: tuple[Name, Manifest]) -> str | None:
        try:
            store.whole(*one)
        except Damaged:
            return "it is not what was written"
        return None

    wanted = list(found.partitions.items())
    for (name, _), wrong in zip(wanted, each(read, wanted, store), strict=True):
        if wrong:
            del found.partitions[name]
            found.doubtful[name] = wrong


def collect(store: Store, found: Contents, older: float, *, remove: bool = True) -> tuple[int, int]:
    """Removes partitions that no run used in the last `older` seconds, what is not to be trusted, and what killed writers left;
    nothing that a run at work uses or may be writing. Returns how many partitions, and bytes."""
    now, young = time.time(), time.time() - _DEAD_SECONDS
    count, size = 0, 0
    for name, manifest in [*found.partitions.items(), *((name, None) for name in found.doubtful)]:
        last = max(found.used.get(name.path, 0.0), found.changed.get(f"{name.path}.json", 0.0))
        if name.path in found.held or (manifest is not None and now - last < older):
            continue
        count, size = count + 1, size + (manifest.size if manifest else 0)
        if remove:
            store.forget(name)  # first: what is named is there
            if manifest is not None:
                store.remove(name.file(manifest))
    for path in found.loose:
        name_path = path.split(".", 1)[0]
        if name_path not in found.held and found.changed.get(path, 0.0) < young and remove:
            store.remove(path)
    for path, ended in found.uses.items():
        if now - ended >= older and remove:
            store.remove(path)
    return count, size


# ---- in words


def listed(found: Contents) -> str:
    """The steps that have partitions: how many, rows, bytes, when they were used last."""
    groups = dict[tuple[str, str, str], list[tuple[Name, Manifest]]]()
    for name, manifest in found.partitions.items():
        groups.setdefault((manifest.pipeline, manifest.step, name.folder), []).append((name, manifest))
    rows = [("pipeline", "step", "partitions", "rows", "size", "last used", "folder")]
    for (pipeline, step, folder), each_ in sorted(groups.items()):
        last = max(max(found.used.get(n.path, 0.0), found.changed.get(f"{n.path}.json", 0.0)) for n, _ in each_)
        of = max(m.layout[1] for _, m in each_)
        partitions = f"{len(each_)}" if len(each_) >= of else f"{len(each_)} of {of}"
        count, size = sum(m.rows for _, m in each_), sum(m.size for _, m in each_)
        rows.append((pipeline, step, partitions, f"{count:,}", size_text(size), _when(last), folder))
    if len(rows) == 1:
        return "the store is empty"
    total = sum(manifest.size for manifest in found.partitions.values())
    return f"{columns(rows)}\n{len(found.partitions):,} partitions, {size_text(total)}"


def described(found: Contents, folder: str) -> str:
    """One folder of the store: columns, and its partitions."""
    mine = sorted(
        ((name, manifest) for name, manifest in found.partitions.items() if name.folder.startswith(folder)),
        key=lambda one: one[1].layout,
    )
    first = mine[0][1]
    text = [f"{first.pipeline}, step {first.step}, made with {first.kernel}", "columns:"]
    text += [f"  {name}: {dtype}" for name, dtype in first.schema]
    rows = [("partition", "rows", "size", "written", "checksum", "key")]
    for name, m in mine:
        of = f"{m.layout[0] + 1} of {m.layout[1]}"
        rows.append((of, f"{m.rows:,}", size_text(m.size), m.written, m.checksum[:12], name.key))
    return "\n".join([*text, columns(rows)])


def columns(rows: Sequence[tuple[str, ...]]) -> str:
    """Rows of texts, one under another."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join("  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)  # fmt: skip


def _when(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds)) if seconds else "?"
