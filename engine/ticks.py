"""Prices to ticks.

`tick(px) = floor((px + unit / 2) / unit)`: the nearest multiple, halves up, below zero too. `unit` is the price width
of one grid tick. Written with the remainder, so that nothing overflows for any int64 price.
"""

import numpy as np

from engine._jit import inlined


@inlined
def nearest_tick(px: int, unit_px: int) -> int:
    """Nearest grid tick of a price; both in 1e-9; `unit_px` > 0."""
    quotient = px // unit_px
    remainder = px - quotient * unit_px
    return quotient + 1 if remainder >= unit_px - unit_px // 2 else quotient


@inlined
def floor_mean(a: int, b: int) -> int:
    """Mean of two int64, rounded toward minus infinity, without overflow."""
    return (a >> 1) + (b >> 1) + (a & b & 1)


def tick_of(px: int | np.ndarray, tick_px: int) -> int | np.ndarray:
    """Nearest tick of a price or of an array of prices, halves up.

    Args:
        px: Price or prices, int64, 1e-9.
        tick_px: Price width of one tick, 1e-9, > 0.

    Returns:
        int for a scalar, int64 array for an array.
    """
    if isinstance(px, np.ndarray):
        prices = px.astype(np.int64, copy=False)
        quotient = prices // tick_px
        return quotient + (prices - quotient * tick_px >= tick_px - tick_px // 2)
    return (2 * int(px) + tick_px) // (2 * tick_px)
