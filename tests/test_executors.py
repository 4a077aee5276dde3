"""The same bytes everywhere, and nothing left behind."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import psutil
import pytest

from pipelines import ConfigError, DataError, load
from pipelines.cli import main
from pipelines.executors.base import Executor
from pipelines.pipeline import Pipeline
from pipelines.run import Result, execute
from tests.conftest import ROOT

CONFIG = ROOT / "configs/stock_groupby.yaml"
EXECUTORS = ("serial", "threads", "local")
Make = Callable[..., Pipeline]


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def shipped(project: Path, **params: Any) -> Pipeline:
    """The shipped config over the shipped data, its runs kept in a project of the test's own."""
    config = project / "stock_groupby.yaml"
    config.write_text(CONFIG.read_text())
    return load(config, {"prices": str(ROOT / "data/stocks/*.csv"), **params})


def test_the_main_job_has_the_same_bytes_everywhere_and_pandas_answer(project: Path) -> None:
    digests, answer = set[str](), None
    for partitions in (1, 3, 50):
        made = shipped(project, partitions=partitions)
        for executor in EXECUTORS:
            path = made.run(executor).outputs["result"].path
            assert path is not None
            digests.add(digest(path))
            answer = pl.read_parquet(path)
    assert len(digests) == 1
    files = sorted((ROOT / "data/stocks").glob("*.csv"))
    prices = pd.concat([pd.read_csv(f, parse_dates=["Date"]) for f in files])
    mean = prices[prices.Close > 0].groupby("Date").Open.mean()
    assert answer is not None
    assert answer["Date"].cast(pl.Datetime("ns")).to_list() == mean.index.to_list()
    assert max(abs(a - b) / b for a, b in zip(answer["open_mean"], mean, strict=True)) < 1e-12


def test_processes_give_the_same_bytes_and_the_run_leaves_a_record(project: Path) -> None:
    made = shipped(project, partitions=7)
    config = project / "processes.yaml"
    config.write_text("executor: {kind: local, workers: 2, memory_limit: 1GiB}\n" + CONFIG.read_text())
    there = load(config, {"prices": str(ROOT / "data/stocks/*.csv"), "partitions": 7}).run()
    here = made.run("serial")
    assert here.outputs["result"].path is not None
    assert there.outputs["result"].path is not None
    assert digest(here.outputs["result"].path) == digest(there.outputs["result"].path)
    record = json.loads((there.folder / "record.json").read_text())
    assert record["exit_code"] == 0
    assert record["executor"].startswith("local cluster (2 processes")
    assert record["outputs"]["result"]["rows"] == 6558
    assert not psutil.Process().children(recursive=True) or all(
        "resource_tracker" in " ".join(child.cmdline()) for child in psutil.Process().children(recursive=True)
    )


def test_the_dashboard_answers_while_the_cluster_is_up(project: Path) -> None:
    import urllib.request

    seen = list[bytes]()

    def done(executor: Executor, result: Result) -> None:
        assert executor.dashboard is not None
        with urllib.request.urlopen(executor.dashboard) as page:
            seen.append(page.read())

    result = execute(shipped(project).plan(), "local", performance_report=True, done=done)
    assert b"bokeh" in seen[0].lower()
    assert b"bokeh" in (result.folder / "performance_report.html").read_bytes().lower()


def test_a_taken_dashboard_port_is_no_trouble(project: Path) -> None:
    links = list[str | None]()
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with contextlib.suppress(OSError):  # somebody else may have it
            taken.bind(("127.0.0.1", 8787))
        taken.listen()
        execute(shipped(project).plan(), "local", done=lambda executor, result: links.append(executor.dashboard))
    assert links[0] is not None
    assert ":8787/" not in links[0]


STEPS = """  STOCKS
  changed:
    derive: {change: Close - Open, year: year(Date)}
  chosen:
    select: {columns: [Date, Symbol, year, change, Volume, "Adj Close"], rename: {"Adj Close": adjusted}}
  yearly:
    aggregate:
      by: [Symbol, year]
      middle: median(change)
      days: count(*)
      volumes: count(distinct Volume)
      total: sum(Volume)
      first: first(change)
      mean: avg(adjusted)
    checkpoint: memory
  top:
    sort: {by: [middle, Symbol], descending: [middle], limit: 7}
  parts:
    from: chosen
    write: {path: "${run}/parts", format: csv, per_partition: true}
  best:
    from: top
    write: {path: "${run}/best.parquet"}
  ordered:
    from: chosen
    sort: [Volume, Date, Symbol]
  all:
    from: yearly
    aggregate: {n: count(*), mean: avg(middle), most: max(days) - min(days), spread: std(middle), l: last(Symbol)}
"""


