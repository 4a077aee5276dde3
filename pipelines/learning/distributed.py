"""Fits by libraries that take Dask arrays: dask-ml, xgboost.dask and lightgbm.dask.

The task that fits hands out tasks itself. It holds of the blocks only where they are: their numbers are in files, or scattered.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipelines.errors import DataError, Issue, MachineError
from pipelines.learning.blocks import Held, one_thread
from pipelines.learning.estimators import KNOWN, estimator_class
from pipelines.learning.fitting import Fitted, Whole, gaps, guarded, no_rows, on_a_cluster


@dataclass(frozen=True)
class OnDask(Whole):
    """`fit` on Dask arrays whose chunks are the blocks."""

    def __call__(self, blocks: Sequence[Held], classes: Sequence[Any] | None) -> Fitted:
        import warnings

        one_thread()
        short, becomes = self.chosen.short, KNOWN[self.chosen.name].becomes
        counts, labels, ranges = list[int](), list[Any](), list[Any]()
        for block in blocks:
            x, y = block.chosen(self.fold)
            counts.append(len(x))
            labels.append(None if y is None else np.unique(y))
            if len(x) and becomes and y is not None:
                ranges.append((x.min(axis=0), x.max(axis=0)))
        if not sum(counts):
            raise no_rows(self.fold)
        if ranges:
            self.varied(ranges, blocks[0].names)
        lowest = min((each[0] for each in labels if each is not None and len(each)), default=0)
        if becomes.endswith("PoissonRegressor") and lowest < 0:
            remedy = "leave those rows out before with `filter`, or take a regressor"
            raise DataError(Issue(f"{short} predicts counts, and the target is {lowest:g} in a row", remedy))
        if classes is not None and (len(classes) < 2 or (becomes and len(classes) > 2)):
            what = f"{short} runs on Dask arrays for two classes" if len(classes) > 2 else "a classifier needs two"
            said = f"the target has {len(classes)}: {', '.join(map(repr, classes[:5]))}"
            raise DataError(Issue(f"{what}, and {said}", "for more classes, take an estimator on one worker"))
        seen = None if classes is None else gaps(self.chosen, np.concatenate(labels), classes, self.fold)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if becomes:
                estimator = guarded(short, self.of_dask_ml, blocks, counts)
            else:
                estimator = guarded(short, self.boosted, blocks, counts, seen, classes)
        return Fitted(estimator, sum(counts), seen=seen)

    def varied(self, ranges: Sequence[Any], names: Sequence[str]) -> None:
        """Raises DataError for a constant column: dask-ml divides by the columns' spreads, and takes one of 0 for its intercept."""
        low = np.min([each[0] for each in ranges], axis=0)
        high = np.max([each[1] for each in ranges], axis=0)
        if (low == high).any():
            at = int((low == high).argmax())
            what = f"{self.chosen.short} takes no constant columns: {names[at]!r} is {low[at]:g} in all rows"
            raise DataError(Issue(what, "leave it out"))

    def arrays(
        self, blocks: Sequence[Any], counts: Sequence[int], width: int, dtype: Any, seen: Any = None
    ) -> tuple[Any, Any]:
        """x and y; `blocks` are blocks, or futures of them."""
        import dask.array as da
        from dask import delayed

        parts = [
            delayed(_part, pure=False)(block, self.fold, seen) for block, n in zip(blocks, counts, strict=True) if n
        ]
        rows = [n for n in counts if n]
        x = da.concatenate(
            [da.from_delayed(each[0], (n, width), dtype=dtype) for each, n in zip(parts, rows, strict=True)]
        )
        if self.chosen.task == "clustering":
            return x, None
        kind = "int64" if self.chosen.task == "classification" else "float64"
        return x, da.concatenate(
            [da.from_delayed(each[1], (n,), dtype=kind) for each, n in zip(parts, rows, strict=True)]
        )

    def scattered(self, client: Any, blocks: Sequence[Held]) -> Any:
        """Futures of the blocks; afterwards every worker has the library: a task of it that comes while it is imported for the first
        time would wait for that, and that for the task's own import."""
        module = self.chosen.name.rpartition(".")[0]
        workers = client.scheduler_info(n_workers=-1)["workers"]
        client.gather([client.submit(_imported, module, workers=[each], pure=False) for each in workers])
        return client.scatter(list(blocks), direct=True)

    def of_dask_ml(self, blocks: Sequence[Held], counts: Sequence[int]) -> Any:
        import dask

        first = blocks[0].x
        several = _several()
        with _client() if several else dask.config.set(scheduler="sync") as client:
            given = self.scattered(client, blocks) if several else blocks
            x, y = self.arrays(given, counts, first.shape[1], first.dtype)
            made = self.chosen.made()
            made.fit(x) if y is None else made.fit(x, y)
        return _becomes(made, KNOWN[self.chosen.name].becomes, first.shape[1])

    def boosted(self, blocks: Sequence[Held], counts: Sequence[int], seen: Any, classes: Sequence[Any] | None) -> Any:
        if not _several():
            raise MachineError(
                Issue(
                    "`method: distributed` needs a cluster of two workers at least",
                    "executor: {kind: local, workers: 2}, or leave `method` out",
                )
            )
        package, _, name = self.chosen.name.partition(".")
        first = blocks[0].x
        with _client() as client:
            x, y = self.arrays(self.scattered(client, blocks), counts, first.shape[1], first.dtype, seen)
            x, y = client.persist([x, y])
            if package == "lightgbm":
                import lightgbm

                params = self.chosen.made_for(classes).get_params()
                return getattr(lightgbm, f"Dask{name}")(client=client, **params).fit(x, y).to_local()
            import xgboost.dask

            made = getattr(xgboost.dask, f"Dask{name}")(**dict(self.chosen.params))
            made.client = client
            made.fit(x, y)
            alone = self.chosen.made()
            alone.load_model(bytearray(made.get_booster().save_raw("ubj")))
            return alone


def _imported(module: str) -> None:
    importlib.import_module(module if module.startswith("dask_ml") else f"{module}.dask")


def _part(block: Held, fold: int | None, seen: Any) -> tuple[Any, Any]:
    x, y = block.chosen(fold)
    return np.asarray(x), y if seen is None else np.searchsorted(seen, y)


def _several() -> bool:
    """Whether this is a task on one of several workers."""
    if not on_a_cluster():
        return False
    from distributed import get_client

    return len(get_client().scheduler_info(n_workers=-1)["workers"]) > 1


def _client() -> Any:
    """The cluster; the worker takes other tasks meanwhile."""
    from distributed import worker_client

    return worker_client()


def _becomes(made: Any, name: str, width: int) -> Any:
    """scikit-learn's estimator with what dask-ml's has learnt."""
    found = estimator_class(name)()
    found.n_features_in_ = width
    if name.endswith("KMeans"):
        found.set_params(n_clusters=len(made.cluster_centers_))
        found.cluster_centers_, found.inertia_ = np.asarray(made.cluster_centers_), float(made.inertia_)
        found.n_iter_, found._n_threads = int(made.n_iter_), 1
        return found
    found.coef_, intercept = np.asarray(made.coef_, dtype="float64"), float(getattr(made, "intercept_", 0.0))
    if not np.isfinite(found.coef_).all() or not math.isfinite(intercept):
        raise ValueError("it found no finite coefficients")
    found.intercept_ = intercept
    if name.endswith("LogisticRegression"):
        found.classes_, found.coef_, found.intercept_ = np.array([0, 1]), found.coef_[None, :], np.array([intercept])
    if name.endswith("PoissonRegressor"):
        found._base_loss = found._get_loss()
    return found
