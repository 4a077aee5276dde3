"""Expressions mean in Polars what they mean in DuckDB, keep their declared type, and are refused with a place."""

from __future__ import annotations

import datetime as dt
import decimal
import math
import pickle
import re
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pytest
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st

from pipelines.errors import DataError, Place
from pipelines.expressions import ExpressionError, Typed, cast, parse, quote
from pipelines.kernel import collect
from pipelines.source import Node
from pipelines.steps.aggregate import Aggregate
from pipelines.steps.base import Context, Operation, Problems
from pipelines.types import dtype_name
from tests import sql_cases
from tests.sql_cases import connect, duck_family, expressions

SCHEMA: dict[str, pl.DataType] = {
    "i": pl.Int64(),
    "k": pl.Int32(),
    "u": pl.UInt64(),
    "f": pl.Float64(),
    "g": pl.Float32(),
    "m": pl.Decimal(10, 2),
    "b": pl.Boolean(),
    "s": pl.String(),
    "n": pl.String(),
    "d": pl.Date(),
    "t": pl.Datetime("us"),
    "Adj Close": pl.Float64(),
}
ROWS: list[tuple[Any, ...]] = [
    (
        1,
        7,
        1,
        1.5,
        0.5,
        Decimal("1.50"),
        True,
        "añb",
        "12",
        dt.date(2024, 2, 29),
        dt.datetime(2024, 2, 29, 12, 34, 56, 500000),
        2.5,
    ),
    (
        -7,
        -2,
        2**63 + 5,
        -2.5,
        -1.25,
        Decimal("-2.25"),
        False,
        "a,b,c",
        "-3",
        dt.date(2021, 1, 1),
        dt.datetime(1969, 12, 31, 23, 59, 59),
        -0.5,
    ),
    (0, 3, 0, math.nan, 2.0, Decimal("0.00"), None, "", "0", dt.date(2023, 12, 31), dt.datetime(2023, 12, 31), 0.0),
    (
        5,
        0,
        9,
        math.inf,
        3.0,
        Decimal("3.99"),
        True,
        "Hello World",
        "77",
        dt.date(1970, 1, 1),
        dt.datetime(2000, 1, 1, 0, 0, 1),
        1e10,
    ),
    (None, None, None, None, None, None, None, None, None, None, None, None),
    (
        12345,
        1,
        3,
        -math.inf,
        0.0,
        Decimal("7.77"),
        False,
        "line\nbreak",
        " 5 ",
        dt.date(2024, 1, 7),
        dt.datetime(2024, 1, 7, 23),
        4.5,
    ),
]
FRAME = pl.DataFrame(ROWS, schema=SCHEMA, orient="row")

