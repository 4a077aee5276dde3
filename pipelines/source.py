"""YAML text as a tree of values that know their places; parameters are put in here.

Stricter than YAML: scalars follow the core schema of YAML 1.2, and what 1.1 and 1.2 read differently is an error.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from msgspec import Struct
from msgspec.structs import replace

from pipelines.errors import ConfigError, Issue, Place, did_you_mean, keep_secret

Scalar = None | bool | int | float | str
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

_INT = re.compile(r"[-+]?(0|[1-9][0-9]*)")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_SURPRISES = (
    (re.compile(r"(?i)(yes|no|on|off)"), "some YAML readers take it for a truth value: write true or false, or quote it"),
    (re.compile(r"[-+]?[0-9][0-9_]*_[0-9_]*"), "some YAML readers take it for a number: drop the underscores, or quote it"),
    (re.compile(r"[-+]?(0[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+|0b[01]+)"), "YAML readers disagree on its base: write a plain decimal number, or quote it"),
    (re.compile(r"[-+]?[0-9]+(:[0-5]?[0-9])+"), "some YAML readers take it for a number in base 60: quote it"),
)  # fmt: skip
_REFERENCE = re.compile(r"\$(\$\{|\{([^}]*)(\}|$))")
_IN = re.compile(r"\bIN\s*(\(\s*)?$", re.IGNORECASE)
_DEEPEST = 50
_LONGEST = 1000
CUT = "a comma ends a value inside { }"
CUT_REMEDY = "put the expression in quotes, or on a line of its own"
RUN = "${run}"


class Node(Struct, frozen=True):
    """A value of the YAML text: a scalar, a tuple of nodes or a mapping to nodes, and where it stands."""

    value: Scalar | tuple[Node, ...] | dict[str, Node]
    place: Place
    keys: Mapping[str, Place] = {}
    """Of a mapping: where each key stands."""
    lines: tuple[Place, ...] = ()
    """Of a text written as it is read: where each of its lines starts."""
    masked: str | None = None
    """Of a text with secrets in it: with `${secret:NAME}` in their place."""

    def at(self, offset: int | None) -> Place:
        """Where the text's character `offset` (from 0) stands; the scalar's start where that is not known."""
        if offset is None or not isinstance(self.value, str):
            return self.place
        before = self.value[:offset]
        row = before.count("\n")
        if row >= len(self.lines):
            return self.place
        start = self.lines[row]
        return replace(start, column=start.column + len(before) - (before.rfind("\n") + 1))

    def find(self, path: tuple[str | int, ...]) -> Node:
        """The node at `path`, or the nearest one above it that exists."""
        node = self
        for part in path:
            if isinstance(node.value, dict) and part in node.value:
                node = node.value[str(part)]
            elif isinstance(node.value, tuple) and isinstance(part, int) and part < len(node.value):
                node = node.value[part]
        return node

    def plain(self, masked: bool = False) -> Any:
        """The value as plain Python data; `masked`: without secrets."""
        if isinstance(self.value, dict):
            return {k: v.plain(masked) for k, v in self.value.items()}
        if isinstance(self.value, tuple):
            return [v.plain(masked) for v in self.value]
        return self.masked if masked and self.masked is not None else self.value

    def secrets(self) -> frozenset[str]:
        """The names of those in it."""
        if isinstance(self.value, dict | tuple):
            inside = self.value.values() if isinstance(self.value, dict) else self.value
            return frozenset().union(*(node.secrets() for node in inside))
        return frozenset(re.findall(r"\$\{secret:([^}]*)\}", self.masked or ""))


def read_yaml(path: Path, shown: str) -> Node:
    """The file's one document; `shown` names the file in places. Raises ConfigError with every mistake in it."""
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(Issue(f"{shown} is not UTF-8 text (byte {error.start})", "save it as UTF-8")) from None
    except OSError as error:
        raise ConfigError(Issue(f"cannot read {shown}: {error.strerror}", "name an existing YAML file")) from None
    return parse_yaml(text, shown)


