"""Arrays' chunks, features, models and metrics as tables of one row, to be kept in a store like partitions. No pickles: NumPy's
format, JSON, and models as their files.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import polars as pl

SCHEMA: Mapping[str, pl.DataType] = {"packed as": pl.String(), "packed": pl.Binary()}


@dataclass(frozen=True)
class Kept:
    """Metrics from a store, with the files that they make."""

    values: Mapping[str, float]
    errors: Mapping[str, float] = field(default_factory=dict)
    texts: Mapping[str, str] = field(default_factory=dict)
    table: str = ""
    kind: ClassVar[str] = "metrics"

    def shown(self) -> pl.DataFrame:
        return pl.read_ipc(io.BytesIO(base64.b64decode(self.table)))

    def files(self) -> dict[str, bytes]:
        return {name: text.encode() for name, text in self.texts.items()}


def packed(value: Any) -> pl.DataFrame:
    if isinstance(value, pl.DataFrame):
        return value
    if hasattr(value, "shape"):
        out = io.BytesIO()
        np.save(out, value, allow_pickle=False)
        kind, content = "array", out.getvalue()
    elif value.kind == "model":
        kind, content = "model", value.saved()
    elif value.kind == "features":
        kind, content = "features", json.dumps(value.plain(), default=str).encode()
    else:
        texts = {name: text.decode() for name, text in value.files().items()}
        facts = {
            "values": dict(value.values),
            "errors": dict(value.errors),
            "texts": texts,
            "table": _packed_table(value.shown()),
        }
        kind, content = "metrics", json.dumps(facts).encode()
    return pl.DataFrame({"packed as": [kind], "packed": [content]}, schema=dict(SCHEMA))


def _packed_table(table: pl.DataFrame) -> str:
    """Not as JSON, which knows no infinities, and of NULLs no type."""
    out = io.BytesIO()
    table.write_ipc(out)
    return base64.b64encode(out.getvalue()).decode()


def unpacked(frame: pl.DataFrame) -> Any:
    kind, content = frame.row(0)
    if kind == "array":
        return np.load(io.BytesIO(content), allow_pickle=False)
    if kind == "model":
        from pipelines.learning.model import load

        return load(io.BytesIO(content))
    if kind == "features":
        from pipelines.learning.features import from_plain

        return from_plain(json.loads(content))
    return Kept(**json.loads(content))
