"""The main path: plan → cut → resume → lower → execute → record."""

from __future__ import annotations

import fcntl
import glob
import hashlib
import os
import re
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import polars as pl
from msgspec import Struct
from msgspec.structs import replace

from pipelines import checkpoint, report
from pipelines.checkpoint import Damaged, Durable, Load, store_of
from pipelines.code import Code, provided
from pipelines.errors import ConfigError, Issue, MachineError, did_you_mean, machine_error
from pipelines.events import HEARD
from pipelines.exchange import Room, room
from pipelines.executors.base import Executor, Limit, Lost, OutOfMemory, Progress
from pipelines.files import under_way, written
from pipelines.graph import Graph, Key, Table, needed
from pipelines.lower import (
    REJECTS,
    Attempt,
    Ending,
    Finish,
    Lowered,
    Part,
    Program,
    ending_keys,
    lower,
    resolved,
    temporary,
)
from pipelines.passes import Layout
from pipelines.plan import Plan, make_plan
from pipelines.record import Log, Record, StageFacts, plan_facts, recorded
from pipelines.spec import EXECUTORS, Spec
from pipelines.stages import Stage, Staged, cut
from pipelines.steps.base import Operation
from pipelines.work import Output, Work

_IN_MEMORY = 0.25
"""What part of the memory exchanges may take before they use files."""
_STARTS = 4
"""So often a run is begun, when schedulers are lost or stored partitions are damaged."""
_FINER = 4
_LEFT_SECONDS = 3600
_LEFT = re.compile(r"(\.[0-9a-f]{8}){2}\.(tmp|old)")
"""How names go on that `temporary` gives."""


class Produced(Struct, frozen=True):
    """One end of a pipeline: a table that was written, or only looked at."""

    step: str
    rows: int
    head: pl.DataFrame
    path: Path | None = None
    bytes: int = 0
    metrics: Mapping[str, float] | None = None


class Result(Struct, frozen=True):
    """What a run did."""

    folder: Path
    outputs: Mapping[str, Produced]
    stages: tuple[StageFacts, ...]
    seconds: float
    rejected: Mapping[str, int]
    """Source step: rows that it left out; those that are kept are in the run's folder, `bad_rows/<step>.csv`."""


class _Asked(Struct, frozen=True):
    """What a run is asked for beside the plan."""

    executor: str | None
    head: int
    performance_report: bool
    show_progress: bool
    fresh: bool
    careful: bool
    """Whether all that is in the store is read before it is used."""
    done: Callable[[Executor, Result], None]


def execute(
    plan: Plan,
    executor: str | None = None,
    *,
    to: str | None = None,
    head: int = 10,
    log: Log | None = None,
    performance_report: bool = False,
    show_progress: bool = False,
    fresh: bool = False,
    done: Callable[[Executor, Result], None] = lambda executor, result: None,
    layout: Layout | None = None,
) -> Result:
    """One run, from plan to record. `fresh`: what is in the store is not used. `done` is called with the executor still open."""
    log = log or Log(lambda text: None)
    if to is not None:
        plan.step(to)
    targets = (to,) if to is not None else ()
    asked = _Asked(executor, head, performance_report, show_progress, fresh, False, done)
    layout = layout or Layout()
    staged = cut(plan, targets, layout)
    with recorded(plan.spec, log) as record, _alone(staged, record):
        for note in plan.notes:
            log.say(f"note: {note}")
        record.note(plan=plan_facts(staged))
        with suppress(OSError):
            record.write()  # who is killed from now on has a record that says what was asked for
        starts = Counter[type[MachineError]]()
        while True:
            try:
                return _started(staged, asked, record)
            except (Damaged, Lost) as error:
                record.look()  # what this executor heard last
                starts[type(error)] += 1
                asked = replace(asked, careful=asked.careful or isinstance(error, Damaged))
                restarts = isinstance(error, Damaged) or record.executor is None or record.executor.restarts
                if not restarts or starts[type(error)] == _STARTS:
                    raise
                record.warn(f"{error.issues[0].message}; the run goes on from the store")
            except OutOfMemory as error:
                record.look()
                steps = (node.name for node in plan.upstream(staged.targets))
                if layout.finer > 1 or not all(_any_layout(plan, step) for step in steps):
                    raise
                layout = replace(layout, finer=_FINER)
                finer = cut(make_plan(plan.spec, _FINER), targets, layout)
                if [stage.count for stage in finer.stages] == [stage.count for stage in staged.stages]:
                    raise
                record.warn(f"{error.issues[0].message}; it is tried again in smaller partitions")
                staged = finer


