"""Is what this box shows what its log says? All projections made again from the first event on: the views' checkpoints
and the history; each compared, by its hash, with the one that was in use.

Rules of the file
  1  Nothing runs on the folder meanwhile; it is held.
  2  What was rebuilt takes the place of what was there, whether they are equal or not: the log is right.
  3  Two processes: one folds the views, the other the history, and both read for themselves.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import multiprocessing
import os
import pkgutil
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec

from fleet import projections
from store import history, views
from store.database import connect, connect_reader
from store.folder import Folder, FolderProblem
from store.ground import readable
from store.views import Projection, View

Progress = Callable[[int, int], None]  # events that every projection has, in all
HISTORY = "history"


class Compared(msgspec.Struct, frozen=True):
    """One projection: the hash of the one in use (empty where there was none that could be read), and of the rebuilt."""

    name: str
    running: str
    rebuilt: str

    @property
    def equal(self) -> bool:
        return self.running in ("", self.rebuilt)


class Rebuilt(msgspec.Struct, frozen=True):
    events: int
    seconds: float
    projections: tuple[Compared, ...]

    @property
    def good(self) -> bool:
        return all(one.equal for one in self.projections)


def every() -> list[View[Any]]:
    """A view of each projection there is, empty."""
    modules = [
        importlib.import_module(found.name)
        for found in pkgutil.iter_modules(projections.__path__, "fleet.projections.")
    ]
    return [
        View(Projection(module.NAME, module.VERSION, module.EMPTY, module.advance), module.State) for module in modules
    ]


def rebuild(root: Path, progress: Progress = lambda done, total: None) -> dict[str, Rebuilt]:
    """By tenant, the hub's first one first. FolderProblem when there is no box in this folder, or one runs; StoreFault when
    it cannot be read."""
    folder = Folder(root)
    if not folder.site_db.exists():
        raise FolderProblem(f"{root} holds no box; name its folder with --data")
    made: dict[str, Rebuilt] = {}
    with contextlib.ExitStack() as held:
        folders = [folder, *folder.tenants()]
        for one in folders:
            one.hold()
            held.callback(one.release)
        for one in folders:
            with readable(str(one.site_db)):
                made[_tenant(one)] = _rebuild(one, progress)
    return made


def _tenant(folder: Folder) -> str:
    with closing(connect_reader(folder.site_db)) as db:
        row = db.execute("SELECT value FROM meta WHERE key='tenant'").fetchone()
    return str(row[0]) if row else folder.root.name


def _rebuild(folder: Folder, progress: Progress) -> Rebuilt:
    with closing(connect_reader(folder.site_db)) as db:
        held = {name for (name,) in db.execute("SELECT name FROM view")}
        running = {}
        for view in every():
            if view.projection.name in held:
                view.load(db)
                running[view.projection.name] = views.digest(view.state).hex()
    usable = history.catch_up(folder.history_db, folder.site_db)
    former = history.digest(folder.history_db)[1].hex() if usable else ""
    began = time.monotonic()
    fresh = folder.history_db.with_suffix(".new")
    made, head = both(folder.site_db, fresh, progress)
    seconds = time.monotonic() - began
    compared = [
        Compared(view.projection.name, running.get(view.projection.name, ""), views.digest(view.state).hex())
        for view in made
    ]
    compared.append(Compared(HISTORY, former, history.digest(fresh)[1].hex()))
    with closing(connect(folder.site_db)) as db:
        db.execute("BEGIN IMMEDIATE")
        for view in made:
            if view.projection.name in held:
                view.checkpoint(db)
        db.execute("COMMIT")
    history.remove(folder.history_db)
    os.replace(fresh, folder.history_db)
    history.remove(fresh)
    return Rebuilt(head, seconds, tuple(compared))


def both(site_db: Path, fresh: Path, progress: Progress = lambda done, total: None) -> tuple[list[View[Any]], int]:
    """Every view, folded from the first event on, and the history, in a process of its own, as the file `fresh`; the
    position they reach."""
    context = multiprocessing.get_context("spawn")  # a thread of ours may hold a lock that a fork would take along
    reached = context.Value("q", 0, lock=False)
    child = context.Process(target=_history, args=(site_db, fresh, reached), daemon=True)
    child.start()
    made, collects = every(), gc.isenabled()
    gc.disable()  # what a fold makes is gone by itself, and the state is large
    try:
        with closing(connect_reader(site_db)) as db:
            (head,) = db.execute("SELECT coalesce(max(position), 0) FROM event").fetchone()
            done = 0
            for batch in views.replay(db):
                for view in made:
                    view.fold(batch)
                done = batch[-1].position
                progress(min(done, reached.value), head)
        while child.is_alive():
            child.join(0.2)
            progress(min(done, reached.value), head)
        child.join()
        if child.exitcode:
            raise ValueError(f"the process that rebuilds the history ended with {child.exitcode}")
    finally:
        if collects:
            gc.enable()
        if child.is_alive():
            child.terminate()
    progress(head, head)
    return made, int(head)


def _history(site_db: Path, fresh: Path, reached: Any) -> None:
    gc.disable()

    def step(position: int) -> None:
        reached.value = position

    history.build(site_db, fresh, step)
