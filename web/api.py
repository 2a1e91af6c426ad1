"""For programs: the same answers as the pages, as JSON with cursors. docs/api.md and /api/v1/openapi.json describe it.

A cursor never skips and never repeats: `next` of one answer is `after` of the next call.
"""

from __future__ import annotations

from itertools import takewhile

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from fleet import limits
from fleet.authority import why_chars_max
from fleet.document import Kind as DocumentKind
from fleet.drift import Difference, Standing
from fleet.limits import HOUR
from fleet.people import role_of
from web import api_shapes as shapes
from web import asked, forms, render
from web.pages import account, domain, node, policies, quarantine
from web.pages import authority as pages_authority
from web.pages import links as pages_links
from web.pages import site as pages_site
from web.ports import MemberQuery, RecordPage, Refused

PULL_ITEMS_MAX = 10_000
_CURSOR_MAX = 2**62


def _limit(request: Request, most: int) -> int:
    return forms.number(request.query_params, "limit", default=limits.page_items_default, low=1, high=most)


def _after(request: Request) -> int:
    return forms.number(request.query_params, "after", default=0, low=0, high=_CURSOR_MAX)


async def nodes(request: Request) -> Response:
    """Nodes by ascending id: all, or those that match."""
    limit = _limit(request, limits.page_items_max)
    after = forms.text(request.query_params, "after", chars_max=26)
    moment, who = await asked.moment(request), asked.who(request)
    query = pages_site.query_of(request)
    if moment is None:
        now = await asked.box(request).nodes(who, after, limit, query)
        lines = await asked.box(request).policies.differences(who, [one.id for one in now])
        found = [(one, lines.get(one.id, ())) for one in now]
    else:
        found = [*await moment.past.nodes(who, after, limit, moment.at_ns, query)]
    following = found[-1][0].id if len(found) == limit else None
    return render.data(shapes.NodeList(tuple(shapes.state(one, _differing(said)) for one, said in found), following))


async def one_node(request: Request) -> Response:
    """One node with everything that is known of it now."""
    moment = await asked.moment(request)
    return render.data(await node.find(request) if moment is None else await node.find_then(request, moment))


def _differing(lines: tuple[Difference, ...]) -> tuple[Difference, ...]:
    return tuple(line for line in lines if line.standing is not Standing.IN_LINE)


async def node_drift(request: Request) -> Response:
    """All that is wanted of a node, and how it stands."""
    moment = await asked.moment(request)
    view = await node.find(request) if moment is None else await node.find_then(request, moment)
    return render.data(shapes.DriftOf(view.row.id, view.score, view.drift))


async def policy_list(request: Request) -> Response:
    """All policy bundles, by name."""
    moment = await asked.moment(request)
    if moment is not None:
        return render.data(await moment.past.groups(asked.who(request), DocumentKind.BUNDLE, moment.at_ns))
    view = await asked.box(request).policies.drift(asked.who(request))
    return render.data(shapes.GroupList(view.policies, view.pending))


async def domain_list(request: Request) -> Response:
    """All domains, those that drift most first."""
    moment = await asked.moment(request)
    if moment is not None:
        return render.data(await moment.past.groups(asked.who(request), DocumentKind.DOMAIN, moment.at_ns))
    view = await asked.box(request).policies.drift(asked.who(request))
    return render.data(shapes.GroupList(view.domains, view.pending))


async def policy_create(request: Request) -> Response:
    """Make a policy bundle."""
    return await _create(request, DocumentKind.BUNDLE)


async def domain_create(request: Request) -> Response:
    """Make a domain."""
    return await _create(request, DocumentKind.DOMAIN)


async def _create(request: Request, kind: DocumentKind) -> Response:
    wish = await forms.document(request, shapes.Named)
    made = await asked.box(request).policies.create(asked.who(request), kind, policies.name_of(wish.name))
    return render.data(shapes.Adopted(made), 201)


async def one_policy(request: Request) -> Response:
    """One policy bundle, and its nodes that are out of spec, the worst first."""
    return await _group(request, DocumentKind.BUNDLE)


async def one_domain(request: Request) -> Response:
    """One domain, and its nodes that are out of spec, the worst first."""
    return await _group(request, DocumentKind.DOMAIN)


async def _group(request: Request, kind: DocumentKind) -> Response:
    moment = await asked.moment(request)
    if moment is not None:
        return render.data(await policies.find_then(request, kind, moment))
    return render.data(await policies.find(request, kind))


