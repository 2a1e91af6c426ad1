"""The interpreter: every stored record is read once, in order, from memory or from the disk, and its turns are durable."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from appliance.evaluator import Bounds, Standing
from appliance.intake import ping, syslog
from appliance.interpreter import Interpreter
from appliance.world import OWN_SOURCE, NodeState, SourceState, World, source_key
from fleet import events, limits
from fleet.lifecycle import Phase, Place
from fleet.limits import SECOND
from fleet.node import Endpoint, Kind, Node
from fleet.reading import Reading
from fleet.snapshot import Snapshot
from store import journal
from store.commands import Commands
from store.database import connect_reader
from store.frames import Offer, Record
from store.telemetry import History
from tests.cast import eventually
from tests.store.alder import TENANT, Alder

KESTREL = "01KESTREL00000000000000001"
SENDER = "10.0.0.7/kestrel"
SOURCE = f"syslog/{SENDER}"
KESTREL_NODE = Node(
    id=KESTREL, name="kestrel", kind=Kind.EDGE, tenant=TENANT, endpoints=(Endpoint(address="10.0.0.7"),)
)
ADOPTION_EVENTS = 4  # adopted, claimed, enrolled, its document
NOW = 1_795_219_200 * SECOND


def battery(percent: int) -> bytes:
    return b"<13>1 2026-11-21T05:40:26Z kestrel fc - - - battery_pct=%d" % percent


def parse(raw: bytes, at_ns: int) -> Reading:
    if raw == b"a bug of ours":
        raise ZeroDivisionError("a bug of ours")
    return syslog.parse(raw, received_ns=at_ns)


class Desk:
    """The interpreter of alder over real stores; the steady clock is the test's."""

    def __init__(self, alder: Alder) -> None:
        self.alder, self.now_ns, self.world = alder, NOW, World()
        self.quarantined: list[tuple[str, str, str, bytes]] = []
        if not self.told("node.adopted"):
            row = (SOURCE, TENANT, 1, 1, 0, 0, b"")
            commands = Commands(alder.journal, alder.site, TENANT, alder.shared)
            asyncio.run(commands.adopt("alice", KESTREL_NODE, (SOURCE,), (row,)))
        state = NodeState(KESTREL_NODE, Standing(), Snapshot(), place=Place(Phase.ENROLLED))
        self.world.nodes[KESTREL] = state
        self.world.sources[SOURCE] = SourceState(source_key(SOURCE), KESTREL, 1, 1, 0, 0, b"")
        self.world.claim(SENDER, KESTREL)
        self.interpreter = self.open()

    def open(self) -> Interpreter:
        return Interpreter(
            self.world,
            self.alder.journal,
            self.alder.site,
            self.alder.series,
            History(self.alder.folder),
            {"syslog": parse, "http": parse},
            bounds=Bounds(silence_ns_max=15 * SECOND),
            ping_bounds=ping.DEFAULT,
            steady_ns=lambda: self.now_ns,
            tenant=TENANT,
            quarantine=lambda *one: self.quarantined.append(one),
        )

    @property
    def state(self) -> NodeState:
        return self.world.nodes[KESTREL]

    def store(self, *raws: bytes, source: str = SOURCE) -> Sequence[Record]:
        return self.alder.telemetry.append([Offer(self.now_ns, source, raw) for raw in raws])

    def hear(self, *raws: bytes, source: str = SOURCE) -> None:
        """Stored, and handed over in memory."""
        self.interpreter.stored(self.store(*raws, source=source))

    def read_all(self) -> None:
        eventually(lambda: self.interpreter.waiting, lambda waiting: not waiting)

    def turns(self) -> list[str]:
        """The kinds of what happened since the adoption."""
        kinds = [event.kind for event in self.told()]
        return kinds[ADOPTION_EVENTS:]

    def told(self, kind: str = "") -> list[events.Recorded]:
        with contextlib.closing(connect_reader(self.alder.folder.site_db)) as db:
            found = [event for batch in journal.read(db) for event in batch]
        return [event for event in found if event.kind.startswith(kind)]


@pytest.fixture
def alder(tmp_path: Path) -> Iterator[Alder]:
    with Alder(tmp_path / "alder") as made:
        yield made


