"""Each aggregate against DuckDB and exact arithmetic: any order, any partitioning, every type, NaN, infinities and ties."""

from __future__ import annotations

import math
import random
import statistics
import struct
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from pipelines.aggregates import FUNCTIONS
from pipelines.errors import DataError, Place
from pipelines.exchange import Hash, Room
from pipelines.kernel import KernelError, collect
from pipelines.source import Node
from pipelines.steps.aggregate import Aggregate, Aggregated, AggregatedByKey
from pipelines.steps.base import Context, Operation, Problems

REDUCED = ("count", "sum", "avg", "min", "max", "var", "std", "first", "last")


def bind(schema: dict[str, pl.DataType], by: str = "", **outputs: str) -> Operation:
    problems = Problems(Node({}, Place("t", 1, 1)))
    made = Aggregate.model_validate({"by": [by] if by else [], **outputs}).bind(schema, problems, Context(Path()))
    assert made is not None, problems.issues
    return made


def reduced(step: Operation, parts: list[pl.DataFrame], fan_in: int = 2) -> pl.DataFrame:
    """Partial in every part, combined in a tree, finished: by the step's own operations."""
    assert isinstance(step, Aggregated)
    states = list[pl.DataFrame]()
    for part in parts:
        for way in step.ways:
            state = collect(way(part.lazy()), step.state, streams=step.any_order)
            if way == step.ways[-1] or not step.fails(state):
                break
        states.append(state)
    while len(states) > fan_in:
        groups = [states[i : i + fan_in] for i in range(0, len(states), fan_in)]
        states = [collect(step.combine(pl.concat(group).lazy()), step.state) for group in groups]
    return collect(step.apply(pl.concat(states).lazy()), step.schema)


