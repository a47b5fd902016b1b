"""The books stage: raw order events in, bins and trades out. One engine per instrument.

`T.mbo` → `T.L.bins`, `T.L.trades`. Everything it may depend on is in its one input: definitions say the tick size,
clock messages close bins in quiet times, `end` flushes. The engine does the work; this module speaks its language.
"""

import json
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from engine.engine import Engine, EngineConfig, Output
from engine.errors import BadRecordsError, ConfigError
from runtime.avro_schemas import UnknownSchemaError
from runtime.codec import WrongValueError, decode_avro
from schemas import bins, topics, trades
from schemas.columns import table_rows
from schemas.envelope import crc32
from schemas.mbo import MBO_DTYPE, RECORDS_PER_BLOCK_MAX
from schemas.message import Message
from streams import reducer
from streams.reducer import BrokenMessageError

STATE_FORMAT: Final = 1
"""Form of a piece: format and length of the definition, the definition, the engine's own snapshot."""

_PIECE_HEAD: Final = struct.Struct("<HI")
_BINS, _TRADES = topics.BINS.stream, topics.TRADES.stream
_SETTINGS: Final = ("cell_ns", "radius", "n_ticks")
"""What this stage takes from the configuration of a line; the rest belongs to other stages."""


@dataclass(slots=True)
class Book:
    """One instrument: its definition as it came, and its engine."""

    definition: bytes
    bucket: int
    engine: Engine


