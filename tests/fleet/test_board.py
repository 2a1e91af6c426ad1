"""The counts of domains and bundles, kept by what changed, are those that a board made anew would have."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any, NamedTuple

import pytest

from fleet.board import Board, Group
from fleet.connectivity import Mode
from fleet.document import Kind, Stamped, View
from fleet.drift import Standing
from fleet.events import Clock
from fleet.present import Present, Told

SITES = ("alder", "birch")
BUNDLES, DOMAINS = ("SCOUTS", "MASTS"), ("FJORD", "COAST")


class Here(NamedTuple):
    site: str
    present: Present


def document(**fields: Any) -> View:
    stamps = {
        name.replace("__", "/"): Stamped(value, "Alice", "01HARBOR", 1, 7, 7, Clock.SYNCED)
        for name, value in fields.items()
    }
    return View(stamps, ())


def here(name: str, version: str | None = "1.4.1", site: str = "alder", **values: float) -> Here:
    told = {metric: Told(value, 9) for metric, value in values.items()}
    return Here(site, Present(name, name.lower(), mode=Mode.LIVE, since_ns=1, seen_ns=9, version=version, values=told))


@pytest.fixture
def board() -> Board:
    made = Board()
    made.write(Kind.BUNDLE, "SCOUTS", document(name="scouts", target_version="1.4.2"))
    made.write(Kind.DOMAIN, "FJORD", document(name="Fjord"))
    for name in ("KESTREL", "MERLIN", "OSPREY"):
        made.write(Kind.NODE, name, document(policy_bundle_id="SCOUTS", domain_id="FJORD"))
    seen = {"KESTREL": here("KESTREL"), "MERLIN": here("MERLIN", "1.4.2"), "OSPREY": here("OSPREY", site="birch")}
    made.fold(seen, frozenset({"alder"}))
    return made


def test_a_domain_counts_what_is_out_in_line_and_unknown(board: Board) -> None:
    group = board.domain("FJORD")
    assert dict(group.standing) == {Standing.OUT: 1, Standing.IN_LINE: 1, Standing.UNKNOWN: 1}
    assert (len(group.nodes), group.score, dict(group.reasons)) == (3, 50.0, {"runs 1.4.1, wanted 1.4.2": 1})
    assert dict(group.versions) == {"1.4.1": 1, "1.4.2": 1, None: 1}
    assert list(group.out) == ["KESTREL"]
    assert board.bundle("SCOUTS") == group


def test_only_what_changed_is_judged_anew(board: Board) -> None:
    before = {name: one.verdict for name, one in board.nodes.items()}
    board.write(Kind.BUNDLE, "SCOUTS", document(name="scouts", target_version="1.4.1"))
    seen = {name: one.seen for name, one in board.nodes.items()}
    assert board.fold(seen, frozenset({"alder"}), most=1) == 2
    assert board.fold(seen, frozenset({"alder"})) == 0
    assert board.nodes["KESTREL"].verdict.standing is Standing.IN_LINE
    assert board.nodes["MERLIN"].verdict != before["MERLIN"]


def test_a_preview_says_what_would_turn_and_changes_nothing(board: Board) -> None:
    found = board.preview("SCOUTS", {"target_version": "1.5.0"})
    assert (found.nodes, found.turned, found.before[Standing.OUT], found.after[Standing.OUT]) == (3, 1, 1, 2)
    assert found.domains == Counter({"FJORD": 3})
    assert board.bundle("SCOUTS").standing[Standing.OUT] == 1
    assert board.preview("SCOUTS", {"target_version": None}).after[Standing.FREE] == 3


def test_a_domain_that_nodes_speak_of_is_there_before_its_document(board: Board) -> None:
    board.write(Kind.NODE, "MERLIN", document(domain_id="COAST", policy_bundle_id="GONE"))
    board.fold({name: one.seen for name, one in board.nodes.items()}, frozenset({"alder"}))
    assert board.domain_names() == {"FJORD", "COAST"}
    assert board.nodes["MERLIN"].verdict.standing is Standing.UNKNOWN


def counted(group: Group) -> tuple[object, ...]:
    return (group.nodes, +group.standing, group.scores, +group.reasons, +group.versions, +group.sites, group.out)


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize("seed", range(20))
def test_counts_kept_by_what_changed_are_those_of_a_board_made_anew(seed: int, named: bool) -> None:
    """`named`: the board is told which nodes changed, and does not look at the others."""
    rand, board = random.Random(seed), Board()
    documents: dict[tuple[str, str], View] = {}
    seen: dict[str, Here] = {}
    heard: frozenset[str] = frozenset()
    for _ in range(300):
        name = f"NODE{rand.randrange(12)}"
        match rand.randrange(6):
            case 0:
                values = {
                    "target_version": rand.choice(["1", "2", ""]),
                    "constraints__temp_c": rand.choice(["..60", "x"]),
                }
                documents[Kind.BUNDLE, rand.choice(BUNDLES)] = document(**values)
            case 1:
                own = {
                    "domain_id": rand.choice([*DOMAINS, ""]),
                    "policy_bundle_id": rand.choice([*BUNDLES, "", "GONE"]),
                }
                if rand.random() < 0.3:
                    own["target_version"] = "1"
                documents[Kind.NODE, name] = document(**own)
            case 2 | 3:
                seen[name] = here(name, rand.choice([None, "1", "2"]), rand.choice(SITES), temp_c=rand.choice([41, 99]))
            case 4:
                seen.pop(name, None)
            case _:
                heard = frozenset(site for site in SITES if rand.random() < 0.7)
        for (kind, place), view in documents.items():
            if rand.random() < 0.3:
                board.write(kind, place, view)
        board.fold(dict(seen), heard, most=rand.choice([1, 5, 100]), fresh={name} if named else None)
    anew = Board()
    for made in (board, anew):
        for (kind, place), view in documents.items():
            made.write(kind, place, view)
        while made.fold(dict(seen), heard, most=5, fresh=() if named and made is board else None):
            pass
    assert {name: one.verdict[:2] for name, one in board.nodes.items()} == {
        name: one.verdict[:2] for name, one in anew.nodes.items()
    }
    for names, group in ((board.domain_names() | anew.domain_names(), "domain"), ({*BUNDLES, "GONE"}, "bundle")):
        for name in names:
            assert counted(getattr(board, group)(name)) == counted(getattr(anew, group)(name))
