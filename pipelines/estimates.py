"""How many rows and bytes each step's table will have, from samples: the sources give some rows, the steps are run on them.

Nothing here can change an answer or stop a plan: what cannot be estimated is taken as the step's input. The same files give
the same estimate.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from functools import reduce

import polars as pl
from msgspec import Struct

from pipelines import kernel
from pipelines.plan import Node, Plan
from pipelines.steps.base import Appending, Input, Joining, Keyed, Operation, Reduction, Sorting
from pipelines.steps.join import Joined
from pipelines.steps.sample import Rows
from pipelines.steps.sort import Top
from pipelines.types import Schema

_ROWS, _FEW = 20_000, 100
"""A sample has about so many rows; a join's of fewer rows is no help."""
_STRETCHES = 8
"""Of fewer places we cannot learn how rows are clustered: then they are cut into 32."""
_PROBE = 64
UNKNOWN = "unknown: taken as its input"


class Estimate(Struct, frozen=True):
    """Of one step's table."""

    rows: float
    bytes: float
    """In memory, as Polars keeps it, with all columns; of some: rows * width(columns)."""
    origin: str
    """Where it comes from, in plain words."""
    sample: pl.DataFrame | None
    """Some rows of the table."""
    exact: bool = False
    """Whether the number of rows is known, not estimated."""
    widths: Mapping[str, float] = {}
    """Mean bytes per row of each column."""
    places: pl.Series | None = None
    """Of each sampled row: the number of the stretch of neighbouring rows that it is from. Stretches with successive
    numbers are neighbours too. None: rows from anywhere."""

    def width(self, columns: Collection[str]) -> float:
        """Mean bytes per row of these columns."""
        return sum(self.widths.get(name, 0.0) for name in columns)

    @property
    def complete(self) -> bool:
        """Whether the sample is the whole table."""
        return self.exact and self.sample is not None and self.sample.height == self.rows


def estimate(plan: Plan, names: Collection[str] | None = None) -> Mapping[str, Estimate]:
    """Step: its estimate, for these steps and all that they need; default: all. Reads samples of the files, runs no code of the user's."""
    nodes = plan.upstream(tuple(plan.nodes if names is None else names))
    mark = max((name for node in plan.nodes.values() for name in node.schema), key=len, default="") + "~"
    found, alike = dict[str, Estimate](), dict[str, Estimate]()
    for node in nodes:
        if node.identity not in alike or node.role == "sink":
            inputs = [found[name] for name in node.inputs]
            try:
                alike[node.identity] = _of(node, inputs, mark)
            except (
                Exception,
                pl.exceptions.PanicException,
            ):  # whatever the sample has: the run will tell, with its place
                alike[node.identity] = _unknown(node, inputs)
        found[node.name] = alike[node.identity]
    return found


def shrinks(table: Estimate, keys: Sequence[str], partitions: int = 1) -> float:
    """Groups per row in one of so many partitions: how much smaller a table becomes when each partition is aggregated.

    Of D groups, n rows drawn at random meet D * (1 - (1 - 1/D) ** n); of rows that are clustered, fewer: not more for each
    row than in the sample's stretches, which are shorter than a partition.
    """
    n = max(1.0, table.rows / max(1, partitions))
    many = groups(table, keys)
    if many <= 1:
        return many / n
    share = min(1.0, -many * math.expm1(n * math.log1p(-1 / many)) / n)
    if table.sample is None or table.places is None or not table.sample.height:
        return share
    near = table.sample.select(keys).with_columns(table.places.alias(_free(keys)))
    if n >= near.height / table.places.n_unique():
        share = min(share, near.n_unique() / near.height)
    return min(share, 1 / n + _changes(table, table.sample, keys) / near.height)


