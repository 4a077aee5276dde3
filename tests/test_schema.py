"""The JSON Schema: it takes what `check` takes, refuses what has the wrong form, and a real language server reads it."""

from __future__ import annotations

import random
import re
import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from pipelines import schema
from pipelines.cli import main
from pipelines.errors import ConfigError, PipelineError
from pipelines.pipeline import load
from pipelines.source import parse_yaml
from pipelines.spec import COMMON, TOP
from pipelines.steps import KINDS
from tests.language_server import LanguageServer, installed
from tests.test_bad_configs import LARGE, mutated

ROOT = Path(__file__).parent.parent
SHIPPED = sorted((ROOT / "configs").glob("*.yaml"))
COMMITTED = "pipelines.schema.json"
MODELINE = f"# yaml-language-server: $schema={COMMITTED}\n"
VALIDATOR = jsonschema.Draft7Validator(schema.schema())


def complaints(config: Any) -> list[str]:
    return [error.message for error in VALIDATOR.iter_errors(config)]


def a_step(**step: Any) -> list[str]:
    return complaints({"steps": {"a": step}})


# The schema by itself


def test_it_is_a_schema() -> None:
    jsonschema.Draft7Validator.check_schema(schema.schema())


def test_what_is_committed_is_current() -> None:
    for name, make in runpy.run_path(str(ROOT / "docs/make_reference.py"))["MADE"].items():
        assert (ROOT / name).read_text() == make(), "run python docs/make_reference.py"


def test_the_command_prints_it(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["schema"]) == 0
    assert capsys.readouterr().out == (ROOT / "configs" / COMMITTED).read_text()
    assert main(["schema", "-o", str(tmp_path / "s.json")]) == 0
    assert (tmp_path / "s.json").read_text() == schema.text()


def test_it_has_every_key_kind_and_option() -> None:
    made = schema.schema()
    assert set(made["properties"]) == set(TOP)
    assert set(made["definitions"]["step"]["properties"]) == {*KINDS, *COMMON}
    for kind, cls in KINDS.items():
        [options] = [form for form in made["definitions"][kind]["anyOf"] if "properties" in form]
        assert set(options["properties"]) == {field.alias or name for name, field in cls.model_fields.items()}
        assert all(field["description"] for field in options["properties"].values())
        assert made["definitions"][kind]["description"]
        assert made["definitions"][kind]["examples"]


@pytest.mark.parametrize("path", SHIPPED, ids=[path.stem for path in SHIPPED])
def test_shipped_configs(path: Path) -> None:
    assert complaints(yaml.safe_load(path.read_text())) == []
    assert path.read_text().startswith(MODELINE)


@pytest.mark.parametrize("kind", KINDS)
def test_examples(kind: str) -> None:
    assert a_step(**parse_yaml(KINDS[kind].example, "example").plain()) == []


@pytest.mark.parametrize(
    "step",
    [
        {"read": "a.csv"},
        {"read": ["a.csv", "b.csv"]},
        {"read": {"path": "a.csv", "partitions": "${n}", "header": "${h}", "dtypes": "${types}", "format": "${f}"}},
        {"read": {"path": "a.csv", "dtypes": {"x": "decimal(18,2)", "y": "datetime[us,Europe/Berlin]", "z": "${t}"}}},
        {"read": "a.csv", "checkpoint": "memory", "description": "words"},
        {"filter": "a > 0", "from": "b"},
        {"filter": True},
        {"sort": "a"},
        {"sort": ["a", "b"]},
        {"select": ["a"]},
        {"aggregate": {"by": "a", "n": "count(*)", "one": 1}},
        {"aggregate": "${all}"},
        {"map": {"function": "math:isqrt", "items": [1, 2.5, "x"], "returns": {"a": "int64"}, "arguments": {"b": [1]}}},
    ],
)
def test_forms_that_are_right(step: dict[str, Any]) -> None:
    assert a_step(**step) == []


@pytest.mark.parametrize(
    "step",
    [
        {},
        {"from": "a"},
        {"raed": "a.csv"},
        {"read": "a.csv", "filter": "a"},
        {"read": "a.csv", "from": "b"},
        {"write": "a.csv", "checkpoint": "memory"},
        {"read": None},
        {"read": {}},
        {"read": {"path": "a.csv", "partitions": "many"}},
        {"read": {"path": "a.csv", "partitions": 0}},
        {"read": {"path": "a.csv", "dtypes": {"x": "int46"}}},
        {"filter": ["a"]},
        {"filter": "a", "checkpoint": "disc"},
        {"derive": "a"},
        {"derive": {"a": ["b"]}},
        {"select": {"colums": ["a"]}},
    ],
)
def test_forms_that_are_wrong(step: dict[str, Any]) -> None:
    assert a_step(**step)


