"""The picture of a plan: well-formed whatever the names are, everything is in it, and nothing lies on anything else."""

from __future__ import annotations

import itertools
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable, Sequence
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines import drawing
from pipelines.cli import main
from pipelines.pipeline import Pipeline, load
from pipelines.stages import cut

ROOT = Path(__file__).parent.parent
SVG = "{http://www.w3.org/2000/svg}"
BRANCHED = """  STOCKS
  good: {filter: Close > 0}
  more: {derive: {change: Close - Open}, checkpoint: memory}
  means: {aggregate: {by: Symbol, mean: avg(change)}}
  means_file: {write: "${run}/means.parquet"}
  medians: {from: more, aggregate: {by: Symbol, middle: median(change)}}
  ordered: {from: good, sort: [Date, Symbol]}
  ordered_file: {write: {path: "${run}/ordered.parquet"}}
  roots: {map: {function: "math:isqrt", items: [1, 2, 3], returns: int64}}
"""


def picture(pipeline: Pipeline) -> ET.Element:
    return ET.fromstring(drawing.svg(cut(pipeline.plan())))


def words(element: ET.Element) -> list[str]:
    return [text.text or "" for text in element.iter(f"{SVG}text")]


def groups(root: ET.Element, kind: str) -> list[ET.Element]:
    return [group for group in root.iter(f"{SVG}g") if kind in group.get("class", "").split()]


def title(group: ET.Element) -> str:
    return group.findtext(f"{SVG}title") or ""


def test_everything_is_in_it(pipeline: Callable[..., Pipeline]) -> None:
    made = pipeline(BRANCHED)
    staged = cut(made.plan())
    root = picture(made)
    nodes = groups(root, "node")
    assert sorted(words(node)[0] for node in nodes) == sorted(made.plan().nodes)
    assert len(groups(root, "stage")) == len(staged.stages)
    labels = [words(label)[0] for label in groups(root, "label")]
    assert sorted(labels) == ["gather · 5 → 1", "gather · 5 → 1", "tree · 5 → 1"]
    assert [words(mark) for mark in groups(root, "mark")] == [["in memory"], ["Python"]]
    [good] = [node for node in nodes if words(node)[0] == "good"]
    assert words(good) == ["good", "filter", "Close > 0"]
    assert "\nClose: float64\n" in title(good)
    assert any("more is kept in memory" in title(edge) for edge in groups(root, "edge"))


def test_the_columns_that_are_read(pipeline: Callable[..., Pipeline]) -> None:
    root = picture(pipeline("  STOCKS\n  a: {aggregate: {by: Symbol, x: sum(Volume)}}\n"))
    assert "reads 2 of 8 columns" in words(root)


def test_light_and_dark(pipeline: Callable[..., Pipeline]) -> None:
    text = drawing.svg(cut(pipeline(BRANCHED).plan()))
    assert "@media (prefers-color-scheme: dark)" in text
    used, [light, dark] = set(re.findall(r"var\((--\w+)\)", text)), re.findall(r"svg \{([^}]*)\}", text)
    for colours in (light, dark):
        assert used <= set(re.findall(r"(--\w+):", colours))


@settings(deadline=None, max_examples=50)
@given(
    texts=st.lists(st.text(max_size=60), min_size=3, max_size=3),
    column=st.text(st.characters(exclude_categories=("Cs",), exclude_characters='\0"*^'), min_size=1, max_size=30),
)
def test_any_text_is_well_formed(tmp_path_factory: pytest.TempPathFactory, texts: Sequence[str], column: str) -> None:
    for text in texts:
        assert ET.fromstring(f"<a>{drawing._xml(text)}</a>") is not None
    folder = tmp_path_factory.mktemp("names")
    (folder / "runs").mkdir()
    pl.DataFrame({column: ["<a>&"], "x": [1]}).write_parquet(folder / "a.parquet")
    from pipelines.source import scalar_text

    key = scalar_text(column).replace("${", "$${")
    (folder / "a.yaml").write_text(
        f"name: a\nsteps:\n  in: {{read: a.parquet}}\n  größe_日本: {{sort: [{key}]}}\n", encoding="utf-8"
    )
    root = picture(load(folder / "a.yaml"))
    [node] = [node for node in groups(root, "node") if words(node)[0] == "größe_日本"]
    assert title(node).endswith("\nx: int64")


