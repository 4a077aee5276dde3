from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import polars as pl
from pydantic import Field

from pipelines.order import Order
from pipelines.steps.base import Columns, Context, Problems, Reduction, Step, Texts
from pipelines.types import Schema
from pipelines.windows import Edge


@dataclass(frozen=True)
class First(Reduction):
    """The first rows of each group: those of the partitions' first rows."""

    schema: Schema
    by: tuple[str, ...]
    within: Order
    """The order in a group."""
    rows: int

    @property
    def state(self) -> Schema:  # type: ignore[override]
        return self.schema

    @property
    def groups(self) -> tuple[str, ...]:
        return self.by

    def partial(self, frame: pl.LazyFrame) -> pl.LazyFrame:
        if not self.by and not self.within.by:
            return frame.head(self.rows)
        return frame.filter(Edge(self.by, self.within, self.rows).mask)

    combine = partial

    @property
    def order(self) -> Order:
        falling = zip(self.within.by, self.within.descending, strict=True)
        more = [(name, down) for name, down in falling if name not in self.by]  # a key is the same in all of a group
        return Order((*self.by, *(name for name, _ in more)), (*(False for _ in self.by), *(down for _, down in more)))

    def finish(self, frame: pl.LazyFrame) -> pl.LazyFrame:
        return frame

    def apply(self, frame: pl.LazyFrame) -> pl.LazyFrame:
        first = self.partial(frame)
        return self.order(first) if self.order.by else first

    def tests_early(self, columns: Columns) -> tuple[int, ...]:
        return (0,) if columns <= {key for key in self.by if not self.schema[key].is_float()} else ()

    def reads(self, wanted: Columns) -> Columns:
        return wanted | frozenset((*self.by, *self.within.by))

    def prune(self, wanted: Columns) -> First:
        columns = self.reads(wanted)
        return replace(self, schema={name: t for name, t in self.schema.items() if name in columns})


class Top(Step):
    """The first rows of each group in an order, as the three days with the largest volume of every symbol.

    The result is sorted by `by`, then in that order. Rows that are equal in it stay in the table's order; NULL comes last.
    """

    kind = "top"
    keeps_columns = True
    example: ClassVar[str] = "top: {n: 3, by: [Symbol], order_by: [Volume], descending: [Volume]}"

    n: int = Field(ge=1, le=2**31, description="How many rows of each group.")
    by: Texts = Field(
        [], description="The key columns. NULL is a key like any other. Without any, the table is one group."
    )
    order_by: Texts = Field(
        [], description="The order in a group, the most important column first. Default: the table's order."
    )
    descending: Texts = Field([], description="Those of `order_by` in which large values come first.")

    def bind(self, schema: Schema, problems: Problems, context: Context) -> First | None:
        problems.keys("by", self.by, schema)
        problems.order(self.order_by, self.descending, schema)
        if problems.issues:
            return None
        order = Order(tuple(self.order_by), tuple(name in self.descending for name in self.order_by))
        return First(schema, tuple(self.by), order, self.n)
