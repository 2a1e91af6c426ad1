"""The hub's data as one session's decider asks for it (`sync.hub.Shelf`): inside the batch's transaction.

What pages look at (`hub.state`) is changed only after the commit: `done` holds what to change.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from operator import itemgetter
from typing import Protocol

from fleet import envelope, events
from fleet.envelope import Block, Log, PrivateKey
from fleet.events import IntakeRefused, TelemetryDamaged, TelemetryDropped
from fleet.limits import SECOND
from fleet.present import Present as NodePresent
from hub.segments import Segments
from hub.state import Certificate, FleetHere, NodeHere, SiteHere
from store import journal, peers, roster
from store.clock import WallClock
from store.journal import Journal, Mark
from store.keys import new_ulid
from store.peers import Peer
from store.shared import LISTED_MAX, Shared
from sync import messages, present, receipt, receive, stream
from sync.hub import Known, Missing, Took
from sync.messages import Chunk, Heads, Hello, LogHead, Present
from sync.receipt import Drop

# Few among a million turns of state; looked for once.
_ACTED_ON = frozenset(
    body.KIND
    for body in (
        events.DocumentChanged,
        events.SegmentSealed,
        events.TelemetryDropped,
        events.TelemetryDamaged,
        events.GlassBroken,
        events.GlassSealed,
        events.AuthorityBegan,
        events.AuthorityGranted,
    )
)

Aside = Callable[[str, str, str, bytes], None]  # intake, source, reason, raw
Turn = tuple[NodePresent | None, NodePresent]  # a node as it was told before, and now


class Charts(Protocol):
    """What charts are made from (`hub.charts`). Called after the commit; must not wait."""

    def told(self, turns: Sequence[Turn]) -> None: ...

    def came(self) -> None:
        """A file of charts came together."""


class HubShelf:
    """One for the hub; `db` is the transaction's connection, set around each batch."""

    def __init__(
        self,
        tenant: str,
        name: str,
        journal_: Journal,
        key: PrivateKey,
        public_key: bytes,
        shared: Shared,
        fleet: FleetHere,
        segments: Segments,
        clock: WallClock,
        aside: Aside,
        charts: Charts | None = None,
    ) -> None:
        self.db: sqlite3.Connection
        self.done: list[Callable[[], None]] = []
        self._fresh: dict[str, NodeHere | None] = {}
        # By site and epoch: up to which event its drops were looked for, and those found, with their positions.
        self._dropped: dict[str, dict[int, tuple[int, list[tuple[int, Drop]]]]] = {}
        self._fences: dict[str, int] = {}  # as this transaction has them
        self._log_writers: dict[str, str] = {}  # of the log towards each site
        self._people: tuple[int, Sequence[roster.Bounded]] = (0, ())  # of that version, read once for all sites
        self._whole: dict[str, tuple[tuple[int, int], set[int], set[str]]] = {}  # (fence, number), parts, nodes
        self._tenant, self._name = tenant, name
        self._journal, self._key, self._public_key, self._shared = journal_, key, public_key, shared
        self._fleet, self._segments, self._clock, self._aside = fleet, segments, clock, aside
        self._charts = charts

    def begin(self, db: sqlite3.Connection) -> None:
        """A new batch, on this connection."""
        self.db, self.done, self._fresh, self._fences = db, [], {}, {}

    # -- who --------------------------------------------------------------------------------------------------

    def known(self, writer: str) -> Known | None:
        peer = peers.get(self.db, writer)
        if peer is None:
            return None
        newest = peers.newest_receipt(self.db, writer)
        logs = [
            LogHead(writer, epoch, head.seq, head.hash)
            for epoch, head in peers.heads_of(self.db, self._tenant, writer)
            if head.seq
        ]
        reasons = tuple(line for line in peer.quarantine.split("\n") if line)
        number = newest.number if newest else 0
        return Known(writer, peer.name, peer.public_key, peer.token, peer.former, reasons, number, logs)

    def admit(self, hello: Hello, now_ns: int) -> str:
        mine = hello.writer.encode()
        for name, secret_hash, used_by in peers.secrets(self.db, self._tenant):
            if hashlib.sha256(secret_hash + mine).digest() != hello.invitation:
                continue
            if used_by and used_by != hello.writer:
                return "that invitation was used by another site; ask for a new one"
            towards = Log(self._tenant, new_ulid(now_ns), 1)
            journal.start_log(self.db, towards, self._public_key, now_ns)
            self._journal.stage(hello.writer, events.LogStarted("towards a site", self._public_key), towards)
            peer = Peer(
                hello.writer,
                self._tenant,
                name,
                hello.public_key,
                hello.sealing_key,
                log_writer=towards.writer,
                log_epoch=1,
                since_ns=now_ns,
            )
            peers.save(self.db, peer)
            peers.invitation_used(self.db, name, hello.writer)
            self._journal.stage(hello.writer, events.SiteAdmitted(name, hello.public_key))
            site = SiteHere(writer=hello.writer, name=name, public_key=hello.public_key, since_ns=now_ns)
            self.done.append(partial(self._fleet.sites.__setitem__, site.writer, site))
            return ""
        return "the invitation is not one of this hub, or it was taken back; ask for a new one"

    def met(self, writer: str, hello: Hello) -> None:
        peer = peers.get(self.db, writer)
        if peer is not None and hello.sealing_key and hello.sealing_key != peer.sealing_key:
            peers.save(self.db, peer._replace(sealing_key=hello.sealing_key))

    def welcome(self, writer: str, token: bytes, former: bytes, told: bytes, now_ns: int) -> int:
        peer = peers.get(self.db, writer)
        assert peer is not None
        self._fences.pop(writer, None)
        fence = peers.raise_fence(self.db, writer, now_ns // SECOND)
        peers.save(self.db, peer._replace(fence=fence, token=token, former=former, told=told, seen_ns=now_ns))
        return fence

    def settled(self, writer: str) -> None:
        peer = peers.get(self.db, writer)
        if peer is not None and peer.former:
            peers.save(self.db, peer._replace(former=b""))

    def holds(self, writer: str, fence: int) -> bool:
        held = self._fences.get(writer)
        if held is None:  # nobody else can raise it until this transaction ends
            held = self._fences[writer] = peers.fence_of(self.db, writer)
        return held == fence

    def hash_at(self, log: Log, seq: int) -> bytes | None:
        return peers.hash_at(self.db, log, seq)

    def branched(self, log: Log) -> bool:
        return peers.on_branch(self.db, log)

    def forgot(self, writer: str, heard: Sequence[LogHead], now_ns: int) -> bool:
        peer = peers.get(self.db, writer)
        log = peer.log if peer else None
        if peer is None or log is None:
            return False
        unknown = [
            head.epoch
            for head in heard
            if head.writer == log.writer
            and head.epoch >= log.epoch
            and peers.hash_at(self.db, log._replace(epoch=head.epoch), head.seq) != head.hash
        ]
        if not unknown:
            return False
        fresh = log._replace(epoch=max(unknown) + 1)
        journal.start_log(self.db, fresh, self._public_key, now_ns)
        end = journal.head_of(self.db, log)
        self._journal.stage(writer, events.LogStarted("restored", self._public_key, log.writer, log.epoch, *end), fresh)
        peers.save(self.db, peer._replace(log_epoch=fresh.epoch))
        return True

    def recall(self, writer: str, content: bytes, signature: bytes, now_ns: int) -> None:
        number = receipt.read(content).number
        peers.save_receipt(self.db, peers.Receipt(writer, number, content, signature, b"", now_ns))

    def quarantine(self, writer: str, reasons: Sequence[str], now_ns: int) -> None:
        peer = peers.get(self.db, writer)
        if peer is None:
            return
        peers.save(self.db, peer._replace(quarantine="\n".join(reasons)))
        if reasons:
            self._journal.stage(writer, events.SiteQuarantined(peer.name, tuple(reasons)))
        held = tuple(reasons)
        self._later(writer, lambda site: setattr(site, "quarantine", held))

    def apart(self, writer: str, reason: str, raw: bytes, now_ns: int) -> None:
        self._aside("link", writer, reason, raw)

    # -- people -----------------------------------------------------------------------------------------------

    @property
    def people_version(self) -> int:
        return roster.made(self.db)[0]

    def roster(self, writer: str) -> tuple[bytes, bytes] | None:
        peer = peers.get(self.db, writer)
        if peer is None:
            return None
        version, made_ns = roster.made(self.db)
        if not version:
            return None
        if self._people[0] != version:
            self._people = (version, roster.bounded(self.db, self._tenant))
        people = roster.entries_for(self._people[1], peer.name)
        hub = self._journal.log.writer
        content = roster.encode(roster.Roster(self._tenant, hub, self._name, writer, version, made_ns, people))
        return content, self._key.sign(messages.roster_content(content))

    def roster_held(self, writer: str, version: int, problem: str) -> bool:
        roster.held_by(self.db, writer, version, problem)
        return bool(problem) or version >= self.people_version

    def _broken_glass(self, writer: str, facts: Sequence[events.Recorded]) -> None:
        """A site's sealed account was used: a person at the hub hears of it, until another one is sealed there."""
        for fact in facts:
            if isinstance(fact.body, events.GlassBroken | events.GlassSealed):
                broken = isinstance(fact.body, events.GlassBroken)
                at_ns, address = (fact.wall_ns, fact.body.address) if broken else (0, "")  # type: ignore[union-attr]
                roster.glass_at(self.db, writer, at_ns, address)
                self._later(writer, lambda site, at_ns=at_ns, address=address: _break(site, at_ns, address))  # type: ignore[misc]

    def _later(self, writer: str, change: Callable[[SiteHere], None]) -> None:
        def run() -> None:
            site = self._fleet.sites.get(writer)
            if site is not None:
                change(site)

        self.done.append(run)

    # -- the log ----------------------------------------------------------------------------------------------

    def take(self, writer: str, key: bytes, group: stream.Group, now_ns: int) -> Took:
        facts: list[events.Recorded] = []
        second: list[
            events.Recorded
        ] = []  # what a second history says of documents: its words stand beside the first's
        took = self._take(key, group, now_ns, facts, second)
        if facts or second:
            said = [*(fact for fact in facts if fact.kind in _ACTED_ON), *second]
            peer = peers.get(self.db, writer)
            before = self._shared.common(self.db, self._tenant, said)
            folded = self._shared.fold(self.db, self._tenant, said, now_ns, peer.log if peer else None)
            if before:
                self._shared.pass_on(self.db, before, peers.logs_towards(self.db, self._tenant, but=writer))
            for raw, reason in folded.refused:
                self._aside("document", writer, reason, raw)
            self._segments.noticed(self.db, writer, said, now_ns)
            self._broken_glass(writer, said)
            count = len(facts)
            self._later(writer, lambda site: setattr(site, "events", site.events + count))
        return took

    def _take(
        self,
        key: bytes,
        group: stream.Group,
        now_ns: int,
        facts: list[events.Recorded],
        second: list[events.Recorded],
    ) -> Took:
        log, forked = group.log, ""
        head = journal.head_of(self.db, log)
        for block in group.blocks:
            decision = receive.receive(self.db, block, key, now_ns, self._journal, facts)
            match decision:
                case receive.Accept(new):
                    head = new
                case receive.Duplicate():
                    pass
                case receive.Fork():
                    forked = self._fork(block, decision, now_ns, second)
                case receive.Gap() if peers.on_branch(self.db, log, block.previous):
                    self._keep(block, now_ns, second)
                    forked = forked or "a second history of the log goes on"
                case receive.Gap():
                    return Took(self._head(log, head), receive.words(decision), missing=True)
                case receive.Refuse(fault):
                    return Took(self._head(log, head), fault.value, bad=True)
        return Took(self._head(log, head), forked, forked=bool(forked))

    def _fork(self, block: Block, found: receive.Fork, now_ns: int, second: list[events.Recorded]) -> str:
        said = f"epoch {block.epoch}: {receive.words(found)}; both are kept"
        goes_on = peers.on_branch(self.db, block.log, block.previous)
        if self._keep(block, now_ns, second) and not goes_on:
            turn = events.LogForked(block.writer, block.epoch, found.seq - 1, found.here, found.there)
            self._journal.stage(block.writer, turn)
            self._later(block.writer, partial(_add_fork, said))
        return said

    def _keep(self, block: Block, now_ns: int, second: list[events.Recorded]) -> bool:
        raw = envelope.encode(block)
        if not peers.keep_branch(self.db, block.log, block.first_seq, block.head.seq, block.hash, raw, now_ns):
            return False
        second += [fact for fact in receive.facts_of(block) if isinstance(fact.body, events.DocumentChanged)]
        return True

    def _head(self, log: Log, head: envelope.Head) -> LogHead:
        return LogHead(log.writer, log.epoch, head.seq, head.hash)

    def outgoing(self, writer: str) -> Sequence[tuple[LogHead, bytes]]:
        peer = peers.get(self.db, writer)
        if peer is None or peer.log is None:
            return ()
        head = journal.head_of(self.db, peer.log)
        return [(LogHead(peer.log.writer, peer.log.epoch, *head), self._public_key)] if head.seq else ()

    def grown(self, writer: str) -> int:
        towards = self._log_writers.get(writer)
        if towards is None:
            peer = peers.get(self.db, writer)
            towards = peer.log_writer if peer is not None else ""
            if towards:
                self._log_writers[writer] = towards
        return self._journal.grown(towards)

    def blocks(self, log: Log, after_seq: int, bytes_max: int) -> Sequence[Block]:
        return journal.blocks_after(self.db, log, after_seq, bytes_max)

    # -- the present --------------------------------------------------------------------------------------------

    def present(self, writer: str, said: Present, now_ns: int) -> str:
        try:
            changes = present.unpack(said.rows, said.at_ns)
        except ValueError as error:
            return str(error)
        kept: list[tuple[NodePresent, str, int, int]] = []
        gone: list[str] = []
        turns: list[Turn] = []
        for change in changes:
            held = self._node(change.node_id)
            mine = held is not None and held.site == writer
            new = present.apply(change, held.present if held is not None and mine and not said.whole else None)
            if new is None:
                gone.append(change.node_id)
            else:
                kept.append((new, writer, said.at_ns, now_ns))
                turns.append((held.present if held is not None and mine else None, new))
        if said.whole:
            gone += self._unnamed(writer, said, {change.node_id for change in changes})
        peers.save_present(self.db, kept, gone, writer)
        fresh: dict[str, NodeHere | None] = dict.fromkeys(gone)
        fresh |= {one.node_id: NodeHere(where, one, told, received) for one, where, told, received in kept}
        self._fresh |= fresh
        self.done.append(partial(self._show, fresh))
        self._later(writer, lambda site: setattr(site, "present_ns", said.at_ns))
        if self._charts is not None:
            self.done.append(partial(self._charts.told, turns))
        return ""

    def _node(self, node_id: str) -> NodeHere | None:
        """As this batch has it so far."""
        return self._fresh[node_id] if node_id in self._fresh else self._fleet.nodes.get(node_id)

    def _unnamed(self, writer: str, said: Present, named: set[str]) -> list[str]:
        """With the last part of a whole present: what no part names is gone."""
        which = (said.fence, said.number)
        former, parts, every = self._whole.pop(writer, (which, set(), set()))
        if former != which:
            parts, every = set(), set()
        parts.add(said.part)
        every |= named
        if len(parts) < said.parts:
            self._whole[writer] = (which, parts, every)
            return []
        return list(self._fleet.nodes_of.get(writer, set()) - every)

    def _show(self, fresh: dict[str, NodeHere | None]) -> None:
        for node_id, here in fresh.items():
            self._fleet.put(node_id, here)

    # -- receipts -----------------------------------------------------------------------------------------------

    def receipt(self, writer: str, logs: Sequence[LogHead], now_ns: int) -> tuple[bytes, bytes] | None:
        """Over everything of the site that is here, if that reaches what the site says."""
        peer = peers.get(self.db, writer)
        here = dict(peers.heads_of(self.db, self._tenant, writer))
        if peer is None or not all(self._reaches(here, log) for log in logs):
            return None
        former = peers.newest_receipt(self.db, writer)
        spans = tuple(receipt.Span(epoch, head.seq, head.hash) for epoch, head in sorted(here.items()) if head.seq)
        segments = peers.segments(self.db, writer)
        stored = [one for one in segments if one.state == peers.HERE]
        fresh = {one.sha256 for one in [one for one in stored if not one.reason][: receipt.LISTED_MAX]}
        held = [one for one in stored if one.reason or one.sha256 in fresh]
        missing = len(stored) - len(held) + sum(one.state == peers.WANTED for one in segments)
        gone = [one for one in segments if one.state == peers.GONE]
        root = receipt.segments_root([one.sha256 for one in held])
        if former is not None and not former.site_signature:
            before = receipt.read(former.content)
            if (before.logs, before.segments_root, before.segments_missing) == (spans, root, missing):
                return former.content, former.hub_signature  # it was lost on the way, or its answer was
        drops = self._drops(writer)
        made = receipt.Receipt(
            receipt.VERSION,
            former.number + 1 if former else 1,
            self._tenant,
            writer,
            self._journal.log.writer,
            peer.name,
            self._name,
            now_ns,
            int(self._clock.confidence()),
            spans,
            receipt.Lanes(
                sum(span.seq for span in spans),
                0,
                len(held),
                sum(one.bytes_stored for one in held),
                sum(one.records for one in held),
            ),
            root,
            missing,
            drops,
            tuple(receipt.Gap("segment", one.reason, one.records) for one in gone)[: receipt.LISTED_MAX],
            b"",
            receipt.digest(former.content) if former else b"",
            receipt.root_of(self._tenant, writer, spans, root),
            tuple(one.sha256 for one in held if one.sha256 in fresh),
        )
        content = receipt.content_of(made)
        signature = receipt.sign(content, self._key)
        peers.save_receipt(self.db, peers.Receipt(writer, made.number, content, signature, b"", now_ns))
        return content, signature

    def _reaches(self, here: Mapping[int, envelope.Head], said: LogHead) -> bool:
        """What the site has up to `said` is here: in the log, or beside it where it was continued in two ways."""
        end = here.get(said.epoch)
        if end is not None and end.seq >= said.seq:
            return True
        return peers.on_branch(self.db, Log(self._tenant, said.writer, said.epoch), said.hash)

    def _drops(self, writer: str) -> tuple[Drop, ...]:
        """What the site says it let go on purpose, or never took in, as its log says it. What was looked through for the
        receipt before is not looked through again."""
        held = self._dropped.setdefault(writer, {})
        for log_id, epoch in self.db.execute(
            "SELECT id, epoch FROM log WHERE tenant=? AND writer=?", (self._tenant, writer)
        ).fetchall():
            upto, found = held.get(epoch, (0, []))
            (end,) = self.db.execute("SELECT coalesce(max(seq), 0) FROM event WHERE log_id=?", (log_id,)).fetchone()
            rows = self.db.execute(_DROPS, (log_id, upto)).fetchall() if end > upto else ()
            for position, seq, raw in rows:
                drop = _drop_of(events.decode_any(raw, writer=writer, epoch=epoch, seq=seq))
                if drop is not None:
                    found.append((position, drop))
            held[epoch] = (end, found[-receipt.LISTED_MAX :])
        every = sorted(((at, drop) for _, found in held.values() for at, drop in found), key=itemgetter(0))
        return tuple(drop for _, drop in every[-receipt.LISTED_MAX :])

    def countersigned(self, writer: str, number: int, signature: bytes, now_ns: int) -> str:
        peer = peers.get(self.db, writer)
        newest = peers.newest_receipt(self.db, writer)
        if peer is None or newest is None or newest.number != number:
            return ""  # of a receipt that a newer one took the place of
        if newest.site_signature == signature:
            return ""  # said twice
        signed = receipt.Signed(newest.content, newest.hub_signature, signature)
        verdict = receipt.check(signed, envelope.public_key(self._public_key), envelope.public_key(peer.public_key))
        if verdict is not receipt.Verdict.GOOD:
            return str(verdict)
        peers.save_receipt(self.db, newest._replace(site_signature=signature))
        made = receipt.read(newest.content)
        peers.cover(self.db, writer, number, made.segments)
        said = events.ReceiptSigned(
            writer, number, receipt.digest(newest.content), made.lanes.events, made.lanes.segments
        )
        self._journal.stage(writer, said)
        certificate = certificate_of(made, countersigned=True)
        self._later(writer, lambda site: setattr(site, "certificate", certificate))
        return ""

    # -- segments -----------------------------------------------------------------------------------------------

    def wanted(self, writer: str, limit: int) -> Sequence[Missing]:
        return self._segments.wanted(self.db, writer, limit)

    def chunk(self, writer: str, said: Chunk, now_ns: int) -> tuple[bool, str]:
        whole, problem = self._segments.chunk(self.db, writer, said, now_ns)
        if whole:
            segment = next(one for one in peers.segments(self.db, writer) if one.sha256 == said.sha256)
            self._journal.stage(
                writer, events.SegmentReceived(writer, said.sha256, segment.records, segment.bytes_stored)
            )
            if segment.is_series and self._charts is not None:
                self.done.append(self._charts.came)
        return whole, problem

    # -- documents ----------------------------------------------------------------------------------------------

    def _scope(self, writer: str) -> frozenset[str]:
        return frozenset({writer, *self._fleet.nodes_of.get(writer, ())})

    def listed(self, writer: str) -> Sequence[tuple[str, str, bytes]]:
        return self._shared.listed(self.db, self._tenant, self._scope(writer))

    def root(self, writer: str) -> bytes:
        return self._shared.root(self.db, self._tenant, self._scope(writer))

    def compare(self, writer: str, theirs: Heads, fence: int, now_ns: int) -> Sequence[Heads]:
        peer = peers.get(self.db, writer)
        if peer is None or not theirs.documents:
            return ()
        scope = self._scope(writer) if theirs.root else None
        mine = self._shared.complete(self.db, self._tenant, theirs.documents, peer.log, scope)
        if not theirs.root:
            return ()
        return [Heads(fence, b"", tuple(mine[first : first + LISTED_MAX])) for first in range(0, len(mine), LISTED_MAX)]

    def fell(self) -> None:
        """The transaction is undone, and what was said in it."""
        self.done, self._whole, self._people, self._log_writers = [], {}, (0, ()), {}
        self._dropped = {}
        self._shared.forget()

    # -- one bad word costs nobody else anything ------------------------------------------------------------------

    def before(self) -> Mark:
        self.db.execute("SAVEPOINT word")
        return self._journal.mark()

    def after(self, mark: Mark, *, good: bool) -> None:
        if not good:
            self.db.execute("ROLLBACK TO word")
            self._journal.undo(mark)
            self._shared.forget()
            self._fences, self._log_writers, self._dropped = {}, {}, {}
        self.db.execute("RELEASE word")


_DROPS = (
    "SELECT position, seq, raw FROM event WHERE log_id=? AND seq>?"
    " AND kind IN ('telemetry.dropped', 'intake.refused', 'telemetry.damaged') ORDER BY seq"
)


def _drop_of(event: events.Recorded) -> Drop | None:
    match event.body:
        case TelemetryDropped(data_class=what, reason=reason, records=count):
            return Drop(event.epoch, event.seq, what, reason, count)
        case IntakeRefused(intake=what, reason=reason, messages=count):
            return Drop(event.epoch, event.seq, what, reason, count)
        case TelemetryDamaged(reason=reason, first_id=first, last_id=last):
            return Drop(event.epoch, event.seq, "damaged", reason, max(last - first + 1, 0) if first else 0)
        case _:
            return None


def certificate_of(made: receipt.Receipt, *, countersigned: bool) -> Certificate:
    return Certificate(
        made.number,
        made.at_ns,
        made.lanes.events,
        made.lanes.segments,
        len(made.drops),
        len(made.gaps),
        made.root,
        countersigned,
    )


def _break(site: SiteHere, at_ns: int, address: str) -> None:
    site.glass_ns, site.glass_address = at_ns, address


def _add_fork(said: str, site: SiteHere) -> None:
    if said not in site.forks:
        site.forks = (*site.forks, said)


def load(db: sqlite3.Connection, tenant: str, fleet: FleetHere) -> None:
    """The hub's memory from its database."""
    broken = roster.glasses(db)
    for peer in peers.every(db, tenant):
        site = SiteHere(writer=peer.writer, name=peer.name, public_key=peer.public_key, since_ns=peer.seen_ns)
        site.quarantine = tuple(line for line in peer.quarantine.split("\n") if line)
        site.fence, site.heard_ns = peer.fence, peer.seen_ns or None
        for epoch, head in peers.heads_of(db, tenant, peer.writer):
            site.epoch, site.head_seq, site.acked_seq = epoch, head.seq, head.seq
            site.events += head.seq
        newest = peers.newest_receipt(db, peer.writer)
        if newest is not None:
            site.certificate = certificate_of(receipt.read(newest.content), countersigned=bool(newest.site_signature))
        site.glass_ns, site.glass_address = broken.get(peer.writer, (0, ""))
        fleet.sites[peer.writer] = site
    for one, where, told, received in peers.presents(db):
        fleet.put(one.node_id, NodeHere(where, one, told, received))
