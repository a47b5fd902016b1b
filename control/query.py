"""SQL answers in the formats that people use, as they come.

An answer is one Arrow stream from the server, written on batch by batch: whatever its size, some megabytes are in
memory. To a file it goes under a hidden name first, so that the name stands for a whole answer. While it comes, a
second connection may ask how far the query is, and cancels it if we are interrupted: a server would work on for nobody.
Both find it by a random comment (`log_comment`), which the embedded store and a server show alike.
"""

import json
import math
import os
import re
import secrets
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Final, Literal, Protocol

import polars as pl
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
from clickhouse_connect import common
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import ClickHouseError, DatabaseError
from urllib3.exceptions import HTTPError

from control.services import open_store
from runtime.errors import AnswerIsNo, BarographError, InputError, MissingServiceError, UsageError

Format = Literal["table", "csv", "parquet", "arrow", "json"]
FORMATS: Final = ("table", "csv", "parquet", "arrow", "json")

SHOWN_ROWS: Final = 100
"""Rows that a table shows; the rest is counted. A terminal keeps a few thousand lines."""

GROUP_ROWS: Final = 250_000
"""Rows in a row group of Parquet: readers skip by group, and one is held in memory."""

TAIL_BYTES: Final = 1 << 14
"""Bytes of an answer kept for the error that may end it; a server's text is shorter."""

_LIMITS: Final = frozenset({158, 159, 160, 241, 307, 394, 396})
"""Codes of ClickHouse that say: too many rows, too much time, memory or bytes, or cancelled."""

_UNKNOWN: Final = frozenset({47, 60, 81})
"""Codes of ClickHouse that say: no such column, table or database."""

_TIME: Final = re.compile(r"(?:Nullable\()?DateTime(?:\('(?P<zone>[^']*)'\))?\)?")
_WIDE: Final = re.compile(r"(?:Nullable\()?(?P<sign>U?)Int(?:128|256)\)?")
"""Types of ClickHouse that its Arrow has no type for: seconds come as bare numbers, wide integers as bytes."""

BINARY: Final = frozenset({"parquet", "arrow"})
"""Formats that are no text."""

ARROW_SETTINGS: Final = {"output_format_arrow_string_as_string": 1, "output_format_arrow_compression_method": "none"}
_QUOTED, _ESCAPE = re.compile(r"[`\\]"), r"\\\g<0>"
_PARAMETER: Final = re.compile(r"\{\s*(\w+)\s*:")


@dataclass(frozen=True, slots=True)
class Question:
    """A query, its parameters, and the comment by which it is found on the server."""

    sql: str
    parameters: Mapping[str, str] = field(default_factory=dict)
    comment: str = field(default_factory=lambda: f"barograph-{secrets.token_hex(8)}")


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a query is: rows read, rows that it will read (0 if unknown), seconds."""

    read_rows: int
    total_rows: int
    elapsed_s: float


def parameters_of(given: Sequence[str], sql: str) -> dict[str, str]:
    """Parameters from `NAME=VALUE`, each of which the query must use.

    Raises:
        UsageError: not of this form, or a name that is not in the query, or one of the query's is not given.
    """
    used = set(_PARAMETER.findall(sql))
    out: dict[str, str] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or name not in used:
            known = ", ".join(sorted(used)) or "none"
            raise UsageError(
                f"--param {text!r} is for nothing in the query (it has: {known})", remedy="write NAME=VALUE"
            )
        out[name] = value
    if absent := sorted(used - set(out)):
        raise UsageError(f"the query needs a value for {absent[0]}", remedy=f"add --param {absent[0]}=VALUE")
    return out


Opener = Callable[[Question], Any]
"""Asks, and gives the answer as a stream in Arrow's format."""


@contextmanager
def asking(url: str, question: Question, opener: Opener | None = None) -> Iterator["Answer"]:
    """The answer, to be read inside of a `with`. Leaving by an interrupt cancels the query on the server.

    Args:
        url: the server.
        question: the query.
        opener: asks by itself and gives the answer as a stream in Arrow's format; the store's own client if not given.

    Raises:
        MissingServiceError: no ClickHouse there, or it went away.
        InputError: it refuses the query; its own words are kept.
        AnswerIsNo: the query ended at a limit, or somebody cancelled it.
    """
    client = open_store(url) if opener is None else None
    ask = opener if opener is not None else partial(_ask, client)
    tail: _Tail | None = None
    try:
        tail = _Tail(ask(question))
        reader = pa.ipc.open_stream(pa.PythonFile(tail, mode="r"))
        hidden = [field.name for field in reader.schema if _bare(field.type)]
        yield Answer(reader, _types(ask, question, hidden) if hidden else {})
    except DatabaseError as error:
        raise refused(str(error)) from error
    except (ClickHouseError, HTTPError, OSError, pa.ArrowInvalid) as error:
        if (isinstance(error, OSError) and error.filename is not None) or isinstance(error, BrokenPipeError):
            raise
        raise refused(tail.text() if tail else "", error) from error
    except KeyboardInterrupt:
        cancel(url, question)
        raise
    finally:
        if tail is not None:
            tail.close()
        if client is not None:
            client.close()


