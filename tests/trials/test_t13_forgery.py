"""T13: forged, replayed, reordered, truncated, spliced, wrong key, wrong tenant. Whatever Mallory puts on the line is
refused with a reason or means nothing, leaves nothing behind, and the honest data of the same session still comes
through. Mallory can hear everything and say anything in either direction; she has no key of the hub or of alder."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fleet import envelope, events
from fleet.document import Id
from fleet.envelope import Log
from fleet.limits import MS
from fleet.present import Present as NodePresent
from store import document, journal, peers, roster, shared
from sync import messages, present, receipt, stream
from sync.hub import Phase
from sync.link import Parcel
from sync.messages import Hello, LogHead, Message, Present, Proof
from sync.protocol import State
from tests.simulation.boxes import TENANT, SimClock, SimHub, SimSite, key_of, memory_folder
from tests.simulation.world import START_NS

pytestmark = pytest.mark.trial
MUTATED = 10_000
HUB, ALDER, BIRCH = "01HARBOR000000000000000000", "01ALDER0000000000000000000", "01BIRCH0000000000000000000"
MALLORY = key_of("Mallory")


class Stage:
    """Harbor, alder and birch in session, and what was said so far."""

    def __init__(self, root: Path) -> None:
        self.now = START_NS
        clock = SimClock(lambda: self.now)
        self.hub = SimHub(root / "hub", "harbor", HUB, clock, random.Random(1))
        self.sites: dict[str, SimSite] = {}
        self.down: list[Parcel] = []
        self.heard: list[Parcel] = []  # by Mallory: what the sites said
        self.told: list[Parcel] = []  # and the hub
        for name, writer in (("alder", ALDER), ("birch", BIRCH)):
            self.hub.invite(name, name)
            self.sites[writer] = SimSite(root / name, name, writer, clock, random.Random(name), name)
            self.sites[writer].nodes[f"{name}-1"] = NodePresent(f"{name}-1", name)
        self.talk(40)
        assert self.alder.state == State.LIVE

    @property
    def alder(self) -> SimSite:
        return self.sites[ALDER]

    @property
    def fence(self) -> int:
        return self.alder.uplink.site.fence

    def talk(self, turns: int) -> None:
        for _ in range(turns):
            self.now += 100 * MS
            up = [
                parcel
                for writer, site in self.sites.items()
                for parcel in site.turn([one for one in self.down if one.peer == writer], True, self.now)
            ]
            self.heard += up
            self.down = self.hub.turn(up, self.now)
            self.told += self.down

    def to_hub(self, *said: Message | bytes, peer: str = ALDER) -> list[Any]:
        raw = [one if isinstance(one, bytes) else messages.encode(one) for one in said]
        answers = self.hub.turn([Parcel(peer, messages.Lane.LOG, one) for one in raw], self.now)
        self.down += answers
        return [messages.decode(one.data) for one in answers if one.peer == peer]

    def to_site(self, *said: Message | bytes) -> None:
        raw = [one if isinstance(one, bytes) else messages.encode(one) for one in said]
        up = self.alder.turn([Parcel(ALDER, messages.Lane.LOG, one) for one in raw], True, self.now)
        self.down += self.hub.turn(up, self.now)

    def trace(self) -> Any:
        """All that a forgery must not change: logs, documents, receipts, presents, keys, fences."""
        hub, site = self.hub.db, self.alder.db
        forged = "SELECT site, number FROM receipt WHERE number >= 50"  # an honest one may be signed meanwhile
        return (
            hub.execute("SELECT log_id, first_seq, hash FROM block WHERE log_id > 1 ORDER BY 1, 2").fetchall(),
            hub.execute("SELECT * FROM branch").fetchall(),
            hub.execute("SELECT * FROM document").fetchall(),
            hub.execute("SELECT writer, public_key, log_epoch FROM peer").fetchall(),
            hub.execute(forged).fetchall(),
            [(node_id, held.site, held.present) for node_id, held in sorted(self.hub.fleet.nodes.items())],
            site.execute(
                "SELECT log_id, first_seq FROM block b JOIN log ON log.id=log_id WHERE writer<>?", (ALDER,)
            ).fetchall(),
            site.execute(forged).fetchall(),
            self.alder.identity,
            journal.read_identity(site),
        )

    def close(self) -> None:
        self.hub.close()
        for site in self.sites.values():
            site.close()


@pytest.fixture
def stage() -> Iterator[Stage]:
    root = memory_folder()
    made = Stage(root)
    yield made
    made.close()
    shutil.rmtree(root)


def hello(stage: Stage, **changed: Any) -> Hello:
    said = next(m for p in reversed(stage.heard) if p.peer == ALDER and isinstance(m := messages.decode(p.data), Hello))
    return msgspec.structs.replace(said, nonce=b"n" * 16, **changed)


def group(key: Any, log: Log, seq: int = 1, previous: bytes = envelope.GENESIS, raw: bytes = b"\x01") -> bytes:
    block = envelope.seal(log, envelope.Head(seq - 1, previous), [raw], key)
    return stream.Packer().pack(stream.Group(log, b"k" * 32, (block,)))


def in_stream(stage: Stage, data: bytes) -> Message:
    return messages.Stream(stage.fence, 1, stage.hub.harbor.sessions[ALDER]._in.offset, data)


def forged_present(
    stage: Stage, key: Any, writer: str = ALDER, node: str = "alder-1", fence: int | None = None
) -> Message:
    rows = present.pack([(node, {1: "Mallory was here"})])
    said = Present(stage.fence if fence is None else fence, 99, False, 0, 1, stage.now, rows)
    signature = key.sign(messages.present_content(Log(TENANT, writer, 0), said))
    return msgspec.structs.replace(said, signature=signature)


def made_receipt(stage: Stage, key: Any, **changed: Any) -> Message:
    newest = peers.newest_receipt(stage.hub.db, ALDER)
    assert newest is not None
    content = receipt.content_of(msgspec.structs.replace(receipt.read(newest.content), **changed))
    return messages.ReceiptOffered(stage.fence, content, receipt.sign(content, key))


def head(stage: Stage) -> envelope.Head:
    return journal.head_of(stage.hub.db, Log(TENANT, ALDER, 1))


def refusal(stage: Stage, nonce: bytes, *, new_epoch: bool = True) -> Message:
    said = hello(stage)
    signature = MALLORY.sign(messages.refusal_content(said, "begin anew", new_epoch, None))
    return messages.Refused("begin anew", 0, new_epoch, None, nonce, signature)


def ordered(stage: Stage, order: messages.Order) -> Message:
    """As Mallory would sign it."""
    said = next(m for p in reversed(stage.heard) if p.peer == ALDER and isinstance(m := messages.decode(p.data), Hello))
    return msgspec.structs.replace(order, signature=MALLORY.sign(messages.order_content(said, order)))


def returning(stage: Stage) -> None:
    """Alder has said hello and waits."""
    stage.alder.restart()
    stage.heard += stage.alder.turn([], True, stage.now)
    assert stage.alder.state == State.RETURNING


To = Callable[[Stage], object]
BAD_HEAD = LogHead(ALDER, 1, 1 << 63, b"short")
UP: dict[str, To] = {
    "a hello with another key": lambda s: s.to_hub(hello(s, public_key=b"\x07" * 32)),
    "a hello with a key that is none": lambda s: s.to_hub(hello(s, public_key=b"short")),
    "a hello of another tenant": lambda s: s.to_hub(hello(s, tenant="other")),
    "a hello of birch over alder's line": lambda s: s.to_hub(hello(s, writer=BIRCH)),
    "a hello of an older protocol": lambda s: s.to_hub(hello(s, oldest=0, newest=0)),
    "a hello of a newer protocol": lambda s: s.to_hub(hello(s, oldest=9, newest=9)),
    "a hello with birch's logs": lambda s: s.to_hub(hello(s, logs=(LogHead(BIRCH, 1, 1, bytes(32)),))),
    "a hello with numbers that cannot be": lambda s: s.to_hub(hello(s, logs=(BAD_HEAD,))),
    "a hello of a stranger without an invitation": lambda s: s.to_hub(
        hello(s, writer="01MALLORY", logs=(), heard=()), peer="01MALLORY"
    ),
    "a hello of a stranger with a guessed invitation": lambda s: s.to_hub(
        hello(s, writer="01MALLORY", logs=(), heard=(), invitation=b"g" * 32), peer="01MALLORY"
    ),
    "a hello that was heard before": lambda s: s.to_hub(
        *[p.data for p in s.heard if p.peer == ALDER and isinstance(messages.decode(p.data), Hello)]
    ),
    "a proof that was heard before": lambda s: s.to_hub(
        hello(s), *[p.data for p in s.heard if isinstance(messages.decode(p.data), Proof)]
    ),
    "a proof by another key": lambda s: s.to_hub(hello(s), Proof(MALLORY.sign(b"anything"))),
    "a proof without a hello": lambda s: s.to_hub(Proof(bytes(64))),
    "a present by another key": lambda s: s.to_hub(forged_present(s, MALLORY)),
    "a present without a signature": lambda s: s.to_hub(
        msgspec.structs.replace(forged_present(s, MALLORY), signature=b"")
    ),
    "birch's present in alder's session": lambda s: s.to_hub(forged_present(s, key_of(BIRCH), BIRCH, "birch-1")),
    "a present of a session that is over": lambda s: s.to_hub(forged_present(s, key_of(ALDER), fence=s.fence - 1)),
    "a present with parts without end": lambda s: s.to_hub(
        msgspec.structs.replace(forged_present(s, MALLORY), parts=1 << 40)
    ),
    "a present in a year that cannot be": lambda s: s.to_hub(
        msgspec.structs.replace(forged_present(s, MALLORY), at_ns=1 << 63)
    ),
    "a block by another key": lambda s: s.to_hub(
        in_stream(s, group(MALLORY, Log(TENANT, ALDER, 1), head(s).seq + 1, head(s).hash))
    ),
    "a first block of a new epoch by another key": lambda s: s.to_hub(
        in_stream(s, group(MALLORY, Log(TENANT, ALDER, 2)))
    ),
    "birch's block in alder's stream": lambda s: s.to_hub(
        in_stream(s, group(key_of(BIRCH), Log(TENANT, BIRCH, 1), 2, bytes(32)))
    ),
    "a block of another tenant": lambda s: s.to_hub(
        in_stream(s, group(key_of(ALDER), Log("other", ALDER, 1), head(s).seq + 1, head(s).hash))
    ),
    "bytes that are no stream": lambda s: s.to_hub(in_stream(s, b"nonsense" * 40)),
    "a part far behind a hole": lambda s: s.to_hub(messages.Stream(s.fence, 1, 1 << 40, b"x")),
    "a part of a stream that never began": lambda s: s.to_hub(messages.Stream(s.fence, 9, 0, b"x")),
    "a level with numbers that cannot be": lambda s: s.to_hub(messages.Level(s.fence, (BAD_HEAD,))),
    "a level of a session that never was": lambda s: s.to_hub(messages.Level(s.fence + 7, ())),
    "heads of documents with impossible names": lambda s: s.to_hub(
        messages.Heads(s.fence, b"", (("node", "x#²", b""), ("node", "y#" + "9" * 5000, b""), ("", "", b"")))
    ),
    "a rewind with numbers that cannot be": lambda s: s.to_hub(messages.Rewind(s.fence, 1, (BAD_HEAD,))),
    "a chunk that nobody asked for": lambda s: s.to_hub(messages.Chunk(s.fence, 5, b"s" * 32, 0, b"data")),
    "an acknowledgement of what was never sent": lambda s: s.to_hub(messages.Ack(s.fence, 1, 1 << 50, 1)),
    "an oversized message": lambda s: s.to_hub(bytes(messages.PARCEL_BYTES_MAX * 2 + 1)),
    "a message that is no message": lambda s: s.to_hub(b"\x93\x01\x02\x03"),
    "a message nested without end": lambda s: s.to_hub(b"\x92\xa4ping" + b"\x91" * 5000),
}
DOWN: dict[str, To] = {
    "a welcome in the middle of a session": lambda s: s.to_site(messages.Welcome(99, b"t" * 32, (), 1, 1)),
    "a receipt by another key": lambda s: s.to_site(made_receipt(s, MALLORY, number=50)),
    "a receipt with a wrong root": lambda s: s.to_site(made_receipt(s, MALLORY, number=50, root=bytes(32))),
    "a receipt that cannot be read": lambda s: s.to_site(messages.ReceiptOffered(s.fence, b"junk", bytes(64))),
    "a block of the hub by another key": lambda s: s.to_site(
        messages.Stream(s.fence, 1, s.alder.uplink.site._in.offset, group(MALLORY, Log(TENANT, HUB, 7)))
    ),
    "a quarantine of a session that never was": lambda s: s.to_site(messages.Quarantined(s.fence + 1, ("because",))),
    "a quarantine that nobody signed": lambda s: s.to_site(messages.Quarantined(s.fence, ("because",))),
    "a quarantine by another key": lambda s: s.to_site(ordered(s, messages.Quarantined(s.fence, ("because",)))),
    "a quarantine of no session": lambda s: s.to_site(messages.Quarantined(0, ("because",))),
    "a release of no session": lambda s: s.to_site(messages.Released(0)),
    "a wish for a file outside of the segments": lambda s: s.to_site(messages.Want(s.fence, 1, b"../../x", 0, 99)),
}


def _still_works(stage: Stage) -> None:
    """The honest data of alder and of birch comes through."""
    for writer, site in stage.sites.items():
        site.write(f"honest {writer}", events.TokenRevoked("honest", "Alice"))
    for _ in range(200):
        stage.talk(4)
        rows = stage.hub.db.execute("SELECT count(*) FROM event WHERE subject LIKE 'honest %'").fetchone()
        if rows == (2,):
            return
    raise AssertionError(f"{rows}: {stage.alder.state} {stage.hub.harbor.sessions[ALDER].reason}")


@pytest.mark.parametrize("name", [*UP, *DOWN])
def test_what_mallory_says_means_nothing_and_honest_data_comes_through(name: str, stage: Stage) -> None:
    before = stage.trace()
    {**UP, **DOWN}[name](stage)
    stage.talk(4)
    assert stage.trace() == before
    _still_works(stage)
    assert stage.hub.harbor.sessions[ALDER].phase is Phase.LIVE
    assert stage.alder.state == State.LIVE


PERSON = "INSERT OR REPLACE INTO account VALUES (?,?,?,?,?,?,NULL,?,'Alice')"


def people(stage: Stage) -> None:
    """Mallory was an admin everywhere, and was let go; both lists went over the line, and she kept what she heard."""
    for disabled in (False, True):
        row = ("mallory", TENANT, "ADMIN", "$argon2id$of-mallory", 1, disabled, roster.bind(None, ["*"]))
        stage.hub.run(lambda db, row=row: db.execute(PERSON, row))  # type: ignore[misc]
        stage.hub.run(lambda db: roster.changed(db, stage.now))
        stage.talk(20)
    assert let_in(stage) == []


def let_in(stage: Stage) -> list[tuple[str, str]]:
    return stage.alder.db.execute("SELECT name, role FROM account WHERE NOT disabled").fetchall()


def made_roster(stage: Stage, key: Any, *, after: int = 1000, **changed: Any) -> Message:
    mallory = roster.Entry("mallory", "ADMIN", False, False, "Alice", "$argon2id$of-mallory")
    version = roster.made(stage.hub.db)[0] + after
    made = roster.Roster(TENANT, HUB, "harbor", ALDER, version, stage.now, (mallory,))
    content = roster.encode(msgspec.structs.replace(made, **changed))
    return messages.RosterOffered(stage.fence, content, key.sign(messages.roster_content(content)))


def heard_roster(stage: Stage, peer: str) -> Message:
    """The first that the hub told a site, under the fence of now."""
    said = next(
        m for p in stage.told if p.peer == peer and isinstance(m := messages.decode(p.data), messages.RosterOffered)
    )
    return msgspec.structs.replace(said, fence=stage.fence)


def altered_roster(stage: Stage) -> Message:
    said = heard_roster(stage, ALDER)
    assert isinstance(said, messages.RosterOffered)
    return msgspec.structs.replace(said, content=said.content + b"\x00")


OF_PEOPLE: dict[str, Callable[[Stage], Message]] = {
    "a list by another key": lambda s: made_roster(s, MALLORY),
    "a list that nobody signed": lambda s: msgspec.structs.replace(made_roster(s, MALLORY), signature=b""),
    "a list by alder's own key": lambda s: made_roster(s, key_of(ALDER)),
    "an old list of the hub again": lambda s: heard_roster(s, ALDER),
    "birch's list at alder": lambda s: heard_roster(s, BIRCH),
    "a list of the hub that was altered": altered_roster,
    "a list of another tenant": lambda s: made_roster(s, s.hub.key, tenant="other"),
    "a list of another hub": lambda s: made_roster(s, s.hub.key, hub="01MALLORY"),
    "two lists of one version": lambda s: made_roster(s, s.hub.key, after=0),
    "a version that cannot be": lambda s: made_roster(s, s.hub.key, version=(1 << 63) - 1),
    "more people than there may be": lambda s: made_roster(
        s, s.hub.key, people=(roster.Entry("mallory", "ADMIN", False, False, "", ""),) * 2_001
    ),
    "bytes that are no list": lambda s: messages.RosterOffered(
        s.fence, b"junk", s.hub.key.sign(messages.roster_content(b"junk"))
    ),
    "a list of a session that never was": lambda s: msgspec.structs.replace(
        made_roster(s, s.hub.key), fence=s.fence + 1
    ),
}


@pytest.mark.parametrize("name", OF_PEOPLE)
def test_no_list_but_the_hubs_newest_for_this_site_lets_anybody_in(name: str, stage: Stage) -> None:
    people(stage)
    before = stage.alder.db.execute("SELECT * FROM account").fetchall()
    held = roster.here(stage.alder.db)
    for _ in range(3):
        stage.to_site(OF_PEOPLE[name](stage))
    assert let_in(stage) == []
    assert stage.alder.db.execute("SELECT * FROM account").fetchall() == before
    assert roster.here(stage.alder.db) == held
    told = stage.alder.db.execute("SELECT count(*) FROM event WHERE kind='roster.refused'").fetchone()[0]
    assert told == (0 if "never was" in name else 1), "three in a minute are one line in the log"
    assert not any(b"argon2" in raw for (raw,) in stage.alder.db.execute("SELECT raw FROM event"))
    _still_works(stage)
    stage.hub.run(lambda db: db.execute("UPDATE account SET disabled=0"))
    stage.hub.run(lambda db: roster.changed(db, stage.now))
    stage.talk(20)
    assert let_in(stage) == [("mallory", "ADMIN")], "what the hub says next holds"


@pytest.mark.parametrize(
    "what",
    [
        "a forged refusal",
        "a refusal with the right nonce",
        "a forged challenge",
        "a welcome",
        "a welcome by another key",
        "a welcome that was altered",
    ],
)
def test_a_returning_site_believes_nobody_but_its_hub(what: str, stage: Stage) -> None:
    returning(stage)
    said = next(m for p in reversed(stage.heard) if isinstance(m := messages.decode(p.data), Hello))
    # Mallory has the line, and the hub's challenge goes through.
    challenge = stage.hub.turn([Parcel(ALDER, messages.Lane.CONTROL, messages.encode(said))], stage.now)
    if "welcome" in what:
        proof = stage.alder.turn(challenge, True, stage.now)
        answers = stage.hub.turn(proof, stage.now)
        told = next(m for p in answers if isinstance(m := messages.decode(p.data), messages.Welcome))
        welcome = messages.Welcome(9, told.token, (), 1 << 20, 1)
    else:
        told = welcome = messages.Welcome(9, b"t" * 32, (), 1 << 20, 1)
    words: dict[str, Message] = {
        "a forged refusal": refusal(stage, b"n" * 16),
        "a refusal with the right nonce": refusal(stage, said.nonce),
        "a forged challenge": messages.Challenge(1, HUB, MALLORY.public_key().public_bytes_raw(), b"x" * 16, bytes(64)),
        "a welcome": messages.Welcome(9, b"t" * 32, (), 1 << 20, 1),
        "a welcome by another key": ordered(stage, welcome),
        "a welcome that was altered": msgspec.structs.replace(told, acked=(LogHead(ALDER, 1, 1, bytes(32)),)),
    }
    before = journal.read_identity(stage.alder.db)
    stage.alder.turn([Parcel(ALDER, messages.Lane.CONTROL, messages.encode(words[what]))], True, stage.now)
    assert not stage.alder.uplink.site.in_session
    assert journal.read_identity(stage.alder.db) == before
    stage.now += 15_000 * MS
    _still_works(stage)


def test_a_site_cannot_begin_a_new_generation_of_a_document_and_so_hide_what_others_said(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Alder is who it says it is, and lies: it plays the owner, and leaves out what the hub wrote."""
    stage.hub.edit(ALDER, "alder-1", {"notes": "do not fly"}, "Alice")
    stage.talk(10)
    assert shared.look(stage.alder.db, TENANT, "node", "alder-1").values["notes"].value == "do not fly"
    monkeypatch.setattr(document, "changes_max", 1)
    stage.alder.edit("alder-1", {"name": "fly"}, "Mallory")
    stage.alder.shared._owner = True
    stage.alder.edit("alder-1", {"notes": None, "name": "free"}, "Mallory")
    stage.talk(10)
    assert document.current(stage.hub.db, Id(TENANT, "node", "alder-1")).generation == 0
    assert shared.look(stage.hub.db, TENANT, "node", "alder-1").values["notes"].value == "do not fly"
    assert any("only its hub may" in reason for _, _, reason in stage.hub.aside)
    _still_works(stage)


