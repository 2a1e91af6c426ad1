"""Where is a partition sealed, and the charts beside it? In a process of its own: reading back and compressing an hour of
records takes minutes of work, and in this process every page would wait for its turn beside it.

    answer, on its standard output = MessagePack [sealing or nil, charts or nil, fault or nil, store, detail]

Rules of the file
  1  The process takes names of files and answers with what `telemetry.seal` or `series_file.write` found. It knows no key
     and no journal, and removes nothing.
  2  What it writes counts when its answer came whole. One that ended without is a StoreFault, and what it left behind
     is done again (rule 4 of store/telemetry.py).
  3  It ends when its parent does, stands back behind everything else, and its memory goes with it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from store import series_file, telemetry
from store.faults import Fault, StoreFault, fault_of
from store.telemetry import Closed, Sealing

_LOOK_S = 0.1
_NICE = 10
_PR_SET_PDEATHSIG = 1  # prctl(2)
_ROOT = Path(__file__).resolve().parent.parent


class _Answer(msgspec.Struct, array_like=True):
    sealing: Sealing | None = None
    charts: series_file.Sealed | None = None
    fault: Fault | None = None
    store: str = ""
    detail: str = ""


def seal(partition: Closed, segments: Path, after: int, cut_off: Callable[[], bool] = lambda: False) -> Sealing | None:
    """As `telemetry.seal`; None when `cut_off` said so, which is asked ten times a second. StoreFault as there, and
    when the process came to an end of its own; OSError when there is none to be had."""
    asked = ("records", partition.path.absolute(), *partition[1:], segments.absolute(), after)
    answer = _ask(asked, cut_off)
    return answer.sealing if answer else None


def seal_series(
    series_db: Path, starts: Sequence[int], segments: Path, cut_off: Callable[[], bool] = lambda: False
) -> series_file.Sealed | None:
    """As `series_file.write`; None and faults as with `seal`."""
    answer = _ask(("charts", series_db.absolute(), segments.absolute(), *starts), cut_off)
    return answer.charts if answer else None


def _ask(asked: Sequence[object], cut_off: Callable[[], bool]) -> _Answer | None:
    with subprocess.Popen(
        [sys.executable, "-m", "store.sealer", str(os.getpid()), *map(str, asked)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        cwd=_ROOT,
        close_fds=False,  # none of ours is inheritable
    ) as child:
        while True:
            try:
                said, _ = child.communicate(timeout=_LOOK_S)
                break
            except subprocess.TimeoutExpired:
                if cut_off():
                    child.kill()
                    return None
    return _understood(said, child.returncode)


def _understood(said: bytes, status: int) -> _Answer:
    try:
        answer = msgspec.msgpack.decode(said, type=_Answer)
    except msgspec.MsgspecError as error:
        raise StoreFault(Fault.IO, "segments", f"the process that seals ended with {status}: {error}") from error
    if answer.fault is not None:
        raise StoreFault(answer.fault, answer.store, answer.detail)
    if answer.sealing is None and answer.charts is None:
        raise StoreFault(Fault.IO, "segments", f"the process that seals ended with {status} and says nothing")
    return answer


# -- in the process ---------------------------------------------------------------------------------------------


def _main(arguments: Sequence[str]) -> None:
    parent, what, *rest = arguments
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(parent):  # it was gone before
        return
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends in order
    with contextlib.suppress(OSError):  # a confined service may not; then it is only less polite
        os.nice(_NICE)
    sys.stdout.buffer.write(msgspec.msgpack.encode(_answer(_WORK[what], rest)))
    sys.stdout.buffer.flush()


def _answer(work: Callable[..., _Answer], arguments: Sequence[str]) -> _Answer:
    try:
        return work(*arguments)
    except StoreFault as fault:
        return _Answer(None, None, fault.fault, fault.store, fault.detail)
    except OSError as error:
        return _Answer(None, None, fault_of(error), "segments", str(error))


def _records(path: str, first_id: str, last_id: str, segments: str, after: str) -> _Answer:
    return _Answer(telemetry.seal(Closed(Path(path), int(first_id), int(last_id)), Path(segments), int(after)))


def _charts(series_db: str, segments: str, *starts: str) -> _Answer:
    return _Answer(None, series_file.write(Path(series_db), [int(start) for start in starts], Path(segments)))


_WORK: dict[str, Callable[..., _Answer]] = {"records": _records, "charts": _charts}


if __name__ == "__main__":
    _main(sys.argv[1:])
