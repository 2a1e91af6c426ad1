"""T23, upgrade and rollback: a folder that an older program wrote is opened by this one, whatever kills it on the way; the
older one refuses what is newer, and there is a way back; boxes of both versions return to each other.

The older programs are the real ones, out of the repository's history (`former`). Without history those tests skip, and
the others stand in: folders with the older tables, made by the real migrations, and peers that say more than this
version knows.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import random
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import auditor
import former
import pytest
from auditor import JournalWatch, Ledger
from test_t04_full_disk import OPENS, SYNCS, WRITES, Faults
from upgrading import REFUSED, UP

from bench.island import ROOT
from store import migrations
from store.control import Refusal
from store.database import connect, connect_reader
from store.folder import FORMER, REVISION, FolderNewer, bring_up, revision_of
from tests.cast import FRONT, eventually, skerry
from tests.mainland import Box, _site

SEED = int(os.environ.get("SEED", "20261129"))
OLDER = [f"{number:04d}" for number in range(1, int(REVISION))]
CALLS = 6  # kills at a call to the disk, and errors of the disk, of each revision
STARTS = 4  # kills in a start that upgrades, of each older program
START_S = 1.5  # … somewhere in here after the process began

pytestmark = [pytest.mark.trial, pytest.mark.timeout(300)]


class Alice:
    """She works at a site of any version, and remembers what was acknowledged."""

    def __init__(self, site: Box) -> None:
        self.site, self.ledger, self.watch = site, Ledger(), JournalWatch()
        self.nodes: dict[str, str] = {}  # id → the name, as last acknowledged
        self._count = 0

    def word(self) -> str:
        self._count += 1
        return f"{self.site.name}-{self._count}"

    def sends(self, count: int = 20) -> None:
        """Raw records, acknowledged after the commit."""
        made = [(self.word(), self._count) for _ in range(count)]
        raws = [json.dumps({"mid": mid, "device": "kestrel", "battery_pct": n % 100}).encode() for mid, n in made]
        for (mid, _), raw in zip(made, raws, strict=True):
            self.ledger.sending(mid, raw)
        with urllib.request.urlopen(f"http://{self.site.http}/v1/ingest", b"\n".join(raws), timeout=30) as answer:
            told = json.loads(answer.read())
        for record_id, (mid, _) in enumerate(made, told["first_id"]):
            self.ledger.acknowledge(mid, record_id)

    def adopts(self, device: str = "kestrel") -> str:
        name = self.word()
        wish = {"source": f"http/127.0.0.1/{device}", "name": name, "kind": "EDGE", "tags": ["drone"]}
        node_id = str(self.site.call("POST", "/api/v1/adopt", wish)["id"])
        self.nodes[node_id] = name
        return node_id

    def writes(self, node_id: str) -> None:
        said = self.word()
        self.site.call("PATCH", f"/api/v1/nodes/{node_id}", {"field": "name", "value": said})
        self.nodes[node_id] = said

    def signs_up(self) -> None:
        link = eventually(lambda: re.search(r"http://\S+/setup/\S+", self.site.said()))
        assert link is not None
        form = b"name=alice&password=correct+horse+battery&again=correct+horse+battery"
        urllib.request.urlopen(link[0], form, timeout=30).close()

    def works(self) -> None:
        self.sends()
        for node_id in tuple(self.nodes) or (self.adopts(), self.adopts("osprey")):
            self.writes(node_id)
        self.sends(5)

    def misses(self) -> list[str]:
        """A to D and G of the folder, whether somebody runs on it or not."""
        return auditor.examined(self.ledger, self.site.data, self.watch)

    def looks(self) -> None:
        """The same, and what stands on the pages."""
        assert not self.misses(), f"seed {SEED}"
        for node_id, name in self.nodes.items():
            assert name_at(self.site, node_id) == name


def name_at(box: Box, node_id: str) -> str:
    """Empty while there is no such node."""
    listed = box.call("GET", "/api/v1/nodes?limit=500")["nodes"]
    return next((str(one["node"]["name"]) for one in listed if one["node"]["id"] == node_id), "")


def revision(path: Path) -> str | None:
    with closing(connect_reader(path)) as db:
        return revision_of(db)


def shape(path: Path) -> dict[str, list[str]]:
    """Every table with its columns, every index."""
    with closing(connect_reader(path)) as db:
        made = {name: former.columns(db, name) for name in former.tables(db)}
        indexes = db.execute("SELECT name FROM sqlite_master WHERE type='index' ORDER BY name").fetchall()
    return made | {"indexes": [name for (name,) in indexes]}


def content(path: Path, like: dict[str, list[str]]) -> dict[str, str]:
    """A hash of the rows of each table, by the columns that `like` has of it."""
    made = {}
    with closing(connect_reader(path)) as db:
        for table, names in like.items():
            if table != "indexes":
                rows = sorted(map(repr, db.execute(f"SELECT {', '.join(names)} FROM {table}")))
                made[table] = hashlib.sha256("\n".join(rows).encode()).hexdigest()
    return made


def files(data: Path) -> dict[str, str]:
    """Every file of a folder by its hash; not whose it is just now, which a start may write down."""
    return {
        str(path.relative_to(data)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(data.rglob("*"))
        if path.is_file() and path.name != "lock" and not path.name.endswith("-shm")
    }


def taken_over(fresh: Path, folder: Path) -> Path:
    return Path(shutil.copytree(fresh, folder, ignore=shutil.ignore_patterns("*.sock")))


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("programs")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Alice:
    """A folder that a site worked on, at rest; what this program's tables hold."""
    site = _site(tmp_path_factory.mktemp("written"), "alder", {"SKERRY_PING_ENABLED": "false"})
    try:
        site.start()
        alice = Alice(site)
        alice.signs_up()
        alice.works()
        site.call("POST", "/api/v1/tokens", {"name": "collector", "role": "viewer"})
    finally:
        site.stop()
    return alice


