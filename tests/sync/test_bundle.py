"""A bundle: what alder put on a stick comes out at harbor, and whatever is wrong with it has a name."""

from __future__ import annotations

import hashlib
import hmac
import os
import random
import struct
import tracemalloc
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from fleet import limits
from fleet.envelope import PrivateKey, PublicKey
from fleet.events import Clock
from store import sealing
from sync import bundle
from sync.bundle import BundleProblem, Export, Header, Problem, Reader, Receiver, Recipient, Sender
from sync.link import Parcel
from sync.messages import PARCEL_BYTES_MAX, Lane

NOW_NS = 1_795_219_200 * limits.SECOND
LATER_NS = NOW_NS + 30 * limits.DAY


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


def parcels(*sizes: int, peer: Box = ALDER) -> list[Parcel]:
    """One of each size, over the lanes from the first to the last."""
    dice = random.Random(len(sizes))
    lanes = sorted(dice.choice([*Lane]) for _ in sizes)
    return [Parcel(peer.writer, lane, dice.randbytes(size)) for lane, size in zip(lanes, sizes, strict=True)]


def put(folder: Path, what: Iterable[Parcel], sender: Box = ALDER, to: Box = HARBOR, **options: Any) -> Export:
    options = {"now_ns": NOW_NS, "clock": Clock.SYNCED, "expires_ns": LATER_NS, **options}
    recipient = Recipient(to.writer, sealing.public_bytes(to.sealing_key))
    return bundle.export(lambda: what, folder, Sender(sender.key, sender.tenant, sender.writer), recipient, **options)


def at(me: Box, path: Path, hub: bool | None = None, **options: Any) -> Reader:
    options = {"key_of": known, "now_ns": NOW_NS + limits.DAY, "clock": Clock.SYNCED, **options}
    receiver = Receiver(me.sealing_key, me.tenant, me.writer, me is HARBOR if hub is None else hub)
    return Reader.open(path, receiver, **options)


def known(tenant: str, writer: str) -> PublicKey | None:
    return KNOWN.get((tenant, writer))


def taken(me: Box, path: Path, **options: Any) -> list[Parcel]:
    with at(me, path, **options) as reader:
        return list(reader.parcels())


def problem_of(me: Box, path: Path, **options: Any) -> Problem:
    with pytest.raises(BundleProblem) as caught:
        taken(me, path, **options)
    assert str(caught.value).startswith(caught.value.problem.value)
    return caught.value.problem


class Cut(NamedTuple):
    """A file in its pieces."""

    front: bytes
    header: bytes
    body: bytes
    signature: bytes


def cut(raw: bytes) -> Cut:
    _, header_bytes, body_bytes = bundle._FRONT.unpack_from(raw, len(bundle.MAGIC) + 2)
    start, body = bundle._START_BYTES, bundle._START_BYTES + header_bytes
    return Cut(raw[:start], raw[start:body], raw[body : body + body_bytes], raw[body + body_bytes :])


def forged(
    path: Path, plain: bytes | None = None, body: bytes | None = None, more: Iterable[str] = (), **fields: Any
) -> Path:
    """The bundle in `path` with another content, hashed, sealed and signed as it should be."""
    old = bundle._decode(cut(path.read_bytes()).header)
    once = sealing.new()
    fields = {"ephemeral": sealing.public_bytes(once), **fields}
    header = msgspec.msgpack.encode(
        [fields.get(name, getattr(old, name)) for name in Header.__struct_fields__] + [*more]
    )
    held = plain if plain is not None else b"".join(map(bundle._record, parcels(5)))
    sealed_bytes = len(held) + sealing.TAG_BYTES if body is None else len(body)
    start = (
        bundle.MAGIC
        + b"\x00\x01"
        + bundle._FRONT.pack(ALDER.key.public_key().public_bytes_raw(), len(header), sealed_bytes)
    )
    if body is None:
        stream = sealing.sealer(once, sealing.public_bytes(HARBOR.sealing_key), hashlib.sha256(start + header).digest())
        body = stream.seal(0, held, last=True)
    whole = start + header + body
    made = path.with_name(f"forged{bundle.SUFFIX}")
    made.write_bytes(whole + ALDER.key.sign(b"skerry bundle signature\x00" + hashlib.sha256(whole).digest()))
    return made