def _ask(client: Client | None, question: Question) -> Any:
    assert client is not None, "opened where nobody else asks"
    common.set_setting("invalid_setting_action", "send")  # what a login may choose is the server's to say
    return client.raw_stream(
        question.sql,
        parameters=dict(question.parameters) or None,
        settings={**ARROW_SETTINGS, "readonly": 2, "log_comment": question.comment},
        fmt="ArrowStream",
    )


class Answer:
    """Rows as they come, under names that stand once each, and as what they are: times as times, numbers as numbers.

    ClickHouse's Arrow gives a `DateTime` as seconds in 32 bits and an integer of 128 or 256 bits as its bytes. Here the
    one is a timestamp, the other its digits as text.

    Args:
        reader: the stream.
        types: column → its type in ClickHouse; empty if none needs to be known.
    """

    def __init__(self, reader: pa.RecordBatchReader, types: Mapping[str, str]) -> None:
        self._reader = reader
        self._types = [types.get(name, "") for name in reader.schema.names]
        self.schema = pa.schema(
            [
                pa.field(name, _arrow_type(field.type, kind), field.nullable)
                for name, field, kind in zip(_once_each(reader.schema.names), reader.schema, self._types, strict=True)
            ]
        )

    def __iter__(self) -> "Answer":
        return self

    def __next__(self) -> pa.RecordBatch:
        """The next rows.

        Raises:
            InputError: a text in them is none, but bytes.
        """
        batch = self._reader.read_next_batch()
        for name, column in zip(self.schema.names, batch.columns, strict=True):
            try:
                column.validate(full=True)
            except pa.ArrowInvalid as error:
                raise InputError(
                    f"column {name} holds bytes that are no text", remedy="ask for hex() or base64Encode() of it"
                ) from error
        columns = [_shaped(*pair) for pair in zip(batch.columns, self._types, strict=True)]
        return pa.RecordBatch.from_arrays(columns, schema=self.schema)


def _bare(kind: pa.DataType) -> bool:
    """Whether Arrow's type may hide what a column is."""
    return bool(pa.types.is_uint32(kind) or pa.types.is_fixed_size_binary(kind))


def _types(ask: Opener, question: Question, names: Sequence[str]) -> dict[str, str]:
    """Column → its type in ClickHouse; empty of what is no SELECT, such as SHOW.

    A reader may not DESCRIBE, but he may ask for the types of the rows that he would get, of which none is read.
    """
    quoted = [f"`{_QUOTED.sub(_ESCAPE, name)}`" for name in names]
    wanted = ", ".join(f"toTypeName(any({name})) AS {name}" for name in quoted)
    inner = question.sql.rstrip().rstrip(";")
    with suppress(BarographError, ClickHouseError, HTTPError, pa.ArrowInvalid):
        asked = replace(question, sql=f"SELECT {wanted} FROM (SELECT * FROM ({inner}\n) LIMIT 0)")
        with closing(_Tail(ask(asked))) as tail:
            row = pa.ipc.open_stream(pa.PythonFile(tail, mode="r")).read_all().to_pylist()[0]
            return {name: str(kind) for name, kind in row.items()}
    return {}


def _once_each(names: Sequence[str]) -> list[str]:
    """Names of which none comes twice: Parquet, JSON and data frames have a column by its name."""
    out: list[str] = []
    for name in names:
        free, at = name, 1
        while free in out or (at > 1 and free in names):
            at += 1
            free = f"{name}_{at}"
        out.append(free)
    return out


def _arrow_type(given: pa.DataType, kind: str) -> pa.DataType:
    """What a column becomes, by its type in ClickHouse."""
    if pa.types.is_uint32(given) and (time := _TIME.fullmatch(kind)):
        return pa.timestamp("s", time["zone"] or "UTC")
    return pa.string() if pa.types.is_fixed_size_binary(given) and _WIDE.fullmatch(kind) else given


