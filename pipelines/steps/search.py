from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from pipelines.errors import did_you_mean
from pipelines.steps.base import Context, Problems, Step
from pipelines.steps.cross_validate import Folded, folded
from pipelines.steps.features import lagging
from pipelines.steps.train import Assembled, Learning, Learnt, Setup
from pipelines.types import Schema
from pipelines.values import Value
from pipelines.work import Builder, Ref, Work

_MOST = 10_000


@dataclass(frozen=True)
class Searching(Learning):
    candidates: tuple[Any, ...]
    tried: tuple[Mapping[str, Any], ...]
    """Of each candidate the parameters that differ."""
    metric: str
    halving: int | None

    def lower(self, builder: Builder, inputs: Sequence[Sequence[Ref]]) -> Sequence[Ref]:
        from pipelines.learning.fitting import Fit, Learner
        from pipelines.learning.trials import Ranking, halving, trial

        blocks, classes, folds = self.setup.prepared(builder, inputs)
        learners = [Learner(chosen, self.setup.epochs) for chosen in self.candidates]
        if self.halving is not None:
            ranking, scores = halving(builder, self.candidates, self.halving, self.metric, folds, classes)
            found: Any = scores
        else:
            found = [trial(builder, i, learner, folds, classes) for i, learner in enumerate(learners)]
            ranking = builder.task("rank", (0,), Ranking(self.metric), found)
        fits = [
            learner.gated(Fit(builder, "fit", (i,), blocks, classes), ranking) for i, learner in enumerate(learners)
        ]
        features = inputs[1][0] if len(inputs) > 1 else None
        best = Best(self.setup, builder.name, self.candidates, self.tried, self.metric)
        return [builder.task("", (0,), best, fits, found, ranking, classes, features)]


@dataclass(frozen=True)
class Best:
    """The best trial's model, with what all trials scored."""

    setup: Setup
    identity: str
    candidates: tuple[Any, ...]
    tried: tuple[Mapping[str, Any], ...]
    metric: str

    def __call__(
        self, fits: Sequence[Any], found: Sequence[Any], ranking: Sequence[int], classes: Any, features: Any
    ) -> Any:
        from pipelines.learning.trials import Ranking

        best = ranking[0]
        mean = Ranking(self.metric).mean
        model = Assembled(replace(self.setup, chosen=self.candidates[best]), self.identity, {})(
            fits[best], classes, features
        )
        trials = [
            {**params, self.metric: mean(each) if each is not None else None}
            for params, each in zip(self.tried, found, strict=True)
        ]
        about = {**model.about, "trials": trials, "best": dict(self.tried[best])}
        names = [name for name in next(filter(None, found[best]), {}) if name != "rows"]
        metrics = {f"cv_{name}": float(np.mean([each[name] for each in found[best] if name in each])) for name in names}
        return replace(model, about=about, metrics=metrics)


class Search(Folded, Learnt, Step):
    """Search parameters: each trial is trained and scored on folds (see `cross_validate`), the best is trained on all rows.

    `grid: {name: [values]}` tries every combination; with `trials: n`, n of them chosen at random; with `halving: 3`, each
    round keeps the best third and gives it three times as many rows (successive halving), for estimators that run on one worker.
    Every fit is a task, or several: they overlap.
    """

    kind = "search"
    takes = (("table",), ("features",))
    optional = 1
    gives = "model"
    example: ClassVar[str] = (
        "search: {estimator: sklearn.ensemble.RandomForestClassifier, target: up, columns: [change, range], grid: {max_depth: [4, 8], min_samples_leaf: [5, 20]}, metric: log_loss}"
    )

    grid: dict[str, list[Any]] = Field(min_length=1, description="Parameter: the values to try.")
    trials: int | None = Field(
        None, ge=1, le=_MOST, description="So many combinations chosen at random. Default: all of them."
    )
    halving: int | None = Field(None, ge=2, le=10, description="Successive halving by this factor.")
    metric: str | None = Field(
        None,
        description="What decides, as `evaluate` names it. Default: log_loss (accuracy without probabilities), or mean_squared_error.",
    )

    def first(self, schema: Schema, values: Sequence[Value], problems: Problems) -> Step | None:
        return lagging(schema, values, problems)

    def bind(self, schema: Schema, problems: Problems, context: Context) -> Work | None:
        from pipelines.learning.estimators import EstimatorError, choose
        from pipelines.learning.scores import BY_CHANCE, CLASSIFICATION, REGRESSION

        found = folded(self, schema, problems, context)
        for name, values in self.grid.items():
            if not values:
                problems.add(("grid", name), "there is no value to try", f"{name}: [1, 2]")
            if name in self.params:
                problems.key(("grid",), name, f"{name!r} is among `params` too", "remove one")
        combinations = self._combinations()
        candidates = list[Any]()
        if len(combinations) > _MOST:
            problems.add(("grid",), f"these are {len(combinations):,} combinations", "set `trials` to try some of them")
            return None
        if found is None or problems.issues:
            return None
        for params in combinations:
            try:
                candidates.append(choose(self.estimator, {**self.params, **params}, self.seed, self.method))
            except EstimatorError as error:
                name = error.path[1] if len(error.path) == 2 else ""
                if name in self.grid:
                    problems.key(("grid",), name, error.message, error.remedy)
                else:
                    problems.add(("grid",), error.message, error.remedy)
                return None
        known = CLASSIFICATION if found.chosen.task == "classification" else REGRESSION
        default = "mean_squared_error"
        if found.chosen.task == "classification":
            default = "log_loss" if all(each.chances for each in candidates) else "accuracy"
        metric = self.metric or default
        if metric not in known:
            problems.add(("metric",), f"unknown metric {metric!r}", did_you_mean(metric, known))
        if metric in BY_CHANCE and not all(each.chances for each in candidates):
            what = f"{metric} needs chances, and {found.chosen.short} tells none with these parameters"
            problems.add(("metric",), what, "take accuracy, or parameters with which it does")
        if self.halving is not None and any(each.how != "one_worker" for each in candidates):
            problems.add(
                ("halving",),
                f"{found.chosen.short} runs block by block, and halving is for what runs on one worker",
                "add `method: one_worker`, or leave `halving` out",
            )
        if problems.issues:
            return None
        setup = (
            found if all(each.how == found.chosen.how for each in candidates) else replace(found, chosen=candidates[0])
        )
        gives = replace(found.model, chances=all(each.chances for each in candidates))
        return Searching(gives, {}, setup, tuple(candidates), tuple(combinations), metric, self.halving)

    def _combinations(self) -> list[dict[str, Any]]:
        grid = dict(sorted(self.grid.items()))  # the order of keys in a config has no meaning
        total = int(np.prod([len(values) for values in grid.values()], dtype=np.int64))
        if self.trials is not None and self.trials < total:
            rng = np.random.default_rng(self.seed)
            numbers = sorted(rng.choice(total, self.trials, replace=False).tolist())
        elif total > _MOST:
            return [{}] * total if total < 10**6 else [{}] * 10**6
        else:
            return [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
        found = []
        for number in numbers:
            chosen = dict[str, Any]()
            for name, values in reversed(grid.items()):
                number, at = divmod(number, len(values))  # noqa: PLW2901
                chosen[name] = values[at]
            found.append(dict(reversed(chosen.items())))
        return found
