"""Processes that die at any moment: the next run does what was not finished, and gives the same bytes.

`make test-faults` kills a hundred times; `KILLS=12` less often.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from pipelines import load
from pipelines.checkpoint import FORMAT
from pipelines.cli import main
from pipelines.history import past
from tests.conftest import ROOT

pytestmark = [pytest.mark.faults, pytest.mark.timeout(3600)]
KILLS = int(os.environ.get("KILLS", "100"))
SLOW = """
import time
import polars as pl

def slow(frame: pl.DataFrame):
    time.sleep(0.05)
    return frame

def square(i: int) -> int:
    time.sleep(0.02)
    return i * i
"""
CONFIGS = {
    "stocks": f"""
steps:
  prices: {{read: {{path: "{ROOT}/data/stocks/*.csv", partitions: 12}}}}
  slow: {{python: {{function: "slow:slow", like: input}}, checkpoint: disk}}
  by_date: {{aggregate: {{by: [Date], m: avg(Open), n: count(*)}}, checkpoint: disk}}
  best: {{from: slow, top: {{by: Symbol, order_by: [Close, Date], descending: [Close], n: 3}}, checkpoint: disk}}
  ranked: {{from: slow, window: {{partition_by: [Symbol], order_by: [Date], rank: rank()}}}}
  one: {{from: by_date, write: "${{run}}/by_date.parquet"}}
  two: {{from: best, write: "${{run}}/best.csv"}}
  three: {{from: ranked, write: "${{run}}/ranked.parquet"}}
""",
    "squares": """
steps:
  squares: {map: {function: "slow:square", range: [1, 120]}, checkpoint: disk}
  sums: {aggregate: {total: sum(result), wrong: count(error)}, checkpoint: disk}
  one: {from: squares, write: "${run}/squares.csv"}
  two: {from: sums, write: "${run}/sums.csv"}
