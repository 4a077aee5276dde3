"""What the planner decides, pass by pass: none may change an answer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import polars as pl
from msgspec import Struct
from msgspec.structs import replace

from pipelines import kernel
from pipelines.plan import Node, Plan, digest
from pipelines.steps.base import Appending, Columns, Joining, Operation
from pipelines.steps.filter import Filtered
from pipelines.work import Work

PASSES = ("shared", "filters", "columns", "order", "partial", "broadcast", "placement")


class Layout(Struct, frozen=True):
    """What may be chosen in any way; tests choose."""

    passes: frozenset[str] = frozenset(PASSES)
    partitions: int | None = None
    """Behind every exchange. None: by the estimated bytes."""
    finer: int = 1
    """Behind exchanges, so many times as many partitions as usual."""


def share(plan: Plan) -> Plan:
    """Steps that mean the same are computed once.

    before:  a: read x.csv   b: filter(a)   c: read x.csv   d: filter(c)   e: join(b, d)
    after:   a: read x.csv   b: filter(a)   e: join(b, b)
    """
    first, instead = dict[str, str](), dict[str, str]()
    nodes = dict[str, Node]()
    for name, node in plan.nodes.items():
        if node.role != "sink" and not node.checkpoint:
            instead[name] = first.setdefault(node.identity, name)
        nodes[name] = replace(node, inputs=tuple(instead.get(above, above) for above in node.inputs))
    return replace(plan, nodes=nodes)


def filters(plan: Plan, targets: tuple[str, ...]) -> Plan:
    """What a filter is sure to leave out is left out before rows travel; the filter itself stays where it is.

    before:  join(prices, companies) → filter(Close > 0 AND sector = 'x')
    after:   join(filter(prices, Close > 0), filter(companies, sector = 'x')) → filter(Close > 0 AND sector = 'x')
    """
    found = dict[str, Node]()
    consumers = Counter(name for node in plan.upstream(targets) for name in node.inputs)
    early = dict[tuple[str, int], list[tuple[str, pl.Expr, Columns]]]()
    for node in plan.upstream(targets):
        if isinstance(node.bound, Filtered):
            for expr, names in node.bound.parts:
                _descend(plan, targets, consumers, node, node.name, expr, names, early, False)
    for name, node in plan.nodes.items():
        inputs = list(node.inputs)
        for index, above in enumerate(node.inputs):
            for test, expr, names in early.get((name, index), ()):
                label = f"{test} early"
                while label in plan.nodes or label in found:
                    label += "'"
                bound = Filtered(plan.nodes[above].schema, expr, names)
                own = digest(kernel.VERSION, expr.meta.serialize(format="binary").hex())
                found[label] = replace(
                    plan.nodes[test],
                    name=label,
                    inputs=(inputs[index],),
                    bound=bound,
                    schema=bound.schema,
                    own=own,
                    identity=digest(own, plan.nodes[above].identity),
                    checkpoint=None,
                    origin=test,
                )
                inputs[index] = label
        found[name] = replace(node, inputs=tuple(inputs))
    return replace(plan, nodes=found)


def _descend(
    plan: Plan,
    targets: tuple[str, ...],
    consumers: Mapping[str, int],
    node: Node,
    test: str,
    expr: pl.Expr,
    names: Columns,
    early: dict[tuple[str, int], list[tuple[str, pl.Expr, Columns]]],
    travels: bool,
) -> None:
    """Notes the places before which the test can be made: as far up as it goes, if rows travel on the way."""
    bound = node.bound
    indexes = bound.tests_early(names) if isinstance(bound, Operation) else ()
    for index in indexes:
        above = plan.nodes[node.inputs[index]]
        if any(above.schema.get(name) != node.schema[name] for name in names):
            continue
        moved = travels or (isinstance(bound, Operation) and bound.placement != "anywhere")
        free = consumers[above.name] == 1 and above.name not in targets and not above.checkpoint
        goes_on = free and isinstance(above.bound, Operation) and above.bound.tests_early(names)
        if goes_on:
            _descend(plan, targets, consumers, above, test, expr, names, early, moved)
        elif moved:
            early.setdefault((node.name, index), []).append((test, expr, names))


def columns(plan: Plan, targets: tuple[str, ...]) -> Mapping[str, Columns]:
    """Of each step's table: the columns that anything after it reads.

    before:  read x.csv (Date, Open, Close, Volume) → filter(Close > 0) → aggregate(by Date, avg(Open))
    after:   read x.csv (Date, Open, Close)         → filter(Close > 0) → aggregate(by Date, avg(Open))
    """
    nodes = plan.upstream(targets)
    wanted = dict[str, Columns]()
    for node in reversed(nodes):
        mine = wanted.get(node.name, frozenset())
        if node.name in targets or node.role == "sink" or node.checkpoint == "disk":
            mine = frozenset(node.schema)
        # a query without columns has no rows: count(*) needs one to count by
        wanted[node.name] = mine = mine or frozenset(list(node.schema)[:1])
        for i, name in enumerate(node.inputs):
            wanted[name] = wanted.get(name, frozenset()) | reads(node, i, mine)
    return wanted


def reads(node: Node, index: int, wanted: Columns) -> Columns:
    """The columns of the node's input of that index that its own columns `wanted` need."""
    if isinstance(node.bound, Appending | Joining | Work):
        return node.bound.reads_of(index, wanted)
    return node.bound.reads(wanted) if isinstance(node.bound, Operation) else wanted


def all_columns(plan: Plan, targets: tuple[str, ...]) -> Mapping[str, Columns]:
    """Instead of `columns`: all."""
    return {node.name: frozenset(node.schema) for node in plan.upstream(targets)}


def order(plan: Plan, targets: tuple[str, ...]) -> Mapping[str, bool]:
    """Of each step's table: whether the order of its rows shows in any answer. Where not, an exchange does not restore it.

    before:  join (rows back in the left table's order) → aggregate(by Date, sum(x))
    after:   join (rows as they come)                   → aggregate(by Date, sum(x))
    """
    seen = dict[str, bool]()
    for node in reversed(plan.upstream(targets)):
        mine = seen.get(node.name, False) or node.name in targets or node.role == "sink" or node.checkpoint == "disk"
        seen[node.name] = mine
        for name in node.inputs:
            sees = node.bound.sees_order(mine) if isinstance(node.bound, Operation) else True
            seen[name] = seen.get(name, False) or sees
    return seen