def _any_layout(plan: Plan, step: str) -> bool:
    bound = plan.nodes[step].bound
    if isinstance(bound, Output):
        return not bound.per_partition
    if isinstance(bound, Work):
        return False
    return bound.any_layout if isinstance(bound, Operation) else True


def _started(staged: Staged, asked: _Asked, record: Record) -> Result:
    """One attempt at all that is not in the store yet."""
    spec, folder, log = staged.plan.spec, record.folder, record.log
    mark = folder.name.rsplit("-", 1)[-1]
    report_path = folder / "performance_report.html" if asked.performance_report else None
    executor = record.executor = _executor(spec, staged, asked.executor, report_path)
    with ExitStack() as stack:
        stack.callback(HEARD.reset, HEARD.set(None))  # a run that another run's task makes has tasks of its own
        durable = stack.enter_context(_resumed(staged, record, asked)) if staged.durable else None
        stack.enter_context(_temporaries(staged, folder, mark))  # outside: tasks still at work could leave more
        where = stack.enter_context(_room(spec, staged, executor))  # closed after the executor, whose tasks use it
        ahead = executor.slots if executor.shares_disk else 0
        ending = Ending(str(folder), mark, asked.head, executor.sees, ahead)
        lowered = lower(staged, room=where, ending=ending, durable=durable)
        doing = f"running {spec.name} on"
        if durable is not None:
            _explained(staged, lowered, durable, record)
            if report_path is None and _is_idle(lowered.graph):
                doing = "nothing to compute: all is in the store, written out by"
                executor = record.executor = _executor(spec, staged, "threads", None)
        opened = stack.enter_context(executor)
        record.note(executor=opened.described)
        with suppress(OSError):
            record.write()
        if opened.dashboard:
            log.say(f"dashboard: {opened.dashboard}", dashboard=opened.dashboard)
        log.say(f"{doing} {opened.described}")
        opened.reaches(folder)
        opened.ship(_codes(staged))
        counts = _counts(staged, lowered)
        names = {lowered.keys[key][0][0]: key for key in counts}
        parts = {name: last for name, key in lowered.parts.items() if name != (last := lowered.keys[key][0][0])}
        tasks = {name: sum(part in lowered.graph for part in lowered.keys[key]) for name, key in names.items()}
        progress = Progress(limits=_limits(staged, tasks, names), parts=parts)
        record.planned(staged, counts, durable, progress, names)
        totals = {name: (record.stages[key].name, tasks[name]) for name, key in names.items()}
        with report.shown(progress, totals if asked.show_progress else {}, log):
            try:
                parts = _compute(opened, staged, lowered, progress)
            except KeyboardInterrupt:
                if opened.shares_memory:  # no function in a thread can be stopped
                    log.say("stopping; Ctrl-C once more does not wait for what is at work")
                raise
        outputs = {target: _commit(staged, target, found, folder, mark, asked.head) for target, found in parts.items()}
        record.look()
        for function, (count, first) in record.failed.items():
            record.warn(
                f"{function} failed on {count:,} item{'s' * (count != 1)}: see the column `error`; one of them is {first}"
            )
        stages = tuple(stage for stage in record.stages.values() if stage.partitions)
        try:
            result = Result(folder, outputs, stages, record.seconds, _rejected(folder))
            opened.finished()
            told = {name: _told(produced) for name, produced in outputs.items()}
            record.note(state="done", exit_code=0, rejected=dict(result.rejected), outputs=told)
            record.write()
        except OSError as error:
            said = f"the outputs are written, but the record in {folder} cannot be"
            raise machine_error(said, error, "make room") from None
        asked.done(opened, result)
        return result


