"""Objects are joined: the same messages in the same order, at every moment, wherever it dies."""

import io
import os
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from threading import Event

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from runtime.lake_format import INDEX_KEY, DamagedObjectError, ObjectRange, all_objects, object_name, unpaired
from runtime.object_store import LocalObjectStore
from runtime.sequence import Placed
from runtime.tape_reader import TapeReader
from runtime.tapes import Deletion
from sinks import lake_compact
from sinks.base import Batch, Entry, Lane
from sinks.erase import erase_objects
from sinks.lake import LakeSink, folder_of, objects_of
from sinks.lake_compact import CompactionError, compact, content_hash, plan
from sinks.lake_dbn import read_records
from sinks.lake_object import write_parquet
from sinks.tables import TABLES
from tests.unit.sinks.messages import first_of_each, make_tape, manifest

TAPE = manifest()
STREAMS = ["mbo", "bins", "trades"]


@pytest.fixture(autouse=True)
def no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that dies keeps what it wrote; only power cuts need fsync, and hundreds of them take minutes."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


def lane_of(stream: str) -> Lane:
    return Lane("t1", TAPE.tape_id, "main", TABLES[stream], 0)


def fill(store: LocalObjectStore, stream: str, sizes: list[int], seed: int = 3) -> list[Placed]:
    """A stream in objects of these sizes; its messages."""
    lane = lane_of(stream)
    made = make_tape(seed, blocks=30, repeats=True).topics[lane.topic]
    wanted = [Entry(m, *place) for place, m in first_of_each(made, lane.table.raw).items()]
    left = list(wanted)
    while left:
        size = sizes.pop(0) if sizes else len(left)
        LakeSink(store).write(Batch(lane, tuple(left[:size])), Event())
        left = left[size:]
    return [Placed(e.message, e.seq, e.part) for e in wanted]


def read(store: LocalObjectStore, stream: str, known=TAPE) -> list[Placed]:
    return list(TapeReader(known, "main", TABLES[stream].topic, 0, lake=store))


@pytest.mark.parametrize("stream", STREAMS)
def test_joined_objects_hold_the_same_in_the_same_order(tmp_path: Path, stream: str) -> None:
    store, lane = LocalObjectStore(tmp_path), lane_of(stream)
    wanted = fill(store, stream, [2, 3, 1, 4, 5])
    before = objects_of(store, lane)
    digest = content_hash([store.get(o.name) or b"" for o in before])
    done = compact(store, lane)
    assert (done.joined, done.made) == (len(before), 1)
    after = objects_of(store, lane)
    assert [(o.first, o.last) for o in after] == [(before[0].first, before[-1].last)]
    assert content_hash([store.get(o.name) or b"" for o in after]) == digest
    assert read(store, stream) == wanted
    names = sorted(name.rpartition(".")[2] for name in store.names(folder_of(lane)))
    assert names == (["parquet", "zst"] if stream == "mbo" else ["parquet"])
    if stream == "mbo":
        beside = store.get(after[0].name.removesuffix("parquet") + "dbn.zst") or b""
        assert read_records(beside) == b"".join(p.message.value for p in wanted if p.message.envelope.kind == "data")
    assert compact(store, lane).made == 0


def test_a_hash_sees_order_and_every_value(tmp_path: Path) -> None:
    store = LocalObjectStore(tmp_path)
    fill(store, "mbo", [5, 5, 5])
    parts = [store.get(o.name) or b"" for o in objects_of(store, lane_of("mbo"))]
    assert content_hash(parts) != content_hash([parts[1], parts[0], *parts[2:]])
    assert content_hash(parts) != content_hash(parts[:-1])
    other = LocalObjectStore(tmp_path / "other")
    fill(other, "mbo", [5, 5, 5], seed=4)
    assert content_hash(parts) != content_hash([other.get(o.name) or b"" for o in objects_of(other, lane_of("mbo"))])


def ranges(*sizes: int) -> list[tuple[ObjectRange, int]]:
    return [(ObjectRange((n, 0), (n, 9), str(n)), size) for n, size in enumerate(sizes)]


@pytest.mark.parametrize(
    ("sizes", "runs"),
    [
        ((1, 1, 1), []),
        ((1, 1, 1, 1), ["0123"]),
        ((1, 1, 1, 1, 50, 1, 1, 1, 1), ["0123", "5678"]),
        ((1, 50, 1, 1, 1), []),
        ((15, 15, 15, 15, 15), []),
        ((7, 7, 7, 7, 7, 7), ["0123"]),
        ((), []),
    ],
)
def test_what_is_joined(sizes: tuple[int, ...], runs: list[str]) -> None:
    megabytes = [(item, size << 20) for item, size in ranges(*sizes)]
    assert ["".join(item.name for item in run) for run in plan(megabytes)] == runs


