"""Charts on their way to a hub: windows of series.db in one immutable file, named by the SHA-256 of its bytes.

    segments/<sha256>.jsonl.zst = zstd frames, one after the other, of JSON Lines, one for a node and ten minutes:

    {"node":"01K…","start":1795219200,"metrics":{"battery_pct":{"at":[0,60],"samples":[6,5],"low":[…],"mean":[…],"high":[…]}}}

Rules of the file
  1  A hub's charts have steps of a minute; so the file has. `at` counts seconds from `start`.
  2  The same windows make the same bytes.
  3  What a file says is checked before it is believed: it was made elsewhere.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
from backports import zstd

from fleet import limits, series
from fleet.ids import is_ulid
from fleet.series import STEP_S, WINDOW_S, Window
from store import frames
from store.faults import Fault, StoreFault, fault_of
from store.keys import sync_folder
from store.series import stored

STEP_OF_HUB_S = 60
_FRAME_BYTES = 4 * 1024 * 1024  # of lines, about
_INFLATED_BYTES_MAX = 16 * 1024 * 1024  # of one frame
_WINDOWS_MAX = 1_000_000  # in one file
_START_S_MAX = 1 << 40
_SAMPLES_MAX = (1 << 32) - 1
_HEAD = b'{"node":'
_SEALED: dict[int, int] = {zstd.CompressionParameter.compression_level: 7, zstd.CompressionParameter.checksum_flag: 1}


class Column(msgspec.Struct, frozen=True):
    at: list[int]
    samples: list[int]
    low: list[float]
    mean: list[float]
    high: list[float]


class Line(msgspec.Struct, frozen=True):
    node: str
    start: int
    metrics: dict[str, Column]


class Sealed(NamedTuple):
    """A file as it lies on the disk; `windows` 0: there was nothing to write, and there is no file."""

    sha256: bytes = b""
    windows: int = 0
    from_ns: int = 0
    to_ns: int = 0
    bytes_stored: int = 0


def write(series_db: Path, starts: Sequence[int], segments: Path) -> Sealed:
    """The windows that begin at these seconds, of all nodes. The file is durable, under its name, when this returns.
    StoreFault when the disk refuses."""
    fresh = segments / "series.new"
    digest, size, count = hashlib.sha256(), 0, 0
    seconds: set[int] = set()
    try:
        with fresh.open("wb") as file:
            for frame in _frames(stored(series_db, starts), seconds):
                count += frame.windows
                size += file.write(frame.data)
                digest.update(frame.data)
            file.flush()
            os.fsync(file.fileno())
        if seconds:
            fresh.rename(segments / f"{digest.hexdigest()}.jsonl.zst")
            sync_folder(segments)
    except OSError as error:
        raise StoreFault(fault_of(error) or Fault.IO, "segments", str(error)) from error
    finally:
        fresh.unlink(missing_ok=True)
    if not seconds:
        return Sealed()
    times = min(seconds) * limits.SECOND, (max(seconds) + STEP_OF_HUB_S) * limits.SECOND
    return Sealed(digest.digest(), count, *times, size)


class _Frame(NamedTuple):
    data: bytes
    windows: int


def _frames(windows: Iterable[tuple[str, Window]], seconds: set[int]) -> Iterator[_Frame]:
    """Adds to `seconds` when the minutes begin that are in them."""
    lines, count = bytearray(), 0
    for node_id, window in windows:
        minutes = series.coarser(window, STEP_OF_HUB_S)
        seconds |= {window.start_s + step * STEP_S for column in minutes.steps.values() for step in column}
        lines += _encode(_line(node_id, minutes)) + b"\n"
        count += 1
        if len(lines) >= _FRAME_BYTES:
            yield _Frame(zstd.compress(bytes(lines), options=_SEALED), count)
            lines, count = bytearray(), 0
    if count:
        yield _Frame(zstd.compress(bytes(lines), options=_SEALED), count)


def _line(node_id: str, window: Window) -> Line:
    metrics: dict[str, Column] = {}
    for metric in sorted(window.steps):
        points = window.points(metric)
        metrics[metric] = Column(
            [point.at_s - window.start_s for point in points],
            [point.samples for point in points],
            [_short(point.low) for point in points],
            [_short(point.mean) for point in points],
            [_short(point.high) for point in points],
        )
    return Line(node_id, window.start_s, metrics)


def _short(value: float) -> float:
    """Seven digits, as many as a stored number has."""
    return float(f"{value:.7g}")


def is_one(path: Path) -> bool:
    """Whether a file begins as one of charts does. OSError when it cannot be read."""
    try:
        return zstd.ZstdDecompressor().decompress(next(frames.split(path)), max_length=len(_HEAD)) == _HEAD
    except (ValueError, StopIteration, zstd.ZstdError):
        return False


def read(path: Path) -> Iterator[tuple[str, Window]]:
    """Node and window, one by one. OSError; ValueError when it is no such file, at the line where it is not."""
    count = 0
    for data in frames.split(path):
        for raw in _inflated(data).splitlines():
            count += 1
            if count > _WINDOWS_MAX:
                raise ValueError(f"{path.name} has more than {_WINDOWS_MAX:,} windows")
            try:
                line = _decode(raw)
            except msgspec.MsgspecError as error:
                raise ValueError(f"{path.name}, line {count}: {error}") from error
            yield line.node, _window(line, f"{path.name}, line {count}")


def _inflated(data: bytes) -> bytes:
    inflater = zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: 24})
    try:
        lines = inflater.decompress(data, max_length=_INFLATED_BYTES_MAX + 1)
    except zstd.ZstdError as error:
        raise ValueError(str(error)) from error
    if len(lines) > _INFLATED_BYTES_MAX or not inflater.eof:
        raise ValueError("a frame is cut off, or larger than it may be")
    return lines


def _window(line: Line, where: str) -> Window:
    if not is_ulid(line.node) or not 0 <= line.start < _START_S_MAX or line.start % WINDOW_S:
        raise ValueError(f"{where}: it names no node, or no ten minutes")
    if len(line.metrics) > series.METRICS_MAX or any(len(name) > limits.name_chars_max for name in line.metrics):
        raise ValueError(f"{where}: more metrics than there may be, or longer names")
    window = Window(line.start)
    for metric, column in line.metrics.items():
        steps = window.steps[metric] = {}
        columns: Sequence[Sequence[float]] = msgspec.structs.astuple(column)
        if len(set(map(len, columns))) != 1:
            raise ValueError(f"{where}: columns that are not equally long")
        for at, samples, low, mean, high in zip(
            column.at, column.samples, column.low, column.mean, column.high, strict=True
        ):
            sound = at % STEP_OF_HUB_S == 0 and 0 <= at < WINDOW_S and 0 < samples <= _SAMPLES_MAX
            if not sound or not all(map(math.isfinite, (low, mean, high))):
                raise ValueError(f"{where}: numbers that no chart has")
            steps[at // STEP_S] = [samples, low, mean * samples, high]
    return window


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Line).decode
