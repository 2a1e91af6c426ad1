"""What was turned away is taken in after all: bytes from quarantine become records, once.

Rules of the file
  1  Records and quarantine are two files, so an item is first marked with where the records stood; whoever tries again
     after a crash looks behind that mark for the record before writing another.
  2  The bytes are stored as they came, with the time at which they came.
  3  What a credential was refused for becomes somebody's: of the source it came from, once a node claims that, or of the
     device that a person names.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from appliance.intake.device import Turned
from appliance.intake.gate import Gate, Outcome, Stored
from appliance.world import Parse, World, source_key
from fleet.people import Refused, Unavailable
from store.frames import Offer
from store.quarantine import Item, Quarantine
from store.telemetry import History

STORED = "unparsed"  # the reason of items that are records already: nobody could read them
LINE = "quarantine"  # under which the gate counts
_COMMIT_SECONDS_MAX = 30.0
_LOOK_RECORDS = 1_000
_ALIKE_MAX = 1_000
_TURNED = frozenset(Turned)


class Retaking:
    """`newest` is the id of the last record that is stored."""

    def __init__(
        self,
        quarantine: Quarantine,
        gate: Gate,
        history: History,
        world: World,
        parsers: Mapping[str, Parse],
        newest: Callable[[], int],
    ) -> None:
        self._quarantine, self._gate, self._history = quarantine, gate, history
        self._world, self._parsers, self._newest = world, parsers, newest
        self._one_by_one = asyncio.Lock()

    def is_outside(self, item: Item) -> bool:
        """Whether it never became a record, and could."""
        return item.reason != STORED and source_key(item.source).intake in self._parsers

    async def retry(self, number: int, node: str, actor: str, *, alike: bool = False) -> int:
        """How many items were settled: this one, or with `alike` all of its source and reason. Refused with what is in the
        way of the first; those before it are done."""
        first = await self._quarantine.item(number)
        items = [first]
        if alike:
            items += [one for one in await self._quarantine.alike(first, _ALIKE_MAX) if one.id != first.id]
        for item in items:
            async with self._one_by_one:
                await self._retry(item, node, actor)
        return len(items)

    async def _retry(self, item: Item, node: str, actor: str) -> None:
        parse = self._parsers.get(source_key(item.source).intake)
        if parse is None:
            raise Refused("this kind of input cannot be read again; drop it when it is of no use")
        if item.reason not in _TURNED:
            marks = parse(item.raw, item.at_ns).marks
            if "unparsed" in marks:
                raise Refused(f"it still cannot be read ({', '.join(marks)}); drop it, or update the appliance first")
        if item.reason == STORED:
            await self._quarantine.settle(item.id, "retry", item.reason, actor)
            return
        source = self._source(item, node)
        mark, fresh = await self._quarantine.begin(item.id, self._newest(), source)
        if fresh or not await self._is_there(item, *mark):
            await self._store(item, mark[1])
        await self._quarantine.settle(item.id, "retry", item.reason, actor, mark[1])

    def _source(self, item: Item, node: str) -> str:
        key = source_key(item.source)
        if node:
            found = [one.node.id for one in tuple(self._world.nodes.values()) if node in (one.node.id, one.node.name)]
            if not found:
                raise Refused(f"there is no node {node[:80]!r} here", 404)
            if self._world.claims.get(f"@{found[0]}/") != found[0]:
                raise Refused(f"{node[:80]!r} is no enrolled device; enrol it on the Devices page first")
            return f"{key.intake}/@{found[0]}/"
        if item.reason in _TURNED and key.sender not in self._world.claims:
            raise Refused(
                f"nobody has claimed {item.source}: name the device that sent it, or adopt that source on the Intake page"
            )
        return item.source

    async def _is_there(self, item: Item, after: int, source: str) -> bool:
        """Whether an attempt that was cut off had stored it."""
        while True:
            page = await asyncio.to_thread(self._history.after, after, _LOOK_RECORDS, frozenset({source}))
            if any(record.at == item.at_ns and record.content == item.raw for record in page.records):
                return True
            if page.scanned <= after:
                return False
            after = page.scanned

    async def _store(self, item: Item, source: str) -> None:
        loop = asyncio.get_running_loop()
        outcome: asyncio.Future[Outcome] = loop.create_future()

        def done(result: Outcome) -> None:
            loop.call_soon_threadsafe(_settle, outcome, result)

        reason = self._gate.offer(LINE, [Offer(item.at_ns, source, item.raw)], done)
        if reason is not None:
            raise Unavailable(f"the appliance takes nothing in now ({reason}); it stays here, try again")
        async with asyncio.timeout(_COMMIT_SECONDS_MAX):
            stored = await outcome
        if not isinstance(stored, Stored):
            raise Unavailable(f"{stored}; it stays here, try again", 507)


def _settle(future: asyncio.Future[Outcome], outcome: Outcome) -> None:
    if not future.done():
        future.set_result(outcome)
