"""Models: scikit-learn's and XGBoost's own answers, the same on every executor, nothing learnt from the test part, clear errors."""

from __future__ import annotations

import datetime as dt
import importlib
import io
import json
import re
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from sklearn import metrics as sk
from sklearn.cluster import KMeans
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.naive_bayes import GaussianNB

from pipelines import ConfigError, DataError, PipelineError, load
from pipelines.learning.estimators import KNOWN, WORDS, estimator_class
from pipelines.learning.model import load as load_bytes
from pipelines.pipeline import Pipeline
from pipelines.run import Result
from tests.conftest import ROOT

EXECUTORS = ("serial", "threads", "processes", "local")
Make = Callable[..., Pipeline]


def installed(package: str) -> Any:
    try:
        return importlib.import_module(package)
    except OSError as error:  # LightGBM needs libgomp, which is the system's
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def table() -> pl.DataFrame:
    rng = np.random.default_rng(7)
    n = 6000
    x = rng.normal(size=(n, 4))
    score = x @ [1.0, -0.7, 0.3, 0.0] + 0.5
    group = rng.integers(0, 3, n)
    x += group[:, None] * [4.0, 0.0, -4.0, 0.0]
    return pl.DataFrame(
        {
            "id": np.arange(n),
            "a": x[:, 0], "b": x[:, 1], "c": x[:, 2], "d": x[:, 3],
            "kind": pl.Series(group).cast(pl.String).replace({"0": "x", "1": "y", "2": "z"}),
            "up": rng.random(n) < 1 / (1 + np.exp(-score)),
            "size": score * 2 + rng.normal(size=n) * 0.3 + group,
        }
    )  # fmt: skip


@pytest.fixture
def learn(project: Path, table: pl.DataFrame) -> Make:
    table.write_parquet(project / "t.parquet", row_group_size=500)

    def make(steps: str, frame: pl.DataFrame | None = None, partitions: int = 4) -> Pipeline:
        if frame is not None:
            frame.write_parquet(project / "t.parquet", row_group_size=500)
        config = project / "c.yaml"
        config.write_text(f"name: test\nsteps:\n  t: {{read: {{path: t.parquet, partitions: {partitions}}}}}\n{steps}")
        return load(config)

    return make


def metrics(result: Result, step: str = "m") -> dict[str, float]:
    found: dict[str, float] = json.loads((result.folder / step / "metrics.json").read_text())["values"]
    return found


def model(made: Pipeline, step: str = "model") -> Any:
    return made.compile(step)[step].compute(scheduler="sync")


COLUMNS = "columns: [a, b, c, d]"
LOGISTIC = f"estimator: sklearn.linear_model.LogisticRegression, target: up, {COLUMNS}"


def test_logistic_regression_is_scikit_learns(learn: Make, table: pl.DataFrame) -> None:
    x, y = table.select("a", "b", "c", "d").to_numpy(), table["up"].to_numpy()
    for params in ({"C": 1.0}, {"C": 0.01}, {"C": 100.0, "fit_intercept": False}, {"penalty": None}):
        text = json.dumps(params).replace('"', "")
        found = model(learn(f"  model: {{train: {{{LOGISTIC}, params: {text}}}}}\n"))
        assert found.about["how"] == "block-wise (Newton steps)"
        assert found.about["converged"]
        wanted = LogisticRegression(**params, tol=1e-10, max_iter=1000).fit(x, y)
        assert np.allclose(found.estimator.coef_, wanted.coef_, rtol=1e-4, atol=1e-6)
        assert np.allclose(found.estimator.intercept_, wanted.intercept_, rtol=1e-4, atol=1e-6)
        loss = sk.log_loss(y, wanted.predict_proba(x))
        assert sk.log_loss(y, found.chances(x)) == pytest.approx(loss, rel=1e-6)


def test_least_squares_k_means_and_naive_bayes_are_scikit_learns(learn: Make, table: pl.DataFrame) -> None:
    x = table.select("a", "b", "c", "d").to_numpy()
    linear = model(
        learn(f"  model: {{train: {{estimator: sklearn.linear_model.LinearRegression, target: size, {COLUMNS}}}}}\n")
    )
    wanted = LinearRegression().fit(x, table["size"].to_numpy())
    assert np.allclose(linear.estimator.coef_, wanted.coef_, rtol=1e-9)
    assert linear.estimator.intercept_ == pytest.approx(wanted.intercept_, rel=1e-9)
    means = model(
        learn(f"  model: {{train: {{estimator: sklearn.cluster.KMeans, params: {{n_clusters: 3}}, {COLUMNS}}}}}\n")
    )
    own = KMeans(3, n_init=10, random_state=0).fit(x)
    assert means.estimator.inertia_ == pytest.approx(own.inertia_, rel=1e-3)
    assert sk.adjusted_rand_score(own.labels_, means.labels(x)) > 0.99
    bayes = model(
        learn(f"  model: {{train: {{estimator: sklearn.naive_bayes.GaussianNB, target: kind, {COLUMNS}}}}}\n")
    )
    alone = GaussianNB().fit(x, table["kind"].to_numpy())
    assert bayes.about["how"] == "block by block (partial_fit)"
    assert bayes.classes == ("x", "y", "z")
    assert np.allclose(bayes.estimator.theta_, alone.theta_)
    assert np.allclose(bayes.chances(x), alone.predict_proba(x), atol=1e-9)


def test_what_runs_on_one_worker_is_the_librarys_own(learn: Make, table: pl.DataFrame) -> None:
    x, y = table.select("a", "b", "c", "d").to_numpy(), table["up"].to_numpy().astype(int)
    forest = model(
        learn(
            f"  model: {{train: {{estimator: sklearn.ensemble.RandomForestClassifier, params: {{n_estimators: 10}}, target: up, {COLUMNS}}}}}\n"
        )
    )
    own = RandomForestClassifier(10, random_state=0).fit(x, y)
    assert np.allclose(forest.chances(x), own.predict_proba(x), atol=1e-12)
    from xgboost import XGBClassifier

    boosted = model(
        learn(
            f"  model: {{train: {{estimator: xgboost.XGBClassifier, params: {{n_estimators: 20}}, target: up, {COLUMNS}}}}}\n"
        )
    )
    native = XGBClassifier(n_estimators=20, random_state=0).fit(x.astype("float32"), y)
    assert np.allclose(boosted.chances(x.astype("float32")), native.predict_proba(x.astype("float32")), atol=1e-6)
    three = model(
        learn(
            f"  model: {{train: {{estimator: sklearn.linear_model.LogisticRegression, target: kind, method: one_worker, {COLUMNS}}}}}\n"
        )
    )
    assert three.chances(x).shape == (6000, 3)


def test_metrics_are_scikit_learns(learn: Make, table: pl.DataFrame) -> None:
    steps = f"  model: {{train: {{{LOGISTIC}}}}}\n  m: {{from: [t, model], evaluate: {{}}}}\n"
    steps += "  three: {from: t, train: {estimator: sklearn.naive_bayes.GaussianNB, target: kind, columns: [b, d]}}\n  m3: {from: [t, three], evaluate: {}}\n"
    steps += f"  line: {{from: t, train: {{estimator: sklearn.linear_model.Ridge, target: size, {COLUMNS}}}}}\n  mr: {{from: [t, line], evaluate: {{}}}}\n"
    made = learn(steps)
    run = made.run("threads")
    x, y = table.select("a", "b", "c", "d").to_numpy(), table["up"].to_numpy().astype(int)
    chance = model(made).chances(x)[:, 1]
    said = (chance > 0.5).astype(int)
    wanted = {
        "rows": 6000, "accuracy": sk.accuracy_score(y, said), "precision": sk.precision_score(y, said), "recall": sk.recall_score(y, said),
        "f1": sk.f1_score(y, said), "log_loss": sk.log_loss(y, chance), "brier": sk.brier_score_loss(y, chance),
        "roc_auc": sk.roc_auc_score(y, chance), "average_precision": sk.average_precision_score(y, chance),
        "balanced_accuracy": sk.balanced_accuracy_score(y, said), "base_rate": max(y.mean(), 1 - y.mean()),
    }  # fmt: skip
    found = metrics(run)
    for name, value in wanted.items():
        assert found[name] == pytest.approx(value, rel=1e-9), name
    kinds, few = table["kind"].to_numpy(), table.select("b", "d").to_numpy()
    of_three = model(made, "three")
    labels = np.array(of_three.classes)[of_three.labels(few)]
    found = metrics(run, "m3")
    for name, value in {
        "accuracy": sk.accuracy_score(kinds, labels), "f1": sk.f1_score(kinds, labels, average="macro", zero_division=0),
        "precision": sk.precision_score(kinds, labels, average="macro", zero_division=0), "log_loss": sk.log_loss(kinds, of_three.chances(few)),
    }.items():  # fmt: skip
        assert found[name] == pytest.approx(value, rel=1e-9), name
    size = table["size"].to_numpy()
    predicted = model(made, "line").labels(x)
    found = metrics(run, "mr")
    for name, value in {
        "r2": sk.r2_score(size, predicted), "mean_absolute_error": sk.mean_absolute_error(size, predicted),
        "mean_squared_error": sk.mean_squared_error(size, predicted), "explained_variance": sk.explained_variance_score(size, predicted),
        "max_error": sk.max_error(size, predicted),
    }.items():  # fmt: skip
        assert found[name] == pytest.approx(value, rel=1e-9), name
    plots = {path.stem for path in (run.folder / "m").glob("*.svg")}
    assert plots == {"confusion", "roc", "precision_recall", "importance"}
    assert {path.stem for path in (run.folder / "mr").glob("*.svg")} == {"residuals", "importance"}


ALL = """  parts: {split: {test: 0.25, by: id, seed: 3}}
  seen: {features: {scale: [a, b], keep: [c], bins: {d: 4}, one_hot: kind, ordinal: kind}}
  logistic: {from: [parts, seen], train: {estimator: sklearn.linear_model.LogisticRegression, target: up}}
  m1: {from: [parts, logistic], evaluate: {}}
  groups: {from: [parts, seen], train: {estimator: sklearn.cluster.KMeans, params: {n_clusters: 3}}}
  clustered: {from: [parts, groups], predict: {column: cluster}}
  counts: {aggregate: {by: [cluster], n: count(*), m: avg(a)}}
  boosted: {from: [parts, seen], train: {estimator: xgboost.XGBRegressor, target: size, params: {n_estimators: 10}}}
  m2: {from: [parts, boosted], evaluate: {}}
  slow: {from: [parts, seen], train: {estimator: sklearn.linear_model.SGDClassifier, target: up, epochs: 3, params: {loss: log_loss}}}
  m3: {from: [parts, slow], evaluate: {}}
  forest: {from: [parts, seen], search: {estimator: sklearn.ensemble.RandomForestClassifier, target: up, params: {n_estimators: 8}, grid: {max_depth: [2, 5]}, folds: 2}}
  m4: {from: [parts, forest], evaluate: {}}
  tried: {from: [parts, seen], cross_validate: {estimator: sklearn.linear_model.LogisticRegression, target: up, folds: 3}}
"""


def test_every_kind_of_step_gives_the_same_on_every_executor(learn: Make) -> None:
    answers = list[Any]()
    for executor in EXECUTORS:
        run = learn(ALL).run(executor)
        found = [(run.folder / step / "metrics.json").read_bytes() for step in ("m1", "m2", "m3", "m4", "tried")]
        answers.append((found, run.outputs["counts"].head.rows()))
    for executor, answer in zip(EXECUTORS[1:], answers[1:], strict=True):
        assert answer == answers[0], executor


