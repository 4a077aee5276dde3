"""Keys as one integer: the same groups, the same order, for every type, NULLs and both ends of each type's range."""

from __future__ import annotations

from datetime import date, datetime, time, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from pipelines import load, packing
from pipelines.order import Order
from pipelines.passes import PASSES, Layout
from pipelines.run import execute
from tests.oracle import oracle


def ends(bits: int, signed: bool) -> st.SearchStrategy[int]:
    low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)
    return st.sampled_from([low, low + 1, 1, high - 1, high])


TYPES: list[tuple[pl.DataType, st.SearchStrategy[Any]]] = [
    (pl.String(), st.sampled_from(["", "a", "B", "ü", "€", "😀", "a\x00"])),
    (pl.Boolean(), st.booleans()),
    (pl.Date(), st.sampled_from([date(1, 1, 1), date(1969, 12, 31), date(2020, 2, 29), date(9999, 12, 31)])),
    (pl.Datetime("us", "Europe/Berlin"), st.sampled_from([datetime(1960, 1, 1), datetime(2020, 2, 29, 1, 2, 3, 4)])),
    (pl.Datetime("ns"), st.sampled_from([datetime(1960, 1, 1), datetime(2020, 2, 29, 1, 2, 3, 4)])),
    (pl.Duration("ms"), st.sampled_from([timedelta(-1), timedelta(0), timedelta(days=30)])),
    (pl.Time(), st.sampled_from([time(0), time(23, 59, 59, 999_999)])),
    (pl.Int8(), ends(8, True)),
    (pl.Int16(), ends(16, True)),
    (pl.Int32(), ends(32, True)),
    (pl.UInt8(), ends(8, False)),
    (pl.UInt16(), ends(16, False)),
    (pl.UInt32(), ends(32, False)),
    (pl.Int64(), st.integers(-3, 3)),
    (pl.Int64(), ends(64, True)),
    (pl.UInt64(), st.integers(0, 3)),
    (pl.UInt64(), ends(64, False)),
    (pl.Int64(), st.integers(-(1 << 62), (1 << 62) - 1)),
]


@st.composite
def tables(draw: st.DrawFn) -> tuple[pl.DataFrame, list[str]]:
    n = draw(st.integers(1, 30))
    chosen = draw(st.lists(st.sampled_from(TYPES), min_size=2, max_size=4))
    keys = {
        f"k{i}": pl.Series(draw(st.lists(st.none() | values, min_size=n, max_size=n)), dtype=dtype, strict=True)
        if not isinstance(dtype, pl.Datetime)
        else pl.Series(draw(st.lists(st.none() | values, min_size=n, max_size=n)), dtype=pl.Datetime(dtype.time_unit))
        .dt.replace_time_zone(dtype.time_zone)
        for i, (dtype, values) in enumerate(chosen)
    }  # fmt: skip
    return pl.DataFrame(keys).with_columns(row=pl.int_range(n)), list(keys)


@pytest.fixture(autouse=True)
def _few_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "_LEAST", 1)


def keys_of(frame: pl.DataFrame, names: list[str]) -> dict[str, pl.DataType]:
    return {name: frame.schema[name] for name in names}


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(tables())
def test_groups_are_the_same(given_: tuple[pl.DataFrame, list[str]]) -> None:
    frame, names = given_
    if found := packing.of_table(frame, keys_of(frame, names)):
        table, packed = found
        grouped = table.lazy().group_by(packed.key).agg("row").with_columns(packed.columns).select(*names, "row")
        wanted = frame.group_by(names).agg("row")
        assert_frame_equal(grouped.collect(engine="streaming").with_columns(pl.col("row").list.sort()), wanted, check_row_order=False)  # fmt: skip


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(tables(), st.data())
def test_the_order_is_the_same(given_: tuple[pl.DataFrame, list[str]], data: st.DataObject) -> None:
    frame, names = given_
    falling = data.draw(st.just(()) | st.tuples(*(st.booleans() for _ in names)))
    order = Order(tuple(names), falling)
    assert_frame_equal(packing.ordered(frame, order), order(frame.lazy()).collect())


def test_keys_that_are_packed() -> None:
    """Which are: so that the tests above do not pass for nothing."""
    frame = pl.DataFrame({"s": ["a", None], "i": [0, 5], "w": [-(1 << 61), 1 << 61], "f": [0.5, 1.5], "d": [date(1, 1, 1), None]})  # fmt: skip
    assert [packing.of_table(frame, keys_of(frame, names)) is not None for names in (["s", "i"], ["s", "d", "i"])] == [True, True]  # fmt: skip
    assert [packing.of_table(frame, keys_of(frame, names)) for names in (["s"], ["s", "f"], ["w", "i"])] == [None, None, None]  # fmt: skip


def test_many_different_texts_are_not_numbered() -> None:
    texts = pl.DataFrame({"s": [str(i) for i in range(20_000)], "i": [i % 3 for i in range(20_000)]})
    assert packing.of_table(texts, keys_of(texts, ["s", "i"])) is None
    few = texts.with_columns(s=pl.col("i").cast(pl.String))
    assert packing.of_table(few, keys_of(few, ["s", "i"])) is not None


JOINS = {
    "inner": "join: {on: k}",
    "left": "join: {on: k, how: left}",
    "right": "join: {on: k, how: right}",
    "full": "join: {on: k, how: full}",
    "asof": "join_asof: {on: row, by: k}",
}


@pytest.mark.parametrize("how", JOINS)
@pytest.mark.parametrize("executor", ["serial", "threads", "local"])
@pytest.mark.parametrize("passes", [frozenset(PASSES), frozenset(PASSES) - {"broadcast"}], ids=["sent", "met"])
def test_texts_of_a_joined_table(
    project: Path, how: str, executor: str, passes: frozenset[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Grouped by texts of the small table, also after a filter and a column more; used as an argument too; not one, no match."""
    n = 200
    days = pl.Series([date(2020, 1, 1 + i % 5) if i % 11 else None for i in range(n)])
    prices = pl.DataFrame({"k": [i % 7 if i % 13 else None for i in range(n)], "row": range(n), "day": days, "x": [i / 7 for i in range(n)]})  # fmt: skip
    small = pl.DataFrame({"k": [0, 1, 2, 3, 3, 9], "row": [0] * 6, "s": ["ü", "a", None, "a", "", "z"]})
    prices.write_parquet(project / "a.parquet")
    small.write_parquet(project / "b.parquet")
    (project / "c.yaml").write_text(f"""
steps:
  a: {{read: {{path: a.parquet, partitions: 3}}}}
  b: {{read: b.parquet}}
  met: {{from: [a, b], {JOINS[how]}}}
  some: {{from: met, filter: x <> 3}}
  more: {{from: some, derive: {{y: "x * 2"}}}}
  t: {{from: more, aggregate: {{by: [s, day], x: avg(y), first: first(x), most: max(s)}}}}
  sums: {{from: met, aggregate: {{by: [day, s], x: sum(x)}}}}
""")
    made = load(project / "c.yaml")
    wanted = oracle(made.plan())
    packed, of_side = list[object](), packing.of_side
    monkeypatch.setattr(packing, "of_side", lambda *given: packed.append(of_side(*given)) or packed[-1])
    for step in ("t", "sums"):
        found = execute(made.plan(), executor, to=step, head=1 << 40, layout=Layout(passes, None)).outputs[step].head
        assert_frame_equal(found, wanted[step], check_exact=True)
    if how in ("inner", "left") and executor != "local":  # there other processes pack
        assert packed
        assert all(packed)
