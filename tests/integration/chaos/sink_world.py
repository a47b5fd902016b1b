"""What faults of the sinks strike: a broker, a store, both sinks, a bucket, and a load that goes on meanwhile.

Store and sinks are processes as production starts them. Between the ClickHouse sink and the store stands a relay, which
can do the work and keep the answer. The load is raw blocks of a market and what stages would have made of them, sent at
a steady rate until the course has seen enough; then every instrument ends, and everything has to be there once.
"""

import contextlib
import http.client
import itertools
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote_plus
from urllib.request import urlopen

import numpy as np

from control.topic_admin import TopicAdmin
from runtime.codec import encode_avro, encode_rows
from runtime.errors import BarographError
from runtime.kafka import CheckedProducer
from runtime.object_store import LocalObjectStore, ObjectStore, object_store_at
from runtime.tapes import Manifest, TapeStore
from schemas import bars, bins, trades
from schemas.columns import Column
from schemas.envelope import Envelope, Kind, crc32
from schemas.mbo import MBO_DTYPE
from schemas.message import Outgoing
from schemas.topics import BARS, BINS, MBO, TRADES, TopicSpec
from sinks.clickhouse import connect
from sinks.ddl import apply_ddl, drop_tape
from tests.integration.chaos.world import PATIENCE_S, Processes, StuckError
from tests.unit.sinks.messages import RUN, manifest, rows
from tests.unit.sinks.s3 import S3Server

SINKS: Final = ("clickhouse", "lake")
INSTRUMENTS: Final = ("X:A", "X:B")
"""Each has a partition of its own."""

BLOCKS: Final = 64
"""Blocks of each kind that the load sends again and again."""


def market(rng: np.random.Generator, count: int) -> np.ndarray:
    """Records as a market sends them: numbers rise, prices walk, sizes are small."""
    out = np.zeros(count, MBO_DTYPE)
    out["length"], out["rtype"], out["publisher_id"], out["instrument_id"] = 14, 160, 1, 77
    out["ts_recv"] = 1_700_000_000_000_000_000 + np.cumsum(rng.integers(1, 20_000, count))
    out["ts_event"] = out["ts_recv"] - rng.integers(10_000, 90_000, count).astype(np.uint64)
    out["order_id"] = (1 << 63) + np.cumsum(rng.integers(0, 50, count)).astype(np.uint64)
    out["price"] = 4_000_000_000_000 + 250_000_000 * np.cumsum(rng.integers(-1, 2, count))
    out["size"], out["flags"] = rng.integers(1, 50, count), 128
    out["action"] = rng.choice(np.array([b"A", b"C", b"M", b"T", b"F"]), count, p=[0.45, 0.45, 0.06, 0.02, 0.02])
    out["side"] = rng.choice(np.array([b"A", b"B"]), count)
    out["sequence"], out["ts_in_delta"] = np.arange(count), rng.integers(5_000, 30_000, count)
    return out


@dataclass(frozen=True)
class Kept:
    """A value that is sent again and again, with the rows in it and its checksum."""

    value: bytes
    rows: int
    crc32: int


def kept(value: bytes, count: int) -> Kept:
    return Kept(value, count, crc32(value))


NOTHING: Final = kept(b"", 0)