def test_split_is_the_same_for_every_partitioning_and_keeps_groups_together(learn: Make, table: pl.DataFrame) -> None:
    steps = "  parts: {split: {test: 0.2, validation: 0.1, by: id, seed: 5}}\n  rows: {select: [id, part]}\n  w: {write: {path: '${run}/p.parquet'}}\n"
    found = list[Any]()
    for partitions, executor in ((1, "serial"), (3, "threads"), (12, "local")):
        path = learn(steps, partitions=partitions).run(executor).outputs["w"].path
        assert path is not None
        found.append(pl.read_parquet(path))
    assert found[0].equals(found[1])
    assert found[0].equals(found[2])
    shares = found[0]["part"].cast(pl.String).value_counts(normalize=True)
    share = dict(shares.iter_rows())
    assert share["test"] == pytest.approx(0.2, abs=0.02)
    assert share["validation"] == pytest.approx(0.1, abs=0.02)
    grouped = learn(
        "  parts: {split: {test: 0.5, by: kind, seed: 1}}\n  n: {aggregate: {by: [kind, part], n: count(*)}}\n"
    ).run("threads")
    assert grouped.outputs["n"].head["kind"].to_list() == ["x", "y", "z"]
    timed = learn(
        "  parts: {split: {time: id, test_from: 4000}}\n  n: {aggregate: {by: [part], low: min(id), high: max(id)}}\n"
    ).run("threads")
    assert sorted(timed.outputs["n"].head.rows()) == [("test", 4000, 5999), ("train", 0, 3999)]


def test_nothing_is_learnt_from_the_test_part(learn: Make, table: pl.DataFrame) -> None:
    """The test part is poisoned: all that is fitted stays the same, and what looks at the test part changes."""
    steps = ALL.replace("by: id, seed: 3", "by: id, seed: 3").replace(
        "split: {test: 0.25, by: id, seed: 3}", "split: {time: id, test_from: 4500}"
    )
    steps += "  timed: {from: [parts, seen], cross_validate: {estimator: sklearn.linear_model.LogisticRegression, target: up, time: id, folds: 3}}\n"
    fitted = ("logistic", "groups", "boosted", "slow", "forest")

    def of(frame: pl.DataFrame) -> tuple[list[Any], list[Any], Any]:
        made = learn(steps, frame)
        models = [model(made, step) for step in fitted]
        inside = [json.dumps(each.manifest(), default=str, sort_keys=True) for each in models]
        x = np.random.default_rng(0).normal(size=(50, len(models[0].names)))
        said = [
            each.labels(x.astype("float32") if "xgboost" in each.about["estimator"] else x).tolist() for each in models
        ]
        run = made.run("threads")
        tried = [metrics(run, step) for step in ("tried", "timed")]
        identity = [
            [text.replace(each.about["identity"], "") for text in (one,)]
            for one, each in zip(inside, models, strict=True)
        ]
        return identity + said + tried, [metrics(run, "m1")], None

    late = pl.col("id") >= 4500
    poisoned = table.with_columns(
        pl.when(late).then(pl.col(name) * 1e6 + 17).otherwise(pl.col(name)).alias(name)
        for name in ("a", "b", "c", "d", "size")
    ).with_columns(
        pl.when(late).then(~pl.col("up")).otherwise(pl.col("up")).alias("up"),
        pl.when(late).then(pl.lit("x")).otherwise(pl.col("kind")).alias("kind"),
    )
    clean, clean_test, _ = of(table)
    dirty, dirty_test, _ = of(poisoned)
    assert clean == dirty
    assert clean_test != dirty_test


def test_folds_refit_features_and_look_only_back_in_time(learn: Make, table: pl.DataFrame) -> None:
    """A feature that is good in one fold alone: fitted without it, its category is unknown there."""
    steps = "  seen: {features: {one_hot: kind}}\n  m: {from: [t, seen], cross_validate: {estimator: sklearn.naive_bayes.BernoulliNB, target: up, by: kind, folds: 2}}\n"
    poisoned = table.with_columns(pl.col("up") & (pl.col("kind") == "x"))
    found = metrics(learn(steps, poisoned).run("threads"))
    assert 0 < found["accuracy"] < 1
    steps = f"  m: {{cross_validate: {{{LOGISTIC}, time: id, folds: 3}}}}\n"
    found = metrics(learn(steps, table).run("threads"))
    x, y = table.select("a", "b", "c", "d").to_numpy(), table["up"].to_numpy()
    losses = []
    for k in (1, 2, 3):
        fit = LogisticRegression(tol=1e-10, max_iter=1000).fit(x[: 1500 * k], y[: 1500 * k])
        losses.append(sk.log_loss(y[1500 * k : 1500 * (k + 1)], fit.predict_proba(x[1500 * k : 1500 * (k + 1)])))
    assert found["log_loss"] == pytest.approx(np.mean(losses), rel=2e-3)


def test_a_metric_that_no_trial_has_is_an_error(learn: Make) -> None:
    search = "  s: {search: {estimator: sklearn.%s, target: %s, columns: [a, b], grid: {%s}, metric: %s, folds: 2}}\n"
    with pytest.raises(ConfigError, match="roc_auc needs chances, and LinearSVC tells none"):
        learn(search % ("svm.LinearSVC", "up", "C: [0.1, 1.0]", "roc_auc")).plan()
    three = learn(search % ("tree.DecisionTreeClassifier", "kind", "max_depth: [1, 2]", "roc_auc"))
    with pytest.raises(DataError, match=r"c.yaml:4:\d+: no trial has a roc_auc: it is for two classes"):
        three.run("threads")


def test_search_finds_what_scikit_learn_finds(learn: Make, table: pl.DataFrame) -> None:
    text = "{estimator: sklearn.tree.DecisionTreeClassifier, target: up, columns: [a, b, c, d], grid: {max_depth: [1, 3, 5, 12], min_samples_leaf: [1, 40]}, folds: 3%s}"
    grid = model(learn(f"  model: {{search: {text % ''}}}\n"))
    scores = [trial["log_loss"] for trial in grid.about["trials"]]
    assert len(scores) == 8
    assert scores[grid.about["trials"].index({**grid.about["best"], "log_loss": min(scores)})] == min(scores)
    assert grid.about["best"]["max_depth"] in (3, 5)
    assert grid.estimator.get_params()["max_depth"] == grid.about["best"]["max_depth"]
    few = model(learn(f"  model: {{search: {text % ', trials: 3, seed: 1'}}}\n"))
    assert len(few.about["trials"]) == 3
    halved = model(learn(f"  model: {{search: {text % ', halving: 3'}}}\n"))
    known = [trial for trial in halved.about["trials"] if trial["log_loss"] is not None]
    assert 1 <= len(known) < 8
    assert halved.about["best"]["max_depth"] in (3, 5)


def test_a_saved_model_predicts_the_same_and_a_wrong_schema_names_the_column(
    learn: Make, project: Path, table: pl.DataFrame
) -> None:
    for estimator in (
        "sklearn.linear_model.LogisticRegression",
        "sklearn.ensemble.RandomForestClassifier",
        "xgboost.XGBClassifier",
    ):
        steps = f"  seen: {{features: {{scale: [a, b, c], one_hot: kind}}}}\n  model: {{from: [t, seen], train: {{estimator: {estimator}, target: up}}}}\n"
        steps += "  m: {from: [t, model], evaluate: {}}\n  s: {from: [model, m], save_model: {path: a.model, overwrite: true}}\n"
        steps += "  p: {from: [t, model], predict: {probability: chance}}\n  w: {write: {path: '${run}/p.parquet'}}\n"
        before = learn(steps, table).run("threads")
        after = learn(
            "  model: {load_model: a.model}\n  p: {from: [t, model], predict: {probability: chance}}\n  w: {write: {path: '${run}/p.parquet'}}\n"
        ).run("local")
        paths = [run.outputs["w"].path for run in (before, after)]
        assert paths[0] is not None
        assert paths[1] is not None
        assert pl.read_parquet(paths[0]).equals(pl.read_parquet(paths[1]))
        manifest = model(learn("  model: {load_model: a.model}\n")).manifest()
        assert manifest["about"]["estimator"] == estimator
        assert manifest["metrics"]["accuracy"] == metrics(before)["accuracy"]
        assert manifest["about"]["versions"]["scikit-learn"]
    wrong = "  less: {select: [a, b, kind]}\n  model: {load_model: a.model}\n  p: {from: [less, model], predict: {}}\n"
    with pytest.raises(ConfigError, match="the model needs the column 'c' \\(float64\\), and the table has none"):
        learn(wrong).plan()
    text = "  less: {derive: {kind: 3}}\n  model: {load_model: a.model}\n  p: {from: [less, model], predict: {}}\n"
    with pytest.raises(ConfigError, match="trained on 'kind' as string, here it is int64"):
        learn(text).plan()
    (project / "b.model").write_bytes(b"no zip")
    with pytest.raises(ConfigError, match=r"c.yaml:4:\d+: b.model is no model that `save_model` wrote"):
        learn("  model: {load_model: b.model}\n").plan()


@pytest.mark.parametrize("estimator", ["linear_model.LogisticRegression", "ensemble.RandomForestClassifier", "svm.SVC"])
def test_a_models_file_has_the_same_bytes_wherever_it_was_trained(learn: Make, project: Path, estimator: str) -> None:
    """What is computed from a loaded model is kept under the file's content."""
    found = set[bytes]()
    for executor in ("serial", "threads", "local"):
        steps = f"  model: {{train: {{estimator: sklearn.{estimator}, target: up, {COLUMNS}, params: {{random_state: 1}}}}}}\n"
        learn(steps + "  s: {save_model: {path: same.model, overwrite: true}}\n").run(executor)
        found.add((project / "same.model").read_bytes())
    assert len(found) == 1


@pytest.mark.parametrize("kind", [pl.Categorical(), pl.Enum(["x", "y", "z"]), pl.String()])
def test_texts_from_a_fixed_choice_are_texts_to_a_saved_model(
    learn: Make, table: pl.DataFrame, kind: pl.DataType
) -> None:
    """Their columns are read, also where only the prediction is asked for, and named where they are missing."""
    chosen = table.with_columns(pl.col("kind").cast(kind))
    trained = learn(
        "  f: {features: {one_hot: [kind], scale: [a]}}\n"
        "  model: {from: [t, f], train: {estimator: sklearn.linear_model.LogisticRegression, target: up}}\n"
        "  s: {from: model, save_model: {path: k.model, overwrite: true}}\n"
        "  p: {from: [t, model], predict: {}}\n  only: {select: [prediction]}\n",
        chosen,
    )
    trained.run("threads", to="s")
    expected = trained.compile("only")["only"].compute(scheduler="sync")
    again = "  model: {load_model: k.model}\n  p: {from: [t, model], predict: {}}\n  only: {select: [prediction]}\n"
    for given in (chosen, table):
        assert learn(again, given).compile("only")["only"].compute(scheduler="sync").equals(expected)
    with pytest.raises(ConfigError, match="the model needs the column 'kind' \\(string\\), and the table has none"):
        learn(again, table.drop("kind")).plan()


BAD_CONFIGS = {
    "sklearn.linear_model.LogisticRegresion, target: up": "did you mean 'sklearn.linear_model.LogisticRegression'?",
    "LogisticRegression, target: up": "write sklearn.linear_model.LogisticRegression",
    "lightgbm.LGBMClassifier, target: up": "lightgbm is not installed",
    "catboost.CatBoostClassifier, target: up": "there is no package 'catboost'",
    "dask_ml.naive_bayes.GaussianNB, target: up": "take sklearn.naive_bayes.GaussianNB, which learns block by block here",
    "dask_ml.model_selection.HyperbandSearchCV, target: up": "take the step `search` with `halving`",
    "dask_ml.linear_model.LogisticRegresion, target: up": "is not used here",
    "sklearn.svm.SVC, target: up, method: distributed": "is not trained on several workers here",
    "sklearn.linear_model.LogisticRegression, target: upp": "did you mean 'up'?",
    "sklearn.linear_model.LogisticRegression": "`target` is missing",
    "sklearn.linear_model.LogisticRegression, target: size": "predicts classes",
    "sklearn.linear_model.LinearRegression, target: kind": "predicts numbers",
    "'sklearn.linear_model.LogisticRegression', target: up, params: {Cc: 1}": "has no parameter 'Cc'",
    "'sklearn.linear_model.LogisticRegression', target: up, params: {C: -1}": "The 'C' parameter",
    "'xgboost.XGBClassifier', target: up, params: {n_estimator: 1}": "did you mean 'n_estimators'?",
    "'sklearn.cluster.KMeans', target: up": "clusters: it has no target",
    "'sklearn.preprocessing.StandardScaler', target: up": "neither classifies",
    "'sklearn.svm.SVC', target: up, method: block_wise": "cannot be fitted block by block",
    "'sklearn.svm.SVC', target: up, columns: [kind]": "'kind' is string, not a number",
    "'sklearn.svm.SVC', target: up, part: train": "the table has no column 'part' of parts",
}


