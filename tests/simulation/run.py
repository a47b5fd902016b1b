"""Run seeds: `python -m tests.simulation.run --seed 17 --trace`, or many with a log (`make simulate`)."""

import argparse
import json
import sys
import time
from collections import Counter
from pathlib import Path

from tests.simulation.world import Violation, World


def run(seed, *, trace=False):
    """One seed; its world and what went wrong."""
    world = World(seed, trace=trace)
    try:
        world.run()
    except Violation as violation:
        return world, str(violation)
    return world, ""


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="first seed")
    parser.add_argument("--count", type=int, default=1, help="how many from there")
    parser.add_argument("--trace", action="store_true", help="print everything that happens")
    parser.add_argument("--tally", type=Path, help="file for what struck, as JSON")
    args = parser.parse_args()
    failed, tally, began_s = 0, Counter(), time.process_time()
    for seed in range(args.seed, args.seed + args.count):
        world, wrong = run(seed, trace=args.trace)
        tally.update(world.tally)
        if args.trace:
            for at_s, *words in world.trace:
                print(f"{at_s:12.6f}", *words)
        if wrong:
            failed += 1
            print(wrong, flush=True)
        elif (seed - args.seed + 1) % 500 == 0:
            print(f"{seed - args.seed + 1} seeds", flush=True)
    took_s = time.process_time() - began_s
    print(f"{args.count} seed(s), {failed} failed, {took_s / args.count * 1000:.0f} ms each")
    if args.count > 1:
        print(dict(sorted(tally.items())))
    if args.tally:
        args.tally.write_text(json.dumps(tally))
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
