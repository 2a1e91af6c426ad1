"""The same sync on a stick: how do parcels get from one box to another as files?

    bundle  = magic ‖ version u16 ‖ sender's Ed25519 key (32 bytes) ‖ header length u32 ‖ sealed length u64
              ‖ header (MessagePack) ‖ sealed body ‖ signature (64 bytes)                                    big endian
    body    = lane u8 ‖ length u32 ‖ bytes of the message …, sealed in chunks (`store.sealing`, context = SHA-256 of all
              before the body)
    signature = Ed25519(sender's key, "skerry bundle signature" NUL ‖ SHA-256(all before the signature))

A bundle is one or more such files, its *parts*. Each is signed, sealed and of use without the others.

Rules of the file
  1  Verified before a byte is parsed: a first pass checks sizes, hash and signature of the whole file with a bounded
     memory; only then the header is parsed, and only for a known sender and the right recipient the body is opened.
  2  The second pass trusts nothing that it reads again: each chunk carries its own tag.
  3  A name without `.part` is a whole file: written, synced, renamed, its folder synced.
  4  The same parcels make the same bundle: exporting again goes on with the parts that are missing, importing again
     gives the same parcels. Parcels may come twice; that is a promise of every link.
  5  Lanes stand in strict order, the most urgent first.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
import struct
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from enum import StrEnum
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, NamedTuple

import msgspec

from fleet import envelope, limits
from fleet.envelope import PrivateKey, PublicKey
from fleet.events import Clock
from store import sealing
from store.faults import Fault, fault_of
from store.keys import public_bytes, sync_folder
from sync.link import Parcel
from sync.messages import PARCEL_BYTES_MAX, Lane

MAGIC = b"skerry bundle\x00\n"
VERSION = 1
SUFFIX = ".bundle"

HEADER_BYTES_MAX = 2_048
NAME_CHARS_MAX = 128  # of a tenant or a writer
CHUNK_BYTES = 256 * 1024  # of body in one chunk; the last one is shorter
PART_BYTES_MAX = (1 << 32) - 1  # what FAT, the file system of most sticks, takes in one file
PARTS_MAX = 10_000
FUTURE_NS_MAX = limits.HOUR  # ahead of us: two clocks that are believed are never this far apart

_VERSION = struct.Struct(">H")
_FRONT = struct.Struct(">32sIQ")
_PARCEL = struct.Struct(">BI")
_START_BYTES = len(MAGIC) + _VERSION.size + _FRONT.size
_SIGNATURE_BYTES = 64
_SEALED_BYTES = CHUNK_BYTES + sealing.TAG_BYTES
_SIGNATURE = b"skerry bundle signature\x00"
_ID = b"skerry bundle id\x00"
_ID_BYTES = 16
_NUMBER_MAX = (1 << 63) - 1


class Problem(StrEnum):
    """What is wrong, whose fault it is and what to do. The value is the sentence a person reads."""

    # the file
    GARBAGE = "this is no bundle of Skerry"
    VERSION = "this bundle was written by a newer Skerry; update this box, or export it with the older version"
    TRUNCATED = "the bundle is cut off; copy it again from where it was exported"
    ALTERED = "the bundle was damaged or altered after it was signed; copy it again from where it was exported"
    INSIDE = (
        "the bundle is signed, but its content is not what a bundle holds; update the sender's box and export again"
    )
    UNREADABLE = "the medium cannot be read; plug it in again, or take a copy of the bundle on another one"
    CHANGED = "the bundle does not open: it changed while it was read, or was sealed wrongly; import it again, or export it again"
    # who and when
    RECIPIENT = "this bundle is for another box; bring it there"
    TENANT = "this bundle is of another tenant; nothing of it is taken here"
    DIRECTION = "this bundle goes the other way: what a site sends is for its hub, what a hub sends for a site"
    STRANGER = "nobody here knows the sender of this bundle; invite the site first, or ask who it is"
    SENDER = (
        "the bundle is signed with another key than its sender's; somebody pretends, or the sender's key was changed"
    )
    SEALED = "the bundle is sealed to a key that this box no longer has; export it again for the present one"
    EXPIRED = "the bundle has expired; export it again"
    FUTURE = "the bundle was made in the future; set the clock of the box that made it, or of this one"
    # writing
    FULL = "the medium is full; make room or plug in another one and export again, in smaller parts if none fits"
    READ_ONLY = "the medium cannot be written; unlock it or plug in another one and export again"
    MEDIUM = "the medium was pulled or fails; plug it in again, or another one, and export again"
    SOURCE = "what is exported changed while it was written; export again"


class BundleProblem(Exception):
    """There is no bundle to be had, or no more of it. `problem` says why; parcels that came before it stand."""

    def __init__(self, problem: Problem, detail: str = "") -> None:
        super().__init__(f"{problem} ({detail})" if detail else str(problem))
        self.problem, self.detail = problem, detail


class Header(msgspec.Struct, frozen=True, array_like=True):
    """What anybody may see of a part, without a key. Fields are only ever added at the end, with a default."""

    tenant: str
    sender: str  # writer
    recipient: str  # writer
    sealed_to: bytes  # the recipient's X25519 key
    ephemeral: bytes  # X25519, of this part alone
    bundle: bytes  # the same in all parts
    part: int  # 1 … parts
    parts: int
    created_ns: int
    clock: int  # how far to believe `created_ns`: `fleet.events.Clock`
    expires_ns: int  # 0: never
    up: bool  # from a site to its hub
    one_way: bool  # nothing will come back on this way
    counts: tuple[int, int, int, int]  # parcels of each lane in this part

    @property
    def peer(self) -> str:
        """The site's writer, whichever way it goes."""
        return self.sender if self.up else self.recipient


