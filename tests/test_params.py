"""Parameters, overlays and secrets."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any

import pytest

from pipelines import ConfigError, DataError, errors, load
from pipelines.cli import main
from tests.conftest import ROOT


@pytest.fixture(autouse=True)
def _forgets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(errors, "_secrets", set[str]())


STEPS = """steps:
  prices:
    read: {path: "ROOT/data/stocks/${symbol}.csv"}
  kept:
    filter: Close > ${above}
  few:
    sort: {by: [Date], limit: "${rows}"}
""".replace("ROOT", str(ROOT))
PARAMS = """params:
  symbol: {type: string, choices: [IBM, AAPL], description: whose prices}
  above: {type: number, default: 10}
  rows: {type: integer, default: 3}
"""


def config(folder: Path, text: str, name: str = "config.yaml") -> Path:
    (folder / "runs").mkdir(exist_ok=True)
    (folder / name).write_text(text)
    return folder / name


def test_types_and_defaults(tmp_path: Path) -> None:
    path = config(tmp_path, PARAMS + STEPS)
    assert load(path, {"symbol": "IBM"}).spec.params == {"symbol": "IBM", "above": 10, "rows": 3}
    assert load(path, {"symbol": "IBM", "above": "1.5", "rows": "7"}).spec.params["above"] == 1.5
    assert load(path, {"symbol": "IBM", "above": 1e3, "rows": 7}).run("serial").outputs["few"].rows == 0
    assert load(path, {"symbol": "IBM", "rows": "2"}).run("serial").outputs["few"].rows == 2


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, "2:3: the parameter 'symbol' has no value"),
        ({"symbol": "MSFT"}, "the parameter 'symbol' is 'MSFT'\n    choose one of: IBM, AAPL"),
        ({"symbol": "IBM", "rows": "2.5"}, "the parameter 'rows' is '2.5', which is not a whole number"),
        ({"symbol": "IBM", "rows": "many"}, "the parameter 'rows' is 'many', which is not a whole number"),
        ({"symbol": "IBM", "rows": True}, "the parameter 'rows' is True, which is not a whole number"),
        ({"symbol": "IBM", "above": "[1]"}, "the parameter 'above' is '[1]', which is not a number"),
        ({"symbol": "IBM", "abov": "1"}, "did you mean 'above'?"),
    ],
)
def test_wrong_values(tmp_path: Path, given: dict[str, Any], expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(config(tmp_path, PARAMS + STEPS), given)
    assert expected in str(caught.value)
    assert len(caught.value.issues) == 1


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ("  a: {type: int}\n", "2:13: unknown type 'int'\n    did you mean 'integer'?"),
        ("  a: {type: integer, default: x}\n", "2:31: the default of 'a' is 'x', which is not a whole number"),
        ("  a: {type: date, default: 2020-13-01}\n", "2:28: the default of 'a' is '2020-13-01', which is not a date"),
        ("  a: {type: [integer], default: 1}\n", "2:13: unknown type ['integer']\n    did you mean 'integer'?"),
        ("  a: {type: {of: integer}}\n", "2:13: unknown type {'of': 'integer'}\n    "),
        ("  a: {default: 3, coices: [3]}\n", "2:19: unknown key 'coices' of a parameter\n    did you mean 'choices'?"),
        ("  a: {default: 3, choices: 4}\n", "2:28: `choices` is a list of values"),
        ("  a: {default: 3, choices: [4, 5]}\n", "2:3: the parameter 'a' is 3\n    choose one of: 4, 5"),
        ("  a: {type: integer, default: 1, choices: [1, x]}\n", "2:47: the choice 'x' is not a whole number"),
        ("  secret:a: 1\n", "2:3: 'secret:a' cannot name a parameter"),
    ],
)
def test_wrong_declarations(tmp_path: Path, params: str, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(config(tmp_path, f"params:\n{params}steps:\n  t:\n    read: a.csv\n"))
    assert expected in str(caught.value)


def test_plain_values_give_the_type(tmp_path: Path) -> None:
    text = 'params: {s: "", n: 1, b: false, l: [1], none: null, d: {type: date, default: 2020-01-01}}\nsteps: {t: {read: a.csv}}\n'
    path = config(tmp_path, text)
    found = load(
        path, {"s": "0123", "n": "2.5", "b": "true", "l": "[x, y]", "none": "7", "d": "2021-02-03"}
    ).spec.params
    assert found == {"s": "0123", "n": 2.5, "b": True, "l": ["x", "y"], "none": 7, "d": "2021-02-03"}
    for name, value in {"n": "x", "b": "1", "l": "x", "d": "3.2.2021"}.items():
        with pytest.raises(ConfigError, match=f"the parameter '{name}' is '{value}', which is not"):
            load(path, {name: value})


def test_overlays(tmp_path: Path) -> None:
    path = config(tmp_path, PARAMS + "executor: {kind: local, workers: 4}\n" + STEPS)
    over = config(
        tmp_path,
        "params: {symbol: AAPL, above: {default: 20}}\nexecutor: {kind: serial}\n"
        "steps:\n  few: {sort: {by: [Close], descending: [Close]}}\n  more:\n    filter: Volume > 0\n",
        "prod.yaml",
    )
    made = load(path, overlays=[over])
    assert made.spec.params == {"symbol": "AAPL", "above": 20, "rows": 3}
    assert (made.spec.executor.kind, made.spec.executor.workers) == ("serial", 4)
    assert list(made.plan().nodes) == ["prices", "kept", "few", "more"]
    assert made.spec.steps[2].step.model_dump() == {"by": ["Close"], "descending": ["Close"], "limit": 3}
    bad = config(tmp_path, "executor: {kind: serial, workers: 2}\n", "bad.yaml")
    with pytest.raises(ConfigError, match=r"bad.yaml:1:35: `workers` has no meaning for serial"):
        load(path, {"symbol": "IBM"}, overlays=[bad])
    last = config(tmp_path, "params: {symbol: IBM}\n", "last.yaml")
    assert load(path, overlays=[over, last]).spec.params["symbol"] == "IBM"
    assert load(path, {"symbol": "AAPL"}, overlays=[over, last]).spec.params["symbol"] == "AAPL"
    with pytest.raises(ConfigError, match=r"the parameter 'symbol' is 'X'"):
        load(path, overlays=[config(tmp_path, "params: {symbol: X}\n", "x.yaml")])


@pytest.mark.parametrize(
    ("overlay", "expected"),
    [
        ("stepz: {}\n", "over.yaml:1:1: unknown key 'stepz'"),
        ("steps: {few: {sort: {by: [Clos]}}}\n", "over.yaml:1:27: unknown column 'Clos'"),
        ("steps:\n  few:\n    filter: Close > 1\n", "the step 'few' has"),
        ("- 1\n", "over.yaml:1:1: an overlay is a mapping like the config, this is a list"),
        ("params:\n  abov: 3\n", "over.yaml:2:3: unknown parameter 'abov'\n    did you mean 'above'?"),
        ("params: {abov: {default: 3}}\n", "over.yaml:1:10: unknown parameter 'abov'"),
        ("executor: {kind: lokal}\n", "over.yaml:1:18: `kind` must be"),
    ],
)
def test_mistakes_in_overlays_are_named_there(tmp_path: Path, overlay: str, expected: str) -> None:
    path = config(tmp_path, PARAMS + STEPS)
    with pytest.raises(ConfigError) as caught:
        load(path, {"symbol": "IBM"}, [config(tmp_path, overlay, "over.yaml")]).plan()
    assert expected in str(caught.value)


def test_an_overlay_may_declare_a_parameter(tmp_path: Path) -> None:
    text = "params: {most: {type: number, default: 5}}\nsteps: {more: {filter: 'Close < ${most}'}}\n"
    made = load(config(tmp_path, PARAMS + STEPS), {"symbol": "IBM"}, [config(tmp_path, text, "over.yaml")])
    assert made.spec.params["most"] == 5


@pytest.mark.parametrize(
    "given",
    [datetime.date(2022, 3, 1), datetime.datetime(2022, 3, 1), "2022-03-01"],
)
def test_dates_of_python(tmp_path: Path, given: object) -> None:
    path = config(tmp_path, "params: {since: {type: date}}\n" + STEPS.replace("${above}", "1 AND Date > '${since}'"))
    text = path.read_text().replace("${symbol}", "IBM").replace("${rows}", "3")
    path.write_text(text.replace('"3"', "3"))
    assert load(path, {"since": given}).spec.params == {"since": "2022-03-01"}
    with pytest.raises(ConfigError) as caught:
        load(path, {"since": datetime.datetime(2022, 3, 1, 12)})
    assert "which is not a date" in str(caught.value)
    assert "-p" not in str(caught.value)


SECRET = """params: {token: "${secret:API_TOKEN}"}
steps:
  it:
    map: {function: "mine:f", items: [1, 2], arguments: {token: "${token}"}, returns: string, on_error: ON}
  out:
    write: "${run}/out.csv"
