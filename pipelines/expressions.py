"""SQL scalar expressions in DuckDB's dialect, typed against a schema and translated into Polars.

Every operand is cast to the type it is computed in, so the declared type is the type that comes out, and what cannot be
computed is refused before a row is read. What remains for the run are values: an overflow, a text that is no number.

    operator                       operands                       result
    + - *                          ints                           int64, computed in 128 bits: an overflow raises
                                   decimals, or decimal and int   decimal(38, larger scale)
                                   float32 with float32           float32; any other mix with a float: float64
    /                              numbers                        float64; x / 0 is infinite or NaN
    // %                           ints                           int64, truncated; by zero: null
    %                              numbers with a float           float64, sign of the dividend
    + -                            date and int                   date
                                   date or datetime, INTERVAL     datetime (a datetime keeps its unit and zone)
                                   datetime and duration          datetime
                                   duration and duration          duration
    -                              date and date                  int64 (days)
                                   datetime with date, datetime   duration
    ||                             a string and any scalar        string; null with null
    = <> < <= > >= IN BETWEEN      any two with a common type     boolean; NaN equals NaN and is above all numbers
    IS [NOT] DISTINCT FROM         likewise                       boolean, never null
    AND OR NOT                     boolean                        boolean
    [NOT] [I]LIKE                  string, pattern literal        boolean
    CASE COALESCE GREATEST ...     any with a common type         the common type
    CAST, ::, TRY_CAST             see `_cast`                    the type named; floats round half to even

The common type: of two different int types int64, of int and decimal decimal(38, scale), of float and another number
float64, of date and datetime datetime; of null and anything that. A string literal becomes the date, datetime or time
that it meets. Strings and numbers have none. Functions are in FUNCTIONS. A literal is int64, float64 or string.
"""

from __future__ import annotations

import datetime as dt
import functools
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, NoReturn

import polars as pl
from sqlglot import exp
from sqlglot.dialects.duckdb import DuckDB
from sqlglot.errors import ParseError, TokenError
from sqlglot.parsers.duckdb import DuckDBParser
from sqlglot.tokenizer_core import TokenType

from pipelines.errors import did_you_mean
from pipelines.types import Schema, dtype_name, parse_dtype

BOOL, INT, FLOAT, STRING, DATE, TIME = pl.Boolean(), pl.Int64(), pl.Float64(), pl.String(), pl.Date(), pl.Time()
DATETIME, NULL, WIDE = pl.Datetime("us"), pl.Null(), pl.Int128()
AGGREGATES = {
    **{n: n for n in ("count", "sum", "avg", "min", "max", "std", "var", "first", "last", "median")},
    **{"mean": "avg", "stddev": "std", "stddev_samp": "std", "variance": "var", "var_samp": "var"},
}
QUOTES = "put double quotes around column names that contain spaces or other signs"


class ExpressionError(Exception):
    """What is wrong with an expression, what to do, and where in its text (characters from 0)."""

    def __init__(self, message: str, remedy: str = "", offset: int | None = None) -> None:
        super().__init__(message, remedy, offset)
        self.message, self.remedy, self.offset = message, remedy, offset

    def __str__(self) -> str:
        return self.message


@dataclass(frozen=True)
class Typed:
    """A Polars expression and the type of what it yields."""

    expr: pl.Expr
    dtype: pl.DataType


@dataclass(frozen=True)
class _Constant(Typed):
    """A literal: its value is known when binding."""

    value: str | int | float
    offset: int | None


OnAggregate = Callable[[str, Typed | None, bool], Typed]


@dataclass(frozen=True)
class Expression:
    """A parsed expression; `columns` are the names it reads."""

    text: str
    columns: frozenset[str]
    _tree: exp.Expr = field(compare=False, repr=False)

    def bind(self, schema: Schema, on_aggregate: OnAggregate | None = None) -> Typed:
        try:
            typed = _Binder(schema, on_aggregate).bind(self._tree)
        except RecursionError:
            raise ExpressionError("the expression is nested too deeply") from None
        return Typed(typed.expr, typed.dtype)

    def __reduce__(self) -> tuple[Callable[[str], Expression], tuple[str]]:
        return parse, (self.text,)


# FUNCTIONS decides what a function is, not sqlglot: each call shall stay a name with its place. A parser without functions
# of its own would be a subclass, which compiled sqlglot forbids, and compiled it starts 0.2 s sooner. So the names that
# it knows are marked before it sees them.
_DUCKDB, _MARK = DuckDB(), "\0"
_KNOWN = (DuckDBParser.FUNCTIONS.keys() | DuckDBParser.FUNCTION_PARSERS.keys()) - {
    *("CAST", "TRY_CAST", "EXTRACT"),
    *DuckDBParser.NO_PAREN_FUNCTION_PARSERS,  # CASE, IF
}


def _parse(text: str) -> exp.Expr:
    tokens = _DUCKDB.tokenize(text)
    for before, token, after in zip([None, *tokens], tokens, tokens[1:], strict=False):
        a_type = before is not None and before.token_type in (TokenType.ALIAS, TokenType.DCOLON)
        if (
            after.token_type == TokenType.L_PAREN
            and token.token_type in DuckDBParser.FUNC_TOKENS
            and token.text.upper() in _KNOWN
            and not a_type
        ):
            token.text = _MARK + token.text
    trees = _DUCKDB.parser().parse(tokens, text)
    if not trees or trees[0] is None:
        raise ParseError("nothing but comments")
    if len(trees) > 1:
        raise ExpressionError("one expression is wanted, not several statements")
    for call in trees[0].find_all(exp.Anonymous):
        call.set("this", call.name.removeprefix(_MARK))
    return trees[0]