def groups(table: Estimate, keys: Sequence[str]) -> float:
    """How many different keys the table has.

    Rows of a sample are neighbours, and neighbours may well have the same key: so it is counted in how many stretches a key
    is, not in how many rows (block-level sampling: Chaudhuri, Das, Srivastava 2004). Keys that were not seen are estimated
    from those seen once (q1) and twice (q2) by Chao and Lin (2012, sampling without replacement): for 20,000 rows of 15
    million in 1.8 million groups that is 10 % low, where GEE (Charikar et al. 2000) is three times too low. Where keys are
    skewed, Chao and Lin give only a lower bound, and GEE is nearer.
    """
    if not keys or table.rows <= 0:
        return min(1.0, max(table.rows, 0.0))
    most = min(
        table.rows, _possible([(table.sample.schema[key] if table.sample is not None else None) for key in keys])
    )
    if table.sample is None or not table.sample.height:
        return most
    rows = table.sample.select(keys)
    seen = rows.n_unique()
    if table.complete or rows.height >= table.rows:
        return float(seen)
    place, count, apart = (_free(keys, i) for i in (1, 2, 3))
    stretches = _stretches(table, rows.height)
    met = rows.with_columns(stretches.alias(place)).unique().group_by(keys)
    spread = met.agg(pl.len().alias(count), (pl.max(place) - pl.min(place)).alias(apart))
    # a key that is in two successive stretches only may have been cut in two
    times = pl.when(pl.col(count).eq(2) & pl.col(apart).eq(1)).then(1).otherwise(pl.col(count))
    q1, q2, q3 = spread.select(times.eq(n).sum().alias(str(n)) for n in (1, 2, 3)).row(0)
    taken, total = rows.height, table.rows
    answer = float(seen)
    if q1:
        units, rate = stretches.n_unique(), taken / total
        answer += q1 * q1 / (units / max(1, units - 1) * 2 * q2 + rate / (1 - rate) * q1)
        if q2 >= 10 and 1.5 * q1 * q3 > 1.6 * q2 * q2:  # keys that are equally frequent have 1.5 * q1 * q3 = q2 * q2
            answer = max(answer, math.sqrt(total / taken) * q1 + seen - q1)
    if table.places is not None:
        # never more than there are runs of equal neighbours
        answer = min(answer, seen + _changes(table, rows, keys) * (total - taken) / taken)
    return max(float(seen), min(answer, most))


def _changes(table: Estimate, rows: pl.DataFrame, keys: Sequence[str]) -> float:
    """How often the key changes from a sampled row to its neighbour; none is half of one."""
    assert table.places is not None
    place = _free(keys)
    near = rows.with_columns(table.places.cast(pl.Int64).alias(place))
    changed = pl.any_horizontal(pl.col(key).ne_missing(pl.col(key).shift()) for key in keys)
    return int(near.select((changed & pl.col(place).diff().abs().le(1)).sum()).item()) + 0.5


def _stretches(table: Estimate, height: int) -> pl.Series:
    """Of each sampled row: the number of its stretch. Rows from anywhere are each one of their own."""
    index = pl.int_range(height, eager=True)
    if table.places is None:
        return index * 2  # none is the neighbour of another
    if table.places.n_unique() >= _STRETCHES:
        return table.places.cast(pl.Int64)
    return index * min(32, height) // height


def _possible(dtypes: Sequence[pl.DataType | None]) -> float:
    """How many keys of these types there can be, with NULL."""
    many = {pl.Boolean: 3, pl.Int8: 257, pl.UInt8: 257, pl.Int16: 65_537, pl.UInt16: 65_537, pl.Null: 1}
    counts = [
        len(t.categories) + 1 if isinstance(t, pl.Enum) else many.get(type(t), math.inf) if t is not None else math.inf
        for t in dtypes
    ]
    return math.prod(counts)


