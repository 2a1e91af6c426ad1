"""Views: projections run from a cursor over the journal. Rebuildable at any time; a checkpoint only saves time.

A view's state is replaced, never changed, so a reader on another thread always sees a whole one.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

import msgspec

from fleet.events import Recorded
from store import journal

S = TypeVar("S")

CHECKPOINT_EVENTS = 20_000  # folded in a fifth of a second
CHECKPOINT_S = 10.0


class Projection(NamedTuple):
    """A fold, by the name and version under which its state may be checkpointed."""

    name: str
    version: int
    empty: Any
    advance: Callable[[Any, Iterable[Recorded]], Any]


class View(Generic[S]):
    def __init__(self, projection: Projection, state_type: type[S]) -> None:
        self.projection = projection
        self.state: S = projection.empty
        self.position = self._kept = 0
        self._decode = msgspec.msgpack.Decoder(state_type).decode

    def load(self, db: sqlite3.Connection) -> None:
        """Start from the checkpoint, if it is of this version, and fold what came after it."""
        row = db.execute(
            "SELECT position, state FROM view WHERE name=? AND version=?",
            (self.projection.name, self.projection.version),
        ).fetchone()
        if row is not None:
            try:
                self.position, self.state = row[0], self._decode(row[1])
                self._kept = self.position
            except msgspec.MsgspecError:  # a checkpoint saves time, nothing else: fold from the start
                self.position, self.state = 0, self.projection.empty
        for batch in journal.read(db, self.position):
            self.fold(batch)

    def fold(self, batch: Sequence[Recorded]) -> None:
        self.state = self.projection.advance(self.state, batch)
        self.position = batch[-1].position

    def is_far(self, events: int = CHECKPOINT_EVENTS) -> bool:
        """So much was folded since the last checkpoint that a start after a crash would take a while."""
        return self.position - self._kept >= events

    def checkpoint(self, db: sqlite3.Connection) -> None:
        self._kept = self.position
        db.execute(
            "INSERT INTO view VALUES (?,?,?,?) ON CONFLICT DO UPDATE SET version=excluded.version,"
            " position=excluded.position, state=excluded.state",
            (self.projection.name, self.projection.version, self.position, msgspec.msgpack.encode(self.state)),
        )
