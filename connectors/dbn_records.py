"""Records of a DBN stream, as runs of NumPy rows: no Python object per record, memory independent of the stream.

Every DBN record begins with its length, in units of four bytes, and its type. A stream is walked as *runs*: as many
records of one type and length as follow each other. A file of one schema is a single run, cut into pieces by memory; a
live session is many. Each record's type and length are checked on the way, so that a shifted, zeroed or foreign byte
stops the walk at its place instead of turning into orders.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np

from connectors.dbn_errors import DamagedFileError, FaultError, NotDbnError, TruncatedFileError
from connectors.dbn_metadata import MAGIC, PRELUDE_BYTES, DbnMetadata, decode_metadata, metadata_bytes
from schemas.mbo import MBO_BYTES, MBO_DTYPE, MBO_RTYPE

RUN_BYTES: Final = 2 << 20
"""Bytes gathered before records are handed on: some 37,000 MBO records. Below 256 KiB the per-run cost of NumPy shows;
far above, the working set leaves the processor's cache."""

UNIT_BYTES: Final = 4
"""Unit of a record's length field."""

TS_OUT_BYTES: Final = 8
"""Bytes that each record is longer by where the metadata says `ts_out`."""

DEFINITION_RTYPE: Final = 19
SYMBOL_MAPPING_RTYPE: Final = 22
HOUSEKEEPING: Final = frozenset({DEFINITION_RTYPE, 21, SYMBOL_MAPPING_RTYPE, 23})
"""Definitions, errors, symbol mappings, system messages: what a live session of any schema may also hold."""

SIZES: Final[dict[int, tuple[str, tuple[int, ...]]]] = {
    0: ("trades", (48,)),
    1: ("mbp-1", (80,)),
    10: ("mbp-10", (368,)),
    17: ("ohlcv", (56,)),
    18: ("status", (40,)),
    19: ("definition", (360, 400, 520)),
    20: ("imbalance", (112,)),
    21: ("error", (80, 320)),
    22: ("symbol mapping", (80, 176)),
    23: ("system", (80, 320)),
    24: ("statistics", (64, 80)),
    32: ("ohlcv-1s", (56,)),
    33: ("ohlcv-1m", (56,)),
    34: ("ohlcv-1h", (56,)),
    35: ("ohlcv-1d", (56,)),
    36: ("ohlcv-eod", (56,)),
    MBO_RTYPE: ("mbo", (MBO_BYTES,)),
    177: ("cmbp-1", (80,)),
    192: ("cbbo-1s", (80,)),
    193: ("cbbo-1m", (80,)),
    194: ("tcbbo", (80,)),
    195: ("bbo-1s", (80,)),
    196: ("bbo-1m", (80,)),
}
"""Record type → its name, and the sizes it has in the versions of DBN, bytes. Source: DBN 0.70; a test compares."""

SCHEMA_RTYPE: Final[dict[str, int]] = {name: rtype for rtype, (name, _) in SIZES.items()} | {"tbbo": 1}
"""Schema → the only record type that a file of it holds."""

_SYMBOL_AT: Final = {80: (38, 22), 176: (89, 71)}
"""Record size of a symbol mapping → place and length of `stype_out_symbol`."""

COMMON_HEADER: Final = np.dtype(
    [("length", "u1"), ("rtype", "u1"), ("publisher_id", "<u2"), ("instrument_id", "<u4"), ("ts_event", "<u8")]
)
"""The 16 bytes that begin every record."""


@dataclass(frozen=True, slots=True)
class Run:
    """Records of one type that follow each other.

    Attributes:
        rtype: their type.
        first: number of the first one in the stream, from 0, all types counted.
        offset: byte of the plain stream where it begins.
        rows: the bytes, shape (records, size), uint8; a private copy that may be kept.
    """

    rtype: int
    first: int
    offset: int
    rows: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    def view(self, dtype: np.dtype) -> np.ndarray:
        """The leading fields of each record, without copying."""
        wide = np.dtype(
            {
                "names": list(dtype.names or ()),
                "formats": [dtype[name] for name in dtype.names or ()],
                "offsets": [dtype.fields[name][1] for name in dtype.names or ()] if dtype.fields else [],
                "itemsize": self.rows.shape[1],
            }
        )
        return self.rows.reshape(-1).view(wide)

    def mbo(self) -> np.ndarray:
        """The records as `MBO_DTYPE`, shape (records,); a sending time at their end is dropped."""
        if self.rows.shape[1] == MBO_BYTES:
            return self.rows.reshape(-1).view(MBO_DTYPE)
        plain = self.rows[:, :MBO_BYTES].copy().reshape(-1).view(MBO_DTYPE)
        plain["length"] = MBO_BYTES // UNIT_BYTES
        return plain


