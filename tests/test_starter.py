"""`pipelines new`: what it writes passes `check` and runs as it is, whatever the columns are called."""

from __future__ import annotations

import bz2
import gzip
import os
import re
import tempfile
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines import load, scan, starter
from pipelines.cli import main
from pipelines.source import parse_yaml, scalar_text
from pipelines.starter import config, plain_name

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def _inside(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)


def ran(path: str = "a.yaml") -> pl.DataFrame:
    """The result's head, after a run."""
    [produced] = load(path).run("serial").outputs.values()
    return produced.head


def test_it_runs_as_it_is(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (project / "prices.csv").write_text("day,shop,price,count\n2020-01-01,a,1.5,3\n2020-01-02,b,2.5,4\n2020-01-03,a,3.5,0\n2020-01-04,b,-1,1\n")  # fmt: skip
    assert main(["new", "prices.csv"]) == 0
    assert capsys.readouterr().out.startswith("written to prices.yaml; next:\n  pipelines check prices.yaml\n")
    text = (project / "prices.yaml").read_text()
    assert "        day:   date\n        shop:  string\n        price: float64\n        count: int64\n" in text
    assert "filter: price > 0" in text
    assert main(["check", "prices.yaml"]) == 0
    assert ran("prices.yaml").to_dict(as_series=False) == {
        "shop": ["a", "b"], "rows": [2, 1], "mean_price": [2.5, 2.5], "largest_price": [3.5, 2.5],
        "mean_count": [1.5, 4.0], "largest_count": [3, 4],
    }  # fmt: skip


def test_what_stands_in_comments_works_too(project: Path) -> None:
    assert main(["new", f"{ROOT}/data/stocks/*.csv", "-o", "a.yaml"]) == 0
    text = (project / "a.yaml").read_text()
    (project / "a.yaml").write_text(re.sub(r"(?m)^  # (largest:|  sort:)", r"  \1", text))
    assert load("a.yaml").plan().nodes["largest"].kind == "sort"
    assert ran()["rows"].to_list() == [6558, 3270, 3270, 3270, 2148, 254, 196]


@pytest.mark.parametrize("ending", ["csv", "csv.gz", "csv.bz2"])
def test_of_large_files_only_the_first_rows_are_read(
    project: Path, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    monkeypatch.setattr(starter, "_SMALL", 0)
    monkeypatch.setattr(scan.Source, "scan", None)
    text = "shop,price\n" + "a,1.5\nb,2.5\n" * 10_000
    opened = {"csv": open, "csv.gz": gzip.open, "csv.bz2": bz2.open}[ending]
    with opened(project / f"a.{ending}", "wb") as file:
        file.write(text.encode())
    written = config(f"a.{ending}", project / "a.yaml")
    if ending != "csv.bz2":
        assert "filter: price > 0" in written
        assert "by: [shop]" in written
    monkeypatch.undo()
    monkeypatch.chdir(project)
    (project / "a.yaml").write_text(written)
    assert ran()["rows"].sum() == 20_000


def test_an_editor_finds_the_schema_beside_it(project: Path) -> None:
    (project / "a.csv").write_text("x\n1\n")
    (project / "pipelines.schema.json").write_text("{}")
    assert config("a.csv", project / "a.yaml").startswith("# yaml-language-server: $schema=pipelines.schema.json\n")


def test_nothing_is_overwritten(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (project / "a.csv").write_text("x\n1\n")
    (project / "a.yaml").write_text("mine")
    assert main(["new", "a.csv"]) == 2
    assert capsys.readouterr().err == "error: a.yaml exists\n    choose another file with -o, or remove it\n"
    assert (project / "a.yaml").read_text() == "mine"
    assert main(["new", "a.csv", "-o", "-"]) == 0
    assert "read:" in capsys.readouterr().out
    assert main(["new", "a.csv", "-o", "none/a.yaml"]) == 4
    assert capsys.readouterr().err.startswith("error: cannot write none/a.yaml: ")


@pytest.mark.parametrize(
    ("name", "content", "code", "message"),
    [
        ("none.csv", None, 2, "error: no file matches none.csv"),
        ("a.csv", "", 3, "error: a.csv is empty"),
        ("a.csv", "x,y\n1,2\n3\n", 3, "error: a.csv: row 2 has 1 field, expected 2"),
        ("a.parquet", "x,y\n1,2\n", 3, "error: "),
    ],
)
def test_files_that_cannot_be_read(
    project: Path, capsys: pytest.CaptureFixture[str], name: str, content: str | None, code: int, message: str
) -> None:
    if content is not None:
        (project / name).write_text(content)
    assert main(["new", name]) == code
    out, err = capsys.readouterr()
    assert (out, err.startswith(message)) == ("", True), err
    assert not list(project.glob("*.yaml"))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", "x;y\na;1,5\nb;2,5\n"),
        ("a.csv", "x|y\na|1\n"),
        ("a.tsv", "x\ty\na\t1\n"),
        ("a.txt", "x\ty\na\t1\n"),
        ("a.data", "x,y\na,1\n"),
        ("a b#c'd\"e.csv", "x,y\na,1\n"),
        ("${name}.csv", "x,y\na,1\n"),
        ("[1].csv", "x,y\na,1\n"),
        ("ä.csv", "x,y\na,1\n"),
        ("one.csv", "x\n1\n2\n"),
        ("one.csv", "x\na\n"),
        ("none.csv", "x,y\n"),
    ],
)
def test_files_of_many_kinds(project: Path, name: str, content: str) -> None:
    (project / name).write_text(content)
    assert main(["new", name, "-o", "a.yaml"]) == 0
    assert ran().width >= 1
    if ";" in content or "|" in content:
        assert list(load("a.yaml").plan().nodes["rows"].schema) == ["x", "y"]


def test_parquet_and_files_outside(project: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("elsewhere")
    pl.DataFrame({"g": ["a", "b", "a"], "x": [1.5, 2.5, 3.5], "l": [[1], [2], [3]]}).write_parquet(folder / "p.parquet")
    assert main(["new", str(folder / "p.parquet")]) == 0
    assert ran("p.yaml")["mean_x"].to_list() == [2.5, 2.5]
    (project / "sub").mkdir()
    assert main(["new", str(folder), "-o", "sub/b.yaml"]) == 0
    assert ran("sub/b.yaml")["rows"].to_list() == [2, 1]


def test_names() -> None:
    assert plain_name("data/a b.csv.gz") == "a-b"
    assert plain_name("data/stocks/*.csv") == "stocks"
    assert plain_name("/*.csv") == "pipeline"


WEIRD = (
    *("a b", "Adj Close", "select", "from", "group", "order", "true", "null", "NULL", "yes", "no", "on", "~", "by", "rows"),
    *("a: b", "a #b", "#a", "- a", "[a]", "{a}", "a,b", "'a'", 'a"b', "a'b", "`a`", "@a", "%a", "&a", "!a", "|", ">", "?"),
    *("a\nb", " a", "a ", "ä", "日本", "🙂", "1", "1_000", "010", "12:30", "1.5", "0x1F", "=", "<<", "\\", "a\\nb", "\t", "\x85"),
    *("${a}", "$a", "$${a}", "${run}", "count", "date", "time", "interval", "case", "end", "current_date", "if", "lambda", "item_id", "x" * 300),
)  # fmt: skip
NAMES = st.one_of(
    st.sampled_from(WEIRD),
    st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0\r"), min_size=1, max_size=12),
)


@settings(deadline=None, max_examples=60)
@given(
    names=st.lists(NAMES, min_size=2, max_size=5, unique=True),
    kinds=st.permutations(["text", "number", "flag"]),
    ending=st.sampled_from(["csv", "parquet"]),
)
def test_any_column_names(names: list[str], kinds: list[str], ending: str) -> None:
    """Texts to group by and numbers to compute with, in columns of any name."""
    # patterns are refused
    names = [name for name in names if name != "*" and not re.fullmatch(r"(?s)\^.*\$", name)]
    if ending == "csv":
        names = [name for name in names if '"' not in name]  # which Polars does not read in a header
    values = {"text": ["u", "v", "u", "v"], "number": [1.5, 2.5, 3.5, -1.0], "flag": [True, False, True, True]}
    frame = pl.DataFrame({name: values[kinds[i % 3]] for i, name in enumerate(names or ["x"])})
    with tempfile.TemporaryDirectory() as folder:
        data, path = Path(folder) / f"a.{ending}", Path(folder) / "a.yaml"
        frame.write_csv(data) if ending == "csv" else frame.write_parquet(data)
        path.write_text(config(os.fspath(data), path))
        pipeline = load(path)
        assert list(pipeline.plan().nodes["rows"].schema) == frame.columns
        [produced] = pipeline.run("serial").outputs.values()
        assert produced.rows in (1, 2)


@given(text=st.text(st.characters(exclude_categories=("Cs",)), max_size=20) | st.sampled_from(WEIRD))
def test_a_text_as_a_scalar(text: str) -> None:
    written = scalar_text(text)
    for document in (f"a: {written}\n", f"a: [{written}]\n", f"a: {{b: {written}, c: 1}}\n", f"a:\n  {written}: 1\n"):
        assert parse_yaml(document, "f").plain()["a"] in (text, [text], {"b": text, "c": 1}, {text: 1})
