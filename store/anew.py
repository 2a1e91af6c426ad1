"""Every projection and the history, made again from the first event on: by several processes, in one pass.

Rules of the file
  1  The journal stands still meanwhile.
  2  Each event is read and decoded once, by one process, for all: the processes take stretches of the journal in turn, and
     what each finds is joined. That this gives the same state is the contract of `fleet.projections` and of `fleet.past`.
  3  Turns go to a file of each process in the order in which they are found, and are sorted once at the end: put one by
     one where they belong, each would cost a page.
  4  Names get their numbers in one place, the process that called; another one asks for a stretch's new ones at once.
  5  Until it is whole the new history.db is under a name of its own, and needs no journal; then it is synced.
"""

from __future__ import annotations

import gc
import importlib
import itertools
import multiprocessing
import os
import pkgutil
import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import msgspec

from fleet import events, projections
from fleet.events import Recorded
from fleet.past import Row, Sifted
from store import history
from store.database import connect_reader
from store.keys import sync_folder

Progress = Callable[[int, int], None]
Numbers = Callable[[list[str]], list[int]]  # the numbers of texts

_STRETCH_EVENTS = 20_000
_PARTS_MAX = 4
_ALONE_EVENTS = 100_000  # so few are done before another process has begun
_CACHE_KIB = 64 * 1024  # pages of the new file, and the room for sorting
_STATEMENT_ROWS = 128
_READ_SHARE = 0.6  # of the whole time, until everything is read
_STEPS_PER_ROW = 50  # of SQLite's machine, in sorting and putting a row in its place
_TICK_STEPS = 1_000_000


class Sums(NamedTuple):
    """What a part found besides its turns; states are encoded, by projection."""

    told: dict[str, int]
    first: list[int]
    states: dict[str, bytes]


class Made(NamedTuple):
    """The states by projection, and the position up to which they and the history stand."""

    states: Mapping[str, Any]
    position: int


def folds() -> list[ModuleType]:
    """Each projection there is."""
    found = pkgutil.iter_modules(projections.__path__, "fleet.projections.")
    return [importlib.import_module(one.name) for one in found]


def parts_for(events: int) -> int:
    return 1 if events < _ALONE_EVENTS else max(1, min(os.cpu_count() or 1, _PARTS_MAX))


def make(site_db: Path, fresh: Path, progress: Progress = lambda done, total: None, parts: int | None = None) -> Made:
    """The history as the file `fresh`, and every state. `progress` is told how many events are done, of how many."""
    history.remove(fresh)
    with closing(connect_reader(site_db)) as site:
        (head,) = site.execute("SELECT coalesce(max(position), 0) FROM event").fetchone()
        count = parts if parts is not None else parts_for(head)
        heaps = [fresh.with_name(f"{fresh.name}.part{number}") for number in range(count)]
        names: dict[str, int] = {}

        def read(done: int) -> None:
            progress(int(done * _READ_SHARE), head)

        collects = gc.isenabled()
        gc.disable()  # what a pass makes is gone by itself, and what it keeps is large
        try:
            if count == 1:
                found = [_alone(site_db, heaps[0], head, names, read)]
            else:
                found = _apart(site_db, heaps, head, names, read)
            _write(fresh, heaps, site, head, names, found, progress)
            newest = _newest(fresh, site)
        finally:
            if collects:
                gc.enable()
            for heap in heaps:
                history.remove(heap)
    progress(head, head)
    return Made({fold.NAME: _joined(fold, newest, [one.states[fold.NAME] for one in found]) for fold in folds()}, head)


def _joined(fold: ModuleType, newest: Mapping[int, Sequence[Recorded]], states: Iterable[bytes]) -> Any:
    """Of what was found of the kinds that a projection folds whole, and of the newest turns on its tracks."""
    state = fold.EMPTY
    for raw in states:
        state = fold.join(state, msgspec.msgpack.decode(raw, type=fold.State))
    return fold.advance(state, [fact for track in fold.TRACKS for fact in newest[track]])


