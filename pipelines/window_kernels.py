"""The computing of window functions: rows group by group and in order, in blocks of whole groups that stay in the processor's
cache. Floats are added by powers of two from the frame's first row on, so that a result's bits depend on the frame's rows
alone, and an error grows with the logarithm of their number. Integers and decimals are exact.

Apart from `windows`, because importing NumPy takes 0.05 s.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
from msgspec import Struct

from pipelines.aggregates import canonical
from pipelines.order import Order
from pipelines.windows import PICKS, RANKING, Call, Frame, numbered

Ints = npt.NDArray[np.int64]
Values = npt.NDArray[Any]
State = tuple[Values, ...]
_BLOCK = 1 << 15


class _Block(Struct, frozen=True):
    """Whole groups among the sorted rows; places are counted from the block's first row."""

    first: int
    start: Ints
    """Where each row's group begins."""
    end: Ints
    """Where it ends."""
    here: Ints
    peers: tuple[Ints, Ints] | None
    """Where rows with the same place in the order begin and end."""

    @property
    def rows(self) -> slice:
        return slice(self.first, self.first + len(self.here))


class Rows:
    """The table's rows, group by group and in order."""

    def __init__(self, table: pl.DataFrame, keys: Sequence[str], order: Order) -> None:
        self.table, self.order, self.size = table, order, len(table)
        index, name = numbered(table)
        row = order.sorted(pl.col(name))
        if keys:
            grouped = index.group_by(keys, maintain_order=True).agg(row)[name]
            self.at, self.lengths = grouped.explode().to_numpy(), grouped.list.len().to_numpy().astype(np.int64)
        else:
            self.at, self.lengths = index.select(row)[name].to_numpy(), np.array([self.size])
        self.in_place = bool((self.at[1:] > self.at[:-1]).all())
        self._new: npt.NDArray[np.bool_] | None = None
        self._since = dict[str, Ints]()

    def sorted(self, values: pl.Series) -> pl.Series:
        return values if self.in_place else values.gather(self.at)

    def back(self, values: Values) -> Values:
        """Values of sorted rows in the table's order."""
        if self.in_place:
            return values
        result = np.empty_like(values)
        result[self.at] = values
        return result

    @property
    def new(self) -> npt.NDArray[np.bool_]:
        """Where a row's place in the order is not that of the row before."""
        if self._new is None:
            self._new = np.zeros(self.size, dtype=bool)
            for name in self.order.by:
                of = self.sorted(self.table[name])
                self._new |= of.ne_missing(of.shift(1)).to_numpy()
        return self._new

    def blocks(self, peers: bool) -> Iterator[_Block]:
        borders = np.concatenate([[0], np.cumsum(self.lengths)])
        group = first = 0
        while first < self.size:
            after = max(int(np.searchsorted(borders, first + _BLOCK, side="right")) - 1, group + 1)
            last, lengths = int(borders[after]), self.lengths[group:after]
            start = np.repeat(borders[group:after] - first, lengths)
            end = start + np.repeat(lengths, lengths)
            here = np.arange(last - first)
            yield _Block(first, start, end, here, _peers(self.new[first:last], start, end, here) if peers else None)
            group, first = after, last

    def computed(self, call: Call) -> pl.Series:
        if call.function in RANKING:
            values = np.empty(self.size, dtype=np.int64 if call.result == pl.Int64() else np.float64)
            for block in self.blocks(peers=call.function not in ("row_number", "ntile")):
                values[block.rows] = _ranked(call, block)
            return pl.Series(call.name, self.back(values))
        if call.function in (*PICKS, "there"):
            return self.picked(call)
        if call.of is None:
            counts = np.empty(self.size, dtype=np.int64)
            for block, low, high in self.framed(call.frame):
                counts[block.rows] = np.maximum(high - low, 0)
            return pl.Series(call.name, self.back(counts))
        of = self.sorted(self.table[call.of])
        valid = of.is_not_null().to_numpy() if of.null_count() else None
        counts = np.empty(self.size, dtype=np.int64)
        for block, low, high in self.framed(call.frame):
            counts[block.rows] = _counted(valid, block, low, high)
        if call.function == "count":
            return pl.Series(call.name, self.back(counts))
        least = 2 if call.function in ("var", "std") else 1
        result = self.aggregated(call, of, counts)
        if int(counts.min()) >= least:
            return result
        known = pl.Series(self.back(counts >= least))
        return pl.select(pl.when(known).then(result).alias(call.name)).to_series()

    def aggregated(self, call: Call, of: pl.Series, counts: Ints) -> pl.Series:
        """Of frames that hold values; anything for the others. In the table's order."""
        if call.function in ("min", "max"):
            return self.extreme(call, of)
        if not call.dtype.is_float() and call.function in ("sum", "avg"):
            total = self.whole_sum(call, of)
            if call.function == "sum":
                return total
            return (total.cast(pl.Float64) / pl.Series(self.back(counts))).alias(call.name)
        x = of.cast(pl.Float64).fill_null(0.0).to_numpy()
        there = of.is_not_null().cast(pl.Float64).to_numpy() if call.function in ("var", "std") else x
        values = np.empty(self.size)
        with np.errstate(all="ignore"):
            for block, low, high in self.framed(call.frame):
                rows = block.rows
                if call.function in ("sum", "avg"):
                    [total_] = _folded((x[rows],), low, high, _added, (0.0,))
                    values[rows] = total_ if call.function == "sum" else total_ / counts[rows]
                    continue
                n = there[rows]
                none = np.zeros(len(n))
                n, _, _, squares = _folded((n, x[rows], none, none), low, high, _pooled, (0.0, 0.0, 0.0, 0.0))
                values[rows] = squares / (n - 1) if call.function == "var" else np.sqrt(squares / (n - 1))
        values[np.isnan(values)] = math.nan  # which NaN comes out of infinities is the processor's choice
        return pl.Series(call.name, self.back(values))

    def whole_sum(self, call: Call, of: pl.Series) -> pl.Series:
        """Sums of integers, booleans and decimals from running totals."""
        ends: list[Any] = [of.min(), of.max()]
        reach = max((abs(v) for v in ends if v is not None), default=0) * self.size
        if not isinstance(call.dtype, pl.Decimal) and reach < 2**63:
            x = of.fill_null(False if of.dtype == pl.Boolean else 0).cast(pl.Int64).to_numpy()
            values = np.empty(self.size, dtype=np.int64)
            for block, low, high in self.framed(call.frame):
                total = np.concatenate([[0], np.cumsum(x[block.rows])])
                values[block.rows] = total[np.maximum(high, low)] - total[low]
            return pl.Series(call.name, self.back(values)).cast(pl.Int128)
        wide: pl.DataType = pl.Int128()
        if isinstance(call.dtype, pl.Decimal):
            wide = pl.Decimal(38, call.dtype.scale)
        exact = of.cast(wide).fill_null(0)
        if isinstance(call.dtype, pl.Decimal) and reach >= 10 ** (38 - call.dtype.scale):
            # group by group: whether that has more than 38 digits does not depend on which groups are here
            group = pl.Series("group", np.repeat(np.arange(len(self.lengths)), self.lengths))
            running = (
                exact.alias("x").to_frame().with_columns(group).select(pl.col("x").cum_sum().over("group")).to_series()
            )
        else:
            running = exact.cum_sum()
        firsts, lasts = np.empty(self.size, dtype=np.int64), np.empty(self.size, dtype=np.int64)
        for block, low, high in self.framed(call.frame):
            firsts[block.rows], lasts[block.rows] = low + block.first, np.maximum(high - 1, low) + block.first
        first, last = (pl.Series(np.minimum(self.back(each), self.size - 1)) for each in (firsts, lasts))
        totals: pl.Series = running.gather(last) - (running - exact).gather(first)
        return totals.cast(wide).alias(call.name)

    def extreme(self, call: Call, of: pl.Series) -> pl.Series:
        """min and max, by numbers that are ordered as the values: NaN is greater than every number, as in sorting."""
        codes, names = of, None
        if of.dtype == pl.Boolean:
            codes = of.cast(pl.Int8)
        elif of.dtype.is_temporal():
            codes = of.to_physical()
        elif not (of.dtype.is_integer() or of.dtype.is_float()):
            names = of.unique().drop_nulls().sort()
            codes = of.rank("dense").cast(pl.Int64) - 1
        elif of.dtype.is_float():
            codes = pl.select(canonical(pl.lit(of), of.dtype)).to_series()
        least, greatest = (-math.inf, math.nan) if of.dtype.is_float() else _limits(codes.dtype)
        rest = greatest if call.function == "min" else least
        x = codes.fill_null(rest).to_numpy() if codes.null_count() else codes.to_numpy()
        better: Callable[..., Values] = np.fmin if call.function == "min" else np.maximum
        values = np.empty_like(x)
        for block, low, high in self.framed(call.frame):
            [values[block.rows]] = _folded((x[block.rows],), low, high, lambda a, b: (better(a[0], b[0]),), (rest,))
        found = pl.Series(call.name, self.back(values))
        if names is not None:
            found = names.gather(
                pl.select(pl.when(found < len(names)).then(pl.when(found >= 0).then(found))).to_series()
            )
        return found.cast(call.dtype, strict=False).alias(call.name)  # of no value a number that is no time

    def picked(self, call: Call) -> pl.Series:
        """The value of another row, NULL where there is none."""
        sources = np.empty(self.size, dtype=np.int64)
        if call.function in ("lag", "there"):
            offset = max(min(call.offset, self.size), -self.size)
            for block in self.blocks(peers=False):
                low = block.here - offset
                sources[block.rows] = np.where((low >= block.start) & (low < block.end), low + block.first, -1)
        elif call.function in ("forward", "backward"):
            assert call.of is not None
            known_ = self.sorted(self.table[call.of]).is_not_null().to_numpy()
            for block in self.blocks(peers=False):
                sources[block.rows] = _nearest(known_[block.rows], block, call.function == "forward", call.offset)
        else:
            for block, low, high in self.framed(call.frame):
                found = low if call.function == "first_value" else high - 1
                sources[block.rows] = np.where(low < high, found + block.first, -1)
        sources = self.back(sources)
        known = pl.Series(call.name, sources >= 0)
        if call.function == "there":
            return known
        rows = self.at[np.maximum(sources, 0)].astype(np.int64)
        index = pl.select(pl.when(known).then(pl.Series(rows))).to_series()
        assert call.of is not None
        return self.table[call.of].gather(index).alias(call.name)

    def framed(self, frame: Frame) -> Iterator[tuple[_Block, Ints, Ints]]:
        """Each block with the first row of each row's frame, and the one after its last."""
        for block in self.blocks(peers=frame.unit == "range" and bool(self.order.by)):
            start, end, here, peers = block.start, block.end, block.here, block.peers
            if frame.unit == "rows":
                assert not isinstance(frame.low, str)
                low = start if frame.low is None else np.clip(here + max(frame.low, -self.size), start, end)
                high = end if frame.high is None else np.clip(here + min(frame.high, self.size) + 1, start, end)
                yield block, low, high
                continue
            first, last = peers or (start, end)
            low = start if frame.low is None else first
            if isinstance(frame.low, str):
                low = self.since(frame.low)[block.rows]
            yield block, low, end if frame.high is None else last

    def since(self, bound: str) -> Ints:
        """The first row of each row's group whose value is not before the bound; for NULL the first NULL."""
        if bound not in self._since:
            [name] = self.order.by
            sign = -1 if self.order.descending[0] else 1
            wanted, column = self.sorted(self.table[bound]), self.sorted(self.table[name])
            value = column.cast(wanted.dtype).to_physical().fill_null(0).to_numpy().astype(np.int64) * sign
            least = wanted.to_physical().fill_null(0).to_numpy().astype(np.int64) * sign
            unknown, found = column.is_null().to_numpy(), np.empty(self.size, dtype=np.int64)
            for block in self.blocks(peers=True):
                assert block.peers is not None
                rows, [first, _] = block.rows, block.peers
                found[rows] = np.where(unknown[rows], first, _bisected(value[rows], least[rows], block.start, first))
            self._since[bound] = found
        return self._since[bound]


