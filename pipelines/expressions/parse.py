"""SQL text → sqlglot's tree, and what is wrong with text that is no expression."""

from __future__ import annotations

import logging
import re

from sqlglot import exp
from sqlglot.dialects.duckdb import DuckDB
from sqlglot.errors import ParseError, TokenError
from sqlglot.parsers.duckdb import DuckDBParser
from sqlglot.tokenizer_core import TokenType

from pipelines.errors import did_you_mean
from pipelines.expressions.functions import PARTS, TODAY
from pipelines.expressions.types import ExpressionError
from pipelines.types import NAMED, parse_dtype

logging.getLogger("sqlglot").setLevel(logging.ERROR)  # it warns of what is told as an error here

QUOTES = "put double quotes around column names that contain spaces or other signs, or are words of SQL"
_COMMENT = "in YAML, ` #` begins a comment and ends the text: put the whole expression into quotes"

# FUNCTIONS decides what a function is, not sqlglot: each call shall stay a name with its place. A parser without functions
# of its own would be a subclass, which compiled sqlglot forbids, and compiled it starts 0.2 s sooner. So the names that
# it knows are marked before it sees them.
_DUCKDB, _MARK = DuckDB(), "\0"
_KNOWN = (DuckDBParser.FUNCTIONS.keys() | DuckDBParser.FUNCTION_PARSERS.keys()) - {
    *("CAST", "TRY_CAST", "EXTRACT"),
    *DuckDBParser.NO_PAREN_FUNCTION_PARSERS,  # CASE, IF
}

SQL_TYPES = {
    **{"BOOLEAN": "boolean", "TINYINT": "int8", "SMALLINT": "int16", "INT": "int32", "BIGINT": "int64"},
    **{"UTINYINT": "uint8", "USMALLINT": "uint16", "UINT": "uint32", "UBIGINT": "uint64", "FLOAT": "float32"},
    **{"DOUBLE": "float64", "TEXT": "string", "VARCHAR": "string", "DATE": "date", "TIME": "time"},
    **{"TIMESTAMP": "datetime", "TIMESTAMPNTZ": "datetime", "TIMESTAMP_MS": "datetime[ms]", "TIMESTAMP_NS": "datetime[ns]"},
}  # fmt: skip
_TYPE_NAMES = [*(n for n in SQL_TYPES if n not in ("TEXT", "TIMESTAMPNTZ")), "INTEGER", "DECIMAL(18,2)"]
_WRITTEN = {*SQL_TYPES, "INTEGER", "UINTEGER", "DECIMAL", "NUMERIC", "REAL", "BOOL", *map(str.upper, NAMED)} - {
    "TIMESTAMPNTZ"
}
_TWO_MEANINGS = {
    "INT1": "TINYINT", "INT2": "SMALLINT", "INT4": "INTEGER", "INT8": "TINYINT (8 bits) or BIGINT (8 bytes)",
}  # fmt: skip

# What other languages write: (sign, what is said, what to do); a group is where the fault lies.
_FOREIGN = [
    (r"!(?!=)", "! is not SQL", "write NOT x; unequal is <> or !="),
    (r"[\u201c\u201d\u201e\u2018\u2019]", "typographic quotes", "write \" around a column name and ' around text"),
    (r"[≥≤≠]", "a sign that SQL does not know", "write >=, <= or <>"),
    (r"(?<![<>=])=[<>]", "a comparison that SQL does not know", "write >= or <="),
    (r"#", "# is not SQL", "a comment begins with --"),
    (r"\blambda\b", "Python is not SQL", "a Python function stands in a step of its own"),
    (r"\bif\b.+\belse\b", "Python's `a if c else b` is not SQL", "write CASE WHEN c THEN a ELSE b END"),
    (r"\?.*:", "`c ? a : b` is not SQL", "write CASE WHEN c THEN a ELSE b END"),
    (r"(?<!\w)\d+(,)\d+\s*$", "a comma inside a number", "write a point: 1.5"),
    (r"(?<!\w)\d+( )\d+", "a space inside a number", "write 1000 or 1_000"),
    (r"\b(?:where|order by|group by|having|limit|qualify)\b", "a step holds an expression, not a query", "use the steps filter, sort and aggregate"),
    (r"\bbetween\b(?!.*\band\b)", "BETWEEN without AND", "write x BETWEEN 1 AND 5"),
    (r"\$", "$ has no meaning here", "a parameter is written ${name}, and declared under `params`"),
]  # fmt: skip
_LAST = re.compile(
    r"(<>|<=|>=|==|!=|\|\||//|::|\*\*|[-+*/%<>=,.]|\b(?:and|or|not|in|like|ilike|between|is|when|then|else|case|interval|as|distinct|from))\s*$",
    re.IGNORECASE,
)


