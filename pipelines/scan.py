"""Files to a typed, partitioned source: what there is to read, and how one partition of it is read.

Polars' CSV reader is fast and lenient. What it lets pass (short rows, blank lines, dates in a guessed order) is found
here, and what it refuses is traced to a file, a row and a column.
"""

from __future__ import annotations

import bz2
import codecs
import csv as pycsv
import glob
import gzip
import io
import lzma
import mmap
import os
import re
import threading
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any, cast

import polars as pl

from pipelines.errors import ConfigError, DataError, Issue, did_you_mean
from pipelines.types import dtype_name

_CSV, _PARQUET, _PACKED = (".csv", ".tsv", ".txt"), (".parquet", ".pq"), (".gz", ".zst", ".bz2", ".xz")
_SAMPLE_BYTES, _SAMPLE_FILES, _FILES_PER_PARTITION = 1 << 16, 16, 32
_BLOCK = 1 << 24
_BROKEN = (OSError, EOFError, lzma.LZMAError, zlib.error)  # what unpacking a damaged archive raises


@dataclass(frozen=True)
class Csv:
    """How CSV text is to be read."""

    separator: str = ","
    null_values: tuple[str, ...] = ()  # beside the empty field
    encoding: str = "utf-8"
    header: bool = True
    columns: tuple[str, ...] | None = None  # the names when there is no header
    dates: tuple[tuple[str, str], ...] = ()  # (column, strftime format)
    quote: str | None = '"'
    file_column: str | None = None  # also for Parquet: a column with the file's name
    split: bool = True  # may large files be cut at line ends?

    @property
    def utf8(self) -> bool:
        return codecs.lookup(self.encoding).name in ("utf-8", "utf-8-sig", "ascii")


@dataclass(frozen=True)
class Piece:
    """A part of one file: bytes of a CSV (the whole file: 0 to its size), or rows of a Parquet file."""

    path: str
    start: int
    stop: int


Partition = tuple[Piece, ...]


@dataclass(frozen=True)
class FileInfo:
    """What tells that a file has changed."""

    path: str
    size: int
    mtime_ns: int


class _RaggedRows(pl.exceptions.PolarsError):
    """Stops a query from within; `Source.diagnose` finds the row."""


