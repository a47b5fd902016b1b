"""The ClickHouse HTTP interface over the embedded engine: what any ClickHouse client may ask of port 8123.

Understood: `GET` (reads only, as on a server) and `POST` of `/`; the statement in `query`, in the body, or begun in one
and continued in the other; data of an `INSERT … FORMAT` behind it; `param_NAME` query parameters; every other name in
the address as an engine setting; `database`, `default_format`, `session_id`, `query_id`; bodies in lz4, zstd, gzip or
deflate; form fields for long parameters; `/ping`. Answers carry `X-ClickHouse-Format`, `-Query-Id`, `-Summary`,
`-Timezone`; errors carry the code in `X-ClickHouse-Exception-Code`, the server's HTTP status and its text.

An answer is whole before its head is sent, so that an error has its status, unless the client reads without
`wait_end_of_query` in a format that can be streamed; an error on the way is then marked in the body as a server does.
"""

import json
import logging
import secrets
import uuid
from base64 import b64decode
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from email.parser import BytesParser
from email.policy import HTTP
from functools import partial
from typing import Final, cast

import anyio
from starlette.applications import Starlette
from starlette.requests import Request as HttpRequest
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from control.embedded.store_admission import READER, check_text, judge, read_names, settings_of
from control.embedded.store_codings import choose, decode, encoder
from control.embedded.store_engine import SESSION_IDLE_S, STREAMED_FORMATS, Answer, Request, StoreEngine
from control.embedded.store_sql import (
    AUTHENTICATION_FAILED,
    LIMIT_EXCEEDED,
    NOT_IMPLEMENTED,
    Statement,
    StoreError,
    read,
    refusal,
)

log = logging.getLogger(__name__)

BODY_BYTES_MAX: Final = 512 << 20
"""Largest request body, decoded. Sinks send at most 64 MiB; people load files. It is held in memory twice."""

THREADS_MAX: Final = 16
"""Statements executed at once; more wait. Each uses all cores while it runs; inserts and short queries must still get
a turn beside a dozen long ones."""

READERS_MAX: Final = 4
"""Of these, statements of strangers. They wait for one another and never for a sink, nor a sink for them: with all
threads open to them, a dozen queries of 30 s would keep inserts waiting as long."""

CheckLogin = Callable[[str, str], bool]
"""Whether user and password may use the store."""

_NOT_SETTINGS: Final = frozenset(
    {
        "query", "database", "default_format", "user", "password", "quota_key", "role", "query_id", "session_id",
        "session_timeout", "session_check", "compress", "decompress", "stacktrace", "buffer_size", "wait_end_of_query",
        "client_protocol_version", "enable_http_compression", "send_progress_in_http_headers", "readonly",
        "http_headers_progress_interval_ms", "add_http_cors_header", "close_session",
    }
)  # fmt: skip
"""Names in the address that speak to the HTTP interface, not to the engine. `readonly` is among them because the
engine is told by `Request.readonly`: a GET only reads, and so does a request that asks for it."""


@dataclass(frozen=True, slots=True)
class _Call:
    """A request, understood."""

    statement: Statement
    request: Request
    query_id: str
    coding: str | None
    whole: bool
    user: str = ""


def make_app(engine: StoreEngine, check_login: CheckLogin | None = None, reader_port: int | None = None) -> Starlette:
    """The interface over an engine.

    Args:
        engine: where statements go.
        check_login: asked for every statement; None: everybody may, which only a loopback address excuses.
        reader_port: port at which everybody is the reader, and whose name and password are not looked at.
    """
    interface = _Interface(engine, check_login, reader_port)

    async def ok(_: HttpRequest) -> Response:
        return PlainTextResponse("Ok.\n")

    return Starlette(
        routes=[
            Route("/ping", ok),
            Route("/replicas_status", ok),
            Route("/", interface.answer, methods=["GET", "POST"]),
        ]
    )


OWN_NAMES: Final = frozenset({"127.0.0.1", "localhost", "::1", ""})
"""How this machine is called by programs on it."""


