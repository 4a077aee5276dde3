"""Exchanges when memory is short, when workers die, and when a row is wrong behind one."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import polars as pl
import psutil
import pytest

from pipelines import DataError, exchange, load
from pipelines.cli import main
from pipelines.passes import PASSES, Layout
from pipelines.run import execute
from tests.oracle import oracle

STEPS = """
  m: {from: a, aggregate: {by: k, m: median(x), d: count(DISTINCT x)}}
  j: {from: [a, m], join: {on: k, how: left, broadcast: false}}
  t: {sort: {by: [m, x], descending: [x]}}
"""


def config(project: Path, executor: str, steps: str = STEPS) -> Path:
    n = 40_000
    pl.DataFrame({"k": [i * 7 % 1001 for i in range(n)], "x": [i * 13 % 977 for i in range(n)]}).write_parquet(
        project / "a.parquet", row_group_size=5000
    )
    path = project / "c.yaml"
    path.write_text(f"executor: {executor}\nsteps:\n  a: {{read: {{path: a.parquet, partitions: 4}}}}\n{steps}")
    return path


@pytest.mark.parametrize("limit", ["1MiB", "1GiB"])
def test_how_much_memory_there_is_does_not_show(project: Path, limit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = list[bool]()
    pack = exchange.pack

    def watched(*given: object) -> exchange.Parcel:
        parcel = pack(*given)  # type: ignore[arg-type]
        kept.append(bool(parcel.frames))
        return parcel

    monkeypatch.setattr(exchange, "pack", watched)
    plan = load(config(project, f"{{kind: threads, memory_limit: {limit}}}")).plan()
    found = execute(plan, to="t", head=1 << 40, layout=Layout(frozenset(PASSES), 5)).outputs["t"].head
    assert found.equals(oracle(plan)["t"])
    assert all(kept) == (limit == "1GiB")
    assert not (project / "runs/.exchanges").exists()


SLOW = """
import os, pathlib, time
import polars as pl

def slow(frame: pl.DataFrame, folder: str):
    pathlib.Path(folder, f"{time.monotonic_ns()}-{os.getpid()}").touch()
    time.sleep(0.5)
    return frame
"""


@pytest.mark.parametrize("before", [True, False], ids=["writing", "reading"])
def test_a_worker_that_is_killed_in_an_exchange_changes_nothing(project: Path, before: bool) -> None:
    """Killed while rows are on their way: some are in files already, other partitions have not been cut, or not been read."""
    (project / "slow_of_test.py").write_text(SLOW)
    marks = project / "marks"
    marks.mkdir()
    slow = f"python: {{function: 'slow_of_test:slow', arguments: {{folder: '{marks}'}}, like: input}}"
    aggregate = "aggregate: {by: k, m: median(x), d: count(DISTINCT x)}"
    window = "window: {partition_by: k, order_by: x, r: rank()}"
    steps = (
        f"  s: {{from: a, {slow}}}\n  t: {{{aggregate}}}\n"
        if before
        else f"  w: {{from: a, {window}}}\n  s: {{{slow}}}\n  t: {{{aggregate}}}\n"
    )
    plan = load(
        config(project, "{kind: local, workers: 2}", steps + "  out: {write: {path: o.parquet, overwrite: true}}\n")
    ).plan()
    layout = Layout(frozenset(PASSES), 6)
    execute(plan, "serial", layout=layout)
    expected = (project / "o.parquet").read_bytes()
    seen, killed = {p.name for p in marks.iterdir()}, list[int]()

    def kill() -> None:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            new = sorted(p.name for p in marks.iterdir() if p.name not in seen)
            if len(new) >= 4:  # the first two are done
                killed.append(int(new[-1].rsplit("-", 1)[1]))
                assert killed[0] in {p.pid for p in psutil.Process().children(recursive=True)}
                os.kill(killed[0], signal.SIGKILL)
                return
            time.sleep(0.02)

    killer = threading.Thread(target=kill)
    killer.start()
    execute(plan, layout=layout)
    killer.join()
    assert killed
    assert (project / "o.parquet").read_bytes() == expected
    assert not (project / "runs/.exchanges").exists()


@pytest.mark.parametrize("executor", ["serial", "threads", "local"])
def test_a_wrong_value_behind_an_exchange_is_a_clear_error(
    project: Path, executor: str, capsys: pytest.CaptureFixture[str]
) -> None:
    join = "  b: {from: a, derive: {text: 'CASE WHEN x = 7 THEN ''seven'' ELSE CAST(x AS VARCHAR) END'}}\n"
    join += "  j: {from: [a, b], join: {on: [k, x], broadcast: false}}\n"
    for step, said in (("filter: CAST(text AS INTEGER) > 0", "cannot cast string to int32"), ("aggregate: {by: k, m: median(CAST(text AS INTEGER))}", "cannot cast string to int32")):  # fmt: skip
        path = config(project, executor, f"{join}  t: {{from: j, {step}}}\n")
        with pytest.raises(DataError, match=said):
            execute(load(path).plan(), layout=Layout(frozenset(PASSES), 4))
        assert main(["run", str(path)]) == 3
        assert "Traceback" not in capsys.readouterr().err
    assert not (project / "runs/.exchanges").exists()