def _shaped(column: pa.Array, kind: str) -> pa.Array:
    """A column's values as that."""
    wanted = _arrow_type(column.type, kind)
    if wanted == column.type:
        return column
    if pa.types.is_timestamp(wanted):
        return column.cast(pa.int64()).cast(wanted)
    signed = not _WIDE.fullmatch(kind)["sign"]  # type: ignore[index]
    texts = [None if v is None else str(int.from_bytes(v, "little", signed=signed)) for v in column.to_pylist()]
    return pa.array(texts, wanted)


def progress(url: str, question: Question) -> Progress | None:
    """How far the query is; None if it does not run (any more), or nobody answers."""
    with suppress(ClickHouseError, BarographError):
        client = open_store(url)
        try:
            found = client.query(
                "SELECT read_rows, total_rows_approx, elapsed FROM system.processes "
                "WHERE Settings['log_comment'] = {comment:String} LIMIT 1",
                parameters={"comment": question.comment},
            ).result_rows
            return Progress(int(found[0][0]), int(found[0][1]), float(found[0][2])) if found else None
        finally:
            client.close()
    return None


def cancel(url: str, question: Question) -> None:
    """End the query on the server, if it runs there."""
    with suppress(ClickHouseError, BarographError):
        client = open_store(url)
        try:
            client.command(
                "KILL QUERY WHERE Settings['log_comment'] = {comment:String} ASYNC",
                parameters={"comment": question.comment},
            )
        finally:
            client.close()


def refused(text: str, error: Exception | None = None) -> BarographError:
    """What a server's words mean: a bad query, a limit, or that it is gone."""
    words = " ".join(text.split())
    code = re.search(r"Code: (\d+)\.|code: (\d+)", words)
    if code is None:
        return MissingServiceError(
            f"ClickHouse went away before the answer was whole ({str(error)[:200]})", remedy="ask again"
        )
    start = words.find("Code: ")
    said = words[max(start, 0) :][:600]
    if int(code[1] or code[2]) in _LIMITS:
        return AnswerIsNo(f"the query was ended: {said}", remedy="ask for less, or raise the limit it names")
    remedy = "docs/sql.md has the tables" if int(code[1] or code[2]) in _UNKNOWN else "correct the SQL"
    return InputError(f"ClickHouse refuses the query: {said}", remedy=remedy)


class _Tail:
    """A stream that remembers its last bytes: an error on the way stands there."""

    def __init__(self, raw: Any) -> None:
        self._raw, self._last, self.closed = raw, b"", False

    def read(self, size: int = -1) -> bytes:
        """The next bytes."""
        data: bytes = self._raw.read(None if size < 0 else size)
        self._last = (self._last + data[-TAIL_BYTES:])[-TAIL_BYTES:]
        return data

    def text(self) -> str:
        """The last bytes from an error on, read to their end; empty if there is none."""
        with suppress(HTTPError, OSError):
            while len(self.read(TAIL_BYTES)) == TAIL_BYTES:
                pass
        _, mark, after = self._last.partition(b"__exception__")
        return after.decode(errors="replace") if mark else ""

    def close(self) -> None:
        """Let go of the connection."""
        self.closed = True
        self._raw.close()


class Writer(Protocol):
    """Writes an answer in one format."""

    def write(self, batch: pa.RecordBatch) -> None:
        """The next rows."""

    def close(self) -> None:
        """The end of the answer."""


class _Arrow:
    def __init__(self, out: BinaryIO, schema: pa.Schema) -> None:
        self._writer = pa.ipc.new_stream(out, schema)

    def write(self, batch: pa.RecordBatch) -> None:
        self._writer.write_batch(batch)

    def close(self) -> None:
        self._writer.close()


class _Parquet:
    def __init__(self, out: BinaryIO, schema: pa.Schema) -> None:
        self._writer = pq.ParquetWriter(out, schema, compression="zstd")
        self._schema, self._held, self._rows = schema, list[pa.RecordBatch](), 0

    def write(self, batch: pa.RecordBatch) -> None:
        self._held.append(batch)
        self._rows += batch.num_rows
        if self._rows >= GROUP_ROWS:
            self._flush()

    def close(self) -> None:
        self._flush()
        self._writer.close()

    def abandon(self) -> None:
        """No more comes, and what came is no answer: the writer would close itself on a file that is closed."""
        self._writer.is_open = False

    def _flush(self) -> None:
        if self._rows:
            self._writer.write_table(pa.Table.from_batches(self._held, self._schema), row_group_size=self._rows)
        self._held, self._rows = [], 0


