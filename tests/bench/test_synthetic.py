"""The measured stream: the same on every machine, of the shape that was asked for, and legal."""

from dataclasses import replace
from hashlib import sha256

import numpy as np
import pytest

from control.bench.oracle import book_of
from control.bench.synthetic import START_NS, Shape, make
from engine.engine import Engine, EngineConfig
from schemas.mbo import F_LAST

SMALL = Shape(20_000, levels=10, queue=8, per_bin=100, churn=2_000)


def test_a_shape_gives_the_same_bytes_everywhere() -> None:
    stream = make(SMALL)
    digest = sha256(stream.opening.tobytes() + stream.records.tobytes()).hexdigest()
    assert digest == "ae0aabae19962e94f6ebcf96fe3d454d2afc3d0fc504b8f0bb28ef10b49e90ed"
    assert make(replace(SMALL, seed=8)).records.tobytes() != stream.records.tobytes()


@pytest.mark.parametrize(("levels", "queue", "per_bin"), [(10, 8, 100), (25, 1, 6), (4, 300, 7_600)])
def test_the_book_has_the_shape(levels: int, queue: int, per_bin: int) -> None:
    shape = Shape(30_000, levels, queue, per_bin, churn=5_000)
    stream = make(shape)
    assert (len(stream.opening), len(stream.records)) == (1 + shape.orders + shape.churn, shape.records)
    book = book_of([stream.opening, stream.records])
    assert book.orders == pytest.approx(shape.orders, rel=0.25)
    bids, asks = book.levels(b"B"), book.levels(b"A")
    assert len(bids) <= levels
    assert len(asks) <= levels
    assert bids[0][0] < asks[0][0]
    bins, counts = np.unique((stream.records["ts_event"] - START_NS) // shape.cell_ns, return_counts=True)
    assert len(bins) == -(-shape.records // per_bin)
    assert abs(counts[:-1] - per_bin).max() <= 2


def test_the_flow_is_mixed_and_legal() -> None:
    stream = make(SMALL)
    shares = {a: float((stream.records["action"] == a).mean()) for a in (b"A", b"C", b"M", b"T", b"F")}
    assert shares[b"A"] == pytest.approx(0.44, abs=0.05)
    assert shares[b"C"] == pytest.approx(0.45, abs=0.05)
    assert shares[b"M"] == pytest.approx(0.05, abs=0.03)
    assert shares[b"T"] == shares[b"F"] == pytest.approx(0.02, abs=0.015)
    ids = stream.records["order_id"][stream.records["action"] == b"A"]
    assert (np.diff(ids.astype(np.int64)) > 0).all()
    assert stream.records["flags"][-3:].max() == F_LAST
    engine = Engine(EngineConfig(tick_px=stream.tick_px))
    start = 0
    records = np.concatenate([stream.opening, stream.records])
    while start < len(records):
        _, start = engine.apply(records, start)
    assert not any(engine.counters.values())
    assert engine.best_bid_px < engine.best_ask_px


def test_the_price_moves() -> None:
    stream = make(replace(SMALL, records=50_000))
    middle = stream.records["price"][stream.records["action"] == b"T"]
    assert len(np.unique(middle)) > 10
