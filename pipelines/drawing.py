"""A plan as a picture: an SVG of the stages, the steps in each and the exchanges between them.

Stages are laid out in layers, as a general directed graph: every stage below all that it reads, few crossings, straight
lines where they can be. Inside a stage its steps stand one below the other. Columns and types show under the pointer.
"""

from __future__ import annotations

import itertools
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple
from xml.sax.saxutils import escape

from pipelines import explain
from pipelines.plan import Node
from pipelines.stages import Exchange, Stage, Staged
from pipelines.steps.base import Input
from pipelines.types import dtype_name, size_text

_NODE, _PART, _GAP = 50, 24, 16
"""Heights of a step and of a step's part, and the space between two of them."""
_PAD, _HEAD = 14, 26
_LAYER, _BESIDE, _MARGIN = 56, 36, 28
_NARROWEST, _WIDEST = 210, 420


class _Font(NamedTuple):
    letter: float
    """The width of a letter in pixels, in the widest of the fonts that a browser may take."""
    even: bool = False


_TITLE, _WORDS, _NAME, _KIND, _SMALL, _CODE = (
    _Font(11.7),
    _Font(7.8),
    _Font(9.0),
    _Font(7.5),
    _Font(6.9),
    _Font(6.7, True),
)

_STYLE = """
svg { --page: #ffffff; --text: #1f2328; --soft: #59636e; --stage: #f6f8fa; --line: #d1d9e0; --node: #ffffff; --edge: #818b98;
  --source: #0969da; --table: #6e59c9; --sink: #1a7f37; --mark: #9a6700; --markpaper: #fff8c5; }
@media (prefers-color-scheme: dark) { svg { --page: #0d1117; --text: #e6edf3; --soft: #9198a1; --stage: #151b23; --line: #30363d;
  --node: #212830; --edge: #6e7681; --source: #58a6ff; --table: #a794f5; --sink: #3fb950; --mark: #e3b341; --markpaper: #3a2f0b; } }
text { font-family: system-ui, -apple-system, "Segoe UI", "Noto Sans", Helvetica, Arial, sans-serif; fill: var(--text); }
.page { fill: var(--page); } .title { font-size: 17px; font-weight: 600; } .words { font-size: 12.5px; fill: var(--soft); }
.stage > rect { fill: var(--stage); stroke: var(--line); } .stage > text { font-size: 11px; fill: var(--soft); }
.node rect.box { fill: var(--node); stroke: var(--line); } .node:hover rect.box { stroke: var(--edge); stroke-width: 1.5; }
.node .name { font-size: 13px; font-weight: 600; }
.node .options { font: 11px ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace; fill: var(--soft); }
.node .kind { font-size: 11px; font-weight: 600; text-anchor: end; }
.source .bar { fill: var(--source); } .table .bar { fill: var(--table); } .sink .bar { fill: var(--sink); }
.node.source .kind { fill: var(--source); } .node.table .kind { fill: var(--table); } .node.sink .kind { fill: var(--sink); }
.part rect { fill: none; stroke: var(--table); stroke-dasharray: 4 3; } .part text { font-size: 11px; fill: var(--soft); text-anchor: middle; }
.mark rect { fill: var(--markpaper); stroke: var(--mark); } .mark text { font-size: 10px; font-weight: 600; fill: var(--mark); text-anchor: middle; }
.edge path { fill: none; stroke: var(--edge); stroke-width: 1.5; } .edge.wide path.line { stroke-width: 2.5; } path.head { fill: var(--edge); stroke: none; }
.label rect { fill: var(--page); stroke: var(--line); } .label text { font-size: 11px; text-anchor: middle; }
"""


@dataclass
class _Box:
    """A place in a layer: a stage, or where a long edge passes a layer (stage None)."""

    width: float
    height: float
    stage: int | None = None
    x: float = 0.0
    """Of its centre."""
    y: float = 0.0
    floor: float = 0.0
    """The lower end of its layer."""
    above: list[_Box] = field(default_factory=list)
    below: list[_Box] = field(default_factory=list)