def test_nothing_is_joined_over_a_hole() -> None:
    one = ((0, 0), (1, 2)), ((1, 3), (4, 0)), ((5, 0), (5, 9)), ((6, 0), (6, 1))
    lost = ((8, 0), (9, 0)), ((10, 0), (11, 0)), ((12, 0), (12, 0)), ((12, 1), (13, 0))
    parted = ((15, 2), (16, 0)), ((18, 0), (19, 0)), ((20, 0), (20, 4)), ((20, 4), (21, 0))
    sizes = [(ObjectRange(*place, str(n)), 1) for n, place in enumerate((*one, *lost, *parted))]
    assert ["".join(item.name for item in run) for run in plan(sizes)] == ["0123", "4567"]
    assert ["".join(item.name for item in run) for run in plan(sizes, 2)] == ["0123", "4567", "910"]


def test_an_object_that_was_lost_is_seen_again_when_it_is_brought_back(tmp_path: Path) -> None:
    store, lane = LocalObjectStore(tmp_path), lane_of("bins")
    wanted = fill(store, "bins", [2] * 9)
    lost = objects_of(store, lane)[4]
    data = store.get(lost.name) or b""
    store.delete(lost.name)
    compact(store, lane)
    store.put(lost.name, data)
    assert read(store, "bins") == wanted


def test_objects_of_two_releases_stay_side_by_side(tmp_path: Path) -> None:
    """A column more, and wider vectors: nothing is damaged, each is joined with its like."""
    store, lane = LocalObjectStore(tmp_path), lane_of("bins")
    fill(store, "bins", [4] * 6, seed=5)
    held = objects_of(store, lane)
    for item in held[3:]:
        table = pq.read_table(io.BytesIO(store.get(item.name) or b""))
        wider = table.append_column("fresh", pa.array([1.5] * table.num_rows))
        store.put(item.name, write_parquet(wider.replace_schema_metadata(None), table.schema.metadata[INDEX_KEY]))
    parts = [store.get(o.name) or b"" for o in held]
    assert compact(store, lane, fewest=2).made == 2
    after = objects_of(store, lane)
    assert [(o.first, o.last) for o in after] == [(held[0].first, held[2].last), (held[3].first, held[-1].last)]
    joined = [store.get(o.name) or b"" for o in after]
    assert content_hash(joined[:1]) == content_hash(parts[:3])
    assert content_hash(joined[1:]) == content_hash(parts[3:])
    assert compact(store, lane, fewest=2).made == 0


def test_what_can_be_read_but_not_joined_is_not_called_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, lane = LocalObjectStore(tmp_path), lane_of("bins")
    wanted = fill(store, "bins", [2, 3, 1, 4, 5])

    def refuse(_: object) -> bytes:
        raise pa.ArrowInvalid("other columns")

    monkeypatch.setattr(lake_compact, "join", refuse)
    with pytest.raises(CompactionError):
        compact(store, lane)
    assert read(store, "bins") == wanted


def test_records_of_a_writer_that_died_go_and_those_of_one_that_writes_stay(tmp_path: Path) -> None:
    store, lane = LocalObjectStore(tmp_path), lane_of("mbo")
    fill(store, "mbo", [5, 5, 5])
    first, *_, last = objects_of(store, lane)
    folder = folder_of(lane)
    died = object_name(folder, first.first, (first.last[0] + 1, 0), "dbn.zst")
    begun = object_name(folder, (last.last[0] + 1, 0), (last.last[0] + 9, 0), "dbn.zst")
    for name in (died, begun):
        store.put(name, b"records")
    compact(store, lane)
    assert store.get(died) is None
    assert store.get(begun) == b"records"
    # A deletion works alone, so nobody writes: everything without its pair goes.
    gone = replace(TAPE, deletions=(Deletion("X:A", 0, 0, 99),))
    store.put(died, b"records")
    erase_objects(store, gone, gone.deletions)
    assert unpaired(store, folder) == []


class Watched(LocalObjectStore):
    """A lake that looks after each deletion whether records stand without their pair."""

    def delete(self, name: str) -> None:
        super().delete(name)
        assert unpaired(self, name.rpartition("/")[0] + "/") == []


def test_at_no_moment_records_lose_their_pair(tmp_path: Path) -> None:
    store = Watched(tmp_path)
    fill(store, "mbo", [5, 5, 5])
    assert compact(store, lane_of("mbo")).made == 1


class Joining(LocalObjectStore):
    """A lake in which somebody puts the joined object, made before the deletion, while the deletion goes on."""

    wide: tuple[str, bytes] | None = None

    def put(self, name: str, data: bytes) -> None:
        super().put(name, data)
        if self.wide is not None and name.endswith(".parquet"):
            made, self.wide = self.wide, None
            super().put(*made)


