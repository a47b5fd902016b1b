"""Tapes whose topics were trimmed, deleted and made again: the lake gives everything back, on a real broker."""

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import databento
import numpy as np
import polars as pl
import pytest
from confluent_kafka import TopicPartition
from prometheus_client import REGISTRY

from control.embedded.store import running_store
from control.output import Output
from control.reconciler import Reconciler
from control.services import open_store
from control.tape_admin import TapeAdmin
from control.tape_backfill import Backfill
from control.tape_delete import AUDIT, Eraser, Wish
from control.tape_export import export
from control.topic_admin import TopicAdmin
from runtime.errors import BarographError, InputError
from runtime.kafka import CheckedProducer, admin, read_range
from runtime.object_store import LocalObjectStore
from runtime.sequence import HoleError
from runtime.settings import Settings
from runtime.tape_reader import TapeReader
from runtime.tapes import Line, Manifest
from schemas import topics
from schemas.columns import Column
from schemas.mbo import MBO_DTYPE
from schemas.message import Message, Outgoing
from schemas.topics import TopicSpec, of_tape
from sinks import runner
from sinks.ddl import apply_ddl, drop_tape
from sinks.ddl.render import WINDOW
from sinks.lake import LIMITS, LakeSink
from sinks.progress import drop_progress
from sinks.reconcile import ReconcileReport, reconcile
from sinks.reconcile_watch import WHOLE_EVERY_S, TapeWatch
from sinks.runner import SinkReport, run_sink
from sinks.tables import RECORDS, TABLES, row_table, tape_tables
from tests.unit.sinks.messages import RUN, Made, first_of_each, make_derived, make_records, make_tape, manifest

pytestmark = pytest.mark.real
OUT = Output(as_json=True)
SINKS = ("clickhouse", "lake")
BRISK_S = 0.5
"""Age at which the lake's batches are due here: records have no end, and all tapes would wait 5 s for theirs."""


class Place:
    """A data folder with a broker and a store, and tapes that have arrived in both."""

    def __init__(self, folder: Path, servers: str, store_url: str) -> None:
        self.settings = Settings(data_dir=folder)
        self.servers, self.store_url = servers, store_url
        self.admin = TapeAdmin(self.settings, servers)
        self.lake = LocalObjectStore(folder / "lake")

    def publish(
        self,
        tape: str,
        seed: int,
        blocks: int = 40,
        sinks: tuple[str, ...] = SINKS,
        extra: tuple[str, tuple[Column, ...]] | None = None,
    ) -> Made:
        """A finished tape, published and written everywhere, or to these sinks; with another derived stream."""
        made = make_tape(seed=seed, blocks=blocks, tape=tape, repeats=True)
        made.topics |= make_records(tape).topics
        if extra is not None:
            made.topics |= make_derived(made, tape, *extra, seed=seed)
        self.admin.open(manifest(tape), "main", Line(RUN))
        producer = CheckedProducer(self.servers)
        for message in made.outgoing():
            producer.send(message)
        producer.flush()
        self.admin.finish(self.known(tape))
        self.drain(tape, sinks)
        if sinks == SINKS:
            self.admin.complete(self.known(tape), "main")
        return made

    def known(self, tape: str) -> Manifest:
        return self.admin.tapes.require(tape)

    def drain(self, tape: str, sinks: tuple[str, ...] = SINKS) -> None:
        """Run these sinks, side by side, until all of a tape is confirmed."""
        with ThreadPoolExecutor(len(sinks)) as pool:
            list(pool.map(partial(self.fill, tape), sinks))  # raises what one of them raised

    def fill(self, tape: str, name: str, **how: Any) -> None:
        """Run one sink until all of a tape is confirmed."""
        known, stop = self.known(tape), threading.Event()
        partition_of = {instrument: i.partition for instrument, i in known.instruments.items()}

        def tell(report: SinkReport) -> None:
            if report.drained(partition_of):
                stop.set()

        run_sink(
            name, known, "main", bootstrap_servers=self.servers,
            target=self.store_url if name == "clickhouse" else str(self.lake.root),
            state_dir=self.settings.state_dir, stop=stop, on_progress=tell, **how,
        )  # fmt: skip

    def compared(self, tape: str) -> ReconcileReport:
        with closing(open_store(self.store_url)) as client:
            return reconcile(self.known(tape), "main", self.servers, client=client, lake=self.lake)

    def content(self, tape: str, **how: Any) -> dict[str, list[Any]]:
        """Every stream by a reader, offsets and stamps aside."""
        known = self.known(tape)
        out = {}
        for spec in of_tape(tape).values():
            found = TapeReader(known, "main", spec, 0, **how)
            out[spec.stream] = [(p.seq, p.part, bare(p.message)) for p in found]
        return out


