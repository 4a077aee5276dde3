"""A trained model as a value: what it predicts of which columns, and its file."""

from __future__ import annotations

import functools
import io
import itertools
import json
import re
import threading
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

import numpy as np
import polars as pl

from pipelines.errors import DataError, Issue, MachineError
from pipelines.learning.blocks import complete, matrix, one_thread
from pipelines.learning.features import Transform, from_plain
from pipelines.learning.fitting import guarded
from pipelines.types import Schema, described, schema_of

FORMAT = 1
_PARTS = {"estimator.skops", "estimator.ubj", "estimator.txt"}
_KEYS = {
    "task",
    "inputs",
    "columns",
    "target",
    "target_type",
    "classes",
    "takes_missing",
    "about",
    "metrics",
    "features",
}


@dataclass(frozen=True)
class Trained:
    """A fitted estimator, with the features before it and the classes behind it."""

    estimator: Any
    task: str
    inputs: Schema
    """The columns it needs."""
    columns: tuple[str, ...]
    """Of the matrix, where there are no features."""
    features: Transform | None
    target: str | None
    target_type: str | None
    classes: tuple[Any, ...] | None
    takes_missing: bool
    about: Mapping[str, Any]
    """estimator, params, how, identity, versions, rows, iterations, converged."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    kind: ClassVar[str] = "model"

    @property
    def names(self) -> tuple[str, ...]:
        """Of the features."""
        return self.features.names if self.features else self.columns

    def matrix(self, frame: pl.DataFrame) -> Any:
        one_thread()
        short = str(self.about["estimator"]).rpartition(".")[2]
        x = matrix(
            frame,
            self.features,
            self.columns,
            "float32" if self.about["estimator"].startswith("xgboost.") else "float64",
        )
        if not self.takes_missing:
            complete(x, self.names, short)
        return x

    def labels(self, x: Any) -> Any:
        """Class numbers, numbers or clusters, of each row."""
        return self._alone(self.estimator.predict, x)

    def chances(self, x: Any) -> Any | None:
        """Shape (rows, classes); None where the estimator tells none."""
        if not self.tells_chances:
            return None
        return self._alone(self.estimator.predict_proba, x)

    @property
    def tells_chances(self) -> bool:
        return self.task == "classification" and hasattr(self.estimator, "predict_proba")

    def _alone(self, method: Any, x: Any) -> Any:
        if not len(x):
            return np.empty((0, len(self.classes or ())) if method.__name__ == "predict_proba" else 0)
        import joblib

        with joblib.parallel_config(backend="sequential"):  # a forest's threads add up its trees in any order
            return guarded(str(self.about["estimator"]).rpartition(".")[2], method, x)

    def importance(self) -> dict[str, float]:
        """Feature: its weight in the estimator, where that tells any: impurity, gain, or the size of its coefficient."""
        found: Any = getattr(self.estimator, "feature_importances_", None)
        weights: Any = getattr(self.estimator, "coef_", None)
        if found is None and weights is not None:
            found = np.abs(np.atleast_2d(weights)).mean(axis=0)
        if found is None or len(np.ravel(found)) != len(self.names):
            return {}
        return dict(zip(self.names, map(float, np.ravel(found)), strict=True))

    def shown(self) -> pl.DataFrame:
        rows = [
            ("estimator", str(self.about["estimator"])),
            ("how", str(self.about["how"])),
            ("rows", f"{self.about['rows']:,}"),
        ]
        if self.about.get("iterations"):
            rows.append(("iterations", f"{self.about['iterations']}"))
        if not self.about.get("converged", True):
            rows.append(("converged", "no"))
        rows.append(("features", f"{len(self.names)}"))
        if self.classes is not None:
            rows.append(("classes", ", ".join(map(str, self.classes))))
        coefficients = getattr(self.estimator, "coef_", None)
        if coefficients is not None and np.ravel(coefficients).size == len(self.names):
            rows += [(name, f"{value:.6g}") for name, value in zip(self.names, np.ravel(coefficients), strict=True)]
            rows.append(("intercept", f"{float(np.ravel(self.estimator.intercept_)[0]):.6g}"))
        else:
            rows += [
                (name, f"{value:.6g}") for name, value in sorted(self.importance().items(), key=lambda pair: -pair[1])
            ]
        return pl.DataFrame(rows, schema={"model": pl.String, "value": pl.String}, orient="row")

    def manifest(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "task": self.task,
            "inputs": described(self.inputs),
            "columns": list(self.columns),
            "target": self.target,
            "target_type": self.target_type,
            "classes": None if self.classes is None else list(self.classes),
            "takes_missing": self.takes_missing,
            "chances": self.tells_chances,
            "about": dict(self.about),
            "metrics": dict(self.metrics),
            "features": None if self.features is None else self.features.plain(),
        }

    def saved(self) -> bytes:
        """The file: a zip of the manifest, and the estimator in skops' or the library's own format."""
        parts = {"manifest.json": json.dumps(self.manifest(), indent=2).encode()}
        if self.about["estimator"].startswith("lightgbm."):
            parts["estimator.txt"] = self.estimator.booster_.model_to_string().encode()
        elif self.about["estimator"].startswith("xgboost."):
            parts["estimator.ubj"] = bytes(self.estimator.get_booster().save_raw("ubj"))
        else:
            from skops.io import dumps

            parts["estimator.skops"] = _steady(dumps(self.estimator))
        return _zipped(parts)


def _zipped(parts: Mapping[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        for name, content in parts.items():
            file.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), content)
    return out.getvalue()


def _steady(content: bytes) -> bytes:
    """What skops wrote, as the same bytes each time: it names objects, and the files of their arrays, by where they are in memory."""
    with zipfile.ZipFile(io.BytesIO(content)) as file:
        parts = {name: file.read(name) for name in file.namelist()}
    schema, numbers, files = json.loads(parts.pop("schema.json")), itertools.count(1), dict[str, str]()

    def walk(node: Any) -> None:
        if isinstance(node, list):
            for each in node:
                walk(each)
        elif isinstance(node, dict):
            if "__id__" in node:
                node["__id__"] = next(numbers)
            if (name := node.get("file")) in parts:
                node["file"] = files.setdefault(name, f"{len(files)}{Path(name).suffix}")
            for each in node.values():
                walk(each)

    walk(schema)
    return _zipped(
        {"schema.json": json.dumps(schema).encode()} | {now: _unpadded(parts[before]) for before, now in files.items()}
    )


def _unpadded(content: bytes) -> bytes:
    """An array of records, as a tree's nodes, with zeros between its fields: there is what was in memory before."""
    if not content.startswith(b"\x93NUMPY"):
        return content
    found = np.load(io.BytesIO(content), allow_pickle=False)
    if found.dtype.names is None:
        return content
    made, out = np.zeros(found.shape, found.dtype), io.BytesIO()  # zeros_like leaves the gaps as they are
    for name in found.dtype.names:
        made[name] = found[name]
    np.save(out, made, allow_pickle=False)
    return out.getvalue()


