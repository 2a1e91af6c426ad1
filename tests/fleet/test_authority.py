"""Who may write what is wanted, which words take effect, and what a site does by itself: one case each."""

from __future__ import annotations

import pytest

from fleet import authority
from fleet.authority import (
    HUB,
    Cause,
    Chain,
    Claim,
    Expiry,
    Grant,
    Homecoming,
    Names,
    Seen,
    Terms,
    chain_of,
    judge,
    refusal,
    step,
    until,
)
from fleet.document import Stamped, encode
from fleet.document import decode as decode_stamp
from fleet.events import Clock
from fleet.limits import MINUTE
from fleet.node import Master

ALDER, TOWARDS, NORTH = "01ALDER", "01TOWARDSALDER", "north"
NAMES = Names("harbor", "alder")
LEASED = Terms(Master.GLOBAL, (), 10 * MINUTE)


def claim(epoch: int, cause: Cause = Cause.ACCEPTED, terms: Terms = LEASED, *seen: Seen, log_epoch: int = 1) -> Claim:
    return Claim(log_epoch, 10 * epoch, epoch, cause, terms, seen, epoch if cause is Cause.ACCEPTED else 1, 0, "", "")


def grant(hlc: int, epoch: int, terms: Terms = LEASED) -> Grant:
    return Grant(hlc, TOWARDS, epoch, terms, 0, "Bob", "why")


def taken(epoch: int, terms: Terms = LEASED, *seen: Seen) -> Claim:
    return claim(epoch, Cause.TAKEN, terms._replace(master=Master.LOCAL), *seen)


def word(value: str, writer: str, hlc: int, under: int = 0, clock: Clock = Clock.SYNCED) -> Stamped:
    return Stamped(value, "Bob", writer, 1, hlc, 0, clock, under, NORTH if under else "")


def line(*claims: Claim, grant: Grant | None = None) -> Chain:
    return chain_of(NORTH, ALDER, claims, grant)


# -- which words take effect -------------------------------------------------------------------------------------------


def test_without_authority_everything_is_as_it_was() -> None:
    words = {"target_version": [word("1", ALDER, 1), word("2", TOWARDS, 2)]}
    found = judge("node", words, line())
    assert found.view.values["target_version"].value == "2"
    assert len(found.view.conflicts) == 1
    assert found.parked == ()


def test_a_word_of_before_takes_effect_when_the_first_epoch_had_seen_it() -> None:
    first = claim(1, Cause.ACCEPTED, LEASED, Seen(ALDER, 1, 5), Seen(TOWARDS, 1, 5))
    found = judge("node", {"target_version": [word("1", ALDER, 5)]}, line(first))
    assert found.view.values["target_version"].value == "1"


def test_a_word_under_a_stale_epoch_is_parked_and_says_why() -> None:
    chain = line(claim(1), taken(2, LEASED, Seen(TOWARDS, 1, 5), Seen(ALDER, 1, 9)))
    found = judge("node", {"target_version": [word("2", TOWARDS, 6, 1), word("1", ALDER, 10, 2)]}, chain)
    assert found.view.values["target_version"].value == "1"
    (parked,) = found.parked
    assert parked.stamped.value == "2"
    assert parked.why == "It was written under epoch 1; the site began epoch 2 without having seen it."


def test_a_later_clock_makes_no_stale_word_good() -> None:
    chain = line(claim(1), taken(2, LEASED, Seen(TOWARDS, 1, 5), Seen(ALDER, 1, 9)))
    found = judge("node", {"target_version": [word("2", TOWARDS, 1 << 60, 1), word("1", ALDER, 10, 2)]}, chain)
    assert found.view.values["target_version"].value == "1"


def test_whoever_did_not_hold_the_epoch_is_parked() -> None:
    found = judge("node", {"target_version": [word("1", ALDER, 5, 1)]}, line(claim(1)))
    assert found.view.values == {}
    assert "another’s" in found.parked[0].why


def test_a_word_of_an_epoch_that_nobody_here_knows_waits() -> None:
    found = judge("node", {"target_version": [word("1", ALDER, 5, 7)]}, line(claim(1)))
    assert "nothing is known here" in found.parked[0].why


def test_who_held_it_all_along_is_not_stale() -> None:
    chain = line(claim(1), claim(2, Cause.ACCEPTED, LEASED, Seen(TOWARDS, 1, 3)))
    found = judge("node", {"target_version": [word("2", TOWARDS, 6, 1)]}, chain)
    assert found.view.values["target_version"].value == "2"


def test_names_tags_and_notes_are_nobodys_to_command() -> None:
    chain = line(claim(1), taken(2))
    found = judge("node", {"notes": [word("its arm is bent", TOWARDS, 6)]}, chain)
    assert found.view.values["notes"].value == "its arm is bent"
    assert not found.parked


def test_a_stale_word_of_one_mind_with_what_holds_is_no_matter_for_anybody() -> None:
    chain = line(claim(1), taken(2, LEASED, Seen(ALDER, 1, 9)))
    found = judge("node", {"target_version": [word("2", TOWARDS, 6, 1), word("2", ALDER, 10, 2)]}, chain)
    assert found.parked == ()