@pytest.mark.parametrize("executor", EXECUTORS)
def test_a_plan_of_every_placement_equals_the_oracle(pipeline: Make, executor: str) -> None:
    from tests.oracle import oracle

    made = pipeline(STEPS)
    tables = oracle(made.plan())
    result = made.run(executor, head=10**6)
    assert result.outputs["best"].head.equals(tables["top"])
    assert result.outputs["ordered"].head.equals(tables["ordered"])
    assert result.outputs["all"].head.drop("spread").equals(tables["all"].drop("spread"))
    assert result.outputs["all"].head["spread"][0] == pytest.approx(tables["all"]["spread"][0], rel=1e-12)
    folder = result.outputs["parts"].path
    assert folder is not None
    names = sorted(os.listdir(folder))
    assert names == [f"part-{i:05d}.csv" for i in range(5)]
    written = pl.concat([pl.read_csv(folder / n, schema=dict(tables["chosen"].schema)) for n in names])
    assert written.equals(tables["chosen"])


def test_map_runs_in_processes_and_keeps_errors(project: Path) -> None:
    (project / "cubes_of_test.py").write_text(
        "import os\ndef cube(n: int, power: int = 3) -> dict:\n"
        "    if n == 3: raise ValueError('three is out')\n    return {'value': n**power, 'pid': os.getpid()}\n"
    )
    config = project / "map.yaml"
    config.write_text(
        "steps:\n  cubes:\n    map: {function: 'cubes_of_test:cube', items: [1, 2, 3, 4, 3000000], returns: {value: int64, pid: int64}}\n"
    )
    for executor in EXECUTORS:
        table = load(config).run(executor).outputs["cubes"].head
        assert table["value"].to_list() == [1, 8, None, 64, None]
        assert table["error"].to_list()[2] == "ValueError: three is out"
        assert "int64" in table["error"].to_list()[4]
        assert (os.getpid() in table["pid"].to_list()) == (executor != "local")


def test_what_exists_is_kept_unless_overwrite_is_said(pipeline: Make, project: Path) -> None:
    steps = "  STOCKS\n  few:\n    sort: {by: Volume, limit: 3}\n  out:\n    write: {path: kept.csv%s}\n"
    (project / "kept.csv").write_text("mine")
    with pytest.raises(ConfigError, match=r"kept\.csv exists"):
        pipeline(steps % "").plan()
    assert (project / "kept.csv").read_text() == "mine"
    result = pipeline(steps % ", overwrite: true").run("threads")
    assert pl.read_csv(project / "kept.csv").height == 3 == result.outputs["out"].rows
    assert [p.name for p in project.iterdir() if p.name.endswith(".tmp")] == []


@pytest.mark.parametrize("executor", EXECUTORS)
def test_bad_data_is_one_clear_error_and_leaves_nothing(project: Path, executor: str) -> None:
    (project / "prices.csv").write_text("Symbol,Close\nA,1\nB,2\nC,abc\nD,4\n")
    config = project / "bad.yaml"
    config.write_text(
        "steps:\n  prices:\n    read: {path: prices.csv, dtypes: {Close: int64}}\n  out:\n    write: {path: 'out.csv'}\n"
    )
    with pytest.raises(DataError, match=r"prices\.csv: row 3, column 'Close': 'abc' is not int64"):
        load(config).run(executor)
    assert not (project / "out.csv").exists()
    assert [p for p in project.iterdir() if p.name.endswith(".tmp")] == []
    record = json.loads(next((project / "runs").glob("*/record.json")).read_text())
    assert record["exit_code"] == 3


def begun(config: Path, executor: str) -> subprocess.Popen[str]:
    """A run in a process of its own, which is at its tasks."""
    run = subprocess.Popen(
        [sys.executable, "-m", "pipelines", "run", str(config), "--executor", executor],
        stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True, cwd=ROOT,
    )  # fmt: skip
    assert run.stderr is not None
    while "running" not in (line := run.stderr.readline()):
        assert line, "it ended before it ran"
    return run


@pytest.mark.parametrize("executor", EXECUTORS)
def test_ctrl_c_stops_cleanly(project: Path, executor: str) -> None:
    (project / "nap_of_test.py").write_text("import time\ndef nap(n: int) -> int:\n    time.sleep(0.3)\n    return n\n")
    config = project / "nap.yaml"
    config.write_text(
        f"steps:\n  naps:\n    map: {{function: 'nap_of_test:nap', items: {list(range(200))}}}\n  out:\n    write: out.csv\n"
    )
    run = begun(config, executor)
    time.sleep(1.5)
    children = psutil.Process(run.pid).children(recursive=True)
    os.killpg(run.pid, signal.SIGINT)
    _, said = run.communicate(timeout=30)
    assert run.returncode == 130, said
    assert "Traceback" not in said
    assert "stopped" in said
    _, alive = psutil.wait_procs(children, timeout=10)
    assert not alive
    assert {p.name for p in project.iterdir()} - {"__pycache__"} == {"nap.yaml", "nap_of_test.py", "runs"}


