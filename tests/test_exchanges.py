"""Rows that travel between partitions: the same answer as in one place, wherever they wait and however they are cut."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from pipelines import DataError, load
from pipelines.exchange import Cuts, Hash, Range, Room, Share, numbered, room, within
from pipelines.order import Order
from pipelines.passes import PASSES, Layout
from pipelines.pipeline import Pipeline
from pipelines.run import execute
from tests.oracle import oracle

MEMORY = Room("", 1 << 40)

VALUES: dict[str, tuple[pl.DataType, st.SearchStrategy[Any]]] = {
    "i": (pl.Int64(), st.integers(-3, 3)),
    "f": (pl.Float64(), st.sampled_from([0.0, -0.0, math.nan, math.inf, -math.inf, 1.5])),
    "s": (pl.String(), st.sampled_from(["", "a", "B", "ü", "€", "😀", "a\x00"])),
    "b": (pl.Boolean(), st.booleans()),
    "d": (pl.Date(), st.sampled_from([date(1969, 1, 1), date(2020, 2, 29)])),
    "t": (pl.Datetime("ns"), st.sampled_from([datetime(1960, 1, 1), datetime(2020, 2, 29, 1, 2, 3, 4)])),
    "c": (pl.Decimal(10, 2), st.sampled_from([Decimal("-1.25"), Decimal("3.00")])),
    "y": (pl.Binary(), st.sampled_from([b"", b"\xff", b"a"])),
    "e": (pl.Enum(["z", "a"]), st.sampled_from(["z", "a"])),
    "g": (pl.Categorical(), st.sampled_from(["z", "a"])),
}


@st.composite
def tables(draw: st.DrawFn, most: int = 40) -> pl.DataFrame:
    n = draw(st.integers(0, most))
    columns = {
        name: pl.Series(name, draw(st.lists(st.none() | values, min_size=n, max_size=n)), dtype)
        for name, (dtype, values) in VALUES.items()
    }
    return pl.DataFrame(columns).with_columns(row=pl.int_range(n))


def pieces(frame: pl.DataFrame, n: int) -> list[pl.DataFrame]:
    size = -(-len(frame) // n) or 1
    return [frame.slice(i * size, size) for i in range(n)]


@settings(max_examples=150, deadline=None)
@given(tables(), st.lists(st.sampled_from(list(VALUES)), min_size=1, max_size=3, unique=True), st.data())
def test_a_range_exchange_sorts(frame: pl.DataFrame, by: list[str], data: st.DataObject) -> None:
    order = Order(tuple(by), tuple(data.draw(st.booleans()) for _ in by))
    parts, readers = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 6))
    with_files = data.draw(st.booleans())
    with room(Path("runs"), 0) if with_files else _in_memory() as where:
        parcels = [Range(order, data.draw(st.integers(1, 8)), where)(p, i) for i, p in enumerate(pieces(frame, parts))]
        points = Cuts(order, readers)(parcels)
        found = [
            pl.concat([frame.clear(), *(f for i, p in enumerate(parcels) for f in within(p, i, points, r, order))])
            for r in range(readers)
        ]
    merged = pl.concat([order(part.lazy()).collect() for part in found])
    assert_frame_equal(merged, order(frame.lazy()).collect())


class _in_memory:
    def __enter__(self) -> Room:
        return MEMORY

    def __exit__(self, *_: object) -> None: ...


def test_a_range_exchange_cuts_equal_keys_too() -> None:
    """One giant key does not end in one partition."""
    frame = pl.DataFrame({"k": [1] * 10_000, "row": range(10_000)})
    order = Order(("k",))
    parcels = [Range(order, 16, MEMORY)(part, i) for i, part in enumerate(pieces(frame, 3))]
    points = Cuts(order, 4)(parcels)
    sizes = [sum(len(f) for i, p in enumerate(parcels) for f in within(p, i, points, r, order)) for r in range(4)]
    assert sum(sizes) == 10_000
    assert max(sizes) < 3500


@settings(max_examples=150, deadline=None)
@given(st.lists(st.lists(st.integers(0, 30), min_size=4, max_size=4), min_size=2, max_size=6), st.data())
def test_every_slot_is_taken_once(rows: list[list[int]], data: st.DataObject) -> None:
    first = data.draw(st.integers(1, len(rows) - 1))
    divisible = data.draw(st.booleans())
    shares = Share(data.draw(st.integers(1, 6)), (first, len(rows) - first), divisible)([tuple(r) for r in rows])
    taken = [(slot, i) for units in shares for slot, start, stop in units for i in range(start, stop)]
    assert sorted(taken) == [(slot, i) for slot in range(4) for i in range(first)]
    if not divisible:
        assert sorted(slot for units in shares for slot, _, _ in units) == [0, 1, 2, 3]


def test_a_giant_key_is_shared_out_where_it_may_be() -> None:
    rows = [(10_000, 10)] * 8 + [(5, 5)]
    shares = Share(4, (8, 1), True)(rows)
    loads = [sum(rows[i][slot] for slot, start, stop in units for i in range(start, stop)) for units in shares]
    assert max(loads) <= 20_100
    assert max(len(units) for units in Share(4, (8, 1), False)(rows)) == 1


def test_rows_wait_in_memory_up_to_a_limit_and_then_in_files(tmp_path: Path) -> None:
    frame = pl.DataFrame({"k": range(1000), "s": ["ü"] * 1000})
    with room(tmp_path / "x", int(frame.estimated_size() * 1.5)) as where:
        parcels = [Hash(("k",), (pl.Int64(),), 4, where)(frame, i) for i in range(3)]
        assert [bool(parcel.frames) for parcel in parcels] == [True, False, False]
        for parcel in parcels:
            assert_frame_equal(pl.concat(list(parcel.slots(range(4)))).sort("k"), frame)
        files = [name for name in os.listdir(where.folder) if name != "lock"]
        assert len(files) == 2
        del parcels, parcel
        assert Hash(("k",), (pl.Int64(),), 4, where)(frame, 0).frames  # what is let go makes room
    assert not (tmp_path / "x").exists()


def test_what_a_killed_process_left_is_removed_by_the_next(tmp_path: Path) -> None:
    program = f"""
