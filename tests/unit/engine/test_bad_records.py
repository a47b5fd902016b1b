"""Arrays that cannot be applied: a typed error names the first bad record, and nothing has changed."""

import numpy as np
import pytest

from engine.engine import Engine, EngineConfig
from engine.errors import BadRecordsError
from schemas.mbo import F_LAST, MBO_DTYPE
from schemas.units import UNDEF_SIZE

TICK = 250_000_000
SECOND = 10**9
COUNT = 6


def good(first=0, instrument=7):
    """Six adds around a mid, a second apart."""
    out = np.zeros(COUNT, MBO_DTYPE)
    out["length"], out["rtype"], out["instrument_id"] = 14, 160, instrument
    numbers = np.arange(first, first + COUNT)
    out["order_id"], out["action"] = numbers + 1, b"A"
    out["side"] = np.where(numbers % 2, b"A", b"B")
    out["price"] = (100 + 2 * (numbers % 2)) * TICK
    out["size"], out["flags"] = 3, F_LAST
    out["ts_event"] = out["ts_recv"] = (1 + numbers) * SECOND
    return out


@pytest.fixture
def engine():
    """An engine that has seen something."""
    made = Engine(EngineConfig(tick_px=TICK, mbp10=True))
    apply_all(made, good())
    return made


def apply_all(engine, records):
    """All output of records."""
    outputs, start = [], 0
    while start < len(records):
        output, start = engine.apply(records, start)
        outputs.append(output)
    return outputs


def refused(engine, records, start=0):
    """The error of a call, after which the engine is as before and goes on as one that never saw it."""
    before = engine.snapshot()
    with pytest.raises(BadRecordsError) as caught:
        engine.apply(records, start)
    assert engine.snapshot() == before
    twin = Engine.restore(before)
    ours, theirs = (apply_all(e, good(COUNT)) for e in (engine, twin))
    for one, other in zip(ours, theirs, strict=True):
        assert one.mbp10.tobytes() == other.mbp10.tobytes()
        assert all(one.bins[name].tobytes() == other.bins[name].tobytes() for name in one.bins)
    assert engine.snapshot() == twin.snapshot()
    return caught.value


NOT_RECORDS = {
    "floats": lambda: np.zeros(3),
    "bytes": lambda: np.zeros(3 * 56, np.uint8),
    "fields in another order": lambda: np.zeros(COUNT, MBO_DTYPE.descr[::-1]),
    "big endian": lambda: good().astype(MBO_DTYPE.newbyteorder(">")),
    "a list": lambda: [1, 2],
    "raw bytes": lambda: good().tobytes(),
    "nothing": lambda: None,
    "two dimensions": lambda: good().reshape(2, 3),
    "no dimension": lambda: good()[0],
    "every second record": lambda: good()[::2],
    "backwards": lambda: good()[::-1],
}


@pytest.mark.parametrize("what", NOT_RECORDS)
def test_what_is_no_array_of_records_is_refused_as_a_whole(engine, what):
    assert refused(engine, NOT_RECORDS[what]()).index == -1


@pytest.mark.parametrize("at", [0, 1, COUNT - 1])
@pytest.mark.parametrize(("field", "value"), [("rtype", 1), ("rtype", 0), ("length", 13), ("length", 0)])
def test_other_record_types_are_named(engine, field, value, at):
    records = good(COUNT)
    records[field][at] = value
    assert refused(engine, records).index == at


def test_the_first_bad_record_is_named(engine):
    records = good(COUNT)
    records["rtype"][4] = 1
    records["size"][3] = UNDEF_SIZE - 1
    records["instrument_id"][2] = 8
    error = refused(engine, records)
    assert error.index == 2
    assert "8" in str(error)
    assert "7" in str(error)


@pytest.mark.parametrize("at", [1, COUNT - 1])
def test_two_instruments_in_one_call_are_refused(at):
    engine = Engine(EngineConfig(tick_px=TICK))
    records = good()
    records["instrument_id"][at] = 9
    assert refused_new(engine, records).index == at


def refused_new(engine, records):
    """As `refused`, of an engine without a first record."""
    before = engine.snapshot()
    with pytest.raises(BadRecordsError) as caught:
        engine.apply(records)
    assert engine.snapshot() == before
    return caught.value


def test_a_later_call_may_number_the_instrument_anew(engine):
    """Venues do so from one day to the next; who feeds an engine goes by the instrument's name."""
    before = engine.records
    engine.apply(good(COUNT, instrument=8))
    assert engine.records == before + COUNT


def test_no_records_say_nothing_about_the_instrument():
    engine = Engine(EngineConfig(tick_px=TICK))
    engine.apply(good()[:0])
    apply_all(engine, good(instrument=5))
    assert engine.records == COUNT


@pytest.mark.parametrize("at", [0, 2, COUNT - 1])
@pytest.mark.parametrize("size", [-2, -5, -(2**31)])
def test_negative_sizes_stored_as_unsigned_are_refused(engine, size, at):
    records = good(COUNT)
    records["size"][at] = size % 2**32
    error = refused(engine, records)
    assert error.index == at
    assert "negative" in str(error)


def test_minus_one_is_how_dbn_spells_no_size(engine):
    records = good(COUNT)
    records["size"][2] = -1 % 2**32
    assert records["size"][2] == UNDEF_SIZE
    apply_all(engine, records)
    assert engine.counters["undefined_size"] == 1


@pytest.mark.parametrize("action", [b"A", b"C", b"M", b"F", b"T", b"N", b"R"])
def test_negative_sizes_are_refused_whatever_the_action(engine, action):
    records = good(COUNT)
    records["action"][2], records["size"][2] = action, 2**31
    assert refused(engine, records).index == 2


def test_the_largest_size_is_taken(engine):
    records = good(COUNT)
    records["size"] = 2**31 - 1
    apply_all(engine, records)
    assert engine.records == 2 * COUNT
    assert engine.best_bid_sz == 3 * 3 + 3 * (2**31 - 1)
