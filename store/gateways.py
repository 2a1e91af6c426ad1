"""Which nodes does a gateway bring? A device behind one that is enrolled becomes a node in site.db by the gateway's word.

Rules of the file
  1  The registry's word counts, read in the transaction that makes the node: one that is no gateway brings nobody.
  2  A node that is there is never taken over for its name: a second device of that name gets one that tells it apart.
  3  It is in the log who brought it: the gateway is the actor of the adoption and of the words that place it behind itself.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from typing import NamedTuple

from fleet.limits import name_chars_max
from fleet.node import Node
from fleet.people import Refused
from store import keys, upstream
from store.commands import Commands
from store.database import Writer

_TAIL = 8  # characters of an id


class Newcomer(NamedTuple):
    """A device that a gateway spoke of for the first time, and the source by which its node claims its sender."""

    gateway: str  # the id of its node
    name: str
    source: str


class Brought(NamedTuple):
    node: Node
    source: str


class Gateways:
    def __init__(self, writer: Writer, commands: Commands, *, tenant: str, now_ns: Callable[[], int]) -> None:
        self._writer, self._commands, self._tenant, self._now_ns = writer, commands, tenant, now_ns

    async def bring(self, newcomers: Sequence[Newcomer]) -> list[Brought]:
        """Make them nodes, in one transaction; those that may be. Whose node there is already is left out. Refused when
        a document refuses its words: then nothing is done for any of them."""

        def job(db: sqlite3.Connection) -> list[Brought]:
            return [made for one in newcomers if (made := self._bring(db, one)) is not None]

        return await self._writer.write(job)

    def _bring(self, db: sqlite3.Connection, one: Newcomer) -> Brought | None:
        row = db.execute(_GATEWAY, (one.gateway, self._tenant)).fetchone()
        held = db.execute("SELECT node_id FROM source WHERE key=?", (one.source,)).fetchone()
        if row is None or (held is not None and held[0]):
            return None
        gateway, now_ns = str(row[0]), self._now_ns()
        node_id = keys.new_ulid(now_ns)
        node = Node(id=node_id, name=self._name(db, one.name, gateway, node_id), tenant=self._tenant)
        source_row = (one.source, self._tenant, now_ns, now_ns, 0, 0, b"")
        placed = {upstream.FIELD: one.gateway}
        try:
            adopt = self._commands.adopting(f"gateway {gateway}", node, (one.source,), (source_row,), placed)
        except Refused:  # a name that no node may have
            return None
        return Brought(adopt(db), one.source)

    def _name(self, db: sqlite3.Connection, name: str, gateway: str, node_id: str) -> str:
        """The device's own if it is free, else with the gateway's, else with the end of its id."""
        for wanted in (name, f"{name} ({gateway})"):
            taken = db.execute("SELECT 1 FROM node WHERE tenant=? AND name=?", (self._tenant, wanted)).fetchone()
            if taken is None and len(wanted) <= name_chars_max:
                return wanted
        return f"{name[: name_chars_max - _TAIL - 1]} {node_id[-_TAIL:]}"


_GATEWAY = "SELECT n.name FROM device d JOIN node n ON n.id=d.node_id WHERE d.node_id=? AND d.tenant=? AND d.gateway"
