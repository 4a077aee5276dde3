"""The nearest row of another table: against DuckDB, against a loop in Python, and the same however rows are spread."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from pipelines import load
from pipelines.estimates import estimate
from pipelines.passes import PASSES, Layout
from pipelines.pipeline import Pipeline
from pipelines.run import execute
from tests.oracle import oracle

Make = Callable[..., Pipeline]
KEY = st.none() | st.sampled_from(["a", "b", "ü"])
START = date(2020, 1, 30)  # months of different lengths follow
DAY = st.none() | st.integers(0, 40)


def made(folder: Path, left: pl.DataFrame, right: pl.DataFrame, options: str, more: str = "") -> Pipeline:
    (folder / "runs").mkdir()
    for name, table in (("left", left), ("right", right)):
        table.write_parquet(folder / f"{name}.parquet", row_group_size=3)
    (folder / "c.yaml").write_text(
        "steps:\n"
        "  left:\n    read: {path: left.parquet, partitions: 3}\n"
        "  right:\n    read: {path: right.parquet, partitions: 4}\n"
        f"{more}"
        f"  it:\n    from: [left, {'other' if more else 'right'}]\n    join_asof: {options}\n"
    )
    return load(folder / "c.yaml")


def tables(left: list[Any], right: list[Any]) -> tuple[pl.DataFrame, pl.DataFrame]:
    def days(values: list[int | None]) -> list[date | None]:
        return [None if n is None else START + timedelta(n) for n in values]

    return (
        pl.DataFrame({"k": [k for k, _ in left], "d": days([d for _, d in left]), "x": range(len(left))},
                     schema={"k": pl.String, "d": pl.Date, "x": pl.Int64}),
        pl.DataFrame({"k": [k for k, _ in right], "at": days([d for _, d in right]), "v": range(len(right))},
                     schema={"k": pl.String, "at": pl.Date, "v": pl.Int64}),
    )  # fmt: skip


def by_hand(
    left: pl.DataFrame, right: pl.DataFrame, by: bool, direction: str, exact: bool, days: int | None
) -> list[tuple[Any, ...]]:
    """Of each left row its right row (at, v), as the documentation says it."""
    found = list[tuple[Any, ...]]()
    for k, d, _ in left.rows():
        rows = [
            (at, v)
            for key, at, v in right.rows()
            if at is not None and d is not None and (not by or (k is not None and k == key)) and (exact or at != d)
        ]
        before = max(((at, v) for at, v in rows if at <= d), default=None)
        after = min((at for at, _ in rows if at >= d), default=None)
        take = min if direction == "forward" else max
        later = None if after is None else (after, take(v for at, v in rows if at == after))
        if direction == "nearest":
            near = [pair for pair in (before, later) if pair is not None]
            best = min(near, key=lambda pair: (abs(pair[0] - d), -pair[0].toordinal()), default=None)
        else:
            best = before if direction == "backward" else later
        far = best is not None and days is not None and abs(best[0] - d) > timedelta(days)
        found.append((None, None) if best is None or far else best)
    return found


@settings(max_examples=120, deadline=None)
@given(
    left=st.lists(st.tuples(KEY, DAY), max_size=25),
    right=st.lists(st.tuples(KEY, DAY), max_size=25),
    direction=st.sampled_from(["backward", "forward", "nearest"]),
    by=st.booleans(),
    exact=st.booleans(),
    days=st.none() | st.integers(0, 9),
    spread=st.booleans(),
    executor=st.sampled_from(["serial", "threads"]),
)
def test_it_is_what_the_documentation_says(
    tmp_path_factory: pytest.TempPathFactory, left: list[Any], right: list[Any], direction: str, by: bool, exact: bool,
    days: int | None, spread: bool, executor: str,
) -> None:  # fmt: skip
    ours, theirs = tables(left, right)
    options = f"{{on: {{d: at}}, direction: {direction}, allow_exact_matches: {str(exact).lower()}"
    options += ", by: k" if by else ""
    options += f", tolerance: {days} days" if days is not None else ""
    options += ", broadcast: false" if by and spread else ""
    it = made(tmp_path_factory.mktemp("asof"), ours, theirs, options + "}")
    layout = Layout(frozenset(PASSES), 16) if spread else Layout()
    answer = execute(it.plan(), executor=executor, head=1000, layout=layout).outputs["it"].head
    assert answer.select("at", "v").rows() == by_hand(ours, theirs, by, direction, exact, days)
    assert_frame_equal(answer.select(ours.columns), ours, check_exact=True)
    assert_frame_equal(answer, oracle(it.plan())["it"], check_exact=True)


@pytest.mark.parametrize("executor", ["serial", "threads", "processes", "local"])
@pytest.mark.parametrize(("direction", "sign"), [("backward", ">="), ("forward", "<=")])
def test_it_is_what_duckdb_says_on_every_executor(tmp_path: Path, direction: str, sign: str, executor: str) -> None:
    left = pl.DataFrame({"k": [i % 7 for i in range(300)], "t": [(i * 37) % 211 for i in range(300)], "x": range(300)})
    right = pl.DataFrame({"key": [i % 5 for i in range(150)], "t": [(i * 53) % 199 for i in range(150)]})
    right = right.with_columns(v=pl.int_range(pl.len())).unique(["key", "t"], maintain_order=True)
    it = made(tmp_path, left, right, f"{{on: t, by: {{k: key}}, direction: {direction}, broadcast: false}}")
    answer = execute(it.plan(), executor=executor, head=1000, layout=Layout(frozenset(PASSES), 5)).outputs["it"].head
    reference = duckdb.sql(
        f'select l.*, r.t as t_right, r.v from "left" l asof left join "right" r on l.k = r.key and l.t {sign} r.t order by x'
    ).pl()
    assert_frame_equal(answer, reference, check_exact=True)


def test_equal_right_rows_keep_their_order_behind_an_exchange(tmp_path: Path) -> None:
    """What is before in the table is before in the choice, though nothing else looks at the order."""
    left = pl.DataFrame({"k": list("abc") * 5, "d": [9] * 15})
    right = pl.DataFrame({"k": list("abcd") * 50, "at": [i % 3 for i in range(200)], "v": range(200)})
    more = "  other:\n    from: right\n    window: {partition_by: at, n: row_number()}\n"
    made(tmp_path, left, right, "{on: {d: at}, by: k, broadcast: false}", more)
    with (tmp_path / "c.yaml").open("a") as file:
        file.write("  end:\n    aggregate: {by: k, v: max(v), low: min(v)}\n")
    for passes in (PASSES, ()):
        layout = Layout(frozenset(passes), 7)
        answer = execute(load(tmp_path / "c.yaml").plan(), executor="threads", layout=layout).outputs["end"].head
        last = right.filter(pl.col("at") == 2).group_by("k").agg(v=pl.col("v").last()).sort("k")
        assert answer.rows() == [(k, v, v) for k, v in last.rows() if k != "d"]


def test_times_with_zones_days_beside_times_and_months(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    zone = pl.col("t").dt.replace_time_zone("America/New_York")
    # the clock is changed between: a day is 24 hours
    left = pl.DataFrame({"t": [datetime(2020, 3, 8, 13), datetime(2020, 3, 8, 14)]}).select(zone)
    right = pl.DataFrame({"t": [datetime(2020, 3, 7, 12)], "v": [1]}).with_columns(zone)
    answer = made(here, left, right, "{on: t, tolerance: 1 day}").run("serial").outputs["it"].head
    assert_frame_equal(answer.select("t"), left)
    assert answer["v"].to_list() == [1, None]
    there.mkdir()
    left = pl.DataFrame({"d": [date(2020, 3, 31), date(2020, 4, 1)]})
    right = pl.DataFrame({"at": [datetime(2020, 2, 29)], "v": [1]})
    answer = made(there, left, right, "{on: {d: at}, tolerance: 1 month}").run("serial").outputs["it"].head
    assert answer.schema["d"] == pl.Date
    assert answer["v"].to_list() == [1, None]  # a month before March 31 is February 29


def test_what_plan_says(tmp_path: Path) -> None:
    left, right = tables([("a", i) for i in range(30)], [("a", 3)])
    shown = made(tmp_path, left, right, "{on: {d: at}, by: k}").plan()
    assert list(shown.nodes["it"].schema) == ["k", "d", "x", "at", "v"]
    found = estimate(shown, ("it",))["it"]
    assert (found.rows, found.exact, found.origin) == (30, True, "as left")
