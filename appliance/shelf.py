"""The site's data as the protocol asks for it (`sync.site.Shelf`): inside a transaction of site.db, on its writer's thread.

What the rest of the appliance has to hear of is told after the commit: `done` holds it.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from fleet import envelope, events
from fleet.document import Kind as DocumentKind
from fleet.envelope import Block, Log, PrivateKey
from fleet.limits import MINUTE
from fleet.node import Node
from fleet.present import Present
from store import journal, peers, roster
from store.clock import WallClock
from store.commands import follow
from store.journal import Identity, Journal
from store.peers import Peer, Segment
from store.shared import Shared, runs
from store.telemetry import segment_path
from sync import messages, receipt, receive, stream
from sync.messages import Heads, LogHead
from sync.protocol import Cause, State
from sync.site import Answer, Memory

Aside = Callable[[str, str, str, bytes], None]


class SiteShelf:
    def __init__(
        self,
        identity: Identity,
        journal_: Journal,
        key: PrivateKey,
        public_key: bytes,
        shared: Shared,
        segments: Path,
        clock: WallClock,
        presents: Callable[[], Mapping[str, Present]],
        changed: Callable[[Sequence[Node]], None],
        aside: Aside,
        invitation: bytes = b"",
        pinned: tuple[str, bytes] = ("", b""),
    ) -> None:
        self.db: sqlite3.Connection
        self.done: list[Callable[[], None]] = []
        self.invitation, self.pinned = invitation, pinned  # from the link file: hub and its key
        self._identity, self._journal, self._key, self._public_key = identity, journal_, key, public_key
        self._shared, self._folder, self._clock = shared, segments, clock
        self._presents, self._changed, self._aside = presents, changed, aside
        self.people: Callable[[frozenset[str]], None] = lambda names: None  # whose accounts came or changed
        self._refused_ns: int | None = None  # when the log was last told of a roster that was refused
        self._tenant, self._writer = identity.log.tenant, identity.log.writer

    def begin(self, db: sqlite3.Connection) -> None:
        self.db, self.done = db, []

    # -- who --------------------------------------------------------------------------------------------------

    def hub(self) -> Peer | None:
        """The one hub of this site; None before the first welcome."""
        return next(iter(peers.every(self.db, self._tenant)), None)

    def memory(self) -> Memory:
        hub = self.hub()
        if hub is None:
            return Memory(*self.pinned, invitation=self.invitation)
        newest = peers.newest_receipt(self.db, self._writer, both=True)
        return Memory(
            hub.writer,
            hub.public_key,
            hub.token,
            self.invitation,
            newest.number if newest else 0,
            newest.content + newest.hub_signature if newest else b"",
            hub.since_ns,
        )

    def logs(self) -> Sequence[tuple[LogHead, bytes]]:
        found: list[tuple[LogHead, bytes]] = []
        for epoch, head in peers.heads_of(self.db, self._tenant, self._writer):
            if head.seq:
                key = journal.public_key(self.db, Log(self._tenant, self._writer, epoch)) or b""
                found.append((LogHead(self._writer, epoch, head.seq, head.hash), key))
        return found

    def heard(self) -> Sequence[LogHead]:
        rows = self.db.execute(
            "SELECT DISTINCT writer FROM log WHERE tenant=? AND writer<>?", (self._tenant, self._writer)
        ).fetchall()
        return [
            LogHead(writer, epoch, head.seq, head.hash)
            for (writer,) in rows
            for epoch, head in peers.heads_of(self.db, self._tenant, writer)
            if head.seq
        ]

    def hlc(self) -> int:
        return self._journal.stamp()

    def remember(self, hub: str, hub_key: bytes, token: bytes, fence: int, now_ns: int) -> None:
        held = self.hub() or Peer(hub, self._tenant, "", hub_key)
        peers.save(self.db, held._replace(token=token, fence=fence, seen_ns=now_ns))

    def turned(self, state: State, cause: Cause, reason: str, now_ns: int) -> None:
        hub = self.hub()
        former = self._state
        self._state = state
        if hub is not None and state is State.AUTONOMOUS and former is not State.RETURNING:
            peers.save(self.db, hub._replace(since_ns=now_ns))
            roster.heard(self.db, hub.seen_ns, now_ns)
        # A hello that nobody answers is no turn of state: a site that is cut off for weeks would write nothing else.
        if State.RETURNING not in (state, former) or state in (State.REPLAYING, State.QUARANTINED):
            said = events.LinkTurned(hub.name if hub else "", former, state, cause, reason[:500])
            self._journal.stage(self._writer, said)

    _state = State.AUTONOMOUS

    def new_epoch(self, reason: str, common: LogHead | None, now_ns: int) -> None:
        """Go on in a new epoch, that names where the hub's knowledge of the old ones and ours agree."""
        former = self._journal.log
        head = journal.head_of(self.db, former)
        log = former._replace(epoch=max(former.epoch, common.epoch if common else 0) + 1)
        journal.start_log(self.db, log, self._public_key, now_ns)
        journal.write_identity(self.db, Identity(log, self._identity.site))
        body = events.LogStarted("set back", self._public_key, former.writer, former.epoch, head.seq, head.hash)
        self._journal.begin(self.db, log, body)

    # -- the log ----------------------------------------------------------------------------------------------

    def blocks(self, log: Log, after_seq: int, bytes_max: int) -> Sequence[Block]:
        return journal.blocks_after(self.db, log, after_seq, bytes_max)

    def take(self, group: stream.Group, hub_key: bytes, now_ns: int) -> tuple[LogHead | None, str]:
        facts: list[events.Recorded] = []

        log = group.log
        first = group.blocks[0]
        if first.first_seq == 1 and receive.facts_of(first)[0].subject != self._writer:
            return None, "the hub's log is towards another site"
        for block in group.blocks:
            decision = receive.receive(self.db, block, hub_key, now_ns, self._journal, facts)
            if not isinstance(decision, receive.Accept | receive.Duplicate):
                return None, receive.words(decision)
        folded = self._shared.fold(self.db, self._tenant, facts, now_ns, None)
        for raw, reason in folded.refused:
            self._aside("document", log.writer, reason, raw)
        named = [one.id for one in folded.changed if one.kind == DocumentKind.NODE]
        nodes = follow(self.db, self._tenant, named, self._shared)
        if folded.changed:
            self.done.append(lambda: self._changed(nodes))
        head = journal.head_of(self.db, log)
        return LogHead(log.writer, log.epoch, head.seq, head.hash), ""

    # -- for a stick ------------------------------------------------------------------------------------------

    sealing_key = b""

    def shown_invitation(self) -> bytes:
        return hashlib.sha256(self.invitation + self._writer.encode()).digest() if self.invitation else b""

    def listed(self) -> Sequence[tuple[str, str, bytes]]:
        return self._shared.listed(self.db, self._tenant)

    def segments_not_covered(self, *, whole: bool) -> Sequence[Segment]:
        """Sealed segments that are here; without `whole`, only what no receipt lists as held by the hub."""
        rows = self.db.execute(
            "SELECT sha256, first_id, last_id, records, bytes_stored, from_ns, to_ns FROM segment"
            " WHERE dropped_ns IS NULL ORDER BY first_id"
        ).fetchall()
        covered: set[bytes] = set()
        if not whole:
            covered = {one.sha256 for one in peers.segments(self.db, self._writer, peers.HERE)}
        return [Segment._make((self._writer, *row, peers.WANTED, "", 0)) for row in rows if row[0] not in covered]

    # -- the present, segments --------------------------------------------------------------------------------

    def presents(self) -> Mapping[str, Present]:
        return self._presents()

    def chunk(self, sha256: bytes, offset: int, size: int) -> tuple[bytes, str]:
        try:
            with segment_path(self._folder, sha256).open("rb") as file:
                file.seek(offset)
                return file.read(min(size, 1 << 20)), ""
        except FileNotFoundError:
            return b"", "the site let it go before it could be sent"
        except OSError as error:
            return b"", f"the site cannot read it: {error.strerror}"

    # -- receipts ---------------------------------------------------------------------------------------------

    def certify(self, content: bytes, hub_signature: bytes, hub_key: bytes, now_ns: int) -> Answer:
        made = receipt.read(content)
        signed = receipt.Signed(content, hub_signature)
        verdict = receipt.check(signed, envelope.public_key(hub_key))
        if verdict is not receipt.Verdict.GOOD:
            return Answer(b"", str(verdict))
        if made.site != self._writer or made.tenant != self._tenant:
            return Answer(b"", "the receipt is of another site")
        here = {
            (span.epoch, span.seq): peers.hash_at(self.db, Log(self._tenant, self._writer, span.epoch), span.seq)
            for span in made.logs
        }
        here |= {  # a box that was set back, or cloned, left the end of an older epoch behind
            (span.epoch, span.seq): span.hash for span in made.logs if span.epoch < self._journal.log.epoch
        }
        verdict = receipt.agrees(made, here, None)
        if verdict is not receipt.Verdict.GOOD:
            return Answer(b"", str(verdict))
        held = peers.receipt(self.db, self._writer, made.number)
        if held is not None and held.content != content:
            return Answer(b"", f"another receipt with number {made.number:,} is here already")
        signature = receipt.sign(content, self._key)
        peers.save_receipt(self.db, peers.Receipt(self._writer, made.number, content, hub_signature, signature, now_ns))
        peers.covered(self.db, self._writer, made.number, made.segments, now_ns)
        hub = self.hub()
        if hub is not None and not hub.name:
            peers.save(self.db, hub._replace(name=made.hub_name))
        return Answer(signature)

    # -- people -----------------------------------------------------------------------------------------------

    def roster(self, content: bytes, signature: bytes, hub: str, hub_key: bytes, now_ns: int) -> tuple[int, str]:
        signed = bool(hub_key) and envelope.vouches(
            envelope.public_key(hub_key), signature, messages.roster_content(content)
        )
        taken = roster.take(self.db, self._journal, content, hub, now_ns) if signed else None
        problem = taken.problem if taken else "people came in the name of the hub, and are not signed by it"
        if problem and (self._refused_ns is None or not 0 <= now_ns - self._refused_ns < MINUTE):
            self._refused_ns = now_ns
            held = roster.here(self.db)
            self._journal.stage(self._writer, events.RosterRefused(held.version if held else 0, problem))
        if taken is None:
            raise ValueError(problem)
        if taken.names:
            self.done.append(lambda: self.people(taken.names))
        return taken.version, problem

    # -- documents --------------------------------------------------------------------------------------------

    def apart(self, peer: str, reason: str, raw: bytes) -> None:
        self._aside("link", peer, reason, raw)

    def common(self, head: LogHead) -> int:
        log = Log(self._tenant, self._writer, head.epoch)
        if peers.hash_at(self.db, log, head.seq) == head.hash:
            return head.seq
        newest = peers.newest_receipt(self.db, self._writer, both=True)
        for span in receipt.read(newest.content).logs if newest else ():
            if span.epoch == head.epoch and peers.hash_at(self.db, log, span.seq) == span.hash:
                return min(span.seq, head.seq)
        return 0

    def compare(self, theirs: Heads, now_ns: int) -> Sequence[Heads]:
        if not theirs.root:
            self._shared.complete(self.db, self._tenant, theirs.documents, None, None)
            return ()
        if self._shared.root(self.db, self._tenant) == theirs.root:
            return ()
        listed = self._shared.listed(self.db, self._tenant)
        return [Heads(theirs.fence, theirs.root, tuple(run)) for run in runs(listed)]

    def fell(self) -> None:
        """The transaction is undone, and what was said in it."""
        self.done, self._state = [], State.AUTONOMOUS
        self._shared.forget()
