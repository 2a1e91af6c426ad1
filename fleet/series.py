"""Series: metrics over time, in steps of ten seconds, ten minutes to a window. What outlives the raw records.

A step keeps how many numbers fell into it, the lowest, their mean and the highest. A window's bytes are MessagePack
`{metric: [steps u8…, counts u32…, low f32…, mean f32…, high f32…]}`, little endian columns.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import msgspec

STEP_S = 10
WINDOW_S = 600
METRICS_MAX = 64  # in one window of one node; further names are not charted


class Point(NamedTuple):
    at_s: int
    samples: int
    low: float
    mean: float
    high: float


class Window:
    """One node's ten minutes from `start_s`. `add` is a join: order does not matter."""

    __slots__ = ("start_s", "steps")

    def __init__(self, start_s: int) -> None:
        self.start_s = start_s
        self.steps: dict[str, dict[int, list[float]]] = {}

    def add(self, at_s: float, metrics: Mapping[str, float]) -> None:
        step = min(max(int(at_s - self.start_s) // STEP_S, 0), WINDOW_S // STEP_S - 1)
        for metric, value in metrics.items():
            column = self.steps.get(metric)
            if column is None:
                if len(self.steps) >= METRICS_MAX:
                    continue
                column = self.steps[metric] = {}
            held = column.get(step)
            if held is None:
                column[step] = [1, value, value, value]
            else:
                held[0] += 1
                held[2] += value
                if value < held[1]:
                    held[1] = value
                elif value > held[3]:
                    held[3] = value

    def join(self, other: Window) -> None:
        """What two sides know of the same ten minutes: of each step the one with more numbers in it, so that a step that
        was told early, in part, twice or out of turn ends as its fullest telling."""
        for metric, column in other.steps.items():
            held = self.steps.get(metric)
            if held is None:
                if len(self.steps) >= METRICS_MAX:
                    continue
                held = self.steps[metric] = {}
            for step, told in column.items():
                held[step] = max(held.get(step, told), told)

    def points(self, metric: str) -> list[Point]:
        return [
            Point(self.start_s + step * STEP_S, int(count), low, total / count, high)
            for step, (count, low, total, high) in sorted(self.steps.get(metric, {}).items())
        ]

    def encode(self) -> bytes:
        return _encode({metric: _pack(column) for metric, column in self.steps.items()})


def coarser(window: Window, step_s: int) -> Window:
    """The same numbers in steps of `step_s`, a multiple of ten that divides a window."""
    made, wide = Window(window.start_s), step_s // STEP_S
    for metric, column in window.steps.items():
        joined = made.steps[metric] = {}
        for step, (count, low, total, high) in column.items():
            held = joined.setdefault(step // wide * wide, [0, low, 0.0, high])
            held[:] = held[0] + count, min(held[1], low), held[2] + total, max(held[3], high)
    return made


def start_of(at_s: float) -> int:
    return int(at_s) // WINDOW_S * WINDOW_S


def _pack(column: Mapping[int, list[float]]) -> list[bytes]:
    steps = sorted(column)
    held = [column[step] for step in steps]
    return [
        bytes(steps),
        array("I", [int(one[0]) for one in held]).tobytes(),
        array("f", [_float32(one[1]) for one in held]).tobytes(),
        array("f", [_float32(one[2] / one[0]) for one in held]).tobytes(),
        array("f", [_float32(one[3]) for one in held]).tobytes(),
    ]


_FLOAT32_MAX = 3.4e38


def _float32(value: float) -> float:
    return math.copysign(min(abs(value), _FLOAT32_MAX), value)


def decode(start_s: int, raw: bytes) -> Window:
    """ValueError when the bytes are no window."""
    window = Window(start_s)
    try:
        for metric, (steps, counts, low, mean, high) in _decode(raw).items():
            columns = zip(steps, array("I", counts), array("f", low), array("f", mean), array("f", high), strict=True)
            window.steps[metric] = {s: [n, lo, m * n, hi] for s, n, lo, m, hi in columns}
    except (msgspec.MsgspecError, ValueError) as error:
        raise ValueError(f"not a series window: {error}") from error
    return window


def thin(
    points: Iterable[Point], from_s: int, to_s: int, points_max: int, step_s: int = STEP_S
) -> tuple[int, list[Point]]:
    """At most `points_max` points between two instants, joined on a coarser step (`step_s` at least). Returns that step in
    seconds too."""
    while (to_s - from_s) / step_s > points_max:
        step_s *= 2
    joined: dict[int, Point] = {}
    for point in points:
        if not from_s <= point.at_s <= to_s:
            continue
        at_s = point.at_s // step_s * step_s
        held = joined.get(at_s)
        if held is None:
            joined[at_s] = point._replace(at_s=at_s)
        else:
            count = held.samples + point.samples
            mean = (held.mean * held.samples + point.mean * point.samples) / count
            joined[at_s] = Point(at_s, count, min(held.low, point.low), mean, max(held.high, point.high))
    return step_s, [joined[at_s] for at_s in sorted(joined)]


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(dict[str, tuple[bytes, bytes, bytes, bytes, bytes]]).decode
