"""Syslog with real senders: what `logger`, rsyslogd and Python send arrives, whole, under the right name and text."""

from __future__ import annotations

import asyncio
import logging
import logging.handlers
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from appliance.intake import syslog
from appliance.intake.gate import Entry, Gate
from appliance.intake.syslog_listeners import TCP, UDP, SourceNames, TcpListener, UdpListener
from fleet import limits
from fleet.reading import Reading
from store.faults import Fault, StoreFault
from store.frames import Offer
from store.ports import ListenProblem
from tests.cast import BOB, eventually, send_tcp, send_udp

NOW = 1_795_219_200_000_000_000
HOST = os.uname().nodename


class Heard(NamedTuple):
    source: str
    raw: bytes
    marks: tuple[str, ...]
    reading: Reading


class Shore:
    """Both listeners on one gate that nobody else empties."""

    def __init__(self) -> None:
        self.gate = Gate()
        self.udp = UdpListener(self.gate, "127.0.0.1", 0, now_ns=lambda: NOW)
        self.tcp = TcpListener(self.gate, "127.0.0.1", 0, now_ns=lambda: NOW)
        self.heard: list[Heard] = []

    def ports(self) -> tuple[int, int]:
        return self.udp.address[1], self.tcp.address[1]

    async def hear(self, count: int) -> list[Heard]:
        """The next messages, once so many are here."""
        deadline = time.monotonic() + 20
        while len(self.heard) < count and time.monotonic() < deadline:
            self.heard += [_read(offer) for entry in await self._take() for offer in entry.offers]
        assert len(self.heard) >= count, f"only {len(self.heard)} of {count} came"
        found, self.heard = self.heard[:count], self.heard[count:]
        return found

    async def _take(self) -> list[Entry]:
        return await asyncio.to_thread(self.gate.take, 0.0)


def _read(offer: Offer) -> Heard:
    return Heard(offer.source, offer.raw, offer.marks, syslog.parse(offer.raw, received_ns=offer.at_ns))


@pytest.fixture
async def shore() -> AsyncIterator[Shore]:
    async with listening() as made:
        yield made


@asynccontextmanager
async def listening() -> AsyncIterator[Shore]:
    made = Shore()
    made.udp.start()
    await made.tcp.start()
    try:
        yield made
    finally:
        await made.tcp.stop()
        await asyncio.to_thread(made.udp.stop)


def need(program: str) -> str:
    found = shutil.which(program) or shutil.which(program, path="/usr/sbin:/sbin")
    if found is None:
        pytest.skip(f"{program} is not installed here")
    return found


# -- logger (bsdutils) --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "flags",
    [
        ("-d",),
        ("-d", "--rfc3164"),
        ("-d", "--rfc5424=notime,nohost"),
        ("-T",),
        ("-T", "--octet-count"),
        ("-T", "--rfc3164"),
        ("-T", "--rfc3164", "--octet-count"),
    ],
    ids=" ".join,
)
async def test_logger_is_understood(shore: Shore, flags: tuple[str, ...]) -> None:
    udp, tcp = shore.ports()
    port = udp if "-d" in flags else tcp
    command = [need("logger"), "-n", "127.0.0.1", "-P", str(port), *flags, "-p", "local0.warning", "-t", "app1"]
    await asyncio.to_thread(subprocess.run, [*command, "battery_pct=41 all is well"], check=True)
    (heard,) = await shore.hear(1)
    name = "" if "nohost" in flags[-1] else HOST
    assert heard.source == f"syslog/127.0.0.1/{name}"
    assert (heard.reading.name or "") == name
    assert heard.reading.text == "battery_pct=41 all is well"
    assert heard.reading.severity == 4
    assert heard.reading.metrics == {"battery_pct": 41.0}
    assert heard.marks == ()
    assert "unparsed" not in heard.reading.marks


