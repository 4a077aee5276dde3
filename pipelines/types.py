"""The names of column types: one spelling in configs, plans and messages, for the types that Polars computes with."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

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


def calendar(dtype: pl.DataType) -> tuple[int, int] | None:
    """The first and the last count of a date's or datetime's units in the years -262143 to 262142: what is beyond Polars panics
    of when it is shown or written. None for other types, and where no count is beyond."""
    first, last = -96_465_292, 95_026_236
    if isinstance(dtype, pl.Date):
        return first, last
    if not isinstance(dtype, pl.Datetime) or dtype.time_unit == "ns":
        return None
    day = 86_400 * {"ms": 10**3, "us": 10**6}[dtype.time_unit]
    return first * day, (last + 1) * day - 1


def beyond_calendar(column: pl.Series) -> bool:
    """Whether it holds dates that no calendar has, as files may."""
    if isinstance(column.dtype, pl.List | pl.Array):
        return beyond_calendar(column.explode())
    if isinstance(column.dtype, pl.Struct):
        return any(map(beyond_calendar, column.struct.unnest().get_columns()))
    known = calendar(column.dtype)
    return known is not None and not column.to_physical().is_between(*known).all()


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


def described(schema: Mapping[str, Any]) -> dict[str, str]:
    """Column: the name of its type."""
    return {name: dtype_name(dtype) for name, dtype in schema.items()}


def schema_of(texts: Mapping[str, str]) -> Schema:
    """What `described` wrote; for a type that has no name here, one that is `alike`. Raises ValueError for what is no type."""
    found = dict[str, pl.DataType]()
    for name, text in texts.items():
        dtype = parse_dtype(text) or _UNNAMED.get(text.partition("(")[0])
        if dtype is None:
            raise ValueError(f"there is no type {text!r}")
        found[name] = dtype
    return found


_UNNAMED: dict[str, pl.DataType] = {
    "categorical": pl.String(),
    "enum": pl.String(),
    "int128": pl.Int64(),
    "uint128": pl.UInt64(),
    "float16": pl.Float32(),
}


def alike(one: pl.DataType, other: pl.DataType) -> bool:
    """Whether what was learnt from one can be asked of the other: of one type, or both numbers, or both texts."""
    texts = (pl.String, pl.Categorical, pl.Enum)
    return (
        one == other
        or (one.is_numeric() and other.is_numeric())
        or (isinstance(one, texts) and isinstance(other, texts))
    )


_INTEGERS: dict[type[pl.DataType], tuple[int, bool]] = {  # (bits, signed)
    pl.Int8: (8, True), pl.Int16: (16, True), pl.Int32: (32, True), pl.Int64: (64, True),
    pl.UInt8: (8, False), pl.UInt16: (16, False), pl.UInt32: (32, False), pl.UInt64: (64, False),
}  # fmt: skip
_MANTISSA: dict[type[pl.DataType], int] = {pl.Float32: 24, pl.Float64: 53}


def widened(*types: pl.DataType) -> pl.DataType | None:
    """The smallest type that holds every value of all of them, exactly, whatever their order; None when there is none."""
    kinds = {type(dtype) for dtype in types} - {pl.Null}
    if kinds & _MANTISSA.keys() and kinds <= _MANTISSA.keys() | _INTEGERS.keys():
        # an integer has to fit the float's digits
        digits = max(_MANTISSA.get(kind) or _INTEGERS[kind][0] for kind in kinds)
        return pl.Float32() if digits <= 24 else pl.Float64() if digits <= 53 else None
    common: pl.DataType | None = pl.Null()
    for dtype in types:
        common = None if common is None else _wider(common, dtype)
    return common


def _wider(one: pl.DataType, other: pl.DataType) -> pl.DataType | None:
    """Of two types, but for floats beside numbers."""
    if one == other or isinstance(other, pl.Null):
        return one
    if isinstance(one, pl.Null):
        return other
    kinds = (type(one), type(other))
    if kinds[0] in _INTEGERS and kinds[1] in _INTEGERS:
        bits, signed = zip(*(_INTEGERS[kind] for kind in kinds), strict=True)
        if signed[0] != signed[1]:
            bits = tuple(n if s else 2 * n for n, s in zip(bits, signed, strict=True))
        return parse_dtype(f"{'' if any(signed) else 'u'}int{max(bits)}")
    if isinstance(one, pl.Decimal) and isinstance(other, pl.Decimal):
        scale = max(one.scale, other.scale)
        precision = scale + max(one.precision - one.scale, other.precision - other.scale)
        return pl.Decimal(precision, scale) if precision <= 38 else None
    if set(kinds) == {pl.Date, pl.Datetime}:
        stamp = one if isinstance(one, pl.Datetime) else other
        assert isinstance(stamp, pl.Datetime)
        return stamp if stamp.time_zone is None and stamp.time_unit != "ns" else None  # ns ends in 2262
    if isinstance(one, pl.Datetime) and isinstance(other, pl.Datetime) and one.time_zone == other.time_zone:
        units = {one.time_unit, other.time_unit}
        return pl.Datetime("us", one.time_zone) if units == {"ms", "us"} else None
    return None


def as_pandas(frame: pl.DataFrame) -> Any:
    """The same rows as a pandas.DataFrame with Arrow dtypes; numbers are not copied."""
    import pandas as pd

    return frame.to_arrow(compat_level=pl.CompatLevel.oldest()).to_pandas(types_mapper=pd.ArrowDtype)


def size_text(count: float) -> str:
    """A number of bytes as people write it."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def is_pattern(name: str) -> bool:
    """Whether Polars takes the name for a pattern of names."""
    return name == "*" or (name.startswith("^") and name.endswith("$"))
