from __future__ import annotations

import hashlib
import random
import resource
import sqlite3
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import msgspec
import pytest
from automerge import core
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fleet import document as words
from fleet.document import Author, Id, Stamped, Value, View
from fleet.events import Clock
from store import document, document_check
from store.document import Fate, Incoming, Made, Merged, Outcome, Place, Refused, Work
from store.document_check import Checker

DRONE = Id("fleet", "node", "01DRONE")
ALDER, BIRCH, HARBOR = Author("01ALDER", 1), Author("01BIRCH", 1), Author("01HARBOR", 1)
WHO = {ALDER: "Alice", BIRCH: "Bob", HARBOR: "Mallory"}


def merged_here(work: Sequence[Work]) -> list[Merged | None]:
    """A check without a process of its own, for changes that are our own."""
    return [document.merge(one.saved, one.changes, one.doubles) for one in work]


class Box:
    """The documents of one box, and whoever writes there."""

    def __init__(self, author: Author, check: document.Check = merged_here) -> None:
        self.author, self.check = author, check
        self.db = sqlite3.connect(":memory:", isolation_level=None)
        self.db.executescript(document.TABLES)
        self.hlc = 0

    def stamp(self, hlc: int | None = None, clock: Clock = Clock.SYNCED) -> Stamped:
        self.hlc = self.hlc + 1 if hlc is None else hlc
        return Stamped(None, WHO[self.author], *self.author, self.hlc, self.hlc * 1_000, clock)

    def try_edit(self, values: Mapping[str, Value], hlc: int | None = None, of: Id = DRONE) -> Made | Refused | None:
        return document.edit(self.db, of, values, self.stamp(hlc))

    def edit(self, values: Mapping[str, Value], hlc: int | None = None, of: Id = DRONE) -> list[Incoming]:
        return sent(self.try_edit(values, hlc, of), self.author)

    def take(self, *incoming: Incoming) -> list[Outcome]:
        return document.receive(self.db, incoming, self.check, 1)

    def fates(self, *incoming: Incoming) -> list[Fate]:
        return [outcome.fate for outcome in self.take(*incoming)]

    @property
    def view(self) -> View:
        return document.look(self.db, DRONE)

    @property
    def values(self) -> dict[str, Value]:
        return {pointer: one.value for pointer, one in self.view.values.items()}

    def heads(self) -> document.Heads:
        return document.heads(self.db, "fleet")

    def waiting(self) -> int:
        return int(self.db.execute("SELECT count(*) FROM document_waiting").fetchone()[0])


def sent(made: Made | Refused | None, author: Author | None = None) -> list[Incoming]:
    assert isinstance(made, Made), made
    return [Incoming(made.document, made.generation, raw, author) for raw in made.changes]


def synced(one: Box, other: Box) -> None:
    """Both ends compare and send what differs."""
    for place in document.differing(one.heads(), other.heads()):
        there, here = other.heads().get(place, b""), one.heads().get(place, b"")
        forth, back = document.changes_since(one.db, place, there), document.changes_since(other.db, place, here)
        other.take(*forth)
        one.take(*back)


@pytest.fixture
def alder() -> Box:
    return Box(ALDER)


@pytest.fixture
def birch() -> Box:
    return Box(BIRCH)


@pytest.fixture(scope="module")
def checker() -> Iterator[Checker]:
    checker = Checker()
    yield checker
    checker.close()


# -- two people, one document ----------------------------------------------------------------------------------


def test_what_is_written_is_read(alder: Box) -> None:
    alder.edit({"name": "drone-01", "tags/scout": True, "min_battery_pct": 20.5, "requires_online": True})
    assert alder.values == {"name": "drone-01", "tags/scout": True, "min_battery_pct": 20.5, "requires_online": True}
    assert alder.view.values["name"] == msgspec.structs.replace(alder.stamp(1), value="drone-01")


def test_a_document_that_nobody_wrote_in_is_empty(alder: Box) -> None:
    assert alder.view == View({}, ())


def test_an_edit_that_changes_nothing_makes_no_change(alder: Box) -> None:
    assert alder.try_edit({"name": None}) is None
    alder.edit({"name": "drone-01"})
    assert alder.try_edit({"name": "drone-01"}) is None
    assert len(alder.edit({"name": None})) == 1
    assert alder.values == {"name": None}


def test_concurrent_edits_of_one_field_are_both_kept_and_shown(alder: Box, birch: Box) -> None:
    birch.take(*alder.edit({"name": "drone"}))
    from_alder, from_birch = alder.edit({"name": "north"}, hlc=7), birch.edit({"name": "south"}, hlc=9)
    assert alder.fates(*from_birch) == birch.fates(*from_alder) == [Fate.APPLIED]
    assert alder.view == birch.view
    (conflict,) = alder.view.conflicts
    assert (conflict.effective.value, conflict.effective.who) == ("south", "Bob")
    (other,) = conflict.others
    assert (other.value, other.who, other.writer, other.hlc, other.wall_ns, other.clock) == (
        "north",
        "Alice",
        "01ALDER",
        7,
        7_000,
        Clock.SYNCED,
    )


