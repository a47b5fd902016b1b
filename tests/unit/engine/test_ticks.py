import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from engine.ticks import floor_mean, nearest_tick, tick_of

INT64 = st.integers(-(2**63), 2**63 - 1)


@given(INT64, st.integers(1, 2**62 - 1))
def test_nearest_tick_is_exact_for_every_price(px, tick_px):
    expected = (2 * px + tick_px) // (2 * tick_px)
    if -(2**63) <= expected < 2**63:
        assert nearest_tick(px, tick_px) == expected
        assert tick_of(px, tick_px) == expected
        assert tick_of(np.array([px]), tick_px)[0] == expected


@given(INT64, INT64)
def test_floor_mean_does_not_overflow(a, b):
    assert floor_mean(a, b) == (a + b) // 2


def test_halves_go_up_on_both_sides_of_zero():
    assert [tick_of(px, 10) for px in (-15, -5, 4, 5, 14, 15)] == [-1, 0, 0, 1, 1, 2]
