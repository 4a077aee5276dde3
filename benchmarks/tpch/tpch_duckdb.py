"""python tpch_duckdb.py QUERY TABLES OUT: the query's SQL as TPC-H has it."""

import sys
from pathlib import Path

import duckdb

query, tables, out = sys.argv[1:]
for path in sorted(Path(tables).glob("*.parquet")):
    duckdb.sql(f"create or replace view {path.stem} as select * from '{path}'")
text = (Path(__file__).parent / f"{query}.sql").read_text()
duckdb.sql(f"copy ({text}) to '{out}' (format parquet)")