@functools.lru_cache(maxsize=4096)
def parse(text: str) -> Expression:
    """Parse one scalar expression; raises ExpressionError."""
    if not text.strip():
        raise ExpressionError("the expression is empty")
    try:
        tree = _parse(text)
    except ParseError as error:
        found = error.errors[0] if error.errors else {}
        offset = None
        if found:
            start = sum(len(line) + 1 for line in text.split("\n")[: found["line"] - 1])
            offset = max(start + found["col"] - len(found["highlight"] or " "), 0)
        where = f" at {found['highlight']!r}" if found.get("highlight") else ""
        raise ExpressionError(f"cannot parse the expression{where}", QUOTES, offset) from None
    except TokenError:
        raise ExpressionError("cannot parse the expression: a quote is not closed", QUOTES) from None
    except RecursionError:
        raise ExpressionError("the expression is nested too deeply") from None
    if isinstance(tree, exp.Alias):
        alias = tree.args["alias"]
        raise ExpressionError(f"cannot parse the expression at {alias.name!r}", QUOTES, _offset(alias))
    if tree.find(exp.Query):
        raise ExpressionError("an expression works on one row: SELECT and subqueries are not possible")
    if window := tree.find(exp.Window):
        raise ExpressionError("an expression works on one row: OVER is not possible", "", _offset(window))
    return Expression(text, frozenset(c.name for c in tree.find_all(exp.Column)), tree)


def quote(name: str) -> str:
    """A column name as it is written in an expression: quoted when it must be."""
    if re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII):
        try:
            tree = parse(name)._tree
        except ExpressionError:
            tree = None
        if isinstance(tree, exp.Column) and tree.name == name:
            return name
    return '"' + name.replace('"', '""') + '"'


def _offset(node: exp.Expr) -> int | None:
    return min((n.meta["start"] for n in node.walk() if "start" in n.meta), default=None)


# --- Types --------------------------------------------------------------------------------------------------------------


def _kind(t: pl.DataType) -> str:
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


def _common(a: pl.DataType, b: pl.DataType) -> pl.DataType | None:
    """The type that holds both."""
    if b in (a, NULL):
        return a
    if a == NULL:
        return b
    kinds = {_kind(a), _kind(b)}
    if kinds == {"int"}:
        return INT
    if kinds <= NUMBER:
        if "float" in kinds:
            return FLOAT
        return pl.Decimal(38, max(t.scale for t in (a, b) if isinstance(t, pl.Decimal)))
    if kinds == {"duration"}:
        return pl.Duration(_finer(a, b))
    if kinds <= MOMENT:
        zones = {t.time_zone for t in (a, b) if isinstance(t, pl.Datetime)}
        if len(zones) == 1 and (zones == {None} or len(kinds) == 1):
            return pl.Datetime(_finer(a, b), zones.pop())
    return None


def _finer(*types: pl.DataType) -> Literal["ns", "us", "ms"]:
    units = [t.time_unit for t in types if isinstance(t, (pl.Datetime, pl.Duration))]
    return min(units, key=["ns", "us", "ms"].index)


def _to(x: Typed, dtype: pl.DataType) -> pl.Expr:
    """Of a common type: no text is read or written here."""
    return x.expr if x.dtype == dtype else x.expr.cast(dtype)


def _unify(items: Sequence[Typed], doing: str) -> tuple[list[Typed], pl.DataType]:
    """The items with string literals read as the type they meet, and their common type."""
    meets = next((i.dtype for i in items if _kind(i.dtype) in MOMENT | {"time"}), None)
    if meets is not None:
        items = [_read(i, meets) if isinstance(i, _Constant) and i.dtype == STRING else i for i in items]
    common: pl.DataType = NULL
    for item in items:
        found = _common(common, item.dtype)
        if found is None:
            _differ(doing, common, item.dtype)
        common = found
    return list(items), common


def _differ(doing: str, a: pl.DataType, b: pl.DataType) -> NoReturn:
    raise ExpressionError(
        f"cannot {doing} {dtype_name(a)} with {dtype_name(b)}", "CAST one of them to the other's type"
    )


def _read(literal: _Constant, dtype: pl.DataType) -> Typed:
    """A string literal as a date, datetime or time, now."""
    text = str(literal.value).strip()
    try:
        if dtype == TIME:
            return Typed(pl.lit(dt.time.fromisoformat(text)), TIME)
        moment = dt.datetime.fromisoformat(text)
    except ValueError:
        raise ExpressionError(
            f"{literal.value!r} is not a {_kind(dtype)}", "write '2024-12-31' or '2024-12-31 23:59:59'", literal.offset
        ) from None
    if dtype == DATE and not (moment.hour or moment.minute or moment.second or moment.microsecond):
        return Typed(pl.lit(moment.date()), DATE)
    unit, zone = (dtype.time_unit, dtype.time_zone) if isinstance(dtype, pl.Datetime) else ("us", None)
    if moment.tzinfo and not zone:
        raise ExpressionError(f"{literal.value!r} has a time zone and the column has none", "", literal.offset)
    naive = pl.lit(moment.astimezone(dt.UTC).replace(tzinfo=None) if moment.tzinfo else moment).cast(pl.Datetime(unit))
    if zone:
        naive = (
            naive.dt.replace_time_zone("UTC").dt.convert_time_zone(zone)
            if moment.tzinfo
            else naive.dt.replace_time_zone(zone)
        )
    return Typed(naive, pl.Datetime(unit, zone))


# --- Operators ----------------------------------------------------------------------------------------------------------


