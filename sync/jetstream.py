"""How do parcels travel through a NATS server, and who keeps the line up?

    up      sk.<tenant>.up.<writer>.control | snapshots     core NATS
            sk.<tenant>.up.<writer>.log                     stream LOG_<tenant>
            sk.<tenant>.up.<writer>.segments                stream SEG_<tenant>
    down    sk.<tenant>.down.<writer>.<lane>                core NATS
    inbox   sk.<tenant>.inbox.<writer>.>                    answers to that site alone

Snapshots are not kept by the broker: only the two ends know which parts belong to one number, and a broker that keeps
the newest messages would keep halves. What is lost is said again, newer.

Rules of the file
  1  The only module that imports nats. Its client is made anew for every attempt: reconnecting, finding a line that
     stands still and the order of what goes out are ours.
  2  Who speaks is the name in the subject, which the broker's permissions hold every site to. Every parcel begins with
     a mark: the broker's own answers, which a site may have sent to any subject, never do, and are passed by.
  3  A site gives its socket one parcel at a time, the most urgent first, and the socket holds little that is unsent. So
     a hello waits for one parcel at most, on however slow a line. A hub, which speaks to hundreds, gives its own a few at
     once.
  4  The hub asks for what waits in a stream with a consumer for each site and lane, one pull at a time, and asks again
     only when there is room. What was handed over is acknowledged, which deletes it. What was not comes again after a
     reconnection, in its order.
  5  A full or broken stream is back-pressure: one parcel of a lane tries again and again, the rest wait behind it. If a
     stream fills up, parcels of one lane may change their order: a smaller one may find room behind a larger one.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import json
import logging
import random
import re
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from itertools import count
from pathlib import Path
from typing import NamedTuple

from nats import errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.transport import TcpTransport
from nats.js import JetStreamContext
from nats.js.api import ConsumerConfig, DiscardPolicy, RetentionPolicy, StorageType, StreamConfig
from nats.js.errors import APIError, NotFoundError

from sync.inbox import Inbox
from sync.link import LinkDown, Parcel, Tally
from sync.messages import PARCEL_BYTES_MAX, Lane

log = logging.getLogger(__name__)

SILENCE_S_MAX = 10.0
_NO_CHECK_TIME = 0x200000  # X509_V_FLAG_NO_CHECK_TIME of OpenSSL, which Python does not name
RECONNECT_S_MIN, RECONNECT_S_MAX = 0.1, 5.0
CONNECT_S_MAX = 10.0
CLOSE_S_MAX = 1.0
ANSWER_S_MAX = 120.0  # without any answer of a stream, while some are due: the line is made anew
RETRY_S_MIN, RETRY_S_MAX = 0.1, 5.0  # of a full stream
UNSENT_BYTES_MAX = 32 * 1024  # in the kernel's buffer: what is there cannot be overtaken any more
UNDER_WAY_BYTES_MAX = 8 * 1024 * 1024  # of one lane at a site, sent and not answered; when full, `send` waits
HUB_BYTES_MAX = 8 * 1024 * 1024  # of lanes 2 and 3 in the hub's memory; when full, no site is asked for more
SITE_BYTES_MAX = 2 * 1024 * 1024  # of one site and lane among them; one pull
PULL_PARCELS_MAX = 64
PULL_S_MAX = 60.0
STREAM_BYTES_MAX = 256 * 1024 * 1024
HUB_HELD_BYTES_MAX = 32 * 1024  # handed to the hub's socket at once: one write for many small parcels
ATTACHED_AT_ONCE_MAX = 16  # consumers that are being made
SCAN_S = 1.0  # how often the hub looks which sites have something in a stream
PROBE_S = 10.0  # how often it tries whether a stream still takes anything
STREAM_ANSWER_S_MAX = 5.0
REPAIR_S_MIN = 60.0  # between two restarts of a broker whose streams are broken
UNACKED_S_MAX = 3_600.0  # a consumer repeats by itself only what is older; it is made anew with every connection

_MARK = b"\x01"
_QUEUED = {Lane.LOG: "LOG", Lane.SEGMENTS: "SEG"}
_LANES = {lane.name.lower(): lane for lane in Lane}
_PLAIN = re.compile(r"(?!x--)[A-Za-z0-9_-]+")
_CODED = "x--"  # alone it is nobody's name, and the subject of probes
_TCP_NOTSENT_LOWAT = 25  # linux/tcp.h; the socket module of 3.11 has no name for it
_FULL = (10077, 10047, 10023)  # JetStream's error codes: the stream, the server's store, its resources
_NO_JETSTREAM = (None, 10039, 10076)  # nobody answers, not for this account, not at this server
_WORDS = (
    ("authorization violation", "the broker does not know this name and password; admit this site at the hub again"),
    ("authentication", "the broker does not know this name and password; admit this site at the hub again"),
    ("certificate", "the broker's certificate is not from the authority in our CA file; copy the CA file from the hub"),
    ("errno 113", "there is no way to that address; is this box's network up?"),
    ("errno 101", "there is no way to that address; is this box's network up?"),
    ("connect call failed", "nobody listens there; is the hub running, and is the address right?"),
    ("timeout", "nothing answers there; is the address right, and does a firewall let this port through?"),
    ("refused", "nobody listens there; is the hub running, and is the address right?"),
    ("unexpected eof", "the broker closed the connection; it may have been stopped or restarted"),
    ("name or service not known", "there is no such host name; is the address right, and is there a DNS server?"),
    ("unreachable", "there is no way to that address; is this box's network up?"),
)


def token(name: str) -> str:
    """A name as one word of a subject, a stream's or a consumer's name."""
    return name if _PLAIN.fullmatch(name) else _CODED + name.encode().hex()


def name_of(word: str) -> str:
    return bytes.fromhex(word.removeprefix(_CODED)).decode() if word.startswith(_CODED) else word


def subject(tenant: str, way: str, writer: str, lane: Lane) -> str:
    return f"sk.{token(tenant)}.{way}.{token(writer)}.{lane.name.lower()}"


def user_of(tenant: str, writer: str) -> str:
    return f"{token(tenant)}.{token(writer)}"


def inbox_of(tenant: str, writer: str) -> str:
    return f"sk.{token(tenant)}.inbox.{token(writer)}"


class Rights(NamedTuple):
    """Subjects that a broker lets a site publish and subscribe to: all that `SiteEnd` needs."""

    publish: tuple[str, ...]
    subscribe: tuple[str, ...]


def rights_of(tenant: str, writer: str) -> Rights:
    at = f"sk.{token(tenant)}.{{}}.{token(writer)}.>"
    return Rights((at.format("up"),), (at.format("down"), at.format("inbox")))


def rights_of_hub(tenant: str, user: str) -> Rights:
    """All that `HubEnd` needs, at a server where others have streams of their own."""
    word = token(tenant)
    streams = [f"{stream}_{word}" for stream in _QUEUED.values()]
    calls = (
        "STREAM.*.{}",
        "STREAM.MSG.DELETE.{}",
        "CONSUMER.*.{}.>",
        "CONSUMER.DURABLE.CREATE.{}.>",
        "CONSUMER.MSG.NEXT.{}.>",
    )
    publish = [f"$JS.API.{call.format(stream)}" for stream in streams for call in calls]
    publish += [f"$JS.ACK.{stream}.>" for stream in streams]
    return Rights((f"sk.{word}.>", *publish), (f"sk.{word}.up.>", f"{_inbox_of_hub(tenant, user)}.>"))


def _inbox_of_hub(tenant: str, user: str) -> str:
    """A hub has one user and an end for each tenant: what is for one of them never comes to another."""
    return f"_INBOX_{token(user)}.{token(tenant)}"


class _Going(NamedTuple):
    """Bytes on their way out, the most urgent first. Somebody waits for `awaited` ones: until they left, or, with a
    `reply`, for the answer."""

    rank: int
    number: int
    subject: str
    payload: bytes
    reply: str = ""
    awaited: bool = False


class _Carried(NamedTuple):
    """What a socket has carried: bytes that came, bytes that the other side took, bytes not yet sent."""

    received: int
    taken: int
    unsent: int


class _End:
    """A connection under a supervisor of its own: what both ends have in common."""

    _held_bytes_max = 1  # in the client, before the socket has it: `publish` returns when it is less

    def __init__(
        self,
        urls: Sequence[str],
        user: str,
        password: str,
        inbox: str,
        ca: Path | None,
        silence_s_max: float,
        hostname: str = "",
    ) -> None:
        self._urls = tuple(urls)
        self._url = self._urls[0]
        self._user, self._password, self._ca, self._hostname = user, password, ca, hostname
        self._silence_s_max = silence_s_max
        self._inbox = inbox
        self._in = Inbox()
        self._up = False
        self._closed = False
        self._problem = "the link was not opened yet"
        self._tallies: dict[str, Tally] = {}
        self._keeper: asyncio.Task[None] | None = None
        self._numbers = count()
        self._going: list[_Going] = []
        self._more = asyncio.Event()
        self._waiting: dict[int, asyncio.Future[bytes]] = {}
        self._asked: set[int] = set()  # of those: sent, and an answer is due
        self._answered_s = 0.0
        self._forbidden = ""  # by the broker: then its rights are not those that this end needs
        self._dice = random.Random()

    # -- the port ------------------------------------------------------------------------------------------------

    @property
    def up(self) -> bool:
        return self._up

    @property
    def problem(self) -> str:
        return self._problem

    @property
    def url(self) -> str:
        return self._url

    @property
    def refused(self) -> int:
        """Parcels that found no room here and were dropped: only of lanes that no stream keeps."""
        return self._in.refused

    def tally(self, peer: str = "") -> Tally:
        rows = [self._tallies.get(peer, Tally())] if peer else self._tallies.values()
        return Tally(*map(sum, zip(Tally(), *rows, strict=True)))

    async def open(self) -> None:
        if self._keeper is None and not self._closed:
            self._keeper = asyncio.create_task(self._keep(), name=f"link of {self._user}")

    async def close(self) -> None:
        self._closed = True
        self._in.close()
        while self._keeper is not None and not self._keeper.done():
            self._keeper.cancel()  # more than once: the client swallows a cancellation while it writes
            await asyncio.wait([self._keeper], timeout=0.2)
        self._over("the link was closed")

    # -- the supervisor ------------------------------------------------------------------------------------------

    async def _keep(self) -> None:
        pause_s, turn = RECONNECT_S_MIN, 0
        while not self._closed:
            url, client = self._urls[turn % len(self._urls)], Client()
            self._url = url
            try:
                await self._session(client, url)
            except (OSError, errors.Error, TimeoutError, ValueError) as error:
                self._note(url, error)
            except Exception as error:
                log.exception("the link of %s fell", self._user)
                self._note(url, error)
            finally:
                turn += not self._up  # the address that worked last is asked first
                pause_s = RECONNECT_S_MIN if self._up else min(pause_s * 2, RECONNECT_S_MAX)
                self._over(self._problem)
                await _end(client)
            await asyncio.sleep(pause_s * self._dice.uniform(0.5, 1.0))

    async def _session(self, client: Client, url: str) -> None:
        """One connection, from its start to its end. ConnectionError says why it ended."""
        gone = asyncio.Event()

        async def closed() -> None:
            gone.set()

        async def heard(error: Exception) -> None:
            self._note(url, error)

        self._forbidden = ""
        async with asyncio.timeout(CONNECT_S_MAX):
            await client.connect(
                url,
                error_cb=heard,
                closed_cb=closed,
                allow_reconnect=False,
                max_reconnect_attempts=1,
                reconnect_time_wait=0,
                connect_timeout=int(CONNECT_S_MAX),
                ping_interval=self._silence_s_max / 4,  # type: ignore[arg-type]  # it only sleeps that long
                max_outstanding_pings=1 << 62,  # `_watch` decides: it can tell a slow line from a dead one
                user=self._user,
                password=self._password,
                tls=_trust(url, self._ca),
                tls_hostname=self._hostname or None,
                tls_handshake_first=url.startswith("tls:"),  # or whoever stands between says that no TLS is needed
                inbox_prefix=self._inbox,
                pending_size=self._held_bytes_max,
            )
            if client.max_payload <= PARCEL_BYTES_MAX:
                raise ConnectionError(
                    f"the broker takes {client.max_payload:,} bytes at most; set its max_payload: 1MB"
                )
            sock = _socket(client)
            sock.setsockopt(socket.IPPROTO_TCP, _TCP_NOTSENT_LOWAT, UNSENT_BYTES_MAX)
            await client.subscribe(f"{self._inbox}.a.*", cb=self._on_answer)
            await self._prepare(client)
            await client.flush(int(CONNECT_S_MAX))
        self._answered_s = asyncio.get_running_loop().time()
        self._up, self._problem = True, ""
        tasks = [asyncio.create_task(one) for one in (self._write(client), self._watch(sock, gone), self._tend(client))]
        try:
            ended, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in ended:
                task.result()
            raise ConnectionError(self._problem or "the broker closed the connection")
        finally:
            try:
                await _end(client)  # first: a task that is writing cannot be cancelled before
            finally:  # whoever closes us asks more than once
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    async def _prepare(self, client: Client) -> None:
        """Subscribe, before anybody is told that the line is up."""
        raise NotImplementedError

    async def _tend(self, client: Client) -> None:
        """What an end does besides, as long as the connection lasts."""
        await asyncio.Event().wait()

    async def _watch(self, sock: socket.socket, gone: asyncio.Event) -> None:
        """Ends with the connection. The client pings; a line on which nothing comes back for too long is none.

        A slow line that still takes bytes had no time to answer, so it is alive.
        """
        loop = asyncio.get_running_loop()
        last, alive_s = _look(sock), loop.time()
        while not gone.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._silence_s_max / 8):
                    await gone.wait()
            now_s, now = loop.time(), _look(sock)
            if now.received > last.received or (last.unsent and now.taken > last.taken):
                alive_s = now_s
            last = now
            if self._forbidden:
                raise ConnectionError(
                    f"the NATS server forbids {self._user} what it needs ({self._forbidden}); "
                    "enter there what the hub prints: skerry hub nats"
                )
            if now_s - alive_s > self._silence_s_max:
                raise ConnectionError(f"the broker has not answered for {self._silence_s_max:g} s")
            if self._asked and now_s - self._answered_s > ANSWER_S_MAX:
                raise ConnectionError("the broker is there, but its streams do not answer; look at its disk")

    def _note(self, url: str, error: Exception) -> None:
        said = str(error) or type(error).__name__
        if said.lower().startswith("nats: permissions violation"):
            self._forbidden = said.removeprefix("nats: ")
        elif not isinstance(error, errors.NoServersError):  # which says less than what came before it
            words = next((words for part, words in _WORDS if part in said.lower()), said)
            self._problem = words if words.startswith(f"{url}: ") else f"{url}: {words}"

    def _over(self, problem: str) -> None:
        """There is no line: whoever waits for it is told."""
        self._up, self._problem = False, problem or "there is no line"
        self._going.clear()
        self._asked.clear()
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(LinkDown(self._problem))
        self._waiting.clear()

    # -- out -----------------------------------------------------------------------------------------------------

    def _check(self, parcel: Parcel) -> None:
        if len(parcel.data) > PARCEL_BYTES_MAX:
            raise ValueError(f"a parcel of {len(parcel.data):,} bytes; {PARCEL_BYTES_MAX:,} are the most")
        if not self._up:
            raise LinkDown(self._problem)

    def _push(self, rank: int, to: str, payload: bytes, reply: str = "", awaited: bool = False) -> int:
        number = next(self._numbers)
        reply = f"{self._inbox}.a.{number}" if awaited and reply else reply
        heapq.heappush(self._going, _Going(rank, number, to, payload, reply, awaited))
        self._more.set()
        return number

    async def _hand(self, rank: int, to: str, payload: bytes, answered: bool) -> bytes:
        """Returns when the bytes left, or the answer to them. LinkDown."""
        if not self._up:
            raise LinkDown(self._problem)
        number = self._push(rank, to, payload, "answer" if answered else "", awaited=True)
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._waiting[number] = future
        try:
            return await future
        finally:
            self._waiting.pop(number, None)
            self._asked.discard(number)

    async def _write(self, client: Client) -> None:
        while True:
            while not self._going:
                self._more.clear()
                await self._more.wait()
            one = heapq.heappop(self._going)
            if one.awaited and one.number not in self._waiting:
                continue  # given up
            if one.awaited and one.reply:
                self._answered_s = self._answered_s if self._asked else asyncio.get_running_loop().time()
                self._asked.add(one.number)
            await client.publish(one.subject, one.payload, one.reply)
            if one.awaited and not one.reply:
                self._told(one.number, b"")

    async def _on_answer(self, said: Msg) -> None:
        self._answered_s = asyncio.get_running_loop().time()
        self._told(int(said.subject.rpartition(".")[2]), said.data)

    def _told(self, number: int, answer: bytes) -> None:
        future = self._waiting.get(number)
        if future is not None and not future.done():
            future.set_result(answer)

    # -- in ------------------------------------------------------------------------------------------------------

    def _came(self, peer: str, lane: Lane, to: str, payload: bytes, note: str = "") -> bool:
        """False when it is no parcel, or there is no room for it."""
        if not payload.startswith(_MARK) or len(payload) > PARCEL_BYTES_MAX + len(_MARK):
            return False
        was = self._tallies.get(peer, Tally())
        size = len(payload) + len(to)
        self._tallies[peer] = was._replace(received=was.received + 1, received_bytes=was.received_bytes + size)
        return self._in.put(Parcel(peer, lane, payload[len(_MARK) :]), note)

    def _went(self, peer: str, to: str, payload: bytes) -> None:
        was, size = self._tallies.get(peer, Tally()), len(payload) + len(to)
        self._tallies[peer] = was._replace(sent=was.sent + 1, sent_bytes=was.sent_bytes + size)


class SiteEnd(_End):
    """A site's end. `urls` (nats, tls, ws or wss) are tried in turn; `ca` is a file of PEM certificates."""

    def __init__(
        self,
        urls: Sequence[str],
        tenant: str,
        writer: str,
        password: str,
        *,
        ca: Path | None = None,
        silence_s_max: float = SILENCE_S_MAX,
    ) -> None:
        super().__init__(urls, user_of(tenant, writer), password, inbox_of(tenant, writer), ca, silence_s_max)
        self._tenant, self._writer = tenant, writer
        self._windows = {lane: _Window(UNDER_WAY_BYTES_MAX) for lane in _QUEUED}
        self._refusals = {lane: asyncio.Lock() for lane in _QUEUED}

    async def send(self, parcel: Parcel) -> None:
        self._check(parcel)
        to, payload = subject(self._tenant, "up", self._writer, parcel.lane), _MARK + parcel.data
        if parcel.lane in _QUEUED:
            async with self._windows[parcel.lane].of(len(payload)):
                await self._queue(parcel.lane, to, payload)
        else:
            await self._hand(parcel.lane, to, payload, answered=False)
        self._went(self._writer, to, payload)

    async def receive(self) -> Parcel | None:
        taken = await self._in.take()
        return taken[0] if taken else None

    async def _queue(self, lane: Lane, to: str, payload: bytes) -> None:
        """Until the stream has it. While one is refused, it alone tries again: each time costs the line its bytes."""
        if self._refusals[lane].locked():
            async with self._refusals[lane]:
                pass
        if not (trouble := _trouble(await self._hand(lane, to, payload, answered=True))):
            return
        async with self._refusals[lane]:
            pause_s = RETRY_S_MIN
            while trouble:
                self._problem = trouble
                await asyncio.sleep(pause_s * self._dice.uniform(0.5, 1.0))
                pause_s = min(pause_s * 2, RETRY_S_MAX)
                trouble = _trouble(await self._hand(lane, to, payload, answered=True))
            self._problem = ""

    async def _prepare(self, client: Client) -> None:
        await client.subscribe(f"sk.{token(self._tenant)}.down.{token(self._writer)}.*", cb=self._on_parcel)

    async def _on_parcel(self, said: Msg) -> None:
        self._came(self._writer, _whose(said)[1], said.subject, said.data)


