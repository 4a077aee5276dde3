"""What a step is: options, documentation, an example, and, bound to the types of its input, a meaning."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Protocol

import polars as pl
from pydantic import BaseModel, BeforeValidator, ConfigDict, WithJsonSchema

from pipelines.code import Function, FunctionError, find
from pipelines.errors import Issue, PipelineError, did_you_mean, nearest
from pipelines.order import Order
from pipelines.packing import Packing
from pipelines.scan import Drawn, FileInfo
from pipelines.source import Node
from pipelines.types import NAMED, Schema, dtype_name, is_pattern
from pipelines.values import Kind, Value
from pipelines.work import Output, Work

if TYPE_CHECKING:
    from pipelines import expressions

Apply = Callable[[pl.LazyFrame], pl.LazyFrame]
Columns = frozenset[str]
Placement = Literal["anywhere", "reduce", "by_key", "sorted", "gather"]


@dataclass(frozen=True)
class Operation:
    """A step's meaning for an input of known types; picklable, it travels to workers.

    anywhere: `apply` works on any rows by themselves.
    reduce:   `partial` in every partition, `combine` over concatenated results (any number of times), `apply` on what is left
              = the step on all rows.
    by_key:   `apply` on partitions in which equal `keys` are together; see Keyed, and Joining of two tables.
    sorted:   `apply` on each of the partitions that hold the rows in order, cut anywhere; see Sorting.
    gather:   `apply` on all rows in order.
    """

    schema: Schema
    placement: ClassVar[Placement] = "anywhere"
    functions: ClassVar[tuple[Function, ...]] = ()
    """Of the user's, that it calls."""
    each: ClassVar[bool] = False
    """Whether every row of the input becomes one row, in its place."""

    @property
    def any_layout(self) -> bool:
        """Whether the answer has the same bytes for any partitions."""
        return True

    def apply(self, frame: pl.LazyFrame) -> pl.LazyFrame:
        raise NotImplementedError

    def reads(self, wanted: Columns) -> Columns:
        """The input's columns that the output's columns `wanted` need."""
        raise NotImplementedError

    def passes(self, columns: Columns) -> bool:
        """Whether these columns, and all that the operation does not know, come out of `apply` as they went in."""
        return False

    def tests_early(self, columns: Columns) -> tuple[int, ...]:
        """Of which inputs rows may be left out before that would be left out after, by a test of these columns (of the result
        and, with the same types, of those inputs). The planner asks where the columns are there."""
        return ()

    def sees_order(self, wanted: bool) -> bool:
        """Whether the answer depends on the order of the input's rows, when the order of its own is `wanted` or not."""
        return wanted if self.placement == "anywhere" and not self.functions else True

    def prune(self, wanted: Columns) -> Operation:
        """The same operation for an input that has only the columns `reads(wanted)`."""
        return self

    def whole(self, frame: pl.LazyFrame) -> pl.LazyFrame:
        """The step on all rows at once: what every way of running it must equal."""
        return self.apply(frame)


class Reduction(Operation):
    """An operation that works from states."""

    placement: ClassVar[Placement] = "reduce"
    state: Schema
    """Columns and types of `partial`'s result."""

    @property
    def groups(self) -> tuple[str, ...]:
        """Columns of the state and of the result: states in which they are equal suffice for the rows in which they are.

        The result is sorted by them. Without any, all states have to meet.
        """
        return ()

    @property
    def parted(self) -> tuple[str, ...]:
        """Columns of the input: of rows in which they are equal the state has one row. More than `groups`, perhaps."""
        return self.groups

    @property
    def any_order(self) -> bool:
        """Whether the step's answer is the same for any order of rows and of states."""
        return False

    @property
    def packs(self) -> Schema:
        """The key columns, where `packed` can group by them as one."""
        return {}

    def packed(self, packing: Packing) -> Reduction:
        """The same for tables with the columns that the packing needs."""
        raise NotImplementedError

    def partial(self, frame: pl.LazyFrame) -> pl.LazyFrame:
        raise NotImplementedError

    @property
    def ways(self) -> tuple[Apply, ...]:
        """`partial`, and slower ways to the same state, each for more kinds of values than the one before."""
        return (self.partial,)

    def fails(self, state: pl.DataFrame) -> bool:
        """Whether there were values that the way to this state is not for."""
        return False

    def combine(self, frame: pl.LazyFrame) -> pl.LazyFrame:
        raise NotImplementedError

    @property
    def order(self) -> Order:
        """That of the result: by `groups`, and perhaps by more."""
        return Order(self.groups)

    def finish(self, frame: pl.LazyFrame) -> pl.LazyFrame:
        """The answers from states that meet no others, in any order."""
        raise NotImplementedError

    def apply(self, frame: pl.LazyFrame) -> pl.LazyFrame:
        done = self.finish(self.combine(frame))
        return self.order(done) if self.groups else done

    def whole(self, frame: pl.LazyFrame) -> pl.LazyFrame:
        return self.apply(self.partial(frame))


