"""The whole stack with authentication on: what a viewer and a trader get, and a stranger does not."""

import io
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import quote, urlencode
from urllib.request import Request, urlopen

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from websockets.exceptions import ConnectionClosedError, InvalidStatus
from websockets.sync.client import connect

from runtime.endpoints import Endpoints
from tests.integration.conftest import ROOT, left_over

pytestmark = [pytest.mark.real, pytest.mark.timeout(280)]


class Users:
    """A demo that asks for keys, and the keys of a viewer and a trader."""

    def __init__(self, folder: Path, report: Callable[..., Any]) -> None:
        self.folder, self.report = folder, report
        self.made = {r: report("keys", "add", f"a {r}", "--role", r, "--data", folder) for r in ("viewer", "trader")}
        argv = [sys.executable, "-m", "control.cli", "demo", "--seconds", "240", "--headless", "--data", str(folder)]
        env = {**os.environ, "BAROGRAPH_API_PORT": "0", "BAROGRAPH_GATEWAY_PORT": "0", "BAROGRAPH_AUTH": "keys"}
        self.process = subprocess.Popen(
            argv, cwd=ROOT, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, bufsize=1
        )
        assert self.process.stderr is not None
        before = []
        for line in self.process.stderr:
            before.append(line)
            if line.startswith("console: "):
                break
        else:
            pytest.fail("the demo did not start: " + "".join(before))
        threading.Thread(target=self.process.stderr.read, daemon=True).start()
        found = Endpoints(folder).all()
        self.api, self.gateway = found["api"], found["gateway"]

    def ask(self, path: str, role: str = "viewer", body: Any = None) -> tuple[int, bytes]:
        headers = {"Authorization": f"Bearer {self.made[role]['key']}"} if role else {}
        data = None if body is None else json.dumps(body).encode()
        request = Request(self.api + path, data, {**headers, "Content-Type": "application/json"})
        try:
            with urlopen(request, timeout=60) as answer:
                return answer.status, answer.read()
        except HTTPError as error:
            return error.code, error.read()

    def get(self, path: str, role: str = "viewer", body: Any = None) -> Any:
        status, data = self.ask(path, role, body)
        assert status == 200, data
        return json.loads(data)

    def dial(self, role: str) -> Any:
        headers = {"Authorization": f"Bearer {self.made[role]['key']}"} if role else {}
        return connect(self.gateway, additional_headers=headers, subprotocols=["barograph.v1"], compression=None)


@pytest.fixture(scope="module")
def users(tmp_path_factory: pytest.TempPathFactory, report: Callable[..., Any]) -> Iterator[Users]:
    made = Users(tmp_path_factory.mktemp("users"), report)
    yield made
    made.process.terminate()
    made.process.wait(90)
    deadline = time.monotonic() + 10
    while left_over(made.folder) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert left_over(made.folder) == []


def rows_soon(users: Users, table: str) -> int:
    """Wait for the first rows of a table."""
    for _ in range(200):
        answer = users.get("/v1/sql", "trader", {"sql": f"SELECT count() AS n FROM {table}"})
        if answer[0]["n"]:
            return int(answer[0]["n"])
        time.sleep(0.2)
    pytest.fail(f"no rows in {table}")


def test_a_stranger_gets_the_page_and_nothing_else(users: Users) -> None:
    assert users.ask("/", "")[0] == 200
    assert users.ask("/health", "")[0] == 200
    for path in ("/v1/config", "/v1/tapes", "/v1/status", "/v1/schema", "/subjects"):
        assert users.ask(path, "")[0] == 401
    with pytest.raises(InvalidStatus) as caught:
        users.dial("")
    assert caught.value.response.status_code == 401


def test_a_cursor_of_the_stream_leads_to_its_row_and_its_time_back_to_it(users: Users) -> None:
    tape = users.get("/v1/tapes/demo")
    instrument = next(iter(tape["instruments"]))
    with users.dial("viewer") as client:
        assert json.loads(client.recv(10))["op"] == "hello"
        cursor = ""
        for _ in range(100):  # the gateway looks for new tapes every few seconds
            client.send(json.dumps({"op": "subscribe", "id": 1, "tape": "demo", "instrument": instrument}))
            answer = json.loads(client.recv(10))
            if answer["op"] == "subscribed":
                break
            time.sleep(0.2)
        while not cursor:
            message = client.recv(20)
            said = json.loads(message) if isinstance(message, str) else {}
            seen = said["cursor"] if said.get("op") == "position" else ""
            cursor = seen if seen and not seen.endswith("/0.0.0") else ""
    place = users.get(f"/v1/cursor?at={quote(cursor)}")
    assert place["cursor"] == cursor
    assert place["instrument"] == instrument
    assert place["rows"] >= 1
    query = urlencode({"at": f"@{place['ts_ns']}", "tape": "demo", "instrument": instrument, "stream": "grid"})
    assert users.get(f"/v1/cursor?{query}") == place
    later = urlencode({"at": f"@{place['ts_ns'] + 1}", "tape": "demo", "instrument": instrument, "stream": "grid"})
    assert users.get(f"/v1/cursor?{later}")["ts_ns"] > place["ts_ns"]
    raw = place["cursor"].split("/")
    raw[1:3], raw[4] = ["-", "mbo"], f"{place['seq']}.0.0"
    assert users.get(f"/v1/cursor?at={quote('/'.join(raw))}")["stream"] == "mbo"
    raw[4] = f"{place['seq'] + 10_000_000}.0.0"
    assert users.ask(f"/v1/cursor?at={quote('/'.join(raw))}")[0] == 400


