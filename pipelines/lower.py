"""Stages → tasks. Pure: nothing runs here, and what a task does is data that travels to any worker."""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from pipelines import kernel
from pipelines.errors import DataError, Issue, MachineError
from pipelines.graph import Graph, Key, Table, ref, refs, task
from pipelines.plan import digest
from pipelines.source import RUN
from pipelines.stages import Stage, Staged
from pipelines.steps.base import Apply, Loader, Output, Reduction
from pipelines.types import Schema

REJECTS = "bad_rows"
"""The folder, in a run's, for rows that sources leave out."""
FAN_IN = 32
"""States combined by one task of a tree."""


@dataclass(frozen=True)
class Program:
    """What a stage does with a partition."""

    steps: tuple[str, ...]
    applies: tuple[Apply, ...]
    reduction: Reduction | None
    schema: Schema
    input_schema: Schema
    in_order: bool = False
    """Whether the user's code looks at the rows."""
    loader: Loader | None = None
    columns: tuple[str, ...] = ()

    def load(self, partition: Any) -> pl.DataFrame:
        """For a source's partition."""
        assert self.loader is not None
        try:
            frame = self.loader.scan(partition, self.columns)
            try:
                return self.run(frame)
            except DataError as error:  # a cast that failed: of a value as it is in the file?
                raise self.loader.diagnose(partition, self.columns, kernel.KernelError(str(error))) or error from None
        except (kernel.KernelError, pl.exceptions.PolarsError, OSError) as error:
            if found := self.loader.diagnose(partition, self.columns, error):
                raise found from None
            raise self.failed(error) from None

    def one(self, frame: pl.DataFrame) -> pl.DataFrame:
        try:
            return self.run(frame.lazy())
        except kernel.KernelError as error:
            raise self.failed(error) from None

    def many(self, frames: Sequence[pl.DataFrame]) -> pl.DataFrame:
        """For partitions that belong together, in order."""
        return self.one(pl.concat(frames) if frames else pl.DataFrame(schema=dict(self.input_schema)))

    def bucket(self, split: Sequence[Sequence[pl.DataFrame]], index: int) -> pl.DataFrame:
        """For one bucket of every split partition, within one process."""
        return self.many([buckets[index] for buckets in split])

    def run(self, frame: pl.LazyFrame) -> pl.DataFrame:
        result = self.collect(frame, self.applies)
        if self.reduction is not None and (instead := self.reduction.refine(result)):
            result = self.collect(frame, (*self.applies[:-1], instead))
        return result

    def collect(self, frame: pl.LazyFrame, applies: tuple[Apply, ...]) -> pl.DataFrame:
        for apply in applies:
            frame = apply(frame)
        try:
            any_order = self.reduction is not None and self.reduction.any_order and not self.in_order
            return kernel.collect(frame.select(list(self.schema)), self.schema, any_order=any_order)
        except DataError as error:
            raise DataError(*(Issue(f"in {self.where}: {i.message}", i.remedy) for i in error.issues)) from None

    def failed(self, error: Exception) -> DataError:
        return DataError(Issue(f"in {self.where}: {error}", "look at the rows that reach this step with --to"))

    @property
    def where(self) -> str:
        return (
            f"the step {self.steps[0]!r}" if len(self.steps) == 1 else f"the steps {', '.join(map(repr, self.steps))}"
        )


@dataclass(frozen=True)
class Combine:
    """Several partitions' states → one."""

    program: Program

    def __call__(self, frames: Sequence[pl.DataFrame]) -> pl.DataFrame:
        return self.program.many(frames)