class Keyed(Operation):
    """An operation that wants equal keys together, their rows in the table's order.

    Rows kept: `apply` gives rows of its input (all or some, each at most once), in their order, and leaves columns that it
    does not know as they are; by such a column the planner puts the rows back into the table's order.
    Else: the result is `sorted`.
    """

    placement: ClassVar[Placement] = "by_key"
    keeps_rows: ClassVar[bool] = False
    keys: tuple[str, ...]
    met: Schema | None = None
    """Columns and types between `apply` and the end; None: those of the result."""

    @property
    def sorted(self) -> tuple[str, ...]:
        """The columns of `met` by which the result is sorted (NULL last, stable); of no meaning where rows are kept."""
        return self.keys

    def shrink(self, frame: pl.LazyFrame) -> pl.LazyFrame:
        """Leaves out what `apply` would not miss, before rows travel; works on any rows by themselves."""
        return frame

    def whole(self, frame: pl.LazyFrame) -> pl.LazyFrame:
        done = self.apply(frame)
        if self.keeps_rows:
            return done.select(list(self.schema))
        return done.sort(self.sorted, nulls_last=True, maintain_order=True).select(list(self.schema))


class Sorting(Operation):
    """An operation that puts rows in order."""

    placement: ClassVar[Placement] = "sorted"
    order: Order

    def apply(self, frame: pl.LazyFrame) -> pl.LazyFrame:
        return self.order(frame)

    def tests_early(self, columns: Columns) -> tuple[int, ...]:
        return (0,)


class Joining(Operation):
    """An operation on two tables that wants rows with equal keys together. Its rows are in the order of the `main` one's."""

    placement: ClassVar[Placement] = "by_key"
    main: int
    """Which input's rows set the order."""
    once: ClassVar[bool] = False
    """Whether each of the main table's rows comes out once, whatever it meets."""
    on: tuple[tuple[str, ...], tuple[str, ...]]
    """The keys of each input."""
    types: tuple[pl.DataType, ...]
    """What the keys of both are compared as."""
    divisible: bool
    """Whether the rows of one key of the main table may be joined in parts, each with all of the other's."""
    both: bool
    """Whether rows of the other table that meet none come out too, after all others, in their order."""
    broadcast: bool | None
    """Whether every partition of the main table gets the whole of the other one. None: where that is small."""

    unique: tuple[bool, bool]
    """Whether a key may be in the left, in the right table once only; that can be seen where all rows of a key are together."""

    def join(self, left: pl.LazyFrame, right: pl.LazyFrame, ordered: bool = True) -> pl.LazyFrame:
        """Rows in the order of the main table's, for each in the order of the other's, unless not `ordered`. The tables have the
        columns that `reads_of` says, and perhaps numbers of rows, which are left as they are; any other might have a name that
        it gives."""
        raise NotImplementedError

    def reads_of(self, index: int, wanted: Columns) -> Columns:
        raise NotImplementedError

    @property
    def brings(self) -> tuple[tuple[str, str], ...]:
        """Columns of the table that is not the main one, which come out as they are, beside those that the join does not know:
        (name there, name in the result)."""
        return ()

    def sees_order(self, wanted: bool) -> bool:
        return wanted

    def together(self, frames: Sequence[pl.LazyFrame]) -> pl.LazyFrame:
        wanted = frozenset(self.schema)
        left, right = (frame.select(sorted(self.reads_of(i, wanted))) for i, frame in enumerate(frames))
        return self.join(left, right).select(list(self.schema))


