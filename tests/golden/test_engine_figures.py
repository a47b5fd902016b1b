"""Real days against figures that another implementation of the same rules found."""

import numpy as np
import pytest

from engine.engine import Engine, EngineConfig
from schemas import bins
from tests.golden.read_dbn import read_mbo
from tests.naive import compare

pytestmark = pytest.mark.data

ESH4 = {
    "records": 68792,
    "orders": 11217,
    "bid_levels": 922,
    "ask_levels": 565,
    "rows": 10920,
    "busy": 8307,
    "first": 17034624000,
    "last": 17035487994,
    "bid": (4810000000000, 22, 22),
    "ask": (4810250000000, 28, 18),
    "trades": 2973,
    "trade_sizes": (5322, 4526, 44),
    "trade_notional": 47567885,
    "ofi": 1668,
    "moves": (522, 535),
    "sums": {
        "add_mass": 5159654.06583,
        "pull_mass": 4085421.26626,
        "fill_mass": 891497.807998,
        "rest_depth": 61484100,
        "v_add": 227487.902191,
        "a_pull": 6819.95821435,
        "j_bid_depth": 37.4947324462,
    },
    "last_event_id": 34792300327,
    "mbp10": (37114, 2834),
    "digest": "d07527ebc365eacd62e88be4a937ea176c2e6e3c5d503799dd0929de946ed9c6",
}
AAPL = {
    "records": 100176,
    "orders": 442,
    "bid_levels": 148,
    "ask_levels": 130,
    "rows": 15062,
    "busy": 14795,
    "first": 13402854000,
    "last": 13402889998,
    "bid": (585690000000, 10, 1),
    "ask": (585950000000, 100, 1),
    "trades": 6268,
    "trade_sizes": (197061, 153433, 183135),
    "trade_notional": 312692129.61,
    "ofi": -64548,
    "moves": (16944, 16080),
    "sums": {
        "add_mass": 403814274.989,
        "pull_mass": 364837322.990,
        "fill_mass": 42885885.6195,
        "rest_depth": 83603169,
        "v_add": 18118095.0819,
        "a_pull": 532870.549994,
        "j_bid_depth": -1431.87126767,
    },
    "last_event_id": 76611944613,
    "mbp10": (72909, 6268),
    "digest": "0ba3b7f77c98c8852d2beaa89d252be53a9694d27841b8dd3aa2373eb6037762",
}
VALID = 2


def replay(engine, *days):
    outputs = []
    for records in days:
        start = 0
        while start < len(records):
            output, start = engine.apply(records, start)
            outputs.append(output)
    done = False
    while not done:
        output, done = engine.flush()
        outputs.append(output)
    return outputs


@pytest.fixture(scope="module", params=["esh4", "aapl"])
def run(request):
    """Figures, engine after the whole file, bins, trades, MBP-10 records."""
    figures, tick_px = {"esh4": (ESH4, 250_000_000), "aapl": (AAPL, 10_000_000)}[request.param]
    engine = Engine(EngineConfig(tick_px=tick_px, mbp10=True))
    outputs = replay(engine, read_mbo(request.getfixturevalue(request.param)))
    table = bins.with_rest_depth(compare.bin_table(outputs, 50))
    return figures, engine, table, compare.trade_table(outputs), compare.mbp10_rows(outputs)


def test_book_at_the_end(run):
    figures, engine, *_ = run
    for name in ("records", "orders", "bid_levels", "ask_levels"):
        assert getattr(engine, name) == figures[name], name
    assert (engine.best_bid_px, engine.best_bid_sz, engine.best_bid_ct) == figures["bid"]
    assert (engine.best_ask_px, engine.best_ask_sz, engine.best_ask_ct) == figures["ask"]
    assert engine.digest() == figures["digest"]
    assert set(engine.counters.values()) == {0}


def test_bins_emitted(run):
    figures, engine, table, *_ = run
    assert len(table["bin_seq"]) == engine.bins_emitted == figures["rows"]
    assert int((table["event_count"] > 0).sum()) == figures["busy"]
    assert (table["bin_seq"][0], table["bin_seq"][-1]) == (figures["first"], figures["last"])
    assert set(table["book_state"]) == {VALID}
    assert int(table["event_count"].sum()) == figures["records"]


def test_trades_and_imbalance(run):
    figures, _, table, trades, _ = run
    assert len(trades["px"]) == int(table["trade_count"].sum()) == figures["trades"]
    names = ("trade_buy_sz", "trade_sell_sz", "trade_none_sz")
    assert tuple(int(table[n].sum()) for n in names) == figures["trade_sizes"]
    assert table["trade_notional"].sum() == pytest.approx(figures["trade_notional"], rel=1e-12)
    assert table["ofi"].sum() == figures["ofi"]
    assert tuple(int(abs(table[f"best_{s}_move"]).sum()) for s in ("bid", "ask")) == figures["moves"]


def test_grid_sums(run):
    figures, _, table, *_ = run
    for name, expected in figures["sums"].items():
        assert table[name].sum() == pytest.approx(expected, rel=1e-10), name
    assert int(table["last_event_id"].sum()) == figures["last_event_id"]


def test_mbp10_records(run):
    figures, _, _, _, records = run
    assert (len(records), int((records["action"] == b"T").sum())) == figures["mbp10"]


def test_two_days_in_order_double_nothing(data_dir, esh4):
    engine = Engine(EngineConfig(tick_px=250_000_000, mbp10=True))
    first = read_mbo(data_dir / "dbn" / "esh4-glbx-mdp3-20231224.mbo.dbn.zst")
    replay(engine, first)
    assert engine.orders == len(first) == 8725
    replay(engine, read_mbo(esh4))
    assert (engine.orders, engine.bid_levels, engine.ask_levels) == (11217, 922, 565)
    assert engine.digest() == ESH4["digest"]
    assert set(engine.counters.values()) == {0}


def test_cuts_restores_and_dense_bins_do_not_change_values(esh4):
    records = read_mbo(esh4)[:30_000]
    config = EngineConfig(tick_px=250_000_000, mbp10=True)
    whole = replay(Engine(config), records)
    cut, outputs = Engine(config), []
    for block in np.array_split(records, 37):
        start = 0
        while start < len(block):
            output, start = cut.apply(block, start, rows_max=7)
            outputs.append(output)
        cut = Engine.restore(cut.snapshot())
    outputs += replay(cut)
    found = compare.bin_table(outputs, 50)
    for name, column in compare.bin_table(whole, 50).items():
        assert column.tobytes() == found[name].tobytes(), name
    assert compare.mbp10_rows(whole).tobytes() == compare.mbp10_rows(outputs).tobytes()
