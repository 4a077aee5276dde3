"""A parsed expression against a schema: its type and its Polars expression."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Literal

import polars as pl
from msgspec import Struct
from msgspec.structs import replace
from sqlglot import exp

from pipelines.errors import did_you_mean
from pipelines.expressions.functions import AGGREGATES, FUNCTIONS, WINDOWS, call
from pipelines.expressions.operators import UNITS, arithmetic, compare, like, negative, shift
from pipelines.expressions.parse import QUOTES, offset_of, sql_type, tree_of
from pipelines.expressions.types import (
    BOOL,
    DATE,
    DATETIME,
    FLOAT,
    INT,
    NULL,
    STRING,
    TIME,
    Constant,
    ExpressionError,
    Typed,
    cast,
    folded,
    kind,
    read,
    to,
    unify,
)
from pipelines.types import Schema, dtype_name, parse_dtype

OnAggregate = Callable[[str, Typed | None, bool, pl.Expr | None, float | None], Typed]
"""(function, argument or None for count(*), DISTINCT, the rows that FILTER (WHERE ...) lets through, quantile's part) -> the
aggregate's value."""


class Frame(Struct, frozen=True):
    """What OVER says: rows or places in the order, counted from the row (negative: before). None: no bound."""

    unit: Literal["rows", "range"]
    low: int | tuple[Typed, str] | None
    """Of an INTERVAL before: how many and the unit."""
    high: int | None


OnWindow = Callable[[str, Sequence[Typed], pl.Expr | None, Frame | None], Typed]
"""(function, arguments, none for count(*), the rows that FILTER lets through, the frame in OVER) -> the function's value."""


class Expression(Struct, frozen=True):
    """A parsed expression; `columns` are the names it reads."""

    text: str
    columns: frozenset[str]
    _tree: exp.Expr

    def bind(
        self,
        schema: Schema,
        on_aggregate: OnAggregate | None = None,
        on_window: OnWindow | None = None,
        wanted: pl.Expr | None = None,
    ) -> Typed:
        """`wanted`: the rows whose values count; an error in another is none, also where an aggregate is of all."""
        try:
            binder = _Binder(schema, on_aggregate, on_window, wanted=wanted)
            return binder._guarded(self._tree, wanted).bind(self._tree)
        except RecursionError:
            raise ExpressionError("the expression is nested too deeply", "split it over several derive steps") from None

    @property
    def fallible(self) -> bool:
        """Whether it can raise for some values, as a cast or a product does."""
        return any(_can_fail(node) for node in self._tree.walk())

    @property
    def column(self) -> str | None:
        """The column's name, where it is nothing else."""
        tree = self._tree.unnest()
        return tree.name if isinstance(tree, exp.Column) else None

    def conjuncts(self) -> list[Expression]:
        """What AND joins: a row for which all are true is one for which the whole is."""
        tree = self._tree.unnest()
        if not isinstance(tree, exp.And):
            return [self]
        sides = (
            Expression(self.text, frozenset(c.name for c in t.find_all(exp.Column)), t)
            for t in (tree.this, tree.expression)
        )
        return [each for side in sides for each in side.conjuncts()]

    def __reduce__(self) -> tuple[Callable[[str], Expression], tuple[str]]:
        return parse, (self.text,)


@functools.lru_cache(maxsize=4096)
def parse(text: str) -> Expression:
    """Parse one scalar expression; raises ExpressionError."""
    tree = tree_of(text)
    return Expression(text, frozenset(c.name for c in tree.find_all(exp.Column)), tree)


def quote(name: str) -> str:
    """A column name as it is written in an expression: quoted when it must be."""
    if re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII):
        try:
            tree = parse(name)._tree
        except ExpressionError:
            tree = None
        if isinstance(tree, exp.Column) and tree.name == name:
            return name
    return '"' + name.replace('"', '""') + '"'


