from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import polars as pl
from pydantic import Field

from pipelines.order import Order
from pipelines.steps.base import Columns, Context, Operation, Problems, Reduction, Sorting, Step, Texts
from pipelines.types import Schema, dtype_name

_UNSORTABLE = (pl.List, pl.Struct, pl.Object, pl.Array)


@dataclass(frozen=True)
class Sorted(Sorting):
    schema: Schema
    order: Order

    def reads(self, wanted: Columns) -> Columns:
        return wanted | frozenset(self.order.by)


@dataclass(frozen=True)
class Top(Reduction):
    """The first rows of the sorted table: each partition's first rows hold them."""

    schema: Schema
    sorted: Sorted
    limit: int

    @property
    def state(self) -> Schema:  # type: ignore[override]
        return self.schema

    def partial(self, frame: pl.LazyFrame) -> pl.LazyFrame:
        return self.sorted.apply(frame).head(self.limit)

    combine = partial
    apply = partial

    def reads(self, wanted: Columns) -> Columns:
        return self.sorted.reads(wanted)

    def prune(self, wanted: Columns) -> Top:
        columns = self.reads(wanted)
        return replace(self, schema={name: t for name, t in self.schema.items() if name in columns})


class Sort(Step):
    """Put rows in order. Rows that are equal stay in the order they came in; NULL comes last, NaN after every number."""

    kind = "sort"
    keeps_columns = True
    shorthand = "by"
    example: ClassVar[str] = "sort: {by: [Volume, Date], descending: [Volume], limit: 3}"

    by: Texts = Field(min_length=1, description="Columns, the most important first.")
    descending: Texts = Field([], description="Those of them in which large values come first.")
    limit: int | None = Field(None, ge=1, description="Keep only this many rows.")

    def bind(self, schema: Schema, problems: Problems, context: Context) -> Operation | None:
        for i, name in enumerate(self.by):
            if problems.column(("by", i), name, schema):
                if isinstance(schema[name], _UNSORTABLE):
                    problems.add(("by", i), f"{dtype_name(schema[name])} has no order", "sort by another column")
                if name in self.by[:i]:
                    problems.add(("by", i), f"{name!r} stands here twice", "remove one")
        for i, name in enumerate(self.descending):
            if name not in self.by:
                problems.add(("descending", i), f"{name!r} is not under `by`", f"by: {', '.join(self.by)}")
        if problems.issues:
            return None
        ordered = Sorted(schema, Order(tuple(self.by), tuple(name in self.descending for name in self.by)))
        return ordered if self.limit is None else Top(schema, ordered, self.limit)
