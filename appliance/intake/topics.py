"""Topics of the device API: what is meant by a topic, whose is it, and on which topics is the answer said?

The topics are ThingsBoard's (https://thingsboard.io/docs/reference/mqtt-api and gateway-mqtt-api): `v1/devices/me/…`, the
short `v2/…`, `v1/gateway/…` and `/provision/request`; and beside them `v1/devices/ID/…` for devices that write their own
id or name into the topic. Any other topic is the device's own choice, and what comes there is data of the device.

Rules of the file
  1  A topic is looked up in tables; what stands in none of them, and begins as they do, means nothing here.
  2  Whose a topic is, is decided by who is connected: an id in it must be the device's own, or, from a gateway, one behind it.
  3  Nothing is raised for any topic, and all of it is linear in its length.
"""

from __future__ import annotations

import re
from enum import Enum, auto
from functools import lru_cache
from typing import NamedTuple

from appliance.intake.device import PROVISION, Device, Turned
from fleet import limits


class Means(Enum):
    """What a device wants with a message."""

    TELEMETRY = auto()
    ATTRIBUTES = auto()  # what it says of itself
    ATTRIBUTES_ASKED = auto()
    CALL = auto()  # of a method here
    ANSWER = auto()  # to a call of ours
    CLAIM = auto()
    PROVISION = auto()
    FREE = auto()  # data, on a topic of its own choice
    CHUNK = auto()  # of firmware or software that it asks for
    GATEWAY_CONNECT = auto()
    GATEWAY_DISCONNECT = auto()
    GATEWAY_TELEMETRY = auto()
    GATEWAY_ATTRIBUTES = auto()
    GATEWAY_ATTRIBUTES_ASKED = auto()
    GATEWAY_ANSWER = auto()
    GATEWAY_CLAIM = auto()


class Style(NamedTuple):
    """Where a device of this way of writing hears from us: whole topics, or what stands before the id of a request."""

    attributes: str
    attributes_answer: str
    call: str
    call_answer: str


class Meant(NamedTuple):
    """`behind`: the name of the device behind a gateway that it is about; `request`: the id in the topic, as written."""

    means: Means
    style: Style
    behind: str = ""
    request: str = ""


def style_of(name: str) -> Style:
    """Of `v1/devices/NAME/…`."""
    root = f"v1/devices/{name}/"
    return Style(root + "attributes", root + "attributes/response/", root + "rpc/request/", root + "rpc/response/")


TELEMETRY = "v1/devices/me/telemetry"
ME = style_of("me")
SHORT = Style("v2/a", "v2/a/res/", "v2/r/req/", "v2/r/res/")
SHORT_JSON = Style("v2/a/j", "v2/a/res/j/", "v2/r/req/j/", "v2/r/res/j/")
GATEWAY = Style("v1/gateway/attributes", "v1/gateway/attributes/response", "v1/gateway/rpc", "v1/gateway/rpc")
PROVISIONING, PROVISIONED = "/provision/request", "/provision/response"

_WHOLE: dict[str, Meant] = {
    TELEMETRY: Meant(Means.TELEMETRY, ME),
    "v1/devices/me/attributes": Meant(Means.ATTRIBUTES, ME),
    "v1/devices/me/claim": Meant(Means.CLAIM, ME),
    "v2/t": Meant(Means.TELEMETRY, SHORT),
    "v2/t/j": Meant(Means.TELEMETRY, SHORT_JSON),
    "v2/a": Meant(Means.ATTRIBUTES, SHORT),
    "v2/a/j": Meant(Means.ATTRIBUTES, SHORT_JSON),
}
_PROVISION = Meant(Means.PROVISION, ME)
_NUMBERED: tuple[tuple[str, Meant], ...] = (  # the id of the request follows; of two that fit, the longer stands first
    ("v1/devices/me/attributes/request/", Meant(Means.ATTRIBUTES_ASKED, ME)),
    ("v1/devices/me/rpc/request/", Meant(Means.CALL, ME)),
    ("v1/devices/me/rpc/response/", Meant(Means.ANSWER, ME)),
    ("v2/a/req/j/", Meant(Means.ATTRIBUTES_ASKED, SHORT_JSON)),
    ("v2/a/req/", Meant(Means.ATTRIBUTES_ASKED, SHORT)),
    ("v2/r/req/j/", Meant(Means.CALL, SHORT_JSON)),
    ("v2/r/req/", Meant(Means.CALL, SHORT)),
    ("v2/r/res/j/", Meant(Means.ANSWER, SHORT_JSON)),
    ("v2/r/res/", Meant(Means.ANSWER, SHORT)),
)
_OF_GATEWAYS: dict[str, Meant] = {
    "v1/gateway/telemetry": Meant(Means.GATEWAY_TELEMETRY, GATEWAY),
    "v1/gateway/attributes": Meant(Means.GATEWAY_ATTRIBUTES, GATEWAY),
    "v1/gateway/attributes/request": Meant(Means.GATEWAY_ATTRIBUTES_ASKED, GATEWAY),
    "v1/gateway/connect": Meant(Means.GATEWAY_CONNECT, GATEWAY),
    "v1/gateway/disconnect": Meant(Means.GATEWAY_DISCONNECT, GATEWAY),
    "v1/gateway/rpc": Meant(Means.GATEWAY_ANSWER, GATEWAY),
    "v1/gateway/claim": Meant(Means.GATEWAY_CLAIM, GATEWAY),
}
_FREE = Meant(Means.FREE, ME)
_OURS = ("v1/", "v2/", "/provision/", "$")
_DEVICES, _GATEWAYS = "v1/devices/", "v1/gateway/"
_NUMBER = re.compile(r"[0-9]{1,10}", re.ASCII)
_CHUNK = re.compile(r"v2/(fw|sw)/request/[0-9]{1,10}/chunk/[0-9]{1,10}", re.ASCII)


