"""T2: the power may go at any write; nothing that was acknowledged is lost, and nothing is damaged.

A real process's writes and syncs are recorded, cut at random instants and made into disks as the power might have left
them (`powerloss.Disk` is the model). Each is opened with the real code. The control, which does not sync at a commit,
must lose something, or this trial could not see a loss.
"""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import powerloss
import pytest
from powerloss import Box, Disk, Fate, Op, Step, note

from fleet import series
from fleet.limits import SECOND
from store import journal
from store.clock import BUILT_NS
from store.database import connect_reader
from store.faults import StoreFault
from store.frames import Offer
from store.telemetry import History

RUNS, STATES = 5, 1_000
CONTROL_STATES = 200
DEEP_EVERY = 10
SHARED = ".db-shm"  # written through memory, and made anew after a power loss
SEED = int(os.environ.get("SEED", "20261121"))

pytestmark = [pytest.mark.trial, pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler (cc)")]


class Ledger(NamedTuple):
    """What a run acknowledged up to an instant."""

    seq: int = 0
    head: str = ""
    records: dict[int, str] = {}  # noqa: RUF012 - replaced, never changed
    series: int = 0
    turns: int = 0

    def heard(self, words: str) -> Ledger:
        kind, first, *rest = words.split()
        heard = self._replace(turns=self.turns + 1)
        if kind == "e":
            return heard._replace(seq=int(first), head=rest[0])
        if kind == "s":
            return heard._replace(series=int(first))
        return heard._replace(records=self.records | dict(enumerate(rest, int(first))))


class Run(NamedTuple):
    steps: list[Step]
    whole: Ledger
    blocks: dict[int, str]  # last seq → hash
    top: Path


@pytest.fixture
def disks() -> Iterator[Path]:
    """A folder in memory where there is one: images are many, small and short-lived."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(prefix="skerry-t2-", dir=memory if os.access(memory, os.W_OK) else None) as made:
        yield Path(made)


def recorded(disks: Path, seed: int, synchronous: str) -> Run:
    top = disks / f"run-{seed}"
    steps = powerloss.record(powerloss.build_recorder(disks), top, seed, synchronous)
    disk, whole = Disk(top), Ledger()
    for step in steps:
        if step.op is Op.SAID:
            whole = whole.heard(step.data.decode())
        else:
            disk.do(step)
    # The trace is complete if replaying all of it gives the very files that the process left.
    left = {str(path): path.read_bytes() for path in top.rglob("*") if path.is_file() and path.suffix != SHARED}
    assert {path: content for path, content in disk.contents().items() if not path.endswith(SHARED)} == left
    with closing(connect_reader(top / "alder" / "site.db")) as db:
        blocks = {seq: digest.hex() for seq, digest in db.execute("SELECT last_seq, hash FROM block")}
    assert (whole.turns, whole.head) == (powerloss.COMMITS, blocks[whole.seq])
    return Run(steps, whole, blocks, top)


def losses(run: Run, image: Path, acknowledged: Ledger, *, deep: bool) -> Iterator[str]:
    """What is wrong with an image, one word and its particulars each."""
    now_ns = BUILT_NS + (acknowledged.turns + 1) * SECOND
    with closing(Box(image / "alder", now_ns=now_ns)) as box:
        yield from _examined(run, box, acknowledged)
        if not deep:
            return
        # It goes on from here: what was half done is put right, and new ids and numbers follow the old.
        box.keeper.pass_once(now_ns)
        if box.keeper.last_error is not None:
            yield f"corrupt: the keeper says {box.keeper.last_error}"
        offered = [record.id for record in box.telemetry.append([Offer(now_ns, "syslog//", b"again")])]
        if offered[0] <= max(acknowledged.records, default=0):
            yield f"corrupt: record id {offered[0]} is given twice"
        powerloss.event(box, random.Random(0), 0)
        yield from _examined(run, box, acknowledged, after=tuple(offered))


def _examined(run: Run, box: Box, acknowledged: Ledger, after: Sequence[int] = ()) -> Iterator[str]:
    for path in (box.folder.site_db, box.folder.series_db):
        with closing(connect_reader(path)) as db:
            for (verdict,) in db.execute("PRAGMA quick_check").fetchall():
                if verdict != "ok":
                    yield f"corrupt: {path.name} {verdict}"
    with closing(connect_reader(box.folder.site_db)) as db:
        (verdict,) = journal.verify(db)
        held = {seq: digest.hex() for seq, digest in db.execute("SELECT last_seq, hash FROM block")}
    if verdict.fault:
        yield f"corrupt: event {verdict.seq} {verdict.detail}"
    if acknowledged.seq and held.get(acknowledged.seq) != acknowledged.head:
        yield f"lost: event {acknowledged.seq}"
    if not after and not held.items() <= run.blocks.items():
        yield "corrupt: a block that nobody wrote"
    if box.telemetry.unreadable:
        yield f"corrupt: {box.telemetry.unreadable}"
    page = History(box.folder).after(0, 1_000_000, seconds=60)
    ids = [record.id for record in page.records]
    if sorted(set(ids)) != ids:
        yield "corrupt: records out of order or twice"
    gone = {one for gap in page.gaps for one in range(gap.first_id, gap.last_id + 1) if gap.reason.startswith("let go")}
    lost = acknowledged.records.keys() - set(ids) - gone
    if lost:
        yield f"lost: records {sorted(lost)}"
    for record in page.records:
        if record.id not in after and run.whole.records.get(record.id) != powerloss.digest(record):
            yield f"corrupt: record {record.id} is not what was sent"
    if box.series.record < acknowledged.series:
        yield f"lost: series {acknowledged.series}"
    with closing(connect_reader(box.folder.series_db)) as db:
        starts = [row[0] for row in db.execute("SELECT start_s FROM series")]
    for start_s in starts:
        window = box.series.load(powerloss.NODE, start_s)
        if window is None or not series.Window.points(window, "battery_pct"):
            yield f"corrupt: window {start_s}"


def judged(run: Run, disks: Path, seed: int, states: int) -> Counter[str]:
    """Cut a run at `states` instants; how many images lost something, how many were corrupt. Prints each."""
    rng = random.Random(seed)
    cuts = sorted(rng.randrange(len(run.steps) + 1) for _ in range(states))
    disk, acknowledged, done, image = Disk(run.top), Ledger(), 0, disks / "image"
    counts: Counter[str] = Counter()
    for number, cut in enumerate(cuts):
        for step in run.steps[done:cut]:
            if step.op is Op.SAID:
                acknowledged = acknowledged.heard(step.data.decode())
            else:
                disk.do(step)
        done = cut
        disk.image(Fate(random.Random(f"{seed} {number}")), image)
        found = _problems(run, image, acknowledged, deep=number % DEEP_EVERY == 0)
        for kind in {problem.partition(":")[0] for problem in found}:
            counts[kind] += 1
        if found and counts.total() <= 5:
            note(f"seed {seed} state {number} cut {cut}: {found[:3]}")
        shutil.rmtree(image)
    return counts


def _problems(run: Run, image: Path, acknowledged: Ledger, *, deep: bool) -> list[str]:
    try:
        return list(losses(run, image, acknowledged, deep=deep))
    except (StoreFault, sqlite3.DatabaseError, OSError, ValueError, AssertionError) as error:
        return [f"corrupt: {type(error).__name__} {error}"]


@pytest.mark.parametrize("number", range(RUNS))
def test_the_power_goes_and_nothing_acknowledged_is_lost(disks: Path, number: int) -> None:
    seed = SEED + number
    counts = judged(run := recorded(disks, seed, "FULL"), disks, seed, STATES)
    note(f"T2 seed {seed}: {STATES} states of {len(run.steps)} steps, {dict(counts)}")
    assert not counts


def test_the_control_that_does_not_sync_at_a_commit_loses_something(disks: Path) -> None:
    counts = judged(run := recorded(disks, SEED, "NORMAL"), disks, SEED, CONTROL_STATES)
    note(f"T2 control, seed {SEED}: {CONTROL_STATES} states of {len(run.steps)} steps, {dict(counts)}")
    assert counts["lost"] > 0
