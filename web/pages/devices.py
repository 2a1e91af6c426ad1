"""Who proves at the ways in who they are, with what, and since when unheard; new ones, and an end to old ones.

What a device is given is shown in the one answer that makes it, with what to type at the device.
"""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from fleet import limits
from fleet.devices import CodeView, CodeWish, CredentialKind, DevicesView, EnrolWish, Issued, kind_of
from fleet.node import Kind
from web import api_shapes as shapes
from web import asked, forms, render
from web.ports import Devices, Refused

WHY_CHARS_MAX = 200
PEM_CHARS_MAX = 16_384
HOURS_MAX = 24 * 366


def desk(request: Request) -> Devices:
    found = asked.box(request).devices
    if found is None:
        raise Refused("Devices belong to a site: enrol them there.", 404)
    return found


async def show(request: Request) -> Response:
    """GET /devices"""
    return await _show(request)


async def _show(
    request: Request,
    *,
    problem: str = "",
    status: int = 200,
    code: tuple[CodeView, str] | None = None,
    issued: Issued | None = None,
) -> Response:
    view, text = await _look(request)
    if asked.wants_json(request):
        return render.data(view)
    return render.page(
        request,
        "devices",
        status=status,
        problem=problem,
        view=view,
        text=text,
        now_ns=view.now_ns,
        code=code,
        issued=issued,
        kinds=tuple(Kind),
        credential_kinds=tuple(CredentialKind),
        reach=_address(request),
        why_chars_max=WHY_CHARS_MAX,
    )


async def _look(request: Request) -> tuple[DevicesView, str]:
    """What is asked for, and the text in the names that was looked for."""
    query = request.query_params
    text = forms.text(query, "q", chars_max=limits.name_chars_max)
    after = forms.text(query, "after", chars_max=limits.name_chars_max)
    limit = forms.number(query, "limit", default=limits.page_items_default, low=1, high=limits.page_items_max)
    return await desk(request).look(asked.who(request), text, after, limit), text


def _address(request: Request) -> str:
    """How this site is reached by whoever looks at the page: a device is told the same."""
    return f"{request.url.scheme}://{request.headers.get('host', 'SITE')}"


async def make_code(request: Request) -> Response:
    """POST /devices/codes: the one answer that shows the code."""
    fields = await forms.form(request)
    try:
        wish = CodeWish(
            name=forms.text(fields, "name", chars_max=limits.name_chars_max),
            node_kind=forms.choice(fields, "kind", Kind) or Kind.EDGE,
            gateway=fields.get("gateway") == "1",
            uses=forms.number(fields, "uses", default=1, low=1, high=limits.code_uses_max),
            hours=float(forms.number(fields, "hours", default=24, low=1, high=HOURS_MAX)),
        )
        made = await desk(request).make_code(asked.who(request), wish)
    except Refused as refused:
        return await _show(request, problem=str(refused), status=refused.status)
    return await _show(request, code=made)


async def withdraw_code(request: Request) -> Response:
    """POST /devices/codes/{id}/withdraw"""
    try:
        await desk(request).withdraw_code(asked.who(request), request.path_params["id"], "withdrawn on the page")
    except Refused as refused:
        return await _show(request, problem=str(refused), status=refused.status)
    return render.see("/devices?done=code-withdrawn")


async def enrol(request: Request) -> Response:
    """POST /devices/enrol: the one answer that shows what the device is given."""
    fields = await forms.form(request)
    try:
        wish = EnrolWish(
            name=forms.text(fields, "name", chars_max=limits.name_chars_max, need="A device needs a name."),
            node_kind=forms.choice(fields, "kind", Kind) or Kind.EDGE,
            gateway=fields.get("gateway") == "1",
            credential=kind_of(fields.get("credential") or CredentialKind.TOKEN),
            user=forms.text(fields, "user", chars_max=limits.name_chars_max),
            pem=forms.text(fields, "pem", chars_max=PEM_CHARS_MAX),
        )
        made = await desk(request).enrol(asked.who(request), wish, _why(fields, "entered on the page"))
    except Refused as refused:
        return await _show(request, problem=str(refused), status=refused.status)
    return await _show(request, issued=made)


