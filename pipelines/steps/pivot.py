from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import polars as pl
from pydantic import Field

from pipelines.errors import DataError
from pipelines.expressions import quote
from pipelines.kernel import collect
from pipelines.steps.aggregate import Aggregated, AggregatedByKey, Groups
from pipelines.steps.base import (
    Apply,
    Columns,
    Context,
    Keyed,
    Operation,
    Problems,
    Reduction,
    Sql,
    Step,
    Texts,
    in_order,
)
from pipelines.types import Schema, dtype_name


@dataclass(frozen=True)
class Places:
    """Each row's place: the number of its name among the listed ones, NULL for others. Aggregates are of each key and place."""

    by: tuple[str, ...]
    name: str
    listed: pl.Series
    place: str
    answers: tuple[tuple[str, pl.Expr], ...]
    """Of each answer its column, and its value where there are no rows."""
    schema: Schema

    def of(self, frame: pl.LazyFrame) -> pl.LazyFrame:
        places = pl.int_range(len(self.listed), dtype=pl.Int32, eager=True)
        found = pl.col(self.name).replace_strict(self.listed, places, default=None, return_dtype=pl.Int32)
        return frame.with_columns(found.alias(self.place))

    def spread(self, frame: pl.LazyFrame) -> pl.LazyFrame:
        """A row for each key and place → a row for each key, with the places' answers side by side."""
        return frame.map_batches(
            self._spread, schema=dict(self.schema), predicate_pushdown=False, projection_pushdown=False, slice_pushdown=False
        )  # fmt: skip

    def _spread(self, frame: pl.DataFrame) -> pl.DataFrame:
        row, values = f"{self.place}~row", [self.place, *(name for name, _ in self.answers)]
        # not by a join, in which NaN is not NaN
        groups = (
            frame.group_by(self.by, maintain_order=True).agg(values)
            if self.by
            else frame.select(pl.col(values).implode())
        )
        keys = groups.select(self.by) if self.by else pl.DataFrame(height=1)
        rows = groups.select(values).with_row_index(row).explode(values).drop_nulls(self.place)
        cells = rows.select(pl.col(self.place).cast(pl.Int64) * keys.height + pl.col(row)).to_series()
        found = pl.repeat(None, len(self.listed) * keys.height, dtype=pl.Int64, eager=True)
        found = found.scatter(cells, pl.int_range(rows.height, eager=True))
        columns = iter(list(self.schema)[len(self.by) :])
        made = list[pl.Series]()
        for i in range(len(self.listed)):
            here = found.slice(i * keys.height, keys.height)
            exprs = (
                pl.when(here.is_null()).then(empty).otherwise(pl.col(name).gather(here)).alias(next(columns))
                for name, empty in self.answers
            )
            made += rows.select(exprs).get_columns()
        return keys.with_columns(made)


@dataclass(frozen=True)
class Pivoted(Reduction):
    schema: Schema
    parts: Aggregated
    places: Places

    @property
    def state(self) -> Schema:  # type: ignore[override]
        return self.parts.state

    @property
    def groups(self) -> tuple[str, ...]:
        return self.places.by

    @property
    def parted(self) -> tuple[str, ...]:
        return (*self.places.by, self.places.name)

    @property
    def any_order(self) -> bool:
        return self.parts.any_order

    @property
    def any_layout(self) -> bool:
        return self.parts.any_layout

    def sees_order(self, wanted: bool) -> bool:
        return not self.any_order

    def tests_early(self, columns: Columns) -> tuple[int, ...]:
        return self.parts.tests_early(columns) if columns <= frozenset(self.places.by) else ()

    def partial(self, frame: pl.LazyFrame) -> pl.LazyFrame:
        return self.parts.partial(self.places.of(frame))

    @property
    def ways(self) -> tuple[Apply, ...]:
        return self.partial, self.far, self.careful

    def far(self, frame: pl.LazyFrame) -> pl.LazyFrame:
        return self.parts.far(self.places.of(frame))

    def careful(self, frame: pl.LazyFrame) -> pl.LazyFrame:
        return self.parts.careful(self.places.of(frame))

    def fails(self, state: pl.DataFrame) -> bool:
        return self.parts.fails(state)

    def combine(self, frame: pl.LazyFrame) -> pl.LazyFrame:
        return self.parts.combine(frame)

    def finish(self, frame: pl.LazyFrame) -> pl.LazyFrame:
        return self.places.spread(self.parts.finish(frame))

    def whole(self, frame: pl.LazyFrame) -> pl.LazyFrame:
        return self.apply(self.careful(frame))

    def reads(self, wanted: Columns) -> Columns:
        return self.parts.columns - {self.places.place} | {self.places.name}