# The layout, of any graph


@st.composite
def graphs(draw: st.DrawFn) -> tuple[list[tuple[float, float]], list[tuple[int, int]]]:
    sizes = draw(st.lists(st.tuples(st.floats(100, 400), st.floats(40, 300)), min_size=1, max_size=12))
    pairs = list(itertools.combinations(range(len(sizes)), 2))
    return sizes, draw(st.lists(st.sampled_from(pairs), unique=True, max_size=16)) if pairs else []


def laid_out(
    sizes: Sequence[tuple[float, float]], edges: list[tuple[int, int]]
) -> tuple[list[drawing._Box], dict[tuple[int, int], list[drawing._Box]]]:
    boxes = [drawing._Box(width, height, stage=i) for i, (width, height) in enumerate(sizes)]
    return boxes, drawing._laid_out(boxes, edges)


@settings(deadline=None)
@given(graph=graphs())
def test_nothing_lies_on_anything_else(
    graph: tuple[list[tuple[float, float]], list[tuple[int, int]]],
) -> None:
    boxes, routes = laid_out(*graph)
    assert set(routes) == set(graph[1])
    for one, other in itertools.combinations(boxes, 2):
        beside = abs(one.x - other.x) >= (one.width + other.width) / 2 - 1e-6
        below = one.y + one.height <= other.y or other.y + other.height <= one.y
        assert beside or below
    for (start, end), route in routes.items():
        assert (route[0], route[-1]) == (boxes[start], boxes[end])
        for above, below_it in itertools.pairwise(route):
            assert above.y + above.height < below_it.y
        for above, below_it in itertools.pairwise(route):  # between them an edge bends: there is no box
            left, right = sorted((above.x, below_it.x))
            near = [box for box in boxes if box.x + box.width / 2 > left and box.x - box.width / 2 < right]
            assert all(box.y + box.height <= above.floor or box.y >= below_it.y for box in near)
        for passed in route[1:-1]:  # beside every box of its layer
            for box in boxes:
                if box.y == passed.y:
                    assert abs(box.x - passed.x) >= box.width / 2


def test_a_chain_is_straight() -> None:
    boxes, _ = laid_out([(200.0 + 10 * i, 50.0) for i in range(60)], [(i, i + 1) for i in range(59)])
    assert len({round(box.x) for box in boxes}) == 1


def test_a_tree_has_no_crossings() -> None:
    # given in an order that crosses: 0 → 4, 3 and 1 → 2, and a long edge beside
    boxes, routes = laid_out([(100.0, 50.0)] * 7, [(0, 3), (1, 2), (0, 4), (2, 5), (3, 6), (4, 6)])
    lines = [(one, other) for route in routes.values() for one, other in itertools.pairwise(route)]
    for (a, b), (c, d) in itertools.combinations(lines, 2):
        if a.y == c.y and a is not c and b is not d:
            assert (a.x - c.x) * (b.x - d.x) > 0
    assert len(boxes) == 7


def test_two_inputs_meet_in_the_middle() -> None:
    boxes, _ = laid_out([(200.0, 50.0)] * 4, [(0, 1), (1, 3), (2, 3)])
    assert boxes[2].y == boxes[1].y  # a source stands directly above the first that reads it
    assert abs(boxes[3].x - (boxes[1].x + boxes[2].x) / 2) < 1


# The command


def test_the_command(project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(project)
    config = ROOT / "configs/stock_groupby.yaml"
    assert main(["graph", str(config)]) == 0
    assert capsys.readouterr().out.startswith("written to stock_groupby.svg;")
    text = Path("stock_groupby.svg").read_text(encoding="utf-8")
    assert main(["graph", str(config), "-o", "-"]) == 0
    assert capsys.readouterr().out == text
    assert main(["graph", str(config), "-o", "none/a.svg"]) == 4
    assert capsys.readouterr().err.startswith("error: cannot write none/a.svg")
