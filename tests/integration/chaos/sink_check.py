"""Whether a store and a lake hold what the log holds: the command that an operator uses, and sums of every column.

`barograph reconcile` counts rows by place. The sums say more: each value of each column is weighted with the place of
its row, so that a value that is wrong, or stands in another row, shows. They are computed by the store in SQL, and here
from the messages of the log, with none of the sinks' code.
"""

import json
import subprocess
import sys
from contextlib import closing
from typing import Any, Final

import numpy as np

from runtime.codec import decode_rows
from runtime.sequence import Placed
from runtime.tape_reader import TapeReader, TopicReader
from runtime.tapes import Manifest
from schemas import bars, bins, trades
from schemas.columns import Column, Table
from schemas.mbo import MBO_DTYPE
from schemas.topics import BARS, BINS, MBO, TRADES, TopicSpec, rooted
from sinks.clickhouse import connect
from tests.integration.chaos.sink_world import SinkWorld
from tests.integration.conftest import ROOT

COLUMNS: Final[dict[TopicSpec, tuple[Column, ...]]] = {
    BINS: bins.columns(bins.RADIUS_DEFAULT),
    TRADES: trades.COLUMNS,
    BARS: bars.COLUMNS,
}
RAW: Final = tuple(name for name in MBO_DTYPE.names or () if name != "length")
WEIGHTS: Final = (2_000_006, 20_014, 2)
"""Of seq, part and row; the sum plus 1 is the weight of a row, odd so that no bit of a value is lost."""


def reconciled(world: SinkWorld) -> dict[str, Any]:
    """What `barograph reconcile` says; its counts."""
    argv = [sys.executable, "-m", "control.cli", "reconcile", "--tape", world.manifest.tape, "--json"]
    argv += ["--data", str(world.folder), "--bootstrap-servers", world.kafka]
    argv += ["--clickhouse-url", world.store_url, "--lake-url", world.lake_url]
    done = subprocess.run(argv, cwd=ROOT, env=world.environment, capture_output=True, text=True, check=False)
    try:
        found = json.JSONDecoder().raw_decode(done.stdout)[0]  # the result; what is wrong with it may follow
    except json.JSONDecodeError:
        raise AssertionError(f"reconcile: {done.stderr or done.stdout}") from None
    rows = {n: (t["topic_rows"], t["store_rows"], t["lake_rows"]) for n, t in found["tables"].items()}
    return {"exit": done.returncode, "missing": found["missing"], "duplicate": found["duplicate"], "rows": rows}


def differences(world: SinkWorld) -> list[str]:
    """Columns of the store whose sums are not those of the log, and streams of the lake that are not the log's."""
    out = []
    with closing(connect(world.store_url)) as client:
        for spec in (MBO, *COLUMNS):
            names = RAW if spec is MBO else [column.name for column in COLUMNS[spec]]
            sums = ", ".join(_sql(spec, name) for name in names)
            asked = f"SELECT {sums} FROM {spec.stream} WHERE tape = '{world.manifest.tape}'"
            found = client.query(asked).result_rows[0]
            wanted = log_sums(world.kafka, world.manifest, spec)
            out += [f"{spec.stream}.{n}" for n, a, b in zip(names, found, wanted, strict=True) if a != b]
    return out + [f"lake: {name}" for name in rooted(world.manifest.tape) if not _lake_is_the_log(world, name)]


def log_sums(kafka: str, manifest: Manifest, spec: TopicSpec) -> list[int]:
    """Weighted sums of every column over a stream, modulo 2^64."""
    total: list[int] = []
    for partition in range(manifest.partitions):
        for placed in TopicReader(kafka, manifest, "main", spec, partition):
            if placed.message.value and placed.message.envelope.schema != "definition":
                part = _sums(placed, spec)
                total = [(a + b) % (1 << 64) for a, b in zip(total or [0] * len(part), part, strict=True)]
    return total


def _sums(placed: Placed, spec: TopicSpec) -> list[int]:
    value = placed.message.value
    if spec is MBO:
        records = np.frombuffer(value, MBO_DTYPE)
        table: Table = {name: records[name] for name in RAW}
    else:
        table = decode_rows(value, COLUMNS[spec])
    count = len(next(iter(table.values())))
    first = (placed.seq * WEIGHTS[0] + placed.part * WEIGHTS[1] + 1) % (1 << 64)
    weights = np.arange(count, dtype=np.uint64) * np.uint64(WEIGHTS[2]) + np.uint64(first)
    return [int((_bits(cells) * weights).sum(dtype=np.uint64)) for cells in table.values()]


def _bits(cells: np.ndarray) -> np.ndarray:
    """Values as unsigned integers of 64 bits; of a vector, the sum of its elements, weighted with their numbers."""
    plain = np.ascontiguousarray(cells)
    if plain.dtype.kind == "S":
        plain = plain.view(np.uint8)
    if plain.dtype.kind == "i":
        plain = plain.astype(np.int64)
    bits = plain.view(np.uint64) if plain.dtype.itemsize == 8 else plain.astype(np.uint64)
    if bits.ndim == 1:
        return bits
    return (bits * (np.arange(bits.shape[1], dtype=np.uint64) * np.uint64(2) + np.uint64(3))).sum(1, dtype=np.uint64)


def _sql(spec: TopicSpec, name: str) -> str:
    """The same in SQL."""
    weight = f"(toUInt64(seq) * {WEIGHTS[0]} + toUInt64(part) * {WEIGHTS[1]} + toUInt64(row) * {WEIGHTS[2]} + 1)"
    if spec is MBO:
        return f"sum({_sql_bits(MBO_DTYPE[name].kind, name)} * {weight})"
    column = next(column for column in COLUMNS[spec] if column.name == name)
    if not column.width:
        return f"sum({_sql_bits(column.numpy_dtype.kind, name)} * {weight})"
    element = _sql_bits(column.numpy_dtype.kind, "x")
    return f"sum(arraySum((x, i) -> {element} * toUInt64(2 * i + 1), {name}, arrayEnumerate({name})) * {weight})"


def _sql_bits(kind: str, name: str) -> str:
    of = {"S": "toUInt64(ascii({}))", "u": "toUInt64({})", "i": "reinterpretAsUInt64(toInt64({}))"}
    return of.get(kind, "reinterpretAsUInt64({})").format(name)


def _lake_is_the_log(world: SinkWorld, name: str) -> bool:
    """Whether every message of a stream stands in the lake, byte for byte."""
    known, spec, lake = world.manifest, rooted(world.manifest.tape)[name], world.lake()
    for partition in range(known.partitions):
        log = iter(TopicReader(world.kafka, known, "main", spec, partition))
        for found in TapeReader(known, "main", spec, partition, lake=lake):
            wanted = next(log, None)
            if wanted is None or _content(found) != _content(wanted):
                return False
        if next(log, None) is not None:
            return False
    return True


def _content(placed: Placed) -> tuple[Any, ...]:
    message = placed.message
    return placed.seq, placed.part, message.instrument, message.value, message.envelope
