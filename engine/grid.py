"""Physics per tick of price: decaying masses, depth and its derivatives, kept lazily.

Rules of time, for a grid of bins of D ns:

- Every tick is advanced at every bin end, touched or not. A row that was touched in a bin (it is *open*) is advanced to
  the bin's end when the bin closes. From there on it is advanced only when it is read or touched: m silent bins are one
  matrix power. So a bin costs the ticks touched in it, plus the ticks read at its end.
- A touch at t first brings the row to the start of the open bin, then steps it by dt = t - max(last touch, bin start).
  More input at the same t joins that step: the step is linear in its input.
- A tick without a row is at zero since the last reset. Rows are voided all at once by a new stamp.

Where rows lie: the window of `n_ticks` ticks around `centre`, at tick modulo n_ticks. Until the first centre is known,
every touched tick is kept in a hash table of its own, and those inside the window move over then. Depth always equals
the book's, except while a snapshot comes in, when it is zero.
"""

import math
from typing import TypeAlias

import numpy as np

from engine import counters
from engine._jit import inlined, kernel
from engine.book import level_count
from engine.chains import power, set_weights
from engine.exponential import exp
from engine.machine import (
    early_marks,
    early_rows,
    grid_rows,
    ladder,
    level_of,
    opened,
    ring_marks,
    ring_rows,
    scratch,
    state_of,
    touched_rows,
)
from engine.state import (
    ADD_MASS,
    ASK,
    ASK_LOTS,
    BID,
    BID_LOTS,
    CHAINS,
    FILL_MASS,
    NONE,
    PULL_MASS,
    ROW_FLOATS,
    SNAPSHOT,
    A,
    J,
    Machine,
    Record,
    V,
)
from schemas.units import NS_PER_SECOND

Deltas: TypeAlias = tuple[float, float, float, float, float]
"""Input of a step, lots, in the order of the chains."""


@inlined
def _marks(m: Machine) -> np.ndarray:
    return ring_marks(m) if state_of(m).centred else early_marks(m)


@inlined
def _rows(m: Machine) -> np.ndarray:
    return ring_rows(m) if state_of(m).centred else early_rows(m)


@inlined
def in_window(tick: int, centre: int, n_ticks: int) -> bool:
    """Whether a tick lies in [centre - n/2, centre + n/2).

    Args:
        tick: Grid tick.
        centre: Grid tick in the middle of the window.
        n_ticks: Length n of the window, even.

    Returns:
        True inside.
    """
    offset = tick - centre + n_ticks // 2
    return 0 <= offset < n_ticks


@inlined
def _place(m: Machine, tick: int) -> int:
    """Where the row of a tick lies or would lie; NONE outside the window."""
    state = state_of(m)
    if state.centred:
        return tick & (m.n_ticks - 1) if in_window(tick, state.centre, m.n_ticks) else NONE
    marks = early_marks(m)
    mask = m.early_room - 1
    place: int = tick & mask
    while marks[place].stamp == m.stamp and marks[place].tick != tick:
        place = (place + 1) & mask
    return place


@kernel
def _start_row(marks: np.ndarray, rows: np.ndarray, place: int, tick: int, stamp: int) -> None:
    """Make a row of zeros."""
    mark = marks[place]
    mark.tick = tick
    mark.stamp = stamp
    mark.last_event_id = 0
    mark.open = 0
    for i in range(ROW_FLOATS):
        rows[place, i] = 0.0


@kernel
def _stand_at_start(m: Machine, mark: Record, bin_seq: int) -> None:
    """Date a row of zeros: at the start of a bin, or at the reset if that is later."""
    start_ns = bin_seq * m.cell_ns
    reset_t_ns = state_of(m).reset_t_ns
    mark.bin_seq = bin_seq
    if reset_t_ns >= start_ns:
        mark.last_t_ns = reset_t_ns
        mark.dt_last_ns = 0
    else:
        mark.last_t_ns = start_ns
        mark.dt_last_ns = min(m.cell_ns, start_ns - reset_t_ns)


