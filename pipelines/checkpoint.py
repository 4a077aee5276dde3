"""The durable store: partitions of checkpoints, found again by what they are, in any later run and on any executor.

A partition is a Parquet file and a manifest beside it, which is written last: without one, or where anything contradicts it,
the partition does not exist. Its name is the key that `stages` gives it. No writer has to know of another: the same key
means the same rows, and both files appear under their names when they are complete.
"""

from __future__ import annotations

import functools
import hashlib
import io
import itertools
import json
import os
import platform
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import Any, TypeVar

import polars as pl
import xxhash
from msgspec import Struct
from msgspec.structs import asdict

from pipelines import events, kernel
from pipelines.errors import Issue, MachineError, machine_error, redacted
from pipelines.files import Hashed, placed, temporary, under_way, written
from pipelines.plan import Plan, digest
from pipelines.spec import RETRIES, Spec
from pipelines.stages import Stage, Staged
from pipelines.steps.base import Input
from pipelines.types import Schema

_LONG_NAME = 50
"""Characters: four bytes each fit a file name."""
PACKED = {"packed as": pl.String(), "packed": pl.Binary()}
"""The columns of arrays, models and metrics in a store."""
FORMAT = "v2"
"""The folder, in a store's, of all that this version reads."""
ALIVE_SECONDS = 30.0
"""How often a run says that it is alive; after ten times that it is not."""


_T = TypeVar("_T")


class Damaged(MachineError):
    """A partition of the store is not what its manifest says. It exists no more; what needs it is computed again."""


class Name(Struct, frozen=True):
    """What a partition is called in a store."""

    folder: str
    """Of what was done."""
    key: str

    @property
    def path(self) -> str:
        return f"{self.folder}/{self.key}"

    def file(self, manifest: Manifest) -> str:
        """Where the rows are. Two that write the same partition at once, with states in other orders, have a file each."""
        return f"{self.path}.{manifest.checksum[:16]}.parquet"


class Manifest(Struct, frozen=True):
    """What a store says of a partition."""

    key: str
    rows: int
    size: int
    checksum: str
    """Of the file: XXH3 with 128 bits, in hexadecimal. It tells what was torn or flipped; nothing here is signed."""
    schema: tuple[tuple[str, str], ...]
    layout: tuple[int, int]
    """(index, number of partitions) in the table of who wrote it."""
    pipeline: str
    step: str
    kernel: str
    written: str

    def text(self) -> bytes:
        facts = asdict(self)
        return json.dumps({**facts, "check": _check(facts)}).encode()

    @staticmethod
    def of(text: bytes) -> Manifest:
        """Raises ValueError for what is none, or was changed."""
        try:
            facts = json.loads(text)
            if facts.pop("check") != _check(facts):
                raise ValueError("it is not what was written")
            facts["schema"] = tuple((str(name), str(dtype)) for name, dtype in facts["schema"])
            facts["layout"] = tuple(facts["layout"])
            return Manifest(**facts)
        except (KeyError, TypeError, AttributeError, UnicodeDecodeError, RecursionError) as error:
            raise ValueError(str(error)) from None


def _check(facts: Mapping[str, Any]) -> str:
    return hashlib.blake2b(json.dumps(facts, sort_keys=True).encode(), digest_size=8).hexdigest()


