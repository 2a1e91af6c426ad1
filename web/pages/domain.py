"""One domain: its sites and nodes, how they are, what drifts and why."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from starlette.requests import Request
from starlette.responses import Response

from fleet.document import Kind
from web import asked, forms, render
from web.pages import policies
from web.ports import BATCH_FIELDS, BATCH_NODES_MAX, AttentionQuery, BatchView, MemberQuery, MembersView, Refused

NEEDING_MAX = 5  # items of its attention queue
SITES_MAX = 24  # of whose debt is told
SHOWN_MAX = 48  # nodes to tick on one page; a form holds that many
_TICK = "n-"


async def show(request: Request) -> Response:
    """GET /domains/{id}"""
    return await _show(request)


async def _show(request: Request, *, problem: str = "", status: int = 200) -> Response:
    moment = await asked.moment(request) if request.method == "GET" else None
    if moment is not None:
        return await policies.one_then(request, Kind.DOMAIN, moment)
    view = await policies.find(request, Kind.DOMAIN)
    if asked.wants_json(request):
        return render.data(view)
    common = await policies.shown(request, Kind.DOMAIN, view)
    name = view.group.id
    authority = await asked.box(request).authority(asked.who(request), name) if name else None
    paths = await asked.box(request).policies.paths(asked.who(request), name)
    debts = await asked.box(request).debts(asked.who(request), name)
    needing = await asked.box(request).attention(asked.who(request), AttentionQuery(domain=name)) if name else None
    return render.page(
        request,
        "domain",
        status=status,
        problem=problem,
        authority=authority,
        decided=sorted(authority.lines, key=lambda one: (not one.contests, not one.pending)) if authority else (),
        paths=paths,
        needing=needing,
        needing_max=NEEDING_MAX,
        debts=debts[:SITES_MAX],
        sites_more=max(len(debts) - SITES_MAX, 0),
        lines_max=policies.LINES_MAX,
        **common,
    )


async def create(request: Request) -> Response:
    """POST /domains"""
    return await policies.create_one(request, Kind.DOMAIN)


async def change(request: Request) -> Response:
    """POST /domains/{id}"""
    fields, view = await forms.form(request), await policies.find(request, Kind.DOMAIN)
    try:
        wanted = policies.wishes(Kind.DOMAIN, fields)
        if wanted:
            await asked.box(request).policies.write(asked.who(request), Kind.DOMAIN, view.group.id, wanted)
    except Refused as refused:
        return await _show(request, problem=str(refused), status=refused.status)
    return render.see(f"/domains/{view.group.id}?done=changed")


class Wish(NamedTuple):
    field: str
    value: str


async def edit_page(request: Request) -> Response:
    """GET /domains/{id}/edit: choose nodes and one thing that they should be given."""
    return await _edit_page(request, request.query_params)


async def _edit_page(
    request: Request,
    fields: Mapping[str, str],
    *,
    problem: str = "",
    status: int = 200,
    wish: Wish | None = None,
    preview: BatchView | None = None,
    result: BatchView | None = None,
    fingerprint: str = "",
) -> Response:
    query = member_query(fields)
    members = await find_members(request, query)
    if asked.wants_json(request):
        return render.data(members)
    domains, bundles = await asked.box(request).policies.names()
    ticked = frozenset(name.removeprefix(_TICK) for name in fields if name.startswith(_TICK))
    return render.page(
        request,
        "domain_edit",
        status=status,
        problem=problem,
        members=members,
        query={name: getattr(query, name) for name in query.__struct_fields__},
        sites=[(one, one) for one in members.sites],
        versions=[(one, one) for one in members.versions],
        domains=domains,
        bundles=bundles,
        called=dict(domains + bundles),
        wish=wish,
        preview=preview,
        result=result,
        print=fingerprint,
        carried={name: said for name, said in fields.items() if name not in ("csrf", "sure")},
        ticked=ticked,
        nodes_max=BATCH_NODES_MAX,
        shown_max=SHOWN_MAX,
        base=f"/domains/{request.path_params['id']}",
    )


def member_query(fields: Mapping[str, str]) -> MemberQuery:
    asked_for = {name: forms.text(fields, name, chars_max=128) for name in ("site", "bundle", "version")}
    return MemberQuery(out=fields.get("out", "") == "1", **asked_for)


async def find_members(request: Request, query: MemberQuery) -> MembersView:
    """Refused (404) when there is no such domain."""
    name = request.path_params["id"]
    members = asked.box(request).policies.members
    view = await members(asked.who(request), "" if name == policies.NO_DOMAIN else name, query)
    if view is None:
        raise Refused("There is no domain with this id here. It may not have come yet.", 404)
    return view


async def check_value(request: Request, wish: Wish) -> None:
    """Refused (422) when it names a bundle or a domain that is not here, or is no field."""
    if wish.field not in BATCH_FIELDS:
        raise Refused(f"One of these can be changed at once: {', '.join(BATCH_FIELDS)}.", 422)
    domains, bundles = await asked.box(request).policies.names()
    known = {"domain_id": dict(domains), "policy_bundle_id": dict(bundles)}.get(wish.field)
    if wish.value and known is not None and wish.value not in known:
        raise Refused(f"There is no {wish.field.split('_')[0]} of that id here. Choose one of the list.", 422)


def bounded(chosen: Sequence[str]) -> Sequence[str]:
    if not chosen:
        raise Refused("No node is chosen. Tick some, or ask for fewer things.", 422)
    if len(chosen) > BATCH_NODES_MAX:
        raise Refused(f"At most {BATCH_NODES_MAX:,} nodes at once; these are {len(chosen):,}. Narrow it.", 422)
    return chosen


async def edit(request: Request) -> Response:
    """POST /domains/{id}/edit: first what it would touch, then, when that is confirmed, the change."""
    fields = await forms.form(request)
    wish: Wish | None = None
    try:
        field = forms.text(fields, "field", chars_max=64, need="Say what they should be given.")
        value = fields.get(field, "") if field in ("policy_bundle_id", "domain_id") else fields.get("value", "")
        wish = Wish(field, forms.text({"value": value}, "value", chars_max=256))
        await check_value(request, wish)
        matching = [one.id for one in (await find_members(request, member_query(fields))).nodes]
        if any(name.startswith(_TICK) for name in fields):
            matching = [one for one in matching if f"{_TICK}{one}" in fields]
        chosen, fingerprint = bounded(matching), _fingerprint(matching)
        change, who, sure = asked.box(request).change_many, asked.who(request), fields.get("sure", "")
        if sure == fingerprint:
            done = await change(who, chosen, *wish, dry_run=False)
            return await _edit_page(request, fields, wish=wish, result=done)
        preview = await change(who, chosen, *wish, dry_run=True)
    except Refused as refused:
        if refused.status == 404:
            raise
        return await _edit_page(request, fields, problem=str(refused), status=refused.status, wish=wish)
    moved = "Other nodes match now than a moment ago; nothing was written. Look again." if sure else ""
    return await _edit_page(
        request,
        fields,
        problem=moved,
        status=409 if sure else 200,
        wish=wish,
        preview=preview,
        fingerprint=fingerprint,
    )


def _fingerprint(chosen: Sequence[str]) -> str:
    """Of the nodes that a preview spoke of: what is confirmed is that, and no other nodes."""
    return hashlib.sha256("\n".join(sorted(chosen)).encode()).hexdigest()[:32]


async def take(request: Request) -> Response:
    """POST /domains/{id}/take"""
    try:
        return render.see(await policies.take_one(request, Kind.DOMAIN))
    except Refused as refused:
        if refused.status == 404:
            raise
        return await _show(request, problem=str(refused), status=refused.status)
