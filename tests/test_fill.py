"""fill, explode, unpivot, pivot: against DuckDB, for any partitions."""

from __future__ import annotations

import datetime as dt
import json
import math
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from pipelines import ConfigError
from pipelines.errors import DataError
from pipelines.pipeline import load
from pipelines.steps import KINDS
from tests.oracle import oracle
from tests.test_top import options
from tests.test_window import SCHEMA, answer, bound, over, tables

KEYS = st.sampled_from([[], ["k"], ["g"], ["k", "b"]])
ORDERS = st.sampled_from([[], ["d"], ["-d"], ["s", "-i"], ["-x"]])


@settings(max_examples=40, deadline=None)
@given(table=tables(), by=KEYS, order=ORDERS, limit=st.sampled_from([0, 1, 2]), given=st.booleans())
def test_fill_equals_duckdb(table: pl.DataFrame, by: list[str], order: list[str], limit: int, given: bool) -> None:
    values = {"y": "x", "m": "3", "t": "'2024-01-02'", "i": "-1"} if given else {}
    made = answer(
        table, kind="fill", forward=["y", "t", "m"], backward=["s", "y"], value=values, partition_by=by, limit=limit, **options(order)
    )  # fmt: skip
    rows = table.with_row_index("row")  # noqa: F841 - DuckDB reads it by its name
    reach = limit or "UNBOUNDED"
    before = over(by, order, f"ROWS BETWEEN {reach} PRECEDING AND CURRENT ROW")
    after = over(by, order, f"ROWS BETWEEN CURRENT ROW AND {reach} FOLLOWING")
    date = ", '2024-01-02'" if given else ""
    sql = {
        "y": f"coalesce(last_value(y ignore nulls) {before}, first_value(y ignore nulls) {after}{', x' if given else ''})",
        "t": f"coalesce(last_value(t ignore nulls) {before}{date})",
        "m": f"coalesce(last_value(m ignore nulls) {before}{', 3' if given else ''})",
        "s": f"first_value(s ignore nulls) {after}",
        "i": "coalesce(i, -1)" if given else "i",
    }
    select = ", ".join(f"{expression} as {name}" for name, expression in sql.items())
    theirs = duckdb.sql(f"select * replace ({select}) from rows order by row").pl().drop("row")
    assert_frame_equal(made, theirs.cast(dict(made.schema)), check_exact=True)
    only = answer(table, kind="fill", value={"i": "-1", "x": "0", "k": "s || '?'"})
    theirs = (
        duckdb.sql(
            "select * replace (coalesce(i, -1) as i, coalesce(x, 0) as x, coalesce(k, s || '?') as k) from rows order by row"
        )
        .pl()
        .drop("row")
    )
    assert_frame_equal(only, theirs.cast(dict(only.schema)), check_exact=True)


@pytest.mark.parametrize("executor", ["serial", "threads"])
def test_lists_of_different_lengths_are_told_with_their_step(tmp_path: Path, executor: str) -> None:
    pl.DataFrame({"a": [[1], [1, 2]], "b": [[1, 2], [1]]}).write_parquet(tmp_path / "t.parquet")
    config = "name: n\nsteps:\n  t: {read: {path: t.parquet}}\n  e: {from: t, explode: [a, b]}\n"
    (tmp_path / "n.yaml").write_text(config)
    with pytest.raises(DataError, match=r"n.yaml:4:3: in the step 'e': a row's lists are of different lengths"):
        load(tmp_path / "n.yaml").run(executor=executor)


def test_what_fill_reads() -> None:
    operation = bound(SCHEMA, "fill", forward=["y"], value={"y": "x", "i": "0"}, partition_by=["k"], order_by=["d"])
    assert operation.placement == "by_key"
    assert operation.reads(frozenset({"s"})) == {"k", "d", "s"}
    assert operation.reads(frozenset({"y"})) == {"k", "d", "y", "x"}
    assert bound(SCHEMA, "fill", backward=["y"]).placement == "gather"
    constant = bound(SCHEMA, "fill", value={"y": "0"})
    assert constant.placement == "anywhere"
    assert constant.reads(frozenset({"y", "s"})) == {"y", "s"}


