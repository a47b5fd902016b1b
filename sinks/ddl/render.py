"""ClickHouse tables from their declarations. The files beside this module are what it renders; a test compares them.

**Engine.** `ReplacingMergeTree`: an insert is repeated under the same deduplication token after a crash or a time-out,
and the server drops it. If more blocks than the window came between, the repeat stays for a while; rows are equal in
the whole sorting key, so merges remove it and `FINAL` never sees it. Registers replace by key, the newest stamp stands.

**PARTITION BY** tape (and line), not time: a tape is what is replaced and deleted, at once and without touching others,
and a tape is a day or so of some instruments. Partitions by hour would make a thousand parts of a year of tapes, each
query opening most of them; time is what the sorting key is for.

**ORDER BY** tape, line, instrument, time, place: the questions asked are of one instrument over a range of time, so
what they need lies together, 8,192 rows a mark, and a range of time is two searches in the marks. Tape, line and
instrument are dictionary coded and equal over whole granules, so the key costs no bytes. Raw rows are ordered by their
place alone, which is the order in which they happened: their times only nearly rise, and are found by min-max indexes.
So are places in the other tables. An order's life is asked for by its id, which lies anywhere: a Bloom filter of
order ids skips the granules that do not have it.

**Codecs.** Numbers that nearly rise (times, numbers, prices: the next is near the last) are stored as differences, then
zstd at level 1. Other numbers and vectors are zstd alone: a bin of 17 kB takes 7.

**TTL.** None. A tape is kept until somebody deletes it, as in the log and the lake; what went by itself could not be
told from what was lost, and the reconciler would rightly call it missing.

**fsync.** An acknowledged insert survives a power cut; measured, it costs 3 ms an insert.

Times are integers in ns, exact over the whole range of 64 bits; for people each has an alias column `..._utc`.
"""

from typing import Final

import numpy as np

from schemas.columns import Column
from schemas.mbo import MBO_DTYPE
from sinks.records import Field
from sinks.tables import KEY_INTEGERS, LETTERS, MBO_COLUMNS, TableSpec

WINDOW: Final = 10_000
"""Blocks whose tokens a table remembers. A repeat comes at most one outage after its first try: 20 sinks that write a
block a second fill 10 minutes. More costs memory and a longer log at start; fewer leaves the rest to merges."""

_RAW_TYPES: Final[dict[str, np.dtype]] = {name: kind for name, (kind, *_) in (MBO_DTYPE.fields or {}).items()}
_NUMBERS: Final = {"i": "Int", "u": "UInt", "f": "Float"}
_RISING: Final = frozenset({"seq", "event_id", "bin_seq", "sequence", "px", "price", "mid_px", "spot_tick"})


def table_sql(spec: TableSpec) -> str:
    """The statement that makes a table, with the meaning of each column as its comment."""
    lines = [_key(name) for name in spec.key]
    lines += [_raw(name) for name in MBO_COLUMNS] if spec.raw else [_declared(c) for c in spec.columns]
    lines += [_field(field) for field in spec.fields]
    lines += [_for_people(name, spec) for name in spec.time]
    lines += _indexes(spec)
    return (
        f"CREATE TABLE IF NOT EXISTS {spec.name}\n(\n    "
        + ",\n    ".join(lines)
        + f"\n)\nENGINE = ReplacingMergeTree{'(announced_ms)' if spec.register else ''}\n"
        + ("" if spec.register else f"PARTITION BY {'(tape, line)' if spec.topic.scope == 'line' else 'tape'}\n")
        + f"ORDER BY ({', '.join(_order(spec))})\n"
        + f"SETTINGS non_replicated_deduplication_window = {WINDOW}, fsync_after_insert = 1, "
        + "fsync_part_directory = 1, min_compressed_bytes_to_fsync_after_merge = 1\n"
    )


def engine_table_sql(spec: TableSpec, engine: str, database: str = "") -> str:
    """The statement that makes a table with the same columns and types over data that another engine reads.

    Args:
        spec: which table.
        engine: the engine clause.
        database: where it is made; empty: in the default one, with the columns for people, which not every engine has.
    """
    types = column_types(spec)
    own = MBO_COLUMNS if spec.raw else tuple(column.name for column in spec.columns)
    names = (*spec.key, *own, *(field.name for field in spec.fields))
    lines = [f"{column} {types[column]}" for column in names]
    lines += [] if database else [_for_people(time, spec) for time in spec.time]
    place = f"{database}.{spec.name}" if database else spec.name
    return f"CREATE TABLE {place}\n(\n    " + ",\n    ".join(lines) + f"\n)\nENGINE = {engine}\n"


