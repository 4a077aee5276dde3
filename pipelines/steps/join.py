from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal

import polars as pl
from pydantic import BeforeValidator, Field

from pipelines.errors import DataError, Issue, did_you_mean
from pipelines.steps.base import Columns, Context, Joining, Problems, Step
from pipelines.types import Schema, dtype_name, widened

How = Literal["inner", "left", "right", "full", "semi", "anti"]
Multiplicity = Literal["one_to_one", "one_to_many", "many_to_one", "many_to_many"]


def _as_pairs(value: object) -> object:
    """`Symbol`, `[Symbol, Date]` and `{Symbol: ticker}` say which columns of the left and of the right table meet."""
    if isinstance(value, str):
        return {value: value}
    if isinstance(value, list) and all(isinstance(name, str) for name in value):
        if len(set(value)) < len(value):
            raise ValueError("a list of different columns")
        return {name: name for name in value}
    return value


Pairs = Annotated[dict[str, str], BeforeValidator(_as_pairs, json_schema_input_type=str | list[str] | dict[str, str])]


@dataclass(frozen=True)
class Unique:
    """Refuses a table in which a key without NULL is there twice."""

    keys: tuple[str, ...]
    side: str

    def __call__(self, frame: pl.DataFrame) -> pl.DataFrame:
        keys = frame.select(self.keys).drop_nulls()
        if (twice := keys.filter(keys.is_duplicated())).height:
            key = ", ".join(f"{name} = {value!r}" for name, value in zip(self.keys, twice.row(0), strict=True))
            what = f"{key} is {twice.filter(pl.struct(pl.all()) == pl.struct(twice[:1])).height} times in the {self.side} table of the join"
            raise DataError(Issue(what, "`validate` says that it is there once: correct the data, or `validate`"))
        return frame


def _same(frame: pl.DataFrame) -> pl.DataFrame:
    return frame


@dataclass(frozen=True)
class Joined(Joining):
    how: How
    on: tuple[tuple[str, ...], tuple[str, ...]]
    types: tuple[pl.DataType, ...]
    unique: tuple[bool, bool]
    """Whether a key is at most once in the left, in the right table."""
    columns: tuple[tuple[str, str], ...]
    """Of the right table, beside its keys: (name there, name in the result)."""
    broadcast: bool | None

    @property
    def main(self) -> int:  # type: ignore[override]
        return 1 if self.how == "right" else 0

    @property
    def divisible(self) -> bool:  # type: ignore[override]
        return self.how != "full" and not self.unique[self.main]

    @property
    def both(self) -> bool:  # type: ignore[override]
        return self.how == "full"

    def join(self, left: pl.LazyFrame, right: pl.LazyFrame, ordered: bool = True) -> pl.LazyFrame:
        keys, others = self.on
        names = {**dict(zip(others, keys, strict=True)), **dict(self.columns)}
        right = right.rename({name: new for name, new in names.items() if name != new})
        tables = [
            self._checked(
                frame.with_columns(pl.col(key).cast(t) for key, t in zip(keys, self.types, strict=True)), side
            )
            for side, frame in enumerate((left, right))
        ]
        order: Any = "none"
        if ordered:
            order = {"semi": "left", "anti": "left", "right": "right_left"}.get(self.how, "left_right")
        coalesce = None if self.how in ("semi", "anti") else True
        if self.how == "full":  # of a table that is sure to have one row Polars forgets the order
            tables[0] = tables[0].map_batches(_same, predicate_pushdown=False, projection_pushdown=False)
        # a suffix that no name has: a full join gives it to the right keys for a moment, and "row_right" may be a column
        met = tables[0].join(tables[1], on=keys, how=self.how, maintain_order=order, coalesce=coalesce, suffix="\0")
        if self.how in ("semi", "anti"):
            return met.with_columns(pl.col(key).cast(self.schema[key]) for key in keys if key in self.schema)
        return met

    def _checked(self, frame: pl.LazyFrame, side: int) -> pl.LazyFrame:
        if not self.unique[side]:
            return frame
        return frame.map_batches(
            Unique(self.on[0], ("left", "right")[side]),
            predicate_pushdown=False, projection_pushdown=False, slice_pushdown=False,
        )  # fmt: skip

    def tests_early(self, columns: Columns) -> tuple[int, ...]:
        added = {new for _, new in self.columns}
        kept = {name for name, new in self.columns if name == new}
        # all rows of a table whose keys are looked at have to be there
        left = (
            (0,) if self.how in ("inner", "left", "semi", "anti") and not columns & added and not self.unique[0] else ()
        )
        right = (1,) if self.how in ("inner", "right") and columns <= kept and not self.unique[1] else ()
        return left + right

    def reads_of(self, index: int, wanted: Columns) -> Columns:
        keys = frozenset(self.on[index])
        if index == 0:
            return keys | (wanted - {new for _, new in self.columns})
        return keys | {name for name, new in self.columns if new in wanted}

    @property
    def brings(self) -> tuple[tuple[str, str], ...]:
        return () if self.main else self.columns

    def prune(self, wanted: Columns) -> Joined:
        return replace(self, columns=tuple(pair for pair in self.columns if pair[1] in wanted))


