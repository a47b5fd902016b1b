"""Rows of a worker's life: how soon it works again after a kill, and what it costs while little happens."""

import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

from connectors import raw_messages
from control.bench.measure import Bound, Figure, Row, Skip
from control.bench.session import Session
from control.bench.stream_tape import LOOK_EVERY_S, NAME, PATIENCE_S, BenchTape, follow, lost, messages_of
from control.bench.streams_backlog import noop_run
from control.bench.streams_live import Due, Latencies, in_background, live_blocks
from control.bench.synthetic import START_NS, Shape, Stream, make
from runtime.kafka import CheckedProducer, consumer, watermarks
from runtime.lifeline import Child
from schemas.message import Outgoing
from schemas.units import NS_PER_MS, NS_PER_SECOND
from streams.stages import STAGES

KILLS: Final = 10
LOAD_BLOCKS: Final = 200
"""Blocks of 64 records offered a second while workers are killed."""
WORK_S: Final = 0.5
"""Between resumption and the next kill: with a checkpoint since, or without."""
_LOAD_S: Final = 400
"""Seconds for which the offered stream would last: more than any series of kills."""
RESUME_BEYOND_S: Final = 1.5
"""What a stage may add to a bare Faust start: imports of engine and Arrow, kernels from disk, the state."""