def meeting(
    left: Estimate, right: Estimate, left_on: Sequence[str], right_on: Sequence[str], how: str
) -> tuple[float, str]:
    """How many rows a join has, and how that is known.

    Where one table is known as a whole, the other's sample is joined with it, and counted. Else the keys of the table that
    has fewer of them are taken to be in the other one too (containment: Selinger et al. 1979): |L| * |R| / max(keys).
    """
    lefts, rights = _having(left, left_on), _having(right, right_on)
    keys = [groups(lefts, left_on), groups(rights, right_on)]
    pairs = lefts.rows * rights.rows / max(*keys, 1.0)
    share = [min(1.0, keys[1] / max(keys[0], 1.0)), min(1.0, keys[0] / max(keys[1], 1.0))]
    told = f"{_number(keys[0])} keys on the left, {_number(keys[1])} on the right"
    counted = _matches(left, right, left_on, right_on)
    if counted is not None and right.complete and counted.len():
        pairs = int(counted.sum()) / len(counted) * left.rows
        met = int((counted > 0).sum()) / len(counted) * left.rows
        told = f"the left sample, joined with all {right.rows:,.0f} rows of the right"
    else:
        met = lefts.rows * share[0]
    least = (
        left.rows / (2 * max(1, counted.len())) if counted is not None else 0.0
    )  # none met in a sample is not none at all
    pairs, met = max(pairs, least), min(left.rows, max(met, least))
    alone = max(0.0, left.rows - met)
    others = max(0.0, right.rows - rights.rows * share[1])
    rows = {
        "inner": pairs,
        "left": max(left.rows, pairs + alone),
        "right": max(right.rows, pairs + others),
        "full": max(left.rows, right.rows, pairs + alone + others),
        "semi": met,
        "anti": max(alone, least),
    }[how]
    return (0.0 if _empty(left, right, how) else rows), told


def _empty(left: Estimate, right: Estimate, how: str) -> bool:
    none = left.rows == 0, right.rows == 0
    return {"inner": any(none), "semi": any(none), "left": none[0], "anti": none[0], "right": none[1]}.get(
        how, all(none)
    )


def _having(table: Estimate, keys: Sequence[str]) -> Estimate:
    """The rows without a NULL in the keys, which meet none."""
    if table.sample is None or not table.sample.height:
        return table
    kept = table.sample.select(pl.all_horizontal(pl.col(key).is_not_null() for key in keys)).to_series()
    if kept.all():
        return table
    rows = table.rows * int(kept.sum()) / len(kept)
    places = None if table.places is None else table.places.filter(kept)
    return Estimate(rows, 0.0, "", table.sample.filter(kept), table.exact and table.complete, {}, places)


def _matches(left: Estimate, right: Estimate, left_on: Sequence[str], right_on: Sequence[str]) -> pl.Series | None:
    """Of each row of the left sample: how many rows of the right sample it meets."""
    if left.sample is None or right.sample is None:
        return None
    names = [f"k{i}" for i in range(len(left_on))]
    try:
        one = left.sample.select(pl.col(key).alias(name) for key, name in zip(left_on, names, strict=True))
        other = right.sample.select(pl.col(key).alias(name) for key, name in zip(right_on, names, strict=True))
        both = pl.concat([one.clear(), other.clear()], how="vertical_relaxed").schema
        counts = other.cast(dict(both)).group_by(names).agg(pl.len().alias("n"))  # type: ignore[arg-type]
        met = one.cast(dict(both)).join(counts, on=names, how="left", maintain_order="left")  # type: ignore[arg-type]
    except pl.exceptions.PolarsError:
        return None
    return met["n"].fill_null(0).cast(pl.Int64)


# One step


def _of(node: Node, inputs: Sequence[Estimate], mark: str) -> Estimate:
    bound = node.bound
    if isinstance(bound, Input):
        drawn = bound.loader.sample(bound.partitions)
        places = None
        if drawn.frame is not None:
            # the numbers of stretches that are apart are, too
            numbers = pl.Series(range(0, 2 * len(drawn.stretches), 2), dtype=pl.UInt32)
            lengths = pl.Series(drawn.stretches, dtype=pl.UInt32)
            places = numbers.repeat_by(lengths).explode(empty_as_null=False) if len(numbers) else numbers
        return _made(node.schema, drawn.rows, drawn.origin, drawn.frame, drawn.exact, places)
    if not isinstance(bound, Operation):
        return _like(node, inputs[0], inputs[0].sample, inputs[0].places)
    if node.runs_python:
        return _unknown(node, inputs)
    if isinstance(bound, Joining):
        return _joined(node, bound, inputs, mark)
    if any(given.sample is None for given in inputs):
        return _unsampled(node, bound, inputs)
    if isinstance(bound, Appending):
        return _appended(node, bound, inputs)
    return _table(node, bound, inputs[0], mark)