@kernel
def _advance(m: Machine, rows: np.ndarray, place: int, bins: int, out: np.ndarray, at: int) -> None:
    """Values of a row after `bins` > 0 silent bins, into row `at` of `out`; it may be the row itself."""
    factor = exp(-(bins * m.cell_ns / NS_PER_SECOND) * m.rate_mass)
    p = power(m, bins)
    out[at, ADD_MASS] = rows[place, ADD_MASS] * factor
    out[at, PULL_MASS] = rows[place, PULL_MASS] * factor
    out[at, FILL_MASS] = rows[place, FILL_MASS] * factor
    out[at, BID_LOTS] = rows[place, BID_LOTS]
    out[at, ASK_LOTS] = rows[place, ASK_LOTS]
    for c in range(CHAINS):
        v, a, j = rows[place, V + c], rows[place, A + c], rows[place, J + c]
        out[at, V + c] = p[0] * v
        out[at, A + c] = p[1] * v + p[2] * a
        out[at, J + c] = p[3] * v + p[4] * a + p[5] * j


@kernel
def _open_row(m: Machine, tick: int) -> int:
    """Bring the row of a tick to the open bin and list it as open.

    Returns:
        Its place; NONE outside the window.
    """
    state = state_of(m)
    place = _place(m, tick)
    if place == NONE:
        return NONE
    marks, rows = _marks(m), _rows(m)
    mark = marks[place]
    if mark.stamp != m.stamp or mark.tick != tick:
        _start_row(marks, rows, place, tick, m.stamp)
        _stand_at_start(m, mark, state.bin_seq)
        if not state.centred:
            m.early += 1
    elif mark.bin_seq < state.bin_seq:
        _advance(m, rows, place, state.bin_seq - mark.bin_seq, rows, place)
        mark.bin_seq = state.bin_seq
        mark.last_t_ns = state.bin_seq * m.cell_ns
        mark.dt_last_ns = m.cell_ns
    if not mark.open:
        mark.open = 1
        opened(m)[m.opened] = place
        m.opened += 1
    return place


@inlined
def _step(m: Machine, rows: np.ndarray, place: int, deltas: Deltas) -> None:
    """One step of masses and chains with the weights in `m`; depths are left alone.

    What is not finite spreads from v to a to j, so the sum of the jerks tells whether the common case holds.
    """
    rows[place, ADD_MASS] *= m.keep_mass
    rows[place, PULL_MASS] *= m.keep_mass
    rows[place, FILL_MASS] *= m.keep_mass
    new = scratch(m)
    check = 0.0
    for c in range(CHAINS):
        v, a, j = rows[place, V + c], rows[place, A + c], rows[place, J + c]
        v1 = m.gain_v * deltas[c] + m.keep_v * v
        a1 = m.gain_a * (v1 - v) + m.keep_a * a
        j1 = m.gain_j * (a1 - a) + m.keep_j * j
        new[0, V + c], new[0, A + c], new[0, J + c] = v1, a1, j1
        check += j1
    if math.isfinite(check):
        for i in range(V, ROW_FLOATS):
            rows[place, i] = new[0, i]
    else:
        _keep_finite(m, rows, place)


@kernel
def _keep_finite(m: Machine, rows: np.ndarray, place: int) -> None:
    """Take the chains in the scratch row that are finite; the others keep their values and are counted."""
    new = scratch(m)
    for c in range(CHAINS):
        v1, a1, j1 = new[0, V + c], new[0, A + c], new[0, J + c]
        if math.isfinite(v1) and math.isfinite(a1) and math.isfinite(j1):
            rows[place, V + c], rows[place, A + c], rows[place, J + c] = v1, a1, j1
        else:
            counters.count(m, counters.NON_FINITE)


