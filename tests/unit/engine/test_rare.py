"""What happens rarely: crowded tables, buffers that fill at an awkward moment, values that are not finite."""

import copy
import pickle

import numpy as np
import pytest

from engine import order_index
from engine.book import hint_of
from engine.engine import Engine, EngineConfig
from engine.errors import BadRecordsError, ConfigError, TooManyOrdersError
from engine.gold import GoldConfig
from engine.order_index import home
from engine.state import ADD, BID_DEPTH, A, J, V
from engine.warm import warm
from schemas.mbo import F_LAST, F_MBP, F_SNAPSHOT, MBO_DTYPE
from schemas.units import UNDEF_PRICE

TICK = 1_000_000_000
SECOND = 10**9
CELL = 100_000_000
DAY = 86_400 * SECOND


def record(action, side, order_id, px, size, t, flags=F_LAST):
    """One record; price in ticks."""
    out = np.zeros(1, MBO_DTYPE)
    out["length"], out["rtype"], out["action"], out["side"], out["flags"] = 14, 160, action, side, flags
    out["order_id"], out["size"], out["ts_event"], out["ts_recv"] = order_id, size, t, t
    out["price"] = px if px == UNDEF_PRICE else px * TICK
    return out


def feed(engine, *records):
    """Apply everything; all bins by column."""
    tables, start, joined = [], 0, np.concatenate(records)
    while start < len(joined):
        output, start = engine.apply(joined, start)
        tables.append(output.bins)
    tables.append(engine.flush()[0].bins)
    return {name: np.concatenate([table[name] for table in tables]) for name in tables[0]}


def two_sided(t=SECOND):
    return record(b"A", b"B", 1, 10, 4, t), record(b"A", b"A", 2, 12, 3, t)


def test_warming_runs_every_kernel():
    warm()
    assert GoldConfig().hash() == GoldConfig().hash()


def test_without_physics_all_but_the_vectors_is_the_same():
    records = [*two_sided(), record(b"F", b"B", 1, 10, 1, SECOND + 5), record(b"C", b"B", 1, 10, 1, SECOND + 9)]
    records += [record(b"A", b"B", 7, 9, 2, 2 * SECOND, F_SNAPSHOT), record(b"T", b"N", 0, 10, 1, 3 * SECOND)]
    full = feed(Engine(EngineConfig(tick_px=TICK)), *records)
    bare = feed(Engine(EngineConfig(tick_px=TICK, physics=False)), *records)
    vectors = {name for name, column in full.items() if column.ndim == 2 and column.shape[1] == 101}
    assert all(not bare[name].any() for name in vectors)
    assert any(full[name].any() for name in vectors)
    for name in full.keys() - vectors:
        assert np.array_equal(full[name], bare[name]), name


def test_without_physics_vectors_stay_zero_when_the_window_follows_the_market():
    engine = Engine(EngineConfig(tick_px=TICK, n_ticks=8, radius=1, physics=False))
    far = [record(b"A", b"B", 3, 500, 1, 2 * SECOND), record(b"A", b"A", 4, 502, 1, 2 * SECOND)]
    gone = [record(b"C", b"A", 2, 0, 0, 3 * SECOND), record(b"C", b"B", 1, 0, 0, 3 * SECOND)]
    table = feed(engine, *two_sided(), *far, *gone, record(b"A", b"B", 5, 499, 1, 4 * SECOND))
    assert table["spot_tick"][-1] == 501
    assert not table["bid_depth"].any()
    assert not table["ask_depth"].any()


def test_copies_and_pickles_share_nothing():
    engine = Engine(EngineConfig(tick_px=TICK, mbp10=True))
    engine.apply(np.concatenate(two_sided()))
    before = engine.snapshot()
    for other in (copy.copy(engine), copy.deepcopy(engine), pickle.loads(pickle.dumps(engine))):
        assert other.snapshot() == before
        other.apply(record(b"A", b"B", 9, 10, 1, 2 * SECOND))
        assert (other.orders, engine.orders) == (3, 2)
    assert engine.snapshot() == before


@pytest.mark.parametrize(
    ("setting", "value"),
    [("tick_px", 0.5), ("tick_px", "5"), ("bucket", 1.3), ("cell_ns", 1e6), ("radius", None), ("mbp10", 2)],
)
def test_settings_are_of_their_kind(setting, value):
    with pytest.raises(ConfigError) as caught:
        EngineConfig(**{"tick_px": TICK, setting: value})
    assert caught.value.setting == setting


def test_settings_that_are_equal_are_stored_equally():
    given = EngineConfig(tick_px=np.int64(TICK), tau_v_s=2, mbp10=np.True_)
    assert given == EngineConfig(tick_px=TICK, mbp10=True)
    assert Engine(given).snapshot() == Engine(EngineConfig(tick_px=TICK, mbp10=True)).snapshot()


def test_answers_without_rows_are_the_callers_own():
    engine = Engine(EngineConfig(tick_px=TICK))
    first, _ = engine.apply(two_sided()[0])
    first.bins.clear()
    first.trades["other"] = np.zeros(0)
    second, _ = engine.apply(two_sided()[1])
    assert "bin_seq" in second.bins
    assert "other" not in second.trades