@dataclass(frozen=True)
class Source:
    """How to read any partition; small, because it travels with the tasks."""

    format: str
    csv: Csv
    schema: Mapping[str, pl.DataType]
    root: str = ""

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
        read = self._scan_csv if self.format == "csv" else self._scan_parquet
        frames = [self._named(read(p, wanted), p).select(wanted) for p in partition]
        return frames[0] if len(frames) == 1 else pl.concat(frames, how="vertical")

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

    def _in_file(self) -> list[str]:
        return [c for c in self.schema if c != self.csv.file_column]

    def _named(self, frame: pl.LazyFrame, piece: Piece) -> pl.LazyFrame:
        if self.csv.file_column is None:
            return frame
        return frame.with_columns(pl.lit(self.name(piece.path)).alias(self.csv.file_column))

    def _scan_parquet(self, piece: Piece, wanted: Sequence[str]) -> pl.LazyFrame:
        frame = pl.scan_parquet(piece.path, glob=False)
        stored = frame.collect_schema()
        frame = frame.slice(piece.start, piece.stop - piece.start)
        return frame.cast({c: t for c, t in self.schema.items() if c in wanted and c in stored and stored[c] != t})

    def _formats(self) -> dict[str, str]:
        """The columns that are read as text and parsed.

        Not every date column: that costs a third more. So of an ISO date column Polars also takes 31/12/2020, as
        day/month/year; who must exclude it gives the format in `dates`.
        """
        return dict(self.csv.dates)

    def _scan_csv(self, piece: Piece, wanted: Sequence[str]) -> pl.LazyFrame:
        names, formats = self._in_file(), self._formats()
        last = names[-1]
        types = {c: self.schema[c] if c in wanted and c not in formats else pl.String() for c in names}
        if self._is_plain(piece):
            frame = self._polars(piece.path, types, header=self.csv.header)
        else:
            raw = self._text(piece)
            if self.csv.quote and self._is_cut(piece) and raw.count(_byte(self.csv.quote)) % 2:
                # Every piece even: then, piece after piece, every cut was outside quotes.
                raise DataError(
                    Issue(
                        f"{self.name(piece.path)}: a quoted field seems to span a line break where the file was cut "
                        f"(between bytes {piece.start} and {piece.stop})",
                        "set `split: false`: the file is then read as a whole",
                    )
                )
            header = self.csv.header and piece.start == 0
            if len(names) == 1 and not header and raw[:1] in (b"\n", b"\r"):
                # Polars takes no types from a blank first line: to it that is a file without columns.
                raw, header = _header_line(names, self.csv) + raw, True
            frame = self._polars(raw, types, header=header)
        if len(names) > 1:
            # Keeps all rows. As an elementwise predicate it is pushed into the reader, beside the other filters and
            # before any row is dropped; it costs the reading of the last column.
            check = pl.col(last).map_batches(self._checker(piece), return_dtype=pl.Boolean(), is_elementwise=True)
            frame = frame.filter(check)
        return frame.with_columns(self._parse(c, formats[c], strict=True) for c in wanted if c in formats)

    def _parse(self, column: str, form: str, *, strict: bool) -> pl.Expr:
        return pl.col(column).str.strptime(self.schema[column], form, strict=strict)  # type: ignore[arg-type]

    def _polars(
        self, source: str | bytes, types: Mapping[str, pl.DataType], *, header: bool, ignore_errors: bool = False
    ) -> pl.LazyFrame:
        return pl.scan_csv(
            source,
            schema=dict(types),
            has_header=header,
            separator=self.csv.separator,
            quote_char=self.csv.quote,
            null_values=list(self.csv.null_values) or None,
            ignore_errors=ignore_errors,
            glob=False,
        )

    def _checker(self, piece: Piece) -> Callable[[pl.Series], pl.Series]:
        """A predicate that is always true, unless the piece has a row with too few fields: then it raises.

        Polars fills such rows with nulls, so only a null in the last column makes an exact count necessary.
        """
        lock, counted = threading.Lock(), False

        def check(last: pl.Series) -> pl.Series:
            nonlocal counted
            if last.null_count():
                with lock:
                    if not counted and self._ragged(self._body(piece)):
                        raise _RaggedRows("a row has too few fields")
                    counted = True
            return pl.Series([True]).new_from_index(0, len(last))

        return check

    def _is_plain(self, piece: Piece) -> bool:
        """Can Polars read it from the disk itself? (It unpacks gzip and Zstandard.)"""
        return self.csv.utf8 and not piece.path.endswith((".bz2", ".xz")) and not self._is_cut(piece)

    def _is_cut(self, piece: Piece) -> bool:
        whole = not _splits(piece.path, self.csv) or (piece.start == 0 and os.path.getsize(piece.path) == piece.stop)
        return not whole

    def _text(self, piece: Piece) -> bytes:
        """The bytes of a piece: unpacked, in UTF-8."""
        with _reading(piece.path, self.root):
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

    def _ragged(self, body: bytes) -> tuple[int, int] | None:
        """(Index, number of fields) of the first row without the right number of fields; a blank line has 0."""
        import numpy as np  # rarely needed, and 0.1 s to import

        body, expected, first = _unquoted(body, self.csv), len(self._in_file()), 0
        if expected == 1:
            return None
        for block in _blocks(body):
            codes = np.frombuffer(block, np.uint8)
            ends = np.flatnonzero(codes == ord("\n"))
            separators = np.searchsorted(np.flatnonzero(codes == ord(self.csv.separator)), ends)
            bad = np.flatnonzero(np.diff(separators, prepend=0) != expected - 1)
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
        if found := self._ragged(body):
            index, n = found
            what = f"has {n} field{'s' * (n != 1)}" if n else "is blank"
            return Issue(
                f"{name}: row {self._row(piece, index)} {what}, expected {len(self._in_file())}",
                "correct the file, or its separator and quote in the config",
            )
        if not body:
            return None
        body = _header_line(self._in_file(), self.csv) + body
        formats = self._formats()
        text = dict.fromkeys(self._in_file(), pl.String())
        typed = {c: text[c] if c in formats else self.schema[c] for c in text}
        try:
            texts = self._polars(body, text, header=True).select(wanted).collect(engine="in-memory")
            # The same parser says what it refuses, so that no other value is blamed.
            frame = self._polars(body, typed, header=True, ignore_errors=True).select(wanted)
            parsed = frame.with_columns(self._parse(c, formats[c], strict=False) for c in wanted if c in formats)
            values = parsed.collect(engine="in-memory")
        except pl.exceptions.PolarsError:
            return None
        bad: tuple[int, str] | None = None
        for c in wanted:
            lost = (values[c].is_null() & texts[c].is_not_null()).arg_true()
            if len(lost) and (bad is None or lost[0] < bad[0]):
                bad = lost[0], c
        if bad is None:
            return None
        at, c = bad
        value, dtype = texts[c][at], dtype_name(self.schema[c])
        if form := dict(self.csv.dates).get(c):
            what, remedy = f"{value!r} does not match {form!r}", f"correct the format in `dates: {{{c}: ...}}`"
        else:
            likely = "float64" if re.fullmatch(r"\s*-?\d+\.\d*", value) and "int" in dtype else "string"
            what, remedy = f"{value!r} is not {dtype}", f"declare `dtypes: {{{c}: {likely}}}`"
        return Issue(
            f"{name}: row {self._row(piece, at)}, column {c!r}: {what}", f"{remedy}, or add the value to `null_values`"
        )

    def _diagnose_parquet(self, piece: Piece, wanted: Sequence[str]) -> Issue | None:
        name = self.name(piece.path)
        try:
            frame = pl.scan_parquet(piece.path, glob=False).slice(piece.start, piece.stop - piece.start)
            read = frame.select(wanted).collect(engine="in-memory")
        except (pl.exceptions.PolarsError, OSError) as e:
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


