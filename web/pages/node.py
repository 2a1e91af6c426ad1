"""One node: what it says now and since when, its past in charts and words, its raw records, what may be done with it."""

from __future__ import annotations

from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response

from fleet import limits
from fleet.ids import is_ulid
from fleet.limits import HOUR
from fleet.node import Kind
from web import asked, forms, past, render
from web.ports import EDITABLE, NodeView, Refused, Series, Unavailable

SPANS_H = {1: "1 hour", 6: "6 hours", 24: "1 day", 168: "7 days"}
TAIL_RECORDS = 20
TIMELINE_EVENTS = 20
REASON_CHARS_MAX = 300
VALUE_CHARS_MAX = 512
NOTES_CHARS_MAX = 4_000


async def show(request: Request) -> Response:
    """GET /nodes/{id}"""
    moment = await asked.moment(request)
    return await _show(request) if moment is None else await _then(request, moment)


async def find(request: Request) -> NodeView:
    """Refused (404) when there is no such node, or it is not this person's to see: the two look the same."""
    node_id = request.path_params["id"]
    return _found(await asked.box(request).node(asked.who(request), node_id) if is_ulid(node_id) else None)


async def find_then(request: Request, moment: asked.Moment) -> NodeView:
    """The same as of a moment."""
    who, node_id = asked.who(request), request.path_params["id"]
    return _found(await moment.past.node(who, node_id, moment.at_ns) if is_ulid(node_id) else None)


def _found(view: NodeView | None) -> NodeView:
    if view is None:
        raise Refused("There is no node with this id here. It may be at another site.", 404)
    return view


async def _then(request: Request, moment: asked.Moment) -> Response:
    """The node as of a moment."""
    view = await find_then(request, moment)
    who, node_id, query = asked.who(request), view.row.id, request.query_params
    if asked.wants_json(request):
        return render.data(view)
    before = forms.number(query, "before", default=0, low=0, high=2**62)
    timeline = await moment.past.timeline(who, before, TIMELINE_EVENTS, node_id, moment.at_ns)
    chosen = [name for name in (_first_metric(view), "rtt_ms") if name in view.metrics]
    box, start_ns = asked.box(request), moment.at_ns - HOUR
    return render.page(
        request,
        "node_then",
        view=view,
        row=view.row,
        node=view.node,
        now_ns=view.now_ns,
        as_of=view.as_of,
        series=[await box.series(who, node_id, name, start_ns, moment.at_ns) for name in dict.fromkeys(chosen)],
        timeline=timeline,
        older=timeline[-1].position if len(timeline) == TIMELINE_EVENTS else 0,
        band=past.band(await moment.past.turns(who, node_id), asked.house(request).clock(), moment.at_ns),
        base=f"/nodes/{node_id}",
    )


async def _show(request: Request, *, problem: str = "", status: int = 200) -> Response:
    view = await find(request)
    if asked.wants_json(request):
        return render.data(view)
    who, box, query = asked.who(request), asked.box(request), request.query_params
    part = asked.target(request)
    span_h = forms.number(query, "hours", default=1, low=1, high=168)
    metric = forms.text(query, "metric", chars_max=limits.name_chars_max) or _first_metric(view)
    text = forms.text(query, "text", chars_max=200)
    before = forms.number(query, "before", default=0, low=0, high=2**62)
    node_id = view.row.id
    tail = await box.records_before(who, 0, TAIL_RECORDS, node_id, text) if part in ("", "tail") else None
    timeline = await box.timeline(who, before, TIMELINE_EVENTS, node_id) if part in ("", "timeline") else ()
    series: tuple[Series, ...] = ()
    if part == "":
        chosen = dict.fromkeys(name for name in (metric, "rtt_ms") if name in view.metrics)
        start_ns = view.now_ns - span_h * HOUR
        series = tuple([await box.series(who, node_id, name, start_ns, view.now_ns) for name in chosen])
    return render.page(
        request,
        "node",
        status=status,
        problem=problem,
        topic=f"node:{node_id}",
        view=view,
        row=view.row,
        node=view.node,
        now_ns=view.now_ns,
        tail=tail,
        text=text,
        timeline=timeline,
        older=timeline[-1].position if len(timeline) == TIMELINE_EVENTS else 0,
        series=series,
        metric=metric,
        span_h=span_h,
        spans=SPANS_H,
        kinds=tuple(Kind),
        base=f"/nodes/{node_id}",
        called=dict(view.domains + view.policies + view.relays),
        band=await _band(request, node_id) if part == "" else None,
        quote=quote,
    )


