"""Sealing in a process of its own: what it finds is what sealing here would find, and however it ends nothing is lost."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from store import sealer, telemetry
from store.faults import Fault, StoreFault
from store.folder import Folder
from store.frames import Offer
from store.telemetry import Closed, Telemetry

NOW = 1_795_219_200_000_000_000


def partition_of(root: Path, records: int = 500) -> tuple[Folder, Closed]:
    """An hour of alder, closed."""
    folder = Folder(root)
    folder.prepare()
    store = Telemetry(folder)
    store.open(0)
    for first in range(0, records, 1_000):
        count = min(1_000, records - first)
        store.append([Offer(NOW + n, f"syslog/10.0.0.{n % 7}/alder", os.urandom(40)) for n in range(count)])
    store.close()
    return folder, store.closed_partitions()[0]


def bytes_in(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def sealers() -> set[int]:
    """Processes of ours that seal. One that is still to become another program is none: who starts it waits for that."""
    pids = {pid for path in Path("/proc/self/task").iterdir() for pid in (path / "children").read_text().split()}
    return {int(pid) for pid in pids if b"store.sealer" in Path(f"/proc/{pid}/cmdline").read_bytes()}


@contextlib.contextmanager
def each_sealer(number: signal.Signals) -> Iterator[list[int]]:
    """Each hears a signal as soon as it is there."""
    over, heard = threading.Event(), list[int]()

    def watch() -> None:
        while not over.is_set():
            with contextlib.suppress(OSError):  # it came to its end while we looked
                for pid in sealers() - set(heard):
                    os.kill(pid, number)
                    heard.append(pid)
            time.sleep(0.005)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield heard
    finally:
        over.set()
        thread.join()


def test_another_process_seals_the_same_bytes_and_says_the_same(tmp_path: Path) -> None:
    folder, partition = partition_of(tmp_path / "alder")
    here = tmp_path / "here"
    here.mkdir()
    assert sealer.seal(partition, folder.segments, 0) == telemetry.seal(partition, here)
    assert bytes_in(folder.segments) == bytes_in(here)


def test_what_is_announced_already_is_not_sealed_again(tmp_path: Path) -> None:
    folder, partition = partition_of(tmp_path / "alder", 1_500)
    sealing = sealer.seal(partition, folder.segments, 1_000)
    assert sealing is not None
    assert [(one.first_id, one.last_id) for one in sealing.sealed] == [(1_001, 1_500)]


def test_ids_that_are_not_there_are_named(tmp_path: Path) -> None:
    folder, partition = partition_of(tmp_path / "alder")
    sealing = sealer.seal(partition._replace(last_id=510), folder.segments, 0)
    assert sealing is not None
    assert sealing.lost == ((501, 510),)


def test_a_fault_there_is_a_fault_here(tmp_path: Path) -> None:
    _, partition = partition_of(tmp_path / "alder")
    with pytest.raises(StoreFault) as refused:
        sealer.seal(partition, tmp_path / "nowhere", 0)
    assert (refused.value.fault, refused.value.store) == (Fault.IO, "segments")


def test_a_process_that_is_killed_is_a_fault_and_the_next_one_seals(tmp_path: Path) -> None:
    folder, partition = partition_of(tmp_path / "alder")
    with each_sealer(signal.SIGKILL) as killed, pytest.raises(StoreFault, match="the disk") as refused:
        sealer.seal(partition, folder.segments, 0)
    assert killed
    assert refused.value.detail.startswith("the process that seals ended with -9")
    sealing = sealer.seal(partition, folder.segments, 0)
    assert sealing is not None
    assert [(one.first_id, one.last_id) for one in sealing.sealed] == [(1, 500)]


def test_whoever_stops_does_not_wait_for_it(tmp_path: Path) -> None:
    folder, partition = partition_of(tmp_path / "alder")
    with each_sealer(signal.SIGSTOP):  # a disk that stands still
        assert sealer.seal(partition, folder.segments, 0, lambda: True) is None
    assert bytes_in(folder.segments) == {}


def test_it_ends_with_its_parent(tmp_path: Path) -> None:
    folder, partition = partition_of(tmp_path / "alder", 200_000)
    code = f"""
from pathlib import Path
from store import sealer
from store.telemetry import Closed
sealer.seal(Closed(Path({str(partition.path)!r}), 1, 200_000), Path({str(folder.segments)!r}), 0)
"""
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=Path(sealer.__file__).parents[1])
    while not (folder.segments / "sealing.new").exists():
        time.sleep(0.005)
    (child,) = (Path(f"/proc/{parent.pid}/task/{parent.pid}/children")).read_text().split()
    parent.kill()
    parent.wait()
    while Path(f"/proc/{child}").exists() and "Z" not in Path(f"/proc/{child}/stat").read_text().rpartition(")")[2]:
        time.sleep(0.005)
    assert [path.name for path in folder.segments.iterdir()] == ["sealing.new"]
