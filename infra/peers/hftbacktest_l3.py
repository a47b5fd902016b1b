"""hftbacktest's market-by-order backtest with a strategy that does nothing, driven from a compiled loop.

It keeps the book twice, as the exchange has it and as the strategy sees it, and a model of the strategy's place in the
queue: more work than a book, so the ratio to it says how fast a backtest on this feed is, not how good its book is.
"""

from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import hftbacktest as hft
import numpy as np
from numba import njit
from protocol import load, serve, sizes_left, timed

MILLISECOND = 1_000_000


def events_of(records: np.ndarray) -> np.ndarray:
    """Records as hftbacktest's events; its cancel takes the whole order, so a part becomes a modify to what is left."""
    kinds = {
        b"A": hft.ADD_ORDER_EVENT,
        b"C": hft.CANCEL_ORDER_EVENT,
        b"M": hft.MODIFY_ORDER_EVENT,
        b"R": hft.DEPTH_CLEAR_EVENT,
        b"T": hft.TRADE_EVENT,
        b"F": hft.FILL_EVENT,
    }
    sides = {b"B": hft.BUY_EVENT, b"A": hft.SELL_EVENT, b"N": 0}
    out = np.zeros(len(records), hft.event_dtype)
    left = np.array(sizes_left(records))
    partial = (records["action"] == b"C") & (left > 0)
    ev = np.zeros(len(records), np.uint64)
    for action, kind in kinds.items():
        ev[records["action"] == action] = kind
    ev[partial] = hft.MODIFY_ORDER_EVENT
    for side, flag in sides.items():
        ev[records["side"] == side] |= np.uint64(flag)
    out["ev"] = ev | np.uint64(hft.EXCH_EVENT) | np.uint64(hft.LOCAL_EVENT)
    out["exch_ts"], out["local_ts"] = records["ts_event"], records["ts_recv"]
    out["px"], out["order_id"] = records["price"] / 1e9, records["order_id"]
    out["px"][records["action"] == b"R"] = 0.0
    out["qty"] = np.where(partial, left, records["size"])
    return out


@njit
def elapse_all(hbt: Any, step_ns: int) -> None:
    """Let time pass to the end of the data."""
    while hbt.elapse(step_ns) == 0:
        pass


@njit
def wait_all(hbt: Any) -> None:
    """Wake at every feed event to the end of the data."""
    while hbt.wait_next_feed(False, 1_000_000_000) in (0, 2):
        pass


@njit
def levels_of(hbt: Any, low: int, high: int, out: np.ndarray) -> None:
    """Lots at each tick, out[side, tick - low]."""
    depth = hbt.depth(0)
    for tick in range(low, high):
        out[0, tick - low] = depth.bid_qty_at_tick(tick)
        out[1, tick - low] = depth.ask_qty_at_tick(tick)


def main() -> None:
    """Convert the stream, then serve."""
    opening, records, told = load()
    tick_px = told["tick_px"]
    events = events_of(np.concatenate([opening, records]))
    prices = records["price"]
    low, high = int(prices.min()) // tick_px - 1024, int(prices.max()) // tick_px + 1024
    opening_ns = int(records["ts_recv"][0]) - int(opening["ts_event"][0])
    books = {"roivector": hft.ROIVectorMarketDepthBacktest, "hashmap": hft.HashMapMarketDepthBacktest}
    last: list[Any] = []

    def fresh(kind: str) -> Any:
        asset = (
            hft.BacktestAsset()
            .data([events])
            .linear_asset(1.0)
            .constant_order_latency(1_000, 1_000)
            .l3_fifo_queue_model()
            .no_partial_fill_exchange()
            .trading_value_fee_model(0.0, 0.0)
            .tick_size(tick_px / 1e9)
            .lot_size(1.0)
            .last_trades_capacity(0)
        )
        if kind == "roivector":
            asset = asset.roi_lb(low * tick_px / 1e9).roi_ub(high * tick_px / 1e9)
        hbt = books[kind]([asset])
        hbt.elapse(opening_ns)
        while last:
            last.pop().close()
        last.append(hbt)
        return hbt

    def elapse(kind: str, step_ns: int) -> Callable[[], float]:
        def run() -> float:
            hbt = fresh(kind)
            return timed(lambda: elapse_all(hbt, step_ns))

        return run

    def wait(kind: str) -> Callable[[], float]:
        def run() -> float:
            hbt = fresh(kind)
            return timed(lambda: wait_all(hbt))

        return run

    variants: dict[str, Callable[[], float]] = {}
    for kind in books:
        variants[f"{kind}_elapse_1ms"] = elapse(kind, MILLISECOND)
        variants[f"{kind}_elapse_100ms"] = elapse(kind, 100 * MILLISECOND)
        variants[f"{kind}_wait_next_feed"] = wait(kind)

    def book() -> dict[str, Any]:
        lots = np.zeros((2, high - low))
        levels_of(last[0], low, high, lots)
        sides = [[[(low + int(i)) * tick_px, round(lots[s, i])] for i in np.flatnonzero(lots[s])] for s in (0, 1)]
        return {"bids": sides[0][::-1], "asks": sides[1]}

    hello = {
        "peer": "hftbacktest",
        "version": version("hftbacktest"),
        "excluded": "converting the records to events; the opening records; compiling the strategy loop",
    }
    serve(hello, variants, book)


if __name__ == "__main__":
    main()
