"""What steps mean: against the oracle on every executor, and against DuckDB."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from pipelines.kernel import collect
from pipelines.pipeline import Pipeline, load
from pipelines.steps import KINDS
from tests.conftest import ROOT
from tests.oracle import oracle

Make = Callable[..., Pipeline]
FILES = f"'{ROOT}/data/stocks/*.csv'"

EXAMPLES = {
    "filter": (KINDS["filter"].example, 'select * from t where Close > 0 and "Adj Close" is not null'),
    "derive": (KINDS["derive"].example, "select *, Close - Open as change, year(Date) as year from t"),
    "select": (KINDS["select"].example, "select Date, Close as price, Volume::double as Volume from t"),
    "aggregate": (
        KINDS["aggregate"].example,
        "select Symbol, count(*) as days, fsum(Close) / count(Close) as mean_close, max(High) - min(Low) as range "
        "from t group by Symbol order by Symbol",
    ),
    "distinct": (KINDS["distinct"].example, "select distinct Symbol from t"),
    "window": (
        KINDS["window"].example,
        "select *, Close / lag(Close) over w - 1 as change, "
        "avg(Close) over (partition by Symbol order by Date rows 19 preceding) as ma20 "
        "from t window w as (partition by Symbol order by Date)",
    ),
    "top": (
        KINDS["top"].example,
        "select * from t qualify row_number() over (partition by Symbol order by Volume desc) <= 3",
    ),
    "dedupe": (
        KINDS["dedupe"].example,
        "select * from t qualify row_number() over (partition by Symbol, Date order by Volume desc) = 1",
    ),
    "fill": (
        KINDS["fill"].example,
        "select * replace (coalesce(Volume, 0) as Volume, last_value(Close ignore nulls) over (partition by Symbol "
        "order by Date rows between 5 preceding and current row) as Close) from t",
    ),
    "explode": (KINDS["explode"].example, "select * replace (unnest(string_split(Symbol, '.')) as Symbol) from t"),
    "unpivot": (
        KINDS["unpivot"].example,
        "select * from t unpivot include nulls (price for moment in (Open, Close))",
    ),
    "pivot": (
        KINDS["pivot"].example,
        "pivot t on Symbol in ('AAPL', 'IBM') using first(Close) as close, count(*) as days group by Date order by Date",
    ),
    "sort": (KINDS["sort"].example, "select * from t order by Volume desc, Date limit 3"),
}


@pytest.mark.parametrize("kind", EXAMPLES)
@pytest.mark.parametrize("executor", ["serial", "threads", "local"])
def test_the_example_equals_the_oracle_and_duckdb(pipeline: Make, kind: str, executor: str) -> None:
    text, sql = EXAMPLES[kind]
    made = pipeline(f"  STOCKS\n  it:\n    {text}\n")
    answer = made.run(executor, head=10**6).outputs["it"].head
    assert_frame_equal(answer, oracle(made.plan())["it"], check_exact=True)
    reference = duckdb.sql(f"with t as (select * from read_csv({FILES})) {sql}").pl()
    assert answer.columns == reference.columns
    order = [c for c in ("Symbol", "Date", "moment", "price", "Volume") if c in answer.columns]
    assert_frame_equal(answer.sort(order), reference.sort(order).cast(dict(answer.schema)), rel_tol=1e-12, abs_tol=0)


def test_every_kind_has_an_example_that_checks(pipeline: Make, project: Path) -> None:
    shutil.copytree(ROOT / "examples", project / "examples")
    for kind, step in KINDS.items():
        if step.takes not in ((), (("table",),)) or step.gives not in ("table", "nothing"):
            continue  # docs/steps.md has it, and what it needs: see test_docs.py
        above = "" if step.role == "source" else "  STOCKS\n"
        example = step.example.replace("data/stocks", f"{ROOT}/data/stocks")
        if step.several:
            above, example = f"{above}  more:\n    filter: Close > 0\n", f"from: [stocks, more]\n    {example}"
        assert pipeline(f"{above}  it:\n    {example}\n").plan().nodes["it"].kind == kind


def test_read_and_write_bring_back_what_was_there(pipeline: Make, project: Path) -> None:
    table = pl.DataFrame(
        {
            "t": ["a,b", 'q"q', "ü\u2028", None],
            "x": [1.5, None, math.inf, math.nan],
            "Adj Close": [1, 2, 3, None],
            "b": [True, None, False, True],
        }
    )
    table.write_parquet(project / "in.parquet")
    for name in ("out.csv", "out.parquet"):
        pipeline(f"  it:\n    read: in.parquet\n  out:\n    write: {{path: {name}, overwrite: true}}\n").run("threads")
    assert_frame_equal(pl.read_parquet(project / "out.parquet"), table)
    back = pipeline("  it:\n    read: {path: out.csv, dtypes: {x: float64}}\n").run("serial").outputs["it"].head
    assert_frame_equal(back, table)


def test_names_like_those_used_inside(pipeline: Make) -> None:
    made = pipeline("""  STOCKS
  named:
    derive: {"a.odd": Volume, "~bucket": Close, "~0": Symbol, "~1.odd": Symbol}
  rows:
    aggregate: {by: ["~0", "~1.odd"], "~~0": 'median("~bucket")', b: 'sum("a.odd")', c: 'sum("~bucket")'}
  states:
    from: named
    aggregate: {by: ["~0", "~1.odd"], n: 'sum("a.odd")', x: 'avg("~bucket")'}
