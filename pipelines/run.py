"""The main path: plan → cut → lower → execute → record."""

from __future__ import annotations

import glob
import json
import os
import platform
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl

from pipelines import kernel, report
from pipelines.code import Code, provided
from pipelines.errors import ConfigError, Issue, MachineError, PipelineError, did_you_mean, redacted
from pipelines.exchange import Room, room
from pipelines.executors.base import Executor, Progress
from pipelines.graph import Graph
from pipelines.lower import REJECTS, Ending, Lowered, Part, ending_keys, lower, resolved, temporary
from pipelines.passes import Layout
from pipelines.plan import Plan
from pipelines.spec import EXECUTORS, Spec
from pipelines.stages import Staged, cut, needed
from pipelines.steps.base import Output

Say = Callable[[str], None]
_IN_MEMORY = 0.25
"""What part of the memory exchanges may take before they use files."""


@dataclass(frozen=True)
class Produced:
    """One end of a pipeline: a table that was written, or only looked at."""

    step: str
    rows: int
    head: pl.DataFrame
    path: Path | None = None
    bytes: int = 0


@dataclass(frozen=True)
class Result:
    """What a run did."""

    folder: Path
    outputs: Mapping[str, Produced]
    stages: tuple[tuple[str, int, float], ...]
    """(stage, partitions, seconds from its first task's start to its last one's end)."""
    seconds: float
    rejected: Mapping[str, int]
    """Source step: rows that it left out; those that are kept are in the run's folder, `bad_rows/<step>.csv`."""


def execute(
    plan: Plan,
    executor: str | None = None,
    *,
    to: str | None = None,
    head: int = 10,
    say: Say = lambda text: None,
    performance_report: bool = False,
    show_progress: bool = False,
    done: Callable[[Executor, Result], None] = lambda executor, result: None,
    layout: Layout | None = None,
) -> Result:
    """One run, from plan to record. `done` is called with the executor still open."""
    began = time.time()
    if to is not None:
        plan.step(to)
    staged = cut(plan, (to,) if to is not None else (), layout)
    with _folder(plan.spec, staged, began) as (folder, record):
        mark = folder.name.rsplit("-", 1)[-1]
        report_path = folder / "performance_report.html" if performance_report else None
        with (
            _temporaries(staged, folder, mark),  # outside: tasks still at work could leave more
            _executor(plan.spec, staged, executor, report_path) as opened,
        ):
            if opened.dashboard:
                say(f"dashboard: {opened.dashboard}")
            say(f"running {plan.spec.name} on {opened.described}")
            opened.reaches(folder)
            opened.ship(_codes(staged))
            with _room(plan.spec, staged, opened) as where:
                lowered = lower(staged, room=where, ending=Ending(str(folder), mark, head))
                progress = Progress()
                with report.shown(progress, _totals(staged, lowered) if show_progress else {}):
                    parts = _compute(opened, staged, lowered, progress)
            outputs = {target: _commit(staged, target, found, folder, mark, head) for target, found in parts.items()}
            stages = tuple(_timed(staged, lowered, progress))
            result = Result(folder, outputs, stages, time.time() - began, _rejected(folder))
            opened.finished()
            record(result, opened.described)
            done(opened, result)
    return result


def _compute(executor: Executor, staged: Staged, lowered: Lowered, progress: Progress) -> dict[str, list[Part]]:
    """Checkpoints first, each kept until the last that reads it is done; then all ends at once."""
    graph: Graph = dict(lowered.graph)
    checkpoints = [stages for name, stages in staged.tables.items() if staged.plan.nodes[name].checkpoint]
    kept = [stage for stages in checkpoints for stage in stages]
    ends = {target: ending_keys(staged, lowered, target) for target in staged.targets}
    final = {stage.key for target in staged.targets for stage in needed(staged.tables[target], kept)}
    jobs = [{s.key for stage in stages for s in needed(stage.upstreams, kept)} for stages in checkpoints]
    for i, stages in enumerate(checkpoints):
        graph.update(executor.persist(lowered.table(stages, graph), progress))
        later = final.union(*jobs[i + 1 :])
        for done in (stage for stages in checkpoints[: i + 1] for stage in stages):
            if done.key not in later:
                for key in lowered.keys[done.key]:
                    graph.pop(key, None)  # nothing else refers to it: its memory is free
    results = iter(executor.compute(graph, [key for target in staged.targets for key in ends[target]], progress))
    return {target: [next(results) for _ in ends[target]] for target in staged.targets}


