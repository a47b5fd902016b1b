"""The head of a DBN file: what it holds, and how its instruments are called.

A DBN stream begins with `DBN`, a version byte and the length of the metadata; records follow at once. Decoding of the
metadata itself is Databento's (`databento_dbn`), which knows all three versions.

A record names its instrument by a number that is only valid for a day. The metadata maps symbols to numbers by
intervals of days, UTC; read backwards, that gives each record the name `DATASET:SYMBOL`, e.g. `GLBX.MDP3:ESH4`. Files
cut from a live session have no such map; there, symbol mapping messages among the records say the same. A number that
nobody names becomes `DATASET:NUMBER`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import Any, Final

import databento_dbn
import numpy as np

from connectors.dbn_errors import DamagedFileError, FaultError, NotDbnError, UnsupportedFileError
from schemas.units import NS_PER_SECOND, UNDEF_TIMESTAMP

MAGIC: Final = b"DBN"
PRELUDE_BYTES: Final = 8
VERSIONS: Final = (1, 2, 3)

METADATA_BYTES_MAX: Final = 256 << 20
"""Longest metadata that is accepted, bytes. It is decoded in memory as one piece; about 600,000 symbols fit, five times
the largest exchange. Above, a damaged length field would make us swallow the file; below, whole-exchange requests for
options would be refused."""

_NS_PER_DAY: Final = 86_400 * NS_PER_SECOND


@dataclass(frozen=True, slots=True)
class Interval:
    """Days for which a number means a symbol: `[start_day, end_day)`, days since the epoch, UTC."""

    start_day: int
    end_day: int
    symbol: str


@dataclass(frozen=True, slots=True)
class DbnMetadata:
    """What the head of a DBN file says.

    Attributes:
        version: DBN version, 1 to 3.
        dataset: Databento's dataset code, e.g. `GLBX.MDP3`.
        schema: schema of all records; None for a live session with several.
        start_ns, end_ns: queried range, ns UTC; end is -1 if open.
        stype_in, stype_out: how symbols were asked for and given.
        ts_out: whether each record carries 8 more bytes, the gateway's sending time.
        symbols: symbols as queried.
        intervals: instrument number → its symbols in time order.
        size_bytes: length of the head; records begin there.
    """

    version: int
    dataset: str
    schema: str | None
    start_ns: int
    end_ns: int
    stype_in: str
    stype_out: str
    ts_out: bool
    symbols: tuple[str, ...]
    intervals: Mapping[int, tuple[Interval, ...]]
    size_bytes: int


def metadata_bytes(head: bytes) -> int:
    """Length of the metadata with its prelude, from the first 8 bytes of a DBN stream.

    Raises:
        FaultError: these are not the first bytes of a DBN stream that we can read.
    """
    if not head.startswith(MAGIC):
        raise FaultError(NotDbnError, "is not a DBN file", "give a .dbn or .dbn.zst file of Databento", offset=0)
    if head[3] not in VERSIONS:
        raise FaultError(
            UnsupportedFileError,
            f"is DBN version {head[3]}; versions 1 to 3 can be read",
            "convert it with the dbn command-line tool",
            offset=3,
        )
    size = PRELUDE_BYTES + int.from_bytes(head[4:8], "little")
    if size > METADATA_BYTES_MAX:
        raise FaultError(
            UnsupportedFileError,
            f"declares {size:,} bytes of metadata; up to {METADATA_BYTES_MAX:,} are read",
            "split the request into fewer symbols; if it was small, fetch the file again",
            offset=4,
        )
    return size


def decode_metadata(head: bytes) -> DbnMetadata:
    """The metadata of a DBN stream.

    Args:
        head: the stream's first `metadata_bytes` bytes.

    Raises:
        FaultError: they do not decode.
    """
    try:
        raw = databento_dbn.Metadata.decode(head)
        return DbnMetadata(
            version=head[3],
            dataset=str(raw.dataset),
            schema=None if raw.schema is None else str(raw.schema),
            start_ns=int(raw.start),
            end_ns=-1 if raw.end in (None, UNDEF_TIMESTAMP) else int(raw.end),
            stype_in=str(raw.stype_in or ""),
            stype_out=str(raw.stype_out),
            ts_out=bool(raw.ts_out),
            symbols=tuple(raw.symbols),
            intervals=_by_number(raw.mappings, str(raw.stype_in or ""), str(raw.stype_out)),
            size_bytes=len(head),
        )
    except (databento_dbn.DBNError, ValueError, OverflowError) as error:
        raise FaultError(
            DamagedFileError, f"has metadata that does not decode ({error})", offset=PRELUDE_BYTES
        ) from error


def _by_number(mappings: Mapping[str, Any], stype_in: str, stype_out: str) -> dict[int, tuple[Interval, ...]]:
    """The symbol map read backwards. Maps between two kinds of text name no numbers and give nothing."""
    found: dict[int, list[Interval]] = {}
    for asked, spans in mappings.items():
        for span in spans:
            given = str(span["symbol"])
            number, symbol = (given, asked) if stype_out == "instrument_id" else (asked, given)
            if number.isascii() and number.isdigit() and symbol and "instrument_id" in (stype_in, stype_out):
                interval = Interval(_day(span["start_date"]), _day(span["end_date"]), symbol)
                found.setdefault(int(number), []).append(interval)
    return {number: tuple(sorted(spans, key=lambda s: s.start_day)) for number, spans in found.items()}


def _day(when: date) -> int:
    return when.toordinal() - date(1970, 1, 1).toordinal()


def day_of(t_ns: int) -> int:
    """The UTC day of a time, days since the epoch."""
    return t_ns // _NS_PER_DAY


def utc(t_ns: int) -> str:
    """A time for people: ISO 8601, UTC, nanoseconds; `-` for a missing one."""
    if t_ns < 0 or t_ns >= 1 << 63:
        return "-"
    seconds, rest = divmod(t_ns, NS_PER_SECOND)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest:09d}Z"


@dataclass(slots=True)
class InstrumentNames:
    """Numbers of the instruments of one file, in order of first appearance, and their names.

    Two numbers of one name, as after a renumbering at midnight, are one instrument.

    Attributes:
        names: code → `DATASET:SYMBOL`; grows as records are seen.
    """

    metadata: DbnMetadata
    names: list[str] = field(default_factory=list)
    _codes: dict[str, int] = field(default_factory=dict)
    _live: dict[int, str] = field(default_factory=dict)

    def learn(self, mappings: Iterable[tuple[int, str]]) -> None:
        """Take (number, symbol) pairs from symbol mapping messages; they hold from here on."""
        self._live.update(mappings)

    def name(self, instrument_id: int, t_ns: int) -> str:
        """Name of an instrument number at a time."""
        symbol = self._live.get(instrument_id) or self._mapped(instrument_id, t_ns) or str(instrument_id)
        return f"{self.metadata.dataset}:{symbol}"

    def codes(self, records: np.ndarray) -> np.ndarray:
        """Code of each record's instrument, int32.

        Args:
            records: `MBO_DTYPE`, in file order; ts_recv says the day, ts_event where it is missing.
        """
        numbers = records["instrument_id"]
        received = records["ts_recv"]
        times = np.where(received == UNDEF_TIMESTAMP, records["ts_event"], received)
        days = times // np.uint64(_NS_PER_DAY)
        # One key per (number, day) keeps the loop below short: a chunk of a file spans few days and instruments.
        keys = (days << np.uint64(32)) | numbers
        if len(keys) and (keys == keys[0]).all():
            return np.full(len(keys), self._code(int(keys[0])), np.int32)
        distinct, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
        table = np.empty(len(distinct), np.int32)
        for position in np.argsort(first):
            table[position] = self._code(int(distinct[position]))
        return table[inverse]

    def _code(self, key: int) -> int:
        name = self.name(key & 0xFFFFFFFF, (key >> 32) * _NS_PER_DAY)
        code = self._codes.setdefault(name, len(self.names))
        if code == len(self.names):
            self.names.append(name)
        return code

    def _mapped(self, instrument_id: int, t_ns: int) -> str:
        spans = self.metadata.intervals.get(instrument_id, ())
        symbols = {span.symbol for span in spans}
        if len(symbols) == 1:  # the number never means anything else here, so days do not matter
            return symbols.pop()
        day = day_of(t_ns)
        return next((span.symbol for span in spans if span.start_day <= day < span.end_day), "")
