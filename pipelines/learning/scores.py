"""Scores as sums over blocks, so that tables may be larger than memory.

Ranking (ROC, precision and recall) counts rows by score: exactly up to a million different scores in one place, beyond that by
neighbouring scores together, which moves an area by less than 1e-5.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import polars as pl

from pipelines.errors import DataError, Issue
from pipelines.values import finite

_MOST, _KEPT = 1_000_000, 200_000
_SHOWN = 2_000
_TINY = float(np.finfo("float64").eps)


@dataclass(frozen=True)
class Evaluation:
    """Metrics by name, and what their plots show."""

    values: Mapping[str, float]
    errors: Mapping[str, float] = field(default_factory=dict)
    plots: Mapping[str, Any] = field(default_factory=dict)
    kind: ClassVar[str] = "metrics"

    def shown(self) -> pl.DataFrame:
        return pl.DataFrame(
            {"metric": list(self.values), "value": list(self.values.values())},
            schema={"metric": pl.String, "value": pl.Float64},
        )

    def files(self) -> dict[str, bytes]:
        from pipelines.learning.plots import drawn

        found = {"metrics.json": (json.dumps(finite({"values": self.values}), indent=2) + "\n").encode()}
        return found | {f"{name}.svg": drawn(name, data) for name, data in self.plots.items()}


@dataclass(frozen=True)
class Classified:
    """Of some rows: counts of (true, predicted), the sums of log loss and Brier score, and of each score the true and false rows."""

    confusion: Any
    loss: float | None
    brier: float
    scores: Any
    """Two classes: scores in order; None without chances."""
    right: Any
    wrong: Any


@dataclass(frozen=True)
class Regressed:
    """Of some rows: how many, moments of the target, sums of errors, and some residuals to show."""

    count: int
    mean: float
    squares: float
    error: float
    absolute: float
    squared: float
    largest: float
    points: Any
    """Predictions and residuals of a sample."""


def classified(y: Any, labels: Any, chances: Any | None, classes: int) -> Classified:
    confusion = np.zeros((classes, classes), dtype="int64")
    np.add.at(confusion, (y, np.asarray(labels, dtype="int64")), 1)
    if chances is None:
        return Classified(confusion, None, 0.0, None, None, None)
    of_true = np.clip(chances[np.arange(len(y)), y].astype("float64"), _TINY, 1 - _TINY)
    loss = float(-np.log(of_true).sum())
    brier = float(np.square(chances[:, -1].astype("float64") - (y == classes - 1)).sum()) if classes == 2 else 0.0
    if classes != 2:
        return Classified(confusion, loss, brier, None, None, None)
    scores, at = np.unique(chances[:, 1].astype("float64"), return_inverse=True)
    right = np.bincount(at, weights=y, minlength=len(scores)).astype("int64")
    wrong = np.bincount(at, minlength=len(scores)).astype("int64") - right
    return Classified(confusion, loss, brier, scores, right, wrong)


def regressed(y: Any, predicted: Any) -> Regressed:
    error = y - np.asarray(predicted, dtype="float64").ravel()
    mean = float(y.mean()) if len(y) else 0.0
    chosen = np.linspace(0, len(y) - 1, min(len(y), _SHOWN)).astype("int64") if len(y) else np.empty(0, dtype="int64")
    return Regressed(
        len(y), mean, float(np.square(y - mean).sum()), float(error.sum()), float(np.abs(error).sum()), float(np.square(error).sum()),
        float(np.abs(error).max()) if len(y) else 0.0, np.stack([(y - error)[chosen], error[chosen]]),
    )  # fmt: skip


def merged(found: Sequence[Any]) -> Any:
    """Of the rows of all."""
    if isinstance(found[0], Regressed):
        count, mean, squares = 0, 0.0, 0.0
        for each in found:
            if each.count:
                delta = each.mean - mean
                squares += each.squares + delta * delta * count * each.count / (count + each.count)
                mean += delta * each.count / (count + each.count)
                count += each.count
        points = np.concatenate([each.points for each in found], axis=1)
        points = (
            points[:, np.linspace(0, points.shape[1] - 1, min(points.shape[1], _SHOWN)).astype("int64")]
            if points.size
            else points
        )
        return Regressed(
            count, mean, squares, sum(e.error for e in found), sum(e.absolute for e in found), sum(e.squared for e in found),
            max(e.largest for e in found), points,
        )  # fmt: skip
    confusion = sum(each.confusion for each in found)
    loss = None if found[0].loss is None else sum(each.loss for each in found)
    brier = sum(each.brier for each in found)
    if found[0].scores is None:
        return Classified(confusion, loss, brier, None, None, None)
    scores, at = np.unique(np.concatenate([each.scores for each in found]), return_inverse=True)
    right = np.bincount(at, weights=np.concatenate([each.right for each in found]), minlength=len(scores))
    wrong = np.bincount(at, weights=np.concatenate([each.wrong for each in found]), minlength=len(scores))
    if len(scores) > _MOST:
        starts = np.unique(
            np.searchsorted(
                np.cumsum(right + wrong), np.linspace(0, (right + wrong).sum(), _KEPT, endpoint=False), side="right"
            )
        )
        scores, right, wrong = scores[starts], np.add.reduceat(right, starts), np.add.reduceat(wrong, starts)
    return Classified(confusion, loss, brier, scores, right.astype("int64"), wrong.astype("int64"))


def final(
    state: Any, classes: Sequence[Any] | None, importance: Mapping[str, float] | None = None, plots: bool = True
) -> Evaluation:
    """All metrics of a state. Averages over classes are macro averages, as scikit-learn's with zero_division=0."""
    values, shown = dict[str, float](), dict[str, Any]()
    if isinstance(state, Regressed):
        if not state.count:
            raise DataError(Issue("there are no rows to evaluate on", "look at them with --to; `split` names the part"))
        n = state.count
        values["rows"] = float(n)
        values["mean_absolute_error"] = state.absolute / n
        values["mean_squared_error"] = state.squared / n
        values["root_mean_squared_error"] = math.sqrt(state.squared / n)
        values["r2"] = 1 - state.squared / state.squares if state.squares > 0 else math.nan
        values["explained_variance"] = (
            1 - (state.squared - state.error**2 / n) / state.squares if state.squares > 0 else math.nan
        )
        values["max_error"] = state.largest
        values["base_root_mean_squared_error"] = math.sqrt(state.squares / n)
        shown["residuals"] = state.points
    else:
        assert classes is not None
        _classification(state, classes, values, shown)
    if importance:
        shown["importance"] = dict(importance)
    return Evaluation(values, {}, shown if plots else {})


