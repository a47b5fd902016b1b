import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.tick_size import infer_tick_px
from engine.ticks import floor_mean, nearest_tick, tick_of
from schemas.units import UNDEF_PRICE

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


def test_tick_size_is_the_common_step_of_defined_prices():
    prices = np.array([4810_000000000, 4810_250000000, UNDEF_PRICE, 0, 4809_750000000])
    assert infer_tick_px(prices) == 250_000_000
    with pytest.raises(ValueError, match="no defined price"):
        infer_tick_px(np.array([UNDEF_PRICE, 0]))
