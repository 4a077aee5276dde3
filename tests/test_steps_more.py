"""Examples, steps on random tables, ties, names and big partitions against the oracle and DuckDB."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from pipelines.pipeline import Pipeline, load
from tests.oracle import oracle

Make = Callable[..., Pipeline]


def config(folder: Path, table: pl.DataFrame, steps: str, partitions: int = 3) -> Path:
    (folder / "runs").mkdir(exist_ok=True)
    table.write_parquet(folder / "in.parquet", row_group_size=max(1, len(table) // 7))
    path = folder / "c.yaml"
    path.write_text(f"steps:\n  t:\n    read: {{path: in.parquet, partitions: {partitions}}}\n{steps}")
    return path


SQL = [
    ("filter: i > 0 AND (s IS NULL OR s <> 'b')", "select * exclude r from t where i > 0 and (s is null or s <> 'b')"),
    ("derive: {z: x * 2 + i, i: -i, up: upper(s)}", "select * exclude (r, i), -i as i, x * 2 + i as z, upper(s) as up from t"),
    ("select: {drop: [x], rename: {i: s, s: i}, cast: {b: int8}}", "select i as s, s as i, b::tinyint as b, d from t"),
    ("sort: {by: [s, x, i], descending: [x]}",
     "select * exclude r from t order by s nulls last, x desc nulls last, i nulls last, r"),
    ("sort: {by: [b], descending: [b], limit: 5}", "select * exclude r from t order by b desc nulls last, r limit 5"),
    ("aggregate: {by: [s, b], n: count(*), i: sum(i), l: last(d), m: median(i), u: count(distinct i)}",
     "select s, b, count(*) as n, sum(i)::bigint as i, last(d order by r) as l, median(i) as m, count(distinct i) as u "
     "from t group by s, b order by s nulls last, b nulls last"),
]  # fmt: skip

ROWS = st.lists(
    st.tuples(
        st.none() | st.integers(-5, 5),
        st.none() | st.sampled_from([0.0, -0.0, 1.5, math.nan, math.inf, -math.inf]),
        st.none() | st.sampled_from(["a", "b", "ü", "日本", ""]),
        st.none() | st.booleans(),
        st.none() | st.dates(),
    ),
    max_size=40,
)
SCHEMA = {"i": pl.Int64, "x": pl.Float64, "s": pl.String, "b": pl.Boolean, "d": pl.Date}


@settings(max_examples=60, deadline=None)
@given(rows=ROWS, which=st.sampled_from(range(len(SQL))), partitions=st.sampled_from([1, 2, 3, 7]))
def test_steps_equal_duckdb(
    tmp_path_factory: pytest.TempPathFactory, rows: list[Any], which: int, partitions: int
) -> None:
    table = pl.DataFrame(rows, schema=SCHEMA, orient="row")
    text, sql = SQL[which]
    path = config(tmp_path_factory.mktemp("sql"), table, f"  it:\n    {text}\n", partitions)
    answer = load(path).run("threads", head=1000).outputs["it"].head
    t = table.with_row_index("r")  # noqa: F841 - DuckDB reads it by its name
    reference = duckdb.sql(sql).pl().select(answer.columns)
    assert_frame_equal(answer, reference.cast(dict(answer.schema)), check_exact=True)


KINDS_OF_STEP = st.sampled_from(
    [
        "filter: i > -2", "filter: s = 'a' OR x > 0", "derive: {i: i + 1, x: x / 2}", "derive: {s: s || 'x'}",
        "sort: [s, i]", "sort: {by: [x, s], descending: [x]}", "sort: {by: [b, s], limit: 9}",
        "aggregate: {by: [s], i: max(i), x: sum(x), b: min(b), d: last(d)}",
        "aggregate: {by: [b, s], i: sum(i), x: avg(x), d: first(d)}",
        "aggregate: {by: [b, s], i: count(distinct i), x: median(x), d: max(d)}",
        "aggregate: {i: count(*), x: max(x), s: min(s), b: first(b), d: last(d)}",
        "select: [i, x, s, b, d]",
    ]
)  # fmt: skip


@settings(max_examples=70, deadline=None)
@given(
    rows=ROWS,
    steps=st.lists(st.tuples(KINDS_OF_STEP, st.booleans(), st.integers(0, 9)), min_size=2, max_size=6),
    partitions=st.sampled_from([1, 2, 3, 7]),
    executor=st.sampled_from(["serial", "threads"]),
)
def test_chains_and_branches_equal_the_oracle(
    tmp_path_factory: pytest.TempPathFactory, rows: list[Any], steps: list[Any], partitions: int, executor: str
) -> None:
    """Every step keeps the columns' names and types, so any may follow any, of any step before it, kept or not."""
    table, lines = pl.DataFrame(rows, schema=SCHEMA, orient="row"), ""
    for number, (text, checkpoint, origin) in enumerate(steps):
        above = ["t", *(f"s{i}" for i in range(number))][origin % (number + 1)]
        lines += f"  s{number}:\n    from: {above}\n    {text}\n" + "    checkpoint: memory\n" * checkpoint
    path = config(tmp_path_factory.mktemp("chain"), table, lines, partitions)
    plan = load(path).plan()
    tables = oracle(plan)
    for name, produced in load(path).run(executor, head=1000).outputs.items():
        assert dict(produced.head.schema) == dict(plan.nodes[name].schema)
        assert_frame_equal(produced.head, tables[name], check_exact=True)
    middle = "s0"
    assert_frame_equal(
        load(path).run("serial", to=middle, head=1000).outputs[middle].head, tables[middle], check_exact=True
    )


