"""Random pipelines over random tables, in any layout: the oracle's rows, bit for bit."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipelines import load
from pipelines.errors import DataError, PipelineError
from pipelines.passes import PASSES, Layout
from pipelines.pipeline import Pipeline
from pipelines.run import execute
from tests.oracle import oracle
from tests.random_plans import pipeline

LAYOUTS = [frozenset(PASSES), frozenset[str](), *(frozenset(PASSES) - {name} for name in PASSES)]


def bits(frame: pl.DataFrame) -> tuple[pl.Schema, str]:
    """What tells -0.0 from 0.0, and finds NaN equal to NaN."""
    return frame.schema, repr(frame.rows())


def ran(made: Pipeline, executor: str, layout: Layout, step: str) -> pl.DataFrame:
    return execute(made.plan(), executor, to=step, head=1 << 40, layout=layout).outputs[step].head


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 1 << 32), st.sampled_from(LAYOUTS), st.sampled_from([None, 1, 2, 5, 16]), st.sampled_from(["threads", "serial"]), st.booleans())  # fmt: skip
def test_random_pipelines_equal_the_oracle(
    project: Path, seed: int, passes: frozenset[str], parts: int | None, executor: str, packs: bool
) -> None:
    made = pipeline(Random(seed), project)
    try:
        wanted = oracle(made.plan())
    except PipelineError:  # a key that `validate` finds twice
        return
    with pytest.MonkeyPatch.context() as patched:
        if packs:  # also what has few rows
            patched.setattr("pipelines.packing._LEAST", 1)
        for step in [name for name in wanted if name not in "ab"][-2:]:
            assert bits(ran(made, executor, Layout(passes, parts), step)) == bits(wanted[step]), step


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 1 << 32))
def test_frames_of_random_pipelines_equal_the_oracle(project: Path, seed: int) -> None:
    made = pipeline(Random(seed), project, 3)
    try:
        wanted = oracle(made.plan())
    except PipelineError:
        return
    for step, frame in made.compile().items():
        found = pl.from_pandas(frame.compute(scheduler="threads"))
        assert bits(found.cast(dict(wanted[step].schema))) == bits(wanted[step]), step


# ---- what they found


def made(project: Path, steps: dict[str, object], **tables: pl.DataFrame) -> Pipeline:
    reads = {}
    for name, frame in tables.items():
        frame.write_parquet(project / f"{name}.parquet")
        reads[name] = {"read": {"path": f"{name}.parquet", "partitions": 3}}
    (project / "c.yaml").write_text(json.dumps({"steps": {**reads, **steps}}))
    return load(project / "c.yaml")


A = pl.DataFrame({"k": [1, 2, 2, 3, None, 1], "f": [-0.0, 0.0, -0.0, 1.5, -0.0, -0.0], "row": [5, 4, 3, 2, 1, 0]})
FOUND: dict[str, dict[str, object]] = {
    "a key is in the order of its group too": {"t": {"from": "a", "top": {"n": 1, "by": "k", "order_by": ["k", "row"]}}},
    "nobody reads what the groups are sorted by": {
        "g": {"from": "a", "aggregate": {"by": "k", "n": "sum(row)"}},
        "m": {"from": "a", "aggregate": {"by": "k", "n": "median(row)"}},
        "p": {"from": "a", "top": {"n": 1, "by": "k", "order_by": "row"}},
        "t1": {"from": "g", "select": ["n"]},
        "t2": {"from": "m", "select": ["n"]},
        "t": {"from": "p", "select": ["f"]},
    },
    "zero has one sign": {
        "t1": {"from": "a", "distinct": "f"},
        "t2": {"from": "a", "aggregate": {"by": "f", "n": "count(*)"}},
        "t": {"from": "a", "aggregate": {"by": "k", "n": "min(f)", "m": "median(f)", "o": "mode(row)"}},
    },
    "another step reads a column that would have the name of a key": {
        "b2": {"from": "a", "filter": "row >= 0"},
        "j": {"from": ["a", "b2"], "join": {"on": {"row": "k"}}},
        "t1": {"from": "j", "select": ["k"]},
        "t": {"from": ["b2", "t1"], "union": {"missing": None}},
    },
    "a right join gives columns other names": {
        "w": {"from": "a", "window": {"partition_by": "k", "n": "row_number()"}},
        "o": {"from": "a", "derive": {"k": "row * 0"}},
        "j": {"from": ["o", "w"], "join": {"on": {"row": "k"}, "how": "right", "broadcast": True}},
        "t": {"from": "j", "window": {"partition_by": "k", "m": "row_number()"}},
    },
    "a step before left out a column of the same name": {
        "d": {"from": "a", "distinct": ["k", "row"]},
        "o": {"from": "a", "derive": {"f": "f + 7"}},
        "t1": {"from": ["d", "o"], "join": {"on": "row", "how": "left", "suffix": "_o", "broadcast": True}},
        "e": {"from": "d", "select": {"cast": {"k": "float64"}}},
        "t": {"from": ["o", "e"], "join": {"on": {"row": "row", "f": "k"}, "how": "right", "broadcast": True}},
    },
    "a column of the right table gets the name that Polars would give to a key": {
        "l": {"from": "a", "select": ["row"]},
        "t": {"from": ["l", "a"], "join": {"on": {"row": "k"}, "how": "full"}},
    },
    "semi with the name of a key": {"t": {"from": ["a", "a"], "join": {"on": {"row": "k"}, "how": "semi"}}},
}  # fmt: skip


@pytest.mark.parametrize("name", FOUND)
@pytest.mark.parametrize("parts", [None, 1, 4])
def test_what_random_pipelines_found(project: Path, name: str, parts: int | None) -> None:
    it = made(project, FOUND[name], a=A)
    wanted = oracle(it.plan())
    for step in (step for step in FOUND[name] if step[0] == "t"):
        for passes in (frozenset(PASSES), frozenset(PASSES) - {"broadcast"}, frozenset[str]()):
            assert bits(ran(it, "serial", Layout(passes, parts), step)) == bits(wanted[step])
        assert "-0.0" not in repr(wanted[step].rows()) or name != "zero has one sign"


@pytest.mark.parametrize(
    ("validate", "left", "right"), [("one_to_one", A, A.unique("k")), ("many_to_one", A.unique("k"), A)]
)
def test_an_early_filter_does_not_hide_what_validate_says(
    project: Path, validate: str, left: pl.DataFrame, right: pl.DataFrame
) -> None:
    right = right.rename({"row": "other"})
    for test in ("row > 90", "other > 90"):
        steps: dict[str, object] = {
            "j": {"from": ["a", "b"], "join": {"on": "k", "validate": validate}},
            "t": {"filter": test},
        }
        for passes in (frozenset(PASSES), frozenset[str]()):
            with pytest.raises(DataError, match=r"k = [12] is 2 times"):
                ran(made(project, steps, a=left, b=right), "serial", Layout(passes, 4), "t")