INT = """
i + 1 | i - k | i * k | -i | i // 3 | i // nullif(k, 0) | i % nullif(k, 0) | case when k <> 0 then i // k end | -7 // 2 | -7 % 2 | abs(i) | abs(k) | round(i, -1) | round(k) | sign(i) | sign(f)
length(s) | strpos(s, 'b') | strpos(s, '') | year(d) | quarter(d) | month(d) | week(d) | day(d) | dayofweek(d) | isodow(d) | dayofyear(d)
hour(t) | minute(t) | second(t) | extract(year from t) | date_part('month', d) | date_diff('day', d, date '2024-03-01') | d - date '2020-01-01'
date_diff('month', d, t) | datediff('hour', t, timestamp '2024-01-01 00:00:00') | date_diff('year', t, d) | cast("Adj Close" as bigint) | cast(i as integer)
cast(b as integer) | cast(n as bigint) | try_cast(s as bigint) | cast(m as bigint) | coalesce(i, k, 0) | nullif(i, 0) | ifnull(k, 5) | greatest(i, k, 3) | least(i, null, k)
case when i > 0 then 1 when i < 0 then -1 else 0 end | case i when 1 then 10 when 5 then 50 end | if(b, i, k) | mod(i, 4) | i + null
case when s = '1' then cast(s as bigint) else 0 end | cast('12' as tinyint) | cast(m as integer) | date_diff('quarter', d, t)
"""
FLOAT = """
i / 2 | i / k | f + 1 | f * k | g * g | g + f | f % 2 | -f | m + 1.5 | round(f) | round("Adj Close") | round(f, 1) | round("Adj Close", -2) | floor(f) | ceil(f)
sqrt(f) | ln(f) | log10(f) | log2(f) | log(i) | exp(f) | pow(i, 2) | power(f, 2) | i ** 2 | abs(f) | greatest(f, 1) | least(f, 1) | coalesce(f, i) | cast(i as double)
cast(n as double) | cast(m as double) | 1.5e3 | f - "Adj Close" | case when b then f end | cast(f as float) | m / 2 | extract(epoch from t) | 'nan'::double
"""
BOOL = """
i = 1 | i <> k | i < u | u = -1 | i >= 1.5 | f = f | f > 1 | f = 'nan'::double | s = 'añb' | s < 'b' | d = '2024-02-29' | d > date '2022-01-01' | t >= '2000-01-01' | d < t
b and i > 0 | b or i > 0 | not b | b and null | null or true | i is null | i is not null | b is true | i is distinct from 1 | i is not distinct from null
i in (1, 5) | i not in (1, null) | s in ('', 'añb') | i between 0 and 5 | i not between 0 and 5 | 1 between null and 0 | s like 'a%' | s like '%\\nb%' | s not like '_'
s ilike 'HELLO%' | s like 'a!%' escape '!' | isnan(f) | isinf(f) | isfinite(f) | isnan(i) | starts_with(s, 'a') | ends_with(s, 'c') | contains(s, ',') | regexp_matches(s, '^[a-z]')
regexp_matches(s, 'WORLD', 'i') | cast(i as boolean) | cast('t' as boolean) | m = 1.50 | m > 1 | m = i | null < 1 | null is null | d in ('2024-01-07', '2021-01-01') | b = (i > 0) | d - date '2020-01-01' > 100
"""
STRING = """
lower(s) | upper(s) | trim(n) | ltrim(n) | rtrim(n) | trim(s, 'ac') | substring(s, 2, 3) | substr(s, 2) | substring(s, 0, 3) | substring(s, -3, 2) | substring(s, 3, -2) | substring(s, -7, 3)
substring(s, -2) | left(s, 2) | left(s, -2) | right(s, 2) | right(s, -2) | replace(s, 'b', 'xx') | replace(s, '', 'x') | concat(s, null, i) | concat_ws('-', s, i, 'z') | s || 'x' | s || i | 'a' || null
split_part(s, ',', 2) | split_part(s, ',', -1) | split_part(s, ',', 9) | split_part(s, ',', 0) | lpad(s, 7, '*') | rpad(s, 3, '*') | reverse(s) | regexp_replace(s, '[ab]', 'X') | regexp_replace(s, '([a-z]),', '\\1;', 'g')
regexp_extract(s, 'b(.)', 1) | regexp_extract(s, 'l+') | strftime(d, '%d/%m/%Y') | strftime(t, '%Y-%m-%d %H:%M:%S.%f') | cast(i as varchar) | cast(b as varchar) | cast(d as varchar) | cast(t as varchar) | cast(m as varchar)
cast(f as varchar) | coalesce(s, '?') | nullif(s, '') | greatest(s, 'b') | case when i > 0 then 'p' else s end | 'it''s' | strftime(d, '%j %a %b %y')
"""
TIME = """
d + 1 | d - 1 | d + interval 1 month | d - interval '2 day' | t + interval 3 hour | t - interval '1' year | date_trunc('month', d) | date_trunc('hour', t) | date_trunc('week', t) | date_trunc('quarter', d)
date '2024-01-01' | timestamp '2024-01-01 10:00:00' | cast('2024-01-01' as date) | cast(t as date) | cast(d as timestamp) | date(t) | strptime('02/01/2024', '%d/%m/%Y') | try_cast(s as date)
cast('2024-01-01 10:00:00' as timestamp) | coalesce(d, '2020-01-01') | greatest(d, t) | t - timestamp '2020-01-01 00:00:00' | 1 + d | case when b then d end | cast(t as time)
"""
OTHER = "m + 1 | m + m | -m | abs(m) | m - k | m | round(m, 1)"
FAMILIES = {
    "int": INT,
    "float": FLOAT,
    "bool": BOOL,
    "string": STRING,
    "time": TIME,
    "decimal": OTHER,
}
CASES = [
    (family, text.replace("\\n", "\n"))
    for family, block in FAMILIES.items()
    for text in block.strip().replace("\n", " | ").split(" | ")
]


@pytest.fixture(scope="module")
def duck() -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect()
    columns = 'i bigint, k integer, u ubigint, f double, g float, m decimal(10,2), b boolean, s varchar, n varchar, d date, t timestamp, "Adj Close" double'
    connection.execute(f"create table x({columns})")
    connection.executemany(f"insert into x values ({','.join('?' * 12)})", ROWS)
    return connection


def family(dtype: pl.DataType) -> str:
    if dtype.is_integer():
        return "int"
    if dtype.is_float():
        return "float"
    return {pl.Boolean: "bool", pl.String: "string", pl.Decimal: "decimal"}.get(type(dtype), "time")


