"""Bench `gateway`: what a frame costs for a hundred and a thousand clients, what a connection holds, how old it is.

The server is the gateway itself in this process, with rows that the bench publishes; clients are a process of their own
(`gateway_readers`), whose time is not counted. Beside it the same bytes go out by a blocking `sendall` on bare sockets,
and by `websockets.broadcast`, in turns with ours. Every run ends when every client has every frame, and the first
client's payloads must hash to what the encoder made.
"""

import asyncio
import json
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from hashlib import sha256
from pathlib import Path
from time import process_time_ns
from typing import Any, Final

import numpy as np
import pyarrow as pa
from websockets.asyncio.server import ServerConnection, broadcast
from websockets.asyncio.server import serve as listen
from websockets.frames import Frame as WsFrame
from websockets.frames import Opcode
from websockets.typing import Subprotocol

from control.bench.gateway_readers import Readers
from control.bench.measure import Bound, Figure, Row
from control.bench.oracle import WrongAnswerError
from control.bench.session import Case, Session
from control.tape_admin import TapeAdmin
from runtime.codec import encode_rows
from runtime.kafka import CheckedProducer
from runtime.settings import Settings
from runtime.tapes import Instrument, Line, new_tape
from schemas import bins, streams
from schemas.columns import Column, empty_table, row_dtype
from schemas.envelope import Envelope, crc32
from schemas.message import Outgoing
from schemas.streams import StreamSpec
from schemas.topics import BINS, TopicSpec
from ws_gateway.fanout import Hub, Name, Tape
from ws_gateway.frames import HEADER, Block, Encoder, Flag, Kind, Layout, Piece, pack_header
from ws_gateway.packed import pack
from ws_gateway.protocol import PROTOCOL
from ws_gateway.server import Gateway, serve

FRAME_BYTES: Final = 20_480
"""Size of a frame: a grid row of twenty vectors of some 250 cells."""

TAPE, INSTRUMENT = "bench", "BENCH:X"
NAME: Final = Name(TAPE, "main", "bins", INSTRUMENT)
FIELDS: Final = bins.FLOAT_VECTORS
ROUND: Final = 4
"""Frames between two looks whether every client has them: readers on the same cores must not fall behind, since what
waits in full buffers is another measurement."""

WIDE: Final = 2_001
LISTS: Final = 30


class Feed:
    """A feeder that publishes what the bench tells it to."""

    ready = True

    def start(self, hub: Hub, on_failure: Callable[[Exception], None]) -> None:
        """Take over the hub."""
        self.hub = hub
        hub.set_tapes({TAPE: Tape("bench", ("main",), (INSTRUMENT,))})

    def stop(self) -> None:
        """Nothing runs."""


def blocks_of(count: int, radius: int, first: int = 0) -> list[Block]:
    """Bins of one row each, every cell a number of its own."""
    rng, row = np.random.default_rng(7), row_dtype(bins.columns(radius))
    out = []
    for seq in range(first, first + count):
        table = empty_table(bins.columns(radius), 1)
        table["bin_seq"][0] = seq
        for name in FIELDS:
            table[name][0] = rng.random(2 * radius + 1)
        packed = pack(table, row)  # as the feeder makes them
        out.append(Block(seq, 0, packed, packed.nbytes, -1, seq * bins.CELL_NS_DEFAULT, "bench", "ts_end_ns"))
    return out


def layout_of(frame_bytes: int) -> Layout:
    """The widest grid whose frames do not exceed a size."""
    radius = frame_bytes // (len(FIELDS) * 8)
    while True:
        layout = Layout("grid", FIELDS, radius, "f32")
        (block,) = blocks_of(1, radius)
        if HEADER.size + len(Encoder(layout).frame([Piece(block, 0, 1)]).payload) <= frame_bytes:
            return layout
        radius -= 1


def subscribe_text(layout: Layout, start: str = "live") -> str:
    """What a client sends to get frames of a layout, every one of them."""
    asked = {"op": "subscribe", "id": 1, "stream": layout.stream, "tape": TAPE, "instrument": INSTRUMENT}
    known = {"fields": list(layout.fields), "radius": layout.radius, "policy": "lossless", "from": start}
    return json.dumps({**asked, **known})


