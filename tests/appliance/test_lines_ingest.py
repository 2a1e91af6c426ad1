"""Line protocol through the real server, by real clients and by bad ones: what is answered with 204 is on the disk."""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import httpx2
import pytest

from appliance.compose import Appliance
from appliance.intake import lines
from appliance.intake.device import Device, Turned
from appliance.intake.lines_listener import Lines
from bench.island import ROOT
from fleet import limits
from tests.cast import Site, eventually, eventually_async, island
from tests.doors import Doors
from web.app import application

NOW = 1_795_253_400
V2 = "/api/v2/write?org=fleet&bucket=site"


@pytest.fixture
async def line(alder: Appliance) -> AsyncIterator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(base_url=f"http://{alder.addresses['http']}", trust_env=False, timeout=30) as client:
        yield client


@pytest.fixture
def doors() -> Doors:
    return Doors(dev=False)


@pytest.fixture
async def guarded(alder: Appliance, doors: Doors) -> AsyncIterator[httpx2.AsyncClient]:
    """The same way in behind a doorkeeper that knows its devices."""
    ways = Lines(alder.gate, alder.quarantine.put, doors)
    app = application(alder.box, alder.accounts, extra_routes=ways.routes(), clock=alder.clock.now_ns)
    transport = httpx2.ASGITransport(app)
    async with httpx2.AsyncClient(transport=transport, base_url="http://alder", timeout=30) as client:
        yield client


def kept(alder: Appliance) -> list[tuple[str, bytes]]:
    return [(record.source, record.content) for record in alder.history.after(0, 100_000).records]


async def quarantined(alder: Appliance) -> list[tuple[str, bytes]]:
    await alder.quarantine.flush()
    return [(item.reason, item.raw) for item in await alder.quarantine.items(0, 100, settled=False)]


