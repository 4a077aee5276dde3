"""python by_dask.py QUERY PRICES [OTHER] OUT"""

import sys

import dask.dataframe as dd
import pandas as pd
from distributed import Client


def answer(query: str, prices: str, other: list[str]) -> pd.DataFrame:
    table = dd.read_csv(prices, parse_dates=["Date"])
    if query == "groupby":
        mean = table[table.Close > 0].groupby("Date").Open.mean().compute()
        return mean.sort_index().rename("open_mean").reset_index()
    if query == "groups":
        mean = table.groupby(["Date", "Symbol"]).Open.mean(split_out=4).compute()
        return mean.sort_index().rename("open_mean").reset_index()
    if query == "join":
        ratings = dd.read_csv(other[0], parse_dates=["Date"])
        both = table.merge(ratings, on=["Date", "Symbol"])
        by_symbol = both.assign(upside=both.Target - both.Close, rows=1).groupby("Symbol")
        sums = by_symbol[["rows", "upside", "Analysts"]].sum().compute()
        return sums.sort_index().rename(columns={"Analysts": "analysts"}).reset_index()
    if query == "join-small":
        by_sector = table.merge(dd.read_csv(other[0]), on="Symbol").groupby(["Sector", "Date"])
        return by_sector.Close.mean().compute().sort_index().rename("close_mean").reset_index()
    sys.exit(f"unknown query {query}")


if __name__ == "__main__":
    query, prices, *other, out = sys.argv[1:]
    with Client() as client:
        answer(query, prices, other).to_parquet(out)