def same(a: object, b: object) -> bool:
    if isinstance(a, float) and isinstance(b, (float, Decimal)):
        b = float(b)
        return (math.isnan(a) and math.isnan(b)) or math.isclose(a, b, rel_tol=1e-6 if abs(a) < 1e-3 else 1e-9)
    return a == b


def result(typed: Typed, frame: pl.DataFrame) -> pl.Series:
    return frame.lazy().with_columns(typed.expr.alias("x!")).select("x!").collect()["x!"]


@pytest.mark.parametrize(("kind", "text"), CASES, ids=[c[1] for c in CASES])
def test_equals_duckdb(kind: str, text: str, duck: duckdb.DuckDBPyConnection) -> None:
    typed = parse(text).bind(SCHEMA)
    assert family(typed.dtype) == kind
    got = result(typed, FRAME)
    wanted = [row[0] for row in duck.execute(f"select {text} from x").fetchall()]
    assert all(map(same, got.to_list(), wanted)), f"{got.to_list()}\n{wanted}"
    nulls = pl.DataFrame({name: [None] for name in SCHEMA}, schema=SCHEMA)
    for frame in (FRAME, FRAME.clear(), nulls):
        assert result(typed, frame).dtype == typed.dtype
        assert frame.lazy().select(typed.expr.alias("x")).collect_schema()["x"] == typed.dtype


