"""How much may a peer's change cost? As much as another process may take: so it is merged there first.

`Checker` keeps one child, started when it is first needed. A document that takes more than its memory or its time ends
the child, is answered with None, and a new child goes on with the next document.

    ready = length 0      request = length u32 ‖ MessagePack [work …]
    answer, one for each work = length u32 ‖ MessagePack merged

Rules of the file
  1  The child knows nothing: bytes in, bytes out. It has no key, no database and no network of its own.
  2  Time is processor time, so a busy box does not make a change a heavy one.
  3  Answers come one by one and each that came whole stands: what ended the child is the document it was at.
"""

from __future__ import annotations

import resource
import signal
import struct
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import msgspec

from store import document
from store.document import Merged, Work

memory_bytes_max = 256 * 1024 * 1024  # beyond what the child has when it starts
document_seconds_max = 5.0  # a document at its limits takes a fifth of it to be merged from nothing
batch_bytes_max = 8 * 1024 * 1024

_LENGTH = struct.Struct(">I")
_ROOT = Path(__file__).resolve().parent.parent
_encode = msgspec.msgpack.Encoder().encode
_decode_work = msgspec.msgpack.Decoder(tuple[Work, ...]).decode
_decode_merged = msgspec.msgpack.Decoder(Merged | None).decode


class Checker:
    """A `store.document.Check`. Safe to call from any thread; calls wait for each other. OSError when there is no child
    to be had."""

    def __init__(self) -> None:
        self.started = 0
        self._child: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()

    def __call__(self, work: Sequence[Work]) -> list[Merged | None]:
        answers: list[Merged | None] = []
        with self._lock:
            while len(answers) < len(work):
                part = _batch(work[len(answers) :])
                answered = self._ask(part)
                answers += answered
                if len(answered) < len(part):
                    self._end()
                    answers.append(None)
        return answers

    def close(self) -> None:
        with self._lock:
            self._end()

    def _ask(self, work: Sequence[Work]) -> list[Merged | None]:
        child = self._running()
        assert child.stdin is not None
        assert child.stdout is not None
        answers: list[Merged | None] = []
        try:
            child.stdin.write(_framed(_encode(work)))
            child.stdin.flush()
            while len(answers) < len(work) and (raw := _read(child.stdout)) is not None:
                answers.append(_decode_merged(raw))
        except BrokenPipeError:
            pass
        return answers

    def _running(self) -> subprocess.Popen[bytes]:
        if self._child is not None and self._child.poll() is not None:
            self._end()
        if self._child is None:
            self.started += 1
            self._child = subprocess.Popen(
                [sys.executable, "-m", "store.document_check"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                cwd=_ROOT,
                env={},
            )
            assert self._child.stdout is not None
            if _read(self._child.stdout) is None:
                self._end()
                raise OSError("the process that checks documents does not start")
        return self._child

    def _end(self) -> None:
        child, self._child = self._child, None
        if child is None:
            return
        child.kill()
        for pipe in (child.stdin, child.stdout):
            try:
                if pipe is not None:
                    pipe.close()
            except BrokenPipeError:
                pass
        child.wait()


def _batch(work: Sequence[Work]) -> Sequence[Work]:
    """As much from the front as one request may hold, and at least one."""
    size = 0
    for count, one in enumerate(work):
        size += len(one.saved) + sum(2 * len(change.raw) for change in one.changes)
        if count and size > batch_bytes_max:
            return work[:count]
    return work


def _framed(raw: bytes) -> bytes:
    return _LENGTH.pack(len(raw)) + raw


def _read(pipe: IO[bytes]) -> bytes | None:
    """One frame; None when the other end is gone."""
    head = pipe.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        return None
    (length,) = _LENGTH.unpack(head)
    raw = pipe.read(length)
    return raw if len(raw) == length else None


def _serve(requests: IO[bytes], answers: IO[bytes]) -> None:
    answers.write(_framed(b""))
    answers.flush()
    while (raw := _read(requests)) is not None:
        for work in _decode_work(raw):
            signal.setitimer(signal.ITIMER_PROF, document_seconds_max)  # nobody catches SIGPROF: it ends the process
            merged = document.merge(work.saved, work.changes, work.doubles)
            signal.setitimer(signal.ITIMER_PROF, 0)
            answers.write(_framed(_encode(merged)))
            answers.flush()


def _confine() -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + memory_bytes_max
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it ends when its parent does: at the end of its input


if __name__ == "__main__":
    _confine()
    _serve(sys.stdin.buffer, sys.stdout.buffer)
