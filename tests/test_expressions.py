"""Expressions mean in Polars what they mean in DuckDB, keep their declared type, and are refused with a place."""

from __future__ import annotations

import datetime as dt
import math
import pickle
from decimal import Decimal
from typing import Any

import duckdb
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.expressions import ExpressionError, Typed, parse, quote

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
i + 1 | i - k | i * k | -i | i // 3 | i // k | i % k | -7 // 2 | -7 % 2 | abs(i) | abs(k) | round(i, -1) | round(k) | sign(i) | sign(f)
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
regexp_matches(s, 'WORLD', 'i') | cast(i as boolean) | cast('t' as boolean) | m = 1.50 | m > 1 | m = i | null = 1 | null is null | d in ('2024-01-07', '2021-01-01') | b = (i > 0) | d - date '2020-01-01' > 100
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
    connection.execute("set error_on_division_by_zero=false")
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
    ("i +", "cannot parse the expression at '+'", 2, ""),
    ("i +\n nope(", "cannot parse", 9, ""),
    ("Adj Close", "cannot parse the expression at 'Close'", 4, "double quotes around column names that contain spaces"),
    ("i; k", "several statements", None, ""),
    ("select 1", "SELECT", None, ""),
    ("(select 1)", "SELECT", None, ""),
    ("i in (select 1)", "SELECT", None, ""),
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
    ("1 + avg(i)", "avg(...) is an aggregate; use it in an aggregate step", 4, ""),
    ("cast(i as nope)", "unknown type", 5, ""),
    ("cast(d as integer)", "cannot cast date to int32", 5, ""),
    ("regexp_matches(s, '(')", "the regular expression", 0, ""),
    ("strftime(d, '%Q')", "unknown format directive '%Q'", 0, ""),
    ("99999999999999999999", "does not fit into int64", 0, ""),
    ("coalesce(i, s)", "cannot combine int64 with string", 0, ""),
    ("date_trunc('mnth', d)", "unknown unit", 0, "'month'"),
    ("current_date", "is not possible in an expression", None, ""),
    ("'abc", "a quote is not closed", None, ""),
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


def test_aggregates_are_handed_over() -> None:
    seen: list[tuple[str, pl.DataType | None, bool]] = []

    def on_aggregate(name: str, argument: Typed | None, distinct: bool) -> Typed:
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


SMALL: dict[str, pl.DataType] = {"i": pl.Int64(), "k": pl.Int32(), "f": pl.Float64(), "b": pl.Boolean()}


def trees() -> tuple[st.SearchStrategy[str], st.SearchStrategy[str]]:
    numbers = st.sampled_from(["i", "k", "f", "3", "0", "-2", "1.5::double", "null::bigint"])
    truths = st.sampled_from(["b", "true", "null::boolean"])
    for _ in range(3):
        pair = st.tuples(numbers, numbers)
        more = st.builds(lambda p, op: f"({p[0]} {op} {p[1]})", pair, st.sampled_from(["+", "-", "/"]))
        truths = st.one_of(
            truths,
            st.builds(
                lambda p, op: f"({p[0]} {op} {p[1]})", pair, st.sampled_from(["=", "<>", "<", ">=", "is distinct from"])
            ),
            st.builds(lambda a, b, op: f"({a} {op} {b})", truths, truths, st.sampled_from(["and", "or"])),
            truths.map(lambda a: f"(not {a})"),
            st.builds(lambda a, p: f"({a} in ({p[0]}, {p[1]}))", numbers, pair),
        )
        choice = st.builds(lambda c, p: f"(case when {c} then {p[0]} else {p[1]} end)", truths, pair)
        functions = st.builds(
            lambda p, f: f"{f}({p[0]}, {p[1]})", pair, st.sampled_from(["coalesce", "greatest", "least"])
        )
        numbers = st.one_of(numbers, more, choice, functions)
    return numbers, truths


small = st.integers(-1000, 1000)
floats = st.sampled_from([0.0, 1.5, -2.25, math.nan, math.inf, -math.inf])
rows = st.lists(st.tuples(*(st.none() | v for v in (small, small, floats, st.booleans()))), min_size=1, max_size=5)


@settings(max_examples=150, deadline=None)
@given(st.one_of(*trees()), rows)
def test_random_trees_equal_duckdb(text: str, values: list[tuple[Any, ...]]) -> None:
    with duckdb.connect() as connection:
        connection.execute("create table x(i bigint, k integer, f double, b boolean)")
        connection.executemany("insert into x values (?,?,?,?)", values)
        wanted = [row[0] for row in connection.execute(f"select {text} from x").fetchall()]
    typed = parse(text).bind(SMALL)
    got = result(typed, pl.DataFrame(values, schema=SMALL, orient="row"))
    assert got.dtype == typed.dtype
    assert all(map(same, got.to_list(), wanted)), f"{got.to_list()}\n{wanted}"
