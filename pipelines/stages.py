"""A plan → stages: chains of steps that run as one Polars query in every partition, and the exchanges between them."""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import polars as pl
from msgspec import Struct
from msgspec.structs import replace

from pipelines import passes
from pipelines.errors import ConfigError
from pipelines.estimates import Estimate, estimate, shrinks
from pipelines.order import Order
from pipelines.passes import Layout
from pipelines.plan import Node, Plan, digest
from pipelines.steps.base import Appending, Apply, Columns, Input, Joining, Keyed, Operation, Reduction, Sorting
from pipelines.types import Schema
from pipelines.work import Output, Work

ExchangeKind = Literal["none", "gather", "tree", "hash", "range", "broadcast", "work"]
_PART, _MOST = 24 << 20, 40_000
"""Behind an exchange: about so many bytes in a partition; and at most so many pairs of partitions before and behind it, for
each costs about 0.2 ms."""
_BROADCAST = 32 << 20
"""A side of a join of up to so many bytes is given whole to every partition of the other."""
_SMALL = 16 << 20
"""Of so few bytes of input nothing is estimated: whatever they become, it fits in one partition."""
_FEW_GROUPS = 4 << 20
"""Groups of so few bytes are combined in one place."""
_SHRUNK = 0.25
"""Partial results pay when there are at most so many of them for each row."""


class Exchange(Struct, frozen=True):
    """How a stage's partitions are made of those of the stages before it.

    none: one of one. gather: one of all, in order. tree: one of all, `combine`d in groups on the way. broadcast: every
    partition gets all. hash: rows by their keys. range: rows in order, cut where partitions get about as many.
    work: a step that makes tasks of its own takes them all.
    """

    kind: ExchangeKind = "none"
    keys: tuple[str, ...] = ()
    types: tuple[pl.DataType, ...] = ()
    """What the keys are cast to before they are hashed: both sides of a join meet."""
    combine: Apply | None = None
    order: Order | None = None
    number: str = ""
    """A column to add: the row's place in the whole table."""
    first: int = 0
    """The number of the first partition among those of all inputs."""


class Link(Struct, frozen=True):
    """What an exchange takes partitions from: these stages', one after another."""

    stages: tuple[Stage, ...]
    exchange: Exchange
    columns: tuple[str, ...] | None = None
    """What is read of their tables, where that is not all."""

    @property
    def count(self) -> int:
        return sum(stage.count for stage in self.stages)


class With(Struct, frozen=True):
    """What is done to two tables, of which one is that of a link."""

    join: Callable[[pl.LazyFrame, pl.LazyFrame, bool], pl.LazyFrame]
    link: int
    columns: tuple[tuple[str, ...], tuple[str, ...]]
    """Of the query's table and of the link's: what the join may see. They have more where other steps read it."""
    flipped: bool = False
    """Whether the link's table is the first of the two."""
    ordered: bool = True
    brings: tuple[tuple[str, str], ...] = ()
    """What comes of the link's table as it is: (name there, name in the result)."""

    def taking(self, columns: tuple[str, ...]) -> With:
        """The same, of a link's table that has these columns too."""
        return replace(self, columns=(self.columns[0], (*self.columns[1], *columns)))

    def __call__(self, frame: pl.LazyFrame, other: pl.LazyFrame) -> pl.LazyFrame:
        frame, other = frame.select(self.columns[0]), other.select(self.columns[1])
        return self.join(*((other, frame) if self.flipped else (frame, other)), self.ordered)


