"""Window functions: against DuckDB, and the same bits whatever else is in the table and however it is cut."""

from __future__ import annotations

import datetime as dt
import math
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from pipelines.errors import DataError, Place
from pipelines.kernel import collect
from pipelines.pipeline import load
from pipelines.source import Node
from pipelines.steps import KINDS
from pipelines.steps.base import Context, Operation, Problems
from tests.oracle import oracle

SCHEMA = {
    "k": pl.String(), "g": pl.Float64(), "d": pl.Date(), "t": pl.Datetime("us"), "i": pl.Int64(), "x": pl.Float64(),
    "y": pl.Float64(), "s": pl.String(), "b": pl.Boolean(), "m": pl.Decimal(12, 2),
}  # fmt: skip
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "k": st.sampled_from(["a", "b", "ü"]),
    "g": st.sampled_from([0.0, -0.0, 1.5, math.nan, math.inf]),
    "d": st.dates(dt.date(2024, 1, 25), dt.date(2024, 3, 5)),
    "t": st.datetimes(dt.datetime(2024, 1, 1), dt.datetime(2024, 1, 20)),
    "i": st.integers(-5, 5) | st.integers(-(2**62), 2**62),
    "x": st.sampled_from([0.0, -0.0, 1.0, -2.5, math.nan, math.inf, -math.inf]),
    "y": st.floats(-1000, 1000).map(lambda v: round(v, 3) + 0.0),  # no -0.0
    "s": st.sampled_from(["", "a", "B", "ß", "日本"]),
    "b": st.booleans(),
    "m": st.decimals(-1000, 1000, places=2),
}


def tables(largest: int = 30) -> st.SearchStrategy[pl.DataFrame]:
    rows = st.lists(st.tuples(*(st.none() | VALUES[name] for name in SCHEMA)), max_size=largest)
    return rows.map(lambda found: pl.DataFrame(found, schema=SCHEMA, orient="row"))


def bound(schema: Any, kind: str = "window", **options: Any) -> Operation:
    problems = Problems(Node({}, Place("t", 1, 1)))
    operation = KINDS[kind].model_validate(options).bind(dict(schema), problems, Context(Path()))
    assert isinstance(operation, Operation), problems.issues
    return operation


def answer(table: pl.DataFrame, **options: Any) -> pl.DataFrame:
    operation = bound(table.schema, **options)
    return collect(operation.whole(table.lazy()), operation.schema)


# Ours: what DuckDB computes over `PARTITION BY ... ORDER BY ..., row`; with peers over the order without `row`.
BY_ROW = [
    "row_number()", "lag(y)", "lag(s, 2)", "lag(i, 1, 0)", "lead(d)", "lead(y, 3, x)", "lag(b, -1)", "ntile(3)", "lag(m, 0)",
]  # fmt: skip
RANKS = ["rank()", "dense_rank()", "percent_rank()", "cume_dist()"]
AGGREGATES = [
    "sum(y)", "avg(y)", "min(y)", "max(y)", "count(y)", "count(*)", "min(x)", "max(x)", "sum(x)", "avg(x)", "sum(b)", "min(s)",
    "max(s)", "min(d)", "max(t)", "min(b)", "sum(m)", "avg(m)", "max(m)", "std(y)", "var(y)", "count(*) FILTER (WHERE y > 0)",
    "sum(y) FILTER (WHERE b)", "min(i)", "max(i)", "avg(i)",
]  # fmt: skip
ROWS = [
    "ROWS 2 PRECEDING", "ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW", "ROWS BETWEEN 5 PRECEDING AND 3 PRECEDING",
    "ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING", "ROWS BETWEEN 1 PRECEDING AND 2 FOLLOWING",
    "ROWS BETWEEN CURRENT ROW AND UNBOUNDED FOLLOWING", "ROWS BETWEEN 9 PRECEDING AND CURRENT ROW",
]  # fmt: skip
RANGES = [
    "RANGE BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW", "RANGE BETWEEN CURRENT ROW AND UNBOUNDED FOLLOWING",
    "RANGE BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING", "RANGE BETWEEN CURRENT ROW AND CURRENT ROW",
]  # fmt: skip
INTERVALS = [
    "RANGE BETWEEN INTERVAL 7 DAYS PRECEDING AND CURRENT ROW", "RANGE INTERVAL 1 MONTH PRECEDING",
    "RANGE BETWEEN INTERVAL 0 DAYS PRECEDING AND CURRENT ROW", "RANGE BETWEEN INTERVAL 36 HOURS PRECEDING AND CURRENT ROW",
    "RANGE BETWEEN INTERVAL 3 DAYS PRECEDING AND UNBOUNDED FOLLOWING",
]  # fmt: skip