@inlined
def _join(m: Machine, rows: np.ndarray, place: int, deltas: Deltas) -> None:
    """Add input to the step just made, whose weights are in `m`."""
    for c in range(CHAINS):
        dv = m.gain_v * deltas[c]
        da = m.gain_a * dv
        rows[place, V + c] += dv
        rows[place, A + c] += da
        rows[place, J + c] += m.gain_j * da


@kernel
def touch(m: Machine, tick: int, add: int, pull: int, fill: int, bid: int, ask: int) -> None:
    """Input at a tick at the engine's time, of the record counted last.

    Args:
        m: The engine.
        tick: Grid tick; outside the window nothing happens.
        add: Lots added.
        pull: Lots pulled.
        fill: Lots filled.
        bid: Change of bid depth, lots.
        ask: Change of ask depth, lots.
    """
    state = state_of(m)
    place = _open_row(m, tick)
    if place == NONE:
        return
    rows = _rows(m)
    mark = _marks(m)[place]
    mark.last_event_id = state.event_id
    deltas = (float(add), float(pull), float(fill), float(bid), float(ask))
    dt_ns = state.t_ns - mark.last_t_ns
    if dt_ns > 0:
        mark.last_t_ns = state.t_ns
        mark.dt_last_ns = dt_ns
        set_weights(m, dt_ns)
        _step(m, rows, place, deltas)
    elif mark.dt_last_ns > 0:
        set_weights(m, mark.dt_last_ns)
        _join(m, rows, place, deltas)
    rows[place, ADD_MASS] += deltas[0]
    rows[place, PULL_MASS] += deltas[1]
    rows[place, FILL_MASS] += deltas[2]
    rows[place, BID_LOTS] += deltas[3]
    rows[place, ASK_LOTS] += deltas[4]


@kernel
def shift_depth(m: Machine, tick: int, bid: int, ask: int) -> None:
    """Follow a change of the book that is no event of the market: depth moves, nothing else does.

    Args:
        m: The engine.
        tick: Grid tick; outside the window nothing happens.
        bid: Change of bid depth, lots.
        ask: Change of ask depth, lots.
    """
    place = _open_row(m, tick)
    if place != NONE:
        rows = _rows(m)
        rows[place, BID_LOTS] += bid
        rows[place, ASK_LOTS] += ask


@kernel
def void(m: Machine, t_ns: int) -> None:
    """Set every tick to zero at a time (ns, at most the engine's), by a new stamp; no row is written."""
    m.stamp += 1
    m.opened = 0
    m.early = 0
    state_of(m).reset_t_ns = t_ns


@kernel
def load_depths(m: Machine) -> None:
    """Take the depth of every level of the book into rows that stand at zero."""
    for side in range(2):
        for i in range(level_count(m, side)):
            level = level_of(m, ladder(m)[side, i])
            shift_depth(m, level.tick, level.size if side == BID else 0, level.size if side == ASK else 0)


@kernel
def close_open_rows(m: Machine) -> None:
    """Advance the rows of the open bin to its end."""
    state = state_of(m)
    end_ns = (state.bin_seq + 1) * m.cell_ns
    marks, rows = _marks(m), _rows(m)
    for i in range(m.opened):
        place = opened(m)[i]
        mark = marks[place]
        dt_ns = end_ns - mark.last_t_ns
        set_weights(m, dt_ns)
        _step(m, rows, place, (0.0, 0.0, 0.0, 0.0, 0.0))
        mark.open = 0
        mark.bin_seq = state.bin_seq + 1
        mark.last_t_ns = end_ns
        mark.dt_last_ns = dt_ns
    m.opened = 0


@kernel
def _set_first_centre(m: Machine, centre: int) -> None:
    """Move the rows inside the first window from the early table to the ring."""
    state = state_of(m)
    n_ticks = m.n_ticks
    for early in range(m.early_room):
        mark = early_marks(m)[early]
        if mark.stamp == m.stamp and in_window(mark.tick, centre, n_ticks):
            place = mark.tick & (n_ticks - 1)
            ring_marks(m)[place] = mark
            for i in range(ROW_FLOATS):
                ring_rows(m)[place, i] = early_rows(m)[early, i]
    state.centre = centre
    state.centred = 1
    m.early = 0


