"""Input that nothing could take as it was: why, the bytes shown safely, and a person's word on each."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from fleet import limits
from web import asked, forms, render
from web.ports import Refused


async def show(request: Request) -> Response:
    """GET /quarantine"""
    return await _show(request)


async def _show(request: Request, *, problem: str = "", status: int = 200) -> Response:
    query = request.query_params
    before = forms.number(query, "before", default=0, low=0, high=2**62)
    limit = forms.number(query, "limit", default=50, low=1, high=limits.page_items_max)
    settled = query.get("settled") == "1"
    taking = forms.number(query, "take", default=0, low=0, high=2**62)  # the item that is being taken in
    moment = await asked.moment(request) if request.method == "GET" else None
    at_ns = moment.at_ns if moment is not None else None
    items = await asked.box(request).quarantine(asked.who(request), before, limit, settled, at_ns)
    older = items[-1].id if len(items) == limit else 0
    if asked.wants_json(request):
        return render.data({"items": items, "before": older or None})
    return render.page(
        request,
        "quarantine",
        status=status,
        problem=problem,
        topic="quarantine" if moment is None else "",
        items=items,
        settled=settled,
        older=older,
        before=before,
        taking=taking,
        **await asked.of_moment(request, moment),
    )


async def settle(request: Request) -> Response:
    """POST /quarantine/{id}: retry or drop."""
    fields = await forms.form(request)
    try:
        item = forms.number(request.path_params, "id", default=0, low=1, high=2**62)
        decision = decision_of(fields.get("decision", ""))
        node = forms.text(fields, "node", chars_max=limits.name_chars_max)
        alike = fields.get("alike") == "1"
        await asked.box(request).settle(asked.who(request), item, decision, node, alike=alike)
    except Refused as refused:
        return await _show(request, problem=str(refused), status=refused.status)
    return render.see(f"/quarantine?done={decision}")


def decision_of(raw: str) -> str:
    if raw not in ("retry", "drop"):
        raise Refused("A decision is retry or drop.", 422)
    return raw
