"""The typed graph: every step bound to the types of its input, tried on a few rows, and named by what it means."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import polars as pl
from msgspec import Struct
from msgspec.structs import replace

from pipelines import kernel
from pipelines.code import Function
from pipelines.errors import ConfigError, DataError, Issue, MachineError, PipelineError, Place, did_you_mean, named
from pipelines.source import RUN
from pipelines.spec import Checkpoint, Spec, StepSpec
from pipelines.steps.base import Appending, Context, Input, Joining, Operation, Problems, Step
from pipelines.types import Schema, dtype_name
from pipelines.values import Nothing, Value
from pipelines.versions import version
from pipelines.work import Output, Work


class Node(Struct, frozen=True):
    """A step in the plan."""

    name: str
    kind: str
    inputs: tuple[str, ...]
    bound: Operation | Input | Output | Work
    schema: Schema
    """Of the step's table; of a sink: of the table it writes."""
    checkpoint: Checkpoint | None
    own: str
    """What the step means by itself: on other input too."""
    identity: str
    """What its table is: equal for equal answers on equal input, whatever the names of steps and wherever it runs."""
    functions: tuple[Function, ...]
    """Of the user's, that it calls."""
    retries: int
    timeout: float | None
    """Seconds that all its tasks together may take."""
    place: Place
    origin: str = ""
    """The step that a pass made this one of."""
    rows: tuple[int, ...] | None = None
    """Of each partition, where that is known before anything runs."""

    @property
    def runs_python(self) -> bool:
        return bool(self.functions)

    @property
    def role(self) -> Literal["source", "table", "sink"]:
        return "source" if isinstance(self.bound, Input) else "sink" if self.output is not None else "table"

    @property
    def output(self) -> Output | None:
        """Where it writes, if it is a sink."""
        return (
            self.bound
            if isinstance(self.bound, Output)
            else self.bound.output
            if isinstance(self.bound, Work)
            else None
        )

    @property
    def gives(self) -> Value:
        return self.bound.gives if isinstance(self.bound, Work) else Nothing() if self.output else Value()


