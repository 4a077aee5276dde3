"""Estimated rows and bytes: near the truth, the same each time, and never a reason to fail."""

from __future__ import annotations

import gzip
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipelines import explain, scan
from pipelines.estimates import UNKNOWN, Estimate, estimate, groups, meeting, shrinks
from pipelines.pipeline import Pipeline, load
from pipelines.stages import cut
from tests.oracle import oracle
from tests.test_steps import plans, tables

Make = Callable[..., Pipeline]
N = 300_000


@pytest.fixture(scope="module")
def random() -> np.random.Generator:
    return np.random.default_rng(4)


def within(value: float, truth: float, factor: float) -> bool:
    return truth / factor <= value <= truth * factor


def written(folder: Path, columns: dict[str, Any], name: str = "in.csv") -> pl.DataFrame:
    frame = pl.DataFrame(columns)
    if name.endswith(".parquet"):
        frame.write_parquet(folder / name, row_group_size=10_000)
    else:
        frame.write_csv(folder / name)
    return frame


def test_the_shipped_stocks(pipeline: Make) -> None:
    made = pipeline("  STOCKS\n  it: {filter: Volume > 20000000}\n  days: {aggregate: {by: Date, n: count(*)}}\n")
    found, truth = estimate(made.plan()), oracle(made.plan())
    for name, table in truth.items():
        assert within(found[name].rows, table.height, 1.05)
        assert within(found[name].bytes, table.rechunk().estimated_size(), 1.3)


def test_rows_of_a_csv_file_too_large_to_be_read(project: Path, pipeline: Make, random: np.random.Generator) -> None:
    for i in range(3):
        lengths = random.integers(0, 40, N)
        written(project, {"i": np.arange(N) * 10**i, "t": ["x" * n for n in lengths]}, f"{i}.csv")
    made = pipeline('  it: {read: "*.csv"}\n')
    found = estimate(made.plan())["it"]
    assert found.origin == "48 samples of 3 files"
    assert not found.exact
    assert within(found.rows, 3 * N, 1.05)
    assert found.sample is not None
    assert 15_000 < found.sample.height < 30_000
    assert within(found.width(["i"]), 8, 1.001)
    assert within(found.width(["t"]), 16 + sum(n for n in lengths if n > 12) / N, 1.05)


def test_the_partitions_do_not_show(project: Path, pipeline: Make) -> None:
    written(project, {"i": range(N)})
    found = [estimate(pipeline(f"  it: {{read: {{path: in.csv, partitions: {n}}}}}\n").plan())["it"] for n in (1, 7, 7)]
    assert len({(each.rows, each.bytes, each.origin) for each in found}) == 1
    assert all(each.sample is not None and each.sample.equals(found[0].sample) for each in found)  # type: ignore[arg-type]


KEYS: dict[str, Callable[[np.random.Generator], Any]] = {
    "few": lambda random: random.integers(0, 30, N),
    "as many as the sample": lambda random: random.integers(0, 20_000, N),
    "many": lambda random: random.integers(0, 100_000, N),
    "unique": lambda random: random.permutation(N),
    "half of one": lambda random: np.where(random.random(N) < 0.5, 0, random.integers(1, 50_000, N)),
    "zipf": lambda random: random.choice(50_000, N, p=(w := 1 / np.arange(1, 50_001)) / w.sum()),
    "sorted in fours": lambda random: np.arange(N) // 4,
    "sorted in thousands": lambda random: np.arange(N) // 1000,
    "sorted unique": lambda random: np.arange(N),
    "over and over": lambda random: np.arange(N) % 500,
}


@pytest.mark.parametrize("kind", KEYS)
@pytest.mark.parametrize("name", ["in.csv", "in.parquet"])
def test_groups(project: Path, pipeline: Make, random: np.random.Generator, kind: str, name: str) -> None:
    table = written(project, {"k": KEYS[kind](random), "x": random.random(N)}, name)
    made = pipeline(
        f"  t: {{read: {name}}}\n"
        "  sums: {from: t, aggregate: {by: k, s: sum(x)}}\n"
        "  medians: {from: t, aggregate: {by: k, s: median(x)}}\n"
        "  keys: {from: t, distinct: k}\n"
    )
    found, truth = estimate(made.plan()), table["k"].n_unique()
    for step in ("sums", "medians", "keys"):
        assert within(found[step].rows, truth, 3), (found[step].rows, truth)
    for partitions in (1, 20):
        parts = np.array_split(table["k"].to_numpy(), partitions)
        share = sum(len(np.unique(part)) for part in parts) / N
        assert within(shrinks(found["t"], ["k"], partitions), share, 3.5)