@pytest.mark.parametrize("by", ["[k]", "[z]", "[k, z]", "[z, k]", "[s]"])
@pytest.mark.parametrize("limit", ["", ", limit: 700"])
def test_sorts_are_stable_with_many_ties(project: Path, by: str, limit: str) -> None:
    rng = random.Random(7)
    size = 20_000
    table = pl.DataFrame(
        {
            "k": [rng.choice([1, 2, None]) for _ in range(size)],
            "z": [rng.choice([0.0, -0.0, math.nan, None]) for _ in range(size)],
            "s": [rng.choice(["a", "b", None]) for _ in range(size)],
            "row": range(size),
        }
    )
    names = by.strip("[]").split(", ")
    for descending in ([], names):
        path = config(project, table, f"  it:\n    sort: {{by: {by}, descending: {descending}{limit}}}\n", 7)
        answer = load(path).run("threads", head=size).outputs["it"].head
        way = "desc" if descending else "asc"
        order = ", ".join(f"{n} {way} nulls last" for n in names)
        sql = f"select row from table order by {order}, row" + (" limit 700" if limit else "")
        assert answer["row"].to_list() == [r for (r,) in duckdb.sql(sql.replace("table", '"table"')).fetchall()]
        assert_frame_equal(answer, oracle(load(path).plan())["it"], check_exact=True)


NAMES = [
    "*",
    "^a.*$",
    "",
    " ",
    "a.b",
    'q"q',
    "~0",
    "~bucket",
    "~0.high",
    "len",
    "literal",
    "ünï",
    "select",
    "item",
    "x\ny",
]


@pytest.mark.parametrize("name", NAMES)
def test_columns_may_have_any_name(project: Path, name: str) -> None:
    """Or are refused with a message when the config is checked; never a wrong answer, never a failure when it runs."""
    from pipelines.errors import ConfigError, DataError

    table = pl.DataFrame({"a": [1, 2, 3, 4], name: [1.0, 2.0, None, 1.0], "ab": ["u", "v", "u", "v"]})
    quoted = '"' + name.replace('"', '""') + '"'
    json_name = '"' + name.replace('"', '\\"').replace("\n", "\\n") + '"'
    sql = quoted.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    wrong = list[str]()
    for step, expected in (
        (f"select: [{json_name}]", table.select(pl.nth(1))),
        (f"sort: [{json_name}, a]", table[[0, 3, 1, 2]]),
        ("sort: {by: [a], limit: 4}", table),
        (f'filter: "{sql} > 1"', table[[1]]),
        (f'aggregate: {{by: [{json_name}], n: count(*), t: sum(a)}}', pl.DataFrame({name: [1.0, 2.0, None], "n": [2, 1, 1], "t": [5, 2, 3]})),
        (f'aggregate: {{by: [{json_name}], n: count(distinct ab)}}', pl.DataFrame({name: [1.0, 2.0, None], "n": [2, 1, 1]})),
        (f'aggregate: {{by: [ab], t: "sum({sql})", m: "median({sql})"}}', pl.DataFrame({"ab": ["u", "v"], "t": [1.0, 3.0], "m": [1.0, 1.5]})),
        (f'aggregate: {{by: [ab], t: "sum({sql})"}}', pl.DataFrame({"ab": ["u", "v"], "t": [1.0, 3.0]})),
    ):  # fmt: skip
        path = config(project, table, f"  it:\n    {step}\n", 3)
        try:
            plan = load(path).plan()
        except (ConfigError, DataError) as error:
            if "fails on rows" in str(error):
                wrong.append(f"{step}: {error}"[:300])
            continue
        except Exception as error:
            wrong.append(f"{step}: plan raised {type(error).__name__}: {error}"[:300])
            continue
        try:
            answer = load(path).run("serial").outputs["it"].head
            assert dict(answer.schema) == dict(plan.nodes["it"].schema)
            assert_frame_equal(answer, expected, check_exact=True)
        except Exception as error:
            wrong.append(f"{step}: {type(error).__name__}: {error}"[:300])
    assert wrong == []


def test_only_the_columns_that_are_read_may_matter(pipeline: Make) -> None:
    """A derived column that nobody reads, and a filter on a column that nobody else reads."""
    made = pipeline(
        "  STOCKS\n  more:\n    derive: {a: Close * 2, b: Open * 3, Close: Open}\n  few:\n    filter: a > 100 AND Close < 500\n"
        "  n:\n    aggregate: {n: count(*), last: last(Symbol)}\n  both:\n    from: few\n    aggregate: {by: Symbol, b: max(b)}\n"
    )
    tables, result = oracle(made.plan()), made.run("threads", head=100)
    for name in ("n", "both"):
        assert_frame_equal(result.outputs[name].head, tables[name], check_exact=True)
