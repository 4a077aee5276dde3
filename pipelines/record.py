"""The record of a run: written while it goes, so that one that is killed has it too.

In the run's folder: `record.json` (what is asked for, on what, what was done so far and how it ended), `config.yaml` (parameters
put in, secrets left out), `log.jsonl`. Who writes them holds a lock on the folder; where `exit_code` is null and the
lock is free, the run was killed.
"""

from __future__ import annotations

import fcntl
import importlib.metadata
import json
import os
import platform
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import yaml

from pipelines import kernel
from pipelines.checkpoint import Durable
from pipelines.errors import Issue, MachineError, redacted
from pipelines.executors.base import Executor, Progress
from pipelines.spec import RETRIES, Spec
from pipelines.stages import Staged
from pipelines.types import described
from pipelines.values import finite

_PACKAGES = ("pipelines", "dask", "distributed", "polars", "pyarrow", "pandas", "numpy")
_LOOK_SECONDS, _WRITE_SECONDS = 0.5, 2.0
State = Literal["running", "done", "failed", "stopped", "killed"]


@dataclass
class StageFacts:
    """What is known of a stage's tasks."""

    name: str
    steps: tuple[str, ...]
    partitions: int = 0
    """To be made in this run."""
    reused: int = 0
    rows: int = 0
    bytes: int = 0
    retries: int = 0
    tasks: int = 0
    seconds: float = 0.0
    """From the start of the first task to the end of the last."""
    busy: float = 0.0
    peak: int | None = None


