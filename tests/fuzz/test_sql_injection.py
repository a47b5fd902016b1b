"""What strangers try: a thousand hostile strings as parameters, identifiers and whole queries; none gets out.

Beside the tables lies a secret, in a file of its own and in another database. Whatever is asked, the answer must not
hold it, nothing may be written, and the tables must be the same afterwards.
"""

import json
import random
import secrets
from collections.abc import Iterator
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import Request, urlopen

import pytest

from control.embedded.store import running_store
from control.embedded.store_admission import LIMITS, judge, read_tree, settings_of
from control.embedded.store_sql import StoreError
from sinks.clickhouse import connect
from sinks.ddl import apply_ddl

pytestmark = pytest.mark.real

SECRET = "oy7Secret0fTheMachine"
FUZZED = 1_000
AT_ONCE = 5
"""Parameters of one query."""


class Store:
    """A store with a table of ours, a database of somebody else, and a file beside it."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url, self.folder = url, folder
        self.admin = connect(url)
        apply_ddl(self.admin)
        self.admin.command("INSERT INTO trades (tape, line, instrument, px) VALUES ('t', 'main', 'X', 7)")
        self.admin.command("CREATE DATABASE hidden")
        self.admin.command("CREATE TABLE hidden.secrets (a String) ENGINE = MergeTree ORDER BY a")
        self.admin.command(f"INSERT INTO hidden.secrets VALUES ('{SECRET}')")
        (folder / "secret.txt").write_text(SECRET + "\n")
        self.loose = Path.cwd() / f"loose{secrets.token_hex(6)}"  # a plain word: in the folder of the process, a table
        self.loose.write_text(SECRET + "\n")

    def ask(self, sql: str, **values: str) -> tuple[int, bytes]:
        """Status and body of a query of the reader."""
        request = Request(f"{self.url}/?{urlencode({'user': 'reader', **values})}", data=sql.encode(), method="POST")
        try:
            with urlopen(request, timeout=60) as answer:
                return answer.status, answer.read()
        except HTTPError as error:
            return error.code, error.read()

    def state(self) -> tuple[object, ...]:
        """Everything that a reader could have changed."""
        tables = self.admin.query(
            "SELECT database, name FROM system.tables WHERE database NOT IN ('system') ORDER BY ALL"
        )
        files = sorted(path.name for path in self.folder.iterdir())
        return tables.result_rows, self.admin.command("SELECT count(), sum(px) FROM trades"), files


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    folder = tmp_path_factory.mktemp("fuzz")
    with running_store(folder) as url:
        made = Store(url, folder)
        yield made
        made.admin.close()
        made.loose.unlink()


@pytest.fixture(autouse=True)
def nothing_changes(store: Store) -> Iterator[None]:
    before = store.state()
    yield
    assert store.state() == before


ADMITTED = [
    "SELECT count() FROM trades",
    "SELECT px FROM default.trades AS t JOIN (SELECT 1 AS one) AS o ON o.one = 1 WHERE t.px IN (7, 8) FORMAT CSV",
    "WITH known AS (SELECT px FROM trades) SELECT sum(px) FROM known WHERE px IN (SELECT px FROM known)",
    "SELECT * FROM bars_of(interval_ns = 1000) UNION ALL SELECT * FROM bars_of(interval_ns = 2000)",
    "SELECT number, lagInFrame(number) OVER (ORDER BY number) FROM numbers(5) ORDER BY 1 LIMIT 2 BY 1;",
    "SELECT * FROM view(SELECT px FROM trades) ARRAY JOIN [1, 2] AS x WHERE px NOT IN (1, 2)",
    "SELECT COLUMNS('^px$') FROM trades GROUP BY px WITH TOTALS HAVING px > 0",
    "SELECT name, value FROM system.settings LIMIT 1",
    "SELECT {x:String} AS `quoted name`, 'it''s' || '' WHERE 0 = 1",
    "(SELECT 1 EXCEPT SELECT 2) -- comment",
    "WITH RECURSIVE r AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM r WHERE n < 3), q (a) AS (SELECT 7) "
    "SELECT * FROM r, q WHERE a IN q",
    "WITH 'a AS (' AS text, `known` AS MATERIALIZED (SELECT px FROM `default`.`trades` GROUP BY px) "
    "SELECT text FROM known WHERE px IN known OR px IN (SELECT px FROM trades) # known AS (",
    "SELECT px AS `how (much)`, [1] AS `a\"b` FROM trades WHERE tape LIKE 'a\\_b' OR 'x\\ny' = $$`$$",
]


@pytest.mark.parametrize("sql", ADMITTED)
def test_ordinary_questions_are_admitted(store: Store, sql: str) -> None:
    status, body = store.ask(sql, param_x="'; DROP TABLE trades; --")
    assert status == 200, body


REFUSED = [
    "SELECT * FROM url('http://127.0.0.1:1/', 'CSV')",
    "SELECT * FROM `url`('http://127.0.0.1:1/', 'CSV')",
    "SELECT 1 IN url('http://127.0.0.1:1/', 'CSV')",
    "SELECT * FROM file('{folder}/secret.txt', 'LineAsString')",
    "SELECT file('{folder}/secret.txt')",
    "SELECT FILE('{folder}/secret.txt')",
    "SELECT '{folder}/secret.txt' AS a, (a -> file(a))(a)",
    "SELECT arrayMap(x -> file(x), ['{folder}/secret.txt'])",
    "SELECT * APPLY(file) FROM (SELECT '{folder}/secret.txt' AS a)",
    "SELECT * FROM (SELECT * FROM view(SELECT file('{folder}/secret.txt')))",
    "WITH file('{folder}/secret.txt') AS a SELECT a",
    "SELECT 1 INTO OUTFILE '{folder}/out.csv'",
    "SELECT 1 UNION ALL SELECT 2 INTO OUTFILE '{folder}/out.csv' TRUNCATE FORMAT CSV",
    "SELECT * FROM s3('http://127.0.0.1:1/b/k')",
    "SELECT * FROM remote('127.0.0.1', system.one)",
    "SELECT * FROM cluster('default', system.one)",
    "SELECT * FROM executable('id', 'TSV', 'a String')",
    "SELECT * FROM python('store')",
    "SELECT * FROM Python(store)",
    "SELECT * FROM merge('hidden', '.*')",
    "SELECT * FROM hidden.secrets",
    "SELECT * FROM `hidden`.`secrets`",
    "SELECT '" + SECRET + "' IN hidden.secrets",
    "SELECT * FROM trades WHERE tape IN (hidden.secrets)",
    "SELECT * FROM system.processes",
    "SELECT * FROM SYSTEM.one",
    "SELECT * FROM information_schema.tables",
    "SELECT joinGet('hidden.secrets', 'a', 1)",
    "SELECT dictGet('hidden.d', 'a', 1)",
    "SELECT sleep(3)",
    "SELECT sleepEachRow(1) FROM numbers(9)",
    "SELECT hostName()",
    "SELECT getServerSetting('max_connections')",
    "SELECT aiGenerate('x')",
    "SELECT 1 SETTINGS readonly = 0",
    "SELECT * FROM (SELECT 1 SETTINGS max_threads = 64)",
    "INSERT INTO trades (px) VALUES (1)",
    "DROP TABLE trades",
    "INSERT INTO FUNCTION file('{folder}/out.csv', 'CSV', 'a Int8') SELECT 1",
    "CREATE TABLE x (a Int8) ENGINE = Memory",
    "SET max_threads = 64",
    "USE hidden",
    "KILL QUERY WHERE 1",
    "SYSTEM SHUTDOWN",
    "SHOW TABLES",
    "DESCRIBE TABLE trades",
    "EXPLAIN SELECT 1",
    "SELECT 1 PARALLEL WITH SELECT 2",
    "SELECT 1; SELECT 2",
    "SELECT 1 # '\n; DROP TABLE trades # '",
    "SELECT ‘'’ ; DROP TABLE trades -- '",
    "SELECT * FROM eval('DROP TABLE trades')",
    "ATTACH DATABASE x",
    "",
    "BACKUP TABLE trades TO File('{folder}/out')",
    "SELECT * FROM loop(trades)",
    "GRANT ALL ON *.* TO reader",
    "SELECT * FROM mergeTreeIndex('default', 'trades')",
    "SELECT * FROM dictionary('x')",
    "OPTIMIZE TABLE trades",
    "SELECT * FROM filesystem('/')",
    "SELECT * FROM sqlite('{folder}/x.db', 'x')",
    "TRUNCATE TABLE trades",
]


FILES_AS_TABLES = [
    "SELECT * FROM '{file}'",
    "SELECT * FROM `{file}`",
    'SELECT * FROM "{file}"',
    "SELECT * FROM default.`{file}`",
    "SELECT * FROM trades LEFT JOIN '{file}' AS f ON 1",
    "SELECT * FROM trades, `{file}`",
    "SELECT * FROM (SELECT * FROM '{file}')",
    "SELECT * FROM view(SELECT * FROM '{file}')",
    "SELECT (SELECT any(*) FROM '{file}')",
    "SELECT 1 IN (SELECT * FROM '{file}')",
    "SELECT 'x' IN `{file}`",
    "SELECT 'x' NOT IN (`{file}` AS f)",
    "SELECT in('x', `{file}`)",
    "SELECT x -> x IN `{file}`",
    "WITH 1 AS `{file}` SELECT * FROM `{file}`",
    "WITH `{file}` AS (SELECT 1) SELECT (SELECT any(*) FROM `{file}`)",
    "WITH `{file}` AS (SELECT * FROM `{file}`) SELECT * FROM `{file}`",
    "SELECT (WITH `{file}` AS (SELECT 1) SELECT 1), * FROM `{file}`",
    "SELECT 'x AS (', * FROM `{file}`",
    "SELECT * FROM {name:Identifier}",
    "SELECT 'x' IN {name:Identifier}",
    "SELECT * FROM `trades (alias x/../../../../../../../../../..{file}` AS t",
    "SELECT 'x' IN `trades (alias x/../../../../../../../../../..{file}` AS t",
    "SELECT * FROM `trades\\n     Literal /../../../../../../../../../..{file}`",
    "SELECT * FROM `trades\n     Literal /../../../../../../../../../..{file}`",
    "SELECT file('{file}', 'LineAsString') AS `x\\n      Literal y`",
    "SELECT file('{file}') AS `x) (children 1)\\n     ExpressionList (children 1)\\n      Literal y`",
    "SELECT ('x' AS `z\\n     Literal q`) IN `{file}`",
    "SELECT hasColumnInTable('default', '{file}', 'c1')",
]
"""The engine's own database lies over the file system."""


