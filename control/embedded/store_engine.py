"""The ClickHouse engine as a library (chdb), behind calls that know sessions, settings and parameters.

What chdb allows, as measured with 4.4: one process per folder and one folder per process; any number of handles on it,
each with its own settings, at work at once and without Python's lock (a count takes 3 ms while another handle computes
for 10 s). A handle that has a stream open gives empty answers to others, so a handle serves one call at a time. To
open and close one takes 1 ms. So every request gets a fresh handle, and with it what a ClickHouse server gives: no
trace of earlier requests. A request that names a session gets the handle kept for it, unless it may only read.

The data of an insert is a file in memory, which the engine reads in one piece.
"""

import logging
import os
import re
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import chdb

from control.embedded.folder_lock import FolderLock
from control.embedded.store_arrow import END, ArrowJoiner, PieceError
from control.embedded.store_sql import SESSION_IS_LOCKED, Statement, engine_error, refusal
from runtime.errors import BarographError

log = logging.getLogger(__name__)

SESSIONS_MAX: Final = 256
"""Sessions kept at once. clickhouse-connect opens one per client; a handle costs below 1 MiB. Fewer would make busy
clients lose temporary tables, far more would keep those of clients that left without a word."""

SESSION_IDLE_S: Final = 60.0
"""How long an idle session is kept unless the client says otherwise: the server's own default."""

_DEFAULTS: Final[Mapping[str, str]] = {
    "session_timezone": "UTC",
    "use_structure_from_insertion_table_in_table_functions": "1",
}
"""Settings of every handle: times mean UTC whatever the machine's zone is, and data of an insert has the columns of
its table."""

_NAME: Final = re.compile(r"[A-Za-z_]\w*")

_JOINED: Final = frozenset({"Native", "TabSeparated", "TSV", "CSV", "RowBinary", "JSONEachRow"})
"""Formats without a head or foot: the pieces that chdb gives, joined, are the whole."""

_ARROW: Final = "ArrowStream"

STREAMED_FORMATS: Final = _JOINED | {_ARROW}
"""Formats in which an answer can leave piece by piece."""


@dataclass(frozen=True, slots=True)
class Request:
    """What a statement is executed with.

    Attributes:
        settings: engine settings for this statement.
        parameters: query parameters without their `param_`, values in the server's escaped form.
        database: default database; empty: `default`.
        readonly: refuse statements that write.
        strict: with `readonly`, refuse also statements that change a setting.
        session_id: session to execute in; empty: none.
        session_timeout_s: how long that session is kept when idle.
        format: output format if the statement names none.
    """

    settings: Mapping[str, str] = field(default_factory=dict)
    parameters: Mapping[str, str] = field(default_factory=dict)
    database: str = ""
    readonly: bool = False
    strict: bool = False
    session_id: str = ""
    session_timeout_s: float = SESSION_IDLE_S
    format: str = "TabSeparated"


@dataclass(frozen=True, slots=True)
class Answer:
    """The outcome of a statement: its bytes and what it cost, under the names of `X-ClickHouse-Summary`."""

    body: bytes = b""
    read_rows: int = 0
    read_bytes: int = 0
    written_rows: int = 0
    written_bytes: int = 0
    result_rows: int = 0
    elapsed_ns: int = 0


@dataclass(slots=True)
class _Session:
    handle: Any
    busy: threading.Lock = field(default_factory=threading.Lock)
    expires_s: float = 0.0


