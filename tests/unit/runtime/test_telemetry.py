"""The log does not drown while a broker is away, and says how much was held back."""

import logging

from runtime.telemetry import REPEATED_MAX, REPEATED_WINDOW_S, Throttle


def said(throttle: Throttle, name: str, text: str) -> str | None:
    record = logging.LogRecord(name, logging.ERROR, "", 0, text, ("b:1",), None)
    return record.getMessage() if throttle.filter(record) else None


def test_repetitions_of_the_chatty_are_held_back_and_counted() -> None:
    now = [0.0]
    throttle = Throttle(lambda: now[0])
    lines = [said(throttle, "aiokafka.conn", "no connection to %s") for _ in range(100)]
    assert lines == ["no connection to b:1"] * REPEATED_MAX + [None] * (100 - REPEATED_MAX)
    assert said(throttle, "aiokafka.conn", "another from %s") == "another from b:1"
    now[0] = REPEATED_WINDOW_S
    assert (
        said(throttle, "aiokafka.conn", "no connection to %s") == "no connection to b:1 (and 97 more like it in 10 s)"
    )
    now[0] = 2 * REPEATED_WINDOW_S
    assert said(throttle, "aiokafka.conn", "no connection to %s") == "no connection to b:1"


def test_nothing_of_ours_is_held_back() -> None:
    throttle = Throttle(lambda: 0.0)
    assert all(said(throttle, "streams.shell", "skips %s") == "skips b:1" for _ in range(50))
