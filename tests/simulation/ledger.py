"""What producers sent and what was answered, written down outside the boxes; and the audit of what came of it.

The letters are those of the trials' table: A every acknowledged event is at the hub exactly once, in the log or in the
second history beside it · B nothing is there that nobody sent · C no log has a hole · D every chain holds, up to the
newest receipt · E documents are the same on both sides · F no site is LIVE that the hub holds · G what was not
acknowledged is there once or not at all. Beside them: the present is the site's, segments are whole or accounted for.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING

from fleet import envelope, events
from fleet.plan import Plan
from store import document, journal, peers
from store.disputes import Disputes
from store.telemetry import segment_path
from sync import receipt
from sync.hub import Phase
from sync.messages import LogHead
from sync.protocol import State
from tests.simulation.boxes import TENANT, Box, SimHub, SimSite

if TYPE_CHECKING:
    from tests.simulation.world import World

_SHOWN_MAX = 3
_OURS = ("token.revoked", "future.fact")


class Ledger:
    def __init__(self) -> None:
        self.sent: dict[str, tuple[str, events.Body]] = {}  # id → writer, what it says
        self.acknowledged: set[str] = set()
        self.lost_with_a_disk: set[str] = set()
        self.segments: dict[tuple[str, bytes], bool] = {}  # (writer, sha256) → dropped on purpose
        self.keys: dict[str, bytes] = {}
        self.forked: set[str] = set()  # writers of which there were two copies

    def began(self, box: SimSite) -> None:
        self.keys[box.writer] = box.public_key

    def sending(self, writer: str, mid: str, body: events.Body) -> None:
        assert mid not in self.sent
        self.sent[mid] = (writer, body)

    def acknowledge(self, mids: Iterable[str]) -> None:
        self.acknowledged |= set(mids)

    def sealed(self, writer: str, sha256: bytes, *, dropped: bool) -> None:
        self.segments[writer, sha256] = dropped

    def disk_lost(self, writer: str, hub: SimHub) -> None:
        """A disk was written over: what only it held is gone, by whoever did that."""
        there = set(_ids(hub))
        self.lost_with_a_disk |= {mid for mid, (by, _) in self.sent.items() if by == writer and mid not in there}

    def hub_lost(self, boxes: Iterable[Box]) -> None:
        """And what a site's lost disk had brought to the hub before the hub's was."""
        there = {mid for box in boxes for mid in _ids(box)}
        self.lost_with_a_disk |= self.acknowledged - there

    # -- what came of it --------------------------------------------------------------------------------------

    def missing(self, world: World) -> list[str]:
        """Acknowledged, and not at the hub."""
        there = set(_ids(world.hub))
        return [mid for mid in self.acknowledged if mid not in there and mid not in self.lost_with_a_disk]

    def audit(self, world: World) -> list[str]:
        hub = world.hub
        problems = self._events(world)
        problems += _chains(hub)
        for copy in world.running:
            alone = copy.writer not in self.forked
            problems += _levels(hub, copy.box) + _documents(hub, copy.box, alone=alone) + _presents(hub, copy.box)
        problems += self._segments(world)
        for peer in peers.every(hub.db, TENANT):
            problems += _receipt(hub, peer.writer, self.keys[peer.writer])
        return problems

    def _events(self, world: World) -> list[str]:
        problems: list[str] = []
        found: Counter[str] = Counter()
        for mid, body in _every(world.hub):
            found[mid] += 1
            sent = self.sent.get(mid)
            if sent is None:
                problems.append(f"B: {mid} is there, and nobody sent it")
            elif not _same(sent[1], body):
                problems.append(f"A: {mid} says something else than was sent")
        problems += [f"A: {mid} is not at the hub" for mid in self.missing(world)[:_SHOWN_MAX]]
        return (
            problems + [f"A, G: {mid} is there {times} times" for mid, times in found.items() if times > 1][:_SHOWN_MAX]
        )

    def _segments(self, world: World) -> list[str]:
        problems: list[str] = []
        states = {
            (site, sha256): state
            for site, sha256, state in world.hub.db.execute("SELECT site, sha256, state FROM custody")
        }
        for (writer, sha256), dropped in self.segments.items():
            state = states.get((writer, sha256))
            path = segment_path(world.hub.folder.segments, sha256)
            if state == peers.HERE:
                if hashlib.sha256(path.read_bytes()).digest() != sha256:
                    problems.append("segment: a file is not what its name says")
            elif state == peers.WANTED or (state is None and not dropped and not _excused(world, writer)):
                problems.append(f"segment: {sha256.hex()[:8]} of {writer} is {state}")
            elif state == peers.GONE and not dropped and not _excused(world, writer):
                problems.append(f"segment: {sha256.hex()[:8]} of {writer} is gone, and nobody dropped it")
        for copy in world.running:
            for (sha256,) in copy.box.db.execute("SELECT sha256 FROM custody"):
                if states.get((copy.writer, sha256)) != peers.HERE and not _excused(world, copy.writer):
                    problems.append(
                        f"segment: {copy.writer} may prune {sha256.hex()[:8]}, and the hub does not have it"
                    )
        return problems


def _excused(world: World, writer: str) -> bool:
    """Its disk was lost, or is a copy's."""
    return writer in world.ledger.forked


