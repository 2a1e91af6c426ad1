"""The device API (`device.DeviceApi`): what a message on a topic comes to, whichever protocol carried it.

ThingsBoard's device and gateway API over MQTT topics; its HTTP twin (`device_http`) says the same things as topics, and
comes through here too. `topics` knows what a topic means, `device_bodies` what a body says; what is left is done here.

Rules of the file
  1  All of it runs on the event loop and is quick; telemetry, which is most of it, takes the first branch.
  2  Data becomes records, byte for byte. A question is answered by `Line.send` and is no record; neither is a secret.
  3  A message is taken whole or refused whole, with a sentence.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping

import msgspec

from appliance.intake import attributes, topics
from appliance.intake import device_attributes as told
from appliance.intake import device_bodies as bodies
from appliance.intake.device import PROVISION, Away, Device, Line, Newcomers, Provision, Provisioned, Taken, Turned
from appliance.intake.device_attributes import Ask, Attributes, Nodes, Values
from appliance.intake.device_bodies import Fault
from appliance.intake.device_calls import Calls
from appliance.intake.device_claims import Claims
from appliance.intake.device_seats import Seat, Seats, sender
from appliance.intake.topics import Means, Meant
from fleet import limits
from fleet.limits import MS

_TELEMETRY = topics.TELEMETRY
_NOTHING = Taken()
BUSY = "too many questions wait for an answer; ask again"
NO_PACKAGE = "there is no package for this device here"
_encode = msgspec.json.Encoder().encode

Provisioner = Callable[[Provision, str], Awaitable[Provisioned | Turned]]


class SessionLimits(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """What a device may do in a session, as it reads it. A rate is `N:SECONDS`, several with commas; empty: no limit."""

    max_payload_size: int
    max_inflight_messages: int
    rate_limits: Mapping[str, str]
    gateway_rate_limits: Mapping[str, str] = {}


def session_limits(device: Device, *, messages_per_s: int = 0, inflight: int = 100) -> SessionLimits:
    rate = f"{messages_per_s}:1" if messages_per_s else ""
    rates = {"messages": rate, "telemetryMessages": rate, "telemetryDataPoints": ""}
    return SessionLimits(limits.record_bytes_max, inflight, rates, rates if device.gateway else {})


class Api:
    def __init__(
        self,
        nodes: Nodes,
        provision: Provisioner,
        *,
        now_ns: Callable[[], int],
        now_s: Callable[[], float] = time.monotonic,
        limits_of: Callable[[Device], SessionLimits] = session_limits,
        newcomers: Newcomers | None = None,
    ) -> None:
        self._nodes, self._newcomers = nodes, newcomers
        self.seats = Seats(now_s=now_s)
        self.calls = Calls(self.seats, nodes.senders)
        self.attributes = Attributes(self.seats, nodes)
        self.claims = Claims()
        self._provision, self._now_ns, self._now_s, self._limits_of = provision, now_ns, now_s, limits_of
        self._provisioning: set[asyncio.Task[None]] = set()

    # -- lines ------------------------------------------------------------------------------------------------

    def opened(self, line: Line) -> None:
        if self.seats.enter(line):
            self.attributes.opened(sender(line.device))

    def closed(self, line: Line) -> None:
        self.seats.close(line)

    def left(self, line: Line, away: Away) -> None:
        self.seats.leave_for_now(line, away, self.attributes.told)

    def back(self, away: Away, line: Line) -> None:
        for who, left in self.seats.come_back(away).items():
            if self.seats.enter(line, left.behind):
                self.attributes.back(who, Seat(line, left.behind), left.told)

    def gone(self, away: Away) -> None:
        self.seats.come_back(away)

    def may_subscribe(self, device: Device, topic_filter: str) -> bool:
        return topics.may_subscribe(device, topic_filter)

    def published(self, line: Line, topic: str, payload: bytes) -> Taken:
        if topic == _TELEMETRY and line.device.credential != PROVISION:
            fault = bodies.telemetry(payload)
            return Taken((("", payload),)) if fault is None else Taken(refused=fault)
        meant = topics.meaning(topic, line.device)
        if isinstance(meant, topics.Not):
            return Taken(refused=meant.value, secret=topics.holds_secret(topic))
        return _HANDLERS[meant.means](self, line, meant, payload)

    # -- data -------------------------------------------------------------------------------------------------

    def _telemetry(self, line: Line, meant: Meant, payload: bytes) -> Taken:
        self._heard(line, meant.behind)
        fault = bodies.telemetry(payload)
        return Taken(((meant.behind, payload),)) if fault is None else Taken(refused=fault)

    def _free(self, line: Line, meant: Meant, payload: bytes) -> Taken:
        """What it says stays open; the interpreter reads words and numbers in whatever it is."""
        if len(payload) > limits.record_bytes_max:
            return Taken(refused=Fault.TOO_LONG)
        return Taken((("", payload),)) if payload else _NOTHING

    def _attributes(self, line: Line, meant: Meant, payload: bytes) -> Taken:
        said = bodies.attributes(payload)
        if isinstance(said, Fault):
            return Taken(refused=said)
        self._heard(line, meant.behind)
        self.attributes.say(sender(line.device, meant.behind), said)
        return Taken(((meant.behind, payload),), intake=attributes.INTAKE)

    def _gateway_telemetry(self, line: Line, meant: Meant, payload: bytes) -> Taken:
        parts = bodies.of_devices(payload)
        if isinstance(parts, Fault):
            return Taken(refused=parts)
        fault = next(filter(None, map(bodies.part, parts.values())), None)
        if fault is not None:
            return Taken(refused=fault)
        for name in parts:
            self._heard(line, name)
        return Taken(tuple(parts.items()))

    def _gateway_attributes(self, line: Line, meant: Meant, payload: bytes) -> Taken:
        parts = bodies.of_devices(payload)
        if isinstance(parts, Fault):
            return Taken(refused=parts)
        said: dict[str, Values] = {}
        for name, part in parts.items():
            found = bodies.attributes(part)
            if isinstance(found, Fault):
                return Taken(refused=found)
            said[name] = found
        for name, values in said.items():
            self._heard(line, name)
            self.attributes.say(sender(line.device, name), values)
        return Taken(tuple(parts.items()), intake=attributes.INTAKE)

    def _heard(self, line: Line, behind: str) -> None:
        """A gateway that speaks for a device has connected it."""
        if behind and self.seats.enter(line, behind):
            who = sender(line.device, behind)
            if self._newcomers is not None:
                self._newcomers.heard(who)
            self.attributes.opened(who)

    def _gateway_connect(self, line: Line, meant: Meant, payload: bytes) -> Taken:
        said = _named(payload)
        if isinstance(said, Fault):
            return Taken(refused=said)
        self._heard(line, said)
        return _NOTHING

    def _gateway_disconnect(self, line: Line, meant: Meant, payload: bytes) -> Taken:
        said = _named(payload)
        if isinstance(said, Fault):
            return Taken(refused=said)
        self.seats.leave(line, said)
        return _NOTHING

    # -- questions --------------------------------------------------------------------------------------------

    def _attributes_asked(self, line: Line, meant: Meant, payload: bytes) -> Taken:
        asked = bodies.read(payload or b"{}", bodies.Keys)
        if isinstance(asked, Fault):
            return Taken(refused=asked)
        every = asked.client_keys is None and asked.shared_keys is None
        client = bodies.split(asked.client_keys) if every or asked.client_keys is not None else None
        shared = bodies.split(asked.shared_keys) if every or asked.shared_keys is not None else None

        def answer(said: Values, wanted: Values) -> None:
            line.send(meant.style.attributes_answer + meant.request, told.answer(said, wanted))

        return self._ask(Ask(sender(line.device, meant.behind), client, shared, answer))

    def _gateway_attributes_asked(self, line: Line, meant: Meant, payload: bytes) -> Taken:
        asked = bodies.read(payload, bodies.GatewayKeys)
        if isinstance(asked, Fault):
            return Taken(refused=asked)
        if not topics.is_name(asked.device):
            return Taken(refused=Fault.BAD_NAME)
        several = asked.key is None

        def answer(said: Values, wanted: Values) -> None:
            values = said if asked.client else wanted
            body = told.answer_of_gateway(asked.id, asked.device, values, several=several)
            line.send(meant.style.attributes_answer, body)

        self._heard(line, asked.device)
        client, shared = (asked.wanted, None) if asked.client else (None, asked.wanted)
        return self._ask(Ask(sender(line.device, asked.device), client, shared, answer))

    def _ask(self, ask: Ask) -> Taken:
        return _NOTHING if self.attributes.ask(ask) else Taken(refused=BUSY)

    def _call(self, line: Line, meant: Meant, payload: bytes) -> Taken:
        call = bodies.read(payload, bodies.Call)
        if isinstance(call, Fault):
            return Taken(refused=call)
        line.send(meant.style.call_answer + meant.request, _encode(self.answer(line.device, call)))
        return _NOTHING

    def answer(self, device: Device, call: bodies.Call) -> object:
        """What a device that calls a method here is told."""
        if call.method == "getSessionLimits":
            return self._limits_of(device)
        if call.method == "getCurrentTime":
            return self._now_ns() // MS
        return {"error": f"there is no method {call.method[:100]!r} here; there is getSessionLimits and getCurrentTime"}

    def _chunk_asked(self, line: Line, meant: Meant, payload: bytes) -> Taken:
        """In ThingsBoard's words, on its topic for errors; refused where the device does not listen there."""
        told = line.send(topics.chunk_error(meant.request), NO_PACKAGE.encode())
        return _NOTHING if told else Taken(refused=NO_PACKAGE)

    def _answer(self, line: Line, meant: Meant, payload: bytes) -> Taken:
        return Taken(refused=self.calls.hear(Seat(line, meant.behind), meant.request, payload))

    def _gateway_answer(self, line: Line, meant: Meant, payload: bytes) -> Taken:
        said = bodies.read(payload, bodies.GatewayAnswer)
        if isinstance(said, Fault):
            return Taken(refused=said)
        return Taken(refused=self.calls.hear(Seat(line, said.device), str(said.id), bytes(said.data)))

    # -- who it is --------------------------------------------------------------------------------------------

    def _claim(self, line: Line, meant: Meant, payload: bytes) -> Taken:
        claim = bodies.read(payload, bodies.Claim)
        if isinstance(claim, Fault) or not self.claims.offer(sender(line.device, meant.behind), claim, self._now_s()):
            return Taken(refused=Fault.NOT_A_CLAIM, secret=True)
        return _NOTHING

    def _gateway_claim(self, line: Line, meant: Meant, payload: bytes) -> Taken:
        parts = bodies.of_devices(payload)
        if isinstance(parts, Fault):
            return Taken(refused=parts, secret=True)
        claims = {name: bodies.read(part, bodies.Claim) for name, part in parts.items()}
        for name, claim in claims.items():
            if isinstance(claim, Fault) or not self.claims.offer(sender(line.device, name), claim, self._now_s()):
                return Taken(refused=Fault.NOT_A_CLAIM, secret=True)
        return _NOTHING

    def claim(self, node_id: str, secret: str) -> None:
        """Refused unless the node's device said this secret and still stands by it."""
        self.claims.take(self._nodes.senders(node_id), secret, self._now_s())

    def waiting(self) -> Mapping[str, int]:
        """How much there is of what has a bound."""
        return {
            "seats": len(self.seats),
            "seats_away": self.seats.away_count,
            "calls": len(self.calls),
            "attribute_requests": len(self.attributes),
            "provisions": len(self._provisioning),
            "claims": len(self.claims),
            "newcomers": len(self._newcomers or ()),
        }

    def connected(self, node_id: str) -> bool:
        return bool(self.seats.of(self._nodes.senders(node_id)))

    def offers(self, node_id: str) -> bool:
        """Whether its device has said a secret to be claimed with."""
        return self.claims.waiting(self._nodes.senders(node_id), self._now_s())

    def _provision_asked(self, line: Line, meant: Meant, payload: bytes) -> Taken:
        if len(self._provisioning) >= limits.provisions_waiting_max:
            line.send(topics.PROVISIONED, _encode(_failed("too many devices are being provisioned; try again")))
            return _NOTHING

        async def work() -> None:
            _, said = await self.provisioned(payload, line.device.address)
            line.send(topics.PROVISIONED, said)

        task = asyncio.get_running_loop().create_task(work())
        self._provisioning.add(task)
        task.add_done_callback(self._provisioning.discard)
        return _NOTHING

    async def provisioned(self, payload: bytes, address: str) -> tuple[bool, bytes]:
        """Whether a new device has a credential now, and what it is told."""
        wish = bodies.read(payload, bodies.Wish)
        if isinstance(wish, Fault):
            return False, _encode(_failed(wish))
        code = wish.provision_device_secret or wish.provision_device_key
        certificate = wish.credentials_type == "X509_CERTIFICATE"
        if wish.credentials_type not in ("ACCESS_TOKEN", "X509_CERTIFICATE") or certificate != bool(wish.csr):
            return False, _encode(_failed("ask for ACCESS_TOKEN, or for X509_CERTIFICATE with a csr (PKCS #10, PEM)"))
        made = await self._provision(Provision(code, wish.device_name, wish.csr), address)
        if isinstance(made, Turned):
            return False, _encode(_failed(f"the activation code is not good: {made}"))
        said = {"status": "SUCCESS", "provisionDeviceStatus": "SUCCESS", "credentialsType": wish.credentials_type}
        if certificate:
            return True, _encode({**said, "credentialsValue": made.certificate_pem, "caCertificate": made.ca_pem})
        return True, _encode({**said, "credentialsValue": made.token})