class Store(Struct, frozen=True):
    """A folder of this machine, or of any file system that fsspec knows, by its URL. Small: it travels with the tasks."""

    url: str
    options: str = "{}"
    """For the file system, as JSON."""

    @property
    def is_local(self) -> bool:
        return "://" not in self.url

    # ---- files

    def read(self, path: str) -> bytes | None:
        """A file's content. None: there is none."""
        return self._tried("read", lambda: bytes(self._files().cat_file(self._full(path))))

    def write(self, path: str, content: bytes) -> None:
        """Under its name when it is complete. When it is on the disk the system decides: what a machine that went down tore
        is seen by its checksum, and to wait for the disk after every partition takes longer than many compute."""
        self._tried("write to", lambda: self._write(self._full(path), content))

    def _write(self, full: str, content: bytes) -> None:
        if not self.is_local:
            self._files().pipe_file(full, content)
            return
        with written(full) as file:
            file.write(content)

    def remove(self, path: str) -> None:
        with suppress(FileNotFoundError):
            self._tried("remove from", lambda: self._files().rm_file(self._full(path)))

    def size(self, path: str) -> int | None:
        """Bytes of a file. None: there is none."""
        return self._tried("read", lambda: int(self._files().size(self._full(path))))

    def _tried(self, doing: str, call: Callable[[], _T]) -> _T | None:
        """What the call gives, tried again where what failed may pass; None for a file to read that is not there."""
        retries = 0 if self.url.startswith("s3://") else RETRIES  # s3fs has tried five times itself
        for tries in itertools.count():
            try:
                with self._said(doing):
                    return call()
            except (FileNotFoundError, IsADirectoryError):
                return None
            except MachineError as error:
                if tries == retries or not error.passing:
                    raise
                events.back_off(tries)
        raise AssertionError

    def walk(self) -> dict[str, tuple[int, float]]:
        """All files: path: (bytes, seconds since 1970 of its last change; 0 where that is not known)."""
        top = self._full("")
        if self.is_local and os.path.isfile(self.url):
            raise MachineError(Issue(f"the store {self.url} is a file", "set `store:` to a folder"))
        with self._said("read"):
            files = self._files()
            files.invalidate_cache()
            try:
                found = files.find(top, detail=True)
            except FileNotFoundError as error:
                if self.is_local:
                    return {}
                raise machine_error(f"cannot read the store {self.url}", error, "see whether it is there") from None
            return {
                path[len(top) :].lstrip("/"): (int(info["size"] or 0), _seconds(info))
                for path, info in found.items()
                if info["type"] == "file"
            }

    def others(self) -> list[str]:
        """The folders of other versions of this program."""
        with self._said("read"):
            try:
                found = self._files().ls(self._full("").removesuffix(f"/{FORMAT}"), detail=False)
            except FileNotFoundError:
                return []
        names = (str(path).rstrip("/").rpartition("/")[2] for path in found)
        return sorted(name for name in names if re.fullmatch(r"v\d+", name) and name != FORMAT)

    def _full(self, path: str) -> str:
        root = self.url if self.is_local else self.url.split("://", 1)[1]
        root = re.sub("/{2,}", "/", root)  # of a folder with an empty name s3fs lists nothing
        return "/".join(filter(None, (root.rstrip("/"), FORMAT, path)))

    def _files(self) -> Any:
        return _file_system(self.url, self.options)

    @contextmanager
    def _said(self, doing: str) -> Iterator[None]:
        try:
            yield
        except MachineError:
            raise
        except ImportError as error:
            said = f"the store {self.url} needs a package: {error}"
            raise MachineError(Issue(said, "install it: pip install 'pipelines[s3]' for s3://")) from None
        except OSError as error:
            if isinstance(error, FileNotFoundError | IsADirectoryError) and doing != "write to":
                raise
            raise machine_error(
                f"cannot {doing} the store {self.url}", error, "set `store:` to another place"
            ) from None
        except Exception as error:  # a file system's own: no credentials, no such bucket, a wrong URL
            said = f"{type(error).__name__}: {error}"
            raise MachineError(Issue(f"cannot {doing} the store {self.url}: {said}", "see whether it is there and the credentials are right")) from None  # fmt: skip

    # ---- partitions

    def put(self, name: Name, frame: pl.DataFrame, told: Mapping[str, Any]) -> Manifest:
        """Keeps a partition's rows."""
        manifest = self._tried("write to", lambda: self._put(name, frame, told))
        assert manifest is not None
        self.write(f"{name.path}.json", manifest.text())
        return manifest

    def _put(self, name: Name, frame: pl.DataFrame, told: Mapping[str, Any]) -> Manifest:
        def manifest(size: int, checksum: str) -> Manifest:
            return Manifest(
                key=name.key,
                rows=len(frame),
                size=size,
                checksum=checksum,
                schema=_texts(frame.schema),
                kernel=kernel.VERSION,
                written=datetime.now(UTC).isoformat(timespec="seconds"),
                **told,
            )

        if not self.is_local:
            out = io.BytesIO()
            frame.write_parquet(out, compression="lz4", statistics=False)
            made = manifest(out.tell(), xxhash.xxh3_128_hexdigest(out.getbuffer()))
            self._files().pipe_file(self._full(name.file(made)), out.getvalue())
            return made
        # Polars writes while it encodes: to hand Linux 16 MB in one call takes longer than all of this. And a local disk
        # takes more bytes in less time than it takes to pack them.
        with under_way(temporary(self._full(name.path))) as file:
            hashed: Any = Hashed(file)
            try:
                frame.write_parquet(hashed, compression="uncompressed", statistics=False)
            except pl.exceptions.PolarsError as error:
                raise hashed.failed or error from None
            file.close()
            made = manifest(hashed.size, hashed.checksum)
            placed(file.name, self._full(name.file(made)))
            return made

    def get(self, name: Name, manifest: Manifest, columns: Sequence[str] | None = None) -> pl.DataFrame:
        """A partition's rows, all columns or these. Raises Damaged as `whole` does."""
        content = self.whole(name, manifest)
        return pl.read_parquet(io.BytesIO(content), columns=None if columns is None else list(columns)).rechunk()

    def whole(self, name: Name, manifest: Manifest) -> bytes:
        """A partition's file. Raises Damaged, and forgets the partition, when it is not what was kept."""
        content = self.read(name.file(manifest))
        if content is not None and xxhash.xxh3_128_hexdigest(content) == manifest.checksum:
            return content
        self.forget(name)
        wrong = "is gone" if content is None else "is not what was written"
        raise Damaged(Issue(f"{self.url}: a partition of {manifest.step} {wrong} ({name.file(manifest)})", "run again: it is computed anew"))  # fmt: skip

    def forget(self, name: Name) -> None:
        self.remove(f"{name.path}.json")

    def look(self, name: Name, schema: Schema | None = None) -> Manifest | str | None:
        """The partition's manifest; in words, why it is not to be trusted; or None where there is none."""
        text = self.read(f"{name.path}.json")
        if text is None:
            return None
        try:
            manifest = Manifest.of(text)
        except ValueError:
            return "its manifest cannot be read"
        if manifest.key != name.key:
            return "its manifest is that of another"
        if schema is not None and manifest.schema != _texts(schema):
            return "its columns are not those of the plan"
        size = self.size(name.file(manifest))
        if size != manifest.size:
            return "its file is gone" if size is None else f"its file has {size} bytes of {manifest.size}"
        return manifest


