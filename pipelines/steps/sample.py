from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import polars as pl
from pydantic import Field

from pipelines.steps.base import Columns, Context, Operation, Problems, Reduction, Step, Texts
from pipelines.types import Schema


def _hash(by: tuple[str, ...], seed: int) -> pl.Expr:
    return pl.struct(by).hash(seed)


@dataclass(frozen=True)
class Fraction(Operation):
    by: tuple[str, ...]
    seed: int
    fraction: float

    def apply(self, frame: pl.LazyFrame) -> pl.LazyFrame:
        if self.fraction >= 1:
            return frame
        return frame.filter(_hash(self.by, self.seed) < pl.lit(int(self.fraction * 2**64), pl.UInt64))

    def passes(self, columns: Columns) -> bool:
        return True

    def reads(self, wanted: Columns) -> Columns:
        return wanted | frozenset(self.by)


@dataclass(frozen=True)
class Rows(Reduction):
    """The rows with the smallest hashes; of equal ones, the first."""

    state: Schema
    by: tuple[str, ...]
    seed: int
    rows: int
    mark: str
    """The hash's column in the state."""

    def partial(self, frame: pl.LazyFrame) -> pl.LazyFrame:
        names = [name for name in self.state if name != self.mark]
        return self.combine(frame.select(*names, _hash(self.by, self.seed).alias(self.mark)))

    def combine(self, frame: pl.LazyFrame) -> pl.LazyFrame:
        return frame.filter(pl.col(self.mark).rank("ordinal") <= self.rows)

    def apply(self, frame: pl.LazyFrame) -> pl.LazyFrame:
        return self.combine(frame).select(list(self.schema))

    def reads(self, wanted: Columns) -> Columns:
        return frozenset(self.schema)


class Sample(Step):
    """A random part of the rows, in their order. The same rows for the same seed, wherever and in how many partitions it runs.

    A row is chosen by a hash of its values, so that rows which are equal in all columns of `by` are kept or left out together.
    """

    kind = "sample"
    shorthand = "fraction"
    example: ClassVar[str] = "sample: {fraction: 0.1, seed: 7}"

    fraction: float | None = Field(None, gt=0, le=1, description="About this part of the rows: 0.1 is a tenth.")
    rows: int | None = Field(None, ge=1, le=10_000_000, description="Instead of `fraction`: exactly so many rows.")
    seed: int = Field(0, ge=0, lt=2**63, description="Another seed chooses other rows.")
    by: Texts | None = Field(
        None, min_length=1, description="The columns that decide, as an order's number. Default: all."
    )

    def bind(self, schema: Schema, problems: Problems, context: Context) -> Operation | None:
        if (self.fraction is None) == (self.rows is None):
            problems.add((), "say how much: either `fraction` or `rows`", "for example `sample: 0.1`")
        problems.keys("by", self.by or [], schema)
        by = tuple(self.by or (name for name, dtype in schema.items() if not dtype.is_nested()))
        if not by:
            problems.add((), "no column can decide which rows to take", "derive a column of numbers or texts")
        if problems.issues:
            return None
        if self.fraction is not None:
            return Fraction(schema, by, self.seed, self.fraction)
        assert self.rows is not None
        mark = max(schema, key=len) + "~"  # no column has this name
        return Rows(schema, {**schema, mark: pl.UInt64()}, by, self.seed, self.rows, mark)
