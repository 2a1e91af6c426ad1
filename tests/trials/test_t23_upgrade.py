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
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
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
from fleet import envelope
from store import document, migrations, peers, telemetry
from store.database import connect_reader
from store.folder import FORMER, REVISION, TENANTS, bring_up, revision_of
from store.rollback import ASIDE
from sync import receipt
from tests.cast import FRONT, PASSWORD, eventually, skerry
from tests.mainland import Box, _site, mainland

SEED = int(os.environ.get("SEED", "20261129"))
BEFORE = max(former.COMMITS)  # the version before this one, as a program
OLDER = [f"{number:04d}" for number in range(1, int(REVISION))]
CALLS = 4  # kills at a call to the disk, and errors of the disk, of each revision
STARTS = 3  # kills in a start that upgrades, of each older program
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


@pytest.mark.parametrize("older", ["0001", "0002"])  # later ones are upgraded in a fleet, below
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


# -- the way back -------------------------------------------------------------------------------------------------


def refuses(front: Path, what: str, data: Path) -> str:
    """The one sentence with which a program does not run on a folder, which is as it was afterwards."""
    before = files(data)
    ways = {
        "appliance": ["--syslog-udp", "127.0.0.1:0", "--syslog-tcp", "127.0.0.1:0"],
        "hub": ["--link", "127.0.0.1:0"],
    }
    said = former.run(front, what, "run", "--data", str(data), "--http", "127.0.0.1:0", *ways[what])
    assert said.returncode == 1, said.stderr
    assert files(data) == before
    (sentence,) = (line for line in said.stderr.splitlines() if line.startswith("skerry: "))
    assert "Traceback" not in said.stderr
    assert "was written by a newer Skerry" in sentence
    return sentence


@pytest.mark.parametrize("older", ["0002", BEFORE])
def test_an_older_program_refuses_a_newer_folder_and_leaves_it_as_it_is(
    tmp_path: Path, programs: Path, written: Alice, older: str
) -> None:
    data = taken_over(written.site.data, tmp_path / "alder")
    said = refuses(former.program(older, programs), "appliance", data)
    assert f"tables of revision {REVISION}; this one knows them up to {older}" in said


@pytest.mark.parametrize("what", ["appliance", "hub"])
def test_this_program_refuses_what_a_newer_one_left_in_a_crash_and_names_the_way_back(
    tmp_path: Path, written: Alice, what: str
) -> None:
    data = taken_over(written.site.data, tmp_path / "alder")
    (data / FORMER).mkdir()
    shutil.copy(data / "site.db", data / FORMER / f"{REVISION}.db")
    leave = (
        "import os, sys; from pathlib import Path; from store.database import connect\n"
        "db = connect(Path(sys.argv[1])); db.execute(\"UPDATE alembic_version SET version_num='9999'\"); os._exit(0)"
    )
    subprocess.run([sys.executable, "-c", leave, str(data / "site.db")], cwd=ROOT, check=True)
    assert (data / "site.db-wal").stat().st_size  # whoever writes here would bring it in
    said = refuses(FRONT, what, data)
    assert f"skerry rollback --data {data}" in said
    found = skerry("doctor", "--data", str(data))
    assert "tables of revision 9999" in found.stdout
    assert "Traceback" not in found.stderr
    back = skerry("rollback", "--data", str(data))
    assert back.returncode == 0, back.stderr
    assert revision(data / "site.db") == REVISION
    assert revision(data / FORMER / ASIDE) == "9999"
    assert auditor.cli_verifies(data) == []


def comes_home(hub: Box, name: str, after_fence: int = 0) -> list[str]:
    """Until the site is live, in a later session than that; a person at the hub releases it when it is held. What for."""
    reasons = dict[str, None]()

    def live() -> bool:
        site = hub.site(name)
        if site.get("fence", 0) <= after_fence:
            return False
        if site["quarantine"]:
            reasons.update(dict.fromkeys(site["quarantine"]))
            words = {"action": "release", "value": "its older image was put back on purpose"}
            hub.call("POST", f"/api/v1/links/{site['writer']}", words)
            return False
        return bool(site["mode"] == "LIVE") and hub.log_of(site["writer"])[-1][:2] == (site["epoch"], site["head_seq"])

    eventually(live, seconds=90)
    return list(reasons)