async def policy_write(request: Request) -> Response:
    """Change fields of a policy bundle; it goes to every site."""
    return await _write(request, DocumentKind.BUNDLE)


async def domain_write(request: Request) -> Response:
    """Change fields of a domain; it goes to every site."""
    return await _write(request, DocumentKind.DOMAIN)


async def _write(request: Request, kind: DocumentKind) -> Response:
    wish, view = await forms.document(request, shapes.Fields), await policies.find(request, kind)
    fields = policies.bounded(wish.fields)
    await asked.box(request).policies.write(asked.who(request), kind, view.group.id, fields)
    return render.data(shapes.Done())


async def policy_preview(request: Request) -> Response:
    """What a change of a policy bundle would touch; nothing is changed."""
    wish, view = await forms.document(request, shapes.Fields), await policies.find(request, DocumentKind.BUNDLE)
    fields = policies.bounded(wish.fields)
    return render.data(await asked.box(request).policies.preview(asked.who(request), view.group.id, fields))


async def policy_take(request: Request) -> Response:
    """Of words written at once into a policy bundle, take one: its place in `conflicts`."""
    return await _take(request, DocumentKind.BUNDLE)


async def domain_take(request: Request) -> Response:
    """Of words written at once into a domain, take one: its place in `conflicts`."""
    return await _take(request, DocumentKind.DOMAIN)


async def domain_edit(request: Request) -> Response:
    """Give many nodes of a domain one thing, in one transaction; a node that refuses leaves the others alone."""
    wish = await forms.document(request, shapes.Batch)
    change = domain.Wish(wish.field, forms.text({"value": wish.value}, "value", chars_max=256))
    await domain.check_value(request, change)
    query = MemberQuery(out=wish.out, site=wish.site, bundle=wish.bundle, version=wish.version)
    matching = [one.id for one in (await domain.find_members(request, query)).nodes]
    missing = frozenset(wish.nodes).difference(matching)
    if missing:
        raise Refused(f"{min(missing)[:40]!r} is no node of this domain that matches; nothing was written.", 422)
    chosen = domain.bounded(tuple(dict.fromkeys(wish.nodes)) or matching)
    box, who = asked.box(request), asked.who(request)
    return render.data(await box.change_many(who, chosen, *change, dry_run=wish.dry_run))


async def _take(request: Request, kind: DocumentKind) -> Response:
    wish, view = await forms.document(request, shapes.Take), await policies.find(request, kind)
    await asked.box(request).policies.take(asked.who(request), kind, view.group.id, wish.field, wish.choice)
    return render.data(shapes.Done())


async def series(request: Request) -> Response:
    """A metric of a node over time: `from` and `to`, or the last `hours` (1)."""
    query = request.query_params
    metric = forms.text(query, "metric", chars_max=limits.name_chars_max, need="Which metric? Send metric=battery_pct.")
    now_ns = asked.house(request).clock()
    moment = await asked.moment(request)
    to_ns = forms.number(query, "to", default=moment.at_ns if moment else now_ns, low=0, high=_CURSOR_MAX)
    hours = forms.number(query, "hours", default=1, low=1, high=8_784)
    from_ns = forms.number(query, "from", default=max(to_ns - hours * HOUR, 0), low=0, high=_CURSOR_MAX)
    if from_ns >= to_ns:
        raise Refused("“from” must be before “to”; both are Unix nanoseconds.", 400)
    view = await node.find(request)
    return render.data(await asked.box(request).series(asked.who(request), view.row.id, metric, from_ns, to_ns))


async def events(request: Request) -> Response:
    """Events of this box's journal by ascending position; those of a stretch of time, or up to a moment."""
    after, stretch = _after(request), asked.stretch(request, await asked.moment(request))
    found = await asked.box(request).events(asked.who(request), after, _limit(request, PULL_ITEMS_MAX), stretch)
    following = found[-1].position if found else after
    return render.data(shapes.EventList(tuple(shapes.event(one) for one in found), following))


async def telemetry(request: Request) -> Response:
    """Raw records by ascending id, with the gaps that were made on purpose."""
    limit = _limit(request, PULL_ITEMS_MAX)
    node_id = forms.text(request.query_params, "node", chars_max=26) or None
    after, moment = _after(request), await asked.moment(request)
    page = await asked.box(request).records_after(asked.who(request), after, limit, node_id)
    if moment is not None:
        page = _until(page, after, moment.at_ns)
    return render.data(shapes.records(page))


