"""The page, the API and the ways in of HTTP over TLS, on a port of their own beside the plain one."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from websockets.asyncio.client import connect

from tests import cast
from tests.cast import Site, eventually, island


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    data = tmp_path_factory.mktemp("https") / "alder"
    with island(data, environment={"SKERRY_HTTP_TLS_LISTEN": "127.0.0.1:0"}) as made:
        yield made


def port(site: Site) -> int:
    return int(eventually(lambda: re.findall(r"https +127\.0\.0\.1:(\d+)", site.said()))[0])


def context(site: Site) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(site.data / "tls" / "ca.pem"))


def over_tls(site: Site) -> httpx2.Client:
    return httpx2.Client(base_url=f"https://localhost:{port(site)}", verify=context(site), trust_env=False, timeout=30)


def test_the_same_is_served_as_without_tls(site: Site) -> None:
    with over_tls(site) as line:
        assert line.get("/healthz").json().keys() == httpx2.get(f"http://127.0.0.1:{site.http}/healthz").json().keys()
        assert line.post("/v1/ingest", json={"device": "kestrel", "battery_pct": 80}).status_code == 200
        assert line.get("/", follow_redirects=True).status_code == 200
    eventually(lambda: len(site.records()) == 1)


def test_a_session_that_was_opened_over_tls_travels_over_tls_only(site: Site) -> None:
    link = re.search(r"/setup/\S+", eventually(site.said, lambda said: "/setup/" in said))
    assert link is not None
    fields = {"name": "alice", "password": cast.PASSWORD, "again": cast.PASSWORD}
    with over_tls(site) as line:
        answer = line.post(link[0], data=fields)
        assert answer.status_code == 303
        assert "secure" in answer.headers["set-cookie"].lower()
        assert line.get("/").status_code == 200
    with site.client() as line:
        answer = line.post("/login", data={"name": "alice", "password": cast.PASSWORD})
        assert answer.status_code == 303
        assert "secure" not in answer.headers["set-cookie"].lower()


async def test_programs_follow_the_state_over_wss(site: Site) -> None:
    token = site.call("POST", "/api/v1/tokens", {"name": "screen", "role": "viewer"})["secret"]
    url = f"wss://localhost:{port(site)}/api/v1/state/socket"
    bearer = {"authorization": f"Bearer {token}"}
    async with asyncio.timeout(30), connect(url, ssl=context(site), additional_headers=bearer) as line:
        assert await line.recv()


def test_who_speaks_no_tls_there_gets_nothing_and_hinders_nobody(site: Site) -> None:
    with contextlib.ExitStack() as silent:
        for _ in range(50):
            silent.enter_context(contextlib.closing(socket.create_connection(("127.0.0.1", port(site)), 10)))
        with socket.create_connection(("127.0.0.1", port(site)), 10) as plain:
            plain.sendall(b"GET /healthz HTTP/1.1\r\nhost: alder\r\n\r\n")
            with contextlib.suppress(ConnectionError):
                assert b"HTTP/" not in plain.recv(100)
        with over_tls(site) as line:
            assert line.get("/healthz").status_code == 200


def test_where_the_address_is_taken_it_says_so(site: Site, tmp_path: Path) -> None:
    with (
        pytest.raises(AssertionError, match="https cannot listen on"),
        island(tmp_path / "birch", environment={"SKERRY_HTTP_TLS_LISTEN": f"127.0.0.1:{port(site)}"}),
    ):
        pass