@dataclass(frozen=True)
class Found:
    """What `discover` found: the source, its partitions, and what was assumed on the way."""

    source: Source
    partitions: tuple[Partition, ...]
    files: tuple[FileInfo, ...]
    sampled: Mapping[str, pl.DataType]  # the types that were guessed
    notes: tuple[str, ...] = ()
    input_bytes: int = field(default=0)


def discover(
    paths: Sequence[str],
    *,
    format: str | None,
    csv: Csv,
    dtypes: Mapping[str, pl.DataType],
    root: Path,
    partitions: int | None,
    partition_bytes: int,
) -> Found:
    """Find the files, agree on one schema, cut partitions.

    The partitions depend on the arguments and the files' sizes only, so that a run on other machines has the same.
    """
    files = [f for pattern in paths for f in _files(pattern, root, format)]
    files = list(dict.fromkeys(files))
    formats = {f: format or _format(f) for f in files}
    for f, kind in formats.items():
        if kind is None:
            raise ConfigError(Issue(f"the format of {_name(f, root)} is not clear", "set `format: csv` or `parquet`"))
        if kind != formats[files[0]]:
            raise ConfigError(
                Issue(f"mixed formats: {_name(files[0], root)} is {formats[files[0]]}, {_name(f, root)} is {kind}",
                      "read them as two sources")
            )  # fmt: skip
    kind = cast(str, formats[files[0]])
    if csv.separator == "," and kind == "csv" and all(".tsv" in _suffixes(f) for f in files):
        csv = replace(csv, separator="\t")
    infos = [FileInfo(f, (s := os.stat(f)).st_size, s.st_mtime_ns) for f in files]
    for i in infos:
        if not i.size:
            raise DataError(Issue(f"{_name(i.path, root)} is empty", "remove the file, or leave it out of `path`"))
    notes: list[str] = []
    sampled: dict[str, pl.DataType] = {}
    cut: Callable[[int, float], int]
    if kind == "csv":
        heads = _headers(infos, csv, root)
        names = heads[0][0]
        _known([*dtypes, *(c for c, _ in csv.dates)], names)
        timed = {c: pl.Datetime("us") if re.search("%[HIMSTRXcsfpkl+.]", f) else pl.Date() for c, f in csv.dates}
        given = {**timed, **dtypes}
        sampled, notes = _sample(infos, heads, names, [c for c in names if c not in given], csv)
        schema = {c: given.get(c) or sampled[c] for c in names}
        sizes = [i.size for i in infos]
        cut = _line_cutter(infos, heads, csv)
        divisible = [_splits(f, csv) for f in files]
        spans = sizes
    else:
        schema, sizes, spans, groups = _parquet(infos, root)
        _known(dtypes, schema)
        schema = {c: dtypes.get(c, t) for c, t in schema.items()}
        cut = _row_cutter(spans, groups, exact=partitions is not None)
        divisible = [True] * len(files)
    if csv.file_column:
        if csv.file_column in schema:
            raise ConfigError(Issue(f"file_column {csv.file_column!r} is already a column", "choose another name"))
        schema[csv.file_column] = pl.String()
    if partitions is not None:
        cuts = _exactly(partitions, sizes, cut)
    else:
        cuts = _by_size(sizes, divisible, cut, partition_bytes)
    made = tuple(_partitions(files, spans, cuts))
    source = Source(kind, csv, schema, str(root))
    return Found(source, made, tuple(infos), sampled, tuple(notes), sum(i.size for i in infos))


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
    return csv.split and csv.utf8 and not path.lower().endswith(_PACKED)