def _told(produced: Produced) -> dict[str, Any]:
    """An output, for the record."""
    facts: dict[str, Any] = {"rows": produced.rows, "path": None, "bytes": produced.bytes}
    if produced.metrics is not None:
        facts["metrics"] = dict(produced.metrics)
    if produced.path is not None:
        facts["path"] = str(produced.path)
        content = hashlib.sha256()
        for path in sorted(produced.path.iterdir()) if produced.path.is_dir() else [produced.path]:
            with path.open("rb") as file:
                content.update(hashlib.file_digest(file, "sha256").digest())
        facts["sha256"] = content.hexdigest()
    return facts


@contextmanager
def _resumed(staged: Staged, record: Record, asked: _Asked) -> Iterator[Durable]:
    """What the store holds of the plan. While the run is at work, nobody removes it."""
    store = store_of(staged.plan.spec)
    with checkpoint.using(store, record.folder.name, checkpoint.names(staged)) as beat:
        record.beats.append(beat)
        try:
            yield checkpoint.resume(staged, store, asked.fresh, asked.careful)
        finally:
            record.beats.remove(beat)


def _explained(staged: Staged, lowered: Lowered, durable: Durable, record: Record) -> None:
    """Says, step by step, what of the store is used, what is computed, and why."""
    told = dict[str, Any]()
    for doubt in durable.doubts:
        record.warn(doubt)
    for step in dict.fromkeys(staged.durable.values()):
        why = checkpoint.reason(durable.store, staged.plan, step)
        why = "--fresh" if durable.fresh else why
        tables = staged.tables[step]
        states = [s for s in staged.stages if staged.durable.get(s.key) == step and s not in tables]
        (have, of), (some, all_) = durable.count(tables), durable.count(states)
        if not any(key in lowered.graph for stage in tables for key in lowered.keys[stage.key]):
            did = "not needed"
        elif have == of:
            did = f"reused, {_partitions(of)}"
        elif have:
            did = f"partly reused, {have} of {_partitions(of)}: {why}"
        elif some:
            did = f"computed from {some} of {_partitions(all_)} that are combined: {why}"
        else:
            did = f"computed: {why}"
        told[step] = {"did": did, "reused": have, "partitions": of, "states_reused": some, "states": all_}
        record.log.say(f"{step}: {did}", step=step, **told[step])
    record.note(checkpoints=told)


def _partitions(count: int) -> str:
    return f"{count:,} partition{'s' * (count != 1)}"


def _is_idle(graph: Graph) -> bool:
    """Whether all that is left is to read from the store and to write or show that."""
    return all(isinstance(call, Load | Finish) or _only_writes(call) for call in map(_call, graph.values()))


def _only_writes(call: Any) -> bool:
    """What joins rows behind an exchange has work to do."""
    if not (isinstance(call, Attempt) and isinstance(call.method, Finish)):
        return False
    program = getattr(call.method.method, "__self__", None)
    return isinstance(program, Program) and not program.applies


def _counts(staged: Staged, lowered: Lowered) -> dict[str, int]:
    """Stage key: how many of its partitions are to be made."""
    made = {stage.key: len(_to_make(lowered, stage)) for stage in staged.stages}
    return {key: count for key, count in made.items() if count}


def _to_make(lowered: Lowered, stage: Stage) -> list[Key]:
    """The keys of the stage's partitions that are needed, and not loaded."""
    graph = lowered.graph
    return [key for key in lowered.keys[stage.key] if key in graph and not isinstance(_call(graph[key]), Load)]


