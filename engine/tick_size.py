"""Tick size of an instrument that comes without a definition: what divides all its prices. Used once a file."""

import numpy as np

from schemas.units import UNDEF_PRICE


def infer_tick_px(prices: np.ndarray) -> int:
    """Largest price step of which every given price is a multiple.

    Args:
        prices: Prices of the adds and modifies of one instrument, int64, 1e-9. Undefined and zero prices do not count.

    Returns:
        Greatest common divisor, 1e-9. It is a multiple of the true tick if the sample is too small to show it.

    Raises:
        ValueError: no price is left.
    """
    defined = prices[(prices != UNDEF_PRICE) & (prices != 0)]
    if not len(defined):
        raise ValueError("no defined price to infer a tick size from")
    return int(np.gcd.reduce(np.unique(defined)))
