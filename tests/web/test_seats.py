"""Who sits where in a crowd of the past: as the box has its nodes now, and anew only when somebody came or moved."""

from __future__ import annotations

from array import array

from fleet.connectivity import Mode, Reach
from fleet.node import Kind
from fleet.past import CODES, Crowd
from web.ports import NodeRow
from web.rows import Everyone
from web.seats import Kept

LIVE = CODES[Mode.LIVE]


def row(node_id: str, name: str, site: str) -> NodeRow:
    return NodeRow(id=node_id, name=name, kind=Kind.EDGE, site=site, mode=Mode.LIVE, reach=Reach.ONLINE)


def everyone(placed: int, *rows: NodeRow) -> Everyone:
    by_id = {one.id: one for one in rows}
    return Everyone(by_id, sorted(by_id, key=lambda one: by_id[one].name), placed)


def crowd(ids: list[str]) -> Crowd:
    return Crowd(ids, bytes([LIVE] * len(ids)), array("Q", [0] * len(ids)))


def test_who_comes_later_or_is_not_here_has_a_place_all_the_same() -> None:
    kept, ids = Kept(), ["N1", "N2", "GONE"]
    here = everyone(1, row("N1", "zulu", "alder"), row("N2", "alpha", "birch"))
    first = kept.of(crowd(ids), here)
    assert kept.of(crowd(ids), here) is first
    assert (first.by_name, first.by_site["birch"]) == ([1, 0], [1])
    assert first.without(bytes([LIVE] * 3), ["birch"]) == bytearray([LIVE, 0, 0])
    assert first.named(bytearray([1, 2, 3])) == bytes([2, 1])
    former = crowd(ids)
    ids.append("N3")
    later = kept.of(former, everyone(2, *here.rows.values(), row("N3", "mike", "alder")))
    assert later.of == {"N1": 0, "N2": 1, "GONE": 2, "N3": 3}
    assert later.without(former.codes, ()) == bytearray([LIVE, LIVE, 0, 0]), "N3 came later"
    assert later.named(bytearray([1, 2, 3, 4])) == bytes([2, 4, 1])


def test_a_move_is_seen_and_a_list_of_one_or_none_is_whole() -> None:
    kept, ids = Kept(), ["N1"]
    assert kept.of(crowd(ids), everyone(1, row("N1", "a", "alder"))).sites == ["alder"]
    moved = kept.of(crowd(ids), everyone(2, row("N1", "a", "birch")))
    assert (moved.sites, moved.named(bytearray([5]))) == (["birch"], bytes([5]))
    other = kept.of(crowd(["X"]), everyone(2))
    assert (other.of, other.named(bytearray([5]))) == ({"X": 0}, b"")
