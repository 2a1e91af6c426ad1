"""T5: twenty schedules of bad links, in virtual time. A to G hold, and the site is LIVE a minute after the line heals."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from fleet.limits import HOUR, MINUTE, MS, SECOND
from tests.simulation.boxes import memory_folder
from tests.simulation.world import Quality, World

LIVE_NS_MAX = 60 * SECOND
pytestmark = pytest.mark.trial

Schedule = Callable[[World], int]  # does what it does and returns how long it lasts


@pytest.fixture
def root() -> Iterator[Path]:
    made = memory_folder()
    yield made
    shutil.rmtree(made)


def _cut(lasted_ns: int, world: World) -> int:
    world.partition(world.copies[0], lasted_ns)
    return lasted_ns


def _worse(quality: Quality, world: World) -> int:
    world.degrade(world.copies[0], quality, 10 * MINUTE)
    return 10 * MINUTE


def _half(way: str, lasted_ns: int, world: World) -> int:
    world.half_open(world.copies[0], way, lasted_ns)
    return lasted_ns


def _resets(every_ns: int, world: World) -> int:
    for number in range(40):
        world.after(number * every_ns, partial(world.reset, world.copies[0]))
    return 40 * every_ns


def _flaps(up_ns: int, down_ns: int, world: World) -> int:
    for number in range(20):
        world.after(number * (up_ns + down_ns), partial(world.partition, world.copies[0], down_ns))
    return 20 * (up_ns + down_ns)


SCHEDULES: dict[str, Schedule] = {
    "cut for a second": partial(_cut, SECOND),
    "cut for a minute": partial(_cut, MINUTE),
    "cut for an hour": partial(_cut, HOUR),
    "cut for a day": partial(_cut, 24 * HOUR),
    "cut for three days": partial(_cut, 72 * HOUR),
    "30 % loss": partial(_worse, Quality(loss=0.3, delay_ns=50 * MS)),
    "30 % loss and 600 ms": partial(_worse, Quality(loss=0.3, delay_ns=300 * MS)),
    "2 s there and 2 s back": partial(_worse, Quality(delay_ns=2 * SECOND)),
    "9.6 kbit/s": partial(_worse, Quality(bytes_per_s=1_200, delay_ns=300 * MS)),
    "9.6 kbit/s with loss": partial(_worse, Quality(bytes_per_s=1_200, delay_ns=SECOND, loss=0.1)),
    "every second parcel twice": partial(_worse, Quality(twice=0.5, delay_ns=100 * MS)),
    "lanes overtake each other": partial(_worse, Quality(delay_ns=100 * MS, jitter_ns=3 * SECOND)),
    "all of it": partial(_worse, Quality(0.3, 0.3, 2 * SECOND, SECOND, 1_200)),
    "nothing goes up": partial(_half, "up", 5 * MINUTE),
    "nothing goes down": partial(_half, "down", 5 * MINUTE),
    "nothing goes down for a moment": partial(_half, "down", 7 * SECOND),
    "resets twice a second": partial(_resets, SECOND // 2),
    "resets every seven seconds": partial(_resets, 7 * SECOND),
    "up for two seconds, down for eight": partial(_flaps, 2 * SECOND, 8 * SECOND),
    "up for a minute, down for two": partial(_flaps, MINUTE, 2 * MINUTE),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_site_is_live_a_minute_after_its_line_heals(name: str, root: Path) -> None:
    world = World(root, list(SCHEDULES).index(name), 1)
    copy = world.copies[0]
    assert world.run_for(30 * SECOND, world.all_live)
    lasted_ns = SCHEDULES[name](world)
    for number in range(40):
        at = lasted_ns * number // 40
        world.after(at, partial(world.write, copy, 5))
        world.after(at, partial(world.present, copy))
        if number % 8 == 0:
            world.after(at, partial(world.edit, copy, at_hub=number % 16 == 0))
            world.after(at, partial(world.seal, copy))
    world.run_for(lasted_ns + SECOND)
    world.heal()
    assert world.run_for(LIVE_NS_MAX, world.all_live)
    assert world.rest(5 * MINUTE)
    world.run_for(3 * MINUTE)
    assert world.ledger.audit(world) == []
    world.close()
