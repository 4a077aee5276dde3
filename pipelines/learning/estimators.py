"""Which estimators there are, and how each runs here."""

from __future__ import annotations

import difflib
import functools
import importlib.util
import inspect
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pipelines.errors import DataError, Issue, did_you_mean
from pipelines.versions import version

Task = Literal["classification", "regression", "clustering"]
How = Literal["newton", "least_squares", "lloyd", "partial_fit", "one_worker", "dask"]
WORDS: Mapping[How, str] = {
    "newton": "block-wise (Newton steps)",
    "least_squares": "block-wise (one pass)",
    "lloyd": "block-wise (Lloyd's steps)",
    "partial_fit": "block by block (partial_fit)",
    "one_worker": "on one worker",
    "dask": "distributed (Dask arrays of all partitions)",
}


@dataclass(frozen=True)
class Known:
    """An estimator that was tried. `only`: the parameters with which it runs like that; with others it needs one worker."""

    how: How
    only: Mapping[str, tuple[Any, ...] | None] | None = None
    """Name: values, None for any."""
    missing: bool = False
    """Whether it takes missing values."""
    needs: str = ""
    becomes: str = ""
    """Of dask-ml: scikit-learn's class that takes what it learnt, to predict and to be saved."""
    distributed: bool = False
    """Whether `method: distributed` trains it on all workers."""


