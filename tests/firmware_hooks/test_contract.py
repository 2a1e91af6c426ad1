"""Whether the page says what is so: its examples are read as they claim, its table is the table of the metrics."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path

import pytest

from appliance.intake import control, http, lines, syslog, upload
from appliance.intake.device import Device
from fleet import limits
from fleet.metrics import KNOWN
from tests.appliance.lines import KESTREL, MAST, Site, Wire

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


def test_the_lines_of_the_example_are_three_points_of_gull() -> None:
    body = "\n".join(examples("lines")).encode()
    found = lines.Splitter().split(body)
    assert found == ([("gull", body)], 3, [])
    reading = lines.parse(body, RECEIVED_NS)
    assert {"cpu_pct": 2.5, "battery_pct": 71.0, "weather.temp{at=mast}": 3.5}.items() <= reading.metrics.items()
    assert f"{limits.lines_body_lines_max:,} lines in a body" in PAGE


def test_the_counted_example_holds_two_messages() -> None:
    (stream,) = examples("text")
    raws = [frame.raw for frame in syslog.Framer().feed(stream.encode())]
    assert [syslog.sender(raw) for raw in raws] == ["drone-03", "drone-03"]


@pytest.mark.parametrize(("device", "kind"), [(KESTREL, "topics"), (MAST, "gateway")])
async def test_every_topic_is_taken_as_the_page_has_it(device: Device, kind: str) -> None:
    site = Site()
    for line in examples(kind):
        topic, _, body = line.partition(" ")
        taken = site.api.published(Wire(device, "#"), topic, body.encode())
        assert not taken.refused, line
        data = topic.endswith(("telemetry", "attributes", "v2/t", "v2/a", "kitchen"))
        assert bool(taken.records) == data, line
        assert all(raw.decode() in body for _, raw in taken.records)


async def test_what_a_device_hears_is_what_the_page_shows() -> None:
    site, heard = Site(), set[tuple[str, str]]()
    site.said["01BUOY"] = {"depth": "12"}
    site.wanted = {"01KESTREL": {}, "01BUOY": {"name": b'"buoy"'}}
    site.api.attributes.say("@01KESTREL/", {"model": b'"K-2"'})
    kestrel, mast = Wire(KESTREL, "#"), Wire(MAST, "#")
    for wire in (kestrel, mast):
        site.api.opened(wire)
    site.api.published(mast, "v1/gateway/connect", b'{"device":"buoy"}')
    await site.settle()

    async def wants(node_id: str, **values: bytes) -> None:
        site.wanted[node_id] = {**site.wanted[node_id], **values}
        site.api.attributes.changed([node_id])
        await site.settle()

    await wants("01KESTREL", target_version=b'"2.5"')
    site.wanted["01KESTREL"].clear()
    await wants("01KESTREL")
    await wants("01BUOY", tags=b'["sea"]')
    site.wanted["01KESTREL"] = {"target_version": b'"2.5"', "tags": b'["scout"]'}
    for wire, kind in ((kestrel, "topics"), (mast, "gateway")):
        for line in examples(kind):
            topic, _, body = line.partition(" ")
            if "request" in topic:
                site.api.published(wire, topic, body.encode())
    await site.settle()
    for wire in (kestrel, mast):
        heard |= {(topic, json.dumps(body, separators=(",", ":"))) for topic, body in wire.heard}
    shown = [tuple(line.split(" ", 1)) for line in examples("heard")]
    calls = [one for one in shown if "setGpio" in one[1] or "blink" in one[1]]
    time_ms = ("v1/devices/me/rpc/response/1", "1795253400123")
    assert time_ms in shown
    assert [one for one in shown if one not in heard and one not in calls and one != time_ms] == []
    for (topic, body), answer in zip(calls, examples("answers"), strict=True):
        await _called(site, kestrel if "devices" in topic else mast, topic, body, answer)


async def _called(site: Site, wire: Wire, topic: str, body: str, answer: str) -> None:
    """As the page shows the call, but for its number; and its answer is taken."""
    wish = json.loads(body)
    plain = wish.get("data", wish)
    node_id = "01BUOY" if "device" in wish else "01KESTREL"
    task = asyncio.create_task(site.api.calls.call(node_id, plain["method"], plain["params"], 20.0, one_way=False))
    await asyncio.sleep(0)
    where, said = wire.heard[-1]
    number = said["data"]["id"] if "device" in wish else where.rpartition("/")[2]
    shown = plain.get("id", topic.rpartition("/")[2])
    assert json.dumps([where, said]) == json.dumps([topic, wish]).replace(str(shown), str(number))
    to, _, told = answer.replace(str(shown), str(number)).partition(" ")
    assert not site.api.published(wire, to, told.encode()).refused
    assert await task == json.loads(told).get("data", json.loads(told))


def test_the_example_of_an_upload_can_be_announced_and_its_digest_read() -> None:
    said_lines = examples("upload")
    said = upload.announced(next(line for line in said_lines if line[:1] == "{").replace("…", "ab" * 32).encode())
    assert isinstance(said, upload.Announcement)
    assert (said.stream, said.first, said.last, said.encoding) == ("q1", 101, 105, "gzip")
    (digest,) = [line.partition(": ")[2] for line in said_lines if line.startswith("Content-Digest")]
    assert upload.digest_of(digest) is not None


def test_the_messages_of_the_control_line_are_all_there() -> None:
    shapes = (control.Hello, control.Backlog, control.CommandResponse, control.Welcome, control.ChunkRequest)
    for shape in (*shapes, control.ChunkAck, control.Pace, control.Problem):
        tag = shape.__struct_config__.tag
        assert re.search(rf"^\| (device|site) \| [^|]*`{tag}`[^|]* \|", PAGE, re.MULTILINE), tag


def test_the_bounds_of_uploads_are_those_in_the_page() -> None:
    assert f"{limits.upload_bytes_max >> 20} MiB, or {limits.upload_records_max:,} records" in PAGE
    assert f"{limits.upload_chunk_bytes_min >> 10} KiB" in PAGE
    assert f"{limits.upload_chunk_bytes_max >> 20} MiB" in PAGE
    assert f"A device may have {limits.uploads_per_device_max} unfinished uploads" in PAGE


def test_the_table_lists_the_metrics_that_the_fleet_knows() -> None:
    for metric in KNOWN:
        aliases = ", ".join(f"`{alias}`" for alias in metric.aliases)
        assert f"| `{metric.name}` | {metric.unit or 'count'} | {aliases} |" in PAGE


def test_the_bounds_are_those_of_the_intake() -> None:
    assert f"{limits.record_bytes_max:,} bytes and {limits.metrics_per_record_max} numbers" in PAGE
    assert f"{limits.http_body_bytes_max >> 20} MiB and {limits.http_records_max:,} messages" in PAGE
    assert f"at most {limits.name_chars_max} characters" in PAGE
    assert f"At most {limits.attributes_per_node_max} names of {limits.name_chars_max} characters" in PAGE
    assert f"{limits.attribute_bytes_max:,} bytes\n  of JSON each" in PAGE
