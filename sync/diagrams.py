"""How do a return and the states of a session look? As Mermaid diagrams, the states drawn from the table itself.

Text in, text out: docs/protocol.md holds what these functions return, and a test compares.
"""

from __future__ import annotations

from sync import messages
from sync.messages import Message
from sync.protocol import TABLE, State

_RETURN: tuple[tuple[str, type[Message], str], ...] = (
    ("site", messages.Hello, "who, the ends of my logs, a nonce"),
    ("hub", messages.Challenge, "its own proof, a nonce"),
    ("site", messages.Proof, "signature, ratchet"),
    ("hub", messages.Welcome, "fence, token, acknowledged ends, window"),
    ("site", messages.Present, "whole, then what changes"),
    ("hub", messages.SnapshotsKept, "shown"),
    ("site", messages.Stream, "the log, in windows"),
    ("hub", messages.Ack, "after the commit"),
    ("hub", messages.Stream, "the hub's log towards the site"),
    ("site", messages.Ack, "after the commit"),
    ("site", messages.Level, "all up to here was acknowledged"),
    ("hub", messages.ReceiptOffered, "signed"),
    ("site", messages.ReceiptAccepted, "countersigned: LIVE"),
    ("hub", messages.Heads, "the root over all documents"),
    ("site", messages.Heads, "only if it differs: what is here"),
    ("hub", messages.Want, "a piece of a segment"),
    ("site", messages.Chunk, "its bytes"),
    ("hub", messages.Custody, "whole, verified, stored"),
)


def return_diagram() -> str:
    """A return in which nothing goes wrong."""
    lines = [f"{who}->>{'hub' if who == 'site' else 'site'}: {said.KIND} ({words})" for who, said, words in _RETURN]
    return _diagram("sequenceDiagram", ["participant site", "participant hub", *lines])


def states_diagram() -> str:
    """Each step of `protocol.TABLE`, named by its cause."""
    steps = [f"{before} --> {after}: {cause}" for (before, cause), after in TABLE.items()]
    return _diagram("stateDiagram-v2", [f"[*] --> {State.AUTONOMOUS}", *steps])


def _diagram(kind: str, lines: list[str]) -> str:
    return "\n".join([kind, *(f"    {line}" for line in lines)]) + "\n"