def _same(sent: events.Body, found: object) -> bool:
    if isinstance(found, events.Unknown):
        return sent.KIND == "future.fact"
    return sent == found


def _every(hub: Box) -> Iterable[tuple[str, object]]:
    marks = ",".join("?" * len(_OURS))
    rows = hub.db.execute(f"SELECT raw FROM event WHERE kind IN ({marks})", _OURS).fetchall()
    for (raw,) in rows:
        fact = events.decode_any(raw, writer="", epoch=1)
        yield fact.subject, fact.body
    for fact in _beside(hub):
        if fact.kind in _OURS:
            yield fact.subject, fact.body


def _beside(hub: Box) -> Iterable[events.Recorded]:
    """The second histories."""
    for (raw,) in hub.db.execute("SELECT raw FROM branch").fetchall():
        for event in envelope.decode(raw).events:
            yield events.decode_any(event, writer="", epoch=1)


def _ids(hub: Box) -> Iterable[str]:
    marks = ",".join("?" * len(_OURS))
    for (mid,) in hub.db.execute(f"SELECT subject FROM event WHERE kind IN ({marks})", _OURS):
        yield mid
    for fact in _beside(hub):
        if fact.kind in _OURS:
            yield fact.subject


def _chains(hub: Box) -> list[str]:
    return [f"C, D: {one.log} {one.fault} {one.detail}" for one in journal.verify(hub.db) if one.fault]


def _levels(hub: SimHub, box: SimSite) -> list[str]:
    problems: list[str] = []
    session = hub.harbor.sessions.get(box.writer)
    phase = session.phase if session else Phase.NONE
    if box.state == State.LIVE and phase is Phase.QUARANTINED:
        problems.append(f"F: {box.writer} is LIVE and held at the hub")
    if (box.state, phase) != (State.LIVE, Phase.LIVE):
        problems.append(f"rest: {box.writer} is {box.state} here and {phase} at the hub: {box.uplink.site.reason}")
    for epoch, head in peers.heads_of(box.db, TENANT, box.writer):
        here = journal.head_of(hub.db, envelope.Log(TENANT, box.writer, epoch))
        log = envelope.Log(TENANT, box.writer, epoch)
        beside = peers.on_branch(hub.db, log, head.hash)
        if head != here and not beside and peers.hash_at(hub.db, log, head.seq) != head.hash:
            problems.append(f"D: epoch {epoch} of {box.writer} ends at {head.seq} there and at {here.seq} at the hub")
    peer = peers.get(hub.db, box.writer)
    if (
        peer is not None
        and peer.log is not None
        and journal.head_of(box.db, peer.log) != journal.head_of(hub.db, peer.log)
    ):
        problems.append(f"D: the hub's log towards {box.writer} is not all there")
    return problems


def _documents(hub: SimHub, box: SimSite, *, alone: bool) -> list[str]:
    """Where there were two copies of a site, one may have written of a node that the other never heard of."""
    mine, there = document.heads(box.db, TENANT), document.heads(hub.db, TENANT)
    problems = []
    ids = {place.document.id for place in mine} | {
        place.document.id
        for place in there
        if place.document.id.startswith(box.name) and (alone or place.document.id in box.nodes)
    }
    for place in {*mine, *(one for one in there if one.document.id in ids)}:
        if mine.get(place) != there.get(place):
            problems.append(f"E: {place.document.id} of {box.writer} has other heads at the hub")
        elif document.look(box.db, place.document) != document.look(hub.db, place.document):
            problems.append(f"E: {place.document.id} of {box.writer} reads otherwise at the hub")
    if _plan(hub, ids) != _plan(box, ids):
        problems.append(f"E: {box.writer} and the hub make two plans of what stands against each other")
    return problems


def _plan(box: SimHub | SimSite, ids: set[str]) -> Plan:
    return Disputes(TENANT, box.journal, box.shared, lambda db, one: (None, ())).look(box.db, frozenset(ids)).plan


def _presents(hub: SimHub, box: SimSite) -> list[str]:
    there = {node_id: held.present for node_id, held in hub.fleet.nodes.items() if held.site == box.writer}
    if there == box.nodes:
        return []
    return [
        f"present: {box.writer} has {len(box.nodes)} nodes, the hub shows {len(there)} of it, or shows them otherwise"
    ]


def _receipt(hub: SimHub, writer: str, key: bytes) -> list[str]:
    newest = peers.newest_receipt(hub.db, writer, both=True)
    if newest is None:
        return [f"D: {writer} has no receipt"]
    signed = receipt.Signed(newest.content, newest.hub_signature, newest.site_signature)
    verdict = receipt.check(signed, envelope.public_key(hub.public_key), envelope.public_key(key))
    if verdict is not receipt.Verdict.GOOD:
        return [f"D: {writer}: {verdict}"]
    made = receipt.read(newest.content)
    spans = [LogHead(writer, span.epoch, span.seq, span.hash) for span in made.logs]
    wrong = [
        one for one in spans if peers.hash_at(hub.db, envelope.Log(TENANT, writer, one.epoch), one.seq) != one.hash
    ]
    return [f"D: the receipt of {writer} names an end of epoch {one.epoch} that is not there" for one in wrong]
