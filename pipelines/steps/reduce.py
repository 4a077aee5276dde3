from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any, ClassVar

import numpy as np
import polars as pl
from pydantic import Field

from pipelines.errors import DataError, Issue, did_you_mean
from pipelines.steps.base import Context, Problems, Step
from pipelines.types import Schema
from pipelines.values import Array, Metrics, finite
from pipelines.work import Builder, Ref, Work

_PLAIN = ("count", "mean", "sum", "std", "min", "max")
_TAIL = ("quantile", "value_at_risk", "expected_shortfall")
_FAN_IN = 4
"""So few, that the last one, which is alone, has little to do: each may keep a twentieth of all numbers."""


@dataclass(frozen=True)
class Numbers:
    """What a reduction found: names, values and their standard errors."""

    values: Mapping[str, float]
    errors: Mapping[str, float] = field(default_factory=dict)
    kind: ClassVar[str] = "metrics"

    def shown(self) -> pl.DataFrame:
        rows: dict[str, Any] = {"metric": list(self.values), "value": list(self.values.values())}
        rows["standard_error"] = [self.errors.get(name) for name in self.values]
        return pl.DataFrame(rows, schema={"metric": pl.String, "value": pl.Float64, "standard_error": pl.Float64})

    def files(self) -> dict[str, bytes]:
        import json

        found = finite({"values": self.values, "standard_errors": self.errors})
        return {"metrics.json": (json.dumps(found, indent=2) + "\n").encode()}


@dataclass(frozen=True)
class State:
    """Of some numbers: how many, the mean and sum of squared deviations of those that are finite (Chan, Golub, LeVeque 1979), both ends,
    and how many are not finite: in one mean with the others, what it becomes would depend on the partitions."""

    count: int
    mean: float
    squares: float
    least: Any
    most: Any
    above: int = 0
    """Infinite."""
    below: int = 0
    """Minus infinite."""
    missing: int = 0
    """NaN."""

    @property
    def finite(self) -> int:
        return self.count - self.above - self.below - self.missing


@dataclass(frozen=True)
class Partial:
    low: int
    """So many of the smallest numbers are kept, in order."""
    high: int

    def __call__(self, block: Any) -> State:
        numbers = np.ravel(block).astype("float64", copy=False)
        with np.errstate(all="ignore"):
            mean = float(numbers.mean()) if numbers.size else 0.0
            finite = numbers if math.isfinite(mean) else numbers[np.isfinite(numbers)]
            if finite is not numbers:  # the sum of huge numbers may be infinite, but not their mean
                mean = float((finite / finite.size).sum()) if finite.size else 0.0
            squares = float(np.square(finite - mean).sum())
        others = (0, 0, 0)
        if finite.size < numbers.size:
            others = (int((numbers == np.inf).sum()), int((numbers == -np.inf).sum()), int(np.isnan(numbers).sum()))
        return State(numbers.size, mean, squares, _least(numbers, self.low), _most(numbers, self.high), *others)

    def combine(self, states: Sequence[State]) -> State:
        count, mean, squares = 0, 0.0, 0.0
        for each in states:
            if each.finite:
                total, delta = count + each.finite, each.mean - mean
                squares += each.squares + (delta * delta * count * each.finite / total if count else 0.0)
                mean += delta * (each.finite / total)
                count = total
        least = _least(np.concatenate([each.least for each in states]), self.low)
        most = _most(np.concatenate([each.most for each in states]), self.high)
        whole = sum(each.count for each in states)
        above, below, missing = (sum(getattr(s, name) for s in states) for name in ("above", "below", "missing"))
        return State(whole, mean, squares, least, most, above, below, missing)


def _least(numbers: Any, count: int) -> Any:
    """The smallest of them, in no order."""
    return np.partition(numbers, count - 1)[:count] if 0 < count < numbers.size else numbers[: min(count, numbers.size)]


def _most(numbers: Any, count: int) -> Any:
    """The largest of them, in no order."""
    first = numbers.size - count
    return np.partition(numbers, first)[first:] if 0 < first < numbers.size else numbers[: min(count, numbers.size)]


@dataclass(frozen=True)
class Wanted:
    """One number: its function and, of a tail, its level."""

    function: str
    level: Fraction = Fraction(0)
    """As it is written: in floating point 100 * 0.07 is above 7."""

    def rank(self, count: int) -> int:
        return max(1, math.ceil(count * self.level))

    def kept(self, total: int) -> tuple[int, int]:
        """How many of the smallest and of the largest of so many numbers it needs, with those that tell its error."""
        if self.function in ("min", "max"):
            return (1, 0) if self.function == "min" else (0, 1)
        if self.function not in _TAIL:
            return 0, 0
        spare = math.ceil(math.sqrt(total * self.level * (1 - self.level))) + 2
        if self.function != "expected_shortfall" and self.level < 0.5:
            return min(total, self.rank(total) + spare), 0
        return 0, min(total, math.ceil(total * (1 - self.level)) + spare)


