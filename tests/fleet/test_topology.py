"""Paths over relays: a path is as good as its worst hop, and a circle is told, never followed."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from fleet import topology
from fleet.connectivity import Reach
from fleet.topology import Branch, Forest, Hop

ONLINE, DEGRADED, OFFLINE, UNKNOWN = Reach.ONLINE, Reach.DEGRADED, Reach.OFFLINE, Reach.UNKNOWN


def hop(name: str, reach: Reach = ONLINE) -> Hop:
    return Hop(name, name, reach)


def ids(branches: tuple[Branch, ...]) -> list[str]:
    return [found for one in branches for found in (one.hop.id, *ids(one.over))]


def paths(branches: tuple[Branch, ...]) -> dict[str, Reach]:
    return {one.hop.id: one.path for one in branches} | {
        node: path for one in branches for node, path in paths(one.over).items()
    }


def test_a_path_is_as_good_as_its_worst_hop() -> None:
    hops = [hop("mast", DEGRADED), hop("ridge"), hop("drone", ONLINE), hop("hut"), hop("sensor", UNKNOWN)]
    found = topology.forest(hops, {"ridge": "mast", "drone": "ridge", "sensor": "hut"})
    assert ids(found.roots) == ["hut", "sensor", "mast", "ridge", "drone"]
    assert paths(found.roots) == {
        "hut": ONLINE,
        "sensor": UNKNOWN,
        "mast": DEGRADED,
        "ridge": DEGRADED,
        "drone": DEGRADED,
    }
    assert [one.size for one in found.roots] == [2, 3]
    assert topology.worst(UNKNOWN, OFFLINE, ONLINE) is OFFLINE


def test_a_circle_is_named_once_and_what_hangs_behind_it_is_told() -> None:
    hops = [hop(name) for name in ("a", "b", "c", "d", "e", "free")]
    found = topology.forest(hops, {"a": "b", "b": "c", "c": "a", "d": "c", "e": "d"})
    assert found.circles == (("a", "b", "c"),)
    assert found.behind == ("d", "e")
    assert ids(found.roots) == ["free"]


def test_a_node_over_itself_is_a_circle_of_one() -> None:
    assert topology.forest([hop("a")], {"a": "a"}).circles == (("a",),)
    assert topology.circle({}, "a", "a") == ("a",)


def test_a_node_over_one_that_nobody_knows_hangs_from_the_site_and_is_named() -> None:
    assert topology.forest([hop("a")], {"a": "gone"}) == Forest((Branch(hop("a"), ONLINE),), (), (), (("a", "gone"),))


def test_an_edit_that_would_close_a_circle_is_told_with_its_way() -> None:
    upstream = {"b": "a", "c": "b"}
    assert topology.circle(upstream, "a", "c") == ("a", "c", "b")
    assert topology.circle(upstream, "c", "a") == ()
    assert topology.circle(upstream, "d", "c") == ()
    assert topology.circle({"x": "y", "y": "x"}, "d", "x") == ()


def test_more_hops_than_any_radio_path_end_there() -> None:
    names = [f"{number:03}" for number in range(topology.hops_max + 5)]
    upstream = {below: above for above, below in itertools.pairwise(names)}
    found = topology.forest([hop(name) for name in names], upstream)
    assert len(ids(found.roots)) == topology.hops_max
    assert len(found.behind) == 5


NODES = st.sampled_from([chr(97 + number) for number in range(9)])


@given(st.dictionaries(NODES, NODES | st.just("gone")))
def test_every_node_is_shown_once_whatever_was_written(upstream: dict[str, str]) -> None:
    hops = [hop(chr(97 + number)) for number in range(9)]
    found = topology.forest(hops, upstream)
    shown = [*ids(found.roots), *(node for one in found.circles for node in one), *found.behind]
    assert sorted(shown) == [one.id for one in hops]


@given(st.dictionaries(NODES, NODES), NODES, NODES)
def test_what_circle_lets_through_closes_none(upstream: dict[str, str], node: str, over: str) -> None:
    hops = [hop(chr(97 + number)) for number in range(9)]
    before = topology.forest(hops, {**upstream, node: ""}).circles
    after = topology.forest(hops, {**upstream, node: over}).circles
    assert (len(after) > len(before)) == bool(topology.circle({**upstream, node: ""}, node, over))