LISTS = st.lists(st.none() | st.sampled_from([1.5, -0.0, math.nan, math.inf]), max_size=4)


@settings(max_examples=40, deadline=None)
@given(rows=st.lists(st.tuples(st.none() | st.sampled_from(["a", "ü"]), st.none() | LISTS), max_size=20))
def test_explode_equals_duckdb(rows: list[Any]) -> None:
    table = pl.DataFrame(rows, schema={"k": pl.String(), "l": pl.List(pl.Float64)}, orient="row").with_row_index("row")
    table_ = table  # noqa: F841 - DuckDB reads it by its name
    dropped = answer(table, kind="explode", columns=["l"], empty="drop")
    assert dropped.schema["l"] == pl.Float64
    theirs = duckdb.sql("select row, k, unnest(l) as l from table_").pl().cast({"row": pl.UInt32, "l": pl.Float64})
    assert_frame_equal(dropped, theirs.sort("row", maintain_order=True), check_exact=True)
    kept = answer(table, kind="explode", columns=["l"])
    alone = table.filter(pl.col("l").list.len().fill_null(0) == 0).with_columns(l=pl.lit(None, pl.Float64))
    assert_frame_equal(kept, pl.concat([dropped, alone]).sort("row", maintain_order=True), check_exact=True)


@settings(max_examples=40, deadline=None)
@given(table=tables(), on=st.sampled_from([["x", "y"], ["i"], ["y", "s", "x"], ["k", "g"]]))
def test_unpivot_equals_duckdb(table: pl.DataFrame, on: list[str]) -> None:
    on = [name for name in on if table.schema[name] == table.schema[on[0]]]
    made = answer(table, kind="unpivot", on=on, names="which", values=on[-1])
    rows = table.with_row_index("row")  # noqa: F841 - DuckDB reads it by its name
    kept = ", ".join(name for name in table.columns if name not in on)
    each = " union all ".join(
        f"select {kept}, '{name}' as which, {name} as v, row, {i} as place from rows" for i, name in enumerate(on)
    )
    theirs = duckdb.sql(f"select * exclude (row, place) from ({each}) order by row, place").pl().rename({"v": on[-1]})
    assert_frame_equal(made, theirs.cast(dict(made.schema)), check_exact=True)


def test_unpivot_of_several_types() -> None:
    table = pl.DataFrame({"i": [1, None], "j": pl.Series([3, 4], dtype=pl.UInt8), "n": [None, None], "k": ["a", "b"]})
    rows = answer(table, kind="unpivot", on=["n", "j", "i"])
    assert rows.schema == {"k": pl.String, "name": pl.String, "value": pl.Int64}
    assert rows.rows() == [
        ("a", "n", None),
        ("a", "j", 3),
        ("a", "i", 1),
        ("b", "n", None),
        ("b", "j", 4),
        ("b", "i", None),
    ]
    assert answer(table.head(0), kind="unpivot", on=["j"]).rows() == []
    assert answer(table.select("i"), kind="unpivot", on=["i"]).rows() == [("i", 1), ("i", None)]
    operation = bound(SCHEMA, "unpivot", on=["x", "y"])
    assert operation.reads(frozenset({"name"})) == {"x", "y"}
    assert operation.tests_early(frozenset({"k"})) == (0,)
    assert operation.tests_early(frozenset({"k", "name"})) == ()


@settings(max_examples=40, deadline=None)
@given(table=tables(), by=KEYS, names=st.sampled_from(["k", "g", "i", "b"]))
def test_pivot_equals_duckdb(table: pl.DataFrame, by: list[str], names: str) -> None:
    by = [name for name in by if name != names]
    listed: list[Any] = {"k": ["a", "ü"], "b": [True], "g": [0, 1, 2], "i": [-1, 3]}[names]
    values = {"n": "count(*)", "m": "max(i)", "a": "sum(i) FILTER (WHERE x > 0)", "f": "max(i) - min(i)"}
    made = answer(table, kind="pivot", by=by, names=names, columns=listed, values=values)
    sql = [
        f"{expression} filter (where {names} = {value!r})" for value in listed for expression in ["count(*)", "max(i)"]
    ]
    assert made.columns[len(by) : len(by) + 2] == [f"{str(listed[0]).lower()}_n", f"{str(listed[0]).lower()}_m"]
    group = f"group by {', '.join(by)} order by {', '.join(f'{k} nulls last' for k in by)}" if by else ""
    theirs = duckdb.sql(f'select {", ".join([*by, *sql])} from "table" {group}').pl()
    ours = made.select(*by, *(f"{str(v).lower()}_{each}" for v in listed for each in "nm"))
    assert_frame_equal(
        ours, theirs.rename(dict(zip(theirs.columns, ours.columns, strict=True))).cast(dict(ours.schema))
    )


