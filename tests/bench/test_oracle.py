"""The slow book against the engine on records that no venue would send."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from control.bench.engine_runs import check
from control.bench.oracle import WrongAnswerError, book_of
from engine.engine import Engine, EngineConfig
from schemas.mbo import F_LAST, F_SNAPSHOT, MBO_BYTES, MBO_DTYPE, MBO_RTYPE
from schemas.units import UNDEF_PRICE, UNDEF_SIZE

TICK_PX = 250
PRICES = st.sampled_from([*range(-1000, 1000, 125), UNDEF_PRICE])
RECORDS = st.lists(
    st.tuples(
        st.sampled_from([b"A", b"A", b"A", b"C", b"C", b"M", b"M", b"R", b"T", b"F", b"N"]),
        st.sampled_from([b"B", b"A", b"N"]),
        PRICES,
        st.sampled_from([0, 1, 2, 3, 10, UNDEF_SIZE]),
        st.integers(1, 12),
        st.sampled_from([0, F_LAST, F_LAST, F_SNAPSHOT, F_SNAPSHOT | F_LAST]),
    ),
    max_size=60,
)


def records_of(rows: list[tuple[bytes, bytes, int, int, int, int]]) -> np.ndarray:
    out = np.zeros(len(rows), MBO_DTYPE)
    out["length"], out["rtype"] = MBO_BYTES // 4, MBO_RTYPE
    out["ts_event"] = out["ts_recv"] = 10**18 + np.arange(len(rows))
    for i, name in enumerate(("action", "side", "price", "size", "order_id", "flags")):
        out[name] = [row[i] for row in rows]
    return out


@given(RECORDS)
@settings(max_examples=300)
def test_slow_book_and_engine_agree(rows: list[tuple[bytes, bytes, int, int, int, int]]) -> None:
    records = records_of(rows)
    engine = Engine(EngineConfig(tick_px=TICK_PX))
    start = 0
    while start < len(records):
        _, start = engine.apply(records, start)
    book = book_of([records])
    assert book.digest(TICK_PX) == engine.digest()
    assert book.orders == engine.orders
    assert [tuple(level) for level in engine.levels("B")] == book.levels(b"B")
    assert [tuple(level) for level in engine.levels("A")] == book.levels(b"A")


def test_a_wrong_book_is_refused() -> None:
    records = records_of([(b"A", b"B", 250, 3, 1, F_LAST), (b"A", b"B", 250, 4, 2, F_LAST)])
    engine = Engine(EngineConfig(tick_px=TICK_PX))
    engine.apply(records)
    check("right", engine, book_of([records]).digest(TICK_PX))
    swapped = book_of([records[::-1].copy()]).digest(TICK_PX)  # the same lots, another queue
    with pytest.raises(WrongAnswerError) as caught:
        check("book_l3", engine, swapped)
    assert caught.value.exit_code == 1
    assert caught.value.row == "book_l3"
