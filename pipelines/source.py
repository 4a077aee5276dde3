"""YAML text as a tree of values that know their places; parameters are put in here.

Stricter than YAML: scalars follow the core schema of YAML 1.2, and what 1.1 and 1.2 read differently is an error.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from pipelines.errors import ConfigError, Issue, Place, did_you_mean

Scalar = None | bool | int | float | str
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

_INT = re.compile(r"[-+]?(0|[1-9][0-9]*)")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_SURPRISES = (
    (re.compile(r"(?i)(yes|no|on|off|y|n)"), "some YAML readers take it for a truth value: write true or false, or quote it"),
    (re.compile(r"[-+]?[0-9][0-9_]*_[0-9_]*"), "some YAML readers take it for a number: drop the underscores, or quote it"),
    (re.compile(r"[-+]?(0[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+|0b[01]+)"), "YAML readers disagree on its base: write a plain decimal number, or quote it"),
    (re.compile(r"[-+]?[0-9]+(:[0-5]?[0-9])+"), "some YAML readers take it for a number in base 60: quote it"),
)  # fmt: skip
_REFERENCE = re.compile(r"\$(\$\{|\{([^}]*)\})")
RUN = "${run}"


@dataclass(frozen=True)
class Node:
    """A value of the YAML text: a scalar, a tuple of nodes or a mapping to nodes, and where it stands."""

    value: Scalar | tuple[Node, ...] | dict[str, Node]
    place: Place
    keys: Mapping[str, Place] = field(default_factory=dict)
    """Of a mapping: where each key stands."""
    lines: tuple[Place, ...] = ()
    """Of a text written as it is read: where each of its lines starts."""

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

    def plain(self) -> Any:
        """The value as plain Python data."""
        if isinstance(self.value, dict):
            return {k: v.plain() for k, v in self.value.items()}
        if isinstance(self.value, tuple):
            return [v.plain() for v in self.value]
        return self.value


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
        root = yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = Place(shown, mark.line + 1, mark.column + 1) if mark else Place(shown, 1, 1)
        problem = error.problem or "not YAML"
        remedy = "quote the text: a colon followed by a space starts a mapping" if "mapping values" in problem else (
            "YAML wants the same indentation for keys of one mapping, made of spaces, and quotes around special characters"
        )  # fmt: skip
        raise ConfigError(Issue(f"this is not YAML: {problem}", remedy, place)) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        column = error.position - text.rfind("\n", 0, error.position)
        raise ConfigError(
            Issue("a character that YAML does not allow", "remove it", Place(shown, line, column))
        ) from None
    if root is None:
        raise ConfigError(Issue("the file is empty", "a pipeline has `steps:`", Place(shown, 1, 1)))
    builder = _Builder(text, shown)
    node = builder.node(root)
    if builder.issues:
        raise ConfigError(*builder.issues)
    return node


class _Builder:
    def __init__(self, text: str, shown: str) -> None:
        self.rows, self.shown, self.issues = text.split("\n"), shown, list[Issue]()
        self.seen = set[int]()

    def place(self, mark: yaml.Mark) -> Place:
        return Place(self.shown, mark.line + 1, mark.column + 1)

    def node(self, raw: yaml.Node) -> Node:
        place = self.place(raw.start_mark)
        if id(raw) in self.seen:  # compose gives an alias as the anchor's own node
            self.issues.append(Issue("an alias (*) is not allowed here", "use a parameter: ${name}", place))
            return Node(None, place)
        self.seen.add(id(raw))
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
            lines = list[Place]()
            for row in range(raw.start_mark.line + 1, raw.end_mark.line + 1):
                content = self.rows[row] if row < len(self.rows) else ""
                lines.append(Place(self.shown, row + 1, len(content) - len(content.lstrip()) + 1))
            return Node(text, place, lines=tuple(lines) if raw.style == "|" else ())
        one_line = raw.start_mark.line == raw.end_mark.line
        quoted = raw.style in ("'", '"')
        start = replace(place, column=place.column + (1 if quoted else 0))
        # an escape in quotes shifts what follows it: then only the scalar's own place is certain
        faithful = one_line and raw.end_mark.column - raw.start_mark.column == len(text) + (2 if quoted else 0)
        lines_of = (start,) if faithful else ()
        tag = raw.tag.removeprefix("tag:yaml.org,2002:")
        if tag not in ("null", "bool", "int", "float", "str", "timestamp", "merge", "value"):
            self.issues.append(Issue(f"the tag {raw.tag!r} is not allowed", "remove it", place))
        if quoted:
            return Node(text, place, lines=lines_of)
        for pattern, remedy in _SURPRISES:
            if pattern.fullmatch(text):
                self.issues.append(Issue(f"`{text}` is not plain here", remedy, place))
                break
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
    return float(text) if _FLOAT.fullmatch(text) else text


def substitute(node: Node, values: Mapping[str, Node], issues: list[Issue]) -> Node:
    """The tree with `${name}` and `${env:NAME}` put in; `$${` is a plain `${`; `${run}` stays for the run to fill.

    A scalar that is one reference takes the parameter's type; inside a longer text it becomes text.
    """
    if isinstance(node.value, dict):
        return replace(node, value={k: substitute(v, values, issues) for k, v in node.value.items()})
    if isinstance(node.value, tuple):
        return replace(node, value=tuple(substitute(v, values, issues) for v in node.value))
    if not isinstance(node.value, str) or "$" not in node.value:
        return node
    whole = _REFERENCE.fullmatch(node.value)
    if whole and whole[2] is not None and whole[2] in values:
        return _moved(values[whole[2]], node.place)

    def text_of(match: re.Match[str]) -> str:
        name = match[2]
        place = node.at(match.start())
        if name is None:
            return "${"
        if name == "run":
            return RUN
        if name.startswith("env:"):
            if (found := os.environ.get(name[4:])) is None:
                issues.append(
                    Issue(f"the environment variable {name[4:]!r} is not set", f"export {name[4:]}=...", place)
                )
            return found or ""
        if name not in values:
            issues.append(
                Issue(f"unknown parameter {name!r}", did_you_mean(name, values) or "declare it under `params:`", place)
            )
            return ""
        value = values[name].value
        if isinstance(value, dict | tuple) or value is None:
            issues.append(
                Issue(
                    f"the parameter {name!r} is not a single value and cannot be part of a text", "use it alone", place
                )
            )
            return ""
        return str(value).lower() if isinstance(value, bool) else str(value)

    return replace(node, value=_REFERENCE.sub(text_of, node.value), lines=())


def _moved(node: Node, place: Place) -> Node:
    """The parameter's value, standing where it is used."""
    move: Callable[[Node], Node] = lambda n: _moved(n, place)  # noqa: E731
    if isinstance(node.value, dict):
        return Node({k: move(v) for k, v in node.value.items()}, place, dict.fromkeys(node.value, place))
    if isinstance(node.value, tuple):
        return Node(tuple(map(move, node.value)), place)
    return Node(node.value, place)
