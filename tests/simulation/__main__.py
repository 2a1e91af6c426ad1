"""Hub and sites in virtual time: one seed in full, several in short, or ascending seeds for a given time and one summary.

python -m tests.simulation --seed N [--sites 50]
python -m tests.simulation --minutes 60 [--seed N]
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from itertools import count

from sync.protocol import TABLE, Cause, State
from tests.simulation.schedule import Result, run, sites_of

say = sys.stdout.write


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.simulation", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=1, help="the first (or only) seed")
    parser.add_argument("--seeds", type=int, default=1, help="so many, from --seed on")
    parser.add_argument("--minutes", type=float, help="so long, from --seed on, on every core")
    parser.add_argument("--sites", type=int, help="of each run (without it, 5; with --minutes 2 to 4, now and then 50)")
    asked = parser.parse_args()
    if asked.minutes is not None:
        return 1 if _summary(asked.seed, _for_a_time(asked.seed, asked.sites, asked.minutes)) else 0
    failed = 0
    for seed in range(asked.seed, asked.seed + asked.seeds):
        made = run(seed, asked.sites or 5)
        _show(made)
        if asked.seeds == 1:
            _counted(Counter(made.counts), Counter(made.turns))
        failed += bool(made.problems)
    return 1 if failed else 0


def _show(made: Result) -> None:
    say(f"seed {made.seed}: {made.sites} sites, {made.events} events, trace {made.hash}\n")
    for problem in made.problems:
        say(f"  FOUND {problem}\n")
    if made.problems:
        say(f"  again: {made.again}\n")


def _counted(counts: Counter[str], turns: Counter[tuple[State, Cause]]) -> None:
    for what, times in sorted(counts.items()):
        say(f"  {times:9,} {what}\n")
    for (before, cause), after in TABLE.items():
        say(f"  {turns[before, cause]:9,} {before} to {after}: {cause}\n")


def _for_a_time(first: int, sites: int | None, minutes: float) -> Iterator[Result]:
    """Seeds in order, each on a core of its own, until the time is over or somebody presses Ctrl-C; what was begun then
    is finished."""
    over = time.monotonic() + minutes * 60
    cores = os.cpu_count() or 1
    seeds, running = count(first), set[Future[Result]]()
    stopped = [False]
    signal.signal(signal.SIGINT, lambda *_: stopped.__setitem__(0, True))
    with ProcessPoolExecutor(cores, initializer=signal.signal, initargs=(signal.SIGINT, signal.SIG_IGN)) as pool:
        while True:
            while len(running) < cores and time.monotonic() < over and not stopped[0]:
                seed = next(seeds)
                running.add(pool.submit(_tried, seed, sites or sites_of(seed)))
            if not running:
                return
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for one in done:
                yield one.result()


def _tried(seed: int, sites: int) -> Result:
    """A run that raises is a failed one, and no reason to end all others."""
    try:
        return run(seed, sites)
    except Exception as error:  # noqa: BLE001
        return Result(seed, sites, "", (f"raised {type(error).__name__}: {error}",), {}, {}, 0)


def _summary(first: int, results: Iterable[Result]) -> int:
    """Failures as they come, and one summary; how many there were."""
    began = time.monotonic()
    counts, turns = Counter[str](), Counter[tuple[State, Cause]]()
    failed: list[Result] = []
    seeds = events = sites = 0
    for made in results:
        seeds, events, sites = seeds + 1, events + made.events, sites + made.sites
        counts.update(made.counts)
        turns.update(made.turns)
        if made.problems:
            failed.append(made)
            _show(made)
        if seeds % 100 == 0:
            say(f"{seeds:,} seeds in {(time.monotonic() - began) / 60:.0f} min, {len(failed)} failed\n")
            sys.stdout.flush()
    say(f"\n{seeds:,} seeds ({first} to {first + seeds - 1}) in {(time.monotonic() - began) / 60:.1f} min: ")
    say(f"{sites:,} sites, {events:,} events, {len(failed)} failed\n")
    _counted(counts, turns)
    for made in sorted(failed):
        say(f"FAILED  {made.again}: {'; '.join(made.problems)}\n")
    return len(failed)


if __name__ == "__main__":
    sys.exit(main())
