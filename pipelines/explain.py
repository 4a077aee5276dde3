"""What a plan says of itself: each step's table, what each pass did, the stages; as data, and as text from the same data."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import polars as pl

from pipelines import scan
from pipelines.estimates import Estimate, estimate
from pipelines.plan import Node, Plan
from pipelines.source import RUN, Scalar, scalar_text
from pipelines.source import Node as Yaml
from pipelines.spec import StepSpec
from pipelines.stages import Exchange, Stage, Staged, With
from pipelines.steps.base import Input, Joining, Keyed, Operation, Sorting
from pipelines.types import described, size_text
from pipelines.work import Output

_KEPT = {None: "", "memory": " (kept in memory)", "disk": " (kept on disk)"}


def facts(staged: Staged) -> dict[str, Any]:
    """The plan as plain data: `steps`, `passes` and `stages`, in the order in which things happen. Samples the files."""
    plan = staged.plan
    found = estimate(plan)
    return {
        "name": plan.spec.name,
        "description": plan.spec.description,
        "steps": [_step(plan, node, found[node.name]) for node in plan.nodes.values() if not node.origin],
        "passes": {
            "columns": list(_pruned(staged)),
            "filters": list(_pushed(staged)),
            "notes": [{"pass": name, "did": did} for name, did in staged.notes],
            "stages": [_stage(staged, stage) for stage in staged.stages],
        },
    }


def summary(plan: Plan, name: str) -> str:
    """The step's options on one line."""
    options = _spec(plan, name).options
    if isinstance(options.value, dict):
        return ", ".join(f"{key}: {_flow(value)}" for key, value in options.value.items())
    return _flow(options)


def _spec(plan: Plan, name: str) -> StepSpec:
    name = plan.nodes[name].origin or name
    return next(step for step in plan.spec.steps if step.name == name)


def _flow(node: Yaml) -> str:
    if isinstance(node.value, dict):
        return "{" + ", ".join(f"{key}: {_flow(value)}" for key, value in node.value.items()) + "}"
    if isinstance(node.value, tuple):
        return "[" + ", ".join(map(_flow, node.value)) + "]"
    return _scalar(node.value)


def _scalar(value: Scalar) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return " ".join(str(value).split())


def links(stage: Stage) -> list[tuple[Stage, Exchange]]:
    """The stages that this one takes its partitions from, and how."""
    return [(before, link.exchange) for link in stage.links for before in link.stages]


def _step(plan: Plan, node: Node, estimated: Estimate) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "step": node.name,
        "kind": node.kind,
        "from": list(_spec(plan, node.name).inputs),
        "options": summary(plan, node.name),
        "columns": described(node.schema),
        "checkpoint": node.checkpoint,
        "python": node.runs_python,
        "rows": round(estimated.rows),
        "bytes": round(estimated.bytes),
        "exact": estimated.exact,
        "estimate": estimated.origin,
    }
    if isinstance(node.bound, Input):
        facts |= {
            "partitions": len(node.bound.partitions),
            "input_bytes": node.bound.bytes,
            "sampled": described(node.bound.sampled),
            "notes": list(node.bound.notes),
        }
    elif node.output is not None:
        facts |= {"path": node.output.path, "format": node.output.format}
    if node.gives.kind not in ("table", "nothing"):
        facts["value"] = str(node.gives)
    return facts


def _pruned(staged: Staged) -> Iterator[dict[str, Any]]:
    """Of each source: the columns that anything below needs."""
    for stage in staged.stages:
        if stage.input is not None:
            yield {"step": stage.steps[0], "reads": list(stage.columns), "of": len(stage.input.schema)}


def _pushed(staged: Staged) -> Iterator[dict[str, Any]]:
    """Of each filter in a source's stage: whether Polars tests its rows while it reads. Polars is asked, on an empty file."""
    for stage in staged.stages:
        if stage.input is None or not isinstance(stage.input.loader, scan.Source):
            continue
        frame, left = _stand_in(stage.input.loader, stage.columns), 0
        operations = iter(stage.program)
        for name in stage.steps[1:]:
            apply = next(operations, None)
            node = staged.plan.nodes[name]
            if apply is None or isinstance(apply, With) or not isinstance(node.bound, Operation):
                break
            frame = apply(frame)
            if node.kind == "filter":
                after = frame.explain().count("FILTER ")
                yield {"step": name, "source": stage.steps[0], "pushed": after <= left}
                left = after


