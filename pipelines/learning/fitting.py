"""Fitting as tasks: steps over blocks that are unrolled in the graph, each a sum over blocks and an update; a fit that has
converged passes its state on, which costs no more than the tasks.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pipelines.errors import DataError, Issue
from pipelines.learning.blocks import Held, one_thread
from pipelines.learning.estimators import Chosen
from pipelines.work import Builder, Ref

_ROWS = 1 << 14
"""Rows at a time, so that copies of them stay in the processor's cache."""
_FAN_IN = 16
_LIBRARIES = ("sklearn", "xgboost", "lightgbm", "dask_ml")
_NEWTON, _LLOYD, _STEPS = 16, 24, 300
"""Steps of Newton's and of Lloyd's method where `max_iter` is not given, and at most."""


@dataclass(frozen=True)
class Fitted:
    """An estimator of scikit-learn's kind, with what its training tells."""

    estimator: Any
    rows: int
    iterations: int | None = None
    converged: bool = True
    seen: Any = None
    """The class numbers that the estimator's own ones stand for, where those are others."""


@dataclass(frozen=True)
class Fit:
    """One fit's tasks: what they are called and counted by, and what they take."""

    builder: Builder
    part: str
    index: tuple[int, ...]
    blocks: Sequence[Ref]
    classes: Ref | None
    fold: int | None = None

    def task(self, part: str, index: tuple[int, ...], function: Callable[..., Any], *arguments: Any) -> Ref:
        return self.builder.task(f"{self.part}-{part}", (*self.index, *index), function, *arguments)

    def last(self, function: Callable[..., Any], *arguments: Any) -> Ref:
        return self.builder.task(self.part, self.index, function, *arguments)

    def each(
        self, function: Callable[..., Any], *arguments: Any, part: str = "sum", step: tuple[int, ...] = ()
    ) -> list[Ref]:
        """Of every block."""
        return [self.task(part, (*step, i), function, block, *arguments) for i, block in enumerate(self.blocks)]

    def tree(self, sums: list[Ref], add: Callable[..., Any], step: tuple[int, ...] = ()) -> Ref:
        """Sums in groups, always the same ones."""
        level = 0
        while len(sums) > 1:
            level += 1
            groups = [sums[i : i + _FAN_IN] for i in range(0, len(sums), _FAN_IN)]
            sums = [self.task("add", (*step, level, i), add, group) for i, group in enumerate(groups)]
        return sums[0]


