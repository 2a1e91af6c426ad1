"""Authority under every schedule of partitions: sites and a hub that grant, take over, hand back and write, with clocks
that stand anywhere, hear of each other as late as the schedule likes.

Never do two owners have words in effect under one epoch, at whichever box; what is parked is there until somebody decides
on it; what holds is not undone by one who had lost the right to; and who holds the same comes to the same judgement.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from fleet import authority
from fleet.authority import HUB, Chain, Expiry, Homecoming, Judged, Names
from fleet.document import Author, Stamped, standing
from fleet.events import AuthorityBegan, AuthorityGranted, Body, Clock, Recorded
from fleet.node import Master
from fleet.projections import authority as projection

NORTH = "north"
PLACES = ("alder", "birch")
SITES = ("alder", "alder", "birch")  # more often than not it is alder, so that something comes of it
POINTERS = ("target_version", "target_version", "min_battery_pct", "name")
NAMES = Names("harbor", "the site")
LEASE_NS = 60
STRIDE = 1_000  # how far apart two clocks may be


class Change(NamedTuple):
    """A write as it travels: one word, over the words that its author had seen there."""

    pointer: str
    word: Stamped
    over: tuple[Stamped, ...]


class Said(NamedTuple):
    hlc: int
    what: Body | Change


class Box:
    """One end: what it holds of each site's document and of authority, and the logs that it writes."""

    def __init__(self, name: str) -> None:
        self.name, self.skew = name, 0
        self.hlc = 0
        self.state = projection.EMPTY
        self.words: dict[str, dict[str, list[Stamped]]] = {}  # place, pointer
        self.heard: dict[str, int] = {}  # writer → last stamp

    def tick(self) -> int:
        self.hlc = max(self.hlc + 1, self.skew)
        return self.hlc

    def chain(self, place: str) -> Chain:
        return projection.chain(self.state, NORTH, place)

    def judged(self, place: str) -> Judged:
        chain = self.chain(place)
        return authority.judge("node", self.words.get(place, {}), chain)

    def apply(self, place: str, change: Change) -> None:
        held = self.words.setdefault(place, {}).setdefault(change.pointer, [])
        gone = [one for one in held if one in change.over or one.author == change.word.author]
        self.words[place][change.pointer] = [*(one for one in held if one not in gone), change.word]

    def fold(self, writer: str, seq: int, said: Said, body: Body) -> None:
        fact = Recorded(0, writer, 1, seq, said.hlc, said.hlc, Clock.FREE_RUNNING, body.KIND, 1, NORTH, body)
        self.state = projection.advance(self.state, [fact])