def tree_of(text: str) -> exp.Expr:
    """One scalar expression; raises ExpressionError."""
    if not text.strip():
        raise ExpressionError("the expression is empty", _COMMENT)
    masked = _masked(text)
    if (found := re.search(_FOREIGN[0][0], masked)) or (found := re.search(_FOREIGN[1][0], masked)):
        raise _foreign(masked, found.start())
    try:
        tree = _parse(text)
    except ParseError as error:
        raise _diagnosed(text, masked, error) from None
    except TokenError:
        raise _diagnosed(text, masked, ParseError("")) from None
    except RecursionError:
        raise ExpressionError("the expression is nested too deeply", "split it over several derive steps") from None
    if isinstance(tree, exp.Alias):
        if re.search(r"\bas\s+\S+\s*$", masked, re.IGNORECASE):
            raise ExpressionError(
                "an expression has no AS", "its name is the key before the colon", _offset(tree.args["alias"])
            )
        alias = tree.args["alias"]
        raise _diagnosed(text, masked, ParseError(""), _offset(alias), alias.name)
    if isinstance(tree, exp.Command) and str(tree.this).lower() == "if":  # `if > 0` is a statement to sqlglot
        raise ExpressionError("`if` begins no expression", 'write if(c, a, b); a column of that name is "if"')
    if tree.find(exp.Query) or isinstance(tree, exp.Command):
        found = re.search(r"\b(select|from|with)\b", masked, re.IGNORECASE)
        raise ExpressionError(
            "an expression works on one row: SELECT and subqueries are not possible",
            "what another query would compute is a step above this one",
            found.start() if found else None,
        )
    for case in tree.find_all(exp.Case):
        if len(re.findall(r"\bthen\b", masked, re.IGNORECASE)) < len(re.findall(r"\bwhen\b", masked, re.IGNORECASE)):
            raise ExpressionError("WHEN without THEN", "write CASE WHEN c THEN a ELSE b END", _offset(case))
    _check_names(tree, text, masked)
    return tree


def _parse(text: str) -> exp.Expr:
    tokens = _DUCKDB.tokenize(text)
    for before, token, after in zip([None, *tokens], tokens, [*tokens[1:], None], strict=False):
        a_type = before is not None and before.token_type in (TokenType.ALIAS, TokenType.DCOLON)
        if a_type and token.text.upper() in _TWO_MEANINGS:
            raise ExpressionError(
                f"{token.text} counts bytes in SQL, and bits elsewhere",
                f"write {_TWO_MEANINGS[token.text.upper()]}",
                token.start,
            )
        if (
            after is not None
            and after.token_type == TokenType.L_PAREN
            and token.token_type in DuckDBParser.FUNC_TOKENS
            and token.text.upper() in _KNOWN
            and not a_type
        ):
            token.text = _MARK + token.text
    trees = _DUCKDB.parser().parse(tokens, text)
    if not trees or trees[0] is None:
        raise ExpressionError("nothing but comments", _COMMENT)
    if len(trees) > 1:
        semicolon = next(t.start for t in tokens if t.token_type == TokenType.SEMICOLON)
        raise ExpressionError("one expression is wanted, not several statements", "remove the semicolon", semicolon)
    for call in trees[0].find_all(exp.Anonymous):
        call.set("this", call.name.removeprefix(_MARK))
    return trees[0]


def _check_names(tree: exp.Expr, text: str, masked: str) -> None:
    """What sqlglot keeps without its place: NULL, today's date, types and parts of dates."""
    for node in tree.find_all(exp.EQ, exp.NEQ):
        if isinstance(node.this, exp.Null) or isinstance(node.expression, exp.Null):
            found = re.search(r"=\s*(null)\b|<>\s*(null)\b|\b(null)\s*(?:=|<>|!=)", masked, re.IGNORECASE)
            op, no = ("=", "") if isinstance(node, exp.EQ) else ("<>", " NOT")
            place = found.start(found.lastindex or 0) if found else None
            raise ExpressionError(f"{op} NULL is never true", f"write IS{no} NULL", place)
    if tree.find(exp.CurrentDate, exp.CurrentTime, exp.CurrentTimestamp, exp.Localtime, exp.Localtimestamp) and (
        found := re.search(r"\b(current|local)_?(date|time|timestamp)\b", masked, re.IGNORECASE)
    ):
        raise ExpressionError(f"{found[0]} is not possible in an expression", TODAY, found.start())
    for dtype in tree.find_all(exp.DataType):
        if isinstance(dtype.parent, exp.Cast) and sql_type(dtype) is None:
            name = str(dtype.args.get("kind") or "") or dtype.sql("duckdb")
            found = re.search(rf"(?:\bas\s+|::\s*)({re.escape(name)})", text, re.IGNORECASE)
            remedy = did_you_mean(name.upper(), _TYPE_NAMES)
            raise ExpressionError(f"unknown type {name}", remedy, found.start(1) if found else _offset(dtype.parent))
    # sqlglot knows other names, and what they mean differs: NUMBER is decimal(18,3) to it
    for found in re.finditer(r"(?:\bas\s+|::\s*)([a-z_]\w*)", masked, re.IGNORECASE) if tree.find(exp.Cast) else ():
        if found[1].upper() not in _WRITTEN:
            raise ExpressionError(
                f"unknown type {found[1]}", did_you_mean(found[1].upper(), _TYPE_NAMES), found.start(1)
            )
    for extract in tree.find_all(exp.Extract):
        part = extract.this.name
        if {"dow": "dayofweek", "doy": "dayofyear"}.get(part.lower(), part.lower()) not in PARTS:
            found = re.search(rf"\(\s*({re.escape(part)})\b", text, re.IGNORECASE)
            raise ExpressionError(
                f"cannot extract {part.lower()!r}",
                did_you_mean(part.lower(), PARTS),
                found.start(1) if found else _offset(node),
            )


