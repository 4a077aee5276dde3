"""Window functions over a table's columns: rows in groups and in an order, and for each of them a frame of rows around it."""

from __future__ import annotations

from typing import Literal

import polars as pl
from msgspec import Struct

from pipelines.order import Order


class Frame(Struct, frozen=True):
    """Which rows around a row are seen. rows: from `low` to `high` rows after it (negative: before). range: rows whose place in
    the order lies between; 0 is the row's own place, with its peers, a text the column that holds the first value. None: no bound."""

    unit: Literal["rows", "range"]
    low: int | str | None
    high: int | None


class Call(Struct, frozen=True):
    """One window function; `of` is its argument's column, `name` the result's."""

    function: str
    of: str | None
    dtype: pl.DataType
    name: str
    frame: Frame
    offset: int = 1
    """Of lag, lead and ntile; of forward and backward how far they reach, 0 being without end."""

    @property
    def result(self) -> pl.DataType:
        """What `computed` gives: for sums of integers more bits than the answer has."""
        if self.function in _RANKS or self.function == "count":
            return pl.Int64()
        if self.function == "there":
            return pl.Boolean()
        if self.function in PICKS or self.function in ("min", "max"):
            return self.dtype
        if self.function == "sum" and not self.dtype.is_float():
            return pl.Decimal(38, self.dtype.scale) if isinstance(self.dtype, pl.Decimal) else pl.Int128()
        return pl.Float64()


_RANKS = ("row_number", "rank", "dense_rank", "ntile")
PICKS = ("lag", "first_value", "last_value", "forward", "backward")
RANKING = (*_RANKS, "percent_rank", "cume_dist")
"""Functions of a row's place alone."""


def numbered(table: pl.DataFrame) -> tuple[pl.DataFrame, str]:
    """The table with its rows' numbers, and their column's name."""
    name = max(table.columns, key=len) + "~"  # no column has this name
    return table.with_row_index(name), name


class Edge(Struct, frozen=True):
    """Of a struct of columns: whether a row is among the first or last of its group."""

    keys: tuple[str, ...]
    order: Order
    rows: int = 1
    last: bool = False

    def __call__(self, columns: pl.Series) -> pl.Series:
        table, name = numbered(columns.struct.unnest())
        row = self.order.sorted(pl.col(name))
        row = row.tail(self.rows) if self.last else row.head(self.rows)
        found = table.group_by(self.keys).agg(row).explode(name) if self.keys else table.select(row)
        return table.select(pl.col(name).is_in(found[name].implode()).alias(columns.name)).to_series()

    @property
    def mask(self) -> pl.Expr:
        # rows by their places: only the columns that decide are put in order
        return pl.struct(list(dict.fromkeys((*self.keys, *self.order.by)))).map_batches(self, return_dtype=pl.Boolean)
