"""Steps on whole rows: union, distinct, sample."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from pipelines import ConfigError
from pipelines.pipeline import Pipeline, load
from pipelines.types import parse_dtype, widened
from tests.oracle import oracle

Make = Callable[..., Pipeline]
SCHEMA = {"i": pl.Int32, "x": pl.Float64, "s": pl.String}
ROWS = st.lists(
    st.tuples(
        st.none() | st.integers(-3, 3),
        st.none() | st.sampled_from([0.0, -0.0, 1.5, math.nan, math.inf]),
        st.none() | st.sampled_from(["a", "b", ""]),
    ),
    max_size=30,
)


def project(folder: Path, rows: list[Any], steps: str, partitions: int = 3) -> Pipeline:
    (folder / "runs").mkdir()
    table = pl.DataFrame(rows, schema=SCHEMA, orient="row")
    table.write_parquet(folder / "a.parquet", row_group_size=3)
    table.select(pl.col("s"), pl.col("i").cast(pl.Int64), y="x").write_parquet(folder / "b.parquet", row_group_size=2)
    reads = f"steps:\n  a:\n    read: {{path: a.parquet, partitions: {partitions}}}\n  b:\n    read: {{path: b.parquet, partitions: 2}}\n"
    (folder / "c.yaml").write_text(reads + steps)
    return load(folder / "c.yaml")


UNIONS = [
    ("union: {missing: null}", "", "select i::bigint as i, x, s, null::double as y, r from a union all by name select * replace (r + 100 as r) from b"),
    ("union: {missing: null}", "filter: i > 0 OR s = 'a'", "select i, x, s, y, r from (select i::bigint as i, x, s, null::double as y, r from a union all by name select * replace (r + 100 as r) from b) where i > 0 or s = 'a'"),
    ("union: {missing: null}", "select: [y]", "select y, r from (select i::bigint as i, x, s, null::double as y, r from a union all by name select * replace (r + 100 as r) from b)"),
]  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(rows=ROWS, which=st.sampled_from(range(len(UNIONS))), partitions=st.sampled_from([1, 3]))
def test_union_equals_duckdb(
    tmp_path_factory: pytest.TempPathFactory, rows: list[Any], which: int, partitions: int
) -> None:
    step, then, sql = UNIONS[which]
    steps = f"  it:\n    from: [a, b]\n    {step}\n" + (f"  then:\n    {then}\n" if then else "")
    made = project(tmp_path_factory.mktemp("union"), rows, steps, partitions)
    name = "then" if then else "it"
    answer = made.run("threads", head=1000).outputs[name].head
    assert_frame_equal(answer, oracle(made.plan())[name], check_exact=True)
    a = pl.DataFrame(rows, schema=SCHEMA, orient="row").with_row_index("r")
    b = a.select("s", pl.col("i").cast(pl.Int64), y="x").with_row_index("r")  # noqa: F841
    reference = duckdb.sql(sql + " order by r").pl().drop("r")
    assert_frame_equal(answer, reference.cast(dict(answer.schema)), check_exact=True)


@pytest.mark.parametrize("executor", ["serial", "threads", "local"])
def test_what_follows_a_union(pipeline: Make, executor: str) -> None:
    """Every exchange, a checkpoint, several readers, the same step twice, and sinks behind partitions of several stages."""
    made = pipeline("""  STOCKS
  old:
    filter: Date < '2005-01-01'
  all:
    from: [stocks, old, stocks]
    checkpoint: memory
    union:
  by_symbol:
    aggregate: {by: Symbol, n: count(*), close: avg(Close)}
  middle:
    from: all
    aggregate: {by: [Symbol], close: median(Close)}
  whole:
    from: all
    aggregate: {close: median(Close)}
  first:
    from: all
    sort: {by: [Date, Symbol], limit: 5}
  symbols:
    from: all
    distinct: Symbol
  some:
    from: all
    sample: {rows: 7}
  again:
    from: [all, old]
    union:
  few:
    filter: Close > 600
  one:
    write: "${run}/one.parquet"
  many:
    from: few
    write: {path: "${run}/many", format: csv, per_partition: true}
