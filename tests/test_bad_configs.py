"""Configs with mistakes: each is one clear error with its place, and never anything else than a PipelineError."""

from __future__ import annotations

import random
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines import ConfigError, PipelineError, load
from pipelines.errors import Issue
from pipelines.pipeline import Pipeline
from pipelines.source import parse_yaml, substitute
from pipelines.spec import project_root

ROOT = Path(__file__).parent.parent
CORPUS = sorted((Path(__file__).parent / "bad_configs").glob("*.yaml"))
EXPECT = re.compile(r"# expect: (?:(\d+):(\d+)|-) (.+)")


def errors(text: str, folder: Path, **params: Any) -> list[Issue]:
    path = folder / "config.yaml"
    path.write_text(text)
    with pytest.raises(PipelineError) as caught:
        load(path, params).plan()
    return list(caught.value.issues)


def said(text: str, folder: Path, **params: Any) -> list[str]:
    """`line:column message` of every issue."""
    return [
        f"{issue.place.line}:{issue.place.column} {issue.message}" if issue.place else issue.message
        for issue in errors(text, folder, **params)
    ]


# The corpus


def test_the_corpus_is_there() -> None:
    assert len(CORPUS) > 150


@pytest.mark.parametrize("path", CORPUS, ids=[path.stem for path in CORPUS])
def test_bad_config(path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    text = path.read_text()
    if found := re.search("^# xfail: (.+)", text):
        request.applymarker(pytest.mark.xfail(reason=found[1]))
    monkeypatch.delenv("NO_SUCH_VARIABLE_HERE", raising=False)
    expected = EXPECT.findall(text)
    assert expected, "an expectation is written as `# expect: 7:13 message`"
    with pytest.raises(PipelineError) as caught:
        load(path).plan()
    issues = caught.value.issues
    places = [(str(i.place.line), str(i.place.column)) if i.place else ("", "") for i in issues]
    assert places == [(line, column) for line, column, _ in expected], str(caught.value)
    for issue, (_, _, message) in zip(issues, expected, strict=True):
        assert message in issue.message
        assert_clear(issue, str(path))
    assert caught.value.exit_code == (3 if "# exit: 3" in text else 2)


def assert_clear(issue: Issue, file: str) -> None:
    text = f"{issue.message}\n{issue.remedy}"
    assert issue.message.strip()
    assert len(issue.message.splitlines()) == 1
    if issue.place is not None:
        assert issue.place.file == file or issue.place.file.startswith("-p ")
        assert issue.place.line >= 1
        assert issue.place.column >= 1
        if issue.place.file == file:
            lines = re.split("[\n\x85\u2028\u2029]", Path(file).read_text(errors="replace"))  # what ends a line in YAML
            assert issue.place.line <= len(lines)
            assert issue.place.column <= len(lines[issue.place.line - 1]) + 1
    for noise in ("Traceback", "pydantic", "NoneType", "Input should", "Value error", "<class", "Node(", "polars."):
        assert noise not in text, text


def test_all_mistakes_are_told_at_once() -> None:
    for name in ("five_mistakes", "five_mistakes_spec"):
        with pytest.raises(ConfigError) as caught:
            load(ROOT / "tests/bad_configs" / f"{name}.yaml").plan()
        assert len(caught.value.issues) >= 5
        places = [issue.place for issue in caught.value.issues if issue.place]
        assert places == sorted(places)


def test_a_sampled_type_is_told_as_that(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("k,v\n1,$2\n2,$3\n")
    text = "steps:\n  t: {read: OPTIONS}\n  u: {filter: k > 0}\n  a: {aggregate: {x: sum(v)}}\n"
    [sampled] = errors(text.replace("OPTIONS", "a.csv"), tmp_path)
    assert "string was sampled, not declared: another type as `dtypes: {v: float64}`" in sampled.remedy
    [declared] = errors(text.replace("OPTIONS", "{path: a.csv, dtypes: {v: string}}"), tmp_path)
    assert declared.message == sampled.message == "sum does not take string"
    assert "sampled" not in declared.remedy
    [derived] = errors(text.replace("OPTIONS", "a.csv").replace("filter: k > 0", "derive: {v: upper(v)}"), tmp_path)
    assert "sampled" not in derived.remedy


# Files


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"name: \xe4\n", "not UTF-8"),
        (b"\xff\xfe\x00", "not UTF-8"),
        (b"", "the file is empty"),
        (b"# only words\n", "the file is empty"),
        (b"a: \x00\n", "a character that YAML does not allow"),
        (b"\n\n  a: 1\n b: 2\n", "this is not YAML"),
        (b"[" * 5000, "nested too deeply"),
        (b"a: " + b"{a: " * 5000, "nested too deeply"),
        (b"- " * 5000, "nested too deeply"),
        (b"x: &a [*a]\n", "an alias"),
    ],
)
def test_what_is_not_a_config(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        load(path)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    for path in (tmp_path / "none.yaml", tmp_path, tmp_path / "none" / "config.yaml"):
        with pytest.raises(ConfigError, match="cannot read") as caught:
            load(path)
        assert str(path) in str(caught.value)


@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("start", ["", "\ufeff", "---\n", "%YAML 1.2\n---\n"])
def test_line_ends_and_starts(tmp_path: Path, ending: str, start: str) -> None:
    text = (
        start + "name: a\nsteps:\n  m:\n    map:\n      function: 'math:isqrt'\n      items: [1]\n      returns: intt\n"
    )
    path = tmp_path / "config.yaml"
    path.write_bytes(text.replace("\n", ending).encode())
    with pytest.raises(ConfigError) as caught:
        load(path).plan()
    [issue] = caught.value.issues
    assert issue.place is not None
    assert (issue.place.line, issue.place.column) == (7 + start.count("\n"), 16)


def test_a_file_name_that_names_no_pipeline(tmp_path: Path) -> None:
    path = tmp_path / "my config (1).yaml"
    path.write_text("steps: {m: {map: {function: 'math:isqrt', items: [1], returns: int64}}}\n")
    with pytest.raises(ConfigError, match="write `name:`"):
        load(path)
    path.rename(tmp_path / "my_config.yaml")
    assert load(tmp_path / "my_config.yaml").spec.name == "my_config"


# Places


def test_at() -> None:
    node = parse_yaml("a: one two\nb: 'one two'\nc: 'it''s'\nd: |\n    one\n      two\ne: 5\nf:\n  one\n  two\n", "f")
    assert isinstance(node.value, dict)

    def at(key: str, offset: int | None) -> tuple[int, int]:
        assert isinstance(node.value, dict)
        place = node.value[key].at(offset)
        return place.line, place.column

    assert at("a", 4) == (1, 8)
    assert at("a", None) == (1, 4)
    assert at("b", 4) == (2, 9)
    assert at("c", 3) == (3, 4)  # an escape before it: the scalar's start
    assert at("d", 0) == (5, 5)
    assert at("d", 6) == (6, 7)
    assert at("d", None) == (4, 4)
    assert at("e", 0) == (7, 4)
    assert at("f", 4) == (9, 3)
    assert str(node.value["a"].at(4)) == "f:1:8"


@pytest.mark.parametrize("header", ["|", "|-", "|+", "|2", "|2-", "| # words"])
def test_places_in_literal_blocks(header: str) -> None:
    indent = "  " if "2" in header else "    "
    node = parse_yaml(f"a: {header}\n{indent}one\n\n{indent}  two\n{indent}x\n\nb: 1\n", "f").find(("a",))
    text = str(node.value)
    for word, line, column in (("one", 2, 0), ("two", 4, 2), ("x", 5, 0)):
        place = node.at(text.index(word))
        assert (place.line, place.column) == (line, len(indent) + column + 1)


def test_find() -> None:
    node = parse_yaml("a: {b: [1, {c: 2}]}\n", "f")
    assert node.find(("a", "b", 1, "c")).value == 2
    assert node.find(("a", "b", 7)).place == node.find(("a", "b")).place
    assert node.find(()).value == node.value
    assert node.plain() == {"a": {"b": [1, {"c": 2}]}}


# Scalars


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None),
        ("~", None),
        ("null", None),
        ("true", True),
        ("False", False),
        ("0", 0),
        ("-12", -12),
        ("+3", 3),
        ("1.5", 1.5),
        ("1e3", 1000.0),
        (".5", 0.5),
        ("2020-01-01", "2020-01-01"),
        (".inf", float("inf")),
        ("-.INF", -float("inf")),
        (".Nan", ".Nan"),
        ("'.inf'", ".inf"),
        ("1.2.3", "1.2.3"),
        ("abc", "abc"),
        ("'yes'", "yes"),
        ('"012"', "012"),
        ("'1_000'", "1_000"),
        ('"12:30"', "12:30"),
        ("'true'", "true"),
        ("yesterday", "yesterday"),
        ("a_b", "a_b"),
        ("12:3x", "12:3x"),
    ],
)
def test_scalar(text: str, value: object) -> None:
    found = parse_yaml(f"a: {text}\n", "f").plain()["a"]
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    "text",
    ["yes", "Yes", "NO", "no", "on", "off", "1_000", "010", "0o17", "0x1F", "0b11", "12:30", "1:2:3", "00"],
)
def test_scalars_that_readers_disagree_on(text: str) -> None:
    with pytest.raises(ConfigError, match="is not plain here"):
        parse_yaml(f"a: {text}\n", "f")