def _name(path: str, root: str | Path) -> str:
    p = Path(path)
    return p.relative_to(root).as_posix() if root and p.is_relative_to(root) else path


def _files(pattern: str, root: Path, format: str | None) -> list[str]:
    full = os.path.join(root, pattern)
    if os.path.isdir(full):
        inside = (os.path.join(d, f) for d, _, fs in os.walk(full) for f in fs)
        visible = (f for f in inside if not re.search(r"(^|/)[._]", os.path.relpath(f, full).replace(os.sep, "/")))
        found = sorted(f for f in visible if _format(f) in ([format] if format else ["csv", "parquet"]))
    elif os.path.exists(full):  # first: a name may hold [ or *
        found = [full]
    else:
        hits = glob.glob(os.path.join(glob.escape(str(root)), pattern), recursive=True)
        found = sorted(f for f in hits if os.path.isfile(f) and not os.path.basename(f).startswith("_"))
    if not found:
        folder = os.path.dirname(full)
        while not os.path.isdir(folder):
            folder = os.path.dirname(folder)
        remedy = did_you_mean(os.path.basename(full), sorted(os.listdir(folder)))
        raise ConfigError(Issue(f"no file matches {pattern} (looked in {folder})", remedy))
    return [os.path.normpath(f) for f in found]


def _open(path: str) -> IO[bytes]:
    """The file, unpacked."""
    match Path(path).suffix.lower():
        case ".gz":
            return cast(IO[bytes], gzip.open(path))
        case ".bz2":
            return cast(IO[bytes], bz2.open(path))
        case ".xz":
            return cast(IO[bytes], lzma.open(path))
        case ".zst":
            import pyarrow

            return cast(IO[bytes], pyarrow.input_stream(path, compression="zstd"))
    return open(path, "rb")