def _nearest(known: npt.NDArray[np.bool_], block: _Block, before: bool, reach: int) -> Ints:
    """The row of the nearest known value before or after, itself included; -1 where the group has none within reach."""
    here, size = block.here, len(block.here)
    if before:
        found = np.maximum.accumulate(np.where(known, here, -1))
        there = found >= block.start
    else:
        found = np.minimum.accumulate(np.where(known, here, size)[::-1])[::-1]
        there = found < block.end
    if reach:
        there &= np.abs(found - here) <= reach
    return np.where(there, found + block.first, -1)


def _bisected(value: Values, least: Values, low: Ints, high: Ints) -> Ints:
    """The first place from `low` on whose value is not less; `high` is one."""
    for _ in range(int((high - low).max(initial=0)).bit_length()):
        middle = (low + high) // 2
        before = (value[middle] < least) & (low < high)
        low, high = np.where(before, middle + 1, low), np.where(before, high, middle)
    return low


def _limits(dtype: pl.DataType) -> tuple[int, int]:
    return pl.select(dtype.min(), dtype.max().alias("max")).row(0)  # type: ignore[attr-defined]


def _peers(new: npt.NDArray[np.bool_], start: Ints, end: Ints, here: Ints) -> tuple[Ints, Ints]:
    begins = new | (start == here)
    first = np.maximum.accumulate(np.where(begins, here, 0))
    borders = np.append(np.flatnonzero(begins), len(here))
    return first, np.repeat(borders[1:], np.diff(borders))


