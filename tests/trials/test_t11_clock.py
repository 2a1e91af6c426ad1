"""T11: whatever the wall clock says, order and dedupe stay, nobody is locked out, nothing is thrown away for its age.

Seven runs of the real process on one folder, each started under another clock (libfaketime; the monotonic clock is the
machine's) and set to another one while records come in; then the same parts, handed a clock. A case is a clock and a
question.
"""

from __future__ import annotations

import glob
import itertools
import random
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import cast
import powerloss
import pytest
from cast import Site, eventually
from powerloss import Box, note

from fleet import events, hlc, series
from fleet.limits import DAY, HOUR, MINUTE, SECOND
from fleet.people import Refused
from store import budget, journal
from store.accounts import Accounts
from store.budget import Bounds, Usage
from store.clock import BUILT_NS, WallClock
from store.database import Reader, connect_reader
from store.frames import Offer
from store.telemetry import History, Segment
from web import words

LIBRARY = next(iter(glob.glob("/usr/lib/*/faketime/libfaketimeMT.so.1")), None)
NOW = BUILT_NS + 90 * DAY
YEAR = 365 * DAY
CLOCKS = {
    "1970": 0,
    "ten years back": NOW - 10 * YEAR,
    "a day back": NOW - DAY - 1,
    "as it was": NOW,
    "2038": 2_147_483_647 * SECOND,
    "ten years ahead": NOW + 10 * YEAR,
}
RUNS = (  # the clock at the start, and the one it is set to: seconds from the machine's
    (-1_795_000_000, 0),
    (0, 362_000_000),
    (362_000_000, 0),
    (-315_360_000, -1_795_000_000),
    (315_360_000, -315_360_000),
    (0, 315_360_000),
    (0, 0),
)
MESSAGES = 20

pytestmark = pytest.mark.trial


# -- the real process ---------------------------------------------------------------------------------------------


