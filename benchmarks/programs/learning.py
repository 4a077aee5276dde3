"""python learning.py logistic|boosted ROWS OUT, or monte-carlo CONFIG PATHS OUT: what a config does, by hand."""

import ast
import json
import math
import multiprocessing
import sys
from pathlib import Path

import numpy as np
import yaml

STREAM = 16_384


def read(pattern: str, dtype: str) -> tuple[np.ndarray, np.ndarray]:
    import polars as pl

    table = pl.read_parquet(pattern)
    x = table.select(f"x{i}" for i in range(20)).to_numpy().astype(dtype, copy=False)
    return np.ascontiguousarray(x), table["label"].to_numpy().astype(int)


def logistic(pattern: str, out: Path) -> None:
    from sklearn.linear_model import LogisticRegression

    x, y = read(pattern, "float64")
    model = LogisticRegression(solver="newton-cholesky").fit(x, y)  # the fastest of its solvers where rows are many
    out.write_text(json.dumps({"coefficients": model.coef_[0].tolist(), "intercept": float(model.intercept_[0])}))


def boosted(pattern: str, out: Path) -> None:
    from xgboost import XGBClassifier

    x, y = read(pattern, "float32")
    model = XGBClassifier(n_estimators=50, max_depth=6, tree_method="hist").fit(x, y)
    out.write_bytes(model.get_booster().save_raw("ubj"))


def losses(work: tuple[Path, int, int]) -> np.ndarray:
    """Of each path of some streams. The same random numbers in the same order as `simulate` takes, so that answers are the same."""
    config, first, paths = work
    steps = yaml.safe_load(config.read_text())["steps"]
    job, expression = steps["prices"]["simulate"], steps["loss"]["array"]
    start, drift, sigma = (
        np.array([a[key] for a in job["assets"].values()]) for key in ("start", "drift", "volatility")
    )
    days, dt = job.get("steps", 1), job["years"] / job.get("steps", 1)
    root = np.linalg.cholesky(np.array(job["correlation"])) * (sigma * math.sqrt(dt))[:, None]
    weights = np.array(ast.literal_eval(expression[expression.index("[") : expression.index("]") + 1]))
    loss = np.empty(paths)
    for at in range(0, paths, STREAM):
        size = min(STREAM, paths - at)
        rng = np.random.Generator(
            np.random.PCG64(np.random.SeedSequence(job["seed"], spawn_key=(first + at // STREAM,)))
        )
        moves = root @ rng.standard_normal((days, len(start), size))
        moves += ((drift - sigma**2 / 2) * dt)[:, None]
        value = (weights * start) @ np.exp(np.cumsum(moves, axis=0, out=moves), out=moves)
        held = start @ weights
        loss[at : at + size] = held - (value[-1] if days == 1 else np.minimum(value.min(axis=0), held))
    return loss


def monte_carlo(config: Path, paths: int, out: Path) -> None:
    each = 80 * STREAM
    parts = [(config, at // STREAM, min(each, paths - at)) for at in range(0, paths, each)]
    with multiprocessing.Pool(2) as pool:
        loss = np.concatenate(pool.map(losses, parts, chunksize=1))
    answer = {"mean_loss": float(loss.mean()), "loss_std": float(loss.std(ddof=1))}
    at_95, at_99 = (math.ceil(paths * level) - 1 for level in (0.95, 0.99))
    loss.partition([at_95, at_99])
    answer |= {"var_95": loss[at_95], "var_99": loss[at_99], "es_99": loss[at_99 + 1 :].mean()}
    out.write_text(json.dumps(answer))


if __name__ == "__main__":
    what, given, *rest, wanted = sys.argv[1:]
    if what == "monte-carlo":
        monte_carlo(Path(given), int(rest[0]), Path(wanted))
    else:
        {"logistic": logistic, "boosted": boosted}[what](given, Path(wanted))
