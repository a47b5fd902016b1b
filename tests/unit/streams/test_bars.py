"""The bars reducer: what closes a bar, what one holds, what is refused, and that stored state continues bit for bit."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runtime.codec import encode_rows
from runtime.errors import InputError
from schemas import bars, trades
from schemas.columns import concat_tables, empty_table
from schemas.envelope import Envelope, crc32
from schemas.message import Message
from schemas.units import UNDEF_PRICE
from streams.build_bars import BarsReducer, bars_stage
from streams.reducer import BrokenMessageError

SECOND = 10**9
WIDTHS = (SECOND, 60 * SECOND)
START_NS = 1_700_000_000 * SECOND // (60 * SECOND) * 60 * SECOND
"""A full minute."""

Trade = tuple[float, int, int, int]
"""Seconds after START_NS, price in units, size, side."""


def table_of(rows: Sequence[Trade]) -> dict[str, np.ndarray]:
    table = empty_table(trades.COLUMNS, len(rows))
    for i, (at_s, px, sz, side) in enumerate(rows):
        table["ts_ns"][i], table["sz"][i], table["side"][i] = START_NS + round(at_s * 1e9), sz, side
        table["px"][i] = px if px == UNDEF_PRICE else px * SECOND
    return table


def message(
    kind: str, rows: Sequence[Trade] = (), at_s: float = 0, *, part: int = 0, last: bool = True, name: str = "V:S"
) -> Message:
    value, t = encode_rows(table_of(rows), trades.COLUMNS), START_NS + round(at_s * 1e9)
    envelope = Envelope(kind, "trades", count=len(rows), crc32=crc32(value), t=t, part=part, last=last)  # type: ignore[arg-type]
    return Message("t.main.trades.v1", 0, 7, 0, name, value, envelope)


def data(*rows: Trade, last: bool = True, t: float | None = None) -> Message:
    return message("data", rows, (rows[-1][0] if rows else 0) if t is None else t, last=last)


def apply(reducer: BarsReducer, *messages: Message) -> list[dict[str, Any]]:
    found = concat_tables([rows.table for m in messages for rows in reducer.apply(m)], bars.COLUMNS)
    assert {c.name: found[c.name].dtype for c in bars.COLUMNS} == {c.name: c.numpy_dtype for c in bars.COLUMNS}
    return [dict(zip(found, row, strict=True)) for row in zip(*(a.tolist() for a in found.values()), strict=True)]


def spans(found: Sequence[Mapping[str, Any]]) -> list[tuple[int, int, int]]:
    """(width, end after START_NS, trades) of each bar, times in seconds."""
    return [(b["interval_ns"] // SECOND, (b["ts_end_ns"] - START_NS) // SECOND, b["trade_count"]) for b in found]


def test_a_bar_says_what_its_trades_say() -> None:
    found = apply(BarsReducer([SECOND]), data((0, 10, 1, 1), (0.2, 13, 2, -1), (0.4, 9, 4, 0), (0.9, 11, 5, 1), t=1))
    assert found == [
        {
            "interval_ns": SECOND,
            "ts_start_ns": START_NS,
            "ts_end_ns": START_NS + SECOND,
            "open_px": 10 * SECOND,
            "high_px": 13 * SECOND,
            "low_px": 9 * SECOND,
            "close_px": 11 * SECOND,
            "vwap_px": 127 * SECOND // 12,
            "volume_sz": 12,
            "trade_buy_sz": 6,
            "trade_sell_sz": 2,
            "trade_none_sz": 4,
            "trade_notional": 127.0,
            "trade_count": 4,
        }
    ]


def test_trades_of_a_later_interval_close_a_bar_and_quiet_intervals_have_none() -> None:
    reducer = BarsReducer(WIDTHS)
    assert apply(reducer, data((0.1, 10, 1, 1), (0.9, 11, 1, 1))) == []
    assert spans(apply(reducer, data((5.5, 12, 1, 1)))) == [(1, 1, 2)]
    assert spans(apply(reducer, data((61, 12, 1, 1)))) == [(1, 6, 1), (60, 60, 3)]


def test_bars_that_end_together_come_shorter_first() -> None:
    found = apply(BarsReducer(WIDTHS), data((58.5, 10, 1, 1), (59.5, 10, 1, 1), (60, 10, 1, 1)))
    assert spans(found) == [(1, 59, 1), (1, 60, 1), (60, 60, 2)]


@pytest.mark.parametrize("kind", ["data", "clock"])
def test_time_without_trades_closes_bars(kind: str) -> None:
    reducer = BarsReducer(WIDTHS)
    apply(reducer, data((0.5, 10, 1, 1)))
    assert apply(reducer, message(kind, at_s=1 - 1e-9)) == []
    assert spans(apply(reducer, message(kind, at_s=1))) == [(1, 1, 1)]
    assert apply(reducer, message(kind, at_s=59)) == []
    assert spans(apply(reducer, message(kind, at_s=60))) == [(60, 60, 1)]
    assert apply(reducer, message(kind, at_s=600)) == []


def test_end_closes_everything_and_definitions_nothing() -> None:
    reducer = BarsReducer(WIDTHS)
    assert apply(reducer, message("end")) == []
    apply(reducer, data((0.5, 10, 1, 1)))
    assert apply(reducer, message("definition", at_s=500)) == []
    assert spans(apply(reducer, data((0.7, 10, 1, 1)), message("end", at_s=0.7))) == [(1, 1, 2), (60, 60, 2)]


def test_time_of_a_message_counts_only_when_its_last_part_has_come() -> None:
    """Every part carries the time after all of them, and trades of later parts are older than that."""
    reducer = BarsReducer([SECOND])
    assert apply(reducer, data((0.1, 10, 1, 1), last=False, t=2.5)) == []
    assert spans(apply(reducer, data((0.2, 10, 1, 1), (1.1, 10, 1, 1), t=2.5))) == [(1, 1, 2), (1, 2, 1)]


def test_trades_without_price_or_size() -> None:
    none = (0.1, UNDEF_PRICE, 3, 1)
    (empty,) = apply(BarsReducer([SECOND]), data(none, t=1))
    assert {empty[n] for n in ("open_px", "high_px", "low_px", "close_px", "vwap_px")} == {UNDEF_PRICE}
    assert (empty["volume_sz"], empty["trade_notional"], empty["trade_count"]) == (3, 0.0, 1)
    (mixed,) = apply(BarsReducer([SECOND]), data(none, (0.2, -5, 2, 1), (0.3, -7, 0, 1), none, t=1))
    assert [mixed[n] // SECOND for n in ("open_px", "high_px", "low_px", "close_px", "vwap_px")] == [-5, -5, -7, -7, -5]
    assert (mixed["volume_sz"], mixed["trade_notional"], mixed["trade_count"]) == (8, -10.0, 4)
    (weightless,) = apply(BarsReducer([SECOND]), data((0.3, 7, 0, 1), t=1))
    assert (weightless["close_px"], weightless["vwap_px"]) == (7 * SECOND, UNDEF_PRICE)


def test_sums_beyond_64_bits_are_exact() -> None:
    px, sz = 9_000_000_000, (1 << 32) - 2
    reducer = BarsReducer([SECOND])
    (bar,) = apply(reducer, *[data((0.1 + i / 100, px, sz, 1)) for i in range(9)], message("end"))
    assert bar["vwap_px"] == px * SECOND
    assert bar["trade_notional"] == float(9 * px * sz)


def test_instruments_are_apart() -> None:
    reducer = BarsReducer([SECOND])
    apply(reducer, data((0.1, 10, 1, 1)))
    assert apply(reducer, message("end", name="V:OTHER")) == []
    assert spans(apply(reducer, message("end"))) == [(1, 1, 1)]


def test_trades_below_the_newest_time_count_from_it() -> None:
    """After a changed definition the engine's time starts anew."""
    reducer = BarsReducer([SECOND])
    assert spans(apply(reducer, data((0.1, 10, 1, 1), (2.5, 10, 1, 1)))) == [(1, 1, 1)]
    assert apply(reducer, message("definition"), data((0.2, 11, 1, 1), (0.3, 12, 1, 1))) == []
    (bar,) = apply(reducer, message("end"))
    assert (spans([bar]), bar["close_px"]) == ([(1, 3, 3)], 12 * SECOND)