_BOOSTED = "data that fits one worker, or `method: distributed`"
_STANDARDIZED = "a penalty is on standardized columns and the intercept, unlike scikit-learn's"
_ANY = None
_LOGISTIC = "sklearn.linear_model.LogisticRegression"
_SOLVERS: Mapping[str | None, tuple[str, ...]] = {
    "l1": ("liblinear", "saga"),
    "elasticnet": ("saga",),
    None: ("newton-cg", "newton-cholesky", "sag", "saga", "lbfgs"),
}
"""Of its penalties those that not every solver has."""
_IGNORED = {"random_state": _ANY, "n_jobs": _ANY, "verbose": _ANY, "copy_X": _ANY}
KNOWN: Mapping[str, Known] = {
    _LOGISTIC: Known(
        "newton",
        {
            **_IGNORED,
            "C": _ANY,
            "tol": _ANY,
            "max_iter": _ANY,
            "fit_intercept": _ANY,
            "penalty": ("l2", None),
            "solver": ("lbfgs", "newton-cg", "newton-cholesky", "sag", "saga"),  # liblinear penalises the intercept
        },
        needs="two classes, no missing values",
    ),
    "sklearn.linear_model.LinearRegression": Known(
        "least_squares", {**_IGNORED, "fit_intercept": _ANY}, needs="no missing values"
    ),
    "sklearn.linear_model.Ridge": Known(
        "least_squares", {**_IGNORED, "fit_intercept": _ANY, "alpha": _ANY}, needs="no missing values"
    ),
    "sklearn.cluster.KMeans": Known(
        "lloyd",
        {**_IGNORED, "n_clusters": _ANY, "max_iter": _ANY, "tol": _ANY, "n_init": _ANY, "init": ("k-means++",)},
        needs="no target, no missing values",
    ),
    "sklearn.linear_model.SGDClassifier": Known(
        "partial_fit", needs="scaled features; `epochs` for more than one pass"
    ),
    "sklearn.linear_model.SGDRegressor": Known("partial_fit", needs="scaled features; `epochs` for more than one pass"),
    "sklearn.linear_model.Perceptron": Known("partial_fit", needs="scaled features"),
    "sklearn.naive_bayes.GaussianNB": Known("partial_fit", needs="no missing values"),
    "sklearn.naive_bayes.BernoulliNB": Known("partial_fit", needs="features of 0 and 1"),
    "sklearn.naive_bayes.MultinomialNB": Known("partial_fit", needs="counts: no negative numbers"),
    "sklearn.cluster.MiniBatchKMeans": Known("partial_fit", needs="no target, no missing values"),
    "sklearn.ensemble.RandomForestClassifier": Known(
        "one_worker", missing=True, needs="data that fits one worker; trees by joblib on Dask"
    ),
    "sklearn.ensemble.RandomForestRegressor": Known(
        "one_worker", missing=True, needs="data that fits one worker; trees by joblib on Dask"
    ),
    "sklearn.ensemble.ExtraTreesClassifier": Known(
        "one_worker", needs="data that fits one worker; trees by joblib on Dask"
    ),
    "sklearn.ensemble.ExtraTreesRegressor": Known(
        "one_worker", needs="data that fits one worker; trees by joblib on Dask"
    ),
    "sklearn.ensemble.HistGradientBoostingClassifier": Known(
        "one_worker", missing=True, needs="data that fits one worker"
    ),
    "sklearn.ensemble.HistGradientBoostingRegressor": Known(
        "one_worker", missing=True, needs="data that fits one worker"
    ),
    "sklearn.tree.DecisionTreeClassifier": Known("one_worker", missing=True, needs="data that fits one worker"),
    "sklearn.tree.DecisionTreeRegressor": Known("one_worker", missing=True, needs="data that fits one worker"),
    "sklearn.svm.SVC": Known("one_worker", needs="data that fits one worker: time grows with its square"),
    "sklearn.neighbors.KNeighborsClassifier": Known("one_worker", needs="data that fits one worker"),
    "xgboost.XGBClassifier": Known("one_worker", missing=True, needs=f"{_BOOSTED} (xgboost.dask)", distributed=True),
    "xgboost.XGBRegressor": Known("one_worker", missing=True, needs=f"{_BOOSTED} (xgboost.dask)", distributed=True),
    "lightgbm.LGBMClassifier": Known(
        "one_worker", missing=True, needs=f"{_BOOSTED} (lightgbm.dask); pip install lightgbm", distributed=True
    ),
    "lightgbm.LGBMRegressor": Known(
        "one_worker", missing=True, needs=f"{_BOOSTED} (lightgbm.dask); pip install lightgbm", distributed=True
    ),
    "dask_ml.linear_model.LogisticRegression": Known(
        "dask",
        needs=f"two classes, no missing values; `penalty: l1` at any size of table; {_STANDARDIZED}",
        becomes="sklearn.linear_model.LogisticRegression",
    ),
    "dask_ml.linear_model.LinearRegression": Known(
        "dask",
        needs=f"no missing values; `penalty: l1` at any size of table; {_STANDARDIZED}",
        becomes="sklearn.linear_model.LinearRegression",
    ),
    "dask_ml.linear_model.PoissonRegression": Known(
        "dask",
        needs=f"counts to predict, no missing values; {_STANDARDIZED}",
        becomes="sklearn.linear_model.PoissonRegressor",
    ),
    "dask_ml.cluster.KMeans": Known(
        "dask", needs="no target, no missing values; starts by k-means||", becomes="sklearn.cluster.KMeans"
    ),
}
INSTEAD: Mapping[str, str] = {
    "dask_ml.naive_bayes.GaussianNB": "sklearn.naive_bayes.GaussianNB, which learns block by block here",
    "dask_ml.cluster.SpectralClustering": "sklearn.cluster.KMeans",
    "dask_ml.wrappers.Incremental": "the estimator itself: with `partial_fit` it learns block by block",
    "dask_ml.wrappers.ParallelPostFit": "the estimator itself: `predict` works partition by partition",
    "dask_ml.ensemble.BlockwiseVotingClassifier": "sklearn.ensemble.RandomForestClassifier on a `sample`",
    "dask_ml.ensemble.BlockwiseVotingRegressor": "sklearn.ensemble.RandomForestRegressor on a `sample`",
    "dask_ml.xgboost.XGBClassifier": "xgboost.XGBClassifier",
    "dask_ml.xgboost.XGBRegressor": "xgboost.XGBRegressor",
    **{
        f"dask_ml.model_selection.{name}SearchCV": "the step `search`" for name in ("Grid", "Randomized", "Incremental")
    },
    **{
        f"dask_ml.model_selection.{name}SearchCV": "the step `search` with `halving`"
        for name in ("SuccessiveHalving", "Hyperband")
    },
}
"""Of dask-ml what is broken with today's Dask, or served better: what to take."""
_PACKAGES = {"sklearn": "scikit-learn", "xgboost": "xgboost-cpu", "lightgbm": "lightgbm"}
INSTALL = "pip install 'pipelines[ml]'"


class EstimatorError(Exception):
    """What is wrong, what to do, and of which option: `estimator`, or (`params`, name)."""

    def __init__(self, message: str, remedy: str, path: tuple[str, ...] = ("estimator",)) -> None:
        super().__init__(message)
        self.message, self.remedy, self.path = message, remedy, path


