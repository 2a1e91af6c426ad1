"""With what does a box show who it is? A small authority of its own, and a certificate for its server: a hub to its sites,
a site to its devices.

    ca.pem, ca.key            the authority: its certificate is copied to every site (or device), once
    server.pem, server.key    for the broker (or the ways in); made anew when its hosts change or its time comes
    pages.pem, pages.key      the same for a hub's pages

ECDSA P-256; every file 0600. Rules of the file
  1  The authority is never made anew while it can be read: every site, or device, would have to be visited.
  2  Certificates are valid from 1970 on. A site whose clock has lost its battery must reach the hub, and nothing here
     depends on a certificate being young.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from store.keys import sync_folder

CA_DAYS, SERVER_DAYS = 20 * 365, 10 * 365  # the authority outlives a renewal of the server's
RENEWAL_DAYS = 365  # before its end, a server's certificate is made anew

_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_BUILT = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)  # a clock that stands before this program was written is wrong
_DAY = dt.timedelta(days=1)
_NAME_CHARS_MAX = 64  # of a common name: RFC 5280, ub-common-name
_PINS = {"hub": "site"}


class CertificateProblem(Exception):
    """A file of the authority cannot be used; str() says which and what to do."""


class ServerCertificate(NamedTuple):
    """Files in PEM."""

    ca: Path
    certificate: Path
    key: Path


def ensure_server_certificate(
    folder: Path, hosts: Iterable[str], now_ns: int, whose: str = "hub", name: str = "server"
) -> ServerCertificate:
    """A certificate for `hosts` (names or addresses), signed by the authority in `folder`; what is missing is made."""
    names = sorted({host.strip("[]").lower() for host in hosts})
    now = moment(now_ns)
    files = ServerCertificate(folder / "ca.pem", folder / f"{name}.pem", folder / f"{name}.key")
    ca, ca_key = authority(folder, now, whose)
    if not _holds(files, names, ca, now):
        key = ec.generate_private_key(ec.SECP256R1())
        _write(files.key, _private(key))
        _write(files.certificate, _server(names, key, ca, ca_key, now, whose).public_bytes(Encoding.PEM))
    return files


def moment(now_ns: int) -> dt.datetime:
    """The time by which certificates are made: never before this program was."""
    return max(_EPOCH + dt.timedelta(microseconds=now_ns // 1_000), _BUILT)


def authority(
    folder: Path, now: dt.datetime, whose: str = "hub"
) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    """The authority in `folder`, made on first use. CertificateProblem when it cannot be read."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    path, key_path = folder / "ca.pem", folder / "ca.key"
    if not path.exists():  # the key is written first, so a certificate always has one
        key = ec.generate_private_key(ec.SECP256R1())
        _write(key_path, _private(key))
        _write(path, _self_signed(key, now, whose).public_bytes(Encoding.PEM))
    try:
        ca, loaded = (
            x509.load_pem_x509_certificate(path.read_bytes()),
            load_pem_private_key(key_path.read_bytes(), None),
        )
    except (OSError, ValueError) as error:
        raise CertificateProblem(
            f"the {whose}'s authority in {folder} cannot be read ({error}); restore ca.pem and ca.key from a backup."
            f" Without one, remove both: a new one is made, and its ca.pem must be copied to every {_PINS.get(whose, 'device')}"
        ) from error
    if not isinstance(loaded, ec.EllipticCurvePrivateKey) or loaded.public_key() != ca.public_key():
        raise CertificateProblem(f"{path} and {key_path} do not belong together; restore both from one backup")
    return ca, loaded


def _holds(files: ServerCertificate, names: list[str], ca: x509.Certificate, now: dt.datetime) -> bool:
    try:
        found = x509.load_pem_x509_certificate(files.certificate.read_bytes())
        key = load_pem_private_key(files.key.read_bytes(), None)
        found.verify_directly_issued_by(ca)
    except Exception:  # noqa: BLE001  # unreadable, damaged, or somebody else's: it is made anew
        return False
    sans = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return (
        list(sans) == _alternatives(names)
        and key.public_key() == found.public_key()
        and found.not_valid_after_utc - now > min(RENEWAL_DAYS * _DAY, (ca.not_valid_after_utc - now) / 2)
    )


def _self_signed(key: ec.EllipticCurvePrivateKey, now: dt.datetime, whose: str) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"Skerry {whose} authority"[:_NAME_CHARS_MAX])])
    return (
        unsigned(name, name, key.public_key(), now + CA_DAYS * _DAY)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage(authority=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )


def _server(
    names: list[str],
    key: ec.EllipticCurvePrivateKey,
    ca: x509.Certificate,
    ca_key: ec.EllipticCurvePrivateKey,
    now: dt.datetime,
    whose: str,
) -> x509.Certificate:
    until = min(now + SERVER_DAYS * _DAY, ca.not_valid_after_utc)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"Skerry {whose}"[:_NAME_CHARS_MAX])])
    return (
        unsigned(name, ca.subject, key.public_key(), until)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(usage(authority=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(_alternatives(names)), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
        .sign(ca_key, hashes.SHA256())
    )


def unsigned(
    subject: x509.Name, issuer: x509.Name, key: CertificatePublicKeyTypes, until: dt.datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(_EPOCH)
        .not_valid_after(until)
    )


def usage(authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        key_cert_sign=authority,
        crl_sign=authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _alternatives(names: list[str]) -> list[x509.GeneralName]:
    return [_alternative(name) for name in names]


def _alternative(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name.encode("idna").decode())


def _private(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _write(path: Path, raw: bytes) -> None:
    """Whole or not at all, 0600."""
    fresh = path.with_name(path.name + ".new")
    fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(raw)
        file.flush()
        os.fsync(fd)
    fresh.rename(path)
    sync_folder(path.parent)
