"""Whether competitors gave the same answer."""

from __future__ import annotations

from pathlib import Path

import polars as pl

CHUNK = 2_000_000  # rows that are looked at together: an answer may be larger than memory
CLOSE = 1e-9


def disagreements(outs: dict[str, Path]) -> list[str]:
    """How the answers differ from the first one, row by row; numbers by more than 1e-9, relatively.

    An answer is a Parquet file, or a folder of them in the order of their names. The order of its rows counts.
    """
    wrong = [f"{who} wrote no answer" for who, path in outs.items() if not path.exists()]
    tables = {who: scan(path) for who, path in outs.items() if path.exists()}
    first = next(iter(tables), "")
    for who, table in tables.items():
        if who != first and (found := difference(tables[first], table)):
            wrong.append(f"{who} has {found}, unlike {first}")
    return wrong


def scan(path: Path) -> pl.LazyFrame:
    """The answer at `path`. Dask's index is no part of it."""
    table = pl.scan_parquet(sorted(path.glob("*.parquet")) if path.is_dir() else path)
    return table.select(pl.exclude("__null_dask_index__", "__index_level_0__"))


def difference(one: pl.LazyFrame, other: pl.LazyFrame) -> str:
    """The first difference that is found, or nothing."""
    types, others = one.collect_schema(), other.collect_schema()
    if types.names() != others.names():
        return f"the columns {', '.join(others)} instead of {', '.join(types)}"
    rows, found = (table.select(pl.len()).collect().item() for table in (one, other))
    if rows != found:
        return f"{found:,} rows instead of {rows:,}"
    for start in range(0, rows, CHUNK):
        a, b = (table.slice(start, CHUNK).collect() for table in (one, other))
        for name in types:
            differ = ~_same(a[name], b[name])
            if count := differ.sum():
                i = differ.arg_true()[0]
                return (
                    f"{count:,} other values of {name}: in row {start + i:,} {b[name][i]!r} instead of {a[name][i]!r}"
                )
    return ""


def _same(a: pl.Series, b: pl.Series) -> pl.Series:
    """Row by row. Libraries give one number different types, and dates as timestamps."""
    if a.dtype == b.dtype and not a.dtype.is_float():
        return a.eq_missing(b)
    if a.dtype.is_integer() and b.dtype.is_integer():
        return a.cast(pl.Int64).eq_missing(b.cast(pl.Int64))
    if a.dtype.is_numeric() and b.dtype.is_numeric():
        a, b = a.cast(pl.Float64), b.cast(pl.Float64)
        near = (a - b).abs() <= CLOSE * a.abs()
        return near.fill_null(False) | a.eq_missing(b)
    if a.dtype.is_temporal() and b.dtype.is_temporal():
        return a.cast(pl.Datetime("us")).eq_missing(b.cast(pl.Datetime("us")))
    return a.eq_missing(b.cast(a.dtype))
