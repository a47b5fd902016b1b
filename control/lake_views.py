"""The lake under the names of the store's tables, so that a query is asked of either without a change.

A lake is Parquet files, and the engine reads those as it reads tables of its own. So a store is opened for the time of
a `with`, in a folder that goes afterwards; its tables have the names, columns and types of `sinks.ddl`, and lie in the
lake. Views are the same text over them.

    mbo, bins, trades, bars, …     tables over the objects, read where they lie; only the columns a query names
    gaps, events, dead_letters     copied when the store opens, the first message of each id: the lake keeps every one
    ops_tapes                      the manifests beside the data, as they were when a sink last started
    ops_runs, and so `cutovers`    not there: the lake has no registers

What stands of a lane is what readers take: of objects within one another the widest (`runtime.lake_format.objects`).
Deleted messages have no rows. This store is for its caller alone: it opens files, which strangers' queries may not.
"""

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

import pyarrow as pa
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import ClickHouseError

from control.embedded.store import running_store
from control.services import open_store
from runtime.errors import InputError, MissingServiceError
from runtime.lake_format import all_objects, folder, objects
from runtime.object_store import REMOTE, ObjectStore, object_store_at
from runtime.tapes import Manifest, TapeStore
from schemas.topics import TAPES
from sinks.ddl import VIEWS, file_of
from sinks.ddl.render import engine_table_sql, table_sql
from sinks.registers import insert_rows
from sinks.tables import RECORDS, REGISTERS, TABLES, TableSpec

NOT_THERE: Final = frozenset({"cutovers"})
"""Views that the lake has nothing for. A query that names one is refused, rather than told that there was nothing."""

_GLOBS: Final = frozenset("*?{}'\\")
"""Characters that a path may not have: the engine would take them for patterns, or for the end of the text."""

FILES: Final = "lake"
"""Database of the tables that the engine reads from files."""

_FIRSTS: Final = f"SELECT * FROM {FILES}.{{}} ORDER BY tape, partition, seq LIMIT 1 BY tape, partition, id"
"""Of records the first message of each id, as the sink of ClickHouse has them."""

_LONG: Final = {"max_query_size": 64 << 20, "max_partitions_per_insert_block": 0}
"""Settings of the statements here: a lake that is being compacted is named object by object."""


@contextmanager
def lake_store(location: str) -> Iterator[str]:
    """A store whose tables lie in a lake; gives its address.

    Args:
        location: the lake's folder or URL.

    Raises:
        InputError: no lake is there, or one that the engine cannot read.
        MissingServiceError: the bucket does not answer.
    """
    lake = object_store_at(location)
    try:
        manifests = [m for name in TapeStore(lake).names() if (m := TapeStore(lake).load(name)) is not None]
        if not manifests:
            raise InputError(f"{location} holds no tapes", remedy="give the lake with --lake-url or --data")
        with tempfile.TemporaryDirectory(prefix="barograph-lake-") as scratch, running_store(Path(scratch)) as url:
            with closing(open_store(url)) as client:
                _declare(client, lake, location, manifests)
            yield url
    except OSError as error:
        raise MissingServiceError(f"the lake does not answer ({error})", remedy="try again") from error


def _declare(client: Client, lake: ObjectStore, location: str, manifests: list[Manifest]) -> None:
    try:
        client.command(f"CREATE DATABASE {FILES}")
        for table in (*TABLES.values(), *RECORDS.values()):
            found = _patterns(table, lake, manifests)
            if found:
                client.command(engine_table_sql(table, _engine(location, found), FILES), settings=_LONG)
            if (
                found and not table.record
            ):  # `Merge` reads that one table, and has the alias columns that `File` has not
                client.command(engine_table_sql(table, f"Merge({FILES}, '^{table.name}$')"))
            else:
                client.command(table_sql(table))
            if found and table.record:
                client.command(f"INSERT INTO {table.name} {_FIRSTS.format(table.name)}", settings=_LONG)
        client.command(table_sql(REGISTERS["ops_tapes"]))
        insert_rows(client, REGISTERS["ops_tapes"], _tapes(manifests))
        for view in VIEWS:
            if view not in NOT_THERE:
                client.command(file_of(view))
    except ClickHouseError as error:
        said = " ".join(str(error).split())[:300]
        raise InputError(f"the lake at {location} cannot be read: {said}", remedy="look at its objects") from error


def _patterns(table: TableSpec, lake: ObjectStore, manifests: list[Manifest]) -> list[str]:
    """Names of objects below the lake's own place, or one pattern: of each tape and line what stands, and only that.

    A pattern stands alone, or stands for whole folders: among alternatives in braces the engine takes a `*` for a name.
    """
    folders, names, whole = list[str](), list[str](), True
    for manifest in manifests:
        for line in sorted(manifest.lines) if table.topic.scope == "line" else ("",):
            for partition in range(manifest.partitions):
                prefix = folder(table.topic_name(manifest.tape, line), manifest.tape_id, partition)
                there, standing = all_objects(lake, prefix), objects(lake, prefix)
                if standing:
                    folders.append(prefix.rstrip("/"))
                    names += [item.name for item in standing]
                whole = whole and len(there) == len(standing)
    if not whole or not folders:
        return names
    return [f"{folders[0] if len(folders) == 1 else '{' + ','.join(folders) + '}'}/*.parquet"]


def _engine(location: str, patterns: list[str], env: Mapping[str, str] = os.environ) -> str:
    """The engine clause that reads objects at a place.

    Raises:
        InputError: a kind of place that the engine does not know.
    """
    names = patterns[0] if len(patterns) == 1 else "{" + ",".join(patterns) + "}"
    if not location.startswith(REMOTE):
        path = str(Path(location.removeprefix("file://")).resolve())
        _refuse_globs(path)
        return f"File(Parquet, '{path}/{names}')"
    scheme, _, rest = location.partition("://")
    if not scheme.startswith("s3"):
        raise InputError(f"SQL over a lake at {scheme}:// is not offered", remedy="copy it to a folder, or to S3")
    _refuse_globs(rest)
    bucket, _, prefix = rest.rstrip("/").partition("/")
    region = env.get("AWS_REGION", env.get("AWS_DEFAULT_REGION", "us-east-1"))
    endpoint = env.get("AWS_ENDPOINT_URL", env.get("AWS_ENDPOINT", f"https://s3.{region}.amazonaws.com")).rstrip("/")
    secrets = [env.get(name, "") for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")]
    given = ", ".join(_quoted(word) for word in secrets if word)
    return (
        f"S3('{endpoint}/{bucket}/{prefix + '/' if prefix else ''}{names}', {given + ', ' if given else ''}'Parquet')"
    )


def _refuse_globs(path: str) -> None:
    if found := _GLOBS & set(path):
        raise InputError(f"the lake's place {path} has {min(found)!r} in it", remedy="move it to a plain name")


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _tapes(manifests: list[Manifest]) -> pa.Table:
    """The register of tapes, made of their manifests."""
    table = REGISTERS["ops_tapes"]
    rows = [
        {
            "topic": TAPES.name(), "partition": 0, "offset": 0, "announced_ms": 0, "key": m.tape, "tape": m.tape,
            "tape_id": m.tape_id, "state": m.state, "partitions": m.partitions, "manifest": m.to_json(),
        }
        for m in manifests
    ]  # fmt: skip
    return pa.Table.from_pylist(rows).select([*table.key, *(f.name for f in table.fields)])
