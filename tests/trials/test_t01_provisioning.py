"""T1, for devices: kill -9 while devices trade their codes. A code is used and its device enrolled, or neither; what was
answered counts after the restart.
"""

from __future__ import annotations

import os
import random
import threading
import time
from pathlib import Path

import httpx2

from tests.cast import Site, island

SEED = int(os.environ.get("SEED", "5"))
KILLS = 5
CODES = 300


def trade(site: Site, codes: list[tuple[str, str]], got: dict[str, str]) -> None:
    """Trade codes until the process is gone; what was answered stands in `got`: name → token."""
    with site.client() as client:
        for name, code in codes:
            try:
                answer = client.post("/v1/provision", json={"code": code, "name": name})
            except httpx2.TransportError:
                return
            assert answer.status_code == 201, answer.text
            got[name] = answer.json()["token"]


def test_a_code_is_used_or_not_and_never_half(tmp_path: Path) -> None:
    chance = random.Random(SEED)
    print(f"SEED={SEED}")
    answered: dict[str, str] = {}
    open_codes: dict[str, tuple[str, str]] = {}  # id of the code → name, code
    for run in range(KILLS + 1):
        with island(tmp_path / "alder") as site:
            check(site, answered, open_codes)
            if run == KILLS:
                break
            for number in range(CODES // KILLS):
                made = site.call("POST", "/api/v1/activation-codes", {})
                open_codes[made["made"]["id"]] = (f"drone-{run}-{number}", made["code"])
            got: dict[str, str] = {}
            mine = list(open_codes.values())
            workers = [threading.Thread(target=trade, args=(site, mine[place::4], got)) for place in range(4)]
            for worker in workers:
                worker.start()
            time.sleep(chance.uniform(0.01, 0.35))  # the moment of the cut is what is tried
            site.kill()
            for worker in workers:
                worker.join()
            answered |= got
    assert answered


def check(site: Site, answered: dict[str, str], open_codes: dict[str, tuple[str, str]]) -> None:
    devices = {one["name"]: one for one in site.call("GET", "/api/v1/devices?limit=500")["devices"]}
    nodes = {one["name"]: one["id"] for one in site.nodes()}
    good = {one["id"] for one in site.call("GET", "/api/v1/activation-codes")["codes"]}
    assert set(answered) <= set(devices) <= set(nodes)
    for code, (name, _) in tuple(open_codes.items()):
        assert (code in good) != (name in devices), f"{name}: half"
        if name in devices:
            assert devices[name]["node_id"] == nodes[name]
            assert len(devices[name]["credentials"]) == 1
            del open_codes[code]
    with site.client() as client:
        for name, token in answered.items():
            bearer = {"authorization": f"Bearer {token}"}
            assert client.post("/v1/ingest", json={"ok": 1}, headers=bearer).status_code == 200, name
