"""Messages to blocks: the rows of one message of a topic, for rings and for the past alike."""

import numpy as np

from runtime.avro_schemas import UnknownSchemaError
from runtime.codec import WrongValueError, decode_avro, decode_batches
from schemas import bins
from schemas.columns import concat_tables, from_arrow
from schemas.envelope import crc32
from schemas.message import Message
from ws_gateway.catalogue import TEXT, Stream
from ws_gateway.frames import Block

UNREADABLE: tuple[type[Exception], ...] = (ValueError, KeyError, OSError)
"""What `block_of` raises over bytes that are not what their headers say."""


def block_of(message: Message, stream: Stream) -> Block:
    """The rows of a message; none where it has none.

    Raises:
        ColumnError: its rows are not of the declared form.
        ValueError, KeyError, OSError: the value is damaged.
    """
    if stream.record:
        return _record_of(message, stream)
    envelope = message.envelope
    batches = decode_batches(message.value)
    columns = stream.columns
    if not columns and batches:
        width = batches[0].schema.field(bins.MASSES[0]).type.list_size
        columns = bins.columns((width - 1) // 2)
    table: dict[str, np.ndarray] = {}
    if batches:
        table = concat_tables([from_arrow(b, columns) for b in batches], columns)
    return Block(
        envelope.seq, envelope.part, table, len(message.value), envelope.arrived, envelope.t, envelope.run, stream.time
    )


def _record_of(message: Message, stream: Stream) -> Block:
    """A record as one row. What is no such record gives none, as in tables: it stays in its topic."""
    envelope, table = message.envelope, {}
    if message.value and crc32(message.value) == envelope.crc32:
        try:
            record = decode_avro(stream.topic.avro, message.value)
        except (WrongValueError, UnknownSchemaError):
            record = None
        if record is not None:
            table = {
                c.name: np.array([record[c.name]], object if c.dtype == TEXT else c.numpy_dtype) for c in stream.columns
            }
    return Block(message.offset, 0, table, len(message.value), envelope.arrived, envelope.t, "", stream.time)