def svg(staged: Staged) -> str:
    """The picture as the text of an SVG file."""
    stages = staged.stages
    boxes = [_Box(*_size(staged, stage), stage=i) for i, stage in enumerate(stages)]
    routes = _laid_out(boxes, _edges(stages))
    left = min(box.x - box.width / 2 for box in boxes)
    spec = staged.plan.spec
    top = 2 * _MARGIN + (22 if spec.description else 0)
    for box in {id(box): box for route in [*routes.values(), boxes] for box in route}.values():
        box.x, box.y, box.floor = box.x - left + _MARGIN, box.y + top + 8, box.floor + top + 8
    drawn = [part for i, stage in enumerate(stages) for part in _stage(staged, i, stage, boxes[i])]
    lines = [part for ends, route in routes.items() for part in _edge(staged, ends, route)]
    heading = _shortened(spec.name, 900, _TITLE), _shortened(spec.description, 900, _WORDS)
    right = [box.x + box.width / 2 for route in [boxes, *routes.values()] for box in route]
    right += [_MARGIN + _wide(heading[0], _TITLE), _MARGIN + _wide(heading[1], _WORDS)]
    width = max(right) + _MARGIN
    height = max(box.y + box.height for box in boxes) + _MARGIN
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" viewBox="0 0 {width:.0f} {height:.0f}" role="img">',
            f"<title>{_xml(spec.name)}</title>",
            f"<style>{_STYLE}</style>",
            '<rect class="page" width="100%" height="100%"/>',
            _text("title", _MARGIN, _MARGIN + 8, heading[0]),
            *([_text("words", _MARGIN, _MARGIN + 30, heading[1])] if spec.description else []),
            *drawn,
            *lines,
            "</svg>",
            "",
        ]
    )


# The layout


def _edges(stages: Sequence[Stage]) -> list[tuple[int, int]]:
    at = {id(stage): i for i, stage in enumerate(stages)}
    return [(at[id(above)], i) for i, stage in enumerate(stages) for above, _ in explain.links(stage)]


def _laid_out(boxes: list[_Box], edges: list[tuple[int, int]]) -> dict[tuple[int, int], list[_Box]]:
    """Gives every box its place; per edge the boxes it passes, ends included. Parts without a connection stand side by side."""
    ranks = _ranks(len(boxes), edges)
    routes = dict[tuple[int, int], list[_Box]]()
    right = 0.0
    for part in _connected(len(boxes), edges):
        layers: list[list[_Box]] = [[] for _ in range(max(ranks[i] for i in part) + 1)]
        for i in part:
            layers[ranks[i]].append(boxes[i])
        for start, end in (edge for edge in edges if edge[0] in part):
            passed = [_Box(8, 0) for _ in range(ranks[start] + 1, ranks[end])]
            for rank, box in enumerate(passed, ranks[start] + 1):
                layers[rank].append(box)
            route = [boxes[start], *passed, boxes[end]]
            for one, other in itertools.pairwise(route):
                one.below.append(other)
                other.above.append(one)
            routes[start, end] = route
        _order(layers)
        _spread(layers)
        left = right - min(box.x - box.width / 2 for layer in layers for box in layer)
        y = 0.0
        for layer in layers:
            tallest = max(box.height for box in layer)
            for box in layer:
                box.x, box.y, box.floor = box.x + left, y, y + tallest
                if box.stage is None:
                    box.height = tallest
            y += tallest + _LAYER
        right = max(box.x + box.width / 2 for layer in layers for box in layer) + 2 * _BESIDE
    return routes


def _connected(count: int, edges: list[tuple[int, int]]) -> list[set[int]]:
    """The boxes that edges join, together."""
    part = {i: {i} for i in range(count)}
    for start, end in edges:
        joined = part[start] | part[end]
        part |= dict.fromkeys(joined, joined)
    return list({id(boxes): boxes for boxes in part.values()}.values())


def _ranks(count: int, edges: list[tuple[int, int]]) -> list[int]:
    """Layers from the top: each below all it reads; what reads nothing directly above its first reader."""
    ranks = [0] * count
    for _, end in sorted(edges, key=lambda edge: edge[1]):
        ranks[end] = max(ranks[start] + 1 for start, other in edges if other == end)
    for box in range(count):
        below = [ranks[end] for start, end in edges if start == box]
        if below and all(end != box for _, end in edges):
            ranks[box] = min(below) - 1
    return ranks