async def _band(request: Request, node_id: str) -> past.Band | None:
    """The slider of the node as it is now; none while the past cannot be read, for the present does not wait for it."""
    held, now_ns = asked.box(request).past, asked.house(request).clock()
    if held is None:
        return None
    try:
        return past.band(await held.turns(asked.who(request), node_id), now_ns, now_ns)
    except Unavailable:
        return None


def _first_metric(view: NodeView) -> str:
    return "battery_pct" if "battery_pct" in view.metrics or not view.metrics else view.metrics[0]


FIELDS = EDITABLE


def chars_max(field: str) -> int:
    return NOTES_CHARS_MAX if field == "notes" else VALUE_CHARS_MAX


async def take(request: Request) -> Response:
    """POST /nodes/{id}/take: of words written at once, the one that was clicked."""
    fields, view = await forms.form(request), await find(request)
    try:
        field = forms.text(fields, "field", chars_max=limits.name_chars_max, need="Which field?")
        choice = forms.number(fields, "choice", default=0, low=0, high=1_000)
        conflict = next((one for one in view.conflicts if one.field == field), None)
        if conflict is None or choice >= len(conflict.choices) or conflict.choices[choice].value != fields.get("value"):
            raise Refused("Somebody has chosen meanwhile, or wrote something new. Look again, and choose if you must.")
        await asked.box(request).take(asked.who(request), view.row.id, field, choice)
    except Refused as refused:
        return await _show(request, problem=str(refused), status=refused.status)
    return render.see(f"/nodes/{view.row.id}?done=taken")


async def change(request: Request) -> Response:
    """POST /nodes/{id}/change: each field that differs from what the form was filled with."""
    fields, view = await forms.form(request), await find(request)
    try:
        wishes = [
            (name, forms.text(fields, name, chars_max=chars_max(name)))
            for name in FIELDS
            if name in fields and fields[name].strip() != fields.get(f"was_{name}", "").strip()
        ]
        if not fields.get("name", "x").strip():
            raise Refused("A node needs a name.", 422)
        for name, value in wishes:
            await asked.box(request).change(asked.who(request), view.row.id, name, value)
    except Refused as refused:
        return await _show(request, problem=str(refused), status=refused.status)
    return render.see(f"/nodes/{view.row.id}?done=changed")


async def move(request: Request) -> Response:
    """POST /nodes/{id}/move: one step in the lifecycle, with its reason."""
    fields, view = await forms.form(request), await find(request)
    try:
        target = forms.text(fields, "target", chars_max=64, need="Choose where the node should go.")
        reason = forms.text(
            fields, "reason", chars_max=REASON_CHARS_MAX, need="Write why: the journal keeps it with your name."
        )
        await asked.box(request).move(asked.who(request), view.row.id, target, reason)
    except Refused as refused:
        return await _show(request, problem=str(refused), status=refused.status)
    return render.see(f"/nodes/{view.row.id}?done=moved")


async def release(request: Request) -> Response:
    """POST /nodes/{id}/release: let go of a source."""
    fields, view = await forms.form(request), await find(request)
    try:
        source = forms.text(fields, "source", chars_max=limits.subject_chars_max, need="Which source?")
        await asked.box(request).release(asked.who(request), source)
    except Refused as refused:
        return await _show(request, problem=str(refused), status=refused.status)
    return render.see(f"/nodes/{view.row.id}?done=released")


async def claim_device(request: Request) -> Response:
    """POST /nodes/{id}/claim-device: the secret that its device shows."""
    fields, view = await forms.form(request), await find(request)
    try:
        secret = forms.secret(fields, "secret", "Which secret does the device show?")
        await asked.box(request).claim_device(asked.who(request), view.row.id, secret)
    except Refused as refused:
        return await _show(request, problem=str(refused), status=refused.status)
    return render.see(f"/nodes/{view.row.id}?done=device-claimed")


async def claim(request: Request) -> Response:
    """POST /nodes/{id}/claim: take an unclaimed source on."""
    fields, view = await forms.form(request), await find(request)
    try:
        source = forms.text(fields, "source", chars_max=limits.subject_chars_max, need="Which source?")
        await asked.box(request).claim(asked.who(request), source, view.row.id)
    except Refused as refused:
        return await _show(request, problem=str(refused), status=refused.status)
    return render.see(f"/nodes/{view.row.id}?done=claimed")
