"""What comes in, what is turned away and why, how full the disk is, and who speaks without being anybody's node."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from fleet import limits
from fleet.node import Kind
from web import asked, chart, forms, render
from web.ports import IntakeView, Refused


async def show(request: Request) -> Response:
    """GET /intake"""
    return await _show(request)


async def _show(request: Request, *, problem: str = "", status: int = 200) -> Response:
    view = await asked.box(request).intake(asked.who(request))
    if asked.wants_json(request):
        return render.data(view)
    budget = view.budget
    return render.page(
        request,
        "intake",
        status=status,
        problem=problem,
        topic="intake",
        view=view,
        now_ns=view.now_ns,
        budget=budget,
        pieces=chart.stack([(part.name, part.bytes_used) for part in budget.classes], budget.budget_bytes),
        rate=sum(line.per_s for line in view.lines),
        refused=_refused(view),
        kinds=tuple(Kind),
    )


def _refused(view: IntakeView) -> list[tuple[str, str, int]]:
    """(reason, intake, messages), most first."""
    drops = [(reason, line.intake, count) for line in view.lines for reason, count in line.refused.items() if count]
    return sorted(drops, key=lambda drop: -drop[2])


async def adopt(request: Request) -> Response:
    """POST /adopt: one click, name and kind are filled in already."""
    fields = await forms.form(request)
    try:
        source = forms.text(fields, "source", chars_max=limits.subject_chars_max, need="Which source?")
        name = forms.text(fields, "name", chars_max=limits.name_chars_max, need="A node needs a name.")
        kind = forms.choice(fields, "kind", Kind) or Kind.EDGE
        tags = forms.tags(forms.text(fields, "tags", chars_max=512))
        node_id = await asked.box(request).adopt(asked.who(request), source, name, kind, tags)
    except Refused as refused:
        return await _show(request, problem=str(refused), status=refused.status)
    return render.see(f"/nodes/{node_id}?done=adopted")
