"""The box's gauges in the Prometheus text format. The only module that knows prometheus-client, which it loads late."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import Response

from web import asked
from web.ports import Durations, Gauge

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric


async def metrics(request: Request) -> Response:
    """GET /metrics"""
    house, who = asked.house(request), asked.who(request)
    if house.tenants is not None and not house.prefix and who.role.across:
        gauges = await house.tenants.gauges(who, request.headers.get("user-agent", ""))
    else:
        gauges = await house.box.gauges()
    body = await asyncio.to_thread(text, gauges)  # thousands of nodes take a while; pages do not wait for it
    return Response(body, media_type="text/plain; version=0.0.4; charset=utf-8")


def text(gauges: Sequence[Gauge | Durations]) -> bytes:
    from prometheus_client import CollectorRegistry, generate_latest

    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Gauges(gauges))
    return generate_latest(registry)


class _Gauges:
    def __init__(self, gauges: Sequence[Gauge | Durations]) -> None:
        self._gauges = gauges

    def describe(self) -> list[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

        families: dict[str, Metric] = {}
        for gauge in self._gauges:
            labels, family = [value for _, value in gauge.labels], families.get(gauge.name)
            names = [name for name, _ in gauge.labels]
            if isinstance(gauge, Durations):
                if family is None:
                    family = families[gauge.name] = HistogramMetricFamily(gauge.name, gauge.help, labels=names)
                buckets = [("+Inf" if bound == float("inf") else str(bound), count) for bound, count in gauge.buckets]
                family.add_metric(labels, buckets, gauge.sum_s)  # type: ignore[attr-defined]
                continue
            if family is None:
                make = CounterMetricFamily if gauge.kind == "counter" else GaugeMetricFamily
                family = families[gauge.name] = make(
                    gauge.name.removesuffix("_total") if gauge.kind == "counter" else gauge.name,
                    gauge.help,
                    labels=names,
                )
            family.add_metric(labels, gauge.value)  # type: ignore[attr-defined]
        yield from families.values()
