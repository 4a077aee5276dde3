from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import polars as pl
from pydantic import Field

from pipelines.errors import did_you_mean
from pipelines.steps.base import Appending, Apply, Columns, Context, Problems, Step
from pipelines.types import Schema, dtype_name, widened


@dataclass(frozen=True)
class Part:
    """Brings one input's rows to the union's columns and types."""

    schema: Schema
    has: Schema

    def __call__(self, frame: pl.LazyFrame) -> pl.LazyFrame:
        absent = (pl.lit(None, dtype).alias(name) for name, dtype in self.schema.items() if name not in self.has)
        casts = (pl.col(name).cast(t) for name, t in self.schema.items() if name in self.has and self.has[name] != t)
        return frame.with_columns(*absent, *casts).select(list(self.schema))


@dataclass(frozen=True)
class United(Appending):
    inputs: tuple[Schema, ...]

    def part(self, index: int) -> Apply:
        return Part(self.schema, self.inputs[index])

    def tests_early(self, columns: Columns) -> tuple[int, ...]:
        return tuple(range(len(self.inputs)))

    def reads_of(self, index: int, wanted: Columns) -> Columns:
        return wanted & frozenset(self.inputs[index])

    def prune(self, wanted: Columns) -> United:
        return replace(self, schema={name: t for name, t in self.schema.items() if name in wanted})


class Union(Step):
    """The rows of several steps, one after another (UNION ALL). Columns are matched by name; the first step's order counts.

    Types may differ where one holds all values of the other: int32 and int64, int32 and double, date and timestamp.
    """

    kind = "union"
    several = True
    example: ClassVar[str] = "union: {missing: null}"

    missing: Literal["error", None] = Field(
        "error", description="What a column is in a step that does not have it. null: NULL in its rows."
    )

    def bind(self, schema: Schema, problems: Problems, context: Context) -> United | None:
        out, types, first = dict[str, pl.DataType](), dict[str, list[pl.DataType]](), dict[str, str]()
        for step, columns in context.inputs:
            for name, dtype in columns.items():
                origin = first.setdefault(name, step)
                seen = types.setdefault(name, [])
                if dtype in seen:
                    continue
                if (common := widened(*seen, dtype)) is None:
                    problems.add(
                        (),
                        f"the column {name!r} is {dtype_name(out[name])} in {origin!r} and {dtype_name(dtype)} in {step!r}",
                        "cast one of them in a `select` before",
                    )
                else:
                    out[name] = common
                    seen.append(dtype)
        if self.missing == "error":
            for step, columns in context.inputs:
                for name in (name for name in out if name not in columns):
                    near = did_you_mean(name, [other for other in columns if other not in schema])
                    remedy = "add `missing: null`, or select the columns that all have"
                    problems.add(
                        (),
                        f"the step {step!r} has no column {name!r}, which {first[name]!r} has",
                        f"{near}; {remedy}" if near.startswith("did") else remedy,
                    )
        return None if problems.issues else United(out, tuple(columns for _, columns in context.inputs))
