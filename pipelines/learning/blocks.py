"""A table's partition as numbers: the block of rows that everything here is fitted on."""

from __future__ import annotations

import os
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl

from pipelines.errors import DataError, Issue
from pipelines.exchange import Room
from pipelines.learning import PART
from pipelines.learning.features import Transform
from pipelines.work import Builder, Ref

_SMALL = 1 << 20


@dataclass(frozen=True)
class Rows:
    """Which rows of a table are learnt from or looked at."""

    part: str | None
    """Of the column `part`; None: all."""

    def __call__(self, frame: pl.DataFrame) -> pl.DataFrame:
        return frame if self.part is None else frame.filter(pl.col(PART) == self.part)


@dataclass(frozen=True)
class Held:
    """Of one partition: x (rows, features), y (rows) or None, the fold of each row or None. In memory, or in a file that is mapped."""

    kept: Any
    """The array, or the path of its file."""
    y: Any
    fold: Any
    labels: tuple[Any, ...] | None = None
    """Of classes the block's own, in order: y counts in them until all blocks' are known."""
    names: tuple[str, ...] = ()
    """Of the features, for errors."""

    def coded(self, classes: Sequence[Any]) -> Held:
        """With y counted in the classes of all blocks."""
        numbers = np.array([classes.index(label) for label in self.labels or ()], dtype="int64")
        return replace(self, y=numbers[self.y], labels=None)

    def __sizeof__(self) -> int:
        """For Dask, which moves what is large to the disk."""
        return 200 + sum(int(each.nbytes) for each in (self.kept, self.y, self.fold) if hasattr(each, "nbytes"))

    @property
    def x(self) -> Any:
        return np.load(self.kept, mmap_mode="r") if isinstance(self.kept, str) else self.kept

    def chosen(self, fold: int | None, inside: bool = False) -> tuple[Any, Any]:
        """x and y of the rows outside (or inside) of a fold; forward in time: of those in folds before it."""
        if fold is None:
            return self.x, self.y
        if fold < 0:  # forward: -k is learnt from the folds before k, and tried on k
            mask = self.fold == -fold if inside else self.fold < -fold
        else:
            mask = (self.fold == fold) == inside
        return self.x[mask], None if self.y is None else self.y[mask]


@dataclass(frozen=True)
class Parked:
    """A partition that waits for what is learnt of all partitions: in memory, or in a file."""

    kept: Any
    """The frame, or the path of its file."""

    def __sizeof__(self) -> int:
        return 200 + (0 if isinstance(self.kept, str) else int(self.kept.estimated_size()))

    @property
    def frame(self) -> pl.DataFrame:
        return pl.read_ipc(self.kept) if isinstance(self.kept, str) else self.kept


@dataclass(frozen=True)
class Park:
    """A partition → where it waits."""

    room: Room

    def __call__(self, frame: pl.DataFrame) -> Parked:
        size = int(frame.estimated_size())
        if not self.room.folder or size <= _SMALL or self.room.takes(size):
            return Parked(frame)
        path = os.path.join(self.room.folder, f"{uuid.uuid4().hex}.arrow")
        frame.write_ipc(path, compression="uncompressed")
        return Parked(path)


def parked(builder: Builder, table: Sequence[Ref]) -> list[Ref]:
    """Where processes share no disk, Dask's workers move to theirs what does not fit."""
    if builder.room is None:
        return list(table)
    return [builder.once("park", Park(builder.room), each) for each in table]


def unparked(given: pl.DataFrame | Parked) -> pl.DataFrame:
    return given.frame if isinstance(given, Parked) else given


@dataclass(frozen=True)
class Target:
    """The column to predict. `classes`: its values in order; None: numbers."""

    name: str
    is_class: bool

    def of(self, frame: pl.DataFrame) -> pl.Series:
        values = frame[self.name]
        missing = values.null_count() + (int(values.is_nan().sum()) if values.dtype.is_float() else 0)
        if missing:
            what = f"the target {self.name!r} is missing in {missing:,} row{'s' * (missing != 1)} of a partition"
            raise DataError(Issue(what, f"leave them out before: filter: {self.name} IS NOT NULL"))
        infinite = int(values.is_infinite().sum()) if values.dtype.is_float() else 0
        if infinite:
            what = f"the target {self.name!r} is infinite in {infinite:,} row{'s' * (infinite != 1)} of a partition"
            raise DataError(Issue(what, "leave them out before with `filter`, or mend them with `derive`"))
        return values

    def classes(self, frame: pl.DataFrame) -> list[Any]:
        return self.of(frame).unique().sort().to_list()

    def encoded(self, frame: pl.DataFrame, classes: Sequence[Any] | None) -> Any:
        """Class numbers, or numbers as they are."""
        values = self.of(frame)
        if classes is None:
            return values.cast(pl.Float64).to_numpy().copy()
        numbers = {label: i for i, label in enumerate(classes)}  # Python's: 1 is 1.0
        here = values.unique()
        if strange := [label for label in here.sort().to_list() if label not in numbers]:
            what = f"the label {strange[0]!r} of {self.name!r} was not there when the model was trained"
            raise DataError(Issue(what, f"it knows {', '.join(map(repr, classes))}"))
        codes = pl.Series([numbers[label] for label in here.to_list()], dtype=pl.Int64)
        found = values.replace_strict(here, codes, return_dtype=pl.Int64)
        return found.cast(pl.Int64).to_numpy().copy()  # of no rows it is of another type


