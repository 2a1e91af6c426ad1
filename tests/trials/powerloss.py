"""What may be on a disk after the power went: a recorded run, cut anywhere, and made into files again.

`recorder.c` records what a process asks of its disk. `Disk` is the model of what of it survives:

  1  A write is on the disk for certain once an fsync or fdatasync of its file has returned after it.
  2  Until then each of its sectors (512 or 4,096 bytes) is on the disk or is not, whatever its neighbours do: writes
     arrive in any order and torn. A truncation that was not synced happened or did not.
  3  A lost sector below the end of a file reads as it was; where nothing was yet, as zeros or as noise.
  4  Names (created, renamed, removed, made folders) survive either as POSIX promises, a folder's changes once that
     folder was synced and before that a prefix of them, each folder for itself; or as journalled file systems keep
     them, in one order for the whole disk, which any fsync makes durable up to there. A state is of one kind.

Run as a program it is the workload: `python powerloss.py FOLDER SEED FULL|NORMAL` uses the real stores and says on
descriptor 1 what it acknowledges: `e SEQ HASH` for the journal, `r FIRST DIGEST…` for raw records, `s RECORD` for series.
"""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from enum import IntEnum
from pathlib import Path
from typing import NamedTuple

from appliance.intake.gate import Gate
from appliance.keeper import Keeper
from appliance.recorder import Recorder
from fleet import events, series
from fleet.envelope import Log
from fleet.limits import SECOND
from store import database, journal, keys
from store import series as stored_series
from store.clock import BUILT_NS, WallClock
from store.database import Writer, connect
from store.folder import Folder, bring_up
from store.frames import Offer, Record
from store.journal import Journal
from store.series import SeriesStore
from store.telemetry import Telemetry

HERE = Path(__file__).parent
WRITER = "01KAJ6X00000000000000000AD"
NODE = "01KAJ6X00000000000000000ND"
COMMITS = 60
RESERVE_BYTES = 64 * 1024
PASSING = ("-shm", "/lock", "/reserve")  # what no start after a power loss reads


# -- the trace ----------------------------------------------------------------------------------------------------


class Op(IntEnum):
    """As in recorder.c."""

    OPEN = 1
    CREATE = 2
    CLOSE = 3
    WRITE = 4
    TRUNCATE = 5
    SYNC = 6
    RENAME = 7
    UNLINK = 8
    MKDIR = 9
    SAID = 10


class Step(NamedTuple):
    op: Op
    fd: int
    offset: int
    data: bytes


_HEAD = struct.Struct("<IiQI")


def read_trace(path: Path) -> list[Step]:
    raw, at, steps = path.read_bytes(), 0, []
    while at < len(raw):
        op, fd, offset, length = _HEAD.unpack_from(raw, at)
        at += _HEAD.size + length
        steps.append(Step(Op(op), fd, offset, raw[at - length : at]))
    return steps


def build_recorder(folder: Path) -> Path:
    library = folder / "recorder.so"
    compiler = shutil.which("cc") or "cc"
    command = [compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(HERE / "recorder.c"), "-ldl"]
    subprocess.run(command, check=True, capture_output=True)
    return library


def record(library: Path, top: Path, seed: int, synchronous: str) -> list[Step]:
    """Run the workload below `top`; everything it did there, from the first `mkdir`."""
    top.mkdir()
    trace = top.with_suffix(".trace")
    environment = {
        **os.environ,
        "LD_PRELOAD": str(library),
        "TRACE_ROOT": str(top),
        "TRACE_FILE": str(trace),
        "PYTHONPATH": str(HERE.parents[1]),
    }
    program = [sys.executable, "-W", "error", str(HERE / "powerloss.py"), str(top / "alder"), str(seed), synchronous]
    subprocess.run(program, env=environment, check=True, capture_output=True, timeout=120)
    steps = read_trace(trace)
    trace.unlink()
    return steps


# -- the disk -----------------------------------------------------------------------------------------------------


class File:
    """The bytes that are on the disk for certain, and the writes and truncations (no bytes) that may be."""

    def __init__(self) -> None:
        self.sure = bytearray()
        self.maybe: list[tuple[int, bytes | None]] = []

    def sync(self) -> None:
        for offset, data in self.maybe:
            _put(self.sure, offset, data)
        self.maybe.clear()

    def survivor(self, fate: Fate) -> bytes:
        content = bytearray(self.sure)
        for offset, data in self.maybe:
            if data is None:
                if fate.kept():
                    _put(content, offset, None)
                continue
            for at, piece in _sectors(offset, data, fate.sector):
                if fate.kept():
                    if at > len(content):
                        content += fate.nothing(at - len(content))
                    _put(content, at, piece)
            end = offset + len(data)
            if end > len(content) and fate.kept():  # the length reached the disk, the bytes did not
                content += fate.nothing(end - len(content))
        return bytes(content)