class _Csv:
    """Lists and pairs as JSON in a cell: CSV has no other way."""

    def __init__(self, out: BinaryIO, schema: pa.Schema) -> None:
        self._fields = [pa.field(f.name, pa.string() if pa.types.is_nested(f.type) else f.type) for f in schema]
        self._writer = pa_csv.CSVWriter(out, pa.schema(self._fields))

    def write(self, batch: pa.RecordBatch) -> None:
        columns = [
            pa.array([json.dumps(_plain(v)) for v in column.to_pylist()], pa.string())
            if pa.types.is_nested(column.type)
            else column
            for column in batch.columns
        ]
        self._writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=pa.schema(self._fields)))

    def close(self) -> None:
        self._writer.close()


class _Json:
    """One array of objects, a row a line."""

    def __init__(self, out: BinaryIO, _: pa.Schema) -> None:
        self._out, self._before = out, b"[\n"

    def write(self, batch: pa.RecordBatch) -> None:
        for row in batch.to_pylist():
            self._out.write(self._before + json.dumps(_plain(row), default=str, ensure_ascii=False).encode())
            self._before = b",\n"

    def close(self) -> None:
        self._out.write((b"\n]\n") if self._before == b",\n" else b"[]\n")


class _Table:
    """The first rows as text, and how many more there are."""

    def __init__(self, out: BinaryIO, schema: pa.Schema) -> None:
        self._out, self._schema, self._held, self._rows = out, schema, list[pa.RecordBatch](), 0

    def write(self, batch: pa.RecordBatch) -> None:
        if self._rows < SHOWN_ROWS:
            self._held.append(batch.slice(0, SHOWN_ROWS - self._rows))
        self._rows += batch.num_rows

    def close(self) -> None:
        text = as_text(pa.Table.from_batches(self._held, self._schema), self._rows)
        self._out.write(f"{text}\n".encode())


_WRITERS: Final[Mapping[Format, Any]] = {
    "table": _Table, "csv": _Csv, "parquet": _Parquet, "arrow": _Arrow, "json": _Json,
}  # fmt: skip


def write(answer: Answer, form: Format, out: Path | None) -> int:
    """Write an answer as it comes; the number of rows.

    Args:
        answer: the rows.
        form: `table` for people; others for programs.
        out: the file, which takes its name when it is whole; None for standard output.

    Raises:
        InputError: the file cannot be written.
    """
    if out is None:
        rows = _pour(answer, form, sys.stdout.buffer)
        sys.stdout.buffer.flush()
        return rows
    part = out.with_name(f".{out.name}.{secrets.token_hex(4)}.part")
    try:
        with part.open("wb") as file:
            rows = _pour(answer, form, file)
            file.flush()
            os.fsync(file.fileno())
        part.replace(out)
    except OSError as error:
        if error.errno is None:
            raise
        reason = error.strerror or str(error)
        raise InputError(f"{out} cannot be written ({reason})", remedy="give another --out, or make room") from error
    finally:
        part.unlink(missing_ok=True)
    return rows


def writer_of(form: Format, out: BinaryIO, schema: pa.Schema) -> Writer:
    """What writes rows of a schema in one format."""
    writer: Writer = _WRITERS[form](out, schema)
    return writer


def _pour(answer: Answer, form: Format, out: BinaryIO) -> int:
    writer = writer_of(form, out, answer.schema)
    rows = 0
    try:
        for batch in answer:
            writer.write(batch)
            rows += batch.num_rows
        writer.close()
    except BaseException:
        if isinstance(writer, _Parquet):
            writer.abandon()
        raise
    return rows


def _plain(value: Any) -> Any:
    """A value as JSON has it; what JSON has no number for stands as text, bytes as hex."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, dict):
        return {name: _plain(v) for name, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value


def as_text(shown: pa.Table, rows: int) -> str:
    """Rows as a table of text, and how many there are beyond them; as wide as a terminal, or as the rows need."""
    frame = pl.from_arrow(shown)
    assert isinstance(frame, pl.DataFrame)
    width = os.get_terminal_size(sys.stdout.fileno()).columns if sys.stdout.isatty() else 1 << 15
    with pl.Config(
        tbl_rows=SHOWN_ROWS, tbl_cols=-1, tbl_hide_dataframe_shape=True, tbl_hide_column_data_types=True,
        fmt_str_lengths=80, tbl_width_chars=width, thousands_separator=True, tbl_formatting="UTF8_FULL_CONDENSED",
    ):  # fmt: skip
        text = str(frame)
    more = rows - shown.num_rows
    return text + (f"\n… and {more:,} more rows" if more > 0 else "")
