"""Six clients that know nothing of us deliver to the demo's site alder, as it comes up, with nothing changed but the address
and what they show: paho, mosquitto_pub, ThingsBoard's library, influxdb-client, rsyslog over TLS, and curl.

Addresses, the CA file and the command for a token are those that the demo prints; each record is looked up by the token
that it prints, at the API, under the node of its sender.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import shlex
import shutil
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from bench.island import ROOT
from tests.cast import FRONT, eventually, skerry

PEERS = ROOT / ".venv" / "peers"
GTLS = Path("/usr/lib/x86_64-linux-gnu/rsyslog/lmnsd_gtls.so")

pytestmark = pytest.mark.timeout(180)


class Alder:
    """The demo's site, by what the demo printed."""

    def __init__(self, said: dict[str, str]) -> None:
        self.said = said

    def token(self, name: str) -> tuple[str, str]:
        """By the command that the demo prints: the node, and its token."""
        words = shlex.split(self.said["enrol"].replace("NAME", name))
        assert words[0] == "skerry"
        made = skerry(*words[1:])
        assert made.returncode == 0, made.stderr
        return self.node(name), made.stdout.strip()

    def node(self, name: str) -> str:
        return next(one["node"]["id"] for one in self.get("nodes?limit=500")["nodes"] if one["node"]["name"] == name)

    def get(self, path: str) -> Any:
        bearer = {"authorization": f"Bearer {self.said['token']}"}
        answer = httpx2.get(f"{self.said['url']}/api/v1/{path}", headers=bearer, timeout=30, trust_env=False)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def records(self, node_id: str) -> list[tuple[str, str]]:
        """What stands under the node, once there is something."""
        found = eventually(lambda: self.get(f"telemetry?node={node_id}&limit=100")["records"])
        return [(one["source"], one["raw"]) for one in found]

    def at(self, way: str) -> tuple[str, int]:
        host, _, port = self.said[way].rpartition(":")
        return host, int(port)


@pytest.fixture(scope="module")
def alder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Alder]:
    data = tmp_path_factory.mktemp("any") / "demo"
    command = [sys.executable, str(FRONT), "demo", "--json", "--data", str(data), "--devices", "10", "--port", "0"]
    demo = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert demo.stdout is not None
        yield Alder(json.loads(demo.stdout.readline())["sites"][0])
    finally:
        demo.send_signal(signal.SIGTERM)
        demo.communicate(timeout=60)
    assert demo.returncode == 0


def needs(name: str) -> pytest.MarkDecorator:
    """A program, or a library of the clients' own environment."""
    there = shutil.which(name) or importlib.util.find_spec(name) or list(PEERS.glob(f"{name}*"))
    return pytest.mark.skipif(not there, reason=f"{name} is not installed here")


def client(program: str, *words: str) -> None:
    """A client in Python, as its documentation has it."""
    environment = {**os.environ, "PYTHONPATH": str(PEERS)}
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program, *words],
        env=environment, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr


PAHO = """
import sys
import paho.mqtt.publish as publish
host, port, token = sys.argv[1:]
publish.single("buoys/7/water", '{"water_temp": 7.5}', qos=1, hostname=host, port=int(port), auth={"username": token})
"""


@needs("paho")
def test_paho_delivers(alder: Alder) -> None:
    node_id, token = alder.token("buoy-7")
    host, port = alder.at("mqtt")
    client(PAHO, host, str(port), token)
    assert alder.records(node_id) == [(f"mqtt/@{node_id}/", '{"water_temp": 7.5}')]


@needs("mosquitto_pub")
@pytest.mark.parametrize("way", ["mqtt", "mqtt_tls"])
def test_mosquitto_pub_delivers(alder: Alder, way: str) -> None:
    node_id, token = alder.token(f"tide-gauge-{way}")
    host, port = alder.at(way)
    command = ["mosquitto_pub", "-h", host, "-p", str(port), "-u", token, "-q", "1", "-t", "tide", "-m", "level=1.25"]
    if way == "mqtt_tls":
        command += ["--cafile", alder.said["ca"]]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert alder.records(node_id) == [(f"mqtt/@{node_id}/", "level=1.25")]


THINGSBOARD = """
import sys
from tb_device_mqtt import TBDeviceMqttClient, TBPublishInfo
host, port, token = sys.argv[1:]
client = TBDeviceMqttClient(host, int(port), token)
client.connect()
done = client.send_telemetry({"temperature": 41.9, "enabled": False})
assert done.get() == TBPublishInfo.TB_ERR_SUCCESS
client.stop()
"""


@needs("tb_device_mqtt")
def test_thingsboard_s_library_delivers(alder: Alder) -> None:
    node_id, token = alder.token("weather-mast")
    host, port = alder.at("mqtt")
    client(THINGSBOARD, host, str(port), token)
    assert alder.records(node_id) == [(f"mqtt/@{node_id}/", '[{"temperature":41.9,"enabled":false}]')]


