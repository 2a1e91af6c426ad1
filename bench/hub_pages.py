"""Every page of a hub with 1,000 sites, 100,000 nodes and 10 million events, while 2,000 events a second come in.

The past is put into the hub's folder with the store's own functions, each site's log chained and signed by its own key:
by the protocol ten million events take longer than ten minutes (`hub_ingest` says how long). SKERRY_BENCH_CACHE names a
folder in which that is kept for the next run. The sites that speak while
pages are asked for, `_LIVE` of the 1,000, come in by the protocol (`appliance.fleet_demo.LightSite`), in a process of
their own on the same cores. Times are taken at the other end of a loopback connection. There is no peer; `peer` is the
bound of 100 ms at the 95th percentile, `as_of` pages have 400 ms.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import multiprocessing
import os
import random
import re
import statistics
import time
from collections.abc import Sequence
from functools import reduce
from itertools import cycle, islice
from multiprocessing.synchronize import Event
from pathlib import Path
from urllib.parse import quote

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from appliance import fleet_story
from appliance.fleet_demo import LightSite, blocks_of
from appliance.fleet_story import Fact, Plan, Story
from bench.hub_ingest import cpu_s
from bench.mainland import Harbor, harbor, history, kept
from fleet import events
from fleet.envelope import EMPTY, Log
from fleet.limits import DAY, HOUR
from store import anew, journal, keys, link_file, peers
from store.database import connect, connect_reader
from store.folder import Folder
from store.link_file import LinkFile
from sync.protocol import State
from web.stale import PAUSE

Figures = dict[str, dict[str, float]]  # by page: ms, bytes, and how often it was no 200

_SITES = int(os.environ.get("SKERRY_BENCH_SITES", "1000"))
_EVENTS = int(os.environ.get("SKERRY_BENCH_EVENTS", "10000000"))
_NODES = 100  # of a site
_LIVE = 20
_PER_S = 2_000
_SAYS_S = 0.25
_DAYS, _DAYS_AGO = 21, 3
_OLD_S, _NEW_S = (3_600, _DAYS * 86_400), (1, 10)  # how far back it goes; domains and bundles were made a moment ago
_SEED = 11
_REQUESTS = int(os.environ.get("SKERRY_BENCH_REQUESTS", "60"))
_BOUND_MS, _BOUND_PAST_MS = 100.0, 400.0
_START_S_MAX = 1_200.0
_MARK = "said-"  # behind it stands when it was said
_MARKS = int(os.environ.get("SKERRY_BENCH_MARKS", "80"))
_QUIET_CORES = 0.3  # what a hub does that has nothing to catch up with


def run() -> dict[str, object]:
    plans = fleet_story.plans(_SITES, _NODES, _SEED)
    fork = multiprocessing.get_context("fork")
    ready, over = fork.Event(), fork.Event()
    began = time.monotonic()
    with kept(f"hub_pages-{_SITES}-{_EVENTS}", lambda root: _make(root, plans[_LIVE:])) as root:
        writers = _writers(root / "harbor", plans[_LIVE:])
        filled_s = time.monotonic() - began
        with harbor(root, ready_s=_START_S_MAX) as hub:
            _settle(hub)
            live = plans[:_LIVE]
            for plan in live:
                made = hub.call("POST", "/console/invite", {"name": plan.name})
                Folder(root / plan.name).prepare()
                link_file.write(Folder(root / plan.name).link_file, msgspec.convert(made, type=LinkFile))
            worker = fork.Process(target=_worker, args=(root, live, ready, over), daemon=True)
            worker.start()
            try:
                if not ready.wait(300):
                    raise RuntimeError("the sites are not live")
                figures, past, moved, arrivals, load = _measured(hub, writers, live)
            finally:
                over.set()
                worker.join(20)
                worker.kill()
    worst = max(one["p95_ms"] for one in figures.values())
    return {
        "bench": "hub_pages",
        "ours": worst,
        "peer": _BOUND_MS,
        "ratio": round(worst / _BOUND_MS, 3),
        "unit": "ms at p95, the slowest page or read (peer: the bound)",
        "not_answered_200": sum(
            one["not_answered_200"] for one in (*figures.values(), *past.values(), *moved.values())
        ),
        "detail": {
            "slowest_as_of_p95_ms": max(one["p95_ms"] for one in past.values()),
            "slowest_as_of_moved_p95_ms": max(one["p95_ms"] for one in moved.values()),
            "as_of_bound_ms": _BOUND_PAST_MS,
            "pages": figures,
            "as_of": past,
            "event_to_page": arrivals,
            "as_of_moved": moved,  # each time another moment, as whoever moves the slider asks
            "sites": _SITES,
            "nodes": _SITES * _NODES,
            "requests": _REQUESTS,
            "filled_s": round(filled_s),
            **load,
        },
    }


_NOT_OF_THE_PAST = ("/plan", "/account", "/metrics")


# -- the past ----------------------------------------------------------------------------------------------------------


def _make(root: Path, plans: Sequence[Plan]) -> None:
    """A hub's folder with the past of its sites, and the history of it."""
    with harbor(root):
        pass  # so that there is a hub's folder
    _fill(root / "harbor", plans)
    folder = Folder(root / "harbor")
    anew.make(folder.site_db, folder.history_db)