class _Pull:
    """What was asked for of one site's lane: up to `left` parcels are still to come."""

    def __init__(self, word: str, lane: Lane) -> None:
        self.word, self.lane = word, lane
        self.left = 0
        self.asked_s = 0.0


class HubEnd(_End):
    """The hub's end, with all rights at the broker. It makes the streams, and makes them anew when they are gone.

    `repair` restarts the broker, if it is ours: it is called when the streams are broken and stay so. `hostname` is what
    its certificate must say, where that is not the host of the URL.
    """

    _held_bytes_max = HUB_HELD_BYTES_MAX

    def __init__(
        self,
        urls: Sequence[str],
        tenant: str,
        user: str,
        password: str,
        *,
        ca: Path | None = None,
        silence_s_max: float = SILENCE_S_MAX,
        stream_bytes_max: int = STREAM_BYTES_MAX,
        probe_s: float = PROBE_S,
        repair: Callable[[], Awaitable[None]] | None = None,
        hostname: str = "",
    ) -> None:
        super().__init__(urls, user, password, _inbox_of_hub(tenant, user), ca, silence_s_max, hostname)
        self._tenant = tenant
        self._stream_bytes_max = stream_bytes_max
        self._probe_s = probe_s
        self._repair = repair
        self._repaired_s = -REPAIR_S_MIN
        self._met: set[str] = set()
        self._new = asyncio.Event()
        self._pulls: dict[tuple[str, Lane], _Pull] = {}
        self._hungry: dict[_Pull, None] = {}  # would be asked, if there were room

    async def send(self, parcel: Parcel) -> None:
        self._check(parcel)
        to, payload = subject(self._tenant, "down", parcel.peer, parcel.lane), _MARK + parcel.data
        await self._hand(parcel.lane, to, payload, answered=False)
        self._went(parcel.peer, to, payload)

    async def receive(self) -> Parcel | None:
        taken = await self._in.take()
        if taken is None:
            return None
        parcel, reply = taken
        if reply:
            self._push(Lane.CONTROL, reply, b"+ACK")
            if pull := self._pulls.get((token(parcel.peer), parcel.lane)):
                self._ask(pull)
            while self._hungry and self._has_room():
                self._ask(next(iter(self._hungry)))
        return parcel

    async def _prepare(self, client: Client) -> None:
        self._in.clear(*_QUEUED)  # nobody had them, and the stream gives them again
        self._pulls.clear()
        self._hungry.clear()
        for lane in (Lane.CONTROL, Lane.SNAPSHOTS):
            await client.subscribe(self._subjects(lane), cb=self._on_parcel)
        await client.subscribe(f"{self._inbox}.p.>", cb=self._on_pulled)

    async def _on_parcel(self, said: Msg) -> None:
        word, lane = _whose(said)
        if self._came(name_of(word), lane, said.subject, said.data) and (word, Lane.LOG) not in self._pulls:
            self._met.add(word)
            self._new.set()

    # -- streams -------------------------------------------------------------------------------------------------

    async def _tend(self, client: Client) -> None:
        """Keep the streams, and a consumer for everybody who has something in them."""
        streams, loop, failures, probed_s = (
            client.jetstream(timeout=STREAM_ANSWER_S_MAX),
            asyncio.get_running_loop(),
            0,
            0.0,
        )
        while True:
            self._new.clear()
            try:
                await self._scan(streams)
                if loop.time() - probed_s > self._probe_s:
                    probed_s = loop.time()
                    await self._probe(client, streams)
                failures, self._problem = 0, ""
            except errors.ConnectionClosedError:
                raise
            except (errors.Error, TimeoutError) as error:
                failures += 1
                former, self._problem = self._problem, self._wrong_with_streams(error)
                if self._problem != former:
                    log.warning("%s", self._problem)
                if failures > 1 and self._repair and loop.time() - self._repaired_s > REPAIR_S_MIN:
                    self._repaired_s = loop.time()
                    await self._repair()
                probed_s = 0.0
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(SCAN_S):
                    await self._new.wait()

    async def _scan(self, streams: JetStreamContext) -> None:
        met, self._met = self._met, set()  # a site that comes while this waits is met in the next round
        for lane in _QUEUED:
            try:
                info = await streams.stream_info(self._stream(lane), subjects_filter=self._subjects(lane))
            except NotFoundError:
                await self._make(streams, lane)
                continue
            if info.config.max_bytes != self._stream_bytes_max:
                await streams.update_stream(info.config.evolve(max_bytes=self._stream_bytes_max))
            words = {one.split(".")[3] for one in info.state.subjects or ()} | met
            await self._attach_all(streams, sorted(words - {_CODED}), lane)
        late_s = asyncio.get_running_loop().time() - PULL_S_MAX - STREAM_ANSWER_S_MAX
        for pull in self._pulls.values():
            if pull.asked_s < late_s:
                pull.left = 0
                self._ask(pull)

    def _wrong_with_streams(self, error: Exception) -> str:
        code = error.err_code if isinstance(error, APIError) else 0
        if code in _NO_JETSTREAM:
            return (
                f"JetStream is not on at the NATS server for {self._user}; whoever runs it writes jetstream {{}} in its "
                "configuration and jetstream: enabled in the account"
            )
        if code in _FULL:
            room = 2 * self._stream_bytes_max // (1024 * 1024)
            return (
                f"the NATS server has too little room for our streams: {room:,} MiB are wanted; raise max_file there, "
                "in the server and the account, or lower limits.stream_mib_max here"
            )
        return f"the broker's streams do not work ({error or 'no answer'}); look at its disk"

    async def _make(self, streams: JetStreamContext, lane: Lane) -> None:
        config = StreamConfig(
            name=self._stream(lane),
            subjects=[self._subjects(lane)],
            retention=RetentionPolicy.WORK_QUEUE,
            storage=StorageType.FILE,
            discard=DiscardPolicy.NEW,
            max_bytes=self._stream_bytes_max,
        )
        await streams.add_stream(config)

    async def _probe(self, client: Client, streams: JetStreamContext) -> None:
        """nats.errors.Error or TimeoutError when a stream takes nothing, for another reason than that it is full."""
        for lane in _QUEUED:
            to = subject(self._tenant, "up", "", lane)
            answer = json.loads((await client.request(to, b"probe", timeout=STREAM_ANSWER_S_MAX)).data)
            if error := answer.get("error"):
                if error.get("err_code") not in _FULL:
                    raise errors.Error(error.get("description", "refused"))
            else:
                await streams.delete_msg(self._stream(lane), answer["seq"])

    async def _attach_all(self, streams: JetStreamContext, words: Iterable[str], lane: Lane) -> None:
        new = iter([word for word in words if (word, lane) not in self._pulls])

        async def some() -> None:
            for word in new:
                await self._attach(streams, word, lane)

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(ATTACHED_AT_ONCE_MAX):
                    group.create_task(some())
        except ExceptionGroup as every:
            raise every.exceptions[0] from None

    async def _attach(self, streams: JetStreamContext, word: str, lane: Lane) -> None:
        stream = self._stream(lane)
        with contextlib.suppress(NotFoundError):  # anew, or what the last connection was given would not come again
            await streams.delete_consumer(stream, word)
        await streams.add_consumer(
            stream,
            ConsumerConfig(
                durable_name=word,
                filter_subject=f"sk.{token(self._tenant)}.up.{word}.{lane.name.lower()}",
                ack_wait=UNACKED_S_MAX,
                mem_storage=True,  # what it knows is worth nothing after the connection
            ),
        )
        pull = self._pulls[word, lane] = _Pull(word, lane)
        self._ask(pull)

    # -- pulls ---------------------------------------------------------------------------------------------------

    def _has_room(self) -> bool:
        return self._in.held_in(*_QUEUED) < HUB_BYTES_MAX

    def _ask(self, pull: _Pull) -> None:
        if pull.left or self._in.held(name_of(pull.word), pull.lane) >= SITE_BYTES_MAX:
            return
        if not self._has_room():
            self._hungry[pull] = None
            return
        self._hungry.pop(pull, None)
        pull.left, pull.asked_s = PULL_PARCELS_MAX, asyncio.get_running_loop().time()
        wish = {"batch": PULL_PARCELS_MAX, "max_bytes": SITE_BYTES_MAX, "expires": int(PULL_S_MAX * 1e9)}
        to = f"$JS.API.CONSUMER.MSG.NEXT.{self._stream(pull.lane)}.{pull.word}"
        self._push(Lane.CONTROL, to, json.dumps(wish).encode(), f"{self._inbox}.p.{pull.word}.{pull.lane.name.lower()}")

    async def _on_pulled(self, said: Msg) -> None:
        status = (said.headers or {}).get("Status")
        word, lane = _whose(said)
        pull = self._pulls.get((word, lane))
        if pull is None:
            return
        if status is None:
            pull.left -= 1
            if not self._came(name_of(word), lane, said.subject, said.data, said.reply) and said.reply:
                self._push(Lane.CONTROL, said.reply, b"+TERM")
            self._ask(pull)
            return
        why = (said.headers or {}).get("Description", "")
        if why == "Batch Completed":  # we counted along
            return
        pull.left = 0
        if status in ("404", "408") or "MaxBytes" in why:
            self._ask(pull)
        else:  # the consumer is gone, or the broker is going
            self._pulls.pop((word, lane))
            self._hungry.pop(pull, None)

    def _stream(self, lane: Lane) -> str:
        return f"{_QUEUED[lane]}_{token(self._tenant)}"

    def _subjects(self, lane: Lane) -> str:
        return f"sk.{token(self._tenant)}.up.*.{lane.name.lower()}"


