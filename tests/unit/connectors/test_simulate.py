"""The invented market: deterministic, labelled, and a book that obeys the rules of a venue."""

from collections import deque
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from connectors import market_kernels
from connectors.dbn_file import DbnFile
from connectors.dbn_verify import require_mbo, verify
from connectors.market_model import SyntheticMarket, stream
from connectors.simulate import START_NS, write
from connectors.synthetic import TICK_PX
from runtime.errors import InputError
from schemas.mbo import F_LAST, F_SNAPSHOT
from schemas.units import UNDEF_PRICE


def records_of(path: Path) -> np.ndarray:
    with DbnFile(path) as file:
        return np.concatenate([run.mbo() for run in file.runs()])


class Book:
    """A venue's book with queues, which refuses what a venue would not send."""

    def __init__(self) -> None:
        self.orders: dict[int, list[int]] = {}
        self.queues: dict[tuple[bytes, int], deque[int]] = {}
        self.newest = 0
        self.owed: dict[int, int] = {}

    def apply(self, action: bytes, side: bytes, px: int, size: int, order_id: int) -> None:
        match action:
            case b"A":
                assert order_id > self.newest
                assert size > 0
                assert px % TICK_PX == 0
                self.newest = order_id
                self.orders[order_id] = [side[0], px, size]
                self.queues.setdefault((side, px), deque()).append(order_id)
            case b"F":
                best = max(p for s, p in self.queues if s == b"B") if side == b"B" else self.best(b"A")
                assert px == best
                assert self.queues[side, px][0] == order_id, "fills go to the front of the best level"
                assert size <= self.orders[order_id][2]
                self.owed[order_id] = size
            case b"C":
                order = self.orders[order_id]
                assert (order[0], order[1]) == (side[0], px)
                assert self.owed.pop(order_id, size) == size
                order[2] -= size
                assert order[2] >= 0
                if order[2] == 0:
                    self.leave(order_id)
            case b"M":
                order = self.orders[order_id]
                owed = self.owed.pop(order_id, 0)
                assert not owed or (order[2] - size, order[1]) == (owed, px)
                assert size > 0
                if px != order[1] or size > order[2]:
                    self.leave(order_id)
                    self.orders[order_id] = [side[0], px, size]
                    self.queues.setdefault((side, px), deque()).append(order_id)
                order[2] = size
            case b"R":
                assert not self.orders

    def leave(self, order_id: int) -> None:
        side, px, _ = self.orders.pop(order_id)
        queue = self.queues[bytes([side]), px]
        queue.remove(order_id)
        if not queue:
            del self.queues[bytes([side]), px]

    def best(self, side: bytes) -> int:
        prices = [p for s, p in self.queues if s == side]
        return max(prices) if side == b"B" else min(prices)


@pytest.mark.parametrize(("records", "instruments", "seed"), [(12_000, 1, 1), (9_000, 3, 2), (400, 2, 3)])
def test_every_record_is_one_that_a_venue_could_send(tmp_path: Path, records: int, instruments: int, seed: int) -> None:
    path = tmp_path / "s.dbn.zst"
    write(path, records=records, seed=seed, instruments=instruments, hours=0.05)
    rows = records_of(path)
    assert len(rows) == records
    books = {number + 1: Book() for number in range(instruments)}
    for row in rows[["instrument_id", "action", "side", "price", "size", "order_id", "flags"]].tolist():
        number, action, side, px, size, order_id, flags = row
        books[number].apply(action, side, px, size, order_id)
        if flags & F_LAST:
            assert not books[number].owed
            assert books[number].best(b"B") < books[number].best(b"A")
    assert (np.diff(rows["ts_recv"].astype(np.int64)) >= 0).all()
    for number in books:
        mine = rows[rows["instrument_id"] == number]
        assert (np.diff(mine["ts_event"].astype(np.int64)) >= 0).all()
        assert (np.diff(mine["sequence"].astype(np.int64)) >= 0).all()
        assert mine["action"][0] == b"R"
        assert mine["price"][0] == UNDEF_PRICE
        snapshot = (mine["flags"] & F_SNAPSHOT) != 0
        assert snapshot[: snapshot.sum()].all()
        assert mine["flags"][snapshot][-1] & F_LAST
    assert rows["flags"][-1] & F_LAST


