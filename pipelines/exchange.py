"""Rows on their way from the partitions of one stage to those of the next: cut into slots, in memory or in files.

A hash exchange cuts each partition by a hash of its keys; a range exchange sorts it and cuts it into blocks, of which each
reader takes those within its range. There are N writers and P readers, not N x P tasks: a reader picks its slots from what
all writers left. Within one process that is in memory up to a limit; beyond it, and across processes, every writer leaves one
file of Arrow tables, one after another, and readers read theirs alone.
"""

from __future__ import annotations

import bisect
import fcntl
import io
import itertools
import os
import shutil
import tempfile
import threading
import uuid
import weakref
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import polars as pl
from msgspec import Struct

from pipelines import packing
from pipelines.errors import machine_error
from pipelines.files import under_way
from pipelines.order import Order

_BLOCK = 2048
"""Rows that are not worth to be cut in two."""
_SHIFT = 40
"""Bits of a row number that count the rows of one partition; those above count the partitions."""

Point = tuple[tuple[Any, ...], int, int]
"""Between which rows to cut: before the row with these keys, in the parcel of this index, at this position."""
Shares = list[list[tuple[int, int, int]]]
"""Of each reader: (slot, first, end of the parcels of the first side) that it takes."""


# ---- where rows wait


class Room(Struct, frozen=True):
    """Where rows wait: up to `limit` bytes in this process's memory, else in files in `folder`."""

    folder: str
    limit: int = 0

    def takes(self, size: int) -> bool:
        """Whether so many bytes may stay in memory; until the room is gone they count."""
        return _take(self.folder, size, self.limit)


_held: dict[str, int] = {}
_lock = threading.Lock()


def _take(folder: str, size: int, limit: int) -> bool:
    with _lock:
        if _held.get(folder, 0) + size > limit:
            return False
        _held[folder] = _held.get(folder, 0) + size
        return True


def _give(folder: str, size: int) -> None:
    with _lock:
        if folder in _held:  # else the room is gone, and an error still refers to the rows
            _held[folder] -= size


@contextmanager
def room(above: Path, limit: int) -> Iterator[Room]:
    """A folder below `above` that is gone at the end; those that killed processes left are removed too.

    Whoever uses one holds a lock on a file in it: where the lock is free, nobody does.
    """
    try:
        above.mkdir(parents=True, exist_ok=True)
        for left in above.iterdir():
            _remove_unless_used(left)
        folder = Path(tempfile.mkdtemp(dir=above))
        lock = (folder / "lock").open("w")
        fcntl.flock(lock, fcntl.LOCK_EX)
    except OSError as error:
        raise machine_error(
            f"cannot write to {above}", error, "set `executor: {scratch: ...}` to another folder"
        ) from None
    try:
        yield Room(str(folder), limit)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        lock.close()
        _held.pop(str(folder), None)
        with suppress(OSError):  # others may be at work
            above.rmdir()


def _remove_unless_used(folder: Path) -> None:
    with suppress(OSError), (folder / "lock").open("r") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)


class Parcel(Struct, frozen=True, dict=True, weakref=True):
    """One partition's rows, cut into slots."""

    rows: tuple[int, ...]
    """Of each slot."""
    frames: tuple[pl.DataFrame | None, ...] = ()
    """The slots in memory; without any, they are in the file."""
    path: str = ""
    offsets: tuple[int, ...] = ()
    marks: pl.DataFrame | None = None
    """Of a range exchange: the keys of each slot's first row."""
    points: tuple[tuple[Any, ...], ...] = ()
    """The same as values to compare."""

    @property
    def size(self) -> int:
        """Bytes."""
        if self.path:
            return self.offsets[-1]
        return sum(int(frame.estimated_size()) for frame in self.frames if frame is not None)

    @cached_property
    def starts(self) -> list[int]:
        """How many rows are before each slot."""
        return [0, *itertools.accumulate(self.rows)]

    def slots(self, wanted: Iterable[int]) -> Iterator[pl.DataFrame]:
        wanted = [i for i in wanted if self.rows[i]]
        if self.frames:
            yield from (frame for i in wanted if (frame := self.frames[i]) is not None)
            return
        if not wanted:
            return
        with _disk(self.path), open(self.path, "rb") as file:
            for i in wanted:
                file.seek(self.offsets[i])
                yield pl.read_ipc_stream(file.read(self.offsets[i + 1] - self.offsets[i]))


