"""The picture of a graph: no text covers another one or leaves the picture; long names are shortened, and the
colours of the types have a legend.

Lengths are points, 1/72 inch; a place is (x, y) from the lower left, a box (left, bottom, right, top)."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, BinaryIO, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patches import Circle, FancyArrowPatch

from hingeabl.reporting.drawing import BLACK, BLUE, FONT, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILION, fit_text, styled

COLOUR_OF_TYPE = {"PER": ORANGE, "ORG": BLUE, "LOC": GREEN, "TIME": PURPLE, "NUM": SKY, "MISC": VERMILION}
NO_TYPE = "no type"
NAME_SIZE, RELATION_SIZE, LEGEND_SIZE = 10, 8, 9
RADIUS = 6  # of an entity's point
BEND = 0.15  # of an arrow, so that there and back differ
MARGIN = 14
LINE = 1.25  # height of a line of text, in font sizes
Place = tuple[float, float]
Box = tuple[float, float, float, float]


class Label(NamedTuple):
    """A text with its font size, and its middle."""

    text: str
    size: int
    place: Place


@dataclass
class Drawing:
    """What is drawn where: points, arrows (from, to), labels, and a colour for each type in the graph. `boxes` are
    those of points and labels; no two labels overlap."""

    points: dict[str, Place]
    arrows: list[tuple[Place, Place]] = field(default_factory=list)
    labels: list[Label] = field(default_factory=list)
    colours: dict[str, str] = field(default_factory=dict)
    boxes: list[Box] = field(default_factory=list)


@functools.cache
def renderer_of_texts() -> Any:
    """The renderer that measures texts, one pixel being a point."""
    return FigureCanvasAgg(Figure(dpi=72)).get_renderer()


@functools.lru_cache(maxsize=10_000)
def text_size(text: str, size: int) -> tuple[float, float]:
    """Width and height of a text, of one line or several."""
    renderer = renderer_of_texts()
    font = FontProperties(family=FONT, size=size, weight="bold" if size == NAME_SIZE else "normal")
    lines = text.split("\n")
    width = max(renderer.get_text_width_height_descent(line, font, False)[0] for line in lines)
    return width + 2, LINE * size * len(lines)


def around(place: Place, step: float) -> Iterator[np.ndarray]:
    """Places [places, 2], the nearest first: the place itself, then wider and wider rings around it, five at once."""
    angles = math.pi * (0.5 + np.arange(12) / 6)
    circle = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    yield np.array([place])
    for first in itertools.count(1, 5):
        rings = np.arange(first, first + 5)[:, None, None] * step * circle  # [rings, turns, 2]
        yield np.array(place) + rings.reshape(-1, 2)


def put_label(drawing: Drawing, text: str, size: int, target: Place) -> None:
    """Add a label at the free place that is nearest to `target`."""
    half = np.array(text_size(text, size)) / 2
    others = np.array(drawing.boxes)
    for places in around(target, size / 2):
        low, high = (places - half)[:, None], (places + half)[:, None]  # [places, 1, 2]
        beside = np.any((others[:, :2] >= high) | (others[:, 2:] <= low), axis=2)  # [places, boxes]
        free = np.all(beside, axis=1).nonzero()[0]
        if len(free):
            x, y = places[free[0]].tolist()
            drawing.labels.append(Label(text, size, (x, y)))
            drawing.boxes.append((x - half[0], y - half[1], x + half[0], y + half[1]))
            return


def middle_of_arrow(start: Place, end: Place) -> Place:
    """Where an arrow, bent as matplotlib's arc3 does, is halfway."""
    dx, dy = end[0] - start[0], end[1] - start[1]
    return (start[0] + end[0] + BEND * dy) / 2, (start[1] + end[1] - BEND * dx) / 2


def places_of(graph: Any, pairs: Iterable[tuple[str, str]]) -> dict[str, Place]:
    """A place for each node; nodes that few arrows separate are near each other."""
    import networkx  # an optional package

    simple = networkx.DiGraph()
    simple.add_nodes_from(graph)
    simple.add_edges_from(pairs)
    unreachable = dict.fromkeys(graph, 2.0)  # the distance of nodes that no path joins
    lengths = networkx.all_pairs_shortest_path_length(simple.to_undirected())
    steps = {node: unreachable | dict(reachable) for node, reachable in lengths}
    side = max(420.0, min(2800.0, 150 * len(graph) ** 0.5))
    layout = networkx.kamada_kawai_layout(simple, dist=steps)
    return {node: ((1 + x) / 2 * side, (1 + y) / 2 * 0.8 * side) for node, (x, y) in layout.items()}


def colours_of(types: Iterable[str]) -> dict[str, str]:
    """A colour for each type: those of COLOUR_OF_TYPE have their own, others take unused ones, the rest are grey."""
    sorted_types = sorted(set(types))
    free = [BLACK, *(colour for entity_type, colour in COLOUR_OF_TYPE.items() if entity_type not in sorted_types)]
    colours = {}
    for entity_type in sorted_types:
        colours[entity_type] = COLOUR_OF_TYPE.get(entity_type) or (
            free.pop(0) if free and entity_type != NO_TYPE else GREY
        )
    return colours