def pieces(frame: pl.DataFrame, parts: int) -> list[pl.DataFrame]:
    size = max(1, -(-len(frame) // parts))
    return [frame.slice(i * size, size) for i in range(parts)]


def bits(value: float | None) -> Any:
    return None if value is None else "nan" if math.isnan(value) else struct.pack("<d", value)


# ---- exact sums


ADVERSARIES: dict[str, list[float]] = {
    "around the limits of one sum": [
        s * (2.0**e + d) for e in (-21, -20, -19, 28, 29, 30) for s in (1, -1, 1) for d in (0.0, 2.0 ** (e - 52))
    ],
    "within one sum": [s * (2.0**e - 2.0 ** (e - 53)) for e in range(-19, 31) for s in (1, 1, -1)] * 20,
    "around the limbs' limits": [
        s * (2.0**e + d) for e in (-58, -57, -56, 62, 63, 64) for s in (1, -1, 1) for d in (0.0, 2.0 ** (e - 52))
    ],
    "one tiny among many": [1.0] * 1000 + [2.0**-60] + [0.1] * 999,
    "half way": [1.0, 2.0**-53, 2.0**-106, 2.0**53, 1.0, -1.0, 2.0**-30],
    "sum overflows, mean does not": [1e308] * 10,
    "cancels to a subnormal": [1e300, 5e-324, -1e300],
    "zeros": [0.0, -0.0, -0.0],
    "mixed magnitudes": [
        random.Random(1).choice([1e12, 1.0, 1e-12]) * random.Random(i).uniform(-1, 1) for i in range(3000)
    ],
    "cancelling": [s * v for v in (1e16, 1.0, 3e-9, 1e-20) for s in (1, -1)] * 50 + [1e-30],
    "huge": [1e308, -1e308, 1.0, 1e300, -1e300, 2.0],
    "tiny": [5e-324, 1e-310, -5e-324, 2.5e-320] * 10,
    "wide": [2.0**e * s for e in range(-1074, 1000, 7) for s in (1, -1, 1)],
    "prices": [round(100 + i * 0.01, 2) for i in range(5000)],
}


@pytest.mark.parametrize("name", ADVERSARIES)
def test_sums_have_one_answer_for_any_order_parts_and_tree(name: str) -> None:
    values = list(ADVERSARIES[name])
    step = bind({"x": pl.Float64()}, total="sum(x)", mean="avg(x)")
    seen = set[tuple[Any, Any]]()
    for parts in (1, 2, 5, 33):
        for fan_in in (2, 3, 32):
            random.Random(parts * fan_in).shuffle(values)
            total, mean = reduced(step, pieces(pl.DataFrame({"x": values}), parts), fan_in).row(0)
            seen.add((bits(total), bits(mean)))
    assert len(seen) == 1
    try:
        exact = math.fsum(values)
    except OverflowError:
        assert total == math.inf
        assert mean == 1e308
        return
    assert abs(total - exact) <= math.ulp(exact)
    assert abs(mean - exact / len(values)) <= 2 * math.ulp(exact / len(values))


def test_a_great_many_rows() -> None:
    """States of more rows than fit into memory, made of combined copies of one."""
    step = bind({"x": pl.Float64()}, total="sum(x)", mean="avg(x)")
    assert isinstance(step, Aggregated)
    state = collect(step.far(pl.LazyFrame({"x": [0.1, 2.0**62, -(2.0**62), 0.7]})), step.state)
    assert not step.fails(state)
    for _ in range(30):
        state = collect(step.combine(pl.concat([state, state]).lazy()), step.state)
    total, mean = collect(step.apply(state.lazy()), step.schema).row(0)
    assert total == pytest.approx(0.8 * 2**30, rel=1e-15)
    assert mean == pytest.approx(0.2, rel=1e-15)


@pytest.mark.parametrize("rows", [2**25, 2**25 + 1])
def test_a_great_many_rows_of_one_partition(rows: int) -> None:
    """One Int128 holds the sum of so many of the largest near values, and not of one more."""
    step = bind({"x": pl.Float64()}, total="sum(x)")
    assert isinstance(step, Aggregated)
    largest = 2.0**30 - 2.0**-23
    state = collect(step.partial(pl.select(x=pl.repeat(largest, rows)).lazy()), step.state)
    assert step.fails(state) == (rows > 2**25)
    if rows == 2**25:
        assert collect(step.apply(state.lazy()), step.schema).item() == math.ldexp(largest, 25)


NEAR = (
    st.floats(2.0**-20, 2.0**30, exclude_max=True)
    | st.floats(-(2.0**30), -(2.0**-20), exclude_min=True)
    | st.just(-0.0)
)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("ab"), st.none() | NEAR), max_size=40))
def test_near_values_have_the_same_answer_in_every_way(rows: list[tuple[str, float | None]]) -> None:
    step = bind({"k": pl.String(), "x": pl.Float64()}, by="k", total="sum(x)", mean="avg(x)", n="count(x)")
    assert isinstance(step, Aggregated)
    frame = pl.DataFrame(rows, schema={"k": pl.String, "x": pl.Float64}, orient="row").lazy()
    states = [collect(way(frame), step.state) for way in step.ways]
    assert not any(map(step.fails, states))
    near, far, careful = (collect(step.apply(state.lazy()), step.schema) for state in states)
    assert near.equals(far)
    assert near.equals(careful)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from("ab"), st.none() | st.floats(width=64)), max_size=30),
    st.integers(1, 5),
    st.randoms(),
)
def test_grouped_sums_have_one_answer(rows: list[tuple[str, float | None]], parts: int, order: random.Random) -> None:
    step = bind({"k": pl.String(), "x": pl.Float64()}, by="k", total="sum(x)", mean="avg(x)", n="count(x)")
    shuffled = list(rows)
    order.shuffle(shuffled)
    schema = {"k": pl.String, "x": pl.Float64}
    frames = [pl.DataFrame(r, schema=schema, orient="row") for r in (rows, shuffled)]
    one, other = (reduced(step, pieces(frame, parts + i)) for i, frame in enumerate(frames))
    whole = collect(step.whole(frames[0].lazy()), step.schema)
    for answer in (other, whole):
        assert [[bits(v) for v in one[c]] for c in ("total", "mean")] == [
            [bits(v) for v in answer[c]] for c in ("total", "mean")
        ]