def test_a_long_array_is_looked_at_piece_by_piece(monkeypatch):
    monkeypatch.setattr("engine.engine.RECORDS_MAX", 3)
    records = np.concatenate([record(b"A", b"B", i + 1, 10, 1, SECOND) for i in range(7)])
    records["rtype"][5] = 1
    engine = Engine(EngineConfig(tick_px=TICK))
    assert engine.apply(records)[1] == 3
    with pytest.raises(BadRecordsError) as caught:
        engine.apply(records, 3)
    assert caught.value.index == 5
    assert engine.records == 3


def test_moves_between_extreme_prices_stop_at_the_edge_of_their_column():
    engine = Engine(EngineConfig(tick_px=1))
    low, high = record(b"A", b"B", 1, 0, 1, SECOND), record(b"A", b"B", 2, 0, 1, 2 * SECOND)
    low["price"], high["price"] = -(2**63), 2**63 - 2
    table = feed(engine, low, high, record(b"C", b"B", 2, 0, 0, 3 * SECOND))
    assert table["best_bid_move"].tolist() == [0, 2**31 - 1, -(2**31 - 1)]


@pytest.mark.parametrize("table", ["orders", "places"])
def test_a_lack_of_memory_changes_nothing(monkeypatch, table):
    engine = Engine(EngineConfig(tick_px=TICK))
    room = len(engine._memory.arrays["orders"])
    engine.apply(np.concatenate([record(b"A", b"B", i + 1, 10, 1, SECOND) for i in range(room)]))
    before = engine.snapshot()

    def fail(*_):
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(f"engine.memory.{'_doubled' if table == 'orders' else '_empty_places'}", fail)
        with pytest.raises(MemoryError):
            engine.apply(record(b"A", b"B", room + 1, 10, 1, SECOND))
    assert engine.snapshot() == before
    engine.apply(record(b"A", b"B", room + 1, 10, 1, SECOND))
    assert engine.orders == room + 1


def test_trades_of_neither_side_and_fills_of_nowhere():
    engine = Engine(EngineConfig(tick_px=TICK))
    table = feed(
        engine,
        *two_sided(),
        record(b"T", b"N", 0, 11, 5, SECOND),
        record(b"F", b"B", 99, UNDEF_PRICE, 5, SECOND),
    )
    assert table["trade_none_sz"].tolist() == [5]
    assert table["fill_count"].tolist() == [0]
    assert table["event_count"].tolist() == [4]


def test_prices_that_share_a_hint_keep_their_own_levels():
    first = 1_000
    other = next(px for px in range(first + 1, 100_000) if hint_of(px * TICK) == hint_of(first * TICK))
    engine = Engine(EngineConfig(tick_px=TICK))
    for number, px in enumerate((first, other, first, other, first), 1):
        engine.apply(record(b"A", b"B", number, px, number, SECOND))
    assert [tuple(level) for level in engine.levels("B")] == [(other * TICK, 6, 2), (first * TICK, 9, 3)]


def colliding(count, bits):
    """Ids with one home in a table of 2^bits places."""
    found, wanted, order_id = [], None, 1
    while len(found) < count:
        place = home(np.uint64(order_id), bits)
        wanted = place if wanted is None else wanted
        if place == wanted:
            found.append(order_id)
        order_id += 1
    return found


@pytest.mark.parametrize("seed", range(4))
def test_ids_that_collide_are_found_until_they_are_taken_out(seed):
    """More ids with one home than the distance of an entry can tell; removal in any order keeps the others."""
    engine = Engine(EngineConfig(tick_px=TICK))
    bits = int(engine._memory.m["index_bits"])
    ids = colliding(14, bits)
    near = [i for i in range(1, 400_000) if 0 < home(np.uint64(i), bits) - home(np.uint64(ids[0]), bits) < 4][:6]
    resting = dict.fromkeys([*ids, *near])
    for number, order_id in enumerate(resting):
        engine.apply(record(b"A", b"B", order_id, 10 + number, 1 + number, SECOND))
    rng = np.random.default_rng(seed)
    for order_id in rng.permutation(list(resting)).tolist():
        assert engine.queue_position(order_id) == (0, 0)
        engine.apply(record(b"C", b"B", order_id, 0, 0, SECOND))
        del resting[order_id]
        assert engine.queue_position(order_id) is None
        assert all(engine.queue_position(left) == (0, 0) for left in resting)
    assert engine.orders == 0
    assert engine.counters["unknown_cancel"] == 0


def test_ticks_that_share_a_place_before_the_first_centre():
    engine = Engine(EngineConfig(tick_px=TICK, n_ticks=1 << 12))
    apart = len(engine._memory.arrays["early_marks"])
    table = feed(
        engine,
        record(b"A", b"B", 1, 10, 4, SECOND),
        record(b"A", b"B", 2, 10 + apart, 5, SECOND),
        record(b"A", b"A", 3, 12 + apart, 3, SECOND),
    )
    assert table["bid_depth"].sum() == 5
    assert table["ask_depth"].sum() == 3


