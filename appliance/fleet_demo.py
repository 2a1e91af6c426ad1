"""A fleet to look at: a hub as a process, and sites that are told, signed and synced like any other, many in one process.

Each site has a folder with its own key, identity, log and link file, and goes through `sync.site.Site` over a connection
of its own to the hub's broker; only intake and pages are missing. Its past (`fleet_story`) stands in its log before it
says its first hello, stamped with the times at which it happened. A few hundred sites stay connected and speak on; a
site that is cut off has said its last words by a clock that stands where it was cut off.

Rules of the file
  1  The hub hears of everything by the protocol alone, and of invitations and edits as from a person.
  2  A site's folder says how far it is; a second start goes on from there.
  3  A process holds so many sites at once and no more: those that return, and those that stay.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import multiprocessing
import os
import random
import resource
import secrets
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from functools import cache
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from urllib.parse import quote

import msgspec

from appliance import fleet_story
from appliance.demo import HUB, Running, check_free, people, start, wait_until_ready
from appliance.fleet_story import HISTORY_DAYS_MAX, SITES_MAX, Fact, Fate, Plan, Story
from appliance.shelf import SiteShelf
from appliance.uplink import Uplink
from fleet import envelope, events, hlc
from fleet.document import Id
from fleet.document import Kind as DocumentKind
from fleet.envelope import Block, Head, Log, PrivateKey
from fleet.events import Body, Clock
from fleet.limits import MS
from fleet.present import Present
from store import journal, keys, link_file
from store.clock import WallClock
from store.control import NotRunning, Refusal, call
from store.database import connect, connect_reader
from store.folder import Folder, bring_up
from store.journal import Identity, Journal
from store.link_file import LinkFile
from store.ports import ListenProblem, free_port
from store.shared import Shared
from sync import messages, stream
from sync.carrier import Carrier
from sync.jetstream import SiteEnd
from sync.link import LinkDown, Parcel
from sync.messages import LogHead
from sync.protocol import Caps, State
from sync.site import Me, Shelf, Site

T = TypeVar("T")

NODES = 100  # of a site
WORKERS = 2
RETURNING_MAX = 12  # sites of one process that bring their past at once
LIVE_MAX = 300  # sites that stay connected, over all processes
SLOW_BYTES_PER_S = 150
BLOCK_EVENTS = 500
_RETURN_S_MAX = 600.0
_LOOK_S = 0.1
_TURN_S = 1.0  # what a connected site does by itself; the protocol asks for once a second
_SAYS_S = 5.0
_SAYS_NODES = 12
_CACHE_KIB = 512  # of one site's database
_NICE = 5  # of the sites: the hub's pages go first
_TELL_S = 5.0
_CONFLICTS = 3
_TOLD = "past told"  # in a site's table meta
_PROGRAM = "skerry demo --fleet"


class Order(NamedTuple):
    """What was asked for. What a folder holds already goes on as it was begun."""

    sites: int
    days: int
    seed: int

    @property
    def problem(self) -> str:
        """Why no such fleet can be made; empty when it can."""
        for value, most, words in ((self.sites, SITES_MAX, "sites"), (self.days, HISTORY_DAYS_MAX, "days of history")):
            if not 1 <= value <= most:
                return f"a fleet has 1 to {most:,} {words}, not {value:,}"
        return ""


class Begun(msgspec.Struct, frozen=True):
    """Kept beside the sites, so that every start tells the same story."""

    sites: int
    nodes: int
    days: int
    seed: int
    began_ns: int
    line: int  # the port where the hub is found, as the sites' link files say


def run(data: Path, order: Order, *, as_json: bool, port: int) -> int:
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    data = data.absolute()
    children: list[subprocess.Popen[bytes]] = []
    workers: list[Any] = []
    over = multiprocessing.Event()
    try:
        if order.problem:
            raise Refusal(order.problem)
        check_free(data / HUB / "control.sock")
        begun = _begun(data / "fleet", order, free_port(4222 if port else 0))
        with (data / "demo.log").open("ab") as log:
            hub = _hub(data, port, begun.line, log, children)
        _tell(as_json, hub, begun)
        plans = fleet_story.plans(begun.sites, begun.nodes, begun.seed)
        fork = multiprocessing.get_context("fork")
        done, said = fork.Value("q", 0), fork.Value("q", 0)
        for number in range(WORKERS):
            part = _Part(data, begun, plans[number::WORKERS], done, said)
            worker = fork.Process(target=_work, args=(part, over), daemon=True)
            worker.start()
            workers.append(worker)
        _watch(as_json, len(plans), done, said, lambda: _ended(children, workers))
        while not _ended(children, workers):
            time.sleep(0.3)
        return 1
    except KeyboardInterrupt:
        return 0
    except (NotRunning, Refusal, ListenProblem) as problem:
        _note(f"skerry demo: {problem}")
        return 1
    finally:
        over.set()
        for worker in workers:
            worker.join(20)
            worker.kill()
        for child in children:
            child.send_signal(signal.SIGTERM)
        for child in children:
            try:
                child.wait(30)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()


def _ended(children: Sequence[subprocess.Popen[bytes]], workers: Sequence[Any]) -> bool:
    return any(child.poll() is not None for child in children) or any(not worker.is_alive() for worker in workers)


def _begun(fleet: Path, order: Order, line: int) -> Begun:
    """What this folder was begun with; entered now if it is new."""
    fleet.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = fleet / "fleet.json"
    if path.exists():
        try:
            held = msgspec.json.decode(path.read_bytes(), type=Begun)
        except (msgspec.MsgspecError, OSError) as error:
            raise NotRunning(f"{path} cannot be read ({error}); give the demo another --data") from error
        if (held.sites, held.days) != (order.sites, order.days):
            _note(f"{fleet.parent} holds a fleet of {held.sites} sites, {held.days} days; it goes on.")
        if free_port(held.line) != held.line:
            raise NotRunning(f"port {held.line} is taken, and there the sites of {fleet} look for their hub; free it")
        return held
    made = Begun(order.sites, NODES, order.days, order.seed, time.time_ns() // MS * MS, line)
    path.write_bytes(msgspec.json.encode(made))
    return made


def _hub(data: Path, port: int, line: int, log: Any, children: list[subprocess.Popen[bytes]]) -> Running:
    http = f"127.0.0.1:{free_port(port)}"
    child = start("hub", data / HUB, HUB, log, "--http", http, "--link", f"127.0.0.1:{line}")
    children.append(child)
    wait_until_ready(data / HUB / "control.sock", child, data / "demo.log", HUB)
    return Running(HUB, data / HUB, http, *people(data / HUB / "control.sock"))


def _tell(as_json: bool, hub: Running, begun: Begun) -> None:
    nodes = begun.sites * begun.nodes
    if as_json:
        held = {"url": f"http://{hub.http}", "token": hub.token, "data": str(hub.data)}
        _say(json.dumps({"hub": held, "fleet": {"sites": begun.sites, "nodes": nodes}}))
        return
    _say(
        f"Hub {hub.name}: {begun.sites:,} sites with {nodes:,} nodes come in now\n\n"
        f"  open     http://{hub.http}/enter/{hub.link}\n"
        f"  token    {hub.token} (viewer, for scripts)\n\n"
        f"Data is kept in {hub.data.parent}; remove that folder yourself when you are done.\n"
        "Stop with Ctrl-C; the next start on that folder goes on from there.\n"
    )


def _say(words: str) -> None:
    sys.stdout.write(words + "\n")
    sys.stdout.flush()


def _note(words: str) -> None:
    sys.stderr.write(words + "\n")


def _watch(
    as_json: bool, sites: int, done: Synchronized[int], said: Synchronized[int], ended: Callable[[], bool]
) -> None:
    """Tell how far it is until every site has told its past."""
    began, told_s, first = time.monotonic(), 0.0, done.value
    line = "\r{}\033[K" if sys.stderr.isatty() else "{}\n"
    while done.value < sites and not ended():
        lasted = time.monotonic() - began
        if sys.stderr.isatty() or lasted - told_s > _TELL_S:
            told_s = lasted
            sys.stderr.write(line.format(progress(done.value, first, sites, said.value, lasted)))
            sys.stderr.flush()
        time.sleep(0.5)
    lasted = time.monotonic() - began
    if ended():
        return
    if as_json:
        _say(json.dumps({"filled": {"events": said.value, "seconds": round(lasted, 1)}}))
    else:
        words = f"{sites:,} sites, {said.value:,} events in {_minutes(lasted)}; the live ones speak on."
        sys.stderr.write(line.format(words) + ("\n" if sys.stderr.isatty() else ""))


def progress(done: int, first: int, sites: int, said: int, lasted_s: float) -> str:
    """One line. `first` sites were there at the start."""
    words = f"{done:,} of {sites:,} sites · {said:,} events"
    if lasted_s > 0 and done > first:
        words += f" · {said / lasted_s:,.0f}/s · {_minutes((sites - done) * lasted_s / (done - first))} left"
    return words


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


# -- sites of one process ----------------------------------------------------------------------------------------------


class _Part(NamedTuple):
    """What one process does; `done` are its and others' sites that have told their past, `said` their events."""

    data: Path
    begun: Begun
    plans: Sequence[Plan]
    done: Synchronized[int]
    said: Synchronized[int]


