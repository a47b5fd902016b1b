"""What an engine says of itself, and the edges of its calls."""

import numpy as np
import pytest

from engine.engine import Engine, EngineConfig
from schemas.mbo import F_LAST, F_SNAPSHOT, MBO_DTYPE
from schemas.units import UNDEF_PRICE

TICK = 250_000_000
SECOND = 10**9
CELL = 100_000_000
VALID = 2


def adds(*rows):
    """Adds from (side, price in ticks, size, t_ns, flags), ids and sequence numbers from 1."""
    out = np.zeros(len(rows), MBO_DTYPE)
    out["length"], out["rtype"], out["action"] = 14, 160, b"A"
    for number, (record, (side, px, size, t, flags)) in enumerate(zip(out, rows, strict=True), 1):
        record["order_id"] = record["sequence"] = number
        record["side"], record["price"], record["size"], record["flags"] = side, px * TICK, size, flags
        record["ts_event"] = record["ts_recv"] = t
    return out


def test_best_quotes_on_both_sides():
    engine = Engine(EngineConfig(tick_px=TICK))
    assert (engine.best_bid_ct, engine.best_ask_sz, engine.best_ask_ct, engine.last_sequence) == (0, 0, 0, 0)
    engine.apply(adds((b"A", 12, 5, SECOND, F_LAST), (b"A", 12, 2, SECOND, F_LAST), (b"B", 10, 4, SECOND, F_LAST)))
    assert (engine.best_ask_px, engine.best_ask_sz, engine.best_ask_ct) == (12 * TICK, 7, 2)
    assert (engine.best_bid_px, engine.best_bid_sz, engine.best_bid_ct) == (10 * TICK, 4, 1)
    assert (engine.last_sequence, engine.records, engine.bins_emitted, engine.epoch) == (3, 3, 0, 0)


@pytest.mark.parametrize("t_ns", [-1, 1 << 62])
def test_a_clock_outside_its_range_is_refused(t_ns):
    engine = Engine(EngineConfig(tick_px=TICK))
    before = engine.snapshot()
    with pytest.raises(ValueError, match="t_ns"):
        engine.advance(t_ns)
    assert engine.snapshot() == before


def test_a_clock_that_goes_back_is_ignored():
    engine = Engine(EngineConfig(tick_px=TICK))
    engine.advance(5 * SECOND)
    assert engine.advance(3 * SECOND)[1]
    assert engine.t_ns == 5 * SECOND


def test_a_call_needs_room_for_a_row():
    engine = Engine(EngineConfig(tick_px=TICK))
    with pytest.raises(ValueError, match="rows_max"):
        engine.apply(adds((b"B", 10, 1, SECOND, F_LAST)), 0, 0)


def test_a_snapshot_ends_before_a_new_session_and_before_a_flush():
    """Its last bin is emitted as VALID, with depths, though no F_LAST came."""
    for later in ("session", "flush"):
        engine = Engine(EngineConfig(tick_px=TICK))
        engine.apply(adds((b"B", 10, 4, SECOND, F_SNAPSHOT), (b"A", 11, 5, SECOND, F_SNAPSHOT)))
        if later == "flush":
            output, _ = engine.flush()
        else:
            output, _ = engine.apply(adds((b"B", 10, 4, SECOND + 8 * 86_400 * SECOND, F_LAST)))
        assert output.bins["book_state"].tolist() == [VALID]
        assert output.bins["bid_depth"].sum() == 4
        assert output.bins["ask_depth"].sum() == 5


def test_a_clock_a_week_ahead_starts_a_session():
    engine = Engine(EngineConfig(tick_px=TICK))
    engine.apply(adds((b"B", 10, 4, SECOND, F_SNAPSHOT), (b"A", 11, 5, SECOND, F_SNAPSHOT)))
    output, done = engine.advance(SECOND + 8 * 86_400 * SECOND)
    assert done
    assert output.bins["book_state"].tolist() == [VALID]
    assert (engine.orders, engine.book_state) == (0, 0)


