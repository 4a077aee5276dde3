from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import polars as pl
from pydantic import Field

from pipelines.errors import did_you_mean
from pipelines.learning import PART
from pipelines.steps.base import Context, Problems, Step, Texts
from pipelines.types import Schema, dtype_name
from pipelines.values import Features
from pipelines.work import Builder, Ref, Work


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
    return (asked or default) if split else None


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
    in order (-1 for one not seen); `bins` the number of the quantile's bin; `date_parts` parts of a date as numbers; `keep` the
    number as it is. What other rows decide, as lags, `window` computes before.

    Of a table that was split (see `split`), the rows of `train` are fitted on, else all.
    """

    kind = "features"
    gives = "features"
    example: ClassVar[str] = (
        "features: {scale: [Open, Volume], one_hot: [Symbol], date_parts: {Date: [month, weekday]}}"
    )

    keep: Texts = Field([], description="Columns of numbers, as they are.")
    scale: Texts = Field([], description="Columns of numbers, scaled.")
    bins: dict[str, int] = Field({}, description="Column: into how many bins with about as many rows.")
    one_hot: Texts = Field([], description="Columns of categories, a column of 0 and 1 each; at most 1,000.")
    ordinal: Texts = Field([], description="Columns of categories, as numbers.")
    date_parts: dict[str, Texts] = Field(
        {}, description="Column: year, quarter, month, week, day, weekday, ordinal_day, hour, minute."
    )
    impute: bool = Field(False, description="A missing number becomes the column's mean.")
    part: str | None = Field(None, description="Of a split table the rows to fit on; all: every one. Default: train.")

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
                    elif dtype.is_nested():
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
            elif count < 2:
                problems.add(("bins", name), "a column is cut into 2 bins at least", f"{name}: 5")
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
        asked = Asked(
            tuple(self.keep), tuple(self.scale), self.bins, tuple(self.one_hot), tuple(self.ordinal),
            {name: tuple(parts) for name, parts in self.date_parts.items()}, self.impute,
        )  # fmt: skip
        if not asked.columns and not problems.issues:
            problems.add((), "no column is named", f"for example `{self.example}`")
        rows = part_of(self.part, "train", schema, problems)
        if problems.issues:
            return None
        inputs = {name: schema[name] for name in asked.columns}
        columns = (*inputs, *((PART,) if rows else ()))
        fit = Fit(asked, inputs)
        return FitFeatures(Features(inputs, fit), {}, fit, Rows(rows), columns)

    def identity(self) -> Mapping[str, Any]:
        return self.model_dump(mode="json")