def compared(table: pl.DataFrame, texts: list[str], sql: list[str], **options: Any) -> None:
    ours = answer(table, **options, **{f"o{i}": text for i, text in enumerate(texts)})
    rows = table.with_row_index("row")  # noqa: F841 - DuckDB reads it by its name
    sql = [
        text.replace("std(", "stddev(").replace("var(", "var_samp(").replace("sum(b)", "sum(b::int)") for text in sql
    ]
    select = ", ".join(f"{text} as o{i}" for i, text in enumerate(sql))
    theirs = duckdb.sql(f"select {select} from rows order by row").pl()
    ours = ours.select(theirs.columns)
    assert_frame_equal(ours, theirs.cast(dict(ours.schema)), rel_tol=1e-9, abs_tol=1e-9)


def over(by: list[str], order: list[str], frame: str = "", last: str = "row") -> str:
    parts = [f"PARTITION BY {', '.join(by)}" if by else ""]
    ordered = [f"{name.removeprefix('-')} {'DESC' if name[0] == '-' else 'ASC'} NULLS LAST" for name in order]
    ordered += [last] if last else []
    parts.append(f"ORDER BY {', '.join(ordered)}" if ordered else "")
    return f"OVER ({' '.join([*parts, frame])})"


def options(by: list[str], order: list[str]) -> dict[str, Any]:
    names = [name.removeprefix("-") for name in order]
    return {
        "partition_by": by,
        "order_by": names,
        "descending": [n.removeprefix("-") for n in order if n[0] == "-"],
    }


KEYS = st.sampled_from([[], ["k"], ["g"], ["k", "b"], ["g", "d"]])
ORDERS = st.sampled_from([[], ["d"], ["-d"], ["x"], ["-x", "s"], ["s", "-i"], ["-b"], ["m"]])


@settings(max_examples=15, deadline=None)
@given(table=tables(), by=KEYS, order=ORDERS)
def test_functions_of_places_equal_duckdb(table: pl.DataFrame, by: list[str], order: list[str]) -> None:
    spec = over(by, order)
    compared(table, BY_ROW, [f"{t} {spec}" for t in BY_ROW], **options(by, order))
    if order:
        spec = over(by, order, last="")
        compared(table, RANKS, [f"{t} {spec}" for t in RANKS], **options(by, order))
        texts = ["rank() - row_number()", "y - lag(y)", "CASE WHEN lag(y) > 0 THEN 'up' ELSE s END"]
        row = over(by, order)
        sql = [
            f"rank() {spec} - row_number() {row}",
            f"y - lag(y) {row}",
            f"CASE WHEN lag(y) {row} > 0 THEN 'up' ELSE s END",
        ]
        compared(table, texts, sql, **options(by, order))


@settings(max_examples=25, deadline=None)
@given(table=tables(), by=KEYS, order=ORDERS, frame=st.sampled_from([*ROWS, *RANGES, ""]))
def test_aggregates_equal_duckdb(table: pl.DataFrame, by: list[str], order: list[str], frame: str) -> None:
    if frame.startswith("RANGE") and not order:
        return
    places = frame.startswith("ROWS")
    spec = over(by, order, frame, "row" if places else "")
    ours = [f"{t} OVER ({frame})" if frame else t for t in AGGREGATES]
    compared(table, ours, [f"{t} {spec}" for t in AGGREGATES], **options(by, order))
    if places or (not order and not frame):  # of rows that are equal in the order DuckDB may take any
        spec = over(by, order, frame or "ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING")
        edges = ["first_value(y)", "last_value(s)", "first(x)", "last(m)"]
        ours = [f"{t} OVER ({frame})" if frame else t for t in edges]
        compared(table, ours, [f"{t} {spec}" for t in edges], **options(by, order))


@settings(max_examples=15, deadline=None)
@given(table=tables(60), by=KEYS, order=st.sampled_from(["d", "-d", "t", "-t"]), frame=st.sampled_from(INTERVALS))
def test_frames_of_time_equal_duckdb(table: pl.DataFrame, by: list[str], order: str, frame: str) -> None:
    texts = ["sum(y)", "count(*)", "min(x)", "avg(y)", "max(s)"]
    spec = over(by, [order], frame, "")
    compared(table, [f"{t} OVER ({frame})" for t in texts], [f"{t} {spec}" for t in texts], **options(by, [order]))


