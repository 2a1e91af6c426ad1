"""T1, MQTT: the process is killed at any instant while devices publish at QoS 1 and 2; everything that had its PUBACK, or its
PUBREC, is there once, byte for byte."""

from __future__ import annotations

import os
import random
from pathlib import Path

import auditor
import cast
import pytest
from auditor import JournalWatch, Ledger
from producers import Field, Mqtt, pause, rest, working

KILLS = 12
IN_LOAD_S = 0.8
SEED = int(os.environ.get("SEED", "20261129"))

pytestmark = [pytest.mark.trial, pytest.mark.timeout(600)]


def test_killed_while_devices_publish_it_holds_everything_that_was_acknowledged(tmp_path: Path) -> None:
    rng = random.Random(SEED)
    data, field, ledger, watch = tmp_path / "alder", Field(), Ledger(), JournalWatch()
    devices = [Mqtt(field, ledger, f"mqtt-{number}", str(SEED)) for number in range(4)]
    with working(field, *devices):
        for kill in range(KILLS):
            with cast.island(data) as site:
                field.site = site
                before = len(ledger.acknowledged)
                cast.eventually(lambda before=before: len(ledger.acknowledged) > before)  # type: ignore[misc]
                span = pause(rng, IN_LOAD_S)
                site.kill()
                field.site = None
            problems = auditor.examined(ledger, data, watch)
            assert not problems, f"seed {SEED}, kill {kill} after {span:.4f} s: {problems}"
        with cast.island(data) as site:
            field.site = site
            before = len(ledger.acknowledged)
            cast.eventually(lambda: len(ledger.acknowledged) > before)
            rest(field, *devices)
            assert site.stop() == 0
    found = auditor.on_disk(data)
    assert not auditor.records(ledger, found), f"seed {SEED}"
    assert not found.gaps, f"seed {SEED}: {found.gaps}"
    print(
        f"T1 MQTT seed {SEED}: {KILLS} kills, {len(ledger.sent)} sent, {len(ledger.acknowledged)} acknowledged,"
        f" {len(found.records)} stored"
    )
