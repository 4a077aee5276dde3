"""Stages → tasks. Pure: nothing runs here, and what a task does is data that travels to any worker."""

from __future__ import annotations

import functools
import io
import itertools
import math
import os
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import polars as pl
from msgspec import Struct
from msgspec.structs import replace

from pipelines import events, kernel, packing
from pipelines.checkpoint import Durable, Load
from pipelines.errors import (
    DataError,
    Issue,
    MachineError,
    PipelineError,
    Place,
    machine_error,
    may_pass,
    of_machine,
    stopped,
)
from pipelines.exchange import Cuts, Hash, Parcel, Point, Range, Room, Share, Shares, apart, within
from pipelines.files import under_way
from pipelines.graph import Graph, Key, Table, Tasks, needed, ref, refs, task
from pipelines.order import Order
from pipelines.plan import digest
from pipelines.source import RUN
from pipelines.stages import Link, Stage, Staged, With
from pipelines.steps.base import Apply, Loader, Operation, Reduction, Sorting
from pipelines.types import Schema, beyond_calendar
from pipelines.work import Output, Ref

Rows = pl.DataFrame | pl.LazyFrame
"""A partition's: as they are, or as they are read."""
REJECTS = "bad_rows"
"""The folder, in a run's, for rows that sources leave out."""
FAN_IN = 32
"""States combined by one task of a tree."""
_TRAVELS = 256 << 20
"""Bytes of one result file, at most, that come back with a task's result."""
_ORDERED = 20_000
"""Tasks whose order is looked at to read ahead: it takes 20 ms for a thousand."""
_SLOTS = 40_000
"""About so many pieces, at most, in one exchange: each costs 0.2 ms to write and read."""


_SLOW = set[tuple[str, ...]]()
"""Steps with values that the fastest way is not for: this process does not try it again, for each try reads the partition."""


