"""The last n values of a series kept in order of size, so that median and MAD need no sort.

A window is a float64 array whose first `n` elements are sorted. When a value comes and the oldest goes, the place of
the oldest is found, and the values between it and the place of the new one move up by one, as in insertion sort. That
place is the number of values below: counted over all of them, which vector units do in fewer cycles than the missed
branches of a binary search cost at lengths of some hundreds. The median is then read off, and the MAD, the median of
the distances from the median, is selected without computing the distances:

    The h = n // 2 values nearest the median lie side by side, and their run starts at one of 0 .. h. It starts beyond
    s if value s is farther from the median than value s + h, the first one behind a run from s. That holds up to some
    s and not from there on, so a binary search finds the start. The middle distances lie at the ends of the run.

The MAD as a measure of scale that outliers cannot spoil is Hampel's (1974, Journal of the American Statistical
Association 69, 383-393).

Rounding keeps the order of the distances, so the result is that of sorting them, to the last bit. Values must be
finite, and without -0.0, which equals 0.0 here and would make the bits depend on the order of arrival.
"""

import numpy as np

from engine._jit import kernel


@kernel
def insert(window: np.ndarray, n: int, x: float) -> None:
    """Add a value to a window.

    Args:
        window: float64[> n], its first `n` elements sorted; written.
        n: Values in it.
        x: The value to add, finite and not -0.0.
    """
    at = n
    while at > 0 and window[at - 1] > x:
        window[at] = window[at - 1]
        at -= 1
    window[at] = x


@kernel
def replace(window: np.ndarray, n: int, old: float, new: float) -> None:
    """Put a value in the place of another.

    Args:
        window: float64[>= n], its first `n` elements sorted; written.
        n: Values in it, >= 1.
        old: The value that leaves, one of them.
        new: The value that comes, finite and not -0.0.
    """
    if new == old:
        return
    at = 0
    for i in range(n):
        at += window[i] < old
    if new > old:
        while at + 1 < n and window[at + 1] < new:
            window[at] = window[at + 1]
            at += 1
    else:
        while at > 0 and window[at - 1] > new:
            window[at] = window[at - 1]
            at -= 1
    window[at] = new


@kernel
def median(window: np.ndarray, n: int) -> float:
    """Median of the first `n` >= 1 elements of a sorted float64 window; the mean of the middle two if n is even."""
    h = n // 2
    return float(window[h]) if n & 1 else 0.5 * (window[h - 1] + window[h])


@kernel
def _run_start(window: np.ndarray, h: int, centre: float) -> int:
    """Where the run of the `h` values nearest `centre` starts, `centre` being the median of 2 h or 2 h + 1 values.

    A binary search by multiplication instead of branches, which would be missed half of the time.
    """
    start, left = 0, h
    while left > 1:
        half = left >> 1
        last = start + half - 1
        start += half * (centre - window[last] > window[last + h] - centre)
        left -= half
    if left == 1:
        start += centre - window[start] > window[start + h] - centre
    return start


@kernel
def mad(window: np.ndarray, n: int, centre: float) -> float:
    """Median absolute deviation of a window.

    Args:
        window: float64[>= n], its first `n` elements sorted.
        n: Values in it, >= 1.
        centre: Their `median`.

    Returns:
        Median of |value - centre|; the mean of the middle two if n is even.
    """
    h = n // 2
    start = _run_start(window, h, centre)
    beyond = np.inf  # the smallest distance outside the run
    if start > 0:
        beyond = centre - window[start - 1]
    if start + h < n:
        beyond = min(beyond, window[start + h] - centre)
    if n & 1:
        return float(beyond)
    within = max(centre - window[start], window[start + h - 1] - centre)
    return float(0.5 * (within + beyond))
