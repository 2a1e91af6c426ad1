"""`sync.carrier`: what goes into one transaction, over a real link in memory."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence

from sync.carrier import TURN_S, Carrier, paced
from sync.link import Parcel
from sync.memory import Exchange
from sync.messages import PARCEL_BYTES_MAX, Lane

ALDER, BIRCH = "01M7Z00000000000000000ALDR", "01M7Z00000000000000000BRCH"


async def test_the_present_of_one_site_waits_for_two_transactions_at_most_and_not_for_the_history_of_another() -> None:
    exchange = Exchange(1)
    turns: list[list[Lane]] = []
    history, waited = 24, asyncio.Event()

    async def work(parcels: Sequence[Parcel]) -> Sequence[Parcel]:
        lanes = [parcel.lane for parcel in parcels]
        if lanes and not turns:
            await exchange.site(BIRCH).send(Parcel(BIRCH, Lane.SNAPSHOTS, b"now"))
            await asyncio.sleep(0.1)  # so that it is here while the first transaction goes on
        if lanes:
            turns.append(lanes)
        if sum(lane is Lane.LOG for turn in turns for lane in turn) == history:
            waited.set()
        return ()

    for end in (exchange.hub, exchange.site(ALDER), exchange.site(BIRCH)):
        await end.open()
    for _ in range(history):
        await exchange.site(ALDER).send(Parcel(ALDER, Lane.LOG, bytes(PARCEL_BYTES_MAX // 4)))
    running = asyncio.create_task(Carrier(exchange.hub, work).run())
    async with asyncio.timeout(20):
        await waited.wait()
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running
    assert Lane.SNAPSHOTS in (turns[1][0], turns[2][0])
    assert len(turns) > 3


def test_a_transaction_that_took_long_makes_the_next_one_smaller_and_a_short_one_makes_it_larger() -> None:
    assert paced(400_000, 400_000, 2 * TURN_S) == 200_000
    assert 400_000 < paced(400_000, 400_000, TURN_S / 3) < 3 * 400_000


def test_a_transaction_never_gets_so_small_or_so_large_that_it_serves_nobody() -> None:
    small = large = 400_000
    for _ in range(20):
        small, large = paced(small, small, 60.0), paced(large, large, 0.0)
    assert 0 < small < 400_000 < large < 4_000_000


def test_a_transaction_without_history_tells_nothing_of_how_much_may_be_in_one() -> None:
    assert paced(400_000, 0, 5.0) == 400_000
