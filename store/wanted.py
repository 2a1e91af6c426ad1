"""What do people want of a node, in the words in which its device hears it (its shared attributes)?

The node's own document over that of its policy bundle, as drift has it (`fleet.drift`): a device is told what it is
measured by. Notes, and who has taken what up, are for people and not among it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping, Sequence

import msgspec

from fleet.document import Id, Kind, View, entries
from fleet.drift import CONSTRAINTS, said

_OWN = ("name", "kind", "domain_id", "policy_bundle_id", "maintenance_window")
_encode = msgspec.json.Encoder().encode

Look = Callable[[sqlite3.Connection, Id], View]


def wanted(db: sqlite3.Connection, tenant: str, node_ids: Sequence[str], look: Look) -> dict[str, dict[str, bytes]]:
    """JSON by name, of each of those nodes that has a document."""
    bundles: dict[str, Mapping[str, bytes]] = {}
    found: dict[str, dict[str, bytes]] = {}
    for node_id in node_ids:
        view = look(db, Id(tenant, Kind.NODE, node_id))
        own = {name: view.values[name].value for name in _OWN if name in view.values}
        values = {name: _encode(value) for name, value in own.items() if value is not None}
        tags = entries(view, "tags/")
        if tags:
            values["tags"] = _encode(sorted(tags))
        bundle = own.get("policy_bundle_id")
        if isinstance(bundle, str) and bundle not in bundles:
            bundles[bundle] = _wants(look(db, Id(tenant, Kind.BUNDLE, bundle)))
        wants = {**(bundles[bundle] if isinstance(bundle, str) else {}), **_wants(view)}
        constraints = {
            name.removeprefix(CONSTRAINTS): msgspec.Raw(text)
            for name, text in sorted(wants.items())
            if name.startswith(CONSTRAINTS)
        }
        values |= {name: text for name, text in wants.items() if not name.startswith(CONSTRAINTS)}
        if constraints:
            values["constraints"] = _encode(constraints)
        found[node_id] = values
    return {node_id: values for node_id, values in found.items() if values}


def _wants(view: View) -> dict[str, bytes]:
    return {name: _encode(one.value) for name, one in said(view.values).items()}
