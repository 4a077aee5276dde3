"""The same pipeline on several executors, each run a process of its own: whether the answers are equal, and what each costs."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import polars as pl
import psutil
from dask.system import CPU_COUNT
from msgspec import Struct

from pipelines.errors import ConfigError, DataError, Issue, MachineError, PipelineError, did_you_mean
from pipelines.pipeline import load
from pipelines.plan import Plan
from pipelines.record import Log
from pipelines.run import execute
from pipelines.spec import EXECUTORS
from pipelines.types import size_text

RACED = tuple(name for name in EXECUTORS if name not in ("address", "kubernetes"))  # what needs no cluster elsewhere
ROWS = 1000
"""Of a table that is only shown, so many rows are compared."""
_EVERY = 0.1  # seconds from one look at the memory to the next
_STOP = 20.0  # seconds that a run has to end after Ctrl-C


class Lap(Struct, frozen=True):
    """One run: a whole process, with all that it starts."""

    executor: str
    described: str
    slots: int
    """Tasks at once."""
    wall: float
    """Seconds from the start of the process to its end."""
    startup: float
    """Of these, until the executor is open: Python, imports, the plan, a cluster."""
    work: float
    """From then until the answers are written."""
    memory: int
    """The peak of the process tree, in bytes, without mapped files."""


class Lane(Struct, frozen=True):
    """An executor's laps, in medians; memory: the highest."""

    laps: tuple[Lap, ...]

    @property
    def executor(self) -> str:
        return self.laps[0].executor

    @property
    def slots(self) -> int:
        return self.laps[0].slots

    @property
    def wall(self) -> float:
        return statistics.median(lap.wall for lap in self.laps)

    @property
    def startup(self) -> float:
        return statistics.median(lap.startup for lap in self.laps)

    @property
    def work(self) -> float:
        return statistics.median(lap.work for lap in self.laps)

    @property
    def rest(self) -> float:
        """Closing the executor and leaving."""
        return max(0.0, self.wall - self.startup - self.work)

    @property
    def memory(self) -> int:
        return max(lap.memory for lap in self.laps)


class Race(Struct, frozen=True):
    """What a race showed. The answers of all runs were equal."""

    name: str
    lanes: tuple[Lane, ...]
    compared: tuple[str, ...]
    """What was compared, in words."""
    cores: int

    @property
    def base(self) -> Lane:
        """The lane that speed-ups refer to: serial, or the first."""
        return next((lane for lane in self.lanes if lane.executor == "serial"), self.lanes[0])

    def speedup(self, lane: Lane) -> float:
        return self.base.wall / lane.wall

    def efficiency(self, lane: Lane) -> float:
        return self.speedup(lane) / lane.slots


def race(
    config: str | Path,
    params: Mapping[str, Any] | None = None,
    overlays: Sequence[str | Path] = (),
    *,
    executors: Sequence[str] = RACED,
    repeat: int = 3,
    say: Callable[[str], None] = lambda text: None,
) -> Race:
    """Runs the config `repeat` times on each executor, in turn, and compares every answer with the first.

    The runs' folders are removed, but for those of answers that differ. Raises ConfigError, MachineError, and DataError
    also where answers differ.
    """
    for name in executors:
        if name not in EXECUTORS:
            raise ConfigError(Issue(f"unknown executor {name!r}", did_you_mean(name, EXECUTORS)))
    if repeat < 1:
        raise ConfigError(Issue(f"--repeat {repeat}: there is nothing to run", "--repeat 1"))
    plan = load(config, params, overlays).plan()
    _can_run_again(plan)
    laps = dict[str, list[Lap]]()
    first: tuple[str, dict[str, _Answer]] | None = None
    compared = tuple[str, ...]()
    with tempfile.TemporaryDirectory(prefix="pipelines-race-") as scratch, _removed() as folders:
        for i in range(repeat):
            for name in dict.fromkeys(executors):
                label = name if repeat == 1 else f"{name}, run {i + 1} of {repeat}"
                place = Path(scratch, f"{i}-{name}")
                place.mkdir()
                lap, folder, answers = _lap(
                    [str(config), dict(params or {}), [str(path) for path in overlays]], name, place
                )
                folders.append(folder)
                say(f"{label}: {lap.wall:.2f} s")
                laps.setdefault(name, []).append(lap)
                if first is None:
                    first = label, answers
                    compared = tuple(answer.described for answer in answers.values())
                elif different := _different(*first, label, answers):
                    folders.remove(folder)
                    folders.remove(folders[0])
                    raise DataError(*different)
    return Race(plan.spec.name, tuple(Lane(tuple(found)) for found in laps.values()), compared, CPU_COUNT)