class Appending(Operation):
    """An operation on several inputs whose rows follow one another; `part` of each works on any rows by themselves."""

    def part(self, index: int) -> Apply:
        """What is done to the input of that index."""
        raise NotImplementedError

    def reads_of(self, index: int, wanted: Columns) -> Columns:
        raise NotImplementedError

    def together(self, frames: Sequence[pl.LazyFrame]) -> pl.LazyFrame:
        """The step on all rows at once."""
        return pl.concat([self.part(i)(frame) for i, frame in enumerate(frames)])


class Loader(Protocol):
    """Makes a source's partitions into rows, inside a task; picklable."""

    def sample(self, partitions: Sequence[Any]) -> Drawn:
        """Some rows of the table that these partitions are, and how many it has: the same for the same data, however it is cut.

        Raises what reading raises: the caller does without.
        """

    def scan(self, partition: Any, columns: Sequence[str]) -> pl.LazyFrame:
        """The partition's rows, these columns in this order."""

    @property
    def waits(self) -> bool:
        """Whether `scan` may wait for the disk, so that a `prefetch` is of use."""

    def prefetch(self, partition: Any) -> None:
        """Has the system read into its cache what `scan` will wait for, and does not wait."""

    def rejecting(self, folder: str) -> Loader:
        """The same loader, which notes rows that it leaves out in files in this folder: where (`file`, `row`) and, when they
        are to be kept, `reason` and `text`."""

    def diagnose(self, partition: Any, columns: Sequence[str], error: Exception) -> PipelineError | None:
        """What in the data made the query fail, with file, row and column where they can be found."""


@dataclass(frozen=True)
class Input:
    """What a source step is bound to: types, partitions in order, and what makes them the same again."""

    schema: Schema
    loader: Loader
    partitions: tuple[Any, ...]
    facts: tuple[Any, ...]
    """Of each partition what makes its rows the same again, in plain values."""
    files: tuple[FileInfo, ...] = ()
    """What is read."""
    bytes: int = 0
    sampled: Mapping[str, pl.DataType] = field(default_factory=dict)
    """Columns whose types were not declared but found in samples."""
    notes: tuple[str, ...] = ()
    functions: tuple[Function, ...] = ()
    """Of the user's, that the loader calls."""
    rows: tuple[int, ...] | None = None
    """Of each partition, where that is known before it is read."""


_NAMES = re.compile(r"\s*{0}(\s*,\s*{0})*\s*".format(r'([^\W\d]\w*|"[^"]+")(\s+(asc|desc))?'), re.IGNORECASE)
"""Names of columns, as options have them."""


