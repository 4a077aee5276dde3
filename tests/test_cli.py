"""The commands: what they print where, and their exit codes."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines import explain, load, messages
from pipelines.cli import main
from pipelines.errors import Issue, Place
from pipelines.stages import cut
from pipelines.steps import KINDS

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


def test_check_imports_only_what_it_needs(config: Path, project: Path) -> None:
    late = [
        "dask",
        "jsonschema",
        "numpy",
        "pandas",
        "rich",
        *(f"pipelines.{n}" for n in ("run", "schema", "drawing", "starter")),
    ]
    code = f"import sys; from pipelines.cli import main; main(['check', '{config}']); print({{*{late}}} & {{*sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], cwd=project, capture_output=True, text=True, check=True)
    assert done.stdout == "days.yaml: ok, 4 steps\nset()\n"


@pytest.mark.parametrize("executor", ["serial", "processes"])
def test_tasks_look_for_garbage(project: Path, executor: str) -> None:
    """A process begins without; with the installed script its workers begin with the same module."""
    (project / "tidying.py").write_text("import gc\n\ndef on(item):\n    return {'on': gc.isenabled()}\n")
    config = project / "tidy.yaml"
    config.write_text(
        "steps:\n  m: {map: {function: 'tidying:on', items: [1], returns: {on: boolean}}}\n  out: {write: '${run}/o.csv'}\n"
    )
    words = [Path(sys.executable).with_name("pipelines"), "run", config, "--executor", executor]
    subprocess.run(words, cwd=project, capture_output=True, check=True, timeout=120)
    (written,) = project.glob("runs/*/o.csv")
    assert written.read_text() == "item,on,error\n1,true,\n"


def test_the_reader_of_the_output_may_go(config: Path, project: Path) -> None:
    shell = f"set -o pipefail; '{sys.executable}' -m pipelines schema | head -1"
    done = subprocess.run(["bash", "-c", shell], cwd=project, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "{\n", "")


def test_ctrl_c(config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("pipelines.cli.load", stopped)
    assert main(["check", str(config)]) == 130
    assert capsys.readouterr().err.startswith("\nstopped; nothing half-written is left.")


# check


def test_check(config: Path, project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(config)]) == 0
    assert capsys.readouterr() == ("days.yaml: ok, 4 steps\n", "")
    assert list((project / "runs").iterdir()) == []


def test_every_mistake_starts_with_error(config: Path, project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config.write_text(CONFIG.replace("name:", "nam:").replace("checkpoint: memory", "checkpoint: disc"))
    assert main(["check", str(config)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert [line for line in err.splitlines() if not line.startswith("    ")] == [
        "error: days.yaml:1:1: unknown key 'nam'",
        "error: days.yaml:8:17: `checkpoint` is 'disc', not 'memory' or 'disk'",
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


def test_check_of_several_configs(config: Path, project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (project / "bad.yaml").write_text(CONFIG.replace("Close >", "Clsoe >"))
    (project / "empty.csv").write_text("")
    (project / "data.yaml").write_text("steps:\n  a: {read: empty.csv}\n")
    assert main(["check", "days.yaml", "bad.yaml", "data.yaml"]) == 2
    out, err = capsys.readouterr()
    assert out == "days.yaml: ok, 4 steps\n"
    assert re.findall(r"^error: (\S+):\d+:\d+: ", err, re.MULTILINE) == ["bad.yaml", "data.yaml"]
    assert main(["check", "data.yaml", "days.yaml"]) == 3


def test_check_as_json(config: Path, project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--format", "json", str(config)]) == 0
    out, err = capsys.readouterr()
    assert (json.loads(out), err) == ([], "")
    (project / "bad.yaml").write_text(CONFIG.replace("Close >", "Clsoe >").replace("name:", "nam:"))
    assert main(["check", "--format", "json", str(config), "bad.yaml", "none.yaml"]) == 2
    out, err = capsys.readouterr()
    assert err == ""
    assert json.loads(out) == [
        {"file": "bad.yaml", "line": 1, "column": 1, "severity": "error", "message": "unknown key 'nam'", "remedy": "did you mean 'name'?"},
        {"file": "bad.yaml", "line": 5, "column": 18, "severity": "error", "message": "unknown column 'Clsoe'", "remedy": "did you mean 'Close'?"},
        {"file": "none.yaml", "line": None, "column": None, "severity": "error", "message": "cannot read none.yaml: No such file or directory", "remedy": "name an existing YAML file"},
    ]  # fmt: skip


def test_check_for_github(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--format", "github", str(config)]) == 0
    assert capsys.readouterr() == ("", "")
    odd = Path("a,b:c%.yaml")
    odd.write_text("name: a\nsteps:\n  a: {read: 'x%y:z.csv'}\n")
    assert main(["check", "--format", "github", str(odd)]) == 2
    out, err = capsys.readouterr()
    assert err == ""
    assert re.fullmatch(
        r"::error file=a%2Cb%3Ac%25\.yaml,line=3,col=13::no file matches x%25y:z\.csv \(looked in .*\)(%0A.*)?\n", out
    )


@given(message=st.text(), remedy=st.text(), file=st.text(min_size=1))
def test_github_commands_are_one_line(message: str, remedy: str, file: str) -> None:
    command = messages.as_github(Issue(message, remedy, Place(file, 3, 4)), Path("a.yaml"))
    assert "\n" not in command
    assert "\r" not in command
    found = re.fullmatch(r"::error file=([^:,]*),line=3,col=4::(.*)", command, re.DOTALL)
    if file.startswith("-p "):
        return
    assert found is not None

    def plain(text: str) -> str:
        for code, char in (("%3A", ":"), ("%2C", ","), ("%0A", "\n"), ("%0D", "\r"), ("%25", "%")):
            text = text.replace(code, char)
        return text

    assert plain(found[1]) == file
    assert plain(found[2]) == (f"{message}\n{remedy}" if remedy else message)


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
        ("leest=1", "error: unknown parameter 'leest'\n    did you mean 'least'?\n"),
        ("=1", "error: -p =1: this is not NAME=VALUE\n"),
        ("partitions=many", "error: the parameter 'partitions' is 'many', which is not a number\n"),
        ("partitions=2.5", "error: days.yaml:4:49: `partitions` must be a whole number, not 2.5\n"),
        ("least=Opne", "error: the parameter 'least' is 'Opne', which is not a number\n"),
        ("least=[1]", "error: the parameter 'least' is '[1]', which is not a number\n"),
        ("least=", "error: the parameter 'least' is '', which is not a number\n"),
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
    assert "  prices: read\n      path: " in out
    assert "\n      Date       date     sampled\n      Symbol     string   sampled\n" in out
    rows = "18,966 rows, 1.3 MB in memory (computed from all rows)"
    assert f"  good: filter from prices\n      Close > 0\n      {rows}\n      the columns of prices\n" in out
    columns = "      Date  date\n      mean  float64\n      rows  int64\n"
    assert "  by_date: aggregate from good (kept in memory)\n" in out
    assert columns in out
    assert "  out: write from by_date\n" in out
    assert (
        out.split("\nwhat the planner did\n")[1]
        == """\
  columns: prices reads 3 of its 8 columns: Date, Open, Close
  filters: good is tested while reading (prices)

