"""What the command line asks of a running appliance about its link: `skerry link …`, over the control socket."""

from __future__ import annotations

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from appliance.hub_link import HubLink
from fleet.people import Refused
from web import asked, render
from web.policy import Entry, Policy

_BODY_BYTES_MAX = 64 * 1024


class _Order(msgspec.Struct, frozen=True):
    action: str
    value: str = ""


def shown(link: HubLink) -> dict[str, object]:
    """The link in plain values."""
    site, orders, tally = link.uplink.site, link.orders, link.tally()
    return {
        "hub": link.file.hub if link.file else None,
        "url": link.file.url if link.file else None,
        "state": str(site.state),
        "up": link.link is not None and link.link.up,
        "problem": link.problem or site.reason or (link.link.problem if link.link else ""),
        "cut": orders.cut,
        "per_s": orders.per_s,
        "per_hour": orders.per_hour,
        "paused": list(orders.paused),
        "sent_bytes": tally.sent_bytes,
        "received_bytes": tally.received_bytes,
        "quarantine": list(site.quarantine),
    }


def routes(link: HubLink) -> tuple[Entry, ...]:
    async def show(request: Request) -> Response:
        return render.data(shown(link))

    async def order(request: Request) -> Response:
        try:
            wish = msgspec.json.decode(await request.body(), type=_Order)
        except msgspec.MsgspecError as error:
            raise Refused(f"the body is {{'action': …, 'value': …}}: {error}", 422) from error
        await link.order(asked.who(request).name, wish.action, wish.value)
        return render.data(shown(link))

    async def join(request: Request) -> Response:
        file = await link.join(await request.body())
        return render.data({"hub": file.hub, "site": file.site, "url": file.url}, 201)

    return (
        Entry("GET", "/console/link", show, Policy.ADMIN),
        Entry("POST", "/console/link", order, Policy.ADMIN, _BODY_BYTES_MAX),
        Entry("POST", "/console/join", join, Policy.ADMIN, _BODY_BYTES_MAX),
    )
