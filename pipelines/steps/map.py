from __future__ import annotations

import contextlib
import datetime
import inspect
import math
import numbers
import os
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import polars as pl
from pydantic import Field

from pipelines import events
from pipelines.code import Function
from pipelines.errors import DataError, Issue, PipelineError, did_you_mean, may_pass, redacted, stopped
from pipelines.scan import Drawn, FileInfo, facts, globbed, linked
from pipelines.steps.base import Context, Dtype, Input, Problems, Step, in_order
from pipelines.types import DTYPES, Schema, dtype_name, parse_dtype

_MOST_PARTITIONS = 256  # more than a machine's threads; a task more costs a cluster a millisecond
_LEAST, _MOST = -(2**63), 2**63 - 1
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
    retries: int = 0
    files: bool = False
    """Whether an item is (path of a file, time of its last change)."""

    def scan(self, partition: Sequence[Any], columns: Sequence[str]) -> pl.LazyFrame:
        function = self.function.load()
        names = [name for name in self.schema if name not in ("item", "error")]
        data: dict[str, list[Any]] = {name: [] for name in self.schema}
        for given in partition:
            item = given[0] if self.files else given
            self.unchanged(given)
            values, error = dict[str, Any](), None
            for tries in range(self.retries + 1):
                try:
                    values, error = self.columns(function(item, **self.arguments), names), None
                    break
                except KeyboardInterrupt as problem:
                    raise stopped(problem) from None
                except BaseException as problem:  # a panic, a sys.exit(): uncaught, they end a worker
                    error = _told(problem)
                    if not any(data["error"]):  # of a partition's items that fail the first
                        events.tell_traceback(str(self.function), problem)
                    if not may_pass(problem):
                        break
                if tries < self.retries:
                    events.tell("retry", stage=str(self.function), error=f"{redacted(repr(item)):.60}: {error}")
                    events.back_off(tries)
            self.unchanged(given)  # else what is kept of it would be taken for that of the file as it was
            if error is not None and self.stop:  # outside `except`: the problem itself need not be fit to travel
                raise DataError(Issue(f"{self.function} failed on the item {item!r}: {error}", "mend it, or drop `on_error: stop`"))  # fmt: skip
            data["item"].append(item)
            data["error"].append(error and redacted(error))
            for name in names:
                data[name].append(values.get(name))
        if failed := [i for i, error in enumerate(data["error"]) if error is not None]:
            first = f"{redacted(repr(data['item'][failed[0]])):.60}: {data['error'][failed[0]]}"
            events.tell("failed", function=str(self.function), count=len(failed), first=first)
        return pl.LazyFrame(data, schema=dict(self.schema)).select(columns)

    def unchanged(self, given: Any) -> None:
        """Raises DataError where the item is a file that is not the planned one any more."""
        if self.files:
            path, mtime_ns = given
            with contextlib.suppress(OSError):  # where there is no such file, the function says it
                if os.stat(path).st_mtime_ns != mtime_ns:
                    raise DataError(Issue(f"{path} has changed since the plan was made", "run again"))

    def sample(self, partitions: Sequence[Sequence[Any]]) -> Drawn:
        return Drawn(sum(map(len, partitions)), "declared", exact=True)  # rows would be calls of the function

    def columns(self, result: Any, names: Sequence[str]) -> dict[str, Any]:
        """What the function returned, column by column. Raises TypeError where it does not fit `returns`."""
        if self.single:
            return {names[0]: _fitted(names[0], result, self.schema[names[0]])}
        if not isinstance(result, Mapping):
            raise TypeError(f"returned {redacted(repr(result)):.60}, not a dict of {', '.join(names)}")
        if strange := result.keys() - set(names):
            raise TypeError(f"returned {', '.join(sorted(map(repr, strange)))}, which `returns` does not name")
        if missing := [name for name in names if name not in result]:
            raise TypeError(f"returned no {', '.join(map(repr, missing))}: return None for NULL")
        return {name: _fitted(name, result[name], self.schema[name]) for name in names}

    @property
    def waits(self) -> bool:
        return False

    def prefetch(self, partition: Any) -> None:
        return None

    def rejecting(self, folder: str) -> Mapped:
        return self

    def diagnose(self, partition: Any, columns: Sequence[str], error: Exception) -> PipelineError | None:
        return None


