"""The power leaves the site at each step of an upload, and comes back: the device goes on, and each record stands once."""

from __future__ import annotations

import contextlib
import json
import random
import threading
from pathlib import Path

import httpx2
import pytest

from tests import cast
from tests.appliance.uploading import Sender, lines
from tests.cast import Site, eventually, island
from tests.trials import roaming

pytestmark = pytest.mark.trial

STEPS = [
    f"{when}:{step}"
    for step in (
        "store.uploads:Part.write",
        "store.uploads:Part.sync",
        "appliance.intake.delivery:Delivering.begin",
        "appliance.intake.delivery:Delivering._offer",
        "appliance.intake.delivery:Delivering._settle",
        "store.uploads:Part.remove",
    )
    for when in ("before", "after")
]


def device(site: Site) -> httpx2.Client:
    return httpx2.Client(base_url=site.url, headers={"skerry-device": "kestrel-1"}, trust_env=False, timeout=20)


def numbers(site: Site) -> list[int]:
    return [json.loads(one["raw"])["n"] for one in site.records() if one["source"].startswith("sensor/")]


@pytest.mark.parametrize("step", STEPS)
def test_at_every_step(tmp_path: Path, step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    content = lines(1, 4_500, pad="x" * 20)
    monkeypatch.setattr(cast, "FRONT", Path(__file__).parent / "dying.py")
    with island(tmp_path / "alder", environment={"DIE_AT": step}) as site, device(site) as line:
        with contextlib.suppress(httpx2.TransportError):
            Sender(line, content, first=1, last=4_500).all()
        assert site.process.wait(20) == -9, "it died where it was to"
    with island(tmp_path / "alder") as site, device(site) as line:
        sender = Sender(line, content, first=1, last=4_500)
        assert sender.all()["state"] == "done"
        assert sorted(numbers(site)) == list(range(1, 4_501))
        assert sender.all()["state"] == "done"
        assert len(numbers(site)) == 4_500
        eventually(lambda: list((site.data / "uploads").iterdir()), lambda left: left == [])


@pytest.mark.parametrize("when", ["before", "after"])
def test_where_a_file_gets_its_name(tmp_path: Path, when: str, monkeypatch: pytest.MonkeyPatch) -> None:
    content = random.Random(1).randbytes(300_000)
    monkeypatch.setattr(cast, "FRONT", Path(__file__).parent / "dying.py")
    step = f"{when}:store.uploads:Part.keep_as"
    with island(tmp_path / "alder", environment={"DIE_AT": step}) as site, device(site) as line:
        with contextlib.suppress(httpx2.TransportError):
            Sender(line, content, form="file", name="x").all()
        assert site.process.wait(20) == -9
    with island(tmp_path / "alder") as site, device(site) as line:
        assert Sender(line, content, form="file", name="x").all()["state"] == "done"
        (record,) = [one for one in site.records() if one["source"].startswith("sensor/")]
        kept = site.data / "files" / json.loads(record["raw"])["file_sha256"]
        assert kept.read_bytes() == content


def test_at_any_moment(tmp_path: Path) -> None:
    """Several uploads after one another, kill -9 after a random while, again and again."""
    dice = random.Random(7)
    contents = {n: lines(n * 2_000 + 1, n * 2_000 + 2_000, pad="x" * 30) for n in range(6)}
    for _ in range(3):
        with island(tmp_path / "alder") as site, device(site) as line:
            power = threading.Timer(dice.uniform(0.1, 1.0), site.kill)
            power.start()
            with contextlib.suppress(httpx2.TransportError):
                for n, content in contents.items():
                    Sender(line, content, first=n * 2_000 + 1, last=n * 2_000 + 2_000).all()
            power.join()
    with island(tmp_path / "alder") as site, device(site) as line:
        for n, content in contents.items():
            assert Sender(line, content, first=n * 2_000 + 1, last=n * 2_000 + 2_000).all()["state"] == "done"
        assert sorted(numbers(site)) == list(range(1, 12_001))


def test_a_device_that_roams_loses_and_doubles_nothing(tmp_path: Path) -> None:
    """The quick form of `bench roaming`: the line in use is cut every few seconds, and the agent's power goes now and then."""
    found = roaming.roam(tmp_path, moves=4, every_s=2.5, seed=3, kill=True)
    assert (found.lost, found.doubled) == (0, 0), found
    assert found.moves >= 2
    assert sum(found.at.values()) == found.put
