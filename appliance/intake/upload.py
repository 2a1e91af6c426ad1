"""What does an upload need next, and may this chunk come in? The decider of chunked uploads: no I/O, no clock.

Rules of the file
  1  A device announces a whole: its size, its SHA-256 and the numbers of its records in a stream of the device's own.
     The same announcement always means the same upload.
  2  Chunks stand on a grid of `chunk_bytes`; windows are runs of chunks, numbered from 1. The site asks for the first
     window that has holes; only that window, and those before it, may come.
  3  A chunk counts when it is durable. One that counts already is fine again; one with a wrong hash is refused alone.
  4  An upload ends DONE, or GONE; the steps are `TABLE`. What is whole waits for the device to finish it: until then
     nothing of it is stored as records, so a device that goes elsewhere leaves nothing behind.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Mapping
from enum import StrEnum
from typing import Literal, NamedTuple

import msgspec

from fleet import limits


class State(StrEnum):
    OPEN = "open"  # chunks are missing
    WHOLE = "whole"  # all are durable
    DELIVERING = "delivering"  # its records are being stored
    DONE = "done"
    GONE = "gone"


class Step(StrEnum):
    CHUNK = "a chunk is durable"
    LAST = "the last chunk is durable"
    FINISH = "the device finishes it"
    STORED = "its records are stored"
    EXPIRE = "nothing came for too long"
    DROP = "the device gives it up"
    UNTRUE = "it is not what was announced"


TABLE: Mapping[tuple[State, Step], State] = {
    (State.OPEN, Step.CHUNK): State.OPEN,
    (State.OPEN, Step.LAST): State.WHOLE,
    (State.OPEN, Step.EXPIRE): State.GONE,
    (State.OPEN, Step.DROP): State.GONE,
    (State.WHOLE, Step.FINISH): State.DELIVERING,
    (State.WHOLE, Step.EXPIRE): State.GONE,
    (State.WHOLE, Step.DROP): State.GONE,
    (State.WHOLE, Step.UNTRUE): State.GONE,
    (State.DELIVERING, Step.STORED): State.DONE,
    (State.DELIVERING, Step.UNTRUE): State.GONE,
}


class Announcement(msgspec.Struct, frozen=True, kw_only=True):
    """What a device says of an upload before it sends it; the body of `POST /v1/uploads`."""

    bytes: int
    sha256: str  # of the whole as sent, hexadecimal
    stream: str = ""  # whose numbers the records have; without one, the file is a stream of its own
    first: int = 1  # the number of the first record
    last: int = 0  # of the last; 0: the file says it
    floor: int = 0  # all numbers below it are settled, here or elsewhere, and never come again
    form: Literal["records", "file"] = "records"
    encoding: Literal["identity", "gzip", "zstd"] = "identity"
    name: str = ""
    chunk_bytes: int = 1024 * 1024
    doubt: tuple[str, ...] = ()  # sites that may hold these records too: they took the finish and did not answer
    window_id: int = 0  # of the request on the control line that this answers


class Bad(NamedTuple):
    """Why something does not come in: HTTP status, a sentence, and the word under which it is counted."""

    status: int
    words: str
    reason: str


class Ask(msgspec.Struct, frozen=True):
    """A ChunkRequest: the site asks for `size` bytes from `offset`. Hints: how large chunks are, and which are missing."""

    offset: int
    size: int
    window_id: int
    hints: dict[str, object]


_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_HASH = re.compile(r"[0-9a-f]{64}")
_DECODER = msgspec.json.Decoder(Announcement)
_NUMBER_MAX = 1 << 62
_DOUBTS_MAX = 4
_DIGEST = re.compile(r"sha-256=:([A-Za-z0-9+/]{43}=):")


def announced(raw: bytes) -> Announcement | Bad:
    """An announcement as it came. Never raises."""
    try:
        said = _DECODER.decode(raw)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        return Bad(400, f"this is no announcement: {str(error)[:200]}", "unreadable")
    if not _HASH.fullmatch(said.sha256):
        return Bad(422, "sha256 is the SHA-256 of the whole, 64 hexadecimal digits in lower case", "unreadable")
    if not 0 < said.bytes <= limits.upload_bytes_max:
        return Bad(413, f"an upload has 1 to {limits.upload_bytes_max} bytes; send several", "too large")
    if not limits.upload_chunk_bytes_min <= said.chunk_bytes <= limits.upload_chunk_bytes_max:
        bounds = f"{limits.upload_chunk_bytes_min} to {limits.upload_chunk_bytes_max}"
        return Bad(422, f"chunk_bytes is {bounds}", "unreadable")
    said = msgspec.structs.replace(said, stream=said.stream or said.sha256)
    if not all(_NAME.fullmatch(one) for one in (said.stream, *said.doubt)) or len(said.doubt) > _DOUBTS_MAX:
        return Bad(422, "a stream and a site are named by 1 to 64 letters, digits, dots, dashes or lines", "unreadable")
    if not 0 < said.first < _NUMBER_MAX or not (said.last == 0 or said.first <= said.last < _NUMBER_MAX):
        return Bad(
            422, "first is at least 1, last at least first, or 0 when the file says how many there are", "unreadable"
        )
    if said.last - said.first >= limits.upload_records_max:
        return Bad(413, f"an upload holds at most {limits.upload_records_max} records; send several", "too large")
    if not 0 <= said.floor <= said.first:
        return Bad(422, "floor is the lowest number that may still come, so at most first", "unreadable")
    if said.form == "file" and said.last not in (0, said.first):
        return Bad(422, "a file is one record, with one number", "unreadable")
    if len(said.name) > limits.name_chars_max or not said.name.isprintable():
        return Bad(422, f"a name has at most {limits.name_chars_max} characters, all of them printable", "unreadable")
    return said


def upload_id(device: str, said: Announcement) -> str:
    """The same for the same device, numbers and bytes: so an announcement may be repeated."""
    key = "\n".join((device, said.stream, str(said.first), str(said.last), said.form, said.encoding, said.sha256))
    return hashlib.sha256(key.encode()).hexdigest()[:32]


def digest_of(header: str) -> bytes | None:
    """The SHA-256 in a Content-Digest header (RFC 9530), None when there is none to be read."""
    match = _DIGEST.search(header)
    if match is None:
        return None
    try:
        return base64.b64decode(match[1], validate=True)
    except binascii.Error:
        return None


def number_of(header: str) -> int | None:
    """A whole number from a header."""
    return int(header) if header.isascii() and header.isdigit() and len(header) <= 18 else None


class Upload:
    """One upload. `device` is who it belongs to."""

    def __init__(self, device: str, said: Announcement, at_ns: int) -> None:
        self.device, self.said = device, said
        self.id = upload_id(device, said)
        self.state = State.OPEN
        self.began_ns = self.touched_ns = at_ns
        self.chunks = -(-said.bytes // said.chunk_bytes)
        self.per_window = max(limits.upload_window_bytes_max // said.chunk_bytes, 1)
        self.bytes_durable = 0
        self._durable = bytearray(self.chunks)
        self._first_hole = 0

    # -- chunks -----------------------------------------------------------------------------------------------

    def place(self, offset: int | None, size: int, window_id: int | None) -> int | Bad:
        """Which chunk this is, by its place on the grid; or why it is none that may come now."""
        grid = self.said.chunk_bytes
        if offset is None or offset % grid or offset >= self.said.bytes:
            return Bad(400, f"a chunk begins at a multiple of {grid}, below {self.said.bytes}", "off the grid")
        index = offset // grid
        if size != self.size_of(index):
            return Bad(400, f"the chunk at {offset} has {self.size_of(index)} bytes, not {size}", "off the grid")
        if window_id != index // self.per_window + 1:
            return Bad(400, f"the chunk at {offset} stands in window {index // self.per_window + 1}", "off the grid")
        if index // self.per_window > self._window() and not self.has(index):
            return Bad(409, f"window {self._window() + 1} comes first; what is missing of it stands in ask", "ahead")
        if self.state in (State.DONE, State.GONE):
            return Bad(404, "this upload is over; announce it again", "unknown upload")
        return index

    def size_of(self, index: int) -> int:
        return min(self.said.chunk_bytes, self.said.bytes - index * self.said.chunk_bytes)

    def has(self, index: int) -> bool:
        return bool(self._durable[index])

    def took(self, index: int, at_ns: int) -> None:
        """The chunk is durable."""
        self.touched_ns = at_ns
        if self._durable[index] or self.state is not State.OPEN:
            return
        self._durable[index] = 1
        self.bytes_durable += self.size_of(index)
        hole = self._durable.find(0, self._first_hole)
        self._first_hole = hole if hole >= 0 else self.chunks
        self.step(Step.CHUNK if hole >= 0 else Step.LAST)

    # -- what comes next --------------------------------------------------------------------------------------

    def step(self, step: Step) -> None:
        self.state = TABLE[self.state, step]

    def ask(self, hints: Mapping[str, object] | None = None) -> Ask | None:
        """The window that is wanted now; None when nothing is missing."""
        if self._first_hole >= self.chunks:
            return None
        first = self._window() * self.per_window
        end = min(first + self.per_window, self.chunks)
        grid = self.said.chunk_bytes
        holes = [index * grid for index in range(first, end) if not self._durable[index]]
        size = min(end * grid, self.said.bytes) - first * grid
        said = {"chunk_bytes": grid, "missing": holes, **(hints or {})}
        return Ask(first * grid, size, self._window() + 1, said)

    def acknowledged(self) -> int:
        """Windows that are durable from the first one on."""
        return self._window() if self._first_hole < self.chunks else -(-self.chunks // self.per_window)

    def expires_ns(self) -> int:
        """When it is let go if nothing comes."""
        patience = limits.upload_idle_ns_max if self.bytes_durable else limits.upload_silent_ns_max
        return self.touched_ns + patience

    def _window(self) -> int:
        return self._first_hole // self.per_window
