"""How far a tape has come: published, computed, written. What `run` waits for and `status` shows.

Stages are judged by the topics themselves: the last message of a derived topic says which root message is complete.
Sinks say it in a small file beside their progress, written by whoever runs them (`report_sink`), so that any process
can look without asking the store.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, TopicPartition

from runtime.kafka import ANSWER_TIMEOUT_S, consumer, to_message, watermarks
from runtime.object_store import LocalObjectStore
from runtime.tapes import Manifest
from schemas import topics
from schemas.message import Message
from schemas.topics import DERIVED, TopicSpec
from sinks.runner import NAMES, SinkReport

SINKS = NAMES


def report_sink(state_dir: Path, manifest: Manifest, line: str) -> Callable[[SinkReport], None]:
    """What a sink calls to tell how far it is."""
    objects = LocalObjectStore(state_dir)
    partition_of = {name: instrument.partition for name, instrument in manifest.instruments.items()}

    def write(report: SinkReport) -> None:
        done = sum(lane.next_place[0] - manifest.base[lane.partition] for lane in report.lanes if lane.behind is None)
        body = {"rows": report.rows, "messages": done, "drained": report.drained(partition_of)}
        objects.put(_name(manifest, line, report.sink), json.dumps(body).encode())

    return write


class Arrival:
    """Watches one tape and line.

    Args:
        bootstrap_servers: where the cluster is.
        manifest: the tape.
        line: the line.
        state_dir: where sinks report.
    """

    def __init__(self, bootstrap_servers: str, manifest: Manifest, line: str, state_dir: Path) -> None:
        self._client: Consumer = consumer(bootstrap_servers)
        self._manifest, self._line = manifest, line
        self._objects = LocalObjectStore(state_dir)

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def published(self) -> int:
        """Raw messages on the topic, over all partitions."""
        name = topics.MBO.name(self._manifest.tape, self._line)
        return sum(watermarks(self._client, name, p)[1] for p in range(self._manifest.partitions))

    def computed(self, spec: TopicSpec) -> int:
        """Root messages whose outputs on a derived topic are complete, over all partitions."""
        total = 0
        for partition in range(self._manifest.partitions):
            last = self._last(spec.name(self._manifest.tape, self._line), partition)
            if last is not None:
                envelope = last.envelope
                total += envelope.seq - self._manifest.base[partition] + (1 if envelope.last else 0)
        return total

    def written(self, sink: str) -> dict[str, Any]:
        """What a sink says: rows by table, root messages over all its streams, whether every `end` has arrived."""
        data = self._objects.get(_name(self._manifest, self._line, sink))
        return json.loads(data) if data else {"rows": {}, "messages": 0, "drained": False}

    def complete(self) -> bool:
        """Whether everything that was published has left the stages and is confirmed by every sink."""
        published = self.published()
        computed = all(self.computed(spec) >= published for spec in DERIVED)
        return computed and all(self.written(sink)["drained"] for sink in SINKS)

    def _last(self, topic: str, partition: int) -> Message | None:
        low, high = watermarks(self._client, topic, partition)
        if high == low:
            return None
        self._client.assign([TopicPartition(topic, partition, high - 1)])
        raw = self._client.poll(ANSWER_TIMEOUT_S)
        return None if raw is None else to_message(raw)


def _name(manifest: Manifest, line: str, sink: str) -> str:
    return f"arrival/{manifest.tape_id}/{line}/{sink}.json"