class BooksReducer:
    """State of the books stage for one partition.

    Args:
        config: `cell_ns`, `radius`, `n_ticks` of the line.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        self._config = dict(config)
        self._books: dict[str, Book] = {}
        self._pieces: dict[str, bytes] = {}

    def apply(self, message: Message) -> Iterator[reducer.Rows]:
        """Apply one raw message.

        Raises:
            BrokenMessageError: bytes and headers disagree, or no definition came before.
        """
        if crc32(message.value) != message.envelope.crc32:
            raise BrokenMessageError(message, "does not match its CRC-32")
        self._pieces.pop(message.instrument, None)
        if message.envelope.kind == "definition":
            yield from self._define(message)
            return
        book = self._books.get(message.instrument)
        if book is None:
            raise BrokenMessageError(message, f"comes before any definition of {message.instrument}")
        if message.envelope.kind == "data":
            yield from self._records(book, message)
        elif message.envelope.kind == "clock":
            yield from self._clock(book, message)
        elif message.envelope.kind == "end":
            yield from self._until_done(book, book.engine.flush)
        else:
            raise BrokenMessageError(message, f"is of kind {message.envelope.kind!r}, which this release does not know")

    def skip(self, message: Message, reason: str) -> Iterator[reducer.Rows]:
        """The book of the message's instrument is not to be trusted until its next reset or snapshot."""
        book = self._books.get(message.instrument)
        if book is not None:
            self._pieces.pop(message.instrument, None)
            book.engine.mark_suspect()
        return iter(())

    def stamp(self, message: Message) -> reducer.Stamp:
        """Engine time after the message; on `end`, the instrument's final state."""
        book = self._books.get(message.instrument)
        if book is None:  # skipped before there was a definition
            return reducer.Stamp(message.envelope.t, {})
        t = max(book.engine.t_ns, 0) or message.envelope.t
        if message.envelope.kind != "end":
            return reducer.Stamp(t, {})
        return reducer.Stamp(t, {_BINS: json.dumps(summary(book.engine), sort_keys=True)})

    def snapshot(self) -> Mapping[str, bytes]:
        """One piece per instrument; pieces of instruments that did not change are not made again."""
        for name, book in self._books.items():
            if name not in self._pieces:
                head = _PIECE_HEAD.pack(STATE_FORMAT, len(book.definition))
                self._pieces[name] = head + book.definition + book.engine.snapshot()
        return dict(self._pieces)

    def restore(self, pieces: Mapping[str, bytes]) -> None:
        """Take over the state of `pieces`."""
        for name, piece in pieces.items():
            _, size = _PIECE_HEAD.unpack_from(piece)
            start = _PIECE_HEAD.size + size
            definition = piece[_PIECE_HEAD.size : start]
            bucket = int(decode_avro("definition", definition)["bucket"])
            self._books[name] = Book(definition, bucket, Engine.restore(piece[start:]))
        self._pieces = dict(pieces)

    def _define(self, message: Message) -> Iterator[reducer.Rows]:
        """A first definition starts an engine, an equal one changes nothing, another one closes the bin and resets."""
        known = self._books.get(message.instrument)
        if known is not None and known.definition == message.value:
            return
        bucket, engine = self._engine_of(message)
        if known is not None:
            yield from self._until_done(known, known.engine.flush)
        self._books[message.instrument] = Book(message.value, bucket, engine)

    def _engine_of(self, message: Message) -> tuple[int, Engine]:
        """Bucket and a new engine, as a definition says."""
        try:
            definition = decode_avro("definition", message.value)
            tick_px, bucket = int(definition["tick_px"]), int(definition["bucket"])
            return bucket, Engine(EngineConfig(tick_px=tick_px, bucket=bucket, **self._config))
        except (ConfigError, WrongValueError, UnknownSchemaError) as error:
            raise BrokenMessageError(message, f"does not define an instrument ({error})") from error

    def _records(self, book: Book, message: Message) -> Iterator[reducer.Rows]:
        count = message.envelope.count
        if len(message.value) != count * MBO_DTYPE.itemsize or count > RECORDS_PER_BLOCK_MAX:
            reason = f"holds {len(message.value)} bytes, not {count} records of {MBO_DTYPE.itemsize} bytes"
            raise BrokenMessageError(message, f"{reason}, {RECORDS_PER_BLOCK_MAX} at most")
        records = np.frombuffer(message.value, MBO_DTYPE)
        start = 0
        while start < count:
            try:
                output, start = book.engine.apply(records, start)
            except BadRecordsError as error:  # found before the first record has changed anything
                raise BrokenMessageError(message, f"is refused: {error}") from error
            yield from self._rows(book, output)

    def _clock(self, book: Book, message: Message) -> Iterator[reducer.Rows]:
        try:
            yield from self._until_done(book, lambda: book.engine.advance(message.envelope.t))
        except ValueError as error:
            raise BrokenMessageError(message, f"is refused: {error}") from error

    def _until_done(self, book: Book, step: Any) -> Iterator[reducer.Rows]:
        done = False
        while not done:
            output, done = step()
            yield from self._rows(book, output)

    @staticmethod
    def _rows(book: Book, output: Output) -> Iterator[reducer.Rows]:
        rows = table_rows(output.bins)
        if rows:
            tick_px = np.full(rows, book.engine.config.tick_px, "<i8")
            bucket = np.full(rows, book.bucket, "<i8")
            yield reducer.Rows(_BINS, {"tick_px": tick_px, "bucket": bucket, **output.bins})
        if table_rows(output.trades):
            yield reducer.Rows(_TRADES, output.trades)


def summary(engine: Engine) -> dict[str, Any]:
    """The final state of an instrument, as reports and certificates give it; prices in 1e-9, UNDEF_PRICE if none."""
    return {
        "book_digest": engine.digest(),
        "best_bid_px": engine.best_bid_px,
        "best_ask_px": engine.best_ask_px,
        "bid_levels": engine.bid_levels,
        "ask_levels": engine.ask_levels,
        "orders": engine.orders,
        "last_sequence": engine.last_sequence,
        "records": engine.records,
        "bins": engine.bins_emitted,
        "counters": engine.counters,
    }


def books_stage(config: Mapping[str, Any]) -> reducer.Stage:
    """The books stage with the semantic configuration of a line."""
    own = {name: config[name] for name in _SETTINGS if name in config}
    radius = int(own.get("radius", bins.RADIUS_DEFAULT))
    return reducer.Stage(
        name="books",
        source=topics.MBO,
        outputs={
            _BINS: reducer.Output(topics.BINS, bins.columns(radius)),
            _TRADES: reducer.Output(topics.TRADES, trades.COLUMNS),
        },
        config=own,
        reducer=lambda: BooksReducer(own),
        state_format=STATE_FORMAT,
    )
