from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import polars as pl
from pydantic import Field

from pipelines.arrays import Rows, chunks_of, cut_into, over
from pipelines.steps.base import Context, Problems, Step, Texts
from pipelines.types import Schema
from pipelines.values import Array, Value
from pipelines.work import Builder, Ref, Work


@dataclass(frozen=True)
class FromArray(Work):
    types: Schema
    """Of all its columns."""
    array: Array

    @property
    def rows(self) -> tuple[int, ...] | None:  # type: ignore[override]
        known = [n for n in self.array.chunks[0] if n is not None]
        return tuple(known) if len(known) == len(self.array.chunks[0]) else None

    def prune(self, wanted: frozenset[str]) -> FromArray:
        return replace(self, schema={name: t for name, t in self.types.items() if name in wanted})

    def count(self, inputs: Sequence[int]) -> int:
        return inputs[0] // max(1, self.array.blocks // len(self.array.chunks[0]))

    def lower(self, builder: Builder, inputs: Sequence[Sequence[Ref]]) -> Sequence[Ref]:
        refs = inputs[0]
        rows = Rows(self.types, tuple(self.schema))
        if len(self.array.chunks) > 1 and len(self.array.chunks[1]) > 1:
            array = over(refs[0].key[0], cut_into(self.array, len(refs))).rechunk({1: -1})
            refs = chunks_of(array, builder, inputs)
        return [builder.task("", (i,), rows, each) for i, each in enumerate(refs)]


class FromArrayStep(Step):
    """Make a table of an array of one or two dimensions: a row of the array is a row of the table."""

    kind = "from_array"
    takes = (("array",),)
    shorthand = "columns"
    example: ClassVar[str] = "from_array: {columns: [first, second]}"

    columns: Texts = Field(min_length=1, description="The name of each of the array's columns.")

    def bind(self, schema: Schema, problems: Problems, context: Context) -> Work | None:
        [array] = context.values
        assert isinstance(array, Array)
        wide = 1 if len(array.shape) == 1 else array.shape[1] if len(array.shape) == 2 else None
        if wide is None:
            what = (
                "only the data tells how many columns it has" if len(array.shape) == 2 else "it has no rows and columns"
            )
            problems.add(
                (), f"this is {array}: {what}", "a table is made of one dimension, or of two and as many names"
            )
        elif wide != len(self.columns):
            problems.add(
                ("columns",), f"the array has {wide} columns, {len(self.columns)} are named", "name each of them"
            )
        for i, name in enumerate(self.columns):
            if name in self.columns[:i] or not name:
                problems.add(
                    ("columns", i),
                    f"{name!r} stands here twice" if name else "a column without a name",
                    "give each its own name",
                )
        dtype = {"float32": pl.Float32(), "int64": pl.Int64(), "int32": pl.Int32(), "bool": pl.Boolean()}
        found = dtype.get(array.dtype, pl.Float64())
        if problems.issues:
            return None
        schema = dict.fromkeys(self.columns, found)
        return FromArray(Value(), schema, schema, array)
