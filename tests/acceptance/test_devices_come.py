"""A device that proves who it is, from the code in a person's hand to its records: the real appliance, curl and openssl as
the device's side, rsyslog over TLS; and what a revocation, a restart and a power cut change.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import socket
import ssl
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.cast import Site, eventually, island, skerry

CURL, OPENSSL, RSYSLOGD = (shutil.which(name) or "" for name in ("curl", "openssl", "rsyslogd"))
needs_openssl = pytest.mark.skipif(not (CURL and OPENSSL), reason="curl or openssl is not installed")
needs_rsyslog = pytest.mark.skipif(
    not RSYSLOGD or not Path("/usr/lib/x86_64-linux-gnu/rsyslog/lmnsd_gtls.so").exists(),
    reason="rsyslog with rsyslog-gnutls is not installed",
)
TLS = {"SKERRY_SYSLOG_TLS": "127.0.0.1:0", "SKERRY_TLS_HOSTS": "localhost,127.0.0.1"}
PROD = {"SKERRY_INTAKE_MODE": "prod"}


def curl(site: Site, path: str, body: Any = None, *more: str) -> tuple[int, Any]:
    command = [CURL, "-s", "-o", "-", "-w", "\n%{http_code}", f"{site.url}{path}", *more]
    if body is not None:
        command += ["-H", "content-type: application/json", "-d", json.dumps(body)]
    said, _, status = subprocess.run(command, capture_output=True, text=True, check=True).stdout.rpartition("\n")
    return int(status), json.loads(said) if said[:1] in "{[" and said else said


def code_of(site: Site, *flags: str) -> str:
    made = skerry("device", "code", "--data", str(site.data), *flags)
    assert made.returncode == 0, made.stderr
    return made.stdout.strip()


def request(folder: Path, name: str, subject: str = "/CN=whatever", *key: str) -> Path:
    """A key and a request for a certificate, made by openssl as a device would."""
    folder.mkdir(exist_ok=True)
    command = [OPENSSL, "req", "-new", "-nodes", "-keyout", str(folder / f"{name}.key"), "-subj", subject]
    command += ["-out", str(folder / f"{name}.csr"), *(key or ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"))]
    subprocess.run(command, capture_output=True, check=True)
    return folder / f"{name}.csr"


def enrolled(site: Site, folder: Path, name: str, *flags: str) -> Path:
    """A device with a certificate that it got for a code: NAME.key, NAME.pem and ca.pem in `folder`."""
    csr = request(folder, name).read_text()
    status, got = curl(site, "/v1/provision", {"code": code_of(site, *flags), "name": name, "csr": csr})
    assert status == 201, got
    (folder / f"{name}.pem").write_text(got["certificate"])
    (folder / "ca.pem").write_text(got["ca"])
    return folder / f"{name}.pem"


def tls_port(site: Site) -> int:
    found = re.search(r"syslog-tls +127\.0\.0\.1:(\d+)", site.said())
    assert found, site.said()
    return int(found[1])


@contextlib.contextmanager
def line(site: Site, folder: Path, name: str = "") -> Iterator[ssl.SSLSocket]:
    """A connection over TLS that trusts the site's authority alone, with the certificate `name`."""
    context = ssl.create_default_context(cafile=str(folder / "ca.pem"))
    if name:
        context.load_cert_chain(folder / f"{name}.pem", folder / f"{name}.key")
    with (
        socket.create_connection(("127.0.0.1", tls_port(site)), 10) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as made,
    ):
        yield made


def counted(text: str) -> bytes:
    raw = f"<13>1 2026-11-29T12:00:00Z claims-to-be-somebody app - - - {text}".encode()
    return b"%d %s" % (len(raw), raw)


def sources(site: Site, text: str) -> set[str]:
    return {record["source"] for record in site.records() if text in str(record.get("raw", ""))}


def ended(made: ssl.SSLSocket) -> bool:
    """Whether the other end has closed, within the time that a test may take."""
    made.settimeout(20)
    try:
        return made.recv(1) == b""
    except (ConnectionError, ssl.SSLError):
        return True


