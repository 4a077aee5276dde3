"""Trials of estimators on folds, as tasks: every fit is one (or a few) of its own, so that all of them overlap."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipelines.errors import DataError, Issue
from pipelines.learning.blocks import Held, one_thread
from pipelines.learning.estimators import Chosen
from pipelines.learning.fitting import Fit, Fitted, Learner, Whole, guarded
from pipelines.learning.scores import LARGER_IS_BETTER, classified, final, merged, regressed
from pipelines.work import Builder, Ref


@dataclass(frozen=True)
class Tried:
    """Of one block the rows of a fold, scored by an estimator that did not see them."""

    who: str
    """The estimator's name, for errors."""
    fold: int

    def __call__(self, block: Held, fitted: Fitted, classes: Sequence[Any] | None) -> Any:
        import joblib

        one_thread()
        x, y = block.chosen(self.fold, inside=True)
        x, estimator = np.asarray(x), fitted.estimator
        with joblib.parallel_config(backend="sequential"):  # a forest's threads add up its trees in any order
            labels = guarded(self.who, estimator.predict, x) if len(x) else np.empty(0, dtype="int64")
            if classes is None:
                return regressed(y, labels)
            if fitted.seen is not None:
                labels = fitted.seen[labels]
            chances = None
            if hasattr(estimator, "predict_proba"):
                chances = np.zeros((len(x), len(classes)))  # of a class that the fit has not seen: 0
                if len(x):
                    seen = fitted.seen if fitted.seen is not None else getattr(estimator, "classes_", slice(None))
                    chances[:, seen] = guarded(self.who, estimator.predict_proba, x)
        return classified(y, labels, chances, len(classes))


@dataclass(frozen=True)
class Judged:
    """The metrics of one trial on one fold; none of a fold that no row is in."""

    def __call__(self, states: Sequence[Any], classes: Sequence[Any] | None) -> Mapping[str, float]:
        state = merged(states)
        rows = state.count if classes is None else state.confusion.sum()
        return final(state, classes, plots=False).values if rows else {}


def trial(
    builder: Builder, number: int, learner: Learner, tried: Mapping[int, list[Ref]], classes: Ref | None
) -> list[Ref]:
    """Adds the fits and scores of one estimator; of each fold its metrics."""
    fits = [Fit(builder, "trial", (number, k), blocks, classes, fold) for k, (fold, blocks) in enumerate(tried.items())]
    return [scored(fit, learner.chosen.short, learner.lower(fit)) for fit in fits]


def scored(fit: Fit, who: str, fitted: Ref) -> Ref:
    """Adds the metrics of what was fitted, on the rows that the fit has not seen."""
    assert fit.fold is not None
    return fit.task(
        "judge", (), Judged(), fit.each(Tried(who, fit.fold), fitted, fit.classes, part="score"), fit.classes
    )


@dataclass(frozen=True)
class Ranking:
    """The trials' numbers, the best first; of equal ones the first."""

    metric: str

    def __call__(self, found: Sequence[Sequence[Mapping[str, float]]]) -> list[int]:
        means = [self.mean(each) for each in found]
        if all(map(math.isnan, means)):
            what = f"no trial has a {self.metric}: it is for two classes that both are in every fold"
            raise DataError(Issue(what, "take another `metric`, or fewer folds"))
        return sorted(
            range(len(means)),
            key=lambda i: (math.isnan(means[i]), -means[i] if LARGER_IS_BETTER[self.metric] else means[i]),
        )

    def mean(self, found: Sequence[Mapping[str, float]]) -> float:
        known = [each.get(self.metric, math.nan) for each in found if each]
        return float(np.mean(known)) if known else math.nan


# Successive halving


@dataclass(frozen=True)
class Rung:
    """One place in a rung: whoever holds it by the ranking of the rung before is fitted on a part of the rows."""

    candidates: tuple[Chosen, ...]
    place: int
    stride: int
    fold: int

    def __call__(self, blocks: Sequence[Held], classes: Sequence[Any] | None, ranking: Sequence[int]) -> Fitted:
        few = [
            Held(
                block.x[:: self.stride],
                None if block.y is None else block.y[:: self.stride],
                block.fold[:: self.stride],
            )
            for block in blocks
        ]
        return Whole(self.candidates[ranking[self.place]], self.fold)(few, classes)


@dataclass(frozen=True)
class Promoted:
    """After a rung: the trials' numbers, the best of the rung first."""

    metric: str

    def __call__(self, found: Sequence[Sequence[Mapping[str, float]]], before: Sequence[int]) -> list[int]:
        return [before[i] for i in Ranking(self.metric)(found)]


@dataclass(frozen=True)
class Last:
    """The scores by trial, when only the last rung's are known."""

    count: int

    def __call__(self, found: Sequence[Sequence[Mapping[str, float]]], before: Sequence[int]) -> list[Any]:
        by_trial: list[Any] = [None] * self.count
        for place, each in enumerate(found):
            by_trial[before[place]] = each
        return by_trial


def halving(
    builder: Builder,
    candidates: tuple[Chosen, ...],
    factor: int,
    metric: str,
    tried: Mapping[int, list[Ref]],
    classes: Ref | None,
) -> tuple[Ref, Ref]:
    """Adds the rungs; the ranking, and the last rung's scores by trial. Each rung has a `factor`-th of the trials of the one before
    and as many times its rows (Jamieson and Talwalkar 2016)."""
    counts = [len(candidates)]
    while counts[-1] > 1 and len(counts) < 8:
        counts.append(max(1, counts[-1] // factor))
    counts = counts[:-1] if len(counts) > 1 and counts[-1] == 1 else counts
    ranking = builder.task("rank", (0,), list, list(range(len(candidates))))
    scores: Ref | None = None
    for rung, count in enumerate(counts):
        stride = factor ** (len(counts) - 1 - rung)
        found = list[list[Ref]]()
        for place in range(count):
            mine = list[Ref]()
            for k, (fold, blocks) in enumerate(tried.items()):
                fit = Fit(builder, "rung", (rung, place, k), blocks, classes, fold)
                fitted = fit.last(Rung(candidates, place, stride, fold), list(blocks), classes, ranking)
                mine.append(scored(fit, candidates[0].short, fitted))
            found.append(mine)
        scores = builder.task("rung-scores", (rung,), Last(len(candidates)), found, ranking)
        ranking = builder.task("rank", (rung + 1,), Promoted(metric), found, ranking)
    assert scores is not None
    return ranking, scores
