from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import polars as pl
from pydantic import Field

from pipelines.learning import PART
from pipelines.steps.base import Context, Problems, Step
from pipelines.steps.features import lagging, part_of
from pipelines.steps.predict import fits, target_type, waiting
from pipelines.types import Schema, alike, dtype_name
from pipelines.values import Metrics, Model, Value
from pipelines.work import Builder, Ref, Work

_FAN_IN = 16


@dataclass(frozen=True)
class Evaluating(Work):
    model: Model
    target: str
    part: str | None
    plots: bool

    def reads_of(self, index: int, wanted: frozenset[str]) -> frozenset[str]:
        part = {PART} if self.part else set[str]()
        return frozenset({*self.model.inputs, self.target, *part}) if index == 0 else frozenset()

    def lower(self, builder: Builder, inputs: Sequence[Sequence[Ref]]) -> Sequence[Ref]:
        from pipelines.learning.scores import merged

        score, table = Score(self.target, self.part), waiting(self.model, builder, inputs[0])
        states = [builder.task("partial", (i,), score, each, inputs[1][0]) for i, each in enumerate(table)]
        level = 0
        while len(states) > 1:
            level += 1
            groups = [states[i : i + _FAN_IN] for i in range(0, len(states), _FAN_IN)]
            states = [builder.task("combine", (level, i), merged, group) for i, group in enumerate(groups)]
        return [builder.task("", (0,), Told(self.plots), states[0], inputs[1][0])]


@dataclass(frozen=True)
class Score:
    """Of one partition."""

    target: str
    part: str | None

    def __call__(self, given: Any, model: Any) -> Any:
        from pipelines.learning.blocks import Rows, Target, unparked
        from pipelines.learning.scores import classified, regressed

        frame = Rows(self.part)(unparked(given))
        y = Target(self.target, model.classes is not None).encoded(frame, model.classes)
        x = model.matrix(frame)
        if model.classes is None:
            return regressed(y, model.labels(x))
        return classified(y, model.labels(x), model.chances(x), len(model.classes))


@dataclass(frozen=True)
class Told:
    plots: bool

    def __call__(self, state: Any, model: Any) -> Any:
        from pipelines.learning.scores import final

        return final(state, model.classes, model.importance(), self.plots)


class Evaluate(Step):
    """Evaluate a model on a table with the true values: metrics, and plots in the run's folder, under the step's name.

    Of classes: accuracy beside the base rate (the share of the most frequent class), balanced accuracy, precision, recall and F1 (of
    two classes those of the second, else the mean over classes), log loss and a plot of the confusion matrix; of two classes also the
    Brier score, the areas under the ROC and the precision-recall curve, and plots of both. Of numbers: R2, mean absolute and squared errors, explained
    variance; a plot of residuals. And the features' weights, where the estimator tells them.

    Of a table that was split (see `split`), the rows of `test` are looked at, else all.
    """

    kind = "evaluate"
    takes = (("table",), ("model",))
    gives = "metrics"
    example: ClassVar[str] = "evaluate: {plots: false}"

    target: str | None = Field(
        None, description="The column with the true values. Default: the one that the model was trained on."
    )
    part: str | None = Field(None, description="Of a split table the rows to look at; all: every one. Default: test.")
    plots: bool = Field(True, description="Whether to draw plots.")

    def first(self, schema: Schema, values: Sequence[Value], problems: Problems) -> Step | None:
        return lagging(schema, values, problems)

    def bind(self, schema: Schema, problems: Problems, context: Context) -> Work | None:
        model = context.values[1]
        assert isinstance(model, Model)
        fits(model, schema, problems)
        target = self.target or model.target
        if model.task == "clustering" or target is None:
            problems.add(
                (),
                f"{model.estimator} clusters: there are no true values to compare with",
                "look at its clusters with `predict`",
            )
        elif self.target is not None:
            problems.column(("target",), target, schema)
        elif target not in schema:
            problems.add(
                (),
                f"the table has no column {target!r}, which the model predicts",
                "name the true values' column as `target`",
            )
        if (
            not problems.issues
            and target is not None
            and model.task == "regression"
            and not (schema[target].is_numeric() or schema[target] == pl.Boolean)
        ):
            problems.add(
                ("target",),
                f"{target!r} is {dtype_name(schema[target])}, and the model predicts numbers",
                "choose another column",
            )
        if not problems.issues and target is not None and model.task == "classification":
            wanted, found = target_type(model), schema[target]
            if not alike(found, wanted):
                what = f"{target!r} is {dtype_name(found)}, and the model was trained on {dtype_name(wanted)}"
                problems.add(("target",), what, "cast it with `derive`, or choose another column")
        part = part_of(self.part, "test", schema, problems)
        if problems.issues or target is None:
            return None
        return Evaluating(Metrics(), {}, model, target, part, self.plots)