@dataclass(frozen=True)
class Learner:
    """Which estimator, and how it is fitted."""

    chosen: Chosen
    epochs: int = 1

    def lower(self, fit: Fit) -> Ref:
        """Adds the tasks of one fit; its last gives a `Fitted`."""
        how = {
            "newton": self._newton,
            "least_squares": self._least_squares,
            "lloyd": self._lloyd,
            "partial_fit": self._partial_fit,
            "one_worker": self._one_worker,
            "dask": self._one_worker,
        }[self.chosen.how]
        return how(fit)

    def gated(self, fit: Fit, best: Ref) -> Ref:
        """The fit on all rows, of the one of several trials that was best: `best` is their ranking, the index ends in the trial's number."""
        if self.chosen.how in ("one_worker", "dask"):
            return fit.last(Only(self._whole(None), fit.index[-1]), list(fit.blocks), fit.classes, best)
        return self.lower(fit)

    def _newton(self, fit: Fit) -> Ref:
        params = dict(self.chosen.params)
        newton = Newton(
            C=float(params.get("C", 1.0)) if params.get("penalty", "l2") == "l2" else np.inf,
            intercept=bool(params.get("fit_intercept", True)),
            fold=fit.fold,
        )
        return self._steps(fit, newton, fit.task("start", (), newton.start, fit.classes), _NEWTON)

    def _lloyd(self, fit: Fit) -> Ref:
        params = dict(self.chosen.params)
        clusters, tolerance = int(params.get("n_clusters", 8)), float(params.get("tol", 1e-4))
        lloyd = Lloyd(clusters, tolerance, int(params.get("random_state") or 0), fit.fold)
        samples = fit.each(lloyd.sample, len(fit.blocks), part="sample")
        return self._steps(fit, lloyd, fit.task("start", (), lloyd.start, samples), _LLOYD)

    def _steps(self, fit: Fit, method: Newton | Lloyd, state: Ref, usual: int) -> Ref:
        """Each costs a task a block, also when the fit has converged before."""
        params = dict(self.chosen.params)
        for step in range(max(1, min(int(params["max_iter"]), _STEPS)) if "max_iter" in params else usual):
            total = fit.tree(fit.each(method.partial, state, step=(step,)), _added, (step,))
            state = fit.task("step", (step,), method.update, total, state)
        return fit.last(method.fitted, state, self.chosen)

    def _least_squares(self, fit: Fit) -> Ref:
        params = dict(self.chosen.params)
        squares = LeastSquares(
            float(params.get("alpha", 1.0)) if self.chosen.short == "Ridge" else 0.0,
            bool(params.get("fit_intercept", True)),
            fit.fold,
        )
        return fit.last(squares.fitted, fit.tree(fit.each(squares.partial), squares.added), self.chosen)

    def _partial_fit(self, fit: Fit) -> Ref:
        chain = Chain(self.chosen, fit.fold)
        state = fit.task("start", (), chain.start, fit.classes)
        for epoch in range(self.epochs):
            for i, block in enumerate(fit.blocks):
                state = fit.task("step", (epoch, i), chain.step, state, block)
        return fit.last(chain.fitted, state)

    def _one_worker(self, fit: Fit) -> Ref:
        return fit.last(self._whole(fit.fold), list(fit.blocks), fit.classes)

    def _whole(self, fold: int | None) -> Whole:
        if self.chosen.how == "dask":
            from pipelines.learning.distributed import OnDask

            return OnDask(self.chosen, fold)
        return Whole(self.chosen, fold)


def _added(found: Sequence[tuple[Any, ...] | None]) -> tuple[Any, ...] | None:
    given = [each for each in found if each is not None]
    if not given:
        return None
    total = list(given[0])
    for each in given[1:]:
        total = [one + other for one, other in zip(total, each, strict=True)]
    return tuple(total)


def _pieces(x: Any) -> list[slice]:
    return [slice(at, at + _ROWS) for at in range(0, len(x), _ROWS)]


def guarded(who: str, function: Callable[..., Any], *arguments: Any, **more: Any) -> Any:
    """What an estimator's own function returns; its errors are of the data or the parameters."""
    wrong = None
    try:
        return function(*arguments, **more)
    except Exception as error:
        usual = (ValueError, TypeError, IndexError, ZeroDivisionError, np.linalg.LinAlgError)
        if not isinstance(error, usual) and type(error).__module__.split(".")[0] not in _LIBRARIES:
            raise
        wrong = failed(who, error)
    raise wrong


def no_rows(fold: int | None) -> DataError:
    what, remedy = "there are no rows to learn from", "look at them with --to; `split` names the part"
    if fold is not None and fold < 0:
        what, remedy = f"{what} before the fold {-fold} in time", "look at them with --to; perhaps take fewer folds"
    elif fold is not None:
        what = f"{what} without the fold {fold}: the groups of `by` are all in this one"
        remedy = "name columns with more different values in `by`, set another `seed`, or look at the rows with --to"
    return DataError(Issue(what, remedy))


def few_rows(clusters: int, different: int) -> DataError:
    what = f"{clusters} clusters are asked for, and there are only {different} different rows"
    return DataError(Issue(what, "ask for fewer"))