def test_a_stamp_of_before_authority_is_still_read() -> None:
    former = b'["1","Bob","01ALDER",1,5,0,2]'
    assert decode_stamp(former.decode()) == word("1", ALDER, 5)
    assert decode_stamp(encode(word("1", ALDER, 5, 3)).decode()).authority == 3


# -- what a site does ----------------------------------------------------------------------------------------------


def test_a_site_accepts_what_follows_on_what_it_has() -> None:
    wish = step(line(claim(1), grant=grant(2, 2)), silent_ns=0, live=True)
    assert wish is not None
    assert (wish.epoch, wish.cause, wish.grant) == (2, Cause.ACCEPTED, 2)


def test_a_site_takes_over_when_its_lease_has_run_out_and_not_before() -> None:
    chain = line(claim(1))
    assert step(chain, silent_ns=10 * MINUTE - 1, live=False) is None
    wish = step(chain, silent_ns=10 * MINUTE, live=False)
    assert wish is not None
    assert (wish.epoch, wish.cause, wish.terms.master) == (2, Cause.TAKEN, Master.LOCAL)


def test_a_lease_of_nothing_never_runs_out() -> None:
    assert step(line(claim(1, Cause.ACCEPTED, Terms())), silent_ns=1 << 62, live=False) is None


@pytest.mark.parametrize("home", [*Homecoming])
def test_back_in_session_it_is_handed_back_or_kept_as_the_terms_say(home: Homecoming) -> None:
    chain = line(claim(1), taken(2, LEASED._replace(on_return=home)), grant=grant(1, 1))
    assert step(chain, silent_ns=0, live=False) is None
    wish = step(chain, silent_ns=0, live=True)
    assert (wish.cause if wish else None) == (Cause.RETURNED if home is Homecoming.HAND_BACK else None)


def test_a_grant_that_a_taking_overlapped_is_not_accepted_and_is_named() -> None:
    local = Terms(Master.LOCAL, ("01BIRCH",))
    chain = line(claim(1), taken(2, LEASED._replace(on_return=Homecoming.KEEP)), grant=grant(9, 2, local))
    assert step(chain, silent_ns=0, live=True) is None
    (contest,) = chain.contests
    assert (contest.epoch, contest.holder, contest.other) == (2, ALDER, "01BIRCH")
    settled = line(*chain.claims, claim(3)._replace(grant=10), grant=grant(10, 3))
    assert settled.contests == ()


def test_a_place_that_was_set_back_goes_on_from_where_it_stood_and_its_lost_epochs_are_contests() -> None:
    chain = line(claim(1), taken(2), claim(3), claim(2, Cause.TAKEN, LEASED, log_epoch=2))
    assert [(one.epoch, one.log_epoch) for one in chain.claims] == [(1, 1), (2, 2)]
    assert {one.epoch for one in chain.contests} == {2, 3}


# -- who may write -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expiry", "pointer", "may"),
    [
        (Expiry.CARRY_ON, "target_version", True),
        (Expiry.SAFE_SUBSET, "target_version", False),
        (Expiry.SAFE_SUBSET, "min_battery_pct", True),
        (Expiry.FREEZE, "min_battery_pct", False),
        (Expiry.FREEZE, "notes", True),
        (Expiry.READ_ONLY, "notes", False),
        (Expiry.CARRY_ON, "constraints/temp_c", True),
        (Expiry.SAFE_SUBSET, "constraints/temp_c", False),
    ],
)
def test_alone_a_site_edits_what_its_terms_allow(expiry: Expiry, pointer: str, may: bool) -> None:
    chain = line(claim(1), taken(2, LEASED._replace(on_expiry=expiry)))
    assert (refusal(chain, ALDER, [pointer], NAMES) is None) is may


def test_whoever_does_not_decide_is_told_who_does_and_what_to_do() -> None:
    chain = line(claim(1))
    assert refusal(chain, HUB, ["target_version"], NAMES) is None
    said = refusal(chain, ALDER, ["target_version"], NAMES) or ""
    assert said.startswith("harbor decides what is wanted here (epoch 1). Change it at harbor, or wait")
    said = refusal(line(claim(1), taken(2)), HUB, ["target_version"], NAMES) or ""
    assert said.startswith("alder decides")
    assert "Take it back under Authority" in said


def test_what_the_hub_handed_over_it_writes_no_more_though_the_site_has_not_heard() -> None:
    chain = line(claim(1), grant=grant(9, 2, Terms(Master.LOCAL)))
    assert "has not heard of it yet" in (refusal(chain, HUB, ["target_version"], NAMES) or "")


def test_a_node_is_moved_to_another_domain_by_whoever_decides_there() -> None:
    assert refusal(line(claim(1)), ALDER, [authority.MEMBERSHIP], NAMES) is not None


def test_until_when_is_known_from_the_last_word() -> None:
    assert until(line(claim(1)), 5) == 5 + 10 * MINUTE
    assert until(line(claim(1), taken(2)), 5) is None
    assert until(line(), 5) is None