def _failed(why: str) -> Mapping[str, str]:
    return {"status": "FAILURE", "provisionDeviceStatus": "FAILURE", "errorMsg": why}


def _named(payload: bytes) -> str | Fault:
    said = bodies.read(payload, bodies.Device)
    if isinstance(said, Fault):
        return said
    return said.device if topics.is_name(said.device) else Fault.BAD_NAME


_HANDLERS: Mapping[Means, Callable[[Api, Line, Meant, bytes], Taken]] = {
    Means.TELEMETRY: Api._telemetry,
    Means.FREE: Api._free,
    Means.ATTRIBUTES: Api._attributes,
    Means.ATTRIBUTES_ASKED: Api._attributes_asked,
    Means.CALL: Api._call,
    Means.ANSWER: Api._answer,
    Means.CHUNK: Api._chunk_asked,
    Means.CLAIM: Api._claim,
    Means.PROVISION: Api._provision_asked,
    Means.GATEWAY_CONNECT: Api._gateway_connect,
    Means.GATEWAY_DISCONNECT: Api._gateway_disconnect,
    Means.GATEWAY_TELEMETRY: Api._gateway_telemetry,
    Means.GATEWAY_ATTRIBUTES: Api._gateway_attributes,
    Means.GATEWAY_ATTRIBUTES_ASKED: Api._gateway_attributes_asked,
    Means.GATEWAY_ANSWER: Api._gateway_answer,
    Means.GATEWAY_CLAIM: Api._gateway_claim,
}