class _Window:
    """A bound on bytes under way; who comes first gets in first."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._bytes = 0
        self._door = asyncio.Lock()
        self._room = asyncio.Event()

    @contextlib.asynccontextmanager
    async def of(self, size: int) -> AsyncIterator[None]:
        async with self._door:
            while self._bytes and self._bytes + size > self._bytes_max:
                self._room.clear()
                await self._room.wait()
            self._bytes += size
        try:
            yield
        finally:
            self._bytes -= size
            self._room.set()


def _whose(said: Msg) -> tuple[str, Lane]:
    """The site's word and the lane, the last two but one of every subject that the hub listens to."""
    word, lane = said.subject.split(".")[-2:]
    return word, _LANES[lane]


def _trouble(answer: bytes) -> str:
    """Why a stream did not take a parcel; empty when it did."""
    if not answer:
        return "the hub has made no queue for us yet; we try again"
    error = json.loads(answer).get("error")
    if not error:
        return ""
    if error.get("err_code") in _FULL:
        return "the queue in front of the hub is full; we go on when the hub has taken something out of it"
    return f"the queue in front of the hub takes nothing ({error.get('description', 'no reason given')}); we try again"


def _trust(url: str, ca: Path | None) -> ssl.SSLContext | None:
    if not url.startswith(("tls:", "wss:")):
        return None
    context = ssl.create_default_context(cafile=ca)
    if ca is not None:  # the hub's own authority: a site whose clock is ten years ahead must reach it too
        context.verify_flags |= _NO_CHECK_TIME
    return context