def one_class(found: Sequence[Any], fold: int | None = None) -> DataError:
    what, remedy = f"the target has one class only: {', '.join(map(repr, found))}", "a classifier needs two"
    if fold is not None:
        what += f" (in the rows {'before' if fold < 0 else 'without'} the fold {abs(fold)})"
        remedy += ": take fewer folds, or make them of other columns"
    return DataError(Issue(what, remedy))


def gaps(chosen: Chosen, y: Any, classes: Sequence[Any] | None, fold: int | None) -> Any:
    """XGBoost wants classes 0 to n - 1: where a fold lacks one, the numbers that they stand for; else None."""
    package = chosen.name.partition(".")[0]
    if classes is None or package not in ("xgboost", "lightgbm"):
        return None
    seen = np.unique(y)
    if len(seen) < 2:  # they would tell chances of two
        raise one_class([classes[i] for i in seen], fold)
    return seen if package == "xgboost" and len(seen) < len(classes) else None


def failed(who: str, error: Exception) -> DataError:
    return DataError(
        Issue(
            f"{who} failed: {type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}",
            "look at its input with --to, and at its parameters",
        )
    )


# Logistic regression


@dataclass(frozen=True)
class NewtonState:
    """Where to look next, and the best so far."""

    classes: Sequence[Any]
    point: Any = None
    """Weights, the intercept last; None before the number of features is known."""
    best: Any = None
    loss: float = np.inf
    direction: Any = None
    step: float = 1.0
    done: bool = False
    steps: int = 0
    rows: int = 0
    failed: bool = False


@dataclass(frozen=True)
class Newton:
    """Newton's method for the logistic loss: C * sum(log(1 + exp(-y f))) + |w|^2 / 2 as in scikit-learn; the p x p Hessian is a
    sum over blocks (Hastie, Tibshirani, Friedman 2009, section 4.4.1). A step that does not lower the loss is halved."""

    C: float
    intercept: bool
    fold: int | None

    def start(self, classes: Sequence[Any]) -> NewtonState:
        if not classes:
            raise no_rows(self.fold)
        if len(classes) != 2:
            remedy = "leave no other value out" if len(classes) < 2 else "for more classes: method: one_worker"
            raise DataError(
                Issue(
                    f"LogisticRegression runs block-wise for two classes, and the target has {len(classes)}: {', '.join(map(repr, classes[:5]))}",
                    remedy,
                )
            )
        return NewtonState(classes)

    def partial(self, block: Held, state: NewtonState) -> tuple[Any, ...] | None:
        """Loss, gradient, Hessian, rows, rows of the second class."""
        if state.done:
            return None
        one_thread()
        x, y = block.chosen(self.fold)
        p = x.shape[1]
        point = np.zeros(p + 1) if state.point is None else state.point
        loss, gradient, hessian = 0.0, np.zeros(p + 1), np.zeros((p + 1, p + 1))
        for piece in _pieces(x):
            rows, label = np.asarray(x[piece]), y[piece]
            f = rows @ point[:p] + point[p]
            loss += float((np.logaddexp(0, f) - label * f).sum())
            chance = 1 / (1 + np.exp(-f))
            residual, root = chance - label, np.sqrt(chance * (1 - chance))
            gradient[:p] += residual @ rows
            gradient[p] += residual.sum()
            weighted = rows * root[:, None]
            hessian[:p, :p] += weighted.T @ weighted
            hessian[:p, p] += root @ weighted
            hessian[p, p] += root @ root
        hessian[p, :p] = hessian[:p, p]
        return loss, gradient, hessian, len(x), int(np.count_nonzero(y))

    def update(self, sums: tuple[Any, ...] | None, state: NewtonState) -> NewtonState:
        if sums is None:
            return state
        loss, gradient, hessian, rows, second = sums
        p = len(gradient) - 1
        if not rows:
            raise no_rows(self.fold)
        if second in (0, rows):
            raise one_class([state.classes[int(second > 0)]], self.fold)
        point = np.zeros(p + 1) if state.point is None else state.point
        ridge = np.append(np.full(p, 1 / self.C), 0.0)
        loss = loss + float(ridge @ (point * point)) / 2
        if not np.isfinite(loss) or loss > state.loss:  # too far
            if state.step < 1e-6:
                return replace(state, point=state.best, done=True)
            step = state.step / 2
            return replace(state, point=state.best + step * state.direction, step=step, steps=state.steps + 1)
        gradient = gradient + ridge * point
        hessian = hessian + np.diag(ridge)
        free = np.arange(p + 1) if self.intercept else np.arange(p)
        direction = np.zeros(p + 1)
        inside = hessian[np.ix_(free, free)]
        try:
            direction[free] = -np.linalg.solve(inside, gradient[free])
            if not np.isfinite(direction).all():
                raise np.linalg.LinAlgError
        except np.linalg.LinAlgError:
            direction[free] = -np.linalg.lstsq(inside, gradient[free], rcond=None)[0]
        gain = -float(gradient @ direction) / 2
        """What a full step promises: half the squared Newton decrement."""
        best = replace(state, best=point, loss=loss, direction=direction, step=1.0, steps=state.steps + 1, rows=rows)
        if gain <= 1e-10 * max(loss, 1e-300):
            return replace(best, point=point, done=True)
        return replace(best, point=point + direction)

    def fitted(self, state: NewtonState, chosen: Chosen) -> Fitted:
        made = chosen.made()
        best = state.best
        made.classes_ = np.array([0, 1])
        made.coef_, made.intercept_ = best[None, :-1].copy(), best[-1:].copy()
        made.n_iter_, made.n_features_in_ = np.array([state.steps], dtype="int32"), len(best) - 1
        return Fitted(made, state.rows, state.steps, state.done)