""")
    outputs, tables = made.run("threads").outputs, oracle(made.plan())
    assert outputs["rows"].head.equals(tables["rows"])
    assert outputs["states"].head.equals(tables["states"])


# ---- random tables, random plans

COLUMNS: dict[str, tuple[pl.DataType, st.SearchStrategy[Any]]] = {
    "k": (pl.String(), st.sampled_from(["a", "b", "ü", ""])),
    "g": (pl.Float64(), st.sampled_from([0.0, -0.0, 1.5, math.nan, math.inf])),
    "i": (pl.Int64(), st.integers(-(2**40), 2**40)),
    "n": (pl.Int8(), st.integers(-128, 127)),
    "x": (pl.Float64(), st.floats(width=64)),
    "y": (pl.Float64(), st.floats(-1e6, 1e6)),
    "d": (pl.Date(), st.dates()),
    "b": (pl.Boolean(), st.booleans()),
}
AGGREGATES = (
    "count(*)", "count(x)", "sum(i)", "sum(n)", "sum(y)", "avg(y)", "avg(i)", "min(x)", "max(x)", "min(k)", "max(d)",
    "first(k)", "last(x)", "count(distinct g)", "median(y)", "sum(x)", "avg(x)", "sum(y) / count(*)", "max(i) - min(i)", "sum(b)",
)  # fmt: skip


@st.composite
def tables(draw: st.DrawFn) -> pl.DataFrame:
    rows = draw(st.lists(st.tuples(*(st.none() | values for _, values in COLUMNS.values())), max_size=25))
    return pl.DataFrame(rows, schema={name: dtype for name, (dtype, _) in COLUMNS.items()}, orient="row")


@st.composite
def plans(draw: st.DrawFn) -> list[str]:
    steps = list[str]()
    if draw(st.booleans()):
        steps.append(
            "filter: "
            + draw(st.sampled_from(["i > 0", "k <> 'a' OR k IS NULL", "y BETWEEN -10 AND 1000", "x = x", "false"]))
        )
    if draw(st.booleans()):
        steps.append('derive: {"a b": y * 2 + n, z: "CASE WHEN i > 5 THEN k ELSE \'none\' END"}')
    ending = draw(st.sampled_from(["none", "group", "whole", "sort", "limit"]))
    if ending in ("group", "whole"):
        chosen = draw(st.lists(st.sampled_from(AGGREGATES), min_size=1, max_size=6, unique=True))
        by = (
            draw(st.lists(st.sampled_from(["k", "g", "b", "n"]), min_size=1, max_size=2, unique=True))
            if ending == "group"
            else []
        )
        steps.append(f"aggregate: {{by: {by}, " + ", ".join(f'o{i}: "{c}"' for i, c in enumerate(chosen)) + "}")
    elif ending in ("sort", "limit"):
        by = draw(st.lists(st.sampled_from(list(COLUMNS)), min_size=1, max_size=3, unique=True))
        down = draw(st.lists(st.sampled_from(by), unique=True))
        steps.append(f"sort: {{by: {by}, descending: {down}" + (", limit: 4}" if ending == "limit" else "}"))
    return steps or ["filter: i > 0"]


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    table=tables(),
    steps=plans(),
    partitions=st.sampled_from([1, 2, 3, 7]),
    executor=st.sampled_from(["serial", "threads"]),
)
def test_random_plans_equal_the_oracle_and_have_the_planned_types(
    tmp_path_factory: pytest.TempPathFactory, table: pl.DataFrame, steps: list[str], partitions: int, executor: str
) -> None:
    folder = tmp_path_factory.mktemp("random")
    (folder / "runs").mkdir()
    table.write_parquet(folder / "in.parquet", row_group_size=4)
    lines = "".join(f"  s{i}:\n    {step}\n" for i, step in enumerate(steps))
    (folder / "c.yaml").write_text(f"steps:\n  t:\n    read: {{path: in.parquet, partitions: {partitions}}}\n{lines}")
    plan = load(folder / "c.yaml").plan()
    last = f"s{len(steps) - 1}"
    answer = load(folder / "c.yaml").run(executor, head=10**6).outputs[last].head
    assert dict(answer.schema) == dict(plan.nodes[last].schema)
    assert_frame_equal(answer, oracle(plan)[last], check_exact=True)


DUCK = {
    "count(*)": "count(*)", "count(x)": "count(x)", "sum(i)": "sum(i)::bigint", "sum(n)": "sum(n)::bigint", "sum(y)": "fsum(y)",
    "avg(y)": "fsum(y) / count(y)", "min(x)": "min(x)", "max(x)": "max(x)", "min(k)": "min(k)", "max(d)": "max(d)",
    "first(k)": "first(k order by row)", "last(x)": "last(x order by row)", "count(distinct g)": "count(distinct g)",
    "median(y)": "median(y)", "max(i) - min(i)": "max(i) - min(i)", "sum(b)": "sum(b::int)::bigint",
}  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(table=tables(), by=st.sampled_from(["k", "g", "b", ""]))
def test_aggregates_equal_duckdb(table: pl.DataFrame, by: str) -> None:
    from pipelines.errors import Place
    from pipelines.source import Node
    from pipelines.steps.aggregate import Aggregate
    from pipelines.steps.base import Context, Operation, Problems

    outputs = {f"o{i}": text for i, text in enumerate(DUCK)}
    step = Aggregate.model_validate({"by": [by] if by else [], **outputs})
    problems = Problems(Node({}, Place("t", 1, 1)))
    bound = step.bind(dict(table.schema), problems, Context(Path()))
    assert isinstance(bound, Operation), problems.issues
    answer = collect(bound.whole(table.lazy()), bound.schema)
    rows = table.with_row_index("row")  # noqa: F841 - DuckDB reads it by its name
    sql = ", ".join(f"{text} as o{i}" for i, text in enumerate(DUCK.values()))
    group = f"group by {by} order by {by} nulls last" if by else ""
    reference = duckdb.sql(f"select {by + ', ' if by else ''}{sql} from rows {group}").pl()
    assert_frame_equal(answer, reference.cast(dict(answer.schema)), rel_tol=1e-12, abs_tol=1e-9)
