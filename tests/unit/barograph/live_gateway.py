"""A real gateway with synthetic rows, and a relay before it that breaks connections."""

import asyncio
import contextlib

from tests.browser.synthetic import SyntheticFeeder
from ws_gateway.server import Gateway

WHAT = {"tape": "synthetic", "instrument": "GLBX.MDP3:ESH4"}


class LateFeeder(SyntheticFeeder):
    """One that lists its tapes only after a while, as that of a gateway that just came up."""

    def start(self, hub, on_failure=None):
        asyncio.get_running_loop().call_later(0.7, super().start, hub, on_failure)

    def stop(self):
        if hasattr(self, "task"):
            super().stop()


@contextlib.asynccontextmanager
async def gateway(port=0, kind=SyntheticFeeder, **known):
    feeder = kind(**{"period_s": 0.005, "history": 5, **known})
    stop, ready = asyncio.Event(), asyncio.Future()
    task = asyncio.create_task(Gateway(feeder).run("127.0.0.1", port, stop, ready.set_result))
    try:
        yield f"ws://127.0.0.1:{await ready}/v1/stream", feeder, stop
    finally:
        stop.set()
        await task


async def take(subscription, count):
    out = []
    async for frame in subscription:
        out.append(frame)
        if len(out) == count:
            return out
    return out


@contextlib.asynccontextmanager
async def relay(url):
    """A TCP relay before a gateway; the list it gives holds the connections through it, to be cut or silenced."""
    host, port = url.split("/")[2].split(":")
    through = Through()

    async def pump(reader, writer, silent):
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                if silent.is_set():
                    continue
                writer.write(data)
                await writer.drain()
        writer.close()

    async def serve(reader, writer):
        there_reader, there_writer = await asyncio.open_connection(host, int(port))
        through.append((writer, there_writer))
        silent = through.silent
        await asyncio.gather(pump(reader, there_writer, silent), pump(there_reader, writer, silent))

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1/stream", through
    finally:
        server.close()


class Through(list):
    """Connections through a relay; those that are made before `silence` hear and say nothing after it."""

    def __init__(self):
        super().__init__()
        self.silent = asyncio.Event()

    def silence(self):
        self.silent.set()
        self.silent = asyncio.Event()


def cut(through):
    """End every connection at once, without a word."""
    while through:
        for writer in through.pop():
            writer.transport.abort()
