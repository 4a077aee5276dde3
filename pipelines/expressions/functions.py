"""The table of functions: what each takes and what it builds."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable

import polars as pl
from msgspec import Struct

from pipelines.errors import did_you_mean
from pipelines.expressions.operators import UNITS, arithmetic, compare, days, divided
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
    cast,
    kind,
    placed,
    to,
    unify,
)
from pipelines.types import dtype_name

Builder = Callable[..., Typed]


class Function(Struct, frozen=True):
    """`takes`: kinds of arguments; `?` may be left out, `'...'` must be a literal, `...` repeats the last one."""

    takes: str
    build: Builder
    fallible: bool = False
    """Whether a value can make it fail."""


# What an argument of a kind is cast to; the kinds that are not here keep their type.
_ACCEPTS: dict[str, tuple[set[str], pl.DataType | None]] = {
    "number": (NUMBER, None),
    "float": (NUMBER, FLOAT),
    "int": ({"int"}, INT),
    "string": ({"string"}, STRING),
    "moment": (MOMENT, None),
    "clock": ({"datetime", "time"}, None),
    "span": (MOMENT | {"duration"}, None),
    "scalar": (SCALAR, None),
}
_NULL_AS = {"number": FLOAT, "moment": DATETIME, "clock": DATETIME, "span": DATETIME, "scalar": NULL}
_WORDS = {
    **{"moment": "date or datetime", "clock": "datetime or time", "span": "date, datetime or duration"},
    **{"scalar": "any value", "float": "number"},
}


def call(name: str, args: list[Typed], offset: int | None) -> Typed:
    function = FUNCTIONS.get(name)
    if function is None:
        raise ExpressionError(f"unknown function {name!r}", nearest(name), offset)
    takes = function.takes.split(", ") if function.takes else []
    if takes and takes[-1] == "...":
        takes = takes[:-1] + takes[-2:-1] * max(1 + len(args) - len(takes), 0)
    least = sum(not t.endswith("?") for t in takes)
    ready: list[object] = []
    good = least <= len(args) <= len(takes)
    for wants, arg in zip(takes, args, strict=False):
        literal, word = wants.startswith("'"), wants.strip("?'")
        accepted, wanted = _ACCEPTS[word]
        if literal:
            good &= isinstance(arg, Constant) and kind(arg.dtype) in accepted
            ready.append(arg.value if isinstance(arg, Constant) else None)
        elif arg.dtype == NULL:
            dtype = wanted or _NULL_AS[word]
            ready.append(Typed(arg.expr.cast(dtype), dtype))
        else:
            good &= kind(arg.dtype) in accepted
            ready.append(Typed(to(arg, wanted), wanted) if good and wanted else arg)
    if not good:
        got = ", ".join(dtype_name(a.dtype) for a in args)
        raise ExpressionError(f"{name}({got}) is not possible", f"{name} takes {_describe(function.takes)}", offset)
    try:
        return function.build(*ready)
    except ExpressionError as error:
        raise error.at(offset) from None


def _describe(takes: str) -> str:
    words = []
    for word in takes.split(", ") if takes else []:
        bare = word.strip("?'")
        words.append(
            _WORDS.get(bare, bare) + (" literal" if "'" in word else "") + (" (optional)" if "?" in word else "")
        )
    return f"({', '.join(words)})"


# --- Numbers ------------------------------------------------------------------------------------------------------------


def _float(f: Callable[[pl.Expr], pl.Expr], dtype: pl.DataType = FLOAT) -> Function:
    return Function("float", lambda x: Typed(f(x.expr), dtype))


def _whole(f: Callable[[pl.Expr], pl.Expr]) -> Function:
    """floor, ceil, trunc: of a decimal a decimal, of anything else a float."""

    def build(x: Typed) -> Typed:
        if kind(x.dtype) != "decimal":
            return Typed(f(to(x, FLOAT)), FLOAT)
        return Typed(f(to(x, _digits(x.dtype, 38))).cast(_digits(x.dtype, 0)), _digits(x.dtype, 0))

    return Function("number", build)


def _digits(dtype: pl.DataType, digits: int) -> pl.DataType:
    """What a rounded value is: rounding up can take one digit more before the point."""
    return pl.Decimal(38, max(min(dtype.scale, digits), 0)) if isinstance(dtype, pl.Decimal) else dtype


def _abs(x: Typed) -> Typed:
    return Typed(x.expr.cast(WIDE).abs().cast(x.dtype) if x.dtype.is_integer() else x.expr.abs(), x.dtype)


def _round(x: Typed, digits: int = 0) -> Typed:
    if abs(digits) > 18:
        raise ExpressionError("round takes from -18 to 18 digits", "round to fewer")
    if digits >= 0:
        if x.dtype.is_integer():
            return x
        dtype = _digits(x.dtype, digits)
        return Typed(to(x, _digits(x.dtype, 38)).round(digits, mode="half_away_from_zero").cast(dtype), dtype)
    scale = 10**-digits
    if x.dtype.is_integer():
        wide = x.expr.cast(WIDE)
        return Typed(((wide.abs() + scale // 2) // scale * scale * wide.sign()).cast(x.dtype), x.dtype)
    if isinstance(x.dtype, pl.Decimal):
        dtype, places = _digits(x.dtype, 0), x.dtype.scale - digits
        if places > 38:
            return Typed(pl.when(x.expr.is_not_null()).then(pl.lit(0, dtype)), dtype)
        whole = x.expr.to_physical()
        wide = (whole.abs() + 10**places // 2) // pl.lit(10**places, WIDE) * scale * whole.sign()
        return Typed(wide.cast(dtype), dtype)
    rounded = divided(x.expr.cast(FLOAT), pl.lit(float(scale))).round(0, mode="half_away_from_zero") * scale
    return Typed(rounded.cast(_digits(x.dtype, 0)), _digits(x.dtype, 0))


def _sign(x: Typed) -> Typed:
    e = x.expr.cast(FLOAT)
    return Typed(pl.when(e.is_nan()).then(0).otherwise(e.sign()).cast(INT), INT)


def _log(x: Typed, y: Typed | None = None) -> Typed:
    return Typed(x.expr.log10() if y is None else divided(y.expr.log(), x.expr.log()), FLOAT)


def _pow(x: Typed, y: Typed) -> Typed:
    # Polars takes a root for the exponent 0.5: NaN of -inf, -0.0 of -0.0
    root = (y.expr == 0.5) & ((x.expr == -math.inf) | (x.expr == 0.0))
    return Typed(pl.when(root).then(x.expr.abs()).otherwise(x.expr.pow(y.expr)), FLOAT)


# --- Text ---------------------------------------------------------------------------------------------------------------


def _text(f: Callable[..., pl.Expr], takes: str = "string", dtype: pl.DataType = STRING) -> Function:
    def build(*args: Typed | str | int) -> Typed:
        of = [a.expr if isinstance(a, Typed) else a for a in args]
        first, *others = of
        rows = [e for e in others if isinstance(e, pl.Expr) and e.meta.root_names()]
        if rows and isinstance(first, pl.Expr) and not first.meta.root_names():
            # Polars wants a column there, not a single text; where another argument is NULL so is the result
            first = pl.when(pl.all_horizontal(e.is_not_null() for e in rows)).then(first)
        result = f(first, *others)
        return Typed(result.cast(dtype) if dtype == INT else result, dtype)

    return Function(takes, build)


def _substring(s: pl.Expr, start: pl.Expr, length: pl.Expr | None = None) -> pl.Expr:
    size = s.str.len_chars().cast(INT)
    start = start.clip(-(2**40), 2**40)
    begin = pl.when(start < 0).then(size + start).otherwise(start - 1)
    end = size if length is None else begin + length.clip(-(2**40), 2**40)
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


def _replace(s: pl.Expr, old: str, new: pl.Expr) -> pl.Expr:
    replaced = s.str.split(old).list.join(new, ignore_nulls=False) if old else s
    return pl.when(s.is_not_null() & new.is_not_null()).then(replaced)


def _split_part(s: pl.Expr, by: pl.Expr, n: pl.Expr) -> pl.Expr:
    index = pl.when(n > 0).then(n - 1).when(n < 0).then(n)
    found = s.str.split(by).list.get(index, null_on_oob=True).fill_null("")
    return pl.when(s.is_not_null() & by.is_not_null() & n.is_not_null()).then(found)


def _pad(s: pl.Expr, n: int, fill: str, left: bool) -> pl.Expr:
    if not fill or not 0 <= n <= 10_000:
        raise ExpressionError(
            "padding takes a length from 0 to 10000 and at least one character", "write lpad(s, 8, '0')"
        )
    cut = s.str.head(n)
    padding = pl.lit(fill * (n // len(fill) + 1)).str.head(pl.lit(n) - cut.str.len_chars().cast(INT))
    return pl.concat_str([padding, cut] if left else [cut, padding])


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
        groups = len(pl.Series([""]).str.extract_groups(regex + "()").struct.fields) - 1
        pl.Series([""]).str.contains(regex)
    except pl.exceptions.PolarsError as error:
        reason = str(error).strip().splitlines()[-1].removeprefix("error: ")
        raise ExpressionError(
            f"the regular expression {pattern!r} is wrong: {reason}", "a backslash before a sign takes it literally"
        ) from None
    if not 0 <= group <= groups:
        raise ExpressionError(
            f"the regular expression {pattern!r} has no group {group}", "a group stands in (brackets)"
        )
    return regex


def _regexp_replace(s: pl.Expr, pattern: str, new: str, options: str = "") -> pl.Expr:
    regex = _pattern(pattern, options, max(map(int, re.findall(r"\\(\d)", new)), default=0))
    template = re.sub(r"\\(\d)", r"${\1}", new.replace("$", "$$"))
    return s.str.replace_all(regex, template) if "g" in options else s.str.replace(regex, template)


def _regexp_extract(s: pl.Expr, pattern: str, group: int = 0) -> pl.Expr:
    return pl.when(s.is_not_null()).then(s.str.extract(_pattern(pattern, "", group), group).fill_null(""))


def _concat(*args: Typed, separator: str = "") -> Typed:
    return Typed(
        pl.concat_str([cast(a, STRING, True).expr for a in args], separator=separator, ignore_nulls=True), STRING
    )


# --- Dates --------------------------------------------------------------------------------------------------------------


def _part(f: Callable[[pl.Expr], pl.Expr], takes: str = "moment") -> Function:
    return Function(takes, lambda x: Typed(f(x.expr).cast(INT), INT))


def _unit(unit: str) -> str:
    name = unit.lower().removesuffix("s")
    if name not in UNITS:
        raise ExpressionError(f"unknown unit {unit!r}", did_you_mean(name, UNITS))
    return name


def _date_trunc(unit: str, x: Typed) -> Typed:
    dtype = x.dtype if isinstance(x.dtype, pl.Datetime) else DATETIME
    name = _unit(unit)
    every, e = f"1{UNITS[name]}", to(x, dtype)
    if name in ("day", "week", "month", "quarter", "year") and dtype.time_zone not in (None, "UTC"):
        # one beginning of the day, also where clocks show midnight twice or never
        return Typed(placed(e.dt.replace_time_zone(None).dt.truncate(every), dtype), dtype)
    return Typed(e.dt.truncate(every), dtype)


def _date_diff(unit: str, a: Typed, b: Typed) -> Typed:
    """How many borders of the unit lie between; weeks are whole ones, as in DuckDB."""
    (a, b), common = unify([a, b], "subtract")
    name = _unit(unit)

    def count(e: pl.Expr) -> pl.Expr:
        if name in ("year", "quarter", "month"):
            per = {"year": 1, "quarter": 4, "month": 12}[name]
            within: pl.Expr = {"year": pl.lit(0), "quarter": e.dt.quarter(), "month": e.dt.month()}[name]
            return e.dt.year().cast(INT) * per + within.cast(INT)
        if name in ("day", "week"):
            return days(Typed(e if common == DATE else e.dt.date(), DATE))
        e = e.cast(DATETIME) if common == DATE else e
        if name in ("hour", "minute", "second"):
            return e.dt.truncate(f"1{UNITS[name]}").dt.epoch("s")  # of instants: clocks that are changed take no time
        return e.dt.epoch("ms" if name == "millisecond" else "us")

    between = count(to(b, common)) - count(to(a, common))
    per = {"week": 7, "hour": 3600, "minute": 60}.get(name, 1)
    return Typed(between.abs() // per * between.sign(), INT)


def _epoch(per: int, dtype: pl.DataType) -> Function:
    def build(x: Typed) -> Typed:
        e = x.expr.cast(DATETIME) if x.dtype == DATE else x.expr
        micros = e.dt.total_microseconds() if kind(x.dtype) == "duration" else e.dt.epoch("us")
        return Typed(
            divided(micros.cast(FLOAT), pl.lit(1e6))
            if dtype == FLOAT
            else ((micros.abs() + per // 2) // per * micros.sign()).cast(INT),
            dtype,
        )

    return Function("span", build)


def _make_date(y: Typed, m: Typed, d: Typed) -> Typed:
    text = pl.concat_str([e.expr.cast(STRING) for e in (y, m, d)], separator="-")
    return cast(Typed(text, STRING), DATE, True)


def _format(text: str) -> str:
    """DuckDB's format as Polars': the directives that mean the same in both, and the two that are spelled differently."""
    for directive in re.findall(r"%(-?.|$)", text, re.DOTALL):
        if not re.fullmatch(r"-?[YymdHIMSpjaAbB]|[fg%]", directive):
            raise ExpressionError(
                f"unknown format directive '%{directive}'", "known: %Y %y %m %d %H %I %M %S %f %g %p %j %a %A %b %B"
            )
    return re.sub(r"%([fg%])", lambda m: {"f": "%6f", "g": "%3f", "%": "%%"}[m[1]], text)


def _strftime(x: Typed, text: str) -> Typed:
    return Typed((x.expr.cast(DATETIME) if x.dtype == DATE else x.expr).dt.strftime(_format(text)), STRING)


def _strptime(strict: bool) -> Function:
    def build(s: Typed, text: str) -> Typed:
        said = set(re.findall(r"%-?(.)", text.replace("%%", "")))
        if not (said & set("Yy") and ("j" in said or (said & set("mbB") and "d" in said))):
            raise ExpressionError(f"the format {text!r} leaves the day open", "it takes a year, a month and a day")
        return Typed(s.expr.str.to_datetime(_format(text), time_unit="us", strict=strict), DATETIME)

    return Function("string, 'string'", build, fallible=strict)


# --- Any type -----------------------------------------------------------------------------------------------------------


def _coalesce(*args: Typed) -> Typed:
    items, common = unify(args, "combine")
    values = list[pl.Expr]()
    for item in items:
        values.append(to(item, common))
        if item.expr.meta.is_literal():  # of a literal before a column, Polars takes the length, 1, for the table's
            if pl.select(item.expr).item() is not None:
                break
            values.pop()
    return Typed(pl.coalesce(values) if values else pl.lit(None, common), common)


def _nullif(a: Typed, b: Typed) -> Typed:
    return Typed(pl.when(compare("=", a, b).expr.fill_null(False)).then(None).otherwise(a.expr).cast(a.dtype), a.dtype)


def _extreme(op: str) -> Function:
    def build(*args: Typed) -> Typed:
        items, common = unify(args, "compare")
        best, *others = (Typed(to(i, common), common) for i in items)
        for other in others:  # Polars' max_horizontal passes over NaN, which is the greatest for DuckDB
            keep = compare(op, best, other).expr.fill_null(False) | other.expr.is_null()
            best = Typed(pl.when(keep).then(best.expr).otherwise(other.expr), common)
        return best

    return Function("scalar, ...", build)


# --- The table ----------------------------------------------------------------------------------------------------------

PARTS: dict[str, Function] = {
    "year": _part(lambda e: e.dt.year()),
    "quarter": _part(lambda e: e.dt.quarter()),
    "month": _part(lambda e: e.dt.month()),
    "week": _part(lambda e: e.dt.week()),
    "day": _part(lambda e: e.dt.day()),
    "isoyear": _part(lambda e: e.dt.iso_year()),
    "dayofweek": _part(lambda e: e.dt.weekday() % 7),
    "isodow": _part(lambda e: e.dt.weekday()),
    "dayofyear": _part(lambda e: e.dt.ordinal_day()),
    "hour": _part(lambda e: e.dt.hour(), "clock"),
    "minute": _part(lambda e: e.dt.minute(), "clock"),
    "second": _part(lambda e: e.dt.second(), "clock"),
    "millisecond": _part(lambda e: e.dt.second().cast(INT) * 1000 + e.dt.millisecond(), "clock"),
    "microsecond": _part(lambda e: e.dt.second().cast(INT) * 1_000_000 + e.dt.microsecond(), "clock"),
    "epoch": _epoch(1, FLOAT),
}

FUNCTIONS: dict[str, Function] = {
    **PARTS,
    "abs": Function("number", _abs, fallible=True),
    "round": Function("number, 'int'?", _round, fallible=True),
    "sign": Function("number", _sign),
    "floor": _whole(lambda e: e.floor()),
    "ceil": _whole(lambda e: e.ceil()),
    "trunc": _whole(lambda e: e.truncate()),
    "sqrt": _float(lambda e: e.sqrt()),
    "cbrt": _float(lambda e: e.cbrt()),
    "ln": _float(lambda e: e.log()),
    "log": Function("float, float?", _log),
    "log10": _float(lambda e: e.log10()),
    "log2": _float(lambda e: e.log(2)),
    "exp": _float(lambda e: e.exp()),
    "pow": Function("float, float", _pow),
    "mod": Function("number, number", lambda x, y: arithmetic("%", x, y), fallible=True),
    "sin": _float(lambda e: e.sin()),
    "cos": _float(lambda e: e.cos()),
    "tan": _float(lambda e: e.tan()),
    "degrees": _float(lambda e: e.degrees()),
    "radians": _float(lambda e: e.radians()),
    "asin": _float(lambda e: e.arcsin()),
    "acos": _float(lambda e: e.arccos()),
    "atan": _float(lambda e: e.arctan()),
    "atan2": Function("float, float", lambda y, x: Typed(pl.arctan2(y.expr, x.expr), FLOAT)),
    "pi": Function("", lambda: Typed(pl.lit(3.141592653589793), FLOAT)),
    "isnan": _float(lambda e: e.is_nan(), BOOL),
    "isinf": _float(lambda e: e.is_infinite(), BOOL),
    "isfinite": _float(lambda e: e.is_finite(), BOOL),
    "lower": _text(lambda s: s.str.to_lowercase()),
    "upper": _text(lambda s: s.str.to_uppercase()),
    "reverse": _text(lambda s: s.str.reverse()),
    "length": _text(lambda s: s.str.len_chars(), dtype=INT),
    "strlen": _text(lambda s: s.str.len_bytes(), dtype=INT),
    "trim": _strip(""),
    "ltrim": _strip("_start"),
    "rtrim": _strip("_end"),
    "substring": _text(_substring, "string, int, int?"),
    "left": _text(lambda s, n: s.str.head(n), "string, int"),
    "right": _text(lambda s, n: s.str.tail(n), "string, int"),
    "repeat": _text(lambda s, n: pl.when(s.is_not_null()).then(s.repeat_by(n.clip(0)).list.join("")), "string, int"),
    "replace": _text(_replace, "string, 'string', string"),
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
    "regexp_full_match": _text(
        lambda s, p, o="": s.str.contains(rf"\A(?:{_pattern(p, o)})\z"), "string, 'string', 'string'?", BOOL
    ),
    "regexp_replace": _text(_regexp_replace, "string, 'string', 'string', 'string'?"),
    "regexp_extract": _text(_regexp_extract, "string, 'string', 'int'?"),
    "date_trunc": Function("'string', moment", _date_trunc),
    "date_diff": Function("'string', moment, moment", _date_diff),
    "make_date": Function("int, int, int", _make_date, fallible=True),
    "last_day": Function("moment", lambda x: Typed(x.expr.dt.date().dt.month_end() if x.dtype != DATE else x.expr.dt.month_end(), DATE)),
    "monthname": Function("moment", lambda x: Typed(x.expr.dt.strftime("%B"), STRING)),
    "dayname": Function("moment", lambda x: Typed(x.expr.dt.strftime("%A"), STRING)),
    "epoch_ms": _epoch(1000, INT),
    "epoch_us": _epoch(1, INT),
    "strftime": Function("moment, 'string'", _strftime),
    "strptime": _strptime(True),
    "try_strptime": _strptime(False),
    "date": Function("scalar", lambda x: cast(x, DATE, True), fallible=True),
    "coalesce": Function("scalar, ...", _coalesce),
    "ifnull": Function("scalar, scalar", _coalesce),
    "nullif": Function("scalar, scalar", _nullif),
    "greatest": _extreme(">="),
    "least": _extreme("<="),
}  # fmt: skip
_ALIASES = {
    **{"power": "pow", "ceiling": "ceil", "substr": "substring", "len": "length", "instr": "strpos", "prefix": "starts_with"},
    **{"suffix": "ends_with", "datediff": "date_diff", "datetrunc": "date_trunc", "weekofyear": "week", "weekday": "dayofweek"},
}  # fmt: skip
FUNCTIONS |= {alias: FUNCTIONS[name] for alias, name in _ALIASES.items()}
AGGREGATES = {
    **{
        n: n for n in ("count", "sum", "avg", "min", "max", "std", "var", "first", "last", "median", "mode", "quantile")
    },
    **{
        "mean": "avg",
        "stddev": "std",
        "stddev_samp": "std",
        "variance": "var",
        "var_samp": "var",
        "quantile_cont": "quantile",
    },
}
WINDOWS = {
    **dict.fromkeys(("row_number", "rank", "dense_rank", "percent_rank", "cume_dist"), ""),
    **{"ntile": "'int'", "lag": "any, 'int'?, scalar?", "lead": "any, 'int'?, scalar?", "first_value": "any", "last_value": "any"},
}  # fmt: skip
"""Window functions beside the aggregates, and what they take."""
_SPECIAL = ("if", "cast", "try_cast", "extract", "date_part", "date_add")

# --- What people write instead ------------------------------------------------------------------------------------------

_WINDOW = "of other rows: lag(x), x - lag(x), sum(x), avg(x) OVER (ROWS 19 PRECEDING) in a window step"
TODAY = "the answer would change from day to day; put the date into `params` and write DATE '${today}'"
_FOREIGN = {
    **dict.fromkeys(("shift", "diff", "pct_change", "cumsum", "cum_sum", "rolling_mean", "rolling_sum", "moving_average"), _WINDOW),
    **dict.fromkeys(("now", "today", "current_timestamp", "get_current_timestamp", "current_time", "getdate"), TODAY),
    **dict.fromkeys(("random", "rand", "uuid", "gen_random_uuid"), "the answer would change from run to run"),
    **dict.fromkeys(("nvl", "fillna", "fill_null", "isnull", "is_null", "isna", "notnull", "is_not_null", "notna"),
                    "write x IS NULL, x IS NOT NULL or coalesce(x, 0)"),
    **dict.fromkeys(("iif", "iff", "where", "when", "decode"), "write if(condition, a, b) or CASE WHEN condition THEN a ELSE b END"),
    **dict.fromkeys(("int", "integer", "bigint", "float", "double", "str", "string", "varchar", "bool", "astype", "convert",
                     "to_number", "to_numeric", "to_char", "tostring", "to_string"), "write CAST(x AS BIGINT), AS DOUBLE, AS VARCHAR"),
    **dict.fromkeys(("to_date", "parse_date", "todate"), "write CAST(s AS DATE) for 2020-12-31, strptime(s, '%d/%m/%Y') for other forms"),
    **dict.fromkeys(("to_datetime", "to_timestamp", "timestamp"), "write CAST(s AS TIMESTAMP), or strptime(s, '%d/%m/%Y %H:%M')"),
    **dict.fromkeys(("date_sub", "dateadd", "datesub", "add_months", "offset_by"), "write x + INTERVAL 3 DAY or x - INTERVAL 1 MONTH"),
    **dict.fromkeys(("is_in", "isin"), "write x IN ('a', 'b')"),
    **dict.fromkeys(("is_between", "between"), "write x BETWEEN 1 AND 5"),
    **dict.fromkeys(("percentile_cont", "percentile", "approx_quantile", "quantile_disc"), "write quantile(x, 0.9), or median(x)"),
}  # fmt: skip
_SQL_NAMES = {
    **{"to_lowercase": "lower", "lowercase": "lower", "lcase": "lower", "to_uppercase": "upper", "uppercase": "upper"},
    **{"ucase": "upper", "strip": "trim", "strip_chars": "trim", "lstrip": "ltrim", "rstrip": "rtrim", "len_chars": "length"},
    **{"char_length": "length", "startswith": "starts_with", "endswith": "ends_with", "str_contains": "contains"},
    **{"slice": "substring", "mid": "substring", "split": "split_part", "find": "strpos", "position": "strpos"},
    **{"charindex": "strpos", "rlike": "regexp_matches", "regexp_like": "regexp_matches", "match": "regexp_matches"},
    **{"extract_groups": "regexp_extract", "sub": "regexp_replace", "replace_all": "replace", "zfill": "lpad"},
    **{"absolute": "abs", "is_nan": "isnan", "is_infinite": "isinf", "is_finite": "isfinite", "log1p": "ln", "truncate": "date_trunc"},
    **{"max_horizontal": "greatest", "min_horizontal": "least", "maximum": "greatest", "minimum": "least"},
    **{"average": "avg", "n_unique": "count(DISTINCT x)", "nunique": "count(DISTINCT x)", "approx_count_distinct": "count(DISTINCT x)"},
    **{"size": "count(*)", "len_rows": "count(*)", "stdev": "std", "stddev_pop": "std", "var_pop": "var", "weekday_name": "dayname"},
    **{"day_name": "dayname", "month_name": "monthname", "month_end": "last_day", "eomonth": "last_day", "to_timestamp": "strptime"},
    **{"date_format": "strftime", "format_date": "strftime", "any_value": "first", "arbitrary": "first", "ordinal_day": "dayofyear"},
}  # fmt: skip


def nearest(name: str) -> str:
    """What to write instead of a function that is not known."""
    if name in _FOREIGN:
        return _FOREIGN[name]
    if name in _SQL_NAMES:
        return f"in SQL it is {_SQL_NAMES[name]}"
    known = [*FUNCTIONS, *AGGREGATES, *WINDOWS, *_SPECIAL]
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.75)
    return f"did you mean {near[0]!r}?" if near else "all functions are listed in docs/sql.md"