def test_one_click_takes_the_other_value_and_both_ends_agree(alder: Box, birch: Box) -> None:
    from_alder, from_birch = alder.edit({"name": "north"}, hlc=7), birch.edit({"name": "south"}, hlc=9)
    alder.take(*from_birch)
    birch.take(*from_alder)
    (conflict,) = birch.view.conflicts
    alder.take(*birch.edit({"name": conflict.others[0].value}))
    assert alder.view == birch.view
    assert alder.view.conflicts == ()
    assert alder.values == {"name": "north"}


def test_taking_the_value_that_holds_already_settles_the_conflict_too(alder: Box, birch: Box) -> None:
    alder.edit({"name": "north"}, hlc=7)
    alder.take(*birch.edit({"name": "south"}, hlc=9))
    alder.edit({"name": "south"}, hlc=10)
    assert (alder.values, alder.view.conflicts) == ({"name": "south"}, ())


def test_a_conflict_stays_open_whatever_else_is_written_and_merged(alder: Box, birch: Box) -> None:
    alder.edit({"name": "north"}, hlc=7)
    birch.edit({"name": "south"}, hlc=9)
    for round_ in range(5):
        synced(alder, birch)
        alder.edit({"notes": f"alder {round_}"})
        birch.edit({"maintenance_window": f"birch {round_}"})
    synced(alder, birch)
    assert alder.view == birch.view
    assert [one.pointer for one in alder.view.conflicts] == ["name"]


def test_two_resolutions_at_once_are_a_conflict_again(alder: Box, birch: Box) -> None:
    alder.edit({"name": "north"}, hlc=7)
    birch.edit({"name": "south"}, hlc=9)
    synced(alder, birch)
    alder.edit({"name": "east"}, hlc=11)
    birch.edit({"name": "west"}, hlc=12)
    synced(alder, birch)
    (conflict,) = alder.view.conflicts
    assert (conflict.effective.value, [one.value for one in conflict.others]) == ("west", ["east"])


def test_different_fields_merge_silently(alder: Box, birch: Box) -> None:
    alder.edit({"name": "drone-01"})
    birch.edit({"notes": "left rotor changed"})
    synced(alder, birch)
    assert alder.view == birch.view
    assert alder.values == {"name": "drone-01", "notes": "left rotor changed"}
    assert alder.view.conflicts == ()


def test_two_tags_added_at_once_are_both_there(alder: Box, birch: Box) -> None:
    alder.edit({"tags/scout": True})
    birch.edit({"tags/relay": True})
    synced(alder, birch)
    assert words.entries(alder.view, "tags/") == words.entries(birch.view, "tags/") == ["relay", "scout"]


def test_a_tag_that_was_seen_can_be_taken_away(alder: Box, birch: Box) -> None:
    alder.edit({"tags/scout": True, "tags/relay": True})
    synced(alder, birch)
    birch.edit({"tags/scout": None})
    synced(alder, birch)
    assert words.entries(alder.view, "tags/") == ["relay"]
    assert alder.view.values["tags/scout"].who == "Bob"


def test_a_tag_taken_away_here_and_written_there_is_a_conflict(alder: Box, birch: Box) -> None:
    alder.edit({"acknowledged/a1": "Alice has it"}, hlc=1)
    synced(alder, birch)
    alder.edit({"acknowledged/a1": "Alice is on her way"}, hlc=5)
    birch.edit({"acknowledged/a1": None}, hlc=4)
    synced(alder, birch)
    (conflict,) = birch.view.conflicts
    assert (conflict.effective.value, conflict.others[0].value) == ("Alice is on her way", None)


steps = st.lists(
    st.tuples(
        st.sampled_from([0, 1, 2]),
        st.sampled_from(["name", "notes", "tags/a", "tags/b", "sync"]),
        st.sampled_from([None, "x", "y", "z"]),
        st.integers(1, 50),
    ),
    max_size=14,
)