_ARITHMETIC = {exp.Add: "+", exp.Sub: "-", exp.Mul: "*", exp.Div: "/", exp.IntDiv: "//", exp.Mod: "%"}
_COMPARISONS = {
    **{exp.EQ: "=", exp.NEQ: "<>", exp.LT: "<", exp.LTE: "<=", exp.GT: ">", exp.GTE: ">="},
    **{exp.NullSafeEQ: "same", exp.NullSafeNEQ: "other"},
}
_INSTEAD: dict[type[exp.Expr], str] = {
    exp.ArrayOverlaps: "write AND",
    exp.BitwiseAnd: "there are no operations on bits; of conditions: write AND",
    exp.BitwiseOr: "there are no operations on bits; of conditions: write OR",
    exp.BitwiseNot: "there are no operations on bits; of a condition: write NOT",
    exp.BitwiseXor: "there are no operations on bits; a power: write pow(x, y)",
    exp.BitwiseLeftShift: "there are no operations on bits: write x * pow(2, n)",
    exp.BitwiseRightShift: "there are no operations on bits: write floor(x / pow(2, n))",
    exp.RegexpLike: "write regexp_matches(s, 'pattern')",
    exp.SimilarTo: "write regexp_full_match(s, 'pattern')",
    exp.Glob: "write LIKE, with % and _",
    exp.In: "write x IN ('a', 'b')",
    exp.Bracket: "a part of a text: substring(s, 2, 3); lists are not computed with",
    exp.Array: "a list of values stands behind IN: x IN (1, 2)",
    exp.Dot: "in SQL the function stands before: lower(s), avg(x)",
    exp.AtTimeZone: "time zones are converted where the data is read",
    exp.Tuple: "a list of values stands behind IN: x IN (1, 2)",
    exp.Star: "* stands in count(*) only",
    exp.Abs: "write abs(x)",
    exp.IgnoreNulls: "fill them first, in a fill step",
}