@settings(max_examples=150, deadline=None)
@given(st.lists(st.none() | st.floats(width=64), max_size=40), st.integers(1, 6), st.randoms())
def test_any_floats(values: list[float | None], parts: int, order: random.Random) -> None:
    step = bind({"x": pl.Float64()}, total="sum(x)", mean="avg(x)")
    shuffled = list(values)
    order.shuffle(shuffled)
    frames = [pl.DataFrame({"x": v}, schema={"x": pl.Float64}) for v in (values, shuffled)]
    (total, mean), again = (reduced(step, pieces(f, n)).row(0) for f, n in zip(frames, (parts, 3), strict=True))
    assert (bits(total), bits(mean)) == (bits(again[0]), bits(again[1]))
    there = [v for v in values if v is not None]
    if not there:
        assert total is None
    elif not all(map(math.isfinite, there)):
        assert bits(total) == bits(sum(v for v in there if not math.isfinite(v)))
    else:
        try:
            exact = math.fsum(there)
        except OverflowError:
            return
        assert total is not None
        assert abs(total - exact) <= math.ulp(exact)


def test_groups_with_odd_values_do_not_spoil_the_others() -> None:
    step = bind({"k": pl.Int64(), "x": pl.Float64()}, by="k", s="sum(x)")
    frame = pl.DataFrame({"k": [1, 1, 2, 2, 3, 3], "x": [0.1, 0.2, math.nan, 1.0, 1e-30, 1.0]})
    answer = reduced(step, [frame.slice(0, 3), frame.slice(3)])
    assert [bits(v) for v in answer["s"]] == [bits(v) for v in (math.fsum([0.1, 0.2]), math.nan, 1.0)]


INTEGERS = [pl.Int8(), pl.Int16(), pl.Int32(), pl.Int64(), pl.UInt8(), pl.UInt16(), pl.UInt32(), pl.UInt64()]


@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
def test_integer_sums_are_wide_and_never_wrap(dtype: pl.DataType) -> None:
    low, high = pl.select(dtype.min()).item(), pl.select(dtype.max()).item()  # type: ignore[attr-defined]
    step = bind({"i": dtype}, total="sum(i)", mean="avg(i)")
    values = [high, low, None, high, 1] if high < 2**62 else [high - 10, None, 1, 2]
    frame = pl.DataFrame({"i": values}, schema={"i": dtype})
    there = [v for v in values if v is not None]
    for parts in (1, 2, 4):
        total, mean = reduced(step, pieces(frame, parts)).row(0)
        assert total == sum(there)
        assert mean == pytest.approx(sum(there) / len(there), rel=1e-15)
    assert step.schema["total"] == (pl.UInt64() if dtype == pl.UInt64() else pl.Int64())
    if high >= 2**62:
        with pytest.raises(DataError, match=f"does not fit {'uint64' if dtype == pl.UInt64() else 'int64'}"):
            reduced(step, pieces(pl.DataFrame({"i": [high, high]}, schema={"i": dtype}), 2))


def test_sums_of_booleans_and_float32() -> None:
    step = bind({"b": pl.Boolean(), "f": pl.Float32()}, b="sum(b)", f="sum(f)")
    frame = pl.DataFrame(
        {"b": [True, None, True, False], "f": [0.1, 0.2, None, 1e30]}, schema_overrides={"f": pl.Float32}
    )
    b, f = reduced(step, pieces(frame, 3)).row(0)
    assert b == 2
    assert f == math.fsum(v for v in frame["f"] if v is not None)


def test_sums_of_decimals() -> None:
    step = bind({"d": pl.Decimal(20, 2)}, total="sum(d)", mean="avg(d)", most="max(d)")
    frame = pl.DataFrame(
        {"d": [Decimal("1.25"), None, Decimal("-0.10"), Decimal("3.00")]}, schema={"d": pl.Decimal(20, 2)}
    )
    total, mean, most = reduced(step, pieces(frame, 2)).row(0)
    assert (total, most) == (Decimal("4.15"), Decimal("3.00"))
    assert mean == pytest.approx(4.15 / 3, rel=1e-15)


@pytest.mark.parametrize("parts", [1, 2])
def test_decimal_sums_do_not_wrap(parts: int) -> None:
    step = bind({"d": pl.Decimal(38, 0)}, total="sum(d)")
    large = pl.DataFrame({"d": [Decimal(9 * 10**37)] * 2}, schema={"d": pl.Decimal(38, 0)})
    with pytest.raises((DataError, KernelError)):  # a run makes a DataError of it
        reduced(step, pieces(large, parts))
    small = pl.DataFrame({"d": [Decimal(4 * 10**37)] * 2}, schema={"d": pl.Decimal(38, 0)})
    assert reduced(step, pieces(small, parts)).item() == Decimal(8 * 10**37)


