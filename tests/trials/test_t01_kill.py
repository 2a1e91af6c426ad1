"""T1: the process may be killed at any instant, under load and while it starts; it goes on by itself and nothing
acknowledged is lost."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import auditor
import cast
import pytest
from auditor import Collector, JournalWatch, Ledger
from producers import Console, Field, Http, Tcp, Udp, pause, rest, steadily, working

RUNS, KILLS = 4, 25
FIRST_STARTS = 8
IN_LOAD_S = 0.8  # a kill falls somewhere in here after the site is up …
IN_START_S = 1.2  # … or, one in four, somewhere in here after the process began
SEED = int(os.environ.get("SEED", "20261121"))

pytestmark = [pytest.mark.trial, pytest.mark.timeout(900)]


def kill_while_it_starts(data: Path, rng: random.Random) -> float:
    command = [sys.executable, str(cast.FRONT), "appliance", "run", "--data", str(data), "--http", "127.0.0.1:0"]
    command += ["--syslog-udp", "127.0.0.1:0", "--syslog-tcp", "127.0.0.1:0", "--mqtt", "127.0.0.1:0"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    span = pause(rng, IN_START_S)
    process.kill()
    assert process.wait(60) in (-9, 0)
    return span


@pytest.mark.parametrize("number", range(RUNS))
def test_killed_at_random_instants_it_loses_nothing_and_serves_again(tmp_path: Path, number: int) -> None:
    seed = SEED + number
    rng = random.Random(seed)
    data, field, ledger, watch, collector = tmp_path / "alder", Field(), Ledger(), JournalWatch(), Collector()
    web, alice = Http(field, ledger, "web", str(seed)), Console(field, ledger, "alice", str(seed))
    tcp, udp = Tcp(field, ledger, "tcp", str(seed)), Udp(field, ledger, "udp", str(seed))
    up_s, kinds, pulling = [0.0], Counter[str](), threading.Lock()

    def pull() -> None:
        site = field.site
        if site is not None:
            with pulling:
                collector.pull(site, pages=1)

    puller = steadily(pull, field.stopping, 0.1)
    with working(field, web, tcp, udp, alice):
        for kill in range(KILLS):
            if kill and rng.random() < 0.25:
                span = kill_while_it_starts(data, rng)
                kinds["starting"] += 1
            else:
                began = time.monotonic()
                with cast.island(data) as site:
                    up_s.append(time.monotonic() - began)
                    field.site = site
                    span = pause(rng, IN_LOAD_S)
                    site.kill()
                    field.site = None
                kinds["serving"] += 1
            problems = auditor.examined(ledger, data, watch)
            assert not problems, f"seed {seed}, kill {kill} after {span:.4f} s: {problems}"
        with cast.island(data) as site:
            field.site = site
            before = len(ledger.acknowledged)
            cast.eventually(lambda: len(ledger.acknowledged) > before)  # it serves, and nobody did anything for it
            rest(field, web, tcp, udp, alice)
            puller.join()
            assert site.call("GET", "/readyz")["ready"]
            nodes = {node["id"]: node["name"] for node in site.nodes()}
            assert not list(alice.problems(nodes, auditor.names_told(auditor.every_event(data)))), f"seed {seed}"
            cast.eventually(lambda: stored(site) == 0)
            collector.pull(site)
            fresh = Collector()
            fresh.pull(site)
            assert site.stop() == 0
    found = auditor.on_disk(data)
    by_api = [(one.id, one.mid) for one in collector.found.records]
    assert not auditor.records(ledger, found), f"seed {seed}"
    assert not auditor.records(ledger, collector.found), f"seed {seed}: a cursor across kills"
    assert not auditor.records(ledger, fresh.found), f"seed {seed}: all pages at the end"
    assert by_api == [(one.id, one.mid) for one in found.records], f"seed {seed}"
    assert not found.gaps, f"seed {seed}: {found.gaps}"
    assert not [*watch.look(data), *auditor.cli_verifies(data)], f"seed {seed}"
    print(
        f"T1 seed {seed}: {KILLS} kills {dict(kinds)}, {len(ledger.sent)} sent, {len(ledger.acknowledged)} acknowledged,"
        f" {len(found.records)} stored, {len(alice.adopted)} adopted, {len(alice.renamed)} renamed,"
        f" up again in {max(up_s):.1f} s at most; posts {dict(web.answers)}, wishes {dict(alice.answers)}"
    )


def stored(site: cast.Site) -> int:
    """Records that still wait at the gate."""
    return int(site.call("GET", "/intake?format=json")["gate_records"])


def test_killed_in_its_very_first_start_it_starts_the_next_time(tmp_path: Path) -> None:
    rng = random.Random(SEED)
    for number in range(FIRST_STARTS):
        data = tmp_path / f"alder-{number}"
        span = kill_while_it_starts(data, rng)
        with cast.island(data) as site:
            assert site.call("GET", "/readyz")["ready"], f"seed {SEED}, start {number}, killed after {span:.4f} s"
            assert site.stop() == 0
        assert not JournalWatch().look(data), f"seed {SEED}, start {number}, killed after {span:.4f} s"
    print(f"T1 seed {SEED}: {FIRST_STARTS} kills in the first start")
