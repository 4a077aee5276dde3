"""python learning.py logistic|boosted ROWS, or monte-carlo PATHS: what a config does, by hand."""

import math
import multiprocessing
import sys

import numpy as np

STREAM = 16_384


def read(pattern: str, dtype: str) -> tuple[np.ndarray, np.ndarray]:
    import polars as pl

    table = pl.read_parquet(pattern)
    x = table.select(f"x{i}" for i in range(20)).to_numpy().astype(dtype, copy=False)
    return np.ascontiguousarray(x), table["label"].to_numpy().astype(int)


def logistic(pattern: str) -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import log_loss

    x, y = read(pattern, "float64")
    model = LogisticRegression(solver="newton-cholesky").fit(x, y)  # the fastest of its solvers where rows are many
    print(log_loss(y[:100_000], model.predict_proba(x[:100_000])), model.coef_)


def boosted(pattern: str) -> None:
    from xgboost import XGBClassifier

    x, y = read(pattern, "float32")
    model = XGBClassifier(n_estimators=50, max_depth=6, tree_method="hist").fit(x, y)
    print(model.get_booster().num_boosted_rounds())


def losses(streams: tuple[int, int, int]) -> np.ndarray:
    first, count, kept = streams
    start, sigma = np.array([190.0, 410.0, 120.0]), np.array([0.28, 0.24, 0.50])
    drift, years = np.array([0.08, 0.07, 0.12]), 0.0396825
    root = np.linalg.cholesky(np.array([[1, 0.65, 0.55], [0.65, 1, 0.60], [0.55, 0.60, 1]])).T
    found = []
    for i in range(first, first + count):
        rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence(42, spawn_key=(i,))))
        z = rng.standard_normal((STREAM, 3)) @ root
        prices = start * np.exp((drift - sigma**2 / 2) * years + sigma * math.sqrt(years) * z)
        found.append(190 * 1000 + 410 * 500 + 120 * 2000 - prices @ [1000, 500, 2000])
    loss = np.concatenate(found)
    return np.partition(loss, len(loss) - kept)[-kept:] if kept < len(loss) else loss


def monte_carlo(paths: int) -> None:
    streams = -(-paths // STREAM)
    parts = [(i, min(80, streams - i), paths // 20) for i in range(0, streams, 80)]
    with multiprocessing.Pool(2) as pool:
        tail = np.sort(np.concatenate(pool.map(losses, parts, chunksize=1)))
    at = paths // 100
    print(tail[-at - 1], tail[-at:].mean())


if __name__ == "__main__":
    what, given = sys.argv[1:3]
    monte_carlo(int(given)) if what == "monte-carlo" else {"logistic": logistic, "boosted": boosted}[what](given)