@pytest.mark.parametrize("number", range(4))
@pytest.mark.parametrize("sql", FILES_AS_TABLES)
def test_no_file_is_a_table(store: Store, sql: str, number: int) -> None:
    """Whether it is there or not, which is not told either; and also after the owner looked at it."""
    there = str(store.folder / "secret.txt")
    store.admin.query(f"SELECT * FROM file('{there}', 'LineAsString')")
    name = (there, str(store.loose), there + ".not", str(store.folder / "*.t?t"))[number]
    status, body = store.ask(sql.replace("{file}", name), param_name=name)
    assert status == 403, body
    assert b"Code: 497." in body
    assert SECRET.encode() not in body


@pytest.mark.parametrize("sql", [s for s in FILES_AS_TABLES if "/.." not in s])
def test_no_file_in_the_folder_of_the_process_is_a_table(store: Store, sql: str) -> None:
    name = store.loose.name
    status, body = store.ask(sql.replace("{file}", name), param_name=name)
    assert status == 403, body
    assert SECRET.encode() not in body


@pytest.mark.parametrize("sql", REFUSED)
def test_what_reaches_out_is_refused(store: Store, sql: str) -> None:
    status, body = store.ask(sql.replace("{folder}", str(store.folder)))
    assert status >= 400, body
    assert SECRET.encode() not in body.replace(sql.encode(), b"")


