"""Two networks that never share a route become one by files alone, carried by hand: alder and harbor agree in the end as
if there had been a wire, and old, repeated and foreign files change nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest

from bench.island import free_port
from store import document, peers
from tests.cast import eventually, skerry
from tests.mainland import Box, join, mainland

pytestmark = pytest.mark.timeout(240)

KESTREL = {"source": "syslog/10.0.0.7/kestrel", "name": "kestrel", "kind": "EDGE", "tags": ["drone"]}
NOTHING_NEW = "the file brought nothing that was not here"


@contextlib.contextmanager
def running(box: Box) -> Iterator[Box]:
    box.start()
    try:
        yield box
    finally:
        box.stop()


class Coast(NamedTuple):
    """A hub and a site that know of each other, and have no line: an operator cut it before it was there."""

    root: Path
    hub: Box
    alder: Box

    def carry(self, name: str) -> tuple[Path, str]:
        """A file from the site to the hub; where it lies, and what the hub said."""
        return _carried(self.alder, self.hub, self.root / name)

    def carry_back(self, name: str) -> tuple[Path, str]:
        return _carried(self.hub, self.alder, self.root / name, "--site", "alder")

    def round(self, name: str) -> None:
        self.carry(f"{name}-up")
        self.carry_back(f"{name}-down")


def _carried(sender: Box, to: Box, stick: Path, *flags: str) -> tuple[Path, str]:
    made = skerry("bundle", "export", "--data", str(sender.data), str(stick), *flags)
    assert made.returncode == 0, made.stderr
    (path,) = stick.iterdir()
    return path, taken(to, path)


def taken(box: Box, path: Path) -> str:
    said = skerry("bundle", "import", "--data", str(box.data), str(path))
    assert said.returncode == 0, said.stderr
    return said.stdout


def ports() -> tuple[str, ...]:
    flags = [f"127.0.0.1:{free_port()}" for _ in range(4)]
    return ("--http", flags[0], "--syslog-udp", flags[1], "--syslog-tcp", flags[2], "--mqtt", flags[3])


def site_at(data: Path) -> Box:
    return Box(data, "appliance", "alder", *ports(), environment={"SKERRY_PING_ENABLED": "false"})


def node(box: Box, node_id: str) -> dict[str, Any]:
    found: dict[str, Any] = box.call("GET", f"/api/v1/nodes/{node_id}")
    return found


def write(box: Box, node_id: str, field: str, value: str) -> None:
    box.call("PATCH", f"/api/v1/nodes/{node_id}", {"field": field, "value": value})


def disputed(box: Box, node_id: str) -> set[str]:
    return {choice["value"] for one in node(box, node_id)["conflicts"] for choice in one["choices"]}


def state_of(hub: Box, writer: str, end: int) -> str:
    """A hash over what the hub holds of a site: its log up to `end`, the heads of all documents, its nodes now."""
    with contextlib.closing(hub.database()) as db:
        (tenant,) = db.execute("SELECT tenant FROM log WHERE writer=?", (writer,)).fetchone()
        log = [raw for epoch, seq, raw in hub.log_of(writer) if epoch == 1 and seq <= end]
        assert len(log) == end
        root = document.digest(document.heads(db, tenant)).root
        nodes = sorted(
            (present for present, site, *_ in peers.presents(db) if site == writer), key=lambda one: one.node_id
        )
    return hashlib.sha256(msgspec.msgpack.encode((log, root, nodes))).hexdigest()


def level(coast: Coast, writer: str, node_id: str) -> bool:
    """Whether all that alder wrote is at the hub, and both read the same words."""
    there, here = coast.alder.log_of(writer), coast.hub.log_of(writer)
    mine, theirs = node(coast.alder, node_id), node(coast.hub, node_id)
    return there == here and all(mine[key] == theirs[key] for key in ("notes", "conflicts"))


@pytest.fixture
def coast(tmp_path: Path) -> Iterator[Coast]:
    with mainland(tmp_path) as (hub,), running(site_at(tmp_path / "alder")) as alder:
        alder.call("POST", "/console/link", {"action": "cut", "value": ""})
        join(hub, alder)
        yield Coast(tmp_path, hub, alder)


def test_two_networks_converge_by_files_alone(coast: Coast) -> None:
    hub, alder = coast.hub, coast.alder
    node_id, writer = alder.call("POST", "/api/v1/adopt", KESTREL)["id"], alder.writer()
    write(alder, node_id, "notes", "as new")
    first, said = coast.carry("first-up")
    assert "new events" in said
    coast.carry_back("first-down")
    assert node(hub, node_id)["notes"] == "as new"

    write(alder, node_id, "notes", "its left arm is bent")
    write(hub, node_id, "notes", "Bob comes on Monday")
    write(hub, node_id, "name", "kestrel-2")
    for name in ("second", "third"):
        coast.round(name)
    both = {"its left arm is bent", "Bob comes on Monday"}
    assert disputed(hub, node_id) == disputed(alder, node_id) == both
    assert node(alder, node_id)["node"]["name"] == "kestrel-2"

    taken_word = node(hub, node_id)["conflicts"][0]["choices"][1]["value"]
    hub.call("POST", f"/api/v1/nodes/{node_id}/take", {"field": "notes", "choice": 1})
    coast.carry_back("fourth-down")
    assert not disputed(alder, node_id)
    assert node(alder, node_id)["notes"] == taken_word
    coast.round("fifth")
    coast.carry("sixth-up")
    assert level(coast, writer, node_id)

    _both_signed(coast, writer)
    _old_and_repeated_files_change_nothing(coast, writer, first)


def _both_signed(coast: Coast, writer: str) -> None:
    """The newest receipt with both signatures is the same at either end, and holds against either end's folder."""
    with contextlib.closing(coast.hub.database()) as there, contextlib.closing(coast.alder.database()) as here:
        newest, signed = (peers.newest_receipt(db, writer, both=True) for db in (there, here))
    assert newest is not None
    assert signed is not None
    assert (newest.number, newest.content, newest.site_signature) == (
        signed.number,
        signed.content,
        signed.site_signature,
    )
    path = coast.root / "alder.receipt"
    made = skerry("receipt", "export", "--data", str(coast.hub.data), "--number", str(newest.number))
    path.write_text(made.stdout)
    for box in (coast.alder, coast.hub):
        said = skerry("receipt", "verify", str(path), "--data", str(box.data))
        assert said.returncode == 0, said.stdout + said.stderr
        assert "both signatures hold, and the log in" in said.stdout


