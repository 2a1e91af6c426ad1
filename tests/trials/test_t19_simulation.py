"""T19: the real core of a hub and its sites under everything that goes wrong, in virtual time. A run is its seed.

The change tier is `LARGE` fleets of `SITES` and `SMALL` ones of 2 to 4, on every core. At rest A to G hold; every fault and
every row of the table of states was seen a hundred times. A seed that ever failed stands in `FOUND` for good, as the run
it was then.
"""

from __future__ import annotations

import multiprocessing
import os
from collections import Counter

import pytest

from sync.protocol import TABLE, Cause, State
from tests.simulation.schedule import run, sites_of

LARGE, SITES = 200, 50
SMALL = 56
TIMES_MIN = 100
FOUND = (
    (1, 3, "a present's times were off by less than a millisecond"),
    (4, 3, "Released was said with each receipt and undid the level: receipts without end"),
    (103, 4, "two copies of a site took one welcome, and spoke in one session"),
)
FAULTS = (
    "a clock jumped",
    "a line with bytes_per_s",
    "a line with delay_ns",
    "a line with jitter_ns",
    "a line with loss",
    "a line with twice",
    "a message of an unknown kind",
    "a message with fields of a newer version",
    "a partition",
    "a reset in the middle",
    "a site was killed before it sent",
    "a site was killed before its commit",
    "a transaction of the hub fell",
    "a transaction of the site fell",
    "a write fell before its commit",
    "an event of an unknown kind",
    "half open: nothing goes down",
    "half open: nothing goes up",
    "the hub was killed before it sent",
    "the hub was killed before its commit",
    "a cloned card",
    "an old image was restored",
    "the hub was restored from an old copy",
    "a person released a site",
    "a segment was dropped before it was sent",
    "a site was held",
    "a burst while the log stands still",
)

pytestmark = pytest.mark.trial


def test_the_same_seed_is_the_same_run_to_the_last_byte() -> None:
    assert run(11, 3).hash == run(11, 3).hash != run(12, 3).hash


@pytest.mark.parametrize(("seed", "sites", "found"), FOUND)
def test_a_seed_that_once_failed_holds(seed: int, sites: int, found: str) -> None:
    assert run(seed, sites, rare=False).problems == (), found


@pytest.mark.timeout(3600)
def test_whatever_goes_wrong_nothing_is_lost_and_all_come_to_rest() -> None:
    counts: Counter[str] = Counter()
    turns: Counter[tuple[State, Cause]] = Counter()
    failed: list[str] = []
    seeds = range(LARGE + SMALL)
    sites = [SITES if seed < LARGE else sites_of(seed) for seed in seeds]
    # Fresh processes now and then: a fork of the one that runs the tests would inherit how seldom a box looks for cycles.
    with multiprocessing.get_context("spawn").Pool(os.cpu_count(), maxtasksperchild=8) as pool:
        for made in pool.starmap(run, zip(seeds, sites, strict=True), chunksize=1):
            counts.update(made.counts)
            turns.update(made.turns)
            failed += [f"{made.again}: {problem}" for problem in made.problems]
        pool.close()
        pool.join()
    print(f"\n{len(seeds)} seeds, {sum(sites)} sites: {dict(sorted(counts.items()))}\n{dict(sorted(turns.items()))}")
    assert failed == []
    assert {what: counts[what] for what in FAULTS if counts[what] < TIMES_MIN} == {}
    assert {step: turns[step] for step in TABLE if turns[step] < TIMES_MIN} == {}
