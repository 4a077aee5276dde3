"""A corpus of bad and odd data files: each is read rightly, or refused by the name of the file, the row and the column.

Every case is a pipeline that runs. A list is the rows it must give; a text is what the refusal must say.
"""

from __future__ import annotations

import bz2
import csv as pycsv
import gzip
import io
import json
import math
import os
from datetime import date, datetime, time
from decimal import Decimal
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines import scan
from pipelines.cli import main
from pipelines.errors import DataError, PipelineError
from pipelines.pipeline import load
from pipelines.run import Result
from pipelines.steps.base import Input

Files = dict[str, bytes]
LONG = b"a,b\n" + b"".join(b"%d,%d\n" % (i, i * i) for i in range(60_000))
DAYS = b"".join(b"2020-%02d-%02d,%d\n" % (i % 12 + 1, i % 28 + 1, i) for i in range(60_000))
QUOTED = b'i,s\n1,"a\nb"\n2,"c,""d"""\n3,"\n\n"\n4,",\n"",\n"\n5,e\n6,"f\r\ng"\n'
QUOTED_ROWS = [(1, "a\nb"), (2, 'c,"d"'), (3, "\n\n"), (4, ',\n",\n'), (5, "e"), (6, "f\r\ng")]
WIDE = ",".join(f"c{i}" for i in range(2000)) + "\n" + ",".join(str(i) for i in range(2000)) + "\n"


def parquet(**columns: Any) -> bytes:
    file = io.BytesIO()
    pl.DataFrame(columns).write_parquet(file)
    return file.getvalue()


def one(text: str | bytes) -> Files:
    return {"x.csv": text.encode() if isinstance(text, str) else text}


def two(first: str, second: str) -> Files:
    return {"x.csv": first.encode(), "y.csv": second.encode()}


