"""`race`: answers compared, costs measured, and a clean end however it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from pathlib import Path

import psutil
import pytest

from pipelines import DataError
from pipelines.cli import main
from pipelines.race import RACED, Lane, Lap, Race, race, svg, text
from tests.conftest import ROOT


def config(project: Path, body: str, returns: str = "int64", write: str = "${run}/out.parquet", more: str = "") -> Path:
    """A map of a function with this body over four items."""
    (project / "raced_of_test.py").write_text(f"import os, time\ndef f(n, x=0):\n    {body}\n")
    path = project / "raced.yaml"
    path.write_text(
        f"params: {{x: 1}}\nsteps:\n  it:\n    map: {{function: 'raced_of_test:f', items: [1, 2, 3, 4], "
        f"arguments: {{x: '${{x}}'}}, returns: {returns}{more}}}\n  out:\n    write: {write}\n"
    )
    return path


def test_a_race_on_every_executor(project: Path) -> None:
    path = config(project, "print('hello'); return n * x")
    path.write_text(path.read_text() + "  total:\n    from: it\n    aggregate: {total: sum(result)}\n")
    said = list[str]()
    (project / "over.yaml").write_text("steps: {total: {aggregate: {sum_: sum(result)}}}\n")
    found = race(path, {"x": "3"}, [project / "over.yaml"], repeat=1, say=said.append)
    assert tuple(lane.executor for lane in found.lanes) == RACED
    assert [line.split(":")[0] for line in said] == list(RACED)
    assert found.compared[0].startswith("out: 4 rows, ")
    assert found.compared[1] == "total: 1 row"
    for lane in found.lanes:
        assert lane.startup > 0
        assert lane.work > 0
        assert lane.startup + lane.work <= lane.wall
        assert 20e6 < lane.memory < 2e9
    assert {lane.executor: lane.slots for lane in found.lanes}["serial"] == 1
    assert found.lanes[-1].memory > found.lanes[0].memory  # several processes
    assert list((project / "runs").iterdir()) == []


def test_the_command(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = config(project, "return n * x")
    chart = project / "chart.svg"
    assert main(["race", str(path), "--executors", "threads,serial", "--repeat", "2", "-o", str(chart)]) == 0
    shown = capsys.readouterr()
    lines = shown.out.splitlines()
    assert lines[0].split() == [
        "executor",
        "tasks",
        "at",
        "once",
        "wall",
        "start-up",
        "work",
        "speed-up",
        "efficiency",
        "memory",
    ]
    assert [line.split()[0] for line in lines[1:3]] == ["threads", "serial"]
    assert " 1.00 " in lines[2]
    assert "The answers are equal: out: 4 rows" in shown.out
    assert "serial, run 2 of 2: " in shown.err
    assert "start-up" in "".join(ET.parse(chart).getroot().itertext())


@pytest.mark.parametrize(
    ("body", "where"),
    [
        ("return os.getpid()", "row 1, column 'result': "),
        ("return time.time_ns() if n == 3 else n", "row 3, column 'result': "),
    ],
)
@pytest.mark.parametrize("write", ["${run}/out.parquet", "${run}/out.csv"])
def test_answers_that_differ_are_an_error(
    project: Path, body: str, where: str, write: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["race", str(config(project, body, write=write)), "--executors", "serial,threads"]) == 3
    said = capsys.readouterr()
    assert said.out == ""
    assert (
        f"the answers differ: 'out' on threads, run 1 of 3 is not what it is on serial, run 1 of 3: {where}" in said.err
    )
    paths = [Path(line.split()[-1]) for line in said.err.splitlines() if "compare " in line or "and     " in line]
    assert len(paths) == 2
    assert all(path.exists() for path in paths)  # to look at
    assert len(list((project / "runs").iterdir())) == 2


def test_tables_that_are_only_shown_are_compared_too(project: Path) -> None:
    path = config(project, "return n + os.getpid() * (n == 2)")
    path.write_text(path.read_text().split("  out:")[0])
    with pytest.raises(DataError, match=r"'it' on serial, run 2 of 2 .*: row 2, column 'result'"):
        race(path, executors=["serial"], repeat=2)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--executors", "serial,thread"], 2, "unknown executor 'thread'\n    did you mean 'threads'?"),
        (["--repeat", "0"], 2, "--repeat 0: there is nothing to run"),
        (["-p", "y=1"], 2, "unknown parameter 'y'"),
        (["-o", "no/such/folder.svg"], 4, "cannot write no/such/folder.svg"),
    ],
)
def test_mistakes_end_it_before_anything_runs(
    project: Path, arguments: list[str], code: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["race", str(config(project, "return n")), *arguments]) == code
    assert words in capsys.readouterr().err
    assert list((project / "runs").iterdir()) == []


def test_a_path_that_every_run_writes_needs_overwrite(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["race", str(config(project, "return n", write="out.csv")), "--executors", "serial"]) == 2
    assert "raced.yaml:5:3: the step 'out' writes to one path in every run" in capsys.readouterr().err
    path = config(project, "return n", write="{path: out, format: csv, per_partition: true, overwrite: true}")
    assert race(path, executors=["serial", "threads"], repeat=1).compared[0].startswith("out: 4 rows, ")


@pytest.mark.parametrize(
    ("body", "code", "words"),
    [
        ("return 1 // (n - 2)", 3, "on serial: raced_of_test:f failed on the item 2: ZeroDivisionError"),
        ("os._exit(9)", 4, "the run on serial ended with exit code 9"),
        ("os.kill(os.getpid(), 9)", 4, "the run on serial ended with signal 9"),
    ],
)
def test_a_run_that_fails_ends_the_race(
    project: Path, body: str, code: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["race", str(config(project, body, more=", on_error: stop")), "--executors", "serial,threads"]) == code
    said = capsys.readouterr().err
    assert words in said
    assert "Traceback" not in said


def _started(
    project: Path, executor: str, ignoring: bool = False
) -> tuple[subprocess.Popen[str], list[psutil.Process]]:
    """A race whose first run is at work, and the processes that it has started."""
    marks = project / "marks"
    marks.mkdir()
    path = config(project, f"open('{marks}/' + str(n), 'w').close(); time.sleep(60); return n")
    command = [sys.executable, "-m", "pipelines", "race", str(path), "--executors", executor]
    if ignoring:
        command = ["sh", "-c", 'trap "" INT; exec "$@"', "sh", *command]
    started = subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, start_new_session=True, cwd=ROOT,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # noqa: PLW1509 - ignored below background jobs
    )  # fmt: skip
    end = time.monotonic() + 60
    while not list(marks.iterdir()):
        assert time.monotonic() < end
        time.sleep(0.05)
    return started, psutil.Process(started.pid).children(recursive=True)


@pytest.mark.parametrize("executor", ["serial", "local"])
def test_ctrl_c_ends_all_of_it(project: Path, executor: str) -> None:
    started, children = _started(project, executor)
    os.killpg(started.pid, signal.SIGINT)
    _, said = started.communicate(timeout=60)
    assert started.returncode == 130
    assert "Traceback" not in said
    assert "stopped" in said
    _, alive = psutil.wait_procs(children, timeout=10)
    assert not alive
    assert [json.loads(p.read_text())["exit_code"] for p in (project / "runs").glob("*/record.json")] == [130]


@pytest.mark.parametrize("ignoring", [False, True], ids=["", "in the background of a shell"])
def test_no_run_outlives_a_race_that_was_killed(project: Path, ignoring: bool) -> None:
    started, children = _started(project, "serial", ignoring)
    assert children
    started.kill()
    started.communicate()
    _, alive = psutil.wait_procs(children, timeout=30)
    assert not alive


def test_sleepers_scale_on_threads() -> None:
    found = race(ROOT / "configs/sleepers.yaml", {"seconds": 0.5}, executors=["serial", "threads"], repeat=1)
    serial, threads = found.lanes
    assert serial.work >= 4
    assert serial.work / threads.work > 3


def test_medians_and_ratios() -> None:
    def lap(executor: str, slots: int, wall: float) -> Lap:
        return Lap(executor, f"{executor} & co", slots, wall, wall / 4, wall / 2, 10**6)

    lanes = tuple(Lane(tuple(lap(e, slots, wall) for wall in walls)) for e, slots, walls in [("threads", 4, (2, 9, 4)), ("serial", 1, (8, 8.5, 1))])  # fmt: skip
    found = Race("a<b", lanes, ("out: 1 row",), 2)
    assert found.base.executor == "serial"
    assert (lanes[0].wall, lanes[0].startup, lanes[0].work, lanes[0].rest) == (4, 1, 2, 1)
    assert found.speedup(lanes[0]) == 2
    assert found.efficiency(lanes[0]) == 0.5
    assert "threads               4  4.00 s    1.00 s  2.00 s      2.00        50 %  1.0 MB" in text(found)
    ET.fromstring(svg(found))
