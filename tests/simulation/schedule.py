"""One seeded run: who works, what goes wrong and when, and what must stand when it is over.

python -m tests.simulation --seed N [--sites 50]
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

from fleet.limits import HOUR, MINUTE, MS, SECOND
from sync.protocol import Cause, State
from tests.simulation.boxes import memory_folder
from tests.simulation.world import START_NS, YEAR_NS, Copy, Quality, World

_SIZES = (2, 2, 3, 2, 3, 2, 2, 4, 2, 3)  # of ten seeds in a row
_LARGE = {40: 50, 90: 20, 140: 30, 190: 12}  # of four hundred
ACTIVE_NS = 4 * MINUTE
SETTLE_NS = 30 * MINUTE
CLOCKS_NS = (
    -START_NS + SECOND,
    2_147_483_647 * SECOND - START_NS,
    -10 * YEAR_NS,
    10 * YEAR_NS,
    7 * SECOND,
    -7 * SECOND,
)


class Result(NamedTuple):
    seed: int
    sites: int
    hash: str
    problems: tuple[str, ...]
    counts: dict[str, int]
    turns: dict[tuple[State, Cause], int]
    events: int

    @property
    def again(self) -> str:
        return f"python -m tests.simulation --seed {self.seed} --sites {self.sites}"


def sites_of(seed: int) -> int:
    """Small fleets find most in the least time; now and then a large one."""
    return _LARGE.get(seed % 400, _SIZES[seed % len(_SIZES)])


def run(seed: int, sites: int, *, rare: bool = True) -> Result:
    """Without `rare`: as chance alone has it."""
    root = memory_folder()
    try:
        return _run(root, seed, sites, rare)
    finally:
        shutil.rmtree(root, ignore_errors=True)


def _run(root: Path, seed: int, sites: int, rare: bool) -> Result:
    world = World(root, seed, sites)
    rng = random.Random(f"schedule of {seed}")
    twins = _plan(world, rng)
    if rare:
        _rare(world, random.Random(f"what is rare in {seed}"), twins)
    world.run_for(ACTIVE_NS + 30 * SECOND)
    world.heal()
    world.run_for(3 * MINUTE)  # copies of one site end each other's sessions meanwhile, and both are heard
    for twin in twins:
        for copy in [one for one in world.running if one.writer in twin][1:]:
            world.ledger.disk_lost(copy.writer, world.hub)
            world.remove(copy)
    problems: list[str] = []
    if not world.settle(SETTLE_NS):
        problems.append("rest: not every site came to be LIVE")
    if not world.rest(5 * MINUTE):
        problems.append("rest: something is still missing")
    world.run_for(3 * MINUTE)  # receipts, heads and segments
    problems += world.ledger.audit(world)
    made = Result(
        seed,
        sites,
        world.hash,
        tuple(problems),
        dict(world.counts),
        dict(world.turns),
        len(world.ledger.sent),
    )
    world.close()
    return made


def _plan(world: World, rng: random.Random) -> list[set[str]]:
    twins: list[set[str]] = []
    skewed = rng.sample(world.copies, k=max(len(world.copies) // 5, 1))
    for copy in skewed:
        copy.skewed = True
    for copy in world.copies:
        _work(world, rng, copy)
    for _ in range(max(13, len(world.copies))):
        at = rng.randrange(5 * SECOND, ACTIVE_NS)
        copy = rng.choice(world.copies)
        do = rng.choice(_FAULTS)
        world.after(at, partial(do, world, random.Random(rng.random()), copy))
    for victim in rng.sample(world.copies, k=max(len(world.copies) // _SITES_PER_TWIN, 1)):
        if rng.random() < 0.9:
            world.ledger.forked.add(victim.writer)
            twins.append({victim.writer})
            at = rng.randrange(10 * SECOND, ACTIVE_NS // 2)
            world.after(at, partial(_copied, world, rng, victim, rng.random() < 0.45))
    if rng.random() < 0.65:
        world.ledger.forked |= {copy.writer for copy in world.copies}  # its segments are asked for again, and are gone
        world.after(rng.randrange(10 * SECOND, ACTIVE_NS // 2), partial(_hub_set_back, world, rng))
    return twins


def _work(world: World, rng: random.Random, copy: Copy) -> None:
    for _ in range(rng.randrange(3, 9)):
        world.after(rng.randrange(ACTIVE_NS), partial(world.write, copy, rng.randrange(1, 30)))
        world.after(rng.randrange(ACTIVE_NS), partial(world.present, copy))
    for _ in range(rng.randrange(3)):
        world.after(rng.randrange(ACTIVE_NS), partial(world.edit, copy, at_hub=rng.random() < 0.5))
    if rng.random() < 0.5:
        world.after(rng.randrange(ACTIVE_NS), partial(world.seal, copy, drop=rng.random() < 0.4))


def _copied(world: World, rng: random.Random, copy: Copy, clone: bool) -> None:
    if copy.gone:
        return
    image = world.image(copy)

    def back() -> None:
        if clone:
            twin = world.clone(copy, image)
            twin.wrote = 1_000_000
            for _ in range(6):
                world.after(rng.randrange(MINUTE), partial(world.write, twin, 2))
            for one in (copy, twin) * 3:  # of the same nodes: two words of one author with one number
                world.after(rng.randrange(MINUTE), partial(world.edit, one, at_hub=False))
        else:
            world.restore(copy, image)

    world.after(rng.randrange(SECOND, MINUTE), back)


def _hub_set_back(world: World, rng: random.Random) -> None:
    image = world.hub_image()
    world.after(rng.randrange(SECOND, MINUTE), lambda: world.restore_hub(image))


def _rare(world: World, rng: random.Random, twins: list[set[str]]) -> None:
    """What chance alone brings about too seldom is made to happen: faults that wait for a site to be in a state. A site
    with a copy is mostly held, and would wait in vain."""
    alone = [copy for copy in world.copies if not any(copy.writer in twin for twin in twins)] or world.copies
    for _ in range(max(_AMBUSHES, len(world.copies) // 4)):
        state, do = rng.choice(_TRAPS)
        copy = rng.choice(alone)
        at = rng.randrange(10 * SECOND, ACTIVE_NS - MINUTE)
        world.after(at, partial(_lie_in_wait, world, copy, state, partial(do, world, copy)))
    if rng.random() < 0.7:
        copy = rng.choice(alone)
        at = rng.choice((rng.randrange(10 * SECOND, ACTIVE_NS // 2), ACTIVE_NS + MINUTE))
        world.after(at, partial(_lie_in_wait, world, copy, State.LIVE, partial(world.burst, copy)))


def _lie_in_wait(world: World, copy: Copy, state: State, do: Callable[[], None]) -> None:
    """And see to it that the site comes to that state."""
    world.ambush(copy, state, do)
    if state is State.QUARANTINED:
        world.hold(copy)
        return
    if copy.writer in world.held():
        world.count("a person released a site")
        world.release(copy.writer)
    if state is not State.LIVE:
        world.partition(copy, SECOND)


def _dark(world: World, copy: Copy) -> None:
    world.half_open(copy, "down", 90 * SECOND)


def _cut(world: World, copy: Copy) -> None:
    world.partition(copy, 3 * SECOND)


_AMBUSHES = 6
_SITES_PER_TWIN = 16
_TRAPS: tuple[tuple[State, Callable[[World, Copy], None]], ...] = (
    (State.RETURNING, _cut),
    (State.REPLAYING, _cut),
    *[(State.REPLAYING, _dark)] * 6,
    *[(State.LIVE, _dark)] * 3,
    *[(State.QUARANTINED, _dark)] * 4,
)

Fault = Callable[[World, random.Random, Copy], None]


def _partition(world: World, rng: random.Random, copy: Copy) -> None:
    world.partition(copy, rng.choice((SECOND, 5 * SECOND, MINUTE, 2 * MINUTE, HOUR)))


def _slow(world: World, rng: random.Random, copy: Copy) -> None:
    world.degrade(copy, Quality(delay_ns=2 * SECOND, jitter_ns=SECOND, bytes_per_s=1_200), MINUTE)


def _lossy(world: World, rng: random.Random, copy: Copy) -> None:
    world.degrade(copy, Quality(loss=0.3, twice=0.2, delay_ns=300 * MS, jitter_ns=300 * MS), MINUTE)


def _half(world: World, rng: random.Random, copy: Copy) -> None:
    world.half_open(copy, rng.choice(("up", "down")), rng.choice((5 * SECOND, 90 * SECOND)))


def _kill(world: World, rng: random.Random, copy: Copy) -> None:
    for _ in range(3):
        world.kill_soon(rng.choice(("site", "hub")), before_commit=rng.random() < 0.5)


def _cut_write(world: World, rng: random.Random, copy: Copy) -> None:
    world.write(copy, 2, killed=True)


def _clock(world: World, rng: random.Random, copy: Copy) -> None:
    who = None if rng.random() < 0.2 else copy
    world.clock_jump(who, rng.choice(CLOCKS_NS))
    world.after(rng.randrange(MINUTE), lambda: world.clock_jump(who, 0))


def _falls(world: World, rng: random.Random, copy: Copy) -> None:
    world.falls(rng.choice(("site", "hub")))


def _reset(world: World, rng: random.Random, copy: Copy) -> None:
    world.reset(copy)


def _held(world: World, rng: random.Random, copy: Copy) -> None:
    world.hold(copy)


_FAULTS: tuple[Fault, ...] = (_partition, _held, _held, _slow, _lossy, _half, _kill, _cut_write, _clock, _falls, _reset)
