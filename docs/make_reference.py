"""Writes what is made from the code, docs/steps.md, the JSON Schema and the picture in docs/: `python docs/make_reference.py`."""

from pathlib import Path

from pipelines import drawing, load, reference, schema
from pipelines.stages import cut

ROOT = Path(__file__).parent.parent
MADE = {
    "docs/steps.md": reference.markdown,
    "docs/stock_groupby.svg": lambda: drawing.svg(cut(load(ROOT / "configs/stock_groupby.yaml").plan())),
    "configs/pipelines.schema.json": schema.text,
}

if __name__ == "__main__":
    for name, make in MADE.items():
        (ROOT / name).write_text(make(), encoding="utf-8")