def bare(message: Message) -> Message:
    return replace(message, offset=0, timestamp_ms=0)


@pytest.fixture(scope="module")
def place(kafka: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("data")
    brisk = partial(LakeSink, limits=replace(LIMITS, age_s=BRISK_S))
    with pytest.MonkeyPatch.context() as patch, running_store(folder) as url:
        patch.setattr(runner, "LakeSink", brisk)
        with closing(open_store(url)) as client:
            apply_ddl(client)
        yield Place(folder, kafka, url)


def trim(servers: str, topic: str, offset: int) -> None:
    client = admin(servers)  # futures of a client that is gone never end
    for future in client.delete_records([TopicPartition(topic, 0, offset)]).values():
        future.result(30)


def test_a_trimmed_tape_is_read_across_the_seam_exported_and_reconciled(place: Place, tmp_path: Path) -> None:
    made = place.publish("seam", 21)
    before = place.content("seam", bootstrap_servers=place.servers)
    assert before == place.content("seam", lake=place.lake)
    for topic in of_tape("seam"):
        trim(place.servers, topic, len(made.topics[topic]) // 2)
    assert place.content("seam", bootstrap_servers=place.servers, lake=place.lake) == before
    assert place.compared("seam").clean
    both: dict[str, Any] = {"servers": place.servers, "lake": place.lake}
    records = b"".join(m.value for m in made.topics["seam.mbo.v1"] if m.envelope.kind == "data")
    for name in ("x.dbn.zst", "x.dbn"):
        done = export(place.known("seam"), "main", "mbo", tmp_path / name, **both)
        assert databento.DBNStore.from_file(tmp_path / name).to_ndarray().tobytes() == records
        assert done["records"] == len(records) // MBO_DTYPE.itemsize
    done = export(place.known("seam"), "main", "bins", tmp_path / "bins.parquet", instrument="X:A", **both)
    frame = pl.read_parquet(tmp_path / "bins.parquet")
    assert frame.height == done["records"] > 0
    assert frame["instrument"].unique().to_list() == ["X:A"]
    assert "ts_end_utc" in frame.columns
    done = export(place.known("seam"), "main", "gaps", tmp_path / "gaps.parquet", **both)
    assert pl.read_parquet(tmp_path / "gaps.parquet")["id"].to_list() == [f"gap-{n}" for n in (*range(7), *range(7))]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bins.parquet", "gaps.parquet", "x.dbn", "x.dbn.zst"]
    for stream, file in (("bins", "b.dbn"), ("mbo", "x.csv"), ("none", "x.parquet")):
        with pytest.raises(InputError):
            export(place.known("seam"), "main", stream, tmp_path / file, **both)


def seen(tape: str, what: str) -> float:
    """A metric of the reconciler, over all tables."""
    values = (
        REGISTRY.get_sample_value(f"barograph_reconcile_{what}", {"tape": tape, "line": "main", "table": table})
        for table in (table.name for table in tape_tables())
    )
    return sum(value or 0.0 for value in values)


def test_the_service_tells_waiting_from_missing_and_looks_at_everything_now_and_then(place: Place) -> None:
    made = place.publish("watched", 26, sinks=("lake",))
    watch = Reconciler(place.settings, place.servers, place.store_url, OUT)

    def look(now_s: float) -> TapeWatch:
        return watch.look("watched", None, now_s)[0]

    tapes = {one.tape for one in watch.look(None, None, 9_990.0)}
    assert tapes == set(place.admin.tapes.names()) >= {"watched"}, "without a name, every tape"
    one = look(10_000.0)
    assert one.report is not None
    assert (one.report.missing, one.report.duplicate) == (0, 0)
    rows = sum(m.envelope.count for m in made.topics["watched.mbo.v1"] if m.envelope.kind == "data")
    assert one.report.tables["mbo"].waiting == rows
    assert seen("watched", "waiting") >= rows
    place.drain("watched", ("clickhouse",))
    place.admin.complete(place.known("watched"), "main")
    one = look(10_010.0)
    assert one.report is not None
    assert (one.report.clean, one.report.waiting, seen("watched", "waiting")) == (True, 0, 0.0)
    assert look(10_020.0).report.tables["mbo"].topic_rows == 0, "what was right is not read again"  # type: ignore[union-attr]
    bins = next(n for n in place.lake.names("watched.main.bins.v1/"))
    good = place.lake.get(bins) or b""
    place.lake.put(bins, b"PAR1")
    assert look(10_030.0).report.clean  # type: ignore[union-attr]
    one = look(10_020.0 + WHOLE_EVERY_S)
    assert one.report is not None
    assert one.report.damaged == (bins,)
    assert seen("watched", "damaged") == 1
    assert seen("watched", "missing") > 0
    place.lake.put(bins, good)
    assert look(10_030.0 + WHOLE_EVERY_S).report.clean  # type: ignore[union-attr]
    assert seen("watched", "damaged") == 0
    # A part that is away is said, and looked at again.
    gone = Reconciler(place.settings, place.servers, "http://127.0.0.1:9", OUT)
    assert "no ClickHouse answers" in gone.look("watched", None, 1.0)[0].failure
    assert "watched/main" in str(list(watch.table().columns[0].cells))


def test_a_tape_is_made_again_from_the_lake_and_nothing_is_written_twice(place: Place) -> None:
    place.publish("again", 22)
    before, objects = place.content("again", bootstrap_servers=place.servers), list(place.lake.names())
    tape_id, ids = place.known("again").tape_id, place.known("again").topic_ids
    job = Backfill(place.settings, place.servers, "again", place.lake, OUT)
    with pytest.raises(InputError, match="holds messages; give --replace"):
        job.run()
    TopicAdmin(place.servers).delete(list(of_tape("again")))
    place.admin.tapes.delete("again")  # the lake knows the tape
    result = Backfill(place.settings, place.servers, "again", place.lake, OUT).run()
    assert (result["tape_id"], result["base"], result["state"]) == (tape_id, (0,), "finished")
    known = place.known("again")
    assert known.lines["main"].complete
    assert not set(known.topic_ids.values()) & set(ids.values())
    assert place.content("again", bootstrap_servers=place.servers) == before
    place.drain("again")
    assert place.compared("again").clean
    assert list(place.lake.names()) == objects
    # Again, over the topics that are there.
    assert Backfill(place.settings, place.servers, "again", place.lake, OUT).run(replace_topics=True)["base"] == (0,)
    assert place.content("again", bootstrap_servers=place.servers) == before


def test_records_are_compared_by_id_in_the_store_and_by_message_in_the_lake(place: Place) -> None:
    place.publish("noted", 27, blocks=5)
    report = place.compared("noted")
    assert report.clean
    for name in RECORDS:
        table = report.tables[name]
        assert (table.topic_rows, table.store_rows, table.lake_rows, table.messages) == (7, 7, 14, 14)
    with closing(open_store(place.store_url)) as client:
        client.command("ALTER TABLE gaps DELETE WHERE tape = 'noted' AND id = 'gap-3'", settings={"mutations_sync": 2})
        client.command(
            "INSERT INTO events SELECT * REPLACE (9 AS seq) FROM events WHERE tape = 'noted' AND id = 'event-2'"
        )
    name = next(n for n in place.lake.names("noted.dead_letters.v1/"))
    place.lake.delete(name)
    report = place.compared("noted")
    found = {n: (t.missing, t.duplicate, t.lake_messages_missing) for n, t in report.tables.items() if n in RECORDS}
    assert found == {"gaps": (1, 0, 0), "events": (0, 1, 0), "dead_letters": (14, 0, 14)}


def test_clickhouse_is_filled_from_the_lake_below_the_start_of_the_log(place: Place) -> None:
    made = place.publish("below", 28, sinks=("lake",))
    for topic in of_tape("below"):
        trim(place.servers, topic, len(made.topics[topic]) * 2 // 3)
    with pytest.raises(HoleError):
        place.fill("below", "clickhouse", lake="")
    place.fill("below", "clickhouse", lake=str(place.lake.root))
    report = place.compared("below")
    assert report.clean, report
    assert report.tables["mbo"].store_rows == sum(
        m.envelope.count for m in made.topics["below.mbo.v1"] if m.envelope.kind == "data"
    )


def test_a_tape_without_a_log_and_with_deletions_is_filled_from_the_lake(place: Place) -> None:
    made = place.publish("gone", 29)
    eraser = Eraser(place.settings, place.known("gone"), place.servers, OUT)
    eraser.erase(eraser.find(Wish("X:A")), place.store_url)
    for topic in of_tape("gone"):
        trim(place.servers, topic, len(made.topics[topic]))
    # A new store would have another identity, and no tokens; here both are forgotten.
    with closing(open_store(place.store_url)) as client:
        drop_tape(client, "gone")
        assert client.command("SELECT count() FROM mbo WHERE tape = 'gone'") == 0
    drop_progress(LocalObjectStore(place.settings.state_dir), place.known("gone").tape_id)
    with closing(open_store(place.store_url)) as client:
        for table in tape_tables():
            client.command(f"ALTER TABLE {table.name} MODIFY SETTING non_replicated_deduplication_window = 0")
        try:
            place.fill("gone", "clickhouse", lake=str(place.lake.root))
        finally:
            for table in tape_tables():
                client.command(
                    f"ALTER TABLE {table.name} MODIFY SETTING non_replicated_deduplication_window = {WINDOW}"
                )
    report = place.compared("gone")
    assert report.clean, report
    with closing(open_store(place.store_url)) as client:
        assert client.query("SELECT DISTINCT instrument FROM mbo WHERE tape = 'gone'").result_rows == [("X:B",)]


def test_a_topic_that_is_only_declared_has_table_lake_and_reconciler(
    place: Place, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    columns = (
        Column("ts_ns", "i8", "ns", "time of the reading"),
        Column("pressure", "f8", "lots/s", "a vector", 3),
        Column("state", "i1", "code", "state"),
    )
    weather = TopicSpec(
        "weather", "line", 1, "instrument", "Arrow", "weather stage", ("sinks",), columns=columns, times=("ts_ns",)
    )
    monkeypatch.setattr(topics, "CATALOGUE", (*topics.CATALOGUE, weather))
    monkeypatch.setitem(TABLES, "weather", row_table(weather))
    with closing(open_store(place.store_url)) as client:
        assert "weather" in apply_ddl(client).changed
    made = place.publish("declared", 30, extra=("weather", columns))
    rows = sum(m.envelope.count for p, m in first_of_each(made.topics["declared.main.weather.v1"], False).items())
    report = place.compared("declared")
    assert report.clean, report
    table = report.tables["weather"]
    assert table.topic_rows == table.store_rows == table.lake_rows == rows > 0
    before = place.content("declared", bootstrap_servers=place.servers)
    assert before == place.content("declared", lake=place.lake)
    result = Backfill(place.settings, place.servers, "declared", place.lake, OUT).run(replace_topics=True)
    assert result["messages"]["weather"] == len(before["weather"])
    assert place.content("declared", bootstrap_servers=place.servers) == before
    assert export(
        place.known("declared"), "main", "weather", tmp_path / "w.parquet", lake=place.lake
    )["records"] == rows  # fmt: skip
    name = next(n for n in place.lake.names("declared.main.weather.v1/"))
    place.lake.delete(name)
    assert place.compared("declared").tables["weather"].lake_messages_missing > 0
    with closing(open_store(place.store_url)) as client:
        client.command("DROP TABLE weather")


def test_a_lake_that_lacks_something_makes_no_tape_and_damage_is_counted(place: Place) -> None:
    made = place.publish("lacking", 23)
    before = place.content("lacking", bootstrap_servers=place.servers)

    def refused(told: str) -> None:
        with pytest.raises(BarographError, match=told):
            Backfill(place.settings, place.servers, "lacking", place.lake, OUT).run(replace_topics=True)
        assert place.content("lacking", bootstrap_servers=place.servers) == before

    # The last object: an age or an end cuts a lane into one object or several, as the machine is busy.
    name = [n for n in place.lake.names("lacking.mbo.v1/") if n.endswith(".parquet")][-1]
    whole = place.lake.get(name) or b""
    place.lake.delete(name)
    refused("is finished, but the lake does not hold all of it")
    assert place.compared("lacking").tables["mbo"].lake_messages_missing > 0
    place.lake.put(name, whole)
    bins = next(iter(place.lake.names("lacking.main.bins.v1/")))
    good = place.lake.get(bins) or b""
    place.lake.put(bins, good[:100])
    refused("is damaged")
    report = place.compared("lacking")
    assert (report.damaged, report.clean) == ((bins,), False)
    place.lake.put(bins, good)
    producer = CheckedProducer(place.servers)
    last = made.topics["lacking.mbo.v1"][-1]
    producer.send(Outgoing(last.topic, 0, last.instrument, b"", last.envelope))
    producer.flush()
    before = place.content("lacking", bootstrap_servers=place.servers)
    refused("holds messages that the lake does not")


def test_an_instrument_is_deleted_everywhere_and_nothing_else_moves(place: Place, tmp_path: Path) -> None:
    place.publish("part", 24)
    before = place.content("part", bootstrap_servers=place.servers)
    eraser = Eraser(place.settings, place.known("part"), place.servers, OUT)
    with pytest.raises(InputError, match="has no instrument 'X:C'"):
        eraser.find(Wish("X:C"))
    for day, told in (("2024-13-01", "is no day"), ("2024-01-01", "has nothing of X:A on")):
        with pytest.raises(InputError, match=told):
            eraser.find(Wish("X:A", day))
    for _ in range(2):  # the second time ends what an interrupted first one left; here nothing
        record = eraser.erase(eraser.find(Wish("X:A")), place.store_url)
        known = place.known("part")
        assert [(d.instrument, d.day) for d in known.deletions] == [("X:A", "")]
        stays = {
            stream: found if stream in RECORDS else [m for m in found if m[2].instrument != "X:A"]
            for stream, found in before.items()
        }
        assert place.content("part", bootstrap_servers=place.servers, lake=place.lake) == stays
        assert place.content("part", lake=place.lake) == stays
        report = place.compared("part")
        assert report.clean, report
    with closing(open_store(place.store_url)) as client:
        for table in TABLES:
            found = client.query(f"SELECT DISTINCT instrument FROM {table} WHERE tape = 'part'").result_rows
            assert {r[0] for r in found} <= {"X:B"}, table
    for name in place.lake.names("part.mbo.v1/"):
        data = place.lake.get(name) or b""
        if name.endswith(".parquet"):
            assert "X:A" not in pl.read_parquet(data)["instrument"].to_list()
    audit = [json.loads(LocalObjectStore(place.settings.state_dir).get(n) or b"")
             for n in LocalObjectStore(place.settings.state_dir).names(f"{AUDIT}/")]  # fmt: skip
    mine = [a for a in audit if a["tape"] == "part"]
    assert len(mine) == 2
    assert all(a["done"] and a["by"] and a["ranges"][0]["instrument"] == "X:A" for a in mine)
    assert record["record"] in {a["record"] for a in mine}
    # The first message of the raw topic was X:A's definition: a prefix of one goes from Kafka too.
    assert record["kafka_trimmed_to"] == {} or all(v > 0 for v in record["kafka_trimmed_to"].values())
    first = next(iter(read_range(place.servers, "part.mbo.v1", 0, 1)))
    assert first.offset == 1
    # And the tape can be made again without it.
    result = Backfill(place.settings, place.servers, "part", place.lake, OUT).run(replace_topics=True)
    assert result["base"] == (1,)
    assert place.content("part", bootstrap_servers=place.servers, lake=place.lake) == stays
    place.drain("part")
    assert place.compared("part").clean
    done = export(place.known("part"), "main", "mbo", tmp_path / "x.dbn.zst", servers=place.servers, lake=place.lake)
    kept = b"".join(m[2].value for m in stays["mbo"] if m[2].envelope.kind == "data")
    assert done["records"] == len(np.frombuffer(kept, MBO_DTYPE))


def test_a_day_goes_and_definitions_and_ends_stay(place: Place) -> None:
    place.publish("day", 25)
    before = place.content("day", bootstrap_servers=place.servers)
    eraser = Eraser(place.settings, place.known("day"), place.servers, OUT)
    eraser.erase(eraser.find(Wish(day="1970-01-01")), place.store_url)
    stays = {
        s: found if s in RECORDS else [m for m in found if m[2].envelope.kind in ("definition", "end")]
        for s, found in before.items()
    }
    assert place.content("day", bootstrap_servers=place.servers, lake=place.lake) == stays
    assert place.content("day", lake=place.lake) == stays
    report = place.compared("day")
    assert report.clean, report
    assert report.tables["bins"].topic_rows == sum(m[2].envelope.count for m in stays["bins"])


def test_what_is_open_is_not_deleted_in_part(place: Place) -> None:
    with pytest.raises(InputError, match="is open: what is deleted now would be written again"):
        Eraser(place.settings, manifest("open-one"), place.servers, OUT)
