"""Would a node be reached over itself? Asked in the transaction that writes which node it is reached over."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable

from fleet import topology
from fleet.board import text
from fleet.document import Id, Kind, View

FIELD = "upstream"


def refusal(
    db: sqlite3.Connection,
    tenant: str,
    node_id: str,
    over: str,
    look: Callable[[sqlite3.Connection, Id], View],
    called: Callable[[str], str],
) -> str | None:
    """Why `node_id` cannot be reached over the node `over`, with the circle by names; None when it can. `look` reads a
    document, `called` names a node."""
    upstream: dict[str, str] = {}
    at = over
    while at and at not in upstream and len(upstream) < topology.hops_max:
        upstream[at] = text(look(db, Id(tenant, Kind.NODE, at)), FIELD)
        at = upstream[at]
    closed = topology.circle(upstream, node_id, over)
    if not closed:
        return None
    way = " → ".join(map(called, (*closed, node_id)))
    return f"That would go in a circle: {way}. Choose another relay, or first cut it on one of their pages."
