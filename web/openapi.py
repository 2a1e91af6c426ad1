"""The API described by its own route table (OpenAPI 3.1), so that the description cannot drift.

A row of the table that stands under /api/v1 without a description here, or the other way round, fails at once.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from fleet import limits
from fleet.attention import Cause
from fleet.connectivity import Reach
from fleet.devices import Issued
from fleet.node import Kind
from fleet.plan import Sort
from web import api_shapes as shapes
from web import asked, render
from web.api import PULL_ITEMS_MAX
from web.latest import Message
from web.pages import attention, plan
from web.policy import Entry, Policy, Table
from web.ports import (
    AttentionView,
    AuthorityView,
    BatchView,
    GroupsThen,
    GroupThen,
    GroupView,
    LinkState,
    LinksView,
    NodeView,
    PlanView,
    Preview,
    Series,
)


class Query(NamedTuple):
    name: str
    schema: dict[str, Any]
    words: str


class Spoken(NamedTuple):
    """What an operation answers with, asks for, and takes as a body."""

    answer: type | None
    queries: tuple[Query, ...] = ()
    body: type | None = None
    status: int = 200
    kind: str = "application/json"
    then: type | None = None  # what it answers with as of a moment, where that is another shape


def _whole(most: int, least: int = 0) -> dict[str, Any]:
    return {"type": "integer", "minimum": least, "maximum": most}


_LIMIT = Query(
    "limit", _whole(limits.page_items_max, 1) | {"default": limits.page_items_default}, "Items in one answer."
)
_PULL = Query("limit", _whole(PULL_ITEMS_MAX, 1) | {"default": limits.page_items_default}, "Items in one answer.")
_AFTER = Query("after", _whole(2**62) | {"default": 0}, "`next` of the answer before.")
_OFFSET = Query("offset", _whole(1_000_000) | {"default": 0}, "Nodes to pass over.")
_NS = _whole(2**62)
_AS_OF = Query(
    "as_of",
    {"type": "string", "maxLength": 64},
    "As of this moment: RFC 3339, Unix seconds (up to eleven digits) or Unix nanoseconds; now unless told.",
)
_NAME = {"type": "string", "maxLength": limits.name_chars_max}
_FROM = Query("from", _AS_OF.schema, "Not before this moment, written as `as_of` is.")
_TO = Query("to", _AS_OF.schema, "Before this moment, written as `as_of` is.")

SPOKEN: dict[tuple[str, str], Spoken] = {
    ("GET", "/api/v1/me"): Spoken(shapes.Me),
    ("GET", "/api/v1/nodes"): Spoken(
        shapes.NodeList,
        (
            Query("after", {"type": "string", "maxLength": 26}, "`next` of the answer before."),
            _LIMIT,
            Query("text", _NAME, "In name, tag, address or id."),
            Query("reach", {"type": "string", "enum": ["", *Reach]}, "Only nodes of this reach."),
            Query("kind", {"type": "string", "enum": ["", *Kind]}, "Only nodes of this kind."),
            Query("tag", _NAME, "Only nodes with this tag."),
            Query("site", _NAME, "A hub's: only nodes of the site of this name."),
            Query("domain", {"type": "string", "maxLength": 64}, "The id of a domain, or none: only nodes of it."),
            Query("bundle", {"type": "string", "maxLength": 64}, "The id of a policy bundle: only nodes of it."),
            _AS_OF,
        ),
    ),
    ("GET", "/api/v1/nodes/{id}"): Spoken(NodeView, (_AS_OF,)),
    ("PATCH", "/api/v1/nodes/{id}"): Spoken(shapes.Done, body=shapes.Change),
    ("POST", "/api/v1/nodes/{id}/move"): Spoken(shapes.Done, body=shapes.Move),
    ("POST", "/api/v1/nodes/{id}/rpc"): Spoken(shapes.Called, body=shapes.Call),
    ("POST", "/api/v1/nodes/{id}/claimed"): Spoken(shapes.Done, body=shapes.Secret),
    ("GET", "/api/v1/nodes/{id}/series"): Spoken(
        Series,
        (
            Query("metric", {"type": "string", "maxLength": limits.name_chars_max}, "Such as battery_pct. Required."),
            Query("from", _NS, "Unix nanoseconds; `hours` before `to` unless told."),
            Query("to", _NS, "Unix nanoseconds; now unless told."),
            Query("hours", _whole(8_784, 1) | {"default": 1}, "How far back, where `from` is not given."),
            _AS_OF,
        ),
    ),
    ("GET", "/api/v1/nodes/{id}/drift"): Spoken(shapes.DriftOf, (_AS_OF,)),
    ("GET", "/api/v1/policies"): Spoken(shapes.GroupList, (_AS_OF,), then=GroupsThen),
    ("POST", "/api/v1/policies"): Spoken(shapes.Adopted, body=shapes.Named, status=201),
    ("GET", "/api/v1/policies/{id}"): Spoken(GroupView, (_OFFSET, _LIMIT, _AS_OF), then=GroupThen),
    ("PATCH", "/api/v1/policies/{id}"): Spoken(shapes.Done, body=shapes.Fields),
    ("POST", "/api/v1/policies/{id}/preview"): Spoken(Preview, body=shapes.Fields),
    ("POST", "/api/v1/policies/{id}/take"): Spoken(shapes.Done, body=shapes.Take),
    ("GET", "/api/v1/domains"): Spoken(shapes.GroupList, (_AS_OF,), then=GroupsThen),
    ("POST", "/api/v1/domains"): Spoken(shapes.Adopted, body=shapes.Named, status=201),
    ("GET", "/api/v1/domains/{id}"): Spoken(GroupView, (_OFFSET, _LIMIT, _AS_OF), then=GroupThen),
    ("PATCH", "/api/v1/domains/{id}"): Spoken(shapes.Done, body=shapes.Fields),
    ("POST", "/api/v1/domains/{id}/take"): Spoken(shapes.Done, body=shapes.Take),
    ("POST", "/api/v1/domains/{id}/edit"): Spoken(BatchView, body=shapes.Batch),
    ("GET", "/api/v1/events"): Spoken(shapes.EventList, (_AFTER, _PULL, _FROM, _TO, _AS_OF)),
    ("GET", "/api/v1/events/feed"): Spoken(
        None,
        (Query("after", _whole(2**62), "Position of the last event you have; Last-Event-ID does the same."),),
        kind="text/event-stream",
    ),
    ("GET", "/api/v1/state/stream"): Spoken(
        Message,
        (
            Query(
                "node", {"type": "array", "items": {"type": "string"}, "maxItems": 1_000}, "Only these nodes, by id."
            ),
            Query("tag", {"type": "array", "items": {"type": "string"}, "maxItems": 64}, "Only nodes with such a tag."),
            Query("site", {"type": "array", "items": {"type": "string"}, "maxItems": 64}, "Only nodes of such a site."),
        ),
        kind="text/event-stream",
    ),
    ("GET", "/api/v1/telemetry"): Spoken(
        shapes.RecordList,
        (_AFTER, Query("node", {"type": "string", "maxLength": 26}, "Only the records of this node."), _PULL, _AS_OF),
    ),
    ("GET", "/api/v1/sources"): Spoken(shapes.SourceList),
    ("POST", "/api/v1/adopt"): Spoken(shapes.Adopted, body=shapes.Adopt, status=201),
    ("GET", "/api/v1/quarantine"): Spoken(
        shapes.QuarantineList,
        (
            Query("before", _whole(2**62) | {"default": 0}, "`before` of the answer before; 0 is the newest."),
            _LIMIT,
            Query("settled", {"type": "string", "enum": ["0", "1"], "default": "0"}, "1 for what is settled."),
            _AS_OF,
        ),
    ),
    ("POST", "/api/v1/quarantine/{id}"): Spoken(shapes.Done, body=shapes.Settle),
    ("GET", "/api/v1/links"): Spoken(
        LinksView,
        (
            _AS_OF,
            Query("text", {"type": "string", "maxLength": limits.name_chars_max}, "In the name of the site."),
            Query("state", {"type": "string", "enum": [*LinkState]}, "In which way the link is."),
            Query("offset", _whole(1_000_000) | {"default": 0}, "Links to pass over."),
            Query("limit", _whole(1_000_000, 1), "Links in one answer; all unless told."),
        ),
    ),
    ("GET", "/api/v1/devices"): Spoken(
        shapes.DeviceList,
        (
            Query("after", {"type": "string", "maxLength": limits.name_chars_max}, "`next` of the answer before."),
            _LIMIT,
            Query("q", {"type": "string", "maxLength": limits.name_chars_max}, "In the name."),
        ),
    ),
    ("POST", "/api/v1/devices"): Spoken(Issued, body=shapes.Enrol, status=201),
    ("POST", "/api/v1/devices/{id}/rotate"): Spoken(Issued, body=shapes.Rotate, status=201),
    ("POST", "/api/v1/devices/{id}/revoke"): Spoken(shapes.Done, body=shapes.Revoke),
    ("GET", "/api/v1/activation-codes"): Spoken(shapes.CodeList),
    ("POST", "/api/v1/activation-codes"): Spoken(shapes.CodeSecret, body=shapes.NewCode, status=201),
    ("DELETE", "/api/v1/activation-codes/{id}"): Spoken(shapes.Done),
    ("POST", "/api/v1/links/{id}"): Spoken(shapes.Done, body=shapes.LinkChange),
    ("POST", "/api/v1/nodes/{id}/take"): Spoken(shapes.Done, body=shapes.Take),
    ("POST", "/api/v1/nodes/{id}/parked"): Spoken(shapes.Done, body=shapes.SettleParked),
    ("GET", "/api/v1/authority/{id}"): Spoken(AuthorityView, (_AS_OF,)),
    ("POST", "/api/v1/authority/{id}"): Spoken(shapes.Done, body=shapes.Grant),
    ("POST", "/api/v1/authority/{id}/return"): Spoken(shapes.Done, body=shapes.Why),
    ("GET", "/api/v1/attention"): Spoken(
        AttentionView,
        (
            Query("cause", {"type": "string", "enum": ["", *Cause]}, "Only what is here for this."),
            Query("domain", {"type": "string", "maxLength": 64}, "The id of a domain: only what is of it."),
            Query("site", {"type": "string", "maxLength": 64}, "A hub's: the name of a site."),
            _AS_OF,
        ),
    ),
    ("POST", "/api/v1/attention/{id}"): Spoken(shapes.Done, body=attention.TakeUp),
    ("GET", "/api/v1/plan"): Spoken(
        PlanView,
        (
            Query("site", {"type": "string", "maxLength": 64}, "A hub's: the peer whose plan it is; all unless told."),
            Query("sort", {"type": "string", "enum": ["", *Sort]}, "Only what is of this sort."),
            Query("text", {"type": "string", "maxLength": 200}, "In a name or a value."),
            Query("field", {"type": "string", "maxLength": limits.name_chars_max}, "Only this field."),
            Query("offset", _whole(1_000_000) | {"default": 0}, "Steps that need a person to pass over."),
            _LIMIT,
        ),
    ),
    ("POST", "/api/v1/plan/apply"): Spoken(plan.Decided, body=plan.Apply),
    ("POST", "/api/v1/plan/undo"): Spoken(plan.Decided, body=plan.Undo),
    ("GET", "/api/v1/tokens"): Spoken(shapes.TokenList),
    ("POST", "/api/v1/tokens"): Spoken(shapes.TokenSecret, body=shapes.NewToken, status=201),
    ("DELETE", "/api/v1/tokens"): Spoken(
        shapes.Done, (Query("name", {"type": "string", "maxLength": limits.name_chars_max}, "Of the token."),)
    ),
    ("POST", "/api/v1/accounts"): Spoken(shapes.Done, body=shapes.NewAccount, status=201),
    ("GET", "/api/v1/openapi.json"): Spoken(None),
    ("GET", "/metrics"): Spoken(None, kind="text/plain"),
    ("GET", "/healthz"): Spoken(shapes.Alive),
    ("GET", "/readyz"): Spoken(shapes.Ready),
}

_PREFIX = "#/components/schemas/{name}"


async def description(request: Request) -> Response:
    """This description."""
    made = document(request.scope["skerry.table"], asked.box(request).version)
    prefix = asked.house(request).prefix
    return render.data(made | {"servers": [{"url": prefix}]} if prefix else made)


def described(entry: Entry) -> bool:
    return entry.path.startswith("/api/") or entry.path in ("/metrics", "/healthz", "/readyz")


def document(table: Table, version: str) -> dict[str, Any]:
    """The OpenAPI document of this box."""
    entries = [entry for entry in table.entries if described(entry)]
    types = {kind for spoken in SPOKEN.values() for kind in (spoken.answer, spoken.then, spoken.body) if kind} | {
        shapes.Problem,
        Kind,
    }
    ordered = sorted(types, key=lambda kind: kind.__name__)
    _, schemas = msgspec.json.schema_components(ordered, ref_template=_PREFIX)
    paths: dict[str, dict[str, Any]] = {}
    for entry in entries:
        paths.setdefault(entry.path, {})[entry.method.lower()] = _operation(entry, SPOKEN[entry.method, entry.path])
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Skerry",
            "version": version,
            "summary": "One site of the fleet, for programs.",
            "description": "Times are Unix nanoseconds of receipt at this box unless a field says otherwise. "
            'A value nobody has told is null. Every refusal is {"error": sentence}.',
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "session": {"type": "apiKey", "in": "cookie", "name": "skerry_session_PORT"},
            },
        },
    }


def _operation(entry: Entry, spoken: Spoken) -> dict[str, Any]:
    role = entry.policy.name.lower().replace("_", "-")
    words = (entry.handler.__doc__ or "").strip().split("\n")[0]
    operation: dict[str, Any] = {
        "operationId": f"{entry.handler.__module__.rpartition('.')[2]}_{entry.handler.__name__}",
        "summary": words,
        "description": "Open to all." if entry.policy is Policy.PUBLIC else f"Needs the role {role} or more.",
        "responses": {str(spoken.status): _response("Done.", spoken), "4XX": _problem(), "5XX": _problem()},
    }
    if spoken.answer is shapes.Ready:
        operation["responses"]["503"] = _response("Not ready; `problems` says why.", spoken)
    if entry.policy is not Policy.PUBLIC:
        operation["security"] = [{"bearer": []}, {"session": []}]
    parameters = [
        {"name": query.name, "in": "query", "required": query.words.endswith("Required."), "description": query.words}
        | {"schema": query.schema}
        for query in spoken.queries
    ]
    if "{id}" in entry.path:
        parameters.insert(0, {"name": "id", "in": "path", "required": True, "schema": {"type": "string"}})
    if parameters:
        operation["parameters"] = parameters
    if spoken.body is not None:
        operation["requestBody"] = {"required": True, "content": {"application/json": _schema(spoken.body)}}
    return operation


def _schema(kind: type | None) -> dict[str, Any]:
    return {"schema": {"$ref": _PREFIX.format(name=kind.__name__)} if kind else {}}


def _response(words: str, spoken: Spoken) -> dict[str, Any]:
    schema = _schema(spoken.answer)
    if spoken.then is not None:
        schema = {"schema": {"anyOf": [schema["schema"], _schema(spoken.then)["schema"]]}}
    return {"description": words, "content": {spoken.kind: schema}}


def _problem() -> dict[str, Any]:
    return {"description": "Refused, with the reason.", "content": {"application/json": _schema(shapes.Problem)}}
