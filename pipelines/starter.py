"""A first config for data files: what `pipelines new` writes after a look at them."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import polars as pl
from msgspec import Struct

from pipelines import kernel
from pipelines.errors import ConfigError, DataError, Issue, Place
from pipelines.scan import UNREAD, reading
from pipelines.source import Node, scalar_text
from pipelines.spec import project_root
from pipelines.steps.base import Context, Input, Problems
from pipelines.steps.read import Read
from pipelines.types import Schema, dtype_name, is_pattern

_ROWS = 1000
_MOST_GROUPS = 50
_SMALL = 8 << 20
_SCHEMA = "pipelines.schema.json"


class _Looked(Struct, frozen=True):
    """The data as a `read` step sees it: its options beside the path, what it gives, and some rows."""

    options: dict[str, Any]
    given: Input
    rows: pl.DataFrame


def plain_name(data: str) -> str:
    """A pipeline's name for these files: theirs, or their folder's."""
    path = Path(os.path.abspath(data))
    parts = [part for part in path.parts[1:] if not re.search(r"[*?\[]", part)]
    stem = parts[-1].split(".")[0] if parts else ""
    return re.sub(r"[^A-Za-z0-9_-]+", "-", stem).strip("-") or "pipeline"


def config(data: str, output: Path) -> str:
    """The text of a config that reads these files, checked and ready to run from where it is to be written.

    Raises ConfigError or DataError when the files cannot be read as they are.
    """
    root = project_root(output)
    path = Path(os.path.abspath(data))
    shown = path.relative_to(root).as_posix() if path.is_relative_to(root) else path.as_posix()
    looked = _look(shown, root)
    schema = looked.given.schema
    usable = [name for name in schema if not is_pattern(name)]
    key = _key(looked.rows, usable)
    numbers = _numbers(schema, [name for name in usable if name != key])
    lines = [
        *([f"# yaml-language-server: $schema={_SCHEMA}"] if (output.parent / _SCHEMA).exists() else []),
        f"# A starter made by `pipelines new`. Change it, then: pipelines check {output.name}, pipelines run {output.name}.",
        "# `pipelines steps` lists the kinds of steps, `pipelines plan` shows every table's columns.",
        f"name: {scalar_text(plain_name(output.name))}",
        "description: Say here what this is for.",
        "params:",
        f"  data: {_value(shown)}  # relative to the project; other files: pipelines run {output.name} -p data=...",
        "steps:",
        "  rows:",
        "    read:",
        '      path: "${data}"',
        *(f"      {name}: {_value(value)}" for name, value in looked.options.items()),
        *_types(looked.given),
        "  # Keep some rows. Expressions are SQL; a column name with spaces stands in double quotes.",
        "  kept:",
        f"    filter: {_value(_condition(looked.rows, schema, numbers, usable))}",
        f"  # One row for {'each group' if key is not None else 'the whole table'}.",
        "  summary:",
        "    aggregate:",
        *([f"      by: [{_value(key)}]"] if key is not None else []),
        *(f"      {name}: {_value(text)}" for name, text in _aggregates(numbers, key).items()),
        "  # largest:",
        "  #   sort: {by: [rows], descending: [rows], limit: 10}",
        "  # Every run has a folder of its own, ${run}: nothing is overwritten.",
        "  result:",
        '    write: "${run}/summary.parquet"',
    ]
    return "\n".join(lines) + "\n"


def _look(path: str, root: Path) -> _Looked:
    options = _options(path, root)
    place = Place("", 1, 1)
    problems = Problems(Node({}, place))
    bound = Read(path=[path], **options).bind({}, problems, Context(root))
    if bound is None:
        issues = [Issue(issue.message, issue.remedy) for issue in problems.issues]
        raise (DataError if problems.exit_code == 3 else ConfigError)(*issues)
    return _Looked(options, bound, _rows(bound, options.get("separator", ",")))


def _rows(given: Input, separator: str) -> pl.DataFrame:
    """The first rows. Of small files as a run reads them: what is wrong in them is told now, not in the first run."""
    part, columns = given.partitions[0], list(given.schema)
    if given.sampled and given.bytes > _SMALL:
        separator = "\t" if part[0].path.endswith((".tsv", ".tsv.gz")) else separator
        frame = pl.scan_csv(
            part[0].path, schema=dict(given.schema), separator=separator, n_rows=_ROWS, ignore_errors=True, glob=False
        )
        try:
            return kernel.collect(frame, given.schema)
        except kernel.KernelError:  # packed, or not in UTF-8: the types alone have to do
            return pl.DataFrame(schema=dict(given.schema))
    try:
        return kernel.collect(given.loader.scan(part, columns).head(_ROWS), given.schema)
    except kernel.KernelError as error:
        issue = given.loader.diagnose(part, columns, error)
        raise issue or DataError(Issue(str(error), "is the file whole?")) from None


def _options(path: str, root: Path) -> dict[str, Any]:
    """What a file's name and first line do not leave to the defaults."""
    file = root / path
    if not file.is_file() or file.suffix.lower() in (".parquet", ".pq", ".gz", ".zst", ".bz2", ".xz"):
        return {}
    known = file.suffix.lower() in (".csv", ".tsv", ".txt", *UNREAD)
    found: dict[str, Any] = {} if known else {"format": "csv"}
    with reading(path, root), file.open("rb") as opened:
        head = opened.read(1 << 16).decode(errors="replace")
    bare = re.sub(r'"[^"]*"', "", head).split("\n", 1)[0]  # a quoted name may hold a line's end
    if file.suffix.lower() != ".tsv" and "," not in bare:
        count, mark = max((bare.count(mark), mark) for mark in ";\t|")
        if count:
            found["separator"] = mark
    return found


