"""T20: two thousand messages a second with bursts of ten thousand, over UDP, TCP and HTTP together: nothing is lost on
TCP and HTTP, what UDP loses is counted, and neither memory, descriptors nor logs grow."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import auditor
import cast
import httpx2
import pytest
from auditor import JournalWatch, Ledger
from producers import Field, Http, Producer, Tcp, rest, working

from bench.island import sender

SECONDS = float(os.environ.get("SECONDS", "36"))
WARM_S = 12.0  # until then caches fill
BURST_EVERY_S, BURST_S = 6.0, 1.0
UDP_PER_S, TCP_PER_S, HTTP_PER_S = 1_000, 500, 500
BURST_UDP_PER_S, BURST_TCP_PER_S, BURST_HTTP_PER_S = 5_000, 2_500, 2_500
WAL_BYTES_MAX = 64 * 1024 * 1024
RSS_GROWTH_BYTES_MAX = 96 * 1024 * 1024
DESCRIPTORS_GROWTH_MAX = 40
SILENCED_MESSAGES = 600_000
SEED = int(os.environ.get("SEED", "20261121"))

pytestmark = [pytest.mark.trial, pytest.mark.timeout(900)]


class Body(NamedTuple):
    """What a process takes at an instant."""

    rss_bytes: int
    descriptors: int
    wal_bytes: int


def body_of(site: cast.Site) -> Body:
    descriptors = len(os.listdir(f"/proc/{site.process.pid}/fd"))
    wal = 0
    for path in site.data.rglob("*-wal"):
        with contextlib.suppress(FileNotFoundError):  # sealed while we looked
            wal = max(wal, path.stat().st_size)
    return Body(site.rss_bytes(), descriptors, wal)


class Station:
    """A site under load: its numbers by a program's token, and the compiled sender beside it."""

    def __init__(self, site: cast.Site, client: httpx2.Client, program: Path) -> None:
        self.site, self._client = site, client
        self.blast = Blast(program, site)

    def metric(self, name: str, intake: str) -> float:
        """The sum of a metric over its other labels."""
        text = self._client.get("/metrics").text
        lines = re.findall(rf"^{name}\{{([^}}]*)\}} (\S+)$", text, re.MULTILINE)
        return sum(float(value) for labels, value in lines if f'intake="{intake}"' in labels)

    def refused(self, intake: str) -> float:
        return self.metric("skerry_intake_refused_total", intake)

    def quiet(self) -> bool:
        """Everything that was taken in is on the disk, and nothing more comes."""
        taken = self._taken()
        waiting = self._client.get("/intake?format=json").json()["gate_records"]
        time.sleep(0.5)
        return waiting == 0 and taken == self._taken()

    def _taken(self) -> list[float]:
        return [self.metric("skerry_intake_records_total", intake) for intake in ("syslog-udp", "syslog-tcp", "http")]


class Blast:
    """UDP by the compiled sender: Python would be the limit. Its messages need no ledger: they are counted."""

    def __init__(self, program: Path, site: cast.Site) -> None:
        self.sent = 0
        self._program, self._port = program, site.udp

    def go(self, per_s: int, seconds: float) -> None:
        command = [str(self._program), "127.0.0.1", str(self._port), str(per_s), str(seconds), "60"]
        said = subprocess.run(command, capture_output=True, check=True, text=True)
        self.sent += int(said.stdout.split()[0])


def stored_udp(found: auditor.Found) -> int:
    return sum(record.mid.startswith("drone-") for record in found.records)


