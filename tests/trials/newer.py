"""skerry as a newer version may be: it says more than this one knows, wherever that is allowed.

Every message and every event has a field more at its end, and signatures are made by what the newer program has;
messages and events of kinds that nobody here knows stand among the others; a document's values have a longer stamp, a
node has a field more, and there is a document of another kind.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import msgspec

from fleet import document, events
from sync import messages

COLOUR, VESSEL = "colour", "vessel"
_LATER = [("later", dict[str, int], msgspec.field(default_factory=lambda: {"and more": 1}))]


def widen(module: Any) -> None:
    """Each shape gets a field at its end. Before anybody else has imported its name."""
    for kind, cls in list(module.KINDS.items()):
        wider = msgspec.defstruct(
            cls.__name__, _LATER, bases=(cls,), module=module.__name__, frozen=True, array_like=True
        )
        module.KINDS[kind] = wider
        module._DECODERS[kind] = msgspec.msgpack.Decoder(wider)
        setattr(module, cls.__name__, wider)


widen(messages)
widen(events)


@messages._said("tomorrow")
class Tomorrow(messages.Message, frozen=True):
    fence: int
    words: str


@events._fact("tomorrow.told")
class TomorrowTold(events.Body, frozen=True):
    words: str


_encode = document.encode


def encode(value: Any) -> bytes:
    made = _encode(value)
    return made[:-1] + b',"later"]' if isinstance(value, document.Stamped) else made


document.encode = encode  # type: ignore[assignment]
document.Kind = StrEnum("Kind", {one.name: one.value for one in document.Kind} | {"VESSEL": VESSEL})  # type: ignore[misc]
document.SCHEMA = {  # type: ignore[misc]
    **document.SCHEMA,
    document.Kind.NODE: {**document.SCHEMA[document.Kind.NODE], COLOUR: document.Text(64)},
    VESSEL: {"name": document.Text(64)},
}


def arm() -> None:
    from store.journal import Journal
    from store.shared import Shared
    from sync.hub import Session
    from sync.site import Site

    stage, edit = Journal.stage, Shared.edit

    def staged(self: Journal, subject: str, body: events.Body, log: Any = None) -> None:
        stage(self, subject, body, log)
        if isinstance(body, events.DocumentChanged):
            stage(self, subject, TomorrowTold(json.dumps(subject)), log)

    def edited(
        self: Shared, db: Any, place: document.Id, values: Mapping[str, Any], who: str, *logs: Any, **more: Any
    ) -> Any:
        if place.kind == document.Kind.NODE:
            values = {**values, COLOUR: f"of {len(values)}"}
            edit(self, db, document.Id(place.tenant, VESSEL, place.id), {"name": "a vessel"}, who, *logs, **more)
        return edit(self, db, place, values, who, *logs, **more)

    Journal.stage, Shared.edit = staged, edited  # type: ignore[method-assign]
    for cls in (Site, Session):
        pump = cls.pump

        def pumped(self: Any, *args: Any, pump: Any = pump, **more: Any) -> list[messages.Message]:
            said: list[messages.Message] = pump(self, *args, **more)
            return [*said, Tomorrow(self.fence, "and so on")] if said and self.in_session else said

        cls.pump = pumped  # type: ignore[method-assign]


if __name__ == "__main__":
    arm()
    from skerry import main

    sys.exit(main())
