"""How invented data is called, so that nobody can take it for a venue's."""

from typing import Final

DATASET: Final = "SYNTH.BARO"
"""Dataset name in files, and venue in instrument names."""

TICK_PX: Final = 250_000_000
"""Tick of every synthetic instrument: 0.25."""

LATENCY_MIN_NS: Final = 20_000
"""ts_recv lies at least this far after ts_event."""


def symbol(number: int) -> str:
    """Symbol of an invented instrument: `SYN0`, `SYN1`, ..."""
    return f"SYN{number}"
