"""What the operators mean for given types."""

from __future__ import annotations

import re
from collections.abc import Sequence

import polars as pl

from pipelines.expressions.types import (
    BOOL,
    DATE,
    DATETIME,
    FLOAT,
    INT,
    MOMENT,
    NULL,
    NUMBER,
    SCALAR,
    STRING,
    WIDE,
    Constant,
    ExpressionError,
    Typed,
    common_type,
    finer,
    kind,
    placed,
    refuse,
    to,
    unify,
)
from pipelines.types import calendar, dtype_name

# --- Numbers ------------------------------------------------------------------------------------------------------------


def arithmetic(op: str, a: Typed, b: Typed) -> Typed:
    kinds = {kind(a.dtype), kind(b.dtype)} - {"null"}
    if op in "+-" and not kinds <= NUMBER:
        return _calendar(op, a, b)
    if not kinds <= NUMBER or (op == "//" and not kinds <= {"int"}):
        takes, remedy = "numbers", "CAST the operand"
        if op == "//":
            takes, remedy = "ints", "write floor(x / y)"
        elif "string" in kinds and op in "+*":
            remedy = "CAST the string; texts are joined with ||"
        raise ExpressionError(f"{op} takes {takes}, not {dtype_name(a.dtype)} and {dtype_name(b.dtype)}", remedy)
    if kinds <= {"int"}:
        return (
            _integers(op, to(a, WIDE), to(b, WIDE), b)
            if op != "/"
            else Typed(divided(to(a, FLOAT), to(b, FLOAT)), FLOAT)
        )
    if "float" in kinds or op == "/":
        common = common_type(a.dtype, b.dtype) if op in "+-*" else FLOAT
        assert common is not None
        x, y = to(a, common), to(b, common)
        if op == "/":
            return Typed(divided(x, y), common)
    else:
        common = _decimal(op, a.dtype, b.dtype)
        x, y = a.expr.cast(common), b.expr.cast(common)
        if op == "%":
            y = refuse((y == 0) & x.is_not_null(), pl.lit("a decimal % 0"), y, common)
    if op == "%" and common.is_float():
        remainder = pl.map_batches([x, y], _fmod, return_dtype=common, is_elementwise=True)
        return Typed(pl.when(x.is_not_null() & y.is_not_null()).then(remainder), common)
    if op == "%":  # Polars' remainder has the sign of the divisor
        return Typed(pl.when(x < 0).then(-(-x % y.abs())).otherwise(x % y.abs()), common)
    if common.is_float() and op in "+-" and not any(isinstance(of, Constant) and of.value for of in (a, b)):
        # zero as one value Polars leaves out: -0.0 + 0.0 is -0.0 then, and 0.0 - 0.0 too. As columns both are what IEEE says
        x, y = x * _ones(y, common), y * _ones(x, common)
    return Typed(x + y if op == "+" else x - y if op == "-" else x * y, common)


def _ones(x: pl.Expr, dtype: pl.DataType) -> pl.Expr:
    """A column where x is one."""
    return (x.is_null() | x.is_not_null()).cast(dtype)


def divided(x: pl.Expr, y: pl.Expr) -> pl.Expr:
    """x / y as IEEE has it: by one value, Polars multiplies with its inverse, and 3 / 10 is 0.30000000000000004 in a table
    of two rows. Times a column of ones, it is a column."""
    return x / (y * _ones(x, FLOAT))


def _fmod(operands: Sequence[pl.Series]) -> pl.Series:
    """Exact, as in C; Polars' own rounds the quotient first, and x % inf is NaN."""
    import numpy as np

    with np.errstate(invalid="ignore"):
        return pl.Series(np.fmod(*(o.to_numpy() for o in operands)), dtype=operands[0].dtype)


def _integers(op: str, x: pl.Expr, y: pl.Expr, divisor: Typed) -> Typed:
    """In 128 bits, where nothing overflows; the cast back raises."""
    if op in "+-*":
        result = x + y if op == "+" else x - y if op == "-" else x * y
    else:
        result = x.abs() // y.abs() * x.sign() * y.sign() if op == "//" else x.abs() % y.abs() * x.sign()
        if not (isinstance(divisor, Constant) and divisor.value != 0):
            result = refuse((y == 0) & x.is_not_null(), pl.lit(f"an integer {op} 0"), result, WIDE)
    return Typed(result.cast(INT), INT)


def _decimal(op: str, a: pl.DataType, b: pl.DataType) -> pl.DataType:
    scales = [t.scale if isinstance(t, pl.Decimal) else 0 for t in (a, b)]
    scale = sum(scales) if op == "*" else max(scales)
    if scale > 38:
        raise ExpressionError(
            f"{dtype_name(a)} * {dtype_name(b)} has more than 38 digits behind the point",
            "CAST to fewer digits, or to DOUBLE",
        )
    return pl.Decimal(38, scale)