def test_keys_of_few_values_are_no_more_than_these() -> None:
    sample = pl.DataFrame({"b": [True, False], "k": [1, 2]})
    table = Estimate(1e6, 1e7, "", sample)
    assert groups(table, ["b"]) == 3
    assert groups(table, ["k"]) == 1e6
    assert groups(table, []) == 1


def test_filters(project: Path, pipeline: Make) -> None:
    written(project, {"i": range(N)})
    made = pipeline(
        "  t: {read: in.csv}\n  tenth: {filter: i % 10 = 0}\n  none: {from: t, filter: i < 0}\n"
        "  below: {derive: {j: i + 1}}\n  first: {from: t, filter: i < 30000}\n  sum: {aggregate: {s: sum(i)}}\n"
    )
    found = estimate(made.plan())
    assert within(found["tenth"].rows, N / 10, 1.1)
    assert found["tenth"].origin == "sample: 10 % of rows pass"
    assert within(found["first"].rows, N / 10, 1.5)
    assert 0 < found["none"].rows < 100
    assert found["none"].origin == "sample: no row passes"
    assert found["below"].rows == found["none"].rows
    assert (found["sum"].rows, found["sum"].exact) == (1, True)


def test_limits_samples_unions_and_sorts(project: Path, pipeline: Make) -> None:
    written(project, {"i": range(N)}, "a.parquet")
    written(project, {"i": range(-5000, 0)}, "b.parquet")
    made = pipeline(
        "  a: {read: a.parquet}\n  b: {read: b.parquet}\n  both: {from: [a, b], union: {}}\n"
        "  top: {from: a, sort: {by: i, limit: 50000}}\n  all: {from: b, sort: {by: i, limit: 50000}}\n"
        "  some: {from: a, sample: 0.1}\n  few: {from: a, sample: {rows: 7}}\n  sorted: {from: a, sort: i}\n"
        "  out: {from: both, write: out.parquet}\n"
    )
    found = estimate(made.plan())
    truth = {"a": N, "b": 5000, "both": N + 5000, "top": 50000, "all": 5000, "few": 7, "sorted": N, "out": N + 5000}
    assert {name: found[name].rows for name in truth} == truth
    assert all(found[name].exact for name in truth)
    assert within(found["some"].rows, N / 10, 1.1)
    sample = found["both"].sample
    assert sample is not None
    assert within(sample.filter(pl.col("i") < 0).height / sample.height, 5000 / (N + 5000), 1.3)
    assert found["a"].origin == "row groups of 1 file"


@pytest.mark.parametrize("how", ["inner", "left", "right", "full", "semi", "anti"])
@pytest.mark.parametrize("right", ["some", "whole", "strangers"])
def test_joins(project: Path, pipeline: Make, random: np.random.Generator, how: str, right: str) -> None:
    written(project, {"k": random.integers(0, 100_000, N), "x": random.random(N)}, "l.parquet")
    count = 500 if right == "whole" else 60_000
    keys = random.permutation(100_000)[:count] + (10**6 if right == "strangers" else 0)
    written(project, {"k": keys, "t": [f"{key:020}" for key in keys]}, "r.parquet")
    made = pipeline(
        f"  l: {{read: l.parquet}}\n  r: {{read: r.parquet}}\n  it: {{from: [l, r], join: {{on: k, how: {how}}}}}\n"
    )
    found, table = estimate(made.plan())["it"], oracle(made.plan())["it"]
    assert found.sample is not None
    assert dict(found.sample.schema) == dict(table.schema)
    if right != "strangers":  # keys that never meet look like keys that are only rarely sampled
        assert within(found.rows, table.height, 2.5), (found.rows, table.height)
    if how not in ("semi", "anti") and right != "whole":
        assert found.sample.height >= 100
    if how == "left":
        assert found.rows >= N
    if how in ("semi", "anti"):
        assert found.rows <= N


def test_a_join_of_samples_does_not_explode(project: Path, pipeline: Make) -> None:
    written(project, {"k": np.zeros(N, int), "x": range(N)}, "l.parquet")
    made = pipeline("  l: {read: l.parquet}\n  it: {from: [l, l], join: {on: k}}\n")
    began = time.perf_counter()
    found = estimate(made.plan())["it"]
    assert time.perf_counter() - began < 5
    assert within(found.rows, N * N, 1.1)
    assert found.sample is not None
    assert found.sample.height <= 40_000


