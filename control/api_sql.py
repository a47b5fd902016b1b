"""SQL over the api: a SELECT of a stranger, admitted, bounded, and answered as it comes.

The embedded store knows the user `reader`, whose queries it admits by itself. Another ClickHouse is asked with a login
of its own (`BAROGRAPH_SQL_URL`), never with the one that sinks write with; the same admission and the same limits hold
there: it parses the query by `EXPLAIN AST`, and the rules of `control.embedded.store_admission` judge the tree.
"""

import io
import threading
from collections.abc import Iterator
from typing import Any, BinaryIO, Final, Literal, cast
from urllib.parse import urlsplit, urlunsplit

import pyarrow as pa
from clickhouse_connect.driver.exceptions import ClickHouseError
from pydantic import BaseModel, Field

from control import query
from control.api_errors import ApiError
from control.embedded.store_admission import READER, check_text, judge, settings_of
from control.embedded.store_sql import StoreError
from control.services import open_store

RUNNING_MAX: Final = 8
"""Queries that are answered at once; more are refused, not queued. Each holds a thread while it waits for rows, and the
api has some dozens for everything."""

MEDIA: Final = {
    "json": "application/json",
    "csv": "text/csv; charset=utf-8",
    "arrow": "application/vnd.apache.arrow.stream",
    "parquet": "application/vnd.apache.parquet",
}

_running = threading.BoundedSemaphore(RUNNING_MAX)


class Ask(BaseModel):
    """A question to the store."""

    sql: str = Field(min_length=1, max_length=200_000, description="one SELECT; `{NAME:Type}` stands for a parameter")
    parameters: dict[str, str] = Field(default={}, description="values of the parameters, as text")
    format: Literal["json", "csv", "arrow", "parquet"] = "json"


def as_reader(url: str) -> str:
    """The address of the embedded store, asked as its reader."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=f"{READER}@{parts.hostname}:{parts.port}"))


def admit(url: str, question: query.Question) -> dict[str, str]:
    """Judge a query by the tree that a ClickHouse makes of it; the settings it is to run with.

    Raises:
        ApiError: it is refused.
        MissingServiceError: nobody answers.
    """
    client = open_store(url)
    try:
        check_text(question.sql)
        parsed = client.query(f"EXPLAIN AST {question.sql}", parameters=dict(question.parameters) or None)
        judge("\n".join(str(row[0]) for row in parsed.result_rows))
        return settings_of({})
    except StoreError as error:
        raise ApiError(400, "not_admitted", " ".join(error.message.split())[:600], "see docs/sql.md") from error
    except ClickHouseError as error:
        text = " ".join(str(error).split())[:600]
        raise ApiError(400, "bad_input", f"ClickHouse refuses the query: {text}", "correct the SQL") from error
    finally:
        client.close()


def answer(url: str, ask: Ask, *, trusted: bool) -> Iterator[bytes]:
    """The answer in the form that was asked for, as it comes; nothing has been sent when the first piece is there.

    Args:
        url: where to ask.
        ask: the question.
        trusted: whether the store admits by itself what strangers ask.

    Raises:
        ApiError: the query is not admitted, or too many run.
        BarographError: as `control.query.asking`.
    """
    given = [f"{name}={value}" for name, value in ask.parameters.items()]
    question = query.Question(ask.sql, query.parameters_of(given, ask.sql))
    if not _running.acquire(blocking=False):
        raise ApiError(429, "busy", f"{RUNNING_MAX} queries run already", "try again in a moment")
    try:
        settings = {} if trusted else admit(url, question)
        with query.asking(url, question, settings) as rows:
            yield from _pieces(rows, ask.format)
    finally:
        _running.release()


def _pieces(rows: pa.RecordBatchReader, form: query.Format) -> Iterator[bytes]:
    out = _Buffer()
    writer = query.writer_of(form, cast("BinaryIO", out), rows.schema)
    for batch in rows:
        writer.write(batch)
        if piece := out.take():
            yield piece
    writer.close()
    yield out.take()


class _Buffer(io.RawIOBase):
    """A file that gives away what was written to it, and knows its place in the whole."""

    def __init__(self) -> None:
        self._pieces, self._at = list[bytes](), 0

    def writable(self) -> bool:
        """It is."""
        return True

    def write(self, data: Any) -> int:
        """Take some bytes."""
        piece = bytes(data)
        self._pieces.append(piece)
        self._at += len(piece)
        return len(piece)

    def tell(self) -> int:
        """Bytes written so far."""
        return self._at

    def take(self) -> bytes:
        """What was written since the last time."""
        taken, self._pieces = b"".join(self._pieces), []
        return taken
