from __future__ import annotations

import ast
import inspect
import math
import operator
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import numpy as np
from numpy.lib.array_utils import normalize_axis_tuple
from pydantic import Field

from pipelines.arrays import OnArrays, plan
from pipelines.code import syntax
from pipelines.errors import DataError, Issue, did_you_mean
from pipelines.steps.base import Context, Problems, Step
from pipelines.types import Schema
from pipelines.values import Array
from pipelines.work import Builder, Ref, Work

_SIGNATURES: Mapping[str, inspect.Signature] = {
    name: inspect.signature(like)
    for names, like in (
        (
            "abs arccos arcsin arctan ceil cos cosh exp expm1 floor isfinite isnan log log10 log1p log2 sign sin sinh sqrt tan tanh",
            lambda x, /: x,
        ),
        ("arctan2 maximum minimum", lambda x, y, /: x),
        ("where", lambda condition, x, y, /: x),
        ("clip", lambda a, /, a_min=None, a_max=None, *, min=None, max=None: a),
        ("round", lambda a, /, decimals=0: a),
        ("argmax argmin max mean min prod sum", lambda a, /, axis=None, *, keepdims=False: a),
        ("std var", lambda a, /, axis=None, *, ddof=0, keepdims=False: a),
        ("cumprod cumsum", lambda a, /, axis=None: a),
        ("diff", lambda a, /, n=1, axis=-1, *, prepend=None, append=None: a),
        ("concatenate stack", lambda arrays, /, axis=0: arrays),
        ("tensordot", lambda a, b, /, axes=2: a),
        ("transpose", lambda a, /, axes=None: a),
    )
    for name in names.split()
}
"""NumPy's, by NumPy's names; Dask has each of them. NumPy takes more: an array at the place of `out` would be written to, while
other tasks read it."""
FUNCTIONS = tuple(sorted(_SIGNATURES))
_PLAIN = frozenset({"axis", "axes", "ddof", "decimals", "n"})
"""Parameters that are numbers, not arrays."""
_NOTHING = type(None)
_MUST: Mapping[str, tuple[tuple[type, ...], tuple[type, ...], str]] = {
    "axis": ((int, _NOTHING), (), "a whole number"),
    "axes": ((int, _NOTHING), (list, tuple), "a whole number, or a list of them"),
    "ddof": ((int, float), (), "a number"),
    "decimals": ((int,), (), "a whole number"),
    "n": ((int,), (), "a whole number"),
    "keepdims": ((bool,), (), "True or False"),
}
"""Types of options, what may hold several, and in words: Dask takes others for something else, or NumPy refuses them in the run only."""
_AXES = ((int, _NOTHING), (tuple,), "a whole number, or several in round brackets")
_NUMBERS = ((int, float, _NOTHING), (list, tuple), "a number, or a list of them")


_ELEMENTWISE = frozenset(FUNCTIONS) - {
    "argmax", "argmin", "concatenate", "cumprod", "cumsum", "diff", "max", "mean", "min", "prod", "stack", "std", "sum", "tensordot",
    "transpose", "var",
}  # fmt: skip
_REDUCING = ("max", "mean", "min", "prod", "std", "sum", "var")
_ALONG = ("argmax", "argmin", "cumprod", "cumsum", "max", "mean", "min", "prod", "sum")
"""Of one array along an axis: each row by itself, where that is not the first."""


def _product(one: Any, other: Any) -> Any:
    """a @ b. A small b is given to every chunk of a: Dask's own product cuts and multiplies it chunk by chunk."""
    if hasattr(one, "shape") and hasattr(other, "shape") and one.ndim and other.ndim:
        lengths = one.shape[-1], other.shape[-2 if other.ndim > 1 else 0]
        # Dask repeats a length of 1; two arrays of a table may well have as many rows
        if lengths[0] != lengths[1] and not all(map(math.isnan, lengths)):
            raise ValueError(f"shapes {_shape(one)} and {_shape(other)} do not fit @")
    if isinstance(other, np.ndarray) and isinstance(one, np.ndarray) and one.ndim > 1 and one.shape[-1] == len(other):
        return _weighted(one, other)
    if isinstance(other, np.ndarray) and hasattr(one, "map_blocks") and one.ndim == 2 and len(one.chunks[1]) == 1:
        return one.map_blocks(_weighted, other, drop_axis=[1] if other.ndim == 1 else None, chunks=None if other.ndim == 1 else (one.chunks[0], (other.shape[1],)), dtype=np.result_type(one.dtype, other.dtype))  # fmt: skip
    # Dask adds truth values of several chunks as numbers
    return (one @ other).astype(np.result_type(one, other))


