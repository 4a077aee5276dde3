"""python by_dask.py QUERY PRICES [OTHER] OUT"""

import sys

import dask.dataframe as dd
from distributed import Client

if __name__ == "__main__":
    query, prices, *other, out = sys.argv[1:]
    with Client() as client:
        table = dd.read_csv(prices, parse_dates=["Date"])

        if query == "groupby":
            mean = table[table.Close > 0].groupby("Date").Open.mean().compute()
            answer = mean.sort_index().rename("open_mean").reset_index()

        elif query == "groups":
            mean = table.groupby(["Date", "Symbol"]).Open.mean(split_out=4).compute()
            answer = mean.sort_index().rename("open_mean").reset_index()

        elif query == "join":
            ratings = dd.read_csv(other[0], parse_dates=["Date"])
            both = table.merge(ratings, on=["Date", "Symbol"])
            by_symbol = both.assign(rows=1, upside=both.Target - both.Close).groupby("Symbol")
            sums = by_symbol[["rows", "upside", "Analysts"]].sum().compute()
            answer = sums.sort_index().rename(columns={"Analysts": "analysts"}).reset_index()

        elif query == "join-small":
            by_sector = table.merge(dd.read_csv(other[0]), on="Symbol").groupby(["Sector", "Date"])
            answer = by_sector.Close.mean().compute().sort_index().rename("close_mean").reset_index()

        else:
            sys.exit(f"unknown query {query}")
        answer.to_parquet(out)