def test_pivot_computes_of_the_rows_that_it_wants() -> None:
    """Tables of names and texts have numbers and others in one column."""
    table = pl.DataFrame({"k": [1, 1, 2, 2], "n": ["x", "note", "x", "note"], "v": ["7", "none", None, "8"]})
    options = {"kind": "pivot", "by": ["k"], "names": "n", "columns": ["x"]}
    assert answer(table, **options, values="first(CAST(v AS BIGINT))").rows() == [(1, 7), (2, None)]
    assert answer(table, **options, values="count(*) FILTER (WHERE CAST(v AS BIGINT) > 1)").rows() == [(1, 1), (2, 0)]
    with pytest.raises(DataError, match=r"cannot cast string to int64: .*none"):
        answer(table, **options | {"columns": ["note"]}, values="max(CAST(v AS BIGINT))")
    assert answer(table.head(0), **options, values="count(*)").rows() == []
    assert answer(table, **options | {"by": []}, values={"n": "count(*)"}).to_dict(as_series=False) == {"x_n": [2]}


def test_the_order_of_pivots_values_is_that_of_columns() -> None:
    one, other = (
        {"names": "k", "columns": ["a"], "values": dict(v)}
        for v in ([("n", "count(*)"), ("m", "max(i)")], [("m", "max(i)"), ("n", "count(*)")])
    )
    said = [json.dumps(KINDS["pivot"].model_validate(each).identity(), sort_keys=True) for each in (one, other)]
    assert said[0] != said[1]
    assert list(bound(SCHEMA, "pivot", **one).schema) == ["a_n", "a_m"]


@pytest.mark.parametrize(
    ("values", "dtype", "listed", "names", "counts"),
    [
        ([dt.date(2024, 1, 2), dt.date(2024, 1, 3)], pl.Date(), ["2024-01-03"], ["2024-01-03"], [1]),
        ([dt.datetime(2024, 1, 2, 3), None], pl.Datetime("ms"), ["2024-01-02 03:00:00"], ["2024-01-02 03:00:00"], [1]),
        ([dt.datetime(2024, 1, 2, 3), None], pl.Datetime("us", "Asia/Tokyo"), ["2024-01-02 12:00:00"], ["2024-01-02 12:00:00"], [1]),
        ([dt.time(9, 30), dt.time(10)], pl.Time(), ["09:30:00"], ["09:30:00"], [1]),
        ([0.5, -0.0], pl.Float32(), [0, 0.5], ["0", "0.5"], [1, 1]),
        ([2, 2**63 + 2], pl.UInt64(), [2, 3], ["2", "3"], [1, 0]),
        ([True, False], pl.Boolean(), [True, False], ["true", "false"], [1, 1]),
        ([Decimal("1.50"), Decimal("2.00")], pl.Decimal(10, 2), [1.5, 2], ["1.5", "2"], [1, 1]),
    ],
)  # fmt: skip
def test_values_of_any_type_become_columns(
    values: Any, dtype: pl.DataType, listed: list[Any], names: list[str], counts: list[int]
) -> None:
    table = pl.DataFrame({"n": pl.Series(values, dtype=dtype)})
    made = answer(table, kind="pivot", names="n", columns=listed, values="count(*)")
    assert made.columns == names
    assert made.row(0) == tuple(counts)


def test_texts_are_split() -> None:
    table = pl.DataFrame({"s": ["a, b", "", None, "ü"], "i": [1, 2, 3, 4]})
    rows = answer(table, kind="explode", columns=["s"], split=", ", empty="drop")
    assert rows.rows() == [("a", 1), ("b", 1), ("", 2), ("ü", 4)]


