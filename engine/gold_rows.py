"""Kernels of gold: a row of bins in, a row of gold out.

For a cell k of a bin that can be trusted, and D the width of a bin in seconds:

1. pressure P = c1 v_add + c2 max(v_rest, 0) + c3 max(a_add, 0), vacuum V = c4 v_pull + c5 v_fill + c6 max(-v_rest, 0)
   + c7 max(a_pull, 0), comp = (P - V) / (|P| + |V| + 1e-12).
2. composite = weighted mean, over several windows, of the mean of the last comps of this k. The means are summed anew
   each time, newest first: a running sum would keep its rounding errors for ever, and the differences below would show
   them.
3. d1, d2, d3: successive backward differences over the time since the previous update. They are 0 until there are
   enough values, and these zeros are values too.
4. flow score: the robust z of each difference among its last 300, (x - median) / (1.4826 MAD), through tanh, blended.
   A scale at or below 1e-7 / D^order is rounding noise, and z is 0.
5. state5, from the moves of the best quotes and the side of the mid that the cell lies on.

Everything that goes on from bin to bin follows from the last comps and their bin numbers (HISTORY below); so they are
all that a snapshot has to hold. A value that is not finite (an input near the end of the range of float64) counts as 0,
so that one such bin cannot stay in the windows for ever.
"""

from typing import Final, NamedTuple

import numpy as np

from engine._jit import kernel
from engine.hyperbolic import tanh
from engine.sorted_window import insert, mad, median, replace
from engine.state import SNAPSHOT, SUSPECT, Record
from engine.ticks import nearest_tick
from schemas.gold import CODE_VECTORS, FLOAT_VECTORS
from schemas.units import NS_PER_SECOND, UNDEF_PRICE

ORDERS: Final = 3
"""Differences of composite: d1, d2, d3."""

_EPSILON: Final = 1e-12
"""Keeps comp at 0 where nothing happens at all."""

PRESSURE, VACUUM, COMPOSITE, D1, D2, D3, FLOW_SCORE = (
    FLOAT_VECTORS.index(name)
    for name in ("pressure", "vacuum", "composite", "composite_d1", "composite_d2", "composite_d3", "flow_score")
)
FLOW_STATE, STATE5 = (CODE_VECTORS.index(name) for name in ("flow_state", "state5"))

INPUTS: Final = ("v_add", "v_pull", "v_fill", "v_bid_depth", "v_ask_depth", "a_add", "a_pull")
"""Grid vectors that gold reads."""

KEY_DTYPE: Final = np.dtype(
    (
        np.record,
        [
            ("bin_seq", "i8"),
            ("ts_start_ns", "i8"),
            ("bins_since_reset", "i8"),
            ("mid_px", "i8"),
            ("spot_tick", "i8"),
            ("best_bid_px", "i8"),
            ("best_ask_px", "i8"),
            ("book_state", "i1"),
            ("bid_sign", "i1"),
            ("ask_sign", "i1"),
        ],
    )
)
"""Scalars of a bin that gold reads."""

SETTINGS_DTYPE: Final = np.dtype(
    (
        np.record,
        [
            ("cell_ns", "i8"),
            ("unit_px", "i8"),
            *((f"c{i}", "f8") for i in range(1, 8)),
            ("z_window", "i8"),
            ("z_min", "i8"),
            ("mad_factor", "f8"),
            ("tanh_divisor", "f8"),
            ("threshold", "f8"),
            ("window_weight_sum", "f8"),
            ("d_weight", "f8", (ORDERS,)),  # of tanh of z of each difference
            ("d_weight_sum", "f8"),
            ("floor", "f8", (ORDERS,)),  # scales up to this are noise
            ("table", "i1", (3, 3, 2)),  # state5 by ask sign + 1, bid sign + 1, above the mid
        ],
    )
)

STATE_DTYPE: Final = np.dtype(
    (
        np.record,
        [
            ("count", "i8"),  # updates since the last restart
            ("update_seq", "i8"),  # bin of the last update
            ("seen_seq", "i8"),  # bin of the last row, updated or not; -1 before the first
        ],
    )
)


class Memory(NamedTuple):
    """What kernels work on.

    Attributes:
        settings: SETTINGS_DTYPE[1].
        windows: int64, lengths of the windows of composite, rising.
        weights: float64, their weights.
        state: STATE_DTYPE[1].
        comps: float64[history, width], ring by update; history = z_window + longest window + 2, since composites
            reach back a window, differences three more, and the oldest score counts.
        bin_seqs: int64[history], bins of these updates.
        last: float64[3, width], composite, d1 and d2 of the previous update.
        rings: float64[z_window, 3, width], differences by update, to know which one leaves.
        sorted: float64[width, 3, z_window], the same, each series sorted.
        sums: float64[width], scratch.
    """

    settings: np.ndarray
    windows: np.ndarray
    weights: np.ndarray
    state: np.ndarray
    comps: np.ndarray
    bin_seqs: np.ndarray
    last: np.ndarray
    rings: np.ndarray
    sorted: np.ndarray
    sums: np.ndarray