@contextmanager
def _disk(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        what = f"rows on their way between stages, in {os.path.dirname(path)}"
        remedy = "set `executor: {scratch: ...}` to a folder on another disk"
        raise machine_error(what, error, f"make room, or {remedy}") from None


def pack(slots: Sequence[pl.DataFrame | None], room: Room, marks: pl.DataFrame | None, order: Order | None) -> Parcel:
    """The slots as they wait for their readers."""
    rows = tuple(0 if slot is None else len(slot) for slot in slots)
    size = sum(int(slot.estimated_size()) for slot in slots if slot is not None)
    points = () if marks is None or order is None else tuple(zip(*order.keys(marks), strict=True))
    if _take(room.folder, size, room.limit):
        parcel = Parcel(rows, tuple(slots), marks=marks, points=points)
        weakref.finalize(parcel, _give, room.folder, size)
        return parcel
    path = os.path.join(room.folder, uuid.uuid4().hex)
    offsets = [0]
    with _disk(path), under_way(path) as file:
        for slot in slots:
            if slot is not None and len(slot):
                slot.write_ipc_stream(file, compression="uncompressed")  # a stream: 0.1 ms a table, a file takes 0.4
            offsets.append(file.tell())
    return Parcel(rows, path=path, offsets=tuple(offsets), marks=marks, points=points)


def apart(frame: pl.DataFrame) -> pl.DataFrame:
    """A copy that keeps none of the frame's memory: a slice of ten rows would keep all of it."""
    out = io.BytesIO()
    frame.write_ipc_stream(out)
    return pl.read_ipc_stream(out.getvalue())


# ---- cutting


class Hash(Struct, frozen=True):
    """By the hash of the keys, cast to `types`: equal keys meet in one slot, in every process of one Polars version."""

    keys: tuple[str, ...]
    types: tuple[pl.DataType, ...]
    count: int
    room: Room
    number: str = ""
    """A column to add: the row's place in the whole table."""
    first: int = 0
    """The number of the table's first partition among those of all inputs."""

    def __call__(self, frame: pl.DataFrame, index: int) -> Parcel:
        frame = numbered(frame, self.number, self.first + index)
        # -0.0 and 0.0 are one key, and so is every NaN: Polars' hash sees to both
        keys = (
            pl.col(key).cast(dtype).alias(str(i))
            for i, (key, dtype) in enumerate(zip(self.keys, self.types, strict=True))
        )
        slots = frame.select((pl.struct(keys).hash(0) % self.count).cast(pl.UInt32).alias("slot"))
        # as fast as NumPy's radix sort, which takes 0.05 s to import; two thirds of the time of `partition_by`
        rows = slots.with_row_index("row").group_by("slot").agg("row").sort("slot")
        together = frame[rows["row"].explode(empty_as_null=False)]
        sizes = dict(zip(rows["slot"], rows["row"].list.len(), strict=True))
        ends = itertools.accumulate((sizes.get(slot, 0) for slot in range(self.count)), initial=0)
        return pack([together[start:end] for start, end in itertools.pairwise(ends)], self.room, None, None)


class Range(Struct, frozen=True):
    """Sorted, and cut into blocks of about equal size."""

    order: Order
    blocks: int
    room: Room

    def __call__(self, frame: pl.DataFrame, index: int) -> Parcel:
        frame = packing.ordered(frame, self.order)
        size = max(_BLOCK, -(-len(frame) // self.blocks))
        starts = range(0, len(frame), size)
        marks = apart(frame.select(self.order.by)[list(starts)])
        slots = [frame.slice(start, size) for start in starts]
        return pack(slots, self.room, marks, self.order)


def numbered(frame: pl.DataFrame, name: str, partition: int) -> pl.DataFrame:
    """With a column `name` that says the row's place in the whole table; as it is without a name."""
    if not name:
        return frame
    return frame.with_columns(
        pl.int_range(partition << _SHIFT, (partition << _SHIFT) + pl.len(), dtype=pl.UInt64).alias(name)
    )


# ---- sharing out


class Share(Struct, frozen=True):
    """Which slots each reader of a hash exchange takes.

    Small slots are put together. A slot that holds much more than its share, because a key is frequent, goes to several readers
    where `divisible`: each takes a part of the first side's parcels, and all of the others'.
    """

    readers: int
    sides: tuple[int, ...]
    """Parcels of each side."""
    divisible: bool

    def of(self, parcels: Sequence[Parcel]) -> Shares:
        return self([parcel.rows for parcel in parcels])

    def __call__(self, rows: Sequence[tuple[int, ...]]) -> Shares:
        """From the rows in each parcel's slots."""
        first = self.sides[0]
        count = len(rows[0]) if rows else 0
        own = [[r[slot] for r in rows[:first]] for slot in range(count)]
        sizes = [sum(r[slot] for r in rows) for slot in range(count)]
        goal = max(1, sum(sizes) / self.readers)
        units = list[tuple[float, int, int, int]]()
        for slot in range(count):
            if not self.divisible or sizes[slot] <= 2 * goal:
                units.append((sizes[slot], slot, 0, first))
                continue
            start, held = 0, 0
            for i, n in enumerate(own[slot], 1):
                held += n
                if 2 * held >= goal or i == first:
                    units.append((held, slot, start, i))
                    start, held = i, 0
        found: list[list[tuple[int, int, int]]] = [[] for _ in range(self.readers)]
        loads = [0.0] * self.readers
        for size, *unit in sorted(units, key=lambda u: (-u[0], u[1:])):  # the largest first, each to who has least
            reader = min(range(self.readers), key=lambda r: (loads[r], r))
            loads[reader] += size
            found[reader].append((unit[0], unit[1], unit[2]))
        return [sorted(units) for units in found]


class Cuts(Struct, frozen=True):
    """Where to cut sorted parcels, so that every reader gets about as many rows."""

    order: Order
    readers: int

    def __call__(self, parcels: Sequence[Parcel]) -> list[Point]:
        """Where the second reader begins, the third, and so on; those for whom nothing is left have none."""
        frames = [
            parcel.marks.with_columns(
                pl.lit(i, pl.Int64).alias("~parcel"),
                pl.Series("~slot", range(len(parcel.rows)), pl.Int64),
                pl.Series("~rows", parcel.rows, pl.Int64),
            ).rename({name: f"{j}" for j, name in enumerate(self.order.by)})
            for i, parcel in enumerate(parcels)
            if parcel.marks is not None and len(parcel.marks)
        ]
        if not frames:
            return []
        names = tuple(str(j) for j in range(len(self.order.by)))
        marks = Order((*names, "~parcel", "~slot"), (*(self.order.descending or (False,) * len(names)), False, False))(
            pl.concat(frames).lazy()
        ).collect(engine="in-memory")
        before = (marks["~rows"].cum_sum() - marks["~rows"]).to_list()
        all_rows = sum(marks["~rows"])
        points = list[Point]()
        for i in range(1, self.readers):
            at = bisect.bisect_left(before, all_rows * i / self.readers)
            if at >= len(before):
                break
            parcel, slot = marks["~parcel"][at], marks["~slot"][at]
            start = sum(parcels[parcel].rows[:slot])
            point = (parcels[parcel].points[slot], parcel, start)
            if not points or points[-1] != point:
                points.append(point)
        return points


def within(parcel: Parcel, index: int, points: Sequence[Point], reader: int, order: Order) -> Iterator[pl.DataFrame]:
    """The parcel's rows between the reader's two points."""
    if reader > len(points) or not parcel.rows:
        return
    low = points[reader - 1] if reader else None
    high = points[reader] if reader < len(points) else None
    first = 0 if low is None else _slot(parcel, index, low, order)
    last = len(parcel.rows) - 1 if high is None else _slot(parcel, index, high, order)
    wanted = range(first, last + 1)
    for slot, frame in zip(wanted, parcel.slots(wanted), strict=True):
        start = 0 if low is None or slot > first else _position(frame, parcel.starts[slot], index, low, order)
        stop = len(frame) if high is None or slot < last else _position(frame, parcel.starts[slot], index, high, order)
        if stop > start:
            yield frame.slice(start, stop - start)


def _slot(parcel: Parcel, index: int, point: Point, order: Order) -> int:
    """The slot in which the point is."""
    low, high = 0, len(parcel.points)
    while low < high:
        middle = (low + high) // 2
        if _before(parcel.points[middle], parcel.starts[middle], index, point, order):
            low = middle + 1
        else:
            high = middle
    return max(low - 1, 0)


def _position(frame: pl.DataFrame, start: int, index: int, point: Point, order: Order) -> int:
    """How many of the frame's rows are before the point."""
    keys = order.keys(frame)
    low, high = 0, len(frame)
    while low < high:
        middle = (low + high) // 2
        if _before(tuple(key[middle] for key in keys), start + middle, index, point, order):
            low = middle + 1
        else:
            high = middle
    return low


def _before(keys: tuple[Any, ...], position: int, index: int, point: Point, order: Order) -> bool:
    """Whether the row with these keys, at this position of the parcel of this index, is before the point."""
    found = order.compare(keys, point[0])
    if found:
        return found < 0
    return (index, position) < (point[1], point[2])
