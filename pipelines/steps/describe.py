from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import polars as pl
from pydantic import Field

from pipelines.aggregates import FUNCTIONS
from pipelines.expressions import ExpressionError, Typed, cast, quote
from pipelines.steps.aggregate import Aggregate, Aggregated
from pipelines.steps.base import Apply, Columns, Context, Operation, Problems, Reduction, Step, Texts
from pipelines.types import Schema, dtype_name

_FUNCTIONS = {
    **{"count": "count({})", "nulls": "count(*) FILTER (WHERE {} IS NULL)", "mean": "avg({})", "std": "std({})"},
    **{"min": "min({})", "q25": "quantile({}, 0.25)", "median": "median({})", "q75": "quantile({}, 0.75)", "max": "max({})"},
}  # fmt: skip
_QUANTILES = ("q25", "median", "q75")
_TYPES: Mapping[str, pl.DataType] = {
    **{"column": pl.String(), "type": pl.String()},
    **{name: pl.Int64() for name in ("count", "nulls")},
    **{name: pl.Float64() for name in ("mean", "std")},
    **{"min": pl.String(), **dict.fromkeys(_QUANTILES, pl.Float64()), "max": pl.String()},
}


@dataclass(frozen=True)
class Rows:
    """One row with every column's answers, `<place>.<answer>` → a row for each column."""

    columns: tuple[tuple[str, pl.DataType], ...]
    answers: Schema
    wanted: tuple[str, ...]

    def __call__(self, frame: pl.LazyFrame) -> pl.LazyFrame:
        rows = [pl.struct(self.row(i, name, dtype)) for i, (name, dtype) in enumerate(self.columns)]
        return frame.select(pl.concat_list(rows).alias("row")).explode("row").unnest("row")

    def row(self, place: int, name: str, dtype: pl.DataType) -> list[pl.Expr]:
        values: dict[str, pl.Expr] = {"column": pl.lit(name), "type": pl.lit(dtype_name(dtype))}
        for answer in self.wanted[2:]:
            found = f"{place}.{answer}"
            if found in self.answers:
                values[answer] = _text(found, dtype) if answer in ("min", "max") else pl.col(found)
        return [values.get(answer, pl.lit(None)).cast(_TYPES[answer]).alias(answer) for answer in self.wanted]


def _text(name: str, dtype: pl.DataType) -> pl.Expr:
    """A value as SQL writes it."""
    try:
        return cast(Typed(pl.col(name), dtype), pl.String(), True).expr
    except ExpressionError:  # of binary and durations
        return pl.col(name).dt.to_string("iso") if dtype.is_temporal() else pl.lit(None, pl.String)


@dataclass(frozen=True)
class Described(Operation):
    """With quantiles all rows have to be in one place."""

    placement = "gather"
    whole_table: Operation
    rows: Rows

    def apply(self, frame: pl.LazyFrame) -> pl.LazyFrame:
        return self.rows(self.whole_table.whole(frame))

    def reads(self, wanted: Columns) -> Columns:
        return self.whole_table.reads(frozenset(self.whole_table.schema))


@dataclass(frozen=True)
class DescribedInParts(Reduction):
    schema: Schema
    parts: Aggregated
    rows: Rows

    @property
    def state(self) -> Schema:  # type: ignore[override]
        return self.parts.state

    @property
    def any_order(self) -> bool:
        return self.parts.any_order

    @property
    def any_layout(self) -> bool:
        return self.parts.any_layout

    def partial(self, frame: pl.LazyFrame) -> pl.LazyFrame:
        return self.parts.partial(frame)

    @property
    def ways(self) -> tuple[Apply, ...]:
        return self.parts.ways

    def fails(self, state: pl.DataFrame) -> bool:
        return self.parts.fails(state)

    def combine(self, frame: pl.LazyFrame) -> pl.LazyFrame:
        return self.parts.combine(frame)

    def apply(self, frame: pl.LazyFrame) -> pl.LazyFrame:
        return self.rows(self.parts.apply(frame))

    def whole(self, frame: pl.LazyFrame) -> pl.LazyFrame:
        return self.rows(self.parts.whole(frame))

    def reads(self, wanted: Columns) -> Columns:
        return self.parts.reads(frozenset(self.parts.schema))


class Describe(Step):
    """One row for each column: how many values it holds and how many NULLs, their mean, spread, extremes and quartiles.

    `min` and `max` are text, for every type that has an order; the others are numbers, and NULL for columns that hold none.
    NaN is the greatest number, and makes a mean NaN. Quartiles are between two values in proportion; they need all rows in one
    place: without them, a table of any size is described.
    """

    kind = "describe"
    shorthand = "columns"
    example: ClassVar[str] = "describe: {columns: [Close, Volume], quartiles: false}"

    columns: Texts | None = Field(None, min_length=1, description="Which columns. Default: all.")
    quartiles: bool = Field(True, description="Whether to compute `q25`, `median` and `q75`.")

    def bind(self, schema: Schema, problems: Problems, context: Context) -> Operation | None:
        chosen = self.columns or list(schema)
        for i, name in enumerate(chosen):
            if problems.column(("columns", i), name, schema) and name in chosen[:i]:
                problems.add(("columns", i), f"{name!r} stands here twice", "remove one")
        if problems.issues:
            return None
        wanted = tuple(name for name in _TYPES if self.quartiles or name not in _QUANTILES)
        outputs = dict[str, str]()
        for i, name in enumerate(chosen):
            for answer in wanted[2:]:
                function = {"mean": "avg", "q25": "quantile", "q75": "quantile"}.get(answer, answer)
                if answer == "nulls" or FUNCTIONS[function].result(schema[name]) is not None:
                    outputs[f"{i}.{answer}"] = _FUNCTIONS[answer].format(quote(name))
        found = Aggregate.model_validate(outputs).bind(schema, problems, context)
        if found is None:
            return None
        rows = Rows(tuple((name, schema[name]) for name in chosen), found.schema, wanted)
        out = {name: _TYPES[name] for name in wanted}
        return DescribedInParts(out, found, rows) if isinstance(found, Aggregated) else Described(out, found, rows)
