"""Stock prices as CSV, made from a seed: 15 million rows in 10 files, 880 MB; or ten times that."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import polars as pl

FILES = 10
ROWS = 1_500_000  # of one file: 88 MB


def stocks(folder: Path, times: int = 1) -> str:
    """A glob of the files, made when they are not there; each holds its rows `times` times."""
    target = folder / ("stocks" if times == 1 else f"stocks{times}")
    if not (target / "complete").exists():
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        for i in range(FILES):
            _file(target / f"{i}.csv", i, times)
        (target / "complete").touch()  # last: a half-made set is made again
    return str(target / "*.csv")


def _file(path: Path, seed: int, times: int) -> None:
    random = np.random.default_rng(seed)
    days = pl.date_range(pl.date(2010, 1, 1), pl.date(2019, 12, 31), "1d", eager=True)
    symbols = pl.Series([f"S{i:03d}" for i in range(500)])
    opened = random.uniform(1, 500, ROWS).round(4)
    frame = pl.DataFrame(
        {
            "Date": days.gather(random.integers(0, len(days), ROWS)),
            "Symbol": symbols.gather(random.integers(0, len(symbols), ROWS)),
            "Open": opened,
            "High": (opened * 1.01).round(4),
            "Low": (opened * 0.99).round(4),
            "Close": (opened * random.uniform(0.99, 1.01, ROWS)).round(4),
            "Volume": random.integers(0, 10**7, ROWS),
        }
    )
    block = frame.write_csv(include_header=False).encode()
    with path.open("wb") as out:
        out.write((",".join(frame.columns) + "\n").encode())
        for _ in range(times):
            out.write(block)