def _arithmetic(op: str, a: Typed, b: Typed) -> Typed:
    kinds = {_kind(a.dtype), _kind(b.dtype)}
    if op in "+-" and not kinds <= NUMBER | {"null"}:
        return _calendar(op, a, b)
    if not kinds <= NUMBER | {"null"} or (op == "//" and not kinds <= {"int", "null"}):
        takes = "ints" if op == "//" else "numbers"
        raise ExpressionError(
            f"{op} takes {takes}, not {dtype_name(a.dtype)} and {dtype_name(b.dtype)}", "CAST the operand"
        )
    common = _common(a.dtype, b.dtype)
    assert common is not None
    if op == "/" or (op == "%" and not kinds <= {"int", "null"}):
        x, y = _to(a, FLOAT), _to(b, FLOAT)
        # As fmod: Polars' remainder has the sign of the divisor.
        return Typed(x / y if op == "/" else pl.when(x < 0).then(-(-x % y.abs())).otherwise(x % y.abs()), FLOAT)
    if kinds <= {"int", "null"}:
        x, y = _to(a, WIDE), _to(b, WIDE)
        if op == "//":
            return Typed((x.abs() // y.abs() * x.sign() * y.sign()).cast(INT), INT)
        if op == "%":
            return Typed((x.abs() % y.abs() * x.sign()).cast(INT), INT)
    else:
        if isinstance(common, pl.Decimal):
            common = pl.Decimal(38, common.scale)
        x, y = _to(a, common), _to(b, common)
    result = x + y if op == "+" else x - y if op == "-" else x * y
    return Typed(result.cast(INT), INT) if kinds <= {"int", "null"} else Typed(result, common)


def _calendar(op: str, a: Typed, b: Typed) -> Typed:
    if op == "+" and _kind(b.dtype) in MOMENT and _kind(a.dtype) not in MOMENT:
        a, b = b, a
    left, right = _kind(a.dtype), _kind(b.dtype)
    days = _days(a) if left == "date" else a.expr
    if left == "date" and right in ("int", "null"):
        step = _to(b, INT)
        return Typed((days + step if op == "+" else days - step).cast(pl.Int32).cast(DATE), DATE)
    if op == "-" and left == right == "date":
        return Typed(days - _days(b), INT)
    if op == "-" and {left, right} <= MOMENT and isinstance(common := _common(a.dtype, b.dtype), pl.Datetime):
        return Typed(_to(a, common) - _to(b, common), pl.Duration(common.time_unit))
    if right == "duration" and isinstance(a.dtype, pl.Datetime | pl.Duration):
        unit = _finer(a.dtype, b.dtype)
        wide = pl.Datetime(unit, a.dtype.time_zone) if isinstance(a.dtype, pl.Datetime) else pl.Duration(unit)
        x, y = _to(a, wide), _to(b, pl.Duration(unit))
        return Typed(x + y if op == "+" else x - y, wide)
    raise ExpressionError(f"{op} cannot take {dtype_name(a.dtype)} and {dtype_name(b.dtype)}", "CAST the operand")


def _days(x: Typed) -> pl.Expr:
    return x.expr.cast(pl.Int32).cast(INT)


_UNITS = {
    "year": "y",
    "quarter": "q",
    "month": "mo",
    "week": "w",
    "day": "d",
    "hour": "h",
    "minute": "m",
    "second": "s",
}
_STEPS = {**_UNITS, "millisecond": "ms", "microsecond": "us"}


def _shift(op: str, a: Typed, node: exp.Interval) -> Typed:
    amount, unit = node.this, node.args.get("unit")
    name = unit.name.lower().removesuffix("s") if unit else ""
    if _kind(a.dtype) not in MOMENT | {"null"}:
        raise ExpressionError(f"INTERVAL is added to a date or datetime, not to {dtype_name(a.dtype)}")
    if not isinstance(amount, exp.Literal) or not re.fullmatch(r"-?\d{1,9}", amount.name) or name not in _STEPS:
        raise ExpressionError(
            "cannot read the INTERVAL", "write it as INTERVAL 3 day or INTERVAL '3 month'", _offset(node)
        )
    count = int(amount.name) * (1 if op == "+" else -1)
    dtype = a.dtype if isinstance(a.dtype, pl.Datetime) else DATETIME
    return Typed(_to(a, dtype).dt.offset_by(f"{count}{_STEPS[name]}"), dtype)


def _compare(op: str, a: Typed, b: Typed) -> Typed:
    (a, b), common = _unify([a, b], "compare")
    if _kind(common) not in SCALAR:
        raise ExpressionError(f"cannot compare {dtype_name(common)}")
    if pl.UInt64() in (a.dtype, b.dtype) and common == INT:
        common = WIDE
    x, y = _to(a, common), _to(b, common)
    if common == NULL:
        x, y = x.cast(BOOL), y.cast(BOOL)
    method = {
        "=": "eq",
        "<>": "ne",
        "<": "lt",
        "<=": "le",
        ">": "gt",
        ">=": "ge",
        "same": "eq_missing",
        "other": "ne_missing",
    }
    return Typed(getattr(x, method[op])(y), BOOL)


def _like(text: Typed, pattern: Typed, fold: bool, escape: str = "") -> Typed:
    if _kind(text.dtype) not in ("string", "null") or not (isinstance(pattern, _Constant) and pattern.dtype == STRING):
        raise ExpressionError("LIKE takes a string and a pattern in single quotes")
    regex, characters = "", iter(str(pattern.value))
    for c in characters:
        literal = next(characters, "") if c == escape else None
        regex += re.escape(literal) if literal is not None else {"%": ".*", "_": "."}.get(c) or re.escape(c)
    return Typed(_to(text, STRING).str.contains(rf"(?s{'i' if fold else ''})\A(?:{regex})\z"), BOOL)


def _cast(x: Typed, to: pl.DataType, strict: bool) -> Typed:
    """number <-> number, boolean; date <-> datetime -> time; every scalar <-> string, but not from a zoned datetime."""
    source, target = _kind(x.dtype), _kind(to)
    e = x.expr
    numeric = NUMBER | {"boolean"}
    zones = {t.time_zone for t in (x.dtype, to) if isinstance(t, pl.Datetime)}
    allowed = (
        (source == "null" and target in SCALAR)
        or x.dtype == to
        or ({source, target} <= numeric)
        or (source in MOMENT and target in MOMENT and len(zones) == 1)
        or (source == "datetime" and target == "time")
        or (source == target == "duration")
        or (target == "string" and source in SCALAR)
        or (source == "string" and target in SCALAR - {"duration"} and zones <= {None})
    )
    if not allowed:
        raise ExpressionError(f"cannot cast {dtype_name(x.dtype)} to {dtype_name(to)}")
    if x.dtype == to:
        return x
    if target == "string" and isinstance(x.dtype, pl.Datetime):  # DuckDB writes no trailing zeros
        e = e.dt.strftime("%Y-%m-%d %H:%M:%S%.f").str.replace(r"(\.\d*?)0+$", "$1")
        return Typed(e, STRING)
    if target == "string" and source == "float":
        return Typed(pl.when(e.is_nan()).then(pl.lit("nan")).otherwise(e.cast(STRING)), STRING)
    if source == "string":
        e = e.str.strip_chars()
        if target == "boolean":
            words = dict.fromkeys(("true", "t", "yes", "y", "1"), "1") | dict.fromkeys(
                ("false", "f", "no", "n", "0"), "0"
            )
            digit = e.str.to_lowercase().replace_strict(words, default="no boolean", return_dtype=STRING)
            e = pl.when(e.is_not_null()).then(digit).cast(pl.Int32, strict=strict)
            return Typed(e.cast(BOOL), BOOL)
        if target == "date":
            return Typed(e.str.head(10).str.to_date("%Y-%m-%d", strict=strict), DATE)
        if target == "time":
            return Typed(e.str.to_time("%H:%M:%S%.f", strict=strict), TIME)
        if isinstance(to, pl.Datetime):
            e = e.str.replace("T", " ", literal=True)
            e = pl.when(e.str.len_chars() <= 10).then(e + " 00:00:00").otherwise(e)
            return Typed(e.str.to_datetime("%Y-%m-%d %H:%M:%S%.f", time_unit=to.time_unit, strict=strict), to)
    if target == "int" and source == "float":
        e = e.round(0, mode="half_to_even")
    if target == "int" and isinstance(x.dtype, pl.Decimal):
        e = e.round(0, mode="half_away_from_zero")
    if source == "boolean" and target == "decimal":
        e = e.cast(INT)
    return Typed(e.cast(to, strict=strict), to)


# --- Functions ----------------------------------------------------------------------------------------------------------

Builder = Callable[..., Typed]


@dataclass(frozen=True)
class Function:
    """`takes`: kinds of arguments; `?` may be left out, `'...'` must be a literal, `...` repeats the last one."""

    takes: str
    build: Builder


# What an argument of a kind is cast to; the kinds that are not here keep their type.
_ACCEPTS: dict[str, tuple[set[str], pl.DataType | None]] = {
    "number": (NUMBER, None),
    "float": (NUMBER, FLOAT),
    "int": ({"int"}, INT),
    "string": ({"string"}, STRING),
    "moment": (MOMENT, None),
    "clock": ({"datetime", "time"}, None),
    "scalar": (SCALAR, None),
}
_NULL_AS = {"number": FLOAT, "moment": DATETIME, "clock": DATETIME, "scalar": NULL}
_WORDS = {"moment": "date or datetime", "clock": "datetime or time", "scalar": "any value", "float": "number"}


def _call(name: str, args: list[Typed], offset: int | None) -> Typed:
    function = FUNCTIONS.get(name)
    if function is None:
        raise ExpressionError(
            f"unknown function {name!r}", did_you_mean(name, [*FUNCTIONS, *AGGREGATES, *_SPECIAL]), offset
        )
    takes = function.takes.split(", ")
    if takes[-1] == "...":
        takes = takes[:-1] + takes[-2:-1] * max(1 + len(args) - len(takes), 0)
    least = sum(not t.endswith("?") for t in takes)
    ready: list[object] = []
    good = least <= len(args) <= len(takes)
    for kind, arg in zip(takes, args, strict=False):
        word = kind.strip("?")
        literal, word = word.startswith("'"), word.strip("'")
        accepted, cast = _ACCEPTS[word]
        if literal:
            good &= isinstance(arg, _Constant) and _kind(arg.dtype) in accepted
            ready.append(arg.value if isinstance(arg, _Constant) else None)
        elif arg.dtype == NULL:
            dtype = cast or _NULL_AS[word]
            ready.append(Typed(arg.expr.cast(dtype), dtype))
        else:
            good &= _kind(arg.dtype) in accepted
            ready.append(Typed(_to(arg, cast), cast) if good and cast else arg)
    if not good:
        got = ", ".join(dtype_name(a.dtype) for a in args)
        raise ExpressionError(f"{name}({got}) is not possible", f"{name} takes {_describe(function.takes)}", offset)
    try:
        return function.build(*ready)
    except ExpressionError as error:
        raise ExpressionError(error.message, error.remedy, offset if error.offset is None else error.offset) from None


def _describe(takes: str) -> str:
    words = []
    for kind in takes.split(", "):
        word = kind.strip("?'")
        words.append(
            _WORDS.get(word, word) + (" literal" if "'" in kind else "") + (" (optional)" if "?" in kind else "")
        )
    return f"({', '.join(words)})"


def _float(f: Callable[[pl.Expr], pl.Expr], dtype: pl.DataType = FLOAT) -> Function:
    return Function("float", lambda x: Typed(f(x.expr), dtype))


def _text(f: Callable[..., pl.Expr], takes: str = "string", dtype: pl.DataType = STRING) -> Function:
    def build(*args: Typed | str | int) -> Typed:
        result = f(*(a.expr if isinstance(a, Typed) else a for a in args))
        return Typed(result.cast(dtype) if dtype == INT else result, dtype)

    return Function(takes, build)


def _part(f: Callable[[pl.Expr], pl.Expr], takes: str = "moment") -> Function:
    return Function(takes, lambda x: Typed(f(x.expr).cast(INT), INT))


def _abs(x: Typed) -> Typed:
    return Typed(x.expr.cast(WIDE).abs().cast(x.dtype) if x.dtype.is_integer() else x.expr.abs(), x.dtype)


def _round(x: Typed, digits: int = 0) -> Typed:
    if abs(digits) > 18:
        raise ExpressionError("round takes from -18 to 18 digits")
    if digits >= 0:
        return (
            x
            if x.dtype.is_integer()
            else Typed(x.expr.round(digits, mode="half_away_from_zero").cast(x.dtype), x.dtype)
        )
    scale = 10**-digits
    if x.dtype.is_integer():
        wide = x.expr.cast(WIDE)
        return Typed(((wide.abs() + scale // 2) // scale * scale * wide.sign()).cast(x.dtype), x.dtype)
    rounded = (x.expr.cast(FLOAT) / scale).round(0, mode="half_away_from_zero") * scale
    return Typed(rounded.cast(x.dtype), x.dtype)


def _sign(x: Typed) -> Typed:
    e = x.expr.cast(FLOAT)
    return Typed(pl.when(e.is_nan()).then(0).otherwise(e.sign()).cast(INT), INT)


def _substring(s: pl.Expr, start: pl.Expr, length: pl.Expr | None = None) -> pl.Expr:
    size = s.str.len_chars().cast(INT)
    begin = pl.when(start < 0).then(size + start).otherwise(start - 1)
    end = size if length is None else begin + length
    low = pl.min_horizontal(begin, end).clip(0)
    high = pl.max_horizontal(begin, end).clip(0)
    known = start.is_not_null() if length is None else start.is_not_null() & length.is_not_null()
    return pl.when(known).then(s.str.slice(low, high - low))


def _strpos(s: pl.Expr, part: pl.Expr) -> pl.Expr:
    before = s.str.splitn(part, 2).struct.field("field_0").str.len_chars()
    return (
        pl.when((part == "") & s.is_not_null())
        .then(1)
        .when(s.str.contains(part, literal=True))
        .then(before + 1)
        .otherwise(s.str.len_chars() * part.str.len_chars() * 0)
    )


def _split_part(s: pl.Expr, by: pl.Expr, n: pl.Expr) -> pl.Expr:
    index = pl.when(n > 0).then(n - 1).when(n < 0).then(n)
    found = s.str.split(by).list.get(index, null_on_oob=True).fill_null("")
    return pl.when(s.is_not_null() & by.is_not_null() & n.is_not_null()).then(found)


def _pad(s: pl.Expr, n: int, fill: str, left: bool) -> pl.Expr:
    if len(fill) != 1 or n < 0:
        raise ExpressionError("padding takes a length from 0 and one character")
    cut = s.str.head(n)
    return cut.str.pad_start(n, fill) if left else cut.str.pad_end(n, fill)


def _strip(side: str) -> Function:
    def build(s: pl.Expr, characters: str = " ") -> pl.Expr:
        result: pl.Expr = getattr(s.str, f"strip_chars{side}")(characters) if characters else s
        return result

    return _text(build, "string, 'string'?")


def _pattern(pattern: str, options: str = "", group: int = 0) -> str:
    """Checked now: a wrong pattern must not wait for the run."""
    if not set(options) <= set("gicsm"):
        raise ExpressionError(f"unknown regular expression options {options!r}", "g, i, c, s and m are known")
    flags = "".join(sorted(set(options) & set("ism")))
    regex = f"(?{flags}){pattern}" if flags else pattern
    try:
        pl.Series([""]).str.extract(regex, group)
        pl.Series([""]).str.contains(regex)
    except pl.exceptions.PolarsError as error:
        reason = str(error).strip().splitlines()[-1]
        raise ExpressionError(f"the regular expression {pattern!r} is wrong: {reason}") from None
    return regex


def _regexp_replace(s: pl.Expr, pattern: str, new: str, options: str = "") -> pl.Expr:
    template = re.sub(r"\\(\d)", r"${\1}", new.replace("$", "$$"))
    regex = _pattern(pattern, options)
    return s.str.replace_all(regex, template) if "g" in options else s.str.replace(regex, template)


def _regexp_extract(s: pl.Expr, pattern: str, group: int = 0) -> pl.Expr:
    return pl.when(s.is_not_null()).then(s.str.extract(_pattern(pattern, "", group), group).fill_null(""))


def _concat(*args: Typed, separator: str = "") -> Typed:
    return Typed(
        pl.concat_str([_cast(a, STRING, True).expr for a in args], separator=separator, ignore_nulls=True), STRING
    )


def _unit(unit: str) -> str:
    name = unit.lower().removesuffix("s")
    if name not in _UNITS:
        raise ExpressionError(f"unknown unit {unit!r}", did_you_mean(name, _UNITS))
    return name


def _date_trunc(unit: str, x: Typed) -> Typed:
    dtype = x.dtype if isinstance(x.dtype, pl.Datetime) else DATETIME
    return Typed(_to(x, dtype).dt.truncate(f"1{_UNITS[_unit(unit)]}"), dtype)


def _date_diff(unit: str, a: Typed, b: Typed) -> Typed:
    (a, b), common = _unify([a, b], "subtract")
    name, x, y = _unit(unit), _to(a, common), _to(b, common)

    def count(e: pl.Expr) -> pl.Expr:
        if name in ("year", "quarter", "month"):
            per = {"year": 1, "quarter": 4, "month": 12}[name]
            within: pl.Expr = {"year": pl.lit(0), "quarter": e.dt.quarter(), "month": e.dt.month()}[name]
            return e.dt.year().cast(INT) * per + within.cast(INT)
        if name == "day":
            return e.dt.date().cast(pl.Int32).cast(INT)
        local = e.cast(DATETIME) if common == DATE else e.dt.replace_time_zone(None)
        return local.dt.epoch("s") // {"hour": 3600, "minute": 60, "second": 1}[name]

    if name == "week":
        raise ExpressionError("date_diff does not count weeks", "divide the days by 7")
    return Typed(count(y) - count(x), INT)


def _format(text: str) -> str:
    """DuckDB's format as Polars': the directives that mean the same in both, and the two that are spelled differently."""
    for directive in re.findall(r"%(-?.|$)", text, re.DOTALL):
        if not re.fullmatch(r"-?[YymdHIMSpjaAbB]|[fg%]", directive):
            raise ExpressionError(
                f"unknown format directive '%{directive}'", "known: %Y %y %m %d %H %I %M %S %f %g %p %j %a %A %b %B"
            )
    return re.sub(r"%([fg%])", lambda m: {"f": "%6f", "g": "%3f", "%": "%%"}[m[1]], text)


def _strptime(strict: bool) -> Function:
    def build(s: Typed, text: str) -> Typed:
        return Typed(s.expr.str.to_datetime(_format(text), time_unit="us", strict=strict), DATETIME)

    return Function("string, 'string'", build)


def _coalesce(*args: Typed) -> Typed:
    items, common = _unify(args, "combine")
    return Typed(pl.coalesce([_to(i, common) for i in items]), common)


def _nullif(a: Typed, b: Typed) -> Typed:
    return Typed(pl.when(_compare("=", a, b).expr.fill_null(False)).then(None).otherwise(a.expr).cast(a.dtype), a.dtype)


def _extreme(op: str) -> Function:
    def build(*args: Typed) -> Typed:
        items, common = _unify(args, "compare")
        best, *others = (Typed(_to(i, common), common) for i in items)
        for other in others:  # Polars' max_horizontal passes over NaN, which is the greatest for DuckDB
            keep = _compare(op, best, other).expr.fill_null(False) | other.expr.is_null()
            best = Typed(pl.when(keep).then(best.expr).otherwise(other.expr), common)
        return best

    return Function("scalar, ...", build)


_PARTS: dict[str, Function] = {
    "year": _part(lambda e: e.dt.year()),
    "quarter": _part(lambda e: e.dt.quarter()),
    "month": _part(lambda e: e.dt.month()),
    "week": _part(lambda e: e.dt.week()),
    "day": _part(lambda e: e.dt.day()),
    "dayofweek": _part(lambda e: e.dt.weekday() % 7),
    "isodow": _part(lambda e: e.dt.weekday()),
    "dayofyear": _part(lambda e: e.dt.ordinal_day()),
    "hour": _part(lambda e: e.dt.hour(), "clock"),
    "minute": _part(lambda e: e.dt.minute(), "clock"),
    "second": _part(lambda e: e.dt.second(), "clock"),
}

FUNCTIONS: dict[str, Function] = {
    **_PARTS,
    "abs": Function("number", _abs),
    "round": Function("number, 'int'?", _round),
    "sign": Function("number", _sign),
    "floor": _float(lambda e: e.floor()),
    "ceil": _float(lambda e: e.ceil()),
    "sqrt": _float(lambda e: e.sqrt()),
    "ln": _float(lambda e: e.log()),
    "log": _float(lambda e: e.log10()),
    "log10": _float(lambda e: e.log10()),
    "log2": _float(lambda e: e.log(2)),
    "exp": _float(lambda e: e.exp()),
    "pow": Function("float, float", lambda x, y: Typed(x.expr.pow(y.expr), FLOAT)),
    "mod": Function("number, number", lambda x, y: _arithmetic("%", x, y)),
    "isnan": _float(lambda e: e.is_nan(), BOOL),
    "isinf": _float(lambda e: e.is_infinite(), BOOL),
    "isfinite": _float(lambda e: e.is_finite(), BOOL),
    "lower": _text(lambda s: s.str.to_lowercase()),
    "upper": _text(lambda s: s.str.to_uppercase()),
    "reverse": _text(lambda s: s.str.reverse()),
    "length": _text(lambda s: s.str.len_chars(), dtype=INT),
    "trim": _strip(""),
    "ltrim": _strip("_start"),
    "rtrim": _strip("_end"),
    "substring": _text(_substring, "string, int, int?"),
    "left": _text(lambda s, n: s.str.head(n), "string, int"),
    "right": _text(lambda s, n: s.str.tail(n), "string, int"),
    "replace": _text(lambda s, a, b: s.str.replace_all(a, b, literal=True) if a else s, "string, 'string', string"),
    "concat": Function("scalar, ...", _concat),
    "concat_ws": Function("'string', scalar, ...", lambda by, *args: _concat(*args, separator=by)),
    "starts_with": _text(lambda s, p: s.str.starts_with(p), "string, string", BOOL),
    "ends_with": _text(lambda s, p: s.str.ends_with(p), "string, string", BOOL),
    "contains": _text(lambda s, p: s.str.contains(p, literal=True), "string, string", BOOL),
    "strpos": _text(_strpos, "string, string", INT),
    "split_part": _text(_split_part, "string, string, int"),
    "lpad": _text(lambda s, n, c: _pad(s, n, c, True), "string, 'int', 'string'"),
    "rpad": _text(lambda s, n, c: _pad(s, n, c, False), "string, 'int', 'string'"),
    "regexp_matches": _text(lambda s, p, o="": s.str.contains(_pattern(p, o)), "string, 'string', 'string'?", BOOL),
    "regexp_replace": _text(_regexp_replace, "string, 'string', 'string', 'string'?"),
    "regexp_extract": _text(_regexp_extract, "string, 'string', 'int'?"),
    "date_trunc": Function("'string', moment", _date_trunc),
    "date_diff": Function("'string', moment, moment", _date_diff),
    "strftime": Function("moment, 'string'", lambda x, f: Typed(x.expr.dt.strftime(_format(f)), STRING)),
    "strptime": _strptime(True),
    "try_strptime": _strptime(False),
    "date": Function("scalar", lambda x: _cast(x, DATE, True)),
    "coalesce": Function("scalar, ...", _coalesce),
    "ifnull": Function("scalar, scalar", _coalesce),
    "nullif": Function("scalar, scalar", _nullif),
    "greatest": _extreme(">="),
    "least": _extreme("<="),
}
_ALIASES = {
    "power": "pow",
    "ceiling": "ceil",
    "substr": "substring",
    "datediff": "date_diff",
    "datetrunc": "date_trunc",
    "len": "length",
}
FUNCTIONS |= {alias: FUNCTIONS[name] for alias, name in _ALIASES.items()}
_SPECIAL = ("if", "cast", "try_cast", "extract")
# Calls that a value can make fail.
_FALLIBLE = {"abs", "round", "strptime", "date"}

_ARITHMETIC = {exp.Add: "+", exp.Sub: "-", exp.Mul: "*", exp.Div: "/", exp.IntDiv: "//", exp.Mod: "%"}
_COMPARISONS = {
    **{exp.EQ: "=", exp.NEQ: "<>", exp.LT: "<", exp.LTE: "<=", exp.GT: ">", exp.GTE: ">="},
    **{exp.NullSafeEQ: "same", exp.NullSafeNEQ: "other"},
}
_SQL_TYPES = {
    **{"BOOLEAN": "boolean", "TINYINT": "int8", "SMALLINT": "int16", "INT": "int32", "BIGINT": "int64"},
    **{"UTINYINT": "uint8", "USMALLINT": "uint16", "UINT": "uint32", "UBIGINT": "uint64", "FLOAT": "float32"},
    **{"DOUBLE": "float64", "TEXT": "string", "VARCHAR": "string", "DATE": "date", "TIME": "time"},
    **{
        "TIMESTAMP": "datetime",
        "TIMESTAMPNTZ": "datetime",
        "TIMESTAMP_MS": "datetime[ms]",
        "TIMESTAMP_NS": "datetime[ns]",
    },
}


# --- Binding ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Binder:
    schema: Schema
    on_aggregate: OnAggregate | None
    inside: str = ""  # the aggregate whose argument is bound
    guard: pl.Expr | None = None  # the rows for which the value is wanted

    def bind(self, node: exp.Expr) -> Typed:
        try:
            return self._bind(node)
        except ExpressionError as error:
            if error.offset is None and (offset := _offset(node)) is not None:
                raise ExpressionError(error.message, error.remedy, offset) from None
            raise

    def _bind(self, node: exp.Expr) -> Typed:
        bind, kind = self.bind, type(node)
        if isinstance(node, exp.Paren):
            return bind(node.this)
        if isinstance(node, exp.Column):
            return self._column(node)
        if isinstance(node, exp.Literal):
            return _literal(node)
        if isinstance(node, exp.Null):
            return Typed(pl.lit(None), NULL)
        if isinstance(node, exp.Boolean):
            return Typed(pl.lit(bool(node.this)), BOOL)
        if kind in _ARITHMETIC:
            op, left, right = _ARITHMETIC[kind], node.this, node.expression
            if op == "+" and isinstance(left, exp.Interval):
                left, right = right, left
            if op in "+-" and isinstance(right, exp.Interval):
                return _shift(op, bind(left), right)
            return _arithmetic(op, bind(left), bind(right))
        if kind in _COMPARISONS:
            return _compare(_COMPARISONS[kind], bind(node.this), bind(node.expression))
        if isinstance(node, exp.Neg):
            return self._negative(node)
        if isinstance(node, exp.Pow):
            return _call("pow", [bind(node.this), bind(node.expression)], _offset(node))
        if isinstance(node, (exp.And, exp.Or)):
            a, b = self._truth(node.this), self._truth(node.expression)
            return Typed(a & b if isinstance(node, exp.And) else a | b, BOOL)
        if isinstance(node, exp.Not):
            return Typed(~self._truth(node.this), BOOL)
        if isinstance(node, exp.Is):
            if isinstance(node.expression, exp.Null):
                return Typed(bind(node.this).expr.is_null(), BOOL)
            return _compare("same", Typed(self._truth(node.this), BOOL), bind(node.expression))
        if isinstance(node, exp.In) and node.expressions:
            value = bind(node.this)
            return Typed(pl.any_horizontal([_compare("=", value, bind(e)).expr for e in node.expressions]), BOOL)
        if isinstance(node, exp.Between):
            value = bind(node.this)
            low, high = _compare(">=", value, bind(node.args["low"])), _compare("<=", value, bind(node.args["high"]))
            return Typed(low.expr & high.expr, BOOL)
        if isinstance(node, exp.Escape) and len(node.expression.name) == 1:
            return self._like(node.this, node.expression.name)
        if isinstance(node, (exp.Like, exp.ILike)):
            return self._like(node)
        if isinstance(node, exp.DPipe):
            return self._pipe(bind(node.this), bind(node.expression))
        if isinstance(node, exp.Cast):  # TryCast is one
            return self._to_type(node)
        if isinstance(node, exp.Extract):
            return self._extract(node)
        if isinstance(node, exp.Case):
            return self._case(node.this, node.args["ifs"], node.args.get("default"))
        if isinstance(node, exp.If):
            return self._case(None, [node], node.args.get("false"))
        if isinstance(node, exp.Anonymous):
            return self._function(node)
        if isinstance(node, exp.Interval):
            raise ExpressionError("INTERVAL is only for adding to and subtracting from a date or datetime")
        raise ExpressionError(f"{node.sql('duckdb')} is not possible in an expression")

    def _column(self, node: exp.Column) -> Typed:
        name, offset = node.name, _offset(node)
        if node.table:
            raise ExpressionError(f"{node.sql('duckdb')} has a dot: there are no tables here", QUOTES, offset)
        if name not in self.schema:
            near = [c for c in self.schema if c.lower() == name.lower()]
            remedy = f"did you mean {near[0]!r}?" if near else did_you_mean(name, self.schema)
            if any(quote(c) != c and name in c.split() for c in self.schema):
                remedy = f"{remedy}; {QUOTES}"
            raise ExpressionError(f"unknown column {name!r}", remedy, offset)
        if self.on_aggregate and not self.inside:
            raise ExpressionError(
                f"column {name!r} has many values here", "put it under `by` or in an aggregate function", offset
            )
        column = pl.col(name)
        return Typed(column if self.guard is None else pl.when(self.guard).then(column), self.schema[name])

    def _negative(self, node: exp.Neg) -> Typed:
        if isinstance(node.this, exp.Literal) and not node.this.is_string:
            return _literal(node.this, "-", _offset(node))
        value = self.bind(node.this)
        if value.dtype.is_float() or _kind(value.dtype) in ("decimal", "duration"):
            return Typed(-value.expr, value.dtype)
        return _arithmetic("-", Typed(pl.lit(0, dtype=INT), INT), value)

    def _truth(self, node: exp.Expr) -> pl.Expr:
        value = self.bind(node)
        if value.dtype not in (BOOL, NULL):
            raise ExpressionError(
                f"a boolean is wanted, not {dtype_name(value.dtype)}", "compare it with something", _offset(node)
            )
        return _to(value, BOOL)

    def _like(self, node: exp.Expr, escape: str = "") -> Typed:
        if not isinstance(node, (exp.Like, exp.ILike)):
            raise ExpressionError("ESCAPE belongs to LIKE")
        found = _like(self.bind(node.this), self.bind(node.expression), isinstance(node, exp.ILike), escape)
        return Typed(~found.expr, BOOL) if node.args.get("negate") else found

    def _pipe(self, a: Typed, b: Typed) -> Typed:
        if "string" not in (kinds := {_kind(a.dtype), _kind(b.dtype)}) and "null" not in kinds:
            raise ExpressionError(
                f"|| takes strings, not {dtype_name(a.dtype)} and {dtype_name(b.dtype)}", "CAST one to VARCHAR"
            )
        return Typed(pl.concat_str([_cast(x, STRING, True).expr for x in (a, b)]), STRING)

    def _to_type(self, node: exp.Cast) -> Typed:
        to, strict = node.to, not isinstance(node, exp.TryCast)
        if to.this.name == "DECIMAL":
            precision = ",".join(e.name for e in to.expressions) if to.expressions else "18,3"
            name = f"decimal({precision if ',' in precision else precision + ',0'})"
        else:
            name = _SQL_TYPES.get(to.this.name) or str(to.args.get("kind", ""))
        dtype = parse_dtype(name)
        if dtype is None:
            names = [*(n for n in _SQL_TYPES), "DECIMAL"]
            raise ExpressionError(f"unknown type {to.sql('duckdb')}", did_you_mean(to.sql("duckdb"), names))
        value = self.bind(node.this)
        if strict and isinstance(value, _Constant) and value.dtype == STRING and dtype in (DATE, TIME, DATETIME):
            read = _read(value, dtype)
            return Typed(_to(read, dtype), dtype)
        return _cast(value, dtype, strict)

    def _extract(self, node: exp.Extract) -> Typed:
        name, value = node.this.name.lower(), self.bind(node.expression)
        name = {"dow": "dayofweek", "doy": "dayofyear"}.get(name, name)
        if name == "epoch" and _kind(value.dtype) in MOMENT:
            return Typed(_to(value, DATETIME if value.dtype == DATE else value.dtype).dt.epoch("us") / 1e6, FLOAT)
        if name not in _PARTS:
            raise ExpressionError(f"cannot extract {name!r}", did_you_mean(name, [*_PARTS, "epoch"]))
        return _call(name, [value], _offset(node))

    def _case(self, subject: exp.Expr | None, ifs: list[exp.If], default: exp.Expr | None) -> Typed:
        matches: list[pl.Expr] = []
        values: list[Typed] = []
        rest = pl.lit(True)
        for branch in ifs:
            if subject is None:
                found = self._guarded(branch.this, rest)._truth(branch.this)
            else:
                found = _compare("=", self.bind(subject), self.bind(branch.this)).expr
            matches.append(found)
            wanted = branch.args["true"]
            values.append(self._guarded(wanted, rest & found).bind(wanted))
            rest = rest & ~found.fill_null(False)
        values.append(self._guarded(default, rest).bind(default) if default else Typed(pl.lit(None), NULL))
        values, common = _unify(values, "combine")
        result = _to(values[-1], common)
        for found, value in zip(reversed(matches), reversed(values[:-1]), strict=True):
            result = pl.when(found).then(_to(value, common)).otherwise(result)
        return Typed(result, common)

    def _guarded(self, node: exp.Expr, wanted: pl.Expr) -> _Binder:
        """Polars computes every branch for every row: one that can fail reads nulls where it is not wanted."""
        if not any(_can_fail(n) for n in node.walk()) or (self.on_aggregate and not self.inside):
            return self
        return replace(self, guard=wanted if self.guard is None else self.guard & wanted)

    def _function(self, node: exp.Anonymous) -> Typed:
        name, offset = node.name.lower(), _offset_of_call(node)
        if name in AGGREGATES:
            return self._aggregate(name, node, offset)
        if name == "date_part" and len(node.expressions) == 2:
            return self._extract(exp.Extract(this=exp.var(node.expressions[0].name), expression=node.expressions[1]))
        return _call(name, [self.bind(a) for a in node.expressions], offset)

    def _aggregate(self, name: str, node: exp.Anonymous, offset: int | None) -> Typed:
        if self.on_aggregate is None:
            raise ExpressionError(f"{name}(...) is an aggregate; use it in an aggregate step", "", offset)
        if self.inside:
            raise ExpressionError(f"{name}(...) is inside of {self.inside}(...): aggregates do not nest", "", offset)
        arguments: Iterable[exp.Expr] = node.expressions
        distinct = len(node.expressions) == 1 and isinstance(node.expressions[0], exp.Distinct)
        if distinct:
            arguments = node.expressions[0].expressions
        arguments = list(arguments)
        if name == "count" and (not arguments or isinstance(arguments[0], exp.Star)):
            return self.on_aggregate("count", None, False)
        if len(arguments) != 1:
            raise ExpressionError(f"{name} takes one argument, not {len(arguments)}", "", offset)
        argument = replace(self, inside=name, guard=None).bind(arguments[0])
        try:
            return self.on_aggregate(AGGREGATES[name], Typed(argument.expr, argument.dtype), distinct)
        except ExpressionError as error:
            raise ExpressionError(
                error.message, error.remedy, offset if error.offset is None else error.offset
            ) from None


def _offset_of_call(node: exp.Expr) -> int | None:
    start: int | None = node.meta.get("start")
    return start


def _can_fail(node: exp.Expr) -> bool:
    if isinstance(node, exp.Anonymous):
        return node.name.lower() in _FALLIBLE
    return isinstance(node, (exp.Add, exp.Sub, exp.Mul, exp.IntDiv, exp.Neg, exp.Cast)) and not isinstance(
        node, exp.TryCast
    )


def _literal(node: exp.Literal, sign: str = "", offset: int | None = None) -> _Constant:
    offset = node.meta.get("start") if offset is None else offset
    if node.is_string:
        return _Constant(pl.lit(node.name, dtype=STRING), STRING, node.name, offset)
    text = sign + node.name.replace("_", "")
    if not re.fullmatch(r"-?\d+", text):
        return _Constant(pl.lit(float(text), dtype=FLOAT), FLOAT, float(text), offset)
    if not -(2**63) <= (value := int(text)) < 2**63:
        raise ExpressionError(f"{text} does not fit into int64", "write it with a decimal point, as a float64", offset)
    return _Constant(pl.lit(value, dtype=INT), INT, value, offset)
