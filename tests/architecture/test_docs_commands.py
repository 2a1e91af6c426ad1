"""Is every command line that the pages show one that the program takes?"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from skerry import parser

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def shown() -> Iterator[str]:
    for page in PAGES:
        yield from re.findall(r"^ {4}(?:\S*/)?(skerry [a-z].*)$", page.read_text(), re.MULTILINE)
        yield from re.findall(r"`(skerry [a-z]+ [a-z]+ -[^`|…]*)`", page.read_text())


@pytest.mark.parametrize("line", sorted(set(shown())))
def test_a_command_that_is_shown_can_be_given(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = shlex.split(re.split(r" {3,}| [|#>] ?| &&", line)[0])[1:]
    if words[:2] == ["sim", "devices"]:
        return  # its flags are its own
    alternatives = words[1].split("|") if len(words) > 1 else [""]
    for one in alternatives:  # what is given as a choice, alone; its flags differ
        chosen = [words[0], one, "--help"] if len(alternatives) > 1 else words
        assert _status(chosen) == 0, f"{line}: {capsys.readouterr().err}"


def _status(words: list[str]) -> object:
    try:
        parser().parse_args(words)
    except SystemExit as end:
        return end.code
    return 0
