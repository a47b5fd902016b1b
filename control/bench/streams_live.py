"""Rows of a live feed: records are offered by the clock, whatever the worker does with them (open loop).

A block leaves when its last record is due; time counts from when it should have happened, not from when a late sender
came round to it. So a worker that pauses pays for everything that waited meanwhile.
"""

import itertools
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from confluent_kafka import TopicPartition

from connectors import raw_messages
from connectors.dbn_stats import MAX_FUTURE_NS
from control.bench.measure import Bound, Figure, Row
from control.bench.session import Session
from control.bench.stream_tape import NAME, PATIENCE_S, BenchTape, child, follow, lost, messages_of
from control.bench.synthetic import Shape, Stream, make
from engine.record_time import record_times
from runtime.kafka import CheckedProducer, consumer, to_message, watermarks
from runtime.lifeline import Child
from schemas.message import Outgoing
from schemas.units import NS_PER_MS, NS_PER_SECOND

RATE: Final = 100_000
"""Records offered a second."""
CELL_NS: Final = 20 * NS_PER_MS
"""Width of a bin here: 50 samples a second; at the default 100 ms, p99.9 would take two minutes a run."""
FLUSH_NS: Final = 10 * NS_PER_MS
FLUSH_RECORDS: Final = 1_024
"""As live connectors cut: with the record that crosses the end of a bin, else after 10 ms or 1,024 records."""
_LINGER: Final = {"linger.ms": 0}
_SLACK_S: Final = 0.5
"""Between the decision to offer and the first due time."""


@dataclass(frozen=True, slots=True)
class Due:
    """A message of an open loop: when its last record is due, and the end of the bin it closes (-1: none); both ns."""

    t_ns: int
    closes_ns: int
    message: Outgoing


def live_blocks(topic: str, name: str, records: np.ndarray, cell_ns: int) -> list[Due]:
    """Records as a live connector sends them."""
    times = record_times(records, None, MAX_FUTURE_NS)
    cells = times // cell_ns
    out: list[Due] = []
    start = 0
    while start < len(records):
        stop = min(start + FLUSH_RECORDS, len(records))
        stop = min(stop, int(np.searchsorted(times, times[start] + FLUSH_NS, "left")))
        entered = cells[start - 1] if start else cells[0]
        crossed = start + int(np.searchsorted(cells[start:stop], entered, "right"))
        closes_ns = -1
        if crossed < stop:
            stop, closes_ns = crossed + 1, int((entered + 1) * cell_ns)
        t_ns = int(times[stop - 1])
        message = raw_messages.data(topic, name, 0, records[start:stop], t_ns=t_ns, source=f"live:{len(out)}")
        out.append(Due(t_ns, closes_ns, message))
        start = stop
    return out


def offer(producer: CheckedProducer, feed: Sequence[Due], base_ns: int, start_s: float) -> None:
    """Send each message when it is due; event time `base_ns` is due at `start_s` on the monotonic clock."""
    for due in feed:
        wait_s = start_s + (due.t_ns - base_ns) / NS_PER_SECOND - time.monotonic()
        if wait_s > 0:
            time.sleep(wait_s)
        producer.send(due.message)
    producer.flush()


@contextmanager
def in_background(
    work: Callable[..., object], *args: Any, at_end: Callable[[], object] | None = None
) -> Iterator[None]:
    """Run something in a thread beside the block; what it raises is raised when the block has ended.

    Args:
        work: what to run.
        args: its arguments.
        at_end: called when the block ends, so that it ends too.
    """
    failed: list[BaseException] = []

    def run() -> None:
        try:
            work(*args)
        except BaseException as error:  # raised again below, in the thread that waits
            failed.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        if at_end is not None:
            at_end()
    thread.join()
    if failed:
        raise failed[0]


class Latencies:
    """Offers segments of a feed and times what comes of them.

    Args:
        servers: Kafka.
        topic: where it is offered.
        answers: where the answers come.
    """

    def __init__(self, servers: str, topic: str, answers: str) -> None:
        self._servers, self._topic, self._answers = servers, topic, answers
        self._producer = CheckedProducer(servers, _LINGER)

    def run(self, feed: Sequence[Due], base_ns: int, child: Child) -> np.ndarray:
        """Offer a segment; ms from the end of each bin to the arrival of the answer to the message that closes it.

        Raises:
            ChildFailedError: an answer does not come.
        """
        with closing(consumer(self._servers)) as client:
            _, offset = watermarks(client, self._topic, 0)
            _, answered = watermarks(client, self._answers, 0)
            client.assign([TopicPartition(self._answers, 0, answered)])
            client.poll(0.1)
            waiting = {offset + i: due.closes_ns for i, due in enumerate(feed) if due.closes_ns >= 0}
            start_s, took = time.monotonic() + _SLACK_S, []
            with in_background(offer, self._producer, feed, base_ns, start_s):
                patience_s = start_s + (feed[-1].t_ns - base_ns) / NS_PER_SECOND + PATIENCE_S
                while waiting:
                    raw = client.poll(1.0)
                    now_s = time.monotonic()
                    if raw is None:
                        if now_s > patience_s or child.poll() is not None:
                            raise lost(child, "does not answer")
                        continue
                    envelope = to_message(raw).envelope
                    seq = (
                        envelope.seq if envelope.seq >= 0 else int(raw.offset() or 0)
                    )  # an echo has no place of its own
                    if envelope.last and (end_ns := waiting.pop(seq, None)) is not None:
                        took.append((now_s - start_s) * 1e3 - (end_ns - base_ns) / NS_PER_MS)
        return np.array(took)


