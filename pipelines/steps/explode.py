from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import polars as pl
from pydantic import Field

from pipelines.steps.base import Columns, Context, Operation, Problems, Step, Texts
from pipelines.types import Schema, dtype_name


@dataclass(frozen=True)
class Exploded(Operation):
    columns: tuple[str, ...]
    drop_empty: bool

    def apply(self, frame: pl.LazyFrame) -> pl.LazyFrame:
        keep = not self.drop_empty
        return frame.explode(self.columns, empty_as_null=keep, keep_nulls=keep)

    def reads(self, wanted: Columns) -> Columns:
        return wanted | frozenset(self.columns)

    def prune(self, wanted: Columns) -> Exploded:
        columns = self.reads(wanted)
        return replace(self, schema={name: t for name, t in self.schema.items() if name in columns})


class Explode(Step):
    """One row for each element of a list column, in order; the other columns are repeated.

    A row whose list is empty or NULL is kept once, with NULL, or left out with `empty: drop`, as SQL's unnest does. Several
    columns are taken apart side by side: their lists must be of the same length in every row.
    """

    kind = "explode"
    shorthand = "columns"
    example: ClassVar[str] = "explode: {columns: tags, empty: drop}"

    columns: Texts = Field(min_length=1, description="List columns.")
    empty: Literal["keep", "drop"] = Field("keep", description="What becomes of rows whose list is empty or NULL.")

    def bind(self, schema: Schema, problems: Problems, context: Context) -> Exploded | None:
        out = dict(schema)
        for i, name in enumerate(self.columns):
            if not problems.column(("columns", i), name, schema):
                continue
            dtype = schema[name]
            if not isinstance(dtype, pl.List | pl.Array):
                problems.add(("columns", i), f"{name!r} is {dtype_name(dtype)}, not a list", "name a column of lists")
            elif name in self.columns[:i]:
                problems.add(("columns", i), f"{name!r} stands here twice", "remove one")
            else:
                out[name] = dtype.inner  # type: ignore[assignment]
        return None if problems.issues else Exploded(out, tuple(self.columns), self.empty == "drop")
