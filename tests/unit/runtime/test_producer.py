"""The checked producer's patience, with a client in memory whose reports come only when they are looked at."""

from typing import Any

import pytest

from runtime import kafka
from runtime.kafka import CheckedProducer, DeliveryError
from schemas.envelope import Envelope
from schemas.message import Outgoing

MESSAGE = Outgoing("t.x.mbo.v1", 0, "X", b"", Envelope("data", "mbo"))


class Client:
    """Confirms what it was given as soon as somebody looks, or never."""

    def __init__(self, *, answers: bool) -> None:
        self.answers, self.waiting, self.purged = answers, [], False  # type: list[Any]

    def produce(self, topic: str, *, value: bytes, on_delivery: Any, **_: Any) -> None:
        self.waiting.append(on_delivery)

    def poll(self, _timeout_s: float) -> None:
        while self.answers and self.waiting:
            self.waiting.pop()(None, self)

    def flush(self, timeout_s: float) -> None:
        self.poll(timeout_s)

    def purge(self) -> None:
        self.purged = True

    def value(self) -> bytes:
        return b""


def producer_over(client: Client, monkeypatch: pytest.MonkeyPatch) -> tuple[CheckedProducer, list[float]]:
    """A producer with patience for a second, and the clock that it sees."""
    now_s = [100.0]
    monkeypatch.setattr(kafka, "Producer", lambda _config: client)
    monkeypatch.setattr(kafka.time, "monotonic", lambda: now_s[0])
    return CheckedProducer("nowhere:1", timeout_s=1.0), now_s


def test_who_sends_seldom_is_not_taken_for_one_who_gets_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    producer, now_s = producer_over(Client(answers=True), monkeypatch)
    for _ in range(2 * kafka.REPORTS_EVERY):
        producer.send(MESSAGE)
        now_s[0] += 3600.0
    producer.flush()
    assert producer.sent == producer.confirmed == 2 * kafka.REPORTS_EVERY


def test_who_gets_no_answer_fails_with_all_that_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client(answers=False)
    producer, now_s = producer_over(client, monkeypatch)
    producer.send(MESSAGE)
    now_s[0] += 0.9
    producer.send(MESSAGE)
    now_s[0] += 0.2
    with pytest.raises(DeliveryError, match="2 message"):
        producer.send(MESSAGE)
    assert client.purged
