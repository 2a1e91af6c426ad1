"""T21: bundles cut at every byte, with every byte changed, swapped, repeated, for somebody else; media that are full or
pulled at every write. Whatever it is: refused with a sentence before a byte is parsed, no parcel that was not sent, no
file that is not whole, and going on afterwards gives the whole.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import mmap
import os
import random
import resource
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from fleet.envelope import PrivateKey, PublicKey
from fleet.events import Clock
from store import sealing
from sync import bundle
from sync.bundle import BundleProblem, Export, Problem, Reader, Receiver, Recipient, Sender
from sync.link import Parcel
from sync.messages import Lane

pytestmark = pytest.mark.trial

NOW_NS = 1_795_219_200_000_000_000
PLAN = struct.Struct("=5i492s")  # as in faults.c: calls, after, times, error, hits, part
ROOT = Path(bundle.__file__).parents[1]


class Box(NamedTuple):
    tenant: str
    writer: str
    key: PrivateKey
    sealing_key: sealing.PrivateKey


def box(name: str, tenant: str = "fleet") -> Box:
    seed = name.encode().ljust(32)
    keys = Ed25519PrivateKey.from_private_bytes(seed), X25519PrivateKey.from_private_bytes(seed)
    return Box(tenant, f"01{name.upper()}".ljust(26, "0"), *keys)


ALDER, BIRCH, HARBOR, MALLORY = map(box, ("alder", "birch", "harbor", "mallory"))
KNOWN = {(one.tenant, one.writer): one.key.public_key() for one in (ALDER, BIRCH, HARBOR)}
WHAT = [Parcel(ALDER.writer, lane, lane.name.encode() * 9) for lane in Lane for _ in range(3)]
PART_BYTES = 2_550  # a few parcels


def put(folder: Path, sender: Box = ALDER, to: Box = HARBOR, part_bytes_max: int = bundle.PART_BYTES_MAX) -> Export:
    peer = to if sender is HARBOR else sender
    what = [parcel._replace(peer=peer.writer) for parcel in WHAT]
    return bundle.export(
        lambda: what,
        folder,
        Sender(sender.key, sender.tenant, sender.writer),
        Recipient(to.writer, sealing.public_bytes(to.sealing_key)),
        now_ns=NOW_NS,
        clock=Clock.SYNCED,
        expires_ns=0,
        part_bytes_max=part_bytes_max,
    )


def key_of(tenant: str, writer: str) -> PublicKey | None:
    return KNOWN.get((tenant, writer))


def taken(path: Path, me: Box = HARBOR) -> list[Parcel] | Problem:
    """All of it, or why not. A parcel that came before a problem is one that was sent."""
    came: list[Parcel] = []
    try:
        receiver = Receiver(me.sealing_key, me.tenant, me.writer, me is HARBOR)
        with Reader.open(path, receiver, key_of=key_of, now_ns=NOW_NS, clock=Clock.SYNCED) as reader:
            came.extend(reader.parcels())
    except BundleProblem as found:
        assert not came
        return found.problem
    return came


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    (path,) = put(tmp_path).paths
    assert taken(path) == WHAT
    return path


# -- the file -------------------------------------------------------------------------------------------------------


def test_a_bundle_cut_at_every_byte_is_refused(whole: Path) -> None:
    size, seen = whole.stat().st_size, set()
    for cut in reversed(range(size)):
        os.truncate(whole, cut)
        found = taken(whole)
        assert found is (Problem.GARBAGE if cut < len(bundle.MAGIC) else Problem.TRUNCATED), cut
        assert bundle.inspect(whole).problem is found
        seen.add(found)
    print(f"cut at {size} bytes")
    assert len(seen) == 2


def test_a_bundle_with_any_byte_changed_is_refused(whole: Path) -> None:
    raw, dice, seen = whole.read_bytes(), random.Random(21), set()
    for at in range(len(raw)):
        for change in (0x01, 0x80, dice.randrange(1, 256)):
            whole.write_bytes(raw[:at] + bytes([raw[at] ^ change]) + raw[at + 1 :])
            found = taken(whole)
            assert isinstance(found, Problem), at
            assert bundle.inspect(whole).problem is found
            seen.add(found)
    print(f"{3 * len(raw)} changes: {sorted(one.name for one in seen)}")
    assert seen == {Problem.GARBAGE, Problem.VERSION, Problem.TRUNCATED, Problem.ALTERED}


def test_bytes_left_out_put_in_or_repeated_anywhere_are_refused(whole: Path) -> None:
    raw, dice = whole.read_bytes(), random.Random(22)
    for at in range(len(raw) + 1):
        size = dice.randint(1, 40)
        for bad in (
            raw[:at] + raw[at + size :],
            raw[:at] + dice.randbytes(size) + raw[at:],
            raw[:at] + raw[max(at - size, 0) :],
        ):
            whole.write_bytes(bad)
            assert isinstance(taken(whole), Problem) or bad == raw


def test_chunks_swapped_repeated_or_from_another_part_do_not_open_even_when_alder_signs_them(tmp_path: Path) -> None:
    lane, size = Lane.SEGMENTS, bundle.CHUNK_BYTES
    what = [Parcel(ALDER.writer, lane, bytes([n]) * (size - bundle._PARCEL.size)) for n in range(3)]
    made = bundle.export(
        lambda: what,
        tmp_path,
        Sender(ALDER.key, ALDER.tenant, ALDER.writer),
        Recipient(HARBOR.writer, sealing.public_bytes(HARBOR.sealing_key)),
        now_ns=NOW_NS,
        clock=Clock.SYNCED,
        expires_ns=0,
    )
    (path,) = made.paths
    raw, sealed = path.read_bytes(), size + sealing.TAG_BYTES
    start = len(raw) - 64 - 3 * sealed
    head, (one, two, three) = raw[:start], [raw[start + n * sealed :][:sealed] for n in range(3)]
    for order in ((two, one, three), (one, one, three), (one, two, two), (three, two, one), (one, three, three)):
        signed = head + b"".join(order)
        path.write_bytes(signed + ALDER.key.sign(b"skerry bundle signature\x00" + hashlib.sha256(signed).digest()))
        came: list[Parcel] = []
        receiver = Receiver(HARBOR.sealing_key, "fleet", HARBOR.writer, True)
        with (
            Reader.open(path, receiver, key_of=key_of, now_ns=NOW_NS, clock=Clock.SYNCED) as reader,
            pytest.raises(BundleProblem) as caught,
        ):
            came.extend(reader.parcels())
        assert caught.value.problem is Problem.CHANGED
        assert came == what[: len(came)]


# -- who, and which part --------------------------------------------------------------------------------------------


def test_a_bundle_is_taken_where_it_goes_and_nowhere_else(tmp_path: Path) -> None:
    boxes, tried = (ALDER, BIRCH, HARBOR, MALLORY), 0
    for sender in boxes:
        for to in boxes:
            if sender is to:
                continue
            (path,) = put(tmp_path, sender, to).paths
            for me in boxes:
                found = taken(path, me)
                right = me is to and sender is not MALLORY and (me is HARBOR) is (sender is not HARBOR)
                assert isinstance(found, list) is right, (sender, to, me)
                if right and isinstance(found, list):
                    assert {one.peer for one in found} == {(to if sender is HARBOR else sender).writer}
                tried += 1
            path.unlink()
    assert tried == 48


def test_parts_swapped_repeated_and_mixed_come_to_the_same(tmp_path: Path) -> None:
    """Harbor as a set of parcels, which is what a receiver that knows repeats makes of them."""
    made = put(tmp_path, part_bytes_max=PART_BYTES)
    assert made.parts >= 3
    alone = {path: taken(path) for path in made.paths}
    dice = random.Random(23)
    for _ in range(200):
        harbor: set[Parcel] = set()
        turns = [*made.paths, *dice.choices(made.paths, k=4)]
        dice.shuffle(turns)
        for path in turns:
            found = taken(path)
            assert found == alone[path]
            assert isinstance(found, list)
            harbor.update(found)
        assert harbor == set(WHAT)


def test_a_part_under_another_parts_name_is_still_the_part_that_it_says(tmp_path: Path) -> None:
    made = put(tmp_path, part_bytes_max=PART_BYTES)
    first, second = made.paths[:2]
    contents = first.read_bytes(), second.read_bytes()
    first.write_bytes(contents[1])
    second.write_bytes(contents[0])
    assert bundle.missing(map(bundle.inspect, made.paths)) == {made.bundle: ()}
    assert put(tmp_path, part_bytes_max=PART_BYTES) == made  # names and content agree again
    assert [bundle.inspect(path).header.part for path in made.paths] == [*range(1, made.parts + 1)]  # type: ignore[union-attr]


def test_an_import_that_was_interrupted_anywhere_is_repeated(whole: Path) -> None:
    receiver = Receiver(HARBOR.sealing_key, "fleet", HARBOR.writer, True)
    for stop in range(len(WHAT) + 1):
        with Reader.open(whole, receiver, key_of=key_of, now_ns=NOW_NS, clock=Clock.SYNCED) as reader:
            found = reader.parcels()
            assert [next(found) for _ in range(stop)] == WHAT[:stop]
    assert taken(whole) == WHAT


# -- the medium -----------------------------------------------------------------------------------------------------


def settled(folder: Path, made: Export) -> None:
    """Nothing but whole parts under their names, and what is said to be missing is."""
    assert sorted(folder.iterdir()) == sorted(made.paths)
    assert all(isinstance(taken(path), list) for path in made.paths)
    assert len(made.paths) + len(made.missing) == made.parts
    assert bool(made.missing) is (made.problem is not None)


def finished(folder: Path) -> None:
    made = put(folder, part_bytes_max=PART_BYTES)
    settled(folder, made)
    assert [one for path in made.paths for one in taken(path)] == WHAT  # type: ignore[union-attr]


def full_at_every_byte(folder: Path) -> None:
    """In a process of its own: no file of it may be longer than the limit."""
    limit, full = 0, True
    while full:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        made = put(folder, part_bytes_max=PART_BYTES)
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        settled(folder, made)
        full = made.problem is Problem.FULL
        if limit % 50 == 0:
            finished(folder)
        for path in folder.iterdir():
            path.unlink()
        limit += full
    print(limit)


def pulled_at_every_step(folder: Path) -> None:
    """In a process of its own: the medium goes, with whatever stands on it, before the Nth thing that is done to it."""
    aside = folder.with_name("pulled")
    doing = {"open", "os.rename", "os.remove"}
    state = {"armed": False, "left": 0, "seen": 0}

    def watch(event: str, args: tuple[object, ...]) -> None:
        if state["armed"] and event in doing and str(args[0]).startswith(str(folder)):
            state["seen"] += 1
            state["left"] -= 1
            if state["left"] == 0:
                state["armed"] = False
                folder.rename(aside)

    sys.addaudithook(watch)
    step = tried = 0
    while True:
        step += 1
        state.update(armed=True, left=step)
        made = put(folder, part_bytes_max=PART_BYTES)
        state["armed"] = False
        if not aside.exists():
            break
        tried += 1
        assert made.problem is Problem.MEDIUM
        assert made.missing
        aside.rename(folder)
        stray = [path for path in folder.iterdir() if path.suffix == ".part"]
        assert len(stray) <= 1  # it went with the medium; nobody could remove it
        assert all(isinstance(taken(path), list) for path in folder.glob(f"*{bundle.SUFFIX}"))
        finished(folder)
        for path in folder.iterdir():
            path.unlink()
    print(tried)


def fails_at_every_call(folder: Path) -> None:
    """In a process of its own, with `faults.c` before it: the Nth write or sync on the medium fails."""
    with open(os.environ["FAULTS"], "r+b") as file, mmap.mmap(file.fileno(), PLAN.size) as plan:
        tried = 0
        for error, problem in (
            (errno.EIO, Problem.MEDIUM),
            (errno.ENOSPC, Problem.FULL),
            (errno.EROFS, Problem.READ_ONLY),
        ):
            hit, after = 1, 0
            while hit:
                plan[:] = PLAN.pack(1 | 2, after, 1, error, 0, str(folder).encode())
                made = put(folder, part_bytes_max=PART_BYTES)
                hit = PLAN.unpack(plan[:])[4]
                plan[:] = bytes(PLAN.size)
                assert made.problem is (problem if hit else None)
                late = [path for path in folder.iterdir() if path not in made.paths]
                assert len(late) <= 1  # renamed, and then the folder's sync failed: whole, and told as missing
                assert all(isinstance(taken(path), list) for path in folder.iterdir())
                finished(folder)
                for path in folder.iterdir():
                    path.unlink()
                tried, after = tried + hit, after + 1
    print(tried)


def alone(what: str, folder: Path, **environment: str) -> int:
    folder.mkdir()
    code = f"import test_t21_bundles as t, pathlib, sys; t.{what}(pathlib.Path(sys.argv[1]))"
    path = os.pathsep.join((str(ROOT), str(Path(__file__).parent)))
    command = [sys.executable, "-c", code, str(folder)]
    ran = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": path, **environment}
    )
    assert ran.returncode == 0, ran.stderr
    return int(ran.stdout)


def test_a_medium_that_is_full_at_every_byte(tmp_path: Path) -> None:
    tried = alone("full_at_every_byte", tmp_path / "stick")
    print(f"full at {tried} bytes")
    assert tried > 400


def test_a_medium_that_is_pulled_before_every_step(tmp_path: Path) -> None:
    tried = alone("pulled_at_every_step", tmp_path / "stick")
    print(f"pulled at {tried} steps")
    assert tried >= 12


def test_a_medium_that_fails_at_every_write_and_sync(tmp_path: Path) -> None:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler (cc)")
    library, plan = tmp_path / "faults.so", tmp_path / "plan"
    source = Path(__file__).with_name("faults.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(source), "-ldl"], check=True)
    plan.write_bytes(bytes(PLAN.size))
    tried = alone("fails_at_every_call", tmp_path / "stick", LD_PRELOAD=str(library), FAULTS=str(plan))
    print(f"failed at {tried} calls")
    assert tried >= 3 * 15


@contextlib.contextmanager
def tmpfs(folder: Path, size: str) -> Iterator[Path]:
    if os.geteuid() != 0:
        pytest.skip("mounting a tmpfs needs root")
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(folder)]
    mounted = subprocess.run(mount, capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"a tmpfs cannot be mounted here: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_what_does_not_fit_on_one_stick_goes_on_on_the_next(tmp_path: Path) -> None:
    """Real media of 256 KiB each; parts that hold a quarter of one."""
    what = [Parcel(ALDER.writer, Lane.SEGMENTS, os.urandom(20_000)) for _ in range(30)]
    wanted, came, sticks = set(range(1, 100)), [], 0
    while wanted:
        with tmpfs(tmp_path / f"stick {sticks}", "256k") as stick:
            made = bundle.export(
                lambda: what,
                stick,
                Sender(ALDER.key, ALDER.tenant, ALDER.writer),
                Recipient(HARBOR.writer, sealing.public_bytes(HARBOR.sealing_key)),
                now_ns=NOW_NS,
                clock=Clock.SYNCED,
                expires_ns=0,
                part_bytes_max=64 * 1024,
                only=wanted,
            )
            assert made.paths
            assert made.problem in (None, Problem.FULL)
            assert sorted(stick.iterdir()) == sorted(made.paths)
            came += [one for path in made.paths for one in taken(path)]  # type: ignore[union-attr]
            wanted, sticks = set(made.missing), sticks + 1
    assert sticks > 2
    assert came == what


def test_a_medium_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with tmpfs(tmp_path / "stick", "256k") as stick:
        subprocess.run(["mount", "-o", "remount,ro", str(stick)], check=True)
        assert put(stick).problem is Problem.READ_ONLY
        assert not any(stick.iterdir())
    assert put(tmp_path / "nowhere").problem is Problem.MEDIUM


def test_what_lies_on_the_medium_under_the_name_is_never_followed(tmp_path: Path) -> None:
    """Mallory's links, on a stick, to a file of the box."""
    mine, stick = tmp_path / "mine", tmp_path / "stick"
    mine.write_bytes(b"mine")
    stick.mkdir()
    (path,) = put(stick).paths
    path.unlink()
    path.symlink_to(mine)
    path.with_name(path.name + ".part").symlink_to(mine)
    settled(stick, put(stick))
    assert mine.read_bytes() == b"mine"
    path.unlink()
    path.mkdir()
    (path / "full").touch()
    assert put(stick).problem is Problem.MEDIUM
    shutil.rmtree(path)
    settled(stick, put(stick))


