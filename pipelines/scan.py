"""Files to a typed, partitioned source: what there is to read, and how one partition of it is read.

Polars' CSV reader is fast and lenient. What it lets pass (short rows, blank lines, dates in a guessed order) is found
here, and what it refuses is traced to a file, a row and a column.
"""

from __future__ import annotations

import bisect
import bz2
import codecs
import contextlib
import csv as pycsv
import fnmatch
import functools
import glob
import gzip
import hashlib
import io
import lzma
import math
import mmap
import operator
import os
import re
import stat
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import accumulate, groupby
from pathlib import Path
from typing import IO, Any, TypeVar, cast

import polars as pl
from msgspec import Struct
from msgspec.structs import replace

from pipelines.errors import ConfigError, DataError, Issue, did_you_mean, machine_error, of_machine
from pipelines.files import written
from pipelines.types import dtype_name, is_pattern

_CSV, _PARQUET, _PACKED = (".csv", ".tsv", ".txt"), (".parquet", ".pq"), (".gz", ".zst", ".bz2", ".xz")
UNREAD = (".json", ".jsonl", ".ndjson", ".xlsx", ".xls", ".orc", ".avro", ".feather", ".arrow")
_SAMPLE_BYTES, _SAMPLE, _SAMPLE_FILES = 1 << 16, 1 << 18, 16
"""Types: up to so many bytes are looked at in each place, at the heads of all files together so many, in so many files."""
_FILES_PER_PARTITION = 32
_ROWS, _ROWS_BYTES, _PLACES = 20_000, 1 << 22, 48
"""Estimates: about so many rows are looked at, of up to so many bytes, at so many places."""
_BLOCK = 1 << 24
_ARRAYS_BLOCK = 1 << 20  # of which a few arrays are made
_CUT = 30 << 20
"""About so many bytes of a large CSV make a partition: they are read into memory, and up to 32 MiB glibc keeps freed blocks.
Larger ones are zeroed anew by the kernel each time, which takes up to as long as parsing them."""
_ADVISED = 128 << 10
"""Linux reads at most so much for one piece of advice, unless it is set up otherwise (read_ahead_kb)."""
_SIGNS = bytes.maketrans(b"123456789E", b"000000000e")
_T = TypeVar("_T")
_BROKEN = (OSError, EOFError, lzma.LZMAError, zlib.error)  # what unpacking a damaged archive raises


class Csv(Struct, frozen=True):
    """How CSV text is to be read."""

    separator: str = ","
    null_values: tuple[str, ...] = ()  # beside the empty field
    encoding: str = "utf-8"
    skip_lines: int = 0  # before the header
    header: bool = True
    columns: tuple[str, ...] | None = None  # the names when there is no header
    dates: tuple[tuple[str, str], ...] = ()  # (column, strftime format)
    quote: str | None = '"'
    file_column: str | None = None  # also for Parquet: a column with the file's name
    split: bool | None = None  # may large files be cut at line ends? None: yes, with care where samples show quotes
    decimal: str = "."
    ragged: str | None = "error"  # None: missing fields are NULL, fields too many are left out
    missing: str | None = "error"  # None: a column that a file does not have is NULL in its rows; also for Parquet
    bad_rows: str = "error"  # drop, keep: rows with a value or a number of fields that does not fit are left out

    @property
    def utf8(self) -> bool:
        return codecs.lookup(self.encoding).name in ("utf-8", "utf-8-sig", "ascii")


class Piece(Struct, frozen=True):
    """A part of one file: bytes of a CSV (the whole file: 0 to its size), or rows of a Parquet file."""

    path: str
    start: int
    stop: int
    mtime_ns: int = 0
    names: tuple[str, ...] | None = None
    """The file's columns in its order, where that is not the schema's."""


Partition = tuple[Piece, ...]


class FileInfo(Struct, frozen=True):
    """What tells that a file has changed."""

    path: str
    size: int
    mtime_ns: int


def linked(paths: Iterable[str], root: str | Path) -> dict[str, tuple[str, ...]]:
    """Of each, if symbolic links lead to it, where it is: another place is another file, of whatever size and time."""
    base, folders, found = os.path.realpath(root), dict[str, tuple[str, bool]](), dict[str, tuple[str, ...]]()
    for path in paths:
        folder, name = os.path.split(path)
        if folder not in folders:
            inside, real = os.path.relpath(folder, root), os.path.realpath(folder)
            plain = folder if inside.startswith("..") else os.path.normpath(os.path.join(base, inside))
            folders[folder] = real, real != plain
        real, led = folders[folder]
        there = os.path.realpath(os.path.join(real, name)) if led or os.path.islink(path) else None
        found[path] = () if there is None else (there.removeprefix(base + os.sep),)
    return found


class Drawn(Struct, frozen=True):
    """What a source shows of its table before it is read."""

    rows: float
    """Of the whole table."""
    origin: str
    """Where the number comes from, in plain words."""
    exact: bool = False
    frame: pl.DataFrame | None = None
    """Some rows, with all columns. None: to get any would mean to run the user's code."""
    stretches: tuple[int, ...] = ()
    """The frame's rows are stretches of neighbours, from places apart: of so many rows each."""


class _OddRows(pl.exceptions.PolarsError):
    """Stops a query from within; `Source.diagnose` finds the row."""