def is_whole(hub: Box) -> list[str]:
    """C and D of every log at the hub."""
    return JournalWatch().look(hub.data)


def test_a_site_goes_back_to_its_older_program_in_each_way_and_returns_to_its_hub(
    tmp_path: Path, programs: Path
) -> None:
    """A backup that the older program made, with the older and with the newer; the copy that the upgrade made."""
    older = former.program(BEFORE, programs)
    with mainland(tmp_path, "alder", fronts={"alder": older}) as (hub, alder):
        writer, alice = alder.writer(), Alice(alder)
        alice.works()
        made = former.run(older, "backup", "--data", str(alder.data), str(tmp_path / "stick"))
        assert made.returncode == 0, made.stderr
        backed_up = alice.ledger.answered()
        alice.works()
        comes_home(hub, "alder")

        alder.stop()
        alder.front = FRONT
        alder.start()
        alice.works()
        comes_home(hub, "alder")
        alice.looks()
        kept, epochs = eventually(lambda: hub.log_of(writer), lambda found: found == alder.log_of(writer)), [1]
        alder.kill()
        assert "tables of revision" in refuses_to_run(older, alder.data)

        def returns(how: str) -> None:
            """Named at the first contact, in a new epoch, and nothing that the hub held is gone."""
            nonlocal kept
            fence = hub.site("alder")["fence"]
            alder.start()
            reasons = comes_home(hub, "alder", fence)
            assert any("clone or an old image" in one for one in reasons), (how, reasons)
            now = hub.log_of(writer)
            assert set(kept) < set(now), how
            assert now[-1][0] > epochs[-1], how
            epochs.append(now[-1][0])
            for node_id in alice.nodes:
                alice.writes(node_id)
            comes_home(hub, "alder")
            for node_id, name in alice.nodes.items():
                eventually(lambda node_id=node_id: name_at(hub, node_id), lambda said, name=name: said == name)  # type: ignore[misc]
            kept = hub.log_of(writer)
            alder.kill()

        set_back(alder, older)
        returns("the copy that the upgrade made")
        found = auditor.on_disk(alder.data)
        assert not auditor.contents(alice.ledger, found)  # the raw records that came since the upgrade are still here
        assert auditor.cli_verifies(alder.data) == []

        for front in (older, FRONT):
            shutil.rmtree(alder.data)
            said = former.run(front, "restore", str(tmp_path / "stick"), "--data", str(alder.data))
            assert said.returncode == 0, said.stderr
            alder.front = front
            returns(f"the backup, restored with {front.parent.name}")
            assert not auditor.contents(alice.ledger, auditor.on_disk(alder.data), backed_up)
            assert auditor.cli_verifies(alder.data) == []
        assert revision(alder.data / "site.db") == REVISION
        assert not is_whole(hub)
    print(f"T23: back from {REVISION} to {BEFORE} in three ways, epochs {epochs}, {len(kept)} events at the hub")


def refuses_to_run(front: Path, data: Path) -> str:
    """As `refuses`, of a folder that a kill left: an older program than this one still brought its write-ahead log in."""
    said = former.run(front, "appliance", "run", "--data", str(data), "--http", "127.0.0.1:0", "--mqtt", "127.0.0.1:0")
    assert said.returncode == 1, said.stderr
    assert "Traceback" not in said.stderr
    return said.stderr


