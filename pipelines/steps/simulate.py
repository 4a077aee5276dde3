from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from pipelines import events
from pipelines.code import Function
from pipelines.errors import DataError, Issue, may_pass
from pipelines.steps.base import Context, Problems, Step, in_order
from pipelines.types import Schema
from pipelines.values import Array
from pipelines.work import Builder, Ref, Work

STREAM = 16_384
"""Paths of one random stream; a chunk is made of several."""


@dataclass(frozen=True)
class Brownian:
    """Geometric Brownian motion, exact at each step: S(t + dt) = S(t) * exp((mu - sigma^2 / 2) dt + sigma sqrt(dt) Z)
    (Glasserman, Monte Carlo Methods in Financial Engineering, 2003, section 3.2.3)."""

    start: tuple[float, ...]
    drift: tuple[float, ...]
    """A year, of each asset."""
    volatility: tuple[float, ...]
    root: tuple[tuple[float, ...], ...] | None
    """Cholesky's, of the correlation; None where assets move by themselves."""
    years: float
    steps: int
    all: bool
    """Whether to keep the prices at each step, not only at the end."""

    def __call__(self, rng: np.random.Generator, paths: int) -> Any:
        start, drift, sigma = (np.array(each) for each in (self.start, self.drift, self.volatility))
        dt, assets = self.years / self.steps, len(self.start)
        total = np.zeros((assets, paths))
        way = np.ones((paths, self.steps + 1, assets)) * start if self.all else None
        for step in range(self.steps):
            z = rng.standard_normal((assets, paths))
            for j in reversed(range(assets)):  # row by row: the same bits whatever BLAS does
                if self.root is not None:
                    z[j] *= self.root[j][j]
                    for k in range(j):
                        z[j] += self.root[j][k] * z[k]
                z[j] *= sigma[j] * np.sqrt(dt)
            for j in range(assets):
                z[j] += (drift[j] - sigma[j] ** 2 / 2) * dt
                total[j] += z[j]
                if way is not None:
                    way[:, step + 1, j] = start[j] * np.exp(total[j])
        if way is not None:
            return way
        np.exp(total, out=total)
        total *= start[:, None]
        return total.T


@dataclass(frozen=True)
class Called:
    """A function of the user's."""

    function: Function
    arguments: Mapping[str, Any]

    def __call__(self, rng: np.random.Generator, paths: int) -> Any:
        function, failed = self.function.load(), ""
        try:
            return function(rng, paths, **self.arguments)
        except (Exception, SystemExit) as error:
            failed, passing = f"{type(error).__name__}: {error}".split("\n", 1)[0], may_pass(error)
            events.tell_traceback(str(self.function), error)
        wrong = DataError(
            Issue(f"{self.function} failed: {failed}", "mend the function; the traceback is in the run's log.jsonl")
        )
        wrong.passing = passing
        raise wrong