class _Binder(Struct, frozen=True):
    schema: Schema
    on_aggregate: OnAggregate | None
    on_window: OnWindow | None
    inside: str = ""  # the aggregate whose argument is bound
    wanted: pl.Expr | None = None  # the rows for which any value is
    guard: pl.Expr | None = None  # the rows for which the value is wanted

    def bind(self, node: exp.Expr) -> Typed:
        try:
            return folded(self._bind(node))
        except ExpressionError as error:
            if error.offset is None:
                raise error.at(offset_of(node)) from None
            raise

    def _bind(self, node: exp.Expr) -> Typed:
        bind, made = self.bind, type(node)
        if isinstance(node, exp.Paren):
            return bind(node.this)
        if isinstance(node, exp.Column):
            return self._column(node)
        if isinstance(node, exp.Literal):
            return _literal(node)
        if isinstance(node, exp.Null):
            return Typed(pl.lit(None), NULL)
        if isinstance(node, exp.Boolean):
            return Typed(pl.lit(bool(node.this)), BOOL)
        if made in _ARITHMETIC:
            op, left, right = _ARITHMETIC[made], node.this, node.expression
            if op == "+" and isinstance(left, exp.Interval):
                left, right = right, left
            if op in "+-" and isinstance(right, exp.Interval):
                return self._shift(op, left, right)
            return arithmetic(op, bind(left), bind(right))
        if made in _COMPARISONS:
            return compare(_COMPARISONS[made], bind(node.this), bind(node.expression))
        if isinstance(node, exp.Neg):
            return self._negative(node)
        if isinstance(node, exp.Pow):
            return call("pow", [bind(node.this), bind(node.expression)], offset_of(node))
        if isinstance(node, (exp.And, exp.Or)):
            # The right side is wanted only where the left side leaves the answer open.
            a, both = self._truth(node.this), isinstance(node, exp.And)
            b = self._guarded(node.expression, (a if both else ~a).fill_null(True))._truth(node.expression)
            return Typed(a & b if both else a | b, BOOL)
        if isinstance(node, exp.Not):
            return Typed(~self._truth(node.this), BOOL)
        if isinstance(node, exp.Is):
            if isinstance(node.expression, exp.Null):
                return Typed(bind(node.this).expr.is_null(), BOOL)
            if isinstance(node.expression, exp.Column):
                bind(node.expression)
            return compare("same", Typed(self._truth(node.this), BOOL), bind(node.expression))
        if isinstance(node, exp.In) and (node.expressions or isinstance(node.args.get("field"), exp.Array)):
            items = node.expressions or node.args["field"].expressions
            if items:
                value = bind(node.this)
                return Typed(pl.any_horizontal([compare("=", value, bind(e)).expr for e in items]), BOOL)
        if isinstance(node, exp.Between):
            value = bind(node.this)
            low, high = compare(">=", value, bind(node.args["low"])), compare("<=", value, bind(node.args["high"]))
            return Typed(low.expr & high.expr, BOOL)
        if isinstance(node, exp.Escape) and len(node.expression.name) == 1:
            return self._like(node.this, node.expression.name)
        if isinstance(node, (exp.Like, exp.ILike)):
            return self._like(node)
        if isinstance(node, exp.DPipe):
            return self._pipe(bind(node.this), bind(node.expression))
        if isinstance(node, exp.Cast):  # TryCast is one
            return self._to_type(node)
        if isinstance(node, exp.Extract):
            return self._extract(node)
        if isinstance(node, exp.Case):
            return self._case(node.this, node.args["ifs"], node.args.get("default"))
        if isinstance(node, exp.If):
            return self._case(None, [node], node.args.get("false"))
        if isinstance(node, exp.Window):
            return self._window(node)
        if isinstance(node, exp.Filter) and isinstance(node.this, exp.Anonymous):
            return self._function(node.this, node.expression.this)
        if isinstance(node, exp.Anonymous):
            return self._function(node)
        if isinstance(node, exp.Interval):
            raise ExpressionError(
                "INTERVAL is only for adding to and subtracting from a date or datetime", "write x + INTERVAL 3 DAY"
            )
        remedy = next((r for c, r in _INSTEAD.items() if isinstance(node, c)), "docs/sql.md lists what is")
        raise ExpressionError(f"{node.sql('duckdb')} is not possible in an expression", remedy)

    def _column(self, node: exp.Column) -> Typed:
        name, offset = node.name, offset_of(node)
        if node.table:
            raise ExpressionError(f"{node.sql('duckdb')} has a dot: there are no tables here", QUOTES, offset)
        if name not in self.schema:
            raise ExpressionError(
                f"unknown column {name!r}", self._instead(name, bool(node.this.args.get("quoted"))), offset
            )
        if self.on_aggregate and not self.inside:
            raise ExpressionError(
                f"column {name!r} has many values here", "put it under `by` or in an aggregate function", offset
            )
        column = pl.col(name)
        return Typed(column if self.guard is None else pl.when(self.guard).then(column), self.schema[name])

    def _instead(self, name: str, quoted: bool) -> str:
        if not quoted and name.lower() in ("none", "na", "nil", "nan", "inf"):
            return {"nan": "write isnan(x)", "inf": "write isinf(x)"}.get(name.lower(), "it is NULL: x IS NULL")
        same = [c for c in self.schema if c.lower() == name.lower()]
        remedy = f"did you mean {same[0]!r}?" if same else did_you_mean(name, self.schema)
        if quoted and not remedy.startswith("did"):
            return f"double quotes name a column; text stands in single quotes: '{name}'"
        if quoted:
            remedy = f"{remedy} Double quotes name a column; text stands in single quotes"
        elif name.lower() in UNITS:
            remedy = f"a unit stands in single quotes: '{name}'"
        elif any(quote(c) != c and name in c.split() for c in self.schema):
            remedy = f"{remedy}; {QUOTES}"
        elif not remedy.startswith("did"):
            remedy = f"{remedy}; text stands in single quotes: '{name}'"
        return remedy

    def _negative(self, node: exp.Neg) -> Typed:
        if isinstance(node.this, exp.Literal) and not node.this.is_string:
            return _literal(node.this, "-", offset_of(node))
        return negative(self.bind(node.this))

    def _truth(self, node: exp.Expr) -> pl.Expr:
        value = self.bind(node)
        if value.dtype not in (BOOL, NULL):
            raise ExpressionError(
                f"a boolean is wanted, not {dtype_name(value.dtype)}", "compare it with something", offset_of(node)
            )
        return to(value, BOOL)

    def _shift(self, op: str, moment: exp.Expr, interval: exp.Interval) -> Typed:
        unit = interval.args.get("unit")
        try:
            return shift(op, self.bind(moment), self.bind(interval.this), unit.name if unit else "")
        except ExpressionError as error:
            raise error.at(offset_of(interval)) from None

    def _like(self, node: exp.Expr, escape: str = "") -> Typed:
        if not isinstance(node, (exp.Like, exp.ILike)):
            raise ExpressionError("ESCAPE belongs to LIKE", "write s LIKE 'a!%' ESCAPE '!'")
        found = like(self.bind(node.this), self.bind(node.expression), isinstance(node, exp.ILike), escape)
        return Typed(~found.expr, BOOL) if node.args.get("negate") else found

    def _pipe(self, a: Typed, b: Typed) -> Typed:
        if "string" not in (kinds := {kind(a.dtype), kind(b.dtype)}) and "null" not in kinds:
            remedy = (
                "either-or is written OR" if kinds == {"boolean"} else "CAST one to VARCHAR; either-or is written OR"
            )
            raise ExpressionError(f"|| joins strings, not {dtype_name(a.dtype)} and {dtype_name(b.dtype)}", remedy)
        return Typed(pl.concat_str([cast(x, STRING, True).expr for x in (a, b)]), STRING)

    def _to_type(self, node: exp.Cast) -> Typed:
        strict, dtype = not isinstance(node, exp.TryCast), parse_dtype(sql_type(node.to) or "")
        assert dtype is not None, "parse has looked"
        value = self.bind(node.this)
        if strict and isinstance(value, Constant) and value.dtype == STRING and dtype in (DATE, TIME, DATETIME):
            found = read(value, dtype)
            return Typed(to(found, dtype), dtype)
        return cast(value, dtype, strict)

    def _extract(self, node: exp.Extract) -> Typed:
        name = node.this.name.lower()
        return call(
            {"dow": "dayofweek", "doy": "dayofyear"}.get(name, name), [self.bind(node.expression)], offset_of(node)
        )

    def _case(self, subject: exp.Expr | None, ifs: list[exp.If], default: exp.Expr | None) -> Typed:
        matches: list[pl.Expr] = []
        values: list[Typed] = []
        rest = pl.lit(True)
        for branch in ifs:
            if subject is None:
                found = self._guarded(branch.this, rest)._truth(branch.this)
            else:
                found = folded(compare("=", self.bind(subject), self.bind(branch.this))).expr
            matches.append(found)
            wanted = branch.args["true"]
            values.append(self._guarded(wanted, rest & found).bind(wanted))
            rest = rest & ~found.fill_null(False)
        values.append(self._guarded(default, rest).bind(default) if default else Typed(pl.lit(None), NULL))
        values, common = unify(values, "combine")
        result = to(values[-1], common)
        for found, value in zip(reversed(matches), reversed(values[:-1]), strict=True):
            if not found.meta.is_literal():
                result = pl.when(found).then(to(value, common)).otherwise(result)
            elif pl.select(found).item():
                result = to(value, common)
        return Typed(result, common)

    def _guarded(self, node: exp.Expr, wanted: pl.Expr | None) -> _Binder:
        """Polars computes every branch for every row: one that can fail reads nulls where it is not wanted."""
        if wanted is None or not any(_can_fail(n) for n in node.walk()) or (self.on_aggregate and not self.inside):
            return self
        return replace(self, guard=wanted if self.guard is None else self.guard & wanted)

    def _window(self, node: exp.Window) -> Typed:
        if self.on_window is None:
            raise ExpressionError("an expression works on one row: OVER is not possible", "use it in a window step")
        if any(node.args.get(part) for part in ("partition_by", "order", "alias")):
            raise ExpressionError(
                "OVER holds only a frame here", "PARTITION BY and ORDER BY are options: `partition_by`, `order_by`"
            )
        if (spec := node.args.get("spec")) is None:
            raise ExpressionError("OVER () says nothing", f"leave it out, or {_FRAMES}")
        call, where = node.this, None
        if isinstance(call, exp.Filter):
            call, where = call.this, call.expression.this
        if not isinstance(call, exp.Anonymous):
            raise ExpressionError(f"{call.sql('duckdb')} takes no OVER", "it stands behind a function")
        return self._function(call, where, _frame(spec))

    def _function(self, node: exp.Anonymous, where: exp.Expr | None = None, frame: Frame | None = None) -> Typed:
        name, offset = node.name.lower(), _offset_of_call(node)
        if not any(name in known for known in (FUNCTIONS, AGGREGATES, WINDOWS, _SPECIAL)):
            return call(name, [], offset)  # says so, whatever the arguments are
        if name in WINDOWS or (self.on_window and name in AGGREGATES):
            return self._over(name, node, where, frame, offset)
        if frame is not None:
            raise ExpressionError(f"{name} is no window function: it takes no OVER", "leave OVER out", offset)
        if name in AGGREGATES:
            return self._aggregate(name, node, where, offset)
        if where is not None:
            raise ExpressionError(f"{name} is no aggregate: FILTER is not possible", "write CASE WHEN", offset)
        if name == "date_part" and len(node.expressions) == 2 and node.expressions[0].is_string:
            part = node.expressions[0].name.lower()
            return call(
                {"dow": "dayofweek", "doy": "dayofyear"}.get(part, part), [self.bind(node.expressions[1])], offset
            )
        if name == "date_add" and len(node.expressions) == 2 and isinstance(node.expressions[1], exp.Interval):
            return self._shift("+", *node.expressions)
        if name == "date_add":
            raise ExpressionError("date_add takes (date or datetime, INTERVAL)", "write x + INTERVAL 3 DAY", offset)
        if name in ("coalesce", "ifnull"):
            return call(name, self._in_turn(node.expressions), offset)
        return call(name, [self.bind(a) for a in node.expressions], offset)

    def _in_turn(self, nodes: list[exp.Expr]) -> list[Typed]:
        """COALESCE: each is wanted only where those before it are NULL."""
        values, rest = list[Typed](), pl.lit(True)
        for node in nodes:
            values.append(self._guarded(node, rest).bind(node) if values else self.bind(node))
            rest = rest & values[-1].expr.is_null()
        return values

    def _over(
        self, name: str, node: exp.Anonymous, where: exp.Expr | None, frame: Frame | None, offset: int | None
    ) -> Typed:
        if self.on_window is None:
            raise ExpressionError(f"{name}(...) is a window function", "use it in a window step", offset)
        if self.inside:
            raise ExpressionError(
                f"{name}(...) is inside of {self.inside}(...): window functions do not nest",
                "compute the inner one in a window step above",
                offset,
            )
        arguments: list[exp.Expr] = node.expressions
        if arguments and isinstance(arguments[0], exp.Distinct):
            raise ExpressionError("DISTINCT is not possible in a window", "aggregate by the key, and join", offset)
        within = replace(self, inside=name, guard=None)
        rows = within._truth(where) if where is not None else None
        if name == "count" and arguments and isinstance(arguments[0], exp.Star):
            arguments = []
        guarded = within if rows is None else replace(within, guard=rows)
        try:
            return self.on_window(AGGREGATES.get(name, name), [guarded.bind(a) for a in arguments], rows, frame)
        except ExpressionError as error:
            raise error.at(offset) from None

    def _aggregate(self, name: str, node: exp.Anonymous, where: exp.Expr | None, offset: int | None) -> Typed:
        if self.on_aggregate is None:
            raise ExpressionError(
                f"{name}(...) is an aggregate",
                "use it in an aggregate step; of one row's values: greatest, least, +",
                offset,
            )
        if self.inside:
            raise ExpressionError(
                f"{name}(...) is inside of {self.inside}(...): aggregates do not nest",
                "aggregate twice, in two steps",
                offset,
            )
        arguments: Iterable[exp.Expr] = node.expressions
        distinct = len(node.expressions) == 1 and isinstance(node.expressions[0], exp.Distinct)
        if distinct:
            arguments = node.expressions[0].expressions
        arguments = list(arguments)
        within, rows = replace(self, inside=name, guard=None), None
        if where is not None:
            rows = within._guarded(where, self.wanted)._truth(where)
        if name == "count" and (not arguments or isinstance(arguments[0], exp.Star)):
            return self.on_aggregate("count", None, False, rows, None)
        part = None
        if AGGREGATES[name] == "quantile":
            part = _part(name, [self.bind(a) for a in arguments[1:] if isinstance(a, exp.Literal)], offset)
            arguments = arguments[:1]
        if len(arguments) != 1:
            raise ExpressionError(f"{name} takes one argument, not {len(arguments)}", f"write {name}(x)", offset)
        argument = within._guarded(arguments[0], self.wanted)._guarded(arguments[0], rows).bind(arguments[0])
        try:
            return self.on_aggregate(AGGREGATES[name], Typed(argument.expr, argument.dtype), distinct, rows, part)
        except ExpressionError as error:
            raise error.at(offset) from None


