"""What a stage needs and the log no longer has: read from the lake, and taken as if the broker had delivered it.

A message of the lake is the one that stood in the topic, byte for byte, so the stage cannot tell. There is nothing to
acknowledge. What was deleted on demand comes as a message without content, which the shell refuses.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from runtime.lake_format import folder, objects
from runtime.object_store import ObjectStore
from runtime.sequence import Place, followers
from runtime.tape_reader import TapeReader
from runtime.tapes import Manifest
from schemas.topics import MBO, TopicSpec


@dataclass(slots=True)
class PastDelivery:
    """A message of the lake, in the form in which a client gives those of the log.

    Attributes:
        topic, partition: where it stood.
        offset: of a raw message its offset; of a derived one, which may have stood elsewhere, the last before the log.
        timestamp: Kafka's stamp, seconds.
        key, value, headers: its content.
    """

    topic: str
    partition: int
    offset: int
    timestamp: float
    key: bytes | None
    value: bytes | None
    headers: Any


class Past(Protocol):
    """Messages that have left the log of one topic."""

    def covers(self, partition: int, start: Place) -> bool:
        """Whether everything from a place up to the start of the log is there."""

    def read(self, partition: int, start: Place, low: int) -> Iterator[PastDelivery]:
        """Everything from a place up to the start of the log, whose first offset is `low`."""


class LakePast:
    """The past of a stage's input, from the lake.

    Args:
        lake: the lake's objects.
        manifest, line: the tape and line.
        spec: the input.
        bootstrap_servers: Kafka, which knows where the log starts.
    """

    def __init__(self, lake: ObjectStore, manifest: Manifest, line: str, spec: TopicSpec, bootstrap_servers: str):
        self._lake, self._manifest, self._line, self._spec = lake, manifest, line, spec
        self._servers = bootstrap_servers

    def covers(self, partition: int, start: Place) -> bool:
        """Whether neighbouring objects hold everything from `start` up to the start of the log, by their names.

        Raises:
            OSError: the lake is away.
            MissingServiceError: the broker does not answer.
        """
        topic = self._spec.name(self._manifest.tape, self._line)
        first = self._reader(partition, start).log_start()
        reached: Place | None = None
        for item in objects(self._lake, folder(topic, self._manifest.tape_id, partition)):
            if item.last < start:
                continue
            if item.first > start if reached is None else item.first not in followers(reached):
                return False
            reached = item.last
            if first is not None and (reached >= first or first in followers(reached)):
                return True
        return first is None and reached is not None

    def read(self, partition: int, start: Place, low: int) -> Iterator[PastDelivery]:
        """The messages in order.

        Raises:
            HoleError, DamagedObjectError: the lake does not hold what its names say.
            MissingServiceError: lake or broker are away.
        """
        for placed in self._reader(partition, start).before_log():
            message = placed.message
            raw = self._spec is MBO
            offset = placed.seq - self._manifest.base[partition] if raw else low - 1
            yield PastDelivery(
                message.topic,
                partition,
                offset,
                message.timestamp_ms / 1000,
                message.instrument.encode(),
                message.value,
                message.envelope.to_headers(),
            )

    def _reader(self, partition: int, start: Place) -> TapeReader:
        return TapeReader(
            self._manifest, self._line, self._spec, partition, self._servers, self._lake, start, deleted=True
        )
