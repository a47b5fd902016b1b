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

import numpy as np

from engine import counters
from engine._jit import kernel
from engine.book import level_count
from engine.chains import power, set_weights
from engine.exponential import exp
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
    Config,
    Counts,
    Grid,
    J,
    Machine,
    Record,
    State,
    V,
)
from schemas.units import NS_PER_SECOND


@kernel
def _marks(state: State, grid: Grid) -> np.ndarray:
    return grid.marks if state.centred else grid.early_marks


@kernel
def _rows(state: State, grid: Grid) -> np.ndarray:
    return grid.rows if state.centred else grid.early_rows


@kernel
def in_window(tick: int, centre: int, n_ticks: int) -> bool:
    """Whether a tick lies in [centre - n/2, centre + n/2)."""
    offset = tick - centre + n_ticks // 2
    return 0 <= offset < n_ticks


@kernel
def _place(state: State, grid: Grid, tick: int) -> int:
    """Where the row of a tick lies or would lie; NONE outside the window."""
    if state.centred:
        n_ticks = len(grid.marks)
        return tick & (n_ticks - 1) if in_window(tick, state.centre, n_ticks) else NONE
    mask = len(grid.early_marks) - 1
    place = tick & mask
    while grid.early_marks[place].stamp == grid.heap.stamp and grid.early_marks[place].tick != tick:
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
def _stand_at_start(mark: Record, state: State, config: Config, bin_seq: int) -> None:
    """Date a row of zeros: at the start of a bin, or at the reset if that is later."""
    start_ns = bin_seq * config.cell_ns
    mark.bin_seq = bin_seq
    if state.reset_t_ns >= start_ns:
        mark.last_t_ns = state.reset_t_ns
        mark.dt_last_ns = 0
    else:
        mark.last_t_ns = start_ns
        mark.dt_last_ns = min(config.cell_ns, start_ns - state.reset_t_ns)


@kernel
def _advance(config: Config, grid: Grid, rows: np.ndarray, place: int, bins: int, out: np.ndarray, at: int) -> None:
    """Values of a row after `bins` > 0 silent bins, into row `at` of `out`; it may be the row itself."""
    factor = exp(-(bins * config.cell_ns / NS_PER_SECOND) / config.tau_mass_s)
    p = power(grid.powers, bins)
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
def _open_row(machine: Machine, tick: int) -> int:
    """Bring the row of a tick to the open bin and list it as open.

    Returns:
        Its place; NONE outside the window.
    """
    config, state, grid = machine.config, machine.state, machine.grid
    place = _place(state, grid, tick)
    if place == NONE:
        return NONE
    marks, rows = _marks(state, grid), _rows(state, grid)
    mark = marks[place]
    if mark.stamp != grid.heap.stamp or mark.tick != tick:
        _start_row(marks, rows, place, tick, grid.heap.stamp)
        _stand_at_start(mark, state, config, state.bin_seq)
        if not state.centred:
            grid.heap.early += 1
    elif mark.bin_seq < state.bin_seq:
        _advance(config, grid, rows, place, state.bin_seq - mark.bin_seq, rows, place)
        mark.bin_seq = state.bin_seq
        mark.last_t_ns = state.bin_seq * config.cell_ns
        mark.dt_last_ns = config.cell_ns
    if not mark.open:
        mark.open = 1
        grid.opened[grid.heap.opened] = place
        grid.heap.opened += 1
    return place


@kernel
def _step_chain(
    state: State, counts: Counts, grid: Grid, rows: np.ndarray, place: int, chain: int, delta: float
) -> None:
    """One step of one chain with the weights in the heap."""
    heap = grid.heap
    dt = heap.dt_s
    v, a, j = rows[place, V + chain], rows[place, A + chain], rows[place, J + chain]
    v1 = heap.alpha_v * (delta / dt) + (1.0 - heap.alpha_v) * v
    a1 = heap.alpha_a * (v1 - v) / dt + (1.0 - heap.alpha_a) * a
    j1 = heap.alpha_j * (a1 - a) / dt + (1.0 - heap.alpha_j) * j
    if math.isfinite(v1) and math.isfinite(a1) and math.isfinite(j1):
        rows[place, V + chain] = v1
        rows[place, A + chain] = a1
        rows[place, J + chain] = j1
    else:
        counters.count(state, counts, counters.NON_FINITE)