# -- there and back -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", [(0,), (1,), (5, 0, 900, 70), (PARCEL_BYTES_MAX,) * 3, (300,) * 5_000])
def test_what_alder_puts_down_harbor_takes_up(tmp_path: Path, sizes: tuple[int, ...]) -> None:
    what = parcels(*sizes)
    made = put(tmp_path, what)
    assert (made.problem, made.missing, made.parts) == (None, (), 1)
    (path,) = made.paths
    assert taken(HARBOR, path) == what
    assert [*tmp_path.iterdir()] == [path]


def test_what_harbor_puts_down_alder_takes_up(tmp_path: Path) -> None:
    what = parcels(10, 20)
    (path,) = put(tmp_path, what, HARBOR, ALDER, one_way=True).paths
    assert taken(ALDER, path) == what
    with at(ALDER, path) as reader:
        assert (reader.header.up, reader.header.one_way, reader.warnings) == (False, True, ())


@pytest.mark.parametrize("body", [bundle.CHUNK_BYTES * n + d for n in (1, 2) for d in (-1, 0, 1, 17)])
def test_a_body_may_end_anywhere_in_a_chunk(tmp_path: Path, body: int) -> None:
    what = parcels(body - bundle._PARCEL.size)
    (path,) = put(tmp_path, what).paths
    assert taken(HARBOR, path) == what


def test_a_part_can_be_read_twice_and_two_readers_do_not_disturb_each_other(tmp_path: Path) -> None:
    what = parcels(*(400_000,) * 4)
    (path,) = put(tmp_path, what).paths
    with at(HARBOR, path) as reader:
        assert [one for pair in zip(reader.parcels(), reader.parcels(), strict=True) for one in pair] == [
            parcel for parcel in what for _ in "12"
        ]


def test_nothing_to_send_makes_no_file(tmp_path: Path) -> None:
    assert put(tmp_path, []).paths == ()
    assert not any(tmp_path.iterdir())


def test_nothing_of_the_content_can_be_read_without_the_key(tmp_path: Path) -> None:
    secret = b"the position of drone-01 " * 40
    (path,) = put(tmp_path, [Parcel(ALDER.writer, Lane.LOG, secret)]).paths
    (other,) = put(tmp_path, [Parcel(ALDER.writer, Lane.LOG, secret)], to=BIRCH).paths
    for raw in (path.read_bytes(), other.read_bytes()):
        assert not any(secret[at : at + 8] in raw for at in range(len(secret) - 8))
        assert hashlib.sha256(secret).digest() not in raw
    assert cut(path.read_bytes()).body != cut(other.read_bytes()).body


def test_parcels_that_are_not_lane_by_lane_are_a_bug(tmp_path: Path) -> None:
    one, two = Parcel(ALDER.writer, Lane.LOG, b""), Parcel(ALDER.writer, Lane.CONTROL, b"")
    for what in (
        [one, two],
        [one, one._replace(peer=BIRCH.writer)],
        [one._replace(peer=BIRCH.writer)],
        [one._replace(data=bytes(PARCEL_BYTES_MAX + 1))],
    ):
        with pytest.raises(ValueError):
            put(tmp_path, what)
    with pytest.raises(ValueError):
        put(tmp_path, parcels(10_000), part_bytes_max=8_000)
    with pytest.raises(ValueError):
        put(tmp_path, parcels(5), sender=ALDER._replace(tenant="x" * 200))
    assert not any(tmp_path.iterdir())