def bursts(producers: Sequence[Producer], blast: Blast, seconds: float, reached: list[float]) -> None:
    """The rhythm of the run: calm, and every so often a second of storm; what each reached in messages a second."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        blast.go(UDP_PER_S, BURST_EVERY_S - BURST_S)
        for producer, per_s in zip(producers, (BURST_HTTP_PER_S, BURST_TCP_PER_S), strict=True):
            producer.per_s = per_s
        before, began = blast.sent + sum(producer.sent for producer in producers), time.monotonic()
        blast.go(BURST_UDP_PER_S, BURST_S)
        sent = blast.sent + sum(producer.sent for producer in producers) - before
        reached.append(sent / (time.monotonic() - began))
        for producer, per_s in zip(producers, (HTTP_PER_S, TCP_PER_S), strict=True):
            producer.per_s = per_s


@contextlib.contextmanager
def station(tmp_path: Path) -> Iterator[Station]:
    with cast.island(tmp_path / "alder") as site, site.client(site.token()) as client:
        yield Station(site, client, sender(tmp_path))


def test_bursts_lose_nothing_that_is_acknowledged_and_nothing_grows(tmp_path: Path) -> None:
    field, ledger, watch, bodies, warm = Field(), Ledger(), JournalWatch(), list[Body](), 0
    reached: list[float] = []
    web = Http(field, ledger, "web", str(SEED), HTTP_PER_S, batch=300)
    tcp = Tcp(field, ledger, "tcp", str(SEED), TCP_PER_S, batch=300)
    with station(tmp_path) as alder:
        site, blast = alder.site, alder.blast
        field.site = site
        with working(field, web, tcp):
            storm = threading.Thread(target=bursts, args=((web, tcp), blast, SECONDS, reached), daemon=True)
            storm.start()
            began = time.monotonic()
            while storm.is_alive():
                storm.join(0.25)
                bodies.append(body_of(site))
                if time.monotonic() - began < WARM_S:
                    warm = len(bodies)
            rest(field, web, tcp)
        cast.eventually(alder.quiet, seconds=120)
        counted = alder.refused("syslog-udp")
        assert alder.refused("syslog-tcp") == 0
        bodies.append(body_of(site))
        assert site.stop() == 0
    data = site.data
    found = auditor.on_disk(data)
    udp = stored_udp(found)
    own = auditor.Found([one for one in found.records if not one.mid.startswith("drone-")], found.gaps)
    for mid in ledger.sent:
        if mid.startswith("tcp-"):  # closed in order: what was sent must be there
            ledger.acknowledge(mid)
    problems = [
        *auditor.in_order(found),
        *auditor.contents(ledger, own),
        *watch.look(data),
        *auditor.cli_verifies(data),
    ]
    grown = bodies[-1].rss_bytes - max(body.rss_bytes for body in bodies[:warm])
    more = bodies[-1].descriptors - max(body.descriptors for body in bodies[:warm])
    wal = max(body.wal_bytes for body in bodies)
    print(
        f"T20 seed {SEED}: {len(ledger.sent) + blast.sent} messages in {SECONDS:.0f} s (udp {blast.sent}, tcp {tcp.sent},"
        f" http {web.sent}; bursts of {min(reached):.0f} to {max(reached):.0f}/s), udp lost"
        f" {blast.sent - udp}, counted {counted:.0f}, posts {dict(web.answers)};"
        f" RSS {bodies[-1].rss_bytes >> 20} MiB at the end, {grown / 2**20:+.0f} since warm; descriptors"
        f" {bodies[-1].descriptors}, {more:+d}; largest WAL {wal >> 20} MiB"
    )
    assert not problems, f"seed {SEED}: {problems}"
    assert set(web.answers) <= {200, 429}
    assert abs(blast.sent - udp - counted) <= blast.sent / 100
    assert wal <= WAL_BYTES_MAX
    assert grown <= RSS_GROWTH_BYTES_MAX
    assert more <= DESCRIPTORS_GROWTH_MAX


def test_what_udp_loses_while_nobody_reads_is_counted_and_told(tmp_path: Path) -> None:
    with station(tmp_path) as alder:
        site, blast = alder.site, alder.blast
        blast.go(2_000, 1.0)
        site.process.send_signal(signal.SIGSTOP)  # the buffer of the kernel fills, and then it drops
        try:
            blast.go(SILENCED_MESSAGES, 1.0)
        finally:
            site.process.send_signal(signal.SIGCONT)
        blast.go(2_000, 1.0)
        cast.eventually(alder.quiet, seconds=120)
        counted = alder.refused("syslog-udp")

        def told() -> Counter[str]:
            sums: Counter[str] = Counter()
            for event in site.events("intake.refused"):
                sums[event["body"]["intake"]] += event["body"]["messages"]
            return sums

        cast.eventually(lambda: told()["syslog-udp"] == counted, seconds=60)
        assert site.stop() == 0
    lost = blast.sent - stored_udp(auditor.on_disk(site.data))
    print(f"T20: {blast.sent} messages, {lost} lost while the process stood still, {counted:.0f} counted and told")
    assert lost > 0
    assert abs(lost - counted) <= blast.sent / 100
    assert not [*JournalWatch().look(site.data), *auditor.cli_verifies(site.data)]
