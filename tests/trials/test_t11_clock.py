"""T11: whatever the wall clock says, order and dedupe stay, nobody is locked out, nothing is thrown away for its age.

Seven runs of the real process on one folder, each started under another clock (libfaketime; the monotonic clock is the
machine's) and set to another one while records come in; then the same parts, handed a clock. A case is a clock and a
question.
"""

from __future__ import annotations

import glob
import itertools
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import cast
import pytest
from cast import Site, eventually
from powerloss import note

from fleet.limits import DAY, SECOND
from store import journal
from store.clock import BUILT_NS
from store.database import connect_reader

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
                eventually(lambda site=site: site.events("clock.stepped"))
            sign_in(site)
            eventually(lambda site=site, node=node: mode(site, node), lambda found: found == "LIVE")
            seen = [(record["id"], record["text"]) for record in site.records() if "mid" in record["text"]]
            assert [one for one, _ in seen] == sorted({one for one, _ in seen})
            assert all(text in dict(seen)[one] for one, text in stored), f"run {number}: something is gone or changed"
            assert len(seen) == len(stored), f"run {number}: something is there twice"
            ends_by_kill = number % 2 == 1
            if ends_by_kill:
                site.kill()
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
    with site.client() as client:
        answer = client.post("/login", data={"name": "alice", "password": cast.PASSWORD})
        assert answer.status_code == 303, answer.text
        assert client.get("/intake").status_code == 200


def said_of_the_clock(site: Site, offset_s: int) -> None:
    wanted = {True: ("NOT_TRUSTED",), False: ("FREE_RUNNING", "SYNCED")}[offset_s < -1_000_000]
    eventually(lambda: str(site.call("GET", "/api/v1/intake")["clock"]), lambda found: found in wanted)


def mode(site: Site, node: str) -> str:
    found: Any = site.call("GET", f"/api/v1/nodes/{node}")
    return str(found["mode"])


def orderly(data: Path) -> None:
    with closing(connect_reader(data / "site.db")) as db:
        told = [event for batch in journal.read(db) for event in batch]
    assert [event.seq for event in told] == list(range(1, len(told) + 1))
    stamps = [event.hlc for event in told]
    assert stamps == sorted(set(stamps))
