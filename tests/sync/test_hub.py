"""`sync.hub`, `hub.harbor`, `hub.segments`: a session at the hub, with a real site behind the line."""

from __future__ import annotations

import hashlib
import random
import shutil
import sqlite3
from collections.abc import Iterator

import pytest

from fleet import events
from fleet.limits import MINUTE, MS, SECOND
from store import peers
from store.telemetry import segment_path
from sync import messages
from sync.hub import Phase
from sync.link import Parcel
from sync.messages import Hello, Lane, ReceiptDisputed
from sync.protocol import State
from tests.simulation.boxes import TENANT, memory_folder
from tests.simulation.world import Quality, World


@pytest.fixture
def world() -> Iterator[World]:
    root = memory_folder()
    made = World(root, 5, 2)
    assert made.run_for(30 * SECOND, made.all_live)
    yield made
    made.close()
    shutil.rmtree(root)


def say(world: World, *said: messages.Message) -> None:
    writer = world.copies[0].writer
    world.hub.turn([Parcel(writer, Lane.CONTROL, messages.encode(one)) for one in said], world.now_ns)


def test_a_hello_that_proves_nothing_ends_nothing(world: World) -> None:
    site = world.copies[0]
    session = world.hub.harbor.sessions[site.writer]
    assert session.hello is not None
    fence = session.fence
    for number in range(50):
        say(world, Hello(1, 1, TENANT, site.writer, "x", site.box.public_key, (), (), 0, 0, bytes([number]) * 16))
    assert (session.phase, session.fence) == (Phase.LIVE, fence)
    world.write(site, 2)
    assert world.rest(10 * SECOND)


@pytest.mark.parametrize("loss", [0.0, 0.3])
def test_a_segment_comes_together_bit_for_bit(world: World, loss: float) -> None:
    site, data = world.copies[0], random.Random(9).randbytes(400_000)
    sha256 = hashlib.sha256(data).digest()
    segment_path(site.box.folder.segments, sha256).write_bytes(data)
    world.degrade(site, Quality(loss=loss, delay_ns=100 * MS), 30 * MINUTE)
    site.box.write("", events.SegmentSealed(sha256, 1, 9, 9, 1, 2, len(data)))
    path = segment_path(world.hub.folder.segments, sha256)
    assert world.run_for(20 * MINUTE, path.exists)
    assert path.read_bytes() == data


def test_a_segment_is_gone_on_with_after_the_hub_was_ended(world: World) -> None:
    site, data = world.copies[0], random.Random(9).randbytes(200_000)
    sha256 = hashlib.sha256(data).digest()
    segment_path(site.box.folder.segments, sha256).write_bytes(data)
    world.degrade(site, Quality(delay_ns=200 * MS, bytes_per_s=20_000), 30 * MINUTE)
    site.box.write("", events.SegmentSealed(sha256, 1, 9, 9, 1, 2, len(data)))
    part = world.hub.folder.segments / f"{sha256.hex()}.part"
    assert world.run_for(MINUTE, lambda: part.exists() and part.stat().st_size > 20_000)
    had = part.stat().st_size
    world.hub.restart()
    assert world.hub.segments.wanted(world.hub.db, site.writer, 1)[0].have == had
    assert world.run_for(5 * MINUTE, segment_path(world.hub.folder.segments, sha256).exists)


def test_what_a_site_disputes_is_kept_short_and_few(world: World) -> None:
    site = world.copies[0]
    fence = site.box.uplink.site.fence
    say(world, *(ReceiptDisputed(fence, 1, f"{number}\n" + "x" * 200_000) for number in range(60)))
    peer = peers.get(world.hub.db, site.writer)
    assert peer is not None
    assert len(peer.quarantine) < 20 * 310


def test_a_number_that_no_table_holds_ends_one_session(world: World) -> None:
    site, other = world.copies
    body = events.TokenRevoked("x", "Alice")
    site.box.run(lambda db: site.box.journal.stage("x", body))
    fence = site.box.uplink.site.fence
    session = world.hub.harbor.sessions[site.writer]

    def overflow(*_: object) -> None:
        raise OverflowError("Python int too large to convert to SQLite INTEGER")

    session._present = overflow  # type: ignore[method-assign,assignment]
    say(world, messages.Present(fence, 999, False, 0, 1, 1, b""))
    assert world.hub.harbor.refused["cannot be worked on"] == 1
    assert session.phase is Phase.NONE
    assert world.hub.harbor.sessions[other.writer].phase is Phase.LIVE


def test_a_receipt_that_nobody_answered_is_offered_again_and_not_made_anew(world: World) -> None:
    site = world.copies[0]
    world.write(site, 2)
    world.run_for(5 * SECOND)
    known = world.hub.shelf.known(site.writer)
    assert known is not None
    world.hub.shelf.begin(world.hub.db)
    first = world.hub.run(lambda db: world.hub.shelf.receipt(site.writer, known.logs, world.now_ns))
    again = world.hub.run(lambda db: world.hub.shelf.receipt(site.writer, known.logs, world.now_ns + SECOND))
    assert first == again


def test_a_site_in_quarantine_is_told_again_and_its_data_still_comes(world: World) -> None:
    site = world.copies[0]

    def hold(db: object) -> None:
        world.hub.shelf.begin(world.hub.db)
        session = world.hub.harbor.sessions[site.writer]
        session._hold(("Alice wants to look",), world.now_ns, world.hub.shelf)
        session._control.clear()  # the word is lost

    world.hub.run(hold)
    assert world.run_for(30 * SECOND, lambda: site.box.state == State.QUARANTINED)
    world.write(site, 3)
    assert world.run_for(10 * SECOND, lambda: not world.ledger.missing(world))
    world.release(site.writer)
    assert world.run_for(10 * SECOND, world.all_live)


def test_many_parts_in_one_transaction_are_answered_once(world: World) -> None:
    site = world.copies[0]
    shelf, session = world.hub.shelf, world.hub.harbor.sessions[site.writer]
    out, fence = site.box.uplink.site.out, site.box.uplink.site.fence
    parts = [messages.Stream(fence, out.stream, out.offset, b"") for _ in range(5)]

    def hear(db: sqlite3.Connection, *said: messages.Stream) -> list[bool]:
        shelf.begin(db)
        for one in said:
            session.heard(one, world.now_ns, bytes(16), bytes(32), shelf)
        return [one.resend for one in session.pump(world.now_ns, shelf) if isinstance(one, messages.Ack)]

    behind = messages.Stream(fence, out.stream, out.offset + 9, b"behind a hole")
    assert world.hub.run(lambda db: hear(db, *parts)) == [False]
    assert world.hub.run(lambda db: hear(db, *parts, behind)) == [True]
    assert world.hub.run(lambda db: hear(db, behind, *parts)) == [True, False]
