"""The agent as a process beside a real appliance: from `put` to the node's page, over kills, moves, TLS and discovery."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.island import free_port
from store.certificates import ensure_server_certificate
from tests.cast import Site, eventually, island
from tests.firmware_hooks.agents import PATH, agent, record, settings
from tests.trials.roaming import agent as running
from tests.trials.roaming import backlog, put


def configure(folder: Path, **more: Any) -> Path:
    config = folder / "agent.json"
    said = {"queue": str(folder / "queue.db"), "device": "kestrel-1", "every_s": 0.2, "probe_s": 0.3, **more}
    config.write_text(json.dumps(said))
    return config


def numbers(site: Site) -> list[int]:
    return [json.loads(one["raw"]).get("n") for one in site.records() if one["source"].startswith("sensor/")]


def test_from_put_to_the_node_s_page(tmp_path: Path) -> None:
    with island(tmp_path / "alder") as site:
        config = configure(tmp_path, sites=[site.url])
        put(config, [json.dumps({"battery_pct": 81.5, "version": "1.2.0", "heartbeat": True})])
        photo = tmp_path / "photo.jpg"
        photo.write_bytes(os.urandom(700_000))
        subprocess.run([sys.executable, str(PATH), "file", "--config", str(config), str(photo)], check=True)
        with running(config, tmp_path / "agent.log"):
            eventually(lambda: backlog(config)["records"], lambda left: left == 0)
        node_id = site.adopt("sensor/127.0.0.1/kestrel-1", "kestrel-1")
        with site.client(site.token()) as line:
            page = line.get(f"/nodes/{node_id}").text
        assert "81.5" in page
        assert "1.2.0" in page
        assert [path.stat().st_size for path in (site.data / "files").iterdir()] == [700_000]


def test_the_agent_killed_and_the_site_killed_over_and_over(tmp_path: Path) -> None:
    config, log = configure(tmp_path, sites=[], batch_records=20), tmp_path / "agent.log"
    written = 0
    for life in range(4):
        with island(tmp_path / "alder") as site:
            config.write_text(json.dumps({**json.loads(config.read_text()), "sites": [site.url]}))
            with running(config, log) as process:
                for _ in range(3):
                    put(config, [record(n).decode() for n in range(written, written + 40)])
                    written += 40
                eventually(lambda: len(numbers(site)), lambda held, most=written - 110: held > most)  # type: ignore[misc]
                (site if life % 2 else process).kill()
    with island(tmp_path / "alder") as site:
        config.write_text(json.dumps({**json.loads(config.read_text()), "sites": [site.url]}))
        with running(config, log):
            eventually(lambda: backlog(config)["records"], lambda left: left == 0)
        assert sorted(numbers(site)) == list(range(written)), "each once"


def test_opening_the_node_s_page_makes_the_agent_hurry(tmp_path: Path) -> None:
    """It looks into its queue once in ten minutes by itself; somebody opens the page, and what waits is there."""
    with island(tmp_path / "alder") as site:
        config, log = configure(tmp_path, sites=[site.url], every_s=600.0), tmp_path / "agent.log"
        put(config, [record(1).decode()])
        with running(config, log):
            eventually(lambda: numbers(site), lambda held: held == [1])
        node_id = site.adopt("sensor/127.0.0.1/kestrel-1", "kestrel-1")
        put(config, [record(2).decode()])
        with running(config, log), site.client(site.token()) as line:
            eventually(lambda: numbers(site), lambda held: held == [1, 2])
            put(config, [record(3).decode()])
            assert line.get(f"/nodes/{node_id}").status_code == 200
            eventually(lambda: numbers(site), lambda held: held == [1, 2, 3])


# -- an answer that is lost -----------------------------------------------------------------------------------------


class Deaf(agent.Site):  # type: ignore[misc]
    """A site whose answer to a finish is lost, after it did what it was asked for."""

    def ask(self, method: str, path: str, *more: Any) -> dict[str, Any]:
        answer: dict[str, Any] = super().ask(method, path, *more)
        if path.endswith("/finish"):
            raise agent.Gone("the answer is lost")
        return answer


@pytest.mark.parametrize("waits", [True, False])
def test_a_lost_answer_makes_a_double_only_for_a_device_that_does_not_wait_and_the_double_is_marked(
    tmp_path: Path, waits: bool
) -> None:
    said = settings(tmp_path, doubt_s=900.0 if waits else 0.0)
    with island(tmp_path / "alder") as alder, island(tmp_path / "birch", "--name", "birch") as birch:
        with contextlib.closing(agent.Queue(said)) as queue:
            dispatch, shown = agent.Dispatch(queue, said), agent.Credentials(said)
            queue.put([record(1)])
            deaf, near = Deaf(agent.address_of(alder.url), shown), agent.Site(agent.address_of(birch.url), shown)
            names = dispatch.greet(deaf), dispatch.greet(near)
            with pytest.raises(agent.Gone):
                dispatch.send(deaf, names[0], queue.next(names[0]))
            batch = queue.next(names[1])
            assert (batch is None) == waits
            if batch is not None:
                dispatch.send(near, names[1], batch)
            healed = agent.Site(agent.address_of(alder.url), shown)
            if (left := queue.next(names[0])) is not None:
                dispatch.send(healed, names[0], left)
            assert queue.backlog()["records"] == 0
            for site in (deaf, near, healed):
                site.close()
        held = [
            [one["marks"] for one in site.records() if one["source"].startswith("sensor/")] for site in (alder, birch)
        ]
        mark = f"seq={_stream(held)}:1"
        assert held == ([[[mark]], []] if waits else [[[mark]], [[mark, f"doubt={names[0]}"]]])


def _stream(held: list[list[list[str]]]) -> str:
    return held[0][0][0].removeprefix("seq=").removesuffix(":1")


# -- TLS and discovery --------------------------------------------------------------------------------------------


@contextlib.contextmanager
def tls(port: int, folder: Path, *hosts: str) -> Iterator[int]:
    """A proxy with a certificate in front of a port, as a site has one in front of its pages."""
    files = ensure_server_certificate(folder, hosts, 0)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.certificate, files.key)
    listener = socket.create_server(("127.0.0.1", 0))
    over = threading.Event()

    def pump(source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError, ValueError):
            while raw := source.recv(65_536):
                sink.sendall(raw)
        for one in (source, sink):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def serve(raw: socket.socket) -> None:
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            near = stack.enter_context(context.wrap_socket(raw, server_side=True))
            far = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
            back = threading.Thread(target=pump, args=(far, near), daemon=True)
            back.start()
            pump(near, far)
            back.join()
        raw.close()

    def accept() -> None:
        while not over.is_set():
            with contextlib.suppress(OSError):
                threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        over.set()
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


def test_over_tls_it_believes_its_own_authority_and_no_other(tmp_path: Path) -> None:
    with island(tmp_path / "alder") as site, tls(site.http, tmp_path / "ca", "127.0.0.1") as port:
        ensure_server_certificate(tmp_path / "other", ["127.0.0.1"], 0)
        url = f"https://127.0.0.1:{port}"
        config = configure(tmp_path, sites=[url], ca_file=str(tmp_path / "other" / "ca.pem"))
        put(config, [record(1).decode()])
        log = tmp_path / "agent.log"
        with running(config, log):
            eventually(log.read_text, lambda said: "certificate" in said.lower())
            assert numbers(site) == []
        configure(tmp_path, sites=[url], ca_file=str(tmp_path / "ca" / "ca.pem"))
        with running(config, log):
            eventually(lambda: numbers(site), lambda held: held == [1])


def test_it_finds_a_site_by_multicast_and_sends_only_where_its_authority_vouches(tmp_path: Path) -> None:
    """alder has a certificate of the pinned authority; mallory announces the same fingerprint, with another's."""
    ca = tmp_path / "ca"
    ensure_server_certificate(ca, ["127.0.0.1"], 0)
    announce = {"SKERRY_SENSOR_MDNS": "true", "SKERRY_SENSOR_MDNS_CA": str(ca / "ca.pem")}
    announce |= {"SKERRY_SENSOR_MDNS_INTERFACE": "127.0.0.1", "SKERRY_SENSOR_MDNS_NAME": "127.0.0.1"}
    with contextlib.ExitStack() as stack:
        ports = {}
        for name, authority in (("alder", ca), ("mallory", tmp_path / "mallory-ca")):
            port = free_port()
            found = {**announce, "SKERRY_SENSOR_MDNS_PORT": str(port)}
            site = stack.enter_context(island(tmp_path / name, "--name", name, environment=found))
            ports[name] = (site, stack.enter_context(_forwarded(port, site.http, authority)))
        config = configure(
            tmp_path, discover=True, discover_interface="127.0.0.1", ca_file=str(ca / "ca.pem"), control=False
        )
        put(config, [record(n).decode() for n in range(5)])
        with running(config, tmp_path / "agent.log"):
            eventually(lambda: numbers(ports["alder"][0]), lambda held: held == [0, 1, 2, 3, 4])
        assert numbers(ports["mallory"][0]) == []