_FRAMES = (
    "give a frame: OVER (ROWS 19 PRECEDING), OVER (RANGE BETWEEN INTERVAL 7 DAYS PRECEDING AND CURRENT ROW), "
    "OVER (ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING)"
)


def _frame(spec: exp.WindowSpec) -> Frame:
    unit = str(spec.args["kind"]).lower()
    assert unit in ("rows", "range"), "others do not parse"
    low = _border(spec.args.get("start"), spec.args.get("start_side"), unit, "PRECEDING")
    high = _border(spec.args.get("end") or "CURRENT ROW", spec.args.get("end_side"), unit, "FOLLOWING")
    if spec.args.get("exclude") or isinstance(high, tuple):
        raise ExpressionError(f"the frame {spec.sql('duckdb')} is not possible", _FRAMES)
    if isinstance(low, int) and isinstance(high, int) and low > high:
        shown = spec.sql("duckdb")
        raise ExpressionError(
            f"the frame {shown} holds no row: it ends before it starts", "write the earlier bound first"
        )
    return Frame("rows" if unit == "rows" else "range", low, high)


def _border(value: object, side: object, unit: str, open_side: str) -> int | tuple[Typed, str] | None:
    side, word = str(side or "").upper(), value.upper() if isinstance(value, str) else ""
    if word == "CURRENT ROW":
        return 0
    if word == "UNBOUNDED" and side == open_side:
        return None
    if unit == "rows" and isinstance(value, exp.Literal) and re.fullmatch(r"\d{1,18}", value.name) and side:
        return int(value.name) * (-1 if side == "PRECEDING" else 1)
    if unit == "range" and isinstance(value, exp.Interval) and isinstance(value.this, exp.Literal):
        named = value.args.get("unit")
        if side == open_side == "PRECEDING" and not value.this.name.strip().startswith("-"):
            return _literal(value.this), named.name if named else ""
    shown = value.sql("duckdb") if isinstance(value, exp.Expr) else word
    raise ExpressionError(f"a frame of {unit.upper()} cannot have the bound {f'{shown} {side}'.strip()}", _FRAMES)


