"""The main job's work in every partition, with plain float means or with exact ones: python exact.py plain|exact FILES."""

import glob
import sys
from concurrent.futures import ThreadPoolExecutor

import polars as pl

from pipelines.aggregates import limbs

kind, prices = sys.argv[1:]
value = pl.col("Open").mean() if kind == "plain" else limbs(pl.col("Open"), "x", careful=False)


def partition(path: str) -> pl.DataFrame:
    table = pl.scan_csv(path, try_parse_dates=True).filter(pl.col("Close") > 0).group_by("Date").agg(value)
    return table.collect(engine="streaming")


with ThreadPoolExecutor(2) as pool:
    print(sum(map(len, pool.map(partition, sorted(glob.glob(prices))))))
