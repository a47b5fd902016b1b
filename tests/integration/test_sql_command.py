"""`barograph sql` and `barograph migrate` as a user calls them, on a store in a process of its own."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from control import query
from control.embedded.store import running_store
from runtime.errors import AnswerIsNo, InputError, MissingServiceError
from sinks.clickhouse import connect

pytestmark = pytest.mark.real
ROOT = Path(__file__).parents[2]
Cli = Callable[..., "subprocess.CompletedProcess[str]"]

ROWS = 300_000
WIDE = "SELECT number AS n, toString(number) AS s, [number, 1] AS list, number / 7 AS x FROM numbers({rows:UInt64})"


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_store(tmp_path_factory.mktemp("sql")) as address:
        yield address


def ask(cli: Cli, url: str, *words: object) -> Any:
    return cli("sql", *words, "--clickhouse-url", url)


@pytest.mark.parametrize("form", ["csv", "parquet", "arrow", "json"])
def test_every_format_holds_every_row_exactly(cli: Cli, url: str, tmp_path: Path, form: str) -> None:
    rows = ROWS if form != "json" else 3_000
    out = tmp_path / f"answer.{form}"
    done = ask(cli, url, WIDE, "--param", f"rows={rows}", "--format", form, "--out", out)
    assert done.returncode == 0, done.stderr
    assert [p.name for p in tmp_path.iterdir()] == [out.name], "nothing beside it"
    n = np.arange(rows)
    if form == "json":
        frame = pl.DataFrame(json.loads(out.read_text()))
    elif form == "csv":
        frame = pl.read_csv(out, schema_overrides={"s": pl.String}).with_columns(
            pl.col("list").str.json_decode(pl.List(pl.Int64))
        )
    else:
        table = pq.read_table(out) if form == "parquet" else pa.ipc.open_stream(out.read_bytes()).read_all()
        frame = pl.from_arrow(table)
    assert frame.columns == ["n", "s", "list", "x"]
    assert np.array_equal(frame["n"].to_numpy(), n)
    assert frame["s"].to_list() == [str(i) for i in range(rows)]
    assert frame["list"].to_list() == [[i, 1] for i in range(rows)]
    assert np.array_equal(frame["x"].to_numpy(), n / 7)
    assert done.stdout == ""


@pytest.mark.parametrize(("form", "wanted"), [("json", []), ("csv", '"n","s"\n'), ("table", "n")])
def test_an_answer_without_rows_has_its_columns(cli: Cli, url: str, form: str, wanted: object) -> None:
    done = ask(cli, url, "SELECT number AS n, 'x' AS s FROM numbers(0)", "--format", form)
    assert done.returncode == 0, done.stderr
    if form == "json":
        assert json.loads(done.stdout) == wanted
    elif form == "csv":
        assert done.stdout == wanted
    elif form == "table":
        assert str(wanted) in done.stdout


def test_a_table_counts_what_it_does_not_show_and_is_not_cut(cli: Cli, url: str) -> None:
    columns = ", ".join(f"number + {10**15 + at} AS column_number_{at}" for at in range(12))
    done = ask(cli, url, f"SELECT {columns} FROM numbers(1234)")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines[0]) > 240
    assert all(f"column_number_{at}" in done.stdout for at in range(12))
    assert lines[-1] == "… and 1,134 more rows"
    assert "1,000,000,000,000,011" in done.stdout


def test_denormal_numbers_and_bytes_have_a_form_in_json(cli: Cli, url: str) -> None:
    done = ask(cli, url, "SELECT nan AS a, -inf AS b, 18446744073709551615 AS c, [inf] AS d", "--json")
    assert json.loads(done.stdout) == [{"a": "nan", "b": "-inf", "c": (1 << 64) - 1, "d": ["inf"]}]


def test_a_time_is_a_time_in_every_format(cli: Cli, url: str, tmp_path: Path) -> None:
    """ClickHouse's Arrow has hours and minutes as bare seconds; what it has as UInt32 stays a number."""
    sql = "SELECT toStartOfHour(fromUnixTimestamp64Nano(1704206874544403425, 'UTC')) AS hour, toUInt32(7) AS n;"
    assert "2024-01-02 14:00:00 UTC" in ask(cli, url, sql).stdout
    assert ask(cli, url, sql, "--format", "csv").stdout == '"hour","n"\n2024-01-02 14:00:00Z,7\n'
    assert json.loads(ask(cli, url, sql, "--json").stdout) == [{"hour": "2024-01-02 14:00:00+00:00", "n": 7}]
    for form in ("parquet", "arrow"):
        out = tmp_path / form
        assert ask(cli, url, sql, "--format", form, "--out", out).returncode == 0
        table = pq.read_table(out) if form == "parquet" else pa.ipc.open_stream(out.read_bytes()).read_all()
        assert pa.types.is_timestamp(table.schema.field("hour").type)
        assert table["hour"].cast(pa.timestamp("s", "UTC")).cast(pa.int64()).to_pylist() == [1704204000]
        assert table["n"].to_pylist() == [7]


