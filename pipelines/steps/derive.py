from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import polars as pl
from pydantic import ConfigDict

from pipelines.errors import Issue
from pipelines.steps.base import Columns, Context, Operation, Problems, Sql, Step
from pipelines.types import Schema


@dataclass(frozen=True)
class Derived(Operation):
    each = True
    schema: Schema
    columns: tuple[tuple[str, pl.Expr, Columns], ...]

    def apply(self, frame: pl.LazyFrame) -> pl.LazyFrame:
        return frame.with_columns(expr.alias(name) for name, expr, _ in self.columns)

    def passes(self, columns: Columns) -> bool:
        return not any(name in columns for name, _, _ in self.columns)

    def tests_early(self, columns: Columns) -> tuple[int, ...]:
        return (0,) if self.passes(columns) else ()

    def reads(self, wanted: Columns) -> Columns:
        needed = frozenset[str]().union(*(columns for name, _, columns in self.columns if name in wanted))
        return needed | (wanted - {name for name, _, _ in self.columns})

    def prune(self, wanted: Columns) -> Derived:
        return replace(self, columns=tuple(c for c in self.columns if c[0] in wanted))


class Derive(Step):
    """Add columns, or replace them: `name: expression`. Every expression sees the input, not the other new columns."""

    kind = "derive"
    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Sql]
    example: ClassVar[str] = "derive: {change: Close - Open, year: year(Date)}"

    def bind(self, schema: Schema, problems: Problems, context: Context) -> Derived | None:
        columns, out = list[tuple[str, pl.Expr, Columns]](), dict(schema)
        for name, text in self.__pydantic_extra__.items():
            problems.new_column((), name)
            if found := problems.expression((name,), text, schema):
                columns.append((name, found[0].expr, found[1]))
                out[name] = found[0].dtype
                continue
            for other in self.__pydantic_extra__:
                if (
                    other not in schema
                    and problems.issues
                    and problems.issues[-1].message == f"unknown column {other!r}"
                ):
                    remedy = f"{other!r} is made in this same step: make it in a `derive` above"
                    unknown = problems.issues[-1]
                    problems.issues[-1] = Issue(unknown.message, remedy, unknown.place)
        if not self.__pydantic_extra__:
            problems.add((), "derive names no column", "write `derive: {name: expression}`")
        return Derived(out, tuple(columns))

    def identity(self) -> Mapping[str, Any]:
        return {"outputs": list(self.__pydantic_extra__.items())}