class _reading:
    """Names the file when it cannot be read."""

    def __init__(self, path: str, root: str | Path) -> None:
        self.path, self.root = path, root

    def __enter__(self) -> None: ...

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if isinstance(error, _BROKEN):
            what = "cannot be unpacked" if self.path.lower().endswith(_PACKED) else "cannot be read"
            raise DataError(Issue(f"{_name(self.path, self.root)} {what}: {error}", "is the file whole?")) from error


# CSV text


def _byte(char: str) -> bytes:
    return char.encode()


def _undecodable(name: str, csv: Csv, where: str, byte: int) -> Issue:
    return Issue(f"{name}: {where}: byte 0x{byte:02x} is not {csv.encoding}", "set `encoding`, e.g. to latin-1")


def _unquoted(body: bytes, csv: Csv) -> bytes:
    """The text with every quoted stretch replaced (so what remains of separators and line ends counts), ended."""
    if csv.quote and (q := _byte(csv.quote)) in body:
        body = re.sub(q + b"[^" + re.escape(q) + b"]*" + q, b"q", body)
    return body if body.endswith(b"\n") or not body else body + b"\n"


def _blocks(body: bytes) -> Iterator[bytes]:
    start = 0
    while start < len(body):
        stop = body.find(b"\n", min(start + _BLOCK, len(body) - 1)) + 1
        yield body[start:stop]
        start = stop


def _header_line(names: Sequence[str], csv: Csv) -> bytes:
    q = csv.quote
    return (csv.separator.join(q + n.replace(q, q + q) + q if q else n for n in names) + "\n").encode()


def _header_end(raw: bytes, csv: Csv) -> int:
    """Where the first data row begins."""
    if not csv.header:
        return 3 if raw.startswith(codecs.BOM_UTF8) else 0
    end = raw.find(b"\n")
    while end >= 0 and csv.quote and raw.count(_byte(csv.quote), 0, end) % 2:
        end = raw.find(b"\n", end + 1)
    return end + 1 if end >= 0 else len(raw)


Head = tuple[list[str], int, bytes]  # the names, where the data begins, the file's first bytes in UTF-8


def _head(path: str, csv: Csv, root: Path) -> Head:
    size = _SAMPLE_BYTES * (1 if _splits(path, csv) else 3)
    with _reading(path, root), _open(path) as f:
        raw = f.read(size)
        while b"\n" not in raw and (more := f.read(size)):
            raw += more
    if not csv.utf8:
        try:
            raw = codecs.getincrementaldecoder(csv.encoding)().decode(raw).encode()
        except UnicodeDecodeError as e:
            raise DataError(_undecodable(_name(path, root), csv, f"byte {e.start}", raw[e.start])) from e
    end = _header_end(raw, csv)
    try:
        first = raw[: end if csv.header else _header_end(raw, replace(csv, header=True))].decode("utf-8-sig")
    except UnicodeDecodeError as e:
        raise DataError(_undecodable(_name(path, root), csv, f"byte {e.start}", raw[e.start])) from e
    quoting: Any = {"quotechar": csv.quote} if csv.quote else {"quoting": pycsv.QUOTE_NONE}
    fields = next(pycsv.reader(io.StringIO(first, newline=""), delimiter=csv.separator, **quoting), [])
    if csv.header:
        return fields, end, raw
    if csv.columns and len(csv.columns) != len(fields):
        raise DataError(
            Issue(f"{_name(path, root)}: row 1 has {len(fields)} fields, but `columns` names {len(csv.columns)}",
                  "name every column of the file, in order")
        )  # fmt: skip
    return list(csv.columns or (f"column_{i}" for i in range(1, len(fields) + 1))), end, raw


