"""docs/domain.md says what the code does: the diagrams, every event, every limit."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fleet import diagrams, envelope, lifecycle, limits
from fleet.connectivity import TABLE
from fleet.events import KINDS

DOCS = Path(__file__).parents[2] / "docs"
DOMAIN = (DOCS / "domain.md").read_text()
FORMATS = (DOCS / "formats.md").read_text()
LIMITS = {name: value for name, value in vars(limits).items() if name[0].islower() and name != "annotations"}


def rows(heading: str) -> dict[str, list[str]]:
    """A table's rows by what stands in their first cell."""
    section = DOMAIN.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line[:3] == "| `"]
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
    assert f"{envelope.BLOCK_BYTES_MAX // 1024 // 1024} MiB" in DOMAIN


@pytest.mark.parametrize("text", [DOMAIN, FORMATS], ids=["domain", "formats"])
def test_links_between_pages_lead_somewhere(text: str) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", text):
        page, _, anchor = target.partition("#")
        whole = (DOCS / page).read_text() if page else text
        headings = {re.sub(r"[^\w -]", "", line.lstrip("# ")).lower().replace(" ", "-") for line in whole.splitlines() if line[:1] == "#"}
        assert not anchor or anchor in headings, target
