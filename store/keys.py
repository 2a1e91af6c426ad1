"""Keys and randomness: the writer's Ed25519 key, secrets and their hashes, and passwords.

Secrets leave this module once, to the person they are for; what is stored is their SHA-256 (they carry 256 bits
themselves, so a slow hash would add nothing) or, for passwords, Argon2id.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from fleet import ids

if TYPE_CHECKING:
    from argon2 import PasswordHasher


class KeyProblem(Exception):
    """The writer's key cannot be read; str() says which file and what to do."""


def load_or_create(path: Path) -> Ed25519PrivateKey:
    """The key in `path` (PEM, PKCS #8, mode 0600), made on first use."""
    try:
        if not path.exists():
            _create(path)
        key = load_pem_private_key(path.read_bytes(), password=None)
    except (OSError, ValueError) as error:
        raise KeyProblem(f"the writer's key {path} cannot be read ({error}); restore it from a backup") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise KeyProblem(f"the writer's key {path} is not an Ed25519 key; restore it from a backup")
    return key


def _create(path: Path) -> None:
    raw = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
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


def sync_folder(path: Path) -> None:
    """Make a rename or a removal in `path` durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def public_bytes(key: Ed25519PrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)


def new_ulid(now_ns: int) -> str:
    return ids.ulid(max(now_ns, 0) // 1_000_000 & (1 << 48) - 1, secrets.token_bytes(10))


def new_secret(prefix: str) -> str:
    """256 random bits in a form that survives a copy and paste; the prefix lets a scanner recognise a leak."""
    return f"{prefix}_{secrets.token_urlsafe(32)}"


def secret_hash(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()


def same(one: str, other: str) -> bool:
    return secrets.compare_digest(one.encode(), other.encode())


@cache
def _hasher() -> PasswordHasher:
    from argon2 import PasswordHasher

    return PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)  # OWASP's floor; a box has little memory


def hash_password(password: str) -> str:
    return _hasher().hash(password)


def password_matches(stored: str | None, password: str) -> bool:
    """False too when `stored` is None (no such account), after the same work."""
    from argon2.exceptions import VerifyMismatchError

    try:
        return _hasher().verify(stored or _nobody(), password) and stored is not None
    except VerifyMismatchError:
        return False


@cache
def _nobody() -> str:
    return hash_password(secrets.token_hex(16))
