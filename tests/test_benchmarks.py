"""The benchmarks' programs on tiny tables: what is written by hand, in three libraries, and ours give one answer."""

from __future__ import annotations

import contextlib
import json
import runpy
import subprocess
import sys
from datetime import date
from pathlib import Path
from typing import Any

import dask.threaded
import distributed
import numpy as np
import polars as pl
import pytest

import pipelines
from benchmarks import learnt
from benchmarks.answers import disagreements
from benchmarks.cases import PROGRAMS, TPCH
from benchmarks.data import Data, sectors, stocks
from pipelines.steps import KINDS
from tests.conftest import ROOT

ROWS = 400
# query: the table beside the prices, and who has a program for it
QUERIES: dict[str, tuple[str, tuple[str, ...]]] = {
    "groupby": ("", ("polars", "duckdb", "pandas", "dask")),
    "groups": ("", ("polars", "duckdb", "dask")),
    "join": ("ratings", ("polars", "duckdb", "dask")),
    "join-small": ("sectors", ("polars", "duckdb", "dask")),
    "sort": ("", ("polars", "duckdb")),
    "rolling": ("", ("polars", "duckdb")),
    "beyond-groups": ("", ("polars",)),
}
TPCH_QUERIES = ("q01", "q03", "q05", "q18")


def days(random: np.random.Generator, first: date, last: date, rows: int) -> pl.Series:
    all_days = pl.date_range(first, last, "1d", eager=True)
    return all_days.gather(random.integers(0, len(all_days), rows))


@pytest.fixture
def inputs(tmp_path: Path) -> dict[str, str]:
    """Prices in three files, with several rows of one day and symbol, and of one price; tables to join with them."""
    random = np.random.default_rng(7)
    symbols = pl.Series(["S001", "S002", "S003", "S004"])
    for i in range(3):
        opened = random.integers(1, 50, ROWS) / 4
        prices = {
            "Date": days(random, date(2020, 1, 1), date(2020, 3, 1), ROWS),
            "Symbol": symbols.gather(random.integers(0, 4, ROWS)),
            "Open": opened,
            "High": opened + 0.25,
            "Low": opened - 0.5,
            "Close": random.integers(0, 40, ROWS) / 4,
            "Volume": random.integers(0, 5000, ROWS),
        }
        pl.DataFrame(prices).write_csv(tmp_path / f"prices{i}.csv")
    rated = {"Date": days(random, date(2020, 1, 1), date(2020, 4, 1), 60), "Symbol": symbols.gather([0, 1, 3] * 20)}
    ratings = pl.DataFrame(rated).unique(maintain_order=True)
    values = {"Target": random.integers(1, 90, len(ratings)) / 8, "Analysts": random.integers(1, 9, len(ratings))}
    ratings.with_columns(**values).write_csv(tmp_path / "ratings.csv")
    pl.DataFrame({"Symbol": symbols.head(3), "Sector": ["b", "a", "b"]}).write_csv(tmp_path / "sectors.csv")
    return {"prices": f"{tmp_path}/prices*.csv"} | {k: f"{tmp_path}/{k}.csv" for k in ("ratings", "sectors")}


