from __future__ import annotations

import datetime
import glob
import inspect
import math
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import polars as pl
from pydantic import Field

from pipelines.code import Function
from pipelines.errors import DataError, Issue, PipelineError, did_you_mean, redacted
from pipelines.steps.base import Context, Dtype, Input, Problems, Step
from pipelines.types import DTYPES, Schema, dtype_name, parse_dtype

_MOST_PARTITIONS = 1000
_ANNOTATIONS: dict[Any, pl.DataType] = {
    bool: pl.Boolean(),
    int: pl.Int64(),
    float: pl.Float64(),
    str: pl.String(),
    bytes: pl.Binary(),
    datetime.date: pl.Date(),
    datetime.datetime: pl.Datetime("us"),
    datetime.timedelta: pl.Duration("us"),
}


@dataclass(frozen=True)
class Mapped:
    """Calls the function on a partition's items."""

    function: Function
    arguments: Mapping[str, Any]
    schema: Schema
    single: bool
    """Whether the function returns one value, not a mapping of columns."""
    stop: bool
    """Whether an item's error ends the run."""

    def scan(self, partition: Sequence[Any], columns: Sequence[str]) -> pl.LazyFrame:
        function = self.function.load()
        names = [name for name in self.schema if name not in ("item", "error")]
        data: dict[str, list[Any]] = {name: [] for name in self.schema}
        for item in partition:
            values, error = dict[str, Any](), None
            try:
                result = function(item, **self.arguments)
                values = {names[0]: result} if self.single else dict(result)
                if strange := set(values) - set(names):
                    raise TypeError(f"returned {', '.join(map(repr, sorted(strange)))}, which `returns` does not name")
                for name in names:
                    values[name] = _fitted(name, values.get(name), self.schema[name])
            except (Exception, SystemExit) as problem:
                error = f"{type(problem).__name__}: {str(problem).strip().splitlines()[0] if str(problem).strip() else ''}".rstrip(
                    ": "
                )
                if self.stop:
                    raise DataError(Issue(f"{self.function} failed on the item {item!r}: {error}", "mend it, or drop `on_error: stop`")) from None  # fmt: skip
                values = {}
            data["item"].append(item)
            data["error"].append(error and redacted(error))
            for name in names:
                data[name].append(values.get(name))
        return pl.LazyFrame(data, schema=dict(self.schema)).select(columns)

    def diagnose(self, partition: Any, columns: Sequence[str], error: Exception) -> PipelineError | None:
        return None


def _fitted(name: str, value: Any, dtype: pl.DataType) -> Any:
    try:
        return pl.Series([value], dtype=dtype, strict=True)[0]
    except (TypeError, OverflowError, pl.exceptions.PolarsError):
        raise TypeError(f"{name} is {value!r:.60}, which is not {dtype_name(dtype)}") from None


class Map(Step):
    """Call a Python function once for each item of a list, or for each file of a glob; the results are a table.

    Columns: `item`, then what the function returns (one value, by default named `result`, or a dict of columns), then `error`:
    NULL, or what went wrong with that item. The function is named `module:function`; the module is found beside the config or in the project's folder.
    """

    kind = "map"
    role = "source"
    example: ClassVar[str] = 'map: {function: "math:isqrt", items: [10, 12, -14], returns: int64}'

    function: str = Field(
        pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$", description="`module:function`; its first argument is the item."
    )
    items: list[int | float | str] | None = Field(None, description="The items, all of one type.")
    files: str | None = Field(
        None, description="A glob relative to the project, instead of `items`: each file's path is an item."
    )
    arguments: dict[str, Any] = Field({}, description="Further keyword arguments, the same for every item.")
    returns: Dtype | dict[str, Dtype] | None = Field(
        None,
        description="The type of what the function returns, or column: type for a dict. Default: its return annotation.",
    )
    on_error: typing.Literal["keep", "stop"] = Field(
        "keep", description="keep: the error goes beside the item. stop: it ends the run."
    )

    def bind(self, schema: Schema, problems: Problems, context: Context) -> Input | None:
        items, dtype = self._items(problems, context)
        found = problems.function(("function",), self.function, context)
        function = found[1] if found else None
        if function is not None:
            self._arguments(function, items, problems)
        result = self._result(function, problems)
        if problems.issues or result is None or dtype is None or found is None:
            return None
        out = {"item": dtype, **result, "error": pl.String()}
        single = not isinstance(self.returns, dict)
        loader = Mapped(found[0], self.arguments, out, single, self.on_error == "stop")
        size = max(1, math.ceil(len(items) / _MOST_PARTITIONS))
        partitions = tuple(tuple(items[i : i + size]) for i in range(0, len(items), size))
        return Input(out, loader, partitions, tuple(items), functions=(found[0],))

    def _items(self, problems: Problems, context: Context) -> tuple[list[Any], pl.DataType | None]:
        if (self.items is None) == (self.files is None):
            problems.add((), "give the items either as `items` or as `files`", "items: [1, 2, 3]")
            return [], None
        if self.files is not None:
            found = sorted(glob.glob(self.files, root_dir=context.root, recursive=True))
            if not found:
                problems.add(("files",), f"no file matches {self.files}", f"it is looked for in {context.root}")
            return [str(context.root / f) for f in found], pl.String()
        items = self.items or []
        if not items:
            problems.add(("items",), "there are no items", "items: [1, 2, 3]")
        kinds = {type(item) for item in items}
        if kinds <= {int}:
            if any(not -(2**63) <= item < 2**63 for item in items):  # type: ignore[operator]
                problems.add(("items",), "an item does not fit int64", "write it as text, in quotes")
            return list(items), pl.Int64()
        if kinds <= {int, float}:
            return [float(item) for item in items], pl.Float64()
        if kinds <= {str}:
            return list(items), pl.String()
        problems.add(("items",), "the items are of several types", "quote all of them, or none")
        return [], None

    def _arguments(self, function: Callable[..., Any], items: list[Any], problems: Problems) -> None:
        try:
            signature = inspect.signature(function)
        except ValueError:  # some functions written in C tell none
            return
        try:
            signature.bind(items[0] if items else None, **self.arguments)
        except TypeError as error:
            problems.add(("arguments",) if self.arguments else ("function",), f"{self.function}{signature}: {error}", "its first argument is the item, the others come from `arguments`")  # fmt: skip

    def _result(self, function: Callable[..., Any] | None, problems: Problems) -> dict[str, pl.DataType] | None:
        if self.returns is None:
            if function is None:
                return None
            try:
                annotation = typing.get_type_hints(function).get("return")
            except Exception:
                annotation = None
            if annotation in _ANNOTATIONS:
                return {"result": _ANNOTATIONS[annotation]}
            problems.add(("function",), f"the type that {self.function} returns is not known", "add `returns: float64`, or annotate it: def f(item) -> float")  # fmt: skip
            return None
        named = self.returns if isinstance(self.returns, dict) else {"result": self.returns}
        out = dict[str, pl.DataType]()
        for name, text in named.items():
            path = ("returns", name) if isinstance(self.returns, dict) else ("returns",)
            if name in ("item", "error"):
                problems.key(("returns",), name, f"{name!r} is a column already", "choose another name")
            if (dtype := parse_dtype(text)) is None:
                problems.add(path, f"unknown type {text!r}", did_you_mean(text, DTYPES))
            else:
                out[name] = dtype
        return out
