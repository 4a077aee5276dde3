"""What each kind of step is, from the step classes: for the terminal and for docs/steps.md."""

from __future__ import annotations

import textwrap

from pydantic.fields import FieldInfo

from pipelines.errors import ConfigError, Issue, did_you_mean
from pipelines.spec import COMMON, KIND_WORDS
from pipelines.steps import KINDS
from pipelines.steps.base import Step

ANY_NAME = "A column of the result: its SQL expression."
HEAD = """# Steps

<!-- made by docs/make_reference.py from pipelines/steps/: do not edit -->

A step is `name: {<kind>: <options>}`. Beside the kind stand the keys that every step takes:

| key | meaning |
|---|---|
"""


def documented(cls: type[Step]) -> str:
    """The kind's documentation, a paragraph a line."""
    return "\n\n".join(" ".join(part.split()) for part in (cls.__doc__ or "").split("\n\n"))


def markdown() -> str:
    """docs/steps.md."""
    common = "".join(f"| `{key}` | {meaning} |\n" for key, meaning in COMMON.items())
    return HEAD + common + "\n" + "\n\n".join(map(_section, KINDS.values())) + "\n"


def listed() -> str:
    """All kinds, one line each."""
    width = max(map(len, KINDS))
    lines = [f"{kind:{width}}  {_first_sentence(cls)}" for kind, cls in KINDS.items()]
    return "\n".join([*lines, "", "pipelines steps KIND explains one; docs/steps.md has them all."])


def explained(kind: str) -> str:
    """One kind for the terminal. Raises ConfigError when there is none of that name."""
    if kind not in KINDS:
        raise ConfigError(Issue(f"there is no step kind {kind!r}", did_you_mean(kind, KINDS)))
    cls = KINDS[kind]
    lines = [f"{kind} ({_role(cls)})", ""]
    for paragraph in documented(cls).split("\n\n"):
        lines += [*textwrap.wrap(paragraph, 100), ""]
    lines += [
        "example:",
        "  name:",
        *["    from: [prices, more]"] * (cls.several and cls.fewest > 1),
        f"    {cls.example}",
        "",
        "options:",
    ]
    for name, meaning, dtype, default in _options(cls):
        lines.append(f"  {name}: {dtype}" + (f"; {default}" if default else ""))
        lines += textwrap.wrap(meaning, 94, initial_indent="      ", subsequent_indent="      ")
    if cls.shorthand:
        lines += ["", f"`{kind}: value` is short for `{kind}: {{{cls.shorthand}: value}}`."]
    if known := cls.known():
        widths = [max(len(line[i]) for line in known) for i in range(len(known[0]))]
        lines += ["", "tried here:"]
        lines += [
            "  " + "  ".join(f"{text:{width}}" for text, width in zip(line, widths, strict=True)).rstrip()
            for line in known
        ]
    common = [key for key in COMMON if not (key == "from" and cls.role == "source")]
    common = [key for key in common if not (key == "checkpoint" and cls.role == "sink")]
    return "\n".join([*lines, "", f"beside `{kind}`: {', '.join(common)}"])


_WORDS = {"string": "text", "integer": "whole number", "number": "number", "boolean": "true or false"}


def _role(cls: type[Step]) -> str:
    """What it makes of what."""
    given = [" or ".join(KIND_WORDS[each] for each in wanted) for wanted in cls.takes]
    first = len(given) - cls.optional
    taken = " and ".join(given[:first]) + "".join(f", perhaps with {each}" for each in given[first:])
    if cls.role == "source":
        return f"a source of {KIND_WORDS[cls.gives]}: it has no input"
    return f"writes {taken}" if cls.role == "sink" else f"makes {KIND_WORDS[cls.gives]} from {taken}"


def _first_sentence(cls: type[Step]) -> str:
    paragraph = documented(cls).split("\n\n", 1)[0]
    return paragraph.split(". ")[0].split("; ")[0].rstrip(".") + "."


def _options(cls: type[Step]) -> list[tuple[str, str, str, str]]:
    """(name, meaning, type, default) of each option."""
    made = cls.model_json_schema().get("properties", {})
    found = [
        (info.alias or name, info.description or "", _type(made[info.alias or name]), _default(info))
        for name, info in cls.model_fields.items()
    ]
    if cls.model_config.get("extra") == "allow":
        found.append(("any other name", ANY_NAME, "SQL", ""))
    return found


def _type(made: dict[str, object]) -> str:
    """A JSON Schema's type in words."""
    if made.get("format") in ("sql", "type"):
        return "SQL" if made["format"] == "sql" else "type"
    if isinstance(members := made.get("anyOf"), list):
        words = [_type(member) for member in members if member != {"type": "null"}]
        if {"text", "number"} <= set(words):
            words = [word for word in words if word not in ("whole number", "true or false")]
        return " or ".join(dict.fromkeys(words))
    if isinstance(choices := made.get("enum"), list):
        return " | ".join("null" if each is None else str(each) for each in choices)
    if made.get("type") == "array":
        items = made.get("items")
        return f"list of {_type(items)}" if isinstance(items, dict) else "list"
    if made.get("type") == "object":
        values = made.get("additionalProperties")
        return f"mapping to {_type(values)}" if isinstance(values, dict) else "mapping"
    return _WORDS.get(str(made.get("type")), "any value")


def _default(info: FieldInfo) -> str:
    if info.is_required():
        return "required"
    value = info.get_default(call_default_factory=True)
    if value in (None, [], {}):
        return ""
    return f"default {str(value).lower() if isinstance(value, bool) else value}"


def _section(cls: type[Step]) -> str:
    rows = ["| option | type | meaning | default |", "|---|---|---|---|"]
    for name, meaning, dtype, default in _options(cls):
        short = " (the short form)" if name == cls.shorthand else ""
        shown = name if meaning == ANY_NAME else f"`{name}`"
        value = default.removeprefix("default ")
        value = value if value in ("", "required") else f"`{value}`"
        rows.append(f"| {shown}{short} | {dtype.replace('|', chr(92) + '|')} | {meaning} | {value} |")
    origin = "  from: [prices, more]\n" if cls.several and cls.fewest > 1 else ""
    example = f"```yaml\nname:\n{origin}  {cls.example}\n```"
    if known := cls.known():
        head, *lines = known
        rows += ["", "Tried here:", "", f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
        rows += [f"| `{name}` | {' | '.join(rest)} |" for name, *rest in lines]
    return "\n".join([f"## {cls.kind}", "", documented(cls), "", example, "", *rows])
