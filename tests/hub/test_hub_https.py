"""A hub's pages over TLS, by a certificate that its own authority signed or by files of somebody's own."""

from __future__ import annotations

import re
import ssl
import subprocess
from pathlib import Path

import httpx2
import pytest

from tests.cast import eventually, skerry
from tests.mainland import Box, mainland

OVER_TLS = {"SKERRY_HTTP_TLS_LISTEN": "127.0.0.1:0"}


def health(hub: Box, ca: Path, starts: int = 1) -> int:
    found = eventually(lambda: re.findall(r"https +127\.0\.0\.1:(\d+)", hub.said()), lambda ports: len(ports) == starts)
    with httpx2.Client(verify=ssl.create_default_context(cafile=str(ca)), trust_env=False, timeout=30) as line:
        return line.get(f"https://localhost:{found[-1]}/healthz").status_code


def test_the_pages_are_served_over_tls_by_a_certificate_that_the_hub_signs_and_keeps(tmp_path: Path) -> None:
    with mainland(tmp_path, clocks={"harbor": OVER_TLS}) as (hub,):
        assert health(hub, hub.data / "tls" / "ca.pem") == 200
        held = (hub.data / "tls" / "pages.pem").read_bytes(), (hub.data / "tls" / "server.pem").read_bytes()
        hub.stop()
        assert " WARNING asyncio" not in hub.said()
        hub.start()
        assert health(hub, hub.data / "tls" / "ca.pem", 2) == 200
        assert held == ((hub.data / "tls" / "pages.pem").read_bytes(), (hub.data / "tls" / "server.pem").read_bytes())


def test_a_certificate_of_one_s_own_takes_its_place(tmp_path: Path) -> None:
    key, own = tmp_path / "own.key", tmp_path / "own.pem"
    subprocess.run(
        [*("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"),
         *("-keyout", str(key), "-out", str(own), "-subj", "/CN=harbor", "-addext", "subjectAltName=DNS:localhost")],
        capture_output=True, check=True,
    )  # fmt: skip
    files = {"SKERRY_HTTP_CERTIFICATE": str(own), "SKERRY_HTTP_KEY": str(key)}
    with mainland(tmp_path, clocks={"harbor": OVER_TLS | files}) as (hub,):
        assert health(hub, own) == 200


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("certificate = '/nowhere.pem'", "http.certificate and http.key belong together"),
        ("tls_listen = 'here'", "http.tls_listen"),
    ],
)
def test_what_is_wrong_is_said_before_it_runs(tmp_path: Path, said: str, words: str) -> None:
    config = tmp_path / "hub.toml"
    config.write_text(f"[http]\n{said}\n")
    found = skerry("config", "check", "--hub", "--config", str(config))
    assert found.returncode != 0
    assert words in found.stderr + found.stdout
