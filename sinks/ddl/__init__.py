"""Tables and views of the store, and the one command that makes or brings up to date what is in a database.

A table is rendered from its declaration (`sinks.ddl.render`); `TABLE.sql` beside this file shows what comes of it, and
a test compares. A view's file is written by hand. What was applied, and when, stands in the table `schema_versions`;
what is recorded there by its hash is not applied again. A changed table gets the columns and indexes that are new; a
column that changed its type or is gone is refused, because rows that exist would be bent.

`schema_versions` also holds the database's identity, a random number made with it. Sinks keep their progress under it,
so that a database that was deleted is filled again from the start.
"""

import logging
import re
import secrets
from dataclasses import dataclass
from hashlib import sha256
from importlib import resources
from typing import Final

from clickhouse_connect.driver.client import Client

from runtime.errors import InputError
from sinks.ddl.render import column_types, table_sql
from sinks.tables import all_tables

log = logging.getLogger(__name__)

VIEWS: Final = (
    "bins_full", "grid_long", "bars_of", "volume_profile", "trades_as_of", "quality_calendar",
    "tapes", "runs", "cutovers", "instruments",
)  # fmt: skip
"""Views by name, in the order in which they are applied, after the tables."""

PARAMETERISED: Final = ("bars_of", "volume_profile")
"""Views that are asked with parameters, as table functions are."""

IDENTITY: Final = "identity"

_VERSIONS: Final = """
CREATE TABLE IF NOT EXISTS schema_versions
(
    name String COMMENT 'file, or identity',
    sha256 String COMMENT 'hash of the file as applied, or the identity',
    applied_at DateTime64(3, 'UTC') DEFAULT now64(3, 'UTC')
)
ENGINE = MergeTree ORDER BY (name, applied_at)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1
"""
_VIEW: Final = re.compile(r"^\s*(?:--[^\n]*\n\s*)*CREATE OR REPLACE VIEW", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Applied:
    """Outcome: the database's identity, and the tables and views that were applied now."""

    identity: str
    changed: tuple[str, ...]


def sql_of(name: str) -> str:
    """The statement that makes a table or a view."""
    table = all_tables().get(name)
    return table_sql(table) if table else file_of(name)


def file_of(name: str) -> str:
    """What stands in `NAME.sql`."""
    return (resources.files(__package__) / f"{name}.sql").read_text()


def apply_ddl(client: Client) -> Applied:
    """Make the tables and views that are missing or old. Doing it again changes nothing.

    Raises:
        InputError: a table that exists has a column of another type, or one that is no longer declared.
    """
    client.command(_VERSIONS)
    latest = client.query("SELECT name, argMax(sha256, applied_at) FROM schema_versions GROUP BY name")
    applied = {str(name): str(digest) for name, digest in latest.result_rows}
    if IDENTITY not in applied:
        _record(client, IDENTITY, secrets.token_hex(8))
    changed = []
    for name in (*all_tables(), *VIEWS):
        sql = sql_of(name)
        digest = sha256(sql.encode()).hexdigest()
        existed = bool(client.command(f"EXISTS {name}"))
        if applied.get(name) == digest and existed:
            continue
        client.command(sql)
        if existed and not _VIEW.match(sql):
            _bring_up_to_date(client, name, sql)
        _record(client, name, digest)
        changed.append(name)
    _check_types(client)
    if changed:
        log.info("tables and views brought up to date: %s", ", ".join(changed))
    return Applied(_identity(client), tuple(changed))


def _check_types(client: Client) -> None:
    """Refuse tables that somebody altered: a server makes numbers of other types fit without a word."""
    found = client.query("SELECT table, name, type FROM system.columns WHERE database = currentDatabase()").result_rows
    present = {(str(table), str(name)): str(kind) for table, name, kind in found}
    for table in all_tables().values():
        for column, wanted in column_types(table).items():
            kind = present.get((table.name, column), "gone")
            if kind != wanted:
                raise InputError(
                    f"column {column} of table {table.name} is {kind}, declared is {wanted}",
                    remedy="somebody altered the table: alter it back, or use a new database",
                )


def _identity(client: Client) -> str:
    """The first identity recorded: two sinks that start at once may both have written one."""
    first = "SELECT argMin(sha256, (applied_at, sha256)) FROM schema_versions WHERE name = {name:String}"
    return str(client.query(first, parameters={"name": IDENTITY}).result_rows[0][0])


def drop_tape(client: Client, tape: str, line: str | None = None) -> None:
    """Delete the rows of a tape, or of one of its lines (the raw rows then stay), at once.

    Names of tapes and lines cannot hold quotes (`schemas.names.is_name`), so they stand in the statement as they are.
    """
    for name in (table.name for table in all_tables().values() if not table.register):
        found = client.query(
            "SELECT DISTINCT partition_id, partition FROM system.parts "
            "WHERE active AND database = currentDatabase() AND table = {table:String}",
            parameters={"table": name},
        )
        for partition_id, partition in found.result_rows:
            of_tape, of_line = _tape_and_line(partition)
            if of_tape == tape and (line is None or of_line == line):
                client.command(f"ALTER TABLE {name} DROP PARTITION ID '{partition_id}'")


def _tape_and_line(partition: str) -> tuple[str, str]:
    """`'T'` or `('T','L')`, as system.parts shows them (a single string without quotes)."""
    words = [word.strip("'") for word in partition.strip("()").split(",")]
    return words[0], words[1] if len(words) > 1 else ""


def _bring_up_to_date(client: Client, name: str, sql: str) -> None:
    """Bring a table that existed before to what its file declares, by making the file's table beside it."""
    fresh = f"{name}__declared_{secrets.token_hex(4)}"
    client.command(sql.replace(f"CREATE TABLE IF NOT EXISTS {name}\n", f"CREATE TABLE {fresh}\n", 1))
    try:
        wanted, present = _columns(client, fresh), _columns(client, name)
        for column, kind in present.items():
            if wanted.get(column) != kind:
                raise InputError(
                    f"column {column} of table {name} is {kind[0]}, declared is {wanted.get(column, ('nothing',))[0]}",
                    remedy="use a new database, or rename the old table and import its rows",
                )
        after = ""
        for column, declared in wanted.items():
            if column not in present:
                client.command(f"ALTER TABLE {name} ADD COLUMN {column} {' '.join(declared)} {after}")
            after = f"AFTER {column}"
        there = _indexes(client, name)
        for index, declared_as in _indexes(client, fresh).items():
            if index not in there:
                client.command(f"ALTER TABLE {name} ADD INDEX {index} {declared_as}")
    finally:
        client.command(f"DROP TABLE IF EXISTS {fresh}")


def _columns(client: Client, table: str) -> dict[str, tuple[str, str, str]]:
    rows = client.query(
        "SELECT name, type, default_kind, default_expression FROM system.columns "
        "WHERE database = currentDatabase() AND table = {table:String} ORDER BY position",
        parameters={"table": table},
    ).result_rows
    return {name: (kind, default, value) for name, kind, default, value in rows}


def _indexes(client: Client, table: str) -> dict[str, str]:
    rows = client.query(
        "SELECT name, expr || ' TYPE ' || type_full || ' GRANULARITY ' || toString(granularity) "
        "FROM system.data_skipping_indices WHERE database = currentDatabase() AND table = {table:String}",
        parameters={"table": table},
    ).result_rows
    return {str(name): str(text) for name, text in rows}


def _record(client: Client, name: str, digest: str) -> None:
    client.command(
        "INSERT INTO schema_versions (name, sha256) SELECT {name:String}, {digest:String}",
        parameters={"name": name, "digest": digest},
    )
