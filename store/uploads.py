"""Where are the bytes of an upload until its records are stored? Two files in `uploads/`, named by the upload's id.

`ID.part` holds the bytes, each chunk at its place. `ID.log` says which are there: a line of JSON, then for each durable
chunk 44 bytes: index (u32), size (u32), SHA-256, and the CRC-32 of these 40. A log that breaks off counts up to there.

Rules of the file
  1  A chunk stands in the log only after its bytes are on the disk.
  2  A write or a sync that failed ends the upload's files: what the kernel dropped then, nobody knows.
  3  Bytes are hashed when they come, and the whole once, in order, as far as they came in order.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import struct
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from backports import zstd

from store.faults import Fault, StoreFault, fault_of
from store.keys import sync_folder

_ENTRY = struct.Struct(">II32sI")
_HEAD_BYTES_MAX = 16_384
_PIECE_BYTES = 1024 * 1024
_BUFFERS_MAX = 512  # of one pwritev
_MEMBERS_MAX = 65_536  # of a compressed file


class Chunk(NamedTuple):
    place: int
    size: int
    sha256: bytes


class Found(NamedTuple):
    """An upload of an earlier run: its head as it was written, and the chunks that are durable."""

    id: str
    head: bytes
    chunks: list[Chunk]


class Unreadable(Exception):
    """The file cannot be unpacked; str() says why."""


class Part:
    """The files of one upload. Everything may run on any thread; `write` may overlap itself and the others."""

    def __init__(self, folder: Path, upload: str, head: bytes) -> None:
        self.path, self._log_path = folder / f"{upload}.part", folder / f"{upload}.log"
        self._head = head
        self._lock = threading.Lock()
        self._fd = self._log = -1
        self._users = 0  # the number of a closed file may be another's at once: the last to use it closes it
        self._over = False
        self._hashing = threading.Lock()
        self._whole = hashlib.sha256()
        self._hashed = 0

    def write(self, offset: int, pieces: Sequence[bytes]) -> None:
        """Put a chunk at its place; it is durable after the next `sync`. StoreFault."""
        with self._open():
            at = offset
            for start in range(0, len(pieces), _BUFFERS_MAX):
                at = self._put(at, pieces[start : start + _BUFFERS_MAX])
        with self._hashing:
            if offset == self._hashed:
                for piece in pieces:
                    self._whole.update(piece)
                self._hashed = at

    def _put(self, at: int, pieces: Sequence[bytes]) -> int:
        """All of them, however little the kernel takes at once; where they end."""
        size = sum(map(len, pieces))
        done = os.pwritev(self._fd, pieces, at)
        if done < size:
            rest = memoryview(b"".join(pieces))
            while done < size:
                done += os.pwrite(self._fd, rest[done:], at + done)
        return at + size

    def sync(self, chunks: Iterable[Chunk]) -> None:
        """What was written is on the disk, and then it is said so. StoreFault."""
        rows = []
        for chunk in chunks:
            row = _ENTRY.pack(*chunk, 0)[:-4]
            rows.append(row + zlib.crc32(row).to_bytes(4, "big"))
        with self._open():
            os.fdatasync(self._fd)
            os.write(self._log, b"".join(rows))
            os.fdatasync(self._log)

    def digest(self, size: int) -> bytes:
        """The SHA-256 of the first `size` bytes; what was not hashed yet is read. StoreFault."""
        with self._hashing, self._open():
            while self._hashed < size:
                piece = os.pread(self._fd, min(_PIECE_BYTES, size - self._hashed), self._hashed)
                if not piece:
                    break
                self._whole.update(piece)
                self._hashed += len(piece)
            return self._whole.digest()

    def keep_as(self, path: Path) -> None:
        """The bytes become a file of their own. Done again after a crash, it changes nothing. StoreFault."""
        with self._open(make=False):
            if self.path.exists():
                self.path.rename(path)
            sync_folder(path.parent)

    def close(self) -> None:
        with self._lock:
            self._over = True
            self._close_unused()

    def remove(self) -> None:
        """The log last: bytes without one are swept away, a log without bytes says what is gone."""
        self.close()
        self.path.unlink(missing_ok=True)
        self._log_path.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _open(self, *, make: bool = True) -> Iterator[None]:
        """The files stay open inside. What the disk refuses ends them: StoreFault, and nothing is left."""
        try:
            with self._lock:
                if self._over:
                    raise FileNotFoundError(f"{self.path.name} is over")
                if make and self._fd < 0:
                    self._make()
                self._users += 1
            try:
                yield
            finally:
                with self._lock:
                    self._users -= 1
                    self._close_unused()
        except OSError as error:
            self.remove()
            raise StoreFault(fault_of(error) or Fault.IO, "uploads", str(error)) from error

    def _make(self) -> None:
        fresh = not self._log_path.exists()
        self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._log = os.open(self._log_path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        if fresh:
            os.write(self._log, self._head + b"\n")
            os.fdatasync(self._log)
            sync_folder(self.path.parent)

    def _close_unused(self) -> None:
        if self._over and not self._users:
            for fd in {self._fd, self._log} - {-1}:
                os.close(fd)
            self._fd = self._log = -1


def same(pieces: Sequence[bytes], sha256: bytes) -> bool:
    """Whether the bytes are what their hash says."""
    hashed = hashlib.sha256()
    for piece in pieces:
        hashed.update(piece)
    return hashed.digest() == sha256


def found(folder: Path) -> list[Found]:
    """What an earlier run left. Files that belong to nothing are removed, half a row at a log's end is cut off."""
    uploads = []
    for path in sorted(folder.glob("*.log")):
        raw = path.read_bytes()
        head, newline, rows = raw[:_HEAD_BYTES_MAX].partition(b"\n")
        if not newline:
            path.unlink()
            continue
        rows = raw[len(head) + 1 :]
        chunks = list(_chunks(rows))
        if len(rows) != len(chunks) * _ENTRY.size:
            os.truncate(path, len(head) + 1 + len(chunks) * _ENTRY.size)
        uploads.append(Found(path.stem, head, chunks))
    known = {one.id for one in uploads}
    for path in folder.glob("*.part"):
        if path.stem not in known:
            path.unlink()
    return uploads