def negative(x: Typed) -> Typed:
    if x.dtype.is_float() or kind(x.dtype) in ("decimal", "duration"):
        return Typed(-x.expr, x.dtype)
    return arithmetic("-", Typed(pl.lit(0, dtype=INT), INT), x)


# --- Dates --------------------------------------------------------------------------------------------------------------


def _calendar(op: str, a: Typed, b: Typed) -> Typed:
    if op == "+" and kind(b.dtype) in MOMENT and kind(a.dtype) not in MOMENT:
        a, b = b, a
    left, right = kind(a.dtype), kind(b.dtype)
    if left == "date" and right in ("int", "null"):
        step = to(b, WIDE)
        moved = days(a) + step if op == "+" else days(a) - step
        fits = moved.cast(pl.Int32, strict=False)
        return Typed(_within(fits.is_null() & moved.is_not_null(), fits, DATE, pl.Int32()), DATE)
    if op == "-" and left == right == "date":
        return Typed(days(a) - days(b), INT)
    if op == "-" and {left, right} <= MOMENT and isinstance(common := common_type(a.dtype, b.dtype), pl.Datetime):
        return Typed(_sum("-", to(a, common), to(b, common), found := pl.Duration(common.time_unit)), found)
    if left == "date" and right == "duration":
        a, left = Typed(a.expr.cast(DATETIME), DATETIME), "datetime"
    if right == "duration" and isinstance(a.dtype, pl.Datetime | pl.Duration):
        unit = finer(a.dtype, b.dtype)
        wide = pl.Datetime(unit, a.dtype.time_zone) if isinstance(a.dtype, pl.Datetime) else pl.Duration(unit)
        return Typed(_sum(op, to(a, wide), to(b, pl.Duration(unit)), wide), wide)
    remedy = "CAST the operand"
    if "string" in (left, right):
        remedy = "CAST the string; texts are joined with ||"
    elif left in MOMENT:
        remedy = "add an INTERVAL: x + INTERVAL 3 DAY; whole days to a date: x + 3"
    raise ExpressionError(f"{op} cannot take {dtype_name(a.dtype)} and {dtype_name(b.dtype)}", remedy)


def _sum(op: str, x: pl.Expr, y: pl.Expr, dtype: pl.DataType) -> pl.Expr:
    """Of counts of the type's units; Polars' wrap."""
    x, y = x.to_physical(), y.to_physical()
    result = x + y if op == "+" else x - y
    wrapped = (result < x if op == "+" else result > x) != (y < 0)
    return _within(wrapped, result, dtype)


def _within(beyond: pl.Expr, count: pl.Expr, dtype: pl.DataType, counted: pl.DataType = INT) -> pl.Expr:
    if known := calendar(dtype):
        beyond |= ~count.is_between(*known)
    return refuse(beyond, pl.lit(f"a result is beyond {dtype_name(dtype)}"), count, counted).cast(dtype)


def days(x: Typed) -> pl.Expr:
    return x.expr.cast(pl.Int32).cast(WIDE).cast(INT)


UNITS = {
    **{"year": "y", "quarter": "q", "month": "mo", "week": "w", "day": "d", "hour": "h", "minute": "m", "second": "s"},
    **{"millisecond": "ms", "microsecond": "us"},
}


_MICROSECONDS = {
    "week": 7 * 86_400_000_000,
    "day": 86_400_000_000,
    "hour": 3_600_000_000,
    "minute": 60_000_000,
    "second": 1_000_000,
    "millisecond": 1000,
    "microsecond": 1,
}
_CLOCKS = ("year", "quarter", "month", "week", "day")
"""Units that a zone's clocks count."""


def shift(op: str, a: Typed, amount: Typed, unit: str) -> Typed:
    """date or datetime + INTERVAL; at the end of a month the day is cut to the month's last."""
    if kind(a.dtype) not in MOMENT | {"null"}:
        raise ExpressionError(
            f"INTERVAL is added to a date or datetime, not to {dtype_name(a.dtype)}", "CAST it to DATE"
        )
    name = unit.lower().removesuffix("s")
    found = re.fullmatch(r"\s*(-?\d{1,9})\s*(\w*?)s?\s*", str(amount.value)) if isinstance(amount, Constant) else None
    if found and not unit:
        name = found[2].lower()
    good = name in UNITS and (found if isinstance(amount, Constant) else kind(amount.dtype) in ("int", "null"))
    if not good or (found and unit and found[2]):
        raise ExpressionError(
            "cannot read the INTERVAL",
            f"write INTERVAL 3 DAY, INTERVAL '3 months' or INTERVAL (n) DAY; known: {', '.join(UNITS)}",
        )
    dtype = a.dtype if isinstance(a.dtype, pl.Datetime) else DATETIME
    if dtype.time_unit == "ms" and name == "microsecond":
        dtype = pl.Datetime("us", dtype.time_zone)
    count = (int(found[1]) if found else to(amount, WIDE)) * (1 if op == "+" else -1)
    if dtype.time_zone in (None, "UTC") or name not in _CLOCKS:
        return Typed(_moved(to(a, dtype), count, name, dtype), dtype)
    # Polars puts a time that clocks jump over before the jump, and refuses one of a day that they do
    utc, local = (
        to(a, dtype).dt.convert_time_zone(zone).dt.replace_time_zone(None) for zone in ("UTC", dtype.time_zone)
    )
    moved = _moved(local, count, name, pl.Datetime(dtype.time_unit))
    kept = (moved - (local - utc)).dt.replace_time_zone("UTC").dt.convert_time_zone(dtype.time_zone)  # with its offset
    same = kept.dt.replace_time_zone(None) == moved  # of an hour that comes twice
    return Typed(pl.when(same).then(kept).otherwise(placed(moved, dtype)), dtype)


