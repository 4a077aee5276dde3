"""Python steps: what the user's function is given, what it may return, and what its mistakes look like."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from pipelines import ConfigError, DataError
from pipelines.pipeline import Pipeline
from tests.oracle import oracle

Make = Callable[..., Pipeline]

FUNCTIONS = '''
import datetime
import pandas as pd
import polars as pl
import pyarrow as pa
import helper

def doubled(table: pl.DataFrame, times: int = 2) -> pl.DataFrame:
    return table.with_columns(Close=pl.col("Close") * times)

def lazily(table: pl.LazyFrame) -> pl.LazyFrame:
    return table.filter(pl.col("Close") > 100)

def in_pandas(table: pd.DataFrame) -> pd.DataFrame:
    assert str(table.dtypes["Close"]) == "double[pyarrow]"
    table["year"] = table["Date"].map(lambda day: day.year)
    return table[["Symbol", "year", "Volume"]]

def in_old_pandas(table: pd.DataFrame) -> pd.DataFrame:
    """Integers with gaps become floats, dates become timestamps of nanoseconds."""
    n = len(table)
    return pd.DataFrame({"n": [1.0] * (n - 1) + [float("nan")], "d": pd.to_datetime(["2020-01-02"] * n)})

def in_arrow(table: pa.Table) -> pa.Table:
    return table.select(["Volume"])

def per_group(table: pl.DataFrame) -> pl.DataFrame:
    return table.select(pl.len().alias("rows"), pl.col("Symbol").first(), change=pl.col("Close").last() - pl.col("Close").first())

def helped(table: pl.DataFrame) -> pl.DataFrame:
    return table.with_columns(Close=pl.Series([helper.half(x) for x in table["Close"]]))

def fails(table: pl.DataFrame) -> pl.DataFrame:
    if "IBM" in table["Symbol"]:
        raise ValueError("no IBM here\\nreally")
    return table

class Strange(Exception):
    def __init__(self, one, two):
        super().__init__(lambda: 1)

def fails_strangely(table: pl.DataFrame) -> pl.DataFrame:
    raise Strange(1, 2)

def exits(table: pl.DataFrame) -> pl.DataFrame:
    raise SystemExit(7)

def nothing(table: pl.DataFrame):
    return None

def loses(table: pl.DataFrame) -> pl.DataFrame:
    return table.drop("Close")

def adds(table: pl.DataFrame) -> pl.DataFrame:
    return table.with_columns(more=1)

def retypes(table: pl.DataFrame) -> pl.DataFrame:
    return table.with_columns(Close=pl.col("Close").cast(pl.String))

def rounds(table: pl.DataFrame) -> pl.DataFrame:
    return table.with_columns(Volume=pl.col("Volume") + 0.5)

def bare(table):
    return table

async def later(table: pl.DataFrame):
    return table

class Table: ...

number = 7
'''


@pytest.fixture
def functions(project: Path) -> Path:
    (project / "functions.py").write_text(FUNCTIONS)
    (project / "helper.py").write_text("def half(x: float) -> float:\n    return x / 2\n")
    return project / "functions.py"


GOOD = {
    "polars": ("{function: functions:doubled, like: input}", "derive: {Close: Close * 2}"),
    "arguments": ("{function: functions:doubled, arguments: {times: 3}, like: input}", "derive: {Close: Close * 3}"),
    "lazy": ("{function: functions:lazily, like: input}", "filter: Close > 100"),
    "pandas": (
        "{function: functions:in_pandas, schema: {Symbol: string, year: int64, Volume: int64}}",
        "derive: {year: year(Date)}\n  then:\n    select: [Symbol, year, Volume]",
    ),
    "arrow": ("{function: functions:in_arrow, schema: {Volume: int64}}", "select: [Volume]"),
    "helped": ("{function: functions:helped, like: input}", "derive: {Close: Close / 2}"),
    "groups": (
        "{function: functions:per_group, by: Symbol, schema: {rows: int32, Symbol: string, change: float64}}",
        "aggregate: {by: Symbol, rows: CAST(count(*) AS INT), change: last(Close) - first(Close)}\n  then:\n    select: [rows, Symbol, change]",
    ),
    "whole": (
        "{function: functions:per_group, by: [], schema: {rows: int64, Symbol: string, change: float64}}",
        "aggregate: {rows: count(*), Symbol: first(Symbol), change: last(Close) - first(Close)}",
    ),
}


@pytest.mark.parametrize("executor", ["serial", "threads", "local"])
def test_equals_what_sql_says(pipeline: Make, functions: Path, executor: str) -> None:
    """All in one run: what comes before a Python step, is kept, or follows it."""
    steps = "  STOCKS\n"
    for name, (options, _) in GOOD.items():
        steps += f"  {name}:\n    from: stocks\n    python: {options}\n"
    steps += "  after:\n    from: polars\n    aggregate: {by: Symbol, m: avg(Close), l: last(Date), n: count(*)}\n"
    made = pipeline(steps)
    outputs, tables = made.run(executor, head=10**6).outputs, oracle(made.plan())
    for name in GOOD:
        if name in outputs:  # polars has a reader
            assert_frame_equal(outputs[name].head, tables[name], check_exact=True)
    assert_frame_equal(outputs["after"].head, tables["after"], check_exact=True)
    for name, (_, sql) in GOOD.items():
        last = "then" if "then:" in sql else "it"
        answer = pipeline(f"  STOCKS\n  it:\n    {sql}\n").run("threads", head=10**6).outputs[last].head
        assert_frame_equal(tables[name], answer, check_exact=True, check_dtypes=name != "whole")


def test_pandas_answers_are_taken_back_exactly(pipeline: Make, functions: Path) -> None:
    made = pipeline(
        "  STOCKS\n  it:\n    python: {function: functions:in_old_pandas, by: [], schema: {n: int16, d: date}}\n"
    )
    answer = made.run("serial", head=10**6).outputs["it"].head
    assert answer.schema == {"n": pl.Int16, "d": pl.Date}
    assert answer["n"].null_count() == 1
    assert str(answer["d"][0]) == "2020-01-02"


def test_groups_are_in_the_order_of_their_keys(pipeline: Make, project: Path) -> None:
    (project / "functions.py").write_text(
        "import polars as pl\ndef size(t: pl.DataFrame) -> pl.DataFrame:\n    return t.select(pl.len().alias('n'))\n"
    )
    pl.DataFrame({"x": [1.5, None, -0.0, math.nan, 0.0, math.nan, math.inf, None, None, None]}).write_parquet(
        project / "in.parquet", row_group_size=2
    )
    made = pipeline(
        "  t:\n    read: {path: in.parquet, partitions: 5}\n"
        "  it:\n    python: {function: functions:size, by: x, schema: {n: int64}}\n"
    )
    for executor in ("serial", "threads"):  # 0.0, 1.5, inf, NaN, NULL
        assert made.run(executor).outputs["it"].head["n"].to_list() == [2, 1, 1, 2, 4]


def test_tables_without_rows(pipeline: Make, functions: Path) -> None:
    for options, _ in GOOD.values():
        made = pipeline(f"  STOCKS\n  none:\n    filter: false\n  it:\n    python: {options}\n")
        answer = made.run("serial").outputs["it"].head
        assert answer.schema == made.plan().nodes["it"].schema
        assert len(answer) == 0


FAILS = {
    "fails, like: input": "failed: ValueError: no IBM here (functions.py, line 35)",
    "fails, by: Symbol, like: input": "failed on the group Symbol = 'IBM': ValueError: no IBM here (functions.py, line 35)",
    "fails_strangely, like: input": "failed: Strange",
    "exits, like: input": "failed: SystemExit: 7",
    "nothing, like: input": "returned NoneType, not a table",
    "loses, like: input": "returned no column 'Close'",
    "adds, like: input": "returned a column 'more', which is not declared",
    "retypes, like: input": "returned the column 'Close' as string, declared is float64",
    "rounds, like: input": "returned the column 'Volume' as float64, declared is int64",
}


@pytest.mark.parametrize("options", FAILS)
@pytest.mark.parametrize("executor", ["serial", "threads"])
def test_what_functions_do_wrong(pipeline: Make, functions: Path, options: str, executor: str) -> None:
    made = pipeline(f"  STOCKS\n  it:\n    python: {{function: functions:{options}}}\n")
    with pytest.raises(DataError) as caught:
        made.run(executor)
    assert FAILS[options] in str(caught.value)
    assert "'it'" in str(caught.value)


def test_what_functions_do_wrong_in_other_processes(pipeline: Make, functions: Path) -> None:
    for options in ("fails_strangely, like: input", "exits, like: input"):
        with pytest.raises(DataError) as caught:
            pipeline(f"  STOCKS\n  it:\n    python: {{function: functions:{options}}}\n").run("local")
        assert FAILS[options] in str(caught.value)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("function: functions:doubled", "7:13 say what the function returns"),
        ("function: functions:doubled, like: input, schema: {a: int64}", "7:13 say what the function returns"),
        ("function: functions:doubled, schema: {a: int}", "7:55 unknown type 'int'"),
        ("function: functions:doubled, schema: {}", "7:51 `schema` names no column"),
        ("function: functions:doubled, like: input, by: [Symbl]", "7:61 unknown column 'Symbl'"),
        ("function: functions:doubled, like: input, by: [Symbol, Symbol]", "7:69 'Symbol' stands here twice"),
        ("function: functions:doublet, like: input", "7:24 functions has no function 'doublet'"),
        ("function: funktions:doubled, like: input", "7:24 there is no module 'funktions'"),
        ("function: functions:number, like: input", "7:24 functions:number is not a function"),
        ("function: functions:Table, like: input", "7:24 functions:Table is not a function"),
        ("function: functions:later, like: input", "7:24 functions:later is async"),
        ("function: functions:bare, like: input", "7:24 the kind of table that functions:bare takes is not known"),
        ("function: functions:doubled, like: input, arguments: {time: 2}", "7:67 functions:doubled(table"),
        ("function: functions, like: input", "7:24 `function` must be"),
        ("function: functions:doubled, like: output", "7:49 `like` must be 'input'"),
        ("function: functions:doubled, shema: {a: int64}", "7:43 unknown option 'shema'"),
    ],
)
def test_mistakes_in_the_config(pipeline: Make, functions: Path, options: str, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        pipeline(f"  STOCKS\n  it:\n    python: {{{options}}}\n").plan()
    assert expected in str(caught.value).replace(": ", " ", 1)
