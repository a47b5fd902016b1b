"""Random sequences through the kernels and through the slow oracle: both must say the same.

The number of examples is ENGINE_EXAMPLES (150): a few thousand are run when kernels change.
"""

import os

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.engine import Engine, EngineConfig, record_times
from schemas.mbo import MBO_DTYPE
from schemas.units import UNDEF_PRICE, UNDEF_SIZE, UNDEF_TIMESTAMP
from tests.naive import compare
from tests.naive.engine import NaiveEngine

EXAMPLES = int(os.environ.get("ENGINE_EXAMPLES", "150"))
START_NS = 1_700_000_000 * 10**9 + 37_000_000
TICK = 250_000_000
SECOND = 10**9
DAY = 86_400 * SECOND

SIZES = (1, 2, 3, 5, 10, 0, UNDEF_SIZE, (1 << 31) - 1)
FLAGS = (128, 128, 128, 0, 0, 0, 16, 16 + 128, 16 + 2, 16 + 2 + 128, 4, 4 + 128, 2 + 128, 64)
SNAPSHOT_FLAGS = (32, 32, 32 + 128, 32 + 8, 32 + 4, 32 + 4 + 128)
STEPS = ("0",) * 6 + ("1ns", "3us", "1ms", "1ms", "7ms", "half", "to end", "cell", "cell", "3 cells", "40 cells")
RARE_STEPS = ("700 cells", "8 days")
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
    bucket=st.sampled_from((1, 1, 1, 2, 3)),
    cell_ns=st.sampled_from((SECOND // 10, SECOND // 10, 7_000_000, SECOND, 60 * SECOND)),
    radius=st.sampled_from((0, 3, 15)),
    n_ticks=st.sampled_from((64, 64, 128)),
    emission=st.sampled_from(("active", "active", "dense")),
    mbp10=st.just(True),
) | st.builds(
    EngineConfig,
    tick_px=st.just(TICK),
    radius=st.sampled_from((0, 1)),
    n_ticks=st.just(8),
    mbp10=st.just(True),
)

ACTIONS = "A" * 24 + "C" * 9 + "M" * 10 + "F" * 8 + "T" * 5 + "RN?" + "^^!sg"
"""Actions of records; and ^ a clock message, ! a flush, s skipped input, g a long gap."""

steps = st.tuples(
    st.sampled_from(ACTIONS),
    st.integers(1, 12),  # order id
    st.sampled_from("B" * 12 + "A" * 12 + "N"),
    st.integers(0, PRICE_COUNT - 1),
    st.sampled_from((0, 1, 2, 3, 4) * 5 + (5, 6, 7)),  # size
    st.integers(0, 79),  # flags; the first six of eighty are of a snapshot
    st.sampled_from(STEPS),
    st.integers(0, 79),  # odd times
)
plans = st.tuples(
    st.booleans(),  # calm: prices near each other, no resets, so that books and chains grow old
    st.sampled_from((1, 20, 60)).flatmap(lambda n: st.lists(steps, min_size=n, max_size=n + 30)),
)


def calmed(step):
    """The same step without resets, odd times and far prices."""
    action, order_id, side, price, size, flags, step_name, _ = step
    return ("A" if action in "Rgs" else action, order_id, side, price % NEAR_COUNT, size, 6 + flags % 70, step_name, 79)


def step_ns(name, t, cell_ns):
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
        "700 cells": min(700 * cell_ns, 6 * DAY),
        "8 days": 8 * DAY,
    }[name]


def make_record(step, t, sequence):
    action, order_id, side, price, size, flags, _, odd = step
    record = np.zeros(1, MBO_DTYPE)[0]
    record["length"], record["rtype"], record["publisher_id"], record["instrument_id"] = 14, 160, 1, 7
    record["order_id"], record["price"], record["size"] = order_id, prices(price), SIZES[size]
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


def make_script(plan, cell_ns):
    """The plan as calls: ("records", array), ("advance", t), ("flush",), ("suspect",)."""
    script, pending, t = [], [], START_NS
    calm, steps_drawn = plan
    for sequence, step in enumerate(map(calmed, steps_drawn) if calm else steps_drawn):
        if step[0] == "g":
            t += step_ns(RARE_STEPS[step[1] % 2], t, cell_ns)
            continue
        t += step_ns(step[6], t, cell_ns)
        if step[0] not in CALLS:
            pending.append(make_record(step, t, sequence))
            continue
        if pending:
            script.append(("records", np.array(pending, MBO_DTYPE)))
            pending = []
        script.append((CALLS[step[0]], t))
    if pending:
        script.append(("records", np.array(pending, MBO_DTYPE)))
    return script


def run_engine(config, script, rows_max=256, cut=None, restore=False):
    """All outputs of an engine; records in blocks of `cut`, a fresh engine from a snapshot after each if `restore`."""
    engine, outputs = Engine(config), []
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
                    if restore:
                        engine = Engine.restore(engine.snapshot())
    return engine, outputs


def run_naive(config, script):
    naive = NaiveEngine(config)
    for name, argument in script:
        if name == "advance":
            naive.advance(argument)
        elif name == "flush":
            naive.flush()
        elif name == "suspect":
            naive.suspect()
        else:
            for record in argument:
                naive.apply(record)
    return naive


common = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))


@common
@given(configs, plans)
def test_engine_says_what_the_oracle_says(config, plan):
    script = make_script(plan, config.cell_ns)
    engine, outputs = run_engine(config, script)
    naive = run_naive(config, script)

    assert engine.counters == naive.counters
    assert engine.records == naive.events
    assert engine.epoch == naive.epoch
    assert engine.t_ns == (naive.t or 0)
    assert engine.orders == len(naive.book.orders)
    assert engine.digest() == naive.digest()
    for side in "BA":
        assert [tuple(level) for level in engine.levels(side).tolist()] == naive.book.levels(side)
    for order_id in range(10):
        assert engine.queue_position(order_id) == naive.book.queue_position(order_id)
    compare.assert_trades_equal(compare.trade_table(outputs), naive.trades)
    compare.assert_mbp10_equal(compare.mbp10_rows(outputs), naive.mbp10)
    compare.assert_bins_equal(compare.bin_table(outputs, config.radius), naive.rows, config.radius)


@common
@given(configs, plans, st.integers(1, 9), st.integers(1, 5), st.booleans())
def test_cuts_and_restores_do_not_show(config, plan, cut, rows_max, restore):
    script = make_script(plan, config.cell_ns)
    whole, expected = run_engine(config, script)
    pieces, found = run_engine(config, script, rows_max, cut, restore)

    for table in (lambda o: compare.bin_table(o, config.radius), compare.trade_table):
        for name, column in table(expected).items():
            assert column.tobytes() == table(found)[name].tobytes(), name
    assert compare.mbp10_rows(expected).tobytes() == compare.mbp10_rows(found).tobytes()
    assert whole.snapshot() == pieces.snapshot()


@common
@given(plans)
def test_record_times_are_the_engine_times(plan):
    records = [r for name, block in make_script(plan, SECOND) if name == "records" for r in block]
    if not records:
        return
    records = np.array(records, MBO_DTYPE)
    engine = Engine(EngineConfig(tick_px=TICK, cell_ns=SECOND))
    times = []
    for i in range(len(records)):
        start = 0
        while start < 1:
            _, start = engine.apply(records[i : i + 1], start)
        times.append(engine.t_ns)
    assert record_times(records, None, SECOND).tolist() == times
    assert record_times(records, times[-1], SECOND).tolist() == [max(times[-1], t) for t in times]
