"""Writes what is made from the step classes, docs/steps.md and the JSON Schema: `python docs/make_reference.py`."""

from pathlib import Path

from pipelines import reference, schema

ROOT = Path(__file__).parent.parent
MADE = {"docs/steps.md": reference.markdown, "configs/pipelines.schema.json": schema.text}

if __name__ == "__main__":
    for name, make in MADE.items():
        (ROOT / name).write_text(make())