def sql_type(node: exp.DataType) -> str | None:
    """The type's name as pipelines.types reads it."""
    if node.this.name == "DECIMAL":
        given = ",".join(e.name for e in node.expressions) if node.expressions else "18,3"
        name = f"decimal({given if ',' in given else given + ',0'})"
    else:
        name = SQL_TYPES.get(node.this.name) or str(node.args.get("kind", ""))
    return name if parse_dtype(name) is not None else None


def _offset(node: exp.Expr) -> int | None:
    return min((n.meta["start"] for n in node.walk() if "start" in n.meta), default=None)


offset_of = _offset


# --- What is wrong with text that does not parse ------------------------------------------------------------------------


def _masked(text: str) -> str:
    """The text with what stands in quotes and comments as blanks; each sign keeps its place."""
    return re.sub(
        r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|--[^\n]*|/\*.*?\*/", lambda m: " " * len(m[0]), text, flags=re.DOTALL
    )


def _foreign(masked: str, offset: int) -> ExpressionError:
    """What another language's sign at this place should be."""
    for sign, said, remedy in _FOREIGN:
        if found := re.match(sign, masked[offset:]):
            return ExpressionError(
                f"{said}: {found[0]!r}" if len(found[0]) == 1 and not sign.isalpha() else said, remedy, offset
            )
    raise AssertionError(sign)


def _diagnosed(text: str, masked: str, error: ParseError, offset: int | None = None, word: str = "") -> ExpressionError:
    if (quote := re.search(r"['\"]", masked)) is not None:
        what = f"a quote inside of text is written twice: 'it''s'; {_COMMENT}"
        if quote[0] == '"':
            what = 'a column name stands in double quotes: "Adj Close"'
        return ExpressionError("cannot parse the expression: a quote is not closed", what, quote.start())
    opened = list[int]()
    for i, sign in enumerate(masked):
        if sign == "(":
            opened.append(i)
        elif sign == ")":
            if not opened:
                return ExpressionError(
                    "cannot parse the expression: this ) closes nothing", "remove it, or write ( before", i
                )
            opened.pop()
    if last := _LAST.search(masked.rstrip() if text.rstrip() == masked.rstrip() else text.rstrip()):
        said = f"cannot parse the expression: it ends after {last[1]!r}"
        return ExpressionError(said, f"write what is missing; {_COMMENT}", last.start(1))
    if opened:
        return ExpressionError(
            "cannot parse the expression: this ( is not closed", f"write ) where it ends; {_COMMENT}", opened[-1]
        )
    if len(re.findall(r"\bcase\b", masked, re.IGNORECASE)) > len(re.findall(r"\bend\b", masked, re.IGNORECASE)):
        found = re.search(r"\bcase\b", masked, re.IGNORECASE)
        assert found is not None
        return ExpressionError(
            "cannot parse the expression: CASE without END", "write CASE WHEN c THEN a ELSE b END", found.start()
        )
    for sign, said, remedy in _FOREIGN:
        if found := re.search(sign, masked, re.IGNORECASE | re.DOTALL):
            return ExpressionError(said, remedy, found.start(found.lastindex or 0))
    details = error.errors[0] if error.errors else {}
    if details:
        start = sum(len(line) + 1 for line in text.split("\n")[: details["line"] - 1])
        word = details["highlight"] or ""
        offset = max(start + details["col"] - len(word or " "), 0)
    where = f" at {word!r}" if word else ""
    remedy = "each derived column stands under its own name" if word == "," else QUOTES
    return ExpressionError(f"cannot parse the expression{where}", remedy, offset)