BAD = [
    ("", "the expression is empty", None, ""),
    ("i +", "cannot parse the expression: it ends after '+'", 2, "` #` begins a comment"),
    ("i +\n nope(", "cannot parse", 9, ""),
    ("Adj Close", "cannot parse the expression at 'Close'", 4, "double quotes around column names that contain spaces"),
    ("i; k", "several statements", 1, "semicolon"),
    ("select 1", "SELECT", 0, ""),
    ("(select 1)", "SELECT", 1, ""),
    ("i in (select 1)", "SELECT", 6, "a step above"),
    ("i + sum(i) over ()", "OVER is not possible", 4, ""),
    ("1 + I", "unknown column 'I'", 4, "did you mean 'i'?"),
    ("Adj", "unknown column 'Adj'", 0, "double quotes"),
    ("x.i", "has a dot", 0, ""),
    ("s = 1", "cannot compare string with int64", 0, "CAST"),
    ("d = '2024-13-01'", "'2024-13-01' is not a date", 4, ""),
    ("i + s", "+ cannot take int64 and string", 0, "CAST"),
    ("f // 2", "// takes ints", 0, ""),
    ("1 + lowr(s)", "unknown function 'lowr'", 4, "did you mean 'lower'?"),
    ("lower(i)", "lower(int64) is not possible", 0, "lower takes (string)"),
    ("1 + round(f, i)", "round(float64, int64) is not possible", 4, "int literal"),
    ("lower(s, s)", "lower(string, string)", 0, ""),
    ("i and b", "a boolean is wanted, not int64", 0, ""),
    ("1 + avg(i)", "avg(...) is an aggregate", 4, "use it in an aggregate step"),
    ("cast(i as nope)", "unknown type nope", 10, "VARCHAR"),
    ("cast(k as number)", "unknown type number", 10, "VARCHAR"),
    ("~i", "is not possible", 1, "no operations on bits"),
    ("i & 3", "is not possible", 0, "no operations on bits"),
    ("i << 3", "is not possible", 0, "no operations on bits"),
    ("i::FLOT", "unknown type FLOT", 3, "did you mean 'FLOAT'?"),
    ("cast(i as int8)", "int8 counts bytes in SQL", 10, "TINYINT"),
    ('s = "AAPL"', "unknown column 'AAPL'", 4, "text stands in single quotes: 'AAPL'"),
    ("(i > 1", "this ( is not closed", 0, ""),
    ("i > 1)", "this ) closes nothing", 5, ""),
    ("i > 1 # late", "# is not SQL", 6, "--"),
    ("i = NULL", "= NULL is never true", 4, "IS NULL"),
    ("null <> i", "<> NULL is never true", 0, "IS NOT NULL"),
    ("i = None", "unknown column 'None'", 4, "x IS NULL"),
    ("s is None", "unknown column 'None'", 5, "x IS NULL"),
    ("f is nan", "unknown column 'nan'", 5, "isnan(x)"),
    ("!b", "! is not SQL", 0, "NOT x"),
    ("b && b", "is not possible", 0, "write AND"),
    ("i | 1", "is not possible", 0, "write OR"),
    ("i || k", "|| joins strings, not int64 and int32", 0, "OR"),
    ("b || b", "|| joins strings", 0, "OR"),
    ("1 < i < 5", "cannot compare boolean with int64", 0, "a < b AND b < c"),
    ("i = '5'", "cannot compare int64 with string", 0, "without quotes: 5"),
    ("d > 2020", "cannot compare date with int64", 0, "'2020-12-31'"),
    ("s.str.lower()", "is not possible", 0, "lower(s)"),
    ("s.lower()", "is not possible", 0, "lower(s)"),
    ("1 + mean(i)", "mean(...) is an aggregate", 4, "aggregate step"),
    ("fill_null(i, 0)", "unknown function 'fill_null'", 0, "coalesce"),
    ("startswith(s, 'a')", "unknown function 'startswith'", 0, "starts_with"),
    ("lag(i)", "lag(...) is a window function", 0, "window step"),
    ("cumsum(i)", "unknown function 'cumsum'", 0, "window step"),
    ("row_number() over (order by i)", "OVER is not possible", 0, "window step"),
    ("d - current_date", "current_date is not possible", 4, "params"),
    ("now()", "unknown function 'now'", 0, "from day to day"),
    ("random()", "unknown function 'random'", 0, "from run to run"),
    ("xyzzy(i)", "unknown function 'xyzzy'", 0, "docs/sql.md"),
    ("round()", "round() is not possible", 0, "round takes (number, int literal (optional))"),
    ("i between 1", "BETWEEN without AND", 2, ""),
    ("case when b then 1", "CASE without END", 0, ""),
    ("case when b 1 end", "WHEN without THEN", 10, ""),
    ("1 if b else 2", "Python's", 2, "CASE WHEN"),
    ("b ? 1 : 2", "is not SQL", 2, "CASE WHEN"),
    ("i as x", "an expression has no AS", 5, "the key before the colon"),
    ("i > 1 where b", "not a query", 6, "filter"),
    ("i > 1,5", "a comma inside a number", 5, "1.5"),
    ("i > 1 000", "a space inside a number", 5, "1000"),
    ("i => 1", "a comparison that SQL does not know", 2, ">="),
    ("\u201cs\u201d = s", "typographic quotes", 0, ""),
    ("s = 'it's'", "a quote is not closed", 9, "it''s"),
    ("date_trunc(month, d)", "unknown column 'month'", 11, "'month'"),
    ("extract(foo from d)", "cannot extract 'foo'", 8, "year"),
    ("d + interval 1 fortnight", "cannot read the INTERVAL", 0, "INTERVAL 3 DAY"),
    ("d + 1.5", "+ cannot take date and float64", 0, "INTERVAL"),
    ("s + s", "cannot take string and string", 0, "||"),
    ("s like s", "LIKE takes a pattern in single quotes", 0, "contains"),
    ("s like 'a!' escape '!'", "ends with its escape character", 0, ""),
    ("regexp_replace(s, 'a', '\\1')", "has no group 1", 0, ""),
    ("strptime(s, '%H:%M')", "leaves the day open", 0, ""),
    ("sum(i) filter (where b)", "sum(...) is an aggregate", 0, ""),
    ("lower(s) filter (where b)", "lower is no aggregate", 0, ""),
    ("1e400", "does not fit into float64", 0, ""),
    ("cast(t - t as varchar)", "cannot cast duration to string", 5, "epoch"),
    ("cast(m as decimal(38,30)) * cast(m as decimal(38,30))", "more than 38 digits", 5, "DOUBLE"),
    ("cast(d as integer)", "cannot cast date to int32", 5, ""),
    ("regexp_matches(s, '(')", "the regular expression", 0, ""),
    ("strftime(d, '%Q')", "unknown format directive '%Q'", 0, ""),
    ("99999999999999999999", "does not fit into int64", 0, ""),
    ("coalesce(i, s)", "cannot combine int64 with string", 0, ""),
    ("date_trunc('mnth', d)", "unknown unit", 0, "'month'"),
    ("'abc", "a quote is not closed", 0, ""),
]


@pytest.mark.parametrize(("text", "message", "offset", "remedy"), BAD, ids=[b[0] for b in BAD])
def test_refused(text: str, message: str, offset: int | None, remedy: str) -> None:
    with pytest.raises(ExpressionError) as error:
        parse(text).bind(SCHEMA)
    assert message in error.value.message
    assert remedy in error.value.remedy
    assert error.value.offset == offset


@pytest.mark.parametrize(
    "text",
    [
        "i + 9223372036854775807",
        "i * 9223372036854775807",
        "-(i - 9223372036854775807 - 1)",
        "cast(i as tinyint)",
        "cast(f as bigint)",
        "cast(s as bigint)",
        "u + 0",
    ],
)
def test_values_that_cannot_be_held_raise(text: str) -> None:
    with pytest.raises(pl.exceptions.PolarsError):
        result(parse(text).bind(SCHEMA), FRAME)