def _newest(path: Path, site: sqlite3.Connection) -> dict[int, list[Recorded]]:
    """Of each track that a projection folds, the newest turn of every subject."""
    logs = history.logs_of(site)
    with closing(connect_reader(path)) as db:
        found = {}
        for track in {track for fold in folds() for track in fold.TRACKS}:
            positions = history.newest(db, track)
            found[int(track)] = [
                events.decode_any(raw, writer=logs[log][0], epoch=logs[log][1], seq=seq, position=position)
                for position, log, seq, raw in (site.execute(_EVENT, (one,)).fetchone() for one in positions)
            ]
        return found


_EVENT = "SELECT position, log_id, seq, raw FROM event WHERE position=?"


# -- one part ----------------------------------------------------------------------------------------------------------


class _Numbered(dict[str, int]):
    """Numbers as far as they are known here; what is new gets one below 0, until somebody who knows is asked."""

    def __init__(self) -> None:
        self.new: list[str] = []

    def __missing__(self, text: str) -> int:
        self.new.append(text)
        self[text] = number = -len(self.new)
        return number

    def settle(self, rows: list[Row], ask: Numbers) -> list[Row]:
        """The rows with the numbers that hold."""
        if not self.new:
            return rows
        new, self.new = self.new, []
        held = dict(zip(range(-1, -len(new) - 1, -1), ask(new), strict=True))
        self.update((text, held[-place]) for place, text in enumerate(new, 1))
        get = held.get
        return [
            (track, get(subject, subject), stamp, get(writer, writer), epoch, seq, get(said, said), clock, position)
            for track, subject, stamp, writer, epoch, seq, said, clock, position in rows
        ]


def _pass(site_db: Path, heap: Path, stretches: Iterable[tuple[int, int]], ask: Numbers) -> Sums:
    """Read stretches of the journal (after one position, up to another) into a heap of turns and the sums."""
    made = folds()
    sifted = Sifted(kind for fold in made for kind in fold.KINDS)
    numbers = _Numbered()
    history.remove(heap)
    with closing(connect_reader(site_db)) as site, closing(_loose(heap)) as db:
        logs = history.logs_of(site)
        db.execute("CREATE TABLE row (a, b, c, d, e, f, g, h, i)")
        db.execute("BEGIN IMMEDIATE")
        for after, upto in stretches:
            turns = sifted.turns(history.stored(site, logs, after, upto), logs, numbers)
            _heap(db, numbers.settle(turns, ask))
        db.execute("COMMIT")
    states = {fold.NAME: msgspec.msgpack.encode(fold.advance(fold.EMPTY, sifted.kept)) for fold in made}
    return Sums(sifted.told, sifted.first, states)


def _loose(path: Path) -> sqlite3.Connection:
    """A file that is thrown away when anything fails: nothing in it is synced or journalled."""
    db = sqlite3.connect(path, isolation_level=None)
    for pragma in ("journal_mode=off", "synchronous=0", "locking_mode=exclusive", f"cache_size=-{_CACHE_KIB}"):
        db.execute(f"PRAGMA {pragma}").fetchall()
    return db


def _heap(db: sqlite3.Connection, turns: Sequence[Row]) -> None:
    """Many rows to a statement: a statement costs more than a row."""
    whole = len(turns) - len(turns) % _STATEMENT_ROWS
    some = (
        tuple(itertools.chain.from_iterable(turns[start : start + _STATEMENT_ROWS]))
        for start in range(0, whole, _STATEMENT_ROWS)
    )
    db.executemany(f"INSERT INTO row VALUES {','.join([_ROW] * _STATEMENT_ROWS)}", some)
    db.executemany(f"INSERT INTO row VALUES {_ROW}", turns[whole:])


_ROW = "(?,?,?,?,?,?,?,?,?)"


def _numbered(names: dict[str, int], texts: Iterable[str]) -> list[int]:
    return [names.setdefault(text, len(names) + 1) for text in texts]