def _shape(array: Any) -> str:
    return str(tuple("?" if math.isnan(n) else int(n) for n in array.shape)).replace("'", "")


def _weighted(block: Any, weights: Any) -> Any:
    """Column by column: the same bits whatever BLAS does with its threads."""
    if weights.ndim == 2:
        return np.stack([_weighted(block, column) for column in weights.T], axis=-1)
    total = block[..., 0] * weights[0]
    for j in range(1, len(weights)):
        total += block[..., j] * weights[j]
    return total


def _number(a: Any) -> Any:
    if str(getattr(a, "dtype", "")) == "bool":  # Dask lets it pass
        raise TypeError("NumPy has no sign of truth values: ~ is their contrary")
    return a


_OPERATORS: Mapping[type, Callable[..., Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv, ast.Pow: operator.pow,
    ast.MatMult: _product, ast.Mod: operator.mod, ast.FloorDiv: operator.floordiv, ast.BitAnd: operator.and_, ast.BitOr: operator.or_,
    ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt, ast.GtE: operator.ge, ast.Eq: operator.eq, ast.NotEq: operator.ne,
    ast.USub: lambda a: -_number(a), ast.UAdd: lambda a: +_number(a), ast.Invert: operator.invert,
}  # fmt: skip


def _together(function: Callable[..., Any], *arrays: Any, of_chunks: Any = None) -> Any:
    """Element by element. Of arrays whose rows only the data tells, Dask would repeat a chunk of one row."""
    unknown = [each for each in arrays if hasattr(each, "dask") and any(map(math.isnan, each.shape))]
    if len(unknown) < 2 or function is _product:
        return function(*arrays)
    from pipelines import chunks

    return chunks.where_lengths_agree(of_chunks or function, *arrays)


class ExpressionError(Exception):
    """What is wrong, what to do, and where in the text."""

    def __init__(self, message: str, remedy: str, offset: int | None) -> None:
        super().__init__(message)
        self.message, self.remedy, self.offset = message, remedy, offset


def parsed(text: str) -> ast.expr:
    """Raises ExpressionError."""
    # several lines as one, of the same length: a column is then a place in the text
    line = re.sub(r"#[^\n]*|\\?\n", lambda found: " " * len(found[0]), text)
    start = len(line) - len(line.lstrip())
    try:
        tree = cast(ast.Expression, syntax(line[start:], mode="eval")).body
    except SyntaxError as error:
        raise ExpressionError(f"this is no expression: {error.msg}", "write it as in NumPy: log(a) @ [0.5, 0.5]", start + (error.offset or 1) - 1) from None  # fmt: skip
    encoded = line[start:].encode()
    for node in ast.walk(tree):
        if isinstance(node, ast.expr):  # Python counts bytes
            node.col_offset = start + len(encoded[: node.col_offset].decode())
    return tree


def names(tree: ast.AST) -> dict[str, int]:
    """Name: where it stands first."""
    called = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    found = [node for node in ast.walk(tree) if isinstance(node, ast.Name) and id(node) not in called]
    return {node.id: node.col_offset for node in reversed(found)}


def evaluate(node: ast.expr, arrays: Mapping[str, Any], numpy: Any) -> Any:
    """The expression over arrays; `numpy` is NumPy, or Dask's module like it. Raises ExpressionError."""

    def of(child: ast.expr) -> Any:
        return evaluate(child, arrays, numpy)

    try:
        return _real(_evaluated(node, arrays, numpy, of))
    except ArithmeticError as error:
        said = error.args[-1] if error.args else type(error).__name__
        raise ExpressionError(f"{ast.unparse(node)!r} is no number: {said}", "write another number", node.col_offset) from None  # fmt: skip
    except (ValueError, TypeError, IndexError, NotImplementedError, AttributeError, KeyError, AssertionError) as error:
        raise _misfit(error, node.col_offset) from None


def _misfit(error: Exception, offset: int) -> ExpressionError:
    said = str(error).strip().split("\n")[0] or type(error).__name__
    return ExpressionError(f"this does not fit: {said}", "look at the arrays' shapes with `pipelines plan`", offset)


def _real(found: Any) -> Any:
    """Raises TypeError for complex numbers, which would lose a part, and Python's objects, which Dask plans where NumPy fails."""
    if found is NotImplemented:  # Dask's word for what NumPy does not know
        raise TypeError("NumPy does not do this with numbers of this type")
    dtype = np.dtype(complex) if isinstance(found, complex) else getattr(found, "dtype", None)
    if dtype is not None and dtype.kind not in "biuf":
        raise TypeError(f"it makes {dtype}, not real numbers or truth values")
    return found


def _evaluated(node: ast.expr, arrays: Mapping[str, Any], numpy: Any, of: Callable[[ast.expr], Any]) -> Any:
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        return node.value
    if isinstance(node, ast.Name) and node.id in arrays:
        return arrays[node.id]
    if isinstance(node, ast.Name) and node.id == "pi":
        return np.pi
    if isinstance(node, ast.List | ast.Tuple):
        items = [of(item) for item in node.elts]
        return items if any(hasattr(item, "dask") for item in items) else np.array(items)
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        return _together(_OPERATORS[type(node.op)], of(node.left), of(node.right))
    if isinstance(node, ast.UnaryOp) and type(node.op) in _OPERATORS:
        return _OPERATORS[type(node.op)](of(node.operand))
    if isinstance(node, ast.Compare) and len(node.ops) == 1 and type(node.ops[0]) in _OPERATORS:
        return _together(_OPERATORS[type(node.ops[0])], of(node.left), of(node.comparators[0]))
    if isinstance(node, ast.Subscript):
        return of(node.value)[_index(node.slice)]
    if isinstance(node, ast.Attribute) and node.attr == "T":
        return of(node.value).T
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        name = node.func.id
        if name not in FUNCTIONS:
            raise ExpressionError(f"unknown function {name!r}", did_you_mean(name, FUNCTIONS), node.col_offset)
        given, options = _arguments(node, name)
        values = [of(each) for each in given]
        if name == "round" and str(getattr(values[0], "dtype", "")) == "bool":  # Dask lets it pass
            raise TypeError("truth values cannot be rounded")
        if isinstance(options.get("axis"), tuple):  # an axis twice: Dask finds that in the run
            normalize_axis_tuple(options["axis"], np.ndim(values[0]))
        if name in _ELEMENTWISE and not options:
            return _together(getattr(numpy, name), *values, of_chunks=getattr(np, name))
        return getattr(numpy, name)(*values, **options)
    raise ExpressionError(f"{ast.unparse(node)!r} cannot stand here", "names of arrays, numbers, lists, + - * / ** @, comparisons, indexes and functions of NumPy can", node.col_offset)  # fmt: skip


def _arguments(node: ast.Call, name: str) -> tuple[Sequence[ast.expr], Mapping[str, Any]]:
    """Those that are arrays, and the others by their names."""
    keywords = {each.arg or "**": each.value for each in node.keywords}
    try:
        _SIGNATURES[name].bind(*node.args, **keywords)
    except TypeError as error:
        usage = f"{name}{_SIGNATURES[name]}".replace("/, ", "").replace(", /", "").replace("*, ", "")
        raise ExpressionError(f"{name}: {error}", f"it is called as {usage}", node.col_offset) from None
    arrays, plain = list(node.args), dict(keywords)
    for parameter, value in zip(_SIGNATURES[name].parameters, node.args, strict=False):
        if parameter in _PLAIN:
            arrays.remove(value)
            plain[parameter] = value
    return arrays, {key: _option(name, key, value) for key, value in plain.items()}


def _option(name: str, parameter: str, node: ast.expr) -> Any:
    several = parameter == "axis" and name in _REDUCING
    types, holders, wanted = _AXES if several else _MUST.get(parameter, _NUMBERS)
    if not _of(types, holders, value := _literal(node)):
        raise ExpressionError(f"{name}: {parameter!r} is {ast.unparse(node)}", f"it must be {wanted}", node.col_offset)
    return value


def _of(types: tuple[type, ...], holders: tuple[type, ...], value: Any) -> bool:
    """Whether it is of one of these types (a truth value is no number here), or holds such."""
    return all(_of(types, holders, each) for each in value) if type(value) in holders else type(value) in types


def _literal(node: ast.expr) -> Any:
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError):
        raise ExpressionError(f"{ast.unparse(node)!r} cannot stand here", "numbers can, and lists of them", node.col_offset) from None  # fmt: skip