def test_every_tenant_of_a_hub_goes_up_and_back(tmp_path: Path) -> None:
    with mainland(tmp_path) as (hub,):
        added = skerry("hub", "tenant", "add", "polar", "--data", str(hub.data), "--admin", "bob")
        assert added.returncode == 0, added.stderr
        hub.stop()
        paths = [hub.data / "site.db", hub.data / TENANTS / "polar" / "site.db"]
        for path in paths:
            former.narrow(path, "0005")
        older = shape(paths[0])
        for kill in range(STARTS):
            hub.start(wait=False)
            eventually(lambda: (hub.data / FORMER).exists() or hub.serves())
            time.sleep(random.Random(f"{SEED} {kill}").random() / 2)
            hub.kill()
            assert {revision(path) for path in paths} <= {"0005", REVISION}
        hub.start()
        assert [revision(path) for path in paths] == [REVISION, REVISION]
        running = skerry("rollback", "--data", str(hub.data))
        assert (running.returncode, "already runs" in running.stderr) == (1, True)
        hub.stop()
        set_back(hub, FRONT)
        for path in paths:
            assert (revision(path), shape(path)) == ("0005", older)
            assert auditor.cli_verifies(path.parent) == []
        hub.start()
        assert [revision(path) for path in paths] == [REVISION, REVISION]


# -- versions side by side ----------------------------------------------------------------------------------------


def policy(box: Box, name: str) -> dict[str, Any]:
    """What stands in a bundle: value by field; empty while it has not come."""
    listed = box.call("GET", "/api/v1/policies")["groups"]
    if not any(one["id"] == name and one["described"] for one in listed):
        return {}
    return {one["field"]: one["value"] for one in box.call("GET", f"/api/v1/policies/{name}")["words"]}


def documents(box: Box) -> dict[tuple[str, str, int], bytes]:
    """The heads of every document, by kind, id and generation."""
    with closing(box.database()) as db:
        rows = db.execute("SELECT kind, id, generation, heads FROM document").fetchall()
    return {(kind, name, generation): heads for kind, name, generation, heads in rows}


def signed(box: Box, site: str) -> peers.Receipt | None:
    with closing(box.database()) as db:
        return peers.newest_receipt(db, site, both=True)


NOT_YET = "this box knows no documents of that kind; bring it to a newer version"


