"""What is compared with what, and the bars."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks import learnt
from benchmarks.answers import disagreements
from benchmarks.data import Data, labelled, ratings, sectors, stocks, thousand, tpch
from benchmarks.measure import ROOT

HERE = Path(__file__).parent
PROGRAMS = HERE / "programs"
TPCH = HERE / "tpch"
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
    """Competitors: name → command; those with `{out}` in it write their answer there, and all answers have to agree.

    `differ`: how answers are compared that are no tables. `most_runs`: of those that are asked for, where a run takes minutes and no bar is about time.
    `warm`: a glob of files that are read before each run, where they are so large that those before may have driven them out of memory.
    """

    competitors: dict[str, list[str]]
    bars: list[Bar]
    reference: str = ""
    most_runs: int | None = None
    differ: Callable[[dict[str, Path]], list[str]] = disagreements
    warm: str = ""


def groupby(data: Data, work: Path) -> Case:
    bars = [
        Bar("threads: at most 1.6 x Polars", lambda m: m["ours, threads"], lambda m: 1.6 * m["polars"]),
        Bar("local: at most threads + 2 s", lambda m: m["ours, local"], lambda m: m["ours, threads"] + 2),
        Bar("threads: 3 x faster than pandas", lambda m: m["ours, threads"], lambda m: m["pandas"] / 3),
        Bar("threads: 4 x faster than Dask by hand", lambda m: m["ours, threads"], lambda m: m["dask"] / 4),
    ]
    prices = stocks(data)
    others = ("polars", "duckdb", "pandas", "dask")
    ours = _ours(work, "groupby", {"prices": prices}, "serial", "threads", "local")
    return Case(_by_hand(others, "groupby", prices) | ours, bars, "polars")


def groupby_large(data: Data, work: Path) -> Case:
    bars = [
        Bar("threads: at most 1.3 x Polars", lambda m: m["ours, threads"], lambda m: 1.3 * m["polars"]),
        Bar("threads: 2 GiB anonymous (GiB)", lambda m: m["ours, threads memory"] / GIB, lambda m: 2),
    ]
    prices = stocks(data, 10)
    ours = _ours(work, "groupby", {"prices": prices}, "threads")
    return Case(_by_hand(("polars", "duckdb"), "groupby", prices) | ours, bars, "polars", warm=prices)


def small(data: Data, work: Path) -> Case:
    command = [*_shipped(work, "run"), "--executor", "serial"]
    imports = [sys.executable, "-c", "import dask, polars"]
    bar = Bar("serial: at most 1.3 x imports + 0.5 s", lambda m: m["ours, serial"], lambda m: 1.3 * m["imports"] + 0.5)
    return Case({"imports": imports, "ours, serial": command}, [bar], "imports")


def check(data: Data, work: Path) -> Case:
    return Case({"check": _shipped(work, "check")}, [Bar("check: at most 1.2 s", lambda m: m["check"], lambda m: 1.2)])


def exact(data: Data, work: Path) -> Case:
    pair = {kind: _program("exact.py", kind, stocks(data), "{out}") for kind in ("plain", "exact")}
    return Case(pair, [Bar("exact: at most 1.15 x plain", lambda m: m["exact"], lambda m: 1.15 * m["plain"])], "plain")


def compiling(data: Data, work: Path) -> Case:
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


def groups(data: Data, work: Path) -> Case:
    return _exchange(work, "groups", {"prices": stocks(data)}, ("polars", "duckdb", "dask"), 1.5, 4)


def join(data: Data, work: Path) -> Case:
    inputs = {"prices": stocks(data), "ratings": ratings(data)}
    return _exchange(work, "join", inputs, ("polars", "duckdb", "dask"), 1.7, 3)


def join_small(data: Data, work: Path) -> Case:
    inputs = {"prices": stocks(data), "sectors": sectors(data)}
    return _exchange(work, "join-small", inputs, ("polars", "duckdb"), 1.2)


def sort(data: Data, work: Path) -> Case:
    return _exchange(work, "sort", {"prices": stocks(data)}, ("polars",), 2)


def rolling(data: Data, work: Path) -> Case:
    return _exchange(work, "rolling", {"prices": stocks(data)}, ("polars", "duckdb"), 2)


def beyond_groups(data: Data, work: Path) -> Case:
    return _beyond(work, "beyond-groups", {"prices": stocks(data, 10)}, "beyond-groups")


def beyond_sort(data: Data, work: Path) -> Case:
    return _beyond(work, "beyond-sort", {"prices": stocks(data, 10)})


def beyond_join(data: Data, work: Path) -> Case:
    return _beyond(work, "join", {"prices": stocks(data, 10), "ratings": ratings(data)}, "join")


def resume(data: Data, work: Path) -> Case:
    """Without and with durable copies; and of what takes long to compute: killed at nine tenths, gone on with, run again."""
    prices, commands = stocks(data), {}
    shutil.copy(HERE / "programs" / "implied.py", work)
    all_columns = "o: avg(Open), h: max(High), l: min(Low), c: avg(Close), v: sum(Volume), s: max(Symbol)"
    for name, traded, asked, by_date in (
        ("none", "filter: Close > 0", "m: avg(Open)", ""),
        ("small", "filter: Close > 0", "m: avg(Open)", ", checkpoint: disk"),
        ("all", "filter: Close > 0", all_columns, ""),
        ("persisted", "filter: Close > 0, checkpoint: memory", all_columns, ""),
        ("large", "filter: Close > 0, checkpoint: disk", all_columns, ""),
        ("long", "python: {function: implied:volatility, schema: {Date: date, volatility: float64}}, checkpoint: disk", "m: avg(volatility)", ""),
    ):  # fmt: skip
        config = work / f"{name}.yaml"
        config.write_text(
            f"params: {{store: {name}-store}}\nstore: ${{store}}\nsteps:\n  prices: {{read: {{path: '{prices}', partitions: 40}}}}\n  traded: {{{traded}}}\n"
            f"  by_date: {{aggregate: {{by: [Date], {asked}}}{by_date}}}\n  out: {{write: '${{run}}/out.parquet'}}\n"
        )
        commands[name] = [sys.executable, "-m", "pipelines", "run", str(config), "--executor", "threads"]
    competitors = {
        "no copy": commands["none"],
        "small copy": [*commands["small"], "--fresh"],
        "small copy, again": commands["small"],
        "no copy, all columns": commands["all"],
        "persisted, all columns": commands["persisted"],
        # a store of its own each time: to put files in the place of others takes longer
        "large copy": ["sh", "-c", f"exec {shlex.join(commands['large'])} -p store=large-store/$$"],
        "disk": _program("disk.py", str(work / "large-store")),
        "long": [*commands["long"], "--fresh"],
        "killed": _program("killed.py", str(work / "long-store"), *commands["long"]),
        "gone on": commands["long"],
        "again": commands["long"],
    }
    bars = [
        Bar("a small copy costs at most 15 %", lambda m: m["small copy"], lambda m: 1.15 * m["no copy"]),
        Bar(
            "a large copy costs at most its bytes / disk rate on top of the persisted table",
            lambda m: m["large copy"] - m["persisted, all columns"],
            lambda m: m["disk"],
        ),
        Bar(
            "and on top of a run that keeps nothing",
            lambda m: m["large copy"] - m["no copy, all columns"],
            lambda m: m["disk"],
        ),
        Bar("killed at 90 %, gone on: at most 20 %", lambda m: m["gone on"], lambda m: 0.2 * m["long"]),
        _at_most("again: 1.5 s", "small copy, again", 1.5),
    ]
    return Case(competitors, bars, "no copy")


def incremental(data: Data, work: Path) -> Case:
    """A thousand files, of which one changes."""
    folder = thousand(data)
    config = work / "thousand.yaml"
    config.write_text(
        f"store: store\nsteps:\n  prices: {{read: '{folder}/*.csv'}}\n  by_date: {{aggregate: {{by: [Date], m: avg(Open)}}, checkpoint: disk}}\n"
        "  out: {write: '${run}/out.parquet'}\n"
    )
    command = [sys.executable, "-m", "pipelines", "run", str(config), "--executor", "threads"]
    competitors = {
        "all": [*command, "--fresh"],
        "touched": [sys.executable, "-c", f"import os; os.utime('{folder}/0500.csv')"],
        "one changed": command,
        "none changed": command,
    }
    bar = Bar(
        "one changed: at most 5 % and start-up",
        lambda m: m["one changed"],
        lambda m: 0.05 * m["all"] + m["none changed"],
    )
    return Case(competitors, [bar], "all")


def exchange_compile(data: Data, work: Path) -> Case:
    """A full join, because none of its sides can be broadcast."""
    one = stocks(data).replace("*", "0")
    steps = {
        "group-by": "  groups: {aggregate: {by: [Date, Symbol], open_median: median(Open)}}\n",
        "join": (
            "  opened: {select: [Date, Symbol, Open]}\n"
            "  traded: {from: prices, select: [Date, Symbol, Volume]}\n"
            "  both: {from: [opened, traded], join: {on: [Date, Symbol], how: full}}\n"
        ),
    }
    programs = {}
    for name, text in steps.items():
        config = work / f"{name}.yaml"
        config.write_text(f"steps:\n  prices: {{read: {{path: '{one}', partitions: 10000}}}}\n{text}")
        programs[name] = _program("compiled.py", str(config))
    return Case(programs, [_at_most(f"{name}: 5 s", name, 5) for name in programs])


def logistic(data: Data, work: Path) -> Case:
    rows = labelled(data)
    by_hand = {"scikit-learn": _program("learning.py", "logistic", rows, "{out}")}
    ours = _ours(work, "logistic", {"rows": rows, "model": "{out}"}, "threads", "local")
    bars = [Bar("threads: at most scikit-learn", lambda m: m["ours, threads"], lambda m: m["scikit-learn"])]
    return Case(by_hand | ours, bars, "scikit-learn", differ=lambda outs: learnt.logistic(outs, rows))


def boosted(data: Data, work: Path) -> Case:
    rows = labelled(data)
    by_hand = {"xgboost": _program("learning.py", "boosted", rows, "{out}")}
    ours = _ours(work, "boosted", {"rows": rows, "model": "{out}"}, "threads")
    bars = [Bar("threads: at most 1.25 x XGBoost", lambda m: m["ours, threads"], lambda m: 1.25 * m["xgboost"])]
    return Case(by_hand | ours, bars, "xgboost", differ=lambda outs: learnt.boosted(outs, rows))


def monte_carlo(data: Data, work: Path) -> Case:
    """Ten assets on ten days: the loss at the worst close of each of ten million paths."""
    return _simulated(data, work, PROGRAMS / "monte-carlo.yaml", 3)


def monte_carlo_var(data: Data, work: Path) -> Case:
    """The config that comes with the project: a second of NumPy's work, beside which a start counts."""
    return _simulated(data, work, ROOT / "configs" / "monte_carlo_var.yaml")


