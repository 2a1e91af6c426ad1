"""Whether the page says what is so: its examples are read as they claim, its table is the table of the metrics."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from appliance.intake import http, syslog
from fleet import limits
from fleet.metrics import KNOWN

PAGE = (Path(__file__).parents[2] / "firmware-hooks" / "CONTRACT.md").read_text(encoding="utf-8")
RECEIVED_NS = 1_795_253_405_000_000_000


def examples(kind: str) -> list[str]:
    blocks = re.findall(rf"^```{kind}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.splitlines()]


@pytest.mark.parametrize("line", examples("syslog"))
def test_every_syslog_example_is_a_heartbeat_of_drone_03(line: str) -> None:
    reading = syslog.parse(line.encode(), received_ns=RECEIVED_NS)
    assert (reading.name, reading.heartbeat, reading.version, reading.marks) == ("drone-03", True, "2.4.1", ())


def test_the_http_example_is_one_record_of_drone_03() -> None:
    (body,) = examples("json")
    assert http.split(body.encode(), "application/json") == ([body.encode()], [])
    reading = http.parse(body.encode(), received_ns=RECEIVED_NS)
    assert (reading.name, reading.heartbeat) == ("drone-03", True)
    assert reading.metrics == {"battery_pct": 87.5, "rssi_dbm": -72.8}


def test_the_counted_example_holds_two_messages() -> None:
    (stream,) = examples("text")
    raws = [frame.raw for frame in syslog.Framer().feed(stream.encode())]
    assert [syslog.sender(raw) for raw in raws] == ["drone-03", "drone-03"]


def test_the_table_lists_the_metrics_that_the_fleet_knows() -> None:
    for metric in KNOWN:
        aliases = ", ".join(f"`{alias}`" for alias in metric.aliases)
        assert f"| `{metric.name}` | {metric.unit or 'count'} | {aliases} |" in PAGE


def test_the_bounds_are_those_of_the_intake() -> None:
    assert f"{limits.record_bytes_max:,} bytes and {limits.metrics_per_record_max} numbers" in PAGE
    assert f"{limits.http_body_bytes_max >> 20} MiB and {limits.http_records_max:,} messages" in PAGE
    assert f"at most {limits.name_chars_max} characters" in PAGE
