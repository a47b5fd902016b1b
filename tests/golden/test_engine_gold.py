"""Gold of real days against figures that another implementation of the same rules found."""

import numpy as np
import pytest

from engine.engine import Engine, EngineConfig
from engine.gold import Gold, GoldConfig
from schemas import bins, gold
from schemas.columns import concat_tables, slice_table
from tests.golden.read_dbn import read_mbo
from tests.naive.gold import NaiveGold

pytestmark = pytest.mark.data

RADIUS = 50
CELL_NS = 100_000_000
ESH4 = {
    "pressure": 284460.249018,
    "vacuum": 292696.624800,
    "composite": 86600.7888771,
    "flow_score": -4732.21091,
    "state5": {-2: 13000, -1: 9478, 0: 1054471, 1: 11300, 2: 14671},
}
AAPL = {
    "pressure": 21203766.9258,
    "vacuum": 22700753.4630,
    "composite": -255259.678178,
    "flow_score": -3275.07241,
    "state5": {-2: 131350, -1: 93225, 0: 1059534, 1: 94100, 2: 143053},
}
TOLERANCE = {"pressure": 1e-11, "vacuum": 1e-11, "composite": 1e-11, "flow_score": 1e-8}
"""Relative, as far as the figures have digits; the flow score's have six that are certain, and agree in more."""


@pytest.fixture(scope="module", params=["esh4", "aapl"])
def day(request):
    """Figures, tick size, rows of bins, rows of gold taken block by block as the engine gives them."""
    figures, tick_px = {"esh4": (ESH4, 250_000_000), "aapl": (AAPL, 10_000_000)}[request.param]
    records = read_mbo(request.getfixturevalue(request.param))
    engine = Engine(EngineConfig(tick_px=tick_px, radius=RADIUS))
    reducer = Gold(GoldConfig(), CELL_NS, tick_px, RADIUS)
    tables, outputs = [], []

    def take(output):
        tables.append(output.bins)
        outputs.append(reducer.apply(output.bins))

    start, done = 0, False
    while start < len(records):
        output, start = engine.apply(records, start)
        take(output)
    while not done:
        output, done = engine.flush()
        take(output)
    table = concat_tables(tables, bins.engine_columns(RADIUS))
    return figures, tick_px, table, concat_tables(outputs, gold.columns(RADIUS))


def test_sums(day):
    figures, _, _, found = day
    for name, tolerance in TOLERANCE.items():
        assert found[name].sum() == pytest.approx(figures[name], rel=tolerance), name


def test_cells_by_state5(day):
    figures, _, _, found = day
    codes, cells = np.unique(found["state5"], return_counts=True)
    assert dict(zip(codes.tolist(), cells.tolist(), strict=True)) == figures["state5"]


def test_every_bin_has_gold(day):
    _, _, table, found = day
    assert found["gold_valid"].all()
    assert np.array_equal(found["bin_seq"], table["bin_seq"])


def test_cells_that_the_oracle_steps_through(day):
    """The first bins, past a full window of the score; a whole day takes the oracle a minute."""
    _, tick_px, table, found = day
    first = slice_table(table, 0, 360)
    rows = NaiveGold(GoldConfig(), CELL_NS, tick_px, RADIUS).apply(first)
    for name in gold.FLOAT_VECTORS:
        expected = np.array([row[name] for row in rows])
        scale = np.abs(expected).max()
        assert np.abs(found[name][:360] - expected).max() <= 1e-9 * scale, name
    assert np.array_equal(found["state5"][:360], [row["state5"] for row in rows])


def test_cuts_and_restores_do_not_show(day):
    _, tick_px, table, found = day
    pieces, outputs, start = Gold(GoldConfig(), CELL_NS, tick_px, RADIUS), [], 0
    for rows in (1, 74, 0, 1, 300, 1, 1, 500, 41):
        outputs.append(pieces.apply(slice_table(table, start, start + rows)))
        pieces = Gold.restore(pieces.snapshot())
        start += rows
    for name, column in concat_tables(outputs, gold.columns(RADIUS)).items():
        assert column.tobytes() == found[name][:start].tobytes(), name
