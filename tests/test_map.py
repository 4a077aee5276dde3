"""`map`: what its functions may return and raise, and what a check refuses; each through a run, here and in processes."""

from __future__ import annotations

import datetime
import os
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from pipelines import DataError, load
from pipelines.cli import main

RUN = ("serial", "local")  # `local` calls Python functions in processes

FUNCTIONS = '''
import asyncio, datetime, pathlib, sys, threading
import numpy as np

class Silent(Exception):
    def __str__(self): raise RuntimeError("no words")

class Stuck(Exception):
    """Cannot travel between processes."""
    def __init__(self, one, two):
        super().__init__(f"{one} and {two}")
        self.lock = threading.Lock()

def numpy(kind: str) -> dict:
    values = {
        "int": np.int32(-7), "float": np.float32(0.5), "bool": np.bool_(True), "text": np.str_("a"),
        "date": np.datetime64("2020-02-29"), "time": np.datetime64("2020-02-29T01:02:03"), "span": np.timedelta64(90, "s"),
    }
    return {name: value if name == kind else None for name, value in values.items()}

def whole(kind: str):
    return {
        "int": 5, "none": None, "true": True, "float": 5.0, "text": "5", "large": 2**63, "list": [5], "array": np.array([5]),
        "dict": {"a": 1}, "object": object(),
    }[kind]

def day(kind: str):
    return {"date": datetime.date(2020, 2, 29), "number": 5, "text": "2020-02-29", "time": datetime.datetime(2020, 2, 29, 12),
            "numpy": np.int64(5)}[kind]

def table(kind: str):
    return {"both": {"a": 1, "b": "x"}, "null": {"a": None, "b": None}, "less": {"a": 1}, "more": {"a": 1, "b": "x", "c": 2, "d": 3},
            "none": None, "list": [("a", 1), ("b", "x")], "wrong": {"a": "x", "b": "x"}}[kind]

def raising(kind: str) -> int:
    if kind == "fine":
        return 1
    raise {
        "exit": SystemExit(3), "silent": Silent(), "stuck": Stuck(1, 2), "empty": ValueError(), "lines": ValueError("one\\ntwo"),
        "cancelled": asyncio.CancelledError(), "generator": GeneratorExit(), "stop": StopIteration(5),
        "memory": MemoryError(), "key": KeyError("k"),
        "interrupt": KeyboardInterrupt(),
    }[kind]

def maybe(n: int) -> "int | None":
    return n if n else None

def half(x: float) -> float:
    return x / 2

def size(path: str) -> int:
    return len(pathlib.Path(path).read_text())

async def waits(n: int) -> int: return n
def yields(n: int): yield n
async def both(n: int): yield n
number = 5
'''
KINDS = {
    "numpy": ["int", "float", "bool", "text", "date", "time", "span"],
    "whole": ["int", "none", "true", "float", "text", "large", "list", "array", "dict", "object"],
    "day": ["date", "number", "text", "time", "numpy"],
    "table": ["both", "null", "less", "more", "none", "list", "wrong"],
    "raising": ["fine", "exit", "silent", "stuck", "empty", "lines", "cancelled", "generator", "stop", "memory", "key"],
}
RETURNS = {
    "numpy": "{int: int64, float: float64, bool: boolean, text: string, date: date, time: datetime, span: duration}",
    "whole": "int64",
    "day": "date",
    "table": "{a: int64, b: string}",
    "raising": "int64",
}


def config(project: Path, steps: str) -> Path:
    (project / "functions_of_test.py").write_text(FUNCTIONS)
    path = project / "map.yaml"
    path.write_text(f"name: test\nparams: {{x: 1}}\nsteps:\n{steps}")
    return path


@pytest.fixture(scope="module", params=RUN)
def tables(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, pl.DataFrame]:
    """One run of all: step → table."""
    project = tmp_path_factory.mktemp("map")
    (project / "runs").mkdir()
    (project / "texts/folder.txt").mkdir(parents=True)
    for name, text in {"b": "22", "a": "1", "c": ""}.items():
        (project / f"texts/{name}.txt").write_text(text)
    steps = "".join(
        f"  {name}:\n    map: {{function: 'functions_of_test:{name}', items: [{', '.join(map(repr, kinds))}], returns: {RETURNS[name]}}}\n"
        for name, kinds in KINDS.items()
    )
    steps += (
        "  maybe:\n    map: {function: 'functions_of_test:maybe', items: [3, 0, -5]}\n"
        "  half:\n    map: {function: 'functions_of_test:half', items: [.inf, -.Inf, .nan, 3]}\n"
        "  size:\n    map: {function: 'functions_of_test:size', files: texts/*.txt}\n"
        "  many:\n    map: {function: 'functions_of_test:maybe', range: [-300, 700]}\n"
    )
    outputs = load(config(project, steps)).run(request.param, head=10**6).outputs
    return {name: produced.head for name, produced in outputs.items()}