def _writers(data: Path, plans: Sequence[Plan]) -> list[str]:
    """Of the sites that do not speak any more, in the order of their plans."""
    with contextlib.closing(connect_reader(Folder(data).site_db)) as db:
        by_name = {peer.name: peer.writer for peer in peers.every(db, "default")}
    return [by_name[plan.name] for plan in plans]


def _fill(data: Path, plans: Sequence[Plan]) -> None:
    """Sites as they stand at a hub that has heard all they said."""
    each, now_ns = _EVENTS // _SITES, time.time_ns()
    with contextlib.closing(connect(Folder(data).site_db)) as db:
        db.execute("PRAGMA synchronous=0")  # what a disk loses here is made again
        (position,) = db.execute("SELECT coalesce(max(position), 0) FROM event").fetchone()
        for plan in plans:
            writer = keys.new_ulid(now_ns)
            key = Ed25519PrivateKey.generate()
            story = _story(plan, writer, each, now_ns)
            log, towards = Log("default", writer, 1), Log("default", keys.new_ulid(now_ns), 1)
            db.execute("BEGIN IMMEDIATE")
            log_id = journal.start_log(db, log, keys.public_bytes(key), now_ns)
            journal.start_log(db, towards, keys.public_bytes(key), now_ns)
            start = Fact(story.facts[0].wall_ns, writer, events.LogStarted("first", keys.public_bytes(key)))
            for block, facts in blocks_of(log, EMPTY, 0, [start, *story.facts[: each - 1]], key):
                said = zip(*((fact.body.KIND, fact.subject, fact.wall_ns) for fact in facts), strict=True)
                journal.insert_block(db, log_id, position + 1, block, *map(list, said))
                position += len(facts)
            heard_ns = now_ns - plan.behind_ns
            peer = peers.Peer(writer, "default", plan.name, keys.public_bytes(key), log_writer=towards.writer)
            peers.save(db, peer._replace(log_epoch=1, fence=1, since_ns=heard_ns, seen_ns=heard_ns))
            shown = [(present, writer, heard_ns, heard_ns) for present in story.nodes.values()]
            peers.save_present(db, shown, (), writer)
            db.execute("COMMIT")


def _story(plan: Plan, writer: str, count: int, now_ns: int) -> Story:
    """The site's story, with turns of state in between until it has `count` events."""
    upto_ns = now_ns - plan.behind_ns
    story = fleet_story.told(plan, writer, _DAYS, upto_ns)
    more = max(count - len(story.facts), 0)
    from_ns = upto_ns - (_DAYS - 1) * DAY
    step_ns = (upto_ns - HOUR - from_ns) // max(more, 1)
    turns = history(more, sorted(story.nodes), seed=plan.number)
    between = [Fact(from_ns + index * step_ns, subject, body) for index, (subject, body) in enumerate(turns)]
    return story._replace(facts=sorted([*story.facts, *between], key=lambda fact: fact.wall_ns))


# -- the sites that speak ----------------------------------------------------------------------------------------------


def _worker(root: Path, plans: Sequence[Plan], ready: Event, over: Event) -> None:
    asyncio.run(_speak(root, plans, ready, over))
    os._exit(0)  # what is left is thrown away


