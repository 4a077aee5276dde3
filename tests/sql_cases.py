"""A table of difficult values in Polars and in DuckDB, and random expressions over it."""

from __future__ import annotations

import datetime as dt
import math
import random
from decimal import Decimal
from typing import Any

import duckdb
import polars as pl
from hypothesis import strategies as st

SCHEMA: dict[str, pl.DataType] = {
    "i": pl.Int64(),
    "k": pl.Int32(),
    "h": pl.Int16(),
    "f": pl.Float64(),
    "e": pl.Float64(),
    "g": pl.Float32(),
    "m": pl.Decimal(10, 2),
    "q": pl.Decimal(12, 4),
    "b": pl.Boolean(),
    "c": pl.Boolean(),
    "s": pl.String(),
    "n": pl.String(),
    "d": pl.Date(),
    "d2": pl.Date(),
    "t": pl.Datetime("us"),
    "t2": pl.Datetime("us"),
    "w": pl.Time(),
}
DUCKDB = "i bigint, k integer, h smallint, f double, e double, g float, m decimal(10,2), q decimal(12,4), b boolean, c boolean, s varchar, n varchar, d date, d2 date, t timestamp, t2 timestamp, w time"
_DATES = [
    dt.date(2024, 2, 29), dt.date(2021, 1, 1), dt.date(2023, 12, 31), dt.date(1970, 1, 1), dt.date(1969, 12, 31),
    dt.date(2024, 1, 31), dt.date(1900, 2, 28), dt.date(2100, 3, 1), dt.date(2020, 12, 28), dt.date(2026, 1, 4),
]  # fmt: skip
_TIMES = [
    dt.datetime(2024, 2, 29, 12, 34, 56, 789012), dt.datetime(1969, 12, 31, 23, 59, 59, 999999), dt.datetime(2023, 12, 31),
    dt.datetime(2000, 1, 1, 0, 0, 1), dt.datetime(2024, 1, 31, 23, 59, 59, 500000), dt.datetime(1900, 3, 31, 6, 7, 8),
]  # fmt: skip
_INTS = [0, 1, -1, 2, -2, 3, 7, -7, 10, 25, -25, 99, 100]
_FLOATS = [
    0.0,
    -0.0,
    1.0,
    -1.0,
    0.5,
    -0.5,
    1.5,
    2.5,
    -2.5,
    2.25,
    3.75,
    100.0,
    1e-3,
    12345.678,
    math.nan,
    math.inf,
    -math.inf,
]
_DECIMALS = [Decimal(v) for v in ("0.00", "1.50", "-2.25", "3.99", "-0.05", "100.00", "7.77", "-7.50")]
_TEXTS = ["", "a", "añb", "a,b,c", "Hello World", "ab ab", "  x ", "line\nbreak", "100%", "a_b", "日本語", "ABC", "-1"]
_NUMERALS = ["0", "12", "-3", " 5 ", "1.5", "1e3", "", "x", "nan", "2024-01-02", "true", "no", "10:30:00", "2024-02-30"]
VALUES: dict[str, list[Any]] = {
    "i": _INTS, "k": _INTS, "h": _INTS, "f": _FLOATS, "e": _FLOATS, "g": [0.0, 0.5, -1.25, 3.0, math.nan, math.inf, 100.0],
    "m": _DECIMALS, "q": [*_DECIMALS, Decimal("0.0001"), Decimal("-1.2345")], "b": [True, False], "c": [True, False],
    "s": _TEXTS, "n": _NUMERALS, "d": _DATES, "d2": _DATES, "t": _TIMES, "t2": _TIMES,
    "w": [dt.time(0), dt.time(12, 34, 56, 789000), dt.time(23, 59, 59)],
}  # fmt: skip
_RANDOM = random.Random(7)
ROWS: list[tuple[Any, ...]] = [
    tuple(None if _RANDOM.random() < 0.12 else _RANDOM.choice(VALUES[name]) for name in SCHEMA) for _ in range(40)
]
FRAME = pl.DataFrame(ROWS, schema=SCHEMA, orient="row")


def connect() -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect()
    connection.execute(f"create table x({DUCKDB})")
    connection.executemany(f"insert into x values ({','.join('?' * len(SCHEMA))})", ROWS)
    return connection


def family(dtype: pl.DataType) -> str:
    if dtype.is_integer():
        return "int"
    if dtype.is_float():
        return "float"
    return type(dtype).__name__.lower()


def duck_family(name: str) -> str:
    name = name.split("(", maxsplit=1)[0]
    if name.strip('"') in (
        "TINYINT",
        "SMALLINT",
        "INTEGER",
        "BIGINT",
        "HUGEINT",
        "UTINYINT",
        "USMALLINT",
        "UINTEGER",
        "UBIGINT",
    ):
        return "int"
    known = {"DOUBLE": "float", "FLOAT": "float", "VARCHAR": "string", "TIMESTAMP": "datetime", "INTERVAL": "duration"}
    return known.get(name, name.strip('"').lower())


