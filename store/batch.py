"""One change to many nodes: what would it touch, and which nodes refuse it?

Rules of the file
  1  A preview and the change itself ask the same question of each node (`look`), so what was previewed is what happens,
     unless somebody wrote meanwhile.
  2  A node that refuses leaves the others alone, and is named with its reason.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Mapping
from typing import NamedTuple

from fleet.document import Id, Kind, Value, View, entries, wrong
from fleet.people import Refused
from store.shared import Shared

ADD_TAG, REMOVE_TAG = "add_tag", "remove_tag"
FIELDS = ("policy_bundle_id", "target_version", "maintenance_window", "domain_id", ADD_TAG, REMOVE_TAG)
TAGS_MAX = 32
_TAG = re.compile(r"[\w.:/-]{1,64}")


class Outcome(NamedTuple):
    """Neither refused nor changed: it is so already."""

    node_id: str
    changes: bool = False
    refused: str = ""


def values_of(field: str, text: str) -> dict[str, Value]:
    """What is written into each node's document. Refused (422) when it will not do."""
    text = text.strip()
    if field not in FIELDS:
        raise Refused(f"{field[:40]!r} is no field that many nodes can be given at once", 422)
    values: dict[str, Value] = {field: text or None}
    if field in (ADD_TAG, REMOVE_TAG):
        if not _TAG.fullmatch(text):
            raise Refused("write one tag, of letters, digits and . : / _ -", 422)
        values = {f"tags/{text}": True if field == ADD_TAG else None}
    for pointer, value in values.items():
        problem = wrong(Kind.NODE, pointer, value)
        if problem:
            raise Refused(problem, 422)
    return values


def look(
    db: sqlite3.Connection, shared: Shared, place: Id, values: Mapping[str, Value], begins: Mapping[str, Value]
) -> Outcome:
    """What would become of one node; nothing is written. `begins`: what a node without a document begins with."""
    view = shared.look(db, place)
    held = {pointer: said.value for pointer, said in view.values.items()} if view.values else begins
    open_ = {one.pointer for one in view.conflicts}
    if all(held.get(pointer) == value and pointer not in open_ for pointer, value in values.items()):
        return Outcome(place.id)
    reason = shared.refusal(db, place, values) or _full(view, values)
    return Outcome(place.id, refused=reason) if reason else Outcome(place.id, changes=True)


def _full(view: View, values: Mapping[str, Value]) -> str:
    added = any(pointer.startswith("tags/") and value is not None for pointer, value in values.items())
    return f"it has {TAGS_MAX} tags already" if added and len(entries(view, "tags/")) >= TAGS_MAX else ""
