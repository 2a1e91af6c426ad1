"""An appliance that is asked to stop is gone soon, whatever was being read from it."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

from appliance.compose import Appliance
from appliance.config import Config, Http, Mqtt, Ping, Syslog
from fleet.node import Kind
from fleet.people import Identity, Role

ALICE = Identity(name="alice", role=Role.ADMIN, via="console")


async def test_a_stop_leaves_no_thread_behind(tmp_path: Path) -> None:
    before = {thread for thread in threading.enumerate() if not thread.daemon}
    quiet = Config(
        http=Http(listen="127.0.0.1:0"),
        syslog=Syslog(udp="127.0.0.1:0", tcp=""),
        mqtt=Mqtt(listen=""),
        ping=Ping(enabled=False),
    )
    alder = Appliance(tmp_path / "alder", quiet)
    await alder.start()
    node_id = await alder.box.adopt(ALICE, "syslog/127.0.0.9/drone-01", "drone-01", Kind.EDGE, ())
    await asyncio.gather(*(alder.box.series(ALICE, node_id, "battery_pct", 0, 10**18) for _ in range(8)))
    reading = [asyncio.create_task(alder.box.events(ALICE, 0, 100)) for _ in range(16)]
    await asyncio.sleep(0)
    for task in reading:
        task.cancel()
    await asyncio.gather(*reading, return_exceptions=True)
    await alder.stop()
    left = {t for t in threading.enumerate() if not t.daemon} - before
    assert not [t for t in left if "connection_worker" in t.name or "writer" in t.name]


async def test_damaged_charts_do_not_keep_a_site_from_starting(tmp_path: Path) -> None:
    quiet = Config(
        http=Http(listen="127.0.0.1:0"), syslog=Syslog(udp="", tcp=""), mqtt=Mqtt(listen=""), ping=Ping(enabled=False)
    )
    alder = Appliance(tmp_path / "alder", quiet)
    await alder.start()
    await alder.stop()
    (tmp_path / "alder" / "series.db").write_bytes(b"SQLite format 3\x00" + b"\xff" * 8192)
    alder = Appliance(tmp_path / "alder", quiet)
    await alder.start()
    kinds = [event.kind for event in await alder.box.events(ALICE, 0, 100)]
    await alder.stop()
    assert "telemetry.damaged" in kinds
    assert list((tmp_path / "alder" / "damaged").glob("series-*.db"))