@needs_openssl
def test_a_code_becomes_a_token_and_its_records_stand_under_the_device(tmp_path: Path) -> None:
    with island(tmp_path / "alder", environment=PROD) as site:
        status, got = curl(site, "/v1/provision", {"code": code_of(site), "name": "drone-01"})
        assert status == 201
        token = got["token"]
        bearer = ("-H", f"authorization: Bearer {token}")
        assert curl(site, "/v1/ingest", {"battery_pct": 71}, *bearer)[0] == 200
        assert eventually(lambda: sources(site, "battery_pct")) == {f"http/@{got['node_id']}/"}
        eventually(lambda: [one["lifecycle"]["phase"] for one in site.nodes()], lambda found: found == ["ACTIVE"])

        status, refused = curl(site, "/v1/ingest", {"battery_pct": 1})
        assert (status, "Bearer" in refused["error"]) == (401, True)
        assert curl(site, "/v1/ingest", {"battery_pct": 2}, "-H", "authorization: Bearer guess")[0] == 401
        kept = eventually(lambda: site.call("GET", "/api/v1/quarantine")["items"], lambda found: len(found) == 2)
        assert {item["reason"] for item in kept} == {"no credential", "unknown credential"}
        assert len(sources(site, "battery_pct")) == 1

        status, fresh = curl(site, "/v1/device/token", {}, *bearer)
        assert status == 201
        for one in (token, fresh["token"]):
            assert curl(site, "/v1/ingest", {"battery_pct": 70}, "-H", f"authorization: Bearer {one}")[0] == 200
        assert skerry("device", "revoke", got["node_id"], "--data", str(site.data), "--why", "lost").returncode == 0
        for one in (token, fresh["token"]):
            assert curl(site, "/v1/ingest", {"battery_pct": 70}, "-H", f"authorization: Bearer {one}")[0] == 401
        kinds = [
            event["kind"] for event in site.events() if event["kind"].partition(".")[0] in ("credential", "device")
        ]
        assert kinds == [
            "device.enrolled",
            "credential.issued",
            "credential.issued",
            "credential.rotated",
            "credential.revoked",
            "credential.revoked",
        ]


@needs_openssl
def test_a_certificate_takes_the_key_of_the_request_and_nothing_else(tmp_path: Path) -> None:
    folder = tmp_path / "device"
    with island(tmp_path / "alder") as site:
        csr = request(
            folder,
            "drone-01",
            "/O=Mallory/CN=drone-99",
            "-newkey",
            "rsa:2048",
            "-addext",
            "subjectAltName=DNS:harbor.example",
            "-addext",
            "basicConstraints=critical,CA:TRUE",
        ).read_text()
        code = code_of(site, "--name", "drone-01")
        status, got = curl(site, "/v1/provision", {"code": code, "csr": csr})
        assert status == 201
        assert "token" not in got
        (folder / "drone-01.pem").write_text(got["certificate"])
        (folder / "ca.pem").write_text(got["ca"])
        text = subprocess.run(
            [OPENSSL, "x509", "-in", str(folder / "drone-01.pem"), "-noout", "-text"], capture_output=True, text=True
        ).stdout
        assert "CN = drone-01" in text
        assert f"URI:urn:skerry:node:{got['node_id']}" in text
        for foreign in ("Mallory", "drone-99", "harbor.example", "CA:TRUE", "TLS Web Server"):
            assert foreign not in text
        verify = [OPENSSL, "verify", "-x509_strict", "-purpose", "sslclient", "-CAfile", str(folder / "ca.pem")]
        assert subprocess.run([*verify, str(folder / "drone-01.pem")], capture_output=True).returncode == 0
        public = [OPENSSL, "pkey", "-in", str(folder / "drone-01.key"), "-pubout"]
        shown = [OPENSSL, "x509", "-in", str(folder / "drone-01.pem"), "-noout", "-pubkey"]
        assert subprocess.run(public, capture_output=True).stdout == subprocess.run(shown, capture_output=True).stdout
        printed = skerry("device", "ca", "--data", str(site.data)).stdout
        assert printed == got["ca"] == curl(site, "/v1/ca.pem")[1]


