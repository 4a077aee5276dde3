from __future__ import annotations

import os
import re
from pathlib import Path
from typing import ClassVar, Literal

import polars as pl
from pydantic import Field

from pipelines.scan import not_here
from pipelines.source import RUN
from pipelines.steps.base import Context, Problems, Step
from pipelines.types import Schema, dtype_name
from pipelines.work import Output

_PART = re.compile(r"part-\d+\.(csv|parquet)")
_FORMATS: dict[str, Literal["csv", "parquet"]] = {".csv": "csv", ".parquet": "parquet", ".pq": "parquet"}


def _fits_csv(dtype: pl.DataType) -> bool:
    try:
        pl.DataFrame({"x": pl.Series([None], dtype=dtype)}).write_csv()
    except pl.exceptions.PolarsError:
        return False
    return True


class Write(Step):
    """Write the table to a file, or to a folder with one file for each partition. It appears when it is complete.

    What exists outside the run's folder is kept: replacing it takes `overwrite: true`. Even then a folder is replaced only where it
    holds nothing but such parts, and never a file that a step of the same config reads.
    """

    kind = "write"
    role = "sink"
    gives = "nothing"
    shorthand = "path"
    example: ClassVar[str] = 'write: {path: "${run}/by_date.parquet"}'

    path: str = Field(
        min_length=1, description="The file (or folder), relative to the project; ${run} is this run's folder."
    )
    format: Literal["csv", "parquet"] | None = Field(None, description="Default: from the path's ending.")
    per_partition: bool = Field(False, description="Write a folder with one file for each partition.")
    overwrite: bool = Field(False, description="Replace what is there.")

    def bind(self, schema: Schema, problems: Problems, context: Context) -> Output | None:
        path = self.path if self.path.startswith(RUN) else str(context.root / self.path)
        format = self.format or _FORMATS.get(Path(self.path).suffix)
        if format is None:
            problems.add(
                ("path",),
                f"the ending of {self.path!r} does not say the format",
                "end it in .csv or .parquet, or add `format:`",
            )
        elif format == "csv":
            for name, dtype in schema.items():
                if not _fits_csv(dtype):
                    problems.add(
                        ("path",),
                        f"the column {name!r} is {dtype_name(dtype)}, which CSV cannot hold",
                        "write Parquet, or drop it",
                    )
        if RUN in self.path.removeprefix(RUN) or (self.path.startswith(RUN) and not self.path.startswith(RUN + "/")):
            problems.add(("path",), "${run} stands at the start of a path", "write ${run}/name.parquet")
        elif why := not_here(self.path):
            problems.add(("path",), *why)
        elif not self.path.startswith(RUN):
            self._free(path, problems)
        if problems.issues or format is None:
            return None
        return Output(path, format, self.per_partition, self.overwrite)

    def _free(self, path: str, problems: Problems) -> None:
        try:
            os.lstat(path)
        except FileNotFoundError:
            return
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else str(error)
            problems.add(("path",), f"cannot write to {self.path:.60}: {why}", "choose another path")
            return
        if not self.overwrite:
            remedy = "add `overwrite: true` to replace it, or choose another path"
            problems.add(("path",), f"{self.path} exists", remedy)
        elif self.per_partition and os.path.isdir(path):
            # all that is in the folder goes: it has to be ours
            others = sorted(name for name in os.listdir(path) if not _PART.fullmatch(name))
            if others:
                what = f"{self.path} holds other files than the parts of a table: {others[0]!r}"
                problems.add(("path",), what, "choose a folder of its own, which may be replaced as a whole")
