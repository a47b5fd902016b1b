"""The invented market, live: published at 1x on a tape, as a venue's connector would.

Every 10 ms what has happened since is published, one block per instrument (1,024 records at most), so a record that
crosses the end of a bin is out within that time. An instrument that is silent for two cells gets a `clock` message, at
most every 500 ms, with a time `lateness` before now: then its bins close although nothing happens. After a pause of
the process the market catches up; no time is skipped.
"""

import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from connectors import raw_messages
from connectors.dbn_replay import Sender
from connectors.dbn_stats import MAX_FUTURE_NS
from connectors.market_model import SyntheticMarket
from connectors.synthetic import DATASET, TICK_PX, symbol
from engine.record_time import record_times
from runtime.clock import Clock, WallClock
from runtime.tapes import Instrument
from schemas.bins import CELL_NS_DEFAULT
from schemas.message import Outgoing
from schemas.topics import MBO
from schemas.units import NS_PER_MS

FLUSH_NS: Final = 10 * NS_PER_MS
"""How long a record may wait for company, ns. It adds to everyone's latency; below 2 ms messages of one record would
cost more than the engine does."""

LIVE_RECORDS_MAX: Final = 1024
"""Records in a live block at most; a worker answers within a millisecond or two for such a block."""

CLOCK_EVERY_NS: Final = 500 * NS_PER_MS
"""Shortest time between two clock messages of an instrument; more often would flood a tape of quiet instruments."""

LATENESS_NS: Final = 250 * NS_PER_MS
"""How far a clock message stays behind now. A record that arrives later than this is lifted to the clock's time."""

RECORDS_PER_S: Final = 600.0
"""Mean rate of the demo: enough to look alive, little enough to leave a laptop's second core free."""


def instruments(count: int, partitions: int = 1) -> dict[str, Instrument]:
    """Name → what a tape must know, of the first `count` invented instruments."""
    return {
        f"{DATASET}:{symbol(n)}": Instrument(n % partitions, TICK_PX, tick_source="table", venue_symbol=symbol(n))
        for n in range(count)
    }


@dataclass(slots=True)
class _Line:
    """What the feed remembers of an instrument: engine time, wall time of the last message and of the last clock."""

    t_ns: int = -1
    sent_ns: int = 0
    clock_ns: int = 0
    blocks: int = 0


@dataclass(slots=True)
class SimulatedFeed:
    """Says what to publish at each moment. A state machine without I/O or clock.

    Args:
        tape: whose raw topic.
        known: name → instrument, as `instruments` gives and the tape's manifest holds.
        seed: of the market.
        start_ns: now.
        records_per_s: mean rate of all instruments together.
    """

    tape: str
    known: Mapping[str, Instrument]
    seed: int
    start_ns: int
    records_per_s: float = RECORDS_PER_S
    _market: SyntheticMarket = field(init=False)
    _lines: dict[str, _Line] = field(init=False)

    def __post_init__(self) -> None:
        self._market = SyntheticMarket(self.seed, len(self.known), self.start_ns, self.records_per_s)
        self._lines = {name: _Line() for name in self.known}

    @property
    def _topic(self) -> str:
        return MBO.name(self.tape)

    def at(self, now_ns: int) -> Iterator[Outgoing]:
        """What is to be published at `now_ns`; call it every `FLUSH_NS` or so, with rising times."""
        records = self._market.until(now_ns)
        for number, name in enumerate(self.known):
            mine = records[records["instrument_id"] == number + 1]
            if len(mine):
                yield from self._data(name, mine, now_ns)
            else:
                yield from self._clock(name, now_ns)

    def finish(self, now_ns: int) -> Iterator[Outgoing]:
        """The `end` of every instrument that had data."""
        for name, line in self._lines.items():
            if line.t_ns >= 0:
                partition, source = self.known[name].partition, self._source(line)
                yield raw_messages.end(self._topic, name, partition, t_ns=line.t_ns, source=source, arrived=now_ns)

    def _data(self, name: str, records: np.ndarray, now_ns: int) -> Iterator[Outgoing]:
        line, known = self._lines[name], self.known[name]
        times = record_times(records, line.t_ns if line.t_ns >= 0 else None, MAX_FUTURE_NS)
        if line.t_ns < 0:
            yield raw_messages.definition(
                self._topic, name, known, t_ns=int(times[0]), source=self._source(line), arrived=now_ns
            )
        for start in range(0, len(records), LIVE_RECORDS_MAX):
            part = slice(start, start + LIVE_RECORDS_MAX)
            line.t_ns, line.sent_ns = int(times[part][-1]), now_ns
            yield raw_messages.data(
                self._topic,
                name,
                known.partition,
                records[part],
                t_ns=line.t_ns,
                source=self._source(line),
                arrived=now_ns,
            )

    def _clock(self, name: str, now_ns: int) -> Iterator[Outgoing]:
        line = self._lines[name]
        t_ns = now_ns - LATENESS_NS
        silent = now_ns - line.sent_ns >= 2 * CELL_NS_DEFAULT
        if line.t_ns >= 0 and silent and t_ns > line.t_ns and now_ns - line.clock_ns >= CLOCK_EVERY_NS:
            line.t_ns, line.clock_ns = t_ns, now_ns
            partition = self.known[name].partition
            yield raw_messages.clock(self._topic, name, partition, t_ns=t_ns, source=self._source(line), arrived=now_ns)

    def _source(self, line: _Line) -> str:
        """Session and block number: the session is the start time, which rises from one to the next."""
        line.blocks += 1
        return f"{self.start_ns}:{line.blocks}"


def run_feed(
    tape: str,
    known: Mapping[str, Instrument],
    sender: Sender,
    stop: threading.Event,
    *,
    seed: int = 7,
    records_per_s: float = RECORDS_PER_S,
    clock: Clock | None = None,
) -> int:
    """Publish the market at 1x until `stop` is set, then the `end` of every instrument; blocks the calling thread.

    Args:
        tape: whose raw topic; it must exist.
        known: name → instrument, see `instruments`.
        sender: the producer.
        stop: set by another thread.
        seed, records_per_s: of the market.
        clock: the wall clock.

    Returns:
        Records published.

    Raises:
        DeliveryError: the broker did not confirm a message.
    """
    clock = clock or WallClock()
    feed = SimulatedFeed(tape, known, seed, clock.now_ns(), records_per_s)
    records = 0
    while not stop.wait(FLUSH_NS / 1e9):
        for message in feed.at(clock.now_ns()):
            sender.send(message)
            records += message.envelope.count if message.envelope.kind == "data" else 0
    for message in feed.finish(clock.now_ns()):
        sender.send(message)
    sender.flush()
    return records
