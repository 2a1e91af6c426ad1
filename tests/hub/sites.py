"""What harbor holds of its sites in tests: alder is live, birch catches up, cedar has been cut off for three weeks, and a
copy of elm's card made it write in two ways, so that it is held in quarantine.
"""

from __future__ import annotations

import math

from fleet.connectivity import Mode
from fleet.ids import ulid
from fleet.limits import DAY, HOUR, MINUTE, SECOND
from fleet.node import Kind
from fleet.present import Present, Told
from fleet.reading import Flight, Health, Position
from hub.config import Config, Http, Hub, Link
from hub.state import Certificate, FleetHere, NodeHere, SiteHere

NODES_EACH = 6
HARBOR = Config(hub=Hub(name="harbor"), http=Http(listen="127.0.0.1:0"), link=Link(listen="127.0.0.1:0", tls=False))


def writer_of(number: int) -> str:
    return ulid(1_795_000_000_000 + number, number.to_bytes(10, "big"))


ALDER, BIRCH, CEDAR, ELM = (writer_of(number) for number in range(1, 5))


def filled(fleet: FleetHere, now_ns: int, nodes_each: int = NODES_EACH) -> FleetHere:
    for site in _sites(now_ns):
        fleet.sites[site.writer] = site
    for number, (writer, told_ns) in enumerate(
        ((ALDER, now_ns - 2 * SECOND), (BIRCH, now_ns - 20 * SECOND), (CEDAR, now_ns - 21 * DAY), (ELM, now_ns - DAY))
    ):
        for index in range(nodes_each):
            here = NodeHere(writer, present(number, index, told_ns), told_ns, told_ns + SECOND)
            fleet.put(here.present.node_id, here)
    return fleet


def present(site: int, index: int, at_ns: int) -> Present:
    """The first of each site has failed, the second is silent."""
    name = ("kestrel", "merlin", "osprey", "harrier")[site] + f"-{index + 1}"
    around = index * math.tau / NODES_EACH
    where = Position(58.1 + 0.2 * site + 0.02 * math.cos(around), 11.0 + 0.1 * site + 0.03 * math.sin(around), 60.0)
    silent = index == 1
    return Present(
        node_id=ulid(1_795_000_100_000 + site * 1_000 + index, bytes(10)),
        name=name,
        kind=Kind.EDGE,
        tags=("drone",),
        mode=Mode.DISCONNECTED if silent else Mode.LIVE,
        since_ns=at_ns - 40 * MINUTE,
        seen_ns=at_ns - (40 * MINUTE if silent else SECOND),
        seen_via="syslog",
        health=Health.FAILED if index == 0 else Health.OK,
        phase="ACTIVE/LIVE_OK",
        version="1.4.2",
        position=where,
        position_ns=at_ns - SECOND,
        flight=Flight.AIR,
        address=f"10.0.{site}.{index + 1}",
        text="EKF3 IMU0 is using GPS",
        text_ns=at_ns - SECOND,
        uptime_s=8_040.0,
        values={
            "battery_pct": Told(80.0 - 9 * index, at_ns - SECOND, "syslog"),
            "rtt_ms": Told(12.5, at_ns - SECOND, "ping"),
            "loss_pct": Told(0.0, at_ns - SECOND, "ping"),
            "temp_c": Told(41.0, at_ns - SECOND, "syslog"),
        },
    )


def _sites(now_ns: int) -> list[SiteHere]:
    return [
        SiteHere(
            writer=ALDER,
            name="alder",
            public_key=bytes(32),
            mode=Mode.LIVE,
            since_ns=now_ns - 2 * HOUR,
            heard_ns=now_ns - SECOND,
            epoch=1,
            head_seq=12_345,
            acked_seq=12_345,
            present_ns=now_ns - 2 * SECOND,
            rtt_ms=41.0,
            events=12_345,
            events_per_s=3.2,
            bytes_received=9_120_000,
            bytes_sent=48_000,
            parcels_received=9_001,
            segments_here=14,
            certificate=Certificate(7, now_ns - 3 * MINUTE, 12_345, 14, 2, 0, b"\x5c" * 32, True),
            via="wire",
            program="0.1.0",
        ),
        SiteHere(
            writer=BIRCH,
            name="birch",
            public_key=bytes(32),
            mode=Mode.REPLAYING,
            since_ns=now_ns - 4 * MINUTE,
            heard_ns=now_ns - SECOND,
            epoch=1,
            head_seq=410_000,
            acked_seq=130_000,
            oldest_missing_ns=now_ns - 9 * DAY,
            present_ns=now_ns - 20 * SECOND,
            rtt_ms=612.0,
            events=130_000,
            events_per_s=1_400.0,
            bytes_received=2_120_000,
            bytes_sent=91_000,
            parcels_received=2_210,
            segments_here=3,
            segments_missing=41,
            segment_bytes_missing=812_000_000,
            certificate=Certificate(2, now_ns - 30 * DAY, 90_112, 3, 0, 0, b"\x2a" * 32, False),
            via="wire",
        ),
        SiteHere(
            writer=CEDAR,
            name="cedar",
            public_key=bytes(32),
            mode=Mode.DISCONNECTED,
            since_ns=now_ns - 21 * DAY,
            heard_ns=now_ns - 21 * DAY,
            epoch=1,
            head_seq=51_000,
            acked_seq=51_000,
            present_ns=now_ns - 21 * DAY,
            events=51_000,
            bytes_received=1_020_000,
            certificate=Certificate(4, now_ns - 21 * DAY, 51_000, 9, 0, 1, b"\x11" * 32, True),
            via="stick",
        ),
        SiteHere(
            writer=ELM,
            name="elm",
            public_key=bytes(32),
            mode=Mode.DISCONNECTED,
            since_ns=now_ns - DAY,
            heard_ns=now_ns - DAY,
            epoch=1,
            head_seq=8_000,
            acked_seq=7_200,
            present_ns=now_ns - DAY,
            quarantine=("its log was continued in two ways after event 7200",),
            forks=("two different events 7201 of epoch 1 came; both branches are kept",),
        ),
    ]