@needs_openssl
def test_a_request_that_is_none_or_not_signed_with_its_key_uses_no_code(tmp_path: Path) -> None:
    folder = tmp_path / "device"
    with island(tmp_path / "alder") as site:
        code, good = code_of(site), request(folder, "good").read_text()
        der = subprocess.run(
            [OPENSSL, "req", "-in", str(folder / "good.csr"), "-outform", "DER"], capture_output=True, check=True
        ).stdout
        (folder / "bent.der").write_bytes(der[:-1] + bytes([der[-1] ^ 1]))
        bent = subprocess.run(
            [OPENSSL, "req", "-in", str(folder / "bent.der"), "-inform", "DER"], capture_output=True, text=True
        ).stdout
        weak = request(folder, "weak", "/CN=x", "-newkey", "rsa:1024").read_text()
        for bad in ("nonsense", bent, weak, "x" * 30_000):
            status, said = curl(site, "/v1/provision", {"code": code, "name": "drone-01", "csr": bad})
            assert (status, bool(said["error"])) == (422, True)
        assert curl(site, "/v1/provision", {"code": code, "name": "drone-01", "csr": good})[0] == 201
        assert curl(site, "/v1/provision", {"code": code, "name": "drone-02", "csr": good})[0] == 403


@needs_openssl
def test_a_certificate_is_renewed_by_whoever_holds_its_key(tmp_path: Path) -> None:
    folder = tmp_path / "device"
    with island(tmp_path / "alder") as site:
        current = enrolled(site, folder, "drone-01").read_text()
        other = request(folder, "next").read_text()
        body: dict[str, str] = {"certificate": current, "csr": other}
        assert curl(site, "/v1/device/certificate", body)[0] == 422
        mallory = request(folder, "mallory")
        for key, status in (("mallory", 422), ("drone-01", 201)):
            sign = [OPENSSL, "dgst", "-sha256", "-sign", str(folder / f"{key}.key"), str(folder / "next.csr")]
            signature = subprocess.run(sign, capture_output=True, check=True).stdout
            encoded = subprocess.run([OPENSSL, "base64", "-A"], input=signature, capture_output=True).stdout.decode()
            answer = curl(site, "/v1/device/certificate", body | {"signature": encoded})
            assert answer[0] == status
        again = ["-key", str(folder / "drone-01.key")]
        same = request(folder, "same", "/CN=drone-01", *again).read_text()
        assert curl(site, "/v1/device/certificate", {"certificate": current, "csr": same})[0] == 201
        assert mallory.exists()


@needs_openssl
def test_syslog_over_tls_is_whoever_the_certificate_says_and_ends_when_it_is_revoked(tmp_path: Path) -> None:
    folder = tmp_path / "device"
    with island(tmp_path / "alder", environment=TLS) as site:
        enrolled(site, folder, "drone-01")
        enrolled(site, folder, "drone-02")
        ids = {one["name"]: one["id"] for one in site.nodes()}
        with line(site, folder, "drone-01") as first, line(site, folder, "drone-02") as second:
            first.sendall(counted("from the first"))
            second.sendall(counted("from the second"))
            assert eventually(lambda: sources(site, "from the first")) == {f"syslog/@{ids['drone-01']}/"}
            revoke = ("device", "revoke", ids["drone-01"], "--data", str(site.data), "--why", "lost")
            assert skerry(*revoke).returncode == 0
            assert ended(first)
            second.sendall(counted("the second goes on"))
            assert eventually(lambda: sources(site, "the second goes on")) == {f"syslog/@{ids['drone-02']}/"}
        with line(site, folder, "drone-01") as again:
            with contextlib.suppress(OSError):
                again.sendall(counted("from the revoked"))
            assert ended(again)
        refused = eventually(lambda: site.call("GET", "/api/v1/quarantine")["items"])
        assert [(item["reason"], "from the revoked" in item["text"]) for item in refused] == [
            ("revoked credential", True)
        ]
        assert not sources(site, "from the revoked")