# name: files, options of `read` beside its path, rows or refusal
CASES: dict[str, tuple[Files, str, list[Any] | str]] = {
    **{f"quoted text in {n} partitions": (one(QUOTED), f"partitions: {n}, split: true", QUOTED_ROWS) for n in range(1, 8)},
    "quoted text, samples show quotes": (one(QUOTED), "partitions: 4", QUOTED_ROWS),
    "quoted text, never cut": (one(QUOTED), "partitions: 4, split: false", QUOTED_ROWS),
    "carriage return and line feed": (one("a,b\r\n1,x\r\n2,y\r\n"), "partitions: 2", [(1, "x"), (2, "y")]),
    "mixed line ends": (one("a,b\r\n1,x\n2,y\r\n3,z"), "", [(1, "x"), (2, "y"), (3, "z")]),
    "carriage returns only": (one("a,b\r1,x\r2,y\r"), "", r"x\.csv: its lines end in carriage returns only"),
    "a BOM": (one("\ufeffa,b\n1,x\n"), "", [(1, "x")]),
    "a BOM before a quoted name": (one('\ufeff"a",b\n1,x\n'), "dtypes: {a: int64}", [(1, "x")]),
    "a BOM, no header": (one("\ufeff1,x\n2,y\n"), "header: false, columns: [a, b]", [(1, "x"), (2, "y")]),
    "no final newline": (one("a,b\n1,x\n2,y"), "partitions: 2", [(1, "x"), (2, "y")]),
    "a header in every file": (two("a,b\n1,x\n", "a,b\n2,y\n"), "", [(1, "x"), (2, "y")]),
    "columns in another order": (two("a,b\n1,x\n", "b,a\ny,2\n"), "", [(1, "x"), (2, "y")]),
    "a column missing in one file": (two("a,b\n1,x\n", "a\n2\n"), "", r"y\.csv lacks 'b'"),
    "a column missing, read as NULL": (two("a,b\n1,x\n", "a\n2\n"), "missing: null", [(1, "x"), (2, None)]),
    "a column more in one file": (two("a\n1\n", "a,b\n2,x\n"), "", r"y\.csv adds 'b'"),
    "a column more, read as NULL": (two("a\n1\n", "a,b\n2,x\n"), "missing: null", [(1, None), (2, "x")]),
    "other columns altogether": (two("a\n1\n", "b\nx\n"), "missing: null", [(1, None), (None, "x")]),
    "semicolons": (one("a;b\n1;x,y\n"), 'separator: ";"', [(1, "x,y")]),
    "pipes": (one("a|b\n1|x\n"), 'separator: "|"', [(1, "x")]),
    "tabs": ({"x.tsv": b"a\tb\n1\tx\n"}, "", [(1, "x")]),
    "decimal commas": (one("a;b\n1,5;x\n-2,25;y\n"), 'separator: ";", decimal: ","', [(1.5, "x"), (-2.25, "y")]),
    "a decimal point among commas": (one("a;b\n1,5;x\n2.5;y\n"), 'separator: ";", decimal: ",", dtypes: {a: float64}', r"x\.csv: row 2, column 'a'"),
    "thousands, quoted": (one('a,b\n"1,000",x\n'), "dtypes: {a: int64}", r"x\.csv: row 1, column 'a': '1,000'"),
    "thousands, sampled": (one('a,b\n"1,000",x\n'), "", [("1,000", "x")]),
    "thousands and decimals": (one("a;b\n1.000,5;x\n"), 'separator: ";", decimal: ",", dtypes: {a: float64}', r"x\.csv: row 1, column 'a': '1\.000,5'"),
    "latin-1": (one("a,b\n1,é\n".encode("latin-1")), "encoding: latin-1", [(1, "é")]),
    "cp1252": (one("a,b\n1,€\n".encode("cp1252")), "encoding: cp1252", [(1, "€")]),
    "utf-16": (one("a,b\n1,é\n2,x\n".encode("utf-16")), "encoding: utf-16, partitions: 3", [(1, "é"), (2, "x")]),
    "latin-1 read as utf-8": (one("a,b\n1,x\n2,é\n".encode("latin-1")), "", r"x\.csv: row 2: byte 0xe9 is not utf-8"),
    "utf-16 read as utf-8": (one("a,b\n1,é\n".encode("utf-16")), "", r"x\.csv.* is not utf-8"),
    "an unknown encoding": (one("a,b\n1,x\n"), "encoding: latin-99", r"unknown encoding"),
    "a short row": (one("a,b\n1,x\n2\n"), "", r"x\.csv: row 2 has 1 field, expected 2"),
    "a short row, ragged": (one("a,b\n1,x\n2\n"), "ragged: null", [(1, "x"), (2, None)]),
    "a long row": (one("a,b\n1,x\n2,y,z\n"), "", r"x\.csv: row 2 has 3 fields, expected 2"),
    "a long first row, ragged": (one("a,b\n1,x,y\n2,y\n"), "ragged: null", [(1, "x"), (2, "y")]),
    "a long row, ragged": (one("a,b\n1,x\n2,y,z\n"), "ragged: null", [(1, "x"), (2, "y")]),
    "a trailing separator in one row": (one("a,b\n1,x\n2,y,\n"), "", [(1, "x"), (2, "y")]),
    "a long row, first extra empty": (one("a,b\n1,x\n2,y,,z\n"), "", r"x\.csv: row 2 has 4 fields, expected 2"),
    "a trailing separator in all rows": (one("a,b\n1,x,\n2,y,\n"), "dtypes: {a: int64}", [(1, "x"), (2, "y")]),
    "a trailing separator in all lines": (one("a,b,\n1,x,\n2,y,\n"), "", r"x\.csv: the header has no name for column 3"),
    "a blank line": (one("a,b\n1,x\n\n2,y\n"), "", r"x\.csv: row 2 is blank"),
    "blank lines at the end": (one("a,b\n1,x\n\n\n"), "", r"x\.csv: row 2 is blank"),
    "a blank line in one column": (one("a\n1\n\n2\n"), "", [(1,), (None,), (2,)]),
    "a late float": (one(LONG.replace(b"\n45000,", b"\n45000.5,")), "partitions: 3, dtypes: {a: int64}", r"x\.csv: row 45001, column 'a': '45000\.5' is not int64"),
    "beyond 64 bits": (one("a\n1\n9223372036854775808\n"), "dtypes: {a: int64}", r"x\.csv: row 2, column 'a': '9223372036854775808'"),
    "an exponent": (one("a\n1\n1e3\n"), "dtypes: {a: int64}", r"x\.csv: row 2, column 'a': '1e3'"),
    "an exponent, sampled": (one("a\n1\n1e3\n"), "", [(1.0,), (1000.0,)]),
    "a number beyond float64": (one("a\n1\ninf\n1e400\n"), "dtypes: {a: float64}", r"x\.csv: row 3, column 'a': '1e400' is not float64"),
    "a number beyond float64, below NaN": (one("a,b\nNaN,1\nNaN,2\n-1e400,3\nNaN,4\n"), "dtypes: {a: float64}", r"x\.csv: row 3, column 'a': '-1e400' is not float64"),
    "a number beyond float64, beside an infinity": (one("a,b\ninf,1e400\n"), "dtypes: {a: float64, b: float64}", r"x\.csv: row 1, column 'b': '1e400' is not float64"),
    "a number beyond float32": (one("a,b\n1,1\n-1e39,2\n"), "dtypes: {a: float32}", r"x\.csv: row 2, column 'a': '-1e39' is not float32"),
    "a number beyond float64, ragged": (one("a,b\n1,x\n1e400\n"), "dtypes: {a: float64}, ragged: null", r"x\.csv: row 2, column 'a': '1e400' is not float64"),
    "a number beyond float64, dropped": (one("a\n1\ninf\n1e400\n"), "dtypes: {a: float64}, bad_rows: drop", [(1.0,), (math.inf,)]),
    "a number beyond float64, commas": (one("a;b\n1,5;x\n-1e400;y\n"), 'separator: ";", decimal: ",", dtypes: {a: float64}', r"x\.csv: row 2, column 'a': '-1e400' is not float64"),
    "infinities with commas": (one("a;b\n1,5;x\n-inf;y\n"), 'separator: ";", decimal: ",", dtypes: {a: float64}', [(1.5, "x"), (-math.inf, "y")]),
    "the largest number, and a text that looks larger": (one("a,b\n1.7976931348623157e308,1e400\ninf,x\n"), "dtypes: {a: float64}", [(1.7976931348623157e308, "1e400"), (math.inf, "x")]),
    "digits beyond a decimal's": (one("a\n1.25\n1.239\n"), 'dtypes: {a: "decimal(10,2)"}', r"x\.csv: row 2, column 'a': '1\.239' is not decimal\(10,2\)"),
    "digits beyond a decimal's, commas": (one("a;b\n1,25;x\n1,239;y\n"), 'separator: ";", decimal: ",", dtypes: {a: "decimal(10,2)"}', r"x\.csv: row 2, column 'a': '1,239'"),
    "decimals": (one('a,b\n1.25,1\n 1.2000,2\n-.5,3\n"",4\n'), 'dtypes: {a: "decimal(10,2)"}', [(Decimal("1.25"), 1), (Decimal("1.20"), 2), (Decimal("-0.50"), 3), (None, 4)]),
    "quoted empty fields": (one('a,b,c\n"","",""\n1,x,2020-01-01\n'), "dtypes: {a: int64, c: date}", [(None, "", None), (1, "x", date(2020, 1, 1))]),
    "quoted empty fields, sampled": (one('a,b,c\n"","",""\n"1","x",""\n'), "", [(None, "", ""), (1, "x", "")]),
    "quoted empty fields, dropped": (one('a,b,c\n"","",""\n1,x,2020-01-01\n'), "dtypes: {a: int64, c: date}, bad_rows: drop", [(None, "", None), (1, "x", date(2020, 1, 1))]),
    "quoted empty fields with formats": (one('a;b\n"";""\n1,5;31/12/2020\n'), 'separator: ";", decimal: ",", dates: {b: "%d/%m/%Y"}', [(None, None), (1.5, date(2020, 12, 31))]),
    "an offset": (one("a\n\n2020-01-01T10:00:00+05:00\n"), "dtypes: {a: datetime}", r"x\.csv: row 2, column 'a': .* an offset is not dropped\n.*datetime\[us,UTC\]"),
    "offsets": (one("a\n2020-01-01T10:00:00+05:00\n2020-01-01T10:00:00Z\n"), 'dtypes: {a: "datetime[us,UTC]"}', [(datetime(2020, 1, 1, 5, tzinfo=ZoneInfo("UTC")),), (datetime(2020, 1, 1, 10, tzinfo=ZoneInfo("UTC")),)]),
    "no offset": (one("a\n2020-01-01T10:00:00\n"), 'dtypes: {a: "datetime[us,Europe/Berlin]"}', r"x\.csv: row 1, column 'a': .* it has no offset"),
    "offsets with their format": (one("a\n01.01.2020 10:00 +0500\n"), 'dates: {a: "%d.%m.%Y %H:%M %z"}, dtypes: {a: "datetime[us,UTC]"}', [(datetime(2020, 1, 1, 5, tzinfo=ZoneInfo("UTC")),)]),
    "days first after empty fields": (one("a,b\n,1\n,2\n01/02/2020,3\n"), "dtypes: {a: date}", r"x\.csv: row 3, column 'a': '01/02/2020'"),
    "a second too many": (one("a\n2020-01-01T10:00:60\n"), "dtypes: {a: datetime}", r"x\.csv: row 1, column 'a': '2020-01-01T10:00:60'"),
    "times": (one("a\n10:00:01\n10:00:01.5\n"), "dtypes: {a: time}", [(time(10, 0, 1),), (time(10, 0, 1, 500000),)]),
    "an hour too many": (one("a,b\n,1\n24:00:00,2\n"), "dtypes: {a: time}", r"x\.csv: row 2, column 'a': '24:00:00' is not time"),
    "a time of another form": (one("a,b\n10:00 PM,1\n"), "dtypes: {a: time}", r"x\.csv: row 1, column 'a': '10:00 PM' is not time"),
    "a time with its format": (one("a,b\n10.30,1\n"), 'dates: {a: "%H.%M"}', [(time(10, 30), 1)]),
    "one column, trailing separators": (one("a\nx,\ny,\n"), "", [("x",), ("y",)]),
    "infinities": (one("a\n1\ninf\n-inf\n"), "dtypes: {a: float64}", [(1.0,), (math.inf,), (-math.inf,)]),
    "inf among integers": (one("a\n1\ninf\n"), "dtypes: {a: int64}", r"x\.csv: row 2, column 'a': 'inf'"),
    "leading zeros": (one("a\n007\n"), "dtypes: {a: string}", [("007",)]),
    "leading zeros, numbers": (one("a\n007\n"), "dtypes: {a: int64}", [(7,)]),
    "a plus": (one("a\n+5\n"), "dtypes: {a: int64}", [(5,)]),
    "a blank before a number": (one("a\n1\n 5\n"), "dtypes: {a: int64}", [(1,), (5,)]),
    "a blank after a number": (one("a\n1\n5 \n"), "dtypes: {a: int64}", r"x\.csv: row 2, column 'a': '5 '"),
    "booleans": (one("a\ntrue\nFALSE\n"), "dtypes: {a: boolean}", [(True,), (False,)]),
    "a yes": (one("a\ntrue\nyes\n"), "dtypes: {a: boolean}", r"x\.csv: row 2, column 'a': 'yes'"),
    "an impossible date": (one("a\n2020-01-01\n2020-02-30\n"), "dtypes: {a: date}", r"x\.csv: row 2, column 'a': '2020-02-30'"),
    "one day first": (one("a,b\n2020-01-01,1\n31/12/2020,2\n"), "dtypes: {a: date}", r"x\.csv: row 2, column 'a': '31/12/2020'"),
    "a file of days first": (two("a,b\n2020-01-01,1\n", "a,b\n01/02/2020,2\n"), "dtypes: {a: date}", r"y\.csv: row 1, column 'a': '01/02/2020'"),
    "days first amid a large file": (one(b"a,b\n" + DAYS + b"01/02/2020,7\n" * 3000 + DAYS), "partitions: 2, dtypes: {a: date}", r"x\.csv: row (60001|61501), column 'a': '01/02/2020'"),
    "one day first amid a large file": (one(b"a,b\n" + DAYS + b"01/02/2020,7\n" + DAYS), "partitions: 2, dtypes: {a: date}", r"x\.csv: row 60001, column 'a': '01/02/2020'"),
    "days first with their format": (one("a\n31/12/2020\n"), 'dates: {a: "%d/%m/%Y"}', [(date(2020, 12, 31),)]),
    "years of two digits": (one("a\n20-12-31\n"), "dtypes: {a: date}", r"x\.csv: row 1, column 'a': '20-12-31'"),
    "a time zone": (one("a\n2020-01-01T10:00:00\n2020-01-01T10:00:00+05:00\n"), "dtypes: {a: datetime}", r"x\.csv: row 2, column 'a': '2020-01-01T10:00:00\+05:00'"),
    "an empty file": (one(""), "", r"x\.csv is empty"),
    "a header alone": (one("a,b\n"), "", []),
    "a header alone, no newline": (one("a,b"), "", []),
    "newlines only": (one("\n\n\n"), "", r"x\.csv: the header has no name"),
    "truncated gzip": ({"x.csv.gz": gzip.compress(LONG)[:-2000]}, "", r"x\.csv\.gz cannot be unpacked"),
    "gzip without its end": ({"x.csv.gz": gzip.compress(b"a,b\n1,x\n")[:-8]}, "", r"x\.csv\.gz cannot be unpacked"),
    "gzip with a wrong checksum": ({"x.csv.gz": gzip.compress(LONG)[:-8] + b"12345678"}, "", r"x\.csv\.gz cannot be unpacked"),
    "no gzip": ({"x.csv.gz": b"a,b\n1,x\n"}, "", r"x\.csv\.gz cannot be unpacked"),
    "gzip of two members": ({"x.csv.gz": gzip.compress(b"a,b\n1,x\n") + gzip.compress(b"2,y\n")}, "", [(1, "x"), (2, "y")]),
    "truncated bzip2": ({"x.csv.bz2": bz2.compress(LONG)[:-500]}, "", r"x\.csv\.bz2 cannot be unpacked"),
    "dates in a large gzip": ({"x.csv.gz": gzip.compress(b"a,b\n" + DAYS)}, "", [(date(2020, i % 12 + 1, i % 28 + 1), i) for i in range(60_000)]),
    "a NUL byte": (one("a,b\n1,x\0y\n"), "", [(1, "x\0y")]),
    "two columns of one name": (one("a,a\n1,2\n"), "", r"x\.csv: two columns are called 'a'"),
    "a column without a name": (one("a,,c\n1,2,3\n"), "", r"x\.csv: the header has no name for column 2"),
    "a quote that is never closed": (one('a,b\n1,x\n2,"y\n3,z\n'), "", r"x\.csv: row 2, column 'b': a stray quote"),
    "a quote that is never closed, cut": (one('a,b\n1,x\n2,"y\n3,z\n4,u\n'), "partitions: 3", r"x\.csv"),
    "a stray quote": (one('a,b\n1,5" disk\n2,y\n'), "", r"x\.csv: row 1, column 'b': a stray quote"),
    "two stray quotes in a row": (one('a,b\n1,5" or 6"\n2,y\n'), "", [(1, '5" or 6"'), (2, "y")]),
    "two stray quotes in two rows": (one('a,b\n1,5" disk\n2,y\n3,6" disk\n4,z\n'), "", r"x\.csv: row 1, column 'b': a stray quote"),
    "two stray quotes, no last separator": (one('b,a\n5" disk,1\ny,2\n6" disk,3\nz,4\n'), "", r"x\.csv: row 1, column 'b': a stray quote"),
    "a blank before a quoted separator": (one('a,b\n1,x\n2, "y,z"\n'), "", r"x\.csv: row 2, column 'b': a stray quote"),
    "a quoted separator that makes up for a field": (one('a,b,c\n1,x,2\n2, "y,z"\n'), "", r"x\.csv: row 2, column 'b': a stray quote"),
    "a blank before quotes, dropped": (one('a,b\n1,x\n2,"y\\"z\\""\n3,u\n'), "bad_rows: drop", [(1, "x"), (3, "u")]),
    "quotes after backslashes": (one('a,b\n1,"he said \\"yes\\""\n2,y\n'), "", r"x\.csv: row 1, column 'b': a stray quote"),
    "single quotes within quotes": (one('a,b\n1,x\n2,"y"z"u"\n'), "partitions: 2", r"x\.csv: row 2, column 'b': a stray quote"),
    "quotes alone": (one('a,b\n1,""""\n2,""""""\n3,"""x"""\n4,""\n'), "", [(1, '"'), (2, '""'), (3, '"x"'), (4, "")]),
    "a stray quote in the header": (one('a"b,c\n1,x\n2,y\n'), "", r"x\.csv: the header has a stray quote"),
    "a name whose quote is not closed": (one('a,"b\n1,x\n2,y\n'), "", r"x\.csv: the header has a stray quote"),
    "line ends converted twice": (one("a,b\r\r\n1,x\r\r\n"), "", r"x\.csv: its lines end in two carriage returns"),
    "text after a quoted field": (one('a,b\n1,"x"y\n2,z\n'), "", r"x\.csv: row 1, column 'b': a stray quote"),
    "a quote in a name": (one('"a ""b""",c\n1,x\n'), "", [(1, "x")]),
    "a newline in a name": (one('"a\nb",c\n1,x\n'), "partitions: 2", [(1, "x")]),
    "a very long line": (one("a,b\n1," + "x" * 300_000 + "\n2,y\n"), "partitions: 3", [(1, "x" * 300_000), (2, "y")]),
    "one column": (one("a\n1\n2\n"), "partitions: 2", [(1,), (2,)]),
    "one column, long rows": (one("a\n1\n2,3\n"), "", r"x\.csv: row 2"),
    "a column called like a pattern": (one("^a.*$,b\n1,2\n"), "", r"a column is called '\^a\.\*\$', which queries take for a pattern"),
    "times that are none": (one("a,t\n1,24:61:61\n"), "", [(1, "24:61:61")]),
    "times that are none, said to be": (one("a,t\n1,24:61:61\n"), "dtypes: {t: time}", r"x\.csv: row 1, column 't': '24:61:61'"),
    "carriage returns amid texts": (one("d,b\n2024-01-01,a\rb\n2024-01-02,c\n"), "partitions: 2", [(date(2024, 1, 1), "a\rb"), (date(2024, 1, 2), "c")]),
    "2,000 columns": (one(WIDE), "", [tuple(range(2000))]),
    "a text for NULL": (one("a,b\n1,x\nNA,y\n"), "null_values: [NA]", [(1, "x"), (None, "y")]),
    "a text for NULL, not said": (one("a,b\n1,x\nNA,y\n"), "dtypes: {a: int64}", r"x\.csv: row 2, column 'a': 'NA'"),
    "a comment line": (one("a,b\n# said\n1,x\n"), "", r"x\.csv: row 1 has 1 field, expected 2"),
    "a comment with a separator": (one("a,b\n# said, so\n1,x\n"), "dtypes: {a: int64}", r"x\.csv: row 1, column 'a': '# said'"),
    "a folder called like a file": ({"x.csv/in": b"", "y.csv": b"a\n1\n"}, "", [(1,)]),
    "damaged Parquet": ({"x.parquet": parquet(a=[1, 2])[:-20]}, "", r"x\.parquet is not a readable Parquet file"),
    "no Parquet": ({"x.parquet": b"a,b\n1,x\n"}, "", r"x\.parquet is not a readable Parquet file"),
    "Parquet of another type": ({"x.parquet": parquet(a=[1]), "y.parquet": parquet(a=["x"])}, "", r"y\.parquet: column 'a' is string, in in/x\.parquet int64"),
    "Parquet without a column": ({"x.parquet": parquet(a=[1], b=[2]), "y.parquet": parquet(a=[3])}, "", r"y\.parquet lacks 'b'"),
    "Parquet, missing: null": ({"x.parquet": parquet(a=[1], b=[2]), "y.parquet": parquet(a=[3])}, "missing: null", [(1, 2), (3, None)]),
    "nested Parquet": ({"x.parquet": parquet(a=[[1, 2], []])}, "", [([1, 2],), ([],)]),
}  # fmt: skip


