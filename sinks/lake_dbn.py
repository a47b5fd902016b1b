"""Raw records of a batch as a DBN file, which `databento` and every DBN reader opens; pure.

The file holds the records byte for byte as they came, in order of messages, under a head that names the instruments.
Definitions, clocks and ends are no records; they stand in the Parquet object of the same range, which is written after
this one. So where the Parquet object is, this one is.
"""

import io
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, Final

import databento_dbn
import numpy as np
import zstandard

from schemas.mbo import MBO_DTYPE
from schemas.message import Message
from schemas.units import NS_PER_SECOND

ZSTD_LEVEL: Final = 3
"""As `databento` writes them; twice as fast as level 6, and 3 % larger."""

DATASET_BYTES: Final = 16
"""Room for the dataset in the head of a DBN file; a longer venue is cut."""

MIXED: Final = "MIXED"
"""Dataset of a file with instruments of several venues."""


def encode_dbn(messages: Sequence[Message]) -> bytes:
    """A `.dbn.zst` file of the records of whole data messages; equal for equal messages."""
    out = io.BytesIO()
    with zstandard.ZstdCompressor(level=ZSTD_LEVEL, write_checksum=True).stream_writer(out, closefd=False) as sink:
        sink.write(dbn_head(messages))
        for message in messages:
            sink.write(message.value)
    return out.getvalue()


def dbn_head(messages: Sequence[Message]) -> bytes:
    """The head of a DBN file of these messages: dataset, time range, and the symbol of each instrument id."""
    symbols, start_ns, end_ns = dict[int, str](), [np.uint64(np.iinfo(np.int64).max)], [np.uint64(0)]
    for message in messages:
        records = np.frombuffer(message.value, MBO_DTYPE)
        name = message.instrument.partition(":")[2] or message.instrument
        symbols.update(dict.fromkeys(np.unique(records["instrument_id"]).tolist(), name))
        times = records["ts_recv"][records["ts_recv"] < np.iinfo(np.int64).max]
        if len(times):
            start_ns.append(times.min())
            end_ns.append(times.max())
    first, last = int(min(start_ns)), int(max(end_ns))
    return head({m.instrument.partition(":")[0] for m in messages}, symbols, min(first, last), last)


def head(venues: set[str], symbols: Mapping[int, str], first_ns: int, last_ns: int) -> bytes:
    """The head of a DBN file of MBO records.

    Args:
        venues: venues of its instruments.
        symbols: instrument id → symbol.
        first_ns, last_ns: times of receipt, both within the file.
    """
    venue = next(iter(venues)) if len(venues) == 1 else MIXED
    days = {"start_date": _day(first_ns), "end_date": _day(last_ns) + timedelta(days=1)}
    mappings: list[Any] = []
    for symbol in sorted(set(symbols.values())):
        intervals = [SimpleNamespace(**days, symbol=str(n)) for n, s in sorted(symbols.items()) if s == symbol]
        mappings.append(SimpleNamespace(raw_symbol=symbol, intervals=intervals))
    made = databento_dbn.Metadata(
        dataset=venue.encode("ascii", "replace")[:DATASET_BYTES].decode(),
        start=first_ns,
        end=last_ns + 1,
        stype_in=databento_dbn.SType("raw_symbol"),
        stype_out=databento_dbn.SType("instrument_id"),
        schema=databento_dbn.Schema("mbo"),
        symbols=sorted(set(symbols.values())),
        mappings=mappings,
    )
    return bytes(made.encode())


def read_records(data: bytes) -> bytes | None:
    """The records of such a file; None if it cannot be read."""
    try:
        whole = zstandard.ZstdDecompressor().stream_reader(io.BytesIO(data)).read()
        size = int.from_bytes(whole[4:8], "little") + 8
    except zstandard.ZstdError:
        return None
    return whole[size:] if whole[:3] == b"DBN" else None


def _day(t_ns: int) -> Any:
    return datetime.fromtimestamp(t_ns // NS_PER_SECOND, UTC).date()