@dataclass(frozen=True)
class Chosen:
    """An estimator with its parameters, and how it runs."""

    name: str
    params: tuple[tuple[str, Any], ...]
    task: Task
    how: How
    missing: bool
    chances: bool
    """Whether it tells probabilities of classes."""
    versions: tuple[tuple[str, str], ...]

    @property
    def short(self) -> str:
        return self.name.rpartition(".")[2]

    def made(self, **more: Any) -> Any:
        return estimator_class(self.name)(**{**dict(self.params), **more})

    def made_for(self, classes: Sequence[Any] | None) -> Any:
        """With the weights of classes, which a config names by texts, by the classes' numbers."""
        weights = dict(self.params).get("class_weight")
        if classes is None or not isinstance(weights, Mapping):
            return self.made()
        numbers = {text: i for i, each in enumerate(classes) for text in _spellings(each)}
        if strange := [str(name) for name in weights if str(name) not in numbers]:
            known = f"the classes are {', '.join(map(repr, classes[:20]))}"
            raise DataError(Issue(f"`class_weight` names {strange[0]!r}, which is no class of the target", known))
        return self.made(class_weight={numbers[str(name)]: weight for name, weight in weights.items()})


def _spellings(label: Any) -> Sequence[str]:
    return (str(label), str(label).lower(), str(int(label))) if isinstance(label, bool) else (str(label),)


@functools.cache
def estimator_class(name: str) -> Any:
    module, _, cls = name.rpartition(".")
    package = module.split(".")[0]
    if package == "dask_ml" and name not in KNOWN:
        raise EstimatorError(
            f"{name} is not used here: of dask-ml what is broken with this Dask, or slower than what is here, is left out",
            f"take {INSTEAD.get(name) or _alternative(cls)}",
        )
    try:
        return getattr(importlib.import_module(module), cls)
    except ModuleNotFoundError as error:
        if error.name and error.name.split(".")[0] == package:
            if importlib.util.find_spec(package) is None:
                if package in _PACKAGES:
                    install = INSTALL if package != "lightgbm" else "pip install lightgbm"
                    raise EstimatorError(f"{_PACKAGES[package]} is not installed", install) from None
                near = did_you_mean(name, KNOWN)
                raise EstimatorError(
                    f"there is no package {package!r} for {name}", near if near.startswith("did") else "install it"
                ) from None
            near = did_you_mean(name, KNOWN)
            raise EstimatorError(f"there is no {name}", near) from None
        raise EstimatorError(f"importing {module} failed: there is no module {error.name!r}", "install it") from None
    except OSError as error:  # of a library that it is linked with, as LightGBM with libgomp
        raise EstimatorError(f"importing {module} failed: {error}", "install that library") from None
    except AttributeError:
        raise EstimatorError(f"there is no {name}", did_you_mean(name, KNOWN)) from None
    except Exception as error:
        raise EstimatorError(f"importing {module} failed: {type(error).__name__}: {error}", "mend it") from None


def _alternative(cls: str) -> str:
    return next((name for name in KNOWN if name.endswith("." + cls)), "see `pipelines steps train`")