class Program(Struct, frozen=True):
    """What a stage does with a partition."""

    steps: tuple[str, ...]
    applies: tuple[Apply | With, ...]
    reduction: Reduction | None
    after: tuple[Apply | With, ...]
    schema: Schema
    input_schemas: tuple[Schema, ...] = ()
    """Of each link."""
    in_order: bool = False
    """Whether the user's code looks at the rows."""
    loader: Loader | None = None
    columns: tuple[str, ...] = ()
    by_row: bool = False
    """Whether rows are only read, and each is looked at by itself."""
    doers: tuple[tuple[str, Place], ...] = ()
    """Of each of `applies` the step, and where it stands."""

    def load(self, partition: Any, *sides: pl.DataFrame) -> pl.DataFrame:
        """For a source's partition."""
        assert self.loader is not None
        try:
            frame = self.loader.scan(partition, self.columns)
            try:
                return self.run(frame, *sides)
            except DataError as error:  # a cast that failed: of a value as it is in the file?
                if error.passing:
                    raise
                raise self.loader.diagnose(partition, self.columns, kernel.KernelError(str(error))) or error from None
        except (kernel.KernelError, pl.exceptions.PolarsError, OSError) as error:
            if not of_machine(error) and (found := self.loader.diagnose(partition, self.columns, error)):
                raise found from None
            raise self.failed(error) from None

    def tables(self, *frames: pl.DataFrame) -> pl.DataFrame:
        """For one partition of each link."""
        try:
            return self.run(frames[0], None, *frames[1:])
        except (kernel.KernelError, OSError) as error:
            raise self.failed(error) from None

    def together(self, frames: Sequence[pl.DataFrame], *sides: pl.DataFrame) -> pl.DataFrame:
        """For partitions of the first link that belong together, in order."""
        return self.tables(self.concat(frames, 0), *sides)

    def concat(self, frames: Sequence[pl.DataFrame], link: int) -> pl.DataFrame:
        return pl.concat(frames) if frames else pl.DataFrame(schema=dict(self.input_schemas[link]))

    def run(self, frame: Rows, *sides: pl.DataFrame | None) -> pl.DataFrame:
        """`sides`: of each link its table; the first is None where the query begins with it."""
        try:
            return self.computed(frame, sides)
        except DataError as error:
            if not error.passing:
                step, place = self.refuses(frame, sides)
                where = f"in the step {step!r}" if step else f"in {self.where}"
                error.issues = tuple(
                    replace(i, message=f"{where}: {i.message}", place=i.place or place) for i in error.issues
                )
            raise

    def refuses(self, frame: Rows, sides: Sequence[pl.DataFrame | None]) -> tuple[str, Place | None]:
        """The step that the data fails in: the first without which the query runs. The user's code is not called again."""
        for i, (step, place) in enumerate(() if self.in_order else self.doers):
            query = self.query(frame, sides, self.applies[: i + 1])
            try:
                kernel.collect(query, query.collect_schema())
            except DataError:
                return step, place
            except Exception:  # that is another matter
                break
        return "", None

    def computed(self, frame: Rows, sides: Sequence[pl.DataFrame | None]) -> pl.DataFrame:
        if self.reduction is None:
            frame, applies = self.opened(frame)
            return self.collect(self.query(frame, sides, applies), self.schema, self.by_row)
        state = self.reduction.state if self.after else self.schema
        any_order = self.reduction.any_order and not self.in_order
        frame, sides, applies, reduction = self.packed(frame, sides)
        ways = reduction.ways
        *faster, last = ways[min(self.steps in _SLOW, len(ways) - 1) :]
        for way in faster:
            result = self.collect(self.query(frame, sides, (*applies, way)), state, any_order)
            if not self.reduction.fails(result):
                break
            _SLOW.add(self.steps)
        else:
            result = self.collect(self.query(frame, sides, (*applies, last)), state, any_order)
        if not self.after:
            return result
        return self.collect(self.query(result.lazy(), sides, self.after), self.schema)

    def packed(
        self, frame: Rows, sides: Sequence[pl.DataFrame | None]
    ) -> tuple[Rows, Sequence[pl.DataFrame | None], tuple[Apply | With, ...], Reduction]:
        """What to do to which rows, and which sides, before the reduction, and that: by its keys as one integer where that is faster."""
        assert self.reduction is not None
        *before, _ = self.applies
        keys, start = self.reduction.packs, len(before)
        while start and _leaves(before[start - 1], frozenset(keys)):
            start -= 1
        met = before[start - 1] if start else None
        reduction = self.reduction
        if isinstance(met, With):
            side = sides[met.link]
            assert side is not None
            if found := packing.of_side(side, {new: name for name, new in met.brings}, keys):
                side, packed = found
                before[start - 1], reduction = met.taking(packed.added), reduction.packed(packed)
                sides = [*sides[: met.link], side, *sides[met.link + 1 :]]
        elif met is None and isinstance(frame, pl.DataFrame) and (found := packing.of_table(frame, keys)):
            frame, reduction = found[0], reduction.packed(found[1])
        return frame, sides, tuple(before), reduction

    def opened(self, frame: Rows) -> tuple[Rows, tuple[Apply | With, ...]]:
        """The same where states are combined; rows that have to be in order are, and the rest is left to do."""
        if not self.applies or not isinstance(frame, pl.DataFrame):
            return frame, self.applies
        first, *others = self.applies
        of = getattr(first, "__self__", None)
        if isinstance(of, Sorting) and first == of.apply:
            first = of.order
        if isinstance(first, Order):
            return packing.ordered(frame, first), tuple(others)
        if (
            isinstance(of, Reduction)
            and first in (of.combine, of.apply)
            and (found := packing.of_table(frame, of.packs))
        ):
            packed = of.packed(found[1])
            return found[0], (packed.combine if first == of.combine else packed.apply, *others)
        return frame, self.applies

    def query(
        self, frame: Rows, sides: Sequence[pl.DataFrame | None], applies: tuple[Apply | With, ...]
    ) -> pl.LazyFrame:
        query = frame.lazy()
        for apply in applies:
            if isinstance(apply, With):
                side = sides[apply.link]
                assert side is not None
                query = apply(query, side.lazy())
            else:
                query = apply(query)
        return query

    def collect(self, frame: pl.LazyFrame, schema: Schema, streams: bool = False) -> pl.DataFrame:
        return kernel.collect(frame.select(list(schema)), schema, streams=streams)

    def failed(self, error: Exception) -> PipelineError:
        if isinstance(error, OSError) and of_machine(error):
            what = f"in {self.where}: cannot read {error.filename or 'a file'}"
            return machine_error(what, error, "see whether it is there")
        return DataError(Issue(f"in {self.where}: {error}", "look at the rows that reach this step with --to"))

    @property
    def where(self) -> str:
        return (
            f"the step {self.steps[0]!r}" if len(self.steps) == 1 else f"the steps {', '.join(map(repr, self.steps))}"
        )