@dataclass(frozen=True)
class Final:
    wanted: Mapping[str, Wanted]

    def __call__(self, state: State) -> Numbers:
        if state.missing or not state.count:
            what = "NaN is among the numbers" if state.count else "there are no numbers"
            raise DataError(Issue(f"reduce: {what}", "look where they come from with --to"))
        infinite = math.inf if state.above else -math.inf if state.below else 0.0
        state = replace(
            state,
            mean=math.nan if state.above and state.below else state.mean + infinite,
            squares=math.nan if infinite else state.squares,
            least=np.sort(state.least),
            most=np.sort(state.most),
        )
        values, errors = dict[str, float](), dict[str, float]()
        with np.errstate(all="ignore"):
            for name, each in self.wanted.items():
                value, error = self.number(each, state)
                values[name] = value
                if error is not None:
                    errors[name] = error
        return Numbers(values, errors)

    def number(self, wanted: Wanted, state: State) -> tuple[float, float | None]:
        n = state.count
        spread = math.sqrt(state.squares / (n - 1)) if n > 1 else math.nan
        if wanted.function in _PLAIN:
            plain = {"count": float(n), "mean": state.mean, "sum": state.mean * n, "std": spread}
            ends = {"min": state.least, "max": state.most}
            value = (
                plain[wanted.function]
                if wanted.function in plain
                else float(ends[wanted.function][0 if wanted.function == "min" else -1])
            )
            plain_errors = {
                "mean": spread / math.sqrt(n),
                "sum": spread * math.sqrt(n),
                "std": spread / math.sqrt(2 * n),
            }
            return value, plain_errors.get(wanted.function)
        q, at = float(wanted.level), wanted.rank(n)
        value = self.ranked(at, state)
        spare = math.sqrt(n * q * (1 - q))
        # half the distance of the order statistics one standard deviation of the binomial count away
        width = self.ranked(min(n, math.ceil(at + spare)), state) - self.ranked(max(1, math.floor(at - spare)), state)
        if wanted.function != "expected_shortfall":
            return value, width / 2
        tail = state.most[len(state.most) - (n - at) :] if n > at else state.most[-1:]
        beyond = float(tail.mean())
        # Manistre and Hancock, Variance of the CTE estimator, 2005: (Var(tail) + q (ES - VaR)^2) / (n (1 - q))
        error = math.sqrt((float(tail.var()) + q * (beyond - value) * (beyond - value)) / len(tail))
        return beyond, error

    def ranked(self, rank: int, state: State) -> float:
        """The number of that rank, from 1 on."""
        if rank <= len(state.least):
            return float(state.least[rank - 1])
        return float(state.most[max(0, len(state.most) - (state.count - rank) - 1)])


@dataclass(frozen=True)
class Reduced(Work):
    partial: Partial
    final: Final

    def lower(self, builder: Builder, inputs: Sequence[Sequence[Ref]]) -> Sequence[Ref]:
        states = [builder.task("partial", (i,), self.partial, each) for i, each in enumerate(inputs[0])]
        level = 0
        while len(states) > 1:
            level += 1
            groups = [states[i : i + _FAN_IN] for i in range(0, len(states), _FAN_IN)]
            states = [
                builder.task("combine", (level, i), self.partial.combine, group) for i, group in enumerate(groups)
            ]
        return [builder.task("", (0,), self.final, states[0])]


class Reduce(Step):
    """Reduce all numbers of an array to a few, with their standard errors.

    Functions are `count`, `mean`, `sum`, `std`, `min`, `max`, `quantile(0.05)`, `value_at_risk(0.99)` (the same quantile, of losses)
    and `expected_shortfall(0.99)` (the mean of what is beyond it). Quantiles are exact: the number of rank n * level, rounded up.
    Infinite numbers count as in NumPy, NaN is an error. Errors of quantiles are half the distance of the ranks one standard deviation away; those of shortfalls after Manistre and Hancock (2005).
    """

    kind = "reduce"
    version = 2
    takes = (("array",),)
    gives = "metrics"
    example: ClassVar[str] = (
        "reduce: {values: {mean_loss: mean, var_99: value_at_risk(0.99), es_99: expected_shortfall(0.99)}}"
    )

    values: dict[str, str] = Field(min_length=1, description="Name: function.")

    def bind(self, schema: Schema, problems: Problems, context: Context) -> Work | None:
        [array] = context.values
        assert isinstance(array, Array)
        total = None if None in array.shape else math.prod(n or 0 for n in array.shape)
        wanted = dict[str, Wanted]()
        for name, text in self.values.items():
            found = re.fullmatch(r"\s*(\w+)\s*(?:\(\s*([-+.\w]*)\s*\))?\s*", text)
            if found is None or found[1] not in (*_PLAIN, *_TAIL):
                word = found[1] if found else text
                problems.add(("values", name), f"unknown function {word!r}", did_you_mean(word, (*_PLAIN, *_TAIL)))
            elif found[1] in _PLAIN:
                if found[2]:
                    problems.add(("values", name), f"{found[1]} takes nothing in brackets", f"write {found[1]}")
                wanted[name] = Wanted(found[1])
            else:
                try:  # as a float first: 1e-999999999 is a long fraction
                    level = Fraction(found[2]) if 0 < float(found[2] or "nan") < 1 else None
                except ValueError:
                    level = None
                if level is None:
                    problems.add(
                        ("values", name), f"{found[1]} takes a level between 0 and 1", f"write {found[1]}(0.99)"
                    )
                elif total is None:
                    problems.add(
                        ("values", name),
                        "a quantile is taken of an array whose number of rows the plan knows",
                        "of a table, `aggregate` has quantile()",
                    )
                else:
                    wanted[name] = Wanted(found[1], level)
        if problems.issues:
            return None
        kept = [each.kept(total or 0) for each in wanted.values()]
        partial = Partial(max(low for low, _ in kept), max(high for _, high in kept))
        return Reduced(Metrics(), {}, partial, Final(wanted))

    def identity(self) -> Mapping[str, Any]:
        return {"values": list(self.values.items())}