def _index(node: ast.expr) -> Any:
    if isinstance(node, ast.Tuple):
        return tuple(_index(item) for item in node.elts)
    if isinstance(node, ast.Slice):
        return slice(*(None if each is None else _literal(each) for each in (node.lower, node.upper, node.step)))
    if isinstance(found := _literal(node), bool):  # Dask takes it for a number
        raise ExpressionError(f"{found} is no index", "numbers and slices are", node.col_offset)
    return found


def _by_row(node: ast.expr) -> bool:
    """Whether nothing in it looks from one row of the arrays at another. Shapes are looked at apart, by `rowwise`."""
    if isinstance(node, ast.Constant | ast.Name):
        return True
    if isinstance(node, ast.List | ast.Tuple):
        return not names(node)
    if isinstance(node, ast.BinOp):
        return (
            _by_row(node.left) and _by_row(node.right) and not (isinstance(node.op, ast.MatMult) and names(node.right))
        )
    if isinstance(node, ast.UnaryOp):
        return _by_row(node.operand)
    if isinstance(node, ast.Compare):
        return _by_row(node.left) and all(map(_by_row, node.comparators))
    if isinstance(node, ast.Subscript):
        first = node.slice.elts[0] if isinstance(node.slice, ast.Tuple) and node.slice.elts else node.slice
        return _by_row(node.value) and isinstance(first, ast.Slice) and not (first.lower or first.upper or first.step)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        axis = next((each.value for each in node.keywords if each.arg == "axis"), None)
        along = isinstance(axis, ast.Constant) and isinstance(axis.value, int) and axis.value > 0
        return all(map(_by_row, node.args)) and (
            node.func.id in _ELEMENTWISE or (node.func.id in _ALONG and len(node.args) == 1 and along)
        )
    return False


