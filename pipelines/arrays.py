"""Steps on arrays: each is a function of Dask arrays. The plan calls it on arrays without tasks, to know shape, chunks and type;
lowering calls it on arrays whose chunks are other tasks' results.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import polars as pl

from pipelines.errors import DataError, Issue
from pipelines.types import Schema, dtype_name
from pipelines.values import Array, Value
from pipelines.work import Builder, Ref, Work


def chunked(value: Array) -> tuple[tuple[float, ...], ...]:
    """Chunks as Dask writes them: NaN for those that only the data knows."""
    return tuple(tuple(math.nan if n is None else n for n in each) for each in value.chunks)


def over(name: str, value: Array) -> Any:
    """A Dask array over chunks that other tasks make: they are named (name, i, j, ...)."""
    import dask.array as da

    return da.Array({}, name, chunked(value), dtype=value.dtype)


def known(array: Any) -> Array:
    """What the plan knows of a Dask array. Where it does not know lengths, it does not know into how many chunks either."""
    chunks = tuple((None,) if any(map(math.isnan, each)) else tuple(map(int, each)) for each in array.chunks)
    return Array(chunks, str(array.dtype))


@dataclass(frozen=True)
class OnArrays(Work):
    """A function of Dask arrays."""

    packages: ClassVar[tuple[str, ...]] = ("numpy", "dask")
    inputs: tuple[Array, ...]

    def build(self, arrays: Sequence[Any]) -> Any:
        """The Dask array that the step means. Raises ValueError, TypeError, IndexError or NotImplementedError where shapes do not fit."""
        raise NotImplementedError

    def count(self, inputs: Sequence[int]) -> int:
        return math.prod(self.over([str(i) for i in range(len(inputs))], inputs).numblocks)

    def over(self, names: Sequence[str], counts: Sequence[int]) -> Any:
        """The result over inputs of these names and so many chunks: of an array made of a table only now they are known."""
        arrays = zip(names, self.inputs, counts, strict=True)
        return self.build([over(name, cut_into(value, count)) for name, value, count in arrays])

    def lower(self, builder: Builder, inputs: Sequence[Sequence[Ref]]) -> Sequence[Ref]:
        import dask

        names = [refs[0].key[0] for refs in inputs]
        with dask.config.set({"array.slicing.split-large-chunks": False}):
            result = self.over(names, [len(refs) for refs in inputs])
        if result.name in names:  # one of its inputs as it is
            return inputs[names.index(result.name)]
        return chunks_of(result, builder, inputs)


def chunks_of(array: Any, builder: Builder, inputs: Sequence[Sequence[Ref]]) -> Sequence[Ref]:
    """Adds the tasks of an array over these inputs; its chunks, in order."""
    from dask.core import flatten

    keys = list(flatten(array.__dask_keys__()))
    builder.add(fused(array.__dask_graph__(), keys, {ref.key for refs in inputs for ref in refs}))
    return [Ref(key) for key in keys]


def fused(graph: Any, keys: list[Any], given: Set[Any]) -> Mapping[Any, Any]:
    """As Dask optimizes arrays, but that other tasks give some of its keys: where Dask puts plain tuples (it does for `concatenate`
    and `stack`), it would take these for data."""
    from dask._task_spec import convert_legacy_graph, fuse_linear_task_spec
    from dask.array.optimization import fuse_roots, optimize_blockwise

    layers = fuse_roots(optimize_blockwise(graph, keys=keys), keys=keys).cull(set(keys))
    tasks = dict(layers)
    found: Mapping[Any, Any] = fuse_linear_task_spec(convert_legacy_graph(tasks, {*tasks, *given}), keys=set(keys))
    return found


def cut_into(value: Array, count: int) -> Array:
    """The array in so many chunks, where the plan left their number open."""
    if (None,) not in value.chunks:
        return value
    at = value.chunks.index((None,))
    return replace(value, chunks=(*value.chunks[:at], (None,) * (count // value.blocks), *value.chunks[at + 1 :]))


def plan(build: Any, inputs: Sequence[Value]) -> Array:
    """What `build` gives for arrays like these: it raises what does not fit."""
    import warnings

    # some functions are done on one chunk of an unknown length, but not on several
    arrays = [
        over(f"input{i}", cut_into(value, 2 * value.blocks))
        for i, value in enumerate(inputs)
        if isinstance(value, Array)
    ]
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        return known(build(arrays))


@dataclass(frozen=True)
class Matrix:
    """A table's columns as a block of shape (rows, columns). NULL is NaN; -0.0 stays."""

    columns: tuple[str, ...]
    dtype: str

    def __call__(self, frame: pl.DataFrame) -> Any:
        wanted = pl.Float32 if self.dtype == "float32" else pl.Float64
        made = frame.select(pl.col(name).cast(wanted) for name in self.columns).to_numpy(order="c")
        return np.ascontiguousarray(made, dtype=self.dtype)


@dataclass(frozen=True)
class Rows:
    """A block of shape (rows, columns) as a table."""

    schema: Mapping[str, pl.DataType]
    wanted: tuple[str, ...]

    def __call__(self, block: Any) -> pl.DataFrame:
        block = block.reshape(len(block), math.prod(block.shape[1:]))
        if block.shape[1] != len(self.schema):
            raise DataError(Issue(f"the array has {block.shape[1]} columns, {len(self.schema)} are named", "name each"))
        made = [pl.Series(name, block[:, i]).cast(dtype) for i, (name, dtype) in enumerate(self.schema.items())]
        return pl.DataFrame(made).select(self.wanted)


def numeric(schema: Schema) -> list[str]:
    """The columns that are numbers."""
    return [name for name, dtype in schema.items() if dtype.is_numeric() or dtype == pl.Boolean]


def not_numeric(name: str, schema: Schema) -> str:
    return f"{name!r} is {dtype_name(schema[name])}, not a number"