async def _speak(root: Path, plans: Sequence[Plan], ready: Event, over: Event) -> None:
    sites = [_site(root, plan) for plan in plans]
    for site in sites:
        site.sail()
    for site in sites:
        await site.until(lambda site=site: site.state is State.LIVE)  # type: ignore[misc]
    ready.set()
    dice = random.Random(_SEED)
    many = round(_PER_S * _SAYS_S / len(sites))
    began, turn = time.monotonic(), 0
    while not over.is_set():
        mark = (min(sites[0].nodes), events.VersionChanged("", f"{_MARK}{time.time_ns()}"))
        for site in sites:
            said = list(history(many, sorted(site.nodes), seed=turn))
            site.say([*said, mark] if site is sites[0] else said)
            site.speak(2, dice)
            await asyncio.sleep(0)
        turn += 1
        await asyncio.sleep(max(began + turn * _SAYS_S - time.monotonic(), 0))


def _site(root: Path, plan: Plan) -> LightSite:
    folder = Folder(root / plan.name)
    now_ns = time.time_ns()
    return LightSite(
        folder, plan.name, link_file.read(folder.link_file), lambda writer: fleet_story.told(plan, writer, 1, now_ns)
    )


# -- the clock ---------------------------------------------------------------------------------------------------------


def _settle(hub: Harbor) -> None:
    """Until the hub has nothing to catch up with. Nothing comes in yet."""
    deadline = time.monotonic() + _START_S_MAX
    while time.monotonic() < deadline:
        before = cpu_s(hub.process.pid)
        time.sleep(5)
        if (cpu_s(hub.process.pid) - before) / 5 < _QUIET_CORES:
            return


def _measured(
    hub: Harbor, writers: Sequence[str], live: Sequence[Plan]
) -> tuple[Figures, Figures, Figures, Figures, dict[str, float]]:
    token = hub.call("POST", "/api/v1/tokens", {"name": "bench", "role": "admin"})["secret"]
    nodes = [one["node"]["id"] for one in hub.call("GET", "/api/v1/nodes?limit=1")["nodes"]]
    bundles = [one["id"] for one in hub.call("GET", "/api/v1/policies")["groups"]]
    paths = _paths(nodes[0], writers[0], bundles[0], live[0])
    then = {name: path for name, path in paths.items() if not path.startswith(_NOT_OF_THE_PAST)}
    old = {name for name, path in then.items() if _there(hub, token, _as_of(path, _DAYS_AGO * 86_400))}
    rng = random.Random(_SEED)
    began, here, used_s = time.monotonic(), hub.events(), cpu_s(hub.process.pid)
    figures = {name: _times(hub, token, [path]) for name, path in paths.items()}
    past = {
        name: _times(hub, token, [_as_of(path, _DAYS_AGO * 86_400 if name in old else 1)])
        for name, path in then.items()
    }
    moved = {
        name: _times(
            hub, token, [_as_of(path, rng.uniform(*(_OLD_S if name in old else _NEW_S))) for _ in range(_REQUESTS)]
        )
        for name, path in then.items()
    }
    lasted = time.monotonic() - began
    here_now, used = hub.events() - here, cpu_s(hub.process.pid) - used_s
    node = next(iter(hub.call("GET", f"/api/v1/nodes?limit=1&site={quote(live[0].name)}")["nodes"]))["node"]["id"]
    arrivals = {
        name: _arrivals(hub, token, path, topic, part)
        for name, path, topic, part in (
            ("/nodes/{id}, its timeline", f"/nodes/{node}", f"node:{node}", "timeline"),
            ("/journal of that node", f"/journal?subject={node}", "journal", "live"),
        )
    }
    load = {
        "events": float(hub.events()),
        "events_per_s": round(here_now / lasted),
        "hub_cores": round(used / lasted, 2),
        "hub_mb": round(hub.rss_bytes() / 1e6, 1),
    }
    return figures, past, moved, arrivals, load


