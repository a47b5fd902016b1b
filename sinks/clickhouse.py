"""ClickHouse sink: a batch becomes one insert, named by its token.

    config    limits below, the address
    builder   `build_insert`: rows to one Arrow stream, pure
    service   `ClickHouseSink.write`: the insert, retried by `sinks.retry`

The same code writes to the embedded store and to a server or cluster; only the address differs. The block is sent as
one record batch with block limits out of its way, so that the server sees one block, which it takes whole or not.

Of records, which several producers may say again, a block holds the first of each id: the sink asks which ids of the
batch stand in the table under numbers *before* the batch. Those rows are confirmed and stay, so a repeat of the batch
gets the same answer, and is the same block.

Before an insert is repeated, the table is asked whether the rows are there. A block is one part of the table, so they
are there all or not at all. Thereby a repeat leaves nothing double even when its token is gone: pushed out of the
window by others' inserts, or never written because the disk was full in that moment. The token answers for what a
question cannot see, a first try that still runs.
"""

import logging
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from threading import Event
from typing import Final, TypeVar

import clickhouse_connect
import pyarrow as pa
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import (
    ClickHouseError,
    DataError,
    Error,
    InterfaceError,
    NotSupportedError,
    ProgrammingError,
)

from runtime.errors import BarographError
from sinks.base import Batch, Lane, StoppedError
from sinks.batcher import Limits
from sinks.ddl import apply_ddl
from sinks.records import first_of_each_id
from sinks.retry import FATAL, Backoff, may_pass
from sinks.rows import build_rows

log = logging.getLogger(__name__)
for _chatty in ("urllib3.connectionpool", "clickhouse_connect"):
    logging.getLogger(_chatty).setLevel(logging.ERROR)  # whoever asks tells of what fails, in one sentence

LIMITS: Final = Limits(rows=100_000, bytes=32 << 20, age_s=0.5)
"""100,000 raw rows or 2,000 bins of 17 kB a block, measured at 0.1 to 0.7 s each. Larger blocks gain nothing and hold
three times their size in memory; below 10,000 rows the cost per block shows. Age is what a reader of SQL waits."""

INSERT_TIMEOUT_S: Final = 60
"""How long an insert may take before its outcome counts as unknown. It takes below 1 s; a store that is merging a large
part, or a laptop that slept, takes some. Shorter would repeat inserts that are still under way."""

INSERT_SETTINGS: Final = {
    "async_insert": 0,  # an acknowledgement must mean "written", and tokens belong to synchronous inserts
    "insert_deduplicate": 1,
    "optimize_on_insert": 0,  # looks for rows to replace within the block: there are none, and it takes half the time
    "max_insert_block_size": 1 << 40,
    "min_insert_block_size_rows": 1 << 40,
    "min_insert_block_size_bytes": 1 << 40,
    "max_partitions_per_insert_block": 0,
}
"""Settings of every insert: one block, confirmed when it is written, known by its token."""


ASKED_TOGETHER: Final = 1_000
"""Ids of records in one question. Parameters travel as fields of a form, and a server takes 128 KiB in a field
(`http_max_field_value_size`): 1,000 ids of up to 100 characters. Many more would be refused for good, and the sink with
them; far fewer cost a round trip each."""

T = TypeVar("T")

_OURS: Final = (DataError, InterfaceError, NotSupportedError, ProgrammingError)
"""Errors that the client raises about how it is used; they carry no code and never pass."""


@dataclass(frozen=True, slots=True)
class Insert:
    """One insert: table, its columns, an Arrow stream of one record batch, its rows, and the name of the block."""

    table: str
    columns: tuple[str, ...]
    body: bytes
    rows: int
    token: str


class RefusedError(BarographError):
    """ClickHouse refuses an insert for good.

    Args:
        batch: the batch's token.
        code: ClickHouse's error code; None if it gave none.
        text: what it said.
    """

    def __init__(self, batch: str, code: int | None, text: str) -> None:
        self.batch, self.code = batch, code
        why = FATAL.get(code or 0, "unexpected")
        super().__init__(
            f"ClickHouse refuses batch {batch}: {text.strip()[:300]} ({why})",
            remedy="mend the database, then start the sink again: it goes on with this batch",
        )


def connect(url: str, timeout_s: int = INSERT_TIMEOUT_S) -> Client:
    """A client for a ClickHouse address, e.g. `http://user:password@host:8123/database`.

    Raises:
        ClickHouseError: nobody answers there, or the login is wrong.
    """
    return clickhouse_connect.get_client(
        dsn=url,
        compress=False,
        query_retries=0,
        connect_timeout=5,
        send_receive_timeout=timeout_s,
        autogenerate_session_id=False,
    )


