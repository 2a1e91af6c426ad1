"""Client attributes: what does a device say of itself in one record, as JSON by name?

The records of attributes stand under an intake of their own (`attributes/@NODE/`), so that they can be told from
telemetry when they are read again after a restart. What they say is a reading too: a version, a health, a number.
Pure, never raising, whatever the bytes.
"""

from __future__ import annotations

import msgspec

from appliance.intake import payload
from appliance.intake.payload import Mark
from fleet import limits
from fleet.reading import Reading

INTAKE = "attributes"
LONG = "long-attribute"  # a value was left out for its length

_WHOLE = msgspec.json.Decoder().decode
_MEMBERS = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def parse(raw: bytes, received_ns: int) -> Reading:
    """What one record says. `received_ns` has no part in it."""
    draft, members = payload.read(raw), _members(raw)
    if members is None:
        draft.mark(Mark.UNPARSED)
        members = {}
    said: dict[str, str] = {}
    marks: tuple[str, ...] = ()
    for name, value in list(members.items())[: limits.attributes_per_node_max]:
        text = bytes(value)
        if fits(name, text):
            said[name] = text.decode()
        else:
            marks = (LONG,)
    found = payload.reading(draft)
    return msgspec.structs.replace(found, attributes=said, marks=found.marks + marks)


def _members(raw: bytes) -> dict[str, msgspec.Raw] | None:
    if payload.too_deep(raw):
        return None
    try:
        _WHOLE(raw)  # `msgspec.Raw` only asks where a value ends
        return _MEMBERS(raw)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return None


def fits(name: str, value: bytes) -> bool:
    return 0 < len(name) <= limits.name_chars_max and len(value) <= limits.attribute_bytes_max