class Source(Struct, frozen=True):
    """How to read any partition; small, because it travels with the tasks."""

    format: str
    csv: Csv
    schema: Mapping[str, pl.DataType]
    root: str = ""
    rejects: str | None = None
    """The folder for rows that `bad_rows` leaves out."""

    def rejecting(self, folder: str) -> Source:
        return replace(self, rejects=folder) if self.csv.bad_rows != "error" and self.format == "csv" else self

    def scan(self, partition: Partition, columns: Sequence[str] | None) -> pl.LazyFrame:
        """The rows of a partition, in file order; the columns in the order of the schema.

        With no columns asked for there is still one, or the number of rows would be lost. A failed `collect` is
        explained by `diagnose`; DataError is raised here for what does not even decode.
        """
        if columns is not None and (unknown := sorted(set(columns) - set(self.schema))):
            raise ConfigError(Issue(f"no column {unknown[0]!r}", did_you_mean(unknown[0], self.schema)))
        wanted = [c for c in self.schema if columns is None or c in set(columns)] or self._in_file()[-1:]
        if not partition:
            return pl.LazyFrame(schema={c: self.schema[c] for c in wanted})
        for piece in partition:
            self._unchanged(piece)
        read = (
            self._scan_parquet
            if self.format != "csv"
            else self._sieve
            if self.csv.bad_rows != "error"
            else self._scan_csv
        )
        frames = [self._named(self._whole(read(p, wanted), p), p).select(wanted) for p in partition]
        return frames[0] if len(frames) == 1 else pl.concat(frames, how="vertical")

    @property
    def waits(self) -> bool:
        return self.format == "csv" and hasattr(os, "posix_fadvise")

    def prefetch(self, partition: Partition) -> None:
        """Of CSV that Polars does not read from the disk itself. A reader that waits for the disk does nothing else meanwhile."""
        with contextlib.suppress(OSError):  # whoever reads it will say so
            for piece in partition:
                if not self._is_plain(piece):
                    with open(piece.path, "rb", buffering=0) as file:
                        for at in range(piece.start, min(piece.stop, piece.start + _CUT), _ADVISED):
                            os.posix_fadvise(file.fileno(), at, _ADVISED, os.POSIX_FADV_WILLNEED)

    def sample(self, partitions: Sequence[Partition]) -> Drawn:
        """About 20,000 rows from places all over the files, and how many rows there are: exact for Parquet and small CSV."""
        files = dict[str, Piece]()
        for piece in (piece for partition in partitions for piece in partition):
            known = files.get(piece.path, piece)
            files[piece.path] = replace(piece, start=min(piece.start, known.start), stop=max(piece.stop, known.stop))
        pieces = list(files.values())
        if self.format != "csv":
            return self._sample_parquet(pieces)
        if all(_splits(path, self.csv) for path in files):
            return self._sample_csv(pieces)
        return self._sample_packed(pieces)

    def diagnose(self, partition: Partition, columns: Sequence[str] | None, error: Exception) -> DataError | None:
        """Why reading a partition failed: the first value or row at fault, or None when the data is not at fault."""
        if isinstance(error, DataError):
            return error
        wanted = [c for c in self._in_file() if columns is None or c in columns]
        for piece in partition:
            try:
                if self.format == "csv":
                    issue = self._diagnose_csv(piece, wanted, str(error))
                else:
                    issue = self._diagnose_parquet(piece, wanted)
            except DataError as e:
                return e
            if issue:
                return DataError(issue)
        return None

    def name(self, path: str) -> str:
        """The file's name in messages and in `file_column`: relative to the root when below it."""
        return _name(path, self.root)

    def _sample_parquet(self, pieces: Sequence[Piece]) -> Drawn:
        rows = sum(piece.stop - piece.start for piece in pieces)
        most = min(_ROWS, 2_000_000 // len(self.schema))
        if rows <= most:
            chosen = list(pieces)
        else:
            size, ends = max(1, most // 16), list(accumulate(piece.stop - piece.start for piece in pieces))
            chosen = list[Piece]()
            for at in _places(rows, 16, size):
                i = bisect.bisect_right(ends, at)
                piece = pieces[i]
                start = piece.stop - (ends[i] - at)
                chosen.append(replace(piece, start=start, stop=min(start + size, piece.stop)))
        # one by one: a file is then read no further than the stretch
        frames = [self.scan((piece,), None).collect(engine="in-memory") for piece in chosen]
        origin = f"row groups of {_files_text(len(pieces))}"
        stretches = tuple(frame.height for frame in frames)
        return Drawn(rows, origin, True, pl.concat([self._nothing(), *frames]), stretches)

    def _sample_csv(self, pieces: Sequence[Piece]) -> Drawn:
        if not pieces:
            return Drawn(0, "no files", True, self._nothing())
        head = self._stretch(pieces[0], 0, _SAMPLE_BYTES)
        first = _header_end(head, self.csv)
        begins = [min(first, piece.stop) for piece in pieces]
        sizes = [piece.stop - begin for piece, begin in zip(pieces, begins, strict=True)]
        wide = len(head[first:]) / max(1, head.count(b"\n", first))
        goal = int(min(max(_ROWS * wide, _SAMPLE_BYTES), _ROWS_BYTES))
        total, texts = sum(sizes), list[tuple[Piece, bytes]]()
        if whole := total <= 1.5 * goal and len(pieces) <= _PLACES:
            for piece in pieces:
                raw = self._stretch(piece, 0, piece.stop)
                texts.append((piece, raw[_header_end(raw, self.csv) :]))
        else:
            size, ends, seen = goal // _PLACES, list(accumulate(sizes)), set[str]()
            for at in _places(total, _PLACES, size):
                i = bisect.bisect_right(ends, at)
                piece, begin = pieces[i], begins[i]
                if sizes[i] > 2 * size:
                    texts.append((piece, self._stretch(piece, piece.stop - (ends[i] - at), size)))
                elif piece.path not in seen:  # in a small file there is no second place
                    seen.add(piece.path)
                    texts.append((piece, self._stretch(piece, 0, piece.stop)[begin:]))
            # what begins within quotes has some where none can be
            texts = [(piece, text) for piece, text in texts if _odd_quote(text, self.csv) is None]
            texts = texts or [(pieces[0], head[first:])]
        frame, stretches = self._parsed(texts)
        read = sum(len(text) for _, text in texts)
        if whole:
            return Drawn(frame.height, f"all rows of {_files_text(len(pieces))}", True, frame, stretches)
        rows = total * frame.height / read if read else 0
        count = len({piece.path for piece, _ in texts})
        of = f"{count:,} of {_files_text(len(pieces))}" if count < len(pieces) else _files_text(count)
        origin = f"{len(texts)} sample{'s' * (len(texts) != 1)} of {of}"
        return Drawn(rows, origin, False, *self._fewer(frame, stretches))

    def _sample_packed(self, pieces: Sequence[Piece]) -> Drawn:
        """Of files that cannot be read from the middle: their heads."""
        chosen = [pieces[i] for i in sorted({i * (len(pieces) - 1) // 3 for i in range(4)})]
        texts, heights, density, all_read = list[tuple[Piece, bytes]](), list[int](), 0.0, True
        for piece in chosen:
            raw, ratio, whole = _prefix(piece.path)
            all_read &= whole
            if not self.csv.utf8:
                decoded = codecs.getincrementaldecoder(self.csv.encoding)("replace").decode(raw).encode()
                ratio, raw = ratio * len(decoded) / max(1, len(raw)), decoded
            raw = raw if whole else raw[: raw.rfind(b"\n") + 1]
            body = raw[_header_end(raw, self.csv) :]
            heights.append(_unquoted(body, self.csv).count(b"\n"))
            density += ratio * heights[-1] / max(1, len(body))  # rows for a byte on the disk
            texts.append((piece, body))
        frame, stretches = self._parsed(texts)
        if all_read and len(chosen) == len(pieces):
            return Drawn(frame.height, f"all rows of {_files_text(len(pieces))}", True, *self._fewer(frame, stretches))
        rows = sum(piece.stop for piece in pieces) * density / len(chosen)
        of = f"{len(chosen)} of {_files_text(len(pieces))}" if len(chosen) < len(pieces) else _files_text(len(pieces))
        origin = f"the head{'s' * (len(chosen) != 1)} of {of}"
        return Drawn(max(rows, frame.height), origin, False, *self._fewer(frame, stretches))

    def _nothing(self) -> pl.DataFrame:
        return pl.DataFrame(schema=dict(self.schema))

    def _stretch(self, piece: Piece, at: int, size: int) -> bytes:
        """Whole lines from the first that starts there or later."""
        with open(piece.path, "rb") as file:
            if at:
                file.seek(at - 1)
                file.readline()
            text = file.read(size)
            if file.tell() < piece.stop:
                text = text[: text.rfind(b"\n") + 1]
        return text

    def _parsed(self, texts: Sequence[tuple[Piece, bytes]]) -> tuple[pl.DataFrame, tuple[int, ...]]:
        """The rows of the texts, NULL for what is not of its column's type, and how many rows are of each text."""
        frames, stretches = [self._nothing()], list[int]()
        of_file = self.csv.file_column is not None
        for _, group in groupby(texts, lambda each: (each[0].names, each[0].path if of_file else "")):
            alike = list(group)
            bodies = [body if not body or body.endswith(b"\n") else body + b"\n" for _, body in alike]
            heights = [_unquoted(body, self.csv).count(b"\n") for body in bodies]
            frame = self._leniently(alike[0][0], b"".join(bodies))  # at once: each call costs 0.7 ms
            if frame.height != sum(heights):
                parts = [self._leniently(alike[0][0], body) for body in bodies]
                frame, heights = pl.concat(parts), [part.height for part in parts]
            frames.append(frame)
            stretches += heights
        return pl.concat(frames), tuple(stretches)

    def _leniently(self, piece: Piece, body: bytes) -> pl.DataFrame:
        names, formats = self._names(piece), self._formats()
        typed = {c: pl.String() if c in formats else self.schema[c] for c in names}
        text = _header_line(names, self.csv) + body
        frame = self._polars(text, typed, header=True, ragged=True, ignore_errors=True)
        parsed = frame.with_columns(self._parse(c, formats[c], strict=False) for c in names if c in formats)
        return self._named(self._whole(parsed, piece), piece).select(list(self.schema)).collect(engine="in-memory")

    def _fewer(self, frame: pl.DataFrame, stretches: tuple[int, ...]) -> tuple[pl.DataFrame, tuple[int, ...]]:
        """The first rows of each stretch, where there are too many: lines were shorter than expected."""
        most = max(1, _ROWS // max(1, len(stretches)))
        if frame.height <= 1.5 * _ROWS:
            return frame, stretches
        starts = accumulate(stretches, initial=0)
        parts = [frame.slice(start, min(size, most)) for start, size in zip(starts, stretches, strict=False)]
        return pl.concat(parts), tuple(part.height for part in parts)

    def _in_file(self) -> list[str]:
        return [c for c in self.schema if c != self.csv.file_column]

    def _unchanged(self, piece: Piece) -> None:
        with reading(piece.path, self.root):
            if piece.mtime_ns and os.stat(piece.path).st_mtime_ns != piece.mtime_ns:
                raise DataError(Issue(f"{self.name(piece.path)} has changed since the plan was made", "run again"))

    def _names(self, piece: Piece) -> list[str]:
        return list(piece.names or self._in_file())

    def _whole(self, frame: pl.LazyFrame, piece: Piece) -> pl.LazyFrame:
        """With the columns that the file does not have."""
        if piece.names is None:
            return frame
        return frame.with_columns(
            pl.lit(None, self.schema[name]).alias(name) for name in self._in_file() if name not in piece.names
        )

    def _named(self, frame: pl.LazyFrame, piece: Piece) -> pl.LazyFrame:
        if self.csv.file_column is None:
            return frame
        return frame.with_columns(pl.lit(self.name(piece.path)).alias(self.csv.file_column))

    def _scan_parquet(self, piece: Piece, wanted: Sequence[str]) -> pl.LazyFrame:
        with reading(piece.path, self.root):
            frame = pl.scan_parquet(piece.path, glob=False)
            stored = frame.collect_schema()
        frame = frame.select([name for name in stored if name in wanted] or list(stored)[:1])
        frame = frame.slice(piece.start, piece.stop - piece.start)
        return frame.cast({c: t for c, t in self.schema.items() if c in wanted and c in stored and stored[c] != t})

    def _formats(self) -> dict[str, str | None]:
        """The columns that are read as text and parsed; of dates: their format.

        Not every date column: that costs a third more (see `_check_dates`). With decimal commas every number that has
        some: Polars would also take 1.234, which then means a thousand or is a mistake. Decimals: it would round them.
        Times: it takes the form of the first for all.
        """
        commas = self.csv.decimal == ","
        own = {
            c: None
            for c, t in self.schema.items()
            if (commas and t.is_float()) or t.is_decimal() or isinstance(t, pl.Time)
        }
        return {**own, **dict(self.csv.dates)}

    def _scan_csv(self, piece: Piece, wanted: Sequence[str]) -> pl.LazyFrame:
        names, formats = self._names(piece), self._formats()
        types = {c: self.schema[c] if c in wanted and c not in formats else pl.String() for c in names}
        raw: bytes | None = None
        if self._is_plain(piece):
            source: str | bytes = piece.path
            header = self.csv.header
        else:
            raw = self._text(piece)
            source = raw[_skipped(raw, self.csv) :] if piece.start == 0 else raw
            quote = _byte(self.csv.quote or "")
            # to look for one is five times as fast as to count them
            if quote and self._is_cut(piece) and quote in source and source.count(quote) % 2:
                # Every piece even: then, piece after piece, every cut was outside quotes.
                raise DataError(
                    Issue(
                        f"{self.name(piece.path)}: a quoted field seems to span a line break where the file was cut "
                        f"(between bytes {piece.start} and {piece.stop})",
                        "set `split: true`: quotes are then counted before the file is cut",
                    )
                )
            header = self.csv.header and piece.start == 0
            if len(names) == 1 and not header and source[:1] in (b"\n", b"\r"):
                # Polars takes no types from a blank first line: to it that is a file without columns.
                source, header = _header_line(names, self.csv) + source, True
        if any(types[c] == pl.String for c in names if c in wanted):
            self._check_quotes(piece, raw)
        self._check_dates(piece, [c for c in names if c in wanted], raw)
        watched, looks = list[str](), list[Look]()
        if self.csv.ragged is None:
            frame = self._polars(source, types, header=header)
        else:
            # One column more than there is: what is in it was too much. It costs the reading of the last column, which
            # Polars fills with nulls in short rows.
            last, more = names[-1], max(names, key=len) + "~"
            frame = self._polars(source, {**types, more: pl.String()}, header=header)
            watched += [last, more]
            looks.append((lambda rows: bool(rows[last].null_count()) or rows[more].null_count() < len(rows[more]),
                          functools.partial(self._check_lengths, piece)))  # fmt: skip
        if floats := [c for c in names if types[c].is_float()]:
            # what Polars makes of numbers beyond the type
            watched += [c for c in floats if c not in watched]
            looks.append((lambda rows: any(rows[c].max() == math.inf or rows[c].min() == -math.inf for c in floats),
                          functools.partial(self._check_numbers, piece, floats)))  # fmt: skip
        if looks:
            # as an elementwise predicate the checks are pushed into the reader, before any row is dropped
            frame = frame.filter(pl.map_batches(watched, _looking(watched, looks), pl.Boolean(), is_elementwise=True))
        return frame.with_columns(
            self._parse(c, formats[c], strict=True) for c in wanted if c in formats and c in names
        )

    def _stray(self, body: bytes) -> int | None:
        """Where the first quote stands that readers take differently."""
        quote = _byte(self.csv.quote or "")
        return next(_strays(body, self.csv), None) if quote and quote in body else None

    def _check_quotes(self, piece: Piece, raw: bytes | None) -> None:
        """Raises DataError where texts would lose quotes, or be cut within them."""
        quote = _byte(self.csv.quote or "")
        if not quote or not (_has(piece.path, quote) if raw is None else quote in raw):
            return
        with contextlib.ExitStack() as stack:
            text: bytes | mmap.mmap
            if raw is None:
                file = stack.enter_context(open(piece.path, "rb"))
                text = stack.enter_context(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
            else:
                text = raw
            first = _header_end(text[: 1 << 20], self.csv) if piece.start == 0 else 0
            stray = next(_strays(text, self.csv, first), None)
        if stray is not None:
            body = self._body(piece)
            at = self._stray(body)
            raise DataError(self._stray_issue(piece, body, stray - first if at is None else at))

    def _stray_issue(self, piece: Piece, body: bytes, at: int) -> Issue:
        begin = body.rfind(b"\n", 0, at) + 1
        index = _unquoted(body[:begin], self.csv).count(b"\n") if begin else 0
        column = _unquoted(body[begin:at], self.csv).count(_byte(self.csv.separator))
        issue = self._quote_issue(piece, (index, column))
        assert issue is not None
        return issue

    def _check_dates(self, piece: Piece, columns: Sequence[str], raw: bytes | None) -> None:
        """Raises DataError where dates are not as in ISO 8601.

        Polars guesses their order in each chunk that it reads, from the chunk's first value, and refuses the chunk's other
        values when they differ. So what changes its order within a piece is refused; a few lines tell the rest.
        """
        formats = self._formats()
        dates = {c: p for c in columns if c not in formats and (p := _iso(self.schema[c]))}
        if not dates or self.csv.bad_rows != "error":
            return
        fields = {self._names(piece).index(c): c for c in dates}
        nulls = {"", *self.csv.null_values}
        with contextlib.ExitStack() as stack:
            if raw is None:
                file = stack.enter_context(open(piece.path, "rb"))
                raw = cast(bytes, stack.enter_context(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)))
            first = _header_end(raw[: 1 << 20], self.csv) if piece.start == 0 else 0
            step = max(4096, len(raw) // 16)
            for at in range(first, len(raw), step):
                begin = first if at == first else raw.find(b"\n", at) + 1
                end = raw.find(b"\n", begin) if begin or at == first else -1
                waiting = set(dates)
                while end >= 0:
                    # Python's reader raises for a line end amid a field
                    line = raw[begin:end].decode(errors="replace").rstrip("\r").replace("\r", " ")
                    values = next(_reader([line], self.csv), [])
                    given = {c: values[i] for i, c in fields.items() if i < len(values) and values[i] not in nulls}
                    if any(not dates[c].fullmatch(value) for c, value in given.items()):
                        if self._odd_date(piece, dates, raw[first:]):
                            raise self.diagnose((piece,), list(dates), _OddRows()) or _OddRows(
                                "a date is not as in ISO 8601"
                            )
                        return
                    waiting -= given.keys()
                    begin, end = end + 1, raw.find(b"\n", end + 1)
                    if at != first or not waiting or begin > first + step:  # Polars goes by a chunk's first value
                        break

    def _odd_date(self, piece: Piece, dates: Mapping[str, re.Pattern[str]], body: bytes) -> tuple[int, str, str] | None:
        """(Index, column, value) of the first value that is no ISO date."""
        names = self._names(piece)
        frame = self._polars(
            _header_line(names, self.csv) + body, dict.fromkeys(names, pl.String()), header=True, ragged=True
        ).select(list(dates))
        texts = frame.collect(engine="in-memory")
        found: tuple[int, str, str] | None = None
        for name, pattern in dates.items():
            odd = texts[name].is_not_null() & ~texts[name].str.contains(f"^(?:{pattern.pattern})?$")
            if (at := odd.arg_true()).len() and (found is None or at[0] < found[0]):
                found = at[0], name, texts[name][at[0]]
        return found

    def _sieve(self, piece: Piece, wanted: Sequence[str]) -> pl.LazyFrame:
        """The good rows. A row is bad when any of its columns is, whatever the plan reads."""
        body, names = self._body(piece), self._names(piece)
        begins, ends, counts = _rows(body, self.csv, len(names))
        texts, values = self._texts_and_values(piece, body)
        if len(texts) != len(counts):
            raise DataError(Issue(f"{self.name(piece.path)}: its quotes do not fit together", "correct the file"))
        reasons = pl.Series(values=[None], dtype=pl.String()).new_from_index(0, len(texts))
        bad = list[pl.Series]()
        for c in reversed(names):
            lost = self._lost(c, texts, values)
            bad.append(lost)
            said = pl.format("column {}: {} is not {}", pl.lit(repr(c)), pl.col(c), pl.lit(dtype_name(self.schema[c])))
            reasons = texts.select(pl.when(lost).then(said).otherwise(reasons).alias("reason"))["reason"]
        if self.csv.ragged is not None:
            ragged = pl.Series(counts != len(names))
            bad.append(ragged)
            fields = pl.Series("n", counts)
            said = pl.format("{} fields, expected {}", fields, pl.lit(len(names)))
            reasons = fields.to_frame().select(pl.when(ragged).then(said).otherwise(reasons).alias("reason"))["reason"]
        if self._stray(body) is not None:
            import numpy as np

            marks = np.zeros(len(counts), bool)
            marks[np.searchsorted(ends, list(_strays(body, self.csv)))] = True
            stray = pl.Series("n", marks)
            bad.append(stray)
            said = pl.when(pl.col("n")).then(pl.lit("a stray quote")).otherwise(reasons).alias("reason")
            reasons = stray.to_frame().select(said)["reason"]
        out = functools.reduce(operator.or_, bad)
        if self.rejects is not None and (at := out.arg_true()).len():
            before = self._row(piece, 0)
            kept = pl.DataFrame({"file": [self.name(piece.path)] * len(at), "row": at.cast(pl.Int64) + before})
            if self.csv.bad_rows == "keep":
                lines = [body[begins[i] : ends[i]].decode(errors="replace").rstrip("\r") for i in at]
                kept = kept.with_columns(reasons.filter(out).alias("reason"), pl.Series("text", lines, pl.String()))
            name = hashlib.blake2b(f"{piece.path}\0{piece.start:020}".encode(), digest_size=8).hexdigest()
            with written(os.path.join(self.rejects, f"{name}.parquet")) as file:
                kept.write_parquet(file)  # the same content when the task runs again
        return values.filter(~out).lazy()

    def _texts_and_values(self, piece: Piece, body: bytes) -> tuple[pl.DataFrame, pl.DataFrame]:
        """All columns of all rows as text, and as their types: NULL where that cannot be."""
        names, formats = self._names(piece), self._formats()
        text = _header_line(names, self.csv) + body
        strings = dict.fromkeys(names, pl.String())
        typed = {c: strings[c] if c in formats else self.schema[c] for c in names}
        texts = self._polars(text, strings, header=True, ragged=True).collect(engine="in-memory")
        frame = self._polars(text, typed, header=True, ragged=True, ignore_errors=True)
        parsed = frame.with_columns(self._parse(c, formats[c], strict=False) for c in names if c in formats)
        return texts, parsed.collect(engine="in-memory")

    def _lost(self, column: str, texts: pl.DataFrame, values: pl.DataFrame) -> pl.Series:
        """Where the text is not what the column's type takes."""
        lost = values[column].is_null() & texts[column].is_not_null()
        if self.schema[column] != pl.String:
            lost &= texts[column] != ""
        if self.schema[column].is_float():  # a number beyond the type
            lost |= values[column].is_infinite() & texts[column].str.contains(r"\d")
        pattern = _iso(self.schema[column]) if column not in self._formats() else None
        if pattern is not None:
            lost |= texts[column].is_not_null() & ~texts[column].str.contains(f"^(?:{pattern.pattern})?$")
        return lost

    def _parse(self, column: str, form: str | None, *, strict: bool) -> pl.Expr:
        dtype, text = self.schema[column], pl.col(column)
        text = pl.when(text != "").then(text)  # a quoted empty field is NULL, as Polars has it for other types
        if form is not None:
            return text.str.strptime(dtype, form, strict=strict)  # type: ignore[arg-type]
        if isinstance(dtype, pl.Time):
            seconds = pl.when(text.str.len_bytes() == len("12:30")).then(text + ":00").otherwise(text)
            text = pl.when(text.str.contains(f"^(?:{_ISO[pl.Time].pattern})$")).then(seconds).otherwise("?" + text)
            return text.str.strptime(dtype, "%H:%M:%S%.f", strict=strict).alias(column)
        if self.csv.decimal == ",":
            text = text.str.replace_all(".", "?", literal=True).str.replace_all(",", ".", literal=True)
        if isinstance(dtype, pl.Decimal):  # without digits beyond the scale, which the cast would round away
            exact = text.str.contains(rf"^ *[-+]?\d*(\.\d{{0,{dtype.scale}}}0*)?$")
            text = pl.when(exact).then(text.str.strip_chars_start(" ")).otherwise("?" + text)
        if dtype.is_float():
            beyond = text.str.contains(r"\d") & text.cast(dtype, strict=False).is_infinite()
            text = pl.when(beyond).then("?" + text).otherwise(text)
        return text.cast(dtype, strict=strict).alias(column)

    def _polars(
        self,
        source: str | bytes,
        types: Mapping[str, pl.DataType],
        *,
        header: bool,
        ignore_errors: bool = False,
        ragged: bool = False,
    ) -> pl.LazyFrame:
        return pl.scan_csv(
            source,
            schema=dict(types),
            has_header=False,
            skip_rows=int(header),
            missing_columns="insert",
            truncate_ragged_lines=ragged or self.csv.ragged is None,
            extra_columns="ignore" if ragged or self.csv.ragged is None else "raise",  # a first row that is too long
            decimal_comma=self.csv.decimal == ",",
            separator=self.csv.separator,
            quote_char=self.csv.quote,
            null_values=list(self.csv.null_values) or None,
            ignore_errors=ignore_errors,
            glob=False,
        )

    def _check_lengths(self, piece: Piece) -> None:
        """Raises where a row has too few or too many fields, or a quote is where readers differ."""
        body = self._body(piece)
        if self._ragged(body, len(self._names(piece))) or self._stray(body) is not None:
            raise _OddRows("a row has too few or too many fields")

    def _check_numbers(self, piece: Piece, floats: Sequence[str]) -> None:
        """Raises where a number in these columns is beyond its type."""
        if self._beyond(piece, self._body(piece), floats):
            raise _OddRows("a number is too large for its type")

    def _beyond(self, piece: Piece, body: bytes, floats: Sequence[str]) -> bool:
        """Is there a number beyond its type in these columns?"""
        signs = body.translate(_SIGNS)  # a search for [eE]\+?\d\d|\d{38} takes ten times as long
        if not any(sign in signs for sign in (b"e00", b"e+00", b"0" * 38)):
            return False
        indexes = [(self._names(piece).index(c), self.schema[c]) for c in floats]
        for row in _reader(io.StringIO(body.decode().replace("\r", " "), newline=""), self.csv):
            for i, dtype in indexes:
                if i < len(row) and re.search(r"\d", row[i]) and row[i] not in self.csv.null_values:
                    try:
                        number = abs(float(row[i]))
                    except ValueError:
                        continue  # Polars says so
                    if number > (3.4028235677973366e38 if dtype == pl.Float32 else 1.7976931348623157e308):
                        return True
        return False

    def _is_plain(self, piece: Piece) -> bool:
        """Can Polars read it from the disk itself? Packed files are unpacked here, once: dates are looked at too."""
        plain = self.csv.utf8 and not self.csv.skip_lines and not piece.path.lower().endswith(_PACKED)
        return plain and not self._is_cut(piece)

    def _is_cut(self, piece: Piece) -> bool:
        whole = not _splits(piece.path, self.csv) or (piece.start == 0 and os.path.getsize(piece.path) == piece.stop)
        return not whole

    def _text(self, piece: Piece) -> bytes:
        """The bytes of a piece: unpacked, in UTF-8."""
        with reading(piece.path, self.root):
            if self._is_cut(piece):
                with open(piece.path, "rb") as f:
                    f.seek(piece.start)
                    return f.read(piece.stop - piece.start)
            with _open(piece.path) as f:
                raw = f.read()
        if self.csv.utf8:
            return raw
        try:
            return raw.decode(self.csv.encoding).encode()
        except UnicodeDecodeError as e:
            raise DataError(_undecodable(self.name(piece.path), self.csv, f"byte {e.start}", raw[e.start])) from e

    def _body(self, piece: Piece) -> bytes:
        """`_text` without the header."""
        raw = self._text(piece)
        return raw[_header_end(raw, self.csv) :] if piece.start == 0 else raw

    def _ragged(self, body: bytes, expected: int) -> tuple[int, int] | None:
        """(Index, number of fields) of the first row without the right number of fields; a blank line has 0."""
        import numpy as np  # rarely needed, and 0.1 s to import

        body, first = _unquoted(body, self.csv), 0
        for block in _blocks(body):
            codes = np.frombuffer(block, np.uint8)
            ended, separating = codes == ord("\n"), codes == ord(self.csv.separator)
            marks = ended[np.flatnonzero(ended | separating)]
            count, left = divmod(len(marks), expected)
            if not left and marks[expected - 1 :: expected].all() and np.count_nonzero(marks) == count:
                first += count  # of the marks each `expected`th is a line end, and no other
                continue
            ends = np.flatnonzero(ended)
            separators = np.searchsorted(np.flatnonzero(separating), ends)
            surplus = np.diff(separators, prepend=0) - (expected - 1)
            tail = separating[ends - 1 - (codes[ends - 1] == ord("\r"))]
            bad = np.flatnonzero((surplus != 0) & ~((surplus == 1) & tail))
            if len(bad):
                row = int(bad[0])
                line = block[int(ends[row - 1]) + 1 if row else 0 : int(ends[row])].strip(b"\r")
                return first + row, line.count(_byte(self.csv.separator)) + 1 if line else 0
            first += len(ends)
        return None

    def _row(self, piece: Piece, index: int) -> int:
        """The number in the file, from 1, of a row of the piece."""
        if piece.start == 0:
            return index + 1
        before = self._body(Piece(piece.path, 0, piece.start))
        return _unquoted(before, self.csv).count(b"\n") + index + 1

    def _diagnose_csv(self, piece: Piece, wanted: Sequence[str], error: str) -> Issue | None:
        body, name = self._body(piece), self.name(piece.path)
        try:
            body.decode()
        except UnicodeDecodeError as e:
            row = self._row(piece, _unquoted(body[: e.start] + b"?", self.csv).count(b"\n") - 1)
            return _undecodable(name, self.csv, f"row {row}", body[e.start])
        names = self._names(piece)
        if self.csv.ragged is not None and (found := self._ragged(body, len(names))):
            index, n = found
            what = f"has {n} field{'s' * (n != 1)}" if n else "is blank"
            return Issue(
                f"{name}: row {self._row(piece, index)} {what}, expected {len(names)}",
                "correct the file, or its separator and quote in the config; or set `bad_rows` or `ragged: null`",
            )
        if not body:
            return None
        if (stray := self._stray(body)) is not None:
            return self._stray_issue(piece, body, stray)
        odd = _odd_quote(body, self.csv)
        try:
            # The same parser says what it refuses, so that no other value is blamed.
            texts, values = self._texts_and_values(piece, body)
        except pl.exceptions.PolarsError:
            return self._quote_issue(piece, odd)
        bad: tuple[int, str] | None = None
        for c in (c for c in names if c in wanted):
            lost = self._lost(c, texts, values).arg_true()
            if len(lost) and (bad is None or lost[0] < bad[0]):
                bad = lost[0], c
        if bad is None:
            return self._quote_issue(piece, odd)
        at, c = bad
        what, remedy = self._refusal(c, texts[c][at])
        return Issue(f"{name}: row {self._row(piece, at)}, column {c!r}: {what}", remedy)

    def _refusal(self, column: str, value: str) -> tuple[str, str]:
        """Of a value that is not of its column's type: what is wrong, and what to do."""
        dtype = dtype_name(self.schema[column])
        if form := dict(self.csv.dates).get(column):
            what, remedy = f"{value!r} does not match {form!r}", f"correct the format in `dates: {{{column}: ...}}`"
        elif isinstance(self.schema[column], pl.Datetime) and bool(_ZONED.fullmatch(value)) == ("," not in dtype):
            what = f"{value!r} is not {dtype}: " + ("it has no offset" if "," in dtype else "an offset is not dropped")
            remedy = f"declare `dtypes: {{{column}: " + ("datetime}`" if "," in dtype else '"datetime[us,UTC]"}`')
        elif _iso(self.schema[column]):
            what, remedy = f"{value!r} is not {dtype}", f"give the format in `dates: {{{column}: ...}}`"
        else:
            likely = "float64" if "int" in dtype and re.fullmatch(r"\s*-?\d+\.\d*", value) else "string"
            what, remedy = f"{value!r} is not {dtype}", f"declare `dtypes: {{{column}: {likely}}}`"
        return what, f"{remedy}, or add the value to `null_values`, or set `bad_rows`"

    def _quote_issue(self, piece: Piece, odd: tuple[int, int] | None) -> Issue | None:
        if odd is None:
            return None
        row, column = self._row(piece, odd[0]), self._names(piece)[odd[1] :][:1]
        where = f"{self.name(piece.path)}: row {row}" + "".join(f", column {c!r}" for c in column)
        return Issue(f"{where}: a stray quote, or one that is never closed", "double the quotes within a quoted field")

    def _diagnose_parquet(self, piece: Piece, wanted: Sequence[str]) -> Issue | None:
        name = self.name(piece.path)
        try:
            with reading(piece.path, self.root):
                frame = pl.scan_parquet(piece.path, glob=False).slice(piece.start, piece.stop - piece.start)
                read = frame.select(wanted).collect(engine="in-memory")
        except pl.exceptions.PolarsError as e:
            return Issue(f"{name}: {str(e).splitlines()[0]}", "is the file whole, and unchanged since the plan?")
        for c in wanted:
            lost = read[c].cast(self.schema[c], strict=False).is_null() & read[c].is_not_null()
            if (at := lost.arg_true()).len():
                value, row = read[c][at[0]], piece.start + int(at[0]) + 1
                return Issue(
                    f"{name}: row {row}, column {c!r}: {value!r} is not {dtype_name(self.schema[c])}",
                    f"the file has {dtype_name(read[c].dtype)}: declare `dtypes: {{{c}: ...}}` accordingly",
                )
        return None


class Found(Struct, frozen=True):
    """What `discover` found: the source, its partitions, and what was assumed on the way."""

    source: Source
    partitions: tuple[Partition, ...]
    files: tuple[FileInfo, ...]
    sampled: Mapping[str, pl.DataType]  # the types that were guessed
    notes: tuple[str, ...] = ()
    input_bytes: int = 0


def discover(
    paths: Sequence[str],
    *,
    format: str | None,
    csv: Csv,
    dtypes: Mapping[str, pl.DataType],
    root: Path,
    partitions: int | None,
    partition_bytes: int,
    finer: int = 1,
) -> Found:
    """Find the files, agree on one schema, cut partitions.

    `finer`: in so many times as many partitions. They depend on the arguments and the files' sizes only, so that a run on other machines has the same.
    """
    files = [f for pattern in paths for f in matching(pattern, root, format)]
    files = list(dict.fromkeys(files))
    formats = {f: format or _format(f) for f in files}
    for f, kind in formats.items():
        if kind is None:
            end = (_suffixes(f) or [""])[-1]
            if end in UNREAD:
                what = f"{_name(f, root)}: {end} files are not read"
                raise ConfigError(Issue(what, "CSV and Parquet are: convert it to one of them"))
            raise ConfigError(Issue(f"the format of {_name(f, root)} is not clear", "set `format: csv` or `parquet`"))
        if kind != formats[files[0]]:
            raise ConfigError(
                Issue(f"mixed formats: {_name(files[0], root)} is {formats[files[0]]}, {_name(f, root)} is {kind}",
                      "read them as two sources")
            )  # fmt: skip
    kind = cast(str, formats[files[0]])
    if csv.separator == "," and kind == "csv" and all(".tsv" in _suffixes(f) for f in files):
        csv = replace(csv, separator="\t")
    infos = [facts(f, root) for f in files]
    for i in infos:
        if not i.size:
            raise DataError(Issue(f"{_name(i.path, root)} is empty", "remove the file, or leave it out of `path`"))
    notes: list[str] = []
    sampled: dict[str, pl.DataType] = {}
    cut: Callable[[int, float], int]
    if kind == "csv":
        heads = _headers(infos, csv, root)
        columns = [head[0] for head in heads]
        names = _agreed(columns, infos, root, csv.missing)
        _no_patterns(names)
        _known("dtypes", dtypes, names)
        _known("dates", dict(csv.dates), names)
        given = {**{c: _dated(c, f, dtypes.get(c)) for c, f in csv.dates}, **dtypes}
        for c, t in given.items():
            if isinstance(t, pl.Duration | pl.Binary):
                what = f"{dtype_name(t)} cannot be read from CSV"
                raise OptionError(("dtypes",), c, Issue(what, "read it as string or int64, and `derive` from that"))
        sampled, notes = _sample(infos, heads, names, given, csv, root)
        if len(names) == 1 and (other := next((char for char in ";\t|" if char in names[0]), "")):
            shown = other.replace("\t", "\\t")
            notes.insert(0, f'the only column is {names[0]!r}: add `separator: "{shown}"` if its name is several')
        schema = {c: given.get(c) or sampled[c] for c in names}
        sizes = [i.size for i in infos]
        cut = _line_cutter(infos, heads, csv)
        divisible = [_splits(f, csv) for f in files]
        spans = sizes
    else:
        schema, columns, sizes, spans, groups = _parquet(infos, root, csv.missing)
        _no_patterns(schema)
        _known("dtypes", dtypes, schema)
        schema = {c: dtypes.get(c, t) for c, t in schema.items()}
        cut = _row_cutter(spans, groups, exact=partitions is not None)
        divisible = [True] * len(files)
    if csv.file_column:
        _no_patterns([csv.file_column])
        if csv.file_column in schema:
            what = f"file_column {csv.file_column!r} is already a column"
            raise OptionError(("file_column",), None, Issue(what, "choose another name"))
        schema[csv.file_column] = pl.String()
    if partitions is not None:
        cuts = _exactly(partitions * finer, sizes, cut)
    else:
        part = min(_CUT, partition_bytes) if kind == "csv" else partition_bytes
        names = [_name(f, root) for f in files]
        cuts = _by_size(names, sizes, divisible, cut, partition_bytes // finer, part // finer)
    own = {
        i.path: None
        if list(each) == list(schema)[: len(each)] and len(each) >= len(schema) - bool(csv.file_column)
        else tuple(each)
        for i, each in zip(infos, columns, strict=True)
    }
    times = {i.path: i.mtime_ns for i in infos}
    made = tuple(
        tuple(replace(piece, mtime_ns=times[piece.path], names=own[piece.path]) for piece in each)
        for each in _partitions(files, spans, cuts)
    )
    source = Source(kind, csv, schema, str(root))
    return Found(source, made, tuple(infos), sampled, tuple(notes), sum(i.size for i in infos))


def _no_patterns(names: Iterable[str]) -> None:
    for name in names:
        if is_pattern(name):
            raise DataError(
                Issue(f"a column is called {name!r}, which queries take for a pattern", "rename it in the files")
            )


# Files


def _suffixes(path: str) -> list[str]:
    return [s.lower() for s in Path(path).suffixes]


def _format(path: str) -> str | None:
    ends = _suffixes(path)
    if ends and ends[-1] in _PARQUET:
        return "parquet"
    if ends and ends[-1] in _PACKED:
        ends.pop()
    return "csv" if ends and ends[-1] in _CSV else None


def _splits(path: str, csv: Csv) -> bool:
    return csv.split is not False and csv.utf8 and not path.lower().endswith(_PACKED)


def _name(path: str, root: str | Path) -> str:
    p = Path(path)
    return p.relative_to(root).as_posix() if root and p.is_relative_to(root) else path


def not_here(path: str) -> tuple[str, str] | None:
    """Why a path is none of this machine, and what to do."""
    if found := re.match(r"([A-Za-z][A-Za-z0-9+.-]+)://", path):
        return (
            f"{found[1]}:// is no path: files are read and written where a run is",
            "copy the files, or mount what they are on",
        )
    if path.startswith("~"):
        return "~ is not put in here", "write the path in full, or ${env:HOME}/..."
    return None


def matching(pattern: str, root: Path, format: str | None) -> list[str]:
    """The files that a path names: one, those of a folder, or those of a glob. Raises ConfigError when there are none."""
    full = os.path.join(root, pattern)
    kind = _kind(full, root)
    if kind == stat.S_IFDIR:

        def unlisted(error: OSError) -> None:
            if of_machine(error):
                raise machine_error(f"cannot read {_name(error.filename, root)}", error, "see whether it is there")

        inside = (os.path.join(d, f) for d, _, fs in os.walk(full, onerror=unlisted) for f in fs)
        visible = (f for f in inside if not re.search(r"(^|/)[._]", os.path.relpath(f, full).replace(os.sep, "/")))
        found = sorted(f for f in visible if _format(f) in ([format] if format else ["csv", "parquet"]))
    elif kind is not None:  # first: a name may hold [ or *
        found = [full]
    else:
        found = sorted(f for f in globbed(pattern, root) if not os.path.basename(f).startswith("_"))
    if not found:
        if why := not_here(pattern):
            raise ConfigError(Issue(*why))
        folder = full.rstrip("/") if os.path.isdir(full) else os.path.dirname(full)
        while not os.path.isdir(folder):
            folder = os.path.dirname(folder)
        if folder == full.rstrip("/"):
            what, remedy = f"the folder {pattern} has no CSV or Parquet files", "name their `format`, or another folder"
        else:
            known = sorted(name for name in _listed(folder, root) if not name.startswith((".", "_")))
            what, remedy = (
                f"no file matches {pattern} (looked in {folder})",
                did_you_mean(os.path.basename(full), known),
            )
        raise ConfigError(Issue(what, remedy))
    return [os.path.normpath(f) for f in found]


def globbed(pattern: str, root: Path) -> list[str]:
    """The files that glob.glob finds. It leaves out what cannot be looked at: the answer would be that of other files."""
    places, parts = ["/" if os.path.isabs(pattern) else str(root)], pattern.lstrip("/").split("/")
    for i, part in enumerate(parts):
        if part == "**":
            last = i == len(parts) - 1
            folders = [place for place in places if _kind(place, root) == stat.S_IFDIR]
            places = list(dict.fromkeys(below for folder in folders for below in _below(folder, root, last)))
        elif glob.has_magic(part):
            match = re.compile(fnmatch.translate(part)).match
            named = ((place, name) for place in places for name in _listed(place, root) if match(name))
            places = [os.path.join(*each) for each in named if part.startswith(".") or not each[1].startswith(".")]
        else:
            places = [os.path.join(place, part) for place in places]
    return [place for place in dict.fromkeys(places) if _kind(place, root) == stat.S_IFREG]


def _below(place: str, root: Path, files: bool) -> Iterator[str]:
    """It, and all in it that is not hidden: folders and what links lead to, or files too."""

    def entries(place: str) -> list[tuple[str, bool]]:
        with os.scandir(place) as found:
            return [(entry.name, entry.is_file(follow_symlinks=False)) for entry in found]

    yield place
    for name, is_file in _looked(place, root, entries) or ():
        if not name.startswith(".") and (files or not is_file):
            path = os.path.join(place, name)
            yield from (path,) if is_file else _below(path, root, files)


def _listed(place: str, root: Path) -> list[str]:
    """The names in a folder; none in what is no folder."""
    return _looked(place, root, os.listdir) or []


def _kind(path: str, root: Path) -> int | None:
    """Of a file or folder, where symbolic links lead; None: there is nothing."""
    return _looked(path, root, lambda path: stat.S_IFMT(os.stat(path).st_mode))


def _looked(path: str, root: Path, call: Callable[[str], _T]) -> _T | None:
    """What the call finds there; None: nothing. Where that is not known, as of a mount that is lost, raises MachineError."""
    try:
        return call(path)
    except ValueError:
        return None
    except OSError as error:
        if of_machine(error):
            raise machine_error(f"cannot read {_name(path, root)}", error, "see whether it is there") from None
        return None


def facts(path: str, root: Path) -> FileInfo:
    with reading(path, root):
        found = os.stat(path)
    return FileInfo(path, found.st_size, found.st_mtime_ns)


def _open(path: str, start: bytes | None = None) -> IO[bytes]:
    """The file, unpacked; or its first bytes, which are given."""
    packed: Any = path if start is None else io.BytesIO(start)
    match Path(path).suffix.lower():
        case ".gz":
            return cast(IO[bytes], gzip.open(packed))
        case ".bz2":
            return cast(IO[bytes], bz2.open(packed))
        case ".xz":
            return cast(IO[bytes], lzma.open(packed))
        case ".zst":
            import pyarrow

            return cast(IO[bytes], pyarrow.input_stream(packed, compression="zstd"))
    return open(path, "rb") if start is None else io.BytesIO(start)


def _prefix(path: str) -> tuple[bytes, float, bool]:
    """The file's first bytes, unpacked; how many there are of such for a byte on the disk; whether it is the whole file."""
    size, asked = os.path.getsize(path), 4 * _SAMPLE_BYTES
    while True:
        with open(path, "rb") as file:
            start = file.read(asked)
        out, count = list[bytes](), 0
        with _open(path, start) as unpacked, contextlib.suppress(*_BROKEN):  # it ends amid a block
            while part := unpacked.read1(1 << 14):  # type: ignore[attr-defined]
                count += len(part)
                if count <= 1 << 20:
                    out.append(part)
        if count or len(start) >= size:
            text = b"".join(out)
            return text, count / max(1, len(start)), len(start) >= size and len(text) == count
        asked *= 4  # bzip2 has blocks of 900 kB


def _places(total: int, count: int, size: int) -> Iterator[int]:
    """Where stretches of that size start, evenly over all."""
    for i in range(count):
        yield max(0, int((i + 0.5) / count * total - size / 2))


def _files_text(count: int) -> str:
    return f"{count:,} file{'s' * (count != 1)}"


class reading:
    """Names the file when it cannot be read."""

    def __init__(self, path: str, root: str | Path) -> None:
        self.path, self.root = path, root

    def __enter__(self) -> None: ...

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if isinstance(error, OSError) and of_machine(error):
            raise machine_error(
                f"cannot read {_name(self.path, self.root)}", error, "see whether it is there"
            ) from error
        if isinstance(error, _BROKEN):
            what = "cannot be unpacked" if self.path.lower().endswith(_PACKED) else "cannot be read"
            raise DataError(Issue(f"{_name(self.path, self.root)} {what}: {error}", "is the file whole?")) from error


# CSV text

_ISO: dict[type[pl.DataType], re.Pattern[str]] = {
    pl.Date: re.compile(r"\d{4}-\d\d-\d\d"),
    pl.Datetime: re.compile(r"\d{4}-\d\d-\d\d([T ]\d\d:\d\d(:[0-5]\d(\.\d{1,9})?)?)?"),
    pl.Time: re.compile(r"\d\d:\d\d(:[0-5]\d(\.\d{1,9})?)?"),
}
_ZONED = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:[0-5]\d(\.\d{1,9})?)?(Z|[+-]\d\d:?\d\d)")


def _iso(dtype: pl.DataType) -> re.Pattern[str] | None:
    """How dates and times are written. An offset is neither dropped nor made up."""
    return _ZONED if isinstance(dtype, pl.Datetime) and dtype.time_zone else _ISO.get(type(dtype))


def _reader(lines: Iterable[str], csv: Csv) -> Iterator[list[str]]:
    quoting: Any = {"quotechar": csv.quote} if csv.quote else {"quoting": pycsv.QUOTE_NONE}
    return pycsv.reader(lines, delimiter=csv.separator, **quoting)


def _rows(body: bytes, csv: Csv, expected: int) -> tuple[Any, Any, Any]:
    """Of each row: where it begins, where it ends (without its line end), and its number of fields, as NumPy arrays."""
    import numpy as np

    codes = np.frombuffer(body, np.uint8)
    ends, commas = codes == ord("\n"), codes == ord(csv.separator)
    if csv.quote and _byte(csv.quote) in body:
        outside = np.bitwise_xor.accumulate((codes == ord(csv.quote)).view(np.uint8)) == 0
        ends &= outside
        commas &= outside
    stops = np.flatnonzero(ends)
    if len(body) and (not len(stops) or stops[-1] != len(body) - 1):
        stops = np.append(stops, len(body))
    begins = np.concatenate(([0], stops[:-1] + 1)) if len(stops) else stops
    counts = np.diff(np.searchsorted(np.flatnonzero(commas), stops), prepend=0) + 1
    if len(stops):  # an empty field too many, after the last separator, is none
        ended = np.minimum(stops, len(body)) - 1
        ended = ended - (codes[ended] == ord("\r"))
        counts = counts - ((counts == expected + 1) & commas[ended])
    length = stops - begins - (codes[np.maximum(stops - 1, 0)] == ord("\r") if len(stops) else 0)
    return begins, stops, np.where((length <= 0) & (expected > 1), 0, counts)


def _byte(char: str) -> bytes:
    return char.encode()


def _has(path: str, byte: bytes) -> bool:
    """Is there such a byte in the file? Read in blocks: to map it would hold Python's lock while its pages are."""
    block = bytearray(_ARRAYS_BLOCK)
    with open(path, "rb", buffering=0) as f:
        while size := f.readinto(block):
            if block.find(byte, 0, size) >= 0:
                return True
    return False


def _undecodable(name: str, csv: Csv, where: str, byte: int) -> Issue:
    return Issue(f"{name}: {where}: byte 0x{byte:02x} is not {csv.encoding}", "set `encoding`, e.g. to latin-1")


def _unquoted(body: bytes, csv: Csv) -> bytes:
    """The text with every quoted stretch replaced (so what remains of separators and line ends counts), ended."""
    if csv.quote and (q := _byte(csv.quote)) in body:
        body = re.sub(q + b"[^" + re.escape(q) + b"]*" + q, b"q", body)
    return body if body.endswith(b"\n") or not body else body + b"\n"


def _strays(text: bytes | mmap.mmap, csv: Csv, start: int = 0) -> Iterator[int]:
    """Where quotes stand that readers take differently: in an unquoted field around a separator or a line end, or
    undoubled in a quoted one. Polars splits the first kind at the separator, and drops quotes of the second.

    `5" or 6"` is let pass: all read it alike.
    """
    import numpy as np

    if not csv.quote:
        return
    quote, separator = _byte(csv.quote), _byte(csv.separator)
    size = _ARRAYS_BLOCK
    while start < len(text):
        block = text[start : start + size]
        codes = np.frombuffer(block, np.uint8)
        quotes = codes == ord(quote)
        places = np.flatnonzero(quotes)
        if start + size < len(text):  # up to the last line end outside quotes
            stop, before = block.rfind(b"\n"), 0
            while stop >= 0 and (before := int(np.searchsorted(places, stop))) % 2:
                stop = block.rfind(b"\n", 0, int(places[before - 1]))
            if stop < 0:  # a very long row
                size *= 2
                continue
            block, codes, quotes, places = block[: stop + 1], codes[: stop + 1], quotes[: stop + 1], places[:before]
        edges = quotes | (codes == ord("\n")) | (codes == ord(separator))
        odd = len(places) and (
            not edges[places[2::2] - 1].all()
            or not edges[max(int(places[0]) - 1, 0)]
            or not (edges | (codes == ord("\r")))[np.minimum(places[1::2] + 1, len(block) - 1)].all()
        )
        if odd:  # rare; which of them matter takes longer to say
            opens, closes = places[0::2], places[1::2]
            again = np.zeros(len(opens), bool)  # does it double the quote before?
            again[1:] = opens[1:] == closes[: len(opens) - 1] + 1
            inside = (opens > 0) & ~again & ~np.isin(codes[opens - 1], (ord("\n"), ord(separator)))
            after = codes[np.minimum(closes + 1, len(block) - 1)]
            ended = np.isin(after, (ord("\n"), ord("\r"), ord(separator))) | (closes + 1 == len(block))
            ended[: len(opens) - 1] |= again[1:]
            first = np.maximum.accumulate(np.where(again, 0, np.arange(len(opens))))  # of a run of doubled ones
            doubtful = inside[first]
            doubtful[: len(closes)] |= ~ended
            for i in np.flatnonzero(doubtful).tolist():
                if not inside[first[i]]:
                    yield start + int(closes[i])
                elif i < len(closes):
                    quoted = block[opens[i] : closes[i]]
                    if b"\n" in quoted or separator in quoted:
                        yield start + int(opens[i])
        start, size = start + len(block), _ARRAYS_BLOCK


def _odd_quote(body: bytes, csv: Csv) -> tuple[int, int] | None:
    """(Row, field), from 0, of the first field with a quote where none can be."""
    if not csv.quote or _byte(csv.quote) not in body:
        return None
    q, sep = re.escape(_byte(csv.quote)), re.escape(_byte(csv.separator))
    one = re.compile(
        b"(?:" + q + b"(?:[^" + q + b"]|" + q + q + b")*+" + q + b"|[^" + q + sep + b"\\n]*+)(" + sep + b"|\\r?\\n|$)"
    )
    at = row = column = 0
    while at < len(body):
        field = one.match(body, at)
        if field is None:
            return row, column
        at = field.end()
        row, column = (row, column + 1) if field[1] == _byte(csv.separator) else (row + 1, 0)
    return None


def _blocks(body: bytes) -> Iterator[bytes]:
    start = 0
    while start < len(body):
        stop = body.find(b"\n", min(start + _ARRAYS_BLOCK, len(body) - 1)) + 1
        yield body[start:stop]
        start = stop


Look = tuple[Callable[[Mapping[str, pl.Series]], bool], Callable[[], None]]
"""Whether there is something odd in some rows' columns, and what looks at the text then."""


def _looking(columns: Sequence[str], looks: Sequence[Look]) -> Callable[[Sequence[pl.Series]], pl.Series]:
    """A predicate that is always true. Where something is odd for the first time, the text is looked at, once."""
    lock, waiting = threading.Lock(), dict(enumerate(looks))

    def check(values: Sequence[pl.Series]) -> pl.Series:
        rows = dict(zip(columns, values, strict=True))
        for i, (odd, look) in enumerate(looks):
            if i in waiting and odd(rows):
                with lock:  # no Polars in here: its threads would wait for one another
                    if i in waiting:
                        look()
                        del waiting[i]
        return pl.Series([True]).new_from_index(0, len(values[0]))

    return check


def _header_line(names: Sequence[str], csv: Csv) -> bytes:
    q = csv.quote
    return (csv.separator.join(q + n.replace(q, q + q) + q if q else n for n in names) + "\n").encode()


def _skipped(raw: bytes, csv: Csv) -> int:
    """Where the file's first line begins that counts."""
    end = 0
    for _ in range(csv.skip_lines):
        end = raw.find(b"\n", end) + 1
        if not end:
            return len(raw)
    return end


def _header_end(raw: bytes, csv: Csv) -> int:
    """Where the first data row begins."""
    start = _skipped(raw, csv)
    if not csv.header:
        return start or (3 if raw.startswith(codecs.BOM_UTF8) else 0)
    end = raw.find(b"\n", start)
    while end >= 0 and csv.quote and raw.count(_byte(csv.quote), start, end) % 2:
        end = raw.find(b"\n", end + 1)
    return end + 1 if end >= 0 else len(raw)


Head = tuple[list[str], int, bytes]  # the names, where the data begins, the file's first bytes in UTF-8


def _head(path: str, csv: Csv, root: Path) -> Head:
    size = _SAMPLE_BYTES * (1 if _splits(path, csv) else 3)
    with reading(path, root), _open(path) as f:
        raw = f.read(size)
        while raw.count(b"\n") <= csv.skip_lines and (more := f.read(size)):
            raw += more
        whole = not f.read(1)
    if not csv.utf8:
        try:
            raw = codecs.getincrementaldecoder(csv.encoding)().decode(raw).encode()
        except UnicodeDecodeError as e:
            raise DataError(_undecodable(_name(path, root), csv, f"byte {e.start}", raw[e.start])) from e
    if not whole:
        raw = raw[: raw.rfind(b"\n") + 1] or raw
    if b"\n" not in raw and b"\r" in raw.rstrip(b"\r"):
        what = f"{_name(path, root)}: its lines end in carriage returns only"
        raise DataError(Issue(what, "convert it: tr '\\r' '\\n' < old.csv > new.csv"))
    if csv.utf8 and raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise DataError(Issue(f"{_name(path, root)} is not {csv.encoding} but UTF-16", "set `encoding: utf-16`"))
    start, end = _skipped(raw, csv), _header_end(raw, csv)
    if csv.skip_lines and start == len(raw):
        what = f"{_name(path, root)} has no line after the {csv.skip_lines:,} that are skipped"
        raise OptionError(("skip_lines",), None, Issue(what, "skip fewer, or read the file as a source of its own"))
    quote = _byte(csv.quote or "")
    if csv.header and quote in raw[start:end] and quote:
        header = raw[start:end].removeprefix(codecs.BOM_UTF8)
        if header.count(quote) % 2 or next(_strays(header, csv), None) is not None:
            what = f"{_name(path, root)}: the header has a stray quote, or one that is never closed"
            raise DataError(Issue(what, "double the quotes within a quoted name"))
    if raw[:end].endswith(b"\r\r\n"):
        what = f"{_name(path, root)}: its lines end in two carriage returns and a line feed"
        raise DataError(Issue(what, "convert it: tr -d '\\r' < old.csv > new.csv"))
    try:
        first = raw[start : end if csv.header else _header_end(raw, replace(csv, header=True))].decode("utf-8-sig")
    except UnicodeDecodeError as e:
        at = start + e.start
        raise DataError(_undecodable(_name(path, root), csv, f"byte {at}", raw[at])) from e
    try:
        codecs.getincrementaldecoder("utf-8")().decode(raw[end:])
    except UnicodeDecodeError as e:
        at = end + e.start
        row = _unquoted(raw[end:at] + b"?", csv).count(b"\n")
        raise DataError(_undecodable(_name(path, root), csv, f"row {row}", raw[at])) from e
    fields = next(_reader(io.StringIO(first, newline=""), csv), [])
    if csv.header:
        return fields, end, raw
    if csv.columns and len(csv.columns) != len(fields):
        raise DataError(
            Issue(f"{_name(path, root)}: row 1 has {len(fields)} fields, but `columns` names {len(csv.columns)}",
                  "name every column of the file, in order")
        )  # fmt: skip
    return list(csv.columns or (f"column_{i}" for i in range(1, len(fields) + 1))), end, raw


def _agreed(columns: Sequence[Sequence[str]], infos: Sequence[FileInfo], root: Path, missing: str | None) -> list[str]:
    """The columns of all files, by name, in the order of first appearance."""
    names = list(dict.fromkeys(name for each in columns for name in each))
    if missing is None:
        return names
    for each, info in zip(columns, infos, strict=True):
        if len(each) < len(names):
            at = info
            lacking = [name for name in names if name not in each]
            first = columns[0]
            if lacking[0] in first:
                what = f"lacks {', '.join(map(repr, lacking))}, which {_name(infos[0].path, root)} has"
            else:
                other = next(i for i, found in enumerate(columns) if lacking[0] in found)
                at, what = infos[other], f"adds {', '.join(repr(n) for n in columns[other] if n not in first)}"
                what += f", which {_name(infos[0].path, root)} does not have"
            remedy = "add `missing: null` to read NULL there, or read it as a source of its own"
            raise DataError(Issue(f"{_name(at.path, root)} {what}", remedy))
    return names


def _headers(infos: Sequence[FileInfo], csv: Csv, root: Path) -> list[Head]:
    heads: list[Head] = []
    for i in infos:
        names, end, raw = _head(i.path, csv, root)
        name = _name(i.path, root)
        if len(names) > 1 and names[0] == "" and csv.header:
            names[0] = "column_1"  # what pandas writes over its index
        if not names or "" in names:
            at = names.index("") + 1 if names else 1
            raise DataError(Issue(f"{name}: the header has no name for column {at}", "name it in the file"))
        if twice := [n for n in names if names.count(n) > 1]:
            raise DataError(Issue(f"{name}: two columns are called {twice[0]!r}", "rename one in the file"))
        heads.append((names, end, raw if len(infos) <= _SAMPLE_FILES else raw[: _SAMPLE_BYTES * 3]))
    return heads


# Types of CSV columns

_FLOAT = r"^[-+]?(\d+\.\d*|\d*\.\d+|\d+)([eE][-+]?\d+)?$|^[-+]?(inf|Infinity)$|^(NaN|nan)$"
_DATE = r"^\d{4}-\d\d-\d\d$"
_PATTERNS: tuple[tuple[pl.DataType, str], ...] = (
    (pl.Int64(), r"^[-+]?\d+$"),
    (pl.Float64(), _FLOAT),
    (pl.Boolean(), r"^(true|false|True|False|TRUE|FALSE)$"),
    (pl.Date(), _DATE),
    (pl.Datetime("us"), r"^\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d{1,6})?$"),
    # of a time that is none Polars raises, asked to ignore it or not
    (pl.Time(), r"^([01]\d|2[0-3]):[0-5]\d:[0-5]\d(\.\d{1,9})?$"),
)
_NUMBERLIKE = r"^ *[-+]?[$€£¥]? *[-+]?\d[\d.,' ]*[%$€£¥]?$"  # separators of thousands, blanks, currencies
_DATELIKE = r"^(\d{1,2}[/.-]\d{1,2}[/.-]\d{2,4}|\d{4}[/.]\d{1,2}[/.]\d{1,2})( .*)?$"


def _sample(
    infos: Sequence[FileInfo],
    heads: Sequence[Head],
    names: Sequence[str],
    given: Mapping[str, pl.DataType],
    csv: Csv,
    root: Path,
) -> tuple[dict[str, pl.DataType], list[str]]:
    """The types of columns that are not `given`, and what does not fit those that are, from rows at the head, middle and
    tail of some files."""
    n = min(len(infos), _SAMPLE_FILES)
    chosen = sorted({i * (len(infos) - 1) // max(n - 1, 1) for i in range(n)})
    columns = [name for name in names if name not in given]
    declared = {c: given[c] for c in names if c in given and given[c] != pl.String and csv.bad_rows == "error"}
    if not columns and not declared:
        return {}, []
    alike = dict[tuple[str, ...], list[bytes]]()
    size = min(_SAMPLE_BYTES, max(_SAMPLE_BYTES // 4, _SAMPLE // n))
    for i in chosen:
        alike.setdefault(tuple(heads[i][0]), []).extend(_chunks(infos[i], heads[i], csv, size))
    frames = [frame for own, chunks in alike.items() for frame in _texts(own, chunks, csv)]
    found = pl.concat([pl.DataFrame(schema=dict.fromkeys(names, pl.String())), *frames], how="diagonal")
    if not found.height and any(chunk for chunks in alike.values() for chunk in chunks):
        return dict.fromkeys(columns, pl.String()), ["no rows could be sampled: its quotes do not fit together"]
    refused = _refused(found.select(list(declared)), declared, csv)
    if not columns:
        return {}, refused
    rows = found.select(columns)
    filled = rows.select(pl.when(pl.all() != "").then(pl.all()))  # a quoted empty field says nothing of the type
    values = filled.with_columns(rows[c] for c in columns if filled[c].null_count() == rows.height)
    if csv.decimal == ",":
        number = pl.all().str.contains(r"^[-+\d,.eE]+$").all()
        # as `_parse` has it: 1.000 may mean a thousand
        plain = pl.all().str.replace_all(".", "?", literal=True).str.replace(",", ".", literal=True)
        types = _types_of(values.select(pl.when(number).then(plain).otherwise(pl.all())))
    else:
        types = _types_of(values)
    notes = [f"column {c!r} {note}" for c in columns if (note := _doubt(values[c].drop_nulls(), types[c], csv))]
    return types, refused + notes


def _refused(texts: pl.DataFrame, declared: Mapping[str, pl.DataType], csv: Csv) -> list[str]:
    """What a run will say that reads these columns."""
    if not declared:
        return []
    dates = tuple((c, form) for c, form in csv.dates if c in declared)
    source = Source("csv", replace(csv, dates=dates, missing=None), declared)
    body = texts.write_csv(include_header=False, separator=csv.separator, quote_char=csv.quote or '"').encode()
    texts, values = source._texts_and_values(Piece("", 0, len(body)), body)
    notes = list[str]()
    for c in declared:
        if len(odd := texts[c].filter(source._lost(c, texts, values))):
            what, remedy = source._refusal(c, odd[0])
            notes.append(f"column {c!r}: {what}, so a run that reads it fails: {remedy}")
    return notes


def _chunks(info: FileInfo, head: Head, csv: Csv, size: int = _SAMPLE_BYTES, whole: bool = False) -> Iterator[bytes]:
    """Samples of the file's rows; `whole`: also those that may begin within quotes."""
    _, begin, raw = head
    if not _splits(info.path, csv) or len(raw) >= info.size:
        yield raw[begin:]
        return
    yield raw[begin : raw.find(b"\n", min(begin + size, len(raw) - 1)) + 1]
    with open(info.path, "rb") as f:
        for at in (info.size // 2, max(info.size - size, begin)):
            f.seek(at)
            f.readline()
            part = f.read(size)
            part = part if f.tell() >= info.size else part[: part.rfind(b"\n") + 1]
            if whole or not csv.quote or part.count(_byte(csv.quote)) % 2 == 0:
                yield part


def _texts(names: Sequence[str], chunks: Sequence[bytes], csv: Csv) -> list[pl.DataFrame]:
    """The fields of samples of files with these columns."""
    source = Source("csv", csv, dict.fromkeys(names, pl.String()))

    def parsed(body: bytes) -> pl.DataFrame:
        text = _header_line(names, csv) + body
        return source._polars(text, source.schema, header=True, ragged=True).collect(engine="in-memory")

    bodies = [chunk for chunk in chunks if chunk]
    # of a last line without an end Polars takes an odd quote, which it refuses elsewhere
    ended = (body if i == len(bodies) or body.endswith(b"\n") else body + b"\n" for i, body in enumerate(bodies, 1))
    with contextlib.suppress(pl.exceptions.PolarsError):
        frame = parsed(b"".join(ended))  # at once: each call costs a millisecond
        if frame.height == sum(_unquoted(body, csv).count(b"\n") for body in bodies):
            return [frame]
    frames = list[pl.DataFrame]()
    for body in bodies:
        # what fails begins within quotes; errors in the data are found when they are read
        with contextlib.suppress(pl.exceptions.PolarsError):
            frames.append(parsed(body))
    return frames


def _types_of(values: pl.DataFrame) -> dict[str, pl.DataType]:
    """Of each column of texts the narrowest type that all its values have."""
    fitting = _fitting(values)
    types = {c: next(found) for c, found in fitting.items()}
    while doubtful := [c for c, dtype in types.items() if dtype != pl.String]:
        # all at once: each time takes some milliseconds
        full = values.select(pl.col(doubtful).fill_null(pl.col(doubtful).drop_nulls().first()))
        text = full.write_csv(include_header=False).encode()
        source = Source("csv", Csv(), {c: types[c] for c in doubtful})
        read = source._polars(text, source.schema, header=False, ignore_errors=True).collect(engine="in-memory")
        if not (failed := [c for c in doubtful if read[c].null_count()]):
            break
        types |= {c: next(fitting[c]) for c in failed}  # a 13th month, a number beyond 64 bits
    return types


def _fitting(values: pl.DataFrame) -> dict[str, Iterator[pl.DataType]]:
    """Types that the texts of each column look like, the narrowest first."""
    firsts = values.select(pl.all().drop_nulls().first())
    likely = {
        c: [(dtype, pattern) for dtype, pattern in _PATTERNS if first is not None and re.search(pattern, first)]
        for c, first in zip(values.columns, firsts.row(0), strict=True)
    }
    looks = {
        f"{c}~{dtype}": pl.col(c).str.contains(pattern).all() for c, found in likely.items() for dtype, pattern in found
    }
    alike = values.select(**looks).row(0, named=True) if looks else {}  # all at once: on all cores

    def found(c: str) -> Iterator[pl.DataType]:
        for dtype, _ in likely[c]:
            if alike[f"{c}~{dtype}"]:
                yield dtype
                if dtype == pl.Int64:
                    break  # a float would not hold what 64 bits do not
        yield pl.String()

    return {c: found(c) for c in values.columns}


def _doubt(values: pl.Series, dtype: pl.DataType, csv: Csv) -> str:
    """What a reader should know about the guess."""
    if values.is_empty():
        return "is empty in all sampled rows: read as string; declare its type"
    if dtype == pl.Int64 and (zeros := values.filter(values.str.contains(r"^0\d"))).len():
        return f"has leading zeros ({zeros[0]!r}), read as int64: declare string to keep them"
    if dtype == pl.Int64 and (signs := values.filter(values.str.starts_with("+"))).len():
        return f"has plus signs ({signs[0]!r}), read as int64: declare string to keep them"
    if dtype == pl.String and values.str.contains(_PATTERNS[0][1]).all():
        return f"has integers beyond 64 bits ({values[0]!r}), read as string: declare float64 to compute with them"
    if dtype == pl.String and values.str.contains(f"^{_ZONED.pattern}$").all():
        return f"has times with offsets ({values[0]!r}), read as string: declare datetime[us,UTC], or another zone"
    if dtype == pl.String and values.str.contains(_DATELIKE).all():
        return f"looks like dates ({values[0]!r}), read as string: give their format in `dates`"
    if dtype == pl.String:
        number = _FLOAT if csv.decimal == "." else _FLOAT.replace(r"\.", ",")
        for what, pattern in (("numbers", number), ("dates", _DATE), ("dates", _DATELIKE)):
            fits = values.str.contains(pattern)
            if 2 * fits.sum() > len(values) > fits.sum():
                odd = values.filter(~fits)[0]
                return f"has {what} but for values like {odd!r}, read as string: add these to `null_values`, or correct them"
        if values.str.contains(_NUMBERLIKE).all():
            return f"looks like numbers ({values[0]!r}), read as string: take out the signs in a `derive`, and cast"
    return ""


class OptionError(ConfigError):
    """About one option: the path to it, and the key in it."""

    def __init__(self, option: tuple[str | int, ...], key: str | None, issue: Issue) -> None:
        super().__init__(issue)
        self.option, self.key = option, key


def _known(option: str, names: Mapping[str, Any], columns: Iterable[str]) -> None:
    for n in names:
        if n not in columns:
            raise OptionError((option,), n, Issue(f"there is no column {n!r} in the files", did_you_mean(n, columns)))


def _dated(column: str, form: str, declared: pl.DataType | None) -> pl.DataType:
    """The type that a format in `dates` gives. Raises OptionError for one that makes up the day, or drops an offset."""

    def has(directives: str) -> bool:
        return re.search(f"%[-_0.369:#]*[{directives}]", form) is not None

    day, time, zone = has("YCyGgmbBhdejDxFvcs+"), has("HkIlMSfRTXrpPcs+"), has("zZ+")
    found: pl.DataType = pl.Datetime("us") if day and time else pl.Date() if day else pl.Time()
    zoned = getattr(declared, "time_zone", None) is not None
    if zone and not zoned:
        what, remedy = f"{form!r} reads an offset", 'declare `dtypes: {NAME: "datetime[us,UTC]"}`'
    elif zoned and not zone:
        what, remedy = f"{form!r} reads no offset for a {dtype_name(declared)}", "add %z, or declare datetime"  # type: ignore[arg-type]
    elif not (day or time):
        what, remedy = f"{form!r} is not a format of dates or times", "as in %d/%m/%Y or %H:%M"
    elif declared is not None and (not declared.is_temporal() or (isinstance(declared, pl.Time) == day)):
        what, remedy = (
            f"{form!r} does not read {dtype_name(declared)}",
            f"it reads {dtype_name(found)}: drop one of the two",
        )
    else:
        return found
    raise OptionError(("dates",), column, Issue(what, remedy.replace("NAME", column)))


# Partitions: cuts are (file, position) in ascending order; a cut at a file's end is one at the next file's start


def _line_cutter(infos: Sequence[FileInfo], heads: Sequence[Head], csv: Csv) -> Callable[[int, float], int]:
    """Moves a position, in bytes, to the next start of a line."""
    maps: dict[int, mmap.mmap] = {}
    quoted = [csv.quote is not None and _has_quotes(i, head, csv) for i, head in zip(infos, heads, strict=True)]
    counted: dict[int, tuple[int, int]] = {}  # up to where, and whether their number is odd

    def cut(file: int, at: float) -> int:
        path, size = infos[file].path, infos[file].size
        if at <= 0 or not _splits(path, csv):
            return 0 if at <= 0 else size
        if file not in maps:
            for m in maps.values():
                m.close()
            maps.clear()
            with open(path, "rb") as f:
                maps[file] = mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ)
        text, at = maps[file], max(int(at), heads[file][1]) - 1
        if csv.split is None and not quoted[file]:
            end = text.find(b"\n", at)
            return end + 1 if end >= 0 else size
        if file not in counted or counted[file][0] > at:
            counted[file] = (heads[file][1], 0)
        start, odd = counted[file]
        odd ^= _quotes(text, start, at, csv) & 1
        counted[file] = (at, odd)
        while (end := text.find(b"\n", at)) >= 0:
            odd ^= _quotes(text, at, end, csv) & 1
            if not odd:
                return end + 1
            at = end + 1
        return size

    return cut


def _has_quotes(info: FileInfo, head: Head, csv: Csv) -> bool:
    """Whether a sample of the file shows any."""
    return (
        any(_byte(csv.quote or "") in chunk for chunk in _chunks(info, head, csv, whole=True)) if csv.quote else False
    )


def _quotes(text: mmap.mmap, start: int, stop: int, csv: Csv) -> int:
    """How many there are, counted in blocks."""
    if csv.quote is None or stop <= start:
        return 0
    if stop - start < 1 << 16:
        return text[start:stop].count(_byte(csv.quote))
    import numpy as np  # counts dense bytes ten times as fast

    found = 0
    for at in range(start, stop, _BLOCK):
        block = np.frombuffer(text[at : min(at + _BLOCK, stop)], np.uint8)
        found += int(np.count_nonzero(block == ord(csv.quote)))
        page = at - at % mmap.PAGESIZE
        text.madvise(mmap.MADV_DONTNEED, page, min(at + _BLOCK, stop) - page)  # or the file would fill the memory
    return found


def _row_cutter(
    rows: Sequence[int], groups: Sequence[list[tuple[int, int]]], *, exact: bool
) -> Callable[[int, float], int]:
    """Turns a position in bytes into a row: of N partitions by proportion, else the end of the row group it is in."""

    def cut(file: int, at: float) -> int:
        size = groups[file][-1][0] if groups[file] else 0
        if at <= 0 or not size:
            return 0
        if exact:
            return round(rows[file] * at / size)
        return next((end for stop, end in groups[file] if stop >= at), rows[file])

    return cut


def _exactly(n: int, sizes: Sequence[int], cut: Callable[[int, float], int]) -> list[tuple[int, int]]:
    total, cuts, file, before = sum(sizes), [], 0, 0
    for i in range(1, n):
        at = total * i / n
        while file < len(sizes) - 1 and before + sizes[file] <= at:
            before += sizes[file]
            file += 1
        cuts.append((file, cut(file, at - before)))
    return cuts


def _by_size(
    names: Sequence[str],
    sizes: Sequence[int],
    divisible: Sequence[bool],
    cut: Callable[[int, float], int],
    goal: int,
    part: int,
) -> list[tuple[int, int]]:
    """Where a partition ends, by the files' own names too: then a new file changes the partitions near it, not all behind it."""
    starts = [hashlib.blake2b(name.encode(), digest_size=1).digest()[0] < 16 for name in names]
    cuts, held, count = [], 0, 0
    for i, size in enumerate(sizes):
        large = divisible[i] and size > 1.5 * goal
        if count and (large or held + size > goal or count == _FILES_PER_PARTITION or (count >= 8 and starts[i])):
            cuts.append((i, 0))
            held = count = 0
        if large:
            n = -(-size // part)
            inner = dict.fromkeys(cut(i, size * k / n) for k in range(1, n))
            cuts += [(i, c) for c in inner]
        held, count = (goal, _FILES_PER_PARTITION) if large else (held + size, count + 1)
    return cuts


def _partitions(files: Sequence[str], spans: Sequence[int], cuts: Sequence[tuple[int, int]]) -> Iterator[Partition]:
    file, start = 0, 0
    for stop_file, stop in [*cuts, (len(files) - 1, spans[-1])]:
        pieces = []
        while (file, start) < (stop_file, stop):
            end = stop if file == stop_file else spans[file]
            if end > start:
                pieces.append(Piece(files[file], start, end))
            start = end
            if file == stop_file:
                break
            file, start = file + 1, 0
        yield tuple(pieces)


def _no_intervals(columns: Any, name: str) -> None:
    """Polars panics of them."""
    for i in range(len(columns)):
        if columns.column(i).converted_type == "INTERVAL":
            what = f"{name}: column {columns.column(i).path!r} is an interval, which cannot be read"
            raise DataError(Issue(what, "write the file without it, or with months and days as numbers"))


def _parquet(
    infos: Sequence[FileInfo], root: Path, missing: str | None
) -> tuple[dict[str, pl.DataType], list[list[str]], list[int], list[int], list[list[tuple[int, int]]]]:
    """The schema of all files; per file: columns, bytes, rows, and for each row group the bytes and rows up to its end."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema: dict[str, pl.DataType] = {}
    columns: list[list[str]] = []
    sizes, rows, groups = [], [], []
    for i in infos:
        name = _name(i.path, root)
        try:
            with reading(i.path, root):
                meta = pq.ParquetFile(i.path).metadata
                _no_intervals(meta.schema, name)
                here = dict(pl.scan_parquet(i.path, glob=False).collect_schema())
        except (ValueError, pa.ArrowException, pl.exceptions.PolarsError, pl.exceptions.PanicException) as e:
            raise DataError(
                Issue(f"{name} is not a readable Parquet file: {str(e).splitlines()[0]}", "is the file whole?")
            ) from e
        for column, dtype in here.items():
            if schema.setdefault(column, dtype) != dtype:
                first = next(_name(j.path, root) for j, known in zip(infos, columns, strict=False) if column in known)
                what = f"column {column!r} is {dtype_name(dtype)}, in {first} {dtype_name(schema[column])}"
                raise DataError(Issue(f"{name}: {what}", "read it as a source of its own, and cast"))
        columns.append(list(here))
        ends, size, count = [], 0, 0
        for g in range(meta.num_row_groups):
            size += meta.row_group(g).total_byte_size
            count += meta.row_group(g).num_rows
            ends.append((size, count))
        sizes.append(size)
        rows.append(count)
        groups.append(ends)
    return {name: schema[name] for name in _agreed(columns, infos, root, missing)}, columns, sizes, rows, groups
