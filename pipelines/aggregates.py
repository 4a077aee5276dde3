"""One algebra of aggregate functions: which types each takes, how rows become a state, states one state, a state the answer.

Class `exact`: the answer has the same bits for any order and any partitioning. `ordered`: it depends on the order of rows
(first, last) or, within 1e-12, on the partitioning (var, std: pooled in partition order). `rows`: it needs all rows of a group.

Sums of floats are exact until the end, where they become one float64, within one unit in the last place; a mean is that sum
divided by the count. x = (h + l·2⁻⁹⁰)·2⁻²⁰ with h = round(x·2²⁰) and integer l; both are summed as Int128,
where addition is associative. That covers |x| in [2⁻⁵⁷, 2⁶³) and 0, for up to 2³⁷ rows. For |x| in [2⁻²⁰, 2³⁰) and 0, and
up to 2²⁵ rows, one sum does, of x·2⁷², from which h and l of the total are made: half the work. Other finite values are counted, and
where there are any the partition is computed again: with both limbs, then with what these do not hold kept aside and added as
fractions of integers. Infinities and NaN are summed apart: their sum does not depend on order.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any, Literal

import polars as pl
from msgspec import Struct

Class = Literal["exact", "ordered", "rows"]
Reach = Literal["near", "far", "all"]
"""Which values a state's expressions hold: of [2⁻²⁰, 2³⁰), of [2⁻⁵⁷, 2⁶³), all. The nearer, the faster."""
Exprs = list[pl.Expr]
_HIGH, _LOW = 2.0**20, 2.0**90
_NEAR, _NEAR_ROWS = 52, 2**25
"""Bits that `high` has less than the sum of near values, and the rows that this sum holds."""


def canonical(value: pl.Expr, dtype: pl.DataType) -> pl.Expr:
    """Floats with one zero and one NaN: which of two equal values comes first must not show."""
    if not dtype.is_float():
        return value
    # not value + 0.0: that is -0.0 as it was in a column, and 0.0 in one of a single row
    nan, zero = pl.lit(float("nan"), dtype), pl.lit(0.0, dtype)
    return pl.when(value.is_nan()).then(nan).when(value == 0).then(zero).otherwise(value)


def _number(dtype: pl.DataType) -> bool:
    return dtype.is_integer() or dtype.is_float() or isinstance(dtype, pl.Decimal)


def _orderable(dtype: pl.DataType) -> bool:
    return _number(dtype) or dtype.is_temporal() or isinstance(dtype, pl.String | pl.Boolean | pl.Binary)


def _sum_type(dtype: pl.DataType) -> pl.DataType | None:
    if isinstance(dtype, pl.Decimal):
        return pl.Decimal(38, dtype.scale)
    if dtype.is_float():
        return pl.Float64()
    if dtype == pl.UInt64:
        return pl.UInt64()
    return pl.Int64() if dtype.is_integer() or dtype == pl.Boolean else None


def _float_if_number(dtype: pl.DataType) -> pl.DataType | None:
    return pl.Float64() if _number(dtype) else None


# ---- exact sums


def _within(x: pl.Expr, low: int, high: int) -> pl.Expr:
    return (x.abs() >= 2.0**low) & (x.abs() < 2.0**high) | (x == 0.0)


def limbs(x: pl.Expr, name: str, reach: Reach) -> Exprs:
    """The state of a float64 column's exact sum.

    `odd` counts the values that are not within reach, and the rest is wrong if there are any. With a reach of all, it counts those
    that the limbs do not hold; they are kept apart.
    """
    count = x.count().cast(pl.Int64)
    special, rest = pl.lit(0.0), pl.lit(None, pl.List(pl.Float64))
    if reach == "near":
        total = (x * (_HIGH * 2.0**_NEAR)).cast(pl.Int128, strict=False).sum()
        unit = pl.lit(2**_NEAR, pl.Int128)
        high = total // unit
        low = (total - high * unit) * int(_LOW / 2.0**_NEAR)
        odd = (~_within(x, -20, 30)).sum() + (count > _NEAR_ROWS)
    else:
        ok = _within(x, -57, 63)
        beyond = ~ok
        if reach == "all":
            beyond &= x.is_finite()
            special = pl.when(x.is_finite()).then(0.0).otherwise(x).sum()
            rest = x.filter(beyond).implode()
            x = pl.when(ok).then(x).otherwise(0.0)
        odd = beyond.sum()
        scaled = x * _HIGH
        whole = scaled.round()
        high = whole.cast(pl.Int128, strict=False).sum()
        low = ((scaled - whole) * _LOW).cast(pl.Int128, strict=False).sum()
    return [
        high.alias(f"{name}.high"),
        low.alias(f"{name}.low"),
        count.alias(f"{name}.count"),
        odd.cast(pl.Int64).alias(f"{name}.odd"),
        special.alias(f"{name}.special"),
        rest.alias(f"{name}.rest"),
    ]


