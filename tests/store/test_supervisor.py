"""Background loops end when they are asked to, whatever a library does with the asking."""

from __future__ import annotations

import asyncio

from store.supervisor import Supervisor


async def test_a_loop_that_swallows_its_cancellation_is_asked_again() -> None:
    swallowed = []

    async def stubborn() -> None:
        while True:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                if swallowed:
                    raise
                swallowed.append(True)

    supervisor = Supervisor()
    supervisor.run("stubborn", stubborn)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    await asyncio.wait_for(supervisor.stop(), 30)
    assert swallowed == [True]


async def test_without_loops_there_is_nothing_to_wait_for() -> None:
    await Supervisor().stop()
