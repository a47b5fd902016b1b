"""Tapes of the simulated market through the kernels and through the slow oracle: a living book, not random records.

Snapshot, partial fills, icebergs, walls, bursts; what the property tests' short random sequences do not grow into.
"""

import numpy as np
import pytest

from connectors.market_model import SyntheticMarket
from connectors.synthetic import TICK_PX
from engine.engine import Engine, EngineConfig
from tests.naive import compare
from tests.naive.engine import NaiveEngine

START_NS = 1_700_000_000 * 10**9
RADIUS = 12


def tape(seed, records, orders, records_per_s):
    """The first records of the first instrument of a market."""
    market = SyntheticMarket(seed, 1, START_NS, records_per_s, orders)
    t_ns, pieces = START_NS, []
    while sum(map(len, pieces)) < records:
        t_ns += 10**9
        pieces.append(market.until(t_ns))
    return np.ascontiguousarray(np.concatenate(pieces)[:records])


@pytest.mark.parametrize(
    ("seed", "orders", "records_per_s", "bucket", "emission"),
    [
        (1, 40, 100.0, 1, "active"),
        (2, 150, 2_000.0, 1, "dense"),
        (3, 60, 20.0, 2, "active"),
        (4, 90, 300.0, 3, "dense"),
    ],
)
def test_engine_and_oracle_agree_on_a_living_market(seed, orders, records_per_s, bucket, emission):
    records = tape(seed, 3_000, orders, records_per_s)
    config = EngineConfig(
        tick_px=TICK_PX, bucket=bucket, radius=RADIUS, n_ticks=256, emission=emission, cell_ns=10**8, mbp10=True
    )
    engine, naive, outputs, start, done = Engine(config), NaiveEngine(config), [], 0, False
    while start < len(records):
        output, start = engine.apply(records, start)
        outputs.append(output)
    while not done:
        output, done = engine.flush()
        outputs.append(output)
    for record in records:
        naive.apply(record)
    naive.flush()

    assert {b"A", b"C", b"F", b"M", b"R", b"T"} <= set(records["action"])
    assert len(naive.trades) > 20
    assert len(naive.rows) > 5
    assert engine.counters == naive.counters
    assert engine.digest() == naive.digest()
    compare.assert_trades_equal(compare.trade_table(outputs), naive.trades)
    compare.assert_mbp10_equal(compare.mbp10_rows(outputs), naive.mbp10)
    compare.assert_bins_equal(compare.bin_table(outputs, RADIUS), naive.rows, RADIUS, naive.physics.largest)
