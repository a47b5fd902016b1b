"""The store process: a ClickHouse server for one data folder, made of chdb and the HTTP interface.

chdb lets one process own a folder. Everything that wants SQL therefore talks HTTP to the process that does, with any
ClickHouse client, and never knows whether a real server answers. Here are its life: bind, own the folder, serve,
answer what has begun, leave. `running_store` gives the same store inside the calling process, for commands that need
one for a moment and tests.

    store_sql       where a statement ends and its data begins; error codes      (no I/O)
    store_admission what strangers may ask                                       (no I/O)
    store_codings   content codings of bodies                                    (no I/O)
    store_arrow     Arrow answers in pieces                                      (no I/O)
    store_engine    chdb: handles, sessions, settings
    store_http      the interface over it
"""

import asyncio
import logging
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import uvicorn

from control.embedded.store_engine import StoreEngine
from control.embedded.store_http import CheckLogin, make_app
from runtime.endpoints import is_loopback
from runtime.errors import MissingServiceError, PortTakenError, UsageError

log = logging.getLogger(__name__)

FOLDER: Final = "store"
"""The store's folder within the data folder. Nothing is written outside of it."""

ANSWER_S: Final = 3.0
"""How long statements that have begun may run on after the signal to leave; then they are cancelled and their clients
told so. A supervisor kills after 10 s and an insert takes less than one: longer would turn an orderly stop into a kill,
much shorter would cut off inserts under load."""

LEAVE_S: Final = 7
"""How long open requests may take in all, from the signal on; above `ANSWER_S` so that cancelled ones are answered."""

START_S: Final = 60.0
"""How long a store in this process may take to open its folder; many parts on a cold disk take some seconds."""

HEAD_BYTES_MAX: Final = 1 << 20
"""Longest request head: people put whole statements into the address, and h11's 16 KiB would refuse them."""


class EmbeddedStore:
    """A store on a data folder, bound to a port but not yet open.

    Args:
        data_dir: the data folder; the store's own is `store` in it.
        port: port to listen on; 0 takes a free one.
        host: address to bind; anything but loopback needs `check_login`.
        check_login: whether user and password may use the store; None: everybody who reaches it.
        reader_at: `HOST:PORT` of a second address, at which whoever asks is the reader; empty: none.

    Raises:
        PortTakenError: another process listens there.
        UsageError: an address that others reach, without `check_login`.
    """

    def __init__(
        self,
        data_dir: Path,
        port: int = 0,
        host: str = "127.0.0.1",
        check_login: CheckLogin | None = None,
        reader_at: str = "",
    ) -> None:
        if check_login is None and not is_loopback(host):
            raise UsageError(f"the store would answer everybody at {host}", remedy="bind 127.0.0.1, or set a password")
        self.folder = data_dir / FOLDER
        self.host = host
        self._check_login = check_login
        self._socket = _bind(host, port)
        self.port: int = self._socket.getsockname()[1]
        self._sockets = [self._socket]
        self.reader_port: int | None = None
        if reader_at:
            reader_host, _, reader_port = reader_at.rpartition(":")
            try:
                self._sockets.append(_bind(reader_host.strip("[]"), int(reader_port)))
            except BaseException:
                self._socket.close()
                raise
            self.reader_port = self._sockets[1].getsockname()[1]
        self._server: _Server | None = None
        self._leaving = False

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://{self.host}:{self.port}"

    def serve(self, on_ready: Callable[[], None] | None = None) -> None:
        """Own the folder and answer until SIGTERM, SIGINT or `stop`; then end what has begun and leave.

        Args:
            on_ready: called once, when requests are answered.

        Raises:
            FolderInUseError: another process has the folder open.
        """
        try:
            engine = StoreEngine(self.folder)
            try:
                config = uvicorn.Config(
                    make_app(engine, self._check_login, self.reader_port),
                    log_config=None,
                    access_log=False,
                    lifespan="off",
                    http="h11",
                    ws="none",
                    h11_max_incomplete_event_size=HEAD_BYTES_MAX,
                    timeout_graceful_shutdown=LEAVE_S,
                )
                self._server = _Server(config, on_ready)
                with _signals(self.stop):
                    asyncio.run(self._run(engine))
            finally:
                engine.close()
        finally:
            for bound in self._sockets:
                bound.close()

    async def _run(self, engine: StoreEngine) -> None:
        assert self._server is not None
        self._server.should_exit = self._leaving
        watch = asyncio.create_task(self._interrupt_late(engine, self._server))
        await self._server.serve(sockets=self._sockets)
        watch.cancel()

    @staticmethod
    async def _interrupt_late(engine: StoreEngine, server: uvicorn.Server) -> None:
        """Cancel statements that outlast the signal to leave; their threads would keep the process."""
        while not server.should_exit:
            await asyncio.sleep(0.2)
        await asyncio.sleep(ANSWER_S)
        await asyncio.to_thread(engine.interrupt)

    def stop(self) -> None:
        """Ask `serve` to return; may be called from any thread and from a signal handler."""
        self._leaving = True
        if self._server is not None:
            self._server.should_exit = True


class _Server(uvicorn.Server):
    """uvicorn without its signal handling, which would send the signal once more after an orderly end."""

    def __init__(self, config: uvicorn.Config, on_ready: Callable[[], None] | None) -> None:
        super().__init__(config)
        self._on_ready = on_ready

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self._on_ready is not None and self.started:
            self._on_ready()


@contextmanager
def running_store(data_dir: Path) -> Iterator[str]:
    """A store in this process, on a free port, for the time of a `with`; gives its address.

    Raises:
        FolderInUseError: another process has the folder open; ask that one.
    """
    store = EmbeddedStore(data_dir)
    ready, failure = threading.Event(), list[BaseException]()

    def run() -> None:
        try:
            store.serve(ready.set)
        except BaseException as error:
            failure.append(error)
        finally:
            ready.set()

    thread = threading.Thread(target=run, name="store")
    thread.start()
    try:
        if not ready.wait(START_S):
            raise MissingServiceError(
                f"the store did not open {store.folder} within {START_S:g} s", remedy="look at the disk, then try again"
            )
        if failure:
            raise failure[0]
        yield store.url
    finally:
        store.stop()
        thread.join()


def _bind(host: str, port: int) -> socket.socket:
    # The protocol is named because asyncio turns Nagle's algorithm off only where it is: otherwise every answer on a
    # kept connection waits 40 ms for the client's delayed acknowledgement.
    bound = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
    except OSError as error:
        bound.close()
        raise PortTakenError(host, port) from error
    os.set_inheritable(bound.fileno(), False)
    return bound


@contextmanager
def _signals(stop: Callable[[], None]) -> Iterator[None]:
    """SIGTERM and SIGINT ask to stop, where this thread may say so; the former handlers come back afterwards."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, lambda *_: stop()) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
