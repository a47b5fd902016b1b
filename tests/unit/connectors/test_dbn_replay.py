"""The replay producer: content is a function of the files; a restart goes on after the last message."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest

from connectors import dbn_replay
from connectors.blocks import CutRule
from connectors.dbn_errors import ManifestMismatchError
from connectors.dbn_file import DbnFile
from connectors.dbn_replay import ReplayPlan, messages_of, publish, read_tails, standing
from connectors.dbn_stats import MAX_FUTURE_NS, index_times
from connectors.dbn_verify import verify_all
from connectors.instruments import resolve
from connectors.pacer import MAX_SPEED
from connectors.simulate import write
from engine.record_time import record_times
from runtime import kafka
from runtime.codec import decode_avro
from runtime.errors import InputError
from schemas.envelope import crc32, from_headers
from schemas.mbo import F_SNAPSHOT, MBO_DTYPE
from schemas.message import Message, Outgoing

RULE = CutRule(records_max=64, span_ns=10**9, near=8)


@dataclass
class FakeBroker:
    """Keeps what is sent; refuses after `limit` messages; tells its tails."""

    limit: int = 1 << 30
    log: list[Outgoing] = field(default_factory=list)
    flushed: int = 0

    def send(self, message: Outgoing) -> None:
        if len(self.log) == self.limit:
            raise ConnectionError("the broker is gone")
        self.log.append(message)

    def flush(self) -> None:
        self.flushed = len(self.log)

    def tails(self) -> dict[int, Message]:
        out = {}
        for offset, m in enumerate(self.log):
            envelope = from_headers(m.envelope.to_headers())
            out[m.partition] = Message(m.topic, m.partition, offset, m.timestamp_ms, m.instrument, m.value, envelope)
        return out


class FakeClock:
    """Wall time that the test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def now_ns(self) -> int:
        return int(self.now * 1e9)

    def monotonic_s(self) -> float:
        return self.now


@pytest.fixture
def plan(tmp_path: Path) -> ReplayPlan:
    return plan_of([sample(tmp_path, "a", 7)])


def sample(folder: Path, name: str, seed: int) -> Path:
    path = folder / f"{name}.dbn.zst"
    write(path, records=1500, seed=seed, instruments=3, hours=0.02)
    return path


def plan_of(paths: list[Path], partitions: int = 2, rule: CutRule = RULE) -> ReplayPlan:
    reports = verify_all(paths)
    return ReplayPlan("t", reports, resolve(reports, partitions=partitions)[0], rule)


def data_of(messages: list[Outgoing], name: str) -> np.ndarray:
    values = [m.value for m in messages if m.instrument == name and m.envelope.kind == "data"]
    return np.frombuffer(b"".join(values), MBO_DTYPE)


def test_messages_are_definition_blocks_end_and_hold_every_record(plan: ReplayPlan) -> None:
    messages = list(messages_of(plan))
    (report,) = plan.reports
    for name, known in plan.instruments.items():
        mine = [m for m in messages if m.instrument == name]
        assert [m.envelope.kind for m in mine] == ["definition"] + ["data"] * (len(mine) - 2) + ["end"]
        assert {m.partition for m in mine} == {known.partition}
        records = data_of(mine, name)
        assert len(records) == report.instruments[name].records
        assert len(set(records["instrument_id"].tolist())) == 1
        times = record_times(records, None, MAX_FUTURE_NS)
        definition = decode_avro("definition", mine[0].value)
        assert (definition["instrument"], definition["tick_px"]) == (name, 250_000_000)
        assert definition["partition"] == known.partition
        assert mine[0].envelope.t == times[0]
        assert mine[-1].envelope.t == times[-1]
        at = 0
        for m in mine[1:-1]:
            block = np.frombuffer(m.value, MBO_DTYPE)
            at += len(block)
            e = m.envelope
            assert (e.count, e.crc32, e.t) == (len(block), crc32(m.value), times[at - 1])
            assert (e.ts_first, e.ts_last) == (block["ts_event"][0], block["ts_event"][-1])
            assert (e.sequence_first, e.sequence_last) == (block["sequence"][0], block["sequence"][-1])
            assert m.timestamp_ms == e.t // 10**6
            assert e.source.startswith(report.sha256[:16] + ":")
            assert e.arrived == -1
    assert [m.envelope.kind for m in messages[-3:]] == ["end"] * 3


def test_an_instrument_reads_the_same_whatever_the_partitions(tmp_path: Path) -> None:
    path = sample(tmp_path, "a", 7)
    one, two = list(messages_of(plan_of([path], 1))), list(messages_of(plan_of([path], 2)))
    for name in plan_of([path]).instruments:
        left = [m.value for m in one if m.instrument == name and m.envelope.kind != "definition"]
        assert left == [m.value for m in two if m.instrument == name and m.envelope.kind != "definition"]


