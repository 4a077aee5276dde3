"""What a user would lose, or not notice: inputs that are written over, columns that are no numbers, items that failed."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import duckdb
import polars as pl
import pytest

from pipelines import ConfigError, DataError, MachineError, load
from pipelines.cli import main
from pipelines.lower import Attempt
from pipelines.pipeline import Pipeline
from pipelines.report import table

Make = Callable[..., Pipeline]


def planned(folder: Path, steps: str) -> Pipeline:
    (folder / "runs").mkdir(exist_ok=True)
    path = folder / "c.yaml"
    path.write_text(f"steps:\n{steps}")
    return load(path)


@pytest.mark.parametrize(
    ("steps", "place"),
    [
        ("  p: {read: a.csv}\n  w: {write: {path: a.csv, overwrite: true}}\n", "3:21"),
        ("  p: {read: b.csv}\n  w: {write: {path: a.csv, overwrite: true}}\n  r: {read: '*.csv'}\n", "3:3"),
        ("  p: {read: link.csv}\n  w: {write: {path: ../there/a.csv, overwrite: true}}\n", "3:21"),
        (
            "  p: {read: parts/*}\n  w: {write: {path: parts, format: csv, per_partition: true, overwrite: true}}\n",
            "3:21",
        ),
    ],
)
def test_what_a_config_reads_it_does_not_replace(tmp_path: Path, steps: str, place: str) -> None:
    folder = tmp_path / "there"
    (folder / "parts").mkdir(parents=True)
    for name in ("a.csv", "b.csv", "parts/part-00000.csv"):
        (folder / name).write_text("a\n1\n")
    (folder / "link.csv").symlink_to("a.csv")
    with pytest.raises(ConfigError, match=r"replaces: the next run would read something else") as caught:
        planned(folder, steps).plan()
    found = caught.value.issues[0].place
    assert found is not None
    assert f"{found.line}:{found.column}" == place


def test_a_folder_is_replaced_only_where_it_holds_parts_alone(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("a\n1\n")
    write = "  p: {read: a.csv}\n  w: {write: {path: out, format: csv, per_partition: true, overwrite: true}}\n"
    for _ in range(2):
        planned(tmp_path, write).run("serial")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["part-00000.csv"]
    (tmp_path / "out" / ".git").mkdir()
    with pytest.raises(ConfigError, match=r"out holds other files than the parts of a table: '\.git'"):
        planned(tmp_path, write).plan()
    assert (tmp_path / "out" / ".git").exists()


@pytest.mark.parametrize(
    ("values", "note"),
    [
        (["10", "9", "n/a", "100"], "has numbers but for values like 'n/a'"),
        (["1.5 ", "2.5", "3.5"], "has numbers but for values like '1.5 '"),
        (["2024-01-01", "31/01/2024", "2024-01-02"], "has dates but for values like '31/01/2024'"),
        (["1/2/2024", "3/4/2024", "soon"], "has dates but for values like 'soon'"),
        (["$5", "$1", "$2"], "looks like numbers ('$5')"),
        (['"1,000"', '"2,000"', '"1"'], "looks like numbers ('1,000')"),
        (["10%", "20%"], "looks like numbers ('10%')"),
        (["2024-13-01", "2024-01-02"], ""),
        (["A", "7", "B"], ""),
        (["x", "y"], ""),
    ],
)
def test_columns_that_are_almost_numbers_or_dates_are_told(tmp_path: Path, values: list[str], note: str) -> None:
    (tmp_path / "a.csv").write_text("k,v\n" + "".join(f"1,{value}\n" for value in values))
    plan = planned(tmp_path, "  p: {read: a.csv}\n").plan()
    assert plan.nodes["p"].schema["v"] == pl.String
    assert [text for text in plan.notes if note and note in text] or (not note and not plan.notes)
    declared = planned(tmp_path, "  p: {read: {path: a.csv, dtypes: {v: string}}}\n").plan()
    assert not declared.notes


@pytest.mark.parametrize(
    ("option", "values", "note"),
    [
        ("dtypes: {v: int64}", ["1", "2.5"], "'2.5' is not int64, so a run that reads it fails: declare `dtypes: {v: float64}`"),
        ("dtypes: {v: int8}", ["1", "300"], "'300' is not int8"),
        ("dtypes: {v: float64}", ["1", "1e999"], "'1e999' is not float64"),
        ("dtypes: {v: date}", ["2024-01-01", "01.02.2024"], "'01.02.2024' is not date, so a run that reads it fails: give the format"),
        ('dates: {v: "%d.%m.%Y"}', ["01.02.2024", "2024-01-01"], "'2024-01-01' does not match '%d.%m.%Y'"),
        ('dtypes: {v: "decimal(10,2)"}', ["1.25", "1.255"], "'1.255' is not decimal"),
        ("dtypes: {v: time}", ["12:30:00", "noon"], "'noon' is not time"),
        ("dtypes: {v: boolean}", ["true", "2"], "'2' is not boolean"),
        ("dtypes: {v: int64}", ["1", '""', "", "3"], ""),
        ("dtypes: {v: int64}, null_values: [n/a]", ["1", "n/a"], ""),
        ("dtypes: {v: int64}, bad_rows: drop", ["1", "x"], ""),
        ("dtypes: {v: string}", ["1", "x"], ""),
        ('dates: {v: "%d.%m.%Y"}', ["01.02.2024", '""'], ""),
    ],
)  # fmt: skip
def test_values_that_a_declared_type_does_not_take_are_told_before_a_run(
    tmp_path: Path, option: str, values: list[str], note: str
) -> None:
    (tmp_path / "a.csv").write_text("k,v\n" + "".join(f'"a,\n""b",{v}\n' for v in values))
    made = planned(tmp_path, f"  p: {{read: {{path: a.csv, {option}}}}}\n")
    notes = [text for text in made.plan().notes if "column 'v'" in text]
    assert len(notes) == bool(note)
    assert all(note in text for text in notes)
    if note:
        with pytest.raises(DataError):
            made.run("serial")
    else:
        made.run("serial")


def test_with_decimal_commas_points_make_no_number(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("d;n;p;e\n2024-01-01;1.000;1,5;31.01.2024\n2024-01-02;2.000;2,5;1.2.2024\n")
    made = planned(tmp_path, '  p: {read: {path: a.csv, separator: ";", decimal: ","}}\n')
    assert made.plan().nodes["p"].schema == {"d": pl.Date, "n": pl.String, "p": pl.Float64, "e": pl.String}
    assert made.run("serial").outputs["p"].head["p"].to_list() == [1.5, 2.5]
    assert any("'n' looks like numbers ('1.000')" in note for note in made.plan().notes)
    assert any("'e' looks like dates ('31.01.2024')" in note for note in made.plan().notes)


def test_an_index_of_pandas_has_a_name(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(",a\n0,x\n1,y\n")
    answer = planned(tmp_path, "  p: {read: a.csv}\n").run("serial").outputs["p"].head
    assert answer.rows(named=True) == [{"column_1": 0, "a": "x"}, {"column_1": 1, "a": "y"}]


def test_a_quote_that_is_never_closed_is_no_empty_column(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('a,b\n1,"x\n2,y')
    notes = planned(tmp_path, "  p: {read: a.csv}\n").plan().notes
    assert [note for note in notes if "quotes do not fit" in note]
    assert not [note for note in notes if "empty" in note]


@pytest.mark.parametrize("executor", ["threads", "processes"])
def test_items_that_failed_are_told(tmp_path: Path, executor: str, capsys: pytest.CaptureFixture[str]) -> None:
    planned(tmp_path, '  m: {map: {function: "math:isqrt", items: [-1, 4, -2], returns: int64}}\n')
    assert main(["run", str(tmp_path / "c.yaml"), "--executor", executor]) == 0
    assert "math:isqrt failed on 2 items: see the column `error`" in capsys.readouterr().err
    [record] = (tmp_path / "runs").glob("*/record.json")
    assert "2 items" in json.loads(record.read_text())["warnings"][0]


def test_rows_left_out_are_in_the_history(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.csv").write_text("a,b\n1,2\n3\n")
    folder = planned(tmp_path, "  p: {read: {path: a.csv, bad_rows: drop}}\n").run("serial").folder
    assert main(["runs", "show", folder.name]) == 0
    assert "bad rows left out:\n  p: 1\n" in capsys.readouterr().out


def test_the_innermost_line_of_the_users_code_is_told(tmp_path: Path) -> None:
    (tmp_path / "deep.py").write_text(
        "import json\nimport polars as pl\n\ndef helper(frame):\n    return json.loads('{')\n\n"
        "def f(frame: pl.DataFrame) -> pl.DataFrame:\n    return helper(frame)\n"
    )
    (tmp_path / "a.csv").write_text("a\n1\n")
    steps = "  p: {read: a.csv}\n  a: {python: {function: 'deep:f', schema: {a: int64}}}\n"
    with pytest.raises(Exception, match=r"\(deep\.py, line 5\)"):
        planned(tmp_path, steps).run("serial")


def test_what_new_cannot_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.xlsx").write_bytes(b"PK\x03\x04")
    assert main(["new", "a.xlsx", "-o", "-"]) != 0
    assert ".xlsx files are not read" in capsys.readouterr().err

    def refused(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", "a.csv")

    (tmp_path / "a.csv").write_text("a\n1\n")
    monkeypatch.setattr(Path, "open", refused)
    assert main(["new", "a.csv", "-o", "-"]) != 0
    assert "Permission denied" in capsys.readouterr().err


BROKEN = """
import polars as pl

