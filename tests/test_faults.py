"""What may pass is tried again, what takes too long is ended, what dies is named."""

from __future__ import annotations

import errno
import http.client
import json
import os
import signal
import socket
import time
from collections import deque
from collections.abc import Callable
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from pipelines import DataError, MachineError, load
from pipelines.errors import machine_error, may_pass
from pipelines.lower import Attempt
from pipelines.run import execute

COUNTED = """
import numpy, pathlib, time, urllib.error
import polars as pl

def counted(item: str, kind: str, times: int, folder: str) -> int:
    seen = pathlib.Path(folder, item)
    tries = int(seen.read_text()) + 1 if seen.exists() else 1
    seen.write_text(str(tries))
    if tries <= times:
        raise {"connection": ConnectionResetError(104, "reset"), "value": ValueError("bad"), "gone": FileNotFoundError(2, "gone"),
               "url": urllib.error.URLError(ConnectionRefusedError(111, "refused")),
               "busy": urllib.error.HTTPError("x", 503, "busy", None, None), "404": urllib.error.HTTPError("x", 404, "no", None, None)}[kind]
    return tries

def sleeps(seconds: float) -> float:
    time.sleep(seconds)
    return seconds

def flaky(rng, n, folder):
    seen = pathlib.Path(folder, "seen")
    if not seen.exists():
        seen.touch()
        raise ConnectionResetError(104, "reset")
    return rng.random(n)

def once(table: pl.DataFrame, folder: str) -> pl.DataFrame:
    flaky(numpy.random.default_rng(), 1, folder)
    return table

def texts(rng, n):
    raise ValueError("no")

def paths(rng, n):
    time.sleep(6)
    return rng.random(n)

from sklearn.dummy import DummyClassifier

class Slow(DummyClassifier):
    def __init__(self, seconds=0.0):
        super().__init__()
        self.seconds = seconds

    def fit(self, x, y):
        time.sleep(self.seconds)
        return super().fit(x, y)
"""


def run(project: Path, steps: str, executor: str = "serial") -> tuple[Any, list[str]]:
    (project / "code.py").unlink(missing_ok=True)
    (project / "mine.py").write_text(COUNTED)
    (project / "c.yaml").write_text(f"name: c\nsteps:\n{steps}")
    said = list[str]()
    return load(project / "c.yaml").run(executor, say=said.append), said


@pytest.mark.parametrize("executor", ["serial", "threads", "local", "processes"])
@pytest.mark.parametrize(
    ("kind", "passes"),
    [("connection", True), ("url", True), ("busy", True), ("404", False), ("value", False), ("gone", False)],
)
def test_what_may_pass_is_tried_again(project: Path, kind: str, passes: bool, executor: str) -> None:
    arguments = f"{{kind: '{kind}', times: 2, folder: '{project}'}}"
    result, _ = run(
        project, f'  m: {{map: {{function: "mine:counted", items: [a, b], arguments: {arguments}}}}}\n', executor
    )
    rows = result.outputs["m"].head.rows()
    assert [row[1] for row in rows] == ([3, 3] if passes else [None, None])
    assert all((row[2] is None) == passes for row in rows)
    record = json.loads((result.folder / "record.json").read_text())
    assert len(record["retries"]) == (4 if passes else 0)
    assert (project / "a").read_text() == ("3" if passes else "1")


def test_retries_are_as_many_as_one_says(project: Path) -> None:
    arguments = f"{{kind: connection, times: 2, folder: '{project}'}}"
    steps = f'  m: {{map: {{function: "mine:counted", items: [a], arguments: {arguments}}}, retries: 1}}\n'
    result, _ = run(project, steps)
    assert result.outputs["m"].head["error"].to_list() == ["ConnectionResetError: [Errno 104] reset"]


def test_what_passes_and_what_does_not() -> None:
    class Answer:
        status_code = 503

    class HTTPError(OSError):
        """As of requests."""

        response = Answer()

    told = RuntimeError("no answer")
    told.__cause__ = ConnectionResetError()
    for passing in (
        TimeoutError(),
        HTTPError(),
        http.client.IncompleteRead(b""),
        told,
        socket.gaierror(socket.EAI_AGAIN, "?"),
    ):
        assert may_pass(passing)
    Answer.status_code = 404
    assert not may_pass(HTTPError())
    assert not may_pass(SystemExit(503))
    assert not may_pass(socket.gaierror(socket.EAI_NONAME, "?"))
    assert may_pass(OSError(5, "Input/output error"))
    assert not may_pass(OSError(28, "No space left on device"))
    assert not may_pass(PermissionError(13, "no"))
    assert not may_pass(MachineError())


