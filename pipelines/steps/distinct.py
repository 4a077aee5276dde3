from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import polars as pl
from pydantic import Field

from pipelines.aggregates import canonical
from pipelines.steps.base import Columns, Context, Keyed, Problems, Step, Texts
from pipelines.types import Schema, dtype_name


@dataclass(frozen=True)
class Deduplicated(Keyed):
    schema: Schema
    keeps_rows: ClassVar[bool] = True

    @property
    def keys(self) -> tuple[str, ...]:  # type: ignore[override]
        return tuple(self.schema)

    def shrink(self, frame: pl.LazyFrame) -> pl.LazyFrame:
        # -0.0 and 0.0 are one value, and so is every NaN
        floats = (canonical(pl.col(name), dtype).alias(name) for name, dtype in self.schema.items() if dtype.is_float())
        return frame.with_columns(floats).unique(subset=self.keys, keep="first", maintain_order=True)

    def apply(self, frame: pl.LazyFrame) -> pl.LazyFrame:
        return self.shrink(frame)

    def sees_order(self, wanted: bool) -> bool:
        return wanted

    def tests_early(self, columns: Columns) -> tuple[int, ...]:
        return (0,) if not any(self.schema[name].is_float() for name in columns) else ()

    def reads(self, wanted: Columns) -> Columns:
        return frozenset(self.schema)


class Distinct(Step):
    """Each combination of values once (SELECT DISTINCT), in the order of first appearance. NULL is a value like any other."""

    kind = "distinct"
    shorthand = "columns"
    example: ClassVar[str] = "distinct: Symbol"

    columns: Texts | None = Field(None, min_length=1, description="The columns to keep and to compare. Default: all.")

    def bind(self, schema: Schema, problems: Problems, context: Context) -> Deduplicated | None:
        chosen = self.columns or list(schema)
        for i, name in enumerate(chosen):
            at = () if self.columns is None else ("columns", i)
            if not problems.column(at, name, schema):
                continue
            if schema[name].is_nested():
                problems.add(at, f"{name!r} is {dtype_name(schema[name])}, which cannot be compared", "leave it out")
            if name in chosen[:i]:
                problems.add(at, f"{name!r} stands here twice", "remove one")
        return None if problems.issues else Deduplicated({name: schema[name] for name in chosen})
