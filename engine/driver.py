"""The loop over records: time, bins, state of the book, action, event end; and the clock and the end of input.

State of the book:

    PARTIAL   built from flow alone         start, and after a silence of more than 7 days
    SNAPSHOT  a snapshot is being received  its first record empties book and physics
    VALID     complete                      after a snapshot; after a clear
    SUSPECT   something was lost upstream   until the next clear or snapshot

A snapshot ends with its record that has F_LAST, or as soon as a record without F_SNAPSHOT, or the end of input, is
seen; then before anything else, at the time of its last record (or at the start of the open bin, if a clock message has
closed that record's bin). The grid takes its depths at that moment.

A call is atomic per record: a record is applied completely or not at all, with everything before it (bins that end,
a snapshot that ends) repeatable. Room for a record is made sure of before it is touched: the most that one record can
need is one order, one level, two ticks, one fill, one trade and one MBP-10 record.
"""

from typing import Final

import numpy as np

from engine import bins, counters, events, grid
from engine import book as l3
from engine._jit import i64, kernel
from engine.actions import CLEAR, TRADE, apply_action
from engine.record_time import NO_TIME, own_time
from engine.state import (
    PARTIAL,
    SNAPSHOT,
    SUSPECT,
    VALID,
    Book,
    Config,
    Counts,
    Grid,
    Heap,
    Machine,
    Record,
    Sinks,
    State,
)
from schemas.mbo import F_LAST, F_MAYBE_BAD_BOOK, F_SNAPSHOT
from schemas.units import NS_PER_SECOND, UNDEF_PRICE

SESSION_GAP_NS: Final = 7 * 86_400 * NS_PER_SECOND
"""A longer silence starts a new session: below, a long weekend would; above, a stream that was lost for weeks would go
on with a book that no longer exists."""

DONE: Final = 0
ROWS_FULL: Final = 1
NO_ROOM: Final = 2

APPLY: Final = 0
ADVANCE: Final = 1
FLUSH: Final = 2


@kernel
def suspect(state: State) -> None:
    """Distrust the book until the next clear or snapshot; a snapshot being received ends in SUSPECT."""
    if state.book_state == SNAPSHOT:
        state.suspect_after = 1
    elif state.book_state != SUSPECT:
        state.book_state = SUSPECT
        state.epoch += 1


@kernel
def _reset(machine: Machine, book_state: int, t_ns: int) -> None:
    """Empty the book and set all physics to zero."""
    state = machine.state
    l3.clear(machine.book)
    grid.void(machine, t_ns)
    state.book_state = book_state
    state.suspect_after = 0
    state.bins_since_reset = 0
    state.epoch += 1
    state.ofi_valid = 0


@kernel
def _end_snapshot(machine: Machine) -> None:
    """Make the received book valid and give the grid its depths."""
    state = machine.state
    state.book_state = VALID
    state.bins_since_reset = 0
    state.epoch += 1
    grid.void(machine, max(state.snapshot_t_ns, state.bin_seq * machine.config.cell_ns))
    grid.load_depths(machine)
    if state.suspect_after:
        state.suspect_after = 0
        suspect(state)


@kernel
def _start(machine: Machine, t_ns: int) -> None:
    """Open the first bin; every tick counts as advanced over one whole bin at its start."""
    state, config = machine.state, machine.config
    state.started = 1
    state.bin_seq = t_ns // config.cell_ns
    grid.void(machine, (state.bin_seq - 1) * config.cell_ns)


@kernel
def _new_session(machine: Machine, t_ns: int) -> bool:
    """Close the open bin and start anew at a time; False if the buffer of rows is full."""
    state = machine.state
    if state.book_state == SNAPSHOT:
        _end_snapshot(machine)
    if state.event_count > 0 and not bins.close_bins(machine, state.bin_seq + 1):
        return False
    _reset(machine, PARTIAL, t_ns)
    state.bin_seq = t_ns // machine.config.cell_ns
    state.closed_bid_px = UNDEF_PRICE
    state.closed_ask_px = UNDEF_PRICE
    state.last_trade_px = UNDEF_PRICE
    return True