class Plan(Struct, frozen=True):
    spec: Spec
    nodes: Mapping[str, Node]

    def __repr__(self) -> str:
        """For a notebook: each step with its table's columns and types."""
        tables = (
            (node, ", ".join(f"{name}: {dtype_name(dtype)}" for name, dtype in node.schema.items()) or str(node.gives))
            for node in self.nodes.values()
        )
        return "\n".join([f"Plan of {self.spec.name}", *(f"  {n.name}: {n.kind}({table})" for n, table in tables)])

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader should know of how sources are read."""
        return tuple(
            f"{node.name}: {note}"
            for node in self.nodes.values()
            if isinstance(node.bound, Input)
            for note in node.bound.notes
        )

    def step(self, name: str) -> Node:
        """The step of that name. Raises ConfigError when there is none."""
        if name not in self.nodes:
            raise ConfigError(Issue(f"unknown step {name!r}", did_you_mean(name, self.nodes)))
        return self.nodes[name]

    def upstream(self, targets: tuple[str, ...]) -> list[Node]:
        """The targets and all that they need, in order."""
        needed, waiting = set[str](), list(targets)
        while waiting:
            if (name := waiting.pop()) not in needed:
                needed.add(name)
                waiting += self.nodes[name].inputs
        return [node for node in self.nodes.values() if node.name in needed]

    @property
    def ends(self) -> tuple[str, ...]:
        """The steps that nothing reads, and all metrics: what a run is for."""
        read = {name for node in self.nodes.values() for name in node.inputs}
        return tuple(name for name, node in self.nodes.items() if name not in read or node.gives.kind == "metrics")


def make_plan(spec: Spec, finer: int = 1) -> Plan:
    """Binds every step; sources in `finer` times as many partitions as usual. Raises ConfigError (DataError or MachineError where only those are wrong) with all issues."""
    guessed = dict[str, frozenset[str]]()
    nodes, issues, exit_code = dict[str, Node](), list[Issue](), 0
    wrong = set[str]()
    for step in spec.steps:
        if any(name not in nodes for name in step.inputs):
            continue  # its input has issues already
        above = [nodes[name] for name in step.inputs]
        problems = Problems(step.options, frozenset().union(*(guessed[name] for name in step.inputs)))
        inputs = tuple((node.name, node.schema) for node in above)
        values = tuple(node.gives for node in above)
        if above and (before := step.step.first(above[0].schema, values, problems)) is not None:
            above[0] = _before(step, before, above[0], spec)
            nodes[above[0].name] = above[0]
            inputs = tuple((node.name, node.schema) for node in above)
        rows = above[0].rows if above else None
        context = Context(spec.root, inputs, values, rows, spec.folders, step.retries, finer)
        bound = step.step.bind(above[0].schema if above else {}, problems, context)
        if problems.issues:
            issues += problems.issues
            exit_code = max(exit_code, problems.exit_code) if exit_code != 2 else 2
            exit_code = 2 if problems.exit_code == 2 else exit_code
            if step.step.keeps_columns and above:
                nodes[step.name] = replace(above[0], name=step.name)  # the steps below can still be checked
                wrong.add(step.name)
        elif bound is not None:
            node = replace(_node(step, above, bound), inputs=tuple(each.name for each in above))
            if node.output is not None:
                for other in nodes.values():
                    if other.output is not None and _meet(node.output, other.output):
                        same = f"the step {other.name!r} writes to the same path"
                        issues.append(Issue(same, "choose another path", step.options.find(("path",)).place))
                        exit_code = 2
                    if isinstance(other.bound, Input) and (file := _replaced(node.output, other.bound)):
                        issues.append(_same_file(other.name, step.name, file, step.options.find(("path",)).place))
                        exit_code = 2
            if isinstance(bound, Input):
                for other in nodes.values():
                    if other.output is not None and (file := _replaced(other.output, bound)):
                        issues.append(_same_file(step.name, other.name, file, other.place))
                        exit_code = 2
            if isinstance(bound, Operation) and (issue := _witness(node, bound, [n.schema for n in above])):
                issues.append(issue)
                exit_code = 2
            nodes[step.name] = node
        guessed[step.name] = _guessed(bound, problems.guessed)
    if issues:
        error = {3: DataError, 4: MachineError}.get(exit_code, ConfigError)(*issues)
        error.notes = Plan(spec, {name: node for name, node in nodes.items() if name not in wrong}).notes
        raise error
    return Plan(spec, nodes)


def _guessed(bound: Operation | Input | Output | Work | None, above: frozenset[str]) -> frozenset[str]:
    """Columns that are texts because samples of their file are, and nobody said so."""
    if isinstance(bound, Input):
        return frozenset(name for name, dtype in bound.sampled.items() if dtype == pl.String())
    if isinstance(bound, Operation):
        return frozenset(name for name in above if bound.passes(frozenset((name,))))
    return frozenset()


def _node(step: StepSpec, above: list[Node], bound: Operation | Input | Output | Work) -> Node:
    schema = bound.schema if not isinstance(bound, Output) else above[0].schema
    functions = () if isinstance(bound, Output) else bound.functions
    means: list[Any] = [step.step.kind, step.step.version, step.step.identity()]
    means.append([(str(function), function.digest) for function in functions])
    if functions:
        means.append(sys.version_info[:2])
    if isinstance(bound, Work):
        means += [bound.identity, [(package, version(package)) for package in bound.packages]]
    if isinstance(bound, Input | Appending):  # a union gives the rows of each the columns and types of all
        means.append([(name, repr(dtype)) for name, dtype in bound.schema.items()])
    if secrets := step.options.secrets():
        # their names: a new password computes nothing anew. Other texts may be the same by chance, so how it is written counts too
        means = [named(_text(means), secrets), step.options.plain(masked=True)]
    own = digest(kernel.VERSION, means)
    return Node(
        name=step.name,
        kind=step.step.kind,
        inputs=step.inputs,
        bound=bound,
        schema=schema,
        checkpoint=step.checkpoint,
        own=own,
        identity=digest(own, _read(bound) if isinstance(bound, Input) else [node.identity for node in above]),
        functions=functions,
        retries=step.retries,
        timeout=step.timeout,
        place=step.place,
        rows=_rows(bound, above),
    )


def _before(step: StepSpec, before: Step, above: Node, spec: Spec) -> Node:
    """The node of a step that stands in no config, between a step and the table that it names."""
    bound = before.bind(above.schema, Problems(step.options), Context(spec.root))
    assert isinstance(bound, Operation)  # `first` has looked
    between = replace(step, name=f"{above.name} for {step.name}", step=before, inputs=(above.name,), checkpoint=None)
    return replace(_node(between, [above], bound), origin=step.name)


def _rows(bound: Operation | Input | Output | Work, above: list[Node]) -> tuple[int, ...] | None:
    if isinstance(bound, Input | Work):
        return bound.rows
    return above[0].rows if isinstance(bound, Operation) and bound.each else None


def _read(source: Input) -> list[Any]:
    """What a source reads, however it is cut."""
    return [(file.path, file.size, file.mtime_ns) for file in source.files] or list(source.facts)


def _meet(one: Output, other: Output) -> bool:
    """Whether they write to the same path, or one into the folder that the other replaces."""
    paths = [Path(os.path.normpath(output.path)) for output in (one, other)]
    folder = [path for path, output in zip(paths, (one, other), strict=True) if output.per_partition]
    return paths[0] == paths[1] or any(
        path.is_relative_to(above) for above in folder for path in paths if path != above
    )


def _replaced(output: Output, read: Input) -> str | None:
    """The file of those read that the output takes the place of."""
    path = output.path
    if output.path.startswith(RUN) or not os.path.exists(path):
        return None
    ours = [os.path.join(path, name) for name in os.listdir(path)] if os.path.isdir(path) else [path]
    there = {(os.stat(each).st_size, os.stat(each).st_mtime_ns): each for each in ours}
    for file in read.files:
        if (same := there.get((file.size, file.mtime_ns))) is not None and os.path.samefile(same, file.path):
            return file.path
    return None


def _same_file(reads: str, writes: str, file: str, place: Place) -> Issue:
    what = f"the step {reads!r} reads {os.path.basename(file)}, which {writes!r} replaces: the next run would read something else"
    return Issue(what, "write to another path; a later step reads the table by `from`, not by its file", place)


def digest(*parts: Any) -> str:
    """32 hexadecimal digits that name the parts' content."""
    return hashlib.blake2b(_text(parts).encode(), digest_size=16).hexdigest()


