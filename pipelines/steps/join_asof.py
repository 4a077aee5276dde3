from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import polars as pl
from pydantic import Field

from pipelines.steps.base import Columns, Context, Joining, Problems, Step
from pipelines.steps.join import Pairs, added, comparable
from pipelines.types import Schema, dtype_name

Direction = Literal["backward", "forward", "nearest"]
_LEFT, _RIGHT, _KEY, _ROW = "\0left", "\0right", "\0key", "\0row"
"""Columns for a moment, which no table has."""


@dataclass(frozen=True)
class JoinedAsof(Joining):
    at: tuple[str, str]
    """The column of each table by which the nearest is looked for."""
    dtype: pl.DataType
    """What these are compared as."""
    on: tuple[tuple[str, ...], tuple[str, ...]]
    types: tuple[pl.DataType, ...]
    columns: tuple[tuple[str, str], ...]
    """Of the right table, beside its keys: (name there, name in the result)."""
    direction: Direction
    exact: bool
    tolerance: int | str | None
    """How far away a match may be: of integers a number, of days and times an interval."""
    broadcast: bool | None

    main = 0
    once = True
    divisible = True
    both = False
    unique = (False, False)

    def sees_order(self, wanted: bool) -> bool:
        return True  # of right rows that are equal one is taken

    def join(self, left: pl.LazyFrame, right: pl.LazyFrame, ordered: bool = True) -> pl.LazyFrame:
        by = [f"{_KEY}{i}" for i in range(len(self.types))]
        moments = [pl.col(name).cast(self.dtype) for name in self.at]
        if getattr(self.dtype, "time_zone", None):  # days are as long in every zone
            moments = [moment.dt.convert_time_zone("UTC") for moment in moments]
        keys = [
            [pl.col(name).cast(t).alias(key) for key, name, t in zip(by, names, self.types, strict=True)]
            for names in self.on
        ]
        given = left.with_columns(moments[0].alias(_LEFT), *keys[0]).with_row_index(_ROW)
        others = right.select(
            moments[1].alias(_RIGHT), *keys[1], *(pl.col(name).alias(new) for name, new in self.columns)
        )
        met = given.sort(_LEFT, nulls_last=True).join_asof(
            others.drop_nulls([_RIGHT, *by]).sort(_RIGHT, maintain_order=True),
            left_on=_LEFT, right_on=_RIGHT, by=by or None, strategy=self.direction,
            allow_exact_matches=self.exact, coalesce=False, check_sortedness=False,
        )  # fmt: skip
        if self.tolerance is not None:
            near = self.near()
            met = met.with_columns(pl.when(near).then(pl.col(new)).alias(new) for _, new in self.columns)
        return (met.sort(_ROW) if ordered else met).drop(_ROW, _LEFT, _RIGHT, *by)

    def near(self) -> pl.Expr:
        """Whether the two of a pair are near enough."""
        left, right = pl.col(_LEFT), pl.col(_RIGHT)
        if isinstance(self.tolerance, int):
            return (left.cast(pl.Int128) - right.cast(pl.Int128)).abs() <= self.tolerance
        from pipelines.expressions import Constant, Typed, shift  # takes a while

        amount = Constant(pl.lit(self.tolerance), pl.String(), str(self.tolerance), None)
        dtype = self.dtype
        if isinstance(dtype, pl.Datetime) and dtype.time_zone:
            dtype = pl.Datetime(dtype.time_unit, "UTC")  # as `join` has them
            left, right = left.cast(dtype), right.cast(dtype)
        low, high = (shift(sign, Typed(left, dtype), amount, "").expr for sign in "-+")
        return right.is_between(low, high)

    def tests_early(self, columns: Columns) -> tuple[int, ...]:
        return () if columns & {new for _, new in self.columns} else (0,)

    def reads_of(self, index: int, wanted: Columns) -> Columns:
        keys = frozenset((*self.on[index], self.at[index]))
        if index == 0:
            return keys | (wanted - {new for _, new in self.columns})
        return keys | {name for name, new in self.columns if new in wanted}

    def prune(self, wanted: Columns) -> JoinedAsof:
        return replace(self, columns=tuple(pair for pair in self.columns if pair[1] in wanted))