@needs_openssl
def test_who_shows_no_certificate_or_a_foreign_one_is_turned_away_and_nobody_else_notices(tmp_path: Path) -> None:
    folder = tmp_path / "device"
    with island(tmp_path / "alder", environment=TLS) as site:
        enrolled(site, folder, "drone-01")
        request(folder, "foreign", "/CN=drone-01", "-newkey", "rsa:2048", "-x509", "-days", "30")
        (folder / "foreign.csr").rename(folder / "foreign.pem")
        with line(site, folder, "drone-01") as good:
            for name in ("", "foreign"):
                with contextlib.suppress(OSError), line(site, folder, name) as bad:
                    bad.sendall(counted("from a stranger"))
                    assert ended(bad)
            idle = [socket.create_connection(("127.0.0.1", tls_port(site)), 10) for _ in range(300)]
            plain = idle[-1]
            plain.sendall(b"<13>no TLS at all\n")
            good.sendall(counted("still here"))
            eventually(lambda: sources(site, "still here"))
            with line(site, folder, "drone-01") as late:
                late.sendall(counted("and so am I"))
                eventually(lambda: sources(site, "and so am I"))
            for one in idle:
                one.close()
        assert not sources(site, "from a stranger")
        intake = site.call("GET", "/intake?format=json")
        refused = next(one["refused"] for one in intake["lines"] if one["intake"] == "syslog-tls")
        assert refused["no credential"] == refused["foreign certificate"] == 1
        assert refused["no handshake"] >= 1


@needs_openssl
@needs_rsyslog
def test_rsyslog_delivers_over_tls_with_its_certificate(tmp_path: Path) -> None:
    folder = tmp_path / "device"
    with island(tmp_path / "alder", environment=TLS | PROD) as site:
        enrolled(site, folder, "drone-01")
        (node_id,) = [one["id"] for one in site.nodes()]
        (folder / "rsyslog.conf").write_text(
            f'global(workDirectory="{folder}" defaultNetstreamDriver="gtls"\n'
            f' defaultNetstreamDriverCAFile="{folder}/ca.pem" defaultNetstreamDriverCertFile="{folder}/drone-01.pem"\n'
            f' defaultNetstreamDriverKeyFile="{folder}/drone-01.key")\n'
            'module(load="imuxsock" sysSock.use="off")\n'
            f'input(type="imuxsock" socket="{folder}/log")\n'
            f'action(type="omfwd" target="127.0.0.1" port="{tls_port(site)}" protocol="tcp" tcp_framing="octet-counted"\n'
            ' template="RSYSLOG_SyslogProtocol23Format" streamDriver="gtls" streamDriverMode="1"\n'
            ' streamDriverAuthMode="x509/name" streamDriverPermittedPeers="localhost")\n'
        )
        command = [RSYSLOGD, "-n", "-f", str(folder / "rsyslog.conf"), "-i", str(folder / "pid")]
        with (folder / "rsyslog.log").open("wb") as log:
            daemon = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            eventually((folder / "log").exists)
            subprocess.run(["logger", "-u", str(folder / "log"), "-t", "ferry", "tide is high"], check=True)
            assert eventually(lambda: sources(site, "tide is high")) == {f"syslog/@{node_id}/"}
        finally:
            daemon.terminate()
            daemon.wait(20)


@needs_openssl
def test_a_certificate_whose_time_is_over_ends_its_connection_and_opens_no_other(tmp_path: Path) -> None:
    folder = tmp_path / "device"
    with island(tmp_path / "alder", environment=TLS) as site:
        csr = request(folder, "drone-01")
        enrol = ("device", "enrol", "--data", str(site.data), "--name", "drone-01", "--certificate", str(csr))
        made = skerry(*enrol, "--days", "0.00005")  # four seconds
        assert made.returncode == 0, made.stderr
        (folder / "drone-01.pem").write_text(made.stdout)
        (folder / "ca.pem").write_text(skerry("device", "ca", "--data", str(site.data)).stdout)
        with line(site, folder, "drone-01") as open_before:
            open_before.sendall(counted("in time"))
            eventually(lambda: sources(site, "in time"))
            assert ended(open_before)
        with line(site, folder, "drone-01") as late:
            with contextlib.suppress(OSError):
                late.sendall(counted("too late"))
            assert ended(late)
        items = eventually(lambda: site.call("GET", "/api/v1/quarantine")["items"])
        assert [item["reason"] for item in items] == ["expired credential"]


