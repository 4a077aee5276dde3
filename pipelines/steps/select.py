from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import polars as pl
from pydantic import Field

from pipelines.errors import did_you_mean
from pipelines.steps.base import Columns, Context, Dtype, Operation, Problems, Step
from pipelines.types import DTYPES, Schema, dtype_name, parse_dtype


@dataclass(frozen=True)
class Selected(Operation):
    schema: Schema
    columns: tuple[tuple[str, str, pl.DataType | None], ...]
    """(name in the input, name in the output, type to cast to)."""

    def apply(self, frame: pl.LazyFrame) -> pl.LazyFrame:
        return frame.select(
            (pl.col(old) if dtype is None else pl.col(old).cast(dtype)).alias(new) for old, new, dtype in self.columns
        )

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
    cast: dict[str, Dtype] = Field({}, description="Column: type. A value that does not fit is an error; see TRY_CAST.")

    def bind(self, schema: Schema, problems: Problems, context: Context) -> Selected | None:
        chosen = list(schema) if self.columns is None else self.columns
        for i, name in enumerate(self.columns or []):
            if problems.column(("columns", i), name, schema) and name in chosen[:i]:
                problems.add(("columns", i), f"the column {name!r} is chosen twice", "remove one")
        for i, name in enumerate(self.drop):
            problems.column(("drop", i), name, schema)
        kept = [name for name in chosen if name in schema and name not in self.drop]
        for option, names in (("rename", self.rename), ("cast", self.cast)):
            for name in names:
                if name not in schema:
                    problems.key((option,), name, f"unknown column {name!r}", did_you_mean(name, schema))
                elif name not in kept:
                    problems.key((option,), name, f"the column {name!r} is not kept", "keep it, or remove it here")
        casts = dict[str, pl.DataType]()
        for name, text in self.cast.items():
            if (dtype := parse_dtype(text)) is None:
                problems.add(("cast", name), f"unknown type {text!r}", did_you_mean(text, DTYPES))
            elif name in schema:
                try:
                    pl.LazyFrame(schema={name: schema[name]}).select(pl.col(name).cast(dtype)).collect()
                    casts[name] = dtype
                except pl.exceptions.PolarsError:
                    problems.add(
                        ("cast", name), f"{dtype_name(schema[name])} cannot be cast to {text}", "cast to string first"
                    )
        columns, out = list[tuple[str, str, pl.DataType | None]](), dict[str, pl.DataType]()
        for name in kept:
            new = self.rename.get(name, name)
            if new in out:
                problems.key(("rename",), name, f"two columns would be named {new!r}", "rename or drop one")
            columns.append((name, new, casts.get(name)))
            out[new] = casts.get(name, schema[name])
        if not kept and not problems.issues:
            problems.add((), "no column is left", "keep at least one")
        return None if problems.issues else Selected(out, tuple(columns))
