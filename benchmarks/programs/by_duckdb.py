"""python by_duckdb.py QUERY PRICES [OTHER] OUT"""

import sys

import duckdb

query, prices, *other, out = sys.argv[1:]
table = f"read_csv('{prices}') as prices"
side = f"read_csv('{other[0]}') as side" if other else ""
queries = {
    "groupby": f"select Date, avg(Open) as open_mean from {table} where Close > 0 group by Date order by Date",
    "groups": f"""
        select Date, Symbol, avg(Open) as open_mean from {table} group by Date, Symbol order by Date, Symbol""",
    "join": f"""
        select Symbol, count(*) as rows, sum(Target - Close) as upside, sum(Analysts)::bigint as analysts
        from {table} join {side} using (Date, Symbol) group by Symbol order by Symbol""",
    "join-small": f"""
        select Sector, Date, avg(Close) as close_mean
        from {table} join {side} using (Symbol) group by Sector, Date order by Sector, Date""",
    "sort": f"""
        select * exclude place from (select *, row_number() over () as place from {table})
        order by Close desc, Symbol, place""",
    "rolling": f"""
        with numbered as (select Symbol, Date, Close, row_number() over () as place from {table}),
        rolled as (
            select Symbol, avg(Close) over (partition by Symbol order by Date, place rows 19 preceding) as ma
            from numbered)
        select Symbol, count(*) as rows, max(ma) as highest, min(ma) as lowest, avg(ma) as mean
        from rolled group by Symbol order by Symbol""",
}
duckdb.sql(f"copy ({queries[query]}) to '{out}' (format parquet)")