def test_a_new_session_waits_for_room_in_the_buffer():
    engine = Engine(EngineConfig(tick_px=TICK))
    records = np.concatenate([*two_sided(), record(b"A", b"B", 3, 9, 1, 2 * SECOND), *two_sided(9 * DAY)])
    tables, start, stops = [], 0, []
    while start < len(records):
        output, start = engine.apply(records, start, 1)
        tables.append(output.bins["bin_seq"])
        stops.append(start)
    whole = feed(Engine(EngineConfig(tick_px=TICK)), records)["bin_seq"].tolist()
    assert [*np.concatenate(tables), *engine.flush()[0].bins["bin_seq"]] == whole
    assert 3 in stops, "the call before the silence ended with a full buffer"


def test_a_call_ends_when_the_buffer_of_mbp10_rows_is_full():
    engine = Engine(EngineConfig(tick_px=TICK, mbp10=True, physics=False))
    records = np.concatenate([record(b"A", b"B", i + 1, 10 + i, 1, SECOND) for i in range(1_100)])
    first, stop = engine.apply(records)
    assert 0 < stop < len(records)
    second, end = engine.apply(records, stop)
    assert end == len(records)
    assert len(first.mbp10) + len(second.mbp10) == len(records)


def test_a_chain_that_is_not_finite_keeps_its_values_and_is_counted():
    """No input of lots leads there; a broken memory would."""
    engine = Engine(EngineConfig(tick_px=TICK))
    feed(engine, *two_sided())
    engine.apply(record(b"A", b"B", 3, 10, 1, 2 * SECOND))
    row = engine._memory.arrays["ring_rows"][10]
    row[V + ADD] = np.inf
    before = row.copy()
    engine.apply(record(b"A", b"B", 4, 10, 1, 2 * SECOND + 5))
    assert engine.counters["non_finite"] == 1
    assert [row[V + ADD], row[A + ADD], row[J + ADD]] == [np.inf, before[A + ADD], before[J + ADD]]
    assert row[V + BID_DEPTH] != before[V + BID_DEPTH], "another chain of the same tick goes on"
    output, _ = engine.flush()
    assert output.bins["flags"][-1] & 256


def test_the_window_moves_while_a_snapshot_comes_in():
    """A clock closes bins in between; depths are 0 until the snapshot has ended, wherever the window is then."""
    engine = Engine(EngineConfig(tick_px=TICK, n_ticks=8, radius=1))
    engine.apply(np.concatenate(two_sided()))
    engine.advance(2 * SECOND)
    state = [
        record(b"A", b"B", 5, 30, 7, 3 * SECOND, F_SNAPSHOT),
        record(b"A", b"A", 6, 32, 9, 3 * SECOND, F_SNAPSHOT),
    ]
    engine.apply(np.concatenate(state))
    output, _ = engine.advance(4 * SECOND)
    assert output.bins["spot_tick"].tolist()[0] == 31
    assert not output.bins["bid_depth"].any()
    engine.apply(record(b"N", b"N", 0, 0, 0, 5 * SECOND))
    output, _ = engine.flush()
    assert output.bins["bid_depth"][-1].tolist() == [7, 0, 0]
    assert output.bins["ask_depth"][-1].tolist() == [0, 0, 9]


def test_a_book_of_too_many_orders_is_refused(monkeypatch):
    monkeypatch.setattr(order_index, "ORDERS_MAX", 1_024)
    engine = Engine(EngineConfig(tick_px=TICK))
    records = np.concatenate([record(b"A", b"B", i + 1, 10, 1, SECOND) for i in range(1_025)])
    with pytest.raises(TooManyOrdersError) as caught:
        engine.apply(records)
    assert caught.value.orders_max == 1_024


@pytest.mark.parametrize("flags", [0, F_MBP])
def test_a_fill_whose_change_of_the_order_is_still_to_come_survives_a_snapshot(flags):
    """A venue reports a fill before the cancel or modify that carries it out; a state may be stored in between."""
    book = [record(b"A", b"B", 1, 10, 4, SECOND, F_LAST | flags), record(b"A", b"A", 2, 12, 3, SECOND, F_LAST | flags)]
    fill = record(b"F", b"B", 1, 10, 3, SECOND + 5, flags)
    rest = [record(b"C", b"B", 1, 10, 3, SECOND + 5, F_LAST | flags), record(b"A", b"A", 9, 13, 1, 2 * SECOND)]
    engine = Engine(EngineConfig(tick_px=TICK))
    engine.apply(np.concatenate([*book, fill]))
    other = Engine.restore(engine.snapshot())
    assert other.snapshot() == engine.snapshot()
    ours, theirs = feed(engine, *rest), feed(other, *rest)
    assert all(np.array_equal(ours[name], theirs[name], equal_nan=True) for name in ours)
    assert other.digest() == engine.digest()
    assert other.counters == engine.counters
