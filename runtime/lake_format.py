"""What an object of the lake is: its name, its message index, and how every message is made again from it; pure.

    TOPIC/TAPE_ID/PARTITION/SEQ.PART-SEQ.PART.parquet      numbers padded with zeros: names sort like messages

An object is a Parquet file. Its rows are for people and queries. The *index* in its footer is for replays: a compressed
Arrow table under `INDEX_KEY`, base64 with a checksum, one row for each message:

    seq, part, last, kind, t, instrument, rows     what readers look for
    offset, timestamp_ms, headers                  Kafka's side: every header in order, as bytes
    value                                          bytes of messages that are no rows (definitions), and of records,
                                                   whose rows do not say how they were written; else missing
    deleted                                        the message was deleted: its place stays, its rows and bytes are gone

An object says by itself what its columns are. So messages of an older release are made again as they were, and nothing
here has to know which streams there are. Each value is checked against the CRC in its headers before it is handed out.
"""

import base64
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from runtime.codec import encode_rows
from runtime.errors import InputError
from runtime.object_store import ObjectStore
from runtime.sequence import Place, Placed
from schemas.columns import Column, ColumnError, from_arrow
from schemas.envelope import crc32, read_headers
from schemas.mbo import MBO_BYTES, MBO_DTYPE
from schemas.message import Message
from schemas.topics import MBO, find

INDEX_KEY: Final = b"barograph.messages"
"""Key of the message index in the Parquet footer; base64 because readers take metadata for text."""

KEY_COLUMNS: Final = ("tape", "line", "instrument", "partition", "seq", "part", "row", "run")
"""Columns that every row starts with; the stream's own follow."""

INDEX: Final = pa.schema(
    [
        ("seq", pa.int64()),
        ("part", pa.int32()),
        ("last", pa.bool_()),
        ("kind", pa.string()),
        ("t", pa.int64()),
        ("instrument", pa.string()),
        ("rows", pa.int32()),
        ("offset", pa.int64()),
        ("timestamp_ms", pa.int64()),
        ("headers", pa.list_(pa.struct([("name", pa.string()), ("value", pa.binary())]))),
        ("value", pa.binary()),
        ("deleted", pa.bool_()),
    ]
)

_NAME: Final = re.compile(
    r"(?P<seq>\d{19})\.(?P<part>\d{6})-(?P<last>\d{19})\.(?P<last_part>\d{6})\.(?P<kind>parquet|dbn\.zst)"
)
_RAW_NAMES: Final = tuple(name for name in MBO_DTYPE.names or () if name != "length")
_LETTERS: Final = frozenset(name for name in _RAW_NAMES if MBO_DTYPE[name].kind == "S")


class DamagedObjectError(InputError):
    """An object of the lake cannot be read, or does not hold what it says.

    Args:
        name: the object.
        reason: what is wrong.
    """

    def __init__(self, name: str, reason: str) -> None:
        self.name, self.reason = name, reason
        super().__init__(
            f"lake object {name} is damaged ({reason})",
            remedy="restore it from a copy; without one, make the tape again: `tape backfill` from another lake, "
            "or --replace",
        )


@dataclass(frozen=True, slots=True, order=True)
class ObjectRange:
    """First and last place in an object, and its name."""

    first: Place
    last: Place
    name: str


def folder(topic: str, tape_id: str, partition: int) -> str:
    """Prefix of the names of a partition's objects."""
    return f"{topic}/{tape_id}/{partition:05d}/"


def object_name(prefix: str, first: Place, last: Place, kind: str = "parquet") -> str:
    """The name of the object of a range."""
    return f"{prefix}{first[0]:019d}.{first[1]:06d}-{last[0]:019d}.{last[1]:06d}.{kind}"


def all_objects(store: ObjectStore, prefix: str, kind: str = "parquet") -> list[ObjectRange]:
    """Every object of a partition, in the order of first messages; of one first message, the widest range first."""
    out = []
    for name in store.names(prefix):
        match = _NAME.fullmatch(name.rpartition("/")[2])
        if match and match["kind"] == kind:
            first, last = (int(match["seq"]), int(match["part"])), (int(match["last"]), int(match["last_part"]))
            out.append(ObjectRange(first, last, name))
    return sorted(out, key=lambda item: (item.first, (-item.last[0], -item.last[1])))


def beside(name: str) -> str:
    """Name of the DBN object of the same range as a Parquet object."""
    return name.removesuffix("parquet") + "dbn.zst"


def unpaired(store: ObjectStore, prefix: str) -> list[ObjectRange]:
    """DBN objects without a Parquet object of the same range.

    A sink writes the DBN first, so the newest may be of a batch that is being written; others a crash left.
    """
    pairs = {beside(item.name) for item in all_objects(store, prefix)}
    return [item for item in all_objects(store, prefix, "dbn.zst") if item.name not in pairs]


def objects(store: ObjectStore, prefix: str, kind: str = "parquet") -> list[ObjectRange]:
    """The objects of a partition that stand, in order: those within the range of a wider one are left out.

    The wider one was made of them, and they are about to be deleted.
    """
    out: list[ObjectRange] = []
    for item in all_objects(store, prefix, kind):
        if not out or item.last > out[-1].last:
            out.append(item)
    return out


