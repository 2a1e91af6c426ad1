"""TLS of the ways in: the site's own certificate, files of somebody's own, and who is let through the handshake."""

from __future__ import annotations

import random
import socket
import ssl
import subprocess
import threading
from pathlib import Path

import pytest

from appliance.config import Tls
from appliance.tls import SiteTls
from store import device_certificates
from store.certificates import CertificateProblem
from store.device_certificates import Authority
from store.settings import ConfigProblem

NOW_NS = 1_800_000_000 * 10**9
DAY_NS = 86_400 * 10**9


def site(folder: Path, now_ns: int = NOW_NS, **config: str) -> SiteTls:
    return SiteTls(folder / "tls", Tls(hosts="localhost", **config), "alder", lambda: now_ns)


def openssl(*words: str | Path) -> None:
    subprocess.run(["openssl", *map(str, words)], capture_output=True, check=True)


def device(
    folder: Path, name: str, authority: Authority, days: float = 30.0, now_ns: int = NOW_NS
) -> tuple[Path, Path]:
    """Its certificate and its key."""
    folder.mkdir(exist_ok=True)
    key, csr, pem = (folder / f"{name}.{kind}" for kind in ("key", "csr", "pem"))
    new = ("req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    openssl(*new, "-subj", "/CN=x", "-keyout", key, "-out", csr)
    pem.write_text(authority.sign(csr.read_text(), name, "01N", days, now_ns).pem)
    return pem, key


def handshake(
    server: ssl.SSLContext, trusted: str, shown: tuple[Path, Path] | None = None
) -> tuple[bytes | None, bytes]:
    """What the server sees of its client, and the server's certificate as the client sees it."""
    client = ssl.create_default_context(cadata=trusted)
    client.verify_flags |= ssl.VERIFY_X509_STRICT
    if shown is not None:
        client.load_cert_chain(*shown)
    ours, theirs = socket.socketpair()
    seen: list[bytes | None] = []
    faults: list[Exception] = []

    def serve() -> None:
        try:
            with server.wrap_socket(ours, server_side=True) as line:
                seen.append(line.getpeercert(binary_form=True))
                line.sendall(b"!")
        except (ssl.SSLError, OSError) as fault:
            faults.append(fault)
            ours.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with client.wrap_socket(theirs, server_hostname="localhost") as line:
            certificate = line.getpeercert(binary_form=True)
            line.recv(1)
    finally:
        thread.join()
    if faults:
        raise faults[0]
    assert certificate is not None
    return seen[0], certificate


def test_a_site_shows_a_certificate_of_its_own_authority_and_asks_for_none(tmp_path: Path) -> None:
    tls = site(tmp_path)
    seen, _ = handshake(tls.server(), tls.authority.ca_pem(NOW_NS))
    assert seen is None


def test_required_means_required_and_optional_does_not(tmp_path: Path) -> None:
    tls = site(tmp_path)
    trusted = tls.authority.ca_pem(NOW_NS)
    shown = device(tmp_path / "d", "drone-01", tls.authority)
    assert handshake(tls.server(clients="required"), trusted, shown)[0] is not None
    assert handshake(tls.server(clients="optional"), trusted, shown)[0] is not None
    assert handshake(tls.server(clients="optional"), trusted)[0] is None
    with pytest.raises(ssl.SSLError):
        handshake(tls.server(clients="required"), trusted)


def test_a_device_of_another_site_is_refused(tmp_path: Path) -> None:
    tls, birch = site(tmp_path), Authority(tmp_path / "birch", "site birch")
    shown = device(tmp_path / "d", "drone-01", birch)
    with pytest.raises(ssl.SSLError):
        handshake(tls.server(clients="required"), tls.authority.ca_pem(NOW_NS), shown)
    (tmp_path / "birch.pem").write_text(birch.ca_pem(NOW_NS))
    both = site(tmp_path, ca=str(tmp_path / "birch.pem"))
    assert handshake(both.server(clients="required"), tls.authority.ca_pem(NOW_NS), shown)[0] is not None


def test_clocks_are_left_to_the_registry(tmp_path: Path) -> None:
    """A certificate made under a clock in 1970, and one whose time is over, pass the handshake; their end is told."""
    tls = site(tmp_path, now_ns=0)
    early = device(tmp_path / "d", "early", tls.authority, now_ns=0)
    over = device(tmp_path / "d", "over", tls.authority, days=-200.0, now_ns=NOW_NS - 300 * DAY_NS)
    context = tls.server(clients="required")
    for shown in (early, over):
        der, _ = handshake(context, tls.authority.ca_pem(0), shown)
        assert der is not None
        ends = device_certificates.expiry_ns(der)
        assert ends == device_certificates.read(shown[0].read_text()).expires_ns
    assert ends < NOW_NS


def test_a_context_in_use_takes_the_new_certificate_for_its_next_connection(tmp_path: Path) -> None:
    now_ns = [NOW_NS]
    tls = SiteTls(tmp_path / "tls", Tls(hosts="localhost"), "alder", lambda: now_ns[0])
    context, trusted = tls.server(), tls.authority.ca_pem(NOW_NS)
    _, first = handshake(context, trusted)
    tls.renew()
    assert handshake(context, trusted)[1] == first
    now_ns[0] += 9 * 365 * DAY_NS + 200 * DAY_NS
    tls.renew()
    assert handshake(context, trusted)[1] != first


def test_files_of_ones_own_are_used_and_what_is_wrong_with_them_is_said(tmp_path: Path) -> None:
    key, pem = tmp_path / "own.key", tmp_path / "own.pem"
    new = ("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "30", "-subj", "/CN=own")
    more = ("-addext", "subjectAltName=DNS:localhost", "-addext", "keyUsage=digitalSignature,keyCertSign")
    openssl(*new, *more, "-keyout", key, "-out", pem)
    tls = site(tmp_path, certificate=str(pem), key=str(key))
    _, shown = handshake(tls.server(), pem.read_text())
    assert shown == ssl.PEM_cert_to_DER_cert(pem.read_text())
    for wrong in ({"certificate": str(key), "key": str(pem)}, {"certificate": "/nowhere", "key": "/nowhere"}):
        with pytest.raises(ConfigProblem, match=r"tls\.certificate"):
            site(tmp_path, **wrong).server()
    with pytest.raises(ConfigProblem, match=r"tls\.ca"):
        site(tmp_path, ca="/nowhere").server(clients="optional")


def test_a_damaged_authority_is_told_and_never_replaced(tmp_path: Path) -> None:
    tls = site(tmp_path)
    tls.server()
    (tmp_path / "tls" / "ca.key").write_bytes(b"damaged")
    with pytest.raises(CertificateProblem, match=r"site alder's authority .* every device"):
        site(tmp_path).server()


@pytest.mark.filterwarnings("ignore::cryptography.utils.CryptographyDeprecationWarning")  # serial numbers below 1
@pytest.mark.parametrize("count", [5_000, pytest.param(100_000, marks=[pytest.mark.trial, pytest.mark.timeout(300)])])
def test_whatever_is_handed_in_as_a_request_or_a_certificate_the_answer_is_a_sentence(
    tmp_path: Path, count: int
) -> None:
    """Mutations, so many: a certificate, or CertificateProblem."""
    authority = Authority(tmp_path / "tls", "site alder")
    pem, _ = device(tmp_path / "d", "drone-01", authority)
    good = [(tmp_path / "d" / "drone-01.csr").read_text(), pem.read_text()]
    chance, refused = random.Random(7), 0
    for _ in range(count):
        text = bytearray(chance.choice(good).encode())
        for _ in range(chance.randrange(1, 4)):
            place = chance.randrange(len(text))
            match chance.randrange(3):
                case 0:
                    text[place] = chance.choice(b"ABCabc09+/=-\n \x00\xff")
                case 1:
                    del text[place : place + chance.randrange(1, 40)]
                case _:
                    text[place:place] = text[:place][-chance.randrange(1, 40) :]
        mutated = text.decode("latin-1")
        for look in (lambda one: authority.sign(one, "drone-01", "01N", 30.0, NOW_NS), device_certificates.read):
            try:
                look(mutated)
            except CertificateProblem as problem:
                refused += bool(str(problem))
    assert refused > count
