from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import polars as pl
from pydantic import BaseModel, Field

from pipelines import events
from pipelines.arrays import not_numeric, numeric
from pipelines.errors import Issue
from pipelines.learning import PART
from pipelines.steps.base import Context, Problems, Step, Texts
from pipelines.steps.features import lagging, part_of
from pipelines.types import Schema, dtype_name
from pipelines.values import Features, Lags, Model, Value
from pipelines.work import Builder, Ref, Work

if TYPE_CHECKING:
    from pipelines.learning.blocks import Folds
    from pipelines.learning.estimators import Chosen
    from pipelines.learning.fitting import Fitted
    from pipelines.learning.model import Trained


@dataclass(frozen=True)
class Setup:
    """What is learnt from what."""

    chosen: Chosen
    part: str | None
    columns: tuple[str, ...]
    """Of the matrix, where there are no features."""
    inputs: Schema
    """The columns that the model needs."""
    target: str | None
    target_type: str | None
    epochs: int
    folds: Folds | None = None
    fit: Any = None
    """Of the features, to fit them anew without each fold."""
    lags: Lags | None = None

    @property
    def reads(self) -> frozenset[str]:
        folds = (*self.folds.by, *((self.folds.time,) if self.folds.time else ())) if self.folds else ()
        return frozenset(
            [*self.inputs, *([self.target] if self.target else []), *([PART] if self.part else []), *folds]
        )

    @property
    def model(self) -> Model:
        from pipelines.learning.estimators import WORDS

        how = WORDS[self.chosen.how]
        return Model(
            self.chosen.task,
            self.inputs,
            self.target,
            self.target_type,
            self.chosen.name,
            how,
            self.lags,
            chances=self.chosen.chances,
        )

    def refuses(self, size: float, memory: float) -> Issue | None:
        if self.chosen.how != "one_worker" or 2.5 * size <= memory:
            return None
        from pipelines.learning.estimators import KNOWN

        known = KNOWN.get(self.chosen.name)
        first = "set `method: distributed`, " if known and known.distributed else ""
        remedy = f"{first}take a `sample`, a larger worker (executor.memory_limit), or an estimator that runs block by block: see `pipelines steps train`"
        return Issue(
            f"{self.chosen.short} is trained on one worker, which needs about {2.5 * size / 1e9:.1f} GB for this table and has {memory / 1e9:.1f}",
            remedy,
        )

    def prepared(
        self, builder: Builder, inputs: Sequence[Sequence[Ref]]
    ) -> tuple[list[Ref], Ref | None, dict[int, list[Ref]]]:
        """Adds the tasks up to the blocks; these, the classes, and the blocks for trying on each fold: features are fitted without it."""
        from pipelines.learning.blocks import Made, Rows, Target, parked

        rows = Rows(self.part)
        features = inputs[1][0] if len(inputs) > 1 else None
        target = Target(self.target, self.chosen.task == "classification") if self.target else None
        classes = cuts = None
        if self.folds is not None and self.folds.time is not None:
            times = [
                builder.task("times", (i,), Classes(rows, self.folds.times), each) for i, each in enumerate(inputs[0])
            ]
            cuts = builder.task("cuts", (), self.folds.cuts, times)
        dtype = "float32" if self.chosen.name.startswith("xgboost.") else "float64"
        made = Made(
            rows,
            self.columns,
            target,
            self.folds,
            self.chosen.missing,
            self.chosen.short,
            dtype,
            builder.room,
            self.chosen.how == "dask",
        )
        table = list(inputs[0])
        if features is not None or cuts is not None:  # all wait for what is known of all
            table = parked(builder, table)
        raw = [builder.task("raw", (i,), made, each, features, cuts) for i, each in enumerate(table)]
        if target is not None and target.is_class:
            found = [builder.task("labels", (i,), labels_of, each) for i, each in enumerate(raw)]
            classes = builder.task("classes", (), union, found)
        blocks = self.coded(builder, "block", (), raw, classes)
        tried = dict[int, list[Ref]]()
        for fold in self.folds.numbers if self.folds else ():
            tried[fold] = blocks
            if self.fit is not None:
                part = Outside(rows, self.folds, fold, self.fit)
                states = [builder.task("fold", (fold, i), part, each, cuts) for i, each in enumerate(table)]
                own = builder.task("fold-features", (fold,), Refitted(self.fit, fold), states)
                again = [builder.task("fold-raw", (fold, i), made, each, own, cuts) for i, each in enumerate(table)]
                tried[fold] = self.coded(builder, "fold-block", (fold,), again, classes)
        return blocks, classes, tried

    def coded(
        self, builder: Builder, part: str, index: tuple[int, ...], raw: list[Ref], classes: Ref | None
    ) -> list[Ref]:
        from pipelines.learning.blocks import Held

        if classes is None:
            return raw
        return [builder.task(part, (*index, i), Held.coded, each, classes) for i, each in enumerate(raw)]