def _table(node: Node, operation: Operation, given: Estimate, mark: str) -> Estimate:
    """Of a step with one input, which has a sample."""
    assert given.sample is not None
    frame, places = _run(operation, given, mark, node.schema)
    if given.complete:
        return _made(node.schema, frame.height, "computed from all rows", frame, True, places)
    before, after = given.sample.height, frame.height
    if isinstance(operation, Sorting):
        return _like(node, given, frame, places)
    if isinstance(operation, Top | Rows):
        limit = operation.limit if isinstance(operation, Top) else operation.rows
        if limit >= given.rows:
            return _like(node, given, frame, places)
        return _made(node.schema, limit, "declared", frame, given.exact or given.rows > 2 * limit, places)
    if isinstance(operation, Reduction | Keyed):
        keys = operation.groups if isinstance(operation, Reduction) else operation.keys
        if not keys:
            return _made(node.schema, after, "one row for the whole table", frame, True, None)
        if not before:
            return _made(node.schema, given.rows, UNKNOWN, frame, False, places)
        many = groups(given, keys)
        kept = 1.0
        if isinstance(operation, Keyed) and operation.keeps_rows:
            kept = _kept(operation, given.sample)
            if kept == math.inf or after == before > given.sample.select(keys).n_unique():
                return _like(node, given, frame, places)
        origin = f"about {_number(many)} distinct keys, from the sample"
        return _made(node.schema, min(given.rows, many * kept), origin, frame, False, places)
    if after == before:
        return _like(node, given, frame, places)
    if operation.placement != "anywhere":
        return _made(
            node.schema, after if after < before else given.rows * after / before, "the sample", frame, False, None
        )
    share = max(after / before, 1 / (2 * before))  # none passed: fewer than half a row of the sample
    if after < before:
        shown = "no row passes" if not after else f"{_percent(after / before)} of rows pass"
        return _made(node.schema, given.rows * share, f"sample: {shown}", frame, False, places)
    return _made(node.schema, given.rows * share, f"sample: {share:.3g} rows for each", frame, False, None)


def _run(operation: Operation, given: Estimate, mark: str, schema: Schema) -> tuple[pl.DataFrame, pl.Series | None]:
    """The step on the sample; of each row its stretch, where rows can still be told."""
    assert given.sample is not None
    rows = given.sample
    passes = operation.placement == "anywhere" and operation.passes(frozenset())
    if given.places is not None and (
        passes or isinstance(operation, Sorting) or (isinstance(operation, Keyed) and operation.keeps_rows)
    ):
        marked = rows.with_columns(given.places.alias(mark)).lazy()
        frame = operation.apply(marked).select([*schema, mark])
        done = kernel.collect(frame, {**schema, mark: given.places.dtype})
        return done.drop(mark), done[mark]
    if isinstance(operation, Reduction):
        frame = operation.apply(operation.partial(rows.lazy()))  # not `whole`: its care is for values, here rows count
    else:
        frame = operation.whole(rows.lazy())
    done = kernel.collect(frame, schema)
    same = operation.placement == "anywhere" and done.height == rows.height
    return done, given.places if same else None


def _kept(operation: Keyed, sample: pl.DataFrame) -> float:
    """How many rows of each key come out: of some sampled rows, there many times. inf: all."""
    few = sample.unique(operation.keys, keep="first", maintain_order=True).head(20)
    if not few.height:
        return 1.0
    probed = operation.apply(pl.concat([few] * _PROBE).lazy()).select(pl.len())
    many = kernel.collect(probed, {"len": pl.UInt32()}).item()
    return math.inf if many >= few.height * _PROBE else float(max(1.0, many / few.height))


def _appended(node: Node, operation: Appending, inputs: Sequence[Estimate]) -> Estimate:
    rows = sum(given.rows for given in inputs)
    parts, places, first = list[pl.LazyFrame](), list[pl.Series | None](), 0
    for i, given in enumerate(inputs):
        assert given.sample is not None
        # as many of each as its share of the table
        most = given.sample.height if rows <= _ROWS else min(given.sample.height, math.ceil(_ROWS * given.rows / rows))
        chosen = _evenly(given.sample.height, most)
        parts.append(operation.part(i)(given.sample[chosen].lazy()))
        if given.places is not None and most:
            of = given.places[chosen].cast(pl.UInt32)
            places.append(of + first)
            first += max(of.to_list()) + 2
        elif most:
            places.append(None)
    frame = kernel.collect(pl.concat(parts), node.schema)
    known = [series for series in places if series is not None]
    where = pl.concat(known).cast(pl.UInt32) if known and len(known) == len(places) else None
    exact = all(given.exact for given in inputs)
    origins = list(dict.fromkeys(given.origin for given in inputs))
    return _made(node.schema, rows, origins[0] if len(origins) == 1 else "the sum of its inputs", frame, exact, where)


