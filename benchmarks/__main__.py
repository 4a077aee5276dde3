"""`python -m benchmarks [CASE ...]`: every competitor in turn, several times over; medians, ratios, and the bars."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl
import psutil

from benchmarks.data import stocks

PROGRAMS = Path(__file__).parent / "programs"
CONFIGS = Path(__file__).parent.parent / "configs"
Medians = dict[str, float]


@dataclass(frozen=True)
class Bar:
    """What the medians (seconds; peaks in GiB under `NAME memory`) have to satisfy."""

    text: str
    holds: Callable[[Medians], bool]


@dataclass(frozen=True)
class Case:
    """Competitors: name → command; where `{out}` stands in it, the answers are compared."""

    competitors: dict[str, list[str]]
    bars: list[Bar]
    reference: str = ""


@dataclass
class Measured:
    seconds: list[float] = field(default_factory=list)
    anonymous: float = 0.0
    resident: float = 0.0


def ours(config: Path | str, executor: str, *more: str) -> list[str]:
    return [sys.executable, "-m", "pipelines", "run", str(config), "--executor", executor, *more]


def program(name: str, *more: str) -> list[str]:
    return [sys.executable, str(PROGRAMS / name), *more]


def groupby(prices: str, others: list[str]) -> dict[str, list[str]]:
    config = PROGRAMS / "groupby.yaml"
    mine = {f"ours, {e}": ours(config, e, "-p", f"prices={prices}", "-p", "out={out}") for e in ("threads", "local")}
    return {name: program(f"by_{name}.py", prices, "{out}") for name in others} | mine


def cases(data: Path, folder: Path) -> dict[str, Callable[[], Case]]:
    def main_job() -> Case:
        bars = [
            Bar("threads: at most 1.6 times Polars", lambda m: m["ours, threads"] <= 1.6 * m["polars"]),
            Bar("local: at most 2 s more than threads", lambda m: m["ours, local"] <= m["ours, threads"] + 2),
            Bar("threads: 3 times faster than pandas", lambda m: 3 * m["ours, threads"] <= m["pandas"]),
            Bar("threads: 4 times faster than Dask by hand", lambda m: 4 * m["ours, threads"] <= m["dask"]),
        ]
        return Case(groupby(stocks(data), ["polars", "duckdb", "pandas", "dask"]), bars, "polars")

    def large() -> Case:
        bars = [
            Bar("threads: at most 1.3 times Polars", lambda m: m["ours, threads"] <= 1.3 * m["polars"]),
            Bar("threads: under 2 GiB", lambda m: m["ours, threads memory"] < 2),
        ]
        return Case(groupby(stocks(data, 10), ["polars"]), bars, "polars")

    def small() -> Case:
        imports = [sys.executable, "-c", "import dask, polars"]
        config = CONFIGS / "stock_groupby.yaml"
        check = [sys.executable, "-m", "pipelines", "check", str(config)]
        bars = [
            Bar("serial: at most 1.3 times the imports and 0.5 s", lambda m: m["serial"] <= 1.3 * m["imports"] + 0.5),
            Bar("check: at most 1.2 s", lambda m: m["check"] <= 1.2),
        ]
        return Case({"imports": imports, "serial": ours(config, "serial"), "check": check}, bars, "imports")

    def exact() -> Case:
        prices = stocks(data)
        pair = {kind: program("exact.py", kind, prices) for kind in ("plain", "exact")}
        return Case(
            pair, [Bar("exact sums: at most 15 % of the job", lambda m: m["exact"] <= 1.15 * m["plain"])], "plain"
        )

    def compiling() -> Case:
        steps = ["steps:", f"  prices: {{read: {{path: '{CONFIGS.parent}/data/stocks/AAPL.csv'}}}}"]
        steps += [f"  s{i}: {{derive: {{change: Close - Open + {i}}}}}" for i in range(1000)]
        (folder / "many.yaml").write_text("\n".join(steps))
        one = stocks(data).replace("*", "0")
        (folder / "wide.yaml").write_text(f"steps:\n  prices: {{read: {{path: '{one}', partitions: 100000}}}}\n")
        pair = {
            "1,000 steps": program("compiled.py", str(folder / "many.yaml")),
            "100,000 partitions": program("compiled.py", str(folder / "wide.yaml"), "prices"),
        }
        bars = [
            Bar("1,000 steps: under 3 s", lambda m: m["1,000 steps"] < 3),
            Bar("100,000 partitions: under 15 s", lambda m: m["100,000 partitions"] < 15),
            Bar("100,000 partitions: under 1.5 GB", lambda m: m["100,000 partitions memory"] < 1.5e9 / 2**30),
        ]
        return Case(pair, bars)

    return {"groupby": main_job, "groupby-large": large, "small": small, "exact": exact, "compile": compiling}


def once(command: list[str], folder: Path, into: Measured) -> str | None:
    """Runs the whole process; its last words if it failed. Memory is that of the tree, sampled every 50 ms."""
    began = time.perf_counter()
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT, cwd=folder)
        while process.poll() is None:
            anonymous, resident = memory(process.pid)
            into.anonymous, into.resident = max(into.anonymous, anonymous), max(into.resident, resident)
            time.sleep(0.05)
        into.seconds.append(time.perf_counter() - began)
        said.seek(0)
        return None if process.returncode == 0 else said.read().decode()[-500:]


def memory(pid: int) -> tuple[float, float]:
    """(anonymous, resident) GiB of the process and its children; mapped files are resident, but can be dropped at any time."""
    anonymous = resident = 0
    try:
        for process in (psutil.Process(pid), *psutil.Process(pid).children(recursive=True)):
            for line in Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines():
                anonymous += int(line.split()[1]) * 1024 if line.startswith("Anonymous:") else 0
                resident += int(line.split()[1]) * 1024 if line.startswith("Rss:") else 0
    except (psutil.Error, OSError):
        pass
    return anonymous / 2**30, resident / 2**30


def same_answers(outs: dict[str, Path]) -> str | None:
    tables = {name: pl.read_parquet(path).sort("Date") for name, path in outs.items() if path.exists()}
    names = list(tables)
    for name in names[1:]:
        one, other = tables[names[0]]["open_mean"], tables[name]["open_mean"]
        if len(one) != len(other) or float(((one - other) / one).abs().max() or 0) > 1e-9:  # type: ignore[arg-type]
            return f"{name} and {names[0]} answer differently"
    return None


def measure(name: str, case: Case, runs: int, folder: Path) -> bool:
    measured = {competitor: Measured() for competitor in case.competitors}
    outs = {
        c: folder / f"{c.replace(', ', '-')}.parquet"
        for c, cmd in case.competitors.items()
        if any("{out}" in a for a in cmd)
    }
    good = True
    for _ in range(runs):
        for competitor, command in case.competitors.items():
            filled = [a.replace("{out}", str(outs.get(competitor, ""))) for a in command]
            if failed := once(filled, folder, measured[competitor]):
                print(f"{name}: {competitor} failed: {failed}", file=sys.stderr)
                good = False
    if wrong := same_answers(outs):
        print(f"{name}: {wrong}", file=sys.stderr)
        good = False
    complete = good
    medians: Medians = {c: statistics.median(m.seconds) for c, m in measured.items()}
    print(
        f"\n{name} ({runs} runs)\n{'':24}{'median':>9}{'min':>9}{'max':>9}{'ratio':>8}{'anonymous':>12}{'resident':>11}"
    )
    for c, m in measured.items():
        ratio = f"{medians[c] / medians[case.reference]:.2f}" if case.reference else ""
        print(
            f"{c:24}{medians[c]:8.2f}s{min(m.seconds):8.2f}s{max(m.seconds):8.2f}s{ratio:>8}{m.anonymous:9.2f}GiB{m.resident:8.2f}GiB"
        )
    known = medians | {f"{c} memory": m.anonymous for c, m in measured.items()}
    for bar in case.bars:
        held = complete and bar.holds(known)
        good &= held
        print(f"{'PASS' if held else 'FAIL'}  {bar.text}", flush=True)
    return good


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("cases", nargs="*", metavar="CASE")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--data", type=Path, default=Path(tempfile.gettempdir()) / "pipelines-benchmarks")
    options = parser.parse_args()
    os.environ["PYTHONPATH"] = str(CONFIGS.parent)
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        known = cases(options.data, folder)
        if strange := set(options.cases) - set(known):
            parser.error(f"unknown: {', '.join(sorted(strange))}; known: {', '.join(known)}")
        print(json.dumps({"cores": os.cpu_count(), "polars": pl.__version__}))
        good = [measure(name, known[name](), options.runs, folder) for name in options.cases or known]
    return 0 if all(good) else 1


if __name__ == "__main__":
    raise SystemExit(main())
