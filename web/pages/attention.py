"""What needs a person, the most urgent first: why it is here, since when, and who has taken it up."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlencode

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from fleet.attention import Cause
from fleet.limits import DAY, HOUR
from web import api_shapes as shapes
from web import asked, forms, render
from web.ports import AttentionQuery, AttentionView, AttentionWish, Refused

REMARK_CHARS_MAX = 300
_KEY_CHARS_MAX = 128
_MORNING_H = 6  # of UTC: nobody knows the hours of a browser
_LATER = {"1h": HOUR, "8h": 8 * HOUR}


def query_of(fields: Mapping[str, str]) -> AttentionQuery:
    """Refused (400) for what no form of ours sends."""
    return AttentionQuery(
        cause=forms.choice(fields, "cause", Cause) or "",
        domain=forms.text(fields, "domain", chars_max=64),
        site=forms.text(fields, "site", chars_max=64),
    )


async def show(request: Request) -> Response:
    """GET /attention"""
    return await _show(request, query_of(request.query_params))


async def _look(request: Request, query: AttentionQuery) -> AttentionView:
    moment, who = await asked.moment(request) if request.method == "GET" else None, asked.who(request)
    if moment is not None:
        return await moment.past.attention(who, query, moment.at_ns)
    return await asked.box(request).attention(who, query)


async def _show(request: Request, query: AttentionQuery, *, problem: str = "", status: int = 200) -> Response:
    view = await _look(request, query)
    if asked.wants_json(request):
        return render.data(view)
    return render.page(
        request,
        "attention",
        status=status,
        problem=problem,
        topic="site" if view.as_of is None else "",
        as_of=view.as_of,
        view=view,
        now_ns=view.now_ns,
        query=query,
        filtered=query != AttentionQuery(),
        base=_base(query),
        remark_chars_max=REMARK_CHARS_MAX,
    )


def _base(query: AttentionQuery) -> str:
    filled = urlencode({name: value for name, value in msgspec.to_builtins(query).items() if value})
    return f"/attention?{filled}" if filled else "/attention"


async def change(request: Request) -> Response:
    """POST /attention: seen, later, mine, or back as it was. `next` are the filters of the page."""
    fields = await forms.form(request)
    query = query_of(fields)
    try:
        action, _, hours = forms.text(fields, "action", chars_max=16).partition("-")
        wish = AttentionWish(
            key=forms.text(fields, "key", chars_max=_KEY_CHARS_MAX, need="Which one?"),
            action=action,
            remark=forms.text(fields, "remark", chars_max=REMARK_CHARS_MAX),
            until_ns=until(hours, asked.house(request).clock()),
        )
        await asked.box(request).handle(asked.who(request), wish)
    except Refused as refused:
        return await _show(request, query, problem=str(refused), status=refused.status)
    base = _base(query)
    return render.see(f"{base}{'&' if '?' in base else '?'}done={action}")


def until(hours: str, now_ns: int) -> int:
    """When "1h", "8h" and "morning" are over; 0 for anything else."""
    if hours == "morning":
        today = now_ns // DAY * DAY + _MORNING_H * HOUR
        return today if today > now_ns else today + DAY
    return now_ns + _LATER[hours] if hours in _LATER else 0


# -- for programs -----------------------------------------------------------------------------------------------------


class TakeUp(msgspec.Struct, frozen=True):
    """`action` is seen, later, mine or back; later needs `until_ns`, mine may say whose in `to`."""

    action: str
    remark: str = ""
    until_ns: int = 0
    to: str = ""


async def read(request: Request) -> Response:
    """What needs a person, the most urgent first, and what is seen or sleeps."""
    return render.data(await _look(request, query_of(request.query_params)))


async def take_up(request: Request) -> Response:
    """Say of an item, by its key, that it is seen, can wait or is somebody's."""
    said = await forms.document(request, TakeUp)
    wish = AttentionWish(
        key=request.path_params["id"], action=said.action, remark=said.remark, until_ns=said.until_ns, to=said.to
    )
    await asked.box(request).handle(asked.who(request), wish)
    return render.data(shapes.Done())