def comparable(option: str, pairs: dict[str, str], context: Context, problems: Problems) -> tuple[pl.DataType, ...]:
    """What the columns of each pair are compared as; of those that cannot be, issues."""
    (left_name, left), (right_name, right) = context.inputs
    types, others = list[pl.DataType](), list(pairs.values())
    for name, other in pairs.items():
        sides = ((name, left, left_name), (other, right, right_name))
        if absent := [side for side in sides if side[0] not in side[1]]:
            for column, table, step in absent:
                problems.key((option,), name, f"unknown column {column!r} of {step!r}", did_you_mean(column, table))
            continue
        if others.count(other) > 1:
            problems.key((option,), name, f"{other!r} of {right_name!r} stands here twice", "remove one")
        common = widened(left[name], right[other])
        if common is None or common.is_nested() or isinstance(common, pl.Null):
            what = f"{name!r} is {dtype_name(left[name])}, {other!r} of {right_name!r} is {dtype_name(right[other])}"
            problems.key((option,), name, f"{what}: these cannot be compared", "cast one of them in a `select` before")
        else:
            types.append(common)
    return tuple(types)


def added(
    left: Schema, right: Schema, keys: tuple[str, ...], suffix: str, problems: Problems
) -> tuple[tuple[tuple[str, str], ...], dict[str, pl.DataType]]:
    """The right table's columns but its keys: (name there, name in the result); and the result's columns and types."""
    columns, out = list[tuple[str, str]](), dict(left)
    for name, dtype in right.items():
        if name in keys:
            continue
        new = name + suffix if name in left else name
        if new in out:
            problems.add((), f"both tables have a column {new!r}", "rename one in a `select` before, or set `suffix`")
        out[new] = dtype
        columns.append((name, new))
    return tuple(columns), out


class Join(Step):
    """Put the rows of two steps together where their keys are equal: `from: [left, right]`. A NULL key equals none, as in SQL.

    Rows come in the order of the left table's (`right`: of the right one's), for each of them in the order of the other; in a
    `full` join the rows of the right table that meet none come last. The keys come out under their left names, in the type
    that holds both. `semi` keeps the left rows that meet any, `anti` those that meet none.
    """

    kind = "join"
    several = True
    shorthand = "on"
    example: ClassVar[str] = "join: {on: Symbol, how: left, validate: many_to_one}"

    on: Pairs = Field(
        min_length=1, description="The key: a column, a list of columns, or `{left name: right name}` for each."
    )
    how: How = Field("inner", description="Which rows without a match stay.")
    suffix: str = Field(
        "_right", min_length=1, description="Ends the names of right columns that the left table has too."
    )
    validate_: Multiplicity = Field(
        "many_to_many",
        alias="validate",
        description="How often a key may be in the left and in the right table; a run fails where the data differs.",
    )
    broadcast: bool | None = Field(
        None,
        description="true: every partition of the left table gets the whole right one; false: never. Default: where that is small.",
    )

    def bind(self, schema: Schema, problems: Problems, context: Context) -> Joined | None:
        if len(context.inputs) != 2:
            problems.add((), "a join has two inputs", "name them: `from: [left, right]`")
            return None
        (_, left), (_, right) = context.inputs
        keys, others = tuple(self.on), tuple(self.on.values())
        types = comparable("on", self.on, context, problems)
        unique = tuple(side == "one" for side in self.validate_.split("_to_"))
        if self.broadcast and (self.how == "full" or unique[1 if self.how == "right" else 0]):
            why = "a full join" if self.how == "full" else f"`validate: {self.validate_}`"
            problems.add(("broadcast",), f"{why} needs all rows of a key together", "leave `broadcast` out")
        if problems.issues:  # which columns there are is not known without the keys
            return None
        columns, out = tuple[tuple[str, str], ...](), dict(left)
        if self.how not in ("semi", "anti"):
            columns, out = added({**left, **dict(zip(keys, types, strict=True))}, right, others, self.suffix, problems)
        if problems.issues:
            return None
        return Joined(out, self.how, (keys, others), types, (unique[0], unique[1]), columns, self.broadcast)
