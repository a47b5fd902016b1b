"""The book as plain dicts, slow and obvious: what every measured stream's result is compared with.

An order is an entry of the dict of its level; a dict keeps the order of insertion, so its front is the front of the
queue. The digest is that of `engine.digest`, written again from its definition.
"""

import struct
from collections.abc import Iterable
from hashlib import sha256
from typing import Final

import numpy as np

from runtime.errors import AnswerIsNo
from schemas.mbo import F_LAST, F_SNAPSHOT
from schemas.units import UNDEF_PRICE, UNDEF_SIZE

_LEVEL: Final = struct.Struct("<cqqqI")
_ORDER: Final = struct.Struct("<QI")


class WrongAnswerError(AnswerIsNo):
    """What was measured computed something else than the truth.

    Args:
        row: the row whose result is wrong.
        what: what differs.
    """

    def __init__(self, row: str, what: str) -> None:
        self.row, self.what = row, what
        super().__init__(f"{row} is wrong: {what}", remedy="a figure of a wrong answer means nothing; mend it first")


class PlainBook:
    """Orders by id as (side, price), and the dict id → size of each (side, price)."""

    def __init__(self) -> None:
        self._where: dict[int, tuple[bytes, int]] = {}
        self._levels: dict[tuple[bytes, int], dict[int, int]] = {}
        self._receiving = False

    def apply(self, records: np.ndarray) -> None:
        """Apply records of `schemas.mbo.MBO_DTYPE` in order."""
        fields = ("action", "side", "price", "size", "order_id", "flags")
        for record in zip(*(records[name].tolist() for name in fields), strict=True):
            self._apply(*record)

    def _apply(self, action: bytes, side: bytes, px: int, size: int, order_id: int, flags: int) -> None:
        is_snapshot = bool(flags & F_SNAPSHOT)
        if action == b"R" or (is_snapshot and not self._receiving):
            self._where.clear()
            self._levels.clear()
        self._receiving = is_snapshot and not flags & F_LAST
        if action == b"C":
            self._cancel(order_id, size)
        elif action in (b"A", b"M") and px != UNDEF_PRICE and side in (b"B", b"A"):
            lots = 0 if size == UNDEF_SIZE else size
            if lots or (action == b"M" and order_id in self._where):
                self._put(order_id, (side, px), lots)

    def _cancel(self, order_id: int, size: int) -> None:
        key = self._where.get(order_id)
        if key is None:
            return
        queue = self._levels[key]
        if size in (0, UNDEF_SIZE) or size >= queue[order_id]:
            self._remove(order_id)
        else:
            queue[order_id] -= size

    def _remove(self, order_id: int) -> None:
        key = self._where.pop(order_id)
        queue = self._levels[key]
        del queue[order_id]
        if not queue:
            del self._levels[key]

    def _put(self, order_id: int, key: tuple[bytes, int], size: int) -> None:
        """A new order, or a known one at its new place; smaller at the same price keeps its place in the queue."""
        if self._where.get(order_id) == key and 0 < size <= self._levels[key][order_id]:
            self._levels[key][order_id] = size
            return
        if order_id in self._where:
            self._remove(order_id)
        if size:
            self._where[order_id] = key
            self._levels.setdefault(key, {})[order_id] = size

    def levels(self, side: bytes) -> list[tuple[int, int, int]]:
        """(price, lots, orders) of a side, best first."""
        prices = sorted((px for s, px in self._levels if s == side), reverse=side == b"B")
        queues = ((px, self._levels[side, px]) for px in prices)
        return [(px, sum(queue.values()), len(queue)) for px, queue in queues]

    def digest(self, tick_px: int) -> str:
        """Hash of the book as `engine.digest` defines it."""
        digest = sha256()
        for side in (b"B", b"A"):
            for px, size, count in self.levels(side):
                digest.update(_LEVEL.pack(side, (2 * px + tick_px) // (2 * tick_px), px, size, count))
                for order in self._levels[side, px].items():
                    digest.update(_ORDER.pack(*order))
        return digest.hexdigest()

    @property
    def orders(self) -> int:
        """Orders that rest."""
        return len(self._where)


def book_of(pieces: Iterable[np.ndarray]) -> PlainBook:
    """The book after the records of all pieces."""
    book = PlainBook()
    for piece in pieces:
        book.apply(piece)
    return book