# -- what is good -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "precision", "time"),
    [
        (V2, "", NOW * limits.SECOND),
        (V2, "ns", NOW * limits.SECOND),
        (V2, "us", NOW * 1_000_000),
        (V2, "ms", NOW * 1_000),
        (V2, "s", NOW),
        ("/write?db=site", "n", NOW * limits.SECOND),
        ("/write?db=site&rp=autogen", "u", NOW * 1_000_000),
        ("/write?db=site", "m", NOW // 60),
        ("/write?db=site", "h", NOW // 3600),
        ("/api/v3/write_lp?db=site", "auto", NOW * 1_000),
        ("/api/v3/write_lp?db=site", "second", NOW),
    ],
)
async def test_every_generation_and_precision_is_stored_as_it_came(
    alder: Appliance, line: httpx2.AsyncClient, path: str, precision: str, time: int
) -> None:
    body = f"weather,host=birch temp=3.5 {time}"
    answer = await line.post(f"{path}&precision={precision}" if precision else path, content=body)
    assert (answer.status_code, answer.content) == (204, b"")
    assert answer.headers["x-influxdb-version"]
    (record,) = alder.history.after(0, 10).records
    assert (record.source, record.content) == ("lines/127.0.0.1/birch", body.encode())
    shown = {"n": "ns", "u": "us", "second": "s", "": "auto" if "v3" in path else "ns"}.get(precision, precision)
    assert record.marks == (() if shown == "ns" else (f"precision-{shown}",))


async def test_gzip_is_unpacked_and_the_content_type_does_not_matter(
    alder: Appliance, line: httpx2.AsyncClient
) -> None:
    body = "\n".join(f"m,host=birch v={n}i {NOW}" for n in range(5_000)).encode()
    for kind in ("application/octet-stream", "text/plain; charset=utf-8", ""):
        headers = {"content-encoding": "gzip", "content-type": kind}
        answer = await line.post(f"{V2}&precision=s", content=gzip.compress(body), headers=headers)
        assert answer.status_code == 204
    records = kept(alder)
    assert b"\n".join(raw for _, raw in records) == b"\n".join([body] * 3)
    assert {source for source, _ in records} == {"lines/127.0.0.1/birch"}


async def test_what_clients_ask_before_they_write(line: httpx2.AsyncClient) -> None:
    for method in ("GET", "HEAD"):
        ping = await line.request(method, "/ping")
        assert (ping.status_code, ping.headers["x-influxdb-version"][:2]) == (204, "2.")
        assert (await line.request(method, "/health")).status_code == 200
    health = (await line.get("/health")).json()
    assert (health["name"], health["status"]) == ("influxdb", "pass")
    made = await line.post("/query", data={"q": 'CREATE DATABASE "telegraf"'})
    assert made.json() == {"results": [{"statement_id": 0}]}
    assert (await line.post("/query?q=CREATE+DATABASE+x")).status_code == 200
    assert (await line.post("/query", data={"q": "SELECT * FROM m"})).status_code == 400


async def test_an_adopted_sender_is_read_under_its_node(alder: Appliance, line: httpx2.AsyncClient) -> None:
    await line.post(V2, content=f"status,host=birch battery=71 {NOW * limits.SECOND}")
    source = "lines/127.0.0.1/birch"
    await eventually_async(_is_true(lambda: source in alder.world.sources))
    from fleet.node import Kind
    from fleet.people import Identity, Role

    who = Identity(name="alice", role=Role.OPERATOR, via="console", address="console")
    node_id = await alder.box.adopt(who, source, "birch", Kind.EDGE, ())
    body = f'status,host=birch battery=70 {NOW}\nstatus,host=birch battery=69,health="OK" {NOW + 1}'
    await line.post(f"{V2}&precision=s", content=body)
    state = alder.world.nodes[node_id]
    await eventually_async(_is_true(lambda: "battery_pct" in state.snapshot.values))
    await eventually_async(_is_true(lambda: state.snapshot.values["battery_pct"].value == 69))
    assert alder.gate.tally("lines").points == 3
    assert alder.gate.tally("lines").records == 2


def _is_true(look):  # type: ignore[no-untyped-def]
    async def looked() -> bool:
        return bool(look())

    return looked


# -- what is bad ------------------------------------------------------------------------------------------------------


async def test_a_bad_time_among_five_thousand_lines(alder: Appliance, line: httpx2.AsyncClient) -> None:
    sent = [f"m,host=birch v={n} {NOW}" for n in range(5_000)]
    sent[3_216] = "m,host=birch v=1 tomorrow"
    answer = await line.post(f"{V2}&precision=s", content="\n".join(sent))
    said = answer.json()
    assert (answer.status_code, said["code"], said["line"]) == (400, "invalid", 3_217)
    assert said["message"] == (
        "partial write: unable to parse 'm,host=birch v=1 tomorrow': bad timestamp (line 3217); "
        "dropped=1, the other 4999 are stored"
    )
    stored = b"\n".join(raw for _, raw in kept(alder)).decode().split("\n")
    assert stored == sent[:3_216] + sent[3_217:]
    assert await quarantined(alder) == [("line 3217: bad timestamp", sent[3_216].encode())]
    assert alder.gate.tally("lines").refused == {"bad timestamp": 1}


async def test_each_generation_words_a_partial_write_its_own_way(line: httpx2.AsyncClient) -> None:
    body = "m v=1\nm v=\nm v=2"
    assert set((await line.post(V2, content=body)).json()) == {"code", "message", "line"}
    v1 = await line.post("/write?db=site", content=body)
    assert v1.status_code == 400
    assert v1.json()["error"].startswith("partial write: unable to parse 'm v='")
    assert v1.headers["x-influxdb-error"].startswith("partial write")
    v3 = (await line.post("/api/v3/write_lp?db=site", content=body)).json()
    assert v3["error"].startswith("partial write of line protocol occurred")
    assert v3["data"] == [{"error_message": "invalid field format", "line_number": 2, "original_line": "m v="}]


async def test_a_body_of_bad_lines_only_stores_nothing(alder: Appliance, line: httpx2.AsyncClient) -> None:
    answer = await line.post(V2, content="no\nlines\nat all\n")
    assert answer.status_code == 400
    assert answer.json()["message"].endswith("none of 3 lines is stored")
    assert kept(alder) == []


async def test_bombs_and_broken_bodies_have_one_clear_answer(alder: Appliance, line: httpx2.AsyncClient) -> None:
    bomb = gzip.compress(bytes(limits.http_inflated_bytes_max + 1))
    packed = {"content-encoding": "gzip"}
    assert (await line.post(V2, content=bomb, headers=packed)).status_code == 413
    assert (await line.post(V2, content=gzip.compress(b"m v=1")[:-9], headers=packed)).status_code == 400
    assert (await line.post(V2, content=b"m v=1", headers=packed)).status_code == 400
    assert (await line.post(V2, content=b"m v=1", headers={"content-encoding": "br"})).status_code == 415
    assert (await line.post(V2, content=b"m v=1\n" * (limits.lines_body_lines_max + 1))).status_code == 413
    assert (await line.post(f"{V2}&precision=min", content=b"m v=1")).status_code == 400
    too_large = await line.post(V2, content=bytes(limits.http_body_bytes_max + 1))
    assert (too_large.status_code, too_large.json()["code"]) == (413, "request too large")
    assert kept(alder) == []
    assert (await line.post(V2, content=b"m v=1")).status_code == 204


async def test_a_body_announced_and_never_sent_holds_up_nobody(alder: Appliance, line: httpx2.AsyncClient) -> None:
    host, _, port = alder.addresses["http"].rpartition(":")
    silent = [await asyncio.open_connection(host, int(port)) for _ in range(20)]
    for _, writer in silent:
        writer.write(f"POST {V2} HTTP/1.1\r\nHost: alder\r\nContent-Length: 8000000\r\n\r\nm v=1\n".encode())
        await writer.drain()
    assert (await line.post(V2, content=b"m v=2")).status_code == 204
    assert kept(alder) == [("lines/127.0.0.1/", b"m v=2")]
    for _, writer in silent:
        writer.close()
    await eventually_async(_is_true(lambda: alder.gate.tally("lines").refused.get("cut off") == 20))


async def test_while_the_disk_refuses_the_answer_is_come_again(alder: Appliance, line: httpx2.AsyncClient) -> None:
    alder.telemetry.paused = True
    answer = await line.post(V2, content=b"m v=1")
    assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
    assert int(answer.headers["retry-after"]) > 0
    assert (await line.get("/health")).status_code == 503
    alder.telemetry.paused = False
    await eventually_async(_is_true(lambda: alder.gate.fault is None))
    assert (await line.post(V2, content=b"m v=1")).status_code == 204


async def test_a_full_gate_is_too_many_requests(alder: Appliance, line: httpx2.AsyncClient) -> None:
    alder.gate.records_max = 0
    answer = await line.post(V2, content=b"m v=1")
    assert (answer.status_code, answer.json()["code"]) == (429, "too many requests")
    assert answer.headers["retry-after"] == "1"


# -- who it is --------------------------------------------------------------------------------------------------------

DRONE = Device("n-drone", "drone-03", "t-1")
GATEWAY = Device("n-gate", "telegraf", "t-2", gateway=True)
BODY = "m,host=a v=1\nm,host=b v=2\nm v=3"


async def test_a_device_is_the_sender_of_all_its_lines(
    alder: Appliance, guarded: httpx2.AsyncClient, doors: Doors
) -> None:
    doors.tokens["drone-token"], doors.passwords["drone", "secret"] = DRONE, DRONE
    basic = base64.b64encode(b"drone:secret").decode()
    ways = (
        {"headers": {"authorization": "Token drone-token"}},
        {"headers": {"authorization": "Bearer drone-token"}},
        {"headers": {"authorization": f"Basic {basic}"}},
        {"headers": {"authorization": "Token drone:secret"}},
        {"params": {"db": "x", "u": "drone", "p": "secret"}},
        {"params": {"db": "x", "u": "anybody", "p": "drone-token"}},
    )
    for way in ways:
        answer = await guarded.post("/write", content=BODY, **way)  # type: ignore[arg-type]
        assert answer.status_code == 204, way
    assert kept(alder) == [("lines/@n-drone/", BODY.encode())] * len(ways)
    assert doors.asked == [(3, len(BODY))] * len(ways)


async def test_a_gateway_speaks_for_others(alder: Appliance, guarded: httpx2.AsyncClient, doors: Doors) -> None:
    doors.tokens["gate-token"] = GATEWAY
    await guarded.post(V2, content=BODY, headers={"authorization": "Token gate-token"})
    assert kept(alder) == [
        ("lines/@n-gate/a", b"m,host=a v=1"),
        ("lines/@n-gate/b", b"m,host=b v=2"),
        ("lines/@n-gate/", b"m v=3"),
    ]


async def test_who_is_not_let_in_hears_so_and_the_lines_are_in_quarantine(
    alder: Appliance, guarded: httpx2.AsyncClient, doors: Doors
) -> None:
    doors.tokens["old"] = Turned.REVOKED
    for authorization in ("Token old", "Token wrong", "Basic bm8=", "Basic ///", "Digest x", ""):
        answer = await guarded.post(V2, content=BODY, headers={"authorization": authorization})
        assert (answer.status_code, answer.json()["code"]) == (401, "unauthorized"), authorization
    assert kept(alder) == []
    assert alder.gate.tally("lines").refused == {
        "revoked credential": 1, "unknown credential": 4, "no credential": 1
    }  # fmt: skip
    held = await quarantined(alder)
    assert {reason for reason, _ in held} == {"revoked credential", "unknown credential", "no credential"}
    assert {raw for _, raw in held} == {b"m,host=a v=1", b"m,host=b v=2", b"m v=3"}


async def test_a_token_that_is_revoked_counts_for_the_next_request(
    alder: Appliance, guarded: httpx2.AsyncClient, doors: Doors
) -> None:
    doors.tokens["t"] = DRONE
    headers = {"authorization": "Token t"}
    assert (await guarded.post(V2, content=BODY, headers=headers)).status_code == 204
    doors.tokens["t"] = Turned.REVOKED
    assert (await guarded.post(V2, content=BODY, headers=headers)).status_code == 401
    assert len(kept(alder)) == 1


async def test_a_flood_of_one_device_is_told_when_to_come_again(
    alder: Appliance, guarded: httpx2.AsyncClient, doors: Doors
) -> None:
    doors.tokens["t"], doors.wait_s = DRONE, 2.3
    answer = await guarded.post(V2, content=BODY, headers={"authorization": "Token t"})
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "3")
    assert kept(alder) == []