@dataclass(frozen=True)
class Split:
    """A partition's rows by the hash of their keys; equal keys meet in one bucket, in every process of one Polars version."""

    keys: tuple[str, ...]
    count: int

    def __call__(self, frame: pl.DataFrame) -> tuple[pl.DataFrame, ...]:
        # -0.0 and 0.0 are one key, and so is every NaN: Polars' hash sees to both
        bucket = (pl.struct(self.keys).hash(0) % self.count).cast(pl.UInt32)
        name = max(frame.columns, key=len) + "~"  # no column has this name
        found = frame.with_columns(bucket.alias(name)).partition_by(name, as_dict=True, include_key=False)
        return tuple(found.get((i,), frame.clear()) for i in range(self.count))


def pick(buckets: Sequence[pl.DataFrame], index: int) -> pl.DataFrame:
    return buckets[index]


@dataclass(frozen=True)
class Part:
    """What a sink's task leaves: how many rows, the first of them, and the file under its temporary name."""

    rows: int
    head: pl.DataFrame
    path: str | None = None
    bytes: int = 0


@dataclass(frozen=True)
class Finish:
    """The end of a stage that leaves the graph: writes the partition, or only looks at it."""

    method: Any
    head: int
    output: Output | None = None
    folder: str = ""
    mark: str = ""

    def __call__(self, given: Any, index: int = 0) -> Part:
        frame: pl.DataFrame = self.method(given)
        if self.output is None:
            return Part(len(frame), frame.head(self.head))
        path = temporary(resolved(self.output, self.folder), self.mark)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if self.output.format == "parquet":
                frame.write_parquet(path, row_group_size=1 << 20, compression="zstd", statistics=True)
            else:
                frame.write_csv(path)
            with path.open("rb") as written:
                os.fsync(written.fileno())
        except (OSError, pl.exceptions.ComputeError) as error:
            with contextlib.suppress(OSError):
                path.unlink()
            raise MachineError(Issue(f"cannot write {resolved(self.output, self.folder)}: {error}", "make room, or choose another path")) from None  # fmt: skip
        return Part(len(frame), frame.head(self.head), str(path), path.stat().st_size)


def resolved(output: Output, folder: str) -> Path:
    return Path(output.path.replace(RUN, folder, 1) if output.path.startswith(RUN) else output.path)


def temporary(path: Path, mark: str) -> Path:
    """A name beside the final one that no other run or attempt has."""
    return path.with_name(f".{path.name}.{mark}.{uuid.uuid4().hex[:8]}.tmp")


@dataclass(frozen=True)
class Lowered:
    """The tasks of every stage, and the keys of its partitions."""

    graph: Graph
    keys: dict[str, list[Key]]
    """Stage key: its partitions' keys in order."""

    def table(self, stages: Sequence[Stage], graph: Graph | None = None) -> Table:
        """The partitions of these stages, one after another, as a Dask collection (over another `graph`)."""
        name = (
            stages[0].key
            if len(stages) == 1
            else f"{stages[0].steps[-1]}-{digest([stage.key for stage in stages])[:16]}"
        )
        keys = [key for stage in stages for key in self.keys[stage.key]]
        return Table(self.graph if graph is None else graph, keys, stages[0].schema, name)

    def sources(self, stage: Stage) -> list[Key]:
        """The keys of the partitions that the stage's exchange takes."""
        return [key for before in stage.upstreams for key in self.keys[before.key]]


@dataclass(frozen=True)
class Ending:
    """How the tables that leave the graph end: where a run writes and how many rows of each it shows."""

    folder: str
    mark: str
    head: int