def test_killed_at_any_instant_leaves_no_half_file_under_a_name(tmp_path: Path) -> None:
    """A process that writes a larger bundle is killed 20 times, later each time."""
    stick = tmp_path / "stick"
    stick.mkdir()
    code = (
        "import sys, pathlib, test_t21_bundles as t\n"
        "t.WHAT[:] = [t.Parcel(t.ALDER.writer, t.Lane.SEGMENTS, bytes(800_000))] * 40\n"
        "print('begun', flush=True)\n"
        "t.put(pathlib.Path(sys.argv[1]), part_bytes_max=4_000_000)\n"
    )
    path = os.pathsep.join((str(ROOT), str(Path(__file__).parent)))
    halves = 0
    for turn in range(20):
        process = subprocess.Popen(
            [sys.executable, "-c", code, str(stick)], stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": path}
        )
        assert process.stdout is not None
        process.stdout.readline()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(turn * 0.008)
        process.kill()
        process.wait()
        process.stdout.close()
        assert all(isinstance(taken(one), list) for one in stick.glob(f"*{bundle.SUFFIX}"))
        left = [one.suffix for one in stick.iterdir()]
        assert left.count(".part") <= 1
        halves += ".part" in left or 0 < len(left) < 9
        if turn % 4 == 3:
            for one in stick.iterdir():
                one.unlink()
    print(f"{halves} of 20 kills in the middle")
    what = [Parcel(ALDER.writer, Lane.SEGMENTS, bytes(800_000))] * 40
    made = bundle.export(
        lambda: what,
        stick,
        Sender(ALDER.key, ALDER.tenant, ALDER.writer),
        Recipient(HARBOR.writer, sealing.public_bytes(HARBOR.sealing_key)),
        now_ns=NOW_NS,
        clock=Clock.SYNCED,
        expires_ns=0,
        part_bytes_max=4_000_000,
    )
    settled(stick, made)
