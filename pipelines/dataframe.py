"""The dask.dataframe face of a table of Polars partitions. A module of its own: importing dask.dataframe takes seconds,
and Dask cannot tokenize a class that is local to a function.
"""

from __future__ import annotations

from typing import Any

import pandas as pd
import polars as pl
from dask._task_spec import Task, TaskRef
from dask.dataframe.dask_expr._collection import new_collection
from dask.dataframe.dask_expr.io.io import IO

from pipelines.graph import Table
from pipelines.types import as_pandas


def frame_over(table: Table) -> Any:
    """A dask.dataframe.DataFrame over the table's tasks: one partition each, unknown divisions."""
    return new_collection(Leaf(table, table.name))  # type: ignore[no-untyped-call]


class Leaf(IO):
    """The leaf of an expression, named by our own key: `from_graph` would hash every task (11 s for 200,000)."""

    _parameters = ["table", "key"]  # noqa: RUF012

    @property
    def _name(self) -> str:
        return "frame-" + str(self.operands[1])

    @property
    def _meta(self) -> pd.DataFrame:
        meta: pd.DataFrame = as_pandas(pl.DataFrame(schema=dict(self.operands[0].schema)))
        return meta

    def _divisions(self) -> tuple[None, ...]:
        return (None,) * (len(self.operands[0].keys) + 1)

    def _layer(self) -> dict[Any, Any]:
        table = self.operands[0]
        name = self._name
        faces = {(name, i): Task((name, i), as_pandas, TaskRef(key)) for i, key in enumerate(table.keys)}
        return {**table.graph, **faces}