async def test_logger_sends_structured_data(shore: Shore) -> None:
    command = [
        need("logger"),
        "-n",
        "127.0.0.1",
        "-P",
        str(shore.ports()[0]),
        "-d",
        "--rfc5424",
        "--sd-id",
        "skerry@32473",
    ]
    command += ["--sd-param", 'battery_pct="63"', "--sd-param", 'temp_c="21.5"', "airborne"]
    await asyncio.to_thread(subprocess.run, command, check=True)
    (heard,) = await shore.hear(1)
    assert heard.reading.metrics["battery_pct"] == 63.0
    assert heard.reading.text == "airborne"


# -- rsyslogd -----------------------------------------------------------------------------------------------------

FORWARDS = {
    "hybrid over UDP": 'protocol="udp" port="{udp}"',
    "hybrid over TCP": 'protocol="tcp" port="{tcp}"',
    "RFC 5424, octets counted": 'protocol="tcp" port="{tcp}" template="RSYSLOG_SyslogProtocol23Format"'
    ' TCP_Framing="octet-counted"',
    "traditional, by line": 'protocol="tcp" port="{tcp}" template="RSYSLOG_TraditionalForwardFormat"'
    ' TCP_Framing="traditional"',
    "traditional over UDP": 'protocol="udp" port="{udp}" template="RSYSLOG_TraditionalForwardFormat"',
}


@contextmanager
def rsyslogd(folder: Path, forward: str) -> Iterator[Path]:
    """A daemon that forwards what is written to the socket it names."""
    device = Path("/tmp") / f"skerry-{os.getpid()}-{abs(hash(forward)) % 100_000}"  # a UNIX address is short
    (folder / "rsyslog.conf").write_text(
        f'global(workDirectory="{folder}")\n'
        f'module(load="imuxsock" SysSock.Use="off")\ninput(type="imuxsock" Socket="{device}")\n'
        f'action(type="omfwd" target="127.0.0.1" {forward})\n'
    )
    command = [need("rsyslogd"), "-n", "-f", str(folder / "rsyslog.conf"), "-i", str(folder / "pid")]
    daemon = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 15
        while not device.exists():
            assert daemon.poll() is None, "rsyslogd did not start"
            assert time.monotonic() < deadline
            time.sleep(0.02)
        yield device
    finally:
        daemon.send_signal(signal.SIGTERM)
        daemon.wait(15)
        device.unlink(missing_ok=True)


@pytest.mark.parametrize("form", FORWARDS)
async def test_rsyslogd_is_understood(shore: Shore, tmp_path: Path, form: str) -> None:
    udp, tcp = shore.ports()
    with rsyslogd(tmp_path, FORWARDS[form].format(udp=udp, tcp=tcp)) as device:
        lines = [f"battery_pct={number} by rsyslog" for number in range(20, 25)]
        say = [need("logger"), "-u", str(device), "-p", "user.err", "-t", "dev9"]
        for line in lines:
            await asyncio.to_thread(subprocess.run, [*say, line], check=True)
        heard = await shore.hear(len(lines))
    # Its RFC 5424 form keeps the space that stood behind the tag of the RFC 3164 message it was given.
    assert [(one.reading.text or "").lstrip() for one in heard] == lines
    assert [one.reading.metrics["battery_pct"] for one in heard] == [20, 21, 22, 23, 24]
    assert {one.source for one in heard} == {f"syslog/127.0.0.1/{HOST}"}
    assert {one.reading.severity for one in heard} == {3}
    assert {one.marks for one in heard} == {()}
    assert not any(one.raw.endswith(b"\n") for one in heard), "framing is not content"


