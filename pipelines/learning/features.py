"""Features: fitted on a table's partitions, a state from each, then applied to any rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import polars as pl

from pipelines.errors import DataError, Issue
from pipelines.types import Schema, described, schema_of
from pipelines.values import Lags

DATE_PARTS = ("year", "quarter", "month", "week", "day", "weekday", "ordinal_day", "hour", "minute")
MOST_CATEGORIES = 1000
_POINTS = 4096
"""Of each partition so many evenly spaced numbers of a column tell where to cut it into bins."""


@dataclass(frozen=True)
class Asked:
    """What to make of which columns."""

    keep: tuple[str, ...] = ()
    scale: tuple[str, ...] = ()
    bins: Mapping[str, int] = field(default_factory=dict)
    one_hot: tuple[str, ...] = ()
    ordinal: tuple[str, ...] = ()
    date_parts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    impute: bool = False
    """Whether a missing number, or part of a date, becomes the column's mean."""
    lags: Lags | None = None
    """Their columns are under `keep` and `scale`."""

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(
            dict.fromkeys((*self.keep, *self.scale, *self.bins, *self.one_hot, *self.ordinal, *self.date_parts))
        )


@dataclass(frozen=True)
class State:
    """Of some rows: of each number how many, mean, squared deviations; categories; points of bins with weights."""

    rows: int
    moments: Mapping[str, tuple[int, float, float]]
    categories: Mapping[str, pl.DataFrame]
    """`text`, by which it is known, and `value`, by which it is in order."""
    points: Mapping[str, tuple[Any, Any]]


@dataclass(frozen=True)
class Transform:
    """Fitted features: means, spreads, edges and categories."""

    asked: Asked
    inputs: Schema
    names: tuple[str, ...]
    """Of the features, in order."""
    means: Mapping[str, float]
    spreads: Mapping[str, float]
    edges: Mapping[str, tuple[float, ...]]
    categories: Mapping[str, tuple[Any, ...]]
    rows: int
    kind: ClassVar[str] = "features"

    def apply(self, frame: pl.DataFrame) -> Any:
        """Shape (rows, features), float64. A category that was not seen is 0 in each column, or -1 as a number."""
        asked, found = self.asked, list[Any]()
        for name in asked.keep:
            found.append(self.number(frame, name))
        for name in asked.scale:
            found.append((self.number(frame, name) - self.means[name]) / self.spreads[name])
        for name in asked.bins:
            values = self.number(frame, name)
            found.append(np.where(np.isnan(values), np.nan, np.searchsorted(self.edges[name], values, side="right")))
        for name in asked.ordinal:
            codes = self.codes(frame, name)
            found.append(codes.astype("float64"))
        for name in asked.one_hot:
            codes = self.codes(frame, name)
            found += [(codes == i).astype("float64") for i in range(len(self.categories[name]))]
        for name, parts in asked.date_parts.items():
            for part in parts:
                values = _part(frame, name, part)
                if asked.impute:  # a file of an earlier version knows no such means
                    values = np.where(np.isnan(values), self.means.get(_mean_of(name, part), np.nan), values)
                found.append(values)
        return np.column_stack(found) if found else np.empty((len(frame), 0))

    def number(self, frame: pl.DataFrame, name: str) -> Any:
        values = frame[name].cast(pl.Float64).to_numpy()
        return np.where(np.isnan(values), self.means[name], values) if self.asked.impute else values

    def codes(self, frame: pl.DataFrame, name: str) -> Any:
        values = _as(frame[name], self.inputs[name]).cast(pl.String)
        known = pl.Series(self.categories[name], dtype=pl.String)
        return values.replace_strict(
            known, pl.int_range(len(known), eager=True), default=-1, return_dtype=pl.Int64
        ).to_numpy()

    def shown(self) -> pl.DataFrame:
        count = len(self.names)
        schema = {"feature": pl.String}
        return pl.DataFrame({"feature": list(self.names)}, schema=schema) if count else pl.DataFrame(schema=schema)

    def plain(self) -> dict[str, Any]:
        """For a file."""
        return {
            "asked": {
                **vars(self.asked),
                "date_parts": {k: list(v) for k, v in self.asked.date_parts.items()},
                "bins": dict(self.asked.bins),
                "lags": self.asked.lags and {**vars(self.asked.lags), "inputs": described(self.asked.lags.inputs)},
            },
            "inputs": described(self.inputs),
            "names": list(self.names),
            "means": dict(self.means),
            "spreads": dict(self.spreads),
            "edges": {name: list(each) for name, each in self.edges.items()},
            "categories": {name: list(each) for name, each in self.categories.items()},
            "rows": self.rows,
        }


