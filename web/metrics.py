"""The box's gauges in the Prometheus text format. The only module that knows prometheus-client, which it loads late."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import Response

from web import asked
from web.ports import Gauge

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric


async def metrics(request: Request) -> Response:
    """GET /metrics"""
    return Response(text(await asked.box(request).gauges()), media_type="text/plain; version=0.0.4; charset=utf-8")


def text(gauges: Sequence[Gauge]) -> bytes:
    from prometheus_client import CollectorRegistry, generate_latest

    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Gauges(gauges))
    return generate_latest(registry)


class _Gauges:
    def __init__(self, gauges: Sequence[Gauge]) -> None:
        self._gauges = gauges

    def describe(self) -> list[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        families: dict[str, Metric] = {}
        for gauge in self._gauges:
            family = families.get(gauge.name)
            if family is None:
                make = CounterMetricFamily if gauge.kind == "counter" else GaugeMetricFamily
                family = families[gauge.name] = make(
                    gauge.name.removesuffix("_total") if gauge.kind == "counter" else gauge.name,
                    gauge.help,
                    labels=[name for name, _ in gauge.labels],
                )
            family.add_metric([value for _, value in gauge.labels], gauge.value)  # type: ignore[attr-defined]
        yield from families.values()