@settings(max_examples=120, suppress_health_check=[HealthCheck.too_slow])
@given(steps, st.randoms(use_true_random=False))
def test_all_ends_converge_in_every_order_and_however_often_they_hear(
    history: list[tuple[int, str, str | None, int]], dice: random.Random
) -> None:
    boxes = [Box(ALDER), Box(BIRCH), Box(HARBOR)]
    every: list[Incoming] = []
    for who, what, value, wait in history:
        box = boxes[who]
        if what == "sync":
            synced(box, boxes[(who + 1) % 3])
            continue
        box.hlc += wait
        made = box.try_edit({what: value if "/" not in what else (value is not None or None)})
        every += sent(made, box.author) if made else []
    views: list[View] = []
    for box in boxes:
        heard = every * 2
        dice.shuffle(heard)
        for one in heard:
            assert box.take(one)[0].fate is not Fate.REFUSED
        assert box.waiting() == 0
        views.append(box.view)
    assert views[0] == views[1] == views[2]
    assert boxes[0].heads() == boxes[1].heads() == boxes[2].heads()


# -- on the way ------------------------------------------------------------------------------------------------


def test_a_change_whose_dependency_is_missing_waits(alder: Box, birch: Box) -> None:
    first, second, third = (alder.edit({"name": name})[0] for name in ("a", "b", "c"))
    assert birch.fates(third) == [Fate.WAITING]
    assert birch.fates(third, second) == [Fate.WAITING, Fate.WAITING]
    assert birch.values == {}
    outcomes = birch.take(first)
    assert {(one.raw, one.fate) for one in outcomes} == {(each.raw, Fate.APPLIED) for each in (first, second, third)}
    assert birch.waiting() == 0
    assert birch.view == alder.view


def test_a_change_that_is_here_changes_nothing(alder: Box, birch: Box) -> None:
    (change,) = alder.edit({"name": "a"})
    assert birch.fates(change) == [Fate.APPLIED]
    before = birch.db.total_changes
    assert birch.fates(change, change) == [Fate.KNOWN]
    assert birch.db.total_changes == before


