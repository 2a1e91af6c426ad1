"""Policy bundles: what nodes should look like, and how they do. A list, and one bundle with what a change would touch.

What is common to bundles and domains stands here too: finding one, the bounds of its form, taking a word.
"""

from __future__ import annotations

from collections.abc import Mapping

from starlette.requests import Request
from starlette.responses import Response

from fleet import limits
from fleet.document import Kind
from fleet.metrics import KNOWN
from web import asked, forms, render
from web.ports import GroupThen, GroupView, Preview, Refused

TIMELINE_EVENTS = 20
NOTES_CHARS_MAX = 4_000
TEXT_CHARS_MAX = 512
OUT_DEFAULT = 50
LINES_MAX = 8  # sites whose authority stands on the page itself
NO_DOMAIN = "none"  # in paths, for the nodes that are of no domain
PREFIX = "constraints/"
NEW_METRIC, NEW_RANGE = "new_metric", "new_range"
FIELDS = {
    Kind.BUNDLE: ("name", "target_version", "min_battery_pct", "requires_online", "notes"),
    Kind.DOMAIN: ("name", "maintenance_window", "notes"),
}
WORD = {Kind.BUNDLE: "policy bundle", Kind.DOMAIN: "domain"}
HOME = {Kind.BUNDLE: "/policies", Kind.DOMAIN: "/domains"}


async def find(request: Request, kind: Kind) -> GroupView:
    """Refused (404) when there is none, or it is not this person's to see: the two look the same."""
    name, query = _id(request, kind), request.query_params
    offset = forms.number(query, "offset", default=0, low=0, high=1_000_000)
    limit = forms.number(query, "limit", default=OUT_DEFAULT, low=1, high=limits.page_items_max)
    group = asked.box(request).policies.group
    view = await group(asked.who(request), kind, name, offset, limit) if len(name) <= 64 else None
    if view is None:
        raise Refused(f"There is no {WORD[kind]} with this id here. It may not have come yet.", 404)
    return view


def _id(request: Request, kind: Kind) -> str:
    name = str(request.path_params["id"])
    return "" if (kind, name) == (Kind.DOMAIN, NO_DOMAIN) else name


def name_of(said: str) -> str:
    return forms.text({"name": said}, "name", chars_max=limits.name_chars_max, need="It needs a name.")


def bounded(fields: Mapping[str, str]) -> dict[str, str]:
    """Fields of a form or of a program, each within its bounds."""
    if len(fields) > forms.FIELDS_MAX:
        raise Refused(f"At most {forms.FIELDS_MAX} fields at once.", 422)
    return {
        field: forms.text(fields, field, chars_max=NOTES_CHARS_MAX if field == "notes" else TEXT_CHARS_MAX)
        for field in fields
    }


def wishes(kind: Kind, fields: Mapping[str, str]) -> dict[str, str]:
    """What differs in a form from what it was filled with. A new constraint has two fields of its own."""
    mine = [field for field in fields if field in FIELDS[kind] or (kind is Kind.BUNDLE and field.startswith(PREFIX))]
    changed = {
        field: fields[field] for field in mine if fields[field].strip() != fields.get(f"was_{field}", "").strip()
    }
    metric, within = fields.get(NEW_METRIC, "").strip(), fields.get(NEW_RANGE, "").strip()
    if kind is Kind.BUNDLE and within and not metric:
        raise Refused("Say which metric the new limit is for.", 422)
    if kind is Kind.BUNDLE and metric and within:
        changed[PREFIX + metric] = within
    return bounded(changed)


async def create_one(request: Request, kind: Kind) -> Response:
    fields = await forms.form(request)
    made = await asked.box(request).policies.create(asked.who(request), kind, name_of(fields.get("name", "")))
    return render.see(f"{HOME[kind]}/{made}?done=created")


async def take_one(request: Request, kind: Kind) -> str:
    """Of words written at once, the one that was clicked; the path to go on to."""
    fields, view = await forms.form(request), await find(request, kind)
    field = forms.text(fields, "field", chars_max=limits.name_chars_max, need="Which field?")
    choice = forms.number(fields, "choice", default=0, low=0, high=1_000)
    conflict = next((one for one in view.conflicts if one.field == field), None)
    if conflict is None or choice >= len(conflict.choices) or conflict.choices[choice].value != fields.get("value"):
        raise Refused("Somebody has chosen meanwhile, or wrote something new. Look again, and choose if you must.")
    await asked.box(request).policies.take(asked.who(request), kind, view.group.id, field, choice)
    return f"{HOME[kind]}/{view.group.id}?done=taken"


