"""The live feed: blocks, clocks when silent, an end; nothing lost whatever the rhythm."""

import threading
from itertools import pairwise

import numpy as np
import pytest

from connectors.market_model import SyntheticMarket
from connectors.simulated_feed import CLOCK_EVERY_NS, LATENESS_NS, SimulatedFeed, instruments, run_feed
from schemas.mbo import MBO_DTYPE
from schemas.message import Outgoing

START_NS = 1_704_205_800_000_000_000


def publish(seconds: float, step_ns: int, rate: float, count: int = 2) -> list[Outgoing]:
    feed = SimulatedFeed("demo", instruments(count), 3, START_NS, rate)
    out: list[Outgoing] = []
    now = START_NS
    while now < START_NS + seconds * 1e9:
        now += step_ns
        out += feed.at(now)
    return out + list(feed.finish(now))


@pytest.mark.parametrize("step_ns", [10_000_000, 37_000_000, 3_000_000_000])
def test_every_record_is_published_once_in_order(step_ns: int) -> None:
    messages = publish(30, step_ns, 800.0)
    steps = -(-30_000_000_000 // step_ns)
    want = SyntheticMarket(3, 2, START_NS, 800.0).until(START_NS + steps * step_ns)
    for number, name in enumerate(instruments(2)):
        mine = [m for m in messages if m.instrument == name]
        kinds = [m.envelope.kind for m in mine]
        assert (kinds[0], kinds[-1]) == ("definition", "end")
        assert set(kinds[1:-1]) <= {"data", "clock"}
        got = b"".join(m.value for m in mine if m.envelope.kind == "data")
        assert got == want[want["instrument_id"] == number + 1].tobytes()
        assert all(m.envelope.count <= 1024 for m in mine)
        times = [m.envelope.t for m in mine]
        assert times == sorted(times)
        assert all(m.envelope.arrived > 0 for m in mine)
        blocks = [int(m.envelope.source.split(":")[1]) for m in mine]
        assert blocks == list(range(1, len(mine) + 1))


def test_a_silent_instrument_gets_clocks() -> None:
    messages = publish(60, 10_000_000, 4.0)
    for name in instruments(2):
        mine = [m.envelope for m in messages if m.instrument == name]
        clocks = [e for e in mine if e.kind == "clock"]
        assert len(clocks) > 20
        assert all(e.count == 0 and e.t == e.arrived - LATENESS_NS for e in clocks)
        assert all(b.arrived - a.arrived >= CLOCK_EVERY_NS for a, b in pairwise(clocks))
        for before, after in pairwise(mine):
            if after.kind == "clock":
                assert after.t > before.t


def test_it_runs_until_it_is_stopped() -> None:
    stop = threading.Event()

    class Sender:
        def __init__(self) -> None:
            self.log: list[Outgoing] = []
            self.flushed = False

        def send(self, message: Outgoing) -> None:
            self.log.append(message)
            if len(self.log) > 60:
                stop.set()

        def flush(self) -> None:
            self.flushed = True

    sender = Sender()
    records = run_feed("demo", instruments(3), sender, stop, records_per_s=3000.0)
    assert sender.flushed
    values = [m.value for m in sender.log if m.envelope.kind == "data"]
    assert records == len(np.frombuffer(b"".join(values), MBO_DTYPE)) > 3000
    assert [m.envelope.kind for m in sender.log[-3:]] == ["end"] * 3
    assert {m.topic for m in sender.log} == {"demo.mbo.v1"}
