from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from pydantic import Field

from pipelines.arrays import Matrix, not_numeric, numeric
from pipelines.steps.base import Context, Problems, Step, Texts
from pipelines.types import Schema
from pipelines.values import Array
from pipelines.work import Builder, Ref, Work


@dataclass(frozen=True)
class FromTable(Work):
    matrix: Matrix

    def reads_of(self, index: int, wanted: frozenset[str]) -> frozenset[str]:
        return frozenset(self.matrix.columns)

    def count(self, inputs: Sequence[int]) -> int:
        return inputs[0]

    def lower(self, builder: Builder, inputs: Sequence[Sequence[Ref]]) -> Sequence[Ref]:
        return [builder.task("", (i, 0), self.matrix, each) for i, each in enumerate(inputs[0])]


class ToArray(Step):
    """Make an array of a table's columns: shape (rows, columns), a chunk a partition. NULL becomes NaN.

    Of Parquet files the plan knows how many rows each chunk has, also behind `derive`, `select` and `split`. Else only the data says
    that: the plan shows `?`, Dask NaN, and `compile(..., lengths=True)` counts.
    """

    kind = "to_array"
    gives = "array"
    shorthand = "columns"
    example: ClassVar[str] = "to_array: {columns: [Open, Close], dtype: float32}"

    columns: Texts | None = Field(None, min_length=1, description="Default: all that are numbers.")
    dtype: Literal["float32", "float64"] = Field("float64", description="Of the array.")

    def bind(self, schema: Schema, problems: Problems, context: Context) -> Work | None:
        columns = tuple(self.columns or numeric(schema))
        for i, name in enumerate(self.columns or ()):
            if problems.column(("columns", i), name, schema) and name not in numeric(schema):
                problems.add(("columns", i), not_numeric(name, schema), "cast it, or leave it out")
            elif name in columns[:i]:
                problems.add(("columns", i), f"{name!r} stands here twice", "remove one")
        if not columns:
            problems.add((), "the table has no column of numbers", "derive some")
        if problems.issues:
            return None
        return FromTable(Array((context.rows or (None,), (len(columns),)), self.dtype), {}, Matrix(columns, self.dtype))