class Stage(Struct, frozen=True):
    """Steps that run as one query, partition by partition."""

    name: str
    """Steps joined by +: the name of its tasks."""
    steps: tuple[str, ...]
    input: Input | None
    links: tuple[Link, ...]
    """The first is what the query begins with, unless there is an input; the others are for steps of two tables."""
    program: tuple[Apply | With, ...]
    doers: tuple[str, ...]
    """Of each part of the program the step."""
    reduction: Reduction | None
    """The operation whose `partial` ends the program, for its other `ways`."""
    after: tuple[Apply | With, ...]
    """What is done to the state then, in a query of its own."""
    schema: Schema
    begin: tuple[str, ...]
    """Of each partition the one that it is made from: of a source, or just behind an exchange."""
    means: str
    """What was done to it since."""
    parts: tuple[str, ...]
    """Of each partition what its rows are: equal for equal rows, whatever columns are carried along, however the steps were cut
    into stages and wherever it is made."""
    token: str
    sink: Output | None = None
    columns: tuple[str, ...] = ()
    """Of a source: the columns to read."""
    runs_python: bool = False
    divisible: bool = False
    """Whether the rows of one key of the first link may be in several partitions."""
    work: Work | None = None
    """What makes the stage's tasks, instead of a query in every partition; each link is one of its inputs."""

    @property
    def key(self) -> str:
        return f"{self.name}-{self.token}"

    @property
    def count(self) -> int:
        """Partitions."""
        return len(self.parts)

    @property
    def upstreams(self) -> tuple[Stage, ...]:
        return tuple(stage for link in self.links for stage in link.stages)


class Staged(Struct, frozen=True):
    """All stages that the targets need, in order, and which of them hold which step's table."""

    plan: Plan
    targets: tuple[str, ...]
    stages: tuple[Stage, ...]
    tables: Mapping[str, tuple[Stage, ...]]
    """Step (checkpoint, target or sink): the stages whose partitions, one after another, it is. A union leaves several."""
    notes: tuple[tuple[str, str], ...] = ()
    """(pass, what it did)."""
    durable: Mapping[str, str] = {}
    """Stage key: the step (checkpoint: disk) whose table its partitions are, or whose states."""