class Combine(Struct, frozen=True):
    """Several partitions' states → one."""

    program: Program

    def __call__(self, frames: Sequence[pl.DataFrame]) -> pl.DataFrame:
        return self.program.together(frames)


class Ship(Struct, frozen=True):
    """The end of a stage whose rows go into an exchange: one task computes a partition and cuts it."""

    method: Any
    cutter: Hash | Range
    index: int

    def __call__(self, *given: Any) -> Parcel:
        return self.cutter(self.method(*given), self.index)


class Receive(Struct, frozen=True):
    """The beginning of a stage behind a hash exchange: of each side the slots that are this reader's."""

    program: Program
    reader: int
    sides: tuple[int, ...]
    """Parcels of each side."""

    def __call__(self, parcels: Sequence[Parcel], shares: Shares, *others: pl.DataFrame) -> pl.DataFrame:
        units, start = shares[self.reader], 0
        slots, frames = sorted({slot for slot, _, _ in units}), list[pl.DataFrame]()
        for link, count in enumerate(self.sides):
            side = parcels[start : start + count]
            parts = units if link == 0 else [(slot, 0, count) for slot in slots]
            found = [f for slot, first, last in parts for parcel in side[first:last] for f in parcel.slots((slot,))]
            frames.append(self.program.concat(found, link))
            start += count
        return self.program.tables(*frames, *others)


class Merge(Struct, frozen=True):
    """The beginning of a stage behind a range exchange: the rows between this reader's points."""

    program: Program
    reader: int
    order: Order

    def __call__(self, parcels: Sequence[Parcel], points: Sequence[Point], *others: pl.DataFrame) -> pl.DataFrame:
        found = [f for i, parcel in enumerate(parcels) for f in within(parcel, i, points, self.reader, self.order)]
        return self.program.together(found, *others)


class Together(Struct, frozen=True):
    """The partitions of a table as one."""

    schema: Schema

    def __call__(self, frames: Sequence[pl.DataFrame]) -> pl.DataFrame:
        return pl.concat(frames, rechunk=True) if frames else pl.DataFrame(schema=dict(self.schema))


class Attempt(Struct, frozen=True):
    """A stage's task: tried again where what failed may pass, and told of when it is done."""

    method: Any
    stage: str
    """The stage's key."""
    retries: int

    def __call__(self, *given: Any) -> Any:
        result = _retried(self.method, given, self.stage, self.retries)
        rows, size = _measured(result)
        events.tell("done", stage=self.stage, rows=rows, bytes=size)
        return result


class Ahead(Struct, frozen=True):
    """A task that reads a partition, and has the disk read the one that comes up when it is done."""

    method: Any
    loader: Loader
    next: Any

    def __call__(self, *given: Any) -> Any:
        self.loader.prefetch(self.next)
        return self.method(*given)


class Own(Struct, frozen=True):
    """A task of a step that makes its own: tried again as others are; what it finds wrong has the step's place."""

    function: Callable[..., Any]
    stage: str
    retries: int
    place: Place

    def __call__(self, *given: Any, **named: Any) -> Any:
        try:
            return _retried(functools.partial(self.function, **named), given, self.stage, self.retries)
        except PipelineError as error:
            error.issues = tuple(replace(issue, place=issue.place or self.place) for issue in error.issues)
            raise


def _retried(call: Callable[..., Any], given: Sequence[Any], stage: str, retries: int) -> Any:
    for tries in itertools.count():
        try:
            return call(*given)
        except KeyboardInterrupt as error:
            raise stopped(error) from None
        except pl.exceptions.PanicException as error:  # a BaseException: uncaught, it hangs a Dask client
            raise MachineError(Issue(f"Polars panicked: {error}", "please report this")) from None
        except Exception as error:
            if tries == retries or not may_pass(error):
                raise
            events.tell("retry", stage=stage, error=(str(error) or type(error).__name__).splitlines()[0])
            events.back_off(tries)