def rowwise(tree: ast.expr, inputs: Mapping[str, Array]) -> Array | None:
    """The result's shape and type where each of its rows is made of the same row of the arrays; else None, or where that is unsure."""
    rows = {value.chunks[:1] for value in inputs.values()}
    whole = all(len(each) == 1 and None not in each for value in inputs.values() for each in value.chunks[1:])
    if len(rows) != 1 or () in rows or not whole or not names(tree).keys() & inputs.keys() or not _by_row(tree):
        return None
    if ((None,),) in rows and len(inputs) > 1:  # who knows whether their chunks agree
        return None
    found = set[tuple[Any, ...]]()
    for count in (5, 7):  # a length that belongs to no row stays the same
        few = {n: np.ones((count, *(x or 0 for x in v.shape[1:])), v.dtype) for n, v in inputs.items()}
        try:
            result = Rowwise.of(tree, few)
        except ExpressionError:
            return None
        found.add((result.shape[:1] == (count,), result.shape[1:], str(result.dtype)))
    [(first, rest, dtype), *others] = found
    return None if others or not first else Array((*rows.pop(), *((n,) for n in rest)), dtype)


@dataclass(frozen=True)
class Rowwise(Work):
    """The expression on each chunk, by NumPy: to import Dask's arrays takes half a second."""

    text: str
    names: tuple[str, ...]

    @property
    def identity(self) -> tuple[str, ...]:  # type: ignore[override]
        return self.names  # the same text means something else when they change places

    @staticmethod
    def of(tree: ast.expr, arrays: Mapping[str, Any]) -> Any:
        with np.errstate(all="ignore"):
            return evaluate(tree, arrays, np)

    def __call__(self, *chunks: Any) -> Any:
        given = [chunk.view() for chunk in chunks]
        for each in given:  # other tasks read the same numbers
            each.flags.writeable = False
        try:
            return self.of(parsed(self.text), dict(zip(self.names, given, strict=True)))
        except ExpressionError as error:  # what only the numbers tell: a whole one to the power of a negative one
            raise DataError(Issue(f"array: {error.message}", error.remedy)) from None

    def count(self, inputs: Sequence[int]) -> int:
        return inputs[0]

    def lower(self, builder: Builder, inputs: Sequence[Sequence[Ref]]) -> Sequence[Ref]:
        assert isinstance(self.gives, Array)
        rest = (0,) * (len(self.gives.chunks) - 1)
        return [builder.task("", (i, *rest), self, *chunks) for i, chunks in enumerate(zip(*inputs, strict=True))]