class Problems:
    """Collects a step's issues, each at the place of the option that it is about."""

    def __init__(self, node: Node, guessed: Columns = frozenset()) -> None:
        self.node, self.issues = node, list[Issue]()
        self.guessed = guessed
        """Columns of the input that samples, not the config, made texts."""
        self.exit_code = 2

    def add(self, path: tuple[str | int, ...], message: str, remedy: str = "", offset: int | None = None) -> None:
        self.issues.append(Issue(message, remedy, self.node.find(path).at(offset)))

    def key(self, path: tuple[str | int, ...], name: str, message: str, remedy: str = "") -> None:
        """About the key `name` of the mapping at `path`."""
        parent = self.node.find(path)
        self.issues.append(Issue(message, remedy, parent.keys.get(name, parent.place)))

    def new_column(self, path: tuple[str | int, ...], name: str) -> None:
        """A name that no column may have is an issue at the key `name` of the mapping at `path`."""
        if fault := _fault(name):
            self.key(path, name, *fault)

    def named(self, path: tuple[str | int, ...], name: str) -> None:
        """A name that no column may have is an issue at the value at `path`."""
        if fault := _fault(name):
            self.add(path, *fault)

    def column(self, path: tuple[str | int, ...], name: str, schema: Schema) -> bool:
        """Whether the column exists; if not, that is an issue."""
        if name in schema:
            return True
        remedy = did_you_mean(name, schema)
        found = re.fullmatch(r"(-?)(.+?)(?i:\s+(asc|desc)\b.*)?", name)
        if found and found[2] in schema:
            falling = "" if (found[3] or "").lower() == "asc" else f"; large values first: `descending: [{found[2]}]`"
            remedy = f"write {found[2]}{falling}"
        elif "(" in name:
            remedy = "columns are named here: compute it in a `derive` above, and name what that makes"
        self.add(path, f"unknown column {name!r}", remedy)
        return False

    def misspelt(self, step: Step, name: str, text: str) -> bool:
        """Whether `name: text`, beside which new columns stand, is none but an option, which is an issue then."""
        options = type(step).model_fields
        near = nearest(name, options)
        if near is None or not _NAMES.fullmatch(text):
            return False
        self.key((), name, f"unknown option {name!r}", f"did you mean {near!r}? {options[near].description or ''}")
        return True

    def unused(self, step: Step, names: Sequence[str], beside: str) -> None:
        """Options that are given, but mean nothing beside another one."""
        for name in names:
            if name in step.model_fields_set and getattr(step, name) is not None:
                self.key((), name, f"`{name}` has no meaning beside `{beside}`", "remove one of them")

    def keys(self, option: str, names: Sequence[str], schema: Schema) -> None:
        """Columns by which rows are put together."""
        for i, name in enumerate(names):
            if self.column((option, i), name, schema) and schema[name].is_nested():
                self.add((option, i), f"{dtype_name(schema[name])} cannot be a key", "choose another column")
            if name in names[:i]:
                self.add((option, i), f"{name!r} stands here twice", "remove one")

    def order(self, names: Sequence[str], descending: Sequence[str], schema: Schema) -> None:
        """The options `order_by` and `descending`."""
        for i, name in enumerate(names):
            if self.column(("order_by", i), name, schema):
                if schema[name].is_nested() or isinstance(schema[name], pl.Object):
                    self.add(("order_by", i), f"{dtype_name(schema[name])} has no order", "choose another column")
                if name in names[:i]:
                    self.add(("order_by", i), f"{name!r} stands here twice", "remove one")
        for i, name in enumerate(descending):
            if name not in names:
                self.add(("descending", i), f"{name!r} is not under `order_by`", f"order_by: {', '.join(names)}")

    def expression(
        self,
        path: tuple[str | int, ...],
        text: str,
        schema: Schema,
        on_aggregate: expressions.OnAggregate | None = None,
        on_window: expressions.OnWindow | None = None,
        wanted: pl.Expr | None = None,
    ) -> tuple[expressions.Typed, Columns] | None:
        """The expression bound to the input's types, and the columns it reads. `wanted`: the rows whose values count."""
        from pipelines import expressions  # takes a while, and arrays need none

        columns: Columns = frozenset()
        try:
            parsed = expressions.parse(text)
            columns = parsed.columns
            return parsed.bind(schema, on_aggregate, on_window, wanted), columns
        except expressions.ExpressionError as error:
            remedy = error.remedy
            if (texts := sorted(columns & self.guessed)) and re.search(r"\bstring\b", error.message):
                declared = ", ".join(f"{name}: float64" for name in texts)
                remedy += f"; string was sampled, not declared: another type as `dtypes: {{{declared}}}` in the `read`"
            self.add(path, str(error.message), remedy, error.offset)
            return None

    def function(self, path: tuple[str | int, ...], text: str, context: Context) -> tuple[Function, Any] | None:
        """The function that `module:function` names, as what travels and as what can be called here."""
        try:
            return find(text, context.folders)
        except FunctionError as error:
            self.add(path, error.message, error.remedy)
            return None


def _fault(name: str) -> tuple[str, str] | None:
    """Why no column may be called that, and what to do."""
    if not name:
        return "a column without a name", "give it one: a CSV file without it is not read again"
    if is_pattern(name):  # of Polars
        return f"the column name {name!r} would be taken for a pattern", "choose another name"
    return None