import os, signal
from pathlib import Path
from pipelines.exchange import room
with room(Path({str(tmp_path / "x")!r}), 0) as where:
    (Path(where.folder) / "rows").write_text("x")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", program], check=False, timeout=60)
    left = list((tmp_path / "x").iterdir())
    assert len(left) == 1
    with room(tmp_path / "x", 0) as one, room(tmp_path / "x", 0) as two:
        assert not left[0].exists()
        assert Path(one.folder).exists()  # of a process that is at work
        assert Path(two.folder).exists()


def test_a_full_disk_is_one_clear_error_and_leaves_nothing(tmp_path: Path) -> None:
    frame = pl.DataFrame({"k": range(100_000)})
    program = f"""
import resource, signal
from pathlib import Path
import polars as pl
from pipelines.errors import MachineError
from pipelines.exchange import Hash, room
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
with room(Path({str(tmp_path / "x")!r}), 0) as where:
    try:
        Hash(("k",), (pl.Int64(),), 4, where)(pl.DataFrame({{"k": range({len(frame)})}}), 0)
    except MachineError as error:
        print(error, [p.name for p in Path(where.folder).iterdir()])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert "File too large" in done.stdout
    assert "os error" not in done.stdout
    assert "['lock']" in done.stdout


def test_rows_are_numbered_across_partitions() -> None:
    frame = numbered(pl.DataFrame({"x": [1, 2]}), "n", 3)
    assert frame["n"].to_list() == [3 << 40, (3 << 40) + 1]


# ---- whole pipelines

STEPS = {
    **{f"{how} join": f"{{from: [a, b], join: {{on: k, how: {how}}}}}" for how in ("inner", "left", "right", "full", "semi", "anti")},
    "join on two": "{from: [a, b], join: {on: {k: k, s: s2}, how: left}}",
    "sort": "{from: a, sort: {by: [f, s], descending: [f]}}",
    "aggregate": "{from: a, aggregate: {by: [k, s], m: avg(f), n: count(*), first: first(i)}}",
    "median": "{from: a, aggregate: {by: [k], m: median(f), d: count(DISTINCT s)}}",
    "distinct": "{from: a, distinct: [k, f, s]}",
}  # fmt: skip


def config(project: Path, steps: str, left: pl.DataFrame, right: pl.DataFrame, parts: tuple[int, int]) -> Pipeline:
    for name, frame in (("a", left), ("b", right)):
        frame.write_parquet(project / f"{name}.parquet")
    (project / "c.yaml").write_text(
        f"steps:\n  a: {{read: {{path: a.parquet, partitions: {parts[0]}}}}}\n"
        f"  b: {{read: {{path: b.parquet, partitions: {parts[1]}}}}}\n{steps}"
    )
    return load(project / "c.yaml")


def ran(made: Pipeline, executor: str, layout: Layout, step: str = "t") -> pl.DataFrame:
    return execute(made.plan(), executor, to=step, head=1 << 40, layout=layout).outputs[step].head


keys = st.sampled_from([None, 0, 1, 2, 3])
floats = st.sampled_from([None, 0.0, -0.0, math.nan, math.inf, 2.5, 1e300])
texts = st.sampled_from([None, "", "a", "ü"])


@st.composite
def sides(draw: st.DrawFn) -> tuple[pl.DataFrame, pl.DataFrame]:
    n, m = draw(st.sampled_from([0, 1, 7, 30])), draw(st.sampled_from([0, 1, 9]))
    giant = draw(st.booleans())

    def many(values: st.SearchStrategy[Any], count: int) -> list[Any]:
        return draw(st.lists(values, min_size=count, max_size=count))

    left = {"k": [1] * n if giant else many(keys, n), "f": many(floats, n), "s": many(texts, n), "i": list(range(n))}
    right = {"k": many(keys, m), "s2": many(texts, m), "j": list(range(m))}
    return (
        pl.DataFrame(left, schema={"k": pl.Int64(), "f": pl.Float64(), "s": pl.String(), "i": pl.Int64()}),
        pl.DataFrame(right, schema={"k": pl.Int32(), "s2": pl.String(), "j": pl.Int64()}),
    )


@pytest.mark.parametrize("name", STEPS)
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sides(), st.integers(2, 9), st.integers(1, 4), st.sampled_from([None, 2, 16]), st.booleans())
def test_every_exchange_equals_the_oracle(
    project: Path, name: str, given_: tuple[pl.DataFrame, pl.DataFrame], n: int, m: int, parts: int | None, some: bool
) -> None:
    made = config(project, f"  t: {STEPS[name]}\n", *given_, (n, m))
    passes = frozenset(PASSES) - {"broadcast"} if some else frozenset[str]()
    wanted = oracle(made.plan())["t"]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("pipelines.packing._LEAST", 1)
        found = ran(made, "threads", Layout(passes, parts))
    assert_frame_equal(found, wanted, check_exact=True, check_dtypes=True)


@pytest.mark.parametrize("how", ["inner", "left", "right", "full", "semi", "anti"])
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sides())
def test_joins_equal_duckdb(project: Path, how: str, given_: tuple[pl.DataFrame, pl.DataFrame]) -> None:
    a, b = given_
    made = config(project, f"  t: {{from: [a, b], join: {{on: k, how: {how}}}}}\n", a, b, (1, 1))
    values = "a.*" if how in ("semi", "anti") else "coalesce(a.k, b.k) as k, a.f, a.s, a.i, b.s2, b.j"
    reference = duckdb.sql(f"select {values} from a {how} join b on a.k = b.k").pl()
    answer = oracle(made.plan())["t"]
    order = [c for c in ("i", "j") if c in answer.columns]
    assert_frame_equal(answer.sort(order), reference.cast(dict(answer.schema)).sort(order), check_exact=True)


@pytest.mark.parametrize("executor", ["serial", "processes", "local"])
def test_every_executor_has_the_same_rows(project: Path, executor: str) -> None:
    n = 3000
    left = pl.DataFrame({"k": [i * 7 % 101 for i in range(n)], "f": [i * 0.1 for i in range(n)], "s": [str(i % 13) for i in range(n)], "i": range(n)})  # fmt: skip
    right = pl.DataFrame({"k": pl.Series([i % 120 for i in range(200)], dtype=pl.Int32), "s2": [str(i % 7) for i in range(200)], "j": range(200)})  # fmt: skip
    steps = "".join(f"  t{i}: {step}\n" for i, step in enumerate(STEPS.values()))
    writes = "".join(
        f"  w{i}: {{from: t{i}, write: {{path: o{i}.parquet, overwrite: true}}}}\n" for i in range(len(STEPS))
    )
    made = config(project, steps + writes, left, right, (5, 3))
    execute(made.plan(), executor, layout=Layout(frozenset(PASSES) - {"broadcast"}, 4))
    wanted = oracle(made.plan())
    for i in range(len(STEPS)):
        assert_frame_equal(pl.read_parquet(project / f"o{i}.parquet"), wanted[f"t{i}"], check_exact=True)
    assert not (project / "runs" / ".exchanges").exists()


TYPES = [
    (pl.Int32(), pl.Int64()), (pl.UInt8(), pl.Int16()), (pl.Float32(), pl.Float64()), (pl.Int16(), pl.Float32()),
    (pl.Decimal(10, 1), pl.Decimal(12, 3)), (pl.Date(), pl.Datetime("us")), (pl.Datetime("ms"), pl.Datetime("us")),
]  # fmt: skip


@pytest.mark.parametrize(("one", "other"), TYPES, ids=str)
@pytest.mark.parametrize("how", ["inner", "full", "anti"])
def test_keys_of_two_types_meet(project: Path, one: pl.DataType, other: pl.DataType, how: str) -> None:
    common = pl.Date() if one.is_temporal() else pl.Int8()
    left = pl.DataFrame({"k": pl.Series([1, 2, 3, 2, None]).cast(common).cast(one), "i": range(5)})
    right = pl.DataFrame({"k": pl.Series([2, 3, 9, None]).cast(common).cast(other), "j": range(4)})
    made = config(project, f"  t: {{from: [a, b], join: {{on: k, how: {how}}}}}\n", left, right, (3, 2))
    answer = ran(made, "threads", Layout(frozenset(), 16))
    assert_frame_equal(answer, oracle(made.plan())["t"], check_exact=True)
    assert answer["i"].drop_nulls().to_list() == (
        [0, 4] if how == "anti" else [1, 2, 3] if how == "inner" else [0, 1, 2, 3, 4]
    )


def test_what_validate_says_is_looked_at_wherever_the_rows_are(project: Path) -> None:
    left = pl.DataFrame({"k": [1, 2, 2, None, None], "i": range(5)})
    right = pl.DataFrame({"k": [1, 2, 3, None, None], "j": range(5)})
    for how in ("inner", "left", "full"):
        for layout in (Layout(), Layout(frozenset(), 4)):
            step = f"  t: {{from: [a, b], join: {{on: k, how: {how}, validate: %s}}}}\n"
            ran(config(project, step % "many_to_one", left, right, (2, 2)), "threads", layout)
            made = config(project, step % "one_to_one", left, right, (5, 2))
            with pytest.raises(DataError, match="k = 2 is 2 times in the left table"):
                ran(made, "threads", layout)


# ---- passes


PLANS = {
    "shared": "  c: {from: a, filter: k > 0}\n  d: {from: a, filter: k > 0}\n  t: {from: [c, d], join: {on: i}}\n",
    "filters": "  j: {from: [a, b], join: {on: k, how: left}}\n  c: {filter: i > 3 AND k < 3}\n  t: {sort: [s, i]}\n",
    "columns": "  j: {from: [a, b], join: {on: k}}\n  t: {aggregate: {by: s, n: count(*), m: max(i)}}\n",
    "order": "  j: {from: [a, b], join: {on: k, broadcast: false}}\n  t: {aggregate: {by: s, n: sum(f)}}\n",
    "partial": "  t: {from: a, aggregate: {by: [k, s], n: sum(f), m: max(i)}}\n",
    "broadcast": "  j: {from: [a, b], join: {on: k, how: left}}\n  t: {filter: i > 2}\n",
    "placement": "  d: {from: a, distinct: [k, s]}\n  t: {aggregate: {by: [k, s], n: median(k)}}\n",
}


@pytest.mark.parametrize("name", PASSES)
@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sides())
def test_no_pass_changes_an_answer(project: Path, name: str, given_: tuple[pl.DataFrame, pl.DataFrame]) -> None:
    made = config(project, PLANS[name], *given_, (4, 3))
    wanted = oracle(made.plan())["t"]
    for passes in (frozenset(PASSES), frozenset(PASSES) - {name}, frozenset({name})):
        assert_frame_equal(ran(made, "threads", Layout(passes, 5)), wanted, check_exact=True)


def test_layouts_do_not_change_bytes(project: Path) -> None:
    left = pl.DataFrame({"k": [i % 17 for i in range(500)], "f": [0.1 * i for i in range(500)], "s": ["x"] * 500, "i": range(500)})  # fmt: skip
    right = pl.DataFrame({"k": range(20), "s2": ["y"] * 20, "j": range(20)})
    written = set()
    for layout in (Layout(), Layout(frozenset(), 3), Layout(frozenset(PASSES) - {"broadcast"}, 16)):
        made = config(
            project, PLANS["order"] + "  w: {write: {path: o.parquet, overwrite: true}}\n", left, right, (6, 2)
        )
        execute(made.plan(), "threads", layout=layout)
        written.add((project / "o.parquet").read_bytes())
    assert len(written) == 1