INFLUXDB = """
import sys
from influxdb_client import InfluxDBClient, Point, WritePrecision
from influxdb_client.client.write_api import SYNCHRONOUS
url, token, ca = sys.argv[1:]
with InfluxDBClient(url=url, token=token, org="skerries", ssl_ca_cert=ca) as client:
    point = Point("engine").tag("host", "ferry-1").field("rpm", 1450).time(1795253400, WritePrecision.S)
    client.write_api(write_options=SYNCHRONOUS).write(bucket="boats", record=point, write_precision=WritePrecision.S)
"""


@needs("influxdb_client")
@pytest.mark.parametrize("way", ["lines", "https"])
def test_influxdb_client_delivers(alder: Alder, way: str) -> None:
    node_id, token = alder.token(f"ferry-1-{way}")
    client(INFLUXDB, alder.said[way], token, alder.said["ca"])
    assert alder.records(node_id) == [(f"lines/@{node_id}/", "engine,host=ferry-1 rpm=1450i 1795253400")]


@needs("curl")
@pytest.mark.parametrize("way", ["http", "https"])
def test_curl_delivers(alder: Alder, way: str) -> None:
    node_id, token = alder.token(f"lamp-3-{way}")
    command = ["curl", "-sS", "-f", "-H", f"Authorization: Bearer {token}", "-H", "Content-Type: application/json"]
    place = alder.said["http"] if way == "http" else f"{alder.said['https']}/v1/ingest"
    command += ["-d", '{"battery_pct": 81}', "--cacert", alder.said["ca"], place]
    subprocess.run(command, capture_output=True, timeout=60, check=True)
    assert alder.records(node_id) == [(f"http/@{node_id}/", '{"battery_pct": 81}')]


@pytest.mark.skipif(not GTLS.exists(), reason="rsyslog with rsyslog-gnutls is not installed here")
@needs("rsyslogd")
@needs("openssl")
def test_rsyslog_delivers_over_tls(alder: Alder, tmp_path: Path) -> None:
    csr, pem = tmp_path / "server-1.csr", tmp_path / "server-1.pem"
    command = ["openssl", "req", "-new", "-nodes", "-newkey", "rsa:2048", "-subj", "/CN=server-1", "-out", str(csr)]
    subprocess.run([*command, "-keyout", str(tmp_path / "key")], capture_output=True, check=True)
    data = alder.said["data"]
    made = skerry("device", "enrol", "--data", data, "--name", "server-1", "--certificate", str(csr))
    assert made.returncode == 0, made.stderr
    pem.write_text(made.stdout)
    host, port = alder.at("syslog_tls")
    (tmp_path / "rsyslog.conf").write_text(
        f'global(workDirectory="{tmp_path}" defaultNetstreamDriver="gtls"'
        f' defaultNetstreamDriverCAFile="{alder.said["ca"]}" defaultNetstreamDriverCertFile="{pem}"'
        f' defaultNetstreamDriverKeyFile="{tmp_path}/key")\n'
        'module(load="imuxsock" sysSock.use="off")\n'
        f'input(type="imuxsock" socket="{tmp_path}/log")\n'
        f'action(type="omfwd" target="{host}" port="{port}" protocol="tcp" streamDriver="gtls" streamDriverMode="1"'
        ' streamDriverAuthMode="x509/name" streamDriverPermittedPeers="localhost")\n'
    )
    with rsyslog(tmp_path):
        subprocess.run(["logger", "-u", str(tmp_path / "log"), "-t", "ferry", "tide is high"], check=True)
        node_id = alder.node("server-1")
        ((source, raw),) = alder.records(node_id)
    assert source == f"syslog/@{node_id}/"
    assert "ferry: tide is high" in raw


@contextlib.contextmanager
def rsyslog(folder: Path) -> Iterator[None]:
    command = ["rsyslogd", "-n", "-f", str(folder / "rsyslog.conf"), "-i", str(folder / "pid")]
    with (folder / "rsyslog.log").open("wb") as log:
        daemon = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        eventually((folder / "log").exists)
        yield
    finally:
        daemon.terminate()
        daemon.wait(20)


def test_who_shows_no_certificate_is_taken_in_over_tls_as_somebody_unknown(alder: Alder) -> None:
    context = ssl.create_default_context(cafile=alder.said["ca"])
    with (
        socket.create_connection(alder.at("syslog_tls"), 10) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as line,
    ):
        raw = b"<13>1 2026-11-29T12:00:00Z lighthouse app - - - lit"
        line.sendall(b"%d %b" % (len(raw), raw))
    sources = eventually(lambda: [one["key"] for one in alder.get("sources")["sources"]], bool)
    assert sources == ["syslog/127.0.0.1/lighthouse"]


def test_one_of_the_demo_s_own_devices_speaks_mqtt(alder: Alder) -> None:
    found = alder.records(alder.node("drone-10"))
    assert {source for source, _ in found} == {"mqtt/127.42.0.10/drone-10"}
    assert json.loads(found[0][1])["device"] == "drone-10"