@dataclass(frozen=True)
class Context:
    """What a step may know beside its options and its first input's types."""

    root: Path
    """Where relative paths start."""
    inputs: tuple[tuple[str, Schema], ...] = ()
    """Every input's name and types."""
    values: tuple[Value, ...] = ()
    """What every input is."""
    rows: tuple[int, ...] | None = None
    """Of each partition of the first input how many rows it has, where that is known."""
    folders: tuple[Path, ...] = ()
    """Where the project's modules are looked for."""
    retries: int = 0
    """How often what may pass is tried again."""
    finer: int = 1
    """Into how many times as many partitions a source is to be cut."""


def _as_sql(value: object) -> object:
    if isinstance(value, bool):
        return str(value).lower()
    return repr(value) if isinstance(value, int | float) else value


def _as_list(value: object) -> object:
    return [value] if isinstance(value, str) else value


_SQL_SCHEMA = {"type": ["string", "number", "boolean"], "format": "sql"}
_DTYPE_SCHEMA = {"anyOf": [{"enum": [*NAMED]}, {"type": "string", "pattern": r"[\[(]"}], "format": "type"}

Sql = Annotated[str, BeforeValidator(_as_sql), WithJsonSchema(_SQL_SCHEMA)]
"""SQL text; `one: 1` in YAML is a number, and means the same."""

Texts = Annotated[list[str], BeforeValidator(_as_list, json_schema_input_type=str | list[str])]
"""A list of texts, or one text by itself."""

Dtype = Annotated[str, WithJsonSchema(_DTYPE_SCHEMA)]
"""The name of a type: an editor proposes those without brackets."""


class Step(BaseModel):
    """A step kind is a subclass in a file of its own: its fields are the options."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, defer_build=True,
        ser_json_inf_nan="constants",  # in an identity they are not `null`
    )  # fmt: skip

    kind: ClassVar[str]
    version: ClassVar[int] = 1
    shorthand: ClassVar[str | None] = None
    """The option that is meant when a single value stands instead of a mapping."""
    role: ClassVar[Literal["source", "table", "sink"]] = "table"
    takes: ClassVar[tuple[tuple[Kind, ...], ...]] = (("table",),)
    """Of each input the kinds of value that it may be."""
    optional: ClassVar[int] = 0
    """How many of these, from the last on, may be missing."""
    gives: ClassVar[Kind] = "table"
    several: ClassVar[bool] = False
    """Whether `from` is a list of any number of steps, which all are what the first of `takes` says."""
    fewest: ClassVar[int] = 2
    """How many of several there are at least."""
    keeps_columns: ClassVar[bool] = False
    """Whether the columns are the input's, whatever the options."""
    example: ClassVar[str]

    def first(self, schema: Schema, values: Sequence[Value], problems: Problems) -> Step | None:
        """A step that its first input, a table of these types, goes through before; None: none, or an issue was added."""
        return None

    def bind(self, schema: Schema, problems: Problems, context: Context) -> Operation | Input | Output | Work | None:
        """The meaning on an input of these types, or None after an issue was added."""
        raise NotImplementedError

    @classmethod
    def known(cls) -> list[tuple[str, ...]]:
        """What its documentation lists: a heading and lines."""
        return []

    def patterns(self) -> Sequence[str]:
        """Of the files that its tasks read, relative to the project."""
        return ()

    def matching(self, root: Path, pattern: str) -> Sequence[str]:
        """What one of the patterns matches. Raises ConfigError when that is nothing."""
        return ()

    @property
    def notes_rows(self) -> bool:
        """Whether its tasks leave files in the run's folder."""
        return False

    def identity(self) -> Mapping[str, Any]:
        """The options that can change the answer, in canonical form."""
        return self.model_dump(mode="json")


def in_order(value: Any) -> Any:
    """For an identity: mappings as lists of pairs, whose order counts, and lists told apart from them."""
    if isinstance(value, Mapping):
        return ["mapping", *([name, in_order(each)] for name, each in value.items())]
    return ["list", *map(in_order, value)] if isinstance(value, list | tuple) else value
