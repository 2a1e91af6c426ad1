"""What waits to be taken, and the link in memory whose faults come from a seed."""

from __future__ import annotations

import asyncio

from sync.inbox import Inbox
from sync.link import Parcel
from sync.memory import Exchange, Faults
from sync.messages import Lane


async def taken(inbox: Inbox) -> str:
    found = await inbox.take()
    assert found is not None
    return f"{found[0].peer} {found[0].lane.name} {found[0].data.decode()}"


async def test_lanes_by_urgency_and_a_turn_for_each_peer() -> None:
    inbox = Inbox()
    for lane in (Lane.SEGMENTS, Lane.LOG):
        for peer in ("alder", "alder", "alder", "birch", "birch"):
            inbox.put(Parcel(peer, lane, b"%d" % inbox.held(peer, lane)))
    came = [await taken(inbox) for _ in range(10)]
    turns = ["alder {} 0", "birch {} 0", "alder {} 1", "birch {} 1", "alder {} 2"]
    assert came == [turn.format(lane) for lane in ("LOG", "SEGMENTS") for turn in turns]
    assert inbox.held_in(*Lane) == 0


async def test_what_finds_no_room_is_refused_and_only_snapshots_push_out_their_elders() -> None:
    inbox = Inbox(peer_lane_bytes_max=2)
    assert [inbox.put(Parcel("alder", Lane.LOG, b"%d" % n)) for n in range(3)] == [True, True, False]
    assert [inbox.put(Parcel("alder", Lane.SNAPSHOTS, b"%d" % n)) for n in range(3)] == [True, True, True]
    assert inbox.put(Parcel("birch", Lane.LOG, b"0"))
    assert inbox.refused == 2
    assert [await taken(inbox) for _ in range(2)] == ["alder SNAPSHOTS 1", "alder SNAPSHOTS 2"]


async def test_all_together_have_a_bound_too() -> None:
    inbox = Inbox(bytes_max=2)
    assert [inbox.put(Parcel(peer, Lane.LOG, b"x")) for peer in ("alder", "birch", "mallory")] == [True, True, False]
    inbox.clear(Lane.LOG)
    assert inbox.put(Parcel("mallory", Lane.LOG, b"x"))


async def test_who_gives_up_waiting_takes_nothing_from_the_next() -> None:
    inbox = Inbox()
    first, second = (asyncio.create_task(inbox.take()) for _ in range(2))
    await asyncio.sleep(0)
    inbox.put(Parcel("alder", Lane.LOG, b"x"))
    first.cancel()
    assert await second == (Parcel("alder", Lane.LOG, b"x"), "")


async def test_memory_loses_repeats_and_delays_as_its_seed_says() -> None:
    async def run(seed: int) -> list[int]:
        exchange = Exchange(seed, Faults(loss=0.2, repeat=0.2, delay_s_max=0.01, late_s_max=0.02))
        alder = exchange.site("alder")
        for end in (exchange.hub, alder):
            await end.open()
        for number in range(200):
            await alder.send(Parcel("alder", Lane.LOG, bytes([number])))
        await asyncio.sleep(0.1)
        came = []
        for _ in range(exchange.hub.tally().received):
            parcel = await exchange.hub.receive()
            assert parcel is not None
            came.append(parcel.data[0])
        return came

    one, again, other = await run(1), await run(1), await run(2)
    assert sorted(one) == sorted(again) != sorted(other)
    assert len(set(one)) < 200 < len(one) * 2
    assert len(one) > len(set(one))
    assert list(dict.fromkeys(one)) != one  # a second copy came after later ones


async def test_memory_keeps_the_order_of_first_copies_whatever_the_delay() -> None:
    exchange = Exchange(3, Faults(delay_s_max=0.02))
    alder = exchange.site("alder")
    for end in (exchange.hub, alder):
        await end.open()
    for number in range(100):
        await exchange.hub.send(Parcel("alder", Lane.LOG, bytes([number])))
    assert [(await alder.receive()).data[0] for _ in range(100)] == list(range(100))  # type: ignore[union-attr]