@pytest.mark.parametrize("ending", ["csv", "parquet"])
@pytest.mark.parametrize("often", [1, 99])
def test_a_disk_that_does_not_answer_is_not_bad_data(
    project: Path, monkeypatch: pytest.MonkeyPatch, ending: str, often: int
) -> None:
    """Polars has the system's number in its text only."""
    table, failures, was = pl.DataFrame({"x": [1, 2]}), list[str](), pl.LazyFrame.collect
    table.write_csv(project / "a.csv") if ending == "csv" else table.write_parquet(project / "a.parquet")

    def collect(frame: pl.LazyFrame, **options: Any) -> Any:
        if "SCAN" in frame.explain(optimized=False) and len(failures) < often:
            failures.append("one")
            raise OSError(f"Stale file handle (os error {errno.ESTALE}): a.{ending}")
        return was(frame, **options)

    monkeypatch.setattr("pipelines.events.back_off", lambda tries: None)
    (project / "c.yaml").write_text(f"steps:\n  r: {{read: a.{ending}}}\n  s: {{derive: {{y: x + 1}}, from: r}}\n")
    plan = load(project / "c.yaml").plan()
    monkeypatch.setattr(pl.LazyFrame, "collect", collect)
    if often == 1:
        result = execute(plan, "serial")
        assert result.outputs["s"].rows == 2
        assert len(json.loads((result.folder / "record.json").read_text())["retries"]) == 1
    else:
        with pytest.raises(MachineError, match=r"cannot read a.*Stale file handle(.|\n)*see whether the disk or mount"):
            execute(plan, "serial")
        assert len(failures) == 4
        (record,) = (project / "runs").glob("*/record.json")
        assert len(json.loads(record.read_text())["retries"]) == 3  # in the record of a run that failed, too