def test_a_trader_asks_sql_in_every_form_and_a_viewer_does_not(users: Users) -> None:
    count = rows_soon(users, "bins")
    assert users.ask("/v1/sql", "viewer", {"sql": "SELECT 1"})[0] == 403
    ask = {"sql": "SELECT bin_seq, ts_end_ns FROM bins WHERE tape = {t:String} ORDER BY ts_end_ns LIMIT 5"}
    ask = {**ask, "parameters": {"t": "demo"}}
    rows = users.get("/v1/sql", "trader", ask)
    assert 0 < len(rows) <= min(5, count)
    arrow = pa.ipc.open_stream(users.ask("/v1/sql", "trader", {**ask, "format": "arrow"})[1]).read_all()
    assert arrow.to_pylist() == rows
    parquet = pq.read_table(io.BytesIO(users.ask("/v1/sql", "trader", {**ask, "format": "parquet"})[1]))
    assert parquet.to_pylist() == rows
    csv = users.ask("/v1/sql", "trader", {**ask, "format": "csv"})[1].decode().splitlines()
    assert len(csv) == len(rows) + 1


@pytest.mark.parametrize(
    "sql",
    [
        "DROP TABLE bins", "SELECT * FROM file('/etc/passwd', 'LineAsString')", "SELECT 1; SELECT 2",
        "SELECT * FROM url('http://127.0.0.1:1/', 'LineAsString')", "SELECT * FROM system.processes",
        "SELECT 1 INTO OUTFILE '/tmp/x'", "SELECT {absent:String}", "SELECT 1 SETTINGS max_threads = 64",
        "INSERT INTO bins VALUES", "SELECT nonsense FROM",
    ],
)  # fmt: skip
def test_what_is_no_question_is_refused(users: Users, sql: str) -> None:
    status, data = users.ask("/v1/sql", "trader", {"sql": sql})
    assert status == 400, data
    assert set(json.loads(data)["error"]) == {"code", "message", "remedy"}


def test_status_tells_parts_lag_and_gaps(users: Users) -> None:
    status = users.get("/v1/status")
    assert {"kafka", "store", "gateway", "api"} <= set(status["services"])
    assert {row["consumer"] for row in status["lag"]} >= {"stage books", "stage bars", "sink clickhouse", "sink lake"}
    assert [g["tape"] for g in status["gaps"]] == ["demo"]
    assert status["errors"] == []


def admitted(users: Users, name: str) -> Any:
    """A socket of somebody whose key was made a moment ago: api and gateway each reread the keys every 5 s."""
    deadline = time.monotonic() + 30
    while users.ask("/v1/tapes", name)[0] != 200:
        assert time.monotonic() < deadline
        time.sleep(0.5)
    while True:
        try:
            return users.dial(name)
        except InvalidStatus:
            assert time.monotonic() < deadline
            time.sleep(0.5)


def test_a_revoked_key_ends_everywhere(users: Users) -> None:
    made = users.report("keys", "add", "leaver", "--data", users.folder)
    users.made["leaver"] = made
    with admitted(users, "leaver") as client:
        assert json.loads(client.recv(10))["op"] == "hello"
        users.report("keys", "revoke", made["id"], "--data", users.folder)
        revoked_s = time.monotonic()
        with suppress(ConnectionClosedError):
            list(client)
        assert client.close_code == 4003
    while users.ask("/v1/tapes", "leaver")[0] != 401:
        time.sleep(0.5)
    assert time.monotonic() - revoked_s < 30


def test_no_log_holds_a_key(users: Users) -> None:
    written = "".join(path.read_text(errors="replace") for path in (users.folder / "log").glob("*.log"))
    assert "refused" in written
    for made in users.made.values():
        assert made["key"].split("_", 2)[2] not in written
    assert "bgk_" not in written