def put(folder: Path, files: Files) -> None:
    (folder / "runs").mkdir(exist_ok=True)
    for name, content in files.items():
        (folder / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "in" / name).write_bytes(content)


def run(folder: Path, options: str, executor: str = "serial", then: str = "") -> Result:
    text = f"steps:\n  t:\n    read: {{path: in/*, {options}}}\n{then}"
    (folder / "c.yaml").write_text(text)
    return load(folder / "c.yaml").run(executor, head=10**6)


@pytest.mark.parametrize("name", CASES)
def test_right_or_refused(tmp_path: Path, name: str) -> None:
    files, options, expected = CASES[name]
    put(tmp_path, files)
    if isinstance(expected, list):
        assert run(tmp_path, options).outputs["t"].head.rows() == expected
    else:
        with pytest.raises(PipelineError, match=expected) as caught:
            run(tmp_path, options)
        assert isinstance(caught.value, DataError) or "unknown" in expected


BAD = two(
    "i,s,d\n1,a,2020-01-01\nx,b,2020-01-02\n3,c\n4,d,05/06/2020\n",
    "i,s,d\n5,e,2020-01-05\n6,f,2020-01-06,7\n8,,2020-01-08\n",
)
BAD_ROWS = [("in/x.csv", 2), ("in/x.csv", 3), ("in/x.csv", 4), ("in/y.csv", 2)]
BAD_TEXTS = ["x,b,2020-01-02", "3,c", "4,d,05/06/2020", "6,f,2020-01-06,7"]


