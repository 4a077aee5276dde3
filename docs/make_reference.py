"""Writes docs/steps.md from the step classes: `python docs/make_reference.py`."""

from pathlib import Path

from pydantic.fields import FieldInfo

from pipelines.steps import KINDS
from pipelines.steps.base import Step

HEAD = """# Steps

<!-- made by docs/make_reference.py from pipelines/steps/: do not edit -->

A step is `name: {<kind>: <options>}`. Beside the kind stand the keys that every step takes:

| key | meaning |
|---|---|
| `from` | the step whose table is the input (`union`: a list of them); default: the nearest step above that gives a table |
| `checkpoint` | `memory` keeps the table in memory (Dask's `persist()`) until its last use |
| `description` | text for people |
"""


def default(info: FieldInfo) -> str:
    if info.is_required():
        return "required"
    value = info.get_default(call_default_factory=True)
    return "" if value in (None, [], {}) else f"`{str(value).lower() if isinstance(value, bool) else value}`"


def section(step: type[Step]) -> str:
    rows = [
        f"| `{info.alias or name}`{' (the short form)' if name == step.shorthand else ''} | {info.description} | {default(info)} |"
        for name, info in step.model_fields.items()
    ]
    if step.model_config.get("extra") == "allow":
        rows.append("| any other name | a column of the result: its SQL expression | |")
    table = "| option | meaning | default |\n|---|---|---|\n" + "\n".join(rows)
    paragraphs = [" ".join(part.split()) for part in (step.__doc__ or "").split("\n\n")]
    return "\n".join(
        [f"## {step.kind}", "", "\n\n".join(paragraphs), "", f"```yaml\nname:\n  {step.example}\n```", "", table]
    )


def reference() -> str:
    return HEAD + "\n" + "\n\n".join(section(step) for step in KINDS.values()) + "\n"


if __name__ == "__main__":
    (Path(__file__).parent / "steps.md").write_text(reference())