def _measured(result: pl.DataFrame | Parcel | Part) -> tuple[int, int]:
    """Rows and bytes; of what is written, of the file."""
    if isinstance(result, Part):
        return result.rows, result.bytes
    if isinstance(result, Parcel):
        return sum(result.rows), result.size
    return len(result), int(result.estimated_size())


class Part(Struct, frozen=True):
    """What a sink's task leaves: how many rows, the first of them, and the file under its temporary name."""

    rows: int
    head: pl.DataFrame
    path: str | None = None
    bytes: int = 0
    value: Any = None
    """Metrics."""
    content: object = None
    """The file itself, as bytes, where the task could not write it to where it has to be."""


class Finish(Struct, frozen=True):
    """The end of a stage that leaves the graph: writes the partition, or only looks at it."""

    method: Any
    head: int
    output: Output | None = None
    folder: str = ""
    mark: str = ""
    travels: bool = False
    """Whether the file comes back with the result: the task does not see where it has to be."""

    def __call__(self, *given: Any) -> Part:
        result = self.method(*given)
        if not isinstance(result, pl.DataFrame):
            return self.value(result)
        frame: pl.DataFrame = result
        if self.output is None:
            return Part(len(frame), apart(frame.head(self.head)))
        path, size, content = self.written(frame)
        return Part(len(frame), apart(frame.head(self.head)), path, size, content=content)

    def value(self, value: Any) -> Part:
        """Of an array's chunk its first rows, of other values what they tell."""
        if hasattr(value, "shape"):
            shown = pl.DataFrame(
                value[: self.head].reshape(min(self.head, len(value)), math.prod(value.shape[1:]))
                if value.ndim
                else [[value.item()]],
                orient="row",
            )
            return Part(len(value) if value.ndim else 1, shown.rename(lambda name: name.removeprefix("column_")))
        shown = value.shown()
        if self.output is None:
            return Part(len(shown), shown, value=value if value.kind == "metrics" else None)
        path, size, content = self.written(value.saved())
        return Part(len(shown), shown, path, size, content=content)

    def written(self, content: pl.DataFrame | bytes) -> tuple[str | None, int, bytes | None]:
        """The file under its temporary name, its size, and itself where it has to travel."""
        assert self.output is not None
        if self.travels:
            buffer = io.BytesIO()
            self.write(content, buffer)
            if buffer.tell() > _TRAVELS:
                there = resolved(self.output, self.folder)
                raise MachineError(Issue(f"{there} has {buffer.tell() >> 20} MiB: too much to come back from Kubernetes", "write it to a volume that all pods have (executor.kubernetes.volumes), or per_partition"))  # fmt: skip
            return None, buffer.tell(), buffer.getvalue()
        path = temporary(resolved(self.output, self.folder), self.mark)
        try:
            with under_way(str(path)) as file:
                self.write(content, file)
                file.flush()
                os.fsync(file.fileno())
                size = os.fstat(file.fileno()).st_size
        except OSError as error:
            what = f"cannot write {resolved(self.output, self.folder)}"
            raise machine_error(what, error, "choose another path") from None
        return str(path), size, None

    def write(self, content: pl.DataFrame | bytes, file: IO[bytes]) -> None:
        assert self.output is not None
        if isinstance(content, bytes):
            file.write(content)
        elif self.output.format == "parquet":
            content.write_parquet(file, row_group_size=1 << 20, compression="zstd", statistics=True)
        else:
            for column in filter(beyond_calendar, content.get_columns()):
                what = f"column {column.name!r} has dates before the year -262143 or after 262142: a CSV file cannot hold them"
                raise DataError(Issue(what, "write Parquet, or replace them before"))
            content.write_csv(file)


def resolved(output: Output, folder: str) -> Path:
    return Path(output.path.replace(RUN, folder, 1) if output.path.startswith(RUN) else output.path)


def temporary(path: Path, mark: str) -> Path:
    """A name beside the final one that no other run or attempt has."""
    return path.with_name(f".{path.name}.{mark}.{uuid.uuid4().hex[:8]}.tmp")