class DbnStream:
    """Parses a plain (decompressed) DBN stream that arrives in pieces of any size.

    Attributes:
        metadata: the head; None until it has arrived.
        records: records handed on so far.
        offset: bytes of the plain stream handed on so far.
    """

    def __init__(self) -> None:
        self.metadata: DbnMetadata | None = None
        self.records = 0
        self.offset = 0
        self._buffer = bytearray()
        self._head_bytes = 0

    def feed(self, data: bytes) -> Iterator[Run]:
        """Runs that `data` completes.

        Raises:
            FaultError: the bytes are not a DBN stream.
        """
        self._buffer += data
        if self.metadata is None and not self._read_head():
            return
        if len(self._buffer) >= RUN_BYTES:
            yield from self._runs()

    def finish(self) -> Iterator[Run]:
        """The remaining runs; no more bytes come.

        Raises:
            FaultError: the stream ends inside its metadata or inside a record.
        """
        if self.metadata is None:
            self._refuse_headless()
        yield from self._runs()
        if self._buffer:
            end = self.offset + len(self._buffer)
            raise FaultError(
                TruncatedFileError,
                f"ends at byte {end} inside record {self.records}, which begins at byte {self.offset}",
                offset=end,
                record=self.records,
            )

    def _read_head(self) -> bool:
        """Decode the metadata once all of it is there; whether it is."""
        if not self._head_bytes:
            if len(self._buffer) < PRELUDE_BYTES:
                return False
            self._refuse_fragment()
            self._head_bytes = metadata_bytes(bytes(self._buffer[:PRELUDE_BYTES]))
        if len(self._buffer) < self._head_bytes:
            return False
        self.metadata = decode_metadata(bytes(self._buffer[: self._head_bytes]))
        self._drop(self._head_bytes)
        return True

    def _refuse_fragment(self) -> None:
        size, rtype = self._buffer[0] * UNIT_BYTES, self._buffer[1]
        if not self._buffer.startswith(MAGIC) and size in SIZES.get(rtype, ("", ()))[1]:
            raise FaultError(
                NotDbnError,
                "is a DBN fragment: it has records but no metadata before them",
                "put it behind the metadata of the file it was cut from",
                offset=0,
            )

    def _refuse_headless(self) -> None:
        end = len(self._buffer)
        if end == 0:
            raise FaultError(NotDbnError, "holds no bytes", "give a .dbn or .dbn.zst file of Databento", offset=0)
        if not MAGIC.startswith(self._buffer[:3]):
            metadata_bytes(bytes(self._buffer.ljust(PRELUDE_BYTES, b"\0")))
        raise FaultError(TruncatedFileError, f"ends at byte {end} inside its metadata", offset=end)

    def _drop(self, count: int) -> None:
        del self._buffer[:count]
        self.offset += count

    def _runs(self) -> Iterator[Run]:
        """Hand on every whole record of the buffer."""
        start = 0
        whole = np.frombuffer(bytes(self._buffer), np.uint8)
        self._buffer.clear()
        while start + 2 <= len(whole):
            size = self._record_bytes(int(whole[start]), int(whole[start + 1]))
            rows = _uniform(whole[start : start + (len(whole) - start) // size * size].reshape(-1, size))
            if not len(rows):
                break
            run = Run(int(rows[0, 1]), self.records, self.offset, rows)
            self.records += len(rows)
            self.offset += rows.size
            start += rows.size
            yield run
        self._buffer += whole[start:].tobytes()

    def _record_bytes(self, length: int, rtype: int) -> int:
        """Size of the record that begins at `offset`.

        Raises:
            FaultError: no record of this stream has that type and length.
        """
        assert self.metadata is not None
        size = length * UNIT_BYTES
        extra = TS_OUT_BYTES if self.metadata.ts_out else 0
        name, sizes = SIZES.get(rtype, ("", ()))
        schema = self.metadata.schema
        place = f"has a damaged record {self.records} at byte {self.offset}"
        if not name:
            fault = f"{place}: its type {rtype} does not exist"
        elif size - extra not in sizes:
            fault = f"{place}: its length is {size} bytes, which no {name} record has"
        elif schema is not None and SCHEMA_RTYPE.get(schema, rtype) != rtype:
            fault = f"{place}: it is of type {name} in a file of schema {schema}"
        else:
            return size
        raise FaultError(DamagedFileError, fault, offset=self.offset, record=self.records)


def symbol_mappings(run: Run) -> list[tuple[int, str]]:
    """(instrument number, venue's symbol) of each symbol mapping message of a run."""
    size = run.rows.shape[1]
    start, length = _SYMBOL_AT[size if size in _SYMBOL_AT else size - 8]
    numbers = run.view(COMMON_HEADER)["instrument_id"].tolist()
    texts = (row[start : start + length].tobytes().split(b"\0", 1)[0] for row in run.rows)
    return [(number, text.decode("ascii", "replace")) for number, text in zip(numbers, texts, strict=True) if text]


def _uniform(rows: np.ndarray) -> np.ndarray:
    """The leading rows that share length and type with the first; looks ahead in growing steps."""
    done, step = 0, 64
    while done < len(rows):
        piece = rows[done : done + step]
        differs = (piece[:, 0] != rows[0, 0]) | (piece[:, 1] != rows[0, 1])
        if differs.any():
            return rows[: done + int(differs.argmax())]
        done, step = done + len(piece), step * 8
    return rows
