"""The authority of hub harbor and its server's certificate: OpenSSL believes them, and they stay as long as they can."""

from __future__ import annotations

import datetime as dt
import socket
import ssl
import stat
import subprocess
import threading
from pathlib import Path

import pytest
from cryptography import x509

from store.certificates import CertificateProblem, ServerCertificate, ensure_server_certificate

NOW_NS = int(dt.datetime(2026, 11, 21, tzinfo=dt.UTC).timestamp()) * 1_000_000_000
YEAR_NS = 365 * 86_400 * 1_000_000_000
HOSTS = ("harbor.example", "127.0.0.1", "[::1]")


def contents(made: ServerCertificate) -> list[bytes]:
    return [path.read_bytes() for path in made]


def handshake(made: ServerCertificate, ca: Path, host: str) -> None:
    """ssl.SSLError when the client does not believe the server."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(made.certificate, made.key)
    here, there = socket.socketpair()

    def serve() -> None:
        try:
            server.wrap_socket(there, server_side=True).close()
        except (OSError, ssl.SSLError):
            there.close()

    serving = threading.Thread(target=serve)
    serving.start()
    client = ssl.create_default_context(cafile=ca)
    client.verify_flags |= ssl.VERIFY_X509_STRICT
    try:
        client.wrap_socket(here, server_hostname=host).close()
    finally:
        here.close()
        serving.join()


@pytest.mark.parametrize("host", ["harbor.example", "127.0.0.1", "::1"])
def test_openssl_believes_the_server_under_each_of_its_hosts(tmp_path: Path, host: str) -> None:
    made = ensure_server_certificate(tmp_path, HOSTS, NOW_NS)
    handshake(made, made.ca, host)


def test_openssl_does_not_believe_it_under_another_host_or_from_another_authority(tmp_path: Path) -> None:
    made = ensure_server_certificate(tmp_path / "harbor", HOSTS, NOW_NS)
    other = ensure_server_certificate(tmp_path / "mallory", HOSTS, NOW_NS)
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        handshake(made, made.ca, "mallory.example")
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(other, made.ca, "harbor.example")


def test_a_site_whose_clock_stands_at_1970_believes_it_too(tmp_path: Path) -> None:
    made = ensure_server_certificate(tmp_path, HOSTS, NOW_NS)
    for at in ("86400", str(NOW_NS // 1_000_000_000 + 9 * 365 * 86_400)):
        command = ["openssl", "verify", "-attime", at, "-CAfile", str(made.ca), str(made.certificate)]
        assert subprocess.run(command, capture_output=True, check=False).returncode == 0


def test_a_hub_whose_clock_stands_at_1970_makes_one_that_lasts(tmp_path: Path) -> None:
    made = ensure_server_certificate(tmp_path, HOSTS, 0)
    before = contents(made)
    assert contents(ensure_server_certificate(tmp_path, HOSTS, NOW_NS)) == before


def test_every_file_is_for_its_owner_only(tmp_path: Path) -> None:
    ensure_server_certificate(tmp_path / "keys", HOSTS, NOW_NS)
    files = sorted((tmp_path / "keys").iterdir())
    assert [one.name for one in files] == ["ca.key", "ca.pem", "server.key", "server.pem"]
    assert {stat.S_IMODE(one.stat().st_mode) for one in files} == {0o600}


def test_what_holds_is_left_as_it_is(tmp_path: Path) -> None:
    before = contents(ensure_server_certificate(tmp_path, HOSTS, NOW_NS))
    assert contents(ensure_server_certificate(tmp_path, reversed(HOSTS), NOW_NS + YEAR_NS)) == before


def test_new_hosts_or_a_near_end_make_a_new_one_of_the_same_authority(tmp_path: Path) -> None:
    ca, first, _ = contents(ensure_server_certificate(tmp_path, HOSTS, NOW_NS))
    moved = contents(ensure_server_certificate(tmp_path, [*HOSTS, "quay.example"], NOW_NS))
    late = contents(ensure_server_certificate(tmp_path, [*HOSTS, "quay.example"], NOW_NS + 9 * YEAR_NS + YEAR_NS // 2))
    assert moved[0] == late[0] == ca
    assert len({first, moved[1], late[1]}) == 3
    last = contents(ensure_server_certificate(tmp_path, ["quay.example"], NOW_NS + 15 * YEAR_NS))[1]
    ends = x509.load_pem_x509_certificate(last).not_valid_after_utc
    assert ends == x509.load_pem_x509_certificate(ca).not_valid_after_utc


@pytest.mark.parametrize("name", ["server.pem", "server.key"])
@pytest.mark.parametrize("raw", [b"", b"not PEM"])
def test_a_damaged_file_of_the_server_is_made_anew(tmp_path: Path, name: str, raw: bytes) -> None:
    made = ensure_server_certificate(tmp_path, HOSTS, NOW_NS)
    (tmp_path / name).write_bytes(raw)
    again = ensure_server_certificate(tmp_path, HOSTS, NOW_NS)
    handshake(again, made.ca, "harbor.example")


def test_a_server_key_of_another_certificate_is_made_anew(tmp_path: Path) -> None:
    made = ensure_server_certificate(tmp_path, HOSTS, NOW_NS)
    made.key.write_bytes((tmp_path / "ca.key").read_bytes())
    handshake(ensure_server_certificate(tmp_path, HOSTS, NOW_NS), made.ca, "harbor.example")


@pytest.mark.parametrize("name", ["ca.pem", "ca.key"])
def test_a_damaged_authority_is_never_replaced_silently(tmp_path: Path, name: str) -> None:
    ensure_server_certificate(tmp_path, HOSTS, NOW_NS)
    (tmp_path / name).write_bytes(b"damaged")
    with pytest.raises(CertificateProblem, match="from a backup"):
        ensure_server_certificate(tmp_path, HOSTS, NOW_NS)


def test_an_authority_with_anothers_key_is_said(tmp_path: Path) -> None:
    ensure_server_certificate(tmp_path, HOSTS, NOW_NS)
    (tmp_path / "ca.key").write_bytes((tmp_path / "server.key").read_bytes())
    with pytest.raises(CertificateProblem, match="do not belong together"):
        ensure_server_certificate(tmp_path, HOSTS, NOW_NS)