@asynccontextmanager
async def running() -> AsyncIterator[tuple[Gateway, int]]:
    """The gateway on a free port."""
    gateway, stop = Gateway(Feed()), asyncio.Event()
    port: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    task = asyncio.create_task(gateway.run("127.0.0.1", 0, stop, port.set_result))
    try:
        yield gateway, await port
    finally:
        stop.set()
        await task


# ---- fan-out ---------------------------------------------------------------------------------------------------------


class Fanout:
    """The same frames to the same number of clients, three ways.

    Args:
        clients: how many.
        frames: how many each gets in a run.
    """

    def __init__(self, clients: int, frames: int) -> None:
        self.clients, self.frames = clients, frames
        self.layout = layout_of(FRAME_BYTES)
        self.blocks = blocks_of(frames + 1, self.layout.radius)
        encoder = Encoder(self.layout)
        payloads = [encoder.frame([Piece(block, 0, 1)]).payload for block in self.blocks]
        self.messages = [pack_header(Kind.BATCH, Flag.NONE, 1, n, 0, 0) + p for n, p in enumerate(payloads[1:], 1)]
        self.bytes = len(self.messages[0])
        self._hash_ours = sha256(b"".join(payloads)).hexdigest()
        self._hash_bare = sha256(b"".join(payloads[1:])).hexdigest()

    def ours(self) -> float:
        """The gateway; seconds of this process."""
        return asyncio.run(self._ours())

    async def _ours(self) -> float:
        with Readers() as readers:
            async with running() as (gateway, port):
                gateway.hub.publish(NAME, self.blocks[0], time.monotonic_ns())
                text = subscribe_text(self.layout)
                await asyncio.to_thread(readers.ask, "connect", port=port, count=self.clients, subscribe=text)
                await asyncio.to_thread(readers.ask, "read", frames=1)
                begin = process_time_ns()
                for number, block in enumerate(self.blocks[1:], 1):
                    gateway.hub.publish(NAME, block, time.monotonic_ns())
                    await asyncio.sleep(0)
                    if number % ROUND == 0 or number == self.frames:
                        answer = await asyncio.to_thread(readers.ask, "read", frames=number + 1)
                taken = process_time_ns() - begin
                await asyncio.to_thread(readers.ask, "close")
        self._check("the gateway", answer["hash"], self._hash_ours)
        return taken / 1e9

    def broadcast(self) -> float:
        """`websockets.broadcast` to connections of the same library."""
        return asyncio.run(self._broadcast())

    async def _broadcast(self) -> float:
        known: set[ServerConnection] = set()

        async def serve_one(connection: ServerConnection) -> None:
            known.add(connection)
            await connection.wait_closed()

        subprotocols = [Subprotocol(PROTOCOL)]
        with Readers() as readers:
            async with listen(serve_one, "127.0.0.1", 0, compression=None, subprotocols=subprotocols) as server:
                port = next(iter(server.sockets)).getsockname()[1]
                text = subscribe_text(self.layout)
                await asyncio.to_thread(readers.ask, "connect", port=port, count=self.clients, subscribe=text)
                begin = process_time_ns()
                for number, message in enumerate(self.messages, 1):
                    broadcast(known, message)
                    await asyncio.sleep(0)
                    if number % ROUND == 0 or number == self.frames:
                        answer = await asyncio.to_thread(readers.ask, "read", frames=number)
                taken = process_time_ns() - begin
                await asyncio.to_thread(readers.ask, "close")
        self._check("broadcast", answer["hash"], self._hash_bare)
        return taken / 1e9

    def sendall(self) -> float:
        """A blocking `sendall` of ready-made bytes to each bare socket in turn."""
        data = [WsFrame(Opcode.BINARY, m).serialize(mask=False) for m in self.messages]
        with Readers() as readers, socket.create_server(("127.0.0.1", 0), backlog=self.clients) as server:
            port = server.getsockname()[1]
            readers.ask("connect", port=port, count=self.clients, subscribe=None)
            sockets = [server.accept()[0] for _ in range(self.clients)]
            for sock in sockets:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            begin = process_time_ns()
            for number, message in enumerate(data, 1):
                for sock in sockets:
                    sock.sendall(message)
                if number % ROUND == 0 or number == self.frames:
                    answer = readers.ask("read", frames=number)
            taken = process_time_ns() - begin
            readers.ask("close")
            for sock in sockets:
                sock.close()
        self._check("sendall", answer["hash"], self._hash_bare)
        return taken / 1e9

    def _check(self, who: str, got: str, wanted: str) -> None:
        if got != wanted:
            raise WrongAnswerError(f"fanout_{self.clients}", f"by {who} a client got other bytes than were encoded")


