"""What is read is what the files say; what they say wrongly is named by file, row and column."""

import bz2
import csv as pycsv
import glob
import gzip
import io
import lzma
import os
import pickle
import time
from datetime import date, datetime
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.cli import main
from pipelines.errors import ConfigError, DataError, PipelineError
from pipelines.pipeline import load
from pipelines.scan import Csv, Found, Source, _texts, discover, globbed


def put(path: Path, text: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def find(root, *paths, csv=None, dtypes=None, format=None, partitions=None, partition_bytes=128 << 20) -> Found:
    return discover(
        paths or ["*"],
        format=format,
        csv=csv or Csv(),
        dtypes=dtypes or {},
        root=root,
        partitions=partitions,
        partition_bytes=partition_bytes,
    )


def read(found: Found, columns=None) -> pl.DataFrame:
    """All rows, as a kernel reads them: a failed query is explained by `diagnose`."""
    frames = []
    for p in found.partitions:
        try:
            frames.append(found.source.scan(p, columns).collect(engine="in-memory"))
        except Exception as e:
            if explained := found.source.diagnose(p, columns, e):
                raise explained from e
            raise
    return pl.concat(frames)


def rows(root, *paths, columns=None, **options):
    return read(find(root, *paths, **options), columns).rows()


def fails(kind: type[PipelineError], *words: str):
    return pytest.raises(kind, match="(?s)" + "".join(f"(?=.*{w})" for w in words))


# Files


def test_files_are_sorted_and_named_relative_to_the_root(tmp_path):
    for n in ("b", "a", "sub/c", "x[1]"):
        put(tmp_path / f"d/{n}.csv", f"k\n{n}\n")
    names = {"csv": Csv(file_column="file")}
    assert rows(tmp_path, "d/*.csv", **names) == [("a", "d/a.csv"), ("b", "d/b.csv"), ("x[1]", "d/x[1].csv")]
    assert rows(tmp_path, "d/**/*.csv", columns=["k"]) == [("a",), ("b",), ("sub/c",), ("x[1]",)]
    assert {r[0] for r in rows(tmp_path, "d/**/*.csv")} == {"a", "b", "sub/c", "x[1]"}
    assert rows(tmp_path, "d/x[1].csv") == [("x[1]",)]
    assert rows(tmp_path, "d/a.csv", "d/*.csv", columns=["k"]) == [("a",), ("b",), ("x[1]",)]


def test_a_folder_is_all_its_visible_files(tmp_path):
    put(tmp_path / "d/a.csv", "k\n1\n")
    for hidden in ("d/.b.csv", "d/_c.csv", "d/_tmp/e.csv", "d/readme.md"):
        put(tmp_path / hidden, "other\n1\n")
    assert rows(tmp_path, "d") == [(1,)]


def test_nothing_matches(tmp_path):
    put(tmp_path / "data/stocks.csv", "k\n1\n")
    with fails(ConfigError, r"no file matches data/stoks.csv \(looked in ", "did you mean 'stocks.csv'"):
        find(tmp_path, "data/stoks.csv")
    with fails(ConfigError, "no file matches dada/"):
        find(tmp_path, "dada/*.csv")


def test_mixed_unknown_and_given_formats(tmp_path):
    put(tmp_path / "a.csv", "k\n1\n")
    put(tmp_path / "b.data", "k\n2\n")
    pl.DataFrame({"k": [1]}).write_parquet(tmp_path / "c.parquet")
    with fails(ConfigError, "mixed formats"):
        find(tmp_path, "a.csv", "c.parquet")
    with fails(ConfigError, "format of b.data is not clear"):
        find(tmp_path, "b.data")
    assert rows(tmp_path, "b.data", format="csv") == [(2,)]


@pytest.mark.parametrize("end", [".gz", ".bz2", ".xz", ".zst"])
def test_compressed(tmp_path, end):
    import pyarrow

    text = b"k,v\n" + b"1,a\n2,b\n" * 50_000
    if end == ".zst":
        packed = pyarrow.compress(text, "zstd", asbytes=True)
    else:
        packed = {".gz": gzip, ".bz2": bz2, ".xz": lzma}[end].compress(text)
    put(tmp_path / f"a.csv{end}", packed)
    found = find(tmp_path, partitions=3)
    assert [len(p) for p in found.partitions].count(1) == 1
    assert read(found).rows() == [(1, "a"), (2, "b")] * 50_000
    put(tmp_path / f"a.csv{end}", packed[: len(packed) * 2 // 3])
    with fails(DataError, f"a.csv{end} has changed since the plan was made"):
        read(found)
    with fails(DataError, f"a.csv{end} cannot be unpacked"):
        put(tmp_path / f"a.csv{end}", b"no archive")
        find(tmp_path)


# Text


def test_separators_nulls_quotes_and_missing_headers(tmp_path):
    put(tmp_path / "a.tsv", "a\tb\n1\tx\n")
    assert rows(tmp_path, "a.tsv") == [(1, "x")]
    put(tmp_path / "b.csv", "1;NA\n2;3\n")
    no_header = Csv(separator=";", header=False, null_values=("NA",))
    assert rows(tmp_path, "b.csv", csv=no_header) == [(1, None), (2, 3)]
    assert list(find(tmp_path, "b.csv", csv=no_header).source.schema) == ["column_1", "column_2"]
    named = Csv(separator=";", header=False, null_values=("NA",), columns=("x", "y"))
    for n in (1, 2, 3, 7):
        assert rows(tmp_path, "b.csv", csv=named, partitions=n, columns=["y"]) == [(None,), (3,)]
    with fails(DataError, "row 1 has 2 fields, but `columns` names 1"):
        find(tmp_path, "b.csv", csv=Csv(separator=";", header=False, columns=("x",)))
    put(tmp_path / "c.csv", "a,b\n5\",6'\n")
    assert rows(tmp_path, "c.csv", csv=Csv(quote=None)) == [('5"', "6'")]


@pytest.mark.parametrize("partitions", [None, 1, 2, 5])
@pytest.mark.parametrize("text", [
    "\ufeffk,v\n1,a\n2,b\n3,\n",
    "k,v\r\n1,a\r\n2,b\r\n3,\r\n",
    "k,v\n1,a\n2,b\n3,",
    '\ufeff"k","v"\r\n"1","a"\r\n"2","b"\r\n"3",',
])  # fmt: skip
def test_byte_order_mark_line_ends_and_last_line(tmp_path, text, partitions):
    put(tmp_path / "a.csv", text)
    assert rows(tmp_path, partitions=partitions) == [(1, "a"), (2, "b"), (3, None)]


@pytest.mark.parametrize("partitions", [None, 1, 2, 5])
@pytest.mark.parametrize(
    "above", ["made 2020\n\n", 'a "report" of 5" disks\r\nb\r\n', "\ufeffa,b,c\n1\n", "caf\xe9\n\n"]
)
def test_lines_before_the_header(tmp_path, above, partitions):
    text = 'k,v\n1,a\n2,"b\nc"\n3,"d"\n'
    packed = gzip.compress((above + text).encode())
    put(tmp_path / "a.csv", above + text)
    put(tmp_path / "b.csv.gz", packed)
    put(tmp_path / "c.csv", (above + text).encode() if above[0] == "\ufeff" else (above + text).encode("latin-1"))
    answer = [(1, "a"), (2, "b\nc"), (3, "d")]
    csv = Csv(skip_lines=2, split=True)
    assert rows(tmp_path, csv=csv, partitions=partitions) == answer * 3
    bare = Csv(skip_lines=3, header=False, split=True, columns=("x", "y"))
    assert rows(tmp_path, csv=bare, partitions=partitions, columns=["y"]) == [(v,) for _, v in answer] * 3
    put(tmp_path / "a.csv", above + text + "4\n")
    with fails(DataError, "a.csv: row 4 has 1 field, expected 2"):
        rows(tmp_path, "a.csv", csv=csv, partitions=partitions)
    for wrong, said in (('1,"x" y', "a stray quote"), ("1,02/01/2024", "'02/01/2024' is not date")):
        put(tmp_path / "a.csv", f"{above}k,v\n{wrong}\n2,03/01/2024\n")
        with fails(DataError, f"a.csv: row 1, column 'v': .*{said}"):
            rows(tmp_path, "a.csv", csv=csv, dtypes={"v": pl.Date() if "date" in said else pl.String()})
    put(tmp_path / "a.csv", above + text + "4\n")
    lines = len((above + text).splitlines())
    assert rows(tmp_path, "a.csv", csv=Csv(skip_lines=lines)) == []
    with fails(ConfigError, f"a.csv has no line after the {lines + 1} that are skipped"):
        find(tmp_path, "a.csv", csv=Csv(skip_lines=lines + 1))


@pytest.mark.parametrize(
    ("text", "note"), [("a;b\n1;2\n", ';"'), ("a\tb\n1\t2\n", '\\t"'), ("a\n1\n", ""), ("a;b,c\n1,2\n", "")]
)
def test_another_separator_is_told(tmp_path, text, note):
    put(tmp_path / "a.csv", text)
    assert [n for n in find(tmp_path).notes if f'add `separator: "{note}' in n] == list(find(tmp_path).notes)
    assert len(find(tmp_path).notes) >= bool(note)


@pytest.mark.parametrize("declared", [True, False])
def test_times_may_be_without_seconds(tmp_path, declared):
    put(tmp_path / "a.csv", "k,t\n1,12:30:00\n2,12:30\n" if declared else "k,t\n1,12:30:00\n2,12:31:00\n")
    put(tmp_path / "b.csv", 'k,t\n3,\n4,""\n5,23:59:59.123456789\n' + ("6,09:05\n" if declared else "6,09:05:00\n"))
    found = find(tmp_path, dtypes={"t": pl.Time()} if declared else {})
    nanoseconds = read(found)["t"].cast(int).to_list()
    minute = 60 * 10**9
    assert nanoseconds == [750 * minute, (750 if declared else 751) * minute, None, None, 86399123456789, 545 * minute]
    for wrong in ("24:00", "1:30", "12:30:60", "noon", " 12:30", "12:30:00.1234567891"):
        put(tmp_path / "a.csv", f"k,t\n1,12:30\n2,{wrong}\n")
        with fails(DataError, f"a.csv: row 2, column 't': '{wrong}' is not time"):
            rows(tmp_path, "a.csv", dtypes={"t": pl.Time()})


def test_encodings(tmp_path):
    put(tmp_path / "a.csv", "k,v\n1,café\n2,x\n".encode("latin-1"))
    assert rows(tmp_path, csv=Csv(encoding="latin-1"), partitions=2) == [(1, "café"), (2, "x")]
    with fails(DataError, "a.csv: row 1: byte 0xe9 is not utf-8", "encoding"):
        find(tmp_path)
    put(tmp_path / "a.csv", b"k,v\n" + b"1,x\n" * 100_000 + "2,café\n".encode("latin-1") + b"1,x\n" * 200_000)
    found = find(tmp_path, partitions=1)
    with fails(DataError, "a.csv: row 100001: byte 0xe9 is not utf-8", "encoding"):
        read(found)
    put(tmp_path / "a.csv", "k,v\n1,café\n2,x\n".encode("utf-16"))
    with fails(DataError, "a.csv is not utf-8 but UTF-16", "encoding: utf-16"):
        find(tmp_path)
    assert rows(tmp_path, csv=Csv(encoding="utf-16")) == [(1, "café"), (2, "x")]
    put(tmp_path / "a.csv", b"k,v\n1,\xe9\n")
    with fails(DataError, "a.csv: byte 6: byte 0xe9 is not shift-jis"):
        find(tmp_path, csv=Csv(encoding="shift-jis"))


def test_headers_must_agree(tmp_path):
    put(tmp_path / "a.csv", "k,v\n")
    assert rows(tmp_path, "a.csv") == []
    put(tmp_path / "b.csv", "k,w\n1,2\n")
    with fails(DataError, "b.csv adds 'w', which a.csv does not have", "missing: null"):
        find(tmp_path)
    assert rows(tmp_path, csv=Csv(missing=None)) == [(1, None, 2)]
    put(tmp_path / "b.csv", "v,k\n1,2\n")
    put(tmp_path / "a.csv", "k,v\n3,4\n")
    assert rows(tmp_path) == [(3, 4), (2, 1)]  # by name
    put(tmp_path / "c.csv", "k,v,k\n")
    with fails(DataError, "c.csv: two columns are called 'k'"):
        find(tmp_path, "c.csv")
    put(tmp_path / "d.csv", "k,,v\n")
    with fails(DataError, "d.csv: the header has no name for column 2"):
        find(tmp_path, "d.csv")
    put(tmp_path / "e.csv", "")
    with fails(DataError, "e.csv is empty"):
        find(tmp_path, "e.csv")


# Types


def test_sampled_types(tmp_path):
    put(
        tmp_path / "a.csv",
        "i,f,s,n,d,t,b,x,z,e\n1,1,a,,2020-01-01,2020-01-01 10:00:00,true,01/02/2020,007,2020-13-01\n",
    )
    put(
        tmp_path / "b.csv",
        "i,f,s,n,d,t,b,x,z,e\n,2.5,1,,2020-01-02,2020-01-01T10:00:00.5,false,01/02/2020,1,2020-01-01\n",
    )
    found = find(tmp_path)
    assert list(found.sampled.values()) == [
        pl.Int64, pl.Float64, pl.String, pl.String, pl.Date, pl.Datetime("us"), pl.Boolean, pl.String, pl.Int64, pl.String,
    ]  # fmt: skip
    assert "'n' is empty" in found.notes[0]
    assert "'x' looks like dates" in found.notes[1]
    assert "'z' has leading zeros" in found.notes[2]
    assert read(found)["t"].to_list() == [datetime(2020, 1, 1, 10), datetime(2020, 1, 1, 10, 0, 0, 500_000)]


@pytest.mark.parametrize("at", [0, 100_000, 199_999])
def test_samples_are_taken_at_head_middle_and_tail(tmp_path, at):
    lines = ["1,x"] * 200_000
    lines[at] = "1.5,x"
    put(tmp_path / "a.csv", "k,v\n" + "\n".join(lines) + "\n")
    assert find(tmp_path).sampled["k"] == pl.Float64


def test_a_sample_that_ends_within_quotes_spoils_no_other():
    frames = _texts(["a", "b"], [b"1,2\n", b'3,"4\n5,6\n', b"7,8"], Csv())
    assert {("1", "2"), ("7", "8")} <= {row for frame in frames for row in frame.rows()}


def test_an_odd_quote_at_the_end_of_a_file_spoils_no_sample(tmp_path):
    put(tmp_path / "one" / "a.csv", 'id,size\n1,5\n2.5,6"')
    put(tmp_path / "two" / "a.csv", 'id,size\n2.5,6"')
    put(tmp_path / "two" / "b.csv", "id,size\n1,5")
    for folder in ("one", "two"):
        assert find(tmp_path / folder).sampled == {"id": pl.Float64, "size": pl.String}


def test_nulls_do_not_hide_what_a_sampled_type_cannot_hold(tmp_path):
    put(
        tmp_path / "a.csv",
        "k\n2020-01-01\n\n\n\n2020-13-01\n",
    )
    put(tmp_path / "b.csv", "k,v\n2020-01-01,1\n,2\n,3\n2020-13-01,4\n")
    assert find(tmp_path, "a.csv").sampled["k"] == pl.String
    assert find(tmp_path, "b.csv").sampled == {"k": pl.String, "v": pl.Int64}


def test_files_with_other_columns_are_sampled_by_name(tmp_path):
    put(tmp_path / "a.csv", "k,v\n1,x\n")
    put(tmp_path / "b.csv", "v,k\n2,1.5\n")
    assert find(tmp_path).sampled == {"k": pl.Float64, "v": pl.String}


def test_declared_types_win(tmp_path):
    put(tmp_path / "a.csv", "k,v\n007,1\n")
    found = find(tmp_path, dtypes={"k": pl.String(), "v": pl.Decimal(10, 2)})
    assert not found.sampled
    assert read(found, ["k"]).rows() == [("007",)]
    with fails(ConfigError, "no column 'K'", "did you mean 'k'"):
        find(tmp_path, dtypes={"K": pl.String()})


def test_date_formats(tmp_path):
    put(tmp_path / "a.csv", "d,t,v\n31.12.2020,1/2/20 10:30,1\n,,2\n")
    csv = Csv(dates=(("d", "%d.%m.%Y"), ("t", "%d/%m/%y %H:%M")))
    assert rows(tmp_path, csv=csv) == [(date(2020, 12, 31), datetime(2020, 2, 1, 10, 30), 1), (None, None, 2)]
    put(tmp_path / "a.csv", "d,t,v\n31.12.2020,,1\n12/31/2020,,2\n")
    found = find(tmp_path, csv=csv)
    assert read(found, ["v"]).rows() == [(1,), (2,)]
    with fails(DataError, "a.csv: row 2, column 'd': '12/31/2020' does not match '%d.%m.%Y'"):
        read(found)


# Wrong data


LATE = ["1,2020-01-01,x"] * 60_000


def late(tmp_path, line: str, at: int = 20_000) -> Path:
    """A file whose odd line no sample sees."""
    lines = list(LATE)
    lines[at - 1] = line
    return put(tmp_path / "a.csv", "k,d,v\n" + "\n".join(lines) + "\n")


@pytest.mark.parametrize("partitions", [None, 7])
@pytest.mark.parametrize(("line", "column", "message"), [
    ("1.5,2020-01-01,x", "k", "row 20000, column 'k': '1.5' is not int64.*float64"),
    ("99999999999999999999,2020-01-01,x", "k", "row 20000, column 'k': '99999999999999999999' is not int64"),
    ("1,2020-13-01,x", "d", "row 20000, column 'd': '2020-13-01' is not date.*null_values"),
    ("1,2020-01-01", "k", "row 20000 has 2 fields, expected 3"),
    ("", "d", "row 20000 is blank"),
    ("1,2020-01-01,x,y", None, "row 20000 has 4 fields, expected 3"),
])  # fmt: skip
def test_wrong_rows_are_named(tmp_path, line, column, message, partitions):
    late(tmp_path, line)
    with fails(DataError, "a.csv: " + message):
        rows(tmp_path, columns=column and [column], partitions=partitions)


def test_columns_that_are_not_read_may_be_wrong(tmp_path):
    late(tmp_path, "oops,2020-01-01,x")
    assert len(rows(tmp_path, columns=["d"])) == 60_000


@pytest.mark.parametrize("partitions", [1, 3, 20])
@pytest.mark.parametrize("text", ["1,2\n3", "1,2\n3\n", "1,2\n\n", "\n1,2\n", "\n\n1,2\n", "1,\n2\n", '"a\nb",2\n3\n'])
@pytest.mark.parametrize("header", [True, False])
def test_short_rows_anywhere(tmp_path, text, partitions, header):
    put(tmp_path / "a.csv", "k,v\n" + text if header else "k,v\nk,v\n" + text)
    csv = Csv(header=header, columns=None if header else ("k", "v"))
    with pytest.raises(DataError, match=r"a\.csv: (row \d+ (has 1 field|is blank)|a quoted field)"):
        rows(tmp_path, csv=csv, partitions=partitions, columns=["k"])


def test_short_rows_are_found_before_filters(tmp_path):
    put(tmp_path / "a.csv", "k,v\n1,2\n3\n")
    found = find(tmp_path)
    frame = found.source.scan(found.partitions[0], ["k"]).filter(pl.col("k") == 1)
    with pytest.raises(Exception, match="too few or too many fields"):
        frame.collect(engine="in-memory")


def test_texts_are_looked_at_for_what_is_odd_alone(tmp_path, monkeypatch):
    """To look for numbers beyond their type takes longer than to read them."""
    looks = list[str]()
    for name in ("_ragged", "_beyond"):
        look = getattr(Source, name)
        monkeypatch.setattr(Source, name, lambda *a, look=look, name=name: (looks.append(name), look(*a))[1])
    put(tmp_path / "a.csv", "k,v,w\n1,2.5,\n3,4.5,\n")
    rows(tmp_path)
    assert set(looks) == {"_ragged"}
    looks.clear()
    put(tmp_path / "a.csv", "k,v,w\n1,inf,x\n3,4.5,y\n")
    rows(tmp_path)
    assert set(looks) == {"_beyond"}


def test_empty_last_fields_are_no_short_rows(tmp_path):
    put(tmp_path / "a.csv", 'k,v\n1,\n"a,\nb",\n"",""\n')
    assert rows(tmp_path, columns=["k"]) == [("1",), ("a,\nb",), ("",)]


def test_blank_lines_of_one_column_are_nulls(tmp_path):
    put(tmp_path / "a.csv", "k\n1\n\n\n2\n\n")
    for n in (1, 2, 3, 7, 50):
        assert rows(tmp_path, partitions=n) == [(1,), (None,), (None,), (2,), (None,)]


def test_quoted_line_breaks_are_never_cut(tmp_path):
    put(tmp_path / "a.csv", "k,v\n" + '1,"' + "x\n" * 1000 + '"\n2,y\n')
    for n in (1, 2, 3, 7):
        assert rows(tmp_path, partitions=n) == [(1, "x\n" * 1000), (2, "y")]


def test_quotes_that_no_sample_shows(tmp_path):
    plain, quoted = "1,abcdefgh\n" * 20_000, '2,"' + "x\n" * 20_000 + '"\n'
    put(tmp_path / "a.csv", "k,v\n" + plain + quoted + plain * 2)
    with fails(DataError, "a.csv: a quoted field seems to span a line break", "split: true"):
        rows(tmp_path, partitions=50)
    for split in (True, False):
        answer = rows(tmp_path, csv=Csv(split=split), partitions=50)
        assert len(answer) == 60_001
        assert answer[20_000] == (2, "x\n" * 20_000)


# Partitions


def test_partitions_follow_sizes(tmp_path):
    for i in range(40):
        put(tmp_path / f"a{i:02}.csv", "k,v\n1,2\n")  # 8 bytes each
    put(tmp_path / "b.csv", "k,v\n" + "1,2\n" * 100)  # 404
    counts = [len(p) for p in find(tmp_path, partition_bytes=10**6).partitions]
    assert sum(counts) == 41
    assert all(8 <= count <= 32 for count in counts[:-1])
    found = find(tmp_path, partition_bytes=100)
    assert sum(len(p) for p in found.partitions) == 45
    assert all(sum(piece.stop - piece.start for piece in p) <= 101 for p in found.partitions)
    assert [len(p) for p in found.partitions][-5:] == [1] * 5
    assert read(found).rows() == [(1, 2)] * 140
    assert found.input_bytes == 724
    assert pickle.loads(pickle.dumps(found)) == found


def test_more_partitions_than_lines(tmp_path):
    put(tmp_path / "a.csv", "k,v\n1,2\n")
    found = find(tmp_path, partitions=9)
    assert len(found.partitions) == 9
    assert read(found).rows() == [(1, 2)]
    assert read(found).schema == {"k": pl.Int64, "v": pl.Int64}


def test_many_partitions_are_found_fast(tmp_path):
    put(tmp_path / "a.csv", "k,v\n" + "12345,6789\n" * 900_000)
    began = time.perf_counter()
    found = find(tmp_path, partitions=100_000)
    assert time.perf_counter() - began < 3
    assert len(found.partitions) == 100_000
    assert sum(p.stop - p.start for ps in found.partitions for p in ps) == found.input_bytes


texts = st.text(st.characters(codec="utf-8", exclude_characters="\r\n\0", exclude_categories=["Cs"]), max_size=8)
tables = st.lists(
    st.tuples(
        st.none() | texts,
        st.none() | st.integers(-(2**63), 2**63 - 1),
        st.none() | st.floats(allow_nan=False),
        st.none() | texts,
    ),
    max_size=20,
)


@settings(max_examples=60, deadline=None)
@given(tables, st.sampled_from([1, 2, 3, 7, 50]), st.integers(1, 3))
def test_any_table_comes_back(tmp_path_factory, table, partitions, files):
    root = tmp_path_factory.mktemp("t")
    for i in range(files):
        text = io.StringIO()
        writer = pycsv.writer(text, lineterminator="\n")
        writer.writerow("sifz")
        for s, *numbers, z in table[i::files]:
            cells = ["" if v is None else repr(v) for v in numbers]
            quoted = ["" if v is None else '"' + v.replace('"', '""') + '"' for v in (s, z)]
            text.write(",".join([quoted[0], *cells, quoted[1]]) + "\n")
        put(root / f"{i}.csv", text.getvalue())
    types = {"s": pl.String(), "i": pl.Int64(), "f": pl.Float64(), "z": pl.String()}
    found = find(root, dtypes=types, partitions=partitions)
    expected = [r for i in range(files) for r in table[i::files]]
    assert len(found.partitions) == partitions
    assert read(found).rows() == expected
    assert read(found, ["f", "s"]).rows() == [(r[0], r[2]) for r in expected]


# Parquet


def test_parquet(tmp_path):
    frame = pl.DataFrame({"k": range(1000), "v": [str(i) for i in range(1000)]})
    frame[:600].write_parquet(tmp_path / "a.parquet", row_group_size=100)
    frame[600:].write_parquet(tmp_path / "b.parquet", row_group_size=100)
    for n in (1, 3, 7, 2000):
        found = find(tmp_path, partitions=n)
        assert len(found.partitions) == n
        assert read(found, ["k"]).rows() == [(k,) for k in range(1000)]
    found = find(tmp_path, partition_bytes=2000, csv=Csv(file_column="f"), dtypes={"k": pl.Int16()})
    assert len(found.partitions) > 3
    assert all(p.start % 100 == 0 for ps in found.partitions for p in ps)
    assert read(found).equals(
        frame.with_columns(
            pl.col("k").cast(pl.Int16),
            f=pl.when(pl.col("k") < 600).then(pl.lit("a.parquet")).otherwise(pl.lit("b.parquet")),
        )
    )
    found = find(tmp_path, dtypes={"k": pl.Int8()})
    with fails(DataError, "a.parquet: row 129, column 'k': 128 is not int8"):
        read(found)


def test_parquet_files_must_agree(tmp_path):
    pl.DataFrame({"k": [1]}).write_parquet(tmp_path / "a.parquet")
    pl.DataFrame({"k": ["1"]}).write_parquet(tmp_path / "b.parquet")
    with fails(DataError, "b.parquet: column 'k' is string, in a.parquet int64"):
        find(tmp_path)
    put(tmp_path / "c.parquet", "oops")
    with fails(DataError, "c.parquet is not a readable Parquet file"):
        find(tmp_path, "c.parquet")


@pytest.mark.parametrize("pattern", [
    "*", "*/**", "*.csv", "**", "**/*.csv", "**/**/a*", "d/*", "d/**", "*/a.csv", ".h/*", "**/.h/*", "[[]x].csv", "d//*.csv", "d/*.csv/",
    "./*/../*.csv", "loop/**", "**/[!a].csv", "none/*", "a.csv/*", "ROOT/d/?.csv", "../*/a.csv", "d/a**v",
])  # fmt: skip
def test_globs_are_those_of_python(tmp_path: Path, pattern: str) -> None:
    root = tmp_path / "[r]"
    for name in ("a.csv", "b.csv", "[x].csv", "d/a.csv", "d/b.csv", "d/.c.csv", "d/e/a.csv", ".h/a.csv", ".h.csv"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("x\n")
    (root / "loop").mkdir()
    (root / "loop/again").symlink_to(".")
    (root / "loop/self").symlink_to("self")
    (root / "link").symlink_to("d")
    pattern = pattern.replace("ROOT", glob.escape(str(root)))
    hits = glob.glob(os.path.join(glob.escape(str(root)), pattern), recursive=True)
    expected = sorted({os.path.normpath(hit) for hit in hits if os.path.isfile(hit)})
    assert sorted({os.path.normpath(path) for path in globbed(pattern, root)}) == expected


@pytest.mark.parametrize(
    ("values", "dtype", "note"),
    [
        (("12345678901234567890", "1"), pl.String(), "integers beyond 64 bits"),
        (("+4917", "4918"), pl.Int64(), "plus signs"),
        (("2024-01-01T10:00:00Z", "2024-01-01T10:00:00.5+05:30"), pl.String(), "times with offsets"),
        (("1", "2.5", "12345678901234567890"), pl.Float64(), ""),
    ],
)
def test_what_a_sampled_type_may_lose_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], values: tuple[str, ...], dtype: pl.DataType, note: str
) -> None:
    (tmp_path / "a.csv").write_text("\n".join(("v", *values, "")))
    (tmp_path / "c.yaml").write_text("steps:\n  t: {read: a.csv}\n")
    assert main(["check", str(tmp_path / "c.yaml")]) == 0
    said = capsys.readouterr().err
    assert (f"note: t: column 'v' has {note}" in said) if note else not said
    assert load(tmp_path / "c.yaml").plan().nodes["t"].schema == {"v": dtype}
