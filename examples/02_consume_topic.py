"""Read a derived topic, each message once, with confluent-kafka and pyarrow alone.

    python 02_consume_topic.py localhost:9092 TAPE.main.trades.v1

Delivery is at least once: after a crash a producer writes again what already stands in the topic, byte for byte. The
headers `seq`, `part` and `last` number the messages of a partition, so there is one rule: take what is expected next,
drop what came before, refuse a hole. A program that goes on for ever keeps `expected` beside its results.
"""

import sys
from hashlib import sha256

import pyarrow as pa
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, TopicPartition


def read(consumer: Consumer, topic: str, partition: int) -> str:
    """What a partition holds from its start to its present end, in one line."""
    consumer.assign([TopicPartition(topic, partition, OFFSET_BEGINNING)])
    expected, messages, rows, repeats, digest = None, 0, 0, 0, sha256()
    while (message := consumer.poll(10)) is not None:
        if error := message.error():  # the end is told in a message's place too
            if error.code() != KafkaError._PARTITION_EOF:
                raise KafkaException(error)
            counts = f"{messages} messages, {rows} rows, {repeats} repeats"
            return f"partition {partition}: {counts}, sha256 {digest.hexdigest()}"
        headers = dict(message.headers())
        seq, part = int(headers["seq"]), int(headers["part"])
        expected = expected or (seq, 0)
        if (seq, part) < expected:
            repeats += 1
            continue
        if (seq, part) > expected:
            sys.exit(f"partition {partition}: seq {seq} part {part} came, {expected[0]} part {expected[1]} is missing")
        expected = (seq + 1, 0) if headers["last"] == b"1" else (seq, part + 1)
        messages += 1
        digest.update(message.value() or b"")
        if message.value():  # no rows have no bytes
            rows += pa.ipc.open_stream(message.value()).read_all().num_rows  # your work with the table goes here
    sys.exit(f"partition {partition}: the broker does not answer")


servers, topic = sys.argv[1:]
consumer = Consumer({"bootstrap.servers": servers, "group.id": "example", "enable.auto.commit": False,
                     "auto.offset.reset": "error", "enable.partition.eof": True})  # fmt: skip
for partition in sorted(consumer.list_topics(topic).topics[topic].partitions):
    print(read(consumer, topic, partition))
consumer.close()