INTEGERS = [pl.Int8(), pl.Int16(), pl.Int32(), pl.Int64(), pl.UInt8(), pl.UInt16(), pl.UInt32(), pl.UInt64()]
EXACT: dict[str, Any] = {
    "x + x": lambda v: v + v, "x - 1": lambda v: v - 1, "x + 1": lambda v: v + 1, "x * x": lambda v: v * v, "-x": lambda v: -v,
    "abs(x)": abs, "x // -1": lambda v: -v, "x % -1": lambda v: 0, "round(x, -1)": lambda v: (abs(v) + 5) // 10 * 10 * (1 if v >= 0 else -1),
    **{f"cast(x as {name})": (lambda v: v) for name in ("tinyint", "smallint", "integer", "bigint", "utinyint", "usmallint", "uinteger", "ubigint")},
}  # fmt: skip


@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
@pytest.mark.parametrize("text", EXACT)
def test_integers_are_exact_or_refused(dtype: pl.DataType, text: str) -> None:
    typed = parse(text).bind({"x": dtype})
    low, high = (pl.select(bound).item() for bound in (dtype.min(), dtype.max()))  # type: ignore[attr-defined]
    least, most = (pl.select(bound).item() for bound in (typed.dtype.min(), typed.dtype.max()))  # type: ignore[attr-defined]
    for value in (low, high, 0, 1):
        frame, exact = pl.LazyFrame({"x": [value]}, schema={"x": dtype}), EXACT[text](value)
        if least <= exact <= most:
            assert collect(frame.select(y=typed.expr), {"y": typed.dtype}).item() == exact
        else:
            with pytest.raises(DataError, match=dtype_name(typed.dtype)):
                collect(frame.select(y=typed.expr), {"y": typed.dtype})


@settings(max_examples=150, deadline=None)
@given(st.data(), st.integers(0, 18), st.integers(0, 18), st.integers(18, 38), st.integers(18, 38))
def test_decimals_are_exact_or_refused(data: st.DataObject, s1: int, s2: int, p1: int, p2: int) -> None:
    schema: dict[str, pl.DataType] = {"a": pl.Decimal(p1, s1), "b": pl.Decimal(p2, s2)}
    values = [
        Decimal(data.draw(st.integers(1 - 10**p, 10**p - 1))).scaleb(-s, decimal.Context(prec=100))
        for p, s in ((p1, s1), (p2, s2))
    ]
    with decimal.localcontext(decimal.Context(prec=100)):
        a, b = (v * 1 for v in values)
        exact = {"a + b": a + b, "a - b": a - b, "a * b": a * b, "a % b": a % b if b else None}
    frame = pl.DataFrame({"a": [a], "b": [b]}, schema=schema)
    for text, wanted in exact.items():
        typed = parse(text).bind(schema)
        try:
            got = result(typed, frame)
        except pl.exceptions.PolarsError:
            continue
        assert got.dtype == typed.dtype
        assert got.item() == wanted


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("i // k", "an integer // 0"),
        ("i % k", "an integer % 0"),
        ("m % k", "a decimal % 0"),
        ("cast(f * 1e300 as float)", "does not fit float32"),
        ("cast(s as boolean)", "is no boolean"),
        ("cast(s as bigint)", "cannot cast string to int64"),
        ("cast(i as tinyint)", "cannot cast int64 to int8: 12345"),
        ("cast(s as timestamp)", "cannot cast string to datetime"),
        ("cast(s || '.125' as decimal(9,2))", "is no decimal(9,2)"),
    ],
)
def test_what_is_refused_is_named(text: str, said: str) -> None:
    typed = parse(text).bind(SCHEMA)
    with pytest.raises(DataError) as error:
        collect(FRAME.lazy().select(y=typed.expr), {"y": typed.dtype})
    assert said in error.value.issues[0].message
    assert error.value.issues[0].remedy


@pytest.mark.parametrize(
    "text",
    [
        "k <> 0 and i // k > 0",
        "k = 0 or i % k = 0",
        "case when k <> 0 then i // k end",
        "case when k = 0 then 0 else i // k end",
        "if(n = '12', cast(n as integer), 0)",
        "coalesce(try_cast(n as integer), 0)",
        "coalesce(length(n), cast(n as integer))",
        "not (k = 0 or i // k > 5) and b",
    ],
)
def test_what_is_not_wanted_cannot_fail(text: str, duck: duckdb.DuckDBPyConnection) -> None:
    got = result(parse(text).bind(SCHEMA), FRAME)
    safe = (
        text.replace("i // k", "i // nullif(k, 0)")
        .replace("i % k", "i % nullif(k, 0)")
        .replace(" cast(n", " try_cast(n")
    )
    assert got.to_list() == [row[0] for row in duck.execute(f"select {safe} from x").fetchall()]