FORM = re.compile(
    r"expect: .*(unknown key|unknown option|unknown type|has no kind|has two kinds|must be (a|one|'|at|true)|is missing"
    r"|says nothing to do|takes (a mapping|options)|names one step, not|is a source|nothing to keep|not 'memory'"
    r"|there are no steps|cannot name a step|is a mapping of|is one of)"
)
UNSEEN = {
    "parameter_wrong_type",
    "yaml_date",
    "sql_cast",
    "join_key_twice",
    "join_words_of_other_tools",
    "window_misspelt",
    "store_unclear",
}
"""What a parameter holds, a type inside of an expression, a name that is there twice, a mapping that may be of keys or columns."""


def test_bad_configs_of_the_wrong_form() -> None:
    tried = 0
    for path in sorted((ROOT / "tests/bad_configs").glob("*.yaml")):
        if FORM.search(path.read_text()) and path.stem not in UNSEEN:
            try:
                config = parse_yaml(path.read_text(), "f").plain()
            except ConfigError:  # not even YAML
                continue
            tried += 1
            assert complaints(config), path.name
    assert tried > 70


def test_what_check_accepts_the_schema_accepts(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "data").symlink_to(ROOT / "data")
    (tmp_path / "mine.py").write_text(
        "import polars as pl\n\ndef same(t: pl.DataFrame) -> pl.DataFrame:\n    return t\n"
    )
    chance, path, accepted = random.Random(7), tmp_path / "large.yaml", 0
    for _ in range(150):
        text = mutated(LARGE, chance)
        path.write_text(text)
        try:
            load(path).plan()
        except PipelineError:
            continue
        config = parse_yaml(text, "f").plain()
        if text != LARGE and str(config).count("None") == 1:  # options may be null: nothing proposes that
            accepted += 1
            assert complaints(config) == [], text
    assert accepted > 20


# An editor


@pytest.fixture(scope="module")
def editor(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LanguageServer]:
    program = installed(request.config.cache)  # type: ignore[arg-type]
    folder = tmp_path_factory.mktemp("editor")
    (folder / COMMITTED).write_text((ROOT / "configs" / COMMITTED).read_text())
    with LanguageServer(program, folder) as server:
        yield server


_numbers = iter(range(1000))


def opened(editor: LanguageServer, text: str) -> tuple[Path, int, int]:
    """A document with the schema's modeline, and the place of the mark ^ in it."""
    path = editor.folder / f"config{next(_numbers)}.yaml"
    at = text.index("^")
    editor.open(path, MODELINE + text.replace("^", ""))
    return path, text[:at].count("\n") + 1, at - text.rfind("\n", 0, at) - 1


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("^", set(TOP)),
        ("steps:\n  a:\n    ^", {*KINDS, *COMMON}),
        ("steps:\n  a:\n    read:\n      ^", set(KINDS["read"].model_fields)),
        ("steps:\n  a:\n    read:\n      path: a.csv\n      format: ^", {"csv", "parquet"}),
        ("steps:\n  a: {select: {cast: {b: ^}}}", {"int64", "string", "date"}),
        ("executor: ^", {"serial", "threads", "local"}),
        ("steps:\n  a:\n    read: a.csv\n    checkpoint: ^", {"memory"}),
    ],
)
def test_completion(editor: LanguageServer, text: str, labels: set[str]) -> None:
    assert labels <= set(editor.completion(*opened(editor, text)))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("steps:\n  a:\n    agg^regate: {by: b}\n", ["One row for each group", "mean_close: avg(Close)"]),
        ("steps:\n  a: {read: {path: a.csv, dty^pes: {}}}\n", ["not to be sampled"]),
        ("steps:\n  a: {filter: b > ^0}\n", ["An SQL condition", "Close > 0"]),
        ("steps:\n  a:\n    read: a.csv\n    check^point: memory\n", ["`memory` keeps the table"]),
    ],
)
def test_hover(editor: LanguageServer, text: str, words: list[str]) -> None:
    shown = editor.hover(*opened(editor, text))
    assert all(word in shown for word in words), shown


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("nam: a\nsteps:\n  a: {read: a.csv}\n", 1, "Property nam is not allowed"),
        ("steps:\n  a: {raed: a.csv}\n", 2, "Property raed is not allowed"),
        ("steps:\n  a:\n    read:\n      path: a.csv\n      dtyps: {}\n", 5, "Property dtyps is not allowed"),
        ("steps:\n  a: {read: {path: a.csv, partitions: many}}\n", 2, 'Expected "integer"'),
        ("steps:\n  a: {sort: {limit: 3}}\n", 2, 'Missing property "by"'),
        ("steps:\n  a: {description: b}\n", 2, "a step has one kind"),
    ],
)
def test_diagnostics(editor: LanguageServer, text: str, line: int, message: str) -> None:
    found = editor.open(editor.folder / f"config{next(_numbers)}.yaml", MODELINE + text)
    assert any(message in each["message"] and each["range"]["start"]["line"] == line for each in found), found


@pytest.mark.parametrize("path", SHIPPED, ids=[path.stem for path in SHIPPED])
def test_no_diagnostics_for_shipped_configs(editor: LanguageServer, path: Path) -> None:
    assert editor.open(editor.folder / path.name, path.read_text()) == []
