"""The replay producer: DBN files onto the raw topic of a tape.

`messages_of` is the whole content, a pure function of files and plan: for each instrument one `definition` before its
first data, its blocks, and, after the last file, one `end`. Files that follow each other on an instrument are played in
that order; files that run side by side are merged by time. The rest is transport: wait until a message is due, send it,
check every delivery.

A replay that stopped goes on exactly where it was: as content is a function of the files, the last message of each
partition tells, by instrument, kind and `source`, how much of the sequence stands there already. `source` is the first
16 hex digits of the file's sha256 and the places of the first and last record among the file's MBO records.
"""

import contextlib
import heapq
import itertools
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from connectors import raw_messages
from connectors.blocks import Block, BlockCutter, CutRule
from connectors.dbn_errors import FETCH_AGAIN, ManifestMismatchError
from connectors.dbn_file import DbnFile
from connectors.dbn_metadata import InstrumentNames
from connectors.dbn_records import SYMBOL_MAPPING_RTYPE, symbol_mappings
from connectors.dbn_stats import MAX_FUTURE_NS
from connectors.dbn_verify import VerifyReport
from connectors.pacer import MAX_SPEED, Pacer
from engine.record_time import record_times
from runtime import kafka
from runtime.clock import Clock, WallClock
from runtime.errors import InputError
from runtime.tapes import Instrument
from schemas.mbo import MBO_RTYPE
from schemas.message import Message, Outgoing
from schemas.topics import MBO

HASH_DIGITS: Final = 16
"""Hex digits of the file hash in `source`: 64 bits, enough to tell the few files of a tape apart."""


@dataclass(frozen=True, slots=True)
class ReplayPlan:
    """What is to be published.

    Attributes:
        tape: whose raw topic.
        reports: the verified files, in time order.
        instruments: name → partition, tick and so on, as the tape's manifest has them.
        rule: how blocks are cut; as the manifest has it.
    """

    tape: str
    reports: Sequence[VerifyReport]
    instruments: Mapping[str, Instrument]
    rule: CutRule

    @property
    def topic(self) -> str:
        """Name of the raw topic."""
        return MBO.name(self.tape)

    @property
    def records(self) -> int:
        """Records of all files."""
        return sum(report.mbo_records for report in self.reports)


@dataclass(frozen=True, slots=True)
class ReplayResult:
    """What a replay did.

    Attributes:
        messages, records: published now.
        skipped: messages that stood on the topic already.
        ended: whether everything is published; False if it was asked to stop before.
    """

    messages: int
    records: int
    skipped: int
    ended: bool


class Sender(Protocol):
    """What a replay needs of a producer; `runtime.kafka.CheckedProducer` is one."""

    def send(self, message: Outgoing) -> None:
        """Queue a message."""

    def flush(self) -> None:
        """Wait until every message is confirmed; raises if one is not."""


def messages_of(plan: ReplayPlan) -> Iterator[Outgoing]:
    """Every message of the replay, in the order of publication.

    Raises:
        DbnError: a file is not the one that was verified.
    """
    engine_ns: dict[str, int] = {}
    last: dict[str, str] = {}
    for report, name, block in _merged(plan):
        known, file_id = plan.instruments[name], report.sha256[:HASH_DIGITS]
        times = record_times(block.records, engine_ns.get(name), MAX_FUTURE_NS)
        if name not in engine_ns:
            source = f"{file_id}:{block.first}"
            yield raw_messages.definition(plan.topic, name, known, t_ns=int(times[0]), source=source)
        engine_ns[name] = int(times[-1])
        last[name] = f"{file_id}:{block.last + 1}"
        source = f"{file_id}:{block.first}-{block.last}"
        yield raw_messages.data(plan.topic, name, known.partition, block.records, t_ns=engine_ns[name], source=source)
    for name, t_ns in engine_ns.items():
        yield raw_messages.end(plan.topic, name, plan.instruments[name].partition, t_ns=t_ns, source=last[name])


def _merged(plan: ReplayPlan) -> Iterator[tuple[VerifyReport, str, Block]]:
    """Blocks of all files by the time at which they close, files of one instrument one after the other."""
    streams = [
        itertools.chain.from_iterable(_keyed(plan.rule, plan.reports[index], index, floor) for index, floor in lane)
        for lane in _lanes(plan.reports)
    ]
    for _, _, report, name, block in heapq.merge(*streams, key=lambda item: item[:2]):
        yield report, name, block


def _lanes(reports: Sequence[VerifyReport]) -> list[list[tuple[int, int]]]:
    """Files that are read one after the other; only one file of a lane is open at a time.

    Returns:
        Per lane: place of the file in `reports`, and the earliest time that its blocks may be merged at: the end of
        what came before in its lane and of every earlier file that holds one of its instruments.
    """
    lanes: list[list[tuple[int, int]]] = []
    lane_ends: list[int] = []
    ends: dict[str, tuple[int, int]] = {}  # instrument → end of its last file, and its lane
    for index, report in enumerate(reports):
        earlier = [ends[name] for name in report.instruments if name in ends]
        free = [lane for lane, end_ns in enumerate(lane_ends) if end_ns <= report.first_ns]
        lane = max(earlier)[1] if earlier else free[0] if free else len(lanes)
        if lane == len(lanes):
            lanes.append([])
            lane_ends.append(0)
        floor_ns = max(lane_ends[lane], *(end_ns for end_ns, _ in earlier), 0)
        lanes[lane].append((index, floor_ns))
        lane_ends[lane] = max(floor_ns, report.last_ns)
        ends.update(dict.fromkeys(report.instruments, (lane_ends[lane], lane)))
    return lanes