def column_types(spec: TableSpec) -> dict[str, str]:
    """Column → its type as the server names it, of all columns that hold something."""
    text = {name: "LowCardinality(String)" for name in (*spec.key, *(LETTERS if spec.raw else ()))}
    numbers = {name: column_type(kind) for name, kind in KEY_INTEGERS.items() if name in spec.key}
    raw = {name: column_type(_RAW_TYPES[name]) for name in MBO_COLUMNS if name not in LETTERS} if spec.raw else {}
    declared = {c.name: column_type(c.numpy_dtype, bool(c.width)) for c in spec.columns}
    return {**text, **numbers, **raw, **declared, **{field.name: field.sql for field in spec.fields}}


def _order(spec: TableSpec) -> tuple[str, ...]:
    place = ("seq", "part", "row")
    if spec.register:
        return ("topic", "key")
    if spec.by_offset:
        return ("tape", "instrument", *place)
    return ("tape", "line", "instrument", spec.time[0], *place)


def column_type(dtype: np.dtype, vector: bool = False) -> str:
    """ClickHouse's type of a NumPy element, or of a list of it."""
    scalar = f"{_NUMBERS[dtype.kind]}{dtype.itemsize * 8}"
    return f"Array({scalar})" if vector else scalar


def _key(name: str) -> str:
    if name in KEY_INTEGERS:
        return f"{name} {column_type(KEY_INTEGERS[name])}{_codec(name)} COMMENT '{_KEY_DOC[name]}'"
    return f"{name} LowCardinality(String) COMMENT '{_KEY_DOC[name]}'"


def _raw(name: str) -> str:
    kind = "LowCardinality(String)" if name in LETTERS else column_type(_RAW_TYPES[name]) + _codec(name)
    return f"{name} {kind}"


def _declared(column: Column) -> str:
    kind = column_type(column.numpy_dtype, bool(column.width))
    text = f"{column.doc} [{column.unit}]".replace("\\", "\\\\").replace("'", "\\'")
    return f"{column.name} {kind}{_codec(column.name, bool(column.width))} COMMENT '{text}'"


def _field(field: Field) -> str:
    text = field.doc.replace("\\", "\\\\").replace("'", "\\'")
    return (
        f"{field.name} {field.sql}{_codec(field.name) if field.sql == 'Int64' else ' CODEC(ZSTD(1))'} COMMENT '{text}'"
    )


def _codec(name: str, vector: bool = False) -> str:
    rising = not vector and (name in _RISING or name.startswith("ts_") or name.endswith("_px"))
    return " CODEC(Delta, ZSTD(1))" if rising and name != "ts_in_delta" else " CODEC(ZSTD(1))"


def _for_people(name: str, spec: TableSpec) -> str:
    alias = f"{name.removesuffix('_ns')}_utc"
    value = f"toInt64({name})" if spec.raw else name
    return f"{alias} DateTime64(9, 'UTC') ALIAS fromUnixTimestamp64Nano({value}, 'UTC')"


def _indexes(spec: TableSpec) -> list[str]:
    ranged = spec.time if spec.by_offset else ("seq",)
    out = [f"INDEX {name}_range {name} TYPE minmax GRANULARITY 1" for name in ranged]
    sought = "order_id" if spec.raw else "id" if spec.record and not spec.register else ""
    return out + ([f"INDEX {sought}_known {sought} TYPE bloom_filter(0.01) GRANULARITY 1"] if sought else [])


_KEY_DOC: Final = {
    "tape": "tape that the row belongs to",
    "line": "configuration of the derived stages; - for raw rows",
    "instrument": "VENUE:SYMBOL",
    "partition": "partition of the topic",
    "seq": "number of the root message in the raw stream",
    "part": "message among those of this seq",
    "row": "row within the message, from 0",
    "run": "code and configuration that made it; empty for raw rows",
    "topic": "topic of the message",
    "offset": "its offset",
    "announced_ms": "its stamp, ms; of two rows of a key the one with the greater stands",
    "key": "its key",
}