"""


@pytest.mark.parametrize("executor", ["serial", "processes"])
def test_secrets_are_used_and_never_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], executor: str
) -> None:
    secret = "s3cr\"t-'täken'"
    (tmp_path / "mine.py").write_text(
        "def f(x, token):\n    if x == 2: raise ValueError('no access with ' + token)\n    return token[:4] + str(len(token))\n"
    )
    path = config(tmp_path, SECRET.replace("ON", "keep"))
    monkeypatch.setenv("API_TOKEN", secret)
    identity = load(path).plan().nodes["it"].identity
    assert main(["run", str(path), "--executor", executor]) == 0
    folder = max((tmp_path / "runs").iterdir())
    assert main(["plan", str(path)]) == 0
    (tmp_path / "runs" / "secrets").mkdir()
    monkeypatch.delenv("API_TOKEN")
    monkeypatch.setenv("PIPELINES_SECRETS", str(tmp_path / "secrets"))
    with pytest.raises(ConfigError, match="the secret 'API_TOKEN' is not set"):
        load(path)
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "API_TOKEN").write_text("another\n")
    assert load(path).plan().nodes["it"].identity == identity, "a new token asks for nothing to be computed again"
    monkeypatch.setenv("API_TOKEN", secret)
    stop = config(tmp_path, SECRET.replace("ON", "stop"), "stop.yaml")
    assert main(["run", str(stop), "--executor", executor]) == 3
    wrong = config(tmp_path, SECRET.replace("ON", '"${token}"'), "wrong.yaml")
    assert main(["check", str(wrong)]) == 2
    shown = "".join(capfd.readouterr())
    assert "no access with ***" in shown
    assert "s3cr14" in (folder / "out.csv").read_text(), "the function had it"
    written = "".join(p.read_text() for p in (tmp_path / "runs").rglob("*") if p.is_file())
    for text in (secret, json.dumps(secret)[1:-1], "täken"):
        assert text not in shown
        assert text not in written


def test_a_list_behind_in(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("name,n\na,1\nb,2\nit's me,3\n")
    text = """params: {names: [a, "it's me"]}
