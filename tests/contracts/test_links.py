"""The promises of `sync.link`, for every adapter (`LINKS`); then what only the wire must withstand."""

from __future__ import annotations

import asyncio
import random
import resource
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from nats.aio.client import Client

from store.keys import new_secret
from sync.jetstream import HubEnd, inbox_of, subject, user_of
from sync.link import Link, LinkDown, Parcel
from sync.messages import PARCEL_BYTES_MAX, Lane
from tests.contracts.rig_bundle import Sticks
from tests.contracts.rigs import ALDER, BIRCH, RIGS, TENANT, JetStream, Rig, running, until

LINKS = {**RIGS, "stick": Sticks}
pytestmark = pytest.mark.filterwarnings("ignore:parameter 'timeout' of type 'float':DeprecationWarning")  # nats-py


@pytest.fixture(params=LINKS)
async def rig(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Rig]:
    async with running(LINKS[request.param](), tmp_path) as made:
        yield made


@pytest.fixture(params=("nats", "ws"))
async def wire(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[JetStream]:
    async with running(made := JetStream(scheme=request.param), tmp_path):
        yield made


async def persist(link: Link, parcel: Parcel) -> None:
    """As the replicator does it: again, until the line has it."""
    while True:
        try:
            return await link.send(parcel)
        except LinkDown:
            await asyncio.sleep(0.02)


async def until_came(link: Link, data: bytes) -> list[Parcel]:
    """What came, up to the parcel with these bytes."""
    came: list[Parcel] = []
    while not came or came[-1].data != data:
        parcel = await link.receive()
        assert parcel is not None
        came.append(parcel)
    return came


# -- 1: whole and unchanged -------------------------------------------------------------------------------------


@pytest.mark.parametrize("lane", Lane)
async def test_a_parcel_arrives_whole_and_unchanged_both_ways(rig: Rig, lane: Lane) -> None:
    hub, alder, dice = await rig.hub(), await rig.site(ALDER), random.Random(1)
    for size in (0, 1, 4_096, PARCEL_BYTES_MAX):
        parcel = Parcel(ALDER, lane, dice.randbytes(size))
        for sender, receiver in ((alder, hub), (hub, alder)):
            await sender.send(parcel)
            assert await receiver.receive() == parcel


async def test_parcels_of_one_lane_keep_their_order(rig: Rig) -> None:
    hub, alder = await rig.hub(), await rig.site(ALDER)
    for lane in Lane:
        for number in range(200):
            await alder.send(Parcel(ALDER, lane, b"%d" % number))
        assert [(await hub.receive()).data for _ in range(200)] == [b"%d" % number for number in range(200)]  # type: ignore[union-attr]


async def test_senders_may_send_at_once(rig: Rig) -> None:
    hub, alder = await rig.hub(), await rig.site(ALDER)
    sent = {bytes([number]) * 100_000 for number in range(100)}
    sends = [asyncio.create_task(alder.send(Parcel(ALDER, Lane.LOG, data))) for data in sent]
    came = {(await hub.receive()).data for _ in sent}  # type: ignore[union-attr]
    await asyncio.gather(*sends)
    assert came == sent


# -- urgency and fairness ----------------------------------------------------------------------------------------


async def test_of_what_waits_the_most_urgent_lane_comes_first(rig: Rig) -> None:
    hub, alder = await rig.hub(), await rig.site(ALDER)
    for lane in reversed(Lane):
        for _ in range(3):
            await hub.send(Parcel(ALDER, lane, lane.name.encode()))
    await until(lambda: alder.tally().received == 12)
    came = [await alder.receive() for _ in range(12)]
    assert [one.lane for one in came if one] == [lane for lane in Lane for _ in range(3)]


async def test_a_site_with_a_backlog_does_not_keep_another_from_its_turn(rig: Rig) -> None:
    hub, alder, birch = await rig.hub(), await rig.site(ALDER), await rig.site(BIRCH)
    backlog = [asyncio.create_task(alder.send(Parcel(ALDER, Lane.LOG, bytes(256 * 1024)))) for _ in range(60)]
    await until(lambda: hub.tally(ALDER).received > 0)
    live = asyncio.create_task(birch.send(Parcel(BIRCH, Lane.LOG, b"live")))
    await until(lambda: hub.tally(BIRCH).received == 1)
    came = await until_came(hub, b"live")
    assert len(came) <= 2
    for _ in range(60 - len(came) + 1):
        await hub.receive()
    await asyncio.gather(live, *backlog)


# -- 2: who it is ------------------------------------------------------------------------------------------------


async def test_the_hub_knows_whose_parcel_it_is_and_a_site_sees_only_its_own(rig: Rig) -> None:
    hub, alder, birch = await rig.hub(), await rig.site(ALDER), await rig.site(BIRCH)
    await alder.send(Parcel(BIRCH, Lane.CONTROL, b"I am birch"))
    assert await hub.receive() == Parcel(ALDER, Lane.CONTROL, b"I am birch")
    await hub.send(Parcel(BIRCH, Lane.CONTROL, b"for birch"))
    assert await birch.receive() == Parcel(BIRCH, Lane.CONTROL, b"for birch")
    await hub.send(Parcel(ALDER, Lane.CONTROL, b"for alder"))
    assert await alder.receive() == Parcel(ALDER, Lane.CONTROL, b"for alder")
    assert alder.tally().received == birch.tally().received == 1


# -- 3, 4: down and up again -------------------------------------------------------------------------------------


async def test_in_a_cut_there_is_no_line_and_the_other_site_does_not_notice(rig: Rig) -> None:
    hub, alder, birch = await rig.hub(), await rig.site(ALDER), await rig.site(BIRCH)
    await rig.cut(ALDER)
    assert not alder.up
    assert alder.problem
    for lane in Lane:
        with pytest.raises(LinkDown, match=r"\w+ \w+"):
            await alder.send(Parcel(ALDER, lane, b"into the sea"))
    await birch.send(Parcel(BIRCH, Lane.LOG, b"here"))
    assert await hub.receive() == Parcel(BIRCH, Lane.LOG, b"here")
    assert birch.up


async def test_after_a_cut_the_same_ends_go_on(rig: Rig) -> None:
    hub, alder = await rig.hub(), await rig.site(ALDER)
    waiting = asyncio.create_task(alder.receive())
    for number in range(3):
        await rig.cut(ALDER)
        await rig.restore(ALDER)
        assert alder.problem == ""
        for lane in Lane:
            await alder.send(Parcel(ALDER, lane, b"%d %d" % (number, lane)))
            await until_came(hub, b"%d %d" % (number, lane))
    await hub.send(Parcel(ALDER, Lane.CONTROL, b"welcome"))
    assert await waiting == Parcel(ALDER, Lane.CONTROL, b"welcome")


async def test_after_close_nothing_is_sent_and_receiving_ends(rig: Rig) -> None:
    hub, alder = await rig.hub(), await rig.site(ALDER)
    for end in (alder, hub):
        waiting = asyncio.create_task(end.receive())
        await asyncio.sleep(0)
        await end.close()
        assert await waiting is None
        assert await end.receive() is None
        assert not end.up
        assert end.problem
        with pytest.raises(LinkDown):
            await end.send(Parcel(ALDER, Lane.CONTROL, b"too late"))


# -- 6: bounds ---------------------------------------------------------------------------------------------------


async def test_a_parcel_that_is_too_large_is_a_mistake_of_ours(rig: Rig) -> None:
    hub, alder = await rig.hub(), await rig.site(ALDER)
    for end in (hub, alder):
        with pytest.raises(ValueError, match="are the most"):
            await end.send(Parcel(ALDER, Lane.LOG, bytes(PARCEL_BYTES_MAX + 1)))


async def test_without_room_sending_waits_until_somebody_takes(rig: Rig) -> None:
    hub, alder = await rig.hub(), await rig.site(ALDER)
    sends = [
        asyncio.create_task(alder.send(Parcel(ALDER, Lane.SEGMENTS, bytes([number]) * 800_000)))
        for number in range(120)
    ]
    await asyncio.wait(sends, timeout=3)  # long enough for all, if there were no bound
    assert not all(one.done() for one in sends)
    assert alder.up
    came = {(await hub.receive()).data[0] for _ in sends}  # type: ignore[union-attr]
    await asyncio.gather(*sends)
    assert came == set(range(120))
    await until(lambda: alder.problem == "")


async def test_what_went_over_is_counted_per_peer(rig: Rig) -> None:
    hub, alder, birch = await rig.hub(), await rig.site(ALDER), await rig.site(BIRCH)
    for end, peer, size in ((alder, ALDER, 1_000), (birch, BIRCH, 2_000)):
        await end.send(Parcel(peer, Lane.LOG, bytes(size)))
        await hub.receive()
        await hub.send(Parcel(peer, Lane.LOG, bytes(size)))
        await end.receive()
        for tally in (end.tally(), hub.tally(peer)):
            assert (tally.sent, tally.received) == (1, 1)
            assert size <= tally.sent_bytes < size + 200
            assert size <= tally.received_bytes < size + 200
    assert hub.tally().received == 2
    assert hub.tally().received_bytes == hub.tally(ALDER).received_bytes + hub.tally(BIRCH).received_bytes


# -- the wire: who it is -----------------------------------------------------------------------------------------


async def test_with_a_wrong_password_a_site_never_comes_up_and_says_so(wire: JetStream) -> None:
    end = await wire.end_of(ALDER, new_secret("sks"))
    await end.open()
    await until(lambda: "does not know this name and password" in end.problem)
    assert not end.up
    await end.close()


async def mallory_at_alder(wire: JetStream, said: list[str]) -> Client:
    """Mallory holds alder's password, and a client that does what it is told."""

    async def refused(error: Exception) -> None:
        said.append(str(error))

    client = Client()
    await client.connect(
        wire.broker.url,
        user=user_of(TENANT, ALDER),
        password=wire.passwords[ALDER],
        inbox_prefix=inbox_of(TENANT, ALDER),
        error_cb=refused,
    )
    return client


async def test_a_site_cannot_speak_as_another_nor_listen_to_it(wire: JetStream) -> None:
    hub, alder, birch = await wire.hub(), await wire.site(ALDER), await wire.site(BIRCH)
    said: list[str] = []
    mallory = await mallory_at_alder(wire, said)
    for lane in Lane:
        await mallory.publish(subject(TENANT, "up", BIRCH, lane), b"\x01I am birch")
        await mallory.publish(subject(TENANT, "down", BIRCH, lane), b"\x01I am the hub")
    await mallory.publish("$JS.API.STREAM.DELETE.LOG_fleet", b"")
    heard = [
        await mallory.subscribe(f"{of}.>")
        for of in (f"sk.{TENANT}.down.{BIRCH}", f"sk.{TENANT}.up.{BIRCH}", inbox_of(TENANT, BIRCH), "_INBOX", "$JS")
    ]
    await mallory.subscribe(">")
    await mallory.flush()
    await until(lambda: len(said) >= 9 + 6)
    assert all("permissions violation" in one for one in said)
    await hub.send(Parcel(BIRCH, Lane.CONTROL, b"for birch"))
    assert await until_came(birch, b"for birch") == [Parcel(BIRCH, Lane.CONTROL, b"for birch")]
    for lane in Lane:
        await birch.send(Parcel(BIRCH, lane, b"really birch"))
        assert await until_came(hub, b"really birch") == [Parcel(BIRCH, lane, b"really birch")]
    assert not any(one.pending_msgs for one in heard)
    await mallory.close()
    assert alder.up


async def test_the_brokers_own_answers_never_count_as_somebodys_parcel(wire: JetStream) -> None:
    """A site may name any subject for the answer to what it publishes: another's mailbox, or the streams' own controls."""
    hub, _, birch = await wire.hub(), await wire.site(ALDER), await wire.site(BIRCH)
    await birch.send(Parcel(BIRCH, Lane.LOG, b"before"))
    await until_came(hub, b"before")
    mallory = await mallory_at_alder(wire, [])
    mine = subject(TENANT, "up", ALDER, Lane.LOG)
    await birch.send(Parcel(BIRCH, Lane.SEGMENTS, b"kept"))
    for to in (
        subject(TENANT, "up", BIRCH, Lane.CONTROL),
        subject(TENANT, "up", BIRCH, Lane.LOG),
        subject(TENANT, "down", BIRCH, Lane.CONTROL),
        "$JS.API.STREAM.PURGE.SEG_fleet",
        "$JS.API.STREAM.DELETE.SEG_fleet",
        f"_INBOX_hub.{TENANT}.p.{BIRCH}.log",
        f"_INBOX_hub.{TENANT}.a.1",
    ):
        await mallory.publish(mine, b"\x01", reply=to)
    await mallory.flush()
    await mallory.publish(mine, b"\x01last")
    came = await until_came(hub, b"last")
    came += [] if Parcel(BIRCH, Lane.SEGMENTS, b"kept") in came else await until_came(hub, b"kept")
    assert {one.data for one in came if one.peer == BIRCH} == {b"kept"}
    await hub.send(Parcel(BIRCH, Lane.CONTROL, b"for birch"))
    assert await until_came(birch, b"for birch") == [Parcel(BIRCH, Lane.CONTROL, b"for birch")]
    await mallory.close()


async def test_names_that_are_no_words_of_a_subject_travel_too(wire: JetStream) -> None:
    hub, odd = await wire.hub(), await wire.site("site > of.the * north ü")
    await odd.send(Parcel("", Lane.LOG, b"here"))
    assert await hub.receive() == Parcel("site > of.the * north ü", Lane.LOG, b"here")
    await hub.send(Parcel("site > of.the * north ü", Lane.LOG, b"there"))
    assert await odd.receive() == Parcel("site > of.the * north ü", Lane.LOG, b"there")


# -- the wire: what it must withstand ----------------------------------------------------------------------------


async def goes_on(wire: JetStream) -> None:
    hub, alder, data = await wire.hub(), await wire.site(ALDER), random.randbytes(16)
    for lane in Lane:
        await until(lambda: hub.up)
        await persist(alder, Parcel(ALDER, lane, data))
        await until_came(hub, data)
    while True:  # down there is no queue: what is lost is said again
        await persist(hub, Parcel(ALDER, Lane.CONTROL, data))
        try:
            return await asyncio.wait_for(until_came(alder, data), 0.2) and None
        except TimeoutError:
            continue


async def test_a_killed_broker_comes_back_and_both_ends_go_on(wire: JetStream) -> None:
    hub, alder = await wire.hub(), await wire.site(ALDER)
    for restarts in (1, 2, 3):
        await persist(alder, Parcel(ALDER, Lane.LOG, b"kept"))
        wire.kill(signal.SIGKILL)
        await wire.came_back(restarts)
        await goes_on(wire)
    assert hub.up


async def test_what_the_stream_had_survives_the_broker_and_the_hubs_connection(wire: JetStream) -> None:
    hub, alder = await wire.hub(), await wire.site(ALDER)
    for number in range(20):
        await alder.send(Parcel(ALDER, Lane.LOG, b"%d" % number))
    wire.kill(signal.SIGKILL)
    await wire.came_back()
    await until(lambda: hub.up and hub.tally().received >= 20)
    assert [one.data for one in await until_came(hub, b"19")] == [b"%d" % number for number in range(20)]


async def test_a_broker_that_stands_still_is_found(wire: JetStream) -> None:
    hub, alder = await wire.hub(), await wire.site(ALDER)
    wire.kill(signal.SIGSTOP)
    sends = [asyncio.create_task(alder.send(Parcel(ALDER, lane, bytes(800_000)))) for lane in (Lane.LOG, Lane.SEGMENTS)]
    await until(lambda: not alder.up and not hub.up)
    assert all(isinstance(one, LinkDown) for one in await asyncio.gather(*sends, return_exceptions=True))
    wire.kill(signal.SIGCONT)
    await goes_on(wire)


async def test_a_line_that_swallows_everything_is_found(wire: JetStream) -> None:
    await wire.hub()
    alder = await wire.site(ALDER)
    wire.proxies[ALDER].swallow()
    with pytest.raises(LinkDown, match="has not answered"):
        await alder.send(Parcel(ALDER, Lane.LOG, b"into the sea"))
    wire.proxies[ALDER].restore()
    await goes_on(wire)


async def test_a_line_that_is_reset_again_and_again_loses_nothing_that_is_said_again(wire: JetStream) -> None:
    hub, alder = await wire.hub(), await wire.site(ALDER)
    sends = [asyncio.create_task(persist(alder, Parcel(ALDER, Lane.LOG, bytes([one]) * 300_000))) for one in range(100)]
    came: set[int] = set()
    while len(came) < 100:
        parcel = await hub.receive()
        assert parcel is not None
        assert parcel.data == parcel.data[:1] * 300_000
        came.add(parcel.data[0])
        if len(came) in (10, 40, 70):
            wire.proxies[ALDER].reset()
    await asyncio.gather(*sends)


async def test_a_wiped_store_is_made_anew(wire: JetStream) -> None:
    hub, alder = await wire.hub(), await wire.site(ALDER)
    await alder.send(Parcel(ALDER, Lane.LOG, b"before"))
    await hub.receive()
    wire.kill(signal.SIGSTOP)
    wire.wipe()
    wire.kill(signal.SIGKILL)
    await wire.came_back()
    await goes_on(wire)


async def test_a_stream_that_somebody_deleted_is_made_anew(wire: JetStream) -> None:
    hub = await wire.hub()
    await wire.site(ALDER)
    await goes_on(wire)
    operator = Client()
    await operator.connect(wire.broker.url, user=wire.broker.user, password=wire.broker.password)
    for stream in ("LOG_fleet", "SEG_fleet"):
        await operator.jetstream().delete_stream(stream)
    await operator.close()
    await goes_on(wire)
    assert hub.up


async def test_a_broker_whose_disk_took_nothing_is_restarted_by_the_hub(wire: JetStream) -> None:
    """A file size limit stands for the full disk: a stream that met it stays broken until the server is restarted."""
    hub, alder = await wire.hub(), await wire.site(ALDER)
    await goes_on(wire)
    resource.prlimit(wire.broker.pid, resource.RLIMIT_FSIZE, (1_000, resource.RLIM_INFINITY))
    sent = asyncio.create_task(persist(alder, Parcel(ALDER, Lane.LOG, bytes(500_000))))
    await until(lambda: wire.broker.restarts == 1)  # the new one has no limit
    await until_came(hub, bytes(500_000))
    await sent
    await goes_on(wire)


async def test_a_full_stream_is_said_and_waited_for(tmp_path: Path) -> None:
    async with running(rig := JetStream(stream_bytes_max=2_000_000), tmp_path):
        hub, alder = await rig.hub(), await rig.site(ALDER)
        assert isinstance(hub, HubEnd)
        sends = [asyncio.create_task(alder.send(Parcel(ALDER, Lane.LOG, bytes([n]) * 400_000))) for n in range(30)]
        await until(lambda: "full" in alder.problem)
        assert alder.up
        came = {(await hub.receive()).data[0] for _ in sends}  # type: ignore[union-attr]
        await asyncio.gather(*sends)
        assert came == set(range(30))
        assert alder.problem == ""
        assert rig.broker.restarts == 0