def _combine_limbs(name: str) -> Exprs:
    sums = [pl.col(f"{name}.{part}").sum() for part in ("high", "low", "count", "odd", "special")]
    return [*sums, pl.col(f"{name}.rest").explode().drop_nulls().implode()]


def _total(name: str, *, mean: bool) -> pl.Expr:
    state = pl.struct(
        pl.col(f"{name}.{part}").alias(part) for part in ("high", "low", "count", "odd", "special", "rest")
    )
    return state.map_batches(_mean_of if mean else _sum_of, return_dtype=pl.Float64)


def _sum_of(states: pl.Series) -> pl.Series:
    return _join(states, mean=False)


def _mean_of(states: pl.Series) -> pl.Series:
    return _join(states, mean=True)


def _join(states: pl.Series, *, mean: bool) -> pl.Series:
    """float64 from the limbs: the real sum within one unit in the last place; a mean is that divided by the count."""
    frame = states.struct.unnest()
    two90 = pl.lit(2**90, pl.Int128)
    # carry so that |low| <= 2^89: then high and low cannot cancel, and what high loses as a float goes to low
    carry = (pl.col("low") + two90 // 2) // two90
    high, low = pl.col("high") + carry, pl.col("low") - carry * two90
    head = high.cast(pl.Float64)
    tail = (high - head.cast(pl.Int128)).cast(pl.Float64) + low.cast(pl.Float64) / _LOW
    total = (head + tail) / _HIGH
    value = pl.when(pl.col("special") != 0.0).then(pl.col("special")).otherwise(total)
    if mean:
        value = value / pl.col("count")
    result = frame.select(pl.when(pl.col("count") > 0).then(value).alias("sum")).to_series()
    if frame["odd"].sum():
        for i in frame.select(pl.arg_where((pl.col("odd") > 0) & (pl.col("special") == 0.0))).to_series():
            row = frame.row(i, named=True)
            exact = Fraction(row["high"], 2**20) + Fraction(row["low"], 2**110) + sum(map(Fraction, row["rest"]))
            result[i] = _rounded(exact / row["count"] if mean else exact)
    return result


def _rounded(exact: Fraction) -> float:
    try:
        return float(exact)
    except OverflowError:
        return float("inf") if exact > 0 else float("-inf")


# ---- the table


class Function(Struct, frozen=True):
    """An aggregate function; `partial`, `combine` and `final` speak of state columns that start with the given name."""

    kind: Class
    takes: str
    result: Callable[[pl.DataType], pl.DataType | None]
    """The answer's type, or None for a type that the function does not take."""
    partial: Callable[[pl.Expr, pl.DataType, str, Reach], Exprs]
    combine: Callable[[str, pl.DataType], Exprs]
    final: Callable[[str, pl.DataType], pl.Expr]


def _partial_sum(x: pl.Expr, dtype: pl.DataType, name: str, reach: Reach) -> Exprs:
    if dtype.is_float():
        return limbs(x.cast(pl.Float64), name, reach)
    wide = x.cast(_sum_type(dtype) if isinstance(dtype, pl.Decimal) else pl.Int128)  # type: ignore[arg-type]
    return [wide.sum().alias(f"{name}.sum"), x.count().cast(pl.Int64).alias(f"{name}.count")]


def _combine_sum(name: str, dtype: pl.DataType) -> Exprs:
    if dtype.is_float():
        return _combine_limbs(name)
    return [pl.col(f"{name}.sum").sum(), pl.col(f"{name}.count").sum()]


def _final_sum(name: str, dtype: pl.DataType) -> pl.Expr:
    if dtype.is_float():
        return _total(name, mean=False)
    return pl.when(pl.col(f"{name}.count") > 0).then(pl.col(f"{name}.sum")).cast(_sum_type(dtype))  # type: ignore[arg-type]


def _final_avg(name: str, dtype: pl.DataType) -> pl.Expr:
    if dtype.is_float():
        return _total(name, mean=True)
    count = pl.col(f"{name}.count")
    return pl.when(count > 0).then(pl.col(f"{name}.sum").cast(pl.Float64) / count)


def _partial_var(x: pl.Expr, dtype: pl.DataType, name: str, reach: Reach) -> Exprs:
    """The mean as a sum of two floats: deviations from one float near it, and what is left, which is small."""
    x = x.cast(pl.Float64)
    count, pivot = x.count().cast(pl.Int64), x.mean()
    away = x - pivot
    rest = away.mean()
    return [
        count.alias(f"{name}.count"),
        pivot.alias(f"{name}.mean"),
        rest.alias(f"{name}.rest"),
        (away - rest).pow(2).sum().alias(f"{name}.m2"),
    ]


def _combine_var(name: str, dtype: pl.DataType) -> Exprs:
    """Chan, Golub, LeVeque (1979): pooled means and squared deviations, all relative to the first mean."""
    count, mean, rest, m2 = (pl.col(f"{name}.{part}") for part in ("count", "mean", "rest", "m2"))
    pivot = mean.filter(count > 0).first()
    away = (mean - pivot) + rest
    pooled = (away * count).sum() / count.sum()
    moved = pivot + pooled
    return [
        count.sum(),
        pl.when(count.sum() > 0).then(moved).alias(f"{name}.mean"),
        pl.when(count.sum() > 0).then((pivot - moved) + pooled).alias(f"{name}.rest"),
        (m2.sum() + (count * (away - pooled).pow(2)).sum()).alias(f"{name}.m2"),
    ]


def _final_var(name: str, dtype: pl.DataType) -> pl.Expr:
    count = pl.col(f"{name}.count")
    return pl.when(count > 1).then(pl.col(f"{name}.m2") / (count - 1))


def _extreme(reduce: Callable[[pl.Expr, pl.DataType], pl.Expr]) -> Function:
    """min and max: NaN is greater than every number, as in sorting."""

    def partial(x: pl.Expr, dtype: pl.DataType, name: str, reach: Reach) -> Exprs:
        return [reduce(canonical(x, dtype), dtype).alias(name)]

    def combine(name: str, dtype: pl.DataType) -> Exprs:
        return [reduce(pl.col(name), dtype)]

    takes = "numbers, text, dates, booleans"
    return Function("exact", takes, lambda t: t if _orderable(t) else None, partial, combine, _state)


def _state(name: str, dtype: pl.DataType) -> pl.Expr:
    return pl.col(name)


def _least(x: pl.Expr, dtype: pl.DataType) -> pl.Expr:
    return x.min()


def _greatest(x: pl.Expr, dtype: pl.DataType) -> pl.Expr:
    return x.nan_max() if dtype.is_float() else x.max()


def _edge(which: Literal["first", "last"]) -> Function:
    """The value in the first or last row of the group, NULL where it is NULL."""

    def partial(x: pl.Expr, dtype: pl.DataType, name: str, reach: Reach) -> Exprs:
        return [getattr(x, which)().alias(f"{name}.value"), x.len().cast(pl.Int64).alias(f"{name}.rows")]

    def combine(name: str, dtype: pl.DataType) -> Exprs:
        # a partition without rows has no first row
        there = pl.col(f"{name}.value").filter(pl.col(f"{name}.rows") > 0)
        return [getattr(there, which)(), pl.col(f"{name}.rows").sum()]

    return Function("ordered", "any type", lambda t: t, partial, combine, lambda name, t: pl.col(f"{name}.value"))


def _median(x: pl.Expr) -> pl.Expr:
    """The middle in sorting order, NaN last; Polars' own is NaN for two infinities and overflows."""
    ordered = x.drop_nulls().sort()
    last = ordered.len().cast(pl.Int64) - 1
    low, high = ordered.get(last // 2, null_on_oob=True), ordered.get((last + 1) // 2, null_on_oob=True)
    return pl.when(low == high).then(low).otherwise(low / 2 + high / 2)


def _between(x: pl.Expr, part: float) -> pl.Expr:
    """The value at that part of the sorting order, NaN last; between two rows in proportion."""
    ordered = x.drop_nulls().sort()
    at = (ordered.len().cast(pl.Int64) - 1) * part
    low = ordered.get(at.floor().cast(pl.Int64), null_on_oob=True)
    high = ordered.get(at.ceil().cast(pl.Int64), null_on_oob=True)
    beyond = at - at.floor()
    # weights, not the difference of both: that overflows, and is NaN for infinities
    return pl.when((low == high) | (beyond == 0.0)).then(low).otherwise(low * (1 - beyond) + high * beyond)


def _mode(x: pl.Expr) -> pl.Expr:
    """The most frequent value, of several the smallest."""
    return x.drop_nulls().mode().sort().first()


def _never(name: str, dtype: pl.DataType) -> Exprs:
    raise AssertionError("a function that needs all rows has no states to combine")


def _rows(
    takes: str, result: Callable[[pl.DataType], pl.DataType | None], answer: Callable[[pl.Expr, pl.DataType], pl.Expr]
) -> Function:
    def partial(x: pl.Expr, dtype: pl.DataType, name: str, reach: Reach) -> Exprs:
        return [answer(canonical(x, dtype), dtype).alias(name)]

    return Function("rows", takes, result, partial, _never, _state)


def quantile(part: float) -> Function:
    return _rows("numbers", _float_if_number, lambda x, t: _between(x.cast(pl.Float64), part))


def _count(x: pl.Expr, dtype: pl.DataType, name: str, reach: Reach) -> Exprs:
    return [x.count().cast(pl.Int64).alias(name)]


def _count_rows(x: pl.Expr, dtype: pl.DataType, name: str, reach: Reach) -> Exprs:
    return [pl.len().cast(pl.Int64).alias(name)]


def _distinct(known: Function) -> Function:
    """The function over each value once; all rows of a group must meet."""

    def partial(x: pl.Expr, dtype: pl.DataType, name: str, reach: Reach) -> Exprs:
        return known.partial(canonical(x, dtype).unique(maintain_order=True), dtype, name, reach)

    return Function("rows", known.takes, known.result, partial, _never, known.final)


_INT64: Callable[[pl.DataType], pl.DataType | None] = lambda t: pl.Int64()  # noqa: E731
_VAR: dict[str, Any] = {"result": _float_if_number, "partial": _partial_var, "combine": _combine_var}

FUNCTIONS: dict[str, Function] = {
    "count": Function("exact", "any type", _INT64, _count, lambda name, t: [pl.col(name).sum()], _state),
    "count_rows": Function("exact", "any type", _INT64, _count_rows, lambda name, t: [pl.col(name).sum()], _state),
    "sum": Function("exact", "numbers and booleans", _sum_type, _partial_sum, _combine_sum, _final_sum),
    "avg": Function("exact", "numbers", _float_if_number, _partial_sum, _combine_sum, _final_avg),
    "min": _extreme(_least),
    "max": _extreme(_greatest),
    "var": Function("ordered", "numbers", **_VAR, final=_final_var),
    "std": Function("ordered", "numbers", **_VAR, final=lambda name, t: _final_var(name, t).sqrt()),
    "first": _edge("first"),
    "last": _edge("last"),
    "median": _rows("numbers", _float_if_number, lambda x, t: _median(x.cast(pl.Float64))),
    "quantile": quantile(0.5),
    "mode": _rows("numbers, text, dates, booleans", lambda t: t if _orderable(t) else None, lambda x, t: _mode(x)),
    "count_distinct": _rows("any type that can be ordered", lambda t: pl.Int64() if _orderable(t) else None,
                            lambda x, t: x.drop_nulls().n_unique().cast(pl.Int64)),
}  # fmt: skip
FUNCTIONS |= {f"{name}_distinct": _distinct(FUNCTIONS[name]) for name in ("sum", "avg", "var", "std", "median")}