def test_numbers_of_any_length_are_no_crash() -> None:
    assert parse_yaml(f"a: {'1' * 300}\n", "f").plain()["a"] == int("1" * 300)
    with pytest.raises(ConfigError):
        parse_yaml(f"a: {'1' * 10_000}\n", "f")


# Parameters


def put_in(value: str, params: str = "") -> tuple[object, list[str]]:
    issues = list[Issue]()
    values = parse_yaml(params, "p").value if params else {}
    assert isinstance(values, dict)
    node = parse_yaml(value, "f")
    return substitute(node, values, issues).plain(), [str(issue) for issue in issues]


def test_a_whole_scalar_keeps_its_type() -> None:
    params = "{i: 3, f: 2.5, b: true, n: null, s: text, l: [1, a], m: {k: [x]}}"
    assert put_in('[x: "${i}", "${f}", "${b}", "${n}", "${s}", "${l}", "${m}"]', params) == (
        [{"x": 3}, 2.5, True, None, "text", [1, "a"], {"k": ["x"]}],
        [],
    )


def test_inside_a_text_it_becomes_text() -> None:
    params = "{i: 3, f: 2.5, b: true, s: text}"
    assert put_in('"a ${i}-${f}-${b}-${s} z"', params) == ("a 3-2.5-true-text z", [])
    assert put_in('{a: {b: ["x${i}"]}}', params) == ({"a": {"b": ["x3"]}}, [])


