"""`python -m bench NAME`: one benchmark beside its peer, ending with one JSON line."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

_PARTS = ("influx", "island", "mainland", "publishers")
NAMES = sorted(
    p.stem for p in Path(__file__).parent.glob("*.py") if not p.stem.startswith("_") and p.stem not in _PARTS
)


def main() -> int:
    if len(sys.argv) != 2 or sys.argv[1] not in NAMES:
        print(f"usage: make bench NAME=x   with x one of: {', '.join(NAMES)}", file=sys.stderr)
        return 2
    result = importlib.import_module(f"bench.{sys.argv[1]}").run()
    print(json.dumps(result))
    return 0


sys.exit(main())