def _order(layers: list[list[_Box]]) -> None:
    """Sorts each layer by the middle of its neighbours, down and up, and keeps the order with the fewest crossings."""
    best, fewest = [list(layer) for layer in layers], _crossings(layers)
    for sweep in range(12):
        down = sweep % 2 == 0
        for layer, other in (
            zip(layers[1:], layers, strict=False) if down else zip(layers[-2::-1], layers[::-1], strict=False)
        ):
            at = {id(box): i for i, box in enumerate(other)}
            own = {id(box): i for i, box in enumerate(layer)}

            def middle(box: _Box, at: Mapping[int, int] = at, own: Mapping[int, int] = own, down: bool = down) -> float:
                near = [at[id(other)] for other in (box.above if down else box.below)]
                return sum(near) / len(near) if near else own[id(box)]

            layer.sort(key=middle)
        if (count := _crossings(layers)) < fewest:
            best, fewest = [list(layer) for layer in layers], count
    layers[:] = best


def _crossings(layers: list[list[_Box]]) -> int:
    count = 0
    for upper, lower in itertools.pairwise(layers):
        at = {id(box): i for i, box in enumerate(lower)}
        ends = [at[id(below)] for box in upper for below in sorted(box.below, key=lambda b: at[id(b)])]
        count += sum(ends[i] > ends[j] for i in range(len(ends)) for j in range(i + 1, len(ends)))
    return count


def _spread(layers: list[list[_Box]]) -> None:
    """Moves boxes under the middle of their neighbours, as far as those beside them allow."""
    for layer in layers:
        x = 0.0
        for box in layer:
            box.x = x + box.width / 2
            x += box.width + _BESIDE
    for sweep in range(25):  # the last one goes down: what has one input stands straight below it
        down = sweep % 2 == 0
        for layer in layers if down else reversed(layers):
            wanted = []
            for box in layer:
                near = (box.above if down else box.below) or box.above or box.below
                wanted.append(sum(other.x for other in near) / len(near) if near else box.x)
            for box, x in zip(layer, _apart(layer, wanted), strict=True):
                box.x = x


def _apart(layer: list[_Box], wanted: list[float]) -> list[float]:
    """The places nearest to those wanted (least squares) that keep the order and the distances: pooled neighbours."""
    offsets = [0.0]
    for left, right in itertools.pairwise(layer):
        offsets.append(offsets[-1] + (left.width + right.width) / 2 + _BESIDE)
    pools = list[tuple[float, int]]()
    for x, offset in zip(wanted, offsets, strict=True):
        mean, count = x - offset, 1
        while pools and pools[-1][0] > mean:
            other, more = pools.pop()
            mean, count = (mean * count + other * more) / (count + more), count + more
        pools.append((mean, count))
    found = [mean for mean, count in pools for _ in range(count)]
    return [base + offset for base, offset in zip(found, offsets, strict=True)]


# Stages and steps


def _items(staged: Staged, stage: Stage) -> list[tuple[Node, str]]:
    """(step, what of it runs here when it does not end in this stage)."""
    return [(staged.plan.nodes[name], explain.part(staged, stage, name)) for name in stage.steps]


def _size(staged: Staged, stage: Stage) -> tuple[float, float]:
    items = _items(staged, stage)
    height = sum(_PART if part else _NODE for _, part in items) + _GAP * (len(items) - 1)
    width = max(_width(staged, node) for node, _ in items)
    return width + 2 * _PAD, height + _HEAD + _PAD


def _width(staged: Staged, node: Node) -> float:
    name = 18 + _wide(node.name, _NAME) + 12 + _right(node)
    return min(max(name, _wide(explain.summary(staged.plan, node.name), _CODE) + 36, _NARROWEST), _WIDEST)


def _right(node: Node) -> float:
    """The width of what stands at the right of the name: a mark and the kind."""
    return _wide(node.kind, _KIND) + 20 + (_mark_width(node) + 8 if _mark(node) else 0)


