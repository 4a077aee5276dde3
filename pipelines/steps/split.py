from __future__ import annotations

import datetime
import decimal
import zoneinfo
from dataclasses import dataclass
from decimal import ROUND_CEILING, Decimal
from typing import ClassVar

import polars as pl
from pydantic import Field

from pipelines.learning import PART
from pipelines.steps.base import Columns, Context, Operation, Problems, Step, Texts
from pipelines.types import Schema, dtype_name

PARTS = pl.Enum(["train", "validation", "test"])


@dataclass(frozen=True)
class Parted(Operation):
    each = True
    needs: tuple[str, ...]
    tests: tuple[tuple[str | None, pl.Expr], ...]
    """(part or none, which rows), the first that holds; others are for training."""

    def apply(self, frame: pl.LazyFrame) -> pl.LazyFrame:
        part = pl.lit("train")
        for name, test in reversed(self.tests):
            part = pl.when(test).then(pl.lit(name, pl.String)).otherwise(part)
        return frame.with_columns(part.cast(PARTS).alias(PART))

    def passes(self, columns: Columns) -> bool:
        return PART not in columns

    def tests_early(self, columns: Columns) -> tuple[int, ...]:
        return (0,) if self.passes(columns) else ()

    def reads(self, wanted: Columns) -> Columns:
        return (wanted - {PART}) | (frozenset(self.needs) if PART in wanted else frozenset())

    def prune(self, wanted: Columns) -> Operation:
        return self if PART in wanted else Parted(self.schema, (), ())


class Split(Step):
    """Split a table into parts for training, testing and perhaps validation: each row gets its part in a new column `part`.

    Steps that learn take the rows of the part `train` alone, `evaluate` those of `test`, by themselves.

    By fraction, a row's part is decided by a hash of its values in `by`: rows with equal values there (an owner's, a day's) come into
    the same part, and a row keeps its part wherever and in how many partitions it runs. With `time`, rows from `test_from` on
    are for testing: nothing is learnt from what comes later. A row whose time is missing comes into no part: there it is NULL.
    """

    kind = "split"
    example: ClassVar[str] = "split: {time: Date, test_from: '2010-01-01'}"

    test: float | None = Field(
        None, gt=0, lt=1, description="About this part of the rows is for testing: 0.2 is a fifth."
    )
    validation: float = Field(0.0, ge=0, lt=1, description="About this part is for validation.")
    by: Texts | None = Field(
        None, min_length=1, description="The columns that decide, as an order's number or a group. Default: all."
    )
    seed: int = Field(0, ge=0, lt=2**63, description="Another seed chooses other rows.")
    time: str | None = Field(
        None,
        description="Instead of `test`: the column with the time. Where it is NULL (or NaN), so is the part.",
    )
    test_from: str | int | float | None = Field(None, description="With `time`: where the part for testing begins.")
    validation_from: str | int | float | None = Field(
        None, description="With `time`: where the part for validation begins."
    )

    def bind(self, schema: Schema, problems: Problems, context: Context) -> Operation | None:
        if PART in schema:
            problems.add((), f"the table has a column {PART!r} already", "drop or rename it before")
        if (self.test is None) == (self.time is None):
            problems.add((), "say how to split: either `test` or `time`", "for example `split: {test: 0.2}`")
            return None
        tests = list[tuple[str | None, pl.Expr]]()
        if self.time is not None:
            problems.unused(self, ("validation", "by", "seed"), "time")
            needs: tuple[str, ...] = (self.time,)
            starts = dict[str, pl.Expr]()
            if self.test_from is None:
                problems.add((), "`test_from` is missing", "test_from: 2010-01-01")
            if problems.column(("time",), self.time, schema):
                time = pl.col(self.time)
                tests.append((None, time.is_null() | time.is_nan() if schema[self.time].is_float() else time.is_null()))
                for option, part in (("test_from", "test"), ("validation_from", "validation")):
                    if (text := getattr(self, option)) is not None and (
                        at := self._at(option, text, schema[self.time], problems)
                    ) is not None:
                        starts[option] = at
                        tests.append((part, time >= at))
                if len(starts) == 2 and not pl.select(starts["validation_from"] < starts["test_from"]).item():
                    what = "the part for validation is empty: it ends where `test_from` is"
                    problems.add(("validation_from",), what, "let it begin before `test_from`")
        else:
            assert self.test is not None
            problems.unused(self, ("test_from", "validation_from"), "test")
            problems.keys("by", self.by or [], schema)
            needs = tuple(self.by or (name for name, dtype in schema.items() if not dtype.is_nested()))
            if self.test + self.validation >= 1:
                problems.add(("validation",), "nothing is left for training", "make `test` and `validation` smaller")
            if not problems.issues:
                hashed = pl.struct(needs).hash(self.seed)
                tests.append(("test", hashed < pl.lit(int(self.test * 2**64), pl.UInt64)))
                tests.append(
                    (
                        "validation",
                        hashed < pl.lit(min(2**64 - 1, int((self.test + self.validation) * 2**64)), pl.UInt64),
                    )
                )
        if problems.issues:
            return None
        return Parted({**schema, PART: PARTS}, needs, tuple(tests))

    def _at(self, option: str, given: str | int | float, dtype: pl.DataType, problems: Problems) -> pl.Expr | None:
        def literal(at: object) -> pl.Expr:
            found = pl.lit(at, dtype=dtype)
            pl.select(found)  # in some time zones an hour is left out
            return found

        try:
            if isinstance(dtype, pl.Date):
                return literal(datetime.date.fromisoformat(str(given)))
            if isinstance(dtype, pl.Datetime):
                stamp = datetime.datetime.fromisoformat(str(given))
                if stamp.tzinfo and not dtype.time_zone:
                    what = f"{given!r} has a time zone, and {self.time!r} has none"
                    problems.add((option,), what, "write it without")
                    return None
                zone = dtype.time_zone
                return literal(stamp.astimezone(zoneinfo.ZoneInfo(zone)) if stamp.tzinfo and zone else stamp)
            if dtype.is_numeric():
                return literal(_number(given, dtype))
        except pl.exceptions.PolarsError:
            what = f"{given!r} is no {dtype_name(dtype)}"
            problems.add((option,), what, "write a time that it has: in spring clocks leave an hour out")
            return None
        except (ValueError, ArithmeticError):
            example = "a number that it can hold" if dtype.is_numeric() else "2010-01-01"
            problems.add((option,), f"{given!r} is no {dtype_name(dtype)}", f"write it as {example}")
            return None
        problems.add(
            ("time",), f"{self.time!r} is {dtype_name(dtype)}, not a time", "choose a date, a time or a number"
        )
        return None


def _number(given: str | int | float, dtype: pl.DataType) -> int | float | Decimal:
    """The smallest number of the type that is not below the given one. Raises ValueError or ArithmeticError where there is none."""
    exact = Decimal(str(given))
    if not exact.is_finite():
        raise ValueError
    if dtype.is_float():
        return float(exact)
    if isinstance(dtype, pl.Decimal):
        return exact.quantize(Decimal(1).scaleb(-dtype.scale), ROUND_CEILING, decimal.Context(dtype.precision or 38))
    low, high = pl.select(dtype.min(), max=dtype.max()).row(0)  # type: ignore[attr-defined]
    whole = int(exact.to_integral_value(ROUND_CEILING))
    if not low <= whole <= high:
        raise ValueError
    return whole
