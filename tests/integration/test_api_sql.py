"""SQL of strangers through the api's own admission, at a real store: as its reader, and as at a server of others."""

import io
import json
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from control.api_errors import ApiError
from control.api_sql import RUNNING_MAX, Ask, answer, as_reader
from control.embedded.store import running_store
from runtime.errors import AnswerIsNo, BarographError, InputError, MissingServiceError
from sinks.clickhouse import connect
from sinks.ddl import apply_ddl

pytestmark = [pytest.mark.real, pytest.mark.timeout(200)]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_store(tmp_path_factory.mktemp("sql")) as address:
        admin = connect(address)
        apply_ddl(admin)
        admin.command("INSERT INTO trades (tape, line, instrument, px) VALUES ('t', 'main', 'X', 7)")
        yield address
        admin.close()


@pytest.fixture(params=[True, False], ids=["its reader", "a server of others"])
def place(request: pytest.FixtureRequest, url: str) -> tuple[str, bool]:
    return (as_reader(url) if request.param else url), request.param


def whole(place: tuple[str, bool], sql: str, form: str = "json", **parameters: str) -> bytes:
    ask = Ask.model_validate({"sql": sql, "format": form, "parameters": parameters})
    return b"".join(answer(place[0], ask, trusted=place[1]))


def test_every_form_holds_the_same_rows(place: tuple[str, bool]) -> None:
    sql = "SELECT number AS n, toString(number) AS s FROM numbers(100000)"
    rows = json.loads(whole(place, sql))
    assert rows[-1] == {"n": 99_999, "s": "99999"}
    assert pa.ipc.open_stream(whole(place, sql, "arrow")).read_all().to_pylist() == rows
    assert pq.read_table(io.BytesIO(whole(place, sql, "parquet"))).to_pylist() == rows
    assert len(whole(place, sql, "csv").splitlines()) == 100_001


@pytest.mark.parametrize(
    "text", ["X", "it's", "a;b", "tab\there", "line\nfeed", "back\\slash", "\\n", "é{x:String}", ""]
)
def test_parameters_arrive_as_they_are(place: tuple[str, bool], text: str) -> None:
    assert json.loads(whole(place, "SELECT {p:String} AS p", p=text)) == [{"p": text}]


@pytest.mark.parametrize(
    "sql",
    [
        "DROP TABLE trades", "INSERT INTO trades VALUES", "SELECT * FROM file('/etc/passwd', 'LineAsString')",
        "SELECT * FROM url('http://127.0.0.1:1/', 'LineAsString')", "SELECT * FROM system.processes",
        "SELECT 1 INTO OUTFILE '/tmp/x'", "SELECT 1 SETTINGS max_threads = 64", "SELECT nonsense", "SELECT FROM WHERE",
        "SELECT sleep(3)", "EXPLAIN AST SELECT 1", "SELECT 1 FORMAT CSV", "KILL QUERY WHERE 1", "SELECT 1; SELECT 2",
        "SELECT 1) UNION ALL (SELECT 2",
    ],
)  # fmt: skip
def test_what_is_no_question_is_refused(place: tuple[str, bool], sql: str) -> None:
    with pytest.raises((InputError, ApiError)) as caught:
        whole(place, sql)
    assert getattr(caught.value, "status", 400) == 400


def test_limits_end_a_query(place: tuple[str, bool]) -> None:
    with pytest.raises(AnswerIsNo, match="ended"):
        whole(place, "SELECT count() FROM numbers(20000000000) WHERE cityHash64(number) = 1")


def test_so_many_at_once_and_no_more(url: str) -> None:
    held = [answer(url, Ask(sql="SELECT number FROM numbers(1000000)"), trusted=True) for _ in range(RUNNING_MAX)]
    for one in held:
        next(one)
    with pytest.raises(ApiError) as caught:
        next(answer(url, Ask(sql="SELECT 1"), trusted=True))
    assert caught.value.status == 429
    for one in held:
        one.close()  # type: ignore[attr-defined]
    assert json.loads(whole((url, True), "SELECT 1 AS one")) == [{"one": 1}]


def test_nobody_there_is_said() -> None:
    with pytest.raises(MissingServiceError):
        whole(("http://127.0.0.1:9", True), "SELECT 1")
    with pytest.raises(BarographError):
        whole(("http://127.0.0.1:9", False), "SELECT 1")
