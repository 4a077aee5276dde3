"""The commands: what they print where, and their exit codes."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.cli import main

ROOT = Path(__file__).parent.parent
STOCKS = f"{ROOT}/data/stocks/*.csv"
CONFIG = """name: days
params: {files: "STOCKS", least: 0, partitions: 3}
steps:
  prices: {read: {path: "${files}", partitions: "${partitions}"}}
  good: {filter: "Close > ${least}"}
  by_date:
    aggregate: {by: Date, mean: avg(Open), rows: count(*)}
    checkpoint: memory
  out: {write: "${run}/by_date.parquet"}
""".replace("STOCKS", STOCKS)


@pytest.fixture
def config(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(project)
    (project / "days.yaml").write_text(CONFIG)
    return Path("days.yaml")


def command(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "pipelines", *map(str, arguments)]
    return subprocess.run(words, cwd=cwd, capture_output=True, text=True, timeout=120, check=False)


# Processes of their own


def test_run_as_a_process(config: Path, project: Path) -> None:
    done = command("run", config, "--executor", "threads", cwd=project)
    assert done.returncode == 0, done.stderr
    assert "out:" in done.stdout
    assert "running days on threads" in done.stderr
    assert len(list(project.glob("runs/*/by_date.parquet"))) == 1


def test_a_mistake_as_a_process(config: Path, project: Path) -> None:
    (project / config).write_text(CONFIG.replace("Close >", "Clsoe >"))
    for name in ("check", "plan", "run"):
        done = command(name, config, cwd=project)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == "error: days.yaml:5:18: unknown column 'Clsoe'\n    did you mean 'Close'?\n"


def test_check_imports_no_dask(config: Path, project: Path) -> None:
    code = f"import sys; from pipelines.cli import main; main(['check', '{config}']); print('dask' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=project, capture_output=True, text=True, check=True)
    assert done.stdout == "days.yaml: ok, 4 steps\nFalse\n"


# check


def test_check(config: Path, project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(config)]) == 0
    assert capsys.readouterr() == ("days.yaml: ok, 4 steps\n", "")
    assert list((project / "runs").iterdir()) == []


def test_every_mistake_starts_with_error(config: Path, project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config.write_text(CONFIG.replace("name:", "nam:").replace("checkpoint: memory", "checkpoint: disk"))
    assert main(["check", str(config)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert [line for line in err.splitlines() if not line.startswith("    ")] == [
        "error: days.yaml:1:1: unknown key 'nam'",
        "error: days.yaml:8:17: `checkpoint` is 'disk', not 'memory'",
    ]


def test_wrong_data_is_exit_3(config: Path, project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (project / "a.csv").write_text("")
    assert main(["check", str(config), "-p", "files=a.csv"]) == 3
    assert "a.csv is empty" in capsys.readouterr().err
    (project / "b.csv").write_text("Date,Open,Close\n" + "2020-01-01,1,2\n" * 50_000 + "2020-01-02,x,2\n")
    declared = CONFIG.replace('"${files}",', '"${files}", dtypes: {Open: float64},')
    config.write_text(declared)
    assert main(["run", str(config), "-p", "files=b.csv", "--executor", "threads"]) == 3
    err = capsys.readouterr().err
    assert re.search(r"^error: .*b\.csv: row 50001, column 'Open': 'x' is not float64$", err, re.MULTILINE)
    assert "Traceback" not in err
    assert not list(project.glob("runs/*/by_date*"))


def test_a_file_that_is_not_there(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "dayz.yaml"]) == 2
    assert capsys.readouterr().err.startswith("error: cannot read dayz.yaml: No such file or directory\n    ")


# -p


def test_parameters(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", str(config), "-p", "partitions=2", "-p", "least=5"]) == 0
    assert " 2 partitions," in capsys.readouterr().out
    assert main(["plan", str(config), "-p", f"files={ROOT}/data/stocks/A=B.csv"]) == 2
    assert "data/stocks/A=B.csv" in capsys.readouterr().err  # only the first = divides


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("least", "error: -p least: this is not NAME=VALUE\n    for example -p prices=data/*.csv\n"),
        ("leest=1", "error: -p leest: unknown parameter 'leest'\n    did you mean 'least'?\n"),
        ("=1", "error: -p : unknown parameter ''\n"),
        ("partitions=many", "error: -p partitions: 'many' is not a number\n"),
        ("partitions=2.5", "error: days.yaml:4:49: `partitions` must be a whole number, not 2.5\n"),
        ("least=Opne", "error: -p least: 'Opne' is not a number\n"),
        ("least=[1]", "error: -p least: '[1]' is not a number\n"),
        ("least=", "error: -p least: '' is not a number\n"),
    ],
)
def test_wrong_parameters(config: Path, capsys: pytest.CaptureFixture[str], given: str, message: str) -> None:
    assert main(["check", str(config), "-p", given]) == 2
    assert capsys.readouterr().err.startswith(message)


# plan


def test_plan(config: Path, project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", str(config)]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    size = sum(path.stat().st_size for path in (ROOT / "data" / "stocks").glob("*.csv"))
    assert f"    3 partitions, {size / 1e6:.1f} MB of input\n" in out
    assert "prices: read\n    Date       date\n    Symbol     string\n" in out
    assert "by_date: aggregate from good (kept in memory)\n    Date  date\n    mean  float64\n    rows  int64\n" in out
    assert "out: write from by_date\n" in out
    stages = out.split("\nstages:\n")[1].splitlines()
    assert stages[0].startswith("  prices+good+by_date: 3 partitions; ")
    assert all(line.startswith("  ") for line in stages)
    assert list((project / "runs").iterdir()) == []


@pytest.mark.parametrize("header", ["Date,Adj Close,n", "yes,no,on", "1,010,12:30", "a: b,{c},#d", "null,true,~"])
def test_sampled_types_can_be_pasted(project: Path, capsys: pytest.CaptureFixture[str], header: str) -> None:
    (project / "a.csv").write_text(f"{header}\n2020-01-01,1.5,x\n2020-01-02,2,y\n")
    config = project / "a.yaml"
    config.write_text("steps:\n  a: {read: {path: a.csv}}\n")
    assert main(["plan", str(config)]) == 0
    before = capsys.readouterr().out
    [types] = re.findall(r"sampled, to declare: (dtypes: .*)", before)
    config.write_text(f"steps:\n  a: {{read: {{path: a.csv, {types}}}}}\n")
    assert main(["plan", str(config)]) == 0
    after = capsys.readouterr().out
    assert "sampled" not in after
    assert after == "".join(line for line in before.splitlines(keepends=True) if "sampled" not in line)


# run


def test_run(config: Path, project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", str(config), "--executor", "threads", "--head", "2"]) == 0
    out, err = capsys.readouterr()
    [folder] = (project / "runs").iterdir()
    size = (folder / "by_date.parquet").stat().st_size
    near = folder.relative_to(project)
    assert "\nout:\n" in out
    assert re.search(r"Date +mean +rows", out)
    assert "1999-01-22" in out
    assert "1999-01-25" in out
    assert "1999-01-26" not in out
    assert re.search(r"\([\d,]+ rows in all\)", out)
    assert f"written to {near}/by_date.parquet ({size / 1000:.1f} kB)" in out
    assert re.search(r"\nstage, partitions, time:\n  prices\+good\+by_date +3 +[\d.]+ s\n", out)
    assert re.search(rf"done in [\d.]+ s; record in {near}\n$", out)
    assert "running days on threads" in err
    assert json.loads((folder / "record.json").read_text())


def test_run_to_a_step(config: Path, project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", str(config), "--executor", "serial", "--to", "good", "--head", "1"]) == 0
    out = capsys.readouterr().out
    assert "\ngood:\n" in out
    assert "written to" not in out
    assert not list(project.glob("runs/*/*.parquet"))
    assert main(["run", str(config), "--executor", "serial", "--to", "god"]) == 2
    assert capsys.readouterr().err == "error: unknown step 'god'\n    did you mean 'good'?\n"


def test_what_exists_is_kept(config: Path, project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config.write_text(CONFIG.replace("${run}/by_date.parquet", "out.csv"))
    assert main(["run", str(config), "--executor", "threads"]) == 0
    first = (project / "out.csv").read_bytes()
    capsys.readouterr()
    assert main(["run", str(config), "--executor", "threads"]) == 2
    assert capsys.readouterr().err.startswith("error: days.yaml:9:16: out.csv exists\n    add `overwrite: true`")
    assert (project / "out.csv").read_bytes() == first


def test_outside_of_any_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    marks = ("pyproject.toml", ".git", "runs")
    if any((parent / mark).exists() for parent in (tmp_path, *tmp_path.parents) for mark in marks):
        pytest.skip("the temporary folder is inside of a project")
    (tmp_path / "a").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "a" / "in.csv").write_text("x\n1\n")
    (tmp_path / "a" / "c.yaml").write_text('steps:\n  i: {read: in.csv}\n  o: {write: "${run}/o.csv"}\n')
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert main(["run", "../a/c.yaml", "--executor", "threads"]) == 0
    assert len(list((tmp_path / "a" / "runs").glob("*-c-*/o.csv"))) == 1
    assert not list((tmp_path / "elsewhere").iterdir())


# The command line itself


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["rnu", "a.yaml"],
        ["run"],
        ["check", "a.yaml", "b.yaml"],
        ["check", "a.yaml", "--executor", "threads"],
        ["run", "a.yaml", "--executor", "process"],
        ["run", "a.yaml", "--head", "-1"],
        ["run", "a.yaml", "--head", "x"],
        ["run", "a.yaml", "-p"],
    ],
)
def test_wrong_arguments(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert capsys.readouterr().err.startswith("usage: pipelines")


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    out = capsys.readouterr().out
    assert all(f"    {name} " in out for name in ("run", "check", "plan"))
