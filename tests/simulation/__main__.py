"""`python -m tests.simulation --seed N [--sites 50]`: one run, what it did, and what was found."""

from __future__ import annotations

import argparse
import sys

from tests.simulation.schedule import run


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seeds", type=int, default=1, help="so many, from --seed on")
    parser.add_argument("--sites", type=int, default=5)
    asked = parser.parse_args()
    failed = 0
    for seed in range(asked.seed, asked.seed + asked.seeds):
        made = run(seed, asked.sites)
        say = sys.stdout.write
        say(f"seed {seed}: {made.sites} sites, {made.events} events, trace {made.hash}\n")
        if asked.seeds == 1:
            for what, count in sorted(made.counts.items()):
                say(f"  {count:6} {what}\n")
            for (before, after), count in sorted(made.turns.items()):
                say(f"  {count:6} {before} to {after}\n")
        for problem in made.problems:
            say(f"  FOUND {problem}\n")
        if made.problems:
            failed += 1
            say(f"  again: {made.again}\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