def test_a_gigabyte_would_go_through_with_the_memory_of_a_chunk(tmp_path: Path) -> None:
    def endless() -> Iterator[Parcel]:
        for number in range(80):
            yield Parcel(ALDER.writer, Lane.SEGMENTS, number.to_bytes(4) * (PARCEL_BYTES_MAX // 4))

    class Again:
        def __iter__(self) -> Iterator[Parcel]:
            return endless()

    tracemalloc.start()
    try:
        (path,) = put(tmp_path, Again()).paths
        with at(HARBOR, path) as reader:
            assert sum(1 for _ in reader.parcels()) == 80
        assert tracemalloc.get_traced_memory()[1] < 8 * 1024 * 1024
    finally:
        tracemalloc.stop()


SETTLED = bytes.fromhex(
    "736b657272792062756e646c65000a000187a9347d7e0f60ae71354cb6855cd99355d4e4b89536fd94fdc9b89e9a89b98f00"
    "0000a7000000000000002a9ea5666c656574ba3031414c44455230303030303030303030303030303030303030ba30314841"
    "52424f52303030303030303030303030303030303030c420a1536b5ddf5468f9beb9c00b43fc332d73b1b79607c61ebcd1ae"
    "29efbe68351ac4200b71e40af2aa87420e0ece4771dfb82b83e4a1dd3725c1444546eae6fed40b55c410fd8fcd1844319b50"
    "83e4b17e8bd0ba530101cf18e9e659d5f600000200c3c29401000100ca76612b95ccd9d9b07812c33d7b71781361878f14a8"
    "05efc8202dae3203e8f1b3c49d0f894729c30f3cf2ee046ed8ed73d71a529ad53bf874b5328324003e2036d8d1f16853781d"
    "8ed69b75d53d6f13cbbbecfd7f805083497f4f88c1f8035de7397ddc094777e1910b"
)


def test_what_was_written_when_the_format_was_settled_is_still_read(tmp_path: Path) -> None:
    path = tmp_path / "2026.bundle"
    path.write_bytes(SETTLED)
    assert taken(HARBOR, path) == [
        Parcel(ALDER.writer, Lane.CONTROL, b"hello"),
        Parcel(ALDER.writer, Lane.LOG, b"all is well"),
    ]


def test_a_stranger_who_has_only_the_document_reads_it() -> None:
    """Every number here stands in docs/bundle.md."""
    assert SETTLED[:17] == b"skerry bundle\x00\n" + b"\x00\x01"
    public_key, header_bytes, body_bytes = struct.unpack(">32sIQ", SETTLED[17:61])
    header, body = SETTLED[61 : 61 + header_bytes], SETTLED[61 + header_bytes : -64]
    digest = hashlib.sha256(SETTLED[:-64]).digest()
    Ed25519PublicKey.from_public_bytes(public_key).verify(SETTLED[-64:], b"skerry bundle signature\x00" + digest)
    fields = msgspec.msgpack.decode(header)
    assert [*fields[:3], *fields[6:]] == [
        *("fleet", ALDER.writer, HARBOR.writer, 1, 1, NOW_NS, 2, 0, True, False, [1, 0, 1, 0])
    ]
    shared = HARBOR.sealing_key.exchange(X25519PublicKey.from_public_bytes(fields[4]))
    context = b"skerry sealing\x00" + hashlib.sha256(SETTLED[: 61 + header_bytes]).digest()
    extracted = hmac.digest(fields[4] + fields[3], shared, "sha256")
    secret = hmac.digest(extracted, context + b"\x01", "sha256")  # HKDF, one block
    plain = ChaCha20Poly1305(secret).decrypt(struct.pack(">QI", 0, 1), body, None)
    assert len(body) == body_bytes == len(plain) + 16
    assert plain == b"\x00\x00\x00\x00\x05hello" + b"\x02\x00\x00\x00\x0ball is well"


# -- parts ----------------------------------------------------------------------------------------------------------


def test_parts_come_in_any_order_and_each_is_of_use_alone(tmp_path: Path) -> None:
    what = parcels(*(3_000,) * 20)
    made = put(tmp_path, what, part_bytes_max=16_000)
    assert made.parts == len(made.paths) > 3
    assert all(path.stat().st_size <= 16_000 for path in made.paths)
    assert [one for path in made.paths for one in taken(HARBOR, path)] == what
    for path in reversed(made.paths):
        assert taken(HARBOR, path)
    assert [path.name for path in made.paths] == sorted(path.name for path in tmp_path.iterdir())


@pytest.mark.parametrize("room", [2_500, 5_000, 262_144, 262_288, 264_600, 300_000, 524_576])
def test_no_part_is_larger_than_was_asked_for(tmp_path: Path, room: int) -> None:
    what = parcels(*(137,) * (room // 50))
    made = put(tmp_path, what, part_bytes_max=room)
    assert max(path.stat().st_size for path in made.paths) <= room
    assert [one for path in made.paths for one in taken(HARBOR, path)] == what


def test_parts_that_nobody_could_carry_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nobody carries"):
        put(tmp_path, parcels(*(100,) * 10_001), part_bytes_max=2_350)


def test_inspect_tells_without_a_key_what_a_file_is_and_which_parts_are_missing(tmp_path: Path) -> None:
    what = parcels(*(3_000,) * 20)
    made = put(tmp_path, what, part_bytes_max=16_000)
    made.paths[1].unlink()
    made.paths[3].write_bytes(made.paths[3].read_bytes()[:-1])
    (tmp_path / "notes.bundle").write_bytes(b"milk, bread")
    found = [bundle.inspect(path) for path in sorted(tmp_path.iterdir())]
    assert [one.problem for one in found] == [Problem.GARBAGE, None, None, Problem.TRUNCATED] + [None] * (
        made.parts - 4
    )
    assert bundle.missing(found) == {made.bundle: (2, 4)}
    header = found[1].header
    assert header is not None
    assert (header.tenant, header.sender, header.recipient) == ("fleet", ALDER.writer, HARBOR.writer)
    assert (header.part, header.parts, header.created_ns, header.expires_ns) == (1, made.parts, NOW_NS, LATER_NS)
    assert (found[1].size, found[1].public_key) == (
        made.paths[0].stat().st_size,
        ALDER.key.public_key().public_bytes_raw(),
    )
    assert sum(header.counts) == len(taken(HARBOR, made.paths[0]))


def test_inspect_says_what_an_altered_header_claims_and_that_it_is_not_to_be_relied_on(tmp_path: Path) -> None:
    (path,) = put(tmp_path, parcels(50)).paths
    raw = path.read_bytes()
    path.write_bytes(raw.replace(HARBOR.writer.encode(), MALLORY.writer.encode()[:26], 1))
    found = bundle.inspect(path)
    assert found.header is not None
    assert (found.problem, found.header.recipient) == (Problem.ALTERED, MALLORY.writer)


def test_exporting_again_goes_on_with_what_is_missing(tmp_path: Path) -> None:
    what = parcels(*(3_000,) * 20)
    first = put(tmp_path, what, part_bytes_max=16_000)
    before = {path: path.read_bytes() for path in first.paths}
    first.paths[1].unlink()
    first.paths[2].write_bytes(before[first.paths[2]][:-1])
    again = put(tmp_path, what, part_bytes_max=16_000, now_ns=NOW_NS + limits.DAY)
    assert again == first
    after = {path: path.read_bytes() for path in again.paths}
    assert [before[path] == after[path] for path in first.paths] == [True, False, False] + [True] * (first.parts - 3)
    assert [one for path in again.paths for one in taken(HARBOR, path)] == what


def test_each_medium_takes_the_parts_that_belong_on_it(tmp_path: Path) -> None:
    what = parcels(*(3_000,) * 20)
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    first = put(one, what, part_bytes_max=16_000, only=(1, 3))
    second = put(two, what, part_bytes_max=16_000, only=range(4, 100))
    assert first.bundle == second.bundle
    assert bundle.missing(map(bundle.inspect, [*one.iterdir(), *two.iterdir()])) == {first.bundle: (2,)}
    came = [parcel for path in (*first.paths, *second.paths) for parcel in taken(HARBOR, path)]
    assert [parcel for parcel in what if parcel in came] == came


def test_an_expired_part_is_written_anew(tmp_path: Path) -> None:
    (path,) = put(tmp_path, parcels(5)).paths
    put(tmp_path, parcels(5), now_ns=LATER_NS, expires_ns=LATER_NS + limits.DAY)
    assert taken(HARBOR, path, now_ns=LATER_NS) == parcels(5)


def test_other_content_is_another_bundle(tmp_path: Path) -> None:
    ids = {
        put(tmp_path, parcels(5)).bundle,
        put(tmp_path, parcels(6)).bundle,
        put(tmp_path, parcels(5), to=BIRCH).bundle,
        put(tmp_path, parcels(5), one_way=True).bundle,
        put(tmp_path, parcels(5, peer=HARBOR), sender=MALLORY).bundle,
    }
    assert len(ids) == len([*tmp_path.iterdir()]) == 5


def test_what_changes_while_it_is_exported_is_not_signed(tmp_path: Path) -> None:
    class Moving:
        turns = 0

        def __iter__(self) -> Iterator[Parcel]:
            self.turns += 1
            return iter(parcels(*(900_000,) * self.turns))

    made = put(tmp_path, Moving())
    assert (made.problem, made.missing, made.paths) == (Problem.SOURCE, (1,), ())
    assert not any(tmp_path.iterdir())


def test_a_fault_of_what_is_exported_is_not_blamed_on_the_medium(tmp_path: Path) -> None:
    class Failing:
        turns = 0

        def __iter__(self) -> Iterator[Parcel]:
            self.turns += 1
            for number, parcel in enumerate(parcels(*(300_000,) * 8)):
                if (self.turns, number) == (2, 5):
                    raise OSError("our own disk")
                yield parcel

    with pytest.raises(OSError, match="our own disk"):
        put(tmp_path, Failing(), part_bytes_max=1_000_000)
    assert not any(path.suffix == ".part" for path in tmp_path.iterdir())


def test_progress_is_told_in_bytes_of_files(tmp_path: Path) -> None:
    written: list[int] = []
    read: list[int] = []
    made = put(tmp_path, parcels(*(300_000,) * 6), part_bytes_max=1_000_000, progress=written.append)
    assert written == sorted(written)
    assert written[-1] == sum(path.stat().st_size for path in made.paths)
    bundle.inspect(made.paths[0], read.append)
    assert read[-1] == made.paths[0].stat().st_size


# -- refused --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("raw", [b"", b"\x00", b"hello, this is no bundle", b"SQLite format 3\x00", bytes(10_000)])
def test_garbage_is_garbage(tmp_path: Path, raw: bytes) -> None:
    path = tmp_path / "x.bundle"
    path.write_bytes(raw)
    assert problem_of(HARBOR, path) is Problem.GARBAGE
    assert bundle.inspect(path).problem is Problem.GARBAGE


def test_what_is_no_file_is_refused_and_nobody_waits(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    assert problem_of(HARBOR, tmp_path / "pipe") is Problem.GARBAGE
    assert problem_of(HARBOR, tmp_path / "folder") is Problem.GARBAGE
    for name in ("loop", "absent", "x" * 300):
        assert problem_of(HARBOR, tmp_path / name) is Problem.UNREADABLE
        assert bundle.inspect(tmp_path / name).problem is Problem.UNREADABLE


def test_a_newer_version_says_so(tmp_path: Path) -> None:
    (path,) = put(tmp_path, parcels(5)).paths
    raw = bytearray(path.read_bytes())
    raw[len(bundle.MAGIC) + 1] = 2
    path.write_bytes(raw)
    assert problem_of(HARBOR, path) is Problem.VERSION


def test_who_it_is_for_and_who_sent_it(tmp_path: Path) -> None:
    (path,) = put(tmp_path, parcels(5)).paths
    assert problem_of(BIRCH, path) is Problem.RECIPIENT
    assert problem_of(HARBOR._replace(tenant="others"), path, hub=True) is Problem.TENANT
    assert problem_of(HARBOR, path, hub=False) is Problem.DIRECTION
    assert problem_of(HARBOR, path, key_of=lambda tenant, writer: None) is Problem.STRANGER
    assert problem_of(HARBOR, path, key_of=lambda *who: MALLORY.key.public_key()) is Problem.SENDER
    assert problem_of(HARBOR._replace(sealing_key=sealing.new()), path, hub=True) is Problem.SEALED


def test_mallory_cannot_speak_for_alder(tmp_path: Path) -> None:
    (path,) = put(tmp_path, parcels(5), ALDER._replace(key=MALLORY.key)).paths
    assert problem_of(HARBOR, path) is Problem.SENDER
    (path,) = put(tmp_path, parcels(5)).paths
    raw = path.read_bytes()
    path.write_bytes(
        raw.replace(ALDER.key.public_key().public_bytes_raw(), MALLORY.key.public_key().public_bytes_raw())
    )
    assert problem_of(HARBOR, path) is Problem.ALTERED


def test_a_site_never_takes_what_is_another_sites(tmp_path: Path) -> None:
    """Birch signs for itself, and harbor hears what birch said; the parcels carry no name of their own."""
    (path,) = put(tmp_path, parcels(5, peer=BIRCH), BIRCH).paths
    assert {parcel.peer for parcel in taken(HARBOR, path)} == {BIRCH.writer}


def test_a_first_contact_is_somebodys_decision(tmp_path: Path) -> None:
    (path,) = put(tmp_path, parcels(5, peer=MALLORY), MALLORY).paths
    asked: list[tuple[str, bytes]] = []

    def accept(header: Header, key: PublicKey) -> bool:
        asked.append((header.sender, key.public_bytes_raw()))
        return True

    assert problem_of(HARBOR, path) is Problem.STRANGER
    assert len(taken(HARBOR, path, first_contact=accept)) == 1
    assert asked == [(MALLORY.writer, MALLORY.key.public_key().public_bytes_raw())]


def test_a_known_senders_other_key_is_never_a_first_contact(tmp_path: Path) -> None:
    (path,) = put(tmp_path, parcels(5), ALDER._replace(key=MALLORY.key)).paths
    assert problem_of(HARBOR, path, first_contact=lambda header, key: True) is Problem.SENDER


def test_an_expired_bundle_is_refused_where_the_clocks_are_believed(tmp_path: Path) -> None:
    (path,) = put(tmp_path, parcels(5)).paths
    assert problem_of(HARBOR, path, now_ns=LATER_NS) is Problem.EXPIRED
    assert problem_of(HARBOR, path, now_ns=NOW_NS - 2 * limits.HOUR) is Problem.FUTURE
    for now_ns, warning in ((LATER_NS, Problem.EXPIRED), (0, Problem.FUTURE)):
        with at(HARBOR, path, now_ns=now_ns, clock=Clock.NOT_TRUSTED) as reader:
            assert reader.warnings == (warning,)
            assert [*reader.parcels()] == parcels(5)


def test_a_site_that_believes_it_is_1970_is_heard_all_the_same(tmp_path: Path) -> None:
    (path,) = put(tmp_path, parcels(5), now_ns=5, expires_ns=limits.DAY, clock=Clock.NOT_TRUSTED).paths
    with at(HARBOR, path) as reader:
        assert reader.warnings == (Problem.EXPIRED,)


def test_a_bundle_without_an_end_does_not_expire(tmp_path: Path) -> None:
    (path,) = put(tmp_path, parcels(5), expires_ns=0).paths
    assert taken(HARBOR, path, now_ns=1 << 62) == parcels(5)


def test_a_wrong_inside_is_refused_though_it_is_signed(tmp_path: Path) -> None:
    (path,) = put(tmp_path, parcels(5)).paths
    one = bundle._record(Parcel("", Lane.LOG, b"12345"))
    assert taken(HARBOR, forged(path)) == parcels(5)
    for plain in (
        b"",
        b"\x00",
        one,
        one[:-1],
        bundle._record(parcels(5)[0]) * 2,
        bundle._record(parcels(5)[0]) + b"\x00",
        bundle._PARCEL.pack(4, 0),
        bundle._PARCEL.pack(0, PARCEL_BYTES_MAX + 1),
        bundle._PARCEL.pack(0, 0xFFFFFFFF),
    ):
        assert problem_of(HARBOR, forged(path, plain)) is Problem.INSIDE
    two = bundle._record(Parcel("", Lane.CONTROL, b""))
    assert problem_of(HARBOR, forged(path, one + two, counts=(1, 0, 1, 0))) is Problem.INSIDE
    assert problem_of(HARBOR, forged(path, body=bytes(15))) is Problem.CHANGED
    assert problem_of(HARBOR, forged(path, body=b"", counts=(1, 0, 0, 0))) is Problem.INSIDE
    for fields in (
        {"counts": (0, 0, 0, 2)},
        {"counts": (-1, 0, 0, 0)},
        {"part": 0},
        {"part": 2},
        {"parts": bundle.PARTS_MAX + 1},
        {"sender": "alder\x1b[2J"},
        {"tenant": ""},
        {"bundle": b"short"},
        {"sealed_to": b"short"},
        {"ephemeral": bytes(32)},
        {"ephemeral": b"short"},
        {"created_ns": -1},
        {"expires_ns": 1 << 63},
        {"up": 1},
        {"counts": (1, 0, 0)},
    ):
        assert problem_of(HARBOR, forged(path, **fields)) is Problem.INSIDE, fields
    assert taken(HARBOR, forged(path, clock=77)) == parcels(5)


def test_a_newer_sender_may_say_more_in_the_header(tmp_path: Path) -> None:
    (path,) = put(tmp_path, parcels(5)).paths
    assert taken(HARBOR, forged(path, more=("a", "b"))) == parcels(5)


def test_what_changes_between_the_two_passes_is_found(tmp_path: Path) -> None:
    what = parcels(*(400_000,) * 4)
    (path,) = put(tmp_path, what).paths
    raw = path.read_bytes()
    with at(HARBOR, path) as reader, path.open("r+b") as file:
        file.seek(len(raw) - 100)
        file.write(b"!")
        file.flush()
        seen: list[Parcel] = []
        with pytest.raises(BundleProblem) as caught:
            seen.extend(reader.parcels())
        assert caught.value.problem is Problem.CHANGED
        assert seen == what[: len(seen)]
        os.truncate(path, 500_000)
        with pytest.raises(BundleProblem):
            list(reader.parcels())


def test_a_file_exchanged_between_the_two_passes_is_not_looked_at(tmp_path: Path) -> None:
    (path,) = put(tmp_path, parcels(5)).paths
    with at(HARBOR, path) as reader:
        path.unlink()
        path.write_bytes(b"another")
        assert [*reader.parcels()] == parcels(5)
