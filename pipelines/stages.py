"""A plan → stages: chains of steps that run as one Polars query in every partition, and the exchanges between them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import polars as pl

from pipelines.plan import Node, Plan, digest
from pipelines.steps.base import Appending, Apply, Columns, Input, Keyed, Operation, Output, Reduction
from pipelines.types import Schema

ExchangeKind = Literal["none", "gather", "tree", "hash"]
HASH_PARTITIONS = 32
"""At most so many partitions behind a hash exchange."""


@dataclass(frozen=True)
class Sort:
    """Rows in order, NULL last, equal ones as they came."""

    by: tuple[str, ...]
    descending: tuple[bool, ...] = ()

    def __call__(self, frame: pl.LazyFrame) -> pl.LazyFrame:
        return frame.sort(self.by, descending=self.descending or False, nulls_last=True, maintain_order=True)


@dataclass(frozen=True)
class Exchange:
    """How a stage's partitions are made of those of the stage before it.

    none: one of one. gather: one of all, in order. tree: one of all, `combine`d in groups on the way. hash: rows by their keys.
    """

    kind: ExchangeKind = "none"
    keys: tuple[str, ...] = ()
    combine: Apply | None = None


@dataclass(frozen=True)
class Stage:
    """Steps that run as one query, partition by partition."""

    name: str
    """Steps joined by +: the name of its tasks."""
    steps: tuple[str, ...]
    input: Input | None
    upstreams: tuple[Stage, ...]
    """What the exchange takes partitions from, one after another."""
    exchange: Exchange
    program: tuple[Apply, ...]
    reduction: Reduction | None
    """The operation whose `partial` ends the program, for its `refine`."""
    schema: Schema
    count: int
    """Partitions."""
    token: str
    sink: Output | None = None
    columns: tuple[str, ...] = ()
    """Of a source: the columns to read."""
    runs_python: bool = False

    @property
    def key(self) -> str:
        return f"{self.name}-{self.token}"


@dataclass(frozen=True)
class Staged:
    """All stages that the targets need, in order, and which of them hold which step's table."""

    plan: Plan
    targets: tuple[str, ...]
    stages: tuple[Stage, ...]
    tables: Mapping[str, tuple[Stage, ...]]
    """Step (checkpoint, target or sink): the stages whose partitions, one after another, it is. A union leaves several."""


@dataclass(frozen=True)
class _Chain:
    """A stage still open at its end."""

    steps: tuple[str, ...]
    input: Input | None
    upstreams: tuple[Stage, ...]
    exchange: Exchange
    schema: Schema
    count: int
    token: str
    program: tuple[Apply, ...] = ()
    columns: tuple[str, ...] = ()
    runs_python: bool = False

    def then(self, node: Node, apply: Apply, schema: Schema, index: int = 0) -> _Chain:
        return replace(
            self,
            steps=self.steps if node.name in self.steps else (*self.steps, node.name),
            program=(*self.program, apply),
            schema=schema,
            token=digest(self.token, node.identity, list(schema), index),
            runs_python=self.runs_python or node.runs_python,
        )

    def close(self, reduction: Reduction | None = None, sink: Output | None = None) -> Stage:
        return Stage(
            name=_joined(self.steps),
            steps=self.steps,
            input=self.input,
            upstreams=self.upstreams,
            exchange=self.exchange,
            program=self.program,
            reduction=reduction,
            schema=self.schema,
            count=self.count,
            token=digest(self.token, "partial" if reduction else "", self.exchange.kind)[:16],
            sink=sink,
            columns=self.columns,
            runs_python=self.runs_python,
        )


def _joined(steps: tuple[str, ...]) -> str:
    return "+".join(steps if len(steps) <= 6 else (*steps[:3], "..", *steps[-2:]))