""")
    result, tables = made.run(executor, head=10**6), oracle(made.plan())
    for name in ("by_symbol", "middle", "whole", "first", "symbols", "some"):
        assert_frame_equal(result.outputs[name].head, tables[name], check_exact=True)
    assert_frame_equal(pl.read_parquet(result.folder / "one.parquet"), tables["few"], check_exact=True)
    parts = [pl.read_csv(p, schema=tables["few"].schema) for p in sorted((result.folder / "many").iterdir())]
    assert_frame_equal(pl.concat(parts), tables["few"], check_exact=True)


def test_a_union_as_a_dask_dataframe(pipeline: Make) -> None:
    made = pipeline("  STOCKS\n  again:\n    from: [stocks, stocks]\n    union:\n")
    frame = made.compile("again")["again"]
    assert frame.npartitions == 10
    assert len(frame) == 2 * len(oracle(made.plan())["stocks"])


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ("  u:\n    from: [a, b]\n    union:\n", "the step 'b' has no column 'x', which 'a' has"),
        ("  u:\n    from: a\n    union:\n", "`union` takes several steps"),
        ("  u:\n    union:\n", "`union` takes several steps"),
        ("  u:\n    from: [a, c]\n    union:\n", "unknown step 'c'"),
        ("  u:\n    from: [a, u]\n    union:\n", "reads from itself"),
        (
            "  c:\n    derive: {i: \"'x'\"}\n  u:\n    from: [a, c]\n    union: {missing: null}\n",
            "the column 'i' is int32 in 'a' and string in 'c'",
        ),
        ("  u:\n    from: [a, b]\n    union: {missing: drop}\n", "`missing` must be"),
        ("  u:\n    from: [a, b]\n    filter: i > 0\n", "`from` names one step, not a list"),
        ("  d:\n    from: a\n    distinct: [i, i]\n", "stands here twice"),
        ("  d:\n    from: a\n    distinct: []\n", "must not be empty"),
        ("  d:\n    from: a\n    distinct: [j]\n", "unknown column 'j'"),
        ("  s:\n    from: a\n    sample:\n", "say how much"),
        ("  s:\n    from: a\n    sample: 0\n", "`fraction` must be"),
        ("  s:\n    from: a\n    sample: 1.5\n", "at most 1"),
        ("  s:\n    from: a\n    sample: {rows: 5, fraction: 0.5}\n", "say how much"),
        ("  s:\n    from: a\n    sample: {rows: 5, by: z}\n", "unknown column 'z'"),
    ],
)
def test_mistakes(tmp_path: Path, steps: str, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        project(tmp_path, [], steps).plan()
    assert expected in str(caught.value)
    assert all(issue.place for issue in caught.value.issues)


@settings(max_examples=60, deadline=None)
@given(rows=ROWS, columns=st.sampled_from(["[i, x, s]", "x", "[s, i]"]), partitions=st.sampled_from([1, 2, 5]))
def test_distinct_equals_duckdb(
    tmp_path_factory: pytest.TempPathFactory, rows: list[Any], columns: str, partitions: int
) -> None:
    made = project(
        tmp_path_factory.mktemp("distinct"), rows, f"  it:\n    from: a\n    distinct: {columns}\n", partitions
    )
    answer = made.run("threads", head=1000).outputs["it"].head
    assert_frame_equal(answer, oracle(made.plan())["it"], check_exact=True)
    a = pl.DataFrame(rows, schema=SCHEMA, orient="row").with_row_index("r")  # noqa: F841 - DuckDB reads it by its name
    names = columns.strip("[]")
    reference = duckdb.sql(f"select {names} from a group by all order by min(r)").pl()
    assert_frame_equal(answer, reference.cast(dict(answer.schema)), check_exact=True)


def test_samples_are_the_same_for_any_partitions_and_columns(tmp_path: Path) -> None:
    table = pl.DataFrame({"id": range(20_000), "x": [i % 7 / 2 for i in range(20_000)]})
    (tmp_path / "runs").mkdir()
    table.write_parquet(tmp_path / "in.parquet", row_group_size=500)

    def run(partitions: int, step: str, executor: str = "threads", then: str = "") -> pl.DataFrame:
        text = (
            f"steps:\n  t:\n    read: {{path: in.parquet, partitions: {partitions}}}\n  it:\n    sample: {step}\n{then}"
        )
        (tmp_path / "c.yaml").write_text(text)
        outputs = load(tmp_path / "c.yaml").run(executor, head=10**6).outputs
        return outputs["then" if then else "it"].head

    for step in ("0.1", "{rows: 100}", "{fraction: 0.3, seed: 9, by: id}", "{rows: 3, by: x}"):
        one = run(1, step)
        assert one["id"].is_sorted(), "rows keep their order"
        for partitions, executor in ((3, "serial"), (40, "threads"), (7, "local")):
            assert_frame_equal(run(partitions, step, executor), one, check_exact=True)
        narrow = run(3, step, then="  then:\n    select: [id]\n")
        assert_frame_equal(narrow, one.select("id"))
    assert 1800 < len(run(2, "0.1")) < 2200
    assert len(run(2, "{rows: 100}")) == 100
    assert len(run(2, "{rows: 100000}")) == 20_000
    assert run(2, "1.0").equals(table)
    assert not run(2, "{rows: 100, seed: 1}").equals(run(2, "{rows: 100, seed: 2}"))
    together = run(2, "{fraction: 0.5, by: x}").group_by("x").len()
    assert all(n in (2857, 2858) for n in together["len"]), "equal values of `by` are kept or dropped together"


NAMES = [
    "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float32", "float64", "boolean", "string",
    "date", "datetime", "datetime[ms]", "datetime[ns]", "decimal(10,2)", "decimal(5,4)",
]  # fmt: skip


def test_widened_types_hold_every_value() -> None:
    extremes: dict[str, list[Any]] = {"float32": [16777215.0, 1.5], "float64": [2.0**53, 0.1], "boolean": [True]}
    for one in NAMES:
        for other in NAMES:
            a, b = parse_dtype(one), parse_dtype(other)
            assert a is not None
            assert b is not None
            both = widened(a, b)
            assert both == widened(b, a)
            if both is None:
                continue
            for dtype in (a, b):
                if dtype.is_integer():
                    values = pl.select(dtype.min(), hi=dtype.max()).row(0)  # type: ignore[attr-defined]
                else:
                    values = tuple(extremes.get(one, []))
                series = pl.Series(values, dtype=dtype, strict=False)
                assert series.cast(both, strict=True).cast(dtype, strict=True).equals(series), (one, other, both)
    assert widened(pl.Int64(), pl.Float64()) is None
    assert widened(pl.UInt64(), pl.Int64()) is None
    assert widened(pl.UInt8(), pl.Int8()) == pl.Int16()
    assert widened(pl.Int32(), pl.Float32()) == pl.Float64()
    assert widened(pl.Date(), pl.Datetime("us")) == pl.Datetime("us")
    assert widened(pl.Decimal(10, 2), pl.Decimal(5, 4)) == pl.Decimal(12, 4)


def test_widened_types_do_not_depend_on_order() -> None:
    types = [dtype for name in NAMES if (dtype := parse_dtype(name)) is not None]
    for each in itertools.combinations(types, 3):
        assert len({widened(*order) for order in itertools.permutations(each)}) == 1, each
    assert widened(pl.Int32(), pl.UInt32(), pl.Float64()) == pl.Float64()
    assert widened(pl.Int16(), pl.UInt16(), pl.Float32()) == pl.Float32()
