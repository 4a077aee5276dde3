"""Typed values, the types that two of them have in common, and casts."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NoReturn

import polars as pl

from pipelines.kernel import REFUSED
from pipelines.types import dtype_name

BOOL, INT, FLOAT, STRING, DATE, TIME = pl.Boolean(), pl.Int64(), pl.Float64(), pl.String(), pl.Date(), pl.Time()
DATETIME, NULL, WIDE = pl.Datetime("us"), pl.Null(), pl.Int128()


class ExpressionError(Exception):
    """What is wrong with an expression, what to do, and where in its text (characters from 0)."""

    def __init__(self, message: str, remedy: str = "", offset: int | None = None) -> None:
        super().__init__(message, remedy, offset)
        self.message, self.remedy, self.offset = message, remedy, offset

    def __str__(self) -> str:
        return self.message

    def at(self, offset: int | None) -> ExpressionError:
        """The same error with a place, if it has none."""
        return self if self.offset is not None else ExpressionError(self.message, self.remedy, offset)


@dataclass(frozen=True)
class Typed:
    """A Polars expression and the type of what it yields."""

    expr: pl.Expr
    dtype: pl.DataType


@dataclass(frozen=True)
class Constant(Typed):
    """A literal: its value is known when binding."""

    value: str | int | float
    offset: int | None


def folded(x: Typed) -> Typed:
    """What no column decides is computed now: Polars takes its length, 1, for that of the table in some places."""
    if isinstance(x, Constant) or x.expr.meta.is_literal() or x.expr.meta.root_names():
        return x
    try:
        value = pl.select(x.expr.alias("x"))["x"]
    except pl.exceptions.PolarsError:
        return x  # a value that is refused; the run may have no row that wants it
    return Typed(pl.lit(value).first() if value.dtype == pl.Datetime("ns") else pl.lit(value.item(), x.dtype), x.dtype)


def kind(t: pl.DataType) -> str:
    """The family of a type, as rules and messages name it."""
    if t.is_integer():
        return "int"
    if t.is_float():
        return "float"
    if isinstance(t, (pl.Decimal, pl.Datetime, pl.Duration)):
        return type(t).__name__.lower()
    return dtype_name(t)


NUMBER = {"int", "float", "decimal"}
MOMENT = {"date", "datetime"}
SCALAR = NUMBER | MOMENT | {"boolean", "string", "time", "duration", "null"}


# --- Common types -------------------------------------------------------------------------------------------------------


def common_type(a: pl.DataType, b: pl.DataType) -> pl.DataType | None:
    """The type that holds both."""
    if b in (a, NULL):
        return a
    if a == NULL:
        return b
    kinds = {kind(a), kind(b)}
    if kinds == {"int"}:
        return INT
    if kinds <= NUMBER:
        if "float" in kinds:
            return FLOAT
        return pl.Decimal(38, max(t.scale for t in (a, b) if isinstance(t, pl.Decimal)))
    if kinds == {"duration"}:
        return pl.Duration(finer(a, b))
    if kinds <= MOMENT:
        zones = {t.time_zone for t in (a, b) if isinstance(t, pl.Datetime)}
        if len(zones) == 1 and (zones == {None} or len(kinds) == 1):
            return pl.Datetime(finer(a, b), zones.pop())
    return None


def finer(*types: pl.DataType) -> Literal["ns", "us", "ms"]:
    units = [t.time_unit for t in types if isinstance(t, (pl.Datetime, pl.Duration))]
    return min(units, key=["ns", "us", "ms"].index)


def to(x: Typed, dtype: pl.DataType) -> pl.Expr:
    """Of a common type: no text is read or written here."""
    return x.expr if x.dtype == dtype else x.expr.cast(dtype)


def unify(items: Sequence[Typed], doing: str) -> tuple[list[Typed], pl.DataType]:
    """The items with string literals read as the type they meet, and their common type."""
    meets = next((i.dtype for i in items if kind(i.dtype) in MOMENT | {"time"}), None)
    if meets is not None:
        items = [read(i, meets) if isinstance(i, Constant) and i.dtype == STRING else i for i in items]
    common: pl.DataType = NULL
    for item in items:
        found = common_type(common, item.dtype)
        if found is None:
            _differ(doing, items, common, item)
        common = found
    if common == INT and all(_unsigned(i) for i in items) and pl.UInt64() in {i.dtype for i in items}:
        common = pl.UInt64()  # int64 would not hold what they do
    return list(items), common


def _unsigned(x: Typed) -> bool:
    if isinstance(x, Constant) and isinstance(x.value, int):
        return x.value >= 0
    return x.dtype == NULL or x.dtype.is_unsigned_integer()


_NUMERAL = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?\s*", re.IGNORECASE)


def _differ(doing: str, items: Sequence[Typed], common: pl.DataType, item: Typed) -> NoReturn:
    kinds = {kind(common), kind(item.dtype)}
    remedy = "CAST one of them to the other's type"
    for i in items:
        if isinstance(i, Constant) and i.dtype == STRING and kinds & NUMBER and _NUMERAL.fullmatch(str(i.value)):
            remedy = f"write the number without quotes: {str(i.value).strip()}"
    if "boolean" in kinds and kinds & NUMBER and doing == "compare":
        remedy = "a < b < c is written a < b AND b < c; a boolean needs no comparison: write it alone, or NOT before it"
    if kinds & MOMENT and kinds & NUMBER:
        remedy = "write a date in single quotes: '2020-12-31'; for a part of one: year(...)"
    raise ExpressionError(f"cannot {doing} {dtype_name(common)} with {dtype_name(item.dtype)}", remedy)


def read(literal: Constant, dtype: pl.DataType) -> Typed:
    """A string literal as a date, datetime or time, now."""
    text = str(literal.value).strip()
    try:
        if dtype == TIME:
            return Typed(pl.lit(dt.time.fromisoformat(text)), TIME)
        moment = dt.datetime.fromisoformat(re.sub(r"(?<=-)(\d)(?!\d)", r"0\1", text))
    except ValueError:
        raise ExpressionError(
            f"{literal.value!r} is not a {kind(dtype)}", "write '2024-12-31' or '2024-12-31 23:59:59'", literal.offset
        ) from None
    if dtype == DATE and not (moment.hour or moment.minute or moment.second or moment.microsecond):
        return Typed(pl.lit(moment.date()), DATE)
    unit, zone = (dtype.time_unit, dtype.time_zone) if isinstance(dtype, pl.Datetime) else ("us", None)
    if moment.tzinfo and not zone:
        raise ExpressionError(
            f"{literal.value!r} has a time zone and the column has none", "leave the zone out", literal.offset
        )
    naive = pl.lit(moment.astimezone(dt.UTC).replace(tzinfo=None) if moment.tzinfo else moment).cast(pl.Datetime(unit))
    if zone:
        naive = (
            naive.dt.replace_time_zone("UTC").dt.convert_time_zone(zone)
            if moment.tzinfo
            else naive.dt.replace_time_zone(zone)
        )
    return Typed(naive, pl.Datetime(unit, zone))


# --- Casts --------------------------------------------------------------------------------------------------------------


def refuse(bad: pl.Expr, said: pl.Expr, result: pl.Expr, dtype: pl.DataType) -> pl.Expr:
    """The result, but where `bad`, the run ends with what is said: Polars raises only where a cast fails."""
    text = pl.lit(REFUSED) + said + pl.lit("\0")
    via = dtype if dtype.is_numeric() and not isinstance(dtype, pl.Decimal) else INT
    raised = pl.when(bad).then(text).cast(via).cast(dtype)
    return pl.when(bad).then(raised).otherwise(result)


_WORDS = dict.fromkeys(("true", "t", "yes", "y", "1"), "1") | dict.fromkeys(("false", "f", "no", "n", "0"), "0")
_SPACE = " \t\n\v\f\r"
_CLOCK = r"(\d{1,2}:\d{1,2}(?::\d{1,2}(?:\.\d+)?)?)"


def cast(x: Typed, target: pl.DataType, strict: bool) -> Typed:
    """number <-> number, boolean; date <-> datetime -> time; every scalar <-> string, but not from a zoned datetime;
    enum and categorical -> string."""
    source, wanted = kind(x.dtype), kind(target)
    numeric = NUMBER | {"boolean"}
    allowed = (
        (source == "null" and wanted in SCALAR)
        or x.dtype == target
        or ({source, wanted} <= numeric)
        or (source in MOMENT and wanted in MOMENT)
        or (source == "datetime" and wanted == "time")
        or (source == wanted == "duration")
        or (wanted == "string" and (source in SCALAR - {"duration"} or isinstance(x.dtype, pl.Enum | pl.Categorical)))
        or (source == "string" and wanted in SCALAR - {"duration"} and zone_of(target) is None)
    )
    if not allowed:
        remedy = {
            "duration": "epoch(x) gives its seconds",
            "date": "year(x), x - DATE '1970-01-01' and epoch(x) give numbers",
        }
        raise ExpressionError(
            f"cannot cast {dtype_name(x.dtype)} to {dtype_name(target)}",
            remedy.get(source, "numbers, booleans, dates and text can be cast into each other: docs/sql.md"),
        )
    if x.dtype == target:
        return x
    if wanted == "string":
        return Typed(_written(x), STRING)
    if source == "string":
        return Typed(_parsed(x.expr.str.strip_chars(_SPACE), target, strict), target)
    e = x.expr if zone_of(x.dtype) == zone_of(target) else _in_zone(x, target, strict)
    if wanted == "int" and source == "float":
        e = e.round(0, mode="half_to_even")
    if wanted in ("int", "decimal") and isinstance(x.dtype, pl.Decimal):
        e = e.round(target.scale if isinstance(target, pl.Decimal) else 0, mode="half_away_from_zero")
    if source == "boolean" and wanted == "decimal":
        e = e.cast(INT)
    result = e.cast(target, strict=strict)
    if target == pl.Float32() and x.dtype in (FLOAT, pl.Decimal):
        lost = result.is_infinite() & e.cast(FLOAT).is_finite()
        if strict:
            result = refuse(lost, e.cast(STRING) + " does not fit float32", result, target)
        else:
            result = pl.when(~lost).then(result)
    return Typed(result, target)


def zone_of(dtype: pl.DataType) -> str | None:
    return dtype.time_zone if isinstance(dtype, pl.Datetime) else None


def placed(local: pl.Expr, dtype: pl.Datetime) -> pl.Expr:
    """The instant at which clocks of the zone show this; of an hour that comes twice the first.

    A time that clocks jump over is as much later as they jump, as in PEP 495 and in Java's and PostgreSQL's arithmetic.
    """
    day = pl.duration(
        hours=25, time_unit=dtype.time_unit
    )  # no clock jumps further: the offset then is that before the jump
    found, before = (
        e.dt.replace_time_zone(dtype.time_zone, ambiguous="earliest", non_existent="null") for e in (local, local - day)
    )
    return pl.when(found.is_null()).then(before + day).otherwise(found)


def _in_zone(x: Typed, target: pl.DataType, strict: bool) -> pl.Expr:
    """From one zone to another the same instant; from or to a type without one the same date and time of day, of an hour that
    comes twice the first."""
    zone = zone_of(target)
    if zone_of(x.dtype) is None:
        local = x.expr if kind(x.dtype) == "datetime" else x.expr.cast(DATETIME)
        return local.dt.replace_time_zone(zone, ambiguous="earliest", non_existent="raise" if strict else "null")
    return x.expr.dt.replace_time_zone(None) if zone is None else x.expr.dt.convert_time_zone(zone)


def _written(x: Typed) -> pl.Expr:
    e = x.expr
    if isinstance(x.dtype, pl.Datetime | pl.Time):  # DuckDB writes no trailing zeros
        form = "%H:%M:%S%.f" if x.dtype == TIME else "%Y-%m-%d %H:%M:%S%.f"
        text = e.dt.strftime(form).str.replace(r"(\.\d*?)0+$", "$1")
        return text if zone_of(x.dtype) is None else text + e.dt.strftime("%:z").str.replace(":00", "", literal=True)
    if x.dtype.is_float():
        text = e.cast(STRING).str.replace(r"e-(\d)$", "e-0$1")  # as C writes exponents, from 1e-05 down
        text = text.str.replace(r"^(-?)0\.0000([1-9])(\d*)$", "$1$2.${3}e-05").str.replace(".e", "e", literal=True)
        return pl.when(e.is_nan()).then(pl.lit("nan")).otherwise(text)
    return e.cast(STRING)


def _parsed(e: pl.Expr, target: pl.DataType, strict: bool) -> pl.Expr:
    wanted = kind(target)
    if wanted == "boolean":
        digit = e.str.to_lowercase().replace_strict(_WORDS, default=e + " is no boolean", return_dtype=STRING)
        return digit.cast(pl.Int32, strict=strict).cast(BOOL)
    if wanted == "date":
        days = e.str.replace(rf"^(\d+-\d+-\d+)[ T]{_CLOCK}$", "$1")
        return days.str.to_date("%Y-%m-%d", strict=strict)
    if wanted == "time":
        return _seconds(e).str.to_time("%H:%M:%S%.f", strict=strict)
    if isinstance(target, pl.Datetime):
        whole = e.str.replace(r"^(\d+-\d+-\d+)$", "$1 00:00:00").str.replace(r"^(\d+-\d+-\d+)T", "$1 ")
        return _seconds(whole).str.to_datetime("%Y-%m-%d %H:%M:%S%.f", time_unit=target.time_unit, strict=strict)
    if isinstance(target, pl.Decimal):
        fits = e.str.contains(rf"^[+-]?\d*\.?\d{{0,{target.scale}}}0*$")
        return (
            pl.when(fits | e.is_null())
            .then(e)
            .otherwise(e + f" is no {dtype_name(target)}")
            .cast(target, strict=strict)
        )
    if wanted == "float":
        value = e.cast(target, strict=strict)
        lost = value.is_infinite() & ~e.str.contains("(?i)inf")
        if strict:
            return refuse(lost, e + f" does not fit {dtype_name(target)}", value, target)
        return pl.when(~lost).then(value)
    return e.cast(target, strict=strict)


def _seconds(e: pl.Expr) -> pl.Expr:
    """Times with their seconds written; Polars takes :60 for the next minute."""
    return e.str.replace(r"( |^)(\d{1,2}:\d{1,2})$", "$1$2:00").str.replace(r":60(\.|$)", ":61$1")
