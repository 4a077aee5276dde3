"""The order of rows: as Polars sorts them, and as Python compares single ones."""

from __future__ import annotations

from math import isnan
from typing import Any

import polars as pl
from msgspec import Struct


class Order(Struct, frozen=True):
    """In which order rows are: NULL last, NaN after every number, equal ones as they came."""

    by: tuple[str, ...]
    descending: tuple[bool, ...] = ()

    def __call__(self, frame: pl.LazyFrame) -> pl.LazyFrame:
        return frame.sort(self.by, descending=list(self.descending) or False, nulls_last=True, maintain_order=True)

    def sorted(self, value: pl.Expr) -> pl.Expr:
        """An expression's values in the order of the rows that they stand in."""
        if not self.by:
            return value
        return value.sort_by(self.by, descending=list(self.descending) or False, nulls_last=True, maintain_order=True)

    def keys(self, frame: pl.DataFrame) -> list[pl.Series]:
        """The key columns, with values that Python compares as Polars sorts them."""
        return [_comparable(frame.get_column(name)) for name in self.by]

    def compare(self, one: tuple[Any, ...], other: tuple[Any, ...]) -> int:
        """Less than, equal to or greater than 0, as `one` comes before `other`, with it, or after it."""
        falling = self.descending or (False,) * len(self.by)
        for a, b, down in zip(one, other, falling, strict=True):
            if a is None or b is None:
                if a is not b:
                    return 1 if a is None else -1
                continue
            nan = isinstance(a, float) and isnan(a), isinstance(b, float) and isnan(b)
            sign = nan[0] - nan[1] if any(nan) else (a > b) - (a < b)
            if sign:
                return -sign if down else sign
        return 0


def _comparable(column: pl.Series) -> pl.Series:
    dtype = column.dtype
    if isinstance(dtype, pl.Categorical):
        return column.cast(pl.String)
    if isinstance(dtype, pl.Enum):
        return column.to_physical()
    return column.cast(pl.Int64) if dtype.is_temporal() else column  # to_physical() starts a query, 0.1 ms each time
