"""The store process against the clients people use: clickhouse-connect, curl, polars."""

import asyncio
import contextlib
import io
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import quote, urlencode
from urllib.request import Request, urlopen

import clickhouse_connect
import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import DatabaseError, StreamFailureError

from control import query
from control.embedded.store import EmbeddedStore, running_store
from control.embedded.store_codings import decode, encoder
from runtime.errors import FolderInUseError, PortTakenError, UsageError
from sinks.ddl import apply_ddl

pytestmark = pytest.mark.real
ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A store in a process of its own: a process can open one folder only, and some tests open one here."""
    process, address = start(tmp_path_factory.mktemp("data"))
    yield address
    assert end(process, signal.SIGTERM) == 0


@pytest.fixture
def client(url: str) -> Iterator[Client]:
    made = clickhouse_connect.get_client(dsn=url)
    yield made
    made.close()


def get(url: str, **values: str) -> bytes:
    with urlopen(f"{url}/?{urlencode(values)}") as answer:
        return answer.read()


def post(url: str, body: bytes, headers: dict[str, str] | None = None, **values: str) -> bytes:
    with urlopen(Request(f"{url}/?{urlencode(values)}", data=body, headers=headers or {}, method="POST")) as answer:
        return answer.read()


@pytest.mark.parametrize(
    "head", [{"Origin": "http://evil.example"}, {"Host": "evil.example"}, {"Sec-Fetch-Site": "none"}]
)
def test_web_pages_are_kept_out(url: str, head: dict[str, str]) -> None:
    with pytest.raises(HTTPError) as refused:
        post(url, b"CREATE TABLE stolen (a Int8) ENGINE = Memory", head)
    assert refused.value.code == 403
    assert get(url, query="EXISTS TABLE stolen") == b"0\n"


def test_a_query_that_asks_to_only_read_cannot_write(url: str) -> None:
    with pytest.raises(HTTPError):
        post(url, b"CREATE TABLE written (a Int8) ENGINE = Memory", readonly="2")
    assert post(url, b"EXISTS TABLE written", readonly="2") == b"0\n"


@pytest.mark.parametrize("compress", [True, False, "lz4", "zstd", "gzip"])
def test_clickhouse_connect_reads_and_writes(url: str, compress: bool | str) -> None:
    client = clickhouse_connect.get_client(dsn=url, compress=compress)
    client.command("CREATE OR REPLACE TABLE both (a UInt64, v Array(Float64), s String) ENGINE = MergeTree ORDER BY a")
    written = client.insert("both", [[1, [1.5, float("inf")], "x"], [2, [], "é"]], column_names=["a", "v", "s"])
    assert written.written_rows == 2
    assert client.query("SELECT * FROM both ORDER BY a").result_rows == [(1, [1.5, float("inf")], "x"), (2, [], "é")]
    assert client.command("SELECT count() FROM both") == 2
    assert client.query_df_arrow("SELECT a, s FROM both ORDER BY a", dataframe_library="polars").equals(
        pl.DataFrame({"a": pl.Series([1, 2], dtype=pl.UInt64), "s": ["x", "é"]})
    )
    assert client.query("SELECT a FROM both WHERE 0").result_rows == []
    client.close()


def test_vectors_go_in_and_out_as_arrow(client: Client) -> None:
    client.command("CREATE OR REPLACE TABLE vectors (a UInt64, v Array(Float64)) ENGINE = MergeTree ORDER BY a")
    rows = 20_000
    cells = np.random.default_rng(1).random(rows * 101)
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(cells), 101)
    ids = np.arange(rows, dtype=np.uint64) + np.uint64(1 << 63)
    client.insert_arrow("vectors", pa.table({"a": ids, "v": vectors}))
    back = client.query_arrow("SELECT * FROM vectors ORDER BY a")
    assert np.array_equal(back.column("a").to_numpy(), ids)
    assert np.array_equal(back.column("v").combine_chunks().flatten().to_numpy(), cells)


def test_parameters_arrive_as_they_are(client: Client) -> None:
    text = "tab\there 'quote' \\ back\\slash\nline é ; -- FORMAT x"
    found = client.query(
        "SELECT {t:String}, {n:Array(UInt8)}, {d:DateTime64(9)}",
        parameters={"t": text, "n": [1, 255], "d": "2023-12-25 00:00:00.123456789"},
    )
    assert found.result_rows[0][:2] == (text, [1, 255])
    long = client.query("SELECT length({t:String})", parameters={"t": "x" * 100_000})
    assert long.result_rows == [(100_000,)]


def test_a_repeated_token_inserts_nothing(client: Client) -> None:
    client.command(
        "CREATE OR REPLACE TABLE once (a UInt64) ENGINE = MergeTree ORDER BY a "
        "SETTINGS non_replicated_deduplication_window = 100"
    )
    for token in ("one", "one", "two"):
        client.insert_arrow("once", pa.table({"a": [1, 2]}), settings={"insert_deduplication_token": token})
    assert client.command("SELECT count() FROM once") == 4


def test_errors_have_code_status_and_text(url: str, client: Client) -> None:
    with pytest.raises(DatabaseError) as caught:
        client.query("SELECT * FROM nowhere")
    assert caught.value.code == 60
    with pytest.raises(HTTPError) as failed:
        get(url, query="SELECT * FROM nowhere")
    assert failed.value.code == 404
    assert failed.value.headers["X-ClickHouse-Exception-Code"] == "60"
    body = failed.value.read().decode()
    assert body.startswith("Code: 60. DB::Exception: ")
    assert "(UNKNOWN_TABLE) (version " in body
    with pytest.raises(HTTPError, match="400"):
        post(url, b"SELECT 1; SELECT 2")
    with pytest.raises(HTTPError, match="404"):
        get(url, query="SELECT 1", no_such_setting="1")


def test_an_error_on_the_way_is_seen_by_the_client(client: Client) -> None:
    with (
        pytest.raises(StreamFailureError, match="throwIf"),
        client.query_row_block_stream("SELECT throwIf(number = 900000) FROM numbers(1000000)") as blocks,
    ):
        list(blocks)
    with client.query_row_block_stream("SELECT number FROM numbers(300000)") as blocks:
        assert sum(len(block) for block in blocks) == 300_000


def test_get_only_reads(url: str) -> None:
    assert get(url, query="SELECT 1 + {x:UInt8}", param_x="2") == b"3\n"
    with pytest.raises(HTTPError) as failed:
        get(url, query="CREATE TABLE written (a Int8) ENGINE = Memory")
    assert failed.value.headers["X-ClickHouse-Exception-Code"] == "164"


def test_formats_settings_and_summary(url: str) -> None:
    assert get(url, query="SELECT 1 AS a", default_format="JSONEachRow") == b'{"a":1}\n'
    assert get(url, query="SELECT 1 AS a FORMAT CSV", default_format="JSONEachRow") == b"1\n"
    assert get(url, query="SELECT getSetting('max_threads')", max_threads="3") == b"3\n"
    assert get(url, query="SELECT getSetting('max_threads') = 3") == b"0\n", "settings end with their request"
    assert get(url, query="SELECT timezone()") == b"UTC\n"
    with urlopen(f"{url}/?query={quote('SELECT number FROM numbers(7)')}&wait_end_of_query=1&query_id=mine") as answer:
        assert answer.headers["X-ClickHouse-Query-Id"] == "mine"
        assert answer.headers["X-ClickHouse-Format"] == "TabSeparated"
        assert '"result_rows": "7"' in answer.headers["X-ClickHouse-Summary"]
    assert urlopen(f"{url}/ping").read() == b"Ok.\n"
    assert urlopen(url).read() == b"Ok.\n"


def test_sessions_keep_what_requests_forget(url: str) -> None:
    post(url, b"CREATE TEMPORARY TABLE mine (a Int8)", session_id="s1")
    post(url, b"INSERT INTO mine VALUES (7)", session_id="s1")
    assert post(url, b"SELECT a FROM mine", session_id="s1") == b"7\n"
    for other in ({"session_id": "s2"}, {}):
        with pytest.raises(HTTPError, match="404"):
            post(url, b"SELECT a FROM mine", **other)


def test_the_asynchronous_client_reads_and_writes(url: str) -> None:
    asyncio.run(read_and_write(url))


async def read_and_write(url: str) -> None:
    client = await clickhouse_connect.get_async_client(dsn=url, compress="lz4")
    await client.command("CREATE OR REPLACE TABLE later (a UInt64, s String) ENGINE = MergeTree ORDER BY a")
    await client.insert("later", [[n, str(n)] for n in range(1_000)], column_names=["a", "s"])
    await client.insert_arrow("later", pa.table({"a": pa.array([1 << 63], pa.uint64()), "s": ["é"]}))
    found = await client.query("SELECT s FROM later WHERE a >= {x:UInt64} ORDER BY a", parameters={"x": 999})
    assert found.result_rows == [("999",), ("é",)]
    answers = await asyncio.gather(*(client.query(f"SELECT count() + {n} FROM later") for n in range(8)))
    assert [a.result_rows[0][0] for a in answers] == [1_001 + n for n in range(8)]
    with pytest.raises(DatabaseError) as caught:
        await client.query("SELECT * FROM nowhere")
    assert caught.value.code == 60
    await client.close()


def test_polars_reads_arrow_streams_over_http(url: str, client: Client) -> None:
    client.command("CREATE OR REPLACE TABLE cold (a UInt64, v Array(Float64), s String) ENGINE = MergeTree ORDER BY a")
    client.command("INSERT INTO cold SELECT number, [number, nan], toString(number) FROM numbers(200000)")
    query = urlencode(
        {"query": "SELECT * FROM cold WHERE a < {n:UInt64} ORDER BY a FORMAT ArrowStream", "param_n": "150000"}
    )
    with urlopen(f"{url}/?{query}&output_format_arrow_string_as_string=1") as answer:
        frame = pl.read_ipc_stream(answer.read())
    assert frame.shape == (150_000, 3)
    assert frame["a"].equals(pl.Series("a", range(150_000), dtype=pl.UInt64))
    assert frame["s"][-1] == "149999"
    assert frame["v"][7].to_list()[0] == 7.0
    assert pl.from_arrow(client.query_arrow("SELECT a FROM cold ORDER BY a", use_strings=True)).height == 200_000
    with client.query_arrow_stream("SELECT a FROM cold") as stream:
        assert sum(batch.num_rows for batch in stream) == 200_000


def test_arrow_streams_have_their_columns_without_rows_and_their_errors_on_the_way(url: str) -> None:
    empty = pa.ipc.open_stream(get(url, query="SELECT 1 AS a, 'x' AS b WHERE 0 FORMAT ArrowStream")).read_all()
    assert (empty.column_names, empty.num_rows) == (["a", "b"], 0)
    body = get(url, query="SELECT throwIf(number = 900000) FROM numbers(1000000) FORMAT ArrowStream")
    assert b"__exception__" in body
    assert b"Code: 395." in body
    with pytest.raises(HTTPError, match="404"):
        get(url, query="SELECT * FROM nowhere FORMAT ArrowStream")


@pytest.mark.parametrize("coding", ["gzip", "lz4", "zstd", "deflate", ""])
def test_bodies_are_coded_both_ways(url: str, coding: str) -> None:
    name = f"coded_{coding or 'plain'}"
    post(url, f"CREATE TABLE {name} (a UInt64, s String) ENGINE = MergeTree ORDER BY a".encode())
    table = pa.table({"a": pa.array(range(50_000), pa.uint64()), "s": ["row"] * 50_000})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    coder = encoder(coding) if coding else None
    plain = sink.getvalue().to_pybytes()
    body = coder.compress(plain) + coder.flush() if coder else plain
    head = {"Content-Encoding": coding} if coding else {}
    post(url, body, head, query=f"INSERT INTO {name} FORMAT ArrowStream")
    native = get(url, query=f"SELECT * FROM {name} ORDER BY a FORMAT Native")
    post(url, native, query=f"INSERT INTO {name} FORMAT Native")
    asked = Request(
        f"{url}/?{urlencode({'query': f'SELECT count(), sum(a) FROM {name}', 'enable_http_compression': '1'})}",
        headers={"Accept-Encoding": coding} if coding else {},
    )
    with urlopen(asked) as answer:
        assert answer.headers.get("Content-Encoding", "") == coding
        assert decode(answer.read(), coding, 1 << 20) == b"100000\t2499950000\n"


def test_progress_is_in_the_summary_and_while_a_query_runs_in_the_processes(url: str, client: Client) -> None:
    summary = client.query("SELECT sum(number) FROM numbers(100000)").summary
    assert (summary["read_rows"], summary["result_rows"]) == ("100000", "1")
    text = get(url, query="SELECT sum(sipHash64(number)) FROM numbers(30000000) FORMAT JSONEachRowWithProgress")
    seen = [json.loads(line) for line in text.splitlines()]
    assert any(int(s["progress"]["total_rows_to_read"]) == 30_000_000 for s in seen if "progress" in s)
    assert sum("row" in s for s in seen) == 1
    thread = threading.Thread(
        target=lambda: suppressed(
            lambda: get(url, query="SELECT sum(sipHash64(number)) FROM numbers(1000000000000)", query_id="slow-1")
        )
    )
    thread.start()
    where = "Settings['log_comment'] = 'slow-1'"
    running = f"SELECT read_rows, total_rows_approx FROM system.processes WHERE {where} AND read_rows > 0"
    while not (found := client.query(running).result_rows):
        time.sleep(0.02)
    assert found[0][0] < found[0][1] == 1_000_000_000_000
    client.command(f"KILL QUERY WHERE {where} ASYNC")
    thread.join(30)
    assert not thread.is_alive()


def suppressed(work: Callable[[], object]) -> None:
    with contextlib.suppress(HTTPError):
        work()


def test_inserts_go_on_beside_a_heavy_query_which_ends_at_its_limits(url: str, client: Client) -> None:
    client.command("CREATE OR REPLACE TABLE busy (a UInt64) ENGINE = MergeTree ORDER BY a")
    codes: list[str | None] = []

    def heavy(**limit: str) -> None:
        try:
            get(url, query="SELECT uniqExact(number) FROM numbers(1000000000000)", **limit)
        except HTTPError as error:
            codes.append(error.headers["X-ClickHouse-Exception-Code"])

    limits = ({"max_execution_time": "8"}, {"max_memory_usage": "200000000"})
    threads = [threading.Thread(target=heavy, kwargs=limit) for limit in limits]
    for thread in threads:
        thread.start()
    inserted = 0
    while any(thread.is_alive() for thread in threads):
        client.insert_arrow("busy", pa.table({"a": pa.array(range(1_000), pa.uint64())}))
        inserted += 1
    assert sorted(map(str, codes)) == ["159", "241"]
    assert inserted > 1
    assert client.command("SELECT count() FROM busy") == inserted * 1_000


def test_an_insert_that_the_table_refuses_is_not_acknowledged(url: str) -> None:
    """Its data can be read; what fails is to store it."""
    checked = "(a UInt64, CONSTRAINT small CHECK a < 5) ENGINE = MergeTree ORDER BY a"
    crowded = "(a UInt64) ENGINE = MergeTree ORDER BY a SETTINGS parts_to_throw_insert = 2"
    body = io.BytesIO()
    table = pa.table({"a": pa.array([1, 2, 7], pa.uint64())})
    with pa.ipc.new_stream(body, table.schema) as writer:
        writer.write_table(table)
    for made, code in ((checked, "469"), (crowded, "252")):
        post(url, f"CREATE OR REPLACE TABLE refusing {made}".encode())
        post(url, b"SYSTEM STOP MERGES refusing")
        said, told = "", 0
        for number in range(4):
            for data, name in ((b"%d\n" % (number * 5), "TSV"), (body.getvalue(), "ArrowStream")):
                try:
                    post(url, data, query=f"INSERT INTO refusing FORMAT {name}")
                    told += 1 if name == "TSV" else 3
                except HTTPError as error:
                    said = error.headers["X-ClickHouse-Exception-Code"]
        assert said == code
        assert int(get(url, query="SELECT count() FROM refusing")) == told


def test_the_reader_works_with_ordinary_clients(url: str, client: Client) -> None:
    """What the client asks by itself when it connects is admitted too."""
    apply_ddl(client)
    before = get(url, query="SELECT count() FROM trades")
    reader = clickhouse_connect.get_client(dsn=url.replace("//", "//reader:@"))
    assert reader.query("SELECT count() FROM trades WHERE px > {x:Int64}", parameters={"x": 1 << 62}).result_rows == [
        (0,)
    ]
    assert reader.query_arrow("SELECT * FROM trades LIMIT 0").num_rows == 0
    for sql in ("DROP TABLE trades", "SELECT * FROM url('http://127.0.0.1:1', 'CSV')"):
        with pytest.raises(DatabaseError) as caught:
            reader.command(sql)
        assert caught.value.code == 497
    with pytest.raises(DatabaseError):
        reader.insert("trades", [[1]], column_names=["px"])
    reader.close()
    assert get(url, query="SELECT count() FROM trades") == before


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_curl_inserts_and_asks(url: str) -> None:
    def curl(*words: str, data: bytes | None = None) -> bytes:
        done = subprocess.run(["curl", "-sS", *words], input=data, capture_output=True, check=True)
        return done.stdout

    curl(url, "--data-binary", "CREATE TABLE curled (a UInt32, b String) ENGINE = MergeTree ORDER BY a")
    insert = f"{url}/?query={quote('INSERT INTO curled FORMAT CSV')}"
    curl(insert, "--data-binary", "@-", data=b"".join(b"%d,x\n" % n for n in range(200_000)))
    assert curl(url, "--data-binary", "SELECT count(), sum(a) FROM curled") == b"200000\t19999900000\n"
    assert (
        curl("--compressed", f"{url}/?enable_http_compression=1&query={quote('SELECT max(a) FROM curled')}")
        == b"199999\n"
    )


def test_a_short_question_is_answered_beside_a_long_one(url: str) -> None:
    done: list[BaseException] = []

    def long() -> None:
        try:
            get(url, query="SELECT sum(sipHash64(number)) FROM numbers(1000000000000)", max_execution_time="3")
        except HTTPError as error:
            done.append(error)

    thread = threading.Thread(target=long)
    thread.start()
    try:
        answered = [get(url, query="SELECT 1") for _ in range(20)]
        assert answered == [b"1\n"] * 20
        assert not done, "the long question was still running"
    finally:
        thread.join()
    assert isinstance(done[0], HTTPError)
    assert done[0].headers["X-ClickHouse-Exception-Code"] == "159"


def test_a_login_is_asked_for_where_one_is_set(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="answer everybody"):
        EmbeddedStore(tmp_path, host="0.0.0.0")
    store = EmbeddedStore(tmp_path, check_login=lambda user, password: (user, password) == ("reader", "right"))
    ready = threading.Event()
    thread = threading.Thread(target=store.serve, args=(ready.set,))
    thread.start()
    try:
        assert ready.wait(60)
        with pytest.raises(HTTPError) as failed:
            get(store.url, query="SELECT 1")
        assert failed.value.headers["X-ClickHouse-Exception-Code"] == "516"
        assert get(store.url, query="SELECT 1", user="reader", password="right") == b"1\n"
        known = clickhouse_connect.get_client(host=store.host, port=store.port, username="reader", password="right")
        assert known.command("SELECT 1") == 1
        with pytest.raises(DatabaseError):
            clickhouse_connect.get_client(host=store.host, port=store.port, username="reader", password="wrong")
    finally:
        store.stop()
        thread.join()


def test_at_the_readers_address_everybody_is_the_reader(tmp_path: Path) -> None:
    store = EmbeddedStore(tmp_path, reader_at="127.0.0.1:0")
    ready = threading.Event()
    thread = threading.Thread(target=store.serve, args=(ready.set,))
    thread.start()
    try:
        assert ready.wait(60)
        open_to_all = f"http://127.0.0.1:{store.reader_port}"
        post(store.url, b"CREATE TABLE trades (a Int8) ENGINE = MergeTree ORDER BY a")
        assert post(open_to_all, b"SELECT count() FROM trades", {"Host": "data.example"}) == b"0\n"
        for login in ({}, {"user": "default"}, {"user": "default", "readonly": "0"}):
            with pytest.raises(HTTPError) as refused:
                post(open_to_all, b"INSERT INTO trades VALUES (1)", **login)
            assert refused.value.headers["X-ClickHouse-Exception-Code"] == "497"
        with query.asking(open_to_all, query.Question("SELECT count() AS n FROM trades")) as answer:
            assert query.write(answer, "json", tmp_path / "told.json") == 1
        assert json.loads((tmp_path / "told.json").read_text()) == [{"n": 0}]
        asked = query.Question("SELECT toDateTime(number, 'UTC') AS `a t`, toInt256(-1) AS w FROM numbers(2)")
        with query.asking(open_to_all, asked) as answer:
            assert [str(kind) for kind in answer.schema.types] == ["timestamp[s, tz=UTC]", "string"]
        for path in ("data_paths FROM system.tables", "data_path FROM system.databases"):
            with pytest.raises(HTTPError):
                post(open_to_all, f"SELECT {path}".encode())
        with pytest.raises(PortTakenError):
            EmbeddedStore(tmp_path / "other", reader_at=f"127.0.0.1:{store.reader_port}")
    finally:
        store.stop()
        thread.join()


PROCESS = """
import sys
from pathlib import Path
from control.embedded.store import EmbeddedStore
from runtime.errors import BarographError
try:
    store = EmbeddedStore(Path(sys.argv[1]))
    store.serve(lambda: print(store.url, flush=True))