steps:
  t: {read: t.csv}
  some: {filter: "name IN ${names}"}
  others: {from: t, filter: "name not in (${names})"}
"""
    path = config(tmp_path, text)
    outputs = load(path).run("serial").outputs
    assert [outputs[step].head["n"].to_list() for step in ("some", "others")] == [[1, 3], [2]]
    assert load(path, {"names": ["b"]}).run("serial").outputs["some"].head["n"].to_list() == [2]


@pytest.mark.parametrize("secret", ["geheim-äöü", "it's-mine", 'a"b-c', "both'\"-ä\\x", "\N{KEY}-lock"])
def test_a_secret_is_hidden_however_python_or_json_writes_it(secret: str) -> None:
    from pipelines.errors import keep_secret, redacted

    keep_secret(secret)
    for given in (secret, f"{secret}'", f'{secret}"', f"{secret}'\"", f"x{secret}y"):
        for text in (given, repr(given), ascii(given), repr([given]), repr(given.encode()), json.dumps(given)):
            hidden = redacted(text)
            assert "***" in hidden
            assert not any(part in hidden for part in ("geheim", "mine", "b-c", "-lock", "both"))


def test_errors_that_name_a_secret_hide_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from pipelines.errors import Issue, keep_secret, redacted

    keep_secret("hunter2")
    assert redacted("x hunter2 y") == "x *** y"
    assert "hunter2" not in str(DataError(Issue("bad hunter2", "mend hunter2")))
    assert "hunter2" not in str(DataError(Issue("bad hunter2")).issues)