def _joined(node: Node, operation: Joining, inputs: Sequence[Estimate], mark: str) -> Estimate:
    left, right = inputs
    if operation.once and left.sample is not None and right.sample is not None:
        both = operation.together([left.sample.lazy(), right.sample.lazy()])
        return _like(node, left, kernel.collect(both, node.schema), left.places)
    if not isinstance(operation, Joined) or left.sample is None or right.sample is None:
        return _unsampled(node, operation, inputs)
    rows, told = meeting(left, right, *operation.on, operation.how)
    frame, places = _pairs(node, operation, left, right, mark)
    if left.complete and right.complete and frame is not None and frame.height < _ROWS:
        return _made(node.schema, frame.height, "computed from all rows", frame, True, places)
    if frame is not None and frame.height > rows:  # more than all
        chosen = _evenly(frame.height, math.ceil(rows))
        frame, places = frame[chosen], None if places is None else places[chosen]
    return _made(node.schema, rows, told, frame, False, places)


def _pairs(
    node: Node, operation: Joined, left: Estimate, right: Estimate, mark: str
) -> tuple[pl.DataFrame | None, pl.Series | None]:
    """The join of the samples; where that has next to no rows, left rows beside right rows that need not belong to them.

    And of each row the stretch of the row of the main table.
    """
    assert left.sample is not None
    assert right.sample is not None
    ours, theirs = left.sample, right.sample
    if left.places is not None and operation.main == 0:
        ours = ours.with_columns(left.places.alias(mark))
    if right.places is not None and operation.main == 1:
        theirs = theirs.with_columns(right.places.alias(mark))
    whole = left.complete and right.complete
    if operation.how in ("semi", "anti"):
        met, places = _met(node, operation, ours, theirs, mark)
        if whole or met.height >= min(_FEW, ours.height):
            return met, places
        return left.sample, left.places
    every, others = ours, theirs
    counts = _matches(left, right, *operation.on)
    if counts is not None and (total := int(counts.sum())) > _ROWS:
        chosen = _evenly(ours.height, max(1, ours.height * _ROWS // total))
        ours = ours[chosen].filter(counts[chosen].cum_sum() <= 2 * _ROWS)
        if not ours.height:  # even one row meets too many
            ours, others = every[chosen].head(1), theirs.head(_ROWS)
    met, places = _met(node, operation, ours, others, mark)
    if whole or met.height >= _FEW or not every.height or not theirs.height:
        return met.head(2 * _ROWS), None if places is None else places.head(2 * _ROWS)
    # the right rows get keys that the left rows have
    keys, names = operation.on
    wanted = every.select(pl.col(key).cast(t) for key, t in zip(keys, operation.types, strict=True))
    wanted = wanted.drop_nulls().unique(maintain_order=True)
    beside = theirs[pl.int_range(wanted.height, eager=True) % theirs.height]
    beside = beside.with_columns(wanted[key].alias(name) for key, name in zip(keys, names, strict=True))
    return _met(node, operation, every, beside, mark)


def _met(
    node: Node, operation: Joined, left: pl.DataFrame, right: pl.DataFrame, mark: str
) -> tuple[pl.DataFrame, pl.Series | None]:
    """The join of two tables, and the column with the stretches where one of them has it."""
    marked = {mark: pl.UInt32()} if mark in (*left.columns, *right.columns) else {}
    schema = {**node.schema, **marked}
    met = kernel.collect(operation.join(left.lazy(), right.lazy()).select(list(schema)), schema)
    if not marked or met[mark].null_count():
        return met.select(list(node.schema)), None
    return met.drop(mark), met[mark]


def _unsampled(node: Node, operation: Operation, inputs: Sequence[Estimate]) -> Estimate:
    """Of a step behind one whose rows are not known."""
    rows = [given.rows for given in inputs]
    if isinstance(operation, Appending):
        return _made(node.schema, sum(rows), "the sum of its inputs", None, all(given.exact for given in inputs), None)
    if isinstance(operation, Top | Rows):
        limit = operation.limit if isinstance(operation, Top) else operation.rows
        return _made(node.schema, min(limit, rows[0]), "declared", None, inputs[0].exact, None)
    if isinstance(operation, Reduction) and not operation.groups:
        return _made(node.schema, 1, "one row for the whole table", None, True, None)
    if isinstance(operation, Sorting):
        return _like(node, inputs[0], None, None)
    return _unknown(node, inputs)


def _unknown(node: Node, inputs: Sequence[Estimate]) -> Estimate:
    if isinstance(node.bound, Input):
        width = sum(_typical(dtype) for dtype in node.schema.values())
        return _made(
            node.schema, node.bound.bytes / max(1.0, width), "unknown: no rows could be sampled", None, False, None
        )
    rows = max((given.rows for given in inputs), default=0.0)
    if isinstance(node.bound, Appending):
        rows = sum(given.rows for given in inputs)
    return _made(node.schema, rows, UNKNOWN, None, False, None)


def _like(node: Node, given: Estimate, sample: pl.DataFrame | None, places: pl.Series | None) -> Estimate:
    """As many rows as its input."""
    origin = given.origin if given.origin == UNKNOWN else f"as {node.inputs[0]}"
    return _made(node.schema, given.rows, origin, sample, given.exact, places)


def _made(
    schema: Schema, rows: float, origin: str, sample: pl.DataFrame | None, exact: bool, places: pl.Series | None
) -> Estimate:
    known = sample if sample is not None and sample.height else None
    widths = {name: _typical(t) if known is None else _width(known[name]) for name, t in schema.items()}
    rows = max(float(rows), float(sample.height) if sample is not None else 0.0)
    return Estimate(rows, rows * sum(widths.values()), origin, sample, exact, widths, places)


def _width(values: pl.Series) -> float:
    """Mean bytes of a value. `estimated_size` counts texts that a filter left behind."""
    if values.dtype in (pl.String, pl.Binary):
        length = values.str.len_bytes() if values.dtype == pl.String else values.bin.size()
        long = length.filter(length > 12).sum()  # shorter ones are within their 16 bytes
        return 16 + float(long or 0) / len(values)
    if values.dtype.is_nested():
        return values.gather(pl.int_range(len(values), eager=True)).rechunk().estimated_size() / len(values)
    return _typical(values.dtype)


def _typical(dtype: pl.DataType) -> float:
    """Bytes of a value of this type."""
    if isinstance(dtype, pl.Boolean):
        return 1 / 8
    if isinstance(dtype, pl.String | pl.Binary):
        return 20.0
    if dtype.is_nested():
        return 64.0
    return _BYTES.get(type(dtype), 8.0)


_BYTES: dict[type[pl.DataType], float] = {
    pl.Null: 0.0, pl.Int8: 1.0, pl.UInt8: 1.0, pl.Int16: 2.0, pl.UInt16: 2.0, pl.Int32: 4.0, pl.UInt32: 4.0, pl.Float32: 4.0,
    pl.Date: 4.0, pl.Categorical: 4.0, pl.Enum: 4.0, pl.Int128: 16.0, pl.Decimal: 16.0,
}  # fmt: skip
"""Of types that do not take 8."""


def _evenly(height: int, count: int) -> pl.Series:
    """The numbers of so many rows, from all over."""
    count = min(height, count)
    return pl.int_range(count, eager=True) * height // max(1, count)


def _free(names: Sequence[str], count: int = 1) -> str:
    return reduce(lambda text, _: text + "~", range(count), max(names, key=len, default=""))


def _number(count: float) -> str:
    """With two digits that count: more would be a claim."""
    if count < 1000:
        return f"{count:,.0f}"
    unit = 10 ** (int(math.log10(count)) - 1)
    return f"{round(count / unit) * unit:,}"


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %" if share < 0.1 else f"{100 * share:.0f} %"