@functools.lru_cache
def _file_system(url: str, options: str) -> Any:
    import fsspec

    kind = url.split("://", 1)[0] if "://" in url else "file"
    return fsspec.filesystem(kind, **json.loads(options))


def _seconds(info: Mapping[str, Any]) -> float:
    when = info.get("mtime") or info.get("LastModified") or info.get("last_modified") or 0.0
    return float(when.timestamp() if isinstance(when, datetime) else when)


def _texts(schema: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    return tuple((name, repr(dtype)) for name, dtype in schema.items())


def store_of(spec: Spec) -> Store:
    """The config's; else runs/.store in the project."""
    given = spec.store
    path = given.url.removeprefix("file://") if given else "runs/.store"
    if given is None or "://" not in path:
        return Store(str(spec.root / path))
    return Store(given.url, json.dumps(given.options, sort_keys=True))


# ---- tasks


class Keep(Struct, frozen=True):
    """The end of a task whose partition is kept. One that somebody kept meanwhile is not computed again."""

    method: Any
    store: Store
    name: Name
    schema: tuple[tuple[str, str], ...]
    told: Mapping[str, Any]
    fresh: bool

    def __call__(self, *given: Any) -> Any:
        if not self.fresh and isinstance(found := self.store.look(self.name), Manifest) and found.schema == self.schema:
            with suppress(Damaged):
                return given_back(self.store.get(self.name, found))
        value = self.method(*given)
        began = time.time()
        manifest = self.store.put(self.name, _to_keep(value), self.told)
        events.tell("kept", step=self.told["step"], bytes=manifest.size, seconds=time.time() - began)
        return value


def _to_keep(value: Any) -> pl.DataFrame:
    if isinstance(value, pl.DataFrame):
        return value
    from pipelines.learning.stored import packed

    return packed(value)


def given_back(frame: pl.DataFrame) -> Any:
    """What was kept: a table, or the value that is packed in one."""
    if dict(frame.schema) != PACKED:
        return frame
    from pipelines.learning.stored import unpacked

    return unpacked(frame)


class Load(Struct, frozen=True):
    """A partition from the store."""

    store: Store
    name: Name
    manifest: Manifest
    columns: tuple[str, ...] | None
    """None: all."""

    def __call__(self) -> Any:
        return given_back(self.store.get(self.name, self.manifest, self.columns))


# ---- what is there


class Durable(Struct, frozen=True):
    """The store as one run sees it."""

    store: Store
    found: Mapping[str, Mapping[int, Manifest]] = {}
    """Stage key: partitions that are there."""
    doubts: tuple[str, ...] = ()
    """What is there and not trusted, in words."""
    fresh: bool = False

    def count(self, stages: Iterable[Stage]) -> tuple[int, int]:
        """Of all their partitions those that are there, and all."""
        stages = list(stages)
        return sum(len(self.found.get(s.key, ())) for s in stages), sum(s.count for s in stages)

    def task(
        self, staged: Staged, stage: Stage, index: int, method: Callable[..., Any], columns: tuple[str, ...] | None
    ) -> Keep | Load:
        """What makes a partition, or finds these columns of it."""
        name = name_of(stage, index)
        if manifest := self.found.get(stage.key, {}).get(index):
            return Load(self.store, name, manifest, columns)
        told = {"pipeline": staged.plan.spec.name, "step": staged.durable[stage.key], "layout": (index, stage.count)}
        return Keep(method, self.store, name, _texts(stored(stage)), told, self.fresh)


def stored(stage: Stage) -> Schema:
    """The columns of its partitions in a store."""
    return PACKED if stage.work is not None and stage.work.gives.kind != "table" else stage.schema


def name_of(stage: Stage, index: int) -> Name:
    # a table has all columns of its step; states below one have those that another config's steps above need
    return Name(digest(stage.means, list(stage.schema))[:16], stage.parts[index])


def names(staged: Staged) -> Iterator[tuple[Stage, int, Name]]:
    """Of all partitions that are to be durable."""
    for stage in staged.stages:
        if stage.key in staged.durable:
            yield from ((stage, i, name_of(stage, i)) for i in range(stage.count))


def resume(staged: Staged, store: Store, fresh: bool = False, careful: bool = False) -> Durable:
    """What of the plan is in the store. `careful`: all of it is read, for something was damaged."""
    if fresh:
        return Durable(store, fresh=True)
    found = dict[str, dict[int, Manifest]]()
    doubts = [
        f"the store has tables of another version of this program ({other}): not used; remove its folder {other}/ for the space"
        for other in store.others()
    ]
    wanted = list(names(staged))

    def look(one: tuple[Stage, int, Name]) -> Manifest | str | None:
        manifest = store.look(one[2], stored(one[0]))
        if careful and isinstance(manifest, Manifest):
            try:
                store.whole(one[2], manifest)
            except Damaged:
                return "its file is not what was written"
        return manifest

    looked = each(look, wanted, store)
    for (stage, i, name), manifest in zip(wanted, looked, strict=True):
        if isinstance(manifest, Manifest):
            found.setdefault(stage.key, {})[i] = manifest
        elif manifest is not None:
            doubts.append(f"{staged.durable[stage.key]}: a stored partition is not trusted: {manifest} ({name.path})")
    return Durable(store, found, tuple(doubts))


def each(call: Callable[[Any], Any], items: Sequence[Any], store: Store) -> list[Any]:
    """The call's results, in order; of a store that is far away, many at once."""
    if store.is_local:
        return [call(item) for item in items]
    with ThreadPoolExecutor(16) as pool:
        return list(pool.map(call, items))


@contextmanager
def using(store: Store, run: str, partitions: Iterable[tuple[Stage, int, Name]]) -> Iterator[Callable[[], None]]:
    """Notes in the store that a run uses these partitions, so that they are not removed. What it gives is to be called now and
    then: a run that is silent for long is taken for dead."""
    path, held, last = f"uses/{run}.json", [name.path for _, _, name in partitions], 0.0
    began = time.time()

    def note(ended: float | None = None) -> None:
        nonlocal last
        last = time.time()
        use = {
            "run": run,
            "host": platform.node(),
            "process": os.getpid(),
            "began": began,
            "alive": last,
            "ended": ended,
        }
        store.write(path, json.dumps({**use, "partitions": held}).encode())

    def beat() -> None:
        if time.time() - last >= ALIVE_SECONDS:
            note()

    note()
    try:
        yield beat
    finally:
        with suppress(MachineError):
            store.remove(path)  # to put a file in another's place may mean to wait for the disk
            note(time.time())


# ---- why


def lineage(plan: Plan, step: str) -> dict[str, Any]:
    """What a step's table depends on, to be compared with a later one."""
    nodes = [node for node in plan.upstream((step,)) if not node.origin]
    files = {
        redacted(file.path): [file.size, file.mtime_ns]
        for node in nodes
        if isinstance(node.bound, Input)
        for file in node.bound.files
    }
    return {
        "kernel": kernel.VERSION,
        "files": files,
        "steps": {
            node.name: {
                "own": node.own,
                "kind": node.kind,
                "inputs": list(node.inputs),
                "code": {str(function): function.digest for function in node.functions},
                "types": dict(_texts(node.schema)) if isinstance(node.bound, Input) else {},
            }
            for node in nodes
        },
    }


def difference(before: Mapping[str, Any] | None, now: Mapping[str, Any]) -> str:
    """Why a table is another one, or has to be made again, in a few words."""
    if before is None:
        return "nothing is stored yet"
    if before["kernel"] != now["kernel"]:
        return " → ".join(_kernel(each["kernel"]) for each in (before, now))
    one, other = before["files"], now["files"]
    changed = [path for path in other if path in one and one[path] != other[path]]
    for what, paths in (
        ("changed", changed),
        ("is new", [path for path in other if path not in one]),
        ("is gone", [path for path in one if path not in other]),
    ):
        if paths:
            more = f", and {len(paths) - 1} more" if len(paths) > 1 else ""
            return f"the input file {os.path.basename(paths[0])} {what}{more}"
    steps, new = before["steps"], now["steps"]
    if gone := [
        name for name in steps if name not in new and steps[name]["own"] not in {s["own"] for s in new.values()}
    ]:
        return f"the step {gone[0]} is gone"
    for name, step in new.items():
        if (old := steps.get(name)) is None:
            if step["own"] not in {s["own"] for s in steps.values()}:
                return f"the step {name} is new"
        elif old["own"] != step["own"]:
            if old["types"] != step["types"]:
                return f"the columns of {name} changed"
            if code := [each for each in step["code"] if old["code"].get(each) not in (None, step["code"][each])]:
                return f"the code of {code[0]} changed"
            return f"the step {name} changed"
        elif old["inputs"] != step["inputs"]:
            return f"the step {name} reads from other steps"
    return "the store has not all of it: it was not finished, was removed, or is cut differently now"


def _kernel(version: str) -> str:
    return version.replace("polars-", "Polars ").rpartition("-")[0]


def reason(store: Store, plan: Plan, step: str) -> str:
    """Why the step's table is not that of the last run that had the step; notes for the next one what it is made of."""
    name = f"{plan.spec.name}.{step}"
    name = name if len(name) <= _LONG_NAME else f"{name[:_LONG_NAME]}.{hashlib.sha256(name.encode()).hexdigest()[:16]}"
    path, now = f"steps/{name}.json", lineage(plan, step)
    before, why = None, difference(None, now)
    # whatever somebody made of the file
    with suppress(ValueError, TypeError, KeyError, AttributeError, RecursionError):
        before = json.loads(store.read(path) or "null")
        why = difference(before, now)
    if before != now:
        store.write(path, json.dumps(now).encode())
    return why
