"""A line that served 200 sites comes back: 200 sites return at once, each with 5,000 events that nobody has. Does any of
them look old at the hub while all are drained?

The hub knows them: they are admitted and live before their line is cut, and write those events while they are away. Each
site has its own folder and log, and speaks over its own connection; they live in a few processes beside the hub, without
intake and pages. A node of each says something new every second, each at its own time: `ours` is how old that is at the
hub (p95 of all looks, of all sites, from a site's first present on), so up to a second of it passes before the node
speaks again; `lane` in the detail is from what the node said to the hub's commit. There is no peer; `peer` is the bound.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import multiprocessing
import os
import secrets
import sqlite3
import time
from collections.abc import Mapping, Sequence
from enum import IntEnum
from functools import partial
from multiprocessing.sharedctypes import Synchronized
from multiprocessing.synchronize import Semaphore
from pathlib import Path

import msgspec

from appliance.shelf import SiteShelf
from appliance.uplink import Uplink
from bench.mainland import BLOCK_EVENTS, Harbor, harbor, history, node_ids, place, wait_until
from fleet.events import Body
from fleet.limits import MS
from fleet.present import Present, Told
from store import link_file, peers
from store.database import connect_reader
from store.folder import Folder
from store.ground import Ground
from store.link_file import LinkFile
from store.shared import Shared
from sync.carrier import Carrier
from sync.jetstream import SiteEnd
from sync.link import Parcel
from sync.site import Me, Site

_SITES = int(os.environ.get("SKERRY_BENCH_SITES", "200"))
_EVENTS = 5_000
_NODES = 10
_WORKERS = 4
_BOUND_S = 2.0
_SAYS_S = 1.0
_LOOK_S = 0.25
_DRAINED_S_MAX = 100.0
_METRIC = "battery_pct"
_NICE = 10  # of the sites: in truth each has a machine of its own
_TICK_S = 0.5
_CALM_S = 2.0
_READY_S_MAX = 240.0


class _Phase(IntEnum):
    HERE = 0
    AWAY = 1
    BACK = 2
    OVER = 3


def run() -> dict[str, object]:
    names = [f"site-{number:03}" for number in range(_SITES)]
    with place() as root, harbor(root) as hub:
        fork = multiprocessing.get_context("fork")
        phase, away = fork.Value("i", _Phase.HERE), fork.Semaphore(0)
        for name in names:
            made = hub.call("POST", "/console/invite", {"name": name})
            folder = Folder(root / name)
            folder.prepare()
            link_file.write(folder.link_file, msgspec.convert(made, type=LinkFile))
        workers = [
            fork.Process(target=_worker, args=(root, names[number::_WORKERS], phase, away), daemon=True)
            for number in range(_WORKERS)
        ]
        for worker in workers:
            worker.start()
        try:
            wait_until(lambda: _all_live(hub, len(names)), _READY_S_MAX, pause_s=0.5)
            phase.value = _Phase.AWAY
            if not all(away.acquire(timeout=_READY_S_MAX) for _ in workers):
                raise RuntimeError("the sites are not ready")
            time.sleep(_CALM_S)
            known = hub.events()
            phase.value = _Phase.BACK
            looked = _watch(hub, len(names), known)
        finally:
            phase.value = _Phase.OVER
            for worker in workers:
                worker.join(10)
                worker.kill()
    ours = looked.pop("age_p95_s")
    return {
        "bench": "herd",
        "ours": ours,
        "peer": _BOUND_S,
        "ratio": round(ours / _BOUND_S, 3),
        "unit": "s that a live node of a site is old at the hub, p95, while all drain (peer: the bound)",
        "detail": {"sites": _SITES, "events_each": _EVENTS, **looked},
    }


def _all_live(hub: Harbor, count: int) -> bool:
    modes = [one["mode"] for one in hub.call("GET", "/console/links")["sites"]]
    return len(modes) == count and set(modes) == {"LIVE"}


def _watch(hub: Harbor, sites: int, known: int) -> dict[str, float]:
    """Look until all is drained: how old each site's live node is then, and what the hub takes. `known`: events that it
    had before."""
    began, began_ns = time.monotonic(), time.time_ns()
    ages: dict[str, list[float]] = {}
    said: dict[tuple[str, int], tuple[float, float]] = {}  # a present: how old when the site said it, how long to here
    shown_s = peak = 0.0
    drained_s = live_s = 0.0
    with contextlib.closing(connect_reader(hub.data / "site.db")) as db:
        while not live_s:
            now_s, now_ns = time.monotonic() - began, time.time_ns()
            if not drained_s:
                for present, site, told_ns, received_ns in peers.presents(db):
                    if told_ns < began_ns:
                        continue  # of the time before
                    at_ns = present.values[_METRIC].at_ns
                    ages.setdefault(site, []).append((now_ns - at_ns) / 1e9)
                    said[site, told_ns] = (told_ns - at_ns) / 1e9, (received_ns - told_ns) / 1e9
            shown_s = shown_s or (now_s if len(ages) == sites else 0.0)
            peak = max(peak, hub.rss_bytes() / 1e6)
            if not drained_s and hub.events() - known >= sites * _EVENTS:
                drained_s = now_s
            if drained_s and _all_live(hub, sites):
                live_s = now_s
            if now_s > _DRAINED_S_MAX:
                raise RuntimeError(f"{hub.events():,} of {sites * _EVENTS:,} events in {now_s:.0f} s")
            time.sleep(_LOOK_S)
    return {
        "age_p95_s": round(_p95([age for one in ages.values() for age in one]), 2),
        "worst_site_p95_s": round(max(map(_p95, ages.values())), 2),
        "lane_p95_s": round(_p95([waited + carried for waited, carried in said.values()]), 2),
        "lane_worst_site_p95_s": round(max(_p95(every) for every in _by_site(said).values()), 2),
        "said_p95_s": round(_p95([one for one, _ in said.values()]), 2),
        "carried_p95_s": round(_p95([one for _, one in said.values()]), 2),
        "presents_per_site_and_s": round(len(said) / sites / drained_s, 2),
        "all_shown_s": round(shown_s, 2),
        "drained_s": round(drained_s, 2),
        "all_live_s": round(live_s, 2),
        "events_per_s": round(sites * _EVENTS / drained_s),
        "hub_mb_peak": round(peak, 1),
    }


def _by_site(said: Mapping[tuple[str, int], tuple[float, float]]) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for (site, _), (waited, carried) in said.items():
        found.setdefault(site, []).append(waited + carried)
    return found


def _p95(ages: Sequence[float]) -> float:
    return sorted(ages)[len(ages) * 95 // 100]


# -- sites -------------------------------------------------------------------------------------------------------


def _worker(root: Path, names: Sequence[str], phase: Synchronized[int], away: Semaphore) -> None:
    asyncio.run(_live(root, names, phase, away))
    os._exit(0)  # what is left is thrown away


async def _live(root: Path, names: Sequence[str], phase: Synchronized[int], away: Semaphore) -> None:
    sites = [LightSite(root / name, name) for name in names]
    for site in sites:
        site.come()
    await _speak(sites, phase, _Phase.HERE)
    await asyncio.gather(*(site.leave() for site in sites))
    for site in sites:
        site.write(_EVENTS)
    os.nice(_NICE)
    away.release()
    while phase.value == _Phase.AWAY:  # noqa: ASYNC110  # of another process
        await asyncio.sleep(0.01)
    for site in sites:
        site.come()
    await _speak(sites, phase, _Phase.BACK)


async def _speak(sites: Sequence[LightSite], phase: Synchronized[int], during: _Phase) -> None:
    began = time.monotonic()
    for turn in itertools.count(1):
        if phase.value != during:
            return
        sites[turn % len(sites)].speak()
        await asyncio.sleep(max(began + turn * _SAYS_S / len(sites) - time.monotonic(), 0))


class LightSite:
    def __init__(self, data: Path, name: str) -> None:
        folder = Folder(data)
        file = link_file.read(folder.link_file)
        self._ground = ground = Ground(folder, file.tenant, name, lambda fault: None)
        if not ground.journal.head.seq:
            ground.begin("bench")
        (self._node_id,) = node_ids(1, seed=int(name[-3:]))
        self._nodes: dict[str, Present] = {}
        shelf = SiteShelf(
            ground.identity,
            ground.journal,
            ground.key,
            ground.public_key,
            Shared(ground.journal, ground.clock, owner=False),
            folder.segments,
            ground.clock,
            lambda: self._nodes,
            lambda changed: None,
            lambda intake, source, reason, raw: None,
            bytes.fromhex(file.secret),
            (file.hub_writer, bytes.fromhex(file.hub_key)),
        )
        me = Me(ground.identity.log, name, ground.public_key, ground.key.sign)
        self._uplink = Uplink(Site(me), shelf, secrets.token_bytes)
        self._file, self._ca = file, folder.hub_ca if file.ca else None
        if self._ca is not None:
            self._ca.write_text(file.ca)
        self._due_s = 0.0

    def come(self) -> asyncio.Task[None]:
        """Its line comes up; the task holds it."""
        file = self._file
        self._link = SiteEnd(file.urls, file.tenant, file.link, file.password, ca=self._ca)
        self._carrier = Carrier(self._link, self._turn)
        self._running = asyncio.create_task(self._carrier.run())
        self.speak()
        return self._running

    async def leave(self) -> None:
        while not self._running.done():  # more than once: `wait_for` may swallow a cancellation
            self._running.cancel()
            await asyncio.wait([self._running], timeout=0.2)
        await self._link.close()
        self._due_s = 0.0
        await self._turn(())

    def write(self, count: int) -> None:
        """Events that nobody has."""
        facts = history(count, node_ids(_NODES))
        for block in iter(lambda: list(itertools.islice(facts, BLOCK_EVENTS)), []):
            self._ground.writer.submit(partial(_stage, self._ground, block)).result()  # alone in its commit: one block

    def speak(self) -> None:
        """Its one node says something new."""
        now_ns = time.time_ns() // MS * MS
        told = Told(now_ns // MS % 100_000 / 1000, now_ns, "http")
        self._nodes = {
            self._node_id: Present(self._node_id, "drone", seen_ns=now_ns, seen_via="http", values={_METRIC: told})
        }
        self._due_s = 0.0
        self._carrier.wake()

    async def _turn(self, parcels: Sequence[Parcel]) -> Sequence[Parcel]:
        if not parcels and time.monotonic() < self._due_s:
            return ()  # with 200 sites on one machine, what is due now and then is due half as often
        self._due_s = time.monotonic() + _TICK_S
        now_ns, up = self._ground.clock.now_ns(), self._link.up
        said = await self._ground.writer.write(lambda db: self._uplink.work(db, parcels, up, now_ns))
        self._uplink.committed()
        return said


def _stage(ground: Ground, block: Sequence[tuple[str, Body]], db: sqlite3.Connection) -> None:
    for subject, body in block:
        ground.journal.stage(subject, body)
