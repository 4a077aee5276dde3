"""Whether competitors learnt the same: models and simulated figures, in files of their own kinds."""

from __future__ import annotations

import glob
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

CLOSE = 1e-3
"""Relative; of coefficients relative to the largest."""
EXACT = 1e-9


def logistic(outs: dict[str, Path], rows: str) -> list[str]:
    """The loss over all rows, and the coefficients."""
    found = dict[str, tuple[float, Any]]()
    for who, path in outs.items():
        if zipfile.is_zipfile(path):
            from pipelines.learning.model import load

            estimator = load(str(path)).estimator
            weights, intercept = estimator.coef_[0], float(estimator.intercept_[0])
        else:
            told = json.loads(path.read_text())
            weights, intercept = np.array(told["coefficients"]), told["intercept"]
        found[who] = _loss(rows, weights, intercept), np.append(weights, intercept)
    return _differences(found)


def _loss(rows: str, weights: Any, intercept: float) -> float:
    total, count = 0.0, 0
    for path in sorted(glob.glob(rows)):
        table = pl.read_parquet(path)
        score = table.select(f"x{i}" for i in range(len(weights))).to_numpy() @ weights + intercept
        total += float(np.logaddexp(0, np.where(table["label"].to_numpy(), -score, score)).sum())
        count += len(table)
    return total / count


def boosted(outs: dict[str, Path], rows: str) -> list[str]:
    """The log loss, accuracy and area under the ROC curve over the first file's rows."""
    import xgboost
    from sklearn import metrics

    table = pl.read_parquet(sorted(glob.glob(rows))[0])
    x, y = table.select(f"x{i}" for i in range(20)).to_numpy().astype("float32"), table["label"].to_numpy()
    found = dict[str, tuple[float, Any]]()
    for who, path in outs.items():
        if zipfile.is_zipfile(path):
            from pipelines.learning.model import load

            chance = load(str(path)).estimator.predict_proba(x)[:, 1]
        else:
            chance = xgboost.Booster(model_file=bytearray(path.read_bytes())).inplace_predict(x)
        told = [metrics.accuracy_score(y, chance > 0.5), metrics.roc_auc_score(y, chance)]
        found[who] = float(metrics.log_loss(y, chance)), np.array(told)
    return _differences(found)


def _differences(found: dict[str, tuple[float, Any]]) -> list[str]:
    [(first, (loss, numbers)), *others] = found.items()
    wrong = list[str]()
    for who, (own, theirs) in others:
        apart = float(np.abs(theirs - numbers).max() / np.abs(numbers).max())
        if abs(own - loss) > CLOSE * loss or apart > CLOSE:
            wrong.append(f"{who} has the loss {own:.6f} and numbers {apart:.1e} apart; {first} {loss:.6f}")
    return wrong


def simulated(by_hand: Path, runs: Path) -> list[str]:
    """The figures: both take the same random numbers."""
    wanted = json.loads(by_hand.read_text())
    wrong = list[str]()
    answers = sorted(runs.glob("*/risk/metrics.json"))
    for path in answers:
        values = json.loads(path.read_text())["values"]
        for name, value in wanted.items():
            if not abs(values[name] - value) <= EXACT * abs(value):
                wrong.append(f"ours has {name} {values[name]!r}, NumPy {value!r}")
    return wrong if answers else ["ours wrote no figures"]
