"""Which topics mean what, and to whom."""

from __future__ import annotations

import pytest

from appliance.intake import topics
from appliance.intake.topics import Means, Meant, Not, may_subscribe, meaning
from tests.appliance.lines import KESTREL, MAST, NEW, STRANGER

ME, SHORT, SHORT_JSON = topics.ME, topics.SHORT, topics.SHORT_JSON


@pytest.mark.parametrize(
    ("topic", "meant"),
    [
        ("v1/devices/me/telemetry", Meant(Means.TELEMETRY, ME)),
        ("v1/devices/me/attributes", Meant(Means.ATTRIBUTES, ME)),
        ("v1/devices/me/attributes/request/12", Meant(Means.ATTRIBUTES_ASKED, ME, request="12")),
        ("v1/devices/me/rpc/request/1", Meant(Means.CALL, ME, request="1")),
        ("v1/devices/me/rpc/response/3", Meant(Means.ANSWER, ME, request="3")),
        ("v1/devices/me/claim", Meant(Means.CLAIM, ME)),
        ("v2/t", Meant(Means.TELEMETRY, SHORT)),
        ("v2/t/j", Meant(Means.TELEMETRY, SHORT_JSON)),
        ("v2/a", Meant(Means.ATTRIBUTES, SHORT)),
        ("v2/a/j", Meant(Means.ATTRIBUTES, SHORT_JSON)),
        ("v2/a/req/7", Meant(Means.ATTRIBUTES_ASKED, SHORT, request="7")),
        ("v2/a/req/j/7", Meant(Means.ATTRIBUTES_ASKED, SHORT_JSON, request="7")),
        ("v2/r/req/7", Meant(Means.CALL, SHORT, request="7")),
        ("v2/r/res/j/7", Meant(Means.ANSWER, SHORT_JSON, request="7")),
        ("v1/devices/kestrel/telemetry", Meant(Means.TELEMETRY, topics.style_of("kestrel"))),
        ("v1/devices/01KESTREL/rpc/response/4", Meant(Means.ANSWER, topics.style_of("01KESTREL"), request="4")),
        ("v1/devices/merlin/telemetry", Not.FOREIGN),
        ("v1/devices/01MAST/attributes", Not.FOREIGN),
        ("v1/devices//telemetry", Not.FOREIGN),
        ("v1/gateway/telemetry", Not.FOREIGN),
        ("v1/gateway/unheard", Not.KNOWN),
        ("/provision/request", Not.KNOWN),
        ("v1/devices/me/rpc/request/x", Not.KNOWN),
        ("v1/devices/me/rpc/request/12345678901", Not.KNOWN),
        ("v1/devices/me", Not.KNOWN),
        ("v2/p", Not.KNOWN),
        ("sensors/kitchen", Meant(Means.FREE, ME)),
        ("$SYS/uptime", Not.KNOWN),
        ("", Not.KNOWN),
    ],
)
def test_a_topic_means_this_to_a_device(topic: str, meant: Meant | Not) -> None:
    assert meaning(topic, KESTREL) == meant


@pytest.mark.parametrize(
    ("topic", "meant"),
    [
        ("v1/gateway/telemetry", Meant(Means.GATEWAY_TELEMETRY, topics.GATEWAY)),
        ("v1/gateway/attributes/request", Meant(Means.GATEWAY_ATTRIBUTES_ASKED, topics.GATEWAY)),
        ("v1/gateway/rpc", Meant(Means.GATEWAY_ANSWER, topics.GATEWAY)),
        ("v1/devices/me/telemetry", Meant(Means.TELEMETRY, ME)),
        ("v1/devices/mast-1/telemetry", Meant(Means.TELEMETRY, topics.style_of("mast-1"))),
        ("v1/devices/buoy 7/telemetry", Meant(Means.TELEMETRY, topics.style_of("buoy 7"), "buoy 7")),
        ("v1/devices/buoy/rpc/response/4", Meant(Means.ANSWER, topics.style_of("buoy"), "buoy", "4")),
        (f"v1/devices/{'x' * 200}/telemetry", Not.FOREIGN),
        ("v1/devices/a\x07/telemetry", Not.FOREIGN),
    ],
)
def test_a_gateway_speaks_for_those_behind_it(topic: str, meant: Meant | Not) -> None:
    assert meaning(topic, MAST) == meant


@pytest.mark.parametrize("topic", ["v1/devices/me/telemetry", "v2/t", "v1/gateway/telemetry", "x"])
def test_one_that_came_for_a_credential_says_nothing_else(topic: str) -> None:
    assert meaning(topic, NEW) is Not.FOREIGN
    assert meaning("/provision/request", NEW) == Meant(Means.PROVISION, ME)


@pytest.mark.parametrize(
    "topic_filter",
    [
        "v1/devices/me/attributes", "v1/devices/me/attributes/response/+", "v1/devices/me/rpc/request/+",
        "v1/devices/me/rpc/response/+", "v1/devices/me/#", "v2/a/res/+", "v2/fw/response/+", "v2/#",
        "v1/devices/kestrel/rpc/request/+", "v1/devices/01KESTREL/#",
    ],
)  # fmt: skip
def test_a_device_hears_what_is_its_own(topic_filter: str) -> None:
    assert may_subscribe(KESTREL, topic_filter)


@pytest.mark.parametrize(
    "topic_filter",
    ["#", "+", "v1/#", "v1/devices/#", "v1/devices/+/attributes", "v1/devices/merlin/#", "v1/gateway/rpc", "+/devices/me/#",
     "$SYS/#", "/provision/response", "", "v1/devices/", "$share/g/v1/devices/me/attributes"],
)  # fmt: skip
def test_a_device_hears_nothing_else(topic_filter: str) -> None:
    assert not may_subscribe(KESTREL, topic_filter)
    assert not may_subscribe(STRANGER, topic_filter)


def test_a_gateway_hears_for_all_behind_it() -> None:
    for topic_filter in ("v1/gateway/rpc", "v1/gateway/attributes", "v1/devices/+/attributes", "v1/devices/buoy/#"):
        assert may_subscribe(MAST, topic_filter)
    assert not may_subscribe(MAST, "#")
    assert may_subscribe(NEW, "/provision/response")
    assert not may_subscribe(NEW, "v1/devices/me/attributes")
