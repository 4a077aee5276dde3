"""What fills a config in: declared parameters with their types, values given for a run, and overlays for environments."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping
from typing import Any

from msgspec.structs import replace

from pipelines.errors import ConfigError, Issue, Place, did_you_mean
from pipelines.source import Node, parse_yaml, substitute

_KEYS = ("type", "default", "choices", "description")


def _is_date(value: Any) -> bool:
    try:
        return isinstance(value, str) and bool(datetime.date.fromisoformat(value))
    except ValueError:
        return False


TYPES: dict[str, Callable[[Any], bool]] = {
    "string": lambda value: isinstance(value, str),
    "integer": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "number": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
    "boolean": lambda value: isinstance(value, bool),
    "date": _is_date,
    "list": lambda value: isinstance(value, list),
}


def merged(base: Node, over: Node, path: tuple[str, ...] = ()) -> Node:
    """An overlay's tree over the config's: mappings key by key, every other value replaces what is there.

    A plain value for a declared parameter is its new default.
    """
    if path[:1] == ("params",) and len(path) == 2 and _is_declaration(base) and not isinstance(over.value, dict):
        assert isinstance(base.value, dict)
        return replace(base, value={**base.value, "default": over}, keys={**base.keys, "default": over.place})
    if not isinstance(base.value, dict) or not isinstance(over.value, dict):
        return over
    both = {
        name: merged(base.value[name], node, (*path, name)) for name, node in over.value.items() if name in base.value
    }
    return replace(base, value={**base.value, **over.value, **both}, keys={**over.keys, **base.keys})


def undeclared(base: Node, over: Node) -> list[Issue]:
    """Parameters of an overlay that the config does not have. One that says its type is a new one, for steps of the overlay."""
    declared, given = (tree.value.get("params") if isinstance(tree.value, dict) else None for tree in (base, over))
    if given is None or not isinstance(given.value, dict):
        return []
    names = declared.value if declared is not None and isinstance(declared.value, dict) else {}
    return [
        _unknown(name, names, given.keys[name])
        for name, body in given.value.items()
        if name not in names and not (isinstance(body.value, dict) and "type" in body.value)
    ]


def _unknown(name: str, declared: Mapping[str, Node], place: Place | None = None) -> Issue:
    return Issue(f"unknown parameter {name!r}", did_you_mean(name, declared) or "the config declares none", place)


def resolve(node: Node | None, given: Mapping[str, Any], issues: list[Issue]) -> dict[str, Node] | None:
    """Each parameter's value: what is given, else its default; None when one has none. Mistakes are added to `issues`."""
    declared: Mapping[str, Node] = {}
    keys: Mapping[str, Place] = {}
    if node is not None and node.value is not None:
        if isinstance(node.value, dict):
            declared, keys = node.value, node.keys
        else:
            issues.append(Issue("`params` is a mapping", "write `params: {name: value}`", node.place))
    for name in given:
        if name not in declared:
            issues.append(_unknown(name, declared))
    values, missing = dict[str, Node](), list[str]()
    for name, body in declared.items():
        if name == "run" or name.startswith(("env:", "secret:")):
            what = f"{name!r} cannot name a parameter: ${{{name}}} has a meaning"
            issues.append(Issue(what, "rename it", keys[name]))
        kind, default, choices = _declaration(body, issues)
        value: Node | None
        if name in given and (value := _given(name, given[name], kind, issues)) is not None:
            pass
        elif default is None and name in given:
            value = None
        elif default is None:
            issues.append(
                Issue(
                    f"the parameter {name!r} has no value",
                    f"give it, as `-p {name}=...` does, or a `default`",
                    keys[name],
                )
            )
            value = None
        else:
            value = substitute(default, values, issues)
            if kind and _is_declaration(body) and not TYPES[kind](value.plain()):
                what = f"the default of {name!r} is {value.plain()!r}, which is not {_a(kind)}"
                issues.append(Issue(what, "make default and type agree", default.place))
        if value is not None and choices is not None and value.plain() not in choices:
            listed = ", ".join(map(str, choices))
            issues.append(
                Issue(
                    f"the parameter {name!r} is {value.plain()!r}",
                    f"choose one of: {listed}",
                    None if name in given else keys[name],
                )
            )
        if value is None:
            missing.append(name)
        else:
            values[name] = value
    return None if missing else values


def _is_declaration(node: Node) -> bool:
    return isinstance(node.value, dict) and bool({"type", "default"} & set(node.value))


def _declaration(node: Node, issues: list[Issue]) -> tuple[str | None, Node | None, list[Any] | None]:
    """(Type, default, choices). A plain value is a default that gives the type."""
    if not _is_declaration(node):
        plain = node.plain()
        found = next((name for name in ("boolean", "number", "string", "list") if TYPES[name](plain)), None)
        return found, node, None
    assert isinstance(node.value, dict)
    for key in node.value:
        if key not in _KEYS:
            issues.append(Issue(f"unknown key {key!r} of a parameter", did_you_mean(key, _KEYS), node.keys[key]))
    kind: str | None = None
    if (said := node.value.get("type")) is not None:
        plain = said.plain()
        if isinstance(plain, str) and plain in TYPES:
            kind = plain
        else:
            issues.append(Issue(f"unknown type {plain!r}", did_you_mean(str(plain), TYPES), said.place))
    choices = node.value.get("choices")
    if choices is not None and (not isinstance(choices.value, tuple) or not choices.value):
        issues.append(Issue("`choices` is a list of values", "choices: [a, b]", choices.place))
        choices = None
    for each in choices.value if choices is not None and isinstance(choices.value, tuple) and kind else ():
        if "${" not in str(each.value) and not TYPES[str(kind)](each.plain()):
            what = f"the choice {each.plain()!r} is not {_a(str(kind))}"
            issues.append(Issue(what, "make `choices` and `type` agree", each.place))
    return kind, node.value.get("default"), choices.plain() if choices else None


def _given(name: str, given: Any, kind: str | None, issues: list[Issue]) -> Node | None:
    """A value of the command line, which is text, or of Python: what is said of it holds for both."""
    place = Place(f"-p {name}", 1, 1)
    if kind in ("string", "date") and isinstance(given, str):
        node = Node(given, place)
    elif isinstance(given, str) and given:
        try:
            node = parse_yaml(given, f"-p {name}")
        except ConfigError:
            node = Node(given, place)
    else:
        if kind == "date" and isinstance(given, datetime.datetime) and given.time() == datetime.time():
            given = given.date()  # as pandas gives dates
        node = _node(given, place)
    if kind and not TYPES[kind](node.plain()):
        issues.append(
            Issue(
                f"the parameter {name!r} is {given!r}, which is not {_a(kind)}",
                f"the config gives it that type; another is declared as `{name}: {{type: ..., default: ...}}`",
            )
        )
        return None
    return node


def _a(kind: str) -> str:
    return {"integer": "a whole number", "boolean": "true or false", "date": "a date like 2020-12-31"}.get(
        kind, f"a {kind}"
    )


def _node(value: Any, place: Place) -> Node:
    if isinstance(value, Mapping):
        return Node({k: _node(v, place) for k, v in value.items()}, place, dict.fromkeys(value, place))
    if isinstance(value, list | tuple):
        return Node(tuple(_node(v, place) for v in value), place)
    return Node(str(value) if isinstance(value, datetime.date) else value, place)  # as YAML has it; datetimes are dates
