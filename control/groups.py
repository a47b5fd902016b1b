"""Which stages work on a line, as the broker's consumer groups tell: also those on other machines."""

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from runtime.kafka import ANSWER_TIMEOUT_S
from runtime.tapes import Manifest


def stages_at_work(client: AdminClient, manifest: Manifest, line: str) -> set[str] | None:
    """Stages whose consumer group has members; None if the broker does not say.

    A worker that stopped stays a member for the group's session time (10 s), because its place is kept for a restart.
    """
    prefix = manifest.group(line, ())
    try:
        listed = client.list_consumer_groups(request_timeout=ANSWER_TIMEOUT_S).result()
        if listed.errors:
            return None
        groups = [g.group_id for g in listed.valid if g.group_id.startswith(prefix)]
        if not groups:
            return set()
        described = client.describe_consumer_groups(groups, request_timeout=ANSWER_TIMEOUT_S)
        busy = [name for name, future in described.items() if future.result().members]
    except KafkaException:
        return None
    return {stage for name in busy for stage in name.removeprefix(prefix).split("-")}
