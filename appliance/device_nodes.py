"""What the device API asks of the rest of the site: which node is this sender, what did it say, what is wanted of it?

Reads the world as pages do (copies, from another thread), and documents with a connection of its own. What is written is
heard of after its commit, from the journal.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Protocol

from appliance.intake.device import Newcomers
from appliance.intake.device_attributes import Nodes
from appliance.world import World
from fleet.document import Kind
from fleet.events import AuthorityBegan, DocumentChanged, Recorded
from store import wanted
from store.database import connect_reader
from store.wanted import Look


def nodes(world: World, stored: int, site_db: Path, tenant: str, look: Look, newcomers: Newcomers) -> Nodes:
    """`stored`: the last record from before the start."""

    def of(sender: str) -> str:
        claimed = world.claims.get(sender)
        if claimed is not None:
            return claimed
        node_id = sender[1:-1] if sender.endswith("/") else ""
        return node_id if node_id in world.nodes else ""

    def senders(node_id: str) -> Collection[str]:
        state = world.nodes.get(node_id)
        return () if state is None else state.claims | {f"@{node_id}/"}

    def said(node_id: str) -> Mapping[str, str]:
        state = world.nodes.get(node_id)
        return {} if state is None else {name: one.text for name, one in tuple(state.snapshot.attributes.items())}

    def read(node_ids: Sequence[str]) -> Mapping[str, Mapping[str, bytes]]:
        with contextlib.closing(connect_reader(site_db)) as db:
            return wanted.wanted(db, tenant, node_ids, look)

    return Nodes(of, senders, said, read, lambda: world.cursor >= stored, newcomers.coming)


class Changed(Protocol):
    def __call__(
        self, node_ids: Collection[str] = (), bundles: Collection[str] = (), *, of_any: bool = False
    ) -> None: ...


def listener(loop: asyncio.AbstractEventLoop, changed: Changed) -> Callable[[Sequence[Recorded]], None]:
    """For the journal, on the writer's thread: `changed` hears on the event loop of which nodes something was written, of
    which bundles, and whether somebody else decides from now on."""

    def heard(batch: Sequence[Recorded]) -> None:
        written: dict[str, set[str]] = {Kind.NODE: set(), Kind.BUNDLE: set()}
        for one in batch:
            if isinstance(one.body, DocumentChanged) and one.body.document_kind in written:
                written[one.body.document_kind].add(one.body.document)
        of_any = any(isinstance(one.body, AuthorityBegan) for one in batch)
        if of_any or any(written.values()):
            with contextlib.suppress(RuntimeError):  # the loop has ended; so have all lines
                loop.call_soon_threadsafe(partial(changed, written[Kind.NODE], written[Kind.BUNDLE], of_any=of_any))

    return heard