class Fleet:
    """A hub and two sites, whatever their versions: people work at all ends, and everything of it is everywhere."""

    def __init__(self, hub: Box, *sites: Box, unknown: str = "") -> None:
        """`unknown` is a kind of documents that only the newer ones know."""
        self.hub, self.sites, self.unknown = hub, sites, unknown
        self.crew = [Alice(site) for site in sites]
        for site in sites:
            comes_home(hub, site.name)
        self.bundle = str(hub.call("POST", "/api/v1/policies", {"name": "scouts"})["id"])
        self.wanted: dict[str, str] = {}
        hub.call("POST", "/api/v1/accounts", {"name": "alice", "password": PASSWORD, "role": "operator-admin"})
        wish = {"name": "olga", "password": PASSWORD, "role": "operator", "sites": ["alder", "birch"]}
        hub.call("POST", "/api/v1/accounts", wish)

    def works(self) -> None:
        for alice in self.crew:
            alice.works()
        for alice in self.crew:  # each node has a word of its site and one of the hub
            for number, node_id in enumerate(alice.nodes):
                eventually(lambda node_id=node_id: name_at(self.hub, node_id))  # type: ignore[misc]
                if number:
                    alice.nodes[node_id] = said = alice.word()
                    self.hub.call("PATCH", f"/api/v1/nodes/{node_id}", {"field": "name", "value": said})
        for box in (self.hub, *self.sites):
            eventually(lambda box=box: policy(box, self.bundle).get("name") == "scouts")  # type: ignore[misc]
            self.wanted[f"constraints/{box.name}"] = said = f"..{len(self.wanted) + 1}"
            wish = {"fields": {f"constraints/{box.name}": said}}
            box.call("PATCH", f"/api/v1/policies/{self.bundle}", wish)

    def seals(self) -> None:
        """Every start begins a new partition, so the one before it is sealed, and the hub takes it over."""
        for site in self.sites:
            site.stop()
            site.start()

    def is_one(self) -> None:
        """A to F, at rest."""
        for alice in self.crew:
            site, writer = alice.site, alice.site.writer()
            comes_home(self.hub, site.name)
            for node_id, name in alice.nodes.items():
                for box in (self.hub, site):
                    eventually(
                        lambda box=box, node_id=node_id: name_at(box, node_id), lambda said, name=name: said == name
                    )  # type: ignore[misc]
            eventually(lambda site=site: people(site), lambda found: found == ["olga"])  # type: ignore[misc]
            eventually(lambda site=site, writer=writer: self.hub.log_of(writer) == site.log_of(writer))  # type: ignore[misc]
            eventually(lambda writer=writer: self._receipt_holds(site, writer))  # type: ignore[misc]
            assert not alice.misses()
            eventually(lambda site=site: self._apart(site), lambda found: not found)  # type: ignore[misc]
        for box in (self.hub, *self.sites):
            found = eventually(
                lambda box=box: policy(box, self.bundle), lambda said: self.wanted.items() <= said.items()
            )  # type: ignore[misc]
            assert found["name"] == "scouts"
            apart = [one["reason"] for one in box.call("GET", "/api/v1/quarantine")["items"]]
            assert not [one for one in apart if one != NOT_YET], apart
        assert not is_whole(self.hub)

    def took_over(self) -> int:
        """Every sealed record of the sites, at the hub, as it was sent. How many files."""
        files = 0
        for alice in self.crew:
            found = eventually(lambda alice=alice: self._sealed(alice))  # type: ignore[misc]
            files += len(found)
        return files

    def _sealed(self, alice: Alice) -> list[str]:
        """The segments of a site, once all of them are at the hub and whole."""
        with closing(alice.site.database()) as db:
            wanted = [one.sha256.hex() for one in telemetry.live(db)]
        here = [self.hub.data / "segments" / f"{name}.jsonl.zst" for name in wanted]
        done = all(one.exists() and telemetry.intact(one, bytes.fromhex(one.name[:64])) for one in here)
        return wanted if wanted and done else []

    def _apart(self, site: Box) -> list[tuple[str, str, int]]:
        """Documents of a site that are others at the hub."""
        there = documents(self.hub)
        here = {place: heads for place, heads in documents(site).items() if place[0] != self.unknown}
        return [place for place, heads in here.items() if there.get(place) != heads]

    def _receipt_holds(self, site: Box, writer: str) -> bool:
        """Both ends have the same one, signed by both, over all that stood there."""
        there, here = signed(self.hub, writer), signed(site, writer)
        if there is None or here is None or there[1:5] != here[1:5]:
            return False
        with closing(self.hub.database()) as db:
            (site_key,) = db.execute("SELECT public_key FROM peer WHERE writer=?", (writer,)).fetchone()
        with closing(site.database()) as db:
            (hub_key,) = db.execute("SELECT public_key FROM peer").fetchone()
        made = receipt.Signed(there.content, there.hub_signature, there.site_signature)
        verdict = receipt.check(made, envelope.public_key(hub_key), envelope.public_key(site_key))
        assert verdict is receipt.Verdict.GOOD
        return True


def people(site: Box) -> list[str]:
    return [one["name"] for one in site.call("GET", "/console/accounts")["accounts"]]


def set_back(box: Box, front: Path) -> None:
    """As docs/upgrade.md says, of a box that is at rest or was killed."""
    said = skerry("rollback", "--data", str(box.data))
    assert said.returncode == 0, said.stderr
    box.front = front