stages: the steps of each run as one query in every partition
  1. prices + good + by_date (in part): 3 partitions
  2. by_date: 1 partition
     <- tree of stage 1, 3 to 1 partition: by_date combines its parts, in groups
  3. out: 1 partition
     <- the partition of stage 2; a cut: by_date is kept in memory
"""
    )
    assert list((project / "runs").iterdir()) == []


def test_plan_of_several_branches(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (project / "a.yaml").write_text(f"""steps:
  prices: {{read: {{path: {STOCKS}, partitions: 4}}}}
  more: {{derive: {{up: Close > Open, Volume: 1.5}}}}
  medians: {{aggregate: {{by: Symbol, middle: median(Close)}}}}
  ordered: {{from: more, sort: Date}}
  parts: {{write: {{path: "${{run}}/a.parquet", per_partition: true}}}}
""")
    assert main(["plan", str(project / "a.yaml")]) == 0
    out = capsys.readouterr().out
    assert "      the columns of prices, and\n      Volume  float64\n      up      boolean\n" in out
    assert (
        out.split("in every partition\n")[1]
        == """\
  1. prices + more: 4 partitions
  2. medians (its rows): 4 partitions
     <- each partition of stage 1; a cut: more is read by several steps
  3. medians: 1 partition
     <- gather of stage 2, 4 to 1 partition: medians needs all rows in one place, in order
  4. ordered + parts: 1 partition
     <- gather of stage 1, 4 to 1 partition: ordered needs all rows in one place, in order