@pytest.mark.parametrize("dtype", [pl.Enum(["a", "b"]), pl.Categorical()])
def test_categories_become_text(dtype: pl.DataType) -> None:
    frame = pl.DataFrame({"c": pl.Series(["b", None, "a"], dtype=dtype)})
    typed = parse("CAST(c AS text) || '!'").bind(dict(frame.schema))
    assert typed.dtype == pl.String
    assert frame.select(typed.expr).to_series().to_list() == ["b!", None, "a!"]


def test_aggregates_are_handed_over() -> None:
    seen: list[tuple[str, pl.DataType | None, bool]] = []

    def on_aggregate(
        name: str, argument: Typed | None, distinct: bool, where: pl.Expr | None, part: float | None
    ) -> Typed:
        seen.append((name, argument.dtype if argument else None, distinct))
        return Typed(pl.lit(1.0), pl.Float64())

    parse("mean(i + 1) / count(*) + count(distinct s) + stddev(f)").bind(SCHEMA, on_aggregate)
    assert seen == [
        ("avg", pl.Int64(), False),
        ("count", None, False),
        ("count", pl.String(), True),
        ("std", pl.Float64(), False),
    ]
    for text, message in [
        ("i + sum(i)", "has many values"),
        ("sum(avg(i))", "do not nest"),
        ("min(i, k)", "takes one argument"),
    ]:
        with pytest.raises(ExpressionError, match=message):
            parse(text).bind(SCHEMA, on_aggregate)


def test_expressions_are_values() -> None:
    expression = parse('"Adj Close" * i')
    assert expression.columns == {"Adj Close", "i"}
    assert pickle.loads(pickle.dumps(expression)) == expression
    assert len({expression, parse('"Adj Close" * i')}) == 1


@pytest.mark.parametrize(
    "name", ["a", "Adj Close", "select", 'say "x"', "1a", "ä", "date", "null", "case", "current_date", "interval"]
)
def test_quoted_names_are_read_back(name: str) -> None:
    assert parse(quote(name)).columns == {name}
    assert quote("Open") == "Open"


# --- Random expressions over difficult values ---------------------------------------------------------------------------

FOUND = expressions(2)
TABLE = connect()


def checked(text: str) -> bool:
    """Asserts the planned type, DuckDB's family of types and DuckDB's values; False where DuckDB refuses a value as we do."""
    typed = parse(text).bind(sql_cases.SCHEMA)
    try:
        wanted = TABLE.execute(f"select {text}, typeof({text}) from x").fetchall()
    except duckdb.Error as error:
        if not re.search("overflow|out of range|could not cast|division by zero", str(error), re.IGNORECASE):
            raise
        wanted = None
    try:  # collect asserts the planned type, and a DataError is about values, never about types
        query = sql_cases.FRAME.lazy().with_columns(typed.expr.alias("x!")).select("x!")
        got = collect(query, {"x!": typed.dtype})["x!"]
    except DataError as error:
        # DuckDB's integers have 128 bits in places; and NULL / (x % 0) is NULL for it
        if wanted is not None and not re.search("does not fit int|[/%] 0", str(error)):
            raise
        return False
    if wanted is None:
        assert "Division" not in text
        return False
    assert duck_family(wanted[0][1]) in (sql_cases.family(typed.dtype), "null"), (text, wanted[0][1], typed.dtype)
    close = 1e-6 if "g" in text else 1e-9  # float32: DuckDB computes some functions in 32 bits
    for i, (ours, theirs) in enumerate(zip(got.to_list(), (row[0] for row in wanted), strict=True)):
        assert sql_cases.same(ours, theirs, close), (text, sql_cases.FRAME.row(i, named=True), ours, theirs)
    return True


@pytest.mark.parametrize("kind", FOUND)
def test_random_expressions_equal_duckdb(kind: str) -> None:
    done = 0

    @settings(max_examples=250, deadline=None, suppress_health_check=list(HealthCheck))
    @given(FOUND[kind])
    def check(text: str) -> None:
        nonlocal done
        done += checked(text)

    check()
    assert done > 100


@given(st.lists(st.floats(allow_nan=False), min_size=1, max_size=20), st.floats(allow_nan=False))
def test_division_is_the_same_for_any_number_of_rows(values: list[float], by: float) -> None:
    """Polars divides a longer column by one value with its inverse: 3 / 10 would be 0.30000000000000004."""
    frame = pl.DataFrame({"x": values, "y": [by] * len(values)})
    constant = frame.lazy().with_columns(y=pl.lit(by)).collect()
    literal = "'inf'::double" if by == math.inf else "'-inf'::double" if by == -math.inf else f"{by!r}"
    exact = [row[0] for row in duckdb.sql("select x / y from frame").fetchall()]
    for text, table in (("x / y", frame), ("x / y", constant), (f"x / {literal}", frame)):
        got = result(parse(text).bind(dict(frame.schema)), table).to_list()
        assert all((math.isnan(a) and math.isnan(b)) or a == b for a, b in zip(got, exact, strict=True)), text