FITS: Final = 0
NOT_RISING: Final = 1
OTHER_CELL: Final = 2
OTHER_UNIT: Final = 3
BAD_SIGN: Final = 4


@kernel
def first_bad(memory: Memory, keys: np.ndarray) -> tuple[int, int]:
    """Index of the first of `keys` (KEY_DTYPE) that gold cannot take, and why; -1 and FITS if there is none.

    Nothing is changed. The reasons: NOT_RISING, bin_seq is not above that of the row before; OTHER_CELL, the row does
    not start at bin_seq times the width of a bin; OTHER_UNIT, its spot_tick is not the nearest tick of its mid_px;
    BAD_SIGN, a sign is not -1, 0 or 1.
    """
    settings = memory.settings[0]
    seen_seq = memory.state[0].seen_seq
    for i in range(len(keys)):
        key = keys[i]
        if key.bin_seq <= seen_seq:
            return i, NOT_RISING
        seen_seq = key.bin_seq
        start_ns, cell_ns = key.ts_start_ns, settings.cell_ns
        if start_ns // cell_ns != key.bin_seq or start_ns % cell_ns:
            return i, OTHER_CELL
        if key.mid_px != UNDEF_PRICE and key.spot_tick != nearest_tick(key.mid_px, settings.unit_px):
            return i, OTHER_UNIT
        if not (-1 <= key.bid_sign <= 1 and -1 <= key.ask_sign <= 1):
            return i, BAD_SIGN
    return -1, FITS


@kernel
def _finite_or_zero(x: float) -> float:
    return x if abs(x) < np.inf else 0.0


@kernel
def _positive(x: float) -> float:
    return x if x > 0.0 else 0.0


@kernel
def _press(memory: Memory, inputs: np.ndarray, floats: np.ndarray, row: int) -> None:
    """Write pressure and vacuum of a row, and its comps into their place in the ring."""
    s = memory.settings[0]
    v_add, v_pull, v_fill = inputs[0, row], inputs[1, row], inputs[2, row]
    v_bid, v_ask, a_add, a_pull = inputs[3, row], inputs[4, row], inputs[5, row], inputs[6, row]
    comps = memory.comps[memory.state[0].count % len(memory.comps)]
    for k in range(len(comps)):
        v_rest = v_bid[k] + v_ask[k]
        pressure = _finite_or_zero(s.c1 * v_add[k] + s.c2 * _positive(v_rest) + s.c3 * _positive(a_add[k]))
        vacuum = _finite_or_zero(
            s.c4 * v_pull[k] + s.c5 * v_fill[k] + s.c6 * _positive(-v_rest) + s.c7 * _positive(a_pull[k])
        )
        floats[PRESSURE, row, k] = pressure
        floats[VACUUM, row, k] = vacuum
        comps[k] = _finite_or_zero((pressure - vacuum) / (abs(pressure) + abs(vacuum) + _EPSILON))


@kernel
def _compose(memory: Memory, composite: np.ndarray) -> None:
    """Write composite, given that the ring holds this update's comps.

    Division by the sum of the weights comes last, so that rounding cannot carry it beyond +-1.
    """
    count = memory.state[0].count
    weight_sum = memory.settings[0].window_weight_sum
    sums = memory.sums
    sums[:] = 0.0
    composite[:] = 0.0
    age = 0
    for i in range(len(memory.windows)):
        length = min(memory.windows[i], count + 1)
        while age < length:
            comps = memory.comps[(count - age) % len(memory.comps)]
            for k in range(len(sums)):
                sums[k] += comps[k]
            age += 1
        for k in range(len(sums)):
            composite[k] += memory.weights[i] * (sums[k] / length)
    for k in range(len(sums)):
        composite[k] /= weight_sum


@kernel
def _differ(memory: Memory, bin_seq: int, floats: np.ndarray, row: int) -> None:
    """Write the differences of composite. The zero added to each turns -0.0 into 0.0, see `sorted_window`."""
    state = memory.state[0]
    dt_s = (bin_seq - state.update_seq) * memory.settings[0].cell_ns / NS_PER_SECOND
    last = memory.last
    for k in range(last.shape[1]):
        value = floats[COMPOSITE, row, k]
        for order in range(ORDERS):
            before = last[order, k]
            last[order, k] = value
            value = (value - before) / dt_s + 0.0 if state.count > order else 0.0
            floats[D1 + order, row, k] = value


@kernel
def _robust_z(window: np.ndarray, n: int, x: float, mad_factor: float, floor: float) -> float:
    """Distance of x from the median of a window, in robust standard deviations; 0 if these are not above the floor."""
    centre = median(window, n)
    scale = mad_factor * mad(window, n, centre)
    return (x - centre) / scale if scale > floor else 0.0


