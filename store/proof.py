"""Is the journal of a running box whole? The check as a stream of steps.

Rules of the file
  1  It reads through connections of its own, on a thread of its own; whoever asked may go away.
  2  The last step holds the verdict, in a sentence.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from store import journal
from store.database import connect_reader
from store.faults import StoreFault

_LOOK_S = 0.2


class Step(NamedTuple):
    checked: int
    total: int
    done: bool = False
    good: bool = False
    words: str = ""


async def steps(site_db: Path, events: int) -> AsyncIterator[Step]:
    """Check every log of the file; `events` is about how many there are."""
    seen = [0]
    verdicts: list[journal.Verdict] = []
    problem: list[str] = []

    def work() -> None:
        try:
            with closing(connect_reader(site_db)) as db:
                verdicts.extend(journal.verify(db, lambda checked: seen.__setitem__(0, checked)))
        except StoreFault as fault:
            problem.append(str(fault))

    thread = threading.Thread(target=work, name="verify", daemon=True)
    thread.start()
    while thread.is_alive():
        yield Step(seen[0], max(events, seen[0]))
        await asyncio.sleep(_LOOK_S)
    bad = next((verdict for verdict in verdicts if verdict.fault), None)
    checked = sum(verdict.events for verdict in verdicts)
    words = problem[0] if problem else _words(bad, verdicts, checked)
    yield Step(checked, checked, done=True, good=not (bad or problem), words=words)


def _words(bad: journal.Verdict | None, verdicts: Sequence[journal.Verdict], checked: int) -> str:
    if bad is not None:
        return f"the log of {bad.log.writer}, epoch {bad.log.epoch}, does not hold at event {bad.seq}: {bad.detail}"
    blocks = sum(verdict.blocks for verdict in verdicts)
    return f"{checked:,} events in {blocks:,} signed blocks hold, without a hole, from the first to the last"
