"""What people ask of devices that are connected here: a call of a method, and the claim of one by its secret.

Rules of the file
  1  What is asked is in the log before it is sent, and so is what became of it.
  2  What cannot be sent now is refused before that, and leaves no trace but the answer.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import msgspec

from appliance.intake.device_api import Api
from fleet.events import Body, DeviceCalled, DeviceCallEnded, DeviceClaimed
from fleet.people import Refused
from fleet.snapshot import Snapshot
from store.database import Writer
from store.journal import Journal
from web.ports import DeviceState, Gauge, SaidView

_PARAMS_CHARS_MAX = 500
_OUTCOME_CHARS_MAX = 200


class DeviceCommands:
    """`known`: whether there is such a node."""

    def __init__(self, api: Api, journal: Journal, writer: Writer, known: Callable[[str], bool]) -> None:
        self._api, self._journal, self._writer, self._known = api, journal, writer, known

    async def call(
        self, actor: str, node_id: str, method: str, params: object, timeout_s: float, *, one_way: bool
    ) -> object:
        self._check(node_id)
        self._api.calls.check(node_id)
        text = msgspec.json.encode(params).decode()[:_PARAMS_CHARS_MAX]
        await self._say(node_id, DeviceCalled(method, text, actor, one_way))
        began_ns, outcome = time.monotonic_ns(), "answered" if not one_way else "sent"
        try:
            return await self._api.calls.call(node_id, method, params, timeout_s, one_way=one_way)
        except Refused as refused:
            outcome = str(refused)[:_OUTCOME_CHARS_MAX]
            raise
        finally:
            await self._say(node_id, DeviceCallEnded(method, outcome, time.monotonic_ns() - began_ns, actor))

    async def claim(self, actor: str, node_id: str, secret: str) -> None:
        self._check(node_id)
        self._api.claim(node_id, secret)
        await self._say(node_id, DeviceClaimed(actor))

    def gauges(self) -> list[Gauge]:
        words = "What the device API holds: devices that are spoken to, and what waits for them or for us."
        return [
            Gauge(name="skerry_device_api", help=words, kind="gauge", value=value, labels=(("what", what),))
            for what, value in self._api.waiting().items()
        ]

    def state(self, node_id: str, snapshot: Snapshot) -> DeviceState | None:
        """What a page shows of the node's device, if there is anything."""
        said = tuple(
            SaidView(name=name, text=one.text, at_ns=one.at_ns) for name, one in sorted(snapshot.attributes.items())
        )
        found = DeviceState(connected=self._api.connected(node_id), offers=self._api.offers(node_id), said=said)
        return found if found.connected or found.offers or said else None

    def _check(self, node_id: str) -> None:
        if not self._known(node_id):
            raise Refused("there is no such node", 404)

    async def _say(self, node_id: str, body: Body) -> None:
        await self._writer.write(lambda db: self._journal.stage(node_id, body))
