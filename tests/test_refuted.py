"""Wrong answers that a comparison with DuckDB found once: each as it was found."""

from __future__ import annotations

import math
from datetime import UTC, datetime, time, timedelta
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from random import Random
from statistics import variance
from typing import Any, Literal
from zoneinfo import ZoneInfo

import duckdb
import polars as pl
import pytest

from pipelines import DataError, load
from pipelines.passes import PASSES, Layout
from pipelines.pipeline import Pipeline
from pipelines.run import execute
from tests.oracle import oracle


def planned(folder: Path, steps: str, **tables: pl.DataFrame) -> Pipeline:
    (folder / "runs").mkdir(exist_ok=True)
    for name, table in tables.items():
        table.write_parquet(folder / f"{name}.parquet", row_group_size=1)
    (folder / "c.yaml").write_text(f"steps:\n{steps}")
    return load(folder / "c.yaml")


def derived(folder: Path, table: pl.DataFrame, expression: str) -> list[Any]:
    steps = f'  t: {{read: t.parquet}}\n  it: {{derive: {{y: "{expression}"}}}}\n'
    return planned(folder, steps, t=table).run("serial").outputs["it"].head["y"].to_list()


@pytest.mark.parametrize("partitions", [1, 3])
@pytest.mark.parametrize("expression", ["0 - f", "f + 0e0", "0e0 + f", "f - 0", "f + g", "g - f", "f - f"])
def test_the_sign_of_zero_does_not_depend_on_partitions(tmp_path: Path, partitions: int, expression: str) -> None:
    table = pl.DataFrame({"f": [0.0, -0.0, 1.5], "g": [-0.0, 0.0, 0.0]})
    steps = f'  t: {{read: {{path: t.parquet, partitions: {partitions}}}}}\n  it: {{derive: {{y: "{expression}"}}}}\n'
    answer = planned(tmp_path, steps, t=table).run("threads").outputs["it"].head["y"].to_list()
    cells = [eval(expression, {"f": f, "g": g}) for f, g in table.rows()]
    assert [(y, math.copysign(1, y)) for y in answer] == [(y, math.copysign(1, y)) for y in cells]


@pytest.mark.parametrize("how", ["inner", "left"])
def test_the_sign_of_zero_behind_a_join_with_one_row(tmp_path: Path, how: str) -> None:
    left = pl.DataFrame({"k": [1], "f": [0.0]})
    right = pl.DataFrame({"k": [1, 1, 1], "g": [0.0, 0.0, 2.0]})
    steps = "  l: {read: l.parquet}\n  r: {read: r.parquet}\n  j: {from: [l, r], join: {on: k, how: %s}}\n" % how  # noqa: UP031
    made = planned(tmp_path, f"{steps}  it: {{derive: {{y: 1 / (f - g)}}}}\n", l=left, r=right)
    for layout in (Layout(), Layout(frozenset()), Layout(frozenset(PASSES) - {"broadcast"}, 16)):
        assert execute(made.plan(), layout=layout).outputs["it"].head["y"].to_list() == [math.inf, math.inf, -0.5]


def test_a_full_join_with_a_table_of_one_row_keeps_the_order(tmp_path: Path) -> None:
    one = pl.DataFrame({"x": [1, 2, 3]})
    other = pl.DataFrame({"k": [10, 20, 30], "y": [1, 2, 3]})
    steps = "  l: {read: l.parquet}\n  n: {aggregate: {k: count(*)}}\n  b: {read: b.parquet}\n"
    made = planned(tmp_path, f"{steps}  it: {{from: [n, b], join: {{on: k, how: full}}}}\n", l=one, b=other)
    for layout in (Layout(), Layout(frozenset()), Layout(frozenset(PASSES), 3)):
        assert execute(made.plan(), layout=layout).outputs["it"].head["k"].to_list() == [3, 10, 20, 30]
    assert oracle(made.plan())["it"]["k"].to_list() == [3, 10, 20, 30]