def test_stamp_is_the_time_of_the_root() -> None:
    stamp = BarsReducer([SECOND]).stamp(message("end", at_s=3))
    assert (stamp.t, stamp.summary) == (START_NS + 3 * SECOND, {})


def test_state_is_stored_exactly() -> None:
    reducer = BarsReducer(WIDTHS)
    apply(reducer, data((0.1, 9_000_000_000, (1 << 32) - 2, 1), (0.1, UNDEF_PRICE, 3, -1)))
    pieces = reducer.snapshot()
    other = BarsReducer(WIDTHS)
    other.restore(pieces)
    assert other.snapshot() == pieces
    assert apply(other, message("end")) == apply(reducer, message("end"))


def test_broken_messages_are_named_and_change_nothing() -> None:
    reducer, good = BarsReducer([SECOND]), data((0.1, 10, 1, 1))

    def bent(value: bytes, count: int = 1) -> Message:
        return replace(good, value=value, envelope=replace(good.envelope, crc32=crc32(value), count=count))

    for bad, words in (
        (replace(good, value=good.value[:-1]), r"offset 7 of t\.main\.trades\.v1\[0\] does not match its CRC-32"),
        (bent(good.value, 2), "holds 1 trades, not 2"),
        (bent(b"rubbish"), "does not hold rows of trades"),
        (bent(encode_rows(empty_table(bars.COLUMNS, 1), bars.COLUMNS)), "does not hold rows of trades"),
    ):
        with pytest.raises(BrokenMessageError, match=words):
            apply(reducer, bad)
    assert reducer.snapshot() == {}