@kernel
def _reach(machine: Machine, t_ns: int) -> bool:
    """Close every bin that ends at or before a time; False if the buffer of rows is full."""
    state = machine.state
    if t_ns - state.t_ns > SESSION_GAP_NS:
        return _new_session(machine, t_ns)
    return bins.close_bins(machine, t_ns // machine.config.cell_ns)


@kernel
def _apply_to_book(machine: Machine, record: Record) -> None:
    """The record's effect on the state of the book, the book and the grid."""
    state = machine.state
    is_clear = record.action == CLEAR
    if record.flags & F_SNAPSHOT:
        if is_clear or state.book_state != SNAPSHOT:
            _reset(machine, SNAPSHOT, state.t_ns)
        state.snapshot_t_ns = state.t_ns
    elif is_clear:
        _reset(machine, VALID, state.t_ns)
    if not is_clear:
        apply_action(machine, record)
    if record.flags & F_MAYBE_BAD_BOOK:
        suspect(state)


@kernel
def _end_event(machine: Machine, record: Record) -> None:
    """What follows the last record of an event."""
    if machine.state.book_state == SNAPSHOT:
        _end_snapshot(machine)
    events.add_imbalance(machine)
    if machine.config.mbp10:
        events.end_event(machine, record)


@kernel
def _apply_record(machine: Machine, record: Record) -> bool:
    """Apply one record; False, with the record untouched, if the buffer of rows is full."""
    state = machine.state
    own, bad = own_time(record, machine.config.max_future_ns)
    if own == NO_TIME and not state.has_time:
        return True
    t_ns = max(own, state.t_ns)
    if state.book_state == SNAPSHOT and not record.flags & F_SNAPSHOT:
        _end_snapshot(machine)
    if not state.started:
        _start(machine, t_ns)
    elif not _reach(machine, t_ns):
        return False
    if bad:
        counters.count(state, machine.counts, counters.BAD_TIMESTAMP)
    if own != NO_TIME and own < state.t_ns:
        counters.count(state, machine.counts, counters.LATE_RECORD)
    state.has_time = 1
    state.t_ns = t_ns
    state.event_id += 1
    state.event_count += 1
    state.last_sequence = i64(record.sequence)
    if machine.config.mbp10 and record.action == TRADE and not record.flags & F_SNAPSHOT:
        events.note_trade(machine, record)
    _apply_to_book(machine, record)
    if record.flags & F_LAST:
        _end_event(machine, record)
    return True


@kernel
def _room(machine: Machine) -> int:
    """Records that can certainly be applied before some table has to grow."""
    heap, book, grids = machine.book.heap, machine.book, machine.grid
    room: int = min(len(book.orders) - heap.orders, len(book.levels) - heap.levels)
    room = min(room, len(book.expiring) - heap.expiring)
    if not machine.state.centred:  # two ticks a record, and one a level at a snapshot's end, in half the places
        room = min(room, (len(grids.early_marks) // 2 - heap.early - heap.levels) // 3)
    return room


@kernel
def _apply(machine: Machine, records: np.ndarray, start: int) -> tuple[int, int]:
    """Apply records from `start` on until something is full.

    Returns:
        Index of the first record not applied, and DONE, ROWS_FULL or NO_ROOM.
    """
    heap, sinks = machine.book.heap, machine.sinks
    i = start
    while i < len(records):
        rows = min(len(sinks.trades) - heap.trade_rows, len(sinks.mbp_header) - heap.mbp_rows)
        if rows <= 0:
            return i, ROWS_FULL
        room = _room(machine)
        if room <= 0:
            return i, NO_ROOM
        stop = min(len(records), i + min(room, rows))
        while i < stop:
            if not _apply_record(machine, records[i]):
                return i, ROWS_FULL
            i += 1
    return i, DONE


@kernel
def _advance(machine: Machine, t_ns: int) -> int:
    """Take a clock message."""
    state = machine.state
    if t_ns > state.t_ns or not state.has_time:
        if state.started and not _reach(machine, t_ns):
            return ROWS_FULL
        state.t_ns = t_ns
        state.has_time = 1
    return DONE


@kernel
def _flush(machine: Machine) -> int:
    """Take the end of input."""
    state = machine.state
    if state.book_state == SNAPSHOT:
        _end_snapshot(machine)
    if state.event_count > 0:
        if not bins.close_bins(machine, state.bin_seq + 1):
            return ROWS_FULL
        state.t_ns = state.bin_seq * machine.config.cell_ns
    return DONE


@kernel
def run(
    operation: int,
    records: np.ndarray,
    start: int,
    t_ns: int,
    config: np.ndarray,
    state: np.ndarray,
    heap: np.ndarray,
    counts: Counts,
    orders: np.ndarray,
    index: np.ndarray,
    levels: np.ndarray,
    ladder_keys: np.ndarray,
    ladder: np.ndarray,
    expiring: np.ndarray,
    marks: np.ndarray,
    rows: np.ndarray,
    early_marks: np.ndarray,
    early_rows: np.ndarray,
    opened: np.ndarray,
    powers: np.ndarray,
    scratch: np.ndarray,
    bin_rows: np.ndarray,
    grid_rows: np.ndarray,
    touched_rows: np.ndarray,
    trade_rows: np.ndarray,
    mbp_header: np.ndarray,
    mbp_px: np.ndarray,
    mbp_u4: np.ndarray,
    top_ten: np.ndarray,
    fresh_top: np.ndarray,
    event: np.ndarray,
) -> tuple[int, int]:
    """The one entry from Python: apply records, advance the clock, or flush.

    One entry, because every entry compiles everything below it. Arrays come one by one, because unpacking a named tuple
    at this border costs more than a block of records; shapes and dtypes stand in `state`.

    Args:
        operation: APPLY, ADVANCE or FLUSH.
        records: MBO_KERNEL_DTYPE[n], for APPLY.
        start: First record to apply, for APPLY.
        t_ns: Time of the clock message, for ADVANCE.
        config, state, heap: One element each, of CONFIG_DTYPE, STATE_DTYPE, HEAP_DTYPE.
        counts: int64[10].
        orders, index, levels, ladder_keys, ladder, expiring: The book, see `state.Book`.
        marks, rows, early_marks, early_rows, opened, powers, scratch: The grid, see `state.Grid`.
        bin_rows, grid_rows, touched_rows, trade_rows, mbp_header, mbp_px, mbp_u4: Buffers, see `state.Sinks`.
        top_ten, fresh_top, event: See `state.Machine`.

    Returns:
        Index of the first record not applied, and DONE, ROWS_FULL or NO_ROOM.
    """
    h: Heap = heap[0]
    c: Config = config[0]
    machine = Machine(
        c,
        state[0],
        counts,
        Book(h, orders, index, levels, ladder_keys, ladder, expiring),
        Grid(h, marks, rows, early_marks, early_rows, opened, powers, scratch),
        Sinks(bin_rows, grid_rows, touched_rows, trade_rows, mbp_header, mbp_px, mbp_u4),
        top_ten,
        fresh_top,
        event,
    )
    if operation == APPLY:
        return _apply(machine, records, start)
    if operation == ADVANCE:
        return start, _advance(machine, t_ns)
    return start, _flush(machine)