class JoinAsof(Step):
    """Put beside each row of the left table the last row of the right one that is not later: `from: [left, right]`.

    As prices beside trades: not the row with the same time, which there may not be, but the newest up to it. With `by`, only rows
    that are equal in these columns meet; a NULL there, or in `on`, meets none. Every left row comes out once, in the table's order,
    with NULL where it meets no right row. Of right rows that are equal in `on` the last one counts (`forward`: the first), of
    two as near (`nearest`) the later one. The right table's column `on` comes out too: it says how old the match is.
    """

    kind = "join_asof"
    several = True
    shorthand = "on"
    example: ClassVar[str] = "join_asof: {on: Date, by: Symbol, tolerance: 7 days}"

    on: Pairs = Field(
        min_length=1,
        description="The column of days, times or integers by which rows are looked for, or `{left name: right name}`.",
    )
    by: Pairs = Field(
        {},
        description="Columns that have to be equal: one, a list, or `{left name: right name}` for each. Without any, every "
        "partition of the left table gets the whole right one.",
    )
    direction: Direction = Field(
        "backward", description="backward: the last row not later; forward: the first not earlier; nearest: either."
    )
    allow_exact_matches: bool = Field(True, description="Whether a right row that is equal in `on` counts.")
    tolerance: int | str | None = Field(
        None,
        description="A match farther away is none: `7 days`, `1 month`, `90 seconds`, or for integers a number.",
    )
    suffix: str = Field(
        "_right", min_length=1, description="Ends the names of right columns that the left table has too."
    )
    broadcast: bool | None = Field(
        None,
        description="true: every partition of the left table gets the whole right one; false: never. Default: where that is small.",
    )

    def bind(self, schema: Schema, problems: Problems, context: Context) -> JoinedAsof | None:
        if len(context.inputs) != 2:
            problems.add((), "a join has two inputs", "name them: `from: [left, right]`")
            return None
        (_, left), (_, right) = context.inputs
        (name, other), *more = self.on.items()
        if more:
            problems.key(("on",), more[0][0], "`on` is one column", "what has to be equal stands under `by`")
            return None
        types = comparable("by", self.by, context, problems)
        found = comparable("on", self.on, context, problems)
        for dtype in found:
            if not (dtype.is_integer() or isinstance(dtype, pl.Date | pl.Datetime)):
                what = f"{name!r} is {dtype_name(dtype)}: the nearest is looked for among days, times or integers"
                problems.key(("on",), name, what, "name another column, or cast it in a `select` before")
        if name in self.by or other in self.by.values():
            problems.key(("on",), name, f"{name!r} stands under `by` too", "remove it there")
        if self.broadcast is False and not self.by:
            problems.add(("broadcast",), "without `by` all right rows have to be there", "leave `broadcast` out")
        if problems.issues:
            return None
        [dtype] = found
        columns, out = added(left, right, tuple(self.by.values()), self.suffix, problems)
        if self.tolerance is not None and isinstance(self.tolerance, int) != dtype.is_integer():
            wanted = "a number, as 7" if dtype.is_integer() else "an interval, as 7 days"
            problems.add(("tolerance",), f"not {self.tolerance!r}: {name!r} is {dtype_name(dtype)}", f"write {wanted}")
        if problems.issues:
            return None
        joined = JoinedAsof(
            out, (name, other), dtype, (tuple(self.by), tuple(self.by.values())), types, columns,
            self.direction, self.allow_exact_matches, self.tolerance, self.broadcast if self.by else True,
        )  # fmt: skip
        if self.tolerance is not None and not self._reaches(joined, problems):
            return None
        return joined

    def _reaches(self, joined: JoinedAsof, problems: Problems) -> bool:
        """Whether the tolerance can be read, and is not negative."""
        from pipelines.expressions import ExpressionError

        try:
            here = pl.select(pl.lit(0, pl.Int32).cast(joined.dtype).alias(side) for side in (_LEFT, _RIGHT))
            if here.select(joined.near()).item():
                return True
            problems.add(
                ("tolerance",), "less than nothing: no row is that near", "it is meant in both directions: write 7 days"
            )
        except ExpressionError:
            units = "years, months, weeks, days, hours, minutes, seconds"
            problems.add(("tolerance",), f"{self.tolerance!r} is no interval", f"write 7 days; units: {units}")
        return False
