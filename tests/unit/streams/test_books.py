"""The books reducer: what each kind of message does, and that stored state continues bit for bit."""

from collections.abc import Sequence

import numpy as np
import pytest

from runtime.codec import encode_avro
from schemas import bins
from schemas.columns import RowHash
from schemas.envelope import Envelope, crc32
from schemas.mbo import F_LAST, MBO_DTYPE
from schemas.message import Message
from streams.build_books import BooksReducer, BrokenMessageError, books_stage
from streams.reducer import Rows

CONFIG = {"cell_ns": 100_000_000, "radius": 5, "n_ticks": 64}
START_NS = 1_700_000_000_000_000_000


def records(count: int, start_ns: int = START_NS) -> np.ndarray:
    """Adds on both sides, 30 ms apart, prices within four ticks of 100."""
    out = np.zeros(count, MBO_DTYPE)
    number = np.arange(count)
    out["length"], out["rtype"], out["instrument_id"] = 14, 160, 1
    out["ts_event"] = out["ts_recv"] = start_ns + number * 30_000_000
    out["order_id"] = 1 + number
    out["side"] = np.where(number % 2, b"A", b"B")
    out["price"] = 100 * 10**9 + np.where(number % 2, 1, -1) * (1 + number % 4) * 10**7
    out["size"], out["flags"], out["action"] = 1 + number % 7, F_LAST, b"A"
    return out


def definition(tick_px: int = 10**7) -> bytes:
    fields = {"instrument": "V:S", "venue_symbol": "S", "tick_px": tick_px, "bucket": 1, "lot": "1", "partition": 0}
    return encode_avro("definition", {**fields, "tick_source": "option"})


def message(kind: str, value: bytes = b"", *, offset: int = 0, t: int = 0, count: int = 0) -> Message:
    envelope = Envelope(kind=kind, schema="mbo", count=count, crc32=crc32(value), t=t)  # type: ignore[arg-type]
    return Message("t.mbo.v1", 0, offset, 0, "V:S", value, envelope)


def data(part: np.ndarray) -> Message:
    return message("data", part.tobytes(), count=len(part))


def apply(reducer: BooksReducer, messages: Sequence[Message]) -> list[Rows]:
    return [rows for m in messages for rows in reducer.apply(m)]


def hash_of(found: list[Rows]) -> tuple[str, int]:
    digest = RowHash(bins.columns(CONFIG["radius"]))
    for rows in found:
        if rows.stream == "bins":
            digest.update(rows.table)
    return digest.hexdigest(), digest.rows


def test_rows_do_not_depend_on_blocks_or_on_a_restored_state() -> None:
    all_records = records(400)
    whole = apply(BooksReducer(CONFIG), [message("definition", definition()), data(all_records), message("end")])
    assert hash_of(whole)[1] > 100
    reducer, found = BooksReducer(CONFIG), []
    found += apply(reducer, [message("definition", definition())])
    for start in range(0, 400, 37):
        found += apply(reducer, [data(all_records[start : start + 37])])
        pieces = reducer.snapshot()
        reducer = BooksReducer(CONFIG)
        reducer.restore(pieces)
        assert dict(reducer.snapshot()) == dict(pieces)
    found += apply(reducer, [message("end")])
    assert hash_of(found) == hash_of(whole)


def test_clocks_close_bins_and_change_nothing_else() -> None:
    reducer = BooksReducer(CONFIG)
    apply(reducer, [message("definition", definition()), data(records(2))])
    late = START_NS + 3_000_000_000
    (rows, *_) = apply(reducer, [message("clock", t=late)])
    assert rows.table["event_count"][0] == 2
    assert reducer.stamp(message("clock", t=late)).t == late


def test_header_columns_and_summary() -> None:
    reducer = BooksReducer(CONFIG)
    messages = [message("definition", definition()), data(records(9)), message("end")]
    found = apply(reducer, messages)
    assert set(found[0].table["tick_px"]) == {10**7}
    assert set(found[0].table["bucket"]) == {1}
    stamp = reducer.stamp(messages[-1])
    assert '"orders": 9' in stamp.summary["bins"]
    assert reducer.stamp(messages[1]).summary == {}


def test_an_equal_definition_changes_nothing_and_another_one_resets() -> None:
    reducer = BooksReducer(CONFIG)
    apply(reducer, [message("definition", definition()), data(records(5))])
    assert apply(reducer, [message("definition", definition())]) == []
    (closed,) = apply(reducer, [message("definition", definition(2 * 10**7))])
    assert closed.table["event_count"].sum() > 0
    after = apply(reducer, [data(records(5, START_NS + 10**9)), message("end")])
    assert set(after[0].table["tick_px"]) == {2 * 10**7}


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (message("data", b"x", count=1), "comes before any definition"),
        (message("definition", definition(0)), "does not define an instrument .tick_px is 0"),
    ],
)
def test_broken_messages_are_named(bad: Message, words: str) -> None:
    with pytest.raises(BrokenMessageError, match=words):
        apply(BooksReducer(CONFIG), [bad])


def test_bytes_that_disagree_with_their_headers_are_named() -> None:
    reducer = BooksReducer(CONFIG)
    apply(reducer, [message("definition", definition())])
    with pytest.raises(BrokenMessageError, match="not 2 records"):
        apply(reducer, [message("data", records(1).tobytes(), count=2)])
    good = data(records(1))
    flipped = Message("t.mbo.v1", 0, 7, 0, "V:S", b"\1" + good.value[1:], good.envelope)
    with pytest.raises(BrokenMessageError, match=r"offset 7 of t\.mbo\.v1\[0\] does not match its CRC-32"):
        apply(reducer, [flipped])


def test_stage_declares_its_rows() -> None:
    stage = books_stage(CONFIG)
    assert [o.topic.stream for o in stage.outputs.values()] == ["bins", "trades"]
    assert stage.outputs["bins"].columns == bins.columns(5)