def test_ten_thousand_mutated_messages_leave_nothing_behind(stage: Stage) -> None:
    """What was said in this session, with bytes changed, cut, repeated and joined; a twentieth of it towards the site."""
    chance = random.Random(13)
    stage.alder.write("more", events.TokenRevoked("more", "Alice"))
    stage.talk(10)
    said = [p.data for p in stage.heard if p.peer == ALDER]
    told = [p.data for p in stage.told if p.peer == ALDER]
    blocks, branches, receipts, *_ = _honest(stage)
    for number in range(MUTATED):
        towards_site = number % 20 == 0
        raw = bytearray(chance.choice(told if towards_site else said))
        for _ in range(chance.randrange(1, 4)):
            match chance.randrange(4):
                case 0:
                    raw[chance.randrange(len(raw))] ^= 1 << chance.randrange(8)
                case 1:
                    del raw[chance.randrange(1, len(raw) + 1) :]
                    raw = raw or bytearray(b"\x00")
                case 2:
                    raw[chance.randrange(len(raw)) :] = chance.choice(said)[: chance.randrange(1, 80)]
                case _:
                    raw += chance.choice(said)
        (stage.to_site if towards_site else stage.to_hub)(bytes(raw))
    after_blocks, after_branches, after_receipts, *_ = _honest(stage)
    assert set(blocks) <= set(after_blocks)
    assert branches == after_branches == []
    assert set(receipts) <= set(after_receipts)
    assert [one for one in journal.verify(stage.hub.db) if one.fault] == []
    assert {held.present.name for held in stage.hub.fleet.nodes.values()} == {"alder", "birch"}
    assert stage.hub.harbor.sessions[BIRCH].phase is Phase.LIVE
    stage.now += 70_000 * MS
    _still_works(stage)


def _honest(stage: Stage) -> tuple[Any, ...]:
    hub = stage.hub.db
    return (
        hub.execute("SELECT log_id, first_seq, hash FROM block").fetchall(),
        hub.execute("SELECT * FROM branch").fetchall(),
        hub.execute("SELECT site, number, content FROM receipt WHERE length(site_signature)>0").fetchall(),
    )
