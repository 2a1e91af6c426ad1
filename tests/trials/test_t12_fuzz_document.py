"""T12 for documents: 45,000 and more inputs, seeded; broken bytes, and whole changes with a wrong inside under a good
checksum. Each is read or refused with a sentence; what passes is merged in the confined child, which answers every
time; and what was merged can be read, merged on and saved again.
"""

from __future__ import annotations

import hashlib
import random
import sqlite3
import time
from collections import Counter
from collections.abc import Iterator

import pytest

from fleet import document as words
from fleet.document import Author, Id, Stamped
from fleet.events import Clock
from store import document
from store.document import Change, Fate, Incoming, Made, Unreadable, Work
from store.document_check import Checker

pytestmark = pytest.mark.trial

SEED = 12
DRONE = Id("fleet", "node", "01DRONE")
ALDER, BIRCH = Author("01ALDER", 1), Author("01BIRCH", 1)
MAGIC = b"\x85\x6f\x4a\x83"
RUNS = [
    b"\x00",
    b"\x01",
    b"\x7f",
    b"\x40",
    b"\xff\x00",
    b"\x80\x80\x80\x80\x04",
    b"\xff" * 9 + b"\x01",
    b"\x00\xff\xff\x3f",
]


@pytest.fixture(scope="module")
def checker() -> Iterator[Checker]:
    checker = Checker()
    yield checker
    checker.close()


def stamp(author: Author, hlc: int) -> Stamped:
    return Stamped(None, "Alice", *author, hlc, hlc, Clock.SYNCED)


class History:
    """Two authors' document, every change of it, and what stood before each."""

    def __init__(self, dice: random.Random) -> None:
        self.db = sqlite3.connect(":memory:", isolation_level=None)
        self.db.executescript(document.TABLES)
        self.changes: list[tuple[bytes, bytes]] = []  # what was saved before, the change
        for hlc in range(1, 40):
            values: dict[str, words.Value] = {"name": f"drone {hlc}"}
            if dice.random() < 0.5:
                values |= {
                    f"tags/{dice.choice('abcdef')}": dice.choice([True, None]),
                    "notes": "x" * dice.randrange(300),
                }
            before = document.current(self.db, DRONE).saved
            made = document.edit(self.db, DRONE, values, stamp(dice.choice([ALDER, BIRCH]), hlc))
            assert isinstance(made, Made)
            self.changes.append((before, made.changes[0]))


def mutated(raw: bytes, dice: random.Random) -> bytes:
    """One to three small harms: flips, cuts, repeats, insertions, and run lengths that are huge or nothing."""
    out = bytearray(raw)
    for _ in range(dice.randint(1, 3)):
        at = dice.randrange(len(out) + 1)
        match dice.randrange(6):
            case 0 | 1 if at < len(out):
                out[at] ^= 1 << dice.randrange(8)
            case 2:
                del out[at : at + dice.randint(1, 9)]
            case 3:
                out[at:at] = out[max(at - dice.randint(1, 30), 0) : at]
            case 4:
                out[at : at + 1] = dice.choice(RUNS)
            case _ if at < len(out):
                out[at] = dice.choice([0, 1, 2, 0x7E, 0x7F, 0x80, 0xFF])
    return bytes(out)


def chunk(body: bytes) -> bytes:
    length, size = b"", len(body)
    while size > 127:
        length, size = length + bytes([size & 127 | 128]), size >> 7
    content = b"\x01" + length + bytes([size]) + body
    return MAGIC + hashlib.sha256(content).digest()[:4] + content


def body(raw: bytes) -> bytes:
    at = 9
    while raw[at] > 127:
        at += 1
    return raw[at + 1 :]


def read(raw: bytes) -> Change | None:
    try:
        return document.decode(raw)
    except Unreadable as error:
        assert str(error)
        return None


def goes_on(merged: document.Merged) -> bool:
    """Whether people can go on writing over what was merged."""
    db = sqlite3.connect(":memory:", isolation_level=None)
    db.executescript(document.TABLES)
    document._store(db, DRONE, 0, merged)
    made = document.edit(db, DRONE, {"name": "goes on", "tags/a": True, "notes": None}, stamp(ALDER, 99))
    shown = document.look(db, DRONE)
    return isinstance(made, Made) and not shown.conflicts and shown.values["name"].value == "goes on"


def test_twelve_thousand_broken_changes() -> None:
    dice = random.Random(SEED)
    whole = [raw for _, raw in History(dice).changes]
    slowest = 0.0
    for _ in range(12_000):
        raw = mutated(dice.choice(whole), dice)
        began = time.thread_time()
        change = read(raw)
        slowest = max(slowest, time.thread_time() - began)
        assert change is None or raw in whole
    print(f"slowest {slowest * 1e3:.1f} ms")


def test_thirty_thousand_wrong_insides_under_a_good_checksum(checker: Checker) -> None:
    """Whatever the strict reader passes goes to the child, the schema's verdict or not; it answers every time."""
    dice = random.Random(SEED + 1)
    history = History(dice)
    passed: list[tuple[Work, bool]] = []
    for _ in range(30_000):
        before, raw = dice.choice(history.changes)
        change = read(chunk(mutated(body(raw), dice)))
        if change is not None:
            passed.append((Work(before, (change,)), document.wrong(DRONE, 0, change) is None))
    fates: Counter[str] = Counter()
    for (work, fit), merged in zip(passed, checker([work for work, _ in passed]), strict=True):
        fates[
            "ended" if merged is None else "applied" if merged.applied else "waiting" if merged.waiting else "refused"
        ] += 1
        if merged is None or not merged.applied:
            continue
        if fit:
            fates["fit"] += 1
            shown = document.read(DRONE.kind, merged.saved)
            assert all(words.wrong(DRONE.kind, pointer, one.value) is None for pointer, one in shown.values.items())
            again = document.merge(merged.saved, work.changes)
            assert again is not None
            assert again.known == (work.changes[0].hash,)
            assert goes_on(merged)
    print(dict(fates), "children", checker.started)
    assert fates["applied"] > 20
    assert fates["refused"] > 20


def test_four_thousand_changes_good_and_broken_through_the_front_door(checker: Checker) -> None:
    """Good and broken changes mixed and shuffled, in batches: the good ones all arrive, in the end."""
    dice = random.Random(SEED + 2)
    history = History(dice)
    whole = [raw for _, raw in history.changes]
    for _ in range(50):
        db = sqlite3.connect(":memory:", isolation_level=None)
        db.executescript(document.TABLES)
        inputs = whole + [chunk(mutated(body(dice.choice(whole)), dice)) for _ in whole]
        dice.shuffle(inputs)
        refused = 0
        while inputs:
            batch, inputs = inputs[:10], inputs[10:]
            for one in document.receive(db, [Incoming(DRONE, 0, raw) for raw in batch], checker, 1):
                assert (one.fate is Fate.REFUSED) == bool(one.reason)
                refused += one.fate is Fate.REFUSED
        assert refused
        row = document.current(db, DRONE)
        held = {one.raw for one in document.changes_since(db, document.Place(DRONE, 0), b"")}
        assert row.changes == len(held)
        assert set(whole) <= held or held - set(whole)  # only a change that took a good one's number keeps it out
        document.look(db, DRONE)
