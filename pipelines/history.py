"""Earlier runs: what their records say, and that in words: a list, one of them, two beside each other."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

from msgspec import Struct
from pydantic import AllowInfNan, BaseModel, ConfigDict

from pipelines.errors import ConfigError, Issue, did_you_mean
from pipelines.record import State
from pipelines.report import seconds
from pipelines.stores import columns
from pipelines.types import size_text


class Past(Struct, frozen=True):
    """A run that was: what its record says."""

    folder: Path
    facts: Mapping[str, Any]

    @property
    def state(self) -> State:
        state: State = self.facts["state"]
        return "killed" if state == "running" and not _is_held(self.folder) else state


class _Read(BaseModel):
    """What a record has to have where it is read again; it may have more."""

    model_config = ConfigDict(strict=True, defer_build=True, allow_inf_nan=False)


class _Machine(_Read):
    host: str
    system: str
    processors: int | None
    memory_bytes: int


class _Stage(_Read):
    stage: str
    partitions: int
    reused: int
    tasks: int
    rows: int | None
    bytes: int | None
    seconds: float
    peak_memory_bytes: int | None
    retries: int


class _Step(_Read):
    step: str
    columns: dict[str, Any]
    identity: str


class _Plan(_Read):
    steps: list[_Step] = []


class _Checkpoint(_Read):
    did: str


class _Output(_Read):
    rows: int
    bytes: int
    path: str | None
    sha256: str = ""
    metrics: dict[str, Annotated[float, AllowInfNan()] | None] = {}


class _Facts(_Read):
    run: str
    name: str
    state: State
    exit_code: int | None
    config: str
    params: dict[str, Any]
    began: str
    started: float
    seconds: float
    peak_memory_bytes: int | None
    spilled_bytes: int | None
    machine: _Machine
    versions: dict[str, Any]
    stages: list[_Stage]
    retries: list[str | dict[str, Any]]
    losses: list[str | dict[str, Any]]
    warnings: list[str | dict[str, Any]]
    executor: str | None = None
    error: str | None = None
    plan: _Plan = _Plan()
    checkpoints: dict[str, _Checkpoint] = {}
    outputs: dict[str, _Output] = {}


def past(root: Path) -> list[Past]:
    """All runs of the project, the oldest first; folders without a readable record are left out."""
    found = list[Past]()
    for path in (root / "runs").glob("*/record.json"):
        with suppress(ValueError, OSError, RecursionError):
            facts = json.loads(path.read_text(encoding="utf-8"))
            _Facts.model_validate(facts)
            found.append(Past(path.parent, facts))
    return sorted(found, key=lambda run: float(run.facts["started"]))


def chosen(runs: Iterable[Past], text: str) -> Past:
    """The run that a name, the end or the beginning of one, or `last` means. Raises ConfigError."""
    runs = list(runs)
    if not runs:
        raise ConfigError(Issue("there are no runs here", "run a pipeline first, or go to its project"))
    if text == "last":
        return runs[-1]
    name = text.rstrip("/").rsplit("/", 1)[-1]
    found = [run for run in runs if run.folder.name == name]
    found = found or [run for run in runs if run.folder.name.endswith(name) or run.folder.name.startswith(name)]
    if len(found) == 1:
        return found[0]
    if found:
        raise ConfigError(Issue(f"{text!r} means {len(found)} runs", "; ".join(run.folder.name for run in found[:5])))
    raise ConfigError(Issue(f"there is no run {text!r}", did_you_mean(text, [run.folder.name for run in runs])))


def _is_held(folder: Path) -> bool:
    with suppress(OSError):
        opened = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(opened, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
        finally:
            os.close(opened)
    return False


# ---- in words


def listed(runs: Sequence[Past]) -> str:
    """The newest last."""
    if not runs:
        return "there are no runs here"
    rows = [("run", "state", "time", "executor", "reused", "outputs")]
    for run in runs:
        outputs = ", ".join(f"{name} {out['rows']:,}" for name, out in run.facts.get("outputs", {}).items())
        stages = run.facts.get("stages", [])
        made, reused = sum(s["partitions"] for s in stages), sum(s["reused"] for s in stages)
        part = f"{reused} of {made + reused}" if reused else ""
        took = seconds(run.facts["seconds"])
        rows.append((run.folder.name, _state(run), took, run.facts.get("executor") or "", part, outputs))
    return columns(rows)


def shown(run: Past) -> str:
    """All that matters of a run."""
    facts = run.facts
    machine, versions = facts["machine"], facts["versions"]
    memory = size_text(machine["memory_bytes"])
    text = [
        f"{run.folder.name}: {_state(run)}",
        f"  config     {facts['config']}",
        *(f"  parameter  {name} = {value}" for name, value in facts["params"].items()),
        f"  began      {facts['began']}, {seconds(facts['seconds'])}",
        f"  executor   {facts.get('executor')}",
        f"  machine    {machine['host']}, {machine['processors']} processors, {memory}, {machine['system']}",
        f"  versions   {', '.join(f'{name} {version}' for name, version in versions.items())}",
        f"  memory     {_size(facts['peak_memory_bytes'])} at most, spilled {_size(facts['spilled_bytes'])}",
    ]
    if facts.get("error"):
        text += ["error:", *(f"  {line}" for line in facts["error"].splitlines())]
    if checkpoints := facts.get("checkpoints"):
        text += ["checkpoints:", *(f"  {step}: {each['did']}" for step, each in checkpoints.items())]
    text += ["stages:", _indented(columns(list(_stages(facts))))]
    if outputs := facts.get("outputs"):
        rows = [("step", "rows", "size", "sha256", "path")]
        for name, out in outputs.items():
            rows.append(
                (name, f"{out['rows']:,}", size_text(out["bytes"]), out.get("sha256", "")[:12], out["path"] or "")
            )
        text += ["outputs:", _indented(columns(rows))]
        found = {name: out["metrics"] for name, out in outputs.items() if out.get("metrics")}
        text += [
            f"  {name}: " + ", ".join(f"{k} {'-' if v is None else f'{v:.6g}'}" for k, v in each.items())
            for name, each in found.items()
        ]
    if rejected := facts.get("rejected"):
        text += ["bad rows left out:", *(f"  {step}: {count:,}" for step, count in rejected.items())]
    for what in ("warnings", "retries", "losses"):
        if facts[what]:
            text += [f"{what}:", *(f"  {_line(each)}" for each in facts[what])]
    text.append(f"more in {run.folder}: record.json, config.yaml, log.jsonl")
    return "\n".join(text)


def compared(one: Past, other: Past) -> str:
    """What differs between two runs: what was asked for, with what, how long it took, and what came out."""
    first, second = one.facts, other.facts
    text = [f"{one.folder.name} ({_state(one)}) and {other.folder.name} ({_state(other)})"]
    for what in ("config", "executor", "command"):
        if first.get(what) != second.get(what):
            text.append(f"{what}: {first.get(what)} → {second.get(what)}")
    for what in ("params", "machine", "versions"):
        text += [f"{what}: {line}" for line in _differences(first[what], second[what])]
    ours, theirs = (
        {step["step"]: step for step in facts.get("plan", {}).get("steps", [])} for facts in (first, second)
    )
    for step in dict.fromkeys((*ours, *theirs)):
        a, b = ours.get(step), theirs.get(step)
        if a is None or b is None:
            text.append(f"step {step}: only in the {'second' if a is None else 'first'}")
        elif a["identity"] != b["identity"]:
            changed = list(_differences(a["columns"], b["columns"]))
            text.append(f"step {step}: another table" + (f" ({'; '.join(changed)})" if changed else ""))
    rows = [("stage", "seconds", "", "rows", "", "peak memory", "")]
    stages = [{stage["stage"]: stage for stage in facts.get("stages", [])} for facts in (first, second)]
    for name in dict.fromkeys((*stages[0], *stages[1])):
        a, b = (each.get(name, {}) for each in stages)
        rows.append(
            (name, *(_cell(each, what) for what in ("seconds", "rows", "peak_memory_bytes") for each in (a, b)))
        )
    rows.append(("all", f"{first['seconds']:.2f}", f"{second['seconds']:.2f}", "", "", _size(first["peak_memory_bytes"]), _size(second["peak_memory_bytes"])))  # fmt: skip
    text += ["stages:", _indented(columns(rows)), "outputs:"]
    outputs = [facts.get("outputs", {}) for facts in (first, second)]
    for name in dict.fromkeys((*outputs[0], *outputs[1])):
        a, b = (each.get(name) for each in outputs)
        if a is None or b is None:
            text.append(f"  {name}: only in the {'second' if a is None else 'first'}")
        elif a.get("sha256") and a.get("sha256") == b.get("sha256"):
            text.append(f"  {name}: the same bytes ({a['rows']:,} rows)")
        else:
            same = "" if a.get("sha256") else ", not written, so not compared"
            text.append(f"  {name}: {a['rows']:,} → {b['rows']:,} rows{same or ', other bytes'}")
        if a and b:
            text += [f"    {line}" for line in _differences(a.get("metrics", {}), b.get("metrics", {}))]
    return "\n".join(text)


def _state(run: Past) -> str:
    code = run.facts["exit_code"]
    return run.state if code in (None, 0) else f"{run.state}, exit code {code}"


def _stages(facts: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    yield ("stage", "partitions", "reused", "rows", "size", "time", "peak memory", "retries")
    for s in facts["stages"]:
        rows, size = ("", "") if s["rows"] is None else (f"{s['rows']:,}", size_text(s["bytes"]))
        done = f"{s['tasks']}" if s["tasks"] >= s["partitions"] else f"{s['tasks']} of {s['partitions']}"
        peak, retries = _size(s["peak_memory_bytes"]), str(s["retries"] or "")
        yield (s["stage"], done, str(s["reused"] or ""), rows, size, seconds(s["seconds"]), peak, retries)


def _cell(stage: Mapping[str, Any], what: str) -> str:
    value = stage.get(what)
    if value is None:
        return "-"
    return f"{value:.2f}" if what == "seconds" else f"{value:,}" if what == "rows" else size_text(value)


def _differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> Iterator[str]:
    for name in dict.fromkeys((*one, *other)):
        if one.get(name) != other.get(name):
            yield f"{name} {one.get(name)} → {other.get(name)}"


def _size(value: int | None) -> str:
    return "-" if value is None else size_text(value)


def _line(fact: Any) -> str:
    return fact if isinstance(fact, str) else ", ".join(f"{name} {value}" for name, value in fact.items())


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.splitlines())