def read_manifest(path: Path | BinaryIO) -> dict[str, Any]:
    """What a model's file says of it. Raises ValueError where it is none."""
    try:
        with zipfile.ZipFile(path) as file:
            found: dict[str, Any] = json.loads(file.read("manifest.json"))
            whole = file.testzip() is None and _PARTS & {*file.namelist()}
    except (zipfile.BadZipFile, zlib.error, EOFError, KeyError, ValueError):
        raise ValueError(f"{path} is no model that `save_model` wrote") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path} is no model that `save_model` wrote")
    if found.get("format") != FORMAT:
        raise ValueError(f"{path} has the format {found.get('format')}, this version reads {FORMAT}")
    if not whole or not found.keys() >= _KEYS:
        lacks = ", ".join(sorted(_KEYS - found.keys())) or "an estimator"
        raise ValueError(f"{path} is damaged: it lacks {lacks}")
    return found


def load(path: str | BinaryIO) -> Trained:
    """The model in a file. Nothing in it is executed: skops refuses types that are not an estimator's usual ones."""
    manifest = read_manifest(Path(path) if isinstance(path, str) else path)
    about = manifest["about"]
    with zipfile.ZipFile(path) as file:
        if "estimator.ubj" in file.namelist():
            import xgboost

            cls = getattr(xgboost, about["estimator"].rpartition(".")[2])
            estimator = cls(**about["params"])  # `missing` is one that predictions depend on
            estimator.load_model(bytearray(file.read("estimator.ubj")))
        elif "estimator.txt" in file.namelist():
            estimator = _lightgbm(about, file.read("estimator.txt").decode(), manifest["classes"])
        else:
            import skops.io

            content = file.read("estimator.skops")
            strange = [each for each in skops.io.get_untrusted_types(data=content) if not _usual(each)]
            if strange:
                raise MachineError(
                    Issue(f"{path} holds {', '.join(strange)}, which is not trusted", "train and save the model anew")
                )
            estimator = skops.io.loads(content, trusted=skops.io.get_untrusted_types(data=content))
    return Trained(
        estimator, manifest["task"], schema_of(manifest["inputs"]), tuple(manifest["columns"]),
        None if manifest["features"] is None else from_plain(manifest["features"]),
        manifest["target"], manifest["target_type"], None if manifest["classes"] is None else tuple(manifest["classes"]),
        manifest["takes_missing"], about, manifest["metrics"],
    )  # fmt: skip