def _mark(node: Node) -> str:
    kept = {"memory": "in memory", "disk": "on disk", None: ""}[node.checkpoint]
    return kept or ("Python" if node.runs_python else "")


def _mark_width(node: Node) -> float:
    return _wide(_mark(node), _SMALL) + 12


def _stage(staged: Staged, number: int, stage: Stage, box: _Box) -> Iterator[str]:
    x, y = box.x - box.width / 2, box.y
    said = f"stage {number + 1} · {explain.counted(stage.count, 'partition')}"
    columns = f"{len(stage.columns)} of {len(stage.input.schema)} columns" if stage.input else ""
    yield '<g class="stage">'
    yield f"<title>{_xml(_stage_title(stage))}</title>"
    yield f'<rect x="{x:.1f}" y="{y:.1f}" width="{box.width:.1f}" height="{box.height:.1f}" rx="10"/>'
    yield _text("", x + _PAD, y + 17, said)
    if columns:
        yield f'<text x="{x + box.width - _PAD:.1f}" y="{y + 17:.1f}" text-anchor="end">reads {columns}</text>'
    yield "</g>"
    y += _HEAD
    for i, (node, part) in enumerate(_items(staged, stage)):
        if i:
            yield f'<g class="edge"><path class="line" d="M{box.x:.1f} {y - _GAP:.1f}V{y - 5:.1f}"/>{_head(box.x, y)}</g>'
        width = box.width - 2 * _PAD
        if not part:
            yield from _node(staged, node, x + _PAD, y, width)
        else:
            yield '<g class="part">'
            yield f"<title>{_xml(f'{node.name} begins here, in every partition; it ends below')}</title>"
            yield f'<rect x="{x + _PAD:.1f}" y="{y:.1f}" width="{width:.1f}" height="{_PART}" rx="6"/>'
            yield _text("", box.x, y + 16, _shortened(f"{node.name}, {part}", width - 16, _SMALL))
            yield "</g>"
        y += (_PART if part else _NODE) + _GAP


def _stage_title(stage: Stage) -> str:
    if stage.input is not None:
        size = f" of {size_text(stage.input.bytes)}" if stage.input.bytes else ""
        return f"one query in each of {explain.counted(stage.count, 'partition')}{size}, reading {', '.join(stage.columns)}"
    return f"one query in each of {explain.counted(stage.count, 'partition')}"


def _node(staged: Staged, node: Node, x: float, y: float, width: float) -> Iterator[str]:
    yield f'<g class="node {node.role}">'
    yield f"<title>{_xml(_node_title(staged, node))}</title>"
    yield f'<rect class="box" x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{_NODE}" rx="7"/>'
    yield f'<rect class="bar" x="{x + 5:.1f}" y="{y + 8:.1f}" width="3" height="{_NODE - 16}" rx="1.5"/>'
    options = _shortened(explain.summary(staged.plan, node.name), width - 32, _CODE)
    line = y + 21 if options else y + 30
    yield _text("name", x + 18, line, _shortened(node.name, width - 30 - _right(node), _NAME))
    yield _text("kind", x + width - 12, line, node.kind)
    if mark := _mark(node):
        left, wide = x + width + 8 - _right(node), _mark_width(node)
        yield f'<g class="mark"><rect x="{left:.1f}" y="{line - 11.5:.1f}" width="{wide:.1f}" height="16" rx="8"/>'
        yield f"{_text('', left + wide / 2, line, mark)}</g>"
    if options:
        yield _text("options", x + 18, y + 39, options)
    yield "</g>"


def _node_title(staged: Staged, node: Node) -> str:
    lines = [f"{node.name}: {node.kind}", explain.summary(staged.plan, node.name)]
    if isinstance(node.bound, Input) and node.bound.bytes:
        lines.append(f"{size_text(node.bound.bytes)} of input")
    if node.checkpoint:
        lines.append("kept in memory until its last use" + (", and on disk" if node.checkpoint == "disk" else ""))
    if not node.schema:
        lines.append(str(node.gives))
    return "\n".join([*lines, "", *(f"{name}: {dtype_name(dtype)}" for name, dtype in node.schema.items())])