def inner(number):
    return {}["none", number]

def item(number):
    try:
        return inner(number)
    except KeyError as error:
        raise ValueError(f"bad {number}") from error

def table(frame: pl.DataFrame) -> pl.DataFrame:
    return inner(1)
"""


@pytest.mark.parametrize("executor", ["serial", "threads", "local"])
@pytest.mark.parametrize(
    ("steps", "lines"),
    [
        ("  m: {map: {function: 'broken:item', range: [1, 40], returns: int64}}\n", ["in item", "in inner", "ValueError: bad "]),
        (
            "  m: {map: {function: 'broken:item', range: [1, 40], returns: int64, on_error: stop}}\n",
            ["in item", "in inner", "ValueError: bad "],
        ),
        (
            "  a: {read: a.csv}\n  b: {python: {function: 'broken:table', schema: {a: int64}}}\n",
            ["in table", "in inner", "KeyError: ('none', 1)"],
        ),
    ],
)  # fmt: skip
def test_the_log_has_the_traceback_of_a_function_that_fails(
    tmp_path: Path, steps: str, lines: list[str], executor: str
) -> None:
    (tmp_path / "broken.py").write_text(BROKEN)
    (tmp_path / "a.csv").write_text("a\n1\n2\n")
    with contextlib.suppress(DataError):
        planned(tmp_path, steps).run(executor)
    [path] = (tmp_path / "runs").glob("*/log.jsonl")
    [told] = [line for line in map(json.loads, path.read_text().splitlines()) if "traceback" in line]
    assert told["message"].startswith("broken:")
    assert all(line in told["traceback"] for line in lines)
    assert "pipelines/steps" not in told["traceback"]


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith("pipelines ")


@pytest.mark.parametrize("executor", ["threads", "local"])
def test_who_ends_jobs_is_heard(tmp_path: Path, executor: str) -> None:
    """SIGTERM, as of a batch system: what was started is closed, the record says that it was stopped."""
    (tmp_path / "slow.py").write_text("import time\n\ndef f(item):\n    time.sleep(0.3)\n    return 1\n")
    planned(tmp_path, '  m: {map: {function: "slow:f", range: [1, 200], returns: int64}}\n')
    command = [sys.executable, "-m", "pipelines", "run", str(tmp_path / "c.yaml"), "--executor", executor]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, cwd=tmp_path) as run:
        assert run.stderr is not None
        said = ""
        while "running" not in said:
            said += run.stderr.readline()
        time.sleep(1)
        run.send_signal(signal.SIGTERM)
        said += run.stderr.read()
    assert run.returncode == 130, said
    assert "stopped; nothing half-written is left" in said
    assert "Traceback" not in said
    assert "leaked" not in said
    [record] = (tmp_path / "runs").glob("*/record.json")
    assert json.loads(record.read_text())["state"] == "stopped"


def test_ctrl_c_while_modules_are_imported_is_no_traceback(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pipelines", "steps"]
    for delay in (0.05, 0.15, 0.25):
        with subprocess.Popen(
            command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, cwd=tmp_path
        ) as run:
            time.sleep(delay)
            run.send_signal(signal.SIGINT)
            assert run.stderr is not None
            assert "pipelines/__main__" not in run.stderr.read()


def test_a_table_wider_than_the_terminal_is_shown_without_its_middle(monkeypatch: pytest.MonkeyPatch) -> None:
    frame = pl.DataFrame({"t": ["x" * 70], **{f"number_{i}": [1234567.890123 * 10**i] for i in range(9)}})
    for width in (60, 100, 160):
        monkeypatch.setenv("COLUMNS", str(width))
        lines = table(frame, 1).splitlines()
        assert max(map(len, lines)) <= width
        assert " 123456789012299.98 │" in lines[5]  # no number is cut, or goes on in the next line
        assert len(lines) == 8
        assert re.fullmatch(r"\(1 row; \d of 10 columns\)", lines[-1])
    monkeypatch.setenv("COLUMNS", "300")
    assert table(frame, 5).splitlines()[-1] == "(5 rows in all)"
    assert table(pl.DataFrame({"a": [1]}), 1).splitlines()[-1] == "(1 row)"


def test_a_script_without_a_guard_is_told_of_it(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "a.csv").write_text("a\n1\n")
    (tmp_path / "c.yaml").write_text("steps:\n  p: {read: a.csv}\n")
    (tmp_path / "s.py").write_text("import pipelines\npipelines.load('c.yaml').run('processes')\n")
    command = [sys.executable, "s.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert (
        done.stderr.rstrip()
        .splitlines()[-1]
        .startswith("    put what starts the run under `if __name__ == '__main__':`")
    )


@pytest.mark.parametrize("executor", ["serial", "threads", "local"])
def test_dates_that_no_calendar_has_are_told(tmp_path: Path, executor: str) -> None:
    """Files have them (DuckDB's and PostgreSQL's infinity); Polars panics of them, where they are shown and in CSV."""
    (tmp_path / "runs").mkdir()
    days = pl.Series("d", [1, None, 2**31 - 1], dtype=pl.Int32).cast(pl.Date)
    times = pl.Series("t", [2**63 - 1, 0, -(2**63) + 1]).cast(pl.Datetime("us"))
    pl.DataFrame([days, times]).write_parquet(tmp_path / "in.parquet")
    (tmp_path / "c.yaml").write_text("steps:\n  p: {read: in.parquet}\n  out: {write: out.parquet}\n")
    head = load(tmp_path / "c.yaml").run(executor).outputs["out"].head
    assert "2147483647" in table(head, 3)
    assert "9223372036854775807" in table(head, 3)
    nested = pl.DataFrame([days.implode(), times.implode()]).select(l="d", s=pl.struct("t", "d"))
    assert "2147483647" in table(nested.select("l"), 1)
    assert "9223372036854775807" in table(nested.select("s"), 1)
    (tmp_path / "c.yaml").write_text("steps:\n  p: {read: in.parquet}\n  out: {write: out.csv}\n")
    with pytest.raises(DataError, match="column 'd' has dates before the year -262143 or after 262142"):
        load(tmp_path / "c.yaml").run(executor)
    for value, said in (
        ("d - 3", "beyond date"),
        ("t - INTERVAL 1 SECOND", "beyond datetime"),
        ("DATE '2020-01-01' + 96000000", "beyond date"),
    ):
        (tmp_path / "c.yaml").write_text(f'steps:\n  p: {{read: in.parquet}}\n  out: {{derive: {{x: "{value}"}}}}\n')
        with pytest.raises(DataError, match=f"a result is {said}"):
            load(tmp_path / "c.yaml").run(executor)


def test_a_panic_outside_of_a_query_is_an_error() -> None:
    """As it is a BaseException, a Dask worker would end with it."""

    def panics() -> None:
        raise pl.exceptions.PanicException("out of range")

    with pytest.raises(MachineError, match="Polars panicked: out of range"):
        Attempt(panics, "stage", 0)()


def test_a_parquet_file_with_intervals_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    duckdb.sql(f"copy (select 1 as a, interval 3 months as i) to '{tmp_path}/in.parquet'")
    (tmp_path / "c.yaml").write_text("steps:\n  p: {read: in.parquet}\n")
    with pytest.raises(DataError, match=r"in\.parquet: column 'i' is an interval, which cannot be read"):
        load(tmp_path / "c.yaml").plan()
