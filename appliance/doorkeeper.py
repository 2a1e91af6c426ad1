"""Who may come in? The doorkeeper of every way in with credentials (`appliance.intake.device.Doorkeeper`).

Rules of the file
  1  Answers are kept for `auth_ttl_s`, refusals too, each in a table of its own with a bound: a flood of invented
     credentials throws nobody out. What counts no more is forgotten in the same step of the event loop in which the
     registry tells of it, and a look-up that began before that is not kept.
  2  No secret is kept: a table's keys are digests, keyed with randomness of this process.
  3  A password under a slow hash is proved once; from then on its keyed digest proves it, until it changes.
  4  In the mode DEV one that nobody knows is let in as a source that nobody has claimed. One that is known and shows what
     is wrong, revoked or expired is refused in both modes.
  5  Time is an argument: `monotonic_ns` for what is kept and for buckets, `now_ns` for what expires.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import time
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from enum import StrEnum
from typing import NamedTuple

from appliance.intake.device import Device, Provision, Provisioned, Turned
from fleet import limits
from fleet.devices import CredentialKind
from fleet.limits import MINUTE, SECOND
from fleet.node import Node
from fleet.people import Refused
from store import device_certificates
from store.devices import Devices, Found, Who, is_slow, proves
from store.faults import StoreFault

_SECRET_CHARS_MAX = 512
_TICK_S = 1.0
_USES_EVERY = 10  # ticks
_WRONG_MAX = 20  # guesses at one user, or codes, from one address
_WRONG_NS = 15 * MINUTE
_WRONG_HELD_MAX = 10_000
_HASHING_MAX = 2  # Argon2 takes 19 MiB each


class Mode(StrEnum):
    DEV = "dev"
    PROD = "prod"


class Rate(NamedTuple):
    """What a bucket holds: so many messages and bytes a second, and `burst_s` seconds' worth at once. 0: no bound."""

    messages_per_s: float = 0.0
    bytes_per_s: float = 0.0
    burst_s: float = 2.0

    @property
    def bounded(self) -> bool:
        return bool(self.messages_per_s or self.bytes_per_s)


UNBOUNDED = Rate()


class Bucket:
    """What may still come. An offer larger than the whole bucket is taken when the bucket is full, and owed."""

    __slots__ = ("at_ns", "bytes", "messages")

    def __init__(self, rate: Rate, now_ns: int) -> None:
        self.messages, self.bytes, self.at_ns = (
            rate.messages_per_s * rate.burst_s,
            rate.bytes_per_s * rate.burst_s,
            now_ns,
        )

    def lacks(self, rate: Rate, messages: int, size: int, now_ns: int) -> float:
        """Seconds until there is room for so much; 0.0 when there is."""
        passed = (now_ns - self.at_ns) / SECOND
        self.at_ns = now_ns
        wait = 0.0
        if rate.messages_per_s:
            most = rate.messages_per_s * rate.burst_s
            self.messages = min(self.messages + passed * rate.messages_per_s, most)
            wait = (min(messages, most) - self.messages) / rate.messages_per_s
        if rate.bytes_per_s:
            most = rate.bytes_per_s * rate.burst_s
            self.bytes = min(self.bytes + passed * rate.bytes_per_s, most)
            wait = max(wait, (min(size, most) - self.bytes) / rate.bytes_per_s)
        return max(wait, 0.0)

    def take(self, messages: int, size: int) -> None:
        self.messages -= messages
        self.bytes -= size


class _Held(NamedTuple):
    answer: Found | Turned
    until_ns: int  # monotonic


