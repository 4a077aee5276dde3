"""describe: against DuckDB, for any partitions."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import duckdb
import polars as pl
import pytest
from hypothesis import given, settings
from polars.testing import assert_frame_equal

from pipelines import ConfigError
from pipelines.pipeline import load
from tests.oracle import oracle
from tests.test_window import answer, bound, large, tables

NUMBERS = ["i", "y", "m"]


@settings(max_examples=30, deadline=None)
@given(table=tables())
def test_describe_equals_duckdb(table: pl.DataFrame) -> None:
    made = answer(table, kind="describe")
    assert made["column"].to_list() == table.columns
    rows = table  # noqa: F841 - DuckDB reads it by its name
    for name in table.columns:
        numbers = f"avg({name}) as mean, stddev({name}) as std, quantile_cont({name}::double, [0.25, 0.5, 0.75]) as q,"
        if name not in NUMBERS:
            numbers = "null::double as mean, null::double as std, null::double[] as q,"
        sql = f"count({name}) as count, count(*) - count({name}) as nulls, {numbers} min({name})::varchar as min, max({name})::varchar as max"
        theirs = duckdb.sql(f"select {sql} from rows").pl()
        ours = made.filter(pl.col("column") == name)
        if name in ("x", "g"):  # -0.0 is 0.0; DuckDB has no mean of infinities
            assert ours.select("count", "nulls").equals(theirs.select("count", "nulls"))
            continue
        assert_frame_equal(ours.select("count", "nulls", "min", "max"), theirs.select("count", "nulls", "min", "max"))
        quartiles = theirs.select(
            "mean",
            "std",
            *(pl.col("q").list.get(i, null_on_oob=True).alias(n) for i, n in enumerate(("q25", "median", "q75"))),
        )
        assert_frame_equal(ours.select(quartiles.columns), quartiles.cast(pl.Float64), rel_tol=1e-9, abs_tol=1e-9)
    short = answer(table, kind="describe", quartiles=False)
    assert_frame_equal(short, made.drop("q25", "median", "q75"))


def test_every_type_is_described() -> None:
    moment = dt.datetime(2024, 1, 2, 3, 4, 5)
    table = pl.DataFrame(
        {
            "list": [[1]], "struct": [{"a": 1}], "binary": [b"a"], "duration": [dt.timedelta(hours=1)], "time": [dt.time(1)],
            "zoned": pl.Series([moment]).dt.replace_time_zone("Europe/Berlin"), "null": [None], "a b": [1.5], "tiny": pl.Series([1], dtype=pl.UInt8),
        }
    )  # fmt: skip
    made = answer(table, kind="describe")
    assert made["count"].to_list() == [1, 1, 1, 1, 1, 1, 0, 1, 1]
    assert made["min"].to_list() == [None, None, None, "PT1H", "01:00:00", "2024-01-02 03:04:05+01", None, "1.5", "1"]
    assert made["median"].to_list() == [None] * 7 + [1.5, 1.0]


@pytest.mark.parametrize(
    "step", ["describe:", "describe: [y, s]", "describe: {columns: [i, m, d, s, y], quartiles: false}"]
)
def test_the_same_for_any_partitions(tmp_path: Path, step: str) -> None:
    (tmp_path / "runs").mkdir()
    large(2000).write_parquet(tmp_path / "in.parquet", row_group_size=50)
    for partitions in (1, 3, 16):
        (tmp_path / "c.yaml").write_text(
            f"steps:\n  t:\n    read: {{path: in.parquet, partitions: {partitions}}}\n  it:\n    {step}\n"
            "  narrow:\n    select: [column, max]\n"
        )
        made = load(tmp_path / "c.yaml")
        found, tables = made.run("serial", head=100, to="it").outputs["it"].head, oracle(made.plan())
        assert_frame_equal(found.drop("std"), tables["it"].drop("std"), check_exact=True)
        assert_frame_equal(found, tables["it"], rel_tol=1e-12, abs_tol=0)
        assert_frame_equal(made.run("serial", head=100).outputs["narrow"].head, tables["narrow"], check_exact=True)


@pytest.mark.parametrize(
    ("step", "said"),
    [
        ("describe: [z]", "unknown column 'z'"),
        ("describe: [y, y]", "'y' stands here twice"),
        ("describe: []", "must not be empty"),
        ("describe: {quartiles: 3}", "`quartiles` must be"),
    ],
)
def test_mistakes(tmp_path: Path, step: str, said: str) -> None:
    large(3).write_parquet(tmp_path / "in.parquet")
    (tmp_path / "c.yaml").write_text(f"steps:\n  t:\n    read: in.parquet\n  it:\n    {step}\n")
    with pytest.raises(ConfigError) as caught:
        load(tmp_path / "c.yaml").plan()
    assert said in str(caught.value)


def test_variances_depend_on_partitions() -> None:
    """As in `aggregate`: after the memory is used up such a run is not tried again with smaller ones."""
    schema = {"x": pl.Float64(), "s": pl.String()}
    assert not bound(schema, "describe", quartiles=False).any_layout
    assert bound(schema, "describe", columns=["s"], quartiles=False).any_layout
