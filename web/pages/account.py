"""Coming in and going out: sign-in, first start, one's own password, and for admins accounts and tokens."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from fleet import limits
from web import asked, auth, forms, render
from web.ports import Refused, Role

PASSWORD_CHARS_MIN = 10


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
    auth.open_session(response, secret, secure=asked.house(request).secure_cookies)
    return response


def _local(path: str) -> str:
    """A path of ours, or nothing: no sign-in sends anybody to another site."""
    plain = path.startswith("/") and not path.startswith("//") and "\\" not in path and path.isprintable()
    return path if plain and not path.startswith(("/login", "/logout", "/setup")) else ""


async def sign_out(request: Request) -> Response:
    """POST /logout"""
    secure = asked.house(request).secure_cookies
    secret = auth.cookie(request.headers, auth.SESSION_COOKIE)
    if secret:
        await asked.people(request).sign_out(secret, auth.address_of(request.scope))
    response = render.see("/login?done=signed-out")
    auth.close_session(response, secure=secure)
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
    auth.open_session(response, secret, secure=asked.house(request).secure_cookies)
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


async def _show(request: Request, *, problem: str = "", status: int = 200, fresh: str = "") -> Response:
    who, people = asked.who(request), asked.people(request)
    admin = who.role >= Role.ADMIN
    accounts = await people.accounts() if admin else ()
    tokens = await people.tokens() if admin else ()
    if asked.wants_json(request):
        return render.data({"me": me_of(request), "accounts": accounts, "tokens": tokens})
    return render.page(
        request,
        "account",
        status=status,
        problem=problem,
        accounts=accounts,
        tokens=tokens,
        roles=tuple(Role),
        fresh=fresh,
        password_chars_min=PASSWORD_CHARS_MIN,
    )


def me_of(request: Request) -> dict[str, Any]:
    who = asked.who(request)
    return {"name": who.name, "role": who.role.name.lower(), "tenant": who.tenant, "via": who.via}


def role_of(raw: str) -> Role:
    """Refused (422) unless it is viewer, operator or admin."""
    try:
        return Role[raw.upper()]
    except KeyError as error:
        raise Refused("A role is viewer, operator or admin.", 422) from error


async def change_password(request: Request) -> Response:
    """POST /account/password"""
    fields, who = await forms.form(request), asked.who(request)
    try:
        if who.via != "session":
            raise Refused("A token has no password. Sign in as a person.", 409)
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
        await asked.people(request).create_account(asked.who(request), name, new_password(fields), role)
    except Refused as refused:
        return await _show(request, problem=str(refused), status=refused.status)
    return render.see("/account?done=account")


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
        secure=asked.house(request).secure_cookies,
    )
    return response