def test_one_row_a_call_is_enough_for_every_call():
    engine = Engine(EngineConfig(tick_px=TICK, emission="dense"))
    records, seen, start = adds((b"B", 10, 4, SECOND, F_LAST), (b"A", 11, 5, SECOND + 4 * CELL, F_LAST)), [], 0
    while start < len(records):
        output, start = engine.apply(records, start, 1)
        assert len(output.bins["bin_seq"]) <= 1
        seen += output.bins["bin_seq"].tolist()
    for call in (lambda: engine.advance(SECOND + 7 * CELL, 1), lambda: engine.flush(1)):
        done = False
        while not done:
            output, done = call()
            assert len(output.bins["bin_seq"]) <= 1
            seen += output.bins["bin_seq"].tolist()
    assert seen == list(range(10, 17))


def test_a_side_without_quotes_has_undefined_prices_in_its_bin():
    engine = Engine(EngineConfig(tick_px=TICK))
    engine.apply(adds((b"B", 10, 4, SECOND, F_LAST)))
    output, _ = engine.flush()
    row = {name: column[0] for name, column in output.bins.items()}
    assert (row["best_ask_px"], row["mid_px"], row["spot_tick"]) == (UNDEF_PRICE, UNDEF_PRICE, 0)
    assert not row["bid_depth"].any(), "without a mid there is no grid to show"


def test_a_trade_without_an_aggressor_and_a_fill_of_nothing():
    engine = Engine(EngineConfig(tick_px=TICK))
    records = adds((b"B", 10, 4, SECOND, F_LAST), (b"N", 10, 3, SECOND, 0), (b"B", 10, 2, SECOND, F_LAST))
    records["action"] = [b"A", b"T", b"F"]
    records["order_id"][2], records["price"][2] = 99, UNDEF_PRICE
    output, _ = engine.apply(records)
    assert output.trades["side"].tolist() == [0]
    output, _ = engine.flush()
    assert (output.bins["trade_none_sz"][0], output.bins["fill_count"][0]) == (3, 0)


def test_orders_are_found_while_others_leave():
    """Ids that share places in the index: many, at random, half of them leaving in random order."""
    random = np.random.default_rng(5)
    count = 450  # close below where the table grows
    records = adds(*[(b"B", 1000 + n, 1, SECOND, F_LAST) for n in range(count)])
    records["order_id"] = random.integers(0, 2**64, count, np.uint64)
    engine = Engine(EngineConfig(tick_px=TICK))
    engine.apply(records)
    left = list(records["order_id"])
    for i in random.permutation(count)[: count - 20]:
        gone = records[i : i + 1].copy()
        gone["action"] = b"C"
        engine.apply(gone)
        left.remove(gone["order_id"][0])
        assert engine.queue_position(int(gone["order_id"][0])) is None
        assert all(engine.queue_position(int(order_id)) == (0, 0) for order_id in (*left[:3], *left[-3:]))
    assert all(engine.queue_position(int(order_id)) == (0, 0) for order_id in left)
    assert engine.orders == 20


def test_ticks_far_apart_before_there_is_a_window():
    """One side alone, at ticks that any table of a power of two maps to one place."""
    ticks = [10 + (n << 20) for n in range(8)]
    engine = Engine(EngineConfig(tick_px=TICK, n_ticks=8, radius=1))
    engine.apply(adds(*[(b"B", tick, 2 + n, SECOND + n, F_LAST) for n, tick in enumerate(ticks)]))
    engine.apply(adds((b"A", ticks[-1] + 1, 50, SECOND + 9, F_LAST)))
    output, _ = engine.flush()
    assert output.bins["spot_tick"].tolist() == [ticks[-1] + 1]
    assert output.bins["bid_depth"].tolist() == [[9, 0, 0]]


def test_a_window_that_moves_while_a_snapshot_comes_in():
    engine = Engine(EngineConfig(tick_px=TICK, n_ticks=8, radius=1))
    engine.apply(adds((b"B", 10, 4, SECOND, F_LAST), (b"A", 11, 5, SECOND, F_LAST)))
    engine.advance(SECOND + CELL)
    far = adds(
        (b"B", 1000, 4, SECOND + CELL, F_SNAPSHOT),
        (b"A", 1001, 5, SECOND + CELL, F_SNAPSHOT),
        (b"A", 1001, 6, SECOND + 3 * CELL, F_SNAPSHOT | F_LAST),
    )
    output, _ = engine.apply(far)
    assert output.bins["book_state"].tolist() == [1], "SNAPSHOT at the bin's end"
    assert not output.bins["ask_depth"].any(), "no depth until the snapshot is whole"
    output, _ = engine.flush()
    assert output.bins["ask_depth"].sum() == 11