""",
}
ATTACKS = ("driver threads", "driver serial", "driver processes", "driver local", "worker processes", "scheduler address", "worker address")  # fmt: skip


@pytest.fixture(scope="module")
def projects(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, dict[str, str]]]:
    """Config: its project, and the hashes of what an undisturbed run writes."""
    found = {}
    for name, text in CONFIGS.items():
        project = tmp_path_factory.mktemp(name)
        (project / "runs").mkdir()
        (project / "slow.py").write_text(SLOW)
        (project / "c.yaml").write_text(text)
        result = load(project / "c.yaml").run("threads", fresh=True)
        found[name] = project, hashes(project, result.folder)
    return found


def hashes(project: Path, folder: Path) -> dict[str, str]:
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.iterdir())
        if path.suffix in (".csv", ".parquet")
    }


def manifests(project: Path) -> dict[str, str]:
    """Of all partitions that the store names: what is in their files."""
    return {path.stem: json.loads(path.read_text())["checksum"] for path in (project / "runs/.store" / FORMAT).glob("*/*.json") if len(path.parent.name) == 16}  # fmt: skip


class Dask:
    """A scheduler and two workers, as processes of their own."""

    def __init__(self, folder: Path) -> None:
        self.address = f"tcp://127.0.0.1:{psutil.Process().pid % 20000 + random.randint(20000, 40000)}"
        command = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--port", self.address.rsplit(":", 1)[1], "--no-dashboard", "--host", "127.0.0.1"]  # fmt: skip
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": folder}
        self.scheduler = subprocess.Popen(command, **quiet)  # type: ignore[call-overload]
        command = [sys.executable, "-m", "distributed.cli.dask_worker", self.address, "--nworkers", "2", "--nthreads", "1", "--no-dashboard", "--death-timeout", "20"]  # fmt: skip
        self.workers = subprocess.Popen(command, **quiet)  # type: ignore[call-overload]

    def close(self) -> None:
        for process in (self.workers, self.scheduler):
            for child in psutil.Process(process.pid).children(recursive=True) if process.poll() is None else ():
                child.kill()
            process.kill()
            process.wait()


@pytest.fixture
def dask(tmp_path: Path) -> Iterator[Dask]:
    cluster = Dask(tmp_path)
    yield cluster
    cluster.close()


def start(project: Path, executor: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "pipelines", "run", "c.yaml", "--executor", executor]
    return subprocess.Popen(command, cwd=project, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def victim(attack: str, driver: subprocess.Popen[str], dask: Dask) -> int | None:
    """The process to kill: none when it is not there (yet, or any more)."""
    who, _, executor = attack.partition(" ")
    if who == "driver":
        return driver.pid
    if who == "scheduler":
        return dask.scheduler.pid
    above = dask.workers if executor == "address" else driver
    children = psutil.Process(above.pid).children(recursive=True)
    workers = [child.pid for child in children if "spawn_main" in " ".join(child.cmdline())]
    return random.choice(workers) if workers else None


@pytest.mark.parametrize("number", range(KILLS))
def test_whatever_dies_the_next_run_ends_with_the_same_bytes(
    number: int, projects: dict[str, tuple[Path, dict[str, str]]], dask: Dask
) -> None:
    random.seed(number)
    attack = ATTACKS[number % len(ATTACKS)]
    project, expected = projects[("stocks", "squares")[number // len(ATTACKS) % 2]]
    shutil.rmtree(project / "runs/.store", ignore_errors=True)
    executor = attack.partition(" ")[2]
    first = start(project, dask.address if executor == "address" else executor)
    deadline, moment = time.monotonic() + 20, random.uniform(0.3, 4.0)
    time.sleep(moment)
    while first.poll() is None and time.monotonic() < deadline:
        try:
            if pid := victim(attack, first, dask):
                os.kill(pid, signal.SIGKILL)
                break
        except (psutil.Error, ProcessLookupError):
            pass
        time.sleep(0.05)
    killed = time.monotonic()
    said = first.communicate(timeout=90)[1]
    assert first.returncode in (0, 4, -signal.SIGKILL), said
    if attack == "scheduler address":
        assert time.monotonic() - killed < 30  # seconds, on a machine with nothing else to do
        assert first.returncode == 0 or "the scheduler is gone" in said or "no scheduler answers" in said, said
    assert "Traceback" not in said
    run = past(project)[-1]
    assert run.state in ("done", "failed", "killed")
    if first.returncode == 0:
        assert hashes(project, run.folder) == expected, said
    kept = manifests(project)
    result = load(project / "c.yaml").run(random.choice(("serial", "threads", "processes")))
    assert hashes(project, result.folder) == expected
    facts = json.loads((result.folder / "record.json").read_text())
    assert all(manifests(project)[key] == content for key, content in kept.items())
    made = sum(each["partitions"] for each in facts["kept"].values())
    assert made == len(manifests(project).keys() - kept.keys())  # what a manifest named was not made again


def test_the_record_of_a_killed_run(projects: dict[str, tuple[Path, dict[str, str]]], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    project, _ = projects["stocks"]
    shutil.rmtree(project / "runs/.store", ignore_errors=True)
    process = start(project, "serial")
    while len(manifests(project)) < 12:
        time.sleep(0.02)
    assert past(project)[-1].state == "running"
    process.kill()
    process.communicate()
    killed = past(project)[-1]
    assert killed.state == "killed"
    assert killed.facts["exit_code"] is None
    monkeypatch.chdir(project)
    capsys.readouterr()
    assert main(["runs", "ls"]) == 0
    assert "killed" in capsys.readouterr().out
    assert main(["runs", "show"]) == 0
    said = load(project / "c.yaml").run("threads")
    facts = json.loads((said.folder / "record.json").read_text())
    assert facts["checkpoints"]["slow"]["reused"] >= 3
    assert main(["runs", "compare", killed.folder.name, "last"]) == 0
    assert "reused" in facts["checkpoints"]["slow"]["did"]
