"""What faults of the gateway strike: a broker, a gateway process, the network of its clients; and what clients get.

The market is a publisher that goes on whatever happens. Clients are `barograph` clients behind a relay of TCP, which
can stop forwarding, as a network that loses every packet does, and cut what goes through it.
"""

import asyncio
import contextlib
import socket
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import numpy as np

import barograph
from control.tape_admin import TapeAdmin
from runtime.codec import encode_rows
from runtime.errors import BarographError
from runtime.kafka import CheckedProducer
from runtime.settings import Settings
from runtime.tapes import Instrument, Line, Manifest
from schemas import bins
from schemas.columns import empty_table
from schemas.envelope import Envelope, crc32
from schemas.message import Outgoing
from schemas.names import parse_cursor
from schemas.topics import BINS
from tests.integration.chaos.world import Processes

INSTRUMENT: Final = "X:A"
RADIUS: Final = 10
FIELDS: Final = ("bin_seq", "rest_depth")


def value_of(bin_seq: np.ndarray) -> np.ndarray:
    """What the cells of a bin sum up to: told by its number."""
    return bin_seq[:, None] * 10.0 + np.arange(2 * RADIUS + 1)


class Feed:
    """Publishes bins, one to three a message, at a steady rate, through every outage, each once.

    Attributes:
        bins: so many were confirmed or are under way.
    """

    def __init__(self, folder: Path, servers: str, tape: str, rate_hz: float) -> None:
        self._settings, self._servers, self.tape, self._rate_hz = Settings(data_dir=folder), servers, tape, rate_hz
        self._admin = TapeAdmin(self._settings, servers)
        instruments = {INSTRUMENT: Instrument(partition=0, tick_px=1)}
        self._admin.open(Manifest(tape, f"id-{tape}", instruments=instruments), "main", Line("run-1"))
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self.restarts = 0

    def start(self) -> None:
        self._thread.start()

    def finish(self) -> int:
        """No more rows but the end of the tape; the number of bins there are."""
        self._closed.set()
        self._thread.join(120)
        assert not self._thread.is_alive(), "the publisher is stuck"
        self._admin.finish(self._admin.tapes.require(self.tape))
        return self.bins

    def _work(self) -> None:
        seq = 0
        while True:
            try:
                seq = self._publish(CheckedProducer(self._servers), seq)
            except BarographError:
                self.restarts += 1
            else:
                return
            with contextlib.suppress(BarographError):
                newest = CheckedProducer(self._servers).newest(BINS.name(self.tape), 0)
                seq = 0 if newest is None else newest[0] + 1

    def _publish(self, producer: CheckedProducer, seq: int) -> int:
        while not self._closed.wait(1 / self._rate_hz):
            producer.send(self._message(seq))
            producer.flush()
            seq += 1
        producer.send(self._message(seq, end=True))
        producer.flush()
        self.bins = first_bin(seq)
        return seq

    def _message(self, seq: int, *, end: bool = False) -> Outgoing:
        first, rows = first_bin(seq), 0 if end else 1 + seq % 3
        table = empty_table(bins.columns(RADIUS), rows)
        table["bin_seq"] = np.arange(first, first + rows)
        table["ts_end_ns"] = (table["bin_seq"] + 1) * bins.CELL_NS_DEFAULT
        table["bid_depth"] = value_of(table["bin_seq"])
        value = b"" if end else encode_rows(table, bins.columns(RADIUS))
        t_ns, kind = (first + rows) * bins.CELL_NS_DEFAULT, "end" if end else "data"
        envelope = Envelope(kind, "bins", count=rows, t=t_ns, seq=seq, run="run-1", summary="{}" if end else "")  # type: ignore[arg-type]
        return Outgoing(BINS.name(self.tape), 0, INSTRUMENT, value, replace(envelope, crc32=crc32(value)))