def _stand_in(source: scan.Source, columns: tuple[str, ...]) -> pl.LazyFrame:
    """An empty input of the same kind and types."""
    schema = {name: source.schema[name] for name in columns}
    if source.format != "csv":
        return pl.LazyFrame(schema=schema)
    parsed = dict(source.csv.dates)
    texts = {name: pl.String() if name in parsed else dtype for name, dtype in schema.items()}
    return pl.scan_csv(b"", schema=texts, has_header=False).with_columns(
        pl.col(name).str.strptime(schema[name], form)  # type: ignore[arg-type]
        for name, form in parsed.items()
        if name in schema
    )


def _stage(staged: Staged, stage: Stage) -> dict[str, Any]:
    return {
        "stage": stage.name,
        "steps": list(stage.steps),
        "partitions": stage.count,
        "columns": list(stage.schema),
        "partial": part(staged, stage, stage.steps[-1]),
        "from": [
            {"stage": upstream.name, "partitions": upstream.count, "exchange": exchange.kind, "keys": by(stage, exchange), "why": why(staged, stage, upstream, exchange)}
            for upstream, exchange in links(stage)
        ],
        "writes": stage.sink.format if stage.sink else None,
    }  # fmt: skip


def by(stage: Stage, exchange: Exchange) -> list[str]:
    """The columns that decide where a row goes."""
    return [name for name in (exchange.order.by if exchange.order else exchange.keys) if name in stage.schema]


def part(staged: Staged, stage: Stage, step: str) -> str:
    """What of the step happens in the stage when a later one goes on with it; empty when the step ends here."""
    later = staged.stages[staged.stages.index(stage) + 1 :]
    if not any(step in other.steps for other in later):
        return ""
    return "in part" if stage.program else "its rows"


def why(staged: Staged, stage: Stage, upstream: Stage, exchange: Exchange) -> str:
    """The reason for the cut between two stages."""
    step = stage.steps[0]
    node = staged.plan.nodes[step]
    if exchange.kind == "work":
        return f"{step} makes tasks of its own"
    if exchange.kind == "tree":
        return f"{step} combines its parts, in groups"
    if exchange.kind == "broadcast":
        return f"every partition of {step} gets all of it"
    if exchange.kind == "range":
        if isinstance(node.bound, Sorting) or not isinstance(node.bound, Keyed | Joining):
            return f"{step} puts rows in order"
        return f"the rows of {step} in order"
    if exchange.kind == "hash":
        return f"{step} needs rows with the same {', '.join(exchange.keys)} together"
    if exchange.kind == "gather":
        if isinstance(node.bound, Output):
            return f"{step} writes one file"
        if step in upstream.steps and part(staged, upstream, step) == "in part":
            return f"{step} puts its partitions together, in order"
        return f"{step} needs all rows in one place, in order"
    last = upstream.steps[-1]
    if checkpoint := staged.plan.nodes[last].checkpoint:
        return f"{last} is kept {'on disk' if checkpoint == 'disk' else 'in memory'}"
    if last in staged.targets:
        return f"{last} is a result"
    return f"{last} is read by several steps"


# Text


def as_json(facts: Mapping[str, Any]) -> str:
    return json.dumps(facts, indent=2, ensure_ascii=False)


def as_text(facts: Mapping[str, Any]) -> str:
    lines = [facts["name"] + (f": {facts['description']}" if facts["description"] else "")]
    lines += ["", "steps, and the columns of their tables"]
    above: dict[str, dict[str, str]] = {}
    for step in facts["steps"]:
        lines += _step_lines(step, above)
        above[step["step"]] = step["columns"]
    passes = facts["passes"]
    lines += ["", "what the planner did"]
    lines += [f"  {line}" for line in _pass_lines(passes)]
    lines += ["", "stages: the steps of each run as one query in every partition"]
    numbers: dict[str, int] = {}
    for i, stage in enumerate(passes["stages"], 1):
        lines += _stage_lines(i, stage, numbers)
        numbers[stage["stage"]] = i
    return "\n".join(lines)