def test_so_many_changes_may_wait_and_no_more(birch: Box, alder: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(document, "waiting_max", 2)
    changes = [alder.edit({"name": str(number)})[0] for number in range(5)]
    outcomes = birch.take(*changes[1:])
    assert [one.fate for one in outcomes] == [Fate.WAITING, Fate.WAITING, Fate.REFUSED, Fate.REFUSED]
    assert outcomes[3].reason == document._TOO_MANY
    assert birch.waiting() == 2
    birch.take(changes[0])
    birch.take(*changes)
    assert birch.view == alder.view


def test_one_batch_brings_changes_of_many_documents(alder: Box, birch: Box, checker: Checker) -> None:
    names = [Id("fleet", kind, f"{number}") for kind in words.Kind for number in range(20)]
    changes = [alder.edit({"name": f"{each.id}"}, of=each)[0] for each in names]
    birch.check = checker
    assert set(birch.fates(*changes)) == {Fate.APPLIED}
    assert birch.heads() == alder.heads()


# -- actors ----------------------------------------------------------------------------------------------------


def test_an_actor_belongs_to_one_log_and_one_document() -> None:
    every = {
        document.actor_id(Id(tenant, kind, name), Author(writer, epoch))
        for tenant in ("fleet", "other")
        for kind in words.Kind
        for name in ("a", "b")
        for writer in ("01ALDER", "01BIRCH")
        for epoch in (1, 2)
    }
    assert len(every) == 2 * 4 * 2 * 2 * 2
    assert {len(one) for one in every} == {16}
    assert document.actor_id(DRONE, ALDER) == document.actor_id(DRONE, Author("01ALDER", 1))


def test_a_thousand_edits_have_one_actor(alder: Box) -> None:
    for number in range(50):
        alder.edit({"name": f"drone-{number}"})
    changes = document.changes_since(alder.db, Place(DRONE, 0), b"")
    assert {document.decode(one.raw).actor for one in changes} == {document.actor_id(DRONE, ALDER)}
    assert [document.decode(one.raw).seq for one in changes] == list(range(1, 51))


def test_a_clone_is_named(alder: Box, birch: Box) -> None:
    """The same log on two cards: one number, two contents."""
    clone = Box(ALDER)
    (first,) = alder.edit({"name": "a"})
    clone.take(first)
    mine, other = alder.edit({"name": "b"})[0], clone.edit({"name": "c"})[0]
    assert birch.fates(first, mine) == [Fate.APPLIED, Fate.APPLIED]
    assert birch.fates(other) == [Fate.DOUBLED]
    assert birch.fates(other) == [Fate.KNOWN], "it is named once"
    assert birch.values == {"name": "b"}
    both = Box(BIRCH).take(first, mine, other)
    assert sorted(one.fate for one in both) == [Fate.APPLIED, Fate.APPLIED, Fate.DOUBLED]


def test_what_builds_on_a_clones_change_is_its_work_too_whichever_comes_first(alder: Box, birch: Box) -> None:
    clone = Box(ALDER)
    (first,) = alder.edit({"name": "a"})
    clone.take(first)
    (mine,) = alder.edit({"name": "b"})
    others = [clone.edit({"notes": text})[0] for text in ("c", "d", "e")]
    assert birch.fates(first, mine) == [Fate.APPLIED, Fate.APPLIED]
    assert birch.fates(others[2]) == [Fate.WAITING]
    assert birch.fates(others[0], others[1]) == [Fate.DOUBLED] * 3
    assert birch.waiting() == 0


def test_the_words_of_a_second_copy_stand_beside_the_firsts_and_both_ends_meet_again(alder: Box, birch: Box) -> None:
    """Birch plays the hub; the copy that stays is the one whose words came second."""
    clone, doubles = Box(ALDER), list[Incoming]()
    (first,) = alder.edit({"name": "a", "notes": "n"})
    clone.take(first)
    (mine,) = alder.edit({"name": "b"})
    doubles += clone.edit({"name": "c"}, hlc=50)
    doubles += clone.edit({"name": "d"}, hlc=60)
    birch.take(first, mine)
    assert birch.fates(*doubles) == [Fate.DOUBLED, Fate.DOUBLED]
    said = sent(document.rotate(birch.db, DRONE, BIRCH), BIRCH)
    for one in doubles:
        made, whole = document.beside(birch.db, DRONE, one.raw, BIRCH)
        assert whole
        said += sent(made, BIRCH)
    (conflict,) = birch.view.conflicts
    assert {conflict.effective.value, *(one.value for one in conflict.others)} == {"b", "d"}
    assert conflict.effective.who == "Alice, on a second copy"

    assert clone.fates(*said) == [Fate.APPLIED] * len(said)
    assert clone.fates(mine) == [Fate.DOUBLED], "to the copy, the other is the second"
    document.give_way(clone.db, DRONE)
    lacking = document.changes_since(birch.db, document.Place(DRONE, 0), b"")
    clone.take(*(one._replace(author=None) for one in lacking))
    assert clone.heads() == birch.heads()
    assert clone.view == birch.view


def test_a_word_of_the_owner_itself_is_not_written_over_by_a_second_copys(alder: Box, birch: Box) -> None:
    clone = Box(ALDER)
    (first,) = alder.edit({"name": "a"})
    clone.take(first)
    (mine,) = alder.edit({"notes": "b"})
    (other,) = clone.edit({"name": "c"})
    birch.take(first, mine)
    birch.edit({"name": "harbor's"})
    assert birch.fates(other) == [Fate.DOUBLED]
    document.rotate(birch.db, DRONE, BIRCH)
    assert document.beside(birch.db, DRONE, other.raw, BIRCH) == (None, False)
    assert birch.values["name"] == "harbor's"


def test_what_builds_on_a_refused_change_waits_and_is_applied_once_that_is_taken_in(alder: Box, birch: Box) -> None:
    first, second = alder.edit({"name": "a"})[0], alder.edit({"name": "b"})[0]
    birch.check = lambda work: [None] * len(work)
    (refused,) = birch.take(first)
    assert (refused.fate, refused.reason) == (Fate.REFUSED, document._TOO_HEAVY)
    birch.check = merged_here
    assert birch.fates(second) == [Fate.WAITING]
    assert birch.fates(first) == [Fate.APPLIED, Fate.APPLIED]


# -- what is refused -------------------------------------------------------------------------------------------


def raw_change(puts: Mapping[str, object], author: Author = ALDER, of: Id = DRONE) -> bytes:
    """A first change with any content, by a box that is not ours."""
    made = core.Document(document.actor_id(of, author))
    with made.transaction() as transaction:
        for key, value in puts.items():
            if isinstance(value, core.ObjType):
                transaction.put_object(core.ROOT, key, value)
            elif isinstance(value, int):
                transaction.put(core.ROOT, key, core.ScalarType.Int, value)
            elif isinstance(value, bytes):
                transaction.put(core.ROOT, key, core.ScalarType.Bytes, value)
            else:
                transaction.put(core.ROOT, key, core.ScalarType.Str, str(value))
    return bytes(made.get_changes([])[0].raw_bytes)


def slot(author: Author = ALDER) -> str:
    return document.actor_id(DRONE, author).hex()[:16]


def text(value: Value = "x", author: Author = ALDER, **wrong: object) -> str:
    stamp = Stamped(value, "Alice", *author, 1, 1, Clock.SYNCED)
    return words.encode(msgspec.structs.replace(stamp, **wrong)).decode()


def reason(box: Box, raw: bytes, author: Author | None = ALDER, generation: int = 0, of: Id = DRONE) -> str:
    (outcome,) = box.take(Incoming(of, generation, raw, author))
    assert outcome.fate is Fate.REFUSED
    assert outcome.raw == raw
    assert box.heads() == {}
    return outcome.reason


def test_what_a_box_of_another_make_writes_in_our_form_is_taken(birch: Box) -> None:
    raw = raw_change({f"{slot()}/name": text("x"), f"{slot()}/mood": text("of a newer version")})
    assert birch.fates(Incoming(DRONE, 0, raw, ALDER)) == [Fate.APPLIED]
    assert birch.values == {"name": "x"}


@pytest.mark.parametrize(
    ("puts", "words_of_it"),
    [
        ({f"{slot()}/name": text(7)}, "name is text"),
        ({f"{slot()}/name": text("x" * 600)}, "name is text"),
        ({f"{slot()}/min_battery_pct": text(500)}, "0 to 100"),
        ({f"{slot()}/name": "hello"}, "cannot be read"),
        ({f"{slot()}/name": text("x", who="")}, "who wrote it"),
        ({f"{slot()}/name": text("x", author=BIRCH)}, "in another's name"),
        ({f"{slot(BIRCH)}/name": text("x", author=BIRCH)}, "in another author's place"),
        ({f"{slot()}.{slot(BIRCH)}/name": text("x", author=BIRCH)}, "in another author's place"),
        ({f"{slot()}/@0": "00" * 32}, "carries over what is not there"),
        ({"name": text()}, "has no author"),
        ({f"{slot()}/": text()}, "has no author"),
        ({f"{slot()}/name": 7}, "more than put and delete"),
        ({f"{slot()}/name": b"bytes"}, "more than put and delete"),
        ({f"{slot()}/name": core.ObjType.Map}, "more than put and delete"),
        ({f"{slot()}/name": core.ObjType.Text}, "more than put and delete"),
        ({f"{slot()}/tags/{number}": text() for number in range(1_025)}, "more than 1,024 things"),
    ],
)
def test_a_change_of_the_wrong_form_is_refused(birch: Box, puts: dict[str, object], words_of_it: str) -> None:
    assert words_of_it in reason(birch, raw_change(puts))


def test_a_change_in_anothers_name_or_for_another_document_is_refused(birch: Box) -> None:
    raw = raw_change({f"{slot()}/name": text()})
    assert "another's name" in reason(birch, raw, author=BIRCH)
    assert "another" in reason(birch, raw, author=None, of=DRONE._replace(id="01OTHER"))
    assert "no documents of that kind" in reason(birch, raw, of=DRONE._replace(kind="starship"))
    assert "generation" in reason(birch, raw, generation=-1)


def uleb(number: int) -> bytes:
    out = b""
    while number > 127:
        out, number = out + bytes([number & 127 | 128]), number >> 7
    return out + bytes([number])


def chunk(kind: int, body: bytes) -> bytes:
    content = bytes([kind]) + uleb(len(body)) + body
    return b"\x85\x6f\x4a\x83" + hashlib.sha256(content).digest()[:4] + content


def test_a_bomb_is_refused_before_it_is_opened(birch: Box) -> None:
    squeezed = zlib.compressobj(wbits=-15)
    deflated = squeezed.compress(bytes(1 << 26)) + squeezed.flush()
    assert "not one plain change" in reason(birch, chunk(2, deflated))
    assert "over the limit" in reason(birch, chunk(2, deflated * 3))
    whole = core.Document(bytes(16)).save()
    assert "not one plain change" in reason(birch, whole)


def runs(count: int, longest: frozenset[int] = frozenset([0x15, 0x34, 0x42, 0x56, 0x70])) -> bytes:
    """A change that puts one field `count` times over, in under a hundred bytes; columns that are not in `longest` say
    once."""
    key = f"{slot()}/name".encode()
    columns = {0x15: bytes([len(key)]) + key, 0x34: b"", 0x42: b"\x01", 0x56: b"\x06", 0x70: b"\x00"}
    run = uleb(count)
    parts = {name: (run if name in longest else b"\x01") + column for name, column in columns.items()}
    head = b"\x00\x10" + document.actor_id(DRONE, ALDER) + b"\x01\x01\x00\x00\x00" + bytes([len(parts)])
    body = head + b"".join(bytes([name, len(raw)]) for name, raw in parts.items()) + b"".join(parts.values())
    return chunk(1, body)


def test_a_change_that_says_it_does_a_hundred_million_things_is_refused(birch: Box) -> None:
    """A run length is a few bytes, however long the run."""
    every = frozenset([0x15, 0x34, 0x42, 0x56, 0x70])
    assert "more than 1,024 things" in reason(birch, runs(100_000_000))
    for one in every:
        assert reason(birch, runs(100_000_000, frozenset([one])))
        assert reason(birch, runs(100_000_000, every - {one}))


def test_a_change_cut_at_any_byte_is_refused(alder: Box, birch: Box) -> None:
    (change,) = alder.edit({"name": "a", "tags/b": True})
    for cut in range(len(change.raw)):
        assert reason(birch, change.raw[:cut])
    assert reason(birch, change.raw + b"\x00")


def test_a_change_that_does_not_count_on_is_refused(alder: Box, birch: Box) -> None:
    (first,) = alder.edit({"name": "a"})
    body = bytearray(first.raw[first.raw.index(document.actor_id(DRONE, ALDER)) - 2 :])
    assert body[18:20] == b"\x01\x01"
    for seq, start_op, sentence in ((1, 5, "does not count on"), (3, 1, "skips one")):
        body[18:20] = bytes([seq, start_op])
        assert sentence in reason(birch, chunk(1, bytes(body)))


# -- the checker -----------------------------------------------------------------------------------------------


def test_what_takes_too_much_ends_the_child_and_only_that_document_is_refused(alder: Box) -> None:
    """The child is given what no parent lets through."""
    checker = Checker()
    good = Work(document.EMPTY, tuple(document.decode(one.raw) for one in alder.edit({"name": "a"})))
    first, second, third = checker([good, Work(runs(5_000_000), ()), good])
    assert second is None
    assert first == third == document.merge(good.saved, good.changes)
    assert checker.started == 2
    checker.close()


class Bomb(NamedTuple):
    """A check that dies of some changes."""

    hashes: frozenset[bytes]

    def __call__(self, work: Sequence[Work]) -> list[Merged | None]:
        deadly = [any(change.hash in self.hashes for change in one.changes) for one in work]
        return [None if dies else merged_here([one])[0] for one, dies in zip(work, deadly, strict=True)]


def test_a_change_that_is_too_heavy_takes_no_other_with_it(alder: Box, birch: Box) -> None:
    first, second = alder.edit({"name": "a"})[0], alder.edit({"name": "b"})[0]
    heavy = Incoming(DRONE, 0, raw_change({f"{slot(BIRCH)}/name": text("x", BIRCH)}, BIRCH), BIRCH)
    birch.check = Bomb(frozenset([document.decode(heavy.raw).hash]))
    outcomes = birch.take(second, heavy, first)
    assert {one.raw: one.fate for one in outcomes} == {
        first.raw: Fate.APPLIED,
        second.raw: Fate.APPLIED,
        heavy.raw: Fate.REFUSED,
    }
    assert birch.view == alder.view


def test_only_so_many_heavy_changes_are_tried_one_by_one(alder: Box, birch: Box) -> None:
    changes = [alder.edit({"name": str(number)})[0] for number in range(6)]
    tried = []

    def check(work: Sequence[Work]) -> list[Merged | None]:
        tried.append(len(work))
        return [None] * len(work)

    birch.check = check
    assert set(birch.fates(*changes)) == {Fate.REFUSED}
    assert len(tried) == 1 + document.heavy_max


def test_a_box_outlives_its_checker(alder: Box, birch: Box) -> None:
    birch.check = checker = Checker()
    assert birch.fates(*alder.edit({"name": "a"})) == [Fate.APPLIED]
    assert checker._child is not None
    checker._child.kill()
    checker._child.wait()
    assert birch.fates(*alder.edit({"name": "b"})) == [Fate.APPLIED]
    checker.close()
    assert birch.fates(*alder.edit({"name": "c"})) == [Fate.APPLIED]
    assert checker.started == 3
    checker.close()


def test_a_batch_may_be_larger_than_a_request(monkeypatch: pytest.MonkeyPatch, alder: Box, checker: Checker) -> None:
    monkeypatch.setattr(document_check, "batch_bytes_max", 1_000)
    (change,) = alder.edit({"name": "a"})
    work = [Work(document.EMPTY, (document.decode(change.raw),))] * 30
    assert checker(work) == merged_here(work)
    assert checker([]) == []


def test_only_the_child_is_confined(alder: Box, birch: Box, checker: Checker) -> None:
    birch.check = checker
    birch.take(*alder.edit({"name": "a"}))
    assert checker._child is not None
    soft, _ = resource.prlimit(checker._child.pid, resource.RLIMIT_AS)
    assert 0 < soft < 1 << 30
    assert resource.getrlimit(resource.RLIMIT_AS)[0] == resource.RLIM_INFINITY


# -- limits and the next generation ----------------------------------------------------------------------------


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(document, "changes_max", 5)


@pytest.mark.usefixtures("small")
def test_a_full_document_takes_no_more_edits_and_says_what_to_do(alder: Box) -> None:
    for number in range(5):
        alder.edit({"name": str(number)})
    made = alder.try_edit({"name": "one more"})
    assert isinstance(made, Refused)
    assert "next generation" in made.reason
    assert document.current(alder.db, DRONE).full


@pytest.mark.usefixtures("small")
def test_beyond_twice_the_limit_nothing_of_others_is_taken_either(alder: Box, birch: Box) -> None:
    document.changes_max = 100
    changes = [alder.edit({"name": str(number)})[0] for number in range(11)]
    document.changes_max = 5
    assert set(birch.fates(*changes[:10])) == {Fate.APPLIED}
    (refused,) = birch.take(changes[10])
    assert (refused.fate, refused.reason) == (Fate.REFUSED, document._FULL)


def test_a_document_too_large_is_refused(alder: Box, birch: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    (change,) = alder.edit({"notes": random.Random(1).randbytes(4_000).hex()})
    monkeypatch.setattr(document, "saved_bytes_max", 1_000)
    assert reason(birch, change.raw) == document._FULL
    assert isinstance(birch.try_edit({"notes": random.Random(2).randbytes(4_000).hex()}), Refused)


@pytest.mark.parametrize("values", [{"name": 7}, {"mood": "sunny"}, {"tags": True}, {"name": "\n" * 10, "notes": 1}])
def test_an_edit_that_the_schema_does_not_know_is_refused(alder: Box, values: dict[str, Value]) -> None:
    assert isinstance(alder.try_edit(values), Refused)
    assert alder.heads() == {}


def test_the_next_generation_holds_all_that_stands(alder: Box, birch: Box) -> None:
    alder.edit({"name": "north", "tags/a": True, "tags/b": True}, hlc=1)
    birch.edit({"name": "south"}, hlc=2)
    synced(alder, birch)
    alder.edit({"tags/b": None})
    synced(alder, birch)
    before = alder.view
    base = sent(document.rotate(alder.db, DRONE, ALDER), ALDER)
    assert set(birch.fates(*base)) == {Fate.APPLIED}
    assert alder.view == birch.view
    assert alder.view.conflicts == before.conflicts
    assert alder.view.values == {name: one for name, one in before.values.items() if name != "tags/b"}
    assert document.current(birch.db, DRONE).generation == 1
    assert document.current(birch.db, DRONE).changes == len(base) == 1
    birch.edit({"name": "east"}, hlc=9)
    synced(alder, birch)
    assert alder.view == birch.view
    assert alder.view.conflicts == ()
    assert document.carry(alder.db, DRONE, ALDER, owner=True) is None
    assert document.carry(birch.db, DRONE, BIRCH) is None


def test_what_was_written_while_the_owner_rotated_is_carried_over_by_whoever_wrote_it(alder: Box, birch: Box) -> None:
    alder.edit({"name": "north", "notes": "old"}, hlc=1)
    synced(alder, birch)
    late = birch.edit({"name": "south", "tags/b": True}, hlc=2)
    birch.take(*sent(document.rotate(alder.db, DRONE, ALDER), ALDER))
    carried = sent(document.carry(birch.db, DRONE, BIRCH), BIRCH)
    (conflict,) = birch.view.conflicts
    assert (conflict.effective.value, conflict.others[0].value) == ("south", "north")
    assert words.entries(birch.view, "tags/") == ["b"]
    assert document.carry(birch.db, DRONE, BIRCH) is None
    assert set(alder.fates(*carried, *late)) == {Fate.APPLIED}
    assert alder.view == birch.view
    made = document.carry(alder.db, DRONE, ALDER, owner=True)
    assert made is not None
    birch.take(*sent(made, ALDER))
    assert alder.view == birch.view
    assert document.carry(alder.db, DRONE, ALDER, owner=True) is None


def test_the_owner_carries_over_what_comes_late_from_one_who_is_gone(alder: Box, birch: Box) -> None:
    alder.edit({"name": "north"}, hlc=1)
    synced(alder, birch)
    late = birch.edit({"name": "south"}, hlc=2)
    document.rotate(alder.db, DRONE, ALDER)
    document.rotate(alder.db, DRONE, ALDER)
    alder.take(*late)
    assert alder.values == {"name": "north"}
    made = document.carry(alder.db, DRONE, ALDER, owner=True)
    assert isinstance(made, Made)
    assert made.generation == 2
    assert [one.effective.value for one in alder.view.conflicts] == ["south"]
    alder.edit({"name": "north"}, hlc=3)
    assert document.carry(alder.db, DRONE, ALDER, owner=True) is None
    assert (alder.values, alder.view.conflicts) == ({"name": "north"}, ())
    synced(alder, birch)
    synced(alder, birch)
    assert birch.view == alder.view
    assert birch.heads() == alder.heads()


def test_half_a_next_generation_is_not_shown(alder: Box, birch: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(document, "carried_bytes_max", 100)
    alder.edit({"name": "north", "notes": "x" * 90, "kind": "EDGE"})
    synced(alder, birch)
    before = birch.view
    base = sent(document.rotate(alder.db, DRONE, ALDER), ALDER)
    assert len(base) > 2
    for change in base[:-1]:
        assert birch.fates(change) == [Fate.APPLIED]
        assert (birch.view, document.current(birch.db, DRONE).generation) == (before, 0)
    birch.take(base[-1])
    assert (birch.view, document.current(birch.db, DRONE).generation) == (before, 1)


def test_only_the_owner_begins_a_new_generation(alder: Box, birch: Box) -> None:
    alder.edit({"name": "north", "notes": "Alice's word"}, hlc=1)
    synced(alder, birch)
    birch.edit({"notes": None}, hlc=2)
    stolen = sent(document.rotate(birch.db, DRONE, BIRCH))
    before = alder.view
    for author in (BIRCH, None):  # in a log of its own, and by way of a comparison of heads
        incoming = [one._replace(author=author) for one in stolen]
        outcomes = document.receive(alder.db, incoming, alder.check, 0, owners=lambda: [ALDER])
        assert [one.fate for one in outcomes] == [Fate.REFUSED]
        assert "only its hub may" in outcomes[0].reason
    assert alder.view == before
    own = [one._replace(author=None) for one in sent(document.rotate(alder.db, DRONE, ALDER))]
    (known,) = document.receive(alder.db, own, alder.check, 0, owners=lambda: [ALDER])
    assert known.fate is Fate.KNOWN


def test_there_is_no_next_generation_of_nothing(alder: Box) -> None:
    assert isinstance(document.rotate(alder.db, DRONE, ALDER), Refused)
    assert document.carry(alder.db, DRONE, ALDER, owner=True) is None


# -- comparing -------------------------------------------------------------------------------------------------


def test_equal_ends_have_one_root(alder: Box, birch: Box) -> None:
    for number in range(50):
        alder.edit({"name": "x"}, of=DRONE._replace(id=str(number)))
    assert document.digest(alder.heads()) != document.digest(birch.heads())
    synced(alder, birch)
    mine, theirs = document.digest(alder.heads()), document.digest(birch.heads())
    assert mine.root == theirs.root
    assert document.differing_buckets(mine, theirs) == []


def test_a_lost_change_is_found_by_its_bucket_and_sent_again(alder: Box, birch: Box) -> None:
    names = [DRONE._replace(id=str(number)) for number in range(200)]
    for each in names:
        alder.edit({"name": "x"}, of=each)
    synced(alder, birch)
    alder.edit({"name": "lost"}, of=names[17])
    (bucket,) = document.differing_buckets(document.digest(alder.heads()), document.digest(birch.heads()))
    here, there = (document.heads(box.db, "fleet", [bucket]) for box in (alder, birch))
    assert 0 < len(here) < 20
    (place,) = document.differing(here, there)
    assert place == Place(names[17], 0)
    lost = document.changes_since(alder.db, place, there[place])
    assert len(lost) == 1
    assert birch.fates(*lost) == [Fate.APPLIED]
    assert birch.heads() == alder.heads()
    assert document.changes_since(alder.db, place, birch.heads()[place]) == []


def test_another_tenants_documents_are_not_compared(alder: Box) -> None:
    alder.edit({"name": "x"}, of=DRONE._replace(tenant="other"))
    assert alder.heads() == {}


# -- the past ------------------------------------------------------------------------------------------------------


def then(box: Box, stamp: int) -> dict[str, Value] | None:
    view = document.as_of(box.db, DRONE, stamp)
    return None if view is None else {pointer: one.value for pointer, one in view.values.items()}


def test_a_document_is_read_as_it_stood_at_a_moment_whenever_its_words_came(alder: Box, birch: Box) -> None:
    (first,) = alder.edit({"name": "a"}, hlc=10)
    birch.take(first)
    (late,) = alder.edit({"name": "b", "notes": "n"}, hlc=20)
    birch.edit({"name": "c"}, hlc=30)
    assert then(birch, 9) is None
    assert [then(birch, at) for at in (10, 25, 30)] == [{"name": "a"}, {"name": "a"}, {"name": "c"}]
    birch.take(late)
    assert then(birch, 25) == {"name": "b", "notes": "n"}, "what came late falls into its own place"
    assert then(birch, 99) == birch.values


def test_a_moment_before_a_new_generation_is_read_from_the_old_one(alder: Box) -> None:
    alder.edit({"name": "a"}, hlc=10)
    alder.edit({"name": "b"}, hlc=20)
    document.rotate(alder.db, DRONE, ALDER)
    alder.edit({"name": "c"}, hlc=30)
    assert [then(alder, at) for at in (9, 10, 20, 30)] == [None, {"name": "a"}, {"name": "b"}, {"name": "c"}]
