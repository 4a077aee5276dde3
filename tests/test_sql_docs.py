"""Every example in docs/sql.md gives what it says, here and in DuckDB."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pytest

from pipelines.errors import PipelineError, Place
from pipelines.expressions import ExpressionError, parse
from pipelines.expressions.functions import AGGREGATES, FUNCTIONS, WINDOWS
from pipelines.kernel import collect
from pipelines.source import Node
from pipelines.steps.aggregate import Aggregate
from pipelines.steps.base import Context, Operation, Problems
from pipelines.steps.window import Window
from tests.conftest import ROOT

TEXT = (ROOT / "docs" / "sql.md").read_text()
DUCKDB = duckdb.connect()


def rows(head: str) -> list[tuple[str, ...]]:
    """The cells of all tables with this head; backquotes taken off."""
    found = list[tuple[str, ...]]()
    for table in re.findall(rf"^{re.escape(head)}\n\|[-|]+\n((?:\|.*\n)+)", TEXT, re.MULTILINE):
        for line in table.splitlines():
            cells = (c.strip().replace("\\|", "|") for c in re.split(r"(?<!\\)\|", line)[1:-1])
            found.append(tuple(c[1:-1] if c.startswith("`") and c.endswith("`") else c for c in cells))
    return found


EXAMPLES = rows("| expression | result |")
AGGREGATE = rows("| expression | x | result |")
WINDOW = rows("| expression | x | results |")
DIFFERENCES = rows("| expression | here | DuckDB | why |")


def shown(value: Callable[[], Any]) -> str:
    try:
        found = value()
    except (ExpressionError, PipelineError, duckdb.Error):
        return "error"
    match found:
        case None:
            return "NULL"
        case bool():
            return str(found).lower()
        case str():
            return f"'{found}'"
        case dt.timedelta():
            return str(dt.datetime.min + found).split(" ")[1]
        case float():
            return repr(float(f"{found:.12g}"))  # cbrt(27)
        case _:
            return str(found)


def here(text: str) -> Any:
    typed = parse(text).bind({})
    return collect(pl.LazyFrame().select(typed.expr.alias("x")), {"x": typed.dtype}).item()


def duck(text: str) -> Any:
    return DUCKDB.execute(f"select {text}").fetchall()[0][0]


@pytest.mark.parametrize(("text", "result"), EXAMPLES, ids=[e[0] for e in EXAMPLES])
def test_example(text: str, result: str) -> None:
    assert shown(lambda: here(text)) == result
    assert shown(lambda: duck(text)) == result


@pytest.mark.parametrize(("text", "ours", "theirs"), [d[:3] for d in DIFFERENCES], ids=[d[0] for d in DIFFERENCES])
def test_difference(text: str, ours: str, theirs: str) -> None:
    assert ours != theirs
    assert shown(lambda: here(text)) == ours
    if theirs != "…":
        assert shown(lambda: duck(text)) == theirs


@pytest.mark.parametrize(("text", "values", "result"), AGGREGATE, ids=[f"{a[0]} of {a[1]}" for a in AGGREGATE])
def test_aggregate(text: str, values: str, result: str) -> None:
    table = f"(select unnest([{values}]) as x)" if values else "(select 1.5e0 as x where false)"
    frame = DUCKDB.sql(f"from {table}").pl()

    def ours() -> Any:
        problems = Problems(Node({}, Place("t", 1, 1)))
        step = Aggregate.model_validate({"y": text}).bind(dict(frame.schema), problems, Context(Path()))
        assert isinstance(step, Operation), problems.issues
        return collect(step.whole(frame.lazy()), step.schema).item()

    assert shown(ours) == result
    assert shown(lambda: DUCKDB.execute(f"select {text} from {table}").fetchall()[0][0]) == result


@pytest.mark.parametrize(("text", "values", "results"), WINDOW, ids=[f"{w[0]} of {w[1]}" for w in WINDOW])
def test_window(text: str, values: str, results: str) -> None:
    frame = DUCKDB.sql(f"select unnest([{values}]) as x").pl()

    def ours() -> list[Any]:
        problems = Problems(Node({}, Place("t", 1, 1)))
        step = Window.model_validate({"order_by": ["x"], "y": text}).bind(dict(frame.schema), problems, Context(Path()))
        assert isinstance(step, Operation), problems.issues
        return collect(step.whole(frame.lazy()), step.schema)["y"].to_list()

    call, frame_ = re.fullmatch(r"(.*?)(?: OVER \((.*)\))?", text).groups()  # type: ignore[union-attr]
    over = f"OVER (ORDER BY x NULLS LAST {frame_ or ''})"
    call = call.replace("std(", "stddev(")
    sql = f"x - lag(x) {over}" if call.startswith("x -") else f"{call} {over}"
    table = f"(select unnest([{values}]) as x)"
    theirs = DUCKDB.execute(f"select {sql} from {table} order by x nulls last").fetchall()
    assert ", ".join(shown(lambda v=v: v) for v in ours()) == results  # type: ignore[misc]
    assert ", ".join(shown(lambda v=v: v[0]) for v in theirs) == results  # type: ignore[misc]


def test_every_function_is_in_the_reference() -> None:
    for name in [*FUNCTIONS, *AGGREGATES, *WINDOWS]:
        assert re.search(rf"`[^`]*\b{name}\b[^`]*`", TEXT), name
    assert len(EXAMPLES) > 150
    assert all(why for *_, why in DIFFERENCES)
