"""T6: a site comes back with 100,000 events; and forty sites come back at once, one of them with 60,000 events and the
others with 1,000 each. All of it is at the hub once, byte for byte; who else is there is seen meanwhile; memory stays
bounded.

The broker, the hub, alder and birch are real processes; the forty are real sites without intake and pages, in two more.
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing.synchronize import Event
from pathlib import Path

import msgspec
import psutil
import pytest

from bench.herd import LightSite
from bench.mainland import backlog
from store import journal, link_file, peers
from store.folder import Folder
from store.link_file import LinkFile
from tests.cast import BOB, eventually, send_udp
from tests.mainland import Box, mainland

EVENTS = 100_000
SITES = 40
EVENTS_EACH = 1_000
EVENTS_HEAVY = 60_000  # of the first of the forty: while it drains, everybody is seen
HUB_BYTES_MAX = 512 * 1024 * 1024
SITE_BYTES_MAX = 256 * 1024 * 1024
PROCESSES = 2
SAYS_S = 0.5
DRAINED_S_MAX = 240.0

pytestmark = [pytest.mark.trial, pytest.mark.timeout(600)]


class Peaks(threading.Thread):
    """The most memory that each process had."""

    def __init__(self, *boxes: Box) -> None:
        super().__init__(daemon=True)
        self.over = threading.Event()
        self.bytes = dict.fromkeys((box.name for box in boxes), 0)
        self._watched = {box.name: psutil.Process(box.process.pid) for box in boxes if box.process is not None}

    def run(self) -> None:
        while not self.over.wait(0.1):
            for name, process in self._watched.items():
                self.bytes[name] = max(self.bytes[name], process.memory_info().rss)

    def __str__(self) -> str:
        return ", ".join(f"{name} {size >> 20} MiB" for name, size in self.bytes.items())


@contextlib.contextmanager
def watched(*boxes: Box) -> Iterator[Peaks]:
    peaks = Peaks(*boxes)
    peaks.start()
    try:
        yield peaks
    finally:
        peaks.over.set()
        peaks.join()


def events_here(hub: Box, writers: Sequence[str]) -> int:
    """Events of these logs that are committed at the hub."""
    marks = ",".join("?" * len(writers))
    sql = (
        "SELECT coalesce(sum(last), 0) FROM (SELECT max(last_seq) AS last FROM block JOIN log ON log.id=block.log_id"
        f" WHERE writer IN ({marks}) GROUP BY log.id)"
    )
    with contextlib.closing(hub.database()) as db:
        return int(db.execute(sql, writers).fetchone()[0])


def presents_here(hub: Box) -> dict[str, int]:
    """By the site that said it: when a node of it was last seen."""
    with contextlib.closing(hub.database()) as db:
        return {writer: present.seen_ns or 0 for present, writer, *_ in peers.presents(db)}


def all_is_there_once(hub: Box, sites: Mapping[Box, int]) -> None:
    """And at least so many events of each."""
    for site, events in sites.items():
        writer = site.writer()
        here, there = hub.log_of(writer), site.log_of(writer)
        assert len(here) >= events, site.name
        assert here == there[: len(here)], site.name  # byte for byte, in order, without a hole
    with contextlib.closing(hub.database()) as db:
        assert [one for one in journal.verify(db) if one.fault] == []
        assert db.execute("SELECT count(*) FROM branch").fetchone() == (0,)


def test_a_site_that_brings_a_hundred_thousand_events_hides_nobody(tmp_path: Path) -> None:
    writer = backlog(tmp_path / "alder", EVENTS)
    with mainland(tmp_path, "birch", "alder") as (hub, birch, alder), watched(hub, alder) as peaks:
        began_s, began_ns = time.monotonic(), time.time_ns()
        kestrel = {"source": f"syslog/{BOB}/kestrel", "name": "kestrel", "kind": "EDGE", "tags": []}
        birch.call("POST", "/api/v1/adopt", kestrel)
        seen: set[int] = set()

        def drained() -> bool:
            send_udp(birch.udp, b"<13>Nov 21 10:00:00 kestrel app: all is well")
            shown_ns = presents_here(hub).get(birch.writer(), 0)
            whole = events_here(hub, [writer]) >= EVENTS
            if not whole and shown_ns > began_ns:
                seen.add(shown_ns)
            return whole

        eventually(drained, seconds=DRAINED_S_MAX)
        took_s = time.monotonic() - began_s
        assert seen, "birch's drone said something, and nobody saw it"
        for name in ("alder", "birch"):
            eventually(lambda name=name: hub.site(name).get("mode") == "LIVE", seconds=60)  # type: ignore[misc]
        all_is_there_once(hub, {alder: EVENTS, birch: 1})
    print(f"\n{EVENTS:,} events in {took_s:.1f} s; birch was seen anew {len(seen)} times; {peaks}")
    assert peaks.bytes["harbor"] <= HUB_BYTES_MAX
    assert peaks.bytes["alder"] <= SITE_BYTES_MAX


def test_forty_sites_that_come_back_at_once_are_all_seen_while_they_drain(tmp_path: Path) -> None:
    names = [f"site-{number:03}" for number in range(SITES)]
    sites = {Box(tmp_path / name, "appliance", name): events for name, events in brings(names).items()}
    events = sum(sites.values())
    with mainland(tmp_path) as (hub,):
        for name in names:
            folder = Folder(tmp_path / name)
            folder.prepare()
            made = hub.call("POST", "/console/invite", {"name": name})
            link_file.write(folder.link_file, msgspec.convert(made, type=LinkFile))
        with herd(tmp_path, names) as go, watched(hub) as peaks:
            writers = [site.writer() for site in sites]
            seen: set[str] = set()
            began_s = time.monotonic()
            go.set()

            def drained() -> bool:
                shown = presents_here(hub)
                whole = events_here(hub, writers) >= events
                if not whole:
                    seen.update(shown)
                return whole

            eventually(drained, seconds=DRAINED_S_MAX)
            drained_s = time.monotonic() - began_s
            assert seen == set(writers)
            eventually(lambda: modes(hub), lambda found: found == ["LIVE"] * SITES, seconds=60)
            live_s = time.monotonic() - began_s
            all_is_there_once(hub, sites)
    print(f"\n{SITES} sites, {events:,} events in {drained_s:.1f} s, all LIVE after {live_s:.1f} s; {peaks}")
    assert peaks.bytes["harbor"] <= HUB_BYTES_MAX


def brings(names: Sequence[str]) -> dict[str, int]:
    return {name: EVENTS_EACH if number else EVENTS_HEAVY for number, name in enumerate(names)}


def modes(hub: Box) -> list[str]:
    return [str(one["mode"]) for one in hub.call("GET", "/console/links")["sites"]]


@contextlib.contextmanager
def herd(root: Path, names: Sequence[str]) -> Iterator[Event]:
    """The sites with their backlogs, ready; they come back when the event is set."""
    fork = multiprocessing.get_context("fork")
    go, over, ready = fork.Event(), fork.Event(), [fork.Event() for _ in range(PROCESSES)]
    every = list(brings(names).items())
    shares = [dict(every[number::PROCESSES]) for number in range(PROCESSES)]
    processes = [
        fork.Process(target=_herd, args=(root, share, done, go, over), daemon=True)
        for share, done in zip(shares, ready, strict=True)
    ]
    for process in processes:
        process.start()
    try:
        assert all(done.wait(120) for done in ready)
        yield go
    finally:
        go.set()
        over.set()
        for process in processes:
            process.join(10)
            process.kill()


def _herd(root: Path, sites: Mapping[str, int], ready: Event, go: Event, over: Event) -> None:
    for name, events in sites.items():
        backlog(root / name, events, name, nodes=10)
    ready.set()
    go.wait()
    asyncio.run(_live(root, list(sites), over))
    os._exit(0)  # what is left is thrown away


async def _live(root: Path, names: Sequence[str], over: Event) -> None:
    sites = [LightSite(root / name, name) for name in names]
    tasks = [site.come() for site in sites]
    while not over.is_set():
        for site in sites:
            site.speak()
        await asyncio.sleep(SAYS_S)
        for task in tasks:
            if task.done():
                task.result()
