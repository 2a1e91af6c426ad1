"""What the box answers from, in one value; wired in `appliance.compose`."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import msgspec

from appliance.authority import Autonomy
from appliance.bundles import Bundles
from appliance.doorkeeper import Gatekeeper
from appliance.hub_link import HubLink
from appliance.intake.control import Control
from appliance.intake.gate import Gate, Tally
from appliance.intake.upload_listener import Uploads
from appliance.interpreter import Interpreter
from appliance.keeper import Keeper
from appliance.recorder import Recorder
from appliance.world import Parse, World
from fleet.people import Glass
from fleet.projections import connectivity as connectivity_view
from fleet.projections import lifecycle as lifecycle_view
from store import journal
from store.clock import WallClock
from store.commands import Commands
from store.database import Reader
from store.folder import Folder
from store.history import HistoryIndex
from store.policies import Policies
from store.quarantine import Quarantine
from store.series import SeriesStore
from store.shared import Shared
from store.supervisor import Supervisor
from store.telemetry import History
from store.views import View
from web.stale import Stale

if TYPE_CHECKING:
    from appliance.intake.bridge import Bridge


class Line(msgspec.Struct):
    """What the box knows of one way in beside its tally."""

    intake: str
    address: str = ""
    problem: str | None = None
    rates: deque[float] = msgspec.field(default_factory=lambda: deque(maxlen=300))
    last_records: int = 0
    durable: deque[tuple[int, ...]] = msgspec.field(default_factory=lambda: deque(maxlen=31))  # counts, 10 s apart
    seconds: int = 0
    state: str = ""  # of a way in that calls out itself: how that stands

    def tick(self, tally: Tally) -> None:
        """A second passed."""
        records = tally.points or tally.records
        self.rates.append(float(records - self.last_records))
        self.last_records = records
        if self.seconds % 10 == 0:
            self.durable.append(tuple(tally.durable.counts))
        self.seconds += 1

    def durable_lately(self, tally: Tally) -> list[int]:
        """Of the last five minutes, how many records took how long to the disk."""
        before = self.durable[0] if self.durable else (0,) * len(tally.durable.counts)
        return [now - then for now, then in zip(tuple(tally.durable.counts), before, strict=True)]


class Parts(msgspec.Struct, frozen=True):
    folder: Folder
    clock: WallClock
    identity: journal.Identity
    journal: journal.Journal
    reader: Reader
    commands: Commands
    shared: Shared
    autonomy: Autonomy
    policies: Policies
    link: HubLink
    bundles: Bundles
    quarantine: Quarantine
    history: History
    series: SeriesStore
    turns: HistoryIndex
    world: World
    gate: Gate
    uploads: Uploads
    control: Control
    recorder: Recorder
    interpreter: Interpreter
    keeper: Keeper
    supervisor: Supervisor
    stale: Stale
    lines: dict[str, Line]
    bridges: Sequence[Bridge]
    connectivity: View[connectivity_view.State]
    lifecycle: View[lifecycle_view.State]
    parsers: Mapping[str, Parse]
    steady_ns: Callable[[], int]
    version: str
    started_ns: int
    glass: Callable[[], Glass]  # the sealed account
    doorkeeper: Gatekeeper