class Lowered(Struct, frozen=True):
    """The tasks of every stage, and the keys of its partitions."""

    graph: Graph
    keys: dict[str, list[Key]]
    """Stage key: its partitions' keys in order; those of a stage whose rows all go into one exchange are parcels."""
    parts: dict[str, str] = {}
    """The tasks' names of a step that makes several of its own: the stage's key."""

    def table(self, stages: Sequence[Stage], graph: Graph | None = None) -> Table:
        """The partitions of these stages, one after another, as a Dask collection (over another `graph`)."""
        name = (
            stages[0].key
            if len(stages) == 1
            else f"{stages[0].steps[-1]}-{digest([stage.key for stage in stages])[:16]}"
        )
        keys = [key for stage in stages for key in self.keys[stage.key]]
        return Table(self.graph if graph is None else graph, keys, stages[0].schema, name)

    def sources(self, link: Link) -> list[Key]:
        """The keys of the partitions that the link takes."""
        return [key for stage in link.stages for key in self.keys[stage.key]]


class Ending(Struct, frozen=True):
    """How the tables that leave the graph end: where a run writes and how many rows of each it shows."""

    folder: str
    mark: str
    head: int
    sees: Callable[[str], bool] = lambda path: True
    """Whether tasks can write to a path."""
    ahead: int = 0
    """Tasks at work at once on this machine's files: who reads one partition asks for the one so many later. 0: none is asked for."""


def lower(
    staged: Staged, *, room: Room | None = None, ending: Ending | None = None, durable: Durable | None = None
) -> Lowered:
    """The one graph. With an `ending`, the targets' stages end in `Part`s; without, all partitions are tables.

    Exchanges use the `room`; without one, what a reader takes of a writer's rows is a task of its own. What is `durable` is
    loaded where it is there, and else kept; tasks that nothing needs then are left out.
    """
    return _Lowering(staged, room, ending, durable).lowered()


