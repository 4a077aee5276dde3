"""The JSON Schema of configs, made from the step classes: for completion, hover and diagnostics in editors.

It knows the form of a config: keys, options and their types. What columns and expressions mean only `check` knows.
Draft 7 is what editors' YAML servers read best.
"""

from __future__ import annotations

import json
from typing import Any

from pipelines.reference import ANY_NAME, documented
from pipelines.source import parse_yaml
from pipelines.spec import COMMON, EXECUTORS, TOP, ExecutorOptions, KubernetesOptions, StoreOptions
from pipelines.steps import KINDS
from pipelines.steps.base import Step

Json = dict[str, Any]
_REFERENCE: Json = {"$ref": "#/definitions/reference"}
_STEP_NAME = (
    r"^[^0-9\s!-/:-@\[-^`{-~][^\s!-/:-@\[-^`{-~]*$"  # as Python's names, in what every reader of patterns knows
)


def schema() -> Json:
    """The schema as plain data."""
    executor = _model(ExecutorOptions)
    executor["properties"]["kubernetes"] |= _model(KubernetesOptions)
    for reference in ("$ref", "allOf", "anyOf"):  # to what now stands there
        executor["properties"]["kubernetes"].pop(reference, None)
    properties: Json = {
        "name": _texts(pattern=r"^[^\s!-,./:-@\[-^`{-~]*$"),
        "description": {"type": "string"},
        "params": {"type": ["object", "null"]},
        "executor": {"anyOf": [{"enum": [*EXECUTORS]}, {"type": "string", "pattern": "://"}, executor]},
        "store": {"anyOf": [{"type": "string", "minLength": 1}, _model(StoreOptions)]},
        "steps": {
            "type": "object",
            "minProperties": 1,
            "propertyNames": {"pattern": _STEP_NAME},
            "additionalProperties": {"$ref": "#/definitions/step"},
        },
    }
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "A data pipeline",
        "type": "object",
        "additionalProperties": False,
        "required": ["steps"],
        "properties": {key: _about(key, TOP[key]) | value for key, value in properties.items()},
        "definitions": {
            "reference": {"type": "string", "pattern": r"\$\{[^}]+\}"},
            "step": _step(),
            **{kind: _kind(cls) for kind, cls in KINDS.items()},
        },
    }


def text() -> str:
    """The schema as a file."""
    return json.dumps(schema(), indent=2, ensure_ascii=False) + "\n"


def _step() -> Json:
    """One kind with its options, and the keys that all steps take."""
    common: Json = {
        "from": {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 2}]},
        "checkpoint": {"enum": ["memory", "disk"]},
        "retries": {"anyOf": [{"type": "integer", "minimum": 0, "maximum": 100}, _REFERENCE]},
        "timeout": {
            "anyOf": [{"type": "string", "pattern": r"^\d+(\.\d+)? ?(s|min|h|d)?$"}, {"type": "number"}, _REFERENCE]
        },
        "description": {"type": "string"},
    }
    kinds = {kind: {"$ref": f"#/definitions/{kind}"} for kind in KINDS}
    return {
        "description": "A step: one kind with its options, and keys that every step takes.",
        "type": "object",
        "additionalProperties": False,
        "properties": kinds | {key: _about(key, COMMON[key]) | value for key, value in common.items()},
        "oneOf": [{"required": [kind], "errorMessage": f"a step has one kind: {', '.join(KINDS)}"} for kind in KINDS],
        "dependencies": {
            **{kind: {"properties": {"from": {"type": _from(cls)}}} for kind, cls in KINDS.items()},
            **{kind: {"properties": {"from": False}} for kind, cls in KINDS.items() if cls.role == "source"},
            **{kind: {"properties": {"checkpoint": False}} for kind, cls in KINDS.items() if cls.role == "sink"},
        },
    }


def _from(cls: type[Step]) -> str | list[str]:
    fewest = cls.fewest if cls.several else len(cls.takes) - cls.optional
    return "array" if fewest > 1 else ["array", "string"] if cls.several or len(cls.takes) > 1 else "string"


def _about(name: str, text: str) -> Json:
    """Title and description; editors show the second kind of description with its marks."""
    return {"title": name, "description": text} | ({"markdownDescription": text} if "`" in text else {})


def _kind(cls: type[Step]) -> Json:
    options = _model(cls)
    example = parse_yaml(cls.example, cls.kind).plain()[cls.kind]
    forms = [options]
    if cls.shorthand is not None:
        forms.insert(0, options["properties"][cls.shorthand])
    if "required" not in options and cls.model_config.get("extra") != "allow":
        forms.append({"type": "null"})
    return {**_about(cls.kind, documented(cls)), "examples": [example], "anyOf": [*forms, _REFERENCE]}


def _model(cls: type[Any]) -> Json:
    made: Json = cls.model_json_schema()
    return _object(_inlined(made, made.get("$defs", {})))


def _inlined(made: Any, defined: Json) -> Any:
    """With the models inside of it in place of references to them."""
    if isinstance(made, dict):
        if (name := str(made.get("$ref", "")).removeprefix("#/$defs/")) in defined:
            beside = {key: value for key, value in made.items() if key != "$ref"}
            return beside | _object(_inlined(defined[name], defined))
        return {key: _inlined(value, defined) for key, value in made.items() if key != "$defs"}
    return [_inlined(each, defined) for each in made] if isinstance(made, list) else made


def _object(made: Json) -> Json:
    fields: Json = made.get("properties", {})
    found: Json = {"type": "object", "additionalProperties": made.get("additionalProperties", False)}
    if isinstance(found["additionalProperties"], dict):
        found["additionalProperties"] = {"description": ANY_NAME, **_open(found["additionalProperties"])}
    found["properties"] = {name: _field(name, field) for name, field in fields.items()}
    if "required" in made:
        found["required"] = made["required"]
    return found


def _field(name: str, field: Json) -> Json:
    about = _about(name, field.get("description", ""))
    about |= {"default": field["default"]} if field.get("default") not in (None, [], {}) else {}
    made = {key: value for key, value in field.items() if key not in ("description", "default", "title")}
    return about | _open(made, null=field.get("default") is not None)


def _open(made: Json, null: bool = False) -> Json:
    """The schema with ${name} allowed wherever a value that is not any text stands; `null` only where it is no default."""
    made = {key: value for key, value in made.items() if key != "title"}
    if "anyOf" in made:
        members = [_open(member) for member in made["anyOf"] if null or member != {"type": "null"}]
        flat = [inner for member in members for inner in member.get("anyOf", [member])]
        unique = [member for i, member in enumerate(flat) if member not in flat[:i]]
        if any(member.get("type") == "string" and len(member) == 1 for member in unique):
            unique = [member for member in unique if member != _REFERENCE]
        return unique[0] if len(unique) == 1 else {"anyOf": unique}
    if isinstance(made.get("items"), dict):
        made["items"] = _open(made["items"])
    if isinstance(made.get("additionalProperties"), dict):
        made["additionalProperties"] = _open(made["additionalProperties"])
    any_text = "string" in made.get("type", ()) and not made.keys() & {"enum", "pattern", "maxLength"}
    return made if any_text else {"anyOf": [made, _REFERENCE]}


def _texts(**limits: Any) -> Json:
    return {"anyOf": [{"type": "string", **limits}, _REFERENCE]}
