"""What the command line asks of a running appliance about its link: `skerry link …`, over the control socket."""

from __future__ import annotations

from pathlib import Path

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from appliance.bundles import Bundles
from appliance.hub_link import HubLink
from sync.bundle import PART_BYTES_MAX
from web import asked, render
from web.console import wish_of
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
        "url": link.url or None,
        "urls": list(link.file.urls) if link.file else [],
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


class _Write(msgspec.Struct, frozen=True):
    to: str
    one_way: bool = False
    whole: bool = False
    part_bytes: int = 0
    only: tuple[int, ...] = ()


class _Read(msgspec.Struct, frozen=True):
    path: str


def routes(link: HubLink, bundles: Bundles) -> tuple[Entry, ...]:
    async def show(request: Request) -> Response:
        return render.data(shown(link))

    async def order(request: Request) -> Response:
        wish = wish_of(await request.body(), _Order)
        await link.order(asked.who(request).name, wish.action, wish.value)
        return render.data(shown(link))

    async def join(request: Request) -> Response:
        file = await link.join(await request.body())
        return render.data({"hub": file.hub, "site": file.site, "urls": list(file.urls)}, 201)

    async def write(request: Request) -> Response:
        wish = wish_of(await request.body(), _Write)
        export, load = await bundles.write(
            Path(wish.to),
            one_way=wish.one_way,
            whole=wish.whole,
            part_bytes_max=wish.part_bytes or PART_BYTES_MAX,
            only=wish.only,
        )
        return render.data(
            {
                "words": load.words,
                "files": [str(path) for path in export.paths],
                "parts": export.parts,
                "missing": list(export.missing),
                "problem": f"{export.problem} ({export.detail})" if export.problem else "",
            }
        )

    async def read(request: Request) -> Response:
        return render.data({"words": await bundles.read(Path(wish_of(await request.body(), _Read).path))})

    return (
        Entry("POST", "/console/bundle/write", write, Policy.ADMIN, _BODY_BYTES_MAX),
        Entry("POST", "/console/bundle/read", read, Policy.ADMIN, _BODY_BYTES_MAX),
        Entry("GET", "/console/link", show, Policy.ADMIN),
        Entry("POST", "/console/link", order, Policy.ADMIN, _BODY_BYTES_MAX),
        Entry("POST", "/console/join", join, Policy.ADMIN, _BODY_BYTES_MAX),
    )
