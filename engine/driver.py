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
from engine._jit import i64, inlined, kernel
from engine.actions import CLEAR, TRADE, apply_action
from engine.ahead import AHEAD, look_ahead
from engine.machine import machine_at, records_at, state_of
from engine.record_time import NO_TIME, own_time
from engine.records import first_bad
from engine.state import NONE, PARTIAL, SNAPSHOT, SUSPECT, VALID, Machine, Record
from schemas.mbo import F_LAST, F_MAYBE_BAD_BOOK, F_SNAPSHOT
from schemas.units import NS_PER_SECOND, UNDEF_PRICE

SESSION_GAP_NS: Final = 7 * 86_400 * NS_PER_SECOND
"""A longer silence starts a new session: below, a long weekend would; above, a stream that was lost for weeks would go
on with a book that no longer exists."""

DONE: Final = 0
ROWS_FULL: Final = 1
NO_ROOM: Final = 2
BAD_RECORD: Final = 3

APPLY: Final = 0
ADVANCE: Final = 1
FLUSH: Final = 2


@kernel
def suspect(m: Machine) -> None:
    """Distrust the book until the next clear or snapshot; a snapshot being received ends in SUSPECT."""
    state = state_of(m)
    if state.book_state == SNAPSHOT:
        state.suspect_after = 1
    elif state.book_state != SUSPECT:
        state.book_state = SUSPECT
        state.epoch += 1


@kernel
def _reset(m: Machine, book_state: int, t_ns: int) -> None:
    """Empty the book and set all physics to zero."""
    state = state_of(m)
    l3.clear(m)
    grid.void(m, t_ns)
    state.book_state = book_state
    state.suspect_after = 0
    state.bins_since_reset = 0
    state.epoch += 1
    state.ofi_valid = 0


@kernel
def _end_snapshot(m: Machine) -> None:
    """Make the received book valid and give the grid its depths."""
    state = state_of(m)
    state.book_state = VALID
    state.bins_since_reset = 0
    state.epoch += 1
    grid.void(m, max(state.snapshot_t_ns, state.bin_seq * m.cell_ns))
    if m.physics:
        grid.load_depths(m)
    if state.suspect_after:
        state.suspect_after = 0
        suspect(m)


@kernel
def _start(m: Machine, t_ns: int) -> None:
    """Open the first bin; every tick counts as advanced over one whole bin at its start."""
    state = state_of(m)
    state.started = 1
    state.bin_seq = t_ns // m.cell_ns
    grid.void(m, (state.bin_seq - 1) * m.cell_ns)


@kernel
def _new_session(m: Machine, t_ns: int) -> bool:
    """Close the open bin and start anew at a time; False if the buffer of rows is full."""
    state = state_of(m)
    if state.book_state == SNAPSHOT:
        _end_snapshot(m)
    if state.event_count > 0 and not bins.close_bins(m, state.bin_seq + 1):
        return False
    _reset(m, PARTIAL, t_ns)
    state.bin_seq = t_ns // m.cell_ns
    state.closed_bid_px = UNDEF_PRICE
    state.closed_ask_px = UNDEF_PRICE
    state.last_trade_px = UNDEF_PRICE
    return True