def parse_yaml(text: str, shown: str) -> Node:
    """The text's one document as a tree. Raises ConfigError with every mistake in it."""
    try:
        _plain_yaml(text, shown)  # before an alias is followed
        root = yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        raise ConfigError(_not_yaml(error, shown)) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        column = error.position - text.rfind("\n", 0, error.position)
        raise ConfigError(
            Issue("a character that YAML does not allow", "remove it", Place(shown, line, column))
        ) from None
    except UnicodeEncodeError as error:  # half a character, which no encoding can write
        raise ConfigError(Issue(f"{shown} is not text: {error.reason}", "save it as UTF-8")) from None
    if root is None:
        raise ConfigError(Issue("the file is empty", "a pipeline has `steps:`", Place(shown, 1, 1)))
    builder = _Builder(text, shown)
    node = builder.node(root)
    if builder.issues:
        raise ConfigError(*builder.issues)
    return node


def _plain_yaml(text: str, shown: str) -> None:
    """Raises ConfigError for aliases, tags and deep nesting."""
    issues, depth = list[Issue](), 0
    for event in yaml.parse(text, Loader=_Loader):
        mark: Any = event.start_mark
        place = Place(shown, mark.line + 1, mark.column + 1)
        if isinstance(event, yaml.AliasEvent):
            remedy = "to use a value twice make it a parameter: ${name}; quote a text that starts with *"
            issues.append(Issue(f"an alias (*{event.anchor}) is not allowed here", remedy, place))
        elif tag := getattr(event, "tag", None):
            shown_tag = tag.replace("tag:yaml.org,2002:", "!!")
            issues.append(Issue(f"the tag {shown_tag!r} is not allowed", "remove it", place))
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > _DEEPEST:
            raise ConfigError(Issue("this is nested too deeply", "a pipeline needs a few levels", place))
    if issues:
        raise ConfigError(*issues)


def _not_yaml(error: yaml.MarkedYAMLError, shown: str) -> Issue:
    """What the parser says, in the words of somebody who writes a config."""
    problem, context = error.problem or "unknown error", error.context or ""
    mark = error.problem_mark or error.context_mark
    started = error.context_mark
    remedy = (
        "give the keys of one mapping the same indentation, made of spaces, and quote texts with special characters"
    )
    if "another document" in problem:
        problem, remedy = "a second document starts here", "keep one pipeline in a file: remove the `---`"
    elif "mapping values" in problem:
        remedy = "quote the text: a colon followed by a space starts a mapping"
    elif "cannot start any token" in problem:
        remedy = "indent with spaces, not tabs, and quote a text that starts with @, %, ` or a tab"
    elif "alias" in context or "anchor" in context:
        problem, remedy = "* starts an alias and & an anchor", 'quote the text: "*.csv"'
    elif "quoted scalar" in context and "end of stream" in problem:
        mark, problem, remedy = started or mark, "this quote is not closed", "close it at the text's end"
    elif "escape" in problem or "hexdecimal" in problem:
        problem = "an unknown escape in double quotes"
        remedy = r"put the text in single quotes, or write \\ for a backslash"
    elif "expected ',' or" in problem:
        remedy = 'quote texts that hold one of { } [ ] , : #, as "${name}"'
        if started and mark and started.line < mark.line:
            bracket = "[" if "']'" in problem else "{"
            mark, problem, remedy = started, f"this {bracket} is not closed", f"close it; or {remedy}"
    elif "comment or line break" in problem or "expected <document start>" in problem or "block end" in problem:
        remedy = "a text that starts with a quote ends with it: put the whole text in quotes of the other kind"
    place = Place(shown, mark.line + 1, mark.column + 1) if mark else Place(shown, 1, 1)
    return Issue(f"this is not YAML: {problem}", remedy, place)