def _ranked(call: Call, block: _Block) -> Values:
    size, place = block.end - block.start, block.here - block.start
    result: Values = place + 1
    if call.function == "ntile":  # the first parts get one row more
        part, more = np.divmod(size, call.offset)
        in_large = place // (part + 1)
        in_small = more + (place - more * (part + 1)) // np.maximum(part, 1)
        result = np.where(place < more * (part + 1), in_large, in_small) + 1
    elif block.peers is not None:
        first, last = block.peers
        if call.function == "rank":
            result = first - block.start + 1
        elif call.function == "dense_rank":
            count = np.cumsum(first == block.here)
            result = count - count[block.start] + 1
        elif call.function == "percent_rank":
            result = np.where(size > 1, (first - block.start) / np.maximum(size - 1, 1), 0.0)
        else:
            result = (last - block.start) / size
    return result


def _counted(valid: npt.NDArray[np.bool_] | None, block: _Block, low: Ints, high: Ints) -> Ints:
    high = np.maximum(high, low)
    if valid is not None:
        total: Ints = np.concatenate([[0], np.cumsum(valid[block.rows])])
        low, high = total[low], total[high]
    counts: Ints = high - low
    return counts


def _added(a: State, b: State) -> State:
    return (a[0] + b[0],)


def _pooled(a: State, b: State) -> State:
    """Counts, means (and what their roundings lost) and squared deviations of two parts (Chan, Golub, LeVeque 1979).

    The mean's second half is Knuth's two-sum: without it, a mean of 1e15 would put its own rounding among the deviations.
    """
    count = a[0] + b[0]
    part = b[0] / np.maximum(count, 1.0)
    away = (b[1] - a[1]) + (b[2] - a[2])
    step = away * part
    mean = a[1] + step
    taken = mean - a[1]
    lost = (a[1] - (mean - taken)) + (step - taken)
    rest = a[2] + np.where(np.isfinite(lost), lost, 0.0)
    first = a[0] == 0
    squares = a[3] + b[3] + away * away * a[0] * part
    return count, np.where(first, b[1], mean), np.where(first, b[2], rest), squares