# -- the way up ---------------------------------------------------------------------------------------------------


class Upgrading:
    """`bring_up` in processes that are killed at a chosen place (`upgrading`)."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.faults = Faults(folder)
        command = [sys.executable, str(Path(__file__).parent / "upgrading.py")]
        environment, pipe = os.environ | self.faults.environment, subprocess.PIPE
        with (folder / "said").open("wb") as said:
            self.process = subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe, stderr=said, text=True)

    def __call__(self, path: Path, statement: int = 0) -> int:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{path} {statement}\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def close(self) -> None:
        self.process.communicate()


@pytest.fixture
def upgraded(tmp_path: Path) -> Iterator[Upgrading]:
    made = Upgrading(tmp_path / "upgrading")
    yield made
    made.close()


class Narrowed:
    """A folder with the tables of an older revision, and what must be in one that was brought up from it."""

    def __init__(self, written: Alice, root: Path, older: str) -> None:
        self.older, self.fresh = older, taken_over(written.site.data, root / "fresh")
        former.narrow(self.fresh / "site.db", older)
        bring_up(root / "wanted.db")
        self.shapes = {older: shape(self.fresh / "site.db"), REVISION: shape(root / "wanted.db")}
        self.rows = content(self.fresh / "site.db", self.shapes[older])

    def judge(self, path: Path, where: str) -> str:
        """Of which revision it is: wholly, and with all that was in it."""
        found = revision(path)
        assert found in self.shapes, where
        assert shape(path) == self.shapes[found], where
        assert content(path, self.shapes[self.older]) == self.rows, where
        return found


def test_killed_after_any_statement_of_the_steps_it_is_as_it_was(
    tmp_path: Path, written: Alice, upgraded: Upgrading
) -> None:
    first = Narrowed(written, tmp_path, OLDER[0])
    data, statement, ended = taken_over(first.fresh, tmp_path / "alder"), 0, -signal.SIGKILL
    while ended == -signal.SIGKILL:
        statement += 1
        ended = upgraded(data / "site.db", statement)
        found = first.judge(data / "site.db", f"killed after statement {statement}")
        assert found == (REVISION if ended == 0 else first.older), f"statement {statement}"
    assert ended == 0
    assert statement > 2 * len(OLDER)  # each step makes something, and says so
    print(f"T23: {statement - 1} kills, one after each statement")


@pytest.mark.parametrize("older", OLDER)
def test_whatever_the_disk_does_it_is_of_one_revision(
    tmp_path: Path, written: Alice, upgraded: Upgrading, older: str
) -> None:
    """A kill before any call, or a disk that refuses from there on; the next start ends the upgrade."""
    rng, ends, narrowed = random.Random(f"{SEED} {older}"), Counter[str](), Narrowed(written, tmp_path, older)
    judge, fresh = narrowed.judge, narrowed.fresh
    upgraded.faults.arm(tmp_path / "counted", WRITES | SYNCS | OPENS, errno.EIO, 1 << 30, 1)
    counted = taken_over(fresh, tmp_path / "counted")
    assert upgraded(counted / "site.db") == UP
    calls = (1 << 30) - upgraded.faults.plan.after
    for number in range(CALLS):
        error = (-signal.SIGKILL, errno.ENOSPC, -signal.SIGKILL, errno.EIO)[number % 4]
        after, data = rng.randrange(calls), tmp_path / f"alder-{number}"
        taken_over(fresh, data)
        upgraded.faults.arm(data, WRITES | SYNCS | OPENS, error, after, 1 if error < 0 else 1 << 30)
        ended = upgraded(data / "site.db")
        upgraded.faults.disarm()
        where = f"seed {SEED}, {older}, {'killed' if error < 0 else errno.errorcode[error]} at call {after} of {calls}"
        found = judge(data / "site.db", where)
        ends[found] += 1
        assert ended in ((-signal.SIGKILL,) if error < 0 else (UP, REFUSED) if found == REVISION else (REFUSED,)), where
        assert upgraded(data / "site.db") == UP, where
        assert judge(data / "site.db", where) == REVISION
        kept = [*(data / FORMER).iterdir()]  # none when the upgrade had been made already, but for its last word
        assert [one.name for one in kept] in ([f"{older}.db"], []), where
        assert [judge(one, where) for one in kept] in ([older], []), where
        shutil.rmtree(data)
    print(f"T23 seed {SEED}: {older}: {CALLS} of {calls} calls to the disk; found of {dict(ends)} then")


@pytest.mark.parametrize("older", list(former.COMMITS))
def test_what_an_older_program_wrote_is_there_after_an_upgrade_that_was_killed(
    tmp_path: Path, programs: Path, older: str
) -> None:
    rng, found = random.Random(f"{SEED} {older}"), Counter[str | None]()
    site = _site(tmp_path, "alder", {"SKERRY_PING_ENABLED": "false"})
    site.front = former.program(older, programs)
    alice = Alice(site)
    try:
        site.start()
        alice.signs_up()
        alice.works()
        site.kill()  # with its write-ahead log
        assert revision(site.data / "site.db") == older
        site.front = FRONT
        for number in range(STARTS):
            site.start(wait=False)
            time.sleep(rng.random() * START_S)
            site.kill()
            found[revision(site.data / "site.db")] += 1
            assert not alice.misses(), f"seed {SEED}, {older}, kill {number}"
        site.start()
        alice.looks()
        alice.works()
        alice.looks()
        with closing(connect_reader(site.data / "site.db")) as db:
            assert db.execute("SELECT name FROM account").fetchall() == [("alice",)]
        site.stop()
    finally:
        site.kill()
    assert set(found) <= {older, REVISION}
    assert revision(site.data / FORMER / f"{older}.db") == older
    assert shape(site.data / "site.db") == shape_of(REVISION, tmp_path)
    assert not [*alice.misses(), *auditor.cli_verifies(site.data)]
    said = skerry("doctor", "--data", str(site.data)).stdout
    assert f"{older}.db is site.db as it was before the last upgrade" in said
    print(f"T23 seed {SEED}: {older}: {STARTS} kills in the start that upgrades, found of {dict(found)} then")


def shape_of(wanted: str, folder: Path) -> dict[str, list[str]]:
    path = folder / f"shape-{wanted}.db"
    migrations.upgrade(path, wanted)
    return shape(path)
