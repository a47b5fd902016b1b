"""One hash for one book: what certificates compare.

SHA-256 over the levels, bids then asks, best first. Per level `<cqqqI`: side as letter, grid tick, price, size, number
of orders; then per order, front of the queue first, `<QI`: id, size. Little-endian. An empty book hashes nothing.
"""

import struct
from hashlib import sha256
from typing import Final

import numpy as np

from engine.memory import Memory
from engine.snapshot import walk_book

_LEVEL: Final = struct.Struct("<cqqqI")
_ORDER: Final = np.dtype([("id", "<u8"), ("size", "<u4")])


def book_digest(memory: Memory) -> str:
    """Hash of the book.

    Args:
        memory: Of an engine; it is not changed.

    Returns:
        SHA-256 as 64 lower-case hex digits, over the bytes that this module describes; that of no bytes for an empty
        book.
    """
    sides, orders = walk_book(memory)
    packed = np.zeros(len(orders), _ORDER)
    packed["id"], packed["size"] = orders["id"], orders["size"]
    digest = sha256()
    first = 0
    for letter, levels in zip((b"B", b"A"), sides, strict=True):
        for level in levels:
            count = int(level["count"])
            digest.update(_LEVEL.pack(letter, level["tick"], level["px"], level["size"], count))
            digest.update(packed[first : first + count].tobytes())
            first += count
    return digest.hexdigest()