class Sender(NamedTuple):
    key: PrivateKey
    tenant: str
    writer: str


class Recipient(NamedTuple):
    """`public_key` is X25519, 32 bytes."""

    writer: str
    public_key: bytes


class Receiver(NamedTuple):
    """The box that imports. A hub takes what sites send; a site takes what its hub sends."""

    key: sealing.PrivateKey
    tenant: str
    writer: str
    hub: bool


# -- export -----------------------------------------------------------------------------------------------------


class Part(NamedTuple):
    """`body_bytes` of parcels and their lengths, not sealed yet; `digest` is their SHA-256."""

    counts: tuple[int, int, int, int]
    body_bytes: int
    digest: bytes


class Plan(NamedTuple):
    peer: str
    parts: tuple[Part, ...]


class Export(NamedTuple):
    """`paths` are whole, and those of `missing` are not there: because of `problem`."""

    bundle: bytes
    parts: int
    paths: tuple[Path, ...]
    missing: tuple[int, ...]
    problem: Problem | None = None
    detail: str = ""


def plan(parcels: Iterable[Parcel], part_bytes_max: int = PART_BYTES_MAX) -> Plan:
    """Where the parts begin and end. ValueError when the parcels are not lane by lane, not all of one site, or too
    large for a part: that is a bug of the caller."""
    body_bytes_max = _body_bytes_max(part_bytes_max)
    parts: list[Part] = []
    peer, lane = "", Lane.CONTROL
    counts, size, digest = [0] * len(Lane), 0, hashlib.sha256()
    for parcel in parcels:
        peer = peer or parcel.peer
        record = _record(parcel)
        if parcel.lane < lane or parcel.peer != peer:
            raise ValueError(f"a parcel of {parcel.peer}, lane {parcel.lane} behind one of {peer}, lane {lane}")
        if len(parcel.data) > PARCEL_BYTES_MAX or len(record) > body_bytes_max:
            raise ValueError(f"a parcel of {len(parcel.data):,} bytes in parts of {part_bytes_max:,}")
        if size + len(record) > body_bytes_max:
            parts.append(Part(_four(counts), size, digest.digest()))
            counts, size, digest = [0] * len(Lane), 0, hashlib.sha256()
        lane = parcel.lane
        counts[lane] += 1
        size += len(record)
        digest.update(record)
    if size:
        parts.append(Part(_four(counts), size, digest.digest()))
    if len(parts) > PARTS_MAX:
        raise ValueError(f"{len(parts):,} parts of {part_bytes_max:,} bytes; more than {PARTS_MAX:,} nobody carries")
    return Plan(peer, tuple(parts))