class _Chain(Struct, frozen=True):
    """A stage still open at its end."""

    steps: tuple[str, ...]
    input: Input | None
    links: tuple[Link, ...]
    schema: Schema
    begin: tuple[str, ...]
    means: str
    program: tuple[Apply | With, ...] = ()
    doers: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    runs_python: bool = False
    divisible: bool = False
    number: str = ""
    """A column with each row's place in the table, when the rows are not in its order."""
    reduction: Reduction | None = None
    after: tuple[Apply | With, ...] = ()
    placed: tuple[str, ...] = ()
    """Rows in which these columns are equal are in one partition, and in the table's order there."""

    @property
    def count(self) -> int:
        return len(self.begin)

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The stages that have its rows already."""
        links = self.links
        nothing = not self.program and self.input is None and len(links) == 1 and links[0].exchange.kind == "none"
        return links[0].stages if nothing and self.schema == links[0].stages[0].schema else ()

    def narrowed(self, columns: Columns) -> _Chain:
        """With no columns but these, so that others do not travel; one at least, or there would be no rows."""
        kept = {name: t for name, t in self.schema.items() if name in columns} or dict(list(self.schema.items())[:1])
        if kept == self.schema:
            return self
        return replace(self, schema=kept, links=(replace(self.links[0], columns=tuple(kept)),))

    def then(self, node: Node, apply: Apply | With, schema: Schema, index: int = 0) -> _Chain:
        hidden = {self.number: pl.UInt64()} if self.number else {}
        return replace(
            self,
            steps=self.steps if node.name in self.steps else (*self.steps, node.name),
            program=self.program if self.reduction else (*self.program, apply),
            doers=self.doers if self.reduction else (*self.doers, node.name),
            after=(*self.after, apply) if self.reduction else (),
            schema={**schema, **hidden},
            means=digest(self.means, node.own, getattr(apply, "__name__", type(apply).__name__), index),
            runs_python=self.runs_python or node.runs_python,
        )

    def joined(self, node: Node, joining: Joining, other: tuple[Stage, ...], schema: Schema, ordered: bool) -> _Chain:
        """With a table that every partition gets."""
        link = Link(other, Exchange("broadcast"))
        means = digest(self.means, [stage.parts for stage in other])
        columns = _seen(joining, schema, self.number, "")
        step = With(joining.join, len(self.links), columns, joining.main == 1, ordered, joining.brings)
        placed = self.placed if joining.main == 0 else ()  # the right table's columns get other names
        return replace(self, links=(*self.links, link), means=means, placed=placed).then(
            node, step, schema, int(ordered)
        )

    def reduced(self, node: Node, reduction: Reduction) -> _Chain:
        """Up to the states of its rows; what follows is done to them."""
        return replace(self.then(node, reduction.partial, reduction.state), reduction=reduction)

    def close(self, sink: Output | None = None) -> Stage:
        parts = tuple(hashlib.blake2b(f"{self.means} {of}".encode(), digest_size=16).hexdigest() for of in self.begin)
        return Stage(
            name=_joined(self.steps),
            steps=self.steps,
            input=self.input,
            links=self.links,
            program=self.program,
            doers=self.doers,
            reduction=self.reduction,
            after=self.after,
            schema=self.schema,
            begin=self.begin,
            means=self.means,
            parts=parts,
            token=digest(parts, list(self.schema), self.columns, len(self.program))[:16],
            sink=sink,
            columns=self.columns,
            runs_python=self.runs_python,
            divisible=self.divisible,
        )


def _joined(steps: tuple[str, ...]) -> str:
    return "+".join(steps if len(steps) <= 6 else (*steps[:3], "..", *steps[-2:]))


Chains = tuple[_Chain, ...]


@dataclass
class _Cutter:
    plan: Plan
    targets: tuple[str, ...]
    layout: Layout
    wanted: Mapping[str, Columns]
    ordered: Mapping[str, bool]
    consumers: Mapping[str, int]
    number: str
    """A name that no column has."""
    estimates: Callable[[], Mapping[str, Estimate]]
    open: dict[str, Chains] = field(default_factory=dict)
    closed: dict[str, tuple[Stage, ...]] = field(default_factory=dict)
    stages: list[Stage] = field(default_factory=list)
    notes: list[tuple[str, str]] = field(default_factory=list)

    def stage(self, stage: Stage) -> Stage:
        self.stages.append(stage)
        return stage

    def spread(self, chains: Chains) -> tuple[Stage, ...]:
        return tuple(stage for chain in chains for stage in chain.stages or (self.stage(chain.close()),))

    def table(self, name: str) -> tuple[Stage, ...]:
        """The stages whose partitions are the step's table."""
        if name not in self.closed:
            self.closed[name] = self.spread(self.settled(self.open[name]))
        return self.closed[name]

    def is_cut(self, name: str) -> bool:
        node = self.plan.nodes[name]
        return (
            name in self.targets
            or node.checkpoint is not None
            or self.consumers[name] > 1
            or isinstance(node.bound, Work)
        )

    def before(self, node: Node, name: str) -> Chains:
        if not self.is_cut(name):
            return self.open[name]
        read = [passes.reads(node, i, self.wanted[node.name]) for i, above in enumerate(node.inputs) if above == name]
        columns = frozenset[str]().union(*read)
        chains = (_after((node.name,), Link((stage,), Exchange()), stage.count) for stage in self.table(name))
        return tuple(chain.narrowed(columns) for chain in chains)

    def settled(self, chains: Chains) -> Chains:
        """With the rows in the table's order, and without their numbers."""
        return tuple(self._settled(chain) for chain in chains)

    def _settled(self, chain: _Chain) -> _Chain:
        if not chain.number:
            return replace(chain, placed=())
        schema = {name: t for name, t in chain.schema.items() if name != chain.number}
        order = Order((chain.number,))
        self.notes.append(("order", f"{chain.steps[-1]}: its rows are put back into their order"))
        link = Link(self.spread((chain,)), Exchange("range", order=order))
        behind = _after(chain.steps[-1:], link, chain.count)
        return replace(behind, program=(order,), doers=behind.steps, schema=schema, means=digest(behind.means, "order"))

    def size(self, name: str) -> float:
        """Bytes of a step's table, as far as its columns are read."""
        if self.input_bytes <= _SMALL:
            return 0.0
        found = self.estimates()[name]
        return found.rows * found.width(self.wanted[name])

    def parts(self, writers: int, *names: str) -> int:
        """How many partitions hold these tables, when they come from so many."""
        size = sum(self.size(name) for name in names)
        return self.layout.partitions or max(
            1, min(math.ceil(size * self.layout.finer / _PART), _MOST // max(1, writers))
        )

    @cached_property
    def memory(self) -> float:
        """Of one worker: what the config says, else what this machine has left."""
        import psutil
        from dask.utils import parse_bytes

        limit = self.plan.spec.executor.memory_limit
        return float(parse_bytes(limit) if limit else psutil.virtual_memory().available)

    @cached_property
    def input_bytes(self) -> int:
        """Of all sources that the targets need."""
        nodes = self.plan.upstream(self.targets)
        return sum(node.bound.bytes for node in nodes if isinstance(node.bound, Input))

    def chains(self, node: Node) -> Chains:
        wanted = self.wanted[node.name]
        if isinstance(node.bound, Input):
            return (_first(node, node.bound, wanted),)
        assert isinstance(node.bound, Operation)
        operation = node.bound.prune(wanted)
        schema = {name: t for name, t in operation.schema.items() if name in wanted}
        if isinstance(operation, Joining):
            return self.joined(node, operation, schema)
        if isinstance(operation, Appending):
            return tuple(
                chain.then(node, operation.part(i), schema, i)
                for i, name in enumerate(node.inputs)
                for chain in self.settled(self.before(node, name))
            )
        chains = self.before(node, *node.inputs)
        if operation.placement == "anywhere":
            return tuple(self.anywhere(node, operation, chain, schema) for chain in chains)
        if isinstance(operation, Keyed) and operation.placement == "by_key":
            return self.keyed(node, operation, chains, schema)
        if isinstance(operation, Reduction):
            return self.reduced(node, operation, chains, schema)
        chains = self.settled(chains)
        if len(chains) == 1 and chains[0].count == 1:
            return (chains[0].then(node, operation.whole, schema),)
        if isinstance(operation, Sorting) and (count := self.parts(_count(chains), *node.inputs)) > 1:
            link = Link(self.spread(chains), Exchange("range", order=operation.order))
            return (_after((node.name,), link, count).then(node, operation.apply, schema),)
        return (self.gathered(node, chains).then(node, operation.whole, schema),)

    def anywhere(self, node: Node, operation: Operation, chain: _Chain, schema: Schema) -> _Chain:
        if chain.number and not operation.passes(frozenset()):
            chain = self._settled(chain)
        kept = chain.placed if operation.passes(frozenset(chain.placed)) else ()
        return replace(chain.then(node, operation.apply, schema), placed=kept)

    def gathered(self, node: Node, chains: Chains) -> _Chain:
        return _after((node.name,), Link(self.spread(chains), Exchange("gather")), 1)

    def keyed(self, node: Node, operation: Keyed, chains: Chains, schema: Schema) -> Chains:
        if len(chains) == 1 and chains[0].count == 1 and not chains[0].number:
            return (chains[0].then(node, operation.whole, schema),)
        met = operation.met or (schema if operation.keeps_rows else _with(schema, operation, operation.sorted))
        if (
            len(chains) == 1
            and chains[0].placed
            and frozenset(chains[0].placed) <= frozenset(operation.keys)
            and "placement" in self.layout.passes
        ):
            chain = chains[0]
            placed = ", ".join(chain.placed)
            self.notes.append(("placement", f"{node.name} finds rows with the same {placed} together: no exchange"))
            if not operation.keeps_rows:
                chain = replace(chain, number="", schema={n: t for n, t in chain.schema.items() if n != chain.number})
            chain = chain.then(node, operation.apply, met)
        else:
            chains = self.settled(chains)
            if type(operation).shrink is not Keyed.shrink:
                chains = tuple(chain.then(node, operation.shrink, chain.schema) for chain in chains)
            count = self.parts(_count(chains), *node.inputs)
            if count == 1:
                return (self.gathered(node, chains).then(node, operation.whole, schema),)
            number = self.number if operation.keeps_rows and self.ordered[node.name] else ""
            chain = self.hashed(node, operation.keys, chains, count, number).then(node, operation.apply, met)
        if operation.keeps_rows:
            return (chain,)
        return (self.ended(node, chain, Order(operation.sorted), schema),)

    def hashed(self, node: Node, keys: tuple[str, ...], chains: Chains, count: int, number: str = "") -> _Chain:
        types = tuple(chains[0].schema[key] for key in keys)
        link = Link(self.spread(chains), Exchange("hash", keys, types, number=number))
        return replace(_after((node.name,), link, count), number=number, placed=keys)

    def ended(self, node: Node, chain: _Chain, order: Order, schema: Schema) -> _Chain:
        """In the order of the result."""
        if not self.ordered[node.name]:
            self.notes.append(("order", f"{node.name}: nothing looks at the order of its rows, they are not sorted"))
            return replace(chain, schema=schema, placed=())
        large = self.size(node.name) > _FEW_GROUPS if self.layout.partitions is None else self.layout.partitions > 1
        exchange = Exchange("range", order=order) if large else Exchange("gather")
        link = Link(self.spread((chain,)), exchange)
        return _after((node.name,), link, chain.count if large else 1).then(node, order, schema)

    def reduced(self, node: Node, operation: Reduction, chains: Chains, schema: Schema) -> Chains:
        if operation.sees_order(self.ordered[node.name]):
            chains = self.settled(chains)
        chains = tuple(_unnumbered(chain) for chain in chains)
        partitions = _count(chains)
        many = self.size(node.name) > _FEW_GROUPS if self.layout.partitions is None else self.layout.partitions > 1
        if operation.groups and many and partitions > 1:
            small = "partial" in self.layout.passes and self.shrinks(node, operation, partitions)
            how = (
                "combines in each partition first" if small else "would hardly combine in a partition: its rows travel"
            )
            self.notes.append(("partial", f"{node.name} {how}"))
            if small:
                spread = self.spread(tuple(chain.reduced(node, operation) for chain in chains))
                types = tuple(operation.state[key] for key in operation.groups)
                link = Link(spread, Exchange("hash", operation.groups, types))
                chain = replace(
                    _after((node.name,), link, max(2, self.parts(partitions, node.name))), placed=operation.groups
                )
                chain = chain.then(node, operation.combine, operation.state)
            else:
                chain = self.hashed(node, operation.groups, chains, max(2, self.parts(partitions, *node.inputs)))
                chain = chain.reduced(node, operation)
            chain = chain.then(node, operation.finish, _with(schema, operation, operation.order.by))
            return (self.ended(node, chain, operation.order, schema),)
        partials = self.spread(tuple(chain.reduced(node, operation) for chain in chains))
        combined = _after((node.name,), Link(partials, Exchange("tree", combine=operation.combine)), 1)
        return (combined.then(node, operation.apply, schema),)

    def joined(self, node: Node, joining: Joining, schema: Schema) -> Chains:
        main, other = (self.before(node, node.inputs[i]) for i in (joining.main, 1 - joining.main))
        names = node.inputs[joining.main], node.inputs[1 - joining.main]
        alone = _count(main) == 1
        if (joining.both or joining.unique[joining.main]) and not alone:
            whole = False
        elif joining.broadcast is not None:
            whole = joining.broadcast
        else:
            whole = "broadcast" in self.layout.passes and self.size(names[1]) <= _BROADCAST
        if whole or (alone and _count(other) == 1):
            stages = self.spread(self.settled(other))
            self.notes.append(("broadcast", f"{node.name}: every partition of {names[0]} gets the whole of {names[1]}"))
            if not self.ordered[node.name]:
                main = tuple(_unnumbered(chain) for chain in main)
            return tuple(chain.joined(node, joining, stages, schema, self.ordered[node.name]) for chain in main)
        count = self.parts(_count(main) + _count(other), *node.inputs)
        number = self.number if self.ordered[node.name] else ""
        if not number:
            self.notes.append(("order", f"{node.name}: nothing looks at the order of its rows, they stay as they meet"))
        links, first = list[Link](), 0
        for side, chains in zip((joining.main, 1 - joining.main), (main, other), strict=True):
            sees = joining.sees_order(self.ordered[node.name])
            stages = self.spread(self.settled(chains) if sees else tuple(map(_unnumbered, chains)))
            own = number if not links else f"{number}~" if joining.both and number else ""
            exchange = Exchange("hash", joining.on[side], joining.types, number=own, first=first)
            links.append(Link(stages, exchange if count > 1 else Exchange("broadcast" if links else "gather")))
            first += links[-1].count
        if count == 1:
            number = ""
        chain = replace(
            _several((node.name,), tuple(links), count), number=number, divisible=joining.divisible and count > 1
        )
        columns = _seen(joining, schema, number, f"{number}~" if joining.both and number else "")
        step = With(joining.join, 1, columns, joining.main == 1, self.ordered[node.name], joining.brings)
        chain = chain.then(node, step, schema, int(step.ordered))
        if joining.both and number:
            chain = chain.then(node, Either(number), schema)
        return (chain,)

    def shrinks(self, node: Node, operation: Reduction, partitions: int) -> bool:
        """Whether partial results are much smaller than what they are made of."""
        if self.input_bytes <= _SMALL:
            return True
        return shrinks(self.estimates()[node.inputs[0]], operation.parted, partitions) <= _SHRUNK

    def sink(self, node: Node) -> tuple[Stage, ...]:
        assert isinstance(node.bound, Output)
        chains = self.settled(self.before(node, *node.inputs))
        if not node.bound.per_partition and _count(chains) > 1:
            chains = (self.gathered(node, chains),)
        return tuple(self.stage(self.ending(chain, node, node.bound)) for chain in chains)

    def work(self, node: Node, work: Work) -> Stage:
        links = tuple(Link(self.table(name), Exchange("work")) for name in node.inputs)
        work = work.prune(self.wanted[node.name])
        if self.input_bytes > _SMALL and (issue := work.refuses(sum(map(self.size, node.inputs)), self.memory)):
            raise ConfigError(replace(issue, place=node.place))
        schema = work.schema
        count = work.count([link.count for link in links])
        made = digest(node.own, count, work.cuts, [[stage.parts for stage in link.stages] for link in links])
        parts = tuple(f"{digest(made, i)}" for i in range(count))
        return self.stage(
            Stage(
                name=node.name,
                steps=(node.name,),
                input=None,
                links=links,
                program=(),
                doers=(),
                reduction=None,
                after=(),
                schema=schema,
                begin=parts,
                means=node.own,
                parts=parts,
                token=digest(parts, list(schema))[:16],
                sink=work.output,
                runs_python=node.runs_python,
                work=work,
            )
        )

    def ending(self, chain: _Chain, node: Node, output: Output) -> Stage:
        steps = (*(name for name in chain.steps if name != node.name), node.name)
        return replace(chain, steps=steps, means=digest(chain.means, node.own)).close(sink=output)


class Either(Struct, frozen=True):
    """The number of a row that came from either side of a join."""

    number: str

    def __call__(self, frame: pl.LazyFrame) -> pl.LazyFrame:
        return frame.with_columns(pl.coalesce(self.number, f"{self.number}~"))


def _count(chains: Chains) -> int:
    return sum(chain.count for chain in chains)


def _seen(joining: Joining, schema: Schema, *numbers: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The columns of the main and of the other table that a join may see."""
    sides = (joining.reads_of(side, frozenset(schema)) for side in (joining.main, 1 - joining.main))
    main, other = ((*sorted(columns), *filter(None, (number,))) for columns, number in zip(sides, numbers, strict=True))
    return main, other


def _with(schema: Schema, operation: Operation, names: tuple[str, ...]) -> Schema:
    """With the columns that the result is sorted by: nobody may read them after that."""
    return {**schema, **{name: operation.schema[name] for name in names}}


def _unnumbered(chain: _Chain) -> _Chain:
    return replace(chain, number="", schema={name: t for name, t in chain.schema.items() if name != chain.number})


def _first(node: Node, given: Input, wanted: Columns) -> _Chain:
    schema = {name: t for name, t in node.schema.items() if name in wanted}
    return _Chain(
        steps=(node.name,),
        input=given,
        links=(),
        schema=schema,
        begin=tuple(digest(node.own, facts) for facts in given.facts),
        means=node.own,
        columns=tuple(schema),
        runs_python=node.runs_python,
    )


def _after(steps: tuple[str, ...], link: Link, count: int) -> _Chain:
    return _several(steps, (link,), count)


def _several(steps: tuple[str, ...], links: tuple[Link, ...], count: int) -> _Chain:
    schema = dict(links[0].stages[0].schema)
    if number := links[0].exchange.number:
        schema[number] = pl.UInt64()
    if links[0].exchange.kind == "none":
        (stage,) = links[0].stages
        return _Chain(steps, None, links, schema, stage.begin, stage.means)
    made = digest(count, [[_told(link.exchange), [stage.parts for stage in link.stages]] for link in links])
    means = digest([[_told(link.exchange), [stage.means for stage in link.stages]] for link in links])
    return _Chain(steps, None, links, schema, tuple(f"{made} {i}" for i in range(count)), means)


def _told(exchange: Exchange) -> list[Any]:
    """How rows are spread: by which keys, in their order (`join: {on: {a: a, b: b}}` is the same table as with b first, in other
    partitions). By which order, the step behind it says."""
    return [exchange.kind, "numbered" if exchange.number else "", exchange.keys, [repr(t) for t in exchange.types]]


def cut(plan: Plan, targets: tuple[str, ...] = (), layout: Layout | None = None) -> Staged:
    """Stages for the targets (default: all ends). A target's table keeps all its columns; others only those that are read."""
    layout = layout or Layout()
    targets = targets or plan.ends
    notes = list[tuple[str, str]]()
    given = plan
    if "shared" in layout.passes:
        plan = passes.share(plan)
        for node in given.upstream(targets):
            if node not in plan.upstream(targets) and plan.nodes[node.name].inputs == node.inputs:
                notes.append(("shared", f"{node.name} is computed once, with another step that means the same"))
    if "filters" in layout.passes:
        plan = passes.filters(plan, targets)
        for node in plan.upstream(targets):
            if node.name not in given.nodes:
                notes.append(
                    ("filters", f"{node.name.split()[0]} is tested early, on {node.inputs[0]}, before rows travel")
                )
    nodes = plan.upstream(targets)
    wanted = passes.columns(plan, targets) if "columns" in layout.passes else passes.all_columns(plan, targets)
    seen = passes.order(plan, targets)
    ordered = seen if "order" in layout.passes else dict.fromkeys(seen, True)
    consumers = dict.fromkeys((node.name for node in nodes), 0)
    for node in nodes:
        for name in node.inputs:
            consumers[name] += 1
    number = max((name for node in nodes for name in node.schema), key=len, default="") + "~"
    estimates = functools.cache(lambda: estimate(plan, targets))
    cutter = _Cutter(plan, targets, layout, wanted, ordered, consumers, number, estimates)
    tables = dict[str, tuple[Stage, ...]]()
    for node in nodes:
        if isinstance(node.bound, Work):
            cutter.closed[node.name] = (cutter.work(node, node.bound),)
        elif node.role == "sink":
            cutter.closed[node.name] = cutter.sink(node)
        if node.name in cutter.closed:
            if node.name in targets or node.checkpoint:
                tables[node.name] = cutter.closed[node.name]
            continue
        cutter.open[node.name] = cutter.chains(node)
        if node.name in targets or node.checkpoint:
            tables[node.name] = cutter.table(node.name)
    durable = {
        stage.key: name
        for name in tables
        if plan.nodes[name].checkpoint == "disk"
        for table in tables[name]
        for stage in (table, *(s for link in table.links if link.exchange.kind == "tree" for s in link.stages))
    }
    return Staged(plan, targets, tuple(cutter.stages), tables, (*notes, *cutter.notes), durable)


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