def tick_to_bin(session: Session) -> list[Row]:
    """From the end of a bin to its message in a consumer, beside an echo of the same blocks by confluent-kafka."""
    seconds = session.scaled(1, 6)
    turns = session.runs + (not session.quick)
    per_bin = RATE * CELL_NS // NS_PER_SECOND
    shape = Shape(turns * seconds * RATE, levels=22, queue=40, per_bin=per_bin, cell_ns=CELL_NS, churn=20_000)
    stream = make(shape)
    tape = BenchTape(session, "live", stream.tick_px, cell_ns=CELL_NS)
    opening = messages_of(Stream(stream.opening, stream.records[:0], stream.tick_px, CELL_NS, {}), tape.topic, 1)[0][
        :-1
    ]
    feed = live_blocks(tape.topic, NAME, stream.records, CELL_NS)
    echoed, echoes = BenchTape(session, "echoed", stream.tick_px), BenchTape(session, "echoes", stream.tick_px)
    line = tape.open_line()
    tape.publish(opening)
    worker = tape.worker(line, "books")
    peer = child(
        (sys.executable, "-m", "control.bench.stream_peers", "echo", tape.servers, echoed.topic, echoes.topic),
        tape.folder,
        "echo",
    )
    try:
        follow(tape.servers, tape.output("books", line), len(opening), worker)
        ours = Latencies(tape.servers, tape.topic, tape.output("books", line))
        base = Latencies(tape.servers, echoed.topic, echoes.topic)
        same = [Due(d.t_ns, d.closes_ns, _on(echoed.topic, d.message)) for d in feed]
        took: list[tuple[np.ndarray, np.ndarray]] = []
        base_ns = int(record_times(stream.records[:1], None, MAX_FUTURE_NS)[0])
        for cut in _segments(feed, turns):
            took.append((ours.run(feed[cut], base_ns, worker), base.run(same[cut], base_ns, peer)))
            base_ns = feed[cut.stop - 1].t_ns
        sent = [*opening, *(due.message for due in feed[: cut.stop])]
        tape.settle(line, ["books"], len(sent), worker)
    finally:
        worker.terminate(0)
        peer.terminate(0)
    tape.check("tick_to_bin", line, tape.truth(sent, ["books"]))
    told = shape.conditions() | {"records_per_s": RATE, "bins": sum(len(a) for a, _ in took)}
    return _percentiles(took[0 if session.quick else 1 :], told)


def _percentiles(took: Sequence[tuple[np.ndarray, np.ndarray]], told: dict[str, Any]) -> list[Row]:
    """p50 and p99 of each turn; p99.9 of all turns together, for a single one has too few bins."""
    rows = []
    pooled = [tuple(np.concatenate(parts) for parts in zip(*took, strict=True))]
    gates, aims = {50.0: Bound("<=", 3.0)}, {50.0: Bound("<=", 2.0), 99.0: Bound("<=", 10.0)}
    for percent, turns in ((50.0, took), (99.0, took), (99.9, pooled)):
        ours, base = (Figure(tuple(float(np.percentile(turn[n], percent)) for turn in turns)) for n in (0, 1))
        name = f"tick_to_bin_p{percent:g}".replace(".", "")
        row = Row(name, ours, f"ms p{percent:g}", "echo", base, gate=gates.get(percent), conditions=told)
        rows.append(row if percent not in aims else _aimed(row, aims[percent]))
    return rows


def _aimed(row: Row, aim: Bound) -> Row:
    return Row(row.row, row.figure, row.unit, row.baseline, row.baseline_figure, False, row.gate, aim, row.conditions)


def _segments(feed: Sequence[Due], count: int) -> list[slice]:
    """A feed in equal parts, each ending with a message that closes a bin; what follows the last one is left out."""
    closing_at = [i + 1 for i, due in enumerate(feed) if due.closes_ns >= 0]
    cuts = [0, *(closing_at[len(closing_at) * (n + 1) // count - 1] for n in range(count))]
    return [slice(a, b) for a, b in itertools.pairwise(cuts)]


def _on(topic: str, message: Outgoing) -> Outgoing:
    return Outgoing(topic, message.partition, message.instrument, message.value, message.envelope)