def test_stage_takes_its_widths_from_the_line() -> None:
    assert bars_stage({"radius": 5}).config == {"intervals_ns": list(bars.INTERVALS_NS_DEFAULT)}
    stage = bars_stage({"intervals_ns": [7, 3]})
    assert (stage.config, stage.source.stream, list(stage.outputs)) == ({"intervals_ns": [3, 7]}, "trades", ["bars"])
    for bad in ([], [0], [1.5], [2, 2]):
        with pytest.raises(InputError, match="intervals_ns is"):
            bars_stage({"intervals_ns": bad})


def test_the_stage_of_the_documentation_gives_the_same_closes_and_volumes() -> None:
    page = (Path(__file__).parents[3] / "docs/stages.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    names: dict[str, Any] = {}
    exec(code, names)
    stage, seconds = names["minutes_stage"]({}), np.random.default_rng(3).integers(0, 900, 400).cumsum() / 100
    rows = [(float(at), 100 + i % 7, 1 + i % 5, 1) for i, at in enumerate(seconds)]
    messages = [data(*rows[i : i + 9], last=i % 2 == 0) for i in range(0, len(rows), 9)] + [message("end")]
    reducer, short = stage.reducer(), []
    for one in messages:
        short += [tuple(column.tolist()[0] for column in made.table.values()) for made in reducer.apply(one)]
        stored, reducer = reducer.snapshot(), stage.reducer()
        reducer.restore(stored)
    whole = apply(BarsReducer([60 * SECOND]), *messages)
    assert short == [(b["ts_end_ns"], b["close_px"], b["volume_sz"]) for b in whole]
    assert len(short) > 20
