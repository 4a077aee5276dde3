"""python by_polars.py QUERY PRICES [OTHER] OUT"""

import sys

import polars as pl

query, prices, *other, out = sys.argv[1:]
table = pl.scan_csv(prices, try_parse_dates=True)

if query == "groupby":
    by_date = table.filter(pl.col("Close") > 0).group_by("Date").agg(open_mean=pl.col("Open").mean())
    by_date.sort("Date").collect().write_parquet(out)

elif query == "groups":
    groups = table.group_by("Date", "Symbol").agg(open_mean=pl.col("Open").mean())
    groups.sort("Date", "Symbol").collect().write_parquet(out)

elif query == "beyond-groups":
    by_bucket = table.group_by("Date", "Symbol", bucket=pl.col("Volume") % 1000)
    answer = by_bucket.agg(open_mean=pl.col("Open").mean(), rows=pl.len())
    answer.sort("Date", "Symbol", "bucket").collect().write_parquet(out)

elif query == "join":
    ratings = pl.scan_csv(other[0], try_parse_dates=True)
    by_symbol = table.join(ratings, on=["Date", "Symbol"]).group_by("Symbol")
    upside = (pl.col("Target") - pl.col("Close")).sum()
    answer = by_symbol.agg(rows=pl.len(), upside=upside, analysts=pl.col("Analysts").sum())
    answer.sort("Symbol").collect().write_parquet(out)

elif query == "join-small":
    by_sector = table.join(pl.scan_csv(other[0]), on="Symbol").group_by("Sector", "Date")
    answer = by_sector.agg(close_mean=pl.col("Close").mean()).sort("Sector", "Date")
    answer.collect().write_parquet(out)

elif query == "sort":
    ordered = table.sort("Close", "Symbol", descending=[True, False], maintain_order=True)
    ordered.sink_parquet(out)

elif query == "rolling":
    mean = pl.col("Close").sort_by("Date", maintain_order=True).rolling_mean(20, min_samples=1)
    ma = pl.col("ma").list
    rolled = table.group_by("Symbol").agg(ma=mean)
    answer = rolled.select("Symbol", rows=ma.len(), highest=ma.max(), lowest=ma.min(), mean=ma.mean())
    answer.sort("Symbol").collect().write_parquet(out)

else:
    sys.exit(f"unknown query {query}")
