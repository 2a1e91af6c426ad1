"""Claims: a device says a secret, and whoever stands before it enters the same one; that proves which device it is.

Rules of the file
  1  A secret is held as its SHA-256, in memory, until the time that the device gave is over. A restart forgets it: the
     device says it again.
  2  A claim can be taken up once. Five wrong guesses end it.

Name: claims. Bound: `limits.claims_open_max`. When full: the oldest goes.
"""

from __future__ import annotations

import hashlib
import hmac
from collections import OrderedDict
from collections.abc import Iterable

import msgspec

from appliance.intake.device_bodies import Claim
from fleet import limits
from fleet.people import Refused

_DEFAULT_S = 60.0
_GUESSES_MAX = 5


class _Open(msgspec.Struct):
    digest: bytes
    until_s: float
    guesses: int = 0


class Claims:
    def __init__(self) -> None:
        self._open: OrderedDict[str, _Open] = OrderedDict()

    def __len__(self) -> int:
        return len(self._open)

    def offer(self, sender: str, claim: Claim, now_s: float) -> bool:
        """Whether it is one: without a secret there is nothing to prove."""
        if not claim.secret_key or not sender:
            return False
        asked_s = _DEFAULT_S if claim.duration_ms is None else claim.duration_ms / 1000
        until_s = now_s + min(max(asked_s, 0.0), limits.claim_seconds_max)
        self._open[sender] = _Open(_digest(claim.secret_key), until_s)
        self._open.move_to_end(sender)
        while len(self._open) > limits.claims_open_max:
            self._open.popitem(last=False)
        return True

    def waiting(self, senders: Iterable[str], now_s: float) -> bool:
        return any(self._held(who, now_s) is not None for who in senders)

    def take(self, senders: Iterable[str], secret: str, now_s: float) -> None:
        """Refused unless one of them said this secret."""
        digest, found = _digest(secret), False
        for who in senders:
            held = self._held(who, now_s)
            if held is None:
                continue
            found = True
            if hmac.compare_digest(held.digest, digest):
                del self._open[who]
                return
            held.guesses += 1
            if held.guesses >= _GUESSES_MAX:
                del self._open[who]
        if found:
            raise Refused("this is not the secret that the device said; look at the device again", 403)
        raise Refused("the device does not offer itself to be claimed just now; let it say its secret again")

    def _held(self, sender: str, now_s: float) -> _Open | None:
        held = self._open.get(sender)
        if held is not None and held.until_s <= now_s:
            del self._open[sender]
            return None
        return held


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode(errors="surrogatepass")).digest()