def first_bin(seq: int) -> int:
    """Number of a message's first bin: messages have 1, 2, 3, 1, 2, 3, ... of them."""
    return seq // 3 * 6 + (0, 1, 3)[seq % 3]


class Relay:
    """Forwards TCP to a port, unless it is told not to."""

    def __init__(self, to_port: int) -> None:
        self._to_port = to_port
        self._open = asyncio.Event()
        self._open.set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()

    async def start(self) -> int:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return int(self._server.sockets[0].getsockname()[1])

    def freeze(self) -> None:
        """From now on nothing gets through; nobody is told."""
        self._open.clear()

    def thaw(self) -> None:
        self._open.set()

    def cut(self) -> None:
        """What goes through is reset."""
        for writer in tuple(self._writers):
            writer.transport.abort()

    async def close(self) -> None:
        self._server.close()
        self.cut()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._to_port)
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, far_writer}
        pumps = {asyncio.create_task(self._pump(*ends)) for ends in ((reader, far_writer), (far_reader, writer))}
        self._tasks |= pumps
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            self._tasks -= pumps
            self._writers -= {writer, far_writer}
            for each in (writer, far_writer):
                each.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(1 << 16):
                await self._open.wait()
                writer.write(data)
                await writer.drain()


@dataclass
class Copy:
    """What one client has, and what it was told is missing.

    Attributes:
        bins: numbers of the bins, as they came.
        wrong: frames whose cells are not those of their bins.
        gaps: ranges of messages that it was told are missing, each from up to before.
        resumed: times that it went on after a connection.
    """

    bins: list[int] = field(default_factory=list)
    wrong: int = 0
    gaps: list[tuple[int, int]] = field(default_factory=list)
    resumed: int = 0

    async def fill(self, url: str, tape: str, *, digest: bool = True) -> None:
        """Read the tape from its first bin to its end; every digest is compared on the way.

        Raises:
            BarographError: it cannot be read to its end, or what came is not what was sent.
        """
        async with barograph.connect(url, patience_s=120) as client:
            known = {"fields": FIELDS, "dtype": "f64", "policy": "lossless", "start": "bin/0", "digest": digest}
            rows = client.subscribe("grid", tape=tape, instrument=INSTRUMENT, **known)  # type: ignore[arg-type]
            try:
                async for frame in rows:
                    self._take(frame)
            finally:
                self.resumed = rows.resumed
                self.gaps = [(parse_cursor(g["from"]).seq, parse_cursor(g["to"]).seq) for g in rows.gaps]

    def _take(self, frame: barograph.Frame) -> None:
        numbers, cells = frame.to_numpy("bin_seq"), frame.to_numpy("rest_depth")
        self.wrong += not np.array_equal(cells, value_of(numbers))
        self.bins += numbers.tolist()

    def unexplained(self, count: int) -> tuple[int, int]:
        """Bins that are neither here nor in a gap, of so many; and those that came twice, in a gap or out of order."""
        told = {b for first, until in self.gaps for b in range(first_bin(first), first_bin(until))}
        here = set(self.bins)
        twice = len(self.bins) - len(here) + len(here & told) + (self.bins != sorted(self.bins))
        return len(set(range(count)) - here - told), twice


@asynccontextmanager
async def relayed(port: int) -> AsyncIterator[tuple[Relay, str]]:
    """A relay to a port, and the address behind it."""
    relay = Relay(port)
    url = f"ws://127.0.0.1:{await relay.start()}/v1/stream"
    try:
        yield relay, url
    finally:
        await relay.close()


def gateway_of(folder: Path, servers: str, port: int) -> Processes:
    """The gateway as production starts it, always on the same port."""
    argv = ["gateway", "--data", str(folder), "--bootstrap-servers", servers, "--port", str(port)]
    return Processes(folder, lambda _slot: argv, {"BAROGRAPH_LOG_LEVEL": "info"}, "gateway")


def free_port() -> int:
    """A port that nobody has now."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])
