"""ThingsBoard's HTTP device API, `/api/v1/TOKEN/…`: the twin of the topics, for devices that speak HTTP only.

A path is said to the device API as the topic that it stands for, by a line that lasts as long as the request. Identity is
the token in the path.

Rules of the file
  1  The token is shown to the doorkeeper and to nobody else: no answer, count, event or quarantined item has it.
  2  200 for data only after the commit that holds it.
  3  A long poll waits for a device's sake, not for ours: it counts for no page, and ends when its client goes.

Answers are ThingsBoard's: 200, 400 (with the sentence), 401, 404 (nobody asked that), 408 (nothing in time); and ours: 413,
429 with Retry-After, 503, 507.

Name: long polls. Bound: `limits.long_polls_max`. When full: 429.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from appliance.intake import device_bodies as bodies
from appliance.intake import topics
from appliance.intake.device import Device, Doorkeeper, Taken, Turned
from appliance.intake.device_api import BUSY, Api
from appliance.intake.device_calls import UNASKED
from appliance.intake.device_seats import sender
from appliance.intake.gate import Gate, Outcome, Stored
from appliance.pages import OVER
from fleet import limits
from fleet.people import Refused
from store.frames import Offer
from web.auth import address_of
from web.policy import Entry, Policy

INTAKE = "http"
_ANSWER_SECONDS_MAX = 10.0
_BODY_SECONDS_MAX = 60.0
_COMMIT_SECONDS_MAX = 30.0
_POLL_MS = 60_000
_REQUEST = "1"  # the id of a question that is the only one of its line
_DISK = ("full", "read-only", "damaged", "i/o error")

Keep = Callable[[str, str, str, bytes], None]


class Reply:
    """The line of one request: it hears the answer to what was asked."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self.heard: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    def send(self, topic: str, payload: bytes) -> bool:
        if self.heard.done():
            return False
        self.heard.set_result(payload)
        return True


class Poll(Reply):
    """A long poll: a line that hears one message of one kind."""

    def __init__(self, device: Device, start: str) -> None:
        super().__init__(device)
        self.start = start
        self.revoked = False

    def send(self, topic: str, payload: bytes) -> bool:
        if not topic.startswith(self.start):
            return False
        number = topic.removeprefix(self.start)
        return super().send(topic, b'{"id":%s,%s' % (number.encode(), payload[1:]) if number else payload)


