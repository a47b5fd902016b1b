"""Messages to blocks: the rows of one message of a topic, for rings and for the past alike."""

from functools import lru_cache
from typing import Final

import numpy as np

from runtime.avro_schemas import UnknownSchemaError
from runtime.codec import WrongValueError, decode_avro, decode_batches
from schemas import bins
from schemas.columns import Column, Table, concat_tables, from_arrow, row_dtype
from schemas.envelope import crc32
from schemas.message import Message
from ws_gateway import catalogue
from ws_gateway.catalogue import TEXT, Stream
from ws_gateway.frames import Block
from ws_gateway.packed import ARRAY_BYTES, BLOCK_BYTES, pack

UNREADABLE: tuple[type[Exception], ...] = (ValueError, KeyError, OSError)
"""What `block_of` raises over bytes that are not what their headers say."""


FORMS_MAX: Final = 64
"""Forms of rows that are kept: one for each stream and radius that is read. Making one takes longer than a message."""


def block_of(message: Message, stream: Stream) -> Block:
    """The rows of a message; none where it has none.

    Raises:
        ColumnError: its rows are not of the declared form.
        ValueError, KeyError, OSError: the value is damaged.
    """
    if stream.record:
        return _record_of(message, stream)
    envelope, table, nbytes = message.envelope, _NO_ROWS, 0
    batches = decode_batches(message.value)
    if batches:
        width = 0 if stream.columns else batches[0].schema.field(bins.MASSES[0]).type.list_size
        columns, row = _form(stream.name, width)
        table = pack(concat_tables([from_arrow(b, columns) for b in batches], columns), row)
        nbytes = table.nbytes
    return Block(envelope.seq, envelope.part, table, nbytes, envelope.arrived, envelope.t, envelope.run, stream.time)


_NO_ROWS: Final[Table] = {}


@lru_cache(FORMS_MAX)
def _form(name: str, width: int) -> tuple[tuple[Column, ...], np.dtype]:
    """Columns of a stream, and its row; those of bins depend on their width."""
    columns = catalogue.stream(name).columns or bins.columns((width - 1) // 2)
    return columns, row_dtype(columns)


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
    nbytes = BLOCK_BYTES + len(message.value) + ARRAY_BYTES * len(table)
    return Block(message.offset, 0, table, nbytes, envelope.arrived, envelope.t, "", stream.time)
