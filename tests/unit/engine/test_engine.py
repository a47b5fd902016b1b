"""The public class: what it refuses, how it grows, what it says before and between records."""

import numba
import numpy as np
import pytest

from engine.engine import Engine, EngineConfig
from engine.errors import BadRecordsError, ConfigError, SnapshotError
from schemas.mbo import F_LAST, F_MBP, F_SNAPSHOT, MBO_DTYPE
from schemas.units import UNDEF_PRICE, UNDEF_TIMESTAMP

TICK = 1_000_000_000
SECOND = 10**9
CELL = 100_000_000


def records(*rows):
    """Records from (action, side, id, price in ticks, size, t_ns, flags)."""
    out = np.zeros(len(rows), MBO_DTYPE)
    out["length"], out["rtype"], out["instrument_id"] = 14, 160, 3
    for record, (action, side, order_id, px, size, t, flags) in zip(out, rows, strict=True):
        record["action"], record["side"] = action, side
        record["order_id"], record["price"], record["size"] = order_id, px * TICK, size
        record["ts_event"] = record["ts_recv"] = t
        record["flags"] = flags
    return out


def two_sided(t=SECOND):
    return records((b"A", b"B", 1, 10, 5, t, F_LAST), (b"A", b"A", 2, 12, 7, t + 1, F_LAST))


def all_bins(engine, call):
    rows, done = [], False
    while not done:
        output, done = call()
        rows.append(output.bins["bin_seq"])
    return np.concatenate(rows)


def test_a_new_engine_has_seen_nothing():
    engine = Engine(EngineConfig(tick_px=TICK))
    assert (engine.t_ns, engine.records, engine.orders, engine.bins_emitted) == (0, 0, 0, 0)
    assert (engine.best_bid_px, engine.best_ask_px, engine.best_bid_sz) == (UNDEF_PRICE, UNDEF_PRICE, 0)
    assert engine.queue_position(1) is None
    output, done = engine.flush()
    assert done
    assert len(output.bins["bin_seq"]) == 0


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("tick_px", 0),
        ("bucket", 0),
        ("cell_ns", 999),
        ("n_ticks", 100),
        ("radius", 2048),
        ("emission", "some"),
        ("max_future_ns", -1),
        ("tau_v_s", 0.0),
        ("tau_mass_s", float("nan")),
    ],
)
def test_settings_outside_their_range_are_refused(setting, value):
    with pytest.raises(ConfigError) as caught:
        EngineConfig(**{"tick_px": TICK, setting: value})
    assert caught.value.setting == setting


def test_bad_records_are_refused_with_their_place_and_nothing_changes():
    engine = Engine(EngineConfig(tick_px=TICK))
    engine.apply(two_sided())
    before = engine.snapshot()
    wrong_type = two_sided(2 * SECOND)
    wrong_type["rtype"][1] = 1
    mixed = two_sided(2 * SECOND)
    mixed["instrument_id"][1] = 4
    negative = two_sided(2 * SECOND)
    negative["size"][1] = 2**32 - 5
    strided = np.zeros(4, MBO_DTYPE)[::2]
    for bad, index in ((wrong_type, 1), (negative, 1), (mixed, 1), (strided, -1), (np.zeros(3), -1), ([1], -1)):
        with pytest.raises(BadRecordsError) as caught:
            engine.apply(bad)
        assert caught.value.index == index
    with pytest.raises(IndexError):
        engine.apply(two_sided(), 3)
    assert engine.snapshot() == before


def test_read_only_and_foreign_memory_is_taken():
    blob = bytes(two_sided().tobytes())
    engine = Engine(EngineConfig(tick_px=TICK))
    engine.apply(np.frombuffer(blob, MBO_DTYPE))
    engine.apply(np.frombuffer(b"x" + blob, np.uint8)[1:].view(MBO_DTYPE))
    assert engine.records == 4


def test_tables_grow_without_a_trace():
    """Thousands of orders and levels on one side, so that no centre is known, then the other side."""
    count = 1_100 if numba.config.DISABLE_JIT else 5_000  # coverage is taken without the compiler
    worst_first = range(count - 1, -1, -1)  # each one is the new best: the short way in any ladder
    rows = [(b"A", b"B", i + 1, 10_000 - i, 1 + i % 7, SECOND + n, F_LAST) for n, i in enumerate(worst_first)]
    rows.append((b"A", b"A", count + 1, 10_001, 1, SECOND + count, F_LAST))
    rows += [(b"C", b"B", i + 1, 0, 0, 2 * SECOND + i, F_LAST) for i in range(0, 200, 2)]
    engine = Engine(EngineConfig(tick_px=TICK))
    output, consumed = engine.apply(records(*rows))
    assert consumed == len(rows)
    assert (engine.orders, engine.bid_levels, engine.ask_levels) == (count - 99, count - 100, 1)
    assert engine.best_bid_px == 9_999 * TICK
    first = {name: column[0] for name, column in output.bins.items()}
    expected = [1 + (10_000 - tick) % 7 for tick in range(first["spot_tick"] - 50, 10_001)]
    assert first["bid_depth"][: len(expected)].tolist() == expected
    restored = Engine.restore(engine.snapshot())
    assert restored.snapshot() == engine.snapshot()
    assert restored.digest() == engine.digest()