def _part(name: str, given: Sequence[Typed], offset: int | None) -> float:
    """The second argument of a quantile."""
    value = given[0].value if len(given) == 1 and isinstance(given[0], Constant) else None
    if not isinstance(value, int | float) or not 0 <= value <= 1:
        raise ExpressionError(f"{name} takes a number from 0 to 1, written out", f"write {name}(x, 0.9)", offset)
    return float(value)


def _offset_of_call(node: exp.Expr) -> int | None:
    start: int | None = node.meta.get("start")
    return start


_SPECIAL = ("date_part", "date_add", "coalesce", "ifnull")
_FALLIBLE = (exp.Add, exp.Sub, exp.Mul, exp.IntDiv, exp.Mod, exp.Neg, exp.Cast)


def _can_fail(node: exp.Expr) -> bool:
    if isinstance(node, exp.Anonymous):
        return (known := FUNCTIONS.get(node.name.lower())) is not None and known.fallible
    return isinstance(node, _FALLIBLE) and not isinstance(node, exp.TryCast)


def _literal(node: exp.Literal, sign: str = "", offset: int | None = None) -> Constant:
    offset = node.meta.get("start") if offset is None else offset
    if node.is_string:
        return Constant(pl.lit(node.name, dtype=STRING), STRING, node.name, offset)
    text = sign + node.name.replace("_", "")
    if not re.fullmatch(r"-?\d+", text):
        value = float(text)
        if abs(value) == float("inf"):
            raise ExpressionError(f"{text} does not fit into float64", "write 'inf'::DOUBLE if you mean it", offset)
        return Constant(pl.lit(value, dtype=FLOAT), FLOAT, value, offset)
    if not -(2**63) <= (number := int(text)) < 2**63:
        raise ExpressionError(f"{text} does not fit into int64", "write it with a decimal point, as a float64", offset)
    return Constant(pl.lit(number, dtype=INT), INT, number, offset)
