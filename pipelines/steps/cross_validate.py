from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import polars as pl
from pydantic import BaseModel, Field

from pipelines.errors import DataError, Issue
from pipelines.learning import PART
from pipelines.steps.base import Context, Problems, Step, Texts
from pipelines.steps.features import lagging
from pipelines.steps.train import Learning, Learnt, Setup, setup
from pipelines.types import Schema, dtype_name
from pipelines.values import Features, Metrics, Value
from pipelines.work import Builder, Ref, Work


class Folded(BaseModel):
    """The options of every step that tries on folds."""

    folds: int = Field(5, ge=2, le=100, description="How many.")
    by: Texts | None = Field(
        None,
        min_length=1,
        description="The columns whose values decide in which fold a row is: a group stays together. Default: all that are read.",
    )
    time: str | None = Field(
        None,
        description="Instead of `by`: the column with the time; each fold is learnt from what is before it alone, and a row without a time is in none.",
    )


def folded(step: Any, schema: Schema, problems: Problems, context: Context) -> Setup | None:
    """The setup with folds; None after an issue was added."""
    from pipelines.learning.blocks import Folds

    if step.by is not None and step.time is not None:
        problems.add(("by",), "folds are made by columns or by time, not both", "remove `by` or `time`")
    problems.keys("by", step.by or (), schema)
    if step.time is not None and problems.column(("time",), step.time, schema):
        dtype = schema[step.time]
        if not (dtype.is_numeric() or dtype in (pl.Date, pl.Time) or isinstance(dtype, pl.Datetime)):
            problems.add(
                ("time",), f"{step.time!r} is {dtype_name(dtype)}, not a time", "choose a date, a time or a number"
            )
    found = setup(step, schema, problems, context)
    if found is not None and found.chosen.task == "clustering":
        problems.add(
            ("estimator",),
            f"{found.chosen.short} clusters: there is nothing to try its predictions on",
            "take a classifier or a regressor",
        )
    lags = next((value.lags for value in context.values if isinstance(value, Features)), None)
    if lags is not None and step.time is None and not (step.by and {*step.by} <= {*lags.by}):
        what = "a fold by rows would be learnt from lags that are rows of the fold it is tried on"
        together = f"by: [{', '.join(lags.by)}], or " if lags.by else ""
        problems.add((), what, f"{together}time: {lags.order[0]}")
    if problems.issues or found is None:
        return None
    by = tuple(step.by or ()) if step.by or step.time else tuple(sorted(found.reads - {PART}))
    by = tuple(name for name in by if not schema[name].is_nested())
    return replace(found, folds=Folds(step.folds, by, step.seed, step.time))


@dataclass(frozen=True)
class CrossValidating(Learning):
    def lower(self, builder: Builder, inputs: Sequence[Sequence[Ref]]) -> Sequence[Ref]:
        from pipelines.learning.fitting import Learner
        from pipelines.learning.trials import trial

        _, classes, tried = self.setup.prepared(builder, inputs)
        found = trial(builder, 0, Learner(self.setup.chosen, self.setup.epochs), tried, classes)
        return [builder.task("", (0,), averaged, found)]


def averaged(found: Sequence[Mapping[str, float]]) -> Any:
    """Means over the folds that have rows, with their standard errors."""
    from pipelines.steps.reduce import Numbers

    found = [each for each in found if each]
    if len(found) < 2:
        what = (
            "there are rows to evaluate on in one of the folds alone" if found else "there are no rows to evaluate on"
        )
        raise DataError(Issue(what, "name columns with more different values in `by` or `time`, or take fewer folds"))
    names = [name for name in found[0] if all(name in each for each in found)]
    values = {name: float(np.mean([each[name] for each in found])) for name in names}
    errors = {name: float(np.std([each[name] for each in found], ddof=1) / np.sqrt(len(found))) for name in names}
    return Numbers(values, errors)


class CrossValidate(Folded, Learnt, Step):
    """Train and evaluate on folds in turn: metrics as means over the folds, with their standard errors.

    Features, too, are fitted anew without each fold. A row's fold is decided by a hash of its values in `by`, whatever the
    partitions. With `time`, the table is cut into one stretch more than there are folds; each but the first is tried on what was
    learnt from all before it. A fold that no row is in does not count.
    """

    kind = "cross_validate"
    takes = (("table",), ("features",))
    optional = 1
    gives = "metrics"
    example: ClassVar[str] = (
        "cross_validate: {estimator: sklearn.linear_model.LogisticRegression, target: up, columns: [change, range], time: Date}"
    )

    def first(self, schema: Schema, values: Sequence[Value], problems: Problems) -> Step | None:
        return lagging(schema, values, problems)

    def bind(self, schema: Schema, problems: Problems, context: Context) -> Work | None:
        found = folded(self, schema, problems, context)
        return CrossValidating(Metrics(), {}, found) if found else None
