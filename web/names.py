"""What are these ids called? For pages that show events: an event's subject is an id, a person reads names.

The names of a tenant's nodes are asked for at most once in `FRESH_NS`; a name that changes shows a little later.
"""

from __future__ import annotations

from collections.abc import Iterable

from starlette.requests import Request

from fleet import limits
from fleet.ids import is_ulid
from fleet.limits import SECOND
from web import asked

FRESH_NS = 10 * SECOND
NAMES_MAX = 10_000


async def names(request: Request, subjects: Iterable[str]) -> dict[str, str]:
    """Node id → name, for at least those of `subjects` that are nodes of this tenant."""
    if not any(is_ulid(subject) for subject in subjects):
        return {}
    house, who = asked.house(request), asked.who(request)
    now_ns = house.clock()
    at_ns, known = house.names.get(who.tenant, (0, {}))
    if not known or not 0 <= now_ns - at_ns < FRESH_NS:
        known, after = {}, ""
        while len(known) < NAMES_MAX:
            some = await house.box.nodes(who, after, limits.page_items_max)
            known |= {node.id: node.name for node in some}
            if len(some) < limits.page_items_max:
                break
            after = some[-1].id
        house.names[who.tenant] = (now_ns, known)
    return known