def read_index(data: bytes) -> pa.Table:
    """The message index of an object.

    Raises:
        ValueError: it has none, so it is not an object of this lake.
    """
    return decode_index(pq.ParquetFile(pa.BufferReader(data)).schema_arrow.metadata)


def encode_index(rows: Sequence[dict[str, Any]]) -> bytes:
    """Footer value of an index with these rows, in the columns of `INDEX`; behind a dot its checksum, hexadecimal."""
    out = io.BytesIO()
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with pa.ipc.new_stream(out, INDEX, options=options) as writer:
        writer.write_table(pa.Table.from_pylist(list(rows), schema=INDEX))
    encoded = base64.b64encode(out.getvalue())
    return encoded + b".%08x" % crc32(encoded)


def decode_index(metadata: dict[bytes, bytes] | None) -> pa.Table:
    """The index in the metadata of a Parquet file.

    Raises:
        ValueError: there is none, or it is not as it was written.
    """
    value = (metadata or {}).get(INDEX_KEY)
    if value is None:
        raise ValueError("the Parquet file has no message index")
    encoded, _, told = value.partition(b".")
    if told and told != b"%08x" % crc32(encoded):  # objects of the first release have none
        raise ValueError("its message index has another checksum")
    table = pa.ipc.open_stream(base64.b64decode(encoded)).read_all()
    if "deleted" not in table.schema.names:  # objects of a release in which nothing could be deleted
        table = table.append_column("deleted", pa.array([False] * table.num_rows, pa.bool_()))
    return table


def decode_object(data: bytes, name: str, topic: str, partition: int) -> Iterator[Placed]:
    """Every message of an object, in order, as it was in Kafka; of deleted ones, what their index still says.

    Args:
        data: the object.
        name: its name, for errors.
        topic, partition: where the messages were.

    Raises:
        DamagedObjectError: it cannot be read, or a value does not have the checksum of its headers.
    """
    try:
        rows = pq.read_table(pa.BufferReader(data)).combine_chunks()
        index = decode_index(rows.schema.metadata).to_pylist()
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DamagedObjectError(name, str(error).splitlines()[0]) from error
    if sum(at["rows"] for at in index) != rows.num_rows:
        raise DamagedObjectError(name, "its index names another number of rows")
    values = _Values(rows, raw=find(topic) is MBO)
    start = 0
    for at in index:
        kept = at["rows"] == 0 or at["value"] is not None
        value = at["value"] if kept else values.of(name, start, at["rows"])
        start += at["rows"]
        envelope, _ = read_headers([(h["name"], h["value"]) for h in at["headers"]], value or b"")
        if at["rows"] and crc32(value) != envelope.crc32:
            raise DamagedObjectError(name, f"the rows of seq {at['seq']}.{at['part']} have another checksum")
        message = Message(topic, partition, at["offset"], at["timestamp_ms"], at["instrument"], value or b"", envelope)
        yield Placed(message, at["seq"], at["part"], bool(at["deleted"]))


class _Values:
    """The bytes that an object's rows travelled as."""

    def __init__(self, rows: pa.Table, *, raw: bool) -> None:
        self._rows, self._raw = rows, raw
        self._records = _records(rows) if raw else np.empty(0, MBO_DTYPE)

    @cached_property
    def _columns(self) -> tuple[Column, ...]:
        own = (f for f in self._rows.schema if f.name not in KEY_COLUMNS and not pa.types.is_timestamp(f.type))
        return tuple(map(_column, own))

    def of(self, name: str, start: int, count: int) -> bytes:
        """The value that rows `start` to `start + count` were."""
        if self._raw:
            return self._records[start : start + count].tobytes()
        try:
            return encode_rows(from_arrow(self._rows.slice(start, count), self._columns), self._columns)
        except ColumnError as error:
            raise DamagedObjectError(name, str(error)) from error


def _column(field: pa.Field) -> Column:
    """The declaration of a column, as the file has it."""
    vector = pa.types.is_fixed_size_list(field.type)
    element = field.type.value_type if vector else field.type
    dtype = "" if pa.types.is_string(element) else np.dtype(element.to_pandas_dtype()).str[1:]
    unit = (field.metadata or {}).get(b"unit", b"").decode()
    return Column(field.name, dtype, unit, "", field.type.list_size if vector else 0)


def _letters(column: pa.ChunkedArray) -> np.ndarray:
    """One-letter texts as bytes, whether they are stored as text or by number."""
    text = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
    whole = pa.concat_arrays(text.unify_dictionaries().chunks) if len(text) else None
    if whole is None:
        return np.empty(0, "S1")
    letters = np.array([word.encode("latin-1") for word in whole.dictionary.to_pylist()], "S1")
    found: np.ndarray = letters[whole.indices.to_numpy()]
    return found


def _records(rows: pa.Table) -> np.ndarray:
    records = np.zeros(len(rows), MBO_DTYPE)
    records["length"] = MBO_BYTES // 4
    for name in _RAW_NAMES:
        column = rows.column(name)
        if name in _LETTERS:
            records[name] = _letters(column)
        else:
            records[name] = column.to_numpy()
    return records