# -- Python's own handler -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [socket.SOCK_DGRAM, socket.SOCK_STREAM])
async def test_python_s_handler_is_understood(shore: Shore, kind: socket.SocketKind) -> None:
    udp, tcp = shore.ports()
    port = udp if kind is socket.SOCK_DGRAM else tcp
    handler = logging.handlers.SysLogHandler(("127.0.0.1", port), socktype=kind)
    handler.ident = "pyapp: "
    try:
        for text in ("several\nlines", "second", "battery_pct=7"):
            handler.emit(logging.LogRecord("pyapp", logging.ERROR, "", 0, text, None, None))
    finally:
        handler.close()
    heard = await shore.hear(3)
    assert [one.reading.text for one in heard] == ["several\nlines", "second", "battery_pct=7"]
    assert heard[2].reading.metrics == {"battery_pct": 7.0}
    assert {one.source for one in heard} == {"syslog/127.0.0.1/"}, "it names no host"


# -- sizes --------------------------------------------------------------------------------------------------------


def message(size: int) -> bytes:
    head = b"<13>1 2026-11-21T05:40:26Z kestrel-1 app - - - "
    return head + b"x" * (size - len(head))


SIZES = [480, 2_048, 8_192, 65_000]


@pytest.mark.parametrize("size", SIZES)
async def test_messages_of_every_size_that_must_be_taken_arrive_whole(shore: Shore, size: int) -> None:
    raw = message(size)
    udp, tcp = shore.ports()
    await asyncio.to_thread(send_udp, udp, raw)
    await asyncio.to_thread(send_tcp, tcp, raw + b"\n")
    await asyncio.to_thread(send_tcp, tcp, b"%d %s" % (len(raw), raw))
    for heard in await shore.hear(3):
        assert (heard.raw, heard.marks) == (raw, ())
        assert heard.source == f"syslog/{BOB}/kestrel-1"


@pytest.mark.parametrize("size", [limits.record_bytes_max, limits.record_bytes_max + 1, 100_000, 1_000_000])
@pytest.mark.parametrize("counted", [False, True])
async def test_what_is_too_long_is_cut_and_marked_and_the_line_goes_on(shore: Shore, size: int, counted: bool) -> None:
    raw = message(size)
    framed = (b"%d %s" % (size, raw)) + b"9 <13>hello" if counted else raw + b"\n<13>hello\n"
    await asyncio.to_thread(send_tcp, shore.ports()[1], framed)
    long, short = await shore.hear(2)
    assert long.raw == raw[: limits.record_bytes_max]
    assert long.marks == (("oversize",) if size > limits.record_bytes_max else ())
    assert (short.raw, short.marks) == (b"<13>hello", ())


async def test_a_stream_that_breaks_off_leaves_what_it_said(shore: Shore) -> None:
    await asyncio.to_thread(send_tcp, shore.ports()[1], b"<13>whole\n<13>hal")
    whole, half = await shore.hear(2)
    assert (whole.raw, whole.marks) == (b"<13>whole", ())
    assert (half.raw, half.marks) == (b"<13>hal", ("cut",))


async def test_a_datagram_of_nothing_and_one_of_everything_are_kept(shore: Shore) -> None:
    junk = bytes(range(256))
    await asyncio.to_thread(send_udp, shore.ports()[0], b"", junk)
    assert [one.raw for one in await shore.hear(2)] == [b"", junk]


async def test_a_burst_of_the_longest_datagrams_fits_through_the_gate() -> None:
    """They wait in the kernel until the listener starts; what it offers at once must not be more than a gate holds."""
    shore = Shore()
    for number in range(1_400):
        await asyncio.to_thread(send_udp, shore.udp.address[1], b"%4d" % number + bytes(60_000))
    shore.udp.start()
    refused, heard, deadline = shore.gate.tally(UDP).refused, 0, time.monotonic() + 20
    while heard + sum(refused.values()) < 1_400 and time.monotonic() < deadline:
        heard += sum(len(entry.offers) for entry in await asyncio.to_thread(shore.gate.take, 0.0))
    await asyncio.to_thread(shore.udp.stop)
    assert heard + sum(refused.values()) == 1_400, "every one came or was counted"
    assert heard >= 100