def _keyed(
    rule: CutRule, report: VerifyReport, index: int, floor_ns: int
) -> Iterator[tuple[int, int, VerifyReport, str, Block]]:
    """Blocks of one file with what they are merged by: never before the end of an earlier file of an instrument."""
    cutter = BlockCutter(rule)
    now_ns = 0
    with DbnFile(report.path) as file:
        names: InstrumentNames | None = None
        for run in file.runs():
            names = names or InstrumentNames(file.metadata)
            if run.rtype == SYMBOL_MAPPING_RTYPE:
                names.learn(symbol_mappings(run))
            elif run.rtype == MBO_RTYPE:
                records = run.mbo()
                times = record_times(records, now_ns, MAX_FUTURE_NS)
                now_ns = int(times[-1])
                for block in cutter.feed(records, names.codes(records), times):
                    yield max(block.closed_ns, floor_ns), index, report, names.names[block.code], block
        _require_same(report, file)
    assert names is not None
    for block in cutter.finish():
        yield max(block.closed_ns, floor_ns), index, report, names.names[block.code], block


def _require_same(report: VerifyReport, file: DbnFile) -> None:
    if file.sha256 != report.sha256:
        raise ManifestMismatchError(report.path, "changed while it was being replayed", FETCH_AGAIN)


def standing(messages: Iterator[Outgoing], tails: Mapping[int, Message]) -> Iterator[tuple[Outgoing, bool]]:
    """Each message of a replay, and whether it stands on the topic already.

    Args:
        messages: the whole replay.
        tails: partition → last message there; partitions that hold nothing are absent.

    Raises:
        InputError: a partition ends with a message that this replay does not produce.
    """
    behind = dict(tails)
    for message in messages:
        tail = behind.get(message.partition)
        if tail is not None and _same(message, tail):
            del behind[message.partition]
        yield message, tail is not None
    for partition, tail in behind.items():
        raise InputError(
            f"{tail.topic}[{partition}] ends with a {tail.envelope.kind} message of {tail.instrument} from source "
            f"{tail.envelope.source or 'unknown'}, which these files do not give",
            remedy="replay the files that the tape was begun with, or replace the tape",
        )


def _same(message: Outgoing, tail: Message) -> bool:
    mine, theirs = message.envelope, tail.envelope
    return (message.instrument, mine.kind, mine.source, mine.crc32) == (
        tail.instrument,
        theirs.kind,
        theirs.source,
        theirs.crc32,
    )


def publish(
    plan: ReplayPlan,
    sender: Sender,
    tails: Mapping[int, Message],
    *,
    speed: float = MAX_SPEED,
    clock: Clock | None = None,
    stop: threading.Event | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> ReplayResult:
    """Publish what is not on the topic yet, and wait until the broker confirmed all of it.

    Args:
        plan: what to publish.
        sender: the producer.
        tails: partition → last message on the topic, see `read_tails`.
        speed: market seconds per second; `MAX_SPEED` for no waiting.
        clock: for pacing.
        stop: set by another thread to end early, between two messages.
        on_progress: called with (records published, records in all).

    Raises:
        DbnError, InputError: see `messages_of` and `standing`.
        DeliveryError: the broker did not confirm a message.
    """
    clock, stop = clock or WallClock(), stop or threading.Event()
    pacer: Pacer | None = None
    sent = sent_records = skipped = done = 0
    for message, stands in standing(messages_of(plan), tails):
        records = message.envelope.count if message.envelope.kind == "data" else 0
        done += records
        if stands:
            skipped += 1
            continue
        pacer = pacer or Pacer(speed, message.envelope.t, clock.monotonic_s())
        if stop.wait(pacer.wait_s(message.envelope.t, clock.monotonic_s())):
            sender.flush()
            return ReplayResult(sent, sent_records, skipped, ended=False)
        sender.send(message)
        sent, sent_records = sent + 1, sent_records + records
        if on_progress is not None:
            on_progress(done, plan.records)
    sender.flush()
    return ReplayResult(sent, sent_records, skipped, ended=True)


def read_tails(bootstrap_servers: str, topic: str, partitions: int) -> dict[int, Message]:
    """Partition → last message of a topic; partitions that hold nothing are absent.

    Raises:
        BarographError: the broker does not answer, or the last message is not one of ours.
    """
    tails = {}
    with contextlib.closing(kafka.consumer(bootstrap_servers)) as client:
        ends = {partition: kafka.watermarks(client, topic, partition)[1] for partition in range(partitions)}
    for partition, end in ends.items():
        if end > 0:
            (tails[partition],) = kafka.read_range(bootstrap_servers, topic, partition, end - 1, end)
    return tails


def replay(
    plan: ReplayPlan,
    bootstrap_servers: str,
    partitions: int,
    *,
    speed: float = MAX_SPEED,
    stop: threading.Event | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> ReplayResult:
    """Publish a plan on a cluster whose topics exist, resuming where an earlier attempt stopped; see `publish`."""
    tails = read_tails(bootstrap_servers, plan.topic, partitions)
    sender = kafka.CheckedProducer(bootstrap_servers)
    return publish(plan, sender, tails, speed=speed, stop=stop, on_progress=on_progress)