@given(st.lists(st.floats() | st.floats(-1e-3, 1e-3) | st.integers().map(float), min_size=1, max_size=50))
def test_floats_are_written_as_in_duckdb(values: list[float]) -> None:
    frame = pl.DataFrame({"x": values}, schema={"x": pl.Float64})
    got = result(parse("cast(x as varchar)").bind(dict(frame.schema)), frame)
    assert [
        *map(sql_cases.same, got, [r[0] for r in duckdb.sql("select cast(x as varchar) from frame").fetchall()])
    ].count(False) == 0
    assert all(sql_cases.same(float(t), v) for t, v in zip(got, values, strict=True))


_TRANSITIONS = [
    dt.datetime(2024, 3, 31, 1),
    dt.datetime(2024, 10, 27, 1),
    dt.datetime(2024, 4, 6, 15),
    dt.datetime(2024, 12, 31, 23),
]


@pytest.mark.parametrize("zone", ["Europe/Berlin", "Asia/Kolkata", "Australia/Lord_Howe", "America/St_Johns", "UTC"])
def test_datetimes_with_a_zone_equal_duckdb(zone: str) -> None:
    moments = [t + dt.timedelta(minutes=m, seconds=7) for t in _TRANSITIONS for m in range(-600, 601, 41)]
    utc = pl.Series(moments, dtype=pl.Datetime("us", "UTC"))
    frame = pl.DataFrame({"a": utc, "b": utc.shift(5), "x": utc.shift(1)}).with_columns(
        pl.all().dt.convert_time_zone(zone)
    )
    # of an hour that comes twice DuckDB 2.0 takes the second where it cuts minutes off
    local = pl.all().dt.replace_time_zone(None).dt.replace_time_zone(zone, ambiguous="null")
    frame = frame.drop_nulls().filter(frame.drop_nulls().select(pl.all_horizontal(local.is_not_null())).to_series())
    duck = duckdb.connect()
    duck.execute(f"set TimeZone='{zone}'")
    units = ("day", "hour", "minute", "second", "millisecond", "month")
    for text, theirs in (
        ("date(a)", "a::date"),
        ("cast(a as date)", "a::date"),
        ("cast(a as time)", "a::timestamp::time"),
        ("cast(a as timestamp)", "a::timestamp"),
        ("cast(a as varchar)", "a::varchar"),
        ("hour(a) + year(a)", "hour(a) + year(a)"),
        *((f"date_diff('{unit}', b, a)",) * 2 for unit in units),
        *((f"date_diff('{unit}', x, a)",) * 2 for unit in units),
    ):
        exact = [row[0] for row in duck.sql(f"select {theirs} from frame").fetchall()]
        got = result(parse(text).bind(dict(frame.schema)), frame).to_list()
        assert got == exact, (text, [x for x in zip(frame["a"], frame["b"], got, exact, strict=True) if x[2] != x[3]][:3])  # fmt: skip


def test_what_cannot_be_cast_amid_a_larger_expression_is_told() -> None:
    frame = pl.DataFrame({"v": ["1", "n/a"]})
    typed = parse("cast(v as double) > 1").bind(dict(frame.schema))
    with pytest.raises(DataError, match='cannot cast string to float64: "n/a"'):
        collect(frame.lazy().select(x=typed.expr), {"x": typed.dtype})


def test_an_hour_that_comes_twice() -> None:
    texts = [("2024-10-27 00:30", "2024-10-27 01:30"), ("2024-10-27 00:50", "2024-10-27 01:10"), ("2024-03-31 00:30", "2024-03-31 01:30")]  # fmt: skip
    frame = pl.DataFrame(texts, schema=["a", "b"], orient="row").with_columns(
        pl.all().str.to_datetime().dt.replace_time_zone("UTC").dt.convert_time_zone("Europe/Berlin")
    )
    for unit, expected in (("hour", [1, 1, 1]), ("minute", [60, 20, 60]), ("second", [3600, 1200, 3600])):
        found = result(parse(f"date_diff('{unit}', a, b)").bind(dict(frame.schema)), frame)
        assert found.to_list() == expected