@needs_openssl
def test_an_authority_of_ones_own_signs_devices_that_are_enrolled_by_their_certificate(tmp_path: Path) -> None:
    folder = tmp_path / "device"
    request(folder, "root", "/CN=Our own authority", "-newkey", "rsa:2048", "-x509", "-days", "30")
    (folder / "root.csr").rename(folder / "root.pem")
    for name in ("known", "unknown"):
        csr = request(folder, name, f"/CN={name}")
        sign = [OPENSSL, "x509", "-req", "-in", str(csr), "-CA", str(folder / "root.pem"), "-CAkey"]
        sign += [str(folder / "root.key"), "-CAcreateserial", "-days", "10", "-out", str(folder / f"{name}.pem")]
        subprocess.run(sign, capture_output=True, check=True)
    with island(tmp_path / "alder", environment=TLS | PROD | {"SKERRY_TLS_CA": str(folder / "root.pem")}) as site:
        enrol = ("device", "enrol", "--data", str(site.data), "--name", "drone-01")
        assert skerry(*enrol, "--certificate", str(folder / "known.pem")).returncode == 0
        (folder / "ca.pem").write_text(curl(site, "/v1/ca.pem")[1])
        with line(site, folder, "known") as good:
            good.sendall(counted("from afar"))
            assert eventually(lambda: sources(site, "from afar"))
        with line(site, folder, "unknown") as bad:
            with contextlib.suppress(OSError):
                bad.sendall(counted("from nobody"))
            assert ended(bad)
        items = eventually(lambda: site.call("GET", "/api/v1/quarantine")["items"])
        assert [item["reason"] for item in items] == ["unknown credential"]


def test_files_of_tls_that_cannot_be_used_are_named_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "wrong.pem").write_text("nonsense")
    wrong = str(tmp_path / "wrong.pem")
    environment = TLS | {"SKERRY_TLS_CERTIFICATE": wrong, "SKERRY_TLS_KEY": wrong}
    says = r"tls\.certificate, tls\.key or tls\.ca cannot be used"
    with pytest.raises(AssertionError, match=says), island(tmp_path / "alder", environment=environment):
        pass


@needs_openssl
def test_no_secret_of_a_device_stands_in_any_file_page_export_or_log(tmp_path: Path) -> None:
    folder = tmp_path / "device"
    data = ("--data", str(tmp_path / "alder"))
    with island(tmp_path / "alder", environment=TLS | PROD) as site:
        code, unused = code_of(site), code_of(site, "--name", "drone-09")
        token = curl(site, "/v1/provision", {"code": code, "name": "drone-01"})[1]["token"]
        fresh = curl(site, "/v1/device/token", {}, "-H", f"authorization: Bearer {token}")[1]["token"]
        password = skerry("device", "enrol", *data, "--name", "meter", "--user", "meter").stdout.strip()
        enrolled(site, folder, "drone-02")
        guess = "device_a-guess-of-mallory"
        curl(site, "/v1/ingest", {"battery_pct": 1}, "-H", f"authorization: Bearer {guess}")
        curl(site, "/v1/provision", {"code": "GUESS-GUESS-GUESS-GUES", "name": "drone-03"})
        eventually(lambda: site.call("GET", "/api/v1/quarantine")["items"], lambda found: len(found) == 2)
        shown = site.said()
        for path in ("/devices?format=json", "/quarantine?format=json", "/journal?format=json", "/audit?format=json"):
            shown += json.dumps(site.call("GET", path))
        shown += json.dumps([site.call("GET", "/api/v1/devices"), site.call("GET", "/api/v1/activation-codes")])
        with site.client(site.token("collector", "admin")) as client:
            shown += client.get("/metrics").text + client.get("/devices").text + client.get("/audit/export").text
        assert skerry("backup", *data, str(tmp_path / "copy")).returncode == 0
        shown += skerry("device", "list", *data).stdout
    assert skerry("journal", "export", *data, str(tmp_path / "alder.skerry")).returncode == 0
    secrets = [token, fresh, password, code, unused, guess, "GUESS-GUESS-GUESS-GUES"]
    assert all(len(secret) > 15 for secret in secrets)
    for secret in secrets:
        assert secret not in shown
    files = [one for place in (tmp_path / "alder", tmp_path / "copy") for one in place.rglob("*") if one.is_file()]
    for file in (*files, tmp_path / "alder.skerry"):
        raw = file.read_bytes()
        assert not [secret for secret in secrets if secret.encode() in raw], file


