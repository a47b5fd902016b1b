"""Options as people write them."""

import math

import pytest

from control import options
from runtime.errors import InputError, UsageError


@pytest.mark.parametrize(
    ("text", "px"), [("0.25", 250_000_000), ("1", 10**9), ("0.000000001", 1), (".5", 500_000_000), (None, None)]
)
def test_tick(text: str | None, px: int | None) -> None:
    assert options.tick_px(text) == px


@pytest.mark.parametrize("text", ["0", "-1", "x", "0.0000000001", "", "1e-2", "٣"])
def test_bad_tick(text: str) -> None:
    with pytest.raises(InputError, match="is no tick size"):
        options.tick_px(text)


@pytest.mark.parametrize(("text", "factor"), [("max", math.inf), ("1x", 1.0), ("0.5", 0.5), ("100x", 100.0)])
def test_speed(text: str, factor: float) -> None:
    assert options.speed(text) == factor


@pytest.mark.parametrize("text", ["", "0", "-1x", "nan", "inf", "fast", "1000000x", "٣x"])
def test_bad_speed(text: str) -> None:
    with pytest.raises(InputError, match="is no speed"):
        options.speed(text)


@pytest.mark.parametrize(("text", "ns"), [("100ms", 10**8), ("1s", 10**9), ("250us", 250_000), ("7000ns", 7000)])
def test_cell(text: str, ns: int) -> None:
    assert options.cell_ns(text) == ns


@pytest.mark.parametrize("text", ["", "100", "1.5s", "ms"])
def test_bad_cell(text: str) -> None:
    with pytest.raises(UsageError, match="is no width"):
        options.cell_ns(text)


@pytest.mark.parametrize("text", ["0ms", "1ns", "86401s", "99999999999999999s"])
def test_cell_out_of_range(text: str) -> None:
    with pytest.raises(UsageError, match="is out of range"):
        options.cell_ns(text)


def test_names() -> None:
    assert options.legal("tape", "t-1") == "t-1"
    with pytest.raises(InputError, match="'ref' cannot name a tape"):
        options.legal("tape", "ref")


def test_settings_take_options_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BAROGRAPH_API_PORT", "7")
    assert options.settings(api_port=None).api_port == 7
    assert options.settings(api_port=9).api_port == 9