@pytest.mark.parametrize("executor", ["serial", "threads", "processes"])
@pytest.mark.parametrize("kind", ["drop", "keep"])
def test_bad_rows_are_left_out_whatever_is_read(tmp_path: Path, executor: str, kind: str) -> None:
    put(tmp_path, BAD)
    options = f"bad_rows: {kind}, partitions: 3, dtypes: {{i: int64, s: string, d: date}}"
    for then, columns in (("", "isd"), ("  only:\n    select: [s]\n", "s")):
        result = run(tmp_path, options, executor, then)
        good = [(1, "a", date(2020, 1, 1)), (5, "e", date(2020, 1, 5)), (8, None, date(2020, 1, 8))]
        rows = result.outputs["only" if then else "t"].head.rows()
        assert rows == [tuple(row["isd".index(c)] for c in columns) for row in good]
        assert result.rejected == {"t": 4}
        assert json.loads((result.folder / "record.json").read_text())["rejected"] == {"t": 4}
        kept = result.folder / "bad_rows" / "t.csv"
        assert kept.exists() == (kind == "keep")
        if kind == "keep":
            table = pl.read_csv(kept)
            assert table.select("file", "row").rows() == BAD_ROWS
            assert table["text"].to_list() == BAD_TEXTS


def test_stray_quotes_are_found_in_blocks_of_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = ['a, "b\n,c"\nd,"e"f"\n', '"a""b","c"\n5" or 6"\n', ' "x\ny"\n"z"\n"u"v"', '"\n\n""",1\n,"a"b,"c"\n']
    for text, expected in zip(texts, [[3, 14], [], [1, 13], [12]], strict=True):
        for size in (1, 3, 8, 1 << 20):
            monkeypatch.setattr(scan, "_ARRAYS_BLOCK", size)
            assert list(scan._strays(text.encode(), scan.Csv())) == expected


