"""Exact sums: the real sum, rounded once, whatever the order and the partitioning."""

from __future__ import annotations

import math
import random
import statistics
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.errors import DataError, Place
from pipelines.kernel import collect
from pipelines.source import Node
from pipelines.steps.aggregate import Aggregate, Aggregated
from pipelines.steps.base import Context, Problems


def bound(schema: dict[str, pl.DataType], **outputs: str) -> Aggregated:
    problems = Problems(Node({}, Place("t", 1, 1)))
    made = Aggregate.model_validate(outputs).bind(schema, problems, Context(Path()))
    assert isinstance(made, Aggregated), problems.issues
    return made


def reduced(step: Aggregated, parts: list[pl.DataFrame]) -> pl.DataFrame:
    """What a run does: partial in every part, refined where that says so, combined in pairs, finished."""
    states = list[pl.DataFrame]()
    for part in parts:
        state = collect(step.partial(part.lazy()), step.state, any_order=True)
        if instead := step.refine(state):
            state = collect(instead(part.lazy()), step.state, any_order=True)
        states.append(state)
    while len(states) > 2:
        pairs = [states[i : i + 2] for i in range(0, len(states), 2)]
        states = [collect(step.combine(pl.concat(pair).lazy()), step.state) for pair in pairs]
    return collect(step.apply(pl.concat(states).lazy()), step.schema)


def totals(values: list[float | None], parts: int) -> tuple[float | None, float | None]:
    step = bound({"x": pl.Float64()}, total="sum(x)", mean="avg(x)")
    frame = pl.DataFrame({"x": values}, schema={"x": pl.Float64})
    size = -(-len(values) // parts) or 1
    row = reduced(step, [frame.slice(i * size, size) for i in range(parts)]).row(0)
    return row[0], row[1]


def bits(value: float | None) -> str:
    return "null" if value is None else "nan" if math.isnan(value) else value.hex()


ADVERSARIES = {
    "mixed magnitudes": [
        random.Random(1).choice([1e12, 1.0, 1e-12]) * random.Random(i).uniform(-1, 1) for i in range(3000)
    ],
    "cancelling": [s * v for v in (1e16, 1.0, 3e-9, 1e-20) for s in (1, -1)] * 50 + [1e-30],
    "huge": [1e308, -1e308, 1.0, 1e300, -1e300, 2.0],
    "tiny": [5e-324, 1e-310, -5e-324, 2.5e-320] * 10,
    "prices": [round(random.Random(i).uniform(1, 500), 2) for i in range(5000)],
    "wide": [2.0**e * s for e in range(-1074, 1000, 7) for s in (1, -1, 1)],
}


@pytest.mark.parametrize("name", ADVERSARIES)
def test_exact_for_any_order_and_partitioning(name: str) -> None:
    values = list(ADVERSARIES[name])
    seen = set[tuple[str, str]]()
    for parts in (1, 2, 7, 50):
        random.Random(parts).shuffle(values)
        total, mean = totals(values, parts)
        seen.add((bits(total), bits(mean)))
        exact = math.fsum(values)
        assert total is not None
        assert mean is not None
        assert abs(total - exact) <= math.ulp(exact)
        assert abs(mean - exact / len(values)) <= 2 * math.ulp(exact / len(values))
    assert len(seen) == 1


@settings(max_examples=150, deadline=None)
@given(st.lists(st.none() | st.floats(width=64), max_size=40), st.integers(1, 6), st.randoms())
def test_any_floats(values: list[float | None], parts: int, order: random.Random) -> None:
    total, mean = totals(values, parts)
    shuffled = list(values)
    order.shuffle(shuffled)
    again = totals(shuffled, 3)
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
    problems = Problems(Node({}, Place("t", 1, 1)))
    step = Aggregate.model_validate({"by": ["k"], "s": "sum(x)"}).bind(
        {"k": pl.Int64(), "x": pl.Float64()}, problems, Context(Path())
    )
    assert isinstance(step, Aggregated)
    frame = pl.DataFrame({"k": [1, 1, 2, 2, 3, 3], "x": [0.1, 0.2, math.nan, 1.0, 1e-30, 1.0]})
    answer = reduced(step, [frame.slice(0, 3), frame.slice(3)])
    assert [bits(v) for v in answer["s"]] == [bits(v) for v in (math.fsum([0.1, 0.2]), math.nan, 1.0)]


def test_integer_sums_do_not_wrap() -> None:
    step = bound({"i": pl.Int64()}, total="sum(i)")
    with pytest.raises(DataError, match="does not fit"):
        reduced(step, [pl.DataFrame({"i": [2**62, 2**62]}), pl.DataFrame({"i": [2**62]})])
    assert reduced(step, [pl.DataFrame({"i": [2**62, 2**62]}), pl.DataFrame({"i": [-(2**62)]})]).item() == 2**62


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=60), st.integers(1, 5))
def test_variance_is_pooled(values: list[float], parts: int) -> None:
    step = bound({"x": pl.Float64()}, v="var(x)", s="std(x)")
    frame = pl.DataFrame({"x": values})
    size = -(-len(values) // parts)
    v, s = reduced(step, [frame.slice(i * size, size) for i in range(parts)]).row(0)
    scale = max(map(abs, values)) ** 2 + 1e-300
    assert v == pytest.approx(statistics.variance(values), rel=1e-12, abs=1e-14 * scale)
    assert s == pytest.approx(math.sqrt(v))