def test_ctrl_c_again_does_not_wait(project: Path) -> None:
    (project / "nap_of_test.py").write_text("import time\ndef nap(n: int) -> int:\n    time.sleep(60)\n    return n\n")
    config = project / "nap.yaml"
    config.write_text(
        "steps:\n  naps:\n    map: {function: 'nap_of_test:nap', range: [1, 9]}\n  out:\n    write: out.csv\n"
    )
    run = begun(config, "threads")
    assert run.stderr is not None
    time.sleep(1)
    run.send_signal(signal.SIGINT)
    while "once more" not in (line := run.stderr.readline()):
        assert line, "it ended at once"
    time.sleep(0.5)
    assert run.poll() is None, "it waits for what is at work"
    run.send_signal(signal.SIGINT)
    _, said = run.communicate(timeout=20)
    assert (run.returncode, "Traceback" in said) == (130, False), said


@pytest.mark.parametrize("executor", EXECUTORS)
def test_ctrl_c_amid_queries(project: Path, executor: str) -> None:
    """Polars tells of it in the thread of the query, too."""
    rows = (ROOT / "data/stocks/AAPL.csv").read_text().split("\n", 1)
    (project / "one").write_text(rows[0] + "\n" + rows[1] * (60_000_000 // len(rows[1])))
    for i in range(60):
        (project / f"{i}.csv").symlink_to(project / "one")
    config = project / "c.yaml"
    config.write_text(
        "steps:\n  prices: {read: '*.csv'}\n  means: {aggregate: {by: [Date], m: avg(Open), l: max(Close)}}\n  out: {write: out.csv}\n"
    )
    for _ in range(3):
        run = begun(config, executor)
        time.sleep(1)
        run.send_signal(signal.SIGINT)
        _, said = run.communicate(timeout=60)
        assert (run.returncode, "Traceback" in said, "stopped" in said) == (130, False, True), said
        [record] = [json.loads(path.read_text()) for path in (project / "runs").glob("*/record.json")]
        assert record["state"] == "stopped"
        shutil.rmtree(project / "runs")
        (project / "runs").mkdir()


def test_the_command_line(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = project / "c.yaml"
    config.write_text(CONFIG.read_text())
    prices = ["-p", f"prices={ROOT}/data/stocks/*.csv"]
    assert main(["check", str(config), *prices]) == 0
    assert "ok, 4 steps" in capsys.readouterr().out
    assert main(["plan", str(config), *prices]) == 0
    shown = capsys.readouterr().out
    assert "dtypes: {Date: date, Symbol: string, Open: float64" in shown
    assert "<- tree of stage 1, 4 to 1 partition: by_date combines its parts" in shown
    assert main(["run", str(config), *prices, "--executor", "serial", "--to", "traded", "--head", "2"]) == 0
    shown = capsys.readouterr().out
    assert "(18,966 rows in all)" in shown
    assert "AAPL" in shown
    assert main(["check", str(config), "-p", "prices=nothing/*.csv"]) == 2
    assert main(["check", str(config), "-p", "prise=1"]) == 2
    assert "did you mean 'prices'?" in capsys.readouterr().err
    assert main(["run", str(config), *prices, "--to", "by_dat"]) == 2
    assert "did you mean 'by_date'?" in capsys.readouterr().err


@pytest.mark.parametrize("block", ["serial", "{kind: local, workers: 2}", "local"])
def test_checkpoints_are_freed_after_their_last_use(project: Path, block: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipelines import run

    config = project / "chain.yaml"
    config.write_text(
        f"executor: {block}\nsteps:\n  a:\n    read: {{path: '{ROOT}/data/stocks/*.csv', partitions: 3}}\n    checkpoint: memory\n"
        "  b:\n    filter: Close > 10\n    checkpoint: memory\n"
        "  c:\n    aggregate: {by: Symbol, n: count(*)}\n"
    )
    graphs = list[set[str]]()
    made = load(config)
    original = run._executor

    def watched(*args: Any) -> Any:
        executor = original(*args)
        compute = executor.compute

        def watch(graph: Any, keys: Any, progress: Any) -> Any:
            graphs.append({key[0].rsplit("-", 1)[0] for key in graph})
            return compute(graph, keys, progress)

        executor.compute = watch  # type: ignore[method-assign]
        return executor

    monkeypatch.setattr(run, "_executor", watched)
    table = made.run().outputs["c"].head
    assert table.height == 7
    assert "a" not in graphs[-1]
    assert "b" in graphs[-1]


def test_a_memory_limit_that_no_worker_starts_in_is_refused(pipeline: Callable[..., Pipeline]) -> None:
    """Workers were ended and started without end, before their first task."""
    with pytest.raises(ConfigError, match="no worker process starts in 1MiB"):
        pipeline("  STOCKS\nexecutor: {kind: local, memory_limit: 1MiB}\n").run()
