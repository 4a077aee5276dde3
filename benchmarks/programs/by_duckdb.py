import sys

import duckdb

prices, out = sys.argv[1:]
query = f"select Date, avg(Open) as open_mean from read_csv('{prices}') where Close > 0 group by Date order by Date"
duckdb.sql(f"copy ({query}) to '{out}' (format parquet)")
