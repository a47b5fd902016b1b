"""A gateway in a process of its own that publishes rows at a steady rate, and tells what it holds.

    python -m tests.integration.chaos.gateway_market RATE_HZ FRAME_BYTES

Prints one line: its port, what to say, and where in a payload the numbers stand. Each line on its standard input is
answered with what it holds then: memory, CPU, and since the last question the most bytes that waited for one client,
the longest time that one was above its limit, and how many it has cut for that.
"""

import asyncio
import json
import sys
import threading
import time
from dataclasses import asdict
from typing import Any, Final

import numpy as np

from control.bench.gateway_bench import INSTRUMENT, NAME, TAPE, Feed, blocks_of, layout_of, rss_bytes
from schemas import bins
from schemas.columns import row_dtype
from tests.integration.chaos.gateway_crowd import Place
from ws_gateway import metrics
from ws_gateway.frames import Block, Encoder, Layout, Piece
from ws_gateway.packed import pack
from ws_gateway.rings import RING_BYTES_MAX
from ws_gateway.server import Gateway

FIELDS: Final = ("bin_seq", "ts_end_ns")
LOOK_S: Final = 0.1
MARK: Final = 0x0123_4567_89AB_CDEF


class Market:
    """The gateway, its rows, and a watch over it.

    Args:
        rate_hz: rows a second.
        frame_bytes: size of a row as it is sent.
    """

    def __init__(self, rate_hz: float, frame_bytes: int) -> None:
        self._gateway, self._rate_hz = Gateway(Feed()), rate_hz
        made = layout_of(frame_bytes)
        self._layout = Layout("grid", (*FIELDS, *made.fields), made.radius, "f32")
        self._block, self._row = blocks_of(1, made.radius)[0], row_dtype(bins.columns(made.radius))
        self._seq = 0
        self._most_bytes, self._full_s = 0, 0.0

    def place(self, port: int) -> Place:
        """What the crowd has to know."""
        asked = {"op": "subscribe", "id": 1, "stream": "grid", "tape": TAPE, "instrument": INSTRUMENT}
        text = json.dumps({**asked, "fields": list(self._layout.fields), "radius": self._layout.radius})
        bytes_s = self._rate_hz * self._layout.row_bytes()
        return Place(port, text, bytes_s, *(self._offset(name) for name in ("ts_end_ns", "bin_seq")))

    def _offset(self, name: str) -> int:
        """Where a column's value stands in a payload of one row."""
        table = {**self._block.table, name: self._block.table[name] * 0 + MARK}
        block = Block(0, 0, table, 0)
        return Encoder(self._layout).frame([Piece(block, 0, 1)]).payload.index(MARK.to_bytes(8, "little"))

    async def run(self) -> None:
        """Serve until standard input ends, with rings as full as they ever are."""
        loop, stop, asked = asyncio.get_running_loop(), asyncio.Event(), asyncio.Event()
        port: asyncio.Future[int] = loop.create_future()
        served = asyncio.create_task(self._gateway.run("127.0.0.1", 0, stop, port.set_result))
        place = self.place(await port)
        while self._gateway.hub.budget.held_bytes + self._block.nbytes <= RING_BYTES_MAX:
            self._publish()
        _say(asdict(place))
        threading.Thread(target=_listen, args=(loop, asked, stop), daemon=True).start()
        due_s = look_s = time.monotonic()
        while not stop.is_set():
            now_s = time.monotonic()
            if now_s >= due_s:
                self._publish()
                due_s += 1 / self._rate_hz
            if now_s >= look_s:
                self._look()
                look_s = now_s + LOOK_S
            if asked.is_set():
                asked.clear()
                _say(self._told())
            await asyncio.sleep(max(0.0, min(due_s, look_s) - time.monotonic()))
        await served

    def _publish(self) -> None:
        now_ns, own = time.time_ns(), np.ones(1, "<i8")
        table = pack({**self._block.table, "bin_seq": own * self._seq, "ts_end_ns": own * now_ns}, self._row)
        block = Block(self._seq, 0, table, table.nbytes, now_ns, now_ns, "market", "ts_end_ns")
        self._gateway.hub.publish(NAME, block, time.monotonic_ns())
        self._seq += 1

    def _look(self) -> None:
        now_ns = time.monotonic_ns()
        for client in tuple(self._gateway._clients):
            self._most_bytes = max(self._most_bytes, client.wire.transport.get_write_buffer_size())
            if client.full_since_ns:
                self._full_s = max(self._full_s, (now_ns - client.full_since_ns) / 1e9)

    def _told(self) -> dict[str, Any]:
        out = {
            "clients": len(self._gateway._clients),
            "rss_bytes": rss_bytes(),
            "cpu_s": time.process_time(),
            "most_bytes_a_client": self._most_bytes,
            "full_s_max": round(self._full_s, 2),
            "aborted": int(metrics.ABORTED._value.get()),
            "rows": self._seq,
        }
        self._most_bytes, self._full_s = 0, 0.0
        return out


def _say(told: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(told) + "\n")
    sys.stdout.flush()


def _listen(loop: asyncio.AbstractEventLoop, asked: asyncio.Event, stop: asyncio.Event) -> None:
    for _ in sys.stdin:
        loop.call_soon_threadsafe(asked.set)
    loop.call_soon_threadsafe(stop.set)


if __name__ == "__main__":
    asyncio.run(Market(float(sys.argv[1]), int(sys.argv[2])).run())
