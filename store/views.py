"""Views: projections run from a cursor over the journal. Rebuildable at any time; a checkpoint only saves time.

A view's state is replaced, never changed, so a reader on another thread always sees a whole one. Two states are the same
when their digests are.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

import msgspec

from fleet.events import Recorded, decode_block

S = TypeVar("S")

CHECKPOINT_EVENTS = 20_000  # folded in a fifth of a second
CHECKPOINT_S = 10.0
BATCH_EVENTS = 20_000  # a fold copies its state once a batch
_READ = "SELECT position, log_id, seq, raw FROM event WHERE position > ? ORDER BY position LIMIT ?"


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
        for batch in replay(db, self.position):
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


def replay(db: sqlite3.Connection, after: int = 0, batch: int = BATCH_EVENTS) -> Iterator[list[Recorded]]:
    """All events after a position, in batches; what stands together in a log is decoded together."""
    logs: dict[int, tuple[str, int]] = {}
    while rows := db.execute(_READ, (after, batch)).fetchall():
        found: list[Recorded] = []
        start = 0
        for end in _runs(rows):
            position, log_id, seq, _ = rows[start]
            if log_id not in logs:
                logs.update(
                    {one: (name, epoch) for one, name, epoch in db.execute("SELECT id, writer, epoch FROM log")}
                )
            writer, epoch = logs[log_id]
            raws = [row[3] for row in rows[start:end]]
            found += decode_block(raws, writer=writer, epoch=epoch, first_seq=seq, first_position=position)
            start = end
        yield found
        after = rows[-1][0]


def _runs(rows: Sequence[tuple[int, int, int, bytes]]) -> Iterator[int]:
    """Where each run of one log, without a hole, ends."""
    position, log_id, seq, _ = rows[0]
    apart = (position - seq, log_id)
    for index, (position, log_id, seq, _) in enumerate(rows):
        if (position - seq, log_id) != apart:
            yield index
            apart = (position - seq, log_id)
    yield len(rows)


def digest(state: object) -> bytes:
    """SHA-256 of a projection's state, whatever order it came in."""
    return hashlib.sha256(msgspec.msgpack.encode(_ordered(state))).digest()


def _ordered(value: Any) -> Any:
    if isinstance(value, Mapping):
        return sorted(
            (msgspec.msgpack.encode(key), msgspec.msgpack.encode(_ordered(held))) for key, held in value.items()
        )
    if isinstance(value, set | frozenset):
        return sorted(msgspec.msgpack.encode(_ordered(held)) for held in value)
    return [_ordered(held) for held in value] if isinstance(value, tuple | list) else value
