"""Who is asked for data, and when: the decider by itself, then the WebSocket of a whole appliance with a real client."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from appliance.compose import Appliance
from appliance.intake.control import (
    TABLE,
    WATCHED_NS,
    Backlog,
    ChunkAck,
    ChunkRequest,
    CommandResponse,
    Control,
    Hello,
    Out,
    Pace,
    Problem,
    State,
    Step,
    Welcome,
    heard,
)
from appliance.intake.device import Device
from fleet import limits
from fleet.limits import SECOND
from tests.appliance.doors import Door
from tests.appliance.uploading import Sender, lines
from tests.cast import eventually, eventually_async
from tests.conftest import ALDER

# -- the decider --------------------------------------------------------------------------------------------------


def control(devices: int = 1, asks_max: int = 8, records: int = 0) -> tuple[Control, list[Out]]:
    """Devices 1, 2, … on the lines of these numbers, as the nodes n1, n2, …"""
    made, out = Control("alder", asks_max), []
    for number in range(1, devices + 1):
        made.opened(number, f"@n{number}", 0)
        out += made.backlog(
            number, Hello("q", last=records, records=records, bytes=records * 100), f"n{number}", 0, number
        )
    return made, out


def requests(out: list[Out]) -> list[int]:
    return [one.line for one in out if isinstance(one.message, ChunkRequest)]


def done(last: int, first: int = 1) -> ChunkAck:
    return ChunkAck("q", "u", 1, first, last, 100, "done")


def test_a_device_that_holds_something_is_welcomed_and_asked_for_what_follows_the_last_committed() -> None:
    made = Control("alder")
    made.opened(1, "@n1", 0)
    welcome, request = made.backlog(1, Hello("q", floor=5, last=20, records=10, bytes=999), "n1", 10, 0)
    assert welcome.message == Welcome("alder", 10)
    assert isinstance(request.message, ChunkRequest)
    assert (request.message.after, request.message.offset, request.message.size) == (10, 0, 999)
    assert request.message.hints["priority"] == "normal"


def test_a_device_with_nothing_is_left_alone() -> None:
    made, out = control()
    assert requests(out) == []
    assert requests(made.decide(100 * SECOND)) == []


def test_a_device_is_asked_again_when_its_records_are_stored_and_not_before() -> None:
    made, out = control(records=10)
    assert requests(out) == [1]
    assert requests(made.decide(SECOND)) == []
    out = made.uploaded("@n1", done(5), 2 * SECOND)
    assert isinstance(out[0].message, ChunkAck)
    assert requests([*out, *made.decide(5 * SECOND)]) == [1]
    assert made.lines[1].after == 5


def test_not_all_are_asked_at_once_and_who_waited_longest_comes_first() -> None:
    made, out = control(5, asks_max=2, records=10)
    assert requests(out) == [1, 2]
    out = made.uploaded("@n1", done(5), SECOND)
    assert requests(out) == [3], "a place is free: the next in line, not the one that was served"
    made.closed(2)
    assert requests(made.decide(3 * SECOND)) == [4]


def test_who_is_looked_at_comes_first_and_is_told_to_hurry_and_later_to_calm_down() -> None:
    made, _ = control(3, asks_max=1, records=10)
    made.looked("n3", SECOND)
    out = made.decide(SECOND)
    assert [(one.line, one.message) for one in out] == [(3, Pace(0.25, "panel"))]
    out = made.uploaded("@n1", done(5), 2 * SECOND)
    assert requests(out) == [3]
    assert made.is_watched("n3", 2 * SECOND)
    out = made.decide(SECOND + WATCHED_NS)
    assert Out(3, Pace(2.0, "normal")) in out


def test_one_that_does_not_answer_is_asked_again_ever_more_seldom_and_keeps_no_place() -> None:
    made, out = control(2, asks_max=1, records=10)
    assert requests(out) == [1]
    asked, now_ns = [], 0
    for _ in range(600):
        now_ns += SECOND
        asked += requests(made.decide(now_ns))
    assert set(asked) == {1, 2}, "the silent one does not keep the other from being asked"
    assert made.late_total >= 10
    assert made.lines[1].misses >= 4


def test_a_queue_that_was_emptied_by_itself_ends_the_request() -> None:
    made, _ = control(records=10)
    made.backlog(1, Backlog("q", floor=11, last=10, records=0), "n1", 10, SECOND)
    assert made.lines[1].state is State.IDLE


def test_one_that_sends_rubbish_is_told_so_and_cut_off_at_last() -> None:
    made, _ = control()
    out = [one for _ in range(20) for one in made.bad(1, Problem("no"))]
    assert out[-1] == Out(1, None)
    assert [one.message for one in out].count(None) == 1


def test_every_step_leads_to_a_state_that_exists_and_every_state_is_reached() -> None:
    assert {step for _, step in TABLE} == set(Step)
    assert {*TABLE.values(), State.SILENT} == set(State)


@pytest.mark.parametrize(
    "raw",
    [
        "",
        "{}",
        "[]",
        '{"type":"hello"}',
        '{"type":"hello","stream":""}',
        '{"type":"backlog","stream":"q","last":-1}',
        b"\xff",
        "[" * 9_999,
        '{"type":"chunk.request"}',
    ],
)
def test_what_is_no_message_is_a_problem_in_words(raw: str | bytes) -> None:
    assert isinstance(heard(raw), Problem)


# -- the line -----------------------------------------------------------------------------------------------------


class Alder(Appliance):
    def _wire_sensors(self) -> None:
        real, self.door = self.doorkeeper, Door()
        self.doorkeeper = self.door  # type: ignore[assignment]
        super()._wire_sensors()
        self.doorkeeper = real


@pytest.fixture
async def alder(tmp_path: Path) -> AsyncIterator[Alder]:
    box = Alder(tmp_path / "alder", ALDER)
    await box.start()
    yield box
    await box.stop()


def line(box: Appliance, token: str = "token-D3") -> connect:
    url = f"ws://{box.addresses['http']}/v1/control"
    return connect(url, additional_headers={"authorization": f"Bearer {token}"}, proxy=None)


async def hear(socket: ClientConnection, kind: str) -> dict[str, Any]:
    while True:
        said: dict[str, Any] = json.loads(await asyncio.wait_for(socket.recv(), 30))
        if said["type"] == kind:
            return said


HELLO = json.dumps({"type": "hello", "stream": "q1", "floor": 1, "last": 3, "records": 3, "bytes": 30})


async def test_asked_for_data_sent_by_http_acknowledged_on_the_line(alder: Alder) -> None:
    async with line(alder) as socket:
        await socket.send(HELLO)
        assert (await hear(socket, "welcome"))["after"] == 0
        request = await hear(socket, "chunk.request")
        http = httpx2.Client(
            base_url=f"http://{alder.addresses['http']}", headers={"authorization": "Bearer token-D3"}, trust_env=False
        )
        with http:
            sender = Sender(http, lines(1, 3), first=1, last=3, window_id=request["window_id"])
            await asyncio.to_thread(sender.all)
        ack = await hear(socket, "chunk.ack")
        while ack["state"] != "done":
            ack = await hear(socket, "chunk.ack")
        assert (ack["window_id"], ack["first"], ack["last"]) == (request["window_id"], 1, 3)
        await socket.send(HELLO.replace("hello", "backlog"))
        await eventually_async(lambda: _after(alder), lambda after: after == 3)


async def _after(box: Appliance) -> int:
    return next(iter(box.control_lines.control.lines.values())).after


async def test_opening_the_node_s_page_makes_its_device_hurry(alder: Alder) -> None:
    node_id = await alder.box.adopt(_console(), "sensor/@D3/", "drone-03", _edge(), ())

    class Known(Door):
        async def token(self, token: str, address: str = "") -> Device:
            return Device(node_id, "drone-03")

    alder.control_lines._doorkeeper = Known()
    async with line(alder) as socket:
        await socket.send(HELLO)
        await hear(socket, "chunk.request")
        assert await alder.box.node(_console(), node_id) is not None
        assert await hear(socket, "pace") == {"type": "pace", "every_s": 0.25, "priority": "panel"}


def _console() -> Any:
    from fleet.people import Identity, Role

    return Identity(name="console", role=Role.OPERATOR_ADMIN, via="console", address="console")


def _edge() -> Any:
    from fleet.node import Kind

    return Kind.EDGE


async def test_a_foreign_token_does_not_get_a_line(alder: Alder) -> None:
    with pytest.raises(InvalidStatus) as no:
        async with line(alder, "wrong"):
            pass
    assert no.value.response.status_code == 403
    assert alder.gate.tally("sensor").refused["unknown credential"] == 1


async def test_a_revocation_ends_the_line_at_once(alder: Alder) -> None:
    async with line(alder) as socket, line(alder, "token-D4") as other:
        await socket.send(HELLO)
        await hear(socket, "welcome")
        await other.send(HELLO)
        await hear(other, "welcome")
        door = alder.door
        door.revoke("D3")
        with pytest.raises(ConnectionClosed):
            await hear(socket, "never")
        await other.send("rubbish")
        assert (await hear(other, "error"))["error"], "the other one did not notice"


async def test_rubbish_is_answered_and_a_flood_of_it_cut_off(alder: Alder) -> None:
    async with line(alder) as socket:
        for _ in range(20):
            await socket.send("{")
        with pytest.raises(ConnectionClosed):
            await hear(socket, "never")
    assert alder.gate.tally("sensor").refused["unreadable message"] == 20
    await asyncio.to_thread(eventually, lambda: not alder.control_lines.control.lines)


async def test_a_message_without_measure_is_refused(alder: Alder) -> None:
    async with line(alder) as socket:
        await socket.send("x" * (limits.control_message_bytes_max + 1))
        assert "too long" in (await hear(socket, "error"))["error"]


async def test_command_responses_are_passed_on_with_who_said_them(alder: Alder) -> None:
    heard_of: list[tuple[Device, CommandResponse]] = []
    alder.control_lines.responses = lambda device, response: heard_of.append((device, response))
    async with line(alder) as socket:
        await socket.send(json.dumps({"type": "command.response", "id": "7", "status": "done"}))
        await asyncio.to_thread(eventually, lambda: heard_of)
    assert (heard_of[0][0].node_id, heard_of[0][1]) == ("D3", CommandResponse("7", "done"))


async def test_more_devices_than_there_is_room_for_are_turned_away(
    alder: Alder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "control_lines_max", 1)
    async with line(alder):
        with pytest.raises(InvalidStatus):
            async with line(alder, "token-D4"):
                pass