def _room(spec: Spec, staged: Staged, executor: Executor) -> AbstractContextManager[Room | None]:
    """For rows on their way. Where processes share no disk there is none: they travel from worker to worker."""
    kinds = {link.exchange.kind for stage in staged.stages for link in stage.links}
    if not executor.shares_disk or not kinds & {"hash", "range"}:
        return nullcontext(None)
    import psutil
    from dask.utils import parse_bytes

    memory = (
        parse_bytes(spec.executor.memory_limit) if spec.executor.memory_limit else psutil.virtual_memory().available
    )
    return room(
        spec.root / (spec.executor.scratch or "runs/.exchanges"),
        int(memory * _IN_MEMORY) if executor.shares_memory else 0,
    )


def _commit(staged: Staged, target: str, parts: list[Part], folder: Path, mark: str, head: int) -> Produced:
    """Gives what was written its final name."""
    first = pl.concat([part.head for part in parts]).head(head)
    rows = sum(part.rows for part in parts)
    output = staged.plan.nodes[target].bound
    if not isinstance(output, Output):
        return Produced(target, rows, first)
    path = resolved(output, str(folder))
    try:
        if path.exists() and not output.overwrite:
            raise MachineError(
                Issue(f"{path} appeared while the run was at work", "add `overwrite: true`, or choose another path")
            )
        if output.per_partition:
            whole = temporary(path, mark)
            whole.mkdir()
            for i, part in enumerate(parts):
                os.replace(str(part.path), whole / f"part-{i:05d}.{output.format}")
            if path.is_dir():
                shutil.rmtree(path)
            os.replace(whole, path)
        else:
            os.replace(str(parts[0].path), path)
    except OSError as error:
        raise MachineError(Issue(f"cannot write {path}: {error.strerror}", "choose another path")) from None
    return Produced(target, rows, first, path, sum(part.bytes for part in parts))


def _rejected(folder: Path) -> dict[str, int]:
    """Step: the number of rows left out. Those to keep become one file for each step."""
    counts = dict[str, int]()
    for step in sorted((folder / REJECTS).iterdir()) if (folder / REJECTS).exists() else ():
        rows = pl.concat([pl.read_parquet(path) for path in sorted(step.glob("*.parquet"))]).sort("file", "row")
        counts[step.name] = len(rows)
        if "text" in rows.columns:
            rows.write_csv(folder / REJECTS / f".{step.name}.tmp")
            os.replace(folder / REJECTS / f".{step.name}.tmp", folder / REJECTS / f"{step.name}.csv")
        shutil.rmtree(step)
    return counts


@contextmanager
def _temporaries(staged: Staged, folder: Path, mark: str) -> Iterator[None]:
    """Whatever happens, no file under a temporary name stays."""
    try:
        yield
    finally:
        for target in staged.targets:
            output = staged.plan.nodes[target].bound
            if isinstance(output, Output):
                path = resolved(output, str(folder))
                for left in path.parent.glob(f".{glob.escape(path.name)}.{mark}.*.tmp"):
                    shutil.rmtree(left) if left.is_dir() else left.unlink(missing_ok=True)


