"""The two mends of Faust's consumer, without a broker: beside each, what the library does without it."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from types import SimpleNamespace
from typing import Any

import pytest
from faust.transport.drivers import aiokafka as driver
from faust.types import TP

from streams import faust_consumer
from streams.faust_consumer import DRAINED_WAIT_S, FULL_BUFFERS_WAIT_S, Consumer

A, B, C = (TP("t.mbo.v1", partition) for partition in range(3))
FOUND = {A: ["a record"]}


class Thread:
    """What Faust's consumer asks of its Kafka client: partitions and positions."""

    def __init__(self, assigned: set[TP], committed: Mapping[TP, int]) -> None:
        self.assigned, self.committed = assigned, committed
        self.sought: list[dict[TP, int]] = []

    def assignment(self) -> set[TP]:
        return self.assigned

    async def seek_to_committed(self) -> Mapping[TP, int]:
        return self.committed

    async def seek_wait(self, partitions: Mapping[TP, int]) -> None:
        self.sought.append(dict(partitions))


class Fake(Consumer):
    """The real consumer with its broker, its app and its sleep replaced; records what they are asked."""

    def __init__(self, active: set[TP], buffered: set[TP]) -> None:
        self.app: Any = SimpleNamespace(client_only=False)
        self.flow_active, self._active_partitions, self._buffered_partitions = True, active, buffered
        self.not_waiting_next_records: Any = asyncio.Event()
        self.timeouts: list[float] = []
        self.slept: list[float] = []

    async def _getmany(self, active_partitions: set[TP] | None, timeout: float) -> Any:
        self.timeouts.append(timeout)
        return FOUND

    async def sleep(self, n: Any, **_: Any) -> None:
        self.slept.append(n)


Wait = Callable[..., Awaitable[Any]]


def waited(wait: Wait, active: set[TP], buffered: set[TP]) -> tuple[Any, Fake]:
    """The answer of a consumer that may wait for a second, and the consumer."""

    async def run() -> tuple[Any, Fake]:
        consumer = Fake(active, buffered)
        return await wait(consumer, 1.0), consumer

    return asyncio.run(run())


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Pauses that the mend asks for; none is waited."""
    asked: list[float] = []

    async def sleep(seconds: float) -> None:
        asked.append(seconds)

    monkeypatch.setattr(faust_consumer, "asyncio", SimpleNamespace(sleep=sleep))
    return asked


def test_full_buffers_are_looked_at_again_at_once(pauses: list[float]) -> None:
    answer, consumer = waited(Consumer._wait_next_records, set(), {A, B})
    assert answer == (None, None)
    assert pauses == [FULL_BUFFERS_WAIT_S]
    assert consumer.slept == []
    assert consumer.timeouts == []


def test_without_the_mend_full_buffers_cost_a_second() -> None:
    _, consumer = waited(driver.Consumer._wait_next_records, set(), {A, B})
    assert consumer.slept == [1], "the library is mended: remove the pause of full buffers"


def test_a_buffer_that_drains_during_the_pause_is_read_in_the_same_call(monkeypatch: pytest.MonkeyPatch) -> None:
    active: set[TP] = set()

    async def drain(_: float) -> None:
        active.add(A)

    monkeypatch.setattr(faust_consumer, "asyncio", SimpleNamespace(sleep=drain))
    answer, consumer = waited(Consumer._wait_next_records, active, {B})
    assert answer == (FOUND, {A})
    assert consumer.slept == []


@pytest.mark.parametrize(("buffered", "timeout"), [({B}, DRAINED_WAIT_S), (set(), 1.0)])
def test_a_drained_partition_never_holds_up_a_full_one(buffered: set[TP], timeout: float, pauses: list[float]) -> None:
    answer, consumer = waited(Consumer._wait_next_records, {A}, buffered)
    assert answer == (FOUND, {A})
    assert consumer.timeouts == [timeout]
    assert pauses == consumer.slept == []


def test_without_the_mend_a_drained_partition_holds_up_a_full_one() -> None:
    _, consumer = waited(driver.Consumer._wait_next_records, {A}, {B})
    assert consumer.timeouts == [1.0], "the library is mended: remove the wait for drained partitions"


def sought(monkeypatch: pytest.MonkeyPatch, start_at: dict[TP, int]) -> tuple[Mapping[TP, int], Thread]:
    """What a consumer that owns A and B seeks to, with 5 committed on A and nothing on B."""
    monkeypatch.setattr(Consumer, "start_at", start_at)
    consumer, thread = Fake({A, B}, set()), Thread({A, B}, {A: 5})
    consumer._thread = thread  # type: ignore[assignment]
    return asyncio.run(consumer.seek_to_committed()), thread


def test_the_checkpoints_own_offsets_are_sought_and_returned(monkeypatch: pytest.MonkeyPatch) -> None:
    offsets, thread = sought(monkeypatch, {A: 0, B: 9, C: 3})
    assert thread.sought == [{A: 0, B: 9}], "an offset of 0 too, and no partition of another owner"
    assert offsets == {A: 0, B: 9}


def test_what_no_checkpoint_says_stays_as_committed(monkeypatch: pytest.MonkeyPatch) -> None:
    offsets, thread = sought(monkeypatch, {C: 3})
    assert thread.sought == []
    assert offsets == {A: 5}


def test_apps_get_the_mended_consumer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver.Transport, "Consumer", driver.Consumer)
    faust_consumer.install()
    assert driver.Transport.Consumer is Consumer
