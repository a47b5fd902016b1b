"""exp and expm1 whose bits do not depend on the processor.

Those of the C library differ in the last bit between processors, and the grid is compared by hash. Here only additions,
multiplications and exact scaling by powers of two are used, in a fixed order:

1. x = k ln 2 + r with |r| <= ln(2)/2. ln 2 is split in a part with trailing zeros, so that k times it is exact, and the
   rest (Cody and Waite 1980, chapter 6; constants of fdlibm e_exp.c).
2. exp(r) - 1 by its Taylor series to r^13; what is cut off is below 0.02 ulp.
3. exp(x) = 2^k (1 + y), expm1(x) = (2^k - 1) + 2^k y, where 2^k - 1 is exact for all k that matter.

Near 0, up to 1/16 on either side, step 1 is not needed and the series to x^9 is enough. Steps of physics inside a bin
lie there, so that this is most of what the engine ever asks for.

Error at most 1 ulp for `exp` and 2 ulp for `expm1`; a test measures it against exact rationals.
"""

import math
from typing import Final

import numpy as np

from engine._jit import inlined

_INV_LN2: Final = 1.4426950408889634
_LN2_HI: Final = 6.93147180369123816490e-01
_LN2_LO: Final = 1.90821492927058770002e-10

_K_MIN: Final = -1022
_POWERS_OF_TWO: Final = np.array([math.ldexp(1.0, k) for k in range(_K_MIN, 1024)])

_C2, _C3, _C4, _C5, _C6, _C7 = (1.0 / math.factorial(n) for n in range(2, 8))
_C8, _C9, _C10, _C11, _C12, _C13 = (1.0 / math.factorial(n) for n in range(8, 14))

NEAR: Final = 0.0625
"""Up to here from 0 the short series serves: what it cuts off, x^10 / 10!, is below 0.05 ulp; further out it is not."""

_EXP_MIN: Final = -708.0
"""Below, exp is given as 0: its results would be subnormal, where arithmetic is a hundred times slower."""
_EXP_MAX: Final = 709.782712893384
"""Above, exp overflows."""


@inlined
def _series(r: float, tail: float) -> float:
    """exp(r + tail) - 1 for |r| <= ln(2)/2, where `tail` is what rounding took from r."""
    q = _C10 + r * (_C11 + r * (_C12 + r * _C13))
    q = _C6 + r * (_C7 + r * (_C8 + r * (_C9 + r * q)))
    q = _C2 + r * (_C3 + r * (_C4 + r * (_C5 + r * q)))
    return r + (r * r * q + tail)


@inlined
def near_expm1(x: float) -> float:
    """`expm1` for |x| <= NEAR, without a branch. The order of operations lets a processor do several at once."""
    square = x * x
    low = (_C2 + x * _C3) + square * (_C4 + x * _C5)
    high = (_C6 + x * _C7) + square * (_C8 + x * _C9)
    return x + square * (low + (square * square) * high)


@inlined
def exp(x: float) -> float:
    """E to the x; 0 below -708, inf above 709.78, NaN for NaN."""
    if x != x:
        return x
    if abs(x) <= NEAR:
        return 1.0 + near_expm1(x)
    if x < _EXP_MIN:
        return 0.0
    if x > _EXP_MAX:
        return math.inf
    k = math.floor(x * _INV_LN2 + 0.5)
    hi = x - k * _LN2_HI
    lo = k * _LN2_LO
    r = hi - lo
    y = _series(r, (hi - r) - lo)
    return (1.0 + y) * 2.0 * float(_POWERS_OF_TWO[int(k) - 1 - _K_MIN])


@inlined
def expm1(x: float) -> float:
    """E to the x, minus 1, without losing the digits of a small x; -1 far below 0, inf above 709.78, NaN for NaN."""
    if x > 40.0:
        return exp(x) - 1.0
    if x < -40.0:
        return -1.0
    if x != x:
        return x
    if abs(x) <= NEAR:
        return near_expm1(x)
    k = math.floor(x * _INV_LN2 + 0.5)
    hi = x - k * _LN2_HI
    lo = k * _LN2_LO
    r = hi - lo
    y = _series(r, (hi - r) - lo)
    if k == 0:
        return y
    scale = float(_POWERS_OF_TWO[int(k) - _K_MIN])
    return (scale - 1.0) + scale * y