@dataclass(frozen=True)
class Outside:
    """The state of features of the rows that a trial on the fold learns from."""

    rows: Any
    folds: Any
    fold: int
    fit: Any

    def __call__(self, given: Any, cuts: Any) -> Any:
        from pipelines.learning.blocks import unparked

        frame = self.rows(unparked(given))
        numbers = self.folds(frame, cuts)
        return self.fit.partial(
            frame.filter(pl.Series(numbers < -self.fold if self.fold < 0 else numbers != self.fold))
        )


@dataclass(frozen=True)
class Refitted:
    """Features without a fold."""

    fit: Any
    fold: int

    def __call__(self, states: Sequence[Any]) -> Any:
        from pipelines.learning.fitting import no_rows

        if not any(state.rows for state in states):
            raise no_rows(self.fold)
        return self.fit.final(states)


@dataclass(frozen=True)
class Classes:
    """Of the rows to learn from."""

    rows: Any
    of: Any

    def __call__(self, frame: pl.DataFrame) -> Any:
        return self.of(self.rows(frame))


def labels_of(block: Any) -> Sequence[Any]:
    return block.labels or ()


def union(found: Sequence[Sequence[Any]]) -> list[Any]:
    return sorted({each for values in found for each in values})


@dataclass(frozen=True)
class Assembled:
    """The model of a fit."""

    setup: Setup
    identity: str
    params: Mapping[str, Any]

    def __call__(self, fitted: Fitted, classes: Sequence[Any] | None, features: Any) -> Trained:
        from pipelines.learning.estimators import WORDS
        from pipelines.learning.model import Trained

        chosen = self.setup.chosen
        about = {
            "estimator": chosen.name, "params": {**dict(chosen.params), **self.params}, "how": WORDS[chosen.how], "identity": self.identity,
            "versions": dict(chosen.versions), "rows": fitted.rows, "iterations": fitted.iterations, "converged": fitted.converged,
        }  # fmt: skip
        if not fitted.converged:
            steps = f" in {fitted.iterations} steps" if fitted.iterations else ""
            more = (
                "raise `max_iter`, and scale the features"
                if "max_iter" in chosen.made().get_params()
                else "look at its parameters"
            )
            what = f"{chosen.short} has not converged{steps}: what it learnt is not the best there is; {more}"
            events.tell("warning", stage=self.identity, message=what)
        return Trained(
            fitted.estimator, chosen.task, self.setup.inputs, self.setup.columns, features, self.setup.target, self.setup.target_type,
            tuple(classes) if classes is not None else None, chosen.missing, about,
        )  # fmt: skip


@dataclass(frozen=True)
class Learning(Work):
    """What every step that learns says of itself."""

    setup: Setup

    @property
    def identity(self) -> tuple[str, ...]:  # type: ignore[override]
        return tuple(f"{name} {text}" for name, text in self.setup.chosen.versions)

    def reads_of(self, index: int, wanted: frozenset[str]) -> frozenset[str]:
        return self.setup.reads if index == 0 else frozenset()

    def refuses(self, bytes: float, memory: float) -> Issue | None:
        return self.setup.refuses(bytes, memory)


@dataclass(frozen=True)
class Training(Learning):
    def lower(self, builder: Builder, inputs: Sequence[Sequence[Ref]]) -> Sequence[Ref]:
        from pipelines.learning.fitting import Fit, Learner

        blocks, classes, _ = self.setup.prepared(builder, inputs)
        fitted = Learner(self.setup.chosen, self.setup.epochs).lower(Fit(builder, "fit", (0,), blocks, classes))
        features = inputs[1][0] if len(inputs) > 1 else None
        return [builder.task("", (0,), Assembled(self.setup, builder.name, {}), fitted, classes, features)]


class Learnt(BaseModel):
    """The options of every step that learns."""

    version: ClassVar[int] = 2

    estimator: str = Field(description="The class by its dotted name, as sklearn.linear_model.LogisticRegression.")
    params: dict[str, Any] = Field({}, description="Its parameters.")
    target: str | None = Field(None, description="The column to predict; without one, the estimator clusters.")
    columns: Texts | None = Field(
        None, min_length=1, description="What to learn from, without `features`. Default: all numbers but the target."
    )
    part: str | None = Field(
        None, description="Of a split table the rows to learn from; all: every one. Default: train."
    )
    seed: int = Field(0, ge=0, lt=2**32, description="The estimator's random_state, where it has one.")
    method: Literal["auto", "block_wise", "one_worker", "distributed"] = Field(
        "auto",
        description="How it runs; auto: as `pipelines steps train` lists. distributed: XGBoost's or LightGBM's trees on all workers of a cluster.",
    )
    epochs: int = Field(
        1, ge=1, le=1000, description="Passes over the data, of an estimator that learns block by block."
    )