class StoreEngine:
    """The engine on one folder.

    Args:
        folder: its folder; made if need be.

    Raises:
        FolderInUseError: another process has it open.
        BarographError: this process has another store open, or the engine cannot read the folder.
    """

    def __init__(self, folder: Path) -> None:
        self._lock = FolderLock(folder, "a store")  # chdb locks it too, but does not say so in words
        self._lock.acquire()
        self._path = str(folder.resolve())
        self._files = Path.cwd()  # the engine's `default` database shows the files below the folder it was started in
        try:
            self._root = chdb.connect(self._path)  # keeps the engine alive between requests
        except RuntimeError as error:
            self._lock.release()
            raise BarographError(
                f"the store in {folder} does not open: {str(error)[:300]}",
                remedy="one process opens one store; if this one has no other open, look at the disk",
            ) from error
        self._sessions: dict[str, _Session] = {}
        self._guard = threading.Lock()
        self.version = self.run(Statement("SELECT version()", "SELECT", None, None), Request()).body.decode().strip()

    def run(self, statement: Statement, request: Request) -> Answer:
        """Execute a statement and give its whole answer.

        Raises:
            StoreError: the engine refused it.
        """
        with self._handle(request) as handle:
            if statement.data is not None:
                return self._insert(handle, statement)
            result = _call(handle.query, statement.text, request.format, params=dict(request.parameters))
            return Answer(
                bytes(result.bytes() or b""),
                result.storage_rows_read(),
                result.storage_bytes_read(),
                result.rows_written(),
                result.bytes_written(),
                result.rows_read(),
                int(result.elapsed() * 1e9),
            )

    def syntax_tree(self, statement: Statement, request: Request) -> str:
        """How the engine reads a statement, parameters put in; nothing is executed.

        Raises:
            StoreError: it cannot be read.
        """
        explained = Statement(f"EXPLAIN AST {statement.text}", "EXPLAIN", None, None)
        return self.run(explained, replace(request, format="TSVRaw")).body.decode(errors="replace")

    def written(self, statement: Statement) -> str:
        """A statement in one line as the engine writes it: names and texts in quotes and escaped, no comments.

        Raises:
            StoreError: it cannot be read.
        """
        asked = Statement("SELECT formatQuerySingleLine({statement:String})", "SELECT", None, None)
        value = statement.text.replace("\\", "\\\\").replace("\t", "\\t").replace("\n", "\\n").replace("\r", "\\r")
        request = Request({}, {"statement": value}, readonly=True, strict=True, format="TSVRaw")
        return self.run(asked, request).body.decode(errors="replace").removesuffix("\n")

    def names_a_file(self, name: str) -> bool:
        """Whether a relative name is a file's, which the engine would read as a table."""
        return os.path.lexists(self._files / name)

    def stream(self, statement: Statement, request: Request) -> Iterator[bytes]:
        """Execute a query and give its answer piece by piece; the format is one of `STREAMED_FORMATS`.

        Raises:
            StoreError: the engine refused it, or failed on the way.
        """
        name = statement.format or request.format
        if name == _ARROW:
            yield from self._arrow(statement, request)
        else:
            yield from self._pieces(statement, request, name)

    def _arrow(self, statement: Statement, request: Request) -> Iterator[bytes]:
        """One Arrow stream. An answer without rows has no pieces, but columns; then it is asked for whole."""
        joiner = ArrowJoiner()
        for piece in self._pieces(statement, request, _ARROW):
            try:
                yield joiner.add(piece)
            except PieceError as error:
                raise engine_error(f"Code: 1001. DB::Exception: {error}. (STD_EXCEPTION)") from error
        yield END if joiner.begun else self.run(statement, replace(request, format=_ARROW)).body

    def _pieces(self, statement: Statement, request: Request, name: str) -> Iterator[bytes]:
        with self._handle(request) as handle:
            pieces = _call(handle.send_query, statement.text, name, params=dict(request.parameters))
            try:
                while (piece := _call(next, pieces, None)) is not None:
                    yield bytes(piece.bytes() or b"")
            finally:
                with suppress(Exception):
                    pieces.close()

    def interrupt(self) -> None:
        """Make running statements fail soon."""
        with suppress(Exception):
            self._root.query("KILL QUERY WHERE query NOT LIKE 'KILL QUERY%' ASYNC", "TSV")

    def close(self) -> None:
        """Leave the folder. Nothing may be running."""
        with self._guard:
            for session in self._sessions.values():
                session.handle.close()
            self._sessions.clear()
        self._root.close()
        self._lock.release()

    def _insert(self, handle: Any, statement: Statement) -> Answer:
        """Insert data as the engine reads a file, which is one in memory.

        chdb's own streaming inserter says that rows are written where the table refused them (no space, too many
        parts, a constraint): it tells errors of the data only. A query tells them all.
        """
        if not statement.data:
            return Answer()
        descriptor = os.memfd_create("insert")
        try:
            with os.fdopen(os.dup(descriptor), "wb") as file:
                file.write(statement.data)
            source = f"file('/proc/self/fd/{descriptor}', '{statement.format}')"
            done = _call(handle.query, f"{statement.text} SELECT * FROM {source}", "TSV")
        finally:
            os.close(descriptor)
        return Answer(
            written_rows=done.rows_written(),
            written_bytes=done.bytes_written(),
            elapsed_ns=int(done.elapsed() * 1e9),
        )

    @contextmanager
    def _handle(self, request: Request) -> Iterator[Any]:
        """A handle on which the request's settings hold, and on which nobody else works."""
        if not request.session_id or request.readonly:  # readonly cannot be taken back from a handle
            handle = chdb.connect(self._path)
            try:
                self._prepare(handle, {**_DEFAULTS, **_wanted(request)}, request.database)
                yield handle
            finally:
                handle.close()
            return
        session = self._session(request)
        wanted = _wanted(request)
        try:
            self._prepare(session.handle, wanted, request.database)
            yield session.handle
        finally:
            self._forget(session.handle, wanted)
            session.expires_s = time.monotonic() + request.session_timeout_s
            session.busy.release()

    def _session(self, request: Request) -> _Session:
        """The session that the request names, taken; idle ones that are over are closed on the way."""
        with self._guard:
            now = time.monotonic()
            idle = sorted((s.expires_s, name) for name, s in self._sessions.items() if not s.busy.locked())
            surplus = len(self._sessions) - SESSIONS_MAX + 1
            for at, (expires_s, name) in enumerate(idle):
                if name != request.session_id and (expires_s < now or at < surplus):
                    self._sessions.pop(name).handle.close()
            session = self._sessions.get(request.session_id)
            if session is None:
                handle = chdb.connect(self._path)
                self._prepare(handle, _DEFAULTS, "")
                session = self._sessions[request.session_id] = _Session(handle)
            if not session.busy.acquire(blocking=False):
                raise refusal(
                    SESSION_IS_LOCKED,
                    "SESSION_IS_LOCKED",
                    f"Session {request.session_id} is locked by a concurrent client",
                )
            return session

    @staticmethod
    def _prepare(handle: Any, settings: Mapping[str, str], database: str) -> None:
        if database:
            _call(handle.query, "USE `" + database.replace("\\", "\\\\").replace("`", "\\`") + "`", "TSV")
        for name in settings:
            if not _NAME.fullmatch(name):
                raise refusal(115, "UNKNOWN_SETTING", f"Unknown setting {name!r}")
        # readonly last: after it, no setting could be changed.
        for text in _set_statements(settings):
            _call(handle.query, text, "TSV")

    @staticmethod
    def _forget(handle: Any, settings: Mapping[str, str]) -> None:
        for name in settings:
            with suppress(Exception):
                handle.query(f"SET {name} = DEFAULT", "TSV")


def _wanted(request: Request) -> dict[str, str]:
    return {**request.settings, **({"readonly": "1" if request.strict else "2"} if request.readonly else {})}


def _set_statements(settings: Mapping[str, str]) -> list[str]:
    plain = ", ".join(f"{name} = {_literal(value)}" for name, value in settings.items() if name != "readonly")
    out = [f"SET {plain}"] if plain else []
    return [*out, f"SET readonly = {_literal(settings['readonly'])}"] if "readonly" in settings else out


def _literal(value: str) -> str:
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _call(function: Any, *args: Any, **kwargs: Any) -> Any:
    """Call into the engine; its errors become ours."""
    try:
        return function(*args, **kwargs)
    except (RuntimeError, chdb.ChdbError) as error:
        raise engine_error(str(error)) from error