def test_wide_integers_are_their_digits(cli: Cli, url: str) -> None:
    sql = "SELECT toInt128('-170141183460469231731687303715884105728') AS a, toUInt256(7) AS b, toInt128(NULL) AS c"
    done = ask(cli, url, sql, "--json")
    assert json.loads(done.stdout) == [{"a": str(-(1 << 127)), "b": "7", "c": None}], done.stderr


@pytest.mark.parametrize("form", ["table", "csv", "json"])
def test_columns_of_one_name_are_all_there(cli: Cli, url: str, form: str) -> None:
    done = ask(cli, url, "SELECT 5, 6 AS `5_2`, 5", "--format", form)
    assert done.returncode == 0, done.stderr
    assert all(name in done.stdout for name in ("5", "5_2", "5_3"))


@pytest.mark.parametrize("form", query.FORMATS)
def test_bytes_that_are_no_text_are_one_sentence(cli: Cli, url: str, tmp_path: Path, form: str) -> None:
    done = ask(cli, url, "SELECT unhex('ff') AS x", "--format", form, "--out", tmp_path / "x")
    assert done.returncode == 2
    assert done.stderr == "barograph: column x holds bytes that are no text; ask for hex() or base64Encode() of it\n"
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_no_text_is_one_sentence(cli: Cli, url: str, tmp_path: Path) -> None:
    (tmp_path / "q.sql").write_bytes(b"\xff\xfe")
    done = ask(cli, url, "--file", tmp_path / "q.sql")
    assert done.returncode == 2
    assert "q.sql is no text in UTF-8" in done.stderr


def test_a_file_of_sql_and_parameters_that_are_hostile(cli: Cli, url: str, tmp_path: Path) -> None:
    file = tmp_path / "question.sql"
    file.write_text("SELECT {a:String} AS a, {b:UInt64} AS b -- 100% plain\n")
    text = 'it\'s \\ "x"; DROP TABLE trades -- % {b:UInt64} é'
    done = ask(cli, url, "--file", file, "--param", f"a={text}", "--param", f"b={(1 << 64) - 1}", "--json")
    assert json.loads(done.stdout) == [{"a": text, "b": (1 << 64) - 1}], done.stderr


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["SELECT nonsense"], 2, "refuses the query: Code: 47."),
        (["DROP TABLE trades"], 2, "ClickHouse refuses the query"),
        (["SELECT 1 INTO OUTFILE '/tmp/x'"], 2, "INTO OUTFILE is not allowed"),
        (["SELECT {a:String}"], 2, "the query needs a value for a"),
        (["SELECT 1", "--param", "a=1"], 2, "is for nothing in the query"),
        (["SELECT 1", "--format", "xml"], 2, "--format xml is not known"),
        ([], 2, "give a SELECT"),
        (["SELECT throwIf(number = 2000000) FROM numbers(3000000)", "--format", "csv"], 2, "Code: 395."),
        (
            ["SELECT sum(sipHash64(number)) FROM numbers(1000000000000) SETTINGS max_execution_time = 1"],
            1,
            "Code: 159.",
        ),
        (["SELECT 1", "--out", "/nowhere/at/all.csv", "--format", "csv"], 2, "/nowhere/at/all.csv cannot be written"),
    ],
)
def test_failures_are_one_sentence_with_their_code(cli: Cli, url: str, words: list[str], code: int, said: str) -> None:
    done = ask(cli, url, *words)
    assert done.returncode == code, done.stderr
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


def test_nobody_there_is_a_missing_service(cli: Cli) -> None:
    done = cli("sql", "SELECT 1", "--clickhouse-url", "http://127.0.0.1:1")
    assert done.returncode == 3
    assert done.stderr.startswith("barograph: no ClickHouse answers at")


