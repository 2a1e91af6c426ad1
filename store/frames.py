"""Frames: consecutive raw records as JSON Lines under zstd. The one form of raw telemetry, wherever it stands.

A line is `{"id":…,"at":…,"source":"…","raw":"…"}`: `at` in Unix ns at receipt, `raw` the message as text, or, where it
is no UTF-8, `raw_b64` in base 64; `marks` when there is something to know about it. Frames one after the other are
again a zstd file, so a segment is readable with `zstdcat FILE | jq`.
"""

from __future__ import annotations

import mmap
import re
import zlib
from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
from backports import zstd

from fleet import limits
from store.faults import Fault, StoreFault


class Offer(NamedTuple):
    """A raw record before it has an id: when it came (Unix ns), from which source, its bytes, and marks."""

    at_ns: int
    source: str
    raw: bytes
    marks: tuple[str, ...] = ()


class Record(msgspec.Struct, frozen=True, omit_defaults=True):
    id: int
    at: int
    source: str
    raw: str | None = None
    raw_b64: bytes | None = None
    marks: tuple[str, ...] = ()

    @property
    def content(self) -> bytes:
        """The message as received."""
        return self.raw.encode() if self.raw is not None else self.raw_b64 or b""

    @property
    def parts(self) -> tuple[int, int, str, bytes, tuple[str, ...]]:
        """Id, when (Unix ns), source, message and marks."""
        return self.id, self.at, self.source, self.content, self.marks


class Frame(NamedTuple):
    """One row of a partition. `sources` are the CRC-32s of the source keys within, sorted, 4 bytes each."""

    first_id: int
    last_id: int
    records: int
    from_ns: int
    to_ns: int
    sources: bytes
    data: bytes


_LIVE: dict[int, int] = {zstd.CompressionParameter.compression_level: 1, zstd.CompressionParameter.checksum_flag: 1}
_PIECE_BYTES = 256 * 1024
_SEALED: dict[int, int] = {zstd.CompressionParameter.compression_level: 7, zstd.CompressionParameter.checksum_flag: 1}
_FIRST_ID = re.compile(rb'\{"id":(\d{1,19}),')
_HEAD_BYTES = 64
_encode_lines = msgspec.json.Encoder().encode_lines
_encode = msgspec.json.Encoder().encode
_decode_lines = msgspec.json.Decoder(Record).decode_lines


def source_code(source: str) -> int:
    return zlib.crc32(source.encode())


def records_of(first_id: int, offers: Iterable[Offer]) -> list[Record]:
    records = []
    for number, (at_ns, source, raw, marks) in enumerate(offers, first_id):
        try:
            records.append(Record(number, at_ns, source, raw.decode(), None, marks))
        except UnicodeDecodeError:
            records.append(Record(number, at_ns, source, None, raw, marks))
    return records


def encode(records: Sequence[Record], *, sealed: bool = False) -> Frame:
    """`records` must not be empty; their ids ascend."""
    return describe(records, zstd.compress(_encode_lines(records), options=_SEALED if sealed else _LIVE))


def describe(records: Sequence[Record], data: bytes) -> Frame:
    """The frame whose bytes are `data` and whose content is `records`."""
    times = [record.at for record in records]
    codes = array("I", sorted({source_code(source) for source in {record.source for record in records}}))
    return Frame(records[0].id, records[-1].id, len(records), min(times), max(times), codes.tobytes(), data)


def chunks(records: Iterable[Record], records_max: int = limits.segment_frame_records_max) -> Iterator[list[Record]]:
    """Records in lists that fit a frame: at most `records_max`, and about `limits.frame_bytes_max` of content."""
    held: list[Record] = []
    size = 0
    for record in records:
        held.append(record)
        size += len(record.raw if record.raw is not None else record.raw_b64 or b"")
        if len(held) >= records_max or size >= limits.frame_bytes_max:
            yield held
            held, size = [], 0
    if held:
        yield held


def decode(data: bytes, sources: frozenset[str] | None = None) -> list[Record]:
    """The records of one frame, or those of some sources only. StoreFault (damaged) when its checksum or its content
    does not hold."""
    try:
        pieces = _inflate(data, limits.frame_inflated_bytes_max if sources is None else _PIECE_BYTES)
        if sources is None:
            return _decode_lines(b"".join(pieces))
        needles = [b',"source":' + _encode(source) + b"," for source in sources]
        return _decode_lines(b"".join(_lines_of(*lines, needles) for lines in _whole_lines(pieces)))
    except (zstd.ZstdError, msgspec.MsgspecError, EOFError) as error:
        raise StoreFault(Fault.DAMAGED, "telemetry", f"a frame cannot be read: {error}") from error


def _inflate(data: bytes, piece_bytes: int) -> Iterator[bytes]:
    inflater = zstd.ZstdDecompressor()
    size = 0
    while not inflater.eof:
        piece = inflater.decompress(b"" if size else data, max_length=piece_bytes)
        size += len(piece)
        cut = not piece and not inflater.eof  # and so without its checksum
        if cut or size > limits.frame_inflated_bytes_max:
            raise EOFError("it ends too early or is too large")
        yield piece


def _whole_lines(pieces: Iterable[bytes]) -> Iterator[tuple[bytes, int, int]]:
    """Text, and from where to where it is whole lines. A search looks at a frame in pieces that the processor's cache
    holds: touching new memory for the whole of it takes three times as long as inflating it."""
    rest = b""
    for piece in pieces:
        start, end = piece.find(b"\n") + 1, piece.rfind(b"\n") + 1
        if end:
            yield rest + piece[:start], 0, len(rest) + start
            yield piece, start, end
        rest = piece[end:] if end else rest + piece
    yield rest, 0, len(rest)


def _lines_of(text: bytes, first: int, last: int, needles: Sequence[bytes]) -> bytes:
    """The lines with one of `needles`, the names of sources. Looking for bytes is thirty times faster than reading every
    line, and a message cannot pretend: within a string a quotation mark stands escaped."""
    found: list[tuple[int, bytes]] = []
    for needle in needles:
        at = text.find(needle, first, last)
        while at >= 0:
            start, end = text.rfind(b"\n", first, at) + 1 or first, text.find(b"\n", at, last) + 1 or last
            found.append((start, text[start:end]))
            at = text.find(needle, end, last)
    return b"".join(line for _, line in sorted(found))


def split(path: Path) -> Iterator[bytes]:
    """The frames of a segment's file, one by one. OSError, or ValueError when it is none."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        offset = 0
        while offset < len(content):
            with memoryview(content) as whole, whole[offset:] as rest:
                try:
                    data = bytes(rest[: zstd.get_frame_size(rest)])
                except zstd.ZstdError as error:
                    raise ValueError(str(error)) from error
            yield data
            offset += len(data)


def first_id(data: bytes) -> int:
    """The id that a frame begins with, without reading the whole of it. ValueError when it holds no records."""
    try:
        match = _FIRST_ID.match(zstd.ZstdDecompressor().decompress(data, max_length=_HEAD_BYTES))
    except zstd.ZstdError as error:
        raise ValueError(str(error)) from error
    if match is None:
        raise ValueError("a frame does not begin with a record")
    return int(match[1])


def holds(sources: bytes, codes: frozenset[int]) -> bool:
    """Whether a frame may hold records of one of these sources (never a false no)."""
    return not codes.isdisjoint(array("I", sources))