def setup(step: Any, schema: Schema, problems: Problems, context: Context) -> Setup | None:
    """What the options of `Learnt` mean for this table; None after an issue was added."""
    from pipelines.learning.estimators import EstimatorError, choose

    chosen = None
    try:
        chosen = choose(step.estimator, step.params, step.seed, step.method, getattr(step, "grid", ()))
    except EstimatorError as error:
        path = error.path
        if len(path) == 2:
            problems.key(path[:1], path[1], error.message, error.remedy)
        else:
            problems.add(path, error.message, error.remedy)
    if chosen and step.epochs > 1 and chosen.how != "partial_fit":
        problems.add(("epochs",), f"{chosen.short} does not learn block by block: it has no `epochs` here", "remove it")
    features = next((value for value in context.values if isinstance(value, Features)), None)
    target = step.target
    if target is not None and problems.column(("target",), target, schema):
        dtype = schema[target]
        if dtype.is_nested() or dtype.is_temporal() or dtype in (pl.Binary, pl.Null):
            problems.add(("target",), f"{dtype_name(dtype)} cannot be predicted", "derive a number or a label of it")
        elif chosen and chosen.task == "classification" and (dtype.is_float() or dtype.is_decimal()):
            problems.add(
                ("target",),
                f"{target!r} is {dtype_name(dtype)}, and {chosen.short} predicts classes",
                f"derive a label, as {target} > 0, or take a regressor",
            )
        elif chosen and chosen.task == "regression" and not (dtype.is_numeric() or dtype == pl.Boolean):
            problems.add(
                ("target",),
                f"{target!r} is {dtype_name(dtype)}, and {chosen.short} predicts numbers",
                "take a classifier",
            )
    if chosen and chosen.task != "clustering" and target is None:
        problems.add((), "`target` is missing", "name the column to predict")
    if chosen and chosen.task == "clustering" and target is not None:
        problems.add(("target",), f"{chosen.short} clusters: it has no target", "remove it")
    columns = tuple(step.columns or ())
    if features is not None and step.columns is not None:
        problems.add(("columns",), "what to learn from is said by the features", "remove `columns`")
    for i, name in enumerate(columns):
        if problems.column(("columns", i), name, schema) and name not in numeric(schema):
            problems.add(("columns", i), not_numeric(name, schema), "put it into `features`")
        if name == target:
            problems.add(("columns", i), f"{name!r} is the target", "remove it")
        if name in columns[:i]:
            problems.add(("columns", i), f"{name!r} stands here twice", "remove one")
    if features is not None:
        for name, dtype in features.inputs.items():
            if schema.get(name) != dtype:
                found = dtype_name(schema[name]) if name in schema else "missing"
                problems.add(
                    (),
                    f"the features need {name!r} as {dtype_name(dtype)}, here it is {found}",
                    "train on the table that they were fitted on",
                )
        if target in features.inputs:
            problems.add(("target",), f"the target {target!r} is among the features", "leave it out there")
    elif not columns:
        columns = tuple(name for name in numeric(schema) if name != target)
        if not columns:
            problems.add((), "there is no column of numbers to learn from", "add `features`")
    part = part_of(step.part, "train", schema, problems)
    if features is not None and features.part != part and not features.on_all and step.part != "all":
        on, of = (f"the part {each}" if each else "all rows" for each in (features.part, part))
        what = f"the features were fitted on {on}, and this learns from {of}"
        if part is None:
            problems.add((), what, "train on the table that they were fitted on, or say `part: all`")
        else:
            problems.add((), what, "fit them on the table that this learns from (`from`), or say `part: all` there")
    if problems.issues or chosen is None:
        return None
    inputs = features.inputs if features else {name: schema[name] for name in columns}
    target_type = dtype_name(schema[target]) if target else None
    return Setup(
        chosen,
        part,
        () if features else columns,
        inputs,
        target,
        target_type,
        step.epochs,
        None,
        features.fit if features else None,
        features.lags if features else None,
    )


class Train(Learnt, Step):
    """Train a model on a table, or on a table and fitted features: any estimator with scikit-learn's interface, by its dotted name.

    The planner chooses how it runs. Logistic regression, least squares and k-means sum over blocks and see any size of table; what
    has `partial_fit` learns block by block; dask-ml's estimators get Dask arrays; others are trained on one worker, on a cluster with joblib's parallel parts on all
    workers, and are refused when the estimate says that the table does not fit. `pipelines steps train` lists what was tried.

    Of a table that was split (see `split`), the rows of `train` are learnt from, else all.
    """

    kind = "train"
    takes = (("table",), ("features",))
    optional = 1
    gives = "model"
    example: ClassVar[str] = (
        "train: {estimator: sklearn.linear_model.LogisticRegression, target: up, columns: [change, range]}"
    )

    def first(self, schema: Schema, values: Sequence[Value], problems: Problems) -> Step | None:
        return lagging(schema, values, problems)

    @classmethod
    def known(cls) -> list[tuple[str, ...]]:
        from pipelines.learning.estimators import KNOWN, WORDS

        return [
            ("estimator", "how it runs", "what it needs"),
            *((name, WORDS[each.how], each.needs) for name, each in KNOWN.items()),
        ]

    def bind(self, schema: Schema, problems: Problems, context: Context) -> Work | None:
        found = setup(self, schema, problems, context)
        return Training(found.model, {}, found) if found else None