@needs_openssl
@pytest.mark.skipif(not shutil.which("mosquitto_pub"), reason="mosquitto-clients is not installed")
def test_one_device_over_http_mqtt_and_tls_is_one_node_until_all_that_it_shows_is_revoked(tmp_path: Path) -> None:
    folder = tmp_path / "device"
    environment = TLS | PROD | {"SKERRY_MQTT_TLS_LISTEN": "127.0.0.1:0"}
    with island(tmp_path / "alder", environment=environment) as site:
        data = ("--data", str(site.data))
        token = skerry("device", "token", *data, "--name", "drone-01").stdout.strip()
        password = skerry("device", "enrol", *data, "--name", "drone-01", "--user", "drone").stdout.strip()
        csr = request(folder, "drone-01")
        pem = skerry("device", "enrol", *data, "--name", "drone-01", "--certificate", str(csr))
        (folder / "drone-01.pem").write_text(pem.stdout)
        (folder / "ca.pem").write_text(curl(site, "/v1/ca.pem")[1])
        found = re.search(r"mqtt-tls +127\.0\.0\.1:(\d+)", site.said())
        assert found, site.said()
        certificate = ["-p", found[1], "--cafile", str(folder / "ca.pem"), "--cert", str(folder / "drone-01.pem")]
        ways = {
            "by_token": ["-p", str(site.mqtt), "-u", token],
            "by_password": ["-p", str(site.mqtt), "-u", "drone", "-P", password],
            "by_certificate": [*certificate, "--key", str(folder / "drone-01.key")],
        }

        def publish(metric: str) -> int:
            command = ["mosquitto_pub", "-h", "localhost", "-q", "1", "-t", "v1/devices/me/telemetry", *ways[metric]]
            done = subprocess.run(
                [*command, "-m", json.dumps({metric: 1})], capture_output=True, timeout=60, check=False
            )
            return done.returncode

        (node_id,) = [one["id"] for one in site.nodes()]
        for metric in ways:
            assert publish(metric) == 0
            assert eventually(lambda metric=metric: sources(site, metric)) == {f"mqtt/@{node_id}/"}
        assert curl(site, "/v1/ingest", {"by_http": 1}, "-H", f"authorization: Bearer {token}")[0] == 200
        assert eventually(lambda: sources(site, "by_http")) == {f"http/@{node_id}/"}
        assert skerry("device", "revoke", node_id, *data, "--why", "lost").returncode == 0
        assert [publish(metric) != 0 for metric in ways] == [True, True, True]


@needs_openssl
def test_nothing_that_was_sent_over_tls_is_lost_when_senders_are_quick_and_the_gate_is_small(tmp_path: Path) -> None:
    folder, many, senders = tmp_path / "device", 8_000, 3
    small = {
        "SKERRY_INTAKE_QUEUE_RECORDS": "10000",
        "SKERRY_INTAKE_DEVICE_RATE": "20000",
        "SKERRY_INTAKE_BURST_S": "0.1",
    }
    with island(tmp_path / "alder", environment=TLS | small) as site:
        names = [f"drone-{number}" for number in range(senders)]
        for name in names:
            enrolled(site, folder, name)

        def send(name: str) -> None:
            with line(site, folder, name) as made:
                for first in range(0, many, 500):
                    made.sendall(b"".join(counted(f"{name} says {number}") for number in range(first, first + 500)))

        with ThreadPoolExecutor() as crowd:
            list(crowd.map(send, names))
        found = eventually(site.records, lambda found: len(found) >= senders * many, seconds=60)
        assert len(found) == senders * many
        for name in names:
            assert len({record["raw"] for record in found if f"{name} says" in record["raw"]}) == many