class _Interface:
    def __init__(self, engine: StoreEngine, check_login: CheckLogin | None, reader_port: int | None) -> None:
        self._engine = engine
        self._reader_port = reader_port
        self._check_login = check_login
        self._threads = anyio.CapacityLimiter(THREADS_MAX)
        self._reader_threads = anyio.CapacityLimiter(READERS_MAX)

    async def answer(self, http: HttpRequest) -> Response:
        """One request to `/`."""
        if self._check_login is None and not self._is_for_readers(http) and _comes_from_a_page(http):
            return PlainTextResponse("This interface is for programs on this machine, not for web pages.\n", 403)
        query_id = http.query_params.get("query_id") or str(uuid.uuid4())
        try:
            user = self._authenticate(http)
            body = await _body(http)
            if not body and not http.query_params:
                return PlainTextResponse("Ok.\n")
            call = replace(await anyio.to_thread.run_sync(_understand, http, body, query_id), user=user)
            if user == READER:
                call = await anyio.to_thread.run_sync(self._admitted, call, limiter=self._limiter(call))
            return await (self._whole(call) if call.whole else self._streamed(call))
        except StoreError as error:
            return self._failed(error, query_id)

    def _authenticate(self, http: HttpRequest) -> str:
        """The user; everybody is who they say they are where no login is checked."""
        if self._is_for_readers(http):
            return READER
        user, password = _login(http)
        if self._check_login is not None and not self._check_login(user, password):
            raise refusal(
                AUTHENTICATION_FAILED,
                "AUTHENTICATION_FAILED",
                f"{user}: Authentication failed: password is incorrect, or there is no user with such name",
            )
        return user

    def _is_for_readers(self, http: HttpRequest) -> bool:
        _, port = http.scope.get("server") or ("", None)
        return self._reader_port is not None and port == self._reader_port

    def _admitted(self, call: _Call) -> _Call:
        """The call as a reader may make it: looked at by the engine's own parser, read-only, within limits."""
        statement, asked = call.statement, call.request
        check_text(statement.text)
        request = replace(
            asked,
            settings=settings_of(asked.settings, whole=call.whole),
            readonly=True,
            strict=True,
            session_id="",
            database="",
        )
        own = read_names(self._engine.written(statement), request.parameters)
        own = frozenset(name for name in own if not self._engine.names_a_file(name))
        judge(self._engine.syntax_tree(statement, request), own)
        return replace(call, request=request)

    async def _whole(self, call: _Call) -> Response:
        run = partial(self._engine.run, call.statement, call.request)
        answer = await anyio.to_thread.run_sync(run, limiter=self._limiter(call))
        body, headers = answer.body, self._headers(call)
        headers["X-ClickHouse-Summary"] = _summary(answer)
        if call.coding and body:
            coder = encoder(call.coding)
            body = coder.compress(body) + coder.flush()
            headers["Content-Encoding"] = call.coding
        return Response(body, headers=headers, media_type=_media_type(call))

    async def _streamed(self, call: _Call) -> Response:
        """Head after the first piece, so that a statement that fails at once still gets its status."""
        pieces = self._engine.stream(call.statement, call.request)
        limiter = self._limiter(call)
        first = await self._next(pieces, limiter)
        headers = self._headers(call)
        tag = headers["X-ClickHouse-Exception-Tag"] = secrets.token_hex(8)
        if call.coding:
            headers["Content-Encoding"] = call.coding
        return StreamingResponse(
            self._pieces(pieces, first, call.coding, tag, limiter), headers=headers, media_type=_media_type(call)
        )

    async def _pieces(
        self, pieces: Iterator[bytes], first: bytes | None, coding: str | None, tag: str, limiter: anyio.CapacityLimiter
    ) -> AsyncIterator[bytes]:
        coder = encoder(coding) if coding else None
        piece = first
        try:
            while piece is not None:
                if data := coder.compress(piece) if coder else piece:
                    yield data
                piece = await self._next(pieces, limiter)
        except StoreError as error:
            marker = _mark(error, tag)
            yield coder.compress(marker) if coder else marker
        finally:
            with anyio.CancelScope(shield=True), suppress(Exception):
                await anyio.to_thread.run_sync(pieces.close, limiter=limiter)  # type: ignore[attr-defined]
        if coder:
            yield coder.flush()

    @staticmethod
    async def _next(pieces: Iterator[bytes], limiter: anyio.CapacityLimiter) -> bytes | None:
        return await anyio.to_thread.run_sync(next, pieces, None, limiter=limiter)

    def _limiter(self, call: _Call) -> anyio.CapacityLimiter:
        return self._reader_threads if call.user == READER else self._threads

    def _headers(self, call: _Call) -> dict[str, str]:
        return {
            "X-ClickHouse-Query-Id": call.query_id,
            "X-ClickHouse-Format": call.statement.format or call.request.format,
            "X-ClickHouse-Timezone": "UTC",
            "X-ClickHouse-Server-Display-Name": "barograph",
        }

    def _failed(self, error: StoreError, query_id: str) -> Response:
        headers = {"X-ClickHouse-Exception-Code": str(error.code), "X-ClickHouse-Query-Id": query_id}
        if error.status == 401:
            headers["WWW-Authenticate"] = 'Basic realm="ClickHouse server HTTP API"'
        text = f"{error.message} (version {self._engine.version})\n"
        return PlainTextResponse(text, error.status, headers)


@dataclass(frozen=True, slots=True)
class _Fields:
    """The two halves of the request text and the named values of a request, wherever they came from."""

    in_address: bytes
    in_body: bytes
    values: Mapping[str, str]


async def _body(http: HttpRequest) -> bytes:
    pieces, size = [], 0
    async for piece in http.stream():
        size += len(piece)
        if size > BODY_BYTES_MAX:
            raise refusal(LIMIT_EXCEEDED, "LIMIT_EXCEEDED", f"The body is longer than {BODY_BYTES_MAX} bytes")
        pieces.append(piece)
    return b"".join(pieces)


