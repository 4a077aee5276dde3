from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import polars as pl
from pydantic import Field

from pipelines.steps.base import Context, Problems, Step
from pipelines.steps.features import lacking, lagging
from pipelines.types import Schema, schema_of
from pipelines.values import Model, Value
from pipelines.work import Builder, Ref, Work


def fits(model: Model, schema: Schema, problems: Problems) -> None:
    """Issues where the table lacks what the model was trained on."""
    lacking(model.inputs, schema, problems, "the model needs", "the model was trained on")


def waiting(model: Model, builder: Builder, table: Sequence[Ref]) -> Sequence[Ref]:
    """The partitions, parked where the model is trained meanwhile: perhaps of all of them, which would be in memory until then."""
    from pipelines.learning.blocks import parked

    return table if model.loaded else parked(builder, table)


def target_type(model: Model) -> pl.DataType:
    if model.task == "clustering":
        return pl.Int64()
    return schema_of({"": model.target_type or "string"})[""] if model.task == "classification" else pl.Float64()


@dataclass(frozen=True)
class Predicting(Work):
    model: Model
    column: str
    chance: str | None
    known: tuple[int, ...] | None = None

    @property
    def rows(self) -> tuple[int, ...] | None:  # type: ignore[override]
        return self.known

    def reads_of(self, index: int, wanted: frozenset[str]) -> frozenset[str]:
        return (wanted - {self.column, self.chance}) | frozenset(self.model.inputs) if index == 0 else frozenset()

    def prune(self, wanted: frozenset[str]) -> Predicting:
        return replace(self, schema={name: t for name, t in self.schema.items() if name in wanted})

    def count(self, inputs: Sequence[int]) -> int:
        return inputs[0]

    def lower(self, builder: Builder, inputs: Sequence[Sequence[Ref]]) -> Sequence[Ref]:
        chance = self.chance if self.chance in self.schema else None
        predict = Predict(self.column, chance, target_type(self.model), tuple(self.schema))
        return [
            builder.task("", (i,), predict, each, inputs[1][0])
            for i, each in enumerate(waiting(self.model, builder, inputs[0]))
        ]


@dataclass(frozen=True)
class Predict:
    column: str
    chance: str | None
    dtype: pl.DataType
    wanted: tuple[str, ...]

    def __call__(self, given: Any, model: Any) -> pl.DataFrame:
        from pipelines.learning.blocks import unparked
        from pipelines.learning.model import predicted

        return predicted(model, unparked(given), self.column, self.chance, self.dtype).select(self.wanted)


class PredictStep(Step):
    """Predict with a model, partition by partition: adds a column with the prediction, a label, a number or a cluster's number.

    It takes a table and a model: `from: [prices, model]`. The table needs the columns that the model was trained on, and nothing of its target.
    """

    kind = "predict"
    takes = (("table",), ("model",))
    example: ClassVar[str] = "predict: {column: forecast, probability: chance}"

    column: str = Field("prediction", min_length=1, description="The name of the new column.")
    probability: str | None = Field(
        None,
        min_length=1,
        description="The name of a column for its probability: of two classes that of the second (in order), else that of the predicted one.",
    )

    def first(self, schema: Schema, values: Sequence[Value], problems: Problems) -> Step | None:
        return lagging(schema, values, problems)

    def bind(self, schema: Schema, problems: Problems, context: Context) -> Work | None:
        model = context.values[1]
        assert isinstance(model, Model)
        fits(model, schema, problems)
        added = {self.column: target_type(model)}
        schema = {name: t for name, t in schema.items() if model.lags is None or name not in model.lags.names}
        if self.probability is not None:
            added[self.probability] = pl.Float64()
            if model.task != "classification":
                problems.add(
                    ("probability",), f"{model.estimator} predicts no classes: it has no probabilities", "remove it"
                )
            elif not model.chances:
                problems.add(
                    ("probability",),
                    f"{model.estimator} tells no probabilities",
                    "remove it, or take another estimator or parameters (as `probability: true` of SVC)",
                )
            if self.probability == self.column:
                what = f"the prediction and its probability are both called {self.column!r}"
                problems.add(("probability",), what, "choose another name")
        for name in added:
            if name in schema:
                problems.add(
                    ("column",) if name == self.column else ("probability",),
                    f"the table has a column {name!r} already",
                    "choose another name",
                )
        if problems.issues:
            return None
        return Predicting(Value(), {**schema, **added}, model, self.column, self.probability, context.rows)