def answers(table: pl.DataFrame, column: str = "result") -> dict[str, Any]:
    """item → its result, or its error."""
    return {row["item"]: row[column] if row["error"] is None else row["error"] for row in table.iter_rows(named=True)}


def test_numpy_scalars_count_as_pythons(tables: dict[str, pl.DataFrame]) -> None:
    table = tables["numpy"]
    assert table["error"].null_count() == 7
    assert {kind: table[kind].drop_nulls().to_list() for kind in KINDS["numpy"]} == {
        "int": [-7], "float": [0.5], "bool": [True], "text": ["a"], "date": [datetime.date(2020, 2, 29)],
        "time": [datetime.datetime(2020, 2, 29, 1, 2, 3)], "span": [datetime.timedelta(seconds=90)],
    }  # fmt: skip


def test_values_are_never_converted(tables: dict[str, pl.DataFrame]) -> None:
    whole = answers(tables["whole"])
    assert {kind: whole.pop(kind) for kind in ("int", "none", "true")} == {"int": 5, "none": None, "true": 1}
    assert whole.pop("object").startswith("TypeError: result is <object object")
    shown = {
        "float": "5.0",
        "text": "'5'",
        "large": str(2**63),
        "list": "[5]",
        "array": "array([5])",
        "dict": "{'a': 1}",
    }
    assert whole == {kind: f"TypeError: result is {text}, which is not int64" for kind, text in shown.items()}
    assert answers(tables["day"]) == {
        "date": datetime.date(2020, 2, 29),
        "number": "TypeError: result is 5, which is not date",
        "text": "TypeError: result is '2020-02-29', which is not date",
        "time": "TypeError: result is datetime.datetime(2020, 2, 29, 12, 0), which is not date",
        "numpy": "TypeError: result is np.int64(5), which is not date",
    }


def test_a_dict_has_exactly_the_columns_that_returns_names(tables: dict[str, pl.DataFrame]) -> None:
    assert answers(tables["table"], "a") == {
        "both": 1,
        "null": None,
        "less": "TypeError: returned no 'b': return None for NULL",
        "more": "TypeError: returned 'c', 'd', which `returns` does not name",
        "none": "TypeError: returned None, not a dict of a, b",
        "list": "TypeError: returned [('a', 1), ('b', 'x')], not a dict of a, b",
        "wrong": "TypeError: a is 'x', which is not int64",
    }
    assert tables["table"]["b"].to_list() == ["x", *[None] * 6]  # an item that failed has no values


def test_whatever_is_raised_is_its_items_error(tables: dict[str, pl.DataFrame]) -> None:
    assert answers(tables["raising"]) == {
        "fine": 1, "exit": "SystemExit: 3", "silent": "Silent", "stuck": "Stuck: 1 and 2", "empty": "ValueError",
        "lines": "ValueError: one", "cancelled": "CancelledError", "generator": "GeneratorExit", "stop": "StopIteration: 5",
        "memory": "MemoryError", "key": "KeyError: 'k'",
    }  # fmt: skip


def test_items(tables: dict[str, pl.DataFrame]) -> None:
    assert tables["maybe"].rows() == [(3, 3, None), (0, None, None), (-5, -5, None)]
    assert str(tables["half"]["result"].to_list()) == "[inf, -inf, nan, 1.5]"
    assert [Path(item).name for item in tables["size"]["item"]] == ["a.txt", "b.txt", "c.txt"]  # and not the folder
    assert tables["size"]["result"].to_list() == [1, 2, 0]
    assert tables["many"]["item"].to_list() == list(range(-300, 701))
    assert tables["many"]["result"].to_list() == [n or None for n in range(-300, 701)]


