"""Where a picture's marks go: sparklines, bars and the map, as plain numbers and SVG path data.

Pure geometry; the templates draw it. No style comes from here (the policy of the pages forbids inline styles): what
depends on a value is an SVG attribute, what depends on a state is a class.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

from fleet.connectivity import Reach
from web.ports import NodeRow, PathNode, Series, SitePaths
from web.words import angle


@lru_cache(maxsize=2_048)
def spark(
    values: tuple[float | None, ...], width: float, height: float, low: float | None = None, high: float | None = None
) -> str:
    """Path data of a sparkline. Where nothing was heard the line breaks; a lone point becomes a dot.

    A list shows the same hundred lines again and again; they change every few minutes."""
    known = [value for value in values if value is not None]
    if len(known) < 2:
        return ""
    floor = min(known) if low is None else low
    span = (max(known) if high is None else high) - floor or 1.0
    step = width / (len(values) - 1)
    parts: list[str] = []
    pen = False
    for index, value in enumerate(values):
        if value is None:
            pen = False
            continue
        y = height - (min(max(value, floor), floor + span) - floor) / span * height
        parts.append(f"{'L' if pen else 'M'}{index * step:.1f} {y:.1f}" + ("" if pen else "h.1"))
        pen = True
    return "".join(parts)


def trail(values: Sequence[float | None], width: float, height: float) -> str:
    """Path data of something that is best at nothing: from 0 to the highest, each value as long as it held."""
    high = max((value for value in values if value is not None), default=0.0) or 1.0
    step = width / max(len(values), 1)
    parts: list[str] = []
    pen = False
    for index, value in enumerate(values):
        if value is not None:
            y = height - value / high * (height - 1)
            parts.append(f"{'V' if pen else f'M{index * step:.1f} '}{y:.1f}h{step:.2f}")
        pen = value is not None
    return "".join(parts)


def gap_s(at_s: Sequence[float], step_s: float) -> float:
    """How far apart two points are when something is missing between them: well beyond the step, and beyond how far apart
    this node's numbers mostly are."""
    apart = sorted(after - before for before, after in pairwise(at_s))
    return 2.5 * max(step_s, apart[len(apart) // 2] if apart else 0.0)


def trace(one: Series, from_s: float, to_s: float, width: float, height: float) -> str:
    """Path data of a metric over the whole of a time; nothing is drawn where nothing was heard."""
    if not one.at_s:
        return ""
    floor, apart = min(one.mean), gap_s(one.at_s, one.step_s)
    span, scale = max(one.mean) - floor or 1.0, width / max(to_s - from_s, one.step_s)
    parts: list[str] = []
    last_s = -math.inf
    for at_s, value in zip(one.at_s, one.mean, strict=True):
        here = f"{(at_s - from_s) * scale:.1f} {height - (value - floor) / span * height:.1f}"
        parts.append(f"M{here}h.1" if at_s - last_s > apart else f"L{here}")
        last_s = at_s
    return "".join(parts)


# -- the map ---------------------------------------------------------------------------------------------------

WIDTH, HEIGHT = 800.0, 520.0
_MARGIN = 40.0
_METRES_PER_DEGREE = 111_195.0
_LABELS_MAX = 60
MARKS_MAX = 150
_CHAR, _LINE = 8.2, 17.0  # a label's size, generously


class Mark(NamedTuple):
    row: NodeRow
    x: float
    y: float
    label: str  # left, right, above, below, or empty where there is no room


class Line(NamedTuple):
    at: float
    words: str


class Map(NamedTuple):
    """`crowd`: beyond `MARKS_MAX` nodes, those without a name, as path data by state."""

    nodes: int
    marks: tuple[Mark, ...]
    crowd: tuple[tuple[Reach, str], ...]
    meridians: tuple[Line, ...]
    parallels: tuple[Line, ...]
    bar: float  # length of the scale bar, in map units
    bar_words: str


_STEPS_MIN = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0)
_BARS_M = tuple(factor * 10**power for power in range(1, 7) for factor in (1, 2, 5))


def map_of(places: Sequence[NodeRow]) -> Map | None:
    """Nodes on an equirectangular sheet whose edges lie on half graticule lines, so that a moving node does not
    make the sheet jump. None without a position."""
    fixes = [(row, row.position) for row in places if row.position is not None]
    if not fixes:
        return None
    lats = [position.lat_deg for _, position in fixes]
    lons = [position.lon_deg for _, position in fixes]
    squeeze = max(math.cos(math.radians((min(lats) + max(lats)) / 2)), 0.05)
    tall = max(max(lats) - min(lats), 0.004)
    wide = max(max(lons) - min(lons), 0.004 / squeeze)
    step = _step(max(tall, wide * squeeze * HEIGHT / WIDTH))
    half = step / 2
    south, north = math.floor(min(lats) / half) * half, math.ceil(max(lats) / half) * half
    west, east = math.floor(min(lons) / half) * half, math.ceil(max(lons) / half) * half
    north, east = max(north, south + half), max(east, west + half)
    scale = min((WIDTH - 2 * _MARGIN) / ((east - west) * squeeze), (HEIGHT - 2 * _MARGIN) / (north - south))
    left = (WIDTH - (east - west) * squeeze * scale) / 2
    top = (HEIGHT - (north - south) * scale) / 2

    def x(lon: float) -> float:
        return round(left + (lon - west) * squeeze * scale, 1)

    def y(lat: float) -> float:
        return round(top + (north - lat) * scale, 1)

    spots = [(row, x(position.lon_deg), y(position.lat_deg)) for row, position in fixes]
    names = _names(spots)
    alone, crowd = _parted(spots, names)
    metres = 140 / scale * _METRES_PER_DEGREE
    bar_m = max((bar for bar in _BARS_M if bar <= metres), default=_BARS_M[0])
    return Map(
        nodes=len(spots),
        marks=tuple(Mark(row, x, y, names.get(row.id, "")) for row, x, y in alone),
        crowd=_crowd(crowd),
        meridians=tuple(
            Line(x(lon), angle(lon, "E", "W"))
            for lon in _lines(west, left, step * (1 + (squeeze < 0.75)), squeeze * scale, WIDTH)
        ),
        parallels=tuple(Line(y(lat), angle(lat, "N", "S")) for lat in _lines(south, top, step, scale, HEIGHT)),
        bar=round(bar_m / _METRES_PER_DEGREE * scale, 1),
        bar_words=f"{bar_m / 1000:g} km" if bar_m >= 1000 else f"{bar_m} m",
    )


def _step(extent_deg: float) -> float:
    minutes = extent_deg * 60 / 4
    return next((step for step in _STEPS_MIN if step >= minutes), _STEPS_MIN[-1]) / 60


def _lines(first: float, margin: float, step: float, scale: float, length: float) -> Iterator[float]:
    """Whole multiples of the step over the whole sheet, its margins included."""
    low, high = first - margin / scale, first + (length - margin) / scale
    yield from (step * index for index in range(math.ceil(low / step), math.floor(high / step) + 1))


_CELL = 11.0
Box = tuple[float, float, float, float]
Spot = tuple[NodeRow, float, float]


def _names(spots: Sequence[Spot]) -> dict[str, str]:
    """By node, the side that its name fits on. What needs attention is named first."""
    taken = {int(y // _CELL) << 16 | int(x // _CELL) for _, x, y in spots}
    named = sorted(spots, key=lambda spot: spot[0].reach is Reach.ONLINE)[:_LABELS_MAX]
    sides: dict[str, str] = {}
    for row, x, y in named:
        for side, box in _boxes(x, y, min(len(row.name), 24) * _CHAR):
            if _inside(box) and taken.isdisjoint(cells := _cells(box)):
                taken.update(cells)
                sides[row.id] = side
                break
    return sides


def _inside(box: Box) -> bool:
    return box[0] >= 0 and box[1] >= 0 and box[2] <= WIDTH and box[3] <= HEIGHT


def _cells(box: Box) -> list[int]:
    """The squares of a coarse grid that a box touches: enough to keep names apart, and quick for a thousand nodes."""
    across = range(int(box[0] // _CELL), int(box[2] // _CELL) + 1)
    down = range(int(box[1] // _CELL), int(box[3] // _CELL) + 1)
    return [line << 16 | column for line in down for column in across]


def _parted(spots: Sequence[Spot], names: Mapping[str, str]) -> tuple[Sequence[Spot], Sequence[Spot]]:
    """Those that get a mark of their own, and the crowd. What needs attention stands alone before all others."""
    if len(spots) <= MARKS_MAX:
        return spots, ()
    weight = sorted(spots, key=lambda spot: (spot[0].reach is Reach.ONLINE, spot[0].id not in names))
    own = {spot[0].id for spot in weight[:MARKS_MAX] if spot[0].reach is not Reach.ONLINE or spot[0].id in names}
    return [spot for spot in spots if spot[0].id in own], [spot for spot in spots if spot[0].id not in own]


_SHAPES: dict[Reach, str] = {
    Reach.ONLINE: "m-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0",
    Reach.DEGRADED: "m0-5 5 9h-10z",
    Reach.OFFLINE: "m-5-3.5 1.5-1.5 8.5 8.5-1.5 1.5zm8.5-1.5 1.5 1.5-8.5 8.5-1.5-1.5z",
    Reach.UNKNOWN: "m-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0m2 0a2 2 0 1 1 4 0a2 2 0 1 1-4 0",
}


def _crowd(spots: Sequence[Spot]) -> tuple[tuple[Reach, str], ...]:
    """What needs attention is drawn last, on top; nodes of one state in one place are drawn once."""
    places: dict[Reach, dict[str, None]] = {
        one: {} for one in (Reach.UNKNOWN, Reach.ONLINE, Reach.DEGRADED, Reach.OFFLINE)
    }
    for row, x, y in spots:
        places[row.reach][f"M{x:.0f} {y:.0f}"] = None
    return tuple((one, _SHAPES[one].join((*found, ""))) for one, found in places.items() if found)


def _boxes(x: float, y: float, width: float) -> Iterator[tuple[str, Box]]:
    half = _LINE / 2
    yield "right", (x + 19, y - half, x + 19 + width, y + half)
    yield "left", (x - 19 - width, y - half, x - 19, y + half)
    yield "above", (x - width / 2, y - 12 - _LINE, x + width / 2, y - 12)
    yield "below", (x - width / 2, y + 12, x + width / 2, y + 12 + _LINE)


# -- paths over relays -------------------------------------------------------------------------------------------

ROW, COLUMN = 26, 30
_LABEL_CHARS_MAX = 34


class Twig(NamedTuple):
    """A node of a drawing, or nodes that are only counted (`node` None): where its mark stands, the way to it from what it
    is reached over, and how good that way is."""

    x: int
    y: int
    way: str
    path: Reach
    node: PathNode | None
    nodes: int = 1


class Tree(NamedTuple):
    width: int
    height: int
    twigs: tuple[Twig, ...]


def tree(one: SitePaths) -> Tree:
    """Every node on a line of its own, further in by each hop: no label meets another, however deep it goes."""
    twigs: list[Twig] = []

    def below(nodes: Sequence[PathNode], folded: Sequence[tuple[Reach, int]], depth: int, from_y: int) -> None:
        x = 12 + depth * COLUMN
        for node in nodes:
            y = 12 + (len(twigs) + 1) * ROW
            twigs.append(Twig(x, y, f"M{x - COLUMN} {from_y + 7}V{y}H{x - 7}", node.path, node))
            below(node.over, node.folded, depth + 1, y)
        for reach, count in folded:
            y = 12 + (len(twigs) + 1) * ROW
            twigs.append(Twig(x, y, f"M{x - COLUMN} {from_y + 7}V{y}H{x - 7}", reach, None, count))

    below(one.roots, one.folded, 1, 12)
    deep = max((twig.x for twig in twigs), default=12)
    return Tree(deep + 14 + round(_LABEL_CHARS_MAX * _CHAR), 24 + len(twigs) * ROW, tuple(twigs))


# -- bars ------------------------------------------------------------------------------------------------------


class Piece(NamedTuple):
    name: str
    x: float
    width: float


def stack(parts: Sequence[tuple[str, float]], whole: float) -> tuple[Piece, ...]:
    """Parts of a whole as pieces of a bar 100 wide; a part that is there is never too thin to see."""
    pieces: list[Piece] = []
    at = 0.0
    for name, part in parts:
        width = min(max(part / whole * 100, 0.6 if part else 0.0), 100 - at) if whole > 0 else 0.0
        pieces.append(Piece(name, round(at, 2), round(width, 2)))
        at += width
    return tuple(pieces)
