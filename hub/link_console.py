"""What the command line asks of a running hub about its sites: `skerry hub invite`, bundles; over the control socket."""

from __future__ import annotations

from pathlib import Path

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from fleet.people import Refused
from hub.bundles import Bundles
from hub.lines import Lines
from hub.state import FleetHere
from sync.bundle import PART_BYTES_MAX
from web import asked, render
from web.console import wish_of
from web.policy import Entry, Policy

_BODY_BYTES_MAX = 64 * 1024


class _Invite(msgspec.Struct, frozen=True):
    name: str
    urls: tuple[str, ...] = ()


class _Write(msgspec.Struct, frozen=True):
    to: str
    site: str = ""
    part_bytes: int = 0


class _Read(msgspec.Struct, frozen=True):
    path: str


def routes(lines: Lines, bundles: Bundles, fleet: FleetHere, me: tuple[str, str, bytes, bytes]) -> tuple[Entry, ...]:
    """`me` is the hub's name, writer, key and sealing key. What names files of this machine is not for one tenant's admin."""

    async def invite(request: Request) -> Response:
        wish = wish_of(await request.body(), _Invite)
        return render.data(await lines.invite(asked.who(request).name, wish.name, wish.urls, me), 201)

    async def to_enter(request: Request) -> Response:
        whole, sites = lines.to_enter(everybody=asked.who(request).role.across and not asked.house(request).prefix)
        return render.data({"configuration": whole, "sites": sites})

    async def show(request: Request) -> Response:
        return render.data(
            {
                "line": lines.shown(),
                "sites": [msgspec.structs.asdict(site) | {"public_key": ""} for site in fleet.sites.values()],
            }
        )

    async def write(request: Request) -> Response:
        wish = wish_of(await request.body(), _Write)
        site = next((one for one in fleet.sites.values() if wish.site in (one.name, one.writer)), None)
        if site is None:
            raise Refused(f"there is no site {wish.site!r} here; name one with --site", 404)
        export = await bundles.write(site.writer, Path(wish.to), part_bytes_max=wish.part_bytes or PART_BYTES_MAX)
        return render.data(
            {
                "words": f"receipts, documents and what the hub wrote towards {site.name}",
                "files": [str(path) for path in export.paths],
                "parts": export.parts,
                "missing": list(export.missing),
                "problem": f"{export.problem} ({export.detail})" if export.problem else "",
            }
        )

    async def read(request: Request) -> Response:
        return render.data({"words": await bundles.read(Path(wish_of(await request.body(), _Read).path))})

    return (
        Entry("POST", "/console/invite", invite, Policy.ADMIN, _BODY_BYTES_MAX),
        Entry("GET", "/console/links", show, Policy.ADMIN),
        Entry("GET", "/console/link", show, Policy.ADMIN),  # what `skerry link show` asks of either box
        Entry("GET", "/console/nats", to_enter, Policy.ADMIN),
        Entry("POST", "/console/bundle/write", write, Policy.OPERATOR_ADMIN, _BODY_BYTES_MAX),
        Entry("POST", "/console/bundle/read", read, Policy.OPERATOR_ADMIN, _BODY_BYTES_MAX),
    )
