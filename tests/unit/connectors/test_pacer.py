"""Due times of a replay."""

import math

import pytest

from connectors.pacer import MAX_SPEED, Pacer, parse_speed
from runtime.errors import InputError


@pytest.mark.parametrize(
    ("text", "speed"), [("max", math.inf), ("MAX", math.inf), ("1x", 1.0), ("10X", 10.0), ("0.5x", 0.5), (" 3 ", 3.0)]
)
def test_speeds(text: str, speed: float) -> None:
    assert parse_speed(text) == speed


@pytest.mark.parametrize("text", ["", "x", "0", "0x", "-1x", "fast", "1e3x", "nan", "inf", "1xx"])
def test_what_is_no_speed(text: str) -> None:
    with pytest.raises(InputError, match="is no speed"):
        parse_speed(text)


def test_event_time_passes_at_the_given_speed() -> None:
    pacer = Pacer(10.0, 5_000_000_000, 100.0)
    assert pacer.due_s(5_000_000_000) == 100.0
    assert pacer.due_s(25_000_000_000) == 102.0
    assert pacer.due_s(0) == 100.0
    assert pacer.wait_s(25_000_000_000, 101.5) == 0.5
    assert pacer.wait_s(25_000_000_000, 200.0) == 0.0
    assert Pacer(MAX_SPEED, 0, 7.0).wait_s(10**18, 7.0) == 0.0
