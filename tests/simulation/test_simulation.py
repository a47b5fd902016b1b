"""Many seeds through the simulator; `SIM_SEEDS` says how many, `SIM_SEED` names one."""

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.simulation.faults import FAULTS, RATES
from tests.simulation.run import run
from tests.simulation.world import World

ROOT = Path(__file__).parent.parent.parent
SEEDS = int(os.environ.get("SIM_SEEDS", "500" if os.environ.get("CI") == "true" else "200"))
"""Seeds of an ordinary run, some 30 s, and of one in continuous integration; `make simulate` runs 10,000."""

CHUNK = 20
FIRST = [int(os.environ["SIM_SEED"])] if "SIM_SEED" in os.environ else list(range(0, SEEDS, CHUNK))


@pytest.fixture(scope="module")
def tally():
    return Counter()


ENOUGH = 200
"""Seeds in which every fault strikes."""


@pytest.mark.parametrize("first", FIRST)
def test_nothing_is_lost_or_twice_or_different_whatever_happens(first, tally):
    wrong = []
    for seed in range(first, first + 1 if "SIM_SEED" in os.environ else min(first + CHUNK, SEEDS)):
        world, what = run(seed)
        tally.update({**world.tally, "seeds": 1})
        wrong += [what] * bool(what)
    assert not wrong, "\n".join(wrong)


def test_every_fault_has_struck(tally):
    if tally["seeds"] < ENOUGH:  # asked alone, or with few seeds: it finds out by itself
        tally = sum((run(seed)[0].tally for seed in range(ENOUGH)), Counter())
    names = (
        {fault.__name__ for fault in FAULTS} | RATES.keys() | {"poison: raises", "poison: kills", "poison: stumbles"}
    )
    assert {name for name in names if not tally[name]} == set()
    assert tally["repeats in the log"] > 1000
    assert tally["skips"] > 20
    assert tally["sink: repeats"] > 20


def test_a_seed_is_the_same_run_in_every_process():
    code = "from tests.simulation.run import run; print(*[run(seed)[0].digest for seed in (3, 7, 11)])"
    found = {
        subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True, text=True, check=True,
        ).stdout
        for hash_seed in ("1", "2")
    }  # fmt: skip
    assert len(found) == 1
    assert World(3).run().digest in found.pop()


def test_input_that_a_damaged_state_needs_and_the_log_has_lost_is_refused():
    """The only end of a run that asks for people: never jumped over, and with the exact range (the world checks it)."""
    refused = [seed for seed in range(60) if World(seed, only=("trim", "damage", "stop")).run().refusal is not None]
    assert refused