# ---- against DuckDB

VALUES = st.none() | st.sampled_from([math.nan, math.inf, -math.inf, 0.0, -0.0, 1.5, -2.25]) | st.floats(-1e6, 1e6)
SQL = {
    "count": "count(x)", "min": "min(x)", "max": "max(x)", "first": "first(x order by row)", "last": "last(x order by row)",
    "count_distinct": "count(distinct x)", "sum": "sum(x)", "avg": "avg(x)",
}  # fmt: skip


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["a", "b", None]), VALUES), max_size=25), st.sampled_from(["", "k"]))
def test_functions_equal_duckdb_with_nan_and_inf(rows: list[tuple[Any, Any]], by: str) -> None:
    frame = pl.DataFrame(rows, schema={"k": pl.String, "x": pl.Float64}, orient="row")
    outputs = {f"o_{f}": "count(distinct x)" if f == "count_distinct" else f"{f}(x)" for f in SQL}
    step = bind(dict(frame.schema), by=by, **outputs)
    answer = collect(step.whole(frame.lazy()), step.schema)
    numbered = frame.with_row_index("row")  # noqa: F841 - DuckDB reads it by its name
    columns = ", ".join(f"{text} as o_{name}" for name, text in SQL.items())
    group = "group by k order by k nulls last" if by else ""
    reference = duckdb.sql(f"select {'k, ' if by else ''}{columns} from numbered {group}").pl()
    assert_frame_equal(answer, reference.cast(dict(answer.schema)), rel_tol=1e-9, abs_tol=1e-6)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1.0, math.inf], math.inf),
        ([1.0, math.nan, 2.0], 2.0),
        ([3.0, None, 1.0], 2.0),
        pytest.param([-math.inf, 0.0], -math.inf),
        pytest.param([-1.5e308, 1.5e308], 0.0),
    ],
)
def test_medians(values: list[float | None], expected: float) -> None:
    step = bind({"x": pl.Float64()}, m="median(x)")
    assert collect(step.whole(pl.LazyFrame({"x": values})), step.schema).item() == expected


@settings(max_examples=40, deadline=None)
@given(st.lists(st.none() | st.floats(-1e6, 1e6), max_size=25), st.integers(1, 5))
def test_var_and_std_equal_duckdb(values: list[float | None], parts: int) -> None:
    frame = pl.DataFrame({"x": values}, schema={"x": pl.Float64})
    step = bind(dict(frame.schema), v="var(x)", s="std(x)")
    v, s = reduced(step, pieces(frame, parts)).row(0)
    expected = duckdb.sql("select var_samp(x), stddev_samp(x) from frame").fetchall()[0]
    if len([x for x in values if x is not None]) < 2:
        assert (v, s) == (None, None) == expected
        return
    scale = max(abs(x) for x in values if x is not None) ** 2
    assert v == pytest.approx(expected[0], rel=1e-12, abs=1e-12 * scale)
    assert s == pytest.approx(math.sqrt(v), rel=1e-15)


@pytest.mark.parametrize("special", [math.nan, math.inf, -math.inf])
def test_var_of_what_is_not_finite_is_nan(special: float) -> None:
    frame = pl.DataFrame({"x": [1.0, special, 2.0, 3.0]})
    step = bind(dict(frame.schema), v="var(x)", s="std(x)")
    for parts in (1, 2, 4):
        assert all(map(math.isnan, reduced(step, pieces(frame, parts)).row(0)))


@pytest.mark.parametrize("offset", [0.0, 1e3, 1e9, -1e12, 1e15])
@pytest.mark.parametrize("by", ["", "k"])
def test_var_is_exact_however_far_the_mean_is(offset: float, by: str) -> None:
    values = [offset + random.Random(i).gauss(0, 1) for i in range(2000)]
    step = bind({"k": pl.Int64(), "x": pl.Float64()}, by=by, v="var(x)", s="std(x)")
    exact = statistics.variance(map(Fraction, values))
    for parts in (1, 3, 50):
        row = reduced(step, pieces(pl.DataFrame({"k": [1] * 2000, "x": values}), parts)).row(0, named=True)
        assert abs(Fraction(row["v"]) / exact - 1) < 1e-12
        assert row["s"] == pytest.approx(math.sqrt(exact), rel=1e-12)


