"""Random sequences through the kernels and through the slow oracle: both must say the same.

Settings from the environment:

- ENGINE_EXAMPLES (400; CI takes 2,000): examples against the oracle; a fifth as many of cuts and restores, a tenth of
  record times.
- ENGINE_SEED (another one each time): seed of all examples. A failure prints the command that makes it again.
- ENGINE_TALLY (none): file to write counts of examples and of the hard cases in them to, JSON.

`make evidence` runs 50,000 examples and writes what they held to docs/evidence/engine-properties.txt.
"""

import json
import os
import secrets
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, note, seed, settings
from hypothesis import strategies as st

from engine.engine import Engine, EngineConfig, record_times
from schemas.mbo import MBO_DTYPE
from schemas.units import UNDEF_PRICE, UNDEF_SIZE, UNDEF_TIMESTAMP
from tests.naive import cases, compare
from tests.naive.engine import NaiveEngine

pytestmark = pytest.mark.timeout(36_000)  # 25 ms an example on a quiet core; evidence runs take tens of thousands

ROUND_EXAMPLES, ROUNDS_MAX = 200, 10
"""Examples of one round that looks for the hard cases, and rounds at most; two are nearly always enough."""
EXAMPLES = int(os.environ.get("ENGINE_EXAMPLES", "400"))
SEED = int(os.environ.get("ENGINE_SEED", secrets.randbelow(2**32)))
AGAIN = f"again with: ENGINE_SEED={SEED} ENGINE_EXAMPLES={EXAMPLES} python -m pytest tests/property -k "
TALLY: Counter = Counter()
"""Examples by test, and hard cases by name, of this process."""

START_NS = 1_700_000_000 * 10**9 + 37_000_000
TICK = 250_000_000
SECOND = 10**9
DAY = 86_400 * SECOND

SIZES = (1, 2, 3, 5, 10, 0, UNDEF_SIZE)
LARGE_SIZES = (2**31 - 1, 2**31 - 2, 2**31 - 1, 2**30, 10, 0, UNDEF_SIZE)
FLAGS = (128, 128, 128, 0, 0, 0, 16, 16 + 128, 16 + 2, 16 + 2 + 128, 4, 4 + 128, 2 + 128, 64)
SNAPSHOT_FLAGS = (32, 32, 32 + 128, 32 + 8, 32 + 4, 32 + 4 + 128)
STEPS = ("0",) * 6 + ("1ns", "3us", "1ms", "1ms", "7ms", "half", "to end", "cell", "cell", "3 cells", "40 cells")
GAPS = ("a while", "8 days")
CALLS = {"^": "advance", "!": "flush", "s": "suspect"}


