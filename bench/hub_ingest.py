"""1,000 sites are connected to a hub at once, each with events that nobody has: how many a second are verified, stored and
projected, on two cores that the sites and the broker share with it?

Each site has its own key, log and connection (`appliance.fleet_demo.LightSite`), in two processes beside the hub. Their
logs are signed and their sessions open before the clock starts; until then an operator lets the lane of the log stand
still. SKERRY_BENCH_CACHE names a folder in which the signed logs are kept for the next run. It stops when the last event
is committed at the hub. There is no peer; `peer` is the bound.
"""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import os
import resource
import time
from collections.abc import Sequence
from multiprocessing.synchronize import Event
from pathlib import Path

import msgspec

from appliance.fleet_demo import LightSite
from appliance.fleet_story import Fact, Story
from bench.mainland import Harbor, harbor, history, kept, node_ids
from fleet.present import Present
from store import link_file
from store.folder import Folder
from store.link_file import LinkFile
from sync.messages import Lane
from sync.protocol import State

_SITES = int(os.environ.get("SKERRY_BENCH_SITES", "1000"))
_EVENTS = int(os.environ.get("SKERRY_BENCH_EVENTS", "1000000"))
_NODES = 100  # of a site
_WORKERS = 2
_OPENING_MAX = 16  # sites of a process that connect at once
_BOUND_PER_S = 20_000
_READY_S_MAX = 600.0
_DONE_S_MAX = 600.0
_LOOK_S = 0.2
_SETTLED_S_MAX, _SETTLED_LOOK_S = 60.0, 2.0
_QUIET_CORES = 0.25
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def run() -> dict[str, object]:
    names = [f"site-{number:04}" for number in range(_SITES)]
    each = _EVENTS // _SITES
    fork = multiprocessing.get_context("fork")
    go, over = fork.Event(), fork.Event()
    ready = [fork.Event() for _ in range(_WORKERS)]
    began = time.perf_counter()
    with kept(f"hub_ingest-{_SITES}-{each}", lambda root: _make(root, names, each)) as root, harbor(root) as hub:
        made_s, began = time.perf_counter() - began, time.perf_counter()
        workers = [
            fork.Process(
                target=_worker, args=(root, names[n::_WORKERS], each, hub.line, ready[n], go, over), daemon=True
            )
            for n in range(_WORKERS)
        ]
        for worker in workers:
            worker.start()
        try:
            for one in ready:
                if not one.wait(_READY_S_MAX):
                    raise RuntimeError("the sites are not ready")
            opened_s = time.perf_counter() - began
            _settle(hub)
            figures = _clocked(hub, go, len(names) * each)
        finally:
            over.set()
            for worker in workers:
                worker.join(20)
                worker.kill()
    figures |= {"made_s": round(made_s, 1), "opened_s": round(opened_s, 1)}
    ours = figures["events_per_s"]
    return {
        "bench": "hub_ingest",
        "ours": ours,
        "peer": _BOUND_PER_S,
        "ratio": round(ours / _BOUND_PER_S, 2),
        "unit": "events/s of all sites, stored and projected (peer: the bound)",
        "detail": {"sites": _SITES, "events": len(names) * each, **figures},
    }


def _clocked(hub: Harbor, go: Event, events: int) -> dict[str, float]:
    idle_mb, before, used_s = hub.rss_bytes() / 1e6, hub.events(), cpu_s(hub.process.pid)
    began, peak_mb, here = time.perf_counter(), idle_mb, before
    go.set()
    while here < before + events:
        time.sleep(_LOOK_S)
        here, lasted = hub.events(), time.perf_counter() - began
        peak_mb = max(peak_mb, hub.rss_bytes() / 1e6)
        if lasted > _DONE_S_MAX:
            raise RuntimeError(f"{here - before:,} of {events:,} events in {lasted:.0f} s")
    return {
        "events_per_s": round((here - before) / lasted),
        "seconds": round(lasted, 1),
        "hub_cores": round((cpu_s(hub.process.pid) - used_s) / lasted, 2),
        "events_per_hub_core_s": round((here - before) / (cpu_s(hub.process.pid) - used_s)),
        "hub_mb_connected": round(idle_mb, 1),
        "hub_mb_peak": round(peak_mb, 1),
    }


def cpu_s(pid: int) -> float:
    """Processor time of a process so far, of all its threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S


def _settle(hub: Harbor) -> None:
    """Until the hub has done what the opening left to do."""
    deadline = time.monotonic() + _SETTLED_S_MAX
    while time.monotonic() < deadline:
        before = cpu_s(hub.process.pid)
        time.sleep(_SETTLED_LOOK_S)
        if (cpu_s(hub.process.pid) - before) / _SETTLED_LOOK_S < _QUIET_CORES:
            return


# -- sites -------------------------------------------------------------------------------------------------------------


def _make(root: Path, names: Sequence[str], events: int) -> None:
    """A hub that has invited its sites, and the sites with their signed logs. Nobody has said a word yet."""
    with harbor(root) as hub:
        for name in names:
            made = hub.call("POST", "/console/invite", {"name": name})
            folder = Folder(root / name)
            folder.prepare()
            link_file.write(folder.link_file, msgspec.convert(made, type=LinkFile))
    with multiprocessing.get_context("fork").Pool(_WORKERS) as pool:
        pool.starmap(_sign, [(root / name, name, events) for name in names])


def _sign(data: Path, name: str, events: int) -> None:
    asyncio.run(_site(data, name, events, 0).close())


def _worker(root: Path, names: Sequence[str], events: int, line: int, ready: Event, go: Event, over: Event) -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    logging.getLogger("asyncio").setLevel(logging.ERROR)  # it remarks on every TLS connection that ends
    asyncio.run(_live(root, names, events, line, ready, go, over))
    os._exit(0)  # what is left is thrown away


async def _live(root: Path, names: Sequence[str], events: int, line: int, ready: Event, go: Event, over: Event) -> None:
    sites = [_site(root / name, name, events, line) for name in names]
    for first in range(0, len(sites), _OPENING_MAX):
        opening = sites[first : first + _OPENING_MAX]
        for site in opening:
            site.sail()
        for site in opening:
            await site.until(lambda site=site: site.state is State.REPLAYING)
    ready.set()
    await asyncio.to_thread(go.wait)
    for site in sites:
        site.caps.paused = frozenset()
        site.wake()
    await asyncio.to_thread(over.wait)


def _site(data: Path, name: str, events: int, line: int) -> LightSite:
    number = int(name.rpartition("-")[2])
    ids = node_ids(_NODES, seed=number)

    def tell(writer: str) -> Story:
        shown = {node_id: Present(node_id, node_id[-6:]) for node_id in ids}
        if line:
            return Story([], shown, 0, {})  # its log was made ahead
        at_ns = time.time_ns()
        turns = history(events - 1, ids, seed=number)
        facts = [Fact(at_ns + index * 1_000_000, subject, body) for index, (subject, body) in enumerate(turns)]
        return Story(facts, shown, 0, {})

    file = link_file.read(Folder(data).link_file)
    urls = tuple(f"{url.rpartition(':')[0]}:{line}" for url in file.urls)  # where the hub is in this run
    site = LightSite(Folder(data), name, msgspec.structs.replace(file, url=urls), tell)
    site.caps.paused = frozenset({Lane.LOG})
    return site