def _until(page: RecordPage, after: int, moment_ns: int) -> RecordPage:
    """What had been received by a moment. Where it ends, so does the cursor."""
    records = tuple(takewhile(lambda record: record.at_ns <= moment_ns, page.records))
    if len(records) == len(page.records):
        return page
    upto = records[-1].id if records else after
    gaps = tuple(gap for gap in page.gaps if gap[0] <= upto)
    return msgspec.structs.replace(page, records=records, next=upto, gaps=gaps)


async def sources(request: Request) -> Response:
    """Sources that no node claims yet."""
    view = await asked.box(request).intake(asked.who(request))
    return render.data(shapes.SourceList(view.unclaimed))


async def adopt(request: Request) -> Response:
    """Make a node of an unclaimed source; its past records come with it."""
    wish = await forms.document(request, shapes.Adopt)
    name = forms.text({"name": wish.name}, "name", chars_max=limits.name_chars_max, need="A node needs a name.")
    if len(wish.source) > limits.subject_chars_max or len(wish.tags) > forms.FIELDS_MAX:
        raise Refused("The source or the list of tags is too long.", 422)
    node_id = await asked.box(request).adopt(asked.who(request), wish.source, name, wish.kind, wish.tags)
    return render.data(shapes.Adopted(node_id), 201)


async def change(request: Request) -> Response:
    """Change one field of a node."""
    wish, view = await forms.document(request, shapes.Change), await node.find(request)
    if wish.field not in view.editable:
        raise Refused(f"“field” is one of {', '.join(view.editable) or 'none here'}.", 422)
    value = forms.text({wish.field: wish.value}, wish.field, chars_max=node.chars_max(wish.field))
    await asked.box(request).change(asked.who(request), view.row.id, wish.field, value)
    return render.data(shapes.Done())


async def take(request: Request) -> Response:
    """Of words written at once into a field of a node, take one: its place in `conflicts`."""
    wish, view = await forms.document(request, shapes.Take), await node.find(request)
    await asked.box(request).take(asked.who(request), view.row.id, wish.field, wish.choice)
    return render.data(shapes.Done())


async def authority(request: Request) -> Response:
    """Who decides what is wanted of a domain or a node, at each site: since when, until when, and what is contested."""
    return render.data(await pages_authority.find(request, await asked.moment(request)))


async def grant(request: Request) -> Response:
    """Say who decides from now on. It holds at each site when the site hears of it."""
    wish, view = await forms.document(request, shapes.Grant), await pages_authority.find(request)
    why = forms.text({"why": wish.why}, "why", chars_max=why_chars_max, need="Say why: the journal keeps it.")
    await asked.box(request).grant(asked.who(request), view.subject, wish.terms, why)
    return render.data(shapes.Done())


async def hand_back(request: Request) -> Response:
    """Give back what this site took when its lease ran out."""
    wish, view = await forms.document(request, shapes.Why), await pages_authority.find(request)
    why = forms.text({"why": wish.why}, "why", chars_max=why_chars_max, need="Say why: the journal keeps it.")
    await asked.box(request).hand_back(asked.who(request), view.subject, why)
    return render.data(shapes.Done())


async def settle_parked(request: Request) -> Response:
    """Of values that were parked in a node's document, take one or drop it: its place in `parked` among its field's."""
    wish, view = await forms.document(request, shapes.SettleParked), await node.find(request)
    if wish.decision not in ("take", "drop"):
        raise Refused("“decision” is take or drop.", 422)
    why = forms.text({"why": wish.why}, "why", chars_max=why_chars_max, need="Say why: the journal keeps it.")
    await asked.box(request).settle_parked(asked.who(request), view.row.id, wish.field, wish.choice, wish.decision, why)
    return render.data(shapes.Done())


async def links(request: Request) -> Response:
    """The links of this box: at a site the one to its hub, at a hub one to each site."""
    moment, who = await asked.moment(request), asked.who(request)
    return render.data(
        await asked.box(request).links(who, pages_links.query_of(request))
        if moment is None
        else await moment.past.links(who, moment.at_ns)
    )


async def link_change(request: Request) -> Response:
    """Cut or restore a link, pause or resume a lane, cap it, release a site from quarantine."""
    wish = await forms.document(request, shapes.LinkChange)
    await pages_links.act(request, wish.action, wish.value)
    return render.data(shapes.Done())


