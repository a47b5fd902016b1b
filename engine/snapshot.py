"""The whole state of an engine as bytes, and back.

    magic, version | settings (JSON) | state | counters | top ten | open event | book | grid | SHA-256 of all before

The book is written level by level, best first, orders in their queue; the grid by tick. So the bytes depend on what the
engine knows, not on how its tables came to be laid out: equal engines have equal bytes, and unchanged ones are stored
once. Values are copied bit for bit; a restored engine goes on exactly as the old one would have.
"""

import json
from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from engine import book, grid
from engine.framing import pack, unpack
from engine.machine import with_attributes
from engine.memory import Memory
from engine.state import ASK, BID, LEVEL_DTYPE, MARK_DTYPE, ORDER_DTYPE, ROW_FLOATS

STATE_FORMAT: Final = 1
"""Rises when the bytes change; another version is refused."""

_VERBATIM: Final = ("state", "counts", "top_ten", "event")
"""Arrays that are stored as they lie."""

_LEVEL: Final = np.dtype([("px", "<i8"), ("count", "<i4")])
_ORDER: Final = np.dtype([("id", "<u8"), ("pending", "<i8"), ("size", "<u4")])
_MARK_FIELDS: Final = ["tick", "bin_seq", "last_t_ns", "dt_last_ns", "last_event_id", "open"]
_MARK: Final = np.dtype([(name, "<i8") for name in _MARK_FIELDS])


def walk_book(memory: Memory) -> tuple[tuple[np.ndarray, np.ndarray], np.ndarray]:
    """Copy the book.

    Args:
        memory: Of an engine; it is not changed.

    Returns:
        Levels of bid and of ask, LEVEL_DTYPE[n] each, best first; and the orders of both, ORDER_DTYPE[orders], level by
        level in that order, front of the queue first. Slots in them are those of `memory`.
    """
    m = memory.m
    bids = with_attributes(np.zeros(m["bid_levels"], LEVEL_DTYPE))
    asks = with_attributes(np.zeros(m["ask_levels"], LEVEL_DTYPE))
    orders = with_attributes(np.zeros(m["orders"], ORDER_DTYPE))
    after_bids = book.walk(m, BID, bids, orders, 0)
    book.walk(m, ASK, asks, orders, after_bids)
    return (bids, asks), orders


def _packed(array: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """The fields of `dtype` out of a structured array."""
    out = np.zeros(len(array), dtype)
    for name in dtype.names or ():
        out[name] = array[name]
    return out


def dump(memory: Memory, settings: Mapping[str, Any]) -> bytes:
    """Bytes of an engine's state and settings, in the format of this module.

    Args:
        memory: Of the engine; it is not changed.
        settings: Fields of `EngineConfig` by name, all of them.

    Returns:
        The bytes; equal for equal states and settings.
    """
    (bids, asks), orders = walk_book(memory)
    marks, rows = memory.live_rows()
    parts = [
        json.dumps(settings, sort_keys=True).encode(),
        *(memory.arrays[name].tobytes() for name in _VERBATIM),
        _packed(bids, _LEVEL).tobytes(),
        _packed(asks, _LEVEL).tobytes(),
        _packed(orders, _ORDER).tobytes(),
        _packed(marks, _MARK).tobytes(),
        rows.tobytes(),
    ]
    return pack("engine", STATE_FORMAT, parts)


def read_settings(data: bytes) -> dict[str, Any]:
    """The settings in a snapshot.

    Args:
        data: Bytes of `dump`.

    Returns:
        Fields of `EngineConfig` by name.

    Raises:
        SnapshotError: the bytes are no snapshot, damaged, or of another version.
    """
    settings: dict[str, Any] = json.loads(unpack("engine", STATE_FORMAT, data)[0])
    return settings


def load(data: bytes, machine: np.ndarray) -> Memory:
    """Memory in the state that `dump` wrote.

    Args:
        data: Bytes of `dump`, already checked by `read_settings`.
        machine: MACHINE_DTYPE[1] with the settings in them filled in.

    Returns:
        Fresh memory that holds `machine`; its tables have room for what was read and grow from there.
    """
    _, *verbatim, bid_bytes, ask_bytes, order_bytes, mark_bytes, row_bytes = unpack("engine", STATE_FORMAT, data)
    bids = _unpacked(bid_bytes, _LEVEL, LEVEL_DTYPE)
    asks = _unpacked(ask_bytes, _LEVEL, LEVEL_DTYPE)
    orders = _unpacked(order_bytes, _ORDER, ORDER_DTYPE)
    marks = _unpacked(mark_bytes, _MARK, MARK_DTYPE)
    rows = np.frombuffer(row_bytes, np.float64).reshape(-1, ROW_FLOATS)
    memory = Memory(machine, len(orders) + 1, len(bids) + len(asks) + 1, len(marks) + len(bids) + len(asks) + 1)
    for name, part in zip(_VERBATIM, verbatim, strict=True):
        array = memory.arrays[name]
        array[:] = np.frombuffer(part, array.dtype).reshape(array.shape)
    after_bids = book.refill(memory.m, BID, bids, orders, 0)
    book.refill(memory.m, ASK, asks, orders, after_bids)
    grid.adopt(memory.m, marks, rows.copy())
    return memory


def _unpacked(data: bytes, packed: np.dtype, dtype: np.dtype) -> np.ndarray:
    """The inverse of `_packed`; other fields are zero."""
    source = np.frombuffer(data, packed)
    out = np.zeros(len(source), dtype)
    for name in packed.names or ():
        out[name] = source[name]
    return with_attributes(out)