def test_a_long_market_shows_everything_the_model_promises(tmp_path: Path) -> None:
    write(tmp_path / "s.dbn", records=200_000, seed=7, hours=0.1)
    rows = records_of(tmp_path / "s.dbn")
    share = {a: float((rows["action"] == a).mean()) for a in (b"A", b"C", b"M", b"T", b"F")}
    assert share[b"T"] == share[b"F"]
    assert 0.01 < share[b"T"] < 0.08
    assert 0.03 < share[b"M"] < 0.12
    assert 0.3 < share[b"A"] < 0.55
    trades = rows["price"][rows["action"] == b"T"]
    assert 10 < (trades.max() - trades.min()) // TICK_PX < 400
    walls = rows[(rows["action"] == b"A") & (rows["size"] >= 150)]
    pulled = rows[(rows["action"] == b"C") & np.isin(rows["order_id"], walls["order_id"])]
    assert len(walls) > 50
    assert len(pulled) > len(walls) // 3
    gaps = np.diff(rows["ts_event"][rows["flags"] == F_LAST].astype(np.int64))
    assert np.std(gaps) > 1.5 * np.mean(gaps), "burstier than exponential"
    hours = (int(rows["ts_event"][-1]) - START_NS) / 3.6e12
    assert 0.05 < hours < 0.2


def test_same_arguments_same_records_on_every_machine(tmp_path: Path) -> None:
    one = write(tmp_path / "a.dbn", records=5000, seed=11, instruments=2, hours=0.1)
    two = write(tmp_path / "b.dbn.zst", records=5000, seed=11, instruments=2, hours=0.1)
    other = write(tmp_path / "c.dbn", records=5000, seed=12, instruments=2, hours=0.1)
    assert one["records_sha256"] == two["records_sha256"] != other["records_sha256"]
    assert one["records_sha256"] == "6512d00cecb5e9f237baddab555f342ad6783f502e07bdcdabefb49c3c1fba8c"
    assert market_kernels.tables_sha256() == "b8f03cb3e2c2919d3b5fc7b563353ba32a662b9f7ae7ebb083adb10d16cc88db"


@pytest.mark.parametrize("cuts", [[1], [3, 7], list(range(1, 200))])
def test_the_market_does_not_depend_on_how_time_is_cut(cuts: list[int]) -> None:
    step = 50_000_000
    whole = SyntheticMarket(5, 2, START_NS, 2000.0).until(START_NS + 200 * step)
    market = SyntheticMarket(5, 2, START_NS, 2000.0)
    pieces = [market.until(START_NS + at * step) for at in [*cuts, 200]]
    assert np.concatenate(pieces).tobytes() == whole.tobytes()
    assert len(whole) > 10_000


def test_the_stream_goes_on_in_steps() -> None:
    endless = stream(3, 2, START_NS, records_per_s=500.0, step_ns=10**8)
    steps = [next(endless) for _ in range(50)]
    assert [t for t, _ in steps] == [START_NS + n * 10**8 for n in range(1, 51)]
    assert sum(len(r) for _, r in steps) > 3000


def test_the_file_is_labelled_and_whole(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    found = write(
        tmp_path / "s.dbn.zst", records=3000, instruments=2, on_progress=lambda done, of: seen.append((done, of))
    )
    report = verify(tmp_path / "s.dbn.zst")
    require_mbo(report)
    assert report.dataset == "SYNTH.BARO"
    assert list(report.instruments) == found["instruments"] == ["SYNTH.BARO:SYN0", "SYNTH.BARO:SYN1"]
    assert (report.version, report.records, report.sha256) == (3, 3000, found["sha256"])
    assert seen[-1] == (3000, 3000)
    assert [p.name for p in tmp_path.iterdir()] == ["s.dbn.zst"]


@pytest.mark.parametrize("wrong", [{"records": 10}, {"instruments": 0}, {"hours": 0.0}, {"seed": -1}])
def test_senseless_arguments_are_refused(tmp_path: Path, wrong: dict[str, int]) -> None:
    with pytest.raises(InputError, match="make no market"):
        write(tmp_path / "s.dbn", **wrong)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_not_there_is_one_sentence(tmp_path: Path, make_dbn: Callable[..., bytes]) -> None:
    with pytest.raises(InputError, match="cannot be written"):
        write(tmp_path / "no" / "s.dbn", records=1000)