def _body_bytes_max(part_bytes_max: int) -> int:
    room = min(part_bytes_max, PART_BYTES_MAX) - _START_BYTES - HEADER_BYTES_MAX - _SIGNATURE_BYTES
    full, rest = divmod(max(room, 0), _SEALED_BYTES)
    return full * CHUNK_BYTES + max(rest - sealing.TAG_BYTES, 0)


def _record(parcel: Parcel) -> bytes:
    return _PARCEL.pack(parcel.lane, len(parcel.data)) + parcel.data


def _four(counts: list[int]) -> tuple[int, int, int, int]:
    control, snapshots, log, segments = counts
    return control, snapshots, log, segments


def export(
    parcels: Callable[[], Iterable[Parcel]],
    folder: Path,
    sender: Sender,
    recipient: Recipient,
    *,
    now_ns: int,
    clock: Clock,
    expires_ns: int,
    part_bytes_max: int = PART_BYTES_MAX,
    one_way: bool = False,
    only: Collection[int] = (),
    progress: Callable[[int], None] = lambda size: None,
) -> Export:
    """Write the parcels, lane by lane and all of one site, as the parts of a bundle into `folder`.

    `parcels` is called twice and gives the same both times. A part that is there already, whole and not expired, is
    left as it is; so after a full or a pulled medium the same call goes on. `only` names the parts that belong on this
    medium (all when empty). `progress` is told the bytes written so far. No parcels make no file.
    """
    made = plan(parcels(), part_bytes_max)
    if made.parts and made.peer not in (sender.writer, recipient.writer):
        raise ValueError(f"parcels of {made.peer} between {sender.writer} and {recipient.writer}")
    up = made.peer == sender.writer
    content = (*sender[1:], *recipient, up, one_way, part_bytes_max, [part.digest for part in made.parts])
    proof = sender.key.sign(_ID + hashlib.sha256(_encode(content)).digest())
    bundle = hashlib.sha256(proof).digest()[:_ID_BYTES]  # by the key, so that nobody can guess at the content with it
    wanted = [number for number in range(1, len(made.parts) + 1) if not only or number in only]
    paths: list[Path] = []
    source, taken, written = iter(parcels()), 0, 0
    for number in wanted:
        part = made.parts[number - 1]
        path = folder / name(bundle, number, len(made.parts))
        if not _stands(path, bundle, public_bytes(sender.key), now_ns):
            before = sum(sum(one.counts) for one in made.parts[taken : number - 1])
            deque(islice(source, before), maxlen=0)
            ephemeral = sealing.new()
            header = Header(
                sender.tenant,
                sender.writer,
                *recipient,
                sealing.public_bytes(ephemeral),
                bundle,
                number,
                len(made.parts),
                now_ns,
                clock,
                expires_ns,
                up,
                one_way,
                part.counts,
            )
            pieces = _pieces(header, part, islice(source, sum(part.counts)), sender.key, ephemeral)
            taken = number
            try:
                written = _write(path, pieces, written, progress)
            except BundleProblem as found:
                missing = tuple(wanted[wanted.index(number) :])
                return Export(bundle, len(made.parts), tuple(paths), missing, found.problem, found.detail)
        paths.append(path)
    return Export(bundle, len(made.parts), tuple(paths), ())


def name(bundle: bytes, part: int, parts: int) -> str:
    """A file's name: for people and for sorting; nothing reads it."""
    return f"skerry-{bundle.hex()[:12]}-{part:0{len(str(parts))}}-of-{parts}{SUFFIX}"


def _stands(path: Path, bundle: bytes, public_key: bytes, now_ns: int) -> bool:
    """Whether a part of ours stands there whole. The id names its content."""
    found = inspect(path)
    header = found.header
    if header is None or found.problem or (found.public_key, header.bundle) != (public_key, bundle):
        return False
    return path.name == name(bundle, header.part, header.parts) and not 0 < header.expires_ns <= now_ns