@pytest.fixture
def desk(alder: Alder) -> Iterator[Desk]:
    made = Desk(alder)
    made.interpreter.start()
    yield made
    if made.interpreter.alive:
        made.interpreter.stop()


def test_a_first_word_is_a_turn_and_makes_the_node_active(desk: Desk) -> None:
    desk.hear(battery(90))
    eventually(lambda: desk.told("node.heard"))
    assert desk.turns() == ["node.heard", "lifecycle.moved"]
    assert desk.state.place.phase is Phase.ACTIVE
    assert desk.state.snapshot.values["battery_pct"].value == 90.0


def test_what_was_not_handed_over_is_read_back_from_the_disk_in_order(desk: Desk) -> None:
    desk.store(*(battery(number % 100) for number in range(9_000)))
    desk.interpreter.newest = desk.alder.telemetry.next_id - 1
    desk.hear(battery(7))
    desk.read_all()
    assert desk.state.snapshot.values["battery_pct"].value == 7.0
    assert desk.state.snapshot.records == 9_001
    assert len(desk.told("node.heard")) == 1


def test_what_is_handed_over_twice_is_read_once(desk: Desk) -> None:
    records = desk.store(*(battery(number) for number in range(50)))
    for _ in range(3):
        desk.interpreter.stored(records)
    desk.read_all()
    desk.hear(battery(99))
    desk.read_all()
    assert desk.state.snapshot.records == 51


def spoken(mid: str, percent: int, health: str) -> bytes:
    return b'<13>1 2026-11-21T05:40:26Z kestrel fc - - - {"mid":"%s","battery_pct":%d,"health":"%s"}' % (
        mid.encode(),
        percent,
        health.encode(),
    )


def test_a_message_that_was_sent_again_is_heard_and_says_nothing_new(desk: Desk) -> None:
    first, second = spoken("k-1", 90, "FAILED"), spoken("k-2", 80, "OK")
    desk.hear(first)
    desk.hear(second)
    desk.read_all()
    turns = desk.turns()
    desk.now_ns += 5 * SECOND
    desk.hear(first, first)
    desk.read_all()
    eventually(lambda: desk.state.snapshot.seen_ns, lambda seen: seen == desk.now_ns)
    assert desk.state.snapshot.values["battery_pct"].value == 80.0
    assert desk.turns() == turns
    assert desk.state.snapshot.records == 4  # they are here, all of them
    assert desk.interpreter.repeated == {"syslog": 2}
    assert (desk.state.signs.repeated, desk.state.signs.repeated_in_a_row) == (2, 2)
    desk.hear(spoken("k-3", 70, "OK"))
    eventually(lambda: desk.state.snapshot.values["battery_pct"].value, lambda value: value == 70.0)
    assert desk.state.signs.repeated_in_a_row == 0


def test_silence_is_judged_only_when_all_that_was_said_is_read(desk: Desk) -> None:
    desk.hear(battery(90))
    eventually(lambda: desk.told("node.heard"))
    desk.now_ns += 16 * SECOND
    eventually(lambda: desk.told("node.quiet"))
    desk.now_ns += 60 * SECOND
    desk.hear(battery(89))
    eventually(lambda: len(desk.told("node.heard")), lambda count: count == 2)
    assert len(desk.told("node.quiet")) == 1


def test_a_bug_in_a_parser_costs_one_record_and_says_so(desk: Desk) -> None:
    desk.hear(battery(90), b"a bug of ours", battery(88))
    desk.read_all()
    assert desk.state.snapshot.values["battery_pct"].value == 88.0
    assert desk.interpreter.unread["unparsed"] == 1
    assert desk.quarantined == [("syslog", SOURCE, "unparsed", b"a bug of ours")]
    assert desk.interpreter.loop.falls == 0


def test_of_one_reason_so_many_examples_are_kept_and_the_rest_is_counted(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "quarantine_samples_max", 3)
    desk.hear(*(b"\x00garbage %d" % number for number in range(20)))
    desk.read_all()
    assert desk.interpreter.unread["unparsed"] == 20
    assert len(desk.quarantined) == 3


