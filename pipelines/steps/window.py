from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import polars as pl
from pydantic import ConfigDict, Field

from pipelines.aggregates import FUNCTIONS
from pipelines.expressions import Constant, ExpressionError, Frame, Typed, parse, shift, unify
from pipelines.expressions.functions import WINDOWS
from pipelines.order import Order
from pipelines.steps.base import Columns, Context, Keyed, Problems, Sql, Step, Texts
from pipelines.types import Schema, dtype_name
from pipelines.windows import RANKING, Call
from pipelines.windows import Frame as Rows


@dataclass(frozen=True)
class Windows:
    """What to compute from a struct of columns: a struct of results, row by row."""

    keys: tuple[str, ...]
    order: Order
    calls: tuple[Call, ...]

    @property
    def dtype(self) -> pl.Struct:
        return pl.Struct({call.name: call.result for call in self.calls})

    def __call__(self, columns: pl.Series) -> pl.Series:
        table = columns.struct.unnest()
        if not len(table):
            return pl.Series(columns.name, [], dtype=self.dtype)
        from pipelines.window_kernels import Rows

        rows = Rows(table, self.keys, self.order)
        return pl.DataFrame([rows.computed(call) for call in self.calls]).to_struct(columns.name)


@dataclass(frozen=True)
class Argument:
    """What window functions are computed from."""

    name: str
    expr: pl.Expr


@dataclass(frozen=True)
class Output:
    """A new column, the input's columns that it needs, and the window functions whose results it reads."""

    name: str
    expr: pl.Expr
    columns: Columns
    calls: frozenset[Call]


@dataclass(frozen=True)
class Windowed(Keyed):
    schema: Schema
    windows: Windows
    arguments: tuple[Argument, ...]
    outputs: tuple[Output, ...]
    mark: str
    """The column of the functions' results, while the step runs."""
    any_column: str
    """For row_number() and its like, which need rows, whatever is in them."""

    keeps_rows = True

    @property
    def keys(self) -> tuple[str, ...]:  # type: ignore[override]
        return self.windows.keys

    def apply(self, frame: pl.LazyFrame) -> pl.LazyFrame:
        outputs = [output.expr.alias(output.name) for output in self.outputs]
        if not self.windows.calls:
            return frame.with_columns(outputs)
        of = [
            *dict.fromkeys((*self.windows.keys, *self.windows.order.by)),
            *(a.expr.alias(a.name) for a in self.arguments),
        ]
        # one struct of all that is needed: the other columns stay where they are
        results = (
            pl.struct(of or [self.any_column])
            .map_batches(self.windows, return_dtype=self.windows.dtype)
            .alias(self.mark)
        )
        return frame.with_columns(results).with_columns(outputs).drop(self.mark)

    def tests_early(self, columns: Columns) -> tuple[int, ...]:
        exact = {key for key in self.windows.keys if not self.schema[key].is_float()}  # 0.0 and -0.0 are one key
        return (0,) if columns <= exact else ()

    def reads(self, wanted: Columns) -> Columns:
        needed = frozenset((*self.windows.keys, *self.windows.order.by))
        needed |= wanted - {output.name for output in self.outputs}
        return needed.union(*(output.columns for output in self.outputs if output.name in wanted))

    def prune(self, wanted: Columns) -> Windowed:
        outputs = tuple(output for output in self.outputs if output.name in wanted)
        read = frozenset[Call]().union(*(output.calls for output in outputs))
        calls = tuple(call for call in self.windows.calls if call in read)
        used = {name for call in calls for name in (call.of, call.frame.low)}
        arguments = tuple(argument for argument in self.arguments if argument.name in used)
        schema = {name: dtype for name, dtype in self.schema.items() if name in wanted}
        windows = replace(self.windows, calls=calls)
        return replace(self, schema=schema, windows=windows, arguments=arguments, outputs=outputs)


@dataclass(frozen=True)
class WindowedWhole(Windowed):
    """Without keys all rows have to be in one place."""

    placement = "gather"


