"""The gateway over a real broker and a real lake: rows of any age, each once, on a socket that goes back and forth."""

import asyncio
import json
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from confluent_kafka import TopicPartition
from websockets.asyncio.client import ClientConnection, connect

from control.locate import locate_time
from control.tape_admin import TapeAdmin
from runtime.codec import encode_rows
from runtime.errors import InputError
from runtime.kafka import CheckedProducer, admin
from runtime.object_store import object_store_at
from runtime.settings import Settings
from runtime.tapes import Instrument, Line, Manifest
from schemas import bins, trades
from schemas.columns import empty_table
from schemas.envelope import Envelope, crc32
from schemas.message import Outgoing
from schemas.topics import BARS, BINS, EVENTS, GAPS, MBO, TRADES
from sinks.runner import SinkReport, run_sink
from tests.unit.sinks.messages import make_records
from ws_gateway.frames import HEADER, Flag, Kind
from ws_gateway.server import serve

pytestmark = [pytest.mark.real, pytest.mark.timeout(240)]

NAMES = ("X:A", "X:B")
RADIUS = 3
CELL_NS = bins.CELL_NS_DEFAULT
FIELDS = ["bin_seq", "rest_depth"]


class Market:
    """A tape of two instruments in one partition, whose bins tell their number; published piece by piece."""

    def __init__(self, folder: Path, servers: str, tape: str) -> None:
        self.settings, self.servers, self.tape = Settings(data_dir=folder), servers, tape
        self.admin = TapeAdmin(self.settings, servers)
        instruments = {name: Instrument(partition=0, tick_px=1) for name in NAMES}
        self.admin.open(Manifest(tape, f"id-{tape}", instruments=instruments), "main", Line("run-1"))
        self.producer = CheckedProducer(servers)
        self.seq = 0
        self.bins = dict.fromkeys(NAMES, 0)

    def publish(self, count: int, *, repeat: bool = False) -> None:
        """`count` raw messages, in turns of the instruments, each with one to three bins and as many trades."""
        for _ in range(count):
            name = NAMES[self.seq % 7 % 2]
            first, rows = self.bins[name], 1 + self.seq % 3
            self.bins[name] += rows
            self._send(name, "data", first, rows)
            if repeat and self.seq % 50 == 0:
                self.seq -= 1
                self.bins[name] -= rows
                self._derived(name, "data", first, rows)
                self.seq += 1
                self.bins[name] += rows
        self.producer.flush()

    def end(self) -> None:
        for name in NAMES:
            self._send(name, "end", self.bins[name], 0)
        self.producer.flush()
        self.admin.finish(self.admin.tapes.require(self.tape))

    def _send(self, name: str, kind: Any, first: int, rows: int) -> None:
        raw = Envelope(kind, "mbo", t=self._time(first + rows))
        self._put(MBO.name(self.tape), name, raw, b"")
        self._derived(name, kind, first, rows)
        self.seq += 1

    def _derived(self, name: str, kind: Any, first: int, rows: int) -> None:
        table = empty_table(bins.columns(RADIUS), rows)
        table["bin_seq"] = np.arange(first, first + rows)
        table["ts_end_ns"] = self._time(table["bin_seq"] + 1)
        table["bid_depth"] = table["bin_seq"][:, None] * 10.0 + np.arange(2 * RADIUS + 1)
        done = empty_table(trades.COLUMNS, rows)
        done["ts_ns"], done["sz"] = self._time(table["bin_seq"]) + 5, table["bin_seq"]
        values = {
            BINS: encode_rows(table, bins.columns(RADIUS)), TRADES: encode_rows(done, trades.COLUMNS), BARS: b"",
        }  # fmt: skip
        for spec, value in values.items():
            envelope = Envelope(
                kind, spec.stream, count=rows, t=self._time(first + rows), seq=self.seq, run="run-1",
                summary="{}" if kind == "end" else "",
            )  # fmt: skip
            self._put(spec.name(self.tape), name, envelope, value)

    def _put(self, topic: str, name: str, envelope: Envelope, value: bytes) -> None:
        self.producer.send(Outgoing(topic, 0, name, value, replace(envelope, crc32=crc32(value))))

    @staticmethod
    def _time(bin_seq: Any) -> Any:
        return bin_seq * CELL_NS

    def to_lake(self) -> None:
        """Everything is written to the lake."""
        known, stop = self.admin.tapes.require(self.tape), threading.Event()

        def tell(report: SinkReport) -> None:
            if report.drained({n: i.partition for n, i in known.instruments.items()}):
                stop.set()

        run_sink(
            "lake", known, "main", bootstrap_servers=self.servers, target=self.settings.lake_location,
            state_dir=self.settings.state_dir, stop=stop, on_progress=tell,
        )  # fmt: skip

    def trim(self, offset: int) -> None:
        """The broker forgets what lies before an offset of bins and trades."""
        client = admin(self.servers)
        parts = [TopicPartition(spec.name(self.tape), 0, offset) for spec in (BINS, TRADES)]
        for future in client.delete_records(parts).values():
            future.result(30)

    def cursor(self, stream: str, seq: int, row: int = 0) -> str:
        return f"{self.tape}/main/{stream}/X%3AA/{seq}.0.{row}"


