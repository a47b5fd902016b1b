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