def test_var_of_an_outlier_before_all_others() -> None:
    values = [0.0] + [1e9 + random.Random(i).random() for i in range(999)]
    step = bind({"x": pl.Float64()}, v="var(x)")
    exact = statistics.variance(map(Fraction, values))
    for parts in (1, 2, 1000):
        v = reduced(step, pieces(pl.DataFrame({"x": values}), parts)).item()
        assert abs(Fraction(v) / exact - 1) < 1e-12


# ---- FILTER and DISTINCT

ROWS = st.lists(
    st.tuples(st.sampled_from(["a", "b", None]), st.none() | st.integers(-3, 3), VALUES, st.none() | st.booleans()),
    max_size=25,
)
FILTERED = {
    "o1": "count(*) filter (where c)", "o2": "count(i) filter (where i > 0)", "o3": "sum(i) filter (where c)",
    "o4": "min(x) filter (where c)", "o5": "max(x) filter (where i > 0 or c)", "o6": "avg(i) filter (where not c)",
    "o7": "sum(x) filter (where i is null)", "o8": "sum(i) filter (where false)", "o9": "sum(10 // nullif(i, 0)) filter (where i > 0)",
}  # fmt: skip
DISTINCT = {
    "d1": "count(distinct i)", "d2": "sum(distinct i)", "d3": "avg(distinct i)", "d4": "sum(distinct i) filter (where c)",
    "d5": "max(distinct i)", "d6": "count(distinct x) filter (where c)", "d7": "median(distinct i)", "d8": "count(distinct i + 1)",
}  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(ROWS, st.sampled_from(["", "k"]), st.integers(1, 4))
def test_filter_and_distinct_equal_duckdb(rows: list[tuple[Any, ...]], by: str, parts: int) -> None:
    frame = pl.DataFrame(rows, schema={"k": pl.String, "i": pl.Int64, "x": pl.Float64, "c": pl.Boolean}, orient="row")
    edges = {name: f"{name}(i{which}) filter (where c)" for name, which in (("first", ""), ("last", ""))}
    numbered = frame.with_row_index("row")  # noqa: F841 - DuckDB reads it by its name
    group = "group by k order by k nulls last" if by else ""
    for outputs in (FILTERED | edges, DISTINCT):
        theirs = {
            name: text.replace("(i) filter", "(i order by row) filter") if name in edges else text
            for name, text in outputs.items()
        }
        columns = ", ".join(f"{text} as {name}" for name, text in theirs.items())
        reference = duckdb.sql(f"select {'k, ' if by else ''}{columns} from numbered {group}").pl()
        step = bind(dict(frame.schema), by=by, **outputs)
        answers = [collect(step.whole(frame.lazy()), step.schema)]
        if isinstance(step, Aggregated):
            answers.append(reduced(step, pieces(frame, parts)))
        for answer in answers:
            assert_frame_equal(answer, reference.cast(dict(answer.schema)), rel_tol=1e-9, abs_tol=1e-6)


def test_what_a_filter_keeps_out_cannot_fail() -> None:
    step = bind({"i": pl.Int64()}, s="sum(10 // i) FILTER (WHERE i <> 0)")
    assert reduced(step, [pl.DataFrame({"i": [0, 5, 10]})]).item() == 3


def test_two_calls_that_look_alike_are_two() -> None:
    """What is computed once is known by the whole expression, not by how it is shown."""
    long = "x" * 200
    step = bind({"s": pl.String()}, a=f"count(nullif(s, '{long}a'))", b=f"count(nullif(s, '{long}b'))")
    assert reduced(step, [pl.DataFrame({"s": [long + "a", long + "a", long + "b"]})]).row(0) == (1, 2)


# ---- keys, names, ties


def split(frame: pl.DataFrame, count: int) -> list[pl.DataFrame]:
    """By the hash of the column k."""
    parcel = Hash(("k",), (frame.schema["k"],), count, Room("", 1 << 40))(frame, 0)
    return [frame.clear() if slot is None else slot for slot in parcel.frames]