class Client:
    """One subscription on a socket: what came, in order."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.told: list[dict[str, Any]] = []
        self.heads: list[tuple[int, ...]] = []
        self.digests: list[bool] = []
        self.values: dict[str, list[Any]] = {}
        self.ended = False
        self._schema = b""
        self._hashes: list[bytes] = []

    async def say(self, op: str, **fields: Any) -> None:
        await self.socket.send(json.dumps({"op": op, "id": 1, **fields}))

    async def until(self, done: Any, seconds: float = 60) -> None:
        async with asyncio.timeout(seconds):
            while not done():
                self._take(await self.socket.recv())

    async def quiet(self, seconds: float) -> None:
        """Take what comes for a while."""
        try:
            async with asyncio.timeout(seconds):
                await self.until(lambda: False, seconds + 1)
        except TimeoutError:
            return

    def ops(self, op: str) -> list[dict[str, Any]]:
        return [m for m in self.told if m["op"] == op]

    def _take(self, message: str | bytes) -> None:
        if isinstance(message, str):
            self.told.append(json.loads(message))
            assert self.told[-1]["op"] != "error", self.told[-1]
            return
        head, payload = HEADER.unpack_from(message), message[HEADER.size :]
        kind = head[1]
        if kind == Kind.DIGEST:
            self.digests.append(sha256(b"".join(self._hashes)).digest() == payload)
            self._hashes = []
            return
        if kind == Kind.END:
            self.ended = True
            return
        self._hashes.append(sha256(payload).digest()[:16])
        if kind == Kind.SCHEMA:
            self._schema = payload
            return
        self.heads.append(head)
        table = pa.ipc.open_stream(self._schema + payload).read_all()
        for name in table.schema.names:
            self.values.setdefault(name, []).extend(table[name].to_pylist())


@asynccontextmanager
async def gateway(market: Market, *, lake: bool = True) -> AsyncIterator[str]:
    stop, port = asyncio.Event(), asyncio.get_running_loop().create_future()
    task = asyncio.create_task(
        serve(
            host="127.0.0.1", port=0, bootstrap_servers=market.servers, state=market.settings.state_location,
            lake=market.settings.lake_location if lake else "", allowed_origins=(), stop=stop, on_ready=port.set_result,
        )
    )  # fmt: skip
    try:
        yield f"ws://127.0.0.1:{await port}/v1/stream"
    finally:
        stop.set()
        await task


@asynccontextmanager
async def client(url: str, market: Market, **asked: Any) -> AsyncIterator[Client]:
    """A client whose subscription is accepted; the gateway may still be listing its tapes."""
    async with connect(url, subprotocols=["barograph.v1"], compression=None, max_size=None) as socket:  # type: ignore[list-item]
        async with asyncio.timeout(30):
            while market.tape not in json.loads(await socket.recv())["tapes"]:
                await asyncio.sleep(0.2)
                await socket.close()
                async with client(url, market, **asked) as again:
                    yield again
                return
        one = Client(socket)
        what = {"stream": "grid", "tape": market.tape, "instrument": "X:A", "fields": FIELDS, "digest": True}
        await one.say("subscribe", **{**what, **asked})
        await one.until(lambda: one.ops("subscribed"))
        yield one


@pytest.fixture(scope="module")
def finished(kafka: str, tmp_path_factory: pytest.TempPathFactory) -> Market:
    """A finished tape of which the lake has everything and the broker the last two fifths."""
    market = Market(tmp_path_factory.mktemp("data"), kafka, "done")
    market.publish(1_000, repeat=True)
    market.end()
    market.to_lake()
    market.trim(600)
    return market


@pytest.mark.parametrize("stream", ["grid", "trades"])
@pytest.mark.parametrize("where", ["first", "lake", "topic", "ring"])
def test_from_any_place_every_later_row_comes_once(finished: Market, where: str, stream: str) -> None:
    last = finished.bins["X:A"] - 1
    first = {"first": 0, "lake": 200, "topic": 900, "ring": last - 3}[where]
    column, fields = ("bin_seq", FIELDS) if stream == "grid" else ("sz", ["ts_ns", "sz"])

    async def main() -> Client:
        start = {"from": f"@{first * CELL_NS + (stream == 'trades')}"}
        async with gateway(finished) as url, client(url, finished, stream=stream, fields=fields, **start) as one:
            await one.until(lambda: one.ended)
            return one

    one = asyncio.run(main())
    assert one.values[column] == list(range(first, last + 1))
    assert one.ops("gap") == []
    assert one.digests
    assert all(one.digests), "one each ten seconds, and one at the end"
    if stream == "grid":
        assert [v[0] for v in one.values["rest_depth"]] == [n * 10.0 for n in range(first, last + 1)]


@pytest.mark.parametrize("where", ["first", "lake", "topic", "last"])
def test_a_time_is_resolved_wherever_its_row_lies(finished: Market, where: str) -> None:
    last = finished.bins["X:A"] - 1
    n = {"first": 0, "lake": 200, "topic": 900, "last": last}[where]
    assert _located(finished, n) == n
    with pytest.raises(InputError, match="no row of trades at or after"):
        _located(finished, last + 1)


def test_of_a_tape_whose_topics_are_gone_the_lake_answers(kafka: str, tmp_path: Path) -> None:
    market = Market(tmp_path, kafka, "archived")
    market.publish(200)
    market.end()
    market.to_lake()
    topics = [spec.name(market.tape) for spec in (BINS, TRADES)]
    broker = admin(kafka)  # it must outlive its futures
    for future in broker.delete_topics(topics).values():
        future.result(30)
    assert _located(market, 77) == 77

    async def main() -> Client:
        async with gateway(market) as url, client(url, market, **{"from": f"@{60 * CELL_NS}"}) as one:
            await one.until(lambda: one.ended)
            return one

    one = asyncio.run(main())
    assert one.values["bin_seq"] == list(range(60, market.bins["X:A"]))
    assert one.ops("gap") == []


def _located(market: Market, n: int) -> int:
    """The trade that the api finds for the time of the n-th: its number again, by its time."""
    known = market.admin.tapes.require(market.tape)
    lake = object_store_at(market.settings.lake_location)
    found = locate_time(n * CELL_NS + 5, known, "main", "trades", "X:A", market.servers, lake)
    return int((found["ts_ns"] - 5) // CELL_NS)


def test_a_cursor_goes_on_behind_its_row_wherever_that_lies(finished: Market) -> None:
    """The same cursors that batches carry, given back one by one."""

    async def main() -> None:
        async with gateway(finished) as url:
            async with client(url, finished, **{"from": "bin/0"}) as whole:
                await whole.until(lambda: whole.ended)
            places = list(zip(*(whole.values[c] for c in ("seq", "part", "row", "bin_seq")), strict=True))
            assert len(places) == finished.bins["X:A"]
            for seq, _, row, bin_seq in [places[n] for n in (0, 1, 250, 700, 900, len(places) - 2)]:
                start = {"from": finished.cursor("grid", seq, row), "policy": "lossless"}
                async with client(url, finished, **start) as one:
                    await one.until(lambda one=one: one.ended)
                assert one.values["bin_seq"] == list(range(bin_seq + 1, finished.bins["X:A"]))

    asyncio.run(main())


def test_without_the_lake_what_the_broker_forgot_is_a_gap(finished: Market) -> None:
    async def main() -> Client:
        start = {"from": finished.cursor("grid", 10)}
        async with gateway(finished, lake=False) as url, client(url, finished, **start) as one:
            await one.until(lambda: one.ended)
            return one

    one = asyncio.run(main())
    (gap,) = one.ops("gap")
    assert gap["from"] == finished.cursor("grid", 10)
    assert one.heads[0][2] & Flag.GAP_BEFORE
    got = one.values["bin_seq"]
    assert got == list(range(got[0], finished.bins["X:A"]))
    assert int(gap["to"].rpartition("/")[2].split(".")[0]) <= one.values["seq"][0]


def test_live_replay_and_back_on_one_socket(kafka: str, tmp_path: Path) -> None:
    market = Market(tmp_path, kafka, "open")
    market.publish(700)

    async def main() -> None:
        async with gateway(market) as url, client(url, market, policy="lossless", **{"from": "bin/5"}) as one:
            end = market.bins["X:A"]
            await one.until(lambda: one.values.get("bin_seq", [0])[-1] == end - 1)
            await asyncio.to_thread(market.publish, 30)
            end = market.bins["X:A"]
            await one.until(lambda: one.values["bin_seq"][-1] == end - 1)
            assert one.values["bin_seq"] == list(range(5, end))
            assert one.heads[-1][2] == 0, "the last rows are live"

            one.values.clear()
            await one.say("pause")
            await one.say("seek", to="bin/50")
            await one.say("step", bins=4)
            await one.until(lambda: len(one.values.get("bin_seq", [])) >= 4)
            await one.quiet(0.5)
            assert one.values["bin_seq"] in (list(range(50, 54)), list(range(50, 55))), "the row there, and four steps"

            await one.say("speed", factor=10)
            await one.say("resume")
            before = len(one.values["bin_seq"])
            await one.quiet(1.0)
            assert 0 < len(one.values["bin_seq"]) - before < 250, "a hundred bins a second, not all at once"

            await one.say("speed", factor="max")
            await one.until(lambda: one.values["bin_seq"][-1] == end - 1)
            assert one.values["bin_seq"] == list(range(50, end))
            await one.say("seek", to="live")
            await one.until(lambda: len(one.ops("subscribed")) == 3)
            await asyncio.to_thread(market.publish, 10)
            await one.until(lambda: one.values["bin_seq"][-1] == market.bins["X:A"] - 1)
            assert one.ops("gap") == []
            assert one.ops("position")

    asyncio.run(main())


def test_gaps_and_events_are_streams(kafka: str, tmp_path: Path) -> None:
    market = Market(tmp_path, kafka, "said")
    market.publish(3)
    made = make_records("said", 7)
    for message in made.outgoing():
        if message.topic in (GAPS.name("said"), EVENTS.name("said")):
            market.producer.send(message)
    market.producer.flush()

    async def main() -> None:
        async with gateway(market) as url:
            asked = {"stream": "events", "fields": ["id", "kind", "ts_event", "px", "text"], "from": "@3"}
            async with client(url, market, **asked) as one:
                await one.until(lambda: len(one.values.get("id", [])) == 11)
            assert one.values["ts_event"] == [3, 4, 5, 6, 0, 1, 2, 3, 4, 5, 6]
            assert set(one.values["text"]) == {"é"}
            start = {"stream": "gaps", "fields": ["id", "cause", "seq_from"], "from": "said/-/gaps/X%3AA/2.0.0"}
            async with client(url, market, **start) as one:
                await one.until(lambda: len(one.values.get("id", [])) == 11)
            assert one.values["seq"] == list(range(3, 14))
            assert one.values["seq_from"] == [3, 4, 5, 6, 0, 1, 2, 3, 4, 5, 6]

    asyncio.run(main())