@kernel
def _join_chain(grid: Grid, rows: np.ndarray, place: int, chain: int, delta: float) -> None:
    """Add input to the step just made, whose weights are in the heap."""
    heap = grid.heap
    dv = heap.alpha_v * delta / heap.dt_s
    da = heap.alpha_a * dv / heap.dt_s
    dj = heap.alpha_j * da / heap.dt_s
    rows[place, V + chain] += dv
    rows[place, A + chain] += da
    rows[place, J + chain] += dj


@kernel
def touch(machine: Machine, tick: int, add: int, pull: int, fill: int, bid: int, ask: int) -> None:
    """Input at a tick at the engine's time, of the record counted last.

    Args:
        machine: The engine.
        tick: Grid tick.
        add: Lots added.
        pull: Lots pulled.
        fill: Lots filled.
        bid: Change of bid depth, lots.
        ask: Change of ask depth, lots.
    """
    config, state, grid = machine.config, machine.state, machine.grid
    place = _open_row(machine, tick)
    if place == NONE:
        return
    rows = _rows(state, grid)
    mark = _marks(state, grid)[place]
    mark.last_event_id = state.event_id
    deltas = (float(add), float(pull), float(fill), float(bid), float(ask))
    dt_ns = state.t_ns - mark.last_t_ns
    if dt_ns > 0:
        mark.last_t_ns = state.t_ns
        mark.dt_last_ns = dt_ns
        set_weights(grid.heap, config, dt_ns)
        _decay_masses(grid, rows, place)
        for chain in range(CHAINS):
            _step_chain(state, machine.counts, grid, rows, place, chain, deltas[chain])
    elif mark.dt_last_ns > 0:
        set_weights(grid.heap, config, mark.dt_last_ns)
        for chain in range(CHAINS):
            _join_chain(grid, rows, place, chain, deltas[chain])
    rows[place, ADD_MASS] += deltas[0]
    rows[place, PULL_MASS] += deltas[1]
    rows[place, FILL_MASS] += deltas[2]
    rows[place, BID_LOTS] += deltas[3]
    rows[place, ASK_LOTS] += deltas[4]


@kernel
def _decay_masses(grid: Grid, rows: np.ndarray, place: int) -> None:
    rows[place, ADD_MASS] *= grid.heap.mass_factor
    rows[place, PULL_MASS] *= grid.heap.mass_factor
    rows[place, FILL_MASS] *= grid.heap.mass_factor


@kernel
def shift_depth(machine: Machine, tick: int, bid: int, ask: int) -> None:
    """Follow a change of the book that is no event of the market: depth moves, nothing else does."""
    place = _open_row(machine, tick)
    if place != NONE:
        rows = _rows(machine.state, machine.grid)
        rows[place, BID_LOTS] += bid
        rows[place, ASK_LOTS] += ask


@kernel
def void(machine: Machine, t_ns: int) -> None:
    """Set every tick to zero at a time."""
    heap = machine.grid.heap
    heap.stamp += 1
    heap.opened = 0
    heap.early = 0
    machine.state.reset_t_ns = t_ns


@kernel
def load_depths(machine: Machine) -> None:
    """Take the depth of every level of the book into rows that stand at zero."""
    book = machine.book
    for side in range(2):
        for i in range(level_count(book, side)):
            level = book.levels[book.ladder[side, i]]
            shift_depth(machine, level.tick, level.size if side == BID else 0, level.size if side == ASK else 0)


@kernel
def close_open_rows(machine: Machine) -> None:
    """Advance the rows of the open bin to its end."""
    config, state, grid = machine.config, machine.state, machine.grid
    end_ns = (state.bin_seq + 1) * config.cell_ns
    marks, rows = _marks(state, grid), _rows(state, grid)
    for i in range(grid.heap.opened):
        place = grid.opened[i]
        mark = marks[place]
        dt_ns = end_ns - mark.last_t_ns
        set_weights(grid.heap, config, dt_ns)
        _decay_masses(grid, rows, place)
        for chain in range(CHAINS):
            _step_chain(state, machine.counts, grid, rows, place, chain, 0.0)
        mark.open = 0
        mark.bin_seq = state.bin_seq + 1
        mark.last_t_ns = end_ns
        mark.dt_last_ns = dt_ns
    grid.heap.opened = 0


