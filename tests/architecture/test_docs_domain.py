"""docs/domain.md says what the code does: the diagrams, every event, every limit."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fleet import diagrams, envelope, lifecycle, limits, node
from fleet.connectivity import TABLE
from fleet.events import KINDS, Clock, TokenRevoked, encode_all, encode_body
from store import backup, frames
from sync import wire

DOCS = Path(__file__).parents[2] / "docs"
DOMAIN = (DOCS / "domain.md").read_text()
FORMATS = (DOCS / "formats.md").read_text()
LIMITS = {name: value for name, value in vars(limits).items() if name[0].islower() and name != "annotations"}


def rows(heading: str) -> dict[str, list[str]]:
    """A table's rows by what stands in their first cell."""
    section = DOMAIN.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    cells = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line[:3] == "| `"
    ]
    return {first.strip("`"): rest for first, *rest in cells}


def test_the_diagrams_are_drawn_from_the_tables() -> None:
    drawn = re.findall(r"```mermaid\n(.*?)```", DOMAIN, re.DOTALL)
    assert drawn == [diagrams.connectivity_diagram(), diagrams.lifecycle_diagram()]


def test_every_step_and_every_edge_is_drawn_once() -> None:
    assert diagrams.connectivity_diagram().count("-->") == len(TABLE)
    ends = sum(not lifecycle.targets(lifecycle.Place(phase)) for phase in lifecycle.Phase)
    assert diagrams.lifecycle_diagram().count("-->") == len(lifecycle.EDGES) + 1 + ends


def test_every_event_has_its_line_with_its_fields() -> None:
    found = rows("Events")
    assert list(found) == list(KINDS)
    for kind, (_, words, fields) in found.items():
        assert words
        assert fields == ", ".join(KINDS[kind].__struct_fields__)


def test_every_limit_has_its_line_with_its_value() -> None:
    found = rows("Limits")
    assert {name: value for name, (value, _) in found.items()} == {name: f"{value:,}" for name, value in LIMITS.items()}
    assert all(words for _, words in found.values())
    assert f"{limits.block_bytes_max // 1024 // 1024} MiB" in DOMAIN


@pytest.mark.parametrize("text", [DOMAIN, FORMATS], ids=["domain", "formats"])
def test_links_between_pages_lead_somewhere(text: str) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", text):
        page, _, anchor = target.partition("#")
        whole = (DOCS / page).read_text() if page else text
        headings = {
            re.sub(r"[^\w -]", "", line.lstrip("# ")).lower().replace(" ", "-")
            for line in whole.splitlines()
            if line[:1] == "#"
        }
        assert not anchor or anchor in headings, target


def test_every_object_of_the_fleet_is_named() -> None:
    shapes = [name for name, one in vars(node).items() if isinstance(one, type) and one.__module__ == node.__name__]
    missing = [name for name in shapes if not name.startswith("_") and name not in ("Kind", "Master")]
    assert [name for name in missing if f"`{name}`" not in DOMAIN] == []


def test_the_bytes_in_the_page_are_the_bytes_that_are_made() -> None:
    event, signed = re.findall(r"```hex\n(.*?)```", FORMATS, re.DOTALL)
    body = TokenRevoked("ci", "Alice")
    (raw,) = encode_all(1, 1 << 16, 5, Clock.SYNCED, [("ci", body, encode_body(body))])
    assert event.strip() == raw.hex()
    log = envelope.Log("default", "01ALDER0000000000000000000", 1)
    block = envelope.seal(log, envelope.EMPTY, [raw], Ed25519PrivateKey.from_private_bytes(bytes(32)))
    assert signed.split() == ["hash", block.hash.hex(), "signature", block.signature.hex()]


def test_the_fields_of_a_manifest_and_of_a_record_are_listed() -> None:
    for fields in (backup.Manifest.__struct_fields__, frames.Record.__struct_fields__):
        assert [name for name in fields if not re.search(rf"^\| (.*\b)?{name}\b", FORMATS, re.MULTILINE)] == []


def test_the_bounds_of_a_file_on_the_wire_are_the_ones_in_the_page() -> None:
    assert f"{wire.BLOCK_BYTES_MAX >> 20} MiB, before compression; at most {wire.CHUNK_BYTES_MAX >> 20} MiB" in FORMATS
    assert f"{wire.HEADER_BYTES_MAX >> 10} KiB" in FORMATS
