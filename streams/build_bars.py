"""The bars stage: trades in, bars out; open bars per instrument and width as its only state.

`T.L.trades` → `T.L.bars`. A bar closes as soon as no trade of its interval can come any more:

    what comes                  bars that close
    trades                      those that end at or before the newest trade
    the last part of a message  those that end at or before the header `t`: later trades are never below it, because
                                the engine lifts late records. Earlier parts carry the same `t`, but trades follow
    `clock`                     the same: its `t` is all it says
    `definition`                none: after a changed one, engine time starts anew and may lie below its `t`
    `end`                       all

Only *when* a bar is sent depends on this, never what it holds or where among the bars it stands: at any time everything
is out that ends at or before the newest time seen, so bars come in the order of their ends, however trades were cut
into messages. Where engine time does start anew below bars that are out, trades count from the newest time seen, as
late records do in the engine: an interval never has two bars while its instrument goes on.

The arithmetic is one idea: a trade is a bar of one trade, and neighbouring bars of one interval join to one. The open
bar is put before the trades of a message and everything is joined by interval at once (`_join`).
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import pyarrow as pa

from runtime.codec import decode_rows
from runtime.errors import InputError
from schemas import bars, topics, trades
from schemas.columns import Table, slice_table, table_rows
from schemas.envelope import crc32
from schemas.message import Message
from schemas.units import PRICE_SCALE, UNDEF_PRICE
from streams import reducer
from streams.reducer import BrokenMessageError

STATE_FORMAT: Final = 1
"""Form of a piece: JSON of `_to_json`."""
_BARS = topics.BARS.stream
_SUMS: Final = ("volume_sz", "trade_buy_sz", "trade_sell_sz", "trade_none_sz", "trade_count", "priced_sz", "notional")
_PART: Final = ("ts_ns", "open_px", "high_px", "low_px", "close_px", *_SUMS)
"""A bar in the making: time of a trade in it, the four prices, sums. `notional` is price times size in 1e-9 as Python's
integers, whose sums are exact at any size; `priced_sz` are the lots in it."""
_NO_HIGH: Final = np.iinfo(np.int64).min


@dataclass(slots=True)
class Open:
    """One instrument.

    Attributes:
        t_ns: newest time seen; trades below it are lifted to it. -1 before the first.
        bars: width in ns → the open bar, a table of one row of `_PART`; absent if there is none.
    """

    t_ns: int = -1
    bars: dict[int, Table] = field(default_factory=dict)


class BarsReducer:
    """State of the bars stage for one partition.

    Args:
        intervals_ns: widths of bars, ns; rising.
    """

    def __init__(self, intervals_ns: Sequence[int]) -> None:
        self._intervals_ns = tuple(intervals_ns)
        self._open: dict[str, Open] = {}

    def apply(self, message: Message) -> Iterator[reducer.Rows]:
        """Apply one message of the trades topic.

        Raises:
            BrokenMessageError: bytes and headers disagree, or the bytes hold no trades.
        """
        table = _trades_of(message)
        envelope, state = message.envelope, self._open.setdefault(message.instrument, Open())
        until_ns: int | None = None
        if envelope.last and envelope.kind in ("data", "clock"):
            until_ns = envelope.t
        ended = envelope.last and envelope.kind == "end"
        closed = self._advance(state, _each_a_bar(table, state.t_ns), until_ns, ended=ended)
        if closed:
            yield reducer.Rows(_BARS, _rows(closed))

    def skip(self, message: Message, reason: str) -> Iterator[reducer.Rows]:
        """Bars go on with what they have: the marker and the gap record say that trades are missing."""
        return iter(())

    def stamp(self, message: Message) -> reducer.Stamp:
        """Engine time of the root message, as the trades have it."""
        return reducer.Stamp(message.envelope.t, {})

    def snapshot(self) -> Mapping[str, bytes]:
        """One piece of JSON per instrument: all of the state are integers."""
        return {name: json.dumps(_to_json(state), sort_keys=True).encode() for name, state in self._open.items()}

    def restore(self, pieces: Mapping[str, bytes]) -> None:
        """Take over the state of `pieces`."""
        for name, piece in pieces.items():
            known = json.loads(piece)
            self._open[name] = Open(known["t_ns"], {int(d): _one_row(bar) for d, bar in known["bars"].items()})

    def _advance(self, state: Open, fresh: Table, until_ns: int | None, *, ended: bool) -> list[tuple[int, Table]]:
        """Join fresh trades to the open bars, move time on; the bars that closed, as (width, table) of each width."""
        if table_rows(fresh):
            state.t_ns = int(fresh["ts_ns"][-1])
        state.t_ns = max(state.t_ns, -1 if until_ns is None else until_ns)
        out: list[tuple[int, Table]] = []
        for width in self._intervals_ns:
            known = state.bars.pop(width, None)
            parts = [part for part in (known, fresh) if part is not None and table_rows(part)]
            if not parts:
                continue
            joined = _join({name: np.concatenate([part[name] for part in parts]) for name in _PART}, width)
            rows = table_rows(joined)
            ends_ns = (joined["ts_ns"] // width + 1) * width
            closed = rows if ended else int(np.searchsorted(ends_ns, state.t_ns, side="right"))
            if closed < rows:  # the newest interval alone can be open: trades do not go back
                state.bars[width] = slice_table(joined, closed, rows)
            if closed:
                out.append((width, slice_table(joined, 0, closed)))
        return out


def _trades_of(message: Message) -> Table:
    envelope = message.envelope
    if crc32(message.value) != envelope.crc32:
        raise BrokenMessageError(message, "does not match its CRC-32")
    try:
        table = decode_rows(message.value, trades.COLUMNS)
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        raise BrokenMessageError(message, f"does not hold rows of trades ({error})") from error
    if table_rows(table) != envelope.count:
        raise BrokenMessageError(message, f"holds {table_rows(table)} trades, not {envelope.count}")
    if not np.isin(table["side"], (-1, 0, 1)).all():
        raise BrokenMessageError(message, "holds a trade whose side is none of -1, 0 and 1")
    return table


def _each_a_bar(table: Table, t_ns: int) -> Table:
    """Each trade as a bar of its own; times not below `t_ns` and never falling."""
    px, sz, side = table["px"], table["sz"], table["side"]
    priced_sz = np.where(px == UNDEF_PRICE, 0, sz)
    return {
        "ts_ns": np.maximum(np.maximum.accumulate(table["ts_ns"]), t_ns),
        **dict.fromkeys(("open_px", "high_px", "low_px", "close_px"), px),
        "volume_sz": sz,
        "trade_buy_sz": np.where(side > 0, sz, 0),
        "trade_sell_sz": np.where(side < 0, sz, 0),
        "trade_none_sz": np.where(side == 0, sz, 0),
        "trade_count": np.ones(len(px), np.int64),
        "priced_sz": priced_sz,
        "notional": px.astype(object) * priced_sz.astype(object),
    }


def _join(part: Table, width: int) -> Table:
    """Neighbouring bars of one interval as one bar, for every interval; `ts_ns` of a joined bar is its first's."""
    number = part["ts_ns"] // width
    starts = np.flatnonzero(np.diff(number, prepend=number[0] - 1))
    priced, row = part["open_px"] != UNDEF_PRICE, np.arange(len(number))
    # rows without a price must win neither place: behind the last for the first, before the first for the last
    first = np.minimum.reduceat(np.where(priced, row, len(row) - 1), starts)
    last = np.maximum.reduceat(np.where(priced, row, 0), starts)
    some = np.logical_or.reduceat(priced, starts)
    high_px = np.maximum.reduceat(np.where(priced, part["high_px"], _NO_HIGH), starts)
    return {
        "ts_ns": part["ts_ns"][starts],
        "open_px": np.where(some, part["open_px"][first], UNDEF_PRICE),
        "high_px": np.where(some, high_px, UNDEF_PRICE),
        "low_px": np.minimum.reduceat(part["low_px"], starts),  # UNDEF_PRICE is above every price
        "close_px": np.where(some, part["close_px"][last], UNDEF_PRICE),
        **{name: np.add.reduceat(part[name], starts) for name in _SUMS},
    }


