"""`skerry hub rebuild`: what is rebuilt equals what ran, by its hash; one row that differs is found, and put right."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from fleet import events
from fleet.connectivity import Mode
from fleet.events import Body
from fleet.projections import lifecycle
from hub import rebuild as rebuilding
from hub.compose import Hub
from hub.rebuild import Rebuilt
from store.folder import FolderProblem, FolderTaken
from tests.hub.sites import HARBOR
from tests.store.alder import Alder, turns

ROOT = Path(__file__).resolve().parents[2]
DRONES = ("01DRNE00000000000000000001", "01DRNE00000000000000000002")


@pytest.fixture
async def data(tmp_path: Path) -> Path:
    """A hub that ran, heard of two drones, and was stopped."""
    hub = Hub(tmp_path / "harbor", HARBOR)
    await hub.start()
    try:
        facts: Sequence[tuple[str, Body]] = [
            *turns(40, DRONES),
            (DRONES[0], events.NodeQuiet(Mode.DISCONNECTED, Mode.LIVE, 1, 15)),
            (DRONES[0], events.LifecycleMoved("PROVISIONING", "ENROLLED", "adopted", "Alice")),
            (DRONES[1], events.VersionChanged("", "1.4.2")),
        ]

        def job(db: sqlite3.Connection) -> None:
            for subject, body in facts:
                hub.ground.journal.stage(subject, body)

        await hub.ground.writer.write(job)
        while hub.turns.position < hub.ground.journal.position:
            await asyncio.sleep(0.02)
    finally:
        await hub.stop()
    return tmp_path / "harbor"


def rebuild(data: Path, progress: rebuilding.Progress = lambda done, total: None) -> Rebuilt:
    (found,) = rebuilding.rebuild(data, progress).values()
    return found


def named(found: Rebuilt, name: str) -> tuple[str, str]:
    one = next(one for one in found.projections if one.name == name)
    return one.running, one.rebuilt


async def test_what_is_rebuilt_equals_what_ran(data: Path) -> None:
    steps: list[tuple[int, int]] = []
    found = rebuild(data, lambda done, total: steps.append((done, total)))
    assert found.good
    for name in ("lifecycle", "history"):
        running, rebuilt = named(found, name)
        assert running == rebuilt != ""
    assert steps[-1] == (found.events, found.events)
    assert rebuild(data).projections[0].rebuilt == found.projections[0].rebuilt


@pytest.mark.parametrize("change", ["UPDATE turn SET said=(SELECT max(id) FROM name)", "DELETE FROM turn"])
async def test_one_row_of_the_history_that_differs_is_found_and_put_right(data: Path, change: str) -> None:
    with closing(sqlite3.connect(data / "history.db")) as db:
        db.execute(f"{change} WHERE (track, subject, hlc) = (SELECT track, subject, hlc FROM turn LIMIT 1)")
        db.commit()
    found = rebuild(data)
    running, rebuilt = named(found, "history")
    assert not found.good
    assert running != rebuilt
    assert rebuild(data).good, "the rebuilt one took its place"


async def test_one_standing_of_a_view_that_differs_is_found_and_put_right(data: Path) -> None:
    decode = msgspec.msgpack.Decoder(lifecycle.State).decode
    with closing(sqlite3.connect(data / "site.db")) as db:
        (raw,) = db.execute("SELECT state FROM view WHERE name='lifecycle'").fetchone()
        state = decode(raw)
        subject, standing = next(iter(state.standing.items()))
        spoilt = state._replace(standing={**state.standing, subject: standing._replace(reason="somebody said so")})
        db.execute("UPDATE view SET state=? WHERE name='lifecycle'", (msgspec.msgpack.encode(spoilt),))
        db.commit()
    found = rebuild(data)
    assert not found.good
    assert [one.name for one in found.projections if not one.equal] == ["lifecycle"]
    assert rebuild(data).good


async def test_a_history_that_is_gone_or_damaged_is_made_and_nothing_is_compared(data: Path) -> None:
    for spoil in (b"", b"no database at all"):
        for path in data.glob("history.db*"):
            path.unlink()
        if spoil:
            (data / "history.db").write_bytes(spoil)
        found = rebuild(data)
        assert found.good
        assert named(found, "history")[0] == ""
        assert named(rebuild(data), "history")[0] != ""


async def test_while_the_hub_runs_nothing_is_rebuilt(data: Path) -> None:
    hub = Hub(data, HARBOR)
    await hub.start()
    try:
        with pytest.raises(FolderTaken, match="stop it first"):
            rebuild(data)
    finally:
        await hub.stop()
    assert rebuild(data).good


def test_a_folder_without_a_box_is_named(tmp_path: Path) -> None:
    with pytest.raises(FolderProblem, match="holds no box"):
        rebuild(tmp_path)


async def test_the_command_says_both_hashes_and_fails_when_they_differ(data: Path) -> None:
    def run(*flags: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(ROOT / "skerry.py"), "hub", "rebuild", "--data", str(data), *flags]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)

    said = run()
    assert said.returncode == 0, said.stderr
    assert "100 %" in said.stderr
    assert "events" in said.stderr
    made = json.loads(run("--json").stdout)
    assert made["equal"]
    for one in made["projections"]:
        assert f"rebuilt {one['rebuilt']}" in said.stdout
    with closing(sqlite3.connect(data / "history.db")) as db:
        db.execute("UPDATE turn SET seq=seq+1 WHERE position=(SELECT max(position) FROM turn)")
        db.commit()
    said = run()
    assert said.returncode == 1
    assert "DIFFERS" in said.stdout
    assert "has taken its place" in said.stderr


def test_a_site_s_own_folder_is_rebuilt_too(tmp_path: Path) -> None:
    with Alder(tmp_path / "alder") as alder:
        for fact in turns(5):
            alder.say(fact)
            time.sleep(0.001)
    found = rebuild(tmp_path / "alder")
    assert found.events == 5
    assert found.good