def _fields(http: HttpRequest, raw: bytes) -> _Fields:
    values = dict(http.query_params)
    for name in ("compress", "decompress"):
        if values.get(name, "0") not in ("0", "false"):
            raise refusal(
                NOT_IMPLEMENTED, "NOT_IMPLEMENTED", f"{name}=1 is not offered here; use HTTP's own content coding"
            )
    body = decode(raw, http.headers.get("content-encoding", ""), BODY_BYTES_MAX)
    content_type = http.headers.get("content-type", "")
    if content_type.startswith("multipart/form-data"):
        form = _form(content_type, body)
        body = b""
        values = {**values, **form}
    return _Fields(values.pop("query", "").encode(), body, values)


def _comes_from_a_page(http: HttpRequest) -> bool:
    """Whether a browser sends this: any site's page can send requests to this machine, and needs no answer to harm.

    Browsers name the page's origin on every request that may change something, and the name that they asked for as
    Host; a foreign one that leads here is DNS rebinding. Programs send no Origin.
    """
    name = http.headers.get("host", "").rpartition(":")
    host = (name[0] if name[2].isdecimal() else "".join(name)).strip("[]")
    return "origin" in http.headers or "sec-fetch-site" in http.headers or host not in OWN_NAMES


def _form(content_type: str, body: bytes) -> dict[str, str]:
    """Text fields of a multipart body; files would be external tables, which the engine does not have."""
    head = f"Content-Type: {content_type}\r\n\r\n".encode()
    message = BytesParser(policy=HTTP).parsebytes(head + body)
    out: dict[str, str] = {}
    for part in message.iter_parts():
        name = part.get_param("name", header="content-disposition")
        if part.get_filename() is not None or not isinstance(name, str):
            raise refusal(NOT_IMPLEMENTED, "NOT_IMPLEMENTED", "External tables are not offered here")
        out[name] = cast(bytes, part.get_payload(decode=True)).decode()
    return out


def _understand(http: HttpRequest, body: bytes, query_id: str) -> _Call:
    fields = _fields(http, body)
    values = fields.values
    statement = read(fields.in_address, fields.in_body)
    request = Request(
        settings={
            "log_comment": query_id,  # the engine gives its own ids; by this one a query can be found and cancelled
            **{n: v for n, v in values.items() if n not in _NOT_SETTINGS and not n.startswith("param_")},
        },
        parameters={n.removeprefix("param_"): v for n, v in values.items() if n.startswith("param_")},
        database=values.get("database") or http.headers.get("x-clickhouse-database", ""),
        readonly=http.method == "GET" or values.get("readonly", "0") != "0",
        session_id=values.get("session_id", ""),
        session_timeout_s=_number(values.get("session_timeout"), SESSION_IDLE_S),
        format=values.get("default_format") or http.headers.get("x-clickhouse-format", "") or "TabSeparated",
    )
    wants_coding = values.get("enable_http_compression", "0") not in ("0", "false")
    waits = values.get("wait_end_of_query", "0") not in ("0", "false")
    streamable = statement.gives_rows and (statement.format or request.format) in STREAMED_FORMATS
    return _Call(
        statement,
        request,
        query_id,
        choose(http.headers.get("accept-encoding", "")) if wants_coding else None,
        waits or not streamable,
    )


def _number(text: str | None, default: float) -> float:
    return float(text) if text and text.isdecimal() else default


def _login(http: HttpRequest) -> tuple[str, str]:
    """User and password from the header pair, HTTP's own scheme, or the address, as the server looks for them."""
    headers = http.headers
    if "x-clickhouse-user" in headers:
        return headers["x-clickhouse-user"], headers.get("x-clickhouse-key", "")
    scheme, _, secret = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "basic":
        with suppress(ValueError):
            user, _, password = b64decode(secret, validate=True).decode().partition(":")
            return user, password
    return http.query_params.get("user", "default"), http.query_params.get("password", "")


def _summary(answer: Answer) -> str:
    values = {
        "read_rows": answer.read_rows,
        "read_bytes": answer.read_bytes,
        "written_rows": answer.written_rows,
        "written_bytes": answer.written_bytes,
        "total_rows_to_read": answer.read_rows,
        "result_rows": answer.result_rows,
        "result_bytes": len(answer.body),
        "elapsed_ns": answer.elapsed_ns,
    }
    return json.dumps({name: str(value) for name, value in values.items()})


def _media_type(call: _Call) -> str:
    name = call.statement.format or call.request.format
    if name.startswith("JSON"):
        return "application/json; charset=UTF-8"
    if name.startswith("CSV"):
        return "text/csv; charset=UTF-8; header=absent"
    return "text/tab-separated-values; charset=UTF-8" if name.startswith("T") else "application/octet-stream"


def _mark(error: StoreError, tag: str) -> bytes:
    """An error inside an answer that has begun, between markers that the head announced."""
    text = error.message.encode() + b"\n"
    size = str(len(text)).encode()
    return (
        b"\r\n__exception__\r\n" + tag.encode() + b"\r\n" + text + size + b" " + tag.encode() + b"\r\n__exception__\r\n"
    )