class _Builder:
    def __init__(self, text: str, shown: str) -> None:
        self.rows, self.shown, self.issues = text.split("\n"), shown, list[Issue]()

    def place(self, mark: yaml.Mark) -> Place:
        return Place(self.shown, mark.line + 1, mark.column + 1)

    def node(self, raw: yaml.Node) -> Node:
        place = self.place(raw.start_mark)
        if isinstance(raw, yaml.MappingNode):
            return self.mapping(raw, place)
        if isinstance(raw, yaml.SequenceNode):
            return Node(tuple(self.node(item) for item in raw.value), place)
        assert isinstance(raw, yaml.ScalarNode)
        return self.scalar(raw, place)

    def mapping(self, raw: yaml.MappingNode, place: Place) -> Node:
        items, keys = dict[str, Node](), dict[str, Place]()
        for key, value in raw.value:
            where = self.place(key.start_mark)
            if not isinstance(key, yaml.ScalarNode):
                self.issues.append(Issue("a key must be a plain text", "write `key: value`", where))
                continue
            name = str(key.value)
            if name == "<<" and not key.style:
                self.issues.append(Issue("a merge key (<<) is not allowed", "write the keys out", where))
                continue
            if name in items and value.start_mark.index == value.end_mark.index and name.count(")") > name.count("("):
                self.issues.append(Issue(CUT, CUT_REMEDY, where))  # `{x: round(y, 2), z: round(y, 2)}`
                continue
            if name in items:
                first = keys[name].line
                self.issues.append(
                    Issue(f"the key {name!r} stands here twice (first in line {first})", "rename or remove one", where)
                )
                continue
            items[name], keys[name] = self.node(value), where
        return Node(items, place, keys)

    def scalar(self, raw: yaml.ScalarNode, place: Place) -> Node:
        text = str(raw.value)
        if raw.style in ("|", ">"):
            first = raw.start_mark.line + 1
            lines = [
                Place(self.shown, first + i + 1, len(row) - len(read) + 1)
                for i, (row, read) in enumerate(zip(self.rows[first:], text.split("\n"), strict=False))
            ]
            return Node(text, place, lines=tuple(lines) if raw.style == "|" else ())
        one_line = raw.start_mark.line == raw.end_mark.line
        quoted = raw.style in ("'", '"')
        start = replace(place, column=place.column + (1 if quoted else 0))
        # an escape in quotes shifts what follows it: then only the scalar's own place is certain
        faithful = one_line and raw.end_mark.column - raw.start_mark.column == len(text) + (2 if quoted else 0)
        lines_of = (start,) if faithful else ()
        if quoted:
            return Node(text, place, lines=lines_of)
        for pattern, remedy in _SURPRISES:
            if pattern.fullmatch(text):
                self.issues.append(Issue(f"`{text}` is not plain here", remedy, place))
                break
        if len(text) > _LONGEST and _INT.fullmatch(text):  # Python reads 4300 digits
            self.issues.append(Issue(f"a number of {len(text)} digits", "quote it to make it a text", place))
            return Node(None, place)
        value = _plain(text)
        return Node(value, place, lines=lines_of if isinstance(value, str) else ())


def _plain(text: str) -> Scalar:
    if text in ("", "~", "null", "Null", "NULL"):
        return None
    if text in ("true", "True", "TRUE"):
        return True
    if text in ("false", "False", "FALSE"):
        return False
    if _INT.fullmatch(text):
        return int(text)
    if _NOT_FINITE.fullmatch(text):
        return float(text.replace(".", "", 1))
    return float(text) if _FLOAT.fullmatch(text) else text