@pytest.mark.parametrize(
    "values",
    [
        {"readonly": "0"}, {"max_execution_time": "x"}, {"format_schema": "/etc/passwd"}, {"allow_ddl": "1"},
        {"output_format_schema": "/tmp/x"}, {"log_queries": "0"}, {"allow_experimental_eval_table_function": "1"},
    ],
)  # fmt: skip
def test_settings_that_would_loosen_anything_are_refused(store: Store, values: dict[str, str]) -> None:
    status, _ = store.ask("SELECT getSetting('readonly')", **values)
    assert status >= 400


def test_limits_hold_and_may_be_lowered(store: Store) -> None:
    assert settings_of({})["max_threads"] == "2"
    assert settings_of({"max_threads": "1", "max_execution_time": "99999"})["max_threads"] == "1"
    assert settings_of({"max_execution_time": "99999"})["max_execution_time"] == str(LIMITS["max_execution_time"])
    assert settings_of({"max_memory_usage": "0"})["max_memory_usage"] == str(LIMITS["max_memory_usage"])
    for sql, values, code in (
        ("SELECT sum(sipHash64(number)) FROM numbers(1000000000)", {"max_execution_time": "1"}, "159"),
        ("SELECT groupArray(number) FROM numbers(10000000)", {"max_memory_usage": "1000000"}, "241"),
        ("SELECT number FROM numbers(1000)", {"max_result_rows": "10"}, "396"),
        ("SELECT count() FROM numbers(10000)", {"max_rows_to_read": "10"}, "158"),
    ):
        status, body = store.ask(sql, **values)
        assert status >= 400, sql
        assert f"Code: {code}.".encode() in body, body
    status, body = store.ask("SELECT value FROM system.settings WHERE name = 'max_threads'", session_id="mine")
    assert body == b"2\n"


