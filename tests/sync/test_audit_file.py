"""The audit as a file: whoever has it can check it with nothing else, and whoever alters it is found out."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fleet import events
from fleet.audit import Query
from store.journal import Identity
from sync import audit_file
from tests.simulation.boxes import key_of
from tests.store.alder import DRONE, Alder, heard
from tests.store.test_audit import DEEDS


@pytest.fixture
def alder(tmp_path: Path) -> Iterator[Alder]:
    made = Alder(tmp_path / "alder")
    made.say(*DEEDS[:4])  # one block, with what machines do in it
    for one in DEEDS[4:]:
        made.say(one)
    made.say(*((DRONE, heard(number)) for number in range(50)))
    yield made
    made.stop()


@pytest.fixture
def file(alder: Alder, tmp_path: Path) -> Path:
    return written(alder, tmp_path / "audit.jsonl", Query())


def written(alder: Alder, path: Path, query: Query) -> Path:
    who = Identity(alder.log, "alder")
    path.write_bytes(b"".join(audit_file.lines(alder.folder.site_db, who, alder.journal.vouch, query, 5)))
    return path


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_file_holds_what_the_page_finds_each_with_its_proof(alder: Alder, file: Path) -> None:
    said = rows(file)
    found = [one["event"] for one in said if "event" in one]
    machines = ("node.heard", "lifecycle.moved")
    assert [one["kind"] for one in found] == [body.KIND for _, body in reversed(DEEDS) if body.KIND not in machines]
    assert found[0]["who"] == "hub harbor"
    assert found[0]["fields"]["said"] == [["nils", "added as viewer", "Olga"]]
    hashes = {one["block"]["hash"] for one in said if "block" in one}
    assert {one["block"] for one in found} == hashes
    good, words = audit_file.verify(file, None)
    assert good, words
    assert "9 events as alder had them" in words
    assert "compare them" in words
    good, words = audit_file.verify(file, alder.folder.root)
    assert good, words
    assert "are the same there" in words


def test_a_file_of_one_person_and_one_of_nobody_hold(alder: Alder, tmp_path: Path) -> None:
    for person, count in (("bob", 3), ("nobody", 0)):
        path = written(alder, tmp_path / f"{person}.jsonl", Query(person=person))
        good, words = audit_file.verify(path, alder.folder.root)
        assert good, words
        assert f"{count} events" in words


def _dropped(what: str) -> Callable[[list[str]], list[str]]:
    def alter(lines: list[str]) -> list[str]:
        index = next(number for number, line in enumerate(lines) if line.startswith(f'{{"{what}"'))
        return lines[:index] + lines[index + 1 :]

    return alter


ALTERED: dict[str, Callable[[list[str]], list[str]]] = {
    "an event is taken out": _dropped("event"),
    "a block is taken out": _dropped("block"),
    "a log is taken out": _dropped("log"),
    "the end is taken out": _dropped("end"),
    "the head is taken out": lambda lines: lines[1:],
    "a name is altered": lambda lines: [line.replace('"alice"', '"mallory"') for line in lines],
    "an address is altered": lambda lines: [line.replace("10.6.6.6", "10.0.0.7") for line in lines],
    "a time is altered": lambda lines: [line.replace('"wall_ns":', '"wall_ns":1') for line in lines],
    "an event is said twice": lambda lines: [*lines[:4], lines[3], *lines[4:]],
    "two lines change places": lambda lines: [*lines[:-3], lines[-2], lines[-3], lines[-1]],
    "something stands behind the end": lambda lines: [*lines, lines[-1]],
    "the question is altered": lambda lines: [lines[0].replace('"person":""', '"person":"bob"'), *lines[1:]],
    "it is empty": lambda lines: [],
    "it is something else": lambda lines: ["[]", "{}", "nonsense"],
}


@pytest.mark.parametrize("name", ALTERED)
def test_whoever_alters_a_file_is_found_out(name: str, file: Path) -> None:
    lines = file.read_text().splitlines()
    altered = ALTERED[name](lines)
    assert altered != lines
    file.write_text("".join(f"{line}\n" for line in altered))
    good, words = audit_file.verify(file, None)
    assert not good
    assert "\n" not in words


def test_a_file_cut_at_any_line_is_found_out(file: Path) -> None:
    lines = file.read_bytes().splitlines(keepends=True)
    for count in range(len(lines)):
        file.write_bytes(b"".join(lines[:count]))
        assert not audit_file.verify(file, None)[0]


def test_a_whole_file_by_mallorys_key_does_not_stand_beside_the_data(alder: Alder, file: Path, tmp_path: Path) -> None:
    """She can make a log and a file of her own that hold by themselves; not one that agrees with alder's."""
    forger = Alder(tmp_path / "forger")
    forger.say(("alice", events.AccountChanged("bob", "disabled", "yes", "nobody")))
    forged = written(forger, tmp_path / "forged.jsonl", Query())
    assert audit_file.verify(forged, None)[0]
    good, words = audit_file.verify(forged, alder.folder.root)
    forger.stop()
    assert not good
    assert "another key" in words


def test_an_end_by_another_key_does_not_hold(alder: Alder, tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    who = Identity(alder.log, "alder")
    mallory = key_of("Mallory").sign
    path.write_bytes(b"".join(audit_file.lines(alder.folder.site_db, who, mallory, Query(), 5)))
    good, words = audit_file.verify(path, None)
    assert not good
    assert "taken out, added or altered" in words


def test_a_file_that_is_not_there_is_said(tmp_path: Path) -> None:
    good, words = audit_file.verify(tmp_path / "nothing", None)
    assert not good
    assert "cannot be read" in words