def test_groups_of_a_join_of_sorted_tables(project: Path, pipeline: Make, random: np.random.Generator) -> None:
    """Lines of orders: the rows of one order are neighbours, in the join too."""
    written(project, {"k": np.arange(N) // 4, "x": random.random(N)}, "l.parquet")
    written(project, {"k": np.arange(N // 4), "day": random.integers(0, 50, N // 4)}, "r.parquet")
    made = pipeline(
        "  l: {read: l.parquet}\n  r: {read: r.parquet}\n  both: {from: [l, r], join: k}\n"
        "  it: {aggregate: {by: [k, day], n: count(*)}}\n  days: {from: both, aggregate: {by: day, n: count(*)}}\n"
    )
    found = estimate(made.plan())
    assert within(found["both"].rows, N, 1.5)
    assert within(found["it"].rows, N / 4, 3)
    assert within(found["days"].rows, 50, 1.5)


def test_meeting_of_tables_without_samples() -> None:
    one, other = (Estimate(rows, 0.0, "", None) for rows in (1e6, 1e3))
    for how, rows in {"inner": 1e3, "left": 1e6, "right": 1e3, "semi": 1e3}.items():
        assert meeting(one, other, ["k"], ["k"], how)[0] == pytest.approx(rows)
    assert meeting(one, Estimate(0.0, 0.0, "", None), ["k"], ["k"], "inner")[0] == 0


def test_code_of_the_user_is_not_run(project: Path, pipeline: Make) -> None:
    (project / "mine.py").write_text(
        "import polars as pl\n\ndef boom(item) -> int:\n    raise SystemExit\n\n"
        "def also(frame: pl.DataFrame) -> pl.DataFrame:\n    open('ran', 'w')\n    return frame\n"
    )
    written(project, {"i": range(N)})
    made = pipeline(
        "  m: {map: {function: 'mine:boom', items: [1, 2, 3]}}\n  some: {filter: item > 1}\n"
        "  t: {read: in.csv}\n  p: {python: {function: 'mine:also', like: input}}\n"
        "  n: {aggregate: {by: i, n: count(*)}}\n"
    )
    found = estimate(made.plan())
    assert (found["m"].rows, found["m"].origin, found["m"].sample, found["m"].exact) == (3, "declared", None, True)
    assert (found["some"].rows, found["some"].origin, found["some"].exact) == (3, UNKNOWN, False)
    assert found["m"].bytes > 0
    assert found["p"].rows == found["n"].rows == found["t"].rows
    assert (found["p"].origin, found["n"].origin) == (UNKNOWN, UNKNOWN)
    assert not list(project.rglob("ran"))


def test_packed_and_foreign_files(project: Path, pipeline: Make) -> None:
    table = written(project, {"i": np.arange(N) * 7919 % 1_000_003, "t": [f"ü{i % 977}" for i in range(N)]})
    text = (project / "in.csv").read_bytes()
    (project / "in.csv.gz").write_bytes(gzip.compress(text, 6))
    (project / "latin.csv").write_bytes(text.decode().encode("latin-1"))
    made = pipeline(
        "  packed: {read: in.csv.gz}\n  latin: {read: {path: latin.csv, encoding: latin-1}}\n"
        "  whole: {read: {path: in.csv, split: false}}\n  keys: {from: packed, distinct: t}\n"
    )
    found = estimate(made.plan())
    for name in ("packed", "latin", "whole"):
        assert within(found[name].rows, N, 1.15), name
        assert found[name].origin == "the head of 1 file"
    assert within(found["keys"].rows, table["t"].n_unique(), 3)


def test_empty_files(project: Path, pipeline: Make) -> None:
    (project / "in.csv").write_text("a,b\n")
    pl.DataFrame(schema={"a": pl.Int64}).write_parquet(project / "in.parquet")
    made = pipeline(
        "  c: {read: {path: in.csv, dtypes: {a: int64, b: string}}}\n  p: {read: in.parquet}\n"
        "  f: {from: c, filter: a > 1}\n  g: {from: f, aggregate: {by: a, n: count(*)}}\n  s: {from: c, aggregate: {n: count(*)}}\n"
        "  j: {from: [c, p], join: {on: a, how: full}}\n  u: {from: [c, p], union: {missing: null}}\n"
    )
    found = estimate(made.plan())
    assert {name: each.rows for name, each in found.items()} == {"c": 0, "p": 0, "f": 0, "g": 0, "s": 1, "j": 0, "u": 0}
    assert all(shrinks(each, ["a"]) >= 0 for name, each in found.items() if name != "s")


def test_what_cannot_be_sampled_is_unknown(project: Path, pipeline: Make) -> None:
    written(project, {"i": range(N)})
    made = pipeline("  t: {read: in.csv}\n  it: {filter: i > 1}\n  n: {aggregate: {by: i, n: count(*)}}\n")
    plan = made.plan()
    (project / "in.csv").unlink()
    found = estimate(plan)
    assert found["t"].origin == "unknown: no rows could be sampled"
    assert found["t"].rows > 0
    assert found["t"].sample is None
    assert found["it"].rows == found["n"].rows == found["t"].rows
    assert explain.facts(cut(plan))["steps"][1]["estimate"] == UNKNOWN


def test_values_that_fail_in_a_step_are_unknown_there(project: Path, pipeline: Make) -> None:
    written(project, {"t": ["1", "x"] * N})
    made = pipeline("  t: {read: in.csv}\n  it: {derive: {n: CAST(t AS INT)}}\n")
    found = estimate(made.plan())["it"]
    assert found.origin == UNKNOWN
    assert within(found.rows, 2 * N, 1.05)


def test_quoted_line_breaks(project: Path, pipeline: Make) -> None:
    written(project, {"t": ['a "quoted"\ntext, in lines\n'] * N, "i": range(N)})
    found = estimate(pipeline("  t: {read: in.csv}\n").plan())["t"]
    assert within(found.rows, N, 1.2)


def test_only_the_steps_asked_for(pipeline: Make) -> None:
    plan = pipeline("  STOCKS\n  it: {filter: Close > 0}\n  other: {from: stocks, filter: Close > 0}\n").plan()
    assert set(estimate(plan, ["it"])) == {"stocks", "it"}
    assert estimate(plan, []) == {}


def test_a_check_does_not_sample(pipeline: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipelines.cli import main

    def no(*_: Any) -> Any:
        raise AssertionError

    made = pipeline("  STOCKS\n  it: {filter: Close > 0}\n")
    monkeypatch.setattr(scan.Source, "sample", no)
    assert main(["check", str(made.spec.path)]) == 0


def test_the_plan_shows_it(pipeline: Make, project: Path) -> None:
    written(project, {"i": range(N)})
    made = pipeline("  t: {read: in.csv}\n  odd: {filter: i % 2 = 1}\n")
    facts = explain.facts(cut(made.plan()))
    source, odd = facts["steps"]
    assert source["estimate"] == "48 samples of 1 file"
    assert within(source["rows"], N, 1.05)
    assert source["bytes"] == pytest.approx(8 * source["rows"], abs=8)
    assert (source["exact"], odd["exact"]) == (False, False)
    text = explain.as_text(facts)
    assert f"      {explain.rows_text(source)}\n" in text
    assert explain.rows_text({"rows": 15_012_345, "bytes": 1.2e9, "exact": False, "estimate": "x"}) == (
        "about 15,000,000 rows, 1.2 GB in memory (x)"
    )
    assert explain.rows_text({"rows": 15_012_345, "bytes": 1.2e9, "exact": True, "estimate": "x"}).startswith(
        "15,012,345 "
    )


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(table=tables(), steps=plans(), data=st.data())
def test_random_plans(
    tmp_path_factory: pytest.TempPathFactory, table: pl.DataFrame, steps: list[str], data: Any
) -> None:
    """Small tables are known as they are; scaled up as a part of a larger one, nothing fails or is negative."""
    folder = tmp_path_factory.mktemp("random")
    table.write_parquet(folder / "in.parquet", row_group_size=4)
    lines = "".join(f"  s{i}:\n    {step}\n" for i, step in enumerate(steps))
    how = data.draw(st.sampled_from(["inner", "left", "right", "full", "semi", "anti"]))
    key = data.draw(st.sampled_from(["k", "n", "b"]))
    lines += f"  j:\n    from: [t, t]\n    join: {{on: {key}, how: {how}}}\n  u:\n    from: [t, t]\n    union: {{}}\n"
    (folder / "c.yaml").write_text(f"steps:\n  t:\n    read: in.parquet\n{lines}")
    plan = load(folder / "c.yaml").plan()
    found, truth = estimate(plan), oracle(plan)
    for name, each in found.items():
        assert each.origin != UNKNOWN
        assert each.rows == truth[name].height
        assert each.exact
    factor = data.draw(st.sampled_from([1.0, 2.5, 1e4, 1e9]))
    drawn = scan.Source.sample

    def scaled(self: scan.Source, partitions: Any) -> scan.Drawn:
        found = drawn(self, partitions)
        return scan.Drawn(found.rows * factor, found.origin, False, found.frame, found.stretches)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scan.Source, "sample", scaled)
        once, again = estimate(plan), estimate(plan)
    for name, each in once.items():
        assert (each.rows, each.bytes, each.origin) == (again[name].rows, again[name].bytes, again[name].origin)
        assert each.sample is not None
        for value in (each.rows, each.bytes, *(shrinks(each, [column]) for column in plan.nodes[name].schema)):
            assert value >= 0
            assert math.isfinite(value)