def test_a_disk_that_does_not_answer_while_one_plans(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(path: str) -> None:
        raise OSError(errno.ESTALE, "Stale file handle")

    pl.DataFrame({"x": [1, 2]}).write_parquet(project / "a.parquet")
    monkeypatch.setattr("pyarrow.parquet.ParquetFile", gone)
    with pytest.raises(MachineError, match=r"cannot read a\.parquet: Stale file handle"):
        run(project, "  r: {read: a.parquet}\n")


@pytest.mark.parametrize("step", [
    "read: {path: data/*/a.csv}", "read: {path: data/**/*.csv}", "read: {path: data}", "read: {path: data/two/a.csv}",
    "map: {files: data/*/a.csv, function: 'mine:size'}",
])  # fmt: skip
@pytest.mark.parametrize("lost", ["two", "two/a.csv"])
def test_files_that_cannot_be_looked_at_are_not_left_out(
    project: Path, monkeypatch: pytest.MonkeyPatch, step: str, lost: str
) -> None:
    """As of a mount that is lost: glob and os.walk pass over them, and the answer would be that of the other files."""
    (project / "mine.py").write_text("def size(path: str) -> int:\n    return 1\n")
    for name in ("one", "two"):
        (project / "data" / name).mkdir(parents=True)
        (project / "data" / name / "a.csv").write_text("x\n1\n")
    gone = str(project / "data" / lost)

    def losing(was: Callable[..., Any]) -> Callable[..., Any]:
        def call(path: Any = ".", **options: Any) -> Any:
            if str(path).startswith(gone):
                raise OSError(errno.EIO, "Input/output error", path)
            return was(path, **options)

        return call

    for name in ("stat", "listdir", "scandir"):
        monkeypatch.setattr(os, name, losing(getattr(os, name)))
    said = r"c\.yaml:3:.*: cannot read data/two.*: Input/output error(.|\n)*see whether the disk or mount"
    with pytest.raises(MachineError, match=said):
        run(project, f"  s: {{{step}}}\n")


def test_a_refusal_without_a_number_is_one_of_access() -> None:
    """As s3fs says it of wrong credentials."""
    assert "give this user access" in str(machine_error("cannot read", PermissionError("no such key"), "-"))


def test_an_error_without_words_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.events.back_off", lambda tries: None)
    tries, heard = list[int](), deque[dict[str, Any]]()
    monkeypatch.setattr("pipelines.events.HEARD", ContextVar("heard", default=heard))

    def once() -> pl.DataFrame:
        tries.append(1)
        if len(tries) == 1:
            raise TimeoutError
        return pl.DataFrame({"x": [1]})

    assert len(Attempt(once, "stage", 3)()) == 1
    assert [told.get("error") for told in heard] == ["TimeoutError", None]


def test_a_python_step_is_tried_again(project: Path) -> None:
    (project / "a.csv").write_text("x\n1\n2\n")
    step = f"function: 'mine:once', like: input, arguments: {{folder: '{project}'}}"
    for by in ("", "by: [], ", "by: x, "):  # with the reading of the file, on whole tables, on groups
        (project / "seen").unlink(missing_ok=True)
        result, _ = run(project, f"  a: {{read: a.csv}}\n  p: {{python: {{{by}{step}}}}}\n")
        assert result.outputs["p"].rows == 2
        assert len(json.loads((result.folder / "record.json").read_text())["retries"]) == 1


@pytest.mark.parametrize("executor", ["serial", "threads", "local", "processes"])
def test_a_step_that_takes_too_long_ends_the_run(project: Path, executor: str) -> None:
    steps = '  m: {map: {function: "mine:sleeps", items: [0.1, 20.0]}, timeout: 1 s}\n  o: {write: o.csv}\n'
    began = time.monotonic()
    heard = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as in a shell's background
    try:
        with pytest.raises(MachineError, match="the step 'm' took longer than its timeout of 1 s"):
            run(project, steps, executor)
    finally:
        signal.signal(signal.SIGINT, heard)
    assert time.monotonic() - began < 15
    assert not (project / "o.csv").exists()
    run(project, steps.replace("20.0", "0.2").replace("1 s", "5 min"), executor)


@pytest.mark.parametrize("executor", ["serial", "threads", "local"])
@pytest.mark.parametrize(
    "step",
    [
        "{simulate: {paths: 10, function: 'mine:paths'}, timeout: 1 s, checkpoint: disk}",
        "{from: t, search: {estimator: mine.Slow, target: y, grid: {seconds: [6.0, 6.1]}}, timeout: 1 s}",
    ],
    ids=["simulate", "search"],
)
def test_a_timeout_holds_for_all_tasks_of_a_step(project: Path, step: str, executor: str) -> None:
    """Of a step that makes several the last, whose name is the step's, took no time."""
    pl.DataFrame({"x": range(40), "y": [0, 1] * 20}).write_csv(project / "t.csv")
    began = time.monotonic()
    with pytest.raises(MachineError, match="the step 'm' took longer than its timeout of 1 s"):
        run(project, f"  t: {{read: t.csv}}\n  m: {step}\n", executor)
    assert time.monotonic() - began < 15


@pytest.mark.parametrize("executor", ["serial", "threads", "local"])
def test_what_is_in_the_store_does_not_count_for_a_timeout(project: Path, executor: str) -> None:
    steps = '  m: {{map: {{function: "mine:sleeps", items: {}}}, timeout: {}, checkpoint: disk}}\n'
    run(project, steps.format("[0.01, 0.02, 0.03, 0.04]", "1 min"), executor)
    with pytest.raises(MachineError, match="the step 'm' took longer than its timeout of 1 s"):
        run(project, steps.format("[2.5, 2.6, 0.01, 0.02, 0.03, 0.04]", "1 s"), executor)


@pytest.mark.parametrize("executor", ["serial", "local"])
def test_tasks_of_a_steps_own_are_tried_again_and_say_where_they_are(project: Path, executor: str) -> None:
    step = "{{simulate: {{paths: 10, function: 'mine:{}'{}}}}}"
    flaky = step.format("flaky", f", arguments: {{folder: '{project}'}}")
    result, _ = run(project, f"  m: {flaky}\n", executor)
    (retry,) = json.loads((result.folder / "record.json").read_text())["retries"]
    assert retry["stage"] == "m"
    with pytest.raises(DataError, match=r"c.yaml:3:\d+: mine:texts failed: ValueError: no"):
        run(project, f"  m: {step.format('texts', '')}\n", executor)


@pytest.mark.faults
def test_want_of_memory_is_not_tried_again_without_smaller_partitions(project: Path) -> None:
    (project / "mine.py").write_text(
        "def greedy(x: int) -> int:\n    return len([b'x' * (64 << 20) for _ in range(100)])\n"
    )
    top = "executor: {kind: local, workers: 1, threads: 1, memory_limit: 500MiB}\n"
    (project / "c.yaml").write_text(f"name: c\n{top}steps:\n  m: {{map: {{function: 'mine:greedy', items: [1]}}}}\n")
    said = list[str]()
    with pytest.raises(MachineError, match="ran out of memory in m"):
        load(project / "c.yaml").run(say=said.append)
    assert not any("tried again" in text for text in said), said


@pytest.mark.faults
def test_want_of_memory_is_named_and_tried_in_smaller_partitions(project: Path) -> None:
    rows = 10_000_000
    pl.DataFrame({"k": range(rows), "x": [f"text {i % 977} {i}" for i in range(rows)]}).write_csv(project / "a.csv")
    steps = """
  a: {read: {path: a.csv, partitions: 1}}
  s: {sort: [x, k]}
"""
    top = "executor: {kind: local, workers: 1, threads: 1, memory_limit: 700MiB}\n"
    (project / "c.yaml").write_text(f"name: c\n{top}steps:{steps}")
    said = list[str]()
    result = load(project / "c.yaml").run(say=said.append)
    assert any("ran out of memory in a" in text and "smaller partitions" in text for text in said), said
    expected = load(project / "c.yaml").run("serial").outputs["s"].head
    assert result.outputs["s"].head.equals(expected)
    assert result.outputs["s"].rows == rows
    record = json.loads((result.folder / "record.json").read_text())
    assert record["losses"]
    assert record["losses"][0]["why"] == "it needed more memory than it may have"
    part = "  p: {from: a, python: {function: 'mine:all_of', like: input}}\n"
    (project / "mine.py").write_text(
        "import polars as pl\ndef all_of(frame: pl.DataFrame):\n    return pl.concat([frame] * 8).head(5)\n"
    )
    (project / "c.yaml").write_text(f"name: c\n{top}steps:{steps}{part}")
    with pytest.raises(MachineError, match="ran out of memory in a") as caught:
        load(project / "c.yaml").run()
    assert "executor.memory_limit" in caught.value.issues[0].remedy
    assert "KilledWorker" not in str(caught.value)
