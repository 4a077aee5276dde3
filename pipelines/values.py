"""What steps pass to one another beside tables: arrays, fitted features, models and metrics, as the plan knows them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from pipelines.types import Schema

Kind = Literal["table", "array", "features", "model", "metrics", "nothing"]


@dataclass(frozen=True)
class Value:
    """What a step gives."""

    kind: ClassVar[Kind] = "table"

    def __str__(self) -> str:
        return f"a {self.kind}"


@dataclass(frozen=True)
class Array(Value):
    """Chunks as Dask has them: of each dimension the lengths. An array made of a table has ((None,), (columns,)): how many rows
    and chunks there are is known when it is cut into partitions."""

    kind: ClassVar[Kind] = "array"
    chunks: tuple[tuple[int | None, ...], ...]
    dtype: str

    @property
    def shape(self) -> tuple[int | None, ...]:
        return tuple(None if None in each else sum(n or 0 for n in each) for each in self.chunks)

    @property
    def blocks(self) -> int:
        count = 1
        for each in self.chunks:
            count *= len(each)
        return count

    def __str__(self) -> str:
        shape = " x ".join("?" if n is None else f"{n:,}" for n in self.shape) or "one number"
        blocks = "a chunk a partition" if None in self.shape else f"{self.blocks:,} chunk{'s' * (self.blocks != 1)}"
        return f"an array of {shape} {self.dtype}, {blocks}"


@dataclass(frozen=True)
class Lags:
    """Numbers of earlier rows of the same group, for features: computed on every table before its rows are learnt from or predicted."""

    columns: Mapping[str, tuple[int, ...]]
    """Of which columns, and how many rows before."""
    by: tuple[str, ...]
    order: tuple[str, ...]
    inputs: Schema
    """Of all columns that they need."""

    @property
    def names(self) -> Mapping[str, tuple[str, int]]:
        """New column: of which column, how many rows before."""
        return {f"{name}_lag{n}": (name, n) for name, each in self.columns.items() for n in each}


@dataclass(frozen=True)
class Features(Value):
    """Fitted features: which columns of which types they are made of."""

    kind: ClassVar[Kind] = "features"
    inputs: Schema
    fit: object
    """How they are fitted: who tries on folds fits them anew without each."""
    lags: Lags | None = None
    part: str | None = None
    """Of a split table the rows that they are fitted on; None: all."""
    on_all: bool = False
    """Whether all rows were asked for."""

    def __str__(self) -> str:
        return f"features of {', '.join(self.inputs)}"


@dataclass(frozen=True)
class Model(Value):
    """A trained model: the columns it needs, what it is for, and what it predicts."""

    kind: ClassVar[Kind] = "model"
    task: Literal["classification", "regression", "clustering"]
    inputs: Schema
    target: str | None
    target_type: str | None
    estimator: str
    how: str
    """How it is trained, in plain words."""
    lags: Lags | None = None
    loaded: bool = False
    """Whether it is there when the run begins."""
    chances: bool = True
    """Whether it tells probabilities of classes."""

    def __str__(self) -> str:
        of = f" of {self.target}" if self.target else ""
        return f"a model: {self.task}{of} by {self.estimator}, {self.how}"


@dataclass(frozen=True)
class Metrics(Value):
    """Named numbers."""

    kind: ClassVar[Kind] = "metrics"

    def __str__(self) -> str:
        return "metrics"


@dataclass(frozen=True)
class Nothing(Value):
    """Of a step that only writes."""

    kind: ClassVar[Kind] = "nothing"


def finite(value: Any) -> Any:
    """For JSON, whose strict readers know neither NaN nor infinities: null instead."""
    if isinstance(value, Mapping):
        return {key: finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