def _can_run_again(plan: Plan) -> None:
    for name, node in plan.nodes.items():
        if node.output and not node.output.path.startswith("${run}") and not node.output.overwrite:
            raise ConfigError(
                Issue(f"the step {name!r} writes to one path in every run, and a race is many", "write below ${run}, or add `overwrite: true`", node.place)
            )  # fmt: skip


@contextlib.contextmanager
def _removed() -> Iterator[list[Path]]:
    folders = list[Path]()
    try:
        yield folders
    finally:
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)


class _Answer(Struct, frozen=True):
    """One end's answer: a file or a folder, and what is in it."""

    path: Path
    rows: int
    digest: str
    described: str


def _answer(step: str, path: Path, rows: int, shown: bool) -> _Answer:
    digest, size = hashlib.blake2b(), 0
    for file in sorted(path.iterdir()) if path.is_dir() else [path]:
        content = file.read_bytes()
        digest.update(f"{file.name if path.is_dir() else ''} {len(content)} ".encode() + content)
        size += len(content)
    part = "" if not shown else f" (the first {ROWS:,})" if rows > ROWS else ""
    described = f"{step}: {rows:,} row{'s' * (rows != 1)}{part}" + ("" if shown else f", {size_text(size)}")
    return _Answer(path, rows, digest.hexdigest(), described)


def _different(first: str, expected: Mapping[str, _Answer], label: str, found: Mapping[str, _Answer]) -> list[Issue]:
    return [
        Issue(
            f"the answers differ: {step!r} on {label} is not what it is on {first}{_where(answer, found[step])}",
            "a function whose result hangs on time, chance or its process gives another answer every time"
            + (
                f"\n    compare {answer.path}\n    and     {found[step].path}"
                if answer.path != found[step].path
                else ""
            ),
        )
        for step, answer in expected.items()
        if (answer.digest, answer.rows) != (found[step].digest, found[step].rows)
    ]


def _where(a: _Answer, b: _Answer) -> str:
    """The first value that differs, where the answers are files with as many rows."""
    if a.rows != b.rows:
        return f": {a.rows:,} and {b.rows:,} rows"
    if a.path == b.path or a.path.is_dir():
        return ""
    one, two = (
        pl.read_csv(answer.path, infer_schema=False) if answer.path.suffix == ".csv" else pl.read_parquet(answer.path)
        for answer in (a, b)
    )
    for name in one.columns:
        for row, (left, right) in enumerate(zip(one[name], two[name], strict=True), 1):
            if repr(left) != repr(right):
                return f": row {row}, column {name!r}: {left!r:.60} and {right!r:.60}"
    return ""


def _lap(given: list[Any], executor: str, place: Path) -> tuple[Lap, Path, dict[str, _Answer]]:
    """One run in a process of its own, which leaves in `place` what it has to tell."""
    command = [sys.executable, "-m", "pipelines.race", json.dumps([given, executor, str(place)])]
    with (place / "said").open("wb") as said:
        began = time.time()
        # in a session of its own, Ctrl-C does not reach it; it ends when its input does, so also when this process is killed
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=said, stderr=said, start_new_session=True)
        assert process.stdin is not None
        memory, ended = 0, list[float]()

        def wait() -> None:
            process.wait()
            ended.append(time.time())

        waiting = threading.Thread(target=wait, daemon=True)
        try:
            waiting.start()  # a thread of its own sees the end at once; this one is free for Ctrl-C
            while waiting.is_alive():
                waiting.join(_EVERY)
                memory = max(memory, _memory(process.pid))
            wall = ended[0] - began
        finally:
            process.stdin.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_STOP)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    told = place / "told.json"
    if not told.exists():
        words = (place / "said").read_text(errors="replace").strip().splitlines()
        how = f"signal {-process.returncode}" if process.returncode < 0 else f"exit code {process.returncode}"
        raise MachineError(Issue(f"the run on {executor} ended with {how}", "\n    ".join(words[-5:])))
    facts = json.loads(told.read_text())
    if "issues" in facts:
        kind = {cls.exit_code: cls for cls in (ConfigError, DataError, MachineError)}[facts["exit_code"]]
        raise kind(*(Issue(f"on {executor}: {message}", remedy) for message, remedy in facts["issues"]))
    lap = Lap(executor, facts["described"], facts["slots"], wall, facts["opened"] - began, facts["done"] - facts["opened"], memory)  # fmt: skip
    answers = {step: _answer(step, Path(path), rows, shown) for step, path, rows, shown in facts["answers"]}
    return lap, Path(facts["folder"]), answers


