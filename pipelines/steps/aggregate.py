from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import polars as pl
from pydantic import ConfigDict, Field

from pipelines.aggregates import FUNCTIONS, Function, Reach, canonical, quantile
from pipelines.expressions import ExpressionError, Typed
from pipelines.packing import Packing
from pipelines.steps.base import Apply, Columns, Context, Keyed, Operation, Problems, Reduction, Sql, Step, Texts
from pipelines.types import Schema, dtype_name


@dataclass(frozen=True)
class Call:
    """One aggregate function on one argument; its state's columns start with `name`."""

    function: str
    argument: pl.Expr
    dtype: pl.DataType
    name: str
    part: float | None = None
    """Of quantile."""

    @property
    def known(self) -> Function:
        return FUNCTIONS[self.function] if self.part is None else quantile(self.part)


@dataclass(frozen=True)
class Grouping:
    """What both ways of aggregating share."""

    keys: tuple[tuple[str, pl.DataType], ...]
    calls: tuple[Call, ...]
    outputs: tuple[tuple[str, pl.Expr], ...]

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.keys]

    def tests_early(self, columns: Columns) -> tuple[int, ...]:
        """Of keys; 0.0 and -0.0 are one, which a test may tell apart."""
        exact = {name for name, dtype in self.keys if not dtype.is_float()}
        return (0,) if columns <= exact else ()

    def states(self, frame: pl.LazyFrame, reach: Reach, packing: Packing | None = None) -> pl.LazyFrame:
        exprs = [e for c in self.calls for e in c.known.partial(c.argument, c.dtype, c.name, reach)]
        if not self.keys:
            if any(c.function in ("var", "std") for c in self.calls):
                # their float sums depend on the chunks that a parallel CSV parse leaves
                frame = frame.map_batches(
                    _rechunk, predicate_pushdown=True, projection_pushdown=True, slice_pushdown=False
                )
            return frame.select(exprs)
        frame = frame.with_columns(canonical(pl.col(k), t).alias(k) for k, t in self.keys if t.is_float())
        if not exprs:
            return frame.select(self.names).unique()
        if packing is not None:
            return frame.group_by(packing.key).agg(exprs).with_columns(packing.columns)
        return frame.group_by(self.names).agg(exprs)

    def combined(self, frame: pl.LazyFrame, packing: Packing | None = None) -> pl.LazyFrame:
        exprs = [e for c in self.calls for e in c.known.combine(c.name, c.dtype)]
        if not self.keys:
            return frame.select(exprs)
        if exprs and packing is not None:
            return frame.group_by(packing.key).agg(exprs).with_columns(packing.columns)
        return frame.group_by(self.names).agg(exprs) if exprs else frame.unique()

    def answers(self, frame: pl.LazyFrame) -> pl.LazyFrame:
        values = [c.known.final(c.name, c.dtype).alias(c.name) for c in self.calls]
        return frame.select(*self.names, *values).select(*self.names, *(e.alias(n) for n, e in self.outputs))