@dataclass
class _Lowering:
    staged: Staged
    room: Room | None
    ending: Ending | None
    durable: Durable | None

    def __post_init__(self) -> None:
        self.graph: Graph = {}
        self.keys = dict[str, list[Key]]()
        self.parts = dict[str, str]()
        self.reads = dict[Key, tuple[Loader, Any]]()
        """Tasks that wait for the disk: what reads for them, and which partition."""
        links = [(stage, i) for stage in self.staged.stages for i in range(len(stage.links))]
        takers: dict[str, list[tuple[Stage, int, int]]] = {}
        """Stage key: who takes its partitions, by which link, and how many partitions the link has before them."""
        for stage, i in links:
            before = 0
            for upstream in stage.links[i].stages:
                takers.setdefault(upstream.key, []).append((stage, i, before))
                before += upstream.count
        tables = {stage.key for stages in self.staged.tables.values() for stage in stages}
        self.takers = takers
        made = {stage.key for stage in self.staged.stages if stage.work is not None}
        self.shipped = {
            key: found[0]
            for key, found in takers.items()
            if len(found) == 1
            and key not in tables | made
            and found[0][0].links[found[0][1]].exchange.kind in ("hash", "range")
        }

    def read(self, stage: Stage) -> tuple[str, ...] | None:
        """The columns of the stage's table that are read; None: all."""
        links = [by.links[i] for by, i, _ in self.takers.get(stage.key, ())]
        ends = {each.key for name in self.staged.targets for each in self.staged.tables[name]}
        if stage.key in ends or any(link.columns is None for link in links):
            return None
        found = {name for link in links for name in link.columns or ()}
        return tuple(name for name in stage.schema if name in found)

    def lowered(self) -> Lowered:
        lowered = Lowered(self.graph, self.keys, self.parts)
        shown = _shown(self.staged) if self.ending else set[str]()
        looked_at = {stage.key for name in shown for stage in self.staged.tables[name]}
        for stage in self.staged.stages:
            self.add(stage, lowered)
            if stage.key in looked_at and self.ending is not None:
                look = Finish(_same, self.ending.head)
                # of an array the chunks at its left
                left = [key for key in self.keys[stage.key] if not any(key[2:])]
                self.keys[_look(stage)] = [(_look(stage), i) for i in range(len(left))]
                for key, end in zip(left, self.keys[_look(stage)], strict=True):
                    self.graph[end] = task(end, look, ref(key))
        if self.durable is not None and self.durable.found:
            ends = [key for name in self.staged.targets for key in self.ends(name)]
            lowered = Lowered(needed(self.graph, ends), self.keys, self.parts)
        if self.reads and self.ending is not None and self.ending.ahead and len(lowered.graph) <= _ORDERED:
            _read_ahead(lowered.graph, self.reads, self.ending.ahead)
        return lowered

    def ends(self, name: str) -> list[Key]:
        if self.ending is not None:
            return ending_keys(self.staged, Lowered(self.graph, self.keys), name)
        return [key for stage in self.staged.tables[name] for key in self.keys[stage.key]]

    def work(self, stage: Stage, lowered: Lowered) -> None:
        assert stage.work is not None
        inputs = [[Ref(key) for key in lowered.sources(link)] for link in stage.links]
        node = self.staged.plan.nodes[stage.name]
        watched = functools.partial(Own, stage=stage.key, retries=node.retries, place=node.place)
        tasks = Tasks(
            self.graph, stage.key, self.room, watched if self.ending is not None else lambda function: function
        )
        found = [each.key for each in stage.work.lower(tasks, inputs)]
        self.parts |= dict.fromkeys((*tasks.names, f"kept+{stage.key}"), stage.key)
        if self.durable is not None and stage.key in self.staged.durable:
            kept: list[Key] = [(f"kept+{stage.key}", *key[1:]) for key in found]
            for i, (key, end) in enumerate(zip(found, kept, strict=True)):
                method = self.durable.task(self.staged, stage, i, _same, None)
                self.graph[end] = task(end, method) if isinstance(method, Load) else task(end, method, ref(key))
            found = kept
        if stage.sink is not None and self.ending is not None:
            finish = Finish(_same, self.ending.head, stage.sink, self.ending.folder, self.ending.mark)
            ends: list[Key] = [(f"save+{stage.key}", i) for i in range(len(found))]
            for key, end in zip(found, ends, strict=True):
                self.graph[end] = task(end, finish, ref(key))
            found = ends
        self.keys[stage.key] = found

    def add(self, stage: Stage, lowered: Lowered) -> None:
        if stage.work is not None:
            self.work(stage, lowered)
            return
        program = Program(
            steps=stage.steps,
            applies=stage.program,
            reduction=stage.reduction,
            after=stage.after,
            schema=stage.schema,
            input_schemas=tuple(_given(link) for link in stage.links),
            in_order=stage.runs_python,
            loader=_loader(stage, self.ending),
            columns=stage.columns,
            doers=tuple(
                (node.origin or node.name, node.place)
                for node in (self.staged.plan.nodes[name] for name in stage.doers)
            ),
            by_row=stage.input is not None and not stage.runs_python and all(map(_by_row, stage.program)),
        )
        others = [
            self.whole(stage, i, lowered) for i, link in enumerate(stage.links) if link.exchange.kind == "broadcast"
        ]
        kind = "source" if stage.input is not None else stage.links[0].exchange.kind
        bodies: list[tuple[Any, list[Any]]]
        if stage.input is not None:
            bodies = [(program.load, [partition]) for partition in stage.input.partitions]
        elif kind == "none":
            bodies = [(program.tables, [ref(key)]) for key in lowered.sources(stage.links[0])]
        elif kind == "hash":
            bodies = self.hash(stage, program, lowered)
        elif kind == "range":
            bodies = self.range(stage, program, lowered)
        else:
            gathered = lowered.sources(stage.links[0])
            if kind == "tree":
                gathered = _tree(self.graph, stage, gathered)
            bodies = [(program.together, [refs(gathered)])]
        ship = self.cutter(*self.shipped[stage.key]) if stage.key in self.shipped else None
        # another name than that of the table: another graph may have both
        name = stage.key if ship is None else f"{stage.key}-{digest(self.shipped[stage.key][0].token)[:8]}"
        self.keys[stage.key] = [(name, i) for i in range(stage.count)]
        nodes = [self.staged.plan.nodes[step] for step in stage.steps]
        retries = max(node.retries for node in nodes)
        for i, (key, (body, given)) in enumerate(zip(self.keys[stage.key], bodies, strict=True)):
            method = body
            if self.durable is not None and stage.key in self.staged.durable:
                method = self.durable.task(self.staged, stage, i, body, self.read(stage))
                if isinstance(method, Load):
                    self.graph[key] = task(key, method)
                    continue
            if stage.sink is not None and self.ending is not None:
                folder = self.ending.folder
                travels = not self.ending.sees(str(resolved(stage.sink, folder)))
                method = Finish(body, self.ending.head, stage.sink, folder, self.ending.mark, travels)
            elif ship is not None:
                method = Ship(body, ship, self.shipped[stage.key][2] + i)
            if self.ending is not None:
                method = Attempt(method, stage.key, retries)
            if program.loader is not None and program.loader.waits:
                self.reads[key] = (program.loader, given[0])
            self.graph[key] = task(key, method, *given, *others)

    def whole(self, stage: Stage, index: int, lowered: Lowered) -> Any:
        """The table of a broadcast link, made once."""
        link = stage.links[index]
        sources = lowered.sources(link)
        if len(sources) == 1:
            return ref(sources[0])
        key: Key = (f"broadcast+{stage.name}-{digest([s.key for s in link.stages])[:16]}", 0)
        self.graph[key] = task(key, Together(_given(link)), refs(sources))
        return ref(key)

    def cutter(self, stage: Stage, index: int, before: int) -> Hash | Range:
        """What makes parcels of the partitions of one of the stage's links."""
        exchange, room = stage.links[index].exchange, self.room or Room("", 1 << 62)
        writers = sum(link.count for link in stage.links)
        if exchange.kind == "hash":
            slots = min(4 * stage.count, max(stage.count, _SLOTS // writers))
            return Hash(exchange.keys, exchange.types, slots, room, exchange.number, exchange.first)
        assert exchange.order is not None
        return Range(exchange.order, min(4 * stage.count, max(stage.count, _SLOTS // writers)), room)

    def parcels(self, stage: Stage, index: int, lowered: Lowered) -> list[Key]:
        link = stage.links[index]
        found = list[Key]()
        for upstream in link.stages:
            if upstream.key in self.shipped:
                found += self.keys[upstream.key]
                continue
            cutter = self.cutter(stage, index, 0)
            for key in self.keys[upstream.key]:
                i = len(found)
                cut: Key = (f"split+{stage.key}", index, i)
                self.graph[cut] = task(cut, Ship(_same, cutter, i), ref(key))
                found.append(cut)
        return found

    def hash(self, stage: Stage, program: Program, lowered: Lowered) -> list[tuple[Any, list[Any]]]:
        links = [i for i, link in enumerate(stage.links) if link.exchange.kind == "hash"]
        sides = [self.parcels(stage, i, lowered) for i in links]
        counts = tuple(map(len, sides))
        parcels = [key for side in sides for key in side]
        by: Key = (f"share+{stage.key}", 0)
        share = Share(stage.count, counts, stage.divisible)
        receive = [Receive(program, i, counts) for i in range(stage.count)]
        if self.room is not None:
            together = refs(parcels)
            self.graph[by] = task(by, share.of, together)
            return [(each, [together, ref(by)]) for each in receive]
        self.graph[by] = task(by, share.of, refs(self.sketches(stage, parcels)))
        found = list[tuple[Any, list[Any]]]()
        for i, each in enumerate(receive):
            picked: list[Key] = [(f"pick+{stage.key}", i, j) for j in range(len(parcels))]
            for j, (key, parcel) in enumerate(zip(picked, parcels, strict=True)):
                self.graph[key] = task(key, pick, ref(parcel), j if j < counts[0] else -1, ref(by), i)
            found.append((each, [refs(picked), ref(by)]))
        return found

    def range(self, stage: Stage, program: Program, lowered: Lowered) -> list[tuple[Any, list[Any]]]:
        exchange = stage.links[0].exchange
        assert exchange.order is not None
        parcels = self.parcels(stage, 0, lowered)
        by: Key = (f"cuts+{stage.key}", 0)
        cuts = Cuts(exchange.order, stage.count)
        if self.room is not None:
            together = refs(parcels)
            self.graph[by] = task(by, cuts, together)
            return [(Merge(program, i, exchange.order), [together, ref(by)]) for i in range(stage.count)]
        self.graph[by] = task(by, cuts, refs(self.sketches(stage, parcels)))
        found = list[tuple[Any, list[Any]]]()
        for i in range(stage.count):
            picked: list[Key] = [(f"pick+{stage.key}", i, j) for j in range(len(parcels))]
            for j, (key, parcel) in enumerate(zip(picked, parcels, strict=True)):
                self.graph[key] = task(key, Between(i, exchange.order, j), ref(parcel), ref(by))
            found.append((Picked(program), [refs(picked)]))
        return found

    def sketches(self, stage: Stage, parcels: list[Key]) -> list[Key]:
        found: list[Key] = [(f"sketch+{stage.key}", i) for i in range(len(parcels))]
        for key, parcel in zip(found, parcels, strict=True):
            self.graph[key] = task(key, sketch, ref(parcel))
        return found


def _read_ahead(graph: Graph, reads: Mapping[Key, tuple[Loader, Any]], ahead: int) -> None:
    """Dask's order is its own: leaves of a tree begin with the last, others in between."""
    from dask.order import order

    came = order(dict(graph))
    keys = sorted((key for key in reads if key in came), key=lambda key: came[key])
    for key, later in zip(keys, keys[ahead:], strict=False):
        graph[key] = task(key, Ahead(graph[key].func, *reads[later]), *graph[key].args)


def _given(link: Link) -> Schema:
    """What a link's parcels hold."""
    hidden = {link.exchange.number: pl.UInt64()} if link.exchange.number else {}
    return {**link.stages[0].schema, **hidden}


def sketch(parcel: Parcel) -> Parcel:
    """A parcel without its rows."""
    return Parcel(parcel.rows, marks=parcel.marks, points=parcel.points)


def pick(parcel: Parcel, index: int, shares: Shares, reader: int) -> Parcel:
    """Of one parcel what one reader takes: this alone travels. `index`: among those of the first side, or -1."""
    wanted = {slot for slot, first, last in shares[reader] if index < 0 or first <= index < last}
    frames = tuple(frame if i in wanted else None for i, frame in enumerate(parcel.frames))
    return Parcel(tuple(n if i in wanted else 0 for i, n in enumerate(parcel.rows)), frames)


class Between(Struct, frozen=True):
    """Of one parcel the rows between one reader's points: these alone travel."""

    reader: int
    order: Order
    index: int

    def __call__(self, parcel: Parcel, points: Sequence[Point]) -> Parcel:
        frames = tuple(within(parcel, self.index, points, self.reader, self.order))
        return Parcel(tuple(map(len, frames)), frames)


class Picked(Struct, frozen=True):
    """The beginning of a stage behind a range exchange whose rows were picked."""

    program: Program

    def __call__(self, parcels: Sequence[Parcel], *others: pl.DataFrame) -> pl.DataFrame:
        return self.program.together([f for p in parcels for f in p.frames if f is not None], *others)


def _leaves(apply: Apply | With, columns: frozenset[str]) -> bool:
    """Whether it leaves these columns, and those that it does not know, as they are."""
    operation = getattr(apply, "__self__", None)
    return isinstance(operation, Operation) and apply == operation.apply and operation.passes(columns)


def _by_row(apply: Apply | With) -> bool:
    operation = getattr(apply, "__self__", None)
    return isinstance(operation, Operation) and operation.placement == "anywhere" and apply == operation.apply


def _loader(stage: Stage, ending: Ending | None) -> Loader | None:
    if stage.input is None or ending is None:
        return stage.input.loader if stage.input else None
    return stage.input.loader.rejecting(f"{ending.folder}/{REJECTS}/{stage.steps[0]}")


def _same(value: Any) -> Any:
    return value


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
    link = stage.links[0]
    assert link.exchange.combine is not None
    schema = link.stages[0].schema
    combine = Combine(Program(stage.steps, (link.exchange.combine,), None, (), schema, (schema,)))
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