async def move(request: Request) -> Response:
    """One step of a node in its lifecycle."""
    wish, view = await forms.document(request, shapes.Move), await node.find(request)
    reason = forms.text(
        {"reason": wish.reason}, "reason", chars_max=node.REASON_CHARS_MAX, need="Say why: the journal keeps it."
    )
    await asked.box(request).move(asked.who(request), view.row.id, wish.target, reason)
    return render.data(shapes.Done())


async def call(request: Request) -> Response:
    """Call a method of a node's device, which must be connected, and give back what it answers."""
    wish = await forms.document(request, shapes.Call)
    method = forms.text(
        {"method": wish.method}, "method", chars_max=limits.name_chars_max, need="Which method? Send “method”."
    )
    if not 1 <= wish.timeout_ms <= limits.call_seconds_max * 1000:
        raise Refused(f"“timeout_ms” is 1 to {limits.call_seconds_max * 1000}.", 422)
    view = await node.find(request)
    asked.waits_elsewhere(request)
    timeout_s = wish.timeout_ms / 1000
    return render.data(
        shapes.Called(
            await asked.box(request).call_device(
                asked.who(request), view.row.id, method, wish.params, timeout_s, one_way=wish.one_way
            )
        )
    )


async def claim_device(request: Request) -> Response:
    """Enter the secret that a node's device has said: it is the one that stands before you."""
    wish, view = await forms.document(request, shapes.Secret), await node.find(request)
    secret = forms.secret({"secret": wish.secret}, "secret", "Which secret? Send the one that the device shows.")
    await asked.box(request).claim_device(asked.who(request), view.row.id, secret)
    return render.data(shapes.Done())


async def quarantined(request: Request) -> Response:
    """Quarantined input, newest first."""
    query = request.query_params
    before = forms.number(query, "before", default=0, low=0, high=_CURSOR_MAX)
    limit = _limit(request, limits.page_items_max)
    settled = query.get("settled") == "1"
    moment = await asked.moment(request)
    at_ns = moment.at_ns if moment is not None else None
    items = tuple(await asked.box(request).quarantine(asked.who(request), before, limit, settled, at_ns))
    return render.data(shapes.QuarantineList(items, items[-1].id if len(items) == limit else None))


async def settle(request: Request) -> Response:
    """Try a quarantined item again, or drop it."""
    wish = await forms.document(request, shapes.Settle)
    item = forms.number(request.path_params, "id", default=0, low=1, high=_CURSOR_MAX)
    node_name = forms.text({"node": wish.node}, "node", chars_max=limits.name_chars_max)
    decision = quarantine.decision_of(wish.decision)
    await asked.box(request).settle(asked.who(request), item, decision, node_name, alike=wish.alike)
    return render.data(shapes.Done())


async def tokens(request: Request) -> Response:
    """All tokens, never their secrets."""
    found = await asked.people(request).tokens()
    return render.data(shapes.TokenList(tuple(shapes.token(one) for one in found)))


async def create_token(request: Request) -> Response:
    """Make a bearer token; its secret is in this answer and nowhere else."""
    wish = await forms.document(request, shapes.NewToken)
    name = forms.text({"name": wish.name}, "name", chars_max=limits.name_chars_max, need="A token needs a name.")
    secret = await asked.people(request).create_token(asked.who(request), name, role_of(wish.role))
    return render.data(shapes.TokenSecret(name, secret), 201)


async def revoke_token(request: Request) -> Response:
    """End a token, by name."""
    need = "Which token? Send name=…"
    name = forms.text(request.query_params, "name", chars_max=limits.name_chars_max, need=need)
    await asked.people(request).revoke_token(asked.who(request), name)
    return render.data(shapes.Done())


async def create_account(request: Request) -> Response:
    """Make an account for a person."""
    wish = await forms.document(request, shapes.NewAccount)
    name = forms.text({"name": wish.name}, "name", chars_max=limits.name_chars_max, need="An account needs a name.")
    password = account.new_password({"password": wish.password})
    await asked.people(request).create_account(asked.who(request), name, password, role_of(wish.role), wish.sites)
    return render.data(shapes.Done(), 201)


async def me(request: Request) -> Response:
    """Who the asker is taken for."""
    return render.data(account.me_of(request))


async def alive(request: Request) -> Response:
    """The process answers."""
    return render.data(shapes.Alive(True, asked.box(request).version))


async def ready(request: Request) -> Response:
    """Whether to send here now; 503 with the reasons when not."""
    house = asked.house(request)
    found = await (house.tenants or house.box).health()
    status = 200 if found.ready else 503
    return render.data(shapes.Ready(found.ready, found.problems, found.loops), status)