@pytest.mark.parametrize("estimator", BAD_CONFIGS)
def test_what_can_be_known_is_an_error_at_check_time(
    learn: Make, estimator: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "is not installed" in BAD_CONFIGS[estimator]:
        monkeypatch.setitem(sys.modules, "lightgbm", None)
        estimator_class.cache_clear()
    with pytest.raises(ConfigError) as caught:
        learn(f"  model: {{train: {{estimator: {estimator}}}}}\n").plan()
    assert BAD_CONFIGS[estimator] in str(caught.value)
    assert "c.yaml:4:" in str(caught.value)


BAD_DATA = {
    "nan": (pl.lit(None, dtype=pl.Float64).alias("a"), "takes no missing values: 'a' is missing (NULL or NaN) in"),
    "infinite": (pl.lit(float("inf")).alias("a"), "'a' is infinite in"),
    "one class": (pl.lit(True).alias("up"), "the target has 1: True"),
    "target": (pl.lit(None, dtype=pl.Boolean).alias("up"), "the target 'up' is missing in"),
    "three classes": (
        pl.col("kind").alias("up"),
        "runs block-wise for two classes, and the target has 3: 'x', 'y', 'z'",
    ),
    "constant": (pl.lit(1.5).alias("a"), "the column 'a' is constant (1.5)"),
}


@pytest.mark.parametrize("case", BAD_DATA)
@pytest.mark.parametrize("executor", ["serial", "local"])
def test_bad_data_is_one_clear_error(learn: Make, table: pl.DataFrame, case: str, executor: str) -> None:
    change, said = BAD_DATA[case]
    text = "  seen: {features: {scale: [a, b]}}\n  model: {from: [t, seen], train: {estimator: sklearn.linear_model.LogisticRegression, target: up}}\n"
    if case in ("nan", "infinite"):
        text = f"  model: {{train: {{{LOGISTIC}}}}}\n"
    with pytest.raises(DataError) as caught:
        learn(text, table.with_columns(change)).run(executor)
    assert said in str(caught.value)


def test_an_unknown_label_and_what_does_not_fit_one_worker(
    learn: Make, table: pl.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = "  few: {filter: kind <> 'z'}\n  model: {from: few, train: {estimator: sklearn.naive_bayes.GaussianNB, target: kind, columns: [a, b]}}\n  m: {from: [t, model], evaluate: {}}\n"
    with pytest.raises(DataError, match="the label 'z' of 'kind' was not there when the model was trained"):
        learn(steps, table).run("threads")
    monkeypatch.setattr("pipelines.stages._SMALL", 0)
    text = f"  model: {{train: {{estimator: sklearn.ensemble.RandomForestClassifier, target: up, {COLUMNS}}}}}\nexecutor: {{kind: local, memory_limit: 1MiB}}\n"
    with pytest.raises(PipelineError, match="trained on one worker, which needs about"):
        learn(text, pl.concat([table] * 20)).run()


def test_missing_values_where_the_estimator_takes_them_and_imputed(learn: Make, table: pl.DataFrame) -> None:
    holes = table.with_columns(pl.when(pl.col("id") % 3 == 0).then(None).otherwise(pl.col("a")).alias("a"))
    found = model(
        learn(
            f"  model: {{train: {{estimator: xgboost.XGBClassifier, target: up, params: {{n_estimators: 3}}, {COLUMNS}}}}}\n",
            holes,
        )
    )
    assert found.about["rows"] == 6000
    steps = "  seen: {features: {scale: [a, b], impute: true}}\n  model: {from: [t, seen], train: {estimator: sklearn.linear_model.LogisticRegression, target: up}}\n"
    found = model(learn(steps, holes))
    kept = holes["a"].drop_nulls().to_numpy()
    assert found.features.means["a"] == pytest.approx(kept.mean())
    assert found.features.spreads["a"] == pytest.approx(kept.std())


def test_models_and_metrics_are_kept_on_disk_and_found_again(
    learn: Make, table: pl.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = "  seen: {features: {scale: [a, b], one_hot: kind}, checkpoint: disk}\n"
    steps += "  model: {from: [t, seen], train: {estimator: sklearn.linear_model.LogisticRegression, target: up}, checkpoint: disk}\n"
    steps += (
        "  m: {from: [t, model], evaluate: {}, checkpoint: disk}\n  x: {from: t, to_array: [a, b], checkpoint: disk}\n"
    )
    steps += "  s: {standardize: {}, checkpoint: disk}\n  r: {reduce: {values: {m: mean, s: std}}}\n"
    first = learn(steps).run("threads")
    for what in ("classified", "final"):
        monkeypatch.setattr(f"pipelines.learning.scores.{what}", None)  # would fail, were it called
    monkeypatch.setattr("pipelines.learning.fitting.Newton.update", None)
    again = learn(steps).run("threads")
    other = learn(steps + "  p: {from: [t, model], predict: {}}\n").run("local")
    for step in ("m", "r"):
        for file in (first.folder / step).iterdir():
            assert file.read_bytes() == (again.folder / step / file.name).read_bytes(), file
            assert file.read_bytes() == (other.folder / step / file.name).read_bytes(), file
    record = json.loads((again.folder / "record.json").read_text())
    assert record["checkpoints"]["model"]["did"].startswith(("reused", "not needed"))
    assert record["outputs"]["m"]["metrics"]["accuracy"] == metrics(first)["accuracy"]


@pytest.mark.parametrize("name", KNOWN)
def test_every_estimator_that_is_listed_trains_predicts_and_is_saved(
    learn: Make, table: pl.DataFrame, name: str
) -> None:
    known, short = KNOWN[name], name.rpartition(".")[2]
    installed(name.partition(".")[0])
    target = (
        "target: n, "
        if short == "PoissonRegression"
        else ""
        if "KMeans" in short
        else "target: size, "
        if short.endswith("Regressor") or short in ("LinearRegression", "Ridge")
        else "target: up, "
    )
    few = (
        table.head(1200)
        .with_columns(pl.col("a", "b").abs())
        .with_columns(a=pl.col("a") > pl.col("b"), up=pl.col("a") > pl.col("b"))
        .with_columns(pl.col("a").cast(pl.Float64), n=(pl.col("b") * 3).cast(pl.Int64))
    )
    made = learn(f"  model: {{train: {{estimator: {name}, {target}columns: [a, b]}}}}\n", few)
    assert made.plan().nodes["model"].gives.how == WORDS[known.how]  # type: ignore[attr-defined]
    trained = model(made)
    said = trained.labels(trained.matrix(few))
    assert len(np.unique(said)) > 1
    again = load_bytes(io.BytesIO(trained.saved()))
    assert np.array_equal(again.labels(again.matrix(few)), said)


@pytest.mark.parametrize(
    "name", ["train_direction", "train_boosted", "search_forest", "cluster_stocks", "score", "monte_carlo_var"]
)
def test_shipped_configs_run(project: Path, name: str) -> None:
    config = project / f"{name}.yaml"
    config.write_text((ROOT / f"configs/{name}.yaml").read_text())
    params: dict[str, Any] = (
        {"prices": str(ROOT / "data/stocks/*.csv")} if name != "monte_carlo_var" else {"paths": 200_000}
    )
    params |= {"model": str(ROOT / "data/models/direction.model")} if name == "score" else {}
    run = load(config, params).run("threads")
    if name in ("train_direction", "train_boosted", "search_forest"):
        found = metrics(run, "metrics")
        assert found["rows"] == 7417
        assert 0.48 < found["accuracy"] < 0.6  # nobody knows tomorrow's direction
        assert 0.5 < found["base_rate"] < 0.54
        assert next(run.folder.glob("*.model")).stat().st_size > 1000
    if name == "score":
        assert run.outputs["result"].rows == 7
        assert run.outputs["result"].head["chance"].is_between(0.3, 0.7).all()
    if name == "cluster_stocks":
        assert run.outputs["clusters"].rows == 3


LAGGED = """  parts: {split: {time: id, test_from: 4500}}
  seen: {features: {scale: [a], keep: [b], lags: {a: [1, 3], c: 2}, by: kind, order_by: id, impute: true}}
  model: {from: [parts, seen], train: {estimator: sklearn.linear_model.LogisticRegression, target: up}}
  m: {from: [parts, model], evaluate: {}}
  p: {from: [parts, model], predict: {probability: chance}}
  w: {write: {path: '${run}/p.parquet'}}
  tried: {from: [parts, seen], cross_validate: {estimator: sklearn.linear_model.LogisticRegression, target: up, time: id, folds: 2}}
""".replace("c: 2", "c: [2]")


def test_lags_are_those_of_the_group_before_and_the_same_everywhere(
    learn: Make, table: pl.DataFrame, project: Path
) -> None:
    shuffled = table.sample(fraction=1, shuffle=True, seed=3)
    lagged = shuffled.sort("id").with_columns(
        a_lag1=pl.col("a").shift(1).over("kind"),
        a_lag3=pl.col("a").shift(3).over("kind"),
        c_lag2=pl.col("c").shift(2).over("kind"),
    )
    train = lagged.filter(pl.col("id") < 4500)
    names = ["b", "c_lag2", "a", "a_lag1", "a_lag3"]
    means = {name: train[name].mean() for name in names}
    spreads = {name: train[name].std(ddof=0) for name in ("a", "a_lag1", "a_lag3")}
    x = np.column_stack(
        [
            (lagged[name].fill_null(means[name]).to_numpy() - (means[name] if name in spreads else 0))
            / spreads.get(name, 1)  # type: ignore[operator]
            for name in names
        ]
    )
    late = (lagged["id"] >= 4500).to_numpy()
    y = lagged["up"].to_numpy()
    wanted = LogisticRegression(tol=1e-10, max_iter=1000).fit(x[~late], y[~late])
    answers = list[Any]()
    for executor, partitions in (("serial", 1), ("threads", 5), ("processes", 4), ("local", 3)):
        made = learn(LAGGED, shuffled, partitions)
        run = made.run(executor)
        path = run.outputs["w"].path
        assert path is not None
        found = pl.read_parquet(path)
        assert found.columns == [*shuffled.columns, "part", "prediction", "chance"]
        assert found["id"].equals(shuffled["id"])  # the table's own order
        assert np.allclose(found.sort("id")["chance"].to_numpy(), wanted.predict_proba(x)[:, 1], atol=1e-6)
        answers.append(metrics(run))
    assert answers[0]["log_loss"] == pytest.approx(sk.log_loss(y[late], wanted.predict_proba(x[late])[:, 1]), rel=1e-6)
    assert all(answer == pytest.approx(answers[0], rel=1e-9) for answer in answers)
    trained = model(made)
    assert trained.names == tuple(names)
    assert np.allclose(trained.estimator.coef_, wanted.coef_, rtol=1e-4)
    # poisoned: what is later, and another group, change nothing that is fitted of the others
    poisoned = shuffled.with_columns(a=pl.when(pl.col("id") >= 4500).then(1e6).otherwise("a"))
    other = model(learn(LAGGED, poisoned))
    assert np.allclose(other.estimator.coef_, trained.estimator.coef_, rtol=1e-12)
    assert other.features.plain() == model(learn(LAGGED, shuffled)).features.plain()
    # the model takes its lags along
    learn(LAGGED + "  s: {from: model, save_model: {path: lagged.model, overwrite: true}}\n", shuffled).run(
        "threads", to="s"
    )
    steps = "  model: {load_model: lagged.model}\n  p: {from: [t, model], predict: {probability: chance}}\n  w: {write: {path: '${run}/p.parquet'}}\n"
    again = learn(steps, shuffled, 2).run("threads").outputs["w"].path
    assert again is not None
    assert pl.read_parquet(again)["chance"].equals(found["chance"])
    with pytest.raises(ConfigError, match="the lags need the column 'kind' \\(string\\), and the table has none"):
        learn(
            "  less: {select: {drop: [kind]}}\n  model: {load_model: lagged.model}\n  p: {from: [less, model], predict: {}}\n"
        ).plan()


def test_a_row_sees_no_lag_of_a_later_part(learn: Make, table: pl.DataFrame) -> None:
    """Whatever the split: the test part's numbers change nothing that is fitted, and its own lags are those of all rows."""
    steps = LAGGED.split("  m:")[0].replace("time: id, test_from: 4500", "test: 0.3, validation: 0.2, by: id")
    steps += "  w: {from: parts, write: {path: '${run}/p.parquet'}}\n"
    run = learn(steps, table).run("threads", to="w")
    path = run.outputs["w"].path
    assert path is not None
    part = pl.read_parquet(path).select("id", "part")
    poisoned = table.join(part, on="id", maintain_order="left").with_columns(
        a=pl.when(pl.col("part") == "test").then(1e6).otherwise("a")
    )
    fitted, other = model(learn(steps, table)), model(learn(steps, poisoned.select(table.columns)))
    assert other.features.plain() == fitted.features.plain()
    assert np.array_equal(other.estimator.coef_, fitted.estimator.coef_)


@pytest.mark.parametrize("folds", ["", ", by: id"])
def test_folds_that_cut_the_lags_groups_are_refused(learn: Make, table: pl.DataFrame, folds: str) -> None:
    with pytest.raises(
        ConfigError, match=r"learnt from lags that are rows of the fold(.|\n)*by: \[kind\], or time: id"
    ):
        learn(LAGGED.replace("time: id, folds: 2", f"folds: 2{folds}"), table).plan()
    learn(LAGGED.replace("time: id, folds: 2", "folds: 2, by: kind"), table).plan()


def test_a_groups_lags_do_not_see_other_groups(learn: Make, table: pl.DataFrame) -> None:
    """Another group's numbers change: this group's predictions stay."""
    steps = LAGGED.replace("${run}/p.parquet", "${run}/p.parquet").replace("impute: true", "impute: true")
    made = learn(steps, table)
    made.run("threads", to="w")
    learn(steps + "  s: {from: model, save_model: {path: g.model, overwrite: true}}\n", table).run("threads", to="s")
    predict = "  model: {load_model: g.model}\n  p: {from: [t, model], predict: {probability: chance}}\n  w: {write: {path: '${run}/p.parquet'}}\n"
    found = list[pl.DataFrame]()
    for frame in (table, table.with_columns(a=pl.when(pl.col("kind") == "x").then(-7.5).otherwise("a"))):
        path = learn(predict, frame).run("threads").outputs["w"].path
        assert path is not None
        found.append(pl.read_parquet(path))
    same = found[0]["chance"] == found[1]["chance"]
    assert same.filter(table["kind"] != "x").all()
    assert not same.filter(table["kind"] == "x").any()


BAD_LAGS = {
    "lags: {aa: [1]}, order_by: id": "did you mean 'a'?",
    "lags: {kind: [1]}, order_by: id": "'kind' is string, not a number",
    "lags: {a: [0]}, order_by: id": "a lag is of an earlier row",
    "lags: {a: [1, 1]}, order_by: id": "1 stands here twice",
    "lags: {a: [1]}": "lags need an order",
    "lags: {a: [1]}, order_by: idd": "did you mean 'id'?",
    "lags: {a: [1]}, by: kinds, order_by: id": "did you mean 'kind'?",
    "scale: [a], by: kind": "this is for `lags`, and there are none",
}


@pytest.mark.parametrize("options", BAD_LAGS)
def test_bad_lags_are_issues(learn: Make, options: str) -> None:
    with pytest.raises(ConfigError) as caught:
        learn(f"  seen: {{features: {{{options}}}}}\n").plan()
    assert BAD_LAGS[options] in str(caught.value)
    assert "c.yaml:4:" in str(caught.value)
    assert len(caught.value.issues) == 1


def test_a_lag_that_is_missing_is_told(learn: Make, table: pl.DataFrame) -> None:
    with pytest.raises(DataError, match="'a_lag3' is missing"):
        learn(LAGGED.replace(", impute: true", "").replace("a: [1, 3], c: [2]", "a: [3]")).run("threads", to="model")
    with pytest.raises(ConfigError, match="has a column 'a_lag1' already"):
        learn(LAGGED.replace("  seen:", "  parts2: {derive: {a_lag1: a}}\n  seen:")).plan()


STOPPED = {
    f"{LOGISTIC}, params: {{max_iter: 2}}": "LogisticRegression has not converged in 2 steps",
    f"{LOGISTIC}, params: {{max_iter: 2}}, method: one_worker": "LogisticRegression has not converged",
    f"estimator: sklearn.cluster.KMeans, params: {{n_clusters: 9, max_iter: 1, tol: 0}}, {COLUMNS}": "KMeans has not converged in 1 steps",
    f"{LOGISTIC}": "",
    f"{LOGISTIC}, method: one_worker": "",
}


@pytest.mark.parametrize("options", STOPPED)
@pytest.mark.parametrize("executor", ["threads", "local"])
def test_a_fit_that_was_stopped_early_is_told(learn: Make, options: str, executor: str) -> None:
    said = list[str]()
    run = learn(f"  model: {{train: {{{options}}}}}\n").run(executor, say=said.append)
    record = json.loads((run.folder / "record.json").read_text())
    if not STOPPED[options]:
        assert record["warnings"] == []
        return
    [warning] = record["warnings"]
    assert warning.startswith(f"model: {STOPPED[options]}")
    assert "raise `max_iter`" in warning
    assert warning in said
    assert ("converged", "no") in run.outputs["model"].head.rows()


def test_more_steps_than_usual_are_done_when_asked_for(learn: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.learning.fitting._NEWTON", 2)
    few = model(learn(f"  model: {{train: {{{LOGISTIC}}}}}\n"))
    assert not few.about["converged"]
    more = model(learn(f"  model: {{train: {{{LOGISTIC}, params: {{max_iter: 40}}}}}}\n"))
    assert more.about["converged"]
    assert 2 < more.about["iterations"] < 40


def test_parts_of_dates_are_polars_own(learn: Make) -> None:
    import datetime

    dates = pl.datetime_range(datetime.datetime(2023, 12, 25, 3), datetime.datetime(2024, 3, 5), "7h45m", eager=True)
    frame = pl.DataFrame({"at": dates, "day": dates.dt.date(), "n": range(len(dates))})
    parts = "[year, quarter, month, week, day, weekday, ordinal_day, hour, minute]"
    steps = f"  seen: {{features: {{date_parts: {{at: {parts}, day: [weekday, week]}}}}}}\n"
    fitted = learn(steps, frame).compile("seen")["seen"].compute(scheduler="sync")
    found = fitted.apply(frame)
    python = [d.astimezone(datetime.UTC).replace(tzinfo=None) if d.tzinfo else d for d in dates.to_list()]
    wanted = np.array(
        [
            (d.year, (d.month + 2) // 3, d.month, d.isocalendar()[1], d.day, d.isoweekday(), d.timetuple().tm_yday, d.hour, d.minute,
             d.isoweekday(), d.isocalendar()[1])
            for d in python
        ]
    )  # fmt: skip
    assert np.array_equal(found, wanted)
    assert fitted.names[0] == "at_year"
    assert fitted.names[-1] == "day_week"
    bad = "  seen: {features: {date_parts: {day: [yearr], n: [day]}}}\n"
    with pytest.raises(ConfigError) as caught:
        learn(bad, frame).plan()
    assert "did you mean 'year'?" in str(caught.value)
    assert "'n' is int64, not a date" in str(caught.value)


def test_more_scores_than_are_kept_move_an_area_by_little(monkeypatch: pytest.MonkeyPatch) -> None:
    from pipelines.learning import scores

    rng = np.random.default_rng(5)
    chance = rng.random(300_000)
    y = (rng.random(300_000) < chance**2).astype("int64")
    blocks = [
        scores.classified(
            y[i::6], (chance[i::6] > 0.5).astype(int), np.stack([1 - chance[i::6], chance[i::6]], axis=1), 2
        )
        for i in range(6)
    ]
    monkeypatch.setattr(scores, "_MOST", 30_000)
    monkeypatch.setattr(scores, "_KEPT", 20_000)
    state = scores.merged([scores.merged(blocks[:3]), scores.merged(blocks[3:])])
    assert len(state.scores) <= 20_000
    found = scores.final(state, (False, True))
    assert found.values["roc_auc"] == pytest.approx(sk.roc_auc_score(y, chance), abs=1e-5)
    assert found.values["average_precision"] == pytest.approx(sk.average_precision_score(y, chance), abs=1e-4)
    assert found.values["log_loss"] == pytest.approx(sk.log_loss(y, chance), rel=1e-12)
    assert all(len(each) <= scores._SHOWN for each in found.plots["roc"][:2])


def test_a_model_with_a_type_that_is_not_trusted_is_refused(learn: Make, project: Path, table: pl.DataFrame) -> None:
    from skops.io import dumps

    learn(f"  model: {{train: {{{LOGISTIC}}}}}\n  s: {{save_model: {{path: a.model, overwrite: true}}}}\n", table).run(
        "threads"
    )
    with zipfile.ZipFile(project / "a.model") as file:
        manifest = file.read("manifest.json")
    with zipfile.ZipFile(project / "a.model", "w") as file:
        file.writestr("manifest.json", manifest)
        file.writestr("estimator.skops", dumps({"gone": Path("/tmp"), "run": __import__("subprocess").Popen}))
    with pytest.raises(PipelineError, match=r"a.model holds .*Popen.*, which is not trusted"):
        learn("  model: {load_model: a.model}\n  p: {from: [t, model], predict: {}}\n", table).run("threads")


def test_dask_ml_learns_what_scikit_learn_learns(learn: Make, table: pl.DataFrame) -> None:
    """On two workers, too: the same to the last bit as in one process."""
    from sklearn.linear_model import PoissonRegressor

    few = table.with_columns(n=pl.Series(np.random.default_rng(1).poisson(np.exp(table["b"] / 3))))
    x, up, n = few.select("a", "b", "c", "d").to_numpy(), few["up"].to_numpy(), few["n"].to_numpy()
    steps = f"""
  one: {{from: t, train: {{estimator: dask_ml.linear_model.LogisticRegression, target: up, {COLUMNS}, params: {{solver: newton, C: 1.0, fit_intercept: true}}}}}}
  two: {{from: t, train: {{estimator: dask_ml.linear_model.PoissonRegression, target: n, {COLUMNS}, params: {{solver: newton}}}}}}
  few: {{from: t, train: {{estimator: dask_ml.cluster.KMeans, {COLUMNS}, params: {{n_clusters: 3, random_state: 0}}}}}}
  m1: {{from: [t, one], evaluate: {{}}}}
  m2: {{from: [t, two], evaluate: {{}}}}
  c: {{from: [t, few], predict: {{column: cluster}}}}
  s: {{from: two, save_model: {{path: two.model, overwrite: true}}}}
  w: {{from: c, write: {{path: c.parquet, overwrite: true}}}}
"""
    made = learn(steps, few)
    run = made.run("threads")
    logistic, poisson = model(made, "one").estimator, model(made, "two").estimator
    own = LogisticRegression(tol=1e-10, max_iter=1000).fit(x, up)
    loss = sk.log_loss(up, own.predict_proba(x))
    assert metrics(run, "m1")["log_loss"] == pytest.approx(loss, rel=1e-3)
    assert np.allclose(logistic.coef_, own.coef_, rtol=1e-2, atol=1e-3)
    wanted = PoissonRegressor(alpha=0, max_iter=1000, tol=1e-10).fit(x, n)
    assert np.allclose(poisson.coef_, wanted.coef_, atol=2e-3)
    assert metrics(run, "m2")["mean_squared_error"] == pytest.approx(
        sk.mean_squared_error(n, wanted.predict(x)), rel=1e-3
    )
    path = run.outputs["w"].path
    assert path is not None
    clusters = pl.read_parquet(path)["cluster"].to_numpy()
    assert sk.adjusted_rand_score(KMeans(3, n_init=10, random_state=0).fit(x).labels_, clusters) > 0.99
    other = learn(steps + "executor: {kind: local, workers: 2}\n").run()
    for step in ("m1", "m2"):
        assert metrics(other, step) == metrics(run, step)


def test_the_lasso_of_dask_ml_leaves_columns_out(learn: Make, table: pl.DataFrame) -> None:
    noisy = f"estimator: dask_ml.linear_model.LogisticRegression, target: up, {COLUMNS}"
    found = model(learn(f"  model: {{train: {{{noisy}, params: {{penalty: l1, C: 0.03}}}}}}\n")).estimator
    x, y = table.select("a", "b", "c", "d").to_numpy(), table["up"].to_numpy()
    # its penalty is on the standardized columns, and on the intercept
    scaled = np.c_[(x - x.mean(axis=0)) / x.std(axis=0), np.ones(len(x))]
    own = LogisticRegression(penalty="l1", C=0.03, solver="saga", max_iter=5000, fit_intercept=False).fit(scaled, y)
    mine, theirs = sk.log_loss(y, found.predict_proba(x)[:, 1]), sk.log_loss(y, own.predict_proba(scaled)[:, 1])
    assert mine == pytest.approx(theirs, rel=1e-4)
    assert abs(found.coef_[0, 3]) < 0.02


@pytest.mark.parametrize(
    "name", ["xgboost.XGBClassifier", "xgboost.XGBRegressor", "lightgbm.LGBMClassifier", "lightgbm.LGBMRegressor"]
)
def test_trees_grow_on_all_workers(learn: Make, table: pl.DataFrame, project: Path, name: str) -> None:
    package = installed(name.partition(".")[0])
    target = "up" if name.endswith("Classifier") else "size"
    x, y = table.select("a", "b", "c", "d").to_numpy().astype("float32"), table[target].to_numpy()
    alone = getattr(package, name.partition(".")[2])(n_estimators=20, max_depth=3, random_state=0).fit(x, y)
    steps = f"""
  model: {{train: {{estimator: {name}, target: {target}, method: distributed, params: {{n_estimators: 20, max_depth: 3}}, {COLUMNS}}}}}
  m: {{from: [t, model], evaluate: {{}}}}
  s: {{from: [model, m], save_model: {{path: d.model, overwrite: true}}}}
  p: {{from: [t, model], predict: {{column: said}}}}
  w: {{write: {{path: p.parquet, overwrite: true}}}}
"""
    run = learn(steps + "executor: {kind: local, workers: 2}\n").run()
    found = metrics(run)
    if target == "up":
        # bins are merged from what each worker has, which is not the same in every run
        assert found["log_loss"] == pytest.approx(sk.log_loss(y, alone.predict_proba(x)), rel=1e-2)
        assert found["accuracy"] == pytest.approx(sk.accuracy_score(y, alone.predict(x)), abs=1e-2)
    else:
        assert found["r2"] == pytest.approx(sk.r2_score(y, alone.predict(x)), abs=1e-2)
    path = run.outputs["w"].path
    assert path is not None
    before = pl.read_parquet(path)["said"]
    again = learn(
        "  model: {load_model: d.model}\n  p: {from: [t, model], predict: {column: said}}\n  w: {write: {path: q.parquet, overwrite: true}}\n"
    ).run("threads")
    assert again.outputs["w"].path is not None
    assert pl.read_parquet(again.outputs["w"].path)["said"].equals(before)
    with pytest.raises(PipelineError, match="needs a cluster of two workers"):
        learn(steps).run("threads")


def test_a_table_waits_in_files_while_a_model_is_trained_on_it(
    learn: Make, table: pl.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without it all partitions were in memory until the model was there."""
    from pipelines.exchange import Room
    from pipelines.learning import blocks

    plain = learn(ALL).run("threads")
    parked = list[Any]()
    monkeypatch.setattr(blocks, "_SMALL", 0)
    monkeypatch.setattr(Room, "takes", lambda self, size: False)
    park = blocks.Park.__call__

    def noted(self: Any, frame: pl.DataFrame) -> Any:
        parked.append(park(self, frame))
        return parked[-1]

    monkeypatch.setattr(blocks.Park, "__call__", noted)
    filed = learn(ALL).run("threads")
    assert len(parked) == 4  # one table of four partitions, for all steps that wait
    assert all(isinstance(each.kept, str) for each in parked)
    assert not any(Path(each.kept).exists() for each in parked)
    for step in ("m1", "m2", "m3", "m4", "tried"):
        assert metrics(filed, step) == metrics(plain, step)


def test_a_split_by_time_is_exact_and_a_row_without_a_time_is_in_no_part(learn: Make) -> None:
    n = 600
    large = 2**53
    days = pl.Series(range(n)).cast(pl.Int32).cast(pl.Date)
    frame = pl.DataFrame(
        {
            "id": range(n),
            "large": range(large, large + n),
            "price": pl.Series([i / 100 for i in range(n)]).cast(pl.Decimal(10, 2)),
            "some": [None if i % 3 == 0 else float("nan") if i % 3 == 1 else float(i) for i in range(n)],
            "day": [None if i % 2 else day for i, day in enumerate(days)],
            "zoned": days.cast(pl.Datetime("us", "Europe/Berlin")),
        }
    )
    wanted = {
        "id, test_from: 300.5": (301, 299, 0),
        f"large, test_from: {large + 1}": (1, 599, 0),
        "price, test_from: 0.555": (56, 544, 0),
        "some, test_from: 300": (100, 100, 400),
        "day, test_from: 1970-01-11": (5, 295, 300),
        "zoned, test_from: '1970-01-03T00:00:00+02:00'": (2, 598, 0),
    }
    for option, (train, test, none) in wanted.items():
        made = learn(f"  s: {{split: {{time: {option}}}}}\n", frame)
        parts = pl.from_pandas(model(made, "s"))["part"].cast(pl.String).to_list()
        assert (parts.count("train"), parts.count("test"), parts.count(None)) == (train, test, none), option
    typed = pl.DataFrame(
        {
            "i": pl.Series([1], dtype=pl.Int8),
            "u": pl.Series([1], dtype=pl.UInt64),
            "f": [1.0],
            "t": [dt.datetime(2020, 1, 1)],
        }
    )
    for option, said in {
        "i, test_from: 300": "300 is no int8", "u, test_from: -5": "-5 is no uint64", "f, test_from: .nan": "nan is no float64",
        "t, test_from: '2020-01-01T00:00:00+02:00'": "has a time zone",
    }.items():  # fmt: skip
        with pytest.raises(ConfigError, match=said):
            learn(f"  s: {{split: {{time: {option}}}}}\n", typed).plan()


def test_a_split_refuses_what_would_be_ignored(learn: Make) -> None:
    hours = [dt.datetime(2020, 3, 1) + dt.timedelta(hours=i) for i in range(3)]
    zoned = pl.Series(hours).dt.replace_time_zone("Europe/Berlin")
    frame = pl.DataFrame({"id": range(3), "kind": ["a", "b", "c"], "zoned": zoned, "several": [[1]] * 3})
    for options, said in {
        "test: 0.2, test_from: 2030-03-01": ":4:26: `test_from` has no meaning beside `test`",
        "test: 0.2, validation_from: 2": "`validation_from` has no meaning beside `test`",
        "time: id, test_from: 2, validation: 0.2": ":4:39: `validation` has no meaning beside `time`",
        "time: id, test_from: 2, by: kind": "`by` has no meaning beside `time`",
        "time: id, test_from: 2, seed: 0": "`seed` has no meaning beside `time`",
        "time: id, test_from: 1, validation_from: 2": ":4:56: the part for validation is empty",
        "time: id, test_from: 1.5, validation_from: 1.2": "the part for validation is empty",
        "time: zoned, test_from: '2020-03-02T01:00+01:00', validation_from: 2020-03-02": "",
        "time: zoned, test_from: 2020-03-02, validation_from: '2020-03-02T01:00+01:00'": "the part for validation is empty",
        "time: zoned, test_from: '2020-03-29T02:30'": ":4:39: '2020-03-29T02:30' is no datetime[us,Europe/Berlin]",
        "test: 0.2, by: [kind, id, kind]": ":4:41: 'kind' stands here twice",
        "test: 0.2, by: several": "list[int64] cannot be a key",
    }.items():
        made = learn(f"  s: {{split: {{{options}}}}}\n", frame)
        if said:
            with pytest.raises(ConfigError, match=re.escape(said)):
                made.plan()
        else:
            made.plan()


@pytest.mark.parametrize("fitted", [pl.Int64(), pl.Float64(), pl.Decimal(5, 2)])
def test_a_category_that_is_a_number_is_known_in_every_type(
    learn: Make, table: pl.DataFrame, fitted: pl.DataType
) -> None:
    code = (pl.col("id") % 3).cast(fitted).alias("code")
    steps = "  seen: {features: {one_hot: code, ordinal: code}}\n  model: {from: [t, seen], train: {estimator: sklearn.tree.DecisionTreeClassifier, target: kind}}\n"
    frame = table.with_columns(code, kind=pl.col("id") % 3)
    trained = model(learn(steps + "  s: {save_model: {path: a.model, overwrite: true}}\n", frame))
    learn(steps + "  s: {save_model: {path: a.model, overwrite: true}}\n", frame).run("threads")
    x = trained.matrix(frame)
    again = "  model: {load_model: a.model}\n  p: {from: [t, model], predict: {}}\n  only: {select: [prediction]}\n"
    for other in (pl.Int8(), pl.Int64(), pl.Float32(), pl.Float64(), pl.Decimal(9, 4)):
        cast = frame.with_columns(pl.col("code").cast(other))
        assert (trained.matrix(cast) == x).all()
        found = learn(again, cast).compile("only")["only"].compute(scheduler="sync")
        assert found["prediction"].tolist() == frame["kind"].to_list()
    strange = frame.with_columns(pl.col("code").cast(pl.Float64) + 0.25)
    assert fitted.is_float() or (trained.matrix(strange)[:, 0] == -1).all()


def test_a_type_that_features_cannot_take_is_an_issue(learn: Make) -> None:
    frame = pl.DataFrame(
        {
            "d": [dt.date(2020, 1, 1)], "t": [dt.time(1, 2)], "long": [dt.timedelta(1)], "raw": [b"x"], "s": [dt.datetime(2020, 1, 1)],
        }
    )  # fmt: skip
    for options, said in {
        "date_parts: {d: [hour]}": "'d' is date: it has no hour",
        "date_parts: {t: [minute, year]}": "'t' is time: it has no year",
        "one_hot: long": "'long' is duration: it has no categories",
        "ordinal: raw": "'raw' is binary: it has no categories",
    }.items():
        with pytest.raises(ConfigError, match=said):
            learn(f"  seen: {{features: {{{options}}}}}\n", frame).plan()
    everything = "one_hot: [d, t, s], date_parts: {d: [year, ordinal_day], t: [hour, minute], s: [year, minute]}"
    assert len(model(learn(f"  seen: {{features: {{{everything}}}}}\n", frame), "seen").names) == 9


@pytest.mark.parametrize("estimator", ["sklearn.linear_model.LinearRegression", "sklearn.linear_model.Ridge"])
def test_an_infinite_target_is_refused(learn: Make, table: pl.DataFrame, estimator: str) -> None:
    frame = table.with_columns(pl.when(pl.col("id") == 7).then(float("-inf")).otherwise("size").alias("size"))
    text = f"  model: {{train: {{estimator: {estimator}, target: size, {COLUMNS}}}}}\n"
    with pytest.raises(DataError, match="the target 'size' is infinite in 1 row of a partition"):
        learn(text, frame).run("threads")


def test_a_target_of_another_type_is_an_issue_where_its_values_are_not_comparable(
    learn: Make, table: pl.DataFrame
) -> None:
    kinds = table.with_columns(
        one=pl.col("up").cast(pl.Int64), small=pl.col("up").cast(pl.Int8), real=pl.col("up").cast(pl.Float64),
        fixed=pl.col("kind").cast(pl.Enum(["z", "y", "x"])),
    )  # fmt: skip
    steps = "  model: {{train: {{estimator: sklearn.naive_bayes.GaussianNB, target: {}, columns: [a, b]}}}}\n  m: {{from: [t, model], evaluate: {{target: {}}}}}\n"
    with pytest.raises(ConfigError, match="'one' is int64, and the model was trained on boolean"):
        learn(steps.format("up", "one"), kinds).plan()
    with pytest.raises(ConfigError, match="'up' is boolean, and the model was trained on string"):
        learn(steps.format("kind", "up"), kinds).plan()
    for target, other in (("one", "small"), ("one", "real"), ("small", "one"), ("fixed", "kind"), ("kind", "fixed")):
        found = metrics(learn(steps.format(target, other), kinds).run("threads"))
        assert found == metrics(learn(steps.format(target, target), kinds).run("threads"))


def test_rows_without_a_time_are_in_no_fold(learn: Make, table: pl.DataFrame) -> None:
    text = f"  m: {{cross_validate: {{{LOGISTIC}, time: id}}}}\n"
    known = table.with_row_index("row").filter(pl.col("row") % 3 > 0).drop("row")
    missing = table.with_columns(pl.when(pl.col("id") % 3 > 0).then("id").alias("id"))
    wanted, found = (metrics(learn(text, frame).run("threads")) for frame in (known, missing))
    assert found == pytest.approx(wanted, rel=1e-9)


def test_folds_without_rows_do_not_count(learn: Make, table: pl.DataFrame) -> None:
    for groups in (2, 3, 5, 8):
        frame = table.with_columns(grp=pl.col("id") % groups)
        for seed in range(4):
            steps = f"  seen: {{features: {{scale: [a, b]}}}}\n  m: {{from: [t, seen], cross_validate: {{estimator: sklearn.naive_bayes.GaussianNB, target: up, by: grp, seed: {seed}}}}}\n"
            numbers = frame.select(pl.struct("grp").hash(seed) % 5).to_series()
            if numbers.n_unique() > 1:
                found = metrics(learn(steps, frame).run("threads"))
                assert found["rows"] == pytest.approx(numbers.value_counts()["count"].mean())
            else:
                with pytest.raises(DataError, match="the groups of `by` are all in this one"):
                    learn(steps, frame).run("threads")
    halved = "search: {estimator: sklearn.tree.DecisionTreeClassifier, target: up, columns: [a, b], by: grp, grid: {max_depth: [1, 2, 3]}"
    for more in ("", ", halving: 3"):
        found = model(learn(f"  model: {{{halved}{more}}}}}\n", table.with_columns(grp=pl.col("id") % 2)))
        assert found.metrics["cv_log_loss"] > 0


SHORT = {
    "sklearn.tree.DecisionTreeClassifier": "{max_depth: 2}",
    "sklearn.linear_model.LogisticRegression": "{max_iter: 500}",
    "xgboost.XGBClassifier": "{n_estimators: 5}",
    "lightgbm.LGBMClassifier": "{n_estimators: 5, verbose: -1}",
}


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("name", SHORT)
def test_a_class_that_a_fold_has_not_seen_has_the_chance_0(
    learn: Make, table: pl.DataFrame, name: str, classes: int
) -> None:
    installed(name.partition(".")[0])
    labels = pl.Series(np.where(table["a"] > 1, "a", np.where(table["b"] > 0, "b", "c"))[:900])
    frame = table[:900].with_columns(labels.replace({"b": "c"} if classes == 2 else {}).alias("label"))
    lacks = pl.col("id") < 300
    frame = frame.with_columns(
        pl.when(lacks & (pl.col("label") == ("b" if classes == 3 else "a")))
        .then(pl.lit("c"))
        .otherwise("label")
        .alias("label")
    )
    options = (
        f"estimator: {name}, params: {SHORT[name]}, target: label, {COLUMNS}, time: id, folds: 2, method: one_worker"
    )
    made = learn(f"  m: {{cross_validate: {{{options}}}}}\n", frame)
    if classes == 2 and "Tree" not in name:
        with pytest.raises(DataError, match=r"one class"):
            made.run("threads")
        return
    found = metrics(made.run("threads"))
    x, known = frame.select("a", "b", "c", "d").to_numpy(), frame["label"].unique().sort().to_list()
    codes = np.array([known.index(each) for each in frame["label"]])
    dtype = "float32" if "xgboost" in name else "float64"
    losses, right = [], []
    for k in (1, 2):
        before, inside = slice(0, 300 * k), slice(300 * k, 300 * k + 300)
        seen, y = np.unique(codes[before], return_inverse=True)
        params = {key: int(value) for key, value in (each.split(": ") for each in SHORT[name].strip("{}").split(", "))}
        own = estimator_class(name)(random_state=0, **params).fit(x[before].astype(dtype), y)
        chances = np.zeros((300, len(known)))
        told = own.predict_proba(x[inside].astype(dtype)).astype("float64")
        chances[:, seen] = told / told.sum(axis=1, keepdims=True)
        losses.append(sk.log_loss(codes[inside], chances, labels=range(len(known))))
        right.append((seen[own.predict(x[inside].astype(dtype))] == codes[inside]).mean())
    assert found["log_loss"] == pytest.approx(np.mean(losses), rel=1e-5)
    assert found["accuracy"] == pytest.approx(np.mean(right))
    if "XGB" in name:
        far = learn(
            f"  m: {{cross_validate: {{{options.replace('one_worker', 'distributed')}}}}}\nexecutor: {{kind: local, workers: 2}}\n",
            frame,
        )
        assert metrics(far.run())["log_loss"] == pytest.approx(found["log_loss"], rel=1e-3)


@pytest.mark.parametrize("method", ["auto", "one_worker"])
def test_a_fold_learnt_from_one_class(learn: Make, table: pl.DataFrame, method: str) -> None:
    frame = table.with_columns(pl.col("up") & (pl.col("id") >= 2000))
    made = learn(f"  m: {{cross_validate: {{{LOGISTIC}, time: id, folds: 2, method: {method}}}}}\n", frame)
    with pytest.raises(DataError, match="one class") as error:
        made.run("threads")
    if method == "auto":
        assert "one class only: False (in the rows before the fold 1)" in str(error.value)


def test_an_estimators_own_errors_are_data_errors(learn: Make, table: pl.DataFrame) -> None:
    few = f"  few: {{filter: id < 4}}\n  model: {{train: {{estimator: sklearn.neighbors.KNeighborsClassifier, target: kind, {COLUMNS}}}}}\n  p: {{from: [t, model], predict: {{}}}}\n"
    with pytest.raises(DataError, match="KNeighborsClassifier failed: ValueError: Expected n_neighbors"):
        learn(few, table).run("threads")
    tried = f"  few: {{filter: id < 5}}\n  m: {{cross_validate: {{estimator: sklearn.neighbors.KNeighborsRegressor, target: size, time: id, folds: 2, {COLUMNS}}}}}\n"
    with pytest.raises(DataError, match="KNeighborsRegressor failed: ValueError: Expected n_neighbors"):
        learn(tried, table).run("threads")
    none = model(learn(f"  model: {{train: {{{LOGISTIC}, params: {{max_iter: 0}}}}}}\n", table))
    assert not none.about["converged"]
    assert (none.estimator.coef_ == 0).all()
    installed("lightgbm")
    wrong = f"  model: {{train: {{estimator: lightgbm.LGBMClassifier, target: up, params: {{num_leaves: 1, verbose: -1}}, {COLUMNS}}}}}\n"
    with pytest.raises(DataError, match="LGBMClassifier failed: LightGBMError"):
        learn(wrong, table).run("threads")


@pytest.mark.parametrize(
    "name",
    [
        ".",
        "..a",
        "a..b",
        "builtins.dict",
        "json.JSONDecoder",
        "xgboost.Booster",
        "os.system",
        "sklearn.base.BaseEstimator",
    ],
)
def test_what_is_no_estimator_is_an_issue_and_is_not_called(learn: Make, project: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=r"names no class|is no estimator"):
        learn(f"  model: {{train: {{estimator: {name}, target: up}}}}\n").plan()
    begun = project / "begun"
    with pytest.raises(ConfigError, match=r"subprocess.Popen is no estimator"):
        learn(
            f"  model: {{train: {{estimator: subprocess.Popen, target: up, params: {{args: [touch, '{begun}']}}}}}}\n"
        ).plan()
    assert not begun.exists()


def test_liblinear_penalises_the_intercept_and_so_runs_on_one_worker(learn: Make, table: pl.DataFrame) -> None:
    x, y = table.select("a", "b", "c", "d").to_numpy(), table["up"].to_numpy()
    found = model(learn(f"  model: {{train: {{{LOGISTIC}, params: {{solver: liblinear, C: 0.01}}}}}}\n"))
    wanted = LogisticRegression(solver="liblinear", C=0.01, random_state=0).fit(x, y)
    assert found.about["how"] == WORDS["one_worker"]
    assert np.allclose(found.estimator.intercept_, wanted.intercept_)
    for solver in ("lbfgs", "newton-cg", "sag"):
        made = model(learn(f"  model: {{train: {{{LOGISTIC}, params: {{solver: {solver}}}}}}}\n"))
        assert made.about["how"] == WORDS["newton"]


@pytest.mark.parametrize(
    ("target", "weights"),
    [("up", "{0: 1, 1: 3}"), ("up", "{false: 1, true: 3}"), ("kind", "{x: 1, y: 3, z: 2}"), ("one", "{0: 1, 1: 3}")],
)
def test_weights_of_classes_are_scikit_learns(
    learn: Make, table: pl.DataFrame, project: Path, target: str, weights: str
) -> None:
    frame = table.with_columns(one=pl.col("up").cast(pl.Int64))
    x, y = frame.select("a", "b", "c", "d").to_numpy(), frame[target].to_numpy()
    own = {"x": 1, "y": 3, "z": 2} if target == "kind" else {0: 1, 1: 3}
    wanted = LogisticRegression(class_weight=own).fit(x, y)
    options = f"estimator: sklearn.linear_model.LogisticRegression, target: {target}, {COLUMNS}, params: {{class_weight: {weights}}}"
    made = learn(
        f"  model: {{train: {{{options}}}}}\n  s: {{save_model: w.model}}\n  m: {{from: t, cross_validate: {{{options}}}}}\n",
        frame,
    )
    made.run("threads")
    assert np.allclose(model(made).chances(x), wanted.predict_proba(x), atol=1e-4)
    assert np.allclose(load_bytes(str(project / "w.model")).chances(x), wanted.predict_proba(x), atol=1e-4)
    with pytest.raises(DataError, match="`class_weight` names 'w', which is no class of the target"):
        model(
            learn(
                f"  model: {{train: {{{options.replace('{x:', '{w:').replace('{0:', '{w:').replace('{false:', '{w:')}}}}}\n",
                frame,
            )
        )


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("xgboost.XGBClassifier", "{booster: dart, rate_drop: 0.5}"),
        ("xgboost.XGBClassifier", "{objective: 'multi:softprob', num_class: 3}"),
        ("lightgbm.LGBMClassifier", "{verbose: -1}"),
    ],
)
def test_what_a_library_takes_by_other_names_reaches_it(
    learn: Make, table: pl.DataFrame, project: Path, name: str, params: str
) -> None:
    """And three classes are still predicted by what was saved."""
    installed(name.partition(".")[0])
    x = table.select("a", "b", "c", "d").to_numpy().astype("float32")
    made = learn(
        f"  model: {{train: {{estimator: {name}, target: kind, params: {params}, {COLUMNS}}}}}\n  s: {{save_model: n.model}}\n",
        table,
    )
    made.run("threads")
    assert np.array_equal(model(made).chances(x), load_bytes(str(project / "n.model")).chances(x))


@pytest.mark.parametrize("name", ["xgboost.XGBClassifier", "xgboost.XGBRegressor"])
def test_a_saved_model_keeps_the_parameters_that_it_predicts_by(
    learn: Make, table: pl.DataFrame, project: Path, name: str
) -> None:
    frame = table.with_columns(pl.when(pl.col("id") % 3 == 0).then(-999.0).otherwise("a").alias("a"))
    target = "up" if name.endswith("Classifier") else "size"
    made = learn(
        f"  model: {{train: {{estimator: {name}, target: {target}, params: {{missing: -999, n_estimators: 10, importance_type: weight}}, {COLUMNS}}}}}\n  s: {{save_model: a.model}}\n",
        frame,
    )
    made.run("threads")
    x = frame.select("a", "b", "c", "d").to_numpy().astype("float32")
    trained, loaded = model(made), load_bytes(str(project / "a.model"))
    assert np.array_equal(trained.labels(x), loaded.labels(x))
    assert loaded.importance() == trained.importance()
    if target == "up":
        assert np.array_equal(trained.chances(x), loaded.chances(x))


@pytest.mark.parametrize(
    ("name", "tells"),
    [
        ("sklearn.svm.SVC", "probability: true"),
        ("sklearn.linear_model.SGDClassifier", "loss: log_loss"),
        ("sklearn.svm.LinearSVC", ""),
    ],
)
def test_whether_an_estimator_tells_chances_is_known_at_check_time(
    learn: Make, table: pl.DataFrame, project: Path, name: str, tells: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = f"  model: {{train: {{estimator: {name}, target: up, columns: [a, b], params: {{%s}}}}}}\n"
    rest = "  p: {from: [t, model], predict: {probability: chance}}\n"
    load = "  model: {load_model: c.model}\n" + rest
    few = table[:300]
    with pytest.raises(ConfigError, match="tells no probabilities"):
        learn(train % "" + rest, few).plan()
    learn(train % "" + "  s: {save_model: {path: c.model, overwrite: true}}\n", few).run("threads")
    with pytest.raises(ConfigError, match="tells no probabilities"):
        learn(load).plan()
    if tells:
        learn(
            train % tells + "  s: {save_model: {path: c.model, overwrite: true}}\n" + rest.replace("t,", "t,"), few
        ).run("threads")
        monkeypatch.setattr("pipelines.learning.estimators.importlib", None)  # a file's manifest imports nothing
        learn(load).plan()


def test_a_damaged_model_is_an_issue(learn: Make, table: pl.DataFrame, project: Path) -> None:
    learn(f"  model: {{train: {{{LOGISTIC}}}}}\n  s: {{save_model: {{path: a.model, overwrite: true}}}}\n", table).run(
        "threads"
    )
    with zipfile.ZipFile(project / "a.model") as file:
        manifest, estimator = json.loads(file.read("manifest.json")), file.read("estimator.skops")
    for change, said in (
        (lambda m: [m], "is no model"),
        (lambda m: {k: v for k, v in m.items() if k != "inputs"}, "is damaged: it lacks inputs"),
        (lambda m: m | {"inputs": ["a"]}, "is damaged"),
        (lambda m: m | {"about": {}}, "is damaged"),
        (lambda m: m | {"target_type": "strange"}, "there is no type 'strange'"),
        (None, "is damaged: it lacks an estimator"),
    ):
        with zipfile.ZipFile(project / "a.model", "w") as file:
            file.writestr("manifest.json", json.dumps(change(manifest) if change else manifest))
            if change:
                file.writestr("estimator.skops", estimator)
        with pytest.raises(ConfigError, match=said):
            learn("  model: {load_model: a.model}\n  p: {from: [t, model], predict: {}}\n", table).plan()


def test_bytes_are_no_target(learn: Make, table: pl.DataFrame) -> None:
    frame = table.with_columns(pl.col("kind").cast(pl.Binary))
    with pytest.raises(ConfigError, match="binary cannot be predicted"):
        learn(
            f"  model: {{train: {{estimator: sklearn.naive_bayes.GaussianNB, target: kind, {COLUMNS}}}}}\n", frame
        ).plan()


LEAKS = "  parts: {{split: {{test: 0.5, by: id}}}}\n  seen: {{from: {}, features: {{scale: [a]{}}}}}\n  model: {{from: [{}, seen], {}}}\n"
RIDGE = "train: {estimator: sklearn.linear_model.Ridge, target: size%s}"


@pytest.mark.parametrize(
    "step",
    [
        RIDGE % "",
        "cross_validate: {estimator: sklearn.linear_model.Ridge, target: size}",
        "search: {estimator: sklearn.linear_model.Ridge, target: size, grid: {alpha: [1, 2]}}",
    ],
)
def test_features_are_fitted_on_the_rows_that_are_learnt_from(learn: Make, step: str) -> None:
    with pytest.raises(ConfigError, match="the features were fitted on all rows, and this learns from the part train"):
        learn(LEAKS.format("t", "", "parts", step)).plan()
    learn(LEAKS.format("parts", "", "parts", step)).plan()
    learn(LEAKS.format("t", ", part: all", "parts", step)).plan()
    learn(LEAKS.format("t", "", "t", step)).plan()


def test_who_learns_from_other_rows_than_the_features_says_so(learn: Make) -> None:
    with pytest.raises(ConfigError, match="fitted on the part train, and this learns from all rows"):
        learn(LEAKS.format("parts", "", "t", RIDGE % "")).plan()
    learn(LEAKS.format("parts", "", "parts", RIDGE % ", part: all")).plan()


def fitted(made: Pipeline) -> Any:
    return model(made, "seen")


def test_categories_are_in_the_order_of_their_type(learn: Make) -> None:
    """Not in that of their texts."""
    frame = pl.DataFrame(
        {"n": [10, 2, 0, 1, 11] * 4, "f": [10.5, -2.0, -11.0, 0.0, 9.0] * 4, "e": ["low", "mid", "high", "low", "mid"] * 4}
    ).with_columns(pl.col("e").cast(pl.Enum(["low", "mid", "high"])), c=pl.col("e").cast(pl.Categorical()))  # fmt: skip
    steps = "  seen: {features: {ordinal: [n, f, e], one_hot: [n, c]}}\n"
    for partitions in (1, 4):
        found = fitted(learn(steps, frame, partitions))
        assert found.categories["n"] == ("0", "1", "2", "10", "11")
        assert found.categories["f"] == ("-11.0", "-2.0", "0.0", "9.0", "10.5")
        assert found.categories["e"] == ("low", "mid", "high")
        assert found.categories["c"] == ("high", "low", "mid")
        assert found.names[3:8] == ("n=0", "n=1", "n=2", "n=10", "n=11")
        x = found.apply(frame)
        assert x[:5, 0].tolist() == [3, 2, 0, 1, 4]
        assert x[:5, 2].tolist() == [0, 1, 2, 0, 1]
        assert (x[:, 3:8].argmax(axis=1) == x[:, 0]).all()


def test_bins_are_those_of_pandas(learn: Make) -> None:
    """Where the quantile is between two numbers. Equal numbers are in one bin."""
    import pandas as pd

    rng = np.random.default_rng(3)
    for values, count in (
        ([1.0, 2.0, 3.0, 4.0], 2), ([0.0, 0.0, 1.0, 1.0], 2), ([0.0, 0.0, 0.0, 1.0], 2), (rng.permutation(60) * 1.0, 4), (rng.permutation(70) * 1.0, 7),
    ):  # fmt: skip
        frame = pl.DataFrame({"x": values})
        found = fitted(learn(f"  seen: {{features: {{bins: {{x: {count}}}}}}}\n", frame, 2)).apply(frame)[:, 0]
        assert found.tolist() == pd.qcut(frame["x"].to_numpy(), count, labels=False, duplicates="drop").tolist()
    assert fitted(learn("  seen: {features: {bins: {x: 4}}}\n", pl.DataFrame({"x": [3.0] * 9}))).edges["x"] == ()


BAD_FEATURES = {
    "scale: [a, a]": "'a' stands here twice",
    "keep: [a], scale: [a]": "'a' stands here twice",
    "one_hot: [kind, kind]": "'kind' stands here twice",
    "date_parts: {day: [month, month]}": "'month' stands here twice",
    "keep: [a_bin], bins: {a: 3}": "there is a feature 'a_bin' already",
    "bins: {a: 1}": "a column is cut into 2 to 1,000 bins",
    "bins: {a: 1000000000}": "a column is cut into 2 to 1,000 bins",
}


@pytest.mark.parametrize("options", BAD_FEATURES)
def test_bad_features_are_issues(learn: Make, table: pl.DataFrame, options: str) -> None:
    frame = table.with_columns(a_bin=pl.col("a"), day=pl.col("id").cast(pl.Date))
    with pytest.raises(ConfigError) as caught:
        learn(f"  seen: {{features: {{{options}}}}}\n", frame).plan()
    assert BAD_FEATURES[options] in str(caught.value)
    assert len(caught.value.issues) == 1


@pytest.mark.parametrize(
    ("step", "said"),
    [
        ("from: t, train: {estimator: sklearn.linear_model.Ridge, target: size, columns: [a, a]}", "'a' stands here twice"),
        (f"from: t, cross_validate: {{{LOGISTIC}, by: [kind, kind]}}", "'kind' stands here twice"),
        ("from: [t, model], predict: {column: p, probability: p}", "the prediction and its probability are both called 'p'"),
        ("from: [t, model], predict: {probability: prediction}", "are both called 'prediction'"),
        (f"from: parts, train: {{{LOGISTIC}, part: trian}}", "there is no part 'trian'"),
        ("from: [parts, model], evaluate: {part: tset}", "did you mean 'test'?"),
        ("from: parts, features: {scale: [a], part: alll}", "did you mean 'all'?"),
    ],
)  # fmt: skip
def test_names_that_stand_twice_and_unknown_parts_are_issues(learn: Make, step: str, said: str) -> None:
    steps = f"  parts: {{split: {{test: 0.5, by: id}}}}\n  model: {{from: t, train: {{{LOGISTIC}}}}}\n  s: {{{step}}}\n"
    with pytest.raises(ConfigError) as caught:
        learn(steps).plan()
    assert said in str(caught.value)
    assert len(caught.value.issues) == 1


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("scale: [inf]", "the column 'inf' is infinite in some of the rows to fit on"),
        ("scale: [both]", "the column 'both' is infinite in some of the rows to fit on"),
        ("scale: [none]", r"the column 'none' is missing \(NULL or NaN\) in all rows to fit on"),
        ("keep: [none], impute: true", r"the column 'none' is missing \(NULL or NaN\) in all rows to fit on"),
        ("one_hot: [blank]", r"the column 'blank' is missing \(NULL\) in all rows to fit on"),
        ("one_hot: [kind], keep: ['kind=x']", "two features would have the name 'kind=x'"),
    ],
)
def test_what_cannot_be_fitted_is_told(learn: Make, table: pl.DataFrame, options: str, said: str) -> None:
    infinite = pl.lit(float("inf"))
    frame = table.with_columns(
        pl.when(pl.col("id") == 7).then(infinite).otherwise("a").alias("inf"),
        pl.when(pl.col("id") < 9).then(pl.when(pl.col("id") < 5).then(infinite).otherwise(-infinite)).otherwise("a").alias("both"),
        pl.lit(None, pl.Float64).alias("none"), pl.lit(None, pl.String).alias("blank"), pl.col("a").alias("kind=x"),
    )  # fmt: skip
    with pytest.raises(DataError, match=said):
        fitted(learn(f"  seen: {{features: {{{options}}}}}\n", frame))


def test_a_missing_date_is_imputed_too(learn: Make, table: pl.DataFrame) -> None:
    frame = table.with_columns(day=pl.when(pl.col("id") % 3 > 0).then(pl.col("id").cast(pl.Date)))
    steps = "  seen: {features: {date_parts: {day: [month, weekday]}, impute: true}}\n  model: {from: [t, seen], train: {estimator: sklearn.linear_model.Ridge, target: size}}\n"
    x = fitted(learn(steps, frame)).apply(frame)
    months = frame["day"].dt.month()
    assert np.allclose(x[:, 0], months.cast(pl.Float64).fill_null(months.mean()).to_numpy())  # type: ignore[arg-type]
    assert model(learn(steps, frame)).about["rows"] == 6000


@pytest.mark.parametrize(
    ("name", "params"),
    [("LinearRegression", {}), ("LinearRegression", {"fit_intercept": False}), ("Ridge", {"alpha": 0.5})],
)
def test_weights_of_collinear_and_constant_columns_are_scikit_learns(
    learn: Make, table: pl.DataFrame, name: str, params: dict[str, Any]
) -> None:
    from sklearn.linear_model import Ridge

    frame = table.with_columns(
        pl.lit(0.1).alias("constant"), pl.lit(1e9).alias("large"), sum=pl.col("a") + pl.col("b"), metres=pl.col("c") * 1000,
        x=(pl.col("kind") == "x").cast(pl.Float64), y=(pl.col("kind") == "y").cast(pl.Float64), z=(pl.col("kind") == "z").cast(pl.Float64),
    ).drop("large" if params else "d")  # fmt: skip
    columns = [column for column in frame.columns if column not in ("id", "kind", "up", "size")]
    x, y = frame.select(columns).to_numpy(), frame["size"].to_numpy()
    options = f"target: size, columns: [{', '.join(columns)}], params: {json.dumps(params)}"
    found = model(
        learn(f"  model: {{train: {{estimator: sklearn.linear_model.{name}, {options}}}}}\n", frame)
    ).estimator
    wanted = (LinearRegression if name == "LinearRegression" else Ridge)(**params).fit(x, y)
    assert np.allclose(found.coef_, wanted.coef_, rtol=1e-6, atol=1e-9)
    assert np.allclose(found.predict(x), wanted.predict(x), rtol=1e-9, atol=1e-8)
    constant = columns.index("constant")
    assert params.get("fit_intercept") is False or found.coef_[constant] == 0


@pytest.mark.parametrize("name", ["LogisticRegression", "LinearRegression", "PoissonRegression"])
def test_dask_ml_takes_no_constant_column_and_no_negative_count(learn: Make, table: pl.DataFrame, name: str) -> None:
    frame = table.with_columns(c=pl.lit(0.1), n=pl.col("size").floor().cast(pl.Int64))
    target = "up" if name == "LogisticRegression" else "n"
    options = f"estimator: dask_ml.linear_model.{name}, target: {target}"
    with pytest.raises(DataError, match=f"{name} takes no constant columns: 'c' is 0.1 in all rows"):
        learn(f"  model: {{train: {{{options}, columns: [a, c]}}}}\n", frame).run("threads")
    with pytest.raises(DataError, match="takes no constant columns: 'kind=x' is 1 in all rows"):
        learn(
            f"  one: {{filter: kind = 'x'}}\n  seen: {{features: {{one_hot: kind, keep: a}}}}\n  model: {{from: [one, seen], train: {{{options}}}}}\n"
        ).run("threads")
    if name == "PoissonRegression":
        with pytest.raises(DataError, match=r"PoissonRegression predicts counts, and the target is -\d+ in a row"):
            learn(f"  model: {{train: {{{options}, columns: [a, b]}}}}\n").run("threads")


def test_small_partitions_begin_clusters_together(learn: Make) -> None:
    frame = pl.DataFrame({"a": [0.0, 0.1, 5.0, 5.1, 9.0, 9.1, 0.2, 5.2], "b": [0.0, 0.1, 0.0, 0.2, 0.1, 0.0, 0.1, 0.0]})
    steps = "  model: {train: {estimator: sklearn.cluster.MiniBatchKMeans, params: {n_clusters: %d}}}\n"
    found = model(learn(steps % 3, frame, partitions=4))
    assert found.about["rows"] == 8
    assert found.estimator.cluster_centers_.shape == (3, 2)
    with pytest.raises(DataError, match="9 clusters are asked for, and there are only 8 different rows"):
        learn(steps % 9, frame, partitions=4).run("threads")


def test_no_rows_are_not_called_no_classes(learn: Make) -> None:
    with pytest.raises(DataError, match="there are no rows to learn from"):
        learn(f"  none: {{filter: id < 0}}\n  model: {{train: {{{LOGISTIC}}}}}\n").run("threads")


def test_an_infinite_number_is_not_called_missing(learn: Make, table: pl.DataFrame) -> None:
    text = f"  model: {{train: {{{LOGISTIC}}}}}\n"
    for value, said in ((float("inf"), "infinite values: 'a' is infinite"), (None, r"missing values: 'a' is missing \(NULL or NaN\)")):  # fmt: skip
        frame = table.with_columns(pl.when(pl.col("id") == 7).then(pl.lit(value)).otherwise("a").alias("a"))
        with pytest.raises(DataError, match=f"LogisticRegression takes no {said} in 1 row of a partition"):
            learn(text, frame).run("threads")


def test_what_is_between_the_fields_of_a_trees_nodes_is_not_saved(table: pl.DataFrame) -> None:
    """It is whatever was in memory, and the file is to have the same bytes each time."""
    from skops.io import dumps

    from pipelines.learning.model import _steady

    x, y = table.select("a", "b").to_numpy(), table["up"].to_numpy()
    forest = RandomForestClassifier(3, random_state=0, max_depth=4).fit(x, y)
    found = set[bytes]()
    for filling in (0, 255):
        content = dumps(forest)
        nodes = forest.estimators_[0].tree_.__getstate__()["nodes"]
        gaps = np.ones(nodes.dtype.itemsize, dtype=bool)
        for field, at, *_ in nodes.dtype.fields.values():
            gaps[at : at + field.itemsize] = False
        assert gaps.any()
        with zipfile.ZipFile(io.BytesIO(content)) as file:
            parts = {name: file.read(name) for name in file.namelist()}
        for name, part in parts.items():
            if b"left_child" in part[:200]:
                head, rows = 10 + int.from_bytes(part[8:10], "little"), bytearray(part)
                body = np.frombuffer(rows, "uint8")[head:].reshape(-1, len(gaps))
                body[:, gaps] = filling
                parts[name] = bytes(rows)
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w") as file:
            for name, part in parts.items():
                file.writestr(name, part)
        found.add(_steady(out.getvalue()))
    assert len(found) == 1
    import skops.io

    [saved] = found
    again = skops.io.loads(saved, trusted=skops.io.get_untrusted_types(data=saved))
    assert np.array_equal(again.predict_proba(x), forest.predict_proba(x))


@pytest.mark.filterwarnings("error:constrained_layout")
@pytest.mark.parametrize(
    "labels", [("$x", r"$\frac$"), ("a_b", "c^d"), ("x" * 3000, "x" * 2999), ("a\nb", "c\x01"), ("a--b-->", "<&>")]
)
def test_plots_take_any_label(labels: tuple[str, str]) -> None:
    from xml.dom.minidom import parseString

    from pipelines.learning.plots import drawn

    for name, data in (("confusion", (np.ones((2, 2), int), labels)), ("importance", dict.fromkeys(labels, 1.0))):
        parseString(drawn(name, data))


def test_labels_that_are_cut_alike_keep_their_bars() -> None:
    from pipelines.learning.plots import drawn

    one, two = ({f"{'x' * 50}{mid}{'y' * 50}": value for mid, value in found} for found in ([("a", 1.0)], [("a", 1.0), ("b", 2.0)]))  # fmt: skip
    assert drawn("importance", two).count(b'id="patch_') == drawn("importance", one).count(b'id="patch_') + 1


KNOWN_AT_CHECK = {
    "sklearn.pipeline.Pipeline, params: {steps: [a]}": "Pipeline refuses its parameters: ",
    "sklearn.linear_model.SGDClassifier, params: {early_stopping: true}": "or add `method: one_worker`",
    "sklearn.linear_model.SGDClassifier, params: {class_weight: balanced}": "or add `method: one_worker`",
    "sklearn.linear_model.LogisticRegression, params: {penalty: l1}": "add `solver: saga`",
    "sklearn.linear_model.LogisticRegression, params: {penalty: null, solver: liblinear}": "has no penalty null with the solver liblinear",
    "sklearn.linear_model.LogisticRegression, epochs: 5": "it has no `epochs` here",
    "sklearn.linear_model.SGDClassifier, method: one_worker, epochs: 5": "it has no `epochs` here",
}


@pytest.mark.parametrize("options", KNOWN_AT_CHECK)
def test_what_an_estimator_refuses_is_known_before_a_run(learn: Make, options: str) -> None:
    with pytest.raises(ConfigError) as caught:
        learn(f"  model: {{train: {{target: up, {COLUMNS}, estimator: {options}}}}}\n").plan()
    assert KNOWN_AT_CHECK[options] in str(caught.value)
    assert len(caught.value.issues) == 1


def test_a_search_over_solvers_is_checked_trial_by_trial(learn: Make) -> None:
    text = f"  model: {{search: {{{LOGISTIC}, params: {{penalty: l1}}, grid: {{solver: [liblinear, %s]}}}}}}\n"
    learn(text % "saga").plan()
    with pytest.raises(ConfigError, match="no penalty l1 with the solver lbfgs"):
        learn(text % "lbfgs").plan()


def test_a_folder_is_no_model(learn: Make, project: Path) -> None:
    (project / "l").mkdir()
    with pytest.raises(ConfigError, match="l is a folder") as caught:
        learn("  model: {load_model: l}\n").plan()
    assert "Errno" not in str(caught.value)


def test_lightgbm_prints_nothing_unless_asked(
    learn: Make, table: pl.DataFrame, capfd: pytest.CaptureFixture[str]
) -> None:
    installed("lightgbm")
    text = f"  model: {{train: {{estimator: lightgbm.LGBMClassifier, target: up, {COLUMNS}, params: {{n_estimators: 20%s}}}}}}\n"
    quiet = model(learn(text % "", table[:60]))
    assert "LightGBM" not in "".join(capfd.readouterr())
    said = model(learn(text % ", verbose: 1", table[:60]))
    assert "LightGBM" in "".join(capfd.readouterr())
    x = table.select("a", "b", "c", "d").to_numpy()
    assert np.array_equal(quiet.chances(x), said.chances(x))
