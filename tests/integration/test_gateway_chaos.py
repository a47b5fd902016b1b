"""The faults of the gateway in short form: a few tens of clients, some of them slow; a few kills of everything.

`make chaos-gateway` is the long form, with the same course and the same checks. Times are not judged here, but for the
one after which a client is cut.
"""

import asyncio
from pathlib import Path

import pytest

from tests.integration.chaos.gateway_course import Shape, faults_of, slow, slow_faults, strike

pytestmark = pytest.mark.timeout(280)


def test_slow_clients_cost_the_others_nothing() -> None:
    made = slow(Shape(clients=40, pairs=1, phase_s=4.0, flat_s=16.0, rate_hz=20.0))
    assert slow_faults(made) == [], made
    assert made["frames"]["healthy"] > 1_000
    assert made["left_out"]["lame"] > 0
    assert made["cut"]["dead"] > 0


@pytest.mark.real
def test_every_bin_comes_once_or_is_told_as_missing(tmp_path: Path) -> None:
    made = asyncio.run(strike(tmp_path, 4, clients=2, seed=5))
    assert faults_of("kills", made) == [], made
    assert sum(made["resumed"]) > 0