def _memory(pid: int) -> int:
    """Bytes that the process and all below it have allocated."""
    total = 0
    with contextlib.suppress(psutil.Error):
        parent = psutil.Process(pid)
        for process in [parent, *parent.children(recursive=True)]:
            with contextlib.suppress(psutil.Error):  # it has ended meanwhile
                info = process.memory_info()
                total += info.rss - getattr(info, "shared", 0)
    return total


def _run(given: list[Any], executor: str, place: str) -> None:
    """In the process of a lap: the run, and what it has to tell."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    threading.Thread(target=_end_with_input, daemon=True).start()
    told, opened = dict[str, Any](), time.time()

    def said(text: str) -> None:
        nonlocal opened
        opened = time.time()  # the last it says is that it is running

    def done(executor: Any, result: Any) -> None:
        told.update(opened=opened, done=time.time(), described=executor.described, slots=executor.slots)

    try:
        result = execute(load(*given).plan(), executor, head=ROWS, log=Log(said), done=done)
        answers = list[tuple[str, str, int, bool]]()
        for step, produced in result.outputs.items():
            path = produced.path or Path(place, f"{step}.parquet")
            if produced.path is None:
                produced.head.rechunk().write_parquet(path)
            answers.append((step, str(path), produced.rows, produced.path is None))
        told.update(answers=answers, folder=str(result.folder))
    except PipelineError as error:
        told = {"exit_code": error.exit_code, "issues": [(issue.message, issue.remedy) for issue in error.issues]}
    except KeyboardInterrupt:
        sys.exit(130)
    Path(place, "told.json").write_text(json.dumps(told))


def _end_with_input() -> None:
    with contextlib.suppress(OSError):
        os.read(0, 1)
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)  # it wakes, whatever it waits for


# What is shown


def _rows(found: Race) -> list[tuple[str, ...]]:
    return [
        (
            lane.executor,
            str(lane.slots),
            f"{lane.wall:.2f} s",
            f"{lane.startup:.2f} s",
            f"{lane.work:.2f} s",
            f"{found.speedup(lane):.2f}",
            f"{found.efficiency(lane):.0%}".replace("%", " %"),
            size_text(lane.memory),
        )
        for lane in found.lanes
    ]


def _notes(found: Race) -> list[str]:
    runs = len(found.lanes[0].laps)
    how = f"medians of {runs} runs each, in turn" if runs > 1 else "one run each"
    return [
        f"Whole processes, {how}, on {found.cores} core{'s' * (found.cores > 1)}; speed-up against {found.base.executor}, efficiency: speed-up / tasks at once.",
        f"The answers are equal: {'; '.join(found.compared)}.",
    ]


_HEADS = ("executor", "tasks at once", "wall", "start-up", "work", "speed-up", "efficiency", "memory")


def text(found: Race, width: int = 48) -> str:
    """The race for a terminal: a table, and bars of wall time."""
    rows = [_HEADS, *_rows(found)]
    sizes = [max(len(row[i]) for row in rows) for i in range(len(_HEADS))]
    lines = [
        "  ".join([row[0].ljust(sizes[0]), *(c.rjust(w) for c, w in zip(row[1:], sizes[1:], strict=True))])
        for row in rows
    ]
    longest = max(lane.wall for lane in found.lanes)
    bars = list[str]()
    for lane in found.lanes:
        ends = [round(width * t / longest) for t in (lane.startup, lane.startup + lane.work, lane.wall)]
        bar = "░" * ends[0] + "█" * (ends[1] - ends[0]) + "▒" * (ends[2] - ends[1])
        bars.append(f"{lane.executor:{sizes[0]}}  {bar} {lane.wall:.2f} s")
    return "\n".join([*lines, "", *bars, f"{'':{sizes[0]}}  ░ start-up  █ work  ▒ closing", "", *_notes(found)])


_STYLE = """
svg { --page: #ffffff; --text: #1f2328; --soft: #59636e; --line: #d1d9e0; --startup: #d4a72c; --work: #0969da; --closing: #afb8c1; }
@media (prefers-color-scheme: dark) { svg { --page: #0d1117; --text: #e6edf3; --soft: #9198a1; --line: #30363d;
  --startup: #bb8009; --work: #388bfd; --closing: #545d68; } }
text { font-family: system-ui, -apple-system, "Segoe UI", "Noto Sans", Helvetica, Arial, sans-serif; font-size: 13px; fill: var(--text); }
.page { fill: var(--page); } .title { font-size: 17px; font-weight: 600; } .name { font-weight: 600; }
.soft { font-size: 11.5px; fill: var(--soft); } .right { text-anchor: end; } .middle { text-anchor: middle; } .wall { font-weight: 600; }
.grid { stroke: var(--line); } .startup { fill: var(--startup); } .work { fill: var(--work); } .closing { fill: var(--closing); }
.range { stroke: var(--text); stroke-width: 1.25; } .best { fill: var(--work); font-weight: 600; }
"""
_LEFT, _RIGHT, _TOP, _ROW = 150, 560, 116, 46
_COLUMNS = {"wall": 632, "speed-up": 700, "efficiency": 772, "memory": 852}
_WIDTH = 880


def svg(found: Race) -> str:
    """The race as the text of an SVG file: stacked bars of wall time, with the range of all runs, and the figures beside them."""
    longest = max(lap.wall for lane in found.lanes for lap in lane.laps)
    step = _step(longest)
    scale = (_RIGHT - _LEFT) / (math.ceil(longest / step) * step)
    bottom = _TOP + _ROW * len(found.lanes)
    best = min(found.lanes, key=lambda lane: lane.wall)
    parts = [
        f'<rect class="page" width="{_WIDTH}" height="{bottom + 86}"/>',
        _text("title", 28, 38, f"{found.name}: the same answer, {len(found.lanes)} ways to run"),
        *_legend(),
        *(_text("soft right", x, _TOP - 18, name) for name, x in _COLUMNS.items()),
    ]
    for i in range(math.ceil(longest / step) + 1):
        x = _LEFT + i * step * scale
        parts.append(f'<line class="grid" x1="{x:.1f}" y1="{_TOP - 8}" x2="{x:.1f}" y2="{bottom}"/>')
        parts.append(_text("soft middle", x, bottom + 18, f"{i * step:g} s"))
    for i, (lane, row) in enumerate(zip(found.lanes, _rows(found), strict=True)):
        middle = _TOP + _ROW * i + _ROW / 2 - 4
        figures = dict(zip(_HEADS, row, strict=True))
        parts.append(
            f"<g><title>{escape(lane.laps[0].described)}: {', '.join(f'{lap.wall:.2f} s' for lap in lane.laps)}</title>"
        )
        parts.append(_text("name", 28, middle - 1, lane.executor))
        parts.append(_text("soft", 28, middle + 14, f"{lane.slots} task{'s' * (lane.slots > 1)} at once"))
        x = float(_LEFT)
        for name, seconds in (("startup", lane.startup), ("work", lane.work), ("closing", lane.rest)):
            parts.append(
                f'<rect class="{name}" x="{x:.1f}" y="{middle - 9}" width="{seconds * scale:.1f}" height="18"/>'
            )
            x += seconds * scale
        low, high = (_LEFT + f(lap.wall for lap in lane.laps) * scale for f in (min, max))
        if len(lane.laps) > 1:
            parts.append(
                f'<path class="range" d="M{low:.1f} {middle}H{high:.1f}M{low:.1f} {middle - 4}v8M{high:.1f} {middle - 4}v8"/>'
            )
        for name, at in _COLUMNS.items():
            kind = "best right" if lane is best and name in ("wall", "speed-up") else "right"
            parts.append(_text(kind, at, middle + 5, figures[name]))
        parts.append("</g>")
    parts += [_text("soft", 28, bottom + 48 + 18 * i, note) for i, note in enumerate(_notes(found))]
    size = f'width="{_WIDTH}" height="{bottom + 86}" viewBox="0 0 {_WIDTH} {bottom + 86}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">\n<title>{escape(found.name)}</title>\n<style>{_STYLE}</style>'
    return "\n".join([head, *parts, "</svg>", ""])


def _legend() -> Iterator[str]:
    x = 28
    for kind, name in (
        ("startup", "start-up: Python, imports, plan, cluster"),
        ("work", "work"),
        ("closing", "closing"),
    ):
        yield f'<rect class="{kind}" x="{x}" y="56" width="11" height="11" rx="2"/>'
        yield _text("soft", x + 17, 66, name)
        x += 36 + round(6.2 * len(name))


def _text(kind: str, x: float, y: float, words: str) -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}">{escape(words)}</text>'


def _step(longest: float) -> float:
    """Of an axis that reaches `longest`: a round distance that gives at most six lines."""
    power = 10.0 ** math.floor(math.log10(longest / 5))
    return next(power * factor for factor in (1, 2, 5, 10) if longest / (power * factor) <= 5)


if __name__ == "__main__":
    _run(*json.loads(sys.argv[1]))
