"""Velocity, acceleration and jerk of one quantity: three leaky filters in a row, and their closed form over silence.

For an input at rate x (lots per second, or change of depth per second) over a step of dt seconds, with
`alpha = 1 - exp(-dt / tau)`:

    v1 = alpha_v x             + (1 - alpha_v) v
    a1 = alpha_a (v1 - v) / dt + (1 - alpha_a) a
    j1 = alpha_j (a1 - a) / dt + (1 - alpha_j) j

Without input the step is linear in (v, a, j) and is one lower-triangular 3x3 matrix,

    | 1 - alpha_v                          0                     0           |
    | -alpha_a alpha_v / dt                1 - alpha_a           0           |
    | -alpha_j alpha_a alpha_v / dt^2      -alpha_j alpha_a / dt 1 - alpha_j |

so m silent bins are its m-th power. Powers come from a table by the base-64 digits of m: entry [i, d] is the matrix to
the power d * 64^i, as (v<-v, a<-v, a<-a, j<-v, j<-a, j<-j). Two digits, one product, reach 4,095 bins.
"""

from typing import Final

import numpy as np

from engine._jit import kernel
from engine.exponential import exp, expm1
from engine.state import POWER_BASE, POWER_DIGITS, POWER_ENTRIES, Config, Heap
from schemas.units import NS_PER_SECOND

_NOTHING: Final = 1e-150
"""Entries of a power below this are 0: they are nothing against any result, and products of two would be subnormal."""


@kernel
def set_weights(heap: Heap, config: Config, dt_ns: int) -> None:
    """Compute the weights of a step of `dt_ns` > 0 into `heap`, unless they are there: many ticks step equally."""
    if heap.dt_ns == dt_ns:
        return
    dt_s = dt_ns / NS_PER_SECOND
    heap.dt_ns = dt_ns
    heap.dt_s = dt_s
    heap.alpha_v = -expm1(-dt_s / config.tau_v_s)
    heap.alpha_a = -expm1(-dt_s / config.tau_a_s)
    heap.alpha_j = -expm1(-dt_s / config.tau_j_s)
    heap.mass_factor = exp(-dt_s / config.tau_mass_s)


@kernel
def fill_powers(heap: Heap, config: Config, powers: np.ndarray) -> None:
    """Fill the table of matrix powers for one bin as the step.

    Args:
        heap: Scratch for the weights.
        config: Cell width and time constants.
        powers: float64[POWER_DIGITS, POWER_BASE, POWER_ENTRIES], written.
    """
    set_weights(heap, config, config.cell_ns)
    dt, av, aa, aj = heap.dt_s, heap.alpha_v, heap.alpha_a, heap.alpha_j
    base = (1.0 - av, -aa * av / dt, 1.0 - aa, -aj * aa * av / dt / dt, -aj * aa / dt, 1.0 - aj)
    for digit in range(POWER_DIGITS):
        product = (1.0, 0.0, 1.0, 0.0, 0.0, 1.0)
        for d in range(POWER_BASE):
            for i in range(POWER_ENTRIES):
                entry = product[i]
                powers[digit, d, i] = entry if abs(entry) > _NOTHING else 0.0
            product = _multiply(product, base)
        base = product


@kernel
def _multiply(
    p: tuple[float, float, float, float, float, float], q: tuple[float, float, float, float, float, float]
) -> tuple[float, float, float, float, float, float]:
    """Product p q of two lower-triangular matrices."""
    return (
        p[0] * q[0],
        p[1] * q[0] + p[2] * q[1],
        p[2] * q[2],
        p[3] * q[0] + p[4] * q[1] + p[5] * q[3],
        p[4] * q[2] + p[5] * q[4],
        p[5] * q[5],
    )


@kernel
def _entry(powers: np.ndarray, digit: int, d: int) -> tuple[float, float, float, float, float, float]:
    return (
        powers[digit, d, 0],
        powers[digit, d, 1],
        powers[digit, d, 2],
        powers[digit, d, 3],
        powers[digit, d, 4],
        powers[digit, d, 5],
    )


@kernel
def power(powers: np.ndarray, bins: int) -> tuple[float, float, float, float, float, float]:
    """Matrix of `bins` >= 0 silent bins."""
    result = _entry(powers, 0, bins & (POWER_BASE - 1))
    bins //= POWER_BASE
    digit = 1
    while bins > 0:
        d = bins & (POWER_BASE - 1)
        if d:
            result = _multiply(result, _entry(powers, digit, d))
        bins //= POWER_BASE
        digit += 1
    return result