def test_edges_of_frames_are_of_the_table_order() -> None:
    table = pl.DataFrame({"d": [2, 1, 2, 1], "x": [1, 2, 3, 4]})
    made = answer(
        table, order_by=["d"], last="last_value(x)", first="first_value(x) OVER (RANGE CURRENT ROW)", n="row_number()"
    )
    assert made["last"].to_list() == [3, 4, 3, 4]
    assert made["first"].to_list() == [1, 2, 1, 2]
    assert made["n"].to_list() == [3, 1, 4, 2]


EVERYTHING = {
    "rows": "avg(y) OVER (ROWS 19 PRECEDING)", "total": "sum(y)", "all": "sum(y) OVER (ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING)",
    "spread": "std(y) OVER (ROWS 30 PRECEDING)", "so_far": "var(y)", "week": "avg(y) OVER (RANGE INTERVAL 7 DAYS PRECEDING)",
    "ints": "sum(i) OVER (ROWS 1 PRECEDING)", "money": "sum(m)", "least": "min(s) OVER (ROWS 5 PRECEDING)", "p": "percent_rank()",
    "before": "lag(m, 2)", "odd": "sum(x)", "n": "ntile(7)",
}  # fmt: skip


def large(rows: int) -> pl.DataFrame:
    from random import Random

    random = Random(7)
    values: dict[str, list[Any]] = {
        "k": [random.choice("abcdefghij") for _ in range(rows)],
        "d": [dt.date(2020, 1, 1) + dt.timedelta(random.randrange(900)) for _ in range(rows)],
        "y": [random.choice([None, random.gauss(0, 1e3), random.random() * 1e-9, 1e15]) for _ in range(rows)],
        "x": [random.choice([math.nan, math.inf, 1.0, 0.1]) for _ in range(rows)],
        "i": [random.randrange(2**60) for _ in range(rows)],
        "m": [random.randrange(10**6) for _ in range(rows)],
        "s": [random.choice("xyz") for _ in range(rows)],
    }
    return pl.DataFrame(values, schema_overrides={"m": pl.Decimal(12, 2)})


def bits(frame: pl.DataFrame) -> list[bytes]:
    """NaN and -0.0 told apart too."""
    return [
        frame[name].to_arrow().to_pandas().to_numpy().tobytes()
        for name in frame.columns
        if frame[name].dtype == pl.Float64
    ]


def test_a_group_has_the_same_bits_wherever_it_is() -> None:
    table = large(40_000).with_row_index("row")
    made = answer(table, partition_by="k", order_by=["d"], **EVERYTHING)
    for key in ("a", "f"):
        alone = answer(table.filter(pl.col("k") == key), partition_by="k", order_by=["d"], **EVERYTHING)
        here = made.filter(pl.col("k") == key)
        assert_frame_equal(alone, here, check_exact=True)
        assert bits(alone) == bits(here)
        without = answer(table.filter(pl.col("k") == key), order_by=["d"], **EVERYTHING)
        assert bits(without) == bits(here)
    chunks = pl.concat([table[i : i + 777] for i in range(0, len(table), 777)], rechunk=False)
    assert bits(answer(chunks, partition_by="k", order_by=["d"], **EVERYTHING)) == bits(made)


@pytest.mark.parametrize("by", ["[k]", "[]", "[k, s]"])
@pytest.mark.parametrize("executor", ["serial", "threads"])
def test_the_same_for_any_partitions(tmp_path: Path, by: str, executor: str) -> None:
    (tmp_path / "runs").mkdir()
    large(3000).write_parquet(tmp_path / "in.parquet", row_group_size=50)
    outputs = "".join(f"      {name}: {text}\n" for name, text in EVERYTHING.items())
    answers = []
    for partitions in (1, 3, 16):
        (tmp_path / "c.yaml").write_text(
            f"steps:\n  t:\n    read: {{path: in.parquet, partitions: {partitions}}}\n  it:\n    window:\n"
            f"      partition_by: {by}\n      order_by: d\n      descending: d\n{outputs}"
            "  narrow:\n    select: [rows, x]\n"
        )
        made = load(tmp_path / "c.yaml")
        tables = oracle(made.plan())
        answers.append(made.run(executor, head=10**6, to="it").outputs["it"].head)
        assert_frame_equal(answers[-1], tables["it"], check_exact=True)
        narrow = made.run(executor, head=10**6).outputs["narrow"].head
        assert_frame_equal(narrow, tables["narrow"], check_exact=True)
    assert bits(answers[0]) == bits(answers[1]) == bits(answers[2])


