"""Views: a projection that reads the journal from a cursor gives the same state however it came there."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from fleet import events
from fleet.connectivity import Mode
from fleet.projections import connectivity
from store import journal
from store.database import connect_reader
from store.views import Projection, View
from tests.store.alder import Alder

CONNECTIVITY = Projection(connectivity.NAME, connectivity.VERSION, connectivity.EMPTY, connectivity.advance)
NODES = ("01KESTREL00000000000000001", "01MERLIN000000000000000001")


def view(projection: Projection = CONNECTIVITY) -> View[connectivity.State]:
    return View(projection, connectivity.State)


@pytest.fixture
def alder(tmp_path: Path) -> Iterator[Alder]:
    with Alder(tmp_path / "alder") as made:
        yield made


def a_day(alder: Alder) -> None:
    for node in NODES:
        alder.say((node, events.NodeHeard(Mode.LIVE, "", "syslog", 1)))
    alder.say((NODES[0], events.NodeQuiet(Mode.DISCONNECTED, Mode.LIVE, 1, 15)))
    alder.say((NODES[1], events.NodeDegraded(Mode.DELAYED, Mode.LIVE, "slow")))


def loaded(alder: Alder, projection: Projection = CONNECTIVITY) -> View[connectivity.State]:
    made = view(projection)
    with closing(connect_reader(alder.folder.site_db)) as db:
        made.load(db)
    return made


def test_a_view_folds_what_the_journal_holds(alder: Alder) -> None:
    a_day(alder)
    made = loaded(alder)
    assert {node: made.state.standing[node].mode for node in NODES} == {
        NODES[0]: Mode.DISCONNECTED,
        NODES[1]: Mode.DELAYED,
    }
    assert made.position == alder.journal.position


def test_a_view_that_listens_is_where_one_that_loads_is(alder: Alder) -> None:
    live = view()
    alder.journal.listen(live.fold)
    a_day(alder)
    assert (live.state, live.position) == (loaded(alder).state, loaded(alder).position)


def test_a_checkpoint_saves_time_and_changes_nothing(alder: Alder) -> None:
    a_day(alder)
    whole = loaded(alder)
    alder.site.submit(whole.checkpoint).result()
    alder.say((NODES[0], events.NodeHeard(Mode.RETURNING, Mode.DISCONNECTED, "syslog", 9)))
    read: list[int] = []

    def counting(state: connectivity.State, batch: Iterable[events.Recorded]) -> connectivity.State:
        held = list(batch)
        read.append(len(held))
        return connectivity.advance(state, held)

    resumed = loaded(alder, CONNECTIVITY._replace(advance=counting))
    assert sum(read) == 1, "only what came after the checkpoint"
    assert resumed.state.standing[NODES[0]].mode is Mode.RETURNING
    with closing(connect_reader(alder.folder.site_db)) as db:
        from_the_start = connectivity.EMPTY
        for batch in journal.read(db):
            from_the_start = connectivity.advance(from_the_start, batch)
    assert resumed.state == from_the_start


def test_a_checkpoint_of_another_version_or_of_no_sense_is_passed_over(alder: Alder) -> None:
    a_day(alder)
    whole = loaded(alder)
    alder.site.submit(whole.checkpoint).result()
    assert loaded(alder, CONNECTIVITY._replace(version=99)).state == whole.state

    def spoil(db: sqlite3.Connection) -> None:
        db.execute("UPDATE view SET state=?, position=1", (b"\xc1 nonsense",))

    alder.site.submit(spoil).result()
    again = loaded(alder)
    assert (again.state, again.position) == (whole.state, whole.position)


def test_a_reader_of_the_old_state_is_not_disturbed(alder: Alder) -> None:
    made = view()
    alder.journal.listen(made.fold)
    alder.say((NODES[0], events.NodeHeard(Mode.LIVE, "", "syslog", 1)))
    held = made.state
    alder.say((NODES[0], events.NodeQuiet(Mode.DISCONNECTED, Mode.LIVE, 1, 15)))
    assert held.standing[NODES[0]].mode is Mode.LIVE
    assert made.state.standing[NODES[0]].mode is Mode.DISCONNECTED


def test_what_was_rolled_back_reaches_no_view(alder: Alder) -> None:
    made = view()
    alder.journal.listen(made.fold)

    def job(db: sqlite3.Connection) -> None:
        alder.journal.stage(NODES[0], events.NodeHeard(Mode.LIVE, "", "syslog", 1))
        raise ValueError("changed my mind")

    with pytest.raises(ValueError, match="changed my mind"):
        alder.site.submit(job).result()
    alder.say((NODES[1], events.NodeHeard(Mode.LIVE, "", "syslog", 1)))
    assert set(made.state.standing) == {NODES[1]}
