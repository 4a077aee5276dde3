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
    split: str | None

    def apply(self, frame: pl.LazyFrame) -> pl.LazyFrame:
        keep = not self.drop_empty
        if self.split is not None:
            frame = frame.with_columns(pl.col(self.columns).str.split(self.split))
        return frame.explode(self.columns, empty_as_null=keep, keep_nulls=keep)

    def reads(self, wanted: Columns) -> Columns:
        return wanted | frozenset(self.columns)

    def prune(self, wanted: Columns) -> Exploded:
        columns = self.reads(wanted)
        return replace(self, schema={name: t for name, t in self.schema.items() if name in columns})


class Explode(Step):
    """One row for each element of a list column, in order; the other columns are repeated.

    A row whose list is empty or NULL is kept once, with NULL, or left out with `empty: drop`, as SQL's unnest does. Several
    columns are taken apart side by side: their lists must be of the same length in every row. With `split`, the columns hold
    texts, which are cut at that separator.
    """

    kind = "explode"
    shorthand = "columns"
    example: ClassVar[str] = "explode: {columns: Symbol, split: '.'}"

    columns: Texts = Field(min_length=1, description="List columns, or texts with `split`.")
    empty: Literal["keep", "drop"] = Field("keep", description="What becomes of rows whose list is empty or NULL.")

    split: str | None = Field(None, min_length=1, description="The separator of texts, as a comma.")

    def bind(self, schema: Schema, problems: Problems, context: Context) -> Exploded | None:
        out = dict(schema)
        for i, name in enumerate(self.columns):
            if not problems.column(("columns", i), name, schema):
                continue
            dtype = schema[name]
            if self.split is not None and dtype != pl.String():
                problems.add(("columns", i), f"{name!r} is {dtype_name(dtype)}, not text", "leave `split` out")
            elif self.split is None and not isinstance(dtype, pl.List | pl.Array):
                problems.add(
                    ("columns", i),
                    f"{name!r} is {dtype_name(dtype)}, not a list",
                    "name a column of lists, or of texts with `split`",
                )
            elif name in self.columns[:i]:
                problems.add(("columns", i), f"{name!r} stands here twice", "remove one")
            else:
                out[name] = dtype.inner if isinstance(dtype, pl.List | pl.Array) else dtype  # type: ignore[assignment]
        return None if problems.issues else Exploded(out, tuple(self.columns), self.empty == "drop", self.split)