def _headers(infos: Sequence[FileInfo], csv: Csv, root: Path) -> list[Head]:
    heads: list[Head] = []
    for i in infos:
        names, end, raw = _head(i.path, csv, root)
        name = _name(i.path, root)
        if not names or "" in names:
            at = names.index("") + 1 if names else 1
            raise DataError(Issue(f"{name}: the header has no name for column {at}", "name it in the file"))
        if twice := [n for n in names if names.count(n) > 1]:
            raise DataError(Issue(f"{name}: two columns are called {twice[0]!r}", "rename one in the file"))
        if heads and names != (first := heads[0][0]):
            missing, extra = [n for n in first if n not in names], [n for n in names if n not in first]
            what = [f"{label} {', '.join(map(repr, ns))}" for label, ns in (("lacks", missing), ("adds", extra)) if ns]
            raise DataError(
                Issue(f"{name}: its columns differ from those of {_name(infos[0].path, root)}: "
                      f"{' and '.join(what) or 'another order'}", "read it as a source of its own")
            )  # fmt: skip
        heads.append((names, end, raw if len(infos) <= _SAMPLE_FILES else raw[: _SAMPLE_BYTES * 3]))
    return heads


# Types of CSV columns

_FLOAT = r"^[-+]?(\d+\.\d*|\d*\.\d+|\d+)([eE][-+]?\d+)?$|^[-+]?(inf|Infinity)$|^(NaN|nan)$"
_PATTERNS: tuple[tuple[pl.DataType, str], ...] = (
    (pl.Int64(), r"^[-+]?\d+$"),
    (pl.Float64(), _FLOAT),
    (pl.Boolean(), r"^(true|false|True|False|TRUE|FALSE)$"),
    (pl.Date(), r"^\d{4}-\d\d-\d\d$"),
    (pl.Datetime("us"), r"^\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d{1,6})?$"),
    (pl.Time(), r"^\d\d:\d\d:\d\d(\.\d{1,9})?$"),
)
_DATELIKE = r"^(\d{1,2}[/.-]\d{1,2}[/.-]\d{2,4}|\d{4}[/.]\d{1,2}[/.]\d{1,2})( .*)?$"