def _classification(state: Classified, classes: Sequence[Any], values: dict[str, float], shown: dict[str, Any]) -> None:
    confusion = state.confusion
    n = int(confusion.sum())
    if not n:
        raise DataError(Issue("there are no rows to evaluate on", "look at them with --to; `split` names the part"))
    of, said, right = confusion.sum(axis=1), confusion.sum(axis=0), np.diag(confusion)
    precision, recall = right / np.maximum(said, 1), right / np.maximum(of, 1)
    both = precision + recall
    f1 = np.where(both > 0, 2 * precision * recall / np.where(both > 0, both, 1), 0.0)
    here = (of + said) > 0
    """Classes that neither stand there nor are predicted do not count, as in scikit-learn."""
    two = len(classes) == 2
    values["rows"] = float(n)
    values["accuracy"] = float(right.sum() / n)
    values["base_rate"] = float(of.max() / n)
    values["balanced_accuracy"] = float(recall[of > 0].mean())
    for name, each in (("precision", precision), ("recall", recall), ("f1", f1)):
        values[name] = float(each[1] if two else each[here].mean())
    shown["confusion"] = (confusion, [str(each) for each in classes])
    if state.loss is not None:
        values["log_loss"] = state.loss / n
        chance = of[of > 0] / n
        values["base_log_loss"] = float(-(chance * np.log(chance)).sum())
    if state.scores is not None:
        values["brier"] = state.brier / n
        up, down = state.right[::-1], state.wrong[::-1]  # from the highest score on
        true, false = np.cumsum(up), np.cumsum(down)
        if true[-1] and false[-1]:
            tpr, fpr = np.append(0, true / true[-1]), np.append(0, false / false[-1])
            values["roc_auc"] = float(np.trapezoid(tpr, fpr))
            exact = true / (true + false)
            values["average_precision"] = float((np.diff(tpr) * exact).sum())
            shown["roc"] = (_thin(fpr), _thin(tpr), values["roc_auc"])
            shown["precision_recall"] = (_thin(tpr[1:]), _thin(exact), float(of[1] / n), values["average_precision"])


def _thin(values: Any) -> Any:
    return values[np.unique(np.linspace(0, len(values) - 1, min(len(values), _SHOWN)).astype("int64"))]


LARGER_IS_BETTER = {
    "accuracy": True, "balanced_accuracy": True, "precision": True, "recall": True, "f1": True, "roc_auc": True, "average_precision": True,
    "r2": True, "explained_variance": True, "log_loss": False, "brier": False, "mean_absolute_error": False, "mean_squared_error": False,
    "root_mean_squared_error": False, "max_error": False,
}  # fmt: skip
CLASSIFICATION = (
    "accuracy",
    "balanced_accuracy",
    "precision",
    "recall",
    "f1",
    "roc_auc",
    "average_precision",
    "log_loss",
    "brier",
)
BY_CHANCE = ("roc_auc", "average_precision", "log_loss", "brier")
REGRESSION = tuple(name for name in LARGER_IS_BETTER if name not in CLASSIFICATION)