def _moved(x: pl.Expr, count: int | pl.Expr, name: str, dtype: pl.Datetime) -> pl.Expr:
    """So many units later, where a day has 24 hours."""
    if name in _MICROSECONDS:
        step = count * _MICROSECONDS[name] * (1000 if dtype.time_unit == "ns" else 1)
        step = step // 1000 if dtype.time_unit == "ms" else step
        if isinstance(step, int) and abs(step) < 2**63:
            return _sum("+", x, pl.lit(step, INT), dtype)
        exact = x.to_physical().cast(WIDE) + step
        fits = exact.cast(INT, strict=False)
        return _within(fits.is_null() & exact.is_not_null(), fits, dtype)
    months: str | pl.Expr = f"{count}{UNITS[name]}"
    if isinstance(count, pl.Expr):
        months = pl.concat_str([count.cast(INT).cast(STRING), pl.lit(UNITS[name])])
    if dtype.time_unit != "ns":
        return x.dt.offset_by(months)
    rest = x.to_physical() % 1000  # Polars' nanoseconds wrap, where a cast from microseconds raises
    whole = ((x.to_physical() - rest) // 1000).cast(pl.Datetime("us", dtype.time_zone))
    return _sum("+", whole.dt.offset_by(months).cast(dtype), rest, dtype)


# --- Comparison and text ------------------------------------------------------------------------------------------------

_METHODS = {
    **{"=": "eq", "<>": "ne", "<": "lt", "<=": "le", ">": "gt", ">=": "ge"},
    **{"same": "eq_missing", "other": "ne_missing"},
}
_TURNED = {"<": ">", "<=": ">=", ">": "<", ">=": "<="}


def compare(op: str, a: Typed, b: Typed) -> Typed:
    (a, b), common = unify([a, b], "compare")
    if kind(common) not in SCALAR:
        raise ExpressionError(f"cannot compare {dtype_name(common)}", "compare something in it")
    if common == INT and a.dtype != b.dtype and pl.UInt64() in (a.dtype, b.dtype):
        common = WIDE
    x, y = to(a, common), to(b, common)
    if op not in ("same", "other") and any(e.meta.is_literal() and pl.select(e).item() is None for e in (x, y)):
        return Typed(pl.lit(None, BOOL), BOOL)  # so says Polars' optimizer, and then has one row for the table's
    if common == NULL:
        x, y = x.cast(BOOL), y.cast(BOOL)
    if x.meta.is_literal():  # a literal on the left has one row for the table's where the right is one value by chance
        x, y, op = y, x, _TURNED.get(op, op)
    return Typed(getattr(x, _METHODS[op])(y), BOOL)


def like(text: Typed, pattern: Typed, fold: bool, escape: str = "") -> Typed:
    if kind(text.dtype) not in ("string", "null"):
        raise ExpressionError(f"LIKE takes a string, not {dtype_name(text.dtype)}", "CAST it to VARCHAR")
    if pattern.dtype == NULL:
        return Typed(pl.lit(None, BOOL), BOOL)
    if not (isinstance(pattern, Constant) and pattern.dtype == STRING):
        raise ExpressionError(
            "LIKE takes a pattern in single quotes", "for a column: contains(s, t), starts_with(s, t), ends_with(s, t)"
        )
    regex, characters = "", iter(str(pattern.value))
    for c in characters:
        if c == escape:
            if (literal := next(characters, None)) is None:
                raise ExpressionError(
                    "the pattern ends with its escape character", f"write {escape * 2!r} for the sign itself"
                )
            regex += re.escape(literal)
        else:
            regex += {"%": ".*", "_": "."}.get(c) or re.escape(c)
    return Typed(to(text, STRING).str.contains(rf"(?s{'i' if fold else ''})\A(?:{regex})\z"), BOOL)