@dataclass
class Record:
    """Of one run. Its methods may be called from any thread."""

    folder: Path
    log: Log
    facts: dict[str, Any]
    stages: dict[str, StageFacts] = field(default_factory=dict)
    """By stage key."""
    samples: list[tuple[float, int, int | None]] = field(default_factory=list)
    """(time, bytes of memory of all processes, bytes that workers spilled)."""
    beats: list[Callable[[], None]] = field(default_factory=list)
    """To be called now and then while the run goes."""
    executor: Executor | None = None
    progress: Progress | None = None
    tasks: Mapping[str, str] = field(default_factory=dict)
    """Task name: stage key."""
    failed: dict[str, tuple[int, str]] = field(default_factory=dict)
    """Function of a `map`: how many of its items failed, and one of them."""
    traced: set[str] = field(default_factory=set)
    """Functions of the user's of which the log has a traceback."""
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def note(self, **facts: Any) -> None:
        """Adds to what is known; soon it is written."""
        with self._lock:
            self.facts.update(facts)

    def warn(self, text: str) -> None:
        self.log.say(text, level="warning")
        with self._lock:
            self.facts["warnings"].append(redacted(text))

    @property
    def seconds(self) -> float:
        """Since the run began."""
        return time.time() - float(self.facts["started"])

    def planned(
        self,
        staged: Staged,
        counts: Mapping[str, int],
        durable: Durable | None,
        progress: Progress,
        names: Mapping[str, str],
    ) -> None:
        """What is to be done now: of each stage (by key) so many partitions; names: task name → stage key."""
        with self._lock:
            self.progress, self.tasks = progress, names
            for stage in staged.stages:
                known = self.stages.setdefault(stage.key, StageFacts(stage.name, stage.steps))
                known.partitions = known.tasks + counts.get(stage.key, 0)  # done before a restart, and to be made
                known.reused = durable.count((stage,))[0] if durable else 0

    def look(self) -> None:
        """Hears what tasks told, and looks at clocks and memory."""
        with self._lock:
            if (executor := self.executor) is None:
                return
            for event in executor.events():
                self.heard(event)
            if (memory := executor.memory()) is not None:
                self.samples.append((time.time(), *memory))
            for name, timing in list(self.progress.timings.items()) if self.progress else ():
                if (stage := self.stages.get(self.tasks.get(name, ""))) is not None and timing.stop:
                    stage.seconds = max(0.0, timing.stop - timing.start)
                    stage.busy = timing.busy
                    during = [m for at, m, _ in self.samples if timing.start - _LOOK_SECONDS <= at <= timing.stop]
                    stage.peak = max(during, default=stage.peak)

    def heard(self, event: Mapping[str, Any]) -> None:
        stage = self.stages.get(str(event.get("stage")))
        match event["what"]:
            case "done" if stage is not None:
                stage.rows += event["rows"]
                stage.bytes += event["bytes"]
                stage.tasks += 1
            case "retry":
                if stage is not None:
                    stage.retries += 1
                where = stage.name if stage is not None else event["stage"]
                self.log.say(f"{where}: tried again after: {event['error']}", level="warning", show=False)
                self.facts["retries"].append({"stage": where, "error": redacted(event["error"])})
            case "kept":
                kept = self.facts["kept"].setdefault(event["step"], {"partitions": 0, "bytes": 0, "seconds": 0.0})
                kept["partitions"] += 1
                kept["bytes"] += event["bytes"]
                kept["seconds"] = round(kept["seconds"] + event["seconds"], 3)
            case "failed":
                count, first = self.failed.get(event["function"], (0, event["first"]))
                self.failed[event["function"]] = count + event["count"], first
            case "traceback" if event["function"] not in self.traced:  # the others are alike, and may be many
                self.traced.add(event["function"])
                self.log.say(f"{event['function']} failed", level="error", show=False, traceback=event["text"])
            case "warning":
                self.warn(f"{stage.name if stage is not None else event['stage']}: {event['message']}")
            case "loss":
                self.facts["losses"].append({name: fact for name, fact in event.items() if name != "what"})
                self.log.say(f"lost {event['worker']}: {event['why']}", level="warning")

    def write(self) -> None:
        with self._lock:
            spilled = [s for _, _, s in self.samples if s is not None]
            facts = {
                **self.facts,
                "seconds": round(self.seconds, 3),
                "peak_memory_bytes": max((m for _, m, _ in self.samples), default=None),
                "spilled_bytes": max(spilled, default=None),
                "stages": [
                    {
                        "stage": s.name,
                        "steps": list(s.steps),
                        "partitions": s.partitions,
                        "reused": s.reused,
                        "tasks": s.tasks,
                        "rows": s.rows if s.tasks else None,
                        "bytes": s.bytes if s.tasks else None,
                        "seconds": round(s.seconds, 3),
                        "busy_seconds": round(s.busy, 3),
                        "peak_memory_bytes": s.peak,
                        "retries": s.retries,
                    }
                    for s in self.stages.values()
                ],
            }
            _put(self.folder / "record.json", json.dumps(finite(_hidden(facts)), indent=2) + "\n")

    def watched(self, stop: threading.Event) -> None:
        """In a thread of its own, until told to stop."""
        written = -_WRITE_SECONDS  # a file system may take long to put a file in another's place: not for each change
        while not stop.wait(_LOOK_SECONDS):
            with suppress(Exception):  # a full disk must not end what the run does elsewhere
                self.look()
                if time.monotonic() - written >= _WRITE_SECONDS:
                    written = time.monotonic()
                    for beat in self.beats:  # first: the store may be on another disk
                        beat()
                    self.write()


@dataclass
class Log:
    """What a run says: to people or, as JSON lines, to programs; and to its log file."""

    show: Callable[[str], None]
    as_json: bool = False
    path: Path | None = None

    def say(self, text: str, *, level: str = "info", show: bool = True, **facts: Any) -> None:
        """One line; `show`: on the terminal too, not only in the file."""
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        line = json.dumps(finite(_hidden({"time": now, "level": level, "message": text, **facts})))
        if self.path is not None:
            with suppress(OSError), self.path.open("a", encoding="utf-8") as file:
                file.write(line + "\n")
        if show:
            self.show(line if self.as_json else text)