@dataclass(frozen=True)
class PivotedByKey(Keyed):
    schema: Schema
    parts: AggregatedByKey
    places: Places

    @property
    def keys(self) -> tuple[str, ...]:  # type: ignore[override]
        return self.places.by

    def tests_early(self, columns: Columns) -> tuple[int, ...]:
        return self.parts.tests_early(columns) if columns <= frozenset(self.places.by) else ()

    def sees_order(self, wanted: bool) -> bool:
        return self.parts.sees_order(wanted)

    def apply(self, frame: pl.LazyFrame) -> pl.LazyFrame:
        return self.places.spread(self.parts.apply(self.places.of(frame)))

    def reads(self, wanted: Columns) -> Columns:
        return self.parts.columns - {self.places.place} | {self.places.name}


@dataclass(frozen=True)
class PivotedWhole(PivotedByKey):
    placement = "gather"

    def whole(self, frame: pl.LazyFrame) -> pl.LazyFrame:
        return self.apply(frame)


class Pivot(Step):
    """Turn rows into columns: one row for each group, and in it a column for each value of `names` that `columns` lists.

    `values` is an expression over aggregate functions, as in `aggregate`, of the group's rows with that value: `first(price)`
    where there is one, `sum(price)` where there may be several. A group without such rows has NULL, or a count of 0; rows with
    a value that is not listed count nowhere. The result is sorted by the keys.
    """

    kind = "pivot"
    example: ClassVar[str] = (
        "pivot: {by: [Date], names: Symbol, columns: [AAPL, IBM], values: {close: first(Close), days: count(*)}}"
    )

    by: Texts = Field([], description="The key columns. NULL is a key like any other. Without any, there is one row.")
    names: str = Field(description="The column whose values become columns.")
    columns: list[str | int | float | bool] = Field(
        min_length=1,
        description="Which of its values. They are listed, so that the result's columns are known before the run.",
    )
    values: Sql | dict[str, Sql] = Field(
        description="What stands in a column. With several, `name: expression`, the columns are called `<value>_<name>`."
    )

    def bind(self, schema: Schema, problems: Problems, context: Context) -> Operation | None:
        problems.keys("by", self.by, schema)
        problems.column(("names",), self.names, schema)
        if self.names in self.by:
            problems.add(("names",), f"{self.names!r} is a key already", "take it out of `by`")
        if problems.issues:
            return None
        dtype, listed = schema[self.names], dict[str, Any]()
        for i, value in enumerate(self.columns):
            text = "'" + value.replace("'", "''") + "'" if isinstance(value, str) else repr(value).lower()
            name = value if isinstance(value, str) else text
            column = quote(self.names)
            if found := problems.expression(("columns", i), f"{column} = {text}", schema):
                as_one = problems.expression(("columns", i), f"coalesce({column}, {text})", schema)
                assert as_one is not None, "what can be compared has one type"
                one = pl.DataFrame({self.names: [None]}, schema={self.names: dtype}).with_columns(as_one[0].expr)
                one = one.cast(dtype, strict=False)
                if not one.select(found[0].expr.fill_null(False)).item():
                    problems.add(("columns", i), f"no value of {dtype_name(dtype)} is {name}", "correct or remove it")
                elif name in listed:
                    problems.add(("columns", i), f"{name!r} stands here twice", "remove one")
                listed[name] = one.item()
            if problems.issues:  # the next values would have the same
                return None
        values = pl.Series(list(listed.values()), dtype=dtype)
        place = f"{max((*schema, *listed), key=len)}~place"
        groups = Groups([*self.by, place], {**schema, place: pl.Int32()}, problems)
        none = Groups([], schema, problems)  # what stands where there are no rows
        several = self.values if isinstance(self.values, dict) else {"": self.values}
        answers = list[str]()
        for more, text in several.items():
            path = ("values", more) if isinstance(self.values, dict) else ("values",)
            answers.append(f"{place}~{len(answers)}")
            none.add(path, answers[-1], text)
            if not problems.issues:
                groups.add(path, answers[-1], text, pl.col(place).is_not_null())
        if not several:
            problems.add(("values",), "pivot names nothing to compute", "write `values: first(column)`")
        if problems.issues:
            return None
        out = {name: schema[name] for name in self.by}
        for i, value in enumerate(listed):
            for more, answer in zip(several, answers, strict=True):
                name = f"{value}_{more}" if isinstance(self.values, dict) else value
                problems.named(("columns", i), name)
                if name in out:
                    problems.add(("columns", i), f"there is a column {name!r} already", "choose another name")
                out[name] = groups.out[answer]
        if problems.issues:
            return None
        try:
            empty = collect(none.operation().whole(pl.LazyFrame(schema=dict(schema))), none.out)
        except DataError as error:
            problems.add(
                ("values",), f"a group without rows has no value: {error.issues[0].message}", "write CASE WHEN"
            )
            return None
        absent = tuple((name, pl.lit(empty[name].item(), none.out[name])) for name in answers)
        places, parts = Places(tuple(self.by), self.names, values, place, absent, out), groups.operation()
        if isinstance(parts, Aggregated):
            return Pivoted(out, parts, places)
        return (PivotedByKey if self.by else PivotedWhole)(out, parts, places)

    def identity(self) -> Mapping[str, Any]:
        return {**super().identity(), "values": in_order(self.values)}
