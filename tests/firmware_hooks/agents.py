"""The agent as a module of the test, and as a process; a line that answers as a site would not."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

from tests.cast import ROOT

PATH = ROOT / "firmware-hooks" / "agent.py"


def _load() -> Any:
    spec = importlib.util.spec_from_file_location("skerry_agent", PATH)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["skerry_agent"] = module
    spec.loader.exec_module(module)
    return module


agent: Any = _load()


def settings(folder: Path, **more: Any) -> Any:
    return agent.Settings(queue=str(folder / "queue.db"), device="kestrel-1", **more)


def record(number: int, **more: Any) -> bytes:
    return json.dumps({"n": number, **more}).encode()