def test_escape_and_run() -> None:
    assert put_in('"$${i}"', "{i: 3}") == ("${i}", [])
    assert put_in('"$${i} ${i} $5 $"', "{i: 3}") == ("${i} 3 $5 $", [])
    assert put_in('"${run}/x"') == ("${run}/x", [])
    assert put_in('"${i}"', "{i: '${i}'}") == ("${i}", [])  # what is put in is not looked at again


def test_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_WORD", "5")
    monkeypatch.delenv("NO_WORD", raising=False)
    assert put_in('["${env:SOME_WORD}", "x${env:SOME_WORD}"]') == (["5", "x5"], [])
    _, issues = put_in('"${env:NO_WORD}"')
    assert issues == ["f:1:2: the environment variable 'NO_WORD' is not set\n    export NO_WORD=..."]


def test_a_list_behind_in() -> None:
    params = """{l: [a, "it's", 3, 0.5, true], one: [1], none: [], holes: [1, null], deep: [[1]]}"""
    given = '["x IN ${l}", "x not in (${one}) or y in ( ${one} )", "margin ${one}"]'
    plain, issues = put_in(given, params)
    assert plain[:2] == ["x IN ('a', 'it''s', 3, 0.5, true)", "x not in (1) or y in ( 1 )"]
    assert issues == [
        "f:1:63: the parameter 'one' is not a single value and cannot be part of a text\n"
        "    use it alone, or a list of texts or numbers behind IN"
    ]
    _, [issue] = put_in('"x IN ${none}"', params)
    assert issue.endswith("the parameter 'none' is an empty list, and nothing is in it\n    list a value")
    for name in ("holes", "deep"):
        _, [issue] = put_in(f'"x IN ${{{name}}}"', params)
        assert "is not a single value" in issue


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ('"x ${j}"', "f:1:4: unknown parameter 'j'"),
        ('"${}"', "f:1:2: `${}` names no parameter"),
        ('"x ${i"', "f:1:4: `${` is not closed"),
        ('"${i"', "f:1:2: `${` is not closed"),
        ('"a${l}"', "f:1:3: the parameter 'l' is not a single value"),
        ('"a${n}"', "f:1:3: the parameter 'n' is not a single value"),
        ('"${ i }"', "f:1:2: unknown parameter ' i '"),
    ],
)
def test_wrong_references(value: str, message: str) -> None:
    _, [issue] = put_in(value, "{i: 3, l: [1], n: null}")
    assert issue.startswith(message)
    assert "\n    " in issue


MAP = (
    "name: a\nparams: {items: [1], to: int64, more: '${to}'}\n"
    "steps:\n  m: {map: {function: 'math:isqrt', items: '${items}', returns: '${more}'}}\n"
)


def loaded(text: str, folder: Path, **params: Any) -> Pipeline:
    path = folder / "config.yaml"
    path.write_text(text)
    return load(path, params)