def choose(name: str, params: Mapping[str, Any], seed: int, method: str, searched: Collection[str] = ()) -> Chosen:
    """The estimator of that dotted name. Raises EstimatorError for what can be known without data; `searched`: the parameters
    that will have other values."""
    try:
        import sklearn.base  # noqa: F401
    except ModuleNotFoundError:
        raise EstimatorError("scikit-learn is not installed", INSTALL) from None
    if "." not in name or not all(each.isidentifier() for each in name.split(".")):
        raise EstimatorError(
            f"{name!r} names no class",
            next((f"write {known}" for known in KNOWN if known.endswith("." + name)), did_you_mean(name, KNOWN)),
        )
    cls = estimator_class(name)
    if not inspect.isclass(cls) or not hasattr(cls, "fit") or not hasattr(cls, "get_params"):  # before it is called
        raise EstimatorError(f"{name} is no estimator: no class with `fit`", "see `pipelines steps train`")
    known_params, takes_more = _parameters(cls)
    for param in params:
        if param not in known_params and (not takes_more or difflib.get_close_matches(param, known_params, 1, 0.9)):
            raise EstimatorError(
                f"{name.rpartition('.')[2]} has no parameter {param!r}",
                did_you_mean(param, known_params),
                ("params", param),
            )
    given = dict(params)
    if "random_state" in known_params and "random_state" not in given:
        given["random_state"] = seed
    if name.startswith("lightgbm.") and not {"verbose", "verbosity"} & given.keys():
        given["verbosity"] = -1  # else it prints a line for each tree that stops to grow
    try:
        made: Any = cls(**given)
    except Exception as error:
        raise EstimatorError(
            f"{name} refuses its parameters: {error}", "look at its documentation", ("params",)
        ) from None
    if hasattr(made, "_parameter_constraints"):
        try:
            made._validate_params()
        except ValueError as error:
            found = next((param for param in params if f"'{param}'" in str(error)), None)
            raise EstimatorError(
                str(error).split(" Got ")[0] + f". Got {params.get(found or '')!r}",
                "look at its documentation",
                ("params", found) if found else ("params",),
            ) from None
    known = KNOWN.get(name)
    try:
        task, in_parts, missing, chances = _asked(made, known)
    except Exception as error:  # of one that is made of others, as a Pipeline
        what = f"{name} refuses its parameters: {type(error).__name__}: {error}"
        raise EstimatorError(what, "look at its documentation", ("params",)) from None
    if task is None:
        raise EstimatorError(
            f"{name} neither classifies, nor predicts numbers, nor clusters with `predict`",
            "see `pipelines steps train`",
        )
    penalty, solver = given.get("penalty", "l2"), given.get("solver", "lbfgs")
    if name == _LOGISTIC and not {"penalty", "solver"} & {*searched} and solver not in _SOLVERS.get(penalty, (solver,)):
        what = f"LogisticRegression has no penalty {penalty or 'null'} with the solver {solver}"
        raise EstimatorError(what, f"add `solver: {_SOLVERS[penalty][-1]}`", ("params", "penalty"))
    how: How = "one_worker"
    if method == "distributed" and (known is None or not (known.distributed or known.how == "dask")):
        raise EstimatorError(
            f"{name} is not trained on several workers here",
            "leave `method` out, or take one that is: see `pipelines steps train`",
            ("method",),
        )
    if known is not None and (known.how == "dask" or method == "distributed"):
        how = "dask"
    elif method != "one_worker" and known is not None:
        how = known.how
        if known.only is not None and (others := [p for p in params if not _same(known.only, p, params[p])]):
            if method == "block_wise":
                raise EstimatorError(
                    f"{name} runs block-wise only without {others[0]!r}",
                    "leave it out, or `method: one_worker`",
                    ("params", others[0]),
                )
            how = "one_worker"
    elif method == "block_wise":
        how = "partial_fit" if in_parts else "one_worker"
    if method == "block_wise" and how == "one_worker":
        raise EstimatorError(
            f"{name} cannot be fitted block by block", "leave `method` out: it runs on one worker", ("method",)
        )
    for param, value in (("early_stopping", True), ("class_weight", "balanced")):
        if how == "partial_fit" and given.get(param) == value:  # they need all rows
            raise EstimatorError(
                f"{name} runs block by block, and cannot with `{param}: {str(value).lower()}`",
                "leave it out, or add `method: one_worker`",
                ("params", param),
            )
    versions = tuple((package, version(package)) for package in packages(name))
    return Chosen(name, tuple(given.items()), task, how, missing, chances, versions)


def packages(name: str) -> tuple[str, ...]:
    """Those that an estimator computes by."""
    module = name.partition(".")[0]
    return tuple(sorted({"scikit-learn", "numpy", _PACKAGES.get(module, module)}))


def _asked(made: Any, known: Known | None) -> tuple[Task | None, bool, bool, bool]:
    """What it is for, and whether it has `partial_fit`, takes missing values, and tells probabilities."""
    import sklearn.base

    told = estimator_class(known.becomes)() if known and known.becomes else made
    task: Task | None = None
    if sklearn.base.is_classifier(told):
        task = "classification"
    elif sklearn.base.is_regressor(told):
        task = "regression"
    elif sklearn.base.is_clusterer(told) and hasattr(told, "predict"):
        task = "clustering"
    tags = getattr(made, "__sklearn_tags__", None)
    missing = known.missing if known else bool(tags and tags().input_tags.allow_nan)
    chances = task == "classification" and hasattr(told, "predict_proba")
    return task, hasattr(made, "partial_fit"), missing, chances


def _same(only: Mapping[str, Any], param: str, value: Any) -> bool:
    return param in only and (only[param] is None or value in only[param])


def _parameters(cls: Any) -> tuple[list[str], bool]:
    """Names that the class takes, and whether it takes others: XGBoost's and LightGBM's do by `**kwargs`."""
    try:
        names = list(cls().get_params())
    except Exception:  # it needs some
        names = []
    taken = inspect.signature(cls.__init__).parameters.values()
    own = [p.name for p in taken if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
    return sorted({*names, *own} - {"self"}), any(p.kind == p.VAR_KEYWORD for p in taken)
