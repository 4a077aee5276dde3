"""The only place that calls Polars' collect.

The in-memory engine, as a rule: the streaming engine's grouped float sums differ from run to run (measured, Polars 2.1), and
a recomputed partition must have the same bytes. Where the answer does not depend on order at all, and where files are read and
each row is looked at by itself, the streaming engine: it takes three quarters of the time and half the memory.
"""

from __future__ import annotations

import re

import polars as pl

from pipelines.errors import DataError, Issue, of_machine, stopped
from pipelines.types import Schema, dtype_name

VERSION = f"polars-{pl.__version__}-6"
"""Part of every identity: bytes are promised within one version of the kernel."""


REFUSED = "\0refused: "
"""Starts what an expression says of a value that it refuses, up to the next NUL: the text is cast to a number, which fails."""


class KernelError(Exception):
    """Polars refused the data: carries what it said, for the source or the step to explain."""


def collect(frame: pl.LazyFrame, schema: Schema, *, streams: bool = False) -> pl.DataFrame:
    """The query's rows, in one chunk, with exactly the planned columns and types; groups in random order where it `streams`.

    Raises KernelError for what the data did, DataError for values that a step cannot take, OSError for what a disk did.
    """
    try:
        result = frame.collect(engine="streaming" if streams else "in-memory").rechunk()
    except pl.exceptions.InvalidOperationError as error:
        raise DataError(_cast_issue(str(error))) from None
    except (pl.exceptions.PolarsError, OSError) as error:
        if of_machine(error):
            raise
        if isinstance(error, pl.exceptions.ShapeError) and "exploded" in str(error):
            raise DataError(
                Issue("a row's lists are of different lengths", "cut them to one length before, or explode one alone")
            ) from None
        if "overflow" in str(error):
            raise DataError(Issue(str(error).split("\n", 1)[0], "cast to double before computing")) from None
        raise KernelError(f"{type(error).__name__}: {error}") from None
    except KeyboardInterrupt as error:
        raise stopped(error) from None
    except pl.exceptions.PanicException as error:  # a BaseException: uncaught, it hangs a Dask client
        raise KernelError(f"Polars panicked: {error}") from None
    if dict(result.schema) != dict(schema):
        raise AssertionError(f"planned {_names(schema)}, computed {_names(result.schema)}: please report this")
    return result


def _names(schema: Schema) -> str:
    return ", ".join(f"{name} {dtype_name(dtype)}" for name, dtype in schema.items())


def _cast_issue(said: str) -> Issue:
    head = said.split("\n", 1)[0]
    above, _, _ = said.partition("\n\nThis error occurred")  # below stands the expression, with our own texts
    if found := re.search(REFUSED + "([^\0]*)", above):
        return Issue(" ".join(found[1].split()), "TRY_CAST and NULLIF give NULL for such values, CASE keeps them out")
    if found := re.search(r"conversion from `i128` to `(.)\w*?(\d+)`", head):
        dtype = {"i": "int", "u": "uint"}.get(found[1], found[1]) + found[2]
        values = re.search(r"values: \[(.*)\]", head)
        return Issue(
            f"an integer result does not fit {dtype}: {values[1] if values else head}",
            "cast to double before computing",
        )
    if found := _CAST.search(said):
        source, target = (_TYPES.get(name, name) for name in found.group(1, 2))
        what = f"{' '.join(found[5].split())} ({found[3]} of {found[4]} values)"
        return Issue(f"cannot cast {source} to {target}: {what}", "TRY_CAST gives NULL for such values")
    return Issue(head, "TRY_CAST gives NULL for values that cannot be converted")


_CAST = re.compile(
    r"conversion from `(.+?)` to `(.+?)` failed in column .*? for (\d+) out of (\d+) values: \[(.*?)\](?:\n\n|$)",
    re.DOTALL,
)
_TYPES = {
    **{f"{sign[0]}{bits}": f"{sign}{bits}" for sign in ("int", "uint", "float") for bits in (8, 16, 32, 64)},
    **{"str": "string", "bool": "boolean", "i128": "int128", "datetime[μs]": "datetime"},
}
"""Polars' names of types, as we write them."""