def _rechunk(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.rechunk()


@dataclass(frozen=True)
class Aggregated(Reduction):
    schema: Schema
    state: Schema
    grouping: Grouping
    columns: Columns
    packing: Packing | None = None

    @property
    def groups(self) -> tuple[str, ...]:
        return tuple(self.grouping.names)

    @property
    def packs(self) -> Schema:
        return dict(self.grouping.keys)

    def packed(self, packing: Packing) -> Aggregated:
        return replace(self, packing=packing)

    @property
    def any_order(self) -> bool:
        return all(c.known.kind == "exact" for c in self.grouping.calls)

    @property
    def any_layout(self) -> bool:
        return all(call.known.kind != "ordered" for call in self.grouping.calls)

    def tests_early(self, columns: Columns) -> tuple[int, ...]:
        return self.grouping.tests_early(columns)

    def sees_order(self, wanted: bool) -> bool:
        return not self.any_order

    def partial(self, frame: pl.LazyFrame) -> pl.LazyFrame:
        return self.grouping.states(frame, "near", self.packing)

    @property
    def ways(self) -> tuple[Apply, ...]:
        return self.partial, self.far, self.careful

    def fails(self, state: pl.DataFrame) -> bool:
        odd = (f"{call.name}.odd" for call in self.grouping.calls)
        return any(state[name].sum() for name in odd if name in state.columns)

    def far(self, frame: pl.LazyFrame) -> pl.LazyFrame:
        return self.grouping.states(frame, "far", self.packing)

    def careful(self, frame: pl.LazyFrame) -> pl.LazyFrame:
        return self.grouping.states(frame, "all", self.packing)

    def combine(self, frame: pl.LazyFrame) -> pl.LazyFrame:
        return self.grouping.combined(frame, self.packing)

    def finish(self, frame: pl.LazyFrame) -> pl.LazyFrame:
        return self.grouping.answers(frame)

    def whole(self, frame: pl.LazyFrame) -> pl.LazyFrame:
        return self.apply(self.careful(frame))

    def reads(self, wanted: Columns) -> Columns:
        return self.columns


@dataclass(frozen=True)
class AggregatedByKey(Keyed):
    schema: Schema
    grouping: Grouping
    columns: Columns

    @property
    def keys(self) -> tuple[str, ...]:  # type: ignore[override]
        return tuple(self.grouping.names)

    def tests_early(self, columns: Columns) -> tuple[int, ...]:
        return self.grouping.tests_early(columns)

    def sees_order(self, wanted: bool) -> bool:
        # a variance, also of distinct values, is a float sum in the order of the rows
        return any(FUNCTIONS[c.function].kind == "ordered" or "_distinct" in c.function for c in self.grouping.calls)

    def apply(self, frame: pl.LazyFrame) -> pl.LazyFrame:
        return self.grouping.answers(self.grouping.states(frame, "all"))

    def reads(self, wanted: Columns) -> Columns:
        return self.columns


@dataclass(frozen=True)
class AggregatedWhole(AggregatedByKey):
    """Without keys, functions that need rows need all of them in one place."""

    placement = "gather"

    def whole(self, frame: pl.LazyFrame) -> pl.LazyFrame:
        return self.apply(frame)


class Groups:
    """Puts together what computes aggregates of groups: call by call, output by output."""

    def __init__(self, by: list[str], schema: Schema, problems: Problems) -> None:
        problems.keys("by", by, schema)
        self.schema, self.problems = schema, problems
        self.keys = [(name, schema[name]) for name in by if name in schema]
        self.calls = dict[tuple[str, float | None, bytes], Call]()
        self.mark = "~"  # states stand beside the keys: their names must not meet
        while any(name.startswith(self.mark) for name in by):
            self.mark += "~"
        self.columns, self.at = set(by), next(iter(by or schema), "")
        self.outputs = list[tuple[str, pl.Expr]]()
        self.out = dict(self.keys)

    def add(self, path: tuple[str | int, ...], name: str, text: str, wanted: pl.Expr | None = None) -> None:
        """A column of the result. `wanted`: the rows whose values count, as in `Expression.bind`."""
        if found := self.problems.expression(path, text, self.schema, self._call, wanted=wanted):
            self.outputs.append((name, found[0].expr))
            self.out[name] = found[0].dtype
            self.columns |= found[1]

    def _call(
        self, function: str, argument: Typed | None, distinct: bool, where: pl.Expr | None, part: float | None
    ) -> Typed:
        if distinct and function not in ("min", "max"):
            function += "_distinct"
            if function not in FUNCTIONS:
                raise ExpressionError(
                    f"{function.removesuffix('_distinct')}(DISTINCT ...) has no meaning", "leave DISTINCT out"
                )
        if argument is None:  # count(*): every row counts, whatever it holds
            argument = Typed(pl.lit(1, pl.Int8), pl.Int8())
            function = "count_rows" if where is None else "count"
        known = FUNCTIONS[function]
        result = known.result(argument.dtype)
        if result is None:
            raise ExpressionError(
                f"{function.replace('_', ' ')} does not take {dtype_name(argument.dtype)}",
                f"it takes {known.takes}",
            )
        of = argument.expr
        if where is not None:  # all but first and last pass over NULL, which is faster than to filter
            of = of.filter(where) if function in ("first", "last") else pl.when(where).then(of)
        if not of.meta.root_names():  # a constant: once for each row
            self.columns.add(self.at)
            every = pl.col(self.at).is_null()
            of = pl.when(every).then(of).otherwise(of)
        key = (function, part, of.meta.serialize())
        call = self.calls.setdefault(key, Call(function, of, argument.dtype, f"{self.mark}{len(self.calls)}", part))
        return Typed(pl.col(call.name), result)

    def operation(self) -> Aggregated | AggregatedByKey:
        reads = frozenset(self.columns)
        grouping = Grouping(tuple(self.keys), tuple(self.calls.values()), tuple(self.outputs))
        if any(c.known.kind == "rows" for c in grouping.calls):
            return (AggregatedByKey if self.keys else AggregatedWhole)(self.out, grouping, reads)
        empty = pl.LazyFrame(schema={name: self.schema[name] for name in self.schema if name in reads})
        return Aggregated(self.out, dict(grouping.states(empty, "near").collect_schema()), grouping, reads)


class Aggregate(Step):
    """One row for each group: `name: expression` over aggregate functions. Without `by`, one row for the whole table.

    The result is sorted by the keys. Sums of floats are exact until the end, whatever the order of the rows: see sql.md.
    """

    kind = "aggregate"
    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Sql]
    example: ClassVar[str] = (
        "aggregate: {by: [Symbol], days: count(*), mean_close: avg(Close), range: max(High) - min(Low)}"
    )

    by: Texts = Field([], description="The key columns. NULL is a key like any other.")

    def bind(self, schema: Schema, problems: Problems, context: Context) -> Operation | None:
        groups = Groups(self.by, schema, problems)
        for name, text in self.__pydantic_extra__.items():
            if name in self.by:
                problems.key((), name, f"{name!r} is a key already", "choose another name")
            problems.new_column((), name)
            if not problems.misspelt(self, name, text):
                groups.add((name,), name, text)
        if not groups.out and not problems.issues:
            problems.add((), "aggregate names nothing to compute", "write `aggregate: {by: [key], name: avg(column)}`")
        return None if problems.issues else groups.operation()

    def identity(self) -> Mapping[str, Any]:
        return {"by": self.by, "outputs": list(self.__pydantic_extra__.items())}
