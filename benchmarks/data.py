"""What the benchmarks read: stock prices as CSV and tables to join with them, made from seeds; TPC-H's tables."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

FILES = 10
ROWS = 1_500_000  # of one file: 88 MB
RATED = 1_000_000
DAYS = pl.date_range(pl.date(2010, 1, 1), pl.date(2019, 12, 31), "1d", eager=True)
SYMBOLS = pl.Series([f"S{i:03d}" for i in range(500)])
SECTORS = 11
TPCHGEN = "tpchgen-cli"
TPCHGEN_VERSION = "4.0.0"


@dataclass(frozen=True)
class Data:
    """Where the data is kept, and which part of its full size it has: 0.01 to try the programs out, 1 to measure."""

    folder: Path
    scale: float = 1

    def made(self, name: str, make: Callable[[Path], object]) -> Path:
        """The folder of that name, made when it is not there or half-made."""
        target = self.folder / (name if self.scale == 1 else f"{name}-{self.scale:g}")
        if not (target / "complete").exists():
            shutil.rmtree(target, ignore_errors=True)
            target.mkdir(parents=True)
            make(target)
            (target / "complete").touch()  # last: a half-made set is made again
        return target

    def sized(self, rows: int) -> int:
        return max(1, round(rows * self.scale))


class NoData(Exception):
    """Data cannot be made here; says what is missing."""


def stocks(data: Data, times: int = 1) -> str:
    """A glob of CSV files: 15 million rows, 880 MB; each holds its rows `times` times."""

    def make(target: Path) -> None:
        for i in range(FILES):
            _file(target / f"{i}.csv", i, data.sized(ROWS), times)

    return str(data.made("stocks" if times == 1 else f"stocks{times}", make) / "*.csv")


def labelled(data: Data, rows: int = 5_000_000) -> str:
    """A glob of Parquet files: rows of 20 numbers x0 .. x19, a label and a number to predict; 5 million take 840 MB."""

    def make(target: Path) -> None:
        for i in range(FILES):
            random = np.random.default_rng(100 + i)
            x = random.normal(size=(data.sized(rows) // FILES, 20))
            score = x @ np.linspace(-0.5, 0.5, 20) + 0.3 * x[:, 0] * x[:, 1]
            columns = {f"x{j}": x[:, j] for j in range(20)}
            label = random.random(len(x)) < 1 / (1 + np.exp(-score))
            pl.DataFrame({**columns, "label": label, "size": score + random.normal(size=len(x))}).write_parquet(
                target / f"{i}.parquet", row_group_size=100_000
            )

    return str(data.made(f"labelled-{rows}", make) / "*.parquet")


def ratings(data: Data) -> str:
    """A CSV file of a million distinct (Date, Symbol), a bit more than half of those that there are; 29 MB."""

    def make(target: Path) -> None:
        random = np.random.default_rng(FILES)
        rows = data.sized(RATED)
        chosen = random.permutation(len(DAYS) * len(SYMBOLS))[:rows]
        frame = pl.DataFrame(
            {
                "Date": DAYS.gather(chosen // len(SYMBOLS)),
                "Symbol": SYMBOLS.gather(chosen % len(SYMBOLS)),
                "Target": random.uniform(1, 500, rows).round(2),
                "Analysts": random.integers(1, 30, rows),
            }
        )
        frame.write_csv(target / "ratings.csv")

    return str(data.made("ratings", make) / "ratings.csv")


def sectors(data: Data) -> str:
    """A CSV file with the sector of each of the 500 symbols."""

    def make(target: Path) -> None:
        drawn = np.random.default_rng(FILES + 1).integers(0, SECTORS, len(SYMBOLS))
        names = pl.Series([f"sector {i}" for i in range(SECTORS)])
        pl.DataFrame({"Symbol": SYMBOLS, "Sector": names.gather(drawn)}).write_csv(target / "sectors.csv")

    return str(data.made("sectors", make) / "sectors.csv")


def thousand(data: Data) -> Path:
    """A folder with 1,000 CSV files of 15,000 rows each, 880 MB."""

    def make(target: Path) -> None:
        for i in range(1000):
            _file(target / f"{i:04}.csv", i, data.sized(ROWS // 100), 1)

    return data.made("thousand", make)


def tpch(data: Data) -> Path:
    """A folder with TPC-H's tables as Parquet files; scale factor 1: 8.7 million rows, 380 MB."""

    def make(target: Path) -> None:
        command = [*_tpchgen(), "parquet", "--scale-factor", f"{data.scale:g}", "--quiet", "--output-dir", str(target)]
        try:
            subprocess.run(command, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        except (OSError, subprocess.CalledProcessError) as error:
            raise NoData(f"{TPCHGEN} failed: {error}") from None
        for path in target.glob("*.parquet"):
            _plain(path)

    return data.made("tpch", make)


def _tpchgen() -> list[str]:
    """The generator: the one installed, else one that is fetched for this call."""
    beside = Path(sys.executable).parent / TPCHGEN
    if found := shutil.which(beside) or shutil.which(TPCHGEN):
        return [found]
    if uvx := shutil.which("uvx"):
        return [uvx, f"{TPCHGEN}@{TPCHGEN_VERSION}"]
    if pipx := shutil.which("pipx"):
        return [pipx, "run", f"{TPCHGEN}=={TPCHGEN_VERSION}"]
    raise NoData(f"TPC-H's tables are made by {TPCHGEN}: `pip install {TPCHGEN}=={TPCHGEN_VERSION}`, or install uv")


def _plain(path: Path) -> None:
    """Text columns as usual: the generator asks readers for string views, which pandas does not know."""
    source = pq.ParquetFile(path)
    text = [pa.field(f.name, pa.string()) if pa.types.is_string_view(f.type) else f for f in source.schema_arrow]
    made = path.with_suffix(".plain")
    with pq.ParquetWriter(made, pa.schema(text)) as out:
        for i in range(source.num_row_groups):
            out.write_table(source.read_row_group(i).cast(out.schema))
    made.replace(path)


def _file(path: Path, seed: int, rows: int, times: int) -> None:
    random = np.random.default_rng(seed)
    opened = random.uniform(1, 500, rows).round(4)
    frame = pl.DataFrame(
        {
            "Date": DAYS.gather(random.integers(0, len(DAYS), rows)),
            "Symbol": SYMBOLS.gather(random.integers(0, len(SYMBOLS), rows)),
            "Open": opened,
            "High": (opened * 1.01).round(4),
            "Low": (opened * 0.99).round(4),
            "Close": (opened * random.uniform(0.99, 1.01, rows)).round(4),
            "Volume": random.integers(0, 10**7, rows),
        }
    )
    block = frame.write_csv(include_header=False).encode()
    with path.open("wb") as out:
        out.write((",".join(frame.columns) + "\n").encode())
        for _ in range(times):
            out.write(block)