def _pieces(
    header: Header, part: Part, parcels: Iterable[Parcel], key: PrivateKey, ephemeral: sealing.PrivateKey
) -> Iterator[bytes]:
    """The bytes of one file."""
    raw = _encode(header)
    _parsed(raw)  # what nobody could read is not written
    full, rest = divmod(part.body_bytes, CHUNK_BYTES)
    sealed_bytes = full * _SEALED_BYTES + (rest + sealing.TAG_BYTES if rest else 0)
    start = MAGIC + _VERSION.pack(VERSION) + _FRONT.pack(public_bytes(key), len(raw), sealed_bytes) + raw
    digest = hashlib.sha256(start)
    stream = sealing.sealer(ephemeral, header.sealed_to, digest.digest())
    yield start
    plain = hashlib.sha256()
    for index, (chunk, last) in enumerate(_chunks(map(_record, parcels))):
        plain.update(chunk)
        if last and plain.digest() != part.digest:
            raise BundleProblem(Problem.SOURCE)
        sealed = stream.seal(index, chunk, last)
        digest.update(sealed)
        yield sealed
    yield key.sign(_SIGNATURE + digest.digest())


def _chunks(records: Iterable[bytes]) -> Iterator[tuple[bytes, bool]]:
    held = bytearray()
    for record in records:
        held += record
        while len(held) > CHUNK_BYTES:
            yield bytes(held[:CHUNK_BYTES]), False
            del held[:CHUNK_BYTES]
    yield bytes(held), True


_FAULTS = {Fault.FULL: Problem.FULL, Fault.READ_ONLY: Problem.READ_ONLY}


@contextlib.contextmanager
def _writing() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise BundleProblem(_FAULTS.get(fault_of(error) or Fault.IO, Problem.MEDIUM), str(error)) from error


def _write(path: Path, pieces: Iterator[bytes], written: int, progress: Callable[[int], None]) -> int:
    """A file under its name, whole and durable, or BundleProblem and no file."""
    fresh = path.with_name(path.name + ".part")
    try:
        with _writing():
            fresh.unlink(missing_ok=True)
            file = fresh.open("xb", buffering=0)  # exclusive: it follows no link that lies on the medium
        try:
            for piece in pieces:
                left = memoryview(piece)
                while left:
                    with _writing():
                        left = left[file.write(left) :]
                written += len(piece)
                progress(written)
            with _writing():
                os.fsync(file.fileno())
        finally:
            with _writing():
                file.close()
        with _writing():
            fresh.rename(path)
            _sync(path.parent)
    except BaseException:
        with contextlib.suppress(OSError):  # gone with the medium: the next export removes it
            fresh.unlink(missing_ok=True)
        raise
    return written


def _sync(folder: Path) -> None:
    try:
        sync_folder(folder)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some file systems of sticks cannot sync a folder
            raise


# -- look -------------------------------------------------------------------------------------------------------


class Inspection(NamedTuple):
    """What can be said of a file without a key. With a `problem`, what `header` says (if it can be read) is not to be
    relied on; without one, the file is whole and signed by whoever holds `public_key` (Ed25519)."""

    path: Path
    size: int = 0
    public_key: bytes = b""
    header: Header | None = None
    problem: Problem | None = None
    detail: str = ""


def inspect(path: Path, progress: Callable[[int], None] = lambda size: None) -> Inspection:
    """Reads the whole file. `progress` is told the bytes read so far."""
    size = 0
    try:
        with _open(path) as file:
            size = _size(file)
            whole = _check(file, size, progress)
    except BundleProblem as found:
        return Inspection(path, size, problem=found.problem, detail=found.detail)
    problem = None if whole.signed else Problem.ALTERED
    try:
        header = _parsed(whole.header)
    except ValueError as error:
        return Inspection(path, size, whole.public_key, None, problem or Problem.INSIDE, str(error))
    return Inspection(path, size, whole.public_key, header, problem)


def missing(found: Iterable[Inspection]) -> dict[bytes, tuple[int, ...]]:
    """For each bundle of which a whole part was found, the parts that were not."""
    there: dict[tuple[bytes, int], set[int]] = {}
    for one in found:
        if one.header is not None and one.problem is None:
            there.setdefault((one.header.bundle, one.header.parts), set()).add(one.header.part)
    return {
        bundle: tuple(part for part in range(1, parts + 1) if part not in held)
        for (bundle, parts), held in there.items()
    }