def type_of(types: list[str] | None) -> str:
    """The type that an entity's colour shows."""
    return (types or [NO_TYPE])[0]


def drawing_of(graph: Any) -> Drawing:
    """Where everything of a networkx.MultiDiGraph goes, the same each time."""
    relations: dict[tuple[str, str], list[str]] = {}
    for head, tail, relation in graph.edges(data="relation"):
        relations.setdefault((head, tail), []).append(relation)
    drawing = Drawing(places_of(graph, relations))
    drawing.colours = colours_of(type_of(types) for _, types in graph.nodes(data="types"))
    drawing.boxes = [(x - RADIUS, y - RADIUS, x + RADIUS, y + RADIUS) for x, y in drawing.points.values()]
    for node, name in graph.nodes(data="name"):
        x, y = drawing.points[node]
        if name:
            put_label(drawing, fit_text(name, 30), NAME_SIZE, (x, y + RADIUS + LINE * NAME_SIZE / 2))
    for (head, tail), names in relations.items():
        start, end = drawing.points[head], drawing.points[tail]
        drawing.arrows.append((start, end))
        text = "\n".join(fit_text(relation, 64) for relation in names)
        put_label(drawing, text, RELATION_SIZE, middle_of_arrow(start, end))
    return drawing


@styled
def draw_graph(graph: Any, file: BinaryIO, form: str) -> None:
    """Draw a networkx.MultiDiGraph, whose nodes have a `name` and `types` and edges a `relation`, as "svg" or "png";
    the bytes are the same each time."""
    drawing = drawing_of(graph)
    left, bottom, right, top = bounds_of(drawing)
    below = legend_height(drawing)
    figure = Figure(figsize=((right - left) / 72, (top - bottom + below) / 72), dpi=72)
    axes = figure.add_axes((0, 0, 1, 1), xlim=(left, right), ylim=(bottom - below, top))
    axes.set_axis_off()
    for start, end in drawing.arrows:
        draw_arrow(axes, start, end)
    for node, types in graph.nodes(data="types"):
        axes.add_patch(
            Circle(drawing.points[node], RADIUS, color=drawing.colours[type_of(types)], linewidth=0, zorder=2)
        )
    for text, size, (x, y) in drawing.labels:
        box = {"facecolor": "white", "alpha": 0.75, "linewidth": 0, "pad": 0.5}
        style: dict[str, Any] = {"ha": "center", "va": "center", "linespacing": LINE - 0.1, "bbox": box, "zorder": 3}
        axes.text(x, y, text, fontsize=size, fontweight="bold" if size == NAME_SIZE else "normal", **style)
    draw_legend(axes, drawing.colours, (left + MARGIN, bottom))
    with matplotlib.rc_context({"svg.hashsalt": "HingeABL"}):
        figure.savefig(file, format=form, metadata={"Date": None} if form == "svg" else None, dpi=110)


def bounds_of(drawing: Drawing) -> Box:
    """The box around all points and labels, a margin wider, and wide enough for the legend."""
    boxes = drawing.boxes or [(0.0, 0.0, 420.0, 336.0)]
    left, bottom = (min(box[side] for box in boxes) - MARGIN for side in (0, 1))
    right, top = (max(box[side] for box in boxes) + MARGIN for side in (2, 3))
    legend_width = max(
        (text_size(fit_text(entity_type, 20), LEGEND_SIZE)[0] for entity_type in drawing.colours), default=0
    )
    return left, min(bottom, top - 336), max(right, left + 420, left + legend_width + 4 * MARGIN), top


def legend_height(drawing: Drawing) -> float:
    """The legend's height: a line for each type."""
    return LINE * LEGEND_SIZE * len(drawing.colours) + MARGIN * bool(drawing.colours)


def draw_arrow(axes: Axes, start: Place, end: Place) -> None:
    """An arrow between two points, nothing where they are one."""
    if start != end:
        style: dict[str, Any] = {
            "arrowstyle": "-|>",
            "connectionstyle": f"arc3,rad={BEND}",
            "mutation_scale": 9,
            "color": GREY,
        }
        axes.add_patch(FancyArrowPatch(start, end, shrinkA=RADIUS, shrinkB=RADIUS, linewidth=0.8, zorder=1, **style))


def draw_legend(axes: Axes, colours: dict[str, str], corner: Place) -> None:
    """The types and their colours, one below the other."""
    for number, (entity_type, colour) in enumerate(colours.items()):
        x, y = corner[0], corner[1] - LINE * LEGEND_SIZE * (number + 0.5)
        axes.add_patch(Circle((x + 4, y), 4, color=colour, linewidth=0))
        axes.text(x + 14, y, fit_text(entity_type, 20), fontsize=LEGEND_SIZE, va="center")