def _rows(closed: Sequence[tuple[int, Table]]) -> Table:
    """Closed bars of all widths as rows of the topic, by end and then by width."""
    width = np.concatenate([np.full(table_rows(part), width, np.int64) for width, part in closed])
    part = {name: np.concatenate([part[name] for _, part in closed]) for name in _PART}
    start_ns = part["ts_ns"] // width * width
    made = {
        **part,
        "interval_ns": width,
        "ts_start_ns": start_ns,
        "ts_end_ns": start_ns + width,
        "vwap_px": np.array(
            [
                n // sz if sz else UNDEF_PRICE
                for n, sz in zip(part["notional"], part["priced_sz"].tolist(), strict=True)
            ],
            np.int64,
        ),
        "trade_notional": np.array([n / PRICE_SCALE for n in part["notional"]], np.float64),
    }
    order = np.lexsort((width, made["ts_end_ns"]))
    return {column.name: made[column.name][order] for column in bars.COLUMNS}


def _to_json(state: Open) -> dict[str, Any]:
    open_bars = {str(d): {name: int(bar[name][0]) for name in _PART} for d, bar in state.bars.items()}
    return {"t_ns": state.t_ns, "bars": open_bars}


def _one_row(bar: Mapping[str, int]) -> Table:
    return {name: np.array([bar[name]], object if name == "notional" else np.int64) for name in _PART}


def bars_stage(config: Mapping[str, Any]) -> reducer.Stage:
    """The bars stage with the semantic configuration of a line; its own setting there is `intervals_ns`.

    Raises:
        InputError: widths are not whole, positive and different.
    """
    intervals_ns = config.get("intervals_ns", bars.INTERVALS_NS_DEFAULT)
    if not intervals_ns or any(not isinstance(d, int) or d <= 0 for d in intervals_ns):
        raise InputError(f"intervals_ns is {list(intervals_ns)}", remedy="give whole widths in ns above 0")
    if len(set(intervals_ns)) < len(intervals_ns):
        raise InputError(f"intervals_ns is {list(intervals_ns)}", remedy="give each width once")
    return reducer.Stage(
        name="bars",
        source=topics.TRADES,
        outputs={_BARS: reducer.Output(topics.BARS, bars.COLUMNS)},
        config={"intervals_ns": sorted(intervals_ns)},
        reducer=lambda: BarsReducer(sorted(intervals_ns)),
        state_format=STATE_FORMAT,
    )