def _look(sock: socket.socket) -> _Carried:
    """From the kernel's struct tcp_info (linux/tcp.h): tcpi_bytes_acked, tcpi_bytes_received, tcpi_notsent_bytes."""
    try:
        taken, received, unsent = struct.unpack_from(
            "=QQ8xI", sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256), 120
        )
    except OSError:
        return _Carried(0, 0, 0)
    return _Carried(received, taken, unsent)


def _socket(client: Client) -> socket.socket:
    """There is no public way to it, and without it a line that stands still can neither be seen nor ended.

    The transport above it keeps nothing back either, or a hello would wait behind that. (A WebSocket's does: 64 KiB.)
    """
    transport = client._transport
    if not isinstance(transport, TcpTransport):
        return transport._ws.get_extra_info("socket")  # type: ignore[no-any-return, union-attr]
    assert transport._io_writer is not None
    transport._io_writer.transport.set_write_buffer_limits(1)  # with 0, TLS would never go on
    return transport._io_writer.get_extra_info("socket")  # type: ignore[no-any-return]


async def _end(client: Client) -> None:
    """In order if the other side takes what is left, else at once."""
    transport = getattr(client, "_transport", None)
    session = getattr(transport, "_client", None)  # of a WebSocket; a failed start leaves it open
    web = getattr(transport, "_ws", None)
    try:
        await _end_line(client)
    finally:
        if web is not None:
            web._response.close()  # it would wait for the other side's farewell, which may never come
        if session is not None and not session.closed:
            await session.close()


async def _end_line(client: Client) -> None:
    with contextlib.suppress(OSError, errors.Error, TimeoutError, AttributeError):
        async with asyncio.timeout(CLOSE_S_MAX):
            await client.close()
            return
    with contextlib.suppress(OSError, AttributeError, AssertionError):
        _socket(client).shutdown(socket.SHUT_RDWR)
    with contextlib.suppress(OSError, AttributeError):
        client._transport.close()  # type: ignore[union-attr]