# -- a shut gate, a busy port -------------------------------------------------------------------------------------


async def test_udp_that_the_gate_refuses_is_counted(shore: Shore) -> None:
    shore.gate.fault = StoreFault(Fault.FULL, "telemetry", "")
    await asyncio.to_thread(send_udp, shore.ports()[0], *(b"<13>%d" % number for number in range(50)))
    await asyncio.to_thread(eventually, lambda: shore.gate.tally(UDP).refused["full"], lambda count: count == 50)
    assert dict(shore.gate.tally(UDP).refused) == {"full": 50}


async def test_tcp_waits_while_the_gate_is_shut_and_loses_nothing(shore: Shore) -> None:
    shore.gate.fault = StoreFault(Fault.FULL, "telemetry", "")
    lines = [b"<13>%d" % number for number in range(500)]
    await asyncio.to_thread(send_tcp, shore.ports()[1], b"\n".join(lines) + b"\n")
    await asyncio.sleep(0.2)
    assert shore.gate.records == 0
    shore.gate.fault = None
    assert [one.raw for one in await shore.hear(500)] == lines
    assert sum(shore.gate.tally(TCP).refused.values()) == 0, "what waited was not refused"


async def test_what_still_waits_when_the_box_stops_is_counted() -> None:
    async with listening() as shore:
        shore.gate.fault = StoreFault(Fault.FULL, "telemetry", "")
        await asyncio.to_thread(send_tcp, shore.ports()[1], b"<13>one\n<13>two\n")
        await asyncio.sleep(0.2)
    assert sum(shore.gate.tally(TCP).refused.values()) == 2


async def test_more_connections_than_the_bound_are_turned_away_and_counted(
    shore: Shore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "tcp_connections_max", 2)
    lines = [await asyncio.open_connection("127.0.0.1", shore.ports()[1]) for _ in range(3)]
    assert await asyncio.wait_for(lines[2][0].read(), 10) == b""
    lines[0][1].write(b"<13>still here\n")
    assert [one.raw for one in await shore.hear(1)] == [b"<13>still here"]
    assert shore.gate.tally(TCP).refused["too many connections"] == 1
    for _, writer in lines:
        writer.close()


async def test_a_busy_port_is_named_with_the_way_out(shore: Shore) -> None:
    udp, tcp = shore.ports()
    with pytest.raises(
        ListenProblem, match=rf"syslog-udp cannot listen on 127\.0\.0\.1:{udp}: another program already"
    ):
        UdpListener(Gate(), "127.0.0.1", udp)
    with pytest.raises(ListenProblem, match="stop it or choose another port"):
        await TcpListener(Gate(), "127.0.0.1", tcp).start()
    with pytest.raises(ListenProblem, match="check the address"):
        UdpListener(Gate(), "192.0.2.1", 0)
    with pytest.raises(ListenProblem, match="check the address"):
        await TcpListener(Gate(), "no-such-host.invalid", 0).start()
    with pytest.raises(ListenProblem, match="check the address"):
        UdpListener(Gate(), "no-such-host.invalid", 0)


# -- source names -------------------------------------------------------------------------------------------------


def test_a_flood_of_invented_names_counts_for_its_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "sources_max", 10)
    names = SourceNames("syslog")
    for number in range(10):
        assert names.key("10.0.0.7", f"n{number}") == f"syslog/10.0.0.7/n{number}"
    assert names.key("10.6.6.6", "n10") == "syslog/10.6.6.6/"
    assert names.key("10.0.0.7", "n3") == "syslog/10.0.0.7/n3", "those known before keep their names"


@pytest.mark.parametrize("name", ["a/b", "../../etc", "å", "a b"])
def test_a_name_may_hold_anything_and_stays_the_name(name: str) -> None:
    from appliance.world import source_key

    assert source_key(SourceNames("syslog").key("10.0.0.7", name)).name == name
