"""Faults, leftovers, exit codes and awkward paths; what test_executors.py does not try."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import polars as pl
import psutil
import pytest

from pipelines import ConfigError, DataError, MachineError, load
from pipelines.cli import main
from pipelines.pipeline import Pipeline
from pipelines.run import _swept, execute
from tests.conftest import ROOT
from tests.oracle import oracle

Make = Callable[..., Pipeline]
EXECUTORS = ("serial", "threads", "local")


def leftovers(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*.tmp"))


def stopping(project: Path, executor: str, path: str) -> Path:
    """One item fails at once, the others are still at work: their parts are written after the error."""
    (project / "late_of_test.py").write_text(
        "import time\ndef late(n: int) -> int:\n    if n == 0:\n        time.sleep(0.2)\n        raise ValueError('no')\n"
        "    time.sleep(0.6)\n    return n\n"
    )
    config = project / "late.yaml"
    config.write_text(
        f"executor: {executor}\nsteps:\n  late:\n    map: {{function: 'late_of_test:late', items: [1, 0, 2, 3, 4], on_error: stop}}\n"
        f"  out:\n    write: {{path: '{path}', format: parquet, per_partition: true}}\n"
    )
    return config


@pytest.mark.parametrize(
    "block",
    [
        "serial",
        pytest.param("{kind: threads, threads: 4}"),
        pytest.param("{kind: local, workers: 2, threads: 2}"),
    ],
)
def test_tasks_that_are_at_work_when_another_fails_leave_nothing(project: Path, block: str) -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\nfrom pipelines.cli import main\n"
        "if __name__ == '__main__':\n    sys.exit(main(sys.argv[1:]))\n"
    )
    (project / "start.py").write_text(code)
    run = subprocess.run(
        [sys.executable, str(project / "start.py"), "run", str(stopping(project, block, "parts"))],
        capture_output=True, text=True, timeout=60, cwd=ROOT, check=False,
    )  # fmt: skip
    assert run.returncode == 3, run.stderr
    assert "Traceback" not in run.stderr
    assert leftovers(project) == []


def test_leftovers_are_found_whatever_the_path_is_called(project: Path) -> None:
    with pytest.raises(DataError):
        load(stopping(project, "serial", "out[1]")).run()
    assert leftovers(project) == []


def test_a_folder_does_not_replace_a_file_and_leaves_nothing(pipeline: Make, project: Path) -> None:
    (project / "parts").write_text("mine")
    steps = "  STOCKS\n  out:\n    write: {path: parts, format: csv, per_partition: true, overwrite: true}\n"
    with pytest.raises((ConfigError, MachineError)):
        pipeline(steps).run("serial")
    assert (project / "parts").read_text() == "mine"
    assert leftovers(project) == []


def test_a_file_does_not_replace_a_folder_and_leaves_nothing(pipeline: Make, project: Path) -> None:
    (project / "there.csv").mkdir()
    (project / "there.csv/mine").write_text("mine")
    with pytest.raises((ConfigError, MachineError)):
        pipeline("  STOCKS\n  out:\n    write: {path: there.csv, overwrite: true}\n").run("serial")
    assert (project / "there.csv/mine").read_text() == "mine"
    assert leftovers(project) == []


def test_two_sinks_of_one_path_are_refused_before_anything_runs(pipeline: Make, project: Path) -> None:
    steps = "  STOCKS\n  one:\n    write: same.csv\n  two:\n    from: stocks\n    write: same.csv\n"
    with pytest.raises(ConfigError):
        pipeline(steps).plan()


def test_overwrite_replaces_a_folder_of_more_parts(pipeline: Make, project: Path) -> None:
    steps = "  STOCKS\n%s  out:\n    write: {path: parts, format: parquet, per_partition: true, overwrite: true}\n"
    pipeline(steps % "").run("threads")
    assert len(list((project / "parts").iterdir())) == 5
    pipeline(steps % "  few:\n    sort: {by: [Volume, Date], limit: 3}\n").run("threads")
    assert [p.name for p in (project / "parts").iterdir()] == ["part-00000.parquet"]
    assert leftovers(project) == []


def test_who_is_killed_while_a_folder_is_replaced_leaves_the_old_one_or_the_new_one(project: Path) -> None:
    path = project / "parts"
    code = (
        "import os, shutil, sys\nfrom pathlib import Path\nfrom pipelines import run\ncalls = 0\n"
        "def deadly(call):\n    def instead(*args, **options):\n        global calls\n        calls += 1\n"
        "        if calls == int(sys.argv[2]):\n            os._exit(9)\n        return call(*args, **options)\n    return instead\n"
        "os.replace, os.unlink, os.rmdir = map(deadly, (os.replace, os.unlink, os.rmdir))\n"
        "parts = [run.Part(1, run.pl.DataFrame(), str(p)) for p in sorted(Path(sys.argv[3]).iterdir())]\n"
        "output = run.Output(sys.argv[1], 'csv', True, True)\n"
        "class Staged:\n    class plan:\n        nodes = {'o': type('', (), {'output': output, 'bound': output, 'gives': type('', (), {'kind': 'table'})})}\n"
        "run._commit(Staged, 'o', parts, Path(), 'abcdef01', 1)\n"
    )
    found, ends = set[str](), list[int]()
    for moment in range(1, 10):
        for folder, text in ((path, "old"), (project / f"new{moment}", "new")):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            for i in range(2):
                (folder / f"part-{i:05d}.csv").write_text(text)
        arguments = [str(path), str(moment), str(project / f"new{moment}")]
        ended = subprocess.run(
            [sys.executable, "-c", code, *arguments], check=False, cwd=ROOT, capture_output=True, text=True
        )
        assert ended.returncode in (0, 9), ended.stderr
        ends.append(ended.returncode)
        _swept(path)
        texts = [file.read_text() for file in sorted(path.iterdir())]
        assert texts in (["old", "old"], ["new", "new"]), moment
        found.add(texts[0])
        assert not list(project.glob(".parts.*.old"))
        for left in project.glob(".parts.*.tmp"):
            shutil.rmtree(left)
    assert found == {"old", "new"}
    assert ends[-1] == 0  # all moments were tried


@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.parametrize("format", ["csv", "parquet"])
def test_no_rows_are_written_too(pipeline: Make, executor: str, format: str) -> None:
    steps = "  STOCKS\n  none:\n    filter: Close < 0\n  out:\n    write: '${run}/out.%s'\n"
    made = pipeline(steps % format)
    path = made.run(executor).outputs["out"].path
    assert path is not None
    expected = oracle(made.plan())["none"]
    if format == "parquet":
        assert pl.read_parquet(path).equals(expected)
        assert dict(pl.read_parquet(path).schema) == dict(expected.schema)
    else:
        assert path.read_text() == expected.write_csv()


def test_a_source_without_rows(project: Path) -> None:
    pl.DataFrame(schema={"a": pl.Int64, "s": pl.String}).write_parquet(project / "in.parquet")
    (project / "in.csv").write_text("a,s\n")
    for name, partitions in (("in.parquet", 1), ("in.parquet", 3), ("in.csv", 1), ("in.csv", 3)):
        config = project / "c.yaml"
        types = ", dtypes: {a: int64, s: string}" if name.endswith("csv") else ""
        config.write_text(
            f"steps:\n  t:\n    read: {{path: {name}, partitions: {partitions}{types}}}\n"
            "  n:\n    aggregate: {n: count(*), s: sum(a), l: max(s), m: median(a)}\n"
            "  g:\n    from: t\n    aggregate: {by: s, m: median(a)}\n"
            "  w:\n    from: t\n    write: '${run}/w.parquet'\n"
        )
        result = load(config).run("threads")
        assert result.outputs["n"].head.rows() == [(0, None, None, None)]
        assert result.outputs["g"].rows == 0
        assert result.outputs["w"].rows == 0


def test_every_type_can_be_written_or_is_refused_before_the_run(project: Path) -> None:
    from pipelines.plan import witness
    from pipelines.types import _NAMES, dtype_name

    types = [*_NAMES.values(), pl.Decimal(20, 3), pl.Datetime("ms"), pl.Datetime("us", "Europe/Berlin")]
    failed = list[str]()
    for dtype in types:
        witness({"v": dtype}).collect().write_parquet(project / "in.parquet")
        for format in ("csv", "parquet"):
            config = project / "c.yaml"
            config.write_text(f"steps:\n  t:\n    read: in.parquet\n  o:\n    write: '${{run}}/o.{format}'\n")
            try:
                plan = load(config).plan()
            except ConfigError:
                continue
            try:
                load(config).run("serial")
            except Exception as error:
                failed.append(f"{dtype_name(dtype)} {format}: {type(error).__name__} {str(error)[:150]}")
            assert dict(plan.nodes["o"].schema) == {"v": dtype}
    assert failed == []


@pytest.mark.parametrize("executor", EXECUTORS)
def test_the_exit_codes(project: Path, executor: str, capsys: pytest.CaptureFixture[str]) -> None:
    (project / "in.csv").write_text("a\n1\nx\n")
    config = project / "c.yaml"

    def code(dtype: str, path: str) -> int:
        config.write_text(
            f"steps:\n  t:\n    read: {{path: in.csv, dtypes: {{a: {dtype}}}}}\n  o:\n    write: {path}\n"
        )
        return main(["run", str(config), "--executor", executor, "--head", "0"])

    assert code("string", "one.csv") == 0
    assert code("nothing", "two.csv") == 2
    assert code("int64", "three.csv") == 3
    (project / "four.csv").mkdir()
    config.write_text(
        config.read_text().replace("int64", "string").replace("three.csv", "{path: four.csv, overwrite: true}")
    )
    assert main(["run", str(config), "--executor", executor]) == 4  # a folder is there
    assert "Traceback" not in capsys.readouterr().err
    codes = sorted(json.loads(p.read_text())["exit_code"] for p in (project / "runs").glob("*/record.json"))
    assert codes == [0, 3, 4]
    assert leftovers(project) == []


def test_a_folder_that_cannot_be_made(pipeline: Make, project: Path) -> None:
    plan = pipeline("  STOCKS\n  out:\n    write: file/out.csv\n").plan()
    (project / "file").write_text("")
    with pytest.raises(MachineError):
        execute(plan, "serial")
    with pytest.raises(ConfigError, match="Not a directory"):
        pipeline("  STOCKS\n  out:\n    write: file/out.csv\n").plan()


def test_nothing_stays_open(project: Path, pipeline: Make) -> None:
    process = psutil.Process()
    steps = "  STOCKS\n  n:\n    aggregate: {by: Symbol, m: median(Close)}\n"
    for executor in EXECUTORS:  # what stays from the first time is the process's own
        pipeline(steps).run(executor)
    before = process.num_fds(), threading.active_count()
    for executor in EXECUTORS * 2:
        pipeline(steps).run(executor)
    assert process.num_fds() <= before[0] + 3
    assert threading.active_count() <= before[1] + 3
    assert [p for p in process.children(recursive=True) if "resource_tracker" not in " ".join(p.cmdline())] == []


def test_a_hundred_partitions_go_through_a_tree_in_processes(project: Path) -> None:
    answers = list[pl.DataFrame]()
    for block in ("serial", "threads", "{kind: local, workers: 2}"):
        config = project / "c.yaml"
        config.write_text(
            f"executor: {block}\nsteps:\n  t:\n    read: {{path: '{ROOT}/data/stocks/*.csv', partitions: 100}}\n"
            "  g:\n    aggregate: {by: Symbol, a: avg(Open), s: sum(Volume), f: first(Date), l: last(Close), v: var(Close)}\n"
            "  h:\n    from: t\n    aggregate: {by: Symbol, m: median(Close), f: first(Date)}\n"
            "  top:\n    from: t\n    sort: {by: [Symbol], limit: 50}\n"
        )
        result = load(config).run(head=10**6)
        expected = oracle(load(config).plan())
        assert result.outputs["top"].head.equals(expected["top"])
        assert result.outputs["h"].head.equals(expected["h"])
        assert result.outputs["g"].head.drop("v").equals(expected["g"].drop("v"))
        answers.append(result.outputs["g"].head)
    assert answers[0].equals(answers[1])
    assert answers[0].equals(answers[2])


def test_a_worker_that_is_killed_at_work_changes_nothing(project: Path) -> None:
    """Killed when it has begun an item, however long the cluster took to start."""
    (project / "marked_of_test.py").write_text(
        "import os, pathlib, time\ndef marked(n: int, folder: str) -> int:\n"
        "    pathlib.Path(folder, f'{n}-{os.getpid()}').touch()\n    time.sleep(0.15)\n    return n * n\n"
    )
    marks = project / "marks"
    marks.mkdir()
    config = project / "c.yaml"
    config.write_text(
        "executor: {kind: local, workers: 2}\nsteps:\n  it:\n    map: {function: 'marked_of_test:marked', "
        f"items: {list(range(20))}, arguments: {{folder: '{marks}'}}}}\n  out:\n    write: '${{run}}/out.parquet'\n"
    )
    expected = load(config).run("serial").outputs["out"].path
    before = {p.name for p in marks.iterdir()}
    killed = list[int]()

    def kill() -> None:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            new = sorted(p.name for p in marks.iterdir() if p.name not in before)
            if len(new) >= 4:
                killed.append(int(new[0].rsplit("-", 1)[1]))
                assert killed[0] in {p.pid for p in psutil.Process().children(recursive=True)}
                os.kill(killed[0], signal.SIGKILL)
                return
            time.sleep(0.02)

    killer = threading.Thread(target=kill)
    killer.start()
    found = load(config).run().outputs["out"].path
    killer.join()
    assert killed
    assert expected is not None
    assert found is not None
    assert found.read_bytes() == expected.read_bytes()


@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.parametrize(
    ("steps", "said"),
    [
        ("  b: {derive: {w: length(v)}}\n  c:\n    derive: {x: CAST(v AS BIGINT)}\n", "5:3: in the step 'c': cannot cast string to int64: \"n/a\""),
        ("  b: {filter: CAST(v AS DOUBLE) > 1}\n  c: {derive: {w: length(v)}}\n", "4:3: in the step 'b': cannot cast string to float64: \"n/a\""),
        ("  b: {aggregate: {s: sum(CAST(v AS BIGINT))}}\n", "4:3: in the step 'b': cannot cast string to int64: \"n/a\""),
        ("  b: {sort: {by: v}}\n  c: {derive: {w: length(v)}}\n  d: {derive: {x: CAST(v AS BIGINT)}}\n", "6:3: in the step 'd': cannot cast string to int64: \"n/a\""),
    ],
)  # fmt: skip
def test_a_value_that_fails_has_the_place_of_its_step(project: Path, executor: str, steps: str, said: str) -> None:
    (project / "a.csv").write_text("v\n1\nn/a\n3\n")
    (project / "c.yaml").write_text(
        f"executor: {executor}\nsteps:\n  a: {{read: {{path: a.csv, partitions: 2}}}}\n{steps}"
    )
    with pytest.raises(DataError, match=re.escape(said)):
        load(project / "c.yaml").run()
