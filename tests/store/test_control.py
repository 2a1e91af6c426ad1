"""The command line's way to a running appliance: its answers, its refusals, and nobody there."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from store.control import NotRunning, Refusal, call, short_address


@contextmanager
def answering(path: Path, answer: bytes) -> Iterator[None]:
    """Something that listens on the socket and says `answer` to whatever comes."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with short_address(path) as address:
        listener.bind(address)
    listener.listen(1)

    def serve() -> None:
        line, _ = listener.accept()
        with line:
            line.recv(65_536)
            line.sendall(answer)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield
    finally:
        thread.join(10)
        listener.close()


def http(status: str, body: bytes) -> bytes:
    return b"HTTP/1.1 %s\r\ncontent-length: %d\r\n\r\n%s" % (status.encode(), len(body), body)


def test_the_answer_is_the_json_that_came(tmp_path: Path) -> None:
    with answering(tmp_path / "control.sock", http("200 OK", b'{"ready": true}')):
        assert call(tmp_path / "control.sock", "GET", "/readyz") == {"ready": True}


def test_a_refusal_is_the_appliance_s_own_sentence(tmp_path: Path) -> None:
    with (
        answering(tmp_path / "control.sock", http("409 Conflict", b'{"error": "there is already a token x"}')),
        pytest.raises(Refusal, match="there is already a token x"),
    ):
        call(tmp_path / "control.sock", "GET", "/api/v1/tokens")


def test_a_refusal_without_words_names_the_request(tmp_path: Path) -> None:
    with (
        answering(tmp_path / "control.sock", http("503 Busy", b"")),
        pytest.raises(Refusal, match="GET /readyz was answered with 503"),
    ):
        call(tmp_path / "control.sock", "GET", "/readyz")


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n{", b"hello\r\n\r\n"])
def test_an_appliance_that_dies_in_mid_sentence_is_not_running(tmp_path: Path, answer: bytes) -> None:
    with answering(tmp_path / "control.sock", answer), pytest.raises(NotRunning, match="skerry appliance run"):
        call(tmp_path / "control.sock", "GET", "/readyz")


def test_an_answer_that_is_no_json_is_refused_in_words(tmp_path: Path) -> None:
    with (
        answering(tmp_path / "control.sock", http("200 OK", b"<html>")),
        pytest.raises(Refusal, match=r"what answers on .* is no appliance"),
    ):
        call(tmp_path / "control.sock", "GET", "/readyz")


def test_nobody_there_is_said_with_the_way_to_start_one(tmp_path: Path) -> None:
    with pytest.raises(NotRunning, match=f"no appliance answers on {tmp_path}; start it with: skerry appliance run"):
        call(tmp_path / "control.sock", "GET", "/readyz")
    with pytest.raises(NotRunning):
        call(tmp_path / "no" / "folder" / "control.sock", "GET", "/readyz")


def test_a_folder_with_a_long_path_has_a_control_socket_too(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 120) / ("e" * 120)
    deep.mkdir(parents=True)
    with answering(deep / "control.sock", http("200 OK", b"[1]")):
        assert call(deep / "control.sock", "GET", "/") == [1]