@dataclass
class _Cutter:
    plan: Plan
    targets: tuple[str, ...]
    wanted: Mapping[str, Columns]
    consumers: Mapping[str, int]
    open: dict[str, tuple[_Chain, ...]] = field(default_factory=dict)
    closed: dict[str, tuple[Stage, ...]] = field(default_factory=dict)
    stages: list[Stage] = field(default_factory=list)

    def stage(self, stage: Stage) -> Stage:
        self.stages.append(stage)
        return stage

    def table(self, name: str) -> tuple[Stage, ...]:
        """The stages whose partitions are the step's table."""
        if name not in self.closed:
            self.closed[name] = tuple(self.stage(chain.close()) for chain in self.open[name])
        return self.closed[name]

    def is_cut(self, name: str) -> bool:
        return name in self.targets or self.plan.nodes[name].checkpoint or self.consumers[name] > 1

    def before(self, node: Node, name: str) -> tuple[_Chain, ...]:
        if self.is_cut(name):
            return tuple(_after((stage,), (node.name,)) for stage in self.table(name))
        return self.open[name]

    def chains(self, node: Node) -> tuple[_Chain, ...]:
        wanted = self.wanted[node.name]
        if isinstance(node.bound, Input):
            return (_first(node, node.bound, wanted),)
        assert isinstance(node.bound, Operation)
        operation = node.bound.prune(wanted)
        schema = {name: t for name, t in operation.schema.items() if name in wanted}
        if isinstance(operation, Appending):
            return tuple(
                chain.then(node, operation.part(i), schema, i)
                for i, name in enumerate(node.inputs)
                for chain in self.before(node, name)
            )
        chains = self.before(node, *node.inputs)
        if operation.placement == "anywhere":
            return tuple(chain.then(node, operation.apply, schema) for chain in chains)
        if isinstance(operation, Reduction):
            partials = tuple(
                self.stage(chain.then(node, operation.partial, operation.state).close(operation)) for chain in chains
            )
            combined = _after(partials, (node.name,), Exchange("tree", combine=operation.combine))
            return (combined.then(node, operation.apply, schema),)
        count = sum(chain.count for chain in chains)
        if count == 1:
            return (chains[0].then(node, operation.whole, schema),)
        spread = tuple(self.stage(chain.close()) for chain in chains)
        if isinstance(operation, Keyed) and operation.placement == "by_key" and not operation.keeps_rows:
            grouped = _after(spread, (node.name,), Exchange("hash", keys=operation.keys), min(count, HASH_PARTITIONS))
            met = self.stage(grouped.then(node, operation.apply, operation.met or schema).close())
            return (_after((met,), (node.name,), Exchange("gather")).then(node, Sort(operation.sorted), schema),)
        return (_after(spread, (node.name,), Exchange("gather")).then(node, operation.whole, schema),)

    def sink(self, node: Node) -> tuple[Stage, ...]:
        assert isinstance(node.bound, Output)
        chains = self.before(node, *node.inputs)
        if not node.bound.per_partition and sum(chain.count for chain in chains) > 1:
            spread = tuple(self.stage(chain.close()) for chain in chains)
            chains = (_after(spread, (node.name,), Exchange("gather")),)
        return tuple(self.stage(self.ending(chain, node, node.bound)) for chain in chains)

    def ending(self, chain: _Chain, node: Node, output: Output) -> Stage:
        steps = (*(name for name in chain.steps if name != node.name), node.name)
        return replace(chain, steps=steps, token=digest(chain.token, node.identity)).close(sink=output)


def _first(node: Node, given: Input, wanted: Columns) -> _Chain:
    schema = {name: t for name, t in node.schema.items() if name in wanted}
    return _Chain(
        steps=(node.name,),
        input=given,
        upstreams=(),
        exchange=Exchange(),
        schema=schema,
        count=len(given.partitions),
        token=digest(node.identity, list(schema), [repr(p) for p in given.partitions]),
        columns=tuple(schema),
        runs_python=node.runs_python,
    )


def _after(
    stages: tuple[Stage, ...], steps: tuple[str, ...], exchange: Exchange | None = None, count: int | None = None
) -> _Chain:
    exchange = exchange or Exchange()
    single = exchange.kind in ("gather", "tree")
    return _Chain(
        steps=steps,
        input=None,
        upstreams=stages,
        exchange=exchange,
        schema=stages[0].schema,
        count=count or (1 if single else stages[0].count),
        token=digest([stage.token for stage in stages], exchange.kind, exchange.keys, count),
    )


def cut(plan: Plan, targets: tuple[str, ...] = ()) -> Staged:
    """Stages for the targets (default: all ends). A target's table keeps all its columns; others only those that are read."""
    targets = targets or plan.ends
    nodes = plan.upstream(targets)
    wanted = dict[str, Columns]()
    consumers = dict.fromkeys((node.name for node in nodes), 0)
    for node in reversed(nodes):
        mine = wanted.get(node.name, frozenset())
        if node.name in targets or node.role == "sink":
            mine = frozenset(node.schema)
        # a query without columns has no rows: count(*) needs one to count by
        mine = mine or frozenset(list(node.schema)[:1])
        wanted[node.name] = mine
        for i, name in enumerate(node.inputs):
            consumers[name] += 1
            wanted[name] = wanted.get(name, frozenset()) | _reads(node, i, mine)
    cutter = _Cutter(plan, targets, wanted, consumers)
    tables = dict[str, tuple[Stage, ...]]()
    for node in nodes:
        if node.role == "sink":
            tables[node.name] = cutter.sink(node)
            continue
        cutter.open[node.name] = cutter.chains(node)
        if node.name in targets or node.checkpoint:
            tables[node.name] = cutter.table(node.name)
    return Staged(plan, targets, tuple(cutter.stages), tables)


def _reads(node: Node, index: int, wanted: Columns) -> Columns:
    """The columns of the node's input of that index that its own columns `wanted` need."""
    if isinstance(node.bound, Appending):
        return node.bound.reads_of(index, wanted)
    return node.bound.reads(wanted) if isinstance(node.bound, Operation) else wanted


def needed(stages: Iterable[Stage], kept: Collection[Stage] = ()) -> list[Stage]:
    """The stages and all before them, from the first on; those `kept` are there already, what is before them is not needed."""
    found, seen, waiting = list[Stage](), set[str](), [(stage, False) for stage in stages][::-1]
    keys = {stage.key for stage in kept}
    while waiting:
        stage, entered = waiting.pop()
        if entered:
            found.append(stage)
        elif stage.key not in seen:
            seen.add(stage.key)
            waiting.append((stage, True))
            if stage.key not in keys:
                waiting += [(before, False) for before in reversed(stage.upstreams)]
    return found