class Gatekeeper:
    """`entered(node, fresh)` brings the node of a device into the world; awaited before its credential is answered."""

    def __init__(
        self,
        devices: Devices,
        *,
        tenant: str,
        now_ns: Callable[[], int],
        entered: Callable[[Node, bool], Awaitable[None]],
        mode: Mode = Mode.DEV,
        ttl_s: float = 60.0,
        device_rate: Rate = UNBOUNDED,
        tenant_rate: Rate = UNBOUNDED,
        monotonic_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self.mode = mode
        self.turned: Counter[str] = Counter()  # by reason, since the start
        self.looked_up = 0
        self._devices, self._tenant, self._now_ns, self._monotonic_ns = devices, tenant, now_ns, monotonic_ns
        self._entered, self._ttl_ns = entered, int(ttl_s * SECOND)
        self._device_rate, self._tenant_rate = device_rate, tenant_rate
        self._key = secrets.token_bytes(32)
        self._known: dict[bytes, _Held] = {}
        self._refused: dict[bytes, _Held] = {}
        self._proved: dict[bytes, str] = {}  # keyed digest of user and password: the credential that it proved
        self._changes = 0
        self._tell: list[Callable[[str], None]] = []
        self._uses: dict[str, tuple[int, str]] = {}
        self._wrong: dict[str, tuple[int, int]] = {}  # guesses, since when
        self._buckets: OrderedDict[str, Bucket] = OrderedDict()
        self._whole = Bucket(tenant_rate, monotonic_ns())
        self._hashing = asyncio.Semaphore(_HASHING_MAX)
        devices.listen(self._changed)

    # -- who is it --------------------------------------------------------------------------------------------

    async def token(self, token: str, address: str = "") -> Device | Turned:
        if not token:
            return self._turn(Turned.MISSING)
        if len(token) > _SECRET_CHARS_MAX:
            return self._turn(Turned.UNKNOWN)
        mark = self._mark("token", token)
        held = self._held(mark)
        if held is None:
            found, changes = await self._find(CredentialKind.TOKEN, _plain_digest(token))
            held = self._keep(mark, self._choose(found), changes)
        return self._answer(held, "", address)

    async def password(self, user: str, password: str, client_id: str, address: str = "") -> Device | Turned:
        if not user:
            return self._turn(Turned.MISSING)
        if len(user) > _SECRET_CHARS_MAX or len(password) > _SECRET_CHARS_MAX:
            return self._turn(Turned.UNKNOWN)
        mark = self._mark("password", user, password)
        held = self._held(mark)
        if held is None:
            guesses = f"user {user[:128]} {address}"
            if self._guessed(guesses):
                return self._turn(Turned.FLOOD)
            held = await self._prove(user, password, mark, guesses)
        if held is Turned.FOREIGN:
            return self._turn(Turned.UNKNOWN)
        return self._answer(held, user, address)

    async def _prove(self, user: str, password: str, mark: bytes, guesses: str) -> Found | Turned:
        """FOREIGN for somebody's name with what is not theirs: refused in the mode DEV too."""
        while True:
            found, changes = await self._find(CredentialKind.PASSWORD, user.encode(errors="replace"))
            shown = [one for one in found if await self._proves(one, mark, password)]
            if changes == self._changes:
                break
        if found and not shown:
            self._wrong_again(guesses)
            return self._keep(mark, Turned.FOREIGN, changes)
        return self._keep(mark, self._choose(shown), changes)

    async def certificate(self, der: bytes, address: str = "") -> Device | Turned:
        held = await self._look(hashlib.sha256(der).digest())
        if held is not Turned.UNKNOWN:
            return self._answer(held, "", address)
        if self._now_ns() >= device_certificates.expiry_ns(der):
            return self._turn(Turned.EXPIRED)
        return self._answer(held, device_certificates.common_name(der), address)

    async def shown(self, fingerprint: bytes, address: str = "") -> Device | Turned:
        """`certificate`, for one whose holder proved it in another way than by TLS."""
        return self._answer(await self._look(fingerprint), "", address)

    async def _look(self, fingerprint: bytes) -> Found | Turned:
        held = self._held(fingerprint)
        if held is not None:
            return held
        found, changes = await self._find(CredentialKind.CERTIFICATE, fingerprint)
        return self._keep(fingerprint, self._choose(found), changes)

    async def anonymous(self, name: str, address: str) -> Device | Turned:
        return self._unknown(name, address, Turned.MISSING)

    def _choose(self, found: Sequence[Found]) -> Found | Turned:
        """Of credentials that were shown, the one that counts, else why none does."""
        now_ns = self._now_ns()
        for one in found:
            if one.revoked_ns is None and (one.expires_ns is None or now_ns < one.expires_ns):
                return one
        if not found:
            return Turned.UNKNOWN
        return Turned.EXPIRED if any(one.revoked_ns is None for one in found) else Turned.REVOKED

    async def _proves(self, found: Found, mark: bytes, password: str) -> bool:
        if self._proved.get(mark) == found.id:
            return True
        if not is_slow(found.proof):
            return proves(found.proof, password)
        async with self._hashing:
            proved = await asyncio.to_thread(proves, found.proof, password)
        if proved:
            if len(self._proved) >= limits.doorkeeper_known_max:
                self._proved.clear()
            self._proved[mark] = found.id
        return proved

    def _answer(self, held: Found | Turned, name: str, address: str) -> Device | Turned:
        if isinstance(held, Turned):
            return self._unknown(name, address, held) if held is Turned.UNKNOWN else self._turn(held)
        if held.expires_ns is not None and self._now_ns() >= held.expires_ns:
            return self._turn(Turned.EXPIRED)
        self._uses[held.id] = (self._now_ns(), address)
        return Device(held.node_id, held.name, held.id, self._tenant, held.gateway, address)

    def _unknown(self, name: str, address: str, why: Turned) -> Device | Turned:
        if self.mode is Mode.PROD:
            return self._turn(why)
        called = "".join(char for char in name[: limits.name_chars_max] if char.isprintable())
        return Device("", called, tenant=self._tenant, address=address or "unknown")

    def _turn(self, why: Turned) -> Turned:
        self.turned[why] += 1
        return why

    # -- what was looked up -----------------------------------------------------------------------------------

    def _mark(self, *parts: str) -> bytes:
        digest = hashlib.blake2b(key=self._key, digest_size=16)
        for part in parts:
            raw = part.encode(errors="surrogatepass")
            digest.update(len(raw).to_bytes(4) + raw)
        return digest.digest()

    def _held(self, mark: bytes) -> Found | Turned | None:
        held = self._known.get(mark) or self._refused.get(mark)
        return held.answer if held is not None and self._monotonic_ns() < held.until_ns else None

    async def _find(self, kind: CredentialKind, lookup: bytes) -> tuple[list[Found], int]:
        """What the registry has, and as of how many changes; looked up again when a change overtook the look-up."""
        while True:
            changes = self._changes
            found = await self._devices.find(kind, lookup)
            if changes == self._changes:
                return found, changes

    def _keep(self, mark: bytes, answer: Found | Turned, changes: int) -> Found | Turned:
        """`changes`: as many as there had been when the look-up began; one that was overtaken is not kept."""
        self.looked_up += 1
        table, most = self._known, limits.doorkeeper_known_max
        if isinstance(answer, Turned):
            table, most = self._refused, limits.doorkeeper_refused_max
        if self._changes == changes:
            if len(table) >= most:
                table.clear()
            (self._refused if table is self._known else self._known).pop(mark, None)
            table[mark] = _Held(answer, self._monotonic_ns() + self._ttl_ns)
        return answer

    def _changed(self, ended: Sequence[str], changed: Sequence[str] = ()) -> None:
        """The registry wrote something: whoever was refused may be welcome now, and these are not any more."""
        self._changes += 1
        self._refused.clear()
        gone = frozenset((*ended, *changed))
        for mark, held in tuple(self._known.items()):
            if isinstance(held.answer, Found) and held.answer.id in gone:
                del self._known[mark]
        for mark, proved in tuple(self._proved.items()):
            if proved in gone:
                del self._proved[mark]
        for credential in ended:
            for tell in self._tell:
                tell(credential)

    def on_revoked(self, tell: Callable[[str], None]) -> None:
        self._tell.append(tell)

    # -- how much ---------------------------------------------------------------------------------------------

    def allow(self, device: Device, messages: int, size: int) -> float:
        one, whole = self._device_rate, self._tenant_rate
        if not one.bounded and not whole.bounded:
            return 0.0
        now_ns, bucket = self._monotonic_ns(), None
        wait = 0.0
        if one.bounded:
            name = device.node_id or device.address
            bucket = self._buckets.get(name)
            if bucket is None:
                if len(self._buckets) >= limits.buckets_max:
                    self._buckets.popitem(last=False)
                bucket = self._buckets[name] = Bucket(one, now_ns)
            else:
                self._buckets.move_to_end(name)
            wait = bucket.lacks(one, messages, size, now_ns)
        if whole.bounded:
            wait = max(wait, self._whole.lacks(whole, messages, size, now_ns))
        if wait:
            return wait
        if bucket is not None:
            bucket.take(messages, size)
        if whole.bounded:
            self._whole.take(messages, size)
        return 0.0

    # -- new ones ---------------------------------------------------------------------------------------------

    async def provision(self, wish: Provision, address: str = "") -> Provisioned | Turned:
        """FOREIGN when the name is somebody else's, or the request for a certificate is none."""
        try:
            return await self.trade(wish, address)
        except Refused:
            return self._turn(Turned.FOREIGN)

    async def trade(self, wish: Provision, address: str) -> Provisioned | Turned:
        """`provision`, with what is wrong as Refused and its sentence; the code is good as before then."""
        guesses = f"code {address}"
        if self._guessed(guesses):
            return self._turn(Turned.FLOOD)
        if not wish.code:
            return self._turn(Turned.MISSING)
        enrolled = await self._devices.trade(wish.code[:_SECRET_CHARS_MAX], wish.name, address, wish.csr_pem)
        if enrolled is None:
            self._wrong_again(guesses)
            return self._turn(Turned.UNKNOWN)
        await self._entered(enrolled.node, enrolled.fresh)
        issued = enrolled.issued
        return Provisioned(issued.node_id, issued.secret, issued.certificate_pem, issued.ca_pem)

    async def renew(self, device: Device, why: str, pem: str = "") -> Provisioned:
        """What the device showed, anew; the old one counts until its grace is over. Refused when it cannot be."""
        await self.tell_uses()
        who = Who(f"device {device.name}", device.address)
        issued = await self._devices.rotate(who, device.credential, why, pem)
        return Provisioned(issued.node_id, issued.secret, issued.certificate_pem, issued.ca_pem)

    def _guessed(self, whose: str) -> bool:
        """Whether too many guesses came from there lately."""
        times, since_ns = self._wrong.get(whose, (0, 0))
        return times >= _WRONG_MAX and self._monotonic_ns() < since_ns + _WRONG_NS

    def _wrong_again(self, whose: str) -> None:
        if len(self._wrong) >= _WRONG_HELD_MAX:
            self._wrong.clear()
        times, since_ns = self._wrong.get(whose, (0, 0))
        now_ns = self._monotonic_ns()
        if now_ns >= since_ns + _WRONG_NS:
            times, since_ns = 0, now_ns
        self._wrong[whose] = (times + 1, since_ns)

    # -- as time goes by --------------------------------------------------------------------------------------

    async def tell_uses(self) -> None:
        """Write who came in lately."""
        uses, self._uses = self._uses, {}
        if not uses:
            return
        try:
            await self._devices.used((credential, *use) for credential, use in uses.items())
        except StoreFault:
            self._uses = {**uses, **self._uses}

    async def run(self) -> None:
        """Tell of what expires, and write down who came in."""
        last_ns, ticks = self._now_ns(), 0
        while True:
            await asyncio.sleep(_TICK_S)
            now_ns, ticks = self._now_ns(), ticks + 1
            try:
                await self.tell_expired(last_ns)
            except (StoreFault, TimeoutError):
                continue  # asked again from where it stands
            last_ns = now_ns
            if ticks % _USES_EVERY == 0:
                await self.tell_uses()

    async def tell_expired(self, since_ns: int) -> None:
        """Whoever holds a connection with a credential whose time came since then ends it."""
        ended = await self._devices.expired(since_ns, self._now_ns())
        if ended:
            self._changed(ended)

    @property
    def remembered(self) -> tuple[int, int, int]:
        """How many credentials, refusals and buckets."""
        return len(self._known), len(self._refused), len(self._buckets)


def _plain_digest(token: str) -> bytes:
    """As `store.keys.secret_hash`, whatever the characters are."""
    return hashlib.sha256(token.encode(errors="surrogatepass")).digest()