def _simulated(data: Data, work: Path, config: Path, most_runs: int | None = None) -> Case:
    copy, paths = shutil.copy(config, work), data.sized(10_000_000)
    numpy = "numpy, 2 processes"
    by_hand = {numpy: _program("learning.py", "monte-carlo", str(copy), str(paths), "{out}")}
    command = [sys.executable, "-m", "pipelines", "run", str(copy), "-p", f"paths={paths}", "--executor", "threads"]
    bars = [Bar("threads: at most 1.2 x NumPy", lambda m: m["ours, threads"], lambda m: 1.2 * m[numpy])]
    return Case(
        by_hand | {"ours, threads": command},
        bars,
        numpy,
        most_runs,
        lambda outs: learnt.simulated(outs[numpy], work / "runs"),
    )


def predicting(data: Data, work: Path) -> Case:
    """Of 8 GB, with a model trained on a tenth of them."""
    rows = labelled(data, 50_000_000)
    model = str(work / "bench.model")
    train = _run(work, "logistic", {"rows": labelled(data, 5_000_000)})
    subprocess.run([*train, "-p", f"model={model}", "--executor", "threads"], cwd=work, check=True, capture_output=True)
    ours = _ours(work, "predicting", {"rows": rows, "model": model}, "threads")
    return Case(ours, [_at_most("threads: 2 GiB anonymous (GiB)", "ours, threads memory", 2, GIB)], most_runs=1)


