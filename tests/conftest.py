"""Site alder inside the test's own process, on ports of the kernel's choice."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from appliance.config import Budget, Config, Evaluator, Http, Mqtt, Ping, Site, Syslog

if TYPE_CHECKING:
    from appliance.compose import Appliance

settings.register_profile("skerry", deadline=None)  # no timing is ever asserted
settings.load_profile("skerry")

ALDER = Config(
    site=Site(name="alder"),
    http=Http(listen="127.0.0.1:0"),
    syslog=Syslog(udp="127.0.0.1:0", tcp="127.0.0.1:0"),
    mqtt=Mqtt(listen="127.0.0.1:0"),
    ping=Ping(enabled=False),
    evaluator=Evaluator(silence_s=3.0, heartbeat_s=2.0),
    budget=Budget(total_mib=512, reserve_mib=1),
)


@pytest.fixture
async def alder(tmp_path: Path) -> AsyncIterator[Appliance]:
    """A whole appliance, serving; stopped in order afterwards."""
    from appliance.compose import Appliance  # most tests do without it, and it takes half a second

    box = Appliance(tmp_path / "alder", ALDER)
    await box.start()
    yield box
    await box.stop()