def fanout(clients: int, frames: int) -> Callable[[Session], list[Row]]:
    """Measure one number of clients."""

    def measure(session: Session) -> list[Row]:
        number, each = session.scaled(clients // 10, clients), session.scaled(12, frames)
        run = Fanout(number, each)
        ours, bare, library = session.interleave([run.ours, run.sendall, run.broadcast])
        sent = number * each
        told = {"clients": number, "frames_a_client": each, "frame_bytes": run.bytes}
        name, unit, aim = f"fanout_{clients}", "frames/server CPU s", Bound(">=", 110e3)
        rate = ours.per_second(sent)
        return [
            Row(name, rate, unit, "sendall", bare.per_second(sent), gate=Bound(">=", 0.75), aim=aim, conditions=told),
            Row(
                f"{name}_vs_broadcast", rate, unit, "websockets_broadcast", library.per_second(sent),
                gate=Bound(">=", 1.2), conditions=told,
            ),
        ]  # fmt: skip

    return measure


# ---- one frame -------------------------------------------------------------------------------------------------------


@contextmanager
def _wide_stream() -> Iterator[str]:
    """A stream of thirty lists, declared for as long as it is measured."""
    topic = TopicSpec("bench-wide", "line", 1, "instrument", "Arrow", "bench", ())
    columns = (Column("ts_ns", "i8", "ns", ""), *(Column(f"v{n}", "f4", "1", "", WIDE) for n in range(LISTS)))
    streams.DECLARED[topic.stream] = StreamSpec(topic, columns, "ts_ns", tuple(c.name for c in columns))
    try:
        yield topic.stream
    finally:
        del streams.DECLARED[topic.stream]


def _batch_of(block: Block, schema: pa.Schema) -> pa.RecordBatch:
    """A block's row as pyarrow makes it of the arrays, cursor and all."""
    table = {**block.table, "seq": np.array([block.seq]), "part": np.array([0], "i4"), "row": np.array([0], "i4")}
    arrays = []
    for field in schema:
        values = pa.array(table[field.name].ravel())
        lists = pa.types.is_fixed_size_list(field.type)
        arrays.append(pa.FixedSizeListArray.from_arrays(values, type=field.type) if lists else values)
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def frame_encode(session: Session) -> list[Row]:
    """One grid row of thirty lists of 2,001 f32, beside a stream written by pyarrow, schema and all."""
    count = session.scaled(20, 500)
    with _wide_stream() as name:
        columns = streams.DECLARED[name].columns
        encoder = Encoder(Layout(name, tuple(c.name for c in columns), 0, "f32"))
        rng, row = np.random.default_rng(3), row_dtype(columns)
        blocks = []
        for seq in range(count):
            table = empty_table(columns, 1)
            for n in range(LISTS):
                table[f"v{n}"][0] = rng.random(WIDE, "f4")
            blocks.append(Block(seq, 0, pack(table, row), 0))

        def ours() -> float:
            encoder._cache.clear()
            begin = process_time_ns()
            for block in blocks:  # nobody keeps what was made: neither here nor below
                encoder.frame([Piece(block, 0, 1)])
            return (process_time_ns() - begin) / 1e9

        batches = [_batch_of(block, encoder.schema) for block in blocks]

        def pyarrow() -> float:
            begin = process_time_ns()
            for batch in batches:
                sink = pa.BufferOutputStream()
                with pa.ipc.new_stream(sink, encoder.schema) as writer:
                    writer.write_batch(batch)
                sink.getvalue()
            return (process_time_ns() - begin) / 1e9

        ours_s, base_s = session.interleave([ours, pyarrow])
        for block, batch in zip(blocks, batches, strict=True):
            payload = encoder.frame([Piece(block, 0, 1)]).payload
            if not pa.ipc.read_record_batch(payload, encoder.schema).equals(batch):
                raise WrongAnswerError("frame_encode", "a frame read back differs from its rows")
    told = {"lists": LISTS, "cells": WIDE, "rows": count}
    return [
        Row(
            "frame_encode", ours_s.times(1e6 / count), "µs", "pyarrow_stream_with_schema", base_s.times(1e6 / count),
            gate=Bound("<=", 0.7), aim=Bound("<=", 15), conditions=told,
        )
    ]  # fmt: skip


# ---- connections -----------------------------------------------------------------------------------------------------


def rss_bytes() -> int:
    """Resident memory of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


async def memory_of(connections: int) -> float:
    """KiB of this process for each of so many subscribed connections; a fresh process measures."""
    layout = layout_of(FRAME_BYTES)
    with Readers() as readers:
        async with running() as (gateway, port):
            gateway.hub.publish(NAME, blocks_of(1, layout.radius)[0], time.monotonic_ns())
            known = {"port": port, "subscribe": subscribe_text(layout)}
            await asyncio.to_thread(readers.ask, "connect", count=20, **known)
            await asyncio.to_thread(readers.ask, "read", frames=1)
            before = rss_bytes()
            await asyncio.to_thread(readers.ask, "connect", count=connections, **known)
            await asyncio.to_thread(readers.ask, "read", frames=1)
            await asyncio.sleep(0.5)
            after = rss_bytes()
            await asyncio.to_thread(readers.ask, "close")
    return (after - before) / 1024 / connections


def connection_memory(session: Session) -> list[Row]:
    """What a subscribed connection holds in the server, without the kernel's buffers."""
    count = session.scaled(50, 1_000)
    code = f"import asyncio; from control.bench.gateway_bench import memory_of; print(asyncio.run(memory_of({count})))"
    root = Path(__file__).parent.parent.parent
    samples = []
    for _ in range(session.scaled(1, min(3, session.runs))):
        done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
        samples.append(float(done.stdout))
    return [
        Row(
            "connection_memory", Figure(tuple(samples)), "KiB/connection", gate=Bound("<=", 6),
            conditions={"connections": count},
        )
    ]  # fmt: skip


def reconnect_1000(session: Session) -> list[Row]:
    """A thousand clients that come back within a second, each with the cursor of a row that the ring has."""
    count, within_s = session.scaled(50, 1_000), session.scaled(1, 10) / 10

    def once() -> float:
        return asyncio.run(_reconnect(count, within_s))

    samples = tuple(once() for _ in range(session.scaled(1, session.runs)))
    told = {"clients": count, "within_s": within_s, "frame_bytes": FRAME_BYTES}
    return [Row("reconnect_1000", Figure(samples), "s p99 wall", gate=Bound("<=", 2), conditions=told)]


async def _reconnect(count: int, within_s: float) -> float:
    layout = layout_of(FRAME_BYTES)
    with Readers() as readers:
        async with running() as (gateway, port):
            for block in blocks_of(20, layout.radius):
                gateway.hub.publish(NAME, block, time.monotonic_ns())
            text = subscribe_text(layout, str(NAME_CURSOR))
            known = {"port": port, "count": count, "subscribe": text, "within_s": within_s}
            connected = await asyncio.to_thread(readers.ask, "connect", **known)
            answer = await asyncio.to_thread(readers.ask, "read", frames=1)
            await asyncio.to_thread(readers.ask, "close")
    if connected["connected"] != count:
        raise WrongAnswerError("reconnect_1000", "not every client came back")
    return float(np.percentile(answer["first_frame_s"], 99))


NAME_CURSOR: Final = f"{TAPE}/main/grid/BENCH%3AX/10.0.0"


# ---- age -------------------------------------------------------------------------------------------------------------


def frame_age(session: Session) -> list[Row]:
    """From the stamp of a message of the bins topic to the send of its frame, through broker and gateway."""
    count = session.scaled(40, 1_000)
    ages = asyncio.run(_ages(session, count))
    told = {"frames": len(ages), "every_ms": 20, "clients": 1}
    p50, p99 = (Figure((float(np.percentile(ages, p)) / 1000,)) for p in (50, 99))
    return [
        Row("frame_age_p50", p50, "ms", aim=Bound("<=", 5), conditions=told),
        Row("frame_age_p99", p99, "ms", aim=Bound("<=", 20), conditions=told),
    ]


async def _ages(session: Session, count: int) -> list[int]:
    from websockets.asyncio.client import connect

    settings, servers = Settings(data_dir=session.folder() / "gateway"), session.kafka()
    tape = new_tape(TAPE, instruments={INSTRUMENT: Instrument(0, 1)})
    TapeAdmin(settings, servers).open(tape, "main", Line("bench"))
    producer, columns = CheckedProducer(servers, {"linger.ms": 0}), bins.columns()
    values = [encode_rows(block.table, columns) for block in blocks_of(count, bins.RADIUS_DEFAULT)]

    def publish(seq: int) -> None:
        value = values[seq]
        envelope = Envelope(
            "data", "bins", count=1, crc32=crc32(value), t=seq, arrived=time.time_ns(), seq=seq, run="bench"
        )
        producer.send(Outgoing(BINS.name(TAPE), 0, INSTRUMENT, value, envelope))
        producer.flush()

    stop, port = asyncio.Event(), asyncio.get_running_loop().create_future()
    task = asyncio.create_task(
        serve(
            host="127.0.0.1", port=0, bootstrap_servers=servers, state=settings.state_location, allowed_origins=(),
            stop=stop, on_ready=port.set_result,
        )
    )  # fmt: skip
    url = f"ws://127.0.0.1:{await port}/v1/stream"
    try:
        await asyncio.to_thread(publish, 0)
        await _until_listed(url)
        async with connect(url, subprotocols=[Subprotocol(PROTOCOL)], compression=None, max_size=None) as client:
            asked = {"stream": "grid", "tape": TAPE, "instrument": INSTRUMENT, "from": "bin/0", "policy": "lossless"}
            await client.send(json.dumps({"op": "subscribe", "id": 1, **asked}))
            reading = asyncio.create_task(_read_ages(client, count))
            due_s = time.monotonic()
            for seq in range(1, count):
                due_s += 0.02
                await asyncio.sleep(max(0.0, due_s - time.monotonic()))
                await asyncio.to_thread(publish, seq)
            return await asyncio.wait_for(reading, 60)
    finally:
        stop.set()
        await task


async def _until_listed(url: str) -> None:
    from websockets.asyncio.client import connect

    for _ in range(100):
        async with connect(url, subprotocols=[Subprotocol(PROTOCOL)], compression=None) as client:
            if TAPE in json.loads(await client.recv())["tapes"]:
                return
        await asyncio.sleep(0.2)
    raise WrongAnswerError("frame_age", "the gateway does not list the tape")


async def _read_ages(client: Any, count: int) -> list[int]:
    """Ages of the frames of live rows, µs; all rows must come, in order."""
    ages: list[int] = []
    seen: list[int] = []
    schema = b""
    while len(seen) < count:
        message = await client.recv()
        if isinstance(message, str):
            continue
        head = HEADER.unpack_from(message)
        if head[1] == Kind.SCHEMA:
            schema = message[HEADER.size :]
        elif head[1] == Kind.BATCH:
            seen += pa.ipc.open_stream(schema + message[HEADER.size :]).read_all()["bin_seq"].to_pylist()
            if not head[2] & Flag.REPLAYED:
                ages.append(head[6])
    if seen != list(range(count)):
        raise WrongAnswerError("frame_age", "rows are missing or out of order")
    return ages


def _rows(names: Sequence[str]) -> tuple[str, ...]:
    return tuple(row for name in names for row in (name, f"{name}_vs_broadcast"))


CASES: Final = (
    Case("fanout_100", _rows(["fanout_100"]), fanout(100, 100)),
    Case("fanout_1000", _rows(["fanout_1000"]), fanout(1_000, 20)),
    Case("frame_encode", ("frame_encode",), frame_encode),
    Case("connection_memory", ("connection_memory",), connection_memory),
    Case("reconnect_1000", ("reconnect_1000",), reconnect_1000),
    Case("frame_age", ("frame_age_p50", "frame_age_p99"), frame_age),
)
