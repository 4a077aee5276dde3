from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import polars as pl
from pydantic import Field

from pipelines.steps.base import Columns, Context, Operation, Problems, Sql, Step
from pipelines.types import Schema, dtype_name


@dataclass(frozen=True)
class Filtered(Operation):
    schema: Schema
    condition: pl.Expr
    columns: Columns
    parts: tuple[tuple[pl.Expr, Columns], ...] = ()
    """Conditions that it implies, with the columns they read; none of them can raise."""

    def apply(self, frame: pl.LazyFrame) -> pl.LazyFrame:
        return frame.filter(self.condition)

    def passes(self, columns: Columns) -> bool:
        return True

    def tests_early(self, columns: Columns) -> tuple[int, ...]:
        return (0,)

    def reads(self, wanted: Columns) -> Columns:
        return wanted | self.columns


class Filter(Step):
    """Keep the rows for which a condition is true; where it is NULL the row goes."""

    kind = "filter"
    keeps_columns = True
    shorthand = "where"
    example: ClassVar[str] = 'filter: Close > 0 AND "Adj Close" IS NOT NULL'

    where: Sql = Field(description="An SQL condition over the input's columns.")

    def bind(self, schema: Schema, problems: Problems, context: Context) -> Filtered | None:
        from pipelines.expressions import parse  # takes a while, and every plan imports this kind

        found = problems.expression(("where",), self.where, schema)
        if found is None:
            return None
        typed, columns = found
        if typed.dtype != pl.Boolean:
            problems.add(
                ("where",),
                f"a condition must be boolean, this is {dtype_name(typed.dtype)}",
                "compare it with something",
            )
            return None
        conjuncts = [each for each in parse(self.where).conjuncts() if each.columns and not each.fallible]
        parts = tuple((each.bind(schema).expr, each.columns) for each in conjuncts)
        return Filtered(schema, typed.expr, columns, parts)
