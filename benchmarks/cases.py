"""What is compared with what, and the bars."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.data import stocks
from benchmarks.measure import ROOT

PROGRAMS = Path(__file__).parent / "programs"
GB = 1e9
GIB = 2**30
Summary = dict[str, float]
"""Competitor → its median in seconds, `COMPETITOR memory` → its peak of anonymous memory in bytes."""


@dataclass(frozen=True)
class Bar:
    """Holds when value is at most limit."""

    text: str
    value: Callable[[Summary], float]
    limit: Callable[[Summary], float]


@dataclass(frozen=True)
class Case:
    """Competitors: name → command; those with `{out}` in it write their answer there, and all answers have to agree."""

    competitors: dict[str, list[str]]
    bars: list[Bar]
    reference: str = ""


def groupby(data: Path, work: Path) -> Case:
    bars = [
        Bar("threads: at most 1.6 x Polars", lambda m: m["ours, threads"], lambda m: 1.6 * m["polars"]),
        Bar("local: at most threads + 2 s", lambda m: m["ours, local"], lambda m: m["ours, threads"] + 2),
        Bar("threads: 3 x faster than pandas", lambda m: m["ours, threads"], lambda m: m["pandas"] / 3),
        Bar("threads: 4 x faster than Dask by hand", lambda m: m["ours, threads"], lambda m: m["dask"] / 4),
    ]
    prices = stocks(data)
    others = ("polars", "duckdb", "pandas", "dask")
    return Case(_by_hand(prices, *others) | _ours(work, prices, "serial", "threads", "local"), bars, "polars")


def groupby_large(data: Path, work: Path) -> Case:
    bars = [
        Bar("threads: at most 1.3 x Polars", lambda m: m["ours, threads"], lambda m: 1.3 * m["polars"]),
        Bar("threads: 2 GiB anonymous (GiB)", lambda m: m["ours, threads memory"] / GIB, lambda m: 2),
    ]
    prices = stocks(data, 10)
    return Case(_by_hand(prices, "polars", "duckdb") | _ours(work, prices, "threads"), bars, "polars")


def small(data: Path, work: Path) -> Case:
    command = [*_shipped(work, "run"), "--executor", "serial"]
    imports = [sys.executable, "-c", "import dask, polars"]
    bar = Bar("serial: at most 1.3 x imports + 0.5 s", lambda m: m["ours, serial"], lambda m: 1.3 * m["imports"] + 0.5)
    return Case({"imports": imports, "ours, serial": command}, [bar], "imports")


def check(data: Path, work: Path) -> Case:
    return Case({"check": _shipped(work, "check")}, [Bar("check: at most 1.2 s", lambda m: m["check"], lambda m: 1.2)])


def exact(data: Path, work: Path) -> Case:
    pair = {kind: _program("exact.py", kind, stocks(data), "{out}") for kind in ("plain", "exact")}
    return Case(pair, [Bar("exact: at most 1.15 x plain", lambda m: m["exact"], lambda m: 1.15 * m["plain"])], "plain")


def compiling(data: Path, work: Path) -> Case:
    one = stocks(data).replace("*", "0")
    derive = "".join(f"  s{i}: {{derive: {{change: Close - Open + {i}}}}}\n" for i in range(1000))
    many, wide = work / "many.yaml", work / "wide.yaml"
    many.write_text(f"steps:\n  prices: {{read: {{path: '{one}'}}}}\n{derive}")
    wide.write_text(f"steps:\n  prices: {{read: {{path: '{one}', partitions: 100000}}}}\n")
    programs = {
        "1,000 steps": _program("compiled.py", str(many)),
        "the same, face": _program("compiled.py", str(many), "s999"),
        "100,000 partitions": _program("compiled.py", str(wide), "prices"),
    }
    bars = [
        Bar("1,000 steps: 3 s", lambda m: m["1,000 steps"], lambda m: 3),
        Bar("100,000 partitions: 15 s", lambda m: m["100,000 partitions"], lambda m: 15),
        Bar("100,000 partitions: 1.5 GB (GB)", lambda m: m["100,000 partitions memory"] / GB, lambda m: 1.5),
    ]
    return Case(programs, bars)


CASES: dict[str, Callable[[Path, Path], Case]] = {
    "groupby": groupby,
    "groupby-large": groupby_large,
    "small": small,
    "check": check,
    "exact": exact,
    "compile": compiling,
}


def _program(name: str, *arguments: str) -> list[str]:
    return [sys.executable, str(PROGRAMS / name), *arguments]


def _by_hand(prices: str, *names: str) -> dict[str, list[str]]:
    return {name: _program(f"by_{name}.py", prices, "{out}") for name in names}


def _ours(work: Path, prices: str, *executors: str) -> dict[str, list[str]]:
    config = shutil.copy(PROGRAMS / "groupby.yaml", work)
    command = [sys.executable, "-m", "pipelines", "run", str(config), "-p", f"prices={prices}", "-p", "out={out}"]
    return {f"ours, {executor}": [*command, "--executor", executor] for executor in executors}


def _shipped(work: Path, what: str) -> list[str]:
    """A command on a copy of the config that comes with the project, so that its runs land in `work`."""
    config = shutil.copy(ROOT / "configs" / "stock_groupby.yaml", work)
    prices = ROOT / "data" / "stocks" / "*.csv"
    return [sys.executable, "-m", "pipelines", what, str(config), "-p", f"prices={prices}"]
