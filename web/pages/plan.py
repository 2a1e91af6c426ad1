"""The plan: what was written in two places at once, decided in one form, looked at before, undone after."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlencode

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from fleet import limits
from fleet.plan import LEAVE, Sort, decisions_max, why_chars_max
from web import asked, forms, render
from web.ports import PlanChange, PlanQuery, PlanWish, Refused

SHOWN_MAX = 50  # steps on one page; a form holds that many
WHY = "Looked at both words and decided on the Plan page."
UNDO_WHY = "Taken back on the Plan page."
_NEED_WHY = "Write why: the journal keeps it with your name."
_STEP = "s-"
_OFFSET_MAX = 1_000_000


async def show(request: Request) -> Response:
    """GET /plan and /plan/{id}"""
    return await _show(request, request.path_params.get("id", ""))


def _query(request: Request, peer: str, limit_max: int = SHOWN_MAX) -> PlanQuery:
    query = request.query_params
    return PlanQuery(
        peer=peer,
        sort=forms.choice(query, "sort", Sort) or "",
        text=forms.text(query, "text", chars_max=200),
        field=forms.text(query, "field", chars_max=limits.name_chars_max),
        offset=forms.number(query, "offset", default=0, low=0, high=_OFFSET_MAX),
        limit=forms.number(query, "limit", default=SHOWN_MAX, low=1, high=limit_max),
    )


async def _show(request: Request, peer: str, *, problem: str = "", status: int = 200) -> Response:
    query = _query(request, peer)
    view = await asked.box(request).plans.look(asked.who(request), query)
    if asked.wants_json(request):
        return render.data(view)
    last = query.offset + SHOWN_MAX
    return render.page(
        request,
        "plan",
        status=status,
        problem=problem,
        view=view,
        query=query,
        now_ns=view.now_ns,
        base=_base(peer),
        why=WHY,
        undo_why=UNDO_WHY,
        why_chars_max=why_chars_max,
        leave=LEAVE,
        older=_base(peer) + "?" + urlencode(_asked(query) | {"offset": last}) if last < view.matching else "",
        filtered=bool(query.sort or query.text or query.field),
        changes=(),
        wish=None,
    )


def _base(peer: str) -> str:
    return f"/plan/{peer}" if peer else "/plan"


def _asked(query: PlanQuery) -> dict[str, str]:
    return {name: value for name in ("sort", "text", "field") if (value := getattr(query, name))}


def _wish(fields: Mapping[str, str]) -> PlanWish:
    decisions = {
        name.removeprefix(_STEP): -1
        if raw == str(LEAVE)
        else forms.number(fields, name, default=0, low=0, high=limits.page_items_max)
        for name, raw in fields.items()
        if name.startswith(_STEP)
    }
    return PlanWish(
        plan=forms.text(fields, "plan", chars_max=64, need="Which plan? Open the Plan page again."),
        state=forms.text(fields, "state", chars_max=64),
        decisions=decisions,
        why=forms.text(fields, "why", chars_max=why_chars_max, need=_NEED_WHY),
        peer=forms.text(fields, "peer", chars_max=64),
        automatic=fields.get("automatic") == "1",
    )


async def preview(request: Request) -> Response:
    """POST /plan/preview: what the decisions would change."""
    fields = await forms.form(request)
    peer = forms.text(fields, "peer", chars_max=64)
    try:
        wish = _wish(fields)
        changes: tuple[PlanChange, ...] = tuple(await asked.box(request).plans.preview(asked.who(request), wish))
    except Refused as refused:
        return await _show(request, peer, problem=str(refused), status=refused.status)
    return render.page(request, "plan", changes=changes, wish=wish, base=_base(peer))


async def apply(request: Request) -> Response:
    """POST /plan/apply: all of it, or nothing."""
    fields = await forms.form(request)
    peer = forms.text(fields, "peer", chars_max=64)
    try:
        await asked.box(request).plans.apply(asked.who(request), _wish(fields))
    except Refused as refused:
        return await _show(request, peer, problem=str(refused), status=refused.status)
    return render.see(f"{_base(peer)}?done=applied")


async def undo(request: Request) -> Response:
    """POST /plan/undo: what held before holds again."""
    fields = await forms.form(request)
    peer = forms.text(fields, "peer", chars_max=64)
    try:
        made = forms.text(fields, "plan", chars_max=64, need="Which plan?")
        why = forms.text(fields, "why", chars_max=why_chars_max, need=_NEED_WHY)
        await asked.box(request).plans.undo(asked.who(request), made, why)
    except Refused as refused:
        return await _show(request, peer, problem=str(refused), status=refused.status)
    return render.see(f"{_base(peer)}?done=undone")


# -- for programs ----------------------------------------------------------------------------------------------


class Apply(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`plan` and `state` as the plan was read; `decisions`: the place of a word among the step's `choices`, -1 to leave
    it open. `automatic`: what settles by rule too. `site`: the peer whose plan it is; empty for all."""

    plan: str
    state: str
    decisions: dict[str, int]
    why: str
    site: str = ""
    automatic: bool = False


class Undo(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`plan`: the hash of one that was applied."""

    plan: str
    why: str


class Decided(msgspec.Struct, frozen=True):
    decisions: int


async def read(request: Request) -> Response:
    """What was written in two places at once: what needs a person, what settles by rule, what is refused."""
    peer = forms.text(request.query_params, "site", chars_max=64)
    query = _query(request, peer, limits.page_items_max)
    return render.data(await asked.box(request).plans.look(asked.who(request), query))


async def carry_out(request: Request) -> Response:
    """Carry out decisions of a plan, all or none; refused (409) when it was made on an older state."""
    wish = await forms.document(request, Apply)
    if len(wish.decisions) > decisions_max:
        raise Refused(f"At most {decisions_max:,} decisions at a time.", 422)
    fields = {"why": wish.why}
    why = forms.text(fields, "why", chars_max=why_chars_max, need=_NEED_WHY)
    made = PlanWish(
        plan=wish.plan,
        state=wish.state,
        decisions=wish.decisions,
        why=why,
        peer=wish.site,
        automatic=wish.automatic,
    )
    return render.data(Decided(await asked.box(request).plans.apply(asked.who(request), made)))


async def take_back(request: Request) -> Response:
    """Undo a plan that was applied; refused (409) when somebody has written there since."""
    wish = await forms.document(request, Undo)
    why = forms.text({"why": wish.why}, "why", chars_max=why_chars_max, need=_NEED_WHY)
    return render.data(Decided(await asked.box(request).plans.undo(asked.who(request), wish.plan, why)))
