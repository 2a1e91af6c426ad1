"""What must carry parcels between sites and a hub? A port: one page of promises, and every adapter runs the contract
suite in `tests/contracts/test_links.py`.

Promises, of either end
  1  A parcel arrives whole and unchanged, or not at all. It may arrive twice, late, and out of order with others of
     another lane; what is sent must never depend on more than that.
  2  At the hub, `peer` is who the link itself authenticated (a credential, a signed bundle), never what bytes say. A
     site never sees a parcel of another site.
  3  `send` returns when the link has the parcel; it waits while there is no room (that is the back-pressure), and
     raises `LinkDown` when there is no line. It is never a guarantee: only the other end's word is.
  4  After `LinkDown` the same object goes on as soon as there is a line again; `up` tells. Only `close` is for ever:
     after it `send` raises LinkDown, and `receive` returns None.
  5  A line that stands still without an error is found (no answer for `silence_s_max`) and counts as down.
  6  No more than `PARCEL_BYTES_MAX` in one parcel: ValueError, which is a bug of ours.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

from sync.messages import Lane


class Parcel(NamedTuple):
    """Bytes of one message. `peer` is the site's writer, at both ends."""

    peer: str
    lane: Lane
    data: bytes


class LinkDown(Exception):
    """There is no line now; str() says whose fault it seems to be, in words for a person."""


class Tally(NamedTuple):
    """What went over one end since it was opened: parcels and bytes, as the link counts them (with its own framing)."""

    sent: int = 0
    sent_bytes: int = 0
    received: int = 0
    received_bytes: int = 0


class Link(Protocol):
    @property
    def up(self) -> bool: ...

    @property
    def problem(self) -> str:
        """Why it is not up, in a sentence; empty when it is."""
        ...

    @property
    def url(self) -> str:
        """Where the line goes, or is tried next; empty when it has no address."""
        ...

    def tally(self, peer: str = "") -> Tally:
        """Of one peer, or of all."""
        ...

    async def open(self) -> None:
        """Begin to keep the line up, for ever, with jitter. Returns at once; no line is no error."""
        ...

    async def send(self, parcel: Parcel) -> None: ...

    async def receive(self) -> Parcel | None:
        """The next parcel, of the most urgent lane first among those that wait; None after `close`."""
        ...

    async def close(self) -> None: ...
