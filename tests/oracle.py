"""Every step's table in one process, without Dask, stages or exchanges: what each executor's answer is checked against."""

from __future__ import annotations

import polars as pl

from pipelines import kernel
from pipelines.plan import Plan
from pipelines.steps.base import Appending, Input, Joining, Operation


def oracle(plan: Plan) -> dict[str, pl.DataFrame]:
    """Step: its whole table (of a sink: none)."""
    tables = dict[str, pl.DataFrame]()
    for node in plan.nodes.values():
        if isinstance(node.bound, Input):
            loader = node.bound.loader
            parts = [loader.scan(p, list(node.schema)).collect(engine="in-memory") for p in node.bound.partitions]
            tables[node.name] = pl.concat(parts) if parts else pl.DataFrame(schema=dict(node.schema))
        elif isinstance(node.bound, Operation):
            frames = [tables[name].lazy() for name in node.inputs]
            whole = (
                node.bound.together(frames)
                if isinstance(node.bound, Appending | Joining)
                else node.bound.whole(*frames)
            )
            tables[node.name] = kernel.collect(whole, node.schema)
    return tables