@pytest.mark.parametrize("unit", ["ms", "us", "ns"])
def test_intervals_do_not_wrap(tmp_path: Path, unit: Any) -> None:
    table = pl.DataFrame({"t": [datetime(1970, 1, 1), None], "n": [3_000_000, 1]}).with_columns(
        pl.col("t").cast(pl.Datetime(unit))
    )
    for expression, hours in (
        ("t + INTERVAL (n) HOUR", 3_000_000),
        ("t + INTERVAL 3000000 HOUR", 3_000_000),
        ("t + INTERVAL 125000 DAY", 3_000_000),
        ("t + INTERVAL '17900 weeks'", 17_900 * 7 * 24),
        ("t + (t + INTERVAL 62500 DAY - t) + (t + INTERVAL 62500 DAY - t)", 3_000_000),
        ("t + ((t + INTERVAL 62500 DAY - t) + (t + INTERVAL 62500 DAY - t))", 3_000_000),
    ):
        if unit == "ns":
            with pytest.raises(DataError, match=r"a result is beyond (datetime|duration)\[ns\]"):
                derived(tmp_path, table, expression)
        else:
            assert derived(tmp_path, table, expression) == [datetime(1970, 1, 1) + timedelta(hours=hours), None]
    if unit == "ns":
        for expression in ("t + INTERVAL 300 YEAR", "t + INTERVAL (n // 100) MONTH", "t + INTERVAL (n) DAY"):
            with pytest.raises(DataError, match=r"cannot cast datetime to datetime\[ns\]|is beyond datetime\[ns\]"):
                derived(tmp_path, table, expression)
        late = table.with_columns(t=pl.lit(-(2**63) + 1).cast(pl.Datetime("ns")))
        later = derived(tmp_path, late, "t + INTERVAL 200000 DAY")  # longer than 64 bits count
        assert later == [datetime(1677, 9, 21, 0, 12, 43, 145224) + timedelta(days=200_000)] * 2
    assert derived(tmp_path, table, "t + INTERVAL 13 MONTH") == [datetime(1971, 2, 1), None]
    assert derived(tmp_path, table, "t + INTERVAL 1500 MICROSECOND - INTERVAL 500 MICROSECOND") == [
        datetime(1970, 1, 1, 0, 0, 0, 1000),
        None,
    ]
    assert derived(tmp_path, table, "t - INTERVAL 90 MINUTE") == [datetime(1969, 12, 31, 22, 30), None]


def test_decimals_are_rounded_in_integers(tmp_path: Path) -> None:
    values = ["839165104808204.94", "99999999999999949.99", "-15.00", "-14.99", "5.00", "4.99", None]
    table = pl.DataFrame({"m": [None if v is None else Decimal(v) for v in values]}, schema={"m": pl.Decimal(38, 2)})
    for digits in (-1, -2, -17, -18):
        answer = derived(tmp_path, table, f"round(m, {digits})")
        t = table  # noqa: F841 - DuckDB reads it by its name
        assert answer == [v for (v,) in duckdb.sql(f"select round(m, {digits}) from t").fetchall()]
    wide = pl.DataFrame({"m": [Decimal("12345678901234567890123456789012345678")]}, schema={"m": pl.Decimal(38, 0)})
    assert derived(tmp_path, wide, "round(m, -2)") == [Decimal("12345678901234567890123456789012345700")]
    small = pl.DataFrame({"m": [Decimal("0.5")]}, schema={"m": pl.Decimal(38, 37)})
    assert derived(tmp_path, small, "round(m, -2)") == [Decimal(0)]


def test_the_greatest_time_of_a_group_without_any(tmp_path: Path) -> None:
    table = pl.DataFrame({"k": [1, 2], "w": [time(10), None]})
    steps = "  t: {read: t.parquet}\n  it: {window: {partition_by: k, low: min(w), high: max(w)}}\n"
    answer = planned(tmp_path, steps, t=table).run("serial").outputs["it"].head
    assert answer.select("low", "high").rows() == [(time(10), time(10)), (None, None)]