def _lightgbm(about: Mapping[str, Any], text: str, classes: Sequence[Any] | None) -> Any:
    """LightGBM's own format is of the booster; what its estimator needs beside it (4.7) is set here."""
    import lightgbm
    from sklearn.preprocessing import LabelEncoder

    booster = lightgbm.Booster(model_str=text)
    made = getattr(lightgbm, about["estimator"].rpartition(".")[2])(**about["params"])
    made._Booster, made.fitted_, made._n_features = booster, True, booster.num_feature()
    made._n_features_in = booster.num_feature()
    made._best_iteration = -1
    if found := re.search(r"^objective=(\w+)", text, re.MULTILINE):  # without it, more than two classes are refused
        made._objective = found[1]
    if classes is not None:
        made._le = LabelEncoder().fit(np.arange(len(classes)))
        made._classes, made._n_classes = made._le.classes_, len(classes)
    return made


@dataclass(frozen=True)
class OnDisk:
    """The model in a file, read where it is first asked for anything, once in each process: partitions that wait for a model
    that is read in a task of its own would fill the memory meanwhile."""

    path: str
    digest: str
    kind: ClassVar[str] = "model"

    @property
    def read(self) -> Trained:
        with _reading:
            return _read(self.path, self.digest)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self.read, name)


_reading = threading.Lock()


@functools.lru_cache(4)
def _read(path: str, digest: str) -> Trained:
    return load(path)


def _usual(name: str) -> bool:
    return name.split(".", maxsplit=1)[0] in ("sklearn", "numpy", "scipy") and ".utils." not in name


def predicted(model: Trained, frame: pl.DataFrame, column: str, chance: str | None, dtype: pl.DataType) -> pl.DataFrame:
    """The frame with the prediction, and with the chance of the second of two classes, or of the predicted one of more."""
    x = model.matrix(frame)
    labels = model.labels(x)
    if model.classes is None:
        values = pl.Series(column, np.asarray(labels).ravel()).cast(dtype)
    else:
        known = pl.Series(list(model.classes), dtype=dtype)
        values = known.gather(pl.Series(np.asarray(labels, dtype="int64"))).alias(column)
    found = [values]
    if chance is not None:
        chances = model.chances(x)
        if chances is None:  # of a file of an earlier version, which does not say so
            raise DataError(Issue(f"{model.about['estimator']} tells no probabilities", "remove `probability`"))
        best = chances[:, 1] if chances.shape[1] == 2 else chances.max(axis=1) if len(chances) else np.empty(0)
        found.append(pl.Series(chance, np.asarray(best, dtype="float64")))
    return frame.with_columns(found)


def told(values: Sequence[Any]) -> str:
    return ", ".join(map(str, values))
