from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import polars as pl
from pydantic import Field

from pipelines import expressions
from pipelines.errors import did_you_mean
from pipelines.steps.base import Columns, Context, Dtype, Operation, Problems, Step
from pipelines.types import DTYPES, Schema, parse_dtype


@dataclass(frozen=True)
class Selected(Operation):
    each = True
    schema: Schema
    columns: tuple[tuple[str, str, pl.Expr], ...]
    """(name in the input, name in the output, the column or what it is cast to)."""

    def apply(self, frame: pl.LazyFrame) -> pl.LazyFrame:
        return frame.select(expr.alias(new) for _, new, expr in self.columns)

    def reads(self, wanted: Columns) -> Columns:
        return frozenset(old for old, new, _ in self.columns if new in wanted)

    def prune(self, wanted: Columns) -> Selected:
        return replace(self, columns=tuple(c for c in self.columns if c[1] in wanted))


class Select(Step):
    """Choose, drop, rename and cast columns. All options speak of the input's names; what is not named stays as it is."""

    kind = "select"
    shorthand = "columns"
    example: ClassVar[str] = "select: {columns: [Date, Close, Volume], rename: {Close: price}, cast: {Volume: float64}}"

    columns: list[str] | None = Field(None, description="The columns to keep, in this order. Default: all.")
    drop: list[str] = Field([], description="Columns to leave out.")
    rename: dict[str, str] = Field({}, description="Old name: new name.")
    cast: dict[str, Dtype] = Field(
        {}, description="Column: type, as CAST in SQL: a value that does not fit is an error."
    )

    def bind(self, schema: Schema, problems: Problems, context: Context) -> Selected | None:
        chosen = list(schema) if self.columns is None else self.columns
        for i, name in enumerate(self.columns or []):
            if problems.column(("columns", i), name, schema) and name in chosen[:i]:
                problems.add(("columns", i), f"the column {name!r} is chosen twice", "remove one")
        chosen = list(dict.fromkeys(chosen))
        for i, name in enumerate(self.drop):
            problems.column(("drop", i), name, schema)
        kept = [name for name in chosen if name in schema and name not in self.drop]
        for option, names in (("rename", self.rename), ("cast", self.cast)):
            for name in names:
                if name not in schema:
                    problems.key((option,), name, f"unknown column {name!r}", did_you_mean(name, schema))
                elif name not in kept:
                    problems.key((option,), name, f"the column {name!r} is not kept", "keep it, or remove it here")
        casts = dict[str, expressions.Typed]()
        for name, text in self.cast.items():
            if (dtype := parse_dtype(text)) is None:
                problems.add(("cast", name), f"unknown type {text!r}", did_you_mean(text, DTYPES))
            elif name in schema:
                try:
                    casts[name] = expressions.cast(expressions.Typed(pl.col(name), schema[name]), dtype, strict=True)
                except expressions.ExpressionError as error:
                    problems.add(("cast", name), error.message, error.remedy)
        columns, out = list[tuple[str, str, pl.Expr]](), dict[str, pl.DataType]()
        for name in kept:
            new = self.rename.get(name, name)
            if name in self.rename:
                problems.new_column(("rename", name), new)
            if new in out:
                problems.key(("rename",), name, f"two columns would be named {new!r}", "rename or drop one")
            typed = casts.get(name) or expressions.Typed(pl.col(name), schema[name])
            columns.append((name, new, typed.expr))
            out[new] = typed.dtype
        if not kept and not problems.issues:
            problems.add((), "no column is left", "keep at least one")
        return None if problems.issues else Selected(out, tuple(columns))
