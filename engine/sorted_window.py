"""The last n values of a series kept in order of size, so that median and MAD need no sort.

A window is a float64 array whose first `n` elements are sorted. One value in and one out per step is two binary
searches and one move of what lies between them; the median is read off. The MAD, the median of the distances from the
median, is selected without computing the distances:

    The h = n // 2 values nearest the median lie side by side. Their run starts at the first s where the value before
    the run's end is not farther from the median than the value behind it; that changes once from "too far left" to
    "right" as s goes from 0 to h, so a binary search finds it. The middle distances are at the ends of that run.

Rounding keeps the order of the distances, so the result is that of sorting them, to the last bit. Values must be
finite, and without -0.0, which equals 0.0 here and would make the bits depend on the order of arrival.
"""

import numpy as np

from engine._jit import kernel


@kernel
def rank(window: np.ndarray, start: int, stop: int, x: float) -> int:
    """How many of the first `stop` values are below x, if the first `start` are and start <= stop."""
    while start < stop:
        middle = (start + stop) >> 1
        if window[middle] < x:
            start = middle + 1
        else:
            stop = middle
    return start


@kernel
def insert(window: np.ndarray, n: int, x: float) -> None:
    """Add a value to `n` values; there is room for it."""
    at = rank(window, 0, n, x)
    for i in range(n, at, -1):
        window[i] = window[i - 1]
    window[at] = x


@kernel
def replace(window: np.ndarray, n: int, old: float, new: float) -> None:
    """Put a value in the place of another, which is one of the `n` values."""
    if new > old:
        gap = rank(window, 0, n, old)
        at = rank(window, gap + 1, n, new) - 1
        for i in range(gap, at):
            window[i] = window[i + 1]
        window[at] = new
    elif new < old:
        at = rank(window, 0, n, new)
        gap = rank(window, at, n, old)
        for i in range(gap, at, -1):
            window[i] = window[i - 1]
        window[at] = new


@kernel
def median(window: np.ndarray, n: int) -> float:
    """Median of `n` >= 1 values; the mean of the middle two if n is even."""
    h = n // 2
    return float(window[h]) if n & 1 else 0.5 * (window[h - 1] + window[h])


@kernel
def mad(window: np.ndarray, n: int, centre: float) -> float:
    """Median of |value - centre| over `n` >= 1 values, where `centre` is their median."""
    h = n // 2
    s, stop = 0, h
    while s < stop:
        middle = (s + stop) >> 1
        if centre - window[middle] > window[middle + h] - centre:
            s = middle + 1
        else:
            stop = middle
    beyond = np.inf  # the smallest distance outside the run
    if s > 0:
        beyond = centre - window[s - 1]
    if s + h < n:
        beyond = min(beyond, window[s + h] - centre)
    if n & 1:
        return beyond
    within = max(centre - window[s], window[s + h - 1] - centre)
    return 0.5 * (within + beyond)
