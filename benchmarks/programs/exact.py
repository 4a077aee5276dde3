"""The main job, a partition per file, with plain float sums or with exact ones: python exact.py plain|exact FILES OUT."""

import glob
import sys
from concurrent.futures import ThreadPoolExecutor

import polars as pl

from pipelines.aggregates import FUNCTIONS

kind, prices, out = sys.argv[1:]
x = pl.col("Open")
if kind == "plain":
    partial = [x.sum().alias("sum"), x.count().alias("count")]
    combine = [pl.col("sum").sum(), pl.col("count").sum()]
    final = pl.col("sum") / pl.col("count")
else:
    avg = FUNCTIONS["avg"]
    partial = avg.partial(x, pl.Float64(), "x", "near")
    combine = avg.combine("x", pl.Float64())
    final = avg.final("x", pl.Float64())


def partition(path: str) -> pl.DataFrame:
    table = pl.scan_csv(path, try_parse_dates=True).filter(pl.col("Close") > 0).group_by("Date").agg(partial)
    return table.collect(engine="streaming")


with ThreadPoolExecutor(2) as pool:
    states = pl.concat(pool.map(partition, sorted(glob.glob(prices))))
answer = states.group_by("Date").agg(combine).select("Date", open_mean=final)
answer.sort("Date").write_parquet(out)
