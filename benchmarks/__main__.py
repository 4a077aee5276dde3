"""`python -m benchmarks [CASE ...]`: every competitor in turn, several times over; medians, ratios, and the bars."""

from __future__ import annotations

import argparse
import glob
import json
import os
import platform
import statistics
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.cases import CASES, Case, Summary
from benchmarks.data import Data, NoData
from benchmarks.measure import Measured, run

COMPARED = ("polars", "duckdb", "pandas", "dask")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"default: all of {', '.join(CASES)}")
    parser.add_argument("--runs", type=int, default=5, help="default 5")
    parser.add_argument("--data", type=Path, default=Path(tempfile.gettempdir()) / "pipelines-benchmarks")
    parser.add_argument("--scale", type=float, default=1, help="part of the data's full size, to try programs out")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every measurement there too")
    options = parser.parse_args()
    if unknown := [name for name in options.cases if name not in CASES]:
        parser.error(f"unknown: {', '.join(unknown)}; known: {', '.join(CASES)}")
    if options.runs < 1:
        parser.error("--runs has to be at least 1")
    if not 0 < options.scale <= 1:
        parser.error("--scale has to be above 0, and at most 1")
    data = Data(options.data.resolve(), options.scale)
    data.folder.mkdir(parents=True, exist_ok=True)
    machine = {"cores": os.cpu_count(), "python": platform.python_version()} | {p: version(p) for p in COMPARED}
    print(", ".join(f"{name} {value}" for name, value in machine.items()), flush=True)
    results = dict[str, dict[str, Any]]()
    for name in options.cases or CASES:
        with tempfile.TemporaryDirectory(prefix="work-", dir=data.folder) as made:
            work = Path(made)
            (work / "runs").mkdir()  # makes it a project of its own: what runs write goes here
            try:
                case = CASES[name](data, work)
            except NoData as error:
                print(f"\n{name}: {error}", flush=True)
                results[name] = {"good": False, "failed": {"data": str(error)}}
            else:
                results[name] = measure(name, case, min(options.runs, case.most_runs or options.runs), work)
        if options.json is not None:  # after each case: what is measured is not lost
            options.json.write_text(
                json.dumps(
                    {"machine": machine, "runs": options.runs, "scale": options.scale, "cases": results}, indent=1
                )
            )
    return 0 if all(result["good"] for result in results.values()) else 1


def measure(name: str, case: Case, runs: int, work: Path) -> dict[str, Any]:
    print(f"\n{name}: median of {runs}", flush=True)
    failed = dict[str, str]()
    outs = {who: work / f"{i}.parquet" for i, who in enumerate(case.competitors)}
    commands = {
        who: [word.replace("{out}", str(outs[who])) for word in command] for who, command in case.competitors.items()
    }

    def attempt(who: str) -> Measured | None:
        for path in glob.glob(case.warm):
            with open(path, "rb", buffering=0) as file:
                while file.read(1 << 24):
                    pass
        measured = run(commands[who], work)
        if measured.failed:
            failed[who] = measured.failed
        return None if measured.failed else measured

    for who in commands:  # not timed: it fills the caches, and gives the answers to compare
        attempt(who)
    wrong = case.differ({who: outs[who] for who, c in case.competitors.items() if "{out}" in c and who not in failed})
    for text in wrong:
        print(f"  WRONG ANSWER: {text}", flush=True)
    if wrong:
        return {"good": False, "wrong": wrong, "failed": failed}

    measured: dict[str, list[Measured]] = {who: [] for who in commands if who not in failed}
    for _ in range(runs):
        for who, so_far in measured.items():
            if who not in failed and (once := attempt(who)):
                so_far.append(once)
    summary: Summary = {}
    for who, all_runs in measured.items():
        if who not in failed:
            summary[who] = statistics.median(m.seconds for m in all_runs)
            summary[f"{who} memory"] = max(m.anonymous for m in all_runs)
    show(case, measured, summary, failed)
    bars = {bar.text: judge(bar.value, bar.limit, summary) for bar in case.bars}
    for text, (held, numbers) in bars.items():
        print(f"  {'PASS' if held else 'FAIL'}  {text}: {numbers}", flush=True)
    return {
        "good": not failed and all(held for held, _ in bars.values()),
        "failed": failed,
        "competitors": {who: [vars(m) for m in all_runs] for who, all_runs in measured.items()},
        "bars": {text: {"held": held, "numbers": numbers} for text, (held, numbers) in bars.items()},
    }


def show(case: Case, measured: dict[str, list[Measured]], summary: Summary, failed: dict[str, str]) -> None:
    against = f"/ {case.reference}" if case.reference else ""
    print(f"  {'':20}{'median s':>10}{'min':>8}{'max':>8}{against:>10}{'anonymous MB':>15}{'resident MB':>13}")
    for who in case.competitors:
        if who in failed:
            print(f"  {who:20}    failed: {failed[who].splitlines()[-1]}")
            continue
        seconds = [m.seconds for m in measured[who]]
        ratio = f"{summary[who] / summary[case.reference]:.2f}" if case.reference in summary else ""
        peaks = max(m.anonymous for m in measured[who]) / 1e6, max(m.resident for m in measured[who]) / 1e6
        print(
            f"  {who:20}{summary[who]:10.2f}{min(seconds):8.2f}{max(seconds):8.2f}{ratio:>10}{peaks[0]:15,.0f}{peaks[1]:13,.0f}"
        )


def judge(value: Any, limit: Any, summary: Summary) -> tuple[bool, str]:
    try:
        one, other = value(summary), limit(summary)
    except KeyError as missing:
        return False, f"{missing} was not measured"
    return one <= other, f"{one:.2f} against {other:.2f}"


if __name__ == "__main__":
    sys.exit(main())
