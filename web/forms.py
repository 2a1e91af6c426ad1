"""What a person or a program sent, read within bounds: form fields, query parameters, JSON.

Every reader takes the words of its refusal from the name of the field, so that the sentence on screen says which one.
Nothing here knows a box; nothing is trusted beyond its length.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any, TypeVar
from urllib.parse import parse_qsl

import msgspec
from starlette.requests import Request

from web import uploads
from web.ports import Refused

FIELDS_MAX = 64
JSON_BYTES_MAX = 65_536
_E = TypeVar("_E", bound=msgspec.Struct)


def decode_form(body: bytes) -> dict[str, str]:
    """An urlencoded form; the last of two fields of one name holds. Refused (400) when it is not one."""
    try:
        return dict(parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=FIELDS_MAX))
    except ValueError as error:
        raise Refused("This form could not be read. Go back, reload the page and try again.", 400) from error


async def form(request: Request) -> Mapping[str, str]:
    """The request's form, read once (the check of its token needs it before the handler does)."""
    held = request.scope.setdefault("skerry.form", None)
    if held is None:
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        entry = request.scope["skerry.entry"]
        if kind == uploads.KIND and entry.uploads:
            held, request.scope["skerry.file"] = await uploads.receive(request)
        elif not kind and entry.body_bytes_max is None:
            held = {}  # nothing bounds such a body, so nobody reads it
        elif kind in ("", "application/x-www-form-urlencoded") and entry.body_bytes_max is not None:
            held = decode_form(await request.body())
        else:
            raise Refused("Send this as a form (application/x-www-form-urlencoded).", 415)
        request.scope["skerry.form"] = held
    return held


async def upload(request: Request) -> tuple[Mapping[str, str], AsyncIterator[bytes]]:
    """The words and the file of an upload. A program may send the file alone, as application/octet-stream."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "application/octet-stream":
        return {}, uploads.steady(request)
    fields = await form(request)
    file: AsyncIterator[bytes] | None = request.scope.get("skerry.file")
    if file is None:
        raise Refused("There is no file in this form. Choose one first.", 422)
    return fields, file


async def document(request: Request, shape: type[_E]) -> _E:
    """The JSON body as `shape`. Refused (400) with the place that is wrong."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise Refused("Send this as JSON, with Content-Type: application/json.", 415)
    try:
        return msgspec.json.decode(await request.body(), type=shape)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise Refused(f"The JSON is not what was expected: {error}", 400) from error


def text(fields: Mapping[str, str], name: str, *, chars_max: int, need: str = "") -> str:
    """A line of text. `need` is the sentence for an empty one, where it may not be empty."""
    value = fields.get(name, "").strip()
    if not value and need:
        raise Refused(need, 422)
    if len(value) > chars_max:
        raise Refused(f"The field “{name}” may have {chars_max} characters; this has {len(value)}.", 422)
    return value


def secret(fields: Mapping[str, str], name: str, need: str) -> str:
    """Taken as it is: a blank at its end belongs to a password."""
    value = fields.get(name, "")
    if not value:
        raise Refused(need, 422)
    if len(value) > 1024:
        raise Refused("A password may have 1024 characters.", 422)
    return value


def number(fields: Mapping[str, str], name: str, *, default: int, low: int, high: int) -> int:
    """A whole number within bounds. Refused (400) otherwise: a cursor that is silently bent loses data."""
    raw = fields.get(name, "")
    if not raw:
        return default
    if raw.isascii() and raw.isdigit() and len(raw) < 20 and low <= int(raw) <= high:
        return int(raw)
    raise Refused(f"“{name}” is a whole number from {low} to {high}; this is {raw[:40]!r}.", 400)


_C = TypeVar("_C")


def choice(fields: Mapping[str, str], name: str, among: type[_C]) -> _C | None:
    """A member of an enumeration, or None where the field is empty. Refused (400) for anything else."""
    raw = fields.get(name, "")
    if not raw:
        return None
    try:
        return among(raw)  # type: ignore[call-arg]
    except ValueError as error:
        words: Any = ", ".join(str(member.value) for member in among)  # type: ignore[attr-defined]
        raise Refused(f"“{name}” is one of {words}; this is {raw[:40]!r}.", 400) from error


def tags(raw: str) -> tuple[str, ...]:
    """Tags from a line with commas, each once, in the order given."""
    return tuple(dict.fromkeys(tag.strip() for tag in raw.split(",") if tag.strip()))
