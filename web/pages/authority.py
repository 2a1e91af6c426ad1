"""Who decides what is wanted, of a domain or a node: shown with since when and until when, granted, handed back; and the
values that were parked because somebody else decided."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.requests import Request
from starlette.responses import Response

from fleet import limits
from fleet.authority import Expiry, Homecoming, subject_chars_max, why_chars_max
from fleet.events import AuthorityGranted, Recorded
from fleet.limits import MINUTE
from fleet.node import Master
from web import asked, forms, render
from web.pages import node
from web.ports import AuthorityTerms, AuthorityView, Refused

TIMELINE_EVENTS = 20
LEASE_MINUTES_MAX = 366 * 24 * 60
_WHY = "Write why: the journal keeps it with your name."


async def find(request: Request, moment: asked.Moment | None = None) -> AuthorityView:
    """As it is now, or as of a moment."""
    subject, who = request.path_params["id"], asked.who(request)
    if len(subject) > subject_chars_max or not subject.isprintable():
        raise Refused("There is nothing of that name here.", 404)
    if moment is not None:
        return await moment.past.authority(who, subject, moment.at_ns)
    return await asked.box(request).authority(who, subject)


async def show(request: Request) -> Response:
    """GET /domains/{id}/authority, /nodes/{id}/authority"""
    return await _show(request)


async def _show(request: Request, *, problem: str = "", status: int = 200) -> Response:
    moment = await asked.moment(request) if request.method == "GET" else None
    view, who = await find(request, moment), asked.who(request)
    if asked.wants_json(request):
        return render.data(view)
    timeline = (
        await asked.box(request).timeline(who, 0, TIMELINE_EVENTS, view.subject)
        if moment is None
        else await moment.past.timeline(who, 0, TIMELINE_EVENTS, view.subject, moment.at_ns)
    )
    sites = {one.place: one.site for one in view.lines}
    what = "nodes" if asked.path(request).startswith("/nodes/") else "domains"
    return render.page(
        request,
        "authority",
        status=status,
        problem=problem,
        topic=f"authority:{view.subject}" if moment is None else "",
        view=view,
        now_ns=view.now_ns,
        as_of=view.as_of,
        what=what,
        base=f"/{what}/{view.subject}",
        masters=tuple(Master),
        expiries=tuple(Expiry),
        homecomings=tuple(Homecoming),
        timeline=[(one, sites.get(_place(one), "")) for one in timeline if one.kind.startswith("authority.")],
    )


def _place(event: Recorded) -> str:
    """The site that an event of authority is about."""
    return event.body.site if isinstance(event.body, AuthorityGranted) else event.writer


async def change(request: Request) -> Response:
    """POST /domains/{id}/authority, /nodes/{id}/authority: grant, or hand back."""
    fields, view = await forms.form(request), await find(request)
    try:
        why = forms.text(fields, "why", chars_max=why_chars_max, need=_WHY)
        if fields.get("action") == "return":
            await asked.box(request).hand_back(asked.who(request), view.subject, why)
            done = "handed-back"
        else:
            await asked.box(request).grant(asked.who(request), view.subject, terms_of(fields), why)
            done = "granted"
    except Refused as refused:
        return await _show(request, problem=str(refused), status=refused.status)
    return render.see(f"{asked.path(request)}?done={done}")


def terms_of(fields: Mapping[str, str]) -> AuthorityTerms:
    """Refused (400, 422) when a form's terms will not do."""
    master = forms.choice(fields, "master", Master)
    if master is None:
        raise Refused("Choose who decides.", 422)
    minutes = forms.number(fields, "lease_min", default=0, low=0, high=LEASE_MINUTES_MAX)
    return AuthorityTerms(
        master=master,
        lease_ns=minutes * MINUTE,
        on_expiry=forms.choice(fields, "on_expiry", Expiry) or Expiry.CARRY_ON,
        on_return=forms.choice(fields, "on_return", Homecoming) or Homecoming.HAND_BACK,
    )


async def settle(request: Request) -> Response:
    """POST /nodes/{id}/parked: take a parked value, or let it go."""
    fields, view = await forms.form(request), await node.find(request)
    try:
        field = forms.text(fields, "field", chars_max=limits.name_chars_max, need="Which field?")
        choice = forms.number(fields, "choice", default=0, low=0, high=1_000)
        decision = forms.text(fields, "decision", chars_max=8)
        if decision not in ("take", "drop"):
            raise Refused("Take it, or let it go?", 422)
        why = forms.text(fields, "why", chars_max=why_chars_max) or "as it stood on the page"
        shown = next((one for one in view.parked if (one.field, one.choice) == (field, choice)), None)
        if shown is None or shown.said.value != fields.get("value"):
            raise Refused("Somebody has decided meanwhile, or wrote something new. Look again.")
        await asked.box(request).settle_parked(asked.who(request), view.row.id, field, choice, decision, why)
    except Refused as refused:
        return await node._show(request, problem=str(refused), status=refused.status)
    return render.see(f"/nodes/{view.row.id}?done=parked-{decision}")