def _old_and_repeated_files_change_nothing(coast: Coast, writer: str, first: Path) -> None:
    end = len(coast.alder.log_of(writer))
    newest, _ = coast.carry("again-up")
    newest_back, _ = coast.carry_back("again-down")
    before = state_of(coast.hub, writer, end)
    for path in (first, newest, newest):
        assert NOTHING_NEW in taken(coast.hub, path)
    for _ in range(2):
        assert "brought 0 new events" in taken(coast.alder, newest_back)
    assert state_of(coast.hub, writer, end) == before
    assert coast.hub.log_of(writer) == coast.alder.log_of(writer)
    assert not coast.hub.site("alder")["quarantine"]


def test_a_stick_and_a_wire_end_in_the_same_state(coast: Coast) -> None:
    hub, alder, root = coast.hub, coast.alder, coast.root
    node_id, writer = alder.call("POST", "/api/v1/adopt", KESTREL)["id"], alder.writer()
    coast.round("first")
    for number in range(5):
        write(alder, node_id, "notes", f"alder's word {number}")
        write(hub, node_id, "notes", f"harbor's word {number}")
    write(alder, node_id, "name", "kestrel-2")
    end = len(alder.log_of(writer))
    for box in (alder, hub):
        box.stop()
        shutil.copytree(box.data, root / "copy" / box.data.name, ignore=shutil.ignore_patterns("*.sock"))

    hub.start()
    alder.start()
    for name in ("second", "third"):
        coast.round(name)
    coast.carry("fourth-up")
    by_stick = state_of(hub, writer, end), disputed(hub, node_id), node(hub, node_id)["notes"]
    assert len(by_stick[1]) == 2
    for box in (alder, hub):  # the copies take their place, on the same ports
        box.stop()
        shutil.rmtree(box.data)
        (root / "copy" / box.data.name).rename(box.data)

    hub.start()
    alder.start()
    alder.call("POST", "/console/link", {"action": "restore", "value": ""})
    eventually(lambda: hub.site("alder").get("mode") == "LIVE", seconds=60)
    eventually(lambda: disputed(hub, node_id), lambda found: len(found) == 2)
    eventually(lambda: node(alder, node_id)["conflicts"], lambda found: found == node(hub, node_id)["conflicts"])
    by_wire = state_of(hub, writer, end), disputed(hub, node_id), node(hub, node_id)["notes"]
    assert by_wire == by_stick