def _step_lines(step: Mapping[str, Any], above: Mapping[str, Mapping[str, str]]) -> Iterator[str]:
    origin = f" from {', '.join(step['from'])}" if step["from"] else ""
    yield f"  {step['step']}: {step['kind']}{origin}{_KEPT[step['checkpoint']]}"
    if step["options"]:
        yield f"      {shortened(step['options'], 110)}"
    if "input_bytes" in step:
        size = f", {size_text(step['input_bytes'])} of input" if step["input_bytes"] else ""
        yield f"      {counted(step['partitions'], 'partition')}{size}"
        yield from (f"      note: {note}" for note in step["notes"])
    yield f"      {step.get('value') or rows_text(step)}"
    if "path" in step:
        if not step["path"].startswith(RUN):
            yield f"      to {step['path']}"
        return
    columns: Mapping[str, str] = step["columns"]
    if step["from"] and columns and above.get(step["from"][0]):
        before = above[step["from"][0]]
        new = {name: dtype for name, dtype in columns.items() if before.get(name) != dtype}
        if [name for name in columns if name in before] == list(before):
            yield f"      the columns of {step['from'][0]}{', and' if new else ''}"
            columns = new
    width = max(map(len, columns), default=0)
    kind = max(map(len, columns.values()), default=0)
    sampled = step.get("sampled", {})
    for name, dtype in columns.items():
        yield f"      {name:{width}}  {dtype:{kind}}{'  sampled' if name in sampled else ''}".rstrip()
    if sampled:
        types = ", ".join(f"{scalar_text(name)}: {scalar_text(dtype)}" for name, dtype in sampled.items())
        yield f"      sampled, to declare: dtypes: {{{types}}}"


def rows_text(step: Mapping[str, Any]) -> str:
    """The step's table in rows and bytes, and where the numbers come from; estimated ones with three digits."""
    rows: int = step["rows"]
    if not step["exact"] and rows >= 1000:
        unit = 10 ** (len(str(rows)) - 3)
        rows = round(rows / unit) * unit
    about = "" if step["exact"] else "about "
    return f"{about}{counted(rows, 'row')}, {size_text(step['bytes'])} in memory ({step['estimate']})"


def _pass_lines(passes: Mapping[str, Any]) -> Iterator[str]:
    for source in passes["columns"]:
        count, of = len(source["reads"]), source["of"]
        names = shortened(", ".join(source["reads"]), 80)
        yield f"columns: {source['step']} reads {f'{count} of its {of}' if count < of else f'all {of}'} columns: {names}"
    for found in passes["filters"]:
        how = (
            "tested while reading" if found["pushed"] else "tested after reading: it needs what steps before it compute"
        )
        yield f"filters: {found['step']} is {how} ({found['source']})"
    yield from (f"{note['pass']}: {note['did']}" for note in passes["notes"])


def _stage_lines(number: int, stage: Mapping[str, Any], numbers: Mapping[str, int]) -> Iterator[str]:
    steps = list(stage["steps"])
    if stage["partial"]:
        steps[-1] += f" ({stage['partial']})"
    yield f"{number:>3}. {' + '.join(steps)}: {counted(stage['partitions'], 'partition')}"
    for link in stage["from"]:
        before, after, origin = link["partitions"], stage["partitions"], f"stage {numbers[link['stage']]}"
        keys = f" by {', '.join(link['keys'])}" if link["keys"] else ""
        if link["exchange"] == "none":
            yield f"     <- {'each partition' if after > 1 else 'the partition'} of {origin}; a cut: {link['why']}"
        else:
            moved = f"{before} to {counted(after, 'partition')}"
            yield f"     <- {link['exchange']}{keys} of {origin}, {moved}: {link['why']}"


def counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'s' * (count != 1)}"


def shortened(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 2].rstrip() + " …"