def _text(parts: Any) -> str:
    return json.dumps(parts, sort_keys=True, default=str, separators=(",", ":"))


def witness(schema: Schema) -> pl.LazyFrame:
    """Three rows of these types, in two groups, with a NULL."""
    counted = pl.Series([1, 1, None], dtype=pl.Int64)
    columns = dict[str, pl.Series]()
    for name, dtype in schema.items():
        try:
            text = counted.cast(pl.String) if isinstance(dtype, pl.Binary) else counted
            columns[name] = text.cast(dtype)
        except pl.exceptions.PolarsError:  # lists, structs, categories
            columns[name] = pl.Series([None, None, None], dtype=dtype)
    return pl.LazyFrame(columns)


def _witness(node: Node, operation: Operation, schemas: list[Schema]) -> Issue | None:
    """Runs the step on witnesses: what types alone did not show."""
    if node.runs_python:
        return None  # it says its types itself
    frames = [witness(schema) for schema in schemas]
    try:
        whole = operation.together(frames) if isinstance(operation, Appending | Joining) else operation.whole(frames[0])
        kernel.collect(whole, node.schema)
    except DataError:
        pass  # a value that could not be cast: data may be better
    except (kernel.KernelError, AssertionError, PipelineError) as error:
        return Issue(
            f"the step {node.name!r} fails on rows of its input's types: {str(error).splitlines()[0]}",
            "check its types",
            node.place,
        )
    return None