def substitute(node: Node, values: Mapping[str, Node], issues: list[Issue]) -> Node:
    """The tree with `${name}`, `${env:NAME}` and `${secret:NAME}` put in; `$${` is a plain `${`; `${run}` stays for the run to fill.

    A scalar that is one reference takes the parameter's type; inside a longer text it becomes text.
    """
    if isinstance(node.value, dict):
        return replace(node, value={k: substitute(v, values, issues) for k, v in node.value.items()})
    if isinstance(node.value, tuple):
        return replace(node, value=tuple(substitute(v, values, issues) for v in node.value))
    if not isinstance(node.value, str) or "$" not in node.value:
        return node
    whole = _REFERENCE.fullmatch(node.value)
    if whole and whole[3] and whole[2] in values:
        return _moved(values[whole[2]], node.place)

    masks, texts = dict[int, str](), dict[int, str]()

    def text_of(match: re.Match[str]) -> str:
        name = match[2]
        place = node.at(match.start())
        if name is None:
            return "${"
        if not match[3] or not name:
            issues.append(
                Issue(
                    "`${` is not closed" if name else "`${}` names no parameter",
                    "write ${name}, or $${ for a plain ${",
                    place,
                )
            )
            return ""
        if name == "run":
            return RUN
        if name.startswith("env:"):
            if (found := os.environ.get(name[4:])) is None:
                issues.append(
                    Issue(f"the environment variable {name[4:]!r} is not set", f"export {name[4:]}=...", place)
                )
            return found or ""
        if name.startswith("secret:"):
            if (secret := _secret(name[7:])) is None:
                remedy = f"export {name[7:]}=..., or put it into the file {_secret_file(name[7:])}"
                issues.append(Issue(f"the secret {name[7:]!r} is not set", remedy, place))
            keep_secret(secret or "", name[7:])
            masks[match.start()] = match[0]
            return secret or ""
        if name not in values:
            issues.append(Issue(f"unknown parameter {name!r}", _remedy(name, values), place))
            return ""
        value = values[name].value
        behind = _IN.search(match.string, 0, match.start())
        if isinstance(value, tuple) and behind and (listed := _in_sql(value)):
            return listed if behind[1] else f"({listed})"
        if isinstance(value, dict | tuple) or value is None:
            what = f"the parameter {name!r} is not a single value and cannot be part of a text"
            remedy = "use it alone" if value is None else "use it alone, or a list of texts or numbers behind IN"
            if behind and value == ():
                what, remedy = f"the parameter {name!r} is an empty list, and nothing is in it", "list a value"
            issues.append(Issue(what, remedy, place))
            return ""
        if (masked := values[name].masked) is not None:
            masks[match.start()] = masked
        return str(value).lower() if isinstance(value, bool) else str(value)

    def noted(match: re.Match[str]) -> str:
        texts[match.start()] = text = text_of(match)
        return text

    text = _REFERENCE.sub(noted, node.value)
    masked = _REFERENCE.sub(lambda match: {**texts, **masks}[match.start()], node.value) if masks else None
    return replace(node, value=text, lines=(), masked=masked)


def _in_sql(values: Sequence[Node]) -> str:
    """The values as SQL has them between the parentheses of IN; nothing where one cannot stand there."""
    plain = [v.value for v in values if v.masked is None]
    fits = (isinstance(v, str | bool | int) or (isinstance(v, float) and math.isfinite(v)) for v in plain)
    if len(plain) < len(values) or not all(fits):
        return ""
    return ", ".join("'" + v.replace("'", "''") + "'" if isinstance(v, str) else str(v).lower() for v in plain)


def _secret_file(name: str) -> Path:
    return Path(os.environ.get("PIPELINES_SECRETS", "/run/secrets")) / Path(name).name


def _secret(name: str) -> str | None:
    """From the environment, else from a file of that name."""
    if name in os.environ:
        return os.environ[name]
    try:
        return _secret_file(name).read_text().rstrip("\n")
    except (OSError, UnicodeDecodeError):
        return None


def _remedy(name: str, values: Mapping[str, Node]) -> str:
    known = did_you_mean(name, values)
    return known if known.startswith("did") else "declare it under `params:`, above where it is used"


def _moved(node: Node, place: Place) -> Node:
    """The parameter's value, standing where it is used."""
    move: Callable[[Node], Node] = lambda n: _moved(n, place)  # noqa: E731
    if isinstance(node.value, dict):
        return Node({k: move(v) for k, v in node.value.items()}, place, dict.fromkeys(node.value, place))
    if isinstance(node.value, tuple):
        return Node(tuple(map(move, node.value)), place)
    return Node(node.value, place, masked=node.masked)


_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_()*<>=/+.-]*( [A-Za-z0-9_()*<>=/+.-]+)*")


def scalar_text(text: str) -> str:
    """The text as YAML, in blocks and in brackets: as it is where every reader takes it for this text, else in quotes."""
    surprising = text.lower() in ("true", "false", "null", "yes", "no", "on", "off", "y", "n")
    if _PLAIN.fullmatch(text) and not surprising:
        return text
    if text.isprintable() and '"' in text:
        return "'" + text.replace("'", "''") + "'"
    escaped = "".join(
        char if char.isprintable() and char not in '"\\' else f"\\{char}" if char in '"\\' else _escape(char)
        for char in text
    )
    return f'"{escaped}"'


def _escape(char: str) -> str:
    return (
        f"\\x{ord(char):02x}"
        if ord(char) < 256
        else f"\\u{ord(char):04x}"
        if ord(char) < 65536
        else f"\\U{ord(char):08x}"
    )
