from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from pipelines.arrays import OnArrays, plan
from pipelines.steps.base import Context, Problems, Step
from pipelines.types import Schema
from pipelines.values import Array
from pipelines.work import Work


@dataclass(frozen=True)
class Standardized(OnArrays):
    def build(self, arrays: Sequence[Any]) -> Any:
        import dask.array as da

        [x] = arrays
        numbers = x.astype("float64")
        # over the smallest number a constant column is 0 exactly: the mean of many times 0.1 is not 0.1
        least = da.reduction(numbers, _least, _least, axis=0, dtype="float64", meta=np.empty(0))
        above = numbers - least
        mean, spread = da.nanmean(above, axis=0), da.nanstd(above, axis=0)
        found = (above - mean) / da.where(spread > 0, spread, 1)
        return found.astype(x.dtype) if x.dtype.kind == "f" else found


def _least(x: Any, axis: tuple[int, ...], keepdims: bool) -> Any:
    """NaN is left out; of nothing it is infinite."""
    return np.nanmin(x, axis=axis, keepdims=keepdims, initial=np.inf)


class Standardize(Step):
    """Standardize an array's columns: less their mean, over their standard deviation (population). A constant column becomes 0.

    NaN is left out of both and stays NaN. It is fitted on the whole array: for a model, use `features`, which are fitted on the training part.
    """

    kind = "standardize"
    version = 2
    takes = (("array",),)
    gives = "array"
    example: ClassVar[str] = "standardize: {}"

    def bind(self, schema: Schema, problems: Problems, context: Context) -> Work | None:
        values = tuple(value for value in context.values if isinstance(value, Array))
        if len(values[0].shape) != 2:
            problems.add((), f"this is {values[0]}: it has no rows and columns", "standardize two dimensions")
            return None
        return Standardized(plan(Standardized(values[0], {}, values).build, values), {}, values)
