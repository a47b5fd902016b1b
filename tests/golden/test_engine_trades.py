"""Trades and bars of ESU4 that the venue's vendor published, from the T records of its best-quote file.

Four minutes exist in three schemas: mbp-1 (quotes and trades), trades, ohlcv-1m. The T records of the first, written
as MBO records and taken through the engine, must give the second record by record and the third bar by bar.
"""

import databento
import numpy as np
import pytest

from engine.engine import Engine, EngineConfig
from runtime.codec import encode_rows
from schemas.columns import slice_table
from schemas.envelope import Envelope, crc32
from schemas.mbo import MBO_DTYPE, MBO_RTYPE
from schemas.message import Message
from schemas.trades import COLUMNS as TRADE_COLUMNS
from schemas.units import UNDEF_PRICE
from streams.build_bars import BarsReducer
from tests.naive import compare

pytestmark = pytest.mark.data

TICK = 250_000_000
SECOND = 10**9
MINUTE = 60 * SECOND
OHLCV = ("ts_start_ns", "open_px", "high_px", "low_px", "close_px", "volume_sz")
SIGN = {b"B": 1, b"A": -1, b"N": 0}


def read(data_dir, name):
    return databento.DBNStore.from_file(data_dir / "dbn" / name).to_ndarray()


@pytest.fixture(scope="module")
def quotes(data_dir):
    """All mbp-1 records."""
    return read(data_dir, "naut_futures_mbp-1_20240701.dbn.zst")


@pytest.fixture(scope="module")
def published(data_dir):
    """The trades file."""
    return read(data_dir, "futures_trades_2024-07-01T23-58_2024-07-02T00-02.dbn.zst")


@pytest.fixture(scope="module")
def bars(data_dir, quotes):
    """The one-minute bars of the instrument and the minutes that the quotes cover."""
    found = read(data_dir, "futures_ohlcv-1m_2024-07-01T23-40_2024-07-02T00-10.dbn.zst")
    first = quotes["ts_event"].min() // MINUTE * MINUTE
    inside = (found["ts_event"] >= first) & (found["ts_event"] <= quotes["ts_event"].max())
    return found[inside & (found["instrument_id"] == quotes["instrument_id"][0])]


def as_mbo(quotes):
    """The T records of an mbp-1 file as MBO records."""
    trades = quotes[quotes["action"] == b"T"]
    out = np.zeros(len(trades), MBO_DTYPE)
    for name in set(MBO_DTYPE.names) & set(trades.dtype.names):
        out[name] = trades[name]
    out["length"], out["rtype"] = 14, MBO_RTYPE
    return out


def run(records, cell_ns):
    engine, outputs, start, done = Engine(EngineConfig(tick_px=TICK, cell_ns=cell_ns)), [], 0, False
    while start < len(records):
        output, start = engine.apply(records, start)
        outputs.append(output)
    while not done:
        output, done = engine.flush()
        outputs.append(output)
    assert set(engine.counters.values()) == {0}
    return compare.bin_table(outputs, 50), compare.trade_table(outputs)


def test_every_trade_is_the_published_one(quotes, published):
    _, trades = run(as_mbo(quotes), SECOND)
    assert len(published) == len(trades["px"]) == 120
    assert trades["ts_ns"].tolist() == published["ts_event"].tolist()
    assert trades["px"].tolist() == published["price"].tolist()
    assert trades["sz"].tolist() == published["size"].tolist()
    assert trades["sequence"].tolist() == published["sequence"].tolist()
    assert trades["side"].tolist() == [SIGN[bytes(side)] for side in published["side"]]
    assert set(trades["best_bid_px"]) == set(trades["best_ask_px"]) == {UNDEF_PRICE}, "there is no book"


@pytest.mark.parametrize("cell_ns", [SECOND // 10, SECOND, 7 * SECOND, MINUTE])
def test_statistics_of_bins_are_those_of_the_published_trades(quotes, published, cell_ns):
    table, _ = run(as_mbo(quotes), cell_ns)
    seq = (published["ts_event"] // cell_ns).astype(np.int64)
    busy = table["trade_count"] > 0
    assert table["bin_seq"][busy].tolist() == sorted(set(seq.tolist()))
    for i in np.flatnonzero(busy):
        mine = published[seq == table["bin_seq"][i]]
        sizes = {s: int(mine["size"][mine["side"] == s].sum()) for s in (b"B", b"A", b"N")}
        assert table["trade_count"][i] == len(mine)
        assert [table[f"trade_{n}_sz"][i] for n in ("buy", "sell", "none")] == list(sizes.values())
        assert table["last_trade_px"][i] == mine["price"][-1]
        notional = sum(int(px) * int(size) for px, size in zip(mine["price"], mine["size"], strict=True)) / 1e9
        assert table["trade_notional"][i] == notional, "quarters of a dollar are exact in binary"


@pytest.mark.parametrize("cell_ns", [SECOND // 10, SECOND, 6 * SECOND, MINUTE])
def test_bars_follow_from_bins_and_trades(quotes, bars, cell_ns):
    table, trades = run(as_mbo(quotes), cell_ns)
    assert len(bars) == 4
    for bar in bars:
        minute = int(bar["ts_event"]) // MINUTE
        px = trades["px"][trades["ts_ns"] // MINUTE == minute]
        assert (px[0], px.max(), px.min(), px[-1]) == (bar["open"], bar["high"], bar["low"], bar["close"])
        inside = table["ts_start_ns"] // MINUTE == minute
        assert sum(int(table[f"trade_{n}_sz"][inside].sum()) for n in ("buy", "sell", "none")) == bar["volume"]
        assert int(table["trade_count"][inside].sum()) == len(px)
        assert table["last_trade_px"][inside][-1] == bar["close"]


@pytest.mark.parametrize("block", [1, 7, 120])
def test_bars_of_the_stage_are_the_published_ones(quotes, bars, block):
    _, trades = run(as_mbo(quotes), SECOND)
    stage, made = BarsReducer([MINUTE]), []
    for start in (*range(0, len(trades["px"]), block), None):
        rows = slice_table(trades, start or 0, 0 if start is None else start + block)
        value, count = encode_rows(rows, TRADE_COLUMNS), len(rows["px"])
        kind, t = ("data", int(rows["ts_ns"][-1])) if count else ("end", 0)
        envelope = Envelope(kind, "trades", count=count, crc32=crc32(value), t=t)
        found = stage.apply(Message("t.main.trades.v1", 0, 0, 0, "ES", value, envelope))
        made += [row for rows in found for row in zip(*(rows.table[n].tolist() for n in OHLCV), strict=True)]
    assert made == [(*(int(bar[n]) for n in ("ts_event", "open", "high", "low", "close", "volume")),) for bar in bars]