def lower(staged: Staged, *, shares_memory: bool = True, ending: Ending | None = None) -> Lowered:
    """The one graph. With an `ending`, the targets' stages end in `Part`s; without, all partitions are tables."""
    lowered = Lowered({}, {})
    graph, keys = lowered.graph, lowered.keys
    looked_at = {stage.key for name in _shown(staged) for stage in staged.tables[name]} if ending else set[str]()
    for stage in staged.stages:
        stage_keys: list[Key] = [(stage.key, i) for i in range(stage.count)]
        keys[stage.key] = stage_keys
        program = Program(
            steps=stage.steps,
            applies=stage.program,
            reduction=stage.reduction,
            schema=stage.schema,
            input_schema=stage.upstreams[0].schema if stage.upstreams else {},
            in_order=stage.runs_python,
            loader=_loader(stage, ending),
            columns=stage.columns,
        )
        method: Any
        inputs: list[Any]
        if stage.input is not None:
            method, inputs = program.load, list(stage.input.partitions)
        elif stage.exchange.kind == "none":
            method, inputs = program.one, [ref(key) for key in lowered.sources(stage)]
        elif stage.exchange.kind == "hash":
            _hash(lowered, stage, program, shares_memory)
            continue
        else:
            gathered = lowered.sources(stage)
            if stage.exchange.kind == "tree":
                gathered = _tree(graph, stage, gathered)
            method, inputs = program.many, [refs(gathered)]
        if stage.sink is not None and ending is not None:
            method = Finish(method, ending.head, stage.sink, ending.folder, ending.mark)
        for key, given in zip(stage_keys, inputs, strict=True):
            graph[key] = task(key, method, given)
        if stage.key in looked_at and ending is not None:
            look = Finish(_same, ending.head)
            keys[_look(stage)] = [(_look(stage), i) for i in range(stage.count)]
            for key, end in zip(stage_keys, keys[_look(stage)], strict=True):
                graph[end] = task(end, look, ref(key))
    return lowered


def _loader(stage: Stage, ending: Ending | None) -> Loader | None:
    if stage.input is None or ending is None:
        return stage.input.loader if stage.input else None
    return stage.input.loader.rejecting(f"{ending.folder}/{REJECTS}/{stage.steps[0]}")


def _same(frame: pl.DataFrame) -> pl.DataFrame:
    return frame


def _shown(staged: Staged) -> set[str]:
    """Targets that are not written: a run only looks at them."""
    return {name for name in staged.targets if staged.plan.nodes[name].role != "sink"}


def _look(stage: Stage) -> str:
    return f"show-{stage.key}"


def ending_keys(staged: Staged, lowered: Lowered, target: str) -> list[Key]:
    """The keys of the target's `Part`s."""
    return [
        key
        for stage in staged.tables[target]
        for key in lowered.keys[stage.key if stage.sink is not None else _look(stage)]
    ]


def _tree(graph: Graph, stage: Stage, keys: list[Key]) -> list[Key]:
    assert stage.exchange.combine is not None
    schema = stage.upstreams[0].schema
    combine = Combine(Program(stage.steps, (stage.exchange.combine,), None, schema, schema))
    name, level = f"combine+{stage.key}", 0
    while len(keys) > FAN_IN:
        level += 1
        merged = list[Key]()
        for i, start in enumerate(range(0, len(keys), FAN_IN)):
            key: Key = (name, level, i)
            graph[key] = task(key, combine, refs(keys[start : start + FAN_IN]))
            merged.append(key)
        keys = merged
    return keys


def _hash(lowered: Lowered, stage: Stage, program: Program, shares_memory: bool) -> None:
    graph = lowered.graph
    split, source = Split(stage.exchange.keys, stage.count), lowered.sources(stage)
    splits: list[Key] = [(f"split+{stage.key}", i) for i in range(len(source))]
    for key, given in zip(splits, source, strict=True):
        graph[key] = task(key, split, ref(given))
    together = refs(splits)
    for i, key in enumerate(lowered.keys[stage.key]):
        if shares_memory:
            graph[key] = task(key, program.bucket, together, i)
            continue
        # across processes a reader gets its bucket alone, not whole partitions
        picked: list[Key] = [(f"pick+{stage.key}", i, j) for j in range(len(splits))]
        for pick_key, split_key in zip(picked, splits, strict=True):
            graph[pick_key] = task(pick_key, pick, ref(split_key), i)
        graph[key] = task(key, program.many, refs(picked))
