"""Sealing: bytes that one box alone can read, in chunks that cannot be cut, swapped or repeated unnoticed.

    secret  = HKDF-SHA256(X25519(ephemeral, recipient), salt = ephemeral public ‖ recipient public,
                          info = "skerry sealing" NUL ‖ context)                   32 bytes (RFC 7748, RFC 5869)
    chunk i = ChaCha20-Poly1305(secret, nonce = i u64 ‖ last u32, plain)           16 bytes longer (RFC 8439)

`last` is 1 for the last chunk and 0 for the others. An ephemeral key serves for one context and is then forgotten: so
no two files share a secret, and whoever takes the sender's box cannot read what it sent. Sealing says nothing of who
sent: that is a signature's business.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import TypeAlias

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

from store.keys import KeyProblem, sync_folder

KEY_BYTES = 32  # of a public key
TAG_BYTES = 16  # that a sealed chunk is longer than its plain bytes

PrivateKey: TypeAlias = X25519PrivateKey

_INFO = b"skerry sealing\x00"
_NONCE = struct.Struct(">QI")

new = X25519PrivateKey.generate


def load_or_create(path: Path) -> PrivateKey:
    """The key in `path` (PEM, PKCS #8, mode 0600), made on first use. KeyProblem when it cannot be read."""
    try:
        if not path.exists():
            _create(path)
        key = load_pem_private_key(path.read_bytes(), password=None)
    except (OSError, ValueError) as error:
        raise KeyProblem(f"the sealing key {path} cannot be read ({error}); restore it from a backup") from error
    if not isinstance(key, X25519PrivateKey):
        raise KeyProblem(f"the sealing key {path} is not an X25519 key; restore it from a backup")
    return key


def _create(path: Path) -> None:
    raw = new().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    fresh = path.with_suffix(".new")
    fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        os.write(fd, raw)
        os.fsync(fd)
    finally:
        os.close(fd)
    fresh.rename(path)
    sync_folder(path.parent)


def public_bytes(key: PrivateKey) -> bytes:
    return key.public_key().public_bytes_raw()


class Stream:
    """One secret and the chunks under it, counted from 0."""

    def __init__(self, secret: bytes) -> None:
        self._cipher = ChaCha20Poly1305(secret)

    def seal(self, index: int, plain: bytes, last: bool) -> bytes:
        return self._cipher.encrypt(_NONCE.pack(index, last), plain, None)

    def open(self, index: int, sealed: bytes, last: bool) -> bytes | None:
        """None when this is not, bit for bit, the chunk that was sealed at this place."""
        try:
            return self._cipher.decrypt(_NONCE.pack(index, last), sealed, None)
        except InvalidTag:
            return None


def sealer(ephemeral: PrivateKey, recipient: bytes, context: bytes) -> Stream:
    """The sender's side. ValueError when `recipient` is no public key of X25519."""
    return _stream(ephemeral, recipient, public_bytes(ephemeral) + recipient, context)


def opener(key: PrivateKey, ephemeral: bytes, context: bytes) -> Stream:
    """The recipient's side. ValueError when `ephemeral` is no public key of X25519."""
    return _stream(key, ephemeral, ephemeral + public_bytes(key), context)


def _stream(key: PrivateKey, other: bytes, salt: bytes, context: bytes) -> Stream:
    shared = key.exchange(X25519PublicKey.from_public_bytes(other))  # refuses points that would give away the secret
    return Stream(HKDF(SHA256(), KEY_BYTES, salt, _INFO + context).derive(shared))
