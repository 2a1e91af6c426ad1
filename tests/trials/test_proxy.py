"""The bad line itself: its arithmetic, and that what it does to bytes is what it says."""

from __future__ import annotations

import random
import socket
import threading
from collections.abc import Iterator
from contextlib import closing

import pytest

from tests.trials.proxy import Pacer, Proxy, Way


@pytest.fixture
def echo() -> Iterator[tuple[str, int]]:
    """A server that says everything back."""
    listener = socket.create_server(("127.0.0.1", 0))

    def answer(one: socket.socket) -> None:
        with closing(one):
            try:
                while raw := one.recv(65_536):
                    one.sendall(raw)
            except OSError:
                return

    def serve() -> None:
        while True:
            try:
                threading.Thread(target=answer, args=(listener.accept()[0],), daemon=True).start()
            except OSError:
                return

    threading.Thread(target=serve, daemon=True).start()
    yield listener.getsockname()
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()


def through(proxy: Proxy, raw: bytes) -> bytes:
    """Say it, hear it back."""
    with socket.create_connection(("127.0.0.1", proxy.port)) as line:
        threading.Thread(target=line.sendall, args=(raw,), daemon=True).start()
        came = bytearray()
        while len(came) < len(raw) and (part := line.recv(65_536)):
            came += part
    return bytes(came)


@pytest.mark.parametrize("piece", [64, 420, 65_536])
def test_bytes_pass_at_the_rate_however_they_are_cut(piece: int) -> None:
    pacer, now_s = Pacer(), 100.0
    for _ in range(1_000):
        now_s = max(now_s, pacer.due_s(piece, 21_000, now_s)) + 0.003  # whoever sends is late every time
    assert piece * 1_000 / (now_s - 100.0) == pytest.approx(21_000, rel=0.03)


def test_nothing_passes_before_it_came() -> None:
    pacer = Pacer()
    assert min(pacer.due_s(100, 21_000, now_s) - now_s for now_s in range(10, 20)) >= 0.0


def test_a_line_that_was_idle_has_saved_next_to_nothing_up() -> None:
    pacer = Pacer()
    pacer.due_s(21_000, 21_000, 0.0)
    assert pacer.due_s(21_000, 21_000, 1_000.0) == pytest.approx(1_000.9)


@pytest.mark.parametrize(
    "way", [Way(), Way(delay_s=0.02), Way(bytes_per_s=2e6), Way(0.01, 2e6, stall_chance=0.05, stall_s_max=0.05)]
)
def test_bytes_arrive_as_they_were_sent(echo: tuple[str, int], way: Way) -> None:
    raw = random.Random(1).randbytes(300_000)
    with Proxy(echo, up=way, down=way) as proxy:
        assert through(proxy, raw) == raw
        assert proxy.passed_up == len(raw)


def test_a_cut_line_is_closed_and_stays_so_until_it_is_restored(echo: tuple[str, int]) -> None:
    with Proxy(echo) as proxy, socket.create_connection(("127.0.0.1", proxy.port)) as line:
        line.sendall(b"here")
        assert line.recv(10) == b"here"
        proxy.cut()
        assert line.recv(10) == b""
        with socket.create_connection(("127.0.0.1", proxy.port)) as other:
            assert other.recv(10) == b""
        proxy.restore()
        assert through(proxy, b"again") == b"again"


def test_a_reset_is_seen_as_one(echo: tuple[str, int]) -> None:
    with Proxy(echo) as proxy, socket.create_connection(("127.0.0.1", proxy.port)) as line:
        line.sendall(b"here")
        assert line.recv(10) == b"here"
        proxy.reset()
        with pytest.raises(ConnectionResetError):
            line.recv(10)
        assert through(proxy, b"again") == b"again"


def test_a_half_open_line_swallows_and_says_nothing(echo: tuple[str, int]) -> None:
    with Proxy(echo) as proxy, socket.create_connection(("127.0.0.1", proxy.port)) as line:
        line.sendall(b"here")
        assert line.recv(10) == b"here"
        proxy.swallow()
        line.sendall(b"into the sea")
        line.settimeout(0.2)
        with pytest.raises(TimeoutError):
            line.recv(10)
        proxy.restore()
        assert through(proxy, b"again") == b"again"