def test_a_full_or_failing_file_leaves_what_was_there(url: str, tmp_path: Path, monkeypatch: Any) -> None:
    out = tmp_path / "kept.csv"
    out.write_text("before")
    with (
        pytest.raises(InputError, match="Code: 395"),
        query.asking(url, query.Question("SELECT throwIf(number = 900000) FROM numbers(1000000)")) as answer,
    ):
        query.write(answer, "csv", out)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with (
        pytest.raises(InputError, match="No space left on device"),
        query.asking(url, query.Question("SELECT 1")) as answer,
    ):
        query.write(answer, "parquet", out)
    assert out.read_text() == "before"
    assert list(tmp_path.iterdir()) == [out]


def test_an_answer_is_not_gathered_in_memory(url: str) -> None:
    """The first batch is there while the server still computes the rest; then the query is cancelled."""
    question = query.Question("SELECT number, sipHash64(number) FROM numbers(100000000000)")

    def interrupted() -> None:
        with query.asking(url, question) as answer:
            assert next(answer).num_rows > 0
            found = query.progress(url, question)
            assert found is not None
            assert 0 < found.read_rows < found.total_rows == 100_000_000_000
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    await_end(url, question.comment)


def await_end(url: str, comment: str) -> None:
    client = connect(url)
    running = "SELECT count() FROM system.processes WHERE Settings['log_comment'] = {c:String}"
    for _ in range(400):
        if client.query(running, parameters={"c": comment}).result_rows == [(0,)]:
            break
        time.sleep(0.02)
    assert client.query(running, parameters={"c": comment}).result_rows == [(0,)]
    client.close()


def test_somebody_elses_cancel_is_told_as_one(url: str) -> None:
    question = query.Question("SELECT number, sipHash64(number) FROM numbers(100000000000)")
    with pytest.raises(AnswerIsNo, match="Code: 394"):
        read_after(url, question, lambda: query.cancel(url, question))


def read_after(url: str, question: query.Question, happens: Callable[[], object]) -> None:
    """Read an answer to its end; after the first rows, something happens."""
    with query.asking(url, question) as answer:
        next(answer)
        happens()
        for _ in answer:
            pass


def test_ctrl_c_cancels_on_the_server(url: str, tmp_path: Path) -> None:
    sql = "SELECT sum(sipHash64(number)) FROM numbers(1000000000000)"
    argv = [sys.executable, "-m", "control.cli", "sql", sql, "--clickhouse-url", url, "--out", str(tmp_path / "x")]
    process = subprocess.Popen(argv, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    client = connect(url)
    running = "SELECT Settings['log_comment'] FROM system.processes WHERE query LIKE 'SELECT sum(sipHash64%'"
    found: list[Any] = []
    while not found and process.poll() is None:
        found = client.query(running).result_rows
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, text = process.communicate(timeout=60)
    assert process.returncode == 130, text
    client.close()
    await_end(url, found[0][0])
    assert list(tmp_path.iterdir()) == []


def test_a_store_that_goes_away_on_the_way_is_a_missing_service(tmp_path: Path) -> None:
    question = query.Question("SELECT number, sipHash64(number) FROM numbers(100000000000)")
    code = "import sys, time\nfrom pathlib import Path\nfrom control.embedded.store import EmbeddedStore\n"
    code += "s = EmbeddedStore(Path(sys.argv[1]))\ns.serve(lambda: print(s.url, flush=True))"
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert process.stdout is not None
    address = process.stdout.readline().strip()

    def kill() -> None:
        process.kill()
        process.communicate()

    with pytest.raises(MissingServiceError, match="went away"):
        read_after(address, question, kill)


def test_migrate_makes_everything_once(cli: Cli, url: str) -> None:
    first, second = (cli("migrate", "--clickhouse-url", url, "--json") for _ in range(2))
    assert first.returncode == second.returncode == 0, first.stderr
    made, again = json.loads(first.stdout), json.loads(second.stdout)
    assert len(made["changed"]) == made["tables"] + made["views"] > 15
    assert again["changed"] == []
    done = ask(cli, url, "SELECT count() AS n FROM schema_versions WHERE name = 'grid_long'", "--json")
    assert json.loads(done.stdout) == [{"n": 1}]