@pytest.mark.parametrize(
    ("expression", "answer"),
    [
        ("coalesce(u, 0)", [2**63 + 5, 0, 3]),
        ("coalesce(u, w)", [2**63 + 5, 2, 3]),
        ("greatest(u, 5)", [2**63 + 5, 5, 5]),
        ("CASE WHEN w = 1 THEN u ELSE 0 END", [2**63 + 5, 0, 0]),
    ],
)
def test_numbers_beyond_int64_among_those_that_are_not_negative(
    tmp_path: Path, expression: str, answer: list[int]
) -> None:
    u = pl.Series([2**63 + 5, None, 3], dtype=pl.UInt64)
    assert derived(tmp_path, pl.DataFrame({"u": u, "w": pl.Series([1, 2, None], dtype=pl.UInt8)}), expression) == answer


@pytest.mark.parametrize(("mean", "spread"), [(1e15, 1.0), (1e8, 1e-3), (0.0, 1.0), (-1e16, 10.0)])
def test_the_variance_of_a_window_around_a_large_mean(tmp_path: Path, mean: float, spread: float) -> None:
    random = Random(3)
    numbers = [mean + spread * random.gauss() for _ in range(200)]
    outputs = "near: var(x) OVER (ROWS 19 PRECEDING), all: var(x) OVER (ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING)"
    made = planned(
        tmp_path,
        f"  t: {{read: t.parquet}}\n  it: {{window: {{order_by: i, {outputs}}}}}\n",
        t=pl.DataFrame({"i": range(200), "x": numbers}),
    )
    answer = made.run("serial", head=200).outputs["it"].head
    for i in range(1, 200):
        for name, frame in (("near", numbers[max(0, i - 19) : i + 1]), ("all", numbers)):
            assert answer[name][i] == pytest.approx(float(variance(map(Fraction, frame))), rel=1e-14)


ZONES = [
    "America/New_York",
    "America/Sao_Paulo",
    "America/Havana",
    "Australia/Lord_Howe",
    "Pacific/Apia",
    "Africa/Cairo",
]


@pytest.mark.parametrize("unit", ["ms", "us", "ns"])
@pytest.mark.parametrize("zone", ZONES)
def test_days_where_clocks_are_changed(tmp_path: Path, zone: str, unit: Literal["ms", "us", "ns"]) -> None:
    """Against PEP 495: a time that clocks jump over is as much later; a day that begins twice, or never, begins once."""
    here, random = ZoneInfo(zone), Random(7)
    days = [datetime(2008, 1, 1, tzinfo=UTC) + timedelta(days=n) for n in range(8 * 365)]
    changes = [day for day in days if len({(day + timedelta(days=n)).astimezone(here).utcoffset() for n in (0, 1)}) > 1]
    times = [change + timedelta(minutes=random.randint(-3000, 3000)) for change in changes for _ in range(20)]
    moves = [random.randint(-3, 3) for _ in times]
    column = pl.Series(times).dt.cast_time_unit(unit).dt.convert_time_zone(zone)
    table = pl.DataFrame({"t": column, "n": moves})
    outputs = "moved: t + INTERVAL (n) DAY, day: t + INTERVAL 1 DAY, none: t + INTERVAL 0 DAY, trunc: \"date_trunc('day', t)\""
    made = planned(tmp_path, f"  t: {{read: t.parquet}}\n  it: {{derive: {{{outputs}}}}}\n", t=table)
    answer = made.run("serial", head=len(times)).outputs["it"].head
    assert {answer.schema[name] for name in ("moved", "day", "none", "trunc")} == {pl.Datetime(unit, zone)}

    def instants(local: datetime) -> set[datetime]:
        first, second = (local.replace(tzinfo=here, fold=fold).astimezone(UTC) for fold in (0, 1))
        exists = first.astimezone(here).replace(tzinfo=None) == local
        return {first, second} if exists else {first}

    assert changes
    for row, instant, move in zip(answer.iter_rows(named=True), times, moves, strict=True):
        local = instant.astimezone(here).replace(tzinfo=None, fold=0)
        assert row["moved"].astimezone(UTC) in instants(local + timedelta(days=move))
        assert row["day"].astimezone(UTC) in instants(local + timedelta(days=1))
        assert row["none"].astimezone(UTC) == instant
        midnight = local.replace(hour=0, minute=0)
        assert row["trunc"].astimezone(UTC) == midnight.replace(tzinfo=here).astimezone(UTC)
