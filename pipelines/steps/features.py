from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import polars as pl
from pydantic import Field

from pipelines.errors import did_you_mean
from pipelines.learning import PART
from pipelines.steps.base import Context, Problems, Step, Texts, in_order
from pipelines.steps.window import Window
from pipelines.types import Schema, alike, dtype_name
from pipelines.values import Features, Lags, Model, Value
from pipelines.work import Builder, Ref, Work

_MOST_BINS = 1000


def part_of(asked: str | None, default: str, schema: Schema, problems: Problems) -> str | None:
    """The part of the rows that is meant: what is asked for, else the default where the table was split."""
    dtype = schema.get(PART)
    split = isinstance(dtype, pl.Enum) and "train" in dtype.categories.to_list()
    if asked == "all":
        return None
    if asked is not None and not split:
        problems.add(
            ("part",), f"the table has no column {PART!r} of parts", "put a `split` before, or leave `part` out"
        )
    if asked is not None and isinstance(dtype, pl.Enum) and asked not in (known := dtype.categories.to_list()):
        problems.add(("part",), f"there is no part {asked!r}", did_you_mean(asked, [*known, "all"]))
    return (asked or default) if split else None


def _parts(dtype: pl.DataType) -> list[str]:
    """Of a date what Polars tells of this type."""
    from pipelines.learning.features import DATE_PARTS

    found = list[str]()
    for part in DATE_PARTS:
        with contextlib.suppress(pl.exceptions.PolarsError):
            getattr(pl.Series([], dtype=dtype).dt, part)()
            found.append(part)
    return found


def lacking(inputs: Schema, schema: Schema, problems: Problems, needs: str, learnt: str) -> None:
    """Issues where the table lacks what was learnt from, in the words of who needs it."""
    for name, dtype in inputs.items():
        if name not in schema:
            what = f"{needs} the column {name!r} ({dtype_name(dtype)}), and the table has none"
            problems.add((), what, did_you_mean(name, schema))
        elif not alike(schema[name], dtype):
            what = f"{learnt} {name!r} as {dtype_name(dtype)}, here it is {dtype_name(schema[name])}"
            problems.add((), what, "cast it with `derive`")


def lagging(schema: Schema, values: Sequence[Value], problems: Problems) -> Step | None:
    """The step that computes what features or a model need of earlier rows."""
    lags = next((value.lags for value in values if isinstance(value, Features | Model) and value.lags), None)
    if lags is None:
        return None
    lacking(lags.inputs, schema, problems, "the lags need", "the lags were fitted with")
    for name in lags.names:
        if name in schema:
            problems.add((), f"the table has a column {name!r} already, which is to be a lag", "drop or rename it")
    return None if problems.issues else window(lags, parted=isinstance(schema.get(PART), pl.Enum))


def window(lags: Lags, parted: bool) -> Step:
    """`parted`: a row sees none of a part that comes after its own: train, validation, test."""
    quoted = {name: '"' + of.replace('"', '""') + '"' for name, (of, _) in lags.names.items()}
    made = {name: f"lag({quoted[name]}, {n})" for name, (_, n) in lags.names.items()}
    if parted:
        for name, (_, n) in lags.names.items():
            own, its = f'CAST("{PART}" AS text)', f'lag(CAST("{PART}" AS text), {n})'
            later = f"{own} = 'train' AND {its} <> 'train' OR {own} = 'validation' AND {its} = 'test'"
            made[name] = f"CASE WHEN {later} THEN NULL ELSE {made[name]} END"
    return Window.model_validate({"partition_by": list(lags.by), "order_by": list(lags.order), **made})


@dataclass(frozen=True)
class FitFeatures(Work):
    fit: Any
    part: Any
    columns: tuple[str, ...]

    def reads_of(self, index: int, wanted: frozenset[str]) -> frozenset[str]:
        return frozenset(self.columns)

    def lower(self, builder: Builder, inputs: Sequence[Sequence[Ref]]) -> Sequence[Ref]:
        states = [builder.task("partial", (i,), Partial(self.fit, self.part), each) for i, each in enumerate(inputs[0])]
        return [builder.task("", (0,), self.fit.final, states)]


@dataclass(frozen=True)
class Partial:
    fit: Any
    rows: Any

    def __call__(self, frame: pl.DataFrame) -> Any:
        return self.fit.partial(self.rows(frame))