@dataclass(frozen=True)
class Folds:
    """In which fold a row is: by a hash of some columns, or by where it is in time (0 is the first stretch, never tried on; a
    row whose time is missing is in none)."""

    count: int
    by: tuple[str, ...]
    seed: int
    time: str | None = None

    @property
    def numbers(self) -> list[int]:
        """Of the trials; forward in time -k is learnt from the stretches before k, and tried on k."""
        return list(range(self.count)) if self.time is None else [-k for k in range(1, self.count + 1)]

    def __call__(self, frame: pl.DataFrame, cuts: Any = None) -> Any:
        if self.time is None:
            return (
                (frame.select(pl.struct(self.by).hash(self.seed)).to_series() % self.count)
                .cast(pl.Int16)
                .to_numpy()
                .copy()
            )
        times = frame[self.time].to_physical().cast(pl.Float64).to_numpy()
        after_all = self.count + 1  # no fold has this number, and all are learnt from what has a smaller one
        return np.where(np.isnan(times), after_all, np.searchsorted(cuts, times, side="right")).astype("int16")

    def times(self, frame: pl.DataFrame) -> Any:
        """For the cuts: how often each time is there."""
        assert self.time is not None
        known = frame.select(pl.col(self.time).to_physical().cast(pl.Float64)).drop_nulls().drop_nans()
        return known.group_by(self.time).len().sort(self.time)

    def cuts(self, found: Sequence[pl.DataFrame]) -> Any:
        """Where to cut, so that folds have about as many rows and no time is in two."""
        assert self.time is not None
        times = pl.concat(found).group_by(self.time).agg(pl.col("len").sum()).sort(self.time)
        before = times["len"].cum_sum().to_numpy()
        total = before[-1] if len(before) else 0
        at = [int(np.searchsorted(before, total * i / (self.count + 1))) for i in range(1, self.count + 1)]
        values = times[self.time].to_numpy()
        if not len(values):
            return np.empty(0)
        return np.array([values[min(i + 1, len(values) - 1)] for i in at])


@dataclass(frozen=True)
class Made:
    """A partition → its block. Arguments: the partition, fitted features or None, cuts of folds or None. It does not wait for all classes, or
    all partitions would wait with it."""

    rows: Rows
    columns: tuple[str, ...]
    """Where no features were fitted."""
    target: Target | None
    folds: Folds | None
    takes_missing: bool
    who: str
    """The estimator's name, for errors."""
    dtype: str
    room: Room | None
    filed: bool = False
    """Whether all go into files, so that a task that sends them on need not hold them."""

    def __call__(self, given: pl.DataFrame | Parked, features: Transform | None, cuts: Any) -> Held:
        one_thread()
        frame = self.rows(unparked(given))
        x = matrix(frame, features, self.columns, self.dtype)
        names = features.names if features else self.columns
        if not self.takes_missing:
            complete(x, names, self.who)
        labels = self.target.classes(frame) if self.target is not None and self.target.is_class else None
        y = None if self.target is None else self.target.encoded(frame, labels)
        fold = None if self.folds is None else self.folds(frame, cuts)
        return Held(self.kept(x), y, fold, None if labels is None else tuple(labels), names)

    def kept(self, x: Any) -> Any:
        if self.room is None or not self.room.folder:
            return x
        if not self.filed and (x.nbytes <= _SMALL or self.room.takes(x.nbytes)):
            return x
        path = os.path.join(self.room.folder, f"{uuid.uuid4().hex}.npy")
        np.save(path, x)
        return path


def matrix(frame: pl.DataFrame, features: Transform | None, columns: Sequence[str], dtype: str) -> Any:
    """Shape (rows, features); NULL is NaN."""
    if features is not None:
        return features.apply(frame).astype(dtype, copy=False)
    wanted = pl.Float32 if dtype == "float32" else pl.Float64
    made = frame.select(pl.col(name).cast(wanted) for name in columns).to_numpy(order="c")
    return np.ascontiguousarray(made)


def complete(x: Any, names: Sequence[str], who: str) -> None:
    """Raises DataError where a number is missing or infinite."""
    if np.isfinite(x.sum(dtype="float64")):
        return
    bad = ~np.isfinite(x)
    if not bad.any():
        return
    column = int(bad.any(axis=0).argmax())
    missing = int(np.isnan(x[:, column]).sum())
    count = missing or int(bad[:, column].sum())
    which, what, remedy = "infinite", "infinite", "mend them with `derive`"
    if missing:
        which, what = "missing", "missing (NULL or NaN)"
        remedy = "fill them before (step `fill`), or `impute` them in `features`"
    where = f"{names[column]!r} is {what} in {count:,} row{'s' * (count != 1)} of a partition"
    raise DataError(Issue(f"{who} takes no {which} values: {where}", remedy))


def one_thread() -> None:
    """BLAS and OpenMP in one thread: their sums would depend on how many there are, and tasks run side by side already."""
    if not _limited:
        import threadpoolctl

        _limited.append(threadpoolctl.threadpool_limits(1))


_limited = list[Any]()