@pytest.fixture
def tables(tmp_path: Path) -> str:
    """TPC-H's tables, as far as the queries look at them, so that each query finds some rows."""
    random = np.random.default_rng(8)
    money = pl.Decimal(15, 2)

    def cents(low: int, high: int, rows: int) -> pl.Series:
        return (pl.Series(random.integers(low, high, rows)) / 100).round(2).cast(money)

    customers, orders, suppliers = 30, 300, 10
    made: dict[str, dict[str, Any]] = {
        "region": {"r_regionkey": [0, 1, 2], "r_name": ["AFRICA", "AMERICA", "ASIA"]},
        "nation": {"n_nationkey": range(6), "n_name": list("ABCDEF"), "n_regionkey": [2, 2, 1, 0, 2, 1]},
        "supplier": {"s_suppkey": range(suppliers), "s_nationkey": random.integers(0, 6, suppliers)},
        "customer": {
            "c_custkey": range(customers),
            "c_name": [f"Customer#{i}" for i in range(customers)],
            "c_nationkey": random.integers(0, 6, customers),
            "c_mktsegment": ["BUILDING", "MACHINERY", "AUTOMOBILE"] * (customers // 3),
        },
        "orders": {
            "o_orderkey": range(orders),
            "o_custkey": random.integers(0, customers, orders),
            "o_totalprice": pl.Series(random.permutation(orders) + 0.25).cast(money),
            "o_orderdate": days(random, date(1994, 6, 1), date(1995, 6, 1), orders),
            "o_shippriority": pl.Series(random.integers(0, 2, orders)).cast(pl.Int32),
        },
        "lineitem": {
            "l_orderkey": random.integers(0, orders, 3000),
            "l_suppkey": random.integers(0, suppliers, 3000),
            "l_quantity": pl.Series(random.integers(1, 51, 3000)).cast(money),
            "l_extendedprice": cents(90_000, 9_000_000, 3000),
            "l_discount": cents(0, 11, 3000),
            "l_tax": cents(0, 9, 3000),
            "l_returnflag": pl.Series(["A", "N", "R"]).gather(random.integers(0, 3, 3000)),
            "l_linestatus": pl.Series(["F", "O"]).gather(random.integers(0, 2, 3000)),
            "l_shipdate": days(random, date(1994, 6, 1), date(1998, 12, 1), 3000),
        },
    }
    for name, columns in made.items():
        pl.DataFrame(columns).write_parquet(tmp_path / f"{name}.parquet")
    return str(tmp_path)


@pytest.fixture
def by_hand(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Runs a program here, where its libraries are imported already, and Dask's without a cluster."""
    monkeypatch.setattr(distributed, "Client", contextlib.nullcontext)

    def call(program: Path, *arguments: str) -> Path:
        out = tmp_path / f"by-{program.stem}.parquet"
        monkeypatch.setattr(sys, "argv", [str(program), *arguments, str(out)])
        with dask.config.set(scheduler=dask.threaded.get):  # by its name, Dask would ask Client
            runpy.run_path(str(program), run_name="__main__")
        return out

    return call


def ours(config: Path, inputs: dict[str, str], project: Path) -> dict[str, Path]:
    """Our answer, where all kinds of steps in the config exist."""
    known = [line.strip().split(":")[0] for line in config.read_text().splitlines() if line.startswith("    ")]
    if {"join", "window"} & set(known) - set(KINDS):
        return {}
    copy = project / config.name
    copy.write_text(config.read_text())
    out = project / "ours.parquet"
    pipelines.load(copy, inputs | {"out": str(out)}).run("threads")
    return {"ours": out}


@pytest.mark.parametrize("query", QUERIES)
def test_the_same_answers(query: str, inputs: dict[str, str], by_hand: Any, project: Path) -> None:
    side, names = QUERIES[query]
    used = {name: inputs[name] for name in ("prices", side) if name}
    outs = {name: by_hand(PROGRAMS / f"by_{name}.py", query, *used.values()) for name in names}
    outs |= ours(PROGRAMS / f"{query}.yaml", used, project)
    assert not disagreements(outs)
    assert len(pl.read_parquet(outs["polars"])) > 1


@pytest.mark.parametrize("query", TPCH_QUERIES)
def test_the_same_answers_to_tpch(query: str, tables: str, by_hand: Any, project: Path) -> None:
    outs = {name: by_hand(TPCH / f"tpch_{name}.py", query, tables) for name in ("duckdb", "polars", "dask")}
    outs |= ours(TPCH / f"{query}.yaml", {"tables": tables}, project)
    assert not disagreements(outs)
    assert len(pl.read_parquet(outs["duckdb"])) > 1


def test_answers_are_compared_row_by_row(tmp_path: Path) -> None:
    def differs(other: pl.DataFrame) -> str:
        other.write_parquet(tmp_path / "other.parquet")
        return " ".join(disagreements({"one": tmp_path / "one", "other": tmp_path / "other.parquet"}))

    dates = [date(2020, 1, 1), None, date(2020, 1, 3)]
    table = pl.DataFrame({"d": dates, "n": [1, 2, None], "x": [1.0, None, 3.0]})
    (tmp_path / "one").mkdir()
    for i in range(3):
        table[i : i + 1].write_parquet(tmp_path / "one" / f"part-{i}.parquet")

    assert not differs(table)
    assert not differs(table.cast({"d": pl.Datetime("ns"), "n": pl.UInt32}))
    assert not differs(table.cast({"x": pl.Decimal(9, 2)}))
    assert not differs(table.with_columns(pl.col("x") * (1 + 1e-12)))
    assert "other values of x" in differs(table.with_columns(pl.col("x") * (1 + 1e-8)))
    assert "other values of x: in row 1 0.0 instead of None" in differs(table.with_columns(pl.col("x").fill_null(0)))
    assert "in row 0" in differs(table.with_columns(pl.col("d").cast(pl.Datetime) + pl.duration(hours=1)))
    assert "2 other values of d" in differs(table[[1, 0, 2]])
    assert "2 rows instead of 3" in differs(table.head(2))
    assert "the columns n, d, x" in differs(table.select("n", "d", "x"))
    assert disagreements({"one": tmp_path / "one", "none": tmp_path / "none"}) == ["none wrote no answer"]


def test_data_is_made_once_and_whole(tmp_path: Path) -> None:
    data = Data(tmp_path, 0.00001)
    files = sorted(Path(stocks(data, 2)).parent.glob("*.csv"))
    assert [len(pl.read_csv(path)) for path in files] == [30] * 10
    small = Path(sectors(data))
    small.write_text("kept")
    assert Path(sectors(data)).read_text() == "kept"
    (small.parent / "complete").unlink()
    assert len(pl.read_csv(sectors(data))) == 500


def test_what_is_learnt_by_hand_is_what_ours_learns(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks", "monte-carlo", "monte-carlo-var", "logistic", "boosted"]
    command += ["--scale", "0.001", "--runs", "1", "--data", str(tmp_path), "--json", str(tmp_path / "all.json")]
    subprocess.run(command, cwd=ROOT, capture_output=True, check=False)  # at this size the bars do not hold
    cases = json.loads((tmp_path / "all.json").read_text())["cases"]
    assert len(cases) == 4
    for name, case in cases.items():
        assert case["failed"] == {}, name
        assert len(case["competitors"]) >= 2, name


def test_other_figures_and_other_models_are_told(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(500, 3))
    table = pl.DataFrame({f"x{i}": x[:, i] for i in range(3)}).with_columns(
        label=pl.Series(x[:, 0] > x[:, 1] * rng.normal(size=500))
    )
    table.write_parquet(tmp_path / "t.parquet")
    outs = {name: tmp_path / name for name in ("one", "other")}
    for i, path in enumerate(outs.values()):
        path.write_text(json.dumps({"coefficients": [1.0, -0.5, 0.1 + i * 2e-3], "intercept": 0.0}))
    assert "apart" in learnt.logistic(outs, str(tmp_path / "*.parquet"))[0]
    assert learnt.logistic({"one": outs["one"], "again": outs["one"]}, str(tmp_path / "*.parquet")) == []
    (tmp_path / "runs/x/risk").mkdir(parents=True)
    (tmp_path / "runs/x/risk/metrics.json").write_text('{"values": {"mean": 1.0}}')
    (tmp_path / "hand").write_text('{"mean": 1.000001}')
    assert "has mean 1.0" in learnt.simulated(tmp_path / "hand", tmp_path / "runs")[0]
    assert learnt.simulated(tmp_path / "hand", tmp_path / "none") == ["ours wrote no figures"]
