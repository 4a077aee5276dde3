"""What a run leaves of itself, and how it is read again."""

from __future__ import annotations

import errno
import json
import math
import os
import resource
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml
from dask.callbacks import Callback

from pipelines import MachineError, load
from pipelines.cli import main
from pipelines.errors import Issue
from pipelines.history import past
from pipelines.learning.scores import Evaluation
from pipelines.record import Log, Record, recorded
from tests.test_checkpoints import STEPS, config, data, run


def test_a_record_that_cannot_be_written(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    was = Record.write

    def write(record: Record) -> None:
        if record.facts["state"] == "done":
            raise OSError(errno.ENOSPC, "No space left on device")
        was(record)

    path = config(data(project), STEPS.replace("${run}/out", f"{project}/out"))
    monkeypatch.setattr(Record, "write", write)
    with pytest.raises(
        MachineError, match=r"the outputs are written, but the record in .* No space left(.|\n)*make room"
    ):
        run(path)
    assert (project / "out.parquet").exists()
    (found,) = past(project)
    assert (found.state, found.facts["exit_code"]) == ("failed", 4)


def test_a_run_is_alive_though_its_record_cannot_be_written(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heard = threading.Event()
    monkeypatch.setattr("pipelines.record._LOOK_SECONDS", 0.01)
    with recorded(load(config(data(project))).spec, Log(print)) as record:
        record.beats.append(heard.set)
        monkeypatch.setattr(record, "write", lambda: 1 / 0)
        assert heard.wait(10)
        monkeypatch.undo()


@pytest.mark.parametrize("executor", ["serial", "threads"])
def test_each_of_several_runs_in_a_process_hears_its_own_tasks(project: Path, executor: str) -> None:
    (project / "t.csv").write_text("a\n" + "".join(f"{i}\n" for i in range(50_000)))
    path = config(project, "  t: {read: {path: t.csv, partitions: 40}}\n  s: {derive: {b: a + 1}}\n")
    with ThreadPoolExecutor(3) as pool:  # of one config, so that their tasks have the same names
        results = [each.result() for each in [pool.submit(run, path, executor) for _ in range(3)]]
    for result, said in results:
        (stage,) = json.loads((result.folder / "record.json").read_text())["stages"]
        assert (stage["rows"], stage["tasks"], stage["partitions"]) == (50_000, 40, 40)
        assert [text for text in said if "/40 done" in text] == [text for text in said if "40/40 done" in text]


@pytest.mark.parametrize("outer", ["serial", "threads", "local"])
@pytest.mark.parametrize("inner", ["serial", "threads", "local"])
def test_a_run_that_a_task_of_another_makes(project: Path, outer: str, inner: str) -> None:
    (project / "t.csv").write_text("a\n" + "".join(f"{i}\n" for i in range(1000)))
    (project / "inner.yaml").write_text(
        "steps:\n  t: {read: {path: t.csv, partitions: 4}}\n  s: {derive: {b: a + 1}, checkpoint: disk}\n"
    )
    (project / "nested.py").write_text(
        "import pipelines\ndef go(i: int, path: str, inner: str) -> str:\n    return str(pipelines.load(path).run(inner).folder)\n"
    )
    steps = f"  m: {{map: {{function: 'nested:go', items: [1], arguments: {{path: '{project}/inner.yaml', inner: {inner}}}, on_error: stop}}}}\n"
    result, _ = run(config(project, steps), outer)
    record = json.loads((result.folder / "record.json").read_text())
    within = json.loads((Path(result.outputs["m"].head["result"][0]) / "record.json").read_text())
    assert (record["kept"], [stage["rows"] for stage in record["stages"]]) == ({}, [1])
    assert within["kept"]["s"]["partitions"] == 4
    assert [stage["rows"] for stage in within["stages"]] == [1000]


@pytest.mark.parametrize("executor", ["serial", "threads"])
def test_callbacks_of_the_users_hear_of_runs_and_not_of_what_tasks_compute(project: Path, executor: str) -> None:
    (project / "nested.py").write_text(
        "import dask.array\ndef go(i: int) -> float:\n    return float(dask.array.ones(50, chunks=10).sum().compute())\n"
    )
    path = config(project, "  m: {map: {function: 'nested:go', range: [1, 20], on_error: stop}}\n")
    begun = list[Any]()
    with Callback(start=begun.append) as mine, ThreadPoolExecutor(2) as pool:
        for each in [pool.submit(run, path, executor) for _ in range(4)]:
            each.result()
        assert len(begun) == 4
        assert Callback.active == {mine._callback}
    assert not Callback.active


def test_locks_that_cannot_be_made(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (project / f"pipelines-{os.getuid()}").write_text("somebody's")
    monkeypatch.setattr("tempfile.tempdir", str(project))
    with pytest.raises(MachineError, match=r"cannot lock .*out\.parquet in(.|\n)*set TMPDIR"):
        run(config(data(project), STEPS.replace("${run}/out", f"{project}/out")))


def test_what_cannot_be_tidied_does_not_hide_the_error(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def removed(left: Path) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    def commit(*given: Any) -> None:
        raise MachineError(Issue("the disk is lost"))

    monkeypatch.setattr("pipelines.run._removed", removed)
    monkeypatch.setattr("pipelines.run._commit", commit)
    with pytest.raises(MachineError, match="the disk is lost"):
        run(config(data(project)))


def test_a_record_says_all(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINE", "hush-hush")
    steps = (
        STEPS.replace("x > 10", "'x > ${least}'")
        + '  m: {map: {function: "mine:f", items: [1], arguments: {key: "${secret:MINE}"}}}\n'
    )
    (project / "mine.py").write_text("def f(i: int, key: str) -> str:\n    return key[:4]\n")
    path = config(data(project), steps, "params: {least: 10}\n")
    result, _ = run(path, "threads")
    facts = json.loads((result.folder / "record.json").read_text())
    assert (facts["state"], facts["exit_code"], facts["params"]) == ("done", 0, {"least": 10})
    assert facts["versions"]["polars"] in facts["versions"]["kernel"]
    assert facts["machine"]["processors"] >= 1
    assert facts["checkpoints"]["by_k"]["did"] == "computed: nothing is stored yet"
    assert facts["kept"]["big"]["partitions"] == 1
    assert all(len(out["sha256"]) == 64 for name, out in facts["outputs"].items() if name != "m")
    by_steps = {tuple(stage["steps"]): stage for stage in facts["stages"]}
    assert by_steps[("a", "big")]["rows"] > by_steps[("by_k",)]["rows"] >= 23
    assert by_steps[("a", "big")]["bytes"] > 0
    assert [step["step"] for step in facts["plan"]["steps"]][:2] == ["a", "big"]
    resolved = yaml.safe_load((result.folder / "config.yaml").read_text())
    assert resolved["steps"]["big"] == {"filter": "x > 10", "from": "a", "checkpoint": "disk"}
    log = [json.loads(line) for line in (result.folder / "log.jsonl").read_text().splitlines()]
    assert any(line["message"].startswith("by_k: computed") and line["step"] == "by_k" for line in log)
    assert not any(
        "hush" in file.read_text() for file in result.folder.iterdir() if file.suffix in (".json", ".jsonl", ".yaml")
    )
    again = project / "again"
    again.mkdir()
    resolved["steps"].pop("m")
    (project / "resolved.yaml").write_text(yaml.safe_dump(resolved, sort_keys=False))
    assert load(project / "resolved.yaml").run("serial").outputs["groups"].head.equals(result.outputs["groups"].head)


def test_runs_are_listed_shown_and_compared(project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    path = config(data(project))
    monkeypatch.chdir(project)
    assert main(["runs", "ls"]) == 0
    assert "no runs" in capsys.readouterr().out
    one, _ = run(path)
    two, _ = run(path, "threads")
    assert main(["run", str(path), "--to", "nothing"]) == 2
    with (project / "data/0001.csv").open("a") as file:
        file.write("1,2,3,4,5,6\n")
    assert main(["run", str(path), "--executor", "serial"]) == 3
    capsys.readouterr()
    assert main(["runs", "ls"]) == 0
    listed = capsys.readouterr().out
    assert "done" in listed
    assert "failed, exit code 3" in listed
    assert main(["runs", "show", two.folder.name[-8:]]) == 0
    assert "by_k: reused, 1 partition" in capsys.readouterr().out
    assert main(["runs", "show", "last"]) == 0
    assert "0001.csv" in capsys.readouterr().out
    assert main(["runs", "compare", one.folder.name, two.folder.name]) == 0
    said = capsys.readouterr().out
    assert "executor: serial → threads" in said
    assert "out: the same bytes" in said
    assert main(["runs", "compare", one.folder.name, "last"]) == 0
    assert "out: only in the first" in capsys.readouterr().out
    assert main(["runs", "show", "nonesuch"]) == 2
    assert main(["runs", "compare", "last"]) == 2
    assert main(["runs", "ls", "--json"]) == 0


def test_a_log_for_programs(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = config(data(project))
    assert main(["run", str(path), "--executor", "threads", "--log", "json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert {"stage": "a+big", "done": 1, "of": 1}.items() <= next(x for x in lines if x.get("stage") == "a+big").items()
    assert all(line["time"] and line["level"] and line["message"] for line in lines)


def test_a_full_disk_under_the_store_is_one_error(project: Path) -> None:
    path = config(data(project, rows=20_000))

    def small() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))

    command = [sys.executable, "-m", "pipelines", "run", str(path), "--executor", "threads"]
    done = subprocess.run(command, capture_output=True, text=True, preexec_fn=small, check=False, timeout=60)
    assert done.returncode == 4
    assert "error: cannot write to the store" in done.stderr
    assert "File too large" in done.stderr
    assert "os error" not in done.stderr
    assert "make room" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list((project / "runs/.store").rglob("*.tmp"))


def test_a_secret_of_digits_or_of_lines_spoils_no_record(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Stars in place of digits are no JSON; what is cut short, quoted for a URL or split by lines is still secret."""
    monkeypatch.setattr("pipelines.errors._secrets", set[str]())  # else other tests' texts lose their digits
    token, key = (
        "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVC/J9.wörd" * 2,
        "-----BEGIN KEY-----\nMIIEpAIBAAKCAQEA\n-----END KEY-----",
    )
    for name, value in (("PIN", "2"), ("TOKEN", token), ("PEM", key)):
        monkeypatch.setenv(name, value)
    (project / "mine.py").write_text(
        "import urllib.parse\n"
        "def pin(i: int, x: str) -> int: return int(x)\n"
        "def told(i: int, x: str) -> int: return {'Authorization': 'Bearer ' + x}\n"
        "def url(i: int, x: str) -> int: raise ValueError('no answer from /?t=' + urllib.parse.quote(x))\n"
    )
    path = config(project, "  m: {map: {function: 'mine:pin', items: [1], arguments: {x: '${secret:PIN}'}}}\n")
    result, _ = run(path)
    assert json.loads((result.folder / "record.json").read_text())["started"] > 1e9
    monkeypatch.chdir(project)
    assert main(["runs", "show", "last"]) == 0
    monkeypatch.setattr("pipelines.errors._secrets", set[str]())
    for function, secret in (("told", "TOKEN"), ("url", "TOKEN"), ("url", "PEM")):
        steps = f"  m: {{map: {{function: 'mine:{function}', items: [1], arguments: {{x: '${{secret:{secret}}}'}}, on_error: stop}}}}\n"
        assert main(["run", str(config(project, steps)), "--executor", "serial"]) == 3
        last = max(project.glob("runs/*/record.json"), key=lambda each: each.stat().st_mtime_ns).parent
        said = capsys.readouterr().err + "".join(each.read_text() for each in last.iterdir())
        assert "***" in said
        assert "eyJhbGci" not in said
        assert "MIIEp" not in said


def test_records_of_others_are_left_out(project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    result, _ = run(config(data(project)))
    for i, text in enumerate(("[]", "1", "{", '{"state": "done", "run": "x"}')):
        (project / f"runs/{i}").mkdir()
        (project / f"runs/{i}/record.json").write_text(text)
    facts = json.loads((result.folder / "record.json").read_text())
    stage, output = facts["stages"][0], facts["outputs"]["groups"]
    wrong: list[dict[str, Any]] = [
        {"seconds": None}, {"seconds": math.inf}, {"stages": None}, {"stages": [{}]}, {"stages": [{**stage, "rows": "1"}]},
        {"outputs": []}, {"outputs": {"o": {"rows": None}}}, {"outputs": {"o": {**output, "metrics": {"a": "b"}}}},
        {"checkpoints": [1]}, {"plan": {"steps": [1]}}, {"plan": None}, {"machine": {}}, {"versions": 1}, {"params": []},
        {"state": "odd"}, {"exit_code": "0"}, {"started": None}, {"warnings": [1]}, {"executor": 1}, {"error": 1}, {"retries": {}},
    ]  # fmt: skip
    for i, change in enumerate(wrong):
        (project / f"runs/wrong{i}").mkdir()
        (project / f"runs/wrong{i}/record.json").write_text(json.dumps({**facts, **change}))
    monkeypatch.chdir(project)
    assert main(["runs", "ls"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2
    for command in (["show"], ["compare", result.folder.name]):
        assert main(["runs", *command, result.folder.name]) == 0


def test_a_run_that_is_killed_at_once_says_what_was_asked_for(project: Path) -> None:
    steps = '  m: {map: {function: "mine:f", items: [1]}}\n'
    (project / "mine.py").write_text(
        "import os, signal\ndef f(i: int) -> int:\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    config(project, steps)
    command = [sys.executable, "-m", "pipelines", "run", "c.yaml", "--executor", "serial"]
    ended = subprocess.run(command, cwd=project, capture_output=True, check=False)
    assert ended.returncode == -signal.SIGKILL
    (run,) = past(project)
    assert run.state == "killed"
    assert run.facts["plan"]["steps"][0]["step"] == "m"
    assert run.facts["executor"] == "serial"


def test_metrics_that_are_no_numbers_are_json_for_strict_readers(project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    """They stay what they are in the answer and in the store."""

    def strict(text: str) -> Any:
        return json.loads(text, parse_constant=pytest.fail)

    (project / "mine.py").write_text("import numpy as np\ndef f(rng, n): return np.full(n, np.inf)\n")
    steps = "  p: {simulate: {paths: 9, function: 'mine:f'}}\n  m: {reduce: {values: {a: mean, n: count}}, checkpoint: disk}\n"
    path = config(project, steps, "params: {far: .inf}\n")
    monkeypatch.chdir(project)
    for _ in range(2):  # computed, and from the store
        result, _ = run(path)
        assert result.outputs["m"].metrics == {"a": math.inf, "n": 9.0}
        facts = strict((result.folder / "record.json").read_text())
        assert facts["outputs"]["m"]["metrics"] == {"a": None, "n": 9.0}
        assert strict((result.folder / "m/metrics.json").read_text())["values"] == {"a": None, "n": 9.0}
        [strict(line) for line in (result.folder / "log.jsonl").read_text().splitlines()]
    assert strict(Evaluation({"r2": math.nan}).files()["metrics.json"].decode()) == {"values": {"r2": None}}
    assert main(["runs", "show", "last"]) == 0
    assert "m: a -, n 9" in capsys.readouterr().out


def test_a_pipe_that_is_closed_does_not_end_a_run(project: Path) -> None:
    config(data(project))
    command = f"set -o pipefail; '{sys.executable}' -m pipelines run c.yaml --executor serial 2>&1 | head -1"
    assert subprocess.run(["bash", "-c", command], cwd=project, capture_output=True, check=False).returncode == 0
    (record,) = project.glob("runs/*/record.json")
    assert json.loads(record.read_text())["state"] == "done"
    assert list(project.glob("runs/*/groups.csv"))


def test_what_killed_runs_left_beside_an_output_goes_in_time(project: Path) -> None:
    path = config(data(project), STEPS.replace('"${run}/groups.csv"', "{path: groups.csv, overwrite: true}"))
    old, young = (project / f".groups.csv.{mark}.0123abcd.tmp" for mark in ("aaaaaaaa", "bbbbbbbb"))
    other = project / ".groups.csv.mine.tmp"
    for each in (old, young, other):
        each.write_text("half")
    for each in (old, other):
        os.utime(each, (1e9, 1e9))
    run(path)
    assert [each.exists() for each in (old, young, other)] == [False, True, True]
