"""T9: a disk gives bytes back wrong; the damage is found or costs nothing, and is never served as good.

Pages, sectors and bits of every file of a small real folder are changed, one wound a case, and the appliance is started
on it. Either it refuses in one sentence, or it runs, and whatever can be read is byte for byte what was written; what
cannot is a fault with a name, a gap with a reason or an event. A write-ahead log ends where its checksum breaks: what
stood behind may be missing from the end, which only what somebody noted outside can tell.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import NamedTuple

import powerloss
import pytest
from powerloss import Box, note

from appliance import archive, config
from appliance.compose import Appliance
from appliance.intake.gate import Stored
from fleet import series
from fleet.limits import HOUR, SECOND
from store import keys
from store.clock import BUILT_NS
from store.database import connect_reader
from store.faults import StoreFault
from store.folder import Folder, FolderProblem
from store.frames import Offer
from store.telemetry import History

CASES, REAL = 200, 10
SEED = int(os.environ.get("SEED", "20261121"))
COPIES = ("node", "account", "snapshot", "source", "quarantine", "token", "session")  # rows that no checksum covers

pytestmark = pytest.mark.trial

Files = dict[str, bytes]


class Whole(NamedTuple):
    """The folder before the damage, and what stands in it."""

    files: Files
    records: dict[int, str]
    windows: dict[int, dict[str, object]]
    events: list[tuple[int, bytes]]
    rows: dict[str, list[object]]


def quiet(port: str = "127.0.0.1:0") -> config.Config:
    return config.Config(
        http=config.Http(listen=port),
        syslog=config.Syslog(udp="", tcp=""),
        mqtt=config.Mqtt(listen=""),
        ping=config.Ping(enabled=False),
        budget=config.Budget(total_mib=4096, reserve_mib=1),
    )


async def _lived(root: Path) -> Whole:
    """Three sealed segments and a log by the stores alone, then an appliance that was not stopped."""
    rng = random.Random(SEED)
    with closing(Box(root)) as box:
        for turn in range(45):
            powerloss.event(box, rng, turn)
            box.telemetry.append([_offer(rng, turn) for _ in range(6)])
            if turn % 3 == 0:
                box.now_ns += 600 * SECOND
                window = series.Window(series.start_of(box.now_ns // SECOND))
                window.add(box.now_ns // SECOND, {f"metric_{n}": rng.random() for n in range(8)})
                box.series.save([(powerloss.NODE, window)], box.telemetry.next_id - 1)
            if turn % 15 == 14:
                box.telemetry.rotate()
                box.keeper.pass_once(BUILT_NS)
    appliance = Appliance(root, quiet())
    await appliance.start()
    await appliance.accounts.set_up((appliance.setup_path or "").rpartition("/")[2], "alice", "a long password", "")
    for turn in range(45, 60):
        stored = threading.Event()
        appliance.gate.offer("http", [_offer(rng, turn) for _ in range(6)], partial(_stored, stored))
        await asyncio.to_thread(stored.wait)
        if turn == 52:  # some of the partition in its file, the rest in its write-ahead log
            await asyncio.to_thread(_checkpoint, appliance)
    await asyncio.to_thread(appliance.keeper.stop)
    while appliance.interpreter.waiting or appliance.site.waiting:
        await asyncio.sleep(0.05)
    await asyncio.sleep(0.3)
    files = {
        str(path.relative_to(root)): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file() and not path.name.endswith("-shm") and path.name not in ("lock", "reserve")
    }
    found = Whole(files, _records(root), _windows(root), _events(root), _rows(root))
    await appliance.stop()
    return found


def _stored(event: threading.Event, outcome: object) -> None:
    assert isinstance(outcome, Stored)
    event.set()


def _checkpoint(appliance: Appliance) -> None:
    db = appliance.telemetry._db
    assert db is not None
    db.execute("PRAGMA wal_checkpoint(RESTART)")


def _offer(rng: random.Random, turn: int) -> Offer:
    return Offer(BUILT_NS + turn * SECOND, f"http/10.0.0.{rng.randrange(3)}/alder", rng.randbytes(200))


def _records(root: Path) -> dict[int, str]:
    page = History(Folder(root)).after(0, 1_000_000, seconds=60)
    return {record.id: powerloss.digest(record) for record in page.records}


def _gone(root: Path) -> set[int]:
    gaps = History(Folder(root)).after(0, 1_000_000, seconds=60).gaps
    return {one for gap in gaps for one in range(gap.first_id, min(gap.last_id, 100_000) + 1)}


def _windows(root: Path) -> dict[int, dict[str, object]]:
    with closing(connect_reader(root / "series.db")) as db:
        rows = db.execute("SELECT start_s, data FROM series WHERE node_id=?", (powerloss.NODE,)).fetchall()
    decoded = {start_s: powerloss.opened_window(start_s, data) for start_s, data in rows}
    return {start_s: dict(window.steps) for start_s, window in decoded.items() if window is not None}


def _events(root: Path) -> list[tuple[int, bytes]]:
    with closing(connect_reader(root / "site.db")) as db:
        return db.execute("SELECT position, raw FROM event ORDER BY position").fetchall()


def _rows(root: Path) -> dict[str, list[object]]:
    with closing(connect_reader(root / "site.db")) as db:
        return {table: db.execute(f"SELECT * FROM {table} ORDER BY 1").fetchall() for table in COPIES}


@pytest.fixture(scope="module")
def memory() -> Iterator[Path]:
    shm = Path("/dev/shm")
    with tempfile.TemporaryDirectory(prefix="skerry-t9-", dir=shm if os.access(shm, os.W_OK) else None) as made:
        yield Path(made)


@pytest.fixture(scope="module")
def whole(memory: Path) -> Whole:
    return asyncio.run(_lived(memory / "whole"))


# -- wounds -------------------------------------------------------------------------------------------------------

Wound = Callable[[bytearray, random.Random], None]


def _flip(content: bytearray, rng: random.Random) -> None:
    at = rng.randrange(len(content))
    content[at] ^= 1 << rng.randrange(8)


def _flips(content: bytearray, rng: random.Random) -> None:
    for _ in range(16):
        _flip(content, rng)


def _span(content: bytearray, rng: random.Random, size: int) -> slice:
    at = rng.randrange(len(content)) // size * size
    return slice(at, min(at + size, len(content)))


def _zero_page(content: bytearray, rng: random.Random) -> None:
    span = _span(content, rng, 4096)
    content[span] = bytes(span.stop - span.start)


def _zero_sector(content: bytearray, rng: random.Random) -> None:
    span = _span(content, rng, 512)
    content[span] = bytes(span.stop - span.start)


def _noise(content: bytearray, rng: random.Random) -> None:
    span = _span(content, rng, rng.choice((512, 4096)))
    content[span] = rng.randbytes(span.stop - span.start)


def _other_page(content: bytearray, rng: random.Random) -> None:
    """A page that was written to the wrong place."""
    here, there = _span(content, rng, 4096), _span(content, rng, 4096)
    content[here] = content[there][: here.stop - here.start].ljust(here.stop - here.start, b"\0")


def _cut(content: bytearray, rng: random.Random) -> None:
    del content[rng.randrange(len(content)) :]


WOUNDS: tuple[Wound, ...] = (_flip, _flips, _zero_page, _zero_sector, _noise, _other_page, _cut)


def wounded(whole: Whole, target: Path, case: int) -> tuple[str, str]:
    """The folder with one wound; which file it is in, and its kind."""
    rng = random.Random(f"{SEED} {case}")
    kinds = sorted({_kind(name) for name, content in whole.files.items() if content and _kind(name) != "key"})
    kind = kinds[case % len(kinds)]
    chosen = rng.choice([name for name, content in sorted(whole.files.items()) if _kind(name) == kind and content])
    wound = rng.choice(WOUNDS)
    for name, content in whole.files.items():
        path = target / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name == chosen:
            bad = bytearray(content)
            wound(bad, rng)
            content = bytes(bad)
        path.write_bytes(content)
    return kind, wound.__name__.strip("_")


def _kind(name: str) -> str:
    folder, _, file = name.rpartition("/")
    return {"keys": "key", "segments": "segment", "telemetry": "partition"}.get(folder, file) + (
        "-wal" if folder == "telemetry" and name.endswith("-wal") else ""
    )


# -- what is asked of each ----------------------------------------------------------------------------------------


async def outcome(whole: Whole, root: Path, kind: str) -> str:
    """One word for how it went: refused, found, gone, silent, cut or right. AssertionError when damage was served as good."""
    appliance = Appliance(root, quiet())
    try:
        await appliance.start()
    except (StoreFault, keys.KeyProblem, FolderProblem) as problem:
        assert str(problem)
        assert "\n" not in str(problem)
        return "refused"
    try:
        await asyncio.to_thread(appliance.keeper.stop)
        for hour in range(6):  # each pass reads one segment back
            await asyncio.to_thread(appliance.keeper.pass_once, appliance.clock.now_ns() + hour * HOUR)
        return await asyncio.to_thread(_read, whole, root, kind)
    finally:
        await appliance.stop()


def _read(whole: Whole, root: Path, kind: str) -> str:
    found, cut = set[str](), kind.endswith("-wal")
    try:
        records, gone = _records(root), _gone(root)
        wrong = {one for one, digest in whole.records.items() if records.get(one, digest) != digest}
        assert not wrong, f"records {sorted(wrong)} are not what was written"
        missing = whole.records.keys() - records.keys()
        unsaid = missing - gone
        end = not unsaid or max(records.keys() & whole.records.keys(), default=0) < min(unsaid)
        assert not unsaid or (cut and end), f"records {sorted(unsaid)} are missing, and nobody says so"
        found |= {"found"} if missing & gone else {"cut"} if unsaid else set()
    except StoreFault:
        found.add("found")
    found.add(_read_series(whole, root, cut))
    good, words = archive.verify(root, lambda done, total: None)
    if not good:
        assert "\n" not in words
        found.add("found")
    else:
        held = dict(_events(root))
        lost = [position for position, raw in whole.events if held.get(position) != raw]
        if lost:  # the log was cut there, and goes on with what happened after: none of the old may stand behind
            assert kind == "site.db-wal"
            assert len(lost) == len(whole.events) - whole.events.index((lost[0], dict(whole.events)[lost[0]]))
            found.add("cut")
        try:
            if any(_rows(root)[table] != whole.rows[table] for table in ("account", "node")):
                found.add("cut" if kind == "site.db-wal" else "silent")
        except (sqlite3.DatabaseError, StoreFault):
            found.add("found")
    return next(word for word in ("found", "gone", "silent", "cut", "right") if word in found | {"right"})


def _read_series(whole: Whole, root: Path, cut: bool) -> str:
    try:
        windows = _windows(root)
    except (sqlite3.DatabaseError, StoreFault):
        return "found"
    for start_s, steps in windows.items():
        assert whole.windows.get(start_s, steps) == steps, f"window {start_s} is not what was written"
    missing = whole.windows.keys() - windows.keys()
    strange = windows.keys() - whole.windows.keys()
    assert not strange, f"windows {sorted(strange)} were never written"
    if not missing:
        return "right"
    with closing(connect_reader(root / "series.db")) as db:
        here = {row[0] for row in db.execute("SELECT start_s FROM series WHERE node_id=?", (powerloss.NODE,))}
    return "cut" if cut else "found" if missing <= here else "gone"  # "gone": with its row, and nobody says so


def test_damage_is_found_or_costs_nothing(whole: Whole, memory: Path) -> None:
    counts: Counter[str] = Counter()
    failures = []
    for case in range(CASES):
        root = memory / "case"
        kind, wound = wounded(whole, root, case)
        try:
            counts[f"{kind} {asyncio.run(outcome(whole, root, kind))}"] += 1
        except Exception as error:
            failures.append(f"seed {SEED} case {case}, {wound} in {kind}: {type(error).__name__} {error}")
            logging.exception("case %d", case)
        shutil.rmtree(root)
    note(f"T9 seed {SEED}: {CASES} cases, {dict(sorted(counts.items()))}")
    assert not failures, "\n".join(failures)


def test_a_real_process_says_one_sentence_or_serves(whole: Whole, memory: Path) -> None:
    counts: Counter[str] = Counter()
    for case in range(REAL):
        root = memory / "real"
        kind, wound = wounded(whole, root, 1_000 + case * 7)
        front = [sys.executable, str(Path(__file__).parents[2] / "skerry.py")]
        settings = os.environ | {
            "SKERRY_SYSLOG_UDP": "",
            "SKERRY_SYSLOG_TCP": "",
            "SKERRY_MQTT_LISTEN": "",
            "SKERRY_PING_ENABLED": "false",
        }
        with subprocess.Popen(
            [*front, "appliance", "run", "--data", str(root), "--http", "127.0.0.1:0"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=settings,
        ) as process:
            assert process.stdout is not None
            up = " is up at " in process.stdout.readline()
            if up:
                process.send_signal(signal.SIGTERM)
            _, said = process.communicate(timeout=60)
        where = f"seed {SEED} real case {case}, {wound} in {kind}: {said}"
        assert "Traceback" not in said, where
        assert process.returncode == (0 if up else 1), where
        assert up or said.strip().splitlines()[-1].startswith("skerry: "), where
        told = subprocess.run([*front, "journal", "verify", str(root)], capture_output=True, text=True, check=False)
        assert "Traceback" not in told.stderr, f"{where} {told.stderr}"
        assert told.returncode in (0, 1)
        counts[f"{kind} {'served' if up else 'refused'}"] += 1
        shutil.rmtree(root)
    note(f"T9 seed {SEED}: {REAL} real processes, {dict(sorted(counts.items()))}")


def test_a_key_that_is_not_the_logs_is_refused(whole: Whole, memory: Path) -> None:
    root = memory / "stranger"
    wounded(whole, root, 0)
    shutil.rmtree(root)
    for name, content in whole.files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    (root / "keys" / "writer.pem").unlink()
    with pytest.raises(keys.KeyProblem, match="restore it from a backup"):
        asyncio.run(outcome_of_start(root))


async def outcome_of_start(root: Path) -> None:
    await Appliance(root, quiet()).start()