STEPS = [
    "fill: {forward: [y], backward: [i], partition_by: k, order_by: d, limit: 2}",
    "fill: {forward: [y], backward: y, value: {i: 0}}",
    "fill: {value: {y: 0}}",
    "explode: l",
    "explode: {columns: k, split: '1'}",
    "explode: {columns: [l, n], empty: drop}",
    "unpivot: {on: [d, i], values: d}",
    "unpivot: [k]",
    "pivot: {by: d, names: k, columns: ['1', '2'], values: {n: count(*), first: first(i), sum: sum(y), q: median(y)}}",
    "pivot: {names: k, columns: [y, '4'], values: avg(y)}",
    "pivot: {names: k, columns: [y, '4'], values: median(y)}",
    "pivot: {by: i, names: k, columns: [y, '4', '1', '2'], values: sum(y) FILTER (WHERE d > 9)}",
]


@pytest.mark.parametrize("step", STEPS)
def test_the_same_for_any_partitions(tmp_path: Path, step: str) -> None:
    (tmp_path / "runs").mkdir()
    table = pl.DataFrame(
        {
            "k": [f"{i * i % 7}" for i in range(2000)],
            "d": [i * 37 % 200 for i in range(2000)],
            "y": [None if i % 5 else i / 7 for i in range(2000)],
            "i": [None if i % 3 else i for i in range(2000)],
            "l": [None if i % 9 == 0 else [float(i)] * (i % 4) for i in range(2000)],
            "n": [None if i % 9 == 0 else [str(i)] * (i % 4) for i in range(2000)],
        }
    )
    table.write_parquet(tmp_path / "in.parquet", row_group_size=50)
    chosen = "'2_sum'" if "n: count" in step else "y"
    for partitions in (1, 3, 16):
        (tmp_path / "c.yaml").write_text(
            f"steps:\n  t:\n    read: {{path: in.parquet, partitions: {partitions}}}\n  it:\n    {step}\n"
            f"  narrow:\n    select: [{chosen}]\n"
        )
        made = load(tmp_path / "c.yaml")
        tables = oracle(made.plan())
        assert_frame_equal(made.run("serial", head=10**6, to="it").outputs["it"].head, tables["it"], check_exact=True)
        assert_frame_equal(made.run("serial", head=10**6).outputs["narrow"].head, tables["narrow"], check_exact=True)


def test_a_value_counts_where_it_is_filled_alone(tmp_path: Path) -> None:
    table = pl.DataFrame({"k": [1, None, None], "s": ["none", "7", "8"], "g": [1, 1, 2]})
    table.write_parquet(tmp_path / "in.parquet")
    config = tmp_path / "c.yaml"
    for more in ("", ", backward: k, partition_by: g"):
        config.write_text(
            f"steps:\n  t:\n    read: in.parquet\n  it:\n    fill: {{value: {{k: CAST(s AS BIGINT)}}{more}}}\n"
        )
        assert load(config).run("serial").outputs["it"].head["k"].to_list() == [1, 7, 8]
    table.with_columns(k=pl.lit(None, pl.Int64)).write_parquet(tmp_path / "in.parquet")
    with pytest.raises(DataError, match=r"cannot cast string to int64: .*none"):
        load(config).run("serial")