@inlined
def _reach(m: Machine, t_ns: int) -> bool:
    """Close every bin that ends at or before a time; False if the buffer of rows is full."""
    state = state_of(m)
    if t_ns < (state.bin_seq + 1) * m.cell_ns:
        return True
    if t_ns - state.t_ns > SESSION_GAP_NS:
        return _new_session(m, t_ns)
    return bins.close_bins(m, t_ns // m.cell_ns)


@inlined
def _apply_to_book(m: Machine, record: Record) -> None:
    """The record's effect on the state of the book, the book and the grid."""
    state = state_of(m)
    is_clear = record.action == CLEAR
    if record.flags & F_SNAPSHOT:
        if is_clear or state.book_state != SNAPSHOT:
            _reset(m, SNAPSHOT, state.t_ns)
        state.snapshot_t_ns = state.t_ns
    elif is_clear:
        _reset(m, VALID, state.t_ns)
    if not is_clear:
        apply_action(m, record)
    if record.flags & F_MAYBE_BAD_BOOK:
        suspect(m)


@inlined
def _end_event(m: Machine, record: Record) -> None:
    """What follows the last record of an event."""
    if state_of(m).book_state == SNAPSHOT:
        _end_snapshot(m)
    events.add_imbalance(m)
    if m.mbp10:
        events.end_event(m, record)


@inlined
def _apply_record(m: Machine, record: Record) -> bool:
    """Apply one record; False, with the record untouched, if the buffer of rows is full."""
    state = state_of(m)
    own, bad = own_time(record, m.max_future_ns)
    if own == NO_TIME and not state.has_time:
        return True
    t_ns = max(own, state.t_ns)
    if state.book_state == SNAPSHOT and not record.flags & F_SNAPSHOT:
        _end_snapshot(m)
    if not state.started:
        _start(m, t_ns)
    elif not _reach(m, t_ns):
        return False
    if bad:
        counters.count(m, counters.BAD_TIMESTAMP)
    if own != NO_TIME and own < state.t_ns:
        counters.count(m, counters.LATE_RECORD)
    state.has_time = 1
    state.t_ns = t_ns
    state.event_id += 1
    state.event_count += 1
    state.last_sequence = i64(record.sequence)
    if m.mbp10 and record.action == TRADE and not record.flags & F_SNAPSHOT:
        events.note_trade(m, record)
    _apply_to_book(m, record)
    if record.flags & F_LAST:
        _end_event(m, record)
    return True


@inlined
def _room(m: Machine) -> int:
    """Records that can certainly be applied before some table has to grow."""
    room: int = min(m.order_room - m.orders, m.level_room - m.levels, m.expiring_room - m.expiring)
    if m.physics and not state_of(m).centred:  # a record: two ticks; a snapshot's end: one a level; in half the places
        room = min(room, (m.early_room // 2 - m.early - m.levels) // 3)
    return room


@kernel
def _apply(m: Machine, records: np.ndarray, start: int) -> tuple[int, int]:
    """Apply records from `start` on until something is full.

    Returns:
        Index of the first record not applied, and DONE, ROWS_FULL or NO_ROOM.
    """
    i = start
    while i < len(records):
        rows = min(m.trade_room - m.trade_rows, m.mbp_room - m.mbp_rows)
        if rows <= 0:
            return i, ROWS_FULL
        room = _room(m)
        if room <= 0:
            return i, NO_ROOM
        stop = min(len(records), i + min(room, rows))
        while i < stop:
            if i + AHEAD < len(records):
                look_ahead(m, records, i)
            if not _apply_record(m, records[i]):
                return i, ROWS_FULL
            i += 1
    return i, DONE


@kernel
def _advance(m: Machine, t_ns: int) -> int:
    """Take a clock message."""
    state = state_of(m)
    if t_ns > state.t_ns or not state.has_time:
        if state.started and not _reach(m, t_ns):
            return ROWS_FULL
        state.t_ns = t_ns
        state.has_time = 1
    return DONE


@kernel
def _flush(m: Machine) -> int:
    """Take the end of input: one bin at most, for which a fresh buffer has room."""
    state = state_of(m)
    if state.book_state == SNAPSHOT:
        _end_snapshot(m)
    if state.event_count > 0:
        bins.close_bins(m, state.bin_seq + 1)
        state.t_ns = state.bin_seq * m.cell_ns
    return DONE


@kernel
def run(
    address: int, operation: int, resumed: int, records_address: int, count: int, start: int, t_ns: int
) -> tuple[int, int]:
    """The one entry from Python: apply records, advance the clock, or flush. Every entry compiles all that is below it.

    Args:
        address: Where the machine record is.
        operation: APPLY, ADVANCE or FLUSH.
        resumed: 1 if this goes on where a call stopped with NO_ROOM: rows stay, records are known to be good.
        records_address: Where the caller's records are, for APPLY.
        count: How many there are.
        start: First record to apply.
        t_ns: Time of the clock message, for ADVANCE.

    Returns:
        Index of the first record not applied, and DONE, ROWS_FULL, NO_ROOM or BAD_RECORD.
    """
    m = machine_at(address)
    if not resumed:
        m.bin_rows = 0
        m.trade_rows = 0
        m.mbp_rows = 0
    if operation == APPLY:
        records = records_at(records_address, count)
        bad = NONE if resumed else first_bad(records, start)
        return (bad, BAD_RECORD) if bad != NONE else _apply(m, records, start)
    if operation == ADVANCE:
        return start, _advance(m, t_ns)
    return start, _flush(m)