@pytest.mark.parametrize("stopped_after", [0, 1, 2, 3, 10, 25, -2, -1])
def test_a_restart_goes_on_exactly_after_the_last_message(plan: ReplayPlan, stopped_after: int) -> None:
    whole = list(messages_of(plan))
    broker = FakeBroker(limit=stopped_after % len(whole) if stopped_after else 0)
    with pytest.raises(ConnectionError):
        publish(plan, broker, broker.tails())
    stood = len(broker.log)
    broker.limit = 1 << 30
    result = publish(plan, broker, broker.tails())
    assert broker.log == whole
    assert broker.flushed == len(whole)
    assert (result.messages, result.skipped, result.ended) == (len(whole) - stood, stood, True)
    again = publish(plan, broker, broker.tails())
    assert (again.messages, again.records, again.skipped, again.ended) == (0, 0, len(whole), True)
    assert broker.log == whole


def test_a_partition_that_ends_with_something_else_is_refused(plan: ReplayPlan, tmp_path: Path) -> None:
    other = FakeBroker()
    publish(plan_of([sample(tmp_path, "b", 8)]), other, {})
    broker = FakeBroker()
    with pytest.raises(InputError, match="which these files do not give"):
        publish(plan, broker, other.tails())
    tail = FakeBroker()
    publish(plan, tail, {})
    (message,) = (m for m in [tail.tails()[0]])
    changed = replace(message, envelope=replace(message.envelope, source="x"))
    with pytest.raises(InputError):
        list(standing(messages_of(plan), {0: changed}))


def test_files_follow_each_other_with_one_definition_and_one_end(
    tmp_path: Path, make_dbn: Callable[..., bytes], make_orders: Callable[..., np.ndarray]
) -> None:
    paths = []
    for day, seed in enumerate((1, 2, 3)):
        rows = make_orders(300, seed=seed)
        rows["ts_event"] += day * 10**10
        rows["ts_recv"] += day * 10**10
        paths.append(tmp_path / f"{'cab'[day]}.dbn")
        paths[-1].write_bytes(make_dbn(rows))
    plan = plan_of(paths[::-1])
    messages = list(messages_of(plan))
    kinds = [m.envelope.kind for m in messages]
    assert (kinds[0], kinds[-1]) == ("definition", "end")
    assert set(kinds[1:-1]) == {"data"}
    want = b"".join(make_dbn(make_orders(0)) and np.fromfile(p, np.uint8)[-300 * 56 :].tobytes() for p in paths)
    assert data_of(messages, "XTST.TEST:TEST").tobytes() == want


def test_files_side_by_side_are_merged_by_time(
    tmp_path: Path, make_dbn: Callable[..., bytes], make_orders: Callable[..., np.ndarray]
) -> None:
    for name, number in (("a", 7), ("b", 8)):
        rows = make_orders(400, seed=number, ids=(number,), gap_ns=10**8)
        (tmp_path / name).write_bytes(make_dbn(rows, symbols={name: number}))
    messages = list(messages_of(plan_of([tmp_path / "a", tmp_path / "b"], partitions=1)))
    data = [m for m in messages if m.envelope.kind == "data"]
    times = [m.envelope.t for m in data]
    assert max(np.maximum.accumulate(times) - times) <= RULE.span_ns
    assert len({m.instrument for m in data[:6]}) == 2


