"""A hub with one synthetic instrument, and time that the test moves."""

import json

import numpy as np
import pytest

from schemas import bins, trades
from schemas.columns import empty_table
from ws_gateway.channel import Instant
from ws_gateway.fanout import Hub, Name, Tape
from ws_gateway.frames import BINARY_FRAME, HEADER, Block, Kind, frame_start
from ws_gateway.protocol import Session

TAPE, INSTRUMENT = "t1", "GLBX.MDP3:ESH4"
BINS = Name(TAPE, "main", "bins", INSTRUMENT)
TRADES = Name(TAPE, "main", "trades", INSTRUMENT)


def bins_block(seq, rows=1, radius=5, first_bin=None, arrived_ns=-1, part=0):
    """Rows whose every value tells its bin and its place, so that a mix-up shows."""
    table = empty_table(bins.columns(radius), rows)
    first_bin = seq if first_bin is None else first_bin
    table["bin_seq"] = np.arange(first_bin, first_bin + rows)
    table["ts_start_ns"] = table["bin_seq"] * 100_000_000
    table["ts_end_ns"] = (table["bin_seq"] + 1) * 100_000_000
    table["spot_tick"] = 19_000 + table["bin_seq"] % 7
    table["tick_px"][:] = 250_000_000
    table["epoch"][:] = 3
    cells = np.arange(2 * radius + 1)
    for i, name in enumerate(bins.FLOAT_VECTORS):
        table[name] = table["bin_seq"][:, None] * 1000.0 + cells + i / 64
    table["last_event_id"] = table["bin_seq"][:, None] * 10 + cells
    return Block(seq, part, table, 1000 * rows, arrived_ns, int(table["ts_end_ns"][-1]), "run-1", "ts_end_ns")


def trades_block(seq, rows=1):
    table = empty_table(trades.COLUMNS, rows)
    table["ts_ns"] = seq * 100_000_000 + np.arange(rows)
    table["sz"] = np.arange(rows) + seq
    return Block(seq, 0, table, 100 * rows, -1, int(seq * 100_000_000), "run-1", "ts_ns")


class Wire:
    """What a cohort wrote for one session; a full one takes what is written and no more after it."""

    def __init__(self):
        self.frames, self.full = [], False


class Crew:
    """Writes for cohorts when the test lets it."""

    def __init__(self):
        self.waiting, self.together = [], 0

    def due(self, cohort):
        self.waiting.append(cohort)

    def spread(self, members, begin, sent, age_us, payload):
        for base, number, wire in members.values():
            wire.frames.append(HEADER.pack(1, Kind.BATCH, 0, number, base + sent, 0, age_us) + payload)
            assert begin == frame_start(BINARY_FRAME, len(wire.frames[-1]))
        self.together += len(members)
        return [member for member, (_, _, wire) in members.items() if wire.full]

    def work(self, now):
        while self.waiting:
            self.waiting.pop(0).step(now)


class World:
    """A hub, a clock, and sessions on them.

    Args:
        cohorts: whether sessions that have nothing to say let cohorts send for them, as the gateway's do.
    """

    def __init__(self, ring_bytes_max=256 << 20, library=None, cohorts=False):
        self.crew, self.cohorts, self.wires = Crew(), cohorts, {}
        self.hub = Hub(ring_bytes_max, library, self.crew)
        self.hub.set_tapes({TAPE: Tape("id-1", ("main",), (INSTRUMENT,))})
        self.ns = 1_000_000_000_000
        self.seq = 0
        self.woken = 0

    @property
    def now(self):
        return Instant(self.ns, 1_700_000_000_000_000_000 + self.ns)

    def wait(self, seconds):
        self.ns += int(seconds * 1e9)
        return self.now

    def publish(self, count=1, rows=1, **known):
        for _ in range(count):
            self.hub.publish(BINS, bins_block(self.seq, rows, first_bin=self.seq * rows, **known), self.ns)
            self.seq += 1

    def session(self, **known):
        session = Session(self.hub, self.now, self._woken, **known)
        return session

    def _woken(self):
        self.woken += 1

    def say(self, session, **message):
        session.receive(json.dumps(message), self.now)
        return self.drain(session)

    def subscribe(self, session, number=1, **known):
        asked = {"stream": "grid", "tape": TAPE, "instrument": INSTRUMENT, **known}
        return self.say(session, op="subscribe", id=number, **asked)

    def drain(self, session, most=10_000):
        """Everything the session has to say now: dicts for text, (header, payload) for data."""
        out, wire = [], self.wires.setdefault(session, Wire())
        self.crew.work(self.now)
        while len(out) < most and (message := self._next(session, wire)) is not None:
            out.append(json.loads(message) if isinstance(message, str) else (header(message), message[24:]))
        return out

    def _next(self, session, wire):
        if wire.frames:
            return wire.frames.pop(0)
        message = session.next_message(self.now)
        if message is None and self.cohorts and session.closing is None:
            session.settle(wire)
        return message


def header(data):
    names = ("version", "kind", "flags", "id", "number", "left_out", "age_us")
    return dict(zip(names, HEADER.unpack_from(data), strict=True))


@pytest.fixture(params=[False, True], ids=["alone", "together"])
def world(request):
    return World(cohorts=request.param)


@pytest.fixture(scope="session")
def make_world():
    return World


@pytest.fixture
def blocks():
    return bins_block


@pytest.fixture
def trade_blocks():
    return trades_block


@pytest.fixture
def names():
    return {"bins": BINS, "trades": TRADES, "tape": TAPE, "instrument": INSTRUMENT}