def tpch_query(query: str) -> Callable[[Data, Path], Case]:
    def case(data: Data, work: Path) -> Case:
        tables = str(tpch(data))
        others = {
            name: [sys.executable, str(TPCH / f"tpch_{name}.py"), query, tables, "{out}"]
            for name in ("duckdb", "polars", "dask")
        }
        ours = _ours(work, query, {"tables": tables}, "threads", "local", folder=TPCH)
        return Case(others | ours, [], "polars")

    return case


CASES: dict[str, Callable[[Data, Path], Case]] = {
    "groupby": groupby,
    "groupby-large": groupby_large,
    "small": small,
    "check": check,
    "exact": exact,
    "compile": compiling,
    "groups": groups,
    "join": join,
    "join-small": join_small,
    "sort": sort,
    "rolling": rolling,
    "beyond-groups": beyond_groups,
    "beyond-sort": beyond_sort,
    "beyond-join": beyond_join,
    "exchange-compile": exchange_compile,
    "resume": resume,
    "incremental": incremental,
    "logistic": logistic,
    "boosted": boosted,
    "monte-carlo": monte_carlo,
    "monte-carlo-var": monte_carlo_var,
    "predicting": predicting,
    **{f"tpch-{query}": tpch_query(query) for query in ("q01", "q03", "q05", "q18")},
}


