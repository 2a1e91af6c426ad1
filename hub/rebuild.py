"""Is what this box shows what its log says? All projections made again from the first event on: the views' checkpoints
and the history; each compared, by its hash, with the one that was in use.

Rules of the file
  1  Nothing runs on the folder meanwhile; it is held.
  2  What was rebuilt takes the place of what was there, whether they are equal or not: the log is right.
"""

from __future__ import annotations

import contextlib
import os
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec

from store import anew, history, views
from store.anew import Progress
from store.database import connect, connect_reader
from store.folder import Folder, FolderProblem
from store.ground import readable
from store.views import Projection, View

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
    return [View(Projection(fold.NAME, fold.VERSION, fold.EMPTY, fold.advance), fold.State) for fold in anew.folds()]


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
    states, head = anew.make(folder.site_db, fresh, progress)
    seconds = time.monotonic() - began
    made = every()
    for view in made:
        view.state, view.position = states[view.projection.name], head
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
