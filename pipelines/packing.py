"""Key columns as one integer: by that Polars groups and sorts in half the time that texts, or several columns, take.

Each column is a digit: one for each value between the lowest and the highest, or for each text that there is, in their order, and
the last for NULL. The key is the number that the digits make, each in its own base: it has the order of the columns.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import cast

import polars as pl
from msgspec import Struct

from pipelines.order import Order
from pipelines.types import Schema

KEY = "\0"
"""The key's column; that of a text's numbers is KEY and its name. No other column has such a name."""
_LEAST = 1 << 15
"""Rows that are worth packing."""
_SMALL = 1 << 15
"""Rows of a side whose texts may be numbered anew for each partition."""
_SAMPLE = 4096
"""Rows of a table of which at most a quarter may be different texts: to number many takes longer than to group by them."""
_RANGES: dict[type[pl.DataType], tuple[int, int]] = {
    pl.Boolean: (0, 1),
    **{t: (-(1 << bits - 1), (1 << bits - 1) - 1) for t, bits in ((pl.Int8, 8), (pl.Int16, 16), (pl.Int32, 32), (pl.Date, 32))},
    **{t: (0, (1 << bits) - 1) for t, bits in ((pl.UInt8, 8), (pl.UInt16, 16), (pl.UInt32, 32))},
}  # fmt: skip
_WIDE = (pl.Int64, pl.UInt64, pl.Datetime, pl.Duration, pl.Time)


class Digit(Struct, frozen=True):
    name: str
    dtype: pl.DataType
    low: int
    high: int
    texts: pl.Series | None = None
    """Of a text column: each number's text."""
    falling: bool = False

    @property
    def base(self) -> int:
        return self.high - self.low + 2

    @property
    def of(self) -> pl.Expr:
        number = (pl.col(self.name).to_physical() if self.texts is None else pl.col(KEY + self.name)).cast(pl.Int64)
        return (self.high - number if self.falling else number - self.low).fill_null(self.base - 1)

    def value(self, digit: pl.Expr) -> pl.Expr:
        """Of a digit that does not fall."""
        number = pl.when(digit < self.base - 1).then(digit + self.low)
        value = number if self.texts is None else pl.lit(self.texts).gather(number)
        return value.cast(self.dtype).alias(self.name)


class Packing(Struct, frozen=True):
    digits: tuple[Digit, ...]

    @property
    def key(self) -> pl.Expr:
        key = pl.lit(0, pl.Int64)
        for digit in self.digits:
            key = key * digit.base + digit.of
        return key.alias(KEY)

    @property
    def added(self) -> tuple[str, ...]:
        """The columns that it needs beside the keys."""
        return tuple(KEY + digit.name for digit in self.digits if digit.texts is not None)

    @property
    def columns(self) -> list[pl.Expr]:
        """The key columns as they were."""
        rest, found = pl.col(KEY), list[pl.Expr]()
        for digit in reversed(self.digits):
            found.insert(0, digit.value(rest % digit.base))
            rest = rest // digit.base
        return found


def of_table(table: pl.DataFrame, keys: Schema, falling: Sequence[bool] = ()) -> tuple[pl.DataFrame, Packing] | None:
    """The table with the columns that the packing needs; None where its values do not fit, or it would not be faster."""
    if len(table) < _LEAST or len(keys) < 2:
        return None
    texts = [table[name] for name, dtype in keys.items() if isinstance(dtype, pl.String)]
    if any(column.gather_every(max(1, len(column) // _SAMPLE)).n_unique() > _SAMPLE // 4 for column in texts):
        return None
    falls = falling or (False,) * len(keys)
    return _packed(table, [_digit(table[key], down) for key, down in zip(keys, falls, strict=True)])


def of_side(side: pl.DataFrame, names: Mapping[str, str], keys: Schema) -> tuple[pl.DataFrame, Packing] | None:
    """The same for a table that is joined with a small one, `side`. `names`: of each key that comes from there its name there."""
    if len(side) > _SMALL or not names.keys() & keys.keys():
        return None
    found = list[tuple[Digit, pl.Series | None] | None]()
    for name, dtype in keys.items():
        if name in names:
            found.append(_digit(side[names[name]].alias(name)))
        else:  # nothing is known of it but its type
            limits = _RANGES.get(type(dtype))
            found.append(limits and (Digit(name, dtype, *limits), None))
    return _packed(side, found)


def ordered(table: pl.DataFrame, order: Order) -> pl.DataFrame:
    """The rows in order."""
    found = of_table(table, {name: table.schema[name] for name in order.by}, order.descending)
    if found is None:
        return order(table.lazy()).collect(engine="in-memory").rechunk()
    numbered, packing = found
    packed = numbered.select(*table.columns, packing.key)
    return packed.sort(KEY, maintain_order=True).drop(KEY).rechunk()


def _packed(
    table: pl.DataFrame, found: Sequence[tuple[Digit, pl.Series | None] | None]
) -> tuple[pl.DataFrame, Packing] | None:
    digits = [each[0] for each in found if each is not None]
    if len(digits) < len(found) or math.prod(digit.base for digit in digits) >= 1 << 63:
        return None
    return table.with_columns(each[1] for each in found if each and each[1] is not None), Packing(tuple(digits))


def _digit(column: pl.Series, falling: bool = False) -> tuple[Digit, pl.Series | None] | None:
    name, dtype = column.name, column.dtype
    if isinstance(dtype, pl.String):
        categories = pl.Categories.random()  # not those of the process, which would grow
        found = column.cast(pl.Categorical(categories))
        texts = categories.to_series()  # in the order of Polars' numbers
        numbers = texts.rank("ordinal").gather(found.to_physical()) - 1
        return Digit(name, dtype, 0, len(texts) - 1, texts.sort(), falling), numbers.alias(KEY + name)
    if type(dtype) not in (*_RANGES, *_WIDE):
        return None
    values = column.to_physical()
    low, high = (int(cast(int, value or 0)) for value in (values.min(), values.max()))
    return (Digit(name, dtype, low, high, None, falling), None) if low > -(1 << 62) and high < 1 << 62 else None