def _alone(site_db: Path, heap: Path, head: int, names: dict[str, int], read: Callable[[int], None]) -> Sums:
    def stretches() -> Iterable[tuple[int, int]]:
        for after in range(0, head, _STRETCH_EVENTS):
            read(after)
            yield after, min(after + _STRETCH_EVENTS, head)

    return _pass(site_db, heap, stretches(), lambda texts: _numbered(names, texts))


# -- several processes -------------------------------------------------------------------------------------------------


def _apart(
    site_db: Path, heaps: Sequence[Path], head: int, names: dict[str, int], read: Callable[[int], None]
) -> list[Sums]:
    """A process for each heap; this one says which stretch is whose, and gives the numbers."""
    context = multiprocessing.get_context("spawn")  # a thread of ours may hold a lock that a fork would take along
    processes = []
    ends: list[Connection] = []
    found: dict[Connection, Sums] = {}
    try:
        for heap in heaps:
            here, there = context.Pipe()
            process = context.Process(target=_part, args=(site_db, heap, there), daemon=True)
            process.start()
            there.close()
            processes.append(process)
            ends.append(here)
        after = done = 0
        while len(found) < len(ends):
            for end in wait([one for one in ends if one not in found]):
                assert isinstance(end, Connection)
                try:
                    said = end.recv()
                except EOFError as error:
                    raise ValueError("a process that reads the log again has ended before its work was done") from error
                if isinstance(said, Sums):
                    found[end] = said
                elif isinstance(said, list):
                    end.send(_numbered(names, said))
                else:
                    done += said
                    read(done)
                    upto = min(after + _STRETCH_EVENTS, head)
                    end.send((after, upto) if after < upto else None)
                    after = upto
    finally:
        for end in ends:
            end.close()
        for process in processes:
            process.join(5.0)
            process.terminate()
    return list(found.values())


def _part(site_db: Path, heap: Path, end: Connection) -> None:
    """In a process of its own: says how many events it is further, and hears which stretch comes next."""
    gc.disable()

    def stretches() -> Iterable[tuple[int, int]]:
        done = 0
        while True:
            end.send(done)
            stretch = end.recv()
            if stretch is None:
                return
            yield stretch
            done = stretch[1] - stretch[0]

    def ask(texts: list[str]) -> list[int]:
        end.send(texts)
        numbers: list[int] = end.recv()
        return numbers

    end.send(_pass(site_db, heap, stretches(), ask))
    end.close()


# -- the new file ------------------------------------------------------------------------------------------------------


def _write(
    fresh: Path,
    heaps: Sequence[Path],
    site: sqlite3.Connection,
    head: int,
    names: dict[str, int],
    found: Sequence[Sums],
    progress: Progress,
) -> None:
    with closing(_loose(fresh)) as db:
        history.define(db, site)
        for number, heap in enumerate(heaps):
            db.execute(f"ATTACH ? AS part{number}", (str(heap),))
        db.execute("BEGIN IMMEDIATE")
        every = " UNION ALL ".join(f"SELECT * FROM part{number}.row" for number in range(len(heaps)))
        (rows,) = db.execute(f"SELECT count(*) FROM ({every})").fetchone()
        steps = itertools.count(1)

        def tick() -> None:
            share = next(steps) * _TICK_STEPS / (rows * _STEPS_PER_ROW + 1)
            progress(int(head * (_READ_SHARE + (1 - _READ_SHARE) * min(share, 0.99))), head)

        db.executemany("INSERT INTO name VALUES (?,?)", ((number, text) for text, number in names.items()))
        db.set_progress_handler(tick, _TICK_STEPS)
        db.execute(f"INSERT INTO turn SELECT * FROM ({every}) WHERE true ORDER BY 1, 2, 3 {history.LATER}")
        db.set_progress_handler(None, 0)
        for one in found:
            _numbered(names, one.told)  # a writer who told nothing else has a name all the same
            history.write_sums(db, names, one.first, one.told)
        history.bear(db)
        history.stand(db, site, head)
        db.execute("COMMIT")
    with fresh.open("rb+") as file:
        os.fsync(file.fileno())
    sync_folder(fresh.parent)