def test_parameters_of_a_config(tmp_path: Path) -> None:
    assert loaded(MAP, tmp_path).spec.params == {"items": [1], "to": "int64", "more": "int64"}
    assert loaded(MAP, tmp_path, to="string").spec.params["more"] == "string"
    assert loaded(MAP, tmp_path, items=[1, 2]).spec.params["items"] == [1, 2]
    assert loaded(MAP, tmp_path, items="[4, 9]").plan().nodes


@pytest.mark.parametrize(
    ("given", "value"),
    [
        ("5", 5),
        ("2.5", 2.5),
        ("true", True),
        ("null", None),
        ("text", "text"),
        ("'5'", "5"),
        ("[1, a]", [1, "a"]),
        ("data/*.csv", "data/*.csv"),
        ("*.csv", "*.csv"),
        ("", ""),
        ("# no", "# no"),
        ("!tag", "!tag"),
        ("010", "010"),
        ("yes", "yes"),
        ("a\x00b", "a\x00b"),
        ("{", "{"),
        (7, 7),
        ([1, {"a": 2}], [1, {"a": 2}]),
        (None, None),
    ],
)
def test_types_of_given_parameters(tmp_path: Path, given: object, value: object) -> None:
    config = "name: a\nparams: {p: null}\nsteps: {m: {map: {function: 'math:isqrt', items: [1], returns: int64}}}\n"
    found = loaded(config, tmp_path, p=given).spec
    assert found.params == {"p": value}
    assert type(found.params["p"]) is type(value)


def test_wrong_parameters(tmp_path: Path) -> None:
    assert said(MAP, tmp_path, itms="[1]", x="1") == [
        "unknown parameter 'itms'",
        "unknown parameter 'x'",
    ]
    [issue] = errors(MAP, tmp_path, items="3")
    assert (issue.place, issue.message) == (None, "the parameter 'items' is '3', which is not a list")
    assert said("name: a\nparams: {run: 1}\n" + MAP.split("\n", 2)[2].replace("${", "$${"), tmp_path)[0] == (
        "2:10 'run' cannot name a parameter: ${run} has a meaning"
    )


# The project's folder


@pytest.mark.parametrize("mark", ["pyproject.toml", ".git", "runs"])
def test_project_root(tmp_path: Path, mark: str) -> None:
    deep = tmp_path / "project" / "a" / "b"
    deep.mkdir(parents=True)
    config = deep / "config.yaml"
    (tmp_path / "project" / mark).mkdir()
    assert project_root(config) == tmp_path / "project"
    (deep.parent / mark).write_text("")
    assert project_root(config) == deep.parent


def test_project_root_outside_of_any_project(tmp_path: Path) -> None:
    if any(
        (parent / m).exists() for parent in (tmp_path, *tmp_path.parents) for m in ("pyproject.toml", ".git", "runs")
    ):
        pytest.skip("the temporary folder is inside of a project")
    assert project_root(tmp_path / "config.yaml") == tmp_path


# Mutations


WORDS = (
    *("yes", "no", "~", "null", "true", "0", "-1", "1.5", "1e999", "010", "''", '""', "[]", "{}", "[[]]", "{a: b}", "*x"),
    *("&x y", "!!int 3", "!x", "<<", "${p}", "${", "${run}", "$${x}", "${env:HOME}", "'", '"', "|", ">", "%", "@", "`"),
    *("\t", "#", ": ", "- ", "? ", "---", "...", "\u2028", "\x85", "\ufeff", "ä", "🙂", '"\\ud800"', '"\\0"', "9" * 5000),
    *("filter", "read", "write", "map", "select", "sort", "derive", "aggregate", "from", "checkpoint", "memory", "steps"),
    *("Close", "avg(Open)", "count(*)", "Close > 0", "sum(Date)", "CASE", "SELECT 1", "Date + 1", "'a' || 1", "1/0", "NULL"),
    *("prices", "traded", "by_date", "result", "data", "data/stocks", "a.csv", "result.csv", "local", "int64", "x" * 300),
)  # fmt: skip


