"""The recorder: an answer comes after the commit or says that there was none, and a full disk is only a pause."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from appliance.intake.gate import Gate, Outcome, Stored
from appliance.recorder import Recorder
from bench.island import ROOT
from store.faults import Fault, StoreFault
from store.folder import Folder, bring_up
from store.frames import Offer, Record
from store.telemetry import History, Telemetry
from tests.cast import eventually

NOW = 1_795_219_200_000_000_000


class Bench:
    """A gate, a recorder and the files of alder; what the recorder tells others stands in lists."""

    def __init__(self, root: Path) -> None:
        self.folder = Folder(root)
        self.folder.prepare()
        bring_up(self.folder.site_db)
        self.telemetry = Telemetry(self.folder)
        self.telemetry.open(0)
        self.gate = Gate()
        self.handed: list[Record] = []
        self.turns: list[Fault | None] = []
        self.recorder = Recorder(
            self.gate,
            self.telemetry,
            stored=self._stored,
            fault_turned=lambda fault: self.turns.append(fault.fault if fault else None),
            now_ns=lambda: NOW,
        )
        self.recorder.start()

    def _stored(self, records: Sequence[Record]) -> None:
        self.handed += records

    def send(self, *messages: bytes) -> Future[Outcome]:
        """As HTTP does it: the future ends with the outcome, or at once with the gate's word."""
        outcome: Future[Outcome] = Future()
        reason = self.gate.offer("http", [Offer(NOW, "http/10.0.0.7/", raw) for raw in messages], outcome.set_result)
        if reason is not None:
            outcome.set_exception(ValueError(reason))
        return outcome

    def on_disk(self) -> list[bytes]:
        return [record.content for record in History(self.folder).after(0, 100_000).records]

    def stop(self) -> None:
        self.gate.close()
        self.recorder.join()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path / "alder")
    yield made
    made.stop()


def test_the_answer_names_records_that_are_on_the_disk_by_then(bench: Bench) -> None:
    stored = bench.send(b"one", b"two").result(10)
    assert stored == Stored(1, 2)
    assert bench.on_disk() == [b"one", b"two"]
    assert bench.send(b"three").result(10) == Stored(3, 3)


def test_each_sender_of_one_batch_hears_its_own_ids(bench: Bench) -> None:
    outcomes = [bench.send(*(b"%d-%d" % (number, part) for part in range(number))) for number in range(1, 6)]
    for outcome, length in zip(outcomes, range(1, 6), strict=True):
        stored = outcome.result(10)
        assert isinstance(stored, Stored)
        assert stored.last_id - stored.first_id + 1 == length
        kept = [record.content for record in bench.handed if stored.first_id <= record.id <= stored.last_id]
        assert kept == [b"%d-%d" % (length, part) for part in range(length)]


def test_bytes_come_back_as_they_came(bench: Bench) -> None:
    messages = [b"", b"\x00\xff\xfe", bytes(range(256)), "fjärd ⚓".encode(), b'{"a": "\\ud800"}', b"x" * 65_536]
    bench.send(*messages).result(10)
    assert bench.on_disk() == messages


def test_what_waits_when_the_box_stops_is_written(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "alder")
    for number in range(50):
        bench.gate.offer("syslog-udp", [Offer(NOW, "syslog/10.0.0.7/", b"%d" % number)])
    bench.stop()
    assert bench.on_disk() == [b"%d" % number for number in range(50)]
    assert not bench.recorder.alive


def test_a_refused_batch_is_refused_to_those_who_wait_and_counted_for_the_others(bench: Bench) -> None:
    bench.telemetry.paused = True
    bench.gate.offer("syslog-udp", [Offer(NOW, "syslog/10.0.0.7/", b"lost")] * 3)
    outcome = bench.send(b"told").result(10)
    assert isinstance(outcome, StoreFault)
    assert outcome.fault is Fault.FULL
    eventually(lambda: bench.gate.tally("syslog-udp").refused["full"], lambda count: count == 3)
    assert bench.gate.tally("http").refused["full"] == 1
    assert list(bench.recorder.lost) == [("syslog-udp", "full", 3, NOW)]
    with pytest.raises(ValueError, match="full"):
        bench.send(b"turned away at the gate").result(10)
    bench.telemetry.paused = False
    eventually(lambda: bench.gate.fault is None)
    assert isinstance(bench.send(b"after").result(10), Stored)
    assert bench.turns == [Fault.FULL, None]
    assert bench.on_disk()[-1] == b"after"
    assert b"told" not in bench.on_disk()


# -- a disk that really refuses -----------------------------------------------------------------------------------


def write_until_refused(root: Path, refuse: Callable[[], object], relent: Callable[[], object]) -> None:
    """In a process of its own: write, then to a disk that refuses, then to one that relents; prints what happened."""
    bench = Bench(root / "alder")
    acknowledged: list[str] = []
    refused: list[str] = []
    refuse()
    while not refused and len(acknowledged) < 10_000:
        name = os.urandom(300).hex()
        outcome = bench.send(name.encode()).result(30)
        if isinstance(outcome, Stored):
            acknowledged.append(name)
        else:
            refused.append(outcome.fault.value)
    with contextlib.suppress(ValueError):
        bench.send(b"while it refuses").result(30)
        refused.append("taken in meanwhile")
    relent()
    eventually(lambda: bench.gate.fault is None)
    after = isinstance(bench.send(b"after").result(30), Stored)
    bench.stop()
    kept = bench.on_disk()
    lost = [name for name in acknowledged if name.encode() not in kept]
    told = {"refused": refused, "after": after, "lost": len(lost), "acknowledged": len(acknowledged)}
    told |= {"turns": [turn and turn.value for turn in bench.turns], "last": [raw.decode() for raw in kept[-2:]]}
    print(json.dumps(told))  # noqa: T201 - to the test


def with_a_limit_on_files(root: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    write_until_refused(
        root,
        lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, hard)),
        lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard)),
    )


def with_a_disk_of_its_own(root: Path) -> None:
    """In a mount namespace of its own, so that nothing is left behind."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(root)], check=True)
    ballast = root / "ballast"
    write_until_refused(root, lambda: ballast.write_bytes(bytes(3_000_000)), ballast.unlink)


def run_apart(function: str, root: Path, *before: str) -> dict[str, Any]:
    code = f"from pathlib import Path; from tests.appliance.test_recorder import {function}; {function}(Path({str(root)!r}))"
    command = [*before, sys.executable, "-c", code]
    run = subprocess.run(command, capture_output=True, check=False, timeout=120, text=True, cwd=ROOT)
    assert run.returncode == 0, run.stderr
    told: dict[str, Any] = json.loads(run.stdout)
    return told


@pytest.mark.parametrize(
    ("function", "word", "before"),
    [
        ("with_a_limit_on_files", "i/o error", ()),
        pytest.param(
            "with_a_disk_of_its_own",
            "full",
            ("unshare", "--mount"),
            marks=pytest.mark.skipif(os.getuid() != 0, reason="only root may mount a small disk"),
        ),
    ],
)
def test_a_disk_that_refuses_loses_nothing_acknowledged_and_is_only_a_pause(
    tmp_path: Path, function: str, word: str, before: tuple[str, ...]
) -> None:
    told = run_apart(function, tmp_path, *before)
    assert told["acknowledged"] > 10
    assert told["refused"] == [word]
    assert told["lost"] == 0
    assert told["after"]
    assert told["turns"] == [word, None]
    assert told["last"] == ["the disk takes writes again", "after"]
