"""bring_up, in a child of its own for each line of standard input: `PATH STATEMENT`. The child is killed after its
STATEMENT-th statement of SQL, if it comes to that; what became of it is one line of standard output.

Alembic takes half a second to load, so the parent loads it once. LD_PRELOAD may bring faults.c, which ends the child
at a chosen call to the disk.
"""

from __future__ import annotations

import itertools
import os
import signal
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import alembic.command
import sqlmodel  # noqa: F401
from sqlalchemy import event
from sqlalchemy.engine import Engine

import store.tables  # noqa: F401
from store.faults import StoreFault
from store.folder import bring_up

UP, REFUSED = 0, 3


def child(path: Path, statement: int) -> int:
    count = itertools.count(1)

    @event.listens_for(Engine, "after_cursor_execute")
    def executed(*_: Any) -> None:
        if next(count) == statement:
            os.kill(os.getpid(), signal.SIGKILL)

    try:
        bring_up(path)
    except StoreFault as fault:
        print(f"{fault.fault} ({fault.detail})", file=sys.stderr, flush=True)
        return REFUSED
    return UP


if __name__ == "__main__":
    assert alembic.command
    for line in sys.stdin:
        where, number = line.rsplit(maxsplit=1)
        pid = os.fork()
        if pid == 0:
            os._exit(child(Path(where), int(number)))
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)