def test_files_in_sequence_are_open_one_at_a_time(
    tmp_path: Path,
    make_dbn: Callable[..., bytes],
    make_orders: Callable[..., np.ndarray],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    paths = []
    for day in range(6):  # an instrument of its own each: no shared instrument forces the sequence
        rows = make_orders(50, ids=(day,))
        rows["ts_event"] += day * 10**10
        paths.append(tmp_path / f"{day}.dbn")
        paths[-1].write_bytes(make_dbn(rows, symbols={f"S{day}": day}))
    plan = plan_of(paths)
    now_open = most = 0

    class Counted(DbnFile):
        def __enter__(self) -> "Counted":
            nonlocal now_open, most
            now_open += 1
            most = max(most, now_open)
            return self

        def __exit__(self, *error: object) -> None:
            nonlocal now_open
            now_open -= 1
            self._file.close()

    monkeypatch.setattr(dbn_replay, "DbnFile", Counted)
    assert sum(m.envelope.count for m in messages_of(plan) if m.envelope.kind == "data") == 300
    assert (now_open, most) == (0, 1)


def test_a_file_that_shares_instruments_with_two_others_comes_after_both(
    tmp_path: Path, make_dbn: Callable[..., bytes], make_orders: Callable[..., np.ndarray]
) -> None:
    symbols = {"A": 7, "B": 8}
    parts = [((7,), 0, 10**8), ((8,), 1000, 10**8), ((7, 8), 5 * 10**9, 10**7)]
    for n, (ids, shift, gap) in enumerate(parts):
        rows = make_orders(100, seed=n, ids=ids, gap_ns=gap)
        rows["ts_event"] += shift
        rows["ts_recv"] = rows["ts_event"]
        (tmp_path / str(n)).write_bytes(make_dbn(rows, symbols=symbols))
    whole = [np.fromfile(tmp_path / str(n), np.uint8)[-100 * 56 :].view(MBO_DTYPE) for n in range(3)]
    late = whole[2].copy()
    late["ts_event"] += np.uint64(whole[1]["ts_event"][-1] - late["ts_event"][0])
    (tmp_path / "2").write_bytes(make_dbn(late, symbols=symbols))
    messages = list(messages_of(plan_of([tmp_path / str(n) for n in range(3)], partitions=1)))
    for name, number in (("XTST.TEST:A", 7), ("XTST.TEST:B", 8)):
        want = np.concatenate([whole[number - 7], late[late["instrument_id"] == number]])
        assert data_of(messages, name).tobytes() == want.tobytes()


def test_a_file_that_changed_after_verification_is_refused(plan: ReplayPlan, tmp_path: Path) -> None:
    write(tmp_path / "a.dbn.zst", records=1500, seed=9, instruments=3, hours=0.02)
    broker = FakeBroker()
    with pytest.raises(ManifestMismatchError, match="changed while it was being replayed"):
        publish(plan, broker, {})
    assert not any(m.envelope.kind == "end" for m in broker.log)


def test_progress_and_pace(plan: ReplayPlan) -> None:
    seen: list[tuple[int, int]] = []
    publish(plan, FakeBroker(), {}, speed=MAX_SPEED, on_progress=lambda done, of: seen.append((done, of)))
    assert seen[-1] == (1500, 1500)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)

    clock, waits = FakeClock(), []

    class Impatient(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            waits.append(timeout or 0.0)
            clock.now += timeout or 0.0
            return False

    broker = FakeBroker()
    publish(plan, broker, {}, speed=10.0, clock=clock, stop=Impatient())
    span_s = (max(m.envelope.t for m in broker.log) - broker.log[0].envelope.t) / 1e9
    assert clock.now - 100.0 == pytest.approx(span_s / 10.0)
    assert max(waits) < 2.0


def test_a_stop_ends_between_two_messages_and_can_go_on(plan: ReplayPlan) -> None:
    stop = threading.Event()
    broker = FakeBroker()
    result = publish(plan, broker, {}, stop=stop, on_progress=lambda done, _: stop.set() if done > 500 else None)
    assert not result.ended
    assert 500 < result.records < 1500
    assert broker.flushed == len(broker.log)
    publish(plan, broker, broker.tails())
    assert broker.log == list(messages_of(plan))


def test_times_of_a_file_are_the_engines_before_lifting() -> None:
    rng = np.random.default_rng(4)
    rows = np.zeros(500, MBO_DTYPE)
    odd = [0, 5, 10**9, 10**18, (1 << 62) - 1, 1 << 62, (1 << 63) - 1, 1 << 63, (1 << 64) - 1]
    rows["ts_event"] = rng.choice(np.array(odd, np.uint64), 500)
    rows["ts_recv"] = rng.choice(np.array(odd, np.uint64), 500)
    rows["flags"] = rng.choice([0, F_SNAPSHOT], 500)
    lifted = np.maximum.accumulate(np.maximum(index_times(rows), 0))
    assert lifted.tolist() == record_times(rows, None, MAX_FUTURE_NS).tolist()


def test_tails_are_the_last_message_of_each_partition(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int, int]] = []

    class Client:
        def close(self) -> None:
            pass

    def read_range(_: str, topic: str, partition: int, start: int, stop: int) -> Iterator[Message]:
        asked.append((partition, start, stop))
        envelope = from_headers([("kind", b"end"), ("schema", b"mbo")])
        yield Message(topic, partition, start, 0, "X:Y", b"", envelope)

    monkeypatch.setattr(kafka, "consumer", lambda _: Client())
    monkeypatch.setattr(kafka, "watermarks", lambda _c, _t, partition: (0, [0, 9, 1][partition]))
    monkeypatch.setattr(kafka, "read_range", read_range)
    tails = read_tails("nowhere:1", "t.mbo.v1", 3)
    assert {p: m.offset for p, m in tails.items()} == {1: 8, 2: 0}
    assert asked == [(1, 8, 9), (2, 0, 1)]