KEYED: list[tuple[str, dict[str, Any]]] = [
    ("window", {"partition_by": ["g", "b"], "order_by": ["x"], "n": "row_number()", "l": "lag(s)", "a": "sum(y)"}),
    ("fill", {"partition_by": ["k"], "forward": ["y", "s"], "backward": ["y"], "value": {"i": "0"}}),
    ("dedupe", {"by": ["g", "k"], "order_by": ["d", "x"], "keep": "last"}),
    ("dedupe", {"by": ["k"]}),
]


@settings(max_examples=15, deadline=None)
@given(table=tables(), cuts=st.integers(1, 4))
def test_rows_may_travel_by_their_keys(table: pl.DataFrame, cuts: int) -> None:
    for kind, options_ in KEYED:
        operation: Any = bound(table.schema, kind, **options_)
        for wanted in (frozenset(operation.schema), frozenset({"s"})):
            pruned = operation.prune(wanted)
            rows = table.select(c for c in table.columns if c in operation.reads(wanted)).with_row_index("hidden")
            parts = [pruned.shrink(part.lazy()).collect() for part in rows.iter_slices(7)] or [rows]
            bucket = pl.struct(operation.keys).hash(0) % cuts
            split = [pl.concat(parts).filter(bucket == i).lazy() for i in range(cuts)]
            done = pl.concat([pruned.apply(part) for part in split]).sort("hidden").select(list(pruned.schema))
            whole = collect(pruned.whole(rows.drop("hidden").lazy()), pruned.schema)
            assert_frame_equal(collect(done, pruned.schema), whole, check_exact=True)


KINDS_TOGETHER = """
  w:
    window: {partition_by: [g], order_by: [x, d], descending: x, n: row_number(), r: rank(), b: "lag(s, 2, k)", a: sum(i % 7), m: max(x) OVER (ROWS 3 PRECEDING)}
  all:
    from: t
    window: {order_by: s, n: row_number(), t2: sum(m), s: std(y) OVER (ROWS 4 PRECEDING)}
  top:
    from: t
    top: {n: 2, by: [g, b], order_by: [x, s], descending: s}
  one:
    from: t
    dedupe: {by: [k, g], keep: last, order_by: d}
  filled:
    from: t
    fill: {forward: [y, s], backward: y, value: {i: 0}, partition_by: g, order_by: t, limit: 2}
  grouped:
    from: t
    aggregate: {by: [g], q: "quantile(y, 0.3)", m: mode(s), e: mode(x)}
  described:
    from: t
    describe:
"""


@settings(max_examples=15, deadline=None)
@given(table=tables(), partitions=st.sampled_from([1, 3, 16]))
def test_random_tables_in_any_partitions(
    tmp_path_factory: pytest.TempPathFactory, table: pl.DataFrame, partitions: int
) -> None:
    folder = tmp_path_factory.mktemp("random")
    (folder / "runs").mkdir()
    table.write_parquet(folder / "in.parquet", row_group_size=2)
    read = f"steps:\n  t:\n    read: {{path: in.parquet, partitions: {partitions}}}"
    (folder / "c.yaml").write_text(read + KINDS_TOGETHER)
    made = load(folder / "c.yaml")
    whole = oracle(made.plan())
    for name, output in made.run("serial", head=1000).outputs.items():
        assert_frame_equal(output.head, whole[name], check_exact=True)


def test_sums_of_integers_do_not_wrap() -> None:
    table = pl.DataFrame({"i": [2**62, 2**62, -(2**62), 1]})
    exact = answer(table, s="sum(i) OVER (ROWS CURRENT ROW)", a="avg(i)")
    assert exact["s"].to_list() == table["i"].to_list()
    assert exact["a"][0] == (2**62 + 1) / 4
    with pytest.raises(DataError, match="does not fit int64"):
        answer(table, s="sum(i) OVER (ROWS 1 PRECEDING)")
    apart = pl.DataFrame({"i": [2**62, None, None, 1]})
    assert answer(apart, a="avg(i) OVER (ROWS 1 PRECEDING)")["a"][-1] == 1.0
    unsigned = pl.DataFrame({"u": pl.Series([2**64 - 1, 0], dtype=pl.UInt64)})
    assert answer(unsigned, s="sum(u)")["s"].to_list() == [2**64 - 1] * 2