def test_from_one_zone_to_another() -> None:
    naive, berlin = pl.Datetime("us"), pl.Datetime("us", "Europe/Berlin")
    local = pl.Series([dt.datetime(2024, 6, 1, 12), dt.datetime(2024, 10, 27, 2, 30), None], dtype=naive)
    instants = ["2024-06-01 10:00:00", "2024-10-27 00:30:00", None]  # of an hour that comes twice the first

    def cast_to(values: pl.Series, dtype: pl.DataType) -> pl.Series:
        return pl.select(cast(Typed(pl.lit(values), values.dtype), dtype, True).expr).to_series()

    zoned = cast_to(local, berlin)
    assert cast_to(zoned, pl.Datetime("us", "UTC")).dt.strftime("%F %T").to_list() == instants
    assert cast_to(cast_to(zoned, pl.Datetime("us", "Asia/Tokyo")), berlin).to_list() == zoned.to_list()
    assert cast_to(zoned, naive).to_list() == local.to_list()
    day = pl.Series([dt.date(2024, 6, 1)])
    assert cast_to(day, berlin).dt.strftime("%F %T%:z").to_list() == ["2024-06-01 00:00:00+02:00"]
    none = pl.Series([dt.datetime(2024, 3, 31, 2, 30)])
    assert pl.select(cast(Typed(pl.lit(none), naive), berlin, False).expr).to_series().to_list() == [None]
    with pytest.raises(pl.exceptions.ComputeError, match="non-existent"):
        cast_to(none, berlin)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.sampled_from([*FOUND]).flatmap(lambda kind: st.tuples(st.just(kind), FOUND[kind])),
    st.sampled_from(["", "b", "h"]),
)
def test_aggregates_of_random_expressions_have_their_planned_types(case: tuple[str, str], by: str) -> None:
    kind, text = case
    outputs = {
        "n": f"count({text})",
        "most": f"max({text})",
        "least": f"min({text}) filter (where c)",
        "one": f"first({text})",
    }
    outputs["each"] = f"count(distinct {text})"
    if kind in ("int", "float", "decimal"):
        outputs |= {
            "total": f"sum({text})",
            "mean": f"avg({text})",
            "spread": f"std({text})",
            "middle": f"median({text})",
        }
    problems = Problems(Node({}, Place("t", 1, 1)))
    step = Aggregate.model_validate({"by": [by] if by else [], **outputs}).bind(
        sql_cases.SCHEMA, problems, Context(Path())
    )
    assert isinstance(step, Operation), problems.issues
    try:
        answer = collect(step.whole(sql_cases.FRAME.lazy()), step.schema)
        group = f"group by {by} order by {by} nulls last" if by else ""
        wanted = TABLE.execute(f"select count({text}), count(distinct {text}), max({text}) from x {group}").fetchall()
    except (DataError, duckdb.Error):
        reject()
    close = 1e-6 if "g" in text else 1e-9
    for ours, theirs in zip(answer.select("n", "each", "most").rows(), wanted, strict=True):
        assert ours[:2] == theirs[:2] or kind == "float"  # two floats that differ in the last place may count as one
        assert sql_cases.same(ours[2], theirs[2], close)


OPERANDS = "i|k|2|f|1.5e0|s|'a'|b|true|d|null|(i)|-k|- 2|not b|d + 1|i::varchar|'7'::integer"
OPERATORS = "+|-|*|/|//|%|**|^|=|<>|<|>=|==|!=|and|or||||like|not like|in (1, 2) =|is null =|is not null and|between 1 and|not between 0 and|is distinct from|is not true or"


@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.lists(
        st.tuples(st.sampled_from(OPERATORS.replace("||||", "|\0|").split("|")), st.sampled_from(OPERANDS.split("|"))),
        min_size=2,
        max_size=4,
    ),
    st.sampled_from(OPERANDS.split("|")),
)
def test_operators_bind_as_in_duckdb(rest: list[tuple[str, str]], first: str) -> None:
    """Without brackets, whatever both take means the same."""
    text = " ".join([first, *(f"{op} {operand}" for op, operand in rest)]).replace("\0", "||")
    if ("**" in text or "^" in text) and ("%" in text or "//" in text):
        reject()  # of a power that differs in its last place anything may be left
    try:
        typed = parse(text).bind(sql_cases.SCHEMA)
        wanted = TABLE.execute(f"select {text} from x").fetchall()
    except (ExpressionError, duckdb.Error):
        reject()
    try:
        got = result(typed, sql_cases.FRAME).to_list()
    except (pl.exceptions.PolarsError, ValueError):  # Python has no dates before the year 1
        reject()
    for ours, theirs in zip(got, (row[0] for row in wanted), strict=True):
        assert sql_cases.same(ours, theirs, 1e-9), (text, got, wanted)