@dataclass(frozen=True)
class Streams:
    """Some streams of paths, one after another; stream i is seeded by (seed, i), whoever makes it, and together with whatever others."""

    make: Brownian | Called
    seed: int
    shape: tuple[int, ...]
    dtype: str

    def __call__(self, first: int, paths: int) -> Any:
        block = np.empty((paths, *self.shape), dtype=self.dtype)
        for at in range(0, paths, STREAM):
            size = min(STREAM, paths - at)
            rng = np.random.Generator(
                np.random.PCG64(np.random.SeedSequence(self.seed, spawn_key=(first + at // STREAM,)))
            )
            made = _numbers(self.make(rng, size))
            if made.shape != (size, *self.shape):
                wanted = (size, *self.shape)
                raise DataError(
                    Issue(
                        f"simulate got an array of shape {made.shape}, not {wanted}",
                        "make `shape` and the function agree",
                    )
                )
            block[at : at + size] = made
        return block


def _numbers(made: Any) -> Any:
    """Raises DataError where these are none."""
    try:
        found = np.asarray(made)
        if found.dtype == object:
            found = found.astype("float64")
        if found.dtype.kind in "biuf":
            return found
        what = f"an array of {found.dtype}"
    except (TypeError, ValueError) as error:
        what = f"a value of type {type(made).__name__} that is no array of numbers ({error})"
    raise DataError(Issue(f"simulate got {what}", "let the function return an array of real numbers"))


@dataclass(frozen=True)
class Simulated(Work):
    streams: Streams
    paths: tuple[int, ...]
    """Of each chunk; all but the last are whole streams."""

    @property
    def functions(self) -> tuple[Function, ...]:  # type: ignore[override]
        return (self.streams.make.function,) if isinstance(self.streams.make, Called) else ()

    @property
    def cuts(self) -> tuple[int, ...]:  # type: ignore[override]
        return self.paths

    def count(self, inputs: Sequence[int]) -> int:
        return len(self.paths)

    def lower(self, builder: Builder, inputs: Sequence[Sequence[Ref]]) -> Sequence[Ref]:
        rest, found, at = (0,) * len(self.streams.shape), list[Ref](), 0
        for i, size in enumerate(self.paths):
            found.append(builder.task("", (i, *rest), self.streams, at // STREAM, size))
            at += size
        return found


class Asset(BaseModel):
    """One asset of a simulation."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    start: float = Field(1.0, gt=0, description="The price at the beginning.")
    drift: float = Field(0.0, description="Expected growth a year: 0.05 is 5 % (continuous).")
    volatility: float = Field(ge=0, description="Standard deviation of a year's log return.")


def _root(matrix: Any) -> tuple[tuple[float, ...], ...] | None:
    """Cholesky's. None where no assets can be correlated like this."""
    try:
        return tuple(map(tuple, np.linalg.cholesky(matrix).tolist()))
    except np.linalg.LinAlgError:  # perhaps an asset only moves as others do, and has nothing of its own
        root = np.zeros_like(matrix)
    for j in range(len(matrix)):
        rest = matrix[j:, j] - (root[j:, :j] * root[j, :j]).sum(axis=1)
        if rest[0] > 1e-12:
            root[j:, j] = rest / np.sqrt(rest[0])
    found = (root[:, None] * root).sum(axis=2)
    return tuple(map(tuple, root.tolist())) if np.abs(found - matrix).max() < 1e-9 else None


class Simulate(Step):
    """Simulate random paths, as an array: geometric Brownian motion of correlated assets, or what a function makes of a generator.

    Prices at the end have the shape (paths, assets), with `keep: all` those at each step (paths, steps + 1, assets). A function
    is called as `function(rng, paths, **arguments)` and returns an array of shape (paths, *shape).

    The same numbers on every executor and for every `chunk`: each 16,384 paths have a random stream of their own.
    """

    model_config = ConfigDict(allow_inf_nan=False)
    kind = "simulate"
    role = "source"
    takes = ()
    gives = "array"
    example: ClassVar[str] = (
        "simulate: {paths: 100000, assets: {NVDA: {start: 100, drift: 0.05, volatility: 0.4}}, years: 1}"
    )

    paths: int = Field(ge=1, description="How many.")
    assets: dict[str, Asset] | None = Field(
        None, min_length=1, description="Name: {start, drift, volatility}, a year's."
    )
    correlation: list[list[float]] | None = Field(
        None, description="Of the assets' log returns, as a matrix. Default: none."
    )
    years: float = Field(1.0, gt=0, description="How long: ten days of trading are 10 / 252 = 0.0397.")
    steps: int = Field(1, ge=1, description="Into how many equal steps that is cut.")
    keep: Literal["last", "all"] = Field("last", description="last: the prices at the end. all: at each step.")
    function: str | None = Field(
        None, pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$", description="Instead of `assets`: `module:function`."
    )
    arguments: dict[str, Any] = Field({}, description="Further keyword arguments of the function.")
    shape: list[int] = Field([], description="Of what the function makes for one path; []: one number.")
    dtype: Literal["float64", "float32"] = Field("float64", description="Of the array.")
    seed: int = Field(0, ge=0, description="Another seed gives other paths.")
    chunk: int | None = Field(
        None, ge=1, description="Paths in a chunk, rounded up to whole streams. Default: about 32 MB."
    )

    def bind(self, schema: Schema, problems: Problems, context: Context) -> Work | None:
        make: Brownian | Called | None = None
        shape: tuple[int, ...] = ()
        if (self.assets is None) == (self.function is None):
            problems.add((), "say what to simulate: either `assets` or `function`", f"for example `{self.example}`")
        elif self.assets is not None:
            problems.unused(self, ("arguments", "shape"), "assets")
            make, shape = self._brownian(problems), (len(self.assets),)
            shape = (self.steps + 1, *shape) if self.keep == "all" else shape
        else:
            assert self.function is not None
            problems.unused(self, ("correlation", "years", "steps", "keep"), "function")
            found = problems.function(("function",), self.function, context)
            shape = tuple(self.shape)
            if found:
                self._arguments(found[1], problems)
                make = Called(found[0], self.arguments)
            if any(n < 1 for n in shape):
                problems.add(("shape",), "a dimension has at least length 1", "shape: [3]")
        if problems.issues or make is None:
            return None
        width = int(np.prod(shape, dtype=np.int64)) * np.dtype(self.dtype).itemsize
        wanted = self.chunk or max(1, (32 << 20) // width)
        size = min(-(-wanted // STREAM) * STREAM, self.paths)
        sizes = (size,) * (self.paths // size) + ((self.paths % size,) if self.paths % size else ())
        gives = Array((sizes, *((n,) for n in shape)), self.dtype)
        return Simulated(gives, {}, Streams(make, self.seed, shape, self.dtype), sizes)

    def _brownian(self, problems: Problems) -> Brownian | None:
        assets = list((self.assets or {}).values())
        root = None
        if self.correlation is not None:
            names = ", ".join(self.assets or {})
            if any(len(row) != len(assets) for row in self.correlation) or len(self.correlation) != len(assets):
                problems.add(
                    ("correlation",),
                    f"it is not {len(assets)} x {len(assets)}",
                    f"a row and a column for each of {names}",
                )
                return None
            matrix = np.array(self.correlation)
            if not (np.array_equal(matrix, matrix.T) and np.all(np.diag(matrix) == 1)):
                problems.add(
                    ("correlation",), "it is not symmetric with ones on its diagonal", "1 of each asset with itself"
                )
                return None
            if (root := _root(matrix)) is None:
                problems.add(
                    ("correlation",),
                    "no assets can be correlated like this: it is not positive semidefinite",
                    "make the correlations smaller",
                )
                return None
        start, drift, volatility = (
            tuple(getattr(each, name) for each in assets) for name in ("start", "drift", "volatility")
        )
        return Brownian(start, drift, volatility, root, self.years, self.steps, self.keep == "all")

    def _arguments(self, function: Callable[..., Any], problems: Problems) -> None:
        try:
            inspect.signature(function).bind(None, 1, **self.arguments)
        except TypeError as error:
            where = ("arguments",) if self.arguments else ("function",)
            problems.add(
                where,
                f"{self.function}{inspect.signature(function)}: {error}",
                "it is called with a generator and the number of paths, the others come from `arguments`",
            )
        except ValueError:  # some functions written in C tell none
            return

    def identity(self) -> Mapping[str, Any]:
        dumped = self.model_dump(mode="json", exclude={"chunk"})
        return {name: in_order(each) for name, each in dumped.items()}
