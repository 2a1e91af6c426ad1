"""Sealed bytes: for one box alone, whole and in their order, or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from store import keys, sealing

ALDER = X25519PrivateKey.from_private_bytes(b"alder".ljust(32))
BIRCH = X25519PrivateKey.from_private_bytes(b"birch".ljust(32))
ONCE = X25519PrivateKey.from_private_bytes(b"once".ljust(32))


def to_alder(context: bytes = b"a file") -> sealing.Stream:
    return sealing.sealer(ONCE, sealing.public_bytes(ALDER), context)


def at(key: sealing.PrivateKey, context: bytes = b"a file") -> sealing.Stream:
    return sealing.opener(key, sealing.public_bytes(ONCE), context)


def test_what_is_sealed_to_alder_opens_at_alder() -> None:
    sealed = to_alder().seal(0, b"all is well", last=True)
    assert len(sealed) == len(b"all is well") + sealing.TAG_BYTES
    assert at(ALDER).open(0, sealed, last=True) == b"all is well"


def test_it_opens_nowhere_else() -> None:
    sealed = to_alder().seal(0, b"all is well", last=True)
    assert at(BIRCH).open(0, sealed, last=True) is None
    assert at(ALDER, b"another file").open(0, sealed, last=True) is None


def test_it_opens_at_its_place_alone() -> None:
    sealed = to_alder().seal(1, b"all is well", last=False)
    assert at(ALDER).open(0, sealed, last=False) is None
    assert at(ALDER).open(1, sealed, last=True) is None
    assert at(ALDER).open(1, sealed, last=False) == b"all is well"


def test_a_changed_bit_or_a_cut_is_found() -> None:
    sealed = to_alder().seal(0, b"all is well", last=True)
    for number in range(len(sealed)):
        changed = bytearray(sealed)
        changed[number] ^= 1
        assert at(ALDER).open(0, bytes(changed), last=True) is None
        assert at(ALDER).open(0, sealed[:number], last=True) is None


def test_the_bytes_are_these() -> None:
    """So that another program, or this one in ten years, opens what was sealed today."""
    assert to_alder().seal(0, b"all is well", last=True).hex() == (
        "09145d52521e710b0ac73b25883e27bbd32fbbec0c20a999b5d0a8"
    )


@pytest.mark.parametrize("raw", [b"", b"short", bytes(32), b"\x01" + bytes(31), bytes(33)])
def test_a_key_that_would_give_the_secret_away_is_refused(raw: bytes) -> None:
    with pytest.raises(ValueError):
        sealing.sealer(ONCE, raw, b"")
    with pytest.raises(ValueError):
        sealing.opener(ALDER, raw, b"")


def test_a_box_has_one_key_and_it_is_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "sealing.pem"
    first, again = sealing.load_or_create(path), sealing.load_or_create(path)
    assert sealing.public_bytes(first) == sealing.public_bytes(again)
    assert len(sealing.public_bytes(first)) == sealing.KEY_BYTES
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert [one.name for one in path.parent.iterdir()] == ["sealing.pem"]


@pytest.mark.parametrize(
    "content", [b"", b"garbage", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"]
)
def test_a_key_that_cannot_be_read_is_never_replaced(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "sealing.pem"
    path.write_bytes(content)
    with pytest.raises(keys.KeyProblem, match="restore it from a backup"):
        sealing.load_or_create(path)
    assert path.read_bytes() == content


def test_a_key_of_another_kind_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "sealing.pem"
    path.write_bytes(Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    with pytest.raises(keys.KeyProblem, match="not an X25519 key"):
        sealing.load_or_create(path)