def mutated(text: str, chance: random.Random) -> str:
    """The text with one change that people or tools make."""
    lines = text.split("\n")
    at = chance.randrange(len(lines))
    tokens = list(re.finditer(r"[A-Za-z_0-9.*/()$]+|[^\sA-Za-z_0-9]", text))
    token, other = chance.choice(tokens), chance.choice(tokens)
    word: str = chance.choice(WORDS)
    match chance.randrange(12):
        case 0:
            del lines[at]
        case 1:
            lines.insert(at, lines[chance.randrange(len(lines))])
        case 2:
            with_ = chance.randrange(len(lines))
            lines[at], lines[with_] = lines[with_], lines[at]
        case 3:
            lines[at] = " " * chance.randrange(9) + lines[at].lstrip()
        case 4:
            lines[at] = chance.choice("\t -#?") + lines[at]
        case 5:  # the value of a line's key
            lines[at] = re.sub(r"(?<=: ).*", lambda _: str(word), lines[at])
        case 6 | 7:
            return text[: token.start()] + word + text[token.end() :]
        case 8:
            return text[: token.start()] + text[token.end() :]
        case 9:
            return text[: token.start()] + other[0] + text[token.end() :]
        case 10:
            place = chance.randrange(len(text))
            junk = chance.choice((word, *"\"'{}[]:,&*!|>%@`\t\n #"))
            return f"{text[:place]}{junk}{text[place:]}"
        case _:  # a character lost or another one
            place = chance.randrange(len(text))
            return text[:place] + chance.choice(("", chr(chance.randrange(32, 127)))) + text[place + 1 :]
    return "\n".join(lines)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with few rows."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "data" / "stocks").mkdir(parents=True)
    (folder / "runs").mkdir()
    for path in sorted((ROOT / "data" / "stocks").glob("*.csv"))[:2]:
        with path.open() as file:
            (folder / "data" / "stocks" / path.name).write_text("".join(next(file) for _ in range(20)))
    (folder / "mine.py").write_text("import polars as pl\n\ndef same(t: pl.DataFrame) -> pl.DataFrame:\n    return t\n")
    return folder


LARGE = """name: large
description: one of everything
params: {least: {type: number, default: 0}, files: data/stocks/*.csv, key: Symbol, day: {type: date, default: 2020-01-01}}
executor: {kind: local, workers: 2, memory_limit: 2GiB}
steps:
  prices: {read: {path: "${files}", dtypes: {Volume: int64}, file_column: file}}
  good:
    filter: |
      Close > ${least}
        AND "Adj Close" IS NOT NULL
  more: {derive: {change: Close - Open, year: year(Date), big: CASE WHEN Volume > 10 THEN 'a' ELSE 'b' END}}
  less: {select: {drop: [High], rename: {Low: low}, cast: {Volume: float64}}, checkpoint: memory}
  top: {from: good, sort: {by: [Volume, Date], descending: [Volume], limit: 3}}
  sums: {from: less, aggregate: {by: ["${key}"], days: count(*), mean: avg(Close), range: max(change) - min(low)}}
  both: {from: [top, good], union: {missing: null}}
  symbols: {distinct: [Symbol, Date]}
  some: {from: both, sample: {rows: 5, seed: 1}}
  called: {python: {function: "mine:same", by: Symbol, like: input}}
  changed: {from: good, python: {function: "mine:same", schema: {Symbol: string, Close: float64}}}
  out: {write: {path: "${run}/a.csv", per_partition: true}}
  roots: {map: {function: "math:isqrt", items: [1, 2], arguments: {}, returns: int64, on_error: stop}}
"""


def is_yaml(text: str) -> bool:
    try:
        yaml.load(text, yaml.CSafeLoader)
    except (yaml.YAMLError, ValueError):
        return False
    return True


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("name", ["shipped", "large"])
def test_mutations_work_or_say_why(small: Path, name: str, seed: int) -> None:
    """5,000 in all."""
    original = (ROOT / "configs" / "stock_groupby.yaml").read_text() if name == "shipped" else LARGE
    chance = random.Random(f"{name}{seed}")
    path = small / f"{name}.yaml"
    path.write_text(original)
    assert load(path).plan().nodes
    wrong = parsed = 0
    for _ in range(250):
        for _ in range(2):  # more of what is YAML
            text = original
            for _ in range(chance.choice((1, 1, 1, 2, 3))):
                text = mutated(text, chance)
            if is_yaml(text):
                parsed += 1
                break
        path.write_text(text)
        try:
            load(path).plan()
            continue
        except PipelineError as error:
            found = error
        except Exception as error:
            raise AssertionError(f"{error!r} from the config\n{text}") from error
        wrong += 1
        assert found.issues
        assert found.exit_code in (2, 3)
        for issue in found.issues:
            try:
                assert issue.place is not None
                assert_clear(issue, str(path))
                str(issue).encode()
            except (AssertionError, UnicodeError) as problem:
                raise AssertionError(f"{problem}\n{issue!r}\n{text}") from problem
    assert wrong > 50, "these mutations break too little"
    assert parsed > 125, "most of them are YAML"