def _put(content: bytearray, offset: int, data: bytes | None) -> None:
    if data is None:
        del content[offset:]
        content.extend(bytes(offset - len(content)))
        return
    if offset > len(content):
        content.extend(bytes(offset - len(content)))
    content[offset : offset + len(data)] = data


def _sectors(offset: int, data: bytes, sector: int) -> Iterator[tuple[int, bytes]]:
    at = offset
    while at < offset + len(data):
        end = min((at // sector + 1) * sector, offset + len(data))
        yield at, data[at - offset : end - offset]
        at = end


class Fate:
    """One way for the power to go."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.sector = rng.choice((512, 4096))
        self.odds = rng.choice((0.0, 1.0, 0.5, 0.9, rng.random()))
        self.noise = rng.random() < 0.3
        self.posix = rng.random() < 0.5

    def kept(self) -> bool:
        return self.rng.random() < self.odds

    def nothing(self, size: int) -> bytes:
        return self.rng.randbytes(size) if self.noise else bytes(size)


class Change(NamedTuple):
    """One change of names: `file` None is a folder; `name` None is a removal of `former`."""

    folder: str
    name: str | None
    file: File | None = None
    former: str | None = None


Names = dict[str, File | None]


def _apply(names: Names, change: Change) -> None:
    if change.former is not None:
        names.pop(change.former, None)
    if change.name is not None:
        names[change.name] = change.file


class Disk:
    def __init__(self, top: Path) -> None:
        self.top = str(top)
        self.names: Names = {self.top: None}  # as the process sees them
        self._posix: tuple[Names, list[Change]] = ({self.top: None}, [])
        self._journalled: tuple[Names, list[Change]] = ({self.top: None}, [])
        self._fds: dict[int, tuple[str, File | None]] = {}

    def do(self, step: Step) -> None:
        if step.op in (Op.OPEN, Op.CREATE):
            path = step.data.decode()
            if step.op is Op.CREATE:
                self._change(Change(_folder(path), path, File()))
            self._fds[step.fd] = path, self.names[path]
        elif step.op is Op.CLOSE:
            del self._fds[step.fd]
        elif step.op in (Op.WRITE, Op.TRUNCATE):
            file = self._fds[step.fd][1]
            assert file is not None
            file.maybe.append((step.offset, step.data if step.op is Op.WRITE else None))
        elif step.op is Op.SYNC:
            self._sync(*self._fds[step.fd])
        elif step.op is Op.MKDIR:
            self._change(Change(_folder(step.data.decode()), step.data.decode()))
        elif step.op is Op.UNLINK:
            self._change(Change(_folder(step.data.decode()), None, former=step.data.decode()))
        elif step.op is Op.RENAME:
            former, _, name = step.data.decode().partition("\0")
            assert _folder(former) == _folder(name), "a move between folders is not modelled"
            self._change(Change(_folder(name), name, self.names[former], former))

    def _change(self, change: Change) -> None:
        _apply(self.names, change)
        for _, pending in (self._posix, self._journalled):
            pending.append(change)

    def _sync(self, path: str, file: File | None) -> None:
        if file is not None:
            file.sync()
        else:
            sure, pending = self._posix
            for change in pending:
                if change.folder == path:
                    _apply(sure, change)
            pending[:] = [change for change in pending if change.folder != path]
        sure, pending = self._journalled
        for change in pending:
            _apply(sure, change)
        pending.clear()

    def contents(self) -> dict[str, bytes]:
        """What the process would read now."""
        whole = Fate(random.Random(0))
        whole.odds = 1.0
        return {path: file.survivor(whole) for path, file in self.names.items() if file is not None}

    def image(self, fate: Fate, target: Path) -> None:
        """Write what a start after the power loss would find below `target`."""
        survivors = self._surviving_names(fate)
        target.mkdir()
        for path in sorted(survivors):
            file, place = survivors[path], target / path[len(self.top) :].lstrip("/")
            if place == target or not place.parent.exists() or path.endswith(PASSING):
                continue  # a file whose folder is gone is gone
            if file is None:
                place.mkdir()
            else:
                place.write_bytes(file.survivor(fate))

    def _surviving_names(self, fate: Fate) -> Names:
        sure, pending = self._posix if fate.posix else self._journalled
        names, over = dict(sure), set[str]()
        for change in pending:
            scope = change.folder if fate.posix else ""
            if scope not in over and fate.kept():
                _apply(names, change)
            else:
                over.add(scope)
        return names


def _folder(path: str) -> str:
    return path.rpartition("/")[0]


# -- the workload -------------------------------------------------------------------------------------------------


class Box:
    """The stores of alder, as the appliance opens them; the clock is a number that the caller moves."""

    def __init__(
        self, root: Path, *, now_ns: int = BUILT_NS, clock: WallClock | None = None, retention_ns: int = 30 * SECOND
    ) -> None:
        self.now_ns = now_ns
        self.folder = Folder(root)
        self.folder.prepare()
        self.folder.hold()
        bring_up(self.folder.site_db)
        key = keys.load_or_create(self.folder.writer_key)
        self.log = Log("default", WRITER, 1)
        with closing(connect(self.folder.site_db)) as db:
            if journal.read_identity(db) is None:
                db.execute("BEGIN IMMEDIATE")
                journal.write_identity(db, journal.Identity(self.log, "alder"))
                journal.start_log(db, self.log, keys.public_bytes(key), now_ns)
                db.execute("COMMIT")
            (sealed,) = db.execute("SELECT coalesce(max(last_id), 0) FROM segment").fetchone()
        self.journal = Journal(self.log, key, clock or WallClock())
        self.site = Writer(self.folder.site_db, [self.journal])
        self.series = SeriesStore(self.folder.series_db)
        self.telemetry = Telemetry(self.folder)
        self.telemetry.open(sealed, self.series.record)
        gate = Gate()
        self.keeper = Keeper(
            folder=self.folder,
            telemetry=self.telemetry,
            journal=self.journal,
            site=self.site,
            series=self.series,
            recorder=Recorder(gate, self.telemetry, stored=lambda records: None),
            gate=gate,
            subject=WRITER,
            budget_bytes=1 << 40,
            reserve_bytes=RESERVE_BYTES,
            retention_ns=retention_ns,
            clock_trusted=lambda: clock is None,
            now_ns=lambda: self.now_ns,
        )

    def close(self) -> None:
        self.telemetry.close()
        self.site.close()
        self.series.writer.close()
        self.folder.release()


def note(words: str) -> None:
    """A line of a trial's result, shown with -s and when it fails."""
    sys.stdout.write(f"{words}\n")


def opened_window(start_s: int, data: bytes) -> series.Window | None:
    """A stored window, read as the store reads it; None when it cannot be."""
    return stored_series._window(NODE, start_s, data)


def say(words: str) -> None:
    os.write(1, f"{words}\n".encode())


def digest(record: Record) -> str:
    return hashlib.sha256(b"%d %s %s" % (record.at, record.source.encode(), record.content)).hexdigest()[:32]


def event(box: Box, rng: random.Random, turn: int) -> None:
    bodies = [events.AccountRefused(f"bob-{turn}", "10.0.0.9", "x" * rng.randrange(300)) for _ in range(1 + turn % 3)]

    def job(db: object) -> None:
        for body in bodies:
            box.journal.stage(f"alder-{turn}", body)

    box.site.submit(job).result()
    say(f"e {box.journal.head.seq} {box.journal.head.hash.hex()}")


def _raw(box: Box, rng: random.Random, turn: int) -> None:
    offers = [
        Offer(box.now_ns, f"syslog/10.0.0.{number % 3}/alder", rng.randbytes(rng.choice((20, 900))))
        for number in range(rng.randrange(1, 8))
    ]
    records = box.telemetry.append(offers)
    say(f"r {records[0].id} {' '.join(map(digest, records))}")


def _chart(box: Box, rng: random.Random, turn: int) -> None:
    window = series.Window(series.start_of(box.now_ns // SECOND))
    window.add(box.now_ns // SECOND, {"battery_pct": float(turn)})
    record_id = box.telemetry.next_id - 1
    box.series.save([(NODE, window)], record_id)
    say(f"s {record_id}")


def _keep(box: Box, rng: random.Random, turn: int) -> None:
    box.telemetry.rotate()
    box.keeper.pass_once(box.now_ns)
    assert box.keeper.last_error is None, box.keeper.last_error
    say(f"e {box.journal.head.seq} {box.journal.head.hash.hex()}")


def work(root: Path, seed: int) -> None:
    rng = random.Random(seed)
    box = Box(root)
    acts: Sequence[Callable[[Box, random.Random, int], None]] = (*[event] * 6, *[_raw] * 6, _chart, _keep)
    for turn in range(COMMITS):
        box.now_ns += SECOND
        rng.choice(acts)(box, rng, turn)
        if turn == COMMITS // 2:  # an orderly end and a new start are part of a life
            box.close()
            box = Box(root, now_ns=box.now_ns)
    box.close()


def main(arguments: Iterable[str]) -> None:
    folder, seed, synchronous = arguments
    database._PRAGMAS["synchronous"] = {"FULL": 2, "NORMAL": 1}[synchronous]
    database._PRAGMAS["wal_autocheckpoint"] = 12  # so that checkpoints happen in a run as short as this
    work(Path(folder), int(seed))


if __name__ == "__main__":
    main(sys.argv[1:])