@kernel
def _score(memory: Memory, floats: np.ndarray, codes: np.ndarray, row: int) -> None:
    """Put the differences into their windows; write the flow score and its state."""
    s = memory.settings[0]
    weights, floors, mad_factor, divisor = s.d_weight, s.floor, s.mad_factor, s.tanh_divisor
    count, z_window = memory.state[0].count, s.z_window
    ring = memory.rings[count % z_window]
    n = min(count + 1, z_window)
    warm = n >= s.z_min
    for k in range(ring.shape[1]):
        total = 0.0
        for order in range(ORDERS):
            x = floats[D1 + order, row, k]
            window = memory.sorted[k, order]
            if count < z_window:
                insert(window, count, x)
            else:
                replace(window, z_window, ring[order, k], x)
            ring[order, k] = x
            if warm:
                total += weights[order] * tanh(_robust_z(window, n, x, mad_factor, floors[order]) / divisor)
        score = total / s.d_weight_sum
        floats[FLOW_SCORE, row, k] = score
        codes[FLOW_STATE, row, k] = 1 if score >= s.threshold else (-1 if score <= -s.threshold else 0)


@kernel
def _take_sides(settings: Record, key: Record, state5: np.ndarray) -> None:
    """Write state5: one code for the cells above the mid, one for those below, 0 for a cell exactly at it.

    With twice the mid = bid + ask = 2 mid_px + odd, and mid_px = unit * q + r, a cell's price is at mid_px or above
    exactly if its tick is at q or above; and spot_tick is q, or q + 1 if r > 0. So no price has to be computed.
    """
    quotient = key.mid_px // settings.unit_px
    remainder = key.mid_px - quotient * settings.unit_px
    odd = (key.best_bid_px ^ key.best_ask_px) & 1
    radius = len(state5) // 2
    nearest = radius + (0 if key.spot_tick == quotient else -1)  # the cell whose tick is q
    codes = settings.table[key.ask_sign + 1, key.bid_sign + 1]
    for i in range(len(state5)):
        state5[i] = codes[1] if i > nearest else codes[0]
    if remainder == 0 and odd == 0:
        state5[nearest] = 0


@kernel
def _advance(memory: Memory, bin_seq: int, floats: np.ndarray, codes: np.ndarray, row: int) -> None:
    """Everything that depends on earlier bins, given that the ring holds this update's comps."""
    state = memory.state[0]
    memory.bin_seqs[state.count % len(memory.bin_seqs)] = bin_seq
    _compose(memory, floats[COMPOSITE, row])
    _differ(memory, bin_seq, floats, row)
    _score(memory, floats, codes, row)
    state.count += 1
    state.update_seq = bin_seq


@kernel
def run(
    memory: Memory, keys: np.ndarray, inputs: np.ndarray, valid: np.ndarray, floats: np.ndarray, codes: np.ndarray
) -> None:
    """Step through rows of bins.

    Args:
        memory: Gold so far.
        keys: KEY_DTYPE[rows], in which `first_bad` found nothing.
        inputs: float64[7, rows, width], in the order of INPUTS.
        valid: int8[rows], zeros; 1 is written where there is gold.
        floats: float64[7, rows, width], zeros; order of `schemas.gold.FLOAT_VECTORS`.
        codes: int8[2, rows, width], zeros; order of `schemas.gold.CODE_VECTORS`.
    """
    state = memory.state[0]
    for row in range(len(keys)):
        key = keys[row]
        state.seen_seq = key.bin_seq
        if key.bins_since_reset == 0:
            state.count = 0
        if key.mid_px == UNDEF_PRICE or key.book_state == SNAPSHOT or key.book_state == SUSPECT:
            continue
        valid[row] = 1
        _press(memory, inputs, floats, row)
        _advance(memory, key.bin_seq, floats, codes, row)
        _take_sides(memory.settings[0], key, codes[STATE5, row])


@kernel
def replay(memory: Memory, bin_seqs: np.ndarray, comps: np.ndarray, floats: np.ndarray, codes: np.ndarray) -> None:
    """Bring fresh memory to where these updates led.

    If updates before them are left out, the first composites and differences are wrong; by the length of the history
    these have left every window when the last one is done.

    Args:
        memory: Memory without updates.
        bin_seqs: int64[rows], bins of the updates, rising; at most `history` rows.
        comps: float64[rows, width].
        floats: float64[7, 1, width], scratch.
        codes: int8[2, 1, width], scratch.
    """
    for i in range(len(bin_seqs)):
        ring = memory.comps[i]
        for k in range(len(ring)):
            ring[k] = comps[i, k]
        _advance(memory, bin_seqs[i], floats, codes, 0)
