"""quantile and mode in `aggregate`: against DuckDB, for any partitions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from pipelines.expressions import ExpressionError, parse
from pipelines.pipeline import load
from tests.oracle import oracle
from tests.test_window import SCHEMA, answer, tables

PARTS = ["0", "0.25", "0.5", "0.9", "0.999", "1"]


@settings(max_examples=40, deadline=None)
@given(table=tables(), by=st.sampled_from(["k", "g", "b", ""]), part=st.sampled_from(PARTS))
def test_quantiles_equal_duckdb(table: pl.DataFrame, by: str, part: str) -> None:
    columns = {"y": "y", "m": "m::double", "i": "i::double"}
    outputs = {f"o{c}": f"quantile({c}, {part})" for c in columns} | {
        "some": f"quantile_cont(y, {part}) FILTER (WHERE b)"
    }
    made = answer(table, kind="aggregate", by=[by] if by else [], **outputs)
    sql = [f"quantile_cont({text}, {part}) as o{c}" for c, text in columns.items()]
    sql += [f"quantile_cont(y, {part}) filter (where b) as some"]
    group = f"group by {by} order by {by} nulls last" if by else ""
    rows = table  # noqa: F841 - DuckDB reads it by its name
    theirs = duckdb.sql(f"select {by + ', ' if by else ''}{', '.join(sql)} from rows {group}").pl()
    assert_frame_equal(made, theirs.cast(dict(made.schema)), rel_tol=1e-12, abs_tol=1e-9)


def test_quantiles_of_infinities_and_nan() -> None:
    def of(values: list[Any], part: str) -> Any:
        return answer(
            pl.DataFrame({"x": values}, schema={"x": pl.Float64}), kind="aggregate", q=f"quantile(x, {part})"
        )["q"].item()

    inf, nan = float("inf"), float("nan")
    assert of([-inf, 1.0], "0.5") == -inf
    assert of([1.0, inf], "0.5") == inf
    assert of([inf, inf], "0.5") == inf
    assert of([nan, 1.0, 2.0], "0.5") == 2.0
    assert of([nan, 1.0], "0") == 1.0
    assert of([1.7e308, -1.7e308], "0.5") == 0.0
    assert of([None, None], "0.5") is None
    assert of([], "0.5") is None


@settings(max_examples=40, deadline=None)
@given(table=tables(), by=st.sampled_from(["k", "g", "b", ""]))
def test_the_mode_is_one_of_the_most_frequent_values(table: pl.DataFrame, by: str) -> None:
    names = [name for name in SCHEMA if name != by]
    made = answer(table, kind="aggregate", by=[by] if by else [], **{f"o{c}": f"mode({c})" for c in names})
    rows = table  # noqa: F841 - DuckDB reads it by its name
    for name in names:
        counted = (
            f"select {by or 'true'} as key, {name} as v, count(*) as n from rows where {name} is not null group by all"
        )
        most = f"select key, min(v) as v from (select *, max(n) over (partition by key) as best from ({counted})) where n = best group by key"
        keys = f"select distinct {by} as key from rows" if by else "select true as key"
        theirs = duckdb.sql(
            f"select v from ({keys}) k left join ({most}) m on k.key is not distinct from m.key order by k.key nulls last"
        ).pl()
        assert_frame_equal(made.select(v=f"o{name}"), theirs.cast({"v": SCHEMA[name]}), check_exact=True)


def test_the_same_for_any_partitions(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    table = pl.DataFrame({"k": [i % 9 for i in range(900)], "x": [i * 31 % 101 / 7 for i in range(900)]})
    table.write_parquet(tmp_path / "in.parquet", row_group_size=50)
    for partitions in (1, 3, 16):
        for by in ("[k]", "[]"):
            (tmp_path / "c.yaml").write_text(
                f"steps:\n  t:\n    read: {{path: in.parquet, partitions: {partitions}}}\n  it:\n"
                f"    aggregate: {{by: {by}, q: 'quantile(x, 0.9)', p: 'quantile(x, 0.1)', m: mode(x), n: count(*)}}\n"
            )
            made = load(tmp_path / "c.yaml")
            assert_frame_equal(
                made.run("serial", head=1000).outputs["it"].head, oracle(made.plan())["it"], check_exact=True
            )


@pytest.mark.parametrize(
    "text",
    [
        "quantile(x)",
        "quantile(x, 2)",
        "quantile(x, x)",
        "quantile(x, -0.5)",
        "quantile(x, 'a')",
        "quantile(x, 0.1, 0.2)",
    ],
)
def test_mistakes(text: str) -> None:
    with pytest.raises(ExpressionError, match="takes a number from 0 to 1"):
        parse(text).bind({"x": pl.Float64()}, on_aggregate=lambda *given: given[1])  # type: ignore[arg-type, return-value]