except BarographError as error:
    sys.exit(f"{type(error).__name__}: {error}")
"""


def start(folder: Path) -> "tuple[subprocess.Popen[str], str]":
    process = subprocess.Popen(
        [sys.executable, "-c", PROCESS, str(folder)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


def end(process: "subprocess.Popen[str]", number: int) -> int:
    process.send_signal(number)
    process.communicate()
    return process.returncode


def test_acknowledged_rows_survive_a_kill(tmp_path: Path) -> None:
    process, url = start(tmp_path)
    try:
        post(url, b"CREATE TABLE kept (a UInt64) ENGINE = MergeTree ORDER BY a")
        acknowledged = 0

        def insert() -> None:
            nonlocal acknowledged
            for number in range(100_000):
                try:
                    post(url, b"%d\n" % number, query="INSERT INTO kept FORMAT TSV")
                except OSError:
                    return
                acknowledged = number + 1

        thread = threading.Thread(target=insert)
        thread.start()
        while acknowledged < 30:
            time.sleep(0.01)
    finally:
        end(process, signal.SIGKILL)
    thread.join()
    process, url = start(tmp_path)
    try:
        rows = int(get(url, query="SELECT count() FROM kept"))
        assert acknowledged <= rows <= acknowledged + 1
    finally:
        assert end(process, signal.SIGTERM) == 0


def test_a_store_with_many_parts_starts_again_and_has_them(tmp_path: Path) -> None:
    process, url = start(tmp_path)
    client = clickhouse_connect.get_client(dsn=url)
    apply_ddl(client)
    client.command("SYSTEM STOP MERGES")
    names = ["tape", "line", "instrument", "px"]
    for at in range(60):
        client.insert("trades", [[f"t{at}", "main", "X", at]], column_names=names)
    client.close()
    end(process, signal.SIGKILL)
    began_s = time.monotonic()
    process, url = start(tmp_path)
    taken_s = time.monotonic() - began_s
    try:
        assert get(url, query="SELECT count(), sum(px) FROM trades") == b"60\t1770\n"
        logging.getLogger(__name__).info("started again in %.2f s", taken_s)
    finally:
        assert end(process, signal.SIGTERM) == 0


def test_a_second_process_gets_one_sentence(tmp_path: Path) -> None:
    process, _ = start(tmp_path)
    try:
        second, nothing = start(tmp_path)
        _, text = second.communicate()
        assert nothing == ""
        assert second.returncode == 1
        assert text.startswith(f"FolderInUseError: a store (process {process.pid}) already runs on")
        assert text.count("\n") == 1
        with pytest.raises(FolderInUseError), running_store(tmp_path):
            pass
    finally:
        assert end(process, signal.SIGINT) == 0
    with running_store(tmp_path) as url:
        assert get(url, query="SELECT 1") == b"1\n"


def test_a_long_question_does_not_keep_the_process(tmp_path: Path) -> None:
    process, url = start(tmp_path)
    codes: list[str | None] = []

    def ask() -> None:
        try:
            post(url, b"SELECT sum(sipHash64(number)) FROM numbers(1000000000000)")
        except HTTPError as error:
            codes.append(error.headers["X-ClickHouse-Exception-Code"])

    thread = threading.Thread(target=ask)
    thread.start()
    while get(url, query="SELECT count() FROM system.processes WHERE query LIKE 'SELECT sum(sip%'") == b"0\n":
        time.sleep(0.05)
    assert end(process, signal.SIGTERM) == 0
    thread.join()
    assert codes == ["394"]


def test_a_taken_port_gets_one_sentence(tmp_path: Path, url: str) -> None:
    with pytest.raises(PortTakenError):
        EmbeddedStore(tmp_path, port=int(url.rpartition(":")[2]))
    assert not (tmp_path / "store").exists()
