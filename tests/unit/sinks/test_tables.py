from sinks.base import Batch, Entry, Lane
from sinks.ddl import VIEWS, file_of, sql_of
from sinks.ddl.render import table_sql
from sinks.retry import FATAL, PAUSE_MAX_S, RETRIED, Backoff, may_pass
from sinks.tables import TABLES, all_tables
from tests.unit.sinks.messages import first_of_each, make_tape


def test_files_are_what_the_declarations_render() -> None:
    tables = all_tables()
    assert {name: file_of(name) for name in tables} == {name: table_sql(spec) for name, spec in tables.items()}
    assert all("CREATE OR REPLACE VIEW" in sql_of(name) for name in VIEWS)
    assert not set(VIEWS) & set(tables)


def test_tokens_name_range_tape_line_and_columns() -> None:
    messages = first_of_each(make_tape().topics["t1.main.bins.v1"], raw=False)
    entries = tuple(Entry(m, *place) for place, m in messages.items())
    lanes = [
        Lane("t1", "id", "main", TABLES["bins"], 0),
        Lane("t1", "id2", "main", TABLES["bins"], 0),
        Lane("t1", "id", "other", TABLES["bins"], 0),
        Lane("t1", "id", "main", TABLES["trades"], 0),
        Lane("t1", "id", "main", TABLES["bins"], 1),
    ]
    tokens = [Batch(lane, entries).token for lane in lanes] + [Batch(lanes[0], entries[:-1]).token]
    assert len(set(tokens)) == len(tokens)
    assert tokens[0].startswith("id:main.bins:0:0.0-")
    assert (
        Batch(Lane("t1", "id", "a", TABLES["mbo"], 0), entries).token
        == Batch(Lane("t1", "id", "b", TABLES["mbo"], 0), entries).token
    )


def test_an_error_is_retried_or_fatal_and_says_why() -> None:
    assert not RETRIED.keys() & FATAL.keys()
    assert all(": " in why for why in (*RETRIED.values(), *FATAL.values()))
    assert may_pass(None)
    assert may_pass(252)
    assert not may_pass(60)
    assert not may_pass(999_999)


def test_pauses_grow_and_stay_bounded() -> None:
    backoff = Backoff()
    pauses = [backoff.next_s() for _ in range(40)]
    assert pauses == sorted(pauses)
    assert pauses[-1] == PAUSE_MAX_S
