"""The first screen: how many are live, what needs a person, where everything is, and the list."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import Response

from fleet import limits
from fleet.connectivity import Reach
from fleet.node import Kind
from web import asked, forms, render
from web.chart import map_of
from web.pages.policies import NO_DOMAIN
from web.ports import NodeQuery, Refused

ORDERS = {
    "attention": "Attention first",
    "name": "Name",
    "battery": "Battery",
    "seen": "Last heard",
    "rtt": "Round trip",
}


SITES_SHOWN_MAX = 40  # the others stand on the page Links, and in the filter
GROUPS_SHOWN_MAX = 200  # domains, and bundles, to choose from
_ID_CHARS_MAX = 64


async def show(request: Request) -> Response:
    """GET /"""
    query = query_of(request)
    moment = await asked.moment(request)
    if moment is not None:
        return await _then(request, query, moment)
    view = await asked.box(request).site(asked.who(request), query)
    if asked.wants_json(request):
        return render.data(view)
    total = sum(view.reach.values())
    return render.page(
        request,
        "site",
        topic="site",
        view=view,
        now_ns=view.now_ns,
        query=query,
        total=total,
        map=map_of(view.places),
        kinds=tuple(Kind),
        orders=ORDERS,
        link=lambda **change: link(query, **change),
        doors=() if total or asked.box(request).hub else await _doors(request),
        lines=view.sites[:SITES_SHOWN_MAX],
        domain_choices=_chosen([(one.id, one.name) for one in view.drift.domains if one.id], query.domain),
        bundle_choices=_chosen([(one.id, one.name) for one in view.drift.policies], query.bundle),
        http=request.headers.get("host", ""),
    )


async def _then(request: Request, query: NodeQuery, moment: asked.Moment) -> Response:
    """The fleet as of a moment."""
    view = await moment.past.site(asked.who(request), query, moment.at_ns)
    if asked.wants_json(request):
        return render.data(view)
    domains, bundles = await asked.box(request).policies.names()
    return render.page(
        request,
        "site_then",
        view=view,
        now_ns=view.now_ns,
        as_of=view.as_of,
        query=query,
        total=sum(view.reach.values()),
        kinds=tuple(Kind),
        link=lambda **change: link(query, **change),
        lines=view.sites[:SITES_SHOWN_MAX],
        domain_choices=_chosen(domains, query.domain),
        bundle_choices=_chosen(bundles, query.bundle),
    )


def _chosen(groups: Sequence[tuple[str, str]], chosen: str | None) -> list[tuple[str, str]]:
    """Ids and names to choose from, by name; what is chosen is among them."""
    shown = sorted(groups, key=lambda one: one[::-1])[:GROUPS_SHOWN_MAX]
    missing = [(chosen, dict(groups).get(chosen, chosen))] if chosen and chosen not in dict(shown) else []
    return [*shown, *missing]


async def _doors(request: Request) -> tuple[tuple[str, str], ...]:
    """(way in, HOST:PORT as this person would reach it): what an empty site tells to do."""
    host = request.headers.get("host", "").removesuffix(f":{request.url.port}")
    lines = (await asked.box(request).intake(asked.who(request))).lines
    ports = ((line.intake, line.address.rpartition(":")[2]) for line in lines if line.problem is None)
    return tuple((intake, f"{host}:{port}") for intake, port in ports if port.isdigit() and intake.startswith("syslog"))


def query_of(request: Request) -> NodeQuery:
    """Refused (400) for what no form of ours sends."""
    asked_for = request.query_params
    order = asked_for.get("order") or "attention"
    if order not in ORDERS:
        raise Refused(f"“order” is one of {', '.join(ORDERS)}.", 400)
    domain = forms.text(asked_for, "domain", chars_max=_ID_CHARS_MAX)
    return NodeQuery(
        text=forms.text(asked_for, "text", chars_max=limits.name_chars_max),
        reach=forms.choice(asked_for, "reach", Reach),
        kind=forms.choice(asked_for, "kind", Kind),
        tag=forms.text(asked_for, "tag", chars_max=limits.name_chars_max) or None,
        site=forms.text(asked_for, "site", chars_max=limits.name_chars_max) or None,
        domain="" if domain == NO_DOMAIN else domain or None,
        bundle=forms.text(asked_for, "bundle", chars_max=_ID_CHARS_MAX) or None,
        order=order,
        offset=forms.number(asked_for, "offset", default=0, low=0, high=1_000_000),
        limit=forms.number(asked_for, "limit", default=limits.page_items_default, low=1, high=limits.page_items_max),
    )


def link(query: NodeQuery, **change: object) -> str:
    """The list with one thing changed; a change of filter starts at its first page."""
    asked_for: dict[str, object] = {
        "text": query.text,
        "reach": query.reach,
        "kind": query.kind,
        "tag": query.tag,
        "site": query.site,
        "domain": NO_DOMAIN if query.domain == "" else query.domain,
        "bundle": query.bundle,
        "order": "" if query.order == "attention" else query.order,
        "limit": "" if query.limit == limits.page_items_default else query.limit,
        **change,
    }
    filled = urlencode({name: str(value) for name, value in asked_for.items() if value})
    return f"/?{filled}" if filled else "/"