@kernel
def _move_centre(m: Machine, centre: int) -> None:
    """Move the window: ticks that leave are voided, ticks that enter start from zero with depths from the book."""
    state = state_of(m)
    n_ticks = m.n_ticks
    for place in range(n_ticks):
        if not in_window(ring_marks(m)[place].tick, centre, n_ticks):
            ring_marks(m)[place].stamp = 0
    old = state.centre
    state.centre = centre
    if state.book_state == SNAPSHOT or not m.physics:
        return
    for side in range(2):
        for i in range(level_count(m, side)):
            level = level_of(m, ladder(m)[side, i])
            if in_window(level.tick, old, n_ticks) or not in_window(level.tick, centre, n_ticks):
                continue
            place = level.tick & (n_ticks - 1)
            mark = ring_marks(m)[place]
            if mark.stamp != m.stamp or mark.tick != level.tick:
                _start_row(ring_marks(m), ring_rows(m), place, level.tick, m.stamp)
                _stand_at_start(m, mark, state.bin_seq + 1)
            ring_rows(m)[place, BID_LOTS if side == BID else ASK_LOTS] += level.size


@kernel
def follow(m: Machine, spot_tick: int) -> None:
    """Let the window follow the market, at a bin end with a mid, after `close_open_rows`."""
    state = state_of(m)
    if not state.centred:
        _set_first_centre(m, spot_tick)
    elif abs(spot_tick - state.centre) > m.n_ticks // 4:
        _move_centre(m, spot_tick)


@kernel
def read(m: Machine, spot_tick: int, row: int) -> None:
    """Write the vectors around a tick as they stand at the end of the open bin, after `follow`; nothing is changed."""
    state = state_of(m)
    n_ticks = m.n_ticks
    for i in range(2 * m.radius + 1):
        tick = spot_tick - m.radius + i
        place = tick & (n_ticks - 1)
        mark = ring_marks(m)[place]
        if mark.stamp != m.stamp or mark.tick != tick:
            touched_rows(m)[row, i] = 0
            for f in range(ROW_FLOATS):
                grid_rows(m)[row, f, i] = 0.0
            continue
        touched_rows(m)[row, i] = mark.last_event_id
        bins = state.bin_seq + 1 - mark.bin_seq
        if bins > 0:
            _advance(m, ring_rows(m), place, bins, scratch(m), 0)
            for f in range(ROW_FLOATS):
                grid_rows(m)[row, f, i] = scratch(m)[0, f]
        else:
            for f in range(ROW_FLOATS):
                grid_rows(m)[row, f, i] = ring_rows(m)[place, f]


@kernel
def adopt(m: Machine, marks: np.ndarray, rows: np.ndarray) -> None:
    """Enter live rows into tables that hold none of them: after growth, and at restore.

    Args:
        m: The engine.
        marks: MARK_DTYPE[n]; stamps do not matter.
        rows: float64[n, ROW_FLOATS].
    """
    m.early = 0
    m.opened = 0
    for i in range(len(marks)):
        place = _place(m, marks[i].tick)
        mark = _marks(m)[place]
        mark.tick = marks[i].tick
        mark.stamp = m.stamp
        mark.bin_seq = marks[i].bin_seq
        mark.last_t_ns = marks[i].last_t_ns
        mark.dt_last_ns = marks[i].dt_last_ns
        mark.last_event_id = marks[i].last_event_id
        mark.open = marks[i].open
        for f in range(ROW_FLOATS):
            _rows(m)[place, f] = rows[i, f]
        if not state_of(m).centred:
            m.early += 1
        if mark.open:
            opened(m)[m.opened] = place
            m.opened += 1