# -- real clients -----------------------------------------------------------------------------------------------------

CLIENT = """
import sys
from influxdb_client import InfluxDBClient, Point, WriteOptions, WritePrecision
from influxdb_client.client.write_api import SYNCHRONOUS
url, gzip = sys.argv[1], sys.argv[2] == "gzip"
with InfluxDBClient(url=url, token="alder-token", org="fleet", enable_gzip=gzip) as client:
    assert client.ping() and client.health().status == "pass" and client.version().startswith("2.")
    with client.write_api(write_options=SYNCHRONOUS) as api:
        point = Point("weather").tag("host", "my boat").field("temp", 3.5).field("n", 7).field("ok", True)
        api.write("site", record=point.field("text", 'a "quoted" one').time(1795253400, WritePrecision.S))
    errors = []
    options = WriteOptions(batch_size=500, flush_interval=1_000)
    with client.write_api(write_options=options, error_callback=lambda *what: errors.append(what)) as api:
        for n in range(2_000):
            api.write("site", record=f"m,host=h{n % 3} v={n}i {1795253400000000000 + n}")
    assert not errors, errors
"""


@pytest.mark.skipif(
    not (ROOT / ".venv" / "peers").exists(), reason="influxdb-client is not installed (make test installs it)"
)
@pytest.mark.parametrize("packed", ["plain", "gzip"])
def test_influxdb_client_writes_unchanged(tmp_path: Path, packed: str) -> None:
    with island(tmp_path / "alder") as site:
        environment = {**os.environ, "PYTHONPATH": str(ROOT / ".venv" / "peers")}
        ran = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", CLIENT, site.url, packed],
            env=environment, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert ran.returncode == 0, ran.stderr
        site.kill()  # at once: what was acknowledged is on the disk
    with island(tmp_path / "alder") as site:
        found = points(site)
    assert found["my boat"] == ['weather,host=my\\ boat n=7i,ok=true,temp=3.5,text="a \\"quoted\\" one" 1795253400']
    for host in range(3):
        sent = [f"m,host=h{n % 3} v={n}i {1795253400000000000 + n}" for n in range(2_000) if n % 3 == host]
        assert found[f"h{host}"] == sent