class Feed:
    """Raw blocks, and with each what stages would have made of it, at a steady rate until it is told to end.

    Args:
        kafka: the broker.
        known: the tape.
        rate: records a second, over all instruments.
        block: records of a raw message.

    Attributes:
        records: raw records sent so far.
        roots: raw messages sent so far.
    """

    def __init__(self, kafka: str, known: Manifest, rate: float, block: int) -> None:
        self._kafka, self._known, self.rate, self._block = kafka, known, rate, block
        rng = np.random.default_rng(7)
        self._raw = [kept(market(rng, block).tobytes(), block) for _ in range(BLOCKS)]
        made: list[tuple[TopicSpec, tuple[Column, ...], int, int]] = [
            (BINS, bins.columns(bins.RADIUS_DEFAULT), 1, 5),  # a row in one message of five
            (TRADES, trades.COLUMNS, max(1, block // 50), 1),
            (BARS, bars.COLUMNS, 1, 20),
        ]
        self._derived: list[tuple[TopicSpec, list[Kept], int]] = [
            (spec, [kept(encode_rows(rows(rng, columns, count), columns), count) for _ in range(BLOCKS)], every)
            for spec, columns, count, every in made
        ]
        self._next = dict.fromkeys(INSTRUMENTS, 0)
        self._ending, self._closed = threading.Event(), threading.Event()
        self.records, self.roots, self.failure = 0, 0, ""
        self._thread = threading.Thread(target=self._work, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def finish(self) -> None:
        """End every instrument; returns when all is confirmed."""
        self._ending.set()
        self._thread.join(600)
        if self._thread.is_alive() or self.failure:
            raise StuckError(f"the load is not published: {self.failure}")

    def close(self) -> None:
        self._closed.set()
        self._ending.set()
        if self._thread.ident:
            self._thread.join()

    def _work(self) -> None:
        try:
            self._send_all(CheckedProducer(self._kafka))
        except BarographError as error:
            self.failure = str(error)

    def _send_all(self, producer: CheckedProducer) -> None:
        for name in INSTRUMENTS:
            fields = {"instrument": name, "venue_symbol": name, "tick_px": 1, "bucket": 1, "lot": "1"}
            fields |= {"partition": self._partition(name), "tick_source": "option"}
            value = encode_avro("definition", fields)
            self._send(producer, name, "definition", kept(value, 1), "definition")
        due_s = time.monotonic()
        for number, name in enumerate(itertools.cycle(INSTRUMENTS)):
            due_s += self._block / self.rate
            if self._ending.wait(max(0.0, due_s - time.monotonic())):
                break
            self._send(producer, name, "data", self._raw[number % BLOCKS], "mbo")
            self.records += self._block
        if self._closed.is_set():
            return
        for name in INSTRUMENTS:
            self._send(producer, name, "end", NOTHING, "mbo")
        producer.flush()

    def _send(self, producer: CheckedProducer, name: str, kind: Kind, raw: Kept, schema: str) -> None:
        """A raw message and its derived ones."""
        tape, at, seq = self._known.tape, self._partition(name), self._next[name]
        self._next[name] += 1
        self.roots += 1
        envelope = Envelope(kind, schema, count=raw.rows, crc32=raw.crc32, t=seq)
        producer.send(Outgoing(MBO.name(tape), at, name, raw.value, envelope))
        for spec, pool, every in self._derived:
            one = pool[seq % BLOCKS] if kind == "data" and seq % every == 0 else NOTHING
            derived = Envelope(kind, spec.stream, count=one.rows, crc32=one.crc32, t=seq, seq=seq, run=RUN)
            producer.send(Outgoing(spec.name(tape, "main"), at, name, one.value, derived))

    def _partition(self, name: str) -> int:
        return self._known.instruments[name].partition


class Relay:
    """HTTP between a sink and a store: passes everything on, and on demand keeps what the store answers to an insert.

    Attributes:
        url: where it answers.
        kept: answers to inserts that were not passed on, as names of tables.
    """

    def __init__(self, store_port: int) -> None:
        self.kept: list[str] = []
        self._store_port, self._keep, self._shut = store_port, 0, False
        self._close_after, self._silence_s = False, 0.0
        self._lock = threading.Lock()
        relay = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_GET(self) -> None:
                relay._pass_on(self)

            do_POST = do_GET

            def log_message(self, *_: Any) -> None:
                return

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def keep(self, answers: int = 1, *, silence_s: float = 0.0, then_shut: bool = False) -> None:
        """Keep the next answers to inserts.

        Args:
            answers: how many.
            silence_s: how long the connection stays open without a word; 0: it is cut at once.
            then_shut: whether nobody is let through afterwards until `open`.
        """
        with self._lock:
            self._keep, self._silence_s, self._close_after = answers, silence_s, then_shut

    def open(self) -> None:
        self._shut = False

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _pass_on(self, request: BaseHTTPRequestHandler) -> None:
        body = request.rfile.read(int(request.headers.get("Content-Length") or 0))
        request.close_connection = True
        if self._shut:
            return
        with contextlib.suppress(OSError, http.client.HTTPException):
            with closing(http.client.HTTPConnection("127.0.0.1", self._store_port, timeout=300)) as store:
                store.request(request.command, request.path, body, dict(request.headers))
                answer = store.getresponse()
                data = answer.read()
            if self._kept(request.path, body):
                time.sleep(self._silence_s)
                return
            request.send_response_only(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                    request.send_header(name, value)
            request.send_header("Content-Length", str(len(data)))
            request.end_headers()
            request.wfile.write(data)
            request.close_connection = False

    def _kept(self, path: str, body: bytes) -> bool:
        """Whether this answer is kept."""
        with self._lock:
            if not self._keep or "insert_deduplication_token" not in path:
                return False
            self._keep -= 1
            self._shut = self._close_after and not self._keep
        statement = unquote_plus(path) + body[:200].decode(errors="replace")
        self.kept.append(statement.partition("INSERT INTO ")[2].split()[0].strip("`"))
        return True


class Gauge:
    """What the sinks confirm and what memory they take, looked at ten times a second.

    Attributes:
        memory_mb: sink → most memory that it ever held, MiB.
        back: how often a sink said that it had less than before.
    """

    def __init__(self, folder: Path, known: Manifest, parts: Processes) -> None:
        self._folder, self._parts = folder / "state" / "arrival" / known.tape_id / "main", parts
        self.seen: dict[str, list[tuple[float, int, int]]] = {name: [(time.monotonic(), 0, 0)] for name in SINKS}
        self.memory_mb: dict[str, int] = {}
        self.back = 0
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def told(self, sink: str) -> dict[str, Any]:
        """What a sink says of itself."""
        try:
            return dict(json.loads((self._folder / f"{sink}.json").read_text()))
        except FileNotFoundError:
            return {"rows": {}, "messages": 0, "drained": False}

    def wait_for_news(self, after_s: float) -> None:
        """Until each sink has confirmed more than it had at a time."""
        for name, seen in self.seen.items():
            had = max(done for when, done, _ in seen if when <= after_s or when == seen[0][0])
            until(lambda s=seen, h=had: s[-1][1] > h, f"{name} confirms more than {had}")  # type: ignore[misc]

    def close(self) -> None:
        self._closed.set()
        self._thread.join()

    def _work(self) -> None:
        while not self._closed.wait(0.1):
            for name, seen in self.seen.items():
                told = self.told(name)
                if told["messages"] != seen[-1][1]:
                    self.back += told["messages"] < seen[-1][1]
                    seen.append((time.monotonic(), told["messages"], told["rows"].get("mbo", 0)))
            for name, pid in self._parts.pids().items():
                with contextlib.suppress(OSError, IndexError):
                    peak = Path(f"/proc/{pid}/status").read_text().split("VmHWM:")[1].split()[0]
                    self.memory_mb[name] = max(self.memory_mb.get(name, 0), int(peak) >> 10)


def until(reached: Callable[[], bool], what: str, patience_s: float = PATIENCE_S) -> None:
    deadline = time.monotonic() + patience_s
    while not reached():
        if time.monotonic() > deadline:
            raise StuckError(f"not reached within {patience_s:g} s: {what}")
        time.sleep(0.02)


@dataclass
class SinkWorld:
    """Everything that a fault may strike.

    Attributes:
        parts: `store`, `clickhouse`, `lake`.
        store_url: the store itself; the sink goes through `relay`.
        bucket: of the lake, where it is one.
    """

    kafka: str
    manifest: Manifest
    folder: Path
    lake_url: str
    store_url: str
    relay: Relay
    bucket: S3Server | None
    parts: Processes
    feed: Feed
    gauge: Gauge
    environment: dict[str, str] = field(default_factory=dict)

    def start_store(self) -> float:
        """Start the store, and wait until it answers; seconds."""
        began = time.monotonic()
        self.parts.start("store")
        until(self.store_answers, "the store answers")
        return time.monotonic() - began

    def store_answers(self) -> bool:
        try:
            with urlopen(f"{self.store_url}/?query=SELECT%201", timeout=10) as answer:
                return bool(answer.read() == b"1\n")
        except OSError:
            return False

    def lake(self) -> ObjectStore:
        if self.bucket is not None:
            return self.bucket.store(self.manifest.tape)
        return object_store_at(self.lake_url)

    def wait_until_drained(self, patience_s: float = 600.0) -> None:
        """Until both sinks say that everything has arrived."""
        for name in SINKS:
            until(lambda n=name: self.gauge.told(n)["drained"], f"{name} is drained", patience_s)  # type: ignore[misc]


def free_port() -> int:
    with closing(socket.create_server(("127.0.0.1", 0))) as found:
        return int(found.getsockname()[1])


@contextmanager
def opened(
    kafka: str,
    folder: Path,
    tape: str,
    *,
    rate: float,
    block: int,
    bucket: S3Server | None = None,
    direct: bool = False,
) -> Iterator[SinkWorld]:
    """A world with a store that answers, a tape without messages and no sinks; all of it ends with the `with`.

    Args:
        kafka: the broker.
        folder: data folder; its store may hold other tapes.
        tape: the tape's name.
        rate, block: of the load.
        bucket: where the lake is; None: a folder.
        direct: whether the sink talks to the store itself, not through the relay.
    """
    folder.mkdir(parents=True, exist_ok=True)
    ids = TopicAdmin(kafka).apply(tape, "main", len(INSTRUMENTS))
    plain = manifest(tape, INSTRUMENTS)
    placed = {name: replace(i, partition=at) for at, (name, i) in enumerate(plain.instruments.items())}
    known = replace(plain, partitions=len(placed), base=(0,) * len(placed), instruments=placed, topic_ids=ids)
    TapeStore(LocalObjectStore(folder / "state")).save(known)
    port = free_port()
    relay, store_url = Relay(port), f"http://127.0.0.1:{port}"
    lake_url = f"s3://bucket/{tape}" if bucket else str(folder / "lake")
    common = ["--data", str(folder)]
    sink = [*common, "--tape", tape, "--bootstrap-servers", kafka]
    argv = {
        "store": ["store", "--port", str(port), *common],
        "clickhouse": ["sink", "clickhouse", *sink, "--clickhouse-url", store_url if direct else relay.url],
        "lake": ["sink", "lake", *sink, "--lake-url", lake_url],
    }
    environment = {"BAROGRAPH_LOG_LEVEL": "info", **(bucket.environment if bucket else {})}
    parts = Processes(folder / "log", argv.__getitem__, environment, tape)
    feed, gauge = Feed(kafka, known, rate, block), Gauge(folder, known, parts)
    world = SinkWorld(
        kafka, known, folder, lake_url, store_url, relay, bucket, parts, feed, gauge, {**os.environ, **environment}
    )
    try:
        world.start_store()
        with closing(connect(store_url)) as client:
            apply_ddl(client)
        yield world
        with closing(connect(store_url)) as client:
            drop_tape(client, tape)
    finally:
        feed.close()
        gauge.close()
        parts.close()
        relay.close()
        with contextlib.suppress(BarographError):
            TopicAdmin(kafka).delete(list(ids))
