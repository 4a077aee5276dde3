"""top, dedupe: against DuckDB, for any partitions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from pipelines import ConfigError
from pipelines.pipeline import load
from tests.oracle import oracle
from tests.test_window import answer, bound, large, over, tables

KEYS = st.sampled_from([["k"], ["g"], ["k", "b"], ["g", "d"], ["s", "i"]])
ORDERS = st.sampled_from([[], ["d"], ["-d"], ["x"], ["-x", "s"], ["s", "-i"], ["-b"], ["m"]])


def options(order: list[str]) -> dict[str, Any]:
    return {
        "order_by": [n.removeprefix("-") for n in order],
        "descending": [n.removeprefix("-") for n in order if n[0] == "-"],
    }


def sorting(names: list[str]) -> str:
    return ", ".join(f"{n.removeprefix('-')} {'desc' if n[0] == '-' else 'asc'} nulls last" for n in names)


@settings(max_examples=25, deadline=None)
@given(table=tables(), by=KEYS | st.just([]), order=ORDERS, n=st.sampled_from([1, 2, 5, 1000]))
def test_top_equals_duckdb(table: pl.DataFrame, by: list[str], order: list[str], n: int) -> None:
    made = answer(table, kind="top", n=n, by=by, **options(order))
    rows = table.with_row_index("row")  # noqa: F841 - DuckDB reads it by its name
    select = (
        f"select * from rows qualify row_number() {over(by, order)} <= {n} order by {sorting([*by, *order, 'row'])}"
    )
    assert_frame_equal(made, duckdb.sql(select).pl().drop("row").cast(dict(made.schema)), check_exact=True)


@settings(max_examples=25, deadline=None)
@given(table=tables(), by=KEYS, order=ORDERS, keep=st.sampled_from(["first", "last"]))
def test_dedupe_equals_duckdb(table: pl.DataFrame, by: list[str], order: list[str], keep: str) -> None:
    made = answer(table, kind="dedupe", by=by, keep=keep, **options(order))
    rows = table.with_row_index("row")  # noqa: F841 - DuckDB reads it by its name
    which = "1" if keep == "first" else f"count(*) OVER (PARTITION BY {', '.join(by)})"
    select = f"select * from rows qualify row_number() {over(by, order)} = {which} order by row"
    assert_frame_equal(made, duckdb.sql(select).pl().drop("row").cast(dict(made.schema)), check_exact=True)


@settings(max_examples=25, deadline=None)
@given(table=tables(), by=KEYS, order=ORDERS, keep=st.sampled_from(["first", "last"]), cut=st.integers(0, 30))
def test_what_dedupe_leaves_out_early_is_not_missed(
    table: pl.DataFrame, by: list[str], order: list[str], keep: str, cut: int
) -> None:
    operation: Any = bound(table.schema, "dedupe", by=by, keep=keep, **options(order))
    numbered = table.with_row_index("hidden").lazy()
    parts = pl.concat([operation.shrink(numbered.head(cut)), operation.shrink(numbered.slice(cut))])
    assert_frame_equal(operation.apply(parts).collect(), operation.apply(numbered).collect())


@settings(max_examples=25, deadline=None)
@given(table=tables(), by=KEYS, order=ORDERS, n=st.sampled_from([1, 3]), size=st.integers(1, 9))
def test_states_may_be_spread_by_range(table: pl.DataFrame, by: list[str], order: list[str], n: int, size: int) -> None:
    operation: Any = bound(table.schema, "top", n=n, by=by, **options(order))
    parts = [operation.partial(part.lazy()) for part in table.iter_slices(size)] or [operation.partial(table.lazy())]
    while len(parts) > 1:
        parts = [operation.combine(pl.concat(parts[i : i + 2])) for i in range(0, len(parts), 2)]
    state, key = parts[0].collect(), operation.groups[0]
    assert_frame_equal(operation.apply(state.lazy()).collect(), operation.whole(table.lazy()).collect())
    values = state[key].unique().sort(nulls_last=True)
    ranges = [values.head(2), values.slice(2)]
    spread = [operation.apply(state.lazy().filter(pl.col(key).is_in(r.implode(), nulls_equal=True))) for r in ranges]
    assert_frame_equal(pl.concat(spread).collect(), operation.whole(table.lazy()).collect())


STEPS = [
    "top: {n: 3, by: [k], order_by: [s, y], descending: [y]}",
    "top: {n: 40, order_by: [y], descending: [y]}",
    "top: {n: 2, by: [k, s]}",
    "top: {n: 100000, by: [s], order_by: [d]}",
    "dedupe: [k, d]",
    "dedupe: {by: [k, d], keep: last}",
    "dedupe: {by: s, keep: last, order_by: [y], descending: y}",
]


@pytest.mark.parametrize("step", STEPS)
def test_the_same_for_any_partitions(tmp_path: Path, step: str) -> None:
    (tmp_path / "runs").mkdir()
    large(3000).write_parquet(tmp_path / "in.parquet", row_group_size=50)
    for partitions in (1, 3, 16):
        (tmp_path / "c.yaml").write_text(
            f"steps:\n  t:\n    read: {{path: in.parquet, partitions: {partitions}}}\n  it:\n    {step}\n"
            "  narrow:\n    select: [x]\n"
        )
        made = load(tmp_path / "c.yaml")
        tables = oracle(made.plan())
        assert_frame_equal(made.run("serial", head=10**6, to="it").outputs["it"].head, tables["it"], check_exact=True)
        assert_frame_equal(made.run("serial", head=10**6).outputs["narrow"].head, tables["narrow"], check_exact=True)


@pytest.mark.parametrize(
    ("step", "said"),
    [
        ("top: {by: [k]}", "the option 'n' is missing"),
        ("top: {n: 0}", "`n` must be at least 1"),
        ("top: {n: 1, by: [z]}", "unknown column 'z'"),
        ("top: {n: 1, order_by: [y, y]}", "'y' stands here twice"),
        ("top: {n: 1, descending: [y]}", "'y' is not under `order_by`"),
        ("dedupe: []", "must not be empty"),
        ("dedupe: {by: k, keep: any}", "`keep` must be"),
    ],
)
def test_mistakes(tmp_path: Path, step: str, said: str) -> None:
    large(3).write_parquet(tmp_path / "in.parquet")
    (tmp_path / "c.yaml").write_text(f"steps:\n  t:\n    read: in.parquet\n  it:\n    {step}\n")
    with pytest.raises(ConfigError) as caught:
        load(tmp_path / "c.yaml").plan()
    assert said in str(caught.value)