@pytest.mark.parametrize(("older", "ahead"), [(BEFORE, "the hub"), ("0004", "the sites")])
def test_two_versions_work_together_then_the_older_is_upgraded(
    tmp_path: Path, programs: Path, older: str, ahead: str
) -> None:
    """Under one hub a site of each version; then all of this one, and the hub back again."""
    front = former.program(older, programs)
    fronts = {"birch": front} if ahead == "the hub" else {"harbor": front, "birch": front}
    with mainland(tmp_path, "alder", "birch", fronts=fronts) as (hub, alder, birch):
        fleet = Fleet(hub, alder, birch)
        fleet.works()
        fleet.seals()
        fleet.is_one()
        taken = fleet.took_over()
        for box in (hub, birch):
            if box.front == front:
                fence = hub.site(birch.name)["fence"]
                box.kill()
                box.front = FRONT
                box.start()
                assert revision(box.data / FORMER / f"{older}.db") == older
        comes_home(hub, "birch", fence)
        fleet.works()
        fleet.is_one()
        assert fleet.took_over() >= taken
        if ahead == "the sites":
            known = {site.name: hub.log_of(site.writer()) for site in (alder, birch)}
            fences = {site.name: hub.site(site.name)["fence"] for site in (alder, birch)}
            hub.stop()
            set_back(hub, front)
            hub.start()
            for name, fence in fences.items():
                assert not comes_home(hub, name, fence)
            fleet.works()
            fleet.is_one()
            for site in (alder, birch):
                assert set(known[site.name]) <= set(hub.log_of(site.writer()))
    print(f"T23: {REVISION} and {older}, {ahead} ahead: {taken} segments taken over, documents and receipts alike")


# -- a version that is not there yet ------------------------------------------------------------------------------

NEWER = Path(__file__).parent / "newer.py"


def told_tomorrow(box: Box, writer: str) -> list[bytes]:
    """The events of a kind that this version does not know, in the log of a writer."""
    with closing(box.database()) as db:
        rows = db.execute(
            "SELECT event.raw FROM event JOIN log ON log.id=event.log_id WHERE log.writer=? AND event.kind='tomorrow.told'"
            " ORDER BY event.position",
            (writer,),
        )
        return [raw for (raw,) in rows]


def colours(box: Box) -> dict[str, Any]:
    """What stands in the field that this version does not know, by node."""
    found = {}
    with closing(box.database()) as db:
        for kind, name, _ in documents(box):
            if kind == "node":
                said = document.values(db, document.Id("default", kind, name)).get("colour", ())
                found[name] = [one.value for one in said]
    return found


@pytest.mark.parametrize("ahead", ["a site", "the hub"])
def test_what_a_newer_version_says_is_kept_and_passed_on(tmp_path: Path, ahead: str) -> None:
    newer = "alder" if ahead == "a site" else "harbor"
    with mainland(tmp_path, "alder", "birch", fronts={newer: NEWER}) as (hub, alder, birch):
        fleet = Fleet(hub, alder, birch, unknown="vessel")
        fleet.works()
        fleet.is_one()
        box, other = (alder, hub) if ahead == "a site" else (hub, alder)
        with closing(box.database()) as db:
            writers = [writer for (writer,) in db.execute("SELECT writer FROM log ORDER BY id")]
        told = {writer: told_tomorrow(box, writer) for writer in writers}
        here = eventually(
            lambda: {writer: told_tomorrow(other, writer) for writer in writers}, lambda found: any(found.values())
        )
        assert all(found in (told[writer], []) for writer, found in here.items()), (
            "each byte for byte, and none missing"
        )
        assert any(colours(other).values())
        eventually(lambda: NOT_YET in [one["reason"] for one in other.call("GET", "/api/v1/quarantine")["items"]])
        for path in ("/", "/journal", "/links", *(f"/nodes/{node_id}" for node_id in colours(other))):
            assert other.call("GET", f"{path}?format=json"), path
        before = colours(other)
        for one in (hub, alder, birch):
            one.stop()
            assert auditor.cli_verifies(one.data) == []
        other.front, fleet.unknown = NEWER, ""  # now that it knows, it is all there
        for one in (hub, alder, birch):
            one.start()
        assert colours(other) == before
        vessels = {place for place in documents(box) if place[0] == "vessel"}
        assert vessels
        eventually(lambda: vessels <= documents(other).keys())
        fleet.is_one()