"""
    )


def test_plan_as_data(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", str(config), "--format", "json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert [step["step"] for step in facts["steps"]] == ["prices", "good", "by_date", "out"]
    assert facts["steps"][2]["columns"] == {"Date": "date", "mean": "float64", "rows": "int64"}
    passes = facts["passes"]
    assert passes["columns"] == [{"step": "prices", "reads": ["Date", "Open", "Close"], "of": 8}]
    assert passes["filters"] == [{"step": "good", "source": "prices", "pushed": True}]
    first, second, third = passes["stages"]
    assert (first["steps"], first["partial"], first["from"]) == (["prices", "good", "by_date"], "in part", [])
    assert [link["exchange"] for link in (*second["from"], *third["from"])] == ["tree", "none"]
    assert third["writes"] == "parquet"


@pytest.mark.parametrize(
    ("steps", "pushed"),
    [
        ("  b: {filter: Close > 0}\n", [True]),
        ("  b: {filter: Close > 0}\n  c: {filter: Open > 1}\n", [True, True]),
        ("  b: {derive: {x: Close + Open}}\n  c: {filter: Open > 1}\n", [True]),
        ("  b: {derive: {x: Close + Open}}\n  c: {filter: x > 1}\n", [False]),
        ("  b: {select: {rename: {Close: x}}}\n  c: {filter: x > 1}\n", [True]),
        ("  b: {aggregate: {by: Symbol, x: avg(Close)}}\n  c: {filter: x > 1}\n", []),
    ],
)
def test_plan_tells_where_filters_run(project: Path, steps: str, pushed: list[bool]) -> None:
    """What is said of an empty stand-in holds for the query that runs."""
    (project / "a.yaml").write_text(f"steps:\n  a: {{read: {STOCKS}}}\n{steps}")
    staged = cut(load(project / "a.yaml").plan())
    assert [found["pushed"] for found in explain.facts(staged)["passes"]["filters"]] == pushed
    if pushed:
        stage = staged.stages[0]
        assert stage.input is not None
        frame = stage.input.loader.scan(stage.input.partitions[0], stage.columns)
        before = frame.explain().count("FILTER ")
        for apply in stage.program:
            frame = apply(frame)
        assert frame.explain().count("FILTER ") - before == pushed.count(False)


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
    kept = [line for line in before.replace("  sampled\n", "\n").splitlines() if "sampled" not in line]
    assert [line.split() for line in after.splitlines() if "path: a.csv" not in line] == [
        line.split() for line in kept if "path: a.csv" not in line
    ]


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
        ["plan", "a.yaml", "b.yaml"],
        ["check", "a.yaml", "--formt", "json"],
        ["check", "a.yaml", "--format", "xml"],
        ["check", "a.yaml", "--form", "json"],
        ["steps", "a", "b"],
        ["new"],
        ["--verbose"],
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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["rnu", "a.yaml"], "error: unknown command 'rnu'\n    did you mean 'run'?\n"),
        (["check", "a.yaml", "--formt", "json"], "does not take '--formt'\n    did you mean '--format'?\n"),
        (["plan", "a.yaml", "b.yaml"], "error: pipelines plan does not take 'b.yaml'\n    pipelines plan --help\n"),
        (
            ["run", "a.yaml", "--head", "x"],
            "error: argument --head: 'x' is not a number of rows\n    pipelines run --help\n",
        ),
    ],
)
def test_wrong_arguments_say_what_to_do(capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    with pytest.raises(SystemExit):
        main(arguments)
    assert capsys.readouterr().err.endswith(message)


COMMANDS = ("new", "check", "plan", "graph", "run", "steps", "schema")


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, code in ((["--help"], 0), ([], 2)):
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        assert caught.value.code == code
        said = capsys.readouterr()
        text = said.err if code else said.out
        assert all(f"    {name} " in text for name in COMMANDS)
        assert all(f"\n  {code} " in text for code in (0, 2, 3, 4, 130))


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_a_command(capsys: pytest.CaptureFixture[str], name: str) -> None:
    with pytest.raises(SystemExit) as caught:
        main([name, "--help"])
    assert caught.value.code == 0
    out = capsys.readouterr().out
    assert f"example:\n  pipelines {name}" in out
    assert "exit codes:" in out


# steps


def test_steps(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["steps"]) == 0
    out = capsys.readouterr().out
    assert [line.split()[0] for line in out.split("\n\n")[0].splitlines()] == list(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_steps_explains_a_kind(capsys: pytest.CaptureFixture[str], kind: str) -> None:
    assert main(["steps", kind]) == 0
    out = capsys.readouterr().out
    assert KINDS[kind].example in out
    for name, option in KINDS[kind].model_fields.items():
        assert f"\n  {option.alias or name}: " in out
        assert option.description is not None
        assert " ".join(option.description.split()) in " ".join(out.split())


def test_steps_of_an_unknown_kind(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["steps", "agregate"]) == 2
    assert capsys.readouterr().err == "error: there is no step kind 'agregate'\n    did you mean 'aggregate'?\n"


def test_the_reason_why_a_column_is_a_string_stands_beside_the_errors(
    project: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(project)
    (project / "t.csv").write_text("n,when,if\n1,13/02/2024,3\n")
    config = (
        "steps:\n  t: {read: t.csv}\n  same: {filter: n > x}\n  y: {filter: year(when) = 2024}\n  i: {filter: if > 1}\n"
    )
    (project / "c.yaml").write_text(config)
    assert main(["check", "c.yaml"]) == 2
    assert capfd.readouterr().err == (
        "error: c.yaml:3:22: unknown column 'x'\n    known: n, when, if; text stands in single quotes: 'x'\n"
        "error: c.yaml:4:20: cannot parse the expression at 'when'\n"
        "    put double quotes around column names that contain spaces or other signs, or are words of SQL\n"
        'error: c.yaml:5:15: `if` begins no expression\n    write if(c, a, b); a column of that name is "if"\n'
        "note: t: column 'when' looks like dates ('13/02/2024'), read as string: give their format in `dates`\n"
    )


def test_in_a_notebook_a_pipeline_and_its_plan_are_short(config: Path) -> None:
    pipeline = load(config)
    assert repr(pipeline) == "Pipeline('days.yaml': prices, good, by_date, out)"
    assert "  by_date: aggregate(Date: date, mean: float64, rows: int64)" in repr(pipeline.plan()).splitlines()