class _Calls:
    """Collects the window functions of a step's expressions, each once."""

    def __init__(self, schema: Schema, order: Order, keys: Sequence[str], mark: str) -> None:
        self.schema, self.order, self.mark = schema, order, mark
        self.arguments, self.calls = dict[bytes, Argument](), dict[tuple[Any, ...], Call]()
        self.used, self.columns = set[Call](), set[str]()
        # a struct needs a column, and a constant a table's length
        self.any_column = next(iter([*keys, *order.by, *schema]), "")

    def taken(self) -> tuple[frozenset[Call], Columns]:
        """What was used since the last time."""
        used, columns = frozenset(self.used), frozenset(self.columns)
        self.used.clear()
        self.columns.clear()
        return used, columns

    def argument(self, expr: pl.Expr) -> str:
        if not expr.meta.root_names():
            every = pl.col(self.any_column).is_null()
            expr = pl.when(every).then(expr).otherwise(expr)
            self.columns.add(self.any_column)
        known = self.arguments.setdefault(expr.meta.serialize(), Argument(f"{self.mark}{len(self.arguments)}", expr))
        return known.name

    def __call__(self, function: str, given: Sequence[Typed], where: pl.Expr | None, frame: Frame | None) -> Typed:
        if function in WINDOWS and where is not None:
            raise ExpressionError(f"{function} takes no FILTER", "write CASE WHEN")
        if frame is not None and (function in RANKING or function in ("lag", "lead")):
            raise ExpressionError(f"{function} looks at the whole partition: OVER has no meaning", "leave OVER out")
        if function in RANKING:
            return self.ranking(function, given)
        if function in ("lag", "lead"):
            return self.shifted(function, given)
        if function == "count" and not given:
            if where is None:
                return self.call(function, None, frame)
            return self.call(function, Typed(pl.when(where).then(1), pl.Int32()), frame)
        if len(given) != 1:
            raise ExpressionError(f"{function} takes one argument, not {len(given)}", f"write {function}(x)")
        [of] = given
        if where is not None:
            if function in ("first", "last"):
                raise ExpressionError(f"{function} takes no FILTER in a window", "filter in a step above")
            of = Typed(pl.when(where).then(of.expr), of.dtype)
        if function in ("first", "last", "first_value", "last_value"):
            return self.call(f"{function.removesuffix('_value')}_value", of, frame)
        if function not in ("sum", "avg", "min", "max", "count", "std", "var"):
            raise ExpressionError(f"{function} is not possible in a window", "aggregate by the key, and join")
        known = FUNCTIONS[function]
        result = known.result(of.dtype)
        if result is None:
            raise ExpressionError(f"{function} does not take {dtype_name(of.dtype)}", f"it takes {known.takes}")
        found = self.call(function, of, frame)
        return Typed(found.expr.cast(result) if found.dtype != result else found.expr, result)

    def ranking(self, function: str, given: Sequence[Typed]) -> Typed:
        if len(given) != (function == "ntile"):
            wants = "a literal number of parts" if function == "ntile" else "no argument"
            raise ExpressionError(f"{function} takes {wants}", f"write {function}({4 if function == 'ntile' else ''})")
        parts = _whole(function, given[0]) if given else 1
        if parts < 1:
            raise ExpressionError("ntile takes at least one part", "write ntile(4)")
        return self.call(function, None, None, parts)

    def shifted(self, function: str, given: Sequence[Typed]) -> Typed:
        if not 1 <= len(given) <= 3:
            raise ExpressionError(f"{function} takes one to three arguments", f"write {function}(x, 1, 0)")
        offset = (_whole(function, given[1]) if len(given) > 1 else 1) * (1 if function == "lag" else -1)
        found = self.call("lag", given[0], None, offset)
        if len(given) < 3:
            return found
        (value, default), common = unify([found, given[2]], "combine")
        there = self.call("there", None, None, offset).expr
        return Typed(pl.when(there).then(value.expr.cast(common)).otherwise(default.expr.cast(common)), common)

    def call(self, function: str, of: Typed | None, frame: Frame | None, offset: int = 1) -> Typed:
        rows, argument = self.frame(frame), None if of is None else self.argument(of.expr)
        if of is None:
            self.columns.add(self.any_column)
        dtype = pl.Null() if of is None else of.dtype
        call = Call(function, argument, dtype, f"{self.mark}{len(self.calls)}", rows, offset)
        call = self.calls.setdefault((function, argument, rows, offset), call)
        self.used.add(call)
        return Typed(pl.col(self.mark).struct.field(call.name), call.result)

    def frame(self, frame: Frame | None) -> Rows:
        if frame is None:
            return Rows("range", None, 0 if self.order.by else None)
        if not isinstance(frame.low, tuple):
            if frame.unit == "range" and not self.order.by:
                raise ExpressionError("a frame of RANGE needs an order", "name a column under `order_by`, or use ROWS")
            return Rows(frame.unit, frame.low, frame.high)
        if len(self.order.by) != 1:
            raise ExpressionError(
                "a frame with an INTERVAL needs one column of dates under `order_by`", "name one, or use ROWS"
            )
        [name], [down] = self.order.by, self.order.descending
        bound = shift("+" if down else "-", Typed(pl.col(name), self.schema[name]), *frame.low)
        return Rows("range", self.argument(bound.expr), frame.high)