def _chunks(rows: bytes) -> Iterator[Chunk]:
    for start in range(0, len(rows) - _ENTRY.size + 1, _ENTRY.size):
        index, size, sha256, crc = _ENTRY.unpack_from(rows, start)
        if zlib.crc32(rows[start : start + _ENTRY.size - 4]) != crc:
            return
        yield Chunk(index, size, sha256)


# -- what is in it ------------------------------------------------------------------------------------------------


def lines(path: Path, encoding: str, inflated_max: int, line_max: int) -> Iterator[bytes]:
    """The lines of a file, each without its end; of one that is longer, `line_max` bytes and one more. Unreadable when
    it cannot be unpacked or grows beyond `inflated_max` bytes; OSError."""
    rest, size = b"", 0
    for piece in _unpacked(path, encoding):
        size += len(piece)
        if size > inflated_max:
            raise Unreadable(f"it holds more than {inflated_max} bytes when unpacked")
        *whole, tail = piece.split(b"\n")
        for line in whole:
            yield (rest + line)[: line_max + 1].removesuffix(b"\r")
            rest = b""
        rest = (rest + tail)[: line_max + 1]
    if rest:
        yield rest.removesuffix(b"\r")


def _unpacked(path: Path, encoding: str) -> Iterator[bytes]:
    with path.open("rb") as file:
        pieces = iter(lambda: file.read(_PIECE_BYTES), b"")
        yield from _UNPACK[encoding](pieces) if encoding in _UNPACK else pieces


def _gunzipped(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Members of gzip one after the other, a bounded piece at a time."""
    stream, members = zlib.decompressobj(16 + zlib.MAX_WBITS), 1
    try:
        for piece in pieces:
            while piece:
                if stream.eof:
                    stream, members = zlib.decompressobj(16 + zlib.MAX_WBITS), members + 1
                    _few(members)
                yield stream.decompress(piece, _PIECE_BYTES)
                piece = stream.unused_data if stream.eof else stream.unconsumed_tail
        while not stream.eof and (more := stream.decompress(b"", _PIECE_BYTES)):
            yield more
    except zlib.error as error:
        raise Unreadable(f"it is no gzip: {error}") from error
    _ended(stream.eof)


def _unzstd(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Frames of zstd, likewise. One that asks for a window of more than 128 MiB is refused by the library."""
    stream, members = zstd.ZstdDecompressor(), 1
    try:
        for piece in pieces:
            while piece:
                if stream.eof:
                    stream, members = zstd.ZstdDecompressor(), members + 1
                    _few(members)
                yield stream.decompress(piece, _PIECE_BYTES)
                while not stream.eof and not stream.needs_input:
                    yield stream.decompress(b"", _PIECE_BYTES)
                piece = stream.unused_data if stream.eof else b""
    except zstd.ZstdError as error:
        raise Unreadable(f"it is no zstd: {error}") from error
    _ended(stream.eof)


_UNPACK: Mapping[str, Callable[[Iterator[bytes]], Iterator[bytes]]] = {"gzip": _gunzipped, "zstd": _unzstd}


def _few(members: int) -> None:
    if members > _MEMBERS_MAX:
        raise Unreadable(f"it has more than {_MEMBERS_MAX} parts")


def _ended(whole: bool) -> None:
    if not whole:
        raise Unreadable("it ends too early")
