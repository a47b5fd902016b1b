"""Topics as the catalogue declares them: made, compared, deleted."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from confluent_kafka import KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._config import ConfigResource
from confluent_kafka.admin._topic import TopicDescription
from confluent_kafka.cimpl import NewTopic

from runtime.errors import InputError, MissingServiceError
from runtime.kafka import ANSWER_TIMEOUT_S, admin
from schemas.topics import CATALOGUE, TopicSpec, of_tape

SETTLE_TIMEOUT_S: Final = 30.0
"""How long the broker may take until all it says of a new or deleted topic agrees. It takes some 100 ms; a machine
under full load has been seen to take 3 s."""

SETTLE_POLL_S: Final = 0.1


@dataclass(frozen=True, slots=True)
class Drift:
    """A topic that is not as declared: its name, the key that differs, and both values (None: the topic is missing)."""

    topic: str
    key: str
    declared: str
    actual: str | None


class TopicAdmin:
    """The topics of one cluster.

    Args:
        bootstrap_servers: where the cluster is.
        replication: copies of each topic; 1 on the embedded broker.
    """

    def __init__(self, bootstrap_servers: str, replication: int = 1) -> None:
        self._admin: AdminClient = admin(bootstrap_servers)
        self._replication = replication

    def existing(self) -> set[str]:
        """Names of all topics.

        Raises:
            MissingServiceError: the broker does not answer.
        """
        try:
            return set(self._admin.list_topics(timeout=ANSWER_TIMEOUT_S).topics)
        except KafkaException as error:
            raise MissingServiceError("the Kafka broker does not answer", remedy="look at its log") from error

    def apply(self, tape: str, line: str, partitions: int) -> dict[str, str]:
        """Make the topics of a tape and line that do not exist; name → topic id of all of them.

        Raises:
            InputError: one exists with another partition count.
        """
        wanted = of_tape(tape, line)
        shared = {spec.name(): spec for spec in CATALOGUE if spec.scope == "global"}
        self._create({name: (spec, partitions) for name, spec in wanted.items()})
        self._create({name: (spec, 1) for name, spec in shared.items()})
        described = self._described(list(wanted))
        for name, found in described.items():
            if len(found.partitions) != partitions:
                raise InputError(
                    f"topic {name} has {len(found.partitions)} partitions, the tape has {partitions}",
                    remedy="make the tape again with --replace",
                )
        return {name: str(found.topic_id) for name, found in described.items()}

    def _described(self, names: list[str]) -> dict[str, TopicDescription]:
        """Each topic as the broker knows it; waits for topics that were made a moment ago."""
        deadline_s = time.monotonic() + SETTLE_TIMEOUT_S
        while True:
            futures = self._admin.describe_topics(TopicCollection(names), request_timeout=ANSWER_TIMEOUT_S)
            try:
                return {name: future.result() for name, future in futures.items()}
            except KafkaException as error:
                unknown = error.args[0].code() == KafkaError.UNKNOWN_TOPIC_OR_PART
                if not unknown or time.monotonic() > deadline_s:
                    raise
            time.sleep(SETTLE_POLL_S)

    def _create(self, wanted: dict[str, tuple[TopicSpec, int]]) -> None:
        missing = set(wanted) - self.existing()
        if not missing:
            return
        futures = self._admin.create_topics(
            [
                NewTopic(n, wanted[n][1], replication_factor=self._replication, config=wanted[n][0].config())
                for n in missing
            ],
            operation_timeout=SETTLE_TIMEOUT_S,
        )
        for future in futures.values():
            try:
                future.result()
            except KafkaException as error:
                if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                    raise

    def delete(self, names: Sequence[str]) -> None:
        """Delete the topics that exist, and wait until their names are free."""
        present = [name for name in names if name in self.existing()]
        if present:
            for future in self._admin.delete_topics(present, operation_timeout=SETTLE_TIMEOUT_S).values():
                future.result()
        deadline_s = time.monotonic() + SETTLE_TIMEOUT_S
        while not self.existing().isdisjoint(names) and time.monotonic() < deadline_s:
            time.sleep(SETTLE_POLL_S)

    def drift(self, tape: str, line: str) -> list[Drift]:
        """Where the topics of a tape and line differ from the catalogue."""
        wanted, existing = of_tape(tape, line), self.existing()
        found = [Drift(name, "topic", "exists", None) for name in wanted if name not in existing]
        resources = [ConfigResource(ConfigResource.Type.TOPIC, name) for name in wanted if name in existing]
        if not resources:
            return found
        for resource, future in self._admin.describe_configs(resources).items():
            actual = future.result()
            for key, declared in wanted[resource.name].config().items():
                value = actual[key].value
                if value != declared:
                    found.append(Drift(resource.name, key, declared, value))
        return found
