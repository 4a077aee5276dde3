from __future__ import annotations

from collections.abc import Mapping, Sequence
from encodings.aliases import aliases
from pathlib import Path
from typing import Any, ClassVar, Literal

import polars as pl
from pydantic import Field

from pipelines import scan
from pipelines.errors import PipelineError, did_you_mean
from pipelines.steps.base import Context, Dtype, Input, Problems, Step, Texts
from pipelines.types import DTYPES, Schema, parse_dtype

PARTITION_BYTES = 128 << 20


def _is_text(encoding: str) -> bool:
    """Whether Python here reads text in it: some pack bytes, some are Windows' own."""
    try:
        return isinstance("".encode(encoding), bytes)
    except (LookupError, ValueError):
        return False


class Read(Step):
    """Rows of CSV or Parquet files, in the order of the files' names.

    Types that are not declared are sampled at the head, the middle and the tail of the files; `pipelines plan` prints them
    ready to paste. How the input is cut into partitions depends on the files alone, never on where the pipeline runs.
    """

    kind = "read"
    role = "source"
    shorthand = "path"
    example: ClassVar[str] = "read: {path: data/stocks/*.csv, dtypes: {Volume: int64}}"

    path: Texts = Field(
        min_length=1, description="A file, a folder or a glob, or a list of them, relative to the project."
    )
    format: Literal["csv", "parquet"] | None = Field(None, description="Default: from the files' ending.")
    dtypes: dict[str, Dtype] = Field({}, description="Column: type, for columns that are not to be sampled (CSV).")
    dates: dict[str, str] = Field({}, description="Column: strftime format, for dates not written as 2020-12-31 (CSV).")
    null_values: list[str] = Field([], description="Texts that mean NULL, beside the empty field (CSV).")
    separator: str | None = Field(
        None, min_length=1, max_length=1, description="Default: a comma, a tab for .tsv (CSV)."
    )
    encoding: str = Field("utf-8", description="Any encoding that Python knows (CSV).")
    skip_lines: int = Field(
        0, ge=0, le=10_000, description="Lines before the header, or before the data, that are passed over (CSV)."
    )
    header: bool = Field(True, description="Whether the first line names the columns (CSV).")
    columns: list[str] | None = Field(None, description="The columns' names, for files without a header (CSV).")
    file_column: str | None = Field(None, description="Adds a column that names the file a row came from.")
    decimal: Literal[".", ","] = Field(".", description="What stands before the decimals of a number (CSV).")
    ragged: Literal["error", None] = Field(
        "error",
        description="Rows with too few or too many fields. null: NULL for what is missing, the rest is left out (CSV).",
    )
    missing: Literal["error", None] = Field(
        "error", description="A column that some of the files do not have. null: NULL in their rows."
    )
    bad_rows: Literal["error", "drop", "keep"] = Field(
        "error",
        description="Rows with a value that is not of its column's type, or not as many fields as columns. drop: they are left out and counted. keep: they are also written to ${run}/bad_rows, with the reason. Both read all columns (CSV).",
    )
    split: bool | None = Field(
        None,
        description="Whether large files may be cut. Default: yes; where samples show quotes, these are counted first, so that no quoted line break is cut. true: count in any case. false: never (CSV).",
    )
    partitions: int | None = Field(
        None,
        ge=1,
        le=1_000_000,
        description="How many partitions. Default: up to 128 MiB each; CSV files that are larger are cut into parts of about 30 MiB.",
    )

    def bind(self, schema: Schema, problems: Problems, context: Context) -> Input | None:
        dtypes = dict[str, pl.DataType]()
        for name, text in self.dtypes.items():
            if (dtype := parse_dtype(text)) is None:
                problems.add(("dtypes", name), f"unknown type {text!r}", did_you_mean(text, DTYPES))
            else:
                dtypes[name] = dtype
        if self.columns is not None and self.header:
            problems.add(
                ("columns",), "`columns` names the columns of files without a header", "add `header: false`, or drop it"
            )
        for i, name in enumerate(self.columns or ()):
            if not name:
                problems.add(("columns", i), "a column without a name", "give it one")
            elif name in (self.columns or ())[:i]:
                problems.add(("columns", i), f"{name!r} stands here twice", "rename one")
        if not all(path.strip() for path in self.path):
            problems.add(("path",), "the path is empty", "name a file, a folder or a glob")
        try:
            "".encode(self.encoding)
        except (LookupError, ValueError):
            texts = {name for name in set(aliases.values()) if _is_text(name)}
            known = sorted({name.replace("_", "-") for name in texts} | {"utf-8", "latin-1"})
            problems.add(
                ("encoding",), f"unknown encoding {self.encoding!r}", did_you_mean(self.encoding.lower(), known)
            )
        if self.separator and (not self.separator.isascii() or self.separator in '"\r\n'):
            problems.add(
                ("separator",),
                f"{self.separator!r} cannot separate fields",
                "an ASCII character, not a quote or line end",
            )
        if self.decimal == (self.separator or ","):
            problems.add(
                ("decimal",), "decimals and fields are separated by the same character", 'add `separator: ";"`'
            )
        if problems.issues:
            return None
        csv = scan.Csv(
            separator=self.separator or ",",
            null_values=tuple(self.null_values),
            encoding=self.encoding,
            skip_lines=self.skip_lines,
            header=self.header,
            columns=None if self.columns is None else tuple(self.columns),
            dates=tuple(self.dates.items()),
            file_column=self.file_column,
            split=self.split,
            decimal=self.decimal,
            ragged=self.ragged,
            missing=self.missing,
            bad_rows=self.bad_rows,
        )
        try:
            found = scan.discover(
                self.path,
                format=self.format,
                csv=csv,
                dtypes=dtypes,
                root=context.root,
                partitions=self.partitions,
                partition_bytes=PARTITION_BYTES,
                finer=context.finer,
            )
        except PipelineError as error:
            for issue in error.issues:
                if isinstance(error, scan.OptionError) and error.key is not None:
                    problems.key(error.option, error.key, issue.message, issue.remedy)
                else:
                    path = error.option if isinstance(error, scan.OptionError) else ("path",)
                    problems.add(path, issue.message, issue.remedy)
            problems.exit_code = max(problems.exit_code, error.exit_code)
            return None
        sizes = {f.path: f.size for f in found.files}
        real = scan.linked(sizes, context.root)
        separator = found.source.csv.separator  # where no option says it, all files' endings do
        facts = (
            [
                (
                    found.source.name(p.path),
                    p.start,
                    p.stop,
                    sizes[p.path],
                    p.mtime_ns,
                    p.names,
                    separator,
                    *real[p.path],
                )
                for p in partition
            ]
            for partition in found.partitions
        )
        return Input(
            found.source.schema,
            found.source,
            found.partitions,
            tuple(facts),
            found.files,
            found.input_bytes,
            found.sampled,
            found.notes,
            rows=tuple(sum(p.stop - p.start for p in partition) for partition in found.partitions)
            if found.source.format == "parquet"
            else None,
        )

    def patterns(self) -> Sequence[str]:
        return self.path

    def matching(self, root: Path, pattern: str) -> Sequence[str]:
        return scan.matching(pattern, root, self.format)

    @property
    def notes_rows(self) -> bool:
        return self.bad_rows != "error"

    def identity(self) -> Mapping[str, Any]:
        return self.model_dump(mode="json", exclude={"path", "partitions", "split"})
