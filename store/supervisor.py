"""Background loops, on the event loop and on threads: each by name, restarted with back-off when it falls, shown when
it does."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable

log = logging.getLogger(__name__)

_CANCEL_S = 2.0
_BACKOFF_S_MAX = 30.0


class Supervisor:
    def __init__(self) -> None:
        self.condition: dict[str, str] = {}
        self.restarts: dict[str, int] = {}
        self._tasks: list[asyncio.Task[None]] = []

    def run(self, name: str, loop: Callable[[], Awaitable[None]]) -> None:
        """Keep `loop` running until `stop`. A loop that returns is over and stays over."""
        self.condition[name] = "running"
        self.restarts[name] = 0
        self._tasks.append(asyncio.create_task(self._watch(name, loop), name=name))

    async def stop(self) -> None:
        going = set(self._tasks)
        while going:  # more than once: a library may swallow a cancellation while it writes
            for task in going:
                task.cancel()
            _, going = await asyncio.wait(going, timeout=_CANCEL_S)

    async def _watch(self, name: str, loop: Callable[[], Awaitable[None]]) -> None:
        backoff_s = 0.5
        while True:
            try:
                await loop()
            except Exception as error:
                self.restarts[name] += 1
                self.condition[name] = f"fell {self.restarts[name]} times, last: {error}"
                log.exception("%s fell; again in %.1f s", name, backoff_s)
                await asyncio.sleep(backoff_s)
                backoff_s = min(backoff_s * 2, _BACKOFF_S_MAX)
                continue
            self.condition[name] = "ended"
            return


class Loop:
    """A thread that calls `turn` until it returns False. A turn that falls is counted, logged and tried again after a
    pause: one bad record, or one bug, must not end the thread that stores or reads what devices say."""

    def __init__(self, name: str, turn: Callable[[], bool]) -> None:
        self.name = name
        self.falls = 0
        self._turn = turn
        self._ending = False
        self._pause = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    @property
    def condition(self) -> str:
        return "running" if self.alive else "stopped"

    def join(self) -> None:
        """Wait for the last turn; one that falls now is not tried again."""
        self._ending = True
        self._pause.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        backoff_s = 0.05
        while True:
            try:
                if not self._turn():
                    return
                backoff_s = 0.05
            except Exception:
                self.falls += 1
                log.exception("%s fell (%d)", self.name, self.falls)
                if self._ending:
                    return
                self._pause.wait(backoff_s)
                backoff_s = min(backoff_s * 2, _BACKOFF_S_MAX)
