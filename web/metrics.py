"""The box's gauges in the Prometheus text format, version 0.0.4. It is a line a figure, and a hub of a thousand sites has six
thousand of them: the client library of Prometheus, made for a program's own counters, took five times as long.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterable, Sequence
from functools import partial

from starlette.requests import Request
from starlette.responses import Response

from web import asked
from web.ports import Durations, Gauge

Figure = Gauge | Durations


async def metrics(request: Request) -> Response:
    """GET /metrics"""
    house, who = asked.house(request), asked.who(request)
    if house.tenants is not None and not house.prefix and who.role.across:
        gauges = await house.tenants.gauges(who, request.headers.get("user-agent", ""))
    else:
        gauges = await house.box.gauges()
    body = await asyncio.to_thread(text, gauges)  # thousands of nodes take a while; pages do not wait for it
    return Response(body, media_type="text/plain; version=0.0.4; charset=utf-8")


def text(figures: Iterable[Figure]) -> bytes:
    """Those of one name stand together, in whatever order they come."""
    families: dict[str, list[Figure]] = {}
    for one in figures:
        families.setdefault(one.name, []).append(one)
    lines: list[str] = []
    for name, family in families.items():
        kind = family[0].kind if isinstance(family[0], Gauge) else "histogram"
        lines += f"# HELP {name} {_escaped(family[0].help)}\n", f"# TYPE {name} {kind}\n"
        for one in family:
            if isinstance(one, Gauge):
                lines.append(_line(name, one.labels, one.value))
            else:
                buckets = ((*one.labels, ("le", _number(bound))) for bound, _ in one.buckets)
                lines += map(partial(_line, name + "_bucket"), buckets, (count for _, count in one.buckets))
                lines.append(_line(name + "_count", one.labels, one.buckets[-1][1]))
                lines.append(_line(name + "_sum", one.labels, one.sum_s))
    return "".join(lines).encode()


def _line(name: str, labels: Sequence[tuple[str, str]], value: float) -> str:
    if not labels:
        return f"{name} {_number(value)}\n"
    said = ",".join([f'{label}="{_quoted(words)}"' for label, words in sorted(labels)])
    return f"{name}{{{said}}} {_number(value)}\n"


def _escaped(words: str) -> str:
    return words.replace("\\", r"\\").replace("\n", r"\n")


def _quoted(words: str) -> str:
    return _escaped(words).replace('"', r"\"")


def _number(value: float) -> str:
    if math.isfinite(value):
        return repr(float(value))
    return "NaN" if value != value else "+Inf" if value > 0 else "-Inf"
