"""python by_pandas.py groupby PRICES OUT"""

import glob
import sys

import pandas as pd

_, prices, out = sys.argv[1:]
table = pd.concat([pd.read_csv(f, parse_dates=["Date"]) for f in sorted(glob.glob(prices))])
mean = table[table.Close > 0].groupby("Date").Open.mean()
mean.rename("open_mean").reset_index().to_parquet(out)
