"""Two ways to ask the pages: in the process (`ask`), and through a real server on a free port (`served`)."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from starlette.testclient import TestClient

from tests.web.island import NOW_NS, PASSWORD, Island, People
from web import http_server
from web.app import application

ROLES = {"anonymous": "", "viewer": "token-bob", "operator": "token-olga", "admin": "token-alice"}


@pytest.fixture
def island() -> Island:
    return Island()


@pytest.fixture
def people() -> People:
    return People()


@pytest.fixture
def ask(island: Island, people: People) -> Iterator[TestClient]:
    with TestClient(application(island, people, clock=lambda: NOW_NS), follow_redirects=False) as client:
        yield client


@pytest.fixture
def alice(ask: TestClient) -> TestClient:
    """A browser in which Alice, an admin, has signed in."""
    answer = ask.post("/login", data={"name": "alice", "password": PASSWORD})
    assert answer.status_code == 303
    return ask


def bearer(name: str) -> dict[str, str]:
    return {"authorization": f"Bearer token-{name}"}


class Server:
    """A real server in a thread of its own; `call` runs a function in its loop."""

    def __init__(self, island: Island, people: People, clock: Callable[[], int], *, port: int = 0) -> None:
        self.island, self.people = island, people
        self._server = http_server.server(application(island, people, clock=clock))
        self._server.config.timeout_graceful_shutdown = 1
        self._listener = socket.create_server(("127.0.0.1", port))
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        while not self._server.started:
            time.sleep(0.02)
        self.port = self._server.servers[0].sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"

    def _run(self) -> None:
        async def serve() -> None:
            self._loop = asyncio.get_running_loop()
            await self._server.serve(sockets=[self._listener])

        asyncio.run(serve())

    def call(self, what: Callable[[], object]) -> None:
        assert self._loop is not None
        self._loop.call_soon_threadsafe(what)

    def stop(self) -> None:
        self._server.should_exit = True
        self._server.force_exit = True
        self._thread.join(10)


@pytest.fixture
def served() -> Iterator[Server]:
    started = time.time_ns()
    clock = lambda: NOW_NS + time.time_ns() - started  # noqa: E731
    server = Server(Island(clock=clock), People(), clock)
    yield server
    server.stop()


__all__ = ["ROLES", "Server", "bearer"]