def _sample(
    infos: Sequence[FileInfo], heads: Sequence[Head], names: Sequence[str], columns: Sequence[str], csv: Csv
) -> tuple[dict[str, pl.DataType], list[str]]:
    """The types of columns, from rows at the head, middle and tail of some files."""
    n = min(len(infos), _SAMPLE_FILES)
    chosen = sorted({i * (len(infos) - 1) // max(n - 1, 1) for i in range(n)})
    source = Source("csv", csv, dict.fromkeys(names, pl.String()))
    frames = [pl.DataFrame(schema=source.schema)]
    for i in chosen if columns else ():
        for chunk in _chunks(infos[i], heads[i], csv):
            body = _header_line(names, csv) + chunk
            try:
                frames.append(source._polars(body, source.schema, header=True).collect())
            except pl.exceptions.PolarsError:
                continue  # a sample may begin within quotes; errors in the data are found when they are read
    rows = pl.concat(frames)
    types, notes = {}, []
    for c in columns:
        types[c], note = _type_of(rows[c].drop_nulls())
        notes += [f"column {c!r} {note}"] if note else []
    return types, notes


def _chunks(info: FileInfo, head: Head, csv: Csv) -> Iterator[bytes]:
    _, begin, raw = head
    last = raw.rfind(b"\n") + 1
    whole = (not _splits(info.path, csv) and len(raw) < _SAMPLE_BYTES * 3) or len(raw) >= info.size
    yield raw[begin:] if whole else raw[begin:last]
    if not _splits(info.path, csv) or len(raw) >= info.size:
        return
    with open(info.path, "rb") as f:
        for at in (info.size // 2, max(info.size - _SAMPLE_BYTES, begin)):
            f.seek(at)
            f.readline()
            part = f.read(_SAMPLE_BYTES)
            part = part if f.tell() >= info.size else part[: part.rfind(b"\n") + 1]
            if not csv.quote or part.count(_byte(csv.quote)) % 2 == 0:
                yield part


def _type_of(values: pl.Series) -> tuple[pl.DataType, str]:
    """The narrowest type that all values have; and what a reader should know about the guess."""
    if values.is_empty():
        return pl.String(), "is empty in all sampled rows: read as string; declare its type"
    for dtype, pattern in _PATTERNS:
        if not values.str.contains(pattern).all():
            continue
        text = values.to_frame().write_csv().encode()
        if pl.read_csv(text, schema={values.name: dtype}, ignore_errors=True)[values.name].null_count():
            continue  # a 13th month, a number beyond 64 bits
        if dtype == pl.Int64 and (zeros := values.filter(values.str.contains(r"^0\d"))).len():
            return dtype, f"has leading zeros ({zeros[0]!r}), read as int64: declare string to keep them"
        return dtype, ""
    if values.str.contains(_DATELIKE).all():
        return pl.String(), f"looks like dates ({values[0]!r}), read as string: give their format in `dates`"
    return pl.String(), ""


def _known(
    names: Sequence[str] | Mapping[str, pl.DataType], columns: Sequence[str] | Mapping[str, pl.DataType]
) -> None:
    for n in names:
        if n not in columns:
            raise ConfigError(Issue(f"there is no column {n!r} in the files", did_you_mean(n, columns)))


# Partitions: cuts are (file, position) in ascending order; a cut at a file's end is one at the next file's start


def _line_cutter(infos: Sequence[FileInfo], heads: Sequence[Head], csv: Csv) -> Callable[[int, float], int]:
    """Moves a position, in bytes, to the next start of a line."""
    maps: dict[int, mmap.mmap] = {}

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
        end = maps[file].find(b"\n", max(int(at), heads[file][1]) - 1)
        return end + 1 if end >= 0 else size

    return cut


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
    sizes: Sequence[int], divisible: Sequence[bool], cut: Callable[[int, float], int], goal: int
) -> list[tuple[int, int]]:
    cuts, held, count = [], 0, 0
    for i, size in enumerate(sizes):
        large = divisible[i] and size > 1.5 * goal
        if count and (large or held + size > goal or count == _FILES_PER_PARTITION):
            cuts.append((i, 0))
            held = count = 0
        if large:
            n = -(-size // goal)
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


def _parquet(
    infos: Sequence[FileInfo], root: Path
) -> tuple[dict[str, pl.DataType], list[int], list[int], list[list[tuple[int, int]]]]:
    """The schema of all files; per file: bytes, rows, and for each row group the bytes and rows up to its end."""
    import pyarrow.parquet as pq

    schema: dict[str, pl.DataType] = {}
    sizes, rows, groups = [], [], []
    for i in infos:
        name = _name(i.path, root)
        try:
            meta = pq.read_metadata(i.path)
            here = dict(pl.scan_parquet(i.path, glob=False).collect_schema())
        except (OSError, ValueError, pl.exceptions.PolarsError) as e:
            raise DataError(Issue(f"{name} is not a readable Parquet file: {e}", "is the file whole?")) from e
        schema = schema or here
        if list(here.items()) != list(schema.items()):
            first = _name(infos[0].path, root)
            differ = next((c for c in [*schema, *here] if schema.get(c) != here.get(c)), None)
            what = (
                f"column {differ!r} is {_spell(here, differ)}, there {_spell(schema, differ)}"
                if differ
                else "another order"
            )
            raise DataError(Issue(f"{name}: its columns differ from those of {first}: {what}", "read it on its own"))
        ends, size, count = [], 0, 0
        for g in range(meta.num_row_groups):
            size += meta.row_group(g).total_byte_size
            count += meta.row_group(g).num_rows
            ends.append((size, count))
        sizes.append(size)
        rows.append(count)
        groups.append(ends)
    return schema, sizes, rows, groups


def _spell(schema: Mapping[str, pl.DataType], column: str) -> str:
    return dtype_name(schema[column]) if column in schema else "missing"