# Least squares


@dataclass(frozen=True)
class LeastSquares:
    """The normal equations of centred columns; alpha is Ridge's."""

    alpha: float
    intercept: bool
    fold: int | None

    def partial(self, block: Held) -> tuple[Any, ...]:
        """Rows, means of [x, y] and their centred products."""
        one_thread()
        x, y = block.chosen(self.fold)
        parts = [(0, np.zeros(x.shape[1] + 1), np.zeros((x.shape[1] + 1,) * 2))]
        for piece in _pieces(x):
            both = np.column_stack([x[piece], y[piece]])
            mean = both.mean(axis=0)
            both -= mean
            parts.append((len(both), mean, both.T @ both))
        return self.added(parts)

    def added(self, found: Sequence[tuple[Any, ...]]) -> tuple[Any, ...]:
        rows, mean, products = 0, np.zeros_like(found[0][1]), np.zeros_like(found[0][2])
        for n, m, s in found:
            if n:
                delta = m - mean
                products = products + s + np.outer(delta, delta) * (rows * n / (rows + n))
                mean = mean + delta * (n / (rows + n))
                rows += n
        return rows, mean, products

    def fitted(self, sums: tuple[Any, ...], chosen: Chosen) -> Fitted:
        rows, mean, products = sums
        if not rows:
            raise no_rows(self.fold)
        if not self.intercept:
            products = products + rows * np.outer(mean, mean)
        spreads = np.sqrt(np.diag(products)[:-1] / rows)
        varies = spreads > (1e-12 * np.abs(mean[:-1]) if self.intercept else 0)  # what a constant has is rounding
        gram, right = products[:-1, :-1] + self.alpha * np.eye(len(mean) - 1), products[:-1, -1]
        weights = np.zeros(len(right))
        weights[varies] = _shortest(gram[np.ix_(varies, varies)], right[varies])
        made = chosen.made()
        made.coef_, made.n_features_in_ = weights, len(weights)
        made.intercept_ = float(mean[-1] - mean[:-1] @ weights) if self.intercept else 0.0
        return Fitted(made, rows, 1)


