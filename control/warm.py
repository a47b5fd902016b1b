"""Compile everything that is compiled, once, at installation: `python -m control.warm`.

The machine code lies in numba's cache beside the sources; without it the first process waits half a minute.
"""

from typing import Final

from connectors.market_model import SyntheticMarket
from engine.warm import warm as warm_engine

START_NS: Final = 1_700_000_000_000_000_000
RECORDS_PER_S: Final = 1_000.0


def warm() -> None:
    """Run the engine's kernels and the simulated market's on a little data."""
    warm_engine()
    SyntheticMarket(0, 1, START_NS, RECORDS_PER_S).until(START_NS + 1_000_000_000)


if __name__ == "__main__":
    warm()
