"""The store process against the clients people use: clickhouse-connect, curl, polars."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
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

from control.embedded.store import EmbeddedStore, running_store
from runtime.errors import FolderInUseError, PortTakenError, UsageError

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