def same(a: object, b: object, rel: float = 1e-12) -> bool:
    if isinstance(b, str):
        b = b.replace("-nan", "nan")  # DuckDB writes the sign of a NaN
    if (
        isinstance(a, (float, Decimal))
        and isinstance(b, (float, Decimal))
        and not (isinstance(a, Decimal) and isinstance(b, Decimal))
    ):
        a, b = float(a), float(b)
        return (math.isnan(a) and math.isnan(b)) or a == b or math.isclose(a, b, rel_tol=rel, abs_tol=1e-300)
    return a == b


# --- Random expressions, by the family of their type --------------------------------------------------------------------


def _joined(*parts: st.SearchStrategy[str] | str) -> st.SearchStrategy[str]:
    return st.tuples(*(st.just(p) if isinstance(p, str) else p for p in parts)).map("".join)


def _one(text: str) -> st.SearchStrategy[str]:
    return st.sampled_from(text.split("|"))


def expressions(depth: int = 2) -> dict[str, st.SearchStrategy[str]]:
    ints = _one("i|k|h|3|-2|0|1|null::bigint")
    floats = _one("f|e|g|1.5e0|-2e0|0e0|'nan'::double|null::double")
    decimals = _one("m|q")
    truths = _one("b|c|true|null::boolean")
    texts = _one("s|n|'a'|''|'b,c'|null::varchar")
    dates = _one("d|d2|date '2024-01-31'|null::date")
    stamps = _one("t|t2|timestamp '2024-02-29 10:00:00'|null::timestamp")
    units = _one("year|quarter|month|week|day")
    clock = _one("year|quarter|month|week|day|hour|minute|second")
    for _ in range(depth):
        numbers = st.one_of(ints, floats, ints, floats, decimals)
        alike = [st.tuples(x, x) for x in (ints, floats, decimals, texts, dates, stamps, truths)]
        pair = st.one_of(st.tuples(numbers, numbers), *alike)
        moments = st.one_of(dates, stamps)
        steps = _joined("interval ", _one("1|3|(-2)|(h)"), " ", _one("year|month|week|day|hour|minute"))

        def case(
            x: st.SearchStrategy[str], truths: st.SearchStrategy[str] = truths, pair: Any = pair
        ) -> st.SearchStrategy[str]:
            of = st.one_of(
                _joined("(case when ", truths, " then ", x, " else ", x, " end)"),
                _joined("(case when ", truths, " then ", x, " when ", truths, " then ", x, " end)"),
                _joined(_one("coalesce|greatest|least"), "(", x, ", ", x, ")"),
                _joined("nullif(", x, ", ", x, ")"),
                _joined("if(", truths, ", ", x, ", ", x, ")"),
            )
            return of

        new_ints = st.one_of(
            _joined("(", ints, _one(" + | - | * | // | % "), ints, ")"),
            _joined(_one("abs|-|sign|round"), "(", ints, ")"),
            _joined("sign(", floats, ")"),
            _joined(_one("length|strlen"), "(", texts, ")"),
            _joined("strpos(", texts, ", ", texts, ")"),
            _joined(_one("year|quarter|month|week|day|dayofweek|isodow|dayofyear|isoyear|epoch_ms"), "(", moments, ")"),
            _joined(_one("hour|minute|second|millisecond|microsecond"), "(", stamps, ")"),
            _joined("date_diff('", units, "', ", dates, ", ", dates, ")"),
            _joined("date_diff('", clock, "', ", stamps, ", ", stamps, ")"),
            _joined("(", dates, " - ", dates, ")"),
            _joined("cast(", truths, " as integer)"),
            _joined("try_cast(", st.one_of(floats, decimals), " as ", _one("bigint|integer|tinyint"), ")"),
            case(ints),
        )
        new_floats = st.one_of(
            _joined("(", floats, _one(" + | - | * | / "), st.one_of(floats, ints), ")"),
            _joined("(", _one("f|e|3e0|i"), " % ", _one("f|e|0e0|2.5e0"), ")"),
            _joined("(", numbers, " / ", numbers, ")"),
            _joined(_one("abs|-|floor|ceil|trunc|round|sqrt|exp|ln|log10|cbrt|sin|atan|degrees"), "(", floats, ")"),
            _joined("round(", floats, ", ", _one("1|2|-1"), ")"),
            _joined("pow(", floats, ", ", _one("2|0|-1|0.5e0"), ")"),
            _joined("cast(", st.one_of(ints, decimals), " as double)"),
            _joined("try_cast(", texts, " as double)"),
            _joined("epoch(", moments, ")"),
            case(floats),
        )
        new_decimals = st.one_of(
            _joined("(", decimals, _one(" + | - "), decimals, ")"),
            _joined("(m", _one(" + | - | * "), "h::smallint)"),
            _joined("(m * q)"),
            _joined("(q % m)"),
            _joined(_one("abs|-|floor|ceil|round|trunc"), "(", decimals, ")"),
            _joined("cast(", st.one_of(ints, decimals), " as decimal(18,1))"),
            case(decimals),
        )
        new_truths = st.one_of(
            st.tuples(pair, _one(" = | <> | < | <= | > | >= | is distinct from | is not distinct from ")).map(
                lambda p: f"({p[0][0]}{p[1]}{p[0][1]})"
            ),
            _joined("(", truths, _one(" and | or "), truths, ")"),
            _joined("(not ", truths, ")"),
            _joined("(", st.one_of(ints, floats, texts, dates, truths), _one(" is null| is not null"), ")"),
            _joined("(", truths, _one(" is true| is not true| is false"), ")"),
            *[_joined("(", x, _one(" in | not in "), "(", x, ", ", x, "))") for x in (ints, floats, texts, dates)],
            *[
                _joined("(", x, _one(" between | not between "), x, " and ", x, ")")
                for x in (ints, floats, texts, stamps)
            ],
            _joined(
                "(",
                texts,
                _one(" like | not like | ilike "),
                _one("'a%'|'%b%'|'_'|'%'|''|'A_B'|'100!%%' escape '!'"),
                ")",
            ),
            _joined(_one("starts_with|ends_with|contains"), "(", texts, ", ", texts, ")"),
            _joined("regexp_matches(", texts, ", ", _one("'^a'|'[0-9]+'|'b.$'|'o\\s*W'|''"), ")"),
            _joined(_one("isnan|isinf|isfinite"), "(", floats, ")"),
            _joined("cast(", st.one_of(ints, floats), " as boolean)"),
            _joined("try_cast(", texts, " as boolean)"),
            case(truths),
        )
        new_texts = st.one_of(
            _joined(_one("lower|upper|trim|ltrim|rtrim|reverse"), "(", texts, ")"),
            _joined("substring(", texts, ", ", ints, ")"),
            _joined("substring(", texts, ", ", ints, ", ", ints, ")"),
            _joined(_one("left|right|repeat"), "(", texts, ", ", ints, ")"),
            _joined(_one("lpad|rpad"), "(", texts, ", ", _one("5|0|2"), ", ", _one("'*'|'xy'"), ")"),
            _joined("replace(", texts, ", ", _one("'a'|''|' '|'ab'"), ", ", texts, ")"),
            _joined("split_part(", texts, ", ", _one("','|' '|'b'"), ", ", ints, ")"),
            _joined("(", texts, " || ", st.one_of(texts, ints, truths, dates, stamps, decimals), ")"),
            _joined("concat(", texts, ", ", st.one_of(ints, texts, dates), ", ", texts, ")"),
            _joined("concat_ws('-', ", texts, ", ", ints, ", ", texts, ")"),
            _joined(
                "regexp_replace(",
                texts,
                ", ",
                _one("'[ab]'|'(a)(.)'|'^'"),
                ", ",
                _one("'X'|'\\2\\1'|''"),
                _one("|, 'g'"),
                ")",
            ).filter(lambda t: "\\2" not in t or "(a)(.)" in t),
            _joined("regexp_extract(", texts, ", ", _one("'[a-z]+'|'(a)(.)', 2|'z'"), ")"),
            _joined(
                "strftime(",
                moments,
                ", ",
                _one("'%Y-%m-%d'|'%d/%m/%y %H:%M:%S.%f'|'%j %a %A %b %B %p %I'|'%-d.%-m.'"),
                ")",
            ),
            _joined("cast(", st.one_of(ints, truths, dates, stamps, decimals, _one("w|f|g")), " as varchar)"),
            _joined(_one("monthname|dayname"), "(", moments, ")"),
            case(texts),
        )
        new_dates = st.one_of(
            _joined("(", dates, _one(" + | - "), _one("1|k|40|-3"), ")"),
            _joined("last_day(", moments, ")"),
            _joined("cast(", stamps, " as date)"),
            _joined("try_cast(", _one("s|n|rtrim(n)|reverse(s)"), " as date)"),
            case(dates),
        )
        new_stamps = st.one_of(
            _joined("(", moments, _one(" + | - "), steps, ")"),
            _joined("date_trunc('", clock, "', ", moments, ")"),
            _joined("cast(", dates, " as timestamp)"),
            _joined("try_cast(", _one("s|n|rtrim(n)|reverse(s)"), " as timestamp)"),
            _joined("date_add(", moments, ", ", steps, ")"),
            _joined(
                "try_strptime(", _one("s|n|strftime(d, '%Y-%m-%d')"), ", ", _one("'%Y-%m-%d'|'%d/%m/%Y %H:%M'"), ")"
            ),
            case(stamps),
        )
        ints, floats, decimals, truths = (
            ints | new_ints,
            floats | new_floats,
            decimals | new_decimals,
            truths | new_truths,
        )
        texts, dates, stamps = texts | new_texts, dates | new_dates, stamps | new_stamps
    return {
        "int": ints, "float": floats, "decimal": decimals, "boolean": truths, "string": texts, "date": dates, "datetime": stamps,
    }  # fmt: skip
