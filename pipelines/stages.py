"""A plan → stages: chains of steps that run as one Polars query in every partition, and the exchanges between them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from pipelines.plan import Node, Plan, digest
from pipelines.steps.base import Apply, Columns, Input, Keyed, Operation, Output, Reduction
from pipelines.types import Schema

ExchangeKind = Literal["none", "gather", "tree", "hash"]
HASH_PARTITIONS = 32
"""At most so many partitions behind a hash exchange."""


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
    upstream: Stage | None
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
    tables: Mapping[str, Stage]
    """Step (checkpoint, target or sink): the stage whose partitions it is."""


@dataclass(frozen=True)
class _Chain:
    """A stage still open at its end."""

    steps: tuple[str, ...]
    input: Input | None
    upstream: Stage | None
    exchange: Exchange
    schema: Schema
    count: int
    token: str
    program: tuple[Apply, ...] = ()
    columns: tuple[str, ...] = ()
    runs_python: bool = False

    def then(self, node: Node, apply: Apply, schema: Schema) -> _Chain:
        return replace(
            self,
            steps=self.steps if node.name in self.steps else (*self.steps, node.name),
            program=(*self.program, apply),
            schema=schema,
            token=digest(self.token, node.identity, list(schema)),
        )

    def close(self, reduction: Reduction | None = None, sink: Output | None = None) -> Stage:
        return Stage(
            name=_joined(self.steps),
            steps=self.steps,
            input=self.input,
            upstream=self.upstream,
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
    open: dict[str, _Chain] = field(default_factory=dict)
    closed: dict[str, Stage] = field(default_factory=dict)
    stages: list[Stage] = field(default_factory=list)

    def stage(self, stage: Stage) -> Stage:
        self.stages.append(stage)
        return stage

    def table(self, name: str) -> Stage:
        """The stage whose partitions are the step's table."""
        if name not in self.closed:
            self.closed[name] = self.stage(self.open[name].close())
        return self.closed[name]

    def is_cut(self, name: str) -> bool:
        return name in self.targets or self.plan.nodes[name].checkpoint or self.consumers[name] > 1

    def before(self, node: Node) -> _Chain:
        assert node.input is not None
        if self.is_cut(node.input):
            return _after(self.table(node.input), (node.name,))
        return self.open[node.input]

    def chain(self, node: Node) -> _Chain:
        wanted = self.wanted[node.name]
        if isinstance(node.bound, Input):
            schema = {name: t for name, t in node.schema.items() if name in wanted}
            token = digest(node.identity, list(schema), [repr(p) for p in node.bound.partitions])
            return _Chain(
                steps=(node.name,),
                input=node.bound,
                upstream=None,
                exchange=Exchange(),
                schema=schema,
                count=len(node.bound.partitions),
                token=token,
                columns=tuple(schema),
                runs_python=node.runs_python,
            )
        assert isinstance(node.bound, Operation)
        operation = node.bound.prune(wanted)
        schema = {name: t for name, t in operation.schema.items() if name in wanted}
        chain = self.before(node)
        if operation.placement == "anywhere":
            return chain.then(node, operation.apply, schema)
        if isinstance(operation, Reduction):
            partial = self.stage(chain.then(node, operation.partial, operation.state).close(operation))
            return _after(partial, (node.name,), Exchange("tree", combine=operation.combine)).then(
                node, operation.apply, schema
            )
        if chain.count == 1:
            return chain.then(node, operation.whole, schema)
        spread = self.stage(chain.close())
        if isinstance(operation, Keyed) and operation.placement == "by_key":
            count = min(spread.count, HASH_PARTITIONS)
            grouped = _after(spread, (node.name,), Exchange("hash", keys=operation.keys), count)
            spread = self.stage(grouped.then(node, operation.apply, schema).close())
            return _after(spread, (node.name,), Exchange("gather")).then(node, operation.finish, schema)
        return _after(spread, (node.name,), Exchange("gather")).then(node, operation.apply, schema)

    def sink(self, node: Node) -> Stage:
        assert isinstance(node.bound, Output)
        chain = self.before(node)
        if not node.bound.per_partition and chain.count > 1:
            chain = _after(self.stage(chain.close()), (node.name,), Exchange("gather"))
        named = replace(chain, steps=(*(s for s in chain.steps if s != node.name), node.name))
        return self.stage(replace(named, token=digest(named.token, node.identity)).close(sink=node.bound))


def _after(stage: Stage, steps: tuple[str, ...], exchange: Exchange | None = None, count: int | None = None) -> _Chain:
    exchange = exchange or Exchange()
    single = exchange.kind in ("gather", "tree")
    return _Chain(
        steps=steps,
        input=None,
        upstream=stage,
        exchange=exchange,
        schema=stage.schema,
        count=count or (1 if single else stage.count),
        token=digest(stage.token, exchange.kind, exchange.keys, count),
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
        if node.input is not None:
            consumers[node.input] += 1
            reads = node.bound.reads(mine) if isinstance(node.bound, Operation) else mine
            wanted[node.input] = wanted.get(node.input, frozenset()) | reads
    cutter = _Cutter(plan, targets, wanted, consumers)
    tables = dict[str, Stage]()
    for node in nodes:
        if node.role == "sink":
            tables[node.name] = cutter.sink(node)
            continue
        cutter.open[node.name] = cutter.chain(node)
        if node.name in targets or node.checkpoint:
            tables[node.name] = cutter.table(node.name)
    return Staged(plan, targets, tuple(cutter.stages), tables)


def ancestors(stage: Stage) -> list[Stage]:
    """The stage and all before it, from the first."""
    found = list[Stage]()
    current: Stage | None = stage
    while current is not None:
        found.append(current)
        current = current.upstream
    return found[::-1]
