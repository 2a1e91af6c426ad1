"""What people say of a node in its document, and what of that stands in the node's row.

A form's text becomes values by pointer (`values_of`); a document as it stands becomes a changed node (`applied`). Address
and lifecycle are not among it: the first is what a site knows by itself, the second is made of events.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import msgspec

from fleet.document import Kind as DocumentKind
from fleet.document import Value, View, entries, wrong
from fleet.node import Constraints, Desired, Kind, Node
from fleet.people import Refused

NOTHING = View({}, ())

FIELDS = (
    "name",
    "tags",
    "kind",
    "notes",
    "domain_id",
    "upstream",
    "policy_bundle_id",
    "target_version",
    "maintenance_window",
    "min_battery_pct",
    "requires_online",
)


def values_of(field: str, text: str, view: View) -> dict[str, Value]:
    """What a form's `text` for `field` writes, over what stands in `view`. Refused (422) when it will not do."""
    text = text.strip()
    match field:
        case "tags":
            wanted = dict.fromkeys(text.replace(",", " ").split())
            gone = {f"tags/{tag}": None for tag in entries(view, "tags/") if tag not in wanted}
            return {**{f"tags/{tag}": True for tag in wanted}, **gone}
        case "min_battery_pct":
            try:
                number = float(text) if text else None
                return {field: int(number) if number is not None and number.is_integer() else number}
            except ValueError as error:
                raise Refused(f"{text!r} is not a number of percent", 422) from error
        case "requires_online":
            return {field: text.lower() in ("1", "true", "yes", "on") if text else None}
        case "name" | "kind":
            return {field: text}
        case _ if field in FIELDS:
            return {field: text or None}
        case _:
            raise Refused(f"{field!r} is not a field that can be changed here", 422)


_METRIC = re.compile(r"[a-z][a-z0-9_]{0,63}")
COMMON = {
    DocumentKind.BUNDLE: ("name", "target_version", "min_battery_pct", "requires_online", "notes"),
    DocumentKind.DOMAIN: ("name", "notes", "maintenance_window"),
}


def common_values(kind: DocumentKind, fields: Mapping[str, str]) -> dict[str, Value]:
    """What a form writes into a bundle or a domain. Refused (422) when it will not do."""
    values: dict[str, Value] = {}
    for field, said in fields.items():
        text, (name, slash, metric) = said.strip(), field.partition("/")
        if kind is DocumentKind.BUNDLE and (name, slash) == ("constraints", "/"):
            if not _METRIC.fullmatch(metric):
                raise Refused(f"{metric[:40]!r} is no metric; write its name, such as temp_c", 422)
            values[field] = text or None
        elif field not in COMMON[kind]:
            raise Refused(f"{field[:40]!r} is not a field that can be changed here", 422)
        elif field == "name" and not (0 < len(text) <= 128 and text.isprintable()):
            raise Refused("a name has 1 to 128 printable characters", 422)
        else:
            values |= values_of(field, text, NOTHING)
        problem = wrong(kind, field, values[field])
        if problem:
            raise Refused(problem, 422)
    return values


def of_node(node: Node) -> dict[str, Value]:
    """What a new document begins with: what is known of the node."""
    values: dict[str, Value] = {"name": node.name, "kind": node.kind.value}
    values |= {f"tags/{tag}": True for tag in node.tags}
    desired = node.desired
    more: Mapping[str, Value] = {
        "domain_id": node.domain_id,
        "policy_bundle_id": desired.policy_bundle_id,
        "target_version": desired.target_version,
        "maintenance_window": desired.constraints.maintenance_window,
        "min_battery_pct": desired.constraints.min_battery_pct,
        "requires_online": desired.constraints.requires_online or None,
    }
    return values | {pointer: value for pointer, value in more.items() if value is not None}


def applied(node: Node, view: View) -> Node:
    """The node as its document has it. What the document does not speak of stays."""
    said = {pointer: stamped.value for pointer, stamped in view.values.items()}

    def text(pointer: str, former: str | None) -> str | None:
        value = said.get(pointer, former)
        return value if isinstance(value, str) and value else None

    desired, limits = node.desired, node.desired.constraints
    battery = said.get("min_battery_pct", limits.min_battery_pct)
    kind = said.get("kind")
    tagged = any(pointer.startswith("tags/") for pointer in said)
    return msgspec.structs.replace(
        node,
        name=text("name", node.name) or node.name,
        kind=Kind(kind) if isinstance(kind, str) and kind in Kind.__members__ else node.kind,
        tags=tuple(sorted(entries(view, "tags/"))) if tagged else node.tags,
        domain_id=text("domain_id", node.domain_id),
        desired=Desired(
            policy_bundle_id=text("policy_bundle_id", desired.policy_bundle_id),
            target_version=text("target_version", desired.target_version),
            constraints=Constraints(
                maintenance_window=text("maintenance_window", limits.maintenance_window),
                min_battery_pct=float(battery) if isinstance(battery, int | float) else None,
                requires_online=bool(said.get("requires_online", limits.requires_online)),
            ),
        ),
    )