def _folded(
    values: State, low: Ints, high: Ints, combine: Callable[[State, State], State], nothing: Sequence[Any]
) -> State:
    """The combination of each row's values from `low` until before `high`.

    Parts of 1, 2, 4, ... rows are made of two halves; a frame is put together from its length's binary digits.
    """
    length = np.maximum(high - low, 0)
    if len(length) and (low[0] == low).all() and (high[0] == high).all():  # one frame for all
        one = _folded(values, low[:1], high[:1], combine, nothing) if len(low) > 1 else None
        if one is not None:
            return tuple(np.repeat(v, len(low)) for v in one)
    result: State = tuple(np.full(len(low), n, dtype=v.dtype) for v, n in zip(values, nothing, strict=True))
    at, size, longest = low.copy(), 1, int(length.max(initial=0))
    while size <= longest:
        has = (length & size) != 0
        if 2 * np.count_nonzero(has) > len(has):  # nearly all, as a rule: without gathering them
            here = np.where(has, at, 0)
            joined = combine(result, tuple(v[here] for v in values))
            result = tuple(np.where(has, new, old) for new, old in zip(joined, result, strict=True))
            at += has * size
        elif len(rows := np.flatnonzero(has)):
            here = at[rows]
            joined = combine(tuple(v[rows] for v in result), tuple(v[here] for v in values))
            for of, v in zip(result, joined, strict=True):
                of[rows] = v
            at[rows] = here + size
        if 2 * size <= longest:
            values = combine(tuple(v[:-size] for v in values), tuple(v[size:] for v in values))
        size *= 2
    return result
