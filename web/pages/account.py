"""Coming in and going out: sign-in, first start, one's own password, and for admins accounts and tokens.

At a hub an account may be for sites too; at a site those of its hub are shown with their age and changed at the hub.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from starlette.requests import Request
from starlette.responses import Response

from fleet import limits
from fleet.connectivity import Mode
from fleet.people import ALL, BREAK_GLASS, role_of
from web import asked, auth, forms, render
from web.ports import LinkView, Refused, Role, RosterView

PASSWORD_CHARS_MIN = 10
_HEARD = frozenset({Mode.LIVE, Mode.REPLAYING, Mode.DELAYED})
_LACKING_SHOWN = 12


async def sign_in_page(request: Request) -> Response:
    """GET /login"""
    return await _login(request)


async def _login(request: Request, *, problem: str = "", status: int = 200, name: str = "") -> Response:
    return render.page(
        request,
        "login",
        status=status,
        problem=problem,
        name=name,
        onward=_local(request.query_params.get("next", "")),
        empty=await asked.people(request).needs_setup(),
        elsewhere=asked.house(request).prefix,
    )


async def sign_in(request: Request) -> Response:
    """POST /login"""
    fields = await forms.form(request)
    try:
        name = forms.text(fields, "name", chars_max=limits.name_chars_max, need="Write your name.")
        password = forms.secret(fields, "password", "Write your password.")
        secret = await asked.people(request).sign_in(name, password, auth.address_of(request.scope))
    except Refused as refused:
        return await _login(request, problem=str(refused), status=refused.status, name=fields.get("name", "")[:128])
    response = render.see(_local(fields.get("next", "")) or "/")
    auth.open_session(request, response, secret)
    return response


def _local(path: str) -> str:
    """A path of ours, or nothing: no sign-in sends anybody to another site."""
    plain = path.startswith("/") and not path.startswith("//") and "\\" not in path and path.isprintable()
    return path if plain and not path.startswith(("/login", "/logout", "/setup")) else ""


async def sign_out(request: Request) -> Response:
    """POST /logout"""
    who, house = asked.who(request), asked.house(request)
    # Whoever looked in from the hub's first tenant signs in there again.
    response = render.see(
        "../../login?done=signed-out" if house.prefix and who.role.across else "/login?done=signed-out"
    )
    await auth.close_session(request, response)
    return response


async def set_up_page(request: Request) -> Response:
    """GET /setup/{secret}"""
    return await _set_up(request)


async def _set_up(request: Request, *, problem: str = "", status: int = 200, name: str = "") -> Response:
    if not await asked.people(request).needs_setup():
        raise Refused("This link has done its work: there is an admin already. Sign in instead.", 404)
    return render.page(request, "setup", status=status, problem=problem, name=name)


async def set_up(request: Request) -> Response:
    """POST /setup/{secret}"""
    fields = await forms.form(request)
    try:
        name = forms.text(fields, "name", chars_max=limits.name_chars_max, need="Choose a name.")
        secret = await asked.people(request).set_up(
            request.path_params["secret"], name, new_password(fields), auth.address_of(request.scope)
        )
    except Refused as refused:
        return await _set_up(request, problem=str(refused), status=refused.status, name=fields.get("name", "")[:128])
    response = render.see("/")
    auth.open_session(request, response, secret)
    return response


def new_password(fields: Any) -> str:
    password = forms.secret(fields, "password", "Choose a password.")
    if len(password) < PASSWORD_CHARS_MIN:
        raise Refused(f"A password needs {PASSWORD_CHARS_MIN} characters; three or four words make a good one.", 422)
    if password != fields.get("again", password):
        raise Refused("The two passwords are not the same. Type both again.", 422)
    return password


# -- the account page ------------------------------------------------------------------------------------------


async def show(request: Request) -> Response:
    """GET /account"""
    return await _show(request)


async def _show(
    request: Request, *, problem: str = "", status: int = 200, fresh: str = "", envelope: str = ""
) -> Response:
    who, people = asked.who(request), asked.people(request)
    admin = who.role >= Role.ADMIN
    accounts = await people.accounts() if admin else ()
    tokens = await people.tokens() if admin else ()
    roster = await people.roster() if admin else None
    links = (await asked.box(request).links(who)).links if admin else ()
    if asked.wants_json(request):
        return render.data({"me": me_of(request), "accounts": accounts, "tokens": tokens, "roster": roster})
    return render.page(
        request,
        "account",
        status=status,
        problem=problem,
        accounts=accounts,
        tokens=tokens,
        roster=roster,
        standing=_standing(roster, links) if roster else None,
        roles=_roles(request),
        sites_here=tuple(sorted(link.name for link in links)),
        fresh=fresh,
        envelope=envelope,
        sealed_name=BREAK_GLASS,
        every=ALL,
        password_chars_min=PASSWORD_CHARS_MIN,
    )


class Standing(NamedTuple):
    """How the hub's list of people stands: at a site, as of when, and whether the hub would say so if it were another; at a
    hub, who has it and who lacks it, with the reason where there is one."""

    as_of_ns: int
    in_touch: bool
    have: int = 0
    lack: Sequence[tuple[str, str]] = ()
    more: int = 0


def _standing(roster: RosterView, links: Sequence[LinkView]) -> Standing:
    if roster.hub:
        link = next(iter(links), None)
        said = link is not None and link.mode in _HEARD and roster.heard_ns >= (link.since_ns or 0)
        heard_ns = (link.heard_ns or 0) if link is not None and said else 0
        return Standing(max(roster.heard_ns, heard_ns), said)
    lack = [
        (link.name, roster.problems.get(link.peer, ""))
        for link in links
        if roster.held.get(link.peer, 0) != roster.version
    ]
    return Standing(
        roster.made_ns, True, len(links) - len(lack), tuple(lack[:_LACKING_SHOWN]), len(lack[_LACKING_SHOWN:])
    )


def _roles(request: Request) -> tuple[Role, ...]:
    """Those that whoever asks may give; the store decides."""
    who, house = asked.who(request), asked.house(request)
    across = not house.box.hub or (who.role.across and not house.prefix)
    return tuple(role for role in Role if role <= who.role and (across or not role.across))


def me_of(request: Request) -> dict[str, Any]:
    who = asked.who(request)
    return {"name": who.name, "role": who.role.word, "tenant": who.tenant, "via": who.via}


async def change_password(request: Request) -> Response:
    """POST /account/password"""
    fields, who = await forms.form(request), asked.who(request)
    try:
        if who.via != "session":
            raise Refused("A token has no password. Sign in as a person.", 409)
        if asked.house(request).prefix and who.role.across:
            raise Refused("Your account is at the hub’s first tenant; change its password there.", 409)
        await asked.people(request).change_password(who, who.name, new_password(fields))
    except Refused as refused:
        return await _show(request, problem=str(refused), status=refused.status)
    return render.see("/account?done=password")


async def create_account(request: Request) -> Response:
    """POST /account/accounts"""
    fields = await forms.form(request)
    try:
        name = forms.text(fields, "name", chars_max=limits.name_chars_max, need="Write a name for the account.")
        role = role_of(fields.get("role", ""))
        sites = await _sites(request, fields)
        await asked.people(request).create_account(asked.who(request), name, new_password(fields), role, sites or ())
    except Refused as refused:
        return await _show(request, problem=str(refused), status=refused.status)
    return render.see("/account?done=account")


async def change_account(request: Request) -> Response:
    """POST /account/accounts/change: the role, and at a hub the sites."""
    fields, who = await forms.form(request), asked.who(request)
    try:
        name = forms.text(fields, "name", chars_max=limits.name_chars_max, need="Which one? The name is missing.")
        role = role_of(fields["role"]) if fields.get("role") else None
        await asked.people(request).change_account(who, name, role, await _sites(request, fields))
    except Refused as refused:
        return await _show(request, problem=str(refused), status=refused.status)
    return render.see("/account?done=changed")


async def _sites(request: Request, fields: Mapping[str, str]) -> Sequence[str] | None:
    """Where an account is to hold beside the hub; None where the form says nothing of it. A name that nobody has would let
    nobody in, and nobody would see why: it is refused (422)."""
    where = fields.get("where", "")
    if where in ("", "hub", "all"):
        return {"": None, "hub": (), "all": (ALL,)}[where]
    if where != "named":
        raise Refused("An account holds at the hub alone, at every site, or at those that are named.", 422)
    named = [one.strip() for one in fields.get("sites", "").split(",") if one.strip()]
    known = {link.name for link in (await asked.box(request).links(asked.who(request))).links}
    strangers = [one for one in named if one not in known]
    if not named or strangers:
        said = f"There is no site {', '.join(strangers[:5])}. " if strangers else "Name the sites. "
        raise Refused(f"{said}The sites here are {', '.join(sorted(known)[:20]) or 'none yet'}.", 422)
    return named


async def seal_glass(request: Request) -> Response:
    """POST /account/glass: the one answer that shows the secret."""
    try:
        secret = await asked.people(request).seal_glass(asked.who(request))
    except Refused as refused:
        return await _show(request, problem=str(refused), status=refused.status)
    return await _show(request, envelope=secret)


async def disable_account(request: Request) -> Response:
    """POST /account/accounts/disable"""
    return await _named(request, "disabled")


async def revoke_token(request: Request) -> Response:
    """POST /account/tokens/revoke"""
    return await _named(request, "revoked")


async def _named(request: Request, done: str) -> Response:
    fields, people = await forms.form(request), asked.people(request)
    try:
        name = forms.text(fields, "name", chars_max=limits.name_chars_max, need="Which one? The name is missing.")
        act = people.disable_account if done == "disabled" else people.revoke_token
        await act(asked.who(request), name)
    except Refused as refused:
        return await _show(request, problem=str(refused), status=refused.status)
    return render.see(f"/account?done={done}")


async def create_token(request: Request) -> Response:
    """POST /account/tokens: the one answer that shows the secret."""
    fields = await forms.form(request)
    try:
        name = forms.text(fields, "name", chars_max=limits.name_chars_max, need="Write what the token is for.")
        role = role_of(fields.get("role", ""))
        fresh = await asked.people(request).create_token(asked.who(request), name, role)
    except Refused as refused:
        return await _show(request, problem=str(refused), status=refused.status)
    return await _show(request, fresh=fresh)


async def scheme(request: Request) -> Response:
    """POST /scheme: light, dark, night or as the device likes it."""
    fields = await forms.form(request)
    wanted = fields.get("scheme", "")
    if wanted not in render.SCHEMES:
        raise Refused(f"A scheme is one of {', '.join(render.SCHEMES)}.", 422)
    back = fields.get("back", "/")
    response = render.see(back if _local(back) or back == "/login" else "/")
    response.set_cookie(
        render.SCHEME_COOKIE,
        wanted,
        max_age=31_536_000,
        path="/",
        httponly=True,
        samesite="lax",
        secure=asked.is_secure(request),
    )
    return response