def _program(name: str, *arguments: str) -> list[str]:
    return [sys.executable, str(PROGRAMS / name), *arguments]


def _by_hand(names: tuple[str, ...], query: str, *inputs: str) -> dict[str, list[str]]:
    return {name: _program(f"by_{name}.py", query, *inputs, "{out}") for name in names}


def _ours(
    work: Path, config: str, inputs: dict[str, str], *executors: str, folder: Path = PROGRAMS
) -> dict[str, list[str]]:
    command = _run(work, config, inputs, folder)
    return {f"ours, {executor}": [*command, "--executor", executor] for executor in executors}


def _run(work: Path, config: str, inputs: dict[str, str], folder: Path = PROGRAMS) -> list[str]:
    """The command that runs a copy of the config, which makes `work` its project."""
    copy = shutil.copy(folder / f"{config}.yaml", work)
    given = [word for name, value in (inputs | {"out": "{out}"}).items() for word in ("-p", f"{name}={value}")]
    return [sys.executable, "-m", "pipelines", "run", str(copy), *given]


def _exchange(
    work: Path, query: str, inputs: dict[str, str], others: tuple[str, ...], polars: float, dask: float | None = None
) -> Case:
    """By hand and ours, with the bars: at most so many times Polars, so many times faster than Dask."""
    bars = [Bar(f"threads: at most {polars} x Polars", lambda m: m["ours, threads"], lambda m: polars * m["polars"])]
    if dask is not None:
        text = f"threads: {dask} x faster than Dask by hand"
        bars.append(Bar(text, lambda m: m["ours, threads"], lambda m: m["dask"] / dask))
    ours = _ours(work, query, inputs, "threads", "local")
    return Case(_by_hand(others, query, *inputs.values()) | ours, bars, "polars")


def _at_most(text: str, what: str, limit: float, unit: float = 1) -> Bar:
    return Bar(text, lambda m: m[what] / unit, lambda m: limit)


def _beyond(work: Path, config: str, inputs: dict[str, str], polars: str = "") -> Case:
    """Ours with 1 GiB for all workers together; where `polars` names its query, Polars without a limit beside it."""
    command = _run(work, config, inputs)
    overlays = {f"ours, {kind}": str(PROGRAMS / f"{kind}-1gib.yaml") for kind in ("threads", "local")}
    ours = {who: [*command, "--overlay", overlay] for who, overlay in overlays.items()}
    bars = [_at_most(f"{who}: 2 GiB anonymous (GiB)", f"{who} memory", 2, GIB) for who in ours]
    by_hand = _by_hand(("polars",), polars, *inputs.values()) if polars else {}
    return Case(by_hand | ours, bars, "polars" if polars else "", most_runs=1)


def _shipped(work: Path, what: str) -> list[str]:
    """A command on a copy of the config that comes with the project, so that its runs land in `work`."""
    config = shutil.copy(ROOT / "configs" / "stock_groupby.yaml", work)
    prices = ROOT / "data" / "stocks" / "*.csv"
    return [sys.executable, "-m", "pipelines", what, str(config), "-p", f"prices={prices}"]