@kernel
def _set_first_centre(machine: Machine, centre: int) -> None:
    """Move the rows inside the first window from the early table to the ring."""
    state, grid = machine.state, machine.grid
    n_ticks = len(grid.marks)
    for early in range(len(grid.early_marks)):
        mark = grid.early_marks[early]
        if mark.stamp == grid.heap.stamp and in_window(mark.tick, centre, n_ticks):
            place = mark.tick & (n_ticks - 1)
            grid.marks[place] = mark
            for i in range(ROW_FLOATS):
                grid.rows[place, i] = grid.early_rows[early, i]
    state.centre = centre
    state.centred = 1
    grid.heap.early = 0


@kernel
def _move_centre(machine: Machine, centre: int) -> None:
    """Move the window: ticks that leave are voided, ticks that enter start from zero with depths from the book."""
    config, state, grid, book = machine.config, machine.state, machine.grid, machine.book
    n_ticks = len(grid.marks)
    for place in range(n_ticks):
        if not in_window(grid.marks[place].tick, centre, n_ticks):
            grid.marks[place].stamp = 0
    old = state.centre
    state.centre = centre
    if state.book_state == SNAPSHOT:
        return
    for side in range(2):
        for i in range(level_count(book, side)):
            level = book.levels[book.ladder[side, i]]
            if in_window(level.tick, old, n_ticks) or not in_window(level.tick, centre, n_ticks):
                continue
            place = level.tick & (n_ticks - 1)
            mark = grid.marks[place]
            if mark.stamp != grid.heap.stamp or mark.tick != level.tick:
                _start_row(grid.marks, grid.rows, place, level.tick, grid.heap.stamp)
                _stand_at_start(mark, state, config, state.bin_seq + 1)
            grid.rows[place, BID_LOTS if side == BID else ASK_LOTS] += level.size


@kernel
def follow(machine: Machine, spot_tick: int) -> None:
    """Let the window follow the market, at a bin end with a mid, after `close_open_rows`."""
    state = machine.state
    if not state.centred:
        _set_first_centre(machine, spot_tick)
    elif abs(spot_tick - state.centre) > machine.config.n_ticks // 4:
        _move_centre(machine, spot_tick)


@kernel
def read(machine: Machine, spot_tick: int, row: int) -> None:
    """Write the vectors around a tick as they stand at the end of the open bin, after `follow`; nothing is changed."""
    config, state, grid, sinks = machine.config, machine.state, machine.grid, machine.sinks
    n_ticks = len(grid.marks)
    for i in range(2 * config.radius + 1):
        tick = spot_tick - config.radius + i
        place = tick & (n_ticks - 1)
        mark = grid.marks[place]
        if mark.stamp != grid.heap.stamp or mark.tick != tick:
            sinks.touched[row, i] = 0
            for f in range(ROW_FLOATS):
                sinks.grid[f, row, i] = 0.0
            continue
        sinks.touched[row, i] = mark.last_event_id
        bins = state.bin_seq + 1 - mark.bin_seq
        if bins > 0:
            _advance(config, grid, grid.rows, place, bins, grid.scratch, 0)
            for f in range(ROW_FLOATS):
                sinks.grid[f, row, i] = grid.scratch[0, f]
        else:
            for f in range(ROW_FLOATS):
                sinks.grid[f, row, i] = grid.rows[place, f]


@kernel
def adopt(state: State, grid: Grid, marks: np.ndarray, rows: np.ndarray) -> None:
    """Enter live rows into tables that hold none of them: after growth, and at restore.

    Args:
        state: Says whether a centre is known, and so which table is in use.
        grid: The tables; `early` and `opened` of its heap are counted anew.
        marks: MARK_DTYPE[n]; stamps do not matter.
        rows: float64[n, ROW_FLOATS].
    """
    heap = grid.heap
    heap.early = 0
    heap.opened = 0
    for i in range(len(marks)):
        place = _place(state, grid, marks[i].tick)
        mark = _marks(state, grid)[place]
        mark.tick = marks[i].tick
        mark.stamp = heap.stamp
        mark.bin_seq = marks[i].bin_seq
        mark.last_t_ns = marks[i].last_t_ns
        mark.dt_last_ns = marks[i].dt_last_ns
        mark.last_event_id = marks[i].last_event_id
        mark.open = marks[i].open
        for f in range(ROW_FLOATS):
            _rows(state, grid)[place, f] = rows[i, f]
        if not state.centred:
            heap.early += 1
        if mark.open:
            grid.opened[heap.opened] = place
            heap.opened += 1