def test_equal_keys_meet_whatever_their_bits() -> None:
    """Two zeros and every NaN are one key, in the reduction and behind the hash exchange."""
    raw = np.array(
        [0x7FF8000000000000, 0xFFF8000000000000, 0x7FF8000000000001, 0, 1 << 63, 0x3FF0000000000000], np.uint64
    )
    frame = pl.DataFrame({"k": raw.view(np.float64), "x": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]})
    assert reduced(bind(dict(frame.schema), by="k", n="count(*)"), pieces(frame, 3))["n"].to_list() == [2, 1, 3]
    step = bind(dict(frame.schema), by="k", m="median(x)")
    assert isinstance(step, AggregatedByKey)
    splits = [split(part, 4) for part in pieces(frame, 6)]
    found = [collect(step.apply(pl.concat([s[i] for s in splits]).lazy()), step.schema) for i in range(4)]
    answer = collect(pl.concat(found).lazy().sort(step.sorted, nulls_last=True), step.schema)
    assert answer["m"].to_list() == [4.5, 6.0, 2.0]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(VALUES, st.none() | st.booleans()), max_size=25), st.integers(1, 4))
def test_keys_equal_duckdb(rows: list[tuple[Any, Any]], parts: int) -> None:
    """NULL, NaN, infinities and both zeros as keys."""
    frame = pl.DataFrame(rows, schema={"k": pl.Float64, "b": pl.Boolean}, orient="row")
    answer = reduced(bind(dict(frame.schema), by="k", n="count(*)", t="max(b)"), pieces(frame, parts))
    reference = duckdb.sql("select k, count(*) as n, max(b) as t from frame group by k order by k nulls last").pl()
    assert_frame_equal(answer, reference.cast(dict(answer.schema)))


KEYS = [
    pl.Boolean(), pl.Binary(), pl.Date(), pl.Time(), pl.Duration("us"), pl.Datetime("ns"), pl.Datetime("us", "Europe/Berlin"),
    pl.Decimal(20, 3), pl.UInt8(), pl.Int64(), pl.Float32(), pl.String(),
]  # fmt: skip


@pytest.mark.parametrize("dtype", KEYS, ids=str)
def test_every_type_is_a_key(dtype: pl.DataType) -> None:
    from pipelines.plan import witness

    frame = pl.concat([witness({"k": dtype}).collect().with_columns(x=pl.lit(float(i))) for i in range(4)])
    reduction = reduced(bind(dict(frame.schema), by="k", n="count(*)"), pieces(frame, 5))
    assert reduction["n"].to_list() == [8, 4]
    step = bind(dict(frame.schema), by="k", n="count(distinct x)")
    assert isinstance(step, AggregatedByKey)
    splits = [split(part, 3) for part in pieces(frame, 5)]
    found = [collect(step.apply(pl.concat([s[i] for s in splits]).lazy()), step.schema) for i in range(3)]
    assert collect(pl.concat(found).lazy().sort(step.sorted, nulls_last=True), step.schema)["n"].to_list() == [4, 4]
    for name in ("min", "max", "first", "last", "count"):
        value = reduced(bind({"k": dtype}, v=f"{name}(k)"), pieces(frame.select("k"), 4)).item()
        assert value == {"first": frame["k"][0], "last": None, "count": 8}.get(name, frame["k"][0])


def test_a_column_may_be_named_like_the_exchanges_own() -> None:
    frame = pl.DataFrame({"k": ["a", "b", "c"], "~bucket": [1, 2, 3]})
    buckets = split(frame, 4)
    assert_frame_equal(pl.concat(buckets).sort("k"), frame)


@pytest.mark.parametrize("name", ["~0", "~0.high", "~0.count"])
def test_a_key_may_be_named_like_a_state(name: str) -> None:
    frame = pl.DataFrame({name: ["a", "b", "a"], "x": [1.0, 2.0, 3.0]})
    answer = reduced(bind(dict(frame.schema), by=name, total="sum(x)"), pieces(frame, 2))
    assert answer["total"].to_list() == [4.0, 2.0]


def test_every_function_is_tried_here() -> None:
    distinct = {f"{name}_distinct" for name in ("count", "sum", "avg", "var", "std", "median")}
    assert {*REDUCED, "count_rows", "median", "mode", "quantile"} | distinct == set(FUNCTIONS)