@contextmanager
def recorded(spec: Spec, log: Log) -> Iterator[Record]:
    """A run's folder, runs/<time>-<name>-<id>/, and what is written there. Raises MachineError where that cannot be."""
    began = time.time()
    stamp = datetime.fromtimestamp(began, UTC).strftime("%Y%m%dT%H%M%SZ")
    folder = spec.root / "runs" / f"{stamp}-{spec.name}-{uuid.uuid4().hex[:8]}"
    try:
        folder.mkdir(parents=True)
        held = os.open(folder, os.O_RDONLY)
        fcntl.flock(held, fcntl.LOCK_EX)
        log.path = folder / "log.jsonl"
        (folder / "config.yaml").write_text(yaml.safe_dump(_hidden(config(spec)), sort_keys=False, allow_unicode=True))
        record = Record(folder, log, _facts(spec, folder, began))
        record.write()
    except OSError as error:
        raise MachineError(Issue(f"cannot make {folder}: {error.strerror}", "run where you may write")) from None
    stop = threading.Event()
    watcher = threading.Thread(target=record.watched, args=(stop,), name="record", daemon=True)
    watcher.start()
    try:
        yield record
    except BaseException as error:
        code = getattr(error, "exit_code", 130 if isinstance(error, KeyboardInterrupt) else 1)
        state = "stopped" if code == 130 else "failed"
        # what tasks told since the last look
        with suppress(Exception):
            record.look()
        log.say(str(error) or type(error).__name__, level="error", show=False)
        with suppress(OSError):  # the error itself matters more
            record.note(state=state, exit_code=code, error=str(error) or type(error).__name__)
            record.write()
        raise
    finally:
        stop.set()
        watcher.join()
        os.close(held)


def _facts(spec: Spec, folder: Path, began: float) -> dict[str, Any]:
    import psutil

    return {
        "run": folder.name,
        "name": spec.name,
        "state": "running",
        "exit_code": None,
        "config": str(spec.path),
        "command": redacted(" ".join(sys.argv)),
        "params": dict(spec.params),
        "began": datetime.fromtimestamp(began, UTC).isoformat(timespec="milliseconds"),
        "started": began,
        "process": os.getpid(),
        "machine": {
            "host": platform.node(),
            # platform.platform() would start `uname`
            "system": f"{platform.system()}-{platform.release()}-{platform.machine()}",
            "processors": os.cpu_count(),
            "memory_bytes": psutil.virtual_memory().total,
        },
        "versions": {"python": platform.python_version(), "kernel": kernel.VERSION, **_versions()},
        "retries": [],
        "losses": [],
        "warnings": [],
        "kept": {},
    }


def _versions() -> dict[str, str]:
    found = dict[str, str]()
    for package in _PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):
            # .version parses all of the text as a mail: 0.1 s for these
            text = importlib.metadata.distribution(package).read_text("METADATA") or ""
            found[package] = text.partition("\nVersion: ")[2].partition("\n")[0]
    return found


def plan_facts(staged: Staged) -> dict[str, Any]:
    """The plan, for the record."""
    return {
        "steps": [
            {
                "step": node.name,
                "kind": node.kind,
                "inputs": list(node.inputs),
                "columns": described(node.schema),
                "identity": node.identity,
            }
            for node in staged.plan.upstream(staged.targets)
        ],
        "passes": [{"pass": name, "did": did} for name, did in staged.notes],
        "exchanges": [
            {"into": stage.name, "kind": link.exchange.kind, "from": [before.name for before in link.stages]}
            for stage in staged.stages
            for link in stage.links
        ],
    }


def config(spec: Spec) -> dict[str, Any]:
    """The config as it is run: overlays and parameters put in."""
    steps = dict[str, Any]()
    for step in spec.steps:
        steps[step.name] = {
            step.step.kind: step.options.plain(),
            **({"from": step.inputs[0] if len(step.inputs) == 1 else list(step.inputs)} if step.inputs else {}),
            **({"checkpoint": step.checkpoint} if step.checkpoint else {}),
            **({"retries": step.retries} if step.retries != RETRIES else {}),
            **({"timeout": f"{step.timeout:g} s"} if step.timeout else {}),
        }
    return {
        "name": spec.name,
        **({"description": spec.description} if spec.description else {}),
        "executor": spec.executor.model_dump(exclude_defaults=True) or {"kind": spec.executor.kind},
        **({"store": spec.store.model_dump(exclude_defaults=True)} if spec.store else {}),
        "steps": steps,
    }


def _hidden(value: Any) -> Any:
    """Without secrets. Before it becomes YAML or JSON: stars in place of digits are neither."""
    if isinstance(value, Mapping):
        return {str(key): _hidden(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_hidden(each) for each in value]
    return value if value is None or isinstance(value, bool | int | float) else redacted(str(value))


def _put(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)