@pytest.mark.parametrize("executor", [*RUN, "threads"])
def test_a_keyboard_interrupt_is_no_items_error(project: Path, executor: str) -> None:
    """A function that uses Polars is told of Ctrl-C in any thread: what it gives then is not to be kept."""
    path = config(project, "  a:\n    map: {function: 'functions_of_test:raising', items: [fine, interrupt]}\n")
    assert main(["run", str(path), "--executor", executor]) == 130


@pytest.mark.parametrize("executor", RUN)
@pytest.mark.parametrize("kind", ["stuck", "exit", "silent"])
def test_on_error_stop_is_one_clear_error(
    project: Path, executor: str, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = config(
        project, f"  a:\n    map: {{function: 'functions_of_test:raising', items: [fine, {kind}], on_error: stop}}\n"
    )
    assert main(["run", str(path), "--executor", executor]) == 3
    said = capsys.readouterr().err
    assert "Traceback" not in said
    told = {"stuck": "Stuck: 1 and 2", "exit": "SystemExit: 3", "silent": "Silent"}[kind]
    assert f"functions_of_test:raising failed on the item '{kind}': {told}\n    mend it, or drop" in said


def test_the_error_that_stops_carries_no_other(project: Path) -> None:
    """On a cluster it travels with what it was raised from."""
    path = config(project, "  a:\n    map: {function: 'functions_of_test:raising', items: [stuck], on_error: stop}\n")
    with pytest.raises(DataError) as caught:
        load(path).run("serial")
    assert caught.value.__context__ is None is caught.value.__cause__


BAD = {
    "function: 'functions_of_test:waits', items: [1]": "functions_of_test:waits is async",
    "function: 'functions_of_test:both', items: [1]": "functions_of_test:both is async",
    "function: 'functions_of_test:yields', items: [1], returns: int64": "functions_of_test:yields yields",
    "function: 'functions_of_test:number', items: [1], returns: int64": "functions_of_test:number is not a function",
    "function: 'functions_of_test:half', items: [1], returns: {}": "returns` names no column",
    "function: 'functions_of_test:half', range: [5, 4]": "range ends at 4, before it starts",
    "function: 'functions_of_test:half', range: [5]": "`range` must be",
    "function: 'functions_of_test:half', range: [1, 1.5]": "`range` must be a whole number, not 1.5",
    f"function: 'functions_of_test:half', range: [0, {2**63}]": "does not fit int64",
    f"function: 'functions_of_test:half', items: [1, {2**63}]": "9223372036854775808 does not fit int64",
    f"function: 'functions_of_test:half', items: [0.5, {2**53 + 1}]": "9007199254740993 does not fit float64",
    f"function: 'functions_of_test:half', items: [0.5, {10**400}]": "does not fit float64",
    "function: 'functions_of_test:half', items: [1], range: [1, 2]": "one of `items`, `range` and `files`",
    "function: 'functions_of_test:half'": "one of `items`, `range` and `files`",
    "function: 'exits_of_test:f', items: [1]": "importing exits_of_test failed: SystemExit: 5",
    "function: 'lacks_of_test:f', items: [1]": "importing lacks_of_test failed: module 'math' has no attribute 'tau_'",
}


@pytest.mark.parametrize("options", BAD)
def test_what_a_check_refuses(project: Path, options: str, capsys: pytest.CaptureFixture[str]) -> None:
    (project / "exits_of_test.py").write_text("import sys\nsys.exit(5)\n")
    (project / "lacks_of_test.py").write_text("import math\nmath.tau_\n")
    path = config(project, f"  a:\n    map: {{{options}}}\n")
    assert main(["check", str(path)]) == 2
    said = capsys.readouterr().err
    assert BAD[options] in said
    assert said.startswith(f"error: {path}:5:")
    assert "\n    " in said  # what to do


def test_a_file_that_changed_is_another_input(project: Path) -> None:
    (project / "a.txt").write_text("1")
    path = config(project, "  a:\n    map: {function: 'functions_of_test:size', files: '*.txt'}\n")
    before = load(path).plan().nodes["a"].identity
    assert load(path).plan().nodes["a"].identity == before
    os.utime(project / "a.txt", ns=(1, 1))
    assert load(path).plan().nodes["a"].identity != before


def test_a_range_is_not_written_out(project: Path) -> None:
    path = config(project, f"  a:\n    map: {{function: 'functions_of_test:half', range: [1, {10**15}]}}\n")
    bound: Any = load(path).plan().nodes["a"].bound
    assert len(bound.partitions) == 256
    assert sum(map(len, bound.partitions)) == 10**15
