"""Everything a page loads besides itself, held in memory and named by its hash. No path of a request reaches the disk."""

from __future__ import annotations

import gzip
import hashlib
from functools import cache
from pathlib import Path
from typing import NamedTuple

from starlette.requests import Request
from starlette.responses import Response

from web.ports import Refused

FOLDER = Path(__file__).parent / "static"

TYPES = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".LICENSE": "text/plain; charset=utf-8",
    ".sha256": "text/plain; charset=utf-8",
}


class Asset(NamedTuple):
    content: bytes
    packed: bytes
    kind: str
    version: str


@cache
def assets() -> dict[str, Asset]:
    """By path below static/, read once."""
    found = {}
    for path in sorted(FOLDER.rglob("*")):
        if path.is_file() and path.suffix in TYPES:
            content = path.read_bytes()
            version = hashlib.sha256(content).hexdigest()[:12]
            found[str(path.relative_to(FOLDER))] = Asset(
                content, gzip.compress(content, 6, mtime=0), TYPES[path.suffix], version
            )
    return found


def url(name: str) -> str:
    return f"/static/{name}?v={assets()[name].version}"


async def static(request: Request) -> Response:
    """GET /static/{name} and /static/vendor/{name}"""
    asset = assets().get(request.url.path.removeprefix("/static/"))
    if asset is None:
        raise Refused("There is no such file.", 404)
    tag = f'"{asset.version}"'
    named = request.query_params.get("v") == asset.version
    headers = {
        "etag": tag,
        "cache-control": "public, max-age=31536000, immutable" if named else "no-cache",
        "vary": "accept-encoding",
    }
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers=headers)
    if "gzip" in request.headers.get("accept-encoding", ""):
        return Response(asset.packed, headers=headers | {"content-encoding": "gzip"}, media_type=asset.kind)
    return Response(asset.content, headers=headers, media_type=asset.kind)
