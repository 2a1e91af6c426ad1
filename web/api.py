"""For programs: the same answers as the pages, as JSON with cursors. docs/api.md and /api/v1/openapi.json describe it.

A cursor never skips and never repeats: `next` of one answer is `after` of the next call.
"""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from fleet import limits
from fleet.limits import HOUR
from web import api_shapes as shapes
from web import asked, forms, render
from web.pages import account, node, quarantine
from web.pages import links as pages_links
from web.ports import Refused

PULL_ITEMS_MAX = 10_000
_CURSOR_MAX = 2**62


def _limit(request: Request, most: int) -> int:
    return forms.number(request.query_params, "limit", default=limits.page_items_default, low=1, high=most)


def _after(request: Request) -> int:
    return forms.number(request.query_params, "after", default=0, low=0, high=_CURSOR_MAX)


async def nodes(request: Request) -> Response:
    """Nodes by ascending id."""
    limit = _limit(request, limits.page_items_max)
    after = forms.text(request.query_params, "after", chars_max=26)
    found = await asked.box(request).nodes(asked.who(request), after, limit)
    following = found[-1].id if len(found) == limit else None
    return render.data(shapes.NodeList(tuple(shapes.state(one) for one in found), following))


async def one_node(request: Request) -> Response:
    """One node with everything that is known of it now."""
    return render.data(await node.find(request))


async def series(request: Request) -> Response:
    """A metric of a node over time: `from` and `to`, or the last `hours` (1)."""
    query = request.query_params
    metric = forms.text(query, "metric", chars_max=limits.name_chars_max, need="Which metric? Send metric=battery_pct.")
    now_ns = asked.house(request).clock()
    to_ns = forms.number(query, "to", default=now_ns, low=0, high=_CURSOR_MAX)
    hours = forms.number(query, "hours", default=1, low=1, high=8_784)
    from_ns = forms.number(query, "from", default=max(to_ns - hours * HOUR, 0), low=0, high=_CURSOR_MAX)
    if from_ns >= to_ns:
        raise Refused("“from” must be before “to”; both are Unix nanoseconds.", 400)
    view = await node.find(request)
    return render.data(await asked.box(request).series(asked.who(request), view.row.id, metric, from_ns, to_ns))


async def events(request: Request) -> Response:
    """Events of this box's journal by ascending position."""
    after = _after(request)
    found = await asked.box(request).events(asked.who(request), after, _limit(request, PULL_ITEMS_MAX))
    following = found[-1].position if found else after
    return render.data(shapes.EventList(tuple(shapes.event(one) for one in found), following))


async def telemetry(request: Request) -> Response:
    """Raw records by ascending id, with the gaps that were made on purpose."""
    limit = _limit(request, PULL_ITEMS_MAX)
    node_id = forms.text(request.query_params, "node", chars_max=26) or None
    page = await asked.box(request).records_after(asked.who(request), _after(request), limit, node_id)
    return render.data(shapes.records(page))


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


async def links(request: Request) -> Response:
    """The links of this box: at a site the one to its hub, at a hub one to each site."""
    return render.data(await asked.box(request).links(asked.who(request)))


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


async def quarantined(request: Request) -> Response:
    """Quarantined input, newest first."""
    query = request.query_params
    before = forms.number(query, "before", default=0, low=0, high=_CURSOR_MAX)
    limit = _limit(request, limits.page_items_max)
    settled = query.get("settled") == "1"
    items = tuple(await asked.box(request).quarantine(asked.who(request), before, limit, settled))
    return render.data(shapes.QuarantineList(items, items[-1].id if len(items) == limit else None))


async def settle(request: Request) -> Response:
    """Try a quarantined item again, or drop it."""
    wish = await forms.document(request, shapes.Settle)
    item = forms.number(request.path_params, "id", default=0, low=1, high=_CURSOR_MAX)
    await asked.box(request).settle(asked.who(request), item, quarantine.decision_of(wish.decision))
    return render.data(shapes.Done())


async def tokens(request: Request) -> Response:
    """All tokens, never their secrets."""
    found = await asked.people(request).tokens()
    return render.data(shapes.TokenList(tuple(shapes.token(one) for one in found)))


async def create_token(request: Request) -> Response:
    """Make a bearer token; its secret is in this answer and nowhere else."""
    wish = await forms.document(request, shapes.NewToken)
    name = forms.text({"name": wish.name}, "name", chars_max=limits.name_chars_max, need="A token needs a name.")
    secret = await asked.people(request).create_token(asked.who(request), name, account.role_of(wish.role))
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
    await asked.people(request).create_account(asked.who(request), name, password, account.role_of(wish.role))
    return render.data(shapes.Done(), 201)


async def me(request: Request) -> Response:
    """Who the asker is taken for."""
    return render.data(account.me_of(request))


async def alive(request: Request) -> Response:
    """The process answers."""
    return render.data(shapes.Alive(True, asked.box(request).version))


async def ready(request: Request) -> Response:
    """Whether to send here now; 503 with the reasons when not."""
    found = await asked.box(request).health()
    status = 200 if found.ready else 503
    return render.data(shapes.Ready(found.ready, found.problems, found.loops), status)
