from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from pydantic import Field

from pipelines.arrays import OnArrays, plan
from pipelines.steps.base import Context, Problems, Step
from pipelines.types import Schema
from pipelines.values import Array
from pipelines.work import Work


@dataclass(frozen=True)
class Projected(OnArrays):
    components: int
    center: bool
    iterations: int
    seed: int

    def build(self, arrays: Sequence[Any]) -> Any:
        import dask.array as da

        [x] = arrays
        if self.center:
            x = x - x.mean(axis=0)
        width, random = int(x.shape[1]), da.random.default_rng(self.seed)
        wide = min(width, self.components + 10)
        q = random.standard_normal((width, wide), chunks=-1)
        for _ in range(
            self.iterations + 1
        ):  # power iterations with a QR at each: Halko, Martinsson, Tropp 2011, algorithm 4.4
            q, _r = da.linalg.qr(_times(x.T, _times(x, q)).rechunk(-1))
        small = _times(x, q)
        values, vectors = _eigen(_times(small.T, small).rechunk(-1), self.components)
        del values
        return _times(small, vectors)


def _times(one: Any, other: Any) -> Any:
    return one @ other


def _eigen(gram: Any, count: int) -> tuple[Any, Any]:
    """The largest eigenvalues of a small symmetric matrix, and their vectors, each with its largest entry positive."""
    import dask.array as da

    both = gram.map_blocks(_eigh, count, chunks=((gram.shape[0] + 1,), (count,)), dtype=gram.dtype)
    return both[0], da.asarray(both[1:])


def _eigh(block: Any, count: int) -> Any:
    import numpy as np

    values, vectors = np.linalg.eigh(block)
    values, vectors = values[::-1][:count], vectors[:, ::-1][:, :count]
    signs = np.sign(vectors[np.abs(vectors).argmax(axis=0), np.arange(count)])
    return np.vstack([values, vectors * signs])


class Pca(Step):
    """Project an array's rows on its principal components: the shape becomes (rows, components). Randomized, with a seed.

    Each component's sign is such that its largest weight (among those of the random projection) is positive. `center: false` gives
    the truncated singular value decomposition (U times S) instead. It is fitted on the whole array.
    """

    kind = "pca"
    takes = (("array",),)
    gives = "array"
    shorthand = "components"
    example: ClassVar[str] = "pca: {components: 2}"

    components: int = Field(ge=1, description="How many.")
    center: bool = Field(True, description="Subtract each column's mean first; false: a truncated SVD.")
    iterations: int = Field(
        4, ge=0, description="Power iterations: more are more exact where singular values lie close."
    )
    seed: int = Field(0, ge=0, description="Of the random projection.")

    def bind(self, schema: Schema, problems: Problems, context: Context) -> Work | None:
        values = tuple(value for value in context.values if isinstance(value, Array))
        shape = values[0].shape
        if len(shape) != 2 or shape[1] is None:
            problems.add((), f"this is {values[0]}: it has no rows and columns", "project two dimensions")
        elif self.components > shape[1]:
            problems.add(("components",), f"the array has only {shape[1]} columns", "ask for fewer components")
        if problems.issues:
            return None
        work = Projected(values[0], {}, values, self.components, self.center, self.iterations, self.seed)
        return Projected(plan(work.build, values), {}, values, self.components, self.center, self.iterations, self.seed)