async def shown(request: Request, kind: Kind, view: GroupView) -> dict[str, object]:
    """What the page of a bundle and that of a domain both show."""
    name = view.group.id
    timeline = await asked.box(request).policies.history(asked.who(request), name, TIMELINE_EVENTS) if name else ()
    values = {word.field: word.value for word in view.words}
    return {
        "topic": "policies",
        "view": view,
        "group": view.group,
        "now_ns": view.now_ns,
        "values": values,
        "stated": {word.field: word for word in view.words},
        "timeline": timeline,
        "base": f"{HOME[kind]}/{name or NO_DOMAIN}",
        "metrics": tuple(metric.name for metric in KNOWN),
        "prefix": PREFIX,
    }


# -- the pages ---------------------------------------------------------------------------------------------------


async def show(request: Request) -> Response:
    """GET /policies"""
    return await _show(request)


async def _show(request: Request, *, problem: str = "", status: int = 200) -> Response:
    moment = await asked.moment(request) if not problem else None
    if moment is not None:
        return await _then(request, moment)
    view = await asked.box(request).policies.drift(asked.who(request))
    if asked.wants_json(request):
        return render.data(view)
    return render.page(request, "policies", status=status, problem=problem, topic="policies", view=view)


async def _then(request: Request, moment: asked.Moment) -> Response:
    """Which bundles and domains there were at a moment, and what was written in them."""
    bundles = await moment.past.groups(asked.who(request), Kind.BUNDLE, moment.at_ns)
    if asked.wants_json(request):
        return render.data(bundles)
    domains = await moment.past.groups(asked.who(request), Kind.DOMAIN, moment.at_ns)
    return render.page(
        request,
        "policies_then",
        now_ns=moment.at_ns,
        as_of=bundles.as_of,
        unread=bundles.unread,
        kinds=(("Policy bundles", HOME[Kind.BUNDLE], bundles.groups), ("Domains", HOME[Kind.DOMAIN], domains.groups)),
    )


async def find_then(request: Request, kind: Kind, moment: asked.Moment) -> GroupThen:
    """Refused (404) when there is none, (400) when it had not been written yet."""
    name = _id(request, kind)
    found = await moment.past.group(asked.who(request), kind, name, moment.at_ns) if len(name) <= 64 else None
    if found is None:
        raise Refused(f"There is no {WORD[kind]} with this id here. It may not have come yet.", 404)
    return found


async def one_then(request: Request, kind: Kind, moment: asked.Moment) -> Response:
    """A bundle or a domain as of a moment."""
    view, who = await find_then(request, kind, moment), asked.who(request)
    if asked.wants_json(request):
        return render.data(view)
    return render.page(
        request,
        "group_then",
        view=view,
        word=WORD[kind],
        now_ns=view.now_ns,
        as_of=view.as_of,
        timeline=await moment.past.timeline(who, 0, TIMELINE_EVENTS, view.id, moment.at_ns) if view.id else (),
        base=f"{HOME[kind]}/{view.id or NO_DOMAIN}",
        authority=await moment.past.authority(who, view.id, moment.at_ns) if kind is Kind.DOMAIN and view.id else None,
        lines_max=LINES_MAX,
    )


async def create(request: Request) -> Response:
    """POST /policies"""
    try:
        return await create_one(request, Kind.BUNDLE)
    except Refused as refused:
        return await _show(request, problem=str(refused), status=refused.status)


async def show_one(request: Request) -> Response:
    """GET /policies/{id}"""
    return await _show_one(request)


async def _show_one(
    request: Request,
    *,
    problem: str = "",
    status: int = 200,
    preview: Preview | None = None,
    wanted: Mapping[str, str] | None = None,
) -> Response:
    moment = await asked.moment(request) if request.method == "GET" else None
    if moment is not None:
        return await one_then(request, Kind.BUNDLE, moment)
    view = await find(request, Kind.BUNDLE)
    if asked.wants_json(request):
        return render.data(view)
    common = await shown(request, Kind.BUNDLE, view)
    return render.page(
        request, "policy", status=status, problem=problem, preview=preview, wanted=wanted or {}, **common
    )


async def change(request: Request) -> Response:
    """POST /policies/{id}: first what it would touch, then, when that is confirmed, the change."""
    fields, view = await forms.form(request), await find(request, Kind.BUNDLE)
    box, who = asked.box(request).policies, asked.who(request)
    wanted: Mapping[str, str] = {}
    try:
        wanted = wishes(Kind.BUNDLE, fields)
        if not wanted:
            raise Refused("Nothing differs from what stands there already.", 422)
        if fields.get("sure") != "yes":
            return await _show_one(request, preview=await box.preview(who, view.group.id, wanted), wanted=wanted)
        await box.write(who, Kind.BUNDLE, view.group.id, wanted)
    except Refused as refused:
        return await _show_one(request, problem=str(refused), status=refused.status, wanted=wanted)
    return render.see(f"/policies/{view.group.id}?done=changed")


async def take(request: Request) -> Response:
    """POST /policies/{id}/take"""
    try:
        return render.see(await take_one(request, Kind.BUNDLE))
    except Refused as refused:
        if refused.status == 404:
            raise
        return await _show_one(request, problem=str(refused), status=refused.status)
