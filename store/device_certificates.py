"""Certificates of devices: signed by the authority of the site, or shown by a device that has one from elsewhere.

Rules of the file
  1  Of a request (PKCS #10) only the public key is taken, after its signature has shown that the sender holds the private
     one. The name is the node's, which was checked; what else the request asks for is not looked at.
  2  Valid from 1970 on, as all that this box signs: a device whose clock has lost its battery must come in. When it ends is
     judged by the registry and this box's clock.
  3  Whatever is handed in, the answer is a value or CertificateProblem with a sentence for the person.
"""

from __future__ import annotations

import datetime as dt
import hashlib
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from store import certificates
from store.certificates import CertificateProblem

PEM_BYTES_MAX = 16_384
_RSA_BITS_MIN, _RSA_BITS_MAX = 2_048, 8_192
_CURVES = ("secp256r1", "secp384r1", "secp521r1")
_NAME_CHARS_MAX = 64
_UNREADABLE = (ValueError, UnsupportedAlgorithm, x509.InvalidVersion)
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


class Presented(NamedTuple):
    """A certificate as the registry keeps it."""

    fingerprint: bytes  # SHA-256 of its DER form
    serial: str  # hexadecimal
    name: str  # its common name
    expires_ns: int
    pem: str


class Authority:
    """The site's own, in `folder`; made when it is first needed."""

    def __init__(self, folder: Path, whose: str) -> None:
        self.folder, self.whose = folder, whose
        self._held: tuple[x509.Certificate, ec.EllipticCurvePrivateKey] | None = None

    def ca_pem(self, now_ns: int) -> str:
        return self._pair(now_ns)[0].public_bytes(Encoding.PEM).decode()

    def ca_sha256(self, now_ns: int) -> str:
        """As openssl x509 -fingerprint -sha256 prints it."""
        return self._pair(now_ns)[0].fingerprint(hashes.SHA256()).hex(":").upper()

    def _pair(self, now_ns: int) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
        """Read once: whoever signs does so in a transaction of the registry, which is not to wait for another file."""
        if self._held is None:
            try:
                self._held = certificates.authority(self.folder, certificates.moment(now_ns), self.whose)
            except OSError as error:
                raise CertificateProblem(f"the authority in {self.folder} cannot be made ({error})") from error
        return self._held

    def sign(self, pem: str, name: str, node_id: str, days: float, now_ns: int) -> Presented:
        """A certificate for the key in the request `pem`."""
        key, now = _key_of(pem), certificates.moment(now_ns)
        _check_key(key)
        ca, ca_key = self._pair(now_ns)
        until = min(now + dt.timedelta(days=days), ca.not_valid_after_utc).replace(microsecond=0)
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:_NAME_CHARS_MAX])])
        signed = (
            certificates.unsigned(subject, ca.subject, key, until)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(certificates.usage(authority=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
            .add_extension(
                x509.SubjectAlternativeName([x509.UniformResourceIdentifier(f"urn:skerry:node:{node_id}")]),
                critical=False,
            )
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
            .sign(ca_key, hashes.SHA256())
        )
        return _presented(signed)


def is_request(pem: str) -> bool:
    return "CERTIFICATE REQUEST-----" in pem


def read(pem: str) -> Presented:
    """A certificate that a person enters."""
    try:
        if len(pem) > PEM_BYTES_MAX:
            raise ValueError("it is too large")
        return _presented(x509.load_pem_x509_certificate(pem.encode()))
    except _UNREADABLE as error:
        raise CertificateProblem(f"this is no certificate in PEM that can be read ({error})") from error


def expiry_ns(der: bytes) -> int:
    """When a certificate that TLS has verified ends; 0 when it cannot be read."""
    try:
        return _ns(x509.load_der_x509_certificate(der).not_valid_after_utc)
    except _UNREADABLE:
        return 0


def common_name(der: bytes) -> str:
    try:
        return _presented(x509.load_der_x509_certificate(der)).name
    except _UNREADABLE:
        return ""


def check_renewal(current_pem: str, request_pem: str, signature: bytes) -> bytes:
    """The fingerprint of the current certificate. CertificateProblem unless who sends the request holds the key of it: the
    request is for that key, or its text is signed with it."""
    wanted = _key_of(request_pem)
    try:
        if len(current_pem) > PEM_BYTES_MAX:
            raise ValueError("it is too large")
        shown = x509.load_pem_x509_certificate(current_pem.encode())
        current = shown.public_key()
    except _UNREADABLE as error:
        raise CertificateProblem(f"this is no certificate in PEM that can be read ({error})") from error
    if _bytes_of(current) != _bytes_of(wanted):
        _check_signature(current, signature, request_pem.encode())
    return _presented(shown).fingerprint


def _check_signature(key: CertificatePublicKeyTypes, signature: bytes, text: bytes) -> None:
    try:
        match key:
            case ec.EllipticCurvePublicKey():
                key.verify(signature, text, ec.ECDSA(hashes.SHA256()))
            case rsa.RSAPublicKey():
                key.verify(signature, text, padding.PKCS1v15(), hashes.SHA256())
            case ed25519.Ed25519PublicKey():
                key.verify(signature, text)
            case _:
                raise CertificateProblem("a key of this kind cannot sign for its successor; enrol the device anew")
    except InvalidSignature as error:
        raise CertificateProblem(
            "the request is for another key, and is not signed with the one that the certificate is for"
        ) from error


def _key_of(pem: str) -> CertificatePublicKeyTypes:
    """Of a request, whose sender holds the private one."""
    try:
        if len(pem) > PEM_BYTES_MAX:
            raise ValueError("it is too large")
        request = x509.load_pem_x509_csr(pem.encode())
        good, key = request.is_signature_valid, request.public_key()
    except _UNREADABLE as error:
        raise CertificateProblem(
            f"this is no request for a certificate (PKCS #10, PEM) that can be read ({error})"
        ) from error
    if not good:
        raise CertificateProblem("the request is not signed with the key that it is for")
    return key


def _check_key(key: CertificatePublicKeyTypes) -> None:
    match key:
        case ec.EllipticCurvePublicKey() if key.curve.name in _CURVES:
            return
        case rsa.RSAPublicKey() if _RSA_BITS_MIN <= key.key_size <= _RSA_BITS_MAX:
            return
        case ed25519.Ed25519PublicKey():
            return
    raise CertificateProblem(
        "a key is ECDSA on P-256, P-384 or P-521, Ed25519, or RSA of 2,048 to 8,192 bits; make another one"
    )


def _presented(found: x509.Certificate) -> Presented:
    der = found.public_bytes(Encoding.DER)
    names = found.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return Presented(
        hashlib.sha256(der).digest(),
        f"{found.serial_number:x}",
        str(names[0].value) if names else "",
        _ns(found.not_valid_after_utc),
        found.public_bytes(Encoding.PEM).decode(),
    )


def _ns(at: dt.datetime) -> int:
    passed = at - _EPOCH
    return (passed.days * 86_400 + passed.seconds) * 1_000_000_000


def _bytes_of(key: CertificatePublicKeyTypes) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