class Schedules(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.hub = Box(HUB)
        self.sites = {name: Box(name) for name in PLACES}
        self.up: dict[str, list[Said]] = {name: [] for name in PLACES}
        self.down: dict[str, list[Said]] = {name: [] for name in PLACES}
        self.heard_up = dict.fromkeys(PLACES, 0)
        self.heard_down = dict.fromkeys(PLACES, 0)
        self.silent = dict.fromkeys(PLACES, 0)
        self.owners: dict[tuple[str, int], str] = {}
        self.count = 0

    # -- saying and hearing ---------------------------------------------------------------------------------------

    def writer(self, box: Box, place: str) -> str:
        return place if box is not self.hub else f"towards {place}"

    def say(self, box: Box, place: str, what: Body | Change, hlc: int) -> None:
        log = self.up[place] if box is not self.hub else self.down[place]
        said = Said(max(hlc, box.tick()), what)
        log.append(said)
        if isinstance(what, Change):
            box.apply(place, what)
        else:
            box.fold(self.writer(box, place), len(log), said, what)

    def hear(self, box: Box, place: str, writer: str, seq: int, said: Said) -> None:
        box.heard[writer] = said.hlc
        if not isinstance(said.what, Change):
            box.fold(writer, seq, said, said.what)
            return
        before = box.judged(place)
        box.apply(place, said.what)
        if box is not self.hub:
            self.say_again(box, place, before)
            self.no_stale_word_took_effect(box, place, said.what, before)

    def no_stale_word_took_effect(self, box: Box, place: str, change: Change, before: Judged) -> None:
        """Another than the hub held an epoch that the word's author had not heard of: all stands as it stood."""
        since = [claim for claim in box.chain(place).claims if claim.epoch > change.word.authority]
        if authority.fenced(change.pointer) and any(HUB not in authority.holders(one.terms, place) for one in since):
            then, now = before.view.values.get(change.pointer), box.judged(place).view.values.get(change.pointer)
            assert (then and then.value) == (now and now.value)
            held = [one.stamped for one in box.judged(place).parked]
            assert change.word in held or (now is not None and now.value == change.word.value)

    def say_again(self, box: Box, place: str, before: Judged) -> None:
        chain, after = box.chain(place), box.judged(place)
        if not chain.claims:
            return
        for pointer, lost in authority.overwritten(before.view, after.view).items():
            hlc, epoch = authority.again_at(chain, Author(place, 1), box.tick())
            word = Stamped(lost.value, lost.who, place, 1, hlc, 0, lost.clock, epoch, NORTH)
            self.say(box, place, Change(pointer, word, self.over(box, place, pointer)), 0)
        assert not authority.overwritten(before.view, box.judged(place).view)

    def over(self, box: Box, place: str, pointer: str) -> tuple[Stamped, ...]:
        parked = [one.stamped for one in box.judged(place).parked]
        return tuple(one for one in box.words.get(place, {}).get(pointer, ()) if one not in parked)

    # -- what happens ---------------------------------------------------------------------------------------------

    @initialize(home=st.sampled_from([*Homecoming]))
    def the_hub_decides_with_a_lease(self, home: Homecoming) -> None:
        self.bob_grants(set(PLACES), Master.GLOBAL, LEASE_NS, Expiry.CARRY_ON, home)
        for place in PLACES:
            self.all_is_heard(place)
            self.look(place, live=True)
            self.all_is_heard(place)

    @rule(box=st.sampled_from((HUB, *SITES)), skew=st.integers(0, STRIDE))
    def a_clock_jumps(self, box: str, skew: int) -> None:
        (self.hub if box == HUB else self.sites[box]).skew = skew

    @rule(
        where=st.sampled_from(SITES),
        at_hub=st.booleans(),
        pointer=st.sampled_from(POINTERS),
        clock=st.sampled_from([*Clock]),
        new=st.booleans(),
        asks=st.booleans(),
    )
    def somebody_writes(self, where: str, at_hub: bool, pointer: str, clock: Clock, new: bool, asks: bool) -> None:
        """A hub that does not ask whether it may is no harm to the site."""
        box = self.hub if at_hub else self.sites[where]
        chain, owner = box.chain(where), HUB if at_hub else where
        if (asks or not at_hub) and authority.refusal(chain, owner, [pointer], NAMES) is not None:
            return
        self.count += 1
        value = f"v{self.count if new else 0}"
        before = box.judged(where).parked
        writer = self.writer(box, where)
        word = Stamped(value, "Alice", writer, 1, box.tick(), 0, clock, chain.epoch, chain.subject)
        self.say(box, where, Change(pointer, word, self.over(box, where, pointer)), 0)
        self.still_parked(box, where, before, word)

    @rule(where=st.sampled_from(SITES), at_hub=st.booleans(), take=st.booleans())
    def somebody_settles(self, where: str, at_hub: bool, take: bool) -> None:
        box = self.hub if at_hub else self.sites[where]
        judged, chain, owner = box.judged(where), box.chain(where), HUB if at_hub else where
        if not judged.parked:
            return
        chosen = judged.parked[0]
        if authority.refusal(chain, owner, [chosen.pointer], NAMES) is not None:
            return
        holds = judged.view.values.get(chosen.pointer)
        value = chosen.stamped.value if take else holds.value if holds else None
        writer = self.writer(box, where)
        word = Stamped(value, "Bob", writer, 1, box.tick(), 0, Clock.SYNCED, chain.epoch, chain.subject)
        over = (*self.over(box, where, chosen.pointer), chosen.stamped)
        self.say(box, where, Change(chosen.pointer, word, over), 0)
        after = box.judged(where)
        assert chosen.stamped not in [one.stamped for one in after.parked]
        self.still_parked(box, where, judged.parked, word, but=chosen.stamped)

    def still_parked(
        self,
        box: Box,
        where: str,
        before: tuple[authority.Parked, ...],
        word: Stamped,
        but: Stamped | None = None,
    ) -> None:
        """What was parked waits on; only its own author may have written anew, and one of the same mind is at rest."""
        held = [one for of in box.words[where].values() for one in of]
        for one in before:
            assert one.stamped in held or one.stamped.author == word.author or one.stamped == but

    @rule(
        places=st.sets(st.sampled_from(SITES), min_size=1),
        master=st.sampled_from([*Master]),
        lease=st.sampled_from([0, LEASE_NS]),
        expiry=st.sampled_from([*Expiry]),
        home=st.sampled_from([*Homecoming]),
    )
    def bob_grants(self, places: set[str], master: Master, lease: int, expiry: Expiry, home: Homecoming) -> None:
        for place in sorted(places):
            epoch = self.hub.chain(place).epoch + 1
            body = AuthorityGranted(place, epoch, master, (), lease, expiry, home, "Bob", "why")
            self.say(self.hub, place, body, 0)

    @rule(where=st.sampled_from(SITES), ns=st.sampled_from((1, LEASE_NS, LEASE_NS)))
    def a_site_is_alone(self, where: str, ns: int) -> None:
        """For so long, and looks at its lease."""
        self.silent[where] += ns
        self.look(where, live=False)

    @rule(where=st.sampled_from(SITES), live=st.booleans())
    def a_site_is_in_session(self, where: str, live: bool) -> None:
        """LIVE is declared when all that happened there is with the hub."""
        self.silent[where] = 0
        if live:
            self.the_hub_hears(where, 1_000)
        self.look(where, live=live)

    def look(self, where: str, *, live: bool) -> None:
        wish = authority.step(self.sites[where].chain(where), silent_ns=self.silent[where], live=live)
        if wish is not None:
            self.begin(where, wish)

    @rule(where=st.sampled_from(SITES), pointer=st.sampled_from(POINTERS), late=st.booleans())
    def a_site_is_cut_off_while_the_hub_writes(self, where: str, pointer: str, late: bool) -> None:
        """The story that all this is for; what the hub wrote may come after the site has handed back."""
        self.somebody_writes(where, True, pointer, Clock.SYNCED, True, True)
        self.a_site_hears(where, 1_000)
        self.a_site_is_alone(where, LEASE_NS)
        self.somebody_writes(where, True, pointer, Clock.SYNCED, True, True)
        if not late:
            self.a_site_hears(where, 1_000)
        self.a_site_is_in_session(where, True)

    @rule(where=st.sampled_from(SITES))
    def alice_hands_back(self, where: str) -> None:
        wish = authority.handed_back(self.sites[where].chain(where))
        if wish is not None:
            self.begin(where, wish)

    def begin(self, where: str, wish: authority.Step) -> None:
        box = self.sites[where]
        stamp = box.tick()
        seen = ((where, 1, stamp), *((writer, 1, hlc) for writer, hlc in sorted(box.heard.items())))
        terms = wish.terms
        body = AuthorityBegan(
            wish.epoch,
            wish.cause,
            terms.master,
            terms.controllers,
            terms.lease_ns,
            terms.on_expiry,
            terms.on_return,
            seen,
            wish.grant,
        )
        before = box.judged(where)
        self.say(box, where, body, 0)
        assert box.judged(where).view == before.view or before.parked, "what holds at a site goes on holding"

    @rule(where=st.sampled_from(SITES), count=st.integers(1, 5))
    def the_hub_hears(self, where: str, count: int) -> None:
        for _ in range(min(count, len(self.up[where]) - self.heard_up[where])):
            seq = self.heard_up[where] = self.heard_up[where] + 1
            self.hear(self.hub, where, where, seq, self.up[where][seq - 1])

    @rule(where=st.sampled_from(SITES), count=st.integers(1, 5))
    def a_site_hears(self, where: str, count: int) -> None:
        for _ in range(min(count, len(self.down[where]) - self.heard_down[where])):
            seq = self.heard_down[where] = self.heard_down[where] + 1
            self.hear(self.sites[where], where, f"towards {where}", seq, self.down[where][seq - 1])

    @rule(where=st.sampled_from(SITES))
    def all_is_heard(self, where: str) -> None:
        """Both ends of one line come to hold the same."""
        while self.heard_up[where] < len(self.up[where]) or self.heard_down[where] < len(self.down[where]):
            self.a_site_hears(where, 1_000)
            self.the_hub_hears(where, 1_000)
        here, there = self.sites[where], self.hub
        assert here.chain(where) == there.chain(where)
        ours, theirs = here.judged(where), there.judged(where)
        assert ours == theirs
        pending = here.chain(where).pending
        claims = here.chain(where).claims
        overlapped = pending is not None and bool(claims) and pending.epoch <= claims[-1].epoch
        one_mind = overlapped and authority.holders(pending.terms, where) == authority.holders(claims[-1].terms, where)
        if overlapped and not one_mind and claims[-1].cause is not authority.Cause.ACCEPTED:
            assert here.chain(where).contests, "two who both believe it are named"

    # -- what always holds ------------------------------------------------------------------------------------------

    def in_effect(self) -> Iterator[tuple[str, Stamped]]:
        for box in (self.hub, *self.sites.values()):
            for place in PLACES:
                if box is self.hub or box.name == place:
                    parked = {one.stamped for one in box.judged(place).parked}
                    chain = box.chain(place)
                    for pointer, held in box.words.get(place, {}).items():
                        if authority.fenced(pointer):
                            for one in standing(held):
                                if one not in parked and authority.parked_because(one, chain) is None:
                                    yield place, one

    @invariant()
    def no_epoch_has_two_owners(self) -> None:
        for place, word in self.in_effect():
            if word.authority:
                owner = place if word.writer == place else HUB
                assert self.owners.setdefault((place, word.authority), owner) == owner

    @invariant()
    def each_epoch_is_begun_once(self) -> None:
        for name, box in self.sites.items():
            epochs = [claim.epoch for claim in box.chain(name).claims]
            assert epochs == sorted(set(epochs))


def test_no_schedule_of_partitions_makes_two_masters() -> None:
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        Schedules,
        settings=settings(
            max_examples=150, stateful_step_count=40, deadline=None, suppress_health_check=[*HealthCheck]
        ),
    )


@pytest.mark.trial
@pytest.mark.timeout(900)
def test_no_long_schedule_of_partitions_makes_two_masters() -> None:
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        Schedules,
        settings=settings(
            max_examples=500, stateful_step_count=100, deadline=None, suppress_health_check=[*HealthCheck]
        ),
    )