def points(site: Site) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for record in site.records():
        if record["source"].startswith("lines/"):
            found.setdefault(record["source"].split("/", 2)[2], []).extend(record["raw"].split("\n"))
    return found


def test_an_enrolled_device_is_known_by_its_token_until_it_is_revoked(tmp_path: Path) -> None:
    with island(tmp_path / "alder", environment={"SKERRY_INTAKE_MODE": "prod"}) as site, site.client() as line:
        enrolled: dict[str, dict[str, str]] = {}
        for name, gateway in (("gull", False), ("telegraf", True)):
            wish = {"name": name, "credential": "token", "gateway": gateway, "why": "it writes"}
            enrolled[name] = site.call("POST", "/api/v1/devices", wish)
            answer = line.post(V2, content=BODY, headers={"authorization": f"Token {enrolled[name]['secret']}"})
            assert answer.status_code == 204, answer.text
        assert line.post(V2, content=BODY).status_code == 401
        gull, gate = enrolled["gull"]["node_id"], enrolled["telegraf"]["node_id"]
        assert {record["source"] for record in site.records()} == {
            f"lines/@{gull}/", f"lines/@{gate}/a", f"lines/@{gate}/b", f"lines/@{gate}/"
        }  # fmt: skip
        eventually(lambda: "m.v" in json.dumps(site.call("GET", f"/api/v1/nodes/{gull}")["values"]))
        site.call("POST", f"/api/v1/devices/{gull}/revoke", {"why": "lost"})
        old = line.post(V2, content=BODY, headers={"authorization": f"Token {enrolled['gull']['secret']}"})
        assert (old.status_code, old.json()["message"]) == (401, "not let in: revoked credential")


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_curl_writes(tmp_path: Path) -> None:
    body = tmp_path / "body.lp"
    body.write_bytes(b"".join(b"m,host=birch v=%d %d\n" % (n, NOW + n) for n in range(100_000)))  # over 1 MiB: Expect
    with island(tmp_path / "alder") as site:
        command = ["curl", "-sS", "-w", "%{http_code}", "-XPOST", f"{site.url}/write?db=site&precision=s"]
        ran = subprocess.run([*command, "--data-binary", f"@{body}"], capture_output=True, text=True, check=True)
        assert ran.stdout == "204"
        assert points(site) == {"birch": body.read_text().splitlines()}
        said = eventually(lambda: site.call("GET", "/intake?format=json")["lines"], bool)
        assert [one["points"] for one in said if one["intake"] == "lines"] == [100_000]


