"""Keys and secrets: for their owner alone, compared in constant time, stored as what cannot be turned back."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from fleet import ids
from store import keys


def test_a_key_is_made_once_and_is_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "writer.pem"
    first, again = keys.load_or_create(path), keys.load_or_create(path)
    assert keys.public_bytes(first) == keys.public_bytes(again)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert [one.name for one in path.parent.iterdir()] == ["writer.pem"]


@pytest.mark.parametrize(
    "content", [b"", b"garbage", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"]
)
def test_a_key_that_cannot_be_read_is_never_replaced(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "writer.pem"
    path.write_bytes(content)
    with pytest.raises(keys.KeyProblem, match="restore it from a backup"):
        keys.load_or_create(path)
    assert path.read_bytes() == content


def test_a_key_of_another_kind_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "writer.pem"
    path.write_bytes(X25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    with pytest.raises(keys.KeyProblem, match="not an Ed25519 key"):
        keys.load_or_create(path)


def test_a_public_key_is_its_32_bytes() -> None:
    assert len(keys.public_bytes(Ed25519PrivateKey.generate())) == 32


def test_a_new_ulid_carries_the_time_also_where_the_clock_is_wrong() -> None:
    assert ids.ulid_ms(keys.new_ulid(5_000_000)) == 5
    assert ids.ulid_ms(keys.new_ulid(-1)) == 0
    assert ids.is_ulid(keys.new_ulid(1 << 70))
    assert keys.new_ulid(0) != keys.new_ulid(0)


def test_a_secret_names_its_kind_and_only_its_hash_is_kept() -> None:
    secret = keys.new_secret("session")
    assert secret.startswith("session_")
    assert len(secret) >= len("session_") + 43
    assert keys.secret_hash(secret) != keys.secret_hash(keys.new_secret("session"))
    assert keys.same("a", "a")
    assert not keys.same("a", "ä")


def test_a_password_matches_itself_and_nobody_has_one() -> None:
    stored = keys.hash_password("correct horse")
    assert stored.startswith("$argon2id$")
    assert keys.password_matches(stored, "correct horse")
    assert not keys.password_matches(stored, "wrong horse")
    assert not keys.password_matches(None, "correct horse")
