from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import polars as pl
from pydantic import Field

from pipelines.order import Order
from pipelines.steps.base import Columns, Context, Keyed, Problems, Step, Texts
from pipelines.types import Schema
from pipelines.windows import Edge


@dataclass(frozen=True)
class Deduped(Keyed):
    schema: Schema
    keys: tuple[str, ...]
    order: Order
    keep: Literal["first", "last"]

    keeps_rows = True

    def apply(self, frame: pl.LazyFrame) -> pl.LazyFrame:
        if not self.order.by:
            return frame.unique(self.keys, keep=self.keep, maintain_order=True)
        return frame.filter(Edge(self.keys, self.order, last=self.keep == "last").mask)

    def shrink(self, frame: pl.LazyFrame) -> pl.LazyFrame:
        return self.apply(frame)

    def tests_early(self, columns: Columns) -> tuple[int, ...]:
        exact = {key for key in self.keys if not self.schema[key].is_float()}
        return (0,) if columns <= exact else ()

    def reads(self, wanted: Columns) -> Columns:
        return wanted | frozenset((*self.keys, *self.order.by))

    def prune(self, wanted: Columns) -> Deduped:
        columns = self.reads(wanted)
        return replace(self, schema={name: t for name, t in self.schema.items() if name in columns})


class Dedupe(Step):
    """One row for each key: the first or the last in an order. The rows that are kept stay in the table's order.

    For whole rows, each once, there is `distinct`; for several rows of each key `top`.
    """

    kind = "dedupe"
    keeps_columns = True
    shorthand = "by"
    example: ClassVar[str] = "dedupe: {by: [Symbol, Date], keep: last, order_by: [Volume]}"

    by: Texts = Field(min_length=1, description="The columns that tell rows apart. NULL is a value like any other.")
    keep: Literal["first", "last"] = Field("first", description="Which of the rows with the same key.")
    order_by: Texts = Field(
        [], description="The order in which they are the first or last. Default: the table's order."
    )
    descending: Texts = Field([], description="Those of `order_by` in which large values come first.")

    def bind(self, schema: Schema, problems: Problems, context: Context) -> Deduped | None:
        problems.keys("by", self.by, schema)
        problems.order(self.order_by, self.descending, schema)
        if problems.issues:
            return None
        order = Order(tuple(self.order_by), tuple(name in self.descending for name in self.order_by))
        return Deduped(schema, tuple(self.by), order, self.keep)