@dataclass(frozen=True)
class Expression(OnArrays):
    text: str
    names: tuple[str, ...]

    @property
    def identity(self) -> tuple[str, ...]:  # type: ignore[override]
        return self.names

    def build(self, arrays: Sequence[Any]) -> Any:
        import dask.array as da

        from pipelines import chunks

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = evaluate(parsed(self.text), dict(zip(self.names, arrays, strict=True)), chunks)
            try:
                return da.asarray(found)
            except (ValueError, TypeError) as error:  # a list of arrays of different shapes
                raise _misfit(error, 0) from None

    def over(self, names: Sequence[str], counts: Sequence[int]) -> Any:
        try:
            return super().over(names, counts)
        except ExpressionError as error:  # tables in different numbers of partitions
            raise DataError(Issue(f"array: {error.message}", error.remedy)) from None


class ArrayStep(Step):
    """Compute an array from arrays: an expression in NumPy's terms over the names of the steps in `from`.

    Operators are + - * / // % ** @, comparisons and & | ~; indexes are numbers and slices (`x[:, 0]`); lists are constants
    (`prices @ [100, 50]`); functions are NumPy's, with `axis=` where they have it: `log(x)`, `maximum(a, b)`, `mean(x, axis=0)`.
    Shapes are checked before anything runs.
    """

    kind = "array"
    version = 2
    takes = (("array",),)
    several = True
    fewest = 1
    gives = "array"
    shorthand = "expression"
    example: ClassVar[str] = "array: log(paths[:, 0])"

    expression: str = Field(min_length=1, description="In NumPy's terms.")

    def bind(self, schema: Schema, problems: Problems, context: Context) -> Work | None:
        given = tuple(name for name, _ in context.inputs)
        values = tuple(value for value in context.values if isinstance(value, Array))
        try:
            tree = parsed(self.expression)
            for name, offset in names(tree).items():
                if name not in given and name != "pi":
                    near = did_you_mean(name, given)
                    remedy = near if near.startswith("did") else f"add it to `from: [{', '.join((*given, name))}]`"
                    raise ExpressionError(f"unknown array {name!r}", remedy, offset)
            if (rows := rowwise(tree, dict(zip(given, values, strict=True)))) is not None:
                return Rowwise(rows, {}, self.expression, given)
            work = Expression(Array((), ""), {}, values, self.expression, given)
            gives = plan(work.build, values)
            if gives.chunks.count((None,)) > 1:
                raise ExpressionError(f"this is {gives}, and more than one of its lengths only the data tells", "the plan knows the rows of Parquet files; or make less of it: a.T @ a", 0)  # fmt: skip
        except ExpressionError as error:
            problems.add(("expression",), error.message, error.remedy, error.offset)
            return None
        return Expression(gives, {}, values, self.expression, given)

    def identity(self) -> Mapping[str, Any]:
        return {"expression": ast.unparse(parsed(self.expression))}
