"""Devices that say who they are: what every way in with credentials asks, whoever answers it. Shapes and promises only.

Rules of the file
  1  Who sent something is decided by the connection (token, password, certificate), never by what the payload says.
  2  A device's records stand under the address `@NODE_ID`, so that its node claims them whichever way in it uses, from
     wherever it calls. Behind a gateway the device's name follows: `@GATEWAY/NAME`, a sender of its own.
  3  Refusals are values; the way in says them in its protocol's own terms (CONNACK 5, 401, an alert of TLS).
  4  Everything here runs on the event loop; what is durable is so when the awaited call returns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import NamedTuple, Protocol

PROVISION = "provision"
"""The user name of one that has no credential yet and comes to ask for one. The way in lets it in by itself, as
`Device("", PROVISION, PROVISION, address=…)`; the device API takes nothing else from it."""


class Turned(StrEnum):
    """Why somebody does not come in: one word for counting and quarantine."""

    UNKNOWN = "unknown credential"
    REVOKED = "revoked credential"
    EXPIRED = "expired credential"
    MISSING = "no credential"
    FOREIGN = "not the device's own"  # a topic or path of somebody else
    FLOOD = "too much at once"


class Unreadable(StrEnum):
    """Why the body of a message is not what its topic asks for: the members are those of whoever reads it."""


class Device(NamedTuple):
    """Who is at the other end. `node_id` is empty for one that nobody knows and that the mode DEV lets in all the same:
    its records are an unclaimed source under its network address, as syslog's are."""

    node_id: str
    name: str
    credential: str = ""  # the id of what it showed, never a secret
    tenant: str = "default"
    gateway: bool = False  # may speak for others
    address: str = ""  # of the network, for who is unknown

    def source(self, intake: str, behind: str = "") -> str:
        """The key of the source of its records; `behind`: a device that it speaks for."""
        if self.node_id:
            return f"{intake}/@{self.node_id}/{behind}"
        return f"{intake}/{self.address}/{behind or self.name}"


class Provision(NamedTuple):
    """What a new device shows to get a credential: the code that an operator made, the name it wants, and, to get a
    certificate instead of a token, a request for one (PKCS #10, PEM)."""

    code: str
    name: str = ""
    csr_pem: str = ""


class Provisioned(NamedTuple):
    node_id: str
    token: str = ""  # one of the two
    certificate_pem: str = ""
    ca_pem: str = ""


class Doorkeeper(Protocol):
    """Who may come in. Answers are cached for `intake.auth_ttl_s`, refusals too; a revocation counts at once."""

    async def token(self, token: str, address: str = "") -> Device | Turned: ...

    async def password(self, user: str, password: str, client_id: str, address: str = "") -> Device | Turned: ...

    async def certificate(self, der: bytes, address: str = "") -> Device | Turned:
        """`der`: the peer's certificate, whose chain TLS has verified."""

    async def anonymous(self, name: str, address: str) -> Device | Turned:
        """One that shows nothing: let in as unknown in DEV, MISSING in PROD."""

    def allow(self, device: Device, messages: int, size: int) -> float:
        """0.0 when the device's bucket and its tenant's hold so much, which is then taken; else seconds until they
        will, and nothing is taken. `size` in bytes."""

    async def provision(self, wish: Provision, address: str = "") -> Provisioned | Turned: ...

    def on_revoked(self, tell: Callable[[str], None]) -> None:
        """`tell(credential id)` is called on the event loop as soon as a credential is revoked, so that whoever holds a
        connection that used it ends it."""


class Line(Protocol):
    """One connected device, however it is connected."""

    device: Device

    def send(self, topic: str, payload: bytes) -> bool:
        """To this device, if it has subscribed to a filter that `topic` matches. False when it has not, or is gone. A
        device that does not read is cut off by the way in, never waited for."""


class Away(Protocol):
    """A device that is away and comes back to what it subscribed to."""

    device: Device

    def takes(self, topic: str) -> bool:
        """Whether it is told again and again what is said there, until it says that it has it."""


class Taken(NamedTuple):
    """What a message from a device comes to: records to store (each under which name behind the gateway, "" for the device
    itself, with its bytes as they came), or a reason why not, for quarantine. Answers go by `Line.send`.

    `intake`: under which one the records stand where that is not the way in's own. `secret`: the bytes of what was refused
    hold a secret, so they are counted and not kept."""

    records: Sequence[tuple[str, bytes]] = ()
    refused: str = ""
    intake: str = ""
    secret: bool = False


class Newcomers(Protocol):
    """Who is behind a gateway, by sender (`@GATEWAY/NAME`): told of when it is first spoken of, a node soon after."""

    def heard(self, sender: str) -> None: ...

    def coming(self, sender: str) -> bool: ...

    def __len__(self) -> int: ...


class DeviceApi(Protocol):
    """What topics mean, whichever protocol carries them. All synchronous and quick: what takes longer is begun here and
    answered later by `Line.send`."""

    def opened(self, line: Line) -> None: ...

    def closed(self, line: Line) -> None: ...

    def left(self, line: Line, away: Away) -> None:
        """Before `closed`: it means to come back."""

    def back(self, away: Away, line: Line) -> None:
        """Before `opened`: here it is again."""

    def gone(self, away: Away) -> None:
        """It is not waited for any more."""

    def may_subscribe(self, device: Device, topic_filter: str) -> bool: ...

    def published(self, line: Line, topic: str, payload: bytes) -> Taken: ...