class Load:
    """Sends messages at an even pace from a thread, until told to stop; may be paused.

    Args:
        servers: Kafka.
        messages: what to send.

    Attributes:
        sent: messages sent so far.
    """

    def __init__(self, servers: str, messages: Sequence[Outgoing]) -> None:
        self._producer, self._messages = CheckedProducer(servers), messages
        self._stop, self._on = threading.Event(), threading.Event()
        self._on.set()
        self.sent = 0

    def run(self) -> None:
        """Send, and wait at the end until all is confirmed."""
        for message in self._messages:
            self._on.wait()
            if self._stop.wait(1 / LOAD_BLOCKS):
                break
            self._producer.send(message)
            self.sent += 1
        self._producer.flush()

    def stop(self) -> None:
        """No more."""
        self._stop.set()
        self._on.set()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Send nothing while the block runs."""
        self._on.clear()
        yield
        self._on.set()


def resume_after_kill(session: Session) -> list[Row]:
    """From `kill -9` of a worker under load to the first new message on the bins topic, started again at once."""
    kills = session.scaled(1, max(KILLS, session.runs))
    shape = Shape(session.scaled(30, _LOAD_S) * LOAD_BLOCKS * 64, levels=22, queue=40, per_bin=640, churn=20_000)
    stream = make(shape)
    tape = BenchTape(session, "kills", stream.tick_px)
    raw, begin = messages_of(stream, tape.topic, 64, ended=False)
    tape.publish(raw[:begin])
    line, load = tape.open_line(), Load(tape.servers, raw[begin:])
    gaps, bare = [], []
    worker = tape.worker(line, "books")
    try:
        with in_background(load.run, at_end=load.stop):
            _grown(tape, line, worker)
            for _ in range(kills):
                time.sleep(WORK_S)
                killed_s = time.monotonic()
                os.kill(worker.pid, signal.SIGKILL)
                worker.wait(PATIENCE_S)
                worker = tape.worker(line, "books")
                gaps.append(_grown(tape, line, worker) - killed_s)
                with load.paused():
                    begun_s = time.monotonic()
                    bare.append(noop_run(tape, 0, 1).first_s - begun_s)
        sent = raw[: begin + load.sent]
        tape.settle(line, ["books"], len(sent), worker)
    finally:
        worker.terminate(0)
    tape.check("resume_after_kill", line, tape.truth(sent, ["books"]))
    told = shape.conditions() | {"kills": kills, "blocks_per_s": LOAD_BLOCKS, "block": 64}
    ours, base = Figure(tuple(gaps)), Figure(tuple(bare))
    beyond = Figure(tuple(a - b for a, b in zip(gaps, bare, strict=True)))
    return [
        Row("resume_after_kill_p50", ours, "s p50 wall", "bare_faust_start", base, conditions=told),
        Row("resume_after_kill_max", Figure((max(gaps),)), "s max wall", conditions=told),
        Row("resume_beyond_start", beyond, "s p50 wall", gate=Bound("<=", RESUME_BEYOND_S), conditions=told),
    ]


def _grown(tape: BenchTape, line: str, worker: Child) -> float:
    """Time on the monotonic clock when the bins topic grows next.

    Raises:
        ChildFailedError: the worker left, or writes nothing for `PATIENCE_S`.
    """
    topic = tape.output("books", line)
    with closing(consumer(tape.servers)) as client:
        _, before = watermarks(client, topic, 0)
        until_s = time.monotonic() + PATIENCE_S
        while watermarks(client, topic, 0)[1] == before:
            if worker.poll() is not None or time.monotonic() > until_s:
                raise lost(worker, "does not work on")
            time.sleep(LOOK_EVERY_S)
    return time.monotonic()


QUIET: Final = 20
"""Quiet instruments, each with a clock message every `CLOCK_NS`."""
CLOCK_NS: Final = 500 * NS_PER_MS
_BUSY_RATE: Final = 76_000
CLOSE_MAX_S: Final = 1.0
"""From the end of a bin to its message, for quiet instruments too: a viewer must see that nothing happened."""


def idle_cost(session: Session) -> list[Row]:
    """A worker with every stage, one busy instrument, 20 quiet ones whose clocks tick: its cores, its latest bin."""
    seconds = session.scaled(1, 10)
    turns = session.runs
    shape = Shape(turns * seconds * _BUSY_RATE, levels=22, queue=455, per_bin=7_600, churn=20_000)
    stream = make(shape)
    names = [f"SYNTH:QUIET{n}" for n in range(QUIET)]
    tape = BenchTape(session, "idle", stream.tick_px, instruments=(NAME, *names))
    opening = messages_of(Stream(stream.opening, stream.records[:0], stream.tick_px, 0, {}), tape.topic, 1)[0][:-1]
    opening += _quiet_books(tape, names)
    feed = _with_clocks(tape.topic, names, live_blocks(tape.topic, NAME, stream.records, shape.cell_ns), shape.cell_ns)
    tape.publish(opening)
    line = tape.open_line()
    worker = tape.worker(line)
    cores, slowest = [], []
    try:
        follow(tape.servers, tape.output("books", line), len(opening), worker)
        bins, base_ns = Latencies(tape.servers, tape.topic, tape.output("books", line)), START_NS
        for turn in range(turns):
            until_ns = START_NS + (turn + 1) * seconds * NS_PER_SECOND
            part = [due for due in feed if base_ns <= due.t_ns < until_ns]
            spent_s = _cpu_s(worker.pid)
            slowest.append(float(bins.run(part, base_ns, worker).max()) / 1e3)
            cores.append((_cpu_s(worker.pid) - spent_s) / seconds)
            base_ns = until_ns
        sent = [*opening, *(due.message for due in feed if due.t_ns < base_ns)]
        tape.settle(line, list(STAGES), len(sent), worker)
    finally:
        worker.terminate(0)
    tape.check("idle_cost", line, tape.truth(sent, list(STAGES)))
    told = shape.conditions() | {"busy_records_per_s": _BUSY_RATE, "quiet": QUIET, "clock_ms": 500, "stages": [*STAGES]}
    return [
        Row("idle_cost", Figure(tuple(cores)), "cores", gate=Bound("<=", 1.0), conditions=told),
        Row("bin_close_max", Figure(tuple(slowest)), "s longest", gate=Bound("<=", CLOSE_MAX_S), conditions=told),
    ]


def _quiet_books(tape: BenchTape, names: Sequence[str]) -> list[Outgoing]:
    """A definition and a small book for each of the quiet instruments."""
    small = make(Shape(0, levels=5, queue=2, per_bin=10, churn=0))
    out = []
    for name in names:
        known, t_ns = tape.manifest.instruments[name], int(small.opening["ts_recv"][-1])
        out.append(raw_messages.definition(tape.topic, name, known, t_ns=t_ns, source="bench"))
        out.append(raw_messages.data(tape.topic, name, 0, small.opening, t_ns=t_ns, source="bench"))
    return out


def _with_clocks(topic: str, names: Sequence[str], feed: Sequence[Due], cell_ns: int) -> list[Due]:
    """A feed with the clock messages of quiet instruments in between, spread evenly."""
    until_ns, out = feed[-1].t_ns, list(feed)
    for number, name in enumerate(names):
        for t_ns in range(START_NS + number * CLOCK_NS // len(names), until_ns, CLOCK_NS):
            tick = raw_messages.clock(topic, name, 0, t_ns=t_ns, source="bench", arrived=-1)
            first_end_ns = ((t_ns - CLOCK_NS) // cell_ns + 1) * cell_ns  # of those that this one closes
            out.append(Due(t_ns, first_end_ns if t_ns - CLOCK_NS >= START_NS else -1, tick))
    return sorted(out, key=lambda due: due.t_ns)


def _cpu_s(pid: int) -> float:
    """CPU time of a process so far, user and system, all threads, s.

    Raises:
        Skip: this system does not tell.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError as error:
        raise Skip("CPU time of another process can be read on Linux only") from error
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