def _work(part: _Part, over: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which says when it is over
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    logging.getLogger("asyncio").setLevel(logging.ERROR)  # it remarks on every TLS connection that ends
    os.nice(_NICE)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    asyncio.run(_sail(part, over))


async def _sail(part: _Part, over: Any) -> None:
    returning = asyncio.Semaphore(RETURNING_MAX)
    berths = LIVE_MAX // WORKERS
    staying = [plan for plan in part.plans if plan.fate in _STAYS][:berths]
    stays = {plan.number for plan in staying}
    tasks = [asyncio.create_task(_site(part, plan, returning, plan.number in stays)) for plan in part.plans]
    while not over.is_set():
        for task in [task for task in tasks if task.done()]:
            tasks.remove(task)
            try:
                task.result()
            except (NotRunning, Refusal, OSError) as problem:  # one site of a thousand
                _note(f"skerry demo: {problem}")
                _count(part, 0)
        await asyncio.sleep(_LOOK_S)
    os._exit(0)  # what sites committed is on their disks, and the hub ends too: closing hundreds of lines is for nobody


_STAYS = (Fate.LIVE, Fate.CONFLICT, Fate.SLOW)


async def _site(part: _Part, plan: Plan, returning: asyncio.Semaphore, stays: bool) -> None:
    """One site from its past to the end of the demo."""
    folder = Folder(part.data / "fleet" / plan.name)
    async with returning:
        if not stays and _is_told(folder):
            _count(part, 0)
            return
        site = _light(folder, plan, part.begun, await _invited(part.data, folder, plan.name))
        fresh = site.receipts() == 0
        slow = plan.fate is Fate.SLOW
        site.sail()
        try:
            await site.until(lambda: slow or site.state is State.LIVE)
            if fresh and plan.fate is Fate.CONFLICT:
                await _conflict(part.data, site)
            if fresh and plan.fate is Fate.CLONED:
                await _clone(part, plan, site)
        except BaseException:
            await site.close()
            raise
        _count(part, site.events if fresh and not slow else 0)
        if not stays:
            await site.close()
            return
    try:
        dice = random.Random()
        while True:
            await asyncio.sleep(_SAYS_S * dice.uniform(0.5, 1.5))
            site.speak(_SAYS_NODES, dice)
    finally:
        await site.close()


def _light(folder: Folder, plan: Plan, begun: Begun, file: LinkFile) -> LightSite:
    def tell(writer: str) -> Story:
        return fleet_story.told(plan, writer, begun.days, begun.began_ns - plan.behind_ns)

    slow = SLOW_BYTES_PER_S if plan.fate is Fate.SLOW else 0
    return LightSite(folder, plan.name, file, tell, plan.behind_ns, slow)


def _count(part: _Part, said: int) -> None:
    with part.said.get_lock():
        part.said.value += said
    with part.done.get_lock():
        part.done.value += 1


def _is_told(folder: Folder) -> bool:
    """Whether both have signed for the site's past."""
    if not folder.site_db.exists():
        return False
    with closing(connect_reader(folder.site_db)) as db:
        return db.execute("SELECT 1 FROM receipt WHERE length(site_signature) > 0 LIMIT 1").fetchone() is not None


async def _invited(data: Path, folder: Folder, name: str) -> LinkFile:
    """By an operator's command, once."""
    if not folder.link_file.exists():
        folder.link_file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        control = data / HUB / "control.sock"
        made = await asyncio.to_thread(call, control, "POST", "/console/invite", {"name": name})
        link_file.write(folder.link_file, msgspec.convert(made, type=LinkFile))
    return link_file.read(folder.link_file)


async def _conflict(data: Path, site: LightSite) -> None:
    """While the site is away, somebody at the hub and somebody at the site write into the same fields."""
    await site.leave()
    control = data / HUB / "control.sock"
    for node_id in site.edited[:_CONFLICTS]:
        path = f"/api/v1/nodes/{quote(node_id)}"
        for field, value in (("notes", "ops: leave it on the ground"), ("maintenance_window", "Sun 02:00-04:00")):
            await asyncio.to_thread(call, control, "PATCH", path, {"field": field, "value": value})
        site.edit({node_id: {"notes": "crew: flies again after the repair", "maintenance_window": "Sat 08:00-10:00"}})
    site.sail()
    await site.until(lambda: site.state is State.LIVE)


async def _clone(part: _Part, plan: Plan, site: LightSite) -> None:
    """The card is copied; the site goes on, and then the copy says something else in its name."""
    await site.leave()
    copy = Folder(part.data / "fleet" / f"{plan.name}.copy")
    shutil.copytree(site.folder.root, copy.root, dirs_exist_ok=True)
    site.speak(_SAYS_NODES, random.Random(plan.seed))
    site.say([(site.writer, events.LinkChanged("", "restored", "", "crew"))])
    site.sail()
    await site.until(lambda: site.covered)
    await site.leave()
    twin = _light(copy, plan, part.begun, link_file.read(copy.link_file))
    twin.say([(twin.writer, events.LinkChanged("", "cut", "", "mallory"))])
    twin.sail()
    try:
        await twin.until(lambda: twin.state is State.QUARANTINED)
    finally:
        await twin.close()


# -- a site ------------------------------------------------------------------------------------------------------------


class PastClock(WallClock):
    """A site's clock: `behind_ns` late, or standing at `at_ns`."""

    def __init__(self, behind_ns: int) -> None:
        super().__init__()
        self.behind_ns, self.at_ns = behind_ns, 0

    def now_ns(self) -> int:
        return self.at_ns or super().now_ns() - self.behind_ns

    def confidence(self) -> Clock:
        return Clock.SYNCED


class _LightEnd(Site):
    """A compressor of a site takes ten megabytes; hundreds of sites in one process take the hub's small one."""

    def _restream(self, number: int, heads: Sequence[LogHead], shelf: Shelf) -> None:
        super()._restream(number, heads, shelf)
        self._packer = stream.Packer(stream.LEVEL_HUB)


@cache
def _empty_db() -> bytes:
    """site.db as every box begins with it."""
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "site.db"
        bring_up(made)
        return made.read_bytes()


def blocks_of(
    log: Log, head: Head, stamp: int, facts: Sequence[Fact], key: PrivateKey
) -> Iterator[tuple[Block, Sequence[Fact]]]:
    """Blocks after `head` and the hybrid stamp `stamp`, with each event at its own time: what many commits would have
    made, with fewer signatures."""
    for first in range(0, len(facts), BLOCK_EVENTS):
        part = facts[first : first + BLOCK_EVENTS]
        raws: list[bytes] = []
        for seq, (wall_ns, subject, body) in enumerate(part, head.seq + 1):
            stamp = hlc.tick(stamp, wall_ns // MS)
            one = (subject, body, events.encode_body(body))
            raws += events.encode_all(seq, stamp, wall_ns, Clock.SYNCED, [one])
        block = envelope.seal(log, head, raws, key)
        head = block.head
        yield block, part


def _make_db(path: Path) -> None:
    """A new one where there is none, or one whose past was not told to its end: nobody has heard of that one."""
    if path.exists():
        with closing(connect(path)) as db:
            told = db.execute("SELECT 1 FROM meta WHERE key=?", (_TOLD,)).fetchone()
        if told is not None:
            return
        for part in (path, *path.parent.glob(f"{path.name}-*")):
            part.unlink()
    path.write_bytes(_empty_db())


class LightSite:
    """A site without intake and pages: its folder, log, documents and line. Transactions run at once, on the caller's
    thread, and are not waited for on the disk: power that fails takes the whole demo."""

    def __init__(
        self,
        folder: Folder,
        name: str,
        file: LinkFile,
        tell: Callable[[str], Story],
        behind_ns: int = 0,
        per_s: int = 0,
    ) -> None:
        """`tell` is asked for the story by the log's writer. `behind_ns`: the site's clock is so late. `per_s`: a cap on
        its line in bytes, 0 for none."""
        self.folder, self.name, self._file = folder, name, file
        self._clock = PastClock(behind_ns)
        folder.segments.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._key = keys.load_or_create(folder.writer_key)
        self._public_key = keys.public_bytes(self._key)
        _make_db(folder.site_db)
        self._db = connect(folder.site_db)
        self._db.execute("PRAGMA synchronous=1")
        self._db.execute(f"PRAGMA cache_size=-{_CACHE_KIB}")
        held = journal.read_identity(self._db)
        self._identity = held or self._begin(Log(file.tenant, keys.new_ulid(self._clock.now_ns()), 1))
        self._journal = Journal(self._identity.log, self._key, self._clock)
        self._journal.opened(self._db)
        self._shared = Shared(self._journal, self._clock, owner=False)
        story = tell(self.writer)
        if not self._journal.head.seq:
            self._past(story)
        self.nodes: dict[str, Present] = dict(story.nodes)
        self.edited = tuple(story.edits)
        self._shelf = SiteShelf(
            self._identity,
            self._journal,
            self._key,
            self._public_key,
            self._shared,
            folder.segments,
            self._clock,
            lambda: self.nodes,
            lambda changed: None,
            lambda intake, source, reason, raw: None,
            bytes.fromhex(file.secret),
            (file.hub_writer, bytes.fromhex(file.hub_key)),
        )
        self.caps = Caps(per_s=per_s)
        me = Me(self._identity.log, name, self._public_key, self._key.sign, _PROGRAM)
        self._uplink = Uplink(_LightEnd(me, self.caps), self._shelf, secrets.token_bytes)
        self._link: SiteEnd | None = None
        self._carrier: Carrier | None = None
        self._carrying: asyncio.Task[None] | None = None
        self._due_s = 0.0

    @property
    def writer(self) -> str:
        return self._identity.log.writer

    @property
    def state(self) -> State:
        return self._uplink.site.state

    @property
    def events(self) -> int:
        return self._journal.head.seq

    @property
    def covered(self) -> bool:
        """Live, and the hub has acknowledged all that is in the log."""
        site = self._uplink.site
        return site.state is State.LIVE and site.acked.get(self._journal.log.epoch, 0) >= self.events

    def receipts(self) -> int:
        (count,) = self._db.execute("SELECT count(*) FROM receipt WHERE length(site_signature) > 0").fetchone()
        return int(count)

    # -- its past ---------------------------------------------------------------------------------------------------

    def _begin(self, log: Log) -> Identity:
        identity = Identity(log, self.name)
        self._db.execute("BEGIN IMMEDIATE")
        journal.write_identity(self._db, identity)
        journal.start_log(self._db, log, self._public_key, self._clock.now_ns())
        self._db.execute("COMMIT")
        return identity

    def _past(self, story: Story) -> None:
        """Its story into its log: facts, what people wrote, and the facts since."""
        first = [fact for fact in story.facts if fact.wall_ns < story.edited_ns]
        self._append(first)
        if story.edits:
            self._clock.at_ns = story.edited_ns
            self.edit(story.edits)
            self._clock.at_ns = 0
        self._append(story.facts[len(first) :])
        self._db.execute("INSERT INTO meta VALUES (?, '1')", (_TOLD,))

    def _append(self, facts: Sequence[Fact]) -> None:
        log, head, now_ns = self._identity.log, self._journal.head, self._clock.now_ns()
        if not head.seq and facts:
            started = events.LogStarted("first", self._public_key)
            facts = [Fact(facts[0].wall_ns, log.writer, started), *facts]
        stamp = self._journal.stamp() if head.seq else 0
        self._db.execute("BEGIN IMMEDIATE")
        log_id = journal.start_log(self._db, log, self._public_key, now_ns)
        for block, part in blocks_of(log, head, stamp, facts, self._key):
            kinds, subjects = [fact.body.KIND for fact in part], [fact.subject for fact in part]
            walls_ns = [fact.wall_ns for fact in part]
            journal.insert_block(self._db, log_id, block.first_seq, block, kinds, subjects, walls_ns)
        self._db.execute("COMMIT")
        self._journal.opened(self._db)

    # -- what it does -----------------------------------------------------------------------------------------------

    def _run(self, job: Callable[[sqlite3.Connection], T]) -> T:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            result = job(self._db)
            self._journal.seal(self._db)
            self._db.execute("COMMIT")
        except BaseException:
            self._db.execute("ROLLBACK")
            self._journal.rolled_back()
            raise
        self._journal.committed()
        return result

    def say(self, facts: Sequence[tuple[str, Body]]) -> None:
        def job(db: sqlite3.Connection) -> None:
            for subject, body in facts:
                self._journal.stage(subject, body)

        self._run(job)

    def edit(self, edits: Mapping[str, Mapping[str, str]]) -> None:
        def job(db: sqlite3.Connection) -> None:
            for node_id, values in edits.items():
                self._shared.edit(db, Id(self._identity.log.tenant, DocumentKind.NODE, node_id), values, "crew")

        self._run(job)

    def speak(self, nodes: int, dice: random.Random) -> None:
        """Some of its nodes say something new."""
        now_ns, fresh, facts = self._clock.now_ns(), dict(self.nodes), []
        for node_id in dice.sample(sorted(fresh), min(nodes, len(fresh))):
            fresh[node_id], body = fleet_story.step(fresh[node_id], now_ns, dice)
            facts += [(node_id, body)] if body is not None else []
        self.nodes = fresh
        if facts:
            self.say(facts)
        self.wake()

    # -- its line ---------------------------------------------------------------------------------------------------

    def sail(self) -> None:
        file = self._file
        ca = self.folder.hub_ca if file.ca else None
        if ca is not None and not ca.exists():
            ca.write_text(file.ca)
        self._link = SiteEnd(file.urls, file.tenant, file.link, file.password, ca=ca)
        self._carrier = Carrier(self._link, self._turn)
        self._carrying = asyncio.create_task(self._carrier.run())

    def wake(self) -> None:
        """There is something to say."""
        self._due_s = 0.0
        if self._carrier is not None:
            self._carrier.wake()

    async def until(self, good: Callable[[], bool]) -> None:
        """NotRunning when it never is."""
        deadline = time.monotonic() + _RETURN_S_MAX
        while not good():
            if self._carrying is not None and self._carrying.done():
                self._carrying.result()
            if time.monotonic() > deadline:
                raise NotRunning(f"{self.name} does not come through: {self._uplink.site.reason or self.state}")
            await asyncio.sleep(_LOOK_S)

    async def leave(self) -> None:
        """Say goodbye, and close the line."""
        link, carrying = self._link, self._carrying
        if link is None or carrying is None:
            return
        bye = self._uplink.site.bye("the site goes away")
        if bye is not None and link.up:
            with contextlib.suppress(LinkDown, TimeoutError):
                async with asyncio.timeout(1.0):
                    await link.send(Parcel(self.writer, bye.LANE, messages.encode(bye)))
        carrying.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await carrying
        await link.close()
        self._link = self._carrier = self._carrying = None
        await self._turn(())

    async def close(self) -> None:
        await self.leave()
        self._shared.close()
        self._db.close()

    async def _turn(self, parcels: Sequence[Parcel]) -> Sequence[Parcel]:
        connected = self.state in (State.LIVE, State.REPLAYING)
        if connected and self._link is not None and not parcels and time.monotonic() < self._due_s:
            return ()  # what goes on by itself does so once a second; the rest is woken by an answer
        self._due_s = time.monotonic() + _TURN_S
        now_ns, up = self._clock.now_ns(), self._link is not None and self._link.up
        said = self._run(lambda db: self._uplink.work(db, parcels, up, now_ns))
        self._uplink.committed()
        return said