def _types(given: Input) -> list[str]:
    if not given.sampled:
        return []
    width = max(len(scalar_text(name)) for name in given.sampled)
    lines = ["      # Sampled from the data. A value that does not fit is an error that names its row."]
    lines += ["      dtypes:"]
    for name, dtype in given.sampled.items():
        lines.append(f"        {scalar_text(name) + ':':{width + 1}} {scalar_text(dtype_name(dtype))}")
    return lines


def _key(rows: pl.DataFrame, names: list[str]) -> str | None:
    """A column to group by: one whose values repeat; texts first, then truth values, dates and whole numbers."""
    best: tuple[int, int, str] | None = None
    for at, name in enumerate(names):
        dtype = rows.schema[name]
        order = [pl.String, pl.Categorical, pl.Boolean, pl.Date]
        rank = order.index(dtype.base_type()) if dtype.base_type() in order else 4 if dtype.is_integer() else None
        if rank is None:
            continue
        count = rows[name].n_unique()
        repeats = count <= max(1, 2 * len(rows) // 3) and (count <= _MOST_GROUPS or dtype == pl.Date)
        if repeats and (best is None or (rank, at) < best[:2]):
            best = (rank, at, name)
    return best[2] if best else None


def _numbers(schema: Schema, names: list[str]) -> list[str]:
    """Columns to compute with, those with fractions first; not what looks like an identifier."""
    numeric = [name for name in names if schema[name].is_numeric() and not re.search(r"(?i)(^|_| )id$|Id$", name)]
    return sorted(numeric, key=lambda name: schema[name].is_integer())[:2]


def _condition(rows: pl.DataFrame, schema: Schema, numbers: list[str], names: list[str]) -> str:
    for name in numbers:
        if (rows[name] > 0).any():
            return f"{_column(name)} > 0"
    for name in (*numbers, *names):
        return f"{_column(name)} IS NOT NULL"
    return "true"


def _aggregates(numbers: list[str], key: str | None) -> dict[str, str]:
    found = {"rows": "count(*)"}
    for name in numbers:
        short = re.sub(r"[^A-Za-z0-9_]+", "_", name).strip("_").lower()
        found[f"mean_{short}" if short else f"mean_{len(found)}"] = f"avg({_column(name)})"
        found[f"largest_{short}" if short else f"largest_{len(found)}"] = f"max({_column(name)})"
    return {name if name != key else f"{name}_2": text for name, text in found.items()}


def _column(name: str) -> str:
    """The column in SQL: quoted unless it is a plain word that is surely not a keyword."""
    from sqlglot.dialects.duckdb import DuckDB

    keywords = {word.lower() for word in DuckDB.Tokenizer.KEYWORDS} | _FUNCTION_WORDS
    if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name) and name.lower() not in keywords:
        return name
    return '"' + name.replace('"', '""') + '"'


_FUNCTION_WORDS = {
    "if",
    "lambda",
    "connect_by_root",
    "true",
    "false",
    "null",
    "current_date",
    "current_time",
    "current_timestamp",
    "localtime",
    "localtimestamp",
}


def _value(text: Any) -> str:
    """A YAML value that reads as this text: parameters are put into values."""
    return scalar_text(str(text).replace("${", "$${"))