class Clock:
    """The wall clock of a process under libfaketime, as an offset that may be changed while it runs."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "clock"

    def set(self, offset_s: int) -> None:
        fresh = self.file.with_suffix(".new")
        fresh.write_text(f"{offset_s:+d}\n")
        fresh.rename(self.file)

    def environment(self) -> dict[str, str]:
        assert LIBRARY is not None
        return {
            "LD_PRELOAD": LIBRARY,
            "FAKETIME_TIMESTAMP_FILE": str(self.file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "DONT_FAKE_MONOTONIC": "1",
            "NO_FAKE_STAT": "1",
            "SKERRY_PING_ENABLED": "false",
            "SKERRY_EVALUATOR_SILENCE_S": "4",
            "SKERRY_EVALUATOR_HEARTBEAT_S": "4",
        }


@pytest.mark.skipif(LIBRARY is None, reason="needs libfaketime (Debian package faketime)")
def test_a_box_lives_through_clocks_that_are_wrong_and_jump(tmp_path: Path) -> None:
    data, clock, sent, cases = tmp_path / "alder", Clock(tmp_path), itertools.count(), 0
    stored: list[tuple[int, str]] = []
    node = None
    for number, (start_s, then_s) in enumerate(RUNS):
        clock.set(start_s)
        with cast.island(data, environment=clock.environment()) as site:
            if number == 0:
                set_up(site)
            stored += speak(site, sent)
            if node is None:
                source = site.records()[-1]["source"]
                node = site.adopt(source, "drone")
            said_of_the_clock(site, start_s)
            sign_in(site)
            quiet = len(site.events("node.quiet"))
            clock.set(then_s)  # while records come in
            for _ in range(6):  # longer than the silence that would make it quiet
                stored += speak(site, sent)
                time.sleep(1.0)
            assert len(site.events("node.quiet")) == quiet, f"run {number}: a step of the clock made a node quiet"
            said_of_the_clock(site, then_s)
            if start_s != then_s:
                eventually(partial(site.events, "clock.stepped"))
            sign_in(site)
            eventually(partial(mode, site, node), "LIVE".__eq__)
            seen = [(record["id"], str(record["raw"])) for record in site.records() if "mid" in str(record["raw"])]
            assert [one for one, _ in seen] == sorted({one for one, _ in seen})
            assert all(text in dict(seen)[one] for one, text in stored), f"run {number}: something is gone or changed"
            assert len(seen) == len(stored), f"run {number}: something is there twice"
            if number % 2:
                site.kill()
                for path in Path("/dev/shm").glob(f"*faketime_*_{site.process.pid}"):
                    path.unlink()  # libfaketime's own, which a killed process leaves
            else:
                assert site.stop() == 0
            assert "Traceback" not in site.said()
        verified = cast.skerry("journal", "verify", str(data))
        assert verified.returncode == 0, verified.stderr
        orderly(data)
        cases += 2
    with closing(connect_reader(data / "series.db")) as db:
        charted = db.execute("SELECT count(DISTINCT start_s / 31536000) FROM series").fetchone()[0]
    assert charted >= 2, "a chart of each time"
    note(f"T11: {len(RUNS)} runs, {cases} clocks, {len(stored)} records, charts in {charted} years")


def speak(site: Site, sent: Iterator[int]) -> list[tuple[int, str]]:
    texts = [f'{{"mid":"m{next(sent)}","battery":87,"status":"OK","type":"heartbeat"}}' for _ in range(MESSAGES)]
    with site.client() as client:
        answer = client.post("/v1/ingest", content="\n".join(texts), headers={"content-type": "application/x-ndjson"})
    assert answer.status_code in (200, 201, 202), answer.text
    said: dict[str, Any] = answer.json()
    first = int(said["first_id"])
    return [(first + index, text) for index, text in enumerate(texts)]


def set_up(site: Site) -> None:
    path = next(
        word[len(site.url) :] for word in site.said().split() if word.startswith(site.url) and "/setup/" in word
    )
    with site.client() as client:
        answer = client.post(path, data={"name": "alice", "password": cast.PASSWORD, "again": cast.PASSWORD})
    assert answer.status_code == 303, answer.text


def sign_in(site: Site) -> None:
    assert "The clock" in page_of_intake(site)


def page_of_intake(site: Site) -> str:
    with site.client() as client:
        answer = client.post("/login", data={"name": "alice", "password": cast.PASSWORD})
        assert answer.status_code == 303, answer.text
        page = client.get("/intake")
    assert page.status_code == 200, page.text
    return page.text


def said_of_the_clock(site: Site, offset_s: int) -> None:
    distrusted = words.CLOCK[events.Clock.NOT_TRUSTED] in page_of_intake(site)
    assert distrusted == (offset_s < 0)


def mode(site: Site, node: str) -> str:
    return next(str(one["connectivity"]["mode"]) for one in site.nodes() if one["id"] == node)


def orderly(data: Path) -> None:
    with closing(connect_reader(data / "site.db")) as db:
        told = [event for batch in journal.read(db) for event in batch]
    assert [event.seq for event in told] == list(range(1, len(told) + 1))
    stamps = [event.hlc for event in told]
    assert stamps == sorted(set(stamps))


# -- the parts, handed a clock ------------------------------------------------------------------------------------


class Handed(WallClock):
    """The clock as the test says it is, disciplined by nobody."""

    def __init__(self) -> None:
        super().__init__()
        self.wall_ns = NOW

    def now_ns(self) -> int:
        return self.wall_ns


class House:
    """Accounts at a clock that the test moves; `steady_ns` is the monotonic one."""

    def __init__(self, box: Box) -> None:
        self.wall_ns, self.steady_ns = NOW, 0
        self.reader = Reader(box.folder.site_db)
        self.accounts = Accounts(
            box.journal,
            box.site,
            self.reader,
            tenant="default",
            now_ns=lambda: self.wall_ns,
            monotonic_ns=lambda: self.steady_ns,
        )


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    with closing(Box(tmp_path / "alder")) as box:
        made = House(box)
        secret = await made.accounts.setup_secret()
        await made.accounts.set_up(secret, "alice", cast.PASSWORD, "10.0.0.7")
        yield made
        await made.reader.close()


async def test_a_session_lasts_a_week_whichever_clock_it_was_made_under_and_sign_in_always_works(house: House) -> None:
    for made_ns, asked_ns in itertools.product(CLOCKS.values(), CLOCKS.values()):
        house.wall_ns = made_ns
        session = await house.accounts.sign_in("alice", cast.PASSWORD, "10.0.0.7")
        assert await house.accounts.session(session, "10.0.0.7"), "good at the clock it was made under"
        house.wall_ns = asked_ns
        held = await house.accounts.session(session, "10.0.0.7")
        assert (held is not None) == (-DAY <= asked_ns - made_ns < 7 * DAY), (made_ns, asked_ns)
    note(f"T11: {len(CLOCKS) ** 2} sessions, made under one clock and asked under another")


@pytest.mark.parametrize("then", CLOCKS)
async def test_a_lock_out_ends_after_a_quarter_of_an_hour_whatever_the_wall_clock_does(house: House, then: str) -> None:
    for _ in range(5):
        with pytest.raises(Refused):
            await house.accounts.sign_in("alice", "wrong password", "10.0.0.9")
    house.wall_ns = CLOCKS[then]
    assert await house.accounts.sign_in("alice", cast.PASSWORD, "10.0.0.7"), "only the guesser is locked out"
    with pytest.raises(Refused, match="too many"):
        await house.accounts.sign_in("alice", cast.PASSWORD, "10.0.0.9")
    house.steady_ns += 15 * MINUTE
    assert await house.accounts.sign_in("alice", cast.PASSWORD, "10.0.0.9")


def hours(start_ns: int, count: int, first_id: int = 1) -> list[Segment]:
    return [
        Segment(first_id + n, first_id + n, b"%032d" % n, 1, start_ns + n * HOUR, start_ns + (n + 1) * HOUR, 1_000)
        for n in range(count)
    ]


@pytest.mark.parametrize("now", CLOCKS)
def test_a_clock_that_nobody_disciplines_ends_no_retention_by_a_jump(now: str) -> None:
    """Twenty days of records, of which some were stamped in 1970."""
    roomy = Usage(disk_free=1 << 50)
    bounds = Bounds(1 << 40, 0, 30 * DAY)
    segments = [*hours(0, 10 * 24), *hours(NOW - 10 * DAY, 10 * 24, 1_000)]
    assert budget.plan(roomy, bounds, CLOCKS[now], segments, clock_trusted=False) == []


def test_what_was_recorded_for_longer_than_the_retention_goes_under_any_clock_that_is_ahead() -> None:
    roomy, bounds = Usage(disk_free=1 << 50), Bounds(1 << 40, 0, 30 * DAY)
    segments = hours(NOW - 40 * DAY, 40 * 24)
    for trusted in (True, False):
        gone = budget.plan(roomy, bounds, NOW, segments, clock_trusted=trusted)
        assert len(gone) in range(10 * 24 - 2, 10 * 24 + 1)
    stamped_in_1970 = [*hours(0, 24), *hours(NOW - 5 * DAY, 24, 1_000)]
    assert budget.plan(roomy, bounds, NOW, stamped_in_1970, clock_trusted=True) == []


def test_a_log_and_its_records_stay_in_order_while_the_clock_hops(tmp_path: Path) -> None:
    handed, rng = Handed(), random.Random(1)
    with closing(Box(tmp_path / "alder", clock=handed)) as box:
        for turn in range(120):
            handed.wall_ns = rng.choice(list(CLOCKS.values())) + turn * SECOND
            box.now_ns = handed.wall_ns
            powerloss.event(box, rng, turn)
            window = series.Window(series.start_of(box.now_ns // SECOND))
            window.add(box.now_ns // SECOND, {"battery_pct": float(turn)})
            box.telemetry.append([Offer(box.now_ns, "http/10.0.0.7/drone", b"%d" % turn)])
            box.series.save([(powerloss.NODE, window)], box.telemetry.next_id - 1)
            if turn % 40 == 39:
                box.telemetry.rotate()
                box.keeper.pass_once(box.now_ns)
                assert box.keeper.last_error is None
        orderly(box.folder.root)
        found = History(box.folder).after(0, 1_000, seconds=30)
        assert [(record.id, record.content) for record in found.records] == [(n + 1, b"%d" % n) for n in range(120)]
        with closing(connect_reader(box.folder.site_db)) as db:
            assert journal.verify(db)[0].fault is None
            stamps = [event.hlc for batch in journal.read(db) for event in batch]
        assert hlc.wall_ms(max(stamps)) < (1 << 47)