@contextlib.contextmanager
def _forwarded(port: int, http: int, authority: Path) -> Iterator[int]:
    """TLS on a port that was announced before: in front of the one that the system chose."""
    with tls(http, authority, "127.0.0.1") as behind:
        listener = socket.create_server(("127.0.0.1", port))

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    near = listener.accept()[0]
                    far = socket.create_connection(("127.0.0.1", behind))
                    for source, sink in ((near, far), (far, near)):
                        threading.Thread(target=_copy, args=(source, sink), daemon=True).start()

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        try:
            yield behind
        finally:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
            thread.join()


def _copy(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while raw := source.recv(65_536):
            sink.sendall(raw)
    for one in (source, sink):
        with contextlib.suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)
        one.close()


# -- answers of a site that is none -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"nonsense\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n[1,2]",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n{",
        b'HTTP/1.1 200 OK\r\ncontent-length: 31\r\n\r\n{"state":"open","id":1,"ask":7}\n',
        b"HTTP/1.1 500 no\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 429 no\r\nretry-after: soon\r\ncontent-length: 2\r\n\r\n{}",
    ],
)
def test_whatever_a_stranger_answers_the_record_stays_and_nothing_falls(tmp_path: Path, answer: bytes) -> None:
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                line = listener.accept()[0]
                line.recv(65_536)
                line.sendall(answer)
                line.close()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    with contextlib.closing(agent.Queue(settings(tmp_path))) as queue:
        queue.put([record(1)])
        dispatch = agent.Dispatch(queue, settings(tmp_path))
        site = agent.Site(
            agent.Address("http", "127.0.0.1", listener.getsockname()[1], "x"),
            agent.Credentials(settings(tmp_path)),
            5.0,
        )
        with pytest.raises((agent.Gone, agent.No)):
            dispatch.send(site, "x", queue.next("x"))
        site.close()
        assert queue.backlog()["records"] == 1
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join()


def test_a_stop_is_orderly(tmp_path: Path) -> None:
    config = configure(tmp_path, sites=[f"http://127.0.0.1:{free_port()}"])
    with running(config, tmp_path / "agent.log") as process:
        eventually((tmp_path / "agent.log").read_text, lambda said: "probe" in said)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    assert "Traceback" not in (tmp_path / "agent.log").read_text()