def build_insert(batch: Batch, known: Container[str] = frozenset()) -> Insert | None:
    """The insert of a batch; None if it holds no rows.

    Args:
        batch: the batch.
        known: of records, ids that stand in the table under numbers before it.

    Raises:
        BadMessageError: a message of it is not what it should be.
    """
    rows = build_rows(batch)
    if batch.lane.table.record:
        rows = first_of_each_id(rows, known)
    if not rows.num_rows:
        return None
    rows = rows.combine_chunks()
    names, count, sink = tuple(rows.schema.names), rows.num_rows, pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema) as writer:
        writer.write_table(rows, max_chunksize=count)
    del rows  # the stream has them; both would be held while it is sent
    return Insert(batch.lane.table.name, names, sink.getvalue().to_pybytes(), count, batch.token)


def known_ids(client: Client, lane: Lane, before: int, ids: Sequence[str]) -> frozenset[str]:
    """Which of some ids of records stand in a lane's table under numbers before `before`.

    Raises:
        ClickHouseError: the server does not answer.
    """
    asked, found = list(dict.fromkeys(ids)), set[str]()
    for at in range(0, len(asked), ASKED_TOGETHER):
        answer = client.query(
            f"SELECT DISTINCT id FROM {lane.table.name} WHERE tape = {{tape:String}} AND partition = {{at:Int32}} "
            "AND seq < {first:Int64} AND id IN {ids:Array(String)}",
            parameters={
                "tape": lane.tape,
                "at": lane.partition,
                "first": before,
                "ids": asked[at : at + ASKED_TOGETHER],
            },
        )
        found.update(str(row[0]) for row in answer.result_rows)
    return frozenset(found)


class ClickHouseSink:
    """Batches into ClickHouse.

    Args:
        url: where it answers.
        limits: when a batch is due.
    """

    name = "clickhouse"

    def __init__(self, url: str, limits: Limits = LIMITS) -> None:
        self.limits = limits
        self._url = url
        self._client: Client | None = None

    def open(self, stop: Event) -> str:
        """Wait for the server, bring its tables up to date, and give its identity."""
        return self._persist("tables", stop, lambda: apply_ddl(self._connected()).identity)

    def write(self, batch: Batch, stop: Event) -> None:
        """Insert a batch; one that is there already is left as it is."""
        table = batch.lane.table
        known = self._persist(batch.token, stop, lambda: self._known(batch)) if table.record else frozenset()
        insert = build_insert(batch, known)
        if insert is None:
            return
        tries = int(batch.repeat)

        def once() -> None:
            nonlocal tries
            tries += 1
            if tries == 1 or not self._stands(batch, insert.rows):
                self._insert(insert)

        self._persist(insert.token, stop, once)

    def _persist(self, what: str, stop: Event, work: Callable[[], T]) -> T:
        """Do something until the server confirms it."""
        backoff = Backoff()
        while True:
            try:
                return work()
            except ClickHouseError as error:
                self._wait_or_raise(what, error, backoff, stop)

    def _insert(self, insert: Insert) -> None:
        self._connected().raw_insert(
            insert.table,
            insert.columns,
            insert.body,
            settings={**INSERT_SETTINGS, "insert_deduplication_token": insert.token},
            fmt="ArrowStream",
        )

    def _stands(self, batch: Batch, rows: int) -> bool:
        """Whether the rows of a batch are in its table."""
        lane = batch.lane
        found = self._connected().query(
            f"SELECT uniqExact(seq, part, row) FROM {lane.table.name} WHERE tape = {{tape:String}} "
            "AND line = {line:String} AND partition = {at:Int32} AND seq >= {first:Int64} AND seq <= {last:Int64} "
            "AND (seq > {first:Int64} OR part >= {part:Int32}) AND (seq < {last:Int64} OR part <= {last_part:Int32})",
            parameters={
                "tape": lane.tape,
                "line": lane.row_line,
                "at": lane.partition,
                "first": batch.first[0],
                "part": batch.first[1],
                "last": batch.last[0],
                "last_part": batch.last[1],
            },
        )
        return bool(found.result_rows[0][0] == rows)

    def _known(self, batch: Batch) -> frozenset[str]:
        """Ids of a batch's records that stand in the table under numbers before it."""
        rows = build_rows(batch)
        if not rows.num_rows:
            return frozenset()
        return known_ids(self._connected(), batch.lane, batch.first[0], rows.column("id").to_pylist())

    def close(self) -> None:
        """Close the connection."""
        if self._client is not None:
            self._client.close()
            self._client = None

    def _connected(self) -> Client:
        if self._client is None:
            self._client = connect(self._url)
        return self._client

    def _wait_or_raise(self, what: str, error: ClickHouseError, backoff: Backoff, stop: Event) -> None:
        code = error.code if isinstance(error, Error) else None
        if isinstance(error, _OURS) or not may_pass(code):
            raise RefusedError(what, code, str(error)) from error
        pause_s = backoff.next_s()
        if backoff.tries in (1, 5) or backoff.tries % 20 == 0:
            log.warning("%s: not confirmed by ClickHouse, try %d: %.200s", what, backoff.tries, error)
        self.close()
        if stop.wait(pause_s):
            raise StoppedError
