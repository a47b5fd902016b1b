"""SQL over the api: a SELECT of a stranger, admitted, bounded, and answered as it comes.

The embedded store knows the user `reader`, whose queries it admits by itself. Another ClickHouse is asked with a login
of its own (`BAROGRAPH_SQL_URL`), never with the one that sinks write with; the same admission and the same limits hold
there: it parses the query by `EXPLAIN AST`, and the rules of `control.embedded.store_admission` judge the tree.
"""

import io
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from typing import Any, BinaryIO, Final, Literal, cast
from urllib.parse import unquote, urlencode, urlsplit, urlunsplit

from pydantic import BaseModel, Field
from urllib3 import BaseHTTPResponse, PoolManager, Timeout
from urllib3.exceptions import HTTPError

from control import query
from control.api_errors import ApiError
from control.embedded.store_admission import READER, check_text, judge, settings_of
from control.embedded.store_sql import StoreError
from runtime.errors import MissingServiceError

RUNNING_MAX: Final = 8
"""Queries that are answered at once; more are refused, not queued. Each holds a thread while it waits for rows, and the
api has some dozens for everything."""

MEDIA: Final = {
    "json": "application/json",
    "csv": "text/csv; charset=utf-8",
    "arrow": "application/vnd.apache.arrow.stream",
    "parquet": "application/vnd.apache.parquet",
}

TREE_BYTES_MAX: Final = 4 << 20
"""Bytes of a query's tree. One of 200,000 characters has less."""

ANSWER_S: Final = 60.0
"""Longest silence of the store; a query itself ends after 30 s."""

_FORMAT: Final = re.compile(r"\bFORMAT\s+\w+\s*;?\s*$", re.IGNORECASE)
_ARROW: Final = {name: str(value) for name, value in query.ARROW_SETTINGS.items()}
_pool = PoolManager(num_pools=4, maxsize=16)
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
        BarographError: ClickHouse cannot parse it, or does not answer.
    """
    try:
        check_text(question.sql)
        explained = replace(question, sql=f"EXPLAIN AST {question.sql}")
        with closing(_post(url, explained, {"default_format": "TSVRaw"})) as answered:
            judge(answered.read(TREE_BYTES_MAX).decode(errors="replace"))
        return settings_of({})
    except StoreError as error:
        raise ApiError(400, "not_admitted", " ".join(error.message.split())[:600], "see docs/sql.md") from error


def _post(url: str, question: query.Question, values: Mapping[str, str]) -> BaseHTTPResponse:
    """Ask over plain HTTP: the store's client would first look up what a reader may set, and then set none of it.

    Raises:
        BarographError: it is refused, or nobody answers.
    """
    parts = urlsplit(url)
    fields = {**values, "log_comment": question.comment, "database": parts.path.strip("/") or "default"}
    fields |= {f"param_{name}": _escaped(value) for name, value in question.parameters.items()}
    login = {
        "X-ClickHouse-User": unquote(parts.username or "default"),
        "X-ClickHouse-Key": unquote(parts.password or ""),
    }
    address = urlunsplit((parts.scheme, f"{parts.hostname}:{parts.port}", "/", "", ""))
    try:
        answered = _pool.request(
            "POST",
            f"{address}?{urlencode(fields)}",
            body=question.sql.encode(),
            headers=login,
            preload_content=False,
            timeout=Timeout(connect=5, read=ANSWER_S),
            retries=False,
        )
    except HTTPError as error:
        raise MissingServiceError(
            "the store does not answer", remedy="look whether it runs: `barograph status`"
        ) from error
    if answered.status != 200:
        raise query.refused(answered.read(4096).decode(errors="replace"))
    return answered


def _escaped(value: str) -> str:
    """A parameter as ClickHouse reads it: tab-separated text."""
    return value.replace("\\", "\\\\").replace("\t", "\\t").replace("\n", "\\n")


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
    if _FORMAT.search(ask.sql):
        raise ApiError(400, "bad_input", "the query names a FORMAT of its own", "leave it out, and give `format`")
    given = [f"{name}={value}" for name, value in ask.parameters.items()]
    question = query.Question(ask.sql, query.parameters_of(given, ask.sql))
    if not _running.acquire(blocking=False):
        raise ApiError(429, "busy", f"{RUNNING_MAX} queries run already", "try again in a moment")
    try:
        settings = {} if trusted else admit(url, question)
        values = {**settings, **_ARROW, "default_format": "ArrowStream"}
        with query.asking(url, question, lambda asked: _post(url, asked, values)) as rows:
            yield from _pieces(rows, ask.format)
    finally:
        _running.release()


def _pieces(rows: query.Answer, form: query.Format) -> Iterator[bytes]:
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