def _told(problem: BaseException) -> str:
    """The problem's class and the first line of what it says."""
    try:
        said = redacted(str(problem).strip())
    except Exception:
        said = ""
    return f"{type(problem).__name__}: {said.splitlines()[0]}" if said else type(problem).__name__


def _fitted(name: str, value: Any, dtype: pl.DataType) -> Any:
    """The value as Polars keeps it. Raises TypeError when it is of another type or does not fit."""
    plain = _plain(value)
    try:
        if dtype.is_temporal() and isinstance(plain, numbers.Number | str):
            raise TypeError  # Polars would count days or microseconds, or parse
        series = pl.Series([plain], dtype=dtype, strict=True)
        if series.dtype != dtype:
            raise TypeError  # a datetime for a date stays one
        return series[0]
    except Exception:
        raise TypeError(f"{name} is {redacted(repr(value)):.60}, which is not {dtype_name(dtype)}") from None


def _plain(value: Any) -> Any:
    """A NumPy date or duration as Python's own; other NumPy scalars Polars takes as they are."""
    if (name := type(value).__name__) in ("datetime64", "timedelta64"):
        return (value if value.dtype.name.endswith("[D]") else value.astype(f"{name}[us]")).item()
    return value


class Map(Step):
    """Call a Python function once for each item of a list or of a range, or for each file of a glob; the results are a table, in the items' order.

    Columns: `item`, then what the function returns, then `error`: NULL, or what went wrong with that item: an exception, a
    `sys.exit()`, or a result that is not what `returns` says. The function is named `module:function`; the module is found beside the config or in the project's folder.

    What it returns is one value, in a column `result` whose type is the function's annotation (`bool`, `int`, `float`, `str`, `bytes`,
    `datetime.date`, `datetime.datetime`, `datetime.timedelta`, or one of them `| None`) or `returns: int64`; or it is a dict, with
    `returns: {column: type, ...}`. None is NULL. NumPy scalars count as Python's. Values are never converted: 1.0 is not an int64.

    Up to 256 items are a task each, more are cut into at most 256 tasks: as many calls are at work at once as the executor has
    threads, whatever they wait for. Functions that compute in Python hold Python's lock and need processes: `local` uses them by itself.
    """

    kind = "map"
    role = "source"
    example: ClassVar[str] = 'map: {function: "math:isqrt", items: [10, 12, -14], returns: int64}'

    function: str = Field(
        pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$", description="`module:function`; its first argument is the item."
    )
    items: list[int | float | str] | None = Field(None, description="The items, all of one type.")
    range: list[int] | None = Field(
        None,
        min_length=2,
        max_length=2,
        description="[first, last], instead of `items`: the whole numbers from first to last, both included.",
    )
    files: str | None = Field(
        None, description="A glob relative to the project, instead of `items`: each file's absolute path is an item."
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
        items, dtype, files = self._items(problems, context)
        found = problems.function(("function",), self.function, context)
        function = found[1] if found else None
        if function is not None:
            self._arguments(function, items, problems)
        result = self._result(function, problems)
        if problems.issues or result is None or dtype is None or found is None:
            return None
        out = {"item": dtype, **result, "error": pl.String()}
        single = not isinstance(self.returns, dict)
        loader = Mapped(found[0], self.arguments, out, single, self.on_error == "stop", context.retries, bool(files))
        size = max(1, math.ceil(len(items) / _MOST_PARTITIONS))
        real = linked((file.path for file in files), context.root)
        parts = [slice(i, i + size) for i in range(0, len(items), size)]
        # a range says what it is without its numbers
        facts = tuple(
            [(file.path, file.size, file.mtime_ns, *real[file.path]) for file in files[part]]
            if files
            else [repr(items[part])]
            for part in parts
        )
        partitions = tuple(
            tuple((file.path, file.mtime_ns) for file in files[part]) if files else items[part] for part in parts
        )
        return Input(out, loader, partitions, facts, files, functions=(found[0],))

    def identity(self) -> Mapping[str, Any]:
        given = self.model_dump(mode="json", exclude={"items", "range", "files"})
        given["arguments"] = in_order(self.arguments)  # the function may look at their order
        return {**given, "returns": list(self.returns.items()) if isinstance(self.returns, dict) else self.returns}

    def patterns(self) -> Sequence[str]:
        return [self.files] if self.files is not None else []

    def matching(self, root: Path, pattern: str) -> Sequence[str]:
        return [str(Path(path)) for path in sorted(globbed(pattern, root))]

    def _items(
        self, problems: Problems, context: Context
    ) -> tuple[Sequence[Any], pl.DataType | None, tuple[FileInfo, ...]]:
        """The items, their type, and the files that they are."""
        if sum(given is not None for given in (self.items, self.range, self.files)) != 1:
            problems.add((), "give the items as one of `items`, `range` and `files`", "items: [1, 2, 3]")
        elif self.files is not None:
            try:
                if paths := self.matching(context.root, self.files):
                    return tuple(paths), pl.String(), tuple(facts(path, context.root) for path in paths)
                problems.add(("files",), f"no file matches {self.files}", f"it is looked for in {context.root}")
            except PipelineError as error:
                for issue in error.issues:
                    problems.add(("files",), issue.message, issue.remedy)
                problems.exit_code = max(problems.exit_code, error.exit_code)
        elif self.range is not None:
            first, last = self.range
            if last < first:
                problems.add(("range",), f"the range ends at {last}, before it starts", "range: [first, last]")
            elif first < _LEAST or last > _MOST:
                problems.add(("range",), "an item does not fit int64", "list them as texts: items: ['...']")
            else:
                numbers = range(first, last + 1)
                return numbers, pl.Int64(), ()
        elif not self.items:
            problems.add(("items",), "there are no items", "items: [1, 2, 3]")
        elif (kinds := {type(item) for item in self.items}) <= {int, float}:
            numbers_given = [item for item in self.items if isinstance(item, int | float)]
            wanted, dtype = ("int64", pl.Int64()) if kinds == {int} else ("float64", pl.Float64())
            for i, item in enumerate(numbers_given):
                if isinstance(item, int) and not (
                    _LEAST <= item <= _MOST and (wanted == "int64" or float(item) == item)
                ):
                    problems.add(("items", i), f"{item!s:.30} does not fit {wanted}", "quote all items: they become texts")  # fmt: skip
                    return (), None, ()
            items = tuple(numbers_given) if wanted == "int64" else tuple(map(float, numbers_given))
            return items, dtype, ()
        elif kinds == {str}:
            return tuple(self.items), pl.String(), ()
        else:
            problems.add(("items",), "the items are of several types", "quote all of them, or none")
        return (), None, ()

    def _arguments(self, function: Callable[..., Any], items: Sequence[Any], problems: Problems) -> None:
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
            if isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is typing.Union:
                given = [each for each in typing.get_args(annotation) if each is not type(None)]
                annotation = given[0] if len(given) == 1 else None  # `int | None`: NULLs are in every column
            if annotation in _ANNOTATIONS:
                return {"result": _ANNOTATIONS[annotation]}
            problems.add(("function",), f"the type that {self.function} returns is not known", "add `returns: float64`, or annotate it: def f(item) -> float")  # fmt: skip
            return None
        if not self.returns:
            problems.add(("returns",), "`returns` names no column", "returns: {value: int64}")
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