async def rotate(request: Request) -> Response:
    """POST /devices/{id}/rotate: the one answer that shows the new one."""
    fields = await forms.form(request)
    try:
        pem = forms.text(fields, "pem", chars_max=PEM_CHARS_MAX)
        why = _why(fields, "rotated on the page")
        made = await desk(request).rotate(asked.who(request), request.path_params["id"], why, pem, "")
    except Refused as refused:
        return await _show(request, problem=str(refused), status=refused.status)
    return await _show(request, issued=made)


async def revoke(request: Request) -> Response:
    """POST /devices/{id}/revoke: one credential, or all of a node."""
    fields = await forms.form(request)
    try:
        why = forms.text(fields, "why", chars_max=WHY_CHARS_MAX, need="Say why: the journal keeps it.")
        await desk(request).revoke(asked.who(request), request.path_params["id"], why)
    except Refused as refused:
        return await _show(request, problem=str(refused), status=refused.status)
    return render.see("/devices?done=credential-revoked")


def _why(fields: Any, unless: str) -> str:
    return forms.text(fields, "why", chars_max=WHY_CHARS_MAX) or unless


# -- for programs -----------------------------------------------------------------------------------------------


async def device_list(request: Request) -> Response:
    """Devices by name, with the credentials of each, never what they are."""
    view, _ = await _look(request)
    return render.data(
        shapes.DeviceList(
            devices=view.devices, next=view.next or None, mode=view.mode, ca_pem=view.ca_pem, ca_sha256=view.ca_sha256
        )
    )


async def device_enrol(request: Request) -> Response:
    """Give a node a credential; what it is stands in this answer and nowhere else."""
    wish, devices = await forms.document(request, shapes.Enrol), desk(request)
    if len(wish.pem) > PEM_CHARS_MAX:
        raise Refused(f"“pem” has at most {PEM_CHARS_MAX:,} characters.", 422)
    asked_for = EnrolWish(
        name=forms.text({"name": wish.name}, "name", chars_max=limits.name_chars_max, need="A device needs a name."),
        node_kind=wish.kind,
        gateway=wish.gateway,
        credential=kind_of(wish.credential),
        user=wish.user,
        password=wish.password,
        pem=wish.pem,
        days=wish.days,
    )
    why = _why({"why": wish.why}, "enrolled by API")
    return render.data(await devices.enrol(asked.who(request), asked_for, why), 201)


async def credential_rotate(request: Request) -> Response:
    """A new credential in place of this one; both count until the grace is over."""
    wish, devices = await forms.document(request, shapes.Rotate), desk(request)
    if len(wish.pem) > PEM_CHARS_MAX:
        raise Refused(f"“pem” has at most {PEM_CHARS_MAX:,} characters.", 422)
    why, which = _why({"why": wish.why}, "rotated by API"), request.path_params["id"]
    return render.data(await devices.rotate(asked.who(request), which, why, wish.pem, wish.password), 201)


async def credential_revoke(request: Request) -> Response:
    """End a credential, or, by the id of a node, all that it has. It holds at once."""
    wish, devices = await forms.document(request, shapes.Revoke), desk(request)
    why = forms.text({"why": wish.why}, "why", chars_max=WHY_CHARS_MAX, need="Say why: the journal keeps it.")
    await devices.revoke(asked.who(request), request.path_params["id"], why)
    return render.data(shapes.Done())


async def code_list(request: Request) -> Response:
    """Activation codes that can still be traded, never what they are."""
    view = await desk(request).look(asked.who(request), "", "", 1)
    return render.data(shapes.CodeList(view.codes))


async def code_make(request: Request) -> Response:
    """Make an activation code; it stands in this answer and nowhere else."""
    wish, devices = await forms.document(request, shapes.NewCode), desk(request)
    asked_for = CodeWish(
        name=forms.text({"name": wish.name}, "name", chars_max=limits.name_chars_max),
        node_kind=wish.kind,
        gateway=wish.gateway,
        uses=wish.uses,
        hours=wish.hours,
    )
    made, code = await devices.make_code(asked.who(request), asked_for)
    return render.data(shapes.CodeSecret(code, made), 201)


async def code_withdraw(request: Request) -> Response:
    """An activation code that nobody is to trade any more."""
    await desk(request).withdraw_code(asked.who(request), request.path_params["id"], "withdrawn by API")
    return render.data(shapes.Done())
