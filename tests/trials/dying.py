"""skerry, which the power leaves at a chosen step: `DIE_AT=before|after:module:Class.method`, at its first call."""

from __future__ import annotations

import functools
import importlib
import inspect
import os
import signal
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def arm(where: str) -> None:
    when, module, dotted = where.split(":")
    owner = importlib.import_module(module)
    *path, name = dotted.split(".")
    for part in path:
        owner = getattr(owner, part)
    made: Any = getattr(owner, name)

    @functools.wraps(made)
    def sooner(*args: Any, **more: Any) -> Any:
        if when == "before":
            die()
        result = made(*args, **more)
        if when == "after" and not inspect.isawaitable(result):
            die()
        return _later(result) if inspect.isawaitable(result) else result

    setattr(owner, name, sooner)


async def _later(result: Any) -> Any:
    await result
    die()


if __name__ == "__main__":
    if where := os.environ.get("DIE_AT"):
        arm(where)
    from skerry import main

    sys.exit(main())
