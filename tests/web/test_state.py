"""The latest state as a stream: all of it first, then what changes, the newest only; whoever reads slowly harms nobody."""

from __future__ import annotations

import asyncio
import contextlib
import json
import resource
import socket
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import httpx2
import msgspec
import pytest
from starlette.testclient import TestClient
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.cast import eventually
from tests.web.conftest import Server, bearer
from tests.web.island import NOW_NS, Island, People
from web import http_server, latest, state
from web.ports import Role

BOB = bearer("bob")
STREAM, SOCKET = "/api/v1/state/stream", "/api/v1/state/socket"
SLOW_READERS = 200


@pytest.fixture
def server(island: Island, people: People, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(state, "_open", Counter())  # a server that was stopped while somebody read counts no more
    server = Server(island, people, lambda: NOW_NS)
    yield server
    server.stop()


@contextlib.asynccontextmanager
async def following(server: Server, query: str = "", **options: Any) -> AsyncIterator[ClientConnection]:
    url = f"ws://127.0.0.1:{server.port}{SOCKET}{query}"
    async with connect(url, additional_headers=BOB, **options) as line:
        yield line


async def next_of(line: ClientConnection, kind: str) -> dict[str, Any]:
    async with asyncio.timeout(30):
        while (message := json.loads(await line.recv()))["kind"] != kind:
            pass
    return dict(message)


async def whole(line: ClientConnection) -> dict[str, dict[str, Any]]:
    """The nodes by id, as they are once everything was told."""
    nodes: dict[str, dict[str, Any]] = {}
    while True:
        message = await next_of(line, "state")
        nodes |= {one["node"]["row"]["id"]: one for one in message["nodes"]}
        if message["whole"]:
            return nodes


def rename(server: Server, node_id: str, *names: str) -> None:
    def change(name: str) -> Callable[[], None]:
        def now() -> None:
            server.island.rows[node_id] = msgspec.structs.replace(server.island.rows[node_id], name=name)
            server.island.touch(f"node:{node_id}")

        return now

    for name in names:
        server.call(change(name))


def first(server: Server, number: int = 0) -> str:
    return sorted(server.island.rows)[number]


async def test_all_of_it_comes_first_and_then_what_changes(server: Server) -> None:
    async with following(server) as line:
        nodes = await whole(line)
        assert set(nodes) == set(server.island.rows)
        one = nodes[first(server)]["node"]
        assert one["row"]["seen_ns"] is not None
        assert {"metric", "value", "at_ns", "source"} == set(one["values"][0])
        rename(server, first(server), "kestrel-one")
        told = await next_of(line, "change")
        assert [each["node"]["row"]["name"] for each in told["nodes"]] == ["kestrel-one"]


async def test_both_ways_say_the_same(server: Server) -> None:
    async with following(server) as line:
        over_socket = await whole(line)
    with httpx2.stream("GET", server.url + STREAM, headers=BOB, timeout=30) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        lines = answer.iter_lines()
        fields = dict(next(lines).split(": ", 1) for _ in range(3))
    message = json.loads(fields["data"])
    assert (fields["event"], fields["id"], message["seq"]) == ("state", "1", 1)
    assert {one["node"]["row"]["id"]: one["node"] for one in message["nodes"]} == {
        node_id: one["node"] for node_id, one in over_socket.items()
    }


async def test_only_the_nodes_asked_for_are_told(server: Server) -> None:
    tag = server.island.rows[first(server)].tags[0]
    tagged = {row.id for row in server.island.rows.values() if tag in row.tags}
    async with following(server, f"?tag={tag}") as line:
        assert set(await whole(line)) == tagged
    async with following(server, f"?node={first(server, 3)}&node={first(server, 5)}") as line:
        assert set(await whole(line)) == {first(server, 3), first(server, 5)}
    async with following(server, "?site=birch") as line:
        assert await whole(line) == {}


async def test_what_is_not_here_or_not_asked_for_any_more_is_gone(server: Server) -> None:
    node_id, absent = first(server), "01" + "Z" * 24
    tag = server.island.rows[node_id].tags[0]
    async with following(server, f"?node={absent}") as line:
        assert (await next_of(line, "state"))["gone"] == [absent]

    def lose_the_tag() -> None:
        server.island.rows[node_id] = msgspec.structs.replace(server.island.rows[node_id], tags=())
        server.island.touch(f"node:{node_id}")

    async with following(server, f"?tag={tag}") as line:
        await whole(line)
        server.call(lose_the_tag)
        assert (await next_of(line, "change"))["gone"] == [node_id]


async def test_messages_are_numbered_and_so_are_the_changes_of_a_node(server: Server) -> None:
    async with following(server) as line:
        nodes = await whole(line)
        rename(server, first(server), "a")
        told = [await next_of(line, "change")]
        rename(server, first(server), "b")
        told.append(await next_of(line, "change"))
    changes = [nodes[first(server)]["change"], *(one["nodes"][0]["change"] for one in told)]
    assert changes == [1, 2, 3]
    assert told[1]["seq"] == told[0]["seq"] + 1


async def test_more_nodes_than_one_connection_may_have_are_cut(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latest.limits, "stream_nodes_max", 10)
    async with following(server) as line:
        message = await next_of(line, "state")
        assert len(message["nodes"]) == 10
        assert message["cut"]


async def test_a_quiet_stream_beats(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "BEAT_SECONDS", 0.05)
    async with following(server) as line:
        await whole(line)
        assert await next_of(line, "beat")


async def test_a_box_that_gives_no_sign_of_life_has_none_given_for_it(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state, "BEAT_SECONDS", 0.05)
    monkeypatch.setattr(latest, "_SILENCE_SECONDS", 0.0)
    async with following(server) as line:
        await whole(line)
        rename(server, first(server), "late")
        async with asyncio.timeout(30):
            assert json.loads(await line.recv())["kind"] == "change"  # no beat before it


async def test_who_is_let_go_meanwhile_is_cut_off(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "BEAT_SECONDS", 0.05)
    async with following(server) as line:
        await whole(line)
        server.call(lambda: server.people.keys.pop("token-bob"))
        with pytest.raises(ConnectionClosed) as over:
            await next_of(line, "nothing")
    assert over.value.rcvd is not None
    assert over.value.rcvd.code == 1008


async def test_without_a_token_nothing_opens(server: Server) -> None:
    with pytest.raises(InvalidStatus, match="403"):
        async with connect(f"ws://127.0.0.1:{server.port}{SOCKET}"):
            pass


@pytest.mark.parametrize(
    "query", ["?node=x", "?node=" + "A" * 500, "?tag=" + "t" * 500, "?" + "tag=a%d&" * 65 % tuple(range(65))]
)
async def test_what_cannot_be_followed_is_refused(server: Server, ask: TestClient, query: str) -> None:
    answer = ask.get(STREAM + query, headers=BOB)
    assert answer.status_code == 400
    assert answer.json()["error"]
    with pytest.raises(InvalidStatus, match="403"):
        async with following(server, query):
            pass


async def test_one_too_many_is_told_what_else_there_is(
    server: Server, ask: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state, "STREAMS_MAX", 0)
    assert "/api/v1/nodes" in ask.get(STREAM, headers=BOB).json()["error"]
    with pytest.raises(InvalidStatus):
        async with following(server):
            pass


async def test_a_box_that_cannot_answer_says_when_to_come_back(server: Server) -> None:
    server.island.down = "the disk is being read"
    async with following(server) as line:
        with pytest.raises(ConnectionClosed) as over:
            await line.recv()
    assert over.value.rcvd is not None
    assert over.value.rcvd.code == 1013


async def test_boards_go_with_their_last_reader(server: Server) -> None:
    async with following(server) as one, following(server, f"?node={first(server)}") as two:
        await whole(one)
        await whole(two)
        (board,) = latest._boards[server.island].values()
        assert board.readers == 2
    eventually(lambda: not latest._boards[server.island])


async def test_who_leaves_as_something_changes_is_gone(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latest, "_SILENCE_SECONDS", 0.0)  # nor will a beat find out

    def leave() -> None:
        loop = asyncio.get_running_loop()
        (saying,) = (task for task in asyncio.all_tasks(loop) if getattr(task.get_coro(), "__name__", "") == "_say")
        (board,) = latest._boards[server.island].values()
        for reader in board._readers:
            reader.woken.set()
        loop.call_soon(saying.cancel)

    async with following(server) as line:
        await whole(line)
        server.call(leave)
        eventually(lambda: state._open[""] == 0)


async def test_readers_of_two_tenants_share_nothing(server: Server) -> None:
    carol = server.people.keys["token-bob"]
    server.people.keys["token-carol"] = carol
    who = await server.people.bearer("token-bob", "")
    assert who is not None
    other = msgspec.structs.replace(who, tenant="birch")
    across = msgspec.structs.replace(who, role=Role.OPERATOR)
    boards = [(await latest.follow(server.island, one, latest.Wish())) for one in (who, other, across)]
    assert len({board for board, _ in boards}) == 3
    for one, (board, reader) in zip((who, other, across), boards, strict=True):
        await latest.quit_board(server.island, one, board, reader)


# -- slow ones ------------------------------------------------------------------------------------------------------------


def deaf(server: Server, path: str) -> socket.socket:
    """One who asks, and never reads a byte; its window is small, so that the server's end fills soon."""
    line = socket.socket()
    line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    line.connect(("127.0.0.1", server.port))
    head = f"GET {path} HTTP/1.1\r\nhost: alder\r\nauthorization: Bearer token-bob\r\n"
    if path == SOCKET:
        head += "upgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-version: 13\r\n"
        head += "sec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
    line.sendall(f"{head}\r\n".encode())
    return line


def live_on(server: Server, rounds: int) -> None:
    """Everything changes, and changes again."""
    done = 0

    def once() -> None:
        nonlocal done
        done += 1
        server.island.move_on(NOW_NS + done)

    for _ in range(rounds):
        server.call(once)
    eventually(lambda: done >= rounds)


async def test_a_slow_reader_gets_the_newest_and_nothing_in_between(server: Server) -> None:
    node_id = first(server)
    async with following(server, f"?node={node_id}", max_queue=1) as line:
        await whole(line)
        names = [f"{number:04}-{'x' * 8_000}" for number in range(2_000)]
        for name in names:
            rename(server, node_id, name)
        eventually(lambda: server.island.rows[node_id].name == names[-1])
        told: list[tuple[int, str]] = []
        while not told or told[-1][1] != names[-1]:
            (one,) = (await next_of(line, "change"))["nodes"]
            told.append((one["change"], one["node"]["row"]["name"]))
    assert told == sorted(told)
    assert len(told) < len(names) / 2
    assert len({change for change, _ in told}) == len(told)


async def test_two_hundred_who_never_read_hold_nobody_up_and_memory_is_flat(server: Server) -> None:
    lines = [deaf(server, (STREAM, SOCKET)[number % 2]) for number in range(SLOW_READERS)]
    try:
        eventually(lambda: state._open[""] == SLOW_READERS)
        async with following(server) as line:
            await whole(line)
            live_on(server, 300)  # until every buffer in between is full
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            for _ in range(5):
                live_on(server, 60)
                assert await next_of(line, "change")
                assert httpx2.get(f"{server.url}/healthz", timeout=10).status_code == 200
            grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        assert grown < 32 * 1024
    finally:
        for slow in lines:
            slow.close()
    eventually(lambda: state._open[""] == 0)


@pytest.mark.parametrize("path", [STREAM, SOCKET])
async def test_who_takes_nothing_at_all_is_let_go(server: Server, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    monkeypatch.setattr(http_server, "STALL_SECONDS", 0.2)
    server.island.texts = dict.fromkeys(server.island.rows, "x" * 20_000)
    with deaf(server, path):
        eventually(lambda: state._open[""] == 1)

        def look() -> bool:
            live_on(server, 20)
            return state._open[""] == 0

        eventually(look)


async def test_a_websocket_outlives_the_deadline_of_heads(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_server, "HEAD_SECONDS", 0.1)
    monkeypatch.setattr(state, "BEAT_SECONDS", 0.2)
    async with following(server) as line:
        await whole(line)
        for _ in range(5):
            assert await next_of(line, "beat")