def prices(draw_index):
    near = [(100 + i) * TICK for i in range(-4, 5)]
    off = [100 * TICK + 1, 100 * TICK - TICK // 2, 101 * TICK + TICK // 2, 99 * TICK - 1]
    far = [117 * TICK, 83 * TICK, 150 * TICK, 0, -5 * TICK, 10**17, -(2**63), 2**63 - 2]
    return (near * 6 + off + far + [UNDEF_PRICE])[draw_index]


NEAR_COUNT = 9 * 6 + 4
PRICE_COUNT = NEAR_COUNT + 8 + 1

configs = st.builds(
    EngineConfig,
    tick_px=st.just(TICK),
    bucket=st.sampled_from((1, 1, 2, 3)),
    cell_ns=st.sampled_from((SECOND // 10, SECOND // 10, 7_000_000, SECOND, 60 * SECOND)),
    radius=st.sampled_from((0, 3, 15)),
    n_ticks=st.sampled_from((64, 64, 128)),
    emission=st.sampled_from(("active", "dense")),
    mbp10=st.just(True),
) | st.builds(
    EngineConfig,
    tick_px=st.just(TICK),
    radius=st.sampled_from((0, 1)),
    n_ticks=st.just(8),
    mbp10=st.just(True),
)

ACTIONS = "A" * 24 + "C" * 9 + "M" * 10 + "F" * 8 + "T" * 5 + "RRN?" + "^^^!!!sg"
"""Actions of records; and ^ a clock message, ! a flush, s skipped input, g a long gap."""
SIDES = "B" * 12 + "A" * 12 + "N"
SIZE_INDEX = (0, 1, 2, 3, 4) * 6 + (5, 5, 6)
IDS, FLAG_COUNT, ODD_COUNT = 12, 80, 80
"""Flags: the first six of eighty are of a snapshot. Odd times: six of eighty."""


def make_step(fields):
    """(action, order id, side, price, size, flags, time step, odd time) of eight bytes.

    One draw of bytes instead of eight of integers: drawing took longer than both engines together, and integers come
    mostly small, so that rare flags and times were none. Each byte still shrinks by itself.
    """
    action, order_id, side, price, size, flags, step, odd = fields
    return (
        ACTIONS[action % len(ACTIONS)],
        1 + order_id % IDS,
        SIDES[side % len(SIDES)],
        price % PRICE_COUNT,
        SIZE_INDEX[size % len(SIZE_INDEX)],
        flags % FLAG_COUNT,
        STEPS[step % len(STEPS)],
        odd % ODD_COUNT,
    )


steps = st.binary(min_size=8, max_size=8).map(make_step)
plans = st.tuples(
    st.sampled_from(("any", "any", "calm", "large")),
    st.sampled_from((1, 20, 60)).flatmap(lambda n: st.lists(steps, min_size=n, max_size=n + 30)),
)
"""Kind and steps. Calm: a market that ages, without resets and odd times. Large: sizes to 2^31."""


def calmed(step):
    """The same step without resets, odd times and far prices; bids seldom above asks."""
    action, order_id, side, price, size, flags, step_name, odd = step
    action = "A" if action in "Rgs" else action
    price %= NEAR_COUNT
    if price < 9 * 6:
        price = min(price % 9, 8 - price % 9) if side == "B" else max(price % 9, 8 - price % 9)
    return action, order_id, side, price, size, 6 + flags % 70, step_name, ODD_COUNT - 1 - odd % 2


def step_ns(name, t, config):
    cell_ns = config.cell_ns
    while_cells = 60 if config.emission == "dense" else 700  # the oracle visits every bin, and shows each dense one
    return {
        "0": 0,
        "1ns": 1,
        "3us": 3_000,
        "1ms": 1_000_000,
        "7ms": 7_000_000,
        "half": cell_ns // 2,
        "to end": cell_ns - t % cell_ns,
        "cell": cell_ns,
        "3 cells": 3 * cell_ns,
        "40 cells": 40 * cell_ns,
        "a while": min(while_cells * cell_ns, 6 * DAY),
        "8 days": 8 * DAY,
    }[name]


def make_record(step, t, sequence, sizes):
    action, order_id, side, price, size, flags, _, odd = step
    record = np.zeros(1, MBO_DTYPE)[0]
    record["length"], record["rtype"], record["publisher_id"], record["instrument_id"] = 14, 160, 1, 7
    record["order_id"], record["price"], record["size"] = order_id, prices(price), sizes[size]
    record["flags"] = SNAPSHOT_FLAGS[flags] if flags < len(SNAPSHOT_FLAGS) else FLAGS[flags % len(FLAGS)]
    record["action"], record["side"] = action.encode(), side.encode()
    record["sequence"], record["ts_in_delta"] = sequence, -sequence
    event, recv = t, t + 50
    if odd == 0:
        event = UNDEF_TIMESTAMP
    elif odd == 1:
        event = recv = UNDEF_TIMESTAMP
    elif odd == 2:
        event = t - 5_000_000
    elif odd == 3:
        event = t + 3 * SECOND
    elif odd == 4:
        event, recv = t + 20_000_000, UNDEF_TIMESTAMP
    elif odd == 5:
        event, recv = 2**63 + 5, t
    record["ts_event"], record["ts_recv"] = event, recv
    return record


def make_script(plan, config):
    """The plan as calls: ("records", array), ("advance", t), ("flush",), ("suspect",)."""
    script, pending, t, placed = [], [], START_NS, {}
    kind, steps_drawn = plan
    for sequence, step in enumerate(map(calmed, steps_drawn) if kind == "calm" else steps_drawn):
        action, order_id, side, price, size, flags, step_name, odd = step
        if action == "g":
            t += step_ns(GAPS[order_id % 2], t, config)
            continue
        t += step_ns(step_name, t, config)
        if action in CALLS:
            if pending:
                script.append(("records", np.array(pending, MBO_DTYPE)))
                pending = []
            script.append((CALLS[action], t))
            continue
        if action == "M" and odd % 2:  # half of the modifies stay where the order was put
            side, price = placed.get(order_id, (side, price))
        if action in "AM":
            placed[order_id] = side, price
        step = action, order_id, side, price, size, flags, step_name, odd
        pending.append(make_record(step, t, sequence, LARGE_SIZES if kind == "large" else SIZES))
    if pending:
        script.append(("records", np.array(pending, MBO_DTYPE)))
    return script


def run_engine(config, script, rows_max=256, cut=None, restore_every=0):
    """All outputs of an engine; records in blocks of `cut`, now and then a fresh engine from a snapshot."""
    engine, outputs, calls = Engine(config), [], 0
    for name, argument in script:
        if name == "suspect":
            engine.mark_suspect()
        elif name in ("advance", "flush"):
            done = False
            while not done:
                output, done = engine.advance(argument, rows_max) if name == "advance" else engine.flush(rows_max)
                outputs.append(output)
        else:
            for first in range(0, len(argument), cut or len(argument)):
                block, start = argument[first : first + (cut or len(argument))], 0
                while start < len(block):
                    output, start = engine.apply(block, start, rows_max)
                    outputs.append(output)
                    calls += 1
                    if restore_every and calls % restore_every == 0:
                        engine = Engine.restore(engine.snapshot())
    return engine, outputs


def run_naive(config, script, tally):
    """The oracle after a script; what hard cases the script held is added to `tally`."""
    naive, gone = NaiveEngine(config), set()
    tally.update(cases.of_config(config))
    for name, argument in script:
        for record in argument if name == "records" else (None,):
            before = cases.watched(naive)
            if name == "records":
                tally.update(cases.of_record(naive, record, gone))
                naive.apply(record)
            else:
                tally.update(cases.of_call(naive, name))
                getattr(naive, name)(*([argument] if name == "advance" else []))
            tally.update(cases.of_book(naive, before))
    return naive


def examples(share):
    """Settings for a share of the examples."""
    return settings(
        max_examples=max(1, EXAMPLES // share),
        deadline=None,
        derandomize=False,  # hypothesis takes other examples where CI is set, whatever the seed
        suppress_health_check=list(HealthCheck),
    )


@pytest.fixture(scope="module", autouse=True)
def tally():
    """Writes the tally when all is done, if that is wanted."""
    yield
    if path := os.environ.get("ENGINE_TALLY"):
        Path(path).write_text(json.dumps(TALLY, indent=1, sort_keys=True))


@seed(SEED)
@examples(1)
@given(configs, plans)
def test_engine_says_what_the_oracle_says(config, plan):
    note(f"{AGAIN}oracle\n{plan}")
    TALLY["examples: oracle"] += 1
    script = make_script(plan, config)
    engine, outputs = run_engine(config, script)
    naive = run_naive(config, script, TALLY)

    assert engine.counters == naive.counters
    assert engine.records == naive.events
    assert engine.epoch == naive.epoch
    assert engine.t_ns == (naive.t or 0)
    assert engine.orders == len(naive.book.orders)
    assert engine.digest() == naive.digest()
    for side in "BA":
        assert [tuple(level) for level in engine.levels(side).tolist()] == naive.book.levels(side)
    for order_id in range(IDS + 2):
        assert engine.queue_position(order_id) == naive.book.queue_position(order_id)
    compare.assert_trades_equal(compare.trade_table(outputs), naive.trades)
    compare.assert_mbp10_equal(compare.mbp10_rows(outputs), naive.mbp10)
    table = compare.bin_table(outputs, config.radius)
    compare.assert_bins_equal(table, naive.rows, config.radius, naive.physics.largest)


@seed(SEED)
@examples(5)
@given(configs, plans, st.integers(1, 9), st.integers(1, 5), st.sampled_from((0, 1, 3, 7)))
def test_cuts_and_restores_do_not_show(config, plan, cut, rows_max, restore_every):
    note(f"{AGAIN}cuts\n{plan}")
    TALLY["examples: cuts and restores"] += 1
    script = make_script(plan, config)
    whole, expected = run_engine(config, script)
    pieces, found = run_engine(config, script, rows_max, cut, restore_every)

    for table in (lambda o: compare.bin_table(o, config.radius), compare.trade_table):
        ours = table(found)
        for name, column in table(expected).items():
            assert column.tobytes() == ours[name].tobytes(), name
    assert compare.mbp10_rows(expected).tobytes() == compare.mbp10_rows(found).tobytes()
    assert whole.snapshot() == pieces.snapshot()


@seed(SEED)
@examples(10)
@given(plans)
def test_record_times_are_the_engine_times(plan):
    note(f"{AGAIN}times\n{plan}")
    TALLY["examples: record times"] += 1
    config = EngineConfig(tick_px=TICK, cell_ns=SECOND, radius=0)
    records = [r for name, block in make_script(plan, config) if name == "records" for r in block]
    if not records:
        return
    records = np.array(records, MBO_DTYPE)
    engine = Engine(config)
    times = []
    for i in range(len(records)):
        start = 0
        while start < 1:
            _, start = engine.apply(records[i : i + 1], start)
        times.append(engine.t_ns)
    assert record_times(records, None, SECOND).tolist() == times
    assert record_times(records, times[-1], SECOND).tolist() == [max(times[-1], t) for t in times]


def test_random_sequences_hold_every_hard_case():
    """
    The strategies of the tests above make each named case, three times or more.

    Rounds of examples are added until they do: what a seed draws is not the same everywhere, since hypothesis also
    draws from the constants of the modules that happen to be loaded.
    """
    held = Counter()
    for number in range(ROUNDS_MAX):
        held += cases_of_a_round(number)
        missing = {name: held[name] for name in cases.CASES if held[name] < 3}
        if not missing:
            break
    assert missing == {}, f"examples that hold it, of {ROUNDS_MAX * ROUND_EXAMPLES}"
    assert set(held) <= set(cases.CASES)


def cases_of_a_round(number):
    """How many examples of a round hold each case."""
    held, last = Counter(), Counter()

    @seed(number)
    @settings(
        max_examples=ROUND_EXAMPLES,
        suppress_health_check=list(HealthCheck),
        database=None,
        deadline=None,
        derandomize=False,
        phases=[Phase.generate],
    )
    @given(configs, plans)
    def add_up(config, plan):
        last.clear()
        run_naive(config, make_script(plan, config), last)
        held.update(set(last))

    add_up()
    return held
