from __future__ import annotations

from typing import ClassVar

import polars as pl
from pydantic import Field

from pipelines.expressions import Constant, ExpressionError, Typed, unify
from pipelines.order import Order
from pipelines.steps.base import Columns, Context, Operation, Problems, Sql, Step, Texts
from pipelines.steps.derive import Derived
from pipelines.steps.window import Argument, Output, Windowed, WindowedWhole, Windows
from pipelines.types import Schema, dtype_name
from pipelines.windows import Call, Frame


class Fill(Step):
    """Put values where there is NULL: the one before, the one after, or a given one. NaN is not NULL, and stays.

    A column may be named in several ways: it is filled forward, then backward, then with the value.
    """

    kind = "fill"
    keeps_columns = True
    example: ClassVar[str] = (
        "fill: {forward: [Close], value: {Volume: 0}, partition_by: [Symbol], order_by: [Date], limit: 5}"
    )

    forward: Texts = Field([], description="Columns that take the last value before.")
    backward: Texts = Field([], description="Columns that take the first value after.")
    value: dict[str, Sql] = Field(
        {}, description="Column: what stands there instead, as SQL; of its row's columns too."
    )
    partition_by: Texts = Field(
        [], description="Values are taken from rows that are equal in these columns. Default: from any."
    )
    order_by: Texts = Field([], description="What is before and after. Default: the table's order.")
    descending: Texts = Field([], description="Those of `order_by` in which large values come first.")
    limit: int = Field(0, ge=0, le=2**31, description="Fill forward and backward only so many rows far; 0: any number.")

    def bind(self, schema: Schema, problems: Problems, context: Context) -> Operation | None:
        problems.keys("partition_by", self.partition_by, schema)
        problems.order(self.order_by, self.descending, schema)
        for option, names in (("forward", self.forward), ("backward", self.backward)):
            for i, name in enumerate(names):
                if problems.column((option, i), name, schema) and name in self.partition_by:
                    problems.add((option, i), f"{name!r} is in `partition_by`", "a key is not filled")
        values = dict[str, tuple[pl.Expr, Columns]]()
        for name, text in self.value.items():
            if name not in schema:
                problems.key(("value",), name, f"unknown column {name!r}", f"columns: {', '.join(schema)}")
            elif found := problems.expression(("value", name), text, schema, wanted=pl.col(name).is_null()):
                try:
                    values[name] = (_fitted(found[0], schema[name]), found[1])
                except ExpressionError as error:
                    problems.add(("value", name), error.message, error.remedy)
        if not (self.forward or self.backward or self.value):
            problems.add(
                (), "fill names no column", "write `fill: {forward: [column]}` or `fill: {value: {column: 0}}`"
            )
        if problems.issues:
            return None
        if not (self.forward or self.backward):
            filled = ((name, pl.coalesce(name, e), columns | {name}) for name, (e, columns) in values.items())
            return Derived(schema, tuple(filled))
        mark, calls, outputs = max(schema, key=len) + "~window", list[Call](), list[Output]()
        arguments = dict[str, Argument]()
        for name in dict.fromkeys((*self.forward, *self.backward, *values)):
            mine, columns = list[Call](), frozenset({name})
            for function, names in (("forward", self.forward), ("backward", self.backward)):
                if name in names:
                    of = arguments.setdefault(name, Argument(f"{mark}{len(arguments)}", pl.col(name))).name
                    at = f"{mark}{len(calls) + len(mine)}"
                    mine.append(Call(function, of, schema[name], at, Frame("rows", None, None), self.limit))
            items = [pl.col(mark).struct.field(call.name) for call in mine] or [pl.col(name)]
            if name in values:
                items.append(values[name][0])
                columns |= values[name][1]
            outputs.append(Output(name, pl.coalesce(items), columns, frozenset(mine)))
            calls += mine
        order = Order(tuple(self.order_by), tuple(name in self.descending for name in self.order_by))
        windows = Windows(tuple(self.partition_by), order, tuple(calls))
        made = Windowed if self.partition_by else WindowedWhole
        return made(schema, windows, tuple(arguments.values()), tuple(outputs), mark, next(iter(schema)))


def _fitted(value: Typed, dtype: pl.DataType) -> pl.Expr:
    """The value as the column's type. Raises ExpressionError when the column could not hold it."""
    if value.dtype == dtype:
        return value.expr
    if isinstance(value, Constant) and isinstance(value.value, int) and dtype.is_integer():
        low, high = pl.select(dtype.min(), dtype.max().alias("high")).row(0)  # type: ignore[attr-defined]
        if low <= value.value <= high:
            return value.expr.cast(dtype)
    elif isinstance(value, Constant) and isinstance(value.value, int) and isinstance(dtype, pl.Decimal):
        if abs(value.value) < 10 ** ((dtype.precision or 38) - dtype.scale):
            return value.expr.cast(dtype)
    elif isinstance(value, Constant) and isinstance(value.value, int | float) and dtype.is_float():
        return value.expr.cast(dtype)
    else:
        (_, value), common = unify([Typed(pl.lit(None, dtype), dtype), value], "fill")
        if common == dtype:
            return value.expr.cast(dtype)
    raise ExpressionError(
        f"the column is {dtype_name(dtype)}, which cannot hold this", "CAST it, or give another value"
    )
