"""How far each consumer of a tape is behind, looked at from outside: topics, progress files, locks and groups.

Everything is counted in root messages of the raw topic, and their records, so stages and sinks can be compared. A
*position* is the number of root messages, from the start of the partition, whose effect is complete:

| consumer | its input ends | its position is told by | alive when |
|---|---|---|---|
| stage, by output stream | where the raw topic ends | its newest message on the stream | its group has members |
| sink, by stream | where the stage is on that stream | its progress file | it holds the lane's lock |

Where none of that is seen but a process holds the tape's claim, the consumer may be starting: that is not known then.
The lag in seconds is event time: of the newest raw message less that of the newest one that has arrived. How long ago a
consumer last stored something is seen from its files, in wall time. The judgement is `runtime.lag`'s; samples are
taken only while the consumer is alive, so one that is gone is seen to be silent.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient

from control.arrival import SINKS
from control.groups import stages_at_work
from runtime.errors import BarographError
from runtime.kafka import ANSWER_TIMEOUT_S, admin, consumer, read_raw, refuse_error, to_message, watermarks
from runtime.lag import Sample, Status, Window
from runtime.settings import Settings
from runtime.tapes import Manifest
from schemas.envelope import read_headers
from schemas.message import Message
from schemas.topics import DERIVED, MBO, TopicSpec
from schemas.units import NS_PER_SECOND
from sinks.progress import Progress, progress_from_json

SAMPLED: Final = 16
"""Messages that are read to tell how many records wait. Reading them all would cost as much as what is behind."""

LOOKS: Final = 2
LOOK_EVERY_S: Final = 0.5
"""Looks of a single `lag`, and s between them: enough to see something move, not to call anything stalled."""


_LOCKS: Final = Path("/proc/locks")
"""Every lock that is held, a line each: number, kind, mode, access, process, device:inode, range."""


@dataclass(frozen=True, slots=True)
class Key:
    """A consumer of one partition: `stage` or `sink`, its name, the stream, the partition."""

    kind: str
    name: str
    stream: str
    partition: int


@dataclass(frozen=True, slots=True)
class Look:
    """What was seen of a consumer at once.

    Attributes:
        key: which consumer.
        end, position: see the module's table, root messages.
        lag_records: records in the root messages between them.
        event_lag_s: event seconds that it is behind; None where either side holds nothing.
        idle_s: wall seconds since it last stored its progress; None if it never did.
        alive: whether it is at work; None if that cannot be seen.
    """

    key: Key
    end: int
    position: int
    lag_records: int
    event_lag_s: float | None
    idle_s: float | None
    alive: bool | None


@dataclass(slots=True)
class Follower:
    """Looks at one tape and line again and again, and judges.

    Args:
        bootstrap_servers: Kafka.
        manifest: the tape.
        line: the line.
        settings: where progress and locks are.
    """

    bootstrap_servers: str
    manifest: Manifest
    line: str
    settings: Settings
    _windows: dict[Key, Window] = field(default_factory=dict)
    _client: Consumer = field(init=False)
    _admin: AdminClient = field(init=False)

    def __post_init__(self) -> None:
        self._client, self._admin = consumer(self.bootstrap_servers), admin(self.bootstrap_servers)

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def look(self, now_s: float) -> list[dict[str, Any]]:
        """Look at every consumer once; one row each, as `lag` shows them.

        Raises:
            MissingServiceError: the broker does not answer.
        """
        return [self._judge(look, now_s) for look in self._looks()]

    def _judge(self, look: Look, now_s: float) -> dict[str, Any]:
        window = self._windows.setdefault(look.key, Window())
        newest = window.newest
        if look.alive is not False or newest is None or newest.position != look.position:
            window.add(Sample(now_s, look.end, look.position, look.event_lag_s))
        lag = max(0, look.end - look.position)
        gone = look.alive is False and lag > 0
        return {
            "tape": self.manifest.tape,
            "line": self.line,
            "consumer": f"{look.key.kind} {look.key.name}",
            "stream": look.key.stream,
            "partition": look.key.partition,
            "end": look.end,
            "position": look.position,
            "lag": lag,
            "lag_records": look.lag_records,
            "lag_s": None if look.event_lag_s is None else round(look.event_lag_s, 3),
            "idle_s": None if look.idle_s is None else round(look.idle_s, 1),
            "alive": look.alive,
            "status": (Status.STOPPED if gone else window.status(now_s)).value,
        }

    def _looks(self) -> Iterator[Look]:
        members = stages_at_work(self._admin, self.manifest, self.line)
        for partition in range(self.manifest.partitions):
            base = self.manifest.base[partition]
            raw = _newest(self._client, MBO.name(self.manifest.tape), partition)
            end = 0 if raw is None else raw.offset + 1
            reached: dict[str, tuple[int, Message | None]] = {MBO.stream: (end, raw)}
            for spec in DERIVED:
                last = _newest(self._client, spec.name(self.manifest.tape, self.line), partition)
                position = 0 if last is None else last.envelope.seq - base + (1 if last.envelope.last else 0)
                reached[spec.stream] = position, last
                stage = spec.producer.removesuffix(" stage")
                idle_s = _idle_s(self.settings.state_dir / self._checkpoints(stage, partition))
                alive = self._alive(members is not None and stage in members, known=members is not None)
                key = Key("stage", stage, spec.stream, partition)
                waiting = self._records(raw, position)
                yield Look(key, end, position, waiting, _behind_s(raw, last), idle_s, alive)
            for sink in SINKS:
                for spec in (MBO, *DERIVED):
                    yield self._sink(sink, spec, partition, *reached[spec.stream], raw)

    def _sink(
        self, sink: str, spec: TopicSpec, partition: int, end: int, newest: Message | None, raw: Message | None
    ) -> Look:
        key = Key("sink", sink, spec.stream, partition)
        path = self._progress_path(sink, spec, partition)
        if path is None:
            return Look(key, end, 0, self._records(raw, 0, end), None, None, None)
        progress: Progress = progress_from_json(path.read_bytes())
        written = _at(self._client, spec.name(self.manifest.tape, self.line), partition, progress.offset - 1)
        idle_s = max(0.0, time.time() - path.stat().st_mtime)
        held = is_held(path.with_name(f".{path.name}.lock"))
        alive = self._alive(bool(held), known=held is not None)
        position = max(0, progress.seq - self.manifest.base[partition])
        waiting = self._records(raw, position, end)
        return Look(key, end, position, waiting, _behind_s(newest, written), idle_s, alive)

    def _records(self, raw: Message | None, position: int, end: int | None = None) -> int:
        """Records in root messages `position` to before `end`; beyond `SAMPLED` messages as many as those hold."""
        lag = 0 if raw is None else (raw.offset + 1 if end is None else end) - position
        if raw is None or lag <= 0:
            return 0
        sampled = min(lag, SAMPLED)
        try:
            found = [*read_raw(self.bootstrap_servers, raw.topic, raw.partition, position, position + sampled)]
        except BarographError:  # they have left the log
            return round(lag * raw.envelope.count)
        return round(lag * sum(read_headers(m.headers(), b"")[0].count for m in found) / sampled)

    def _alive(self, seen: bool, *, known: bool = True) -> bool | None:
        """Whether a consumer is at work; None where it may be about to: somebody runs the tape's workers."""
        if seen:
            return True
        claim = self.settings.state_dir / "workers" / self.manifest.tape_id / self.line / ".owner"
        return False if known and is_held(claim) is False else None

    def _progress_path(self, sink: str, spec: TopicSpec, partition: int) -> Path | None:
        """The newest progress file of a lane: a target that was emptied has another identity and a new file."""
        line = "-" if spec is MBO else self.line
        pattern = f"sinks/{sink}-*/{self.manifest.tape_id}/{line}/{spec.stream}-{partition:05d}.json"
        found = list(self.settings.state_dir.glob(pattern))
        return max(found, key=lambda path: path.stat().st_mtime, default=None)

    def _checkpoints(self, stage: str, partition: int) -> str:
        return f"checkpoints/{self.manifest.tape_id}/{self.line}/{stage}/{partition}/manifests"