def _shortest(gram: Any, right: Any) -> Any:
    """Of all weights that solve the normal equations the shortest, as scikit-learn's: of collinear columns there are many.
    Columns are scaled to find which those are, so that it does not depend on their units."""
    scale = np.sqrt(np.diag(gram))
    values, vectors = np.linalg.eigh(gram / np.outer(scale, scale))
    kept = values > 64 * np.finfo("float64").eps * values[-1:]
    weights = vectors[:, kept] @ (vectors[:, kept].T @ (right / scale) / values[kept]) / scale
    free, _ = np.linalg.qr(vectors[:, ~kept] / scale[:, None])  # directions that change no prediction
    return weights - free @ (free.T @ weights)


# k-means


@dataclass(frozen=True)
class LloydState:
    centers: Any
    tolerance: float
    inertia: float = np.inf
    done: bool = False
    steps: int = 0
    rows: int = 0


@dataclass(frozen=True)
class Lloyd:
    """Lloyd's algorithm: each step sums rows by their nearest centre. It starts from scikit-learn's own k-means (k-means++, ten
    times) of a sample of up to 20,000 rows."""

    clusters: int
    tol: float
    seed: int
    fold: int | None

    def sample(self, block: Held, blocks: int) -> Any:
        x, _ = block.chosen(self.fold)
        most = max(1, 20_000 // blocks)
        if len(x) <= most:
            return np.array(x)
        rng = np.random.default_rng([self.seed, len(x)])
        return np.array(x[np.sort(rng.choice(len(x), most, replace=False))])

    def start(self, samples: Sequence[Any]) -> LloydState:
        from sklearn.cluster import KMeans

        one_thread()
        rows = np.concatenate(samples)
        if (different := len(np.unique(rows, axis=0))) < self.clusters:
            raise few_rows(self.clusters, different)
        first = KMeans(self.clusters, n_init=10, random_state=self.seed, tol=self.tol).fit(rows)
        return LloydState(first.cluster_centers_, float(self.tol * rows.var(axis=0).mean()))

    def partial(self, block: Held, state: LloydState) -> tuple[Any, ...] | None:
        """Of each cluster: sums, counts, inertia."""
        if state.done:
            return None
        one_thread()
        x, _ = block.chosen(self.fold)
        centers = state.centers
        sums, counts, inertia = np.zeros_like(centers), np.zeros(len(centers)), 0.0
        squares = (centers * centers).sum(axis=1)
        for piece in _pieces(x):
            rows = np.asarray(x[piece])
            nearest = (squares - 2 * rows @ centers.T).argmin(axis=1)
            counts += np.bincount(nearest, minlength=len(centers))
            for j in range(len(centers)):
                sums[j] += rows[nearest == j].sum(axis=0)
            inertia += float(np.square(rows - centers[nearest]).sum())
        return sums, counts, inertia

    def update(self, found: tuple[Any, ...] | None, state: LloydState) -> LloydState:
        if found is None:
            return state
        sums, counts, inertia = found
        centers = np.where(counts[:, None] > 0, sums / np.maximum(counts, 1)[:, None], state.centers)
        moved = float(np.square(centers - state.centers).sum())
        return LloydState(
            centers, state.tolerance, inertia, moved <= state.tolerance, state.steps + 1, int(counts.sum())
        )

    def fitted(self, state: LloydState, chosen: Chosen) -> Fitted:
        made = chosen.made()
        made.cluster_centers_, made.inertia_ = state.centers, state.inertia
        made.n_iter_, made.n_features_in_, made._n_threads = state.steps, state.centers.shape[1], 1
        return Fitted(made, state.rows, state.steps, state.done)


# Block by block


@dataclass(frozen=True)
class ChainState:
    estimator: Any
    classes: Any
    rows: int = 0
    waiting: Any = None
    """Rows that are too few to begin with."""


@dataclass(frozen=True)
class Chain:
    """`partial_fit` on one block after another."""

    chosen: Chosen
    fold: int | None

    def start(self, classes: Sequence[Any] | None) -> ChainState:
        if classes is not None and len(classes) < 2:
            raise one_class(classes)
        return ChainState(self.chosen.made_for(classes), None if classes is None else np.arange(len(classes)))

    def step(self, state: ChainState, block: Held) -> ChainState:
        one_thread()
        x, y = block.chosen(self.fold)
        if not len(x):
            return state
        x = np.asarray(x)
        if self.chosen.task == "clustering":
            x = x if state.waiting is None else np.concatenate([state.waiting, x])
            if not state.rows and len(x) < self.clusters(state.estimator):
                return replace(state, waiting=x)
        estimator = copy.deepcopy(state.estimator)
        given = [x] if self.chosen.task == "clustering" else [x, y]
        more = {} if state.classes is None else {"classes": state.classes}
        guarded(self.chosen.short, estimator.partial_fit, *given, **more)
        return replace(state, estimator=estimator, rows=state.rows + len(x), waiting=None)

    def clusters(self, estimator: Any) -> int:
        """So many rows at least begin it, however few there are in a partition."""
        count = estimator.get_params().get("n_clusters")
        return count if isinstance(count, int) else 0

    def fitted(self, state: ChainState) -> Fitted:
        if state.waiting is not None:
            raise few_rows(self.clusters(state.estimator), len(np.unique(state.waiting, axis=0)))
        if not state.rows:
            raise no_rows(self.fold)
        return Fitted(state.estimator, state.rows)


# On one worker


@dataclass(frozen=True)
class Only:
    """Fits where this trial was the best; else None."""

    whole: Whole
    trial: int

    def __call__(self, blocks: Sequence[Held], classes: Sequence[Any] | None, ranking: Sequence[int]) -> Fitted | None:
        return self.whole(blocks, classes) if ranking[0] == self.trial else None


@dataclass(frozen=True)
class Whole:
    """`fit` on all rows at once. On a cluster, joblib sends what the estimator does in parallel to Dask's workers."""

    chosen: Chosen
    fold: int | None

    def __call__(self, blocks: Sequence[Held], classes: Sequence[Any] | None) -> Fitted:
        one_thread()
        parts = [block.chosen(self.fold) for block in blocks]
        x = np.concatenate([each[0] for each in parts])
        y = None if parts[0][1] is None else np.concatenate([each[1] for each in parts])
        if not len(x):
            raise no_rows(self.fold)
        if classes is not None and len(classes) < 2:
            raise one_class(classes)
        seen = gaps(self.chosen, y, classes, self.fold)
        if seen is not None and y is not None:
            y = np.searchsorted(seen, y)
        estimator = self.chosen.made_for(classes)
        params = estimator.get_params()
        if "n_jobs" in params and params["n_jobs"] is None:
            estimator.set_params(n_jobs=-1)
        converged = guarded(self.chosen.short, self.fit, estimator, x, y)
        if "n_jobs" in params:
            estimator.set_params(n_jobs=params["n_jobs"])
        return Fitted(estimator, len(x), converged=converged, seen=seen)

    def fit(self, estimator: Any, x: Any, y: Any) -> bool:
        """Whether it says that it has converged, or says nothing."""
        import warnings

        from sklearn.exceptions import ConvergenceWarning

        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("ignore")
            warnings.simplefilter("always", ConvergenceWarning)
            import joblib

            how: dict[str, Any] = {"backend": "threading"}
            if self.chosen.name.startswith("sklearn.") and "n_jobs" in estimator.get_params() and on_a_cluster():
                from distributed import get_client

                how = {"backend": "dask", "client": get_client()}  # the worker takes other tasks meanwhile
            with joblib.parallel_config(**how):
                estimator.fit(x) if y is None else estimator.fit(x, y)
        return not any(issubclass(each.category, ConvergenceWarning) for each in said)


def on_a_cluster() -> bool:
    import sys

    if "distributed" not in sys.modules:
        return False
    from distributed import get_worker

    try:
        get_worker()
    except ValueError:
        return False
    return True
