"""Answers in HTML and JSON. The only module that knows Jinja.

Templates are escaped throughout; the pages hold no inline script and no inline style. A live part is a block of the
page's own template that has the name of the element's id: htmx names the element it will fill, and gets that block.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
import msgspec
from markupsafe import Markup, escape
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from fleet.connectivity import Reach
from fleet.limits import SECOND
from fleet.reading import Health
from web import asked, assets, chart, words
from web.auth import cookie
from web.ports import Role, Value
from web.stale import PAUSE

SCHEMES = ("auto", "light", "dark", "night")
SCHEME_COOKIE = "skerry_scheme"


@cache
def environment() -> jinja2.Environment:
    env = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    env.globals.update(
        {
            "asset": assets.url,
            "words": words,
            "chart": chart,
            "Reach": Reach,
            "Health": Health,
            "Role": Role,
            "schemes": SCHEMES,
            "ago": ago,
            "lasting": lasting,
            "measured": measured,
            "pause": PAUSE,
        }
    )
    env.globals["ui"] = env.get_template("components.html").module
    return env


# -- small pieces that a list needs hundreds of times; a macro call for each would be most of its time ---------


def ago(at_ns: int | None, now_ns: int) -> Markup | str:
    """How long ago, ticking: the page's script counts on from here."""
    return _tick("ago", at_ns, now_ns)


def lasting(at_ns: int | None, now_ns: int) -> Markup | str:
    """For how long, ticking."""
    return _tick("for", at_ns, now_ns)


def _tick(kind: str, at_ns: int | None, now_ns: int) -> Markup | str:
    if at_ns is None:
        return words.UNKNOWN
    since = words.age((now_ns - at_ns) / SECOND)
    said = f"{since} ago" if kind == "ago" else f"for {since}"
    at_s = at_ns / SECOND
    return Markup(f'<time class="tick" data-{kind}="{at_s:.3f}" title="{words.when(at_ns)}">{said}</time>')


def measured(value: Value | None, unit: str) -> Markup | str:
    """A number with its unit; its age and source on demand."""
    if value is None:
        return Markup('<span class="none">–</span>')
    said = f"{value.value:.0f}" if unit == "%" and abs(value.value) >= 1 else words.short(value.value)
    told = escape(f"{words.when(value.at_ns)} · {value.source}")
    return Markup(f'<span class="num" title="{told}">{said}<i>\u202f{escape(unit)}</i></span>')


# -- answers -----------------------------------------------------------------------------------------------------


def context(request: Request, values: Mapping[str, Any]) -> dict[str, Any]:
    house = asked.house(request)
    scheme = cookie(request.headers, SCHEME_COOKIE)
    who = asked.whoever(request)
    across = who is not None and who.role.across and house.tenants is not None
    return {
        "tenant": house.tenant,
        "at_tenant": house.prefix,
        "looks_across": across,
        "is_guest": across and bool(house.prefix),
        "site_name": house.box.name,
        "version": house.box.version,
        "is_hub": house.box.hub,
        "now_ns": house.clock(),
        "clock_ns": house.clock(),
        "who": who,
        "csrf": who.csrf if who else "",
        "can_operate": who is not None and who.role >= Role.OPERATOR,
        "is_admin": who is not None and who.role >= Role.ADMIN,
        "scheme": scheme if scheme in SCHEMES else "auto",
        "path": asked.path(request),
        "here": asked.here(request),
        "glass": house.people.glass,
        "topic": "",
        "as_of": None,
        "problem": "",
        "done": words.DONE.get(request.query_params.get("done", ""), ""),
        **values,
    }


def page(request: Request, name: str, /, *, status: int = 200, **values: Any) -> Response:
    """The page of that name, or the part of it that htmx asked for."""
    template = environment().get_template(f"pages/{name}.html")
    filled = context(request, values)
    part = asked.target(request)
    if part in template.blocks:
        body = "".join(template.blocks[part](template.new_context(filled)))
    else:
        body = template.render(filled)
    if filled["as_of"] is not None:
        body = carried(body, words.iso(filled["as_of"].at_ns))
    body = placed(body, asked.house(request).prefix)
    return Response(body, status, {"cache-control": "no-store", "vary": "HX-Request"}, "text/html; charset=utf-8")


_ID = '[^"?#/]*'
_ONE = f"(?:nodes|domains)/{_ID}(?:/authority)?|(?:links|policies)(?:/{_ID})?"
_KNOW = f"{_ONE}|attention|journal|audit|quarantine"  # the past
_LINK = re.compile(rf'(?<!data-moment )(href|hx-get)="(/(?:{_KNOW})?)(\?[^"#]*)?(#[^"]*)?"')
_FORM = re.compile(r'<form\b(?![^>]*\bdata-moment)[^>]*\bmethod="get"[^>]*>')


def carried(body: str, moment: str) -> str:
    """A page of the past: each of its links and forms that lead to pages that know the past goes to the same moment."""

    def link(found: re.Match[str]) -> str:
        name, path, query, place = found.groups(default="")
        if "as_of=" in query:
            return found[0]
        return f'{name}="{path}{query + "&amp;" if query else "?"}as_of={moment}{place}"'

    hidden = f'<input type="hidden" name="as_of" value="{moment}">'
    return _FORM.sub(lambda found: found[0] + hidden, _LINK.sub(link, body))


_PLACED = re.compile(
    r'(?<!data-house )\b(href|action|formaction|hx-get|hx-post|hx-sse:connect|data-series)="/(?!/|static/)'
)


def placed(body: str, prefix: str) -> str:
    """A page of another tenant than a hub's first: every address in it stays with that tenant, but for those marked
    `data-house`. What people wrote cannot be taken for one: their quotation marks are escaped."""
    return _PLACED.sub(lambda found: f'{found[1]}="{prefix}/', body) if prefix else body


def halves(request: Request, name: str, /, **values: Any) -> tuple[str, str]:
    """A page cut where it says so, for an answer that is written bit by bit."""
    cut = "<!-- the rest follows -->"
    filled = context(request, values)
    body = placed(environment().get_template(f"pages/{name}.html").render(filled), asked.house(request).prefix)
    head, _, tail = body.partition(cut)
    return head, tail


def data(content: Any, status: int = 200) -> Response:
    """JSON of Structs and plain values."""
    headers = {"cache-control": "no-store"}
    return Response(msgspec.json.encode(content), status, headers, "application/json")


def see(path: str) -> Response:
    """On to another page, after a form."""
    return RedirectResponse(path, 303)


def stamp(at_ns: int) -> str:
    """For file names: 20261121T0931Z"""
    return datetime.fromtimestamp(at_ns // SECOND, UTC).strftime("%Y%m%dT%H%MZ")
