from __future__ import annotations

import inspect
import os
import sysconfig
import traceback
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import polars as pl
from pydantic import Field

from pipelines import events
from pipelines.aggregates import canonical
from pipelines.code import Function
from pipelines.errors import DataError, Issue, did_you_mean, may_pass
from pipelines.steps.base import Columns, Context, Dtype, Keyed, Operation, Problems, Step, Texts, in_order
from pipelines.types import DTYPES, Schema, as_pandas, dtype_name, parse_dtype

_GIVEN: dict[str, Callable[[pl.DataFrame], Any]] = {
    "polars.DataFrame": lambda frame: frame,
    "polars.LazyFrame": lambda frame: frame.lazy(),
    "pandas.DataFrame": as_pandas,
    "pyarrow.Table": lambda frame: frame.to_arrow(),
}


@dataclass(frozen=True)
class Call:
    """Calls the function on a table; what it returns has to have the declared columns."""

    function: Function
    gives: str
    """The kind of table the function wants: a key of `_GIVEN`."""
    arguments: Mapping[str, Any]
    input: Schema
    schema: Schema

    def __call__(self, frame: pl.DataFrame, of: str = "") -> pl.DataFrame:
        function, result, failed, passing = self.function.load(), None, "", False
        try:
            result = function(_GIVEN[self.gives](frame), **self.arguments)
        except (Exception, SystemExit) as error:
            failed = f"{type(error).__name__}: {error}".rstrip(": ").split("\n", 1)[0] + _line(error)
            passing = may_pass(error)
            events.tell_traceback(str(self.function), error)
        if failed:  # raised here: the user's error may not be picklable
            wrong = DataError(
                Issue(
                    f"{self.function} failed{of}: {failed}",
                    "mend the function, or the data before it; the traceback is in the run's log.jsonl",
                )
            )
            wrong.passing = passing
            raise wrong
        try:
            return self.fitted(_polars(result))
        except TypeError as error:
            unfit = str(error)
        raise DataError(Issue(f"{self.function}{of} returned {unfit}", "make `schema` and the function agree"))

    def fitted(self, frame: pl.DataFrame) -> pl.DataFrame:
        for name in self.schema:
            if name not in frame.columns:
                raise TypeError(f"no column {name!r}, only {', '.join(map(repr, frame.columns))}")
        for name in frame.columns:
            if name not in self.schema:
                raise TypeError(f"a column {name!r}, which is not declared")
        return frame.select(_column(frame[name], dtype) for name, dtype in self.schema.items())


def _polars(result: Any) -> pl.DataFrame:
    if isinstance(result, pl.LazyFrame):
        return result.collect(engine="in-memory")
    if isinstance(result, pl.DataFrame):
        return result
    kind: str = _kind(type(result))
    if kind == "pandas.DataFrame":
        return typing.cast(pl.DataFrame, pl.from_pandas(result))
    if kind == "pyarrow.Table":
        return typing.cast(pl.DataFrame, pl.from_arrow(result))
    raise TypeError(f"{kind}, not a table")


def _kind(cls: Any) -> str:
    return f"{str(getattr(cls, '__module__', '')).split('.')[0]}.{getattr(cls, '__name__', cls)}".removeprefix(
        "builtins."
    )


def _column(values: pl.Series, dtype: pl.DataType) -> pl.Series:
    """The same values in the declared type: what pandas makes of integers and times is taken back where it is exact."""
    given = values.dtype
    if given == dtype:
        return values
    alike = (
        given == pl.Null
        or (given.is_numeric() and dtype.is_numeric())
        or (given.is_temporal() and dtype.is_temporal())
        or (isinstance(given, pl.Categorical | pl.Enum) and dtype == pl.String)
    )
    if alike:
        try:
            fitted = values.cast(dtype, strict=True)
            if given == pl.Null or fitted.cast(given, strict=True).equals(values):
                return fitted
        except pl.exceptions.PolarsError:
            pass
    raise TypeError(f"the column {values.name!r} as {dtype_name(given)}, declared is {dtype_name(dtype)}")