@pytest.mark.parametrize(
    ("step", "said"),
    [
        ("fill:", "names no column"),
        ("fill: {forward: [z]}", "unknown column 'z'"),
        ("fill: {forward: [k], partition_by: [k]}", "'k' is in `partition_by`"),
        ("fill: {value: {i: 1.5}}", "the column is int64, which cannot hold this"),
        ("fill: {value: {b: 300}}", "the column is int8, which cannot hold this"),
        ("fill: {value: {i: k}}", "cannot fill int64 with string"),
        ("fill: {value: {k: unknown}}", "text stands in single quotes: 'unknown'"),
        ("fill: {value: {z: 0}}", "unknown column 'z'"),
        ("fill: {forward: [i], descending: [i]}", "'i' is not under `order_by`"),
        ("fill: {forward: [i], limit: -1}", "`limit` must be at least 0"),
        ("explode: i", "'i' is int64, not a list"),
        ("explode: [l, l]", "'l' stands here twice"),
        ("explode: {columns: i, split: a}", "'i' is int64, not text"),
        ("explode: {columns: k, split: ''}", "`split` must"),
        ("explode: {columns: l, empty: some}", "`empty` must be"),
        ("unpivot: [i, z]", "unknown column 'z'"),
        ("unpivot: [i, i]", "'i' stands here twice"),
        ("unpivot: [i, k]", "no type holds the values of all: 'k' is string, the columns before it int64"),
        ("unpivot: [b, i, k]", "'k' is string, the columns before it int64"),
        ("unpivot: [z, i, k]", "'k' is string, the columns before it int64"),
        ("unpivot: [i, k, b]", "`select: {cast: {i: string, b: string}}`"),
        ("unpivot: [x, i, b]", "`select: {cast: {i: float64, b: float64}}`"),
        ("unpivot: {on: i, names: k}", "there is a column 'k' already"),
        ("unpivot: {on: i, values: l}", "there is a column 'l' already"),
        ("unpivot: {on: i, values: name}", "both new columns are called 'name'"),
        ("unpivot: {on: i, names: '^a$'}", "would be taken for a pattern"),
        ("unpivot: []", "`on` must"),
        ("pivot: {names: z, columns: [a], values: count(*)}", "unknown column 'z'"),
        ("pivot: {by: z, names: k, columns: [a], values: count(*)}", "unknown column 'z'"),
        ("pivot: {names: k, columns: [a], values: sum(z)}", "known: k, i, b, l, x"),
        ("pivot: {names: k, columns: [], values: count(*)}", "`columns` must"),
        ("pivot: {names: k, columns: [a, a], values: count(*)}", "'a' stands here twice"),
        ("pivot: {names: k, columns: [1], values: count(*)}", "c.yaml:5:33: cannot compare string with int64"),
        ("pivot: {names: i, columns: [a], values: count(*)}", "c.yaml:5:33: cannot"),
        ("pivot: {by: i, names: k, columns: [i], values: count(*)}", "there is a column 'i' already"),
        ("pivot: {names: b, columns: [1, 300], values: count(*)}", "c.yaml:5:36: no value of int8 is 300"),
        ("pivot: {names: i, columns: [1.5], values: count(*)}", "no value of int64 is 1.5"),
        ("pivot: {names: l, columns: [1], values: count(*)}", "cannot compare list[int64] with int64"),
        ("pivot: {by: k, names: k, columns: [a], values: count(*)}", "'k' is a key already"),
        ("pivot: {names: k, columns: [a], values: {n: sum(CAST(CAST(count(i) AS STRING) || 'x' AS INT))}}", "nest"),
        (
            "pivot: {names: k, columns: [a], values: CAST(CAST(count(i) AS STRING) || 'x' AS INT)}",
            "a group without rows has no value: cannot cast",
        ),
        ("pivot: {names: k, columns: ['^a$'], values: count(*)}", "would be taken for a pattern"),
        ("pivot: {names: k, columns: [''], values: count(*)}", "a column without a name"),
        ("pivot: {names: k, columns: [a], values: i}", "c.yaml:5:45: "),
        ("pivot: {names: k, columns: [a], values: {}}", "names nothing to compute"),
        ("pivot: {names: k, columns: [a, b], values: {n: summ(i)}}", "did you mean 'sum'"),
    ],
)
def test_mistakes(tmp_path: Path, step: str, said: str) -> None:
    table = pl.DataFrame({"k": ["a"], "i": [1], "b": pl.Series([1], dtype=pl.Int8), "l": [[1]], "x": [0.5]})
    table.write_parquet(tmp_path / "in.parquet")
    (tmp_path / "c.yaml").write_text(f"steps:\n  t:\n    read: in.parquet\n  it:\n    {step}\n")
    with pytest.raises(ConfigError) as caught:
        load(tmp_path / "c.yaml").plan()
    assert said in str(caught.value)
    assert "~" not in str(caught.value), "no name of ours"
