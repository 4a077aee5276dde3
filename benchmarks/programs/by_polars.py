import sys

import polars as pl

prices, out = sys.argv[1:]
table = pl.scan_csv(prices, try_parse_dates=True).filter(pl.col("Close") > 0).group_by("Date")
table.agg(open_mean=pl.col("Open").mean()).sort("Date").collect().write_parquet(out)
