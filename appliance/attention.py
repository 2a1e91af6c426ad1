"""What of the site itself needs a person here? Of the hub's line only that it holds the site in quarantine: to be cut off
is normal, and no item.
"""

from __future__ import annotations

from appliance.parts import Parts
from fleet.attention import Cause, Item
from fleet.document import Kind
from web.attention import BOX


def of_box(parts: Parts, name: str) -> list[Item]:
    """Those with `since_ns` 0 have no time of their own."""
    place, nodes, rights = parts.identity.log.writer, parts.world.nodes, parts.autonomy.rights
    found = [
        Item(Cause.INTAKE, BOX, one.intake, one.intake, one.problem, 0) for one in parts.lines.values() if one.problem
    ]
    if parts.gate.fault is not None:
        found.append(Item(Cause.STORAGE, BOX, "storage", "storage", str(parts.gate.fault), 0))
    glass = parts.glass()
    if glass.used_ns is not None and glass.sealed_ns is None:
        words = "the break-glass account was used; ask who it was, and seal another one under Account"
        found.append(Item(Cause.BREAK_GLASS, Kind.SITE, place, name, words, glass.used_ns))
    reasons = parts.link.uplink.site.quarantine
    if reasons:
        words = f"the hub holds this site in quarantine: {'; '.join(reasons)}"
        found.append(Item(Cause.QUARANTINE, Kind.SITE, place, name, words, 0))
    for subject, where in sorted({*rights.state.claims, *rights.state.grants}):
        chain = rights.chain(subject, where)
        if where == place and chain.contests:
            node = nodes.get(subject)
            kind, called = (Kind.NODE, node.node.name) if node is not None else (Kind.DOMAIN, subject)
            words = f"two believe that they decide here. {chain.contests[0].words}"
            domain = "" if node is not None else subject
            found.append(Item(Cause.CONTEST, kind, subject, called, words, chain.contests[0].since_ns, domain=domain))
    return found