def once(followers: list[Follower]) -> list[dict[str, Any]]:
    """Look `LOOKS` times, some moments apart, and give what was seen last."""
    rows: list[dict[str, Any]] = []
    for look in range(LOOKS):
        if look:
            time.sleep(LOOK_EVERY_S)
        rows = [row for follower in followers for row in follower.look(time.monotonic())]
    return rows


def _newest(client: Consumer, topic: str, partition: int) -> Message | None:
    low, high = watermarks(client, topic, partition)
    return None if high == low else _at(client, topic, partition, high - 1)


def _at(client: Consumer, topic: str, partition: int, offset: int) -> Message | None:
    """The message at an offset; None if there is none or it is not one of ours."""
    if offset < 0:
        return None
    client.assign([TopicPartition(topic, partition, offset)])
    raw = client.poll(ANSWER_TIMEOUT_S)
    if raw is None:
        return None
    try:
        refuse_error(raw)
        return to_message(raw)
    except (BarographError, ValueError):
        return None


def _behind_s(ahead: Message | None, behind: Message | None) -> float | None:
    if ahead is None or behind is None:
        return None
    return max(0.0, (ahead.envelope.t - behind.envelope.t) / NS_PER_SECOND)


def _idle_s(folder: Path) -> float | None:
    """Wall seconds since something was last written into a folder."""
    times = [mtime for path in folder.glob("*.json") if (mtime := _mtime_s(path)) is not None]
    return max(0.0, time.time() - max(times)) if times else None


def _mtime_s(path: Path) -> float | None:
    """When a file was written; None if it is gone: stages forget old checkpoints while we look."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return None


def is_held(path: Path) -> bool | None:
    """Whether a process holds a file's lock, without trying it: a sink that starts at that moment would be refused.

    None where the system does not list its locks. Devices are not compared: on stacked file systems the list names
    another one than the file does; two files of one inode number and both locked are rare.
    """
    try:
        listed = _LOCKS.read_text().splitlines()
        inode = str(path.stat().st_ino)
    except FileNotFoundError:
        return False if _LOCKS.exists() else None
    return any(line.split()[-3].rpartition(":")[2] == inode for line in listed)
