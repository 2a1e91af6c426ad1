"""Identifiers: ULIDs (https://github.com/ulid/spec), 48 bits of Unix milliseconds and 80 of randomness.

Time and randomness are arguments; `store.clock` and `store.keys` supply them.
"""

from __future__ import annotations

_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"  # Crockford's base 32
_VALUE = {char: index for index, char in enumerate(_ALPHABET)}
_CHARS = 26


def ulid(at_ms: int, entropy: bytes) -> str:
    """26 characters that sort by time. `entropy` is 10 random bytes."""
    assert 0 <= at_ms < 1 << 48
    assert len(entropy) == 10
    number = at_ms << 80 | int.from_bytes(entropy)
    return "".join(_ALPHABET[number >> shift & 31] for shift in range(125, -1, -5))


def is_ulid(text: str) -> bool:
    return len(text) == _CHARS and text[0] <= "7" and all(char in _VALUE for char in text)


def ulid_ms(text: str) -> int:
    """Unix milliseconds in a ULID. ValueError when the text is not one."""
    if not is_ulid(text):
        raise ValueError(f"not a ULID: {text!r}")
    number = 0
    for char in text[:10]:
        number = number << 5 | _VALUE[char]
    return number
