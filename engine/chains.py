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
the power d * 64^i, as (v<-v, a<-v, a<-a, j<-v, j<-a, j<-j). Two digits, one product, reach 4,095 bins. (Powers of one
base by digits: Knuth, TAOCP vol. 2, 4.6.3.)
"""

from typing import Final

import numpy as np

from engine._jit import kernel
from engine.exponential import NEAR, exp, expm1, near_expm1
from engine.machine import powers
from engine.state import POWER_BASE, POWER_DIGITS, POWER_ENTRIES, Machine
from schemas.units import NS_PER_SECOND

_NOTHING: Final = 1e-150
"""Entries of a power below this are 0: they are nothing against any result, and products of two would be subnormal."""


@kernel
def set_weights(m: Machine, dt_ns: int) -> None:
    """Compute the weights of a step of `dt_ns` > 0 into `m`, unless they are there: many ticks step equally.

    With them the step is `v1 = gain_v * delta + keep_v * v` for a delta in lots, then
    `a1 = gain_a * (v1 - v) + keep_a * a` and `j1 = gain_j * (a1 - a) + keep_j * j`.
    """
    if m.dt_ns == dt_ns:
        return
    m.dt_ns = dt_ns
    dt_s = dt_ns / NS_PER_SECOND
    per_s = NS_PER_SECOND / dt_ns
    x_v, x_a, x_j, x_mass = -dt_s * m.rate_v, -dt_s * m.rate_a, -dt_s * m.rate_j, -dt_s * m.rate_mass
    if min(min(x_v, x_a), min(x_j, x_mass)) >= -NEAR:
        y_v, y_a, y_j = near_expm1(x_v), near_expm1(x_a), near_expm1(x_j)
        m.keep_mass = 1.0 + near_expm1(x_mass)
    else:
        y_v, y_a, y_j = expm1(x_v), expm1(x_a), expm1(x_j)
        m.keep_mass = exp(x_mass)
    m.gain_v, m.gain_a, m.gain_j = -y_v * per_s, -y_a * per_s, -y_j * per_s
    m.keep_v, m.keep_a, m.keep_j = 1.0 + y_v, 1.0 + y_a, 1.0 + y_j


@kernel
def fill_powers(m: Machine) -> None:
    """Fill the engine's table of matrix powers, with one bin as the step."""
    table = powers(m)
    set_weights(m, m.cell_ns)
    a_from_v = m.gain_a * (m.keep_v - 1.0)
    j_from_a = m.gain_j * (m.keep_a - 1.0)
    base = (m.keep_v, a_from_v, m.keep_a, m.gain_j * a_from_v, j_from_a, m.keep_j)
    for digit in range(POWER_DIGITS):
        product = (1.0, 0.0, 1.0, 0.0, 0.0, 1.0)
        for d in range(POWER_BASE):
            for i in range(POWER_ENTRIES):
                entry = product[i]
                table[digit, d, i] = entry if abs(entry) > _NOTHING else 0.0
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
def _entry(table: np.ndarray, digit: int, d: int) -> tuple[float, float, float, float, float, float]:
    return (
        table[digit, d, 0],
        table[digit, d, 1],
        table[digit, d, 2],
        table[digit, d, 3],
        table[digit, d, 4],
        table[digit, d, 5],
    )


@kernel
def power(m: Machine, bins: int) -> tuple[float, float, float, float, float, float]:
    """Matrix of `bins` >= 0 silent bins, as (v<-v, a<-v, a<-a, j<-v, j<-a, j<-j), from the table of `fill_powers`."""
    table = powers(m)
    result = _entry(table, 0, bins & (POWER_BASE - 1))
    bins //= POWER_BASE
    digit = 1
    while bins > 0:
        d = bins & (POWER_BASE - 1)
        if d:
            result = _multiply(result, _entry(table, digit, d))
        bins //= POWER_BASE
        digit += 1
    return result