@contextmanager
def _folder(spec: Spec, staged: Staged, began: float) -> Iterator[tuple[Path, Callable[[Result, str], None]]]:
    """This run's folder, runs/<time>-<name>-<id>/, and what writes the record of a run that ended well."""
    stamp = datetime.fromtimestamp(began, UTC).strftime("%Y%m%dT%H%M%SZ")
    folder = spec.root / "runs" / f"{stamp}-{spec.name}-{uuid.uuid4().hex[:8]}"
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise MachineError(Issue(f"cannot make {folder}: {error.strerror}", "run where you may write")) from None
    facts: dict[str, Any] = {
        "name": spec.name,
        "config": str(spec.path),
        "params": dict(spec.params),
        "began": datetime.fromtimestamp(began, UTC).isoformat(),
        "kernel": kernel.VERSION,
        "python": platform.python_version(),
    }

    def write(**more: Any) -> None:
        temporary = folder / ".record.json.tmp"
        temporary.write_text(redacted(json.dumps({**facts, **more}, indent=2, default=str)) + "\n")
        os.replace(temporary, folder / "record.json")

    def record(result: Result, executor: str) -> None:
        write(
            exit_code=0,
            executor=executor,
            seconds=round(result.seconds, 3),
            rejected=dict(result.rejected),
            stages=[{"stage": n, "partitions": c, "seconds": round(s, 3)} for n, c, s in result.stages],
            outputs={
                n: {"rows": o.rows, "path": str(o.path) if o.path else None, "bytes": o.bytes}
                for n, o in result.outputs.items()
            },
        )

    try:
        yield folder, record
    except BaseException as error:
        code = (
            error.exit_code if isinstance(error, PipelineError) else 130 if isinstance(error, KeyboardInterrupt) else 1
        )
        write(exit_code=code, error=str(error) or type(error).__name__, seconds=round(time.time() - began, 3))
        raise


def _codes(staged: Staged) -> list[Code]:
    """The user's code that the stages call."""
    nodes = staged.plan.upstream(staged.targets)
    return list({function.digest: provided(function) for node in nodes for function in node.functions}.values())


def _executor(spec: Spec, staged: Staged, kind: str | None, report_path: Path | None) -> Executor:
    """The executor that is asked for: a name or an address, else what the config says. Not opened yet."""
    options = spec.executor
    kind = kind or options.kind
    if kind == "serial":
        from pipelines.executors.inprocess import Serial

        return Serial()
    if kind == "threads":
        from pipelines.executors.inprocess import Threads

        return Threads(options.threads)
    size: dict[str, Any] = {
        "workers": options.workers,
        "threads": options.threads,
        "memory_limit": options.memory_limit,
    }
    if kind == "processes":
        from pipelines.executors.processes import Processes

        return Processes(**size)
    if kind == "local":
        from pipelines.executors.local import Local

        asked = options.workers is not None or options.memory_limit is not None
        python = any(stage.runs_python for stage in staged.stages)
        return Local(**size, processes=asked or python, dashboard_port=options.dashboard_port, report=report_path)
    address = kind if "://" in kind else options.address if kind == "address" else None
    if address is not None:
        from pipelines.executors.address import Address

        return Address(address)
    if kind == "address":
        raise ConfigError(
            Issue("no address is given", "give it as --executor tcp://host:8786, or `executor: {address: ...}`")
        )
    raise ConfigError(Issue(f"unknown executor {kind!r}", did_you_mean(kind, EXECUTORS)))


def _totals(staged: Staged, lowered: Lowered) -> dict[str, tuple[str, int]]:
    return {lowered.keys[stage.key][0][0]: (stage.name, stage.count) for stage in staged.stages if stage.count}


def _timed(staged: Staged, lowered: Lowered, progress: Progress) -> Iterator[tuple[str, int, float]]:
    for stage in staged.stages:
        timing = progress.timings.get(lowered.keys[stage.key][0][0]) if stage.count else None
        yield stage.name, stage.count, max(0.0, timing.stop - timing.start) if timing else 0.0