def _whole(function: str, given: Typed) -> int:
    if isinstance(given, Constant) and isinstance(given.value, int):
        return given.value
    raise ExpressionError(f"{function} takes a literal whole number there", f"write {function}(x, 2)")


class Window(Step):
    """Add columns computed from other rows: `name: expression` over window functions and aggregates, as SQL's OVER.

    Rows that are equal in all columns of `partition_by` are seen together, in the order of `order_by`: NULL last, rows that are
    equal in it in the table's order. The table's own order does not change.

    `row_number()`, `rank()`, `dense_rank()`, `percent_rank()`, `cume_dist()`, `ntile(n)`, `lag(x, n, default)` and `lead` look at
    the whole partition. `sum avg min max count std var first_value last_value` look at a frame: without `order_by` the whole
    partition, with it all rows up to this one and those equal to it in the order, or what OVER says: `OVER (ROWS 19 PRECEDING)`,
    `OVER (RANGE BETWEEN INTERVAL 7 DAYS PRECEDING AND CURRENT ROW)`, `OVER (ROWS BETWEEN 3 PRECEDING AND 3 FOLLOWING)`.
    """

    kind = "window"
    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Sql]
    example: ClassVar[str] = (
        "window: {partition_by: Symbol, order_by: Date, change: Close / lag(Close) - 1, ma20: avg(Close) OVER (ROWS 19 PRECEDING)}"
    )

    partition_by: Texts = Field(
        [],
        description="Columns whose equal values make a partition; NULL is a value. Without any, the whole table is one.",
    )
    order_by: Texts = Field([], description="The order in a partition, the most important column first.")
    descending: Texts = Field([], description="Those of `order_by` in which large values come first.")

    def bind(self, schema: Schema, problems: Problems, context: Context) -> Windowed | None:
        problems.keys("partition_by", self.partition_by, schema)
        problems.order(self.order_by, self.descending, schema)
        if not self.__pydantic_extra__:
            problems.add((), "window names no column", "write `window: {partition_by: [key], n: row_number()}`")
        if problems.issues:
            return None
        order = Order(tuple(self.order_by), tuple(name in self.descending for name in self.order_by))
        mark = max((*schema, *self.__pydantic_extra__), key=len) + "~window"  # no column has this name
        calls = _Calls(schema, order, self.partition_by, mark)
        outputs, out = list[Output](), dict(schema)
        for name, text in self.__pydantic_extra__.items():
            if name in self.partition_by:
                problems.key((), name, f"{name!r} is a key already", "choose another name")
            problems.new_column((), name)
            if problems.misspelt(self, name, text):
                continue
            if found := problems.expression((name,), text, schema, on_window=calls):
                if (of := parse(text).column) is not None:  # one of another name is most likely an option
                    what = f"the new column {name!r} is {of!r} of the same row"
                    problems.key((), name, what, f"options: {', '.join(Window.model_fields)}; `derive` copies columns")
                used, columns = calls.taken()
                outputs.append(Output(name, found[0].expr, found[1] | columns, used))
                out[name] = found[0].dtype
        if problems.issues:
            return None
        windows = Windows(tuple(self.partition_by), order, tuple(calls.calls.values()))
        made = Windowed if self.partition_by else WindowedWhole
        return made(out, windows, tuple(calls.arguments.values()), tuple(outputs), mark, calls.any_column)

    def identity(self) -> Mapping[str, Any]:
        options = {"partition_by": self.partition_by, "order_by": self.order_by, "descending": sorted(self.descending)}
        return {**options, "outputs": list(self.__pydantic_extra__.items())}
