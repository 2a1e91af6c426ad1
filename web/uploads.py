"""What a person uploads: a form of several parts (RFC 7578), its words first, then one file, as it comes.

Rules of the file
  1  The words of the form stand before its file, and are read before anything of the file is.
  2  The file is never held whole: whoever wants it takes it chunk by chunk, and so sets the pace.
  3  A sender that says nothing for `SILENT_SECONDS_MAX` is let go.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request

from web.ports import Refused

KIND = "multipart/form-data"
SILENT_SECONDS_MAX = 30.0
FIELDS_MAX = 16
_FIELD_BYTES_MAX = 4_096
_HEADER_BYTES_MAX = 4_096
_UNREADABLE = "This upload could not be read. Go back, reload the page and try again."


async def receive(request: Request) -> tuple[dict[str, str], AsyncIterator[bytes] | None]:
    """The form's words, and its file's bytes if there is one. Refused (400) for what is no such form."""
    parts = _parts(request)
    fields: dict[str, str] = {}
    async for name, is_file, data in parts:
        if is_file:
            return fields, _file(parts, data)
        if len(fields) >= FIELDS_MAX or len(fields.get(name, "")) + len(data) > _FIELD_BYTES_MAX:
            raise Refused(_UNREADABLE, 400)
        fields[name] = fields.get(name, "") + data.decode(errors="replace")
    return fields, None


async def _file(parts: AsyncIterator[tuple[str, bool, bytes]], first: bytes) -> AsyncIterator[bytes]:
    yield first
    async for _, is_file, data in parts:
        if is_file and data:
            yield data


async def _parts(request: Request) -> AsyncIterator[tuple[str, bool, bytes]]:
    """(field, whether it is a file, bytes), a part in as many pieces as it comes in, empty ones included."""
    _, options = parse_options_header(request.headers.get("content-type", ""))
    found: list[tuple[str, bool, bytes]] = []
    part = _Part()

    def data(raw: bytes, start: int, end: int) -> None:
        found.append((*part.named(), raw[start:end]))

    def ready() -> None:
        found.append((*part.named(), b""))

    try:
        parser = MultipartParser(
            options.get(b"boundary", b""),
            {
                "on_part_begin": part.begin,
                "on_header_field": part.header_name,
                "on_header_value": part.header_value,
                "on_header_end": part.header_end,
                "on_headers_finished": ready,
                "on_part_data": data,
            },
        )
        async for chunk in steady(request):
            parser.write(chunk)
            for one in found:
                yield one
            found.clear()
        parser.finalize()
    except FormParserError as error:
        raise Refused(_UNREADABLE, 400) from error


async def steady(request: Request) -> AsyncIterator[bytes]:
    """The body as it comes. TimeoutError when it stops coming."""
    stream = aiter(request.stream())
    while True:
        try:
            async with asyncio.timeout(SILENT_SECONDS_MAX):
                chunk = await anext(stream)
        except StopAsyncIteration:
            return
        if chunk:
            yield chunk


class _Part:
    """The headers of the part that is being read."""

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        self._name, self._value, self._size = b"", b"", 0
        self._disposition = b""

    def header_name(self, raw: bytes, start: int, end: int) -> None:
        self._name += self._bounded(raw[start:end])

    def header_value(self, raw: bytes, start: int, end: int) -> None:
        self._value += self._bounded(raw[start:end])

    def _bounded(self, data: bytes) -> bytes:
        self._size += len(data)
        if self._size > _HEADER_BYTES_MAX:
            raise Refused(_UNREADABLE, 400)
        return data

    def header_end(self) -> None:
        if self._name.lower() == b"content-disposition":
            self._disposition = self._value
        self._name = self._value = b""

    def named(self) -> tuple[str, bool]:
        _, options = parse_options_header(self._disposition)
        return options.get(b"name", b"").decode(errors="replace"), b"filename" in options