PIECES = [
    "'",
    '"',
    "`",
    "\\",
    ";",
    "--",
    "/*",
    "*/",
    "#",
    "# ",
    "\n",
    "\0",
    "‘",
    "’",
    "“",
    "”",
    "$$",
    "$x$",
    ")",
    "(",
    "{",
    "}",
    "{x:Identifier}",
    " UNION ALL ",
    " INTO OUTFILE '/tmp/out' ",
    "file('/etc/passwd')",
    "'/etc/passwd'",
    "`/etc/passwd`",
    "/etc/passwd",
    "default.`/etc/group`",
    " FROM '/etc/pass*'",
    " IN `/etc/passwd`",
    "WITH `/etc/passwd` AS (SELECT 1)",
    "?",
    "*",
    "../",
    " (alias ",
    "url('http://127.0.0.1:1')",
    "SELECT",
    " FROM ",
    "hidden.secrets",
    "system.processes",
    "DROP TABLE trades",
    "SETTINGS readonly=0",
    " FORMAT ",
    "SELECT * FROM hidden.secrets",
    " IN ",
    "view(",
    "python('x')",
    "trades",
    "AS",
    ",",
    ".",
    "=",
    " ",
    "%27",
    "%00",
    "é",
    "\\'",
    "''",
    "\\x27",
    "0x",
    "NULL",
    "1",
    "-1",
    "9999999999999999999999",
    "Array(",
    "remote('127.0.0.1', hidden.secrets)",
]


def hostile(dice: random.Random) -> str:
    """A string that tries to be something else."""
    return "".join(dice.choice(PIECES) for _ in range(dice.randint(1, 9)))


def test_a_thousand_hostile_parameters_stay_values(store: Store) -> None:
    """A parameter of type String comes back byte for byte, whatever it is; through the same escapes as clients use."""
    dice = random.Random(6)
    for _ in range(FUZZED // AT_ONCE):
        texts = {f"x{n}": hostile(dice) for n in range(AT_ONCE)}
        escaped = {
            f"param_{name}": text.replace("\\", "\\\\").replace("\t", "\\t").replace("\n", "\\n").replace("\0", "\\0")
            for name, text in texts.items()
        }
        cells = ", ".join(f"{{{name}:String}} AS {name}" for name in texts)
        equal = " OR ".join(f"instrument = {{{name}:String}}" for name in texts)
        sql = f"SELECT {cells}, count() AS n FROM trades WHERE {equal} OR 1 GROUP BY {', '.join(texts)}"
        status, body = store.ask(sql + " FORMAT JSONEachRow", **escaped)
        assert status == 200, (texts, body)
        assert json.loads(body) == {**texts, "n": 1}


def test_a_thousand_hostile_identifiers_and_queries_get_nothing(store: Store) -> None:
    dice = random.Random(7)
    passed = 0
    for number in range(FUZZED):
        text = hostile(dice)
        if number % 2:
            status, body = store.ask("SELECT * FROM {x:Identifier}", param_x=text)
        else:
            status, body = store.ask(f"SELECT {text} FROM trades {hostile(dice)}")
        passed += status == 200
        assert SECRET.encode() not in body, text
        assert b"root:" not in body, text
        if number % 100 == 0:
            assert store.admin.command("SELECT sum(px) FROM trades") == 7
    assert passed < FUZZED // 4


def test_a_tree_that_is_none_is_refused() -> None:
    for text in ("", "Selekt1", "SelectWithUnionQuery\n   Deep", "SelectWithUnionQuery\nSelectWithUnionQuery"):
        with pytest.raises(StoreError, match="not admitted"):
            judge(text)
    tree = read_tree("A (children 1)\n Function url (alias x) (children 1)\n  Literal 'a'\n")
    assert [(n.kind, n.name) for n in tree.walk()] == [("A", ""), ("Function", "url"), ("Literal", "'a'")]