class _Whole(NamedTuple):
    """A file of the right size. `signed`: by `public_key`, bit for bit."""

    public_key: bytes
    header: bytes
    body_at: int
    body_bytes: int
    context: bytes
    signed: bool


def _open(path: Path) -> BinaryIO:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # on a pipe it would wait for ever
    except OSError as error:
        raise BundleProblem(Problem.UNREADABLE, str(error)) from error
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise BundleProblem(Problem.GARBAGE, "not a file")
    return os.fdopen(fd, "rb")


def _size(file: BinaryIO) -> int:
    return os.fstat(file.fileno()).st_size


def _take(file: BinaryIO, count: int) -> bytes:
    """Fewer bytes only at the end of the file."""
    try:
        return file.read(count)
    except OSError as error:
        raise BundleProblem(Problem.UNREADABLE, str(error)) from error


def _check(file: BinaryIO, size: int, progress: Callable[[int], None]) -> _Whole:
    """The first pass. Nothing is believed before its length is bounded."""
    start = _take(file, _START_BYTES)
    if start[: len(MAGIC)] != MAGIC:
        raise BundleProblem(Problem.GARBAGE)
    if len(start) < _START_BYTES:
        raise BundleProblem(Problem.TRUNCATED, f"at byte {len(start)}")
    (version,) = _VERSION.unpack_from(start, len(MAGIC))
    if version != VERSION:
        raise BundleProblem(Problem.VERSION, f"version {version}")
    public_key, header_bytes, body_bytes = _FRONT.unpack_from(start, len(MAGIC) + _VERSION.size)
    if header_bytes > HEADER_BYTES_MAX:
        raise BundleProblem(Problem.ALTERED, f"a header of {header_bytes:,} bytes")
    body_at = _START_BYTES + header_bytes
    expected = body_at + body_bytes + _SIGNATURE_BYTES
    if size < expected:
        raise BundleProblem(Problem.TRUNCATED, f"{size:,} of {expected:,} bytes")
    if size > expected:
        raise BundleProblem(Problem.ALTERED, f"{size - expected:,} bytes too many")
    header = _take(file, header_bytes)
    digest = hashlib.sha256(start + header)
    context = digest.digest()
    left = body_bytes
    while left and (piece := _take(file, min(left, _SEALED_BYTES))):
        digest.update(piece)
        left -= len(piece)
        progress(size - left)
    signature = _take(file, _SIGNATURE_BYTES)
    try:
        key = envelope.public_key(public_key)
        signed = envelope.vouches(key, signature, _SIGNATURE + digest.digest())
    except ValueError:
        signed = False
    return _Whole(public_key, header, body_at, body_bytes, context, signed)


def _parsed(raw: bytes) -> Header:
    """ValueError (with the reason) when it is no header. What is shown to people is printable."""
    try:
        header = _decode(raw)
    except (msgspec.MsgspecError, RecursionError, OverflowError) as error:
        raise ValueError(f"not a header: {error}") from error
    for text in (header.tenant, header.sender, header.recipient):
        if not 0 < len(text) <= NAME_CHARS_MAX or not text.isprintable():
            raise ValueError("not a header: a name")
    if (len(header.sealed_to), len(header.ephemeral)) != (sealing.KEY_BYTES, sealing.KEY_BYTES):
        raise ValueError("not a header: a key")
    if len(header.bundle) != _ID_BYTES or not 1 <= header.part <= header.parts <= PARTS_MAX:
        raise ValueError(f"not a header: part {header.part} of {header.parts}")
    if not all(0 <= number <= _NUMBER_MAX for number in (header.created_ns, header.expires_ns, *header.counts)):
        raise ValueError("not a header: a number")
    return header


# -- import -----------------------------------------------------------------------------------------------------