def from_plain(plain: Mapping[str, Any]) -> Transform:
    """What `plain` wrote."""
    given = dict(plain["asked"])
    asked = Asked(
        **{name: tuple(given[name]) for name in ("keep", "scale", "one_hot", "ordinal")},
        bins=given["bins"],
        date_parts={name: tuple(parts) for name, parts in given["date_parts"].items()},
        impute=given["impute"],
        lags=lags_of(given.get("lags")),
    )
    return Transform(
        asked, schema_of(plain["inputs"]), tuple(plain["names"]), plain["means"], plain["spreads"],
        {name: tuple(each) for name, each in plain["edges"].items()},
        {name: tuple(each) for name, each in plain["categories"].items()}, plain["rows"],
    )  # fmt: skip


def lags_of(plain: Mapping[str, Any] | None) -> Lags | None:
    if plain is None:
        return None
    columns = {name: tuple(each) for name, each in plain["columns"].items()}
    return Lags(columns, tuple(plain["by"]), tuple(plain["order"]), schema_of(plain["inputs"]))


@dataclass(frozen=True)
class Fit:
    """How features are fitted: `partial` of each partition, `final` of all states."""

    asked: Asked
    inputs: Schema

    def partial(self, frame: pl.DataFrame) -> State:
        asked = self.asked
        moments, points = dict[str, tuple[int, float, float]](), dict[str, tuple[Any, Any]]()
        numbers = (*asked.scale, *((*asked.keep, *asked.bins) if asked.impute else ()))
        for name in dict.fromkeys(numbers):
            moments[name] = _moments(frame[name].cast(pl.Float64).to_numpy())
        for name, parts in asked.date_parts.items() if asked.impute else ():
            for part in parts:
                moments[_mean_of(name, part)] = _moments(_part(frame, name, part))
        for name in asked.bins:
            values = frame[name].cast(pl.Float64).to_numpy()
            values = np.sort(values[~np.isnan(values)])
            if len(values) > _POINTS:
                chosen = values[(np.arange(_POINTS) * 2 + 1) * len(values) // (2 * _POINTS)]
                points[name] = (chosen, np.full(_POINTS, len(values) / _POINTS))
            else:
                points[name] = (values, np.ones(len(values)))
        categories = {name: _categories(frame[name]) for name in (*asked.one_hot, *asked.ordinal)}
        return State(len(frame), moments, categories, points)

    def final(self, states: Sequence[State]) -> Transform:
        asked = self.asked
        rows = sum(state.rows for state in states)
        if not rows:
            raise DataError(
                Issue("there are no rows to fit features on", "look at them with --to; `split` names the part")
            )
        means, spreads = dict[str, float](), dict[str, float]()
        for name in states[0].moments:
            count, mean, squares = 0, 0.0, 0.0
            for state in states:  # Chan, Golub, LeVeque 1979
                n, m, s = state.moments[name]
                if n:
                    delta = m - mean
                    squares += s + delta * delta * count * n / (count + n)
                    mean += delta * n / (count + n)
                    count += n
            if not count:
                what = f"the column {name!r} is missing (NULL or NaN) in all rows to fit on: it has no mean"
                raise DataError(Issue(what, "leave it out"))
            if not np.isfinite(mean):
                what = f"the column {name!r} is infinite in some of the rows to fit on: it has no mean"
                raise DataError(Issue(what, "mend them with `derive`, or leave the column out"))
            means[name], spreads[name] = mean, (squares / count) ** 0.5
            if name in asked.scale and not spreads[name] > 1e-12 * abs(mean):
                raise DataError(
                    Issue(
                        f"the column {name!r} is constant ({mean:g}) in the rows to fit on: it cannot be scaled",
                        "leave it out",
                    )
                )
        edges = {name: _edges([state.points[name] for state in states], count) for name, count in asked.bins.items()}
        categories = dict[str, tuple[Any, ...]]()
        for name in states[0].categories:
            seen = pl.concat([state.categories[name] for state in states]).unique("text")
            categories[name] = tuple(seen.sort("value", "text")["text"])
        for name, found in categories.items():
            if not found:
                what = f"the column {name!r} is missing (NULL) in all rows to fit on: it has no categories"
                raise DataError(Issue(what, "leave it out"))
            if len(found) > MOST_CATEGORIES and name in asked.one_hot:
                raise DataError(
                    Issue(
                        f"{name!r} has {len(found):,} categories: too many columns",
                        "use `ordinal`, or group the rare ones with `derive`",
                    )
                )
        names = [
            *asked.keep,
            *asked.scale,
            *(f"{name}_bin" for name in asked.bins),
            *(f"{name}_code" for name in asked.ordinal),
        ]
        names += [f"{name}={each}" for name in asked.one_hot for each in categories[name]]
        names += [f"{name}_{part}" for name, parts in asked.date_parts.items() for part in parts]
        if twice := next((name for i, name in enumerate(names) if name in names[:i]), None):
            raise DataError(Issue(f"two features would have the name {twice!r}", "rename a column before"))
        return Transform(asked, self.inputs, tuple(names), means, spreads, edges, categories, rows)


def _moments(values: Any) -> tuple[int, float, float]:
    values = values[~np.isnan(values)]
    with np.errstate(invalid="ignore"):  # of infinite numbers, which `final` refuses
        mean = float(values.mean()) if len(values) else 0.0
        return len(values), mean, float(np.square(values - mean).sum())


def _part(frame: pl.DataFrame, name: str, part: str) -> Any:
    return getattr(frame[name].dt, part)().cast(pl.Float64).to_numpy()


def _mean_of(name: str, part: str) -> str:
    return f"{part} of {name}"


def _categories(values: pl.Series) -> pl.DataFrame:
    """In their own type they are in order: numbers by size, those of an enum as it lists them."""
    known = values.drop_nulls()
    text = known.cast(pl.String)
    ordered = text if isinstance(known.dtype, pl.Categorical) else known
    return pl.DataFrame({"text": text, "value": ordered}).unique("text")


def _as(values: pl.Series, fitted: pl.DataType) -> pl.Series:
    """Numbers in the type that was fitted, since categories are compared as texts (1, 1.0); NULL where it has no such number."""
    numbers = values.dtype.is_numeric() and fitted.is_numeric()
    if not numbers or values.dtype == fitted or (values.dtype.is_float() and fitted.is_float()):
        return values
    cast = values.cast(fitted, strict=False)
    return cast.set(cast.cast(values.dtype, strict=False).ne_missing(values), None)


def _edges(found: Sequence[tuple[Any, Any]], count: int) -> tuple[float, ...]:
    """Where bins begin: at the smallest value with more than 1/count, 2/count, ... of the rows at or below it."""
    values = np.concatenate([each[0] for each in found])
    weights = np.concatenate([each[1] for each in found])
    order = np.argsort(values, kind="stable")
    values, below = values[order], np.cumsum(weights[order])
    if not len(values):
        return ()
    at = np.searchsorted(below, below[-1] * np.arange(1, count) / count, side="right")
    edges = np.unique(values[np.minimum(at, len(values) - 1)])
    return tuple(edges[edges > values[0]].tolist())  # below the smallest there would be an empty bin
