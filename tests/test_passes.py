"""What each pass does to a plan, as text: `python -m tests.test_passes` writes tests/golden/passes.txt anew."""

from __future__ import annotations

import tempfile
from pathlib import Path

import polars as pl

from pipelines.passes import PASSES, Layout
from pipelines.stages import Staged, cut
from tests.test_exchanges import PLANS, config

GOLDEN = Path(__file__).parent / "golden" / "passes.txt"
LEFT = pl.DataFrame({"k": [1, 2], "f": [0.5, 1.5], "s": ["x", "y"], "i": [0, 1]})
RIGHT = pl.DataFrame({"k": [1, 3], "s2": ["x", "y"], "j": [0, 1]})


def shown(staged: Staged) -> list[str]:
    lines = []
    for stage in staged.stages:
        links = [
            f"{link.exchange.kind}({'+'.join(before.name for before in link.stages)})"
            + (f" by {', '.join(link.exchange.keys)}" if link.exchange.keys else "")
            for link in stage.links
        ]
        lines.append(f"{stage.name} [{', '.join(stage.schema)}] x{stage.count} <- {', '.join(links) or 'files'}")
    return lines


def text(project: Path) -> str:
    lines = []
    for name in PASSES:
        made = config(project, PLANS[name], LEFT, RIGHT, (4, 3))
        lines += [f"== {name}", *(line.strip() for line in PLANS[name].splitlines())]
        for label, passes in (("without", frozenset(PASSES) - {name}), ("with", frozenset(PASSES))):
            staged = cut(made.plan(), ("t",), Layout(passes, 5))
            lines += [
                f"-- {label}",
                *shown(staged),
                *(f"   {each}: {did}" for each, did in staged.notes if each == name),
            ]
        lines.append("")
    return "\n".join(lines)


def test_each_pass_does_what_the_golden_file_says(project: Path) -> None:
    assert text(project) == GOLDEN.read_text()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        (Path(made) / "runs").mkdir()
        GOLDEN.parent.mkdir(exist_ok=True)
        GOLDEN.write_text(text(Path(made)))
