"""nautilus_trader's OrderBook with single orders (L3_MBO), from Python as its users drive it.

Its deltas are objects that are made beforehand. T and F do not change a book and become no delta; a cancel of a part
becomes an update to what is left. The rate counts all records of the stream all the same.
"""

from collections.abc import Callable
from typing import Any

import nautilus_trader
import numpy as np
from nautilus_trader.model.book import OrderBook
from nautilus_trader.model.data import BookOrder, OrderBookDelta, OrderBookDeltas
from nautilus_trader.model.enums import BookAction, BookType, OrderSide
from nautilus_trader.model.identifiers import InstrumentId
from nautilus_trader.model.objects import Price, Quantity
from protocol import load, serve, sizes_left, timed

BATCHES = (100, 10_000)
INSTRUMENT = InstrumentId.from_str("SYN0.BARO")


def deltas_of(records: np.ndarray, left: list[int]) -> list[OrderBookDelta]:
    """One delta for each record that changes the book."""
    prices = {px: Price.from_str(f"{px // 10**9}.{px % 10**9:09d}") for px in np.unique(records["price"]).tolist()}
    lots = {size: Quantity.from_int(size) for size in {*left, *np.unique(records["size"]).tolist()}}
    sides = {b"B": OrderSide.BUY, b"A": OrderSide.SELL}
    names = ("action", "side", "price", "size", "order_id", "flags", "sequence", "ts_event", "ts_recv")
    out = []
    for record, rest in zip(zip(*(records[n].tolist() for n in names), strict=True), left, strict=True):
        action, side, px, size, order_id, flags, sequence, ts_event, ts_recv = record
        if action == b"R":
            out.append(OrderBookDelta.clear(INSTRUMENT, sequence, ts_event, ts_recv))
            continue
        if action not in (b"A", b"C", b"M"):
            continue
        kind = BookAction.ADD if action == b"A" else BookAction.UPDATE if rest else BookAction.DELETE
        order = BookOrder(sides[side], prices[px], lots[rest or size], order_id)
        out.append(OrderBookDelta(INSTRUMENT, kind, order, flags, sequence, ts_event, ts_recv))
    return out


def main() -> None:
    """Make all deltas, then serve."""
    opening, records, _ = load()
    left = sizes_left(np.concatenate([opening, records]))
    first, deltas = deltas_of(opening, left[: len(opening)]), deltas_of(records, left[len(opening) :])
    batches = {n: [OrderBookDeltas(INSTRUMENT, deltas[i : i + n]) for i in range(0, len(deltas), n)] for n in BATCHES}
    last: list[OrderBook] = []

    def fresh() -> OrderBook:
        book = OrderBook(INSTRUMENT, BookType.L3_MBO)
        for delta in first:
            book.apply_delta(delta)
        last[:] = [book]
        return book

    def one_by_one() -> float:
        apply = fresh().apply_delta

        def work() -> None:
            for delta in deltas:
                apply(delta)

        return timed(work)

    def batched(n: int) -> Callable[[], float]:
        def run() -> float:
            apply, prepared = fresh().apply_deltas, batches[n]

            def work() -> None:
                for batch in prepared:
                    apply(batch)

            return timed(work)

        return run

    variants = {"apply_delta": one_by_one, **{f"apply_deltas_{n}": batched(n) for n in BATCHES}}

    def book() -> dict[str, Any]:
        sides = {"bids": last[0].bids(), "asks": last[0].asks()}
        return {
            name: [[round(float(level.price) * 1e9), round(float(level.size()))] for level in levels]
            for name, levels in sides.items()
        }

    hello = {
        "peer": "nautilus_trader",
        "version": nautilus_trader.__version__,
        "excluded": "making the delta objects; the opening records; T and F, which become no delta, count as done",
    }
    serve(hello, variants, book)


if __name__ == "__main__":
    main()
