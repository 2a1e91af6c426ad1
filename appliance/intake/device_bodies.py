"""Bodies of the device API: what does a device say in this JSON, and what is wrong with it?

The shapes are ThingsBoard's. A function gives what was said, or a `Fault` with the sentence that the sender reads.

Rules of the file
  1  Nothing is raised for any body. Size and depth are bounded before anything is decoded.
  2  What is stored is never encoded again: `msgspec.Raw` is the very bytes between two commas.
  3  What is needed is decoded and no more: of telemetry, nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, TypeVar

import msgspec

from appliance.intake import payload, topics
from appliance.intake.device import Unreadable
from appliance.intake.payload import Mark
from fleet import limits


class Fault(Unreadable):
    """Why a body is not what its topic asks for."""

    TOO_LONG = f"a message has at most {limits.record_bytes_max} bytes"
    TOO_DEEP = f"a message nests at most {limits.json_depth_max} deep"
    NOT_JSON = "this is no valid JSON"
    NOT_DATA = "telemetry is a JSON object, or an array of them"
    NOT_ATTRIBUTES = "attributes are a JSON object"
    NOT_DEVICES = "what a gateway says is a JSON object with the names of its devices"
    TOO_MANY_DEVICES = f"a gateway names at most {limits.gateway_devices_max} devices in one message"
    BAD_NAME = f"the name of a device is 1 to {limits.name_chars_max} printable characters"
    NOT_KEYS = 'a request for attributes is {"clientKeys": "a,b", "sharedKeys": "c"}'
    NOT_GATEWAY_KEYS = 'a request for attributes is {"id": 1, "device": "A", "client": true, "key": "k"}'
    NOT_A_CALL = 'a call is {"method": "name", "params": {}}'
    NOT_A_GATEWAY_ANSWER = 'an answer to a call is {"device": "A", "id": 1, "data": {}}'
    NOT_A_CLAIM = 'a claim is {"secretKey": "secret", "durationMs": 60000}'
    NOT_A_WISH = (
        'a request for provisioning is {"deviceName": "A", "provisionDeviceKey": "k", "provisionDeviceSecret": "s"}'
    )


_T = TypeVar("_T")
_RAW = msgspec.json.Decoder(msgspec.Raw).decode
_ARRAY = msgspec.json.Decoder(list[msgspec.Raw]).decode
_MEMBERS = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_ANY = msgspec.json.Decoder().decode
_DATA = (b"{", b"[")
_BLANK = b" \t\r\n"
_MESSAGE_BYTES_MAX = limits.record_bytes_max * 16  # of a gateway for all its devices; each part is one record at most


def telemetry(body: bytes) -> Fault | None:
    """None when it can be stored as it is. Only its outer form is looked at: what it says is for the interpreter."""
    if len(body) > limits.record_bytes_max:
        return Fault.TOO_LONG
    if payload.too_deep(body):
        return Fault.TOO_DEEP
    try:
        _RAW(body)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return None if _mends(body) else Fault.NOT_JSON
    return None if body[:1] in _DATA or body.lstrip(_BLANK)[:1] in _DATA else Fault.NOT_DATA


def part(raw: bytes) -> Fault | None:
    """The same of what a gateway says of one device, which has been found to be JSON."""
    if len(raw) > limits.record_bytes_max:
        return Fault.TOO_LONG
    return None if raw[:1] in _DATA else Fault.NOT_DATA


def _mends(body: bytes) -> bool:
    """Whether it is JSON but for NaN and infinities in it, as many encoders write them; the interpreter reads around them."""
    marks = payload.read(body).marks
    return body.lstrip(_BLANK)[:1] in _DATA and Mark.NOT_A_NUMBER in marks and Mark.BAD_JSON not in marks


def points(body: bytes) -> list[bytes]:
    """The elements of telemetry that is an array, each as it came; else the whole as its only one."""
    if body.lstrip(_BLANK)[:1] != b"[":
        return [body]
    try:
        return [bytes(one) for one in _ARRAY(body)]
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return [body]


def attributes(body: bytes) -> Mapping[str, bytes] | Fault:
    """Each value as JSON. It is said again to whoever asks, so every character of it is read here."""
    found = _members(body, Fault.NOT_ATTRIBUTES)
    if isinstance(found, Fault):
        return found
    return {name: bytes(one) for name, one in found.items()} if decodes(body) else Fault.NOT_JSON


def decodes(body: bytes) -> bool:
    """Whether all of it can be read; `msgspec.Raw` only asks where a value ends."""
    try:
        _ANY(body)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return False
    return True


def of_devices(body: bytes) -> Mapping[str, bytes] | Fault:
    """What a gateway says of each of its devices, as it came."""
    found = _members(body, Fault.NOT_DEVICES, _MESSAGE_BYTES_MAX)
    if isinstance(found, Fault):
        return found
    if len(found) > limits.gateway_devices_max:
        return Fault.TOO_MANY_DEVICES
    if not all(map(topics.is_name, found)):
        return Fault.BAD_NAME
    return {name: bytes(part) for name, part in found.items()}


def _members(body: bytes, otherwise: Fault, bytes_max: int = limits.record_bytes_max) -> dict[str, msgspec.Raw] | Fault:
    if len(body) > bytes_max:
        return Fault.TOO_LONG
    if payload.too_deep(body):
        return Fault.TOO_DEEP
    try:
        return _MEMBERS(body)
    except msgspec.ValidationError:
        return otherwise
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return Fault.NOT_JSON


class Device(msgspec.Struct, frozen=True):
    """Of `v1/gateway/connect` and `disconnect`."""

    device: str


class Keys(msgspec.Struct, frozen=True, rename="camel"):
    client_keys: str | None = None
    shared_keys: str | None = None


class GatewayKeys(msgspec.Struct, frozen=True):
    id: int
    device: str
    client: bool = False
    key: str | None = None
    keys: list[str] | str | None = None

    @property
    def wanted(self) -> tuple[str, ...]:
        if self.key is not None:
            return (self.key,)
        return split(self.keys) if isinstance(self.keys, str) else tuple(self.keys or ())


class Call(msgspec.Struct, frozen=True):
    method: str
    params: Any = None


class GatewayAnswer(msgspec.Struct, frozen=True):
    device: str
    id: int
    data: msgspec.Raw = msgspec.Raw(b"null")


class Claim(msgspec.Struct, frozen=True, rename="camel"):
    secret_key: str
    duration_ms: int | float | None = None


class Wish(msgspec.Struct, frozen=True, rename="camel"):
    """Of one that wants to be provisioned. `csr`: a request for a certificate (PKCS #10, PEM), for X509_CERTIFICATE."""

    device_name: str = ""
    provision_device_key: str = ""
    provision_device_secret: str = ""
    credentials_type: str = "ACCESS_TOKEN"
    csr: str = ""


class _Shape(NamedTuple):
    decoder: msgspec.json.Decoder[Any]
    otherwise: Fault


_SHAPES: dict[type, _Shape] = {
    Device: _Shape(msgspec.json.Decoder(Device), Fault.BAD_NAME),
    Keys: _Shape(msgspec.json.Decoder(Keys), Fault.NOT_KEYS),
    GatewayKeys: _Shape(msgspec.json.Decoder(GatewayKeys), Fault.NOT_GATEWAY_KEYS),
    Call: _Shape(msgspec.json.Decoder(Call), Fault.NOT_A_CALL),
    GatewayAnswer: _Shape(msgspec.json.Decoder(GatewayAnswer), Fault.NOT_A_GATEWAY_ANSWER),
    Claim: _Shape(msgspec.json.Decoder(Claim), Fault.NOT_A_CLAIM),
    Wish: _Shape(msgspec.json.Decoder(Wish), Fault.NOT_A_WISH),
}


def read(body: bytes, shape: type[_T]) -> _T | Fault:
    """`body` as one of the shapes above."""
    decoder, otherwise = _SHAPES[shape]
    if len(body) > limits.record_bytes_max:
        return Fault.TOO_LONG
    if payload.too_deep(body):
        return Fault.TOO_DEEP
    try:
        found: _T = decoder.decode(body)
    except msgspec.ValidationError:
        return otherwise
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return Fault.NOT_JSON
    return found


def value(body: bytes) -> object | Fault:
    """Any JSON, decoded: what a device answers to a call."""
    if len(body) > limits.record_bytes_max:
        return Fault.TOO_LONG
    if payload.too_deep(body):
        return Fault.TOO_DEEP
    try:
        found: object = _ANY(body)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return Fault.NOT_JSON
    return found


def split(keys: str | None) -> tuple[str, ...]:
    """`a,b` as a device writes the keys that it asks for."""
    return tuple(filter(None, (key.strip() for key in (keys or "").split(","))))