def _arrivals(hub: Harbor, token: str, path: str, topic: str, part: str) -> dict[str, float]:
    """From when a site said something until an open page shows it, as a browser keeps the page up to date: the stream
    says that it is stale, the page asks for its part again, and not more often than it may."""
    headers = {"authorization": f"Bearer {token}", "hx-request": "true", "hx-target": f"div#{part}"}
    pages, stream = (http.client.HTTPConnection("127.0.0.1", hub.http, timeout=60) for _ in range(2))
    pause_s, due, took = float(PAUSE.removesuffix("ms")) / 1000, 0.0, dict[int, float]()
    with contextlib.closing(pages), contextlib.closing(stream):
        stream.request("GET", f"/live?topic={quote(topic)}", headers={"authorization": f"Bearer {token}"})
        lines = stream.getresponse()
        shown: set[int] | None = None  # None: what the page showed when it was opened is not counted
        while len(took) < _MARKS:
            if not lines.readline().startswith(b"event: stale"):
                continue
            time.sleep(max(due - time.monotonic(), 0))
            due = time.monotonic() + pause_s
            pages.request("GET", path, headers=headers)
            body, at_ns = pages.getresponse().read(), time.time_ns()
            marks = {int(one) for one in re.findall(rb"said-(\d{19})", body)}
            for one in marks - shown if shown is not None else ():
                took[one] = (at_ns - one) / 1e9
            shown = marks | (shown or set())
    ordered = sorted(took.values())
    return {
        "p50_s": round(statistics.median(ordered), 3),
        "p95_s": round(ordered[int(len(ordered) * 0.95)], 3),
        "samples": len(ordered),
    }


def _there(hub: Harbor, token: str, path: str) -> bool:
    """A document that was made later was not there then."""
    connection = http.client.HTTPConnection("127.0.0.1", hub.http, timeout=60)
    with contextlib.closing(connection):
        connection.request("GET", path, headers={"authorization": f"Bearer {token}"})
        return connection.getresponse().status != 404


def _as_of(path: str, ago_s: float) -> str:
    return f"{path}{'&' if '?' in path else '?'}as_of={time.time_ns() - int(ago_s * 1e9)}"


def _paths(node_id: str, writer: str, bundle: str, live: Plan) -> dict[str, str]:
    """By the name in the table of figures. What a site's pages have and a hub's have not is not among them."""
    asked = (
        "/",
        "/?text=drone-07&reach=online&order=name",
        "/?reach=offline",
        f"/?site={quote(live.name)}",
        "/?kind=RELAY&order=rtt",
        "/?offset=50000",
        "/?order=battery",
        "/?order=seen&reach=online",
        f"/nodes/{node_id}",
        f"/nodes/{node_id}/authority",
        f"/domains/{live.name.partition('-')[0]}",
        f"/domains/{live.name.partition('-')[0]}/authority",
        "/attention",
        "/links",
        "/links?state=away&offset=100",
        f"/links/{writer}",
        "/policies",
        f"/policies/{bundle}",
        "/plan",
        "/quarantine",
        "/journal",
        "/audit",
        "/account",
        "/api/v1/nodes?limit=100",
        f"/api/v1/nodes/{node_id}",
        "/api/v1/events?after=0&limit=100",
        "/api/v1/attention",
        "/api/v1/links",
        "/api/v1/quarantine",
        "/metrics",
    )
    known = (node_id, writer, bundle)
    return {reduce(lambda name, one: name.replace(one, "{id}"), known, path): path for path in asked}


def _times(hub: Harbor, token: str, paths: Sequence[str]) -> dict[str, float]:
    """One after the other, over and over."""
    connection = http.client.HTTPConnection("127.0.0.1", hub.http, timeout=60)
    took: list[float] = []
    size = refused = 0
    for path in islice(cycle(paths), _REQUESTS):
        began = time.perf_counter()
        connection.request("GET", path, headers={"authorization": f"Bearer {token}"})
        answer = connection.getresponse()
        size = len(answer.read())
        took.append((time.perf_counter() - began) * 1000)
        refused += answer.status != 200
        time.sleep(0.05)
    connection.close()
    ordered = sorted(took)
    return {
        "p50_ms": round(statistics.median(took), 1),
        "p95_ms": round(ordered[int(len(ordered) * 0.95)], 1),
        "bytes": size,
        "not_answered_200": refused,
    }