def test_fills_of_synthetic_orders_expire_with_the_bin_however_many():
    count = 200
    adds = [(b"A", b"B", i + 1, 100 - i, 10, SECOND, F_MBP) for i in range(count)]
    adds.append((b"A", b"A", count + 1, 101, 1, SECOND, F_MBP | F_LAST))
    fills = [(b"F", b"B", i + 1, 100 - i, 4, 2 * SECOND, F_MBP) for i in range(count)]
    cancels = [(b"C", b"B", i + 1, 100 - i, 4, 2 * SECOND + when, F_MBP) for i, when in ((0, 1), (1, CELL))]
    engine = Engine(EngineConfig(tick_px=TICK))
    engine.apply(records(*adds, *fills, *cancels))
    output, _ = engine.flush()
    row = {name: column[-1] for name, column in output.bins.items()}
    at = {tick: i for i, tick in enumerate(range(row["spot_tick"] - 50, row["spot_tick"] + 51))}
    assert row["pull_mass"][at[100]] == 0, "the cancel in the bin of its fill is no pull"
    assert row["pull_mass"][at[99]] > 3.9, "one bin later it is"


def test_a_long_gap_is_handed_out_in_pieces():
    engine = Engine(EngineConfig(tick_px=TICK, emission="dense"))
    engine.apply(two_sided())
    late = two_sided(2 * SECOND)
    output, consumed = engine.apply(late, 0, 4)
    assert (len(output.bins["bin_seq"]), consumed) == (4, 0)
    seen = output.bins["bin_seq"].tolist()
    while consumed < len(late):
        output, consumed = engine.apply(late, consumed, 4)
        seen += output.bins["bin_seq"].tolist()
    assert seen == list(range(10, 20))


def test_heartbeats_come_ever_more_rarely():
    engine = Engine(EngineConfig(tick_px=TICK))
    engine.apply(two_sided())
    seen = all_bins(engine, lambda: engine.advance(SECOND + 4000 * CELL, 3))
    assert np.diff(seen).tolist() == [10, 20, 40, 80, 160, 320, 600, 600, 600, 600, 600]
    assert engine.t_ns == SECOND + 4000 * CELL


def test_a_week_of_silence_starts_a_new_session():
    engine = Engine(EngineConfig(tick_px=TICK))
    engine.apply(two_sided())
    output, _ = engine.apply(two_sided(SECOND + 8 * 86_400 * SECOND))
    assert output.bins["bin_seq"].tolist() == [10]
    assert (engine.orders, engine.book_state, engine.epoch) == (2, 0, 1)


def test_a_clock_before_the_first_record_lifts_it():
    engine = Engine(EngineConfig(tick_px=TICK))
    engine.advance(5 * SECOND)
    engine.apply(two_sided())
    assert (engine.t_ns, engine.counters["late_record"]) == (5 * SECOND, 2)


def test_a_first_record_without_a_time_is_counted_nowhere():
    first = two_sided()
    first["ts_event"][0] = first["ts_recv"][0] = UNDEF_TIMESTAMP
    engine = Engine(EngineConfig(tick_px=TICK))
    engine.apply(first)
    assert (engine.records, engine.orders, set(engine.counters.values())) == (1, 1, {0})


def test_queue_position_counts_what_is_ahead():
    engine = Engine(EngineConfig(tick_px=TICK))
    engine.apply(records(*[(b"A", b"B", i, 10, 10 * i, SECOND, F_LAST) for i in (1, 2, 3)]))
    assert [engine.queue_position(i) for i in (1, 2, 3, 4)] == [(0, 0), (10, 1), (30, 2), None]
    engine.apply(records((b"M", b"B", 1, 10, 11, SECOND, F_LAST)))  # larger: to the back
    assert [engine.queue_position(i) for i in (1, 2, 3)] == [(50, 2), (0, 0), (20, 1)]


def test_skipped_input_makes_the_book_suspect_until_a_snapshot():
    engine = Engine(EngineConfig(tick_px=TICK))
    engine.apply(two_sided())
    engine.mark_suspect()
    engine.mark_suspect()
    assert (engine.book_state, engine.epoch) == (3, 1)
    engine.apply(records((b"A", b"B", 9, 10, 1, 2 * SECOND, F_SNAPSHOT | F_LAST)))
    assert (engine.book_state, engine.orders) == (2, 1)


def test_a_digest_of_an_empty_book_hashes_nothing():
    engine = Engine(EngineConfig(tick_px=TICK))
    assert engine.digest() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def test_outputs_own_their_memory():
    engine = Engine(EngineConfig(tick_px=TICK, emission="dense", mbp10=True))
    engine.apply(two_sided())
    engine.advance(2 * SECOND)
    kept, _ = engine.advance(3 * SECOND)
    before = {name: column.copy() for name, column in kept.bins.items()}
    engine.apply(two_sided(4 * SECOND))
    for name, column in kept.bins.items():
        assert np.array_equal(column, before[name]), name


@pytest.mark.parametrize("damage", ["cut", "bit", "version", "other"])
def test_damaged_snapshots_are_refused(damage):
    engine = Engine(EngineConfig(tick_px=TICK))
    engine.apply(two_sided())
    data = bytearray(engine.snapshot())
    if damage == "cut":
        del data[-100:]
    elif damage == "bit":
        data[len(data) // 2] ^= 1
    elif damage == "version":
        data[16] += 1
    else:
        data = bytearray(b"nothing of ours")
    with pytest.raises(SnapshotError):
        Engine.restore(bytes(data))