TELEGRAF = """\
cpu,cpu=cpu-total,host=gull usage_guest=0,usage_idle=97.47474747473797,usage_user=1.5151515151 1795253400000000000
cpu,cpu=cpu0,host=gull usage_guest=0,usage_idle=96.9,usage_iowait=0,usage_user=2.02 1795253400000000000
disk,device=sda1,fstype=ext4,host=gull,mode=rw,path=/ free=38231019520i,inodes_free=2443520i,used_percent=17.4 1795253400000000000
diskio,host=gull,name=sda reads=12u,writes=34u 1795253400000000000
system,host=gull load1=0.08,load15=0.03,n_cpus=2i,n_users=1i 1795253400000000000
system,host=gull uptime=86400i 1795253400000000000
system,host=gull uptime_format="1 day,  0:00" 1795253400000000000
syslog,appname=sshd,facility=auth,host=gull,severity=info message="Accepted \\"key\\"",severity_code=6i 1795253400000000000
"""


async def test_a_batch_of_telegraf(alder: Appliance, line: httpx2.AsyncClient) -> None:
    headers = {
        "content-type": "text/plain; charset=utf-8",
        "user-agent": "Telegraf/1.30.0 Go/1.22",
        "content-encoding": "gzip",
    }
    answer = await line.post(
        "/write?consistency=any&db=telegraf", content=gzip.compress(TELEGRAF.encode()), headers=headers
    )
    assert answer.status_code == 204
    assert kept(alder) == [("lines/127.0.0.1/gull", TELEGRAF.rstrip("\n").encode())]
    reading = lines.parse(kept(alder)[0][1], 0)
    assert reading.metrics["cpu_pct"] == pytest.approx(2.525, abs=0.001)
    assert (reading.metrics["disk_pct"], reading.uptime_s, reading.marks) == (17.4, 86_400, ())
    assert json.dumps(reading.metrics)