class DeviceHttp:
    def __init__(
        self,
        api: Api,
        keeper: Doorkeeper,
        gate: Gate,
        quarantine: Keep,
        *,
        now_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._api, self._keeper, self._gate, self._quarantine, self._now_ns = api, keeper, gate, quarantine, now_ns
        self._polls: set[Poll] = set()
        keeper.on_revoked(self._revoked)

    def routes(self) -> tuple[Entry, ...]:
        """They stand behind the box's own: a token is never `nodes` or `events`."""
        most = limits.record_bytes_max
        return (
            Entry("POST", "/api/v1/provision", self.provision, Policy.PUBLIC, most),
            Entry("POST", "/api/v1/{token}/telemetry", self.telemetry, Policy.PUBLIC, most),
            Entry("POST", "/api/v1/{token}/attributes", self.attributes, Policy.PUBLIC, most),
            Entry("GET", "/api/v1/{token}/attributes", self.ask_attributes, Policy.PUBLIC),
            Entry("GET", "/api/v1/{token}/attributes/updates", self.wait_for_attributes, Policy.PUBLIC),
            Entry("POST", "/api/v1/{token}/claim", self.claim, Policy.PUBLIC, most),
            Entry("GET", "/api/v1/{token}/rpc", self.wait_for_call, Policy.PUBLIC),
            Entry("POST", "/api/v1/{token}/rpc", self.call, Policy.PUBLIC, most),
            Entry("POST", "/api/v1/{token}/rpc/{id}", self.answer, Policy.PUBLIC, most),
        )

    def stop(self) -> None:
        """Who waits is told to come again."""
        for poll in tuple(self._polls):
            poll.heard.cancel()

    def _revoked(self, credential: str) -> None:
        for poll in tuple(self._polls):
            if poll.device.credential == credential:
                poll.revoked = True
                poll.heard.cancel()

    # -- data -------------------------------------------------------------------------------------------------

    async def telemetry(self, request: Request) -> Response:
        return await self._data(request, topics.TELEMETRY)

    async def attributes(self, request: Request) -> Response:
        return await self._data(request, topics.ME.attributes)

    async def claim(self, request: Request) -> Response:
        return await self._data(request, "v1/devices/me/claim")

    async def _data(self, request: Request, topic: str) -> Response:
        device, body = await self._come_in(request)
        taken = self._api.published(Reply(device), topic, body)
        if taken.refused:
            return self._refused(device, taken, body)
        return await self._store(device, taken) if taken.records else Response(status_code=200)

    async def _store(self, device: Device, taken: Taken) -> Response:
        now_ns, loop = self._now_ns(), asyncio.get_running_loop()
        intake = taken.intake or INTAKE
        offers = [
            Offer(now_ns, device.source(intake, behind), point)
            for behind, raw in taken.records
            for point in bodies.points(raw)
        ]
        outcome: asyncio.Future[Outcome] = loop.create_future()
        reason = self._gate.offer(INTAKE, offers, lambda result: _call_soon(loop, outcome, result))
        if reason is not None:
            return _turned_away(reason, str(self._gate.fault or ""))
        try:
            async with asyncio.timeout(_COMMIT_SECONDS_MAX):
                stored = await outcome
        except TimeoutError:
            return _said(503, "the disk took too long; send again, it may or may not be stored")
        return (
            Response(status_code=200) if isinstance(stored, Stored) else _turned_away(stored.fault.value, str(stored))
        )

    # -- questions --------------------------------------------------------------------------------------------

    async def ask_attributes(self, request: Request) -> Response:
        device, _ = await self._come_in(request)
        query = request.query_params
        asked = {name: query[name] for name in ("clientKeys", "sharedKeys") if name in query}
        line = Reply(device)
        topic = f"v1/devices/me/attributes/request/{_REQUEST}"
        return await self._answered(line, topic, msgspec.json.encode(asked))

    async def call(self, request: Request) -> Response:
        device, body = await self._come_in(request)
        return await self._answered(Reply(device), topics.ME.call + _REQUEST, body)

    async def _answered(self, line: Reply, topic: str, body: bytes) -> Response:
        taken = self._api.published(line, topic, body)
        if taken.refused:
            return self._refused(line.device, taken, body)
        async with asyncio.timeout(_ANSWER_SECONDS_MAX):
            return _json(await line.heard)

    async def answer(self, request: Request) -> Response:
        device, body = await self._come_in(request)
        taken = self._api.published(Reply(device), topics.ME.call_answer + request.path_params["id"], body)
        return self._refused(device, taken, body) if taken.refused else Response(status_code=200)

    # -- long polls -------------------------------------------------------------------------------------------

    async def wait_for_call(self, request: Request) -> Response:
        device, _ = await self._come_in(request)
        return await self._wait(request, Poll(device, topics.ME.call))

    async def wait_for_attributes(self, request: Request) -> Response:
        device, _ = await self._come_in(request)
        return await self._wait(request, Poll(device, topics.ME.attributes))

    async def _wait(self, request: Request, poll: Poll) -> Response:
        if len(self._polls) >= limits.long_polls_max:
            return _said(429, "as many devices as may be are waiting here; ask again in a moment", {"retry-after": "5"})
        seconds = _timeout_s(request)
        self._polls.add(poll)
        self._api.seats.enter(poll)
        gone = asyncio.create_task(_gone(request))
        try:
            if poll.start == topics.ME.attributes:
                async with asyncio.timeout(_ANSWER_SECONDS_MAX):
                    await self._api.attributes.goes_on(sender(poll.device))
            waiting: set[asyncio.Future[Any]] = {poll.heard, gone}
            await asyncio.wait(waiting, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            gone.cancel()
            self._polls.discard(poll)
            self._api.seats.close(poll)
        if poll.heard.done() and not poll.heard.cancelled():
            return _json(poll.heard.result())
        if poll.revoked:
            raise _no_entry(Turned.REVOKED)
        return _said(408, "there was nothing for the device in this time; ask again")

    # -- who comes in -----------------------------------------------------------------------------------------

    async def provision(self, request: Request) -> Response:
        request.scope.get(OVER, _nothing)()
        good, said = await self._api.provisioned(await request.body(), address_of(request.scope))
        return _json(said, 200 if good else 400)

    async def _come_in(self, request: Request) -> tuple[Device, bytes]:
        """The device, and what it sends. Refused: 401, 429."""
        request.scope.get(OVER, _nothing)()
        device = await self._keeper.token(request.path_params["token"], address_of(request.scope))
        if isinstance(device, Turned):
            self._gate.refuse(INTAKE, device)
            raise _no_entry(device)
        async with asyncio.timeout(_BODY_SECONDS_MAX):
            body = await request.body()
        wait_s = self._keeper.allow(device, 1, len(body))
        if wait_s > 0:
            self._gate.refuse(INTAKE, Turned.FLOOD)
            raise Refused(f"{Turned.FLOOD}; send again in {wait_s:.1f} s", 429)
        return device, body

    def _refused(self, device: Device, taken: Taken, body: bytes) -> Response:
        self._gate.refuse(INTAKE, taken.refused)
        if taken.refused == BUSY:
            return _said(429, BUSY, {"retry-after": "1"})
        if not taken.secret:
            self._quarantine(INTAKE, device.source(INTAKE), taken.refused, body)
        return _said(404 if taken.refused == UNASKED else 400, taken.refused)


def _no_entry(why: Turned) -> Refused:
    return Refused(f"{why}: the token in the path lets nobody in", 401)


def _timeout_s(request: Request) -> float:
    text = request.query_params.get("timeout", "")
    if text and not (text.isascii() and text.isdigit() and len(text) < 10):
        raise Refused("“timeout” is a whole number of milliseconds", 400)
    return min(int(text or 0) or _POLL_MS, _POLL_MS) / 1000


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _nothing() -> None:
    pass


def _call_soon(loop: asyncio.AbstractEventLoop, outcome: asyncio.Future[Outcome], result: Outcome) -> None:
    def settle() -> None:
        if not outcome.done():
            outcome.set_result(result)

    loop.call_soon_threadsafe(settle)


def _turned_away(reason: str, words: str) -> Response:
    said = words or "the appliance takes in more than it can write now; keep it and send it again"
    return _said(507, said, {"retry-after": "5"}) if reason in _DISK else _said(429, said, {"retry-after": "1"})


def _said(status: int, words: str, headers: dict[str, str] | None = None) -> Response:
    return _json(msgspec.json.encode({"error": words}), status, headers)


def _json(body: bytes, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(body, status, {"cache-control": "no-store", **(headers or {})}, "application/json")