class FeaturesStep(Step):
    """Fit features: what a model sees of a table's columns. They are fitted on the training part alone, and kept with the model.

    `scale` makes mean 0 and standard deviation 1; `one_hot` a column of 0 and 1 for each category; `ordinal` the category's number
    in order (-1 for one not seen): numbers by size, texts by their letters, those of an enum as it lists them; `bins` the number of
    the quantile's bin, from 0: bin i of n begins at the smallest number with more than i/n of the rows at or below it, so that equal
    numbers are in one bin and there may be fewer than n; `date_parts` parts of a date as numbers; `keep` the number as it is. `lags` are the column's number so many rows before, in the order of `order_by`, among rows that are equal in `by`:
    scaled where the column is under `scale`, missing at the beginning of each group. They are computed of any table that the features
    or their model are used on, so that a table to predict needs the rows before too. What else other rows decide, `window` computes.

    Of a table that was split (see `split`), the rows of `train` are fitted on, else all.
    """

    kind = "features"
    version = 2
    gives = "features"
    example: ClassVar[str] = (
        "features: {scale: [Open, Volume], one_hot: [Symbol], date_parts: {Date: [month, weekday]}}"
    )

    keep: Texts = Field([], description="Columns of numbers, as they are.")
    scale: Texts = Field([], description="Columns of numbers, scaled.")
    bins: dict[str, int] = Field({}, description="Column: into how many bins with about as many rows; at most 1,000.")
    one_hot: Texts = Field([], description="Columns of categories, a column of 0 and 1 each; at most 1,000.")
    ordinal: Texts = Field([], description="Columns of categories, as numbers.")
    date_parts: dict[str, Texts] = Field(
        {}, description="Column: year, quarter, month, week, day, weekday, ordinal_day, hour, minute."
    )
    lags: dict[str, list[int]] = Field({}, description="Column: how many rows before, as [1, 5].")
    by: Texts = Field(
        [], description="Of lags: the columns whose equal values make a group. Without any, the table is one."
    )
    order_by: Texts = Field([], description="Of lags: the order of rows in a group.")
    impute: bool = Field(False, description="A missing number, or part of a date, becomes the column's mean.")
    part: str | None = Field(None, description="Of a split table the rows to fit on; all: every one. Default: train.")

    def lagged(self, schema: Schema) -> Lags | None:
        if not self.lags:
            return None
        columns = {name: tuple(each) for name, each in self.lags.items()}
        needs = dict.fromkeys((*columns, *self.by, *self.order_by))
        return Lags(
            columns, tuple(self.by), tuple(self.order_by), {name: schema[name] for name in needs if name in schema}
        )

    def first(self, schema: Schema, values: Sequence[Value], problems: Problems) -> Step | None:
        for name, each in self.lags.items():
            if name not in schema:
                problems.key(("lags",), name, f"unknown column {name!r}", did_you_mean(name, schema))
            elif not schema[name].is_numeric():
                what = f"{name!r} is {dtype_name(schema[name])}, not a number"
                problems.key(("lags",), name, what, "cast it, or leave it out")
            for i, n in enumerate(each):
                if n < 1:
                    problems.add(("lags", name, i), "a lag is of an earlier row", "write 1 for the row before")
                elif n in each[:i]:
                    problems.add(("lags", name, i), f"{n} stands here twice", "remove one")
        problems.keys("by", self.by, schema)
        problems.order(self.order_by, [], schema)
        if self.lags and not self.order_by:
            problems.add((), "lags need an order", "name the column of time as `order_by`")
        if (self.by or self.order_by) and not self.lags:
            problems.add(("by",) if self.by else ("order_by",), "this is for `lags`, and there are none", "remove it")
        if problems.issues or (lags := self.lagged(schema)) is None:
            return None
        return lagging(schema, [Features({}, None, lags)], problems)

    def bind(self, schema: Schema, problems: Problems, context: Context) -> Work | None:
        from pipelines.learning.blocks import Rows
        from pipelines.learning.features import DATE_PARTS, Asked, Fit

        for option in ("keep", "scale", "one_hot", "ordinal"):
            for i, name in enumerate(getattr(self, option)):
                if problems.column((option, i), name, schema):
                    dtype = schema[name]
                    if option in ("keep", "scale") and not (
                        dtype.is_numeric() or (option == "keep" and dtype == pl.Boolean)
                    ):
                        problems.add(
                            (option, i),
                            f"{name!r} is {dtype_name(dtype)}, not a number",
                            "put it under `one_hot` or `ordinal`",
                        )
                    elif dtype.is_nested() or isinstance(dtype, pl.Duration | pl.Binary):  # they have no texts
                        problems.add(
                            (option, i), f"{name!r} is {dtype_name(dtype)}: it has no categories", "leave it out"
                        )
        for name, count in self.bins.items():
            if name not in schema:
                problems.key(("bins",), name, f"unknown column {name!r}", did_you_mean(name, schema))
            elif not schema[name].is_numeric():
                problems.key(
                    ("bins",), name, f"{name!r} is {dtype_name(schema[name])}, not a number", "put it under `ordinal`"
                )
            elif not 2 <= count <= _MOST_BINS:
                problems.add(("bins", name), f"a column is cut into 2 to {_MOST_BINS:,} bins", f"{name}: 5")
        lags = self.lagged(schema)
        if lags is not None and not lags.names.keys() <= schema.keys():
            return None  # `first` said why
        for name, parts in self.date_parts.items():
            if name not in schema:
                problems.key(("date_parts",), name, f"unknown column {name!r}", did_you_mean(name, schema))
            elif not schema[name].is_temporal() or isinstance(schema[name], pl.Duration):
                problems.key(
                    ("date_parts",),
                    name,
                    f"{name!r} is {dtype_name(schema[name])}, not a date",
                    "cast it, or leave it out",
                )
            for i, part in enumerate(parts):
                if part not in DATE_PARTS:
                    problems.add(
                        ("date_parts", name, i), f"unknown part of a date {part!r}", did_you_mean(part, DATE_PARTS)
                    )
                elif not problems.issues and (known := _parts(schema[name])) and part not in known:
                    what = f"{name!r} is {dtype_name(schema[name])}: it has no {part}"
                    problems.add(("date_parts", name, i), what, f"it has: {', '.join(known)}")
        self._named_twice(problems)
        scaled = [name for name, (of, _) in lags.names.items() if of in self.scale] if lags else []
        kept = [name for name in lags.names if name not in scaled] if lags else []
        asked = Asked(
            (*self.keep, *kept), (*self.scale, *scaled), self.bins, tuple(self.one_hot), tuple(self.ordinal),
            {name: tuple(parts) for name, parts in self.date_parts.items()}, self.impute, lags,
        )  # fmt: skip
        if not asked.columns and not problems.issues:
            problems.add((), "no column is named", f"for example `{self.example}`")
        rows = part_of(self.part, "train", schema, problems)
        if problems.issues:
            return None
        inputs = {name: schema[name] for name in asked.columns}
        columns = (*inputs, *((PART,) if rows else ()))
        fit = Fit(asked, inputs)
        return FitFeatures(Features(inputs, fit, lags, rows, self.part == "all"), {}, fit, Rows(rows), columns)

    def _named_twice(self, problems: Problems) -> None:
        """Issues where features of the same name would come out; those of `one_hot` have categories in theirs, which are not known yet."""
        made = list[tuple[tuple[str | int, ...], str, str]]()
        made += [(("keep", i), name, name) for i, name in enumerate(self.keep)]
        made += [(("scale", i), name, name) for i, name in enumerate(self.scale)]
        made += [(("bins", name), name, f"{name}_bin") for name in self.bins]
        made += [(("ordinal", i), name, f"{name}_code") for i, name in enumerate(self.ordinal)]
        made += [(("one_hot", i), name, f"{name}=") for i, name in enumerate(self.one_hot)]
        for name, parts in self.date_parts.items():
            made += [(("date_parts", name, i), part, f"{name}_{part}") for i, part in enumerate(parts)]
        seen = dict[str, str]()
        for path, name, feature in made:
            if feature in seen:
                same = seen[feature] == name
                what = f"{name!r} stands here twice" if same else f"there is a feature {feature!r} already"
                problems.add(path, what, "remove one" if same else "rename a column before")
            seen[feature] = name

    def identity(self) -> Mapping[str, Any]:
        return {name: in_order(each) for name, each in self.model_dump(mode="json").items()}