def test_only_what_is_wanted_is_read_and_computed() -> None:
    operation = bound(SCHEMA, partition_by="k", order_by=["d"], a="lag(y)", b2="sum(i) + x", c="1")
    assert operation.reads(frozenset({"a"})) == {"k", "d", "y"}
    assert operation.reads(frozenset({"s", "b2"})) == {"k", "d", "i", "x", "s"}
    pruned = operation.prune(frozenset({"a", "s"}))
    assert len(pruned.windows.calls) == len(pruned.arguments) == len(pruned.outputs) == 1  # type: ignore[attr-defined]
    assert not operation.prune(frozenset({"c"})).windows.calls  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("given", "said", "remedy"),
    [
        ({"a": "median(y)"}, "median is not possible in a window", "join"),
        ({"a": "lag(y) OVER (ORDER BY d)"}, "OVER holds only a frame here", "`order_by`"),
        ({"a": "sum(y) OVER (PARTITION BY k)"}, "OVER holds only a frame here", "`partition_by`"),
        ({"a": "sum(y) OVER ()"}, "OVER () says nothing", "ROWS 19 PRECEDING"),
        ({"a": "sum(lag(y))"}, "lag(...) is inside of sum(...)", "window step above"),
        ({"a": "rank() OVER (ROWS 1 PRECEDING)"}, "rank looks at the whole partition", "leave OVER out"),
        ({"a": "abs(y) OVER (ROWS 1 PRECEDING)"}, "abs is no window function", "leave OVER out"),
        (
            {"a": "sum(y) OVER (RANGE BETWEEN 1 PRECEDING AND CURRENT ROW)"},
            "a frame of RANGE cannot have",
            "give a frame",
        ),
        (
            {"a": "sum(y) OVER (ROWS BETWEEN y PRECEDING AND CURRENT ROW)"},
            "a frame of ROWS cannot have",
            "give a frame",
        ),
        (
            {"a": "sum(y) OVER (ROWS BETWEEN 1 PRECEDING AND CURRENT ROW EXCLUDE TIES)"},
            "is not possible",
            "give a frame",
        ),
        (
            {"a": "sum(y) OVER (RANGE INTERVAL 1 DAY PRECEDING)", "order_by": ["y"]},
            "INTERVAL is added to a date",
            "CAST",
        ),
        ({"a": "sum(y) OVER (RANGE INTERVAL 1 DAY PRECEDING)", "order_by": []}, "needs one column of dates", "ROWS"),
        ({"a": "sum(y) OVER (RANGE CURRENT ROW)", "order_by": []}, "a frame of RANGE needs an order", "order_by"),
        ({"a": "sum(s)"}, "sum does not take string", "numbers"),
        ({"a": "lag(y, i)"}, "lag takes a literal whole number", "lag(x, 2)"),
        ({"a": "lag(y, 1, s)"}, "cannot combine float64 with string", "CAST"),
        ({"a": "ntile(0)"}, "at least one part", "ntile(4)"),
        ({"a": "rank(y)"}, "rank takes no argument", "rank()"),
        ({"a": "lag(y IGNORE NULLS)"}, "is not possible", "fill step"),
        ({"a": "count(DISTINCT y)"}, "DISTINCT is not possible in a window", "join"),
        ({"k": "lag(y)"}, "'k' is a key already", "another name"),
        ({"a": "lag(y)", "descending": ["y"]}, "'y' is not under `order_by`", "order_by: d"),
        ({"a": "lag(y)", "partition_by": ["z"]}, "unknown column 'z'", ""),
        ({}, "window names no column", "row_number()"),
    ],
)
def test_mistakes(given: dict[str, Any], said: str, remedy: str) -> None:
    problems = Problems(Node({}, Place("t", 1, 1)))
    step = KINDS["window"].model_validate({"partition_by": ["k"], "order_by": ["d"]} | given)
    assert step.bind(SCHEMA, problems, Context(Path())) is None
    assert said in problems.issues[0].message
    assert remedy in problems.issues[0].remedy


def test_sums_of_long_decimals_depend_on_their_group_alone() -> None:
    """Whether they have too many digits is the same for any partitions, which hold whole groups."""
    most = Decimal("6" + "0" * 35 + ".12")
    table = pl.DataFrame(
        {"g": [1, 1, 2, 2, 3], "m": pl.Series([most, most.copy_negate(), most, None, most], dtype=pl.Decimal(38, 2))}
    )
    options = {"partition_by": ["g"], "s": "sum(m) OVER (ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW)"}
    together = answer(table, **options)
    assert together["s"].to_list() == [most, 0, most, most, most]
    apart = [answer(part, **options) for part in table.partition_by("g", maintain_order=True)]
    assert_frame_equal(pl.concat(apart), together, check_exact=True)
    for rows in (table, table.head(2)):
        with pytest.raises(DataError, match="overflow"):
            answer(rows.with_columns(pl.col("m").abs()), **options)