def test_a_file_says_what_it_is_to_anybody(coast: Coast) -> None:
    path, _ = coast.carry("first-up")
    said = skerry("bundle", "inspect", str(path))
    assert said.returncode == 0, said.stdout
    assert f"from {coast.alder.writer()} to {coast.hub.writer()}" in said.stdout
    assert "part 1 of 1" in said.stdout
    assert "whole, and signed by whom it names" in said.stdout
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)
    said = skerry("bundle", "inspect", str(path))
    assert said.returncode == 1
    assert "whole, and signed" not in said.stdout
    refused = skerry("bundle", "import", "--data", str(coast.hub.data), str(path))
    assert refused.returncode == 1


def test_a_file_for_another_hub_is_refused_with_its_sentence(coast: Coast, tmp_path: Path) -> None:
    path, _ = coast.carry("first-up")
    (tmp_path / "elsewhere").mkdir()
    with mainland(tmp_path / "elsewhere") as (bay,):
        said = skerry("bundle", "import", "--data", str(bay.data), str(path))
        assert said.returncode == 1
        assert "Traceback" not in said.stderr
        assert "this bundle is for another box; bring it there" in said.stderr
        assert bay.log_of(coast.alder.writer()) == []


def test_an_old_file_does_not_bring_back_how_it_was(coast: Coast) -> None:
    node_id, writer = coast.alder.call("POST", "/api/v1/adopt", KESTREL)["id"], coast.alder.writer()
    first, _ = coast.carry("first-up")
    write(coast.alder, node_id, "name", "kestrel-2")
    coast.carry("second-up")
    end = len(coast.alder.log_of(writer))
    before = state_of(coast.hub, writer, end)
    assert NOTHING_NEW in taken(coast.hub, first)
    assert state_of(coast.hub, writer, end) == before


def test_an_old_file_of_the_hub_writes_nothing_in_the_log_of_a_site(coast: Coast) -> None:
    node_id, writer = coast.alder.call("POST", "/api/v1/adopt", KESTREL)["id"], coast.alder.writer()
    coast.carry("first-up")
    first_back, _ = coast.carry_back("first-down")
    write(coast.alder, node_id, "notes", "its left arm is bent")
    coast.round("second")
    before = coast.alder.log_of(writer)
    taken(coast.alder, first_back)
    assert coast.alder.log_of(writer) == before


def test_a_site_that_met_its_hub_by_stick_alone_shows_a_receipt_that_holds(coast: Coast) -> None:
    coast.round("first")
    path = coast.root / "alder.receipt"
    path.write_text(skerry("receipt", "export", "--data", str(coast.alder.data)).stdout)
    said = skerry("receipt", "verify", str(path), "--data", str(coast.alder.data))
    assert "both signatures hold" in said.stdout


def test_a_sealed_segment_travels_once_and_a_receipt_lets_the_site_prune_it(coast: Coast) -> None:
    alder = coast.alder
    alder.call("POST", "/v1/ingest", {"device": "kestrel", "battery_pct": 81})
    (source,) = eventually(lambda: alder.call("GET", "/api/v1/sources")["sources"])
    node_id = alder.call("POST", "/api/v1/adopt", {**KESTREL, "source": source["key"]})["id"]
    alder.stop()
    alder.start()  # every start begins a new partition, so the one before it is sealed
    eventually(lambda: _on_stick(coast, f"look-{time.monotonic_ns()}"))
    segments = sorted(path.name for path in (alder.data / "segments").glob("*.jsonl.zst"))
    coast.carry("first-up")
    assert sorted(path.name for path in (coast.hub.data / "segments").iterdir()) == segments
    (record,) = coast.hub.call("GET", f"/api/v1/telemetry?node={node_id}")["records"]
    assert json.loads(record["raw"])["battery_pct"] == 81
    assert _on_stick(coast, "again-up"), "no receipt has come back yet"
    coast.round("second")  # the receipt goes down, its countersignature comes up with the next
    assert not _on_stick(coast, "third-up")


def _on_stick(coast: Coast, name: str) -> int:
    """How many segments a stick for the hub carries now."""
    made = skerry("bundle", "export", "--data", str(coast.alder.data), str(coast.root / name))
    found = re.search(r"([\d,]+) segments", made.stdout)
    assert found, made.stdout
    return int(found[1])