class Reader:
    """A part that was found whole, signed by whom it names, and for this box. `warnings` are what would be problems if
    the clocks were to be believed. Use it in `with`."""

    def __init__(
        self, file: BinaryIO, whole: _Whole, header: Header, stream: sealing.Stream, warnings: tuple[Problem, ...]
    ):
        self.header, self.warnings = header, warnings
        self._file, self._whole, self._stream = file, whole, stream

    @classmethod
    def open(
        cls,
        path: Path,
        me: Receiver,
        *,
        key_of: Callable[[str, str], PublicKey | None],
        now_ns: int,
        clock: Clock,
        first_contact: Callable[[Header, PublicKey], bool] = lambda header, key: False,
        progress: Callable[[int], None] = lambda size: None,
    ) -> Reader:
        """BundleProblem when there is nothing here to take. `key_of` gives the key of a (tenant, writer), None when
        nobody knows it; then `first_contact` is asked whether to believe the key that the bundle itself brings."""
        file = _open(path)
        try:
            whole = _check(file, _size(file), progress)
            if not whole.signed:
                raise BundleProblem(Problem.ALTERED)
            try:
                header = _parsed(whole.header)
            except ValueError as error:
                raise BundleProblem(Problem.INSIDE, str(error)) from error
            key = envelope.public_key(whole.public_key)
            if problem := _refusal(header, key, me, key_of, first_contact):
                raise BundleProblem(problem, f"from {header.sender} to {header.recipient}")
            warnings = _out_of_time(header, now_ns)
            if warnings and Clock.NOT_TRUSTED not in (clock, header.clock):
                raise BundleProblem(warnings[0])
            try:
                stream = sealing.opener(me.key, header.ephemeral, whole.context)
            except ValueError as error:
                raise BundleProblem(Problem.INSIDE, str(error)) from error
            return cls(file, whole, header, stream, warnings)
        except BaseException:
            file.close()
            raise

    def parcels(self) -> Iterator[Parcel]:
        """From the first on, each time. BundleProblem where the file stops making sense."""
        peer, counts, lane = self.header.peer, [0] * len(Lane), 0
        held = b""
        for chunk in self._opened():
            held += chunk
            at = 0
            while at + _PARCEL.size <= len(held):
                number, length = _PARCEL.unpack_from(held, at)
                if not lane <= number < len(Lane) or length > PARCEL_BYTES_MAX:
                    raise BundleProblem(Problem.INSIDE, f"a parcel of {length:,} bytes in lane {number}")
                start, end = at + _PARCEL.size, at + _PARCEL.size + length
                if end > len(held):
                    break
                lane, at = number, end
                counts[lane] += 1
                yield Parcel(peer, Lane(lane), held[start:end])
            held = held[at:]
        if held or _four(counts) != self.header.counts:
            raise BundleProblem(Problem.INSIDE, "other parcels than it names")

    def _opened(self) -> Iterator[bytes]:
        at, end, index = self._whole.body_at, self._whole.body_at + self._whole.body_bytes, 0
        while at < end:
            self._file.seek(at)
            sealed = _take(self._file, min(end - at, _SEALED_BYTES))
            at += _SEALED_BYTES
            plain = self._stream.open(index, sealed, last=at >= end)
            if plain is None:
                raise BundleProblem(Problem.CHANGED)
            index += 1
            yield plain

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Reader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _refusal(
    header: Header,
    key: PublicKey,
    me: Receiver,
    key_of: Callable[[str, str], PublicKey | None],
    first_contact: Callable[[Header, PublicKey], bool],
) -> Problem | None:
    """Whether the bundle is for this box, and of somebody it knows. Where to bring it comes before who sent it."""
    if header.recipient != me.writer:
        return Problem.RECIPIENT
    if header.tenant != me.tenant:
        return Problem.TENANT
    if header.up != me.hub:
        return Problem.DIRECTION
    known = key_of(header.tenant, header.sender)
    if known is None and not first_contact(header, key):
        return Problem.STRANGER
    if known is not None and known.public_bytes_raw() != key.public_bytes_raw():
        return Problem.SENDER
    return None if header.sealed_to == sealing.public_bytes(me.key) else Problem.SEALED


def _out_of_time(header: Header, now_ns: int) -> tuple[Problem, ...]:
    expired = 0 < header.expires_ns <= now_ns
    future = header.created_ns > now_ns + FUTURE_NS_MAX
    return (Problem.EXPIRED,) * expired + (Problem.FUTURE,) * future


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Header).decode