# Edges


def _edge(staged: Staged, ends: tuple[int, int], route: list[_Box]) -> Iterator[str]:
    above, stage = staged.stages[ends[0]], staged.stages[ends[1]]
    exchange = next(exchange for other, exchange in explain.links(stage) if other is above)
    first, last = route[0], route[-1]
    start = _port(first, first.below, route[1])
    points = [(start, first.y + first.height), (start, first.floor)]  # bends only where there are no boxes
    for box in route[1:-1]:
        points += [(box.x, box.y), (box.x, box.y + box.height)]
    end = _port(last, last.above, route[-2])
    points.append((end, last.y - 5))
    path = f"M{points[0][0]:.1f} {points[0][1]:.1f}"
    for (x, y), (to, down) in itertools.pairwise(points):
        middle = (y + down) / 2
        path += (
            f"V{down:.1f}" if abs(x - to) < 0.5 else f"C{x:.1f} {middle:.1f} {to:.1f} {middle:.1f} {to:.1f} {down:.1f}"
        )
    said = _label(above, stage, exchange)
    yield f'<g class="edge{"" if exchange.kind == "none" else " wide"}">'
    yield f"<title>{_xml(explain.why(staged, stage, above, exchange))}</title>"
    yield f'<path class="line" d="{path}"/>{_head(end, last.y)}'
    if said:
        (x, y), (to, down) = points[-2], points[-1]
        at, wide = (x + to) / 2, _wide(said, _SMALL) + 18
        yield f'<g class="label"><rect x="{at - wide / 2:.1f}" y="{(y + down) / 2 - 10:.1f}" width="{wide:.1f}" height="20" rx="10"/>'
        yield f"{_text('', at, (y + down) / 2 + 4, said)}</g>"
    yield "</g>"


def _port(box: _Box, others: list[_Box], other: _Box) -> float:
    """Where an edge meets the box: several share its width, in the order of their other ends."""
    if len(others) < 2 or box.stage is None:
        return box.x
    place = sorted(others, key=lambda o: o.x).index(other)
    return box.x + min(box.width * 0.7, 60.0 * len(others)) * ((place + 0.5) / len(others) - 0.5)


def _label(above: Stage, stage: Stage, exchange: Exchange) -> str:
    if exchange.kind in ("none", "work"):
        return ""
    names = explain.by(stage, exchange)
    keys = f" by {', '.join(names)}" if names else ""
    return f"{_shortened(exchange.kind + keys, 190, _SMALL)} · {above.count} → {stage.count}"


def _head(x: float, y: float) -> str:
    return f'<path class="head" d="M{x:.1f} {y:.1f}l-4.5 -8h9z"/>'


# Text


def _text(kind: str, x: float, y: float, text: str) -> str:
    name = f' class="{kind}"' if kind else ""
    return f'<text{name} x="{x:.1f}" y="{y:.1f}">{_xml(text)}</text>'


def _xml(text: str) -> str:
    """The text for XML, which has no place for control characters and halves of characters."""
    allowed = (
        c if c in "\n\t" or ((c.isprintable() or c == " ") and not "\ud800" <= c <= "\udfff") else "\ufffd"
        for c in text
    )
    return escape("".join(allowed))


def _wide(text: str, font: _Font) -> float:
    """About how many pixels the text takes."""
    return sum(_letters(c, font.even) for c in text) * font.letter


def _letters(c: str, even: bool) -> float:
    if unicodedata.combining(c):
        return 0.0
    if unicodedata.east_asian_width(c) in "WF":
        return 1.7
    if even:
        return 1.0
    return 0.6 if c in "iljtfr.,:;'|!()[] " else 1.6 if c in "MWmw@%" else 1.15 if c.isupper() else 1.0


def _shortened(text: str, most: float, font: _Font) -> str:
    if _wide(text, font) <= most:
        return text
    while text and _wide(text, font) > most - 1.5 * font.letter:
        text = text[:-1]
    return text.rstrip() + "…"
