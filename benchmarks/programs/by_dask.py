import sys

import dask.dataframe as dd
from distributed import Client

if __name__ == "__main__":
    prices, out = sys.argv[1:]
    with Client() as client:
        table = dd.read_csv(prices, parse_dates=["Date"])
        mean = table[table.Close > 0].groupby("Date").Open.mean().compute()
        mean.sort_index().rename("open_mean").reset_index().to_parquet(out)
