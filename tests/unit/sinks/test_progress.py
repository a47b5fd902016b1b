from dataclasses import replace
from pathlib import Path

from runtime.object_store import LocalObjectStore
from sinks.base import Batch, Entry, Lane
from sinks.progress import Progress, ProgressStore, progress_from_json
from sinks.tables import TABLES
from tests.unit.sinks.messages import first_of_each, make_tape

LANE = Lane("t1", "id", "main", TABLES["mbo"], 0)


def batch(start: int, stop: int | None) -> Batch:
    places = list(first_of_each(make_tape().topics["t1.mbo.v1"], raw=True).items())[start:stop]
    return Batch(LANE, tuple(Entry(m, *place) for place, m in places))


def test_survives_its_file() -> None:
    progress = Progress(5, 6, 1, "topic", 9, frozenset({"X:A"}), ((1, 0), (5, 2)))
    assert progress_from_json(progress.to_json()) == progress
    assert progress_from_json(Progress().to_json()) == Progress()


def test_a_plan_stands_until_the_batch_is_confirmed() -> None:
    first = batch(0, 4)
    planned = Progress().planning(first)
    assert planned.plan == ((0, 0), (3, 0))
    assert planned.next_place == (0, 0)
    after = planned.after(first, (4, 0))
    assert after.plan is None
    assert (after.offset, after.next_place, after.rows) == (4, (4, 0), first.rows)


def test_an_instrument_has_ended_until_it_goes_on() -> None:
    whole = batch(0, None)
    after = Progress().after(whole, (99, 0))
    assert after.ended == {"X:A", "X:B"}
    data = next(e for e in whole.entries if e.message.envelope.kind == "data")
    again = after.after(Batch(LANE, (data,)), (100, 0))
    assert again.ended == {"X:A", "X:B"} - {data.message.instrument}


def test_an_end_counts_with_its_last_part_only() -> None:
    end = batch(0, None).entries[-1]
    open_end = replace(end, message=replace(end.message, envelope=replace(end.message.envelope, last=False)))
    assert Progress().after(Batch(LANE, (open_end,)), (1, 1)).ended == frozenset()


def test_a_lane_has_one_writer_and_targets_do_not_share_progress(tmp_path: Path) -> None:
    one, two = (ProgressStore(LocalObjectStore(tmp_path), "lake", "abc") for _ in range(2))
    other = ProgressStore(LocalObjectStore(tmp_path), "lake", "other")
    assert one.claim(LANE)
    assert not two.claim(LANE)
    assert other.claim(LANE)
    one.save(LANE, Progress(offset=3))
    assert two.load(LANE) == Progress(offset=3)
    assert other.load(LANE) is None
    one.close()
    assert two.claim(LANE)


def test_lines_share_the_raw_lane_only(tmp_path: Path) -> None:
    store = ProgressStore(LocalObjectStore(tmp_path), "lake", "abc")
    store.save(LANE, Progress(offset=3))
    assert store.load(replace(LANE, line="other")) == Progress(offset=3)
    bins = replace(LANE, table=TABLES["bins"])
    store.save(bins, Progress(offset=4))
    assert store.load(replace(bins, line="other")) is None
