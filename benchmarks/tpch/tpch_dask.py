"""python tpch_dask.py QUERY TABLES OUT"""

import sys
from datetime import date

import dask.dataframe as dd
from distributed import Client

DECIMALS = ["l_quantity", "l_extendedprice", "l_discount", "l_tax", "o_totalprice"]


def read(tables: str, table: str, *columns: str) -> dd.DataFrame:
    """Decimals as floats: by way of Arrow's, because pandas makes a Python object of each decimal."""
    frame = dd.read_parquet(f"{tables}/{table}.parquet", columns=list(columns), dtype_backend="pyarrow")
    decimals = [name for name in columns if name in DECIMALS]
    frame = frame.astype(dict.fromkeys(decimals, "double[pyarrow]"))
    typed: dd.DataFrame = frame.astype(dict.fromkeys(decimals, "float64"))
    return typed


if __name__ == "__main__":
    query, tables, out = sys.argv[1:]
    with Client() as client:
        if query == "q01":
            keys = ["l_returnflag", "l_linestatus"]
            items = read(tables, "lineitem", *keys, *DECIMALS[:4], "l_shipdate")
            items = items[items.l_shipdate <= date(1998, 9, 2)]
            items["disc_price"] = items.l_extendedprice * (1 - items.l_discount)
            items["charge"] = items.disc_price * (1 + items.l_tax)
            result = items.groupby(keys).agg(
                sum_qty=("l_quantity", "sum"),
                sum_base_price=("l_extendedprice", "sum"),
                sum_disc_price=("disc_price", "sum"),
                sum_charge=("charge", "sum"),
                avg_qty=("l_quantity", "mean"),
                avg_price=("l_extendedprice", "mean"),
                avg_disc=("l_discount", "mean"),
                count_order=("l_quantity", "size"),
            )
            answer = result.compute().reset_index().sort_values(keys)

        elif query == "q03":
            customer = read(tables, "customer", "c_custkey", "c_mktsegment")
            orders = read(tables, "orders", "o_orderkey", "o_custkey", "o_orderdate", "o_shippriority")
            items = read(tables, "lineitem", "l_orderkey", "l_shipdate", "l_extendedprice", "l_discount")
            customer = customer[customer.c_mktsegment == "BUILDING"]
            orders = orders[orders.o_orderdate < date(1995, 3, 15)]
            items = items[items.l_shipdate > date(1995, 3, 15)]
            theirs = orders.merge(customer, left_on="o_custkey", right_on="c_custkey")
            both = items.merge(theirs, left_on="l_orderkey", right_on="o_orderkey")
            both["revenue"] = both.l_extendedprice * (1 - both.l_discount)
            by_order = both.groupby(["l_orderkey", "o_orderdate", "o_shippriority"]).revenue.sum().compute()
            ordered = by_order.reset_index().sort_values(["revenue", "o_orderdate"], ascending=[False, True])
            answer = ordered.head(10)[["l_orderkey", "revenue", "o_orderdate", "o_shippriority"]]

        elif query == "q05":
            region = read(tables, "region", "r_regionkey", "r_name")
            nation = read(tables, "nation", "n_nationkey", "n_name", "n_regionkey")
            customer = read(tables, "customer", "c_custkey", "c_nationkey")
            orders = read(tables, "orders", "o_orderkey", "o_custkey", "o_orderdate")
            items = read(tables, "lineitem", "l_orderkey", "l_suppkey", "l_extendedprice", "l_discount")
            supplier = read(tables, "supplier", "s_suppkey", "s_nationkey")
            region = region[region.r_name == "ASIA"]
            orders = orders[(orders.o_orderdate >= date(1994, 1, 1)) & (orders.o_orderdate < date(1995, 1, 1))]
            nations = nation.merge(region, left_on="n_regionkey", right_on="r_regionkey")
            customers = customer.merge(nations, left_on="c_nationkey", right_on="n_nationkey")
            theirs = orders.merge(customers, left_on="o_custkey", right_on="c_custkey")
            both = items.merge(theirs, left_on="l_orderkey", right_on="o_orderkey")
            both = both.merge(supplier, left_on=["l_suppkey", "c_nationkey"], right_on=["s_suppkey", "s_nationkey"])
            both["revenue"] = both.l_extendedprice * (1 - both.l_discount)
            by_nation = both.groupby("n_name").revenue.sum().compute()
            answer = by_nation.reset_index().sort_values("revenue", ascending=False)

        elif query == "q18":
            customer = read(tables, "customer", "c_custkey", "c_name")
            orders = read(tables, "orders", "o_orderkey", "o_custkey", "o_orderdate", "o_totalprice")
            items = read(tables, "lineitem", "l_orderkey", "l_quantity")
            sizes = items.groupby("l_orderkey").l_quantity.sum(split_out=4).rename("sum_qty").reset_index()
            large = orders.merge(sizes[sizes.sum_qty > 300], left_on="o_orderkey", right_on="l_orderkey")
            named = large.merge(customer, left_on="o_custkey", right_on="c_custkey")
            columns = ["c_name", "c_custkey", "o_orderkey", "o_orderdate", "o_totalprice", "sum_qty"]
            ordered = named[columns].compute().sort_values(["o_totalprice", "o_orderdate"], ascending=[False, True])
            answer = ordered.head(100)

        else:
            sys.exit(f"unknown query {query}")
        answer.to_parquet(out, index=False)