def _call(node: Any) -> Any:
    return getattr(node, "func", None)  # an alias of Dask's has none


def _limits(staged: Staged, tasks: Mapping[str, int], names: Mapping[str, str]) -> dict[str, Limit]:
    """Task name: how long its tasks may take, of which there are so many (those that load what is in the store have the same name)."""
    stages, found = {stage.key: stage for stage in staged.stages}, dict[str, Limit]()
    for name, key in names.items():
        steps = [staged.plan.nodes[step] for step in stages[key].steps]
        limits = [Limit(node.origin or node.name, node.timeout, tasks[name]) for node in steps if node.timeout]
        if limits:
            found[name] = min(limits, key=lambda limit: limit.seconds)
    return found


def _compute(executor: Executor, staged: Staged, lowered: Lowered, progress: Progress) -> dict[str, list[Part]]:
    """Tables to be kept in memory first, each until the last that reads it is done; then all ends at once. A durable table is not
    waited for: what reads a partition goes on with it, and it need not be in memory any longer."""
    graph: Graph = dict(lowered.graph)
    ends = {target: ending_keys(staged, lowered, target) for target in staged.targets}
    final = [key for keys in ends.values() for key in keys]
    kept = [
        [key for stage in stages for key in _to_make(lowered, stage)]
        for name, stages in staged.tables.items()
        if staged.plan.nodes[name].checkpoint == "memory"
    ]
    for i, keys in enumerate(kept):
        if not keys:
            continue
        table = Table(graph, keys, {}, keys[0][0])
        graph.update(executor.persist(table, progress))
        left = needed(graph, [*final, *(key for later in kept[i + 1 :] for key in later)])
        for key in [key for key in graph if key not in left]:
            del graph[key]  # nothing else refers to it: its memory is free
    results = iter(executor.compute(graph, final, progress))
    return {target: [next(results) for _ in keys] for target, keys in ends.items()}


def _room(spec: Spec, staged: Staged, executor: Executor) -> AbstractContextManager[Room | None]:
    """For rows on their way. Where processes share no disk there is none: they travel from worker to worker."""
    kinds = {link.exchange.kind for stage in staged.stages for link in stage.links}
    if not executor.shares_disk or not kinds & {"hash", "range", "work"}:
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
    first = pl.concat([part.head for part in parts])
    if staged.plan.nodes[target].gives.kind == "table" or isinstance(staged.plan.nodes[target].bound, Output):
        first = first.head(head)
    rows = sum(part.rows for part in parts)
    output = staged.plan.nodes[target].output
    if output is None:
        files = parts[0].value.files() if parts and parts[0].value is not None else {}
        for name, content in files.items():
            _put(folder / target / name, content)
        values = dict(parts[0].value.values) if files else None
        return Produced(target, rows, first, folder / target if files else None, sum(map(len, files.values())), values)
    path = resolved(output, str(folder))
    try:
        parts = [_landed(part, path, mark) for part in parts]
        if path.exists() and not output.overwrite:
            raise MachineError(
                Issue(f"{path} appeared while the run was at work", "add `overwrite: true`, or choose another path")
            )
        if output.per_partition:
            whole = temporary(path, mark)
            whole.mkdir()
            for i, part in enumerate(parts):
                os.replace(str(part.path), whole / f"part-{i:05d}.{output.format}")
            _exchanged(path, whole, mark)
        else:
            os.replace(str(parts[0].path), path)
    except OSError as error:
        raise MachineError(Issue(f"cannot write {path}: {error.strerror}", "choose another path")) from None
    return Produced(target, rows, first, path, sum(part.bytes for part in parts))


