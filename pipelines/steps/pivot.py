from __future__ import annotations

from typing import ClassVar

import polars as pl
from pydantic import Field

from pipelines.expressions import quote
from pipelines.steps.aggregate import Groups
from pipelines.steps.base import Context, Operation, Problems, Sql, Step, Texts
from pipelines.types import Schema


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
        groups = Groups(self.by, schema, problems)
        problems.column(("names",), self.names, schema)
        rows = list[tuple[str, pl.Expr]]()
        for i, value in enumerate(self.columns):
            text = "'" + value.replace("'", "''") + "'" if isinstance(value, str) else repr(value).lower()
            name = value if isinstance(value, str) else text
            if value in self.columns[:i]:
                problems.add(("columns", i), f"{name!r} stands here twice", "remove one")
            if problems.issues:  # not once for each
                return None
            if found := problems.expression(("columns", i), f"{quote(self.names)} = {text}", schema):
                rows.append((name, found[0].expr))
                groups.columns |= found[1]
        several = self.values if isinstance(self.values, dict) else {"": self.values}
        if not several:
            problems.add(("values",), "pivot names nothing to compute", "write `values: first(column)`")
        for i, (value, where) in enumerate(rows):
            for more, text in several.items():
                name = f"{value}_{more}" if isinstance(self.values, dict) else value
                problems.named(("columns", i), name)
                if name in groups.out:
                    problems.add(("columns", i), f"there is a column {name!r} already", "choose another name")
                groups.add(("values", more) if isinstance(self.values, dict) else ("values",), name, text, where)
            if problems.issues:  # the next value would have the same ones
                return None
        return None if problems.issues else groups.operation()
