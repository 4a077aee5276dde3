"""NumPy's functions for Dask's arrays: Dask's own, but for those that fail, or give NaN, where a chunk has no rows: behind a filter
that is common."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import dask.array as da
import numpy as np
from numpy.lib.array_utils import normalize_axis_tuple

from pipelines.errors import DataError, Issue

_MOMENTS = np.dtype([("count", "f8"), ("mean", "f8"), ("squares", "f8")])
"""How many numbers, their mean and sum of squared deviations."""


def __getattr__(name: str) -> Any:
    return getattr(da, name)


def max(a: Any, axis: Any = None, keepdims: bool = False) -> Any:
    return _ends(np.max, a, axis, keepdims)


def min(a: Any, axis: Any = None, keepdims: bool = False) -> Any:
    return _ends(np.min, a, axis, keepdims)


def std(a: Any, axis: Any = None, ddof: float = 0, keepdims: bool = False) -> Any:
    return _spread(np.std, a, axis, ddof, keepdims)


def var(a: Any, axis: Any = None, ddof: float = 0, keepdims: bool = False) -> Any:
    return _spread(np.var, a, axis, ddof, keepdims)


def clip(a: Any, a_min: Any = None, a_max: Any = None, *, min: Any = None, max: Any = None) -> Any:
    if (a_min is not None or a_max is not None) and (min is not None or max is not None):
        raise ValueError("the ends are given twice")
    ends = (a_min, a_max) if min is None and max is None else (min, max)  # Dask knows the first names only
    return da.clip(a, *(np.asarray(each) if isinstance(each, list) else each for each in ends))


def cumsum(a: Any, axis: Any = None) -> Any:
    return _cumulative(da.cumsum, a, axis)


def cumprod(a: Any, axis: Any = None) -> Any:
    return _cumulative(da.cumprod, a, axis)


def argmax(a: Any, axis: Any = None, keepdims: bool = False) -> Any:
    return da.argmax(_with_rows(_some("argmax", a, axis)), axis=axis, keepdims=keepdims)


def argmin(a: Any, axis: Any = None, keepdims: bool = False) -> Any:
    return da.argmin(_with_rows(_some("argmin", a, axis)), axis=axis, keepdims=keepdims)


def tensordot(a: Any, b: Any, axes: Any = 2) -> Any:
    a, b = da.asanyarray(a), da.asanyarray(b)
    left, right = (range(-axes, 0), range(axes)) if isinstance(axes, int) else axes
    lengths = [
        tuple(x.shape[i] for i in ([along] if isinstance(along, int) else along))
        for x, along in ((a, left), (b, right))
    ]
    # Dask repeats a length of 1; two arrays of a table may well have as many rows
    if len(lengths[0]) != len(lengths[1]) or any(
        m != n and not (math.isnan(m) and math.isnan(n)) for m, n in zip(*lengths, strict=True)
    ):
        raise ValueError(f"lengths {lengths[0]} and {lengths[1]} do not fit tensordot".replace("nan", "?"))
    # Dask adds truth values of several chunks as numbers
    return da.tensordot(a, b, axes=axes).astype(np.result_type(a.dtype, b.dtype))


def where_lengths_agree(function: Any, *arrays: Any) -> Any:
    """A function of elements, of chunks whose lengths only the data tells."""
    unknown = [
        tuple(i - each.ndim for i, n in enumerate(each.shape) if math.isnan(n)) if hasattr(each, "shape") else ()
        for each in arrays
    ]
    return da.core.elemwise(partial(_agreeing, function, unknown), *arrays)


def _agreeing(function: Any, unknown: Any, *blocks: Any) -> Any:
    for axis in {axis for each in unknown for axis in each}:
        lengths = sorted({block.shape[axis] for block, each in zip(blocks, unknown, strict=True) if axis in each})
        if len(lengths) > 1:
            what = f"array: two arrays have {lengths[0]} and {lengths[1]} rows in the same chunk"
            raise DataError(Issue(what, "make them of the same rows of one table"))
    return function(*blocks)


def _cumulative(which: Any, a: Any, axis: Any) -> Any:
    a = da.asanyarray(a)
    if axis is None and a.ndim != 1 and any(map(math.isnan, a.shape)):
        raise ValueError("only the data tells how many numbers these are: give an axis")
    if axis is None:  # Dask cuts them into as many numbers as there are chunks, each a task
        a, axis = a.flatten(), 0
    return which(a, axis=axis, method="blelloch")  # the other method takes each chunk's last row


def _some(name: str, a: Any, axis: Any) -> Any:
    a = da.asanyarray(a)
    if any(not a.shape[i] for i in _axes(a, axis)):
        raise ValueError(f"there is no {name} of no numbers")
    return a


def _with_rows(a: Any) -> Any:
    """Without the chunks that are known to be empty."""
    a = da.asanyarray(a)
    return a.rechunk(tuple(tuple(n for n in each if n) or (0,) for each in a.chunks)) if 0 not in a.shape else a


def _axes(a: Any, axis: Any) -> tuple[int, ...]:
    return tuple(normalize_axis_tuple(range(a.ndim) if axis is None else axis, a.ndim))


def _reduced(a: Any, axis: Any, keepdims: bool, dtype: Any, state: Any, **functions: Any) -> Any:
    axes = _axes(a, axis)
    meta = np.empty((0,) * (a.ndim if keepdims else a.ndim - len(axes)), dtype)
    return da.reduction(a, axis=axes, keepdims=keepdims, dtype=state, meta=meta, **functions)


def _ends(which: Any, a: Any, axis: Any, keepdims: bool) -> Any:
    a = _some(which.__name__, a, axis)
    part = partial(_end, which)
    return _reduced(a, axis, keepdims, a.dtype, a.dtype, chunk=part, combine=part, aggregate=partial(_last_end, which))


def _end(which: Any, x: Any, axis: tuple[int, ...], keepdims: bool) -> Any:
    """Nothing, of nothing."""
    if any(not x.shape[i] for i in axis):
        return np.empty([np.minimum(n, 1) if i in axis else n for i, n in enumerate(x.shape)], x.dtype)
    return which(x, axis=axis, keepdims=keepdims)


def _last_end(which: Any, x: Any, axis: tuple[int, ...], keepdims: bool) -> Any:
    if any(not x.shape[i] for i in axis):
        raise DataError(
            Issue(f"array: there is no {which.__name__} of no rows", "look where the rows are lost with --to")
        )
    return which(x, axis=axis, keepdims=keepdims)


def _spread(which: Any, a: Any, axis: Any, ddof: float, keepdims: bool) -> Any:
    a = da.asanyarray(a)
    dtype = which(np.ones(1, a.dtype)).dtype
    last = partial(_last, which is np.std, ddof, dtype)
    return _reduced(a, axis, keepdims, dtype, _MOMENTS, chunk=_moments, combine=_together, aggregate=last)


def _moments(x: Any, axis: tuple[int, ...], keepdims: bool) -> Any:
    count = math.prod(x.shape[i] for i in axis)
    found = np.zeros([1 if i in axis else n for i, n in enumerate(x.shape)], _MOMENTS)
    found["count"] = count
    if count:
        with np.errstate(all="ignore"):
            found["mean"] = x.mean(axis=axis, dtype="f8", keepdims=True)
            found["squares"] = np.square(x - found["mean"]).sum(axis=axis, keepdims=True)
    return found


def _together(states: Any, axis: tuple[int, ...], keepdims: bool) -> Any:
    """Chan, Golub, LeVeque 1979."""
    found = np.empty([1 if i in axis else n for i, n in enumerate(states.shape)], _MOMENTS)
    with np.errstate(all="ignore"):
        found["count"] = states["count"].sum(axis=axis, keepdims=True)
        total = (states["count"] * states["mean"]).sum(axis=axis, keepdims=True)
        found["mean"] = total / np.maximum(found["count"], 1)
        apart = states["count"] * np.square(states["mean"] - found["mean"])
        found["squares"] = (states["squares"] + apart).sum(axis=axis, keepdims=True)
    return found


def _last(root: bool, ddof: float, gives: Any, states: Any, axis: tuple[int, ...], keepdims: bool) -> Any:
    total = _together(states, axis, True)
    with np.errstate(all="ignore"):
        found = (total["squares"] / np.maximum(total["count"] - ddof, 0)).astype(gives)
        found = np.sqrt(found) if root else found
    return found if keepdims else found.squeeze(axis)