class Not(Enum):
    """Why a topic is no message of this device's."""

    FOREIGN = Turned.FOREIGN.value
    KNOWN = "this topic has no meaning here"


def meaning(topic: str, device: Device) -> Meant | Not:
    """What `device` means by publishing to `topic`."""
    return _remembered(topic, device) if len(topic) <= _REMEMBERED_CHARS else _meaning(topic, device)


def _meaning(topic: str, device: Device) -> Meant | Not:
    if is_new(device):
        return _PROVISION if topic == PROVISIONING else Not.FOREIGN
    found = _WHOLE.get(topic) or _numbered(topic) or _chunk(topic)
    if found is not None:
        return found
    if topic.startswith(_GATEWAYS):
        found = _OF_GATEWAYS.get(topic)
        return Not.KNOWN if found is None else found if device.gateway else Not.FOREIGN
    if not topic.startswith(_DEVICES):
        return Not.KNOWN if not topic or topic.startswith(_OURS) else _FREE
    name, _, rest = topic[len(_DEVICES) :].partition("/")
    if name == "me":
        return Not.KNOWN
    behind = _behind(name, device)
    if behind is None:
        return Not.FOREIGN
    mine = f"v1/devices/me/{rest}"
    found = _WHOLE.get(mine) or _numbered(mine)
    return Not.KNOWN if found is None else found._replace(style=style_of(name), behind=behind)


_remembered = lru_cache(maxsize=4_096)(_meaning)  # a device uses few topics, again and again
_REMEMBERED_CHARS = 128


def _behind(name: str, device: Device) -> str | None:
    """Which device behind the gateway a name in a topic is, "" for the device itself; None for somebody else."""
    if name and name in (device.node_id, device.name):
        return ""
    return name if device.gateway and is_name(name) else None


def _numbered(topic: str) -> Meant | None:
    for start, meant in _NUMBERED:
        if topic.startswith(start):
            request = topic[len(start) :]
            return meant._replace(request=request) if _NUMBER.fullmatch(request) else None
    return None


def _chunk(topic: str) -> Meant | None:
    found = _CHUNK.fullmatch(topic)
    return Meant(Means.CHUNK, SHORT, request=found[1]) if found else None


def chunk_error(which: str) -> str:
    """Where it is told that there is no chunk; `which` is fw or sw."""
    return f"v2/{which}/error"


def holds_secret(topic: str) -> bool:
    """Whether what is sent there is not to be kept, even when it is refused."""
    return topic == PROVISIONING or (topic.endswith("/claim") and topic.startswith(_OURS))


def is_new(device: Device) -> bool:
    """Whether it has come to be provisioned. No credential has this id."""
    return device.credential == PROVISION


def is_name(name: str) -> bool:
    """Whether a device behind a gateway may be called so."""
    return 0 < len(name) <= limits.name_chars_max and name.isprintable()


def styles(device: Device, behind: str = "") -> tuple[Style, ...]:
    """All the ways in which a device may have subscribed, the usual one first."""
    names = (behind,) if behind else (device.node_id, device.name)
    named = tuple(style_of(name) for name in names if _in_topics(name))
    return (GATEWAY, *named) if behind else (ME, SHORT, SHORT_JSON, *named)


def _in_topics(name: str) -> bool:
    return bool(name) and not _WILD.search(name)


_WILD = re.compile(r"[/+#]")


def may_subscribe(device: Device, topic_filter: str) -> bool:
    """Whether everything that the filter can match is the device's own."""
    if is_new(device):
        return topic_filter == PROVISIONED
    if topic_filter.startswith("v2/"):
        return True
    if topic_filter.startswith(_GATEWAYS):
        return device.gateway
    if not topic_filter.startswith(_DEVICES):
        return bool(topic_filter) and not topic_filter.startswith((*_OURS, "+", "#"))
    name = topic_filter[len(_DEVICES) :].partition("/")[0]
    return device.gateway or name == "me" or (_in_topics(name) and name in (device.node_id, device.name))
