"""`/v1/control`: the WebSocket on which this site asks devices for what they hold. What is asked is `control`'s business.

A device that does not read is cut off alone: what waits for it is bounded, and never waited for.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Callable

from starlette.websockets import WebSocket, WebSocketDisconnect

from appliance.intake.control import (
    ChunkAck,
    CommandResponse,
    Control,
    Out,
    Problem,
    encode,
    heard,
)
from appliance.intake.delivery import INTAKE
from appliance.intake.device import Device, Doorkeeper, Turned
from appliance.intake.gate import Gate
from appliance.intake.upload import State as UploadState
from appliance.intake.upload import Upload
from appliance.intake.upload_listener import Uploads, key_of, who
from fleet import limits
from fleet.people import Unavailable
from web.policy import Policy, Talk

_TICK_S = 0.25
_WAITING_MAX = 64  # messages that one device has not read
_NOT_ALLOWED, _TOO_MANY, _STALLED = 1008, 1013, 1013  # RFC 6455 7.4.1


class ControlLines:
    def __init__(
        self,
        control: Control,
        uploads: Uploads,
        gate: Gate,
        doorkeeper: Doorkeeper,
        *,
        node_of: Callable[[Device], str],
        now_ns: Callable[[], int],
    ) -> None:
        self.control = control
        self.responses: Callable[[Device, CommandResponse], None] = lambda device, response: None
        self._uploads, self._gate, self._doorkeeper, self._now_ns = uploads, gate, doorkeeper, now_ns
        self._node_of = node_of
        self._numbers = itertools.count(1)
        self._queues: dict[int, asyncio.Queue[bytes | None]] = {}
        self._credentials: dict[int, str] = {}
        uploads.told, uploads.hints = self._uploaded, self._hints
        doorkeeper.on_revoked(self._revoked)

    def talks(self) -> tuple[Talk, ...]:
        return (Talk("/v1/control", self.talk, Policy.PUBLIC),)

    def looked(self, node_id: str) -> None:
        """A person looks at this node."""
        self.control.looked(node_id, self._now_ns())

    async def run(self) -> None:
        """For ever: ask who is due."""
        while True:
            await asyncio.sleep(_TICK_S)
            self._send(self.control.decide(self._now_ns()))

    async def talk(self, socket: WebSocket) -> None:
        address = socket.client.host if socket.client else "console"
        device = await who(self._doorkeeper, socket.headers, address)
        if isinstance(device, Turned) or len(self._queues) >= limits.control_lines_max:
            self._gate.refuse(INTAKE, device if isinstance(device, Turned) else "too many lines")
            await socket.receive()
            await socket.close(_NOT_ALLOWED if isinstance(device, Turned) else _TOO_MANY)
            return
        await socket.accept()
        line, queue = next(self._numbers), asyncio.Queue[bytes | None](_WAITING_MAX)
        self._queues[line], self._credentials[line] = queue, device.credential
        self.control.opened(line, key_of(device), self._now_ns())
        writing = asyncio.create_task(_write(socket, queue))
        try:
            await self._read(socket, line, device)
        except (WebSocketDisconnect, RuntimeError):  # starlette raises the latter for a line that we closed
            pass
        finally:
            del self._queues[line], self._credentials[line]
            self.control.closed(line)
            writing.cancel()
            await asyncio.gather(writing, return_exceptions=True)

    async def _read(self, socket: WebSocket, line: int, device: Device) -> None:
        while True:
            message = await socket.receive()
            if message["type"] != "websocket.receive":
                return
            raw = message.get("text") or message.get("bytes") or b""
            said = Problem("a message is too long") if len(raw) > limits.control_message_bytes_max else heard(raw)
            if isinstance(said, Problem):
                self._gate.refuse(INTAKE, "unreadable message")
                self._send(self.control.bad(line, said))
            elif isinstance(said, CommandResponse):
                self.responses(device, said)
            else:
                try:
                    ranges = (await self._uploads.held(key_of(device), said.stream)).all
                except (Unavailable, TimeoutError):
                    continue  # the line is a help only; it asks again when it hears of more
                after = ranges[-1][1] if ranges else 0
                self._send(self.control.backlog(line, said, self._node_of(device), after, self._now_ns()))

    # -- what others do ---------------------------------------------------------------------------------------

    def _uploaded(self, device: str, upload: Upload) -> None:
        said = upload.said
        last = said.last or said.first
        state = UploadState(upload.state)
        ack = ChunkAck(said.stream, upload.id, said.window_id, said.first, last, upload.bytes_durable, state)
        self._send(self.control.uploaded(device, ack, self._now_ns()))

    def _hints(self, device: str) -> dict[str, object]:
        watched = any(line.watched for line in self.control.lines.values() if line.device == device)
        return {"priority": "panel"} if watched else {}

    def _revoked(self, credential: str) -> None:
        for line, held in tuple(self._credentials.items()):
            if held and held == credential:
                self._end(line)

    def _send(self, out: list[Out]) -> None:
        for line, message in out:
            queue = self._queues.get(line)
            if queue is None:
                continue
            if message is None or queue.full():
                self._end(line)
            else:
                queue.put_nowait(encode(message))

    def _end(self, line: int) -> None:
        """What waits for it is dropped; the end is what it hears next."""
        queue = self._queues[line]
        while not queue.empty():
            queue.get_nowait()
        queue.put_nowait(None)


async def _write(socket: WebSocket, queue: asyncio.Queue[bytes | None]) -> None:
    with contextlib.suppress(WebSocketDisconnect, RuntimeError):
        while (raw := await queue.get()) is not None:
            await socket.send_text(raw.decode())
        await socket.close(_NOT_ALLOWED)
