"""The board of drift follows what is written and told, after a start as well."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import pytest

from fleet.board import Board
from fleet.connectivity import Mode
from fleet.document import Id, Kind, Value
from fleet.drift import Standing
from fleet.events import VersionChanged
from fleet.present import Present
from store import drifting
from store.clock import WallClock
from store.database import connect_reader
from store.drifting import Drifting
from store.policies import Policies
from tests.store.alder import TENANT, Alder


class Here(NamedTuple):
    present: Present
    site: str = ""


class Bridge:
    """alder with a board; `keep` makes another one, as a start does."""

    def __init__(self, root: Path) -> None:
        self.alder = Alder(root)
        self.seen: dict[str, Here] = {}
        self.heard = frozenset({""})
        self.board = self.keep()
        self.alder.journal.listen(self.board.heard)
        self.policies = Policies(self.alder.site, self.alder.shared, WallClock(), TENANT)

    def keep(self) -> Drifting[tuple[Board, int]]:
        told = lambda: (self.seen, self.heard, None)  # noqa: E731
        made = Drifting(self.alder.folder.site_db, TENANT, told, lambda board, pending: (board, pending))
        with closing(connect_reader(self.alder.folder.site_db)) as db:
            made.load(db)
        return made

    def write(self, name: str, **values: Value) -> None:
        place = Id(TENANT, Kind.NODE, name)
        self.alder.site.submit(lambda db: self.alder.shared.edit(db, place, values, "alice")).result()

    def tell(self, name: str, version: str) -> None:
        self.seen[name] = Here(Present(name, name.lower(), mode=Mode.LIVE, version=version))


@pytest.fixture
def bridge(tmp_path: Path) -> Iterator[Bridge]:
    made = Bridge(tmp_path / "alder")
    yield made
    made.alder.shared.close()
    made.alder.stop()


async def standing(board: Drifting[tuple[Board, int]], name: str) -> Standing | None:
    def work(board: Board) -> Standing | None:
        held = board.nodes.get(name)
        return held.verdict.standing if held else None

    return await board.ask(work)


async def test_an_edit_and_a_word_of_a_node_are_on_the_board_after_their_commit(bridge: Bridge) -> None:
    bundle = await bridge.policies.create("alice", Kind.BUNDLE, "scouts")
    await bridge.policies.change("alice", Kind.BUNDLE, bundle, {"target_version": "1.5"})
    bridge.write("KESTREL", policy_bundle_id=bundle)
    bridge.tell("KESTREL", "1.4")
    assert await standing(bridge.board, "KESTREL") is Standing.OUT
    bridge.tell("KESTREL", "1.5")
    await bridge.board.refresh()
    assert await standing(bridge.board, "KESTREL") is Standing.IN_LINE
    bridge.heard = frozenset()
    await bridge.board.refresh()
    assert await standing(bridge.board, "KESTREL") is Standing.UNKNOWN


async def test_a_start_says_what_is_not_read_yet_and_reads_it_behind(
    bridge: Bridge, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drifting, "SLICE_DOCUMENTS", 2)
    for number in range(5):
        bridge.write(f"NODE{number}", target_version="1.5")
        bridge.tell(f"NODE{number}", "1.4")
    again = bridge.keep()
    _, pending = await again.latest()
    assert pending == 5
    bridge.alder.journal.listen(again.heard)
    bridge.write("NODE4", target_version="1.4")  # goes before what is from before the start
    assert await standing(again, "NODE4") is Standing.IN_LINE
    stale: list[str] = []
    running = asyncio.ensure_future(again.run(stale.append))
    while (await again.latest())[1]:
        await asyncio.sleep(0.01)
    running.cancel()
    assert await standing(again, "NODE0") is Standing.OUT
    assert await standing(again, "NODE4") is Standing.IN_LINE


async def test_since_when_a_node_runs_what_it_runs_stands_in_the_journal(bridge: Bridge) -> None:
    bridge.alder.say(("KESTREL", VersionChanged("", "1.3")), ("KESTREL", VersionChanged("1.3", "1.4")))
    found = await bridge.board.versions(("KESTREL", "MERLIN"))
    assert set(found) == {"KESTREL"}
    assert found["KESTREL"][0] == "1.4"


async def test_a_bundles_history_tells_each_word_once(bridge: Bridge) -> None:
    bundle = await bridge.policies.create("alice", Kind.BUNDLE, "scouts")
    await bridge.policies.change("bob", Kind.BUNDLE, bundle, {"target_version": "1.5"})
    assert len(await bridge.board.history(bundle, 20)) == 2
