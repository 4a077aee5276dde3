"""The names of column types: one spelling in configs, plans and messages, for the types that Polars computes with."""

from __future__ import annotations

import re
from collections.abc import Mapping

import polars as pl

Schema = Mapping[str, pl.DataType]

_NAMES: dict[str, pl.DataType] = {
    "int8": pl.Int8(),
    "int16": pl.Int16(),
    "int32": pl.Int32(),
    "int64": pl.Int64(),
    "uint8": pl.UInt8(),
    "uint16": pl.UInt16(),
    "uint32": pl.UInt32(),
    "uint64": pl.UInt64(),
    "float32": pl.Float32(),
    "float64": pl.Float64(),
    "boolean": pl.Boolean(),
    "string": pl.String(),
    "binary": pl.Binary(),
    "date": pl.Date(),
    "time": pl.Time(),
    "datetime": pl.Datetime("us"),
    "duration": pl.Duration("us"),
}
_SPELLED = {repr(v): k for k, v in _NAMES.items()}
NAMED = tuple(_NAMES)
DTYPES = (*NAMED, "decimal(precision,scale)", "datetime[ms]", "datetime[ns]", "datetime[us,Europe/Berlin]")


def parse_dtype(name: str) -> pl.DataType | None:
    """The type that `name` spells, or None when it spells none."""
    if name in _NAMES:
        return _NAMES[name]
    if m := re.fullmatch(r"decimal\((\d+), ?(\d+)\)", name):
        precision, scale = int(m[1]), int(m[2])
        return pl.Decimal(precision, scale) if 1 <= precision <= 38 and scale <= precision else None
    if m := re.fullmatch(r"(datetime|duration)\[(ms|us|ns)\]", name):
        return pl.Datetime(m[2]) if m[1] == "datetime" else pl.Duration(m[2])  # type: ignore[arg-type]
    if m := re.fullmatch(r"datetime\[(ms|us|ns), ?([A-Za-z0-9_+\-/]+)\]", name):
        import zoneinfo

        return pl.Datetime(m[1], m[2]) if m[2] in zoneinfo.available_timezones() else None  # type: ignore[arg-type]
    return None


def dtype_name(dtype: pl.DataType) -> str:
    """The one name of a type: what `parse_dtype` reads back."""
    if repr(dtype) in _SPELLED:
        return _SPELLED[repr(dtype)]
    if isinstance(dtype, pl.Decimal):
        return f"decimal({dtype.precision},{dtype.scale})"
    if isinstance(dtype, pl.Datetime):
        return f"datetime[{dtype.time_unit},{dtype.time_zone}]" if dtype.time_zone else f"datetime[{dtype.time_unit}]"
    if isinstance(dtype, pl.Duration):
        return f"duration[{dtype.time_unit}]"
    if isinstance(dtype, pl.List):
        return f"list[{dtype_name(dtype.inner)}]"  # type: ignore[arg-type]
    return str(dtype).lower()


def size_text(count: float) -> str:
    """A number of bytes as people write it."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