def _exchanged(path: Path, whole: Path, mark: str) -> None:
    """Puts a folder in another's place. Who is killed meanwhile leaves the old one whole: `_swept` puts it back."""
    aside = temporary(path, mark).with_suffix(".old")
    if path.is_dir() and not path.is_symlink():
        os.replace(path, aside)
    try:
        os.replace(whole, path)
    except BaseException:
        if aside.exists():
            os.replace(aside, path)
        raise
    if aside.exists():
        left = temporary(path, mark)
        os.replace(aside, left)  # from now on it need not be whole
        shutil.rmtree(left, ignore_errors=True)


def _put(path: Path, content: bytes) -> None:
    try:
        with written(str(path)) as file:
            file.write(content)
    except OSError as error:
        raise MachineError(Issue(f"cannot write {path}: {error.strerror}", "make room")) from None


def _landed(part: Part, path: Path, mark: str) -> Part:
    """The part with its file on this machine."""
    if not isinstance(part.content, bytes):
        return part
    file = temporary(path, mark)
    with under_way(str(file)) as opened:
        opened.write(part.content)
        opened.flush()
        os.fsync(opened.fileno())
    return replace(part, path=str(file), content=None)


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
            output = staged.plan.nodes[target].output
            if output is not None:
                path = resolved(output, str(folder))
                for left in path.parent.glob(f".{glob.escape(path.name)}.{mark}.*.tmp"):
                    # of a disk that is lost now the error before says more; `_swept` removes it
                    with suppress(OSError):
                        _removed(left)


@contextmanager
def _alone(staged: Staged, record: Record) -> Iterator[None]:
    """Nobody else writes to the same paths meanwhile. Raises MachineError where somebody does."""
    outputs = [staged.plan.nodes[target].output for target in staged.targets]
    folder = record.folder.resolve()
    paths = [resolved(output, str(folder)) for output in outputs if output]
    with ExitStack() as stack:
        for path in sorted(path for path in paths if not path.resolve().is_relative_to(folder)):
            name = hashlib.blake2b(os.path.realpath(path).encode(), digest_size=16).hexdigest()
            locks = Path(tempfile.gettempdir()) / f"pipelines-{os.getuid()}"  # two projects may write to one place
            try:
                locks.mkdir(mode=0o700, exist_ok=True)
                file = stack.enter_context((locks / name).open("a+"))
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    file.seek(0)
                    raise MachineError(Issue(f"the run {file.read()} is writing to {path}", "wait for it, or choose another path")) from None  # fmt: skip
            except OSError as error:
                raise machine_error(f"cannot lock {path} in {locks}", error, "set TMPDIR to another folder") from None
            with suppress(OSError):  # the lock is held; only its name is not told where the disk is full
                file.truncate(0)
                file.write(record.folder.name)
                file.flush()
            _swept(path)
        yield


def _swept(path: Path) -> None:
    """Of runs that were killed while they wrote this output: puts back what they were to replace, and removes what they left
    beside it an hour ago or more."""
    for old in path.parent.glob(f".{glob.escape(path.name)}.*.old"):
        if _LEFT.fullmatch(old.name[len(path.name) + 1 :]):
            with suppress(OSError):
                os.replace(old, old.with_suffix(".tmp") if os.path.lexists(path) else path)
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        if _LEFT.fullmatch(left.name[len(path.name) + 1 :]):
            with suppress(OSError):
                if time.time() - left.stat().st_mtime > _LEFT_SECONDS:
                    _removed(left)


def _removed(left: Path) -> None:
    shutil.rmtree(left) if left.is_dir() else left.unlink(missing_ok=True)


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
    if kind == "kubernetes":
        from pipelines.executors.kubernetes import Kubernetes

        return Kubernetes(spec)
    address = kind if "://" in kind else options.address if kind == "address" else None
    if address is not None:
        from pipelines.executors.address import Address

        return Address(address)
    if kind == "address":
        raise ConfigError(
            Issue("no address is given", "give it as --executor tcp://host:8786, or `executor: {address: ...}`")
        )
    raise ConfigError(Issue(f"unknown executor {kind!r}", did_you_mean(kind, EXECUTORS)))