def test_another_way_in_of_the_same_sender_is_claimed_by_itself(desk: Desk) -> None:
    desk.hear(b"<13>1 - kestrel fc - - - temp_c=21", source=f"http/{SENDER}")
    claimed = eventually(lambda: desk.told("source.claimed")[1:])[0]
    assert claimed.body == events.SourceClaimed(f"http/{SENDER}", KESTREL, "same sender")
    assert {str(one.key) for one in desk.world.sources_of(KESTREL)} == {SOURCE, f"http/{SENDER}"}


def test_a_sender_nobody_claims_is_kept_with_a_sample(desk: Desk) -> None:
    desk.hear(b"<13>who am I", b"<13>and again", source="syslog/10.6.6.6/")
    desk.read_all()
    held = desk.world.sources["syslog/10.6.6.6/"]
    assert (held.node_id, held.records, held.sample) == (None, 2, b"<13>who am I")
    assert desk.turns() == []


def test_what_the_box_writes_itself_is_nobody_s_source(desk: Desk) -> None:
    desk.hear(b"the disk takes writes again", source=OWN_SOURCE)
    desk.hear(battery(90))
    desk.read_all()
    assert set(desk.world.sources) == {SOURCE}


def test_a_flood_of_invented_senders_is_forgotten_the_claimed_stay(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "sources_max", 100)
    desk.hear(battery(90))
    for number in range(500):
        desk.hear(b"<13>flood", source=f"syslog/10.6.6.6/n{number}")
    desk.read_all()
    assert len(desk.world.sources) <= 100
    assert SOURCE in desk.world.sources
    assert "syslog/10.6.6.6/n499" in desk.world.sources, "the newest are known"
    assert desk.interpreter.unread["source forgotten"] >= 400


def test_a_restart_reads_on_where_it_stood_and_tells_nothing_twice(alder: Alder) -> None:
    first = Desk(alder)
    first.interpreter.start()
    first.hear(*(battery(number) for number in range(50, 60)))
    eventually(lambda: first.told("node.heard"))
    first.interpreter.stop()
    standing, snapshot = first.state.standing, first.state.snapshot
    first.store(battery(42))
    second = Desk(alder)  # the values are known, the cursor was lost: it reads from the start
    second.state.standing, second.state.snapshot = standing, snapshot
    second.state.place = Place(Phase.ACTIVE)
    second.interpreter.newest = alder.telemetry.next_id - 1
    second.interpreter.start()
    second.read_all()
    second.interpreter.stop()
    assert second.state.snapshot.records == 11
    assert second.state.snapshot.values["battery_pct"].value == 42.0
    assert len(second.told("node.heard")) == 1


def test_turns_wait_for_a_disk_that_refuses_and_are_told_once(desk: Desk) -> None:
    alder = desk.alder
    blocker = sqlite3.connect(alder.folder.site_db, isolation_level=None)
    alder.site.submit(lambda db: db.execute("PRAGMA busy_timeout=50")).result()
    blocker.execute("BEGIN IMMEDIATE")
    desk.hear(battery(90))
    eventually(lambda: alder.site.fault)
    blocker.execute("ROLLBACK")
    blocker.close()
    eventually(lambda: desk.told("node.heard"))
    assert desk.turns() == ["node.heard", "lifecycle.moved"]


def test_echoes_move_a_node_that_says_nothing(desk: Desk) -> None:
    desk.interpreter.echoes([ping.Echo("10.0.0.7", 3.0), ping.Echo("10.0.0.9", None)])
    eventually(lambda: desk.told("node.heard"))
    assert desk.state.ping.rtt_ms == 3.0
    assert desk.state.ping_ns == NOW


def test_a_retired_node_is_not_missed(desk: Desk) -> None:
    desk.hear(battery(90))
    eventually(lambda: desk.told("node.heard"))
    desk.state.place = Place(Phase.RETIRED)
    desk.now_ns += 60 * SECOND
    desk.hear(b"<13>other", source="syslog/10.0.0.8/")
    desk.read_all()
    desk.interpreter.stop()
    assert desk.told("node.quiet") == []


@pytest.mark.parametrize("text", ["syslog/10.0.0.7/kestrel", "http/fe80::1%eth0/a/b", "syslog/10.0.0.7/"])
def test_a_source_key_reads_back_as_it_was_written(text: str) -> None:
    assert str(source_key(text)) == text
