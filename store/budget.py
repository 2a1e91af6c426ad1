"""The one byte budget of a box: what uses it, what must go next, and how long until something must.

Rules of the file
  1  `plan`, `rotates` and `forecast` are pure; the rest measures, or holds the reserve.
  2  The shed order: segments past their retention (where there is a hub, once it has taken them over); then, when the
     budget or the disk is full, segments (those a hub has taken over first; of each sort files of charts first, which
     stand in the series too, then raw ones, oldest first; what those said stays in the series), the oldest files of
     devices, the oldest series, the oldest damaged copies. The log is never let go. What is still open is sealed first,
     and can go then.
  3  A reserve lies on the disk as long as there is room: it is let go when the log cannot be written, and made again
     when twice its size is free. The difference keeps it from coming and going.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

from fleet import limits
from fleet.limits import DAY, SECOND
from store.faults import Fault, StoreFault, fault_of
from store.folder import Folder
from store.telemetry import Segment

_MIB = 1024 * 1024
_PARTITION_BYTES_MIN = _MIB  # a smaller one is not worth a segment of its own
_START_BYTES_MIN = _MIB  # with less, site.db may not even open
_ROOM_PARTS = 8  # an open partition takes at most this part of the room for raw records
_RESERVE_PARTS = 8  # the reserve takes at most this part of the disk
_STEP_NS_MAX = DAY  # between two segments; a longer one may be a clock that was set
_FORECAST_NS_MIN = 60 * SECOND


class DataClass(StrEnum):
    LOG = "log"
    RAW_OPEN = "raw, open"
    RAW = "raw"
    FILES = "files"
    SERIES = "series"
    DAMAGED = "damaged"
    RESERVE = "reserve"


class Usage(NamedTuple):
    """Bytes on the disk, by class; `partition` is the largest partition, `disk_free` what others may still write."""

    log: int = 0
    raw_open: int = 0
    raw: int = 0
    files: int = 0
    series: int = 0
    damaged: int = 0
    reserve: int = 0
    partition: int = 0
    disk_free: int = 0

    @property
    def used(self) -> int:
        return self.log + self.raw_open + self.raw + self.files + self.series + self.damaged + self.reserve

    def of(self, data_class: DataClass) -> int:
        return int(getattr(self, data_class.name.lower()))


class Bounds(NamedTuple):
    budget_bytes: int
    reserve_bytes: int
    retention_ns: int


class Copy(NamedTuple):
    """A file in `damaged/`, or one of a device in `files/`."""

    name: str
    bytes_stored: int
    kept_ns: int


class Shed(NamedTuple):
    """One thing to let go. Series are asked for by the bytes that must go; which windows these are, the store says."""

    data_class: DataClass
    reason: str
    bytes_freed: int
    segment: Segment | None = None
    copy: Copy | None = None


class Forecast(NamedTuple):
    growth_bytes_per_day: float | None  # None: too early to say
    full_in_s: float | None  # at that growth, until something is let go; None: never, or too early to say


PAST_RETENTION = "older than the retention"
OVER_BUDGET = "the byte budget is full"
DISK_FULL = "the disk is nearly full"


# -- deciding -----------------------------------------------------------------------------------------------------


def plan(
    usage: Usage,
    bounds: Bounds,
    now_ns: int,
    segments: Sequence[Segment],
    copies: Sequence[Copy] = (),
    *,
    clock_trusted: bool = True,
    series_left: bool = True,
    has_hub: bool = False,
    files: Sequence[Copy] = (),
) -> list[Shed]:
    """What must go now, in order. `segments`, `copies` and `files` (of devices) oldest first. Where there is a hub,
    retention alone takes only what is in its custody. `clock_trusted`: something disciplines the clock
    (`_expired` says what that means). An empty series.db has a size too, so the caller says whether there is anything
    in it."""
    sorts = [[one for one in segments if one.is_series is sort] for sort in (False, True)]
    aged = [one for sort in sorts for one in _expired(sort, now_ns, bounds.retention_ns, clock_trusted)]
    expired = [segment for segment in aged if segment.in_custody or not has_hub]
    sheds = [Shed(DataClass.RAW, PAST_RETENTION, segment.bytes_stored, segment) for segment in expired]
    over, short = usage.used - bounds.budget_bytes, _free_wanted(usage, bounds) - usage.disk_free
    need = max(over, short) - sum(shed.bytes_freed for shed in sheds)
    reason = OVER_BUDGET if over >= short else DISK_FULL
    for shed in _in_order(usage.series * series_left, reason, sorted(set(segments) - set(expired)), files, copies):
        if need <= 0:
            break
        if shed.data_class is not DataClass.RAW and need <= usage.raw_open:
            break  # what is still open goes before what is left
        if shed.data_class is DataClass.SERIES:
            shed = shed._replace(bytes_freed=min(shed.bytes_freed, need))
        sheds.append(shed)
        need -= shed.bytes_freed
    return sheds


def _expired(segments: Sequence[Segment], now_ns: int, retention_ns: int, clock_trusted: bool) -> Iterator[Segment]:
    """The segments past their retention, oldest first. Where either clock may have been wrong, the one of now or the
    one that stamped the records, as much must also have been recorded since: a jump to 2038 ages nothing by itself."""
    since_ns, following = [0] * len(segments), None
    for index in reversed(range(len(segments))):
        if following is not None:
            step_ns = following.to_ns - segments[index].to_ns
            since_ns[index] = since_ns[index + 1] + min(max(step_ns, 0), _STEP_NS_MAX)
        following = segments[index]
    for segment, recorded_ns in zip(segments, since_ns, strict=True):
        sure = clock_trusted and segment.to_ns >= limits.claimed_ns_min
        if segment.to_ns < now_ns - retention_ns and (sure or recorded_ns >= retention_ns):
            yield segment


def _in_order(
    series: int, reason: str, segments: Iterable[Segment], files: Iterable[Copy], copies: Iterable[Copy]
) -> Iterator[Shed]:
    for segment in sorted(segments, key=lambda one: (not one.in_custody, one.first_id)):
        yield Shed(DataClass.RAW, reason, segment.bytes_stored, segment)
    for file in files:
        yield Shed(DataClass.FILES, reason, file.bytes_stored, copy=file)
    if series:
        yield Shed(DataClass.SERIES, reason, series)
    for copy in copies:
        yield Shed(DataClass.DAMAGED, reason, copy.bytes_stored, copy=copy)


def _free_wanted(usage: Usage, bounds: Bounds) -> int:
    """Free bytes below which something must go: another reserve (two, to make a lost one again) and room to seal."""
    held = usage.reserve >= bounds.reserve_bytes
    return bounds.reserve_bytes * (1 if held else 2) + usage.partition


def rotates(usage: Usage, bounds: Bounds) -> bool:
    """Whether the open partition takes more than its part, so that it must be closed to become sheddable."""
    room = bounds.budget_bytes - usage.log - usage.reserve
    crowded = usage.raw_open > room // _ROOM_PARTS or _free_wanted(usage, bounds) > usage.disk_free
    return crowded and usage.raw_open >= _PARTITION_BYTES_MIN


def forecast(history: Sequence[tuple[int, int]], room_bytes: int) -> Forecast:
    """From (Unix ns, bytes ever written) oldest first, by least squares: sealing makes the raw numbers a saw."""
    if len(history) < 3 or history[-1][0] - history[0][0] < _FORECAST_NS_MIN:
        return Forecast(None, None)
    times = [(at_ns - history[0][0]) / SECOND for at_ns, _ in history]
    sizes = [size - history[0][1] for _, size in history]
    mean_t, mean_b = sum(times) / len(times), sum(sizes) / len(sizes)
    spread = sum((at - mean_t) ** 2 for at in times)
    slope = sum((at - mean_t) * (size - mean_b) for at, size in zip(times, sizes, strict=True)) / spread
    return Forecast(slope * DAY / SECOND, max(room_bytes, 0) / slope if slope > 0 else None)


# -- measuring ----------------------------------------------------------------------------------------------------


def usage(folder: Folder) -> Usage:
    """What the data folder takes on the disk now. OSError when it cannot be looked at."""
    partitions = [_size(path) for path in _files(folder.telemetry)]
    return Usage(
        log=_database(folder.site_db),
        raw_open=sum(partitions),
        raw=sum(map(_size, _files(folder.segments))),
        files=sum(map(_size, (*_files(folder.uploads), *_files(folder.files)))),
        series=_database(folder.series_db),
        damaged=sum(map(_size, _files(folder.damaged))),
        reserve=_size(folder.reserve),
        partition=max(partitions, default=0),
        disk_free=disk_free(folder),
    )


def copies(folder: Folder) -> list[Copy]:
    """What lies in `damaged/`, oldest first."""
    return _copies(folder.damaged)


def files(folder: Folder) -> list[Copy]:
    """The files of devices, oldest first."""
    return _copies(folder.files)


def _copies(folder: Path) -> list[Copy]:
    found = []
    for path in _files(folder):
        try:
            found.append(Copy(path.name, _size(path), path.stat().st_mtime_ns))
        except FileNotFoundError:  # somebody took it away to look at it
            continue
    return sorted(found, key=lambda copy: (copy.kept_ns, copy.name))


def first_budget(folder: Folder) -> int:
    """The budget of a box that was given none: three quarters of what its disk has free."""
    return disk_free(folder) * 3 // 4


def disk_free(folder: Folder) -> int:
    disk = os.statvfs(folder.root)
    return disk.f_bavail * disk.f_frsize


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if not path.is_dir()]


def _database(path: Path) -> int:
    return sum(_size(path.with_name(path.name + suffix)) for suffix in ("", "-wal", "-shm"))


def _size(path: Path) -> int:
    try:
        return path.stat().st_blocks * 512
    except FileNotFoundError:  # gone while we looked
        return 0


# -- the reserve --------------------------------------------------------------------------------------------------


def reserve_size(folder: Folder, wanted_bytes: int) -> int:
    """As wanted, but no more than an eighth of the disk: a small one must keep room for what the reserve is for."""
    disk = os.statvfs(folder.root)
    return min(wanted_bytes, disk.f_blocks * disk.f_frsize // _RESERVE_PARTS)


def hold_reserve(folder: Folder, size: int) -> bool:
    """Have `size` bytes set aside; whether they are. They are made only while twice as much is free. StoreFault when
    the disk refuses for another reason than space."""
    path = folder.reserve
    try:
        if path.exists():
            held = path.stat()
            if held.st_size == size and held.st_blocks * 512 >= size:
                return True
        path.unlink(missing_ok=True)
        if disk_free(folder) < 2 * size:
            return False
        with path.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, size)
    except OSError as error:
        path.unlink(missing_ok=True)
        if fault_of(error) is Fault.FULL:
            return False
        raise StoreFault(fault_of(error) or Fault.IO, path.name, str(error)) from error
    return True


def make_room_to_start(folder: Folder) -> None:
    """A box that starts on a full disk lives on its reserve. OSError when the disk cannot be looked at."""
    if disk_free(folder) < _START_BYTES_MIN:
        release_reserve(folder)


def release_reserve(folder: Folder) -> None:
    """Give the reserve to whoever writes next."""
    folder.reserve.unlink(missing_ok=True)