def test_a_deletion_looks_again_for_what_came_meanwhile(tmp_path: Path) -> None:
    store, lane = Joining(tmp_path), lane_of("bins")
    fill(store, "bins", [2, 3, 1, 4, 5])
    held = objects_of(store, lane)
    data = lake_compact.join([store.get(o.name) or b"" for o in held])
    store.wide = object_name(folder_of(lane), held[0].first, held[-1].last), data
    gone = replace(TAPE, deletions=(Deletion("X:A", 0, 0, 99),))
    erase_objects(store, gone, gone.deletions)
    assert store.wide is None
    for item in all_objects(store, folder_of(lane)):
        rows = pq.read_table(io.BytesIO(store.get(item.name) or b""))
        assert "X:A" not in rows.column("instrument").to_pylist()


class DyingError(Exception):
    pass


class Dying(LocalObjectStore):
    """A store whose puts and deletes may be the last thing that happens, or not happen at all."""

    def __init__(self, root: Path, dice: Callable[[], float], watch: Callable[[], None]) -> None:
        super().__init__(root)
        self._dice, self._watch = dice, watch

    def _step(self, work: Callable[[], object]) -> object:
        if self._dice() < 0.2:
            raise DyingError
        result = work()
        self._watch()
        if self._dice() < 0.2:
            raise DyingError
        return result

    def put(self, name: str, data: bytes) -> None:
        self._step(lambda: LocalObjectStore.put(self, name, data))

    def put_new(self, name: str, data: bytes) -> bool:
        return bool(self._step(lambda: LocalObjectStore.put_new(self, name, data)))

    def delete(self, name: str) -> None:
        self._step(lambda: LocalObjectStore.delete(self, name))


@pytest.mark.parametrize("seed", range(6))
def test_at_every_moment_readers_see_everything_once(tmp_path: Path, seed: int) -> None:
    stream, dice, moments = STREAMS[seed % 3], random.Random(seed), 0
    plain = LocalObjectStore(tmp_path)
    wanted = fill(plain, stream, [2, 3, 1, 4, 5])

    def watch() -> None:
        nonlocal moments
        moments += 1
        assert read(plain, stream) == wanted

    deaths = 0
    while True:
        try:
            compact(Dying(tmp_path, dice.random, watch), lane_of(stream))
            break
        except DyingError:
            deaths += 1
        watch()
    assert len(objects_of(plain, lane_of(stream))) == 1
    assert len([n for n in plain.names(folder_of(lane_of(stream))) if n.endswith("parquet")]) == 1
    assert unpaired(plain, folder_of(lane_of(stream))) == []
    assert deaths
    assert moments > 5


def test_a_sink_that_repeats_a_joined_batch_does_no_harm(tmp_path: Path) -> None:
    store, lane = LocalObjectStore(tmp_path), lane_of("bins")
    wanted = fill(store, "bins", [2, 3, 1, 4, 5])
    narrow = objects_of(store, lane)[1]
    data = store.get(narrow.name) or b""
    compact(store, lane)
    store.put(narrow.name, data)
    assert read(store, "bins") == wanted
    compact(store, lane)
    assert store.get(narrow.name) is None
    assert read(store, "bins") == wanted


def test_what_is_not_the_same_is_not_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, lane = LocalObjectStore(tmp_path), lane_of("bins")
    wanted = fill(store, "bins", [2, 3, 1, 4, 5])
    good = lake_compact.join
    monkeypatch.setattr(lake_compact, "join", lambda parts: good(parts[:-1]))
    with pytest.raises(CompactionError, match="differs from those it was joined of"):
        compact(store, lane)
    assert read(store, "bins") == wanted
    monkeypatch.setattr(lake_compact, "join", good)
    damaged = objects_of(store, lane)[2]
    kept = store.get(damaged.name) or b""
    store.put(damaged.name, kept[:50])
    with pytest.raises(DamagedObjectError, match="is damaged") as refused:
        compact(store, lane)
    assert refused.value.name == damaged.name
    store.put(damaged.name, kept)
    assert read(store, "bins") == wanted


def test_what_was_deleted_stays_deleted_and_keeps_its_place(tmp_path: Path) -> None:
    store = LocalObjectStore(tmp_path)
    for stream in STREAMS:
        wanted = fill(store, stream, [2, 3, 1, 4, 5])
        gone = replace(TAPE, deletions=(Deletion("X:A", 0, 0, 99),))
        erase_objects(store, gone, gone.deletions)
        compact(store, lane_of(stream))
        assert read(store, stream, gone) == [p for p in wanted if p.message.instrument != "X:A"]
        deleted = [p for p in TapeReader(gone, "main", TABLES[stream].topic, 0, lake=store, deleted=True) if p.deleted]
        assert [(p.seq, p.part) for p in deleted] == [(p.seq, p.part) for p in wanted if p.message.instrument == "X:A"]
        assert erase_objects(store, gone, gone.deletions) == 0