@pytest.mark.parametrize("name", ["a late float", "truncated gzip", "one day first", "two stray quotes in two rows"])
@pytest.mark.parametrize("executor", ["threads", "processes"])
def test_refused_on_other_executors(tmp_path: Path, name: str, executor: str) -> None:
    files, options, expected = CASES[name]
    put(tmp_path, files)
    with pytest.raises(DataError, match=str(expected)):
        run(tmp_path, options, executor)


def test_the_command_ends_with_3_and_without_traceback(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(tmp_path, one("a,b\n1,x\n2\n"))
    (tmp_path / "c.yaml").write_text("steps:\n  t:\n    read: in/*\n")
    assert main(["run", str(tmp_path / "c.yaml"), "--executor", "serial"]) == 3
    said = "".join(capsys.readouterr())
    assert "x.csv: row 2 has 1 field, expected 2" in said
    assert "Traceback" not in said


TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r\ufeff"), max_size=8)
TABLES = st.lists(st.tuples(TEXTS, st.none() | st.integers(-(2**63), 2**63 - 1), st.none() | st.dates()), max_size=25)


@settings(max_examples=80, deadline=None)
@given(
    rows=TABLES,
    delimiter=st.sampled_from(",;|\t"),
    end=st.sampled_from(["\n", "\r\n"]),
    quoting=st.sampled_from([pycsv.QUOTE_MINIMAL, pycsv.QUOTE_ALL, pycsv.QUOTE_NONNUMERIC]),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
    partitions=st.integers(1, 6),
)
def test_equals_python(
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[Any],
    delimiter: str,
    end: str,
    quoting: Any,
    encoding: str,
    partitions: int,
) -> None:
    text = io.StringIO(newline="")
    writer = pycsv.writer(text, delimiter=delimiter, lineterminator=end, quoting=quoting)
    writer.writerows([("s", "i", "d"), *rows])
    folder = tmp_path_factory.mktemp("dialects")
    put(folder, one(text.getvalue().encode(encoding)))
    read = list(pycsv.reader(io.StringIO(text.getvalue(), newline=""), delimiter=delimiter))[1:]
    expected = [(s, int(i) if i else None, date.fromisoformat(d) if d else None) for s, i, d in read]
    options = f"separator: {json.dumps(delimiter)}, partitions: {partitions}, split: true, dtypes: {{s: string, i: int64, d: date}}"
    options += "" if encoding == "utf-8-sig" else f", encoding: {encoding}"
    answer = [(s or "", i, d) for s, i, d in run(folder, options).outputs["t"].head.rows()]
    assert answer == expected


@pytest.mark.parametrize(("executor", "ahead"), [("serial", 1), ("{kind: threads, threads: 3}", 3)])
def test_the_disk_is_asked_for_what_is_read_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, executor: str, ahead: int
) -> None:
    (tmp_path / "cut.csv").write_bytes(LONG)
    (tmp_path / "whole.csv").write_bytes(LONG)
    (tmp_path / "t.parquet").write_bytes(parquet(a=[1, 2, 3]))
    config = tmp_path / "c.yaml"
    config.write_text(
        f"executor: {executor}\nsteps:\n  a: {{read: {{path: cut.csv, partitions: 50}}}}\n  n: {{aggregate: {{n: count(*)}}}}\n"
        "  b: {read: whole.csv}\n  c: {read: t.parquet}\n"
    )
    asked, read = list[tuple[str, int]](), list[int]()
    advise, text = os.posix_fadvise, scan.Source._text

    def advised(file: int, start: int, size: int, advice: int) -> None:
        asked.append((os.path.basename(os.readlink(f"/proc/self/fd/{file}")), start))
        advise(file, start, size, advice)

    def texted(source: scan.Source, piece: scan.Piece) -> bytes:
        read.append(piece.start)
        return text(source, piece)

    monkeypatch.setattr(os, "posix_fadvise", advised)
    monkeypatch.setattr(scan.Source, "_text", texted)
    assert load(config).run().outputs["n"].head.rows() == [(60_000,)]
    assert {name for name, _ in asked} == {"cut.csv"}
    assert len(read) == 50
    if ahead == 1:
        assert [start for _, start in asked] == read[1:]
    else:
        assert {start for _, start in asked} < set(read)
        assert len(asked) == 50 - ahead
    source = load(config).plan().nodes["a"].bound
    assert isinstance(source, Input)
    (tmp_path / "cut.csv").unlink()
    source.loader.prefetch(source.partitions[1])  # that it is gone is told by who reads it