def _line(error: BaseException) -> str:
    """` (module.py, line n)`: where in the user's code, which may call a library's that failed."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename != __file__]
    library = (os.path.dirname(os.__file__), sysconfig.get_path("purelib"), "<")
    own = [f for f in frames if not f.filename.startswith(library)] or frames[:1]
    return f" ({own[-1].filename.rsplit('/', 1)[-1]}, line {own[-1].lineno})" if own else ""


@dataclass(frozen=True)
class OnPartitions(Operation):
    call: Call

    @property
    def functions(self) -> tuple[Function, ...]:  # type: ignore[override]
        return (self.call.function,)

    @property
    def any_layout(self) -> bool:
        return self.placement == "gather"

    def apply(self, frame: pl.LazyFrame) -> pl.LazyFrame:
        return frame.select(list(self.call.input)).map_batches(
            self.table, schema=dict(self.schema), predicate_pushdown=False, projection_pushdown=False, slice_pushdown=False
        )  # fmt: skip

    def table(self, frame: pl.DataFrame) -> pl.DataFrame:
        return self.call(frame) if len(frame) else pl.DataFrame(schema=dict(self.schema))

    def reads(self, wanted: Columns) -> Columns:
        return frozenset(self.call.input)


@dataclass(frozen=True)
class OnWhole(OnPartitions):
    placement: ClassVar[Literal["gather"]] = "gather"


@dataclass(frozen=True)
class OnGroups(Keyed):
    call: Call
    keys: tuple[str, ...]
    met: Schema
    """The result's columns, then the keys under hidden names: the result is sorted by them."""
    hidden: tuple[str, ...] = field(default=())

    @property
    def functions(self) -> tuple[Function, ...]:  # type: ignore[override]
        return (self.call.function,)

    def apply(self, frame: pl.LazyFrame) -> pl.LazyFrame:
        return frame.select(list(self.call.input)).map_batches(
            self.groups, schema=dict(self.met), predicate_pushdown=False, projection_pushdown=False, slice_pushdown=False
        )  # fmt: skip

    def groups(self, frame: pl.DataFrame) -> pl.DataFrame:
        found = [pl.DataFrame(schema=dict(self.met))]
        marked = frame.with_columns(
            canonical(pl.col(key), frame.schema[key]).alias(name)
            for key, name in zip(self.keys, self.hidden, strict=True)
        )
        for group in marked.partition_by(self.hidden, maintain_order=True):
            values = group.select(self.hidden).head(1)
            of = " on the group " + ", ".join(f"{k} = {v!r}" for k, v in zip(self.keys, values.row(0), strict=True))
            result = self.call(group.drop(self.hidden), of)
            found.append(result.with_columns(values[name].new_from_index(0, len(result)) for name in self.hidden))
        return pl.concat(found)

    @property
    def sorted(self) -> tuple[str, ...]:
        return self.hidden

    def reads(self, wanted: Columns) -> Columns:
        return frozenset(self.call.input)


class Python(Step):
    """Call a Python function on each partition, or with `by` on each whole group of rows; what it returns is the table.

    The function gets a table and returns one. Its first parameter's annotation says of which library: `polars.DataFrame`,
    `polars.LazyFrame`, `pandas.DataFrame` (Arrow dtypes) or `pyarrow.Table`. Its result has the columns that `schema` declares.
    Without `by` the answer must not depend on which rows are together: how a table is cut into partitions may change.
    Groups come in the order of their keys. The function is not called for tables without rows.
    """

    kind = "python"
    example: ClassVar[str] = "python: {function: examples.tables:returns, by: Symbol, like: input}"

    function: str = Field(
        pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$", description="`module:function`; its first argument is the table."
    )
    by: Texts | None = Field(
        None, description="The key columns: one call for each group. []: one call on the whole table."
    )
    arguments: dict[str, Any] = Field({}, description="Further keyword arguments.")
    columns: dict[str, Dtype] | None = Field(None, alias="schema", description="Column: type of what it returns.")
    like: Literal["input"] | None = Field(None, description="Instead of `schema`: input = columns and types as given.")

    def bind(self, schema: Schema, problems: Problems, context: Context) -> Operation | None:
        problems.keys("by", self.by or (), schema)
        if (self.columns is None) == (self.like is None):
            remedy = "add `schema: {column: type}`, or `like: input`"
            problems.add((), "say what the function returns: either `schema` or `like`", remedy)
        out = dict[str, pl.DataType](schema if self.like else {})
        for name, text in (self.columns or {}).items():
            if (dtype := parse_dtype(text)) is None:
                problems.add(("schema", name), f"unknown type {text!r}", did_you_mean(text, DTYPES))
            else:
                out[name] = dtype
        if self.columns == {}:
            problems.add(("schema",), "`schema` names no column", "schema: {column: type}")
        found = problems.function(("function",), self.function, context)
        gives = self._gives(found[1], problems) if found else ""
        if problems.issues or found is None:
            return None
        call = Call(found[0], gives, self.arguments, schema, out)
        if self.by is None:
            return OnPartitions(out, call)
        if not self.by:
            return OnWhole(out, call)
        mark = max((*schema, *out), key=len) + "~"  # no column starts with this name
        hidden = {f"{mark}{i}": schema[name] for i, name in enumerate(self.by)}
        return OnGroups(out, call, tuple(self.by), {**out, **hidden}, tuple(hidden))

    def _gives(self, function: Callable[..., Any], problems: Problems) -> str:
        signature = inspect.signature(function)
        try:
            signature.bind(None, **self.arguments)
        except TypeError as error:
            remedy = "its first argument is the table, the others come from `arguments`"
            problems.add(
                ("arguments",) if self.arguments else ("function",), f"{self.function}{signature}: {error}", remedy
            )
            return ""
        first = next(iter(signature.parameters.values()))
        try:
            annotation = typing.get_type_hints(function).get(first.name)
        except Exception:  # an annotation of what is not imported
            annotation = None
        kind = _kind(annotation)
        if kind in _GIVEN:
            return kind
        remedy = f"annotate it: def {self.function.split(':')[1]}({first.name}: pl.DataFrame, ...), one of {', '.join(_GIVEN)}"
        problems.add(("function",), f"the kind of table that {self.function} takes is not known", remedy)
        return ""

    def identity(self) -> Mapping[str, Any]:
        given = in_order(self.arguments)  # the function may look at their order
        return {**self.model_dump(mode="json"), "columns": list((self.columns or {}).items()), "arguments": given}
