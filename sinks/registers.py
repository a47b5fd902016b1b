"""Registers: compacted topics of all tapes, as tables of the newest record of each key.

A register is small, has no end, and loses its older messages to compaction; so it has no numbers without holes, no
plans and no progress. Whoever serves ClickHouse reads it from its beginning, whenever he starts, and inserts what he
finds. That is right however often and by however many it is done: of two rows of a key the one with the later stamp
stands, in merges and in the views, which read `FINAL`. What cannot be read is passed over, and a broker or a database
that does not answer is asked again later: nothing that is counted waits for a register.
"""

import io
import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any, Final

import pyarrow as pa
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import ClickHouseError
from confluent_kafka import OFFSET_BEGINNING, KafkaException, TopicPartition

from runtime.errors import BarographError
from runtime.kafka import consumer, to_message
from schemas.message import Message
from sinks.clickhouse import connect
from sinks.records import is_record, record_rows
from sinks.retry import Backoff
from sinks.tables import KEY_INTEGERS, REGISTERS, TableSpec

log = logging.getLogger(__name__)

POLL_S: Final = 0.5
"""Longest wait for messages: how late a new manifest is seen, and how long it takes to stop."""

POLL_MESSAGES: Final = 1_000


def register_rows(messages: Sequence[Message], table: TableSpec) -> pa.Table:
    """Rows of the messages that are records of a register: where each lies, then its fields."""
    records = [m for m in messages if m.value and is_record(m, table.topic.avro)]
    keys: dict[str, Any] = {
        "topic": [m.topic for m in records],
        "partition": [m.partition for m in records],
        "offset": [m.offset for m in records],
        "announced_ms": [max(0, m.timestamp_ms) for m in records],
        "key": [m.instrument for m in records],
    }
    arrays = [
        pa.array(keys[name], pa.from_numpy_dtype(KEY_INTEGERS[name]) if name in KEY_INTEGERS else pa.string())
        for name in table.key
    ]
    data = record_rows(records, table.topic.avro, table.fields)
    return pa.table([*arrays, *data.columns], names=[*table.key, *data.column_names])


def insert_rows(client: Client, table: TableSpec, rows: pa.Table) -> None:
    """Insert rows of a register.

    Raises:
        ClickHouseError: the database refuses them or does not answer.
    """
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, rows.schema) as writer:
        writer.write_table(rows)
    client.raw_insert(table.name, rows.column_names, sink.getvalue(), fmt="ArrowStream")


def follow(bootstrap_servers: str, url: str, stop: threading.Event) -> None:
    """Keep the registers in ClickHouse up to date until `stop` is set; begins anew after every failure."""
    backoff = Backoff()
    while not stop.is_set():
        try:
            with closing(connect(url)) as client, closing(consumer(bootstrap_servers)) as source:
                source.assign([TopicPartition(t.topic.name(), 0, OFFSET_BEGINNING) for t in REGISTERS.values()])
                while not stop.is_set():
                    _pass_on(source.consume(POLL_MESSAGES, POLL_S), client)
                    backoff = Backoff()
        except (ClickHouseError, KafkaException, BarographError) as error:
            log.info("registers wait: %s", str(error)[:200])
            stop.wait(backoff.next_s())


def _pass_on(found: Sequence[Any], client: Client) -> None:
    messages = [to_message(raw) for raw in found if raw.error() is None]
    for table in REGISTERS.values():
        rows = register_rows([m for m in messages if m.topic == table.topic.name()], table)
        if rows.num_rows:
            insert_rows(client, table, rows)


@contextmanager
def following(bootstrap_servers: str, url: str) -> Iterator[None]:
    """Follow the registers in a thread for the time of a `with`."""
    stop = threading.Event()
    thread = threading.Thread(target=follow, args=(bootstrap_servers, url, stop), name="registers", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(POLL_S * 4)
